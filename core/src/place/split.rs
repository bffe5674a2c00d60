//! Some layers on the device, the rest beside it (llama.cpp's `--n-gpu-layers`; weights-and-offload.md §5.1).
//!
//! The last layers are on the device: the head counts as one more layer after the last, and goes first. The embedding stays on
//! the host, but where it is the head as well: one tensor has one home. Nothing moves: every layer is computed where it lies,
//! which on a CPU is the same memory under two accounts.

use std::sync::Arc;

use super::{Content, Loaded, Model, Part, Placement, WeightSource, rows};
use crate::error::Result;
use crate::ledger::{Category, Ledger, Tag};
use crate::model::Source;
use crate::ops::ThreadTeam;
use crate::schema::{About, Default, Entry, Knob, KnobKind, axes};
use crate::shape::ModelShape;

/// The catalogue entry.
pub static ENTRY: Entry<dyn Placement> = Entry {
    about: About {
        id: "split",
        title: "Split by layer",
        paper: "llama.cpp, n_gpu_layers",
        sentence: "The last layers are held on the device, the others in RAM beside it, each computed where it lies.",
        knobs: &[Knob {
            id: "device_layers",
            label: "Layers on the device",
            paper_name: "n_gpu_layers",
            kind: KnobKind::Int { min: 0, max: 1024 },
            default: Default::Int(16),
            unit: "layers",
            sentence: "How many, counted from the end; the output head is the first of them.",
        }],
        ..About::on(&axes::PLACE_WEIGHTS)
    },
    build: |knobs| Ok(Box::new(Split { device: knobs.int("device_layers") })),
};

const LAYERS: Tag = Tag::host(Category::Weights, "layers");
const EMBEDDING: Tag = Tag::host(Category::Weights, "embedding");
const HEAD: Tag = Tag::host(Category::Weights, "output head");

struct Split {
    /// Layers on the device, the head among them.
    device: usize,
}

impl Split {
    /// The ledger row of a buffer of a model of `layers` layers, whose head is its embedding where `tied`.
    fn tag(&self, layers: usize, tied: bool, content: Content) -> Tag {
        // As llama.cpp has it: of `layers + 1` the last `device` ones.
        let first = (layers + 1).saturating_sub(self.device);
        match content {
            Content::Layer(l) if l >= first => rows::LAYERS,
            Content::Layer(_) => LAYERS,
            Content::Head if self.device > 0 => rows::HEAD,
            Content::Head => HEAD,
            Content::Embedding if tied && self.device > 0 => rows::EMBEDDING,
            Content::Embedding => EMBEDDING,
            Content::Small | Content::Passing => rows::NORMS,
        }
    }
}

impl Placement for Split {
    fn parts(&self, held: &ModelShape) -> Result<Vec<Part>> {
        let (layers, tied) = (held.layers.len(), held.output.is_none());
        let small = Part::of(held, rows::NORMS, Content::Small);
        let whole = Part::whole(held, |content| self.tag(layers, tied, content));
        Ok(std::iter::once(small).chain(whole).collect())
    }

    fn pass_bytes(&self, _: Model<'_>) -> Vec<(&'static str, u64, u64)> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::Tier;
    use crate::model::random;

    #[test]
    fn the_head_goes_first_the_count_is_exact_and_every_byte_has_one_home() {
        for (name, tied) in [("smollm2-135m@q4_1", true), ("llama-1b@q4_k", true), ("llama-8b@q8_0", false)] {
            let shape = random::shape(&random::parse(&format!("random:{name}")).unwrap().unwrap()).unwrap();
            assert_eq!(shape.output.is_none(), tied, "{name}");
            let layers = shape.layers.len();
            for device in [0, 1, 2, layers, layers + 1, 1024] {
                let parts = Split { device }.parts(&shape).unwrap();
                let resident = super::super::resident::parts(&shape);
                assert_eq!(parts.len(), resident.len());
                assert!(parts.iter().zip(&resident).all(|(a, b)| (a.content, a.bytes) == (b.content, b.bytes)));
                let on = |content: Content| parts.iter().any(|p| p.content == content && p.tag.tier == Tier::Device);
                let held = (0..layers).filter(|l| on(Content::Layer(*l))).count();
                assert_eq!(held, device.saturating_sub(1).min(layers), "{name} {device}");
                assert!((0..held).all(|i| on(Content::Layer(layers - 1 - i))), "the last ones");
                let head = if tied { Content::Embedding } else { Content::Head };
                assert_eq!(on(head), device > 0);
                assert!(tied || !on(Content::Embedding), "input rows are looked up on the host");
            }
        }
    }
}
