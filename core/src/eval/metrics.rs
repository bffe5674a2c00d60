//! Figures of merit and their intervals (kv.md §7.2).

/// ln Σ exp, in f64.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|v| f64::from(v - top).exp()).sum();
    f64::from(top) + sum.ln()
}

/// Σ p_ref (ln p_ref − ln p), in f64.
pub fn kl(reference: &[f32], logits: &[f32]) -> f64 {
    let (a, b) = (log_sum_exp(reference), log_sum_exp(logits));
    reference
        .iter()
        .zip(logits)
        .map(|(r, l)| {
            let lr = f64::from(*r) - a;
            lr.exp() * (lr - (f64::from(*l) - b))
        })
        .filter(|v| v.is_finite())
        .sum::<f64>()
        .max(0.0)
}

/// Mean and standard error.
pub fn mean(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    if values.is_empty() {
        return (f64::NAN, f64::NAN);
    }
    let mean = values.iter().sum::<f64>() / n;
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
            sorted[low] * (1.0 - part) + sorted[high] * part
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
