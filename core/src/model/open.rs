//! Opening a model by what the configuration calls it: a GGUF file, a Hugging Face folder, `bundled:NAME`, or
//! `random:SHAPE@TYPE`, where the shape may be a file's.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use sha2::{Digest, Sha256};

use super::adapter::AdapterFile;
use super::chat::{ChatTemplate, SpecialTokens};
use super::gguf::Gguf;
use super::hf::HfFolder;
use super::outline;
use super::random::{self, RandomSpec, Spread};
use super::tokenizer::{Tokenizer, TokenizerSpec};
use crate::config;
use crate::error::{Error, Result};
use crate::shape::{ModelShape, TensorShape};

/// Where payload comes from.
#[derive(Debug)]
pub enum Source {
    /// A file, read by position.
    Gguf(Gguf),
    /// A folder of safetensors, read by position.
    Hf(HfFolder),
    /// Nowhere: a `config.json` alone, which is planned and not run.
    Absent {
        /// The model, for messages.
        name: String,
    },
    /// Numbers made on the device, for memory and speed.
    Random {
        /// What was asked for.
        spec: RandomSpec,
        /// How they are spread.
        spread: Spread,
        /// The file that lends its shape and words, where one does.
        like: Option<Box<Gguf>>,
    },
}

impl Source {
    /// The GGUF file whose words and metadata it has.
    pub fn gguf(&self) -> Option<&Gguf> {
        match self {
            Self::Gguf(file) => Some(file),
            Self::Random { like, .. } => like.as_deref(),
            Self::Hf(_) | Self::Absent { .. } => None,
        }
    }

    /// Reads rows `first..first + n` of `t` as stored into `out`.
    ///
    /// # Errors
    /// What the file says; a shrunken or vanished file.
    pub fn read_rows(&self, t: &TensorShape, first: usize, n: usize, out: &mut [u8]) -> Result<()> {
        match self {
            Self::Gguf(file) => {
                let info = file.tensor(&t.name).ok_or_else(|| file.error(t.name.as_str(), "the tensor is missing"))?;
                file.read_at(info, (first * t.row_bytes()) as u64, &mut out[..n * t.row_bytes()])
            }
            Self::Hf(folder) => folder.read_rows(t, first, n, out),
            Self::Absent { name } => Err(absent(name)),
            // Divisors of the rotation are no weights: they are the file's own.
            Self::Random { like: Some(file), .. } if t.name == "rope_freqs.weight" => {
                let info = file.tensor(&t.name).ok_or_else(|| file.error(t.name.as_str(), "the tensor is missing"))?;
                file.read_at(info, (first * t.row_bytes()) as u64, &mut out[..n * t.row_bytes()])
            }
            Self::Random { spec, spread, .. } => random::fill_spread(t, first..first + n, spec.seed, *spread, out),
        }
    }
}

/// The refusal to run what has no weights.
fn absent(name: &str) -> Error {
    let reason =
        "there are no weights beside its config.json; put model.safetensors, or its parts and their index, there";
    Error::OnlyPlanned { what: name.to_owned(), reason: reason.into() }
}

/// An opened model: its shape, its words, and where its numbers are.
#[derive(Debug)]
pub struct Model {
    /// As the configuration calls it.
    pub path: String,
    /// Types as stored.
    pub shape: ModelShape,
    /// Where the payload is.
    pub source: Arc<Source>,
    /// SHA-256 of the header and the file's length.
    pub hash: String,
    /// Bytes of the file; 0 for a random model.
    pub file_bytes: u64,
    /// The adapter that runs beside its weights.
    pub adapter: Option<Arc<AdapterFile>>,
    /// [`Self::content`], once it was asked for.
    content: OnceLock<String>,
}

/// The folder of a model, where `path` is its `config.json` or the index of its parts; any other path as it is.
pub(super) fn whole(path: PathBuf) -> PathBuf {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    match path.parent().map(|p| if p.as_os_str().is_empty() { Path::new(".") } else { p }) {
        Some(dir) if (name == "config.json" || name.ends_with(".index.json")) && weights_in(dir) => dir.to_path_buf(),
        _ => path,
    }
}

/// Whether weights lie in a folder; one that cannot be read has none.
fn weights_in(dir: &Path) -> bool {
    let weights = |name: &std::ffi::OsStr| {
        let name = name.to_string_lossy();
        name.ends_with(".safetensors") || name.starts_with("pytorch_model")
    };
    std::fs::read_dir(dir).is_ok_and(|all| all.take(1 << 14).flatten().any(|e| weights(&e.file_name())))
}

/// The `config.json` at `path`, or in the folder, where no weights are beside it.
fn bare(path: &Path) -> Option<PathBuf> {
    if path.is_file() {
        return path.extension().is_some_and(|e| e == "json").then(|| path.to_path_buf());
    }
    let config = path.join("config.json");
    (config.is_file() && !weights_in(path)).then_some(config)
}

/// Where bundled models are looked for.
fn asset_dirs() -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    if let Some(dir) = std::env::var_os("ULLAGE_ASSETS") {
        dirs.push(PathBuf::from(dir));
    }
    if let Some(dir) = std::env::current_exe().ok().as_deref().and_then(Path::parent) {
        dirs.extend([dir.join("assets"), dir.join("../share/ullage/assets")]);
    }
    dirs.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets"));
    dirs
}

fn bundled(name: &str) -> Result<PathBuf> {
    let file = format!("bundled/{name}.gguf");
    let dirs = asset_dirs();
    dirs.iter().map(|d| d.join(&file)).find(|p| p.is_file()).ok_or_else(|| {
        let looked: Vec<_> = dirs.iter().map(|d| d.display().to_string()).collect();
        Error::model(
            &file,
            "model.path",
            format!("there is no bundled model `{name}`; looked in {}", looked.join(", ")),
        )
    })
}

impl Model {
    /// Opens `path`, a relative file name being relative to `base`. Reads the header only.
    ///
    /// # Errors
    /// A missing, damaged or unsupported file, named with the field at fault.
    pub fn open(path: &str, base: &Path) -> Result<Self> {
        let file = |path: &str| match path.strip_prefix("bundled:") {
            Some(name) => bundled(name),
            None => Ok(base.join(path)),
        };
        // What cannot be opened is a wrong argument, not a failed run.
        let argument = |e: Error| match e {
            Error::Io { path, action, message } => Error::model(path, "model.path", format!("{action}: {message}")),
            e => e,
        };
        if let Some(spec) = random::parse(path)? {
            let (shape, spread, like, hash) = match &spec.source {
                random::Source::File(name) => {
                    let gguf = Gguf::open(&file(name)?).map_err(argument)?;
                    let shape = random::of_file(&spec, &ModelShape::from_gguf(&gguf)?)?;
                    let (spread, hash) = (Spread::Untrained(shape.layers.len()), gguf.content_hash()?);
                    (shape, spread, Some(Box::new(gguf)), format!("{path} {hash}"))
                }
                _ => (random::shape(&spec)?, Spread::ByColumns, None, path.to_owned()),
            };
            let source = Arc::new(Source::Random { spec, spread, like });
            return Ok(Self {
                path: path.into(),
                shape,
                source,
                hash,
                file_bytes: 0,
                adapter: None,
                content: OnceLock::new(),
            });
        }
        let file = whole(file(path)?);
        let config = bare(&file);
        if (config.is_some() || HfFolder::is_one(&file))
            && let Some(outline) = outline::of(&file).map_err(argument)?
        {
            return Err(outline.refusal());
        }
        if let Some(config) = config {
            return Self::described(path, &config);
        }
        if HfFolder::is_one(&file) {
            let (folder, shape) = HfFolder::open(&file).map_err(argument)?;
            let (hash, file_bytes) = (folder.content_hash().map_err(argument)?, folder.file_bytes());
            let source = Arc::new(Source::Hf(folder));
            return Ok(Self {
                path: path.into(),
                shape,
                source,
                hash,
                file_bytes,
                adapter: None,
                content: OnceLock::new(),
            });
        }
        let gguf = Gguf::open(&file).map_err(argument)?;
        if let Some(outline) = outline::of_gguf(&gguf)? {
            return Err(outline.refusal());
        }
        let shape = ModelShape::from_gguf(&gguf)?;
        let (hash, file_bytes) = (gguf.content_hash()?, gguf.file_bytes());
        Ok(Self {
            path: path.into(),
            shape,
            source: Arc::new(Source::Gguf(gguf)),
            hash,
            file_bytes,
            adapter: None,
            content: OnceLock::new(),
        })
    }

    /// A model without weights, by its `config.json` at `file`.
    fn described(path: &str, file: &Path) -> Result<Self> {
        let (shape, text) = random::of_config(file)?;
        let (name, hash) = (shape.name.clone(), crate::bytes::hex(&Sha256::digest(&text)));
        let source = Arc::new(Source::Absent { name });
        Ok(Self { path: path.into(), shape, source, hash, file_bytes: 0, adapter: None, content: OnceLock::new() })
    }

    /// Whether it can be run, and not planned alone.
    ///
    /// # Errors
    /// [`Error::OnlyPlanned`] with the reason.
    pub fn runs(&self) -> Result<()> {
        match &*self.source {
            Source::Absent { name } => Err(absent(name)),
            _ => Ok(()),
        }
    }

    /// Opens what `chosen` names, with its adapter.
    ///
    /// # Errors
    /// As [`Self::open`]; an adapter that is damaged or for another model.
    pub fn of(chosen: &config::Model, base: &Path) -> Result<Self> {
        let model = Self::open(&chosen.path, base)?;
        let more = chosen.adapters.iter().map(|one| (base.join(&one.path), one.scale));
        let list: Vec<_> = chosen.adapter.iter().map(|a| (base.join(a), chosen.adapter_scale)).chain(more).collect();
        model.with_adapters(&list)
    }

    /// The same model with the adapter at `path` beside its weights, its scales multiplied by `scale`.
    ///
    /// # Errors
    /// An adapter that is damaged or for another model.
    pub fn with_adapter(self, path: &Path, scale: f32) -> Result<Self> {
        self.with_adapters(&[(path.to_owned(), scale)])
    }

    /// The same model with the adapters at these paths beside its weights, each one's scales multiplied by its own factor. What
    /// several add is summed.
    ///
    /// # Errors
    /// An adapter that is damaged or for another model; several of which one is no sum.
    pub fn with_adapters(mut self, list: &[(PathBuf, f32)]) -> Result<Self> {
        let mut parts = Vec::with_capacity(list.len());
        for (path, scale) in list {
            let mut part = AdapterFile::open_over(path, &self.source, &self.shape, *scale)?;
            part.leave_own(&self.source, &self.shape)?;
            part.replace(&mut self.source, &mut self.shape, *scale)?;
            parts.push(part);
        }
        let file = match parts.len() {
            0 => return Ok(self),
            1 => parts.remove(0),
            _ => AdapterFile::sum(parts, &self.shape)?,
        };
        let mut hash = Sha256::new();
        hash.update(&self.hash);
        hash.update(&file.hash);
        let hash = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        let shape = ModelShape { adapter: Some(file.shape.clone()), ..self.shape };
        Ok(Self { shape, hash, adapter: Some(Arc::new(file)), content: OnceLock::new(), ..self })
    }

    /// SHA-256 (hex) of what its numbers are: [`Self::hash`], its description, and samples of a GGUF file's payload, which that
    /// hash leaves out (a folder's has them, an adapter's is of all of it). What is made of the numbers and kept goes by it. Reads
    /// some kilobytes a tensor; [`Gguf::sample`] says what they cannot tell. A random model's numbers follow from its name.
    ///
    /// # Errors
    /// A file that was removed or shortened.
    pub fn content(&self) -> Result<&str> {
        if let Some(content) = self.content.get() {
            return Ok(content);
        }
        let mut hash = Sha256::new();
        hash.update(&self.hash);
        // The shape of a random model may be a file's, of which the hash has only the name.
        hash.update(format!("{:?}", self.shape));
        if let Some(file) = self.source.gguf() {
            file.sample(&mut hash)?;
        }
        Ok(self.content.get_or_init(|| crate::bytes::hex(&hash.finalize())))
    }

    /// The files and folders that it is read from, its adapter's among them.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut out = match &*self.source {
            Source::Hf(folder) => folder.paths(),
            source => source.gguf().map(|file| file.paths().map(Path::to_owned).collect()).unwrap_or_default(),
        };
        out.extend(self.adapter.iter().flat_map(|adapter| adapter.files()));
        out
    }

    /// Its tokenizer; a random model has none, unless its shape is a file's.
    ///
    /// # Errors
    /// Damaged or unknown tokenizer metadata.
    pub fn tokenizer(&self) -> Result<Option<Tokenizer>> {
        match &*self.source {
            Source::Hf(folder) => folder.tokenizer(),
            source => source.gguf().map(|file| Tokenizer::new(TokenizerSpec::from_gguf(file)?)).transpose(),
        }
    }

    /// Its chat template, where the file has one.
    ///
    /// # Errors
    /// A template that does not parse, with the file and the line.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>> {
        match &*self.source {
            Source::Hf(folder) => {
                let Some(found) = folder.chat_template()? else { return Ok(None) };
                ChatTemplate::new(&found.source).map(Some).map_err(|e| match e {
                    Error::Refused { reason, .. } => Error::model(&found.path, "chat_template", reason),
                    other => other,
                })
            }
            source => source.gguf().map_or(Ok(None), ChatTemplate::from_gguf),
        }
    }

    /// The special tokens that a chat template knows by name.
    ///
    /// # Errors
    /// Damaged tokenizer metadata.
    pub fn special_tokens(&self) -> Result<SpecialTokens> {
        match &*self.source {
            Source::Hf(folder) => folder.special_tokens(),
            source => source.gguf().map_or(Ok(SpecialTokens::default()), SpecialTokens::of_gguf),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn two_files_of_one_header_have_one_hash_and_two_contents() {
        let here = Path::new(".");
        let dir = tempfile::tempdir().unwrap();
        let model = Model::open("bundled:recall", here).unwrap();
        let Source::Gguf(file) = &*model.source else { panic!() };
        let bytes = std::fs::read(file.path()).unwrap();
        let content = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            let opened = Model::open(path.to_str().unwrap(), here).unwrap();
            assert_eq!(opened.hash, model.hash, "{name}");
            opened.content().unwrap().to_owned()
        };
        let same = content("same.gguf", &bytes);
        assert_eq!(same, model.content().unwrap(), "wherever it lies");
        // One tensor of another training, the first or the last: its numbers differ throughout.
        let tensors = [file.tensors().first().unwrap(), file.tensors().last().unwrap()];
        for (i, t) in tensors.into_iter().enumerate() {
            let mut other = bytes.clone();
            other[t.offset as usize..(t.offset + t.bytes) as usize].iter_mut().for_each(|b| *b ^= 1);
            assert_ne!(content(&format!("{i}.gguf"), &other), same, "{}", t.name);
        }
        // A random model is its name; a shape of a file is more than that file's name.
        let random = |name: &str| Model::open(name, here).unwrap().content().unwrap().to_owned();
        assert_ne!(random("random:smollm2-135m@f32#1"), random("random:smollm2-135m@f32#2"));
        let config = dir.path().join("c.json");
        let tiny = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/engine/tiny.json"))
            .unwrap();
        let of = |text: &str| {
            std::fs::write(&config, text).unwrap();
            random(&format!("random:{}@f32", config.display()))
        };
        assert_ne!(of(&tiny), of(&tiny.replace("\"intermediate_size\": 96", "\"intermediate_size\": 128")));
    }
}
