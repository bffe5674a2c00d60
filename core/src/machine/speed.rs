//! How fast memory and the vector units are: small loops in the manner of STREAM, timed on this machine.
#![allow(unsafe_code, reason = "vector instructions")]

use std::hint::black_box;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ops::KernelTimes;

/// What the CPU and its memory can do at best. `[0]` with one thread, `[1]` with the default number of threads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Speed {
    /// Bytes a second read from memory, buffers far larger than the last cache.
    pub read: [f64; 2],
    /// Bytes a second copied within memory, each read once and written once.
    pub copy: [f64; 2],
    /// Fused multiply-adds on f32, in operations a second (two each): the peak, which a real matrix product nears.
    pub f32_flops: [f64; 2],
    /// What the engine's kernels take, where they were timed.
    #[serde(default)]
    pub kernels: Option<Box<[KernelTimes; 2]>>,
}

impl Speed {
    /// Bytes a second that `threads` threads read: in proportion up to the default number, no more beyond it.
    pub fn read_with(&self, threads: usize, default: usize) -> f64 {
        between(self.read, threads, default)
    }

    /// What the engine's kernels take with `threads` threads: those of one, or of the default number.
    pub fn kernels_with(&self, threads: usize) -> Option<&KernelTimes> {
        self.kernels.as_ref().map(|both| &both[usize::from(threads > 1)])
    }

    /// Operations a second of `threads` threads, as [`Self::read_with`].
    pub fn flops_with(&self, threads: usize, default: usize) -> f64 {
        between(self.f32_flops, threads, default)
    }
}

fn between([one, all]: [f64; 2], threads: usize, default: usize) -> f64 {
    if threads <= 1 || default <= 1 {
        return one;
    }
    one + (all - one) * (threads.min(default) - 1) as f64 / (default - 1) as f64
}

/// Best bytes a second of reading `data` with `threads` threads.
pub(super) fn read(data: &[u64], threads: usize, limit: Duration, cancelled: &dyn Fn() -> bool) -> Result<f64> {
    let kernel = Kernel::widest();
    let parts: Vec<_> = data.chunks(data.len().div_ceil(threads).max(1)).collect();
    let seconds = best(parts, limit, cancelled, |part| {
        black_box(kernel.sum(black_box(part)));
    })?;
    Ok(size_of_val(data) as f64 / seconds)
}

/// Best bytes a second of copying `from` over `to` (of the same length) with `threads` threads.
pub(super) fn copy(
    from: &[u64],
    to: &mut [u64],
    threads: usize,
    limit: Duration,
    cancelled: &dyn Fn() -> bool,
) -> Result<f64> {
    let part = from.len().div_ceil(threads).max(1);
    let parts: Vec<_> = from.chunks(part).zip(to.chunks_mut(part)).collect();
    let seconds = best(parts, limit, cancelled, |(from, to)| {
        to.copy_from_slice(black_box(*from));
        black_box(&mut **to);
    })?;
    Ok(size_of_val(from) as f64 / seconds)
}

/// Best f32 operations a second of `threads` threads.
pub(super) fn f32_flops(threads: usize, limit: Duration, cancelled: &dyn Fn() -> bool) -> Result<f64> {
    const ROUNDS: u32 = 200_000;
    let kernel = Kernel::widest();
    let seconds = best(vec![(); threads], limit, cancelled, |()| {
        black_box(kernel.multiply_add(black_box(ROUNDS), black_box(0.5)));
    })?;
    Ok(threads as f64 * f64::from(ROUNDS) * kernel.flops_a_round() / seconds)
}

/// Runs `work` on every part at once, each on a thread of its own, again and again until `limit` is over (at least
/// three times); the shortest time in seconds from the first start to the last end.
fn best<T: Send>(
    mut parts: Vec<T>,
    limit: Duration,
    cancelled: &dyn Fn() -> bool,
    work: impl Fn(&mut T) + Sync,
) -> Result<f64> {
    let began = Instant::now();
    let mut shortest = f64::INFINITY;
    let mut rounds = 0;
    while rounds < 3 || began.elapsed() < limit {
        if cancelled() {
            return Err(Error::Cancelled);
        }
        // A probe that is starved must end all the same.
        if rounds > 0 && began.elapsed() > 4 * limit {
            break;
        }
        shortest = shortest.min(once(&mut parts, &work)?);
        rounds += 1;
    }
    Ok(shortest.max(1e-9))
}

fn once<T: Send>(parts: &mut [T], work: &(impl Fn(&mut T) + Sync)) -> Result<f64> {
    const HOLD: u8 = 0;
    const GO: u8 = 1;
    const HOME: u8 = 2;
    if let [part] = parts {
        let start = Instant::now();
        work(part);
        return Ok(start.elapsed().as_secs_f64());
    }
    let gate = AtomicU8::new(HOLD);
    std::thread::scope(|scope| {
        let spawned: std::io::Result<Vec<_>> = parts
            .iter_mut()
            .map(|part| {
                std::thread::Builder::new().name("ullage-probe".into()).spawn_scoped(scope, || {
                    while gate.load(Acquire) == HOLD {
                        std::thread::yield_now();
                    }
                    if gate.load(Acquire) == GO {
                        work(part);
                    }
                    Instant::now()
                })
            })
            .collect();
        // Either all of them start together or none does.
        let start = Instant::now();
        gate.store(if spawned.is_ok() { GO } else { HOME }, Release);
        let threads = spawned.map_err(|error| Error::Internal(format!("cannot start a probe thread: {error}")))?;
        let mut end = start;
        for thread in threads {
            end = end.max(thread.join().map_err(|_| Error::Internal("a probe thread panicked".into()))?);
        }
        Ok((end - start).as_secs_f64())
    })
}

/// Which vector registers the loops below use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kernel {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Plain,
}

impl Kernel {
    fn widest() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                return Self::Avx512;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Self::Avx2;
            }
        }
        Self::Plain
    }

    /// Reads every element; the sum only makes sure of it.
    fn sum(self, data: &[u64]) -> u64 {
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `widest` saw the feature on this CPU.
            Self::Avx512 => unsafe { x86::sum_avx512(data) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Self::Avx2 => unsafe { x86::sum_avx2(data) },
            Self::Plain => sum_plain(data),
        }
    }

    /// `rounds` rounds of x ← x·a + a on CHAINS registers at once; the result only keeps the loop alive.
    fn multiply_add(self, rounds: u32, a: f32) -> f32 {
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `widest` saw the feature on this CPU.
            Self::Avx512 => unsafe { x86::fma_avx512(rounds, a) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Self::Avx2 => unsafe { x86::fma_avx2(rounds, a) },
            Self::Plain => fma_plain(rounds, a),
        }
    }

    /// Operations in one round: two for each lane of each register.
    fn flops_a_round(self) -> f64 {
        let lanes = match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => 16,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => 8,
            Self::Plain => PLAIN_LANES,
        };
        (2 * lanes * CHAINS) as f64
    }
}

/// Independent registers in flight: enough to hide a latency of 4–5 cycles on two units, few enough for 16 registers.
const CHAINS: usize = 12;
const PLAIN_LANES: usize = 4;

#[inline(always)]
fn sum_plain(data: &[u64]) -> u64 {
    data.iter().fold(0, |sum, v| sum.wrapping_add(*v))
}

fn fma_plain(rounds: u32, a: f32) -> f32 {
    let mut x = [[1.0f32; PLAIN_LANES]; CHAINS];
    for _ in 0..rounds {
        for v in x.as_flattened_mut() {
            // Only where it is one instruction: elsewhere `mul_add` is a slow call into the C library.
            *v = if cfg!(target_arch = "aarch64") { v.mul_add(a, a) } else { *v * a + a };
        }
    }
    x.as_flattened().iter().sum()
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        _mm256_add_ps, _mm256_cvtss_f32, _mm256_fmadd_ps, _mm256_set1_ps, _mm512_fmadd_ps, _mm512_reduce_add_ps,
        _mm512_set1_ps,
    };

    use super::CHAINS;

    #[target_feature(enable = "avx512f")]
    pub(super) fn sum_avx512(data: &[u64]) -> u64 {
        super::sum_plain(data)
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn sum_avx2(data: &[u64]) -> u64 {
        super::sum_plain(data)
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn fma_avx512(rounds: u32, a: f32) -> f32 {
        let a = _mm512_set1_ps(a);
        let mut x = [_mm512_set1_ps(1.0); CHAINS];
        for _ in 0..rounds {
            for v in &mut x {
                *v = _mm512_fmadd_ps(*v, a, a);
            }
        }
        x.into_iter().map(|v| _mm512_reduce_add_ps(v)).sum()
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn fma_avx2(rounds: u32, a: f32) -> f32 {
        let a = _mm256_set1_ps(a);
        let mut x = [_mm256_set1_ps(1.0); CHAINS];
        for _ in 0..rounds {
            for v in &mut x {
                *v = _mm256_fmadd_ps(*v, a, a);
            }
        }
        let mut all = x[0];
        for v in &x[1..] {
            all = _mm256_add_ps(all, *v);
        }
        // Eight equal lanes.
        8.0 * _mm256_cvtss_f32(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GO_ON: &dyn Fn() -> bool = &|| false;
    const SHORT: Duration = Duration::from_millis(20);

    #[test]
    fn every_kernel_reads_all_and_multiplies_right() {
        let data: Vec<u64> = (0..1003).map(|i| i * i).collect();
        let sum: u64 = data.iter().sum();
        // x ← x/2 + 1/2 stays at 1 in every lane, so the result counts the lanes: the factor in the speed.
        for kernel in [Kernel::widest(), Kernel::Plain] {
            assert_eq!(kernel.sum(&data), sum, "{kernel:?}");
            assert_eq!(2.0 * f64::from(kernel.multiply_add(100, 0.5)), kernel.flops_a_round(), "{kernel:?}");
        }
    }

    #[test]
    fn time_goes_with_the_work() {
        // Twice the rounds take about twice as long, so the loop is not optimized away.
        let time = |rounds| {
            let work = |(): &mut ()| {
                black_box(Kernel::widest().multiply_add(black_box(rounds), black_box(0.5)));
            };
            best(vec![()], SHORT, GO_ON, work).unwrap()
        };
        let ratio = time(400_000) / time(100_000);
        assert!((2.0..8.0).contains(&ratio), "{ratio}");
    }

    #[test]
    fn copies_are_whole_whatever_the_split() {
        let from: Vec<u64> = (0..10_007).collect();
        for threads in [1, 2, 3] {
            let mut to = vec![0; from.len()];
            assert!(copy(&from, &mut to, threads, Duration::ZERO, GO_ON).unwrap() > 0.0);
            assert_eq!(from, to);
            assert!(read(&from, threads, Duration::ZERO, GO_ON).unwrap() > 0.0);
        }
    }

    #[test]
    fn cancelling_ends_it() {
        let stop: &dyn Fn() -> bool = &|| true;
        assert!(matches!(f32_flops(2, Duration::from_secs(60), stop), Err(Error::Cancelled)));
    }

    #[test]
    fn threads_between_one_and_the_default_get_their_share() {
        let speed = Speed { read: [10.0, 40.0], copy: [1.0, 1.0], f32_flops: [1.0, 4.0], kernels: None };
        let with: Vec<_> = (0..=6).map(|n| speed.read_with(n, 4)).collect();
        assert_eq!(with, [10.0, 10.0, 20.0, 30.0, 40.0, 40.0, 40.0]);
        assert_eq!(speed.flops_with(8, 1), 1.0);
    }
}
