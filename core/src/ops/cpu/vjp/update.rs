//! Optimizer steps in one pass: a parameter and its moments are read, updated in f32 and stored, a few elements at a time.

use half::bf16;

use super::check;
use crate::Result;
use crate::ops::cpu::kernels;
use crate::ops::cpu::lanes::{AdamWLanes, SgdLanes};
use crate::ops::descriptors::{AdamW, Sgd};
use crate::ops::team::{SharedMut, ThreadTeam};
use crate::rng::Philox;

/// Elements of a task.
const RUN: usize = 16 << 10;
/// Elements updated at once, on the stack.
const PIECE: usize = 256;

/// Elements stored as f32 or bf16.
#[derive(Debug)]
pub enum Moments<'a> {
    /// Four bytes each.
    F32(&'a mut [f32]),
    /// Two bytes each, to the nearest.
    Bf16(&'a mut [u16]),
}

/// How a parameter is stored, and what goes with it.
#[derive(Debug)]
pub enum Stored<'a> {
    /// f32; nothing is rounded.
    F32(&'a mut [f32]),
    /// bf16, to the nearest even.
    Nearest(&'a mut [u16]),
    /// bf16, up or down by chance, from this stream.
    Stochastic(&'a mut [u16], Philox),
    /// bf16 with what rounding lost so far, in bf16.
    Kahan(&'a mut [u16], &'a mut [u16]),
    /// bf16 beside an f32 master copy.
    Master(&'a mut [u16], &'a mut [f32]),
}

#[derive(Clone, Copy)]
enum SharedMoments {
    F32(SharedMut<f32>),
    Bf16(SharedMut<u16>),
}

enum SharedStored {
    F32(SharedMut<f32>),
    Nearest(SharedMut<u16>),
    Stochastic(SharedMut<u16>, Philox),
    Kahan(SharedMut<u16>, SharedMut<u16>),
    Master(SharedMut<u16>, SharedMut<f32>),
}

fn wide(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

fn near(x: f32) -> u16 {
    bf16::from_f32(x).to_bits()
}

impl Moments<'_> {
    fn len(&self) -> usize {
        match self {
            Self::F32(x) => x.len(),
            Self::Bf16(x) => x.len(),
        }
    }

    fn share(&mut self) -> SharedMoments {
        match self {
            Self::F32(x) => SharedMoments::F32(SharedMut::new(x)),
            Self::Bf16(x) => SharedMoments::Bf16(SharedMut::new(x)),
        }
    }
}

impl SharedMoments {
    /// Runs `each` on elements `at..at + n` in f32.
    ///
    /// # Safety
    /// No other task touches the elements.
    unsafe fn with(self, at: usize, n: usize, each: impl FnOnce(&mut [f32])) {
        match self {
            // SAFETY: promised by the caller.
            Self::F32(x) => each(unsafe { x.slice(at, n) }),
            Self::Bf16(x) => {
                // SAFETY: promised by the caller.
                let stored = unsafe { x.slice(at, n) };
                let mut room = [0.0f32; PIECE];
                let room = &mut room[..n];
                room.iter_mut().zip(&*stored).for_each(|(x, s)| *x = wide(*s));
                each(room);
                stored.iter_mut().zip(&*room).for_each(|(s, x)| *s = near(*x));
            }
        }
    }
}

impl Stored<'_> {
    fn len(&self) -> usize {
        match self {
            Self::F32(x) => x.len(),
            Self::Nearest(x) | Self::Stochastic(x, _) => x.len(),
            Self::Kahan(x, c) => x.len().min(c.len()),
            Self::Master(x, c) => x.len().min(c.len()),
        }
    }

    fn share(&mut self) -> SharedStored {
        match self {
            Self::F32(x) => SharedStored::F32(SharedMut::new(x)),
            Self::Nearest(x) => SharedStored::Nearest(SharedMut::new(x)),
            Self::Stochastic(x, by) => SharedStored::Stochastic(SharedMut::new(x), *by),
            Self::Kahan(x, c) => SharedStored::Kahan(SharedMut::new(x), SharedMut::new(c)),
            Self::Master(x, c) => SharedStored::Master(SharedMut::new(x), SharedMut::new(c)),
        }
    }
}

impl SharedStored {
    /// As [`SharedMoments::with`], rounding what is stored.
    ///
    /// # Safety
    /// No other task touches the elements.
    unsafe fn with(&self, at: usize, n: usize, each: impl FnOnce(&mut [f32])) {
        let mut room = [0.0f32; PIECE];
        let room = &mut room[..n];
        match self {
            // SAFETY: promised by the caller.
            Self::F32(x) => each(unsafe { x.slice(at, n) }),
            Self::Nearest(x) => {
                // SAFETY: promised by the caller.
                let p = unsafe { x.slice(at, n) };
                room.iter_mut().zip(&*p).for_each(|(x, p)| *x = wide(*p));
                each(room);
                p.iter_mut().zip(&*room).for_each(|(p, x)| *p = near(*x));
            }
            Self::Stochastic(x, by) => {
                // SAFETY: promised by the caller.
                let p = unsafe { x.slice(at, n) };
                room.iter_mut().zip(&*p).for_each(|(x, p)| *x = wide(*p));
                each(room);
                // PIECE and RUN are multiples of four, so a block of random words is one piece's.
                for (j, (p, x)) in p.chunks_mut(4).zip(room.chunks(4)).enumerate() {
                    let words = by.block((at / 4 + j) as u64);
                    for ((p, x), word) in p.iter_mut().zip(x).zip(words) {
                        // Sixteen random low bits carry into the kept half in proportion to what would be cut off.
                        *p = (x.to_bits().wrapping_add(word & 0xffff) >> 16) as u16;
                    }
                }
            }
            Self::Kahan(x, lost) => {
                // SAFETY: promised by the caller.
                let (p, lost) = unsafe { (x.slice(at, n), lost.slice(at, n)) };
                room.iter_mut().zip(&*p).zip(&*lost).for_each(|((x, p), c)| *x = wide(*p) + wide(*c));
                each(room);
                for ((p, c), x) in p.iter_mut().zip(lost).zip(&*room) {
                    *p = near(*x);
                    *c = near(x - wide(*p));
                }
            }
            Self::Master(x, master) => {
                // SAFETY: promised by the caller.
                let (p, master) = unsafe { (x.slice(at, n), master.slice(at, n)) };
                each(master);
                p.iter_mut().zip(&*master).for_each(|(p, x)| *p = near(*x));
            }
        }
    }
}

fn pieces(team: &ThreadTeam, len: usize, each: &(dyn Fn(usize, usize) + Sync)) -> Result<()> {
    team.run(len.div_ceil(RUN), &|task, _| {
        for at in (task * RUN..len.min((task + 1) * RUN)).step_by(PIECE) {
            each(at, PIECE.min(len - at));
        }
    })?;
    Ok(())
}

/// One AdamW step of a parameter with gradient `g`; see [`crate::device::Device::adamw`].
///
/// # Errors
/// [`crate::Error::Cancelled`]; [`crate::Error::Internal`] when lengths differ.
pub fn adamw(
    team: &ThreadTeam,
    mut p: Stored<'_>,
    g: &[f32],
    mut m: Moments<'_>,
    mut v: Moments<'_>,
    by: AdamW,
) -> Result<()> {
    let n = p.len();
    check("adamw", g.len() >= n && m.len() >= n && v.len() >= n, || {
        format!("{n} parameters, {} gradients, {} and {} moments", g.len(), m.len(), v.len())
    })?;
    let lanes = &kernels().lanes;
    let c = AdamWLanes {
        lr: by.lr,
        beta1: by.beta1,
        beta2: by.beta2,
        eps: by.eps,
        weight_decay: by.weight_decay,
        inverse1: 1.0 / by.correction1,
        inverse2: 1.0 / by.correction2,
        scale: by.scale,
        clamp: by.clamp,
    };
    let (p, m, v) = (p.share(), m.share(), v.share());
    pieces(team, n, &|at, n| {
        // SAFETY: each piece is one task's; the table's level runs here.
        unsafe {
            p.with(at, n, |p| m.with(at, n, |m| v.with(at, n, |v| (lanes.adamw)(p, &g[at..at + n], m, v, &c))));
        }
    })
}

/// One SGD step of a parameter with gradient `g`; see [`crate::device::Device::sgd`].
///
/// # Errors
/// As [`adamw`].
pub fn sgd(team: &ThreadTeam, mut p: Stored<'_>, g: &[f32], u: Option<Moments<'_>>, by: Sgd) -> Result<()> {
    let n = p.len();
    check("sgd", g.len() >= n && u.as_ref().is_none_or(|u| u.len() >= n), || format!("{n} and {}", g.len()))?;
    let lanes = &kernels().lanes;
    let Sgd { lr, momentum, nesterov, weight_decay, scale, clamp } = by;
    let c = SgdLanes { lr, momentum, nesterov, weight_decay, scale, clamp };
    let (p, u) = (p.share(), u.map(|mut u| u.share()));
    pieces(team, n, &|at, n| {
        // SAFETY: each piece is one task's; the table's level runs here.
        unsafe {
            p.with(at, n, |p| match u {
                Some(u) => u.with(at, n, |u| (lanes.sgd)(p, &g[at..at + n], Some(u), &c)),
                None => (lanes.sgd)(p, &g[at..at + n], None, &c),
            });
        }
    })
}
