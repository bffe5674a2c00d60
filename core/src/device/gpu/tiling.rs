//! How a GPU cuts a product to its scratch: arithmetic that the device follows and that costs are counted by.

use crate::blocks::BlockType;

/// Rows of an embedding in one launch.
pub const EMBED_ROWS: usize = 32768;

/// What the scratch of a GPU holds at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    /// The type that products are taken in: f32 or bf16.
    pub ty: BlockType,
    /// Bytes of the panel of decoded weights.
    pub panel: usize,
    /// Bytes of the stage of converted activations.
    pub stage: usize,
}

impl Tiling {
    /// Rows of activations `(m, cols)` stored as `ty` that go through at a time: all, or where they need converting, what share
    /// `1 / parts` of the stage holds.
    pub fn rows(&self, ty: BlockType, m: usize, cols: usize, parts: usize) -> usize {
        let room = self.stage / parts / (self.ty.block_bytes() * cols).max(1);
        if ty == self.ty { m.max(1) } else { room.clamp(1, m.max(1)) }
    }

    /// Elements of the panel.
    fn panel_elements(&self) -> usize {
        self.panel / self.ty.block_bytes()
    }

    /// Rows of a weight `(rows, cols)` stored as `ty` that the panel holds at a time; all where none is needed.
    pub fn weight_rows(&self, (ty, rows, cols): (BlockType, usize, usize)) -> usize {
        let all = rows.max(1);
        if ty == self.ty {
            return all;
        }
        even(all, (self.panel_elements() / cols.max(1)).clamp(1, all), 128)
    }

    /// Columns and rows of a weight that the panel holds at a time for a product from the left: all rows of some columns
    /// where it can, so that sums stay inside one product.
    pub fn weight_tile(&self, (ty, rows, cols): (BlockType, usize, usize)) -> (usize, usize) {
        let (mut wide, mut high) = (cols.max(1), rows.max(1));
        if ty != self.ty && wide * high > self.panel_elements() {
            let unit = ty.elems().max(8);
            wide = even(wide, (self.panel_elements() / high / unit * unit).max(256.max(unit).min(wide)), unit);
            high = (self.panel_elements() / wide).clamp(1, high);
        }
        (wide, high)
    }

    /// Parts that the stage is shared out in for two sides of these types.
    pub fn parts(&self, a: BlockType, b: BlockType) -> usize {
        if a != self.ty && b != self.ty { 2 } else { 1 }
    }

    /// Launches of `x (m, cols) · wᵀ`.
    pub fn linear(&self, (x, m): (BlockType, usize), w: (BlockType, usize, usize)) -> usize {
        let tiles = w.1.div_ceil(self.weight_rows(w));
        m.div_ceil(self.rows(x, m, w.2, 1)) * (self.converts(x) + tiles * (1 + self.converts(w.0)))
    }

    /// Launches of `dy (m, rows) · w`.
    pub fn linear_dx(&self, (dy, m): (BlockType, usize), w: (BlockType, usize, usize)) -> usize {
        let (wide, high) = self.weight_tile(w);
        let tiles = w.2.div_ceil(wide) * w.1.div_ceil(high);
        m.div_ceil(self.rows(dy, m, w.1, 1)) * (self.converts(dy) + tiles * (1 + self.converts(w.0)))
    }

    /// Launches of `dyᵀ (rows, m) · x (m, cols)`.
    pub fn linear_dw(&self, m: usize, (dy, rows): (BlockType, usize), (x, cols): (BlockType, usize)) -> usize {
        let parts = self.parts(dy, x);
        let step = self.rows(dy, m, rows, parts).min(self.rows(x, m, cols, parts));
        m.div_ceil(step) * (1 + self.converts(dy) + self.converts(x))
    }

    fn converts(&self, ty: BlockType) -> usize {
        usize::from(ty != self.ty)
    }
}

/// Spans whose squares are summed in one launch.
pub const NORMS: usize = 128;
/// Blocks of such a launch, each of which makes one partial sum.
pub const NORM_BLOCKS: usize = 1024;

/// Blocks that share the squares of `len` elements out: how many depends on these alone, so that sums do not depend on what else
/// there is.
pub fn norm_blocks(len: usize) -> usize {
    len.div_ceil(2048).clamp(1, NORM_BLOCKS)
}

/// Spans that go through one launch, in order: as many as [`NORMS`] and [`NORM_BLOCKS`] allow.
pub fn norm_launches(mut spans: &[(usize, usize)]) -> impl Iterator<Item = &[(usize, usize)]> {
    std::iter::from_fn(move || {
        let mut blocks = 0;
        let fits = |(_, len): &&(usize, usize)| {
            blocks += norm_blocks(*len);
            blocks <= NORM_BLOCKS
        };
        let n = spans.iter().take(NORMS).take_while(fits).count();
        let (now, rest) = spans.split_at(n);
        spans = rest;
        (n > 0).then_some(now)
    })
}

/// The size of pieces of `all`, at most `most`, that come out alike and in multiples of `unit` where they can.
fn even(all: usize, most: usize, unit: usize) -> usize {
    let pieces = all.div_ceil(most.max(1)).max(1);
    all.div_ceil(pieces).next_multiple_of(unit).min(most).max(1)
}
