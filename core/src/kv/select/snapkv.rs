//! What the prompt's last tokens look at, with its neighbours, chosen once: SnapKV (arXiv 2404.14469, §4).

use crate::kv::{HeadView, Needs, Rhythm, RowMeta, Seen, Select};
use crate::schema::{About, Default, Entry, Knob, KnobKind, axes};

/// The catalogue entry.
pub static ENTRY: Entry<dyn Select> = Entry {
    about: About {
        id: "snapkv",
        title: "Prompt's end (SnapKV)",
        common: true,
        paper: "Li et al., SnapKV: LLM Knows What You are Looking for Before Generation, NeurIPS 2024, arXiv 2404.14469",
        sentence: "Keeps the prompt's tokens that its last ones look at, with their neighbours; what is generated is added and stays.",
        knobs: &[
            Knob {
                id: "max_capacity_prompt",
                label: "Tokens kept of the prompt",
                paper_name: "max_capacity_prompt",
                kind: KnobKind::Int { min: 1, max: 1 << 24 },
                default: Default::Int(2048),
                unit: "rows",
                sentence: "Rows that stay of a prompt, its window included; kv.budget replaces it.",
            },
            Knob {
                id: "window_size",
                label: "Observation window",
                paper_name: "window_size",
                kind: KnobKind::Int { min: 1, max: 4096 },
                default: Default::Int(32),
                unit: "tokens",
                sentence: "The prompt's last tokens, whose attention decides and which always stay.",
            },
            Knob {
                id: "kernel_size",
                label: "Pooling width",
                paper_name: "kernel_size",
                kind: KnobKind::Int { min: 1, max: 63 },
                default: Default::Int(5),
                unit: "rows",
                sentence: "Neighbours that a row's score is pooled over, itself in the middle; odd.",
            },
            Knob {
                id: "pooling",
                label: "Pooling",
                paper_name: "pooling",
                kind: KnobKind::Word { of: &["avgpool", "maxpool"] },
                default: Default::Text("avgpool"),
                unit: "",
                sentence: "Whether a row's score is the average or the largest of its neighbours'.",
            },
            Knob {
                id: "gqa_agg",
                label: "Heads of a group",
                paper_name: "",
                kind: KnobKind::Word { of: &["mean", "max", "sum"] },
                default: Default::Text("mean"),
                unit: "",
                sentence: "How the scores of the query heads that share a key-value head become one.",
            },
        ],
        ..About::on(&axes::KV_SELECT)
    },
    build: |knobs| {
        Ok(Box::new(SnapKv {
            capacity: knobs.int("max_capacity_prompt"),
            window: knobs.int("window_size"),
            // An even width has no middle: the next odd one.
            half: knobs.int("kernel_size") / 2,
            largest: knobs.text("pooling") == "maxpool",
            together: match knobs.text("gqa_agg") {
                "max" => Together::Max,
                "sum" => Together::Sum,
                _ => Together::Mean,
            },
        }))
    },
};

#[derive(Clone, Copy)]
enum Together {
    Mean,
    Max,
    Sum,
}

struct SnapKv {
    capacity: usize,
    window: usize,
    half: usize,
    largest: bool,
    together: Together,
}

impl SnapKv {
    /// The score of row `j` among its neighbours.
    fn pooled(&self, sums: &[f32], j: usize) -> f32 {
        let near = &sums[j.saturating_sub(self.half)..(j + self.half + 1).min(sums.len())];
        if self.largest {
            return near.iter().copied().fold(0.0, f32::max);
        }
        // Beyond the ends stand zeros, which the width counts.
        near.iter().sum::<f32>() / (2 * self.half + 1) as f32
    }
}

impl Select for SnapKv {
    fn own_rows(&self, _prompt: usize) -> Option<usize> {
        Some(self.capacity)
    }

    fn meta(&self) -> RowMeta {
        // Positions only for showing which tokens stay.
        RowMeta { score: false, position: true }
    }

    fn needs(&self) -> Needs {
        Needs { window: self.window, ..Needs::default() }
    }

    fn rhythm(&self) -> Rhythm {
        Rhythm::Once
    }

    fn ranks(&self) -> bool {
        true
    }

    fn rank(&self, seen: Seen<'_>, out: &mut [f32]) {
        let prefix = seen.rows - self.window.min(seen.rows);
        for (j, out) in out[..prefix].iter_mut().enumerate() {
            let mut all = 0.0f32;
            for head in 0..seen.group {
                let score = self.pooled(&seen.window[head * seen.stride..][..prefix], j);
                all = if matches!(self.together, Together::Max) { all.max(score) } else { all + score };
            }
            *out = if matches!(self.together, Together::Mean) { all / seen.group as f32 } else { all };
        }
    }

    fn always(&self, _prompt: usize, quota: usize) -> usize {
        self.window.min(quota)
    }

    fn keep(&self, view: HeadView<'_>, keep: &mut [u32]) -> usize {
        super::keep_best(keep, view.rows, view.quota, 0, self.window, view.scores)
    }
}
