//! What the user chose. The TOML file is its only persistent form.
//!
//! A choice on an axis is its variant's id, or a table with `use` and the variant's knobs; both mean the same. Unknown
//! keys, wrong units and contradictory choices are errors that name the key, the value and what is allowed.

pub mod axes;
mod choice;
mod engine;
pub(crate) mod knob;
mod parse;
pub mod reads;
mod sections;
mod seed;
pub mod settings;
mod special;
pub mod train;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use axes::Axis;
pub use choice::{Choice, KnobValue, Knobs, PerKv};
pub use engine::Engine;
pub use knob::{Default, Knob, KnobKind};
pub use parse::{parse, set_key};
pub use sections::{Kv, KvBudget, Place, Weights};
pub use special::ParseSpecial;

use crate::bytes::Bytes;
use crate::error::{Error, Result};
use crate::ledger::Tier;
pub use crate::ops::cpu::Compute;
use crate::shape::ModelShape;

/// A whole configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Version of this form; 1.
    #[serde(default = "one")]
    pub schema: u32,
    /// Which model.
    #[serde(default)]
    pub model: Model,
    /// On what.
    #[serde(default)]
    pub machine: MachineChoice,
    /// How much of each tier it may use.
    #[serde(default)]
    pub budget: Budget,
    /// Weight formats.
    #[serde(default)]
    pub weights: Weights,
    /// The KV cache.
    #[serde(default)]
    pub kv: Kv,
    /// Where things live.
    #[serde(default)]
    pub place: Place,
    /// Fine-tuning. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train: Option<train::Train>,
    /// Evaluations to run after generating: a table of knobs for each task.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub eval: BTreeMap<String, Knobs>,
    /// What is kept to be shown. Absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observe: Option<Observe>,
    /// What to do.
    #[serde(default)]
    pub run: Run,
}

fn one() -> u32 {
    1
}

/// `[model]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Model {
    /// A GGUF file or a Hugging Face folder (relative to the configuration file), `bundled:recall`, or `random:SHAPE@TYPE`.
    pub path: String,
    /// A LoRA adapter that runs beside the weights: a folder of PEFT's, or a GGUF file. Absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// What the adapter's own scale (α / r) is multiplied by: 0 is the plain model, 1 what was trained.
    #[serde(skip_serializing_if = "is_one")]
    pub adapter_scale: f32,
    /// Further adapters beside it, each with its weight: `[[model.adapters]]` with `path` and `scale`. What they add is summed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub adapters: Vec<MoreAdapter>,
}

/// `[[model.adapters]]`: one more adapter beside the weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoreAdapter {
    /// A folder of PEFT's, or a GGUF file.
    pub path: String,
    /// What its own scale is multiplied by.
    #[serde(default = "unscaled")]
    pub scale: f32,
}

fn unscaled() -> f32 {
    1.0
}

fn is_one(scale: &f32) -> bool {
    *scale == 1.0
}

impl Model {
    /// Most adapters beside the first.
    pub const MORE_ADAPTERS: usize = 16;

    fn check_adapters(&self) -> Result<()> {
        const KEY: &str = "model.adapters";
        if self.adapters.len() > Self::MORE_ADAPTERS {
            let message =
                format!("names {} adapters; at most {} more are possible", self.adapters.len(), Self::MORE_ADAPTERS);
            return Err(Error::config(KEY, message));
        }
        if !self.adapters.is_empty() && self.adapter.is_none() {
            return Err(Error::config(KEY, "are further adapters beside model.adapter; name the first one there"));
        }
        for (i, one) in self.adapters.iter().enumerate() {
            if one.path.is_empty() {
                return Err(Error::config(format!("{KEY}.{i}.path"), "is empty; name an adapter"));
            }
            if !(-100.0..=100.0).contains(&one.scale) {
                return Err(Error::config(
                    format!("{KEY}.{i}.scale"),
                    format!("`{}` is not allowed; from -100 to 100", one.scale),
                ));
            }
        }
        Ok(())
    }
}

impl std::default::Default for Model {
    fn default() -> Self {
        Self { path: "bundled:recall".into(), adapter: None, adapter_scale: 1.0, adapters: Vec::new() }
    }
}

/// `[machine]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MachineChoice {
    /// `cpu` or `cuda:0`.
    pub device: String,
    /// Threads of the engine; 0 for the number of physical cores.
    pub threads: usize,
}

impl std::default::Default for MachineChoice {
    fn default() -> Self {
        Self { device: "cpu".into(), threads: 0 }
    }
}

/// `[budget]`: the wall of each tier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Budget {
    /// The slider.
    pub device: Bytes,
    /// RAM beside the device.
    pub host: Bytes,
    /// Files.
    pub disk: Bytes,
    /// Whether budgets may be more than the machine has free.
    pub overcommit: bool,
}

impl std::default::Default for Budget {
    fn default() -> Self {
        Self { device: Bytes::UNLIMITED, host: Bytes::UNLIMITED, disk: Bytes::UNLIMITED, overcommit: false }
    }
}

/// `[observe]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Observe {
    /// `none` or `thumbnails`: the last query's attention of every head, pooled to `bins` columns, at every step.
    pub attention: Attention,
    /// Columns of a thumbnail.
    pub bins: usize,
    /// Most bytes of thumbnails in a run, and as many again of the head's map; what comes after that is not kept.
    pub limit: Bytes,
    /// `[layer, query head]`, counted from 0: this head's attention is kept at full size, a row for every query of the prompt
    /// and of decoding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<[usize; 2]>,
}

impl Observe {
    /// The KV head whose rows the observed query head reads, with its layer.
    ///
    /// # Errors
    /// A head that `shape` does not have.
    pub fn kv_head(&self, shape: &ModelShape) -> Result<Option<(usize, usize)>> {
        let Some([layer, head]) = self.head else { return Ok(None) };
        match shape.layers.get(layer) {
            Some(l) if head < l.attention.heads => {
                Ok(Some((layer, head / (l.attention.heads / l.attention.kv_heads.max(1)).max(1))))
            }
            found => Err(Error::config(
                "observe.head",
                format!(
                    "there is no head [{layer}, {head}]; this model has {} layers of {} query heads, counted from 0",
                    shape.layers.len(),
                    found.or(shape.layers.first()).map_or(0, |l| l.attention.heads)
                ),
            )),
        }
    }
}

impl std::default::Default for Observe {
    fn default() -> Self {
        Self { attention: Attention::Thumbnails, bins: 64, limit: Bytes::mib(16), head: None }
    }
}

/// `observe.attention`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attention {
    /// Nothing.
    None,
    /// One pooled row a head and step.
    #[default]
    Thumbnails,
}

/// `[run]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Run {
    /// What to complete, or to answer when `chat`.
    pub prompt: String,
    /// The system message of a chat.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub system: String,
    /// The prompt goes through the chat template.
    pub chat: bool,
    /// What was said before the prompt in a chat, oldest first: `[[run.turns]]` with `role` and `content`. The prompt is the
    /// user's newest message.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub turns: Vec<Turn>,
    /// Whether texts of control tokens, such as `<|im_end|>`, are those tokens: auto | always | never.
    #[serde(skip_serializing_if = "ParseSpecial::is_auto")]
    pub parse_special: ParseSpecial,
    /// Room of one sequence in tokens, prompt included.
    pub context: usize,
    /// Decoded side by side, each with its own cache.
    pub sequences: usize,
    /// Most tokens to generate a sequence.
    pub max_tokens: usize,
    /// Prompt tokens computed at once; changes memory and speed, not results.
    pub batch: usize,
    /// Generate exactly `max_tokens`, past any end of text.
    pub ignore_eos: bool,
    /// Texts that end a sequence: a list, or one text.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "texts")]
    pub stop: Vec<String>,
    /// How the next token is chosen.
    pub sampling: Sampling,
    /// Of sampling; each sequence draws from a stream of its own. Above `i64::MAX`, where TOML's whole numbers end, a text.
    #[serde(with = "seed")]
    pub seed: u64,
    /// auto | exact | int8 | half.
    pub compute: Compute,
    /// ullage | candle.
    #[serde(skip_serializing_if = "Engine::is_own")]
    pub engine: Engine,
}

/// `[[run.turns]]`: what one side of a conversation said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Turn {
    /// Who said it.
    pub role: Role,
    /// What was said.
    pub content: String,
}

/// `role` of a turn. The system message is `run.system`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The one who asks.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// The word that templates know it by.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

fn texts<'de, D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a text, or a list of texts such as [\"\\n\"]")]
    enum Texts {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Texts::deserialize(d)? {
        Texts::One(text) => vec![text],
        Texts::Many(texts) => texts,
    })
}

impl std::default::Default for Run {
    fn default() -> Self {
        Self {
            prompt: "Once upon a time".into(),
            system: String::new(),
            chat: false,
            turns: Vec::new(),
            parse_special: ParseSpecial::Auto,
            context: 2048,
            sequences: 1,
            max_tokens: 128,
            batch: 512,
            ignore_eos: false,
            stop: Vec::new(),
            sampling: Sampling::default(),
            seed: 0,
            compute: Compute::Auto,
            engine: Engine::Ullage,
        }
    }
}

/// `run.sampling`: temperature 0 is greedy; the filters apply in the order top_k, top_p, min_p.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sampling {
    /// Divides the logits; 0 for greedy.
    pub temperature: f32,
    /// Keep the k most likely; 0 for all.
    pub top_k: usize,
    /// Keep the smallest set of this probability; 1 for all.
    pub top_p: f32,
    /// Keep those at least this fraction of the most likely; 0 for all.
    pub min_p: f32,
}

impl std::default::Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0 }
    }
}

impl std::default::Default for Config {
    fn default() -> Self {
        Self {
            schema: 1,
            model: Model::default(),
            machine: MachineChoice::default(),
            budget: Budget::default(),
            weights: Weights::default(),
            kv: Kv::default(),
            place: Place::default(),
            train: None,
            eval: BTreeMap::new(),
            observe: None,
            run: Run::default(),
        }
    }
}

impl Config {
    /// Every choice on an axis with its key: the one list that validation and building walk.
    pub fn choices(&self) -> Vec<(&'static Axis, String, &Choice)> {
        let mut all = Vec::new();
        self.weights.each(&mut all);
        all.extend(self.weights.overridden().map(|(key, choice)| (&axes::WEIGHTS_FORMAT, key, choice)));
        self.kv.each(&mut all);
        self.place.each(&mut all);
        if let Some(train) = &self.train {
            train.each(&mut all);
        }
        all
    }

    /// Checks what needs neither the catalogue (see [`crate::catalog::check`]) nor a model.
    ///
    /// # Errors
    /// The first thing wrong: the key, the value, and what is allowed.
    pub fn check(&self) -> Result<()> {
        if self.schema != 1 {
            return Err(Error::config("schema", format!("`{}` is not known; this version reads 1", self.schema)));
        }
        match self.kv.budget {
            Some(KvBudget::Ratio(r)) if !(r > 0.0 && r <= 1.0) => {
                return Err(Error::config("kv.budget.ratio", format!("`{r}` is not allowed; above 0, at most 1")));
            }
            Some(KvBudget::Rows(0)) => return Err(Error::config("kv.budget.rows", "`0` is not allowed; at least 1")),
            _ => {}
        }
        settings::check(self)?;
        if self.run.compute == Compute::Half && self.gpu().is_none() {
            return Err(Error::config(
                "run.compute",
                "half is for a GPU's tensor cores; set auto, exact or int8, or machine.device=cuda:0",
            ));
        }
        if let Some(train) = &self.train {
            train.check(self)?;
        }
        engine::check(self)?;
        if self.model.adapter_scale != 1.0 && self.model.adapter.is_none() {
            return Err(Error::config("model.adapter_scale", "there is no model.adapter to scale"));
        }
        if self.model.adapter.as_deref() == Some("") {
            return Err(Error::config("model.adapter", "is empty; name an adapter, or leave the key out"));
        }
        self.model.check_adapters()?;
        let run = &self.run;
        if !run.chat && !run.turns.is_empty() {
            return Err(Error::config(
                "run.turns",
                "turns of a conversation go through the chat template; set run.chat = true, or remove them",
            ));
        }
        Ok(())
    }

    /// The configuration as TOML, as it is saved.
    ///
    /// # Errors
    /// Never for a checked configuration.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::Internal(format!("writing the configuration: {e}")))
    }

    /// The GPU's number, or `None` for the CPU; of a checked configuration.
    pub fn gpu(&self) -> Option<usize> {
        self.machine.device.strip_prefix("cuda:")?.parse().ok()
    }

    /// How products are computed: what `auto` stands for on this device.
    pub fn compute(&self) -> Compute {
        match self.run.compute {
            // A GPU's half waits for its logits to be held against the CPU's on a card.
            Compute::Auto => Compute::Exact,
            compute => compute,
        }
    }

    /// The tier of what the CPU computes on: RAM is the device of a CPU's run and stands beside a GPU's.
    pub fn cpu_tier(&self) -> Tier {
        if self.gpu().is_some() { Tier::Host } else { Tier::Device }
    }

    /// Threads of the engine: as chosen, or the number of physical cores.
    pub fn threads(&self) -> usize {
        match self.machine.threads {
            0 => crate::machine::default_threads(),
            n => n,
        }
    }
}
