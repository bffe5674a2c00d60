//! The ledger: the measured account, and the wall.
//!
//! Every payload byte is reserved here before it exists ([`Buffer::new`]); a reservation that would cross its tier's
//! budget fails with the typed error. The ledger keeps, by tier × category × phase, what is held now and the most that
//! was ever held, and the composition of each tier at its peak.

pub mod alloc;
mod blocks;
mod buffer;
pub mod files;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use serde::{Deserialize, Serialize};

pub use blocks::{BlockAccount, Blocks};
pub use buffer::{ALIGN, Buffer, Reservation};

pub use crate::accounts::{Category, Phase, Tier};
use crate::error::{Error, OverBudget, Result};

/// What may be held at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Walls {
    /// By tier, in the order of [`Tier::ALL`]; `u64::MAX` for no limit.
    pub tiers: [u64; TIERS],
    /// On device and host together, where both are the same memory.
    pub together: u64,
    /// Whether each is what the machine has, and not what the configuration grants.
    pub machine: [bool; TIERS],
}

impl Walls {
    /// Those of budgets alone.
    pub const fn of(device: u64, host: u64, disk: u64) -> Self {
        Self { tiers: [device, host, disk], together: u64::MAX, machine: [false; TIERS] }
    }

    /// That of a tier.
    pub fn at(&self, tier: Tier) -> u64 {
        self.tiers[tier as usize]
    }
}

impl Default for Walls {
    fn default() -> Self {
        Self::of(u64::MAX, u64::MAX, u64::MAX)
    }
}

const TIERS: usize = 3;
const CATEGORIES: usize = 9;

/// What fits when it is not the budget that is too small.
const NO_MEMORY: &str = "the system has no memory left; lower the budget";

/// Bytes by category.
pub type ByCategory = BTreeMap<Category, u64>;

/// What a reservation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag {
    /// Where.
    pub tier: Tier,
    /// What for.
    pub category: Category,
    /// The named row: stable, short, shown to the user (`kv rows`, `attention tiles`).
    pub name: &'static str,
}

impl Tag {
    /// A tag of the device tier.
    pub const fn device(category: Category, name: &'static str) -> Self {
        Self { tier: Tier::Device, category, name }
    }

    /// A tag of the host tier.
    pub const fn host(category: Category, name: &'static str) -> Self {
        Self { tier: Tier::Host, category, name }
    }
}

/// One tier × phase: the peak, what it was made of, and each category's own maximum.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Most bytes held at once.
    pub peak: u64,
    /// Composition at that instant.
    pub at_peak: ByCategory,
    /// Each category's own maximum.
    pub bytes: ByCategory,
}

/// Measured bytes of a whole job, in the shape of a report's `measured`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// Over the whole job, by tier.
    pub tiers: BTreeMap<Tier, Account>,
    /// By phase, then tier.
    pub phases: BTreeMap<Phase, BTreeMap<Tier, Account>>,
    /// Largest value of each named row, by tier and category.
    pub rows: BTreeMap<String, u64>,
    /// Bytes moved: read from disk, copied between tiers, shifted inside the cache.
    pub moved: BTreeMap<String, u64>,
    /// Most bytes on device and host together, whatever is kept only to be shown included.
    #[serde(default)]
    pub together: u64,
}

/// One thing that happened to a traced account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A phase began.
    Enter(Phase),
    /// Bytes were reserved.
    Reserve {
        /// Under what.
        tag: Tag,
        /// How many.
        bytes: u64,
        /// Of this reservation.
        id: u64,
    },
    /// The reservation of this id was given back.
    Release {
        /// Which.
        id: u64,
    },
}

/// What is held right now, by tier and category.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held(pub BTreeMap<Tier, ByCategory>);

#[derive(Clone, Copy, Default)]
struct Cell {
    now: [u64; CATEGORIES],
    total: u64,
}

#[derive(Clone, Copy, Default)]
struct High {
    peak: u64,
    at_peak: [u64; CATEGORIES],
    max: [u64; CATEGORIES],
}

impl High {
    fn raise(&mut self, cell: &Cell) {
        for (max, now) in self.max.iter_mut().zip(cell.now) {
            *max = (*max).max(now);
        }
        if cell.total > self.peak {
            self.peak = cell.total;
            self.at_peak = cell.now;
        }
    }

    fn account(&self) -> Account {
        let by = |values: &[u64; CATEGORIES]| {
            Category::ALL.iter().zip(values).filter(|(_, v)| **v > 0).map(|(c, v)| (*c, *v)).collect()
        };
        Account { peak: self.peak, at_peak: by(&self.at_peak), bytes: by(&self.max) }
    }
}

struct State {
    phase: Phase,
    cells: [Cell; TIERS],
    high: [High; TIERS],
    phases: BTreeMap<Phase, [High; TIERS]>,
    rows: BTreeMap<Tag, (u64, u64)>,
    moved: BTreeMap<&'static str, u64>,
    operations: u64,
    /// Reservations asked for, the refused ones among them, and the one that is to fail.
    asked: u64,
    fail_at: Option<u64>,
    trace: Option<Vec<Step>>,
    crossed: Option<OverBudget>,
    /// On device and host: now, and at most.
    together: (u64, u64),
}

/// The account of one job. Shared by its threads; cheap, because payload is reserved by phases, layers and pages, not by
/// operations.
pub struct Ledger {
    walls: Walls,
    /// False for a draft: what would be refused is noted and granted.
    firm: bool,
    /// Set when the job is to end: large buffers take a while to be had.
    cancel: OnceLock<Arc<AtomicBool>>,
    state: Mutex<State>,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").field("walls", &self.walls).finish_non_exhaustive()
    }
}

impl Ledger {
    /// A fresh account with a budget for each tier (`u64::MAX`: no limit).
    pub fn new(device: u64, host: u64, disk: u64) -> Arc<Self> {
        Self::within(Walls::of(device, host, disk))
    }

    /// A fresh account within `walls`.
    pub fn within(walls: Walls) -> Arc<Self> {
        Self::start(walls, true, None)
    }

    /// An account for drawing up a plan: what would cross a budget is granted all the same, and the first time is noted
    /// ([`Self::first_crossing`]). A traced one remembers every step ([`Self::trace`]).
    pub fn draft(walls: Walls, traced: bool) -> Arc<Self> {
        Self::start(walls, false, traced.then(Vec::new))
    }

    fn start(walls: Walls, firm: bool, trace: Option<Vec<Step>>) -> Arc<Self> {
        let mut phases = BTreeMap::new();
        phases.insert(Phase::Load, [High::default(); TIERS]);
        Arc::new(Self {
            walls,
            firm,
            cancel: OnceLock::new(),
            state: Mutex::new(State {
                phase: Phase::Load,
                cells: [Cell::default(); TIERS],
                high: [High::default(); TIERS],
                phases,
                rows: BTreeMap::new(),
                moved: BTreeMap::new(),
                operations: 0,
                asked: 0,
                fail_at: None,
                trace,
                crossed: None,
                together: (0, 0),
            }),
        })
    }

    /// The same, whose buffers are not made any more once `cancel` is set.
    #[must_use]
    pub fn heeding(self: Arc<Self>, cancel: &Arc<AtomicBool>) -> Arc<Self> {
        // Only the first is heeded; a ledger is one job's.
        let _ = self.cancel.set(Arc::clone(cancel));
        self
    }

    fn cancelled(&self) -> bool {
        self.cancel.get().is_some_and(|flag| flag.load(Relaxed))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves plain counters, which stay valid.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves and allocates CPU memory; see [`Buffer::new`].
    pub fn buffer(self: &Arc<Self>, tag: Tag, len: usize) -> Result<Buffer> {
        Buffer::new(self, tag, len)
    }

    /// Counts `bytes` under `tag`, or fails without counting anything.
    pub fn reserve(self: &Arc<Self>, tag: Tag, bytes: u64) -> Result<Reservation> {
        let id = self.take(tag, bytes)?;
        Ok(Reservation::new(Arc::clone(self), tag, bytes, id))
    }

    /// Counts `bytes` under `tag` and says by which number, or fails without counting anything.
    fn take(&self, tag: Tag, bytes: u64) -> Result<u64> {
        let (t, c) = (tag.tier as usize, tag.category as usize);
        let mut state = self.lock();
        state.asked += 1;
        if state.fail_at == Some(state.asked) {
            return Err(Error::OverBudget(Box::new(self.crossing(&state, tag, bytes, Some(NO_MEMORY.into())))));
        }
        let total = state.cells[t].total;
        let memory = tag.tier != Tier::Disk;
        let both = if memory { state.cells[0].total + state.cells[1].total } else { 0 };
        let within = |held: u64, wall: u64| held.checked_add(bytes).is_some_and(|sum| sum <= wall);
        let fits = within(total, self.walls.tiers[t]) && (!memory || within(both, self.walls.together));
        // What is kept only to be shown is bounded by its own knob, not by the wall.
        if !fits && tag.category != Category::Observation {
            // A sum that no number holds cannot be granted even in a draft.
            if self.firm || total.checked_add(bytes).is_none() {
                return Err(Error::OverBudget(Box::new(self.crossing(&state, tag, bytes, None))));
            }
            if state.crossed.is_none() {
                state.crossed = Some(self.crossing(&state, tag, bytes, None));
            }
        }
        if memory {
            state.together.0 += bytes;
            state.together.1 = state.together.1.max(state.together.0);
        }
        state.cells[t].now[c] += bytes;
        state.cells[t].total += if tag.category == Category::Observation { 0 } else { bytes };
        let cell = state.cells[t];
        state.high[t].raise(&cell);
        let phase = state.phase;
        if let Some(highs) = state.phases.get_mut(&phase) {
            highs[t].raise(&cell);
        }
        let row = state.rows.entry(tag).or_default();
        row.0 += bytes;
        row.1 = row.1.max(row.0);
        state.operations += 1;
        let id = state.operations;
        if let Some(trace) = &mut state.trace {
            trace.push(Step::Reserve { tag, bytes, id });
        }
        Ok(id)
    }

    /// Gives `bytes` under `tag` back.
    fn give(&self, tag: Tag, bytes: u64) {
        let (t, c) = (tag.tier as usize, tag.category as usize);
        let mut state = self.lock();
        state.together.0 -= if tag.tier == Tier::Disk { 0 } else { bytes };
        state.cells[t].now[c] -= bytes;
        state.cells[t].total -= if tag.category == Category::Observation { 0 } else { bytes };
        if let Some(row) = state.rows.get_mut(&tag) {
            row.0 -= bytes;
        }
        state.operations += 1;
    }

    fn release(&self, tag: Tag, bytes: u64, id: u64) {
        self.give(tag, bytes);
        if let Some(trace) = &mut self.lock().trace {
            trace.push(Step::Release { id });
        }
    }

    /// The over-budget error of asking for `bytes` more under `tag`.
    pub fn over(&self, tag: Tag, bytes: u64, hint: Option<String>) -> Error {
        Error::OverBudget(Box::new(self.crossing(&self.lock(), tag, bytes, hint)))
    }

    fn crossing(&self, state: &State, tag: Tag, bytes: u64, hint: Option<String>) -> OverBudget {
        let t = tag.tier as usize;
        let (own, both) = (state.cells[t].total, state.cells[0].total + state.cells[1].total);
        let left = |wall: u64, held: u64| wall.saturating_sub(held);
        let shared = tag.tier != Tier::Disk && left(self.walls.together, both) < left(self.walls.tiers[t], own);
        let (budget, held) = if shared { (self.walls.together, both) } else { (self.walls.tiers[t], own) };
        let row = state.rows.get(&tag).map_or(0, |row| row.0);
        OverBudget {
            tier: tag.tier,
            category: tag.category,
            name: tag.name.to_owned(),
            needed: held.saturating_add(bytes),
            row: row.saturating_add(bytes),
            budget,
            available: left(budget, held),
            hint,
            machine: shared || self.walls.machine[t],
        }
    }

    /// What a firm account would have refused first, if anything.
    pub fn first_crossing(&self) -> Option<OverBudget> {
        self.lock().crossed.clone()
    }

    /// Every step of a traced account so far, in order.
    pub fn trace(&self) -> Vec<Step> {
        self.lock().trace.clone().unwrap_or_default()
    }

    /// Opens a phase: its maxima start from what is held now.
    pub fn enter(&self, phase: Phase) {
        let mut state = self.lock();
        state.phase = phase;
        if let Some(trace) = &mut state.trace {
            trace.push(Step::Enter(phase));
        }
        let cells = state.cells;
        let highs = state.phases.entry(phase).or_insert([High::default(); TIERS]);
        for (high, cell) in highs.iter_mut().zip(&cells) {
            high.raise(cell);
        }
    }

    /// The phase now open.
    pub fn phase(&self) -> Phase {
        self.lock().phase
    }

    /// Counts bytes moved under a name (`disk read`, `host to device`, `cache shift`).
    pub fn moved(&self, what: &'static str, bytes: u64) {
        let mut state = self.lock();
        *state.moved.entry(what).or_default() += bytes;
        state.operations += 1;
    }

    /// How often something was reserved, released or counted as moved so far.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Reservations asked for so far, the refused ones among them.
    pub fn reservations(&self) -> u64 {
        self.lock().asked
    }

    /// The `n`-th reservation from now on, counted from 1, fails as one does for which the system has no memory; how tests see
    /// what that does to a job, wherever it is.
    pub fn fail_at(&self, n: u64) {
        let mut state = self.lock();
        state.fail_at = Some(state.asked + n);
    }

    /// Bytes of `tier` held now that count against its budget.
    pub fn held(&self, tier: Tier) -> u64 {
        self.lock().cells[tier as usize].total
    }

    /// What it may hold at most.
    pub fn walls(&self) -> Walls {
        self.walls
    }

    /// The budget of `tier`.
    pub fn budget(&self, tier: Tier) -> u64 {
        self.walls.at(tier)
    }

    /// Everything held now, by tier and category.
    pub fn now(&self) -> Held {
        let state = self.lock();
        let mut out = BTreeMap::new();
        for (tier, cell) in Tier::ALL.iter().zip(&state.cells) {
            let by: ByCategory =
                Category::ALL.iter().zip(cell.now).filter(|(_, v)| *v > 0).map(|(c, v)| (*c, v)).collect();
            if !by.is_empty() {
                out.insert(*tier, by);
            }
        }
        Held(out)
    }

    /// The whole measured account so far.
    pub fn measured(&self) -> Measured {
        let state = self.lock();
        let by_tier = |highs: &[High; TIERS]| -> BTreeMap<Tier, Account> {
            Tier::ALL
                .iter()
                .zip(highs)
                .filter(|(_, h)| h.max.iter().any(|v| *v > 0))
                .map(|(t, h)| (*t, h.account()))
                .collect()
        };
        Measured {
            tiers: by_tier(&state.high),
            phases: state.phases.iter().map(|(p, h)| (*p, by_tier(h))).collect(),
            rows: state
                .rows
                .iter()
                .map(|(t, (_, max))| (format!("{}.{}.{}", t.tier, t.category, t.name), *max))
                .collect(),
            moved: state.moved.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect(),
            together: state.together.1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KV: Tag = Tag::device(Category::KvCache, "rows");
    const WS: Tag = Tag::device(Category::Workspace, "tiles");

    #[test]
    fn the_wall_holds_and_a_refusal_changes_nothing() {
        let ledger = Ledger::new(1000, u64::MAX, u64::MAX);
        let first = ledger.buffer(KV, 600).unwrap();
        let error = ledger.buffer(WS, 401).unwrap_err();
        let Error::OverBudget(over) = &error else { panic!("{error}") };
        assert_eq!((over.needed, over.budget, over.available), (1001, 1000, 400));
        assert_eq!(error.exit_code(), 3);
        assert_eq!(ledger.held(Tier::Device), 600);
        drop(first);
        assert_eq!(ledger.held(Tier::Device), 0);
        assert!(ledger.buffer(WS, 1000).is_ok());
    }

    #[test]
    fn peaks_keep_their_composition_and_phases_their_own_maxima() {
        let ledger = Ledger::new(u64::MAX, u64::MAX, u64::MAX);
        let kv = ledger.buffer(KV, 100).unwrap();
        ledger.enter(Phase::Prefill);
        drop(ledger.buffer(WS, 50).unwrap());
        ledger.enter(Phase::Decode);
        let more = ledger.buffer(KV, 20).unwrap();
        let measured = ledger.measured();
        let device = &measured.tiers[&Tier::Device];
        assert_eq!(device.peak, 150);
        assert_eq!(device.at_peak[&Category::Workspace], 50);
        assert_eq!(device.bytes[&Category::KvCache], 120);
        assert_eq!(measured.phases[&Phase::Decode][&Tier::Device].peak, 120);
        assert!(!measured.phases[&Phase::Decode][&Tier::Device].bytes.contains_key(&Category::Workspace));
        drop((kv, more));
        assert_eq!(ledger.now(), Held::default());
    }

    #[test]
    fn a_draft_grants_what_a_firm_account_refuses_and_notes_the_first() {
        let (draft, firm) = (Ledger::draft(Walls::of(1000, 50, 0), true), Ledger::new(1000, 50, 0));
        let host = Tag { tier: Tier::Host, ..KV };
        let mut refused = None;
        let mut held = Vec::new();
        for (tag, bytes) in [(KV, 600), (WS, 500), (host, 60), (KV, 1)] {
            held.push(draft.reserve(tag, bytes).unwrap());
            if refused.is_none() {
                match firm.reserve(tag, bytes) {
                    Ok(r) => held.push(r),
                    Err(Error::OverBudget(over)) => refused = Some(*over),
                    Err(e) => panic!("{e}"),
                }
            }
        }
        assert!(refused.is_some() && draft.first_crossing() == refused);
        let text = refused.unwrap().to_string();
        for words in [
            "device needs 1.07 KiB (1100 B) in all",
            "500 B (500 B) for tiles (workspace) no longer fit",
            "400 B of it still free",
        ] {
            assert!(text.contains(words), "{text}");
        }
        assert_eq!((draft.held(Tier::Device), draft.held(Tier::Host)), (1101, 60));
        assert!(draft.reserve(KV, u64::MAX).is_err(), "no number holds that sum");
        drop(held);
        let reserved = |s: &&Step| matches!(s, Step::Reserve { .. });
        let trace = draft.trace();
        assert_eq!((trace.len(), trace.iter().filter(reserved).count()), (8, 4));
        assert!(firm.trace().is_empty());
    }

    #[test]
    fn device_and_host_of_one_memory_share_its_wall() {
        let walls = Walls { together: 1000, machine: [true, false, false], ..Walls::of(900, u64::MAX, 5000) };
        let (ledger, host) = (Ledger::within(walls), Tag { tier: Tier::Host, ..KV });
        let device = ledger.buffer(KV, 700).unwrap();
        let Error::OverBudget(over) = ledger.buffer(host, 301).unwrap_err() else { panic!() };
        assert_eq!((over.needed, over.budget, over.available, over.machine), (1001, 1000, 300, true));
        let Error::OverBudget(over) = ledger.buffer(KV, 201).unwrap_err() else { panic!() };
        assert_eq!((over.needed, over.budget, over.available, over.machine), (901, 900, 200, true));
        let disk = Tag { tier: Tier::Disk, ..KV };
        let kept = (ledger.buffer(host, 300).unwrap(), ledger.reserve(disk, 5000).unwrap());
        drop(device);
        assert_eq!((ledger.measured().together, ledger.held(Tier::Host)), (1000, 300));
        drop(kept);
    }

    #[test]
    fn the_nth_reservation_fails_when_asked_to_and_changes_nothing() {
        let ledger = Ledger::new(1000, u64::MAX, u64::MAX);
        let first = ledger.buffer(KV, 600).unwrap();
        ledger.fail_at(2);
        let second = ledger.buffer(WS, 10).unwrap();
        let held = ledger.now();
        let error = ledger.buffer(WS, 20).unwrap_err();
        assert!(error.exit_code() == 3 && error.to_string().contains("no memory left"), "{error}");
        assert_eq!((ledger.now(), ledger.reservations()), (held, 3));
        assert!(ledger.buffer(WS, 20).is_ok(), "only the one that was asked for");
        drop((first, second));
        assert_eq!(ledger.now(), Held::default());
    }

    #[test]
    fn buffers_are_zeroed_and_aligned() {
        let ledger = Ledger::new(u64::MAX, u64::MAX, u64::MAX);
        let mut b = ledger.buffer(KV, 4 * 33).unwrap();
        assert_eq!(b.as_slice::<f32>().len(), 33);
        assert_eq!(b.as_slice::<u8>().as_ptr() as usize % ALIGN, 0);
        assert!(b.as_slice::<u8>().iter().all(|v| *v == 0));
        b.as_mut_slice::<f32>()[32] = 1.0;
        assert_eq!(b.as_slice::<f32>()[32], 1.0);
        assert!(ledger.buffer(KV, 0).unwrap().as_slice::<f32>().is_empty());
    }

    #[test]
    fn a_job_that_is_to_end_gets_no_more_buffers() {
        let cancel = Arc::new(AtomicBool::new(false));
        let ledger = Ledger::new(u64::MAX, u64::MAX, u64::MAX).heeding(&cancel);
        let held = ledger.buffer(KV, 100).unwrap();
        cancel.store(true, Relaxed);
        assert!(matches!(ledger.buffer(KV, 256 << 20), Err(Error::Cancelled)));
        assert_eq!(ledger.held(Tier::Device), 100);
        drop(held);
    }

    #[test]
    fn what_is_only_shown_never_refuses_a_run() {
        let ledger = Ledger::new(10, u64::MAX, u64::MAX);
        let _maps = ledger.buffer(Tag::device(Category::Observation, "maps"), 100).unwrap();
        assert!(ledger.buffer(KV, 10).is_ok());
    }
}
