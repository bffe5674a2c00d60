//! Mutates the seeds and corpora of the fuzz targets, as often as wanted, the same way for the same seed:
//! `cargo run -p ullage-tests --example fuzz -- [TARGET…] [--runs N] [--seconds S] [--seed N] [--keep FOLDER] [--trace FILE]`.
//!
//! Counts executions, and tells what panics, takes too long or holds too much; such inputs go to the folder. What ends the whole
//! process is found with `--trace`, which writes each input before it is run.
#![allow(clippy::unwrap_used, reason = "a tool of tests")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ullage_core::ledger::alloc::CountingAlloc;
use ullage_tests::fuzz::mutate::{Dice, mutate};
use ullage_tests::fuzz::{TARGETS, Target, ran};

#[global_allocator]
static ALLOC: CountingAlloc = CountingAlloc;

/// Inputs that were sound and are changed further, beside the seeds.
const POOL: usize = 512;

struct Asked {
    targets: Vec<&'static Target>,
    runs: u64,
    seconds: u64,
    seed: u64,
    keep: Option<PathBuf>,
    trace: Option<PathBuf>,
}

fn asked() -> Asked {
    let mut out = Asked { targets: Vec::new(), runs: u64::MAX, seconds: 10, seed: 1, keep: None, trace: None };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_else(|| panic!("{arg} needs a value"));
        match arg.as_str() {
            "--runs" => out.runs = value().parse().unwrap(),
            "--seconds" => out.seconds = value().parse().unwrap(),
            "--seed" => out.seed = value().parse().unwrap(),
            "--keep" => out.keep = Some(value().into()),
            "--trace" => out.trace = Some(value().into()),
            name => {
                let known = || TARGETS.iter().map(|t| t.name).collect::<Vec<_>>().join(", ");
                let found = TARGETS.iter().find(|t| t.name == name);
                out.targets.push(found.unwrap_or_else(|| panic!("`{name}` is none of: {}", known())));
            }
        }
    }
    if out.targets.is_empty() {
        out.targets = TARGETS.to_vec();
    }
    out
}

/// What a target came to.
#[derive(Default)]
struct Tally {
    runs: u64,
    sound: u64,
    slowest: Duration,
    largest: u64,
    /// How often, and the first input, by the beginning of the words.
    faults: BTreeMap<String, (u64, Vec<u8>)>,
}

impl Tally {
    fn add(&mut self, target: &Target, bytes: &[u8]) -> bool {
        let done = ran(target, bytes);
        self.runs += 1;
        self.sound += u64::from(done.sound);
        self.slowest = self.slowest.max(done.took);
        self.largest = self.largest.max(done.heap);
        let Some(fault) = done.fault(target, bytes.len()) else { return done.sound };
        let key: String = fault.chars().filter(|c| !c.is_ascii_digit()).take(60).collect();
        let known = self.faults.entry(key).or_insert_with(|| {
            println!("{}: {fault}\n  {}", target.name, (target.tell)(bytes).escape_debug());
            (0, bytes.to_vec())
        });
        known.0 += 1;
        if bytes.len() < known.1.len() {
            known.1 = bytes.to_vec();
        }
        false
    }
}

fn run(target: &Target, asked: &Asked) -> Tally {
    let (mut tally, mut dice, start) = (Tally::default(), Dice::new(asked.seed), Instant::now());
    let mut pool: Vec<Vec<u8>> = target.inputs().into_iter().map(|(_, bytes)| bytes).collect();
    let seeds = pool.len();
    for bytes in pool.clone() {
        tally.add(target, &bytes);
    }
    while tally.runs < asked.runs && start.elapsed().as_secs() < asked.seconds {
        let mut bytes = if pool.is_empty() { Vec::new() } else { pool[dice.below(pool.len())].clone() };
        mutate(target, &mut bytes, &pool, &mut dice);
        if let Some(path) = &asked.trace {
            std::fs::write(path, &bytes).unwrap();
        }
        // A sound input leads further in; those of the pool change places as time goes on.
        if tally.add(target, &bytes) && bytes.len() < 4096 {
            if pool.len() < seeds + POOL {
                pool.push(bytes);
            } else {
                let at = seeds + dice.below(POOL);
                pool[at] = bytes;
            }
        }
    }
    let rate = tally.runs as f64 / start.elapsed().as_secs_f64();
    println!(
        "{:<14} {:>9} runs, {:>4.1} % sound, {rate:>7.0} a second, the slowest {:>9.3?}, the largest {:>9} B, {} faults",
        target.name,
        tally.runs,
        100.0 * tally.sound as f64 / tally.runs as f64,
        tally.slowest,
        tally.largest,
        tally.faults.len()
    );
    tally
}

fn main() -> ExitCode {
    // What is caught is told once.
    std::panic::set_hook(Box::new(|_| ()));
    let asked = asked();
    let (mut runs, mut faults) = (0, 0);
    for target in &asked.targets {
        let tally = run(target, &asked);
        runs += tally.runs;
        faults += tally.faults.len();
        let Some(keep) = &asked.keep else { continue };
        for (i, (_, bytes)) in tally.faults.values().enumerate() {
            let folder = keep.join(target.name);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(format!("found_{i}")), bytes).unwrap();
        }
    }
    println!("{runs} runs, {faults} faults");
    ExitCode::from(u8::from(faults > 0))
}
