//! Runs the built program in a folder of its own and looks at what it says.
#![allow(dead_code, missing_docs, clippy::unwrap_used, reason = "helpers of tests: a panic is the failure")]

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

/// A folder that goes when it is dropped.
pub struct Room(pub PathBuf);

impl Room {
    pub fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("ullage-cli-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// The program, started in this folder with settings and cache of its own.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ullage"));
        command.args(args).current_dir(&self.0);
        // A test opens no window, whatever screen it is run on.
        for display in ["DISPLAY", "WAYLAND_DISPLAY", "WAYLAND_SOCKET"] {
            command.env_remove(display);
        }
        command.env("ULLAGE_MACHINE", self.path("machine.json")).env("XDG_CACHE_HOME", self.path("cache"));
        command
    }

    /// Runs it and expects this exit code.
    #[track_caller]
    pub fn run(&self, code: i32, args: &[&str]) -> Said {
        let said = Said::from(self.command(args).output().unwrap());
        assert_eq!(said.code, Some(code), "ullage {}\nstdout: {}\nstderr: {}", args.join(" "), said.out, said.err);
        assert!(!said.err.contains("panicked") && !said.err.contains("internal error"), "{}", said.err);
        said
    }

    /// Runs it with `--json` and reads what it prints.
    #[track_caller]
    pub fn json(&self, code: i32, args: &[&str]) -> Value {
        let mut all = args.to_vec();
        all.push("--json");
        let said = self.run(code, &all);
        serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{}: {e}\n{}", args.join(" "), said.out))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What the program said.
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl From<Output> for Said {
    fn from(o: Output) -> Self {
        let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
        Self { code: o.status.code(), out: text(o.stdout), err: text(o.stderr) }
    }
}

/// The keys of an object, in order of the alphabet.
pub fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

pub const BUNDLED: &str = "bundled:recall";
/// Options of a run that is over in a blink.
pub const SHORT: [&str; 4] = ["--set", "run.max_tokens=8", "--set", "run.context=64"];
