//! kv.select: which tokens stay.

mod full;
mod h2o;
mod snapkv;
mod window;

use super::Select;
use crate::schema::Entry;

/// The variants.
pub const ENTRIES: &[&Entry<dyn Select>] = &[&full::ENTRY, &window::ENTRY, &h2o::ENTRY, &snapkv::ENTRY];

/// Keeps, of `rows` rows, the `first` first and the `last` last ones and the best by `scores` of those between, `quota` in all: their
/// indices, ascending, to the front of `keep`; how many. Ties (and NaN, which cannot beat a number) go to the lower position.
pub(super) fn keep_best(
    keep: &mut [u32],
    rows: usize,
    quota: usize,
    first: usize,
    last: usize,
    scores: &[f32],
) -> usize {
    for (i, slot) in keep[..rows].iter_mut().enumerate() {
        *slot = i as u32;
    }
    if rows <= quota {
        return rows;
    }
    let last = last.min(quota);
    let first = first.min(quota - last);
    let best = quota - first - last;
    let candidates = &mut keep[first..rows - last];
    if best > 0 && best < candidates.len() {
        candidates.select_nth_unstable_by(best - 1, |a, b| {
            let (x, y) = (scores[*a as usize], scores[*b as usize]);
            y.max(0.0).total_cmp(&x.max(0.0)).then(a.cmp(b))
        });
        candidates[..best].sort_unstable();
    }
    for i in 0..last {
        keep[first + best + i] = (rows - last + i) as u32;
    }
    quota
}
