//! What panels ask the program to do.

use crate::view::Sets;

/// One thing asked for. Panels never do it themselves.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Ask for a model or configuration with the system's dialog.
    OpenDialog,
    /// Open a model, a configuration (`.toml`), a run folder, or a curve (`.csv`).
    Open(String),
    /// Set keys of the configuration, as one step of undo called by the words given. Steps of one drag share a number, so
    /// that undo takes them back together.
    Set {
        /// What undo calls it.
        what: String,
        /// Keys and values.
        sets: Sets,
        /// The drag or typing it belongs to; `None` for a step of its own.
        gesture: Option<u64>,
    },
    /// Change to a [`Mode`](crate::view::Mode), by its id.
    Mode(String),
    /// Take the last change of the configuration back.
    Undo,
    /// Do it again.
    Redo,
    /// Plan for a familiar card's memory and bandwidth (a [`Tick`](crate::view::Tick)'s device), or for this machine when empty.
    PlanFor(String),
    /// Generate and measure with the adapter beside the weights, without it, or merged into them.
    Adapter(crate::view::AdapterUse),
    /// Run the configuration.
    Run,
    /// Wait at the next token.
    Pause,
    /// Go on.
    Resume,
    /// One token more, then wait.
    Step,
    /// End the run.
    Stop,
    /// Answer again: the last message of the conversation, without the answer it had.
    Regenerate,
    /// Send a message in the conversation.
    Say(String),
    /// Replace message `turn` and forget what came after it.
    EditTurn {
        /// Which message.
        turn: usize,
        /// What it says now.
        content: String,
    },
    /// Start the conversation again.
    ClearChat,
    /// Run a list of configurations, each these keys on top of the present one, and draw them as one line.
    Sweep {
        /// Its name in the legend.
        name: String,
        /// Keys of each point.
        points: Vec<Sets>,
    },
    /// Drop what is left of a sweep.
    StopSweep,
    /// Scrub: show bars, map and places of this moment of the timeline; `None` for the peak.
    ScrubTo(Option<usize>),
    /// Keep this (layer, head) at full size in the next run; `None` for none.
    WatchHead(Option<(usize, usize)>),
    /// Show a run of the history everywhere.
    OpenRun(String),
    /// Take a run's configuration.
    TakeConfig(String),
    /// Put two runs side by side; `None` ends the comparison.
    Compare(Option<[String; 2]>),
    /// Delete a run's folder (the panel has asked whether it is meant).
    DeleteRun(String),
    /// Show the history's folder with the system's file manager.
    ShowFolder,
    /// Save the configuration, asking where.
    ExportDialog,
    /// Copy the configuration as TOML.
    CopyToml,
    /// Put text on the clipboard.
    Copy(String),
    /// Save a picture's file, asking where; the name has its extension (`.svg`, `.csv`).
    SaveFile {
        /// Name to suggest.
        name: String,
        /// What is in it.
        content: String,
    },
    /// Save what is on screen within a rectangle as PNG, asking where.
    SavePng {
        /// Name to suggest.
        name: String,
        /// In points.
        rect: egui::Rect,
    },
    /// Measure this machine.
    Probe,
    /// Put a notice away.
    PutAway(u64),
}
