//! Figures of merit and their intervals (kv.md §7.2). What is no number never makes a figure look good.

use crate::number::Number;

/// ln Σ exp, in f64.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|v| f64::from(v - top).exp()).sum();
    f64::from(top) + sum.ln()
}

/// What is infinite where finite values of the residual stream are too large for a norm.
pub const SQUARES: &str = "the squares of the residual stream";

/// The first value that leaves `logits` without a distribution, with its entry of the vocabulary: what is no number, +∞, or any
/// where all are −∞. A −∞ among numbers is a token of probability zero, and no fault.
pub fn broken(logits: &[f32]) -> Option<(usize, f32)> {
    let right = |v: &f32| *v < f32::INFINITY;
    // A thousand at once, without a branch for each.
    let all = logits.chunks(1024).all(|some| some.iter().fold(true, |all, v| all & right(v)));
    let wrong = if all { None } else { logits.iter().position(|v| !right(v)) };
    let found = wrong.or((!logits.iter().any(|v| v.is_finite())).then_some(0))?;
    Some((found, logits.get(found).copied().unwrap_or(f32::NAN)))
}

/// Σ p_ref (ln p_ref − ln p), in f64: infinite where the reference allows a token that `logits` rule out, and NaN where either
/// is [`broken`].
pub fn kl(reference: &[f32], logits: &[f32]) -> f64 {
    if reference.len() != logits.len() || broken(reference).is_some() || broken(logits).is_some() {
        return f64::NAN;
    }
    let (a, b) = (log_sum_exp(reference), log_sum_exp(logits));
    let term = |(r, l): (&f32, &f32)| {
        let ln_p = f64::from(*r) - a;
        // What the reference rules out weighs nothing, whatever is said of it.
        if ln_p.exp() == 0.0 { 0.0 } else { ln_p.exp() * (ln_p - (f64::from(*l) - b)) }
    };
    // Below zero only by rounding, and f64::max would make 0 of what is no number.
    match reference.iter().zip(logits).map(term).sum::<f64>() {
        kl if kl < 0.0 => 0.0,
        kl => kl,
    }
}

/// A figure as JSON: a number, or the word of one that is infinite; null, which makes a result diverged, for what is no number.
pub fn figure(value: f64) -> serde_json::Value {
    if value.is_nan() {
        return serde_json::Value::Null;
    }
    serde_json::to_value(Number(value)).unwrap_or_default()
}

/// Mean and standard error: of infinite values both are infinite.
pub fn mean(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    if values.is_empty() {
        return (f64::NAN, f64::NAN);
    }
    let mean = values.iter().sum::<f64>() / n;
    if !mean.is_finite() {
        return (mean, mean.abs());
    }
    let var = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    (mean, (var / n).sqrt())
}

/// The `q` quantile of sorted values, by linear interpolation.
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    match sorted.len() {
        0 => f64::NAN,
        n => {
            let at = q * (n - 1) as f64;
            let (low, part) = (at.floor() as usize, at.fract());
            let high = (low + 1).min(n - 1);
            // An infinite neighbour counts only where it has a share.
            if part == 0.0 { sorted[low] } else { sorted[low] * (1.0 - part) + sorted[high] * part }
        }
    }
}

/// The 95 % Wilson interval of `hits` out of `n`.
pub fn wilson(hits: usize, n: usize) -> (f64, f64) {
    if n == 0 {
        return (0.0, 1.0);
    }
    let (p, n, z) = (hits as f64 / n as f64, n as f64, 1.96);
    let centre = p + z * z / (2.0 * n);
    let half = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + z * z / n;
    (((centre - half) / scale).max(0.0), ((centre + half) / scale).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kl_of_a_distribution_with_itself_is_zero_and_with_a_known_one_is_known() {
        let p = [0.0f32, 1.0, -2.0];
        assert!(kl(&p, &p).abs() < 1e-15);
        // p = (1/2, 1/2), q = (1/4, 3/4): KL = ½ ln 2 + ½ ln ⅔.
        let (p, q) = ([0.0f32, 0.0], [0.0f32, 3f32.ln()]);
        let expected = 0.5 * 2f64.ln() + 0.5 * (2.0f64 / 3.0).ln();
        assert!((kl(&p, &q) - expected).abs() < 1e-7, "{}", kl(&p, &q));
        assert!((kl(&[5.0, 5.0], &q) - expected).abs() < 1e-7, "a shift of all logits changes nothing");
    }

    #[test]
    fn kl_with_a_value_that_is_no_number_is_none_and_a_token_ruled_out_makes_it_infinite() {
        let random = crate::rng::Philox::new(5);
        for round in 0..400u64 {
            let n = 1 + random.below(round, 40) as usize;
            let row = |stream: u64| -> Vec<f32> {
                let random = crate::rng::Philox::new(round).stream(stream);
                (0..n as u64).map(|i| 40.0 * random.uniform(i) - 20.0).collect()
            };
            let (mut p, mut q) = (row(1), row(2));
            assert!(kl(&p, &q).is_finite() && kl(&p, &q) >= 0.0);
            let at = random.below(1000 + round, n as u64) as usize;
            let mut ruled_out = q.clone();
            ruled_out[at] = f32::NEG_INFINITY;
            // With a single token nothing is left to be said.
            assert!(if n > 1 { kl(&p, &ruled_out) == f64::INFINITY } else { kl(&p, &ruled_out).is_nan() });
            assert!(n == 1 || kl(&ruled_out, &p).is_finite(), "a token that the reference rules out weighs nothing");
            let bad = if round % 2 == 0 { f32::NAN } else { f32::INFINITY };
            if round % 3 == 0 {
                p[at] = bad
            } else {
                q[at] = bad
            }
            assert!(kl(&p, &q).is_nan(), "{p:?} {q:?}");
            let which = if round % 3 == 0 { &p } else { &q };
            assert_eq!(broken(which).map(|(i, v)| (i, v.is_nan())), Some((at, round % 2 == 0)));
        }
        assert!(kl(&[f32::NEG_INFINITY; 3], &[0.0; 3]).is_nan() && kl(&[], &[]).is_nan());
    }

    #[test]
    fn figures_are_numbers_infinite_or_none() {
        assert_eq!(figure(0.5), serde_json::json!(0.5));
        assert_eq!(figure(f64::INFINITY), serde_json::json!("infinite"));
        assert_eq!(figure(f64::NAN), serde_json::Value::Null);
        assert_eq!(mean(&[1.0, f64::INFINITY]), (f64::INFINITY, f64::INFINITY));
        assert!(mean(&[1.0, f64::NAN]).0.is_nan());
        let sorted = [0.0, 1.0, f64::INFINITY];
        assert_eq!((quantile(&sorted, 0.5), quantile(&sorted, 1.0)), (1.0, f64::INFINITY));
        assert_eq!(quantile(&sorted, 0.75), f64::INFINITY);
    }

    #[test]
    fn quantiles_and_intervals() {
        assert_eq!(quantile(&[1.0, 2.0, 3.0, 4.0], 0.5), 2.5);
        assert_eq!(quantile(&[1.0], 0.99), 1.0);
        let (low, high) = wilson(95, 100);
        assert!((low - 0.8882).abs() < 1e-3 && (high - 0.9785).abs() < 1e-3, "{low} {high}");
        assert_eq!(wilson(0, 10).0, 0.0);
        let (m, se) = mean(&[1.0, 2.0, 3.0]);
        assert!((m - 2.0).abs() < 1e-12 && (se - (1.0f64 / 3.0).sqrt()).abs() < 1e-12);
    }
}
