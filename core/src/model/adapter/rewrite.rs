//! Adapters that were learned beside a changed base: PiSSA (Meng et al., arXiv 2404.02948) and OLoRA (Büyükakyüz, arXiv
//! 2406.01775).
//!
//! Both take `s·B₀A₀` from every weight W that they adapt and learn from B₀ and A₀ on; what is saved goes with `W − s·B₀A₀`. Over W
//! itself it is `s·BA − s·B₀A₀`: a second adapter of the same rank. It is W seen through r directions of its outputs: `s·B₀A₀ = UUᵀW` of
//! the first r left singular vectors (PiSSA), or `B₀A₀ = UUᵀW` of what the first r columns of W span (OLoRA, whose QR gives these).
//! Nothing of it depends on the signs that a library gives its vectors.

use std::collections::BTreeMap;
use std::path::Path;

use nalgebra::{DMatrix, SymmetricEigen};

use super::{AdapterFile, Role, holds_factors, modules};
use crate::blocks;
use crate::error::{Error, Result};
use crate::ledger::alloc::{Scope, scoped};
use crate::model::Source;
use crate::shape::{ModelShape, TensorShape};

/// Longest smaller side of a matrix whose singular vectors are looked for: minutes a matrix beyond.
const LONGEST: usize = 2048;

/// How the base was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rewrite {
    /// By the largest singular values.
    Pissa,
    /// By a QR decomposition.
    Olora,
}

impl Rewrite {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Pissa => "pissa",
            Self::Olora => "olora",
        }
    }
}

impl AdapterFile {
    /// Opens `path` for a model whose numbers are in `source`: as [`Self::open`], and what was learned beside a changed base becomes the
    /// same over this one.
    ///
    /// # Errors
    /// As [`Self::open`]; [`Error::Refused`] for a quantized base, whose weights are not those that were changed, or matrices too
    /// large; reading them.
    pub fn open_over(path: &Path, source: &Source, model: &ModelShape, scale: f32) -> Result<Self> {
        scoped(Scope::Program, || Self::read_header(path, model, scale)?.over(source, model, scale))
    }

    fn over(self, source: &Source, model: &ModelShape, weight: f32) -> Result<Self> {
        let Some(rewrite) = self.rewrite else { return Ok(self) };
        self.refuse_saved(&self.path)?;
        let what = || format!("{} (init_lora_weights = {})", self.path.display(), rewrite.name());
        if matches!(source, Source::Random { .. }) {
            return Err(Error::refused(what(), "it was learned beside a trained base, and this one is random"));
        }
        let modules = modules::of(model)?;
        let mut layers = Vec::with_capacity(model.layers.len());
        for (l, low) in self.shape.layers.iter().enumerate() {
            let mut made = BTreeMap::new();
            for (linear, low) in low {
                // PEFT leaves embeddings as they are.
                if *linear == Role::Embedding {
                    continue;
                }
                let alone = modules::holding(&modules, *linear).is_some_and(|m| m.linears.len() == 1);
                if !alone || *linear == Role::Head && model.output.is_none() {
                    let why = format!(
                        "{} is one weight with another's, and what was taken from it changed both",
                        linear.target()
                    );
                    return Err(Error::refused(what(), why + "; merge it with PEFT"));
                }
                let w =
                    &model.linear(l, *linear).ok_or_else(|| Error::Internal(format!("no {linear:?} in layer {l}")))?;
                if !holds_factors(w.block()?) {
                    let why = format!("{} is {}, and it changed the weights before they were quantized", w.name, w.ty);
                    return Err(Error::refused(
                        what(),
                        why + "; use the base in f32, f16 or bf16, or save it with PEFT's path_initial_model_for_weight_conversion",
                    ));
                }
                let small = w.rows.min(w.cols);
                if rewrite == Rewrite::Pissa && small > LONGEST {
                    let why = format!("singular vectors of {} are looked for up to {LONGEST} rows or columns", w.name);
                    return Err(Error::refused(what(), why));
                }
                let all = weights(source, w)?;
                let directions = match rewrite {
                    Rewrite::Pissa => singular(&all, low.rank.min(small)),
                    Rewrite::Olora => spanned(&all, low.rank.min(small)),
                };
                // (r, in) and (out, r): UᵀW and U.
                let a = directions.transpose() * &all;
                let rank = directions.ncols();
                let a: Vec<f32> =
                    a.row_iter().flat_map(|row| row.iter().map(|v| *v as f32).collect::<Vec<_>>()).collect();
                let rows = directions.row_iter();
                let b: Vec<f32> = rows.flat_map(|row| row.iter().map(|v| *v as f32).collect::<Vec<_>>()).collect();
                // PiSSA's first factors are without the scale, OLoRA's are scaled as those learned since.
                let scale = match rewrite {
                    Rewrite::Pissa => weight,
                    Rewrite::Olora => low.scale,
                };
                made.insert(*linear, ([a, b], rank, -scale));
            }
            layers.push(made);
        }
        Self::sum(vec![self, Self::made(layers)], model)
    }
}

/// A weight, `(out, in)`.
fn weights(source: &Source, w: &TensorShape) -> Result<DMatrix<f64>> {
    let mut raw = vec![0; w.row_bytes()];
    let mut wide = vec![0.0f32; w.cols];
    let mut out = DMatrix::zeros(w.rows, w.cols);
    for row in 0..w.rows {
        source.read_rows(w, row, 1, &mut raw)?;
        blocks::decode(w.block()?, &raw, &mut wide).map_err(|e| Error::Internal(format!("{}: {e}", w.name)))?;
        wide.iter().enumerate().for_each(|(col, v)| out[(row, col)] = f64::from(*v));
    }
    Ok(out)
}

/// The left singular vectors of the `r` largest singular values.
fn singular(w: &DMatrix<f64>, r: usize) -> DMatrix<f64> {
    let tall = w.nrows() > w.ncols();
    let gram = if tall { w.transpose() * w } else { w * w.transpose() };
    let eigen = SymmetricEigen::new(gram);
    let mut order: Vec<usize> = (0..eigen.eigenvalues.len()).collect();
    order.sort_by(|a, b| eigen.eigenvalues[*b].total_cmp(&eigen.eigenvalues[*a]));
    let chosen: Vec<_> = order.into_iter().take(r).map(|i| eigen.eigenvectors.column(i).into_owned()).collect();
    let vectors = DMatrix::from_columns(&chosen);
    // Of a tall matrix they are those on the right: W V is U times the singular values.
    if tall { spanned(&(w * vectors), r) } else { vectors }
}

/// Directions, orthonormal, that span the first `r` columns.
fn spanned(w: &DMatrix<f64>, r: usize) -> DMatrix<f64> {
    w.columns(0, r.min(w.ncols())).into_owned().qr().q()
}
