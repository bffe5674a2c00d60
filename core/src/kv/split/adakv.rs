//! A layer's rows shared over its heads by the ranks of all their rows together: Ada-KV (arXiv 2407.11550, algorithm 1).

use crate::kv::{Ranks, Share, Split};
use crate::schema::{About, Default, Entry, Knob, KnobKind, axes};

/// The catalogue entry.
pub static ENTRY: Entry<dyn Split> = Entry {
    about: About {
        id: "adakv",
        title: "To the heads that spread (Ada-KV)",
        common: false,
        paper: "Feng et al., Ada-KV: Optimizing KV Cache Eviction by Adaptive Budget Allocation, arXiv 2407.11550",
        sentence: "Shares a layer's rows over its heads once the prompt is read: heads whose attention is spread keep more, concentrated ones fewer.",
        knobs: &[
            Knob {
                id: "floor_alpha",
                label: "Share that is even",
                paper_name: "floor_alpha",
                kind: KnobKind::Float { min: 0.0, max: 1.0 },
                default: Default::Float(0.2),
                unit: "of the rows",
                sentence: "Part of an even share that every head gets whatever its scores: 0 is free, 1 is even.",
            },
            Knob {
                id: "normalize",
                label: "Scores as shares",
                paper_name: "normalize",
                kind: KnobKind::Bool,
                default: Default::Bool(false),
                unit: "",
                sentence: "Divide each head's scores by their sum before heads are compared.",
            },
        ],
        ..About::on(&axes::KV_SPLIT)
    },
    build: |knobs| Ok(Box::new(AdaKv { floor: knobs.float("floor_alpha"), normalize: knobs.flag("normalize") })),
};

struct AdaKv {
    floor: f64,
    normalize: bool,
}

impl AdaKv {
    fn least(&self, each: usize) -> usize {
        (each as f64 * self.floor) as usize
    }
}

impl Split for AdaKv {
    fn quota(&self, rows: usize, _layer: usize, _head: usize) -> usize {
        rows
    }

    fn share(&self) -> Option<&dyn Share> {
        Some(self)
    }
}

impl Share for AdaKv {
    fn scratch(&self, heads: usize, rows: usize) -> usize {
        heads * rows
    }

    fn most(&self, heads: usize, candidates: usize, each: usize) -> usize {
        let least = self.least(each);
        (least + heads * (each - least)).min(candidates)
    }

    fn share(&self, ranks: Ranks<'_>, scratch: &mut [u32], out: &mut [usize]) {
        let Ranks { scores, stride, candidates, each } = ranks;
        let least = self.least(each).min(candidates);
        let heads = out.len();
        // One number for each head: what its scores are multiplied by.
        let by = |h: usize| {
            let sum: f32 = scores[h * stride..][..candidates].iter().sum();
            if self.normalize && sum > 0.0 { 1.0 / sum } else { 1.0 }
        };
        let by: Vec<f32> = (0..heads).map(by).collect();
        let score = |at: &u32| {
            let at = *at as usize;
            (scores[at] * by[at / stride]).max(0.0)
        };
        // Largest first; ties to the earlier head, then to the earlier row.
        let order = |a: &u32, b: &u32| score(b).total_cmp(&score(a)).then(a.cmp(b));
        let mut left = 0;
        for h in 0..heads {
            let own = &mut scratch[left..left + candidates];
            for (j, slot) in own.iter_mut().enumerate() {
                *slot = (h * stride + j) as u32;
            }
            if least > 0 && least < candidates {
                own.select_nth_unstable_by(least - 1, order);
            }
            own.copy_within(least.., 0);
            left += candidates - least;
        }
        out.fill(least);
        let rest = (heads * (each - least)).min(left);
        if rest > 0 && rest < left {
            scratch[..left].select_nth_unstable_by(rest - 1, order);
        }
        for at in &scratch[..rest] {
            out[*at as usize / stride] += 1;
        }
    }
}
