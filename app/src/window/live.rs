//! A run as pictures show it: a fold over its events, the same while it goes on and when it is replayed from its folder.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use ullage_core::config::{Choice, Config};
use ullage_core::ledger::{Held, Phase, Tier};
use ullage_core::report::Report;
use ullage_core::report::protocol::{Event, Failure, Numbered, Stop};
use ullage_panels::view::{
    Attention, Course, Eviction, Grid, Kept, Map, Merge, Moment, Span, Timeline, Token, Written,
};

use super::words;

/// The prompt of a run, which its events do not tell: written beside them, so that a replay needs no model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompt {
    /// Its tokens: id and text.
    pub tokens: Vec<(u32, String)>,
    /// Layers, query heads and KV heads of the model.
    pub heads: (usize, usize, usize),
}

/// Which line of the accuracy picture a run belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SeriesLabel {
    /// The sweep's name; empty for a run of its own.
    pub series: String,
    /// The point's keys and values, in words.
    pub label: String,
}

/// Rows of small maps of one step, until every layer has told its own.
#[derive(Default)]
struct Step {
    step: usize,
    rows: usize,
    layers: Vec<Option<Vec<Vec<u8>>>>,
}

/// A run so far.
#[derive(Default)]
pub struct Live {
    /// The folder's name; empty while it has none.
    pub name: String,
    /// The report so far.
    pub report: Report,
    /// The prompt.
    pub prompt: Prompt,
    /// What each sequence read and wrote.
    pub written: Arc<Vec<Written>>,
    /// What was held when.
    pub timeline: Arc<Timeline>,
    /// What each head looked at.
    pub attention: Arc<Attention>,
    /// How far it has learned.
    pub course: Arc<Course>,
    /// What is held now.
    pub held: Held,
    /// The most held of the limited tier, and what it was made of.
    pub peak: Held,
    /// The phase.
    pub phase: Option<Phase>,
    /// `(what, done, total, seconds left)` of the phase.
    pub progress: Option<(String, u64, u64, f64)>,
    /// Waiting for a command.
    pub paused: bool,
    /// Seconds and step of the first and the newest decoded token, for the speed so far.
    decoded: Option<((f64, usize), (f64, usize))>,
    /// True when rows left without being named, so that shares of what is held are unknown.
    unnamed: bool,
    /// How many caches each position of sequence 0 has left, and how many evictions are counted in it.
    gone: (Vec<u32>, usize),
    pending: Step,
    shown: u64,
    /// Over: no event will come.
    pub over: bool,
}

fn stop(stop: Stop) -> &'static str {
    match stop {
        Stop::End => "the model ended its text",
        Stop::Text => "a stop text came",
        Stop::Length => "as long as asked for",
        Stop::Context => "the context is full",
        Stop::Diverged => "its logits are no numbers any more",
    }
}

/// How keys and values are kept: one choice for all layers so far. Fine-tuning has no cache.
fn formats(config: &Config) -> Option<[Kept; 2]> {
    let format = &config.kv.format;
    let kept = |key: &str, choice: &Choice| {
        let bits = ullage_core::kv::format::bits(key, choice).ok()?;
        Some(Kept { name: choice.id.clone(), bits })
    };
    let of = config.train.is_none();
    of.then(|| Some([kept("kv.format.k", &format.k)?, kept("kv.format.v", &format.v)?])).flatten()
}

/// A map grows by this many columns at once.
const COLUMNS: usize = 256;

/// Lays a map out for another number of columns; beyond the new ones nothing must be held.
fn widen(map: &mut Map, columns: usize) {
    let (from, to) = (map.columns.div_ceil(8), columns.div_ceil(8));
    let rows = map.queries.len();
    let (mut values, mut held) = (vec![0; rows * columns], vec![0; rows * to]);
    for row in 0..rows {
        let n = map.columns.min(columns);
        values[row * columns..row * columns + n].copy_from_slice(&map.values[row * map.columns..row * map.columns + n]);
        let n = from.min(to);
        held[row * to..row * to + n].copy_from_slice(&map.held[row * from..row * from + n]);
    }
    (map.columns, map.values, map.held) = (columns, values, held);
}

/// Tokens a second: decoded, or learned from.
pub fn rate(report: &Report) -> f64 {
    report.train.as_ref().map_or(report.speed.decode_tokens_per_second, |t| t.tokens_per_second)
}

impl Live {
    /// A run that will read `prompt`.
    pub fn new(name: String, prompt: Prompt) -> Self {
        let tokens = prompt.tokens.iter().map(|(id, text)| Token { id: *id, text: text.clone() }).collect::<Vec<_>>();
        let (layers, heads, kv_heads) = prompt.heads;
        let attention = Attention {
            run: name.clone(),
            layers,
            heads,
            kv_heads,
            tokens: Arc::new(tokens.iter().map(|t| t.text.clone()).collect()),
            prompt: tokens.len(),
            ..Attention::default()
        };
        let timeline = Timeline { run: name.clone(), live: true, ..Timeline::default() };
        let written = Arc::new(vec![Written { prompt: tokens.len(), tokens, ..Written::default() }]);
        let course = Arc::new(Course { run: name.clone(), ..Course::default() });
        let (timeline, attention) = (Arc::new(timeline), Arc::new(attention));
        Self { name, course, prompt, written, timeline, attention, ..Self::default() }
    }

    /// The configuration, once the run has begun.
    pub fn config(&self) -> Option<&Config> {
        self.report.config.as_ref()
    }

    /// Why it failed, if it did.
    pub fn error(&self) -> Option<&Failure> {
        self.report.error.as_ref()
    }

    /// True when it ended well.
    pub fn finished(&self) -> bool {
        self.report.ended() && self.report.error.is_none()
    }

    /// Decoded tokens a second so far, all sequences together.
    pub fn speed(&self) -> Option<f64> {
        if let Some(t) = &self.report.train {
            return Some(t.tokens_per_second).filter(|v| *v > 0.0);
        }
        let ((start, first), (now, last)) = self.decoded?;
        let sequences = self.config().map_or(1, |c| c.run.sequences) as f64;
        (last > first && now > start).then(|| (last - first) as f64 * sequences / (now - start))
    }

    fn sequence(&mut self, i: usize) -> &mut Written {
        let written = Arc::make_mut(&mut self.written);
        while written.len() <= i {
            let first = written.first();
            let prompt = first.map_or(0, |w| w.prompt);
            let tokens = first.map(|w| w.tokens[..prompt.min(w.tokens.len())].to_vec()).unwrap_or_default();
            written.push(Written { tokens, prompt, ..Written::default() });
        }
        &mut written[i]
    }

    /// Takes one more event in.
    pub fn add(&mut self, event: &Numbered) {
        self.report.add(event);
        let seconds = event.seconds;
        let most = self.peak.0.get(&Tier::Device).map_or(0, |by| by.values().sum());
        super::course::add(&mut self.course, event, most);
        super::course::judge(&mut self.course, event, &self.report);
        match &event.event {
            Event::Started { config, .. } => self.started(config),
            Event::Phase { phase } => {
                self.phase = Some(*phase);
                self.progress = None;
                let phases = &mut Arc::make_mut(&mut self.timeline).phases;
                if let Some(last) = phases.last_mut() {
                    last.seconds.1 = seconds;
                }
                phases.push(Span { name: phase.to_string(), seconds: (seconds, seconds) });
            }
            Event::Progress { done, total, seconds_left, what } => {
                self.progress = Some((what.clone(), *done, *total, *seconds_left));
            }
            Event::Memory { step, held } => self.memory(seconds, *step, held),
            Event::Token { sequence, step, id, text } => {
                if *sequence == 0 {
                    let tokens = &mut Arc::make_mut(&mut self.attention).tokens;
                    Arc::make_mut(tokens).push(text.clone());
                    let now = (seconds, *step);
                    self.decoded = Some((self.decoded.map_or(now, |(first, _)| first), now));
                }
                self.sequence(*sequence).tokens.push(Token { id: *id, text: text.clone() });
            }
            Event::Ended { sequence, stop: why, text, diverged } => {
                let written = self.sequence(*sequence);
                let place = diverged.as_ref().map_or(String::new(), |place| format!(": {place}"));
                written.stop = format!("{}{place}", stop(*why));
                if let Some(last) = written.tokens.last_mut() {
                    last.text.push_str(text);
                }
            }
            Event::Evicted { sequence, step, count, rows } => self.evicted(seconds, *sequence, *step, *count, rows),
            Event::Merged { sequence: 0, step, rows, .. } => self.merged(*step, rows),
            Event::Merged { .. } => {}
            Event::Attention { sequence: 0, step, layer, rows, bins } => self.attention(*step, *layer, *rows, bins),
            Event::HeadMap { sequence: 0, layer, head, query, runs, weights } => {
                self.map((*layer, *head), *query, runs, weights);
            }
            Event::Attention { .. } | Event::HeadMap { .. } | Event::Eval { .. } => {}
            Event::TrainStep { step, seconds: took, .. } => {
                let steps = self.config().and_then(|c| c.train.as_ref()).map_or(0, |t| t.steps as u64);
                let left = steps.saturating_sub(*step) as f64 * took;
                self.progress = Some(("training".into(), *step, steps, left));
            }
            Event::Validation { .. } | Event::Sample { .. } | Event::Saved { .. } => {}
            Event::Paused => self.paused = true,
            Event::Resumed => self.paused = false,
            Event::Finished { speed, .. } => {
                self.fill_prompt(speed.prompt_tokens);
                self.end(seconds);
            }
            Event::Failed { .. } => self.end(seconds),
        }
    }

    fn started(&mut self, config: &Config) {
        let timeline = Arc::make_mut(&mut self.timeline);
        for (i, tier) in Tier::ALL.iter().enumerate() {
            timeline.limits[i] = super::bars::limit(config, *tier);
        }
        timeline.gpu = config.gpu().is_some();
        let observed = config.observe.as_ref().is_some_and(|o| o.attention != ullage_core::config::Attention::None);
        let attention = Arc::make_mut(&mut self.attention);
        attention.formats = Arc::new(formats(config).into_iter().collect());
        attention.observed = observed;
        if !observed {
            attention.note = "This run kept no attention for display.".into();
        }
    }

    /// Rows that left: all of them are counted, those of sequence 0 are kept by name.
    fn evicted(&mut self, seconds: f64, sequence: usize, step: usize, count: u64, rows: &[(u16, u16, u32)]) {
        Arc::make_mut(&mut self.timeline).evicted.push((seconds, count));
        if sequence == 0 {
            self.unnamed |= count as usize != rows.len();
            let evictions = &mut Arc::make_mut(&mut self.attention).evictions;
            let row = |(layer, head, position): &(u16, u16, u32)| Eviction {
                step,
                layer: *layer,
                head: *head,
                position: *position,
            };
            Arc::make_mut(evictions).extend(rows.iter().map(row));
        }
    }

    fn merged(&mut self, step: usize, rows: &[(u16, u16, u32, u32)]) {
        let merges = &mut Arc::make_mut(&mut self.attention).merges;
        let row = |(layer, head, position, survivor): &(u16, u16, u32, u32)| Merge {
            step,
            layer: *layer,
            head: *head,
            position: *position,
            survivor: *survivor,
        };
        Arc::make_mut(merges).extend(rows.iter().map(row));
    }

    fn memory(&mut self, seconds: f64, step: usize, held: &Held) {
        let mut moment = Moment { seconds, step, ..Moment::default() };
        for (tier, by) in &held.0 {
            for (category, bytes) in by {
                moment.held[*tier as usize][*category as usize] = *bytes;
            }
        }
        let total = |h: &Held| h.0.get(&Tier::Device).map_or(0, |by| by.values().sum::<u64>());
        if total(held) >= total(&self.peak) {
            self.peak = held.clone();
        }
        self.held = held.clone();
        let timeline = Arc::make_mut(&mut self.timeline);
        if let Some(last) = timeline.phases.last_mut() {
            last.seconds.1 = seconds;
        }
        timeline.moments.push(moment);
        let moments = &mut Arc::make_mut(&mut self.attention).moments;
        Arc::make_mut(moments).push(step);
    }

    /// One layer's rows of a step; the step joins the picture when all layers have come.
    fn attention(&mut self, step: usize, layer: usize, rows: usize, bins: &[Vec<u8>]) {
        let layers = self.prompt.heads.0.max(layer + 1);
        if self.pending.layers.is_empty() || self.pending.step != step {
            self.pending = Step { step, rows, layers: Vec::new() };
        }
        self.pending.layers.resize(layers.max(self.pending.layers.len()), None);
        self.pending.rows = self.pending.rows.max(rows);
        self.pending.layers[layer] = Some(bins.to_vec());
        if self.pending.layers.iter().any(Option::is_none) {
            return;
        }
        let pending = std::mem::take(&mut self.pending);
        let columns = self.report.config.as_ref().and_then(|c| c.observe.as_ref()).map_or(64, |o| o.bins).max(1);
        let attention = Arc::make_mut(&mut self.attention);
        if attention.layers == 0 {
            let heads = pending.layers.iter().flatten().map(Vec::len).max().unwrap_or(0);
            (attention.layers, attention.heads, attention.kv_heads) = (layers, heads, heads);
        }
        let grid =
            Arc::make_mut(attention.grid.get_or_insert_with(|| Arc::new(Grid { bins: columns, ..Grid::default() })));
        grid.steps.push(pending.step);
        grid.rows.push(pending.rows);
        for layer in pending.layers.into_iter().flatten() {
            for head in 0..attention.heads {
                let row = layer.get(head).map_or(&[][..], Vec::as_slice);
                if row.len() == columns {
                    grid.values.extend_from_slice(row);
                    continue;
                }
                // A short row has fewer columns than the picture: each is drawn wider.
                let cell = |c: usize| row.get(c * row.len() / columns).copied().unwrap_or(0);
                grid.values.extend((0..columns).map(cell));
            }
        }
        self.shown += 1;
    }

    /// One query's row of the map at full size.
    fn map(&mut self, head: (usize, usize), query: usize, runs: &[(u32, u32)], weights: &[u8]) {
        let attention = Arc::make_mut(&mut self.attention);
        let map = Arc::make_mut(attention.map.get_or_insert_with(|| Arc::new(Map { head, ..Map::default() })));
        let positions = runs.iter().flat_map(|(first, n)| (0..*n).map(move |i| (first + i) as usize));
        let cells: Vec<(usize, u8)> = positions.zip(weights.iter().copied()).collect();
        let needed = cells.iter().map(|(p, _)| p + 1).max().unwrap_or(0).max(query + 1);
        if needed > map.columns {
            // In steps, so that a map that grows by a column a token is not laid out anew with each.
            widen(map, needed.next_multiple_of(COLUMNS));
        }
        let (columns, stride) = (map.columns, map.columns.div_ceil(8));
        map.queries.push(u32::try_from(query).unwrap_or(u32::MAX));
        let (values, held) = (map.values.len(), map.held.len());
        map.values.resize(values + columns, 0);
        map.held.resize(held + stride, 0);
        for (position, weight) in cells {
            map.values[values + position] = weight;
            map.held[held + position / 8] |= 1 << (position % 8);
        }
    }

    /// A prompt that nothing tells is known by its number of tokens and its text.
    fn fill_prompt(&mut self, tokens: usize) {
        if !self.prompt.tokens.is_empty() || tokens == 0 {
            return;
        }
        let text = self.config().map_or(String::new(), |c| c.run.prompt.clone());
        let mut prompt = vec![Token::default(); tokens];
        prompt[0].text = text;
        for written in Arc::make_mut(&mut self.written) {
            let wrote = std::mem::take(&mut written.tokens).split_off(written.prompt);
            written.tokens = prompt.iter().cloned().chain(wrote).collect();
            written.prompt = tokens;
        }
        let attention = Arc::make_mut(&mut self.attention);
        let wrote = attention.tokens.get(attention.prompt..).unwrap_or(&[]).iter().cloned();
        attention.tokens = Arc::new(prompt.iter().map(|t| t.text.clone()).chain(wrote).collect());
        attention.prompt = tokens;
    }

    fn end(&mut self, seconds: f64) {
        self.over = true;
        self.paused = false;
        self.progress = None;
        let timeline = Arc::make_mut(&mut self.timeline);
        timeline.live = false;
        if let Some(last) = timeline.phases.last_mut() {
            last.seconds.1 = seconds;
        }
        if let Some(map) = &self.attention.map {
            let columns = map.queries.iter().max().map_or(0, |q| *q as usize + 1);
            if columns < map.columns {
                let attention = Arc::make_mut(&mut self.attention);
                if let Some(map) = &mut attention.map {
                    widen(Arc::make_mut(map), columns);
                }
            }
        }
        let steps = self.written.first().map_or(0, |w| w.tokens.len().saturating_sub(w.prompt));
        let shown = self.attention.grid.as_ref().map_or(0, |g| g.steps.len());
        if self.attention.observed && shown > 0 && shown + 1 < steps {
            let last = self.attention.grid.as_ref().and_then(|g| g.steps.last().copied()).unwrap_or(0);
            Arc::make_mut(&mut self.attention).note = format!("observe.limit was reached at step {last}.");
        }
    }

    /// No more events will come, whether or not the run told its end.
    pub fn close(&mut self) {
        if !self.over {
            let last = self.timeline.moments.last().map_or(0.0, |m| m.seconds);
            self.end(last);
        }
    }

    /// Share of (layer, KV head) caches that still hold each position of sequence 0 after `step`, `(positions)`; empty when nothing
    /// was dropped or the policy does not say what.
    pub fn kept(&self, step: Option<usize>) -> Vec<f32> {
        let (layers, _, kv_heads) = self.prompt.heads;
        let all = layers * kv_heads;
        if self.attention.evictions.is_empty() || self.unnamed || all == 0 {
            return Vec::new();
        }
        let positions = self.written.first().map_or(0, |w| w.tokens.len());
        let mut gone = vec![0u32; positions];
        for e in self.attention.evictions.iter().filter(|e| step.is_none_or(|s| e.step <= s)) {
            if let Some(n) = gone.get_mut(e.position as usize) {
                *n += 1;
            }
        }
        gone.into_iter().map(|n| (1.0 - n as f32 / all as f32).max(0.0)).collect()
    }

    /// What each sequence read and wrote, the share of caches that still hold each position of sequence 0 brought up to date; only
    /// evictions since the last call are counted.
    pub fn count_gone(&mut self) -> Arc<Vec<Written>> {
        let (layers, _, kv_heads) = self.prompt.heads;
        let all = layers * kv_heads;
        let (gone, counted) = &mut self.gone;
        for e in self.attention.evictions.get(*counted..).unwrap_or(&[]) {
            let at = e.position as usize;
            // A position beyond the context names nothing.
            if at < self.written.first().map_or(0, |w| w.tokens.len()) {
                gone.resize(gone.len().max(at + 1), 0);
                gone[at] += 1;
            }
        }
        let news = *counted != self.attention.evictions.len();
        *counted = self.attention.evictions.len();
        let known = *counted > 0 && !self.unnamed && all > 0;
        let positions = self.written.first().map_or(0, |w| if known { w.tokens.len() } else { 0 });
        if news || self.written.first().is_some_and(|w| w.kept.len() != positions) {
            let gone = self.gone.0.iter().copied().chain(std::iter::repeat(0)).take(positions);
            let kept = gone.map(|n| (1.0 - n as f32 / all as f32).max(0.0));
            if let Some(first) = Arc::make_mut(&mut self.written).first_mut() {
                first.kept.clear();
                first.kept.extend(kept);
            }
        }
        Arc::clone(&self.written)
    }

    /// What was held at a moment of the timeline.
    pub fn held_at(&self, moment: usize) -> Option<(f64, &Held)> {
        self.report.timeline.get(moment).map(|m| (m.seconds, &m.held))
    }

    /// Tokens a second of a run that is over.
    pub fn rate(&self) -> f64 {
        rate(&self.report)
    }

    /// True for a run that trains.
    pub fn trains(&self) -> bool {
        self.config().is_some_and(|c| c.train.is_some())
    }

    /// What training did so far, in words; empty for a run that generates.
    pub fn learned(&self) -> String {
        let Some(t) = &self.report.train else { return String::new() };
        let nats = ullage_panels::words::number;
        let mut out = format!("{} steps, loss {} → {} nats", t.steps, nats(t.first_loss), nats(t.last_loss));
        if let Some((_, loss)) = t.validation.last() {
            out.push_str(&format!(", {} on what was held out", nats(*loss)));
        }
        if let Some((_, right)) = t.task_accuracy.last() {
            out.push_str(&format!(", {} of its answers right", ullage_panels::words::percent(*right)));
        }
        if let Some(path) = &t.state {
            out.push_str(&format!("; saved in {path}"));
        }
        out
    }

    /// What it is doing, in words.
    pub fn doing(&self) -> String {
        match (&self.progress, self.phase) {
            (Some((what, ..)), _) => match what.strip_prefix("eval.") {
                Some(task) => format!("measuring {}", words::plain(task)),
                None => what.clone(),
            },
            (None, Some(Phase::Load)) => "loading weights".into(),
            (None, Some(Phase::Prefill)) => "reading the prompt".into(),
            (None, Some(Phase::Decode)) => "decoding".into(),
            (None, Some(phase)) => phase.to_string(),
            (None, None) => "starting".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use ullage_core::ledger::{ByCategory, Category};

    fn fold(events: Vec<Event>, prompt: Prompt) -> Live {
        let mut live = Live::new("run".into(), prompt);
        for (i, event) in events.into_iter().enumerate() {
            live.add(&Numbered { n: i as u64 + 1, seconds: i as f64, event });
        }
        live
    }

    fn prompt() -> Prompt {
        Prompt { tokens: vec![(1, "a".into()), (2, "b".into())], heads: (2, 2, 1) }
    }

    fn token(step: usize) -> Event {
        Event::Token { sequence: 0, step, id: 9, text: format!("t{step}") }
    }

    fn looks(step: usize, layer: usize, rows: usize) -> Event {
        Event::Attention { sequence: 0, step, layer, rows, bins: vec![vec![1, 2], vec![3, 4]] }
    }

    #[test]
    fn a_step_is_shown_when_all_its_layers_have_come() {
        let live = fold(vec![looks(1, 0, 3), looks(1, 1, 3), looks(2, 0, 4)], prompt());
        let grid = live.attention.grid.as_ref().unwrap();
        assert_eq!((&grid.steps[..], &grid.rows[..]), (&[1][..], &[3][..]));
        assert_eq!(grid.values.len(), 2 * 2 * grid.bins);
        let row = grid.row(0, (1, 1), (2, 2));
        assert_eq!((row[0], row[grid.bins / 2 - 1], row[grid.bins / 2]), (3, 3, 4), "two columns fill the row");
    }

    #[test]
    fn a_map_grows_and_knows_what_was_held() {
        let row = |query, runs: &[(u32, u32)], weights: &[u8]| Event::HeadMap {
            sequence: 0,
            layer: 1,
            head: 0,
            query,
            runs: runs.to_vec(),
            weights: weights.to_vec(),
        };
        let mut live = fold(
            vec![row(0, &[(0, 1)], &[255]), row(1, &[(0, 2)], &[10, 20]), row(300, &[(0, 1), (299, 2)], &[1, 2, 3])],
            prompt(),
        );
        let map = |live: &Live| (**live.attention.map.as_ref().unwrap()).clone();
        assert_eq!(map(&live).columns, 512, "room for what comes");
        live.close();
        let map = map(&live);
        assert_eq!((map.head, map.columns, &map.queries[..]), ((1, 0), 301, &[0, 1, 300][..]));
        assert_eq!(map.values.len(), 3 * 301);
        let cell = |q, c| (map.values[q * 301 + c], map.held(q, c));
        assert_eq!((cell(0, 0), cell(1, 1), cell(2, 0)), ((255, true), (20, true), (1, true)));
        assert_eq!(
            (cell(2, 299), cell(2, 300), cell(2, 1), cell(0, 1)),
            ((2, true), (3, true), (0, false), (0, false))
        );
    }

    #[test]
    fn what_is_kept_falls_with_what_was_evicted_by_then() {
        let gone = |step, rows: &[(u16, u16, u32)]| Event::Evicted {
            sequence: 0,
            step,
            count: rows.len() as u64,
            rows: rows.to_vec(),
        };
        let live = fold(vec![token(0), gone(0, &[(0, 0, 0)]), token(1), gone(2, &[(1, 0, 0), (0, 0, 1)])], prompt());
        assert_eq!(live.kept(Some(1)), [0.5, 1.0, 1.0, 1.0]);
        assert_eq!(live.kept(None), [0.0, 0.5, 1.0, 1.0]);
        let silent = Event::Evicted { sequence: 0, step: 3, count: 5000, rows: Vec::new() };
        assert!(
            fold(vec![token(0), silent], prompt()).kept(None).is_empty(),
            "a policy that does not say is not guessed at"
        );
    }

    #[test]
    fn what_is_told_piece_by_piece_is_what_is_counted_at_once() {
        let gone = |step, rows: &[(u16, u16, u32)]| Event::Evicted {
            sequence: 0,
            step,
            count: rows.len() as u64,
            rows: rows.to_vec(),
        };
        let events = [
            token(0),
            gone(0, &[(0, 0, 0)]),
            token(1),
            gone(1, &[(1, 0, 0), (0, 0, 2), (1, 0, u32::MAX)]),
            token(2),
            gone(2, &[(0, 0, 1)]),
        ];
        let mut live = Live::new("run".into(), prompt());
        assert!(live.count_gone()[0].kept.is_empty(), "nothing was dropped");
        for (i, event) in events.into_iter().enumerate() {
            // A view that holds what was told before is not changed by what comes.
            let before = live.count_gone();
            let had = before[0].tokens.len();
            live.add(&Numbered { n: i as u64 + 1, seconds: i as f64, event });
            let now = live.count_gone();
            assert_eq!((before[0].tokens.len(), now[0].kept.clone()), (had, live.kept(None)), "event {i}");
        }
        assert_eq!(live.count_gone()[0].kept, [0.0, 0.5, 0.5, 1.0, 1.0]);
        assert!(Arc::ptr_eq(&live.count_gone(), &live.count_gone()), "nothing new is nothing to copy");
        let silent = Event::Evicted { sequence: 0, step: 3, count: 9, rows: Vec::new() };
        live.add(&Numbered { n: 9, seconds: 9.0, event: silent });
        assert!(live.count_gone()[0].kept.is_empty(), "shares are unknown from then on");
    }

    #[test]
    fn merges_and_formats_are_shown_as_the_run_has_them() {
        let mut config = Config::default();
        config.kv.format.k = "q4_0".into();
        let [key, value] = formats(&config).unwrap();
        assert_eq!((key.name.as_str(), key.bits, value.name.as_str(), value.bits), ("q4_0", 4.5, "f16", 16.0));
        let merged = |sequence| Event::Merged { sequence, step: 4, count: 1, rows: vec![(1, 0, 3, 5)] };
        let live = fold(vec![merged(0), merged(1)], prompt());
        let expected = Merge { step: 4, layer: 1, head: 0, position: 3, survivor: 5 };
        assert_eq!(live.attention.merges[..], [expected], "the picture is sequence 0's");
    }

    #[test]
    fn moments_phases_and_the_speed_so_far() {
        let held = |kv| Held([(Tier::Device, ByCategory::from([(Category::KvCache, kv)]))].into());
        let events = vec![
            Event::Phase { phase: Phase::Prefill },
            Event::Memory { step: 0, held: held(30) },
            Event::Phase { phase: Phase::Decode },
            token(0),
            token(1),
            Event::Memory { step: 1, held: held(20) },
            token(2),
        ];
        let mut live = fold(events, prompt());
        assert_eq!(live.timeline.moments[1].held[0][Category::KvCache as usize], 20);
        assert_eq!((live.peak.clone(), live.held.clone()), (held(30), held(20)));
        assert_eq!(live.timeline.phases[0].seconds, (0.0, 2.0));
        assert_eq!(live.speed(), Some(2.0 / 3.0));
        assert!(live.timeline.live && !live.over);
        live.close();
        assert!(!live.timeline.live && live.over);
        let text: String = live.written[0].tokens.iter().map(|t| t.text.as_str()).collect();
        assert_eq!((text.as_str(), live.written[0].prompt), ("abt0t1t2", 2));
    }

    #[test]
    fn a_prompt_that_nothing_tells_still_takes_its_positions() {
        let finished = Event::Finished {
            measured: Box::default(),
            speed: ullage_core::report::protocol::Speed { prompt_tokens: 3, ..Default::default() },
            program: Default::default(),
            extra: Default::default(),
        };
        let live = fold(vec![token(0), token(1), finished], Prompt::default());
        assert_eq!((live.written[0].prompt, live.written[0].tokens.len(), live.attention.tokens.len()), (3, 5, 5));
        assert_eq!(live.attention.tokens[3], "t0");
    }
}
