//! The strip above the pictures: what is open, where it runs, how much it has to do; the memory limit; the two bars; and one line
//! that says whether it fits and what would make it.

mod bars;
mod columns;
mod limit;
mod model;
mod scale;
mod verdict;
mod workload;

use egui::{Frame, Margin, Role, Sense, ThemePreference, Ui, WidgetInfo, vec2};

use crate::kit::{self, Icon, Press};
use crate::shared::Shared;
use crate::theme::GRID;
use crate::view::{Bars, Instant, Top, UsedFor};
use columns::Columns;
pub(crate) use limit::{slider_id, toml};
pub(crate) use model::open_menu;
pub(crate) use verdict::take;

/// What the strip remembers between frames; none of it between starts.
#[derive(Clone, Debug, Default)]
pub(crate) struct TopState {
    /// What stands in the limit's field while it is edited.
    pub limit_text: String,
    /// What stands in the path's field.
    pub path_text: String,
    /// The number of the last drag or series of key presses.
    pub gesture: u64,
    /// When the slider was last moved by keyboard, in seconds of egui's clock.
    pub nudged: f64,
    /// The slider is being dragged.
    pub dragging: bool,
    /// Name of the instant the bars show; empty for the peak.
    pub instant: String,
    /// The use that was pointed at in the last frame, anywhere.
    pub lit: Option<UsedFor>,
}

/// The instant the bars show: the moment scrubbed to when there is one, else the one chosen, else the peak.
pub(crate) fn instant_of<'a>(bars: &'a Bars, chosen: &str, moment: Option<usize>) -> Option<&'a Instant> {
    let named = |name: &str| bars.instants.iter().find(|i| i.name == name);
    let scrubbed = || bars.instants.iter().skip(1).rev().find(|i| i.name.starts_with("at "));
    moment.and_then(|_| scrubbed()).or_else(|| named(chosen)).or_else(|| bars.instants.first())
}

/// Draws the strip.
pub(crate) fn show(ui: &mut Ui, top: &Top, state: &mut TopState, shared: &mut Shared<'_>) {
    Frame::new().inner_margin(Margin::symmetric(4 * GRID as i8, 2 * GRID as i8)).show(ui, |ui| {
        ui.spacing_mut().item_spacing = vec2(2.0 * GRID, GRID);
        first_row(ui, top, state, shared);
        let columns = Columns::of(ui.available_rect_before_wrap());
        limit::show(ui, &columns, &top.limit, state, shared.actions);
        bars::show(ui, &columns, top, state, shared);
        verdict::show(ui, &columns, top, state, shared.actions);
        notes(ui, &columns, &top.notes);
    });
}

fn first_row(ui: &mut Ui, top: &Top, state: &mut TopState, shared: &mut Shared<'_>) {
    let (rect, _) = ui.allocate_exact_size(vec2(ui.available_width(), 36.0), Sense::hover());
    let theme = egui::Rect::from_min_max(egui::pos2(rect.right() - 32.0, rect.top()), rect.max);
    let rest = egui::Rect::from_min_max(rect.min, egui::pos2(theme.left() - GRID, rect.bottom()));
    // The workload takes what it needs from the right; the model's name is what gives way.
    let used = kit::row_from_right(ui, rest, |ui| {
        workload::show(ui, top, state, shared);
        ui.min_rect().width()
    });
    let left = egui::Rect::from_min_max(rest.min, egui::pos2(rest.right() - used - 6.0 * GRID, rest.bottom()));
    // The signs stand in line with the words of the rows below.
    let left = left.translate(vec2(-3.0 * GRID, 0.0));
    kit::row(ui, left, |ui| {
        let width = left.width();
        model::model(ui, top, state, shared.actions, width * 0.6);
        model::device(ui, top, shared.actions, width * 0.4 - 2.0 * GRID);
    });
    kit::row_from_right(ui, theme, theme_button);
}

/// What to know before reading the prediction, a line each; what has no room is told on hover.
fn notes(ui: &mut Ui, at: &Columns, notes: &[String]) {
    for note in notes {
        let (rect, response) = ui.allocate_exact_size(vec2(ui.available_width(), 20.0), Sense::hover());
        let said = format!("Note: {note}");
        response.widget_info(|| WidgetInfo::labeled(Role::Label, true, &said));
        let line = egui::Rect::from_min_max(egui::pos2(at.bars.left(), rect.top()), rect.max);
        let color = kit::palette(ui).weak_text;
        let galley = kit::elided(ui.painter(), &said, kit::words(kit::SMALL), color, line.width());
        let at = egui::pos2(line.left(), line.center().y - galley.size().y / 2.0);
        ui.painter().galley(at, galley, color);
        response.on_hover_text(said);
    }
}

/// Light, dark, or as the system has it.
fn theme_button(ui: &mut Ui) {
    let now = ui.ctx().options(|o| o.theme_preference);
    let (next, words) = match now {
        ThemePreference::System => (ThemePreference::Light, "as the system has it; click for light"),
        ThemePreference::Light => (ThemePreference::Dark, "light; click for dark"),
        ThemePreference::Dark => (ThemePreference::System, "dark; click for what the system has"),
    };
    let response = Press::sign(Icon::Theme, "Change the theme").show(ui);
    if response.clicked() {
        ui.ctx().set_theme(next);
    }
    response.on_hover_text(format!("Theme: {words}"));
}
