//! The one place that every operation of a device passes: cancellation, failures on purpose, counts and spans.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Instant;

use super::Cost;
use crate::error::{Error, Result};
use crate::ops::{ThreadTeam, Undisturbed};

/// An operation that has run, for a timeline.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// The operation's name, of [`super::Op::name`].
    pub name: &'static str,
    /// What it took by its description.
    pub cost: Cost,
    /// Seconds until the call came back: those of the operation where it has run by then, else of queueing it.
    pub seconds: f64,
}

/// What a device has been asked for.
#[derive(Default)]
pub struct Meter {
    team: Option<Arc<ThreadTeam>>,
    operations: Cell<u64>,
    total: Cell<Cost>,
    launched: Cell<u64>,
    fail_at: Cell<Option<u64>>,
    observer: RefCell<Option<Box<dyn FnMut(Span) + Send>>>,
}

impl Meter {
    /// Of a device whose work ends when `team` is cancelled.
    pub fn new(team: &Arc<ThreadTeam>) -> Self {
        Self { team: Some(Arc::clone(team)), ..Self::default() }
    }

    /// Until what this returns is dropped, operations are not cancelled: for what must not be left half done.
    pub fn undisturbed(&self) -> Option<Undisturbed> {
        self.team.as_ref().map(|team| team.undisturbed())
    }

    /// Operations begun so far, the failed ones among them.
    pub fn operations(&self) -> u64 {
        self.operations.get()
    }

    /// Whether somebody observes: what a step of inference takes is worked out only then.
    pub fn observed(&self) -> bool {
        self.observer.borrow().is_some()
    }

    /// What all operations that ran took by their descriptions; of inference, those that ran while somebody observed.
    pub fn total(&self) -> Cost {
        self.total.get()
    }

    /// Kernels that were really launched, on a device that launches any.
    pub fn launched(&self) -> u64 {
        self.launched.get()
    }

    /// Counts a launch, where one is made.
    pub fn launch(&self) {
        self.launched.set(self.launched.get() + 1);
    }

    /// The `n`-th operation from now on, counted from 1, fails as a lost device does; how tests see what that does to a step.
    pub fn fail_at(&self, n: u64) {
        self.fail_at.set(Some(self.operations.get() + n));
    }

    /// From now on `observer` hears of each operation that has run; none to stop.
    pub fn observe(&self, observer: Option<Box<dyn FnMut(Span) + Send>>) {
        *self.observer.borrow_mut() = observer;
    }

    /// Runs `work`, the operation `name` of `cost`, unless the job was cancelled or this one is to fail.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; [`Error::Device`] where asked for; what `work` returns.
    pub fn run(&self, name: &'static str, cost: Cost, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let cancelled = self.team.as_ref().is_some_and(|t| t.cancelled());
        self.run_unless(cancelled, name, cost, work)
    }

    /// The same for work whose team its caller knows.
    ///
    /// # Errors
    /// As [`Self::run`].
    #[inline]
    pub fn run_unless(
        &self,
        cancelled: bool,
        name: &'static str,
        cost: Cost,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        if cancelled {
            return Err(Error::Cancelled);
        }
        let number = self.operations.get() + 1;
        self.operations.set(number);
        if self.fail_at.get() == Some(number) {
            self.fail_at.set(None);
            return Err(Error::Device(format!("operation {number} ({name}) failed")));
        }
        if !self.observed() {
            // Hundreds of steps a token: nothing more is done where nobody looks.
            work()?;
            self.count(cost);
            return Ok(());
        }
        let begin = Instant::now();
        work()?;
        self.count(cost);
        if let Some(observer) = self.observer.borrow_mut().as_mut() {
            observer(Span { name, cost, seconds: begin.elapsed().as_secs_f64() });
        }
        Ok(())
    }

    /// Adds what an operation took to the total.
    #[inline]
    fn count(&self, cost: Cost) {
        if cost != Cost::default() {
            let mut total = self.total.get();
            total += cost;
            self.total.set(total);
        }
    }
}
