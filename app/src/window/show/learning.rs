//! The course of fine-tuning runs, and what the model says before and after.

use std::sync::Arc;

use ullage_core::config::train::Train;
use ullage_core::report::Said;
use ullage_panels::view::{HeldOutQuestion, Learning, Samples};

use super::super::state::State;

/// What was said to each question.
fn asked(said: &[Said]) -> Vec<HeldOutQuestion> {
    let mut out: Vec<HeldOutQuestion> = Vec::new();
    for s in said {
        if out.len() <= s.index {
            out.resize_with(s.index + 1, HeldOutQuestion::default);
        }
        let asked = &mut out[s.index];
        (asked.prompt, asked.expected) = (s.prompt.clone(), s.expected.clone());
        asked.said.push((s.step, s.text.clone()));
    }
    out
}

/// True when pictures show training: it is what is configured, or what is replayed.
fn training(s: &State) -> bool {
    s.config().train.is_some() || s.replayed.as_ref().is_some_and(|l| l.trains())
}

/// The learning picture; none while generating.
pub fn view(s: &State) -> Option<Arc<Learning>> {
    if !training(s) {
        return None;
    }
    let shown = s.shown().filter(|l| l.trains());
    let name = shown.map_or("", |l| l.name.as_str());
    let model = s.opened.as_ref().map_or("", |o| o.model.hash.as_str());
    let others = s.runs.iter().filter(|c| c.model == model && c.line.name != name);
    Some(Arc::new(Learning {
        run: shown.map(|l| Arc::clone(&l.course)),
        others: others.filter_map(|c| c.course.clone()).collect(),
        live: s.running && s.replayed.is_none() && shown.is_some(),
        blocked: s.blocked(),
        validate: s.config().train.as_ref().map_or_else(Vec::new, often),
        fits: Arc::clone(&s.fits),
        limit: Some(s.config().budget.device.0).filter(|b| *b != u64::MAX),
    }))
}

/// The keys that make a run measure what is held out on its way, ten times; none where it does.
fn often(train: &Train) -> ullage_panels::view::Sets {
    if train.validate_every > 0 {
        return Vec::new();
    }
    vec![("train.validate_every".to_owned(), (train.steps / 10).max(1).to_string())]
}

/// What is said to held-out questions; none while generating.
pub fn samples(s: &State) -> Option<Samples> {
    if !training(s) {
        return None;
    }
    let shown = s.shown().filter(|l| l.trains());
    let live = s.running && s.replayed.is_none() && shown.is_some();
    let said = shown.and_then(|l| l.report.train.as_ref()).map_or(&[][..], |t| &t.samples);
    let wanted = s.config().train.as_ref().is_none_or(|t| t.samples > 0);
    let note = match (live, said.is_empty(), shown.is_some()) {
        (true, true, _) => "Asking the held-out questions…",
        (true, false, _) => "The same questions are asked again when the training ends.",
        (false, true, true) => "This run asked no held-out questions: nothing was held out, or train.samples is 0.",
        (false, true, false) if !wanted => "No held-out questions will be asked: train.samples is 0.",
        (false, true, false) => "What the model says to held-out questions before and after training will appear here.",
        (false, false, _) => "",
    };
    Some(Samples { asked: asked(said), note: note.into(), can_run: !live })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_is_sorted_by_question() {
        let said = |step, index, text: &str| Said {
            step,
            index,
            prompt: format!("q{index}"),
            text: text.into(),
            expected: None,
        };
        let all = asked(&[said(0, 0, "a"), said(0, 1, "b"), said(9, 0, "c"), said(9, 1, "d")]);
        assert_eq!(all.len(), 2);
        assert_eq!(all[1].said, [(0, "b".to_owned()), (9, "d".to_owned())]);
        assert_eq!(
            often(&Train { steps: 50, ..Train::default() }),
            [("train.validate_every".to_owned(), "5".to_owned())]
        );
    }
}
