//! Any bytes at all, opened as a GGUF file.
#![no_main]

use std::cell::RefCell;
use std::fs::File;

use libfuzzer_sys::fuzz_target;

#[path = "../exercise.rs"]
mod exercise;

thread_local! {
    static SCRATCH: RefCell<File> = RefCell::new(tempfile::tempfile().expect("scratch file"));
}

fuzz_target!(|bytes: &[u8]| {
    SCRATCH.with_borrow_mut(|scratch| exercise::exercise(scratch, bytes));
});
