//! Rotary embedding: frequencies of a model, tables of angles.

use crate::ops::cpu::{Angles, RopeLayout};
use crate::shape::Rope;

pub(super) fn pairs(rope: &Rope) -> RopeLayout {
    if rope.interleaved { RopeLayout::Interleaved } else { RopeLayout::Halves }
}

/// How a run turns: the frequency of each pair, and what turned numbers are multiplied by.
#[derive(Clone, Debug, Default)]
pub(crate) struct Turn {
    /// One a pair.
    pub freqs: Vec<f64>,
    /// 1 for none.
    pub amplitude: f64,
}

impl Turn {
    /// `rope` in a run with room for `tokens` tokens; `divisors` are those of a file's tensor.
    pub fn new(rope: &Rope, divisors: Option<&[f32]>, tokens: usize) -> Self {
        let own = rope.divisors(tokens);
        Self { freqs: inverse_frequencies(rope, divisors.unwrap_or(&own)), amplitude: rope.amplitude.into() }
    }
}

/// θ_i = base^(−2i/dim) / (scale · divisor_i), in f64 so that positions of millions keep their phase; no divisor is 1.
pub(crate) fn inverse_frequencies(rope: &Rope, divisors: &[f32]) -> Vec<f64> {
    (0..rope.dim / 2)
        .map(|i| {
            let f = f64::from(rope.base).powf(-2.0 * i as f64 / rope.dim as f64) / f64::from(rope.scale);
            divisors.get(i).map_or(f, |d| f / f64::from(*d))
        })
        .collect()
}

/// Fills a table `(2, positions, dim / 2)`, cosines then sines, for positions `first, first + 1, …`.
pub(super) fn fill_angles(first: usize, turn: &Turn, table: &mut [f32]) {
    let Turn { freqs, amplitude } = turn;
    let half = freqs.len();
    let (cos, sin) = table.split_at_mut(table.len() / 2);
    for (i, (cos, sin)) in cos.chunks_exact_mut(half).zip(sin.chunks_exact_mut(half)).enumerate() {
        for ((f, c), s) in freqs.iter().zip(cos).zip(sin) {
            let (sine, cosine) = ((first + i) as f64 * f).sin_cos();
            (*c, *s) = ((cosine * amplitude) as f32, (sine * amplitude) as f32);
        }
    }
}

pub(super) fn angles(table: &[f32], half: usize) -> Angles<'_> {
    let (cos, sin) = table.split_at(table.len() / 2);
    Angles { cos, sin, half }
}
