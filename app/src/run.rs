//! `ullage run`, and the bundled demo.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use ullage_core::Result;
use ullage_core::catalog::from_toml;
use ullage_core::config::Config;
use ullage_core::job::{Event, Job, Order};
use ullage_core::plan::cautions;
use ullage_core::report::folder::Folder;
use ullage_core::report::{Report, summary};

use crate::args;
use crate::source::{self, Loaded, say, say_json};

/// The flag that Ctrl-C sets; a second Ctrl-C ends the program.
static INTERRUPT: Mutex<Option<Arc<AtomicBool>>> = Mutex::new(None);

/// Lets Ctrl-C set `flag`.
pub fn on_interrupt(flag: Arc<AtomicBool>) {
    static ONCE: Once = Once::new();
    *INTERRUPT.lock().unwrap_or_else(PoisonError::into_inner) = Some(flag);
    ONCE.call_once(|| {
        let set = ctrlc::set_handler(|| {
            let flag = INTERRUPT.lock().unwrap_or_else(PoisonError::into_inner).clone();
            match flag {
                Some(flag) if !flag.swap(true, Ordering::Relaxed) => eprintln!("\ncancelling"),
                _ => std::process::exit(1),
            }
        });
        if let Err(e) = set {
            eprintln!("note: Ctrl-C ends the program at once: {e}");
        }
    });
}

/// Progress on stderr: a bar on a terminal, a line every few seconds elsewhere.
pub struct Progress {
    bar: Option<ProgressBar>,
    last: Instant,
    hidden: bool,
}

impl Progress {
    pub fn new(hidden: bool) -> Self {
        let bar = (!hidden && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new(0);
            if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {percent}%") {
                bar.set_style(style);
            }
            bar
        });
        Self { bar, last: Instant::now(), hidden }
    }

    pub fn set(&mut self, what: &str, done: u64, total: u64, left: f64) {
        if self.hidden {
            return;
        }
        match &self.bar {
            Some(bar) => {
                bar.set_length(total);
                bar.set_position(done);
                bar.set_message(format!("{what}, {left:.0} s left"));
            }
            None if self.last.elapsed() >= Duration::from_secs(2) => {
                self.last = Instant::now();
                eprintln!("{what}: {} %, {left:.0} s left", 100 * done / total.max(1));
            }
            None => {}
        }
    }

    /// A line that stays.
    pub fn line(&self, text: &str) {
        match &self.bar {
            _ if self.hidden => {}
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }

    pub fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Runs an order to its end, told of in the folder `out`; `text` hears the tokens of sequence 0 as they come.
///
/// # Errors
/// A run folder that cannot be written. A run that fails is in the report.
pub fn execute(order: Order, out: Option<&PathBuf>, quiet: bool, text: &mut dyn FnMut(&str)) -> Result<Report> {
    let folder = out.map(|dir| Folder::create(dir, &order.care())).transpose()?;
    follow(order, folder, quiet, text)
}

/// As [`execute`], with a run folder that is open already.
///
/// # Errors
/// As [`execute`].
pub fn follow(mut order: Order, mut folder: Option<Folder>, quiet: bool, text: &mut dyn FnMut(&str)) -> Result<Report> {
    order.folder = folder.as_ref().map(|folder| folder.dir().to_owned());
    let order = order.on_its_disk();
    let train = order.config.train.is_some();
    let job = Job::start(order)?;
    if let Some(folder) = &mut folder {
        folder.within(job.ledger())?;
    }
    let cancel = job.cancel_flag();
    on_interrupt(Arc::clone(&cancel));
    let mut report = Report::default();
    let mut progress = Progress::new(quiet);
    while let Some(event) = job.next_event() {
        match &event.event {
            Event::Started { plan, .. } if !quiet => {
                plan.notes.iter().for_each(|note| progress.line(&format!("note: {note}")));
            }
            Event::Token { sequence: 0, text: piece, .. } | Event::Ended { sequence: 0, text: piece, .. } => {
                progress.clear();
                text(piece);
            }
            Event::Progress { done, total, seconds_left, what } if what != "decoding" || quiet => {
                progress.set(what, *done, *total, *seconds_left);
            }
            Event::TrainStep { step, loss, seconds, .. } if !quiet => {
                progress.line(&match loss {
                    Some(loss) => format!("step {step}: loss {loss:.4}, {seconds:.2} s"),
                    None => format!("step {step}: its rows have no target: nothing to learn from, nothing changed"),
                });
            }
            Event::Validation { step, loss, accuracy, answers, .. } if !quiet => {
                let right =
                    accuracy.map_or_else(String::new, |a| format!(", {:.1} % of {answers} answers right", 100.0 * a));
                progress.line(&format!("step {step}: held-out loss {loss:.4}{right}"));
            }
            Event::Saved { step, path } if train && !quiet && cancel.load(Ordering::Relaxed) => {
                progress.line(&format!("step {step}: saved in {path}; train.resume=true goes on from there"));
            }
            Event::Sample { step, prompt, text, .. } if !quiet => {
                progress.line(&format!("step {step}: {:?} goes on {:?}", prompt.trim(), text.trim()));
            }
            _ => {}
        }
        if let Some(folder) = &mut folder {
            folder.event(&event)?;
        }
        report.add(&event);
    }
    progress.clear();
    if let Some(folder) = folder {
        folder.finish(&report)?;
    }
    Ok(report)
}

pub fn run(args: &args::Run) -> Result<u8> {
    let loaded = source::load(&args.source, &[])?;
    let mut order = source::order(&loaded)?;
    for note in cautions(&order.config, &order.model.shape, &order.machine) {
        eprintln!("note: {note}");
    }
    order.care.force = args.force;
    if args.dump {
        order.dump = Some(args.out.clone().unwrap_or_else(|| PathBuf::from("dump")));
    }
    show(order, args.out.as_ref(), args.json)
}

/// The prompt as it stands before its text: an answer of a chat begins a line.
pub fn prompt_of(config: &Config) -> String {
    let run = &config.run;
    format!("{}{}", run.prompt, if run.chat { "\n\n" } else { "" })
}

fn show(order: Order, out: Option<&PathBuf>, json: bool) -> Result<u8> {
    let prompt = prompt_of(&order.config);
    let mut started = false;
    let done = execute(order, out, json, &mut |piece| {
        if !json {
            if !std::mem::replace(&mut started, true) {
                say(&prompt);
            }
            say(piece);
        }
    });
    if done.is_err() && started {
        say("\n");
    }
    let report = done?;
    if json {
        say_json(&report)?;
    } else if report.config.as_ref().is_some_and(|c| c.train.is_some()) {
        // Training speaks by its lines and its table.
    } else if started {
        for (i, output) in report.output.iter().enumerate().skip(1) {
            say(&format!("\n\n[sequence {}] {prompt}{}", i + 1, output.text));
        }
        say("\n\n");
    }
    if let Some(error) = &report.error {
        eprintln!("error: {}", error.message);
        return Ok(error.code);
    }
    if !json {
        say(&summary(&report));
        if let Some(dir) = out {
            say(&format!("written  {}\n", dir.display()));
        }
    }
    // What was asked for has no figure.
    let diverged = report.diverged();
    for (what, place) in &diverged {
        eprintln!("error: {what} diverged: {place}");
    }
    Ok(u8::from(!diverged.is_empty()))
}

/// What the bundled demo asks: a story of its own grammar.
const DEMO: &str = include_str!("../../assets/demo.toml");

/// The bundled model, headless: text, the planned and measured table, and speed.
pub fn demo(why: &str) -> Result<u8> {
    eprintln!("no window: {why}; running the bundled model (see `ullage --help`)");
    let loaded = Loaded { config: from_toml(DEMO, &[])?, base: PathBuf::from("."), file: None };
    show(source::order(&loaded)?, None, false)
}
