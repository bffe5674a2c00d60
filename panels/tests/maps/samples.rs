//! Views of made-up runs with the shapes of a real model (30 layers, 9 query heads on 3 KV heads), the same on every machine.
#![allow(dead_code, reason = "the tests and the example each use their part")]

use std::sync::Arc;

use ullage_panels::view::{
    Accuracy, Attention, Axis, Dot, Eviction, Grid, Kept, Map, Merge, Moved, Piece, Places, Series, Tier, UsedFor,
};

pub const LAYERS: usize = 30;
pub const HEADS: usize = 9;
pub const KV_HEADS: usize = 3;
pub const BINS: usize = 64;

/// A number in 0 … 1 that depends on its arguments alone.
fn noise(a: usize, b: usize, c: usize) -> f64 {
    let mut x = (a as u64) << 40 ^ (b as u64) << 20 ^ c as u64 ^ 0x9E37_79B9_7F4A_7C15;
    for _ in 0..3 {
        x ^= x >> 30;
        x = x.wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x ^= x >> 27;
    }
    (x >> 11) as f64 / (1u64 << 53) as f64
}

/// A weight before it is made to sum to one: a sink at the start, the newest tokens, and here and there an old one.
fn raw(head: usize, query: usize, key: usize) -> f64 {
    let sink = if key == 0 { 2.0 + 6.0 * noise(head, 1, 0) } else { 0.0 };
    let near = 3.0 * (-((query - key) as f64) / (1.5 + 30.0 * noise(head, 2, 0).powi(2))).exp();
    let column = if noise(head, 3, key) > 0.97 { 4.0 * noise(head, 4, key) } else { 0.0 };
    sink + near + column + 0.02 * noise(query, head, key)
}

const WORDS: [&str; 24] = [
    "Once",
    " upon",
    " a",
    " time",
    ",",
    " there",
    " was",
    " a",
    " small",
    " cache",
    " that",
    " wanted",
    " to",
    " hold",
    " every",
    " token",
    ".",
    "\n",
    "It",
    " grew",
    " until",
    " the",
    " tank",
    " was full",
];

pub fn tokens(n: usize) -> Arc<Vec<String>> {
    Arc::new((0..n).map(|i| WORDS[i % WORDS.len()].to_owned()).collect())
}

/// Small maps of `steps` decoding steps after a prompt of `prompt` tokens.
pub fn grid(steps: usize, prompt: usize) -> Grid {
    let mut grid = Grid { bins: BINS, ..Grid::default() };
    for step in 0..steps {
        let rows = prompt + step;
        grid.steps.push(step);
        grid.rows.push(rows);
        for head in 0..LAYERS * HEADS {
            let mut bins = [0.0f64; BINS];
            for key in 0..rows {
                let bin = key * BINS / rows;
                bins[bin] = bins[bin].max(raw(head, rows, key));
            }
            let largest = bins.iter().copied().fold(0.0, f64::max);
            grid.values.extend(bins.iter().map(|b| (b / largest * 255.0) as u8));
            grid.largest.push((largest / (largest + 6.0)) as f32);
        }
    }
    grid
}

/// A head at full size, with every third old key dropped at the end of the prompt and more while it goes on.
pub fn map(queries: usize, prompt: usize, head: (usize, usize), evict: bool) -> (Map, Vec<Eviction>) {
    let mut evictions = Vec::new();
    let mut gone = vec![usize::MAX; queries];
    if evict {
        for (position, gone) in gone.iter_mut().enumerate().skip(4) {
            let at = position as f64 / queries as f64;
            let step = if position < prompt && noise(7, 7, position) > 0.45 + 0.4 * at {
                Some(0)
            } else if position % 5 == 0 && position + 12 < queries {
                Some((position + 12).saturating_sub(prompt))
            } else {
                None
            };
            if let Some(step) = step.filter(|s| prompt + s > position && prompt + s < queries) {
                *gone = prompt + step;
                let (layer, head) = (head.0 as u16, (head.1 / (HEADS / KV_HEADS)) as u16);
                evictions.push(Eviction { step, layer, head, position: position as u32 });
            }
        }
    }
    evictions.sort_by_key(|e| e.step);
    let stride = queries.div_ceil(8);
    let mut map = Map {
        head,
        queries: (0..queries as u32).collect(),
        columns: queries,
        values: vec![0; queries * queries],
        held: vec![0; queries * stride],
    };
    let mut weights = vec![0.0; queries];
    for query in 0..queries {
        let mut sum = 0.0;
        for key in 0..=query {
            weights[key] = if query >= gone[key] { 0.0 } else { raw(head.0 * HEADS + head.1, query, key) };
            sum += weights[key];
        }
        for key in (0..=query).filter(|&k| query < gone[k]) {
            map.values[query * queries + key] = ((weights[key] / sum).sqrt() * 255.0).round() as u8;
            map.held[query * stride + key / 8] |= 1 << (key % 8);
        }
    }
    (map, evictions)
}

pub fn attention(steps: usize, prompt: usize) -> Attention {
    let (map, evictions) = map(prompt + steps, prompt, (3, 2), true);
    Attention {
        run: "run 3".into(),
        layers: LAYERS,
        heads: HEADS,
        kv_heads: KV_HEADS,
        grid: Some(Arc::new(grid(steps, prompt))),
        map: Some(Arc::new(map)),
        chosen: None,
        evictions: Arc::new(evictions),
        tokens: tokens(prompt + steps),
        prompt,
        note: String::new(),
        observed: true,
        moments: Arc::new((0..2 * steps).map(|m| m / 2).collect()),
        ..Attention::default()
    }
}

/// As [`attention`], with keys of few bits, and every key that left after the prompt merged into a neighbour.
pub fn folded(steps: usize, prompt: usize) -> Attention {
    let whole = attention(steps, prompt);
    let survivor = |e: &Eviction| {
        let gone = |p: u32| whole.evictions.iter().any(|e| e.position == p);
        (e.position + 1..).find(|p| !gone(*p)).unwrap_or_default()
    };
    let merges = whole.evictions.iter().filter(|e| e.step > 0).map(|e| Merge {
        step: e.step,
        layer: e.layer,
        head: e.head,
        position: e.position,
        survivor: survivor(e),
    });
    let merges = Arc::new(merges.collect());
    let kept = |name: &str, bits| Kept { name: name.into(), bits };
    let formats = Arc::new(vec![[kept("q4_0", 4.5), kept("q8_0", 8.5)]]);
    Attention { merges, formats, ..whole }
}

fn dot(run: &str, label: &str, mib: f64, recall: f64, kl: f64, error: f64) -> Dot {
    Dot {
        run: run.into(),
        label: label.into(),
        bytes: (mib * 1_048_576.0) as u64,
        values: vec![("recall.accuracy".into(), recall), ("fidelity.kl".into(), kl)],
        errors: vec![("recall.accuracy".into(), error), ("fidelity.kl".into(), kl * 0.2)],
        planned: false,
        diverged: String::new(),
        sets: vec![("kv.select".into(), label.split(' ').next().unwrap_or_default().to_lowercase())],
    }
}

pub fn accuracy() -> Accuracy {
    let series =
        |name: &str, machine: &str, dots: Vec<Dot>| Series { name: name.into(), machine: machine.into(), dots };
    let planned = |label: &str, mib: f64| Dot {
        planned: true,
        values: vec![],
        errors: vec![],
        ..dot("", label, mib, 0.0, 0.0, 0.0)
    };
    let set = |key: &str, value: &str| vec![(key.to_owned(), value.to_owned())];
    Accuracy {
        axes: vec![
            Axis { id: "recall.accuracy".into(), label: "recall".into(), unit: "%".into(), up: true },
            Axis {
                id: "fidelity.kl".into(),
                label: "KL to the uncompressed model".into(),
                unit: "nats".into(),
                up: false,
            },
        ],
        series: vec![
            series(
                "H2O",
                "",
                vec![
                    dot("run 4", "H2O 10 %", 17.9, 0.41, 0.61, 0.035),
                    dot("run 5", "H2O 20 %", 21.0, 0.63, 0.31, 0.034),
                    dot("run 6", "H2O 40 %", 27.5, 0.82, 0.12, 0.027),
                    planned("H2O 60 %", 33.8),
                    planned("H2O 80 %", 40.0),
                ],
            ),
            series(
                "window",
                "",
                vec![
                    dot("run 7", "window 10 %", 17.8, 0.12, 0.9, 0.023),
                    dot("run 8", "window 20 %", 20.9, 0.22, 0.72, 0.029),
                    dot("run 9", "window 40 %", 27.4, 0.44, 0.44, 0.035),
                    dot("run 10", "window 80 %", 39.9, 0.83, 0.11, 0.026),
                ],
            ),
            series(
                "precision",
                "",
                vec![
                    dot("run 1", "f16", 46.3, 0.985, 0.0002, 0.008),
                    dot("run 2", "q8_0", 31.6, 0.984, 0.0009, 0.009),
                    dot("run 3", "q4_0", 23.9, 0.92, 0.05, 0.019),
                ],
            ),
            series(
                "SnapKV",
                "an H100, 80 GB",
                vec![
                    Dot { run: String::new(), sets: vec![], ..dot("", "SnapKV 10 %", 18.1, 0.58, 0.4, 0.03) },
                    Dot { run: String::new(), sets: vec![], ..dot("", "SnapKV 40 %", 27.7, 0.9, 0.08, 0.02) },
                ],
            ),
        ],
        queued: 2,
        sweeps: vec![
            (
                "Tokens to keep (SnapKV)".into(),
                ["0.1", "0.2", "0.4", "0.8"].map(|r| set("kv.budget.ratio", r)).to_vec(),
            ),
            ("Precision".into(), ["f16", "q8_0", "q4_0"].map(|f| set("kv.format", f)).to_vec()),
        ],
    }
}

pub fn places(measured: bool) -> Places {
    let mut pieces = Vec::new();
    let mut add = |name: String, group: String, detail: &str, used_for, tier, bytes| {
        pieces.push(Piece { name, group, detail: detail.into(), used_for, tier, bytes });
    };
    let w = UsedFor::Weights;
    add("token_embd.weight".into(), "embedding".into(), "q8_0 (49152, 576)", w, Tier::Device, 30_081_024);
    for l in 0..LAYERS {
        let tier = if l < 24 { Tier::Device } else { Tier::Host };
        for (part, detail, bytes) in [
            ("attn_q.weight", "q4_1 (576, 576)", 207_360),
            ("attn_k.weight", "q4_1 (192, 576)", 69_120),
            ("attn_v.weight", "q4_1 (192, 576)", 69_120),
            ("attn_output.weight", "q4_1 (576, 576)", 207_360),
            ("ffn_gate.weight", "q4_1 (1536, 576)", 552_960),
            ("ffn_up.weight", "q4_1 (1536, 576)", 552_960),
            ("ffn_down.weight", "q4_1 (576, 1536)", 552_960),
            ("attn_norm.weight", "f32 (576)", 2_304),
            ("ffn_norm.weight", "f32 (576)", 2_304),
        ] {
            add(format!("blk.{l}.{part}"), format!("layer {l}"), detail, w, tier, bytes);
        }
        let kv = UsedFor::KvCache;
        add(format!("kv rows, layer {l}"), format!("layer {l}"), "f16 (3, 1638, 64) × 2", kv, Tier::Device, 1_257_984);
        add(format!("scores, layer {l}"), format!("layer {l}"), "f32 (3, 1638)", kv, Tier::Device, 19_656);
    }
    add("output_norm.weight".into(), "output".into(), "f32 (576)", w, Tier::Device, 2_304);
    add("logits".into(), "output".into(), "f32 (1, 49152)", UsedFor::Logits, Tier::Device, 196_608);
    add("hidden states".into(), "activations".into(), "f32 (64, 576)", UsedFor::Activations, Tier::Device, 1_474_560);
    add(
        "scratch of the largest operation".into(),
        "scratch".into(),
        "f32",
        UsedFor::Workspace,
        Tier::Device,
        6_291_456,
    );
    add("attention rows".into(), "display".into(), "u8", UsedFor::Observation, Tier::Host, 2_211_840);
    pieces.sort_by_key(|p| std::cmp::Reverse(p.bytes));
    let moved = |what: &str, bytes, per_token| Moved { what: what.into(), bytes, per_token };
    Places {
        what: if measured { "measured: run 3, at the peak".into() } else { "predicted, at the peak".into() },
        measured,
        pieces,
        moved: if measured {
            vec![
                moved("disk read", 96_468_992, None),
                moved("RAM to memory", 1_704_067_072, Some(13_313_024)),
                moved("rows shifted in the cache", 3_145_728, Some(24_576)),
            ]
        } else {
            vec![]
        },
        beside: if measured {
            vec![("heap of the program".into(), 14_680_064), ("resident set beyond both accounts".into(), -1_310_720)]
        } else {
            vec![]
        },
        gpu: false,
    }
}
