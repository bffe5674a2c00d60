//! Shared helpers of the end-to-end tests: models to run, a loaded engine to drive by hand, whole jobs and what they told.
#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is the failure")]

/// The worked examples of `docs/adding/`, compiled and run by `cargo test --doc`.
#[cfg(doctest)]
#[path = "../../docs/adding/examples.rs"]
mod adding;
pub mod fuzz;
pub mod kv;
pub mod naive;
pub mod peak;
pub mod skip;
pub mod words;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ullage_core::Result;
use ullage_core::catalog::from_toml;
use ullage_core::config::Config;
use ullage_core::config::train::Train;
use ullage_core::forward::adapter::Held;
use ullage_core::forward::cpu::{Forward, PassObserver, Sequence, Unwatched};
use ullage_core::job::{Event, Job, Numbered, Order};
use ullage_core::kv::{Merge, Pipeline};
use ullage_core::ledger::{Ledger, Tier};
use ullage_core::machine::Machine;
use ullage_core::model::Model;
use ullage_core::ops::ThreadTeam;
use ullage_core::place;
use ullage_core::plan::{Plan, Resolved};
use ullage_core::report::Report;
use ullage_core::train::batch::Batch;

/// `--set` arguments.
pub type Sets = Vec<(String, String)>;

/// `--set` arguments from literals.
pub fn sets(pairs: &[(&str, &str)]) -> Sets {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

/// The default configuration with these keys set.
pub fn config(pairs: &[(&str, &str)]) -> Config {
    from_toml("", &sets(pairs)).unwrap()
}

/// `config` with these keys set on top.
pub fn with(config: &Config, pairs: &Sets) -> Result<Config> {
    from_toml(&config.to_toml().unwrap(), pairs)
}

/// The batch of a training that needs most: full, every token a target.
pub fn fullest(train: &Train) -> Batch {
    let n = train.batch * train.length;
    Batch { tokens: vec![0; n], targets: vec![0; n], ..Batch::sized(train.batch, train.length) }
}

/// A file under `tests/fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// An opened model.
pub fn open(path: &str) -> Arc<Model> {
    Arc::new(Model::open(path, Path::new(".")).unwrap())
}

/// The bundled model.
pub fn bundled() -> Arc<Model> {
    open("bundled:recall")
}

/// A random model shaped by `fixtures/engine/SHAPE.json`, of one type.
pub fn random(shape: &str, ty: &str) -> Arc<Model> {
    open(&format!("random:{}@{ty}", fixture(&format!("engine/{shape}.json")).display()))
}

/// SmolLM2, where it is on this machine.
pub fn smollm2() -> Option<Arc<Model>> {
    skip::smollm2_file().map(|p| open(p.to_str().unwrap()))
}

/// Gemma 3 270M, where it is on this machine.
pub fn gemma3() -> Option<Arc<Model>> {
    skip::gemma3_file().map(|p| open(p.to_str().unwrap()))
}

/// `n` ids below `vocab` in an order without obvious pattern.
pub fn ids(n: usize, vocab: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * 7919 + i * i * 31 + 13) % vocab) as u32).collect()
}

/// A loaded engine, driven by hand.
pub struct Rig {
    /// Its forward pass.
    pub forward: Forward,
    /// Its account.
    pub ledger: Arc<Ledger>,
    team: ThreadTeam,
    batch: usize,
}

impl Rig {
    /// Loads `model` as `config` says.
    ///
    /// # Errors
    /// What a job would report.
    pub fn new(model: &Model, config: &Config) -> Result<Self> {
        let Resolved { held, pipeline, placement, threads, .. } = Resolved::new(config, &model.shape)?;
        let budget = &config.budget;
        let ledger = Ledger::new(budget.device.0, budget.host.0, budget.disk.0);
        let team = ThreadTeam::new(threads)?;
        let place_model = place::Model { stored: &model.shape, held: &held, threads };
        let mut weights = placement.load(Arc::clone(&model.source), place_model, &ledger, &team, &mut |_| ())?;
        let adapter = model.adapter.as_ref();
        let adapter = adapter.map(|file| Held::load(file, &held, &mut *weights, &ledger, &team)).transpose()?;
        let forward = Forward::new(held, pipeline, weights, Arc::clone(&ledger)).with_adapter(adapter);
        Ok(Self { forward, ledger, team, batch: config.run.batch })
    }

    /// Merges from now on, before any sequence is made, as `merge` does.
    pub fn with_merge(&mut self, merge: Box<dyn Merge>) {
        let f = &mut self.forward;
        let plain = Pipeline::new(&Config::default(), &f.shape).unwrap();
        f.pipeline = std::mem::replace(&mut f.pipeline, plain).with_merge(merge);
    }

    /// A fresh sequence with `tokens` read into it, and the logits of its last token.
    ///
    /// # Errors
    /// What a job would report.
    pub fn prefill(&mut self, tokens: &[u32]) -> Result<(Sequence, Vec<f32>)> {
        let f = &mut self.forward;
        let extent = Forward::prefill_shape(&f.pipeline, tokens.len(), self.batch);
        let mut workspace = f.workspace(self.team.threads(), extent)?;
        let mut seq = f.sequence(tokens.len())?;
        f.prefill(&mut seq, tokens, &mut workspace, &self.team, &mut Unwatched)?;
        let logits = workspace.logits(0, f.shape.vocab).to_vec();
        Ok((seq, logits))
    }

    /// Feeds `tokens` one by one; the logits after each.
    ///
    /// # Errors
    /// What a job would report.
    pub fn decode(&mut self, seq: &mut Sequence, tokens: &[u32]) -> Result<Vec<Vec<f32>>> {
        let f = &mut self.forward;
        let extent = Forward::decode_shape(&f.pipeline, &f.shape, seq.prompt, seq.seen + tokens.len(), 1);
        let mut workspace = f.workspace(self.team.threads(), extent)?;
        let mut out = Vec::new();
        for token in tokens {
            f.decode(std::slice::from_mut(seq), &[*token], &mut workspace, &self.team, &mut Unwatched)?;
            out.push(workspace.logits(0, f.shape.vocab).to_vec());
        }
        Ok(out)
    }

    /// Reads `prompt`, then feeds `forced` one by one, with `watch` told of everything.
    ///
    /// # Errors
    /// What a job would report.
    pub fn watched(&mut self, prompt: &[u32], forced: &[u32], watch: &mut dyn PassObserver) -> Result<Sequence> {
        let f = &mut self.forward;
        let mut workspace =
            f.workspace(self.team.threads(), Forward::prefill_shape(&f.pipeline, prompt.len(), self.batch))?;
        let mut seq = f.sequence(prompt.len())?;
        f.prefill(&mut seq, prompt, &mut workspace, &self.team, watch)?;
        drop(workspace);
        let extent = Forward::decode_shape(&f.pipeline, &f.shape, prompt.len(), prompt.len() + forced.len(), 1);
        let mut workspace = f.workspace(self.team.threads(), extent)?;
        for token in forced {
            f.decode(std::slice::from_mut(&mut seq), &[*token], &mut workspace, &self.team, watch)?;
        }
        Ok(seq)
    }

    /// Logits after the prompt and after each forced token.
    pub fn logits(&mut self, prompt: &[u32], forced: &[u32]) -> Vec<Vec<f32>> {
        let (mut seq, first) = self.prefill(prompt).unwrap();
        let mut out = vec![first];
        out.extend(self.decode(&mut seq, forced).unwrap());
        out
    }

    /// Decoded keys `(rows, d)` of a head.
    pub fn keys(&self, seq: &Sequence, layer: usize, head: usize) -> Vec<Vec<f32>> {
        let cache = &seq.layers[layer];
        let (n, d) = (cache.rows(head), cache.layout().d);
        let mut out = vec![0.0; n * d];
        cache.keys(head, 0, n, &mut out);
        out.chunks(d).map(<[f32]>::to_vec).collect()
    }

    /// Decoded values `(rows, d)` of a head.
    pub fn values(&self, seq: &Sequence, layer: usize, head: usize) -> Vec<Vec<f32>> {
        let cache = &seq.layers[layer];
        let (n, d) = (cache.rows(head), cache.layout().d);
        let mut out = vec![0.0; n * d];
        cache.values(head, 0, n, &mut out);
        out.chunks(d).map(<[f32]>::to_vec).collect()
    }

    /// Positions of the rows of a head, of a policy that keeps them.
    pub fn positions(seq: &Sequence, layer: usize, head: usize) -> Vec<u32> {
        let cache = &seq.layers[layer];
        (0..cache.rows(head)).map(|r| cache.position(head, r).unwrap()).collect()
    }

    /// The accumulated scores of a head, of a policy that keeps them.
    pub fn scores(seq: &mut Sequence, layer: usize, head: usize) -> Vec<f32> {
        let mut sums = vec![0.0; seq.layers[layer].rows(head)];
        seq.layers[layer].add_scores(head, &mut sums);
        sums
    }
}

/// Bits of each row of logits, for comparing exactly.
pub fn bits(rows: &[Vec<f32>]) -> Vec<Vec<u32>> {
    rows.iter().map(|r| r.iter().map(|v| v.to_bits()).collect()).collect()
}

/// Asserts that two lists of logits are the same bit for bit, saying where not.
pub fn assert_same(a: &[Vec<f32>], b: &[Vec<f32>], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}: rows");
    for (i, (x, y)) in a.iter().zip(b).enumerate() {
        assert_eq!(x.len(), y.len(), "{what}: row {i}");
        if let Some(at) = x.iter().zip(y).position(|(x, y)| x.to_bits() != y.to_bits()) {
            panic!("{what}: row {i}, logit {at}: {} and {}", x[at], y[at]);
        }
    }
}

/// What a job is given.
pub fn order(model: &Arc<Model>, config: &Config) -> Order {
    Order {
        config: config.clone(),
        model: Arc::clone(model),
        machine: Machine::default_guess(),
        base: ".".into(),
        dump: None,
        keep: None,
        folder: None,
        care: ullage_core::output::Care::default(),
    }
}

/// Runs an order to its end: its events and their report.
pub fn events(order: Order) -> (Vec<Numbered>, Report) {
    let job = Job::start(order).unwrap();
    let events: Vec<Numbered> = job.events.iter().collect();
    let report = Report::fold(&events);
    (events, report)
}

/// Runs `config` on `model` to its end.
pub fn run(model: &Arc<Model>, config: &Config) -> Report {
    events(order(model, config)).1
}

/// As [`run`], and the logits it dumped by tensor name. A failed run is a failed test.
pub fn run_dumped(model: &Arc<Model>, config: &Config, dir: &Path) -> (Report, Vec<Vec<f32>>) {
    let mut order = order(model, config);
    order.dump = Some(dir.to_path_buf());
    let report = events(order).1;
    assert_eq!(report.error, None, "the run failed");
    (report, dumped(&dir.join("logits.safetensors")))
}

/// The rows of the one f32 tensor of a dump.
pub fn dumped(path: &Path) -> Vec<Vec<f32>> {
    let bytes = fs::read(path).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let text = std::str::from_utf8(&bytes[8..header]).unwrap();
    let shape = text.split("\"shape\":[").nth(1).and_then(|s| s.split(']').next()).unwrap();
    let cols: usize = shape.split(',').nth(1).unwrap().trim().parse().unwrap();
    let values: Vec<f32> = bytes[header..].as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    values.chunks(cols).map(<[f32]>::to_vec).collect()
}

/// The plan a job started with.
pub fn started(events: &[Numbered]) -> Option<&Plan> {
    events.iter().find_map(|e| match &e.event {
        Event::Started { plan, .. } => Some(&**plan),
        _ => None,
    })
}

/// A tier's value in a report's map, 0 when absent.
pub fn of(map: &std::collections::BTreeMap<Tier, u64>, tier: Tier) -> u64 {
    map.get(&tier).copied().unwrap_or(0)
}
