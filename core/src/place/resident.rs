//! Every weight on the device, from the start.

use std::sync::Arc;

use super::{Loader, Model, Placement, WeightSource, Whole, WholeTags, rows};
use crate::blocks;
use crate::error::{Error, Result};
use crate::ledger::{Ledger, Reservation};
use crate::model::Source;
use crate::ops::ThreadTeam;
use crate::ops::cpu::Mat;
use crate::schema::{About, Entry, ON_ALL, axes};
use crate::shape::ModelShape;
use crate::weights::load;
use crate::weights::units::{LayerView, Unit, UnitLayout};

/// The catalogue entry.
pub static ENTRY: Entry<dyn Placement> = Entry {
    about: About {
        id: "resident",
        title: "In memory",
        common: true,
        sentence: "Every weight is read once and stays on the device.",
        runs_on: ON_ALL,
        ..About::on(&axes::PLACE_WEIGHTS)
    },
    build: |_| Ok(Box::new(Resident)),
};

const TAGS: WholeTags = WholeTags { embedding: rows::EMBEDDING, layers: rows::LAYERS, head: rows::HEAD };

struct Resident;

impl Placement for Resident {
    fn plan(&self, model: Model<'_>, ledger: &Arc<Ledger>, held: &mut Vec<Reservation>) -> Result<()> {
        let scratch = ledger.reserve(load::SCRATCH, model.scratch() as u64)?;
        held.push(ledger.reserve(rows::NORMS, UnitLayout::small(model.held).bytes as u64)?);
        Whole::plan(model, TAGS, ledger, held)?;
        drop(scratch);
        Ok(())
    }

    fn pass_bytes(&self, _model: Model<'_>) -> Vec<(&'static str, u64, u64)> {
        Vec::new()
    }

    fn load(
        &self,
        source: Arc<Source>,
        model: Model<'_>,
        ledger: &Arc<Ledger>,
        team: &ThreadTeam,
        progress: &mut dyn FnMut(f32),
    ) -> Result<Box<dyn WeightSource>> {
        let mut loader = Loader::new(&source, model, ledger, team, progress)?;
        let (small, whole) = (loader.small()?, loader.whole(TAGS)?);
        let offsets = (0..model.held.layers.len()).map(|l| UnitLayout::layer(model.held, l).offsets).collect();
        Ok(Box::new(Loaded { shape: model.held.clone(), small, whole, offsets }))
    }
}

struct Loaded {
    shape: ModelShape,
    small: Unit,
    whole: Whole,
    offsets: Vec<Vec<usize>>,
}

impl WeightSource for Loaded {
    fn layer(&mut self, l: usize) -> Result<LayerView<'_>> {
        let tensors = &self.shape.layers[l].tensors;
        Ok(LayerView { data: self.whole.layers[l].as_slice(), offsets: &self.offsets[l], tensors })
    }

    fn embed(&mut self, ids: &[u32], out: &mut [f32]) -> Result<()> {
        let (t, row) = (&self.shape.embedding, self.shape.embedding.row_bytes());
        for (id, out) in ids.iter().zip(out.chunks_exact_mut(t.cols)) {
            let bytes =
                (*id as usize).checked_mul(row).and_then(|at| self.whole.embedding.as_slice::<u8>().get(at..at + row));
            let bytes =
                bytes.ok_or_else(|| Error::Internal(format!("token {id} is not in the vocabulary of {}", t.rows)))?;
            blocks::decode(t.ty, bytes, out).map_err(|e| Error::refused("this model", format!("{}: {e}", t.name)))?;
        }
        Ok(())
    }

    fn output_norm(&self) -> &[f32] {
        self.small.vector(0, &self.shape.output_norm)
    }

    fn rope_freqs(&self) -> Option<&[f32]> {
        self.shape.rope_freqs.as_ref().map(|t| self.small.vector(1, t))
    }

    fn head_pieces(&self) -> usize {
        1
    }

    fn head(&mut self, _i: usize) -> Result<(usize, Mat<'_>)> {
        let t = self.shape.head();
        Ok((0, Mat::new(t.ty, t.rows, t.cols, self.whole.head())?))
    }
}
