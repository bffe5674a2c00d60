//! Hostile inputs: what reads each kind of file or text that comes from outside, as plain functions of bytes.
//!
//! A target is one file with a `TARGET`, and one line of [`TARGETS`]. Whatever the bytes are, its `run` ends soon, with a value or an
//! error that is no defect; a panic is the failure. From the list follow the test that replays and mutates its seeds
//! (`tests/tests/fuzz.rs`), the runner that does so as often as wanted (`tests/examples/fuzz.rs`), and a binary of cargo-fuzz.

mod adapter;
mod chat;
mod config_json;
pub mod draw;
mod draw_plan;
mod draw_run;
pub mod gguf;
mod index;
mod jsonl;
pub mod mutate;
mod override_key;
mod parquet;
mod safetensors;
mod sentencepiece;
mod tokenizer;
mod toml;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ullage_core::Error;
use ullage_core::ledger::alloc::{counts, reset_peaks};

/// One reader of bytes.
pub struct Target {
    /// lower_snake_case; the folder of its corpus.
    pub name: &'static str,
    /// Reads the bytes; true when they were sound. Fails by a panic only.
    pub run: fn(&[u8]) -> bool,
    /// Sound inputs to start from; those in the corpus come to them.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// What stands in such inputs, to be put anywhere.
    pub words: &'static [&'static str],
    /// Makes what depends on the rest of the bytes fit again, such as a header's length.
    pub repair: Option<fn(&mut Vec<u8>)>,
    /// The input in words.
    pub tell: fn(&[u8]) -> String,
    /// Heap bytes that any input may cost, and how many more for each of its bytes.
    pub heap: (u64, u64),
    /// Longest time of one input.
    pub longest: Duration,
}

/// Every target.
pub const TARGETS: &[&Target] = &[
    &gguf::TARGET,
    &safetensors::TARGET,
    &index::TARGET,
    &config_json::TARGET,
    &tokenizer::TARGET,
    &sentencepiece::TARGET,
    &adapter::TARGET,
    &chat::TARGET,
    &jsonl::TARGET,
    &parquet::TARGET,
    &toml::TARGET,
    &override_key::TARGET,
    &draw_plan::TARGET,
    &draw_run::TARGET,
];

/// What most targets have alike.
const PLAIN: Target = Target {
    name: "",
    run: |_| false,
    seeds: Vec::new,
    words: &[],
    repair: None,
    tell: |bytes| String::from_utf8_lossy(bytes).into_owned(),
    heap: (4 << 20, 64),
    longest: Duration::from_secs(2),
};

impl Target {
    /// Where its corpus is kept.
    pub fn corpus(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(self.name)
    }

    /// Its seeds and its corpus, each with a name, in an order that does not change.
    pub fn inputs(&self) -> Vec<(String, Vec<u8>)> {
        let mut out: Vec<_> = (self.seeds)().into_iter().enumerate().map(|(i, b)| (format!("seed {i}"), b)).collect();
        let files = fs::read_dir(self.corpus()).into_iter().flatten().filter_map(|f| f.ok().map(|f| f.path()));
        let mut files: Vec<_> = files.filter(|p| p.is_file()).collect();
        files.sort();
        out.extend(files.into_iter().map(|p| (p.display().to_string(), fs::read(&p).unwrap())));
        out
    }

    /// Heap bytes that `len` bytes may cost at most.
    pub fn bound(&self, len: usize) -> u64 {
        self.heap.0 + self.heap.1 * len as u64
    }
}

/// What one input came to.
#[derive(Debug)]
pub struct Ran {
    /// The reader took it as sound.
    pub sound: bool,
    /// The words of a panic.
    pub panic: Option<String>,
    /// Most heap bytes that it held at once, where the counting allocator is installed.
    pub heap: u64,
    /// How long it took.
    pub took: Duration,
}

impl Ran {
    /// What is wrong with it as an answer to `len` bytes.
    pub fn fault(&self, target: &Target, len: usize) -> Option<String> {
        if let Some(panic) = &self.panic {
            return Some(format!("panics: {panic}"));
        }
        if self.heap > target.bound(len) {
            return Some(format!("holds {} B of heap for {len} B, {} are allowed", self.heap, target.bound(len)));
        }
        (self.took > target.longest).then(|| format!("takes {:?}, {:?} are allowed", self.took, target.longest))
    }
}

/// Runs `target` on `bytes`, and catches its panic.
pub fn ran(target: &Target, bytes: &[u8]) -> Ran {
    let heap = || {
        let c = counts();
        [c.engine, c.program, c.guest, c.payload].map(|v| v.max(0)).iter().sum::<i64>()
    };
    let before = heap();
    reset_peaks();
    let start = Instant::now();
    let done = std::panic::catch_unwind(|| (target.run)(bytes));
    let took = start.elapsed();
    let c = counts();
    let peak = [c.engine_peak, c.program_peak, c.guest_peak, c.payload_peak].map(|v| v.max(0)).iter().sum::<i64>();
    let panic = done.as_ref().err().map(|p| {
        let text = p.downcast_ref::<&str>().map(|s| (*s).to_owned()).or_else(|| p.downcast_ref::<String>().cloned());
        text.unwrap_or_else(|| "without words".into())
    });
    Ran { sound: done.unwrap_or(false), panic, heap: (peak - before).max(0) as u64, took }
}

/// Asserts that an error says what is wrong with what was given, and is no defect of ours.
fn plain_error(error: &Error) {
    assert!(!matches!(error, Error::Internal(_)), "{error}");
    assert!(!error.to_string().trim().is_empty());
}

/// A scratch folder of this thread, which lives as long as it.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The file `name`, holding `bytes`.
    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// The files of `from` under their own names.
    fn with(self, from: &[&str]) -> Self {
        for name in from {
            let path = crate::fixture(name);
            fs::copy(&path, self.0.path().join(path.file_name().unwrap())).unwrap();
        }
        self
    }
}
