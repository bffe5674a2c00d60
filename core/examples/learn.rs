//! Runs a configuration with a `[train]` section and prints its steps: `learn CONFIG.toml [KEY=VALUE …]`.

use std::path::Path;
use std::sync::Arc;

use ullage_core::config::from_toml;
use ullage_core::job::{Event, Job, Order};
use ullage_core::machine::Machine;
use ullage_core::model::Model;
use ullage_core::report::{Report, summary};

fn main() -> ullage_core::Result<()> {
    let mut args = std::env::args().skip(1);
    let path = args.next().unwrap_or_default();
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let sets: Vec<_> = args.filter_map(|a| a.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()))).collect();
    let config = from_toml(&text, &sets)?;
    let base = Path::new(&path).parent().unwrap_or(Path::new(".")).to_path_buf();
    let model = Arc::new(Model::open(&config.model.path, &base)?);
    let job = Job::start(Order { config, model, machine: Machine::load_or_guess().0, base, dump: None, keep: None })?;
    let mut report = Report::default();
    while let Ok(event) = job.events.recv() {
        match &event.event {
            Event::TrainStep { step, loss, lr, grad_norm, seconds, tokens } => println!(
                "step {step}: loss {loss:.4}, norm {grad_norm:.3}, lr {lr:.2e}, {seconds:.2} s, {:.0} tokens/s",
                *tokens as f64 / seconds
            ),
            Event::Validation { step, loss, tokens, .. } => println!("step {step}: held out {loss:.4} over {tokens}"),
            Event::Failed { error } => println!("error: {}", error.message),
            _ => {}
        }
        report.add(&event);
    }
    println!("{}", summary(&report));
    Ok(())
}
