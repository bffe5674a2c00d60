//! What was read and written, or said.

use std::sync::Arc;

use ullage_core::config;
use ullage_panels::view::{Role, Text, Turn};
use ullage_panels::words as figures;

use super::super::live::Live;
use super::super::state::State;
use super::learning;

/// The text picture's part of the view.
pub fn view(s: &State) -> Text {
    let config = s.config();
    let mut out = Text {
        prompt: config.run.prompt.clone(),
        system: config.run.system.clone(),
        chat: config.run.chat,
        chats: s.opened.as_ref().is_some_and(|o| o.chats),
        blocked: s.blocked(),
        running: s.running && s.replayed.is_none(),
        samples: learning::samples(s),
        adapter: s.adapter_switch(),
        ..Text::default()
    };
    out.turns = conversation(s);
    let Some(live) = s.shown() else { return out };
    out.sequences = Arc::clone(&live.written);
    out.step = s.moment.and_then(|m| live.timeline.moments.get(m)).map(|m| m.step);
    if out.step.is_some()
        && let Some(first) = Arc::make_mut(&mut out.sequences).first_mut()
    {
        first.kept = live.kept(out.step);
    }
    if s.replayed.is_some() {
        out.of_run = Some(format!("run {}", live.name));
    } else if live.over && live.config().is_some_and(|c| c != config) {
        out.of_run = Some("the run before the configuration changed".into());
    }
    if live.finished() {
        let speed = &live.report.speed;
        out.summary = format!(
            "{} tokens, {}; the prompt's {} at {}",
            figures::count(live.report.output.iter().map(|o| o.tokens.len() as u64).sum()),
            figures::speed(speed.decode_tokens_per_second),
            figures::count(speed.prompt_tokens as u64),
            figures::speed(speed.prefill_tokens_per_second),
        );
    }
    if live.report.train.is_some() {
        out.summary = live.learned();
    } else if let Some(error) = live.error() {
        out.summary = if error.kind == "cancelled" { "stopped".into() } else { error.message.clone() };
    }
    out
}

/// What was said: the run's conversation with its question and, once it has ended, its answer; as configured where the run on
/// screen is of another one.
fn conversation(s: &State) -> Vec<Turn> {
    let now = &s.config().run;
    let of_run = |l: &&Live| s.replayed.is_some() || l.config().is_some_and(|c| said(&c.run) == said(now));
    let Some((live, run)) = s.shown().filter(of_run).and_then(|l| Some((l, &l.config()?.run))) else {
        return if now.chat { now.turns.iter().map(turn).collect() } else { Vec::new() };
    };
    if !run.chat {
        return Vec::new();
    }
    let mut out: Vec<Turn> = run.turns.iter().map(turn).collect();
    out.push(Turn { role: Role::User, content: run.prompt.clone() });
    if let Some(answer) = live.report.output.first().filter(|o| live.over && !o.text.is_empty()) {
        out.push(Turn { role: Role::Assistant, content: answer.text.clone() });
    }
    out
}

/// What makes a conversation the same.
fn said(run: &config::Run) -> (bool, &str, &str, &[config::Turn]) {
    (run.chat, &run.system, &run.prompt, &run.turns)
}

fn turn(turn: &config::Turn) -> Turn {
    let role = match turn.role {
        config::Role::User => Role::User,
        config::Role::Assistant => Role::Assistant,
    };
    Turn { role, content: turn.content.clone() }
}
