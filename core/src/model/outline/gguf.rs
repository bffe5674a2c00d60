//! An outline by the header of a GGUF file: kinds of layers are told by the tensors that they have.

use std::collections::BTreeMap;

use super::{Keeps, Known, Outline, Weights};
use crate::error::{Error, Result};
use crate::model::arch::{self, limits};
use crate::model::gguf::{Gguf, Value};

/// The outline of `file`, where its architecture is not run.
pub(super) fn of(file: &Gguf) -> Result<Option<Outline>> {
    // A tokenizer alone, as llama.cpp's tests have them: there is nothing to plan.
    let named = file.str("general.architecture")?.unwrap_or_default();
    let words = file.entry("tokenizer.ggml.tokens").is_some();
    if file.tensors().is_empty() && (words || !named.is_empty() && !arch::has_gguf_name(named)) {
        let why = format!("there are none: it is a vocabulary of the architecture `{}`", named.escape_debug());
        return Err(Error::model(file.path(), "tensors", why));
    }
    let Some(arch) = file.str("general.architecture")?.filter(|name| !arch::has_gguf_name(name)) else {
        return Ok(None);
    };
    let key = |rest: &str| format!("{arch}.{rest}");
    let Some(count) = file.u64(&key("block_count"))?.filter(|n| *n > 0 && *n <= limits::LAYERS) else {
        return Ok(None);
    };
    let (mut bytes, mut types, mut parameters) = (0u64, BTreeMap::new(), 0u64);
    for t in file.tensors() {
        bytes = bytes.saturating_add(t.bytes);
        parameters = parameters.saturating_add((t.rows as u64).saturating_mul(t.cols as u64));
        *types.entry(t.ty.as_str().to_owned()).or_insert(0u64) += t.bytes;
    }
    let of = Header { file, arch };
    let layers = (0..count).map(|l| of.keeps(l as usize)).collect::<Result<Vec<_>>>()?;
    let name = file.str("general.name")?.filter(|n| !n.is_empty()).map_or_else(
        || file.path().file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        |n| n.chars().filter(|c| !c.is_control()).take(128).collect(),
    );
    Ok(Some(Outline {
        name,
        arch: arch.chars().filter(|c| !c.is_control()).take(64).collect(),
        why: why(arch, &layers),
        parameters: Some(parameters),
        weights: Some(Weights { bytes, types, known: Known::Exactly }),
        context: file.u64(&key("context_length"))?.unwrap_or(0),
        layers,
    }))
}

fn why(arch: &str, layers: &[Keeps]) -> String {
    let any = |of: fn(&Keeps) -> bool| layers.iter().any(of);
    if any(|k| matches!(k, Keeps::Latent { .. })) {
        return "latent attention (MLA) is not computed so far".into();
    }
    if any(|k| matches!(k, Keeps::State { .. } | Keeps::Both { .. })) {
        return "a recurrence (a state space, linear attention or a short convolution) is not computed so far".into();
    }
    format!("the architecture `{}` is not computed so far; supported: {}", arch.escape_debug(), arch::gguf_names())
}

struct Header<'a> {
    file: &'a Gguf,
    arch: &'a str,
}

impl Header<'_> {
    /// A number, of the layer where the file has one for each.
    fn number(&self, rest: &str, l: usize) -> Result<Option<u64>> {
        let key = format!("{}.{rest}", self.arch);
        match self.file.entry(&key).map(|e| &e.value) {
            None => Ok(None),
            Some(Value::Array(a)) if a.count <= limits::LAYERS => Ok(self.file.u64s(&key)?.get(l).copied()),
            Some(Value::Array(_)) => Ok(None),
            Some(_) => self.file.u64(&key),
        }
    }

    fn keeps(&self, l: usize) -> Result<Keeps> {
        let tensor = |part: &str| self.file.tensor(&format!("blk.{l}.{part}"));
        // Its rows are the compressed vector and the turned key.
        if let Some(t) = tensor("attn_kv_a_mqa.weight") {
            return Ok(Keeps::Latent { row: t.rows as u64 });
        }
        if let Some(t) = tensor("shortconv.conv.weight") {
            return Ok(Keeps::State { state: (t.cols as u64).saturating_sub(1) * t.rows as u64 });
        }
        let rows = |name| tensor(name).map(|t| t.rows as u64);
        let row = rows("attn_k.weight").zip(rows("attn_v.weight")).map(|(k, v)| k + v);
        if let Some(conv) = tensor("ssm_conv1d.weight") {
            // What the convolution looks back at, and the state of each channel.
            let (inner, state) = (self.number("ssm.inner_size", l)?, self.number("ssm.state_size", l)?);
            let (Some(inner), Some(state)) = (inner, state) else { return Ok(Keeps::Unknown) };
            let state =
                inner.saturating_mul(state).saturating_add((conv.cols as u64).saturating_sub(1) * conv.rows as u64);
            return Ok(row.map_or(Keeps::State { state }, |row| Keeps::Both { row, state }));
        }
        let row = match row {
            Some(row) => row,
            None if tensor("attn_qkv.weight").is_some() => {
                let kv_heads = match self.number("attention.head_count_kv", l)? {
                    Some(n) => Some(n),
                    None => self.number("attention.head_count", l)?,
                };
                let dim = match self.number("attention.key_length", l)? {
                    Some(n) => Some(n),
                    None => self
                        .number("embedding_length", l)?
                        .zip(self.number("attention.head_count", l)?)
                        .and_then(|(e, h)| e.checked_div(h)),
                };
                let Some((kv_heads, dim)) = kv_heads.zip(dim) else { return Ok(Keeps::Unknown) };
                kv_heads.saturating_mul(dim.saturating_mul(2))
            }
            None if tensor("time_mix_w1.weight").is_some() => return Ok(Keeps::Unknown),
            None => return Ok(Keeps::Nothing),
        };
        Ok(match self.window(l)? {
            Some(tokens) => Keeps::Window { row, tokens },
            None => Keeps::Full { row },
        })
    }

    /// The window of a layer, where the file says which have one.
    fn window(&self, l: usize) -> Result<Option<u64>> {
        let Some(window) = self.number("attention.sliding_window", l)?.filter(|n| *n > 0) else { return Ok(None) };
        let key = format!("{}.attention.sliding_window_pattern", self.arch);
        let slides = match self.file.entry(&key).map(|e| &e.value) {
            Some(Value::Array(a)) if a.count <= limits::LAYERS => {
                self.file.bools(&key)?.get(l).copied().unwrap_or(false)
            }
            Some(Value::Array(_)) | None => false,
            Some(_) => self.file.u64(&key)?.is_some_and(|period| period > 0 && !(l as u64 + 1).is_multiple_of(period)),
        };
        Ok(slides.then_some(window))
    }
}
