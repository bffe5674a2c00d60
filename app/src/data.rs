//! `ullage data`: what a file of training data comes to, and its first documents with what is learned of them.

use std::io::IsTerminal as _;
use std::path::Path;

use serde_json::json;
use ullage_core::config::Config;
use ullage_core::model::Model;
use ullage_core::model::text::Words;
use ullage_core::train::data::preview::{Preview, Row, preview};
use ullage_core::{Error, Result};

use crate::args;
use crate::source::{key_value, say, say_json};

/// Around what is learned: on a terminal a colour, otherwise a bracket.
const COLOUR: [&str; 2] = ["\u{1b}[32m", "\u{1b}[0m"];
const BRACKETS: [&str; 2] = ["«", "»"];

pub fn data(args: &args::Data) -> Result<u8> {
    let here = Path::new(".");
    let config = chosen(args)?;
    let train =
        config.train.ok_or_else(|| Error::Internal("a configuration without the section that was set".into()))?;
    let words = Words::of(&Model::open(&args.model, here)?)?;
    let seen = preview(&train, config.run.parse_special.in_text(), &words, here, args.rows)?;
    if args.json {
        let pieces =
            |row: &Row| row.pieces.iter().map(|p| json!({ "text": p.text, "learned": p.learned })).collect::<Vec<_>>();
        say_json(&json!({
            "file": train.data, "kind": seen.kind, "records": seen.records, "unused": seen.unused,
            "documents": seen.documents, "left_out": seen.left_out, "tokens": seen.tokens, "learned": seen.learned,
            "longest": seen.longest, "longer": seen.longer, "notes": seen.notices,
            "first": seen.rows.iter().map(pieces).collect::<Vec<_>>(),
        }))?;
        return Ok(0);
    }
    say(&shown(&args.file, &seen));
    Ok(0)
}

/// The configuration that the arguments make.
fn chosen(args: &args::Data) -> Result<Config> {
    let mut sets: Vec<_> = args.sets.iter().map(|set| key_value(set)).collect::<Result<_>>()?;
    sets.insert(0, ("train.data".into(), format!("{:?}", args.file)));
    ullage_core::catalog::from_toml("", &sets)
}

fn shown(file: &str, seen: &Preview) -> String {
    let mut out = match seen.kind {
        "" => format!("{file}\n"),
        kind => format!("{file}: {kind}, {} records\n", seen.records),
    };
    out += &format!(
        "{} documents of {} tokens, {} of them learned; the longest has {}\n",
        seen.documents, seen.tokens, seen.learned, seen.longest
    );
    for note in &seen.notices {
        out += &format!("note: {note}\n");
    }
    let marks = if std::io::stdout().is_terminal() { COLOUR } else { BRACKETS };
    for (i, row) in seen.rows.iter().enumerate() {
        out += &format!("\ndocument {} ({} tokens, {} learned)\n", i + 1, row.tokens, row.learned);
        for piece in &row.pieces {
            let text = printable(&piece.text);
            out += &if piece.learned { [marks[0], &text, marks[1]].concat() } else { text };
        }
        out += if row.cut { " …\n" } else { "\n" };
    }
    out
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
