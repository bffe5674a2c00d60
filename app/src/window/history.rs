//! The history: run folders on disk, two of them side by side, and the points they are of accuracy against bytes.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use ullage_core::config::Config;
use ullage_core::ledger::Tier;
use ullage_core::number::INFINITE;
use ullage_core::report::Report;
use ullage_core::report::folder;
use ullage_core::{Error, Result};
use ullage_panels::view::{Axis, Course, Delta, Dot, Pair, RunLine, Series, Sets};
use ullage_panels::words as figures;

use super::clock;
use super::document::{choices, difference};
use super::live::{Live, Prompt, SeriesLabel};
use super::{bars, words};

/// The figure of a run's speed where there is no other: tokens a second.
pub const SPEED: &str = "run.tokens_per_second";

/// A run folder at a glance.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunSummary {
    /// As the history shows it.
    pub line: RunLine,
    /// Its configuration; `None` when it did not come so far.
    pub config: Option<Config>,
    /// The model's hash.
    pub model: String,
    /// The machine.
    pub machine: String,
    /// Which line it belongs to.
    pub series: SeriesLabel,
    /// What of it ended as diverged, in words; empty where nothing did.
    pub diverged: String,
    /// Figures by `task.figure`; of what is infinite, infinity.
    pub values: Vec<(String, f64)>,
    /// One standard error of each.
    pub errors: Vec<(String, f64)>,
    /// Its configuration as keys that differ from the defaults.
    pub sets: Sets,
    /// Its course, when it trained.
    pub course: Option<Arc<Course>>,
}

fn bytes_of(dir: &Path) -> u64 {
    let files = fs::read_dir(dir).into_iter().flatten().flatten();
    files.filter_map(|f| f.metadata().ok()).filter(fs::Metadata::is_file).map(|m| m.len()).sum()
}

fn json<T: serde::de::DeserializeOwned + Default>(path: &Path) -> T {
    fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

fn infinite(value: &Value) -> Option<f64> {
    (value.as_str() == Some(INFINITE)).then_some(f64::INFINITY)
}

/// What of a run ended as diverged: `fidelity diverged: NaN in the logits at case 0, token 3`.
fn diverged(report: &Report) -> String {
    let said = |(what, place)| format!("{} diverged: {place}", str::strip_prefix(what, "eval.").unwrap_or(what));
    report.diverged().iter().map(|(what, place)| said((what.as_str(), place))).collect::<Vec<_>>().join(" · ")
}

/// Figures of an evaluation that make an axis, and what is known of their spread as one standard error.
fn eval(report: &Report) -> (Vec<(String, f64)>, Vec<(String, f64)>) {
    let (mut values, mut errors) = (Vec::new(), Vec::new());
    if let Some(t) = &report.train {
        values.extend(Some(t.last_loss).filter(|loss| !loss.is_nan()).map(|loss| ("train.loss".to_owned(), loss)));
        values.extend(t.validation.last().map(|(_, loss)| ("train.held_out".to_owned(), *loss)));
        values.extend(t.task_accuracy.last().map(|(_, right)| ("train.answers".to_owned(), *right)));
    }
    for (task, result) in &report.eval {
        let get = |name: &str| result.get(name).and_then(|v| v.as_f64().or_else(|| infinite(v)));
        for name in result.as_object().into_iter().flat_map(|o| o.keys()) {
            let (Some(value), Some(_)) = (get(name), words::figure(task, name)) else { continue };
            let id = format!("{task}.{name}");
            let interval = result.get("interval_95").and_then(Value::as_array);
            let error = match (name.as_str(), interval.map(Vec::as_slice)) {
                ("accuracy", Some([low, high])) => low.as_f64().zip(high.as_f64()).map(|(l, h)| (h - l) / 2.0 / 1.96),
                ("kl_mean", _) => get("kl_se"),
                // Of the mean loss, carried over to its exponential.
                ("perplexity", _) => get("loss_se").map(|se| se * value),
                _ => None,
            };
            values.push((id.clone(), value));
            errors.extend(error.filter(|e| e.is_finite()).map(|e| (id, e)));
        }
    }
    (values, errors)
}

/// A figure in words: `recall 97.9 %`.
pub fn said(id: &str, value: f64) -> String {
    let (task, name) = id.split_once('.').unwrap_or((id, ""));
    match words::figure(task, name) {
        Some((label, ..)) if value.is_infinite() => format!("{label} {INFINITE}"),
        Some((label, "%", _)) => format!("{label} {}", figures::percent(value)),
        Some((label, unit, _)) => format!("{label} {} {unit}", figures::number(value)).trim_end().to_owned(),
        None => String::new(),
    }
}

/// Looks at the run folder `dir`; `None` when it is no run folder.
pub fn summary(dir: &Path) -> Option<RunSummary> {
    let name = dir.file_name()?.to_str()?.to_owned();
    let whole = fs::read(dir.join("report.json")).ok().and_then(|b| serde_json::from_slice::<Report>(&b).ok());
    if whole.is_none() && !dir.join("events.jsonl").is_file() {
        return None;
    }
    let (report, unread) = match whole {
        Some(report) => (report, None),
        // A run that was killed left what it told.
        None => match folder::replay(dir) {
            Ok(report) => (report, None),
            Err(e) => (Report::default(), Some(e.to_string())),
        },
    };
    let (values, errors) = eval(&report);
    let error = match (&unread, &report.error) {
        (Some(why), _) => why.clone(),
        (None, Some(e)) => e.message.clone(),
        (None, None) if !report.ended() => "it did not finish: it was killed, or its disk was full".into(),
        (None, None) => String::new(),
    };
    let course = super::course::of(&report, &name).map(Arc::new);
    let diverged = diverged(&report);
    let broken = Some(diverged.clone()).filter(|said| !said.is_empty());
    let line = RunLine {
        when: clock::shown(&name),
        model: report.model.name.clone(),
        choices: report.config.as_ref().map(choices).unwrap_or_default(),
        peak: report.measured.peak.get(&Tier::Device).copied(),
        speed: Some(super::live::rate(&report)).filter(|s| *s > 0.0),
        accuracy: values.iter().map(|(id, v)| said(id, *v)).chain(broken).collect::<Vec<_>>().join(" · "),
        error,
        bytes: bytes_of(dir),
        name,
        open: false,
    };
    let series: SeriesLabel = json(&dir.join("line.json"));
    let machine = report.machine.name.clone();
    let sets = report.config.as_ref().and_then(|c| difference(&Config::default(), c).ok()).unwrap_or_default();
    Some(RunSummary {
        course,
        line,
        sets,
        config: report.config,
        model: report.model.hash,
        machine,
        series,
        diverged,
        values,
        errors,
    })
}

/// Every run folder under `runs`, newest first.
pub fn list(runs: &Path) -> Vec<RunSummary> {
    let dirs = fs::read_dir(runs).into_iter().flatten().flatten().map(|d| d.path()).filter(|d| d.is_dir());
    let mut runs: Vec<_> = dirs.filter_map(|d| summary(&d)).collect();
    runs.sort_by(|a, b| b.line.name.cmp(&a.line.name));
    runs
}

/// A run folder from its events alone: no model, no GPU.
///
/// # Errors
/// A folder without events, or a damaged line before the last.
pub fn replay(dir: &Path) -> Result<Live> {
    let prompt: Prompt = json(&dir.join("prompt.json"));
    let name = dir.file_name().map_or_else(|| dir.display().to_string(), |n| n.to_string_lossy().into_owned());
    let mut live = Live::new(name, prompt);
    folder::events(dir, &mut |event| live.add(&event))?;
    live.close();
    if live.config().is_none() && live.error().is_none() {
        return Err(Error::model(dir, "events.jsonl", "tells nothing of a run; it was killed before it began"));
    }
    Ok(live)
}

/// Whether a folder is what a run left.
pub fn is_run(dir: &Path) -> bool {
    ["events.jsonl", "report.json"].iter().any(|name| dir.join(name).is_file())
}

/// Two runs side by side.
pub fn pair(a: &Live, b: &Live) -> Pair {
    let text = [a, b].map(|l| l.written.first().cloned().unwrap_or_default());
    let ids = |i: usize| text[i].tokens.iter().map(|t| t.id).collect::<Vec<_>>();
    let (one, two) = (ids(0), ids(1));
    let same = one.iter().zip(&two).take_while(|(x, y)| x == y).count();
    let first_difference = (same < one.len().max(two.len())).then_some(same);
    let bar = |l: &Live| {
        let empty = Config::default();
        let config = l.config().unwrap_or(&empty);
        let bars = bars::of(&l.report.measured, config, true, &bars::unexplained);
        bars.instants
            .into_iter()
            .next()
            .and_then(|i| i.tiers.into_iter().next())
            .map(|(_, bar)| bar)
            .unwrap_or_default()
    };
    let mut deltas = Vec::new();
    let mut put =
        |label: &str, values: [Option<f64>; 2], show: &dyn Fn(f64) -> String, change: &dyn Fn(f64) -> String| {
            let said = values.map(|v| v.map_or_else(|| figures::UNKNOWN.to_owned(), show));
            let change = values[0].zip(values[1]).map(|(a, b)| change(b - a)).unwrap_or_default();
            deltas.push(Delta { label: label.into(), values: said, change });
        };
    let signed = |v: f64| if v > 0.0 { format!("+{}", figures::number(v)) } else { figures::number(v) };
    let bytes = |v: f64| figures::bytes(v as u64);
    let bytes_change = |v: f64| figures::change(v as i64);
    let both = |f: &dyn Fn(&Live) -> Option<f64>| [f(a), f(b)];
    let peak = |r: &Live, planned: bool| {
        let from = if planned { &r.report.plan } else { &r.report.measured };
        from.peak.get(&Tier::Device).map(|b| *b as f64)
    };
    put("predicted peak", both(&|l| peak(l, true)), &bytes, &bytes_change);
    put("measured peak", both(&|l| peak(l, false)), &bytes, &bytes_change);
    for (label, category) in
        [("KV cache", ullage_core::ledger::Category::KvCache), ("weights", ullage_core::ledger::Category::Weights)]
    {
        let of =
            |l: &Live| l.report.measured.bytes.get(&Tier::Device).and_then(|by| by.get(&category)).map(|b| *b as f64);
        put(label, both(&of), &bytes, &bytes_change);
    }
    let speed = |l: &Live| Some(l.rate()).filter(|s| *s > 0.0);
    put("speed", both(&speed), &figures::speed, &|v| format!("{} tok/s", signed(v)));
    let prefill = |l: &Live| Some(l.report.speed.prefill_tokens_per_second).filter(|s| *s > 0.0);
    put("reading the prompt", both(&prefill), &figures::speed, &|v| format!("{} tok/s", signed(v)));
    let evals = [eval(&a.report).0, eval(&b.report).0];
    let mut ids: Vec<&String> = evals.iter().flatten().map(|(id, _)| id).collect();
    ids.sort();
    ids.dedup();
    for id in ids {
        let of = |i: usize| evals[i].iter().find(|(k, _)| k == id).map(|(_, v)| *v);
        let (task, name) = id.split_once('.').unwrap_or((id, ""));
        let Some((label, unit, _)) = words::figure(task, name) else { continue };
        let points = |v: f64| format!("{} points", signed(100.0 * v));
        match unit {
            "%" => put(&label, [of(0), of(1)], &figures::percent, &points),
            _ => put(&label, [of(0), of(1)], &figures::number, &signed),
        }
    }
    let empty = Config::default();
    let (one, two) = (a.config().unwrap_or(&empty), b.config().unwrap_or(&empty));
    let value = |from: &Config, to: &Config| difference(from, to).unwrap_or_default();
    let (there, back) = (value(one, two), value(two, one));
    let plain = |v: Option<&String>| {
        v.filter(|v| !v.is_empty()).map_or_else(|| "not set".to_owned(), |v| v.trim_matches('"').to_owned())
    };
    let choices = there.iter().map(|(key, new)| {
        let old = back.iter().find(|(k, _)| k == key).map(|(_, v)| v);
        (key.clone(), [plain(old), plain(Some(new))])
    });
    Pair {
        names: [a.name.clone(), b.name.clone()],
        text,
        first_difference,
        bars: [bar(a), bar(b)],
        figures: deltas,
        choices: choices.collect(),
    }
}

/// Axes of the figures that runs of a model have, and a line for each sweep and for runs of their own.
pub fn accuracy(runs: &[RunSummary], model: &str) -> (Vec<Axis>, Vec<Series>) {
    curves(runs.iter().filter(|run| run.model == model))
}

/// As [`accuracy`], of any runs that ended well and have a figure.
pub fn curves<'a>(runs: impl Iterator<Item = &'a RunSummary>) -> (Vec<Axis>, Vec<Series>) {
    let (mut axes, mut series): (Vec<Axis>, Vec<Series>) = (Vec::new(), Vec::new());
    let mine = runs.filter(|c| c.line.error.is_empty() && !(c.values.is_empty() && c.diverged.is_empty()));
    for run in mine {
        let Some(bytes) = run.line.peak else { continue };
        for (id, _) in &run.values {
            let (task, name) = id.split_once('.').unwrap_or((id, ""));
            if let Some((label, unit, up)) = words::figure(task, name)
                && axes.iter().all(|a| a.id != *id)
            {
                axes.push(Axis { id: id.clone(), label, unit: unit.into(), up });
            }
        }
        let name = if run.series.series.is_empty() { "single runs" } else { &run.series.series };
        let label = if run.series.label.is_empty() { &run.line.choices } else { &run.series.label };
        let dot = Dot {
            run: run.line.name.clone(),
            label: label.clone(),
            bytes,
            values: run.values.clone(),
            errors: run.errors.clone(),
            planned: false,
            diverged: run.diverged.clone(),
            sets: run.sets.clone(),
        };
        match series.iter_mut().find(|s| s.name == name) {
            Some(series) => series.dots.push(dot),
            None => series.push(Series { name: name.into(), machine: String::new(), dots: vec![dot] }),
        }
    }
    // What people read first comes first.
    axes.sort_by_key(|a| (!a.up, a.unit != "%", a.id.clone()));
    for s in &mut series {
        s.dots.sort_by_key(|d| d.bytes);
    }
    (axes, series)
}

/// The accuracy measured with what `config` chooses, on this model, in words; empty when it never was.
pub fn measured(runs: &[RunSummary], model: &str, config: &Config) -> String {
    let same = |c: &Config| {
        (&c.weights, &c.kv, &c.place.kv, c.compute(), &c.train)
            == (&config.weights, &config.kv, &config.place.kv, config.compute(), &config.train)
    };
    let run = runs.iter().find(|run| {
        run.model == model
            && !(run.values.is_empty() && run.diverged.is_empty())
            && run.line.error.is_empty()
            && run.config.as_ref().is_some_and(same)
    });
    run.map(|c| c.line.accuracy.clone()).unwrap_or_default()
}
