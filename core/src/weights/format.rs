//! weights.format: as the file has them, or encoded anew while loading.

use super::nf4;
use crate::blocks::{BlockType, Scheme};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::schema::{self, About, Entry, Knobs, ON_ALL, axes};
use crate::shape::{ModelShape, Role, TensorShape};

/// What the weights of a model become in memory. Vectors (norms, biases, rope divisors) are always held as f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// As in the file.
    Original,
    /// Every matrix in this scheme.
    All(Scheme),
    /// The linears of layers in this scheme; embedding and head as in the file.
    Linears(Scheme),
}

impl Target {
    /// Every matrix in blocks of this type.
    pub const fn block(ty: BlockType) -> Self {
        Self::All(Scheme::Block(ty))
    }

    /// The scheme, where it is not the file's.
    pub const fn scheme(self) -> Option<Scheme> {
        match self {
            Self::Original => None,
            Self::All(scheme) | Self::Linears(scheme) => Some(scheme),
        }
    }
}

static ORIGINAL: Entry<Target> = Entry {
    about: About {
        id: "original",
        title: "As in the file",
        common: true,
        paper: "the model file",
        sentence: "Weights are held as the file stores them.",
        runs_on: ON_ALL,
        ..About::on(&axes::WEIGHTS_FORMAT)
    },
    build: |_| Ok(Box::new(Target::Original)),
};

macro_rules! formats {
    ([$($own:path),*] $($name:ident = $ty:ident $id:literal $common:literal $paper:literal $sentence:literal;)+) => {
        $(static $name: Entry<Target> = Entry {
            about: About {
                id: $id,
                title: $id,
                common: $common,
                paper: $paper,
                sentence: $sentence,
                runs_on: ON_ALL,
                ..About::on(&axes::WEIGHTS_FORMAT)
            },
            build: |_| Ok(Box::new(Target::block(BlockType::$ty))),
        };)+
        /// The variants.
        pub const ENTRIES: &[&Entry<Target>] = &[&ORIGINAL, $(&$name),+ $(, &$own)*];
    };
}

formats! {
    [nf4::ENTRY]
    Q8_0 = Q8_0 "q8_0" true "ggml" "8-bit integers with one scale for 32 weights: 8.5 bits a weight, near lossless.";
    Q6_K = Q6K "q6_k" true "ggml k-quants" "6-bit integers with 8-bit scales in super-blocks of 256: 6.56 bits a weight.";
    Q5_K = Q5K "q5_k" false "ggml k-quants" "5-bit integers with 6-bit scales and minima in super-blocks of 256: 5.5 bits a weight.";
    Q5_1 = Q5_1 "q5_1" false "ggml" "5-bit integers with scale and minimum for 32 weights: 6 bits a weight.";
    Q5_0 = Q5_0 "q5_0" false "ggml" "5-bit integers with one scale for 32 weights: 5.5 bits a weight.";
    Q4_K = Q4K "q4_k" true "ggml k-quants" "4-bit integers with 6-bit scales and minima in super-blocks of 256: 4.5 bits a weight.";
    Q4_1 = Q4_1 "q4_1" false "ggml" "4-bit integers with scale and minimum for 32 weights: 5 bits a weight.";
    Q4_0 = Q4_0 "q4_0" true "ggml" "4-bit integers with one scale for 32 weights: 4.5 bits a weight.";
    IQ4_NL = Iq4Nl "iq4_nl" false "ggml" "4-bit codes into 16 uneven levels with one scale for 32 weights: 4.5 bits a weight.";
    MXFP4 = Mxfp4 "mxfp4" false "OCP Microscaling formats" "4-bit floats with one power-of-two scale for 32 weights: 4.25 bits a weight.";
    Q3_K = Q3K "q3_k" false "ggml k-quants" "3-bit integers with 6-bit scales in super-blocks of 256: 3.44 bits a weight.";
    Q2_K = Q2K "q2_k" false "ggml k-quants" "2-bit integers with 4-bit scales and minima in super-blocks of 256: 2.63 bits a weight.";
    F16 = F16 "f16" true "IEEE 754 binary16" "Two bytes a weight.";
    BF16 = Bf16 "bf16" false "bfloat16" "Two bytes a weight, with the range of f32 and 8 bits of precision.";
    F32 = F32 "f32" false "IEEE 754 binary32" "Four bytes a weight; what other formats decode to, held decoded.";
}

impl Entry<Target> {
    /// The scheme of matrices with default knobs; `None` for weights as they are in the file.
    pub fn scheme(&self) -> Option<Scheme> {
        let knobs = self.settle(self.axis.key, &Knobs::default()).ok()?;
        (self.build)(&knobs).ok()?.scheme()
    }
}

/// What every tensor of a model becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Formats {
    target: Target,
    /// Patterns of names and what matches them becomes, with the key of each; the first that matches decides.
    overrides: Vec<(String, String, Target)>,
}

impl From<Target> for Formats {
    fn from(target: Target) -> Self {
        Self { target, overrides: Vec::new() }
    }
}

/// Whether `name` is what `pattern` says: `*` stands for any letters, none included, and `?` for one.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern, name) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => (0..=name.len()).any(|at| matches(rest, &name[at..])),
        ([b'?', pattern @ ..], [_, name @ ..]) => matches(pattern, name),
        ([a, pattern @ ..], [b, name @ ..]) => a == b && matches(pattern, name),
        _ => false,
    }
}

/// Longest pattern that is read, and most stars in it: matching stays quick whatever it says.
const MOST: (usize, usize) = (200, 8);

/// Whether `pattern` means the tensor `name`, whose `.weight` may be left out.
fn means(pattern: &str, name: &str) -> bool {
    let short = name.strip_suffix(".weight").unwrap_or(name);
    [name, short].iter().any(|name| matches(pattern.as_bytes(), name.as_bytes()))
}

impl Formats {
    /// What `config` asks for.
    ///
    /// # Errors
    /// Names the key, the value and what is allowed.
    pub fn new(config: &Config) -> Result<Self> {
        let target = *schema::build(ENTRIES, "weights.format", &config.weights.format)?;
        let mut overrides = Vec::new();
        for ((key, choice), o) in config.weights.overridden().zip(&config.weights.overrides) {
            let key_of = key.replace(".format", ".tensors");
            if o.tensors.len() > MOST.0 || o.tensors.matches('*').count() > MOST.1 {
                return Err(Error::config(
                    key_of,
                    format!("is too long a pattern; at most {} letters and {} stars", MOST.0, MOST.1),
                ));
            }
            // Every matrix that the pattern names, wherever it is.
            let target = match *schema::build(ENTRIES, &key, choice)? {
                Target::Linears(scheme) => Target::All(scheme),
                target => target,
            };
            overrides.push((key_of, o.tensors.clone(), target));
        }
        Ok(Self { target, overrides })
    }

    /// The shape as it will be in memory.
    ///
    /// # Errors
    /// A tensor whose rows are not whole units of its scheme, named with what its width allows; a pattern that no matrix matches.
    pub fn held(&self, stored: &ModelShape) -> Result<ModelShape> {
        for (key, pattern, _) in &self.overrides {
            let mut named = stored.tensors().filter(|t| means(pattern, &t.name)).peekable();
            let some = named.peek().map(|t| t.name.clone());
            if named.any(|t| t.rows > 1) {
                continue;
            }
            return Err(Error::config(
                key,
                match some {
                    Some(name) => {
                        format!("`{pattern}` names only vectors such as {name}, which are always held as f32")
                    }
                    None => format!(
                        "`{pattern}` matches no tensor of {}; names are as in GGUF, such as {} (`ullage inspect` lists them)",
                        stored.name, stored.embedding.name
                    ),
                },
            ));
        }
        let mut out = stored.clone();
        for t in out.tensors_mut() {
            t.ty = self.of(t)?;
        }
        Ok(out)
    }

    /// The scheme that holds `t`, a tensor as it is stored.
    ///
    /// # Errors
    /// As [`Self::held`].
    pub fn of(&self, t: &TensorShape) -> Result<Scheme> {
        if t.rows == 1 {
            return Ok(BlockType::F32.into());
        }
        let own = self.overrides.iter().find(|(_, pattern, _)| means(pattern, &t.name));
        let (key, target) = own.map_or(("weights.format", self.target), |(key, _, target)| (key, *target));
        let scheme = match target {
            // A router decides which experts compute at all, and is too small to matter.
            _ if own.is_none() && t.name.ends_with(Role::Router.gguf()) => return Ok(t.ty),
            Target::All(scheme) => scheme,
            Target::Linears(scheme) if t.name.starts_with("blk.") => scheme,
            Target::Original | Target::Linears(_) => return Ok(t.ty),
        };
        if scheme.bytes(t.rows, t.cols).is_some() {
            return Ok(scheme);
        }
        let fits = |entry: &&&Entry<Target>| entry.scheme().is_some_and(|s| s.bytes(t.rows, t.cols).is_some());
        let allowed: Vec<_> = ENTRIES.iter().filter(fits).map(|e| e.id).collect();
        Err(Error::refused(
            format!("{} = {scheme}", key.replace(".tensors", ".format")),
            format!(
                "`{scheme}` stores blocks of {} weights, and rows of {} have {}; this model's widths allow: {}",
                scheme.unit(),
                t.name,
                t.cols,
                allowed.join(", ")
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::from_toml;
    use crate::model::random;

    fn held(text: &str, model: &str) -> Result<ModelShape> {
        let shape = random::shape(&random::parse(&format!("random:{model}")).unwrap().unwrap()).unwrap();
        Formats::new(&from_toml(text, &[])?)?.held(&shape)
    }

    #[test]
    fn patterns_are_globs_over_names_with_or_without_weight() {
        for (pattern, name, is) in [
            ("blk.*.ffn_down", "blk.11.ffn_down.weight", true),
            ("blk.*.ffn_down.weight", "blk.11.ffn_down.weight", true),
            ("blk.?.ffn_down", "blk.11.ffn_down.weight", false),
            ("*", "output.weight", true),
            ("blk.1.*", "blk.11.attn_q.weight", false),
            ("*attn_?*", "blk.3.attn_v.weight", true),
            ("output", "output_norm.weight", false),
            ("", "output.weight", false),
        ] {
            assert_eq!(means(pattern, name), is, "{pattern} {name}");
        }
    }

    #[test]
    fn the_first_pattern_that_matches_decides_and_the_rest_is_the_format() {
        let text = "[weights]\nformat = \"q4_0\"\n[[weights.override]]\ntensors = \"blk.2.ffn_*\"\nformat = \"original\"\n\
                    [[weights.override]]\ntensors = \"blk.*.ffn_down\"\nformat = \"q8_0\"\n";
        let shape = held(text, "smollm2-135m@f16").unwrap();
        for (l, layer) in shape.layers.iter().enumerate() {
            let ty = |role: Role| layer.tensors.get(role).unwrap().ty;
            assert_eq!(ty(Role::Down), if l == 2 { BlockType::F16 } else { BlockType::Q8_0 });
            assert_eq!(ty(Role::Up), if l == 2 { BlockType::F16 } else { BlockType::Q4_0 });
            assert!(ty(Role::Q) == BlockType::Q4_0 && ty(Role::AttnNorm) == BlockType::F32);
        }
        let config = from_toml(text, &[]).unwrap();
        assert_eq!(from_toml(&config.to_toml().unwrap(), &[]).unwrap(), config, "as TOML and back");
    }

    #[test]
    fn what_matches_nothing_or_does_not_fit_is_named() {
        let one = |pattern: &str, format: &str| {
            let text = format!("[[weights.override]]\ntensors = \"{pattern}\"\nformat = \"{format}\"\n");
            held(&text, "smollm2-135m@f16").unwrap_err().to_string()
        };
        for (pattern, format, words) in [
            ("blk.*.ffn_dwn", "q8_0", &["weights.override.0.tensors", "blk.*.ffn_dwn", "no tensor"][..]),
            ("blk.*.attn_norm", "q8_0", &["weights.override.0.tensors", "f32"]),
            ("blk.*.attn_q", "q4_k", &["weights.override.0.format", "256", "576", "q8_0"]),
            ("blk.*.attn_q", "q9", &["weights.override.0.format", "q9"]),
            ("*********", "q8_0", &["weights.override.0.tensors", "stars"]),
        ] {
            let error = one(pattern, format);
            assert!(words.iter().all(|w| error.contains(w)), "{error}");
        }
        let error = from_toml("[[weights.override]]\ntensor = \"x\"\nformat = \"q8_0\"\n", &[]).unwrap_err();
        assert!(error.to_string().contains("tensors"), "{error}");
    }
}
