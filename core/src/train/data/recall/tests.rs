#![allow(clippy::unwrap_used)]
//! The text against what it promises: pieces that encode as the whole, answers that stand in the text, weights.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::model::Model;

fn words() -> Arc<Words> {
    Arc::new(Words::of(&Model::open("bundled:recall", Path::new(".")).unwrap()).unwrap())
}

fn recall(rows: usize, length: usize, threads: usize) -> Recall {
    Recall::new(words(), 20, rows, 2, length, threads).unwrap()
}

#[test]
fn pieces_alone_encode_as_the_whole_text() {
    let r = recall(64, 512, 1);
    let mut known = Known::new();
    for stream in 0..60 {
        let mut maker = r.maker(stream, &mut known);
        for pieces in [maker.haystack(300).unwrap(), maker.code_list(300), maker.told(), maker.chat(300).unwrap()] {
            let text: String = pieces.iter().map(|p| p.text.as_str()).collect();
            let alone = maker.encoder.pieces(&pieces).unwrap();
            assert_eq!(alone.ids, r.words.encode_as(&text, false, true).unwrap(), "{text}");
        }
    }
}

#[test]
fn a_row_is_a_function_of_its_number() {
    let (one, four) = (recall(100, 600, 1), recall(100, 600, 4));
    for which in [&[0, 1, 50][..], &[99, 0]] {
        let batch = one.batch(which).unwrap();
        assert_eq!(batch, four.batch(which).unwrap());
        batch.check(one.words.vocab()).unwrap();
        for (i, row) in which.iter().enumerate() {
            let alone = one.batch(&[*row]).unwrap();
            assert_eq!(alone.tokens, batch.tokens[i * 600..(i + 1) * 600]);
            assert_eq!(alone.targets, batch.targets[i * 600..(i + 1) * 600]);
        }
    }
    let other = Recall::new(words(), 21, 100, 2, 600, 1).unwrap();
    assert_ne!(one.batch(&[0]).unwrap().tokens, other.batch(&[0]).unwrap().tokens);
    assert!(one.batch(&[100]).is_err());
    assert!(one.fingerprint() == four.fingerprint() && one.fingerprint() != recall(101, 600, 1).fingerprint());
    // Stages: short stretches first, the longest last, what is left over as one shorter.
    let starts = |row: usize| {
        let mut s = one.batch(&[row]).unwrap().segments;
        s.dedup();
        s
    };
    assert_eq!((starts(0), starts(50), starts(99)), (vec![0, 256, 512], vec![0], vec![0]));
}

#[test]
fn targets_count_with_the_chance_of_their_weight() {
    let r = recall(4000, 1024, 2);
    let mut known = Known::new();
    let mut by: BTreeMap<u32, (usize, usize)> = BTreeMap::new();
    for row in 0..120usize {
        let batch = r.batch(&[row]).unwrap();
        for part in 0..4 {
            let text = r.maker(TEXT + ((row as u64) << PARTS) + part as u64, &mut known).stretch(256).unwrap();
            for i in 0..256 {
                let at = part * 256 + i;
                assert_eq!(batch.tokens[at], text.ids[i]);
                let target = batch.targets[at];
                assert!(target == NO_LOSS || target == text.ids[i + 1]);
                let count = by.entry((text.weights[i + 1] * 100.0).round() as u32).or_default();
                count.0 += usize::from(target != NO_LOSS);
                count.1 += 1;
            }
        }
    }
    assert_eq!(by.keys().copied().collect::<Vec<_>>(), [0, 2, 10, 30, 50, 100]);
    for (weight, (hits, n)) in by {
        let (p, n) = (f64::from(weight) / 100.0, n as f64);
        assert!((hits as f64 - p * n).abs() <= 4.0 * (p * (1.0 - p) * n).sqrt(), "{weight} %: {hits} of {n}");
    }
}

#[test]
fn answers_of_exams_stand_in_their_text_before_they_are_asked() {
    let r = recall(8, 2048, 2);
    let batch = r.held_out_batch(&[0, 1]).unwrap();
    batch.check(r.words.vocab()).unwrap();
    let tokenizer = r.words.tokenizer.as_ref().unwrap();
    for (s, start) in [(0, 0), (0, 1024), (1, 0), (1, 1024)] {
        let from = s * 2048 + start;
        let (ids, targets) = (&batch.tokens[from..from + 1024], &batch.targets[from..from + 1024]);
        let first = targets.iter().position(|t| *t != NO_LOSS).unwrap();
        let answer: Vec<u32> = targets[first..].iter().copied().take_while(|t| *t != NO_LOSS).collect();
        let text = |ids: &[u32]| -> String {
            String::from_utf8(ids.iter().flat_map(|id| tokenizer.piece(*id)).collect()).unwrap()
        };
        let (before, answer) = (text(&ids[..=first]), text(&answer));
        assert!(answer.trim().bytes().all(|b| b.is_ascii_digit()), "{answer}");
        assert!(before.contains(answer.as_str()), "{answer:?} is not in {before}");
        // Most of the exam is filler, and it fits.
        assert!(first > 500 && batch.segments[from] as usize == start, "{first}");
    }
    assert!(r.held_out() == 2 && r.held_out_batch(&[0]).unwrap().tokens == batch.tokens[..2048]);
}

#[test]
fn other_words_and_short_rows_are_refused() {
    let none = Words::of(&Model::open("random:llama-1b@q4_0", Path::new(".")).unwrap()).unwrap();
    let error = Recall::new(Arc::new(none), 0, 1, 0, 256, 1).unwrap_err().to_string();
    assert!(error.contains("random:bundled:recall"), "{error}");
    let error = Recall::new(words(), 0, 1, 0, 32, 1).unwrap_err().to_string();
    assert!(error.contains("train.length") && error.contains("64"), "{error}");
}
