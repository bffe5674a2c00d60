//! This machine: memory, bandwidths, disk, threads. Probed once (`ullage probe`), saved, and used by plans.
//!
//! Bytes are integers, bandwidths bytes a second, rates operations a second, times seconds.

pub mod cards;
mod disk;
#[cfg(feature = "cuda")]
mod gpu;
mod link;
mod memory;
mod probe;
mod speed;
mod store;

use std::fmt;
use std::path::Path;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

pub use cards::Card;
pub use disk::Disk;
pub use link::Link;
pub use memory::{Memory, Resident, reset_resident_peak, resident, rss_bytes};
pub use probe::{Effort, probe};
pub use speed::Speed;
pub use store::{cache_dir, config_dir};

use crate::blocks::BlockType;
use crate::bytes::Bytes;
use crate::ops::KernelTimes;
use crate::ops::timing::ROWS;

/// Version of the saved form; a file of another version is not used.
const SCHEMA: u32 = 1;

/// Everything a plan needs to know about a machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Version of this form.
    pub schema: u32,
    /// True when the figures were measured here, false when they are a cautious guess.
    pub probed: bool,
    /// The processor and its threads.
    pub cpu: Cpu,
    /// RAM, and what the control groups leave of it.
    pub memory: Memory,
    /// What processor and memory do in a second.
    pub speed: Speed,
    /// The disk under the cache folder.
    pub disk: Disk,
    /// GPUs, in the driver's order; empty without the `cuda` feature.
    pub gpus: Vec<Gpu>,
}

/// The processor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// The maker's name for it.
    pub model: String,
    /// Instruction sets that the kernels choose by and this processor has, such as `avx2`, `avx512f`.
    pub features: Vec<String>,
    /// Cores.
    pub physical_cores: usize,
    /// Hardware threads this process may use: affinity and control-group quota respected.
    pub logical_cores: usize,
    /// Threads a run uses unless told otherwise: one a core, within what we may use.
    pub threads: usize,
}

/// A GPU, filled in by the `cuda` feature.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gpu {
    /// The maker's name for it.
    pub name: String,
    /// Memory in bytes.
    pub memory: u64,
    /// Bytes free when it was probed.
    pub available: u64,
    /// Bytes a second read from its memory.
    pub read: f64,
    /// f32 operations a second.
    pub f32_flops: f64,
    /// bf16 operations a second.
    pub bf16_flops: f64,
    /// Seconds from one kernel of a queue to the next: what small operations cost, however little they do.
    #[serde(default = "launch_guess")]
    pub launch_s: f64,
    /// Host to device from pinned memory.
    pub upload_pinned: Link,
    /// Host to device from ordinary memory.
    pub upload: Link,
    /// Device to host.
    pub download: Link,
}

/// Of a GPU whose launches nobody timed.
const fn launch_guess() -> f64 {
    4e-6
}

/// Threads a run uses unless told otherwise: one a core, within what we may use.
pub fn default_threads() -> usize {
    // Asking the system takes longer than a plan.
    static THREADS: OnceLock<usize> = OnceLock::new();
    *THREADS.get_or_init(|| Cpu::here().threads)
}

impl Cpu {
    fn here() -> Self {
        let logical_cores = std::thread::available_parallelism().map_or(1, usize::from);
        let physical_cores = sysinfo::System::physical_core_count().ok().filter(|n| *n > 0).unwrap_or(logical_cores);
        let model = sysinfo::System::new().ok().and_then(|mut system| {
            system.refresh_cpu_list(sysinfo::CpuRefreshKind::nothing());
            system.cpus().first().map(|cpu| cpu.brand().trim().to_owned())
        });
        Self {
            model: model.filter(|name| !name.is_empty()).unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            features: features(),
            physical_cores,
            logical_cores,
            threads: physical_cores.min(logical_cores),
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn features() -> Vec<String> {
    let mut out = Vec::new();
    macro_rules! note {
        ($($name:tt),+) => { $(if is_x86_feature_detected!($name) { out.push($name.to_owned()); })+ };
    }
    note!(
        "avx2",
        "fma",
        "f16c",
        "avxvnni",
        "avx512f",
        "avx512bw",
        "avx512vl",
        "avx512vnni",
        "avx512bf16",
        "avx512vbmi"
    );
    out
}

#[cfg(target_arch = "aarch64")]
fn features() -> Vec<String> {
    let mut out = Vec::new();
    macro_rules! note {
        ($($name:tt),+) => { $(if std::arch::is_aarch64_feature_detected!($name) { out.push($name.to_owned()); })+ };
    }
    note!("neon", "fp16", "dotprod", "i8mm", "bf16", "sve");
    out
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn features() -> Vec<String> {
    Vec::new()
}

impl Machine {
    /// A machine nobody has probed: cores and memory as the system reports them now, speeds that almost any machine of
    /// the last ten years exceeds, so that a plan's time is rather too long than too short.
    pub fn default_guess() -> Self {
        let cpu = Cpu::here();
        let n = cpu.threads as f64;
        let path = cache_dir();
        Self {
            schema: SCHEMA,
            probed: false,
            memory: Memory::now(),
            speed: Speed {
                read: [6e9, 6e9 * n.min(2.0)],
                copy: [3e9, 3e9 * n.min(2.0)],
                f32_flops: [16e9, 16e9 * n],
                kernels: None,
            },
            disk: Disk {
                free: disk::free_bytes(&path).or_else(|| path.parent().and_then(disk::free_bytes)),
                path,
                sequential: 150e6,
                write: 100e6,
                random: Link::flat(200e-6, 150e6),
                warm: Link::flat(2e-6, 2e9),
                note: None,
            },
            gpus: Vec::new(),
            cpu,
        }
    }

    /// The saved machine with today's memory, or a guess. The second value says why a saved one was not used, or what it lacks;
    /// there is nothing to say when none was ever saved.
    pub fn load_or_guess() -> (Self, Option<String>) {
        Self::load_or_guess_from(&store::machine_file())
    }

    /// As [`Self::load_or_guess`], from a file of one's choosing.
    pub fn load_or_guess_from(path: &Path) -> (Self, Option<String>) {
        let here = Self::default_guess();
        let ignored = |why: String| {
            format!("{} is ignored: {why}; cautious figures are used until `ullage probe` is run", path.display())
        };
        match store::load(path) {
            Ok(None) => (here, None),
            Err(why) => (here, Some(ignored(why))),
            Ok(Some(saved)) if saved.cpu.model != here.cpu.model || saved.cpu.features != here.cpu.features => {
                let why =
                    format!("it was probed on another processor ({}, this is {})", saved.cpu.model, here.cpu.model);
                (here, Some(ignored(why)))
            }
            // What was measured stands; what another process can change since is read again.
            Ok(Some(saved)) => {
                let disk = Disk { free: here.disk.free, ..saved.disk };
                let lacks = match &saved.speed.kernels {
                    None => Some("no times of kernels"),
                    Some(both) if !both.iter().all(KernelTimes::is_whole) => Some("not all times of kernels"),
                    Some(_) => None,
                };
                let rough = lacks.map(|lacks| {
                    let path = path.display();
                    format!("{path} has {lacks}: planned seconds are rough until `ullage probe` is run again")
                });
                (Self { memory: here.memory, cpu: here.cpu, disk, ..saved }, rough)
            }
        }
    }

    /// The same machine with the memory that is free at this moment: for a job, which runs here.
    #[must_use]
    pub fn now(&self) -> Self {
        Self { memory: Memory::now(), ..self.clone() }
    }

    /// From now on the disk has free what it has at this moment at `place`, which need not be there yet; in the cache folder
    /// without one.
    pub fn free_at(&mut self, place: Option<&Path>) {
        let place = place.map_or_else(cache_dir, Path::to_owned);
        let place = std::path::absolute(&place).unwrap_or(place);
        self.disk.free = place.ancestors().find_map(disk::free_bytes).or(self.disk.free);
    }

    /// Where [`Self::save`] saves, looked at before the measuring: a file there that is no machine's is not replaced unless `force`
    /// insists.
    ///
    /// # Errors
    /// [`crate::Error::Refused`] with what to do.
    pub fn place(force: bool) -> crate::Result<std::path::PathBuf> {
        let path = store::machine_file();
        if !force {
            store::check(&path)?;
        }
        Ok(path)
    }

    /// Saves to the user's configuration folder (or `$ULLAGE_MACHINE`), whole or not at all.
    ///
    /// # Errors
    /// As [`Self::place`]; [`crate::Error::Io`] when the file cannot be written. What was there before is then untouched.
    pub fn save(&self, force: bool) -> crate::Result<std::path::PathBuf> {
        let path = Self::place(force)?;
        self.save_to(&path)?;
        Ok(path)
    }

    /// As [`Self::save`], to a file of one's choosing, whatever is there.
    ///
    /// # Errors
    /// [`crate::Error::Io`] when the file cannot be written; what was there before is then untouched.
    pub fn save_to(&self, path: &Path) -> crate::Result<()> {
        store::save(self, path)
    }

    /// What makes these figures unusable, if anything.
    fn defect(&self) -> Option<String> {
        let Speed { read, copy, f32_flops, ref kernels } = self.speed;
        let rates = [("speed.read", read), ("speed.copy", copy), ("speed.f32_flops", f32_flops)];
        let disk = [("disk.sequential", [self.disk.sequential; 2]), ("disk.write", [self.disk.write; 2])];
        let gpus = self.gpus.iter().map(|g| ("gpus", [g.read.min(g.f32_flops), g.bf16_flops.min(g.launch_s)]));
        let bad_rate =
            rates.into_iter().chain(disk).chain(gpus).find(|(_, v)| v.iter().any(|v| !(v.is_finite() && *v > 0.0)));
        if let Some((key, _)) = bad_rate {
            return Some(format!("{key} is not above zero"));
        }
        if self.cpu.threads == 0 {
            return Some("cpu.threads is zero".into());
        }
        if let Some(defect) = kernels.iter().flat_map(|both| both.iter()).find_map(KernelTimes::defect) {
            return Some(format!("speed.kernels: {defect}"));
        }
        let links = [("disk.random", &self.disk.random), ("disk.warm", &self.disk.warm)];
        let gpu_links = self.gpus.iter().flat_map(|g| [&g.upload_pinned, &g.upload, &g.download]).map(|l| ("gpus", l));
        links.into_iter().chain(gpu_links).find_map(|(key, link)| Some(format!("{key} has {}", link.defect()?)))
    }
}

/// A size in binary and in decimal units, which differ by 7 % at a gigabyte.
struct Both(u64);

impl fmt::Display for Both {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:.2} GB)", Bytes(self.0), self.0 as f64 / 1e9)
    }
}

impl fmt::Display for Machine {
    /// The table of `ullage probe`. Bandwidths are decimal (1 GB/s = 10⁹ bytes a second), as makers print them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, memory, speed, disk, .. } = self;
        let giga = |v: f64| v / 1e9;
        if !self.probed {
            writeln!(f, "not probed: speeds are cautious guesses (run `ullage probe`)")?;
        }
        let may = if cpu.logical_cores == 1 { "thread" } else { "threads" };
        writeln!(f, "processor        {}", cpu.model)?;
        writeln!(
            f,
            "                 {} cores, {} {may} for us, {} used",
            cpu.physical_cores, cpu.logical_cores, cpu.threads
        )?;
        writeln!(f, "                 {}", cpu.features.join(" "))?;
        writeln!(f, "memory           {} installed, {} available", Both(memory.total), Both(memory.available))?;
        match (memory.cgroup_limit, memory.cgroup_available) {
            (Some(limit), Some(room)) => {
                writeln!(f, "control group    {} at most, {} of it free", Both(limit), Both(room))?
            }
            _ => writeln!(f, "control group    no limit")?,
        }
        let n = cpu.threads;
        let pair = |[one, all]: [f64; 2]| format!("{:8.1} {:8.1}", giga(one), giga(all));
        writeln!(f, "threads                 1 {n:8}")?;
        writeln!(f, "memory read      {} GB/s", pair(speed.read))?;
        writeln!(f, "memory copy      {} GB/s", pair(speed.copy))?;
        writeln!(f, "f32 arithmetic   {} GFLOP/s", pair(speed.f32_flops))?;
        if let Some(both) = &speed.kernels {
            writeln!(f, "  of products    ({} rows of activations)", ROWS[ROWS.len() - 1])?;
            for ty in [BlockType::F32, BlockType::Q8_0, BlockType::Q4_0, BlockType::Q4K] {
                let rate = |of: &KernelTimes| {
                    of.products.get(&ty).map_or(0.0, |s| 2.0 * ROWS[ROWS.len() - 1] as f64 / s[ROWS.len() - 1])
                };
                writeln!(f, "    {:<12} {} GFLOP/s", ty.as_str(), pair([rate(&both[0]), rate(&both[1])]))?;
            }
        }
        writeln!(f, "disk             {}", disk.path.display())?;
        if let Some(free) = disk.free {
            writeln!(f, "  free           {}", Both(free))?;
        }
        writeln!(f, "  sequential     {:8.2} GB/s read, {:.2} GB/s written", giga(disk.sequential), giga(disk.write))?;
        for (name, link) in [("  random, cold ", &disk.random), ("  random, warm ", &disk.warm)] {
            write!(f, "{name}  ")?;
            for (chunk, _) in &link.curve {
                let rate = *chunk as f64 / link.fetch_seconds(1, *chunk);
                write!(f, "{:8.2} GB/s at {}  ", giga(rate), Bytes(*chunk))?;
            }
            writeln!(f, "(latency {:.1} µs)", link.latency_s * 1e6)?;
        }
        if let Some(note) = &disk.note {
            writeln!(f, "  note           {note}")?;
        }
        for gpu in &self.gpus {
            writeln!(f, "gpu              {}: {}, {} free", gpu.name, Both(gpu.memory), Both(gpu.available))?;
            writeln!(
                f,
                "                 {:.0} GB/s read, {:.0} GFLOP/s f32, {:.0} GFLOP/s bf16, {:.1} µs a kernel",
                giga(gpu.read),
                giga(gpu.f32_flops),
                giga(gpu.bf16_flops),
                gpu.launch_s * 1e6
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guess_is_usable_and_says_that_it_is_one() {
        let guess = Machine::default_guess();
        assert!(!guess.probed && guess.to_string().starts_with("not probed"));
        assert_eq!(guess.defect(), None);
        assert!(guess.cpu.threads >= 1 && guess.cpu.threads <= guess.cpu.logical_cores);
        assert!(guess.memory.total > 0 && !guess.cpu.model.is_empty());
    }

    #[test]
    fn both_units_are_printed() {
        assert_eq!(Both(24 << 30).to_string(), "24 GiB (25.77 GB)");
        assert_eq!(Both(24_000_000_000).to_string(), "22.35 GiB (24.00 GB)");
        let mut machine = Machine::default_guess();
        machine.memory =
            Memory { total: 8 << 30, available: 4 << 30, cgroup_limit: Some(2 << 30), cgroup_available: Some(1 << 30) };
        let text = machine.to_string();
        assert!(text.contains("2 GiB (2.15 GB) at most, 1 GiB (1.07 GB) of it free"), "{text}");
    }

    #[test]
    fn figures_that_cannot_be_are_found_out() {
        let spoil: [fn(&mut Machine); 6] = [
            |m| m.speed.read[0] = 0.0,
            |m| m.speed.f32_flops[1] = f64::INFINITY,
            |m| m.disk.write = -1.0,
            |m| m.cpu.threads = 0,
            |m| m.disk.warm.curve.clear(),
            |m| m.disk.random.latency_s = f64::NAN,
        ];
        for (i, spoil) in spoil.into_iter().enumerate() {
            let mut machine = Machine::default_guess();
            spoil(&mut machine);
            assert!(machine.defect().is_some(), "{i}");
        }
    }
}
