//! Payloads of arbitrary codes with finite scales: what kernels are timed and tested with, in types that nothing encodes too.

use half::f16;

use super::BlockType;

/// `elems` elements, whole blocks: codes from a counter, scales of about a hundredth; `None` where they are not whole blocks.
pub fn synthetic(ty: BlockType, elems: usize, seed: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![0u8; ty.row_bytes(elems)?];
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&next().to_le_bytes()[..chunk.len()]);
    }
    for block in bytes.chunks_exact_mut(ty.block_bytes()) {
        // In −1..1.
        let unit = (next() >> 40) as f32 / (1 << 23) as f32 - 1.0;
        match ty {
            BlockType::F32 => block.copy_from_slice(&unit.to_le_bytes()),
            BlockType::F16 => block.copy_from_slice(&f16::from_f32(unit).to_le_bytes()),
            BlockType::Bf16 => block.copy_from_slice(&half::bf16::from_f32(unit).to_le_bytes()),
            BlockType::F64 => block.copy_from_slice(&f64::from(unit).to_le_bytes()),
            _ => place_scales(ty, block, unit * 0.01, unit * -0.07),
        }
    }
    Some(bytes)
}

/// Puts a scale, and the minimum of types that have one, where a block of `ty` keeps them. Of mxfp4, whose scales are powers of two,
/// the one below.
pub fn place_scales(ty: BlockType, block: &mut [u8], scale: f32, min: f32) {
    let mut put = |at: usize, x: f32| block[at..at + 2].copy_from_slice(&f16::from_f32(x).to_le_bytes());
    match ty {
        BlockType::F32 | BlockType::F16 | BlockType::Bf16 | BlockType::F64 => {}
        BlockType::I8 | BlockType::I16 | BlockType::I32 | BlockType::I64 => {}
        BlockType::Q4_1 | BlockType::Q5_1 | BlockType::Q4K | BlockType::Q5K => {
            put(0, scale);
            put(2, min);
        }
        BlockType::Q2K => {
            put(80, scale);
            put(82, min);
        }
        BlockType::Q3K => put(108, scale),
        BlockType::Q6K => put(208, scale),
        BlockType::Q8K => block[..4].copy_from_slice(&scale.to_le_bytes()),
        BlockType::Tq1_0 => put(52, scale),
        BlockType::Tq2_0 => put(64, scale),
        BlockType::Mxfp4 => block[0] = (scale.to_bits() >> 23) as u8 + 1,
        BlockType::Iq1M => {
            let bits = f16::from_f32(scale).to_bits();
            for k in 0..4 {
                let word = block[49 + 2 * k] & 15 | ((bits >> (4 * k) & 15) << 4) as u8;
                block[49 + 2 * k] = word;
            }
        }
        _ => put(0, scale),
    }
}
