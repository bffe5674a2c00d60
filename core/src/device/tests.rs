//! The seam itself: operands that do not fit are refused alike by every device, costs are counted from the description, and
//! any operation may fail.

use std::sync::{Arc, Mutex};

use super::dry::Dry;
use super::gpu::{Precision, tiling};
use super::{Cost, Device, Lowering, Op, Sizes, Weight};
use crate::blocks::BlockType;
use crate::ledger::{Category, Ledger, Tag};

const TAG: Tag = Tag::device(Category::Workspace, "test");

fn dry() -> Dry {
    Dry::new(&Ledger::new(u64::MAX, u64::MAX, u64::MAX), 0, 0).unwrap()
}

#[test]
fn operands_that_do_not_fit_are_named_before_anything_runs() {
    let device = dry();
    let d: &dyn Device = &device;
    let buf = |ty, len| d.buffer(TAG, ty, len).unwrap();
    let (x, w, mut y) = (buf(BlockType::F32, 64), buf(BlockType::F32, 96), buf(BlockType::F32, 48));
    d.linear(x.all(), 4, Weight::of(&w, 6, 16), None, y.all_mut(), false).unwrap();
    let short = d.linear(x.all(), 5, Weight::of(&w, 6, 16), None, y.all_mut(), false).unwrap_err().to_string();
    assert!(short.contains("linear: `x` is elements 0 + 80 of a buffer of 64"), "{short}");
    let far = d.linear(x.all(), 4, Weight::of(&w, 6, 16), None, y.at_mut(25), false).unwrap_err().to_string();
    assert!(far.contains("`y` is elements 25 + 24"), "{far}");
    let ids = buf(BlockType::F32, 4);
    let wrong = d.gather(x.all(), ids.all(), 2, 16, y.all_mut()).unwrap_err().to_string();
    assert!(wrong.contains("gather: `ids` is a buffer of f32"), "{wrong}");
    assert_eq!(device.meter().operations(), 1, "what is refused is not begun");
}

#[test]
fn costs_are_counted_from_the_description() {
    let device = dry();
    let buf = |ty, len| device.buffer(TAG, ty, len).unwrap();
    let sizes = Sizes { rows: 300, cols: 1024, hidden: 512, outputs: 3000, head_rows: 128, ..Sizes::default() };
    let gpu = Lowering::Tiled(tiling(&sizes, Precision::Bf16));
    let (x, w, mut y) =
        (buf(BlockType::Bf16, 300 * 512), buf(BlockType::Q8_0, 768 * 512), buf(BlockType::Bf16, 300 * 768));
    let op = Op::Linear { x: x.all(), m: 300, w: Weight::of(&w, 768, 512), bias: None, y: y.all_mut(), add: false };
    let (n, direct) = (768 * 512, op.cost(&Lowering::Direct));
    let stored = n / 32 * 34;
    assert_eq!(direct.flops, 2.0 * 300.0 * n as f64);
    assert_eq!((direct.read, direct.written, direct.converted), (2 * 300 * 512 + stored, 2 * 300 * 768, 0));
    assert_eq!(direct.launches, 1);
    // A GPU decodes the weight into its panel, whole, and multiplies once.
    let Cost { read, converted, launches, .. } = op.cost(&gpu);
    assert_eq!((read, converted, launches), (2 * 300 * 512 + 2 * n, stored + 2 * n, 2));
    // f32 logits go through the stage in pieces.
    let (logits, mut dx) = (buf(BlockType::F32, 300 * 3000), buf(BlockType::Bf16, 300 * 1024));
    let head = buf(BlockType::Bf16, 3000 * 1024);
    let w = Weight::of(&head, 3000, 1024);
    let op = Op::LinearDx { dy: logits.all(), m: 300, w, dx: dx.all_mut(), add: false };
    assert_eq!(op.cost(&gpu).launches, 2 * 300usize.div_ceil(128), "a conversion and a product each");
}

#[test]
fn any_operation_may_fail_and_spans_tell_of_those_that_ran() {
    let device = dry();
    let d: &dyn Device = &device;
    let mut y = d.buffer(TAG, BlockType::F32, 10).unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let writes = Arc::clone(&heard);
    d.meter().observe(Some(Box::new(move |span| writes.lock().unwrap().push((span.name, span.cost.written)))));
    d.fill(y.all_mut(), 10, 0.0).unwrap();
    d.meter().fail_at(2);
    d.scale(y.all_mut(), 10, 2.0).unwrap();
    let failed = d.fill(y.all_mut(), 10, 0.0).unwrap_err();
    assert!(failed.to_string().contains("operation 3 (fill) failed"), "{failed}");
    d.fill(y.all_mut(), 5, 0.0).unwrap();
    d.meter().observe(None);
    d.fill(y.all_mut(), 5, 0.0).unwrap();
    assert_eq!(*heard.lock().unwrap(), [("fill", 40), ("scale", 40), ("fill", 20)]);
    assert_eq!(d.meter().total().written, 40 + 40 + 20 + 20);
}

/// The passes that a GPU makes put numbers in the order that the CPU's sort gives, whatever the length and however many are equal.
#[test]
fn the_sorting_network_of_a_gpu_gives_the_cpus_order() {
    for n in (1..70).chain([1000, 4097]) {
        let x: Vec<f32> = (0..n).map(|i| [0.0, -0.0, 1.5, -2.0, ((i * 7919) % 613) as f32][i * i % 5]).collect();
        let mut ids: Vec<u32> = (0..n as u32).collect();
        let before = |a: u32, b: u32| {
            let by = x[b as usize].total_cmp(&x[a as usize]);
            by.then(a.cmp(&b)).is_lt()
        };
        for mask in super::cost::sort_passes(n) {
            for i in 0..n {
                let j = i ^ mask;
                if j > i && j < n && before(ids[j], ids[i]) {
                    ids.swap(i, j);
                }
            }
        }
        let mut expected = vec![0; n];
        crate::ops::cpu::vjp::order(&x, &mut expected);
        assert!(ids == expected, "{n}: {ids:?}");
    }
}
