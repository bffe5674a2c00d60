//! Our logits on the real SmolLM2 file beside llama.cpp's (`tests/scripts/make_parity.py`), where the file is on this machine.
#![allow(clippy::unwrap_used)]

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use ullage_core::model::Model;
use ullage_tests::skip::{gemma3_file, smollm2_file};
use ullage_tests::{Rig, config, events, order};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/parity")
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Logits of the fixture's text at `positions`, `(positions, vocab)`, one token after the other after those before the first.
fn ours(model: &Arc<Model>, text: &Path, positions: Range<usize>, sets: &[(&str, &str)]) -> Vec<f32> {
    let folder = tempfile::tempdir().unwrap();
    let (prompt, tokens) = (positions.start + 1, positions.len());
    let task = format!("{{ file = {:?}, prompt = {prompt}, tokens = {tokens} }}", text.display().to_string());
    let base = [("run.prompt", "x"), ("run.max_tokens", "1"), ("eval.perplexity", &*task)];
    let mut order = order(model, &config(&[&base, sets].concat()));
    order.dump = Some(folder.path().to_owned());
    let (_, report) = events(order);
    assert_eq!(report.error, None);
    let file = std::fs::read(folder.path().join("perplexity.safetensors")).unwrap();
    floats(SafeTensors::deserialize(&file).unwrap().tensor("logits").unwrap().data())
}

/// Mean KL(llama.cpp ‖ ours) over the fixture's largest logits and one bucket for all others, and the share of equal next tokens,
/// those counted as equal whose logits llama.cpp has within `tie`; `mine` are `n` rows, which the fixture has from row `first`
/// on.
fn apart(fixture: &SafeTensors<'_>, name: &str, mine: &[f32], (first, n): (usize, usize), tie: f32) -> (f64, f64) {
    let part = |what: &str| fixture.tensor(&format!("{name}.{what}")).unwrap();
    let ids: Vec<usize> = match part("top_ids").dtype() {
        Dtype::U16 => part("top_ids").data().chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]).into()).collect(),
        _ => {
            let words = part("top_ids").data().chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap()));
            words.map(|w| w as usize).collect()
        }
    };
    let tops = floats(part("top_logits").data());
    let sums: Vec<f64> =
        part("lse").data().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect();
    let (k, vocab) = (ids.len() / sums.len(), mine.len() / n);
    let (mut kl, mut same) = (0.0, 0);
    for (t, row) in mine.chunks_exact(vocab).enumerate().map(|(t, row)| (first + t, row)) {
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum = row.iter().map(|v| f64::from(v - most).exp()).sum::<f64>().ln() + f64::from(most);
        let (mut p_rest, mut q_rest) = (1.0, 1.0);
        for (id, logit) in ids[t * k..][..k].iter().zip(&tops[t * k..][..k]) {
            let (lp, lq) = (f64::from(*logit) - sums[t], f64::from(row[*id]) - sum);
            kl += lp.exp() * (lp - lq);
            (p_rest, q_rest) = (p_rest - lp.exp(), q_rest - lq.exp());
        }
        // What is left of a bucket after rounding says nothing.
        if p_rest > 1e-7 && q_rest > 1e-7 {
            kl += p_rest * (p_rest / q_rest).ln();
        }
        let best = (0..vocab).max_by(|a, b| row[*a].total_cmp(&row[*b]).then(b.cmp(a))).unwrap();
        let place = ids[t * k..][..k].iter().position(|id| *id == best);
        same += usize::from(place.is_some_and(|at| tops[t * k] - tops[t * k + at] <= tie));
    }
    (kl / n as f64, same as f64 / n as f64)
}

/// A fixture: its report, its tensors, and a file with its text.
fn recorded(name: &str, folder: &Path) -> (Value, Vec<u8>, PathBuf) {
    let report: Value =
        serde_json::from_slice(&std::fs::read(fixtures().join(format!("{name}.json"))).unwrap()).unwrap();
    let tensors = std::fs::read(fixtures().join(format!("{name}.safetensors"))).unwrap();
    let text = folder.join("text.txt");
    std::fs::write(&text, report["text"].as_str().unwrap()).unwrap();
    (report, tensors, text)
}

#[test]
fn logits_are_llama_cpps() {
    let Some(path) = smollm2_file() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (report, tensors, text) = recorded("smollm2", folder.path());
    let fixture = SafeTensors::deserialize(&tensors).unwrap();
    let model = Arc::new(Model::open(&path.display().to_string(), ".".as_ref()).unwrap());
    let n = 128;
    // The file as it is: no farther than llama.cpp's own prefill is from its decoding.
    let (kl, same) = apart(&fixture, "q4_1.f16", &ours(&model, &text, 0..n, &[]), (0, n), 0.0);
    let own = &report["self"]["q4_1.f16"];
    eprintln!("as it is: mean KL {kl:.3e}, same next token {:.2} %", 100.0 * same);
    assert!(kl <= 1.25 * own["kl_mean"].as_f64().unwrap(), "{kl}");
    assert!(same >= own["top1"].as_f64().unwrap() - 0.01, "{same}");
    // Its weights in f32, where rounding alone is left: of the sums, and of the cache.
    for (cache, most) in [("f32", 1e-8), ("f16", 2e-6)] {
        let sets = [("weights.format", "f32"), ("kv.format", cache)];
        let (kl, same) = apart(&fixture, "f32.f32", &ours(&model, &text, 0..n, &sets), (0, n), 0.0);
        eprintln!("in f32, {cache} cache: mean KL {kl:.3e}, same next token {:.2} %", 100.0 * same);
        assert!(kl.abs() <= most, "{cache}: {kl}");
        assert!((same - 1.0).abs() < 1e-9, "{cache}: {same}");
    }
}

/// The most likely tokens after the first 64 of the fixture's text, one by one.
fn greedy(model: &Model, tokens: &[u32], count: usize, sets: &[(&str, &str)]) -> Vec<u32> {
    let mut rig = Rig::new(model, &config(sets)).unwrap();
    let (mut seq, mut logits) = rig.prefill(tokens).unwrap();
    let mut out = Vec::new();
    while out.len() < count {
        let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]).then(b.cmp(a))).unwrap() as u32;
        out.push(best);
        logits = rig.decode(&mut seq, &[best]).unwrap().remove(0);
    }
    out
}

#[test]
fn gemma3_logits_and_greedy_tokens_are_llama_cpps() {
    let Some(path) = gemma3_file() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (report, tensors, text) = recorded("gemma3", folder.path());
    let fixture = SafeTensors::deserialize(&tensors).unwrap();
    let model = Arc::new(Model::open(&path.display().to_string(), ".".as_ref()).unwrap());
    let list = |v: &Value| -> Vec<u32> { v.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect() };
    let tokens = list(&report["tokens"]);
    // The beginning, and a stretch that lies wholly beyond the window of 512 tokens.
    let stretches = [(0, 0..64), (64, 576..640)];
    assert_eq!(
        list(&report["positions"]),
        stretches.iter().flat_map(|(_, r)| r.clone()).map(|p: usize| p as u32).collect::<Vec<_>>()
    );
    // The file as it is: no farther than llama.cpp's own prefill is from its decoding.
    let own = &report["self"]["q4_k_m.f16"];
    for (first, at) in stretches.clone() {
        let (kl, same) = apart(&fixture, "q4_k_m.f16", &ours(&model, &text, at.clone(), &[]), (first, at.len()), 0.0);
        eprintln!("as it is, {at:?}: mean KL {kl:.3e}, same next token {:.2} %", 100.0 * same);
        assert!(kl <= 1.25 * own["kl_mean"].as_f64().unwrap(), "{at:?}: {kl}");
        assert!(same >= own["top1"].as_f64().unwrap() - 0.02, "{at:?}: {same}");
    }
    // Its weights in f32, where rounding is left: of the sums, of the cache, and of llama.cpp's table of gelu in f16.
    // Two tokens closer than its prefill is to its decoding are a tie.
    let tie = report["self"]["f32.f32"]["max_abs_logit"].as_f64().unwrap() as f32;
    for (cache, most) in [("f32", 1e-6), ("f16", 5e-6)] {
        let sets = [("weights.format", "f32"), ("kv.format", cache)];
        for (first, at) in stretches.clone() {
            let (kl, same) =
                apart(&fixture, "f32.f32", &ours(&model, &text, at.clone(), &sets), (first, at.len()), tie);
            eprintln!("in f32, {cache} cache, {at:?}: mean KL {kl:.3e}, same next token {:.2} %", 100.0 * same);
            assert!(kl.abs() <= most, "{cache} {at:?}: {kl}");
            assert!((same - 1.0).abs() < 1e-9, "{cache} {at:?}: {same}");
        }
    }
    let wanted = list(&report["greedy"]["f32"]);
    let got = greedy(&model, &tokens[..64], wanted.len(), &[("weights.format", "f32"), ("kv.format", "f16")]);
    assert_eq!(got, wanted, "greedy tokens in f32");
    let wanted = list(&report["greedy"]["q4_k_m"]);
    let got = greedy(&model, &tokens[..64], wanted.len(), &[]);
    let same = got.iter().zip(&wanted).take_while(|(a, b)| a == b).count();
    eprintln!("as it is: the first {same} of {} greedy tokens are llama.cpp's", wanted.len());
    assert!(same >= 8, "{got:?}, llama.cpp {wanted:?}");
}
