//! Above the pictures: the model, the device, the workload, the memory limit and its bars; and the line below them.

use super::{BytesBar, Sets, Tier};

/// A mode of the workbench, such as generating or fine-tuning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mode {
    /// What [`Action::Mode`](crate::Action::Mode) calls it.
    pub id: String,
    /// Its words on screen: `Generate`.
    pub label: String,
    /// One sentence on hover.
    pub sentence: String,
    /// True for the one that is chosen.
    pub chosen: bool,
}

/// The strip above the pictures.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Top {
    /// The open model.
    pub model: ModelLine,
    /// Models opened before and models found on this disk.
    pub recent: Vec<Recent>,
    /// Where it can run; exactly one is chosen.
    pub devices: Vec<Device>,
    /// The workload: context, sequences, tokens to generate.
    pub workload: Vec<Field>,
    /// The memory limit.
    pub limit: Limit,
    /// What would be held. `None` while it is being computed or cannot be; `no_plan` says why.
    pub predicted: Option<Bars>,
    /// The prediction is of a model that is planned and not run: there is nothing to choose of what is not computed.
    pub only_planned: bool,
    /// Why there is no prediction; empty when there is one.
    pub no_plan: String,
    /// What the last run held.
    pub measured: Option<Bars>,
    /// The cheapest way back below the limit, when over it.
    pub way_back: Option<WayBack>,
    /// Longest context that fits with everything else as chosen, in tokens; 0 when none does.
    pub longest_context: Option<usize>,
    /// Most sequences that fit.
    pub most_sequences: Option<usize>,
    /// Predicted tokens a second: reading the prompt, and decoding.
    pub predicted_speed: Option<(f64, f64)>,
    /// True when the machine was probed; otherwise speeds are a cautious guess and said to be.
    pub probed: bool,
    /// What to know before reading the prediction, a sentence each: cautions, and choices that have no effect.
    pub notes: Vec<String>,
}

/// The open model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelLine {
    /// Its name; empty while none is open.
    pub name: String,
    /// Architecture, parameters, bytes, in words.
    pub detail: String,
    /// The path or id it was opened by.
    pub path: String,
    /// What is being opened, while it is.
    pub opening: Option<String>,
    /// True when the chat template can be used.
    pub chats: bool,
    /// Layers and query heads, for empty pictures.
    pub layers_heads: (usize, usize),
}

/// A model to open again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recent {
    /// What to open.
    pub path: String,
    /// How it is shown.
    pub name: String,
    /// Where it comes from: `recent`, `LM Studio`, `Ollama`, `Hugging Face`, `bundled`.
    pub from: String,
    /// Bytes of the file, when known.
    pub bytes: Option<u64>,
}

/// Something to run on, or to plan for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// What `machine.device` is set to; empty for another machine's figures.
    pub id: String,
    /// How it is shown.
    pub name: String,
    /// One line about it: memory, bandwidth.
    pub detail: String,
    /// True for the one that is chosen.
    pub chosen: bool,
    /// False for a machine that is not here: plans only.
    pub runs: bool,
    /// GPU memory, rather than a part of RAM.
    pub gpu: bool,
}

/// A whole number of the workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Field {
    /// Its key, such as `run.context`.
    pub key: String,
    /// How it is called.
    pub label: String,
    /// One sentence on hover.
    pub sentence: String,
    /// Its value.
    pub value: u64,
    /// The least value allowed.
    pub min: u64,
    /// The greatest value allowed.
    pub max: u64,
    /// The largest value that fits with everything else as chosen, 0 when none does; `None` where that is not computed.
    pub fits: Option<u64>,
}

/// The memory limit and what is marked beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// The limit in bytes; `None` for no limit.
    pub bytes: Option<u64>,
    /// Where the slider starts and ends, in bytes.
    pub range: (u64, u64),
    /// Marks along it.
    pub ticks: Vec<Tick>,
    /// Bytes free on the device now.
    pub free: Option<u64>,
}

/// A mark on the slider.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tick {
    /// Where it stands on the scale, in bytes.
    pub bytes: u64,
    /// What: `256 MiB`, `RTX 4090`, `this machine`.
    pub label: String,
    /// One line on hover: the card's memory and bandwidth.
    pub detail: String,
    /// A card or a machine rather than a round number.
    pub named: bool,
    /// When a card: what choosing it brings besides its memory (its bandwidth).
    pub device: Option<String>,
}

/// One account at its instants.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bars {
    /// The peak first, then the phases in order, then the moment scrubbed to, if any.
    pub instants: Vec<Instant>,
    /// True when the configuration has changed since it was measured: drawn ghosted.
    pub stale: bool,
    /// True while the run goes on.
    pub live: bool,
}

/// What is held at one instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Instant {
    /// `peak (prefill)`, `load`, `prefill`, `decode`, `at 1.2 s`.
    pub name: String,
    /// The bar of each tier where anything lives, the device first.
    pub tiers: Vec<(Tier, BytesBar)>,
}

/// The cheapest change that fits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WayBack {
    /// In words: `Precision q8_0`.
    pub words: String,
    /// Bytes it changes the peak by; negative saves.
    pub change: i64,
    /// What it costs in accuracy, where measured here; empty otherwise.
    pub accuracy: String,
    /// What it sets.
    pub sets: Sets,
}

/// The line below the pictures.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// A run goes on (it may be paused).
    pub running: bool,
    /// It waits for a command.
    pub paused: bool,
    /// What it is doing: `decoding`, `reading the prompt`, `opening the model`.
    pub doing: String,
    /// Done and in all, in units of `doing`.
    pub progress: Option<(u64, u64)>,
    /// Predicted seconds left.
    pub seconds_left: Option<f64>,
    /// Tokens a second so far.
    pub speed: Option<f64>,
    /// The speed that was predicted.
    pub predicted_speed: Option<f64>,
    /// Why Run cannot be pressed now; empty when it can.
    pub blocked: String,
    /// There is something to undo, and to redo.
    pub undo: Option<String>,
    /// What redo would do.
    pub redo: Option<String>,
    /// Runs still to come of a sweep.
    pub queued: usize,
}
