//! A step captured once and run again: one call to the driver in place of one a kernel.
//!
//! Nothing is allocated while capturing: what a step touches are buffers of the job, so the capped pool stays the only pool. The graph
//! itself is the driver's, and is counted beside the budget.

use candle_core::cuda_backend::cudarc::driver::result::{graph, stream};
use candle_core::cuda_backend::cudarc::driver::sys::{
    self, CUgraphExec, CUgraphInstantiate_flags, CUstreamCaptureMode,
};

use super::device::driver;
use super::launch::Kernels;
use crate::error::Result;

/// Kernels of one step, ready to be queued at once.
#[derive(Debug)]
pub struct Graph {
    exec: CUgraphExec,
    kernels: u64,
    /// Bytes of the card that it took outside the pool.
    outside: u64,
}

// SAFETY: a graph may be launched from any thread; it is used by one at a time, as it is not `Sync`.
unsafe impl Send for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: made by `capture` and destroyed once; a launch that still runs keeps what it needs.
        let _ = unsafe { sys::cuGraphExecDestroy(self.exec) };
    }
}

impl Graph {
    /// Bytes of the card that it takes outside the pool.
    pub fn outside(&self) -> u64 {
        self.outside
    }
}

impl Kernels {
    /// What `work` queues, as a graph; nothing of it runs. `work` has run before, so that every kernel is loaded.
    ///
    /// # Errors
    /// What `work` meets; the driver's.
    pub fn capture(&self, work: impl FnOnce() -> Result<()>) -> Result<Graph> {
        let stream = self.device.stream.cu_stream();
        let (before, used) = (self.launched(), self.device.used()?);
        // SAFETY: the stream is alive; only this thread queues on it.
        unsafe { stream::begin_capture(stream, CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL) }
            .map_err(driver("cannot capture a step"))?;
        let worked = work();
        // SAFETY: as above; a capture is ended even where `work` failed, or the stream would be of no use any more.
        let captured = unsafe { stream::end_capture(stream) }.map_err(driver("cannot capture a step"));
        let kernels = self.launched() - before;
        // Nothing ran so far.
        self.forget(kernels);
        worked?;
        let captured = captured?;
        // SAFETY: the graph is whole; what it was made of is not needed afterwards.
        let exec = unsafe { graph::instantiate(captured, CUgraphInstantiate_flags(0)) }
            .map_err(driver("cannot make a graph of a step"));
        // SAFETY: made above, destroyed once.
        let _ = unsafe { sys::cuGraphDestroy(captured) };
        Ok(Graph { exec: exec?, kernels, outside: self.device.used()?.saturating_sub(used) })
    }

    /// Queues a captured step.
    ///
    /// # Errors
    /// The driver's.
    pub fn replay(&self, graph: &Graph) -> Result<()> {
        self.replayed(graph.kernels);
        // SAFETY: graph and stream are alive, and so are the buffers of the step, which whoever keeps the graph keeps.
        unsafe { sys::cuGraphLaunch(graph.exec, self.device.stream.cu_stream()) }
            .result()
            .map_err(driver("cannot run a step"))
    }
}
