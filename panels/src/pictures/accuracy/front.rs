//! The Pareto front: points that no other beats on bytes and on accuracy at once.

/// Indices of the points `(bytes, goodness)` on the front, by bytes. Of equal points one stays; what is not a
/// number, or infinite, is never on it.
pub fn pareto(points: &[(u64, f64)]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..points.len()).filter(|&i| points[i].1.is_finite()).collect();
    order.sort_by(|&a, &b| points[a].0.cmp(&points[b].0).then(points[b].1.total_cmp(&points[a].1)));
    let mut best = f64::NEG_INFINITY;
    let mut first = true;
    order.retain(|&i| {
        let better = first || points[i].1 > best;
        if better {
            (best, first) = (points[i].1, false);
        }
        better
    });
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the definition: nobody is at least as good in both and better in one.
    fn brute(points: &[(u64, f64)]) -> Vec<(u64, f64)> {
        let beats = |a: (u64, f64), b: (u64, f64)| a.0 <= b.0 && a.1 >= b.1 && (a.0 < b.0 || a.1 > b.1);
        let mut front: Vec<(u64, f64)> =
            points.iter().copied().filter(|p| !p.1.is_nan() && !points.iter().any(|&q| beats(q, *p))).collect();
        front.sort_by_key(|p| p.0);
        front.dedup();
        front
    }

    #[test]
    fn the_front_is_what_its_definition_says() {
        let mut seed = 88_172_645_463_325_252_u64;
        let mut next = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        for round in 0..400 {
            let points: Vec<(u64, f64)> = (0..next() % 40)
                .map(|_| {
                    // Few values, so that ties are common.
                    let goodness = (next() % 9) as f64 / 8.0 - 0.5;
                    (next() % 12, if next().is_multiple_of(17) { f64::NAN } else { goodness })
                })
                .collect();
            let front: Vec<(u64, f64)> = pareto(&points).iter().map(|&i| points[i]).collect();
            assert_eq!(front, brute(&points), "round {round}: {points:?}");
        }
        for broken in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(pareto(&[(5, broken)]).is_empty());
            assert_eq!(pareto(&[(5, broken), (9, 0.5)]), [1]);
        }
    }
}
