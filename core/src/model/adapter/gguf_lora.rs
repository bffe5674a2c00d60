//! Adapters as llama.cpp keeps them: one GGUF file, `general.type = adapter`, `adapter.type = lora`,
//! `blk.N.attn_q.weight.lora_a` with dims `[in, rank]` and `.lora_b` with `[rank, out]`; the scale is α / rank.

use std::path::Path;

use super::modules::{self, Module};
use super::written::{self, Written};
use super::{About, AdapterKind, Collector, Factor, Factors, Found, Numbers, PIECE, Role, check, holds_factors};
use crate::blocks::BlockType;
use crate::error::{Error, Result};
use crate::model::arch;
use crate::model::gguf::{Gguf, GgufWriter};
use crate::shape::ModelShape;

/// The scheme of this layout.
const KIND: &str = "lora";

/// Layer, what lies in the tensor, and part, by a name. Of a model that keeps gate and up in one, `ffn_up` is both unless `apart`.
fn parse(name: &str, modules: &[Module], apart: impl Fn(&str) -> bool) -> Option<(Option<u64>, Vec<Role>, usize)> {
    let (weight, which) = name.rsplit_once('.')?;
    let part = AdapterKind::find(KIND)?.0.parts().iter().position(|p| p.suffix == which)?;
    let Some((layer, rest)) = weight.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) else {
        let module = modules.iter().find(|m| m.outside() && m.gguf == weight)?;
        return Some((None, module.linears.clone(), part));
    };
    let one = || Role::LINEARS.into_iter().find(|role| role.gguf() == rest).map(|role| vec![role]);
    let whole = modules.iter().find(|m| m.linears.len() > 1 && m.gguf == rest && !apart(layer));
    let linears = whole.map(|m| m.linears.clone()).or_else(one)?;
    Some((Some(layer.parse().ok()?), linears, part))
}

/// Reads the header of `file` and holds it against `model`.
pub(super) fn open(file: &Gguf, model: &ModelShape) -> Result<Found> {
    let need = |key: &str, wanted: &str| match file.str(key)? {
        Some(v) if v == wanted => Ok(()),
        Some(v) => Err(file.error(key, format!("is `{}`, `{wanted}` is needed here", v.escape_debug()))),
        None => Err(file.error(key, format!("is missing; an adapter has `{wanted}` there"))),
    };
    need("general.type", "adapter")?;
    need("adapter.type", "lora")?;
    need("general.architecture", arch::of(model)?.gguf_name)?;
    let tokens = "adapter.alora.invocation_tokens";
    if file.entry(tokens).is_some() {
        return Err(
            file.error(tokens, "begins to count at some tokens of a text alone; an adapter here counts everywhere")
        );
    }
    let key = "adapter.lora.alpha";
    let alpha =
        file.f32(key)?.ok_or_else(|| file.error(key, "is missing; the adapter's scale is unknown without it"))?;
    let kind = AdapterKind::find(KIND).unwrap_or_default();
    let modules = modules::of(model)?;
    let apart = |layer: &str| file.tensor(&format!("blk.{layer}.{}.lora_a", Role::Gate.gguf())).is_some();
    let mut found = Collector::new(model, kind);
    for t in file.tensors() {
        let Some((layer, linears, part)) = parse(&t.name, &modules, apart) else {
            return Err(file.error(
                &*t.name,
                "is no factor of a layer's linear (q, k, v, output, gate, up, down), the embedding or the head, and leaving it out would change the results",
            ));
        };
        if !holds_factors(t.ty) {
            return Err(file.error(&*t.name, format!("is {}; factors are f32, f16 or bf16", t.ty)));
        }
        if t.dims().len() != 2 {
            return Err(file.error(&*t.name, format!("has {} dimensions, a factor has 2", t.dims().len())));
        }
        let (rows, cols) = (t.rows as u64, t.cols as u64);
        // llama.cpp looks up rows of the embedding's A, and so keeps it the other way round.
        let (rows, cols) = if linears == [Role::Embedding] && part == 0 { (cols, rows) } else { (rows, cols) };
        let factor = Factor { name: t.name.to_string(), ty: t.ty, rows, cols, first: 0 };
        found.put(layer, &linears, part, &factor).map_err(|m| file.error(&*t.name, m))?;
    }
    // As llama.cpp has it: α of 0 stands for a scale of 1.
    let scale = |rank: usize, _, _| Ok(if alpha == 0.0 { 1.0 } else { alpha / rank as f32 });
    found.finish(|field, message| file.error(field, message), scale)
}

/// Writes an adapter to `path`, whole or not at all; factors in f32, a few rows at a time. The layout has one α, so where scales
/// ask for several, B is multiplied by what is left.
///
/// # Errors
/// [`Error::Io`]; factors that do not fit `shape`; a scheme that this layout has not, or a head that the model has not; what `numbers`
/// returns.
pub fn save(
    path: &Path,
    shape: &ModelShape,
    about: &About,
    factors: &[Factors],
    numbers: &mut Numbers<'_>,
) -> Result<()> {
    check(shape, factors)?;
    let refuse = |why: String| Err(Error::refused("this adapter as GGUF", why));
    if let Some(f) = factors.iter().find(|f| !f.kind.0.gguf()) {
        return refuse(format!("llama.cpp's layout has no {}; save it as PEFT, or merge it", f.kind.0.id()));
    }
    if shape.output.is_none() && factors.iter().any(|f| f.linear == Role::Head) {
        return refuse(
            "llama.cpp has no head apart from the embedding in a model that ties them; save it as PEFT".into(),
        );
    }
    let modules = modules::of(shape)?;
    let list = written::modules(shape, &modules, factors, false)?;
    let mut out = GgufWriter::new(arch::of(shape)?.gguf_name);
    out.str("general.type", "adapter").str("adapter.type", "lora").str("general.name", &about.base);
    // The layout divides α by the rank, so α is what gives the right scale: with rsLoRA another one than PEFT's.
    let alpha = list.first().map_or(about.alpha, |w| w.scale * w.rank as f32);
    let alpha = if alpha == 0.0 { about.alpha } else { alpha };
    out.f32("adapter.lora.alpha", alpha).u32("general.quantization_version", 2);
    let looked_up = |w: &Written<'_>, part: usize| w.module.linears == [Role::Embedding] && part == 0;
    for (w, part, spec) in list.iter().flat_map(Written::parts) {
        let (rows, cols) = w.dims(spec);
        let (rows, cols) = if looked_up(w, part) { (cols, rows) } else { (rows, cols) };
        let name = format!("{}.{}", w.module.full_gguf(w.layer), spec.suffix);
        out.tensor(&name, BlockType::F32, &[cols, rows]);
    }
    let mut next = list.iter().flat_map(Written::parts);
    out.write(path, |_, sink| {
        let Some((w, part, _)) = next.next() else { return Ok(()) };
        if looked_up(w, part) {
            let at = factors.iter().position(|f| f.linear == Role::Embedding).unwrap_or(0);
            return turned(at, (w.rank, shape.vocab), numbers, |rows| sink.put(bytemuck::cast_slice(rows)));
        }
        let by = w.scale * w.rank as f32 / alpha;
        let by = if (by - 1.0).abs() <= 1e-6 { 1.0 } else { by };
        w.put(part, by, numbers, &mut |rows| sink.put(bytemuck::cast_slice(rows)))
    })?;
    Ok(())
}

/// Gives A `(rank, tokens)` of the factors `at` as `(tokens, rank)`, some tokens at a time.
fn turned(
    at: usize,
    (rank, tokens): (usize, usize),
    numbers: &mut Numbers<'_>,
    mut put: impl FnMut(&[f32]) -> Result<()>,
) -> Result<()> {
    let piece = (PIECE / rank.max(1)).clamp(1, tokens.max(1));
    let (mut line, mut room) = (vec![0.0; piece], vec![0.0; piece * rank]);
    for first in (0..tokens).step_by(piece) {
        let n = piece.min(tokens - first);
        for k in 0..rank {
            numbers(at, 0, k * tokens + first, &mut line[..n])?;
            room.iter_mut().skip(k).step_by(rank).zip(&line[..n]).for_each(|(to, from)| *to = *from);
        }
        put(&room[..n * rank])?;
    }
    Ok(())
}
