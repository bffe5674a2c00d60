//! Seconds from a roofline: a pass takes the longer of moving its bytes and doing its arithmetic (weights-and-offload.md §0.2),
//! both added up over its steps.

use serde::{Deserialize, Serialize};

use super::cpu_time::{Cpu, Rows};
use super::{Resolved, Workload};
use crate::config::train::Train;
use crate::config::{Compute, Config};
use crate::device::Spent;
use crate::device::dry::Rates;
use crate::device::gpu::Precision;
use crate::forward::gpu::fuse::{expanded_bytes, pass_launches};
use crate::forward::step::{Batch, pass_cost};
use crate::kv::Rhythm;
use crate::machine::Machine;
use crate::number;
use crate::ops::gpu::FEW;
use crate::place;
use crate::shape::ModelShape;

/// What products of a prompt's pieces reach of a card's tensor cores, which is measured on large squares (seen on an H200 at 1B).
const TENSOR_SHARE: f64 = 0.5;

/// Predicted times of a workload's first pass, and of loading.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// Reading the weights.
    #[serde(with = "number::one")]
    pub load_seconds: f64,
    /// Reading the prompt.
    #[serde(with = "number::one")]
    pub prefill_seconds: f64,
    /// Prompt tokens a second.
    #[serde(with = "number::one")]
    pub prefill_tokens_per_second: f64,
    /// Tokens a second of all sequences together, at the mean depth.
    #[serde(with = "number::one")]
    pub decode_tokens_per_second: f64,
    /// Bytes of weights and cache that one decoding step reads on the device.
    pub decode_bytes: u64,
    /// Seconds of a training step; 0 for none, or where nobody has measured the GPU.
    #[serde(default, with = "number::one")]
    pub train_step_seconds: f64,
    /// Seconds of all training steps.
    #[serde(default, with = "number::one")]
    pub train_seconds: f64,
    /// False when the machine's figures are guesses (`ullage probe` has not run).
    pub probed: bool,
}

pub(super) fn times(
    stored: &ModelShape,
    r: &Resolved,
    workload: &Workload,
    config: &Config,
    machine: &Machine,
) -> Times {
    let model = place::Model { stored, held: &r.held, threads: r.threads };
    let many = r.threads > 1;
    let card = r.gpu.map(|n| machine.gpus.get(n));
    let (read, flops, launch) = match card {
        Some(Some(gpu)) => (gpu.read, gpu.f32_flops, gpu.launch_s),
        _ => (machine.speed.read[usize::from(many)], machine.speed.f32_flops[usize::from(many)], 0.0),
    };
    let link = |(name, bytes, chunk): &(&str, u64, u64)| match *name {
        "disk" => machine.disk.warm.fetch_seconds(bytes.div_ceil((*chunk).max(1)), *chunk),
        _ => *bytes as f64 / machine.speed.copy[0],
    };
    let moved: f64 = r.placement.pass_bytes(model).iter().map(link).sum();
    let load_seconds = stored.bytes() as f64 / machine.disk.warm.bandwidth(4 << 20);
    let Some(pass) = workload.passes.first() else {
        return Times { load_seconds, probed: machine.probed, ..Times::default() };
    };
    let depth = pass.prompt + pass.decode / 2;
    // A decoding step at the mean depth: what its steps take, and the rows of the cache that it reads.
    let cached = r.pipeline.mean_rows(pass.prompt, depth);
    let step = pass_cost(&r.held, Batch { rows: pass.sequences, sequences: pass.sequences, cached }, true);
    let decode_bytes = step.read as u64 + pass.sequences as u64 * r.pipeline.read_bytes(pass.prompt, depth);
    if card == Some(None) {
        // Nobody has said how fast this GPU is: bytes are known, times are not.
        return Times { load_seconds, decode_bytes, ..Times::default() };
    }
    // Every piece of a prompt reads the weights again; a token of it looks at half of what comes before the last.
    let n = pass.prompt;
    let pieces = if r.pipeline.stages(n) { 1 } else { n.div_ceil(config.run.batch).max(1) };
    let sequences = pass.sequences as f64;
    let (prefill, seconds) = if let Some(times) = machine.speed.kernels_with(r.threads).filter(|_| card.is_none()) {
        let cpu = Cpu { r, times };
        // Of what a pass reads, what its experts leave is not met again in the next.
        let through = |rows: f64, sequences: f64, cached: f64| {
            let kv = sequences * r.pipeline.read_bytes(n, cached as usize) as f64;
            Rows { rows, sequences, cached, through: r.held.bytes() as f64 + kv }
        };
        // The last piece may be shorter: rows are shared out evenly here. Only the last ends in the head.
        let piece = through(n as f64 / pieces as f64, 1.0, n as f64 / 2.0);
        let step = through(sequences, sequences, cached * looked(r, n, depth));
        let decode =
            moved.max(cpu.layers(step)) + cpu.head(step) + shifted(r, n, depth) * sequences / machine.speed.copy[0];
        (pieces as f64 * moved.max(cpu.layers(piece)) + cpu.head(piece), decode)
    } else {
        // Rows that are many enough are products on tensor cores, over matrices that are expanded for every piece.
        let on_cores = |rows: usize| match card {
            Some(Some(gpu)) if config.compute() == Compute::Half && rows > FEW => TENSOR_SHARE * gpu.bf16_flops,
            _ => flops,
        };
        let expanded = |rows: usize| match card {
            Some(_) => {
                expanded_bytes(&r.held, config.compute(), Batch { rows, sequences: 1, cached: n as f64 }) as f64 / read
            }
            None => 0.0,
        };
        let prompt = |rows: usize| pass_cost(&r.held, Batch { rows, sequences: 1, cached: n as f64 / 2.0 }, true);
        let (whole, piece, pieces) = (prompt(n), prompt(n.div_ceil(pieces)), pieces as f64);
        let rows = n.div_ceil(pieces as usize);
        let computed = whole.flops / on_cores(rows) + pieces * expanded(rows);
        let longer = (pieces * moved).max(computed).max(pieces * piece.read as f64 / read);
        let step_longer = moved.max(decode_bytes as f64 / read).max(step.flops / flops);
        // Kernels of a prompt are queued one by one, those of a step at once.
        let launches = |rows: usize, sequences: usize, cached: f64| {
            pass_launches(&r.held, config.compute(), Batch { rows, sequences, cached }, true) as f64
        };
        let launched = launch * launches(rows, 1, n as f64);
        (longer + pieces * launched, step_longer + launch * launches(pass.sequences, pass.sequences, cached))
    };
    Times {
        load_seconds,
        prefill_seconds: prefill,
        prefill_tokens_per_second: n as f64 / prefill,
        decode_tokens_per_second: sequences / seconds,
        decode_bytes,
        probed: machine.probed,
        ..Times::default()
    }
}

/// Bytes of a sequence's cache that a decoding step moves together where its policy drops rows by then, on average.
fn shifted(r: &Resolved, prompt: usize, depth: usize) -> f64 {
    let each = match r.pipeline.select.rhythm() {
        Rhythm::Once => return 0.0,
        Rhythm::BeforeAppend => 1,
        Rhythm::Every(rows) => rows.max(1),
    };
    let drops = r.pipeline.mean_rows(prompt, depth) < depth as f64;
    if drops { r.pipeline.sequence_bytes(prompt, depth) as f64 / each as f64 } else { 0.0 }
}

/// The share of the held rows that a query looks at, where a reader chooses among their pages.
fn looked(r: &Resolved, prompt: usize, depth: usize) -> f64 {
    let chooses = (0..r.held.layers.len()).any(|l| r.pipeline.read.most_pages(l).is_some());
    let held = r.pipeline.sequence_bytes(prompt, depth).max(1) as f64;
    if chooses { (r.pipeline.read_bytes(prompt, depth) as f64 / held).min(1.0) } else { 1.0 }
}

/// What the machine of `config` does in a second, for training; none for a GPU that nobody has measured.
pub(super) fn rates(config: &Config, machine: &Machine) -> Option<Rates> {
    match config.gpu() {
        None => {
            let many = usize::from(config.threads() > 1);
            let speed = &machine.speed;
            let kernels = speed.kernels_with(config.threads()).cloned();
            Some(Rates { flops: speed.f32_flops[many], bytes: speed.read[many], launch: 0.0, kernels })
        }
        Some(n) => machine.gpus.get(n).map(|gpu| {
            let precision = config.train.as_ref().map_or(Precision::F32, Precision::of);
            let flops = match precision {
                Precision::F32 => gpu.f32_flops,
                Precision::Bf16 => gpu.bf16_flops,
            };
            Rates { flops, bytes: gpu.read, launch: gpu.launch_s, kernels: None }
        }),
    }
}

/// Times of training, from what a step on the dry device `spent`.
pub(super) fn training(stored: &ModelShape, train: &Train, spent: Spent, machine: &Machine) -> Times {
    let step = train.accumulate as f64 * spent.pass + spent.update;
    Times {
        load_seconds: stored.bytes() as f64 / machine.disk.warm.bandwidth(4 << 20),
        train_step_seconds: step,
        train_seconds: step * train.steps as f64,
        probed: machine.probed,
        ..Times::default()
    }
}
