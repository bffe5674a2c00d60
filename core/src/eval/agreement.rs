//! How far two engines' logits for the same tokens lie apart. A value that is no number is named, and never makes a figure
//! look good: with one, there is no divergence to tell and no agreement.

use serde::Serialize;

use super::metrics::log_sum_exp;
use crate::model::sampling::Sampler;

/// What two engines in f32 may differ by and still be said to agree.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Tolerance {
    /// Most KL divergence at any position, in nats.
    pub kl: f64,
    /// Most difference of any logit, as a fraction of the largest logit in size.
    pub difference: f64,
}

/// Rounding in f32 through a few dozen layers stays two orders of magnitude below these; a wrong rope, mask, norm or scale lies
/// far above.
pub const F32: Tolerance = Tolerance { kl: 1e-6, difference: 1e-3 };

/// Values that are no numbers in one row of one side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotFinite {
    /// Whose: `reference` or `engine`.
    pub side: &'static str,
    /// Row.
    pub position: usize,
    /// The first such entry of the vocabulary.
    pub token: usize,
    /// How many there are in the row.
    pub count: usize,
}

/// A position at which the most likely tokens differ.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OtherToken {
    /// Row.
    pub position: usize,
    /// The reference's most likely token.
    pub reference: u32,
    /// The engine's.
    pub engine: u32,
    /// By how much the reference prefers its own over the engine's: a tie within rounding, or an error.
    pub margin: f64,
}

/// The largest difference of a logit, and where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Largest {
    /// |reference − engine|.
    pub difference: f64,
    /// Row.
    pub position: usize,
    /// Entry of the vocabulary.
    pub token: usize,
}

/// Most rows with values that are no numbers that are named.
const NAMED: usize = 8;

/// Two matrices of logits `(positions, vocab)`, compared row by row.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Agreement {
    /// Rows compared.
    pub positions: usize,
    /// Mean over the rows of Σ p_ref (ln p_ref − ln p), in nats, in f64; none where a value is no number.
    pub kl_mean: Option<f64>,
    /// The largest of them.
    pub kl_max: Option<f64>,
    /// The row of the largest.
    pub kl_max_position: usize,
    /// The largest difference among values that are numbers.
    pub largest: Largest,
    /// The largest logit of the reference, in size.
    pub scale: f64,
    /// Rows whose most likely token is the same.
    pub same_token: usize,
    /// The first row whose most likely token is another.
    pub first_other: Option<OtherToken>,
    /// Rows with values that are no numbers, the first few.
    pub not_finite: Vec<NotFinite>,
    /// How many such rows there are.
    pub not_finite_rows: usize,
    #[serde(skip)]
    kl_sum: f64,
}

/// Σ p_ref (ln p_ref − ln p) of rows whose values are all numbers.
fn kl(reference: &[f32], engine: &[f32]) -> f64 {
    let (a, b) = (log_sum_exp(reference), log_sum_exp(engine));
    let term = |(r, e): (&f32, &f32)| {
        let ln_p = f64::from(*r) - a;
        ln_p.exp() * (ln_p - (f64::from(*e) - b))
    };
    // Below zero only by rounding, and f64::max would make 0 of what is no number.
    match reference.iter().zip(engine).map(term).sum::<f64>() {
        kl if kl < 0.0 => 0.0,
        kl => kl,
    }
}

impl Agreement {
    /// Compares matrices of rows of `vocab` logits.
    pub fn of(reference: &[f32], engine: &[f32], vocab: usize) -> Self {
        let mut out = Self::default();
        for (r, e) in reference.chunks_exact(vocab).zip(engine.chunks_exact(vocab)) {
            out.row(r, e);
        }
        out
    }

    /// Takes the next row of both sides in.
    pub fn row(&mut self, reference: &[f32], engine: &[f32]) {
        let position = self.positions;
        self.positions += 1;
        let mut finite = true;
        for (side, row) in [("reference", reference), ("engine", engine)] {
            let mut wrong = row.iter().enumerate().filter(|(_, v)| !v.is_finite()).map(|(i, _)| i);
            let Some(token) = wrong.next() else { continue };
            finite = false;
            self.not_finite_rows += 1;
            if self.not_finite.len() < NAMED {
                self.not_finite.push(NotFinite { side, position, token, count: 1 + wrong.count() });
            }
        }
        for (token, (r, e)) in reference.iter().zip(engine).enumerate() {
            let difference = (f64::from(*r) - f64::from(*e)).abs();
            if difference.is_finite() && difference > self.largest.difference {
                self.largest = Largest { difference, position, token };
            }
            if r.is_finite() {
                self.scale = self.scale.max(f64::from(r.abs()));
            }
        }
        if !finite {
            (self.kl_mean, self.kl_max) = (None, None);
            return;
        }
        let (r, e) = (Sampler::greedy(reference), Sampler::greedy(engine));
        if r == e {
            self.same_token += 1;
        } else if self.first_other.is_none() {
            let margin = f64::from(reference[r as usize]) - f64::from(reference[e as usize]);
            self.first_other = Some(OtherToken { position, reference: r, engine: e, margin });
        }
        let kl = kl(reference, engine);
        self.kl_sum += kl;
        if self.not_finite_rows == 0 {
            if self.kl_max.is_none_or(|most| kl > most) {
                (self.kl_max, self.kl_max_position) = (Some(kl), position);
            }
            self.kl_mean = Some(self.kl_sum / self.positions as f64);
        }
    }

    /// What is beyond `tolerance`, a line each; nothing where the two agree.
    pub fn beyond(&self, tolerance: Tolerance) -> Vec<String> {
        let mut out = Vec::new();
        if self.positions == 0 {
            out.push("no position was compared".to_owned());
        }
        for n in &self.not_finite {
            let NotFinite { side, position, token, count } = n;
            out.push(format!(
                "{count} logits of the {side} are no numbers at position {position}, the first for token {token}"
            ));
        }
        if let Some(kl) = self.kl_max.filter(|kl| kl.is_nan() || *kl > tolerance.kl) {
            out.push(format!(
                "KL of {kl:.3e} nats at position {}; at most {:.0e} is allowed",
                self.kl_max_position, tolerance.kl
            ));
        }
        let allowed = tolerance.difference * self.scale;
        let Largest { difference, position, token } = self.largest;
        if difference > allowed {
            out.push(format!(
                "logits differ by {difference:.3e} at position {position}, token {token}; at most {allowed:.3e} is allowed"
            ));
        }
        // Another token is a finding only where the two were no tie within what logits may differ by.
        if let Some(other) = self.first_other.as_ref().filter(|o| o.margin > 2.0 * allowed) {
            out.push(format!(
                "another most likely token at position {}: {} in the reference, {} in the engine",
                other.position, other.reference, other.engine
            ));
        }
        out
    }
}

/// The largest |a − b| as a fraction of the largest |a|: how far a layer's outputs lie apart. Infinite where a value is no
/// number.
pub fn relative_difference(a: &[f32], b: &[f32]) -> f64 {
    let (mut most, mut size) = (0.0f64, 0.0f64);
    for (a, b) in a.iter().zip(b) {
        if !(a.is_finite() && b.is_finite()) {
            return f64::INFINITY;
        }
        most = most.max((f64::from(*a) - f64::from(*b)).abs());
        size = size.max(f64::from(a.abs()));
    }
    if most == 0.0 { 0.0 } else { most / size.max(f64::MIN_POSITIVE) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_those_made_by_hand() {
        // p = (1/2, 1/2), q = (1/4, 3/4): KL = ½ ln 2 + ½ ln ⅔; the second row is the same on both sides.
        let third = 3f32.ln();
        let a = Agreement::of(&[0.0, 0.0, 1.0, 3.0], &[0.0, third, 1.0, 3.0], 2);
        let expected = 0.5 * 2f64.ln() + 0.5 * (2.0f64 / 3.0).ln();
        assert!((a.kl_max.unwrap() - expected).abs() < 1e-7 && (a.kl_mean.unwrap() - expected / 2.0).abs() < 1e-7);
        assert_eq!((a.positions, a.kl_max_position, a.same_token, a.scale), (2, 0, 1, 3.0));
        assert_eq!(a.largest, Largest { difference: f64::from(third), position: 0, token: 1 });
        assert_eq!(a.first_other, Some(OtherToken { position: 0, reference: 0, engine: 1, margin: 0.0 }));
        let beyond = a.beyond(F32);
        assert_eq!(beyond.len(), 2, "{beyond:?}");
        assert!(beyond[0].starts_with("KL of 1.438e-1 nats at position 0"), "{beyond:?}");
        assert!(beyond[1].contains("differ by 1.099e0 at position 0, token 1; at most 3.000e-3"), "{beyond:?}");
    }

    #[test]
    fn the_same_logits_agree_and_none_at_all_do_not() {
        let x = [0.5, -2.0, 7.0, 1e-3, 4.0, 4.0];
        let same = Agreement::of(&x, &x, 3);
        assert_eq!((same.kl_mean, same.kl_max, same.same_token, same.beyond(F32).len()), (Some(0.0), Some(0.0), 2, 0));
        assert_eq!(Agreement::of(&[], &[], 3).beyond(F32), ["no position was compared"]);
    }

    #[test]
    fn another_token_counts_unless_it_was_a_tie() {
        let tie = Agreement::of(&[10.0, 9.9999], &[9.9999, 10.0], 2);
        assert_eq!(tie.first_other.as_ref().map(|o| (o.reference, o.engine)), Some((0, 1)));
        assert!(tie.beyond(F32).is_empty(), "{:?}", tie.beyond(F32));
        let error = Agreement::of(&[10.0, 9.0], &[9.0, 10.0], 2);
        assert!(
            error
                .beyond(F32)
                .iter()
                .any(|l| l.contains("another most likely token at position 0: 0 in the reference, 1"))
        );
    }

    #[test]
    fn what_is_no_number_is_named_and_leaves_no_score() {
        let good = [0.0, 1.0, 2.0];
        for (at, bad) in [(0, f32::NAN), (1, f32::INFINITY), (2, f32::NEG_INFINITY)] {
            let mut engine = [good, good, good].concat();
            engine[3 + at] = bad;
            let a = Agreement::of(&[good, good, good].concat(), &engine, 3);
            assert_eq!((a.kl_mean, a.kl_max, a.not_finite_rows, a.same_token), (None, None, 1, 2), "{bad}");
            assert_eq!(a.not_finite, [NotFinite { side: "engine", position: 1, token: at, count: 1 }]);
            let beyond = a.beyond(F32);
            assert!(beyond[0].contains("1 logits of the engine are no numbers at position 1"), "{beyond:?}");
            assert_eq!(serde_json::to_value(&a).unwrap()["kl_mean"], serde_json::Value::Null);
        }
        // Alike on both sides is no agreement either.
        let nan = [f32::NAN; 3];
        assert!(!Agreement::of(&nan, &nan, 3).beyond(F32).is_empty());
    }

    #[test]
    fn a_layers_difference_is_relative_to_its_size() {
        assert_eq!(relative_difference(&[4.0, -8.0], &[4.0, -7.0]), 0.125);
        assert_eq!(relative_difference(&[0.0, 0.0], &[0.0, 0.0]), 0.0);
        assert_eq!(relative_difference(&[1.0, f32::NAN], &[1.0, 2.0]), f64::INFINITY);
        assert_eq!(relative_difference(&[1.0], &[f32::INFINITY]), f64::INFINITY);
    }
}
