//! The arithmetic of the memory limit's slider: a logarithmic scale, steps that give round sizes, and labels that keep clear of
//! each other.

/// A logarithmic scale over bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scale {
    from: u64,
    to: u64,
}

impl Scale {
    /// From `from` to `to` bytes; an empty or reversed range becomes one octave.
    pub(crate) fn new((from, to): (u64, u64)) -> Self {
        let from = from.clamp(1, u64::MAX / 2);
        Self { from, to: to.max(from.saturating_mul(2)) }
    }

    /// Where `bytes` lies, 0 … 1.
    pub(crate) fn position(self, bytes: u64) -> f32 {
        let octaves = (self.to as f64 / self.from as f64).log2();
        ((bytes.max(1) as f64 / self.from as f64).log2() / octaves).clamp(0.0, 1.0) as f32
    }

    /// The round size at a position: a 64th of its octave, no finer than what a pixel tells apart.
    pub(crate) fn bytes(self, position: f32) -> u64 {
        let octaves = (self.to as f64 / self.from as f64).log2();
        let raw = self.from as f64 * (f64::from(position.clamp(0.0, 1.0)) * octaves).exp2();
        let step = step(raw as u64, 6);
        (((raw / step as f64).round() as u64).saturating_mul(step)).clamp(self.from, self.to)
    }

    /// `by` steps up or down: fine ones of a 32nd of the octave, coarse ones of a quarter; always onto the step's grid.
    pub(crate) fn nudge(self, bytes: u64, by: i32, coarse: bool) -> u64 {
        let mut bytes = bytes.clamp(self.from, self.to);
        for _ in 0..by.unsigned_abs() {
            // Downwards the octave below counts, so that a step down undoes a step up.
            let step = step(if by < 0 { bytes.saturating_sub(1) } else { bytes }, if coarse { 2 } else { 5 });
            bytes = if by > 0 {
                (bytes / step).saturating_add(1).saturating_mul(step)
            } else {
                bytes.saturating_sub(1) / step * step
            };
            bytes = bytes.clamp(self.from, self.to);
        }
        bytes
    }

    /// The ends, in bytes.
    pub(crate) fn ends(self) -> (u64, u64) {
        (self.from, self.to)
    }
}

/// The octave of `bytes` in `2^parts` parts.
fn step(bytes: u64, parts: u32) -> u64 {
    1 << bytes.max(1).ilog2().saturating_sub(parts)
}

/// A label that wants to be centred at `x`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Wish {
    /// Its middle.
    pub x: f32,
    /// How wide it is.
    pub width: f32,
    /// Higher is placed first.
    pub weight: u32,
}

/// The left edges of the labels that find room between `from` and `to` with `gap` between them; `None` for those that do not.
/// One at an end is moved inwards rather than cut.
pub(crate) fn place(wishes: &[Wish], (from, to): (f32, f32), gap: f32) -> Vec<Option<f32>> {
    let mut order: Vec<usize> = (0..wishes.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(wishes[i].weight));
    let mut placed: Vec<Option<f32>> = vec![None; wishes.len()];
    for i in order {
        let Wish { x, width, .. } = wishes[i];
        if width > to - from {
            continue;
        }
        let left = (x - width / 2.0).clamp(from, to - width);
        let clear = wishes
            .iter()
            .zip(&placed)
            .all(|(other, at)| at.is_none_or(|at| left + width + gap <= at || at + other.width + gap <= left));
        if clear {
            placed[i] = Some(left);
        }
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    #[test]
    fn positions_and_sizes_are_each_others_inverse() {
        let scale = Scale::new((16 * MIB, 96 * GIB));
        assert_eq!((scale.position(16 * MIB), scale.position(96 * GIB)), (0.0, 1.0));
        assert_eq!((scale.bytes(0.0), scale.bytes(1.0)), (16 * MIB, 96 * GIB));
        for i in 0..=1000 {
            let bytes = scale.bytes(i as f32 / 1000.0);
            // A size comes back as itself: dragging to where the handle is changes nothing.
            assert_eq!(scale.bytes(scale.position(bytes)), bytes, "{bytes}");
        }
        // As far from 32 to 64 MiB as from 32 to 64 GiB.
        let octave = |b: u64| scale.position(2 * b) - scale.position(b);
        assert!((octave(32 * MIB) - octave(32 * GIB)).abs() < 1e-6);
    }

    #[test]
    fn steps_are_round_and_a_step_down_undoes_a_step_up() {
        let scale = Scale::new((16 * MIB, 96 * GIB));
        assert_eq!(scale.nudge(192 * MIB, 1, false), 196 * MIB);
        assert_eq!(scale.nudge(192 * MIB, -1, true), 160 * MIB);
        assert_eq!(scale.nudge(256 * MIB, -1, false), 252 * MIB);
        for start in [16 * MIB, 192 * MIB, 256 * MIB, 3 * GIB] {
            for coarse in [false, true] {
                assert_eq!(scale.nudge(scale.nudge(start, 1, coarse), -1, coarse), start);
            }
        }
        assert_eq!((scale.nudge(16 * MIB, -3, true), scale.nudge(96 * GIB, 5, false)), (16 * MIB, 96 * GIB));
    }

    #[test]
    fn odd_ranges_do_no_harm() {
        for range in [(0, 0), (5, 1), (u64::MAX, u64::MAX)] {
            let scale = Scale::new(range);
            for position in [0.0, 0.5, 1.0, f32::NAN] {
                let _ = scale.bytes(position);
            }
            let (_, to) = scale.ends();
            assert!(scale.position(to).is_finite());
            let _ = scale.nudge(to, 3, true);
        }
    }

    #[test]
    fn labels_keep_clear_and_the_weightier_stay() {
        let wish = |x, weight| Wish { x, width: 30.0, weight };
        // The second overlaps the third, which weighs more; the ends are moved inwards.
        let wishes = [wish(0.0, 1), wish(40.0, 1), wish(60.0, 2), wish(400.0, 0)];
        let placed = place(&wishes, (0.0, 400.0), 8.0);
        assert_eq!(placed, [Some(0.0), None, Some(45.0), Some(370.0)]);
        assert_eq!(place(&[Wish { x: 5.0, width: 99.0, weight: 0 }], (0.0, 50.0), 0.0), [None]);
    }
}
