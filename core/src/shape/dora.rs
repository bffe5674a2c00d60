//! DoRA as files and inference have it (Liu et al., arXiv 2402.09353; PEFT's `lora_magnitude_vector`).

use super::adapter::{AdapterKind, AdapterScheme, PART_A, PART_B, PartSpec, Side};

/// The length of each row of the weight, `(out)`.
pub const MAGNITUDE: PartSpec =
    PartSpec { suffix: "lora_magnitude", peft: "lora_magnitude_vector", rows: Side::One, cols: Side::Out };

/// The scheme.
pub const DORA: AdapterKind = AdapterKind(&Dora);

/// `W' = m ⊙ (W + s·BA) / ‖W + s·BA‖`.
#[derive(Debug)]
pub(super) struct Dora;

impl AdapterScheme for Dora {
    fn id(&self) -> &'static str {
        "dora"
    }

    fn parts(&self) -> &'static [PartSpec] {
        &[PART_A, PART_B, MAGNITUDE]
    }

    fn flag(&self) -> Option<&'static str> {
        Some("use_dora")
    }

    fn gguf(&self) -> bool {
        false
    }

    fn gains(&self) -> Option<usize> {
        Some(2)
    }

    fn gain(&self, magnitude: f32, norm: f32) -> f32 {
        magnitude / norm.max(f32::MIN_POSITIVE)
    }
}
