//! Matrices that some files keep as one, cut into those that a layer has: rows of one after rows of the other, so that a part of
//! the payload is one of them. `attn_qkv` holds q, k and v; `ffn_up` without a gate beside it, and twice as high, gate and up.

use std::collections::BTreeMap;

use super::{Gguf, TensorInfo, Value};

impl TensorInfo {
    /// Rows `first .. first + rows` as a tensor of this name.
    fn part(&self, name: String, first: u64, rows: u64) -> Self {
        let row = self.bytes / (self.rows as u64).max(1);
        Self {
            name: name.into(),
            ty: self.ty,
            dims: [self.dims[0], rows, 1, 1],
            n_dims: 2,
            rows: rows as usize,
            cols: self.cols,
            offset: self.offset + first * row,
            bytes: rows * row,
        }
    }
}

/// The parts of every tensor of `file` that is to be cut, by the whole one's name. Metadata that makes no sense cuts nothing:
/// whoever reads the model says what is wrong with it.
pub(super) fn parts(file: &Gguf) -> BTreeMap<Box<str>, Vec<TensorInfo>> {
    let mut out = BTreeMap::new();
    let Ok(Some(prefix)) = file.str("general.architecture") else { return out };
    let number = |rest: &str, layer: usize| -> Option<u64> {
        let key = format!("{prefix}.{rest}");
        match file.entry(&key).map(|e| &e.value)? {
            Value::Array(_) => file.u64s(&key).ok()?.get(layer).copied(),
            _ => file.u64(&key).ok()?,
        }
    };
    for whole in file.tensors.iter().filter(|t| t.n_dims == 2) {
        let Some((layer, part)) = whole.name.strip_prefix("blk.").and_then(|n| n.split_once('.')) else { continue };
        let Ok(l) = layer.parse::<usize>() else { continue };
        let rows = whole.rows as u64;
        let sizes: Option<Vec<(&str, u64)>> = match part {
            "attn_qkv.weight" => number("attention.head_count", l).and_then(|heads| {
                let kv = number("attention.head_count_kv", l).unwrap_or(heads);
                let dim =
                    number("attention.key_length", l).or_else(|| number("embedding_length", l)?.checked_div(heads))?;
                let (q, kv) = (heads.checked_mul(dim)?, kv.checked_mul(dim)?);
                Some(vec![("attn_q.weight", q), ("attn_k.weight", kv), ("attn_v.weight", kv)])
            }),
            "ffn_up.weight" if file.tensor(&format!("blk.{layer}.ffn_gate.weight")).is_none() => {
                number("feed_forward_length", l).map(|ff| vec![("ffn_gate.weight", ff), ("ffn_up.weight", ff)])
            }
            _ => None,
        };
        let Some(sizes) = sizes else { continue };
        let all = sizes.iter().try_fold(0u64, |sum, (_, n)| sum.checked_add(*n));
        if all != Some(rows) || sizes.iter().any(|(_, n)| *n == 0) {
            continue;
        }
        let mut first = 0;
        let mut cut = Vec::with_capacity(sizes.len());
        for (name, n) in sizes {
            cut.push(whole.part(format!("blk.{layer}.{name}"), first, n));
            first += n;
        }
        out.insert(whole.name.clone(), cut);
    }
    out
}
