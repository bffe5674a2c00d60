//! An adapter in memory, beside the weights it changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::Result;
use crate::ledger::{Buffer, Ledger, Reservation};
use crate::model::adapter::{AdapterFile, LowRank, Role};
use crate::ops::ThreadTeam;
use crate::ops::cpu::vjp::{Low, row_norms, row_norms_scratch};
use crate::ops::cpu::{Mat, Product, linear_add, linear_many};
use crate::place::{WeightSource, rows};
use crate::shape::{ModelShape, TensorShape};
use crate::weights::load;
use crate::weights::units::UnitLayout;

/// Linears that read the same activations, and so go through A and B together.
const GROUPS: [&[Role]; 6] = [
    &[Role::Q, Role::K, Role::V],
    &[Role::O],
    &[Role::Gate, Role::Up],
    &[Role::Down],
    &[Role::Embedding],
    &[Role::Head],
];

/// One layer's factors, or those of what is outside the layers.
struct Layer {
    buffer: Buffer,
    offsets: Vec<usize>,
    /// The tensors of each adapted linear, in the order of `offsets`.
    parts: Vec<Parts>,
}

/// An adapted linear, and its tensors.
pub(crate) type Parts = (Role, LowRank, Vec<TensorShape>);

impl Layer {
    /// Where part `part` of the `i`th linear lies.
    fn place(&self, i: usize, part: usize) -> std::ops::Range<usize> {
        let before: usize = self.parts[..i].iter().map(|(.., parts)| parts.len()).sum();
        let at = self.offsets[before + part];
        at..at + self.parts[i].2[part].bytes() as usize
    }

    fn mat(&self, i: usize, part: usize) -> Result<Mat<'_>> {
        let t = &self.parts[i].2[part];
        Mat::new(t.ty, t.rows, t.cols, &self.buffer.as_slice::<u8>()[self.place(i, part)])
    }

    /// The gains of the `i`th linear's rows, if it has any.
    fn gains(&self, i: usize) -> Option<&[f32]> {
        let part = self.parts[i].1.kind.0.gains()?;
        Some(bytemuck::cast_slice(&self.buffer.as_slice::<u8>()[self.place(i, part)]))
    }

    /// Puts the gains of the `i`th linear, over the base `w`, where the part that they are made of was read to; where the file `has` none,
    /// it is the base's own lengths.
    fn make_gains(&mut self, i: usize, w: Mat<'_>, has: bool, team: &ThreadTeam, scratch: &mut [f32]) -> Result<()> {
        let low = self.parts[i].1;
        let Some(part) = low.kind.0.gains() else { return Ok(()) };
        let (norms, scratch) = scratch.split_at_mut(w.rows());
        if !has {
            row_norms(team, w, None, norms, scratch)?;
            let place = self.place(i, part);
            let own: &mut [f32] = bytemuck::cast_slice_mut(&mut self.buffer.as_mut_slice::<u8>()[place]);
            own.copy_from_slice(norms);
        }
        let beside = Low { a: self.mat(i, PART_A)?, b: self.mat(i, PART_B)?, scale: low.scale };
        row_norms(team, w, Some(beside), norms, scratch)?;
        let place = self.place(i, part);
        let gains: &mut [f32] = bytemuck::cast_slice_mut(&mut self.buffer.as_mut_slice::<u8>()[place]);
        for (gain, norm) in gains.iter_mut().zip(norms) {
            *gain = 1.0 + low.strength * (low.kind.0.gain(*gain, *norm) - 1.0);
        }
        Ok(())
    }
}

/// Numbers of the parts that every scheme has.
const PART_A: usize = 0;
const PART_B: usize = 1;

/// A loaded adapter: one buffer a layer, counted as weights on the device, wherever the model's own weights are.
pub struct Held {
    layers: Vec<Layer>,
}

/// What a linear wrote, to be added to.
#[derive(Debug)]
pub struct Output<'a> {
    /// Whose product it is.
    pub linear: Role,
    /// `(m, out)`.
    pub y: &'a mut [f32],
}

/// Where the tensors of a layer lie in its buffer.
pub(crate) fn layout(parts: &[Parts]) -> UnitLayout {
    UnitLayout::new(parts.iter().flat_map(|(_, _, parts)| parts))
}

/// Bytes of scratch while gains are made: norms, and what computing them takes; 0 where no linear has gains.
fn gain_scratch(shape: &ModelShape, threads: usize) -> usize {
    let layers = shape.adapter.iter().flat_map(|a| (0..a.layers.len()).flat_map(|l| a.tensors(shape, l)));
    let one = |(_, low, parts): Parts| {
        low.kind.0.gains()?;
        Some(parts[PART_B].rows + row_norms_scratch(threads, parts[PART_A].cols, low.rank))
    };
    4 * layers.filter_map(one).max().unwrap_or(0)
}

/// Reserves on `ledger` what [`Held::load`] will hold, in its order.
///
/// # Errors
/// Over budget, where `ledger` has walls.
pub fn plan(shape: &ModelShape, threads: usize, ledger: &Arc<Ledger>, held: &mut Vec<Reservation>) -> Result<()> {
    let Some(adapter) = &shape.adapter else { return Ok(()) };
    for l in 0..adapter.layers.len() {
        held.push(ledger.reserve(rows::ADAPTER, layout(&adapter.tensors(shape, l)).bytes as u64)?);
    }
    ledger.reserve(load::SCRATCH, gain_scratch(shape, threads) as u64)?;
    Ok(())
}

/// Elements of Ax for `m` rows of activations: the most that one group of linears has.
pub(crate) fn low_elements(shape: &ModelShape, m: usize) -> usize {
    let ranks = |layer: &BTreeMap<Role, LowRank>, group: &[Role]| -> usize {
        group.iter().filter_map(|l| layer.get(l)).map(|l| l.rank).sum()
    };
    let layers = shape.adapter.iter().flat_map(|a| &a.layers);
    m * layers.flat_map(|layer| GROUPS.iter().map(move |g| ranks(layer, g))).max().unwrap_or(0)
}

impl Held {
    /// Reads `file` into memory; gains of rows are made from the weights they are over.
    ///
    /// # Errors
    /// Over budget; a file that was removed or shortened; what reading the weights meets.
    pub fn load(
        file: &AdapterFile,
        shape: &ModelShape,
        weights: &mut dyn WeightSource,
        ledger: &Arc<Ledger>,
        team: &ThreadTeam,
    ) -> Result<Self> {
        let mut layers = Vec::with_capacity(shape.layers.len());
        for l in 0..file.shape.layers.len() {
            let parts = file.shape.tensors(shape, l);
            let UnitLayout { offsets, bytes } = layout(&parts);
            let mut buffer = ledger.buffer(rows::ADAPTER, bytes)?;
            let mut at = offsets.iter();
            for (linear, low, tensors) in &parts {
                for ((part, t), at) in tensors.iter().enumerate().zip(&mut at) {
                    let into = &mut buffer.as_mut_slice::<u8>()[*at..*at + t.bytes() as usize];
                    if !file.has(l, *linear, part) {
                        continue;
                    }
                    if low.kind.0.gains() == Some(part) {
                        file.read_f32(l, *linear, part, 0, bytemuck::cast_slice_mut(into))?;
                    } else {
                        file.read(l, *linear, part, into)?;
                    }
                    ledger.moved("disk read", t.bytes());
                }
            }
            layers.push(Layer { buffer, offsets, parts });
        }
        let scratch = gain_scratch(shape, team.threads());
        if scratch > 0 {
            let mut scratch = ledger.buffer(load::SCRATCH, scratch)?;
            for (l, layer) in layers.iter_mut().enumerate() {
                for i in 0..layer.parts.len() {
                    let (role, low, _) = layer.parts[i];
                    // No linear outside the layers has gains.
                    if let Some(part) = low.kind.0.gains() {
                        let has = file.has(l, role, part);
                        layer.make_gains(i, weights.layer(l)?.mat(role)?, has, team, scratch.as_mut_slice())?;
                    }
                }
            }
        }
        Ok(Self { layers })
    }

    /// Adds scale · B·a to rows of the embedding, `x (m, hidden)`, where a are the columns of A of `ids`; `low` and `scratch` as in
    /// [`Self::add`].
    ///
    /// # Errors
    /// As [`Self::add`].
    pub fn embed(
        &self,
        team: &ThreadTeam,
        ids: &[u32],
        x: &mut [f32],
        low: &mut [f32],
        scratch: &mut [f32],
    ) -> Result<()> {
        let Some(layer) = self.layers.last() else { return Ok(()) };
        let Some(at) = layer.parts.iter().position(|(role, ..)| *role == Role::Embedding) else { return Ok(()) };
        let LowRank { rank, scale, .. } = layer.parts[at].1;
        let a = layer.mat(at, PART_A)?;
        let h = &mut low[..ids.len() * rank];
        for (h, id) in h.chunks_exact_mut(rank).zip(ids) {
            for (k, h) in h.iter_mut().enumerate() {
                a.decode(k, *id as usize, std::slice::from_mut(h))?;
                *h *= scale;
            }
        }
        linear_add(team, h, ids.len(), layer.mat(at, PART_B)?, x, scratch)
    }

    /// Adds scale · B(Ax) to what linears of layer `l` (the number of layers for the head) made of `x`, `(m, in)`, and multiplies the sum by the gains of its rows
    /// where they have any. `low` is scratch for Ax, of [`low_elements`]; `scratch` is that of the linears themselves.
    ///
    /// # Errors
    /// [`crate::Error::Cancelled`]; [`crate::Error::Internal`] when a slice is too short.
    pub fn add(
        &self,
        team: &ThreadTeam,
        l: usize,
        x: &[f32],
        m: usize,
        outputs: &mut [Output<'_>],
        low: &mut [f32],
        scratch: &mut [f32],
    ) -> Result<()> {
        let Some(layer) = self.layers.get(l) else { return Ok(()) };
        let adapted = |linear: Role| layer.parts.iter().position(|(l, ..)| *l == linear);
        // Ax of each, side by side.
        let mut products = Vec::with_capacity(outputs.len());
        let mut rest = &mut *low;
        for at in outputs.iter().filter_map(|o| adapted(o.linear)) {
            let rank = layer.parts[at].1.rank;
            let (h, after) = rest.split_at_mut(m * rank);
            products.push(Product { w: layer.mat(at, PART_A)?, y: h, ldy: rank });
            rest = after;
        }
        if products.is_empty() {
            return Ok(());
        }
        linear_many(team, x, m, &mut products, scratch)?;
        drop(products);
        let mut rest = low;
        for Output { linear, y } in outputs {
            let Some(at) = adapted(*linear) else { continue };
            let LowRank { rank, scale, .. } = layer.parts[at].1;
            let (h, after) = rest.split_at_mut(m * rank);
            h.iter_mut().for_each(|v| *v *= scale);
            linear_add(team, h, m, layer.mat(at, PART_B)?, y, scratch)?;
            rest = after;
            if let Some(gains) = layer.gains(at) {
                for row in y.chunks_exact_mut(gains.len()).take(m) {
                    row.iter_mut().zip(gains).for_each(|(y, gain)| *y *= gain);
                }
            }
        }
        Ok(())
    }
}
