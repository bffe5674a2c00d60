//! Heavy hitters and a recent window, chosen by accumulated attention: H2O (arXiv 2306.14048).

use crate::kv::{HeadView, Needs, Rhythm, RowMeta, Select};
use crate::schema::{About, Candidate, Cost, Default, Entry, Knob, KnobKind, axes};

const RATIO: KnobKind = KnobKind::Float { min: 0.0, max: 1.0 };
const SIZE: KnobKind = KnobKind::Int { min: 0, max: 1 << 24 };

/// The catalogue entry.
pub static ENTRY: Entry<dyn Select> = Entry {
    about: About {
        id: "h2o",
        title: "Heavy hitters (H2O)",
        common: true,
        paper: "Zhang et al., H2O: Heavy-Hitter Oracle for Efficient Generative Inference of LLMs, NeurIPS 2023, arXiv 2306.14048",
        sentence: "Keeps the tokens that received most attention so far and the most recent ones, updated at every step.",
        knobs: &[
            Knob {
                id: "heavy_ratio",
                label: "Heavy hitters, share",
                paper_name: "heavy_ratio",
                kind: RATIO,
                default: Default::Float(0.1),
                unit: "of the prompt",
                sentence: "Heavy hitters as a fraction of the prompt, fixed when it has been read.",
            },
            Knob {
                id: "recent_ratio",
                label: "Recent, share",
                paper_name: "recent_ratio",
                kind: RATIO,
                default: Default::Float(0.1),
                unit: "of the prompt",
                sentence: "Recent tokens as a fraction of the prompt, fixed when it has been read.",
            },
            Knob {
                id: "hh_size",
                label: "Heavy hitters",
                paper_name: "hh_size",
                kind: SIZE,
                default: Default::None,
                unit: "rows",
                sentence: "Heavy hitters as a number of rows; replaces heavy_ratio.",
            },
            Knob {
                id: "recent_size",
                label: "Recent",
                paper_name: "recent_size",
                kind: SIZE,
                default: Default::None,
                unit: "rows",
                sentence: "Recent tokens as a number of rows; replaces recent_ratio.",
            },
            Knob {
                id: "n_sink",
                label: "First tokens",
                paper_name: "",
                kind: KnobKind::Int { min: 0, max: 4096 },
                default: Default::Int(0),
                unit: "rows",
                sentence: "First tokens that stay among the heavy hitters whatever their score; H2O has none, D2O 4.",
            },
            Knob {
                id: "interval",
                label: "Tokens between evictions",
                paper_name: "",
                kind: KnobKind::Int { min: 1, max: 1 << 16 },
                default: Default::Int(1),
                unit: "tokens",
                sentence: "While decoding, rows leave each time this many stand above the quota; 1 is the paper's every step.",
            },
        ],
        candidates: &[
            Candidate {
                cost: Cost::Accuracy,
                keeps: 0.5,
                sets: &[("kv.budget.ratio", "0.5")],
                words: "Keep 50 % of tokens (H2O)",
            },
            Candidate {
                cost: Cost::Accuracy,
                keeps: 0.2,
                sets: &[("kv.budget.ratio", "0.2")],
                words: "Keep 20 % of tokens (H2O)",
            },
            Candidate {
                cost: Cost::Accuracy,
                keeps: 0.1,
                sets: &[("kv.budget.ratio", "0.1")],
                words: "Keep 10 % of tokens (H2O)",
            },
            Candidate {
                cost: Cost::Accuracy,
                keeps: 0.05,
                sets: &[("kv.budget.ratio", "0.05")],
                words: "Keep 5 % of tokens (H2O)",
            },
        ],
        ..About::on(&axes::KV_SELECT)
    },
    build: |knobs| {
        Ok(Box::new(H2o {
            heavy: Share { ratio: knobs.float("heavy_ratio"), size: knobs.given_int("hh_size") },
            recent: Share { ratio: knobs.float("recent_ratio"), size: knobs.given_int("recent_size") },
            n_sink: knobs.int("n_sink"),
            interval: knobs.int("interval"),
        }))
    },
};

#[derive(Clone, Copy)]
struct Share {
    ratio: f64,
    size: Option<usize>,
}

impl Share {
    fn rows(self, prompt: usize) -> usize {
        self.size.unwrap_or((self.ratio * prompt as f64) as usize)
    }
}

struct H2o {
    heavy: Share,
    recent: Share,
    n_sink: usize,
    interval: usize,
}

impl H2o {
    /// Recent rows of a quota: the knobs' own number where the quota is theirs, otherwise their share of it.
    fn recent_rows(&self, prompt: usize, quota: usize) -> usize {
        let (heavy, recent) = (self.heavy.rows(prompt), self.recent.rows(prompt));
        match heavy + recent {
            sum if sum == quota => recent,
            0 => quota - quota / 2,
            sum => ((quota as f64 * recent as f64 / sum as f64).round() as usize).min(quota),
        }
    }
}

impl Select for H2o {
    fn own_rows(&self, prompt: usize) -> Option<usize> {
        Some((self.heavy.rows(prompt) + self.recent.rows(prompt)).max(1))
    }

    fn meta(&self) -> RowMeta {
        // Positions only for showing which token was evicted: 4 bytes a row, as the paper's formula counts them.
        RowMeta { score: true, position: true }
    }

    fn needs(&self) -> Needs {
        Needs { columns: true, ..Needs::default() }
    }

    fn rhythm(&self) -> Rhythm {
        Rhythm::Every(self.interval)
    }

    fn keep(&self, view: HeadView<'_>, keep: &mut [u32]) -> usize {
        let recent = self.recent_rows(view.prompt, view.quota);
        super::keep_best(keep, view.rows, view.quota, self.n_sink, recent, view.scores)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(heavy: usize, recent: usize) -> H2o {
        H2o {
            heavy: Share { ratio: 0.1, size: Some(heavy) },
            recent: Share { ratio: 0.1, size: Some(recent) },
            n_sink: 0,
            interval: 1,
        }
    }

    fn kept(policy: &H2o, scores: &[f32], quota: usize) -> Vec<u32> {
        let mut keep = vec![0; scores.len()];
        let n =
            policy.keep(HeadView { rows: scores.len(), scores, quota, newcomers: 0, prompt: scores.len() }, &mut keep);
        keep.truncate(n);
        keep
    }

    #[test]
    fn a_hand_made_matrix_gives_the_expected_set() {
        // Column sums of a causal 6×6 matrix: token 0 and token 3 are looked at most.
        let a: [[f32; 6]; 6] = [
            [1.0, 0.0, 0.0, 0.0, 0.0, 0.0],
            [0.7, 0.3, 0.0, 0.0, 0.0, 0.0],
            [0.6, 0.1, 0.3, 0.0, 0.0, 0.0],
            [0.4, 0.1, 0.1, 0.4, 0.0, 0.0],
            [0.3, 0.0, 0.0, 0.6, 0.1, 0.0],
            [0.2, 0.0, 0.1, 0.5, 0.1, 0.1],
        ];
        let sums: Vec<f32> = (0..6).map(|j| a.iter().map(|row| row[j]).sum()).collect();
        assert_eq!(kept(&policy(2, 1), &sums, 3), [0, 3, 5]);
    }

    #[test]
    fn heavy_zero_is_a_sliding_window_and_recent_zero_is_exact_top_k() {
        let scores = [0.1, 0.9, 0.2, 0.8, 0.3];
        assert_eq!(kept(&policy(0, 3), &scores, 3), [2, 3, 4]);
        assert_eq!(kept(&policy(3, 0), &scores, 3), [1, 3, 4]);
    }

    #[test]
    fn first_tokens_stay_where_they_are_asked_for() {
        let scores = [0.0, 0.1, 0.9, 0.2, 0.8, 0.3];
        let p = |n_sink| H2o { n_sink, ..policy(3, 1) };
        assert_eq!(kept(&p(0), &scores, 4), [2, 3, 4, 5]);
        assert_eq!(kept(&p(2), &scores, 4), [0, 1, 2, 5]);
        assert_eq!(kept(&p(9), &scores, 4), [0, 1, 2, 5], "no more than the heavy hitters' share");
    }

    #[test]
    fn ties_go_to_the_lower_position_and_sets_nest() {
        assert_eq!(kept(&policy(2, 0), &[0.5; 6], 2), [0, 1]);
        let scores: Vec<f32> = (0..40).map(|i| ((i * 37) % 11) as f32).collect();
        for quota in 1..39 {
            let small = kept(&policy(quota, 0), &scores, quota);
            let large = kept(&policy(quota + 1, 0), &scores, quota + 1);
            assert!(small.iter().all(|r| large.contains(r)), "kept({quota}) ⊂ kept({})", quota + 1);
            assert!(small.windows(2).all(|w| w[0] < w[1]));
        }
    }

    #[test]
    fn a_shared_budget_keeps_the_knobs_proportion() {
        let (heavy, recent) = (Share { ratio: 0.3, size: None }, Share { ratio: 0.1, size: None });
        let p = H2o { heavy, recent, ..policy(0, 0) };
        assert_eq!(p.recent_rows(1000, 100), 25);
        assert_eq!(p.recent_rows(1000, 400), 100);
        assert_eq!(p.own_rows(1000), Some(400));
    }
}
