//! Reports: everything measured, next to the plan it was predicted by. A fold over a job's events.

mod collapse;
pub mod folder;
pub mod llama;
pub(crate) mod packed;
pub mod protocol;
mod table;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::error::Diverged;
use crate::ledger::{Account, ByCategory, Held, Measured, Phase, Tier, Walls};
use crate::number;
use crate::plan::Plan;
use crate::report::protocol::{Event, Failure, MachineCard, ModelCard, Numbered, Program, Speed, Stop};

pub use table::{bytes_table, limit, summary};

/// Bytes as a report shows them, planned or measured alike.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByteReport {
    /// Each category's own maximum, by tier.
    pub bytes: BTreeMap<Tier, ByCategory>,
    /// Most at once, by tier.
    pub peak: BTreeMap<Tier, u64>,
    /// Composition at the peak, by tier.
    pub at_peak: BTreeMap<Tier, ByCategory>,
    /// By phase, then tier.
    pub phases: BTreeMap<Phase, BTreeMap<Tier, Account>>,
    /// Largest value of each named row.
    pub rows: BTreeMap<String, u64>,
    /// Bytes moved between tiers and inside the cache.
    pub moved: BTreeMap<String, u64>,
    /// Most on device and host together.
    #[serde(default)]
    pub together: u64,
}

impl From<&Measured> for ByteReport {
    fn from(m: &Measured) -> Self {
        Self {
            bytes: m.tiers.iter().map(|(t, a)| (*t, a.bytes.clone())).collect(),
            peak: m.tiers.iter().map(|(t, a)| (*t, a.peak)).collect(),
            at_peak: m.tiers.iter().map(|(t, a)| (*t, a.at_peak.clone())).collect(),
            phases: m.phases.clone(),
            rows: m.rows.clone(),
            moved: m.moved.clone(),
            together: m.together,
        }
    }
}

/// Planned less measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Of the peaks, by tier; the promise is 0 ≤ gap ≤ max(2 %, 256 KiB).
    pub peak: BTreeMap<Tier, i64>,
    /// Of each category's own maximum, by tier.
    pub bytes: BTreeMap<Tier, BTreeMap<crate::ledger::Category, i64>>,
}

impl Gap {
    /// Of two accounts.
    pub fn between(planned: &Measured, measured: &Measured) -> Self {
        let mut gap = Self::default();
        for tier in Tier::ALL {
            let (p, m) = (planned.tiers.get(tier), measured.tiers.get(tier));
            if p.is_none() && m.is_none() {
                continue;
            }
            let peak = |a: Option<&Account>| a.map_or(0, |a| a.peak) as i64;
            gap.peak.insert(*tier, peak(p) - peak(m));
            let by = gap.bytes.entry(*tier).or_default();
            for category in crate::ledger::Category::ALL {
                let of = |a: Option<&Account>| a.and_then(|a| a.bytes.get(category)).copied().unwrap_or(0) as i64;
                if of(p) != 0 || of(m) != 0 {
                    by.insert(*category, of(p) - of(m));
                }
            }
        }
        gap
    }
}

/// What was generated: one entry a sequence.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Output {
    /// The text.
    pub text: String,
    /// The token ids.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub stop: Option<Stop>,
    /// What of its logits is no number, where it ended for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diverged: Option<Diverged>,
}

/// The form of `output` on disk.
mod first_and_all {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Output;

    #[derive(Serialize, Deserialize)]
    struct Form {
        #[serde(flatten)]
        first: Output,
        sequences: Vec<Output>,
    }

    pub fn serialize<S: Serializer>(all: &[Output], s: S) -> Result<S::Ok, S::Error> {
        Form { first: all.first().cloned().unwrap_or_default(), sequences: all.to_vec() }.serialize(s)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Output>, D::Error> {
        Ok(Form::deserialize(d)?.sequences)
    }
}

/// A value of a curve: bytes are whole numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// Bytes.
    Whole(u64),
    /// Anything else.
    Number(#[serde(with = "number::one")] f64),
}

/// What a model in training said to a held-out question.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// After how many updates.
    pub step: u64,
    /// Which question.
    pub index: usize,
    /// The question.
    pub prompt: String,
    /// What it said.
    pub text: String,
    /// What the data has there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
}

/// What training did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Trained {
    /// Updates made in all, those before a resumption included.
    pub steps: u64,
    /// Tokens this run learned from, padding not counted.
    pub tokens: u64,
    /// Positions it computed, padding and every pass over them counted; 0 in runs that do not tell.
    #[serde(default)]
    pub computed: u64,
    /// Mean seconds of a step.
    pub step_seconds: f64,
    /// Tokens learned from a second.
    pub tokens_per_second: f64,
    /// Steps whose rows had no target: they changed nothing, have no loss, and no place in means and curves.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub empty_steps: u64,
    /// Loss of this run's first step that had a target; NaN where none had.
    #[serde(with = "number::one")]
    pub first_loss: f64,
    /// Loss of the last that had one.
    #[serde(with = "number::one")]
    pub last_loss: f64,
    /// That it learned nothing, in words: its last quarter no better than chance, or worse than its beginning. Told at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collapsed: Option<String>,
    /// Mean loss of the held-out rows by step.
    #[serde(with = "number::pairs")]
    pub validation: Vec<(u64, f64)>,
    /// Share of a task's held-out answers that are right, by step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub task_accuracy: Vec<(u64, f64)>,
    /// Share of held-out targets that are the most likely token, by step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub token_accuracy: Vec<(u64, f64)>,
    /// What the model said to held-out questions, in the order it was asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub samples: Vec<Said>,
    /// `[step, loss, grad_norm, lr]` of each step that had a target.
    #[serde(with = "number::rows")]
    pub steps_table: Vec<(u64, f64, f64, f64)>,
    /// The training state.
    pub state: Option<String>,
    #[serde(skip)]
    seconds: f64,
    #[serde(skip)]
    made: u64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Trained {
    /// Counts a step that had nothing to learn from.
    fn skipped(&mut self, step: u64) {
        (self.steps, self.empty_steps) = (step, self.empty_steps + 1);
        if self.made == 0 {
            (self.first_loss, self.last_loss) = (f64::NAN, f64::NAN);
        }
    }

    /// Counts a step that took `seconds`.
    fn stepped(&mut self, step: u64, loss: f64, (tokens, computed): (usize, usize), seconds: f64) {
        if self.made == 0 {
            self.first_loss = loss;
        }
        (self.made, self.seconds) = (self.made + 1, self.seconds + seconds);
        (self.steps, self.last_loss) = (step, loss);
        self.tokens += tokens as u64;
        self.computed += computed as u64;
        self.step_seconds = self.seconds / self.made as f64;
        self.tokens_per_second = self.tokens as f64 / self.seconds.max(1e-9);
    }
}

/// A point of the timeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Moment {
    /// Since the job's start.
    pub seconds: f64,
    /// Decoding step.
    pub step: usize,
    /// What was held.
    pub held: Held,
}

/// Everything a run did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What was chosen.
    pub config: Option<Config>,
    /// On which machine.
    pub machine: MachineCard,
    /// On which model.
    pub model: ModelCard,
    /// What might be held at most.
    #[serde(default)]
    pub walls: Option<Walls>,
    /// What was predicted.
    pub plan: ByteReport,
    /// Predicted times.
    pub predicted: crate::plan::Times,
    /// What was measured.
    pub measured: ByteReport,
    /// Their difference.
    pub gap: Gap,
    /// How fast.
    pub speed: Speed,
    /// What was generated, by sequence. Written as `text`, `tokens` and `stop` of the first, and `sequences` with them all.
    #[serde(with = "first_and_all")]
    pub output: Vec<Output>,
    /// Evaluations by task: their figures, or `diverged` with where a value was no number.
    pub eval: BTreeMap<String, serde_json::Value>,
    /// Series by name as `[seconds, value]`: `held.<tier>` is what was held, a point whenever it changed; of training also
    /// `loss`, `validation`, `task_accuracy`, `token_accuracy`, `grad_norm`, `lr`, a point each step or validation.
    pub curves: BTreeMap<String, Vec<(f64, Value)>>,
    /// What training did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train: Option<Trained>,
    /// Rows that left the cache.
    pub evicted: u64,
    /// Beside the ledger.
    pub program: Program,
    /// Why it ended early, if it did.
    pub error: Option<Failure>,
    /// Choices that had no effect, a line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What was held when.
    #[serde(skip)]
    pub timeline: Vec<Moment>,
    #[serde(skip)]
    planned: Measured,
}

impl Report {
    /// Takes one more event in.
    pub fn add(&mut self, numbered: &Numbered) {
        match &numbered.event {
            Event::Started { config, plan, model, machine } => {
                self.config = Some((**config).clone());
                self.begin(plan);
                self.walls = Some(plan.walls);
                self.model = model.clone();
                self.machine = machine.clone();
            }
            Event::Token { sequence, id, text, .. } => {
                let out = self.sequence(*sequence);
                out.tokens.push(*id);
                out.text.push_str(text);
            }
            Event::Ended { sequence, stop, text, diverged } => {
                let out = self.sequence(*sequence);
                (out.stop, out.diverged) = (Some(*stop), diverged.clone());
                out.text.push_str(text);
            }
            Event::Evicted { count, .. } => self.evicted += count,
            Event::Memory { step, held } => self.hold(numbered.seconds, *step, held),
            Event::TrainStep { step, loss: None, .. } => self.train.get_or_insert_default().skipped(*step),
            Event::TrainStep { step, loss: Some(loss), lr, grad_norm, tokens, computed, seconds } => {
                for (name, value) in [("loss", loss), ("lr", lr), ("grad_norm", grad_norm)] {
                    self.point(name, numbered.seconds, Value::Number(*value));
                }
                let t = self.train.get_or_insert_default();
                t.steps_table.push((*step, *loss, *grad_norm, *lr));
                t.stepped(*step, *loss, (*tokens, *computed), *seconds);
            }
            Event::Validation { step, loss, token_accuracy, accuracy, .. } => {
                let figures =
                    [("validation", Some(*loss)), ("task_accuracy", *accuracy), ("token_accuracy", *token_accuracy)];
                for (name, value) in figures {
                    let Some(value) = value else { continue };
                    self.point(name, numbered.seconds, Value::Number(value));
                }
                let t = self.train.get_or_insert_default();
                t.validation.push((*step, *loss));
                t.task_accuracy.extend(accuracy.map(|a| (*step, a)));
                t.token_accuracy.extend(token_accuracy.map(|a| (*step, a)));
            }
            Event::Sample { step, index, prompt, text, expected } => {
                let (step, index, expected) = (*step, *index, expected.clone());
                let said = Said { step, index, prompt: prompt.clone(), text: text.clone(), expected };
                self.train.get_or_insert_default().samples.push(said);
            }
            Event::Saved { path, .. } => self.train.get_or_insert_default().state = Some(path.clone()),
            Event::Eval { task, result } => {
                self.eval.insert(task.clone(), result.clone());
            }
            Event::Finished { measured, speed, program, .. } => {
                self.measured = (&**measured).into();
                self.gap = Gap::between(&self.planned, measured);
                self.speed = *speed;
                self.program = *program;
                self.judge();
            }
            Event::Failed { error } => {
                self.error = Some(error.clone());
                self.judge();
            }
            Event::Phase { .. }
            | Event::Progress { .. }
            | Event::Merged { .. }
            | Event::Attention { .. }
            | Event::HeadMap { .. }
            | Event::Paused
            | Event::Resumed => {}
        }
    }

    /// What is held at a moment: a point of the timeline, and of each tier's curve where it changed.
    fn hold(&mut self, seconds: f64, step: usize, held: &Held) {
        for (tier, by) in &held.0 {
            let curve = self.curves.entry(format!("held.{tier}")).or_default();
            let bytes = Value::Whole(by.values().sum());
            if curve.last().is_none_or(|(_, last)| *last != bytes) {
                curve.push((seconds, bytes));
            }
        }
        self.timeline.push(Moment { seconds, step, held: held.clone() });
    }

    /// One more point of a curve.
    fn point(&mut self, curve: &str, seconds: f64, value: Value) {
        self.curves.entry(curve.to_owned()).or_default().push((seconds, value));
    }

    /// What there is to say of a training that is over.
    fn judge(&mut self) {
        let Some(t) = &mut self.train else { return };
        let losses: Vec<f64> = t.steps_table.iter().map(|(_, loss, ..)| *loss).collect();
        t.collapsed = collapse::of(&losses, self.model.vocab);
    }

    /// What ended as diverged, by its name: evaluations, generated texts, a training.
    pub fn diverged(&self) -> Vec<(String, Diverged)> {
        let eval = self.eval.iter().filter_map(|(task, result)| {
            let place = serde_json::from_value(result.get("diverged")?.clone()).ok()?;
            Some((format!("eval.{task}"), place))
        });
        let many = self.output.len() > 1;
        let text = self.output.iter().enumerate().filter_map(|(i, out)| {
            let name = if many { format!("the text of sequence {}", i + 1) } else { "the text".to_owned() };
            Some((name, out.diverged.clone()?))
        });
        let train = self.error.iter().filter_map(|e| Some(("the training".to_owned(), e.diverged.clone()?)));
        text.chain(eval).chain(train).collect()
    }

    /// True when the run told its end, good or bad; false for one that was killed.
    pub fn ended(&self) -> bool {
        self.error.is_some() || !self.measured.peak.is_empty()
    }

    /// The report of a list of events.
    pub fn fold<'a>(events: impl IntoIterator<Item = &'a Numbered>) -> Self {
        let mut report = Self::default();
        for event in events {
            report.add(event);
        }
        report
    }

    fn begin(&mut self, plan: &Plan) {
        self.plan = (&plan.bytes).into();
        self.planned = plan.bytes.clone();
        self.predicted = plan.time.clone();
        self.notes = plan.notes.clone();
    }

    fn sequence(&mut self, i: usize) -> &mut Output {
        if self.output.len() <= i {
            self.output.resize_with(i + 1, Output::default);
        }
        &mut self.output[i]
    }
}
