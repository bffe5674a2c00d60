//! A link between two tiers: how long it takes to fetch chunks of a given size over it.

use serde::{Deserialize, Serialize};

/// One link: a fixed cost a request, and a bandwidth that depends on the size of what is asked for.
///
/// `t(n chunks of c bytes) = n · latency / queue_depth + n · c / bandwidth(c)`. The bandwidth is that of the transfer
/// alone: the latency is not in it, so that the formula gives back the times that were measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// Seconds a request costs before its first byte.
    pub latency_s: f64,
    /// Requests in flight at once; what was measured one by one has 1.
    pub queue_depth: f64,
    /// Bandwidth without the latency, as (chunk in bytes, bytes a second), by rising chunk.
    pub curve: Vec<(u64, f64)>,
}

impl Link {
    /// A link whose bandwidth does not depend on the chunk.
    pub fn flat(latency_s: f64, bytes_per_s: f64) -> Self {
        Self { latency_s, queue_depth: 1.0, curve: vec![(4096, bytes_per_s)] }
    }

    /// The link that explains measured times: `times` are (chunk in bytes, seconds a request), made one request at a
    /// time. None without a usable time.
    ///
    /// A larger chunk never takes less time than a smaller one here (where the measurement says otherwise that is
    /// noise). The latency is the largest for which the bandwidth does not fall as chunks grow, and 0 … 95 % of the
    /// shortest time: c₁ ÷ (t₁ − l) ≤ c₂ ÷ (t₂ − l) holds as long as l is not above where the line through both
    /// points meets chunk 0.
    pub fn from_times(times: &[(u64, f64)]) -> Option<Self> {
        let mut times: Vec<_> =
            times.iter().copied().filter(|(chunk, t)| *chunk > 0 && t.is_finite() && *t > 0.0).collect();
        times.sort_by_key(|(chunk, _)| *chunk);
        times.dedup_by_key(|(chunk, _)| *chunk);
        let fastest = times.first()?.1;
        let mut longest = 0.0f64;
        for (_, t) in &mut times {
            longest = longest.max(*t);
            *t = longest;
        }
        let meets_zero = |pair: &[(u64, f64)]| {
            let [(c1, t1), (c2, t2)] = [pair[0], pair[1]].map(|(c, t)| (c as f64, t));
            (c2 * t1 - c1 * t2) / (c2 - c1)
        };
        let latency_s = times.windows(2).map(meets_zero).reduce(f64::min).unwrap_or(0.0).clamp(0.0, 0.95 * fastest);
        let curve = times.iter().map(|(chunk, t)| (*chunk, *chunk as f64 / (t - latency_s))).collect();
        Some(Self { latency_s, queue_depth: 1.0, curve })
    }

    /// Bytes a second while a chunk of `chunk` bytes is under way. Between two measured sizes the transfer *time* is
    /// interpolated, so a larger chunk never arrives sooner; outside them the nearest bandwidth holds.
    pub fn bandwidth(&self, chunk: u64) -> f64 {
        let above = self.curve.partition_point(|(size, _)| *size < chunk);
        match (above.checked_sub(1).and_then(|i| self.curve.get(i)), self.curve.get(above)) {
            (Some(&(low, slow)), Some(&(high, fast))) => {
                let (t_low, t_high) = (low as f64 / slow, high as f64 / fast);
                let part = (chunk - low) as f64 / (high - low) as f64;
                chunk as f64 / (t_low + part * (t_high - t_low))
            }
            (Some((_, bandwidth)), None) | (None, Some((_, bandwidth))) => *bandwidth,
            (None, None) => 0.0,
        }
    }

    /// Seconds to fetch `n` chunks of `chunk` bytes each. Infinite over a link without a measured bandwidth.
    pub fn fetch_seconds(&self, n: u64, chunk: u64) -> f64 {
        if n == 0 {
            return 0.0;
        }
        let wait = n as f64 * self.latency_s / self.queue_depth;
        if chunk == 0 { wait } else { wait + n as f64 * chunk as f64 / self.bandwidth(chunk) }
    }

    /// What makes this link unusable, if anything: it may come from a file that anyone can edit.
    pub(super) fn defect(&self) -> Option<&'static str> {
        let good = |v: f64| v.is_finite() && v > 0.0;
        if !(self.latency_s.is_finite() && self.latency_s >= 0.0) {
            Some("a latency below zero")
        } else if !(good(self.queue_depth) && self.queue_depth >= 1.0) {
            Some("a queue depth below one")
        } else if self.curve.is_empty() || self.curve.iter().any(|(chunk, bw)| *chunk == 0 || !good(*bw)) {
            Some("a bandwidth that is missing or not above zero")
        } else if !self.curve.is_sorted_by(|a, b| a.0 < b.0 && a.0 as f64 / a.1 <= b.0 as f64 / b.1 * (1.0 + 1e-9)) {
            Some("a curve whose chunks or times do not rise")
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> Link {
        Link::from_times(&[(4096, 100e-6), (16384, 108e-6), (65536, 140e-6), (524288, 450e-6)]).unwrap()
    }

    #[test]
    fn measured_times_come_back() {
        let link = disk();
        for (chunk, t) in [(4096, 100e-6), (16384, 108e-6), (65536, 140e-6), (524288, 450e-6)] {
            assert!((link.fetch_seconds(1, chunk) - t).abs() < 1e-12, "{chunk}");
        }
        assert!(link.latency_s > 80e-6 && link.latency_s < 100e-6, "{}", link.latency_s);
        assert_eq!(link.defect(), None);
    }

    #[test]
    fn a_larger_chunk_takes_longer_and_more_chunks_take_in_proportion() {
        let link = disk();
        let mut last = 0.0;
        for chunk in (512..2_000_000).step_by(512) {
            let t = link.fetch_seconds(1, chunk);
            assert!(t > last, "{chunk}");
            assert!((link.fetch_seconds(7, chunk) - 7.0 * t).abs() < 1e-9);
            last = t;
        }
        assert_eq!(link.fetch_seconds(0, 4096), 0.0);
    }

    #[test]
    fn large_chunks_beat_small_ones_for_the_same_bytes() {
        let link = disk();
        assert!(link.fetch_seconds(128, 4096) > 10.0 * link.fetch_seconds(1, 128 * 4096));
        // More requests in flight hide latency, not transfer.
        let deep = Link { queue_depth: 8.0, ..disk() };
        let gain = link.fetch_seconds(128, 4096) - deep.fetch_seconds(128, 4096);
        assert!((gain - 128.0 * link.latency_s * 7.0 / 8.0).abs() < 1e-9);
    }

    #[test]
    fn bandwidth_is_continuous_at_the_measured_sizes() {
        let link = disk();
        for &(chunk, bandwidth) in &link.curve {
            assert_eq!(link.bandwidth(chunk), bandwidth);
            for near in [chunk - 1, chunk + 1] {
                assert!((link.bandwidth(near) / bandwidth - 1.0).abs() < 1e-3, "{chunk}");
            }
        }
        assert!(link.curve.is_sorted_by(|a, b| a.1 <= b.1 * (1.0 + 1e-9)), "{link:?}");
        let (smallest, largest) = (link.curve[0].1, link.curve[3].1);
        assert_eq!((link.bandwidth(0), link.bandwidth(1), link.bandwidth(1 << 40)), (smallest, smallest, largest));
    }

    #[test]
    fn noise_does_not_make_a_larger_chunk_faster() {
        let link = Link::from_times(&[(65536, 50e-6), (4096, 90e-6), (16384, 70e-6)]).unwrap();
        assert_eq!(link.defect(), None);
        assert!(link.fetch_seconds(1, 65536) >= link.fetch_seconds(1, 4096) - 1e-12);
        assert!(Link::from_times(&[(0, 1.0), (4096, f64::NAN), (4096, 0.0)]).is_none());
        assert_eq!(Link::from_times(&[(4096, 1e-4)]).unwrap().latency_s, 0.0);
    }

    #[test]
    fn a_link_that_cannot_be_is_found_out() {
        for bad in [
            Link { latency_s: -1.0, ..disk() },
            Link { queue_depth: 0.0, ..disk() },
            Link { curve: vec![], ..disk() },
            Link { curve: vec![(4096, 0.0)], ..disk() },
            Link { curve: vec![(8192, 1e9), (4096, 1e9)], ..disk() },
            Link { curve: vec![(4096, 1e6), (8192, 1e9)], ..disk() },
        ] {
            assert!(bad.defect().is_some(), "{bad:?}");
        }
        assert_eq!(Link::flat(0.0, 1e9).fetch_seconds(2, 500_000_000), 1.0);
    }
}
