//! What a test does that cannot run on this machine: it says so, and is counted. Included by path where tests are: no package of
//! its own, as the engine's tests and the panels' have none in common.
#![allow(dead_code, reason = "a suite takes what it needs")]

use std::io::Write;
use std::path::PathBuf;

/// Says that the test that is running is passed over and why: on the standard error, and as a line `test<TAB>reason` at the end
/// of the file that `ULLAGE_SKIPS` names, from which `.ci/run` counts. The test returns afterwards.
///
/// # Panics
/// When that file cannot be written to.
pub fn pass_over(reason: impl std::fmt::Display) {
    record("", reason);
}

/// As [`pass_over`], for a test that goes on without one of its parts: counted apart.
///
/// # Panics
/// As [`pass_over`].
pub fn leave_out(part: impl std::fmt::Display) {
    record(" in part", part);
}

fn record(how: &str, reason: impl std::fmt::Display) {
    // The test runner names a thread after its test; with one thread only that is `main`.
    let thread = std::thread::current();
    let name = format!("{}::{}{how}", suite(), thread.name().unwrap_or("a test"));
    let reason = reason.to_string().replace(['\n', '\t'], " ");
    eprintln!("not run: {name}: {reason}");
    if let Some(path) = std::env::var_os("ULLAGE_SKIPS") {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
        // One write of a short line to a file that is appended to: lines of other processes stay whole.
        let written = file.and_then(|mut file| file.write_all(format!("{name}\t{reason}\n").as_bytes()));
        written.unwrap_or_else(|e| panic!("{}: {e}", PathBuf::from(path).display()));
    }
}

/// The name of the running program without the hash that cargo puts behind it.
fn suite() -> String {
    let program = std::env::current_exe().ok();
    let stem = program.as_deref().and_then(|p| p.file_stem()).unwrap_or_default().to_string_lossy();
    stem.rsplit_once('-').map_or(&*stem, |(name, _)| name).to_owned()
}

/// The file that `variable` names, or `name` in the cache folder; where there is none, passes the test over.
///
/// # Panics
/// Where there is none and `CI` is `true`: these files come from a package registry, so that a test of CI that lacks one tests
/// nothing.
pub fn model_file(variable: &str, name: &str) -> Option<PathBuf> {
    let cached = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/ullage").join(name));
    let found = std::env::var_os(variable).map(PathBuf::from).or_else(cached).filter(|p| p.is_file());
    if found.is_none() {
        let ci = std::env::var_os("CI").is_some_and(|v| v == "true");
        assert!(!ci, "no {name}, which CI has to have: fetch it by a script of tests/scripts, or set {variable}");
        pass_over(format!("no {name}; set {variable}=/path/to/it"));
    }
    found
}

/// SmolLM2's file, where it is on this machine.
pub fn smollm2_file() -> Option<PathBuf> {
    model_file("ULLAGE_SMOLLM2", "SmolLM2-135M-Instruct.Q4_1.gguf")
}

/// Gemma 3 270M's file, where it is on this machine.
pub fn gemma3_file() -> Option<PathBuf> {
    model_file("ULLAGE_GEMMA3", "gemma3-270m-Q4_K_M.gguf")
}
