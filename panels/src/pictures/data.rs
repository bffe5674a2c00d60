//! What is to be learned from: the first documents, with what is learned of each on a tint.

use egui::text::{LayoutJob, TextFormat};
use egui::{Align, FontId, Layout, Rect, ScrollArea, Ui, UiBuilder};
use serde::{Deserialize, Serialize};

use crate::action::Action;
use crate::picture::Picture;
use crate::pictures::entry::{self, Entry};
use crate::pictures::words as say;
use crate::table::Table;
use crate::theme::{GRID, Palette, TEXT};
use crate::view::{Data, Sample};
use crate::words;

/// What this picture remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DataState {}

/// This picture's line in the list of pictures.
pub static ENTRY: Entry = Entry {
    id: "data",
    tab: "data",
    title: "Data",
    question: "What does it learn from?",
    shows: |view| view.data.is_some(),
    csv: |view| view.data.as_deref().map(csv).unwrap_or_default(),
    open: |remembered| {
        entry::open(remembered, |ui, view, _: &mut DataState, _, actions| {
            if let Some(data) = &view.data {
                show(ui, data, actions);
            }
        })
    },
};

/// Draws what the data come to and the first documents.
pub fn show(ui: &mut Ui, data: &Data, actions: &mut Vec<Action>) {
    Picture { name: "data", question: ENTRY.question }.show(
        ui,
        actions,
        || csv(data),
        |ui, rect, _| {
            if data.first.is_empty() {
                let what = match (data.reading, data.wrong.as_str()) {
                    (true, _) => format!("{} is being read.", data.file),
                    (_, "") => "Choose what to learn from: train.data.".into(),
                    (_, wrong) => wrong.into(),
                };
                say::empty(ui, rect, &what, None, "");
                return;
            }
            ui.scope_builder(UiBuilder::new().max_rect(rect).layout(Layout::top_down(Align::Min)), |ui| {
                ui.set_clip_rect(rect.expand(2.0).intersect(ui.clip_rect()));
                ScrollArea::vertical().id_salt("data").auto_shrink(false).show(ui, |ui| inside(ui, data, rect));
            });
        },
    );
}

fn inside(ui: &mut Ui, data: &Data, rect: Rect) {
    let palette = Palette::of(ui.theme());
    let again = if data.reading { format!("{} It is being read again.", data.summary) } else { data.summary.clone() };
    ui.add(egui::Label::new(egui::RichText::new(again).color(palette.text)).wrap());
    for note in &data.notes {
        say::note(ui, note);
    }
    legend(ui, palette);
    for (i, sample) in data.first.iter().enumerate() {
        crate::kit::rule(ui);
        ui.add_space(2.0 * GRID);
        say::note(ui, caption(&data.what, i, sample));
        let response = ui.add(egui::Label::new(text(sample, palette, rect.width())).wrap());
        let whole: String = sample.text.iter().map(|(part, _)| part.as_str()).collect();
        // Words alone are known by their value.
        ui.accesskit_node_builder(response.id, |node| node.set_value(whole));
        if sample.more > 0 {
            say::note(ui, format!("… and {} tokens more", words::count(sample.more as u64)));
        }
        ui.add_space(2.0 * GRID);
    }
}

/// What the tint means.
fn legend(ui: &mut Ui, palette: &Palette) {
    let mut job = LayoutJob::default();
    let format = |tint| TextFormat {
        font_id: say::captions(),
        color: palette.weak_text,
        background: tint,
        ..TextFormat::default()
    };
    job.append(" learned ", 0.0, format(tint(palette)));
    job.append("  read, not learned", 0.0, format(egui::Color32::TRANSPARENT));
    ui.label(job);
    ui.add_space(GRID);
}

fn tint(palette: &Palette) -> egui::Color32 {
    say::mix(palette.background, palette.accent, 0.28)
}

fn caption(what: &str, i: usize, sample: &Sample) -> String {
    let (tokens, learned) = (words::count(sample.tokens as u64), words::count(sample.learned as u64));
    crate::kit::sentence(&format!("{what} {}: {tokens} tokens, {learned} learned", i + 1))
}

fn text(sample: &Sample, palette: &Palette, width: f32) -> LayoutJob {
    let mut job = LayoutJob::default();
    job.wrap.max_width = width;
    for (part, learned) in &sample.text {
        let (color, background) = match learned {
            true => (palette.text, tint(palette)),
            false => (palette.weak_text, egui::Color32::TRANSPARENT),
        };
        let font_id = FontId::proportional(TEXT[1]);
        job.append(part, 0.0, TextFormat { font_id, color, background, ..TextFormat::default() });
    }
    job
}

/// Every stretch of every document shown, one a line.
fn csv(data: &Data) -> String {
    let mut table = Table::new([data.what.as_str(), "learned", "text"]);
    for (i, sample) in data.first.iter().enumerate() {
        for (part, learned) in &sample.text {
            table.row([(i + 1).to_string().as_str(), if *learned { "yes" } else { "no" }, part]);
        }
    }
    table.text()
}
