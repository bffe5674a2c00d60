//! The keys beside the axes, as one table: their words, units and ranges. Validation, cards and help read it.
//!
//! A default is not written here: it is what the section's own default has.

use serde::Serialize;

use super::train::Train;
use super::{Config, KnobKind, KnobValue, Observe};
use crate::error::Result;

/// A key of the configuration that is no choice on an axis.
#[derive(Clone, Copy)]
pub struct Setting {
    /// Its dotted key.
    pub key: &'static str,
    /// Its words on screen.
    pub label: &'static str,
    /// Type and range.
    pub kind: KnobKind,
    /// `rows`, `tokens`, or nothing.
    pub unit: &'static str,
    /// One sentence.
    pub sentence: &'static str,
    /// Its value in a configuration; `None` where the section that has it is absent.
    pub get: fn(&Config) -> Option<KnobValue>,
}

impl Setting {
    /// What it is when not given.
    pub fn default(&self) -> Option<KnobValue> {
        let all = Config { train: Some(Train::default()), observe: Some(Observe::default()), ..Config::default() };
        (self.get)(&all)
    }
}

/// The setting of a key.
pub fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|s| s.key == key)
}

/// Checks every number of `config` against its range. Words and texts are held to theirs by their types.
///
/// # Errors
/// The first key out of its range, its value, and what is allowed.
pub(super) fn check(config: &Config) -> Result<()> {
    for setting in SETTINGS {
        // A text among the numbers is a seed in quotes, held to its range by its type.
        let value = (setting.get)(config).filter(|value| !matches!(value, KnobValue::Text(_)));
        if let (KnobKind::Int { .. } | KnobKind::Float { .. }, Some(value)) = (setting.kind, value) {
            setting.kind.check(setting.key, &value)?;
        }
    }
    Ok(())
}

/// As it is written: a number, or a text of its digits where the whole numbers of TOML end.
fn seed(value: u64) -> Option<KnobValue> {
    Some(i64::try_from(value).map_or_else(|_| KnobValue::Text(value.to_string()), KnobValue::Int))
}

/// Whole numbers beyond `i64` are beyond every range as well.
fn whole(value: impl TryInto<i64>) -> Option<KnobValue> {
    Some(KnobValue::Int(value.try_into().unwrap_or(i64::MAX)))
}

/// The shortest number that reads back the same.
fn single(value: f32) -> Option<KnobValue> {
    Some(KnobValue::Float(value.to_string().parse().unwrap_or(f64::NAN)))
}

fn double(value: f64) -> Option<KnobValue> {
    Some(KnobValue::Float(value))
}

fn flag(value: bool) -> Option<KnobValue> {
    Some(KnobValue::Bool(value))
}

/// As TOML writes it: a word, bytes with their unit.
fn word(value: &impl Serialize) -> Option<KnobValue> {
    match serde_json::to_value(value).ok()? {
        serde_json::Value::String(text) => Some(KnobValue::Text(text)),
        other => Some(KnobValue::Text(other.to_string())),
    }
}

const SHARE: KnobKind = KnobKind::Float { min: 0.0, max: 1.0 };

macro_rules! settings {
    ($($key:literal $label:literal $kind:expr, $unit:literal, $sentence:literal, $get:expr;)+) => {
        /// Every setting, by section.
        pub static SETTINGS: &[Setting] = &[$(Setting {
            key: $key,
            label: $label,
            kind: $kind,
            unit: $unit,
            sentence: $sentence,
            get: $get,
        }),+];
    };
}

const fn int(min: i64, max: i64) -> KnobKind {
    KnobKind::Int { min, max }
}

const fn float(min: f64, max: f64) -> KnobKind {
    KnobKind::Float { min, max }
}

const fn words(of: &'static [&'static str]) -> KnobKind {
    KnobKind::Word { of }
}

settings! {
    "model.adapter_scale" "Adapter's scale" float(-100.0, 100.0), "",
        "What the adapter's own scale is multiplied by: 0 is the plain model, 1 what was trained.", |c| single(c.model.adapter_scale);
    "machine.threads" "Threads" int(0, 1024), "", "Threads of the engine; 0 for one a core.", |c| whole(c.machine.threads);
    "budget.host" "RAM limit" KnobKind::Text, "", "How much RAM beside the device may be used.", |c| word(&c.budget.host);
    "budget.disk" "Disk limit" KnobKind::Text, "", "How much of the disk may be used.", |c| word(&c.budget.disk);
    "budget.overcommit" "Beyond what is free" KnobKind::Bool, "",
        "Let budgets be more than the machine has free: the system may end the program.", |c| flag(c.budget.overcommit);
    "run.context" "Context" int(1, 1 << 24), "tokens", "Room of one sequence, prompt included.", |c| whole(c.run.context);
    "run.sequences" "Sequences" int(1, 1024), "", "Decoded side by side, each with its own cache.", |c| whole(c.run.sequences);
    "run.max_tokens" "Tokens to generate" int(0, 1 << 24), "tokens", "Most tokens to generate a sequence.", |c| whole(c.run.max_tokens);
    "run.batch" "Prompt piece" int(1, 8192), "tokens",
        "Prompt tokens computed at once: less scratch, more passes over the weights; the same results.", |c| whole(c.run.batch);
    "run.engine" "Engine" words(&["ullage", "candle"]), "",
        "ullage is our own; candle is the reference: 32-bit floats, no cache, so every token reads the whole text again.", |c| word(&c.run.engine);
    "run.compute" "Arithmetic" words(&["auto", "exact", "int8", "half"]), "",
        "exact multiplies in 32-bit floats; int8 rounds activations to bytes as ggml does, and multiplies whole numbers; half is a GPU's tensor cores. auto: exact so far.", |c| word(&c.run.compute);
    "run.ignore_eos" "Past the end" KnobKind::Bool, "",
        "Generate exactly as many tokens as asked for, past any end of text.", |c| flag(c.run.ignore_eos);
    "run.parse_special" "Control tokens" words(&["auto", "always", "never"]), "",
        "Whether text that spells a control token, such as <|im_end|>, becomes it: auto where a prompt is completed, never in what is said in a chat or in data.", |c| word(&c.run.parse_special);
    "run.seed" "Seed" int(0, i64::MAX), "",
        "Of the random choices; each sequence draws from a stream of its own. In a training, of what learns and of the order of the data.", |c| seed(c.run.seed);
    "run.sampling.temperature" "Temperature" float(0.0, 100.0), "",
        "Divides the scores; 0 always takes the most likely token.", |c| single(c.run.sampling.temperature);
    "run.sampling.top_k" "Top k" int(0, i64::MAX), "tokens", "Keep the k most likely; 0 for all.", |c| whole(c.run.sampling.top_k);
    "run.sampling.top_p" "Top p" SHARE, "", "Keep the smallest set of this probability; 1 for all.", |c| single(c.run.sampling.top_p);
    "run.sampling.min_p" "Min p" SHARE, "",
        "Keep those at least this fraction of the most likely; 0 for all.", |c| single(c.run.sampling.min_p);
    "observe.bins" "Columns" int(1, 4096), "", "Columns of a small map.", |c| whole(c.observe.as_ref()?.bins);
    "observe.limit" "At most" KnobKind::Text, "", "Steps after that are not kept.", |c| word(&c.observe.as_ref()?.limit);
    "train.data" "From" KnobKind::Text, "",
        "A file, or data that is made.",
        |c| word(&c.train.as_ref()?.data);
    "train.loss_on" "Loss on" words(&["responses", "all"]), "",
        "Which tokens count in the loss of prompts and responses.", |c| word(&c.train.as_ref()?.loss_on);
    "train.validate_every" "Read every" int(0, i64::MAX), "steps",
        "Steps between two readings of what is held out, the first before any step; 0 for the end only.",
        |c| whole(c.train.as_ref()?.validate_every);
    "train.samples" "Questions asked" int(0, 16), "",
        "Held-out questions that the model answers in words, before the first step and after the last; 0 for none.",
        |c| whole(c.train.as_ref()?.samples);
    "train.sample_tokens" "Longest answer" int(1, 256), "tokens",
        "Most tokens of each of these answers. Every token is a pass over the whole text so far.",
        |c| whole(c.train.as_ref()?.sample_tokens);
    "train.packing" "Packing" KnobKind::Bool, "",
        "Several documents share a row, each seeing only itself.", |c| flag(c.train.as_ref()?.packing);
    "train.out" "Save in" KnobKind::Text, "",
        "Folder of what was learned and of the training state; empty: an adapter is kept beside the runs, nothing else.",
        |c| word(&c.train.as_ref()?.out);
    "train.resume" "Go on" KnobKind::Bool, "",
        "Goes on from the training state in that folder, where there is one.", |c| flag(c.train.as_ref()?.resume);
    "train.steps" "Steps" int(1, 1 << 32), "steps", "Updates.", |c| whole(c.train.as_ref()?.steps);
    "train.batch" "Batch" int(1, 4096), "rows", "Rows of a micro-batch.", |c| whole(c.train.as_ref()?.batch);
    "train.length" "Length" int(2, 1 << 20), "tokens", "Tokens of a row.", |c| whole(c.train.as_ref()?.length);
    "train.lr" "Learning rate" float(0.0, 100.0), "", "The highest learning rate.", |c| double(c.train.as_ref()?.lr);
    "train.warmup" "Warm-up" int(0, 1 << 32), "steps", "Steps over which it rises, evenly; the first is no step of zero.", |c| whole(c.train.as_ref()?.warmup);
    "train.decay" "Decay" words(&["constant", "linear", "cosine"]), "",
        "How it falls afterwards.", |c| word(&c.train.as_ref()?.decay);
    "train.decay_from" "Falls from" SHARE, "",
        "What share of the steps it waits before it falls; 0 falls from the end of the warm-up on.",
        |c| double(c.train.as_ref()?.decay_from);
    "train.lr_end" "Falls to" SHARE, "", "What share of it the decay leads to; the last step lies just above.", |c| double(c.train.as_ref()?.lr_end);
    "train.accumulate" "Accumulate" int(1, 65536), "micro-batches",
        "Micro-batches whose gradients make one update.", |c| whole(c.train.as_ref()?.accumulate);
    "train.grad_hold" "Gradients held" words(&["all", "layer", "matrix"]), "",
        "How long gradients are held: all to the end of the step, or a layer's or a matrix's at a time.",
        |c| word(&c.train.as_ref()?.grad_hold);
    "train.clip.at" "Clipped at" float(1e-12, 1e12), "", "The most that what is clipped may be.", |c| single(c.train.as_ref()?.clip.at);
    "train.dtype" "Weights that learn" words(&["f32", "bf16"]), "", "In what type they are held.", |c| word(&c.train.as_ref()?.dtype);
    "train.round" "Rounding" words(&["nearest", "stochastic", "kahan", "master"]), "",
        "How an updated value becomes bf16.", |c| word(&c.train.as_ref()?.round);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::catalog::from_toml;

    /// `key` set to `value`, with what the table it stands in also needs.
    fn set(key: &str, value: String) -> crate::Result<Config> {
        let with = (key == "train.clip.at").then(|| ("train.clip.by".to_owned(), "value".to_owned()));
        from_toml("", &with.into_iter().chain([(key.to_owned(), value)]).collect::<Vec<_>>())
    }

    #[test]
    fn every_setting_is_a_key_with_a_default_in_its_range_that_can_be_set() {
        let mut seen = std::collections::BTreeSet::new();
        for s in SETTINGS {
            assert!(seen.insert(s.key), "{} twice", s.key);
            assert!(s.label.starts_with(char::is_uppercase) && s.sentence.ends_with('.'), "{}", s.key);
            let default = s.default().unwrap();
            s.kind.check(s.key, &default).unwrap();
            if s.key.starts_with("model.adapter") {
                continue;
            }
            // The key is one of the configuration's, and what it sets is what is read back.
            let value = match &default {
                KnobValue::Text(text) => format!("{text:?}"),
                other => other.to_string(),
            };
            let config = set(s.key, value).unwrap_or_else(|e| panic!("{}: {e}", s.key));
            assert_eq!((s.get)(&config), Some(default), "{}", s.key);
        }
    }

    #[test]
    fn a_number_beyond_its_range_is_refused_with_the_range_that_the_card_shows() {
        for s in SETTINGS.iter().filter(|s| !s.key.starts_with("model.")) {
            let (over, most) = match s.kind {
                KnobKind::Int { max, .. } if max < i64::MAX => ((max + 1).to_string(), max.to_string()),
                KnobKind::Float { max, .. } => ((2.0 * max).to_string(), max.to_string()),
                _ => continue,
            };
            let text = set(s.key, over).unwrap_err().to_string();
            assert!(text.contains(s.key) && text.contains(&most), "{text}");
        }
    }
}
