//! What a job held by accounts that are not the ledger's: the allocator's and the system's.

use crate::ledger::alloc;
use crate::machine::{reset_resident_peak, resident, rss_bytes};
use crate::report::protocol::Program;

/// Where the program stood when a job began to hold memory: with its words and its header, before the first buffer.
#[derive(Clone, Copy, Debug)]
pub struct Baseline {
    obtained: i64,
    resident: Option<u64>,
}

impl Baseline {
    /// Now; peaks begin anew. What the allocator only keeps goes back to the system first, so that it cannot hide what the job
    /// takes.
    pub fn here() -> Self {
        alloc::trim();
        alloc::reset_peaks();
        reset_resident_peak();
        Self { obtained: alloc::counts().obtained, resident: resident().map(|r| r.anonymous) }
    }

    /// What allocator and system say at the job's end of its whole course.
    pub fn program(self) -> Program {
        let heap = alloc::counts();
        let now = resident();
        let rss = now.map_or_else(|| rss_bytes().unwrap_or(0), |r| r.peak);
        let since = |peak: i64, start: i64| (peak - start).max(0) as u64;
        Program {
            engine_peak: heap.engine_peak.max(0) as u64,
            heap: heap.program_peak.max(0) as u64,
            rss,
            rest: rss as i64 - heap.obtained_peak,
            payload_peak: heap.payload_peak.max(0) as u64,
            escaped: heap.escaped,
            obtained: since(heap.obtained_peak, self.obtained),
            resident: now
                .zip(self.resident)
                .map(|(now, start)| now.peak.saturating_sub(now.files).saturating_sub(start)),
        }
    }
}
