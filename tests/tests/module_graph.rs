//! The line inside the engine goes one way: a folder imports only from folders below it, so there are no circles.
//!
//! Read from the source text, as `package_graph.rs` reads manifests: `crate::folder` and `super::…` outside tests, `use` or not.
//! Figures: `cargo test -p ullage-tests --test module_graph -- --nocapture`.

#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is the failure")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Folders (and files at the root) of `core/src`, bottom to top. A new one has its place here before it compiles a test.
const LAYERS: &[&str] = &[
    "accounts",
    "bytes",
    "number",
    "rng",
    "error",
    "ledger",
    "atomic_write",
    "output",
    "blocks",
    "shape",
    "ops",
    "machine",
    "config",
    "schema",
    "weights",
    "model",
    "place",
    "kv",
    "device",
    "forward",
    "train",
    "eval",
    "catalog",
    "plan",
    "report",
    "job",
];

/// Imports from above that stand, and why; one that is gone must go from here too.
const UPWARD: &[(&str, &str, &str)] = &[(
    "weights/load.rs",
    "model",
    "reads rows of a model's source; formats are also what a model file is written in, which is below",
)];

/// Module → module it names → files that do.
type Graph = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            sources(&path, out);
        } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
            out.push(path);
        }
    }
}

/// Source text without comments and without a `#[cfg(test)]` module, which is the last thing of its file.
fn code(text: &str) -> String {
    let mut out = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let next = lines.peek().map_or("", |l| l.trim());
        if line.trim() == "#[cfg(test)]" && next.contains("mod ") && next.ends_with('{') {
            break;
        }
        if !line.trim_start().starts_with("//") {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

fn ident(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

/// First segments of what follows a path: `x::y` gives x; `{a::b, c}` gives a and c.
fn heads(after: &str) -> Vec<&str> {
    let Some(group) = after.strip_prefix('{') else { return vec![ident(after)] };
    let (mut depth, mut out, mut fresh) = (0, Vec::new(), true);
    for (i, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => fresh = true,
            c if fresh && !c.is_whitespace() => {
                out.push(ident(&group[i..]));
                fresh = false;
            }
            _ => {}
        }
    }
    out
}

/// Paths from the crate's (or `base`'s) root that `text`, the code of module `here`, names.
fn named<'a>(text: &'a str, here: &[String]) -> Vec<&'a str> {
    let mut out = Vec::new();
    for (at, _) in text.match_indices("crate::").chain(text.match_indices("super::")) {
        // `pub(in crate::…)`, `$crate::` are paths too; `my_crate::` and the rest of `super::super::` are not.
        let before = text[..at].chars().next_back().unwrap_or(' ');
        if before.is_alphanumeric() || before == '_' || text[..at].ends_with("super::") {
            continue;
        }
        let mut rest = &text[at..];
        let mut up = 0;
        while let Some(shorter) = rest.strip_prefix("super::") {
            (rest, up) = (shorter, up + 1);
        }
        match rest.strip_prefix("crate::") {
            Some(after) => out.extend(heads(after)),
            None if up == here.len() => out.extend(heads(rest)),
            None => {}
        }
    }
    out
}

/// Who names whom among the modules directly under `dir`, whose root file is `top`.
fn graph(dir: &Path, top: &[&str]) -> Graph {
    let mut files = Vec::new();
    sources(dir, &mut files);
    let path = |file: &Path| -> Vec<String> {
        let rel = file.strip_prefix(dir).unwrap().with_extension("");
        let mut parts: Vec<_> = rel.iter().map(|p| p.to_string_lossy().into_owned()).collect();
        if parts.last().is_some_and(|p| p == "mod") {
            parts.pop();
        }
        parts
    };
    let modules: BTreeSet<String> =
        files.iter().filter_map(|f| path(f).first().cloned()).filter(|m| !top.contains(&m.as_str())).collect();
    // What the root re-exports stands for the module that it comes from.
    let alias = |name: &str| match name {
        "Error" | "OverBudget" | "Result" => "error".to_owned(),
        "Bytes" => "bytes".to_owned(),
        other => other.to_owned(),
    };
    let mut out: Graph = modules.iter().map(|m| (m.clone(), BTreeMap::new())).collect();
    for file in &files {
        let here = path(file);
        let Some(from) = here.first().filter(|m| modules.contains(*m)) else { continue };
        let text = code(&fs::read_to_string(file).unwrap());
        for to in named(&text, &here).into_iter().map(alias).filter(|to| to != from && modules.contains(to)) {
            let said = file.strip_prefix(dir).unwrap().to_string_lossy().into_owned();
            out.get_mut(from).unwrap().entry(to).or_default().insert(said);
        }
    }
    out
}

/// What `from` reaches, itself only if it is on a circle.
fn reach<'a>(graph: &'a Graph, from: &'a str) -> BTreeSet<&'a str> {
    let (mut open, mut seen) = (vec![from], BTreeSet::new());
    while let Some(m) = open.pop() {
        for to in graph[m].keys() {
            if seen.insert(to.as_str()) {
                open.push(to);
            }
        }
    }
    seen
}

/// Sets of modules each of which reaches all the others.
fn circles(graph: &Graph) -> BTreeSet<Vec<&str>> {
    let all: BTreeMap<&str, BTreeSet<&str>> = graph.keys().map(|m| (m.as_str(), reach(graph, m))).collect();
    let on = |a: &str| all[a].contains(a);
    graph
        .keys()
        .map(String::as_str)
        .filter(|a| on(a))
        .map(|a| all[a].iter().copied().filter(|b| all[b].contains(a)).collect())
        .collect()
}

#[test]
fn folders_of_the_engine_import_from_below() {
    let graph = graph(&root().join("core/src"), &["lib"]);
    let found: BTreeSet<&str> = graph.keys().map(String::as_str).collect();
    assert_eq!(found, LAYERS.iter().copied().collect(), "every folder has one place in LAYERS, bottom to top");
    let height = |m: &str| LAYERS.iter().position(|l| *l == m).unwrap();
    let mut upward = BTreeSet::new();
    let mut imports = 0;
    for (from, to) in &graph {
        for (to, files) in to {
            imports += 1;
            if height(to) > height(from) {
                upward.extend(files.iter().map(|f| (f.as_str(), to.as_str())));
            }
        }
    }
    let circles = circles(&graph);
    println!("core: {} folders, {imports} imports between them", graph.len());
    println!("core: {} circles {circles:?}; {} files import upward {upward:?}", circles.len(), upward.len());
    let excused: BTreeSet<_> = UPWARD.iter().map(|(file, to, _)| (*file, *to)).collect();
    let new: Vec<_> = upward.difference(&excused).collect();
    assert!(new.is_empty(), "these import from above; move what they need below, or name why not: {new:?}");
    let gone: Vec<_> = excused.difference(&upward).collect();
    assert!(gone.is_empty(), "no longer so, take them out of UPWARD: {gone:?}");
    assert!(UPWARD.iter().all(|(.., why)| !why.is_empty()));
    // The reader reads: what is known to be there is found.
    assert!(
        graph["plan"].contains_key("kv") && graph["job"].contains_key("plan") && graph["error"].contains_key("bytes")
    );
}

#[test]
fn modules_of_the_window_go_one_way() {
    let graph = graph(&root().join("app/src/window"), &[]);
    let circles = circles(&graph);
    println!("window: {} modules, {} circles {circles:?}", graph.len(), circles.len());
    assert!(circles.is_empty(), "modules of the window that import each other: {circles:?}");
}

#[test]
fn paths_are_read_out_of_code_and_nothing_else() {
    let text = "use crate::{a::{b, c}, d};\n// crate::comment::x\nfn f() { crate::e::g(); super::h(); }\n#[cfg(test)]\nmod tests {\nuse crate::z;\n}\n";
    let here = ["m".to_owned()];
    let code = code(text);
    assert_eq!(named(&code, &here), ["a", "d", "e", "h"]);
    let deep = ["m".to_owned(), "n".to_owned()];
    assert_eq!(named("use super::super::k::x; use super::l; my_crate::q;", &deep), ["k"]);
    let edge = |from: &str, to: &[&str]| {
        (from.to_owned(), to.iter().map(|t| ((*t).to_owned(), BTreeSet::new())).collect::<BTreeMap<_, _>>())
    };
    let graph: Graph = [edge("a", &["b"]), edge("b", &["c"]), edge("c", &["b"]), edge("d", &["a"])].into();
    assert_eq!(circles(&graph), [vec!["b", "c"]].into());
}
