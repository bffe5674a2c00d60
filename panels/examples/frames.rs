//! What a frame of the workbench costs, without a window: layout and tessellation while the limit is dragged and text runs.
//! `cargo run --release -p ullage-panels --example frames`.
#![allow(clippy::unwrap_used, reason = "an example")]

#[path = "../tests/samples/mod.rs"]
mod samples;

use std::time::Instant;

use egui::{Context, Event, PointerButton, Pos2, RawInput, Rect, pos2, vec2};
use ullage_panels::{Workbench, theme};

const FRAMES: usize = 1000;

fn main() {
    for (w, h) in [(1280.0, 800.0), (1920.0, 1080.0), (3840.0, 2160.0)] {
        let mut times = run(w, h);
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        println!("{w} × {h}: median {:.2} ms, p99 {:.2} ms, most {:.2} ms", at(0.5), at(0.99), at(1.0));
    }
}

/// Milliseconds of each frame's layout and tessellation.
fn run(w: f32, h: f32) -> Vec<f64> {
    let ctx = Context::default();
    theme::install(&ctx);
    let mut bench = Workbench::default();
    let mut view = samples::view();
    view.status = samples::running();
    let mut times = Vec::new();
    for frame in 0..FRAMES + 10 {
        // The slider's handle goes back and forth.
        let x = w * (0.3 + 0.2 * ((frame as f32) * 0.05).sin());
        let mut events = vec![Event::PointerMoved(pos2(x, 72.0))];
        if frame == 2 {
            let modifiers = egui::Modifiers::NONE;
            events.push(Event::PointerButton {
                pos: pos2(x, 72.0),
                button: PointerButton::Primary,
                pressed: true,
                modifiers,
            });
        }
        view.top.limit.bytes = Some((64 + frame as u64) * samples::MIB);
        let input = RawInput {
            screen_rect: Some(Rect::from_min_size(Pos2::ZERO, vec2(w, h))),
            time: Some(frame as f64 / 60.0),
            events,
            ..RawInput::default()
        };
        let start = Instant::now();
        let mut output = ctx.run_ui(input, |ui| drop(bench.show(ui, &view)));
        let meshes = ctx.tessellate(std::mem::take(&mut output.shapes), output.pixels_per_point);
        let took = start.elapsed().as_secs_f64() * 1e3;
        // Nobody uploads the glyphs here.
        output.textures_delta.clear();
        assert!(!meshes.is_empty());
        // The first frames lay out every glyph once.
        if frame >= 10 {
            times.push(took);
        }
    }
    times
}
