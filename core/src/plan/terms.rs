//! Sums of products with a word on each factor: what formulas of a plan are written in.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::pieces::Live;
use crate::blocks::{BlockType, Scheme};
use crate::shape::TensorShape;

/// One factor of a product.
#[derive(Clone, Debug)]
pub(super) enum Factor {
    /// A number and what it counts.
    Number(u64, String),
    /// A sum in brackets.
    Sum(Vec<Term>),
}

/// A product, and a word on what it is.
#[derive(Clone, Debug)]
pub(super) struct Term(pub(super) Vec<Factor>);

pub(super) fn n(value: impl TryInto<u64>, unit: impl Into<String>) -> Factor {
    Factor::Number(value.try_into().unwrap_or(u64::MAX), unit.into())
}

/// `9999`, `12,345`.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    if digits.len() < 5 {
        return digits;
    }
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

pub(super) fn value(terms: &[Term]) -> Option<u64> {
    terms.iter().try_fold(0u64, |sum, Term(factors)| {
        let product = factors.iter().try_fold(1u64, |product, f| match f {
            Factor::Number(n, _) => product.checked_mul(*n),
            Factor::Sum(terms) => product.checked_mul(value(terms)?),
        })?;
        sum.checked_add(product)
    })
}

pub(super) fn write(terms: &[Term], out: &mut String) {
    for (i, Term(factors)) in terms.iter().enumerate() {
        *out += if i > 0 { " + " } else { "" };
        for (j, factor) in factors.iter().enumerate() {
            *out += if j > 0 { " · " } else { "" };
            match factor {
                Factor::Number(n, unit) if unit.is_empty() => *out += &grouped(*n),
                Factor::Number(n, unit) => {
                    let _ = write!(out, "{} {unit}", grouped(*n));
                }
                Factor::Sum(terms) => {
                    out.push('(');
                    write(terms, out);
                    out.push(')');
                }
            }
        }
    }
}

/// Every named buffer with its bytes.
pub(super) fn named(live: &[Live]) -> Vec<Term> {
    let mut sums: Vec<(&str, u64)> = Vec::new();
    for l in live {
        match sums.iter_mut().find(|(name, _)| *name == l.tag.name) {
            Some((_, sum)) => *sum += l.bytes,
            None => sums.push((l.tag.name, l.bytes)),
        }
    }
    sums.into_iter().map(|(name, bytes)| Term(vec![n(bytes, format!("B {name}"))])).collect()
}

/// Tensors by how they are stored.
#[derive(Default)]
pub(super) struct Kinds(BTreeMap<Scheme, (u64, u64)>);

impl Kinds {
    /// Counts a tensor: its blocks, or its weights where its scheme has none, and its bytes.
    pub fn add(&mut self, t: &TensorShape) {
        let (count, bytes) = self.0.entry(t.ty).or_default();
        *count += (t.rows * t.cols / t.ty.block().map_or(1, BlockType::elems)) as u64;
        *bytes += t.bytes();
    }

    /// The largest types last in ggml's order first.
    pub fn terms(self) -> Vec<Term> {
        let one = |(scheme, (count, bytes)): (Scheme, (u64, u64))| match scheme.block() {
            // The payload is said as it is: what a weight's share of it is has no short form.
            None => Term(vec![n(bytes, format!("B of {count} weights in {scheme}"))]),
            Some(ty) if ty.elems() == 1 => Term(vec![n(count, format!("weights in {ty}")), n(ty.block_bytes(), "B")]),
            Some(ty) => {
                Term(vec![n(count, format!("blocks of {} weights in {ty}", ty.elems())), n(ty.block_bytes(), "B")])
            }
        };
        self.0.into_iter().rev().map(one).collect()
    }
}
