//! What has to be read: what happened, why, and what to do, each with the button that does it.

use egui::{Frame, Margin, Role, Sense, Ui, WidgetInfo, vec2};

use crate::action::Action;
use crate::kit::{self, BODY, Icon, Press, Weight};
use crate::theme::GRID;
use crate::view::Notice;

/// How many show at once; the rest wait their turn.
const MOST: usize = 3;

/// Draws the newest, newest first.
pub(crate) fn show(ui: &mut Ui, notices: &[Notice], actions: &mut Vec<Action>) {
    Frame::new().inner_margin(Margin::symmetric(4 * GRID as i8, GRID as i8)).show(ui, |ui| {
        ui.spacing_mut().item_spacing = vec2(3.0 * GRID, GRID);
        for notice in notices.iter().rev().take(MOST) {
            ui.push_id(notice.id, |ui| one(ui, notice, actions));
        }
        if notices.len() > MOST {
            let p = kit::palette(ui);
            kit::label(ui, &format!("and {} more", notices.len() - MOST), kit::SMALL, p.weak_text);
        }
    });
}

fn one(ui: &mut Ui, notice: &Notice, actions: &mut Vec<Action>) {
    let p = kit::palette(ui);
    let edge = if notice.failure { p.alarm } else { p.weak_text };
    let buttons =
        notice.remedy.as_ref().map_or(0.0, |(words, _)| kit::width(ui.painter(), words, kit::words(BODY)) + 8.0 * GRID);
    ui.horizontal(|ui| {
        let room = ui.available_width() - buttons - 60.0;
        let text = ui
            .scope(|ui| {
                ui.add_space(3.0 * GRID);
                ui.vertical(|ui| {
                    ui.set_width(room.max(80.0));
                    ui.spacing_mut().item_spacing.y = 0.0;
                    kit::paragraph(ui, &notice.title, BODY, if notice.failure { p.alarm } else { p.text });
                    if !notice.detail.is_empty() {
                        kit::paragraph(ui, &notice.detail, BODY, p.weak_text);
                    }
                })
                .response
            })
            .inner;
        let mark = egui::Rect::from_min_size(text.rect.min - vec2(3.0 * GRID, 0.0), vec2(3.0, text.rect.height()));
        ui.painter().rect_filled(mark, 1.0, edge);
        let spoken = ui.interact(text.rect, ui.unique_id().with("notice"), Sense::hover());
        spoken.widget_info(|| WidgetInfo::labeled(Role::Alert, true, format!("{}. {}", notice.title, notice.detail)));
        if let Some((words, sets)) = &notice.remedy {
            let press = Press { weight: Weight::Primary, ..Press::new(words) };
            if press.show(ui).clicked() {
                actions.push(Action::Set { what: words.clone(), sets: sets.clone(), gesture: None });
                actions.push(Action::PutAway(notice.id));
            }
        }
        let name = format!("Put away: {}", notice.title);
        if Press::sign(Icon::Close, &name).show(ui).on_hover_text("Put this away").clicked() {
            actions.push(Action::PutAway(notice.id));
        }
    });
}
