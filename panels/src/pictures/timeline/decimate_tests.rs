use super::*;
use proptest::prelude::*;

fn series(seconds: &[f64], bytes: &[u64]) -> Totals {
    let moments: Vec<Moment> = seconds
        .iter()
        .zip(bytes)
        .map(|(s, b)| {
            let mut held = [[0; 9]; 3];
            held[0][0] = *b;
            Moment { seconds: *s, step: 0, held }
        })
        .collect();
    let mut totals = Totals::default();
    totals.update(&moments, Tier::Device, &[false; 9]);
    totals
}

/// Moments that hold in a column, looked for one by one.
fn holding(totals: &Totals, window: &Range<f64>, columns_: usize, c: usize) -> Vec<usize> {
    let place = |i: usize| (totals.seconds[i] - window.start) / (window.end - window.start) * columns_ as f64;
    (0..totals.bytes.len())
        .filter(|i| {
            let starts = place(*i);
            let begins_here = totals.seconds[*i] >= window.start
                && totals.seconds[*i] <= window.end
                && (starts as usize).min(columns_ - 1) == c;
            let ends = if i + 1 < totals.bytes.len() { place(i + 1) } else { f64::INFINITY };
            begins_here || (starts <= c as f64 && ends > c as f64)
        })
        .collect()
}

proptest! {
    #[test]
    fn no_extreme_is_lost_and_columns_run_left_to_right(
        steps in prop::collection::vec((0u32..40, 0u64..1000), 1..600),
        start in 0u32..500, length in 1u32..3000, wide in 1usize..64,
    ) {
        let mut now = 0;
        let seconds: Vec<f64> = steps.iter().map(|(d, _)| { now += d; f64::from(now) / 16.0 }).collect();
        let bytes: Vec<u64> = steps.iter().map(|(_, b)| *b).collect();
        let totals = series(&seconds, &bytes);
        let window = f64::from(start) / 16.0..f64::from(start + length) / 16.0;
        let out = columns(&totals, window.clone(), wide);
        prop_assert!(out.len() <= wide);
        let mut seen = 0;
        for column in &out {
            prop_assert!(column.from >= seen && column.to > column.from && column.to <= wide);
            prop_assert!(column.first <= column.last && column.least >= column.first && column.most <= column.last);
            seen = column.to;
            for c in column.from..column.to {
                let all = holding(&totals, &window, wide, c);
                let least = all.iter().map(|i| bytes[*i]).min();
                let most = all.iter().map(|i| bytes[*i]).max();
                prop_assert_eq!(Some(bytes[column.least]), least, "column {} of {:?}", c, out);
                prop_assert_eq!(Some(bytes[column.most]), most, "column {} of {:?}", c, out);
            }
        }
        // What is left out holds nothing.
        for c in (0..wide).filter(|c| !out.iter().any(|o| (o.from..o.to).contains(c))) {
            prop_assert!(holding(&totals, &window, wide, c).is_empty());
        }
    }

    #[test]
    fn coming_piece_by_piece_gives_the_same_as_coming_at_once(
        steps in prop::collection::vec((0u32..9, 0u64..99), 1..120), cut in 0usize..120, hide in 0usize..9,
    ) {
        let mut now = 0;
        let moments: Vec<Moment> = steps.iter().enumerate().map(|(i, (d, b))| {
            now += d;
            let mut held = [[0; 9]; 3];
            held[1][i % 9] = *b;
            Moment { seconds: f64::from(now), step: i, held }
        }).collect();
        let mut hidden = [false; 9];
        hidden[hide] = true;
        let (mut once, mut twice) = (Totals::default(), Totals::default());
        once.update(&moments, Tier::Host, &hidden);
        twice.update(&moments[..cut.min(moments.len())], Tier::Host, &hidden);
        twice.update(&moments, Tier::Host, &hidden);
        prop_assert_eq!((&once.seconds, &once.bytes), (&twice.seconds, &twice.bytes));
        // Another run of the same length is not taken for this one.
        let other: Vec<Moment> = moments.iter().map(|m| Moment { step: m.step + 1, ..*m }).collect();
        twice.update(&other, Tier::Device, &hidden);
        prop_assert!(twice.bytes.iter().all(|b| *b == 0));
    }

    #[test]
    fn every_event_in_the_window_is_counted_once(
        events in prop::collection::vec((0u32..1000, 1u64..50), 0..100), wide in 1usize..50,
    ) {
        let events: Vec<(f64, u64)> = events.iter().map(|(s, n)| (f64::from(*s) / 10.0, *n)).collect();
        let within: u64 = events.iter().filter(|(s, _)| (20.0..=60.0).contains(s)).map(|(_, n)| n).sum();
        prop_assert_eq!(counts(&events, 20.0..60.0, wide).iter().sum::<u64>(), within);
    }
}

#[test]
fn a_spike_of_no_duration_among_a_hundred_thousand_is_kept() {
    let n = 100_000;
    let seconds: Vec<f64> = (0..n).map(|i| f64::from(i / 2)).collect();
    let mut bytes = vec![100; n as usize];
    bytes[54_322] = 900;
    bytes[71_000] = 3;
    let totals = series(&seconds, &bytes);
    let out = columns(&totals, 0.0..50_000.0, 800);
    assert!(out.len() <= 800);
    assert_eq!(out.iter().map(|c| bytes[c.most]).max(), Some(900));
    assert_eq!(out.iter().map(|c| bytes[c.least]).min(), Some(3));
    assert_eq!(totals.peak(), Some(54_322));
}

#[test]
fn steps_are_steps() {
    // 10 from 1 s, 30 from 2 s, 20 from 3 s on, over columns of half a second.
    let totals = series(&[1.0, 2.0, 3.0], &[10, 30, 20]);
    let out = columns(&totals, 0.0..4.0, 8);
    let spans: Vec<_> = out.iter().map(|c| (c.from, c.to, c.least, c.most)).collect();
    assert_eq!(spans, [(2, 3, 0, 0), (3, 4, 0, 0), (4, 5, 1, 1), (5, 6, 1, 1), (6, 7, 2, 2), (7, 8, 2, 2)]);
    assert_eq!((totals.at(0.9), totals.at(1.0), totals.at(2.99), totals.at(99.0)), (None, Some(0), Some(1), Some(2)));
    assert!(columns(&totals, 2.0..2.0, 8).is_empty() && columns(&Totals::default(), 0.0..1.0, 8).is_empty());
    assert!(columns(&totals, f64::NAN..1.0, 8).is_empty());
    let backwards = series(&[1.0, f64::NAN, 0.5, 2.0], &[1, 2, 3, 4]);
    assert_eq!(backwards.seconds, [1.0, 1.0, 1.0, 2.0]);
}
