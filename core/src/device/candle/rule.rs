//! Updates as calls of candle's tensors.

use candle_core::{Result as Candled, Tensor};

use super::ops::{full_precision, unknown};
use super::{Candle, Target, flat};
use crate::device::{AdamW, Buf, Op, Sgd, Src};
use crate::error::Result;

/// An update; any other operation is one that candle is not taught.
pub(super) fn update(on: &Candle, op: Op<'_>) -> Result<()> {
    match op {
        Op::AdamW { p, g, m, v, by, .. } => adamw(on, p, g, [m, v], by),
        Op::Sgd { p, g, u, by, .. } => sgd(on, p, g, u, by),
        op => Err(unknown(&op)),
    }
}

fn whole(name: &str, x: &mut Buf) -> Result<Target> {
    full_precision(name, x.ty())?;
    Target::of(x.all_mut())
}

/// The gradient after scaling and clamping.
fn scaled(g: &Tensor, scale: f32, clamp: f32) -> Candled<Tensor> {
    let g = (g * f64::from(scale))?;
    if clamp.is_finite() { g.clamp(-clamp, clamp) } else { Ok(g) }
}

/// `β · old + (1 − β) · new`.
fn mix(old: &Tensor, new: &Tensor, beta: f32) -> Candled<Tensor> {
    (old * f64::from(beta))? + (new * f64::from(1.0 - beta))?
}

fn adamw(on: &Candle, p: &mut Buf, g: Src<'_>, moments: [&mut Buf; 2], by: AdamW) -> Result<()> {
    let n = p.len();
    let [m, v] = moments;
    let (p, m, v, g) = (whole("a parameter", p)?, whole("a moment", m)?, whole("a moment", v)?, flat(g, n)?);
    let AdamW { lr, beta1, beta2, eps, weight_decay, correction1, correction2, scale, clamp } = by;
    on.guest(|_| {
        let g = scaled(&g, scale, clamp)?;
        let (m1, v1) = (mix(&m.flat(n)?, &g, beta1)?, mix(&v.flat(n)?, &g.sqr()?, beta2)?);
        let size = ((&v1 * f64::from(1.0 / correction2))?.sqrt()? + f64::from(eps))?;
        let step = ((&m1 * f64::from(1.0 / correction1))? / size)?;
        let old = p.flat(n)?;
        let step = (step + (&old * f64::from(weight_decay))?)?;
        let new = (old - (step * f64::from(lr))?)?;
        p.put(&new)?;
        m.put(&m1)?;
        v.put(&v1)
    })
}

fn sgd(on: &Candle, p: &mut Buf, g: Src<'_>, u: Option<&mut Buf>, by: Sgd) -> Result<()> {
    let n = p.len();
    let (p, g) = (whole("a parameter", p)?, flat(g, n)?);
    let u = u.map(|u| whole("momentum", u)).transpose()?;
    let Sgd { lr, momentum, nesterov, weight_decay, scale, clamp } = by;
    on.guest(|_| {
        let old = p.flat(n)?;
        let g = (scaled(&g, scale, clamp)? + (&old * f64::from(weight_decay))?)?;
        let step = match &u {
            None => g,
            Some(u) => {
                let new = ((u.flat(n)? * f64::from(momentum))? + &g)?;
                u.put(&new)?;
                if nesterov { (g + (new * f64::from(momentum))?)? } else { new }
            }
        };
        p.put(&(old - (step * f64::from(lr))?)?)
    })
}
