//! Several adapters as one: `W + Σ sᵢ·BᵢAᵢ` is `W + B'A'` with the rows of every A below each other and the columns of every
//! `sᵢ·Bᵢ` beside each other.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::modules::OUTSIDE;
use super::{AdapterFile, AdapterKind, AdapterShape, LowRank, MOST_RANK, Role, Store};
use crate::blocks::BlockType;
use crate::bytes::hex;
use crate::error::{Error, Result};
use crate::shape::{MOST_PARTS, ModelShape};

const PART_A: usize = 0;
const PART_B: usize = 1;

/// The factors of a linear of `parts`, one after the other, and their rank in all.
fn ranks(parts: &[AdapterFile], layer: usize, linear: Role) -> (Vec<(&AdapterFile, LowRank)>, usize) {
    let of = |p: &'_ AdapterFile| p.shape.layers.get(layer).and_then(|l| l.get(&linear)).copied();
    let each: Vec<_> = parts.iter().filter_map(|p| Some((p, of(p)?))).collect();
    let rank = each.iter().map(|(_, low)| low.rank).sum();
    (each, rank)
}

impl AdapterFile {
    /// `parts` side by side over `model`, each with its own scale; held in f32.
    ///
    /// # Errors
    /// [`Error::Refused`] for a scheme that is no sum, or more rank than is possible.
    pub(crate) fn sum(parts: Vec<Self>, model: &ModelShape) -> Result<Self> {
        let refuse =
            |p: &Self, why: String| Err(Error::refused(format!("{} beside another adapter", p.path.display()), why));
        for part in &parts {
            if parts.len() > 1 {
                part.refuse_saved(&part.path)?;
            }
            if let Some(kind) = part.shape.gains() {
                let kind = kind.0.id();
                return refuse(
                    part,
                    format!("{kind} multiplies what the weights and it make together, and is no sum; merge it first"),
                );
            }
        }
        let mut hash = Sha256::new();
        parts.iter().for_each(|p| hash.update(&p.hash));
        let mut layers = Vec::with_capacity(model.layers.len());
        for layer in 0..=model.layers.len() {
            let mut low = BTreeMap::new();
            for linear in Role::LINEARS.into_iter().chain(OUTSIDE) {
                let (each, rank) = ranks(&parts, layer, linear);
                let Some((first, _)) = each.first() else { continue };
                if rank > MOST_RANK {
                    let name = linear.target();
                    return refuse(
                        first,
                        format!("{name} of layer {layer} would have rank {rank}; at most {MOST_RANK} is possible"),
                    );
                }
                let (kind, types) = (AdapterKind::default(), [BlockType::F32; MOST_PARTS]);
                low.insert(linear, LowRank { kind, rank, scale: 1.0, strength: 1.0, types });
            }
            layers.push(low);
        }
        Ok(Self {
            path: parts.first().map(|p| p.path.clone()).unwrap_or_default(),
            shape: AdapterShape { layers },
            hash: hex(&hash.finalize()),
            head_dims: Vec::new(),
            turned: false,
            places: Vec::new(),
            rewrite: None,
            saved: Vec::new(),
            store: Store::Sum(parts),
        })
    }

    /// A and B in memory, in GGUF's order, each linear's with a scale.
    pub(super) fn made(layers: Vec<BTreeMap<Role, ([Vec<f32>; 2], usize, f32)>>) -> Self {
        let types = [BlockType::F32; MOST_PARTS];
        let low = |(_, rank, scale): &([Vec<f32>; 2], usize, f32)| LowRank {
            kind: AdapterKind::default(),
            rank: *rank,
            scale: *scale,
            strength: 1.0,
            types,
        };
        let shape = layers.iter().map(|l| l.iter().map(|(role, made)| (*role, low(made))).collect()).collect();
        let factors = layers.into_iter().map(|l| l.into_iter().map(|(role, (made, ..))| (role, made)).collect());
        Self {
            path: std::path::PathBuf::new(),
            shape: AdapterShape { layers: shape },
            hash: String::new(),
            head_dims: Vec::new(),
            turned: false,
            places: Vec::new(),
            rewrite: None,
            saved: Vec::new(),
            store: Store::Made(factors.collect()),
        }
    }

    /// Reads elements `from ..` of a part of what is no file of its own, as many as `out` has; they begin a row.
    pub(super) fn read_sum(&self, layer: usize, linear: Role, part: usize, from: usize, out: &mut [f32]) -> Result<()> {
        let gone = || Error::Internal(format!("{linear:?} of layer {layer} is not adapted"));
        let parts = match &self.store {
            Store::Sum(parts) => parts,
            Store::Made(made) => {
                let factors = made.get(layer).and_then(|l| l.get(&linear)).and_then(|f| f.get(part));
                let numbers = factors.and_then(|f| f.get(from..from + out.len())).ok_or_else(gone)?;
                out.copy_from_slice(numbers);
                return Ok(());
            }
            Store::Peft(_) | Store::Gguf(_) => return Err(gone()),
        };
        let (each, rank) = ranks(parts, layer, linear);
        if rank == 0 {
            return Err(gone());
        }
        match part {
            PART_A => {
                // Rows of each after those of the one before; a row is as long as the linear has inputs.
                let (mut before, mut from, mut out) = (0, from, out);
                let cols = parts.iter().find_map(|p| p.inputs(layer, linear)).ok_or_else(gone)?;
                for (file, low) in each {
                    let all = before + low.rank * cols;
                    let n = all.saturating_sub(from).min(out.len());
                    let (now, rest) = out.split_at_mut(n);
                    if n > 0 {
                        file.read_f32(layer, linear, PART_A, from - before, now)?;
                    }
                    (before, from, out) = (all, from + n, rest);
                }
                Ok(())
            }
            PART_B => {
                let (first, n) = (from / rank, out.len() / rank);
                let (mut at, mut piece) = (0, Vec::new());
                for (file, low) in each {
                    piece.resize(n * low.rank, 0.0);
                    file.read_f32(layer, linear, PART_B, first * low.rank, &mut piece)?;
                    for (row, from) in out.chunks_exact_mut(rank).zip(piece.chunks_exact(low.rank)) {
                        row[at..at + low.rank].iter_mut().zip(from).for_each(|(to, b)| *to = low.scale * b);
                    }
                    at += low.rank;
                }
                Ok(())
            }
            _ => Err(gone()),
        }
    }

    /// Inputs of an adapted linear, from the length of its A.
    fn inputs(&self, layer: usize, linear: Role) -> Option<usize> {
        let rank = self.shape.layers.get(layer)?.get(&linear)?.rank;
        let elements = match &self.store {
            Store::Sum(parts) => return parts.iter().find_map(|p| p.inputs(layer, linear)),
            Store::Made(made) => made.get(layer)?.get(&linear)?[PART_A].len(),
            Store::Gguf(file) => file.tensor(self.a(layer, linear)?).map(|t| t.rows * t.cols)?,
            Store::Peft(file) => file.tensor(self.a(layer, linear)?)?.dims.iter().map(|d| *d as usize).product(),
        };
        Some(elements / rank.max(1))
    }

    /// The name of a linear's A.
    fn a(&self, layer: usize, linear: Role) -> Option<&str> {
        Some(&self.places.get(layer)?.get(&linear)?.get(PART_A)?.as_ref()?.name)
    }
}
