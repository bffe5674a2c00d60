//! Every tensor learns.

use super::{Delta, Params, Role};
use crate::catalog::{self, Axis, Entry, with_all};

/// The catalogue entry.
pub static ENTRY: Entry = Entry {
    id: "full",
    title: "All weights",
    common: true,
    axis: Axis::TrainParams,
    paper: "the plain choice",
    sentence: "Every weight learns; a quantized model is trained as a copy in the type of train.dtype.",
    knobs: &[],
    composes: with_all,
    role: catalog::Role::TrainParams(|_| Ok(Box::new(Full))),
};

struct Full;

impl Params for Full {
    fn learns(&self, _: Role) -> bool {
        true
    }

    fn delta(&self, _: Role) -> Option<Box<dyn Delta>> {
        None
    }
}
