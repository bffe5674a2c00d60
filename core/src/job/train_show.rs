//! What a training job shows of what the model can do: the held-out questions it is asked in words, before and after.

use std::sync::Arc;
use std::time::Instant;

use super::infer::SNAPSHOT;
use crate::config::train::Train;
use crate::ledger::alloc::{Scope, scoped};
use crate::model::text::Words;
use crate::report::protocol::Event;
use crate::train::batch::Rows;

/// Held-out questions in tokens and in words.
pub(super) struct Samples {
    pub(super) words: Arc<Words>,
    pub(super) prompts: Vec<Vec<u32>>,
    shown: Vec<(String, Option<String>)>,
}

impl Samples {
    /// The first `train.samples` held-out documents whose question leaves room in a row for a token of the answer.
    pub(super) fn of(train: &Train, rows: &dyn Rows, words: Arc<Words>) -> Self {
        scoped(Scope::Program, || {
            let mut out = Self { words, prompts: Vec::new(), shown: Vec::new() };
            if out.words.tokenizer.is_none() {
                return out;
            }
            let questions = (0..).map_while(|i| rows.question(i)).take(4096);
            for q in questions.filter(|q| !q.prompt.is_empty() && q.prompt.len() < train.length).take(train.samples) {
                let mut answer = q.answer;
                answer.retain(|id| !out.words.ends(*id));
                answer.truncate(train.sample_tokens);
                let answer = (!answer.is_empty()).then(|| out.text(&answer));
                out.shown.push((out.text(&q.prompt), answer));
                out.prompts.push(q.prompt);
            }
            out
        })
    }

    fn text(&self, ids: &[u32]) -> String {
        self.words.tokenizer.as_ref().map_or_else(String::new, |t| t.decode(ids))
    }

    /// What was said to question `i` after `step` updates, as an event.
    pub(super) fn event(&self, i: usize, step: u64, said: &[u32]) -> Event {
        scoped(Scope::Program, || {
            let (prompt, expected) = self.shown.get(i).cloned().unwrap_or_default();
            Event::Sample { step, index: i, prompt, text: self.text(said), expected }
        })
    }
}

/// Tells how far something is, now and then.
pub(super) fn progress(last: &mut Instant, start: Instant, what: &str, done: usize, total: usize) -> Option<Event> {
    if last.elapsed() < SNAPSHOT {
        return None;
    }
    *last = Instant::now();
    let left = start.elapsed().as_secs_f64() / done.max(1) as f64 * total.saturating_sub(done) as f64;
    Some(Event::Progress { done: done as u64, total: total as u64, seconds_left: left, what: what.into() })
}
