//! Times of kernels by the driver's own events, one pair around each: no profiler is needed, and none is in the way when nobody asks.

use std::collections::BTreeMap;

use candle_core::cuda_backend::cudarc::driver::result::event;
use candle_core::cuda_backend::cudarc::driver::sys::{CUevent, CUevent_flags, CUstream};

use super::device::driver;
use super::launch::Kernels;
use crate::error::Result;
use crate::ops::gpu::KernelTime;

/// A kernel between its two events.
#[derive(Debug)]
pub(super) struct Timed {
    name: String,
    begin: CUevent,
    end: CUevent,
}

// SAFETY: events may be used from any thread; they are used by one at a time.
unsafe impl Send for Timed {}

impl Drop for Timed {
    fn drop(&mut self) {
        for event in [self.begin, self.end] {
            // SAFETY: made by `new`, destroyed once.
            let _ = unsafe { event::destroy(event) };
        }
    }
}

impl Timed {
    /// Marks the begin of a kernel on `stream`.
    fn new(name: String, stream: CUstream) -> Result<Self> {
        let make = || event::create(CUevent_flags::CU_EVENT_DEFAULT).map_err(driver("cannot make an event"));
        let timed = Self { name, begin: make()?, end: make()? };
        // SAFETY: event and stream are alive.
        unsafe { event::record(timed.begin, stream) }.map_err(driver("cannot time a kernel"))?;
        Ok(timed)
    }

    fn finish(&self, stream: CUstream) -> Result<()> {
        // SAFETY: event and stream are alive.
        unsafe { event::record(self.end, stream) }.map_err(driver("cannot time a kernel"))
    }

    fn milliseconds(&self) -> Result<f32> {
        // SAFETY: both were recorded on one stream that has been waited for.
        unsafe { event::elapsed(self.begin, self.end) }.map_err(driver("cannot read an event"))
    }
}

impl Kernels {
    /// Queues `work`, timed where somebody asked for times.
    pub(super) fn timed(&self, name: impl FnOnce() -> String, work: impl FnOnce() -> Result<()>) -> Result<()> {
        if self.times.borrow().is_none() {
            return work();
        }
        let stream = self.device.stream.cu_stream();
        let timed = Timed::new(name(), stream)?;
        work()?;
        timed.finish(stream)?;
        if let Some(times) = self.times.borrow_mut().as_mut() {
            times.push(timed);
        }
        Ok(())
    }

    /// Whether kernels are being timed.
    pub fn timing(&self) -> bool {
        self.times.borrow().is_some()
    }

    /// From now on every kernel is timed.
    pub fn time(&self) {
        *self.times.borrow_mut() = Some(Vec::new());
    }

    /// Ends timing: what each kernel took since, the longest first.
    ///
    /// # Errors
    /// [`Error::Device`] with what the driver says.
    pub fn times(&self) -> Result<Vec<KernelTime>> {
        self.device.wait()?;
        let timed = self.times.borrow_mut().take().unwrap_or_default();
        let mut by_name: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
        for t in &timed {
            let (calls, seconds) = by_name.entry(&t.name).or_default();
            *calls += 1;
            *seconds += f64::from(t.milliseconds()?) / 1e3;
        }
        let mut out: Vec<_> = by_name
            .into_iter()
            .map(|(name, (calls, seconds))| KernelTime { name: name.to_owned(), calls, seconds })
            .collect();
        out.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        Ok(out)
    }
}
