//! Counter-based random numbers: Philox-4×32-10 (Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011).
//!
//! Any number is a function of (seed, stream, index) alone: the same in any order, block size or thread count.

/// A keyed generator.
#[derive(Clone, Copy, Debug)]
pub struct Philox {
    key: [u32; 2],
    stream: u64,
}

impl Philox {
    /// Keyed by `seed`, stream 0.
    pub fn new(seed: u64) -> Self {
        Self { key: [seed as u32, (seed >> 32) as u32], stream: 0 }
    }

    /// The same key, another stream.
    pub fn stream(self, stream: u64) -> Self {
        Self { stream, ..self }
    }

    /// The four words of block `index`.
    pub fn block(&self, index: u64) -> [u32; 4] {
        let mut c = [index as u32, (index >> 32) as u32, self.stream as u32, (self.stream >> 32) as u32];
        let mut k = self.key;
        for round in 0..10 {
            if round > 0 {
                k = [k[0].wrapping_add(0x9E37_79B9), k[1].wrapping_add(0xBB67_AE85)];
            }
            let (a, b) = (0xD251_1F53 * u64::from(c[0]), 0xCD9E_8D57 * u64::from(c[2]));
            c = [(b >> 32) as u32 ^ c[1] ^ k[0], b as u32, (a >> 32) as u32 ^ c[3] ^ k[1], a as u32];
        }
        c
    }

    /// A number in `[0, 1)` for `index`, with 24 random bits.
    pub fn uniform(&self, index: u64) -> f32 {
        (self.block(index)[0] >> 8) as f32 / (1u32 << 24) as f32
    }

    /// Fills `out` with normal numbers `first..`, `first` being a multiple of four: number `i` is of block `i / 4`, by Box and
    /// Muller (1958) on its words (0, 1) and (2, 3). Plain f32 arithmetic in one order, so that every level gives the same bits.
    pub fn normals(&self, first: u64, out: &mut [f32]) {
        for (i, four) in out.chunks_mut(4).enumerate() {
            let words = self.block(first / 4 + i as u64);
            let (a, b) = (pair(words[0], words[1]), pair(words[2], words[3]));
            four.iter_mut().zip([a.0, a.1, b.0, b.1]).for_each(|(x, z)| *x = z);
        }
    }

    /// A whole number below `n` (at least 1) for `index`.
    pub fn below(&self, index: u64, n: u64) -> u64 {
        let [a, b, ..] = self.block(index);
        let wide = u128::from(u64::from(a) | u64::from(b) << 32) * u128::from(n.max(1));
        (wide >> 64) as u64
    }
}

/// Two independent normal numbers of two words.
fn pair(a: u32, b: u32) -> (f32, f32) {
    const UNIT: f32 = 1.0 / (1 << 24) as f32;
    // Above 0, so that the logarithm is finite: at most 5.77 comes out.
    let radius = (-2.0 * ln(((a >> 8) + 1) as f32 * UNIT)).sqrt();
    let (sin, cos) = turn((b >> 8) as f32 * UNIT);
    (radius * cos, radius * sin)
}

/// The natural logarithm of a number above 0, within 1e-7 (Cephes, logf).
fn ln(x: f32) -> f32 {
    let bits = x.to_bits();
    let (mut e, mut m) = ((bits >> 23) as i32 - 126, f32::from_bits(bits & 0x007f_ffff | 0x3f00_0000));
    if m < std::f32::consts::FRAC_1_SQRT_2 {
        (e, m) = (e - 1, m + m);
    }
    let (m, e) = (m - 1.0, e as f32);
    let z = m * m;
    let coefficients = [
        -1.151_461e-1,
        1.167_699_9e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_7e-1,
        2.000_071_6e-1,
        -2.499_999_4e-1,
        3.333_333e-1,
    ];
    let y = coefficients.iter().fold(7.037_683_6e-2, |y: f32, c| y * m + c) * m * z;
    m + (y - 2.121_944_4e-4 * e - 0.5 * z) + 0.693_359_4 * e
}

/// Sine and cosine of `u` whole turns, `u` in `[0, 1)`, within 1e-7 (Cephes, sinf and cosf).
fn turn(u: f32) -> (f32, f32) {
    let quarter = (4.0 * u + 0.5).floor();
    let x = (4.0 * u - quarter) * std::f32::consts::FRAC_PI_2;
    let z = x * x;
    let sin = ((-1.951_529_6e-4 * z + 8.332_161e-3) * z - 1.666_665_5e-1) * z * x + x;
    let cos = ((2.443_315_7e-5 * z - 1.388_731_6e-3) * z + 4.166_664_6e-2) * z * z - 0.5 * z + 1.0;
    match quarter as u32 & 3 {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers published with the reference implementation (Random123, kat_vectors).
    #[test]
    fn known_answers() {
        assert_eq!(Philox::new(0).block(0), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let ones = Philox::new(u64::MAX).stream(u64::MAX);
        assert_eq!(ones.block(u64::MAX), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    }

    #[test]
    fn normal_numbers_are_box_mullers_in_any_pieces() {
        let p = Philox::new(7).stream(9);
        let mut all = vec![0.0; 4096];
        p.normals(0, &mut all);
        let mut pieces = vec![0.0; 4096];
        for (i, piece) in pieces.chunks_mut(64).enumerate() {
            p.normals(64 * i as u64, piece);
        }
        assert!(all == pieces);
        for (i, z) in all.iter().enumerate() {
            let words = p.block(i as u64 / 4);
            let (a, b) = (words[i % 4 / 2 * 2], words[i % 4 / 2 * 2 + 1]);
            let radius = (-2.0 * (f64::from((a >> 8) + 1) / f64::from(1 << 24)).ln()).sqrt();
            let (sin, cos) = (std::f64::consts::TAU * f64::from(b >> 8) / f64::from(1 << 24)).sin_cos();
            let exact = radius * if i % 2 == 0 { cos } else { sin };
            assert!((f64::from(*z) - exact).abs() < 2e-6, "{i}: {z} {exact}");
        }
        // The extremes of both words.
        for (a, b) in [(0, 0), (u32::MAX, u32::MAX), (0, u32::MAX), (u32::MAX, 0), (1 << 31, 1 << 30)] {
            let (x, y) = pair(a, b);
            assert!(x.abs() < 5.8 && y.abs() < 5.8, "{x} {y}");
        }
        let mean = all.iter().sum::<f32>() / 4096.0;
        let variance = all.iter().map(|z| z * z).sum::<f32>() / 4096.0;
        assert!(mean.abs() < 0.06 && (variance - 1.0).abs() < 0.09, "{mean} {variance}");
    }

    #[test]
    fn numbers_stay_in_range() {
        let p = Philox::new(3);
        for i in 0..1000 {
            assert!((0.0..1.0).contains(&p.uniform(i)));
            assert!(p.below(i, 7) < 7);
        }
    }
}
