//! Adapters as PEFT keeps them: a folder with `adapter_config.json` and `adapter_model.safetensors`, names such as
//! `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`, A `(rank, in)`, B `(out, rank)`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use super::modules::{self, Module};
use super::rewrite::Rewrite;
use super::targets::{Ordered, Patterns, Targets};
use super::written::{self, Written};
use super::{About, AdapterKind, Collector, Factor, Factors, Found, Numbers, Role, check, holds_factors};
use crate::atomic_write;
use crate::blocks::BlockType;
use crate::error::{Error, Result};
use crate::model::safetensors::{self, Declared, SafeFile};
use crate::shape::{AdapterScheme, ModelShape, SCHEMES, Side};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// What PEFT puts before the model's own names.
const MODEL: &str = "base_model.model.";
/// Bytes of the longest configuration that is read.
const LONGEST_CONFIG: u64 = 1 << 20;

/// The weights and the configuration at `path`: a folder, or the weights themselves.
pub(super) fn files(path: &Path) -> Result<(PathBuf, PathBuf)> {
    if !path.is_dir() {
        if path.extension().is_some_and(|e| e == "safetensors") {
            return Ok((path.to_path_buf(), path.with_file_name(CONFIG)));
        }
        let there = path.exists();
        let what = if there { "is no adapter" } else { "is not there" };
        return Err(Error::model(
            path,
            "model.adapter",
            format!("{what}; name a folder of PEFT's ({CONFIG} and {WEIGHTS}), or a .gguf adapter"),
        ));
    }
    let weights = path.join(WEIGHTS);
    if !weights.exists() {
        let pickled = path.join("adapter_model.bin").exists();
        let why = if pickled {
            "only adapter_model.bin, which is a Python pickle and may run code: save it again with safe_serialization=True"
        } else {
            "it was not saved as a whole"
        };
        return Err(Error::model(path, WEIGHTS, format!("is missing; {why}")));
    }
    Ok((weights, path.join(CONFIG)))
}

/// The fields that matter. What is not known here and has a neutral value is let pass by name below.
#[derive(Debug, Deserialize)]
struct AdapterConfig {
    peft_type: Option<String>,
    r: Option<usize>,
    lora_alpha: Option<f64>,
    #[serde(default)]
    use_rslora: Option<bool>,
    #[serde(default)]
    rank_pattern: Option<Ordered<usize>>,
    #[serde(default)]
    alpha_pattern: Option<Ordered<f64>>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

fn config(path: &Path) -> Result<AdapterConfig> {
    let io = |e: std::io::Error| Error::model(path, CONFIG, format!("cannot be read: {e}"));
    let mut text = Vec::new();
    std::fs::File::open(path).map_err(io)?.take(LONGEST_CONFIG + 1).read_to_end(&mut text).map_err(io)?;
    if text.len() as u64 > LONGEST_CONFIG {
        return Err(Error::model(path, CONFIG, format!("is longer than {LONGEST_CONFIG} bytes")));
    }
    serde_json::from_slice(&text).map_err(|e| Error::model(path, CONFIG, e.to_string()))
}

/// Fields that change what the adapter computes, with the values under which they do not.
fn refuse_what_would_be_ignored(path: &Path, config: &AdapterConfig, kind: AdapterKind) -> Result<()> {
    let neutral = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        _ => false,
    };
    for name in [
        "use_dora",
        "use_qalora",
        "lora_bias",
        "trainable_token_indices",
        "layer_replication",
        "megatron_config",
        "alora_invocation_tokens",
        "target_parameters",
        "arrow_config",
        "use_bdlora",
        "kasa_config",
        "monteclora_config",
    ] {
        if kind.0.flag() == Some(name) {
            continue;
        }
        if let Some(value) = config.rest.get(name).filter(|v| !neutral(v)) {
            return Err(Error::model(
                path,
                name,
                format!("is {value}, which a plain LoRA has not; leaving it out would change the results"),
            ));
        }
    }
    Ok(())
}

/// What `init_lora_weights` did to the base's weights, which the adapter then learned beside.
fn rewrites(path: &Path, config: &AdapterConfig) -> Result<Option<Rewrite>> {
    const FIELD: &str = "init_lora_weights";
    let say = |text: &str, why: &str| {
        let name = text.escape_debug();
        Err(Error::model(
            path,
            FIELD,
            format!("is `{name}`, {why}; save it with PEFT's path_initial_model_for_weight_conversion"),
        ))
    };
    match config.rest.get(FIELD) {
        None | Some(Value::Null | Value::Bool(_)) => Ok(None),
        Some(Value::String(name)) => match &*name.to_ascii_lowercase() {
            // These draw or choose the factors alone.
            "gaussian" | "eva" | "orthogonal" | "mica" => Ok(None),
            "pissa" => Ok(Some(Rewrite::Pissa)),
            "olora" => Ok(Some(Rewrite::Olora)),
            other if other.starts_with("pissa_niter") => {
                say(name, "which takes from the base's weights what it drew at random, and so cannot be found again")
            }
            "corda" => say(name, "which takes from the base's weights what a sample of data told it"),
            "loftq" => say(name, "which quantized the base's weights on its own"),
            "lora_ga" => say(name, "which takes from the base's weights what a sample's gradient told it"),
            _ => say(name, "which is not known here, and may have changed the base's weights"),
        },
        Some(other) => Err(Error::model(path, FIELD, format!("is {other}, and is true, false or a name"))),
    }
}

/// The scheme whose flag is set, LoRA where none is.
fn kind(path: &Path, config: &AdapterConfig) -> Result<AdapterKind> {
    let set = |s: &&&dyn AdapterScheme| s.flag().is_some_and(|f| config.rest.get(f) == Some(&Value::Bool(true)));
    let mut found = SCHEMES.iter().filter(set);
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(AdapterKind(*one)),
        (None, _) => Ok(AdapterKind::default()),
        (Some(a), Some(b)) => {
            let flag = b.flag().unwrap_or_default();
            Err(Error::model(
                path,
                flag,
                format!("is true, and so is {}; one is possible", a.flag().unwrap_or_default()),
            ))
        }
    }
}

/// Components that wrappers of a training put into names.
const WRAPPERS: [&str; 3] = ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];
/// Components before the modules of a language model: PEFT's own, those of the model, of a model within another, of a wrapper.
const BEFORE: [&str; 4] = ["base_model", "model", "language_model", "module"];

/// A tensor of factors, by its name.
struct Named<'m> {
    /// None outside the layers.
    layer: Option<u64>,
    module: &'m Module,
    part: usize,
    /// The module's name in the model that it was trained on, which patterns are held against.
    full: String,
}

/// What a name says. Models are saved from the outside or the inside of wrappers, so whatever stands before `layers` that is
/// known to mean nothing is let pass.
fn parse<'m>(name: &str, kind: AdapterKind, modules: &'m [Module]) -> Option<Named<'m>> {
    let all: Vec<&str> = name.split('.').filter(|c| !WRAPPERS.contains(c)).collect();
    let at = all.iter().position(|c| c.starts_with("lora_"))?;
    let (module, tail) = (&all[..at], &all[at + 1..]);
    // A state dictionary saved by hand has the adapter's own name between.
    if !matches!(tail, [] | ["weight" | "default"] | ["default", "weight"]) {
        return None;
    }
    let inside = &module[module.iter().take_while(|c| BEFORE.contains(c)).count()..];
    let (layer, module) = match inside {
        ["layers", layer, rest @ ..] => {
            let name = rest.join(".");
            (Some(layer.parse().ok()?), modules.iter().find(|m| !m.outside() && m.name == name)?)
        }
        [one] => (None, modules.iter().find(|m| m.outside() && m.target() == *one)?),
        _ => return None,
    };
    // An embedding's factors have names of their own.
    let embeds = module.linears == [Role::Embedding];
    let which = all[at].strip_prefix("lora_embedding_").filter(|_| embeds).map(|which| format!("lora_{which}"));
    let which = which.or_else(|| (!embeds).then(|| all[at].to_owned()))?;
    let part = kind.0.parts().iter().position(|p| p.peft.trim_end_matches(".weight") == which)?;
    let own = all[..at].iter().skip_while(|c| **c == "base_model" || **c == "module").copied().collect::<Vec<_>>();
    let full = own.strip_prefix(&["model"]).filter(|_| name.starts_with(MODEL)).unwrap_or(&own).join(".");
    Some(Named { layer, module, part, full })
}

/// The model's own name of a tensor that was saved whole: of `modules_to_save`, a resized or trained embedding or head, a trained bias.
fn whole(name: &str) -> Option<String> {
    let own = name.strip_prefix(MODEL).unwrap_or(name);
    let (module, part) = own.rsplit_once('.')?;
    let module = module.strip_suffix(".modules_to_save.default").unwrap_or(module);
    let module = module.strip_suffix(".base_layer").unwrap_or(module);
    (matches!(part, "weight" | "bias") && !own.contains("lora_")).then(|| format!("{module}.{part}"))
}

/// Reads the headers and holds them against `model`.
pub(super) fn open(file: &SafeFile, config_path: &Path, model: &ModelShape) -> Result<Found> {
    let config = config(config_path)?;
    let wrong = |field: &str, message: String| Error::model(config_path, field, message);
    match config.peft_type.as_deref() {
        Some("LORA") => {}
        Some(other) => {
            return Err(wrong("peft_type", format!("is `{}`; LORA is supported", other.escape_debug())));
        }
        None => return Err(wrong("peft_type", "is missing; an adapter of PEFT's has `LORA` there".into())),
    }
    let kind = kind(config_path, &config)?;
    refuse_what_would_be_ignored(config_path, &config, kind)?;
    let r = config.r.ok_or_else(|| wrong("r", "is missing".into()))?;
    let alpha = config.lora_alpha.ok_or_else(|| wrong("lora_alpha", "is missing".into()))?;
    let rewrite = rewrites(config_path, &config)?;
    let targets = Targets::new(|name| config.rest.get(name)).map_err(|(field, message)| wrong(field, message))?;
    let ranks = Patterns::new(config.rank_pattern.as_ref()).map_err(|m| wrong("rank_pattern", m))?;
    let alphas = Patterns::new(config.alpha_pattern.as_ref()).map_err(|m| wrong("alpha_pattern", m))?;
    let modules = modules::of(model)?;
    let (mut found, mut saved) = (Collector::new(model, kind), Vec::new());
    let mut named = BTreeMap::new();
    for t in file.tensors() {
        let name = &*t.name;
        let Some(Named { layer, module, part, full }) = parse(name, kind, &modules) else {
            if let Some(own) = whole(name) {
                saved.push((name.to_owned(), own));
                continue;
            }
            return Err(file.error(
                name.escape_debug().to_string(),
                format!("{}, and leaving it out would change the results; merge it with PEFT", unknown(name)),
            ));
        };
        if let Some(field) = targets.leaves_out(layer, &full).map_err(|m| wrong("target_modules", m))? {
            return Err(
                file.error(name, format!("is of a module that {field} in {CONFIG} leaves out: PEFT does not read it"))
            );
        }
        if module.outside() && kind.0.gains().is_some() {
            let message = format!("{} of {full} is not read here; merge it with PEFT", kind.0.id());
            return Err(file.error(name, message));
        }
        let factor = factor(file, t, kind, part)?;
        found.put(layer, &module.linears, part, &factor).map_err(|m| file.error(name, m))?;
        let at = layer.map_or(model.layers.len(), |l| l as usize);
        module.linears.iter().for_each(|role| drop(named.insert((at, *role), full.clone())));
    }
    let scale = |rank: usize, linear: Role, layer: usize| {
        let module = named.get(&(layer, linear)).map_or("", String::as_str);
        let wanted = ranks.of(module)?.unwrap_or(r);
        if wanted != rank {
            return Err(format!("has rank {rank}, {CONFIG} says {wanted}"));
        }
        let alpha = alphas.of(module)?.unwrap_or(alpha);
        let by = if config.use_rslora == Some(true) { (rank as f64).sqrt() } else { rank as f64 };
        Ok((alpha / by) as f32)
    };
    Ok(Found { rewrite, saved, ..found.finish(|field, message| file.error(field, message), scale)? })
}

/// What a tensor is that is none of a known module's factors.
fn unknown(name: &str) -> &'static str {
    match name {
        _ if name.ends_with(".bias") => "is a bias of factors (`lora_bias`)",
        _ if name.contains("lora_magnitude_vector") => {
            "is a magnitude, and `use_dora` is not true: PEFT does not read it"
        }
        _ => "is no lora_A or lora_B of this model's linears (q, k, v, o, gate, up, down), embedding or head",
    }
}

/// A tensor as the part `part` of a scheme.
fn factor(file: &SafeFile, t: &safetensors::Tensor, kind: AdapterKind, part: usize) -> Result<Factor> {
    let name = &*t.name;
    let ty = t.ty.filter(|ty| holds_factors(*ty));
    let ty = ty.ok_or_else(|| file.error(name, format!("is {}; factors are F32, F16 or BF16", t.dtype)))?;
    let vector = kind.0.parts().get(part).is_some_and(|p| p.rows == Side::One);
    let (rows, cols) = match t.dims[..] {
        [rows, cols] => (rows, cols),
        [len] if vector => (1, len),
        _ => return Err(file.error(name, format!("has {} dimensions, a factor has 2", t.dims.len()))),
    };
    Ok(Factor { name: name.into(), ty, rows, cols, first: 0 })
}

/// Writes an adapter to the folder `folder`, whole or not at all; factors in f32, a few rows at a time. What the folder holds
/// beside an adapter's files stays.
///
/// # Errors
/// [`Error::Io`]; factors that do not fit `shape`; what `numbers` returns.
pub fn save(
    folder: &Path,
    shape: &ModelShape,
    about: &About,
    factors: &[Factors],
    numbers: &mut Numbers<'_>,
) -> Result<()> {
    check(shape, factors)?;
    let modules = modules::of(shape)?;
    let list = written::modules(shape, &modules, factors, true)?;
    let new = atomic_write::Folder::new(folder, |name| [CONFIG, WEIGHTS, "README.md"].contains(&name))?;
    let config = written_config(shape, about, &list);
    let text = serde_json::to_string_pretty(&config).map_err(|e| Error::Internal(format!("{CONFIG}: {e}")))?;
    let path = new.file(CONFIG);
    atomic_write::file(&path, |out| writeln!(out, "{text}").map_err(|e| Error::io(&path, "cannot write", &e)))?;
    let tensors: Vec<Declared> = list
        .iter()
        .flat_map(Written::parts)
        .map(|(w, _, spec)| {
            let part = match w.module.linears[..] {
                [Role::Embedding] => spec.peft.trim_end_matches(".weight").replace("lora_", "lora_embedding_"),
                _ => spec.peft.to_owned(),
            };
            let (rows, cols) = w.dims(spec);
            let dims = if spec.rows == Side::One { vec![cols] } else { vec![rows, cols] };
            Declared { name: format!("{MODEL}{}.{part}", w.module.full(w.layer)), ty: BlockType::F32, dims }
        })
        .collect();
    let mut next = list.iter().flat_map(Written::parts);
    safetensors::write(&new.file(WEIGHTS), &[("format", "pt")], &tensors, |_, put| {
        let Some((w, part, _)) = next.next() else { return Ok(()) };
        w.put(part, 1.0, numbers, &mut |rows| put(bytemuck::cast_slice(rows)))
    })?;
    new.commit()
}

/// What `adapter_config.json` says of them.
fn written_config(shape: &ModelShape, about: &About, list: &[Written<'_>]) -> Value {
    let targets: BTreeSet<&str> = list.iter().map(|w| w.module.target()).collect();
    let ranks: BTreeMap<String, usize> =
        list.iter().filter(|w| w.rank != about.rank).map(|w| (w.module.full(w.layer), w.rank)).collect();
    let alpha = |w: &Written<'_>| w.scale * if about.rslora { (w.rank as f32).sqrt() } else { w.rank as f32 };
    let differs = |w: &&Written<'_>| (alpha(w) - about.alpha).abs() > 1e-6 * about.alpha.abs();
    let alphas: BTreeMap<String, f32> =
        list.iter().filter(differs).map(|w| (w.module.full(w.layer), alpha(w))).collect();
    let layers: BTreeSet<usize> = list.iter().filter(|w| !w.module.outside()).map(|w| w.layer).collect();
    // A list of layers would leave out what is outside them.
    let some = layers.len() < shape.layers.len() && list.iter().all(|w| !w.module.outside());
    let mut config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": about.base,
        "inference_mode": true,
        "r": about.rank,
        "lora_alpha": about.alpha,
        "lora_dropout": about.dropout,
        "use_rslora": about.rslora,
        "target_modules": targets,
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "layers_to_transform": if some { json!(layers) } else { Value::Null },
        "bias": "none",
        "fan_in_fan_out": false,
        "use_dora": false,
        "modules_to_save": null,
        "init_lora_weights": true,
    });
    let flag = list.first().and_then(|w| w.kind.0.flag());
    if let (Some(flag), Some(fields)) = (flag, config.as_object_mut()) {
        fields.insert(flag.into(), Value::Bool(true));
    }
    config
}
