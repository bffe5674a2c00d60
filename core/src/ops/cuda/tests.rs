//! These need a GPU; without one they say so and pass.

use std::sync::Arc;

use super::{Attend, Device, DeviceBuffer, Kernels, View};
use crate::blocks::{self, BlockType};
use crate::error::Error;
use crate::ledger::{Category, Ledger, Tag};
use crate::ops::gpu::{KV_TYPES, WEIGHT_TYPES, parts_elements};
use crate::rng::Philox;

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

#[test]
fn weights_decode_as_on_the_cpu_bit_for_bit() {
    let Some(device) = open(1 << 30) else { return };
    let (ledger, kernels) = (free(), Kernels::new(Arc::clone(&device)).unwrap());
    let (rows, cols) = (3, 512);
    for ty in WEIGHT_TYPES {
        let random = Philox::new(u64::from(ty.id()));
        let table: Vec<u8> = (0..ty.row_bytes(cols).unwrap() * rows).map(|i| random.block(i as u64)[0] as u8).collect();
        let ids = [2u32, 0, 1, 2];
        let table_there = put(&device, &ledger, &table);
        let ids_there = put(&device, &ledger, bytemuck::cast_slice(&ids));
        let out = device.buffer(&ledger, TAG, 4 * ids.len() * cols).unwrap();
        kernels.lookup(*ty, table_there.view(), cols, ids_there.view(), ids.len(), out.view()).unwrap();
        let mut expected = vec![0f32; rows * cols];
        blocks::decode(*ty, &table, &mut expected).unwrap();
        for (i, (row, id)) in get(&device, out.view()).chunks(cols).zip(ids).enumerate() {
            let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
            assert!(row.iter().zip(&expected[id as usize * cols..]).all(same), "{ty}, row {i}");
        }
    }
}

#[test]
fn products_are_exact_and_do_not_depend_on_the_rows_beside() {
    let Some(device) = open(1 << 30) else { return };
    let (ledger, kernels) = (free(), Kernels::new(Arc::clone(&device)).unwrap());
    let (rows, cols, m) = (37, 576, 21);
    let (w, x) = (noise(rows * cols, 1), noise(m * cols, 2));
    for ty in [BlockType::F32, BlockType::Q4_1, BlockType::Q8_0] {
        let mut encoded = vec![0u8; ty.row_bytes(cols).unwrap() * rows];
        blocks::encode(ty, &w, &mut encoded).unwrap();
        let mut decoded = vec![0f32; rows * cols];
        blocks::decode(ty, &encoded, &mut decoded).unwrap();
        let (w_there, x_there) = (put(&device, &ledger, &encoded), put(&device, &ledger, bytes_of(&x)));
        let y = device.buffer(&ledger, TAG, 4 * m * rows).unwrap();
        kernels.linear(ty, w_there.view(), (rows, cols), x_there.view(), m, y.view(), rows).unwrap();
        let many = get(&device, y.view());
        for t in 0..m {
            let one = device.buffer(&ledger, TAG, 4 * rows).unwrap();
            let row = x_there.part(4 * t * cols, 4 * cols).unwrap();
            kernels.linear(ty, w_there.view(), (rows, cols), row, 1, one.view(), rows).unwrap();
            assert_eq!(get(&device, one.view()), many[t * rows..(t + 1) * rows], "{ty}, row {t}");
            for r in 0..rows {
                let dot: f64 = (0..cols).map(|i| f64::from(decoded[r * cols + i]) * f64::from(x[t * cols + i])).sum();
                assert!((dot - f64::from(many[t * rows + r])).abs() < 1e-4, "{ty}: {dot} {}", many[t * rows + r]);
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
