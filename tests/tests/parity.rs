//! Our logits on the real SmolLM2 file beside llama.cpp's (`tests/scripts/make_parity.py`), where the file is on this machine.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::SafeTensors;
use serde_json::Value;
use ullage_core::model::Model;
use ullage_tests::{config, events, order};

/// Positions compared.
const POSITIONS: usize = 128;

fn smollm2() -> Option<PathBuf> {
    let cached =
        || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/ullage/SmolLM2-135M-Instruct.Q4_1.gguf"));
    let path = std::env::var_os("ULLAGE_SMOLLM2").map(PathBuf::from).or_else(cached);
    let found = path.filter(|p| p.is_file());
    if found.is_none() {
        eprintln!("skipped: no SmolLM2 file; set ULLAGE_SMOLLM2=/path/to/SmolLM2-135M-Instruct.Q4_1.gguf");
    }
    found
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/parity")
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Logits of the fixture's text, `(POSITIONS, vocab)`, one token after the other.
fn ours(model: &Arc<Model>, text: &Path, sets: &[(&str, &str)]) -> Vec<f32> {
    let folder = tempfile::tempdir().unwrap();
    let task = format!("{{ file = {:?}, prompt = 1, tokens = {POSITIONS} }}", text.display().to_string());
    let base = [("run.prompt", "x"), ("run.max_tokens", "1"), ("eval.perplexity", &*task)];
    let mut order = order(model, &config(&[&base, sets].concat()));
    order.dump = Some(folder.path().to_owned());
    let (_, report) = events(order);
    assert_eq!(report.error, None);
    let file = std::fs::read(folder.path().join("perplexity.safetensors")).unwrap();
    floats(SafeTensors::deserialize(&file).unwrap().tensor("logits").unwrap().data())
}

/// Mean KL(llama.cpp ‖ ours) over the fixture's largest logits and one bucket for all others, and the share of equal next tokens.
fn apart(fixture: &SafeTensors<'_>, name: &str, mine: &[f32]) -> (f64, f64) {
    let part = |what: &str| fixture.tensor(&format!("{name}.{what}")).unwrap();
    let ids: Vec<usize> =
        part("top_ids").data().chunks_exact(2).map(|b| usize::from(u16::from_le_bytes([b[0], b[1]]))).collect();
    let tops = floats(part("top_logits").data());
    let sums: Vec<f64> =
        part("lse").data().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect();
    let (k, vocab) = (ids.len() / sums.len(), mine.len() / POSITIONS);
    let (mut kl, mut same) = (0.0, 0);
    for (t, row) in mine.chunks_exact(vocab).enumerate() {
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
        same += usize::from(best == ids[t * k]);
    }
    (kl / POSITIONS as f64, same as f64 / POSITIONS as f64)
}

#[test]
fn logits_are_llama_cpps() {
    let Some(path) = smollm2() else { return };
    let report: Value = serde_json::from_slice(&std::fs::read(fixtures().join("smollm2.json")).unwrap()).unwrap();
    let file = std::fs::read(fixtures().join("smollm2.safetensors")).unwrap();
    let fixture = SafeTensors::deserialize(&file).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.txt");
    std::fs::write(&text, report["text"].as_str().unwrap()).unwrap();
    let model = Arc::new(Model::open(&path.display().to_string(), ".".as_ref()).unwrap());
    // The file as it is: no farther than llama.cpp's own prefill is from its decoding.
    let (kl, same) = apart(&fixture, "q4_1.f16", &ours(&model, &text, &[]));
    let own = &report["self"]["q4_1.f16"];
    eprintln!("as it is: mean KL {kl:.3e}, same next token {:.2} %", 100.0 * same);
    assert!(kl <= 1.25 * own["kl_mean"].as_f64().unwrap(), "{kl}");
    assert!(same >= own["top1"].as_f64().unwrap() - 0.01, "{same}");
    // Its weights in f32, where rounding alone is left: of the sums, and of the cache.
    for (cache, most) in [("f32", 1e-8), ("f16", 2e-6)] {
        let sets = [("weights.format", "f32"), ("kv.format", cache)];
        let (kl, same) = apart(&fixture, "f32.f32", &ours(&model, &text, &sets));
        eprintln!("in f32, {cache} cache: mean KL {kl:.3e}, same next token {:.2} %", 100.0 * same);
        assert!(kl.abs() <= most, "{cache}: {kl}");
        assert!((same - 1.0).abs() < 1e-9, "{cache}: {same}");
    }
}
