//! `ullage train-bundled`: the bundled model, trained again by an ordinary training job, written as the file that ships, and
//! examined.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use ullage_core::catalog::from_toml;
use ullage_core::model::{Model, convert};
use ullage_core::output::{Care, Single};
use ullage_core::report::{Report, summary};
use ullage_core::train::export::MODEL;
use ullage_core::{Bytes, Error, Result};

use crate::args;
use crate::run::execute;
use crate::source::{self, Loaded, key_value, say, say_json};

/// The model whose shape, words and metadata the result has.
const LIKE: &str = "bundled:recall";
/// The file that is written.
const FILE: &str = "recall.gguf";
/// Rows of exams that validations read.
const HELD_OUT: f64 = 8.0;
/// Tokens of the prompts that the result is examined with.
const TOKENS: usize = 1024;
/// Codes of a list, which with its questions comes near that many tokens.
const CODES: usize = 64;

/// Trains, writes and examines.
///
/// # Errors
/// A wrong option; a folder that cannot be written, or holds the state of another run.
pub fn train_bundled(args: &args::TrainBundled) -> Result<u8> {
    let gguf = args.out.join(FILE);
    let inputs = Model::open(LIKE, Path::new("."))?.files();
    let claim = Single::claim(&gguf, false, &Care { inputs, force: args.force })?;
    let report = train(args)?;
    if let Some(error) = &report.error {
        eprintln!("error: {}", error.message);
        return Ok(error.code);
    }
    if !args.json {
        say(&format!("{}\n", summary(&report).trim_end()));
    }
    let bytes = claim.write(|| write(&args.out, &gguf))?;
    let mut code = 0;
    let eval = match args.exams {
        0 => Value::Null,
        n => {
            let report = examine(&gguf, &args.device, n)?;
            if let Some(error) = &report.error {
                eprintln!("error: the examination: {}", error.message);
                code = error.code;
            }
            for (what, place) in report.diverged() {
                eprintln!("error: the examination: {what} diverged: {place}");
                code = 1;
            }
            serde_json::to_value(&report.eval).unwrap_or_default()
        }
    };
    let (right, asked) = ["needle", "recall"].iter().fold((0.0, 0.0), |(right, asked), task| {
        let number = |key: &str| eval[task][key].as_f64().unwrap_or(0.0);
        (right + number("accuracy") * number("n"), asked + number("n"))
    });
    if args.json {
        let exact = (asked > 0.0).then(|| right / asked);
        say_json(&json!({ "file": gguf.display().to_string(), "bytes": bytes, "exact": exact, "eval": eval }))?;
        return Ok(code);
    }
    say(&format!("{}: {}\n", gguf.display(), Bytes(bytes)));
    for (task, what) in [("needle", "pass keys"), ("recall", "codes")] {
        if let (Some(share), Some(n)) = (eval[task]["accuracy"].as_f64(), eval[task]["n"].as_u64()) {
            say(&format!("exact answers at {TOKENS} tokens, {what}: {:.1} % of {n}\n", 100.0 * share));
        }
    }
    if asked > 0.0 {
        say(&format!("exact answers at {TOKENS} tokens: {:.1} % of {asked:.0}\n", 100.0 * right / asked));
    }
    Ok(code)
}

/// A key and its value in TOML.
fn set(key: &str, value: impl std::fmt::Display) -> (String, String) {
    (key.to_owned(), value.to_string())
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// The training, as any other job; each start of it has a run folder of its own.
fn train(args: &args::TrainBundled) -> Result<Report> {
    let gpu = args.device != "cpu";
    let rows = args.steps as f64 * args.batch as f64 * args.accumulate as f64;
    let out = std::path::absolute(&args.out).map_err(|e| Error::io(&args.out, "cannot find the folder", &e))?;
    let mut sets = vec![
        set("model.path", quoted(&format!("random:{LIKE}@f32#{}", args.seed))),
        set("machine.device", quoted(&args.device)),
        set("run.seed", args.seed),
        set("train.data", quoted(LIKE)),
        set("train.out", quoted(&out.display().to_string())),
        set("train.resume", true),
        set("train.steps", args.steps),
        set("train.batch", args.batch),
        set("train.accumulate", args.accumulate),
        set("train.length", args.length),
        set("train.validation", format!("{:?}", (HELD_OUT / rows).min(0.5))),
        set("train.validate_every", (args.steps / 24).max(10)),
        set("train.save_every", (args.steps / 24).max(10)),
        set("train.params", quoted("full")),
        // A GPU has room to keep what the forward pass computed.
        set("train.activations", quoted(if gpu { "keep" } else { "recompute" })),
        set("train.loss", "{ use = \"chunked\", chunk_tokens = 8192 }"),
        set("train.order", quoted("sequential")),
        set(
            "train.optimizer",
            "{ use = \"adamw\", beta1 = 0.9, beta2 = 0.95, eps = 1e-9, weight_decay = 0.05, decayed = \"matrices\" }",
        ),
        set("train.clip", "{ by = \"global\", at = 1.0 }"),
        set("train.lr", 2e-3),
        set("train.warmup", 150.min(args.steps / 8)),
        set("train.decay", quoted("linear")),
        set("train.decay_from", 0.6),
        set("train.lr_end", 0.025),
    ];
    sets.extend(args.sets.iter().map(|s| key_value(s)).collect::<Result<Vec<_>>>()?);
    let loaded = Loaded { config: from_toml("", &sets)?, base: PathBuf::from("."), file: None };
    let mut order = source::order(&loaded)?;
    order.care.force = args.force;
    let folder = (1u32..).map(|n| out.join(format!("run-{n}"))).find(|dir| !dir.exists());
    execute(order, folder.as_ref(), args.json, &mut |_| ())
}

/// The learned model in `dir` as the file that ships.
fn write(dir: &Path, gguf: &Path) -> Result<u64> {
    let like = Model::open(LIKE, Path::new("."))?;
    let Some(file) = like.source.gguf() else {
        return Err(Error::Internal(format!("{LIKE} is no GGUF file")));
    };
    let learned = dir.join(MODEL);
    convert::write_like(&Model::open(&learned.display().to_string(), Path::new("."))?, file, gguf)
}

/// Pass keys at five depths and codes among codes, with the whole cache.
fn examine(gguf: &Path, device: &str, samples: usize) -> Result<Report> {
    let needle = format!("{{ lengths = [{TOKENS}], depths = [0, 25, 50, 75, 100], samples = {samples} }}");
    let recall = format!("{{ pairs = {CODES}, questions = 16, samples = {samples} }}");
    let sets = [
        set("model.path", quoted(&gguf.display().to_string())),
        set("machine.device", quoted(device)),
        set("run.max_tokens", 0),
        set("run.context", TOKENS + 128),
        set("eval.needle", needle),
        set("eval.recall", recall),
    ];
    let loaded = Loaded { config: from_toml("", &sets)?, base: PathBuf::from("."), file: None };
    execute(source::order(&loaded)?, None, true, &mut |_| ())
}
