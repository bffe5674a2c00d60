//! The keyboard: what each shortcut does, and the list of them.

use egui::{Context, Id, Key, Modal, Modifiers, Ui};

use crate::commands::Does;
use crate::kit::{self, BODY, SMALL};
use crate::pictures::{Entry, Pictures};
use crate::theme::{GRID, TEXT};
use crate::view::View;
use crate::{Action, top};

/// Keys and what they do, as listed.
const LIST: [(&str, &str); 13] = [
    ("Space", "Run, pause, resume"),
    ("Ctrl-K", "Commands by name"),
    ("Ctrl-L", "Memory limit"),
    ("← →", "Nudge the memory limit"),
    ("Shift ← →", "Nudge it coarsely"),
    ("Home, End", "Lowest and highest memory limit"),
    ("Ctrl-Z", "Undo a change of the configuration"),
    ("Ctrl-Shift-Z", "Redo it"),
    ("Ctrl-O", "Open a model or configuration"),
    ("Ctrl-E", "Export TOML"),
    ("Ctrl-I", "Show or fold the About panel"),
    ("Tab, Shift-Tab", "Next and previous control"),
    ("F1", "This list"),
];

const DIGITS: [Key; 9] =
    [Key::Num1, Key::Num2, Key::Num3, Key::Num4, Key::Num5, Key::Num6, Key::Num7, Key::Num8, Key::Num9];

/// The keys of a tab by its number from the left; `None` for those beyond the digits.
pub(crate) fn of_tab(i: usize) -> Option<String> {
    (i < DIGITS.len()).then(|| format!("Ctrl-{}", i + 1))
}

/// What was asked for by keyboard in this frame. The palette's own keys are its own.
pub(crate) fn pressed(ctx: &Context, view: &View, pictures: &Pictures, palette: &mut bool) -> Vec<Does> {
    let mut asked = Vec::new();
    let writing = ctx.text_edit_focused();
    let focused = ctx.memory(|m| m.focused());
    let ask = |a| Does::Ask(a);
    ctx.input_mut(|i| {
        let mut hit = |modifiers, key| i.consume_key(modifiers, key);
        *palette = hit(Modifiers::COMMAND, Key::K);
        if hit(Modifiers::NONE, Key::F1) {
            asked.push(Does::Shortcuts);
        }
        for (key, does) in [
            (Key::O, ask(Action::OpenDialog)),
            (Key::E, ask(Action::ExportDialog)),
            (Key::L, Does::Limit),
            (Key::I, Does::About),
        ] {
            if hit(Modifiers::COMMAND, key) {
                asked.push(does);
            }
        }
        for (entry, key) in pictures.tabs(view).into_iter().zip(DIGITS) {
            if hit(Modifiers::COMMAND, key) {
                asked.push(Does::Show(entry.tab));
            }
        }
        if !writing {
            // The one with shift first: the other would match it too.
            if hit(Modifiers::COMMAND | Modifiers::SHIFT, Key::Z) || hit(Modifiers::COMMAND, Key::Y) {
                asked.extend(view.status.redo.is_some().then(|| ask(Action::Redo)));
            } else if hit(Modifiers::COMMAND, Key::Z) {
                asked.extend(view.status.undo.is_some().then(|| ask(Action::Undo)));
            }
        }
        // A focused button takes space itself.
        let free = focused.is_none_or(|id| id == top::slider_id());
        if !writing && free && hit(Modifiers::NONE, Key::Space) {
            asked.extend(run_or_pause(view).map(ask));
        }
    });
    asked
}

/// What space does now.
fn run_or_pause(view: &View) -> Option<Action> {
    let status = &view.status;
    match (status.running, status.paused) {
        (true, true) => Some(Action::Resume),
        (true, false) => Some(Action::Pause),
        (false, _) => status.blocked.is_empty().then_some(Action::Run),
    }
}

/// The list of shortcuts, over everything, while `open`.
pub(crate) fn help(ui: &mut Ui, tabs: &[&Entry], open: &mut bool) {
    if !*open {
        return;
    }
    let modal = Modal::new(Id::unique("shortcuts")).show(ui.ctx(), |ui| {
        let p = kit::palette(ui);
        ui.set_width(420.0);
        ui.spacing_mut().item_spacing.y = GRID;
        kit::label(ui, "Keyboard shortcuts", TEXT[2], p.text);
        ui.add_space(GRID);
        egui::Grid::new("shortcut list").num_columns(2).spacing([6.0 * GRID, GRID]).show(ui, |ui| {
            for (keys, what) in LIST {
                ui.label(egui::RichText::new(keys).font(kit::figures(SMALL)).color(p.weak_text));
                ui.label(egui::RichText::new(what).size(BODY).color(p.text));
                ui.end_row();
            }
            for (i, entry) in tabs.iter().enumerate().take(DIGITS.len()) {
                ui.label(
                    egui::RichText::new(of_tab(i).unwrap_or_default()).font(kit::figures(SMALL)).color(p.weak_text),
                );
                ui.label(egui::RichText::new(entry.title).size(BODY).color(p.text));
                ui.end_row();
            }
        });
        ui.add_space(2.0 * GRID);
        kit::Press::new("Close").show(ui).clicked()
    });
    if modal.inner || modal.should_close() {
        *open = false;
    }
}
