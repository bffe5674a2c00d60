//! How long opening a model takes, part by part: the best and the median of several, in milliseconds.
//!
//!     cargo run --release -p ullage-core --example opening -- MODEL.gguf

use std::path::Path;
use std::time::Instant;

use ullage_core::Result;
use ullage_core::model::Model;
use ullage_core::model::gguf::Gguf;
use ullage_core::shape::ModelShape;

fn timed<T>(what: &str, mut f: impl FnMut() -> Result<T>) -> Result<()> {
    let mut ms = Vec::new();
    for _ in 0..15 {
        let start = Instant::now();
        f()?;
        ms.push(start.elapsed().as_secs_f64() * 1e3);
    }
    ms.sort_by(f64::total_cmp);
    println!("{what:<14} best {:>8.2} ms, median {:>8.2} ms", ms[0], ms[ms.len() / 2]);
    Ok(())
}

fn main() -> Result<()> {
    let Some(path) = std::env::args().nth(1) else {
        eprintln!("name a GGUF file");
        std::process::exit(2);
    };
    let path = Path::new(&path);
    timed("header", || Gguf::open(path))?;
    let gguf = Gguf::open(path)?;
    timed("shape", || ModelShape::from_gguf(&gguf))?;
    let model = Model::open(&path.display().to_string(), Path::new("."))?;
    timed("tokenizer", || model.tokenizer())?;
    timed("chat template", || model.chat_template())
}
