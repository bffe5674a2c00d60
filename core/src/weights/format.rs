//! weights.format: as the file has them, or requantized block by block while loading.

use crate::blocks::BlockType;
use crate::error::{Error, Result};
use crate::schema::{About, Entry, Knobs, ON_ALL, axes};
use crate::shape::{Kind, ModelShape, Role, TensorShape};

/// What the weights of a model become in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// As in the file.
    Original,
    /// Matrices requantized to this type; vectors stay f32.
    Block(BlockType),
}

static ORIGINAL: Entry<Target> = Entry {
    about: About {
        id: "original",
        title: "As in the file",
        common: true,
        paper: "the model file",
        sentence: "Weights are held as the file stores them.",
        runs_on: ON_ALL,
        ..About::on(&axes::WEIGHTS_FORMAT)
    },
    build: |_| Ok(Box::new(Target::Original)),
};

macro_rules! formats {
    ($($name:ident = $ty:ident $id:literal $common:literal $paper:literal $sentence:literal;)+) => {
        $(static $name: Entry<Target> = Entry {
            about: About {
                id: $id,
                title: $id,
                common: $common,
                paper: $paper,
                sentence: $sentence,
                runs_on: ON_ALL,
                ..About::on(&axes::WEIGHTS_FORMAT)
            },
            build: |_| Ok(Box::new(Target::Block(BlockType::$ty))),
        };)+
        /// The variants.
        pub const ENTRIES: &[&Entry<Target>] = &[&ORIGINAL, $(&$name),+];
    };
}

formats! {
    Q8_0 = Q8_0 "q8_0" true "ggml" "8-bit integers with one scale for 32 weights: 8.5 bits a weight, near lossless.";
    Q6_K = Q6K "q6_k" true "ggml k-quants" "6-bit integers with 8-bit scales in super-blocks of 256: 6.56 bits a weight.";
    Q5_K = Q5K "q5_k" false "ggml k-quants" "5-bit integers with 6-bit scales and minima in super-blocks of 256: 5.5 bits a weight.";
    Q5_1 = Q5_1 "q5_1" false "ggml" "5-bit integers with scale and minimum for 32 weights: 6 bits a weight.";
    Q5_0 = Q5_0 "q5_0" false "ggml" "5-bit integers with one scale for 32 weights: 5.5 bits a weight.";
    Q4_K = Q4K "q4_k" true "ggml k-quants" "4-bit integers with 6-bit scales and minima in super-blocks of 256: 4.5 bits a weight.";
    Q4_1 = Q4_1 "q4_1" false "ggml" "4-bit integers with scale and minimum for 32 weights: 5 bits a weight.";
    Q4_0 = Q4_0 "q4_0" true "ggml" "4-bit integers with one scale for 32 weights: 4.5 bits a weight.";
    IQ4_NL = Iq4Nl "iq4_nl" false "ggml" "4-bit codes into 16 uneven levels with one scale for 32 weights: 4.5 bits a weight.";
    MXFP4 = Mxfp4 "mxfp4" false "OCP Microscaling formats" "4-bit floats with one power-of-two scale for 32 weights: 4.25 bits a weight.";
    Q3_K = Q3K "q3_k" false "ggml k-quants" "3-bit integers with 6-bit scales in super-blocks of 256: 3.44 bits a weight.";
    Q2_K = Q2K "q2_k" false "ggml k-quants" "2-bit integers with 4-bit scales and minima in super-blocks of 256: 2.63 bits a weight.";
    F16 = F16 "f16" true "IEEE 754 binary16" "Two bytes a weight.";
    BF16 = Bf16 "bf16" false "bfloat16" "Two bytes a weight, with the range of f32 and 8 bits of precision.";
    F32 = F32 "f32" false "IEEE 754 binary32" "Four bytes a weight; what other formats decode to, held decoded.";
}

impl Entry<Target> {
    /// The type that matrices become; `None` for weights as they are in the file.
    pub fn block(&self) -> Option<BlockType> {
        self.settle(self.axis.key, &Knobs::default())
            .and_then(|knobs| (self.build)(&knobs))
            .ok()
            .and_then(|t| t.block())
    }
}

impl Target {
    /// The type that matrices become; `None` for weights as they are in the file.
    pub fn block(self) -> Option<BlockType> {
        match self {
            Self::Original => None,
            Self::Block(ty) => Some(ty),
        }
    }

    /// The shape as it will be in memory. Vectors (norms, rope divisors) are always held as f32.
    ///
    /// # Errors
    /// A tensor whose rows are not whole blocks of the target, named with what its width allows.
    pub fn apply(self, shape: &ModelShape) -> Result<ModelShape> {
        let mut out = shape.clone();
        let matrix = |t: &mut TensorShape| -> Result<()> {
            let Self::Block(ty) = self else { return Ok(()) };
            if !t.cols.is_multiple_of(ty.elems()) {
                let allowed: Vec<_> = ENTRIES
                    .iter()
                    .filter(|e| e.block().is_some_and(|b| t.cols.is_multiple_of(b.elems())))
                    .map(|e| e.id)
                    .collect();
                return Err(Error::refused(
                    format!("weights.format = {ty}"),
                    format!(
                        "`{ty}` stores blocks of {} weights, and rows of {} have {}; this model's widths allow: {}",
                        ty.elems(),
                        t.name,
                        t.cols,
                        allowed.join(", ")
                    ),
                ));
            }
            t.ty = ty;
            Ok(())
        };
        matrix(&mut out.embedding)?;
        if let Some(head) = &mut out.output {
            matrix(head)?;
        }
        out.output_norm.ty = BlockType::F32;
        if let Some(freqs) = &mut out.rope_freqs {
            freqs.ty = BlockType::F32;
        }
        for (role, t) in out.layers.iter_mut().flat_map(|l| l.tensors.roles_mut()) {
            match role.kind() {
                Kind::Vector => t.ty = BlockType::F32,
                // A router decides which experts compute at all, and is too small to matter.
                Kind::Matrix if role == Role::Router => {}
                Kind::Matrix | Kind::Stack => matrix(t)?,
            }
        }
        Ok(out)
    }
}
