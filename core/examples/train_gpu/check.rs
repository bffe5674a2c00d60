//! The same calls on a GPU and on the CPU.

use std::sync::Arc;

use ullage_core::Result;
use ullage_core::blocks::{self, BlockType};
use ullage_core::device::cpu::Cpu;
use ullage_core::device::gpu::{Gpu, Precision};
use ullage_core::device::{Buf, Causal, Columns, Device, Gradient, Mask, Op, RopeTable, Round, Sizes, Src, Weight};
use ullage_core::ledger::{Category, Ledger, Tag};
use ullage_core::ops::ThreadTeam;
use ullage_core::ops::cpu::RopeLayout;
use ullage_core::ops::cuda;
use ullage_core::ops::descriptors::{Batched, Reduction, Window};
use ullage_core::ops::rule::Rule;
use ullage_core::ops::rule::functions::TANH;
use ullage_core::rng::Philox;
use ullage_core::train::optimizer::{ADAMW, NESTEROV, SGD};

const TAG: Tag = Tag::device(Category::Workspace, "check");
const NONE: u32 = u32::MAX;

/// Two devices given the same calls.
struct Both {
    gpu: Gpu,
    cpu: Cpu,
    precision: Precision,
    failed: usize,
}

/// A buffer on each.
struct Pair {
    gpu: Buf,
    cpu: Buf,
}

pub fn noise(n: usize, seed: u64) -> Vec<f32> {
    (0..n).map(|i| Philox::new(seed).uniform(i as u64) * 2.0 - 1.0).collect()
}

fn encode(ty: BlockType, x: &[f32]) -> Vec<u8> {
    let mut out = vec![0u8; x.len().div_ceil(ty.elems()) * ty.block_bytes()];
    blocks::encode(ty, x, &mut out).expect("whole blocks");
    out
}

fn decode(ty: BlockType, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![0f32; bytes.len() / ty.block_bytes() * ty.elems()];
    blocks::decode(ty, bytes, &mut out).expect("whole blocks");
    out
}

impl Both {
    fn open(precision: Precision, sizes: &Sizes) -> Result<Self> {
        let ledger = Ledger::new(u64::MAX, u64::MAX, u64::MAX);
        let team = Arc::new(ThreadTeam::new(8)?);
        let device = cuda::Device::open(0, u64::MAX)?;
        let gpu = Gpu::new(&device, &ledger, &team, sizes, precision)?;
        println!("\n{precision:?}: {:?}", gpu.beside()?);
        Ok(Self { gpu, cpu: Cpu::new(&ledger, &team, sizes)?, precision, failed: 0 })
    }

    /// Values that both can hold as `ty`; the CPU holds them as `held`.
    fn put_as(&self, ty: BlockType, held: BlockType, x: &[f32]) -> Result<Pair> {
        let bytes = encode(ty, x);
        let values = if held == ty { bytes.clone() } else { encode(held, &decode(ty, &bytes)) };
        let mut pair = Pair { gpu: self.gpu.buffer(TAG, ty, x.len())?, cpu: self.cpu.buffer(TAG, held, x.len())? };
        self.gpu.upload(&bytes, pair.gpu.all_mut())?;
        self.cpu.upload(&values, pair.cpu.all_mut())?;
        Ok(pair)
    }

    /// Activations: of the precision's type on the GPU, f32 on the CPU.
    fn put(&self, x: &[f32]) -> Result<Pair> {
        self.put_as(self.precision.activations(), BlockType::F32, x)
    }

    fn floats(&self, x: &[f32]) -> Result<Pair> {
        self.put_as(BlockType::F32, BlockType::F32, x)
    }

    fn ids(&self, x: &[u32]) -> Result<Pair> {
        let mut pair = Pair {
            gpu: self.gpu.buffer(TAG, BlockType::I32, x.len())?,
            cpu: self.cpu.buffer(TAG, BlockType::I32, x.len())?,
        };
        self.gpu.upload(bytemuck::cast_slice(x), pair.gpu.all_mut())?;
        self.cpu.upload(bytemuck::cast_slice(x), pair.cpu.all_mut())?;
        Ok(pair)
    }

    fn values(device: &dyn Device, buf: &Buf) -> Result<Vec<f32>> {
        let mut bytes = vec![0u8; buf.bytes()];
        device.download(buf.all(), &mut bytes)?;
        Ok(decode(buf.ty(), &bytes))
    }

    /// Prints how far apart the two are, relative to the largest element, and counts it as failed above `most`: five in a
    /// hundred thousand in f32, and in bf16 two hundredths, where nothing else is said.
    fn same(&mut self, what: &str, pair: &Pair) -> Result<()> {
        let most = if self.precision == Precision::F32 { 5e-5 } else { 2e-2 };
        self.within(what, pair, most)
    }

    fn within(&mut self, what: &str, pair: &Pair, most: f64) -> Result<()> {
        let (a, b) = (Self::values(&self.gpu, &pair.gpu)?, Self::values(&self.cpu, &pair.cpu)?);
        let size = b.iter().fold(0f64, |s, x| s.max(f64::from(x.abs())));
        let (mut worst, mut square, mut norm) = (0f64, 0f64, 0f64);
        for (x, y) in a.iter().zip(&b) {
            let d = f64::from(*x) - f64::from(*y);
            worst = if d.is_finite() { worst.max(d.abs()) } else { f64::INFINITY };
            square += d * d;
            norm += f64::from(*y) * f64::from(*y);
            if worst.is_infinite() {
                break;
            }
        }
        let error = worst / size.max(1e-30);
        let good = a.len() == b.len() && error <= most && size > 0.0;
        self.failed += usize::from(!good);
        let rms = (square / norm.max(1e-60)).sqrt();
        println!("{} {what:44} max {error:.1e}  rms {rms:.1e}  of {size:.3}", if good { "ok  " } else { "FAIL" });
        Ok(())
    }
}

pub fn all() -> Result<usize> {
    let mut failed = 0;
    for precision in [Precision::F32, Precision::Bf16] {
        let sizes = Sizes {
            rows: 300,
            cols: 1024,
            hidden: 512,
            outputs: 3000,
            head_rows: 128,
            length: 150,
            sequences: 2,
            heads: 12,
            kv_heads: 4,
            head_dim: 128,
            basis: 12,
            load: 0,
        };
        let mut both = Both::open(precision, &sizes)?;
        products(&mut both)?;
        elements(&mut both)?;
        attention(&mut both)?;
        head(&mut both)?;
        updates(&mut both)?;
        nets(&mut both)?;
        failed += both.failed;
    }
    Ok(failed)
}

macro_rules! twice {
    ($both:ident, |$d:ident, $side:ident| $call:expr) => {{
        {
            let $d: &dyn Device = &$both.gpu;
            macro_rules! $side {
                ($pair:expr) => {
                    $pair.gpu
                };
            }
            $call?;
        }
        {
            let $d: &dyn Device = &$both.cpu;
            macro_rules! $side {
                ($pair:expr) => {
                    $pair.cpu
                };
            }
            $call?;
        }
    }};
}

fn products(both: &mut Both) -> Result<()> {
    let (m, rows, cols) = (203, 768, 512);
    let types = [
        BlockType::F32,
        BlockType::F16,
        BlockType::Bf16,
        BlockType::Q4_0,
        BlockType::Q4_1,
        BlockType::Q8_0,
        BlockType::Q4K,
        BlockType::Q6K,
    ];
    for ty in types {
        let w = both.put_as(ty, ty, &noise(rows * cols, 1))?;
        let (x, bias) = (both.put(&noise(m * cols, 2))?, both.floats(&noise(rows, 9))?);
        let mut y = both.put(&noise(m * rows, 3))?;
        twice!(both, |d, of| d.linear(
            of!(x).all(),
            m,
            Weight::of(&of!(w), rows, cols),
            Some(of!(bias).all()),
            of!(y).all_mut(),
            false
        ));
        both.same(&format!("linear {ty}, bias"), &y)?;
        let part = Weight::of(&w.gpu, rows, cols).rows(256, 64);
        let part_cpu = Weight::of(&w.cpu, rows, cols).rows(256, 64);
        let mut y = both.put(&noise(m * 64, 3))?;
        let (gpu, cpu): (&dyn Device, &dyn Device) = (&both.gpu, &both.cpu);
        gpu.linear(x.gpu.all(), m, part, None, y.gpu.all_mut(), true)?;
        cpu.linear(x.cpu.all(), m, part_cpu, None, y.cpu.all_mut(), true)?;
        both.same(&format!("linear {ty}, some rows, added"), &y)?;
        let dy = both.put(&noise(m * rows, 4))?;
        let mut dx = both.put(&noise(m * cols, 5))?;
        twice!(both, |d, of| d.linear_dx(of!(dy).all(), m, Weight::of(&of!(w), rows, cols), of!(dx).all_mut(), true));
        both.same(&format!("linear_dx {ty}, added"), &dx)?;
    }
    // A weight larger than the panel of decoded weights: tiles of rows and of columns.
    let (rows, cols) = (3000, 1024);
    let w = both.put_as(BlockType::Q4_0, BlockType::Q4_0, &noise(rows * cols, 1))?;
    let x = both.put(&noise(m * cols, 2))?;
    let mut y = both.floats(&noise(m * rows, 3))?;
    twice!(both, |d, of| d.linear(of!(x).all(), m, Weight::of(&of!(w), rows, cols), None, of!(y).all_mut(), false));
    both.same("linear to f32 logits", &y)?;
    let mut dx = both.floats(&noise(m * cols, 5))?;
    twice!(both, |d, of| d.linear_dx(of!(y).all(), m, Weight::of(&of!(w), rows, cols), of!(dx).all_mut(), false));
    both.same("linear_dx of f32 logits", &dx)?;
    let mut dw = both.floats(&noise(rows * cols, 5))?;
    twice!(both, |d, of| d.linear_dw(of!(y).all(), of!(x).all(), m, rows, cols, of!(dw).all_mut(), false));
    both.same("linear_dw of f32 logits", &dw)?;
    for (rows, cols) in [(768, 512), (8, 512), (768, 8), (4, 512)] {
        let (dy, x) = (both.put(&noise(m * rows, 6))?, both.put(&noise(m * cols, 7))?);
        let mut dw = both.floats(&noise(rows * cols, 8))?;
        twice!(both, |d, of| d.linear_dw(of!(dy).all(), of!(x).all(), m, rows, cols, of!(dw).all_mut(), true));
        both.same(&format!("linear_dw {rows} x {cols}, added"), &dw)?;
    }
    // An adapter's sides.
    for (rows, cols) in [(8, 512), (768, 8), (4, 512), (768, 4)] {
        let w = both.floats(&noise(rows * cols, 1))?;
        let x = both.put(&noise(m * cols, 2))?;
        let mut y = both.put(&noise(m * rows, 3))?;
        twice!(both, |d, of| d.linear(of!(x).all(), m, Weight::of(&of!(w), rows, cols), None, of!(y).all_mut(), true));
        both.same(&format!("linear {rows} x {cols}, added"), &y)?;
        let mut dx = both.put(&noise(m * cols, 2))?;
        twice!(both, |d, of| d.linear_dx(of!(y).all(), m, Weight::of(&of!(w), rows, cols), of!(dx).all_mut(), false));
        both.same(&format!("linear_dx {rows} x {cols}"), &dx)?;
    }
    Ok(())
}

fn elements(both: &mut Both) -> Result<()> {
    for cols in [64, 576, 2048] {
        let m = 37;
        let (x, w, dy) =
            (both.put(&noise(m * cols, 1))?, both.floats(&noise(cols, 2))?, both.put(&noise(m * cols, 3))?);
        let mut y = both.put(&vec![0.0; m * cols])?;
        twice!(both, |d, of| d.rms_norm(of!(x).all(), of!(w).all(), m, cols, 1e-5, of!(y).all_mut()));
        both.same(&format!("rms_norm {cols}"), &y)?;
        let (mut dx, mut dw) = (both.put(&noise(m * cols, 4))?, both.floats(&noise(cols, 5))?);
        twice!(both, |d, of| d.rms_norm_vjp(
            of!(dy).all(),
            of!(x).all(),
            of!(w).all(),
            m,
            cols,
            1e-5,
            of!(dx).all_mut(),
            Some((of!(dw).all_mut(), true))
        ));
        both.same(&format!("rms_norm_vjp {cols}, dx"), &dx)?;
        both.same(&format!("rms_norm_vjp {cols}, dw"), &dw)?;
        let mut db = both.floats(&noise(cols, 5))?;
        twice!(both, |d, of| d.bias_vjp(of!(dy).all(), m, cols, of!(db).all_mut(), false));
        both.same(&format!("bias_vjp {cols}"), &db)?;
    }
    for (pairs, half, inverse) in
        [(RopeLayout::Interleaved, 32, false), (RopeLayout::Halves, 16, false), (RopeLayout::Halves, 32, true)]
    {
        let (m, heads, dim) = (19, 3, 64);
        let angles = noise(40 * half, 1);
        let cos = both.floats(&angles.iter().map(|a| (9.0 * a).cos()).collect::<Vec<_>>())?;
        let sin = both.floats(&angles.iter().map(|a| (9.0 * a).sin()).collect::<Vec<_>>())?;
        let positions = both.ids(&(0..m as u32).map(|i| i * 7 % 40).collect::<Vec<_>>())?;
        let mut x = both.put(&noise(m * heads * dim, 2))?;
        twice!(both, |d, of| d.rope(
            of!(x).all_mut(),
            m,
            heads,
            dim,
            RopeTable { cos: &of!(cos), sin: &of!(sin), positions: &of!(positions), half, pairs, inverse }
        ));
        both.same(&format!("rope {pairs:?} {half} {inverse}"), &x)?;
    }
    for n in [8192, 8191] {
        let mut g = both.put(&noise(n, 1).iter().map(|x| 6.0 * x).collect::<Vec<_>>())?;
        let (mut u, dp) = (both.put(&noise(n, 2))?, both.put(&noise(n, 3))?);
        let mut p = both.put(&vec![0.0; n])?;
        twice!(both, |d, of| d.swiglu(of!(g).all(), of!(u).all(), n, of!(p).all_mut()));
        both.same(&format!("swiglu {n}"), &p)?;
        twice!(both, |d, of| d.swiglu_vjp(of!(dp).all(), of!(g).all_mut(), of!(u).all_mut(), n));
        both.same(&format!("swiglu_vjp {n}, gate"), &g)?;
        both.same(&format!("swiglu_vjp {n}, up"), &u)?;
        twice!(both, |d, of| d.axpy(-0.7, of!(dp).at(1), of!(u).at_mut(1), n - 1));
        twice!(both, |d, of| d.scale(of!(u).all_mut(), n, 1.7));
        both.same(&format!("axpy, scale {n}"), &u)?;
        let mask = Mask { seed: 5 << 40 | 7, stream: 9 << 40 | 1, rate: 0.3 };
        twice!(both, |d, of| d.dropout(of!(dp).all(), of!(u).all_mut(), n, mask, true));
        both.same(&format!("dropout, added {n}"), &u)?;
        twice!(both, |d, of| d.dropout(of!(u).all(), of!(p).all_mut(), n, mask, false));
        both.same(&format!("dropout {n}"), &p)?;
        let mut sum = both.floats(&[0.0])?;
        twice!(both, |d, of| d.squared_norms(of!(u).all(), &[(0, n)], of!(sum).all_mut()));
        both.same(&format!("squared_norm {n}"), &sum)?;
        twice!(both, |d, of| d.fill(of!(u).at_mut(3), n - 5, 0.25));
        both.same(&format!("fill {n}"), &u)?;
    }
    let (rows, cols, m) = (200, 512, 300);
    let tokens: Vec<u32> = (0..m).map(|i| Philox::new(4).below(i, 60) as u32 * 3).collect();
    let ids = both.ids(&tokens)?;
    for ty in [BlockType::F32, BlockType::Bf16, BlockType::Q4_0, BlockType::Q8_0, BlockType::Q4K] {
        let table = both.put_as(ty, ty, &noise(rows * cols, 1))?;
        let mut y = both.put(&vec![0.0; m as usize * cols])?;
        twice!(both, |d, of| d.embed(
            Weight::of(&of!(table), rows, cols),
            of!(ids).all(),
            m as usize,
            of!(y).all_mut()
        ));
        both.same(&format!("embed {ty}"), &y)?;
    }
    for cols in [512, 2048] {
        let dy = both.put(&noise(m as usize * cols, 2))?;
        let mut d = both.floats(&noise(rows * cols, 3))?;
        twice!(both, |dev, of| dev.embed_vjp(of!(dy).all(), of!(ids).all(), m as usize, rows, cols, of!(d).all_mut()));
        both.same(&format!("embed_vjp {cols}"), &d)?;
    }
    let some = both.ids(&[0, 5, 7, 199])?;
    let table = both.put(&noise(rows * cols, 1))?;
    let mut y = both.put(&vec![0.0; 4 * cols])?;
    twice!(both, |d, of| d.gather(of!(table).all(), of!(some).all(), 4, cols, of!(y).all_mut()));
    both.same("gather", &y)?;
    let mut back = both.put(&noise(rows * cols, 6))?;
    twice!(both, |d, of| d.scatter(of!(y).all(), of!(some).all(), 4, cols, of!(back).all_mut()));
    both.same("scatter", &back)?;
    twice!(both, |d, of| d.copy(of!(y).at(64), of!(back).at_mut(8), 3 * cols));
    both.same("copy", &back)
}

fn attention(both: &mut Both) -> Result<()> {
    // Heads of 40 and 48 take the kernel that is not on tensor cores.
    for (sequences, length, heads, kv_heads, dim, packed) in [
        (1, 64, 2, 2, 64, false),
        (2, 150, 9, 3, 64, false),
        (2, 150, 9, 3, 64, true),
        (2, 150, 12, 4, 128, true),
        (3, 77, 4, 1, 32, true),
        (2, 130, 4, 2, 96, true),
        (1, 33, 4, 2, 40, true),
        (2, 70, 4, 2, 48, false),
    ] {
        let m: usize = sequences * length;
        let of = Causal {
            sequences,
            length,
            heads,
            kv_heads,
            dim,
            scale: 1.0 / (dim as f32).sqrt(),
            window: None,
            cap: None,
        };
        let segments: Vec<u32> = (0..m)
            .map(|i| match i % length {
                t if !packed || t < 13 => 0,
                t if t < 70 => 13,
                _ => 70,
            })
            .collect();
        let segments = both.ids(&segments)?;
        let (wide, narrow) = (m * heads * dim, m * kv_heads * dim);
        let big = |n, seed| noise(n, seed).iter().map(|x| 3.0 * x).collect::<Vec<_>>();
        let (q, k, v) = (both.put(&big(wide, 1))?, both.put(&big(narrow, 2))?, both.put(&noise(narrow, 3))?);
        let (mut o, mut log_sum_exp) = (both.put(&vec![0.0; wide])?, both.floats(&vec![0.0; m * heads])?);
        let name = format!("{sequences}x{length} {heads}/{kv_heads} of {dim}{}", if packed { " packed" } else { "" });
        twice!(both, |d, side| d.attention(
            side!(q).all(),
            side!(k).all(),
            side!(v).all(),
            side!(segments).all(),
            of,
            side!(o).all_mut(),
            side!(log_sum_exp).all_mut()
        ));
        both.same(&format!("attention {name}"), &o)?;
        both.same(&format!("attention {name}, log_sum_exp"), &log_sum_exp)?;
        let d_o = both.put(&noise(wide, 4))?;
        let (mut dq, mut dk, mut dv) =
            (both.put(&vec![0.0; wide])?, both.put(&vec![0.0; narrow])?, both.put(&vec![0.0; narrow])?);
        twice!(both, |d, side| d.attention_vjp(
            side!(q).all(),
            side!(k).all(),
            side!(v).all(),
            side!(o).all(),
            side!(log_sum_exp).all(),
            side!(d_o).all(),
            side!(segments).all(),
            of,
            side!(dq).all_mut(),
            side!(dk).all_mut(),
            side!(dv).all_mut()
        ));
        both.same(&format!("attention_vjp {name}, dq"), &dq)?;
        both.same(&format!("attention_vjp {name}, dk"), &dk)?;
        both.same(&format!("attention_vjp {name}, dv"), &dv)?;
    }
    Ok(())
}

fn head(both: &mut Both) -> Result<()> {
    let (m, vocab) = (50, 3001);
    let all: Vec<u32> = (0..m).map(|i| Philox::new(8).below(i, vocab as u64) as u32).collect();
    let some: Vec<u32> = all.iter().enumerate().map(|(i, t)| if i % 7 == 3 { NONE } else { *t }).collect();
    let all = both.ids(&all)?;
    let (m, targets) = (m as usize, both.ids(&some)?);
    let logits: Vec<f32> = noise(m * vocab, 1).iter().map(|x| 20.0 * x).collect();
    let block = |first: usize, n: usize| -> Vec<f32> {
        (0..m).flat_map(|i| logits[i * vocab + first..][..n].iter().copied()).collect()
    };
    let mut log_sum_exp = both.floats(&vec![f32::NEG_INFINITY; m])?;
    let mut picked = both.floats(&vec![0.0; m])?;
    for (first, n) in [(0, 1000), (1000, 2000), (3000, 1)] {
        let a = both.floats(&block(first, n))?;
        twice!(both, |d, of| d.log_sum_exp(
            of!(a).all(),
            m,
            n,
            Columns::From(first),
            of!(all).all(),
            of!(log_sum_exp).all_mut(),
            of!(picked).all_mut(),
            None
        ));
    }
    both.within("log_sum_exp", &log_sum_exp, 1e-5)?;
    both.within("picked", &picked, 1e-6)?;
    for (first, n) in [(0, vocab), (1000, 2000)] {
        let mut a = both.floats(&block(first, n))?;
        twice!(both, |d, of| d.cross_entropy_vjp(
            of!(a).all_mut(),
            m,
            n,
            Columns::From(first),
            of!(targets).all(),
            of!(log_sum_exp).all(),
            0.02,
            0.0
        ));
        both.within(&format!("cross_entropy_vjp {first}, {n}"), &a, 2e-5)?;
    }
    Ok(())
}

/// One pass of a rule on one device.
#[allow(clippy::too_many_arguments)]
fn apply(
    d: &dyn Device,
    rule: &'static Rule,
    p: &mut Buf,
    g: Gradient<Src<'_>>,
    state: &mut [Buf],
    numbers: &[f32],
    (scale, clamp): (f32, f32),
    round: Round<'_>,
) -> Result<()> {
    let len = p.len();
    d.run(Op::Elementwise { rule, p: p.all_mut(), len, g, state, numbers, scale, clamp, round })
}

/// What a mode of rounding is on one device.
fn round<'a>(mode: &str, extra: &'a mut Buf) -> Round<'a> {
    match mode {
        "nearest" => Round::Nearest,
        "stochastic" => Round::Stochastic { seed: 7, stream: 9 },
        "kahan" => Round::Kahan(extra),
        _ => Round::Master(extra),
    }
}

fn updates(both: &mut Both) -> Result<()> {
    let n = 5003;
    let adamw = [1e-2, 0.9, 0.999, 1e-8, 0.1, 1.0 / 0.19, 1.0 / 0.001_999];
    let clip = (0.5, 0.3);
    for (ty, state) in [
        (BlockType::F32, BlockType::F32),
        (BlockType::F32, BlockType::Bf16),
        (BlockType::Bf16, BlockType::F32),
        (BlockType::Bf16, BlockType::Bf16),
    ] {
        for mode in ["nearest", "stochastic", "kahan", "master"] {
            if mode == "master" && ty == BlockType::F32 {
                continue;
            }
            let mut p = both.put_as(ty, ty, &noise(n, 1))?;
            let g = both.floats(&noise(n, 2))?;
            let squares: Vec<f32> = noise(n, 4).iter().map(|x| x * x).collect();
            let (m, v) = (both.put_as(state, state, &noise(n, 3))?, both.put_as(state, state, &squares)?);
            let (mut there, mut here) = ([m.gpu, v.gpu], [m.cpu, v.cpu]);
            let mut extra = match mode {
                "master" => both.put_as(BlockType::F32, BlockType::F32, &noise(n, 1))?,
                _ => both.put_as(ty, ty, &vec![0.0; n])?,
            };
            for _ in 0..3 {
                let (a, b) = (round(mode, &mut extra.gpu), round(mode, &mut extra.cpu));
                let (on_gpu, on_cpu) = (Gradient::Held(g.gpu.all()), Gradient::Held(g.cpu.all()));
                apply(&both.gpu, &ADAMW, &mut p.gpu, on_gpu, &mut there, &adamw, clip, a)?;
                apply(&both.cpu, &ADAMW, &mut p.cpu, on_cpu, &mut here, &adamw, clip, b)?;
            }
            // bf16 parameters may fall on either side of a tie.
            let most = if ty == BlockType::Bf16 || state == BlockType::Bf16 { 8e-3 } else { 1e-6 };
            both.within(&format!("adamw {ty}, {state} moments, {mode}"), &p, most)?;
            let ([_, v], [_, w]) = (there, here);
            let second = if state == BlockType::Bf16 { 8e-3 } else { 1e-6 };
            both.within("  second moment", &Pair { gpu: v, cpu: w }, second)?;
            let mut p = both.put_as(ty, ty, &noise(n, 1))?;
            let u = both.put_as(state, state, &noise(n, 5))?;
            let (mut there, mut here, numbers) = ([u.gpu], [u.cpu], [1e-2, 0.1, 0.9]);
            let (a, b) = (round(mode, &mut extra.gpu), round(mode, &mut extra.cpu));
            let (on_gpu, on_cpu) = (Gradient::Held(g.gpu.all()), Gradient::Held(g.cpu.all()));
            apply(&both.gpu, &NESTEROV, &mut p.gpu, on_gpu, &mut there, &numbers, clip, a)?;
            apply(&both.cpu, &NESTEROV, &mut p.cpu, on_cpu, &mut here, &numbers, clip, b)?;
            both.within(&format!("sgd {ty}, {state} momentum, {mode}"), &p, most)?;
        }
    }
    // A gradient that is made where it is needed; from zeros on, so that what is compared is the normal numbers.
    let (mut p, numbers, whole) = (both.floats(&vec![0.0; n])?, [-1.0, 0.0], (1.0, f32::INFINITY));
    let normal = || Gradient::Normal { seed: 5 << 40 | 3, stream: 9 << 40 | 1 };
    apply(&both.gpu, &SGD, &mut p.gpu, normal(), &mut [], &numbers, whole, Round::Nearest)?;
    apply(&both.cpu, &SGD, &mut p.cpu, normal(), &mut [], &numbers, whole, Round::Nearest)?;
    both.within("normal numbers", &p, 1e-6)?;
    let mut y = both.floats(&vec![0.0; n])?;
    apply(&both.gpu, &TANH, &mut y.gpu, Gradient::Held(p.gpu.all()), &mut [], &[], whole, Round::Nearest)?;
    apply(&both.cpu, &TANH, &mut y.cpu, Gradient::Held(p.cpu.all()), &mut [], &[], whole, Round::Nearest)?;
    both.within("tanh", &y, 1e-6)
}

/// What small nets have beside, and what a projection is found by.
fn nets(both: &mut Both) -> Result<()> {
    let of = Window { n: 3, channels: 5, height: 14, width: 11, kernel: 3, stride: 2, pad: 1 };
    let x = both.put(&noise(of.n * of.image(), 1))?;
    let mut y = both.put(&vec![0.0; of.outputs() * of.patch()])?;
    twice!(both, |d, side| d.run(Op::Im2col { x: side!(x).all(), of, y: side!(y).all_mut() }));
    both.same("im2col", &y)?;
    let mut dx = both.put(&vec![0.0; of.n * of.image()])?;
    twice!(both, |d, side| d.run(Op::Col2im { dy: side!(y).all(), of, dx: side!(dx).all_mut() }));
    both.same("col2im", &dx)?;
    let (rows, cols) = (of.outputs(), of.patch());
    for how in [Reduction::Sum, Reduction::Mean, Reduction::Max] {
        let mut z = both.put(&vec![0.0; rows])?;
        twice!(both, |d, side| d.run(Op::Reduce { x: side!(y).all(), rows, cols, how, y: side!(z).all_mut() }));
        both.same(&format!("reduction {how:?}"), &z)?;
    }
    for (a_turned, b_turned) in [(false, false), (true, false), (false, true)] {
        let of = Batched { batch: 4, m: 24, n: 40, k: 16, a_turned, b_turned };
        let (a, b) = (both.put(&noise(4 * 24 * 16, 2))?, both.put(&noise(4 * 16 * 40, 3))?);
        let mut c = both.put(&noise(4 * 24 * 40, 4))?;
        twice!(both, |d, side| d.run(Op::BatchedMatMul {
            a: side!(a).all(),
            b: side!(b).all(),
            of,
            c: side!(c).all_mut(),
            add: true
        }));
        both.same(&format!("batched product {a_turned} {b_turned}"), &c)?;
    }
    let (rows, cols, rank) = (12, 300, 4);
    let mut y = both.floats(&noise(rows * cols, 5))?;
    twice!(both, |d, side| d.run(Op::Orthonormalize { y: side!(y).all_mut(), rows, cols }));
    both.within("orthonormal rows", &y, 1e-6)?;
    let z = both.floats(&noise(rows * cols, 6))?;
    let mut vectors = both.floats(&vec![0.0; rank * rows])?;
    twice!(both, |d, side| d.run(Op::LeadingVectors {
        z: side!(z).all(),
        rows,
        cols,
        rank,
        vectors: side!(vectors).all_mut()
    }));
    both.within("leading vectors", &vectors, 1e-6)
}
