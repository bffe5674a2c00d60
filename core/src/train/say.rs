//! What a model in training says: greedy text by its own forward pass, and answers read off the pass that measures the loss.
//!
//! Saying takes no memory that training has not: every token is one pass over the whole text so far, in the buffers of a
//! validation. It is slow, and meant for a few short texts.

use super::batch::{Batch, NO_LOSS};
use super::engine::Trainer;
use crate::device::Best;
use crate::error::Result;
use crate::ledger::alloc::{Scope, scoped};

/// Right answers among some that were asked for. An answer is right when every one of its tokens is the most likely one after
/// the right tokens before it; that is so exactly when choosing greedily gives the answer, since the first token that greedy
/// choice gets wrong is wrong here too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Right {
    /// Answers that are right to the last token.
    pub answers: usize,
    /// Answers asked for.
    pub asked: usize,
    /// Tokens that were the most likely.
    pub tokens: usize,
    /// Tokens asked for.
    pub targets: usize,
}

impl Right {
    /// Takes in what [`Trainer::answer`] found for `batch`. Every document of a row is an answer, but for a token `end` that ends the
    /// text, which is part of no answer.
    pub fn add(&mut self, batch: &Batch, best: &[Best], end: Option<u32>) {
        let mut best = best.iter();
        // The document that is being read: row, where it begins, whether all was right so far.
        let mut open: Option<(usize, u32, bool)> = None;
        for (i, target) in batch.targets.iter().enumerate().filter(|(_, t)| **t != NO_LOSS) {
            let Some(best) = best.next() else { break };
            let hit = best.id == *target;
            self.tokens += usize::from(hit);
            self.targets += 1;
            if Some(*target) == end {
                continue;
            }
            let here = (i / batch.length, batch.segment(i));
            match &mut open {
                Some((row, start, right)) if (*row, *start) == here => *right &= hit,
                open => {
                    self.close(*open);
                    *open = Some((here.0, here.1, hit));
                }
            }
        }
        self.close(open);
    }

    fn close(&mut self, open: Option<(usize, u32, bool)>) {
        if let Some((_, _, right)) = open {
            self.asked += 1;
            self.answers += usize::from(right);
        }
    }

    /// The share of answers that are right; none when none was asked for.
    pub fn share(&self) -> Option<f64> {
        (self.asked > 0).then(|| self.answers as f64 / self.asked as f64)
    }
}

/// What greedy choice writes after each of `prompts`, at most `tokens` tokens each, until one for which `ends` holds (which is
/// left out) or until a row is full. Prompts that do not fit a row are answered by nothing. `gate` is asked before every pass, with
/// the passes done.
///
/// # Errors
/// [`crate::Error::Cancelled`]; [`crate::Error::Device`] when the driver fails; what `gate` says.
pub fn say(
    trainer: &mut Trainer,
    prompts: &[Vec<u32>],
    tokens: usize,
    ends: &dyn Fn(u32) -> bool,
    gate: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Vec<Vec<u32>>> {
    let (rows, room) = trainer.room();
    let mut said = scoped(Scope::Program, || vec![Vec::new(); prompts.len()]);
    let (mut best, mut passes) = (Vec::new(), 0);
    for (part, first) in prompts.chunks(rows.max(1)).zip((0..).step_by(rows.max(1))) {
        let mut going: Vec<usize> = (0..part.len()).filter(|i| !part[*i].is_empty()).collect();
        for _ in 0..tokens {
            going.retain(|i| part[*i].len() + said[first + i].len() <= room);
            if going.is_empty() {
                break;
            }
            gate(passes)?;
            passes += 1;
            let batch = scoped(Scope::Program, || texts(&going, part, &said[first..]));
            trainer.answer(&batch, &mut best)?;
            let mut next = best.iter();
            going.retain(|i| match next.next() {
                Some(best) if !ends(best.id) => {
                    said[first + i].push(best.id);
                    true
                }
                _ => false,
            });
        }
    }
    Ok(said)
}

/// A row for each text of `which`, what follows its last token being its only target. What lies behind a text sees it and is not
/// seen by it.
fn texts(which: &[usize], prompts: &[Vec<u32>], said: &[Vec<u32>]) -> Batch {
    let of = |i: usize| prompts[i].len() + said[i].len();
    let length = which.iter().map(|i| of(*i)).max().unwrap_or(0);
    let mut out = Batch { sequences: which.len(), length, ..Batch::default() };
    for &i in which {
        let from = out.tokens.len();
        out.tokens.extend(prompts[i].iter().chain(&said[i]));
        out.tokens.resize(from + length, 0);
        out.targets.resize(from + length, NO_LOSS);
        out.targets[from + of(i) - 1] = 0;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best(ids: &[u32]) -> Vec<Best> {
        ids.iter().map(|id| Best { logit: 0.0, id: *id }).collect()
    }

    #[test]
    fn an_answer_is_right_when_all_its_tokens_are() {
        // Two rows; the first holds two documents, 9 ends a text.
        let batch = Batch {
            tokens: vec![1, 2, 3, 4, 5, 6, 7, 8, 1, 1],
            targets: vec![NO_LOSS, 3, 9, 6, 7, NO_LOSS, 4, 5, NO_LOSS, NO_LOSS],
            segments: vec![0, 0, 0, 3, 3, 0, 0, 0, 3, 3],
            sequences: 2,
            length: 5,
            ..Batch::default()
        };
        let count = |ids: &[u32]| {
            let mut right = Right::default();
            right.add(&batch, &best(ids), Some(9));
            (right.answers, right.asked, right.tokens, right.targets)
        };
        assert_eq!(count(&[3, 9, 6, 7, 4, 5]), (3, 3, 6, 6));
        assert_eq!(count(&[3, 0, 6, 7, 4, 5]), (3, 3, 5, 6), "what ends a text is no part of the answer");
        assert_eq!(count(&[3, 9, 6, 0, 4, 5]), (2, 3, 5, 6));
        assert_eq!(count(&[0, 9, 0, 7, 4, 0]), (0, 3, 3, 6));
        assert_eq!(Right::default().share(), None);
    }

    #[test]
    fn texts_of_unlike_length_stand_in_rows_of_one() {
        let batch = texts(&[0, 2], &[vec![5, 6], vec![7], vec![8]], &[vec![1], vec![], vec![]]);
        assert_eq!((batch.sequences, batch.length), (2, 3));
        assert_eq!(batch.tokens, [5, 6, 1, 8, 0, 0]);
        assert_eq!(batch.targets, [NO_LOSS, NO_LOSS, 0, 0, NO_LOSS, NO_LOSS]);
        assert!(batch.check(9).is_ok());
    }
}
