//! Checks every training op of a GPU against the CPU's, in f32 and in bf16, then times ops and whole steps at several shapes.
//!
//!     cargo run --release --features cuda -p ullage-core --example train_gpu -- [check] [ops] [steps]
//!
//! Prints the largest error of each op, relative to the largest element; exits 1 where one is too large.

#[cfg(not(feature = "cuda"))]
fn main() {
    eprintln!("build this with --features cuda");
}

#[cfg(feature = "cuda")]
mod train_gpu;

#[cfg(feature = "cuda")]
fn main() -> std::process::ExitCode {
    train_gpu::main()
}
