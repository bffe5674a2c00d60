//! Draws the whole workbench, light and dark, at common sizes, as PNG files in a folder to look at:
//! `cargo run -p ullage-panels --example render -- FOLDER`.
#![allow(clippy::unwrap_used, reason = "an example")]

#[path = "../tests/samples/mod.rs"]
mod samples;

use egui::{Theme, vec2};
use egui_kittest::Harness;
use egui_kittest::kittest::Queryable;
use ullage_panels::view::View;
use ullage_panels::{Workbench, theme};

fn main() {
    let folder =
        std::env::args().nth(1).unwrap_or_else(|| std::env::temp_dir().join("ullage-screens").display().to_string());
    std::fs::create_dir_all(&folder).unwrap();
    let mut fits = samples::view();
    fits.top = samples::top_fits();
    fits.status = samples::running();
    let mut stale = samples::view();
    stale.top = samples::top_stale();
    stale.notices = vec![samples::over_budget()];
    let views = [("over", samples::view()), ("fits", fits), ("stale", stale), ("empty", View::default())];
    for (name, view) in &views {
        for (w, h) in [(1280, 800), (1920, 1080)] {
            for (theme, word) in [(Theme::Dark, "dark"), (Theme::Light, "light")] {
                let file = format!("{folder}/{name}_{w}_{word}.png");
                let mut harness = harness(view.clone(), theme, w, h);
                save(&mut harness, &file);
                println!("{file}");
            }
        }
    }
    let mut open = harness(samples::view(), Theme::Dark, 1280, 800);
    open.get_by_label("Model: SmolLM2-135M-Instruct Q4_1").click();
    open.run();
    save(&mut open, &format!("{folder}/menu.png"));
    let mut open = harness(samples::view(), Theme::Light, 1280, 800);
    open.key_press(egui::Key::F1);
    open.run();
    save(&mut open, &format!("{folder}/help.png"));
    let mut open = harness(samples::view(), Theme::Dark, 1280, 800);
    open.key_press_modifiers(egui::Modifiers::COMMAND, egui::Key::K);
    open.run();
    open.get_by_label("Command").type_text("keep");
    open.run();
    save(&mut open, &format!("{folder}/palette.png"));
}

/// The harness leaves a margin of 8 points around; a window has none.
fn save(harness: &mut Harness<'static, Workbench>, file: &str) {
    let picture = harness.render().unwrap();
    let (w, h) = (picture.width() - 16, picture.height() - 16);
    image::imageops::crop_imm(&picture, 8, 8, w, h).to_image().save(file).unwrap();
}

fn harness(view: View, theme: Theme, w: u32, h: u32) -> Harness<'static, Workbench> {
    let mut harness = Harness::builder()
        .with_size(vec2(w as f32 + 16.0, h as f32 + 16.0))
        .with_max_steps(20)
        .with_theme(theme)
        .with_context_setup(theme::install)
        .build_ui_state(move |ui, bench: &mut Workbench| drop(bench.show(ui, &view)), Workbench::default());
    harness.run();
    harness
}
