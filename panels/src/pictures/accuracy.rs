//! What did each byte buy: accuracy against measured bytes, every run a point, every sweep a line.

pub(super) mod axis;
mod front;
pub(super) mod marks;
mod plot;
mod side;

use std::collections::BTreeSet;

use egui::{Align, Layout, Rect, Ui, UiBuilder};
use serde::{Deserialize, Serialize};

use crate::picture::{Picture, field};
use crate::theme::{GRID, Palette};
use crate::view::{Accuracy, Axis, Dot};
use crate::{Action, Linked};

/// What the picture remembers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AccuracyState {
    /// The accuracy shown, by its id; the first that has points when empty.
    pub axis: String,
    /// Bytes in equal steps instead of equal ratios.
    pub linear: bool,
    /// Series that the legend has switched off, by name.
    pub hidden: BTreeSet<String>,
    /// The point chosen that is no run: its series and label.
    #[serde(skip)]
    chosen: Option<(String, String)>,
}

/// Points that the legend and the sweeps take at the right, at least and at most.
const SIDE: [f32; 2] = [40.0 * GRID, 66.0 * GRID];

/// Draws the picture.
pub fn show(ui: &mut Ui, data: &Accuracy, state: &mut AccuracyState, linked: &mut Linked, actions: &mut Vec<Action>) {
    let picture = Picture { name: "accuracy", question: "What did each byte buy?" };
    picture.show(
        ui,
        actions,
        || csv(data),
        |ui, rect, actions| {
            // What is painted takes its room too.
            ui.expand_to_include_rect(rect);
            if data.series.iter().all(|s| s.dots.is_empty()) {
                waiting(ui, rect, data, actions);
                return;
            }
            let Some(axis) = chosen_axis(data, &state.axis) else {
                waiting(ui, rect, data, actions);
                return;
            };
            let (top, below) = rect.split_top_bottom_at_y(rect.top() + 9.0 * GRID);
            controls(ui, top, data, state, axis);
            let side = (0.36 * below.width()).clamp(SIDE[0], SIDE[1]);
            let (left, right) = below.split_left_right_at_x((below.right() - side).max(below.left()));
            plot::show(ui, left, data, state, axis, linked, actions);
            let right = Rect::from_min_max(right.min + egui::vec2(6.0 * GRID, 0.0), right.max);
            side::show(ui, right, data, state, axis, linked, actions);
        },
    );
}

/// The axis asked for when it exists, or else the first that has points, or else the first.
fn chosen_axis<'a>(data: &'a Accuracy, id: &str) -> Option<&'a Axis> {
    let has = |a: &&Axis| data.series.iter().any(|s| s.dots.iter().any(|d| of(&d.values, &a.id).is_some()));
    data.axes.iter().find(|a| a.id == id).or_else(|| data.axes.iter().find(has)).or(data.axes.first())
}

/// The value for an axis.
fn of(values: &[(String, f64)], axis: &str) -> Option<f64> {
    values.iter().find(|(id, _)| id == axis).map(|(_, v)| *v).filter(|v| v.is_finite())
}

/// What a point says about itself.
fn describe(dot: &Dot, axis: &Axis) -> String {
    let bytes = crate::words::bytes(dot.bytes);
    match of(&dot.values, &axis.id) {
        _ if dot.planned => format!("{}: {bytes} predicted, not run yet", dot.label),
        Some(v) => {
            let error =
                of(&dot.errors, &axis.id).map_or(String::new(), |e| format!(" ± {}", axis::value(e, &axis.unit)));
            format!("{}: {bytes}, {} {}{error}", dot.label, axis.label, axis::value(v, &axis.unit))
        }
        None => format!("{}: {bytes}, {} not measured", dot.label, axis.label),
    }
}

fn waiting(ui: &mut Ui, rect: Rect, data: &Accuracy, actions: &mut Vec<Action>) {
    let first = data.sweeps.first();
    let why = match (first, data.queued) {
        (_, n) if n > 0 => format!("{n} runs to go; each appears as a point when it ends."),
        (Some((name, points)), _) => format!(
            "Every run with an evaluation is a point: its measured bytes, and the accuracy it kept. “{name}” makes a \
             curve of {} runs.",
            points.len()
        ),
        (None, _) => {
            "Every run with an evaluation is a point: its measured bytes, and the accuracy it kept. Switch an \
                      evaluation on and run, or drop a CSV with curves measured elsewhere."
                .into()
        }
    };
    let stop = data.queued > 0;
    let label = if stop { Some("Stop".to_owned()) } else { first.map(|(name, _)| format!("Run “{name}”")) };
    if super::waiting::show(ui, rect, "Accuracy against memory", &why, label.as_deref(), "") {
        actions.push(match first {
            Some((name, points)) if !stop => Action::Sweep { name: name.clone(), points: points.clone() },
            _ => Action::StopSweep,
        });
    }
}

fn controls(ui: &mut Ui, rect: Rect, data: &Accuracy, state: &mut AccuracyState, axis: &Axis) {
    let palette = Palette::of(ui.theme());
    let quiet = |text: &str| egui::RichText::new(text).color(palette.weak_text);
    ui.scope_builder(UiBuilder::new().max_rect(rect).layout(Layout::left_to_right(Align::Center)), |ui| {
        ui.label(quiet("Accuracy"));
        let offer = |ui: &mut Ui, state: &mut AccuracyState| {
            for a in &data.axes {
                let hint = if a.up { "More is better" } else { "Less is better" };
                if ui.selectable_label(a.id == axis.id, &a.label).on_hover_text(hint).clicked() {
                    state.axis.clone_from(&a.id);
                }
            }
        };
        // Side by side while they fit.
        if data.axes.len() <= 2 {
            offer(ui, state);
        } else {
            let list = egui::ComboBox::from_id_salt("accuracy axis").selected_text(&axis.label);
            list.show_ui(ui, |ui| offer(ui, state)).response.accessible_name("Accuracy shown");
        }
        ui.add_space(4.0 * GRID);
        ui.label(quiet("Bytes"));
        ui.selectable_value(&mut state.linear, false, "log").on_hover_text("Equal ratios of bytes are equal steps");
        ui.selectable_value(&mut state.linear, true, "linear").on_hover_text("Equal differences are equal steps");
    });
}

fn csv(data: &Accuracy) -> String {
    let mut out = String::from("series,machine,run,label,bytes,planned");
    for axis in &data.axes {
        out += &format!(",{},{} standard error", field(&axis.id), field(&axis.id));
    }
    out += ",configuration\n";
    for series in &data.series {
        for dot in &series.dots {
            let fields = [&series.name, &series.machine, &dot.run, &dot.label].map(|f| field(f));
            out += &format!("{},{},{}", fields.join(","), dot.bytes, dot.planned);
            for axis in &data.axes {
                for values in [&dot.values, &dot.errors] {
                    out += &of(values, &axis.id).map_or(",".into(), |v| format!(",{v}"));
                }
            }
            let sets: Vec<String> = dot.sets.iter().map(|(k, v)| format!("{k}={v}")).collect();
            out += &format!(",{}\n", field(&sets.join(" ")));
        }
    }
    out
}
