//! One run at a time, away from the window: its job's events become batches for the window and lines of its run folder.

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use ullage_core::job::protocol::{Event, Failure, Numbered};
use ullage_core::job::{Command, Job, Order};
use ullage_core::report::Report;
use ullage_core::report::folder::{Folder, write_whole};
use ullage_core::{Error, Result};

use super::live::Prompt;
use super::opener::Opened;
use super::session::Message;
use super::worker::{Outbox, panic_text};

/// Least time between two batches: the window need not draw more often than an eye follows.
const BATCH: Duration = Duration::from_millis(33);
/// How often commands are looked for while nothing comes from the job.
const LOOK: Duration = Duration::from_millis(10);

/// Which line of the accuracy picture a run belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Line {
    /// The sweep's name; empty for a run of its own.
    pub series: String,
    /// The point's keys and values, in words.
    pub label: String,
}

/// What a run tells the window.
pub enum Told {
    /// It has a prompt, and a folder if one could be made.
    Began { name: String, prompt: Prompt },
    /// Events in order.
    Events(Vec<Numbered>),
    /// Its folder cannot be written (any more): the run goes on.
    Unsaved(String),
    /// It is over.
    Over,
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
    pub fn start(order: Order, opened: Arc<Opened>, runs: PathBuf, line: Line, outbox: Outbox) -> Result<Self> {
        let (commands, inbox) = sync_channel(16);
        let (config, model) = (order.config.clone(), Arc::clone(&order.model));
        let job = Job::start(order)?;
        let cancel = job.cancel_flag();
        let run = move || {
            let told = std::panic::catch_unwind(AssertUnwindSafe(|| {
                let prompt = prompt(&config, &model.shape, &opened);
                follow(job, &inbox, &runs, prompt, &line, &outbox);
            }));
            if let Err(panic) = told {
                let error = Failure::from(&Error::Internal(panic_text(&*panic)));
                let event = Numbered { n: 0, seconds: 0.0, event: Event::Failed { error } };
                outbox.send(Message::Run(Told::Events(vec![event])));
            }
            outbox.send(Message::Run(Told::Over));
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

fn prompt(
    config: &ullage_core::config::Config,
    shape: &ullage_core::model::shape::ModelShape,
    opened: &Opened,
) -> Prompt {
    let ids = opened.words.prompt(config).unwrap_or_default();
    let piece = |id: &u32| match &opened.words.tokenizer {
        Some(t) => String::from_utf8_lossy(&t.piece(*id)).into_owned(),
        None => format!("⟨{id}⟩"),
    };
    let heads = shape.layers.first().map_or((0, 0, 0), |l| (shape.layers.len(), l.heads, l.kv_heads));
    Prompt { tokens: ids.iter().map(|id| (*id, piece(id))).collect(), heads }
}

/// Makes a folder of this moment's name, or that name and a number where it is taken.
fn folder(runs: &Path, prompt: &Prompt, line: &Line) -> Result<(String, Folder, PathBuf)> {
    let base = super::clock::name(super::clock::now());
    let name = (1..1000)
        .map(|i| if i == 1 { base.clone() } else { format!("{base}-{i}") })
        .find(|name| !runs.join(name).exists())
        .unwrap_or_else(|| format!("{base}-{}", std::process::id()));
    let dir = runs.join(&name);
    let folder = Folder::create(&dir)?;
    let json = |v: serde_json::Result<Vec<u8>>| v.map_err(|e| Error::Internal(format!("writing the run folder: {e}")));
    write_whole(&dir.join("prompt.json"), &json(serde_json::to_vec(prompt))?)?;
    if *line != Line::default() {
        write_whole(&dir.join("line.json"), &json(serde_json::to_vec(line))?)?;
    }
    Ok((name, folder, dir))
}

fn follow(job: Job, inbox: &Receiver<Command>, runs: &Path, prompt: Prompt, line: &Line, outbox: &Outbox) {
    let unsaved = |e: &Error| outbox.send(Message::Run(Told::Unsaved(e.to_string())));
    let (name, mut folder, dir) = match folder(runs, &prompt, line) {
        Ok((name, folder, dir)) => (name, Some(folder), Some(dir)),
        Err(e) => {
            unsaved(&e);
            ("unsaved run".into(), None, None)
        }
    };
    outbox.send(Message::Run(Told::Began { name, prompt }));
    let mut report = Report::default();
    let (mut waiting, mut last) = (Vec::new(), Instant::now());
    // The job never waits for the window: what the window has no room for waits here.
    let pass_on = |waiting: &mut Vec<Numbered>, last: &mut Instant, now: bool| {
        if !waiting.is_empty() && (now || last.elapsed() >= BATCH) {
            *last = Instant::now();
            if let Err(Message::Run(Told::Events(back))) =
                outbox.offer(Message::Run(Told::Events(std::mem::take(waiting))))
            {
                *waiting = back;
            }
        }
    };
    loop {
        while let Ok(command) = inbox.try_recv() {
            job.send(command);
        }
        match job.events.recv_timeout(LOOK) {
            Ok(event) => {
                if let Some(f) = &mut folder
                    && let Err(e) = f.event(&event)
                {
                    unsaved(&e);
                    folder = None;
                }
                report.add(&event);
                let now = matches!(
                    event.event,
                    Event::Paused | Event::Resumed | Event::Finished { .. } | Event::Failed { .. }
                );
                waiting.push(event);
                pass_on(&mut waiting, &mut last, now);
            }
            Err(RecvTimeoutError::Timeout) => pass_on(&mut waiting, &mut last, false),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    // The folder is whole before the window hears the end, so that the history finds it.
    if let Some(folder) = folder {
        match &report.config {
            Some(_) => {
                if let Err(e) = folder.finish(&report) {
                    unsaved(&e);
                }
            }
            // It was refused before anything began: there is nothing to keep.
            None => {
                drop(folder);
                if let Some(dir) = dir {
                    let _ = std::fs::remove_dir_all(dir);
                }
            }
        }
    }
    if !waiting.is_empty() {
        outbox.send(Message::Run(Told::Events(waiting)));
    }
}
