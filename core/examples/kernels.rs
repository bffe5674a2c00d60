//! Times the CPU kernels on the shapes of SmolLM2-135M, every layer's weights being its own as in a real token:
//! `cargo run --release --example kernels [threads] [repeats] [most rows]`. Each layer's best of the repeats, as other work may share the cores.
#![allow(unsafe_code, reason = "a clock of the system")]

use std::time::Instant;

use ullage_core::blocks::BlockType;
use ullage_core::ops::cpu::{
    Attention, KvTiles, Mat, Product, attend, decode_rows, kernels, linear_many, linear_scratch,
};
use ullage_core::ops::team::ThreadTeam;

const LAYERS: usize = 30;
const HIDDEN: usize = 576;
const KV: usize = 192;
const FF: usize = 1536;
const VOCAB: usize = 49_152;

struct Layer {
    q: Vec<u8>,
    k: Vec<u8>,
    v: Vec<u8>,
    o: Vec<u8>,
    gate: Vec<u8>,
    up: Vec<u8>,
    down: Vec<u8>,
}

fn stored(ty: BlockType, rows: usize, cols: usize, seed: &mut u64) -> Vec<u8> {
    let mut bytes = vec![0u8; ty.row_bytes(cols).expect("whole blocks") * rows];
    for chunk in bytes.chunks_mut(8) {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        chunk.copy_from_slice(&seed.to_le_bytes()[..chunk.len()]);
    }
    // Small scales, so that nothing overflows over 30 layers.
    for block in bytes.chunks_mut(ty.block_bytes()) {
        block[..2].copy_from_slice(&[0x00, 0x14]);
        if ty == BlockType::Q4_1 {
            block[2..4].copy_from_slice(&[0x00, 0x94]);
        }
    }
    bytes
}

/// Seconds: of this thread's own work when it is the only one, else on the wall.
fn now(threads: usize) -> f64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let clock = if threads == 1 { libc::CLOCK_THREAD_CPUTIME_ID } else { libc::CLOCK_MONOTONIC };
    // SAFETY: `t` is a valid place to write to.
    unsafe { libc::clock_gettime(clock, &mut t) };
    t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
}

fn best(repeats: usize, mut f: impl FnMut()) -> f64 {
    f();
    (0..repeats)
        .map(|_| {
            let t = Instant::now();
            f();
            t.elapsed().as_secs_f64()
        })
        .fold(f64::MAX, f64::min)
}

fn main() -> ullage_core::Result<()> {
    let mut args = std::env::args().skip(1).map(|a| a.parse::<usize>().expect("a number"));
    let (threads, repeats) = (args.next().unwrap_or(2), args.next().unwrap_or(20));
    let most = args.next().unwrap_or(512);
    let team = ThreadTeam::new(threads)?;
    println!("{} threads, {} kernels, best of {repeats}", threads, kernels().level.as_str());

    let regions = 2000;
    let t = best(repeats, || (0..regions).for_each(|_| team.run(threads, &|_, _| ()).expect("not cancelled")));
    println!("empty region: {:.2} µs", t / regions as f64 * 1e6);

    for ty in [BlockType::Q4_1, BlockType::Q4_0, BlockType::Q8_0, BlockType::F16] {
        let mut seed = 88172645463325252;
        let mut mat = |rows, cols| stored(ty, rows, cols, &mut seed);
        let layers: Vec<Layer> = (0..LAYERS)
            .map(|_| Layer {
                q: mat(HIDDEN, HIDDEN),
                k: mat(KV, HIDDEN),
                v: mat(KV, HIDDEN),
                o: mat(HIDDEN, HIDDEN),
                gate: mat(FF, HIDDEN),
                up: mat(FF, HIDDEN),
                down: mat(HIDDEN, FF),
            })
            .collect();
        let head = stored(BlockType::Q8_0, VOCAB, HIDDEN, &mut seed);
        let weights = LAYERS * (2 * HIDDEN * HIDDEN + 2 * KV * HIDDEN + 3 * FF * HIDDEN);
        let bytes = weights / ty.elems() * ty.block_bytes();
        let mut scratch = vec![0.0; linear_scratch(threads, FF)];
        for m in [1, 2, 4, 6, 8, 64, 512].into_iter().filter(|m| *m <= most) {
            let x: Vec<f32> = (0..m * FF).map(|i| (i % 17) as f32 - 8.0).collect();
            let mut y: [Vec<f32>; 3] = std::array::from_fn(|_| vec![0.0; m * FF]);
            let w = |data, rows, cols| Mat::new(ty, rows, cols, data).expect("a matrix");
            let mut best_of_layer = [f64::MAX; LAYERS];
            for _ in 0..if m > 8 { repeats.div_ceil(4) } else { repeats } {
                for (l, best) in layers.iter().zip(&mut best_of_layer) {
                    let started = now(threads);
                    let [a, b, c] = &mut y;
                    let mut many = |cols, products: &mut [Product<'_>]| {
                        linear_many(&team, &x[..m * cols], m, products, &mut scratch).expect("runs");
                    };
                    many(
                        HIDDEN,
                        &mut [
                            Product { w: w(&l.q, HIDDEN, HIDDEN), y: a, ldy: HIDDEN },
                            Product { w: w(&l.k, KV, HIDDEN), y: b, ldy: KV },
                            Product { w: w(&l.v, KV, HIDDEN), y: c, ldy: KV },
                        ],
                    );
                    many(HIDDEN, &mut [Product { w: w(&l.o, HIDDEN, HIDDEN), y: a, ldy: HIDDEN }]);
                    many(
                        HIDDEN,
                        &mut [
                            Product { w: w(&l.gate, FF, HIDDEN), y: a, ldy: FF },
                            Product { w: w(&l.up, FF, HIDDEN), y: b, ldy: FF },
                        ],
                    );
                    many(FF, &mut [Product { w: w(&l.down, HIDDEN, FF), y: a, ldy: HIDDEN }]);
                    *best = best.min(now(threads) - started);
                }
            }
            let t: f64 = best_of_layer.iter().sum();
            println!(
                "{ty} m {m}: {:.2} ms, {:.0} GFLOP/s, {:.1} GB/s, {:.0} tok/s",
                t * 1e3,
                2.0 * (weights * m) as f64 / t * 1e-9,
                bytes as f64 / t * 1e-9,
                m as f64 / t
            );
        }
        if ty == BlockType::Q4_1 {
            let x = vec![1.0; HIDDEN];
            let mut logits = vec![0.0; VOCAB];
            let w = Mat::new(BlockType::Q8_0, VOCAB, HIDDEN, &head)?;
            let t = best(repeats, || {
                linear_many(&team, &x, 1, &mut [Product { w, y: &mut logits, ldy: VOCAB }], &mut scratch)
                    .expect("runs");
            });
            println!("head q8_0 m 1: {:.2} ms, {:.1} GB/s", t * 1e3, head.len() as f64 / t * 1e-9);
        }
    }
    for (depth, tokens) in [(512, 1), (4096, 1), (512, 512), (4096, 512)] {
        let shape = Attention { heads: 9, kv_heads: 3, dim: 64, scale: 0.125, tokens, window: None, cap: None };
        let caches: Vec<Half> =
            (0..LAYERS).map(|_| Half { rows: depth, keys: halves(depth), values: halves(depth) }).collect();
        let q = vec![0.5; tokens * HIDDEN];
        let mut out = vec![0.0; tokens * HIDDEN];
        let mut scratch = vec![0.0; shape.scratch(threads, depth)];
        let mut bests = [f64::MAX; LAYERS];
        for _ in 0..if tokens > 1 { repeats.div_ceil(4) } else { repeats } {
            for (cache, best) in caches.iter().zip(&mut bests) {
                let t = now(threads);
                attend(&team, &q, cache, shape, &mut out, &mut scratch, None)?;
                *best = best.min(now(threads) - t);
            }
        }
        let t: f64 = bests.iter().sum();
        let pairs = (depth - tokens) * tokens + tokens * (tokens + 1) / 2;
        println!(
            "attention f16, {depth} rows, {tokens} tokens: {:.2} ms, {:.0} GFLOP/s, {:.1} GB/s",
            t * 1e3,
            (LAYERS * 4 * 9 * 64 * pairs) as f64 / t * 1e-9,
            (LAYERS * 2 * 2 * 192 * depth) as f64 / t * 1e-9
        );
    }
    Ok(())
}

/// A cache of f16 rows `(kv heads, rows, 64)`.
struct Half {
    rows: usize,
    keys: Vec<u8>,
    values: Vec<u8>,
}

fn halves(rows: usize) -> Vec<u8> {
    (0..rows * KV).flat_map(|i| [(i * 37) as u8, 0x20 | (i % 16) as u8]).collect()
}

impl KvTiles for Half {
    fn rows(&self, _: usize) -> usize {
        self.rows
    }
    fn keys(&self, head: usize, start: usize, n: usize, out: &mut [f32]) {
        decode_rows(BlockType::F16, &self.keys[(head * self.rows + start) * 128..][..n * 128], out).expect("decodes");
    }
    fn values(&self, head: usize, start: usize, n: usize, out: &mut [f32]) {
        decode_rows(BlockType::F16, &self.values[(head * self.rows + start) * 128..][..n * 128], out).expect("decodes");
    }
}
