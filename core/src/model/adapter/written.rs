//! What is written of an adapter: modules, of whose linears some have factors of their own.
//!
//! Several linears in one module have one A and one B there: the rows of every A below each other, and each B in the rows of its own
//! outputs and the columns of its own A, which computes the same.

use super::modules::{self, Module};
use super::{AdapterKind, Factors, Numbers, PIECE, by_rows, permute};
use crate::error::{Error, Result};
use crate::shape::{ModelShape, PartSpec, Side};

/// A linear of a module.
#[derive(Debug)]
struct Member {
    outputs: usize,
    /// Which of the factors are its own, their rank, and what their B is multiplied by; none where it has none.
    own: Option<(usize, usize, f32)>,
    /// Elements of a head, where its rows are written in another order than they lie.
    turned: Option<usize>,
}

/// A module that is written.
#[derive(Debug)]
pub(super) struct Written<'a> {
    pub layer: usize,
    pub module: &'a Module,
    pub kind: AdapterKind,
    /// Rows of A.
    pub rank: usize,
    /// What B(Ax) is multiplied by.
    pub scale: f32,
    /// Outputs and inputs.
    dims: (usize, usize),
    members: Vec<Member>,
}

/// The modules that `factors` are of, in order; `turned` where rows of queries and keys are written as Hugging Face has them.
///
/// # Errors
/// [`Error::Internal`] for what `shape` has not; [`Error::Refused`] for what a module cannot say.
pub(super) fn modules<'a>(
    shape: &ModelShape,
    all: &'a [Module],
    factors: &[Factors],
    turned: bool,
) -> Result<Vec<Written<'a>>> {
    let mut out: Vec<Written<'_>> = Vec::new();
    for f in factors {
        let wrong = || Error::Internal(format!("{:?} of layer {} is in no module", f.linear, f.layer));
        let module = modules::holding(all, f.linear).ok_or_else(wrong)?;
        if out.iter().any(|w| w.layer == f.layer && w.module == module) {
            continue;
        }
        let (mut members, mut rank, mut outputs, mut inputs) = (Vec::new(), 0, 0, 0);
        for linear in &module.linears {
            let w = shape.linear(f.layer, *linear).ok_or_else(wrong)?;
            let at = factors.iter().position(|o| o.layer == f.layer && o.linear == *linear);
            let own = at.map(|i| (i, factors[i].rank, factors[i].scale / f.scale));
            let own = own.map(|(i, rank, by)| (i, rank, if by.is_finite() { by } else { 1.0 }));
            if own.is_none() && f.kind.0.gains().is_some() {
                return Err(Error::refused(
                    format!("writing {} of layer {}", module.name, f.layer),
                    format!("{} of all of its linears or of none can be said; merge it instead", f.kind.0.id()),
                ));
            }
            let dim = shape.layers.get(f.layer).map(|l| l.attention.dim);
            members.push(Member {
                outputs: w.rows,
                own,
                turned: dim.filter(|_| turned && linear.rotates() && shape.interleaved()),
            });
            (rank, outputs, inputs) = (rank + own.map_or(0, |(_, r, _)| r), outputs + w.rows, w.cols);
        }
        let dims = (outputs, inputs);
        out.push(Written { layer: f.layer, module, kind: f.kind, rank, scale: f.scale, dims, members });
    }
    Ok(out)
}

impl Written<'_> {
    /// Its parts, in order, with their numbers.
    pub fn parts(&self) -> impl Iterator<Item = (&Self, usize, &'static PartSpec)> {
        self.kind.0.parts().iter().enumerate().map(move |(part, spec)| (self, part, spec))
    }

    /// Rows and columns of a part.
    pub fn dims(&self, spec: &PartSpec) -> (usize, usize) {
        spec.dims(self.rank, self.dims.0, self.dims.1)
    }

    /// Gives all rows of a part, a few at a time; B times `by`.
    ///
    /// # Errors
    /// What `numbers` and `put` return.
    pub fn put(
        &self,
        part: usize,
        by: f32,
        numbers: &mut Numbers<'_>,
        put: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        let Some(spec) = self.kind.0.parts().get(part) else { return Ok(()) };
        if spec.step(self.rank).is_none() {
            let own = self.members.iter().filter_map(|m| m.own);
            return own.into_iter().try_for_each(|(i, rank, _)| {
                by_rows(numbers, (i, part), spec.dims(rank, self.dims.0, self.dims.1), &mut *put)
            });
        }
        let ranks = spec.cols == Side::Rank;
        let mut before = 0;
        for member in &self.members {
            member.put(part, by, (before, self.rank), ranks, numbers, put)?;
            before += member.own.map_or(0, |(_, rank, _)| rank);
        }
        Ok(())
    }
}

impl Member {
    /// Gives the shares of its outputs: rows of B among columns of other linears' ranks, of which `before` are in front and `rank` are
    /// all, or single numbers.
    fn put(
        &self,
        part: usize,
        by: f32,
        (before, rank): (usize, usize),
        ranks: bool,
        numbers: &mut Numbers<'_>,
        put: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        let wide = if ranks { rank } else { 1 };
        let own = if ranks { self.own.map_or(0, |(_, rank, _)| rank) } else { 1 };
        let by = if ranks { self.own.map_or(1.0, |(.., own)| own * by) } else { 1.0 };
        // One head after the other where rows change places.
        let each = self.turned.unwrap_or((PIECE / wide.max(1)).max(1));
        let (mut room, mut row) = (vec![0.0; each * own], vec![0.0; wide]);
        for first in (0..self.outputs).step_by(each) {
            let n = each.min(self.outputs - first);
            let room = &mut room[..n * own];
            if let Some((i, ..)) = self.own {
                numbers(i, part, first * own, room)?;
            }
            for at in 0..n {
                let from = self.turned.map_or(at, |d| permute::gguf_row(first + at, d) - first);
                let share = &room[from * own..(from + 1) * own];
                if ranks {
                    let to = row[before..before + own].iter_mut().zip(share);
                    to.for_each(|(to, b)| *to = if by == 1.0 { *b } else { by * b });
                    put(&row)?;
                } else {
                    put(share)?;
                }
            }
        }
        Ok(())
    }
}
