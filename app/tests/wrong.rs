//! What is wrong is said: the key, the value, what is allowed; exit 2 for input, 3 for the budget, 1 for a failed run.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests: a panic is the failure")]

mod common;

use common::{BUNDLED, Room};

#[test]
fn a_wrong_key_or_value_is_named_with_what_is_allowed() {
    let room = Room::new();
    for (sets, expected) in [
        (
            &["kv.selekt=h2o"][..],
            "kv.selekt: `selekt` is not a key here; allowed: budget, select, split, merge, channels, format, read, alloc",
        ),
        (&["kv.select=h20"], "kv.select: `h20` is not a variant of kv.select; allowed: full, window, h2o, snapkv"),
        (&["kv.select=7"], "kv.select: `7` is not allowed; a variant's id, or a table with `use` and its knobs"),
        (
            &["budget.device=12parsecs"],
            "budget.device: `12parsecs` is not a size: write a number and a unit, such as \"512 MiB\", \"2 GB\" or \"unlimited\"",
        ),
        (&["run.context=abc"], "run.context: `abc` is not allowed; a whole number, 0 or more"),
        (&["run.context=0"], "run.context: `0` is not allowed; a whole number from 1 to 16777216"),
        (&["run.chat=maybe"], "run.chat: `maybe` is not allowed; true or false"),
        (&["run.sampling.temperature=hot"], "run.sampling.temperature: `hot` is not allowed; a number"),
        (&["run.sampling.top_p=1.5"], "run.sampling.top_p: `1.5` is not allowed; a number from 0 to 1"),
        (&["run.compute=fp8"], "run.compute: `fp8` is not allowed; one of: auto, exact, int8, half"),
        (
            &["kv.budget=5"],
            "kv.budget: `5` is not allowed; a table with one of bytes, rows and ratio, such as { ratio = 0.2 }",
        ),
        (
            &["kv.budget={rows=3,ratio=0.2}"],
            "kv.budget: write exactly one of bytes, rows and ratio, such as { ratio = 0.2 }",
        ),
        (&["kv.budget.rows=0"], "kv.budget.rows: `0` is not allowed; at least 1"),
        (
            &["eval.foo.x=1"],
            "eval.foo: `foo` is not a variant of eval; allowed: perplexity, fidelity, needle, recall, task",
        ),
        (&["eval.perplexity.windows=0"], "eval.perplexity.windows: `0` is not allowed; a whole number from 1 to 4096"),
        (
            &["kv.select=window", "kv.select.sinks=3"],
            "kv.select.sinks: `window` has no such knob; it has: n_sink, window, positions",
        ),
        (&["schema=7"], "schema: `7` is not known; this version reads 1"),
        (
            &["speed=3"],
            "speed: `speed` is not a key here; allowed: schema, model, machine, budget, weights, kv, place, train, eval, observe, run",
        ),
        (&["run=3"], "run: `3` is not allowed; a section with keys of its own"),
        (&["nothing"], "nothing: write an override as KEY=VALUE"),
        (&["=3"], "--set: a part of the key `` is empty; write it as section.key"),
        (&["train.steps=-3"], "train.steps: `-3` is not allowed; a whole number, 0 or more"),
    ] {
        let mut args = vec!["plan", BUNDLED];
        sets.iter().for_each(|s| args.extend(["--set", s]));
        let said = room.run(2, &args);
        assert_eq!(said.err.trim_end(), format!("error: configuration: {expected}"), "{sets:?}");
        assert_eq!(said.out, "", "{sets:?}");
    }
}

#[test]
fn choices_that_refuse_each_other_say_why() {
    let room = Room::new();
    for (sets, words) in [
        (
            &["kv.budget.ratio=0.1"][..],
            &["kv.select = full is refused", "kv.budget.ratio = 0.1", "drop the budget"][..],
        ),
        (&["place.weights=stream", "weights.format=q4_0"], &["place.weights = stream is refused", "stream from host"]),
        (&["run.context=3"], &["run.context", "5 tokens", "3"]),
        (&["eval.recall.pairs=500"], &["eval.recall.pairs", "500 pairs", "run.context"]),
        (&["eval.perplexity.file=missing.txt"], &["eval.perplexity", "missing.txt"]),
    ] {
        let mut args = vec!["run", BUNDLED];
        sets.iter().for_each(|s| args.extend(["--set", s]));
        let said = room.run(2, &args);
        for word in words {
            assert!(said.err.contains(word), "{sets:?}: {}", said.err);
        }
    }
}

#[test]
fn a_missing_or_damaged_file_is_an_input_error_that_names_it() {
    let room = Room::new();
    room.write("bin.toml", [0xff, 0xfe]);
    room.write("syntax.toml", "schema = 1\n[run\n");
    room.write("twice.toml", "[run]\nprompt = \"x\"\nprompt = \"y\"\n");
    room.write("text.gguf", "this is no model, only some words about it");
    room.write("empty.gguf", "");
    std::fs::create_dir(room.path("folder.gguf")).unwrap();
    let bundled = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/bundled/recall.gguf");
    let whole = std::fs::read(bundled).unwrap();
    room.write("cut.gguf", &whole[..whole.len() / 2]);
    room.write("header.gguf", &whole[..3000]);
    for (source, words) in [
        ("missing.toml", &["missing.toml", "cannot read"][..]),
        ("missing.gguf", &["missing.gguf", "cannot open"]),
        ("bundled:xyz", &["no bundled model `xyz`"]),
        ("random:foo", &["`foo` is not a shape", "llama-1b"]),
        ("bin.toml", &["bin.toml", "UTF-8"]),
        ("syntax.toml", &["line 2", "unclosed"]),
        ("twice.toml", &["line 3", "duplicate key"]),
        ("text.gguf", &["text.gguf", "magic"]),
        ("empty.gguf", &["empty.gguf", "0 bytes"]),
        ("folder.gguf", &["folder.gguf", "a folder"]),
        ("cut.gguf", &["cut.gguf", "behind the end of the file"]),
        ("header.gguf", &["header.gguf", "cut short"]),
    ] {
        for command in ["plan", "run", "bench"] {
            let said = room.run(2, &[command, source]);
            for word in words {
                assert!(said.err.contains(word), "{command} {source}: {}", said.err);
            }
        }
    }
}

#[test]
fn over_budget_exits_3_and_what_it_suggests_fits() {
    let room = Room::new();
    for (budget, sets) in [
        ("20 MiB", &[][..]),
        ("12 MiB", &["run.context=4096"]),
        ("8 MiB", &["run.sequences=3"]),
        ("3 MiB", &[]),
        ("2 MiB", &["run.max_tokens=300"]),
        ("300 KiB", &[]),
        ("12 KiB", &["eval.recall.pairs=4"]),
    ] {
        let device = format!("budget.device={budget}");
        let mut args = vec!["run", BUNDLED, "--set", &device];
        sets.iter().for_each(|s| args.extend(["--set", s]));
        let report = room.json(3, &args);
        let error = &report["error"];
        assert_eq!(error["kind"], "over_budget", "{budget}");
        assert!(error["needed"].as_u64() > error["available"].as_u64(), "{error}");
        let said = room.run(3, &args);
        assert!(
            said.err.starts_with("error: over budget: device needs ") && said.err.contains("still free"),
            "{}",
            said.err
        );
        // The suggestion as the reader would copy it; only its quotes are the shell's.
        let hint = error["hint"].as_str().unwrap();
        assert!(said.err.contains(&format!("what fits: {hint}")), "{}", said.err);
        let hint = hint.replace('\'', "");
        let mut with: Vec<&str> = args.clone();
        for set in hint.split("--set ").filter(|s| !s.is_empty()) {
            with.extend(["--set", set.trim()]);
        }
        room.run(0, &with);
        // And `plan` says the same before anything runs.
        args[0] = "plan";
        assert_eq!(room.run(3, &args).err, said.err);
    }
}

#[test]
fn a_wrong_command_line_exits_2() {
    let room = Room::new();
    for args in [
        &["frobnicate"][..],
        &["run"],
        &["plan", BUNDLED, "--frob"],
        &["sweep", BUNDLED],
        &["bench", BUNDLED, "--repeats", "0"],
    ] {
        let said = room.run(2, args);
        assert!(said.err.contains("error: ") && said.err.contains("--help"), "{}", said.err);
    }
}

#[test]
fn a_run_folder_is_never_written_over_and_one_that_cannot_be_made_is_named() {
    let room = Room::new();
    let args = ["run", BUNDLED, "--set", "run.max_tokens=2", "--out", "here"];
    room.run(0, &args);
    let before = room.read("here/events.jsonl");
    assert!(room.run(2, &args).err.contains("here already holds a run"));
    assert_eq!(before, room.read("here/events.jsonl"));
    room.write("file", "");
    let said = room.run(1, &["run", BUNDLED, "--out", "file/x"]);
    assert!(said.err.contains("file/x") && said.err.contains("cannot make the run folder"), "{}", said.err);
}

/// Where the system has a device that is always full.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_behind_stdout_is_a_failure_and_a_reader_that_leaves_is_none() {
    use std::fs::OpenOptions;
    use std::io::Read as _;
    use std::process::Stdio;
    let room = Room::new();
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let done = room.command(&["techniques"]).stdout(full).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(done.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&done.stderr).contains("No space left"));

    let mut child = room.command(&["run", BUNDLED]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut some = [0; 16];
    child.stdout.as_mut().unwrap().read_exact(&mut some).unwrap();
    drop(child.stdout.take());
    let done = child.wait_with_output().unwrap();
    assert_eq!((done.status.code(), String::from_utf8_lossy(&done.stderr).as_ref()), (Some(0), ""));
}
