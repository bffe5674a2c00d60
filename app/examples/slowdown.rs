//! What an open window costs the engine: the same decoding job alternately without a window and under the real one, whose frames
//! are made (logic, layout, tessellation) whenever it asks for them, at most 60 times a second, and not presented.
//!
//! `cargo run --release -p ullage --example slowdown -- [MODEL.gguf …] [--repeats N] [--tokens N] [--set KEY=VALUE …]`
#![allow(clippy::unwrap_used, reason = "an example")]
#![allow(unsafe_code, reason = "a clock of the system")]

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use egui::{Context, Pos2, RawInput, Rect, vec2};
use ullage::window::files::{Answer, Asker};
use ullage::window::session::{Session, Setup};
use ullage::window::{App, Start, opener};
use ullage_core::catalog::from_toml;
use ullage_core::config::Config;
use ullage_core::job::{Event, Job, Order};
use ullage_core::ledger::alloc::CountingAlloc;
use ullage_core::machine::Machine;
use ullage_panels::Action;

#[global_allocator]
static ALLOC: CountingAlloc = CountingAlloc;

/// The tabs in which the window is looked at, by their names in the layout.
const TABS: [&str; 6] = ["text", "timeline", "attention", "accuracy", "where", "history"];
/// A screen's shortest time between two frames.
const SCREEN: Duration = Duration::from_micros(16_667);

struct HeldOutQuestion {
    models: Vec<String>,
    repeats: usize,
    tokens: usize,
    sets: Vec<String>,
}

fn asked() -> HeldOutQuestion {
    let mut out = HeldOutQuestion { models: Vec::new(), repeats: 5, tokens: 0, sets: Vec::new() };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--repeats" => out.repeats = args.next().unwrap().parse().unwrap(),
            "--tokens" => out.tokens = args.next().unwrap().parse().unwrap(),
            "--set" => out.sets.push(args.next().unwrap()),
            model => out.models.push(model.to_owned()),
        }
    }
    out.models.insert(0, "bundled:recall".into());
    out
}

fn main() {
    let asked = asked();
    for model in &asked.models {
        let tokens = match (asked.tokens, model.as_str()) {
            (0, "bundled:recall") => 2000,
            (0, _) => 256,
            (n, _) => n,
        };
        let config = config(model, tokens, &asked.sets);
        println!("{model}: {tokens} tokens, {} threads, {} pairs a tab", config.threads(), asked.repeats);
        let mut all = Vec::new();
        for tab in TABS {
            let (mut ratios, mut rates) = (Vec::new(), [Vec::new(), Vec::new()]);
            let (mut frames, mut work, mut seconds) = (Vec::new(), Vec::new(), 0.0);
            for i in 0..asked.repeats {
                // In turns, so that what drifts meets both alike.
                let mut pair = [0.0; 2];
                for windowed in if i % 2 == 0 { [false, true] } else { [true, false] } {
                    pair[usize::from(windowed)] = if windowed {
                        let (rate, times, wall) = in_window(&config, tab);
                        frames.extend(times.iter().map(|t| t[0]));
                        work.extend(times.iter().map(|t| t[1]));
                        seconds += wall;
                        rate
                    } else {
                        headless(&config)
                    };
                }
                ratios.push(pair[1] / pair[0]);
                rates[0].push(pair[0]);
                rates[1].push(pair[1]);
            }
            all.extend(ratios.iter().copied());
            let (mut alone, mut open) = (rates[0].clone(), rates[1].clone());
            println!(
                "  {tab:9} alone {:6.1} tok/s, window open {:6.1} tok/s, ratio {}",
                at(&mut alone, 0.5),
                at(&mut open, 0.5),
                spread(&mut ratios)
            );
            let (rate, share) = (frames.len() as f64 / seconds, work.iter().sum::<f64>() / 1e1 / seconds);
            println!("            {rate:.1} frames a second, {share:.1} % of one core; a frame's own work:");
            println!("            on the processor {}", percentiles(&mut work));
            println!("            by the clock     {}", percentiles(&mut frames));
        }
        println!("  all tabs  ratio {}, slower by {:.1} %", spread(&mut all), 100.0 * (1.0 - at(&mut all, 0.5)));
    }
}

/// What a share of the values lies below; between two of them in proportion.
fn at(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let place = (values.len() - 1) as f64 * share;
    let (low, high) = (values[place.floor() as usize], values[place.ceil() as usize]);
    low + (high - low) * place.fract()
}

fn spread(ratios: &mut [f64]) -> String {
    format!("{:.3} ({:.3} to {:.3})", at(ratios, 0.5), at(ratios, 0.0), at(ratios, 1.0))
}

fn percentiles(times: &mut [f64]) -> String {
    format!("p50 {:.2} ms, p99 {:.2} ms, most {:.2} ms", at(times, 0.5), at(times, 0.99), at(times, 1.0))
}

fn config(model: &str, tokens: usize, sets: &[String]) -> Config {
    let mut text = include_str!("../../assets/first.toml").to_owned();
    text = text.replace("bundled:recall", model);
    let own = [
        "budget.device=unlimited".to_owned(),
        format!("run.max_tokens={tokens}"),
        format!("run.context={}", (tokens + 64).next_power_of_two()),
    ];
    let pair = |set: &String| set.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())).unwrap();
    let sets: Vec<_> = own.iter().chain(sets).map(pair).collect();
    from_toml(&text, &sets).unwrap()
}

/// Tokens a second of the job with nobody but a thread that takes its events.
fn headless(config: &Config) -> f64 {
    let opened = opener::model(&config.model.path).unwrap();
    let machine = Machine::default_guess();
    let order = Order {
        config: config.clone(),
        model: Arc::clone(&opened.model),
        machine,
        base: ".".into(),
        dump: None,
        keep: None,
        folder: None,
        care: ullage_core::output::Care::default(),
    };
    let job = Job::start(order).unwrap();
    let mut rate = 0.0;
    while let Ok(event) = job.events.recv() {
        match event.event {
            Event::Finished { speed, .. } => rate = speed.decode_tokens_per_second,
            Event::Failed { error } => panic!("{}", error.message),
            _ => {}
        }
    }
    rate
}

/// When the next frame is due.
#[derive(Default)]
struct Bell {
    due: Mutex<Option<Instant>>,
    rung: Condvar,
}

impl Bell {
    fn ring(&self, at: Instant) {
        let mut due = self.due.lock().unwrap();
        *due = Some(due.map_or(at, |d| d.min(at)));
        self.rung.notify_one();
    }

    /// Waits until a frame is due, but not before `earliest`.
    fn wait(&self, earliest: Instant) {
        let mut due = self.due.lock().unwrap();
        loop {
            let now = Instant::now();
            match *due {
                Some(at) if at <= now && earliest <= now => break,
                Some(at) => due = self.rung.wait_timeout(due, at.max(earliest) - now).unwrap().0,
                None => due = self.rung.wait(due).unwrap(),
            }
        }
        *due = None;
    }
}

/// Milliseconds that this thread has had a processor; 0 where the system does not say.
fn worked() -> f64 {
    #[cfg(unix)]
    {
        let mut at = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the call fills in the structure that it is lent.
        if unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut at) } == 0 {
            return at.tv_sec as f64 * 1e3 + at.tv_nsec as f64 / 1e6;
        }
    }
    0.0
}

/// Tokens a second under a window that shows `tab`; milliseconds of its frames while it decodes, by the clock and on the processor;
/// and the seconds that took.
fn in_window(config: &Config, tab: &str) -> (f64, Vec<[f64; 2]>, f64) {
    let room = tempfile::tempdir().unwrap();
    let context = Context::default();
    let bell = Arc::new(Bell::default());
    let mine = Arc::clone(&bell);
    context.set_request_repaint_callback(move |info| {
        if let Some(at) = Instant::now().checked_add(info.delay.min(Duration::from_secs(3600))) {
            mine.ring(at);
        }
    });
    let ask: Asker = Arc::new(|_| Answer::Cancelled);
    let session = Session::new(Setup {
        data: room.path().join("data"),
        remembered: Default::default(),
        open: Some(Start::Config(Box::new(config.clone()))),
        ask,
        wake: ullage::window::waker(&context),
        probe: false,
    });
    let mut app = App::new(&context, session, &serde_json::json!({ "tab": tab }));
    let begin = Instant::now();
    let mut last = begin;
    let mut frame = |app: &mut App| {
        bell.wait(last + SCREEN);
        last = Instant::now();
        let before = worked();
        let input = RawInput {
            screen_rect: Some(Rect::from_min_size(Pos2::ZERO, vec2(1280.0, 800.0))),
            time: Some(begin.elapsed().as_secs_f64()),
            ..RawInput::default()
        };
        let mut output = context.run_ui(input, |ui| {
            app.listen(ui.ctx());
            app.draw(ui);
        });
        let meshes = context.tessellate(std::mem::take(&mut output.shapes), output.pixels_per_point);
        std::hint::black_box(&meshes);
        // Nobody uploads the glyphs here.
        output.textures_delta.clear();
        [last.elapsed().as_secs_f64() * 1e3, worked() - before]
    };
    context.request_repaint();
    while !(app.session().settled() && app.session().view().status.blocked.is_empty()) {
        frame(&mut app);
    }
    // Prices, models on the disk and glyphs are done with before it counts.
    for _ in 0..20 {
        context.request_repaint();
        frame(&mut app);
    }
    app.session().act(Action::Run);
    context.request_repaint();
    let (mut times, mut from, mut to) = (Vec::new(), None, begin);
    loop {
        let took = frame(&mut app);
        let status = &app.session().view().status;
        if status.running && status.doing == "decoding" {
            from.get_or_insert_with(Instant::now);
            times.push(took);
            to = Instant::now();
        }
        if !status.running {
            break;
        }
    }
    let rate = app.session().view().status.speed.unwrap();
    app.close(None);
    (rate, times, from.map_or(1.0, |from| (to - from).as_secs_f64()))
}
