//! How much did it learn, and at what cost: loss and right answers of fine-tuning runs against steps, seconds and bytes.

mod fits;
mod lines;
mod points;
mod side;

use std::collections::BTreeSet;

use egui::{Align, Layout, Rect, Ui, UiBuilder, pos2};
use serde::{Deserialize, Serialize};

use crate::picture::Picture;
use crate::pictures::entry::{self, Entry};
use crate::pictures::words as say;
use crate::table::Table;
use crate::theme::{GRID, Palette};
use crate::view::{Course, Learning, Mark};
use crate::{Action, Linked, words};

/// What values are drawn against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Over {
    /// Updates made.
    #[default]
    Steps,
    /// Time since the run began.
    Seconds,
    /// The peak of memory: every run is a point.
    Bytes,
}

/// Which of its two questions the picture answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Page {
    /// What was learned.
    #[default]
    Course,
    /// What could be chosen, and what each choice needs.
    Fits,
}

/// What the picture remembers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LearningState {
    /// Which question is answered.
    pub page: Page,
    /// What values are drawn against.
    pub over: Over,
    /// Figures that the legend has switched off.
    pub hidden: BTreeSet<Figure>,
    /// The run on screen alone.
    pub alone: bool,
    /// The step pointed at or chosen.
    #[serde(skip)]
    pub(crate) at: Option<u64>,
}

/// A figure of a course.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// Loss of each step.
    Loss,
    /// Loss on what was held out.
    HeldOut,
    /// Right answers.
    Answers,
    /// Right next tokens.
    Tokens,
}

impl Figure {
    const ALL: [Self; 4] = [Self::Loss, Self::HeldOut, Self::Answers, Self::Tokens];
    const LOSSES: [Self; 2] = [Self::Loss, Self::HeldOut];
    const SHARES: [Self; 2] = [Self::Answers, Self::Tokens];

    fn label(self) -> &'static str {
        match self {
            Self::Loss => "loss of each step",
            Self::HeldOut => "held-out loss",
            Self::Answers => "right answers",
            Self::Tokens => "right next tokens",
        }
    }

    fn about(self) -> &'static str {
        match self {
            Self::Loss => {
                "The mean loss of the step's own rows before its update. The thin line is every step; the thick one is \
                 a running mean of about the last ten."
            }
            Self::HeldOut => "The mean loss of rows that are never learned from.",
            Self::Answers => {
                "The share of held-out answers that are right to the last token: every token is the most likely one \
                 after the right ones before it, which is what greedy decoding gets right."
            }
            Self::Tokens => {
                "The share of held-out tokens that are the most likely one after the right ones before them."
            }
        }
    }

    fn of(self, course: &Course) -> &[Mark] {
        match self {
            Self::Loss => &course.loss,
            Self::HeldOut => &course.held_out,
            Self::Answers => &course.answers,
            Self::Tokens => &course.tokens,
        }
    }

    fn share(self) -> bool {
        matches!(self, Self::Answers | Self::Tokens)
    }

    fn value(self, value: f64) -> String {
        if self.share() {
            words::percent(value)
        } else if value.is_finite() {
            format!("{} nats", words::number(value))
        } else {
            words::UNKNOWN.into()
        }
    }
}

/// A mean of what came so far that forgets: about the last ten values.
fn smooth(marks: &[Mark]) -> impl Iterator<Item = Mark> + '_ {
    const KEEP: f64 = 0.9;
    let (mut sum, mut weight) = (0.0, 0.0);
    marks.iter().filter(|m| m.value.is_finite()).map(move |m| {
        (sum, weight) = (KEEP * sum + m.value, KEEP * weight + 1.0);
        Mark { value: sum / weight, ..*m }
    })
}

/// The newest mark at or before a step.
fn by(marks: &[Mark], step: u64) -> Option<Mark> {
    marks.iter().take_while(|m| m.step <= step).last().copied()
}

/// The question this picture answers, which is its title.
pub const QUESTION: &str = "How much did it learn, and at what cost?";

/// This picture's line in the list of pictures.
pub static ENTRY: Entry = Entry {
    id: "learning",
    tab: "accuracy",
    title: "Learning",
    question: QUESTION,
    shows: |view| view.learning.is_some(),
    csv: |view| view.learning.as_deref().map(csv).unwrap_or_default(),
    open: |remembered| {
        entry::open(remembered, |ui, view, state, linked, actions| {
            if let Some(learning) = &view.learning {
                show(ui, learning, state, linked, actions);
            }
        })
    },
};

/// Draws the courses of runs, or what each choice of fine-tuning needs, in all the space of `ui`.
pub fn show(ui: &mut Ui, data: &Learning, state: &mut LearningState, linked: &mut Linked, actions: &mut Vec<Action>) {
    let page = if data.fits.is_empty() { Page::Course } else { state.page };
    let question = if page == Page::Fits { fits::QUESTION } else { QUESTION };
    let picture = Picture { name: "learning", question };
    picture.show(
        ui,
        actions,
        || if page == Page::Fits { fits::csv(data) } else { csv(data) },
        |ui, rect, actions| {
            ui.expand_to_include_rect(rect);
            let rect = if data.fits.is_empty() { rect } else { pages(ui, rect, state) };
            if page == Page::Fits {
                fits::show(ui, rect, data, actions);
                return;
            }
            let mine = data.run.as_deref().filter(|c| !c.loss.is_empty() || !c.held_out.is_empty());
            if mine.is_none() && data.others.is_empty() {
                waiting(ui, rect, data, actions);
                return;
            }
            let (top, below) = rect.split_top_bottom_at_y(rect.top() + 10.0 * GRID);
            let top = Rect::from_min_max(top.min, pos2(top.right(), top.bottom() - GRID));
            controls(ui, top, data, state);
            let below = verdict(ui, below, mine);
            let beside = below.width() >= 560.0;
            let wide = if beside { 232.0 } else { 0.0 };
            let right = Rect::from_min_max(pos2(below.right() - wide, below.top()), below.max);
            let left = Rect::from_min_max(
                below.min,
                pos2(right.left() - if beside { 4.0 * GRID } else { 0.0 }, below.bottom()),
            );
            let others: Vec<&Course> =
                if state.alone { Vec::new() } else { data.others.iter().map(|c| &**c).take(MOST).collect() };
            match state.over {
                Over::Bytes => points::show(ui, left, (mine, &others), state, linked, actions),
                over => lines::show(ui, left, (mine, &others), over, state),
            }
            if beside {
                side::show(ui, right, data, (mine, &others), state, actions);
            }
        },
    );
}

/// What there is to say of a training that came to nothing, above its curves; gives the room below it.
fn verdict(ui: &mut Ui, rect: Rect, course: Option<&Course>) -> Rect {
    let Some(words) = course.map(|c| c.verdict.as_str()).filter(|words| !words.is_empty()) else { return rect };
    let (top, below) = rect.split_top_bottom_at_y(rect.top() + 6.0 * GRID);
    ui.scope_builder(UiBuilder::new().max_rect(top).layout(Layout::left_to_right(Align::Center)), |ui| {
        let text = egui::RichText::new(words).color(Palette::of(ui.theme()).text).strong();
        ui.add(egui::Label::new(text).truncate()).on_hover_text(words);
    });
    below
}

/// The switch between the two questions; gives the room below it.
fn pages(ui: &mut Ui, rect: Rect, state: &mut LearningState) -> Rect {
    let (top, below) = rect.split_top_bottom_at_y(rect.top() + 10.0 * GRID);
    ui.scope_builder(UiBuilder::new().max_rect(top).layout(Layout::left_to_right(Align::Center)), |ui| {
        let choices = [(Page::Course, "Course"), (Page::Fits, "What fits")].map(|(p, w)| (p, w.to_owned()));
        if let Some(page) = say::one_of(ui, "Show", state.page, &choices) {
            state.page = page;
        }
    });
    below
}

/// Other runs drawn at most: more lines are a tangle.
const MOST: usize = 8;

fn waiting(ui: &mut Ui, rect: Rect, data: &Learning, actions: &mut Vec<Action>) {
    let (what, button) = if data.live {
        ("Waiting for the first step…", None)
    } else {
        ("The loss of every step, the loss on what is held out and the right answers will be drawn here.", Some("Run"))
    };
    if say::empty(ui, rect, what, button, &data.blocked) {
        actions.push(Action::Run);
    }
}

fn controls(ui: &mut Ui, rect: Rect, data: &Learning, state: &mut LearningState) {
    ui.scope_builder(UiBuilder::new().max_rect(rect).layout(Layout::left_to_right(Align::Center)), |ui| {
        let choices = [(Over::Steps, "Steps"), (Over::Seconds, "Seconds"), (Over::Bytes, "Bytes")]
            .map(|(o, w)| (o, w.to_owned()));
        if let Some(over) = say::one_of(ui, "Against", state.over, &choices) {
            state.over = over;
        }
        ui.add_space(2.0 * GRID);
        if let Some(run) = &data.run {
            say::note(ui, format!("{}{}", run.run, if data.live { " · running" } else { "" }));
        }
        if !data.others.is_empty() {
            ui.with_layout(Layout::right_to_left(Align::Center), |ui| {
                let mut others = !state.alone;
                let n = data.others.len();
                let words = if n == 1 { "1 other run".to_owned() } else { format!("{n} other runs") };
                let hint = if n > MOST { format!("The newest {MOST} are drawn.") } else { String::new() };
                let tick = ui.checkbox(&mut others, words);
                if !hint.is_empty() {
                    tick.on_hover_text(hint);
                }
                state.alone = !others;
            });
        }
    });
}

/// Every value, one a line.
fn csv(data: &Learning) -> String {
    let mut table = Table::new(["run", "choices", "figure", "step", "seconds", "peak_bytes", "value"]);
    for course in data.run.iter().chain(&data.others) {
        for figure in Figure::ALL {
            for m in figure.of(course) {
                let [step, bytes, value] = [m.step.to_string(), m.bytes.to_string(), m.value.to_string()];
                let seconds = format!("{:.6}", m.seconds);
                table.row([&course.run, &course.label, figure.label(), &step, &seconds, &bytes, &value]);
            }
        }
    }
    table.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_mean_follows_and_skips_what_is_no_number() {
        let mark = |step, value| Mark { step, value, ..Mark::default() };
        let flat: Vec<Mark> = (0..50).map(|i| mark(i, 3.0)).collect();
        assert!(smooth(&flat).all(|m| (m.value - 3.0).abs() < 1e-12), "a constant is its own mean from the first on");
        let noisy: Vec<Mark> = (0..400).map(|i| mark(i, if i % 2 == 0 { 1.0 } else { 2.0 })).collect();
        assert!(smooth(&noisy).skip(100).all(|m| (m.value - 1.5).abs() < 0.06));
        let hole = [mark(1, 1.0), mark(2, f64::NAN), mark(3, 1.0)];
        assert_eq!(smooth(&hole).map(|m| m.step).collect::<Vec<_>>(), [1, 3]);
        assert_eq!((by(&hole, 2).map(|m| m.step), by(&hole, 0)), (Some(2), None));
    }
}
