//! These need a GPU; without one they say so and pass.

use std::sync::Arc;

use super::{Attend, CacheEntry, Device, DeviceBuffer, Kernels, Matrix, Output, Purpose, RopeTable, StepAttend, View};
use crate::blocks::{self, BlockType};
use crate::error::Error;
use crate::ledger::{Category, Ledger, Tag};
use crate::ops::gpu::{KV_TYPES, WEIGHT_TYPES, parts_elements, step_splits};
use crate::rng::Philox;
use crate::shape::Act;

const TAG: Tag = Tag::device(Category::Workspace, "test");

fn open(budget: u64) -> Option<Arc<Device>> {
    match Device::open(0, budget) {
        Ok(device) => Some(device),
        Err(e) => {
            crate::skip::pass_over(format!("no GPU: {e}"));
            None
        }
    }
}

fn free() -> Arc<Ledger> {
    Ledger::new(u64::MAX, u64::MAX, u64::MAX)
}

fn put(device: &Arc<Device>, ledger: &Arc<Ledger>, bytes: &[u8]) -> DeviceBuffer {
    let buffer = device.buffer(ledger, TAG, bytes.len()).unwrap();
    device.upload(bytes, buffer.view()).unwrap();
    buffer
}

fn get(device: &Device, view: View<'_>) -> Vec<f32> {
    let mut out = vec![0f32; view.len() / 4];
    device.download(view, bytemuck::cast_slice_mut(&mut out)).unwrap();
    out
}

fn noise(n: usize, seed: u64) -> Vec<f32> {
    (0..n).map(|i| Philox::new(seed).uniform(i as u64) * 2.0 - 1.0).collect()
}

fn bytes_of(x: &[f32]) -> &[u8] {
    bytemuck::cast_slice(x)
}

/// A matrix of arbitrary codes with finite scales, as a file stores it.
fn stored(ty: BlockType, rows: usize, cols: usize, seed: u64) -> Vec<u8> {
    let random = Philox::new(seed ^ u64::from(ty.id()) << 32);
    let mut bytes: Vec<u8> = (0..ty.row_bytes(cols).unwrap() * rows).map(|i| random.block(i as u64)[0] as u8).collect();
    for (i, block) in bytes.chunks_exact_mut(ty.block_bytes()).enumerate() {
        let x = 0.02 * (random.uniform(i as u64) - 0.5);
        let half = half::f16::from_f32(x as f32).to_le_bytes();
        let at = match ty {
            BlockType::F32 => {
                block.copy_from_slice(&(x as f32).to_le_bytes());
                continue;
            }
            BlockType::Bf16 => {
                block.copy_from_slice(&half::bf16::from_f32(x as f32).to_le_bytes());
                continue;
            }
            BlockType::Q2K => 80,
            BlockType::Q3K => 108,
            BlockType::Q6K => 208,
            BlockType::Mxfp4 => {
                block[0] = 118 + block[0] % 6;
                continue;
            }
            _ => 0,
        };
        block[at..at + 2].copy_from_slice(&half);
        if matches!(ty, BlockType::Q4_1 | BlockType::Q5_1 | BlockType::Q2K | BlockType::Q4K | BlockType::Q5K) {
            block[at + 2..at + 4].copy_from_slice(&half::f16::from_f32(0.5 * x as f32).to_le_bytes());
        }
    }
    bytes
}

/// The same on the GPU, its blocks cut in two, in two goes.
fn held(
    kernels: &Kernels,
    ledger: &Arc<Ledger>,
    ty: BlockType,
    rows: usize,
    cols: usize,
    bytes: &[u8],
) -> DeviceBuffer {
    let device = kernels.device();
    let (raw, to) = (put(device, ledger, bytes), device.buffer(ledger, TAG, bytes.len()).unwrap());
    let (row, first) = (bytes.len() / rows, rows / 3);
    let w = Matrix { view: to.view(), ty, rows, cols };
    for (from, n) in [(0, first), (first, rows - first)] {
        kernels.split(raw.part(from * row, n * row).unwrap(), w, from).unwrap();
    }
    device.wait().unwrap();
    to
}

#[test]
fn weights_decode_to_the_numbers_of_the_cpu() {
    let Some(device) = open(1 << 30) else { return };
    let (ledger, kernels) = (free(), Kernels::new(Arc::clone(&device)).unwrap());
    let (rows, cols) = (3, 512);
    for ty in WEIGHT_TYPES {
        let table = stored(*ty, rows, cols, 1);
        let ids = [2u32, 0, 1, 2];
        let table_there = held(&kernels, &ledger, *ty, rows, cols, &table);
        let w = Matrix { view: table_there.view(), ty: *ty, rows, cols };
        let ids_there = put(&device, &ledger, bytemuck::cast_slice(&ids));
        let out = device.buffer(&ledger, TAG, 4 * ids.len() * cols).unwrap();
        kernels.lookup(w, ids_there.view(), ids.len(), out.view(), 1.0).unwrap();
        let mut expected = vec![0f32; rows * cols];
        blocks::decode(*ty, &table, &mut expected).unwrap();
        // Zeros may differ in their sign.
        let same = |(a, b): (&f32, &f32)| a == b;
        for (i, (row, id)) in get(&device, out.view()).chunks(cols).zip(ids).enumerate() {
            assert!(row.iter().zip(&expected[id as usize * cols..]).all(same), "{ty}, row {i}");
        }
        let out = device.buffer(&ledger, TAG, 4 * 2 * cols).unwrap();
        kernels.expand(w, 1, 2, out.view(), BlockType::F32).unwrap();
        assert!(get(&device, out.view()).iter().zip(&expected[cols..]).all(same), "{ty} expanded");
        kernels.expand(w, 1, 2, out.view(), BlockType::F16).unwrap();
        let mut halves = vec![0u8; 4 * cols];
        device.download(out.part(0, 4 * cols).unwrap(), &mut halves).unwrap();
        for (got, x) in halves.chunks(2).zip(&expected[cols..]) {
            assert_eq!(half::f16::from_le_bytes([got[0], got[1]]), half::f16::from_f32(*x), "{ty} as f16");
        }
    }
}

#[test]
fn products_are_exact_and_do_not_depend_on_the_rows_beside() {
    let Some(device) = open(1 << 30) else { return };
    let (ledger, kernels) = (free(), Kernels::new(Arc::clone(&device)).unwrap());
    for (rows, cols, m) in [(37, 768, 11), (600, 2560, 3), (5, 33792, 2)] {
        let (x, norm, bias) = (noise(m * cols, 2), noise(cols, 3), noise(rows, 4));
        let [x_there, norm_there, bias_there] = [&x, &norm, &bias].map(|v| put(&device, &ledger, bytes_of(v)));
        for ty in WEIGHT_TYPES {
            let bytes = stored(*ty, rows, cols, 5);
            let mut w = vec![0f32; rows * cols];
            blocks::decode(*ty, &bytes, &mut w).unwrap();
            let there = held(&kernels, &ledger, *ty, rows, cols, &bytes);
            let matrix = Matrix { view: there.view(), ty: *ty, rows, cols };
            let store = Purpose::Store { scale: 1.0, cap: None };
            let run =
                |x: View<'_>, m: usize, normed: bool, with_bias: bool, purpose: Purpose, start: Option<&[f32]>| {
                    let y = device.buffer(&ledger, TAG, 4 * m * rows).unwrap();
                    if let Some(start) = start {
                        device.upload(bytes_of(start), y.view()).unwrap();
                    }
                    let bias = with_bias.then(|| bias_there.view());
                    let output = Output { w: matrix, y: y.view(), bias };
                    let outputs = match purpose {
                        Purpose::Gate(_) => vec![output, output],
                        _ => vec![output],
                    };
                    kernels.product(x, m, normed.then(|| (norm_there.view(), 1e-5)), &outputs, purpose).unwrap();
                    get(&device, y.view())
                };
            let exact = |t: usize, r: usize, normed: bool| -> (f64, f64) {
                let x = &x[t * cols..][..cols];
                let square: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum();
                let by = if normed { 1.0 / (square / cols as f64 + 1e-5).sqrt() } else { 1.0 };
                let term = |i: usize| {
                    let weight = if normed { f64::from(norm[i]) } else { 1.0 };
                    f64::from(x[i]) * by * weight * f64::from(w[r * cols + i])
                };
                ((0..cols).map(term).sum(), (0..cols).map(|i| term(i).abs()).sum())
            };
            let close = |what: &str, got: f32, (sum, size): (f64, f64)| {
                assert!(
                    (sum - f64::from(got)).abs() < 2e-6 * size + 1e-6,
                    "{ty} {rows}x{cols} {what}: {got} is not {sum}"
                );
            };
            let many = run(x_there.view(), m, false, false, store, None);
            for t in 0..m {
                let row = x_there.part(4 * t * cols, 4 * cols).unwrap();
                assert_eq!(
                    run(row, 1, false, false, store, None),
                    many[t * rows..][..rows],
                    "{ty} {rows}x{cols}, row {t}"
                );
            }
            let normed = run(x_there.view(), m, true, true, store, None);
            let start = noise(m * rows, 6);
            let added = run(x_there.view(), m, true, true, Purpose::Add { scale: 0.75 }, Some(&start));
            let gated = run(x_there.view(), m, true, false, Purpose::Gate(Act::Silu), None);
            let capped = run(x_there.view(), m, false, false, Purpose::Store { scale: 2.0, cap: Some(0.5) }, None);
            for i in 0..m * rows {
                let (t, r) = (i / rows, i % rows);
                let (plain, (sum, size)) = (exact(t, r, false), exact(t, r, true));
                close("plain", many[i], plain);
                let biased = sum + f64::from(bias[r]);
                close("normed", normed[i], (biased, size));
                close("added", added[i], (f64::from(start[i]) + 0.75 * biased, size + 1.0));
                close("gated", gated[i], (sum / (1.0 + (-sum).exp()) * sum, 2.0 * size * (sum.abs() + 1.0)));
                close("capped", capped[i], (0.5 * (4.0 * plain.0).tanh(), 8.0 * plain.1));
            }
        }
    }
}

/// Attention of one query over encoded rows, in f64.
fn reference(q: &[f32], keys: &[Vec<f32>], values: &[Vec<f32>], scale: f64, cap: Option<f64>) -> Vec<f64> {
    let score = |key: &Vec<f32>| {
        let s = scale * q.iter().zip(key).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        cap.map_or(s, |cap| cap * (s / cap).tanh()).exp()
    };
    let weights: Vec<f64> = keys.iter().map(score).collect();
    let total: f64 = weights.iter().sum();
    let mut out = vec![0f64; q.len()];
    for (weight, value) in weights.iter().zip(values) {
        out.iter_mut().zip(value).for_each(|(o, v)| *o += weight / total * f64::from(*v));
    }
    out
}

fn coded(ty: BlockType, x: &[f32]) -> Vec<f32> {
    let (mut bytes, mut out) = (vec![0u8; ty.row_bytes(x.len()).unwrap()], vec![0f32; x.len()]);
    blocks::encode(ty, x, &mut bytes).unwrap();
    blocks::decode(ty, &bytes, &mut out).unwrap();
    out
}

#[test]
fn attention_on_tensor_cores_matches_a_reference() {
    let Some(device) = open(1 << 30) else { return };
    let (ledger, kernels) = (free(), Kernels::new(Arc::clone(&device)).unwrap());
    for (heads, kv_heads, dim, window, cap) in [
        (6, 2, 64, None, None),
        (4, 1, 128, Some(70), None),
        (2, 2, 256, None, Some(2.0)),
        (3, 1, 96, Some(150), None),
        (2, 1, 32, None, None),
    ] {
        let (before, m, width) = (if window.is_none() && dim > 32 { 1130 } else { 130 }, 77, kv_heads * dim);
        let (capacity, q) = (before + m + 3, noise(m * heads * dim, 5));
        let (k, v) = (noise((before + m) * width, 3), noise((before + m) * width, 4));
        for (kt, vt) in KV_TYPES.iter().zip(KV_TYPES.iter().rev()) {
            let bytes = kv_heads * capacity * (kt.row_bytes(dim).unwrap() + vt.row_bytes(dim).unwrap());
            let cache = device.buffer(&ledger, TAG, bytes).unwrap();
            let scale = 1.0 / (dim as f32).sqrt();
            let at = Attend { cache: cache.view(), heads, kv_heads, dim, scale, cap, capacity, formats: (*kt, *vt) };
            let [k_there, v_there, q_there] = [&k, &v, &q].map(|x| put(&device, &ledger, bytes_of(x)));
            kernels.append(at, k_there.view(), v_there.view(), 0, before + m).unwrap();
            let out = device.buffer(&ledger, TAG, 4 * q.len()).unwrap();
            kernels.flash(at, q_there.view(), (before, m), window, out.view(), BlockType::F32).unwrap();
            let out = get(&device, out.view());
            let row = |x: &[f32], ty: BlockType, g: usize, r: usize| coded(ty, &x[r * width + g * dim..][..dim]);
            for t in [0, 1, 15, 16, 63, 64, m - 1] {
                for h in 0..heads {
                    let (g, last) = (h / (heads / kv_heads), before + t);
                    let first = window.map_or(0, |w: usize| (last + 1).saturating_sub(w));
                    let keys: Vec<_> = (first..=last).map(|r| row(&k, *kt, g, r)).collect();
                    let values: Vec<_> = (first..=last).map(|r| row(&v, *vt, g, r)).collect();
                    let at = (t * heads + h) * dim;
                    let expected = reference(&q[at..][..dim], &keys, &values, f64::from(scale), cap.map(f64::from));
                    for (e, o) in expected.iter().zip(&out[at..]) {
                        assert!((e - f64::from(*o)).abs() < 2e-3, "{dim} {kt} {vt} query {t} head {h}: {e} {o}");
                    }
                }
            }
        }
    }
}

#[test]
fn attention_of_a_step_norms_turns_appends_and_matches_a_reference() {
    let Some(device) = open(1 << 30) else { return };
    let (ledger, kernels) = (free(), Kernels::new(Arc::clone(&device)).unwrap());
    // Groups of query heads of every tile, heads of every number of lanes, rings, and caches of one row and of thousands.
    for (heads, kv_heads, dim, ring, cap, seen) in [
        (9, 3, 64, false, None, [0, 700]),
        (4, 1, 256, true, None, [40, 700]),
        (8, 1, 128, false, Some(3.0), [63, 5000]),
        (10, 1, 32, false, None, [64, 65]),
        (2, 2, 96, true, None, [511, 512]),
    ] {
        let (width, capacity) = (kv_heads * dim, if ring { 511 } else { 5203 });
        for (kt, vt) in KV_TYPES.iter().zip(KV_TYPES.iter().rev()) {
            let bytes = kv_heads * capacity * (kt.row_bytes(dim).unwrap() + vt.row_bytes(dim).unwrap());
            let scale = 1.0 / (dim as f32).sqrt();
            let (mut caches, mut entries, mut rows) = (Vec::new(), Vec::new(), Vec::new());
            for (i, seen) in seen.into_iter().enumerate() {
                let (k, v) = (noise((seen + 1) * width, 3 + i as u64), noise((seen + 1) * width, 7 + i as u64));
                let cache = device.buffer(&ledger, TAG, bytes).unwrap();
                let at =
                    Attend { cache: cache.view(), heads, kv_heads, dim, scale, cap, capacity, formats: (*kt, *vt) };
                let [k_there, v_there] = [&k, &v].map(|x| put(&device, &ledger, bytes_of(x)));
                for r in 0..seen {
                    let row = |b: &DeviceBuffer| -> (usize, usize) { (4 * r * width, (4 * width).min(b.len())) };
                    let ((ka, kl), (va, vl)) = (row(&k_there), row(&v_there));
                    let (kr, vr) = (k_there.part(ka, kl).unwrap(), v_there.part(va, vl).unwrap());
                    kernels.append(at, kr, vr, r % capacity, 1).unwrap();
                }
                entries.push(CacheEntry { at: cache.view().address(), capacity: capacity as i32, pad: 0 });
                caches.push(cache);
                rows.push((k, v));
            }
            let positions: Vec<i32> = seen.iter().map(|s| *s as i32).collect();
            let (q, half) = (noise(2 * heads * dim, 20), dim / 2);
            let last = |x: &dyn Fn(usize) -> Vec<f32>| [x(0), x(1)].concat();
            let new_k = last(&|i| rows[i].0[seen[i] * width..].to_vec());
            let new_v = last(&|i| rows[i].1[seen[i] * width..].to_vec());
            let norms = [noise(dim, 21), noise(dim, 22)];
            let angle = |i: usize, p: usize| f64::from(seen[i] as u32) * 10000f64.powf(-(p as f64) / half as f64);
            let cosines: Vec<f32> = (0..2 * half).map(|n| angle(n / half, n % half).cos() as f32).collect();
            let sines: Vec<f32> = (0..2 * half).map(|n| angle(n / half, n % half).sin() as f32).collect();
            let there = [&q, &new_k, &new_v, &cosines, &sines, &norms[0], &norms[1]]
                .map(|x| put(&device, &ledger, bytes_of(x)));
            let [q_there, k_there, v_there, c_there, s_there, qn, kn] = &there;
            let table = put(&device, &ledger, bytemuck::cast_slice(&entries));
            let positions_there = put(&device, &ledger, bytemuck::cast_slice(&positions));
            let arrived = device.buffer(&ledger, TAG, 4 * 2 * heads).unwrap();
            let splits = step_splits(heads, kv_heads, dim, 5200, 2);
            let parts = device.buffer(&ledger, TAG, 4 * 2 * heads * splits * (dim + 2)).unwrap();
            let out = device.buffer(&ledger, TAG, 4 * q.len()).unwrap();
            let of = Attend { cache: table.view(), heads, kv_heads, dim, scale, cap, capacity, formats: (*kt, *vt) };
            let step = StepAttend {
                of,
                rows: [q_there.view(), k_there.view(), v_there.view()],
                turn: Some(RopeTable { cosines: c_there.view(), sines: s_there.view(), half, interleaved: false }),
                norms: ([Some(qn.view()), Some(kn.view())], 1e-6),
                window: ring,
                caches: table.view(),
                positions: positions_there.view(),
                arrived: arrived.view(),
                parts: parts.view(),
                most: 5200,
                out: out.view(),
            };
            // Twice: counters are zeros again afterwards, and the row of a step is the same.
            kernels.step_attend(step, 2).unwrap();
            let once = get(&device, out.view());
            kernels.step_attend(step, 2).unwrap();
            let out = get(&device, out.view());
            assert_eq!(once, out, "{heads} heads of {dim}");
            let turned = |i: usize, x: &[f32], norm: &[f32]| -> Vec<f32> {
                let square: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum();
                let by = 1.0 / (square / dim as f64 + 1e-6).sqrt();
                let x: Vec<f64> = x.iter().zip(norm).map(|(x, w)| f64::from(*x) * by * f64::from(*w)).collect();
                let pair = |n: usize| (angle(i, n % half).cos(), angle(i, n % half).sin());
                let value = |n: usize| match (n < half, pair(n)) {
                    (true, (c, s)) => x[n] * c - x[n + half] * s,
                    (false, (c, s)) => x[n - half] * s + x[n] * c,
                };
                (0..dim).map(|n| value(n) as f32).collect()
            };
            for i in 0..2 {
                for h in 0..heads {
                    let (g, at) = (h / (heads / kv_heads), (i * heads + h) * dim);
                    let (k, v) = &rows[i];
                    let first = if ring { (seen[i] + 1).saturating_sub(capacity) } else { 0 };
                    let of = |x: &[f32], r: usize| x[r * width + g * dim..][..dim].to_vec();
                    let mut keys: Vec<_> = (first..seen[i]).map(|r| coded(*kt, &of(k, r))).collect();
                    keys.push(coded(*kt, &turned(i, &of(k, seen[i]), &norms[1])));
                    let values: Vec<_> = (first..=seen[i]).map(|r| coded(*vt, &of(v, r))).collect();
                    let query = turned(i, &q[at..][..dim], &norms[0]);
                    let expected = reference(&query, &keys, &values, f64::from(scale), cap.map(f64::from));
                    for (e, o) in expected.iter().zip(&out[at..]) {
                        // A key that rounds to the code beside moves one score of many.
                        assert!((e - f64::from(*o)).abs() < 3e-3, "{dim} {kt} {vt} sequence {i} head {h}: {e} {o}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_product_is_added_to_what_is_there() {
    let Some(device) = open(1 << 30) else { return };
    let (ledger, kernels) = (free(), Kernels::new(Arc::clone(&device)).unwrap());
    let (rows, cols) = (45, 8);
    for m in [1, 19] {
        let (w, x, y) = (noise(rows * cols, 1), noise(m * cols, 2), noise(m * rows, 3));
        let there = [&w, &x, &y].map(|v| put(&device, &ledger, bytes_of(v)));
        let [w_there, x_there, y_there] = &there;
        let ty = BlockType::F32;
        kernels.linear_add(ty, w_there.view(), (rows, cols), x_there.view(), m, y_there.view(), 0.75).unwrap();
        for (i, got) in get(&device, y_there.view()).into_iter().enumerate() {
            let (row, x) = (&w[i % rows * cols..][..cols], &x[i / rows * cols..][..cols]);
            let product: f64 = row.iter().zip(x).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let expected = f64::from(y[i]) + 0.75 * product;
            assert!((f64::from(got) - expected).abs() < 1e-5, "{i}: {got} is not {expected}");
        }
    }
}

#[test]
fn attention_matches_a_reference_over_rows_encoded_as_on_the_cpu() {
    let Some(device) = open(1 << 30) else { return };
    let (ledger, kernels) = (free(), Kernels::new(Arc::clone(&device)).unwrap());
    let (heads, kv_heads, dim, capacity, before, m) = (6, 2, 64, 150, 130, 7);
    let width = kv_heads * dim;
    let (k, v, q) = (noise((before + m) * width, 3), noise((before + m) * width, 4), noise(m * heads * dim, 5));
    for (i, kt) in KV_TYPES.iter().enumerate() {
        let vt = KV_TYPES[KV_TYPES.len() - 1 - i];
        let (kb, vb) = (kt.row_bytes(dim).unwrap(), vt.row_bytes(dim).unwrap());
        let cache = device.buffer(&ledger, TAG, kv_heads * capacity * (kb + vb)).unwrap();
        let scale = 1.0 / (dim as f32).sqrt();
        let at = Attend { cache: cache.view(), heads, kv_heads, dim, scale, cap: None, capacity, formats: (*kt, vt) };
        let (k_there, v_there) = (put(&device, &ledger, bytes_of(&k)), put(&device, &ledger, bytes_of(&v)));
        let part = |b: &DeviceBuffer, first: usize, n: usize| -> (usize, usize) {
            assert!(4 * (first + n) * width <= b.len());
            (4 * first * width, 4 * n * width)
        };
        for (first, n) in [(0, before), (before, m)] {
            let (s, len) = part(&k_there, first, n);
            kernels.append(at, k_there.part(s, len).unwrap(), v_there.part(s, len).unwrap(), first, n).unwrap();
        }
        let mut raw = vec![0u8; cache.len()];
        device.download(cache.view(), &mut raw).unwrap();
        let row = |x: &[f32], ty: BlockType, head: usize, r: usize| {
            let mut bytes = vec![0u8; ty.row_bytes(dim).unwrap()];
            blocks::encode(ty, &x[r * width + head * dim..][..dim], &mut bytes).unwrap();
            let mut out = vec![0f32; dim];
            blocks::decode(ty, &bytes, &mut out).unwrap();
            (bytes, out)
        };
        for h in 0..kv_heads {
            for r in 0..before + m {
                let head = &raw[h * capacity * (kb + vb)..];
                assert_eq!(head[r * kb..][..kb], row(&k, *kt, h, r).0, "{kt} keys, head {h}, row {r}");
                assert_eq!(head[capacity * kb + r * vb..][..vb], row(&v, vt, h, r).0, "{vt} values, head {h}, row {r}");
            }
        }
        let (q_there, out) = (put(&device, &ledger, bytes_of(&q)), device.buffer(&ledger, TAG, 4 * q.len()).unwrap());
        let parts = device.buffer(&ledger, TAG, 4 * parts_elements(heads, dim, before + m)).unwrap();
        assert!(!parts.is_empty(), "a cache long enough to be read in parts");
        kernels.attend(at, q_there.view(), before, m, out.view(), parts.view()).unwrap();
        // The last query alone, in parts.
        let (from, len) = (4 * (m - 1) * heads * dim, 4 * heads * dim);
        let last = device.buffer(&ledger, TAG, len).unwrap();
        let query = q_there.part(from, len).unwrap();
        kernels.attend(at, query, before + m - 1, 1, last.view(), parts.view()).unwrap();
        let (out, last) = (get(&device, out.view()), get(&device, last.view()));
        let bits = |x: &[f32]| x.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&last), bits(&out[(m - 1) * heads * dim..]), "{kt} {vt}: alone and among others");
        for t in 0..m {
            for h in 0..heads {
                let query = &q[(t * heads + h) * dim..][..dim];
                let g = h / (heads / kv_heads);
                let dot =
                    |key: Vec<f32>| query.iter().zip(key).map(|(a, b)| f64::from(*a) * f64::from(b)).sum::<f64>() / 8.0;
                let weights: Vec<f64> = (0..=before + t).map(|r| dot(row(&k, *kt, g, r).1).exp()).collect();
                let total: f64 = weights.iter().sum();
                let mut expected = vec![0f64; dim];
                for (r, weight) in weights.iter().enumerate() {
                    for (e, v) in expected.iter_mut().zip(row(&v, vt, g, r).1) {
                        *e += weight / total * f64::from(v);
                    }
                }
                for (e, o) in expected.iter().zip(&out[(t * heads + h) * dim..]) {
                    assert!((e - f64::from(*o)).abs() < 1e-5, "{kt} {vt}: {e} {o}");
                }
            }
        }
    }
}

#[test]
fn the_pool_is_a_wall_and_a_refusal_is_survived() {
    const MIB: usize = 1 << 20;
    let Some(device) = open(256 << 20) else { return };
    // A ledger without walls: what refuses here is the pool.
    let ledger = free();
    let mut held = Vec::new();
    let error = loop {
        match device.buffer(&ledger, TAG, 4 * MIB) {
            Ok(buffer) => held.push(buffer),
            Err(e) => break e,
        }
        assert!(held.len() <= 64, "the pool grew past its cap");
    };
    let Error::OverBudget(over) = &error else { panic!("{error}") };
    assert!(over.hint.as_ref().is_some_and(|h| h.contains("pool")), "{over}");
    let used = |name: &str| device.counts().unwrap().into_iter().find(|(n, _)| *n == name).map(|(_, v)| v).unwrap();
    eprintln!("pool of 256 MiB: {} buffers of 4 MiB, then: {error}\n{:?}", held.len(), device.counts().unwrap());
    assert_eq!(used("pool used now"), (held.len() * 4 * MIB) as u64);
    assert_eq!(ledger.held(TAG.tier), used("pool used now"));
    drop(held);
    assert_eq!(used("pool used now"), 0);
    let odd = device.buffer(&ledger, TAG, 4_000_001).unwrap();
    assert_eq!(used("pool used now"), 4_000_001, "requested bytes are counted exactly");
    let kernels = Kernels::new(Arc::clone(&device)).unwrap();
    kernels.add(odd.view(), odd.view(), 1000).unwrap();
    device.wait().unwrap();
}
