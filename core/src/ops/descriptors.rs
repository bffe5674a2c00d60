//! What operations are told beside their tensors: the extent of an attention, a dropout mask, the scalars of an update.
//! Shared by every device, and above none.

/// Attention of a training batch: causal, inside each document.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Causal {
    /// Sequences of the batch.
    pub sequences: usize,
    /// Tokens of each.
    pub length: usize,
    /// Query heads.
    pub heads: usize,
    /// Key–value heads; divides `heads`.
    pub kv_heads: usize,
    /// Elements of a head.
    pub dim: usize,
    /// Multiplied onto every score, usually `1 / √dim`.
    pub scale: f32,
    /// Tokens that each sees, itself the last of them; `None` for all of its document before it.
    pub window: Option<usize>,
}

/// Which elements a dropout takes away: element `i` where word `i % 4` of Philox block `i / 4` of the stream is below
/// [`Self::threshold`]. A function of its fields alone, so a recomputed pass drops what the first one did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mask {
    /// Key of the generator.
    pub seed: u64,
    /// Of this adapter in this micro-batch.
    pub stream: u64,
    /// Chance of an element to go; below 1.
    pub rate: f32,
}

impl Mask {
    /// Words below this drop their element.
    pub fn threshold(self) -> u32 {
        (f64::from(self.rate) * 4_294_967_296.0) as u32
    }

    /// What the elements that stay are multiplied by, so that the expectation stays: `1 / (1 − rate)`.
    pub fn scale(self) -> f32 {
        1.0 / (1.0 - self.rate)
    }
}

/// One AdamW step of one parameter; all scalars in f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second.
    pub beta2: f32,
    /// Added to the root.
    pub eps: f32,
    /// Decoupled weight decay λ.
    pub weight_decay: f32,
    /// `1 − β1^t`.
    pub correction1: f32,
    /// `1 − β2^t`.
    pub correction2: f32,
    /// Multiplied onto every gradient first: clipping.
    pub scale: f32,
    /// Each scaled gradient is clamped to ± this; infinity for none.
    pub clamp: f32,
}

/// One SGD step of one parameter: `g ← clamp(scale · g) + λp`, `u ← μu + g`, `p ← p − lr · (nesterov ? g + μu : u)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// Learning rate of this step.
    pub lr: f32,
    /// Momentum μ; 0 needs no buffer.
    pub momentum: f32,
    /// Look ahead.
    pub nesterov: bool,
    /// Weight decay λ (coupled, as in PyTorch).
    pub weight_decay: f32,
    /// Multiplied onto every gradient first: clipping.
    pub scale: f32,
    /// Each scaled gradient is clamped to ± this; infinity for none.
    pub clamp: f32,
}

/// The most likely entry of the vocabulary so far, of one row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Best {
    /// Its logit.
    pub logit: f32,
    /// Which.
    pub id: u32,
}

impl Default for Best {
    fn default() -> Self {
        Self { logit: f32::NEG_INFINITY, id: 0 }
    }
}

impl Best {
    /// Takes in `logits` of the entries from `first` on: as choosing greedily does, ties to the lower entry and never NaN.
    pub fn take(&mut self, logits: &[f32], first: usize) {
        for (i, logit) in logits.iter().enumerate() {
            if *logit > self.logit {
                *self = Self { logit: *logit, id: (first + i) as u32 };
            }
        }
    }
}

/// A target that is no target: padding, a prompt whose loss is not wanted, the last token of a document.
pub const NO_LOSS: u32 = u32::MAX;
