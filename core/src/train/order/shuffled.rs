//! Every row once an epoch, in a new order each.

use super::Order;
use crate::rng::Philox;
use crate::schema::{About, Entry, ON_ALL, axes};

/// The catalogue entry.
pub static ENTRY: Entry<dyn Order> = Entry {
    about: About {
        id: "shuffled",
        title: "Shuffled",
        common: true,
        sentence: "Every row once an epoch, shuffled anew each time.",
        runs_on: ON_ALL,
        ..About::on(&axes::TRAIN_ORDER)
    },
    build: |_| Ok(Box::new(Shuffled)),
};

struct Shuffled;

/// Philox streams of orders, apart from those of other uses.
const STREAM: u64 = 1 << 60;
/// Rounds of the permutation.
const ROUNDS: u64 = 6;

impl Order for Shuffled {
    /// A Feistel network over the next power of four, walked until it falls below `rows`: a permutation that needs no table.
    fn row(&self, position: u64, rows: usize, seed: u64) -> usize {
        let n = rows.max(1) as u64;
        let (epoch, start) = (position / n, position % n);
        let half = (64 - (n - 1).max(1).leading_zeros()).div_ceil(2);
        let mask = (1u64 << half) - 1;
        let random = Philox::new(seed).stream(STREAM + epoch);
        let mut at = start;
        loop {
            let (mut left, mut right) = (at >> half, at & mask);
            for round in 0..ROUNDS {
                let word = u64::from(random.block(round << 32 | right)[0]);
                (left, right) = (right, left ^ (word & mask));
            }
            at = left << half | right;
            if at < n {
                return at as usize;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_a_permutation_and_the_next_another() {
        for n in [1usize, 2, 3, 7, 64, 65, 1000] {
            let epoch = |e: u64, seed: u64| (0..n as u64).map(|i| Shuffled.row(e * n as u64 + i, n, seed)).collect();
            let (first, second, other): (Vec<_>, Vec<_>, Vec<_>) = (epoch(0, 1), epoch(1, 1), epoch(0, 2));
            let mut sorted = first.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..n).collect::<Vec<_>>());
            if n >= 64 {
                assert!(first != second && first != other && first != sorted, "{n}");
                // Neighbours are torn apart: few successors stay successors.
                let kept = first.windows(2).filter(|w| w[1] == w[0] + 1).count();
                assert!(kept < n / 8 + 3, "{n}: {kept}");
            }
        }
    }
}
