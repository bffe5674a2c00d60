//! What goes in and what comes out: closed, numbered, serializable. A report is a fold over these, so a run folder replays
//! without its model.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::error::{Diverged, Error};
use crate::ledger::{Held, Measured, Phase};
use crate::number;
use crate::plan::Plan;

/// What a running job is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Stop at the next step's edge and wait.
    Pause,
    /// Go on.
    Resume,
    /// One more token for each sequence, then wait.
    Step,
    /// End now.
    Cancel,
}

/// An event with its number and the seconds since the job's start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Numbered {
    /// 1, 2, 3 …; a gap is a dropped snapshot.
    pub n: u64,
    /// Since the job's start.
    pub seconds: f64,
    /// What happened.
    pub event: Event,
}

/// The model of a run, as its report names it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelCard {
    /// As the configuration calls it.
    pub path: String,
    /// Its own name.
    pub name: String,
    /// Its architecture.
    pub arch: String,
    /// Its number of parameters.
    pub parameters: u64,
    /// Bytes of its payload as stored.
    pub bytes: u64,
    /// SHA-256 of its header and file length.
    pub hash: String,
    /// Entries of its vocabulary; 0 in reports of before.
    #[serde(default)]
    pub vocab: u64,
}

/// The machine of a run, as its report names it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MachineCard {
    /// `cpu` or `cuda:0`.
    pub device: String,
    /// Its name.
    pub name: String,
    /// Threads of the engine.
    pub threads: usize,
    /// Instruction level of the kernels.
    pub kernels: String,
    /// Bytes a second that all threads read from memory; 0 when not probed.
    pub bandwidth: f64,
}

/// How a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// An end-of-text token.
    End,
    /// A stop string.
    Text,
    /// `run.max_tokens`.
    Length,
    /// `run.context` is full.
    Context,
    /// The logits are no numbers any more.
    Diverged,
}

/// Speed of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Speed {
    /// From the job's start to the first token's computation.
    #[serde(with = "number::one")]
    pub load_seconds: f64,
    /// Prompt tokens a second.
    #[serde(with = "number::one")]
    pub prefill_tokens_per_second: f64,
    /// Tokens a second of all sequences together.
    #[serde(with = "number::one")]
    pub decode_tokens_per_second: f64,
    /// Mean seconds of a decoding step.
    #[serde(with = "number::one")]
    pub step_seconds: f64,
    /// Prompt tokens.
    pub prompt_tokens: usize,
    /// Decoding steps.
    pub steps: usize,
}

/// What the allocator and the system say beside the ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Small bookkeeping of the engine's threads at its peak.
    pub engine_peak: u64,
    /// Heap of everything else at its peak: tokenizer, headers, window.
    pub heap: u64,
    /// Resident set of the process at its peak; 0 where the system does not say.
    pub rss: u64,
    /// That less what the allocator held at its own peak: code and stacks.
    pub rest: i64,
    /// Payload by the allocator's own count; must equal the ledger's.
    pub payload_peak: u64,
    /// Engine allocations above 64 KiB that were no buffer; must be 0.
    pub escaped: u64,
    /// Most that the system's allocator took for the program since the job began to hold memory, buffers, headers and
    /// rounding included.
    #[serde(default)]
    pub obtained: u64,
    /// Most that the system says the program had in memory beyond what it had then, files left out; none where it does not say.
    #[serde(default)]
    pub resident: Option<u64>,
}

/// The `error` of a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// `over_budget`, `model`, `config`, …
    pub kind: String,
    /// The whole message.
    pub message: String,
    /// Exit code of the program.
    pub code: u8,
    /// Over budget: bytes needed.
    pub needed: Option<u64>,
    /// Over budget: bytes that were left.
    pub available: Option<u64>,
    /// Over budget: the cheapest change that fits.
    pub hint: Option<String>,
    /// Diverged: what is no number, and where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diverged: Option<Diverged>,
}

impl From<&Error> for Failure {
    fn from(e: &Error) -> Self {
        let (needed, available, hint) = match e {
            Error::OverBudget(o) => (Some(o.needed), Some(o.available), o.hint.clone()),
            _ => (None, None, None),
        };
        let diverged = if let Error::Diverged { place, .. } = e { Some((**place).clone()) } else { None };
        Self { kind: e.kind().into(), message: e.to_string(), code: e.exit_code(), needed, available, hint, diverged }
    }
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// What a job tells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// The plan stands; loading starts.
    Started {
        /// What was chosen.
        config: Box<Config>,
        /// What it will cost.
        plan: Box<Plan>,
        /// On which model.
        model: ModelCard,
        /// On which machine.
        machine: MachineCard,
    },
    /// A phase begins.
    Phase {
        /// Which.
        phase: Phase,
    },
    /// How far the phase is (snapshot).
    Progress {
        /// Units done.
        done: u64,
        /// Units in all.
        total: u64,
        /// Predicted seconds left.
        #[serde(with = "number::one")]
        seconds_left: f64,
        /// Of what.
        what: String,
    },
    /// What is held (snapshot).
    Memory {
        /// Decoding step, 0 before the first.
        step: usize,
        /// By tier and category.
        held: Held,
    },
    /// A token was chosen.
    Token {
        /// Which sequence.
        sequence: usize,
        /// Its number in the sequence, from 0.
        step: usize,
        /// Its id.
        id: u32,
        /// Text that became whole with it.
        text: String,
    },
    /// A sequence ended.
    Ended {
        /// Which.
        sequence: usize,
        /// Why.
        stop: Stop,
        /// Text still held back.
        text: String,
        /// What of its logits is no number, where that is why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        diverged: Option<Diverged>,
    },
    /// Rows left the cache in a step.
    Evicted {
        /// Which sequence.
        sequence: usize,
        /// Decoding step; 0 at the end of the prompt.
        step: usize,
        /// How many rows, over all layers and heads.
        count: u64,
        /// `(layer, KV head, position)` of each, where the policy keeps positions and one head lost few.
        rows: Vec<(u16, u16, u32)>,
    },
    /// Rows were folded into others in a step, before they left the cache; told before they are.
    Merged {
        /// Which sequence.
        sequence: usize,
        /// Decoding step; 0 at the end of the prompt.
        step: usize,
        /// How many rows, over all layers and heads.
        count: u64,
        /// `(layer, KV head, position, position of the row that survives it)` of each, where the policy keeps positions.
        rows: Vec<(u16, u16, u32, u32)>,
    },
    /// The last query's attention of every query head of a layer, pooled over the cache's rows; told until `observe.limit`.
    Attention {
        /// Which sequence.
        sequence: usize,
        /// Decoding step.
        step: usize,
        /// Layer.
        layer: usize,
        /// Cache rows, shared out evenly over the bins.
        rows: usize,
        /// `(heads, bins)`: the largest weight of each bin, 255 being the head's largest.
        bins: Vec<Vec<u8>>,
    },
    /// What the head of `observe.head` looked at, one query: told for the prompt and for every step until `observe.limit`.
    HeadMap {
        /// Which sequence.
        sequence: usize,
        /// Layer.
        layer: usize,
        /// Query head.
        head: usize,
        /// Position of the query.
        query: usize,
        /// Positions of the cache's rows in their order, as runs: first position, and how many follow one by one.
        runs: Vec<(u32, u32)>,
        /// One weight a row: 255 times its square root. Base64 in JSON.
        #[serde(with = "crate::report::packed")]
        weights: Vec<u8>,
    },
    /// The job waits for a command.
    Paused,
    /// It goes on.
    Resumed,
    /// A step of training was made.
    TrainStep {
        /// Updates made, from 1.
        step: u64,
        /// Mean loss of the step's targets before the update, in nats; absent where it had none: nothing was computed then, and
        /// nothing changed.
        #[serde(default, with = "number::maybe", skip_serializing_if = "Option::is_none")]
        loss: Option<f64>,
        /// Learning rate.
        lr: f64,
        /// Norm of all gradients before clipping.
        #[serde(with = "number::one")]
        grad_norm: f64,
        /// Tokens learned from, padding not counted; in runs that do not tell what was computed, positions.
        tokens: usize,
        /// Positions computed, padding and every pass counted; 0 in runs that do not tell.
        #[serde(default)]
        computed: usize,
        /// Seconds it took.
        seconds: f64,
    },
    /// The held-out rows were read.
    Validation {
        /// Updates made.
        step: u64,
        /// Mean loss, in nats.
        #[serde(with = "number::one")]
        loss: f64,
        /// Targets counted.
        tokens: usize,
        /// Share of the targets that are the most likely token, 0 … 1; absent in runs that did not count.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        token_accuracy: Option<f64>,
        /// Share of a task's answers that are right to the last token, by the most likely token after the right ones before it:
        /// what greedy decoding gets right. Absent for data that is no task.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        accuracy: Option<f64>,
        /// Answers asked for.
        #[serde(default, skip_serializing_if = "is_zero")]
        answers: usize,
    },
    /// What the model says to a held-out question, greedily.
    Sample {
        /// Updates made.
        step: u64,
        /// Which question, from 0.
        index: usize,
        /// The question.
        prompt: String,
        /// What it said.
        text: String,
        /// What the data has there, as far as `train.sample_tokens`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expected: Option<String>,
    },
    /// The training state is on the disk.
    Saved {
        /// Updates made.
        step: u64,
        /// The file.
        path: String,
    },
    /// An evaluation's result.
    Eval {
        /// The task.
        task: String,
        /// Its figures.
        result: serde_json::Value,
    },
    /// All done.
    Finished {
        /// Measured bytes.
        measured: Box<Measured>,
        /// Speed.
        speed: Speed,
        /// Beside the ledger.
        program: Program,
        /// Extra figures by name.
        extra: BTreeMap<String, f64>,
    },
    /// The job ended early.
    Failed {
        /// Why.
        error: Failure,
    },
}
