//! Runs as points of accuracy against bytes, and the sweeps that make more of them.

use ullage_core::catalog;
use ullage_core::config::axes;
use ullage_panels::view::{Accuracy, Dot, Series, Sets};

use super::super::history;
use super::super::state::State;
use super::super::words;
use super::cards;

/// The accuracy picture's part of the view.
pub fn view(s: &State) -> Accuracy {
    let hash = s.opened.as_ref().map_or("", |o| o.model.hash.as_str());
    let (axes, mut series) = history::accuracy(&s.runs, hash);
    for (point, planned) in s.queue.iter().zip(&s.planned_points) {
        let Some(bytes) = *planned else { continue };
        let dot = Dot { label: point.line.label.clone(), bytes, planned: true, ..Dot::default() };
        match series.iter_mut().find(|l| l.name == point.line.series) {
            Some(line) => line.dots.push(dot),
            None => series.push(Series { name: point.line.series.clone(), machine: String::new(), dots: vec![dot] }),
        }
    }
    series.extend(s.curves.iter().cloned());
    let mut out = Accuracy { axes, series, queued: s.queue.len(), sweeps: sweeps(s) };
    // A curve measured elsewhere may have figures that no run here has.
    for curve in &s.curves {
        for (id, _) in curve.dots.iter().flat_map(|d| &d.values) {
            let (task, name) = id.split_once('.').unwrap_or((id, ""));
            if let Some((label, unit, up)) = words::figure(task, name)
                && out.axes.iter().all(|a| a.id != *id)
            {
                out.axes.push(ullage_panels::view::Axis { id: id.clone(), label, unit: unit.into(), up });
            }
        }
    }
    out
}

/// Budgets of a sweep, as shares of the context.
const RATIOS: [&str; 6] = ["0.05", "0.1", "0.2", "0.3", "0.5", "0.75"];

/// What can be swept with one button: each policy over budgets, and the precisions.
fn sweeps(s: &State) -> Vec<(String, Vec<Sets>)> {
    let Some(opened) = &s.opened else { return Vec::new() };
    if opened.words.tokenizer.is_none() {
        return Vec::new();
    }
    let config = s.config();
    // The bundled model knows recall and nothing else; of any other one sees how far it strays from itself.
    let bundled = opened.asked.starts_with("bundled:");
    let (task, measure): (&str, Sets) = if bundled {
        let knobs = "{ pairs = 48, questions = 24, samples = 4 }";
        ("Recall", vec![("eval.recall".into(), knobs.into())])
    } else {
        let prompt = (config.run.context / 2).clamp(16, 512);
        let knobs = format!("{{ prompt = {prompt}, tokens = 64, windows = 2 }}");
        ("Same next token", vec![("eval.fidelity".into(), knobs)])
    };
    let short = [("run.max_tokens".to_owned(), "16".to_owned())];
    let point = |sets: &[(&str, &str)]| -> Sets {
        let own = sets.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        own.chain(if config.eval.is_empty() { measure.clone() } else { Sets::new() }).chain(short.clone()).collect()
    };
    let mut out = Vec::new();
    for entry in catalog::variants(&axes::KV_SELECT) {
        if cards::keeps_all(entry) {
            continue;
        }
        let points = RATIOS.iter().map(|r| point(&[("kv.select", entry.id), ("kv.budget.ratio", *r)]));
        out.push((format!("{task}, {}: {} budgets", entry.title, RATIOS.len()), points.collect()));
    }
    let formats: Vec<_> = catalog::variants(&axes::KV_FORMAT).map(|e| point(&[("kv.format", e.id)])).collect();
    out.push((format!("{task}: {} precisions of the cache", formats.len()), formats));
    out
}
