//! Data such as runs give: a short decode under a policy that drops rows, and a history of a few runs.
#![allow(dead_code, reason = "the example and the tests each use a part")]

use ullage_panels::view::{
    BarSegment, BytesBar, Delta, History, Moment, Pair, Role, RunLine, Span, Text, Tier, Timeline, Token, Turn,
    UsedFor, Written,
};

const MIB: u64 = 1 << 20;

/// Load, prefill and `steps` of decoding; the cache grows, is cut after the prompt, and scratch comes and goes.
pub fn timeline(steps: usize) -> Timeline {
    let mut moments = Vec::new();
    let mut at = |seconds: f64, step: usize, held: &[(UsedFor, u64)], host: u64| {
        let mut moment = Moment { seconds, step, held: [[0; 9]; 3] };
        for (used_for, bytes) in held {
            moment.held[Tier::Device as usize][*used_for as usize] = *bytes;
        }
        moment.held[Tier::Host as usize][UsedFor::Weights as usize] = host;
        moments.push(moment);
    };
    use UsedFor::{Activations, KvCache, Logits, Observation, Weights, Workspace};
    for layer in 0..30u64 {
        let weights = 4 * MIB + layer * 88 * MIB / 30;
        at(0.01 * layer as f64, 0, &[(Weights, weights)], (30 - layer) * MIB);
    }
    for chunk in 0..24u64 {
        let t = 0.3 + 0.03 * chunk as f64;
        let cache = chunk * 5 * MIB / 2;
        at(t, 0, &[(Weights, 92 * MIB), (KvCache, cache), (Activations, 9 * MIB), (Workspace, 18 * MIB)], MIB);
        at(t + 0.02, 0, &[(Weights, 92 * MIB), (KvCache, cache), (Activations, 9 * MIB), (Workspace, 3 * MIB)], MIB);
    }
    for step in 0..steps {
        let t = 1.02 + 0.011 * step as f64;
        let cache = 12 * MIB + step as u64 * 46 * 1024;
        let kept = [(Weights, 92 * MIB), (KvCache, cache), (Activations, MIB / 2), (Observation, 2 * MIB)];
        at(t, step + 1, &[&kept[..], &[(Workspace, 2 * MIB)]].concat(), MIB);
        at(t + 0.008, step + 1, &[&kept[..], &[(Workspace, 2 * MIB), (Logits, 6 * MIB)]].concat(), MIB);
    }
    let end = 1.02 + 0.011 * steps as f64;
    let span = |name: &str, from: f64, to: f64| Span { name: name.into(), seconds: (from, to) };
    let mut evicted = vec![(1.02, 1638 * 90)];
    evicted.extend((0..steps).step_by(3).map(|step| (1.02 + 0.011 * step as f64, 90)));
    Timeline {
        run: "run 3 · H2O keeps 20 % of tokens".into(),
        moments,
        phases: vec![span("load", 0.0, 0.3), span("prefill", 0.3, 1.02), span("decode", 1.02, end)],
        limits: [Some(192 * MIB), None, None],
        evicted,
        live: false,
        gpu: false,
        ..Timeline::default()
    }
}

const STORY: &str = "Once upon a time there was an old lighthouse keeper who counted the bottles the sea brought him. Every \
evening he would hold one against the lamp and look at what was left in it.\n\nThe empty space above the wine he called by its \
old name, ullage, and said it told him more than the wine: how long the bottle had travelled, how warm the summers had been, and \
whether anyone had opened it on the way.\n\n";
const MORE: &str = "One night a bottle came that was full to the cork. He turned it over and over in his hands, and could not \
find the line where the wine ended and the air began. “Nothing has left you,” he said, “so nothing can be told.” He put it on \
the shelf beside the others and went up to trim the lamp, for a fog was coming in from the west and the ships would be looking \
for him before midnight.";

/// Words with the blank before them, the way tokenizers cut.
pub fn tokens(text: &str) -> Vec<Token> {
    let mut out: Vec<Token> = Vec::new();
    let mut now = String::new();
    let mut done = |now: &mut String| {
        if !now.is_empty() {
            let id = now.bytes().fold(7u32, |h, b| h.wrapping_mul(31).wrapping_add(u32::from(b))) % 49152;
            out.push(Token { id, text: std::mem::take(now) });
        }
    };
    for c in text.chars() {
        if c == ' ' || c == '\n' || c == ',' || c == '.' || now.chars().count() >= 6 {
            done(&mut now);
        }
        now.push(c);
    }
    done(&mut now);
    out
}

/// A sequence of which the policy let go of the middle of the prompt.
pub fn written(dropped: bool) -> Written {
    let mut all = tokens(STORY);
    let prompt = all.len();
    all.extend(tokens(MORE));
    let kept = |i: usize| if i < 4 || i + 24 > prompt { 1.0 } else { [0.0, 0.12, 0.4, 0.0, 0.75, 0.3][i * 7 % 6] };
    let kept = if dropped { (0..all.len()).map(kept).collect() } else { Vec::new() };
    Written { tokens: all, prompt, stop: "stopped at the end of text".into(), kept }
}

/// A completion that is done.
pub fn text() -> Text {
    Text {
        prompt: STORY.into(),
        chats: true,
        sequences: vec![written(true)].into(),
        of_run: Some("run 3 · H2O keeps 20 % of tokens".into()),
        summary: "92 tok/s · 84 tokens in 0.9 s".into(),
        ..Text::default()
    }
}

/// A conversation with an answer to its last message.
pub fn chat() -> Text {
    let turn = |role, content: &str| Turn { role, content: content.into() };
    let answer = "Ullage is the space between the liquid and the cork: what has evaporated, leaked or been drunk.";
    let mut all =
        tokens("<|im_start|>system\nAnswer briefly.<|im_end|>\n<|im_start|>user\nWhat is ullage?<|im_end|>\n");
    let prompt = all.len();
    all.extend(tokens(answer));
    all.push(Token { id: 2, text: "<|im_end|>".into() });
    Text {
        system: "Answer briefly.".into(),
        chat: true,
        chats: true,
        turns: vec![
            turn(Role::User, "What is the headspace in a bottle called?"),
            turn(Role::Assistant, "It is called ullage."),
            turn(Role::User, "What is ullage?"),
            turn(Role::Assistant, answer),
        ],
        sequences: vec![Written { tokens: all, prompt, stop: "end of turn".into(), kept: Vec::new() }].into(),
        ..Text::default()
    }
}

fn run(i: usize, choices: &str, peak: u64, speed: f64, accuracy: &str) -> RunLine {
    RunLine {
        name: format!("2026-11-24_14-{:02}-07", 50 - 7 * i),
        when: format!("2026-11-24 14:{:02}", 50 - 7 * i),
        model: "SmolLM2-135M-Instruct Q4_1".into(),
        choices: choices.into(),
        peak: Some(peak),
        speed: Some(speed),
        accuracy: accuracy.into(),
        bytes: (40 + 11 * i as u64) * 1024,
        ..RunLine::default()
    }
}

/// Runs of an afternoon; one failed.
pub fn history() -> History {
    let mut runs = vec![
        run(0, "H2O, 20 % of tokens", 118 * MIB, 92.4, "same next token 98.7 %"),
        run(1, "KV cache q8_0", 164 * MIB, 88.1, "same next token 99.6 %"),
        run(2, "context 16,384", 0, 0.0, ""),
        run(3, "window of 512 tokens", 104 * MIB, 95.0, "same next token 93.2 %"),
        run(4, "nothing changed", 246 * MIB, 90.2, ""),
    ];
    runs[0].open = true;
    (runs[2].peak, runs[2].speed) = (None, None);
    runs[2].error = "over the memory limit: the KV cache needs 360 MiB, 100 MiB are left".into();
    let bytes = runs.iter().map(|run| run.bytes).sum();
    History { runs, folder: "/home/ada/.local/share/ullage/runs".into(), bytes, ..History::default() }
}

/// Two of them side by side.
pub fn compared() -> History {
    let a = written(false);
    let mut b = written(true);
    let at = a.prompt + 23;
    for (i, token) in tokens(" he opened it all the same, and the room filled with the smell of a harvest long gone.")
        .into_iter()
        .enumerate()
    {
        if let Some(slot) = b.tokens.get_mut(at + i) {
            *slot = token;
        }
    }
    let bar = |parts: [u64; 4]| BytesBar {
        segments: [UsedFor::Weights, UsedFor::KvCache, UsedFor::Activations, UsedFor::Workspace]
            .into_iter()
            .zip(parts)
            .map(|(used_for, mib)| BarSegment {
                label: used_for.label().into(),
                bytes: mib * MIB,
                used_for,
                ..BarSegment::default()
            })
            .collect(),
        limit: Some(192 * MIB),
        measured: true,
    };
    let delta = |label: &str, a: &str, b: &str, change: &str| Delta {
        label: label.into(),
        values: [a.into(), b.into()],
        change: change.into(),
    };
    let pair = Pair {
        names: ["2026-11-24_14-22-07".into(), "2026-11-24_14-50-07".into()],
        text: [a, b],
        first_difference: Some(at),
        bars: [bar([92, 60, 9, 18]), bar([92, 12, 9, 5])],
        figures: vec![
            delta("peak", "179 MiB", "118 MiB", "−61 MiB"),
            delta("speed", "90.2 tok/s", "92.4 tok/s", "+2.4 %"),
            delta("same next token", "—", "98.7 %", ""),
            delta("time to the first token", "0.71 s", "0.74 s", "+4.2 %"),
        ],
        choices: vec![
            ("kv.select".into(), ["full".into(), "h2o".into()]),
            ("kv.budget".into(), [String::new(), "ratio 0.2".into()]),
        ],
    };
    History { pair: Some(Box::new(pair)), ..history() }
}
