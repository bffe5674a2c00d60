//! Rows as they stand, again and again.

use super::Order;
use crate::schema::{About, Entry, ON_ALL, axes};

/// The catalogue entry.
pub static ENTRY: Entry<dyn Order> = Entry {
    about: About {
        id: "sequential",
        title: "In order",
        common: true,
        paper: "curriculum learning (Bengio et al., ICML 2009) where the data is laid out so; otherwise the plain choice",
        sentence: "Rows as they stand in the data, which may itself go from easy to hard.",
        runs_on: ON_ALL,
        ..About::on(&axes::TRAIN_ORDER)
    },
    build: |_| Ok(Box::new(Sequential)),
};

struct Sequential;

impl Order for Sequential {
    fn row(&self, position: u64, rows: usize, _: u64) -> usize {
        (position % rows.max(1) as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_as_they_stand_whatever_the_seed() {
        for seed in [0, 7] {
            let order: Vec<_> = (0..7).map(|i| Sequential.row(i, 3, seed)).collect();
            assert_eq!(order, [0, 1, 2, 0, 1, 2, 0]);
        }
        assert_eq!(Sequential.row(u64::MAX, 1 << 40, 0), (u64::MAX % (1 << 40)) as usize);
    }
}
