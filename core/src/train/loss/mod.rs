//! train.loss: the output head and the cross-entropy, in tiles of tokens × vocabulary.
//!
//! A technique chooses the tile. As wide as the vocabulary, one pass gives loss and gradient; narrower, the log-sum-exp
//! comes first and the logits are computed again for the gradient, so that tokens × vocabulary never exists.
//!
//! Of narrow tiles, those whose softmax is negligible are skipped before they are computed again: the largest logit of each
//! row of a tile is kept from the first pass. The vocabulary may be sorted by mean logit, so that entries that matter share
//! tiles. As logits are linear, their mean over tokens is the logit of the mean token: one product says the order beforehand,
//! and both passes take the same tiles.

mod chunked;
mod cut;
mod full;

use super::learner::Learner;
use crate::blocks::BlockType;
use crate::device::{Best, Buf, Columns, Device, Gradient, Op, Round, Src, Weight};
use crate::error::Result;
use crate::ledger::{Category, Tag};
use crate::ops::descriptors::Reduction;
use crate::ops::rule::Rule;
use crate::ops::rule::functions::{SOFT_CAP, SOFT_CAP_VJP};
use crate::schema::Entry;

/// The variants of train.loss.
pub const ENTRIES: &[&Entry<dyn Loss>] = &[&chunked::ENTRY, &cut::ENTRY, &full::ENTRY];

const LOGITS: Tag = Tag::device(Category::Logits, "logits");
/// Logits before they are capped.
pub const RAW: Tag = Tag::device(Category::Logits, "logits before their cap");
const STATISTICS: Tag = Tag::device(Category::Logits, "loss statistics");
const MAXIMA: Tag = Tag::device(Category::Logits, "largest logits of tiles");
const ORDER: Tag = Tag::device(Category::Logits, "order of the vocabulary");
const GATHERED: Tag = Tag::device(Category::Logits, "rows of the head in order");

/// Fewest entries of the vocabulary in a sorted tile: narrower products are mostly overhead.
const FEWEST: usize = 64;
/// Tiles whose maxima the host looks at together.
const LOOK: usize = 1024;

/// A tile of logits, `(rows, vocab)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tile {
    /// Tokens whose logits are computed at once.
    pub rows: usize,
    /// Entries of the vocabulary computed at once.
    pub vocab: usize,
    /// Tiles whose every gradient is below this, before scaling, are skipped; 0 for none.
    pub eps: f32,
    /// Whether entries are taken by falling mean logit where tiles are skipped.
    pub sort: bool,
}

impl Tile {
    /// Whether tiles of this size are skipped where a gradient is wanted.
    fn filters(self, vocab: usize) -> bool {
        self.vocab < vocab && self.eps > 0.0
    }

    /// The tile where a gradient is wanted. A sorted one has its rows of the head beside it, gathered: both together take the
    /// bytes that the tile alone would.
    pub fn learning(self, hidden: usize, vocab: usize) -> Self {
        let sort = self.sort && self.filters(vocab);
        let narrow = (self.rows * self.vocab / (self.rows + hidden)).clamp(FEWEST.min(self.vocab), self.vocab);
        Self { sort, vocab: if sort { narrow } else { self.vocab }, ..self }
    }
}

/// train.loss: a technique that decides how logits are held.
pub trait Loss: Send + Sync {
    /// The tile for `rows` tokens and a vocabulary of `vocab`; at most both, at least 1.
    fn tile(&self, rows: usize, vocab: usize) -> Tile;
}

/// What a model does to its logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Logits {
    /// Multiplied onto them; 1 for none.
    pub scale: f32,
    /// They go through `cap · tanh(x / cap)` then.
    pub cap: Option<f32>,
}

/// `p ← rule(p, g)` for each of `len` logits of a model that caps them.
///
/// # Errors
/// [`crate::Error::Cancelled`]; [`crate::Error::Device`] when the driver fails.
pub fn capped(d: &dyn Device, rule: &'static Rule, cap: f32, g: &Buf, p: &mut Buf, len: usize) -> Result<()> {
    let (p, g, state, numbers) = (p.all_mut(), Gradient::Held(g.all()), &mut [][..], &[cap][..]);
    let (scale, clamp, round) = (1.0, f32::INFINITY, Round::Nearest);
    d.run(Op::Elementwise { rule, p, len, g, state, numbers, scale, clamp, round })
}

/// The buffers of one pass of the head.
pub struct Head {
    tile: Tile,
    /// What logits are capped at, and where they are before.
    cap: Option<(f32, Buf)>,
    logits: Buf,
    log_sum_exp: Buf,
    picked: Buf,
    maxima: Option<Maxima>,
    sorted: Option<Sorted>,
}

/// The largest logits of each tile: of its rows `(tiles, tile.rows)`, and over them, less their log-sum-exp `(tiles)`.
struct Maxima {
    of_rows: Buf,
    of_tiles: Buf,
}

/// The vocabulary by falling mean logit.
struct Sorted {
    /// The tokens' hidden states added up, `(hidden)`.
    token: Buf,
    /// Their logits, `(vocab)`.
    logits: Buf,
    /// The entries in order, ids `(vocab)`.
    order: Buf,
    /// Rows of the head that a tile takes, `(tile.vocab, hidden)`; where it learns, their gradient afterwards.
    rows: Buf,
    /// Their gradient, where rows are not stored in f32.
    d_rows: Option<Buf>,
}

/// What the backward half of a head will be asked for.
#[derive(Clone, Copy, Debug)]
pub struct Backward {
    /// Elements of a token in the residual stream.
    pub hidden: usize,
    /// Entries of the vocabulary.
    pub vocab: usize,
    /// Whether the head learns.
    pub learns: bool,
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
    /// Buffers for at most `rows` tokens, and for their gradients where those are wanted.
    ///
    /// # Errors
    /// [`crate::Error::OverBudget`] when the budget has no room for it.
    pub fn new(d: &dyn Device, tile: Tile, rows: usize, cap: Option<f32>, backward: Option<Backward>) -> Result<Self> {
        let tile = backward.map_or(tile, |b| tile.learning(b.hidden, b.vocab));
        let floats = |tag, n| d.buffer(tag, BlockType::F32, n);
        let of = backward.filter(|b| tile.filters(b.vocab));
        let maxima = |b: Backward| -> Result<Maxima> {
            let tiles = b.vocab.div_ceil(tile.vocab);
            Ok(Maxima { of_rows: floats(MAXIMA, tiles * tile.rows)?, of_tiles: floats(MAXIMA, tiles)? })
        };
        Ok(Self {
            tile,
            cap: cap.map(|cap| Ok::<_, crate::Error>((cap, floats(RAW, tile.rows * tile.vocab)?))).transpose()?,
            logits: floats(LOGITS, tile.rows * tile.vocab)?,
            log_sum_exp: floats(STATISTICS, rows)?,
            picked: floats(STATISTICS, rows)?,
            maxima: of.map(maxima).transpose()?,
            sorted: of.filter(|_| tile.sort).map(|b| Sorted::new(d, tile, b)).transpose()?,
        })
    }

    /// The sum of the losses of all rows; with `grad` their gradients too, and in `best (rows)` the most likely entry of each,
    /// for a head without gradients: taken from every tile as it comes, so that it needs no logits beside it.
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
        let &HeadCall { d, targets, rows, hidden, vocab, .. } = call;
        d.fill(self.log_sum_exp.all_mut(), rows, f32::NEG_INFINITY)?;
        if let Some(HeadGrad { parameter: Some(id), .. }) = &grad {
            // What is not added to, because a tile was skipped, must be zero.
            let n = vocab * hidden;
            learner.open(*id, |into, add| if add { Ok(()) } else { d.fill(into, n, 0.0) })?;
        }
        if let Some(sorted) = self.sorted.as_mut().filter(|_| rows > 0) {
            sorted.find(call, weight.of(learner, vocab, hidden), self.tile.vocab)?;
        }
        let Tile { rows: tall, vocab: wide, .. } = self.tile;
        for (row, n, rows_alike) in pieces(d, rows, tall) {
            for (first, width, alike) in pieces(d, vocab, wide) {
                d.weigh(rows_alike * alike);
                self.logits(call, weight.of(learner, vocab, hidden), (row, n), (first, width))?;
                let most = self.maxima.as_mut().map(|m| m.of_rows.at_mut(first / wide * n));
                let (log_sum_exp, picked) = (self.log_sum_exp.at_mut(row), self.picked.at_mut(row));
                let columns = columns(&self.sorted, first);
                d.log_sum_exp(self.logits.all(), n, width, columns, targets.at(row), log_sum_exp, picked, most)?;
                if let Some(best) = best.as_deref_mut().and_then(|b| b.get_mut(row..row + n)) {
                    d.argmax(self.logits.all(), width, first, best)?;
                }
            }
            if let Some(grad) = &mut grad {
                self.backward(call, weight, learner, grad, (row, n, rows_alike))?;
            }
        }
        d.weigh(1);
        if d.planned() { Ok(0.0) } else { self.sum(d, rows) }
    }

    /// The logits of tokens `row..row + n` and the entries `first..first + width`, counted in order where that is sorted.
    fn logits(
        &mut self,
        call: &HeadCall<'_>,
        w: Weight<'_>,
        (row, n): (usize, usize),
        (first, width): (usize, usize),
    ) -> Result<()> {
        let (d, x) = (call.d, call.x.at(row * call.hidden));
        let into = self.cap.as_mut().map_or(&mut self.logits, |(_, raw)| raw);
        match &mut self.sorted {
            None => d.linear(x, n, w.rows(first, width), None, into.all_mut(), false)?,
            Some(Sorted { order, rows, .. }) => {
                d.embed(w, order.at(first), width, rows.all_mut())?;
                d.linear(x, n, Weight::of(rows, width, call.hidden), None, into.all_mut(), false)?;
            }
        }
        match &self.cap {
            Some((cap, raw)) => capped(d, &SOFT_CAP, *cap, raw, &mut self.logits, n * width),
            None => Ok(()),
        }
    }

    /// Gradients of tokens `row..row + n`, whose log-sum-exp is known; a plan's stand for `alike` such pieces.
    fn backward(
        &mut self,
        call: &HeadCall<'_>,
        weight: HeadWeight<'_>,
        learner: &mut Learner,
        grad: &mut HeadGrad<'_>,
        (row, n, alike): (usize, usize, usize),
    ) -> Result<()> {
        let &HeadCall { d, x, targets, hidden, vocab, .. } = call;
        let Tile { vocab: wide, eps, .. } = self.tile;
        let tiles = vocab.div_ceil(wide);
        d.weigh(alike);
        if let Some(maxima) = &mut self.maxima {
            maxima.find(d, self.log_sum_exp.at(row), (tiles, n))?;
        }
        let (mut add, mut largest) = (false, [0.0f32; LOOK]);
        for (first, width, tiles_alike) in pieces(d, vocab, wide) {
            let k = first / wide;
            d.weigh(alike * tiles_alike);
            if let Some(maxima) = &self.maxima {
                if k % LOOK == 0 {
                    let some = &mut largest[..LOOK.min(tiles - k)];
                    d.download(maxima.of_tiles.at(k), bytemuck::cast_slice_mut(some))?;
                }
                // What is no number matters.
                if largest[k % LOOK] < eps.ln() {
                    continue;
                }
            }
            if wide < vocab {
                self.logits(call, weight.of(learner, vocab, hidden), (row, n), (first, width))?;
            }
            let (a, log_sum_exp) = (self.logits.all_mut(), self.log_sum_exp.at(row));
            let columns = columns(&self.sorted, first);
            if !d.cross_entropy_vjp(a, n, width, columns, targets.at(row), log_sum_exp, grad.scale, eps)? {
                continue;
            }
            if let Some((cap, raw)) = &self.cap {
                capped(d, &SOFT_CAP_VJP, *cap, raw, &mut self.logits, n * width)?;
            }
            let (da, x, dx) = (self.logits.all(), x.at(row * hidden), grad.dx.at_mut(row * hidden));
            match &mut self.sorted {
                Some(sorted) => {
                    d.linear_dx(da, n, Weight::of(&sorted.rows, width, hidden), dx, add)?;
                    if let Some(id) = grad.parameter {
                        let dw = sorted.d_rows.as_mut().unwrap_or(&mut sorted.rows);
                        d.linear_dw(da, x, n, width, hidden, dw.all_mut(), false)?;
                        let ids = sorted.order.at(first);
                        d.embed_vjp(dw.all(), ids, width, vocab, hidden, learner.opened(id, 0)?)?;
                    }
                }
                None => {
                    d.linear_dx(da, n, weight.of(learner, vocab, hidden).rows(first, width), dx, add)?;
                    if let Some(id) = grad.parameter {
                        d.linear_dw(da, x, n, width, hidden, learner.opened(id, first * hidden)?, true)?;
                    }
                }
            }
            add = true;
        }
        if add { Ok(()) } else { d.fill(grad.dx.at_mut(row * hidden), n * hidden, 0.0) }
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

fn columns(sorted: &Option<Sorted>, first: usize) -> Columns<'_> {
    sorted.as_ref().map_or(Columns::From(first), |s| Columns::Listed(s.order.at(first)))
}

impl Maxima {
    /// Of each of the `tiles`, over its `n` rows, the logarithm of the largest probability; ∞ where a target is.
    fn find(&mut self, d: &dyn Device, log_sum_exp: Src<'_>, (tiles, n): (usize, usize)) -> Result<()> {
        for k in 0..tiles {
            d.axpy(-1.0, log_sum_exp, self.of_rows.at_mut(k * n), n)?;
        }
        let (x, y) = (self.of_rows.all(), self.of_tiles.all_mut());
        d.run(Op::Reduce { x, rows: tiles, cols: n, how: Reduction::Max, y })
    }
}

impl Sorted {
    fn new(d: &dyn Device, tile: Tile, Backward { hidden, vocab, learns }: Backward) -> Result<Self> {
        let floats = |tag, n| d.buffer(tag, BlockType::F32, n);
        let (n, ty) = (tile.vocab * hidden, d.activations());
        Ok(Self {
            token: floats(ORDER, hidden)?,
            logits: floats(ORDER, vocab)?,
            order: d.buffer(ORDER, BlockType::I32, vocab)?,
            rows: d.buffer(GATHERED, ty, n)?,
            d_rows: (learns && ty != BlockType::F32).then(|| floats(GATHERED, n)).transpose()?,
        })
    }

    /// Finds the order for the tokens of `call`, `wide` rows of the head `w` at a time.
    fn find(&mut self, call: &HeadCall<'_>, w: Weight<'_>, wide: usize) -> Result<()> {
        let &HeadCall { d, x, rows, hidden, vocab, .. } = call;
        // The sum has the order of the mean.
        d.bias_vjp(x.all(), rows, hidden, self.token.all_mut(), false)?;
        for first in (0..vocab).step_by(wide) {
            let w = w.rows(first, wide.min(vocab - first));
            d.linear(self.token.all(), 1, w, None, self.logits.at_mut(first), false)?;
        }
        d.order(self.logits.all(), vocab, self.order.all_mut())
    }
}

#[cfg(test)]
mod tests;
