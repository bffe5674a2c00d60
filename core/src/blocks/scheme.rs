//! How a matrix of weights is stored: rows of ggml blocks, or a payload with a layout of its own.
//!
//! A [`Scheme`] is a small handle that shapes, matrices and buffers carry. Every [`BlockType`] is one; a format that is
//! no sequence of equal blocks implements [`Packed`] and is one too, with its knobs settled.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::BlockType;

/// A storage format of matrices `(rows, cols)` that is not rows of equal blocks: it may keep statistics of many rows
/// apart from their codes.
///
/// Its payload begins with what each row writes for itself, one row after the other, and ends with what is known only
/// once all rows were seen ([`Packed::seal`]). Elements are numbered row after row.
pub trait Packed: Send + Sync + 'static {
    /// Its id with the knobs that differ from the defaults, such as `nf4` or `nf4(block_size=128)`: equal names are
    /// equal schemes.
    fn name(&self) -> &str;

    /// Columns come in multiples of this.
    fn unit(&self) -> usize;

    /// Bits an element costs, its share of all statistics included, in a large matrix.
    fn bits(&self) -> f64;

    /// Payload bytes of a matrix `(rows, cols)`; `None` where columns are not whole units, or the product overflows.
    fn bytes(&self, rows: usize, cols: usize) -> Option<usize>;

    /// Bytes that one row of `cols` elements writes in [`Self::encode`]: in the payload, and beside it until the matrix is sealed.
    fn row(&self, cols: usize) -> (usize, usize);

    /// Encodes whole rows `x (n, cols)` into their part of the payload and of what is kept beside it. Called for
    /// disjoint rows by several threads.
    fn encode(&self, cols: usize, x: &[f32], payload: &mut [u8], beside: &mut [u8]);

    /// Writes the rest of the payload once every row is encoded.
    fn seal(&self, rows: usize, cols: usize, payload: &mut [u8], beside: &[u8]);

    /// Decodes elements `at..at + out.len()` of a payload of `(rows, cols)`; `at` and the length are multiples of 32.
    fn decode(&self, rows: usize, cols: usize, payload: &[u8], at: usize, out: &mut [f32]);
}

/// How a matrix is stored.
#[derive(Clone, Copy)]
pub enum Scheme {
    /// Rows of whole blocks, as in a GGUF file.
    Block(BlockType),
    /// A payload of its own layout.
    Packed(&'static dyn Packed),
}

/// Every packed scheme that was made: one for each setting of the knobs that was ever chosen.
static MADE: Mutex<Vec<&'static dyn Packed>> = Mutex::new(Vec::new());

impl Scheme {
    /// The handle of `scheme`; the same one for equal names.
    pub fn packed(scheme: impl Packed) -> Self {
        let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
        let known = made.iter().copied().find(|s| s.name() == scheme.name());
        Self::Packed(known.unwrap_or_else(|| {
            let kept: &'static dyn Packed = Box::leak(Box::new(scheme));
            made.push(kept);
            kept
        }))
    }

    /// The block type, where it is one.
    pub const fn block(self) -> Option<BlockType> {
        match self {
            Self::Block(ty) => Some(ty),
            Self::Packed(_) => None,
        }
    }

    /// Payload bytes of a matrix `(rows, cols)`; `None` where its columns are not whole units, or the product overflows.
    pub fn bytes(self, rows: usize, cols: usize) -> Option<usize> {
        match self {
            Self::Block(ty) => ty.row_bytes(cols)?.checked_mul(rows),
            Self::Packed(scheme) => scheme.bytes(rows, cols),
        }
    }

    /// Bits an element costs, scales included.
    pub fn bits(self) -> f64 {
        match self {
            Self::Block(ty) => ty.bits(),
            Self::Packed(scheme) => scheme.bits(),
        }
    }

    /// Columns come in multiples of this.
    pub fn unit(self) -> usize {
        match self {
            Self::Block(ty) => ty.elems(),
            Self::Packed(scheme) => scheme.unit(),
        }
    }

    /// Its name, such as `q4_0`.
    pub fn name(&self) -> &str {
        match self {
            Self::Block(ty) => ty.as_str(),
            Self::Packed(scheme) => scheme.name(),
        }
    }
}

impl From<BlockType> for Scheme {
    fn from(ty: BlockType) -> Self {
        Self::Block(ty)
    }
}

impl PartialEq for Scheme {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Block(a), Self::Block(b)) => a == b,
            (Self::Packed(a), Self::Packed(b)) => a.name() == b.name(),
            _ => false,
        }
    }
}

impl Eq for Scheme {}

impl PartialEq<BlockType> for Scheme {
    fn eq(&self, other: &BlockType) -> bool {
        self.block() == Some(*other)
    }
}

impl PartialOrd for Scheme {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheme {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let key = |s: &Self| s.block().map_or(u32::MAX, BlockType::id);
        key(self).cmp(&key(other)).then_with(|| self.name().cmp(other.name()))
    }
}

impl fmt::Debug for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Serialize for Scheme {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Scheme {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let name = String::deserialize(d)?;
        let made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
        let packed = || made.iter().copied().find(|s| s.name() == name).map(Self::Packed);
        BlockType::from_name(&name)
            .map(Self::Block)
            .or_else(packed)
            .ok_or_else(|| serde::de::Error::custom(format!("`{name}` is no format of weights")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_type_is_a_scheme_of_its_own_bytes() {
        for ty in BlockType::ALL.iter().copied() {
            let scheme = Scheme::from(ty);
            assert_eq!(scheme.bytes(7, 512), ty.row_bytes(512).map(|n| 7 * n));
            assert_eq!((scheme.name(), scheme.unit(), scheme.bits()), (ty.as_str(), ty.elems(), ty.bits()));
            assert!(scheme == ty && scheme.block() == Some(ty));
            let text = serde_json::to_string(&scheme).unwrap();
            assert_eq!(text, serde_json::to_string(&ty).unwrap());
            assert_eq!(serde_json::from_str::<Scheme>(&text).unwrap(), scheme);
        }
        assert!(Scheme::from(BlockType::Q8_0).bytes(1, 33).is_none());
        assert!(serde_json::from_str::<Scheme>("\"q9\"").unwrap_err().to_string().contains("q9"));
    }
}
