//! The direction of the workspace: core knows no screen, panels know no tensors, one version of what is large.

#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is the failure")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// What draws. The engine must build without it.
const SCREEN: &[&str] = &["egui", "eframe", "egui-wgpu", "egui-winit", "wgpu", "winit", "rfd", "ullage-panels"];
/// What computes. Panels must build without it.
const TENSORS: &[&str] = &["candle-core", "candle-nn", "tokenizers", "safetensors", "gemm", "cudarc", "ullage-core"];
/// One version of each at most: two would mean types that do not fit and minutes more to build.
const SINGLE: &[&str] = &["egui", "eframe", "wgpu", "winit", "candle-core", "candle-nn", "tokenizers", "cudarc"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// `cargo metadata` for this platform: the packages that a build here uses, so that nothing new is downloaded.
fn metadata() -> Value {
    let rustc = Command::new(std::env::var("RUSTC").unwrap_or("rustc".into())).arg("-vV").output().unwrap();
    let rustc = String::from_utf8(rustc.stdout).unwrap();
    let host = rustc.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let cargo = std::env::var("CARGO").unwrap_or("cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", host])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Names of all packages that `from` needs to build and run, itself left out; its tests' needs do not count.
fn closure(metadata: &Value, from: &str) -> BTreeSet<String> {
    let name: BTreeMap<&str, &str> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| (p["id"].as_str().unwrap(), p["name"].as_str().unwrap()))
        .collect();
    let needs: BTreeMap<&str, Vec<&str>> = metadata["resolve"]["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| {
            let normal = |dep: &&Value| dep["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"].is_null());
            let deps = node["deps"].as_array().unwrap().iter().filter(normal).map(|dep| dep["pkg"].as_str().unwrap());
            (node["id"].as_str().unwrap(), deps.collect())
        })
        .collect();
    let start = *name.iter().find(|(_, n)| **n == from).unwrap().0;
    let (mut open, mut seen) = (vec![start], BTreeSet::new());
    while let Some(id) = open.pop() {
        for next in &needs[id] {
            if seen.insert(*next) {
                open.push(next);
            }
        }
    }
    seen.into_iter().map(|id| name[id].to_owned()).collect()
}

fn none_of(found: &BTreeSet<String>, forbidden: &[&str]) {
    let wrong: Vec<_> = forbidden.iter().filter(|name| found.contains(**name)).collect();
    assert!(wrong.is_empty(), "{wrong:?} must not be there");
}

#[test]
fn the_engine_has_no_screen_and_panels_have_no_tensors() {
    let metadata = metadata();
    let (core, panels) = (closure(&metadata, "ullage-core"), closure(&metadata, "ullage-panels"));
    none_of(&core, SCREEN);
    none_of(&panels, TENSORS);
    // The walk finds what is really there, direct and indirect.
    assert!(
        core.contains("sysinfo") && core.contains("serde_core") && panels.contains("egui") && panels.contains("ecolor")
    );
    for package in ["ullage", "ullage-core", "ullage-panels"] {
        assert!(!closure(&metadata, package).contains("ullage-tests"), "{package} depends on the tests");
    }
}

#[test]
fn optional_dependencies_keep_the_direction_too() {
    for (package, manifest) in manifests() {
        let forbidden = match package.as_str() {
            "ullage-core" => SCREEN,
            "ullage-panels" => TENSORS,
            _ => continue,
        };
        let declared = dependencies(&manifest).into_iter().map(|(_, name, _)| name).collect();
        none_of(&declared, forbidden);
    }
}

#[test]
fn large_dependencies_have_one_version() {
    let lock: toml::Table = fs::read_to_string(root().join("Cargo.lock")).unwrap().parse().unwrap();
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in lock["package"].as_array().unwrap() {
        versions.entry(package["name"].as_str().unwrap()).or_default().push(package["version"].as_str().unwrap());
    }
    assert!(versions.contains_key("egui") && versions.contains_key("candle-core"));
    for name in SINGLE {
        let found = versions.get(name).map_or(&[][..], Vec::as_slice);
        assert!(found.len() <= 1, "{name} in versions {found:?}");
    }
}

#[test]
fn versions_and_lints_come_from_the_workspace() {
    let manifests = manifests();
    assert!(manifests.len() >= 4, "{:?}", manifests.keys());
    for (package, manifest) in manifests {
        assert_eq!(manifest["lints"]["workspace"].as_bool(), Some(true), "{package}: lints");
        for key in ["version", "edition", "rust-version", "license", "publish"] {
            let inherited = manifest["package"][key].get("workspace").and_then(toml::Value::as_bool);
            assert_eq!(inherited, Some(true), "{package}: package.{key}");
        }
        for (section, name, value) in dependencies(&manifest) {
            let inherited = value.get("workspace").and_then(toml::Value::as_bool);
            assert_eq!(inherited, Some(true), "{package}: {section}.{name} must say `workspace = true`");
        }
    }
}

/// The manifest of every member, by package name.
fn manifests() -> BTreeMap<String, toml::Table> {
    let read = |path: PathBuf| -> toml::Table { fs::read_to_string(path).unwrap().parse().unwrap() };
    let workspace = read(root().join("Cargo.toml"));
    let members = workspace["workspace"]["members"].as_array().unwrap().iter();
    members
        .map(|member| {
            let manifest = read(root().join(member.as_str().unwrap()).join("Cargo.toml"));
            (manifest["package"]["name"].as_str().unwrap().to_owned(), manifest)
        })
        .collect()
}

/// (section, name, value) of every dependency a manifest declares, for any target.
fn dependencies(manifest: &toml::Table) -> Vec<(String, String, toml::Value)> {
    let mut out = Vec::new();
    let targets = manifest.get("target").and_then(toml::Value::as_table);
    let tables = std::iter::once(manifest).chain(targets.into_iter().flatten().filter_map(|(_, t)| t.as_table()));
    for table in tables {
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let entries = table.get(section).and_then(toml::Value::as_table).into_iter().flatten();
            out.extend(entries.map(|(name, value)| (section.to_owned(), name.clone(), value.clone())));
        }
    }
    out
}
