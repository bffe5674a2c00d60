//! Any text, as `--set` arguments, a line each.

use ullage_core::Error;
use ullage_core::catalog::from_toml;

use super::{PLAIN, Target, plain_error};

pub(super) const TARGET: Target = Target {
    name: "override_key",
    run,
    seeds: || {
        [
            "kv.select=h2o\nkv.select.heavy_ratio=0.25\nkv.budget.rows=64\nkv.format.k=q8_0",
            "run.seed=7\nrun.stop=[\"a\"]\nrun.turns=[{ role = \"user\", content = \"x\" }]\nrun.chat=true",
            "train.data=tokens:3\ntrain.clip.by=global\ntrain.clip=none\ntrain.params.r=2\neval.needle.lengths=[1]",
            "observe.head=[0,1]\nweights.override=[{ tensors = \"*\", format = \"q4_0\" }]\nbudget.device=1 GiB",
        ]
        .map(|s| s.as_bytes().to_vec())
        .to_vec()
    },
    words: &[
        "=",
        "\n",
        ".",
        "..",
        "kv",
        "kv.budget",
        "kv.format.k.k",
        "run",
        "run.seed=18446744073709551615",
        "run.0",
        "use",
        "kv.select.use.use",
        "train",
        "train.clip.by.at",
        "weights.override.0.format",
        "eval",
        "eval..x",
        "model.path.k",
        "\"a.b\"",
        "run.turns.0.role",
        "= { use = 3 }",
        "=[[]]",
        "=nan",
        "='",
        "=\"",
        "={",
        "\u{e9}",
        " ",
        "\t",
        "schema=1",
    ],
    ..PLAIN
};

fn run(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let sets: Vec<_> = text.lines().filter_map(|l| l.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect();
    match from_toml("", &sets) {
        Ok(config) => from_toml(&config.to_toml().unwrap(), &[]).is_ok() || panic!("written and not read"),
        Err(e) => {
            plain_error(&e);
            assert_eq!(e.exit_code(), 2, "{e}");
            // What stands there may itself look like nothing.
            assert!(!matches!(&e, Error::Config { key, .. } if key.is_empty()), "no key is named: {e}");
            false
        }
    }
}
