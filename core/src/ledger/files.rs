//! What a job writes for its user, counted on the disk's tier before it is there.
//!
//! Writers lie deep below a job and know nothing of its ledger, so the account is the thread's: [`accounted`] opens it, and
//! [`crate::atomic_write`] takes from it what a file is about to take. What is finished stays counted until the job ends; what
//! fails, or gives way to another, is given back when it goes. Small files of the program's own (locks, what it remembers to
//! have written, its settings) are not written this way and do not count.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Category, Ledger, Reservation, Tag, Tier};
use crate::error::{Error, OverBudget, Result};

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// Logits of a run, `--dump`.
    Dump,
    /// Logits of the uncompressed model, in the cache folder.
    Reference,
    /// A training state.
    State,
    /// An adapter that was learned, in each of its layouts.
    Adapter,
    /// A fine-tuned model.
    Model,
    /// The folder of a run, `--out`.
    Folder,
    /// Whatever has no row of its own: no plan knows it.
    Other,
}

impl Output {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Dump, Self::Reference, Self::State, Self::Adapter, Self::Model, Self::Folder, Self::Other];

    /// Its row.
    pub const fn tag(self) -> Tag {
        let (category, name) = match self {
            Self::Dump => (Category::Logits, "dump"),
            Self::Reference => (Category::Logits, "saved reference logits"),
            Self::State => (Category::Optimizer, "training state"),
            Self::Adapter => (Category::Weights, "exported adapter"),
            Self::Model => (Category::Weights, "exported model"),
            Self::Folder => (Category::Store, "run folder"),
            Self::Other => (Category::Store, "other files"),
        };
        Tag { tier: Tier::Disk, category, name }
    }

    /// That of the row `name`.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|output| output.tag().name == name)
    }

    /// How to do without it.
    pub const fn without(self) -> &'static str {
        match self {
            Self::Dump => "leave out the dump (--dump)",
            Self::Reference => "leave out eval.fidelity, which saves reference logits",
            Self::State | Self::Adapter | Self::Model => "leave out what the training keeps (train.out)",
            Self::Folder => "leave out the run folder (--out)",
            Self::Other => "write less",
        }
    }
}

/// One file, or what is written together, as a plan knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// What it is.
    pub output: Output,
    /// Its bytes as a sum of products, each factor with what it counts.
    pub sum: Vec<Vec<(u64, String)>>,
    /// Whether another of its size takes its place while it is still there.
    #[serde(default)]
    pub replaced: bool,
}

impl Written {
    /// Bytes `sum` of `output`, written once.
    pub fn new(output: Output, sum: &[&[(u64, &str)]]) -> Self {
        let product = |factors: &&[(u64, &str)]| factors.iter().map(|(n, what)| (*n, (*what).to_owned())).collect();
        Self { output, sum: sum.iter().map(product).collect(), replaced: false }
    }

    /// Its bytes.
    pub fn bytes(&self) -> u64 {
        let product = |factors: &Vec<(u64, String)>| factors.iter().fold(1u64, |p, (n, _)| p.saturating_mul(*n));
        self.sum.iter().map(product).fold(0, u64::saturating_add)
    }
}

/// What fits in place of what is over the disk's wall, in words.
pub fn way_out(over: &OverBudget) -> String {
    let without = Output::named(&over.name).unwrap_or(Output::Other).without();
    if over.machine {
        format!("free some space there, name a place on another disk, or {without}")
    } else {
        format!("set budget.disk to {} B or more, or {without}", over.needed)
    }
}

/// A refusal with what to do about it.
pub(crate) fn refused(error: Error) -> Error {
    match error {
        Error::OverBudget(over) if over.hint.is_none() => {
            let hint = Some(way_out(&over));
            Error::OverBudget(Box::new(OverBudget { hint, ..*over }))
        }
        other => other,
    }
}

struct Account {
    ledger: Arc<Ledger>,
    output: Output,
    /// Files that are there, by their places. Two names of one file share what it takes.
    held: BTreeMap<PathBuf, Arc<Reservation>>,
}

thread_local! {
    static NOW: RefCell<Option<Account>> = const { RefCell::new(None) };
}

/// Puts the account of before back, however what is done on this one ends.
struct Before(Option<Account>);

impl Drop for Before {
    fn drop(&mut self) {
        // Gives back, outside of the borrow, what is still held.
        drop(NOW.replace(self.0.take()));
    }
}

/// Counts on `ledger` what this thread writes during `work`; what is finished then stays counted until `work` is over.
pub fn accounted<T>(ledger: &Arc<Ledger>, work: impl FnOnce() -> T) -> T {
    let account = Account { ledger: Arc::clone(ledger), output: Output::Other, held: BTreeMap::new() };
    let _before = Before(NOW.replace(Some(account)));
    work()
}

struct WasWriting(Output);

impl Drop for WasWriting {
    fn drop(&mut self) {
        with(|account| account.output = self.0);
    }
}

/// What is written during `work` is `output`.
pub fn writing<T>(output: Output, work: impl FnOnce() -> T) -> T {
    let _was = with(|account| WasWriting(std::mem::replace(&mut account.output, output)));
    work()
}

fn with<T>(act: impl FnOnce(&mut Account) -> T) -> Option<T> {
    NOW.with_borrow_mut(|now| now.as_mut().map(act))
}

/// Room for a file that is begun, none of it taken yet; nothing where nobody counts.
///
/// # Errors
/// [`Error::OverBudget`].
pub(crate) fn begin() -> Result<Option<Reservation>> {
    let asked = with(|account| (Arc::clone(&account.ledger), account.output.tag()));
    asked.map(|(ledger, tag)| ledger.reserve(tag, 0)).transpose()
}

/// The file at `path` is there and takes `room`; what was there before has gone.
pub(crate) fn finished(path: &Path, room: Reservation) {
    let room = Arc::new(room);
    drop(with(|account| account.held.insert(path.to_owned(), room)));
}

/// `path`, or the folder, is gone.
pub(crate) fn removed(path: &Path) {
    let gone = with(|account| take(account, path));
    drop(gone);
}

fn take(account: &mut Account, path: &Path) -> Vec<(PathBuf, Arc<Reservation>)> {
    let under: Vec<PathBuf> = account.held.keys().filter(|held| held.starts_with(path)).cloned().collect();
    under.into_iter().filter_map(|held| account.held.remove_entry(&held)).collect()
}

/// The file or folder `from` has become `to`; what was there before has gone.
pub(crate) fn renamed(from: &Path, to: &Path) {
    let gone = with(|account| {
        let gone = take(account, to);
        for (held, room) in take(account, from) {
            // A file has nothing after its own name, and joining nothing would add a separator.
            let rest = held.strip_prefix(from).unwrap_or(Path::new(""));
            let held = if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) };
            account.held.insert(held, room);
        }
        gone
    });
    drop(gone);
}

/// `also` is another name of the file `path`.
pub(crate) fn linked(path: &Path, also: &Path) {
    let gone = with(|account| {
        let room = account.held.get(path).map(Arc::clone)?;
        account.held.insert(also.to_owned(), room)
    });
    drop(gone);
}

/// The file at `path`, written by an earlier job, is this one's from now on, and counts.
///
/// # Errors
/// [`Error::OverBudget`].
pub(crate) fn adopted(path: &Path, output: Output) -> Result<()> {
    let Some(ledger) = with(|account| Arc::clone(&account.ledger)) else { return Ok(()) };
    let bytes = std::fs::metadata(path).map_or(0, |m| m.len());
    finished(path, ledger.reserve(output.tag(), bytes).map_err(refused)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_a_name_of_its_own_and_a_way_to_do_without() {
        for output in Output::ALL {
            assert_eq!(Output::named(output.tag().name), Some(output));
            assert!(output.tag().tier == Tier::Disk && !output.without().is_empty());
            assert!(output.tag().category != Category::Observation, "what is only shown is never refused");
        }
        let of = Written::new(Output::Dump, &[&[(3, "rows"), (5, "tokens"), (4, "B")], &[(7, "B header")]]);
        assert_eq!(of.bytes(), 67);
        assert_eq!(Written::new(Output::Dump, &[&[(u64::MAX, ""), (2, "")], &[(1, "")]]).bytes(), u64::MAX);
    }

    #[test]
    fn a_file_counts_for_as_long_as_a_name_of_it_is_there() {
        let ledger = Ledger::new(0, 0, 100);
        let held = || ledger.held(Tier::Disk);
        let put = |name: &str, bytes: u64| {
            let mut room = begin().unwrap().unwrap();
            room.grow(bytes).unwrap();
            finished(Path::new(name), room);
        };
        accounted(&ledger, || {
            writing(Output::State, || put("a", 30));
            linked(Path::new("a"), Path::new("a.before"));
            assert_eq!(held(), 30, "a link takes nothing");
            put("a", 40);
            assert_eq!(held(), 70, "the old one has a name still");
            renamed(Path::new("a.before"), Path::new("a"));
            assert_eq!(held(), 30);
            put("new/x", 10);
            put("new/y", 5);
            renamed(Path::new("new"), Path::new("old"));
            put("new/x", 1);
            renamed(Path::new("new"), Path::new("old"));
            assert_eq!(held(), 31, "a folder replaces all of a folder");
            removed(Path::new("ol"));
            assert_eq!(held(), 31);
            removed(Path::new("old"));
            assert_eq!(held(), 30);
            assert!(begin().unwrap().unwrap().grow(71).is_err());
            assert_eq!(ledger.measured().rows["disk.optimizer.training state"], 30);
            assert_eq!(ledger.measured().rows["disk.store.other files"], 40);
        });
        assert_eq!(held(), 0);
        assert!(begin().unwrap().is_none(), "nobody counts any more");
    }
}
