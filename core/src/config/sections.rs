//! The sections that hold axes, one line an axis.

use serde::{Deserialize, Serialize};

use super::axes::section;
use super::{Choice, PerKv};
use crate::bytes::Bytes;

section! {
    /// `[weights]`
    struct Weights at "weights" {
        keys {
            /// Tensors that are held otherwise, as llama.cpp's `--override-tensor` has them placed otherwise:
            /// `[[weights.override]]`. The first pattern that a tensor matches decides.
            #[serde(rename = "override", skip_serializing_if = "Vec::is_empty")]
            overrides: Vec<Override> = Vec::new();
        }
        axes {
            format: WEIGHTS_FORMAT = Choice "original", heading "Weights", card "Precision",
                advanced false, "In how many bits each weight is held.";
        }
    }

    /// `[kv]`
    struct Kv at "kv" {
        keys {
            /// One budget for all policies. Absent: the policy's own size knobs.
            #[serde(skip_serializing_if = "Option::is_none")]
            budget: Option<KvBudget> = None;
        }
        axes {
            select: KV_SELECT = Choice "full", heading "KV cache", card "Tokens to keep",
                advanced false, "Which tokens stay in the cache when it is full.";
            split: KV_SPLIT = Choice "uniform", heading "KV cache", card "Shares of the heads",
                advanced true, "How the kept rows are shared out over layers and heads.";
            merge: KV_MERGE = Choice "discard", heading "KV cache", card "Dropped tokens",
                advanced true, "What happens to the rows of tokens that do not stay.";
            channels: KV_CHANNELS = Choice "all", heading "KV cache", card "Dimensions to keep",
                advanced true, "Which dimensions of keys and values stay.";
            format: KV_FORMAT = PerKv "f16", heading "KV cache", card "Precision",
                advanced false, "In how many bits each element of a key or a value is kept.";
            read: KV_READ = Choice "all", heading "KV cache", card "Tokens to read",
                advanced true, "Which of the kept rows a generated token looks at.";
            alloc: KV_ALLOC = Choice "contiguous", heading "KV cache", card "Cache layout",
                advanced true, "When room for the cache's rows is taken, and in what pieces.";
        }
    }

    /// `[place]`
    struct Place at "place" {
        keys {}
        axes {
            weights: PLACE_WEIGHTS = Choice "resident", heading "Where it lives", card "Weights",
                advanced false, "Which memory holds the weights, and how they get to the compute.";
            kv: PLACE_KV = Choice "resident", heading "Where it lives", card "KV cache",
                advanced false, "Which memory holds the cache.";
        }
    }
}

/// `[[weights.override]]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// Names of tensors as in GGUF, with or without `.weight`: `*` stands for any letters, `?` for one.
    pub tensors: String,
    /// As `weights.format`.
    pub format: Choice,
}

impl Weights {
    /// The first choice that changes what the file has, with its key.
    pub fn changed(&self) -> Option<(String, &Choice)> {
        let format = std::iter::once(("weights.format".to_owned(), &self.format));
        format.chain(self.overridden()).find(|(_, choice)| choice.id != "original")
    }

    /// The choices for single tensors, with their keys.
    pub fn overridden(&self) -> impl Iterator<Item = (String, &Choice)> {
        self.overrides.iter().enumerate().map(|(i, o)| (format!("weights.override.{i}.format"), &o.format))
    }
}

/// `kv.budget`: exactly one of three dialects, each the inverse of the others for a given shape.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", try_from = "BudgetTable")]
pub enum KvBudget {
    /// Bytes of one sequence's cache, metadata included.
    Bytes(Bytes),
    /// Rows per layer and KV head.
    Rows(usize),
    /// Rows as a fraction of `run.context`.
    Ratio(f64),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table with one of bytes, rows and ratio, such as { ratio = 0.2 }")]
struct BudgetTable {
    bytes: Option<Bytes>,
    rows: Option<usize>,
    ratio: Option<f64>,
}

impl TryFrom<BudgetTable> for KvBudget {
    type Error = &'static str;

    fn try_from(table: BudgetTable) -> std::result::Result<Self, Self::Error> {
        match (table.bytes, table.rows, table.ratio) {
            (Some(bytes), None, None) => Ok(Self::Bytes(bytes)),
            (None, Some(rows), None) => Ok(Self::Rows(rows)),
            (None, None, Some(ratio)) => Ok(Self::Ratio(ratio)),
            _ => Err("write exactly one of bytes, rows and ratio, such as { ratio = 0.2 }"),
        }
    }
}
