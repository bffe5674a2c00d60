//! Jobs: a configuration run with real tensors on its own threads. Commands in, events out.
//!
//! One compute job at a time, on named threads. A panic in a job ends the job, not the program. Channels are bounded: what
//! only shows the present (progress, memory) may be dropped when nobody reads, what adds up (tokens, evictions) may not.

mod account;
pub(crate) mod backend;
pub mod bench;
mod broken;
pub(crate) mod candle;
pub mod dump;
pub mod fault;
#[cfg(all(test, feature = "cuda"))]
mod gpu_tests;
pub mod infer;
pub(crate) mod reference;
pub mod train;
mod train_place;
mod train_show;
pub mod verify;

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use crate::report::protocol::{Command, Event, Numbered};

use crate::config::train::Validation;
use crate::config::{Config, KnobValue};
use crate::error::{Error, Result};
use crate::ledger::{Ledger, alloc, files};
use crate::machine::Machine;
use crate::model::Model;
use crate::output::Care;
use crate::plan;

/// What a job runs.
#[derive(Clone, Debug)]
pub struct Order {
    /// The configuration.
    pub config: Config,
    /// The opened model.
    pub model: Arc<Model>,
    /// Where plans take bandwidths from.
    pub machine: Machine,
    /// What relative paths in the configuration are relative to.
    pub base: PathBuf,
    /// Where tensors go (`--dump`).
    pub dump: Option<PathBuf>,
    /// Where what is learned goes when the configuration names no folder (`train.out`); `None`: nowhere.
    pub keep: Option<PathBuf>,
    /// Where the folder of the run goes (`--out`), which whoever reads the events writes; it counts as what the job itself writes.
    pub folder: Option<PathBuf>,
    /// What may be written over; beside its inputs, those that the configuration names are kept out of harm's way.
    pub care: Care,
}

impl Order {
    /// The same, whose wall on the disk is what is free now where most is written: in a folder that it names, or else in the
    /// cache folder.
    #[must_use]
    pub fn on_its_disk(mut self) -> Self {
        let out = self.config.train.as_ref().filter(|t| !t.out.is_empty()).map(|t| self.base.join(&t.out));
        let named = [self.dump.clone(), out, self.keep.clone(), self.folder.clone()];
        let place = named.into_iter().flatten().next();
        self.machine.free_at(place.as_deref());
        self
    }

    /// What is written for it must not touch what it reads.
    pub fn care(&self) -> Care {
        let mut care = self.care.clone();
        care.inputs.extend(self.model.files());
        let mut add = |path: &str| care.inputs.extend((!path.is_empty()).then(|| self.base.join(path)));
        if let Some(train) = &self.config.train {
            if !crate::train::data::made(&train.data) {
                add(&train.data);
            }
            if let Validation::File(path) = &train.validation {
                add(path);
            }
        }
        for knobs in self.config.eval.values() {
            if let Some(KnobValue::Text(file)) = knobs.0.get("file") {
                add(file);
            }
        }
        care
    }
}

/// A running job.
#[derive(Debug)]
pub struct Job {
    commands: SyncSender<Command>,
    ledger: Arc<Ledger>,
    /// Its events, in order.
    pub events: Receiver<Numbered>,
    cancel: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Events that may wait for a reader before a job waits too.
const EVENTS: usize = 1024;
/// How long [`Job::next_event`] waits between two looks; the job has room for far more events than it makes until then.
const LOOK: Duration = Duration::from_millis(4);
/// Commands that may wait for a step's edge.
const COMMANDS: usize = 16;

impl Job {
    /// Starts a job on a thread of its own.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(order: Order) -> Result<Self> {
        let (commands, inbox) = sync_channel(COMMANDS);
        let (outbox, events) = sync_channel(EVENTS);
        let cancel = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&cancel);
        // It heeds the flag in inference alone: a training's buffers come matrix by matrix, and a step that has begun is not to lose
        // one, nor is what is saved after it.
        let ledger = Ledger::within(plan::walls(&order.config, &order.machine));
        let account = Arc::clone(&ledger);
        let thread = std::thread::Builder::new()
            .name("ullage-engine".into())
            .stack_size(8 << 20)
            .spawn(move || {
                alloc::set_scope(alloc::Scope::Engine);
                let mut tell = EventSender { outbox, next: 0, start: Instant::now(), cancel: Arc::clone(&flag) };
                let run = || {
                    order.model.runs()?;
                    match order.config.train {
                        Some(_) => train::run(&order, &account, &inbox, &mut tell, &flag),
                        None => infer::run(&order, &account, &inbox, &mut tell, &flag),
                    }
                };
                let done = std::panic::catch_unwind(AssertUnwindSafe(|| files::accounted(&account, run)));
                let failed = match done {
                    Ok(Ok(())) => None,
                    Ok(Err(e)) => Some(e),
                    Err(panic) => Some(Error::Internal(panic_text(&*panic))),
                };
                if let Some(error) = failed {
                    tell.event(Event::Failed { error: (&error).into() });
                }
            })
            .map_err(|e| Error::Internal(format!("cannot start the engine thread: {e}")))?;
        Ok(Self { commands, ledger, events, cancel, thread: Some(thread) })
    }

    /// The next event, once there is one; none after the last. Looks now and then: a reader that is woken for each event takes a
    /// core from the job's workers, and all the others wait for the one that lost it.
    pub fn next_event(&self) -> Option<Numbered> {
        loop {
            match self.events.try_recv() {
                Ok(event) => return Some(event),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) => std::thread::sleep(LOOK),
            }
        }
    }

    /// Sends a command; [`Command::Cancel`] takes effect within the operation that is running.
    pub fn send(&self, command: Command) {
        if command == Command::Cancel {
            self.cancel.store(true, Ordering::Relaxed);
        }
        // A full inbox means that the job has not reached a step's edge: the command would change nothing sooner.
        let _ = self.commands.try_send(command);
    }

    /// Its account.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// A flag that cancels when set, for signal handlers.
    pub fn cancel_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.cancel)
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.cancel.store(true, Ordering::Relaxed);
        // The job may wait for room in the channel: make some until it ends.
        while self.events.recv().is_ok() {}
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text =
        panic.downcast_ref::<&str>().map(|s| (*s).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without words".into())
}

/// The job's end of the event channel.
pub(crate) struct EventSender {
    outbox: SyncSender<Numbered>,
    next: u64,
    start: Instant,
    cancel: Arc<AtomicBool>,
}

impl EventSender {
    /// Sends an event that must arrive; nobody listening any more cancels the job.
    pub fn event(&mut self, event: Event) {
        let numbered = self.number(event);
        if self.outbox.send(numbered).is_err() {
            self.cancel.store(true, Ordering::Relaxed);
        }
    }

    /// Sends what may be dropped.
    pub fn snapshot(&mut self, event: Event) {
        let numbered = self.number(event);
        if let Err(TrySendError::Full(_)) = self.outbox.try_send(numbered) {
            // The number stays unused, so that a reader can tell that something was left out.
        }
    }

    /// Seconds since the job's start.
    pub fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    fn number(&mut self, event: Event) -> Numbered {
        self.next += 1;
        Numbered { n: self.next, seconds: self.seconds(), event }
    }
}
