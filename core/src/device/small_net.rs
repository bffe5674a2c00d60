//! A small convolutional net made of nothing but operations: the same devices carry the nets of later labs.

use std::sync::Arc;

use super::cpu::{Cpu, scratch_bytes};
use super::dry::Dry;
use super::{Buf, Columns, Device, Gradient, Op, Round, Sizes, Weight};
use crate::blocks::BlockType;
use crate::error::Result;
use crate::ledger::{Category, Ledger, Tag};
use crate::ops::ThreadTeam;
use crate::ops::descriptors::{Batched, Reduction, Window};
use crate::ops::rule::{Rule, functions};

const TAG: Tag = Tag::device(Category::Activations, "small net");
const OF: Window = Window { n: 2, channels: 3, height: 6, width: 5, kernel: 3, stride: 2, pad: 1 };
const FILTERS: usize = 4;
const CLASSES: usize = 3;

fn floats(d: &dyn Device, values: &[f32]) -> Result<Buf> {
    let mut buf = d.buffer(TAG, BlockType::F32, values.len())?;
    d.upload(bytemuck::cast_slice(values), buf.all_mut())?;
    Ok(buf)
}

fn read(d: &dyn Device, buf: &Buf) -> Result<Vec<f32>> {
    let mut out = vec![0.0f32; buf.len()];
    d.download(buf.all(), bytemuck::cast_slice_mut(&mut out))?;
    Ok(out)
}

fn map(d: &dyn Device, rule: &'static Rule, y: &mut Buf, x: &Buf) -> Result<()> {
    let (len, g, scale, clamp, round) = (y.len(), Gradient::Held(x.all()), 1.0, f32::INFINITY, Round::Nearest);
    d.run(Op::Elementwise { rule, p: y.all_mut(), len, g, state: &mut [], numbers: &[], scale, clamp, round })
}

/// Convolution, gate, mean over positions, linear, cross-entropy, and back; returns the loss, the largest activation of each
/// filter, and the gradients of input, filters and head.
fn step(d: &dyn Device) -> Result<(f64, [Vec<f32>; 4])> {
    let wave =
        |n: usize, k: f64, by: f64| (0..n).map(move |i| (by * f64::from((0.7 * i as f64 + k).sin() as f32)) as f32);
    let zeros = |n: usize| d.buffer(TAG, BlockType::F32, n);
    let (n, rows, patch) = (OF.n, OF.outputs(), OF.patch());
    let positions = rows / n;
    let x = floats(d, &wave(n * OF.image(), 0.1, 1.0).collect::<Vec<_>>())?;
    let filters = floats(d, &wave(FILTERS * patch, 0.2, 0.3).collect::<Vec<_>>())?;
    let head = floats(d, &wave(CLASSES * FILTERS, 0.3, 1.0).collect::<Vec<_>>())?;
    let share = floats(d, &vec![1.0 / positions as f32; n * positions])?;
    let (mut windows, mut wide, mut y) = (zeros(rows * patch)?, zeros(rows * FILTERS)?, zeros(rows * FILTERS)?);
    d.run(Op::Im2col { x: x.all(), of: OF, y: windows.all_mut() })?;
    d.linear(windows.all(), rows, Weight::of(&filters, FILTERS, patch), None, wide.all_mut(), false)?;
    map(d, &functions::RELU, &mut y, &wide)?;
    // Turned by a product with ones on the diagonal, so that a filter's positions are a row.
    let eye: Vec<f32> = (0..n * positions * positions)
        .map(|i| f32::from(u8::from(i % (positions * positions) / positions == i % positions)))
        .collect();
    let (eye, mut turned, mut largest) = (floats(d, &eye)?, zeros(rows * FILTERS)?, zeros(n * FILTERS)?);
    let of = Batched { batch: n, m: FILTERS, n: positions, k: positions, a_turned: true, b_turned: false };
    d.run(Op::BatchedMatMul { a: y.all(), b: eye.all(), of, c: turned.all_mut(), add: false })?;
    let (rows_, cols) = (n * FILTERS, positions);
    d.run(Op::Reduce { x: turned.all(), rows: rows_, cols, how: Reduction::Max, y: largest.all_mut() })?;
    let (mut means, mut logits) = (zeros(n * FILTERS)?, zeros(n * CLASSES)?);
    d.run(Op::Reduce { x: turned.all(), rows: rows_, cols, how: Reduction::Mean, y: means.all_mut() })?;
    d.linear(means.all(), n, Weight::of(&head, CLASSES, FILTERS), None, logits.all_mut(), false)?;
    let mut targets = d.buffer(TAG, BlockType::I32, n)?;
    d.upload(bytemuck::cast_slice(&[2u32, 0]), targets.all_mut())?;
    let (mut sums, mut picked) = (floats(d, &[f32::NEG_INFINITY; 2])?, zeros(n)?);
    let all = Columns::From(0);
    d.log_sum_exp(logits.all(), n, CLASSES, all, targets.all(), sums.all_mut(), picked.all_mut(), None)?;
    let loss = read(d, &sums)?.iter().zip(read(d, &picked)?).map(|(s, p)| f64::from(s - p)).sum();
    d.cross_entropy_vjp(logits.all_mut(), n, CLASSES, all, targets.all(), sums.all(), 1.0, 0.0)?;
    let (mut d_head, mut d_means) = (zeros(CLASSES * FILTERS)?, zeros(n * FILTERS)?);
    d.linear_dw(logits.all(), means.all(), n, CLASSES, FILTERS, d_head.all_mut(), false)?;
    d.linear_dx(logits.all(), n, Weight::of(&head, CLASSES, FILTERS), d_means.all_mut(), false)?;
    // Each position gets its share: (positions, 1) · (1, filters).
    let of = Batched { batch: n, m: positions, n: FILTERS, k: 1, a_turned: false, b_turned: false };
    d.run(Op::BatchedMatMul { a: share.all(), b: d_means.all(), of, c: wide.all_mut(), add: false })?;
    map(d, &functions::RELU_VJP, &mut wide, &y)?;
    let (mut d_filters, mut d_windows) = (zeros(FILTERS * patch)?, zeros(rows * patch)?);
    d.linear_dw(wide.all(), windows.all(), rows, FILTERS, patch, d_filters.all_mut(), false)?;
    d.linear_dx(wide.all(), rows, Weight::of(&filters, FILTERS, patch), d_windows.all_mut(), false)?;
    let mut dx = zeros(n * OF.image())?;
    d.run(Op::Col2im { dy: d_windows.all(), of: OF, dx: dx.all_mut() })?;
    Ok((loss, [read(d, &largest)?, read(d, &dx)?, read(d, &d_filters)?, read(d, &d_head)?]))
}

fn sizes() -> Sizes {
    Sizes { rows: OF.outputs(), cols: OF.patch(), hidden: OF.patch(), outputs: OF.patch(), ..Sizes::default() }
}

/// `tests/scripts/make_small_net.py`: the same net in PyTorch, float64.
#[test]
fn its_loss_and_gradients_are_pytorchs_and_its_plan_is_the_dry_device() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/train/small_net.json"));
    let reference: serde_json::Value = serde_json::from_str(&text.unwrap()).unwrap();
    let run = |threads: usize| {
        let ledger = Ledger::new(u64::MAX, u64::MAX, u64::MAX);
        let cpu = Cpu::new(&ledger, &Arc::new(ThreadTeam::new(threads).unwrap()), &sizes()).unwrap();
        let out = step(&cpu).unwrap();
        (out, ledger.measured(), cpu.meter().operations(), cpu.meter().total())
    };
    let ((loss, all), measured, operations, total) = run(2);
    assert!(all == run(1).0.1, "other bits on one thread");
    assert!((loss / reference["loss"].as_f64().unwrap() - 1.0).abs() < 1e-5, "{loss}");
    for (got, key) in all.iter().zip(["largest", "x", "filters", "head"]) {
        let want: Vec<f64> = reference[key].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        assert_eq!(got.len(), want.len(), "{key}");
        for (a, b) in got.iter().zip(&want) {
            assert!((f64::from(*a) - b).abs() < 2e-6, "{key}: {a}, {b} in PyTorch");
        }
    }
    let planned = Ledger::new(u64::MAX, u64::MAX, u64::MAX);
    let dry = Dry::new(&planned, scratch_bytes(2, &sizes()), 0).unwrap();
    step(&dry).unwrap();
    assert_eq!(planned.measured().tiers, measured.tiers);
    assert_eq!((dry.meter().operations(), dry.meter().total()), (operations, total));
}
