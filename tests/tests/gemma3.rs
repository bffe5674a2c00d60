//! The real Gemma 3 270M: its shape, and that layers with a window hold their window and no more, planned and measured.
#![allow(clippy::unwrap_used)]

use ullage_core::kv::Pipeline;
use ullage_core::ledger::{Category, Tier};
use ullage_core::shape::{Act, Ffn, Role};
use ullage_tests::{config, gemma3, run};

fn local(l: usize) -> bool {
    !(l + 1).is_multiple_of(6)
}

#[test]
fn the_shape_is_gemma_3s() {
    let Some(model) = gemma3() else { return };
    let s = &model.shape;
    assert_eq!((&*s.arch, s.layers.len(), s.hidden, s.vocab, s.context), ("gemma3", 18, 640, 262_144, 32_768));
    assert_eq!(s.ropes.iter().map(|r| (r.dim, r.base)).collect::<Vec<_>>(), [(256, 1e6), (256, 1e4)]);
    assert!((s.embedding_scale - 640f32.sqrt()).abs() < 1e-6 && s.output.is_none());
    for (l, layer) in s.layers.iter().enumerate() {
        let a = &layer.attention;
        assert_eq!((a.heads, a.kv_heads, a.dim, a.scale), (4, 1, 256, 1.0 / 16.0));
        assert_eq!((a.window, a.rope), (local(l).then_some(512), Some(usize::from(local(l)))), "layer {l}");
        assert_eq!(layer.ffn, Ffn::Dense { width: 2048, act: Act::GeluTanh });
        assert!(
            [Role::QNorm, Role::KNorm, Role::PostAttnNorm, Role::PostFfnNorm].iter().all(|r| layer.tensors.has(*r))
        );
    }
    assert_eq!(s.bytes(), s.tensors().map(|t| t.bytes()).sum::<u64>());
}

#[test]
fn layers_with_a_window_hold_their_window() {
    let Some(model) = gemma3() else { return };
    let row = 2 * 256 * 2;
    for context in [256, 512, 2048, 32_768] {
        let config = config(&[("run.context", &context.to_string())]);
        let p = Pipeline::new(&config, &model.shape).unwrap();
        for l in 0..18 {
            let wanted = if local(l) { context.min(512) } else { context };
            assert_eq!(p.capacity(l, 0, context), wanted, "layer {l} of {context}");
        }
        let rows = 15 * context.min(512) + 3 * context;
        assert_eq!(p.sequence_bytes(context, context), (rows * row) as u64, "{context}");
    }
    // A run that outgrows the window: the cache is what was planned, to the byte, however the prompt is cut.
    for (batch, alloc) in [("512", "contiguous"), ("200", "paged")] {
        let sets = [("run.batch", batch), ("kv.alloc", alloc), ("run.context", "1024"), ("run.max_tokens", "4")];
        let prompt = "The mouse said nothing. ".repeat(110);
        let report = run(&model, &config(&[&sets[..], &[("run.prompt", &prompt)]].concat()));
        assert_eq!(report.error, None);
        let of = |tiers: &std::collections::BTreeMap<Tier, std::collections::BTreeMap<Category, u64>>| {
            tiers[&Tier::Device][&Category::KvCache]
        };
        assert_eq!(of(&report.plan.bytes), of(&report.measured.bytes), "{batch} {alloc}");
        let gap = report.gap.peak[&Tier::Device];
        assert!(gap >= 0 && gap as u64 <= (report.plan.peak[&Tier::Device] / 50).max(256 << 10), "{gap}");
    }
}
