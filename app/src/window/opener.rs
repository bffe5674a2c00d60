//! Opens what is asked for, away from the window: models, configurations, run folders, curves measured elsewhere.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ullage_core::catalog::from_toml;
use ullage_core::config::Config;
use ullage_core::model::Model;
use ullage_core::model::text::Words;
use ullage_core::{Error, Result};
use ullage_panels::view::{Dot, Series};

use super::history;
use super::live::Live;
use super::session::Message;
use super::worker::Outbox;
use crate::source;

/// A model as a configuration names it, with the adapter beside its weights; or whatever else lies at a path.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// The path.
    pub path: String,
    /// The adapter's path.
    pub adapter: Option<String>,
    /// What its scale is multiplied by.
    pub scale: f32,
}

impl Wanted {
    /// What `config` names.
    pub fn of(config: &Config) -> Self {
        let ullage_core::config::Model { path, adapter, adapter_scale } = config.model.clone();
        Self { path, adapter, scale: adapter_scale }
    }

    /// Whatever lies at a path.
    pub fn at(path: impl Into<String>) -> Self {
        Self { path: path.into(), adapter: None, scale: 1.0 }
    }
}

/// A model that is open.
#[derive(Debug)]
pub struct Opened {
    /// As it was asked for.
    pub wanted: Wanted,
    /// Its path, as it was asked for.
    pub asked: String,
    /// Its shape and where its numbers are.
    pub model: Arc<Model>,
    /// Its words.
    pub words: Arc<Words>,
    /// True when it has a chat template of its own.
    pub chats: bool,
}

/// What was found at a path.
pub enum Found {
    /// A model.
    Model(Arc<Opened>),
    /// A configuration.
    Config(Box<Config>),
    /// A run folder, replayed.
    Run(Box<Live>),
    /// A curve measured elsewhere.
    Curve(Series),
}

/// Opens a model.
///
/// # Errors
/// A missing, damaged or unsupported file, named with the field at fault.
pub fn model(path: &str) -> Result<Opened> {
    adapted(&Wanted::at(path))
}

/// Opens a model with its adapter.
///
/// # Errors
/// As [`model`]; an adapter that is damaged or for another model.
pub fn adapted(wanted: &Wanted) -> Result<Opened> {
    let mut model = Model::open(&wanted.path, Path::new("."))?;
    if let Some(adapter) = &wanted.adapter {
        model = model.with_adapter(Path::new(adapter), wanted.scale)?;
    }
    let words = Words::of(&model)?;
    let chats = model.chat_template()?.is_some();
    let (wanted, asked) = (wanted.clone(), wanted.path.clone());
    Ok(Opened { wanted, asked, model: Arc::new(model), words: Arc::new(words), chats })
}

/// Reads a configuration; its relative paths are made absolute.
///
/// # Errors
/// A file that cannot be read; a wrong key or value.
pub fn config(path: &Path) -> Result<Config> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, "cannot read the configuration", &e))?;
    let mut config = from_toml(&text, &[])?;
    let base = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    source::anchor(&mut config, base);
    Ok(config)
}

/// Opens whatever lies at `path`.
///
/// # Errors
/// What is wrong with it.
pub fn open(wanted: &Wanted) -> Result<Found> {
    let at = PathBuf::from(&wanted.path);
    if at.is_dir() {
        return history::replay(&at).map(|live| Found::Run(Box::new(live)));
    }
    match at.extension().and_then(|e| e.to_str()) {
        Some("toml") => config(&at).map(|c| Found::Config(Box::new(c))),
        Some("csv") => curve(&at).map(Found::Curve),
        _ => adapted(wanted).map(|m| Found::Model(Arc::new(m))),
    }
}

/// Does one order of the opener's thread.
pub fn work(wanted: Wanted, outbox: &Outbox) {
    let found = open(&wanted);
    outbox.send(Message::Opened { wanted: Box::new(wanted), found: found.map_err(|e| e.to_string()) });
}

/// A curve in CSV: a column of bytes (`bytes`, `measured_peak` or `peak`), columns of figures named `task.figure`, and of them
/// standard errors named `task.figure_se`; columns named `label` and `machine` where there are any.
///
/// # Errors
/// A file that cannot be read, has no column of bytes or no figure, or a cell that is no number, named with its line.
pub fn curve(path: &Path) -> Result<Series> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, "cannot read the curve", &e))?;
    let wrong = |at: String, why: &str| Error::model(path, at, why);
    let mut lines = text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty());
    let Some((_, head)) = lines.next() else {
        return Err(wrong("the file".into(), "is empty; a curve has a line of names"));
    };
    let names = cells(head);
    let column = |of: &[&str]| names.iter().position(|n| of.contains(&n.as_str()));
    let bytes = column(&["bytes", "measured_peak", "peak"]).ok_or_else(|| {
        wrong("the first line".into(), "names no column of bytes; one is called bytes, measured_peak or peak")
    })?;
    let (label, machine) = (column(&["label"]), column(&["machine"]));
    let figure = |name: &str| name.contains('.') && !name.ends_with("_se") && !name.ends_with(".n");
    let figures: Vec<usize> = (0..names.len()).filter(|i| figure(&names[*i])).collect();
    if figures.is_empty() {
        return Err(wrong(
            "the first line".into(),
            "names no figure; they are called task.figure, such as recall.accuracy",
        ));
    }
    let mut out = Series {
        name: path.file_stem().map_or_else(|| "curve".into(), |s| s.to_string_lossy().into_owned()),
        machine: "measured elsewhere".into(),
        dots: Vec::new(),
    };
    for (i, line) in lines {
        let row = cells(line);
        let cell = |at: usize| row.get(at).map_or("", String::as_str);
        let number =
            |at: usize| -> Result<Option<f64>> {
                match cell(at) {
                    "" => Ok(None),
                    text => text.parse::<f64>().ok().filter(|v| v.is_finite()).map(Some).ok_or_else(|| {
                        wrong(format!("line {}, {}", i + 1, names[at]), &format!("`{text}` is no number"))
                    }),
                }
            };
        let Some(x) = number(bytes)?.filter(|b| *b >= 0.0) else { continue };
        let mut dot = Dot { bytes: x as u64, ..Dot::default() };
        for at in &figures {
            if let Some(v) = number(*at)? {
                dot.values.push((names[*at].clone(), v));
            }
            if let Some(se) = names.iter().position(|n| *n == format!("{}_se", names[*at]))
                && let Some(v) = number(se)?
            {
                dot.errors.push((names[*at].clone(), v));
            }
        }
        // Without a label of its own: whatever is no number says what was chosen.
        dot.label = match label {
            Some(at) => cell(at).to_owned(),
            None => row
                .iter()
                .enumerate()
                .filter(|(at, c)| *at < bytes && !c.is_empty())
                .map(|(_, c)| c.clone())
                .collect::<Vec<_>>()
                .join(" "),
        };
        if let Some(name) = machine.map(cell).filter(|m| !m.is_empty()) {
            out.machine = name.to_owned();
        }
        out.dots.push(dot);
    }
    out.dots.sort_by_key(|d| d.bytes);
    Ok(out)
}

/// Cells of a line of CSV; quotes may enclose commas.
fn cells(line: &str) -> Vec<String> {
    let (mut out, mut now, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = line.trim_end_matches('\r').chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                now.push('"');
                chars.next();
            }
            '"' => quoted = !quoted,
            ',' if !quoted => out.push(std::mem::take(&mut now).trim().to_owned()),
            c => now.push(c),
        }
    }
    out.push(now.trim().to_owned());
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_curve_of_a_sweep_reads_and_what_is_wrong_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("h200.csv");
        let text = "select,ratio,planned_peak,measured_peak,recall.accuracy,recall.accuracy_se,recall.n,error\n\
                    h2o,0.5,90,\"80\",0.5,0.1,96,\nh2o,0.2,50,40,,,,over_budget\nwindow,1,0,10,1,,96,\n";
        std::fs::write(&path, text).unwrap();
        let Found::Curve(series) = open(&Wanted::at(path.to_str().unwrap())).unwrap() else { panic!() };
        assert_eq!(series.name, "h200");
        let dots: Vec<_> = series.dots.iter().map(|d| (d.bytes, d.values.len(), d.errors.len())).collect();
        assert_eq!(dots, [(10, 1, 0), (40, 0, 0), (80, 1, 1)], "in order of bytes");
        assert_eq!(series.dots[2].values[0], ("recall.accuracy".to_owned(), 0.5));
        assert!(series.dots[2].label.starts_with("h2o 0.5"), "{}", series.dots[2].label);
        for (text, word) in [
            ("", "empty"),
            ("a,b\n1,2\n", "bytes"),
            ("bytes,b\n1,2\n", "task.figure"),
            ("bytes,recall.accuracy\n1,much\n", "line 2"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = curve(&path).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("h200.csv"), "{error}");
        }
    }

    #[test]
    fn the_bundled_model_opens_and_a_missing_one_is_named() {
        let opened = model("bundled:recall").unwrap();
        assert!(opened.chats && opened.words.tokenizer.is_some());
        let Err(error) = open(&Wanted::at("/nowhere/model.gguf")) else { panic!() };
        assert!(error.to_string().contains("/nowhere/model.gguf"), "{error}");
    }
}
