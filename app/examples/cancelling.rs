//! How long the window's Stop takes: from the action to the run's end, in every phase.
//!
//! `cargo run --release -p ullage --example cancelling -- [MODEL.gguf …] [--repeats N]`
#![allow(clippy::unwrap_used, reason = "an example")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use ullage::window::Start;
use ullage::window::files::{Answer, Asker};
use ullage::window::session::{Session, Setup};
use ullage_core::catalog::from_toml;
use ullage_core::ledger::alloc::CountingAlloc;
use ullage_panels::Action;
use ullage_panels::view::View;

#[global_allocator]
static ALLOC: CountingAlloc = CountingAlloc;

fn main() {
    let mut repeats = 10;
    let mut models = vec!["bundled:recall".to_owned()];
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--repeats" => repeats = args.next().unwrap().parse().unwrap(),
            model => models.push(model.to_owned()),
        }
    }
    for model in &models {
        println!("{model}, {repeats} times each:");
        for phase in ["load", "prefill", "decode", "training"] {
            let mut times: Vec<f64> = (0..repeats).filter_map(|i| stop(model, phase, i)).collect();
            times.sort_by(f64::total_cmp);
            match times.last() {
                Some(most) => {
                    let median = times[times.len() / 2];
                    println!(
                        "  {phase:9} median {median:6.1} ms, longest {most:6.1} ms ({} stopped in it)",
                        times.len()
                    );
                }
                None => println!("  {phase:9} over before it could be stopped"),
            }
        }
    }
}

/// Milliseconds from Stop to the end; `None` when the phase was over by then.
fn stop(model: &str, phase: &str, i: usize) -> Option<f64> {
    let words = "the old lighthouse keeper counted the bottles that the sea brought him. ".repeat(180);
    let mut config = format!("schema = 1\n[model]\npath = {model:?}\n[run]\nignore_eos = true\ncontext = 8192\n");
    match phase {
        "prefill" => config += &format!("max_tokens = 4000\nprompt = {words:?}\n"),
        _ => config += "max_tokens = 4000\nprompt = \"Once upon a time\"\n",
    }
    if phase == "training" {
        config += "[train]\ndata = \"bundled:task-tova\"\nsteps = 100000\nbatch = 4\nlength = 128\n";
    }
    let room = tempfile::tempdir().unwrap();
    let ask: Asker = Arc::new(|_| Answer::Cancelled);
    let mut session = Session::new(Setup {
        data: room.path().join("data"),
        remembered: Default::default(),
        open: Some(Start::Config(Box::new(from_toml(&config, &[]).unwrap()))),
        ask,
        wake: Arc::new(|| ()),
        probe: false,
    });
    let until = |session: &mut Session, wanted: &dyn Fn(&View) -> bool| {
        loop {
            session.tick();
            if session.settled() && wanted(session.view()) {
                return;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    };
    until(&mut session, &|v| v.status.blocked.is_empty() && v.top.predicted.is_some());
    session.act(Action::Run);
    let doing = match phase {
        "load" => "starting",
        "prefill" => "reading the prompt",
        "decode" => "decoding",
        _ => "training",
    };
    until(&mut session, &|v| !v.status.running || v.status.doing == doing);
    // At another moment of the phase each time.
    if phase != "load" {
        std::thread::sleep(Duration::from_millis(37 * i as u64 % 300));
    }
    let start = Instant::now();
    session.act(Action::Stop);
    until(&mut session, &|v| !v.status.running);
    let took = start.elapsed().as_secs_f64() * 1e3;
    let stopped = session.view().text.summary == "stopped" || phase == "training";
    session.close();
    stopped.then_some(took)
}
