//! Operations as calls of candle's tensors. Each makes new tensors and puts the result where it belongs.

use candle_core::{DType, Result as Candled, Tensor};

use super::{Candle, Target, flat, matrix, rule, sent, unknown};
use crate::device::op::{Family, sides};
use crate::device::{Causal, Columns, Dst, Mask, Op, RopeLayout, RopeTable, Src, Weight};
use crate::error::{Error, Result};
use crate::ops::descriptors::{Batched, NO_LOSS, Reduction, Window};
use crate::rng::Philox;

pub(super) fn execute(on: &Candle, op: Op<'_>) -> Result<()> {
    match op.family() {
        Family::Move => moves(on, op),
        Family::Product => products(on, op),
        Family::Layer => layers(on, op),
        Family::Head => heads(on, op),
        Family::Net => nets(on, op),
    }
}

/// `value`, or with `add` what is there and `value`, `(rows, cols)`.
fn put(to: &Target, value: Tensor, rows: usize, cols: usize, add: bool) -> Candled<()> {
    to.put(&if add { (to.matrix(rows, cols)? + value)? } else { value })
}

fn moves(on: &Candle, op: Op<'_>) -> Result<()> {
    match op {
        Op::Copy { x, y, len } | Op::Cast { x, y, len } => {
            let (x, y) = (flat(x, len)?, Target::of(y)?);
            on.guest(|_| if len == 0 { Ok(()) } else { y.put(&x) })
        }
        Op::Fill { y, len, value } => {
            let y = Target::of(y)?;
            on.guest(|device| if len == 0 { Ok(()) } else { y.put(&Tensor::full(value, len, device)?) })
        }
        Op::Axpy { a, x, y, len } => {
            let (x, y) = (flat(x, len)?, Target::of(y)?);
            on.guest(|_| y.put(&(y.flat(len)? + (x * f64::from(a))?)?))
        }
        Op::Scale { y, len, a } => {
            let y = Target::of(y)?;
            on.guest(|_| y.put(&(y.flat(len)? * f64::from(a))?))
        }
        Op::SquaredNorms { x, spans, to } => {
            let one = |(at, len): &(usize, usize)| flat(Src { at: x.at + at, ..x }, *len);
            let (all, to) = (spans.iter().map(one).collect::<Result<Vec<_>>>()?, Target::of(to)?);
            let square = |x: &Tensor| x.sqr()?.sum_all()?.reshape(1);
            on.guest(|_| match all.is_empty() {
                true => Ok(()),
                false => to.put(&Tensor::cat(&all.iter().map(square).collect::<candle_core::Result<Vec<_>>>()?, 0)?),
            })
        }
        Op::Gather { x, ids, n, cols, y } => {
            let (x, ids, y) = (matrix(x, (x.buf.len() - x.at) / cols, cols)?, flat(ids, n)?, Target::of(y)?);
            on.guest(|_| if n == 0 { Ok(()) } else { y.put(&x.index_select(&ids, 0)?) })
        }
        Op::Scatter { x, ids, n, cols, y } => {
            let (x, ids, rows) = (matrix(x, n, cols)?, flat(ids, n)?, (y.buf.len() - y.at) / cols);
            let y = Target::of(y)?;
            on.guest(|_| {
                if n == 0 {
                    return Ok(());
                }
                let places = ids.reshape((n, 1))?.broadcast_as((n, cols))?.contiguous()?;
                y.put(&y.matrix(rows, cols)?.scatter(&places, &x, 0)?)
            })
        }
        op => Err(unknown(&op)),
    }
}

fn products(on: &Candle, op: Op<'_>) -> Result<()> {
    match op {
        Op::Embed { table, ids, m, y } => {
            let (w, ids) = (matrix(table.buf.at(table.at), table.rows, table.cols)?, flat(ids, m)?);
            let y = Target::of(y)?;
            on.guest(|_| y.put(&w.index_select(&ids, 0)?))
        }
        Op::EmbedVjp { dy, ids, m, rows, cols, d } => {
            let (dy, ids, d) = (matrix(dy, m, cols)?, flat(ids, m)?, Target::of(d)?);
            on.guest(|_| d.put(&d.matrix(rows, cols)?.index_add(&ids, &dy, 0)?))
        }
        Op::Linear { x, m, w, bias, y, add } => {
            let (x, weight, y) = (matrix(x, m, w.cols)?, matrix(w.buf.at(w.at), w.rows, w.cols)?, Target::of(y)?);
            let bias = bias.map(|b| flat(b, w.rows)).transpose()?;
            on.guest(|_| {
                let product = x.matmul(&weight.t()?)?;
                let product = match bias {
                    Some(bias) => product.broadcast_add(&bias)?,
                    None => product,
                };
                put(&y, product, m, w.rows, add)
            })
        }
        Op::LinearDx { dy, m, w, dx, add } => {
            let (dy, weight, dx) = (matrix(dy, m, w.rows)?, matrix(w.buf.at(w.at), w.rows, w.cols)?, Target::of(dx)?);
            on.guest(|_| put(&dx, dy.matmul(&weight)?, m, w.cols, add))
        }
        Op::LinearDw { dy, x, m, rows, cols, dw, add } => {
            let (dy, x, dw) = (matrix(dy, m, rows)?, matrix(x, m, cols)?, Target::of(dw)?);
            on.guest(|_| put(&dw, dy.t()?.matmul(&x)?, rows, cols, add))
        }
        Op::BiasVjp { dy, m, rows, db, add } => {
            let (dy, db) = (matrix(dy, m, rows)?, Target::of(db)?);
            on.guest(|_| put(&db, dy.sum_keepdim(0)?, 1, rows, add))
        }
        Op::RowNorms { w, low, y } => {
            let of = |w: Weight<'_>| matrix(w.buf.at(w.at), w.rows, w.cols);
            let low = low.map(|(a, b, scale)| Ok::<_, Error>((of(a)?, of(b)?, scale))).transpose()?;
            let (w, y) = (of(w)?, Target::of(y)?);
            on.guest(|_| {
                let whole = match low {
                    Some((a, b, scale)) => (w + (b.matmul(&a)? * f64::from(scale))?)?,
                    None => w,
                };
                y.put(&whole.sqr()?.sum(1)?.sqrt()?)
            })
        }
        Op::ScaleColumns { x, m, cols, by, over, bias, y, add } => {
            let (x, by, over, y) = (matrix(x, m, cols)?, flat(by, cols)?, flat(over, cols)?, Target::of(y)?);
            let bias = bias.map(|b| flat(b, cols)).transpose()?;
            on.guest(|_| {
                let scaled = x.broadcast_mul(&(by / over)?)?;
                let scaled = match bias {
                    Some(bias) => scaled.broadcast_add(&bias)?,
                    None => scaled,
                };
                put(&y, scaled, m, cols, add)
            })
        }
        Op::ColumnDot { x, y, m, cols, over, to, add } => {
            let (x, y, over, to) = (matrix(x, m, cols)?, matrix(y, m, cols)?, flat(over, cols)?, Target::of(to)?);
            on.guest(|_| put(&to, (x * y)?.sum_keepdim(0)?.broadcast_div(&over)?, 1, cols, add))
        }
        op => Err(unknown(&op)),
    }
}

fn layers(on: &Candle, op: Op<'_>) -> Result<()> {
    match op {
        Op::RmsNorm { x, w, m, cols, eps, y } => {
            let (x, w, y) = (matrix(x, m, cols)?, flat(w, cols)?, Target::of(y)?);
            on.guest(|_| y.put(&x.broadcast_mul(&inverse_size(&x, eps)?)?.broadcast_mul(&w)?))
        }
        Op::RmsNormVjp { dy, x, w, m, cols, eps, dx, dw } => {
            let (dy, x, w, dx) = (matrix(dy, m, cols)?, matrix(x, m, cols)?, flat(w, cols)?, Target::of(dx)?);
            let dw = dw.map(|(dw, add)| Target::of(dw).map(|dw| (dw, add))).transpose()?;
            on.guest(|_| {
                let rho = inverse_size(&x, eps)?;
                if let Some((dw, add)) = dw {
                    let own = (&dy * x.broadcast_mul(&rho)?)?.sum_keepdim(0)?;
                    put(&dw, own, 1, cols, add)?;
                }
                let g = dy.broadcast_mul(&w)?;
                let along = ((&g * &x)?.sum_keepdim(1)? * rho.powf(3.0)?)? * (1.0 / cols as f64);
                let value = (g.broadcast_mul(&rho)? - x.broadcast_mul(&along?)?)?;
                put(&dx, value, m, cols, true)
            })
        }
        Op::Rope { x, m, heads, dim, table } => rope(on, x, m, heads, dim, table),
        Op::Attention { q, k, v, segments, of, o, log_sum_exp } => {
            attention(on, [q, k, v], segments, of, o, log_sum_exp)
        }
        Op::AttentionVjp { q, k, v, o, log_sum_exp, d_o, segments, of, dq, dk, dv } => {
            attention_vjp(on, [q, k, v, o, d_o], log_sum_exp, segments, of, [dq, dk, dv])
        }
        Op::SwiGlu { g, u, len, p } => {
            let (g, u, p) = (flat(g, len)?, flat(u, len)?, Target::of(p)?);
            on.guest(|_| p.put(&(g.silu()? * u)?))
        }
        Op::SwiGluVjp { dp, g, u, len } => {
            let (dp, g, u) = (flat(dp, len)?, Target::of(g)?, Target::of(u)?);
            on.guest(|_| {
                let (gate, up) = (g.flat(len)?, u.flat(len)?);
                let sigma = (gate.neg()?.exp()? + 1.0)?.recip()?;
                let through = (&gate * &sigma)?;
                // σ (1 + g (1 − σ)) = σ + g σ − (g σ) σ.
                let slope = ((&sigma + &through)? - (&through * &sigma)?)?;
                let new = ((&dp * up)? * slope)?;
                u.put(&(dp * through)?)?;
                g.put(&new)
            })
        }
        Op::GeGlu { g, u, len, p } => {
            let (g, u, p) = (flat(g, len)?, flat(u, len)?, Target::of(p)?);
            on.guest(|_| p.put(&(g.gelu()? * u)?))
        }
        Op::GeGluVjp { dp, g, u, len } => {
            let (dp, g, u) = (flat(dp, len)?, Target::of(g)?, Target::of(u)?);
            on.guest(|_| {
                let (gate, up) = (g.flat(len)?, u.flat(len)?);
                // gelu = g σ(2t), 2t = r (g + c g³): its slope is σ + g σ (1 − σ) r (1 + 3 c g²).
                let (r, c) = (2.0 * (2.0 / std::f64::consts::PI).sqrt(), 0.044_715);
                let square = gate.sqr()?;
                let inner = (square.affine(r * c, r)? * &gate)?;
                let sigma = (inner.neg()?.exp()? + 1.0)?.recip()?;
                let through = (&gate * &sigma)?;
                let bend = (&through - (&through * &sigma)?)?;
                let slope = (sigma + (bend * square.affine(3.0 * r * c, r)?)?)?;
                let new = ((&dp * up)? * slope)?;
                u.put(&(dp * through)?)?;
                g.put(&new)
            })
        }
        Op::Dropout { x, y, len, mask, add } => {
            let (x, y) = (flat(x, len)?, Target::of(y)?);
            on.guest(|device| {
                let kept = (x * sent(kept(mask, len), device)?)?;
                y.put(&if add { (y.flat(len)? + kept)? } else { kept })
            })
        }
        op => Err(unknown(&op)),
    }
}

/// `(mean x² + eps)^−½` of each row, `(rows, 1)`.
fn inverse_size(x: &Tensor, eps: f32) -> Candled<Tensor> {
    (x.sqr()?.mean_keepdim(1)? + f64::from(eps))?.sqrt()?.recip()
}

/// What dropout multiplies each element by: the mask is a definition in whole numbers, and no device's.
fn kept(mask: Mask, len: usize) -> Vec<f32> {
    let (random, threshold, scale) = (Philox::new(mask.seed).stream(mask.stream), mask.threshold(), mask.scale());
    let blocks = (0..len.div_ceil(4)).flat_map(|i| random.block(i as u64));
    blocks.take(len).map(|word| if word < threshold { 0.0 } else { scale }).collect()
}

/// Heads `(m, heads, dim)` turned: of each head's first `2 · half` elements pairs `(a, b)` become
/// `(a cos − b sin, a sin + b cos)`, the rest stays.
fn rope(on: &Candle, x: Dst<'_>, m: usize, heads: usize, dim: usize, table: RopeTable<'_>) -> Result<()> {
    let RopeTable { cos, sin, positions, half, pairs, inverse } = table;
    let rows = cos.len().checked_div(half).unwrap_or(0);
    let (cos, sin) = (matrix(cos.all(), rows, half)?, matrix(sin.all(), rows, half)?);
    let (positions, x) = (flat(positions.all(), m)?, Target::of(x)?);
    on.guest(|_| {
        let at = |angles: &Tensor| angles.index_select(&positions, 0)?.reshape((m, 1, half));
        let (cos, sin) = (at(&cos)?, at(&sin)?);
        let sin = if inverse { sin.neg()? } else { sin };
        let all = x.matrix(m, heads * dim)?.reshape((m, heads, dim))?;
        let turns = all.narrow(2, 0, 2 * half)?;
        let (a, b) = match pairs {
            RopeLayout::Halves => (turns.narrow(2, 0, half)?, turns.narrow(2, half, half)?),
            RopeLayout::Interleaved => {
                let pairs = turns.contiguous()?.reshape((m, heads, half, 2))?;
                (pairs.narrow(3, 0, 1)?.squeeze(3)?, pairs.narrow(3, 1, 1)?.squeeze(3)?)
            }
        };
        let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let second = (a.broadcast_mul(&sin)? + b.broadcast_mul(&cos)?)?;
        let turned = match pairs {
            RopeLayout::Halves => Tensor::cat(&[&first, &second], 2)?,
            RopeLayout::Interleaved => Tensor::stack(&[&first, &second], 3)?.reshape((m, heads, 2 * half))?,
        };
        let rest = dim - 2 * half;
        x.put(&if rest == 0 { turned } else { Tensor::cat(&[&turned, &all.narrow(2, 2 * half, rest)?], 2)? })
    })
}

/// Query heads by the key head they share, `(m, heads · dim)` to `(sequences · kv_heads, group · length, dim)`.
fn grouped(x: &Tensor, of: Causal, dim: usize) -> Candled<Tensor> {
    let Causal { sequences: s, length: l, heads, kv_heads: kv, .. } = of;
    x.reshape((s, l, kv, heads / kv, dim))?.permute((0, 2, 3, 1, 4))?.contiguous()?.reshape((
        s * kv,
        heads / kv * l,
        dim,
    ))
}

/// The way back of [`grouped`].
fn ungrouped(x: &Tensor, of: Causal, dim: usize) -> Candled<Tensor> {
    let Causal { sequences: s, length: l, heads, kv_heads: kv, .. } = of;
    x.reshape((s, kv, heads / kv, l, dim))?.permute((0, 3, 1, 2, 4))?.contiguous()?.reshape((s * l, heads * dim))
}

/// Keys or values are a group of one.
fn ones(of: Causal) -> Causal {
    Causal { heads: of.kv_heads, ..of }
}

/// `cap · tanh(x / cap)` of scores that are capped.
fn capped(scores: Tensor, of: Causal) -> Candled<Tensor> {
    Ok(match of.cap.map(f64::from) {
        None => scores,
        Some(cap) => scores.affine(1.0 / cap, 0.0)?.tanh()?.affine(cap, 0.0)?,
    })
}

/// Scaled scores `(sequences · kv_heads, group · length, length)`, far below any number where a token may not look.
fn scores(q: &Tensor, k: &Tensor, segments: &Tensor, of: Causal) -> Candled<Tensor> {
    let Causal { sequences: s, length: l, heads, kv_heads: kv, scale, .. } = of;
    let group = heads / kv;
    let seen = {
        let each = Tensor::arange(0u32, l as u32, q.device())?;
        let (key, query) = (each.reshape((1, 1, l))?, each.reshape((1, l, 1))?);
        let before = key.broadcast_le(&query)?;
        let inside = key.broadcast_ge(&segments.reshape((s, l, 1))?)?;
        let visible = before.broadcast_mul(&inside)?;
        match of.window.filter(|w| *w < l) {
            None => visible,
            Some(w) => {
                let reach = Tensor::arange(w as u32, (w + l) as u32, q.device())?.reshape((1, 1, l))?;
                visible.broadcast_mul(&reach.broadcast_gt(&query)?)?
            }
        }
    };
    let hidden = seen.to_dtype(DType::F32)?.affine(1e30, -1e30)?.reshape((s, 1, 1, l, l))?;
    let scores = capped(q.matmul(&k.t()?)?.affine(f64::from(scale), 0.0)?, of)?;
    scores.reshape((s, kv, group, l, l))?.broadcast_add(&hidden)?.reshape((s * kv, group * l, l))
}

fn attention(on: &Candle, qkv: [Src<'_>; 3], segments: Src<'_>, of: Causal, o: Dst<'_>, sums: Dst<'_>) -> Result<()> {
    let ((m, wide, narrow), d) = (sides(of), of.dim);
    let [q, k, v] = qkv;
    let (q, k, v) = (matrix(q, m, wide)?, matrix(k, m, narrow)?, matrix(v, m, narrow)?);
    let (segments, o, sums) = (flat(segments, m)?, Target::of(o)?, Target::of(sums)?);
    on.guest(|_| {
        let (q, k, v) = (grouped(&q, of, d)?, grouped(&k, ones(of), d)?, grouped(&v, ones(of), d)?);
        let scores = scores(&q, &k, &segments, of)?;
        let most = scores.max_keepdim(2)?;
        let weights = scores.broadcast_sub(&most)?.exp()?;
        let sum = weights.sum_keepdim(2)?;
        o.put(&ungrouped(&weights.matmul(&v)?.broadcast_div(&sum)?, of, d)?)?;
        sums.put(&ungrouped(&(most + sum.log()?)?, of, 1)?)
    })
}

fn attention_vjp(
    on: &Candle,
    from: [Src<'_>; 5],
    sums: Src<'_>,
    segments: Src<'_>,
    of: Causal,
    to: [Dst<'_>; 3],
) -> Result<()> {
    let ((m, wide, narrow), d, scale) = (sides(of), of.dim, f64::from(of.scale));
    let [q, k, v, o, d_o] = from;
    let (q, k, v) = (matrix(q, m, wide)?, matrix(k, m, narrow)?, matrix(v, m, narrow)?);
    let (o, d_o) = (matrix(o, m, wide)?, matrix(d_o, m, wide)?);
    let (sums, segments) = (matrix(sums, m, of.heads)?, flat(segments, m)?);
    let [dq, dk, dv] = to;
    let (dq, dk, dv) = (Target::of(dq)?, Target::of(dk)?, Target::of(dv)?);
    on.guest(|_| {
        let (q, k, v) = (grouped(&q, of, d)?, grouped(&k, ones(of), d)?, grouped(&v, ones(of), d)?);
        let (o, d_o, sums) = (grouped(&o, of, d)?, grouped(&d_o, of, d)?, grouped(&sums, of, 1)?);
        let p = scores(&q, &k, &segments, of)?.broadcast_sub(&sums)?.exp()?;
        dv.put(&ungrouped(&p.t()?.matmul(&d_o)?, ones(of), d)?)?;
        let along = (&d_o * o)?.sum_keepdim(2)?;
        let ds = (d_o.matmul(&v.t()?)?.broadcast_sub(&along)? * p)?;
        let ds = match of.cap.map(f64::from) {
            None => ds,
            // The cap's slope, 1 − (capped / cap)².
            Some(cap) => {
                let shown = capped(q.matmul(&k.t()?)?.affine(scale, 0.0)?, of)?;
                (ds * shown.affine(1.0 / cap, 0.0)?.sqr()?.affine(-1.0, 1.0)?)?
            }
        };
        dq.put(&ungrouped(&(ds.matmul(&k)? * scale)?, of, d)?)?;
        dk.put(&ungrouped(&(ds.t()?.matmul(&q)? * scale)?, ones(of), d)?)
    })
}

/// The ids of the columns where they are listed.
fn listed(columns: Columns<'_>, n: usize) -> Result<(usize, Option<Tensor>)> {
    Ok(match columns {
        Columns::From(first) => (first, None),
        Columns::Listed(ids) => (0, Some(flat(ids, n)?)),
    })
}

/// For each row: whether it has a target, and at which of the `n` columns, which are the entries from `first` on or those
/// `listed`, its target is.
fn places(
    targets: &Tensor,
    (first, listed): &(usize, Option<Tensor>),
    n: usize,
) -> candle_core::Result<Vec<(bool, Option<u32>)>> {
    let listed = listed.as_ref().map(Tensor::to_vec1::<u32>).transpose()?;
    let place = |t: u32| match &listed {
        None => (t as usize).checked_sub(*first).filter(|at| *at < n),
        Some(ids) => ids.iter().position(|id| *id == t),
    };
    let of = |t: &u32| (*t != NO_LOSS, place(*t).filter(|_| *t != NO_LOSS).map(|at| at as u32));
    Ok(targets.to_vec1::<u32>()?.iter().map(of).collect())
}

fn heads(on: &Candle, op: Op<'_>) -> Result<()> {
    match op {
        Op::LogSumExp { a, m, n, columns, targets, log_sum_exp, picked, most: largest } => {
            let (a, targets, columns) = (matrix(a, m, n)?, flat(targets, m)?, listed(columns, n)?);
            let largest = largest.map(Target::of).transpose()?;
            let (sums, picked) = (Target::of(log_sum_exp)?, Target::of(picked)?);
            on.guest(|device| {
                let places = places(&targets, &columns, n)?;
                let flags = |f: &dyn Fn(&(bool, Option<u32>)) -> bool| {
                    sent(places.iter().map(|p| u8::from(f(p))).collect::<Vec<u8>>(), device)
                };
                let (wanted, inside) = (flags(&|p| p.0)?, flags(&|p| p.1.is_some())?);
                let at = sent(places.iter().map(|p| p.1.unwrap_or(0)).collect::<Vec<u32>>(), device)?;
                let most = a.max_keepdim(1)?;
                if let Some(largest) = largest {
                    let row = |((wanted, at), v): (&(bool, Option<u32>), &f32)| match at {
                        Some(_) => f32::INFINITY,
                        None => {
                            if *wanted {
                                *v
                            } else {
                                f32::NEG_INFINITY
                            }
                        }
                    };
                    let values = most.flatten_all()?.to_vec1::<f32>()?;
                    largest.put(&sent(places.iter().zip(&values).map(row).collect::<Vec<f32>>(), device)?)?;
                }
                let here = (a.broadcast_sub(&most)?.exp()?.sum_keepdim(1)?.log()? + most)?.reshape(m)?;
                let before = sums.flat(m)?;
                let larger = here.maximum(&before)?;
                let both = ((here - &larger)?.exp()? + (&before - &larger)?.exp()?)?.log()?;
                let new = wanted.where_cond(&(larger + both)?, &before)?;
                let of_target = a.gather(&at.reshape((m, 1))?, 1)?.reshape(m)?;
                let taken = inside.where_cond(&of_target, &picked.flat(m)?)?;
                sums.put(&new)?;
                picked.put(&taken)
            })
        }
        Op::Order { x, n, ids } => {
            let (x, ids) = (flat(x, n)?, Target::of(ids)?);
            on.guest(|device| {
                let values = x.to_vec1::<f32>()?;
                let mut order: Vec<u32> = (0..n as u32).collect();
                order.sort_by(|a, b| values[*b as usize].total_cmp(&values[*a as usize]));
                ids.put(&sent(order, device)?)
            })
        }
        Op::Argmax { a, n, first, best } => {
            let a = matrix(a, best.len(), n)?;
            on.guest(|_| {
                for (i, best) in best.iter_mut().enumerate() {
                    best.take(&a.get(i)?.to_vec1::<f32>()?, first);
                }
                Ok(())
            })
        }
        Op::CrossEntropyVjp { a, m, n, columns, targets, log_sum_exp, scale, eps, matters } => {
            let columns = listed(columns, n)?;
            let (sums, targets, a) = (matrix(log_sum_exp, m, 1)?, flat(targets, m)?, Target::of(a)?);
            *matters = on.guest(|device| {
                let places = places(&targets, &columns, n)?;
                let number = |yes: bool| f32::from(u8::from(yes));
                let column = |values: Vec<f32>| sent(values, device)?.reshape((m, 1));
                let wanted = column(places.iter().map(|p| number(p.0)).collect())?;
                let one = column(places.iter().map(|p| number(p.1.is_some())).collect())?;
                let at = sent(places.iter().map(|p| p.1.unwrap_or(0)).collect::<Vec<u32>>(), device)?;
                let p = a.matrix(m, n)?.broadcast_sub(&sums)?.exp()?;
                let d = p.scatter_add(&at.reshape((m, 1))?, &one.neg()?, 1)?.broadcast_mul(&wanted)?;
                let most = d.abs()?.max_all()?.to_scalar::<f32>()?;
                a.put(&(d * f64::from(scale))?)?;
                // What is no number matters.
                Ok(most.is_nan() || most >= eps)
            })?;
            Ok(())
        }
        op => rule::update(on, op),
    }
}

fn nets(on: &Candle, op: Op<'_>) -> Result<()> {
    match op {
        Op::BatchedMatMul { a, b, of, c, add } => {
            let Batched { batch, m, n, k, a_turned, b_turned } = of;
            let (a, b, c) = (flat(a, batch * m * k)?, flat(b, batch * k * n)?, Target::of(c)?);
            on.guest(|_| {
                let side = |x: Tensor, rows: usize, cols: usize, turned: bool| {
                    if turned { x.reshape((batch, cols, rows))?.t() } else { x.reshape((batch, rows, cols)) }
                };
                let product = side(a, m, k, a_turned)?.matmul(&side(b, k, n, b_turned)?)?;
                put(&c, product.reshape((batch * m, n))?, batch * m, n, add)
            })
        }
        Op::Reduce { x, rows, cols, how, y } => {
            let (x, y) = (matrix(x, rows, cols)?, Target::of(y)?);
            on.guest(|_| {
                y.put(&match how {
                    Reduction::Sum => x.sum(1)?,
                    Reduction::Mean => x.mean(1)?,
                    Reduction::Max => x.max(1)?,
                })
            })
        }
        Op::Im2col { x, of, y } => {
            let (x, y) = (flat(x, of.n * of.image())?, Target::of(y)?);
            on.guest(|device| {
                let edge = Tensor::zeros(1, DType::F32, device)?;
                y.put(&Tensor::cat(&[&x, &edge], 0)?.index_select(&sources(of, device)?, 0)?)
            })
        }
        Op::Col2im { dy, of, dx } => {
            let (dy, dx) = (flat(dy, of.outputs() * of.patch())?, Target::of(dx)?);
            on.guest(|device| {
                let all = Tensor::zeros(of.n * of.image() + 1, DType::F32, device)?;
                dx.put(&all.index_add(&sources(of, device)?, &dy, 0)?.narrow(0, 0, of.n * of.image())?)
            })
        }
        op => Err(unknown(&op)),
    }
}

/// For each element of a convolution's windows, which of the images it shows; beyond the edges the one after the last.
fn sources(of: Window, device: &candle_core::Device) -> Candled<Tensor> {
    let (rows, cols) = (of.outputs(), of.patch());
    let none = of.n * of.image();
    let at = |row| (0..cols).map(move |col| of.source(row, col).unwrap_or(none) as u32);
    sent((0..rows).flat_map(at).collect(), device)
}
