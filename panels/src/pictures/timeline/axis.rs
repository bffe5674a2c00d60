//! Round marks along an axis, with their unit.

use std::ops::Range;

use crate::words;

/// Marks of an axis of bytes from 0 to `end`: a power of two apart, at most `most` of them above 0, each with its words.
pub fn bytes(end: f64, most: usize) -> Vec<(f64, String)> {
    let most = most.max(1) as f64;
    let mut step = 1.0f64;
    while end / step > most && step < 2f64.powi(62) {
        step *= 2.0;
    }
    let count = if end.is_finite() { (end / step).floor().max(0.0) as usize } else { 0 };
    (0..=count).map(|i| (i as f64 * step, words::bytes((i as f64 * step) as u64))).collect()
}

/// Marks of an axis of time, at most about `most`: 1, 2 or 5 times a power of ten apart (minutes: 1, 2, 5, 10, 15, 30, 60).
pub fn seconds(window: &Range<f64>, most: usize) -> Vec<(f64, String)> {
    let span = window.end - window.start;
    if !(span.is_finite() && span > 0.0) {
        return Vec::new();
    }
    let least = span / most.max(1) as f64;
    let step = if least > 30.0 {
        let minutes = [1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 360.0, 1440.0, 10080.0];
        minutes.into_iter().map(|m| 60.0 * m).find(|s| *s >= least).unwrap_or(span)
    } else {
        let power = 10f64.powf(least.log10().floor());
        [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= least * 0.999_999).unwrap_or(10.0 * power)
    };
    let first = (window.start / step).ceil();
    (0..=most + 1)
        .map(|i| (first + i as f64) * step)
        .take_while(|t| *t <= window.end)
        .map(|t| (t, time(t, step)))
        .collect()
}

/// A time since the run's start, as exactly as `step` (seconds) needs.
pub fn time(t: f64, step: f64) -> String {
    if !t.is_finite() || !step.is_finite() {
        return words::UNKNOWN.into();
    }
    if step >= 60.0 {
        let minutes = (t / 60.0).round() as u64;
        return if minutes >= 60 {
            format!("{} h {:02} min", minutes / 60, minutes % 60)
        } else {
            format!("{minutes} min")
        };
    }
    let (value, step, unit) = if step < 1e-3 && t < 0.01 { (t * 1e6, step * 1e6, "µs") } else { (t, step, "s") };
    let digits = (-step.log10()).ceil().clamp(0.0, 9.0) as usize;
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_round_and_few() {
        let marks = |end, most| bytes(end, most).into_iter().map(|(_, words)| words).collect::<Vec<_>>();
        assert_eq!(marks(211.2 * 1048576.0, 5), ["0 B", "64 MiB", "128 MiB", "192 MiB"]);
        assert_eq!(marks(0.0, 5), ["0 B"]);
        for end in [1.0, 1e3, 3.7e8, 8e10, 1e19] {
            let marks = bytes(end, 6);
            assert!(marks.len() <= 7 && marks.iter().all(|(at, _)| *at <= end), "{end}");
            assert!(marks.len() >= 3 || end < 2.0, "{end}: {marks:?}");
        }
        let times = |a, b| seconds(&(a..b), 8).into_iter().map(|(_, words)| words).collect::<Vec<_>>();
        assert_eq!(times(0.0, 3.2), ["0.0 s", "0.5 s", "1.0 s", "1.5 s", "2.0 s", "2.5 s", "3.0 s"]);
        assert_eq!(
            times(1.2, 1.24),
            ["1.200 s", "1.205 s", "1.210 s", "1.215 s", "1.220 s", "1.225 s", "1.230 s", "1.235 s", "1.240 s"][..]
                .to_vec()
        );
        assert_eq!(times(0.0, 600.0), ["0 min", "2 min", "4 min", "6 min", "8 min", "10 min"]);
        for (a, b) in [(0.0, 1e-5), (0.0, 1.0), (17.0, 93.0), (0.0, 7200.0), (0.0, 1e7)] {
            let marks = seconds(&(a..b), 8);
            assert!((2..=10).contains(&marks.len()), "{a}..{b}: {marks:?}");
            assert!(marks.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 != w[1].1), "{marks:?}");
        }
        assert!(seconds(&(1.0..1.0), 8).is_empty() && seconds(&(f64::NAN..1.0), 8).is_empty());
    }
}
