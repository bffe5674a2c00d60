//! The line below the pictures: run, pause, step; what is going on and how long it takes; what can be taken away and taken back.

use egui::{Align, CornerRadius, Frame, Margin, Rect, Role, Sense, Ui, WidgetInfo, pos2, vec2};

use crate::action::Action;
use crate::kit::{self, BODY, Icon, Press, SMALL, Weight};
use crate::theme::GRID;
use crate::view::Status;
use crate::words;

/// Draws the line; true when the palette was asked for.
pub(crate) fn show(ui: &mut Ui, status: &Status, actions: &mut Vec<Action>) -> bool {
    let mut palette = false;
    Frame::new().inner_margin(Margin::symmetric(4 * GRID as i8, GRID as i8)).show(ui, |ui| {
        let (rect, _) = ui.allocate_exact_size(vec2(ui.available_width(), 32.0), Sense::hover());
        let right = kit::row_from_right(ui, rect, |ui| {
            ui.spacing_mut().item_spacing.x = GRID;
            palette = Press { weight: Weight::Quiet, name: "Commands", ..Press::new("Ctrl-K") }
                .show(ui)
                .on_hover_text("Every command by name")
                .clicked();
            let export = Press { weight: Weight::Quiet, ..Press::new("Export TOML…") }.show(ui);
            if export.on_hover_text("Save this configuration as a file that runs without a window (Ctrl-E)").clicked() {
                actions.push(Action::ExportDialog);
            }
            history(ui, Icon::Redo, "Redo", "Ctrl-Shift-Z", status.redo.as_deref(), Action::Redo, actions);
            history(ui, Icon::Undo, "Undo", "Ctrl-Z", status.undo.as_deref(), Action::Undo, actions);
            ui.min_rect().left()
        });
        let left = Rect::from_min_max(rect.min, pos2(right - 4.0 * GRID, rect.bottom()));
        let used = kit::row(ui, left, |ui| {
            ui.spacing_mut().item_spacing.x = GRID;
            buttons(ui, status, actions);
            ui.min_rect().right()
        });
        going_on(ui, Rect::from_min_max(pos2(used + 4.0 * GRID, rect.top()), left.max), status);
    });
    palette
}

fn history(
    ui: &mut Ui,
    icon: Icon,
    verb: &str,
    keys: &str,
    what: Option<&str>,
    action: Action,
    actions: &mut Vec<Action>,
) {
    let name = what.map_or_else(|| verb.to_owned(), |what| format!("{verb}: {what}"));
    let press = Press { enabled: what.is_some(), ..Press::sign(icon, &name) };
    let response = press.show(ui).on_hover_text(match what {
        Some(what) => format!("{verb} “{what}” ({keys})"),
        None => format!("Nothing to {}", verb.to_lowercase()),
    });
    if response.clicked() {
        actions.push(action);
    }
}

fn buttons(ui: &mut Ui, status: &Status, actions: &mut Vec<Action>) {
    let run = Press { icon: Some(Icon::Run), weight: Weight::Primary, ..Press::new("Run") };
    if !status.running {
        let ready = status.blocked.is_empty();
        let response = Press { enabled: ready, ..run }.show(ui);
        if response.clicked() {
            actions.push(Action::Run);
        }
        response.on_hover_text(if ready { "Run this configuration (space)" } else { &status.blocked });
        return;
    }
    let stop = Press { icon: Some(Icon::Stop), ..Press::new("Stop") };
    if stop.show(ui).on_hover_text("End the run; what it measured stays").clicked() {
        actions.push(Action::Stop);
    }
    let (text, icon, action) =
        if status.paused { ("Resume", Icon::Run, Action::Resume) } else { ("Pause", Icon::Pause, Action::Pause) };
    let weight = if status.paused { Weight::Primary } else { Weight::Plain };
    let pause = Press { icon: Some(icon), weight, ..Press::new(text) };
    if pause.show(ui).on_hover_text(format!("{text} at the next token (space)")).clicked() {
        actions.push(action);
    }
    let step = Press { icon: Some(Icon::Step), enabled: status.paused, ..Press::new("Step") };
    if step.show(ui).on_hover_text("One token more, then wait").clicked() {
        actions.push(Action::Step);
    }
}

/// `92 tok/s (predicted 95)`.
pub(crate) fn speeds(status: &Status) -> String {
    match (status.speed, status.predicted_speed) {
        (Some(now), Some(planned)) => format!("{} (predicted {})", words::speed(now), words::number(planned)),
        (Some(now), None) => words::speed(now),
        _ => String::new(),
    }
}

fn going_on(ui: &mut Ui, rect: Rect, status: &Status) {
    let p = kit::palette(ui);
    let mut said = if status.paused { format!("paused, {}", status.doing) } else { status.doing.clone() };
    if said.is_empty() {
        said.clone_from(&status.blocked);
    }
    if let Some((done, all)) = status.progress {
        said = format!("{said} {}/{}", words::count(done), words::count(all));
    }
    let said = kit::sentence(said.trim());
    let at = kit::line(ui.painter(), rect, Align::Min, &said, kit::words(BODY), p.text);
    let mut x = at.right() + 3.0 * GRID;
    if let Some((done, all)) = status.progress {
        let bar = Rect::from_min_max(
            pos2(x, rect.center().y - 3.0),
            pos2((x + 160.0).min(rect.right()), rect.center().y + 3.0),
        );
        if bar.width() > 24.0 {
            let share = (done as f64 / all.max(1) as f64).clamp(0.0, 1.0) as f32;
            ui.painter().rect_filled(bar, CornerRadius::same(3), p.line);
            let full = Rect::from_min_max(bar.min, pos2(bar.left() + bar.width() * share, bar.bottom()));
            ui.painter().rect_filled(full, CornerRadius::same(3), p.accent);
            let response = ui.interact(bar.expand(4.0), egui::Id::unique("progress"), Sense::hover());
            response.widget_info(|| {
                let mut info = WidgetInfo::labeled(Role::ProgressIndicator, true, "Progress");
                info.value = Some(f64::from(share) * 100.0);
                info.current_text_value = Some(said.clone());
                info
            });
            x = bar.right() + 3.0 * GRID;
        }
    }
    let mut parts = Vec::new();
    if let Some(left) = status.seconds_left {
        parts.push(format!("{} left", words::seconds(left)));
    }
    parts.push(speeds(status));
    if status.queued > 0 {
        parts.push(format!("{} more to run", words::count(status.queued as u64)));
    }
    parts.retain(|part| !part.is_empty());
    if x < rect.right() {
        let rest = Rect::from_min_max(pos2(x, rect.top()), rect.max);
        kit::line(ui.painter(), rest, Align::Min, &parts.join(" · "), kit::figures(SMALL), p.weak_text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_said_with_what_was_predicted() {
        let status = |speed, predicted_speed| Status { speed, predicted_speed, ..Status::default() };
        assert_eq!(speeds(&status(Some(92.34), Some(95.0))), "92.3 tok/s (predicted 95)");
        assert_eq!(speeds(&status(Some(92.34), None)), "92.3 tok/s");
        assert_eq!(speeds(&status(None, Some(95.0))), "");
        assert_eq!(speeds(&status(Some(f64::NAN), None)), "— tok/s");
    }
}
