//! The seam between a job and what computes for it: the CPU's forward pass or a GPU's, one code path above both.

use super::forward::{Extent, Forward, Room, Sequence, Watch};
use super::shape::ModelShape;
use crate::error::Result;
use crate::kv::Pipeline;
use crate::kv::cache::LayerCache;
use crate::ops::Team;

/// A loaded model with its techniques, on some device. A GPU uses the team only for its cancel flag.
pub trait Runner {
    /// One layer of a sequence's cache.
    type Layer;
    /// The buffers of one stretch of computing.
    type Room;

    /// Types as held.
    fn shape(&self) -> &ModelShape;

    /// The cache's techniques.
    fn pipeline(&self) -> &Pipeline;

    /// The buffers of an extent.
    ///
    /// # Errors
    /// Over budget.
    fn room(&self, team: &Team, e: Extent) -> Result<Self::Room>;

    /// An empty sequence whose prompt will have `prompt` tokens.
    ///
    /// # Errors
    /// Over budget.
    fn sequence(&self, prompt: usize) -> Result<Sequence<Self::Layer>>;

    /// Reads a prompt into an empty sequence; the logits of its last token are left in `room`.
    ///
    /// # Errors
    /// Over budget, cancellation, or what reading weights may meet.
    fn prefill(
        &mut self,
        seq: &mut Sequence<Self::Layer>,
        tokens: &[u32],
        room: &mut Self::Room,
        team: &Team,
        watch: &mut dyn Watch,
    ) -> Result<()>;

    /// Appends tokens to a sequence that keeps every row they bring; `with_head` leaves the last one's logits in `room`.
    ///
    /// # Errors
    /// As [`Self::prefill`].
    fn extend(
        &mut self,
        seq: &mut Sequence<Self::Layer>,
        tokens: &[u32],
        with_head: bool,
        room: &mut Self::Room,
        team: &Team,
        watch: &mut dyn Watch,
    ) -> Result<()>;

    /// One more token for each sequence; the logits of each are left in `room`.
    ///
    /// # Errors
    /// As [`Self::prefill`].
    fn decode(
        &mut self,
        seqs: &mut [Sequence<Self::Layer>],
        tokens: &[u32],
        room: &mut Self::Room,
        team: &Team,
        watch: &mut dyn Watch,
    ) -> Result<()>;

    /// Copies sequence 0 into the others, which are empty.
    ///
    /// # Errors
    /// Over budget.
    fn fork(&self, seqs: &mut [Sequence<Self::Layer>]) -> Result<()>;

    /// Goes back to the first `seen` tokens of a sequence that kept every row; its room stays.
    fn truncate(&self, seq: &mut Sequence<Self::Layer>, seen: usize);

    /// Tells from now on what this query head of this layer looks at: `[layer, head]`. A device that cannot is not asked to
    /// (its check refuses).
    fn observe(&mut self, _head: Option<[usize; 2]>) {}

    /// Logits of sequence `i` that the last pass left, `(vocab)`.
    fn logits<'a>(&self, room: &'a Self::Room, i: usize) -> &'a [f32];

    /// Bytes by name that stand beside the budget: a driver's context, what its allocator says.
    ///
    /// # Errors
    /// The driver's.
    fn beside(&self) -> Result<Vec<(&'static str, u64)>> {
        Ok(Vec::new())
    }
}

impl Runner for Forward {
    type Layer = LayerCache;
    type Room = Room;

    fn shape(&self) -> &ModelShape {
        &self.shape
    }

    fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    fn room(&self, team: &Team, e: Extent) -> Result<Room> {
        Self::room(self, team.threads(), e)
    }

    fn sequence(&self, prompt: usize) -> Result<Sequence> {
        Self::sequence(self, prompt)
    }

    fn prefill(
        &mut self,
        seq: &mut Sequence,
        tokens: &[u32],
        room: &mut Room,
        team: &Team,
        watch: &mut dyn Watch,
    ) -> Result<()> {
        Self::prefill(self, seq, tokens, room, team, watch)
    }

    fn extend(
        &mut self,
        seq: &mut Sequence,
        tokens: &[u32],
        with_head: bool,
        room: &mut Room,
        team: &Team,
        watch: &mut dyn Watch,
    ) -> Result<()> {
        Self::extend(self, seq, tokens, with_head, room, team, watch)
    }

    fn decode(
        &mut self,
        seqs: &mut [Sequence],
        tokens: &[u32],
        room: &mut Room,
        team: &Team,
        watch: &mut dyn Watch,
    ) -> Result<()> {
        Self::decode(self, seqs, tokens, room, team, watch)
    }

    fn fork(&self, seqs: &mut [Sequence]) -> Result<()> {
        Self::fork(self, seqs)
    }

    fn truncate(&self, seq: &mut Sequence, seen: usize) {
        Self::truncate(self, seq, seen);
    }

    fn observe(&mut self, head: Option<[usize; 2]>) {
        Self::observe(self, head);
    }

    fn logits<'a>(&self, room: &'a Room, i: usize) -> &'a [f32] {
        room.logits(i, self.shape.vocab)
    }
}
