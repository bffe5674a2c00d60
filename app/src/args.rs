//! The command line's grammar.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};

/// Memory-budget exploration of local language models: what fits, what it costs, what it keeps.
///
/// Without a command, opens the workbench; where there is no display, runs the bundled model.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 110)]
pub struct Args {
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Open the workbench on a configuration, a model or a run folder (a run folder needs neither model nor GPU); without a
    /// display, shows its plan or report as text
    Open(Open),
    /// Shape, tokenizer and tensors of a model, with type and bytes
    Inspect(Inspect),
    /// What a file of training data comes to: what it is read as, what is not used, and its first documents with what is learned
    Data(Data),
    /// Predicted bytes and time; reads only the model's header
    Plan(Plan),
    /// Run it
    Run(Run),
    /// Accuracy against bytes over values of some keys; one report a point, resumable
    Sweep(Sweep),
    /// The catalogue of techniques
    Techniques(Techniques),
    /// Write a model with a LoRA adapter merged into its weights, as a GGUF file
    Merge(Merge),
    /// Write a LoRA adapter in another layout: PEFT's folder, or GGUF as llama.cpp reads it
    Adapter(Adapter),
    /// Train the bundled model again, from nothing: text, steps, file and examination
    TrainBundled(TrainBundled),
    /// Prefill and decode speed at several depths, and the fraction of the probed bandwidth
    Bench(Bench),
    /// Planned against measured over a matrix of configurations
    CheckPlan(CheckPlan),
    /// Our engine against candle on the same tokens: KL, largest difference, first differing token; exit 1 when they disagree
    Verify(Verify),
    /// Measure this machine: memory, bandwidths, disk, threads (saved, used by plans)
    Probe(Probe),
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "a whole number, at least 1".to_owned())
}

/// A configuration and what overrides it.
#[derive(Debug, Clone, ClapArgs)]
pub struct Source {
    /// A configuration (.toml), or a model: a GGUF file, bundled:recall, random:llama-1b@q4_0
    #[arg(value_name = "CONFIG.toml|MODEL")]
    pub source: String,
    /// Override any key, such as --set kv.select=h2o --set budget.device='512 MiB'
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
    /// Compute on cpu or cuda:0 (the key machine.device)
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<String>,
    /// The memory it may use, such as '512 MiB' (the key budget.device)
    #[arg(long, value_name = "SIZE")]
    pub budget: Option<String>,
    /// What to complete or answer (the key run.prompt)
    #[arg(long, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// Allow budgets beyond what is free here (the key budget.overcommit)
    #[arg(long)]
    pub overcommit: bool,
}

impl Source {
    /// Keys that have an option of their own, with its value.
    pub fn short(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let short = [("machine.device", &self.device), ("budget.device", &self.budget), ("run.prompt", &self.prompt)];
        short.into_iter().filter_map(|(key, value)| Some((key, value.as_deref()?)))
    }
}

#[derive(Debug, Clone, ClapArgs)]
pub struct Merge {
    /// The model the adapter was trained on: a GGUF file, or bundled:recall
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// The adapter: a folder of PEFT's, or a GGUF adapter
    #[arg(value_name = "ADAPTER")]
    pub adapter: PathBuf,
    /// The file to write
    #[arg(value_name = "OUT.gguf")]
    pub out: PathBuf,
    /// What matrices become: original (only the changed ones are encoded again), q8_0, f16, or any other weight format
    #[arg(long = "type", value_name = "TYPE", default_value = "original")]
    pub ty: String,
    /// What the adapter's own scale is multiplied by
    #[arg(long, value_name = "NUMBER", default_value_t = 1.0)]
    pub scale: f32,
    /// Threads; 0 for the number of physical cores
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub threads: usize,
    /// Replace files that are there and that this program did not write
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Clone, ClapArgs)]
pub struct Adapter {
    /// The model the adapter was trained on
    #[arg(value_name = "MODEL")]
    pub model: String,
    /// The adapter: a folder of PEFT's, or a GGUF adapter
    #[arg(value_name = "ADAPTER")]
    pub adapter: PathBuf,
    /// What to write: a name that ends in .gguf, or a folder of PEFT's layout
    #[arg(value_name = "OUT")]
    pub out: PathBuf,
    /// Replace files that are there and that this program did not write
    #[arg(long)]
    pub force: bool,
}

/// A text of 4096 tokens a row, `batch × accumulate` rows a step.
#[derive(Debug, Clone, ClapArgs)]
pub struct TrainBundled {
    /// Folder of the training state, the run folders, the learned model and recall.gguf; a run that was stopped goes on from
    /// the state it finds there
    #[arg(long, value_name = "DIR", default_value = "train-bundled")]
    pub out: PathBuf,
    /// Train and examine on cpu or cuda:0
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: String,
    /// Of the first weights and of the text; on the CPU the same seed gives the same file, bit for bit
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub seed: u64,
    /// Updates
    #[arg(long, value_name = "N", default_value_t = 2400, value_parser = at_least_one)]
    pub steps: usize,
    /// Rows computed at once
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = at_least_one)]
    pub batch: usize,
    /// Times that many rows make an update
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = at_least_one)]
    pub accumulate: usize,
    /// Tokens of a row, and of the longest texts
    #[arg(long, value_name = "N", default_value_t = 4096)]
    pub length: usize,
    /// Prompts at each of five depths, and as many lists of codes, that the result is examined with; 0 for no examination
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub exams: usize,
    /// Override any key of the run, such as --set train.lr=0.001
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
    /// Replace files that are there and that this program did not write
    #[arg(long)]
    pub force: bool,
    /// The result as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, ClapArgs)]
pub struct Open {
    #[command(flatten)]
    pub source: Source,
}

#[derive(Debug, ClapArgs)]
pub struct Inspect {
    /// A GGUF file, bundled:recall, random:llama-1b@q4_0
    pub model: String,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Data {
    /// A file of JSON, of a table or of text; bundled:task-NAME
    pub file: String,
    /// The model whose tokens and chat template count
    #[arg(long, default_value = "bundled:recall")]
    pub model: String,
    /// Documents that are shown
    #[arg(long, default_value_t = 3)]
    pub rows: usize,
    /// Override a key, such as train.loss_on=all or train.length=512; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Plan {
    #[command(flatten)]
    pub source: Source,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Run {
    #[command(flatten)]
    pub source: Source,
    /// The report as JSON instead of text
    #[arg(long)]
    pub json: bool,
    /// Write a run folder: report.json, timeline.csv, config.toml, events.jsonl
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Also write what was computed as safetensors, into DIR of --out or ./dump
    #[arg(long)]
    pub dump: bool,
    /// Replace what is there: the run in --out, the training in train.out, and files that this program did not write
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Sweep {
    #[command(flatten)]
    pub source: Source,
    /// Values of a key; repeat for a grid. Lists are split at commas outside brackets
    #[arg(long = "over", value_name = "KEY=A,B,C", required = true)]
    pub over: Vec<String>,
    /// Folder of the points; points already there are kept. Trainings that share one train.out get a folder each below it
    #[arg(long, value_name = "DIR", default_value = "sweep")]
    pub out: PathBuf,
    /// Replace files that are there and that this program did not write
    #[arg(long)]
    pub force: bool,
    /// The table as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Techniques {
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Bench {
    #[command(flatten)]
    pub source: Source,
    /// Tokens in the cache before each measurement [default: 0,512,4096; with --types 0]
    #[arg(long, value_delimiter = ',')]
    pub depths: Option<Vec<usize>>,
    /// Tokens prefilled [default: 512; with --types 128]
    #[arg(long, value_parser = at_least_one)]
    pub tokens: Option<usize>,
    /// Tokens decoded [default: 128; with --types 16]
    #[arg(long, value_parser = at_least_one)]
    pub steps: Option<usize>,
    /// Repeats after one warm-up
    #[arg(long, default_value_t = 3, value_parser = at_least_one)]
    pub repeats: usize,
    /// The model's shape with random weights of every block type that is multiplied with, in one table
    #[arg(long)]
    pub types: bool,
    /// Put the figures beside those that `bench --json` or `llama-bench -o json` wrote to this file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["types", "json"])]
    pub against: Option<PathBuf>,
    /// Also tell what each kernel of a GPU took in one decoding step and one prompt
    #[arg(long, conflicts_with_all = ["types", "json"])]
    pub kernels: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, ClapArgs)]
pub struct CheckPlan {
    /// Models to check beside the bundled one
    pub models: Vec<String>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Also try this many random budgets against the wall
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub wall: usize,
    /// Check training: what learns × optimizer × activations × loss × gradients held
    #[arg(long)]
    pub train: bool,
    /// Where: cpu, or cuda:0, whose memory pool is then the second account; what it does not run is passed over
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: String,
    /// Also sizes at their edges: pages of 1 to 256 rows, prompts of 1 to 32k tokens, 1 to 1000 sequences, nothing to generate
    #[arg(long)]
    pub edges: bool,
    /// Only configurations whose name has this in it
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub only: String,
    /// Run each in a control group of this many times what it is planned to need and the program needs beside it, where the
    /// system lets us make one
    #[arg(long, value_name = "TIMES")]
    pub group: Option<f64>,
    /// Check times instead: what is predicted after a probe of this machine against what a run takes, for some forty
    /// configurations; says how many are within a quarter. The machine should have nothing else to do
    #[arg(long, conflicts_with_all = ["wall", "train", "edges", "group"])]
    pub time: bool,
    /// With --time: runs of each, whose median counts
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = at_least_one)]
    pub repeats: usize,
}

/// Both read the first tokens of the prompt, and of the evaluation text after it. Our engine keeps the full cache in f32 and
/// goes token by token; candle, which shares no kernel with it, keeps none and is slower. A training, an evaluation and every
/// choice about the cache are left out.
#[derive(Debug, ClapArgs)]
pub struct Verify {
    #[command(flatten)]
    pub source: Source,
    /// Tokens to read, each a position to compare
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = at_least_one)]
    pub tokens: usize,
    /// Also compare the residual stream after every layer
    #[arg(long)]
    pub layers: bool,
    /// What candle computes on: cpu, cuda:0 or metal:0
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    pub reference: String,
    /// The model that candle reads instead, such as the same one in another file
    #[arg(long, value_name = "MODEL")]
    pub against: Option<String>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Probe {
    /// Two or three seconds instead of ten
    #[arg(long)]
    pub quick: bool,
    /// Replace a file of ULLAGE_MACHINE's name that is no machine's
    #[arg(long)]
    pub force: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}
