//! Rotations as files describe them: by base alone, by one divisor, or by a divisor for each pair.

/// A rotation, not checked yet.
#[derive(Clone, Debug)]
pub struct Turning {
    /// Base of the frequencies.
    pub base: f32,
    /// Positions are divided by this.
    pub scale: f32,
    /// Divisors of the frequencies; empty for none.
    pub divisors: Vec<f32>,
    /// Multiplied onto what is rotated.
    pub amplitude: f32,
    /// Other divisors for runs with room for more tokens than this.
    pub long: Option<(u64, Vec<f32>)>,
    /// Dynamic NTK: how fast the base grows in runs with room for more tokens than the context.
    pub dynamic: Option<f32>,
}

impl Turning {
    /// By base alone.
    pub const fn plain(base: f32) -> Self {
        Self { base, scale: 1.0, divisors: Vec::new(), amplitude: 1.0, long: None, dynamic: None }
    }
}

/// YaRN (Peng et al., arXiv 2309.00071): fast pairs turn as before, slow ones `factor` times slower, those between in
/// proportion to their number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Yarn {
    pub factor: f64,
    /// Tokens the model was first trained on.
    pub original: f64,
    /// Turns over the original context from which a pair is fast.
    pub fast: f64,
    /// Turns up to which it is slow.
    pub slow: f64,
    /// The pairs where that changes are whole numbers.
    pub whole: bool,
}

impl Yarn {
    /// One divisor a pair, `(dim / 2)`.
    pub fn divisors(&self, dim: usize, base: f32) -> Vec<f32> {
        let pair = |turns: f64| {
            dim as f64 * (self.original / (turns * std::f64::consts::TAU)).ln() / (2.0 * f64::from(base).ln())
        };
        let (low, high) = (pair(self.fast), pair(self.slow));
        let (low, high) = if self.whole { (low.floor(), high.ceil()) } else { (low, high) };
        let (low, high) = (low.max(0.0), high.min(dim as f64 - 1.0));
        let wide = if low == high { 0.001 } else { high - low };
        (0..dim / 2)
            .map(|i| {
                let slow = ((i as f64 - low) / wide).clamp(0.0, 1.0);
                (1.0 / (slow / self.factor + (1.0 - slow))) as f32
            })
            .collect()
    }
}

/// YaRN's attention factor (§3.4): queries and keys grow a little, so that their scores do not flatten over a longer context.
pub fn yarn_amplitude(factor: f64, by: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * by * factor.ln() + 1.0 }
}

/// Longrope's attention factor (arXiv 2402.13753): `factor` is how much longer the context became.
pub fn long_amplitude(factor: f64, original: f64) -> f64 {
    if factor <= 1.0 || original <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original.ln()).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yarn_leaves_fast_pairs_and_slows_slow_ones() {
        // Qwen's: 32768 tokens times four, heads of 128, base 10⁶. transformers' correction range is pairs 23 to 40.
        let all = Yarn { factor: 4.0, original: 32_768.0, fast: 32.0, slow: 1.0, whole: true }.divisors(128, 1e6);
        assert_eq!((all[0], all[23], all[40], all[63]), (1.0, 1.0, 4.0, 4.0));
        // One of seventeen steps on the way: 1 / (1/17/4 + 16/17).
        assert!((f64::from(all[24]) - 1.0 / (1.0 / 68.0 + 16.0 / 17.0)).abs() < 1e-6, "{}", all[24]);
        assert!((yarn_amplitude(4.0, 1.0) - 1.138_629_436).abs() < 1e-8);
        // Phi-3's: 4096 tokens to 131072.
        assert!((long_amplitude(32.0, 4096.0) - 1.190_238).abs() < 1e-5);
        assert_eq!((yarn_amplitude(0.5, 1.0), long_amplitude(1.0, 4096.0)), (1.0, 1.0));
    }
}
