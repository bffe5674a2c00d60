//! Pictures of the panels in the states that matter, light and dark, small.
#![allow(clippy::unwrap_used, reason = "tests")]

mod device;
mod samples;

use std::sync::Arc;

use egui::{Rect, Theme, Vec2, vec2};
use egui_kittest::kittest::Queryable;
use egui_kittest::{Harness, SnapshotResults, try_image_snapshot};
use ullage_panels::view::{Status, View};
use ullage_panels::{Workbench, theme};

/// The workbench of a view at a size, in one theme.
fn harness(view: View, theme: Theme, size: Vec2) -> Harness<'static, Workbench> {
    let mut harness = Harness::builder()
        .with_size(size + vec2(16.0, 16.0))
        .with_max_steps(20)
        .with_theme(theme)
        .with_context_setup(theme::install)
        .build_ui_state(move |ui, bench: &mut Workbench| drop(bench.show(ui, &view)), Workbench::default());
    harness.run();
    harness
}

/// Half size, cut to a part of the window: small files that still show hierarchy, overlap and cut-off text.
fn part(harness: &mut Harness<'static, Workbench>, rect: Rect) -> image::RgbaImage {
    let picture = harness.render().unwrap();
    // The harness leaves a margin of 8 points around; a window has none.
    let rect = rect.translate(vec2(8.0, 8.0));
    let cut = image::imageops::crop_imm(
        &picture,
        rect.left() as u32,
        rect.top() as u32,
        rect.width() as u32,
        rect.height() as u32,
    );
    let cut = cut.to_image();
    let (w, h) = (cut.width() / 2, cut.height() / 2);
    image::imageops::resize(&cut, w, h, image::imageops::FilterType::Triangle)
}

fn both(
    results: &mut SnapshotResults,
    name: &str,
    view: &View,
    size: Vec2,
    rect: Rect,
    act: impl Fn(&mut Harness<'static, Workbench>),
) {
    if !device::draws() {
        return;
    }
    for (theme, word) in [(Theme::Dark, "dark"), (Theme::Light, "light")] {
        let mut harness = harness(view.clone(), theme, size);
        act(&mut harness);
        harness.run();
        results.add(try_image_snapshot(&part(&mut harness, rect), format!("{name}_{word}")));
    }
}

const WIDE: Vec2 = vec2(1280.0, 800.0);

fn strip() -> Rect {
    Rect::from_min_size(egui::Pos2::ZERO, vec2(1280.0, 232.0))
}

#[test]
fn top() {
    let mut results = SnapshotResults::new();
    for (name, top) in [
        ("top_over", samples::top()),
        ("top_fits", samples::top_fits()),
        ("top_stale", samples::top_stale()),
        ("top_no_plan", samples::top_without_plan()),
    ] {
        both(&mut results, name, &View { top, ..samples::view() }, WIDE, strip(), |_| {});
    }
}

#[test]
fn cards() {
    let mut results = SnapshotResults::new();
    let rect = Rect::from_min_max(egui::pos2(0.0, 220.0), egui::pos2(300.0, 760.0));
    both(&mut results, "cards", &samples::view(), WIDE, rect, |_| {});
}

#[test]
fn status() {
    let mut results = SnapshotResults::new();
    let view = View { status: samples::running(), ..samples::view() };
    let rect = Rect::from_min_max(egui::pos2(0.0, 756.0), egui::pos2(1280.0, 800.0));
    both(&mut results, "status_running", &view, WIDE, rect, |_| {});
    let blocked = Status { blocked: "Over the memory limit by 100 MiB".into(), ..Status::default() };
    both(&mut results, "status_blocked", &View { status: blocked, ..samples::view() }, WIDE, rect, |_| {});
}

#[test]
fn palette() {
    let mut results = SnapshotResults::new();
    let rect = Rect::from_center_size(egui::pos2(640.0, 280.0), vec2(680.0, 440.0));
    both(&mut results, "palette", &samples::view(), WIDE, rect, |harness| {
        harness.key_press_modifiers(egui::Modifiers::COMMAND, egui::Key::K);
        harness.run();
        harness.get_by_label("Command").type_text("keep");
    });
}

#[test]
fn notices() {
    let mut results = SnapshotResults::new();
    let mut note = samples::over_budget();
    (note.id, note.failure, note.remedy) = (8, false, None);
    note.title = "This machine was not measured yet".into();
    note.detail = "Speeds are a cautious guess until it is.".into();
    let view = View { notices: vec![samples::over_budget(), note], cards: Arc::default(), ..samples::view() };
    let rect = Rect::from_min_max(egui::pos2(0.0, 640.0), egui::pos2(1280.0, 800.0));
    both(&mut results, "notices", &view, WIDE, rect, |_| {});
}
