//! What did each byte buy: accuracy against measured bytes, every run a point, every sweep a line.

mod front;
mod plot;
mod side;

use std::collections::BTreeSet;

use egui::{Align, Layout, Rect, Ui, UiBuilder};
use serde::{Deserialize, Serialize};

use crate::picture::{self, Picture};
use crate::pictures::chart::axis;
use crate::pictures::entry::{self, Entry};
use crate::table::{Table, number};
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
    /// Nobody can point at anything: it is drawn for a file.
    #[serde(skip)]
    paper: bool,
}

/// This picture's line in the list of pictures.
pub static ENTRY: Entry = Entry {
    id: "accuracy",
    tab: "accuracy",
    title: "Accuracy vs memory",
    question: "What did each byte buy?",
    shows: |_| true,
    csv: |view| csv(&view.accuracy),
    open: |remembered| {
        entry::open(remembered, |ui, view, state, linked, actions| show(ui, &view.accuracy, state, linked, actions))
    },
};

/// Points that the legend and the sweeps take at the right, at least and at most.
const SIDE: [f32; 2] = [40.0 * GRID, 66.0 * GRID];

/// Draws points, curves and the Pareto front in all the space of `ui`, the legend and the sweeps beside them.
pub fn show(ui: &mut Ui, data: &Accuracy, state: &mut AccuracyState, linked: &mut Linked, actions: &mut Vec<Action>) {
    let picture = Picture { name: ENTRY.id, question: ENTRY.question };
    picture.show(ui, actions, || csv(data), |ui, rect, actions| draw(ui, rect, data, state, linked, actions));
}

/// The picture as an SVG file for light paper, `size` points wide and high, drawn without a window: what the screen shows, with the
/// words beside every point that the screen says of the one pointed at.
pub fn svg(data: &Accuracy, title: &str, size: egui::Vec2) -> String {
    let (mut state, mut linked) = (AccuracyState { paper: true, ..AccuracyState::default() }, Linked::default());
    picture::paper(title, size, egui::Theme::Light, |ui, rect| {
        draw(ui, rect, data, &mut state, &mut linked, &mut Vec::new());
    })
}

fn draw(
    ui: &mut Ui,
    rect: Rect,
    data: &Accuracy,
    state: &mut AccuracyState,
    linked: &mut Linked,
    actions: &mut Vec<Action>,
) {
    // What is painted takes its room too.
    ui.expand_to_include_rect(rect);
    let axis = chosen_axis(data, &state.axis).filter(|_| data.series.iter().any(|s| !s.dots.is_empty()));
    let Some(axis) = axis else {
        waiting(ui, rect, data, actions);
        return;
    };
    let mut below = rect;
    if !state.paper {
        let (top, rest) = rect.split_top_bottom_at_y(rect.top() + 9.0 * GRID);
        controls(ui, top, data, state, axis);
        below = rest;
    }
    let side = (0.36 * below.width()).clamp(SIDE[0], SIDE[1]);
    let (left, right) = below.split_left_right_at_x((below.right() - side).max(below.left()));
    plot::show(ui, left, data, state, axis, linked, actions);
    let right = Rect::from_min_max(right.min + egui::vec2(6.0 * GRID, 0.0), right.max);
    side::show(ui, right, data, state, axis, linked, actions);
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

/// Why a point has no place on a curve of `axis`: it diverged, or this figure of it is infinite. Empty where it has one, or was
/// not measured.
fn broken(dot: &Dot, axis: &Axis) -> String {
    let infinite = || dot.values.iter().any(|(id, v)| *id == axis.id && v.is_infinite());
    match dot.diverged.as_str() {
        "" if infinite() => format!("{} infinite", axis.label),
        why => why.to_owned(),
    }
}

/// What a point says about itself.
fn describe(dot: &Dot, axis: &Axis) -> String {
    let bytes = crate::words::bytes(dot.bytes);
    match of(&dot.values, &axis.id) {
        _ if dot.planned => format!("{}: {bytes} predicted, not run yet", dot.label),
        _ if !broken(dot, axis).is_empty() => format!("{}: {bytes}, {}", dot.label, broken(dot, axis)),
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
    let mut head = ["series", "machine", "run", "label", "bytes", "planned", "diverged"].map(str::to_owned).to_vec();
    for axis in &data.axes {
        head.extend([axis.id.clone(), format!("{} standard error", axis.id)]);
    }
    head.push("configuration".into());
    let mut table = Table::new(head);
    for (series, dot) in data.series.iter().flat_map(|s| s.dots.iter().map(move |d| (s, d))) {
        let mut row = [&series.name, &series.machine, &dot.run, &dot.label].map(Clone::clone).to_vec();
        row.extend([dot.bytes.to_string(), dot.planned.to_string(), dot.diverged.clone()]);
        for axis in &data.axes {
            let infinite = dot.values.iter().any(|(id, v)| *id == axis.id && v.is_infinite());
            let [value, error] = [&dot.values, &dot.errors].map(|values| number(of(values, &axis.id)));
            row.extend(if infinite { ["infinite".to_owned(), String::new()] } else { [value, error] });
        }
        let sets: Vec<String> = dot.sets.iter().map(|(k, v)| format!("{k}={v}")).collect();
        row.push(sets.join(" "));
        table.row(row);
    }
    table.text()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Series;

    #[test]
    fn a_broken_point_is_marked_and_says_why() {
        let axis = Axis { id: "fidelity.kl_mean".into(), label: "KL".into(), unit: "nats".into(), up: false };
        let dot = |label: &str, mib: u64, value: f64, diverged: &str| Dot {
            label: label.into(),
            bytes: mib << 20,
            values: vec![(axis.id.clone(), value)],
            diverged: diverged.into(),
            ..Dot::default()
        };
        let dots = vec![
            dot("good", 16, 0.2, ""),
            dot("nan", 11, 0.0, "fidelity diverged: NaN"),
            dot("ruled-out", 12, f64::INFINITY, ""),
        ];
        let said: Vec<String> = dots.iter().map(|d| describe(d, &axis)).collect();
        assert!(said[0].contains("KL") && said[1].ends_with("fidelity diverged: NaN"), "{said:?}");
        assert!(said[2].ends_with("KL infinite"), "{said:?}");
        let series = vec![Series { name: "formats".into(), machine: String::new(), dots }];
        let data = Accuracy { axes: vec![axis], series, ..Accuracy::default() };
        let text = csv(&data);
        assert!(text.contains("fidelity diverged: NaN") && text.contains("infinite"), "{text}");
        let svg = svg(&data, "What did each byte buy?", egui::vec2(960.0, 480.0));
        for words in ["good", "nan: diverged", "ruled-out: infinite"] {
            assert!(svg.contains(&format!(">{words}<")), "{words} is not in the picture");
        }
    }

    #[test]
    fn on_paper_every_point_has_its_words_and_nothing_can_be_pressed() {
        let dot = |label: &str, mib: u64, value| Dot {
            label: label.into(),
            bytes: mib << 20,
            values: vec![("recall.accuracy".into(), value)],
            errors: vec![("recall.accuracy".into(), 0.02)],
            ..Dot::default()
        };
        let series = |name: &str, up: f64| Series {
            name: name.into(),
            machine: String::new(),
            dots: vec![dot("ratio=0.1", 11, 0.1 * up), dot("ratio=0.5", 14, 0.7 * up), dot("ratio=0.75", 16, up)],
        };
        let axis = Axis { id: "recall.accuracy".into(), label: "recall".into(), unit: "%".into(), up: true };
        let data = Accuracy {
            axes: vec![axis],
            series: vec![series("select=<h2o>", 1.0), series("select=window", 0.5)],
            ..Accuracy::default()
        };
        let text = svg(&data, "What did each byte buy?", egui::vec2(960.0, 480.0));
        let parsed = roxmltree::Document::parse(&text).expect("XML");
        let said: Vec<String> = parsed
            .descendants()
            .filter(|n| n.has_tag_name("text"))
            .filter_map(|n| n.text())
            .map(str::to_owned)
            .collect();
        let has = |words: &str| said.iter().any(|t| t == words);
        for words in [
            "What did each byte buy?",
            "recall, more is better ↑",
            "measured peak in bytes →",
            "Series",
            "select=<h2o>",
        ] {
            assert!(has(words), "{words} is not in {said:?}");
        }
        for label in ["ratio=0.1", "ratio=0.5", "ratio=0.75"] {
            assert_eq!(said.iter().filter(|t| *t == label).count(), 2, "{label} in {said:?}");
        }
        assert!(!said.iter().any(|t| t.contains("press") || t == "log"), "{said:?}");
    }
}
