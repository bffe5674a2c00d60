//! How much memory there is for us: the machine's, and what our control group leaves of it.
#![allow(unsafe_code, reason = "system calls")]

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Memory in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Installed, as the system reports it.
    pub total: u64,
    /// What programs can still have without swapping, by the system's own estimate; control groups not considered.
    pub available: u64,
    /// The smallest limit of our control group and its parents; none when nothing limits us.
    pub cgroup_limit: Option<u64>,
    /// What that control group (or a tighter parent) can still take before its limit, file cache given back.
    pub cgroup_available: Option<u64>,
}

impl Memory {
    /// Reads the system and the control groups now.
    pub fn now() -> Self {
        let (total, available) = system_memory();
        let group = cgroup_at(Path::new("/"), total);
        Self { total, available, cgroup_limit: group.map(|g| g.limit), cgroup_available: group.map(|g| g.available) }
    }

    /// The most this program could ever hold: the machine, or the control group's limit.
    pub fn limit(&self) -> u64 {
        self.cgroup_limit.map_or(self.total, |limit| limit.min(self.total))
    }

    /// What this program can still take now, under both.
    pub fn room(&self) -> u64 {
        self.cgroup_available.map_or(self.available, |room| room.min(self.available))
    }

    /// What a job may take of it: what the program itself still needs stays, for a window's pictures, threads' stacks, and
    /// the rounding of its own heap.
    pub fn grant(&self) -> u64 {
        let room = self.room();
        room.saturating_sub((room / 50).max(OWN))
    }
}

/// What the program itself may still come to need beside a job.
const OWN: u64 = 32 << 20;

/// How much of the process is in memory, by the system's own account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resident {
    /// Most bytes at once since the process began, or since [`reset_resident_peak`].
    pub peak: u64,
    /// Bytes now that no file backs: heaps and stacks.
    pub anonymous: u64,
    /// Bytes now that a file or shared memory backs: code, and what is mapped.
    pub files: u64,
}

/// What the system says of this process; none where it does not say.
pub fn resident() -> Option<Resident> {
    resident_at(Path::new("/"))
}

fn resident_at(root: &Path) -> Option<Resident> {
    let status = fs::read_to_string(root.join("proc/self/status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    Some(Resident {
        peak: field("VmHWM")?,
        anonymous: field("RssAnon")?,
        files: field("RssFile")? + field("RssShmem").unwrap_or(0),
    })
}

/// Lets [`Resident::peak`] begin anew where the system allows it.
pub fn reset_resident_peak() {
    // Documented in proc(5); a system that has no such file keeps its peak.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// (total, available) bytes of the whole system; zeros where the system does not say.
fn system_memory() -> (u64, u64) {
    let Ok(mut system) = sysinfo::System::new() else { return (0, 0) };
    system.refresh_memory_specifics(sysinfo::MemoryRefreshKind::nothing().with_ram());
    (system.total_memory(), system.available_memory())
}

/// Resident set size of this process in bytes: what the system says we hold, program and libraries included.
/// None where the system does not say.
pub fn rss_bytes() -> Option<u64> {
    rss_at(Path::new("/"), page_size()).or_else(rss_by_sysinfo)
}

/// Second field of `proc/self/statm` (pages resident) under `root`.
fn rss_at(root: &Path, page: u64) -> Option<u64> {
    let statm = fs::read_to_string(root.join("proc/self/statm")).ok()?;
    statm.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(page)
}

fn rss_by_sysinfo() -> Option<u64> {
    let pid = sysinfo::get_current_pid().ok()?;
    let mut system = sysinfo::System::new().ok()?;
    let only_us = sysinfo::ProcessesToUpdate::Some(&[pid]);
    system.refresh_processes_specifics(only_us, false, sysinfo::ProcessRefreshKind::nothing().with_memory());
    system.process(pid).map(sysinfo::Process::memory)
}

fn page_size() -> u64 {
    #[cfg(unix)]
    {
        // SAFETY: sysconf takes a plain number and only returns one.
        let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        if let Ok(size @ 1..) = u64::try_from(size) {
            return size;
        }
    }
    4096
}

/// What the control groups above us grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Group {
    limit: u64,
    available: u64,
}

/// Where version 1 and version 2 keep the same things. The file cache that can be given back counts as free.
struct Version {
    limits: &'static [&'static str],
    usage: &'static str,
    cache: &'static str,
}

const V1: Version =
    Version { limits: &["memory.limit_in_bytes"], usage: "memory.usage_in_bytes", cache: "total_inactive_file" };
const V2: Version = Version { limits: &["memory.max", "memory.high"], usage: "memory.current", cache: "inactive_file" };

/// The tightest limit and the least room of our control group and all its parents, under file system `root`. Limits at
/// or above `total` (version 1 writes 2⁶³ − 4096 for none) limit nothing. None when nothing limits us.
fn cgroup_at(root: &Path, total: u64) -> Option<Group> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mounts = fs::read_to_string(root.join("proc/self/mountinfo")).ok()?;
    let mut found: Option<Group> = None;
    for (mount, path, version) in folders(&groups, &mounts) {
        let mount = root.join(mount.strip_prefix("/").unwrap_or(&mount));
        // From our own group up to the mount, because a parent's limit holds for all below it.
        for group in path.ancestors() {
            if let Some(group) = read_group(&mount.join(group), &version, total) {
                let so_far = found.get_or_insert(group);
                so_far.limit = so_far.limit.min(group.limit);
                so_far.available = so_far.available.min(group.available);
            }
        }
    }
    found
}

/// For each hierarchy that can limit memory: its mount point and our group's path below it.
fn folders(groups: &str, mounts: &str) -> Vec<(PathBuf, PathBuf, Version)> {
    let mut out = Vec::new();
    for line in mounts.lines() {
        // `36 25 0:31 <root> <mount point> <options> [tags] - <type> <source> <super options>`
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let (mut left, mut right) = (left.split(' ').skip(3), right.split(' '));
        let (Some(base), Some(mount)) = (left.next(), left.next()) else { continue };
        let kind = right.next().unwrap_or_default();
        let controllers = right.nth(1).unwrap_or_default();
        let ours = |wanted: &dyn Fn(&str, &str) -> bool| {
            groups.lines().find_map(|line| {
                let mut parts = line.splitn(3, ':');
                let (id, names, path) = (parts.next()?, parts.next()?, parts.next()?);
                wanted(id, names).then(|| path.to_owned())
            })
        };
        let memory = |list: &str| list.split(',').any(|name| name == "memory");
        let (path, version) = match kind {
            "cgroup2" => (ours(&|id, names| id == "0" && names.is_empty()), V2),
            "cgroup" if memory(controllers) => (ours(&|_, names| memory(names)), V1),
            _ => continue,
        };
        let Some(path) = path else { continue };
        // In a container the mount shows a part of the tree, from `base` down; a path outside it is the part's top.
        let below = Path::new(&path).strip_prefix(unescape(base)).map(Path::to_path_buf).unwrap_or_default();
        let plain = below.components().all(|c| matches!(c, std::path::Component::Normal(_)));
        out.push((PathBuf::from(unescape(mount)), if plain { below } else { PathBuf::new() }, version));
    }
    out
}

/// mountinfo writes blanks and backslashes as `\040`.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
}

fn read_group(folder: &Path, version: &Version, total: u64) -> Option<Group> {
    let number = |name: &str| fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
    // `max` is no number, and so no limit.
    let limit = version.limits.iter().filter_map(|name| number(name)).filter(|limit| *limit < total).min()?;
    let cache = fs::read_to_string(folder.join("memory.stat"))
        .ok()
        .and_then(|stat| {
            stat.lines().find_map(|l| l.split_once(' ').filter(|(k, _)| *k == version.cache)?.1.parse::<u64>().ok())
        })
        .unwrap_or(0);
    let used = number(version.usage).unwrap_or(0).saturating_sub(cache);
    Some(Group { limit, available: limit.saturating_sub(used) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const TOTAL: u64 = 64 * GIB;

    /// A file system of these (path, text) files.
    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    fn group(files: &[(&str, &str)]) -> Option<Group> {
        cgroup_at(root(files).path(), TOTAL)
    }

    const MOUNT_V2: &str = "25 1 0:22 / /proc rw - proc proc rw\n30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const MOUNT_V1: &str = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";

    #[test]
    fn version_2_takes_the_tightest_parent_and_gives_file_cache_back() {
        let files = [
            ("proc/self/cgroup", "0::/user.slice/app.scope\n"),
            ("proc/self/mountinfo", MOUNT_V2),
            ("sys/fs/cgroup/user.slice/memory.max", "4294967296\n"),
            ("sys/fs/cgroup/user.slice/memory.high", "max\n"),
            ("sys/fs/cgroup/user.slice/memory.current", "3221225472\n"),
            ("sys/fs/cgroup/user.slice/memory.stat", "anon 1\ninactive_file 1073741824\nactive_file 5\n"),
            ("sys/fs/cgroup/user.slice/app.scope/memory.max", "8589934592\n"),
            ("sys/fs/cgroup/user.slice/app.scope/memory.current", "8053063680\n"),
        ];
        // The parent has the smaller limit, the child the smaller room.
        assert_eq!(group(&files), Some(Group { limit: 4 * GIB, available: GIB / 2 }));
        assert_eq!(group(&files[..6]), Some(Group { limit: 4 * GIB, available: 2 * GIB }));
    }

    #[test]
    fn high_limits_too_and_max_limits_nothing() {
        let own = ("proc/self/cgroup", "0::/a\n");
        let mount = ("proc/self/mountinfo", MOUNT_V2);
        let max = ("sys/fs/cgroup/a/memory.max", "max\n");
        assert_eq!(group(&[own, mount, max]), None);
        let high = ("sys/fs/cgroup/a/memory.high", "1073741824\n");
        assert_eq!(group(&[own, mount, max, high]), Some(Group { limit: GIB, available: GIB }));
        assert_eq!(group(&[own, max, high]), None, "no mountinfo");
        let more_than_there_is = ("sys/fs/cgroup/a/memory.max", "68719476736\n");
        assert_eq!(group(&[own, mount, more_than_there_is]), None);
    }

    #[test]
    fn version_1_walks_up_and_knows_its_word_for_no_limit() {
        let files = [
            ("proc/self/cgroup", "5:devices:/\n4:memory:/jobs/one\n0::/\n"),
            ("proc/self/mountinfo", MOUNT_V1),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/jobs/one/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/jobs/memory.limit_in_bytes", "2147483648\n"),
            ("sys/fs/cgroup/memory/jobs/memory.usage_in_bytes", "1610612736\n"),
            ("sys/fs/cgroup/memory/jobs/memory.stat", "inactive_file 7\ntotal_inactive_file 536870912\n"),
        ];
        assert_eq!(group(&files), Some(Group { limit: 2 * GIB, available: GIB }));
        assert_eq!(group(&files[..4]), None);
    }

    #[test]
    fn in_a_container_the_mount_is_the_group() {
        // Version 1 without a namespace: the path is the host's, the mount shows only what is below it.
        let files = [
            ("proc/self/cgroup", "4:cpu,memory:/docker/abc\n"),
            ("proc/self/mountinfo", "35 31 0:32 /docker/abc /sys/fs/cgroup/mem\\040ory rw - cgroup cgroup rw,memory\n"),
            ("sys/fs/cgroup/mem ory/memory.limit_in_bytes", "1073741824\n"),
        ];
        assert_eq!(group(&files), Some(Group { limit: GIB, available: GIB }));
        // Version 2 with one, seen from outside of it: the path climbs above what is mounted.
        let files = [
            ("proc/self/cgroup", "0::/../../else\n"),
            ("proc/self/mountinfo", MOUNT_V2),
            ("sys/fs/cgroup/memory.max", "1073741824\n"),
        ];
        assert_eq!(group(&files), Some(Group { limit: GIB, available: GIB }));
    }

    #[test]
    fn nonsense_limits_nothing() {
        for (groups, mounts) in [("", ""), ("0:", MOUNT_V2), ("0::/a", " - cgroup2"), ("::::", "1 - cgroup\n - \n")] {
            assert_eq!(group(&[("proc/self/cgroup", groups), ("proc/self/mountinfo", mounts)]), None);
        }
        assert_eq!(cgroup_at(Path::new("/nowhere"), TOTAL), None);
    }

    #[test]
    fn room_and_limit_respect_both() {
        let free = Memory { total: 10, available: 6, cgroup_limit: None, cgroup_available: None };
        assert_eq!((free.limit(), free.room()), (10, 6));
        let boxed = Memory { cgroup_limit: Some(4), cgroup_available: Some(3), ..free.clone() };
        assert_eq!((boxed.limit(), boxed.room()), (4, 3));
        let roomy = Memory { cgroup_limit: Some(9), cgroup_available: Some(9), ..free };
        assert_eq!((roomy.limit(), roomy.room()), (9, 6));
    }

    #[test]
    fn this_process_is_there_and_grows_with_what_it_touches() {
        let now = Memory::now();
        assert!(now.room() > 0 && now.room() <= now.total && now.grant() < now.room());
        // Other tests of this process allocate and free meanwhile: one clean try out of several is enough.
        let clean = (0..10).any(|_| {
            let before = rss_bytes().unwrap();
            let block = std::hint::black_box(vec![1u8; 64 << 20]);
            let (after, other) = (rss_bytes().unwrap(), rss_by_sysinfo().unwrap());
            let grown = after.saturating_sub(before);
            // Both ways of asking agree, so the fallback is in bytes too.
            block.len() == 64 << 20 && grown > 60 << 20 && grown < 68 << 20 && other.abs_diff(after) < 4 << 20
        });
        assert!(clean, "{:?} {:?}", rss_bytes(), rss_by_sysinfo());
    }

    #[test]
    fn the_systems_account_of_a_process_is_read() {
        let status =
            "Name:\tx\nVmHWM:\t    5000 kB\nRssAnon:\t     300 kB\nRssFile:\t     20 kB\nRssShmem:\t       4 kB\n";
        let dir = root(&[("proc/self/status", status)]);
        let k = |n: u64| n * 1024;
        assert_eq!(resident_at(dir.path()), Some(Resident { peak: k(5000), anonymous: k(300), files: k(24) }));
        assert_eq!(resident_at(root(&[("proc/self/status", "VmHWM: 1 kB")]).path()), None);
    }

    #[test]
    fn statm_counts_pages() {
        let dir = root(&[("proc/self/statm", "5000 1234 300 1 0 800 0\n")]);
        assert_eq!(rss_at(dir.path(), 4096), Some(1234 * 4096));
        assert_eq!(rss_at(root(&[("proc/self/statm", "5000")]).path(), 4096), None);
    }
}
