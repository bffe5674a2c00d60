//! What workers send to the session, each named by what it carries.
//!
//! Only data: whoever makes a message imports this file, and this file imports no worker.

use std::path::PathBuf;

use ullage_core::machine::{Machine, Memory};
use ullage_core::model::discover;
use ullage_core::plan::{Inverse, Plan, TrainInverse};
use ullage_core::report::protocol::Numbered;
use ullage_panels::view::{Bars, Data, Fit, Piece, Section, WayBack};

use super::history::RunSummary;
use super::live::{Live, Prompt};
use super::opened::{Adapted, OpenedItem, Wanted};
use super::worker::Trouble;

/// One message to the session.
pub enum Message {
    /// A plan and its bars.
    Plan(Box<Planned>),
    /// The prices of every choice beside the plan.
    Prices(Box<Priced>),
    /// What training data come to.
    Preview(Box<Data>),
    /// What lies at a path, or why it cannot be opened.
    Opened {
        /// As it was asked for.
        wanted: Box<Wanted>,
        /// What was found there.
        item: Result<OpenedItem, String>,
    },
    /// How far a merge of an adapter is.
    MergeProgress {
        /// Bytes written.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// The end of a merge: the adapter whose merged file is there, or why there is none.
    MergeResult(Result<Box<Adapted>, String>),
    /// From the run going on.
    Run(RunMessage),
    /// From the file and dialog threads.
    Files(FileMessage),
    /// Models that other programs brought to this disk.
    Discovered(Vec<discover::Found>),
    /// What of this machine is being measured, and how much of all is done (0 … 1).
    ProbeProgress(String, f32),
    /// This machine, measured, or why it is not.
    ProbeResult(Result<Box<Machine>, String>),
    /// A picture of the screen, four bytes a pixel.
    Screenshot {
        /// Name to suggest for its file.
        name: String,
        /// Width and height in pixels.
        size: [usize; 2],
        /// Red, green, blue and alpha of each pixel, row by row.
        rgba: Vec<u8>,
    },
    /// A worker failed at an order.
    Trouble(Trouble),
}

impl From<Trouble> for Message {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

/// The first answer to a question of the planner: what bars need.
pub struct Planned {
    /// The question's number.
    pub number: u64,
    /// The plan, or why there is none.
    pub plan: Result<Box<Plan>, String>,
    /// Its bars, without formulas.
    pub bars: Option<Bars>,
    /// The cards, not priced.
    pub sections: Vec<Section>,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// What to know before reading the plan: its cautions, and choices that have no effect.
    pub notes: Vec<String>,
}

/// The second answer: what takes many plans.
pub struct Priced {
    /// The question's number.
    pub number: u64,
    /// The cards with prices.
    pub sections: Vec<Section>,
    /// What else would fit.
    pub inverse: Option<Inverse>,
    /// What else would fit of fine-tuning.
    pub train_inverse: Option<TrainInverse>,
    /// Every choice of fine-tuning with what it needs; none while generating.
    pub fits: Vec<Fit>,
    /// The cheapest way back below the limit.
    pub way_back: Option<WayBack>,
    /// Planned peak of each point of a sweep in bytes, where it has one.
    pub points: Vec<Option<u64>>,
    /// The bars with formulas.
    pub bars: Bars,
    /// What would lie where at the peak, the largest first.
    pub pieces: Vec<Piece>,
}

/// What a run sends while it goes on.
pub enum RunMessage {
    /// It has a prompt, and a folder if one could be made.
    Began {
        /// The folder's name.
        name: String,
        /// The prompt.
        prompt: Prompt,
    },
    /// Events in order.
    Events(Vec<Numbered>),
    /// Why its folder cannot be written (any more): the run goes on.
    Unsaved(String),
    /// It is over: nothing follows.
    Ended,
}

/// What the threads of files and dialogs send.
pub enum FileMessage {
    /// The machine, and why a saved one is not used.
    Machine(Box<Machine>, Option<String>),
    /// Names of the GPUs there are.
    Gpus(Vec<String>),
    /// RAM as it is now.
    Memory(Memory),
    /// The runs there are.
    Runs(Vec<RunSummary>),
    /// A run, replayed.
    Replay(Box<Live>),
    /// Two runs to be put side by side.
    Pair(Box<[Live; 2]>),
    /// The path of a file to open.
    PathToOpen(PathBuf),
    /// The path of a file that was saved.
    SavedPath(PathBuf),
    /// What went wrong.
    Trouble(Trouble),
}
