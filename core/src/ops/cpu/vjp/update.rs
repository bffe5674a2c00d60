//! Rules in one pass: a parameter and its state are read, updated in f32 and stored, a few elements at a time.

use half::bf16;

use super::check;
use crate::Result;
use crate::ops::cpu::kernels;
use crate::ops::rule::{MOST_SLOTS, Rule};
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
    /// Elements `at..at + n` in f32: themselves, or decoded into `room`.
    ///
    /// # Safety
    /// No other task touches the elements, and this one not again before [`Self::close`].
    unsafe fn open(self, at: usize, n: usize, room: &mut [f32]) -> &mut [f32] {
        match self {
            // SAFETY: promised by the caller.
            Self::F32(x) => unsafe { x.slice(at, n) },
            Self::Bf16(x) => {
                // SAFETY: promised by the caller.
                let stored = unsafe { x.slice(at, n) };
                let room = &mut room[..n];
                room.iter_mut().zip(stored).for_each(|(x, s)| *x = wide(*s));
                room
            }
        }
    }

    /// Stores what [`Self::open`] has decoded.
    ///
    /// # Safety
    /// As there.
    unsafe fn close(self, at: usize, n: usize, room: &[f32]) {
        if let Self::Bf16(x) = self {
            // SAFETY: promised by the caller.
            let stored = unsafe { x.slice(at, n) };
            stored.iter_mut().zip(room).for_each(|(s, x)| *s = near(*x));
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

/// Where the gradient of each element comes from.
#[derive(Clone, Copy, Debug)]
pub enum Gradients<'a> {
    /// Held as f32, an element for each of the parameter's.
    Held(&'a [f32]),
    /// Held as the bits of bf16, an element for each of the parameter's.
    Halves(&'a [u16]),
    /// Made where it is needed, element `i` being number `i` of [`Philox::normals`].
    Normal(Philox),
}

/// Applies `rule` to every element of `p`, in one pass: gradients are scaled by `scale` and clamped to ± `clamp` first.
///
/// # Errors
/// [`crate::Error::Cancelled`]; [`crate::Error::Internal`] when lengths, slots or numbers are not those of the rule.
pub fn elementwise(
    team: &ThreadTeam,
    rule: &Rule,
    mut p: Stored<'_>,
    g: Gradients<'_>,
    state: &mut [Moments<'_>],
    numbers: &[f32],
    (scale, clamp): (f32, f32),
) -> Result<()> {
    let n = p.len();
    let held = match g {
        Gradients::Held(g) => g.len(),
        Gradients::Halves(g) => g.len(),
        Gradients::Normal(_) => n,
    };
    let complete = state.len() == rule.slots.len() && numbers.len() == rule.numbers.len();
    check(rule.name, complete && held >= n && state.iter().all(|s| s.len() >= n), || {
        format!("{n} parameters, {held} gradients, {} slots, {} numbers", state.len(), numbers.len())
    })?;
    let sweep = rule.sweeps[kernels().level as usize];
    let p = p.share();
    let mut slots = [None; MOST_SLOTS];
    slots.iter_mut().zip(state).for_each(|(slot, state)| *slot = Some(state.share()));
    let count = rule.slots.len();
    team.run(n.div_ceil(RUN), &|task, _| {
        let mut rooms = [[0.0f32; PIECE]; MOST_SLOTS];
        let mut gradients = [0.0f32; PIECE];
        for at in (task * RUN..n.min((task + 1) * RUN)).step_by(PIECE) {
            let len = PIECE.min(n - at);
            let g = match &g {
                Gradients::Held(g) => &g[at..at + len],
                Gradients::Halves(g) => {
                    gradients.iter_mut().zip(&g[at..at + len]).for_each(|(x, g)| *x = wide(*g));
                    &gradients[..len]
                }
                Gradients::Normal(random) => {
                    random.normals(at as u64, &mut gradients[..len]);
                    &gradients[..len]
                }
            };
            let mut open: [&mut [f32]; MOST_SLOTS] = std::array::from_fn(|_| Default::default());
            for ((open, slot), room) in open.iter_mut().zip(slots.iter().flatten()).zip(&mut rooms) {
                // SAFETY: each piece is one task's.
                *open = unsafe { slot.open(at, len, room) };
            }
            // SAFETY: each piece is one task's; the level's instructions run here.
            unsafe { p.with(at, len, |p| sweep(p, g, &mut open[..count], numbers, scale, clamp)) };
            for (slot, room) in slots.iter().flatten().zip(&rooms) {
                // SAFETY: as above.
                unsafe { slot.close(at, len, room) };
            }
        }
    })?;
    Ok(())
}
