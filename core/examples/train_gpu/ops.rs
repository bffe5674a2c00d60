//! Time of each op at the shapes of real models.

use std::sync::Arc;
use std::time::Instant;

use ullage_core::Result;
use ullage_core::blocks::BlockType;
use ullage_core::device::gpu::{Gpu, Precision};
use ullage_core::device::{Buf, Causal, Columns, Device, Gradient, Op, RopeTable, Round, Sizes, Weight};
use ullage_core::ledger::{Category, Ledger, Tag};
use ullage_core::ops::ThreadTeam;
use ullage_core::ops::cpu::RopeLayout;
use ullage_core::ops::cuda;
use ullage_core::train::optimizer::ADAMW;

const TAG: Tag = Tag::device(Category::Workspace, "timing");
const BF: BlockType = BlockType::Bf16;

struct Shape {
    name: &'static str,
    m: usize,
    hidden: usize,
    ff: usize,
    heads: usize,
    kv_heads: usize,
    dim: usize,
    vocab: usize,
    weights: BlockType,
}

const SHAPES: &[Shape] = &[
    Shape { name: "135M", m: 2048, hidden: 576, ff: 1536, heads: 9, kv_heads: 3, dim: 64, vocab: 49152, weights: BF },
    Shape { name: "1B", m: 2048, hidden: 2048, ff: 8192, heads: 32, kv_heads: 8, dim: 64, vocab: 128_256, weights: BF },
    Shape {
        name: "8B q4_0",
        m: 512,
        hidden: 4096,
        ff: 14336,
        heads: 32,
        kv_heads: 8,
        dim: 128,
        vocab: 128_256,
        weights: BlockType::Q4_0,
    },
];

pub fn all() -> Result<()> {
    for shape in SHAPES {
        one(shape)?;
    }
    Ok(())
}

fn time(gpu: &dyn Device, what: &str, flops: f64, bytes: f64, mut call: impl FnMut() -> Result<()>) -> Result<()> {
    call()?;
    gpu.wait()?;
    let n = 20;
    let start = Instant::now();
    for _ in 0..n {
        call()?;
    }
    let queued = start.elapsed().as_secs_f64() / f64::from(n);
    gpu.wait()?;
    let seconds = start.elapsed().as_secs_f64() / f64::from(n);
    println!(
        "  {what:34} {:8.1} us ({:5.1} queued)  {:6.0} TFLOP/s {:6.0} GB/s",
        seconds * 1e6,
        queued * 1e6,
        flops / seconds / 1e12,
        bytes / seconds / 1e9
    );
    Ok(())
}

fn one(s: &Shape) -> Result<()> {
    let (m, h) = (s.m, s.hidden);
    let (a, kv) = (s.heads * s.dim, s.kv_heads * s.dim);
    let chunk = 256;
    let sizes = Sizes {
        rows: m,
        cols: s.ff,
        hidden: h,
        outputs: s.vocab,
        head_rows: chunk,
        length: 512,
        sequences: m / 512,
        heads: s.heads,
        kv_heads: s.kv_heads,
        head_dim: s.dim,
        basis: 0,
        load: 0,
    };
    let ledger = Ledger::new(u64::MAX, u64::MAX, u64::MAX);
    let team = Arc::new(ThreadTeam::new(2)?);
    let device = cuda::Device::open(0, u64::MAX)?;
    let g = Gpu::new(&device, &ledger, &team, &sizes, Precision::Bf16)?;
    let g: &dyn Device = &g;
    println!("\n{}, {m} tokens, on {:?}: {:?}", s.name, device.name(), g.beside()?);
    let buf = |ty: BlockType, n: usize| -> Result<Buf> { g.buffer(TAG, ty, n) };
    let mf = |n: usize, k: usize| 2.0 * m as f64 * n as f64 * k as f64;
    let (mut x, mut y) = (buf(BF, m * s.ff)?, buf(BF, m * s.ff)?);
    let mut z = buf(BF, m * s.ff)?;
    let w = buf(s.weights, s.ff * h)?;
    let up = Weight::of(&w, s.ff, h);
    let down = Weight::of(&w, h, s.ff);
    let wb = w.bytes() as f64;
    time(g, "linear up", mf(s.ff, h), wb, || g.linear(x.all(), m, up, None, y.all_mut(), false))?;
    time(g, "linear down, added", mf(s.ff, h), wb, || g.linear(x.all(), m, down, None, y.all_mut(), true))?;
    time(g, "linear q", mf(a, h), 0.0, || g.linear(x.all(), m, Weight::of(&w, a, h), None, y.all_mut(), false))?;
    time(g, "linear k", mf(kv, h), 0.0, || g.linear(x.all(), m, Weight::of(&w, kv, h), None, y.all_mut(), false))?;
    time(g, "linear_dx up", mf(s.ff, h), wb, || g.linear_dx(y.all(), m, up, x.all_mut(), false))?;
    time(g, "linear_dx down", mf(s.ff, h), wb, || g.linear_dx(y.all(), m, down, x.all_mut(), false))?;
    for ty in [BlockType::F32, BF] {
        let mut dw = buf(ty, s.ff * h)?;
        time(g, &format!("linear_dw up to {ty}"), mf(s.ff, h), 0.0, || {
            g.linear_dw(y.all(), x.all(), m, s.ff, h, dw.all_mut(), false)
        })?;
    }
    let (la, lb) = (buf(BlockType::F32, 8 * s.ff)?, buf(BF, 8 * s.ff)?);
    let mut r = buf(BF, m * 8)?;
    time(g, "adapter A f32", 0.0, 0.0, || g.linear(x.all(), m, Weight::of(&la, 8, h), None, r.all_mut(), false))?;
    time(g, "adapter A bf16", 0.0, 0.0, || g.linear(x.all(), m, Weight::of(&lb, 8, h), None, r.all_mut(), false))?;
    time(g, "adapter B bf16, added", 0.0, 0.0, || {
        g.linear(r.all(), m, Weight::of(&lb, s.ff, 8), None, y.all_mut(), true)
    })?;
    let mut dw = buf(BlockType::F32, 8 * s.ff)?;
    time(g, "adapter dA", 0.0, 0.0, || g.linear_dw(r.all(), x.all(), m, 8, h, dw.all_mut(), false))?;
    time(g, "adapter dB", 0.0, 0.0, || g.linear_dw(y.all(), r.all(), m, s.ff, 8, dw.all_mut(), false))?;
    time(g, "adapter dx of B", 0.0, 0.0, || g.linear_dx(y.all(), m, Weight::of(&lb, s.ff, 8), r.all_mut(), false))?;
    let norm = buf(BlockType::F32, h)?;
    let n = (m * h) as f64;
    time(g, "rms_norm", 0.0, 4.0 * n, || g.rms_norm(x.all(), norm.all(), m, h, 1e-5, y.all_mut()))?;
    time(g, "rms_norm_vjp", 0.0, 8.0 * n, || {
        g.rms_norm_vjp(y.all(), x.all(), norm.all(), m, h, 1e-5, z.all_mut(), None)
    })?;
    let mut dn = buf(BlockType::F32, h)?;
    time(g, "rms_norm_vjp with dw", 0.0, 8.0 * n, || {
        g.rms_norm_vjp(y.all(), x.all(), norm.all(), m, h, 1e-5, z.all_mut(), Some((dn.all_mut(), false)))
    })?;
    let n = (m * s.ff) as f64;
    time(g, "swiglu", 0.0, 6.0 * n, || g.swiglu(x.all(), y.all(), m * s.ff, z.all_mut()))?;
    time(g, "swiglu_vjp", 0.0, 10.0 * n, || g.swiglu_vjp(z.all(), x.all_mut(), y.all_mut(), m * s.ff))?;
    time(g, "axpy", 0.0, 6.0 * (m * h) as f64, || g.axpy(1.0, x.all(), y.all_mut(), m * h))?;
    let (cos, sin) = (buf(BlockType::F32, 512 * s.dim / 2)?, buf(BlockType::F32, 512 * s.dim / 2)?);
    let (positions, segments) = (buf(BlockType::I32, m)?, buf(BlockType::I32, m)?);
    let turn = RopeTable {
        cos: &cos,
        sin: &sin,
        positions: &positions,
        half: s.dim / 2,
        pairs: RopeLayout::Interleaved,
        inverse: false,
    };
    time(g, "rope q", 0.0, 4.0 * (m * a) as f64, || g.rope(x.all_mut(), m, s.heads, s.dim, turn))?;
    let of = Causal {
        sequences: m / 512,
        length: 512,
        heads: s.heads,
        kv_heads: s.kv_heads,
        dim: s.dim,
        scale: 0.125,
        window: None,
        cap: None,
    };
    let (k, v) = (buf(BF, m * kv)?, buf(BF, m * kv)?);
    let mut log_sum_exp = buf(BlockType::F32, m * s.heads)?;
    let pairs = 2.0 * (m * 256 * s.heads * s.dim) as f64;
    let q = buf(BF, m * a)?;
    let mut o = buf(BF, m * a)?;
    time(g, "attention", 2.0 * pairs, 0.0, || {
        g.attention(q.all(), k.all(), v.all(), segments.all(), of, o.all_mut(), log_sum_exp.all_mut())
    })?;
    let (mut dq, mut dk, mut dv) = (buf(BF, m * a)?, buf(BF, m * kv)?, buf(BF, m * kv)?);
    let d_o = buf(BF, m * a)?;
    time(g, "attention_vjp", 5.0 * pairs, 0.0, || {
        g.attention_vjp(
            q.all(),
            k.all(),
            v.all(),
            o.all(),
            log_sum_exp.all(),
            d_o.all(),
            segments.all(),
            of,
            dq.all_mut(),
            dk.all_mut(),
            dv.all_mut(),
        )
    })?;
    let head = buf(s.weights, s.vocab * h)?;
    let head = Weight::of(&head, s.vocab, h);
    let mut logits = buf(BlockType::F32, chunk * s.vocab)?;
    let targets = buf(BlockType::I32, m)?;
    let mut picked = buf(BlockType::F32, m)?;
    let mut sums = buf(BlockType::F32, m)?;
    let cf = 2.0 * (chunk * s.vocab * h) as f64;
    let lb = (4 * chunk * s.vocab) as f64;
    time(g, "head, a chunk of 256", cf, lb, || g.linear(x.all(), chunk, head, None, logits.all_mut(), false))?;
    time(g, "log_sum_exp", 0.0, lb, || {
        let (all, sums, picked) = (Columns::From(0), sums.all_mut(), picked.all_mut());
        g.log_sum_exp(logits.all(), chunk, s.vocab, all, targets.all(), sums, picked, None)
    })?;
    time(g, "cross_entropy_vjp", 0.0, 2.0 * lb, || {
        let all = Columns::From(0);
        g.cross_entropy_vjp(logits.all_mut(), chunk, s.vocab, all, targets.all(), sums.all(), 1.0, 0.0).map(|_| ())
    })?;
    time(g, "head dx", cf, lb, || g.linear_dx(logits.all(), chunk, head, x.all_mut(), false))?;
    if s.weights == BF {
        let mut dw = buf(BlockType::F32, s.vocab * h)?;
        time(g, "head dw, added", cf, lb, || {
            g.linear_dw(logits.all(), x.all(), chunk, s.vocab, h, dw.all_mut(), true)
        })?;
        time(g, "embed_vjp", 0.0, 0.0, || g.embed_vjp(x.all(), targets.all(), m, s.vocab, h, dw.all_mut()))?;
    }
    let mut p = buf(BF, s.ff * h)?;
    let numbers = [1e-3, 0.9, 0.999, 1e-8, 0.0, 10.0, 1000.0];
    for (grad, state) in [(BlockType::F32, BlockType::F32), (BF, BF)] {
        let gr = buf(grad, s.ff * h)?;
        let mut moments = [buf(state, s.ff * h)?, buf(state, s.ff * h)?];
        let bytes = (p.len() * (4 + grad.block_bytes() + 4 * state.block_bytes())) as f64;
        time(g, &format!("adamw, {grad} gradient, {state} moments"), 0.0, bytes, || {
            let (rule, len, held) = (&ADAMW, p.len(), Gradient::Held(gr.all()));
            let (p, state, scale, clamp) = (p.all_mut(), &mut moments[..], 1.0, f32::INFINITY);
            g.run(Op::Elementwise {
                rule,
                p,
                len,
                g: held,
                state,
                numbers: &numbers,
                scale,
                clamp,
                round: Round::Nearest,
            })
        })?;
        let mut sum = buf(BlockType::F32, 1)?;
        time(g, &format!("squared_norm {grad}"), 0.0, gr.bytes() as f64, || {
            g.squared_norms(gr.all(), &[(0, gr.len())], sum.all_mut())
        })?;
    }
    Ok(())
}
