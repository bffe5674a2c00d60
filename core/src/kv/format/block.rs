//! ggml block types as cache formats (kv.md §5.1): plain floats, and blocks of 32 channels of one row with their scale.

use crate::blocks::{self, BlockType};
use crate::kv::Format;
use crate::ops::cpu;
use crate::schema::{About, Entry, ON_ALL, ON_CPU, axes};

macro_rules! formats {
    ($($name:ident = $ty:ident $id:literal $common:literal $runs:ident $paper:literal $sentence:literal;)+) => {
        $(pub(super) static $name: Entry<dyn Format> = Entry {
            about: About {
                id: $id,
                title: $id,
                common: $common,
                paper: $paper,
                sentence: $sentence,
                runs_on: $runs,
                ..About::on(&axes::KV_FORMAT)
            },
            build: |_| Ok(Box::new(Block(BlockType::$ty))),
        };)+
    };
}

formats! {
    F16 = F16 "f16" true ON_ALL "IEEE 754 binary16" "Two bytes an element; the usual cache.";
    F32 = F32 "f32" false ON_ALL "IEEE 754 binary32" "Four bytes an element; nothing is lost.";
    BF16 = Bf16 "bf16" false ON_ALL "bfloat16" "Two bytes an element, with the range of f32 and 8 bits of precision.";
    Q8_0 = Q8_0 "q8_0" true ON_ALL "ggml, llama.cpp cache types" "8-bit integers with one f16 scale for 32 channels: 8.5 bits an element.";
    Q5_1 = Q5_1 "q5_1" false ON_CPU "ggml, llama.cpp cache types" "5-bit integers with scale and minimum for 32 channels: 6 bits an element.";
    Q5_0 = Q5_0 "q5_0" false ON_CPU "ggml, llama.cpp cache types" "5-bit integers with one f16 scale for 32 channels: 5.5 bits an element.";
    Q4_1 = Q4_1 "q4_1" false ON_CPU "ggml, llama.cpp cache types" "4-bit integers with scale and minimum for 32 channels: 5 bits an element.";
    Q4_0 = Q4_0 "q4_0" true ON_ALL "ggml, llama.cpp cache types" "4-bit integers with one f16 scale for 32 channels: 4.5 bits an element.";
    IQ4_NL = Iq4Nl "iq4_nl" false ON_CPU "ggml, llama.cpp cache types" "4-bit codes into 16 uneven levels with one f16 scale for 32 channels: 4.5 bits an element.";
}

struct Block(BlockType);

impl Format for Block {
    fn row_bytes(&self, d: usize) -> Result<usize, String> {
        self.0.row_bytes(d).ok_or_else(|| {
            format!("`{}` keeps channels in blocks of {}, and a head of this model has {d}", self.0, self.0.elems())
        })
    }

    fn bits(&self) -> f64 {
        self.0.bits()
    }

    fn encode(&self, x: &[f32], out: &mut [u8]) {
        // Rows are whole blocks and the type encodes: `row_bytes` and the catalogue saw to both.
        let done = blocks::encode(self.0, x, out);
        debug_assert!(done.is_ok());
    }

    fn decode(&self, bytes: &[u8], out: &mut [f32]) {
        let done = cpu::decode_rows(self.0, bytes, out);
        debug_assert!(done.is_ok());
    }
}
