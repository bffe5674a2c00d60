//! The dry device: reserves what another would hold, adds up how long another would take, and computes nothing. A plan is a
//! training step on it.

use std::cell::Cell;
use std::sync::Arc;

use crate::blocks::BlockType;
use crate::device::cpu::{self, SCRATCH};
use crate::device::gpu::tiling::Tiling;
use crate::device::gpu::{self, Precision};
use crate::device::{Buf, Cost, Device, Dst, Lowering, Meter, Op, Sizes, Spent, Src, buffer_bytes};
use crate::error::Result;
use crate::ledger::{Ledger, Phase, Reservation, Tag, Tier};
use crate::model::Source;
use crate::ops::KernelTimes;
use crate::ops::cpu::basis::decomposition_bytes;
use crate::shape::TensorShape;

/// What a machine does in a second.
#[derive(Clone, Debug, PartialEq)]
pub struct Rates {
    /// Operations on the type that products are taken in.
    pub flops: f64,
    /// Bytes of memory read or written.
    pub bytes: f64,
    /// Seconds an operation takes however small it is.
    pub launch: f64,
    /// What each kind of kernel takes, where that was timed: then it is counted instead.
    pub kernels: Option<KernelTimes>,
}

/// A device that reserves what another would hold, adds up what operations would take, and computes nothing.
pub struct Dry {
    ledger: Arc<Ledger>,
    load: usize,
    /// Of a GPU; the CPU's when absent.
    tiling: Option<Tiling>,
    rates: Option<Rates>,
    spent: Cell<Spent>,
    /// What each operation stands for.
    times: Cell<f64>,
    meter: Meter,
    _scratch: Vec<Reservation>,
}

impl Dry {
    /// A device whose ops need `scratch` bytes, and whose loading needs `load` where types differ.
    ///
    /// # Errors
    /// [`crate::Error::OverBudget`] when `ledger` has a budget, and no room in it.
    pub fn new(ledger: &Arc<Ledger>, scratch: usize, load: usize) -> Result<Self> {
        let scratch = vec![ledger.reserve(SCRATCH, scratch as u64)?];
        Ok(Self::of(ledger, load, None, scratch))
    }

    /// A GPU of that precision, whose largest calls are `sizes`.
    ///
    /// # Errors
    /// [`crate::Error::OverBudget`] when `ledger` has a budget, and no room in it.
    pub fn gpu(ledger: &Arc<Ledger>, sizes: &Sizes, precision: Precision) -> Result<Self> {
        let reserve = |(tag, bytes): (Tag, usize)| ledger.reserve(tag, bytes as u64);
        let all = gpu::scratch(sizes, precision).into_iter().chain(gpu::host_scratch(sizes));
        let scratch = all.map(reserve).collect::<Result<_>>()?;
        Ok(Self::of(ledger, sizes.load, Some(gpu::tiling(sizes, precision)), scratch))
    }

    fn of(ledger: &Arc<Ledger>, load: usize, tiling: Option<Tiling>, scratch: Vec<Reservation>) -> Self {
        let (ledger, spent, meter) = (Arc::clone(ledger), Cell::default(), Meter::default());
        Self { ledger, load, tiling, rates: None, spent, times: Cell::new(1.0), meter, _scratch: scratch }
    }

    /// The same device on a machine of these rates, so that it knows how long a step takes.
    pub fn timed(self, rates: Option<Rates>) -> Self {
        Self { rates, ..self }
    }

    /// What its kernel takes where that was timed; otherwise the roofline of one operation: the longer of its arithmetic and
    /// its memory, and what launching it takes.
    fn seconds(&self, op: &Op<'_>, cost: &Cost) -> f64 {
        self.rates.as_ref().map_or(0.0, |r| {
            if let Some(times) = &r.kernels {
                return op.seconds(cost, times, self.ledger.held(Tier::Device) as f64);
            }
            let moved = (cost.read + cost.written) as f64;
            cost.converted as f64 / r.bytes
                + (cost.flops / r.flops).max(moved / r.bytes)
                + cost.launches as f64 * r.launch
        })
    }
}

impl Dry {
    fn spend(&self, seconds: f64) {
        let (seconds, mut spent) = (seconds * self.times.get(), self.spent.get());
        // Norms and updates come once a step, however many micro-batches it has.
        match self.ledger.phase() {
            Phase::Update => spent.update += seconds,
            _ => spent.pass += seconds,
        }
        self.spent.set(spent);
    }
}

impl Device for Dry {
    fn activations(&self) -> BlockType {
        self.tiling.map_or(BlockType::F32, |t| t.ty)
    }

    fn buffer(&self, tag: Tag, ty: BlockType, len: usize) -> Result<Buf> {
        let cleared = self.rates.as_ref().and_then(|r| r.kernels.as_ref()).map_or(0.0, |k| k.cleared);
        self.spend(cleared * buffer_bytes(ty, len) as f64);
        Ok(Buf::new(ty, len, self.ledger.reserve(tag, buffer_bytes(ty, len) as u64)?))
    }

    fn upload(&self, _: &[u8], _: Dst<'_>) -> Result<()> {
        Ok(())
    }

    fn download(&self, _: Src<'_>, to: &mut [u8]) -> Result<()> {
        to.fill(0);
        Ok(())
    }

    fn load(&self, _: &Source, from: &TensorShape, to: &TensorShape, _: &mut Buf) -> Result<()> {
        self.reserve_load(from, to, self.load)?;
        self.ledger.moved("disk read", from.bytes());
        Ok(())
    }

    fn reserve_load(&self, from: &TensorShape, to: &TensorShape, load: usize) -> Result<()> {
        let reserve = |(tag, bytes): (Tag, usize)| self.ledger.reserve(tag, bytes as u64);
        if self.tiling.is_some() {
            gpu::load_scratch(from, to, load).into_iter().map(reserve).collect::<Result<Vec<_>>>()?;
        } else if from.ty != to.ty {
            drop(reserve((crate::weights::load::SCRATCH, load))?);
        }
        Ok(())
    }

    fn wait(&self) -> Result<()> {
        Ok(())
    }

    fn planned(&self) -> bool {
        true
    }

    fn weigh(&self, times: usize) {
        self.times.set(times as f64);
    }

    fn spent(&self) -> Spent {
        self.spent.get()
    }

    fn meter(&self) -> &Meter {
        &self.meter
    }

    fn lowering(&self) -> Lowering {
        self.tiling.map_or(Lowering::Direct, Lowering::Tiled)
    }

    fn execute(&self, op: Op<'_>, cost: &Cost) -> Result<()> {
        if let Op::LeadingVectors { rows, .. } = op {
            let tag = if self.tiling.is_some() { gpu::DECOMPOSITION } else { cpu::DECOMPOSITION };
            drop(self.ledger.reserve(tag, decomposition_bytes(rows) as u64)?);
        }
        self.spend(self.seconds(&op, cost));
        Ok(())
    }
}
