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

    /// A whole number below `n` (at least 1) for `index`.
    pub fn below(&self, index: u64, n: u64) -> u64 {
        let [a, b, ..] = self.block(index);
        let wide = u128::from(u64::from(a) | u64::from(b) << 32) * u128::from(n.max(1));
        (wide >> 64) as u64
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
    fn numbers_stay_in_range() {
        let p = Philox::new(3);
        for i in 0..1000 {
            assert!((0.0..1.0).contains(&p.uniform(i)));
            assert!(p.below(i, 7) < 7);
        }
    }
}
