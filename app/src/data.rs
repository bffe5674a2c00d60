//! `ullage data`: what a file of training data comes to, and its first documents with what is learned of them.

use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::Arc;

use serde_json::json;
use ullage_core::config::Config;
use ullage_core::model::Model;
use ullage_core::model::text::Words;
use ullage_core::train::data::{Asked, Preview};
use ullage_core::{Error, Result};

use crate::args;
use crate::source::{key_value, say, say_json};

/// Around what is learned: on a terminal a colour, otherwise a bracket.
const COLOUR: [&str; 2] = ["\u{1b}[32m", "\u{1b}[0m"];
const BRACKETS: [&str; 2] = ["«", "»"];

pub fn data(args: &args::Data) -> Result<u8> {
    let here = Path::new(".");
    let config = chosen(args)?;
    let train = config.train.as_ref().ok_or_else(|| Error::Internal("a section that was set is missing".into()))?;
    let words = Arc::new(Words::of(&Model::open(&args.model, here)?)?);
    let (seed, parse_special) = (config.run.seed, config.run.parse_special.in_text());
    let asked = Asked { train, words: &words, base: here, seed, parse_special, threads: config.threads() };
    let preview = Preview::of(&asked, args.rows)?;
    if args.json {
        say_json(&json!(preview))?;
    } else {
        say(&shown(&preview));
    }
    Ok(0)
}

/// The section that the arguments make.
fn chosen(args: &args::Data) -> Result<Config> {
    let mut sets: Vec<_> = args.sets.iter().map(|set| key_value(set)).collect::<Result<_>>()?;
    sets.insert(0, ("train.data".into(), format!("{:?}", args.file)));
    ullage_core::catalog::from_toml("", &sets)
}

fn shown(preview: &Preview) -> String {
    let Preview { file, kind, records, documents, tokens, learned, longest, .. } = preview;
    let mut out = match preview.rows {
        Some(rows) => format!("{file}: {rows} rows of {longest} tokens, made as they are learned\n"),
        None => format!(
            "{file}: {kind}, {records} records\n{documents} documents of {tokens} tokens, {learned} of them learned; the longest \
             has {longest}\n"
        ),
    };
    for note in &preview.notes {
        out += &format!("note: {note}\n");
    }
    let marks = if std::io::stdout().is_terminal() { COLOUR } else { BRACKETS };
    let what = if preview.rows.is_some() { "row" } else { "document" };
    for (i, first) in preview.first.iter().enumerate() {
        out += &format!("\n{what} {} ({} tokens, {} learned)\n", i + 1, first.tokens, first.learned);
        for stretch in &first.text {
            let text = printable(&stretch.text);
            out += &if stretch.learned { [marks[0], &text, marks[1]].concat() } else { text };
        }
        out += &if first.more > 0 { format!(" … and {} tokens more\n", first.more) } else { "\n".to_owned() };
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
