//! Training from the command line.
#![allow(clippy::unwrap_used)]

mod common;

use common::Room;

#[test]
fn the_bundled_model_trains_to_the_same_bytes_from_its_seed() {
    let room = Room::new();
    let tiny = ["--steps", "3", "--batch", "2", "--accumulate", "2", "--length", "96", "--exams", "0"];
    let train = |out: &str, more: &[&str]| {
        let mut args = vec!["train-bundled", "--out", out];
        args.extend(tiny);
        args.extend(more);
        let said = room.run(0, &args);
        (std::fs::read(room.path(&format!("{out}/recall.gguf"))).unwrap(), said)
    };
    let (one, said) = train("a", &["--set", "machine.threads=1"]);
    assert!(said.out.contains("recall.gguf: 5.09 MiB"), "{}", said.out);
    let (three, _) = train("b", &["--set", "machine.threads=3"]);
    assert!(one == three, "the number of threads changes no bit");
    let (other, _) = train("c", &["--seed", "21"]);
    assert!(one != other && one.len() == other.len());
    // The file is the shipped one in all but its numbers.
    let shipped = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/bundled/recall.gguf")).unwrap();
    assert_eq!(one.len(), shipped.len());
    let header = shipped.windows(9).position(|w| w == b"blk.0.ffn").unwrap();
    assert!(one[..header] == shipped[..header], "metadata and words are the shipped file's");
    // It goes on where it stopped, in a run folder of its own, and is examined.
    let again = room.run(
        0,
        &[
            "train-bundled",
            "--out",
            "a",
            "--exams",
            "1",
            tiny[0],
            tiny[1],
            tiny[2],
            tiny[3],
            tiny[4],
            tiny[5],
            tiny[6],
            tiny[7],
            "--json",
        ],
    );
    let json: serde_json::Value = serde_json::from_str(&again.out).unwrap();
    assert!(json["exact"].as_f64().is_some_and(|share| share < 0.5), "three steps teach nothing: {json}");
    assert_eq!(json["eval"]["needle"]["n"], 5);
    assert!(std::fs::read(room.path("a/recall.gguf")).unwrap() == one);
    assert!(room.path("a/run-1/report.json").is_file() && room.path("a/run-2/report.json").is_file());
    // Another seed is another run, whose state is not taken for this one's.
    let mut args = vec!["train-bundled", "--out", "a", "--seed", "21"];
    args.extend(tiny);
    assert!(room.run(2, &args).err.contains("train.resume"));
}

/// Losses by step, as `events.jsonl` of a run folder tells them; what was cut while it was written is left out.
#[cfg(unix)]
fn losses(room: &Room, folder: &str) -> Vec<(u64, f64)> {
    let text = std::fs::read_to_string(room.path(folder).join("events.jsonl")).unwrap_or_default();
    let events = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    events
        .filter_map(|event| {
            let event = event.get("event").unwrap_or(&event).clone();
            let step = event.get("train_step").unwrap_or(&event);
            Some((step.get("step")?.as_u64()?, step.get("loss").filter(|_| step.get("lr").is_some())?.as_f64()?))
        })
        .collect()
}

/// A state file is there whole or not at all: its header says where every tensor lies, and they fill it to the end.
#[cfg(unix)]
fn state_is_whole(path: &std::path::Path) -> bool {
    let Ok(bytes) = std::fs::read(path) else { return false };
    let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + len]).unwrap();
    let ends = header.as_object().unwrap().values().filter_map(|v| v["data_offsets"][1].as_u64());
    assert_eq!(ends.max().unwrap() as usize, bytes.len() - 8 - len, "the state file ends where its header says");
    true
}

/// A training of `steps` steps into the folder `out`, told of in the run folder `folder`.
#[cfg(unix)]
fn small_training(steps: usize, out: &str, save_every: usize, folder: &str) -> Vec<String> {
    let sets = [
        "train.data=text.txt".to_owned(),
        format!("train.steps={steps}"),
        "train.batch=1".into(),
        "train.length=16".into(),
        "train.lr=0.003".into(),
        "train.warmup=5".into(),
        "train.decay=cosine".into(),
        "train.params=lora".into(),
        "train.params.r=4".into(),
        "train.params.lora_dropout=0.1".into(),
        "train.validate_every=9".into(),
        "train.validate_rows=2".into(),
        "train.resume=true".into(),
        "machine.threads=1".into(),
        format!("train.out={out}"),
        format!("train.save_every={save_every}"),
    ];
    let mut args = vec!["run".to_owned(), "bundled:recall".into(), "--out".into(), folder.into()];
    sets.into_iter().for_each(|s| args.extend(["--set".to_owned(), s]));
    args
}

/// Starts a training and kills it after `wait` steps, somewhere within `share` of the time of one more: compute, save, told or not.
#[cfg(unix)]
fn killed_after(room: &Room, args: &[String], wait: u64, share: f32) {
    use std::io::{BufRead as _, BufReader};
    use std::process::Stdio;
    use std::time::{Duration, Instant};

    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut child = room.command(&args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut each = Duration::from_millis(20);
    let (mut begun, mut left) = (None, wait);
    while left > 0 {
        let line = told.next().expect("it trains until it is killed").unwrap();
        if line.starts_with("step ") && line.contains(": loss") {
            each = begun.map_or(each, |at: Instant| at.elapsed());
            begun = Some(Instant::now());
            left -= 1;
        }
    }
    std::thread::sleep(each.min(Duration::from_millis(300)).mul_f32(share));
    child.kill().unwrap();
    assert!(child.wait().unwrap().code().is_none(), "{args:?} had ended before it was killed");
}

#[cfg(unix)]
#[test]
fn a_training_that_is_killed_again_and_again_is_the_one_that_was_not() {
    use ullage_core::rng::Philox;

    const KILLS: usize = 20;
    // Each life is killed after a few steps, so that there are more steps than lives can make.
    const STEPS: usize = 6 * KILLS + 8;
    let room = Room::new();
    let text: String = (0..60).map(|i| format!("The {i} sparrows of the valley sing {} songs.\n\n", i * 7)).collect();
    room.write("text.txt", text);
    let run = |out: &str, save_every: usize, folder: &str| {
        let args = small_training(STEPS, out, save_every, folder);
        room.run(0, &args.iter().map(String::as_str).collect::<Vec<_>>());
    };
    run("whole", 1, "run");
    let expected = losses(&room, "run");
    assert_eq!(expected.len(), STEPS);

    let random = Philox::new(20);
    let state = room.path("killed/training_state.safetensors");
    let (mut seen, mut unfinished, mut saved) = (Vec::new(), 0, false);
    for life in 0..KILLS as u64 {
        let folder = format!("life-{life}");
        let args = small_training(STEPS, "killed", if life % 2 == 0 { 1 } else { 2 }, &folder);
        killed_after(&room, &args, random.below(4 * life, 5), 1.2 * random.uniform(4 * life + 1));
        let part = |e: &std::fs::DirEntry| e.file_name().to_string_lossy().starts_with(".training_state.");
        unfinished += std::fs::read_dir(room.path("killed")).unwrap().flatten().filter(part).count();
        let whole = state_is_whole(&state);
        assert!(whole || !saved, "life {life} took the state with it");
        saved = whole;
        seen.extend(losses(&room, &folder));
    }
    let last = seen.iter().map(|(step, _)| *step).max();
    eprintln!("{unfinished} of {KILLS} kills fell into a save; step {last:?} was reached");
    assert!(saved && last > Some(KILLS as u64));
    run("killed", 2, "last");
    seen.extend(losses(&room, "last"));
    // What was told, some of it more than once, always had the loss of the run that was left alone.
    for (step, loss) in &seen {
        let expected = expected[*step as usize - 1];
        assert_eq!((*step, loss.to_bits()), (expected.0, expected.1.to_bits()), "step {step}");
    }
    // A kill may come after a step was saved and before it was told.
    let missing = expected.iter().filter(|(step, _)| seen.iter().all(|(s, _)| s != step)).count();
    assert!(missing <= KILLS / 4, "{missing} steps are missing");
    for file in ["training_state.safetensors", "adapter.gguf", "adapter/adapter_model.safetensors"] {
        let read = |dir: &str| std::fs::read(room.path(dir).join(file)).unwrap();
        assert!(read("whole") == read("killed"), "{file}");
    }
}

#[test]
fn every_large_allocation_of_a_training_is_in_the_account() {
    let room = Room::new();
    let sets = [
        "--set",
        "train.data=tokens:4",
        "--set",
        "train.batch=1",
        "--set",
        "train.length=16",
        "--set",
        "train.out=out",
        "--set",
        "train.resume=true",
    ];
    // Many small tensors make long lists and headers: begun, saved, and gone on with.
    for steps in ["train.steps=1", "train.steps=2"] {
        let mut args = vec!["run", "random:smollm2-135m@q4_0", "--set", steps];
        args.extend(sets);
        let report = room.json(0, &args);
        assert_eq!(report["program"]["escaped"], 0, "{steps}: {}", report["program"]);
    }
}

#[test]
fn a_random_model_is_planned_and_trained_on_random_data() {
    let room = Room::new();
    let model = concat!("random:", env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/engine/tiny.json@f32");
    let mut args = vec!["run", model];
    for set in ["train.data=random", "train.steps=2", "train.batch=1", "train.length=16", "train.params.r=4"] {
        args.extend(["--set", set]);
    }
    let report = room.json(0, &args);
    let train = &report["train"];
    // No padding: what was learned from is what was computed. The loss is that of guessing, the held-out one told twice.
    assert_eq!((&train["tokens"], &train["computed"]), (&32.into(), &32.into()), "{train}");
    let loss = train["first_loss"].as_f64().unwrap();
    assert!((loss - 160f64.ln()).abs() < 1.5, "{loss}");
    assert_eq!(train["validation"].as_array().map(Vec::len), Some(1), "{train}");
    assert_eq!(report["config"]["train"]["params"], serde_json::json!({ "use": "lora", "r": 4 }));
    let said = room.run(0, &args).out;
    let held = said.lines().find(|l| l.starts_with("held out loss")).unwrap();
    assert!(!held.contains('→') && held.ends_with("after step 2"), "{held}");
    assert!(said.contains("2 steps, 32 tokens, loss"), "{said}");
    // The plan is that of the run, and text is refused by the name of what there is.
    args[0] = "plan";
    let planned = room.json(0, &args);
    assert_eq!(planned["plan"]["peak"]["device"], report["plan"]["peak"]["device"], "{planned}");
    args[0] = "run";
    args.extend(["--set", "train.data=bundled:task-tova"]);
    let said = room.run(2, &args).err;
    assert!(said.contains("train.data = bundled:task-tova is refused") && said.contains("train.data=random"), "{said}");
    assert!(room.run(0, &["techniques"]).out.contains("\ntrain.data\n  random "));
}

#[test]
fn tokens_a_second_are_those_of_the_data_and_positions_are_named_beside_them() {
    let room = Room::new();
    let train = |sets: &[&str]| {
        let mut args = vec!["run", common::BUNDLED];
        let all = [
            "train.data=bundled:task-tova",
            "train.steps=2",
            "train.batch=1",
            "train.length=40",
            "train.validation=0",
            "train.samples=0",
        ];
        all.iter().chain(sets).for_each(|set| args.extend(["--set", set]));
        (room.json(0, &args)["train"].clone(), room.run(0, &args).out)
    };
    // A phrase a row: the rest of it is padding.
    let (apart, said) = train(&["train.packing=false"]);
    let (tokens, computed) = (apart["tokens"].as_u64().unwrap(), apart["computed"].as_u64().unwrap());
    assert_eq!(computed, 2 * 40);
    assert!(tokens > 16 && tokens < computed, "{apart}");
    let rate = tokens as f64 / 2.0 / apart["step_seconds"].as_f64().unwrap();
    assert!((apart["tokens_per_second"].as_f64().unwrap() / rate - 1.0).abs() < 1e-6, "{apart}");
    assert!(
        said.contains(&format!("{tokens} tokens ({computed} positions computed)")) && said.contains(" positions/s"),
        "{said}"
    );
    // Two passes over each position are one token all the same.
    let (mezo, _) = train(&["train.packing=false", "train.gradient=mezo", "train.params=full", "train.optimizer=sgd"]);
    assert_eq!((mezo["tokens"].as_u64(), mezo["computed"].as_u64()), (Some(tokens), Some(2 * computed)), "{mezo}");
}
