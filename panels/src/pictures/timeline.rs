//! Where the bytes went while it ran: what was held, stacked by what it was for, over time; to zoom into and to scrub along.

mod axis;
mod decimate;
mod paint;
mod readout;
mod steer;

use std::ops::Range;
use std::sync::Arc;

use egui::mutex::Mutex;
use egui::{Color32, Id, Mesh, Rect, Ui, pos2, vec2};
use serde::{Deserialize, Serialize};

use crate::action::Action;
use crate::linked::Linked;
use crate::picture::Picture;
use crate::pictures::entry::{self, Entry};
use crate::pictures::words as say;
use crate::table::Table;
use crate::theme::{GRID, Palette};
use crate::view::{Tier, Timeline, UsedFor};
use crate::words;

use decimate::Totals;

/// What the timeline remembers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TimelineState {
    /// The tier that is drawn.
    pub tier: Tier,
    /// What is left out, by the order of [`UsedFor`].
    pub hidden: [bool; 9],
    /// The stretch of time on screen in seconds; `None` for all of it.
    #[serde(skip)]
    pub window: Option<(f64, f64)>,
}

/// What is kept between frames: nothing of it is computed again unless it changed.
#[derive(Default)]
struct Cache {
    totals: Totals,
    mesh: Arc<Mesh>,
    mesh_of: Option<MeshKey>,
}

#[derive(Clone, Copy, PartialEq)]
struct MeshKey {
    version: u64,
    window: (f64, f64),
    plot: Rect,
    top: f64,
    columns: usize,
    dimmed: Option<UsedFor>,
    limit: Option<u64>,
    ink: Color32,
}

/// Where things are on screen and in time, for one frame.
struct Frame<'a> {
    data: &'a Timeline,
    totals: &'a Totals,
    tier: Tier,
    hidden: [bool; 9],
    palette: &'static Palette,
    /// The stack.
    plot: Rect,
    /// Above it: the phases.
    phases: Rect,
    /// Below it: rows that left the cache; without height when none did.
    evicted: Rect,
    /// Seconds on screen.
    window: Range<f64>,
    /// When it all ends, in seconds.
    end: f64,
    /// The bytes at the top edge.
    top: f64,
}

impl Frame<'_> {
    fn x(&self, seconds: f64) -> f32 {
        let share = (seconds - self.window.start) / (self.window.end - self.window.start);
        self.plot.left() + (share.clamp(-1.0, 2.0) * f64::from(self.plot.width())) as f32
    }

    fn y(&self, bytes: f64) -> f32 {
        self.plot.bottom() - (bytes / self.top).min(2.0) as f32 * self.plot.height()
    }

    fn seconds(&self, x: f32) -> f64 {
        let share = f64::from((x - self.plot.left()) / self.plot.width()).clamp(0.0, 1.0);
        self.window.start + share * (self.window.end - self.window.start)
    }

    /// The moment at a place along the picture; the first when nothing was held yet.
    fn moment(&self, x: f32) -> usize {
        self.totals.at(self.seconds(x)).unwrap_or(0)
    }

    /// What a time is called: as exact as a pixel is.
    fn time(&self, seconds: f64) -> String {
        let pixel = (self.window.end - self.window.start) / f64::from(self.plot.width().max(1.0));
        axis::time(seconds, pixel.clamp(1e-6, 0.1))
    }

    fn limit(&self) -> Option<u64> {
        self.data.limits[self.tier as usize]
    }

    fn phase(&self, seconds: f64) -> Option<&str> {
        let within = |span: &&crate::view::Span| (span.seconds.0..=span.seconds.1).contains(&seconds);
        self.data.phases.iter().rev().find(within).map(|span| span.name.as_str())
    }

    /// A moment in a few words: `1.23 s, decode step 14`, and of training `1.23 s, step 2, backward`.
    fn words(&self, moment: usize) -> String {
        let (Some(seconds), Some(m)) = (self.totals.seconds.get(moment), self.data.moments.get(moment)) else {
            return words::UNKNOWN.into();
        };
        match (m.step, self.phase(*seconds)) {
            (0, Some(phase)) => format!("{}, {phase}", self.time(*seconds)),
            (0, None) => self.time(*seconds),
            (step, Some(phase)) if phase != "decode" && phase != "prefill" => {
                format!("{}, step {}, {phase}", self.time(*seconds), words::count(step as u64))
            }
            (step, _) => format!("{}, decode step {}", self.time(*seconds), words::count(step as u64)),
        }
    }
}

/// This picture's line in the list of pictures.
pub static ENTRY: Entry = Entry {
    id: "timeline",
    tab: "timeline",
    title: "Timeline",
    question: "Where did the bytes go while it ran?",
    shows: |_| true,
    csv: |view| csv(&view.timeline),
    open: |remembered| {
        entry::open(remembered, |ui, view, state, linked, actions| show(ui, &view.timeline, state, linked, actions))
    },
};

/// Draws the bytes of one tier over time in all the space of `ui`, and asks to scrub to the moment pressed.
pub fn show(ui: &mut Ui, data: &Timeline, state: &mut TimelineState, linked: &mut Linked, actions: &mut Vec<Action>) {
    let picture = Picture { name: ENTRY.id, question: ENTRY.question };
    picture.show(
        ui,
        actions,
        || csv(data),
        |ui, rect, actions| {
            if data.moments.is_empty() {
                let what = "What the run holds, byte by byte and moment by moment, will be drawn here.";
                let button = (!data.live).then_some("Run");
                if say::empty(
                    ui,
                    rect,
                    if data.live { "Waiting for the first bytes…" } else { what },
                    button,
                    &data.blocked,
                ) {
                    actions.push(Action::Run);
                }
                return;
            }
            draw(ui, rect, data, state, linked, actions);
        },
    );
}

fn draw(
    ui: &mut Ui,
    rect: Rect,
    data: &Timeline,
    state: &mut TimelineState,
    linked: &mut Linked,
    actions: &mut Vec<Action>,
) {
    let cache = ui.data_mut(|d| d.get_temp_mut_or_default::<Arc<Mutex<Cache>>>(Id::unique("timeline cache")).clone());
    let mut cache = cache.lock();
    let cache = &mut *cache;
    cache.totals.update(&data.moments, state.tier, &state.hidden);
    if !cache.totals.tiers[state.tier as usize]
        && let Some(tier) = Tier::ALL.into_iter().find(|tier| cache.totals.tiers[*tier as usize])
    {
        state.tier = tier;
        cache.totals.update(&data.moments, state.tier, &state.hidden);
    }
    let strip = Rect::from_min_size(rect.min, vec2(rect.width(), 7.0 * GRID));
    let below = Rect::from_min_max(pos2(rect.left(), strip.bottom() + GRID), rect.max);
    header(ui, strip, data, state, &cache.totals);

    let beside = below.width() >= 560.0;
    let (legend, below) = if beside { (strip, below) } else { below.split_top_bottom_at_y(below.top() + 6.0 * GRID) };
    let side = if beside { 216.0 } else { 0.0 };
    let figures = Rect::from_min_max(pos2(below.right() - side, below.top()), below.max);
    let area =
        Rect::from_min_max(below.min, pos2(figures.left() - if beside { 4.0 * GRID } else { 0.0 }, below.bottom()));
    let lane = if data.evicted.is_empty() { 0.0 } else { 7.0 * GRID };
    let plot = Rect::from_min_max(
        pos2(area.left() + 18.0 * GRID, area.top() + 6.0 * GRID),
        pos2(area.right() - 2.0 * GRID, (area.bottom() - 11.0 * GRID - lane).max(area.top() + 12.0 * GRID)),
    );
    if plot.width() < 40.0 {
        return;
    }
    let last = cache.totals.seconds.last().copied().unwrap_or(0.0);
    let end = data.phases.iter().map(|p| p.seconds.1).filter(|s| s.is_finite()).fold(last, f64::max).max(1e-6);
    let most = cache.totals.peak().map_or(0, |peak| cache.totals.bytes[peak]);
    // The limit belongs in the picture unless it would press everything else flat; then it is only named.
    let limit = data.limits[state.tier as usize].filter(|limit| *limit <= most.saturating_mul(4));
    let mut frame = Frame {
        data,
        totals: &cache.totals,
        tier: state.tier,
        hidden: state.hidden,
        palette: Palette::of(ui.theme()),
        plot,
        phases: Rect::from_min_max(pos2(plot.left(), area.top()), pos2(plot.right(), plot.top() - GRID)),
        evicted: Rect::from_min_max(pos2(plot.left(), plot.bottom() + GRID), pos2(plot.right(), plot.bottom() + lane)),
        window: 0.0..end,
        end,
        top: most.max(limit.unwrap_or(0)).max(1) as f64 * 1.1,
    };
    let looked = steer::steer(ui, &mut frame, state, linked, actions);
    paint::ground(ui, &frame);
    paint::stack(ui, &frame, &mut cache.mesh, &mut cache.mesh_of, linked.used_for);
    paint::over(ui, &frame);
    let peak = frame.totals.peak().unwrap_or(0);
    let chosen = linked.moment.filter(|m| *m < data.moments.len());
    steer::cursor(ui, &frame, chosen, peak, looked.under, linked, actions);
    let (at, what) = match (looked.under, chosen) {
        (Some(m), _) => (m, "under the pointer"),
        (None, Some(m)) => (m, "scrubbed to"),
        (None, None) => (peak, "at the peak"),
    };
    if beside {
        readout::show(ui, figures, &frame, state, at, what, linked);
    } else {
        readout::legend(ui, legend, &frame, state, linked);
    }
}

fn capital(words: &str) -> String {
    let mut chars = words.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// The line above: which run, which tier, and the way back from a zoom.
fn header(ui: &mut Ui, strip: Rect, data: &Timeline, state: &mut TimelineState, totals: &Totals) {
    let left = egui::Layout::left_to_right(egui::Align::Center);
    ui.scope_builder(egui::UiBuilder::new().max_rect(strip).layout(left), |ui| {
        let tiers: Vec<(Tier, String)> = Tier::ALL
            .into_iter()
            .filter(|tier| totals.tiers[*tier as usize])
            .map(|tier| (tier, capital(tier.label(data.gpu))))
            .collect();
        if tiers.len() > 1 {
            if let Some(tier) = say::one_of(ui, "Where", state.tier, &tiers) {
                state.tier = tier;
            }
            ui.add_space(2.0 * GRID);
        }
        let live = if data.live { " · running" } else { "" };
        if !data.run.is_empty() {
            say::note(ui, format!("{}{live}", data.run));
        }
        let right = egui::Layout::right_to_left(egui::Align::Center);
        ui.with_layout(right, |ui| {
            if state.window.is_some() && ui.button("Show all of it").clicked() {
                state.window = None;
            }
        });
    });
    // A run that is gone takes its zoom with it.
    if state.window.is_some_and(|(from, to)| from.is_nan() || to <= from) {
        state.window = None;
    }
}

/// Every moment, a line for each tier that ever held anything.
fn csv(data: &Timeline) -> String {
    let head = ["seconds", "step", "where", "total_bytes"].into_iter();
    let mut table = Table::new(head.chain(UsedFor::ALL.iter().map(|u| u.label())));
    let tiers: Vec<Tier> =
        Tier::ALL.into_iter().filter(|tier| data.moments.iter().any(|m| m.total(*tier) > 0)).collect();
    for moment in &data.moments {
        for tier in &tiers {
            let (seconds, step) = (format!("{:.6}", moment.seconds), moment.step.to_string());
            let about = [seconds, step, tier.label(data.gpu).to_owned(), moment.total(*tier).to_string()];
            let held = moment.held[*tier as usize].iter().map(u64::to_string);
            table.row(about.into_iter().chain(held));
        }
    }
    table.text()
}
