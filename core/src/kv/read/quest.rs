//! Only the pages that can matter to the query: Quest (arXiv 2406.10774, §3.2).

use half::f16;

use crate::kv::{Choose, Needs, Page, Positions, Read};
use crate::schema::{About, Default, Entry, Knob, KnobKind, axes};

/// The catalogue entry.
pub static ENTRY: Entry<dyn Read> = Entry {
    about: About {
        id: "quest",
        title: "Pages that can matter (Quest)",
        common: true,
        paper: "Tang et al., Quest: Query-Aware Sparsity for Efficient Long-Context LLM Inference, ICML 2024, arXiv 2406.10774",
        sentence: "Keeps every row, and each generated token reads only the pages whose keys can be most like its query; holds a little more, reads far less.",
        knobs: &[
            Knob {
                id: "page_size",
                label: "Page size",
                paper_name: "chunk_size",
                kind: KnobKind::Int { min: 1, max: 4096 },
                default: Default::Int(16),
                unit: "rows",
                sentence: "Rows of a page, of which the least and the largest of each key channel are kept in f16.",
            },
            Knob {
                id: "token_budget",
                label: "Tokens read",
                paper_name: "token_budget",
                kind: KnobKind::Int { min: 1, max: 1 << 24 },
                default: Default::Int(1024),
                unit: "rows",
                sentence: "Rows that a query reads, in whole pages, three at least.",
            },
            Knob {
                id: "skip_layers",
                label: "Layers read whole",
                paper_name: "skip_layers",
                kind: KnobKind::Int { min: 0, max: 4096 },
                default: Default::Int(2),
                unit: "layers",
                sentence: "First layers, whose queries read everything.",
            },
            Knob {
                id: "gqa",
                label: "Who chooses",
                paper_name: "",
                kind: KnobKind::Word { of: &["per_query_head", "group_max"] },
                default: Default::Text("per_query_head"),
                unit: "",
                sentence: "Each query head chooses its own pages, or the heads of a group choose together by the largest of their bounds.",
            },
        ],
        ..About::on(&axes::KV_READ)
    },
    build: |knobs| {
        let page = knobs.int("page_size").max(1);
        Ok(Box::new(Quest {
            page,
            most: (knobs.int("token_budget") / page).max(3),
            skip: knobs.int("skip_layers"),
            together: knobs.text("gqa") == "group_max",
        }))
    },
};

struct Quest {
    page: usize,
    most: usize,
    skip: usize,
    together: bool,
}

/// `x` in f16, rounded down where `x` itself is none; up as −down(−x).
fn down(x: f32) -> f16 {
    let near = f16::from_f32(x);
    if near.to_f32() <= x {
        return near;
    }
    // The next one towards −∞: nearer to zero among positive numbers, further among negative ones.
    match near.to_bits() {
        0 => f16::from_bits(0x8001),
        bits if near.is_sign_positive() => f16::from_bits(bits - 1),
        bits => f16::from_bits(bits + 1),
    }
}

fn up(x: f32) -> f16 {
    -down(-x)
}

/// The most that q · k can be for any key between `low` and `high`, `(d)` f16 each: Σ_c max(q_c · low_c, q_c · high_c).
fn bound(query: &[f32], page: &[u8]) -> f32 {
    let (low, high) = page.split_at(page.len() / 2);
    let of = |b: &[u8; 2]| f16::from_le_bytes(*b).to_f32();
    let ends = low.as_chunks::<2>().0.iter().zip(high.as_chunks::<2>().0);
    query.iter().zip(ends).map(|(q, (low, high))| (q * of(low)).max(q * of(high))).sum()
}

impl Read for Quest {
    fn page(&self, d: usize) -> Option<Page> {
        Some(Page { rows: self.page, bytes: 4 * d })
    }

    fn describe(&self, keys: &[f32], d: usize, out: &mut [u8]) {
        let (low, high) = out.split_at_mut(2 * d);
        for (c, (low, high)) in low.as_chunks_mut::<2>().0.iter_mut().zip(high.as_chunks_mut::<2>().0).enumerate() {
            let channel = || keys.iter().skip(c).step_by(d).copied();
            *low = down(channel().fold(f32::INFINITY, f32::min)).to_le_bytes();
            *high = up(channel().fold(f32::NEG_INFINITY, f32::max)).to_le_bytes();
        }
    }

    fn most_pages(&self, layer: usize) -> Option<usize> {
        (layer >= self.skip).then_some(self.most)
    }

    fn by_query_head(&self) -> bool {
        !self.together
    }

    fn choose(&self, choose: Choose<'_>, out: &mut [u32]) -> usize {
        let Choose { queries, d, pages, page, scratch } = choose;
        for (i, slot) in scratch[..pages].iter_mut().enumerate() {
            *slot = queries.chunks_exact(d).map(|q| bound(q, page(i))).fold(f32::NEG_INFINITY, f32::max);
        }
        let scores = &scratch[..pages];
        for (i, slot) in out[..pages].iter_mut().enumerate() {
            *slot = i as u32;
        }
        if pages <= self.most {
            return pages;
        }
        // The last page is read whatever its bound: it holds the query's own row.
        let rest = &mut out[..pages - 1];
        let others = self.most - 1;
        rest.select_nth_unstable_by(others - 1, |a, b| {
            scores[*b as usize].total_cmp(&scores[*a as usize]).then(a.cmp(b))
        });
        rest[..others].sort_unstable();
        out[others] = (pages - 1) as u32;
        self.most
    }

    fn reads(&self, positions: Positions, needs: Needs) -> Result<(), String> {
        if positions == Positions::Reindex {
            return Err(
                "bounds of a page are of rotated keys, and this kv.select rotates them anew at every step; set kv.select.positions = original"
                    .to_owned(),
            );
        }
        if needs.columns {
            return Err(
                "this kv.select looks at every row's attention at every step, and only some rows are read; choose one that chooses once, such as snapkv, or full"
                    .to_owned(),
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_outwards_never_cuts_a_number_off() {
        for i in 0..20_000 {
            let x = ((i * 7919) % 20_011) as f32 * 0.000_371 - 3.7;
            let (low, high) = (down(x).to_f32(), up(x).to_f32());
            assert!(low <= x && x <= high && high - low <= 0.002 * x.abs() + 1e-6, "{low} {x} {high}");
        }
        assert_eq!(
            (down(0.0).to_f32(), up(0.0).to_f32(), down(1.5).to_f32(), up(-1.5).to_f32()),
            (0.0, 0.0, 1.5, -1.5)
        );
        assert!(down(-1e-9).to_f32() < 0.0 && up(1e-9).to_f32() > 0.0);
    }

    #[test]
    fn a_page_is_bounded_as_the_worked_vector_says() {
        // kv.md, A5: keys (.5, .1), (−.2, .4), (.3, −.6) and q = (1, −2).
        let quest = Quest { page: 3, most: 3, skip: 0, together: true };
        let keys = [0.5, 0.1, -0.2, 0.4, 0.3, -0.6];
        let mut page = [0; 8];
        quest.describe(&keys, 2, &mut page);
        let most = bound(&[1.0, -2.0], &page);
        assert!((most - 1.7).abs() < 2e-3 && most >= 1.7, "{most}");
    }
}
