//! Attention, accuracy against memory, and where bytes live: driven as a screen reader would, and looked at.
#![allow(clippy::unwrap_used, reason = "tests")]

mod accuracy;
mod attention;
#[path = "../device/mod.rs"]
mod device;
mod places;
mod samples;

use egui::{Theme, Ui, Vec2};
use egui_kittest::{Harness, SnapshotResults};
use ullage_panels::{Action, Linked, theme};

/// One picture on screen: what it is given, what it remembers, what it asked for.
struct Shown<D, S> {
    data: D,
    state: S,
    linked: Linked,
    actions: Vec<Action>,
}

type Draw<D, S> = fn(&mut Ui, &D, &mut S, &mut Linked, &mut Vec<Action>);

fn harness<D: 'static, S: Default + 'static>(
    draw: Draw<D, S>,
    data: D,
    theme: Theme,
    size: [f32; 2],
) -> Harness<'static, Shown<D, S>> {
    let shown = Shown { data, state: S::default(), linked: Linked::default(), actions: Vec::new() };
    let mut harness = Harness::builder()
        .with_size(Vec2::from(size))
        .with_theme(theme)
        .with_step_dt(1.0 / 60.0)
        .with_max_steps(80)
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

/// The size of snapshots, in points.
const SMALL: [f32; 2] = [520.0, 340.0];

/// Takes snapshots of a picture in both themes.
fn look<D: Clone + 'static, S: Default + 'static>(
    results: &mut SnapshotResults,
    name: &str,
    draw: Draw<D, S>,
    data: &D,
    prepare: impl Fn(&mut Harness<'static, Shown<D, S>>),
) {
    if !device::draws() {
        return;
    }
    for (theme, word) in [(Theme::Dark, "dark"), (Theme::Light, "light")] {
        let mut harness = harness(draw, data.clone(), theme, SMALL);
        prepare(&mut harness);
        harness.run();
        results.add(harness.try_snapshot(format!("{name}_{word}")));
    }
}
