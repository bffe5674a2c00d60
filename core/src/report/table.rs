//! A report as text: predicted and measured side by side, their difference a number of its own.

use std::fmt::Write as _;

use super::{ByteReport, Report};
use crate::bytes::Bytes;
use crate::config::Config;
use crate::ledger::{Category, Tier, Walls};
use crate::number::INFINITE;

/// Planned and measured bytes by tier and category; `measured` is absent for a plan alone.
pub fn bytes_table(planned: &ByteReport, measured: Option<&ByteReport>) -> String {
    let mut out = String::new();
    let head = if measured.is_some() { "      measured           gap" } else { "" };
    let _ = writeln!(out, "{:<8} {:<12} {:>14}{head}", "tier", "category", "planned");
    let mut row = |tier: &str, name: &str, p: u64, m: Option<u64>| {
        let _ = match m {
            Some(m) => writeln!(out, "{tier:<8} {name:<12} {p:>14} {m:>13} {:>+13}", p as i64 - m as i64),
            None => writeln!(out, "{tier:<8} {name:<12} {p:>14}"),
        };
    };
    for tier in Tier::ALL {
        let cell = |r: &ByteReport, c: &Category| r.bytes.get(tier).and_then(|by| by.get(c)).copied().unwrap_or(0);
        for category in Category::ALL {
            let (p, m) = (cell(planned, category), measured.map(|m| cell(m, category)));
            if p > 0 || m.is_some_and(|m| m > 0) {
                row(tier.as_str(), category.as_str(), p, m);
            }
        }
        let peak = |r: &ByteReport| r.peak.get(tier).copied().unwrap_or(0);
        if peak(planned) > 0 || measured.is_some_and(|m| peak(m) > 0) {
            row(tier.as_str(), "peak", peak(planned), measured.map(peak));
        }
    }
    out
}

/// The figures of an evaluation on a line, to four digits; tables of cases stay in the report.
fn figures(result: &serde_json::Value) -> String {
    let number = |v: &serde_json::Value| match (v.as_u64(), v.as_f64()) {
        (Some(n), _) => Some(n.to_string()),
        (None, Some(x)) if x != 0.0 && x.abs() < 1e-3 => Some(format!("{x:.3e}")),
        (None, Some(x)) => Some(format!("{x:.4}")),
        _ => v.as_str().filter(|word| *word == INFINITE).map(str::to_owned),
    };
    let one = |(key, v): (&String, &serde_json::Value)| {
        let text = match v.as_array() {
            Some(list) => format!("[{}]", list.iter().map(number).collect::<Option<Vec<_>>>()?.join(", ")),
            None => number(v)?,
        };
        Some(format!("{key} {text}"))
    };
    result.as_object().map(|o| o.iter().filter_map(one).collect::<Vec<_>>().join(", ")).unwrap_or_default()
}

/// What a training run did, on a few lines.
fn training(out: &mut String, report: &Report, t: &super::Trained) {
    // What was computed is told where it is not the tokens themselves: padding, or several passes.
    let apart = t.computed > 0 && t.computed != t.tokens;
    let computed = if apart { format!(" ({} positions computed)", t.computed) } else { String::new() };
    let (steps, tokens) = (t.steps, t.tokens);
    let _ = writeln!(
        out,
        "trained  {steps} steps, {tokens} tokens{computed}, loss {:.4} → {:.4}",
        t.first_loss, t.last_loss
    );
    if t.empty_steps > 0 {
        let _ = writeln!(out, "warning  {} of the steps had no target: nothing was learned from them", t.empty_steps);
    }
    if let Some(collapsed) = &t.collapsed {
        let _ = writeln!(out, "warning  collapsed: {collapsed}");
    }
    if let (Some((_, first)), Some((step, last))) = (t.validation.first(), t.validation.last()) {
        // One validation is one figure.
        let first = if t.validation.len() > 1 { format!("{first:.4} → ") } else { String::new() };
        let _ = writeln!(out, "held out loss {first}{last:.4} after step {step}");
    }
    let rate = t.tokens_per_second * t.computed as f64 / t.tokens.max(1) as f64;
    let positions = if apart { format!(", {rate:.1} positions/s") } else { String::new() };
    let planned = match report.predicted.train_step_seconds {
        // Nobody has measured that GPU.
        0.0 => String::new(),
        seconds => format!("; planned {seconds:.3} s a step"),
    };
    let _ = writeln!(
        out,
        "speed    ready in {:.2} s, {:.3} s a step, {:.1} tokens/s{positions}{planned}{}",
        report.speed.load_seconds,
        t.step_seconds,
        t.tokens_per_second,
        if report.predicted.probed { "" } else { "; this machine is not probed: `ullage probe`" }
    );
    for (name, bytes) in &report.measured.moved {
        let _ = writeln!(out, "moved    {name}: {} ({bytes} B)", Bytes(*bytes));
    }
    if let Some(state) = &t.state {
        let _ = writeln!(out, "state    {state}");
    }
}

/// The limit of the device in words: what was granted, or what the machine has.
pub fn limit(config: &Config, walls: Option<&Walls>) -> String {
    match walls {
        Some(walls) if walls.machine[0] => format!("{} (what is free here)", Bytes(walls.at(Tier::Device))),
        _ => config.budget.device.to_string(),
    }
}

/// How far another account of the same bytes is from the ledger's.
fn apart(account: u64, held: u64) -> String {
    let (sign, by) = if account >= held { ('+', account - held) } else { ('-', held - account) };
    format!("{sign}{}", Bytes(by))
}

/// A finished run in a screenful.
pub fn summary(report: &Report) -> String {
    let mut out = String::new();
    let m = &report.model;
    let _ = writeln!(out, "model    {} ({}, {} parameters, {})", m.name, m.arch, m.parameters, Bytes(m.bytes));
    let c = &report.machine;
    let _ = writeln!(out, "machine  {} ({}), {} threads, {} kernels", c.name, c.device, c.threads, c.kernels);
    out.push('\n');
    out.push_str(&bytes_table(&report.plan, Some(&report.measured)));
    if let Some(config) = &report.config {
        let peak = report.measured.peak.get(&Tier::Device).copied().unwrap_or(0);
        let limit = limit(config, report.walls.as_ref());
        let _ = writeln!(out, "\nlimit    {limit} on the device, peak {} ({peak} B)", Bytes(peak));
    }
    let p = &report.program;
    let _ = writeln!(
        out,
        "beside   engine heap {}, program heap {}, resident set {} at most, of it code and stacks {}",
        Bytes(p.engine_peak),
        Bytes(p.heap),
        Bytes(p.rss),
        Bytes(p.rest.max(0) as u64)
    );
    if report.machine.device == "cpu" && p.obtained > 0 {
        let held = report.measured.together;
        let resident =
            p.resident.map_or_else(String::new, |r| format!(", in memory {} ({})", Bytes(r), apart(r, held)));
        let _ = writeln!(
            out,
            "obtained {} from the system's allocator ({}){resident}",
            Bytes(p.obtained),
            apart(p.obtained, held)
        );
    }
    for (name, bytes) in &report.measured.rows {
        if let Some(name) = name.strip_prefix("beside.") {
            let _ = writeln!(out, "beside   {name}: {} ({bytes} B)", Bytes(*bytes));
        }
    }
    if p.escaped > 0 {
        let _ = writeln!(out, "warning  {} engine allocations above 64 KiB escaped the account", p.escaped);
    }
    for note in &report.notes {
        let _ = writeln!(out, "note     {note}");
    }
    if let Some(t) = &report.train {
        training(&mut out, report, t);
        return out;
    }
    let s = &report.speed;
    let _ = writeln!(
        out,
        "speed    ready in {:.2} s, prefill {:.1} tokens/s ({} tokens), decode {:.1} tokens/s ({} steps)",
        s.load_seconds, s.prefill_tokens_per_second, s.prompt_tokens, s.decode_tokens_per_second, s.steps
    );
    let t = &report.predicted;
    if t.decode_tokens_per_second > 0.0 || !report.machine.device.starts_with("cuda") {
        let guess = if t.probed { "" } else { "; this machine is not probed: `ullage probe`" };
        let _ = writeln!(
            out,
            "planned  prefill {:.1} tokens/s, decode {:.1} tokens/s{guess}",
            t.prefill_tokens_per_second, t.decode_tokens_per_second
        );
    }
    if report.evicted > 0 {
        let _ = writeln!(out, "evicted  {} rows over all layers and heads", report.evicted);
    }
    for (name, bytes) in &report.measured.moved {
        let _ = writeln!(out, "moved    {name}: {} ({bytes} B)", Bytes(*bytes));
    }
    let diverged = report.diverged();
    for (task, result) in &report.eval {
        let place = diverged.iter().find(|(name, _)| name.strip_prefix("eval.") == Some(task));
        let said = place.map_or_else(|| figures(result), |(_, place)| format!("diverged: {place}"));
        let _ = writeln!(out, "eval     {task}: {said}");
    }
    for (name, place) in diverged.iter().filter(|(name, _)| !name.starts_with("eval.")) {
        let _ = writeln!(out, "diverged {name}: {place}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::Trained;
    use super::*;

    fn said(train: Trained) -> String {
        summary(&Report { train: Some(train), ..Report::default() })
    }

    #[test]
    fn one_validation_is_one_figure_and_two_are_two() {
        let of = |validation: &[(u64, f64)]| said(Trained { validation: validation.to_vec(), ..Trained::default() });
        assert!(!of(&[]).contains("held out"));
        assert!(of(&[(7, 2.5)]).contains("\nheld out loss 2.5000 after step 7\n"));
        assert!(of(&[(0, 3.0), (7, 2.5)]).contains("\nheld out loss 3.0000 → 2.5000 after step 7\n"));
    }

    #[test]
    fn positions_are_told_where_they_are_not_the_tokens() {
        let of = |tokens, computed| said(Trained { tokens, computed, tokens_per_second: 10.0, ..Trained::default() });
        let padded = of(30, 60);
        assert!(
            padded.contains("30 tokens (60 positions computed)") && padded.contains("10.0 tokens/s, 20.0 positions/s")
        );
        for whole in [of(60, 60), of(60, 0)] {
            assert!(whole.contains("60 tokens, loss") && !whole.contains("positions"), "{whole}");
        }
    }
}
