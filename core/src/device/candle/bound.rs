//! How much candle will hold at most: a pass over this device, which computes nothing, adds up the f32 copies that are alive
//! and what each operation makes beside them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::blocks::{BlockType, Scheme};
use crate::device::op::{Kind, sides};
use crate::device::{Buf, Cost, Device, Dst, Meter, Op, Src};
use crate::error::Result;
use crate::ledger::Tag;
use crate::model::Source;
use crate::shape::TensorShape;

/// What each of candle's threads keeps for its products: the size of its share of the second-level cache, with a margin.
const SLAB: u64 = 4 << 20;
/// Pieces of a file while it is decoded, and bookkeeping.
const PIECES: u64 = 4 << 20;

/// Bytes that candle may make while it carries out `op`, beside the operands. Every call makes a new tensor, and those of one
/// statement live until its end: no operation has more than three times its operands at once, but where a case says so.
pub fn temporaries(op: &Op<'_>) -> u64 {
    if let Op::SquaredNorms { spans, .. } = op {
        // One span after the other.
        let longest = spans.iter().map(|(_, len)| *len as u64).max().unwrap_or(0);
        return 4 * (3 * longest + 2 * spans.len() as u64);
    }
    let mut elements = 0u64;
    op.operands(&mut |o| {
        if o.kind != Kind::Stored {
            elements += o.len as u64;
        }
    });
    // Products pack their right side, whole panels of it.
    let packed = |rows: usize, cols: usize| (rows as u64 + 64) * (cols as u64 + 64);
    let more = match op {
        Op::Linear { w, .. } | Op::LinearDx { w, .. } => packed(w.rows, w.cols),
        // The low-rank product is formed.
        Op::RowNorms { w, .. } => 4 * (w.rows * w.cols) as u64,
        Op::LinearDw { rows, cols, m, .. } => packed(*rows, *m) + packed(*cols, *m),
        // The whole of what is written to is made anew.
        Op::Scatter { n, cols, y, .. } => 2 * y.buf.len() as u64 + 3 * (n * cols) as u64,
        Op::EmbedVjp { rows, cols, .. } => (rows * cols) as u64,
        // A value a node of the expression, some dozens at most, of which those with names stay.
        Op::Elementwise { len, .. } => 8 * *len as u64,
        Op::Rope { m, heads, dim, table, .. } => (6 * m * heads * dim + 8 * m * table.half) as u64,
        Op::CrossEntropyVjp { m, n, .. } => 4 * (m * n) as u64,
        // Values and numbers, and what a stable sort keeps beside them.
        Op::Order { n, .. } => 2 * *n as u64,
        Op::Attention { of, .. } | Op::AttentionVjp { of, .. } => {
            let pairs = (of.sequences * of.length * of.length) as u64;
            let (m, wide, narrow) = sides(*of);
            5 * of.heads as u64 * pairs + 3 * pairs + packed(m, wide) + packed(m, narrow)
        }
        _ => 0,
    };
    4 * (3 * elements + more)
}

/// Computes nothing and adds up in an account.
#[derive(Default)]
pub struct Bound {
    account: Arc<Account>,
    meter: Meter,
}

/// What would be alive, and the most that ever was.
#[derive(Debug, Default)]
pub struct Account {
    held: AtomicU64,
    most: AtomicU64,
}

impl Account {
    /// Bytes of the guest row for candle on `threads` threads.
    pub fn bytes(&self, threads: usize) -> u64 {
        self.most.load(Relaxed) + SLAB * threads as u64 + PIECES
    }

    fn raise(&self, more: u64) {
        self.most.fetch_max(self.held.load(Relaxed) + more, Relaxed);
    }
}

/// A tensor that would be alive.
struct Alive {
    account: Arc<Account>,
    bytes: u64,
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.account.held.fetch_sub(self.bytes, Relaxed);
    }
}

impl Bound {
    /// Where bytes held now and at most add up.
    pub fn account(&self) -> Arc<Account> {
        Arc::clone(&self.account)
    }
}

impl Device for Bound {
    fn buffer(&self, _: Tag, ty: BlockType, len: usize) -> Result<Buf> {
        let bytes = 4 * len.max(1) as u64;
        self.account.held.fetch_add(bytes, Relaxed);
        self.account.raise(0);
        Ok(Buf::new(ty, len, Alive { account: Arc::clone(&self.account), bytes }))
    }

    fn tensor(&self, tag: Tag, t: &TensorShape) -> Result<Buf> {
        self.buffer(tag, BlockType::F32, t.rows * t.cols)
    }

    fn upload(&self, from: &[u8], _: Dst<'_>) -> Result<()> {
        self.account.raise(2 * from.len() as u64);
        Ok(())
    }

    fn download(&self, _: Src<'_>, to: &mut [u8]) -> Result<()> {
        self.account.raise(to.len() as u64);
        to.fill(0);
        Ok(())
    }

    fn load(&self, _: &Source, _: &TensorShape, _: &TensorShape, _: &mut Buf) -> Result<()> {
        Ok(())
    }

    fn reserve_load(&self, from: &TensorShape, to: &TensorShape, _: usize) -> Result<()> {
        if let Scheme::Packed(scheme) = to.ty {
            // Such a payload is whole before any of it can be decoded.
            self.account.raise(to.bytes() + (from.rows * scheme.row(from.cols).1) as u64);
        }
        Ok(())
    }

    fn wait(&self) -> Result<()> {
        Ok(())
    }

    fn meter(&self) -> &Meter {
        &self.meter
    }

    fn execute(&self, op: Op<'_>, _: &Cost) -> Result<()> {
        self.account.raise(temporaries(&op));
        Ok(())
    }
}
