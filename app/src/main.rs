//! The program `ullage`. Progress goes to stderr, results to stdout.

use std::process::ExitCode;

use ullage_core::ledger::alloc::CountingAlloc;

#[global_allocator]
static ALLOC: CountingAlloc = CountingAlloc;

fn main() -> ExitCode {
    ullage::main()
}
