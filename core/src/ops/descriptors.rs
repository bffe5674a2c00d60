//! What operations are told beside their tensors: the extent of an attention, a dropout mask, the scalars of an update.
//! Shared by every device, and above none.

/// Attention of a training batch: causal, inside each document.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Causal {
    /// Sequences of the batch; a batch has `sequences · length` tokens.
    pub sequences: usize,
    /// Tokens of a sequence.
    pub length: usize,
    /// Query heads: `q` and `o` are `(tokens, heads · dim)`.
    pub heads: usize,
    /// Key–value heads, a divisor of `heads`: `k` and `v` are `(tokens, kv_heads · dim)`.
    pub kv_heads: usize,
    /// Elements of a head, of queries, keys and values alike.
    pub dim: usize,
    /// Multiplied onto every score, usually `1 / √dim`.
    pub scale: f32,
    /// Tokens that each sees, itself the last of them; `None` for all of its document before it.
    pub window: Option<usize>,
    /// Scores go through `cap · tanh(x / cap)`, after their scale; `None` for as they are.
    pub cap: Option<f32>,
}

/// Which elements a dropout takes away: element `i` where word `i % 4` of Philox block `i / 4` of the stream is below
/// [`Self::threshold`]. A function of its fields alone, so a recomputed pass drops what the first one did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mask {
    /// The run's seed: the key of the generator.
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

/// The most likely entry of the vocabulary so far, of one row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Best {
    /// Its logit; −∞ before any was taken in.
    pub logit: f32,
    /// Its number in the vocabulary: the token's id.
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

/// Products of many small matrices: `c (batch, m, n) = a · b`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batched {
    /// Products.
    pub batch: usize,
    /// Rows of each result.
    pub m: usize,
    /// Columns of each result.
    pub n: usize,
    /// Terms of each sum: columns of `a`, rows of `b`.
    pub k: usize,
    /// `a` lies as `(batch, k, m)`.
    pub a_turned: bool,
    /// `b` lies as `(batch, n, k)`; not both.
    pub b_turned: bool,
}

/// The one number that a row becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// Its sum.
    Sum,
    /// Its mean.
    Mean,
    /// Its largest element.
    Max,
}

/// The windows of a convolution over `n` images `(channels, height, width)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Images of the batch.
    pub n: usize,
    /// Channels of an image.
    pub channels: usize,
    /// Rows of pixels.
    pub height: usize,
    /// Pixels of a row.
    pub width: usize,
    /// Pixels of a side of the window, which is square.
    pub kernel: usize,
    /// Pixels from one window to the next.
    pub stride: usize,
    /// Pixels of zeros at each side of the image.
    pub pad: usize,
}

impl Window {
    /// Whether a window fits into the padded image.
    pub fn fits(&self) -> bool {
        self.stride > 0 && self.kernel > 0 && self.kernel <= self.height.min(self.width) + 2 * self.pad
    }

    /// Windows down and across an image; asked only where [`Self::fits`].
    pub fn out(&self) -> (usize, usize) {
        let of = |side: usize| (side + 2 * self.pad - self.kernel) / self.stride + 1;
        (of(self.height), of(self.width))
    }

    /// Windows of all images: rows of the matrix they become.
    pub fn outputs(&self) -> usize {
        self.n * self.out().0 * self.out().1
    }

    /// Elements of a window: columns of that matrix.
    pub fn patch(&self) -> usize {
        self.channels * self.kernel * self.kernel
    }

    /// Elements of an image: `channels · height · width`.
    pub fn image(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// The element of all images that column `at` of row `row` shows; none beyond the edges.
    pub fn source(&self, row: usize, at: usize) -> Option<usize> {
        let ((high, wide), k) = (self.out(), self.kernel);
        let (image, channel) = (row / (high * wide), at / (k * k));
        let y = (row / wide % high * self.stride + at / k % k).checked_sub(self.pad).filter(|y| *y < self.height)?;
        let x = (row % wide * self.stride + at % k).checked_sub(self.pad).filter(|x| *x < self.width)?;
        Some(image * self.image() + (channel * self.height + y) * self.width + x)
    }
}
