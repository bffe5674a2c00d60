//! A whole realistic view: SmolLM2-135M at 8192 tokens below a limit of 192 MiB, with its own numbers. Tests and examples
//! start from it and change what they are about.
#![allow(dead_code, reason = "each test uses its part")]

use std::sync::Arc;

use ullage_panels::view::*;

pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;
/// 30 layers, keys and values, 3 KV heads of 64, two bytes each.
pub const TOKEN: u64 = 2 * 30 * 3 * 64 * 2;
pub const WEIGHTS: u64 = 96_873_216;
pub const SCRATCH: u64 = 20 * MIB;

pub fn segment(label: &str, bytes: u64, used_for: UsedFor, formula: &str, governed_by: &str) -> BarSegment {
    BarSegment { label: label.into(), bytes, used_for, formula: formula.into(), governed_by: governed_by.into() }
}

/// The device's bar with `kv` bytes of cache.
pub fn bar(kv: u64, scratch: u64, limit: Option<u64>, measured: bool) -> BytesBar {
    let segments = vec![
        segment("weights", WEIGHTS, UsedFor::Weights, "272 tensors, mostly q4_1: 5 bits an element", "weights.format"),
        segment("KV cache", kv, UsedFor::KvCache, "2 · 30 layers · 3 heads · 64 · 8192 tokens · 2 B", "kv.format"),
        segment("output scores", 196_608, UsedFor::Logits, "49,152 words · 4 B", ""),
        segment("scratch", scratch, UsedFor::Workspace, "512 rows · 576 · 4 B · 17", ""),
    ];
    BytesBar { segments: segments.into_iter().filter(|s| s.bytes > 0).collect(), limit, measured }
}

pub fn bars(kv: u64, limit: Option<u64>, measured: bool) -> Bars {
    let instant = |name: &str, kv, scratch| Instant {
        name: name.into(),
        tiers: vec![(Tier::Device, bar(kv, scratch, limit, measured))],
    };
    Bars {
        instants: vec![
            instant("peak (prefill)", kv, SCRATCH),
            instant("load", 0, 0),
            instant("prefill", kv, SCRATCH),
            instant("decode", kv, SCRATCH / 10),
        ],
        stale: false,
        live: false,
    }
}

pub fn peak(bars: &Bars) -> u64 {
    bars.instants[0].tiers[0].1.total()
}

fn ticks() -> Vec<Tick> {
    let round = [16, 64, 256, 1024, 4096, 16 * 1024, 64 * 1024].map(|m| m * MIB);
    let mut ticks: Vec<Tick> =
        round.iter().map(|b| Tick { bytes: *b, label: ullage_panels::words::bytes(*b), ..Tick::default() }).collect();
    for (gib, name, detail) in [
        (8, "RTX 3060 Ti", "8 GiB at 448 GB/s"),
        (12, "RTX 3060", "12 GiB at 360 GB/s"),
        (16, "M2 Air", "16 GiB shared at 100 GB/s"),
        (24, "RTX 4090", "24 GiB at 1008 GB/s"),
        (80, "H100", "80 GiB at 3350 GB/s"),
    ] {
        ticks.push(Tick {
            bytes: gib * GIB,
            label: name.into(),
            detail: detail.into(),
            named: true,
            device: Some(name.into()),
        });
    }
    ticks.push(Tick { bytes: 31 * GIB, label: "this machine".into(), named: true, ..Tick::default() });
    ticks.sort_by_key(|t| t.bytes);
    ticks
}

fn field(key: &str, label: &str, value: u64, max: u64, sentence: &str) -> Field {
    let (key, label, sentence) = (key.into(), label.into(), sentence.into());
    Field { key, label, sentence, value, min: 1, max, fits: None }
}

fn recent(path: &str, from: &str, bytes: u64) -> Recent {
    let name = path.rsplit('/').next().unwrap_or(path).to_owned();
    Recent { path: path.into(), name, from: from.into(), bytes: Some(bytes) }
}

pub fn top() -> Top {
    let limit = 192 * MIB;
    Top {
        model: ModelLine {
            name: "SmolLM2-135M-Instruct Q4_1".into(),
            detail: "llama, 135 M parameters, 92.4 MiB of weights".into(),
            path: "/models/SmolLM2-135M-Instruct.Q4_1.gguf".into(),
            opening: None,
            chats: true,
            layers_heads: (30, 9),
        },
        recent: vec![
            recent("/models/SmolLM2-135M-Instruct.Q4_1.gguf", "recent", 98_000_000),
            recent("bundled:recall", "bundled", 3_400_000),
            recent("/models/Llama-3.2-1B-Instruct.Q4_K_M.gguf", "LM Studio", 807_000_000),
            recent("/models/Qwen2.5-7B-Instruct.Q4_K_M.gguf", "LM Studio", 4_683_000_000),
            recent("/ollama/blobs/gemma2-2b", "Ollama", 1_629_000_000),
        ],
        devices: vec![
            Device {
                id: "cpu".into(),
                name: "CPU, 2 threads".into(),
                detail: "31 GiB at 21 GB/s".into(),
                chosen: true,
                runs: true,
                gpu: false,
            },
            Device { name: "RTX 4090".into(), detail: "24 GiB at 1008 GB/s".into(), gpu: true, ..Device::default() },
        ],
        workload: vec![
            field("run.context", "Context", 8192, 131_072, "Tokens of the prompt and of what is written, together."),
            field("run.sequences", "Sequences", 1, 256, "How many are decoded side by side, each with its own cache."),
            field("run.max_tokens", "Write", 128, 131_072, "Tokens to write at most."),
        ],
        limit: Limit { bytes: Some(limit), range: (16 * MIB, 96 * GIB), ticks: ticks(), free: Some(21 * GIB) },
        predicted: Some(bars(8192 * TOKEN, Some(limit), false)),
        only_planned: false,
        no_plan: String::new(),
        measured: None,
        way_back: Some(WayBack {
            words: "Keep 20 % of tokens (H2O)".into(),
            change: -((8192 - 1638) * TOKEN as i64),
            accuracy: "same next token 98.7 %".into(),
            sets: vec![("kv.select".into(), "h2o".into()), ("kv.budget.ratio".into(), "0.2".into())],
        }),
        longest_context: Some(3640),
        most_sequences: Some(0),
        predicted_speed: Some((1240.0, 95.1)),
        probed: true,
        notes: Vec::new(),
    }
}

/// Everything fits and was measured.
pub fn top_fits() -> Top {
    let limit = 192 * MIB;
    let mut measured = bars(1638 * TOKEN - 40_000, Some(limit), true);
    measured.instants[0].name = "peak (prefill)".into();
    Top {
        predicted: Some(bars(1638 * TOKEN, Some(limit), false)),
        measured: Some(measured),
        way_back: None,
        longest_context: Some(20_480),
        most_sequences: Some(3),
        ..top()
    }
}

/// Over the limit, with a measurement of an earlier configuration, and weights that live in RAM and on disk.
pub fn top_stale() -> Top {
    let mut top = top();
    let mut measured = bars(1638 * TOKEN, Some(192 * MIB), true);
    measured.stale = true;
    top.measured = Some(measured);
    for (tier, bytes) in [(Tier::Host, 60 * MIB), (Tier::Disk, 400 * MIB)] {
        let segments = vec![segment("weights", bytes, UsedFor::Weights, "20 of 30 layers", "place.weights")];
        let bar = BytesBar { segments, limit: None, measured: false };
        for instant in &mut top.predicted.as_mut().expect("predicted").instants {
            instant.tiers.push((tier, bar.clone()));
        }
    }
    top
}

pub fn top_without_plan() -> Top {
    Top {
        predicted: None,
        no_plan: "No plan: the file ends in the middle of tensor blk.7.ffn_up.weight. Download it again.".into(),
        way_back: None,
        longest_context: None,
        most_sequences: None,
        predicted_speed: None,
        ..top()
    }
}

fn variant(id: &str, title: &str, saves: u64, speed: f64, accuracy: &str, sentence: &str, paper: &str) -> Variant {
    let before = peak(&bars(8192 * TOKEN, None, false));
    Variant {
        id: id.into(),
        title: title.into(),
        sentence: sentence.into(),
        paper: paper.into(),
        chosen: saves == 0,
        common: true,
        sets: vec![("kv.select".into(), id.into())],
        price: Some(Price {
            before,
            after: before - saves,
            elsewhere: (0, 0),
            speed: (95.1, speed),
            fits: before - saves <= 192 * MIB,
        }),
        refused: String::new(),
        accuracy: accuracy.into(),
        knobs: Vec::new(),
    }
}

pub fn knob(key: &str, label: &str, kind: Kind, value: &str, default: &str, unit: &str) -> Knob {
    Knob {
        key: key.into(),
        label: label.into(),
        paper_name: String::new(),
        sentence: format!("What {} means, in one sentence.", label.to_lowercase()),
        unit: unit.into(),
        kind,
        value: value.into(),
        default: default.into(),
    }
}

fn card(key: &str, title: &str, sentence: &str, variants: Vec<Variant>) -> Card {
    let variants = variants.into_iter().map(|v| Variant { sets: vec![(key.to_owned(), v.id.clone())], ..v }).collect();
    Card { key: key.into(), title: title.into(), sentence: sentence.into(), variants, ..Card::default() }
}

pub fn sections() -> Vec<Section> {
    let section = |title: &str, cards| Section { title: title.into(), cards };
    vec![
        section("Weights", vec![weights()]),
        section("KV cache", vec![tokens(), precision(), layout()]),
        section("Where it lives", vec![place()]),
    ]
}

/// Bytes of the whole cache in f16.
const CACHE: u64 = 8192 * TOKEN;

fn tokens() -> Card {
    let select = vec![
        variant("full", "All", 0, 95.1, "", "Every token stays.", ""),
        variant(
            "h2o",
            "Heavy hitters (H2O)",
            CACHE / 5 * 4,
            118.0,
            "same next token 98.7 %",
            "Each layer keeps the tokens that were attended to most, and the newest.",
            "Zhang et al. 2023, H2O: Heavy-Hitter Oracle",
        ),
        variant(
            "window",
            "Sliding window",
            CACHE / 5 * 4,
            121.0,
            "same next token 91.2 %",
            "The newest tokens stay, and the first few.",
            "Xiao et al. 2023, StreamingLLM",
        ),
        variant(
            "snapkv",
            "What the prompt’s end looks at (SnapKV)",
            CACHE / 2,
            104.0,
            "",
            "The prompt's last queries choose what stays.",
            "Li et al. 2024, SnapKV",
        ),
        Variant {
            common: false,
            ..variant(
                "scissorhands",
                "Scissorhands",
                CACHE / 5 * 4,
                117.0,
                "",
                "Tokens that mattered keep mattering.",
                "Liu et al. 2023",
            )
        },
        Variant {
            refused: "pyramid budgets need a split over layers, and this model has one attention pattern".into(),
            price: None,
            ..variant("pyramid", "Pyramid", 1, 95.0, "", "Deep layers keep fewer.", "Cai et al. 2024")
        },
    ];
    let mut tokens = card("kv.select", "Tokens to keep", "Which tokens the cache keeps.", select);
    tokens.knobs = vec![knob("kv.budget.ratio", "Share kept", Kind::Float { min: 0.0, max: 1.0 }, "0.2", "0.2", "")];
    tokens.variants[0].knobs =
        vec![knob("kv.select.n_sink", "Sink tokens", Kind::Int { min: 0, max: 4096 }, "8", "4", "tokens")];
    tokens
}

fn precision() -> Card {
    let format = vec![
        variant("f16", "f16", 0, 95.1, "", "Two bytes an element.", ""),
        variant(
            "q8_0",
            "q8_0",
            CACHE / 32 * 15,
            99.0,
            "same next token 99.6 %",
            "A byte an element and a scale for 32.",
            "ggml",
        ),
        variant(
            "q4_0",
            "q4_0",
            CACHE / 32 * 23,
            104.0,
            "same next token 96.4 %",
            "Four bits an element and a scale for 32.",
            "ggml",
        ),
    ];
    card("kv.format", "Precision", "How an element of the cache is kept.", format)
}

fn weights() -> Card {
    let weights = vec![
        variant("original", "As in the file", 0, 95.1, "", "Weights stay as they are.", ""),
        variant("q4_0", "q4_0", 9 * MIB, 101.0, "", "Four bits an element and a scale for 32.", "ggml"),
    ];
    card("weights.format", "Format", "How weights are kept.", weights)
}

fn place() -> Card {
    let place = vec![
        variant("resident", "All in memory", 0, 95.1, "", "Every layer stays where it is computed.", ""),
        Variant {
            price: Some(Price {
                before: peak(&bars(CACHE, None, false)),
                after: peak(&bars(CACHE, None, false)) - 60 * MIB,
                elsewhere: (60 * MIB as i64, 0),
                speed: (95.1, 31.0),
                fits: false,
            }),
            ..variant(
                "stream",
                "Layer by layer",
                60 * MIB,
                31.0,
                "no cost, same bits",
                "Layers come from RAM as they are needed.",
                "",
            )
        },
    ];
    card("place.weights", "Weights", "Where weights wait until they are needed.", place)
}

fn layout() -> Card {
    let mut alloc = card(
        "kv.alloc",
        "Cache layout",
        "How room for the cache is made.",
        vec![
            variant("contiguous", "Contiguous", 0, 95.1, "", "All at once.", ""),
            variant("paged", "Paged", MIB, 95.1, "", "In pages, as it grows.", "Kwon et al. 2023"),
        ],
    );
    alloc.advanced = true;
    alloc
}

pub fn running() -> Status {
    Status {
        running: true,
        paused: false,
        doing: "decoding".into(),
        progress: Some((84, 128)),
        seconds_left: Some(3.0),
        speed: Some(92.3),
        predicted_speed: Some(95.1),
        blocked: String::new(),
        undo: Some("Tokens to keep: H2O".into()),
        redo: None,
        queued: 0,
    }
}

pub fn over_budget() -> Notice {
    Notice {
        id: 7,
        title: "The run stopped at the memory limit".into(),
        detail: "The KV cache needed 6 MiB more at token 3,640 and 1.2 MiB were left of 192 MiB. Keep fewer tokens, or raise the limit to 198 MiB.".into(),
        failure: true,
        remedy: Some(("Keep 20 % of tokens".into(), vec![("kv.select".into(), "h2o".into())])),
    }
}

pub fn view() -> View {
    View {
        modes: Vec::new(),
        top: top(),
        status: Status { undo: Some("Context 8,192".into()), ..Status::default() },
        cards: Arc::new(sections()),
        ..View::default()
    }
}
