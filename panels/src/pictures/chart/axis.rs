//! Axes: from values to places on a plot, and where the ticks are.

use crate::words;

/// A range of values along a side, in equal steps or in equal ratios.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Axis {
    low: f64,
    high: f64,
    log: bool,
}

impl Axis {
    /// Around values, with some room at both ends; `zero` keeps 0 in sight on an axis of equal steps.
    pub fn around(values: impl IntoIterator<Item = f64>, log: bool, zero: bool) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for v in values.into_iter().filter(|v| v.is_finite() && (!log || *v > 0.0)) {
            (low, high) = (low.min(v), high.max(v));
        }
        if low > high {
            (low, high) = (1.0, 2.0);
        }
        if log {
            let room = (high / low).powf(0.06).max(1.1);
            return Self { low: low / room, high: high * room, log };
        }
        if zero {
            low = low.min(0.0);
        }
        let room = if high > low { 0.06 * (high - low) } else { 0.05 * high.abs().max(0.01) };
        Self { low: if zero && low == 0.0 { 0.0 } else { low - room }, high: high + room, log }
    }

    /// From 0 to a value, in equal steps.
    pub fn from_zero(high: f64) -> Self {
        Self { low: 0.0, high: if high.is_finite() && high > 0.0 { high } else { 1.0 }, log: false }
    }

    /// The same axis with room beyond both ends, a share of its length: what lies on an end is seen whole.
    pub fn with_room(self, share: f64) -> Self {
        let room = share * (self.high - self.low);
        if self.log { self } else { Self { low: self.low - room, high: self.high + room, ..self } }
    }

    /// The value's place on the axis: the value itself, or its binary logarithm on an axis of equal ratios.
    pub fn place(self, value: f64) -> f64 {
        if self.log { value.max(f64::MIN_POSITIVE).log2() } else { value }
    }

    /// The value at a place.
    pub fn value(self, place: f64) -> f64 {
        if self.log { place.exp2() } else { place }
    }

    /// The places of both ends.
    pub fn ends(self) -> [f64; 2] {
        [self.place(self.low), self.place(self.high)]
    }

    /// The part of the axis between two places.
    pub fn between(self, low: f64, high: f64) -> Self {
        Self { low: self.value(low), high: self.value(high), log: self.log }
    }

    /// Round sizes in binary units, at most about `most` of them.
    pub fn byte_ticks(self, most: usize) -> Vec<f64> {
        if self.log {
            for every in 1..64 {
                let from = self.low.log2().ceil() as i32;
                let ticks: Vec<f64> = (from..=self.high.log2().floor() as i32)
                    .filter(|p| p.rem_euclid(every) == 0)
                    .map(|p| 2f64.powi(p))
                    .collect();
                if ticks.len() <= most.max(2) {
                    return if ticks.len() < 2 { self.within(most, true) } else { ticks };
                }
            }
        }
        self.within(most, true)
    }

    /// Round values, at most about `most` of them.
    pub fn ticks(self, most: usize) -> Vec<f64> {
        self.within(most, false)
    }

    fn within(self, most: usize, binary: bool) -> Vec<f64> {
        let least = (self.high - self.low) / most.max(1) as f64;
        let (base, steps): (f64, &[f64]) = if binary { (2.0, &[1.0, 2.0]) } else { (10.0, &[1.0, 2.0, 5.0, 10.0]) };
        let power = base.powf(least.log(base).floor());
        let Some(step) = steps.iter().map(|s| s * power).find(|s| *s >= least * 0.999) else { return Vec::new() };
        let first = (self.low / step).ceil() as i64;
        (first..).map(|i| i as f64 * step).take_while(|v| *v <= self.high).take(200).collect()
    }
}

/// A value of an accuracy axis with its unit; a `%` axis holds shares 0 … 1.
pub fn value(value: f64, unit: &str) -> String {
    match unit {
        "%" => words::percent(value),
        "" => words::number(value),
        unit if value.is_finite() => format!("{} {unit}", words::number(value)),
        _ => words::UNKNOWN.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_around_which_an_axis_was_made_lies_on_it_in_order() {
        for (values, log) in [
            (vec![3.0e7, 5.0e7, 4.0e8], true),
            (vec![3.0e7, 5.0e7, 4.0e8], false),
            (vec![0.2, 0.2], false),
            (vec![0.0, f64::NAN, 1.0], false),
            (vec![f64::INFINITY, 7.0], true),
            (vec![], false),
            (vec![0.0], true),
        ] {
            let axis = Axis::around(values.iter().copied(), log, false);
            let mut places: Vec<f64> =
                values.iter().filter(|v| v.is_finite() && (!log || **v > 0.0)).map(|v| axis.place(*v)).collect();
            let wide = axis.with_room(0.1).ends();
            assert!(wide[0] <= axis.ends()[0] && wide[1] >= axis.ends()[1]);
            let [low, high] = axis.ends();
            assert!(low < high && places.iter().all(|p| (low..=high).contains(p)), "{values:?}: {places:?}");
            assert!(places.is_sorted());
            let back = |p: &f64| (axis.place(axis.value(*p)) - p).abs() < 1e-9;
            assert!(places.iter().all(back), "{values:?}: a place is the place of its value");
            places.extend(axis.byte_ticks(6).iter().chain(&axis.ticks(6)).map(|t| axis.place(*t)));
            let room = 1e-9 * (high - low);
            assert!(places.iter().all(|p| (low - room..=high + room).contains(p)));
        }
    }

    #[test]
    fn ticks_are_few_round_and_at_least_two() {
        for (low, high, log) in [(1e6, 1e9, true), (3.1e7, 3.3e7, true), (0.0, 5e8, false), (2e9, 9e9, false)] {
            let axis = Axis::around([low, high], log, false);
            let ticks = axis.byte_ticks(6);
            assert!((2..=7).contains(&ticks.len()), "{low} {high}: {ticks:?}");
            for t in &ticks {
                let odd = *t as u64 >> (*t as u64).trailing_zeros().min(63);
                assert!(*t == 0.0 || odd < 2048, "{t} is not round");
            }
        }
        let ticks = Axis::around([0.31, 0.98], false, false).ticks(5);
        assert!((2..=6).contains(&ticks.len()) && ticks.iter().all(|t| ((t * 10.0).round() - t * 10.0).abs() < 1e-9));
        assert_eq!(
            (value(0.987, "%"), value(0.0123, "nats"), value(f64::NAN, "nats")),
            ("98.7 %".into(), "0.01 nats".into(), "—".into())
        );
    }
}
