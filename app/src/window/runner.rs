//! One run at a time, away from the window: its job's events become batches for the window and lines of its run folder.

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use ullage_core::job::{Command, Job, Order};
use ullage_core::output::Care;
use ullage_core::report::Report;
use ullage_core::report::folder::Folder;
use ullage_core::report::protocol::{Event, Failure, Numbered};
use ullage_core::{Error, Result};

use super::live::{Prompt, SeriesLabel};
use super::message::{Message, RunMessage};
use super::opened::OpenModel;
use super::worker::{Outbox, panic_text};

/// Time between two looks at what the job has told: waking once for many events disturbs the engine less than once for each.
const LOOK: Duration = Duration::from_millis(10);
/// Events taken at a look. As many as that, and the next look follows at once, so that the job does not wait for it.
const LOT: usize = 256;
/// Least and most time between two batches: an eye follows no more, and sees no less as going on.
const BATCH: [Duration; 2] = [Duration::from_millis(33), Duration::from_millis(100)];
/// How many times a frame's own work lies between two batches: what the window may take from the engine is a share of a core.
const SHARE: u32 = 60;

/// How often a window draws what runs: rarer where its frames cost more, because every core it works on is one that the engine
/// waits for.
#[derive(Clone, Debug, Default)]
pub struct Pace(Arc<AtomicU64>);

impl Pace {
    /// Takes in how long a frame's logic and layout took; tessellation comes on top, and is allowed for.
    pub fn took(&self, frame: Duration) {
        // Only the window's thread writes. The mean follows slowly: a single long frame changes nothing.
        let (before, now) = (self.0.load(Ordering::Relaxed), frame.as_nanos().min(1 << 40) as u64);
        self.0.store(if before == 0 { now } else { before - before / 8 + now / 8 }, Ordering::Relaxed);
    }

    /// Least time between two batches.
    pub fn batch(&self) -> Duration {
        (Duration::from_nanos(self.0.load(Ordering::Relaxed)) * SHARE).clamp(BATCH[0], BATCH[1])
    }
}

/// A run going on.
pub struct Running {
    commands: SyncSender<Command>,
    cancel: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Running {
    /// Starts `order` with a folder under `runs`.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        order: Order,
        opened: Arc<OpenModel>,
        runs: PathBuf,
        line: SeriesLabel,
        pace: Pace,
        outbox: Outbox<Message>,
    ) -> Result<Self> {
        let (commands, inbox) = sync_channel(16);
        let (config, model) = (order.config.clone(), Arc::clone(&order.model));
        let job = Job::start(order)?;
        let cancel = job.cancel_flag();
        let run = move || {
            let told = std::panic::catch_unwind(AssertUnwindSafe(|| {
                let prompt = prompt(&config, &model.shape, &opened);
                follow(job, &inbox, &runs, prompt, &line, &pace, &outbox);
            }));
            if let Err(panic) = told {
                let error = Failure::from(&Error::Internal(panic_text(&*panic)));
                let event = Numbered { n: 0, seconds: 0.0, event: Event::Failed { error } };
                outbox.send(Message::Run(RunMessage::Events(vec![event])));
            }
            outbox.send(Message::Run(RunMessage::Ended));
        };
        let thread = std::thread::Builder::new()
            .name("ullage-run".into())
            .spawn(run)
            .map_err(|e| Error::Internal(format!("cannot start the run's thread: {e}")))?;
        Ok(Self { commands, cancel, thread: Some(thread) })
    }

    /// Pauses, resumes or steps.
    pub fn send(&self, command: Command) {
        if command == Command::Cancel {
            self.cancel.store(true, Ordering::Relaxed);
        }
        let _ = self.commands.try_send(command);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.cancel.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // The thread may wait for a window that no longer listens; it is not waited for.
            if thread.is_finished() {
                let _ = thread.join();
            }
        }
    }
}

fn prompt(config: &ullage_core::config::Config, shape: &ullage_core::shape::ModelShape, opened: &OpenModel) -> Prompt {
    // Training reads rows of its data, no prompt.
    let ids = if config.train.is_some() { Vec::new() } else { opened.words.prompt(config).unwrap_or_default() };
    let texts = match &opened.words.tokenizer {
        Some(tokenizer) => tokenizer.spell(&ids),
        None => ids.iter().map(|id| format!("⟨{id}⟩")).collect(),
    };
    let heads =
        shape.layers.first().map_or((0, 0, 0), |l| (shape.layers.len(), l.attention.heads, l.attention.kv_heads));
    Prompt { tokens: ids.into_iter().zip(texts).collect(), heads }
}

/// Makes a folder of this moment's name, or that name and a number where it is taken.
fn folder(runs: &Path, prompt: &Prompt, line: &SeriesLabel) -> Result<(String, Folder, PathBuf)> {
    let base = super::clock::name();
    let name = (1..1000)
        .map(|i| if i == 1 { base.clone() } else { format!("{base}-{i}") })
        .find(|name| !runs.join(name).exists())
        .unwrap_or_else(|| format!("{base}-{}", std::process::id()));
    let dir = runs.join(&name);
    let folder = Folder::create(&dir, &Care::default())?;
    let json = |v: serde_json::Result<Vec<u8>>| v.map_err(|e| Error::Internal(format!("writing the run folder: {e}")));
    folder.put("prompt.json", &json(serde_json::to_vec(prompt))?)?;
    if *line != SeriesLabel::default() {
        folder.put("line.json", &json(serde_json::to_vec(line))?)?;
    }
    Ok((name, folder, dir))
}

fn follow(
    job: Job,
    inbox: &Receiver<Command>,
    runs: &Path,
    prompt: Prompt,
    line: &SeriesLabel,
    pace: &Pace,
    outbox: &Outbox<Message>,
) {
    let (name, mut kept) = Keeping::begin(runs, &prompt, line, outbox);
    outbox.send(Message::Run(RunMessage::Began { name, prompt }));
    let mut report = Report::default();
    let mut batches = Batches { waiting: Vec::new(), last: Instant::now(), pace, outbox };
    let mut lot = Vec::with_capacity(LOT);
    loop {
        while let Ok(command) = inbox.try_recv() {
            job.send(command);
        }
        let over = take(&job, &mut lot);
        kept.write(&lot);
        lot.iter().for_each(|event| report.add(event));
        let full = lot.len() == LOT;
        batches.pass_on(&mut lot);
        if over {
            break;
        }
        if !full {
            std::thread::sleep(LOOK);
        }
    }
    // The folder is whole before the window hears the end, so that the history finds it.
    kept.finish(&report);
    if !batches.waiting.is_empty() {
        outbox.send(Message::Run(RunMessage::Events(batches.waiting)));
    }
}

/// Fills `lot` with what the job has told; true once it tells no more.
fn take(job: &Job, lot: &mut Vec<Numbered>) -> bool {
    while lot.len() < LOT {
        match job.events.try_recv() {
            Ok(event) => lot.push(event),
            Err(e) => return e == TryRecvError::Disconnected,
        }
    }
    false
}

/// The run folder for as long as it can be written; the window hears once why it no longer can.
struct Keeping<'a> {
    open: Option<(Folder, PathBuf)>,
    outbox: &'a Outbox<Message>,
}

impl<'a> Keeping<'a> {
    /// Makes the folder of a run, and says what the run is called.
    fn begin(runs: &Path, prompt: &Prompt, line: &SeriesLabel, outbox: &'a Outbox<Message>) -> (String, Self) {
        let mut kept = Self { open: None, outbox };
        match folder(runs, prompt, line) {
            Ok((name, folder, dir)) => {
                kept.open = Some((folder, dir));
                (name, kept)
            }
            Err(e) => {
                kept.unsaved(&e);
                ("unsaved run".into(), kept)
            }
        }
    }

    fn unsaved(&self, e: &Error) {
        self.outbox.send(Message::Run(RunMessage::Unsaved(e.to_string())));
    }

    fn write(&mut self, lot: &[Numbered]) {
        if let Some((folder, _)) = &mut self.open
            && let Err(e) = folder.events(lot)
        {
            self.unsaved(&e);
            self.open = None;
        }
    }

    /// Writes the report, or removes the folder of a run that was refused before anything began: there is nothing to keep.
    fn finish(mut self, report: &Report) {
        let Some((folder, dir)) = self.open.take() else { return };
        if report.config.is_none() {
            drop(folder);
            let _ = std::fs::remove_dir_all(dir);
        } else if let Err(e) = folder.finish(report) {
            self.unsaved(&e);
        }
    }
}

/// Events on their way to the window, some at a time. The job never waits for the window: what it has no room for waits here.
struct Batches<'a> {
    waiting: Vec<Numbered>,
    /// When the last ones went.
    last: Instant,
    pace: &'a Pace,
    outbox: &'a Outbox<Message>,
}

impl Batches<'_> {
    /// Takes a lot in, and offers what waits: at once where the run takes a turn, else when it is time.
    fn pass_on(&mut self, lot: &mut Vec<Numbered>) {
        let turn = |e: &Numbered| {
            matches!(e.event, Event::Paused | Event::Resumed | Event::Finished { .. } | Event::Failed { .. })
        };
        let now = lot.iter().any(turn);
        self.waiting.append(lot);
        if !self.waiting.is_empty() && (now || self.last.elapsed() >= self.pace.batch()) {
            self.last = Instant::now();
            let batch = std::mem::take(&mut self.waiting);
            if let Err(back) = self.outbox.offer(Message::Run(RunMessage::Events(batch)))
                && let Message::Run(RunMessage::Events(back)) = *back
            {
                self.waiting = back;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_that_cost_more_are_rarer_within_what_an_eye_takes() {
        let ms = Duration::from_millis;
        let pace = Pace::default();
        assert_eq!(pace.batch(), BATCH[0], "nothing was drawn yet");
        pace.took(ms(1));
        assert_eq!(pace.batch(), ms(60));
        // One long frame does not make the next ones rare.
        pace.took(ms(2));
        assert!(pace.batch() > ms(60) && pace.batch() < ms(70), "{:?}", pace.batch());
        (0..60).for_each(|_| pace.took(ms(50)));
        assert_eq!(pace.batch(), BATCH[1]);
        (0..200).for_each(|_| pace.clone().took(Duration::from_micros(90)));
        assert_eq!(pace.batch(), BATCH[0]);
    }
}
