use super::super::Level;
use super::*;

/// Rows as plain f32, each head with its own number.
struct Plain {
    dim: usize,
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
}

fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut s = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut step = || {
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        (s >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| step()).collect()
}

impl Plain {
    fn new(dim: usize, rows: &[usize]) -> Self {
        let fill = |salt: u64, by: f32| {
            let one = |(h, n): (usize, &usize)| noise(n * dim, salt + h as u64).into_iter().map(|x| x * by).collect();
            rows.iter().enumerate().map(one).collect()
        };
        Self { dim, keys: fill(10, 3.0), values: fill(50, 1.0) }
    }

    /// With only the first rows of each head, as before later tokens came.
    fn shorter(&self, by: usize) -> Self {
        let cut = |rows: &Vec<Vec<f32>>| rows.iter().map(|r| r[..r.len() - by * self.dim].to_vec()).collect();
        Self { dim: self.dim, keys: cut(&self.keys), values: cut(&self.values) }
    }
}

impl KvTiles for Plain {
    fn rows(&self, head: usize) -> usize {
        self.keys[head].len() / self.dim
    }
    fn keys(&self, head: usize, start: usize, n: usize, out: &mut [f32]) {
        assert!(start.is_multiple_of(TILE) && n <= TILE);
        out.copy_from_slice(&self.keys[head][start * self.dim..][..n * self.dim]);
    }
    fn values(&self, head: usize, start: usize, n: usize, out: &mut [f32]) {
        out.copy_from_slice(&self.values[head][start * self.dim..][..n * self.dim]);
    }
}

/// Output and weights `(tokens, heads, rows)` in f64, straight from the definition.
fn reference(q: &[f32], kv: &Plain, s: &Attention) -> (Vec<f64>, Vec<Vec<f64>>) {
    let (mut out, mut all) = (Vec::new(), Vec::new());
    for token in 0..s.tokens {
        for head in 0..s.heads {
            let shared = head / (s.heads / s.kv_heads);
            let seen = (kv.rows(shared) + 1 + token).saturating_sub(s.tokens);
            let q = &q[(token * s.heads + head) * s.dim..][..s.dim];
            let score = |r: usize| {
                let k = &kv.keys[shared][r * s.dim..][..s.dim];
                q.iter().zip(k).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() * f64::from(s.scale)
            };
            let first = s.window.map_or(0, |w| seen.saturating_sub(w));
            let scores: Vec<f64> = (0..seen).map(|r| if r < first { f64::NEG_INFINITY } else { score(r) }).collect();
            let max = scores.iter().copied().fold(f64::MIN, f64::max);
            let total: f64 = scores.iter().map(|x| (x - max).exp()).sum();
            let weights: Vec<f64> = scores.iter().map(|x| (x - max).exp() / total).collect();
            for j in 0..s.dim {
                out.push((0..seen).map(|r| weights[r] * f64::from(kv.values[shared][r * s.dim + j])).sum());
            }
            all.push(weights);
        }
    }
    (out, all)
}

fn shape(heads: usize, kv_heads: usize, dim: usize, tokens: usize) -> Attention {
    Attention { heads, kv_heads, dim, tokens, scale: 1.0 / (dim as f32).sqrt(), window: None, cap: None }
}

fn run(
    level: Level,
    threads: usize,
    q: &[f32],
    kv: &Plain,
    s: Attention,
    observe: Option<Observe<'_>>,
) -> Option<Vec<f32>> {
    let team = ThreadTeam::new(threads).unwrap();
    let rows = (0..s.kv_heads).map(|h| kv.rows(h)).max().unwrap();
    let mut scratch = vec![f32::NAN; s.scratch(threads, rows)];
    let mut out = vec![f32::NAN; s.tokens * s.heads * s.dim];
    attend_with(Kernels::tried(level)?, &team, q, kv, s, &mut out, &mut scratch, observe).unwrap();
    Some(out)
}

#[test]
fn agrees_with_the_definition_in_f64() {
    let shapes = [
        (9, 3, 64, 1, vec![1, 1, 1]),
        (9, 3, 64, 1, vec![63, 64, 65]),
        (9, 3, 64, 3, vec![257, 600, 3]),
        (9, 3, 64, 100, vec![100, 356, 163]),
        (4, 4, 6, 1, vec![700, 0, 255, 256]),
        (4, 2, 6, 7, vec![5, 0]),
        (2, 1, 80, 65, vec![129]),
        (3, 1, 256, 5, vec![70]),
        (1, 1, 2, 33, vec![33]),
    ];
    for (heads, kv_heads, dim, tokens, rows) in shapes {
        let (kv, s) = (Plain::new(dim, &rows), shape(heads, kv_heads, dim, tokens));
        let q = noise(tokens * heads * dim, 3).into_iter().map(|x| x * 3.0).collect::<Vec<_>>();
        let (expected, _) = reference(&q, &kv, &s);
        for level in Level::ALL {
            let Some(out) = run(level, 2, &q, &kv, s, None) else { continue };
            for (i, (a, b)) in out.iter().zip(&expected).enumerate() {
                assert!((f64::from(*a) - b).abs() < 2e-6, "{s:?} {rows:?} {level:?} element {i}: {a} is not {b}");
            }
        }
    }
}

#[test]
fn a_window_hides_what_lies_before_it_and_its_bits_do_not_depend_on_the_batch() {
    let (heads, kv_heads, dim, tokens, rows) = (6, 3, 20, 280, [600, 290, 777]);
    let kv = Plain::new(dim, &rows);
    let q = noise(tokens * heads * dim, 3);
    let width = heads * dim;
    for window in [1, 5, 64, 65, 200, 5000] {
        let at = |tokens| Attention { window: Some(window), ..shape(heads, kv_heads, dim, tokens) };
        let (expected, weights) = reference(&q, &kv, &at(tokens));
        for level in Level::ALL {
            let stride = 777;
            let (mut seen, mut map) = (vec![f32::NAN; heads * 2 * stride], vec![7u8; tokens * stride]);
            let observe = Observe {
                columns: None,
                aggregate: Aggregate::Mean,
                rows: Some(&mut seen),
                last: 2,
                map: Some((1, &mut map)),
                stride,
                window: None,
            };
            let Some(whole) = run(level, 2, &q, &kv, at(tokens), Some(observe)) else { continue };
            for (i, (a, b)) in whole.iter().zip(&expected).enumerate() {
                assert!((f64::from(*a) - b).abs() < 2e-6, "{window} {level:?} element {i}: {a} is not {b}");
            }
            for (row, wanted) in seen.chunks(2 * stride).zip(&weights[(tokens - 1) * heads..]) {
                let last = &row[stride..];
                for (r, a) in last.iter().enumerate() {
                    let b = wanted.get(r).copied().unwrap_or(0.0);
                    assert!((f64::from(*a) - b).abs() < 1e-5, "{window} {level:?} row {r}: {a}, {b}");
                }
            }
            for (token, row) in map.chunks(stride).enumerate() {
                let wanted = &weights[token * heads + 1];
                for (r, cell) in row.iter().enumerate() {
                    let b = wanted.get(r).map_or(0, |w| packed_weight(*w as f32));
                    assert!(cell.abs_diff(b) <= 1, "{window} {level:?} query {token} row {r}: {cell}, {b}");
                }
            }
            // One query at a time over what was there then: the same bits.
            for token in [0, 3, 64, 200, 279] {
                let then = kv.shorter(tokens - 1 - token);
                let one = run(level, 1, &q[token * width..][..width], &then, at(1), None).unwrap();
                assert_eq!(one, whole[token * width..][..width], "{window} {level:?} query {token}");
            }
        }
    }
}

#[test]
fn prefill_extend_and_decode_give_the_same_bits_on_any_number_of_threads() {
    for (heads, kv_heads, dim, rows) in [(9, 3, 64, [600, 601, 777]), (6, 3, 20, [300, 290, 513])] {
        let tokens = 280;
        let kv = Plain::new(dim, &rows);
        let q = noise(tokens * heads * dim, 3);
        let width = heads * dim;
        for level in Level::ALL {
            let Some(whole) = run(level, 1, &q, &kv, shape(heads, kv_heads, dim, tokens), None) else { continue };
            assert_eq!(run(level, 4, &q, &kv, shape(heads, kv_heads, dim, tokens), None).unwrap(), whole);
            for (first, n) in [(0, 1), (5, 1), (100, 1), (279, 1), (40, 3), (64, 4), (70, 5), (17, 90)] {
                let shorter = kv.shorter(tokens - first - n);
                let part =
                    run(level, 2, &q[first * width..][..n * width], &shorter, shape(heads, kv_heads, dim, n), None);
                assert_eq!(part.unwrap(), whole[first * width..][..n * width], "{level:?}, queries {first} + {n}");
            }
        }
    }
}

#[test]
fn levels_agree() {
    let (kv, s) = (Plain::new(64, &[300, 41]), shape(6, 2, 64, 41));
    let q = noise(41 * 6 * 64, 8);
    let twin = run(Level::Scalar, 2, &q, &kv, s, None).unwrap();
    let vector: Vec<_> = [Level::Avx2, Level::Avx512].into_iter().filter_map(|l| run(l, 2, &q, &kv, s, None)).collect();
    for out in &vector {
        assert_eq!(out, &vector[0]);
        assert!(out.iter().zip(&twin).all(|(a, b)| (a - b).abs() < 2e-6));
    }
}

#[test]
fn enormous_scores_neither_overflow_nor_make_nan() {
    let mut kv = Plain::new(64, &[130]);
    kv.keys[0].iter_mut().for_each(|k| *k *= 1e4);
    let s = shape(2, 1, 64, 2);
    let q: Vec<f32> = noise(2 * 2 * 64, 8).into_iter().map(|x| x * 1e4).collect();
    let (expected, _) = reference(&q, &kv, &s);
    for level in Level::ALL {
        let Some(out) = run(level, 2, &q, &kv, s, None) else { continue };
        assert!(out.iter().zip(&expected).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-3), "{level:?}");
    }
}

#[test]
fn observing_sums_to_the_queries_matches_the_definition_and_changes_nothing() {
    for (tokens, rows, last) in
        [(1, [200, 70, 1], 4), (4, [200, 64, 4], 4), (50, [50, 130, 333], 7), (50, [50, 50, 50], 0)]
    {
        let (kv, s, stride) = (Plain::new(64, &rows), shape(9, 3, 64, tokens), 340);
        let q = noise(tokens * 9 * 64, 3);
        let (_, weights) = reference(&q, &kv, &s);
        for level in Level::ALL {
            let Some(plain) = run(level, 2, &q, &kv, s, None) else { continue };
            for aggregate in [Aggregate::Mean, Aggregate::Max, Aggregate::Sum] {
                let kept = last.min(tokens);
                let (mut columns, mut last_rows) = (vec![1.0; 3 * stride], vec![f32::NAN; 9 * kept * stride]);
                let mut map = vec![9u8; tokens * stride];
                let (mut window, from) = (vec![0.5; 9 * 350], tokens / 3);
                let observe = Observe {
                    columns: Some(&mut columns),
                    aggregate,
                    rows: Some(&mut last_rows),
                    last,
                    map: Some((5, &mut map)),
                    stride,
                    window: Some(Window { sums: &mut window, stride: 350, from }),
                };
                assert_eq!(run(level, 2, &q, &kv, s, Some(observe)).unwrap(), plain);
                // The newest queries' sums, for each query head by itself, added to what stood there.
                for (h, sums) in window.chunks_exact(350).enumerate() {
                    for (r, sum) in sums.iter().enumerate() {
                        let of = |t: usize| weights[t * 9 + h].get(r).copied().unwrap_or(0.0);
                        let expected = 0.5 + (from..tokens).map(of).sum::<f64>();
                        assert!((f64::from(*sum) - expected).abs() < 1e-4, "head {h}, row {r}: {sum}, {expected}");
                    }
                }
                // The map alone, as a run without a policy asks for it.
                let mut alone = vec![9u8; tokens * stride];
                let observe = Observe {
                    columns: None,
                    aggregate,
                    rows: None,
                    last: 0,
                    map: Some((5, &mut alone)),
                    stride,
                    window: None,
                };
                assert_eq!(run(level, 2, &q, &kv, s, Some(observe)).unwrap(), plain);
                for (t, cells) in alone.chunks_exact(stride).enumerate() {
                    for (r, cell) in cells.iter().enumerate() {
                        let expected = 255.0 * weights[t * 9 + 5].get(r).copied().unwrap_or(0.0).sqrt();
                        assert!((f64::from(*cell) - expected).abs() < 0.51, "query {t}, row {r}: {cell}, {expected}");
                    }
                }
                assert_eq!(map, alone);
                for head in 0..3 {
                    for r in 0..stride {
                        let of = |t: usize, g: usize| weights[t * 9 + head * 3 + g].get(r).copied().unwrap_or(0.0);
                        let together = |t: usize| match aggregate {
                            Aggregate::Mean => (of(t, 0) + of(t, 1) + of(t, 2)) / 3.0,
                            Aggregate::Max => of(t, 0).max(of(t, 1)).max(of(t, 2)),
                            Aggregate::Sum => of(t, 0) + of(t, 1) + of(t, 2),
                        };
                        let expected = 1.0 + (0..tokens).map(together).sum::<f64>();
                        assert!((f64::from(columns[head * stride + r]) - expected).abs() < 2e-5 * expected);
                        for (g, j) in (0..3).flat_map(|g| (0..kept).map(move |j| (g, j))) {
                            let a = f64::from(last_rows[((head * 3 + g) * kept + j) * stride + r]);
                            assert!((a - of(tokens - kept + j, g)).abs() < 2e-6);
                        }
                    }
                    if aggregate == Aggregate::Mean {
                        let total: f32 = columns[head * stride..][..stride].iter().map(|c| c - 1.0).sum();
                        assert!((total - tokens as f32).abs() < 1e-3 * tokens as f32, "{total} of {tokens}");
                    }
                }
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_an_error_and_cancelling_stops() {
    let (kv, s, team) = (Plain::new(64, &[100]), shape(2, 1, 64, 10), ThreadTeam::new(2).unwrap());
    let (q, mut out, mut scratch) = (noise(10 * 128, 1), vec![0.0; 10 * 128], vec![0.0; s.scratch(2, 100)]);
    assert!(attend(&team, &q, &kv, s, &mut out, &mut scratch, None).is_ok());
    assert!(attend(&team, &q[1..], &kv, s, &mut out, &mut scratch, None).is_err());
    assert!(attend(&team, &q, &kv, s, &mut out[1..], &mut scratch, None).is_err());
    assert!(attend(&team, &q, &kv, s, &mut out, &mut scratch[1..], None).is_err());
    assert!(attend(&team, &q, &kv, Attention { kv_heads: 0, ..s }, &mut out, &mut scratch, None).is_err());
    let mut columns = vec![0.0; 99];
    let small = Observe {
        columns: Some(&mut columns),
        aggregate: Aggregate::Mean,
        rows: None,
        last: 0,
        map: None,
        stride: 99,
        window: None,
    };
    assert!(attend(&team, &q, &kv, s, &mut out, &mut scratch, Some(small)).is_err());
    let mut map = vec![0; 10 * 100];
    for (head, cells, ok) in [(1, 1000, true), (2, 1000, false), (1, 999, false)] {
        let map = Some((head, &mut map[..cells]));
        let observe =
            Observe { columns: None, aggregate: Aggregate::Mean, rows: None, last: 0, map, stride: 100, window: None };
        assert_eq!(attend(&team, &q, &kv, s, &mut out, &mut scratch, Some(observe)).is_ok(), ok);
    }
    team.cancel_flag().store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(matches!(attend(&team, &q, &kv, s, &mut out, &mut scratch, None), Err(Error::Cancelled)));
}
