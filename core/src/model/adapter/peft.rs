//! Adapters as PEFT keeps them: a folder with `adapter_config.json` and `adapter_model.safetensors`, names such as
//! `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`, A `(rank, in)`, B `(out, rank)`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use super::rewrite::Rewrite;
use super::targets::{Ordered, Patterns, Targets};
use super::{
    About, AdapterKind, Collector, Factor, Factors, Found, Numbers, Role, by_rows, check, holds_factors, permute,
};
use crate::atomic_write;
use crate::blocks::BlockType;
use crate::error::{Error, Result};
use crate::model::safetensors::{self, Declared, SafeFile};
use crate::shape::{AdapterScheme, ModelShape, SCHEMES, Side};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// What PEFT puts before the model's own names, and before those of its layers.
const MODEL: &str = "base_model.model.";
const PREFIX: &str = "base_model.model.model.layers.";
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

fn parse(name: &str, kind: AdapterKind) -> Option<(u64, Role, usize)> {
    let rest = name.strip_prefix(PREFIX)?;
    let (layer, rest) = rest.split_once('.')?;
    // A state dictionary saved by hand has the adapter's own name between.
    let own = |part: &str| match part.rsplit_once('.') {
        Some((head, tail)) => format!(".{head}.default.{tail}"),
        None => format!(".{part}.default"),
    };
    let (module, part) = kind.0.parts().iter().enumerate().find_map(|(i, p)| {
        let plain = rest.strip_suffix(p.peft).and_then(|m| m.strip_suffix('.'));
        plain.or_else(|| rest.strip_suffix(own(p.peft).as_str())).map(|module| (module, i))
    })?;
    let linear = Role::LINEARS.into_iter().find(|l| l.module() == module)?;
    Some((layer.parse().ok()?, linear, part))
}

/// The model's own name of a tensor that was saved whole: of `modules_to_save`, a resized or trained embedding or head, a trained bias.
fn whole(name: &str) -> Option<String> {
    let own = name.strip_prefix(MODEL)?;
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
    let (mut found, mut saved) = (Collector::new(model, kind), Vec::new());
    for t in file.tensors() {
        let name = &*t.name;
        let Some((layer, linear, part)) = parse(name, kind) else {
            if let Some(own) = whole(name) {
                saved.push((name.to_owned(), own));
                continue;
            }
            let what = match name {
                _ if name.contains(".lora_embedding_") => "changes the embedding, which has no factors here",
                _ if name.contains("lm_head.lora_") => "changes the output head, which has no factors here",
                _ if name.ends_with(".bias") => "is a bias of factors (`lora_bias`)",
                _ => "is no lora_A or lora_B of a layer's linear (q, k, v, o, gate, up, down)",
            };
            return Err(file.error(
                name.escape_debug().to_string(),
                format!("{what}, and leaving it out would change the results; merge it with PEFT"),
            ));
        };
        if let Some(field) = targets.leaves_out(layer, linear.module()).map_err(|m| wrong("target_modules", m))? {
            return Err(
                file.error(name, format!("is of a module that {field} in {CONFIG} leaves out: PEFT does not read it"))
            );
        }
        let ty = t.ty.filter(|ty| holds_factors(*ty));
        let ty = ty.ok_or_else(|| file.error(name, format!("is {}; factors are F32, F16 or BF16", t.dtype)))?;
        let vector = kind.0.parts().get(part).is_some_and(|p| p.rows == Side::One);
        let (rows, cols) = match t.dims[..] {
            [rows, cols] => (rows, cols),
            [len] if vector => (1, len),
            _ => return Err(file.error(name, format!("has {} dimensions, a factor has 2", t.dims.len()))),
        };
        let factor = Factor { name: name.into(), ty, rows, cols };
        found.put(layer, linear, part, factor).map_err(|m| file.error(name, m))?;
    }
    let scale = |rank: usize, linear: Role, layer: usize| {
        let module = format!("model.layers.{layer}.{}", linear.module());
        let wanted = ranks.of(&module)?.unwrap_or(r);
        if wanted != rank {
            return Err(format!("has rank {rank}, {CONFIG} says {wanted}"));
        }
        let alpha = alphas.of(&module)?.unwrap_or(alpha);
        let by = if config.use_rslora == Some(true) { (rank as f64).sqrt() } else { rank as f64 };
        Ok((alpha / by) as f32)
    };
    Ok(Found { rewrite, saved, ..found.finish(|field, message| file.error(field, message), scale)? })
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
    let kind = factors.first().map_or_else(AdapterKind::default, |f| f.kind);
    let new = atomic_write::Folder::new(folder, |name| [CONFIG, WEIGHTS, "README.md"].contains(&name))?;
    let targets: BTreeSet<&str> = factors.iter().map(|f| f.linear.target()).collect();
    let ranks: BTreeMap<String, usize> = factors
        .iter()
        .filter(|f| f.rank != about.rank)
        .map(|f| (format!("model.layers.{}.{}", f.layer, f.linear.module()), f.rank))
        .collect();
    let layers: BTreeSet<usize> = factors.iter().map(|f| f.layer).collect();
    let some = layers.len() < shape.layers.len();
    let config = json!({
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
        "alpha_pattern": {},
        "layers_to_transform": if some { json!(layers) } else { Value::Null },
        "bias": "none",
        "fan_in_fan_out": false,
        "use_dora": false,
        "modules_to_save": null,
        "init_lora_weights": true,
    });
    let mut config = config;
    if let (Some(flag), Some(fields)) = (kind.0.flag(), config.as_object_mut()) {
        fields.insert(flag.into(), Value::Bool(true));
    }
    let text = serde_json::to_string_pretty(&config).map_err(|e| Error::Internal(format!("{CONFIG}: {e}")))?;
    let path = new.file(CONFIG);
    atomic_write::file(&path, |out| writeln!(out, "{text}").map_err(|e| Error::io(&path, "cannot write", &e)))?;
    let mut tensors = Vec::with_capacity(2 * factors.len());
    for f in factors {
        let w = shape.layers[f.layer].tensors.need(f.linear)?;
        for spec in kind.0.parts() {
            let name = format!("{PREFIX}{}.{}.{}", f.layer, f.linear.module(), spec.peft);
            let (rows, cols) = spec.dims(f.rank, w.rows, w.cols);
            let dims = if spec.rows == Side::One { vec![cols] } else { vec![rows, cols] };
            tensors.push(Declared { name, ty: BlockType::F32, dims });
        }
    }
    let parts = |(i, f)| kind.0.parts().iter().enumerate().map(move |(part, spec)| (f, (i, part), spec));
    let mut next = factors.iter().enumerate().flat_map(parts);
    let mut head = Vec::new();
    safetensors::write(&new.file(WEIGHTS), &[("format", "pt")], &tensors, |_, put| {
        let Some((f, (i, part), spec)) = next.next() else { return Ok(()) };
        let w = shape.layers[f.layer].tensors.need(f.linear)?;
        let dims = spec.dims(f.rank, w.rows, w.cols);
        let Some(step) = spec.step(f.rank).filter(|_| f.linear.rotates() && shape.interleaved()) else {
            return by_rows(numbers, (i, part), dims, |rows| put(bytemuck::cast_slice(rows)));
        };
        // One head after the other, its outputs in Hugging Face's order.
        let d = shape.layers[f.layer].attention.dim;
        head.resize(d * step, 0.0f32);
        for first in (0..w.rows).step_by(d) {
            let head = &mut head[..d.min(w.rows - first) * step];
            numbers(i, part, first * step, head)?;
            (first..w.rows.min(first + d)).try_for_each(|row| {
                let from = (permute::gguf_row(row, d) - first) * step;
                put(bytemuck::cast_slice(&head[from..from + step]))
            })?;
        }
        Ok(())
    })?;
    new.commit()
}
