//! A defect on purpose: how tests see what a panic in a job's thread, a device that fails, or memory that ends does to the program
//! around it. Nothing that a person can set or send reaches it, only code of the same process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::error::{Error, Result};
use crate::ledger::Ledger;

static ANY: AtomicBool = AtomicBool::new(false);
static PROMPTS: Mutex<Vec<(String, Fault)>> = Mutex::new(Vec::new());
static LEDGERS: Mutex<Vec<(String, u64, Watched)>> = Mutex::new(Vec::new());

/// The ledger of a job that was armed, once it has one.
#[doc(hidden)]
pub type Watched = Arc<OnceLock<Arc<Ledger>>>;

/// What goes wrong.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A panic.
    Panic,
    /// What a driver says when its device is lost.
    Device,
}

/// From now on the next job with this prompt fails so at the edge of a step, once.
#[doc(hidden)]
pub fn arm(prompt: &str, fault: Fault) {
    PROMPTS.lock().unwrap_or_else(PoisonError::into_inner).push((prompt.to_owned(), fault));
    ANY.store(true, Ordering::Relaxed);
}

/// The `n`-th reservation, counted from 1, of the next job with this prompt fails, 0 for none; its ledger can be looked at from
/// outside.
#[doc(hidden)]
pub fn arm_reservation(prompt: &str, n: u64) -> Watched {
    let watched = Watched::default();
    let armed = (prompt.to_owned(), n, Arc::clone(&watched));
    LEDGERS.lock().unwrap_or_else(PoisonError::into_inner).push(armed);
    ANY.store(true, Ordering::Relaxed);
    watched
}

/// Hands the ledger of a job with this prompt to who armed it.
pub(super) fn watch(prompt: &str, ledger: &Arc<Ledger>) {
    if !ANY.load(Ordering::Relaxed) {
        return;
    }
    let mut all = LEDGERS.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(at) = all.iter().position(|a| a.0 == prompt) else { return };
    let (_, n, watched) = all.swap_remove(at);
    drop(all);
    if n > 0 {
        ledger.fail_at(n);
    }
    let _ = watched.set(Arc::clone(ledger));
}

/// Fails when armed for this prompt.
///
/// # Errors
/// The device's that was asked for.
pub(super) fn check(prompt: &str) -> Result<()> {
    if !ANY.load(Ordering::Relaxed) {
        return Ok(());
    }
    let mut prompts = PROMPTS.lock().unwrap_or_else(PoisonError::into_inner);
    let armed = prompts.iter().position(|p| p.0 == prompt).map(|at| prompts.swap_remove(at).1);
    drop(prompts);
    assert!(armed != Some(Fault::Panic), "a fault that was asked for");
    match armed {
        None => Ok(()),
        Some(_) => Err(Error::Device("the GPU failed: CUDA_ERROR_ILLEGAL_ADDRESS".into())),
    }
}
