//! How the bytes of a training plan come about: gradients, optimizer state, what is kept and what is computed again.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::pieces::Live;
use super::terms::{Factor, Kinds, Term, n, named, value};
use crate::blocks::BlockType;
use crate::config::Config;
use crate::config::train::{Hold, Train};
use crate::device::gpu::Precision;
use crate::error::Result;
use crate::ledger::{Ledger, Walls};
use crate::shape::{ModelShape, PART_A, PART_B, PartSpec};
use crate::train::block::Widths;
use crate::train::engine::Techniques;
use crate::train::loss::Tile;
use crate::train::optimizer::Shape;
use crate::train::plan::{learning, section};

/// A parameter of the learner, without its values.
struct Learns {
    adapter: bool,
    /// Of an adapter's A or B: its rank, and whether it is A.
    low: Option<(usize, bool)>,
    rows: usize,
    cols: usize,
    ty: BlockType,
    group: usize,
    unit: usize,
}

impl Learns {
    fn len(&self) -> usize {
        self.rows * self.cols
    }
}

/// The rank of an adapter's A or B, and whether it is A; a rank may be more than the other side.
fn low(p: &crate::train::learner::Param) -> Option<(usize, bool)> {
    let is = |part: PartSpec| p.adapter && p.name.ends_with(part.suffix);
    if is(PART_A) { Some((p.rows, true)) } else { is(PART_B).then_some((p.cols, false)) }
}

/// What formulas of a training are written from.
struct Facts<'a> {
    shape: &'a ModelShape,
    train: &'a Train,
    techniques: Techniques,
    params: Vec<Learns>,
    /// Parameters of the learner, the frozen ones that it knows of included.
    known: usize,
    names: Vec<String>,
    w: Widths,
    tile: Tile,
    /// Bytes of an activation.
    a: usize,
}

/// The formula of the reservations `live`, all of one category.
///
/// # Errors
/// A choice this shape forbids.
pub(super) fn terms(stored: &ModelShape, config: &Config, live: &[Live]) -> Result<Vec<Term>> {
    let train = section(config)?;
    let ledger: Arc<Ledger> = Ledger::draft(Walls::default(), false);
    let learner = learning(config, stored, &ledger)?;
    let of = |p: &crate::train::learner::Param| Learns {
        adapter: p.adapter,
        low: low(p),
        rows: p.rows,
        cols: p.cols,
        ty: p.buf.ty(),
        group: p.group,
        unit: p.unit,
    };
    let techniques = Techniques::of(config)?;
    let held = techniques.formats.held(stored)?;
    let tile = techniques.loss.tile(train.batch * train.length, stored.vocab).learning(stored.hidden, stored.vocab);
    let facts = Facts {
        shape: &held,
        train,
        tile,
        params: learner.iter().filter(|p| p.learns).map(of).collect(),
        known: learner.len(),
        names: learner.iter().map(|p| p.name.clone()).collect(),
        techniques,
        w: Widths::of(stored),
        a: if config.gpu().is_some() { Precision::of(train).activations().block_bytes() } else { 4 },
    };
    // Each name has a formula of its own; one that does not come out exact is said as what it is: so many bytes.
    let mut names: Vec<&str> = Vec::new();
    live.iter().for_each(|l| {
        if !names.contains(&l.tag.name) {
            names.push(l.tag.name)
        }
    });
    let mut out = Vec::new();
    for name in names {
        let of: Vec<Live> = live.iter().filter(|l| l.tag.name == name).copied().collect();
        let bytes: u64 = of.iter().map(|l| l.bytes).sum();
        let said = facts.of(name, of.len()).filter(|t| !t.is_empty() && value(t) == Some(bytes));
        out.extend(said.unwrap_or_else(|| named(&of)));
    }
    Ok(out)
}

/// A product of f32 numbers.
fn floats(mut factors: Vec<Factor>) -> Term {
    factors.push(n(4u64, "B"));
    Term(factors)
}

impl Facts<'_> {
    /// The terms of `count` reservations under one name.
    fn of(&self, name: &str, count: usize) -> Option<Vec<Term>> {
        let (w, train) = (self.w, self.train);
        let tokens = || vec![n(train.batch, "rows"), n(train.length, "tokens")];
        let each = |width: usize, what: &str| Term([tokens(), vec![n(width, what), n(self.a, "B")]].concat());
        Some(match name {
            "frozen weights" => self.frozen(),
            "weights that learn" => self.by_type(false, ""),
            "adapters" => self.adapters()?,
            "gradients" => vec![self.gradients()?],
            "optimizer state" => self.state(),
            "rounding copies" => self.by_type(true, "copies of "),
            "kept activations" => vec![self.saved(count / self.buffers(), "layers")],
            "recomputed layers" => vec![self.saved(count / self.buffers(), "layers computed again")],
            "kept inputs" => {
                let mut f = vec![n(count, "layers' inputs")];
                f.extend(each(w.hidden, "hidden").0);
                vec![Term(f)]
            }
            // A norm's output, the gate's, and where nothing is kept what one layer leaves.
            "layer activations" => {
                let mut out = vec![each(w.hidden, "hidden"), each(w.ff.max(w.kv), "feed-forward")];
                if count > 2 {
                    out.push(self.saved(count / self.buffers(), "layer"));
                }
                out
            }
            "residual stream" => vec![each(w.hidden, "hidden")],
            "batch" => {
                let mut f = vec![n(5u64, "lists of ids")];
                f.extend(tokens());
                vec![floats(f)]
            }
            "rotation table" => {
                let (half, ropes) = (self.shape.half(), self.shape.ropes.len());
                let mut f = vec![n(2u64, ""), n(train.length, "positions"), n(half, "pairs")];
                if ropes > 1 {
                    f.insert(0, n(ropes, "rotations"));
                }
                vec![floats(f)]
            }
            "logits" => {
                vec![floats(vec![n(self.tile.rows, "tokens at once"), n(self.tile.vocab, "tokens of the vocabulary")])]
            }
            "largest logits of tiles" => {
                let tiles = self.shape.vocab.div_ceil(self.tile.vocab);
                vec![floats(vec![n(tiles, "tiles"), n(self.tile.rows + 1, "tokens at once, and one for all")])]
            }
            "order of the vocabulary" => vec![
                floats(vec![n(2u64, ""), n(self.shape.vocab, "tokens of the vocabulary")]),
                floats(vec![n(w.hidden, "hidden")]),
            ],
            "rows of the head in order" => {
                let mut f = vec![n(self.tile.vocab, "tokens of the vocabulary"), n(w.hidden, "hidden")];
                // Where activations are narrower than f32, the gradient of those rows has a place of its own.
                let beside = if count > 1 { 4 } else { 0 };
                f.push(n(self.a + beside, "B"));
                vec![Term(f)]
            }
            "loss statistics" => {
                let mut f = vec![n(2u64, "")];
                f.extend(tokens());
                vec![floats(f)]
            }
            "gradient norms" => vec![floats(vec![n(self.known, "matrices")])],
            "backward scratch" => {
                let mut out = vec![each(w.hidden, "hidden")];
                if count > 1 {
                    out = vec![Term([vec![n(2u64, "")], each(w.hidden, "hidden").0].concat()), each(w.kv, "values")];
                }
                out
            }
            "adapter scratch" => {
                let rank = self.params.iter().filter_map(|p| p.low).map(|(rank, _)| rank).max()?;
                vec![each(rank, "ranks")]
            }
            _ => return None,
        })
    }

    /// Buffers of what a layer leaves for its backward.
    fn buffers(&self) -> usize {
        9 + 2 * usize::from(self.w.qk_norm) + 2 * usize::from(self.w.post_norms)
    }

    /// What layers leave for their backward: [`Self::buffers`] each.
    fn saved(&self, layers: usize, what: &str) -> Term {
        let (w, a) = (self.w, self.a);
        let wide = w.ff.max(w.q);
        let part = |times: usize, width: usize, what: &str| Term(vec![n(times, ""), n(width, what), n(a, "B")]);
        let (normed, given) = (usize::from(w.qk_norm), 2 * usize::from(w.post_norms));
        let sum = vec![
            part(2 + given, w.hidden, "hidden"),
            part(2 + normed, w.q, "queries"),
            part(2 + normed, w.kv, "keys"),
            part(2, wide, "feed-forward"),
            Term(vec![n(w.heads, "heads"), n(4u64, "B")]),
        ];
        let rows = [n(self.train.batch, "rows"), n(self.train.length, "tokens")];
        let mut factors = if layers == 1 { Vec::new() } else { vec![n(layers, what)] };
        factors.extend(rows);
        factors.push(Factor::Sum(sum));
        Term(factors)
    }

    /// The base as its file has it, by type.
    fn frozen(&self) -> Vec<Term> {
        let mut kinds = Kinds::default();
        let freqs = self.shape.rope_freqs.as_ref().map(|t| t.name.as_str());
        let frozen = |name: &str| Some(name) != freqs && self.names.iter().all(|n| n != name);
        for t in self.shape.tensors().filter(|t| frozen(&t.name)) {
            kinds.add(t);
        }
        kinds.terms()
    }

    /// Elements of the base that learn, by type; with `copies` what is kept beside those in two bytes.
    fn by_type(&self, copies: bool, prefix: &str) -> Vec<Term> {
        let mut sums: BTreeMap<BlockType, usize> = BTreeMap::new();
        for p in self.params.iter().filter(|p| copies || !p.adapter) {
            *sums.entry(p.ty).or_default() += p.len();
        }
        let bytes = |ty: BlockType| match (copies, self.train.round) {
            (true, crate::config::train::Rounding::Master) => 4,
            _ => ty.block_bytes(),
        };
        let kept = |ty: &BlockType| !copies || *ty == BlockType::Bf16;
        sums.into_iter()
            .filter(|(ty, _)| kept(ty))
            .map(|(ty, count)| Term(vec![n(count, format!("{prefix}weights that learn in {ty}")), n(bytes(ty), "B")]))
            .collect()
    }

    /// Rank times the inputs and outputs of every adapted matrix.
    fn adapters(&self) -> Option<Vec<Term>> {
        let pairs = || self.params.iter().filter(|p| p.adapter);
        let first = pairs().next()?;
        let (rank, _) = first.low?;
        let (inputs, outputs): (Vec<_>, Vec<_>) = pairs().partition(|p| matches!(p.low, Some((_, true))));
        let sides = [
            Term(vec![n(inputs.iter().map(|p| p.cols).sum::<usize>(), format!("inputs of {} matrices", inputs.len()))]),
            Term(vec![n(outputs.iter().map(|p| p.rows).sum::<usize>(), "outputs")]),
        ];
        Some(vec![Term(vec![n(rank, "ranks"), Factor::Sum(sides.into()), n(first.ty.block_bytes(), "B")])])
    }

    /// All gradients, or those of the largest layer or matrix.
    fn gradients(&self) -> Option<Term> {
        let bytes = match self.train.grad_dtype {
            crate::config::train::Dtype::F32 => 4u64,
            crate::config::train::Dtype::Bf16 => 2,
        };
        let largest = |key: &dyn Fn(&Learns) -> usize| {
            let mut sums: BTreeMap<usize, usize> = BTreeMap::new();
            for p in &self.params {
                *sums.entry(key(p)).or_default() += p.len();
            }
            sums.into_values().max()
        };
        let (count, what) = match self.train.grad_hold {
            Hold::All => (self.params.iter().map(Learns::len).sum(), "numbers that learn"),
            Hold::Layer => (largest(&|p| p.group)?, "numbers of the layer with most that learn"),
            Hold::Matrix => (largest(&|p| p.unit)?, "numbers of the matrix with most that learn"),
        };
        Some(Term(vec![n(count, what), n(bytes, "B")]))
    }

    /// What the optimizer remembers of each number, by its name for it.
    fn state(&self) -> Vec<Term> {
        let mut sums: BTreeMap<(&'static str, BlockType), usize> = BTreeMap::new();
        for p in &self.params {
            let last = self.shape.layers.len() + 1;
            let of = Shape { linear: p.rows > 1 && (1..last).contains(&p.group), rows: p.rows, cols: p.cols };
            for slot in self.techniques.optimizer.plan(of).state {
                *sums.entry((slot.name, slot.ty)).or_default() += slot.len();
            }
        }
        let one = |((name, ty), len): ((&str, BlockType), usize)| {
            Term(vec![n(len, format!("numbers of {name} in {ty}")), n(ty.block_bytes(), "B")])
        };
        sums.into_iter().map(one).collect()
    }
}
