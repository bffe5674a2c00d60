//! The program `ullage` as a library that its tests can drive: command line, window, wiring.

mod against;
mod args;
mod bench;
mod check_plan;
mod check_time;
mod data;
mod inspect;
mod merge;
mod run;
mod source;
mod sweep;
mod train_bundled;
mod verify;
pub mod window;

use std::process::ExitCode;

use clap::Parser as _;
use ullage_core::Result;
use ullage_core::ledger::alloc::give_back_large_blocks;

/// Does what the command line says; exit 0 ok, 1 the run failed, 2 bad arguments or input, 3 over budget.
pub fn main() -> ExitCode {
    give_back_large_blocks();
    let args = args::Args::parse();
    match dispatch(args) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn dispatch(args: args::Args) -> Result<u8> {
    use args::Command;
    match args.command {
        None => match window::run(None) {
            Ok(code) => Ok(code),
            Err(why) => run::demo(&why),
        },
        Some(Command::Open(a)) => inspect::open(&a),
        Some(Command::Inspect(a)) => inspect::inspect(&a),
        Some(Command::Data(a)) => data::data(&a),
        Some(Command::Plan(a)) => inspect::plan(&a),
        Some(Command::Run(a)) => run::run(&a),
        Some(Command::Sweep(a)) => sweep::sweep(&a),
        Some(Command::Techniques(a)) => inspect::techniques(&a),
        Some(Command::Merge(a)) => merge::merge(&a),
        Some(Command::Adapter(a)) => merge::adapter(&a),
        Some(Command::TrainBundled(a)) => train_bundled::train_bundled(&a),
        Some(Command::Bench(a)) => bench::bench(&a),
        Some(Command::CheckPlan(a)) => check_plan::check_plan(&a),
        Some(Command::Verify(a)) => verify::verify(&a),
        Some(Command::Probe(a)) => inspect::probe(&a),
    }
}
