//! What lies where: a plan's accounts taken apart into tensors, the caches of layers, and named buffers.
//!
//! The pieces of a tier add up to what the plan says is held there at that instant, category by category, to the byte.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Note, Resolved, Workload, walk_training};
use crate::config::Config;
use crate::error::Result;
use crate::forward::cpu::BatchShape;
use crate::kv::cache::{ROWS, STAGING};
use crate::ledger::{Category, Ledger, Phase, Step, Tag, Tier, Walls};
use crate::place::{Content, Part, rows};
use crate::shape::{ModelShape, TensorShape};
use crate::weights::units::UnitLayout;

/// One tensor, one layer's cache or one buffer, as predicted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// `blk.3.ffn_up.weight`, `KV cache, layer 3`, `kernel scratch`.
    pub name: String,
    /// Where it belongs: `layer 3`, `embedding`, `KV cache`, `scratch`.
    pub group: String,
    /// Type and shape in words: `q4_1 (1536, 576)`.
    pub detail: String,
    /// What it is for.
    pub category: Category,
    /// Where it lies.
    pub tier: Tier,
    /// Bytes.
    pub bytes: u64,
}

/// A reservation that is live at some instant: the `nth` under its tag, counted from the plan's start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Live {
    pub tag: Tag,
    pub nth: usize,
    pub bytes: u64,
}

/// Cache rows that one reservation stands for, as in [`Note::Rows`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows {
    prompt: usize,
    from: Option<usize>,
    to: usize,
}

/// A plan's walk with every step of its account and what the steps stand for.
pub(super) struct Draft {
    pub resolved: Resolved,
    trace: Vec<Step>,
    rows: Vec<Rows>,
    pub rooms: Vec<BatchShape>,
    /// The buffers of weights, in the order of their reservations.
    parts: Vec<Part>,
    /// A training's: nothing in it is a layer of inference or a cache.
    training: bool,
}

impl Draft {
    /// Walks `config`.
    ///
    /// # Errors
    /// A choice this shape forbids.
    pub fn new(stored: &ModelShape, workload: &Workload, config: &Config) -> Result<Self> {
        let ledger: Arc<Ledger> = Ledger::draft(Walls::default(), true);
        if config.train.is_some() {
            walk_training(config, stored, workload, &ledger, None)?;
            let resolved = Resolved::new(&Config::default(), stored)?;
            let (trace, training) = (ledger.trace(), true);
            return Ok(Self { resolved, trace, rows: Vec::new(), rooms: Vec::new(), parts: Vec::new(), training });
        }
        let resolved = Resolved::new(config, stored)?;
        let (mut rows, mut rooms) = (Vec::new(), Vec::new());
        resolved.walk(config, stored, workload, &ledger, &mut |note| match note {
            Note::Workspace(extent) => rooms.push(extent),
            Note::Rows { prompt, from, to } => rows.push(Rows { prompt, from, to }),
        })?;
        // A GPU holds everything as a placement that is resident does.
        let parts = resolved.placement.parts(&resolved.held)?;
        Ok(Self { resolved, trace: ledger.trace(), rows, rooms, parts, training: false })
    }

    /// What `tier` holds when it holds most: over the whole plan, or in one phase. The instant is the one of the plan's own
    /// account: the first at which the peak is reached.
    pub fn at_peak(&self, tier: Tier, phase: Option<Phase>) -> Vec<Live> {
        let counts = |tag: Tag| tag.tier == tier && tag.category != Category::Observation;
        let mut sizes: BTreeMap<u64, u64> = BTreeMap::new();
        let (mut now, mut total, mut peak, mut at) = (Phase::Load, 0, 0, None);
        for (i, step) in self.trace.iter().enumerate() {
            match *step {
                Step::Enter(next) => now = next,
                Step::Reserve { tag, bytes, id } if counts(tag) => {
                    sizes.insert(id, bytes);
                    total += bytes;
                }
                Step::Release { id } => total -= sizes.remove(&id).unwrap_or(0),
                Step::Reserve { .. } => {}
            }
            if total > peak && phase.is_none_or(|p| p == now) {
                (peak, at) = (total, Some(i));
            }
        }
        let Some(at) = at else { return Vec::new() };
        let mut live = BTreeMap::new();
        let mut numbers: BTreeMap<Tag, usize> = BTreeMap::new();
        for step in &self.trace[..=at] {
            match *step {
                Step::Enter(_) => {}
                Step::Reserve { tag, bytes, id } => {
                    let nth = numbers.entry(tag).or_default();
                    if tag.tier == tier && bytes > 0 {
                        live.insert(id, Live { tag, nth: *nth, bytes });
                    }
                    *nth += 1;
                }
                Step::Release { id } => {
                    live.remove(&id);
                }
            }
        }
        live.into_values().collect()
    }

    /// Rows that (layer, head) has room for, by all of `live` together.
    pub fn rows_of(&self, live: &[Live], layer: usize, head: usize) -> usize {
        let p = &self.resolved.pipeline;
        let of = |r: &Rows| {
            let held = |seen| p.held_rows(layer, head, r.prompt, seen);
            held(r.to) - r.from.map_or(0, held)
        };
        live.iter().filter(|l| l.tag == ROWS).filter_map(|l| self.rows.get(l.nth)).map(of).sum()
    }

    /// True when the bytes of every layer's cache are its rows' and nothing else.
    pub fn row_by_row(&self, live: &[Live]) -> bool {
        let p = &self.resolved.pipeline;
        let layers = 0..self.resolved.held.layers.len();
        let rows = || live.iter().filter(|l| l.tag == ROWS).filter_map(|l| self.rows.get(l.nth));
        rows().all(|r| layers.clone().all(|l| p.row_by_row(l, r.prompt)))
    }

    /// Bytes of a layer's cache, by all of `live` together.
    pub fn cache_bytes(&self, live: &[Live], layer: usize) -> u64 {
        let p = &self.resolved.pipeline;
        let of = |r: &Rows| {
            let held = |seen| p.layer_bytes(layer, r.prompt, seen);
            held(r.to) - r.from.map_or(0, held)
        };
        live.iter().filter(|l| l.tag == ROWS).filter_map(|l| self.rows.get(l.nth)).map(of).sum()
    }

    /// Sequences that have a cache among `live`.
    pub fn sequences(&self, live: &[Live]) -> usize {
        let begins = |l: &Live| self.rows.get(l.nth).is_some_and(|r| r.from.is_none());
        let first = |l: &Live| self.rows.get(l.nth).is_some_and(|r| r.from == Some(0));
        // The first sequence's cache begins empty, which is no reservation unless its room is taken up front; then the prompt
        // adds none.
        live.iter().filter(|l| l.tag == ROWS && (begins(l) || first(l))).count()
    }

    /// The tensors that one reservation of weights is made of, and how the group is called; `None` for a reservation that is
    /// no list of tensors.
    pub fn tensors(&self, live: &Live) -> Option<(String, Vec<&TensorShape>)> {
        if self.training {
            return None;
        }
        let held = &self.resolved.held;
        let part = self.parts.iter().filter(|p| p.tag == live.tag).nth(live.nth)?;
        match part.content {
            Content::Layer(l) => held.layers.get(l).map(|s| (format!("layer {l}"), s.tensors.all().collect())),
            Content::Embedding => Some(("embedding".to_owned(), vec![&held.embedding])),
            Content::Head => held.output.as_ref().map(|t| ("output head".to_owned(), vec![t])),
            Content::Small => {
                let small = std::iter::once(&held.output_norm).chain(held.rope_freqs.as_ref());
                Some(("output head".to_owned(), small.collect()))
            }
            Content::Passing => None,
        }
    }
}

/// The heading of what is neither weights nor cache.
fn group(category: Category) -> &'static str {
    match category {
        Category::Weights => "weights",
        Category::KvCache => "KV cache",
        Category::Activations => "activations",
        Category::Gradients => "gradients",
        Category::Optimizer => "optimizer state",
        Category::Logits => "output scores",
        Category::Workspace => "scratch",
        Category::Observation => "kept for display",
        Category::Store => "store",
    }
}

/// What a named buffer holds, where its name does not say it.
fn detail(name: &str) -> &'static str {
    match name {
        "residual stream" => "hidden states between layers, f32",
        "layer activations" => "one layer's inputs, projections and products, f32",
        "kernel scratch" => "tiles and partial sums of products and attention, f32",
        "policy scratch" => "scores and row lists of the policy that chooses tokens",
        "rotation table" => "cosines and sines by position, f32",
        "rotation frequencies" => "inverse frequencies, f64",
        "logits" => "one score for every token of the vocabulary, f32",
        "sampler" => "candidate tokens with their probabilities",
        "reference logits" => "the uncompressed model's scores for one position, f32",
        "load scratch" => "weights on their way from one type to another",
        "upload staging" => "weights on their way to the GPU",
        "head map" => "one head's attention, a byte for each query and row",
        "row positions" => "of the rows of the head that is shown, u32",
        "attention rows" => "the newest query's attention of every head, f32",
        "kv staging" => "one layer's cache of the whole prompt, before tokens go",
        "layer slots" => "workspace for any one layer, or a part of the output head",
        "token ids" => "u32",
        "frozen weights" => "the model as its file has it",
        "weights that learn" => "the model's own weights, updated in place",
        "adapters" => "low-rank matrices that learn",
        "gradients" => "one number for each that learns, as long as they are held",
        "optimizer state" => "what the optimizer remembers of each number that learns",
        "rounding copies" => "what rounding to two bytes would lose",
        "kept activations" => "what each layer leaves for its backward",
        "kept inputs" => "inputs of layers that are computed again",
        "recomputed layers" => "what layers computed again leave for their backward",
        "backward scratch" => "gradients of hidden states and values",
        "adapter scratch" => "an adapter's inner products",
        "loss statistics" => "log-sum-exp and the target's score of each token, f32",
        "gradient norms" => "f32",
        "optimizer scratch" => "what an optimizer needs while it updates one matrix, f32",
        "projection staging" => "a projection's directions on their way through the host, f32",
        "dump" => "every row of scores that was computed, f32, as safetensors",
        "saved reference logits" => "the uncompressed model's scores, kept to compare with again, f32",
        "training state" => {
            "what learns and what the optimizer remembers, to go on from; two while one replaces the other"
        }
        "exported adapter" => "what was learned, as PEFT's folder and as GGUF, f32",
        "exported model" => "the fine-tuned model as a folder",
        "run folder" => "events, report, timeline and configuration of the run",
        "batch" => "tokens, targets, positions and documents, u32",
        _ => "",
    }
}

/// Takes apart what `config` will hold of a model stored as `stored` at its peak, or at the peak of one phase: every tier at its
/// own instant, as the plan's accounts are.
///
/// # Errors
/// A choice this shape forbids.
pub fn pieces(stored: &ModelShape, workload: &Workload, config: &Config, phase: Option<Phase>) -> Result<Vec<Piece>> {
    let draft = Draft::new(stored, workload, config)?;
    let mut out = Vec::new();
    for tier in Tier::ALL {
        let live = draft.at_peak(*tier, phase);
        for l in &live {
            match draft.tensors(l) {
                Some((group, tensors)) => weights(*tier, l, &group, &tensors, &mut out),
                None if l.tag == ROWS => {}
                None => named(*tier, l, &mut out),
            }
        }
        caches(&draft, *tier, &live, config, &mut out);
    }
    Ok(out)
}

/// The tensors of one unit, and the padding that puts each on a cache line.
fn weights(tier: Tier, live: &Live, group: &str, tensors: &[&TensorShape], out: &mut Vec<Piece>) {
    let piece = |name: String, detail: String, bytes| Piece {
        name,
        group: group.to_owned(),
        detail,
        category: live.tag.category,
        tier,
        bytes,
    };
    let mut rest = live.bytes;
    for t in tensors {
        let shape = if t.rows == 1 { format!("({})", t.cols) } else { format!("({}, {})", t.rows, t.cols) };
        out.push(piece(t.name.clone(), format!("{} {shape}", t.ty), t.bytes()));
        rest = rest.saturating_sub(t.bytes());
    }
    // The layout's own padding and nothing else: a test holds that pieces add up to the account.
    let padding =
        UnitLayout::new(tensors.iter().copied()).bytes as u64 - tensors.iter().map(|t| t.bytes()).sum::<u64>();
    if padding.min(rest) > 0 {
        out.push(piece(format!("{group}, padding"), "between tensors, to whole cache lines".into(), padding));
    }
}

/// A buffer under its ledger name; several under one name are one piece, but for slots, which are told apart.
fn named(tier: Tier, live: &Live, out: &mut Vec<Piece>) {
    let Tag { category, name, .. } = live.tag;
    let name = if live.tag == rows::SLOTS { format!("layer slot {}", live.nth + 1) } else { name.to_owned() };
    if let Some(piece) = out.iter_mut().find(|p| p.tier == tier && p.category == category && p.name == name) {
        piece.bytes += live.bytes;
        return;
    }
    let detail = detail(live.tag.name).to_owned();
    out.push(Piece { name, group: group(category).to_owned(), detail, category, tier, bytes: live.bytes });
}

/// The cache of each layer, all sequences together.
fn caches(draft: &Draft, tier: Tier, live: &[Live], config: &Config, out: &mut Vec<Piece>) {
    if tier != ROWS.tier || !live.iter().any(|l| l.tag == ROWS) {
        return;
    }
    let p = &draft.resolved.pipeline;
    let formats = match (&config.kv.format.k.id, &config.kv.format.v.id) {
        (k, v) if k == v => format!("{k} keys and values"),
        (k, v) => format!("{k} keys, {v} values"),
    };
    for (l, layout) in p.rows.iter().enumerate() {
        let heads: Vec<usize> = (0..p.heads(l)).map(|h| draft.rows_of(live, l, h)).collect();
        let bytes = draft.cache_bytes(live, l);
        if bytes == 0 {
            continue;
        }
        let (least, most) = (heads.iter().min().unwrap_or(&0), heads.iter().max().unwrap_or(&0));
        let rows = if least == most { format!("{most} rows") } else { format!("{least} to {most} rows") };
        out.push(Piece {
            name: format!("KV cache, layer {l}"),
            group: group(Category::KvCache).to_owned(),
            detail: format!("{formats}, {} heads × {rows} of {}", heads.len(), layout.d),
            category: Category::KvCache,
            tier,
            bytes,
        });
    }
}

/// True for the rows that formulas know how to say.
pub(super) fn is_cache(tag: Tag) -> bool {
    tag == ROWS || tag == STAGING
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;
    use crate::plan::tests::{matrix, shape};
    use crate::plan::{Pass, plan};

    #[test]
    fn pieces_add_up_to_the_plans_accounts_at_every_instant() {
        let machine = Machine::default_guess();
        let mut instants = 0;
        for (shape, config, workload) in matrix() {
            let planned = plan(&shape, &workload, &config, &machine).unwrap().bytes;
            let accounts =
                std::iter::once((None, &planned.tiers)).chain(planned.phases.iter().map(|(p, a)| (Some(*p), a)));
            for (phase, account) in accounts {
                let pieces = pieces(&shape, &workload, &config, phase).unwrap();
                let mut sums: BTreeMap<Tier, BTreeMap<Category, u64>> = BTreeMap::new();
                for p in &pieces {
                    assert!(p.bytes > 0 && !p.name.is_empty() && !p.group.is_empty(), "{p:?}");
                    *sums.entry(p.tier).or_default().entry(p.category).or_default() += p.bytes;
                }
                let at_peak: BTreeMap<_, _> =
                    account.iter().map(|(t, a)| (*t, a.at_peak.clone())).filter(|(_, by)| !by.is_empty()).collect();
                assert_eq!(sums, at_peak, "{phase:?} of {}", config.to_toml().unwrap());
                instants += 1;
            }
        }
        assert!(instants > 300, "{instants}");
    }

    #[test]
    fn a_resident_models_pieces_are_its_tensors_and_its_layers_caches() {
        let shape = shape("smollm2-135m@q8_0");
        let config = Config::default();
        let workload = Workload { passes: vec![Pass { prompt: 50, decode: 20, sequences: 1 }], ..Workload::default() };
        let pieces = pieces(&shape, &workload, &config, None).unwrap();
        for t in shape.tensors() {
            let found: Vec<_> = pieces.iter().filter(|p| p.name == t.name).collect();
            assert_eq!(found.len(), 1, "{}", t.name);
            assert_eq!((found[0].bytes, found[0].category), (t.bytes(), Category::Weights));
            assert!(found[0].detail.starts_with(t.ty.name()) && found[0].detail.contains(&t.cols.to_string()));
        }
        let cache: Vec<_> = pieces.iter().filter(|p| p.category == Category::KvCache).collect();
        assert_eq!(cache.len(), 30);
        assert_eq!((cache[7].name.as_str(), cache[7].bytes), ("KV cache, layer 7", 2 * 3 * 64 * 2 * 2048));
        assert_eq!(cache[7].detail, "f16 keys and values, 3 heads × 2048 rows of 64");
    }
}
