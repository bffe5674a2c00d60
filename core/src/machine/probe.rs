//! The probe: everything about this machine that has to be measured, in about ten seconds at most.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{Cpu, Disk, Gpu, Machine, Memory, SCHEMA, Speed, cache_dir, disk, speed};
use crate::error::{Error, Result};
use crate::ledger::{Category, Ledger, Tag};
use crate::ops::KernelTimes;
use crate::ops::timing::FILL;

/// How long a probe may take.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// What one loop may take; there are six. A slow machine makes three rounds all the same.
    each: Duration,
    /// What the disk may take.
    disk: Duration,
    /// Most bytes of the buffer that is read and copied.
    buffer: u64,
    /// What one kernel may take; there are some two hundred with one thread, and as many with all.
    kernel: Duration,
}

impl Effort {
    /// Some ten seconds.
    pub const THOROUGH: Self = Self {
        each: Duration::from_millis(400),
        disk: Duration::from_secs(5),
        buffer: 2 << 30,
        kernel: Duration::from_millis(10),
    };
    /// Two or three seconds: what a first start takes in the background.
    pub const QUICK: Self = Self {
        each: Duration::from_millis(120),
        disk: Duration::from_millis(700),
        buffer: 512 << 20,
        kernel: Duration::from_micros(300),
    };
}

/// Measures this machine. `progress` hears what is going on and how much is done (0 … 1), `cancelled` is asked at least
/// every few hundred milliseconds. Takes at most a quarter of the free memory and 256 MiB of the cache folder's disk; where that
/// is too little to time kernels in, they are not timed, and a plan's seconds come from bandwidths alone.
///
/// # Errors
/// [`crate::Error::Cancelled`], [`crate::Error::Io`] when the cache folder cannot be written, and
/// [`crate::Error::OverBudget`] when not even the smallest buffers can be had.
pub fn probe(effort: Effort, progress: &mut dyn FnMut(&str, f32), cancelled: &dyn Fn() -> bool) -> Result<Machine> {
    probe_within(&cache_dir(), effort, progress, cancelled)
}

fn probe_within(
    folder: &Path,
    effort: Effort,
    progress: &mut dyn FnMut(&str, f32),
    cancelled: &dyn Fn() -> bool,
) -> Result<Machine> {
    let each = effort.each;
    progress("processor", 0.0);
    let cpu = Cpu::here();
    let memory = Memory::now();
    // The probe keeps to a wall of its own: half of it for the memory that is read, half for what kernels compute in.
    let ledger = Ledger::new(0, memory.room() / 4, 0);
    let n = cpu.threads;
    let speed = {
        let len = buffer_bytes(memory.room(), last_cache_bytes(Path::new("/")), effort.buffer);
        progress("memory: first touch", 0.02);
        let mut buffer = ledger.buffer(Tag::host(Category::Workspace, "memory probe"), len)?;
        let words = buffer.as_mut_slice::<u64>();
        // Zeroed memory may be one shared page until it is written: reading that would measure the cache.
        for part in words.chunks_mut(1 << 20) {
            if cancelled() {
                return Err(Error::Cancelled);
            }
            part.fill(u64::from_ne_bytes([FILL; 8]));
        }
        progress("memory: read", 0.10);
        let read_1 = speed::read(words, 1, each, cancelled)?;
        let read_n = if n > 1 { speed::read(words, n, each, cancelled)? } else { read_1 };
        progress("memory: copy", 0.20);
        let (from, to) = words.split_at_mut(len / size_of::<u64>() / 2);
        let copy_1 = speed::copy(from, to, 1, each, cancelled)?;
        let copy_n = if n > 1 { speed::copy(from, to, n, each, cancelled)? } else { copy_1 };
        progress("processor: arithmetic", 0.30);
        let flops_1 = speed::f32_flops(1, each / 2, cancelled)?;
        let flops_n = if n > 1 { speed::f32_flops(n, each / 2, cancelled)? } else { flops_1 };
        progress("processor: kernels", 0.34);
        let kernels = kernels(bytemuck::cast_slice(words), n, &ledger, effort.kernel, cancelled)?;
        // More threads that are slower together than one is alone: noise, or a neighbour.
        let pair = |one: f64, all: f64| [one, all.max(one)];
        Speed { read: pair(read_1, read_n), copy: pair(copy_1, copy_n), f32_flops: pair(flops_1, flops_n), kernels }
    };
    let (disk, gpus) = disk_and_gpus(folder, &ledger, effort.disk, progress, cancelled)?;
    progress("done", 1.0);
    // Read again: the first reading stood before our own buffers came and went.
    Ok(Machine { schema: SCHEMA, probed: true, cpu, memory: Memory::now(), speed, disk, gpus })
}

/// The disk, and beside it the GPUs: neither uses what the other is timed at, and opening a GPU alone takes half a second.
#[cfg(feature = "cuda")]
fn disk_and_gpus(
    folder: &Path,
    ledger: &Arc<Ledger>,
    most: Duration,
    progress: &mut dyn FnMut(&str, f32),
    cancelled: &dyn Fn() -> bool,
) -> Result<(Disk, Vec<Gpu>)> {
    use std::sync::atomic::{AtomicBool, Ordering};
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let gpus = scope.spawn(|| super::gpu::probe(&|| stop.load(Ordering::Relaxed)));
        let disk = disk::probe(folder, ledger, most, &mut |what, part| progress(what, 0.4 + 0.5 * part), cancelled);
        progress("GPU", 0.9);
        // What is asked of the GPUs is worth nothing without the rest.
        stop.store(disk.is_err(), Ordering::Relaxed);
        while !gpus.is_finished() {
            if cancelled() {
                stop.store(true, Ordering::Relaxed);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let gpus = gpus.join().unwrap_or_else(|_| Err(Error::Device("the probe of the GPU broke off".into())));
        Ok((disk?, gpus?))
    })
}

/// The disk; this program was built for no GPU.
#[cfg(not(feature = "cuda"))]
fn disk_and_gpus(
    folder: &Path,
    ledger: &Arc<Ledger>,
    most: Duration,
    progress: &mut dyn FnMut(&str, f32),
    cancelled: &dyn Fn() -> bool,
) -> Result<(Disk, Vec<Gpu>)> {
    let disk = disk::probe(folder, ledger, most, &mut |what, part| progress(what, 0.4 + 0.5 * part), cancelled)?;
    Ok((disk, Vec::new()))
}

/// Kernel times with one thread and with `n`; none where the wall leaves no room for them.
fn kernels(
    bytes: &[u8],
    n: usize,
    ledger: &Arc<Ledger>,
    each: Duration,
    cancelled: &dyn Fn() -> bool,
) -> Result<Option<Box<[KernelTimes; 2]>>> {
    let timed = |threads| match KernelTimes::measure(threads, bytes, ledger, each, cancelled) {
        Ok(times) => Ok(Some(times)),
        Err(Error::OverBudget(_)) => Ok(None),
        Err(e) => Err(e),
    };
    let Some(one) = timed(1)? else { return Ok(None) };
    let all = if n > 1 { timed(n)? } else { Some(one.clone()) };
    Ok(all.map(|all| Box::new([one, all])))
}

/// Length of the memory buffer, which is read whole and copied half over half: 256 MiB or four times the last cache, at
/// most `most`, and an eighth of the room less what the disk probe needs. A multiple of two pages.
fn buffer_bytes(room: u64, last_cache: u64, most: u64) -> usize {
    let wanted = (256 << 20).max(4 * last_cache).min(most);
    let affordable = (room / 8).saturating_sub(disk::scratch_bytes() as u64);
    (wanted.min(affordable) / 8192 * 8192).max(1 << 20) as usize
}

/// Bytes of all last-level caches of the machine, from `sys/devices/system/cpu` under `root`; 0 where the system does
/// not say.
fn last_cache_bytes(root: &Path) -> u64 {
    let Ok(cpus) = fs::read_dir(root.join("sys/devices/system/cpu")) else { return 0 };
    // One entry a cache: those that share it name the same processors.
    let mut caches: BTreeMap<(u64, String), u64> = BTreeMap::new();
    for cpu in cpus.flatten() {
        let Ok(levels) = fs::read_dir(cpu.path().join("cache")) else { continue };
        for level in levels.flatten() {
            let text = |name: &str| fs::read_to_string(level.path().join(name)).ok().map(|t| t.trim().to_owned());
            let (Some(number), Some(size), Some(shared)) =
                (text("level").and_then(|l| l.parse().ok()), text("size"), text("shared_cpu_list"))
            else {
                continue;
            };
            let (digits, scale) = match size.as_bytes().last() {
                Some(b'K') => (&size[..size.len() - 1], 1 << 10),
                Some(b'M') => (&size[..size.len() - 1], 1 << 20),
                _ => (size.as_str(), 1),
            };
            let bytes = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(scale)).unwrap_or(0);
            caches.insert((number, shared), bytes);
        }
    }
    let Some(last) = caches.keys().map(|(level, _)| *level).max() else { return 0 };
    let total = caches.iter().filter(|((level, _), _)| *level == last).map(|(_, bytes)| bytes.min(&(1 << 40))).sum();
    u64::min(total, 1 << 40)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_probe_measures_this_machine() {
        let dir = tempfile::tempdir().unwrap();
        let (short, mut seen) = (Duration::from_millis(10), Vec::new());
        let effort = Effort { each: short, disk: Duration::from_millis(200), ..Effort::QUICK };
        let machine =
            probe_within(dir.path(), effort, &mut |what, part| seen.push((what.to_owned(), part)), &|| false).unwrap();
        assert!(machine.probed && machine.defect().is_none(), "{machine:?}");
        assert!(seen.is_sorted_by(|a, b| a.1 <= b.1) && seen.last().unwrap().1 == 1.0, "{seen:?}");
        // A copy reads and writes: it cannot outrun reading by much. Any processor does more than one flop a nanosecond.
        let Speed { read, copy, f32_flops, .. } = machine.speed;
        assert!(copy[1] < 2.0 * read[1] && f32_flops[0] > 1e9 && read[0] > 1e8, "{machine}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn kernels_are_timed_where_there_is_room_for_them() {
        let bytes = vec![FILL; 8 << 20];
        let within = |wall| {
            let ledger = Ledger::new(0, wall, 0);
            let times = kernels(&bytes, 2, &ledger, Duration::ZERO, &|| false).unwrap();
            assert_eq!(ledger.held(crate::ledger::Tier::Host), 0);
            times
        };
        assert!(within(256 << 20).is_some_and(|both| [both[0].threads, both[1].threads] == [1, 2]));
        assert!(within(1 << 20).is_none(), "and that is no error");
    }

    #[test]
    fn cancelling_is_heard_early() {
        let dir = tempfile::tempdir().unwrap();
        let hour = Duration::from_secs(3600);
        let effort = Effort { each: hour, disk: hour, ..Effort::QUICK };
        let result = probe_within(dir.path(), effort, &mut |_, _| {}, &|| true);
        assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
    }

    #[test]
    fn buffers_exceed_the_cache_and_keep_to_an_eighth() {
        assert_eq!(buffer_bytes(64 << 30, 32 << 20, 2 << 30), 256 << 20);
        assert_eq!(buffer_bytes(256 << 30, 128 << 20, 2 << 30), 512 << 20);
        assert_eq!(buffer_bytes(256 << 30, 1 << 30, 2 << 30), 2 << 30);
        assert_eq!(buffer_bytes(256 << 30, 1 << 30, 512 << 20), 512 << 20);
        for room in [128 << 20, 1 << 30, 5_000_000_001u64] {
            let all = buffer_bytes(room, 32 << 20, 2 << 30) as u64 + disk::scratch_bytes() as u64;
            assert!(all <= room / 8 && (all > room / 8 - 8192 || all > 256 << 20), "{room}");
        }
    }

    #[test]
    fn shared_caches_count_once() {
        let dir = tempfile::tempdir().unwrap();
        let put = |cpu: u32, index: u32, level: u32, size: &str, shared: &str| {
            let at = dir.path().join(format!("sys/devices/system/cpu/cpu{cpu}/cache/index{index}"));
            fs::create_dir_all(&at).unwrap();
            for (name, text) in
                [("level", level.to_string()), ("size", size.into()), ("shared_cpu_list", shared.into())]
            {
                fs::write(at.join(name), text + "\n").unwrap();
            }
        };
        for cpu in 0..4 {
            put(cpu, 0, 1, "48K", &cpu.to_string());
            put(cpu, 3, 3, "32768K", if cpu < 2 { "0-1" } else { "2-3" });
        }
        assert_eq!(last_cache_bytes(dir.path()), 64 << 20);
        put(0, 3, 3, "nonsense", "0-1");
        put(1, 3, 3, "nonsense", "0-1");
        assert_eq!(last_cache_bytes(dir.path()), 32 << 20);
        assert_eq!(last_cache_bytes(&dir.path().join("nowhere")), 0);
    }
}
