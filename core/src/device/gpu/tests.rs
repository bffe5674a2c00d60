//! Plans of a GPU need none; what one computes is compared with the CPU where there is one, and passes with a word without.

use crate::blocks::BlockType;
use crate::device::Sizes;
use crate::device::gpu::Precision;
use crate::device::gpu::tiling::{NORM_BLOCKS, NORMS, norm_blocks, norm_launches};
use crate::device::gpu::{check, load_scratch, scratch};
use crate::ledger::{Category, Ledger, Tier};
use crate::train::tests::{config, shape};
use crate::train::{engine::Techniques, plan};

fn sizes() -> Sizes {
    let config = config(&[("machine.device", "cuda:0")]);
    let train = config.train.as_ref().unwrap();
    Techniques::new(train).unwrap().sizes(train, &shape(BlockType::F32, true), 2)
}

#[test]
fn scratch_holds_the_largest_call() {
    let sizes = sizes();
    for precision in [Precision::F32, Precision::Bf16] {
        let e = precision.activations().block_bytes();
        let [_, panel, stage, sums] = scratch(&sizes, precision).map(|(_, bytes)| bytes);
        let outputs = sizes.outputs.max(sizes.cols);
        assert!(panel >= e * outputs * sizes.cols, "a small model's matrices are decoded whole");
        assert!(
            precision == Precision::F32 || stage >= e * sizes.head_rows * outputs,
            "a chunk of logits is converted whole"
        );
        assert!(sums >= 4 * sizes.rows * sizes.heads && sums >= 8 * 1024);
    }
}

/// Spans of 1 to 5 · 2¹¹ elements, and one of so many that it has a launch for itself.
#[test]
fn squares_are_summed_in_few_launches_each_span_as_if_it_were_alone() {
    let mut spans: Vec<(usize, usize)> = (0..300).map(|i| (7 * i, 1 + (i * i * 37) % 10_240)).collect();
    spans.insert(50, (3, 1 << 30));
    let launches: Vec<_> = norm_launches(&spans).collect();
    assert_eq!(launches.concat(), spans, "all of them, in order");
    let blocks = |some: &[(usize, usize)]| some.iter().map(|(_, len)| norm_blocks(*len)).sum::<usize>();
    for (some, next) in launches.iter().zip(&launches[1..]) {
        assert!(some.len() <= NORMS && blocks(some) <= NORM_BLOCKS);
        let full = some.len() == NORMS || blocks(some) + norm_blocks(next[0].1) > NORM_BLOCKS;
        assert!(full, "{} spans, {} blocks", some.len(), blocks(some));
    }
    assert!(launches.iter().any(|some| *some == [(3, 1 << 30)]));
    assert_eq!([1, 2048, 2049, usize::MAX].map(norm_blocks), [1, 1, 2, NORM_BLOCKS]);
    assert_eq!(norm_launches(&[]).count(), 0);
}

#[test]
fn a_plan_of_a_gpu_has_its_scratch_and_its_activations() {
    let shape = shape(BlockType::F32, true);
    let planned = |sets: &[(&str, &str)]| {
        let ledger = Ledger::new(u64::MAX, u64::MAX, u64::MAX);
        let config = config(&[&[("train.activations", "keep")], sets].concat());
        plan::walk(&config, &shape, &ledger, None).unwrap();
        ledger.measured().tiers[&Tier::Device].bytes.clone()
    };
    let f32 = planned(&[("machine.device", "cuda:0"), ("train.compute", "f32")]);
    let bf16 = planned(&[("machine.device", "cuda:0")]);
    let cpu = planned(&[]);
    assert_eq!(f32[&Category::Activations], cpu[&Category::Activations]);
    assert_eq!(f32[&Category::Gradients], cpu[&Category::Gradients]);
    let (wide, half) = (f32[&Category::Activations], bf16[&Category::Activations]);
    assert!(half < wide && 2 * half > wide, "ids and log-sum-exps stay as they are: {half} of {wide}");
    let fixed: usize = scratch(&sizes(), Precision::Bf16).iter().map(|(_, bytes)| bytes).sum();
    assert!(bf16[&Category::Workspace] >= fixed as u64);
    let small = planned(&[("machine.device", "cuda:0"), ("train.grad_dtype", "bf16")]);
    assert_eq!(2 * small[&Category::Gradients], bf16[&Category::Gradients]);
}

#[test]
fn what_a_gpu_cannot_train_is_refused_with_the_reason() {
    assert!(check(&shape(BlockType::Q8_0, false)).is_ok());
    let mut odd = shape(BlockType::F32, true);
    odd.layers[1].tensors.get_mut(crate::shape::Role::Down).unwrap().cols = 90;
    let error = check(&odd).unwrap_err().to_string();
    assert!(error.contains("blk.1.ffn_down") && error.contains("90"), "{error}");
    let mut wide = shape(BlockType::F32, true);
    wide.layers[0].attention.dim = 512;
    assert!(check(&wide).unwrap_err().to_string().contains("512"));
    let error = crate::catalog::from_toml("", &[("train.compute".into(), "bf16".into())]).unwrap_err().to_string();
    assert!(error.contains("train.compute"), "{error}");
}

#[test]
fn weights_pass_to_the_gpu_in_whole_rows() {
    let shape = shape(BlockType::Q8_0, false);
    for t in shape.tensors() {
        let [(_, piece), (_, convert)] = load_scratch(t, t, 1000);
        assert!(piece > 0 && piece % t.row_bytes() == 0 && piece as u64 <= t.bytes() && convert == 0);
    }
}

#[cfg(feature = "cuda")]
mod cuda {
    use std::sync::Arc;

    use super::*;
    use crate::device::gpu::Gpu;
    use crate::device::gpu::*;
    use crate::ops::{ThreadTeam, cuda};
    use crate::train::engine::{Setup, Trainer};
    use crate::train::tests::{batch, trainer};

    /// Three steps with a small model whose matrices are stored as `ty`.
    fn same(ty: BlockType, sets: &[(&str, &str)], most: f64) {
        let shape = shape(ty, true);
        let on = |more: &[(&str, &str)]| config(&[sets, more].concat());
        let run = |t: &mut Trainer| -> Vec<(f64, f64)> {
            let gradient = Techniques::new(on(&[]).train.as_ref().unwrap()).unwrap().gradient;
            let mut step = |s| gradient.step(t, &[batch(3, s)], s, 0.01, &mut |_| ()).unwrap();
            (1..=3).map(&mut step).map(|s| (s.loss, s.grad_norm)).collect()
        };
        let device = match cuda::Device::open(0, u64::MAX) {
            Ok(device) => device,
            Err(e) => return crate::skip::pass_over(format!("no GPU: {e}")),
        };
        let (mut there, _) = trainer(&on(&[]), &shape, 2, u64::MAX).unwrap();
        let expected = run(&mut there);
        let compute = if most < 1e-3 { "f32" } else { "bf16" };
        let config = on(&[("machine.device", "cuda:0"), ("train.compute", compute)]);
        let train = config.train.as_ref().unwrap();
        let ledger = Ledger::new(u64::MAX, u64::MAX, u64::MAX);
        let techniques = Techniques::new(train).unwrap();
        let sizes = techniques.sizes(train, &shape, 2);
        let team = Arc::new(ThreadTeam::new(2).unwrap());
        let gpu = Gpu::new(&device, &ledger, &team, &sizes, Precision::of(train)).unwrap();
        let source = crate::model::Source::Random {
            spec: crate::model::random::parse("random:smollm2-135m@f32#3").unwrap().unwrap(),
            spread: crate::model::random::Spread::ByColumns,
            like: None,
        };
        let setup = Setup { shape: &shape, source: Some(&source), plan: false, train, seed: 7 };
        let mut here = Trainer::new(Box::new(gpu), &ledger, &setup, techniques, sizes.load, &mut |_| ()).unwrap();
        for (a, b) in run(&mut here).iter().zip(&expected) {
            assert!(
                (a.0 / b.0 - 1.0).abs() < most && (a.1 / b.1 - 1.0).abs() < 5.0 * most,
                "{ty} {sets:?}: {a:?} {b:?}"
            );
        }
        here.evaluate(&batch(3, 9)).unwrap();
        let planned = Ledger::new(u64::MAX, u64::MAX, u64::MAX);
        plan::walk(&config, &shape, &planned, None).unwrap();
        let peak = |l: &Ledger| l.measured().tiers[&Tier::Device].peak;
        assert_eq!(peak(&planned), peak(&ledger), "the plan of {sets:?}");
        let used = device.counts().unwrap().into_iter().find(|(n, _)| *n == "pool used at most").unwrap().1;
        assert_eq!(used, peak(&ledger), "the driver's count");
        let meter = here.device().meter();
        assert_eq!(meter.launched(), meter.total().launches as u64, "launches made, and counted from the operations");
    }

    #[test]
    fn a_gpu_takes_the_steps_of_the_cpu_and_the_bytes_of_the_plan() {
        for (most, compute) in [(1e-4, "f32"), (2e-2, "bf16")] {
            eprintln!("{compute}");
            same(BlockType::F32, &[("train.params", "full"), ("train.activations", "keep")], most);
            same(
                BlockType::F32,
                &[("train.params", "full"), ("train.grad_hold", "matrix"), ("train.loss", "cut")],
                most,
            );
            same(BlockType::Q8_0, &[("train.params", "lora")], most);
            same(BlockType::Q8_0, &[("train.params", "lora"), ("train.params.lora_dropout", "0.3")], most);
        }
        // In f32, where one machine's signs and directions are the other's.
        for entry in crate::train::optimizer::ENTRIES {
            same(BlockType::F32, &[("train.params", "full"), ("train.optimizer", entry.id)], 9e-4);
        }
        let mezo = ("train.gradient", "{ use = \"mezo\", zo_eps = 0.05 }");
        let plain = ("train.optimizer", "{ use = \"sgd\", momentum = 0.0 }");
        same(BlockType::F32, &[("train.params", "full"), mezo, plain], 9e-4);
    }
}
