//! What the references of the cache's techniques share: their inputs and fixtures, rows that attention can read, and a plan held
//! against its run.

use std::fs;
use std::sync::Arc;

use serde_json::Value;
use ullage_core::config::Config;
use ullage_core::forward::cpu::Sequence;
use ullage_core::kv::Pipeline;
use ullage_core::ledger::Tier;
use ullage_core::model::Model;
use ullage_core::ops::cpu::KvTiles;
use ullage_core::report::Report;

use crate::{config, fixture, of, random, run};

/// Query heads, KV heads and elements of a head of the model `tiny`, which the references use.
pub const TINY: (usize, usize, usize) = (6, 2, 32);

/// `n` numbers in [-1, 1), as `tests/scripts/kv_inputs.py` makes them.
pub fn values(seed: u64, n: usize) -> Vec<f32> {
    let one = |i: u64| {
        let mut z = (i * 2_654_435_761 + seed * 40_503 + 12_345) as u32;
        for _ in 0..2 {
            z = (z ^ z >> 16).wrapping_mul(0x045d_9f3b);
        }
        z ^= z >> 16;
        (f64::from(z >> 8) / f64::from(1 << 23) - 1.0) as f32
    };
    (0..n as u64).map(one).collect()
}

/// The same, as f16 stores them.
pub fn half_values(seed: u64, n: usize) -> Vec<f32> {
    values(seed, n).into_iter().map(|x| half::f16::from_f32(x).to_f32()).collect()
}

/// `fixtures/kv/NAME.json`.
pub fn reference(name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(fixture(&format!("kv/{name}.json"))).unwrap()).unwrap()
}

/// Numbers of a list.
pub fn numbers(list: &Value) -> Vec<f64> {
    list.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

/// Whole numbers of a list.
pub fn indices(list: &Value) -> Vec<u32> {
    list.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

/// Elements weighted by 1, 2, 3, …: one number that stands for a row.
pub fn weighted(row: &[f32]) -> f64 {
    row.iter().zip(1..).map(|(x, c)| f64::from(*x) * f64::from(c)).sum()
}

/// The cache's techniques as `pairs` choose them, for the model `tiny`.
pub fn pipeline(pairs: &[(&str, &str)]) -> ullage_core::Result<Pipeline> {
    Pipeline::new(&config(pairs), &random("tiny", "f32").shape)
}

/// Bytes of a sequence's cache.
pub fn bytes(seq: &Sequence) -> u64 {
    seq.layers.iter().map(|l| l.bytes()).sum()
}

/// Runs a job and holds its plan to it: never low, high by 2 % or 256 KiB at most, and nothing outside the account.
pub fn plan_holds(model: &Arc<Model>, config: &Config) -> Report {
    let mut config = config.clone();
    if let Some(n) = config.run.prompt.strip_prefix("tokens:").and_then(|n| n.parse::<usize>().ok()) {
        // About as many tokens, of a model that has words.
        config.run.prompt = "The sky is blue. ".repeat(n / 5);
    }
    let report = run(model, &config);
    assert_eq!(report.error, None, "{}", config.to_toml().unwrap());
    let (planned, measured) = (of(&report.plan.peak, Tier::Device), of(&report.measured.peak, Tier::Device));
    let allowed = (measured / 50).max(256 << 10);
    assert!(
        planned >= measured && planned - measured <= allowed,
        "planned {planned}, measured {measured}: {}",
        config.to_toml().unwrap()
    );
    assert_eq!(report.program.escaped, 0, "bytes outside the ledger");
    report
}

/// Keys and values `(rows, heads, dim)` of a cache that drops nothing.
pub struct Plain {
    /// KV heads.
    pub heads: usize,
    /// Elements of a head.
    pub dim: usize,
    /// Rows.
    pub rows: usize,
    /// Keys.
    pub k: Vec<f32>,
    /// Values.
    pub v: Vec<f32>,
}

impl Plain {
    fn read(&self, x: &[f32], head: usize, start: usize, n: usize, out: &mut [f32]) {
        for (i, out) in out.chunks_exact_mut(self.dim).take(n).enumerate() {
            out.copy_from_slice(&x[((start + i) * self.heads + head) * self.dim..][..self.dim]);
        }
    }
}

impl KvTiles for Plain {
    fn rows(&self, _head: usize) -> usize {
        self.rows
    }

    fn keys(&self, head: usize, start: usize, n: usize, out: &mut [f32]) {
        self.read(&self.k, head, start, n, out);
    }

    fn values(&self, head: usize, start: usize, n: usize, out: &mut [f32]) {
        self.read(&self.v, head, start, n, out);
    }
}
