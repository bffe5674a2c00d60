//! What the tests of every optimizer share: parameters and gradients of `tests/scripts/gradients.py`, and a run of updates.

use std::sync::Arc;

use super::{Optimizer, Shape, StepInfo, Update};
use crate::blocks::BlockType;
use crate::device::cpu::{Cpu, scratch_bytes};
use crate::device::{Device, Gradient, Round, Sizes};
use crate::ledger::{Category, Ledger, Tag};
use crate::ops::ThreadTeam;
use crate::train::engine::Techniques;
use crate::train::tests::config;

const TAG: Tag = Tag::device(Category::Workspace, "test");

/// The optimizer that a configuration chooses.
pub(crate) fn optimizer(choice: &str) -> Box<dyn Optimizer> {
    Techniques::new(config(&[("train.params", "full"), ("train.optimizer", choice)]).train.as_ref().unwrap())
        .unwrap()
        .optimizer
}

pub(crate) fn parameter(rows: usize, cols: usize) -> Vec<f32> {
    (0..rows * cols).map(|i| (0.1 * (0.7 * i as f64 + 1.3).sin()) as f32).collect()
}

pub(crate) fn gradient(step: u64, rows: usize, cols: usize) -> Vec<f32> {
    let t = step as f64;
    let at = |r: usize, c: usize| {
        let (r, c) = (r as f64, c as f64);
        let term = |k: f64| {
            0.5f64.powf(k)
                * (0.7 * (k + 1.0) * r + 0.3 * t + k).sin()
                * (0.45 * (k + 1.0) * c + 0.2 * t * k + 0.5).cos()
        };
        (0..6).map(|k| term(f64::from(k))).sum::<f64>() + 0.01 * (3.1 * (r * cols as f64 + c) + t).sin()
    };
    (0..rows * cols).map(|i| at(i / cols, i % cols) as f32).collect()
}

/// The parameter after each of `steps` updates at `lr`, in f32 on `threads` threads, and the state at the end.
pub(crate) fn updates(
    by: &dyn Optimizer,
    (rows, cols): (usize, usize),
    steps: u64,
    lr: f32,
    threads: usize,
    gradient: &dyn Fn(u64) -> Vec<f32>,
) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let ledger = Ledger::new(u64::MAX, u64::MAX, u64::MAX);
    let of = Shape { linear: true, rows, cols };
    let plan = by.plan(of);
    let sizes = Sizes { cols: rows.max(cols), hidden: cols, rows: 1, basis: plan.basis, ..Sizes::default() };
    assert!(scratch_bytes(threads, &sizes) > 0);
    let device = Cpu::new(&ledger, &Arc::new(ThreadTeam::new(threads).unwrap()), &sizes).unwrap();
    let d: &dyn Device = &device;
    let mut p = d.buffer(TAG, BlockType::F32, rows * cols).unwrap();
    let mut g = d.buffer(TAG, BlockType::F32, rows * cols).unwrap();
    let mut state: Vec<_> = plan.state.iter().map(|s| d.buffer(TAG, s.ty, s.len()).unwrap()).collect();
    let mut scratch: Vec<_> = plan.scratch.iter().map(|n| d.buffer(TAG, BlockType::F32, *n).unwrap()).collect();
    d.upload(bytemuck::cast_slice(&parameter(rows, cols)), p.all_mut()).unwrap();
    let read = |buf: &crate::device::Buf| {
        let mut bytes = vec![0u8; buf.bytes()];
        d.download(buf.all(), &mut bytes).unwrap();
        let mut out = vec![0.0; buf.len()];
        crate::blocks::decode(buf.ty(), &bytes, &mut out).unwrap();
        out
    };
    let after = (1..=steps)
        .map(|step| {
            d.upload(bytemuck::cast_slice(&gradient(step)), g.all_mut()).unwrap();
            let at = StepInfo::of(step, lr, true, 5);
            let (g, scratch) = (Gradient::Held(g.all_mut()), &mut scratch[..]);
            by.update(d, Update { of, p: &mut p, g, state: &mut state, scratch, round: Round::Nearest, at }).unwrap();
            read(&p)
        })
        .collect();
    (after, state.iter().map(read).collect())
}

/// The numbers of a fixture.
pub(crate) fn reference(name: &str) -> serde_json::Value {
    let path = format!("{}/../tests/fixtures/train/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Asserts that a parameter is what a reference says, within `most`.
pub(crate) fn same(what: &str, got: &[f32], want: &serde_json::Value, most: f64) {
    let want: Vec<f64> = want.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (a, b)) in got.iter().zip(&want).enumerate() {
        assert!((f64::from(*a) - b).abs() <= most, "{what}, element {i}: {a}, {b} in the reference");
    }
}
