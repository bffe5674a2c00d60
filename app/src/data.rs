//! `ullage data`: what a file of training data comes to, and its first documents with what is learned of them.

use std::io::IsTerminal as _;
use std::path::Path;

use serde_json::json;
use ullage_core::config::train::{Train, Validation};
use ullage_core::model::Model;
use ullage_core::model::text::Words;
use ullage_core::train::data::{Dataset, Documents, Options, Packed};
use ullage_core::{Error, Result};

use crate::args;
use crate::source::{key_value, say, say_json};

/// Tokens of one document that are shown.
const SHOWN: usize = 2000;
/// Around what is learned: on a terminal a colour, otherwise a bracket.
const COLOUR: [&str; 2] = ["\u{1b}[32m", "\u{1b}[0m"];
const BRACKETS: [&str; 2] = ["«", "»"];

pub fn data(args: &args::Data) -> Result<u8> {
    let here = Path::new(".");
    let train = chosen(args)?;
    let words = Words::of(&Model::open(&args.model, here)?)?;
    if words.tokenizer.is_none() {
        return Err(words.no_words("training data"));
    }
    let options = Options {
        validation: Validation::Share(0.0),
        loss_on: train.loss_on,
        split: train.documents,
        template: train.template,
        ..Options::new(&train.data)
    };
    let packed = Packed::new(Dataset::open(&options, &words, here)?, train.length, train.packing)?;
    let documents = packed.documents();
    let n = documents.len().min(args.rows);
    if args.json {
        let list: Vec<_> = (0..n)
            .map(|i| {
                parts(documents, &words, i)
                    .map(|(text, learn)| json!({ "text": text, "learned": learn }))
                    .collect::<Vec<_>>()
            })
            .collect();
        let told = documents.told();
        say_json(&json!({
            "file": train.data, "kind": told.kind, "records": told.records, "unused": told.unused,
            "documents": documents.len(), "left_out": documents.left_out(), "tokens": documents.tokens(),
            "learned": documents.targets(), "longest": documents.longest(), "longer": documents.longer_than(train.length),
            "notes": packed.remarks(), "first": list,
        }))?;
        return Ok(0);
    }
    say(&shown(args, &packed, &words, n));
    Ok(0)
}

/// The section that the arguments make.
fn chosen(args: &args::Data) -> Result<Train> {
    let mut sets: Vec<_> = args.sets.iter().map(|set| key_value(set)).collect::<Result<_>>()?;
    sets.insert(0, ("train.data".into(), format!("{:?}", args.file)));
    let config = ullage_core::catalog::from_toml("", &sets)?;
    config.train.ok_or_else(|| Error::Internal("a configuration without the section that was set".into()))
}

fn shown(args: &args::Data, packed: &Packed, words: &Words, n: usize) -> String {
    let documents = packed.documents();
    let told = documents.told();
    let mut out = match told.kind {
        "" => format!("{}\n", args.file),
        kind => format!("{}: {kind}, {} records\n", args.file, told.records),
    };
    out += &format!(
        "{} documents of {} tokens, {} of them learned; the longest has {}\n",
        documents.len(),
        documents.tokens(),
        documents.targets(),
        documents.longest()
    );
    for note in packed.remarks() {
        out += &format!("note: {note}\n");
    }
    let marks = if std::io::stdout().is_terminal() { COLOUR } else { BRACKETS };
    for i in 0..n {
        let (tokens, learned) =
            documents.document(i).fold((0, 0), |(n, l), (_, learn)| (n + 1, l + usize::from(learn)));
        out += &format!("\ndocument {} ({tokens} tokens, {learned} learned)\n", i + 1);
        for (text, learn) in parts(documents, words, i) {
            let text = printable(&text);
            out += &if learn { [marks[0], &text, marks[1]].concat() } else { text };
        }
        out += if tokens > SHOWN { " …\n" } else { "\n" };
    }
    out
}

/// The text of document `i` in stretches that are learned, and that are not.
fn parts<'a>(documents: &'a Documents, words: &'a Words, i: usize) -> impl Iterator<Item = (String, bool)> + 'a {
    let mut list: Vec<(Vec<u8>, bool)> = Vec::new();
    for (id, learn) in documents.document(i).take(SHOWN) {
        let piece = words.tokenizer.as_ref().map(|t| t.piece(id)).unwrap_or_default();
        match list.last_mut().filter(|(_, last)| *last == learn) {
            Some((bytes, _)) => bytes.extend(piece),
            None => list.push((piece, learn)),
        }
    }
    list.into_iter().map(|(bytes, learn)| (String::from_utf8_lossy(&bytes).into_owned(), learn))
}

/// Text whose control characters cannot steer a terminal.
fn printable(text: &str) -> String {
    let one = |c: char| match c {
        '\n' | '\t' => c.to_string(),
        c if c.is_control() => c.escape_default().to_string(),
        c => c.to_string(),
    };
    text.chars().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_cannot_steer_a_terminal() {
        assert_eq!(printable("a\u{1b}[2J\r\n\té\u{9b}"), "a\\u{1b}[2J\\r\n\té\\u{9b}");
    }
}
