//! `[train]`: what a fine-tuning run is asked for.

use serde::{Deserialize, Serialize};

use super::axes::section;
use super::{Choice, Config};
use crate::error::{Error, Result};

const SAMPLES: usize = 3;
const SAMPLE_TOKENS: usize = 16;

// What only tells is left out of a file where it is the default, so that training states from before these keys still match.
fn is_samples(n: &usize) -> bool {
    *n == SAMPLES
}

fn is_sample_tokens(n: &usize) -> bool {
    *n == SAMPLE_TOKENS
}

section! {
    /// `[train]`. Paths are relative to the configuration file.
    struct Train at "train" {
        keys {
            /// What to learn from: a file, or what one of `train::data::SOURCES` makes, such as `bundled:task-tova` or `random`.
            data: String = String::new();
            /// Which tokens count in the loss of prompt and response data.
            loss_on: LossOn = LossOn::Responses;
            /// Where the documents of a text file end.
            documents: Split = Split::BlankLines;
            /// Prompts and responses go through the model's chat template, where it has one.
            template: bool = true;
            /// Several documents share a row, each seeing only itself.
            packing: bool = true;
            /// What is held out for validation: a share of the documents (0 for none), or a file of others.
            validation: Validation = Validation::default();
            /// Updates.
            steps: usize = 100;
            /// Rows of a micro-batch.
            batch: usize = 4;
            /// Tokens of a row.
            length: usize = 256;
            /// Micro-batches whose gradients make one update.
            accumulate: usize = 1;
            /// Highest learning rate.
            lr: f64 = 2e-4;
            /// Steps over which it rises, evenly: the first has 1 / warmup of it, the last all of it.
            warmup: usize = 0;
            /// How it falls afterwards.
            decay: Decay = Decay::Constant;
            /// What share of the steps it waits before it falls; 0 falls from the end of the warm-up on.
            decay_from: f64 = 0.0;
            /// What share of it the decay leads to: reached by the step after the last, so that no step has a rate of zero.
            lr_end: f64 = 0.0;
            /// How long gradients are held.
            grad_hold: Hold = Hold::All;
            /// How they are clipped.
            clip: Clip = Clip { by: ClipBy::None, at: 1.0 };
            /// In what type the weights that learn are held; norms and biases are always f32.
            dtype: Dtype = Dtype::F32;
            /// In what type gradients of what learns are held: bf16 on a GPU only.
            grad_dtype: Dtype = Dtype::F32;
            /// What activations and products are in.
            compute: Arithmetic = Arithmetic::Auto;
            /// How updated values are stored in bf16.
            round: Rounding = Rounding::Nearest;
            /// Steps between validations, the first before any step; 0 for none but at the end.
            validate_every: usize = 0;
            /// Most held-out rows a validation reads; 0 for all.
            validate_rows: usize = 0;
            /// Held-out questions the model is asked in words before the first step and after the last; 0 for none.
            #[serde(skip_serializing_if = "is_samples")]
            samples: usize = SAMPLES;
            /// Most tokens of what it says to each.
            #[serde(skip_serializing_if = "is_sample_tokens")]
            sample_tokens: usize = SAMPLE_TOKENS;
            /// Steps between saves of the training state; 0 for the end only.
            save_every: usize = 0;
            /// Folder of the training state and of what was learned. Empty: nothing is written.
            #[serde(skip_serializing_if = "String::is_empty")]
            out: String = String::new();
            /// Goes on from the training state in `out`, where there is one.
            resume: bool = false;
        }
        axes {
            params: TRAIN_PARAMS = Choice "lora", heading "Fine-tuning", card "What learns",
                advanced false, "Which weights change, or what is put beside them.";
            gradient: TRAIN_GRADIENT = Choice "backprop", heading "Fine-tuning", card "Gradient",
                advanced true, "How a step comes by its gradient.";
            optimizer: TRAIN_OPTIMIZER = Choice "adamw", heading "Fine-tuning", card "Optimizer",
                advanced false, "How a gradient becomes a step.";
            activations: TRAIN_ACTIVATIONS = Choice "recompute", heading "Fine-tuning", card "Activations",
                advanced false, "What the forward pass leaves for the backward one.";
            loss: TRAIN_LOSS = Choice "chunked", heading "Fine-tuning", card "Loss",
                advanced false, "How much of the logits is held at once.";
            order: TRAIN_ORDER = Choice "shuffled", heading "Fine-tuning", card "Data order",
                advanced true, "Which row of the data comes when.";
        }
    }
}

/// `train.validation`: what is held back to measure with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a share from 0 to 0.9, or the path of a file")]
pub enum Validation {
    /// This share of the documents, chosen by the seed; 0 for none.
    Share(f64),
    /// The documents of another file, relative to the configuration.
    File(String),
}

impl Default for Validation {
    fn default() -> Self {
        Self::Share(0.05)
    }
}

impl std::fmt::Display for Validation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Share(share) => write!(f, "{share}"),
            Self::File(path) => f.write_str(path),
        }
    }
}

macro_rules! word {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident),+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$vdoc])* $variant),+ }
    };
}

word! {
    /// `train.loss_on`
    LossOn {
        /// What the model should say.
        Responses,
        /// Every token.
        All
    }
}
word! {
    /// `train.documents`
    Split {
        /// At blank lines.
        BlankLines,
        /// The file is one document, cut into pieces of a row's length.
        Whole
    }
}
word! {
    /// `train.decay`
    Decay {
        /// It does not.
        Constant,
        /// Evenly.
        Linear,
        /// As half a cosine.
        Cosine
    }
}
word! {
    /// `train.grad_hold`: gradient bytes against what may be done with them (fine-tuning.md §0).
    Hold {
        /// All of them to the end of the step.
        All,
        /// A layer's at a time; each layer is updated at once.
        Layer,
        /// A matrix's at a time; each is updated at once.
        Matrix
    }
}
word! {
    /// `train.clip.by`
    ClipBy {
        /// Not at all.
        None,
        /// Each number.
        Value,
        /// The norm of a matrix.
        Matrix,
        /// The norm of a layer.
        Layer,
        /// The norm of everything.
        Global
    }
}
word! {
    /// `train.dtype`
    Dtype {
        /// Four bytes.
        F32,
        /// Two bytes.
        Bf16
    }
}
word! {
    /// `train.compute`; sums are f32 in each.
    Arithmetic {
        /// f32 on the CPU, bf16 on a GPU.
        Auto,
        /// f32 throughout.
        F32,
        /// bf16, on the tensor cores of a GPU.
        Bf16
    }
}
word! {
    /// `train.round`: how an updated value becomes bf16.
    Rounding {
        /// To the nearest: steps below half the spacing vanish.
        Nearest,
        /// Up or down by chance: exact on average.
        Stochastic,
        /// What is lost is kept beside it, 2 bytes more.
        Kahan,
        /// An f32 copy is updated, 4 bytes more.
        Master
    }
}

/// `train.clip`: `"none"`, or a table such as `{ by = "global", at = 1.0 }`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "ClipForm")]
pub struct Clip {
    /// What is measured.
    pub by: ClipBy,
    /// The most it may be.
    #[serde(default = "one")]
    pub at: f32,
}

fn one() -> f32 {
    1.0
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "none, or a table such as { by = \"global\", at = 1.0 }")]
enum ClipForm {
    Word(ClipBy),
    Table(ClipTable),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClipTable {
    by: ClipBy,
    #[serde(default = "one")]
    at: f32,
}

impl From<ClipForm> for Clip {
    fn from(form: ClipForm) -> Self {
        match form {
            ClipForm::Word(by) => Self { by, at: 1.0 },
            ClipForm::Table(t) => Self { by: t.by, at: t.at },
        }
    }
}

impl Train {
    /// The learning rate of step `t` (from 1) as a share of the highest, above 0 for every step of the run: a rise over the
    /// warm-up, a plateau up to `decay_from`, then the decay.
    ///
    /// Plateau and decay are those of PyTorch's `LinearLR` and `CosineAnnealingLR` and of Hugging Face's schedules, whose
    /// step index is `t − 1`: the first step after the warm-up has the whole rate, and `lr_end` would be that of the step
    /// after the last. The warm-up is PyTorch's `LinearLR(1 / warmup, 1, warmup − 1)`; Hugging Face's begins at a rate of
    /// zero, which wastes the first step, and is a step behind it.
    pub fn share(&self, t: u64) -> f64 {
        let (t, warm, steps) = (t as f64, self.warmup as f64, self.steps as f64);
        if t <= warm {
            return t / warm;
        }
        let from = warm.max(self.decay_from * steps);
        let done = ((t - 1.0 - from) / (steps - from).max(1.0)).clamp(0.0, 1.0);
        let left = match self.decay {
            Decay::Constant => return 1.0,
            Decay::Linear => 1.0 - done,
            Decay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
        };
        self.lr_end + (1.0 - self.lr_end) * left
    }

    /// The rules that need no model.
    ///
    /// # Errors
    /// The first thing wrong: the key, the value, and what is allowed; or what cannot go together, and why.
    pub fn check(&self, config: &Config) -> Result<()> {
        if self.warmup > self.steps {
            let allowed =
                format!("`{}` is not allowed; a whole number from 0 to train.steps, {}", self.warmup, self.steps);
            return Err(Error::config("train.warmup", allowed));
        }
        match &self.validation {
            Validation::Share(share) if !(0.0..=0.9).contains(share) => {
                let allowed = format!("`{share}` is not allowed; a number from 0 to 0.9, or the path of a file");
                return Err(Error::config("train.validation", allowed));
            }
            Validation::File(path) if path.is_empty() => {
                return Err(Error::config("train.validation", "`` is no file; name one, or set a share, such as 0.05"));
            }
            _ => {}
        }
        if config.gpu().is_none() {
            if self.compute == Arithmetic::Bf16 {
                return Err(Error::refused("train.compute = bf16", "the CPU computes in f32; set train.compute=auto"));
            }
            if self.grad_dtype == Dtype::Bf16 {
                return Err(Error::refused(
                    "train.grad_dtype = bf16",
                    "the CPU sums gradients in f32; set train.grad_dtype=f32",
                ));
            }
        }
        let fused = self.grad_hold != Hold::All;
        let refuse = |what: &str, why: &str| Err(Error::refused(what, why));
        if fused && self.accumulate > 1 {
            return refuse(
                "train.accumulate above 1 with train.grad_hold other than all",
                "gradients of several micro-batches add up only where all of them are held; set train.grad_hold=all or train.accumulate=1",
            );
        }
        if fused && self.clip.by == ClipBy::Global {
            return refuse(
                "train.clip by global with train.grad_hold other than all",
                "the norm of all gradients is known only when all are held; clip by layer, matrix or value, or set train.grad_hold=all",
            );
        }
        if self.grad_hold == Hold::Matrix && self.clip.by == ClipBy::Layer {
            return refuse(
                "train.clip by layer with train.grad_hold=matrix",
                "the norm of a layer is known only when its gradients are held together; clip by matrix or value, or set train.grad_hold=layer",
            );
        }
        if self.dtype == Dtype::F32 && self.round != Rounding::Nearest {
            return refuse(
                "train.round with train.dtype=f32",
                "f32 values are not rounded; set train.dtype=bf16 or leave train.round=nearest",
            );
        }
        if config.place.weights.id != "resident" {
            return refuse(
                &format!("place.weights = {} with a [train] section", config.place.weights.id),
                "training reads every layer twice a step and writes those that learn; set place.weights=resident",
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::from_toml;

    fn fails(text: &str) -> String {
        from_toml(text, &[]).unwrap_err().to_string()
    }

    #[test]
    fn what_cannot_combine_is_refused_with_its_reason() {
        for (text, words) in [
            ("[train]\ngrad_hold = \"layer\"\naccumulate = 2", &["accumulate", "grad_hold=all"][..]),
            ("[train]\ngrad_hold = \"matrix\"\nclip = \"global\"", &["clip", "grad_hold=all"]),
            ("[train]\ngrad_hold = \"matrix\"\nclip = { by = \"layer\", at = 0.5 }", &["layer", "matrix"]),
            ("[train]\nround = \"kahan\"", &["train.round", "bf16"]),
            ("[train]\nsteps = 0", &["train.steps", "`0`"]),
            ("[train]\nsamples = 17", &["train.samples", "`17`", "0 to 16"]),
            ("[train]\nsample_tokens = 0", &["train.sample_tokens", "`0`"]),
            ("[train]\nparams = \"lora2\"", &["train.params", "lora2", "full"]),
            ("[train]\nparams = { use = \"lora\", rank = 3 }", &["train.params.rank", "lora_alpha"]),
            ("[train]\noptimizer = { use = \"adamw\", state_dtype = \"f8\" }", &["state_dtype", "bf16"]),
            ("[train]\nclip = \"norm\"", &["train"]),
            ("[train]\nspeed = 1", &["train.speed", "steps"]),
            ("[train]\nvalidation = 0.95", &["train.validation", "`0.95`", "0.9", "file"]),
            ("[train]\nvalidation = true", &["train", "share", "file"]),
            ("[train]\nvalidation = \"\"", &["train.validation", "share"]),
            (
                "[train]\ndata = \"bundled:task-tova\"\nvalidation = \"held.jsonl\"",
                &["held.jsonl", "bundled:task-tova"],
            ),
            ("[place]\nweights = \"stream\"\n[train]\nsteps = 3", &["place.weights", "resident"]),
        ] {
            let error = fails(text);
            for word in words {
                assert!(error.contains(word), "{text}: {error}");
            }
        }
    }

    #[test]
    fn what_is_saved_reads_back_the_same() {
        let text = "[train]\ndata = \"a.jsonl\"\nclip = { by = \"layer\", at = 0.5 }\nparams = { use = \"lora\", r = 4 }\ndecay = \"cosine\"";
        let config = from_toml(text, &[("train.steps".into(), "7".into())]).unwrap();
        let train = config.train.clone().unwrap();
        assert_eq!((train.steps, train.clip.by, train.params.knobs.int("r")), (7, ClipBy::Layer, Some(4)));
        assert_eq!(from_toml(&config.to_toml().unwrap(), &[]).unwrap(), config);
        for (text, validation) in [
            ("0", Validation::Share(0.0)),
            ("0.25", Validation::Share(0.25)),
            ("held/out.jsonl", Validation::File("held/out.jsonl".into())),
        ] {
            let config = from_toml("[train]", &[("train.validation".into(), text.into())]).unwrap();
            assert_eq!(config.train.clone().unwrap().validation, validation, "{text}");
            assert_eq!(from_toml(&config.to_toml().unwrap(), &[]).unwrap(), config);
        }
    }

    #[test]
    fn the_learning_rate_rises_and_falls() {
        let mut t = Train { steps: 110, warmup: 10, lr_end: 0.1, ..Train::default() };
        assert_eq!((t.share(1), t.share(10), t.share(110)), (0.1, 1.0, 1.0));
        t.decay = Decay::Linear;
        assert!((t.share(61) - 0.55).abs() < 1e-12 && (t.share(110) - 0.109).abs() < 1e-12);
        t.decay = Decay::Cosine;
        assert!(
            (t.share(61) - 0.55).abs() < 1e-12 && (t.share(36) - (0.1 + 0.9 * 0.853_553_390_593_273_8)).abs() < 1e-9
        );
        assert!((11..=110).all(|i| t.share(i) >= t.share(i + 1)));
        (t.decay, t.decay_from) = (Decay::Linear, 0.5);
        assert_eq!((t.share(11), t.share(56)), (1.0, 1.0));
        assert!((t.share(67) - (0.1 + 0.9 * 0.8)).abs() < 1e-12);
    }

    #[test]
    fn no_step_is_wasted_and_the_first_without_a_warm_up_has_the_whole_rate() {
        for decay in [Decay::Constant, Decay::Linear, Decay::Cosine] {
            for (steps, warmup, decay_from) in [(1, 0, 0.0), (1, 1, 0.0), (2, 0, 0.0), (5, 5, 1.0), (9, 2, 0.95)] {
                let t = Train { steps, warmup, decay, decay_from, ..Train::default() };
                assert!((1..=steps as u64).all(|i| t.share(i) > 0.0 && t.share(i) <= 1.0), "{t:?}");
                assert!(warmup > 1 || t.share(1) == 1.0, "{t:?}");
            }
        }
    }

    /// `tests/scripts/make_schedule.py`: PyTorch's and Hugging Face's own schedulers.
    #[test]
    fn learning_rates_are_those_of_pytorch_and_hugging_face() {
        let path = format!("{}/../tests/fixtures/train/schedule.json", env!("CARGO_MANIFEST_DIR"));
        let all: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        for case in all["cases"].as_array().unwrap() {
            let whole = |key: &str| case[key].as_u64().unwrap() as usize;
            let share = |key: &str| case[key].as_f64().unwrap();
            let (steps, warmup) = (whole("steps"), whole("warmup"));
            let decay = serde_json::from_value(case["decay"].clone()).unwrap();
            let (decay_from, lr_end) = (share("decay_from"), share("lr_end"));
            let t = Train { steps, warmup, decay, decay_from, lr_end, ..Train::default() };
            let theirs = case["shares"].as_array().unwrap();
            assert_eq!(theirs.len(), steps);
            for (i, theirs) in theirs.iter().enumerate().skip(whole("skip")) {
                let (ours, theirs) = (t.share(i as u64 + 1), theirs.as_f64().unwrap());
                assert!((ours - theirs).abs() < 1e-12, "{} step {}: {ours} {theirs}", case["source"], i + 1);
            }
        }
    }
}
