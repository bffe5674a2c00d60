//! ggml block types: names, ids, sizes; decoding and encoding lives in this folder.

pub mod codebook;
mod codec;
mod grids;
pub mod iq;
pub mod k;
pub mod k_encode;
mod lanes;
pub mod legacy;
pub mod plain;
mod scheme;
pub mod split;
mod synthetic;
pub mod ternary;

use std::fmt;

pub use codec::{CodecError, can_decode, can_encode, decode, encode};
pub use scheme::{Packed, Scheme};
use serde::{Deserialize, Serialize};
pub use synthetic::{place_scales, synthetic};

macro_rules! types {
    ($($variant:ident $text:literal id $id:literal elems $elems:literal bytes $bytes:literal;)+) => {
        /// How the elements of a tensor row are stored. Rows are whole blocks of `elems` elements in `bytes` bytes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum BlockType {
            $(#[doc = $text] #[serde(rename = $text)] $variant,)+
        }

        impl BlockType {
            /// Every type, in order of ggml id.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// From ggml's numeric id in a GGUF file.
            pub const fn from_id(id: u32) -> Option<Self> {
                match id { $($id => Some(Self::$variant),)+ _ => None }
            }

            /// ggml's numeric id.
            pub const fn id(self) -> u32 {
                match self { $(Self::$variant => $id),+ }
            }

            /// The name used in TOML and on screen, such as `q4_0`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// Elements of one block.
            pub const fn elems(self) -> usize {
                match self { $(Self::$variant => $elems),+ }
            }

            /// Bytes of one block.
            pub const fn block_bytes(self) -> usize {
                match self { $(Self::$variant => $bytes),+ }
            }
        }
    };
}

types! {
    F32 "f32" id 0 elems 1 bytes 4;
    F16 "f16" id 1 elems 1 bytes 2;
    Q4_0 "q4_0" id 2 elems 32 bytes 18;
    Q4_1 "q4_1" id 3 elems 32 bytes 20;
    Q5_0 "q5_0" id 6 elems 32 bytes 22;
    Q5_1 "q5_1" id 7 elems 32 bytes 24;
    Q8_0 "q8_0" id 8 elems 32 bytes 34;
    Q8_1 "q8_1" id 9 elems 32 bytes 36;
    Q2K "q2_k" id 10 elems 256 bytes 84;
    Q3K "q3_k" id 11 elems 256 bytes 110;
    Q4K "q4_k" id 12 elems 256 bytes 144;
    Q5K "q5_k" id 13 elems 256 bytes 176;
    Q6K "q6_k" id 14 elems 256 bytes 210;
    Q8K "q8_k" id 15 elems 256 bytes 292;
    Iq2Xxs "iq2_xxs" id 16 elems 256 bytes 66;
    Iq2Xs "iq2_xs" id 17 elems 256 bytes 74;
    Iq3Xxs "iq3_xxs" id 18 elems 256 bytes 98;
    Iq1S "iq1_s" id 19 elems 256 bytes 50;
    Iq4Nl "iq4_nl" id 20 elems 32 bytes 18;
    Iq3S "iq3_s" id 21 elems 256 bytes 110;
    Iq2S "iq2_s" id 22 elems 256 bytes 82;
    Iq4Xs "iq4_xs" id 23 elems 256 bytes 136;
    I8 "i8" id 24 elems 1 bytes 1;
    I16 "i16" id 25 elems 1 bytes 2;
    I32 "i32" id 26 elems 1 bytes 4;
    I64 "i64" id 27 elems 1 bytes 8;
    F64 "f64" id 28 elems 1 bytes 8;
    Iq1M "iq1_m" id 29 elems 256 bytes 56;
    Bf16 "bf16" id 30 elems 1 bytes 2;
    Tq1_0 "tq1_0" id 34 elems 256 bytes 54;
    Tq2_0 "tq2_0" id 35 elems 256 bytes 66;
    Mxfp4 "mxfp4" id 39 elems 32 bytes 17;
}

/// Blocks are of a power of two elements.
const _: () = {
    let mut i = 0;
    while i < BlockType::ALL.len() {
        assert!(BlockType::ALL[i].elems().is_power_of_two());
        i += 1;
    }
};

impl BlockType {
    /// From the name used in TOML, such as `q4_0`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|t| t.as_str() == name)
    }

    /// Bytes of a row of `elems` elements, or `None` when the row is not whole blocks or the product overflows.
    pub const fn row_bytes(self, elems: usize) -> Option<usize> {
        if elems & (self.elems() - 1) != 0 {
            return None;
        }
        self.blocks(elems).checked_mul(self.block_bytes())
    }

    /// Whole blocks of `elems` elements: a shift, for it is asked of every product and every task of one.
    pub const fn blocks(self, elems: usize) -> usize {
        elems >> self.elems().trailing_zeros()
    }

    /// Bits an element costs, scales included.
    pub fn bits(self) -> f64 {
        8.0 * self.block_bytes() as f64 / self.elems() as f64
    }
}

impl fmt::Display for BlockType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
