//! `run`, its folder, and what opens it again.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests: a panic is the failure")]

mod common;

use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{BUNDLED, Room, SHORT, keys};

#[test]
fn without_a_command_the_bundled_model_tells_a_story_and_its_bytes() {
    let said = Room::new().run(0, &[]);
    assert!(said.out.starts_with("Once upon a time there was "), "{}", said.out);
    for words in [
        "tier     category            planned      measured           gap",
        "device   peak",
        "limit    48 MiB",
        "speed    ready in",
        "tokens/s",
    ] {
        assert!(said.out.contains(words), "`{words}` in {}", said.out);
    }
    // Planned, measured and their difference: nothing of the model or its cache is off by a byte.
    for row in ["weights", "kv_cache", "peak"] {
        let line = said.out.lines().find(|l| l.starts_with(&format!("device   {row} "))).unwrap();
        let cells: Vec<_> = line.split_whitespace().collect();
        assert_eq!((cells[2], cells[4]), (cells[3], "+0"), "{line}");
    }
}

#[test]
fn sequences_of_a_single_token_end_without_a_decoding_step() {
    for (sequences, max_tokens) in [("1", "1"), ("2", "1"), ("3", "1"), ("2", "0")] {
        let (sequences_key, max_key) = (format!("run.sequences={sequences}"), format!("run.max_tokens={max_tokens}"));
        let report = Room::new().json(0, &["run", BUNDLED, "--set", &sequences_key, "--set", &max_key]);
        let written = report["output"]["sequences"].as_array().unwrap();
        let tokens: Vec<_> = written.iter().map(|s| s["tokens"].as_array().unwrap().len()).collect();
        let expected: usize = if max_tokens == "0" { 0 } else { sequences.parse().unwrap() };
        assert_eq!(tokens, vec![1; expected], "{sequences_key} {max_key}");
    }
}

#[test]
fn the_report_has_the_keys_of_the_contract() {
    let room = Room::new();
    let report = room.json(
        0,
        &[
            "run",
            BUNDLED,
            "--set",
            "run.sequences=2",
            "--set",
            "eval.recall.pairs=4",
            SHORT[0],
            SHORT[1],
            "--set",
            "run.context=256",
        ],
    );
    for key in ["config", "machine", "model", "plan", "measured", "gap", "speed", "output", "eval", "curves", "error"] {
        assert!(report.get(key).is_some(), "`{key}` in {:?}", keys(&report));
    }
    assert!(report["error"].is_null());
    assert_eq!(report["model"]["hash"].as_str().map(str::len), Some(64));
    for side in ["plan", "measured"] {
        let side = &report[side];
        for at in [
            "/bytes/device/weights",
            "/bytes/device/kv_cache",
            "/peak/device",
            "/at_peak/device/weights",
            "/phases/load/device/peak",
            "/phases/decode/device/peak",
        ] {
            assert!(side.pointer(at).is_some_and(|v| v.as_u64().is_some_and(|n| n > 0)), "{at} in {side}");
        }
        let parts: u64 = side["at_peak"]["device"].as_object().unwrap().values().map(|v| v.as_u64().unwrap()).sum();
        assert_eq!(Some(parts), side["peak"]["device"].as_u64(), "the composition at the peak is the peak");
    }
    assert_eq!(report.pointer("/gap/bytes/device/weights").and_then(|v| v.as_i64()), Some(0));
    for key in ["prefill_tokens_per_second", "decode_tokens_per_second", "step_seconds"] {
        assert!(report["speed"][key].as_f64().unwrap() > 0.0, "{key}");
    }
    let output = &report["output"];
    assert_eq!(output["tokens"].as_array().map(Vec::len), Some(8));
    assert_eq!(output["sequences"].as_array().map(Vec::len), Some(2));
    assert_eq!(output["sequences"][0]["text"], output["text"]);
    assert!(report["eval"]["recall"]["accuracy"].is_f64());
    let curve = report["curves"]["held.device"].as_array().unwrap();
    assert!(
        curve
            .iter()
            .all(|p| p[0].is_f64() && p[1].as_u64().unwrap() <= report["measured"]["peak"]["device"].as_u64().unwrap())
    );
}

#[test]
fn a_run_folder_opens_to_the_same_report_and_its_config_runs_again_from_anywhere() {
    let room = Room::new();
    let bundled = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/bundled/recall.gguf");
    std::fs::create_dir(room.path("models")).unwrap();
    std::fs::copy(bundled, room.path("models/m.gguf")).unwrap();
    room.write("models/config.toml", "schema = 1\n[model]\npath = \"m.gguf\"\n[kv]\nselect = { use = \"h2o\", heavy_ratio = 0.25 }\nformat = { k = \"q8_0\", v = \"q4_0\" }\n[run]\nstop = [\"zebra\"]\nmax_tokens = 20\ncontext = 128\nsequences = 2\nsampling = { temperature = 0.8, top_k = 40 }\nseed = 7\n");
    let first = room.run(0, &["run", "models/config.toml", "--out", "out/first"]);
    for file in ["config.toml", "report.json", "timeline.csv", "events.jsonl", "llama.cpp.txt"] {
        assert!(!room.read(&format!("out/first/{file}")).is_empty(), "{file}");
    }
    // The same text and the same table, from the events alone.
    std::fs::remove_file(room.path("out/first/report.json")).unwrap();
    std::fs::rename(room.path("models"), room.path("moved")).unwrap();
    let opened = room.run(0, &["open", "out/first"]);
    let table = |out: &str| out.split_once("model    ").unwrap().1.split("written").next().unwrap().to_owned();
    assert_eq!(table(&first.out), table(&opened.out));
    std::fs::rename(room.path("moved"), room.path("models")).unwrap();
    // Its configuration, read where it was written, is the same run.
    room.run(0, &["run", "out/first/config.toml", "--out", "out/second"]);
    assert_eq!(room.read("out/first/config.toml"), room.read("out/second/config.toml"));
    let told = |dir: &str| room.run(0, &["open", dir]).out.split_once("model    ").unwrap().0.to_owned();
    assert_eq!(told("out/first"), told("out/second"), "the same seed, the same text of both sequences");
    assert!(told("out/first").contains("[sequence 2]"));
}

#[test]
fn the_same_seed_gives_the_same_tokens_and_another_seed_others() {
    let room = Room::new();
    let tokens = |seed: &str| {
        let report = room.json(
            0,
            &[
                "run",
                BUNDLED,
                "--set",
                "run.sampling={temperature=1.2,top_p=0.95,min_p=0.01}",
                "--set",
                seed,
                "--set",
                "run.max_tokens=24",
            ],
        );
        report["output"]["tokens"].clone()
    };
    assert_eq!(tokens("run.seed=5"), tokens("run.seed=5"));
    assert_ne!(tokens("run.seed=5"), tokens("run.seed=6"));
}

#[test]
fn what_is_lossless_gives_the_same_tokens_and_logits() {
    let room = Room::new();
    let variants: [&[&str]; 5] = [
        &[],
        &["--set", "kv.alloc=paged"],
        &["--set", "place.weights=stream", "--set", "run.batch=16"],
        &["--set", "place.weights={use=\"stream\",from=\"host\",prefetch=0}", "--set", "observe.attention=thumbnails"],
        &["--set", "observe.head=[3, 5]", "--set", "run.batch=16"],
    ];
    let mut first: Option<Vec<u8>> = None;
    for (i, sets) in variants.iter().enumerate() {
        let out = format!("v{i}");
        let mut args = vec!["run", BUNDLED, "--set", "run.max_tokens=12", "--dump", "--out", &out];
        args.extend(*sets);
        room.run(0, &args);
        let logits = std::fs::read(room.path(&out).join("logits.safetensors")).unwrap();
        assert!(logits.len() > 12 * 1024 * 4);
        match &first {
            None => first = Some(logits),
            Some(first) => assert!(*first == logits, "{sets:?}"),
        }
    }
}

#[test]
fn ends_and_edges_of_a_run() {
    let room = Room::new();
    let output = |code, sets: &[&str]| {
        let mut args = vec!["run", BUNDLED];
        sets.iter().for_each(|s| args.extend(["--set", s]));
        room.json(code, &args)["output"].clone()
    };
    // Nothing to generate: the prompt is read and that is all.
    assert_eq!(output(0, &["run.max_tokens=0"])["tokens"].as_array().map(Vec::len), Some(0));
    assert_eq!(output(0, &["run.max_tokens=1"])["tokens"].as_array().map(Vec::len), Some(1));
    // A stop string ends the text before it, wherever the tokens' edges are; one text is as good as a list.
    let whole = output(0, &["run.max_tokens=40"])["text"].as_str().unwrap().to_owned();
    let stopped = output(0, &["run.max_tokens=40", "run.stop=was"]);
    assert_eq!((stopped["text"].as_str(), stopped["stop"].as_str()), (whole.split("was").next(), Some("text")));
    assert_eq!(output(0, &["run.context=10"])["stop"], "context");
    assert_eq!(output(0, &["run.max_tokens=400"])["stop"], "end");
    // A chat goes through the template and answers on a line of its own.
    let said = room.run(
        0,
        &[
            "run",
            BUNDLED,
            "--set",
            "run.chat=true",
            "--set",
            "run.prompt=Tell me a story about a fox.",
            "--set",
            "run.max_tokens=30",
        ],
    );
    assert!(said.out.starts_with("Tell me a story about a fox.\n\n"), "{}", said.out);
    // The prompt's own fox is before a full stop.
    assert!(said.out.contains(" fox named") || said.out.contains(" fox "), "{}", said.out);
    // A model of random weights has no words, only sizes and speed.
    let report = room.json(
        0,
        &[
            "run",
            "random:smollm2-135m@q4_0",
            "--set",
            "run.prompt=tokens:9",
            "--set",
            "run.max_tokens=3",
            "--set",
            "run.context=32",
        ],
    );
    assert_eq!(
        (report["speed"]["prompt_tokens"].as_u64(), report["output"]["tokens"].as_array().map(Vec::len)),
        (Some(9), Some(3))
    );
    assert!(
        room.run(2, &["run", "random:smollm2-135m@q4_0", "--set", "eval.perplexity.windows=1"])
            .err
            .contains("no tokenizer")
    );
}

/// Sends the signal of this name to a child.
#[cfg(unix)]
fn signal(child: &std::process::Child, name: &str) {
    assert!(std::process::Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

/// Waits until the run folder tells of its first token.
#[cfg(unix)]
fn first_token(room: &Room, dir: &str) {
    let start = Instant::now();
    let path = room.path(dir).join("events.jsonl");
    while !std::fs::read_to_string(&path).is_ok_and(|t| t.contains("\"token\"")) {
        assert!(start.elapsed() < Duration::from_secs(60), "no token in a minute");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_run_at_once_with_exit_1_and_a_kill_leaves_a_folder_that_opens() {
    let room = Room::new();
    let long = |dir: &str| {
        let args = [
            "run",
            BUNDLED,
            "--set",
            "run.max_tokens=100000",
            "--set",
            "run.context=200000",
            "--set",
            "run.ignore_eos=true",
            "--set",
            "kv.alloc=paged",
            "--out",
            dir,
        ];
        room.command(&args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let child = long("int");
    first_token(&room, "int");
    signal(&child, "-INT");
    let done = child.wait_with_output().unwrap();
    assert_eq!(done.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&done.stderr).contains("error: cancelled"));
    let opened = room.run(0, &["open", "int"]);
    assert!(opened.out.starts_with("Once upon a time") && opened.out.contains("ended    cancelled"), "{}", opened.out);
    assert!(room.read("int/report.json").contains("\"cancelled\""));

    let mut child = long("kill");
    first_token(&room, "kill");
    signal(&child, "-KILL");
    child.wait().unwrap();
    let opened = room.run(0, &["open", "kill"]);
    assert!(opened.out.starts_with("Once upon a time") && opened.out.contains("did not finish"), "{}", opened.out);
    // A line cut in its middle, as a full disk leaves it, is left out; a damaged one before is named.
    let events = room.read("kill/events.jsonl");
    room.write("kill/events.jsonl", &events[..events.trim_end().len() - 7]);
    room.run(0, &["open", "kill"]);
    room.write("kill/events.jsonl", events.replacen("\"event\"", "\"evnt\"", 2));
    assert!(room.run(2, &["open", "kill"]).err.contains("line 1"));
    assert!(room.run(1, &["open", "."]).err.contains("events.jsonl"));
}

#[test]
fn the_llama_cpp_line_stands_beside_the_toml_with_what_it_loses() {
    let room = Room::new();
    room.run(
        0,
        &[
            "run",
            BUNDLED,
            "--set",
            "kv.format={k=\"q8_0\",v=\"f16\"}",
            "--set",
            "kv.select=window",
            "--set",
            "run.prompt=It's",
            "--set",
            "machine.threads=2",
            SHORT[0],
            SHORT[1],
            "--out",
            "r",
        ],
    );
    let text = room.read("r/llama.cpp.txt");
    let line = text.lines().next().unwrap();
    for words in
        ["llama-cli -m 'bundled:recall'", "-t 2", "-c 2048", "-n 8", "--temp 0", r"-p 'It'\''s'", "-ctk q8_0 -ctv f16"]
    {
        assert!(line.contains(words), "`{words}` in {line}");
    }
    let lost: Vec<&str> = text.lines().skip(1).map(|l| l.strip_prefix("# does not carry over: ").unwrap()).collect();
    let begin =
        ["model.path = bundled:recall: give it", "kv.select = window: every token stays there", "run.compute = exact"];
    assert_eq!(lost.len(), begin.len(), "these and no other: {text}");
    for (lost, begin) in lost.iter().zip(begin) {
        assert!(lost.starts_with(begin), "`{begin}` in {text}");
    }
    assert!(lost[0].contains("assets/bundled/recall.gguf"), "{text}");
}

#[test]
fn without_a_home_it_still_runs() {
    let room = Room::new();
    let mut command = room.command(&["run", BUNDLED, SHORT[0], SHORT[1], "--set", "eval.fidelity={prompt=8,tokens=4}"]);
    let done = command
        .env_remove("HOME")
        .env_remove("ULLAGE_MACHINE")
        .env_remove("XDG_CACHE_HOME")
        .env("TMPDIR", &room.0)
        .output()
        .unwrap();
    assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
}
