//! A defect on purpose: how tests see what a panic in a job's thread, or a device that fails, does to the program around it. Nothing that a person can set or
//! send reaches it, only code of the same process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};

static ANY: AtomicBool = AtomicBool::new(false);
static PROMPTS: Mutex<Vec<(String, Fault)>> = Mutex::new(Vec::new());

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
