//! A defect on purpose: how tests see what a panic in a job's thread does to the program around it. Nothing that a person can set or
//! send reaches it, only code of the same process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

static ANY: AtomicBool = AtomicBool::new(false);
static PROMPTS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// From now on the next job with this prompt panics at the edge of a step, once.
#[doc(hidden)]
pub fn arm(prompt: &str) {
    PROMPTS.lock().unwrap_or_else(PoisonError::into_inner).push(prompt.to_owned());
    ANY.store(true, Ordering::Relaxed);
}

/// Panics when armed for this prompt.
pub(super) fn check(prompt: &str) {
    if !ANY.load(Ordering::Relaxed) {
        return;
    }
    let mut prompts = PROMPTS.lock().unwrap_or_else(PoisonError::into_inner);
    let armed = prompts.iter().position(|p| p == prompt).map(|at| prompts.swap_remove(at));
    drop(prompts);
    assert!(armed.is_none(), "a fault that was asked for");
}
