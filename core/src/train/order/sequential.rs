//! Rows as they stand, again and again.

use super::Order;
use crate::catalog::{self, Axis, Entry, with_all};

/// The catalogue entry.
pub static ENTRY: Entry = Entry {
    id: "sequential",
    title: "In order",
    common: true,
    axis: Axis::TrainOrder,
    paper: "curriculum learning (Bengio et al., ICML 2009) where the data is laid out so; otherwise the plain choice",
    sentence: "Rows as they stand in the data, which may itself go from easy to hard.",
    knobs: &[],
    composes: with_all,
    role: catalog::Role::TrainOrder(|_| Ok(Box::new(Sequential))),
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
