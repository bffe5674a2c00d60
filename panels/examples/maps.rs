//! Draws the three pictures large, as PNG files in a folder given (`cargo run -p ullage-panels --example maps -- FOLDER`), or
//! says what a frame with a 4096 × 4096 attention map costs (`-- cost`).
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a tool for those who work on the pictures")]

#[path = "../tests/maps/samples.rs"]
mod samples;

use std::sync::Arc;
use std::time::Instant;

use egui::{Theme, Vec2};
use egui_kittest::Harness;
use ullage_panels::pictures::{accuracy, attention, places};
use ullage_panels::view::Attention;
use ullage_panels::{Linked, theme};

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("cost") => cost(),
        Some(folder) => pictures(folder),
        None => println!("say a folder for PNG files, or `cost`"),
    }
}

fn shot(folder: &str, name: &str, hover: Option<[f32; 2]>, mut draw: impl FnMut(&mut egui::Ui) + 'static) {
    for (theme, word) in [(Theme::Dark, "dark"), (Theme::Light, "light")] {
        let size = Vec2::new(1280.0, 600.0);
        let mut harness = Harness::builder()
            .with_size(size)
            .with_theme(theme)
            .with_max_steps(64)
            .with_context_setup(theme::install)
            .build_ui(|ui| draw(ui));
        harness.run();
        if let Some(at) = hover {
            harness.hover_at(at.into());
            harness.run();
        }
        let path = format!("{folder}/{name}_{word}.png");
        harness.render().unwrap().save(&path).unwrap();
        println!("{path}");
    }
}

fn pictures(folder: &str) {
    std::fs::create_dir_all(folder).unwrap();
    let data = samples::attention(96, 160);
    let full = data.clone();
    let mut state = attention::AttentionState::default();
    let mut linked = Linked { head: Some((7, 4)), ..Linked::default() };
    shot(folder, "heads", Some([420.0, 300.0]), move |ui| {
        attention::show(ui, &full, &mut state, &mut linked, &mut Vec::new());
    });
    let full = data.clone();
    let mut state = attention::AttentionState::large();
    let mut linked = Linked { head: Some((3, 2)), ..Linked::default() };
    shot(folder, "map", Some([420.0, 400.0]), move |ui| {
        attention::show(ui, &full, &mut state, &mut linked, &mut Vec::new());
    });
    let (map, evictions) = samples::map(36, 20, (3, 2), true);
    let short = Attention { map: Some(Arc::new(map)), evictions: Arc::new(evictions), prompt: 20, ..data.clone() };
    let mut state = attention::AttentionState::large();
    let mut linked = Linked { head: Some((3, 2)), moment: Some(20), ..Linked::default() };
    shot(folder, "map_words", None, move |ui| {
        attention::show(ui, &short, &mut state, &mut linked, &mut Vec::new());
    });
    let mut state = attention::AttentionState::default();
    let empty = Attention { layers: 30, heads: 9, kv_heads: 3, ..Attention::default() };
    shot(folder, "attention_empty", None, move |ui| {
        attention::show(ui, &empty, &mut state, &mut Linked::default(), &mut Vec::new());
    });
    let mut state = accuracy::AccuracyState::default();
    let mut linked = Linked { run: Some("run 6".into()), ..Linked::default() };
    shot(folder, "accuracy", Some([560.0, 250.0]), move |ui| {
        accuracy::show(ui, &samples::accuracy(), &mut state, &mut linked, &mut Vec::new());
    });
    for measured in [false, true] {
        let mut state = places::PlacesState::default();
        let mut linked = Linked::default();
        let name = if measured { "places_measured" } else { "places_predicted" };
        shot(folder, name, measured.then_some([330.0, 300.0]), move |ui| {
            places::show(ui, &samples::places(measured), &mut state, &mut linked, &mut Vec::new());
        });
    }
}

/// What frames with a 4096 × 4096 map cost in layout and tessellation, without a device to draw on. Every pass does the same
/// frames; a frame's cost is that of its quickest pass, so that what else the machine does is not counted.
fn cost() {
    const SIDE: usize = 4096;
    const PASSES: usize = 7;
    let (map, evictions) = samples::map(SIDE, 3000, (3, 2), true);
    let data = Attention {
        map: Some(Arc::new(map)),
        evictions: Arc::new(evictions),
        tokens: samples::tokens(SIDE),
        prompt: 3000,
        grid: None,
        ..samples::attention(1, 8)
    };
    let parts = [("arriving and at rest", 120), ("zooming and moving", 400), ("at rest, zoomed", 400)];
    let mut times = parts.map(|(_, frames)| vec![f64::INFINITY; frames]);
    let mut uploads = [(0, 0); 3];
    for _ in 0..PASSES {
        let context = egui::Context::default();
        theme::install(&context);
        let mut state = attention::AttentionState::large();
        let mut linked = Linked { head: Some((3, 2)), ..Linked::default() };
        // The window is up and has its fonts before a map arrives.
        for frame in 0..3 {
            let input = egui::RawInput { time: Some(0.001 * f64::from(frame)), ..Default::default() };
            let mut output = context.run_ui(input, |ui| _ = ui.label("Fonts"));
            output.textures_delta.clear();
        }
        let mut now = 1.0;
        for (part, (what, frames)) in parts.into_iter().enumerate() {
            uploads[part] = (0, 0);
            for frame in 0..frames {
                let mut events = vec![egui::Event::PointerMoved(egui::pos2(300.0 + frame as f32, 250.0))];
                if what.starts_with("zooming") {
                    events.push(egui::Event::MouseWheel {
                        unit: egui::MouseWheelUnit::Point,
                        delta: Vec2::new(0.0, if frame % 200 < 120 { 12.0 } else { -14.0 }),
                        modifiers: egui::Modifiers::NONE,
                        phase: egui::TouchPhase::Move,
                        source: egui::MouseWheelSource::Wheel,
                    });
                }
                now += 1.0 / 60.0;
                let input = egui::RawInput {
                    screen_rect: Some(egui::Rect::from_min_size(egui::Pos2::ZERO, Vec2::new(1280.0, 600.0))),
                    max_texture_side: Some(8192),
                    time: Some(now),
                    events,
                    ..Default::default()
                };
                let start = Instant::now();
                let output = context.run_ui(input, |ui| {
                    attention::show(ui, &data, &mut state, &mut linked, &mut Vec::new());
                });
                drop(context.tessellate(output.shapes, output.pixels_per_point));
                let spent = start.elapsed().as_secs_f64() * 1e3;
                times[part][frame] = times[part][frame].min(spent);
                let mut textures = output.textures_delta;
                for delta in textures.set.values().flatten() {
                    uploads[part].0 += 1;
                    let [width, height] = delta.image.size();
                    uploads[part].1 += width * height * delta.image.bytes_per_pixel();
                }
                textures.clear();
            }
        }
    }
    for (((what, frames), times), (count, bytes)) in parts.into_iter().zip(&mut times).zip(uploads) {
        if std::env::args().any(|a| a == "all") {
            println!("{times:.2?}");
        }
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        println!(
            "{what}: {frames} frames, median {:.2} ms, p99 {:.2} ms, longest {:.2} ms; {count} uploads, {:.1} MiB",
            at(0.5),
            at(0.99),
            times[times.len() - 1],
            bytes as f64 / 1_048_576.0
        );
    }
}
