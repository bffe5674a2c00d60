//! Where every byte is: planned, measured, or at the moment scrubbed to.

use ullage_core::ledger::Tier;
use ullage_panels::view::{Moved, Piece, Places};

use super::super::state::State;
use super::super::{bars, words};

/// The places picture's part of the view.
pub fn view(s: &State) -> Places {
    let gpu = s.config().gpu().is_some();
    let Some(live) = s.shown().filter(|l| l.finished()) else {
        return Places { what: "predicted, at the peak".into(), pieces: s.pieces.clone(), gpu, ..Places::default() };
    };
    if let Some((seconds, held)) = s.moment.and_then(|m| live.held_at(m)) {
        let by =
            held.0.iter().flat_map(|(tier, by)| by.iter().map(move |(category, bytes)| (*tier, *category, *bytes)));
        let piece = |(tier, category, bytes)| {
            let used_for = words::used_for(category);
            let (name, group) = (used_for.label().to_owned(), used_for.label().to_owned());
            Piece { name, group, detail: "in all".into(), used_for, tier: words::tier(tier), bytes }
        };
        let pieces = by.filter(|(.., bytes)| *bytes > 0).map(piece).collect();
        let what = format!("measured: run {}, {}", live.name, bars::at(seconds));
        return Places { what, measured: true, pieces, gpu, ..Places::default() };
    }
    let report = &live.report;
    let steps = report.speed.steps as u64;
    let mut pieces: Vec<_> = report.measured.rows.iter().filter_map(|(name, bytes)| piece(name, *bytes)).collect();
    if live.config() == Some(s.config()) {
        taken_apart(&mut pieces, &s.pieces);
    }
    pieces.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.name.cmp(&b.name)));
    Places {
        what: format!("measured: run {}, each at its own largest", live.name),
        measured: true,
        pieces,
        moved: report
            .measured
            .moved
            .iter()
            .map(|(what, bytes)| Moved {
                what: words::plain(what),
                bytes: *bytes,
                per_token: (steps > 0).then(|| bytes / steps),
            })
            .collect(),
        beside: vec![
            ("bookkeeping of the engine".into(), report.program.engine_peak as i64),
            ("heap of the program".into(), report.program.heap as i64),
            ("resident set".into(), report.program.rss as i64),
            ("code, stacks and rounding".into(), report.program.rest),
        ],
        gpu,
    }
}

/// Rows taken apart into the tensors and caches of the plan, for each use of a tier whose planned pieces add up to what was
/// measured, to the byte.
fn taken_apart(rows: &mut Vec<Piece>, planned: &[Piece]) {
    let mut kinds: Vec<_> = planned.iter().map(|p| (p.tier, p.used_for)).collect();
    kinds.sort_unstable();
    kinds.dedup();
    for kind in kinds {
        let of =
            |pieces: &[Piece]| pieces.iter().filter(|p| (p.tier, p.used_for) == kind).map(|p| p.bytes).sum::<u64>();
        if of(rows) == of(planned) {
            rows.retain(|p| (p.tier, p.used_for) != kind);
            rows.extend(planned.iter().filter(|p| (p.tier, p.used_for) == kind).cloned());
        }
    }
}

/// A row of the measured account, `device.weights.blk.0.attn_q.weight`.
pub fn piece(row: &str, bytes: u64) -> Option<Piece> {
    let (tier, rest) = row.split_once('.')?;
    let (category, name) = rest.split_once('.')?;
    let tier = Tier::ALL.iter().find(|t| t.as_str() == tier)?;
    let category = ullage_core::ledger::Category::ALL.iter().find(|c| c.as_str() == category)?;
    let used_for = words::used_for(*category);
    Some(Piece {
        name: name.into(),
        group: used_for.label().into(),
        detail: String::new(),
        used_for,
        tier: words::tier(*tier),
        bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ullage_panels::view::{Tier, UsedFor};

    #[test]
    fn rows_come_apart_only_where_the_plan_adds_up_to_them() {
        let p = |name: &str, used_for, bytes| Piece { name: name.into(), used_for, bytes, ..Piece::default() };
        let mut rows = vec![p("layers", UsedFor::Weights, 30), p("kv rows", UsedFor::KvCache, 9)];
        let host = Piece { tier: Tier::Host, ..p("c", UsedFor::Weights, 99) };
        let planned =
            [p("a", UsedFor::Weights, 10), p("b", UsedFor::Weights, 20), p("kv, layer 0", UsedFor::KvCache, 10), host];
        taken_apart(&mut rows, &planned);
        let names: Vec<_> = rows.iter().map(|r| r.name.as_str()).collect();
        assert_eq!(names, ["kv rows", "a", "b"]);
    }
}
