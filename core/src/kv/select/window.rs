//! Attention sinks and a recent window: StreamingLLM (arXiv 2309.17453).

use crate::kv::{HeadView, Positions, Rhythm, Select};
use crate::schema::{About, Default, Entry, Knob, KnobKind, axes};

/// The catalogue entry.
pub static ENTRY: Entry<dyn Select> = Entry {
    about: About {
        id: "window",
        title: "First and recent",
        common: true,
        paper: "Xiao et al., Efficient Streaming Language Models with Attention Sinks, ICLR 2024, arXiv 2309.17453",
        sentence: "Keeps the first tokens (attention sinks) and the most recent ones, and drops the middle.",
        knobs: &[
            Knob {
                id: "n_sink",
                label: "First tokens",
                paper_name: "start_size",
                kind: KnobKind::Int { min: 0, max: 4096 },
                default: Default::Int(4),
                unit: "rows",
                sentence: "Tokens kept from the start.",
            },
            Knob {
                id: "window",
                label: "Recent tokens",
                paper_name: "recent_size",
                kind: KnobKind::Int { min: 1, max: 1 << 24 },
                default: Default::Int(512),
                unit: "rows",
                sentence: "Most recent tokens kept; a kv.budget replaces it by what the budget leaves after the sinks.",
            },
            Knob {
                id: "positions",
                label: "Positions",
                paper_name: "",
                kind: KnobKind::Word { of: &["reindex", "original"] },
                default: Default::Text("reindex"),
                unit: "",
                sentence: "Rotate keys by their place in the cache (the paper), or leave them at their true positions.",
            },
        ],
        ..About::on(&axes::KV_SELECT)
    },
    build: |knobs| {
        Ok(Box::new(Window {
            n_sink: knobs.int("n_sink"),
            window: knobs.int("window"),
            positions: match knobs.text("positions") {
                "original" => Positions::Original,
                _ => Positions::Reindex,
            },
        }))
    },
};

struct Window {
    n_sink: usize,
    window: usize,
    positions: Positions,
}

impl Select for Window {
    fn own_rows(&self, _prompt: usize) -> Option<usize> {
        Some(self.n_sink + self.window)
    }

    fn positions(&self) -> Positions {
        self.positions
    }

    fn rhythm(&self) -> Rhythm {
        Rhythm::BeforeAppend
    }

    fn keep(&self, view: HeadView<'_>, keep: &mut [u32]) -> usize {
        let quota = view.quota.min(view.rows);
        // At least the newest row of the window survives a budget smaller than the sinks.
        let sinks = self.n_sink.min((quota + view.newcomers).saturating_sub(1)).min(quota);
        for (i, slot) in keep[..quota].iter_mut().enumerate() {
            *slot = if i < sinks { i } else { view.rows - quota + i } as u32;
        }
        quota
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(n_sink: usize, rows: usize, quota: usize) -> Vec<u32> {
        let window = Window { n_sink, window: 1, positions: Positions::Original };
        let mut keep = vec![0; rows];
        let n = window.keep(HeadView { rows, scores: &[], quota, newcomers: 0, prompt: rows }, &mut keep);
        keep.truncate(n);
        keep
    }

    #[test]
    fn sinks_and_tail_are_exactly_what_stays() {
        assert_eq!(kept(2, 10, 5), [0, 1, 7, 8, 9]);
        assert_eq!(kept(0, 10, 3), [7, 8, 9], "no sinks: a sliding window");
        assert_eq!(kept(4, 3, 10), [0, 1, 2], "fewer rows than the quota: all stay");
        assert_eq!(kept(4, 10, 2), [0, 9], "the newest row survives a budget below the sinks");
        assert_eq!(kept(4, 10, 0), [] as [u32; 0]);
    }
}
