//! House rules that no lint knows: files stay readable, nothing is left half done, no test is switched off.

#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is the failure")]

use std::fs;
use std::path::{Path, PathBuf};

const MOST_LINES: usize = 1000;
/// What we write ourselves, by extension; `run` is `.ci/run`.
const OURS: &[&str] = &["rs", "toml", "md", "py", "sh", "cu", "run"];
/// Macros and attributes that leave something undone. Written apart, or this file would break its own rule.
const UNDONE: &[&str] = &[concat!("to", "do!("), concat!("unimple", "mented!("), concat!("#[ig", "nore")];

/// What is wrong with a file of ours, one line a fault.
fn faults(name: &str, text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let lines = text.lines().count();
    if lines > MOST_LINES {
        out.push(format!("{name}: {lines} lines, {MOST_LINES} are the most"));
    }
    if !text.is_empty() && !text.ends_with('\n') {
        out.push(format!("{name}: no newline at the end"));
    }
    for (i, line) in text.split('\n').enumerate() {
        if line.ends_with([' ', '\t', '\r']) {
            out.push(format!("{name}:{}: blanks at the end of the line", i + 1));
        }
        if let (true, Some(word)) = (name.ends_with(".rs"), UNDONE.iter().find(|word| line.contains(**word))) {
            out.push(format!("{name}:{}: `{word}`", i + 1));
        }
    }
    out
}

/// All files of ours below `folder`; build outputs and hidden folders other than `.ci` left out.
fn files(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let hidden = name.starts_with('.') && name != ".ci";
        if path.is_symlink() || hidden || name.starts_with("target") || name == "node_modules" || name == "__pycache__"
        {
            continue;
        }
        if path.is_dir() {
            files(&path, out);
        } else if OURS.contains(&path.extension().map_or(name.as_str(), |e| e.to_str().unwrap_or_default())) {
            out.push(path);
        }
    }
}

#[test]
fn the_house_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut all = Vec::new();
    files(root, &mut all);
    for expected in ["Cargo.toml", "README.md", "core/src/lib.rs", "tests/tests/tidy.rs", ".ci/run"] {
        assert!(all.contains(&root.join(expected)), "{expected} was not looked at");
    }
    let faults: Vec<_> = all
        .iter()
        .flat_map(|path| {
            let name = path.strip_prefix(root).unwrap().display().to_string();
            match fs::read_to_string(path) {
                Ok(text) => faults(&name, &text),
                Err(error) => vec![format!("{name}: {error}")],
            }
        })
        .collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn each_rule_finds_its_fault() {
    let count = |name: &str, text: &str| faults(name, text).len();
    assert_eq!(count("a.rs", "fn a() {}\n"), 0);
    assert_eq!(count("a.rs", ""), 0);
    assert_eq!(count("a.rs", "fn a() {} \n"), 1);
    assert_eq!(count("a.rs", "fn a() {}\r\n"), 1);
    assert_eq!(count("a.rs", "fn a() {}"), 1);
    assert_eq!(count("a.rs", &"\n".repeat(MOST_LINES)), 0);
    assert_eq!(count("a.rs", &"\n".repeat(MOST_LINES + 1)), 1);
    for word in UNDONE {
        assert_eq!(count("a.rs", &format!("    {word}\n")), 1, "{word}");
        assert_eq!(count("a.md", &format!("    {word}\n")), 0, "{word}");
    }
}
