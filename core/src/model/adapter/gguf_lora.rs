//! Adapters as llama.cpp keeps them: one GGUF file, `general.type = adapter`, `adapter.type = lora`,
//! `blk.N.attn_q.weight.lora_a` with dims `[in, rank]` and `.lora_b` with `[rank, out]`; the scale is α / rank.

use std::path::Path;

use super::{About, AdapterKind, Collector, Factor, Factors, Found, Numbers, Role, by_rows, check, holds_factors};
use crate::blocks::BlockType;
use crate::error::{Error, Result};
use crate::model::arch;
use crate::model::gguf::{Gguf, GgufWriter};
use crate::shape::ModelShape;

/// The scheme of this layout.
const KIND: &str = "lora";

fn parse(name: &str, kind: AdapterKind) -> Option<(u64, Role, usize)> {
    let rest = name.strip_prefix("blk.")?;
    let (layer, rest) = rest.split_once('.')?;
    let (rest, which) = rest.rsplit_once('.')?;
    let part = kind.0.parts().iter().position(|p| p.suffix == which)?;
    let linear = Role::LINEARS.into_iter().find(|l| l.gguf() == rest)?;
    Some((layer.parse().ok()?, linear, part))
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
    let mut found = Collector::new(model, kind);
    for t in file.tensors() {
        let Some((layer, linear, part)) = parse(&t.name, kind) else {
            return Err(file.error(
                &*t.name,
                "is no factor of a layer's linear (q, k, v, output, gate, up, down), and leaving it out would change the results",
            ));
        };
        if !holds_factors(t.ty) {
            return Err(file.error(&*t.name, format!("is {}; factors are f32, f16 or bf16", t.ty)));
        }
        if t.dims().len() != 2 {
            return Err(file.error(&*t.name, format!("has {} dimensions, a factor has 2", t.dims().len())));
        }
        let factor = Factor { name: t.name.to_string(), ty: t.ty, rows: t.rows as u64, cols: t.cols as u64 };
        found.put(layer, linear, part, factor).map_err(|m| file.error(&*t.name, m))?;
    }
    // As llama.cpp has it: α of 0 stands for a scale of 1.
    let scale = |rank: usize, _, _| Ok(if alpha == 0.0 { 1.0 } else { alpha / rank as f32 });
    found.finish(|field, message| file.error(field, message), scale)
}

/// Writes an adapter to `path`, whole or not at all; factors in f32, a few rows at a time.
///
/// # Errors
/// [`Error::Io`]; factors that do not fit `shape`; an adapter without a rank or with different ranks and rsLoRA scales,
/// which this layout cannot express; what `numbers` returns.
pub fn save(
    path: &Path,
    shape: &ModelShape,
    about: &About,
    factors: &[Factors],
    numbers: &mut Numbers<'_>,
) -> Result<()> {
    check(shape, factors)?;
    if let Some(f) = factors.iter().find(|f| !f.kind.0.gguf()) {
        return Err(Error::refused(
            "this adapter as GGUF",
            format!("llama.cpp's layout has no {}; save it as PEFT, or merge it", f.kind.0.id()),
        ));
    }
    // The layout divides α by the rank, so α is what gives the right scale: with rsLoRA another one than PEFT's.
    let alphas = factors.iter().map(|f| about.scale(f.rank) * f.rank as f32);
    let alpha = alphas.clone().next().unwrap_or(about.alpha);
    if let Some(other) = alphas.clone().find(|a| (a - alpha).abs() > 1e-6 * alpha.abs()) {
        return Err(Error::refused(
            "this adapter as GGUF",
            format!(
                "its linears have different ranks under rsLoRA, so it has no one α ({alpha} and {other}); save it as PEFT"
            ),
        ));
    }
    let mut out = GgufWriter::new(arch::of(shape)?.gguf_name);
    out.str("general.type", "adapter").str("adapter.type", "lora").str("general.name", &about.base);
    out.f32("adapter.lora.alpha", alpha).u32("general.quantization_version", 2);
    let mut parts = Vec::with_capacity(2 * factors.len());
    for (i, f) in factors.iter().enumerate() {
        let w = shape.layers[f.layer].tensors.need(f.linear)?;
        for (part, spec) in f.kind.0.parts().iter().enumerate() {
            let (rows, cols) = spec.dims(f.rank, w.rows, w.cols);
            let name = format!("blk.{}.{}.{}", f.layer, f.linear.gguf(), spec.suffix);
            out.tensor(&name, BlockType::F32, &[cols, rows]);
            parts.push(((i, part), (rows, cols)));
        }
    }
    let mut next = parts.into_iter();
    out.write(path, |_, sink| {
        let Some((which, dims)) = next.next() else { return Ok(()) };
        by_rows(numbers, which, dims, |rows| sink.put(bytemuck::cast_slice(rows)))
    })?;
    Ok(())
}
