//! place: which tier holds what, and how it gets to where it is computed.

mod kv_resident;
mod resident;
mod split;
mod stream;

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::ledger::{Buffer, Category, Ledger, Reservation, Tag};
use crate::model::Source;
use crate::ops::ThreadTeam;
use crate::ops::cpu::Mat;
use crate::schema::Entry;
use crate::shape::{ModelShape, TensorShape};
use crate::weights::load;
use crate::weights::units::{LayerView, Unit, UnitLayout};

/// The variants of place.weights.
pub const ENTRIES: &[&Entry<dyn Placement>] = &[&resident::ENTRY, &stream::ENTRY, &split::ENTRY];

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

    /// True when some matrix changes type on the way in.
    pub fn converts(&self) -> bool {
        self.stored.tensors().zip(self.held.tensors()).any(|(a, b)| a.rows > 1 && a.ty != b.ty)
    }
}

/// What one buffer of a placement holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// The output norm and the rope divisors.
    Small,
    /// The embedding, which may be the head as well.
    Embedding,
    /// The tensors of a layer.
    Layer(usize),
    /// The head.
    Head,
    /// Nothing of its own: what passes on its way from a slower tier. Taken once everything is loaded.
    Passing,
}

/// One buffer of a placement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its ledger row, which names the tier.
    pub tag: Tag,
    /// What it holds.
    pub content: Content,
    /// Its bytes.
    pub bytes: u64,
}

impl Part {
    /// The buffer of `content` as `held` has it, under `tag`.
    fn of(held: &ModelShape, tag: Tag, content: Content) -> Self {
        let bytes = match content {
            Content::Small => UnitLayout::small(held).bytes as u64,
            Content::Embedding => held.embedding.bytes(),
            Content::Layer(l) => UnitLayout::layer(held, l).bytes as u64,
            Content::Head => held.head().bytes(),
            Content::Passing => 0,
        };
        Self { tag, content, bytes }
    }

    /// The whole model but its small tensors, each buffer under the row that `tag` gives.
    fn whole(held: &ModelShape, tag: impl Fn(Content) -> Tag) -> impl Iterator<Item = Self> {
        let layers = (0..held.layers.len()).map(Content::Layer);
        std::iter::once(Content::Embedding)
            .chain(layers)
            .chain(held.output.as_ref().map(|_| Content::Head))
            .map(move |content| Self::of(held, tag(content), content))
    }
}

/// place.weights: a technique that decides where weights live.
pub trait Placement: Send + Sync {
    /// The buffers that [`Self::load`] takes for as long as the model is there, in its order.
    ///
    /// # Errors
    /// A combination that cannot work.
    fn parts(&self, held: &ModelShape) -> Result<Vec<Part>>;

    /// Reserves on `ledger` what [`Self::load`] will hold, in the same order, and leaves in `held` what stays.
    ///
    /// # Errors
    /// Over budget, where `ledger` has walls; as [`Self::parts`].
    fn plan(&self, model: Model<'_>, ledger: &Arc<Ledger>, held: &mut Vec<Reservation>) -> Result<()> {
        let mut scratch = Some(ledger.reserve(load::SCRATCH, model.scratch() as u64)?);
        for part in self.parts(model.held)? {
            if part.content == Content::Passing {
                scratch = None;
            }
            held.push(ledger.reserve(part.tag, part.bytes)?);
        }
        drop(scratch);
        Ok(())
    }

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

/// Every weight of a model but the small ones: what is resident, or waits to be streamed.
struct Whole {
    embedding: Buffer,
    /// One buffer a layer, laid out as [`UnitLayout::layer`] says.
    layers: Vec<Buffer>,
    /// None when the head is the embedding.
    head: Option<Buffer>,
}

impl Whole {
    /// Rows `ids` of the embedding, whose shape is `t`, decoded.
    fn embed(&self, t: &TensorShape, ids: &[u32], out: &mut [f32]) -> Result<()> {
        let table = Mat::new(t.ty, t.rows, t.cols, self.embedding.as_slice())?;
        ids.iter().zip(out.chunks_exact_mut(t.cols)).try_for_each(|(id, out)| table.decode(*id as usize, 0, out))
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

    /// The whole model in the buffers of `parts`.
    fn whole(&mut self, parts: &[Part]) -> Result<Whole> {
        let Model { stored, held, .. } = self.model;
        let (mut embedding, mut layers, mut head) = (None, Vec::with_capacity(held.layers.len()), None);
        for Part { tag, content, .. } in parts.iter().copied() {
            match content {
                Content::Small | Content::Passing => {}
                Content::Embedding => embedding = Some(self.one(tag, &stored.embedding, &held.embedding)?),
                Content::Layer(l) => layers.push(self.layer(tag, l)?),
                Content::Head => head = Some(self.one(tag, stored.head(), held.head())?),
            }
        }
        let embedding = embedding.ok_or_else(|| Error::Internal("a placement without an embedding".into()))?;
        Ok(Whole { embedding, layers, head })
    }

    /// Layer `l` in a buffer of its own.
    fn layer(&mut self, tag: Tag, l: usize) -> Result<Buffer> {
        let Model { stored, held, .. } = self.model;
        let layout = UnitLayout::layer(held, l);
        let mut buffer = self.ledger.buffer(tag, layout.bytes)?;
        let pairs = stored.layers[l].tensors.all().zip(held.layers[l].tensors.all());
        for ((from, to), at) in pairs.zip(&layout.offsets) {
            self.read(from, to, &mut buffer.as_mut_slice()[*at..*at + to.bytes() as usize])?;
        }
        Ok(buffer)
    }
}

/// A model whose every weight lies where it is computed with.
struct Loaded {
    shape: ModelShape,
    small: Unit,
    whole: Whole,
    offsets: Vec<Vec<usize>>,
}

impl Loaded {
    /// Loads the buffers of `parts`.
    ///
    /// # Errors
    /// Over budget, a damaged file, cancellation.
    fn load(
        parts: &[Part],
        source: &Source,
        model: Model<'_>,
        ledger: &Arc<Ledger>,
        team: &ThreadTeam,
        progress: &mut dyn FnMut(f32),
    ) -> Result<Box<dyn WeightSource>> {
        let mut loader = Loader::new(source, model, ledger, team, progress)?;
        let (small, whole) = (loader.small()?, loader.whole(parts)?);
        let offsets = (0..model.held.layers.len()).map(|l| UnitLayout::layer(model.held, l).offsets).collect();
        Ok(Box::new(Self { shape: model.held.clone(), small, whole, offsets }))
    }
}

impl WeightSource for Loaded {
    fn layer(&mut self, l: usize) -> Result<LayerView<'_>> {
        let tensors = &self.shape.layers[l].tensors;
        Ok(LayerView { data: self.whole.layers[l].as_slice(), offsets: &self.offsets[l], tensors })
    }

    fn embed(&mut self, ids: &[u32], out: &mut [f32]) -> Result<()> {
        self.whole.embed(&self.shape.embedding, ids, out)
    }

    fn output_norm(&self) -> &[f32] {
        self.small.vector(0, &self.shape.output_norm)
    }

    fn rope_freqs(&self) -> Option<&[f32]> {
        self.shape.rope_freqs.as_ref().map(|t| self.small.vector(1, t))
    }

    fn head_pieces(&self) -> usize {
        1
    }

    fn head(&mut self, _i: usize) -> Result<(usize, Mat<'_>)> {
        let t = self.shape.head();
        Ok((0, Mat::new(t.ty, t.rows, t.cols, self.whole.head())?))
    }
}
