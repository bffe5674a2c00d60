//! Every weight on the device, from the start.

use std::sync::Arc;

use super::{Content, Loaded, Model, Part, Placement, WeightSource, rows};
use crate::error::Result;
use crate::ledger::Ledger;
use crate::model::Source;
use crate::ops::ThreadTeam;
use crate::schema::{About, Entry, ON_ALL, axes};
use crate::shape::ModelShape;

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

struct Resident;

/// The buffers of a model that is on the device from the start.
pub(super) fn parts(held: &ModelShape) -> Vec<Part> {
    let small = Part::of(held, rows::NORMS, Content::Small);
    let whole = Part::whole(held, |content| match content {
        Content::Embedding => rows::EMBEDDING,
        Content::Head => rows::HEAD,
        _ => rows::LAYERS,
    });
    std::iter::once(small).chain(whole).collect()
}

impl Placement for Resident {
    fn parts(&self, held: &ModelShape) -> Result<Vec<Part>> {
        Ok(parts(held))
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
        Loaded::load(&self.parts(model.held)?, &source, model, ledger, team, progress)
    }
}
