//! Draws the text, timeline and history pictures large, as PNG files in a folder given
//! (`cargo run -p ullage-panels --example pictures -- FOLDER`), or says what a frame of long ones costs (`-- cost`).
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a tool for those who work on the pictures")]

#[path = "../tests/pictures/samples.rs"]
mod samples;

use std::sync::Arc;
use std::time::Instant;

use egui::{Theme, Ui, Vec2};
use egui_kittest::Harness;
use ullage_panels::pictures::{history, text, timeline};
use ullage_panels::view::{History, Moment, Text, Timeline, Written};
use ullage_panels::{Action, Linked, theme};

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("cost") => cost(),
        Some(folder) => all(folder),
        None => println!("say a folder for PNG files, or `cost`"),
    }
}

type Draw<D, S> = fn(&mut Ui, &D, &mut S, &mut Linked, &mut Vec<Action>);

fn shot<D: Clone + 'static, S: Default + 'static>(
    path: &str,
    draw: Draw<D, S>,
    data: &D,
    linked: &Linked,
    hover: Option<[f32; 2]>,
    size: [f32; 2],
) {
    for (theme, word) in [(Theme::Dark, "dark"), (Theme::Light, "light")] {
        let (data, first, mut state) = (data.clone(), linked.clone(), S::default());
        let mut harness = Harness::builder()
            .with_size(Vec2::from(size))
            .with_theme(theme)
            .with_max_steps(64)
            .with_context_setup(theme::install)
            .build_ui(move |ui| draw(ui, &data, &mut state, &mut first.clone(), &mut Vec::new()));
        harness.run();
        if let Some(at) = hover {
            harness.hover_at(at.into());
            harness.run_steps(60);
        }
        harness.render().unwrap().save(format!("{path}_{word}.png")).unwrap();
    }
    println!("{path}");
}

fn all(folder: &str) {
    std::fs::create_dir_all(folder).unwrap();
    let at = |name: &str| format!("{folder}/{name}");
    let (wide, narrow) = ([1280.0, 600.0], [560.0, 420.0]);
    let none = Linked::default();
    let scrubbed =
        Linked { moment: Some(150), run: Some(samples::history().runs[1].name.clone()), ..Linked::default() };

    shot(&at("timeline"), timeline::show, &samples::timeline(84), &none, None, wide);
    shot(&at("timeline_hover"), timeline::show, &samples::timeline(84), &scrubbed, Some([420.0, 360.0]), wide);
    shot(&at("timeline_narrow"), timeline::show, &samples::timeline(84), &scrubbed, None, narrow);
    let live =
        Timeline { live: true, evicted: Vec::new(), limits: [Some(24 << 30), None, None], ..samples::timeline(20) };
    shot(&at("timeline_live"), timeline::show, &live, &none, None, wide);
    shot(&at("timeline_empty"), timeline::show, &Timeline::default(), &none, None, wide);

    shot(&at("text"), text::show, &samples::text(), &none, Some([700.0, 300.0]), wide);
    let scrub = Text { step: Some(30), ..samples::text() };
    shot(&at("text_scrubbed"), text::show, &scrub, &none, None, wide);
    let mut live = Text { running: true, of_run: None, ..samples::text() };
    let sequences = (0..3).map(|i| Written { stop: String::new(), ..cut(&samples::written(i == 1), 20 + 9 * i) });
    live.sequences = Arc::new(sequences.collect());
    shot(&at("text_live"), text::show, &live, &none, None, wide);
    shot(&at("text_empty"), text::show, &Text { chats: true, ..Text::default() }, &none, None, wide);
    shot(&at("text_narrow"), text::show, &samples::text(), &none, None, narrow);
    shot(&at("chat"), text::show, &samples::chat(), &none, None, wide);
    shot(
        &at("chat_empty"),
        text::show,
        &Text { turns: Vec::new(), sequences: Arc::default(), ..samples::chat() },
        &none,
        None,
        wide,
    );

    shot(&at("history"), history::show, &samples::history(), &scrubbed, None, wide);
    shot(&at("history_narrow"), history::show, &samples::history(), &none, None, narrow);
    shot(&at("history_compared"), history::show, &samples::compared(), &none, None, wide);
    shot(&at("history_empty"), history::show, &History::default(), &none, None, wide);
}

fn cut(written: &Written, new: usize) -> Written {
    let to = written.prompt + new;
    Written { tokens: written.tokens[..to].to_vec(), ..written.clone() }
}

/// Logic and tessellation of a frame, as the window does them, with nothing on a graphics card.
fn frames(name: &str, count: usize, mut draw: impl FnMut(&mut Ui, usize)) {
    let context = egui::Context::default();
    theme::install(&context);
    let screen = egui::Rect::from_min_size(egui::Pos2::ZERO, Vec2::new(1920.0, 1000.0));
    let mut times: Vec<f64> = (0..count)
        .map(|i| {
            let input = egui::RawInput { screen_rect: Some(screen), time: Some(i as f64 / 60.0), ..Default::default() };
            let start = Instant::now();
            let output = context.run_ui(input, |ui| draw(ui, i));
            let primitives = context.tessellate(output.shapes.clone(), output.pixels_per_point);
            std::hint::black_box(&primitives);
            let took = start.elapsed().as_secs_f64() * 1e3;
            output.drop_without_applying_deltas();
            took
        })
        .collect();
    let first = times.remove(0);
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!("{name}: first {first:.2} ms, then median {:.2} ms, 99 % below {:.2} ms", at(0.5), at(0.99));
}

fn cost() {
    let one = samples::timeline(84);
    let mut long = one.clone();
    let lap = one.moments.len();
    long.moments = (0..100_000)
        .map(|i| Moment { seconds: (i / lap) as f64 * 2.0 + one.moments[i % lap].seconds, ..one.moments[i % lap] })
        .collect();
    let (mut state, mut linked) = (timeline::TimelineState::default(), Linked::default());
    frames("timeline, 100,000 moments, still", 200, |ui, _| {
        timeline::show(ui, &long, &mut state, &mut linked, &mut Vec::new())
    });
    let all = std::mem::take(&mut long.moments);
    long.live = true;
    frames("timeline, a moment more each frame", 200, |ui, i| {
        let to = 99_000 + i;
        long.moments.extend_from_slice(&all[long.moments.len()..to]);
        timeline::show(ui, &long, &mut state, &mut linked, &mut Vec::new());
    });
    let base = samples::written(true);
    let mut data = samples::text();
    let tokens: Vec<_> = base.tokens.iter().cycle().take(8192).cloned().collect();
    data.prompt = tokens.iter().map(|t| t.text.as_str()).collect();
    data.sequences =
        vec![Written { tokens: tokens[..7900].to_vec(), prompt: 7800, stop: String::new(), kept: Vec::new() }].into();
    data.running = true;
    let (mut state, mut linked) = (text::TextState::default(), Linked::default());
    frames("text, 8,000 tokens, one more each frame", 200, |ui, _| {
        let n = data.sequences[0].tokens.len();
        Arc::make_mut(&mut data.sequences)[0].tokens.push(tokens[n].clone());
        text::show(ui, &data, &mut state, &mut linked, &mut Vec::new());
    });
}
