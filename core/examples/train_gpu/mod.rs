//! The parts: checks, and timings of ops and of steps.

mod check;
mod ops;

use std::process::ExitCode;

pub fn main() -> ExitCode {
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
    println!("{failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
