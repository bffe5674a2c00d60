//! How the next token is chosen: greedy, or temperature then top-k, top-p, min-p, and one draw.

use std::sync::Arc;

use crate::config::Sampling;
use crate::error::Result;
use crate::ledger::{Buffer, Category, Ledger, Tag, Tier};
use crate::rng::Philox;

/// The ledger row of the sampler's candidate list.
pub const SAMPLER: Tag = Tag::device(Category::Workspace, "sampler");
/// Bytes of the sampler's candidate list for a token of the vocabulary: its id and its probability.
pub const SAMPLER_BYTES: usize = 8;

/// Chooses tokens. Draws are counter-based: (seed + sequence, step) alone decides, so a sequence's tokens do not depend on
/// the others beside it.
pub struct Sampler {
    how: Sampling,
    seed: u64,
    /// `(id, probability)` of the vocabulary; absent when greedy.
    candidates: Option<Buffer>,
}

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Candidate {
    id: u32,
    p: f32,
}

const _: () = assert!(size_of::<Candidate>() == SAMPLER_BYTES);

/// The most likely token; ties go to the lower id, and NaN is never chosen.
fn argmax(logits: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (i, v) in logits.iter().enumerate() {
        if *v > best.1 {
            best = (i as u32, *v);
        }
    }
    best.0
}

impl Sampler {
    /// A sampler for a vocabulary of `vocab`, whose memory counts in `tier`.
    ///
    /// # Errors
    /// Over budget.
    pub fn new(how: &Sampling, seed: u64, vocab: usize, tier: Tier, ledger: &Arc<Ledger>) -> Result<Self> {
        let candidates = match how.temperature > 0.0 {
            true => Some(ledger.buffer(Tag { tier, ..SAMPLER }, SAMPLER_BYTES * vocab)?),
            false => None,
        };
        Ok(Self { how: how.clone(), seed, candidates })
    }

    /// The most likely token; ties go to the lower id, and NaN is never chosen.
    pub fn greedy(logits: &[f32]) -> u32 {
        argmax(logits)
    }

    /// The token that follows `logits`, `(vocab)`, at `step` of `sequence`.
    pub fn choose(&mut self, logits: &[f32], sequence: usize, step: usize) -> u32 {
        let Some(buffer) = &mut self.candidates else { return argmax(logits) };
        let all = buffer.as_mut_slice::<Candidate>();
        let mut n = 0;
        for (id, logit) in logits.iter().enumerate() {
            if logit.is_finite() {
                all[n] = Candidate { id: id as u32, p: logit / self.how.temperature };
                n += 1;
            }
        }
        if n == 0 {
            return argmax(logits);
        }
        let mut kept = &mut all[..n];
        let order = |a: &Candidate, b: &Candidate| b.p.total_cmp(&a.p).then(a.id.cmp(&b.id));
        if self.how.top_k > 0 && self.how.top_k < kept.len() {
            kept.select_nth_unstable_by(self.how.top_k - 1, order);
            kept = &mut kept[..self.how.top_k];
        }
        kept.sort_unstable_by(order);
        let top = kept[0].p;
        let mut sum = 0.0;
        for c in kept.iter_mut() {
            c.p = (c.p - top).exp();
            sum += c.p;
        }
        let mut end = kept.len();
        if self.how.top_p < 1.0 {
            let mut mass = 0.0;
            for (i, c) in kept.iter().enumerate() {
                mass += c.p / sum;
                if mass >= self.how.top_p {
                    end = i + 1;
                    break;
                }
            }
        }
        // The most likely has p = 1 here, so min_p compares directly.
        end = kept[..end].iter().take_while(|c| c.p >= self.how.min_p).count().max(1);
        let kept = &kept[..end];
        let total: f32 = kept.iter().map(|c| c.p).sum();
        let mut left = Philox::new(self.seed.wrapping_add(sequence as u64)).uniform(step as u64) * total;
        for c in kept {
            left -= c.p;
            if left < 0.0 {
                return c.id;
            }
        }
        kept[kept.len() - 1].id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(how: Sampling) -> Sampler {
        Sampler::new(&how, 7, 8, Tier::Device, &Ledger::new(u64::MAX, 0, 0)).unwrap()
    }

    const LOGITS: [f32; 8] = [0.0, 3.0, 2.0, f32::NEG_INFINITY, 1.0, 2.5, -1.0, f32::NAN];

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        let mut s = sampler(Sampling::default());
        assert_eq!(s.choose(&LOGITS, 0, 0), 1);
        assert_eq!(s.choose(&[1.0, 1.0], 0, 0), 0);
        assert_eq!(s.choose(&[f32::NAN; 3], 0, 0), 0);
    }

    #[test]
    fn filters_bound_what_can_be_drawn() {
        let base = Sampling { temperature: 1.0, ..Sampling::default() };
        let drawn = |how: Sampling| {
            let mut s = sampler(how);
            let mut seen: Vec<u32> = (0..400).map(|step| s.choose(&LOGITS, 0, step)).collect();
            seen.sort_unstable();
            seen.dedup();
            seen
        };
        assert_eq!(drawn(Sampling { top_k: 2, ..base.clone() }), [1, 5]);
        assert_eq!(drawn(Sampling { top_k: 1, ..base.clone() }), [1]);
        assert_eq!(drawn(Sampling { top_p: 0.01, ..base.clone() }), [1]);
        assert_eq!(drawn(Sampling { min_p: 0.5, ..base.clone() }), [1, 5]);
        let all = drawn(base);
        assert!(all.len() >= 5 && !all.contains(&3) && !all.contains(&7), "{all:?}");
    }

    #[test]
    fn draws_follow_the_probabilities_and_the_seed() {
        let how = Sampling { temperature: 1.0, ..Sampling::default() };
        let (mut a, mut b) = (sampler(how.clone()), sampler(how));
        let logits = [0.0, 2f32.ln()];
        let draws: Vec<u32> = (0..3000).map(|step| a.choose(&logits, 0, step)).collect();
        assert_eq!(draws, (0..3000).map(|step| b.choose(&logits, 0, step)).collect::<Vec<_>>());
        let ones = draws.iter().filter(|id| **id == 1).count() as f64 / 3000.0;
        // Two thirds, give or take five standard deviations of 3000 draws.
        assert!((ones - 2.0 / 3.0).abs() < 5.0 * (2.0f64 / 9.0 / 3000.0).sqrt(), "{ones}");
    }
}
