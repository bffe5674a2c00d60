//! An adapter in memory, beside the weights it changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::Result;
use crate::ledger::{Buffer, Ledger, Reservation};
use crate::model::adapter::{AdapterFile, LowRank, Part, Role};
use crate::ops::ThreadTeam;
use crate::ops::cpu::{Mat, Product, linear_add, linear_many};
use crate::place::rows;
use crate::shape::{ModelShape, TensorShape};
use crate::weights::units::UnitLayout;

/// Linears that read the same activations, and so go through A and B together.
const GROUPS: [&[Role]; 4] = [&[Role::Q, Role::K, Role::V], &[Role::O], &[Role::Gate, Role::Up], &[Role::Down]];

/// One layer's factors.
struct Layer {
    buffer: Buffer,
    offsets: Vec<usize>,
    /// A and B of each adapted linear, in order; the linear's factors are at `offsets[2 i]` and `offsets[2 i + 1]`.
    parts: Vec<(Role, LowRank, [TensorShape; 2])>,
}

impl Layer {
    fn mat(&self, i: usize, part: Part) -> Result<Mat<'_>> {
        let (t, at) = (&self.parts[i].2[part as usize], self.offsets[2 * i + part as usize]);
        Mat::new(t.ty, t.rows, t.cols, &self.buffer.as_slice::<u8>()[at..at + t.bytes() as usize])
    }
}

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

/// Where the factors of a layer lie in its buffer: A, then B, of each.
pub(crate) fn layout(parts: &[(Role, LowRank, [TensorShape; 2])]) -> UnitLayout {
    UnitLayout::new(parts.iter().flat_map(|(_, _, ab)| ab))
}

/// Reserves on `ledger` what [`Held::load`] will hold, in its order.
///
/// # Errors
/// Over budget, where `ledger` has walls.
pub fn plan(shape: &ModelShape, ledger: &Arc<Ledger>, held: &mut Vec<Reservation>) -> Result<()> {
    let Some(adapter) = &shape.adapter else { return Ok(()) };
    for l in 0..adapter.layers.len() {
        held.push(ledger.reserve(rows::ADAPTER, layout(&adapter.tensors(shape, l)).bytes as u64)?);
    }
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
    /// Reads `file` into memory.
    ///
    /// # Errors
    /// Over budget; a file that was removed or shortened.
    pub fn load(file: &AdapterFile, shape: &ModelShape, ledger: &Arc<Ledger>) -> Result<Self> {
        let mut layers = Vec::with_capacity(shape.layers.len());
        for l in 0..file.shape.layers.len() {
            let parts = file.shape.tensors(shape, l);
            let UnitLayout { offsets, bytes } = layout(&parts);
            let mut buffer = ledger.buffer(rows::ADAPTER, bytes)?;
            for (i, (linear, _, ab)) in parts.iter().enumerate() {
                for part in [Part::A, Part::B] {
                    let (t, at) = (&ab[part as usize], offsets[2 * i + part as usize]);
                    file.read(l, *linear, part, &mut buffer.as_mut_slice::<u8>()[at..at + t.bytes() as usize])?;
                    ledger.moved("disk read", t.bytes());
                }
            }
            layers.push(Layer { buffer, offsets, parts });
        }
        Ok(Self { layers })
    }

    /// Adds scale · B(Ax) to what linears of layer `l` made of `x`, `(m, in)`. `low` is scratch for Ax, of
    /// [`low_elements`]; `scratch` is that of the linears themselves.
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
            products.push(Product { w: layer.mat(at, Part::A)?, y: h, ldy: rank });
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
            linear_add(team, h, m, layer.mat(at, Part::B)?, y, scratch)?;
            rest = after;
        }
        Ok(())
    }
}
