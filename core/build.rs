//! Makes the kernels of rules from their text, and compiles the GPU's with nvcc, only under the `cuda` feature: machine code for `CUDA_COMPUTE_CAP` (90 unless set),
//! and PTX that newer and older chips from 8.0 on compile when the module is loaded.

use std::path::{Path, PathBuf};
use std::process::Command;

#[allow(dead_code)]
#[path = "src/ops/rule/source.rs"]
mod source;

/// Where rules are written.
const RULES: [&str; 2] = ["src/train/optimizer", "src/ops/rule/functions"];

/// Makes `rules.cuh`, a functor for each rule, and `rules.rs`, their names, in `out`.
fn rules(out: &Path) -> Result<(), String> {
    let mut found = Vec::new();
    for folder in RULES {
        let files = std::fs::read_dir(folder).map_err(|e| format!("{folder}: {e}"))?;
        let mut paths: Vec<_> = files.filter_map(|f| Some(f.ok()?.path())).collect();
        paths.sort();
        for path in paths.iter().filter(|p| p.extension().is_some_and(|e| e == "rs")) {
            let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
            found.extend(source::find(&text).map_err(|e| format!("{}: {e}", path.display()))?);
        }
    }
    let functors: String = found.iter().map(source::cuda).collect();
    let names: Vec<_> = found.iter().map(|r| format!("X({}, __VA_ARGS__)", r.name)).collect();
    let header = format!("{functors}#define RULES(X, ...) {}\n", names.join(" "));
    let list: Vec<_> = found.iter().map(|r| format!("(\"{0}\", \"update_{0}\")", r.name)).collect();
    std::fs::write(out.join("rules.cuh"), header).map_err(|e| e.to_string())?;
    std::fs::write(out.join("rules.rs"), format!("&[{}]", list.join(", "))).map_err(|e| e.to_string())
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/ops/cuda");
    println!("cargo::rerun-if-changed=src/ops/rule");
    println!("cargo::rerun-if-changed=src/train/optimizer");
    println!("cargo::rerun-if-env-changed=CUDA_COMPUTE_CAP");
    println!("cargo::rerun-if-env-changed=CUDA_HOME");
    if std::env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    if let Err(why) = rules(&out) {
        panic!("the rules cannot be turned into kernels: {why}");
    }
    let cap = std::env::var("CUDA_COMPUTE_CAP").map_or_else(|_| "90".to_owned(), |cap| cap.replace('.', ""));
    let nvcc = std::env::var_os("CUDA_HOME").map(|home| PathBuf::from(home).join("bin/nvcc")).filter(|p| p.is_file());
    let nvcc = nvcc.unwrap_or_else(|| "nvcc".into());
    // All at once: each takes a minute.
    let started = ["kernels", "decode", "prefill", "train"].map(|name| {
        let source = format!("src/ops/cuda/{name}.cu");
        let process = Command::new(&nvcc)
            .args(["-O3", "--fatbin", "-std=c++17", "-gencode", "arch=compute_80,code=compute_80", "-gencode"])
            .arg(format!("arch=compute_{cap},code=sm_{cap}"))
            .arg("-I")
            .arg(&out)
            .arg("-o")
            .arg(out.join(name).with_extension("fatbin"))
            .arg(&source)
            .spawn();
        (source, process)
    });
    for (source, process) in started {
        match process.and_then(|mut nvcc| nvcc.wait()) {
            Ok(status) if status.success() => {}
            Ok(status) => panic!("nvcc could not compile {source}: {status}"),
            Err(e) => panic!("--features cuda needs nvcc (set CUDA_HOME or PATH): {e}"),
        }
    }
}
