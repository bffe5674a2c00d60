//! The plan of `run.engine = candle`: the guest row, and what stands beside it.

use std::sync::Arc;

use super::{REFERENCE, Resolved, Times, Workload};
use crate::config::Config;
use crate::device::candle::GUEST;
use crate::error::Result;
use crate::ledger::{Category, Ledger, Phase, Tag};
use crate::model::sampling::{SAMPLER, SAMPLER_BYTES};
use crate::train::reader::candle_bound;

/// The ledger row of the logits that candle leaves, one row a sequence.
pub const LOGITS: Tag = Tag::device(Category::Logits, "logits");

/// Most tokens that are read at once: a prompt and what is decoded after it.
pub fn longest(workload: &Workload) -> usize {
    workload.passes.iter().map(|p| p.prompt + p.decode).max().unwrap_or(1).max(1)
}

/// As [`Resolved::walk`].
pub(super) fn walk(r: &Resolved, config: &Config, workload: &Workload, ledger: &Arc<Ledger>) -> Result<()> {
    let bound = candle_bound(&r.held, longest(workload), 1, r.threads)?;
    let mut held = vec![ledger.reserve(GUEST, bound)?];
    let (tier, vocab) = (config.cpu_tier(), r.held.vocab as u64);
    if config.run.sampling.temperature > 0.0 {
        held.push(ledger.reserve(Tag { tier, ..SAMPLER }, SAMPLER_BYTES as u64 * vocab)?);
    }
    let logits = |sequences: usize| ledger.reserve(Tag { tier, ..LOGITS }, 4 * vocab * sequences as u64);
    for (i, pass) in workload.passes.iter().enumerate() {
        // The first pass generates, the rest evaluate.
        if i == 1 && workload.reference {
            held.push(ledger.reserve(Tag { tier, ..REFERENCE }, 4 * vocab)?);
        }
        ledger.enter(Phase::Prefill);
        drop(logits(1)?);
        if pass.decode > 0 {
            ledger.enter(Phase::Decode);
            drop(logits(pass.sequences)?);
        }
    }
    Ok(())
}

/// The times of our own engine as those of one without a cache: every step reads all tokens before it again, from f32 weights.
pub(super) fn times(own: Times, r: &Resolved, workload: &Workload) -> Times {
    let Some(pass) = workload.passes.first().filter(|_| own.prefill_seconds > 0.0) else { return own };
    let depth = (pass.prompt + pass.decode / 2).max(1) as f64;
    Times {
        decode_tokens_per_second: own.prefill_tokens_per_second / depth,
        decode_bytes: 4 * r.held.parameters(),
        ..own
    }
}
