//! How far the compressed model's next-token distribution is from the uncompressed one's.

use serde_json::json;

use super::perplexity::TEXT_KNOBS;
use super::{Case, Material, Task, beginning, metrics, windows};
use crate::error::Result;
use crate::model::sampling::Sampler;
use crate::schema::{About, Entry, ON_ALL, axes};

/// The catalogue entry.
pub static ENTRY: Entry<dyn Task> = Entry {
    about: About {
        id: "fidelity",
        title: "Same next token",
        common: true,
        paper: "kv.md §7.2; llama.cpp's --kl-divergence columns",
        sentence: "KL divergence and same next token against the model as opened with nothing compressed.",
        knobs: TEXT_KNOBS,
        runs_on: ON_ALL,
        ..About::on(&axes::EVAL)
    },
    build: |knobs| {
        Ok(Box::new(Fidelity {
            file: knobs.text("file").to_owned(),
            prompt: knobs.int("prompt"),
            tokens: knobs.int("tokens"),
            windows: knobs.int("windows"),
            kl: Vec::new(),
            same: 0,
            delta_p: Vec::new(),
            loss: [0.0; 2],
        }))
    },
};

struct Fidelity {
    file: String,
    prompt: usize,
    tokens: usize,
    windows: usize,
    kl: Vec<f64>,
    same: usize,
    delta_p: Vec<f64>,
    /// Σ −ln p of the true token: reference, ours.
    loss: [f64; 2],
}

impl Task for Fidelity {
    fn cases(&mut self, m: &Material<'_>) -> Result<Vec<Case>> {
        let need = self.windows.saturating_mul(self.prompt + self.tokens);
        let ids = beginning(m, "eval.fidelity.file", &self.file, need)?;
        windows("eval.fidelity.prompt", &ids, self.prompt, self.tokens, self.windows)
    }

    fn compares(&self) -> bool {
        true
    }

    fn score(&mut self, _case: usize, _step: usize, logits: &[f32], target: u32, reference: Option<&[f32]>) {
        let Some(reference) = reference else { return };
        self.kl.push(metrics::kl(reference, logits));
        self.same += usize::from(Sampler::greedy(reference) == Sampler::greedy(logits));
        let ln_p = |l: &[f32]| f64::from(l[target as usize]) - metrics::log_sum_exp(l);
        let (r, ours) = (ln_p(reference), ln_p(logits));
        self.delta_p.push(ours.exp() - r.exp());
        self.loss[0] -= r;
        self.loss[1] -= ours;
    }

    fn finish(&mut self) -> serde_json::Value {
        let n = self.kl.len() as f64;
        let (kl, kl_se) = metrics::mean(&self.kl);
        let mut sorted = self.kl.clone();
        sorted.sort_by(f64::total_cmp);
        let (delta_p, _) = metrics::mean(&self.delta_p);
        let rms = (self.delta_p.iter().map(|v| v * v).sum::<f64>() / n).sqrt();
        let figure = metrics::figure;
        let quantile = |q| figure(metrics::quantile(&sorted, q));
        json!({
            "kl_mean": figure(kl),
            "kl_se": figure(kl_se),
            "kl_median": quantile(0.5),
            "kl_90": quantile(0.9),
            "kl_99": quantile(0.99),
            "kl_max": quantile(1.0),
            "same_next_token": figure(self.same as f64 / n),
            "delta_p_mean": figure(delta_p),
            "delta_p_rms": figure(rms),
            "perplexity": figure((self.loss[1] / n).exp()),
            "perplexity_reference": figure((self.loss[0] / n).exp()),
            "tokens": self.kl.len(),
        })
    }
}
