//! The team: a fixed set of named threads that share out the tasks of one operation.
//!
//! A decoded token is about 150 short parallel regions, so what counts is latency: a region starts by one store that
//! spinning workers see, and allocates nothing. A worker spins for at most [`SPIN`] after its last task and then parks,
//! so that an idle team uses no CPU. The caller works too (worker 0) and never waits for a worker that has not woken.
//!
//! Each worker has a share of the tasks, the same of every region with as many, so that it finds in its own cache what it
//! read there last; it claims them on a line of memory that is its own, and then what others have left of theirs. One
//! counter for all would go from core to core with each task: of 16 threads and 96 tasks, longer than the tasks take.
//!
//! Tasks are claimed in any order by any worker: an operation must make every task write its own part of the output, with
//! a partition and a reduction order that do not depend on the number of threads. Then neither do its bits.
#![allow(unsafe_code, reason = "work of threads that outlives no call")]

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use crate::ledger::alloc::{Scope, set_scope};
use crate::{Error, Result};

/// How long an idle worker spins before it parks: longer than what a decoding step leaves to one thread, such as choosing a
/// token among fifty thousand.
pub const SPIN: Duration = Duration::from_micros(200);

/// How long the caller waits for the last tasks of others by spinning, before it lets the system run something else.
const JOIN_SPIN: Duration = Duration::from_micros(60);

/// Elements of an operation from which on a team shares them out; waking workers costs more than fewer do.
pub const SHARED: usize = 16 << 10;

/// The job was cancelled: the operation's output is incomplete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cancelled;

impl From<Cancelled> for Error {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

impl std::fmt::Display for Cancelled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cancelled")
    }
}

impl std::error::Error for Cancelled {}

/// What a region runs: `(task, worker)`.
type Body<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// One cache line each, so that claiming a task does not slow the waiting.
#[repr(align(128))]
struct Line<T>(T);

struct Shared {
    head: Line<Head>,
    /// What each worker has claimed of its share.
    claims: Box<[Line<Claimed>]>,
    /// Whether each worker but the caller may be looking at the region.
    active: Box<[Line<AtomicBool>]>,
    asleep: Box<[AtomicBool]>,
    cancel: Arc<AtomicBool>,
    /// How many are at what must not be left half done: until they are through, nothing is cancelled.
    undisturbed: AtomicUsize,
    panicked: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    stop: AtomicBool,
}

/// What opens a region, on one line: who sees the epoch has the rest.
struct Head {
    /// Odd while a region is open; only the caller that holds `ThreadTeam::entry` changes it.
    epoch: AtomicU64,
    /// Written while `epoch` is even and no worker is active, read while `epoch` is odd by workers that are.
    body: UnsafeCell<Option<&'static Body<'static>>>,
    tasks: AtomicUsize,
}

/// The tasks claimed of a worker's share, in the lower half, in the region whose epoch ends with the upper half; none yet
/// in any other. So no region has to clear what the last one left.
#[derive(Default)]
struct Claimed(AtomicU64);

impl Claimed {
    /// The next task of a share of `of` that nobody has claimed in the region `epoch`.
    fn next(&self, epoch: u32, of: u32) -> Option<u32> {
        let mut seen = self.0.load(Relaxed);
        loop {
            let n = if (seen >> 32) as u32 == epoch { seen as u32 } else { 0 };
            if n >= of {
                return None;
            }
            let now = u64::from(epoch) << 32 | u64::from(n + 1);
            match self.0.compare_exchange_weak(seen, now, Relaxed, Relaxed) {
                Ok(_) => return Some(n),
                Err(other) => seen = other,
            }
        }
    }

    /// Whether something is left of a share of `of`.
    fn left(&self, epoch: u32, of: u32) -> bool {
        let seen = self.0.load(Relaxed);
        of > 0 && ((seen >> 32) as u32 != epoch || (seen as u32) < of)
    }
}

/// How tasks are shared out among workers: the first ones have one more.
#[derive(Clone, Copy)]
struct Shares {
    each: usize,
    more: usize,
}

impl Shares {
    const fn new(tasks: usize, workers: usize) -> Self {
        Self { each: tasks / workers, more: tasks % workers }
    }

    /// Where a worker's share starts, and how many tasks it is.
    fn of(self, worker: usize) -> (usize, u32) {
        let more = usize::from(worker < self.more);
        (worker * self.each + worker.min(self.more), (self.each + more) as u32)
    }
}

impl Shared {
    fn cancelled(&self) -> bool {
        self.cancel.load(Relaxed) && self.undisturbed.load(Relaxed) == 0
    }
}

// SAFETY: `body` follows the protocol written on it; all else is Sync by itself.
unsafe impl Sync for Shared {}

thread_local! {
    /// This thread's worker index while it runs a task, so that a region inside a task runs in place.
    static INSIDE: Cell<Option<usize>> = const { Cell::new(None) };
}

/// A fixed team of worker threads; dropped, it ends them.
pub struct ThreadTeam {
    shared: Arc<Shared>,
    workers: Vec<(Thread, Option<JoinHandle<()>>)>,
    entry: Mutex<()>,
}

impl ThreadTeam {
    /// A team of `threads` workers (at least 1), the caller of [`Self::run`] being one of them.
    ///
    /// # Errors
    /// [`Error::Internal`] when the system gives no thread.
    pub fn new(threads: usize) -> Result<Self> {
        Self::with_cancel(threads, Arc::default())
    }

    /// As [`Self::new`], cancelled by setting `cancel`; the one who sets it clears it.
    ///
    /// # Errors
    /// [`Error::Internal`] when the system gives no thread.
    pub fn with_cancel(threads: usize, cancel: Arc<AtomicBool>) -> Result<Self> {
        let others = threads.max(1) - 1;
        let shared = Arc::new(Shared {
            head: Line(Head { epoch: AtomicU64::new(0), body: UnsafeCell::new(None), tasks: AtomicUsize::new(0) }),
            claims: (0..=others).map(|_| Line(Claimed::default())).collect(),
            active: (0..others).map(|_| Line(AtomicBool::new(false))).collect(),
            asleep: (0..others).map(|_| AtomicBool::new(false)).collect(),
            cancel,
            undisturbed: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            panic: Mutex::new(None),
            stop: AtomicBool::new(false),
        });
        let mut team = Self { shared, workers: Vec::with_capacity(others), entry: Mutex::new(()) };
        for worker in 1..=others {
            let shared = Arc::clone(&team.shared);
            let handle = thread::Builder::new()
                .name(format!("ullage-worker-{worker}"))
                .spawn(move || work(&shared, worker))
                .map_err(|e| Error::Internal(format!("cannot start worker thread {worker}: {e}")))?;
            team.workers.push((handle.thread().clone(), Some(handle)));
        }
        Ok(team)
    }

    /// Workers, the caller among them.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// The flag that cancels the region in progress and those after it until it is cleared.
    pub fn cancel_flag(&self) -> &Arc<AtomicBool> {
        &self.shared.cancel
    }

    /// Whether the flag is set and may be followed, for long tasks to look at now and then.
    pub fn cancelled(&self) -> bool {
        self.shared.cancelled()
    }

    /// Until what this returns is dropped, the flag is not followed: for what must not be left half done.
    pub fn undisturbed(&self) -> Undisturbed {
        self.shared.undisturbed.fetch_add(1, Relaxed);
        Undisturbed(Arc::clone(&self.shared))
    }

    /// Runs `body(task, worker)` for every task in `0..tasks`, each once, `worker < threads()` being the same for no two
    /// tasks at a time. Inside a task, runs the tasks in place, under the outer task's worker index.
    ///
    /// # Errors
    /// [`Cancelled`] when the flag was seen set before the last task was started. Tasks should take ≤ 10 ms each.
    ///
    /// # Panics
    /// With the first panic of a task, after the tasks already begun have ended.
    pub fn run(&self, tasks: usize, body: &Body<'_>) -> Result<(), Cancelled> {
        let s = &*self.shared;
        if let Some(worker) = INSIDE.get() {
            return in_place(s, tasks, worker, body);
        }
        let _entry = self.entry.lock().unwrap_or_else(PoisonError::into_inner);
        if self.workers.is_empty() || tasks <= 1 {
            INSIDE.set(Some(0));
            let _leave = Leave;
            return in_place(s, tasks, 0, body);
        }
        if tasks > u32::MAX as usize {
            // A share would not be counted in 32 bits. What asks for so many small tasks runs them in larger ones.
            let run = tasks.div_ceil(u32::MAX as usize);
            return self.open(tasks.div_ceil(run), &|task, worker| {
                (task * run..((task + 1) * run).min(tasks)).for_each(|task| body(task, worker));
            });
        }
        self.open(tasks, body)
    }

    /// Runs a region of at least 2 tasks; `entry` is held.
    fn open(&self, tasks: usize, body: &Body<'_>) -> Result<(), Cancelled> {
        let s = &*self.shared;
        // SAFETY: the epoch is even and no worker was active when the last region ended, and workers that enter now see the
        // even epoch and leave without reading. The borrow outlives its use: this function returns only once the epoch is
        // even again and no worker is active.
        unsafe {
            *s.head.0.body.get() = Some(std::mem::transmute::<&Body<'_>, &'static Body<'static>>(body));
        }
        s.head.0.tasks.store(tasks, Relaxed);
        let epoch = s.head.0.epoch.load(Relaxed) + 1;
        if epoch as u32 == 1 {
            // Once in 2³¹ regions the numbers begin again: what is left of the last round must not look like this one's.
            s.claims.iter().for_each(|c| c.0.0.store(0, Relaxed));
        }
        s.head.0.epoch.store(epoch, SeqCst);
        for (asleep, (thread, _)) in s.asleep.iter().zip(&self.workers).take(tasks - 1) {
            if asleep.load(SeqCst) {
                thread.unpark();
            }
        }
        claim(s, epoch, tasks, 0, body);
        s.head.0.epoch.store(epoch + 1, SeqCst);
        wait_for_others(s);
        if s.panicked.swap(false, Relaxed) {
            let panic = s.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(panic) = panic {
                resume_unwind(panic);
            }
        }
        // A cancelled claim leaves tasks unclaimed; each that was claimed has been run.
        let shares = Shares::new(tasks, s.claims.len());
        let left = s.claims.iter().enumerate().any(|(w, c)| c.0.left(epoch as u32, shares.of(w).1));
        if left { Err(Cancelled) } else { Ok(()) }
    }
}

impl Drop for ThreadTeam {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        for (thread, handle) in &mut self.workers {
            thread.unpark();
            if let Some(handle) = handle.take() {
                // A worker catches the panics of its tasks, so joining cannot fail for them.
                drop(handle.join());
            }
        }
    }
}

/// A team is not cancelled while this is held.
pub struct Undisturbed(Arc<Shared>);

impl Drop for Undisturbed {
    fn drop(&mut self) {
        self.0.undisturbed.fetch_sub(1, Relaxed);
    }
}

struct Leave;

impl Drop for Leave {
    fn drop(&mut self) {
        INSIDE.set(None);
    }
}

fn in_place(s: &Shared, tasks: usize, worker: usize, body: &Body<'_>) -> Result<(), Cancelled> {
    for task in 0..tasks {
        if s.cancelled() {
            return Err(Cancelled);
        }
        body(task, worker);
    }
    Ok(())
}

/// Claims tasks, those of the worker's own share first, until none is left, the region closes, the run is cancelled, or one
/// panics.
fn claim(s: &Shared, epoch: u64, tasks: usize, worker: usize, body: &Body<'_>) {
    INSIDE.set(Some(worker));
    let _leave = Leave;
    let workers = s.claims.len();
    let shares = Shares::new(tasks, workers);
    for of in (worker..workers).chain(0..worker) {
        // The caller closes a region once it found no task left: then nobody else need look.
        if of != worker && s.head.0.epoch.load(Relaxed) != epoch {
            return;
        }
        let (first, n) = shares.of(of);
        loop {
            if s.cancelled() || s.panicked.load(Relaxed) {
                return;
            }
            let Some(task) = s.claims[of].0.next(epoch as u32, n) else { break };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(first + task as usize, worker))) {
                s.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
                s.panicked.store(true, Relaxed);
            }
        }
    }
}

fn wait_for_others(s: &Shared) {
    let mut spins = 0u32;
    let mut since = None;
    for active in &s.active {
        while active.0.load(SeqCst) {
            spins += 1;
            if !spins.is_multiple_of(64) {
                std::hint::spin_loop();
            } else if since.get_or_insert_with(Instant::now).elapsed() > JOIN_SPIN {
                thread::yield_now();
            }
        }
    }
}

fn work(s: &Shared, worker: usize) {
    set_scope(Scope::Engine);
    let active = &s.active[worker - 1].0;
    let mut seen = 0;
    loop {
        seen = wait_for_region(s, worker, seen);
        if s.stop.load(SeqCst) {
            return;
        }
        if worker >= s.head.0.tasks.load(Relaxed) {
            // No share for this worker. Should this be the number of a region opened since, the caller does its share.
            continue;
        }
        // Said before the epoch is read again: either this sees the region closed, or its caller sees us and waits.
        active.store(true, SeqCst);
        let now = s.head.0.epoch.load(SeqCst);
        if now % 2 == 1 {
            // SAFETY: the region is open and its caller waits for us before it returns or writes it again.
            if let Some(body) = unsafe { *s.head.0.body.get() } {
                claim(s, now, s.head.0.tasks.load(Relaxed), worker, body);
            }
        }
        active.store(false, SeqCst);
        seen = now;
    }
}

/// Waits for an open region after `seen`; returns early, to no harm, when the team ends.
fn wait_for_region(s: &Shared, worker: usize, seen: u64) -> u64 {
    let asleep = &s.asleep[worker - 1];
    let ready = || {
        let epoch = s.head.0.epoch.load(SeqCst);
        (epoch != seen && epoch % 2 == 1).then_some(epoch)
    };
    let mut since = Instant::now();
    loop {
        for _ in 0..64 {
            if let Some(epoch) = ready() {
                return epoch;
            }
            std::hint::spin_loop();
        }
        if s.stop.load(SeqCst) {
            return seen;
        }
        if since.elapsed() > SPIN {
            asleep.store(true, SeqCst);
            if ready().is_none() && !s.stop.load(SeqCst) {
                thread::park();
            }
            asleep.store(false, SeqCst);
            since = Instant::now();
        }
    }
}

/// A pointer that tasks share, each writing its own elements behind it.
#[derive(Clone, Copy)]
pub(crate) struct SharedMut<T>(*mut T, usize);

// SAFETY: whoever makes slices from it promises that those of concurrent tasks are disjoint.
unsafe impl<T: Send> Send for SharedMut<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedMut<T> {}

impl<T> SharedMut<T> {
    pub(crate) fn new(slice: &mut [T]) -> Self {
        Self(slice.as_mut_ptr(), slice.len())
    }

    /// Elements `start..start + len`.
    ///
    /// # Safety
    /// No other live slice of the same memory overlaps the range.
    pub(crate) unsafe fn slice<'a>(self, start: usize, len: usize) -> &'a mut [T] {
        assert!(start <= self.1 && len <= self.1 - start, "range outside the shared slice");
        // SAFETY: in bounds by the assertion, disjoint by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }

    /// Elements `start..start + len`, to read.
    ///
    /// # Safety
    /// No live mutable slice of the same memory overlaps the range.
    pub(crate) unsafe fn read<'a>(self, start: usize, len: usize) -> &'a [T] {
        assert!(start <= self.1 && len <= self.1 - start, "range outside the shared slice");
        // SAFETY: in bounds by the assertion, not written by the caller's promise.
        unsafe { std::slice::from_raw_parts(self.0.add(start), len) }
    }

    /// The element at `start`, as a pointer, for kernels that write strided elements.
    pub(crate) fn at(self, start: usize) -> *mut T {
        assert!(start < self.1, "element outside the shared slice");
        // SAFETY: in bounds by the assertion.
        unsafe { self.0.add(start) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_whatever_the_number_of_threads() {
        for threads in [1, 2, 3, 7] {
            let team = ThreadTeam::new(threads).unwrap();
            for tasks in [0, 1, 2, 5, 64, 1000] {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                for round in 1..=20 {
                    team.run(tasks, &|task, worker| {
                        assert!(worker < threads);
                        counts[task].fetch_add(1, Relaxed);
                    })
                    .unwrap();
                    assert!(counts.iter().all(|c| c.load(Relaxed) == round));
                }
            }
        }
    }

    #[test]
    fn regions_follow_each_other_fast_and_slow() {
        let team = ThreadTeam::new(2).unwrap();
        let sum = AtomicUsize::new(0);
        for round in 0..20_000 {
            if round % 5_000 == 0 {
                thread::sleep(Duration::from_millis(2)); // the worker parks here
            }
            team.run(4, &|task, _| {
                sum.fetch_add(task, Relaxed);
            })
            .unwrap();
        }
        assert_eq!(sum.load(Relaxed), 20_000 * 6);
    }

    #[test]
    fn what_a_busy_worker_leaves_of_its_share_others_do() {
        let team = ThreadTeam::new(3).unwrap();
        for (tasks, slow) in [(9, 0), (9, 3), (9, 8), (2, 0), (2, 1), (100, 50)] {
            let done = AtomicUsize::new(0);
            team.run(tasks, &|task, _| {
                while task == slow && done.load(SeqCst) + 1 < tasks {
                    thread::yield_now();
                }
                done.fetch_add(1, SeqCst);
            })
            .unwrap();
            assert_eq!(done.into_inner(), tasks);
        }
    }

    #[test]
    fn shares_are_all_tasks_in_order() {
        for (tasks, workers) in [(0, 1), (1, 1), (2, 16), (16, 16), (17, 16), (100, 7), (96, 16)] {
            let shares = Shares::new(tasks, workers);
            let mut at = 0;
            for worker in 0..workers {
                let (first, n) = shares.of(worker);
                assert_eq!(first, at);
                at += n as usize;
                assert!((tasks / workers..=tasks.div_ceil(workers)).contains(&(n as usize)));
            }
            assert_eq!(at, tasks);
        }
    }

    #[test]
    fn regions_are_told_apart_when_their_numbers_begin_again() {
        let team = ThreadTeam::new(2).unwrap();
        let ran = AtomicUsize::new(0);
        let run = || {
            team.run(8, &|_, _| {
                ran.fetch_add(1, Relaxed);
            })
            .unwrap();
        };
        run(); // leaves the claims of epoch 1
        team.shared.head.0.epoch.store(1 << 32, SeqCst);
        run(); // epoch 2³² + 1 ends alike
        assert_eq!(ran.load(Relaxed), 16);
    }

    #[test]
    fn no_worker_runs_two_tasks_at_once() {
        let team = ThreadTeam::new(4).unwrap();
        let busy: Vec<AtomicBool> = (0..4).map(|_| AtomicBool::new(false)).collect();
        team.run(400, &|_, worker| {
            assert!(!busy[worker].swap(true, SeqCst));
            thread::yield_now();
            assert!(busy[worker].swap(false, SeqCst));
        })
        .unwrap();
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_lives_on() {
        let team = ThreadTeam::new(3).unwrap();
        for _ in 0..50 {
            let caught =
                catch_unwind(AssertUnwindSafe(|| team.run(30, &|task, _| assert_ne!(task, 17, "task seventeen"))));
            let message = caught.unwrap_err();
            assert!(message.downcast_ref::<String>().unwrap().contains("task seventeen"));
            assert_eq!(team.run(30, &|_, _| ()), Ok(()));
        }
    }

    #[test]
    fn what_is_undisturbed_runs_to_its_end_and_is_cancelled_after_it() {
        for threads in [1, 3] {
            let team = ThreadTeam::new(threads).unwrap();
            team.cancel_flag().store(true, Relaxed);
            let (outer, inner) = (team.undisturbed(), team.undisturbed());
            drop(inner);
            let done = AtomicUsize::new(0);
            let count = |_, _| {
                done.fetch_add(1, Relaxed);
            };
            team.run(100, &count).unwrap();
            assert!(done.load(Relaxed) == 100 && !team.cancelled());
            drop(outer);
            assert!(team.cancelled() && team.run(100, &count).is_err());
        }
    }

    #[test]
    fn cancelling_stops_between_tasks_and_clearing_resumes() {
        for threads in [1, 2] {
            let team = ThreadTeam::new(threads).unwrap();
            let ran = AtomicUsize::new(0);
            let result = team.run(1000, &|task, _| {
                ran.fetch_add(1, Relaxed);
                if task == 10 {
                    team.cancel_flag().store(true, Relaxed);
                }
                thread::sleep(Duration::from_millis(1));
            });
            assert_eq!(result, Err(Cancelled));
            assert!((11..50).contains(&ran.load(Relaxed)), "{ran:?}");
            team.cancel_flag().store(false, Relaxed);
            assert_eq!(team.run(10, &|_, _| ()), Ok(()));
        }
    }

    #[test]
    fn a_region_inside_a_task_runs_in_place() {
        let team = ThreadTeam::new(2).unwrap();
        let sum = AtomicUsize::new(0);
        team.run(4, &|_, outer| {
            team.run(5, &|_, inner| {
                assert_eq!(inner, outer);
                sum.fetch_add(1, Relaxed);
            })
            .unwrap();
        })
        .unwrap();
        assert_eq!(sum.load(Relaxed), 20);
    }

    #[test]
    fn callers_on_several_threads_take_turns() {
        let team = ThreadTeam::new(2).unwrap();
        let sum = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        team.run(3, &|_, _| {
                            sum.fetch_add(1, Relaxed);
                        })
                        .unwrap();
                    }
                });
            }
        });
        assert_eq!(sum.load(Relaxed), 4500);
    }
}
