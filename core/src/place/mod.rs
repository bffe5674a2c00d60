//! place: which tier holds what, and how it gets to where it is computed.

mod kv_resident;
mod resident;
mod stream;

use std::sync::Arc;

use crate::error::Result;
use crate::ledger::{Buffer, Category, Ledger, Reservation, Tag};
use crate::model::Source;
use crate::ops::ThreadTeam;
use crate::ops::cpu::Mat;
use crate::schema::Entry;
use crate::shape::{ModelShape, TensorShape};
use crate::weights::load;
use crate::weights::units::{LayerView, Unit, UnitLayout};

/// The variants of place.weights.
pub const ENTRIES: &[&Entry<dyn Placement>] = &[&resident::ENTRY, &stream::ENTRY];

/// The variants of place.kv. There is nothing to build while a cache has one place to be.
pub const KV_ENTRIES: &[&Entry<()>] = &[&kv_resident::ENTRY];

/// What a placement is asked to place.
#[derive(Clone, Copy)]
pub struct Model<'a> {
    /// Types as the source stores them.
    pub stored: &'a ModelShape,
    /// Types as they will be held.
    pub held: &'a ModelShape,
    /// Threads that convert.
    pub threads: usize,
}

impl Model<'_> {
    /// Scratch for loading, 0 when no tensor changes type.
    pub fn scratch(&self) -> usize {
        load::scratch_bytes(self.stored.tensors().zip(self.held.tensors()), self.threads)
    }
}

/// place.weights: a technique that decides where weights live.
pub trait Placement: Send + Sync {
    /// Reserves on `ledger` what [`Self::load`] will hold, in the same order, and leaves in `held` what stays.
    ///
    /// # Errors
    /// A combination that cannot work.
    fn plan(&self, model: Model<'_>, ledger: &Arc<Ledger>, held: &mut Vec<Reservation>) -> Result<()>;

    /// Bytes read from the slower tier for one pass over the model, by link: `(tier's name, bytes, chunk bytes)`.
    fn pass_bytes(&self, model: Model<'_>) -> Vec<(&'static str, u64, u64)>;

    /// Loads the model; `progress` is called with the fraction done.
    ///
    /// # Errors
    /// Over budget, a damaged file, cancellation.
    fn load(
        &self,
        source: Arc<Source>,
        model: Model<'_>,
        ledger: &Arc<Ledger>,
        team: &ThreadTeam,
        progress: &mut dyn FnMut(f32),
    ) -> Result<Box<dyn WeightSource>>;
}

/// Weights as the forward pass takes them, a unit at a time; each view lasts until the next call.
pub trait WeightSource: Send {
    /// Layer `l`.
    ///
    /// # Errors
    /// What reading it may meet.
    fn layer(&mut self, l: usize) -> Result<LayerView<'_>>;
    /// Embedding rows of `ids`, `(ids, hidden)`.
    ///
    /// # Errors
    /// What reading them may meet.
    fn embed(&mut self, ids: &[u32], out: &mut [f32]) -> Result<()>;
    /// The output norm, `(hidden)`.
    fn output_norm(&self) -> &[f32];
    /// Divisors of the rotary frequencies, `(rope.dim / 2)`.
    fn rope_freqs(&self) -> Option<&[f32]>;
    /// Pieces in which the head is held.
    fn head_pieces(&self) -> usize;
    /// Piece `i` of the head and its first row of the vocabulary.
    ///
    /// # Errors
    /// What reading it may meet.
    fn head(&mut self, i: usize) -> Result<(usize, Mat<'_>)>;
    /// Says whether the pass that starts now ends in the head, so that read-ahead knows what comes next.
    fn begin_pass(&mut self, _with_head: bool) {}
}

/// The ledger rows of weights.
pub(crate) mod rows {
    use super::{Category, Tag};
    pub const LAYERS: Tag = Tag::device(Category::Weights, "layers");
    pub const EMBEDDING: Tag = Tag::device(Category::Weights, "embedding");
    pub const HEAD: Tag = Tag::device(Category::Weights, "output head");
    pub const NORMS: Tag = Tag::device(Category::Weights, "norms");
    pub const SLOTS: Tag = Tag::device(Category::Weights, "layer slots");
    pub const HOST: Tag = Tag::host(Category::Weights, "whole model");
    pub const ADAPTER: Tag = Tag::device(Category::Weights, "adapter");
}

/// The ledger rows that a whole model is held under, wherever that is.
#[derive(Clone, Copy)]
struct WholeTags {
    embedding: Tag,
    layers: Tag,
    head: Tag,
}

/// Every weight of a model but the small ones: what is resident, or waits to be streamed.
struct Whole {
    embedding: Buffer,
    /// One buffer a layer, laid out as [`UnitLayout::layer`] says.
    layers: Vec<Buffer>,
    /// None when the head is the embedding.
    head: Option<Buffer>,
}

impl Whole {
    /// Reserves what [`Loader::whole`] will hold, in its order.
    fn plan(model: Model<'_>, tags: WholeTags, ledger: &Arc<Ledger>, held: &mut Vec<Reservation>) -> Result<()> {
        held.push(ledger.reserve(tags.embedding, model.held.embedding.bytes())?);
        for l in 0..model.held.layers.len() {
            held.push(ledger.reserve(tags.layers, UnitLayout::layer(model.held, l).bytes as u64)?);
        }
        if let Some(head) = &model.held.output {
            held.push(ledger.reserve(tags.head, head.bytes())?);
        }
        Ok(())
    }

    /// The head, which may be the embedding.
    fn head(&self) -> &[u8] {
        self.head.as_ref().unwrap_or(&self.embedding).as_slice()
    }
}

/// Reads tensors of a source into buffers, converting where the types differ; its scratch lives as long as it does.
struct Loader<'a> {
    source: &'a Source,
    model: Model<'a>,
    ledger: &'a Arc<Ledger>,
    team: &'a ThreadTeam,
    progress: &'a mut dyn FnMut(f32),
    scratch: Option<Buffer>,
    done: u64,
}

impl<'a> Loader<'a> {
    /// Takes the scratch that converting needs.
    ///
    /// # Errors
    /// Over budget.
    fn new(
        source: &'a Source,
        model: Model<'a>,
        ledger: &'a Arc<Ledger>,
        team: &'a ThreadTeam,
        progress: &'a mut dyn FnMut(f32),
    ) -> Result<Self> {
        let scratch = match model.scratch() {
            0 => None,
            bytes => Some(ledger.buffer(load::SCRATCH, bytes)?),
        };
        Ok(Self { source, model, ledger, team, progress, scratch, done: 0 })
    }

    fn read(&mut self, from: &TensorShape, to: &TensorShape, into: &mut [u8]) -> Result<()> {
        load::tensor(self.source, from, to, into, self.scratch.as_mut(), self.team)?;
        self.ledger.moved("disk read", from.bytes());
        self.done += to.bytes();
        (self.progress)(self.done as f32 / self.model.held.bytes() as f32);
        Ok(())
    }

    /// A tensor in a buffer of its own.
    fn one(&mut self, tag: Tag, from: &TensorShape, to: &TensorShape) -> Result<Buffer> {
        let mut buffer = self.ledger.buffer(tag, to.bytes() as usize)?;
        self.read(from, to, buffer.as_mut_slice())?;
        Ok(buffer)
    }

    /// The output norm and the rope divisors, which every placement holds on the device.
    fn small(&mut self) -> Result<Unit> {
        let Model { stored, held, .. } = self.model;
        let layout = UnitLayout::small(held);
        let mut buffer = self.ledger.buffer(rows::NORMS, layout.bytes)?;
        let from = std::iter::once(&stored.output_norm).chain(stored.rope_freqs.as_ref());
        let to = std::iter::once(&held.output_norm).chain(held.rope_freqs.as_ref());
        for ((from, to), at) in from.zip(to).zip(&layout.offsets) {
            self.read(from, to, &mut buffer.as_mut_slice::<u8>()[*at..*at + to.bytes() as usize])?;
        }
        Ok(Unit { buffer, layout })
    }

    /// The whole model: embedding, layers, head.
    fn whole(&mut self, tags: WholeTags) -> Result<Whole> {
        let Model { stored, held, .. } = self.model;
        let embedding = self.one(tags.embedding, &stored.embedding, &held.embedding)?;
        let mut layers = Vec::with_capacity(held.layers.len());
        for (l, (from, to)) in stored.layers.iter().zip(&held.layers).enumerate() {
            let layout = UnitLayout::layer(held, l);
            let mut buffer = self.ledger.buffer(tags.layers, layout.bytes)?;
            for ((f, t), at) in from.tensors.all().zip(to.tensors.all()).zip(&layout.offsets) {
                self.read(f, t, &mut buffer.as_mut_slice()[*at..*at + t.bytes() as usize])?;
            }
            layers.push(buffer);
        }
        let head = match (&stored.output, &held.output) {
            (Some(from), Some(to)) => Some(self.one(tags.head, from, to)?),
            _ => None,
        };
        Ok(Whole { embedding, layers, head })
    }
}
