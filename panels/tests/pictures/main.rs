//! Text, timeline and history: driven as a screen reader would, and looked at.
#![allow(clippy::unwrap_used, reason = "tests")]

mod data;
#[path = "../device/mod.rs"]
mod device;
mod history;
mod learning;
mod samples;
mod saving;
mod text;
mod timeline;

use egui::{Theme, Ui, Vec2};
use egui_kittest::{Harness, SnapshotOptions, SnapshotResults};
use ullage_panels::{Action, Linked, theme};

/// One picture on screen: what it is given, what it remembers, what it asked for.
struct Shown<D, S> {
    data: D,
    state: S,
    linked: Linked,
    actions: Vec<Action>,
}

type Draw<D, S> = fn(&mut Ui, &D, &mut S, &mut Linked, &mut Vec<Action>);
type Driven<D, S> = Harness<'static, Shown<D, S>>;

fn sized<D: 'static, S: Default + 'static>(draw: Draw<D, S>, data: D, theme: Theme, size: [f32; 2]) -> Driven<D, S> {
    let shown = Shown { data, state: S::default(), linked: Linked::default(), actions: Vec::new() };
    let mut harness = Harness::builder()
        .with_size(Vec2::from(size))
        .with_theme(theme)
        .with_max_steps(32)
        .with_context_setup(theme::install)
        .build_ui_state(
            move |ui, s: &mut Shown<D, S>| {
                // As the window does: what is pointed at is told anew every frame.
                (s.linked.token, s.linked.used_for) = (None, None);
                draw(ui, &s.data, &mut s.state, &mut s.linked, &mut s.actions);
            },
            shown,
        );
    harness.run();
    harness
}

fn driven<D: 'static, S: Default + 'static>(draw: Draw<D, S>, data: D) -> Driven<D, S> {
    sized(draw, data, Theme::Dark, [1100.0, 560.0])
}

/// What was asked for since the last time this was called.
fn asked<D, S>(harness: &mut Driven<D, S>) -> Vec<Action> {
    harness.run();
    std::mem::take(&mut harness.state_mut().actions)
}

/// Takes small snapshots of a picture in both themes.
fn look<D: Clone + 'static, S: Default + 'static>(
    results: &mut SnapshotResults,
    name: &str,
    draw: Draw<D, S>,
    data: &D,
    linked: &Linked,
) {
    let options = SnapshotOptions::new().output_path(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pictures/snapshots"));
    if !device::draws() {
        return;
    }
    for (theme, word) in [(Theme::Dark, "dark"), (Theme::Light, "light")] {
        let mut harness = sized(draw, data.clone(), theme, [720.0, 380.0]);
        harness.state_mut().linked = linked.clone();
        harness.run();
        // Half size: small files that still show hierarchy, overlap and cut-off text.
        let whole = harness.render().unwrap();
        let (w, h) = (whole.width() / 2, whole.height() / 2);
        let half = image::imageops::resize(&whole, w, h, image::imageops::FilterType::Triangle);
        results.add(egui_kittest::try_image_snapshot_options(&half, format!("{name}_{word}"), &options));
    }
}
