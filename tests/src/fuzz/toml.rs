//! Any text, as a configuration: read, checked, written, read again.

use ullage_core::catalog::from_toml;

use super::{PLAIN, Target, plain_error};

pub(super) const TARGET: Target = Target {
    name: "toml",
    run,
    seeds: || {
        let demos = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/demo.toml");
        let train = "[train]\ndata = \"a.jsonl\"\nclip = { by = \"layer\", at = 0.5 }\nparams = { use = \"lora\", r = 4 }\ndecay = \"cosine\"\n";
        let all = "schema = 1\n[model]\npath = \"bundled:recall\"\n[budget]\ndevice = \"512 MiB\"\n[kv]\nselect = { use = \"h2o\", heavy_ratio = 0.25 }\nformat = { k = \"q8_0\", v = \"q4_0\" }\nbudget = { ratio = 0.2 }\n[[weights.override]]\ntensors = \"*.attn_q\"\nformat = \"q4_0\"\n[eval.needle]\nlengths = [256, 512]\n[observe]\nbins = 7\nhead = [0, 1]\n[[run.turns]]\nrole = \"user\"\ncontent = \"Hi\"\n[run]\nchat = true\nseed = 7\nstop = [\"\\n\"]\n";
        vec![std::fs::read(demos).unwrap(), train.into(), all.into()]
    },
    words: &[
        "[[run]]",
        "[run]",
        "[[train]]",
        "[train]",
        "[kv.select]",
        "[[kv]]",
        "[[eval.needle]]",
        "[observe]",
        "use = ",
        "\"h2o\"",
        "seed = 18446744073709551615",
        "seed = 9223372036854775808",
        "= 0x7fffffffffffffff",
        "= -9223372036854775808",
        "= nan",
        "= inf",
        "= -0.0",
        "= 1e400",
        "= 1979-05-27T07:32:00Z",
        "= []",
        "= {}",
        "= \"\"",
        "= '''",
        "= true",
        "= [[], {}]",
        ".",
        "\"\" = 1",
        "'a.b' = 1",
        "= \"unlimited\"",
        "= \"18446744073709551615 B\"",
        "= \"1e30 GiB\"",
        "= \"-1 B\"",
        "\u{e9}",
    ],
    ..PLAIN
};

fn run(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    match from_toml(&text, &[]) {
        Ok(config) => {
            let written = config.to_toml().unwrap();
            let again = from_toml(&written, &[]).unwrap_or_else(|e| panic!("written and not read: {e}\n{written}"));
            // Not a number is like nothing, itself included.
            assert!(again == config || again.to_toml().unwrap() == written, "written otherwise: {written}");
            true
        }
        Err(e) => {
            plain_error(&e);
            assert_eq!(e.exit_code(), 2, "{e}");
            false
        }
    }
}
