//! Rotary position embedding (RoPE, arXiv 2104.09864): how fast each pair of a head turns with the position.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::{is_one, one};

/// One rotation: pair `i` of `dim / 2` turns by `base^(−2i/dim) / (scale · divisor_i)` a position.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rope {
    /// Rotated dimensions of each head, even; at most `head_dim`.
    pub dim: usize,
    /// Base of the frequencies, such as 10000.
    pub base: f32,
    /// Positions are divided by this (`linear` scaling); 1 for none.
    pub scale: f32,
    /// Pairs are `(2i, 2i+1)` (llama in GGUF) when true, `(i, i + dim/2)` when false.
    pub interleaved: bool,
    /// Divisors of the frequencies, one a pair (YaRN, longrope's short ones); empty for none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub divisors: Vec<f32>,
    /// Multiplied onto what is rotated (YaRN's and longrope's attention factor); 1 for none.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub amplitude: f32,
    /// Other divisors for a run with room for more tokens (longrope).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub long: Option<Long>,
    /// A larger base for a run with room for more tokens (dynamic NTK).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dynamic: Option<Dynamic>,
}

/// Dynamic NTK: beyond `from` tokens a run with room for n has its base times `(factor · n / from − factor + 1)^(dim / (dim − 2))`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dynamic {
    /// Tokens up to which the base holds.
    pub from: usize,
    /// How fast it grows beyond.
    pub factor: f32,
}

/// The divisors of longrope (arXiv 2402.13753) beyond the context it was first trained on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Long {
    /// Tokens up to which [`Rope::divisors`] hold.
    pub from: usize,
    /// One a pair.
    pub divisors: Vec<f32>,
}

impl Rope {
    /// A rotation by base alone.
    pub const fn plain(dim: usize, base: f32, interleaved: bool) -> Self {
        Self { dim, base, scale: 1.0, interleaved, divisors: Vec::new(), amplitude: 1.0, long: None, dynamic: None }
    }

    /// The divisors of a run with room for `tokens` tokens; none where they are empty. Which they are is fixed before the first
    /// token comes: keys turned one way and queries another would not meet.
    pub fn divisors(&self, tokens: usize) -> Cow<'_, [f32]> {
        match (&self.long, &self.dynamic) {
            (Some(long), _) if tokens > long.from => Cow::Borrowed(&long.divisors),
            (_, Some(d)) if tokens > d.from && self.dim > 2 => {
                let grown = f64::from(d.factor) * (tokens as f64 / d.from as f64 - 1.0) + 1.0;
                let each = |i: usize| grown.powf(2.0 * i as f64 / (self.dim - 2) as f64) as f32;
                (0..self.dim / 2).map(each).collect::<Vec<_>>().into()
            }
            _ => Cow::Borrowed(&self.divisors),
        }
    }
}
