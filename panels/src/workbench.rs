//! The whole window: the strip on top, the choices at the left, a picture in the middle, what is said about it at the right, the
//! line below.

use egui::{CentralPanel, Frame, Margin, Panel, Role, Sense, Stroke, Ui, Vec2, WidgetInfo, pos2, vec2};
use serde::{Deserialize, Serialize};

use crate::about::{self, Subject};
use crate::cards::{self, CardsState};
use crate::commands::{self, Does, PaletteState};
use crate::kit::{self, BODY, Icon, Press};
use crate::pictures::{Entry, Pictures};
use crate::shared::Shared;
use crate::theme::{GRID, Palette};
use crate::top::{self, TopState};
use crate::view::View;
use crate::{Action, Linked, keys, notices, status};

/// Narrower than this, the About panel folds by itself.
const NARROW: f32 = 1120.0;

/// The window's own state. What is worth remembering between starts is serialized; the rest starts anew.
#[derive(Serialize, Deserialize)]
#[serde(default)]
pub struct Workbench {
    /// The tab of the picture that shows.
    pub tab: String,
    /// What is linked across the pictures.
    pub linked: Linked,
    /// What the pictures remember.
    pub pictures: Pictures,
    cards: CardsState,
    /// Widths of the panels at the left and at the right, in points.
    widths: [f32; 2],
    about_folded: bool,
    #[serde(skip)]
    top: TopState,
    #[serde(skip)]
    subject: Subject,
    #[serde(skip)]
    palette: PaletteState,
    #[serde(skip)]
    shortcuts: bool,
}

impl Default for Workbench {
    fn default() -> Self {
        Self {
            tab: String::new(),
            linked: Linked::default(),
            pictures: Pictures::default(),
            cards: CardsState::default(),
            widths: [300.0, 248.0],
            about_folded: false,
            top: TopState::default(),
            subject: Subject::default(),
            palette: PaletteState::default(),
            shortcuts: false,
        }
    }
}

impl Workbench {
    /// A workbench with pictures of one's own choice, remembering nothing.
    pub fn of(pictures: &'static [&'static Entry]) -> Self {
        Self { pictures: Pictures::of(pictures), ..Self::default() }
    }

    /// Draws the workbench in all of `ui` and returns what is asked for. `view` is not changed; what is asked for shows when
    /// the program has carried it out.
    pub fn show(&mut self, ui: &mut Ui, view: &View) -> Vec<Action> {
        let mut actions = Vec::new();
        let before = (self.linked.token, self.linked.used_for);
        self.top.lit = before.1;
        // What is pointed at is found anew whenever the pointer moves; while it rests, it stays.
        if ui.input(|i| i.pointer.delta() != Vec2::ZERO || !i.pointer.has_pointer()) {
            (self.linked.token, self.linked.used_for) = (None, None);
        }
        let mut palette = false;
        if !self.palette.open {
            for does in keys::pressed(ui.ctx(), view, &self.pictures, &mut palette) {
                self.carry_out(ui, view, does, &mut actions);
            }
        }
        self.strip(ui, view, &mut actions);
        palette |= self.below(ui, view, &mut actions);
        self.left(ui, view, &mut actions);
        self.right(ui, view, &mut actions);
        self.middle(ui, view, &mut actions);
        if palette {
            self.palette.open();
        }
        if let Some(does) = commands::show(ui, view, &self.pictures, &mut self.palette) {
            self.carry_out(ui, view, does, &mut actions);
        }
        keys::help(ui, &self.pictures.tabs(view), &mut self.shortcuts);
        dropping(ui);
        if before != (self.linked.token, self.linked.used_for) {
            // Panels drawn before the one pointed at show it in the next frame.
            ui.ctx().request_repaint();
        }
        actions
    }

    fn carry_out(&mut self, ui: &Ui, view: &View, does: Does, actions: &mut Vec<Action>) {
        match does {
            Does::Ask(action) => actions.push(action),
            Does::Show(tab) => self.tab = tab.to_owned(),
            Does::Copy(csv) => actions.push(Action::Copy(csv(view))),
            Does::Card(key) => self.linked.card = Some(key),
            Does::Models => top::open_menu(ui.ctx()),
            Does::Limit => ui.memory_mut(|m| m.request_focus(top::slider_id())),
            Does::About => self.about_folded = !self.about_folded,
            Does::Shortcuts => self.shortcuts = !self.shortcuts,
        }
    }

    fn shared<'a>(&'a mut self, actions: &'a mut Vec<Action>) -> (Shared<'a>, &'a mut TopState, &'a mut CardsState) {
        let shared = Shared { linked: &mut self.linked, subject: &mut self.subject, actions };
        (shared, &mut self.top, &mut self.cards)
    }

    fn strip(&mut self, ui: &mut Ui, view: &View, actions: &mut Vec<Action>) {
        let (mut shared, state, _) = self.shared(actions);
        Panel::top("strip")
            .frame(Frame::new())
            .resizable(false)
            .show(ui, |ui| top::show(ui, &view.top, state, &mut shared));
    }

    /// The line below and the notices above it; true when the palette was asked for.
    fn below(&mut self, ui: &mut Ui, view: &View, actions: &mut Vec<Action>) -> bool {
        let bottom = |name| Panel::bottom(name).frame(Frame::new()).resizable(false);
        let palette = bottom("status").show(ui, |ui| status::show(ui, &view.status, actions)).inner;
        if !view.notices.is_empty() {
            bottom("notices").show(ui, |ui| notices::show(ui, &view.notices, actions));
        }
        palette
    }

    fn left(&mut self, ui: &mut Ui, view: &View, actions: &mut Vec<Action>) {
        let width = self.widths[0];
        let (mut shared, _, state) = self.shared(actions);
        let frame = Frame::new().inner_margin(Margin { left: 16, right: 12, top: 4, bottom: 0 });
        let panel = Panel::left("choices").frame(frame).default_size(width).size_range(256.0..=440.0);
        let response = panel.show(ui, |ui| cards::show(ui, view, state, &mut shared)).response;
        self.widths[0] = response.rect.width();
    }

    fn right(&mut self, ui: &mut Ui, view: &View, actions: &mut Vec<Action>) {
        let folded = self.about_folded || ui.ctx().content_rect().width() < NARROW;
        if folded {
            let panel =
                Panel::right("about folded").frame(Frame::new().inner_margin(4)).exact_size(40.0).resizable(false);
            let opened = panel.show(ui, |ui| Press::sign(Icon::Left, "Show the About panel").show(ui).clicked()).inner;
            if opened {
                self.about_folded = false;
            }
            return;
        }
        let width = self.widths[1];
        let (mut shared, ..) = self.shared(actions);
        let frame = Frame::new().inner_margin(Margin { left: 16, right: 12, top: 8, bottom: 0 });
        let panel = Panel::right("about").frame(frame).default_size(width).size_range(208.0..=400.0);
        let inner = panel.show(ui, |ui| {
            let corner = egui::Rect::from_min_size(
                pos2(ui.max_rect().right() - 28.0, ui.max_rect().top() - 4.0),
                vec2(28.0, 28.0),
            );
            about::show(ui, view, &mut shared);
            kit::row(ui, corner, |ui| Press::sign(Icon::Right, "Fold the About panel").show(ui).clicked())
        });
        self.widths[1] = inner.response.rect.width();
        if inner.inner {
            self.about_folded = true;
        }
    }

    fn middle(&mut self, ui: &mut Ui, view: &View, actions: &mut Vec<Action>) {
        CentralPanel::default()
            .frame(Frame::new().inner_margin(Margin { left: 16, right: 16, top: 4, bottom: 8 }))
            .show(ui, |ui| {
                tabs(ui, &mut self.tab, &self.pictures.tabs(view));
                ui.add_space(2.0 * GRID);
                self.pictures.show(ui, &self.tab, view, &mut self.linked, actions);
            });
    }
}

/// The names of the pictures, the chosen one underlined.
fn tabs(ui: &mut Ui, chosen: &mut String, all: &[&Entry]) {
    let p = kit::palette(ui);
    // Where they do not fit side by side they take a second row: a wider row would widen all below it.
    let response = ui.horizontal_wrapped(|ui| {
        ui.spacing_mut().item_spacing = vec2(5.0 * GRID, 0.0);
        let shown = all.iter().position(|e| e.tab == *chosen).unwrap_or(0);
        for (i, entry) in all.iter().enumerate() {
            let (on, label) = (i == shown, entry.title);
            let ink = if on { p.text } else { p.weak_text };
            let galley = ui.painter().layout_no_wrap(label.to_owned(), kit::words(BODY), ink);
            let (rect, response) = ui.allocate_exact_size(vec2(galley.size().x, 36.0), Sense::click());
            response.widget_info(|| WidgetInfo::selected(Role::Tab, true, on, label));
            let ink = if response.hovered() { p.text } else { ink };
            let at = pos2(rect.left(), rect.center().y - galley.size().y / 2.0);
            ui.painter().galley_with_override_text_color(at, galley, ink);
            if on {
                ui.painter().hline(rect.x_range(), rect.bottom() - 1.0, Stroke::new(2.0, p.accent));
            }
            kit::focus_ring(ui, &response, rect.expand2(vec2(GRID, -GRID)));
            if response.clicked() {
                entry.tab.clone_into(chosen);
            }
            let hint =
                keys::of_tab(i).map_or_else(|| entry.question.to_owned(), |key| format!("{key} · {}", entry.question));
            response.on_hover_cursor(egui::CursorIcon::PointingHand).on_hover_text(hint);
        }
    });
    let y = response.response.rect.bottom();
    ui.painter().hline(ui.max_rect().x_range(), y, Stroke::new(1.0, p.line));
}

/// While files are held over the window: what dropping them does.
fn dropping(ui: &Ui) {
    if ui.input(|i| i.raw.hovered_files.is_empty()) {
        return;
    }
    let p = Palette::of(ui.theme());
    let layer = egui::LayerId::new(egui::Order::Foreground, egui::Id::unique("dropping"));
    let painter = ui.ctx().layer_painter(layer);
    let rect = ui.ctx().content_rect();
    painter.rect_filled(rect, 0.0, p.background.gamma_multiply(0.9));
    let text = "Drop a model, a configuration, a run folder or a curve (CSV) to open it";
    painter.text(rect.center(), egui::Align2::CENTER_CENTER, text, kit::words(crate::theme::TEXT[3]), p.text);
}
