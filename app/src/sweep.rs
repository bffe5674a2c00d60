//! `ullage sweep`: a grid of configurations, one run folder a point, resumable, as CSV and SVG. Trainings that would share one
//! `train.out` leave what they learned in folders of their own below it, which the table names.

use std::fs;
use std::path::Path;

use serde_json::Value;
use ullage_core::atomic_write;
use ullage_core::number::INFINITE;
use ullage_core::output::{Care, Claim};
use ullage_core::report::folder::Folder;
use ullage_core::report::protocol::Failure;
use ullage_core::{Bytes, Error, Result};
use ullage_panels::pictures;
use ullage_panels::view::Accuracy;

use crate::args;
use crate::run::follow;
use crate::source::{self, Loaded, key_value, say, say_json};
use crate::window::history::{self, RunSummary};

/// Splits at commas outside brackets, braces and quotes.
fn split(values: &str) -> Vec<String> {
    let (mut out, mut depth, mut quote, mut now) = (Vec::new(), 0i32, None, String::new());
    for c in values.chars() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, '[' | '{') => depth += 1,
            (None, ']' | '}') => depth -= 1,
            (None, ',') if depth == 0 => {
                out.push(std::mem::take(&mut now).trim().to_owned());
                continue;
            }
            _ => {}
        }
        now.push(c);
    }
    out.push(now.trim().to_owned());
    out
}

type Point = Vec<(String, String)>;

fn grid(over: &[String]) -> Result<Vec<Point>> {
    let mut all: Vec<Point> = vec![Vec::new()];
    for axis in over {
        let (key, values) = key_value(axis)?;
        let values = split(&values);
        all = all
            .iter()
            .flat_map(|p| values.iter().map(|v| p.iter().cloned().chain([(key.clone(), v.clone())]).collect()))
            .collect();
    }
    Ok(all)
}

fn name(point: &Point) -> String {
    let words: Vec<_> = point.iter().map(|(k, v)| format!("{}={v}", k.rsplit('.').next().unwrap_or(k))).collect();
    words.join(" ")
}

/// A folder name that any file system takes: the keys and values, other characters as `_`.
fn folder_name(i: usize, point: &Point) -> String {
    let safe: String = name(point)
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "=.-".contains(c) { c } else { '_' })
        .take(80)
        .collect();
    format!("{i:03}-{safe}")
}

/// The figures of a report that a table shows, by column name: numbers, or the word of what is infinite.
fn figures(report: &Value) -> Vec<(String, Value)> {
    let mut out = Vec::new();
    let mut add = |name: &str, v: Option<&Value>| {
        if let Some(v) = v.filter(|v| v.is_number() || v.as_str() == Some(INFINITE)) {
            out.push((name.to_owned(), v.clone()));
        }
    };
    add("planned_peak", report.pointer("/plan/peak/device"));
    add("measured_peak", report.pointer("/measured/peak/device"));
    add("kv_cache", report.pointer("/measured/bytes/device/kv_cache"));
    add("weights", report.pointer("/measured/bytes/device/weights"));
    add("prefill_tokens_per_second", report.pointer("/speed/prefill_tokens_per_second"));
    add("decode_tokens_per_second", report.pointer("/speed/decode_tokens_per_second"));
    if let Some(tasks) = report.get("eval").and_then(Value::as_object) {
        for (task, result) in tasks {
            for (key, v) in result.as_object().into_iter().flatten() {
                add(&format!("{task}.{key}"), Some(v));
            }
        }
    }
    out
}

/// What of a report ended as diverged, with where: evaluations by their task, a text as `text`.
fn diverged(report: &Value) -> Vec<(String, Value)> {
    let place = |of: &Value| of.get("diverged").filter(|place| place.is_object()).cloned();
    let tasks = report.get("eval").and_then(Value::as_object).into_iter().flatten();
    let tasks = tasks.filter_map(|(task, result)| Some((task.clone(), place(result)?)));
    let texts = report.pointer("/output/sequences").and_then(Value::as_array).into_iter().flatten();
    tasks.chain(texts.filter_map(place).next().map(|place| ("text".to_owned(), place))).collect()
}

/// How a point ended: its kind of error, `diverged` where a measurement was no number, or nothing.
fn state(report: &Value) -> &str {
    let error = report.pointer("/error/kind").and_then(Value::as_str);
    error.unwrap_or(if diverged(report).is_empty() { "" } else { "diverged" })
}

/// Gives every training of `points` a folder of its own where several would share one: below their `train.out`, by the name of the
/// point's folder. One state stands in a folder, and a second training would be refused it.
fn apart(points: &[Point], loaded: &mut [Result<Loaded>]) {
    let outs: Vec<Option<String>> =
        loaded.iter().map(|l| Some(l.as_ref().ok()?.config.train.as_ref()?.out.clone())).collect();
    let shared = |out: &String| !out.is_empty() && outs.iter().flatten().filter(|other| *other == out).count() > 1;
    for (i, ((point, loaded), out)) in points.iter().zip(loaded).zip(&outs).enumerate() {
        if let (Some(train), Some(out)) = (loaded.as_mut().ok().and_then(|l| l.config.train.as_mut()), out)
            && shared(out)
        {
            train.out = Path::new(out).join(folder_name(i, point)).display().to_string();
        }
    }
}

/// Where the training of a point leaves what it learned; none where it leaves nothing.
fn out(loaded: &Result<Loaded>) -> Option<String> {
    Some(loaded.as_ref().ok()?.config.train.as_ref()?.out.clone()).filter(|out| !out.is_empty())
}

/// A point of the grid: where its training leaves what it learned, and its report.
struct Row {
    point: Point,
    out: Option<String>,
    report: Value,
}

pub fn sweep(args: &args::Sweep) -> Result<u8> {
    let points = grid(&args.over)?;
    // A wrong key or value ends the sweep before its first point; choices that refuse each other are a row of the table.
    let mut loaded = points
        .iter()
        .map(|point| match source::load(&args.source, point) {
            Err(e) if e.kind() != "refused" => Err(e),
            other => Ok(other),
        })
        .collect::<Result<Vec<_>>>()?;
    apart(&points, &mut loaded);
    let inputs: Vec<_> = loaded.iter().flatten().filter_map(|l| l.file.clone()).collect();
    let care = Care { inputs, force: args.force };
    let claim = Claim::new(&args.out, "sweep", &[TABLE, PICTURE], &[], &care)?;
    let mut rows: Vec<Row> = Vec::new();
    for (i, (point, loaded)) in points.iter().zip(loaded).enumerate() {
        let head = format!("[{}/{}] {}", i + 1, points.len(), name(point));
        let out = out(&loaded);
        let report = match loaded {
            Ok(loaded) => one(&args.out.join(folder_name(i, point)), &loaded, &head, args.force)?,
            Err(e) => {
                eprintln!("{head}: {e}");
                serde_json::json!({ "error": Failure::from(&e) })
            }
        };
        rows.push(Row { point: point.clone(), out, report });
    }
    write(args, &claim, &rows)?;
    // A sweep of which nothing ran has failed as its first point did.
    let code = |r: &Value| r.pointer("/error/code").and_then(Value::as_u64);
    let codes = rows.iter().map(|Row { report: r, .. }| code(r).unwrap_or(u64::from(!diverged(r).is_empty())));
    let codes: Vec<_> = codes.collect();
    let failed = codes.iter().all(|c| *c != 0).then(|| codes.first().copied()).flatten();
    Ok(failed.and_then(|c| u8::try_from(c).ok()).unwrap_or(0))
}

/// The report of a point: the one in `dir` when it is of the same configuration, else that of a run.
fn one(dir: &Path, loaded: &Loaded, head: &str, force: bool) -> Result<Value> {
    let path = dir.join("report.json");
    if let Some(report) = read(&path).filter(|r| same_config(r, &loaded.config)) {
        eprintln!("{head}: kept");
        return Ok(report);
    }
    eprintln!("{head}");
    let mut order = source::order(loaded)?;
    order.care.force = force;
    // What an interrupted or other run left in the point's own folder gives way.
    let folder = Folder::again(dir, &order.care())?;
    let report = follow(order, Some(folder), false, &mut |_| ())?;
    match &report.error {
        Some(e) if e.kind == "cancelled" => {
            let _ = fs::remove_file(&path);
            return Err(Error::Cancelled);
        }
        Some(e) => eprintln!("{head}: {}", e.message),
        None => report.diverged().iter().for_each(|(what, place)| eprintln!("{head}: {what} diverged: {place}")),
    }
    read(&path).ok_or_else(|| Error::Internal(format!("{} was not written", path.display())))
}

fn read(path: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn same_config(report: &Value, config: &ullage_core::config::Config) -> bool {
    // A point refused for its budget has no config of its own in the report: it is cheap to try again.
    report.get("error").is_some_and(Value::is_null)
        && serde_json::to_value(config).is_ok_and(|c| report.get("config") == Some(&c))
}

/// The table and the picture of a sweep.
const TABLE: &str = "sweep.csv";
const PICTURE: &str = "sweep.svg";

/// Writes the table and the picture of all points, and says what the table says.
fn write(args: &args::Sweep, claim: &Claim, rows: &[Row]) -> Result<()> {
    let put = |name: &str, text: &str| claim.write(name, || atomic_write::bytes(&args.out.join(name), text.as_bytes()));
    let csv = table(rows)?;
    put(TABLE, &csv)?;
    let accuracy = curves(&args.out, rows);
    if !accuracy.series.is_empty() && !accuracy.axes.is_empty() {
        let picture = pictures::accuracy::svg(&accuracy, pictures::accuracy::ENTRY.question, SIZE);
        put(PICTURE, &picture)?;
    }
    if !args.json {
        say(&csv);
        return Ok(());
    }
    let row = |Row { point, out, report }: &Row| {
        let point: serde_json::Map<_, _> = point.iter().map(|(k, v)| (k.clone(), Value::from(v.clone()))).collect();
        let figures: serde_json::Map<_, _> = figures(report).into_iter().collect();
        let diverged: serde_json::Map<_, _> = diverged(report).into_iter().collect();
        let mut row = serde_json::json!({ "point": point, "figures": figures, "error": report.get("error"), "diverged": diverged });
        if let (Some(out), Some(row)) = (out, row.as_object_mut()) {
            row.insert(OUT.to_owned(), Value::from(out.clone()));
        }
        row
    };
    say_json(&rows.iter().map(row).collect::<Vec<_>>())
}

/// The column of the folders that trainings leave what they learned in.
const OUT: &str = "train.out";

/// A row a point: what was set, every figure that any report has, where a training left what it learned, and the kind of error.
fn table(rows: &[Row]) -> Result<String> {
    let mut columns: Vec<String> = Vec::new();
    for (name, _) in rows.iter().flat_map(|row| figures(&row.report)) {
        if !columns.contains(&name) {
            columns.push(name);
        }
    }
    let wrong = |e: &dyn std::fmt::Display| Error::Internal(format!("writing the table: {e}"));
    let mut out = csv::Writer::from_writer(Vec::new());
    let keys: Vec<&str> = rows.first().map(|r| r.point.iter().map(|(k, _)| k.as_str()).collect()).unwrap_or_default();
    let outs = rows.iter().any(|row| row.out.is_some()) && !keys.contains(&OUT);
    let named = outs.then_some(OUT);
    let head = keys.into_iter().chain(columns.iter().map(String::as_str)).chain(named).chain(["error"]);
    out.write_record(head).map_err(|e| wrong(&e))?;
    for Row { point, out: left, report } in rows {
        let figures = figures(report);
        let cell = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
        let get = |name: &String| figures.iter().find(|(n, _)| n == name).map(|(_, v)| cell(v));
        // A folder that was set, and is another point's too, stands as the one that was written.
        let set = |(k, v): &(String, String)| left.clone().filter(|_| k == OUT).unwrap_or_else(|| v.clone());
        let cells = point.iter().map(set).chain(columns.iter().map(|c| get(c).unwrap_or_default()));
        let named = outs.then(|| left.clone().unwrap_or_default());
        out.write_record(cells.chain(named).chain([state(report).to_owned()])).map_err(|e| wrong(&e))?;
    }
    let bytes = out.into_inner().map_err(|e| wrong(&e))?;
    String::from_utf8(bytes).map_err(|e| wrong(&e))
}

/// Width and height of the picture in points.
const SIZE: egui::Vec2 = egui::vec2(960.0, 480.0);

/// The points as the window draws them: what counts runs along a line, what names a technique is a line of its own. Where nothing was
/// evaluated, speed is what the bytes bought.
fn curves(out: &Path, rows: &[Row]) -> Accuracy {
    let counts = |key: &str| {
        let mut values = rows.iter().flat_map(|row| &row.point).filter(|(k, _)| k == key).map(|(_, v)| v);
        values.all(|v| v.parse::<f64>().is_ok() || v.parse::<Bytes>().is_ok())
    };
    let mut runs: Vec<RunSummary> = Vec::new();
    for (i, Row { point, .. }) in rows.iter().enumerate() {
        let Some(mut run) = history::summary(&out.join(folder_name(i, point))) else { continue };
        let (numbers, words): (Point, Point) = point.iter().cloned().partition(|(k, _)| counts(k));
        let keys = || numbers.iter().map(|(k, _)| k.rsplit('.').next().unwrap_or(k)).collect::<Vec<_>>().join(" ");
        run.series.series = if words.is_empty() { keys() } else { name(&words) };
        run.series.label = if numbers.is_empty() { name(&words) } else { name(&numbers) };
        runs.push(run);
    }
    if runs.iter().all(|run| run.values.is_empty()) {
        for run in runs.iter_mut().filter(|run| run.diverged.is_empty()) {
            run.values.extend(run.line.speed.map(|speed| (history::SPEED.to_owned(), speed)));
        }
    }
    let (axes, series) = history::curves(runs.iter());
    Accuracy { axes, series, ..Accuracy::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_split_outside_brackets_and_make_a_grid() {
        assert_eq!(split("a,b , c"), ["a", "b", "c"]);
        assert_eq!(split("[1, 2],{ use = \"x\", n = 1 }"), ["[1, 2]", "{ use = \"x\", n = 1 }"]);
        let g = grid(&["a=1,2".into(), "b=x,y,z".into()]).unwrap();
        assert_eq!(g.len(), 6);
        assert_eq!(g[5], [("a".to_owned(), "2".to_owned()), ("b".to_owned(), "z".to_owned())]);
        assert!(grid(&["nothing".into()]).is_err());
    }
}
