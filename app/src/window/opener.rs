//! Opens what is asked for, away from the window: models, configurations, run folders, curves measured elsewhere.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use csv::{ReaderBuilder, StringRecord, Trim};
use ullage_core::catalog::from_toml;
use ullage_core::config::Config;
use ullage_core::model::text::Words;
use ullage_core::model::{Model, outline};
use ullage_core::{Error, Result};
use ullage_panels::view::{Dot, Series};

use super::history;
use super::message::Message;
use super::opened::{OpenModel, OpenedItem, OutlinedModel, Wanted};
use super::worker::Outbox;
use crate::source;

/// Opens a model.
///
/// # Errors
/// A missing, damaged or unsupported file, named with the field at fault.
pub fn model(path: &str) -> Result<OpenModel> {
    adapted(&Wanted::at(path))
}

/// Opens a model with its adapter.
///
/// # Errors
/// As [`model`]; an adapter that is damaged or for another model.
pub fn adapted(wanted: &Wanted) -> Result<OpenModel> {
    let more = wanted.more.iter().map(|one| (PathBuf::from(&one.path), one.scale));
    let adapters: Vec<_> = wanted.adapter.iter().map(|a| (PathBuf::from(a), wanted.scale)).chain(more).collect();
    let model = Model::open(&wanted.path, Path::new("."))?.with_adapters(&adapters)?;
    let words = Words::of(&model)?;
    let chats = words.has_template();
    let (wanted, asked) = (wanted.clone(), wanted.path.clone());
    Ok(OpenModel { wanted, asked, model: Arc::new(model), words: Arc::new(words), chats })
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

/// The outline of a model that is planned and not run.
fn outlined(wanted: &Wanted) -> Result<OpenedItem> {
    let outline = outline::of(Path::new(&wanted.path))?;
    let outline = outline.ok_or_else(|| Error::Internal(format!("{} has no outline and is not run", wanted.path)))?;
    Ok(OpenedItem::Outline(Box::new(OutlinedModel { wanted: wanted.clone(), outline })))
}

/// Opens whatever lies at `path`.
///
/// # Errors
/// What is wrong with it.
pub fn open(wanted: &Wanted) -> Result<OpenedItem> {
    let at = PathBuf::from(&wanted.path);
    // A folder with a model in it may lie beside a run's events: what a run left is a model in a folder of its own.
    if at.is_dir() && history::is_run(&at) {
        return history::replay(&at).map(|live| OpenedItem::Run(Box::new(live)));
    }
    match at.extension().and_then(|e| e.to_str()) {
        Some("toml") => config(&at).map(|c| OpenedItem::Config(Box::new(c))),
        Some("csv") => curve(&at).map(OpenedItem::Curve),
        _ => match adapted(wanted) {
            Err(Error::OnlyPlanned { .. }) => outlined(wanted),
            other => other.map(|m| OpenedItem::Model(Arc::new(m))),
        },
    }
}

/// Does one order of the opener's thread.
pub fn work(wanted: Wanted, outbox: &Outbox<Message>) {
    let item = open(&wanted).map_err(|e| e.to_string());
    outbox.send(Message::Opened { wanted: Box::new(wanted), item });
}

/// A curve in CSV: a column of bytes (`bytes`, `measured_peak` or `peak`), columns of figures named `task.figure`, and of them
/// standard errors named `task.figure_se`; columns named `label` and `machine` where there are any.
///
/// # Errors
/// A file that cannot be read, has no column of bytes or no figure, or a cell that is no number, named with its line.
pub fn curve(path: &Path) -> Result<Series> {
    let wrong = |at: String, why: &str| Error::model(path, at, why);
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, "cannot read the curve", &e))?;
    let mut reader = ReaderBuilder::new().trim(Trim::All).flexible(true).from_reader(text.as_bytes());
    let names = reader.headers().map_err(|e| wrong("the first line".into(), &e.to_string()))?.clone();
    if names.iter().all(str::is_empty) {
        return Err(wrong("the file".into(), "is empty; a curve has a line of names"));
    }
    let columns = Columns::of(path, &names)?;
    let mut out = Series {
        name: path.file_stem().map_or_else(|| "curve".into(), |s| s.to_string_lossy().into_owned()),
        machine: "measured elsewhere".into(),
        dots: Vec::new(),
    };
    for row in reader.records() {
        let row = row.map_err(|e| wrong("the table".into(), &e.to_string()))?;
        out.dots.extend(columns.dot(path, &names, &row)?);
        if let Some(name) = columns.machine.and_then(|at| row.get(at)).filter(|m| !m.is_empty()) {
            name.clone_into(&mut out.machine);
        }
    }
    out.dots.sort_by_key(|d| d.bytes);
    Ok(out)
}

/// Where a curve has what, by column.
struct Columns {
    bytes: usize,
    label: Option<usize>,
    machine: Option<usize>,
    /// Each figure and its standard error.
    figures: Vec<(usize, Option<usize>)>,
}

impl Columns {
    fn of(path: &Path, names: &StringRecord) -> Result<Self> {
        let wrong = |why: &str| Error::model(path, "the first line", why);
        let column = |of: &[&str]| names.iter().position(|n| of.contains(&n));
        let bytes = column(&["bytes", "measured_peak", "peak"])
            .ok_or_else(|| wrong("names no column of bytes; one is called bytes, measured_peak or peak"))?;
        let figure = |name: &str| name.contains('.') && !name.ends_with("_se") && !name.ends_with(".n");
        let error = |name: &str| column(&[format!("{name}_se").as_str()]);
        let figures: Vec<_> = names.iter().enumerate().filter(|(_, n)| figure(n)).map(|(i, n)| (i, error(n))).collect();
        if figures.is_empty() {
            return Err(wrong("names no figure; they are called task.figure, such as recall.accuracy"));
        }
        Ok(Self { bytes, label: column(&["label"]), machine: column(&["machine"]), figures })
    }

    /// The point of a row; none where it has no bytes.
    fn dot(&self, path: &Path, names: &StringRecord, row: &StringRecord) -> Result<Option<Dot>> {
        let name = |at: usize| names.get(at).unwrap_or_default();
        let number = |at: usize| -> Result<Option<f64>> {
            let text = row.get(at).unwrap_or_default();
            if text.is_empty() {
                return Ok(None);
            }
            let line = row.position().map_or(0, csv::Position::line);
            let wrong = || Error::model(path, format!("line {line}, {}", name(at)), format!("`{text}` is no number"));
            text.parse::<f64>().ok().filter(|v| v.is_finite()).map(Some).ok_or_else(wrong)
        };
        let Some(x) = number(self.bytes)?.filter(|b| *b >= 0.0) else { return Ok(None) };
        let mut dot = Dot { bytes: x as u64, ..Dot::default() };
        for (figure, error) in &self.figures {
            dot.values.extend(number(*figure)?.map(|v| (name(*figure).to_owned(), v)));
            let error = error.map_or(Ok(None), number)?;
            dot.errors.extend(error.map(|v| (name(*figure).to_owned(), v)));
        }
        // Without a label of its own: what stands before the bytes says what was chosen.
        dot.label = match self.label {
            Some(at) => row.get(at).unwrap_or_default().to_owned(),
            None => row.iter().take(self.bytes).filter(|c| !c.is_empty()).collect::<Vec<_>>().join(" "),
        };
        Ok(Some(dot))
    }
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
        let OpenedItem::Curve(series) = open(&Wanted::at(path.to_str().unwrap())).unwrap() else { panic!() };
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
