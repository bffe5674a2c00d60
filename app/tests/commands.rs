//! inspect, plan, sweep, techniques, bench, and the evaluations on the bundled model.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests: a panic is the failure")]

mod common;

use std::path::Path;

use common::{BUNDLED, Room, SHORT, keys};
use ullage_core::blocks::{BlockType, can_decode};
use ullage_core::model::random::TYPES;

#[test]
fn inspect_shows_shape_and_tensors_that_sum_to_its_bytes() {
    let room = Room::new();
    let model = room.json(0, &["inspect", BUNDLED]);
    assert_eq!(
        (model["parameters"].as_u64(), model["layers"].as_u64(), model["tied"].as_bool()),
        (Some(4_985_088), Some(8), Some(true))
    );
    let sum: u64 = model["tensors"].as_array().unwrap().iter().map(|t| t["bytes"].as_u64().unwrap()).sum();
    assert_eq!(Some(sum), model["bytes"].as_u64());
    let said = room.run(0, &["inspect", BUNDLED]);
    assert!(
        said.out.contains("8 heads over 4 KV heads of 64") && said.out.contains("blk.7.ffn_down.weight"),
        "{}",
        said.out
    );
    assert_eq!(room.json(0, &["inspect", "random:llama-8b@q4_0"])["layers"], 32);
}

#[test]
fn plan_predicts_what_run_measures_and_what_else_would_fit() {
    let room = Room::new();
    let sets = ["--set", "run.max_tokens=8", "--set", "budget.device=32 MiB"];
    let plan = room.json(0, &[&["plan", BUNDLED][..], &sets[..]].concat());
    let run = room.json(0, &[&["run", BUNDLED][..], &sets[..]].concat());
    assert_eq!(plan["plan"]["peak"], run["measured"]["peak"]);
    // The inverse is exact: that context, filled, is planned within the budget; one more token is over.
    let sets = ["--set", "run.max_tokens=8", "--set", "budget.device=128 MiB"];
    let filled = |n: u64| {
        let (context, prompt) = (format!("run.context={n}"), format!("run.prompt=tokens:{}", n - 7));
        room.command(
            &[&["plan", "random:smollm2-135m@q4_0", "--json", "--set", &context, "--set", &prompt][..], &sets[..]]
                .concat(),
        )
        .output()
        .unwrap()
    };
    let plan: serde_json::Value = serde_json::from_slice(&filled(64).stdout).unwrap();
    let longest = plan["inverse"]["longest_context"].as_u64().unwrap();
    assert!(longest > 1000, "{longest}");
    assert_eq!((filled(longest).status.code(), filled(longest + 1).status.code()), (Some(0), Some(3)), "{longest}");
    let text = room.run(0, &["plan", BUNDLED, "--set", "run.max_tokens=0"]).out;
    assert!(
        text.contains("5 prompt tokens, 0 generated") && text.contains("longest context") && text.contains("llama-cli"),
        "{text}"
    );
}

#[test]
fn techniques_is_the_catalogue() {
    let room = Room::new();
    let all = room.json(0, &["techniques"]);
    let text = room.run(0, &["techniques"]).out;
    assert!(all.as_array().unwrap().len() > 20);
    for entry in all.as_array().unwrap() {
        let (id, sentence) = (entry["id"].as_str().unwrap(), entry["sentence"].as_str().unwrap());
        assert!(text.contains(id) && text.contains(sentence), "{id}");
        assert!(!entry["paper"].as_str().unwrap().is_empty() && sentence.ends_with('.'), "{id}");
    }
}

#[test]
fn bench_gives_each_depth_with_its_spread() {
    let room = Room::new();
    let args = ["bench", BUNDLED, "--depths", "0,64", "--tokens", "32", "--steps", "8", "--repeats", "2"];
    let points = room.json(0, &args);
    assert_eq!(points.as_array().map(Vec::len), Some(2));
    assert_eq!((&points[0]["depth"], &points[1]["depth"]), (&0.into(), &64.into()));
    for key in ["prefill_tokens_per_second", "decode_tokens_per_second"] {
        assert!(points[1][key].as_f64().unwrap() > 0.0);
    }
    // No two repeats take the same time to the nanosecond, and two that are no less than zero are at most √2 of their mean apart.
    for name in ["prefill", "decode"] {
        let (sd, mean) = (&points[1][format!("{name}_sd")], &points[1][format!("{name}_tokens_per_second")]);
        let share = sd.as_f64().unwrap() / mean.as_f64().unwrap();
        assert!(share > 0.0 && share < 1.415, "{name}: {sd} around {mean}");
    }
    let once = room.json(0, &[&args[..args.len() - 1], &["1"]].concat());
    assert_eq!((&once[1]["prefill_sd"], &once[1]["decode_sd"]), (&0.0.into(), &0.0.into()), "one repeat has no spread");
    assert!(points[0]["bandwidth_fraction"].is_null(), "not probed: nothing to take a fraction of");
    assert_eq!(room.run(0, &args).out.lines().count(), 3);
    assert!(room.run(2, &["bench", BUNDLED, "--set", "kv.select=window"]).err.contains("every token must stay"));
}

#[test]
fn bench_of_types_lists_every_type_beside_q8_0() {
    let room = Room::new();
    let config = r#"{"model_type": "llama", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 300, "rms_norm_eps": 1e-6,
        "max_position_embeddings": 512, "tie_word_embeddings": true}"#;
    let path = room.write("config.json", config).display().to_string();
    let shape = format!("random:{path}@f16");
    let args = ["bench", &shape, "--types", "--tokens", "12", "--steps", "2", "--repeats", "1"];
    for compute in ["exact", "int8"] {
        let set = format!("run.compute={compute}");
        let rows = room.json(0, &[&args[..], &["--set", &set]].concat());
        let rows = rows.as_array().unwrap();
        let named: Vec<_> = rows.iter().map(|row| row["type"].as_str().unwrap()).collect();
        for ty in BlockType::ALL.iter().filter(|ty| can_decode(**ty) && **ty != BlockType::F64) {
            assert!(named.contains(&ty.as_str()), "{ty}");
        }
        assert_eq!((named[0], &rows[0]["of_q8_0"]), ("q8_0", &serde_json::json!([1.0, 1.0])));
        for row in rows {
            let speed = row["points"][0]["decode_tokens_per_second"].as_f64().unwrap();
            assert!(speed > 0.0 && row["of_q8_0"][1].as_f64().unwrap() > 0.0 && row["refused"].is_null(), "{row}");
        }
    }
    let said = room.run(0, &args).out;
    assert_eq!(said.lines().count(), 2 + TYPES.len(), "{said}");
    // Rows that are not whole super-blocks are told, and the others measured.
    let narrow = room.write("narrow.json", config.replace("256", "64")).display().to_string();
    let said = room.run(0, &[&["bench", &format!("random:{narrow}")], &args[2..]].concat()).out;
    assert!(said.lines().any(|line| line.starts_with("q4_k") && line.contains("blocks of 256")), "{said}");
}

#[test]
fn trainings_of_a_sweep_that_share_a_folder_get_one_each() {
    let room = Room::new();
    let sets = [
        "train.data=random",
        "train.batch=1",
        "train.length=8",
        "train.steps=1",
        "train.samples=0",
        "train.validation=0",
        "train.params=lora",
        "train.params.target=q",
        "train.out=learned",
    ];
    let mut args = vec!["sweep", BUNDLED, "--over", "train.params.r=1,2", "--out", "s"];
    args.extend(sets.iter().flat_map(|set| ["--set", *set]));
    let said = room.run(0, &args);
    let mut csv = csv::Reader::from_reader(said.out.as_bytes());
    let head = csv.headers().unwrap().clone();
    let place = |name: &str| head.iter().position(|h| h == name).unwrap_or_else(|| panic!("{name}: {}", said.out));
    let rows: Vec<csv::StringRecord> = csv.records().map(Result::unwrap).collect();
    for (row, end) in rows.iter().zip(["000-r=1", "001-r=2"]) {
        let (out, error) = (Path::new(&row[place("train.out")]), &row[place("error")]);
        assert!(error.is_empty() && out.ends_with(Path::new("learned").join(end)), "{}", said.out);
        assert!(out.join("training_state.safetensors").is_file() && out.join("adapter.gguf").is_file());
    }
    assert_eq!(rows.len(), 2);
    assert!(!room.path("learned/training_state.safetensors").exists());
    // Again: both are kept. Folders that were given apart stay as they are.
    assert_eq!(room.run(0, &args).err.matches(": kept").count(), 2);
    let json = room.json(0, &args);
    assert!(json[1]["train.out"].as_str().unwrap().ends_with("001-r=2"), "{json}");
    let own: Vec<&str> = args.iter().map(|a| if *a == "train.params.r=1,2" { "train.out=a,b" } else { a }).collect();
    let own: Vec<&str> = own.iter().map(|a| if *a == "train.out=learned" { "train.params.r=1" } else { a }).collect();
    let own: Vec<&str> = own.iter().map(|a| if *a == "s" { "t" } else { a }).collect();
    let said = room.run(0, &own);
    assert_eq!(said.out.lines().next().unwrap().matches("train.out").count(), 1, "{}", said.out);
    assert!(room.path("a/training_state.safetensors").is_file() && room.path("b/adapter.gguf").is_file());
}

#[test]
fn a_probe_replaces_no_file_that_is_no_machines() {
    let room = Room::new();
    room.write("machine.json", "my notes");
    let said = room.run(2, &["probe", "--quick"]);
    assert!(said.err.contains("machine.json") && said.err.contains("--force"), "{}", said.err);
    assert_eq!(room.read("machine.json"), "my notes");
    // One of another version is the program's own, and so is what --force put there.
    room.run(0, &["probe", "--quick", "--force"]);
    let own = room.read("machine.json");
    assert!(own.contains("\"schema\": 1"), "{own}");
    room.write("machine.json", own.replacen("\"schema\": 1", "\"schema\": 99", 1));
    room.run(0, &["probe", "--quick"]);
    assert!(room.read("machine.json").contains("\"schema\": 1,"));
}

#[test]
fn sweep_writes_a_table_and_a_picture_and_resumes() {
    let room = Room::new();
    let args = [
        "sweep",
        BUNDLED,
        "--over",
        "kv.select=full,window,h2o",
        "--over",
        "kv.budget.ratio=0.25,0.5",
        "--set",
        "eval.recall={pairs=8,questions=4,samples=1}",
        "--set",
        "run.max_tokens=4",
        "--set",
        "run.context=256",
        "--out",
        "s",
    ];
    let said = room.run(0, &args);
    assert_eq!(said.out, room.read("s/sweep.csv"));
    let lines: Vec<_> = said.out.lines().collect();
    assert_eq!(lines.len(), 7);
    assert!(
        lines[0].starts_with("kv.select,kv.budget.ratio,planned_peak,measured_peak,") && lines[0].ends_with(",error"),
        "{}",
        lines[0]
    );
    assert!(
        lines[1].starts_with("full,0.25,,") && lines[1].ends_with(",refused"),
        "a full cache has no budget: {}",
        lines[1]
    );
    let column = lines[0].split(',').position(|c| c == "measured_peak").unwrap();
    let cell = |line: &str| line.split(',').nth(column).unwrap().parse::<u64>().unwrap();
    assert!(cell(lines[3]) < cell(lines[4]) && cell(lines[5]) < cell(lines[6]), "half the rows, fewer bytes");
    let svg = room.read("s/sweep.svg");
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>") && svg.contains("recall, more is better"));
    // The window's picture: every series in its legend, points with their words.
    for words in ["select=window", "select=h2o", "ratio=0.25", "measured peak in bytes"] {
        assert!(svg.contains(words), "{words}");
    }
    // Again: every point is kept. One that was cut runs again, and so does one of another configuration.
    assert_eq!(room.run(0, &args).err.matches(": kept").count(), 4);
    let cut = std::fs::read_dir(room.path("s")).unwrap().map(|e| e.unwrap().path()).find(|p| p.is_dir()).unwrap();
    std::fs::remove_file(cut.join("report.json")).unwrap();
    let said = room.run(0, &args);
    assert_eq!(said.err.matches(": kept").count(), 3, "{}", said.err);
    assert!(cut.join("report.json").is_file());
    let mut other = args.to_vec();
    other.extend(["--set", "run.seed=1"]);
    assert_eq!(room.run(0, &other).err.matches(": kept").count(), 0);
    let rows = room.json(0, &other);
    assert_eq!((rows.as_array().map(Vec::len), rows[0]["error"]["kind"].as_str()), (Some(6), Some("refused")));
    assert_eq!(rows[5]["point"]["kv.select"], "h2o");
    // A wrong key ends it before anything runs; a sweep of which nothing ran fails as its points did.
    assert!(room.run(2, &["sweep", BUNDLED, "--over", "kv.selekt=a,b", "--out", "t"]).err.contains("selekt"));
    assert!(!room.path("t").exists());
    room.run(3, &["sweep", BUNDLED, "--over", "budget.device=64 KiB,128 KiB", "--out", "u"]);
}

#[test]
fn evaluations_know_the_bundled_model_and_what_dropping_rows_costs() {
    let room = Room::new();
    let eval = |sets: &[&str]| {
        let mut args = vec!["run", BUNDLED, "--set", "run.max_tokens=0", "--set", "run.context=1100"];
        sets.iter().for_each(|s| args.extend(["--set", s]));
        room.json(0, &args)["eval"].clone()
    };
    let all = eval(&[
        "eval.needle={lengths=[1024],depths=[0,50,100],samples=4}",
        "eval.recall={pairs=32,questions=16,samples=2}",
        "eval.perplexity={prompt=64,tokens=64}",
        "eval.fidelity={prompt=64,tokens=64}",
    ]);
    assert!(all["needle"]["accuracy"].as_f64().unwrap() >= 0.95, "{}", all["needle"]);
    assert!(all["recall"]["accuracy"].as_f64().unwrap() >= 0.95, "{}", all["recall"]);
    let ppl = all["perplexity"]["perplexity"].as_f64().unwrap();
    assert!(ppl > 1.0 && ppl < 1e5, "{ppl}");
    assert!(
        (all["fidelity"]["perplexity"].as_f64().unwrap() / ppl - 1.0).abs() < 1e-3,
        "the same tokens, read by both"
    );
    let kl = |e: &serde_json::Value| e["fidelity"]["kl_mean"].as_f64().unwrap();
    assert!(kl(&all) < 1e-4, "an f16 cache is nearly lossless: {}", kl(&all));
    // Fewer bits, fewer rows: each loses.
    let coarse = eval(&["kv.format=q4_0", "eval.fidelity={prompt=64,tokens=64}"]);
    assert!(kl(&coarse) > kl(&all), "{coarse}");
    let window =
        eval(&["kv.select=window", "kv.budget.rows=128", "eval.needle={lengths=[1024],depths=[0,50],samples=4}"]);
    assert!(window["needle"]["accuracy"].as_f64().unwrap() < 0.5, "{window}");
    assert_eq!(keys(&all), ["fidelity", "needle", "perplexity", "recall"]);
}

#[test]
fn the_demo_configurations_run() {
    let room = Room::new();
    let demos = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/demos");
    let mut seen = 0;
    for entry in std::fs::read_dir(demos).unwrap() {
        let path = entry.unwrap().path();
        let said = room.run(0, &["run", path.to_str().unwrap(), SHORT[0], SHORT[1]]);
        assert!(said.out.contains("device   peak"), "{}", path.display());
        seen += 1;
    }
    assert!(seen >= 4);
}

#[test]
fn plans_are_never_low_and_budgets_are_walls() {
    let room = Room::new();
    let all = room.json(0, &["check-plan", "--wall", "30"]);
    let rows = all["rows"].as_array().unwrap();
    assert!(rows.len() >= 60);
    for row in rows {
        let (planned, measured) = (row["planned"].as_u64().unwrap(), row["measured"].as_u64().unwrap());
        assert!(planned >= measured && planned - measured <= (measured / 50).max(256 << 10), "{row}");
        assert_eq!((row["unaccounted"].as_i64(), row["escaped"].as_u64()), (Some(0), Some(0)), "{row}");
    }
    let wall = &all["wall"];
    assert!(wall["failures"].as_array().unwrap().is_empty(), "{wall}");
    assert!(
        wall["finished"].as_u64() > Some(0) && wall["refused"].as_u64() > Some(0),
        "both sides of the wall: {wall}"
    );
}

#[test]
fn data_says_what_a_file_is_and_what_of_it_is_learned() {
    let room = Room::new();
    let file = room.write(
        "notes.txt",
        r#"[{"question": "Hi?", "answer": "Yes", "id": 1},
            {"conversations": [{"from": "human", "value": "\u001b[2J"}, {"from": "gpt", "value": "No"}], "tools": [{"name": "x"}]}]"#,
    );
    let file = file.to_str().unwrap();
    let told = room.json(0, &["data", file, "--rows", "1"]);
    assert_eq!(
        (told["kind"].as_str(), told["records"].as_u64(), told["documents"].as_u64()),
        (Some("a JSON list"), Some(2), Some(2))
    );
    assert_eq!((told["unused"]["id"].as_u64(), told["unused"]["tools"].as_u64()), (Some(1), Some(1)));
    let first = told["first"].as_array().unwrap();
    assert_eq!(first.len(), 1);
    let part = |i: usize| {
        let part = &first[0]["text"][i];
        (part["text"].as_str().unwrap(), part["learned"].as_bool().unwrap())
    };
    assert_eq!(part(0), ("<|user|>\nHi?<|endoftext|>\n<|assistant|>\n", false));
    assert_eq!(part(1), ("Yes<|endoftext|>\n", true));
    let text = room.run(0, &["data", file]).out;
    assert!(text.contains("«No<|endoftext|>\n»") && text.contains("`id` (1), `tools` (1)"), "{text}");
    assert!(text.contains("\\u{1b}[2J") && !text.contains('\u{1b}'), "{text}");
    let all = room.json(0, &["data", file, "--set", "train.loss_on=all"]);
    assert!(all["learned"].as_u64() > told["learned"].as_u64());
    let error = room.run(2, &["data", room.write("x.json", "[1").to_str().unwrap()]).err;
    assert!(error.contains("x.json:1"), "{error}");
}

#[test]
fn a_folder_without_a_tokenizer_is_planned_and_takes_no_text() {
    let room = Room::new();
    for name in ["config.json", "model.safetensors"] {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/arch/llama").join(name);
        room.write(name, std::fs::read(from).unwrap());
    }
    let folder = room.path("");
    let folder = folder.to_str().unwrap();
    let set = ["--set", "run.prompt=Hello", "--set", "run.context=16", "--set", "run.max_tokens=2"];
    room.json(0, &[&["plan", folder][..], &set[..]].concat());
    let told = room.json(0, &["inspect", folder]);
    assert!(told["tokenizer"].is_null() && told["no_tokenizer"].as_str().unwrap().contains("tokenizer.json"));
    let error = room.run(2, &[&["run", folder][..], &set[..]].concat()).err;
    assert!(error.contains("run.prompt") && error.contains("tokenizer.model") && error.contains("tokens:N"), "{error}");
    let tokens = ["--set", "run.prompt=tokens:5", "--set", "run.context=16", "--set", "run.max_tokens=2"];
    room.json(0, &[&["run", folder][..], &tokens[..]].concat());
    let data = room.write("a.jsonl", "{\"text\": \"a\"}");
    let train = format!("train.data={:?}", data.display().to_string());
    let error = room.run(2, &["run", folder, "--set", &train, "--set", "train.length=16"]).err;
    assert!(error.contains("tokenizer.json") && error.contains("train.data=random"), "{error}");
}
