//! Every tensor learns.

use super::{Adapted, Params, Role};
use crate::schema::{About, Entry, ON_ALL, axes};

/// The catalogue entry.
pub static ENTRY: Entry<dyn Params> = Entry {
    about: About {
        id: "full",
        title: "All weights",
        common: true,
        sentence: "Every weight learns; a quantized model is trained as a copy in the type of train.dtype.",
        runs_on: ON_ALL,
        ..About::on(&axes::TRAIN_PARAMS)
    },
    build: |_| Ok(Box::new(Full)),
};

struct Full;

impl Params for Full {
    fn learns(&self, _: Role) -> bool {
        true
    }

    fn adapt(&self, _: Role) -> Option<Box<dyn Adapted>> {
        None
    }
}
