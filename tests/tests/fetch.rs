//! The scripts that bring test models, as far as they go without a network.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "tests: a panic is the failure")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const SCRIPTS: [(&str, &str); 2] =
    [("fetch_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"), ("fetch_gemma3", "gemma3-270m-Q4_K_M.gguf")];

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts")
}

/// The program `name` as it is found here.
fn found(name: &str) -> PathBuf {
    let paths = std::env::var_os("PATH").unwrap();
    std::env::split_paths(&paths).map(|dir| dir.join(name)).find(|p| p.is_file()).unwrap()
}

fn run(script: &str, folder: &Path, path: Option<&Path>) -> Output {
    let mut command = Command::new(found("bash"));
    command.arg(scripts().join(format!("{script}.sh"))).arg(folder);
    path.map(|path| command.env("PATH", path));
    command.output().unwrap()
}

#[test]
fn a_model_that_is_there_is_named_and_nothing_else_is_done() {
    for (script, name) in SCRIPTS {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(name), "GGUF").unwrap();
        let done = run(script, folder.path(), None);
        assert!(done.status.success(), "{done:?}");
        assert_eq!(String::from_utf8_lossy(&done.stdout).trim(), folder.path().join(name).to_str().unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}

#[test]
fn without_python_each_says_so_by_its_own_name() {
    let tools = tempfile::tempdir().unwrap();
    for tool in ["basename", "dirname"] {
        std::os::unix::fs::symlink(found(tool), tools.path().join(tool)).unwrap();
    }
    for (script, _) in SCRIPTS {
        let folder = tempfile::tempdir().unwrap();
        let done = run(script, folder.path(), Some(tools.path()));
        assert_eq!(done.status.code(), Some(1), "{done:?}");
        assert_eq!(String::from_utf8_lossy(&done.stderr).trim(), format!("{script}: python3 is not installed"));
    }
}

#[test]
fn what_they_share_stands_in_one_file() {
    for (script, _) in SCRIPTS {
        let text = std::fs::read_to_string(scripts().join(format!("{script}.sh"))).unwrap();
        assert!(text.contains("/fetch.sh\"") && !text.contains("mktemp") && !text.contains("pip download"), "{script}");
    }
}
