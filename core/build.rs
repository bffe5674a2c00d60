//! Compiles the GPU kernels with nvcc, only under the `cuda` feature: machine code for `CUDA_COMPUTE_CAP` (90 unless set),
//! and PTX that newer and older chips from 8.0 on compile when the module is loaded.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/ops/cuda");
    println!("cargo::rerun-if-env-changed=CUDA_COMPUTE_CAP");
    println!("cargo::rerun-if-env-changed=CUDA_HOME");
    if std::env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    let cap = std::env::var("CUDA_COMPUTE_CAP").map_or_else(|_| "90".to_owned(), |cap| cap.replace('.', ""));
    let nvcc = std::env::var_os("CUDA_HOME").map(|home| PathBuf::from(home).join("bin/nvcc")).filter(|p| p.is_file());
    let nvcc = nvcc.unwrap_or_else(|| "nvcc".into());
    for name in ["kernels", "train"] {
        let source = format!("src/ops/cuda/{name}.cu");
        let status = Command::new(&nvcc)
            .args(["-O3", "--fatbin", "-std=c++17", "-gencode", "arch=compute_80,code=compute_80", "-gencode"])
            .arg(format!("arch=compute_{cap},code=sm_{cap}"))
            .arg("-o")
            .arg(out.join(name).with_extension("fatbin"))
            .arg(&source)
            .status();
        match status {
            Ok(status) if status.success() => {}
            Ok(status) => panic!("nvcc could not compile {source}: {status}"),
            Err(e) => panic!("--features cuda needs nvcc (set CUDA_HOME or PATH): {e}"),
        }
    }
}
