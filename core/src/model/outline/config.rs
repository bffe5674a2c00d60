//! An outline by `config.json`, with the headers of the weights beside it where there are any.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::layers::{Feed, Mixer, sum};
use super::{Known, Outline, Weights};
use crate::error::{Error, Result};
use crate::model::arch::{self, hf_json, hf_keys, limits};
use crate::model::hf;

/// Largest `config.json` read.
const LARGEST: u64 = 1 << 20;
/// Families that read texts at once and write none; their feed-forwards have no gate.
const ENCODERS: [&str; 10] = [
    "bert",
    "roberta",
    "xlm-roberta",
    "camembert",
    "distilbert",
    "albert",
    "electra",
    "mpnet",
    "deberta",
    "deberta-v2",
];
/// Where a model that sees or hears describes the part that writes.
const WRITERS: [&str; 5] = ["text_config", "language_config", "llm_config", "thinker_config", "decoder_config"];

/// The outline of a folder, of one of its files, or of a `config.json` alone, where it is not run.
pub(super) fn of(path: &Path) -> Result<Option<Outline>> {
    let dir = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
    let bare = path.extension().is_some_and(|e| e == "json");
    let config = if bare { path.to_path_buf() } else { dir.join("config.json") };
    if !config.is_file() {
        return Ok(None);
    }
    // Whoever opens it says what is wrong with it.
    let Ok(Value::Object(map)) = hf_json::parse(&hf_keys::text(&config, LARGEST)?) else { return Ok(None) };
    let read = Sizes::of(map);
    let Some(why) = read.why() else { return Ok(None) };
    // A file that is called as all of them are says nothing: its folder does.
    let named = if bare && config.file_name().is_none_or(|n| n != "config.json") { &config } else { dir };
    let name = std::path::absolute(named).ok();
    let name = name.and_then(|p| Some(p.file_name()?.to_string_lossy().into_owned())).unwrap_or_else(|| "model".into());
    let headers = if bare { None } else { headers(dir, (!path.is_dir()).then_some(path))? };
    let layers = read.layers(&config)?;
    let encodes = read.encodes();
    let (headers, counted) = headers.map_or((None, None), |(weights, numbers)| (Some(weights), numbers));
    let parameters = counted.or_else(|| read.parameters(&layers));
    let weights = headers.or_else(|| read.weights(parameters?));
    Ok(Some(Outline {
        name,
        arch: read.model_type(),
        why,
        parameters,
        weights,
        context: read.n(&["max_position_embeddings", "n_positions", "max_seq_len"]).unwrap_or(0),
        // What reads a text at once keeps nothing of it.
        layers: layers
            .into_iter()
            .map(|(mixer, _)| if encodes { Mixer::Nothing.keeps() } else { mixer.keeps() })
            .collect(),
    }))
}

/// What the weights beside a configuration take, by their headers.
/// With how many numbers they hold, where all are stored as floats.
fn headers(dir: &Path, file: Option<&Path>) -> Result<Option<(Weights, Option<u64>)>> {
    let files = match hf::files(dir, file) {
        Ok((files, _)) => files,
        // A configuration alone is enough.
        Err(Error::Model { field, .. }) if field == hf::WEIGHTS => return Ok(None),
        Err(e) => return Err(e),
    };
    let (mut bytes, mut types, mut numbers) = (0u64, BTreeMap::new(), Some(0u64));
    for t in files.iter().flat_map(|file| file.tensors()) {
        let own = t.dims.iter().fold(1u64, |n, d| n.saturating_mul(*d));
        numbers = match &*t.dtype {
            "F64" | "F32" | "F16" | "BF16" => numbers.map(|n| n.saturating_add(own)),
            // Places in a text, which no model learns.
            "I64" => numbers,
            _ => None,
        };
        bytes = bytes.saturating_add(t.bytes);
        *types.entry(t.dtype.to_string()).or_insert(0u64) += t.bytes;
    }
    Ok(Some((Weights { bytes, types, known: Known::Exactly }, numbers)))
}

/// A configuration's fields: those of the part that writes before those of the whole.
struct Sizes {
    map: Map<String, Value>,
    whole: Map<String, Value>,
}

impl Sizes {
    fn of(mut whole: Map<String, Value>) -> Self {
        hf_json::one_name(&mut whole);
        let mut map = whole.clone();
        let mut inner = WRITERS.iter().find_map(|key| whole.get(*key)?.as_object().cloned());
        // One model has its writer in the part that thinks.
        if let Some(deeper) = inner.as_ref().and_then(|i| i.get("text_config")?.as_object().cloned()) {
            inner = Some(deeper);
        }
        if let Some(mut inner) = inner {
            hf_json::one_name(&mut inner);
            map.extend(inner);
        }
        Self { map, whole }
    }

    /// A whole number of the first of these names that is there; what is beyond any size is none.
    fn n(&self, names: &[&str]) -> Option<u64> {
        let value = names.iter().find_map(|name| self.map.get(*name))?;
        value
            .as_u64()
            .or_else(|| Some(value.as_f64().filter(|v| *v >= 0.0 && v.fract() == 0.0)? as u64))
            .filter(|n| *n < 1 << 32)
    }

    fn flag(&self, name: &str) -> Option<bool> {
        self.map.get(name)?.as_bool()
    }

    fn has(&self, name: &str) -> bool {
        self.map.contains_key(name)
    }

    fn words(&self, name: &str) -> Option<Vec<&str>> {
        self.map.get(name)?.as_array()?.iter().map(Value::as_str).collect()
    }

    fn numbers(&self, name: &str) -> Option<Vec<u64>> {
        self.map.get(name)?.as_array()?.iter().map(Value::as_u64).collect()
    }

    fn model_type(&self) -> String {
        let said = self.whole.get("model_type").and_then(Value::as_str).unwrap_or("llama");
        said.chars().filter(|c| !c.is_control()).take(64).collect()
    }

    /// Why it is not run; `None` where it is.
    fn why(&self) -> Option<String> {
        let quantized = self.whole.get("quantization_config").or_else(|| self.map.get("quantization_config"));
        if let Some(of) = quantized {
            let method = of.get("quant_method").and_then(Value::as_str).unwrap_or("an unnamed method");
            let method: String = method.chars().filter(|c| !c.is_control()).take(64).collect();
            return Some(format!(
                "its weights are quantized by {method}, which is not read so far; open the unquantized model, or a GGUF file of it"
            ));
        }
        let kind = self.model_type();
        if arch::by_model_type(&kind).is_some() {
            return None;
        }
        let tower = ["vision_config", "vision_tower", "visual", "audio_config", "thinker_config"];
        let kinds = self.words("layer_types").unwrap_or_default();
        let kinds = |of: &[&str]| kinds.iter().any(|k| of.iter().any(|o| k.contains(o)));
        let pattern = self.map.get("hybrid_override_pattern").and_then(Value::as_str).is_some_and(|p| p.contains('M'));
        let why = if tower.iter().any(|t| self.whole.contains_key(*t)) {
            "it has a tower for pictures or sound, which is not computed so far; a model for text of its family may run"
        } else if self.has("kv_lora_rank") {
            "latent attention (MLA) is not computed so far"
        } else if self.has("linear_num_value_heads") || self.has("attn_type_list") || kinds(&["linear"]) {
            "linear attention is not computed so far"
        } else if pattern || kinds(&["mamba"]) || self.map.keys().any(|k| k.contains("mamba") || k.starts_with("ssm_"))
        {
            "a state space (Mamba) is not computed so far"
        } else if kinds(&["conv", "recurrent"]) || self.has("lru_width") {
            "layers of a convolution or a recurrence are not computed so far"
        } else {
            return Some(format!(
                "the architecture `{kind}` is not computed so far; supported: {}",
                arch::model_types()
            ));
        };
        Some(why.to_owned())
    }

    /// Whether it reads a text and writes none.
    fn encodes(&self) -> bool {
        ENCODERS.contains(&&*self.model_type())
    }

    /// Each layer, in order.
    fn layers(&self, path: &Path) -> Result<Vec<(Mixer, Feed)>> {
        let count = self
            .n(&["num_hidden_layers", "n_layers", "n_layer", "num_layers"])
            .or_else(|| self.map.get("hybrid_override_pattern")?.as_str().map(|p| p.len() as u64));
        let Some(count) = count.filter(|n| *n > 0 && *n <= limits::LAYERS) else {
            let message = format!("is missing, 0, or above {}; a plan needs it", limits::LAYERS);
            return Err(Error::model(path, "num_hidden_layers", message));
        };
        Ok((0..count).map(|l| (self.mixer(l), self.feed(l))).collect())
    }

    /// What the configuration calls layer `l`, by whichever list it has.
    fn kind(&self, l: u64) -> Option<&str> {
        let at = |name: &str| self.map.get(name)?.as_array()?.get(l as usize)?.as_str();
        let every = |period: &str, offset: u64| self.n(&[period]).filter(|p| *p > 0).map(|p| l % p == offset);
        if let Some(kind) = at("layer_types").or_else(|| at("layers_block_type")) {
            return Some(kind);
        }
        if let Some(pattern) = self.map.get("hybrid_override_pattern").and_then(Value::as_str) {
            return Some(match pattern.as_bytes().get(l as usize)? {
                b'M' => "mamba",
                b'*' => "attention",
                _ => "mlp",
            });
        }
        if let Some(list) = self.numbers("attn_type_list") {
            return Some(if *list.get(l as usize)? == 1 { "attention" } else { "linear_attention" });
        }
        if let Some(list) = self.numbers("attn_layer_indices") {
            return Some(if list.contains(&l) { "attention" } else { "mamba" });
        }
        if let Some(full) =
            every("full_attention_interval", self.n(&["full_attention_interval"]).unwrap_or(1).saturating_sub(1))
        {
            return Some(if full { "attention" } else { "linear_attention" });
        }
        if let Some(full) = every("attn_layer_period", self.n(&["attn_layer_offset"]).unwrap_or(0)) {
            return Some(if full { "attention" } else { "mamba" });
        }
        None
    }

    fn mixer(&self, l: u64) -> Mixer {
        let kind = self.kind(l).unwrap_or("");
        let heads = self.n(&["num_attention_heads", "n_heads", "n_head"]).unwrap_or(0);
        match kind {
            "mlp" | "moe" => Mixer::Nothing,
            "conv" => self.n(&["conv_L_cache"]).map_or(Mixer::Unknown, |length| Mixer::Conv { length }),
            "linear_attention" => self.linear(heads),
            "mamba" | "mamba2" => self.state_space(),
            "recurrent" => Mixer::Unknown,
            // Some have both in every layer.
            "" if self.has("mamba_n_heads") && heads > 0 => self.both(heads),
            "" if heads == 0 && self.map.keys().any(|k| k.contains("state_size")) => self.state_space(),
            kind => self.attention(l, heads, kind),
        }
    }

    fn attention(&self, l: u64, heads: u64, kind: &str) -> Mixer {
        if let Some(rank) = self.n(&["kv_lora_rank"]) {
            return Mixer::Latent {
                heads,
                q_rank: self.n(&["q_lora_rank"]).unwrap_or(0),
                rank,
                nope: self.n(&["qk_nope_head_dim"]).unwrap_or(0),
                rope: self.n(&["qk_rope_head_dim"]).unwrap_or(0),
                value: self.n(&["v_head_dim"]).unwrap_or(0),
            };
        }
        let kv_heads = self.n(&["num_key_value_heads", "n_kv_heads"]).unwrap_or(heads);
        let hidden = self.hidden();
        let Some(dim) =
            self.n(&["head_dim", "attention_head_dim"]).or_else(|| hidden.checked_div(heads)).filter(|d| *d > 0)
        else {
            return Mixer::Unknown;
        };
        let window = self.n(&["sliding_window", "attention_chunk_size"]).filter(|w| *w > 0);
        let slides = match kind {
            "sliding_attention" | "chunked_attention" | "local_attention" => true,
            "" => self.flag("use_sliding_window") != Some(false) && self.slides(l),
            _ => false,
        };
        // Biases and sinks, and norms of heads.
        let (q, kv) = (heads * dim, kv_heads * dim);
        let biased = self.flag("attention_bias").or_else(|| self.flag("qkv_bias")) == Some(true);
        let bias = if biased { sum(&[q, kv, kv, hidden]) } else { 0 };
        let sinks = if self.has("swiglu_limit") { heads } else { 0 };
        let gated = self.has("linear_num_value_heads");
        let norms = if gated || self.flag("use_qk_norm") == Some(true) { 2 * dim } else { 0 };
        let extra = sum(&[bias, sinks, norms]);
        Mixer::Attention { heads, kv_heads, dim, value: dim, window: window.filter(|_| slides), gated, extra }
    }

    /// Whether a layer of no named kind has the window that the configuration names: all, or those of a pattern.
    fn slides(&self, l: u64) -> bool {
        match self.n(&["sliding_window_pattern"]).filter(|p| *p > 0) {
            Some(period) => !(l + 1).is_multiple_of(period),
            None => true,
        }
    }

    fn linear(&self, heads: u64) -> Mixer {
        let n = |name: &str| self.n(&[name]).unwrap_or(0);
        if self.has("linear_num_value_heads") {
            return Mixer::Delta {
                keys: n("linear_num_key_heads"),
                key: n("linear_key_head_dim"),
                values: n("linear_num_value_heads"),
                value: n("linear_value_head_dim"),
                conv: n("linear_conv_kernel_dim"),
            };
        }
        match self.n(&["head_dim"]).or_else(|| self.hidden().checked_div(heads)) {
            Some(dim) if heads > 0 => Mixer::Linear { heads, dim },
            _ => Mixer::Unknown,
        }
    }

    fn state_space(&self) -> Mixer {
        let hidden = self.hidden();
        let state = self.n(&["mamba_d_state", "ssm_state_size", "state_size"]);
        let conv = self.n(&["mamba_d_conv", "conv_kernel", "mamba_conv_kernel"]);
        let (Some(state), Some(conv)) = (state, conv) else { return Mixer::Unknown };
        let expand = self.n(&["mamba_expand", "expand"]).unwrap_or(2);
        let heads = self.n(&["mamba_n_heads", "mamba_num_heads", "n_mamba_heads"]);
        match heads {
            Some(heads) => {
                let dim = self.n(&["mamba_d_head", "mamba_head_dim"]).or_else(|| (expand * hidden).checked_div(heads));
                let groups = self.n(&["mamba_n_groups", "n_groups", "mamba_ngroups"]).unwrap_or(1);
                dim.map_or(Mixer::Unknown, |dim| Mixer::Mamba2 { heads, dim, state, groups, conv })
            }
            None => Mixer::Mamba1 {
                inner: self.n(&["intermediate_size"]).filter(|_| !self.has("mamba_expand")).unwrap_or(expand * hidden),
                state,
                conv,
                dt: self.n(&["mamba_dt_rank", "time_step_rank"]).unwrap_or_else(|| hidden.div_ceil(16)),
                normed: self.has("mamba_dt_rank"),
            },
        }
    }

    fn both(&self, heads: u64) -> Mixer {
        let hidden = self.hidden();
        let n = |names: &[&str], usual: u64| self.n(names).unwrap_or(usual);
        let mamba_heads = n(&["mamba_n_heads"], 0);
        let dim = self.n(&["head_dim"]).or_else(|| hidden.checked_div(heads)).unwrap_or(0);
        let mamba_dim = n(&["mamba_d_head"], 0);
        Mixer::Both {
            heads,
            kv_heads: n(&["num_key_value_heads"], heads),
            dim,
            inner: n(&["mamba_d_ssm"], mamba_heads * mamba_dim),
            mamba_heads,
            mamba_dim,
            state: n(&["mamba_d_state"], 0),
            groups: n(&["mamba_n_groups"], 1),
            conv: n(&["mamba_d_conv"], 0),
        }
    }

    fn hidden(&self) -> u64 {
        self.n(&["hidden_size", "n_embd", "d_model"]).unwrap_or(0)
    }

    fn feed(&self, l: u64) -> Feed {
        let n = |names: &[&str]| self.n(names);
        let ff = n(&["intermediate_size", "n_inner", "ffn_hidden_size", "d_ff"]).unwrap_or(0);
        let plain = self.encodes() || self.map.get("mlp_hidden_act").and_then(Value::as_str) == Some("relu2");
        let matrices = if plain { 2 } else { 3 };
        // Where a pattern gives each half of a layer a place of its own, only some places are feed-forwards.
        if self.has("hybrid_override_pattern") {
            let dense = if self.kind(l) == Some("mlp") { ff } else { 0 };
            return Feed { dense, matrices, ..Feed::default() };
        }
        let lfm = n(&["block_ff_dim"]).filter(|_| self.flag("block_auto_adjust_ff_dim") == Some(true));
        if let Some(wide) = lfm {
            let multiple = n(&["block_multiple_of"]).unwrap_or(1).max(1);
            return Feed { dense: (2 * wide / 3).next_multiple_of(multiple), matrices, ..Feed::default() };
        }
        let experts = n(&["num_experts"]).unwrap_or(0);
        if experts == 0 || !self.routed(l) {
            let dense = n(&["intermediate_size_mlp", "shared_intermediate_size"]).unwrap_or(ff);
            return Feed { dense, matrices, ..Feed::default() };
        }
        let width = n(&["moe_intermediate_size", "expert_ffn_hidden_size"]).unwrap_or(ff);
        let gate = if self.has("shared_expert_intermediate_size") { self.hidden() } else { 0 };
        let shared = match n(&["shared_expert_intermediate_size", "shared_intermediate_size"]) {
            Some(width) => width,
            // One that stands beside the experts, as wide as one of them times their number.
            None if self.has("interleave_moe_layer_step") => ff,
            None => n(&["n_shared_experts", "num_shared_experts"]).unwrap_or(0) * width,
        };
        let bias = match self.map.get("topk_method").and_then(Value::as_str) {
            Some("noaux_tc") => experts,
            // gpt-oss: of the router, and of each expert's two matrices.
            _ if self.has("swiglu_limit") => experts.saturating_mul(1 + 2 * width + self.hidden()),
            _ => 0,
        };
        Feed { dense: shared, experts, width, matrices, extra: sum(&[gate, bias]) }
    }

    /// Whether layer `l` is a mixture of experts.
    fn routed(&self, l: u64) -> bool {
        if l < self.n(&["first_k_dense_replace", "moe_layer_start_index"]).unwrap_or(0) {
            return false;
        }
        if self.numbers("mlp_only_layers").is_some_and(|list| list.contains(&l)) {
            return false;
        }
        let every =
            |period: &str, offset: u64| self.n(&[period]).filter(|p| *p > 0).is_none_or(|p| l % p == offset % p);
        let last = |period: &str| self.n(&[period]).unwrap_or(1).saturating_sub(1);
        every("decoder_sparse_step", last("decoder_sparse_step"))
            && every("interleave_moe_layer_step", last("interleave_moe_layer_step"))
            && every("moe_layer_freq", 0)
            && every("expert_layer_period", self.n(&["expert_layer_offset"]).unwrap_or(0))
    }

    /// Numbers in all weights; `None` where a layer's are not known.
    fn parameters(&self, layers: &[(Mixer, Feed)]) -> Option<u64> {
        let (hidden, vocab) = (self.hidden(), self.n(&["vocab_size"])?);
        if hidden == 0 {
            return None;
        }
        let tied = self.encodes() || self.flag("tie_word_embeddings").unwrap_or(false);
        let ends = vocab.saturating_mul(hidden).saturating_mul(if tied { 1 } else { 2 }).saturating_add(hidden);
        layers.iter().try_fold(ends, |all, (mixer, feed)| {
            // A norm before each half that there is.
            let halves = u64::from(*mixer != Mixer::Nothing)
                + u64::from(*feed != Feed { matrices: feed.matrices, ..Feed::default() });
            Some(sum(&[all, mixer.parameters(hidden)?, feed.parameters(hidden), halves * hidden]))
        })
    }

    /// Bytes of `parameters` numbers in the type that the configuration names.
    fn weights(&self, parameters: u64) -> Option<Weights> {
        let said =
            self.map.get("dtype").or_else(|| self.map.get("torch_dtype")).and_then(Value::as_str).unwrap_or("bfloat16");
        // A quantized one's bits are not those of its type.
        if self.whole.contains_key("quantization_config") {
            return None;
        }
        let (ty, each) = match said {
            "float32" => ("F32", 4),
            "float16" => ("F16", 2),
            "bfloat16" => ("BF16", 2),
            _ => return None,
        };
        let bytes = parameters.checked_mul(each)?;
        Some(Weights { bytes, types: BTreeMap::from([(ty.into(), bytes)]), known: Known::BySizes })
    }
}
