//! Whether a training came to nothing.

/// Fewest steps of which anything is said: its last quarter is then more than one draw of the data.
const LEAST: usize = 8;

/// What the losses of a run's steps say of its end, where it collapsed: through its last quarter every loss at ln(`vocab`) or
/// above, which a guess without any knowledge has, or above the first. `vocab` is 0 where it is not known.
pub(super) fn of(losses: &[f64], vocab: u64) -> Option<String> {
    let n = losses.len();
    let (first, last) = (*losses.first()?, losses.get(n - n / 4..)?);
    if n < LEAST {
        return None;
    }
    // What is no number is not below anything.
    let stays = |bound: f64| last.iter().all(|loss| loss.is_nan() || *loss >= bound);
    let quarter = format!("through the last {} of {n} steps the loss", last.len());
    let chance = (vocab as f64).ln();
    if vocab > 1 && stays(chance) {
        return Some(format!(
            "{quarter} was at ln(vocabulary) = {chance:.2} or above: it predicts no better than chance; lower train.lr"
        ));
    }
    if stays(first) && last.iter().all(|loss| *loss != first) {
        return Some(format!(
            "{quarter} was above the {first:.4} that it began with: it lost more than it learned; lower train.lr"
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_training_collapses_by_its_last_quarter_and_by_nothing_else() {
        let with = |last: f64| {
            let mut losses = vec![2.0; 12];
            losses.extend([last; 4]);
            losses
        };
        let chance = 512f64.ln();
        let said = |losses: &[f64]| of(losses, 512);
        assert!(said(&with(chance)).unwrap().contains("ln(vocabulary) = 6.24"));
        assert!(said(&with(f64::NAN)).unwrap().contains("ln(vocabulary)"));
        assert!(
            said(&with(2.5)).unwrap().contains("last 4 of 16 steps") && said(&with(2.5)).unwrap().contains("2.0000")
        );
        assert_eq!(said(&with(1.5)), None);
        assert_eq!(said(&with(2.0)), None, "no worse than it began");
        let mut once = with(9.0);
        once[14] = 1.0;
        assert_eq!(said(&once), None, "one good step of the quarter");
        assert_eq!(of(&with(9.0)[9..], 512), None, "seven steps are too few");
        // Where the vocabulary is not known, its beginning is all there is to compare with.
        assert!(of(&with(9.0), 0).unwrap().contains("began with"));
        assert_eq!(of(&[], 512), None);
    }
}
