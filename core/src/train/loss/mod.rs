//! train.loss: the output head and the cross-entropy, in tiles of tokens × vocabulary.
//!
//! A technique chooses the tile. As wide as the vocabulary, one pass gives loss and gradient; narrower, the log-sum-exp
//! comes first and the logits are computed again for the gradient, so that tokens × vocabulary never exists.

mod chunked;
mod cut;
mod full;

use super::learner::Learner;
use crate::blocks::BlockType;
use crate::device::{Best, Buf, Device, Weight};
use crate::error::Result;
use crate::ledger::{Category, Tag};
use crate::schema::Entry;

/// The variants of train.loss.
pub const ENTRIES: &[&Entry<dyn Loss>] = &[&chunked::ENTRY, &cut::ENTRY, &full::ENTRY];

const LOGITS: Tag = Tag::device(Category::Logits, "logits");
const STATISTICS: Tag = Tag::device(Category::Logits, "loss statistics");

/// A tile of logits, `(rows, vocab)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tile {
    /// Tokens whose logits are computed at once.
    pub rows: usize,
    /// Entries of the vocabulary computed at once.
    pub vocab: usize,
    /// Tiles whose every gradient is below this, before scaling, are skipped; 0 for none.
    pub eps: f32,
}

/// train.loss: a technique that decides how logits are held.
pub trait Loss: Send + Sync {
    /// The tile for `rows` tokens and a vocabulary of `vocab`; at most both, at least 1.
    fn tile(&self, rows: usize, vocab: usize) -> Tile;
}

/// The buffers of one pass of the head.
pub struct Head {
    tile: Tile,
    logits: Buf,
    log_sum_exp: Buf,
    picked: Buf,
}

/// Pieces of at most `wide` of `whole`: where each begins, how long it is, and how many it stands for. A plan walks the first, one
/// for all that are like the second, and the rest: its time does not grow with the run's.
fn pieces(d: &dyn Device, whole: usize, wide: usize) -> impl Iterator<Item = (usize, usize, usize)> + use<> {
    let alike = if d.planned() { (whole / wide).saturating_sub(1).max(1) } else { 1 };
    let times = move |at: usize| if at == wide { alike } else { 1 };
    let begins = std::iter::successors(Some(0), move |at| Some(at + wide * times(*at)));
    begins.take_while(move |at| *at < whole).map(move |at| (at, wide.min(whole - at), times(at)))
}

/// What a head is given, forward.
pub struct HeadCall<'a> {
    /// The device that computes it.
    pub d: &'a dyn Device,
    /// Normed hidden states of the tokens that have a target, `(rows, hidden)`.
    pub x: &'a Buf,
    /// Their targets, ids `(rows)`.
    pub targets: &'a Buf,
    /// Tokens that have a target.
    pub rows: usize,
    /// Elements of a token in the residual stream.
    pub hidden: usize,
    /// Entries of the vocabulary: rows of the head, which is `(vocab, hidden)`.
    pub vocab: usize,
}

/// What the backward half of a head needs beside.
pub struct HeadGrad<'a> {
    /// `∂loss/∂x`, `(rows, hidden)`, overwritten.
    pub dx: &'a mut Buf,
    /// The head's parameter, where it learns.
    pub parameter: Option<usize>,
    /// Multiplied onto every gradient: one over the number of targets of the step.
    pub scale: f32,
}

/// The head's weights: a parameter, or frozen ones.
#[derive(Clone, Copy)]
pub enum HeadWeight<'a> {
    /// The learner's parameter of this number, `(vocab, hidden)`.
    Learns(usize),
    /// A frozen `(vocab, hidden)`, as it is stored.
    Frozen(&'a Buf),
}

impl HeadWeight<'_> {
    fn of<'b>(&'b self, learner: &'b Learner, vocab: usize, hidden: usize) -> Weight<'b> {
        match self {
            Self::Learns(id) => Weight::of(learner.buf(*id), vocab, hidden),
            Self::Frozen(buf) => Weight::of(buf, vocab, hidden),
        }
    }
}

impl Head {
    /// Buffers for at most `rows` tokens.
    ///
    /// # Errors
    /// [`crate::Error::OverBudget`] when the budget has no room for it.
    pub fn new(d: &dyn Device, tile: Tile, rows: usize) -> Result<Self> {
        Ok(Self {
            tile,
            logits: d.buffer(LOGITS, BlockType::F32, tile.rows * tile.vocab)?,
            log_sum_exp: d.buffer(STATISTICS, BlockType::F32, rows)?,
            picked: d.buffer(STATISTICS, BlockType::F32, rows)?,
        })
    }

    /// The sum of the losses of all rows; with `grad` their gradients too, and in `best (rows)` the most likely entry of each:
    /// taken from every tile as it comes, so that it needs no logits beside it.
    ///
    /// # Errors
    /// [`crate::Error::Cancelled`]; [`crate::Error::Device`] when the driver fails.
    pub fn run(
        &mut self,
        call: &HeadCall<'_>,
        weight: HeadWeight<'_>,
        learner: &mut Learner,
        mut grad: Option<HeadGrad<'_>>,
        mut best: Option<&mut [Best]>,
    ) -> Result<f64> {
        let &HeadCall { d, x, targets, rows, hidden, vocab } = call;
        d.fill(self.log_sum_exp.all_mut(), rows, f32::NEG_INFINITY)?;
        if let Some(HeadGrad { parameter: Some(id), .. }) = &grad {
            // What is not added to, because a tile was skipped, must be zero.
            let n = vocab * hidden;
            learner.open(*id, |into, add| if add { Ok(()) } else { d.fill(into, n, 0.0) })?;
        }
        let Tile { rows: tall, vocab: wide, eps } = self.tile;
        for (row, n, rows_alike) in pieces(d, rows, tall) {
            for (first, width, alike) in pieces(d, vocab, wide) {
                d.weigh(rows_alike * alike);
                let w = weight.of(learner, vocab, hidden).rows(first, width);
                d.linear(x.at(row * hidden), n, w, None, self.logits.all_mut(), false)?;
                let (log_sum_exp, picked) = (self.log_sum_exp.at_mut(row), self.picked.at_mut(row));
                d.log_sum_exp(self.logits.all(), n, width, first, targets.at(row), log_sum_exp, picked)?;
                if let Some(best) = best.as_deref_mut().and_then(|b| b.get_mut(row..row + n)) {
                    d.argmax(self.logits.all(), width, first, best)?;
                }
            }
            let Some(grad) = &mut grad else { continue };
            let mut add = false;
            for (first, width, alike) in pieces(d, vocab, wide) {
                d.weigh(rows_alike * alike);
                let w = weight.of(learner, vocab, hidden).rows(first, width);
                if wide < vocab {
                    d.linear(x.at(row * hidden), n, w, None, self.logits.all_mut(), false)?;
                }
                let (a, log_sum_exp) = (self.logits.all_mut(), self.log_sum_exp.at(row));
                if !d.cross_entropy_vjp(a, n, width, first, targets.at(row), log_sum_exp, grad.scale, eps)? {
                    continue;
                }
                d.linear_dx(self.logits.all(), n, w, grad.dx.at_mut(row * hidden), add)?;
                add = true;
                if let Some(id) = grad.parameter {
                    let into = learner.opened(id, first * hidden)?;
                    d.linear_dw(self.logits.all(), x.at(row * hidden), n, width, hidden, into, true)?;
                }
            }
            if !add {
                d.fill(grad.dx.at_mut(row * hidden), n * hidden, 0.0)?;
            }
        }
        d.weigh(1);
        if d.planned() { Ok(0.0) } else { self.sum(d, rows) }
    }

    /// `Σ log_sum_exp − picked`, in order, in f64.
    fn sum(&self, d: &dyn Device, rows: usize) -> Result<f64> {
        let mut total = 0.0;
        let (mut log_sum_exp, mut picked) = ([0.0f32; 256], [0.0f32; 256]);
        for at in (0..rows).step_by(256) {
            let n = 256.min(rows - at);
            d.download(self.log_sum_exp.at(at), bytemuck::cast_slice_mut(&mut log_sum_exp[..n]))?;
            d.download(self.picked.at(at), bytemuck::cast_slice_mut(&mut picked[..n]))?;
            total += log_sum_exp[..n].iter().zip(&picked[..n]).map(|(l, p)| f64::from(*l) - f64::from(*p)).sum::<f64>();
        }
        Ok(total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::dry::Dry;
    use crate::ledger::Ledger;

    #[test]
    fn a_plan_walks_one_of_the_pieces_that_are_alike() {
        let ledger = Ledger::new(u64::MAX, u64::MAX, u64::MAX);
        let dry = Dry::new(&ledger, 0, 0).unwrap();
        for (whole, wide) in [(0, 3), (1, 3), (3, 3), (4, 3), (6, 3), (7, 3), (9, 3), (1 << 32, 1), (1 << 32, 7)] {
            let all: Vec<_> = pieces(&dry, whole, wide).collect();
            assert!(all.len() <= 3, "{whole} by {wide}: {all:?}");
            let sum: usize = all.iter().map(|(_, n, times)| n * times).sum();
            let count: usize = all.iter().map(|(.., times)| times).sum();
            assert_eq!((sum, count), (whole, whole.div_ceil(wide)), "{whole} by {wide}: {all:?}");
        }
    }
}
