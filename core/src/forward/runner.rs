//! The seam between a job and what computes for it: the CPU's forward pass or a GPU's, one code path above both.

use crate::error::Result;
use crate::forward::cpu::{BatchShape, Forward, PassObserver, Sequence, Workspace};
use crate::kv::Pipeline;
use crate::kv::cache::LayerCache;
use crate::ops::ThreadTeam;
use crate::ops::gpu::KernelTime;
use crate::shape::ModelShape;

/// A loaded model with its techniques, on some device. A GPU uses the team only for its cancel flag.
pub trait Runner {
    /// One layer of a sequence's cache.
    type Layer;
    /// The buffers of one stretch of computing.
    type Workspace;

    /// Types as held.
    fn shape(&self) -> &ModelShape;

    /// The cache's techniques.
    fn pipeline(&self) -> &Pipeline;

    /// The buffers of an extent.
    ///
    /// # Errors
    /// Over budget.
    fn workspace(&self, team: &ThreadTeam, e: BatchShape) -> Result<Self::Workspace>;

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
        workspace: &mut Self::Workspace,
        team: &ThreadTeam,
        watch: &mut dyn PassObserver,
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
        workspace: &mut Self::Workspace,
        team: &ThreadTeam,
        watch: &mut dyn PassObserver,
    ) -> Result<()>;

    /// One more token for each sequence; the logits of each are left in `room`.
    ///
    /// # Errors
    /// As [`Self::prefill`].
    fn decode(
        &mut self,
        seqs: &mut [Sequence<Self::Layer>],
        tokens: &[u32],
        workspace: &mut Self::Workspace,
        team: &ThreadTeam,
        watch: &mut dyn PassObserver,
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
    fn logits<'a>(&self, workspace: &'a Self::Workspace, i: usize) -> &'a [f32];

    /// Times every kernel from now on, on a device that has any.
    fn time_kernels(&self) {}

    /// Ends timing: what each kernel took, the longest first; none on a CPU.
    ///
    /// # Errors
    /// The driver's.
    fn kernel_times(&self) -> Result<Vec<KernelTime>> {
        Ok(Vec::new())
    }

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
    type Workspace = Workspace;

    fn shape(&self) -> &ModelShape {
        &self.shape
    }

    fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    fn workspace(&self, team: &ThreadTeam, e: BatchShape) -> Result<Workspace> {
        Self::workspace(self, team.threads(), e)
    }

    fn sequence(&self, prompt: usize) -> Result<Sequence> {
        Self::sequence(self, prompt)
    }

    fn prefill(
        &mut self,
        seq: &mut Sequence,
        tokens: &[u32],
        workspace: &mut Workspace,
        team: &ThreadTeam,
        watch: &mut dyn PassObserver,
    ) -> Result<()> {
        Self::prefill(self, seq, tokens, workspace, team, watch)
    }

    fn extend(
        &mut self,
        seq: &mut Sequence,
        tokens: &[u32],
        with_head: bool,
        workspace: &mut Workspace,
        team: &ThreadTeam,
        watch: &mut dyn PassObserver,
    ) -> Result<()> {
        Self::extend(self, seq, tokens, with_head, workspace, team, watch)
    }

    fn decode(
        &mut self,
        seqs: &mut [Sequence],
        tokens: &[u32],
        workspace: &mut Workspace,
        team: &ThreadTeam,
        watch: &mut dyn PassObserver,
    ) -> Result<()> {
        Self::decode(self, seqs, tokens, workspace, team, watch)
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

    fn logits<'a>(&self, workspace: &'a Workspace, i: usize) -> &'a [f32] {
        workspace.logits(i, self.shape.vocab)
    }
}
