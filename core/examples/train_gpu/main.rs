//! Checks every training op of a GPU against the CPU's, in f32 and in bf16, then times ops and whole steps at several shapes.
//!
//!     cargo run --release --features cuda -p ullage-core --example train_gpu -- [check] [ops] [steps]
//!
//! Prints the largest error of each op, relative to the largest element; exits 1 where one is too large.

#[cfg(not(feature = "cuda"))]
fn main() {
    eprintln!("build this with --features cuda");
}

#[cfg(feature = "cuda")]
mod check;
#[cfg(feature = "cuda")]
mod ops;
#[cfg(feature = "cuda")]
mod steps;

#[cfg(feature = "cuda")]
use std::process::ExitCode;

#[cfg(feature = "cuda")]
fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let runs = |part: &str| wanted.is_empty() || wanted.iter().any(|w| w == part);
    let mut failed = 0;
    let mut report = |part: &str, result: ullage_core::Result<usize>| match result {
        Ok(n) => failed += n,
        Err(e) => {
            println!("{part} ended early: {e}");
            failed += 1;
        }
    };
    if runs("check") {
        report("check", check::all());
    }
    if runs("ops") {
        report("ops", ops::all().map(|()| 0));
    }
    if runs("steps") {
        report("steps", steps::all());
    }
    println!("{failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
