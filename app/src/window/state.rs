//! What is open, chosen, planned and running, as data: no threads, no channels. The session changes it, [`show`](super::show) turns it
//! into a view.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use ullage_core::config::Config;
use ullage_core::machine::{Card, Machine};
use ullage_core::model::discover;
use ullage_core::plan::{Inverse, Plan, TrainInverse};
use ullage_panels::view::{Adapter, AdapterUse, Bars, Data, Fit, Notice, Pair, Piece, Section, Series, WayBack};

use super::document::Document;
use super::history::RunSummary;
use super::live::{Live, SeriesLabel};
use super::opened::{Adapted, OpenModel, OutlinedModel, Wanted};
use super::store::Remembered;

/// A point of a sweep, waiting.
pub struct Point {
    /// Which line of the accuracy picture it is on.
    pub line: SeriesLabel,
    /// What it runs.
    pub config: Config,
}

/// A merge of an adapter into the weights that goes on.
#[derive(Clone, Copy, Debug)]
pub struct MergeProgress {
    /// Bytes written.
    pub done: u64,
    /// Bytes in all; 0 while that is not known.
    pub total: u64,
    /// When it began.
    pub begun: Instant,
}

impl MergeProgress {
    /// Seconds left at the speed so far; `None` before the first bytes.
    pub fn seconds_left(&self) -> Option<f64> {
        let (done, left) = (self.done as f64, self.total.saturating_sub(self.done) as f64);
        (done > 0.0).then(|| self.begun.elapsed().as_secs_f64() * left / done)
    }
}

/// The workbench's state.
pub struct State {
    /// The configuration and its past.
    pub document: Document,
    /// Where runs and what is remembered are kept.
    pub data: PathBuf,
    /// What the next start remembers.
    pub remembered: Remembered,
    /// The model of the configuration, or the last one that could be opened.
    pub opened: Option<Arc<OpenModel>>,
    /// The model of the configuration, where it is planned and not run.
    pub outlined: Option<Box<OutlinedModel>>,
    /// The path being opened as a model of the configuration.
    pub opening: Option<Wanted>,
    /// The model of the configuration that could not be opened.
    pub unopened: Option<Wanted>,
    /// The adapter that can be switched on and off, and the model it is for.
    pub adapted: Option<Adapted>,
    /// A merge that goes on.
    pub merging: Option<MergeProgress>,
    /// This machine.
    pub machine: Arc<Machine>,
    /// The familiar machine that is planned for instead of this one.
    pub familiar: Option<(&'static Card, Arc<Machine>)>,
    /// Names of this machine's GPUs that a run could use, by number.
    pub gpus: Vec<String>,
    /// Models that other programs brought to this disk.
    pub discovered: Vec<discover::Found>,
    /// The plan of the configuration.
    pub plan: Option<Box<Plan>>,
    /// Why there is none; empty when there is one, or when none was asked for.
    pub no_plan: String,
    /// What to know before reading it: cautions, and choices that have no effect.
    pub notes: Vec<String>,
    /// The plan's bars.
    pub predicted: Option<Bars>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// The cards.
    pub sections: Arc<Vec<Section>>,
    /// What else would fit.
    pub inverse: Option<Inverse>,
    /// What else would fit of fine-tuning.
    pub train_inverse: Option<TrainInverse>,
    /// Every choice of fine-tuning with what it needs.
    pub fits: Arc<Vec<Fit>>,
    /// The cheapest way back below the limit.
    pub way_back: Option<WayBack>,
    /// What training data come to, as far as they were read.
    pub data_read: Arc<Data>,
    /// What would lie where at the peak.
    pub pieces: Vec<Piece>,
    /// True when the newest question has no whole answer.
    pub planning: bool,
    /// True while a run goes on.
    pub running: bool,
    /// True when it was asked to end and has not yet.
    pub stopping: bool,
    /// Since when the window waits for it to end before it closes.
    pub leaving: Option<Instant>,
    /// The run of this session, going on or over.
    pub live: Option<Live>,
    /// A run of the history that is shown instead.
    pub replayed: Option<Live>,
    /// Points of sweeps still to be run.
    pub queue: VecDeque<Point>,
    /// Their planned peaks in bytes.
    pub planned_points: Vec<Option<u64>>,
    /// The runs on disk.
    pub runs: Arc<Vec<RunSummary>>,
    /// Curves measured elsewhere.
    pub curves: Vec<Series>,
    /// Two runs side by side.
    pub pair: Option<Box<Pair>>,
    /// The moment of the timeline scrubbed to.
    pub moment: Option<usize>,
    /// What of this machine is being measured, and how much of all is done (0 … 1).
    pub probing: Option<(String, f32)>,
    /// Messages to the person in front of it.
    pub notices: Vec<Notice>,
}

impl State {
    /// The state before anything was opened.
    pub fn new(config: Config, data: PathBuf, remembered: Remembered) -> Self {
        Self {
            document: Document::new(config),
            data,
            remembered,
            opened: None,
            outlined: None,
            opening: None,
            unopened: None,
            adapted: None,
            merging: None,
            machine: Arc::new(Machine::default_guess()),
            familiar: None,
            gpus: Vec::new(),
            discovered: Vec::new(),
            plan: None,
            no_plan: String::new(),
            notes: Vec::new(),
            predicted: None,
            prompt_tokens: 0,
            sections: Arc::default(),
            inverse: None,
            train_inverse: None,
            fits: Arc::default(),
            way_back: None,
            data_read: Arc::default(),
            pieces: Vec::new(),
            planning: false,
            running: false,
            stopping: false,
            leaving: None,
            live: None,
            replayed: None,
            queue: VecDeque::new(),
            planned_points: Vec::new(),
            runs: Arc::default(),
            curves: Vec::new(),
            pair: None,
            moment: None,
            probing: None,
            notices: Vec::new(),
        }
    }

    /// The configuration as it is chosen now.
    pub fn config(&self) -> &Config {
        self.document.config()
    }

    /// The folder of run folders.
    pub fn runs_folder(&self) -> PathBuf {
        self.data.join("runs")
    }

    /// The folder of models with an adapter merged into them, as an absolute path.
    pub fn merged_folder(&self) -> PathBuf {
        let merged = self.data.join("merged");
        std::path::absolute(&merged).unwrap_or(merged)
    }

    /// The run on screen.
    pub fn shown(&self) -> Option<&Live> {
        self.replayed.as_ref().or(self.live.as_ref())
    }

    /// The same, to be changed.
    pub fn shown_mut(&mut self) -> Option<&mut Live> {
        self.replayed.as_mut().or(self.live.as_mut())
    }

    /// The machine that plans are for.
    pub fn planned_machine(&self) -> Arc<Machine> {
        Arc::clone(self.familiar.as_ref().map_or(&self.machine, |(_, machine)| machine))
    }

    /// Why a run cannot begin now; empty when it can.
    pub fn blocked(&self) -> String {
        let wanted = Wanted::of(self.config());
        match &self.opened {
            _ if self.opening.is_some() => "A model is being opened.".into(),
            _ if self.merging.is_some() => "An adapter is being merged.".into(),
            Some(opened) if opened.wanted == wanted => match opened.model.runs() {
                Ok(()) => self.unplanned(),
                Err(why) => why.to_string(),
            },
            _ => match &self.outlined {
                Some(of) => format!("It can be planned, not run: {}.", of.outline.why),
                None => "No model is open.".into(),
            },
        }
    }

    /// Why the open model cannot run as it is planned; empty when it can.
    fn unplanned(&self) -> String {
        if let Some((card, _)) = &self.familiar {
            return format!("This is a plan for {}; choose a device of this machine to run.", card.name);
        }
        match &self.plan {
            _ if self.probing.is_some() => "This machine is being measured.".into(),
            None if self.planning => "It is being planned.".into(),
            None => self.no_plan.clone(),
            Some(plan) => plan.over.as_ref().map_or(String::new(), |over| {
                let beyond = over.needed.saturating_sub(over.budget);
                format!("It needs {} more than the memory limit.", ullage_panels::words::bytes(beyond))
            }),
        }
    }

    /// What the model answered to the prompt as it stands, if it did.
    pub fn answer(&self) -> Option<String> {
        let now = &self.config().run;
        let live = self.live.as_ref().filter(|l| l.over)?;
        let then = &live.config()?.run;
        let same = then.chat && (&then.prompt, &then.turns, &then.system) == (&now.prompt, &now.turns, &now.system);
        let text = live.report.output.first().map(|o| o.text.clone())?;
        (same && !text.is_empty()).then_some(text)
    }

    /// How the adapter that is known is used by the configuration; none when it is for another model.
    pub fn adapter_switch(&self) -> Option<Adapter> {
        let config = self.config();
        let adapted = self.adapted.as_ref().filter(|_| config.train.is_none())?;
        let now = Wanted::of(config);
        let now = match &now.adapter {
            Some(_) if now == adapted.on => AdapterUse::On,
            None if now.path == adapted.on.path => AdapterUse::Off,
            None if Path::new(&now.path) == adapted.merged => AdapterUse::Merged,
            _ => return None,
        };
        let name = adapted.on.adapter.clone().unwrap_or_default();
        Some(Adapter { now, name, merging: self.merging.is_some() })
    }
}
