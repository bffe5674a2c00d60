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

/// Chooses tokens. Draws are counter-based: seed, sequence and step alone decide, each sequence being a stream of its own, so
/// its tokens do not depend on the others beside it, and are those of no other seed.
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
    // The largest first, in lanes side by side, and then where it stands: one pass that knows both is several times as long.
    let (chunks, rest) = logits.as_chunks::<16>();
    let mut lanes = [f32::NEG_INFINITY; 16];
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(best, v)| *best = if *v > *best { *v } else { *best });
    }
    let best = lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |best, v| if *v > best { *v } else { best });
    logits.iter().position(|v| *v == best).filter(|_| best > f32::NEG_INFINITY).unwrap_or(0) as u32
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
        let first = argmax(logits);
        let top = logits.get(first as usize).copied().unwrap_or(f32::NAN);
        let all = buffer.as_mut_slice::<Candidate>();
        let mut n = 0;
        for (id, logit) in logits.iter().enumerate() {
            if *logit > f32::NEG_INFINITY {
                // How far below the best, and then divided: the best stays at 0 however small the temperature, and what
                // overflows is below it. Infinite logits have no distance; those at the top are as likely as each other.
                let below = if *logit == top { 0.0 } else { (logit - top) / self.how.temperature };
                all[n] = Candidate { id: id as u32, p: below };
                n += 1;
            }
        }
        if n == 0 {
            return first;
        }
        let mut kept = &mut all[..n];
        let order = |a: &Candidate, b: &Candidate| b.p.total_cmp(&a.p).then(a.id.cmp(&b.id));
        if self.how.top_k > 0 && self.how.top_k < kept.len() {
            kept.select_nth_unstable_by(self.how.top_k - 1, order);
            kept = &mut kept[..self.how.top_k];
        }
        kept.sort_unstable_by(order);
        let mut sum = 0.0;
        for c in kept.iter_mut() {
            c.p = c.p.exp();
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
        let mut left = Philox::new(self.seed).stream(sequence as u64).uniform(step as u64) * total;
        for c in kept {
            left -= c.p;
            if left < 0.0 {
                return c.id;
            }
        }
        // Rounding left something over: it falls to the last that can be drawn at all.
        kept.iter().rfind(|c| c.p > 0.0).map_or(first, |c| c.id)
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
        assert_eq!(s.choose(&[f32::NEG_INFINITY; 40], 0, 0), 0);
        // Wherever it stands among the lanes, before another like it, beside what is no number.
        for at in 0..67 {
            let mut many = vec![-5.0; 68];
            (many[at], many[67], many[(at + 16) % 67]) = (2.0, 2.0, f32::NAN);
            assert_eq!(s.choose(&many, 0, 0), at as u32);
        }
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
    fn a_temperature_near_zero_takes_the_most_likely_token() {
        let subnormal = f32::from_bits(1);
        let rows: [&[f32]; 6] = [
            &LOGITS,
            &[-5.0, -4.0, -4.5],
            &[f32::NEG_INFINITY, -2.0, f32::NEG_INFINITY],
            &[1e9, f32::INFINITY, f32::NAN, 3.0],
            &[-3e38, 3e38, f32::NEG_INFINITY],
            &[0.0, f32::MIN_POSITIVE * 1e6, -1.0],
        ];
        for temperature in [1e-30, 1e-38, f32::MIN_POSITIVE, f32::MIN_POSITIVE / 3.0, subnormal] {
            for (top_k, top_p, min_p) in [(0, 1.0, 0.0), (2, 1.0, 0.0), (0, 0.9, 0.0), (0, 1.0, 0.1)] {
                let how = Sampling { temperature, top_k, top_p, min_p };
                let mut s = sampler(how.clone());
                for row in rows {
                    // The sixth is decided by less than the largest of these temperatures.
                    if row[1] > 0.0 && row[1] < 1e-30 && temperature > f32::MIN_POSITIVE {
                        continue;
                    }
                    for step in 0..50 {
                        assert_eq!(s.choose(row, 0, step), argmax(row), "{row:?} {how:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn infinite_logits_are_drawn_before_all_others_and_never_where_they_are_negative() {
        let mut s = sampler(Sampling { temperature: 1.0, ..Sampling::default() });
        let row = [5.0, f32::INFINITY, f32::NEG_INFINITY, f32::INFINITY, f32::NAN];
        let mut seen: Vec<u32> = (0..200).map(|step| s.choose(&row, 0, step)).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, [1, 3]);
        assert_eq!(s.choose(&[f32::NEG_INFINITY; 3], 0, 0), 0);
    }

    #[test]
    fn no_two_pairs_of_seed_and_sequence_draw_alike_and_the_first_sequence_draws_stream_zero() {
        let logits = [0.0f32; 8];
        let mut seen = std::collections::BTreeMap::new();
        for seed in [0, 1, 2, 3, u64::from(u32::MAX), 1 << 32, u64::MAX] {
            let how = Sampling { temperature: 1.0, ..Sampling::default() };
            let mut s = Sampler::new(&how, seed, 8, Tier::Device, &Ledger::new(u64::MAX, 0, 0)).unwrap();
            for sequence in 0..8 {
                let draws: Vec<u32> = (0..64).map(|step| s.choose(&logits, sequence, step)).collect();
                if sequence == 0 {
                    let plain = Philox::new(seed);
                    let expected: Vec<u32> = (0..64).map(|step| (plain.uniform(step) * 8.0) as u32).collect();
                    assert_eq!(draws, expected);
                }
                let other = seen.insert(draws, (seed, sequence));
                assert_eq!(other, None, "{seed} {sequence}");
            }
        }
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
