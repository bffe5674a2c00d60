use super::*;
use crate::view::Token;
use proptest::prelude::*;

fn written(texts: &[String]) -> Written {
    let tokens = texts.iter().enumerate().map(|(i, text)| Token { id: i as u32, text: text.clone() }).collect();
    Written { tokens, ..Written::default() }
}

/// Every character is 7 points wide.
fn rows(written: &Written, to: usize, width: f32) -> Rows {
    let mut rows = Rows::default();
    rows.update(written, 0..to, width, 1.0, |_| 7.0);
    rows
}

fn texts(written: &Written, rows: &Rows) -> Vec<String> {
    let text = |p: &Piece| &written.tokens[p.token as usize].text[p.start as usize..p.end as usize];
    (0..rows.len()).map(|row| rows.row(row).iter().map(text).collect()).collect()
}

fn tokens(text: &[&str]) -> Written {
    written(&text.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>())
}

#[test]
fn rows_break_at_blanks_and_at_line_ends() {
    let w = tokens(&["One", " empt", "iness", " left", ".\n\n", "Next"]);
    let r = rows(&w, w.tokens.len(), 12.0 * 7.0);
    assert_eq!(texts(&w, &r), ["One", " emptiness", " left.", "", "Next"]);
    assert_eq!((r.row_of(2), r.row_of(5), r.row_of(6)), (Some(1), Some(4), None));
    assert_eq!((r.beside(1, 1), r.beside(5, -1), r.beside(0, -1)), (3, 3, 0));
    let long = tokens(&["supercalifragilistic"]);
    assert_eq!(texts(&long, &rows(&long, 1, 70.0)), ["supercalif", "ragilistic"]);
    assert_eq!(rows(&tokens(&[]), 0, 70.0).len(), 1);
}

proptest! {
    #[test]
    fn nothing_is_lost_nothing_too_wide_and_growing_is_the_same_as_at_once(
        texts_ in prop::collection::vec("[ a-zé\n]{0,9}", 0..60), width in 5u32..40, cut in 0usize..60,
    ) {
        let w = written(&texts_);
        let width = 7.0 * width as f32;
        let once = rows(&w, w.tokens.len(), width);
        let mut grown = rows(&w, cut.min(w.tokens.len()), width);
        grown.update(&w, 0..w.tokens.len(), width, 1.0, |_| 7.0);
        prop_assert_eq!(texts(&w, &once), texts(&w, &grown));
        let all: String = texts_.concat().replace('\n', "");
        prop_assert_eq!(texts(&w, &once).concat(), all);
        for row in texts(&w, &once) {
            prop_assert!(row.chars().count() as f32 * 7.0 <= width + 0.1, "{:?}", row);
        }
        prop_assert_eq!(once.len() >= 1 + texts_.concat().matches('\n').count(), true);
        for token in 0..w.tokens.len() {
            if let Some(row) = once.row_of(token) {
                prop_assert!(once.row(row).iter().any(|p| p.token as usize >= token));
            }
        }
    }
}

#[test]
fn another_text_of_the_same_length_is_laid_out_anew() {
    let (a, b) = (tokens(&["One", " two"]), tokens(&["Six", " ten"]));
    let mut r = rows(&a, 2, 200.0);
    r.update(&b, 0..2, 200.0, 1.0, |_| 7.0);
    assert_eq!(texts(&b, &r), ["Six ten"]);
    let mut measured = 0;
    r.update(&b, 0..2, 200.0, 1.0, |_| {
        measured += 1;
        7.0
    });
    assert_eq!(measured, 0, "what has not changed is not measured again");
}

#[test]
fn what_left_the_cache_is_fainter_the_less_of_it_is_kept() {
    use crate::theme::{DARK, LIGHT};
    for palette in [&DARK, &LIGHT] {
        let away = |kept| {
            let (a, b) = (ink(palette, palette.text, kept), palette.background);
            (i32::from(a.g()) - i32::from(b.g())).abs()
        };
        let shares = [None, Some(0.75), Some(0.5), Some(0.25), Some(0.0)].map(away);
        assert!(shares.windows(2).all(|w| w[0] > w[1]), "{shares:?}");
        assert_eq!(away(None), away(Some(f32::NAN)));
        assert!(shares[4] > 40, "never gone from the screen: {shares:?}");
    }
    let mut w = tokens(&[" a\n"]);
    w.kept = vec![0.25];
    assert_eq!(describe(&w, 0), "“ a\\n”, token 0, position 0, still in 25 % of the heads’ caches");
    assert_eq!(describe(&w, 9), "");
}
