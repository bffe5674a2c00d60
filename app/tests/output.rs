//! What the program writes: never over what it reads or did not write, by one process at a time, and nothing lost on the way.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::{BUNDLED, Room, SHORT};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/bundled/recall.gguf");

/// A short training on a few sentences into the folder `out`.
fn training(room: &Room, out: &str, more: &[&str]) -> Vec<String> {
    if !room.path("text.txt").exists() {
        let text: String = (0..60).map(|i| format!("The {i} herons of the marsh know {} tales.\n\n", i * 7)).collect();
        room.write("text.txt", text);
    }
    let sets = [
        "train.data=text.txt",
        "train.batch=1",
        "train.length=16",
        "train.lr=0.003",
        "train.validation=0.0",
        "train.params=lora",
        "train.params.r=2",
        "train.steps=2",
        "machine.threads=1",
    ];
    let out = format!("train.out={out}");
    let all = sets.iter().chain(more.iter().filter(|s| !s.starts_with("--"))).copied().chain([out.as_str()]);
    let mut args = vec!["run".to_owned(), BUNDLED.into()];
    args.extend(all.flat_map(|set| ["--set".to_owned(), set.to_owned()]));
    args.extend(more.iter().filter(|s| s.starts_with("--")).map(|s| (*s).to_owned()));
    args
}

#[track_caller]
fn run(room: &Room, code: i32, args: &[String]) -> common::Said {
    room.run(code, &args.iter().map(String::as_str).collect::<Vec<_>>())
}

fn files(dir: &Path) -> Vec<String> {
    let mut all: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    all.sort_unstable();
    all
}

/// No lock and no part of a file, which begin with a dot.
fn nothing_left_over(dir: &Path) {
    let left: Vec<_> = files(dir).into_iter().filter(|f| f.starts_with('.') && f != ".ullage").collect();
    assert_eq!(left, Vec::<String>::new());
}

#[test]
fn a_merge_writes_over_neither_its_source_nor_what_it_did_not_write() {
    let room = Room::new();
    std::fs::copy(MODEL, room.path("m.gguf")).unwrap();
    run(&room, 0, &training(&room, "a", &[]));
    let source = std::fs::read(room.path("m.gguf")).unwrap();
    std::fs::hard_link(room.path("m.gguf"), room.path("hard.gguf")).unwrap();
    let mut itself = vec!["m.gguf", "./m.gguf", "a/../m.gguf", "hard.gguf", "a/adapter.gguf"];
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("m.gguf", room.path("soft.gguf")).unwrap();
        itself.push("soft.gguf");
    }
    let adapter = std::fs::read(room.path("a/adapter.gguf")).unwrap();
    for out in itself {
        for force in [&[][..], &["--force"]] {
            let said = room.run(2, &[&["merge", "m.gguf", "a/adapter.gguf", out], force].concat());
            assert!(said.err.contains(out) && said.err.contains("which is read"), "{}", said.err);
        }
    }
    assert!(std::fs::read(room.path("m.gguf")).unwrap() == source);
    assert!(std::fs::read(room.path("a/adapter.gguf")).unwrap() == adapter);
    // Somebody's file stays until it is insisted on; the program's own is made anew.
    room.write("out.gguf", "mine");
    let merge = ["merge", "m.gguf", "a/adapter", "out.gguf"];
    let said = room.run(2, &merge);
    assert!(said.err.contains("out.gguf") && said.err.contains("--force"), "{}", said.err);
    assert_eq!(room.read("out.gguf"), "mine");
    room.run(0, &[&merge[..], &["--force"]].concat());
    let merged = std::fs::read(room.path("out.gguf")).unwrap();
    room.run(0, &merge);
    assert!(std::fs::read(room.path("out.gguf")).unwrap() == merged && merged != source);
    nothing_left_over(&room.0);
    // Adapters in the other layout, by the same rule.
    room.run(2, &["adapter", "m.gguf", "a/adapter", "a/adapter", "--force"]);
    room.run(0, &["adapter", "m.gguf", "a/adapter", "again.gguf"]);
    assert_eq!(std::fs::read(room.path("again.gguf")).unwrap().len(), adapter.len());
    room.run(0, &["adapter", "m.gguf", "again.gguf", "peft"]);
    let weights = |dir: &str| std::fs::read(room.path(dir).join("adapter_model.safetensors")).unwrap();
    assert!(weights("peft") == weights("a/adapter"), "there and back, byte for byte");
    room.write("peft/notes.txt", "mine");
    let said = room.run(2, &["adapter", "m.gguf", "again.gguf", "peft"]);
    assert!(said.err.contains("notes.txt"), "{}", said.err);
    room.run(0, &["adapter", "m.gguf", "again.gguf", "peft", "--force"]);
    assert_eq!(room.read("peft/notes.txt"), "mine", "beside it, it stays even then");
}

#[test]
fn a_training_refuses_a_folder_of_others_before_it_begins() {
    let room = Room::new();
    let foreign: [(&str, &str, &[&str]); 4] = [
        ("one", "adapter/adapter_config.json", &[]),
        ("two", "adapter.gguf", &[]),
        ("three", "training_state.safetensors", &[]),
        ("four", "model/model.safetensors", &["train.params=full"]),
    ];
    for (out, file, more) in foreign {
        std::fs::create_dir_all(room.path(out).join(file).parent().unwrap()).unwrap();
        room.write(&format!("{out}/{file}"), "mine");
        room.write(&format!("{out}/notes.txt"), "mine too");
        // A million steps: it is refused before the first.
        let said = run(&room, 2, &training(&room, out, &[more, &["train.steps=1000000"]].concat()));
        assert!(said.err.contains(file.rsplit('/').next().unwrap()) && said.err.contains("--force"), "{}", said.err);
        assert!(!said.err.contains("step 1"), "{}", said.err);
        assert_eq!(room.read(&format!("{out}/{file}")), "mine");
        nothing_left_over(&room.path(out));
    }
    run(&room, 0, &training(&room, "one", &["--force"]));
    assert_ne!(room.read("one/adapter/adapter_config.json"), "mine");
    assert_eq!(room.read("one/notes.txt"), "mine too");
    // A training that is there is gone on with, or asked for.
    let state = || std::fs::read(room.path("one/training_state.safetensors")).unwrap();
    let before = state();
    let said = run(&room, 2, &training(&room, "one", &["run.seed=5"]));
    assert!(said.err.contains("after step 2") && said.err.contains("train.resume=true"), "{}", said.err);
    assert!(state() == before);
    run(&room, 0, &training(&room, "one", &["run.seed=5", "--force"]));
    assert!(state() != before);
    run(&room, 0, &training(&room, "one", &["run.seed=5", "train.resume=true", "train.steps=3"]));
    // What it learns from is not learned over.
    std::fs::create_dir_all(room.path("data")).unwrap();
    std::fs::copy(room.path("text.txt"), room.path("data/adapter.gguf")).unwrap();
    let said = run(&room, 2, &training(&room, "data", &["train.data=data/adapter.gguf", "--force"]));
    assert!(said.err.contains("which is read"), "{}", said.err);
}

#[test]
fn going_on_with_another_configuration_names_the_keys_and_their_values() {
    let room = Room::new();
    run(&room, 0, &training(&room, "a", &[]));
    let said = |more: &[&str]| run(&room, 2, &training(&room, "a", &[more, &["train.resume=true"]].concat())).err;
    let lr = said(&["train.lr=0.001"]);
    assert!(lr.contains("train.lr is 0.001 here and 0.003 in the saved state; set it as it was"), "{lr}");
    let both = said(&["train.params.r=4", "run.seed=3"]);
    assert!(both.contains("train.params.r is 4 here and 2 in the saved state; run.seed is 3 here and 0"), "{both}");
    // Before anything is read, planned or loaded: data that is gone, and a plan that does not fit, are not come to.
    let early = said(&["train.lr=0.001", "train.data=gone.txt"]);
    assert!(early.contains("train.lr is 0.001 here") && !early.contains("cannot read"), "{early}");
    let early = said(&["train.lr=0.001", "budget.device=64 KiB"]);
    assert!(early.contains("train.lr is 0.001 here"), "{early}");
    let kind = said(&["train.optimizer=lion"]);
    assert!(kind.contains("train.optimizer is \"lion\" here and \"adamw\" in the saved state"), "{kind}");
    room.write("text.txt", "Other words entirely. ".repeat(40));
    let data = said(&[]);
    assert!(data.contains("train.data gives other rows"), "{data}");
    let data = said(&["budget.device=64 KiB"]);
    assert!(data.contains("train.data gives other rows"), "{data}");
}

#[test]
fn run_folders_dumps_and_sweeps_keep_what_is_not_theirs() {
    let room = Room::new();
    let go = |code: i32, args: &[&str]| room.run(code, &[&["run"], args, &SHORT].concat());
    // A report of somebody else's, a configuration that is read, logits that were not dumped here.
    std::fs::create_dir_all(room.path("out")).unwrap();
    room.write("out/report.json", "mine");
    let said = go(2, &[BUNDLED, "--out", "out"]);
    assert!(said.err.contains("report.json") && said.err.contains("--force"), "{}", said.err);
    assert_eq!(files(&room.path("out")), ["report.json"]);
    std::fs::create_dir_all(room.path("here")).unwrap();
    room.write("here/config.toml", "schema = 1\n[model]\npath = \"bundled:recall\"\n");
    let said = go(2, &["here/config.toml", "--out", "here", "--force"]);
    assert!(said.err.contains("which is read"), "{}", said.err);
    std::fs::create_dir_all(room.path("dump")).unwrap();
    room.write("dump/logits.safetensors", "mine");
    let said = go(2, &[BUNDLED, "--dump"]);
    assert!(said.err.contains("logits.safetensors") && said.err.contains("--force"), "{}", said.err);
    assert_eq!(room.read("dump/logits.safetensors"), "mine");
    go(0, &[BUNDLED, "--dump", "--force"]);
    go(0, &[BUNDLED, "--dump"]);
    assert_eq!(files(&room.path("dump")), [".ullage", "logits.safetensors"]);
    // A run is replaced by its own files, when it is insisted on.
    go(0, &[BUNDLED, "--out", "run"]);
    room.write("run/notes.txt", "mine");
    assert!(go(2, &[BUNDLED, "--out", "run"]).err.contains("run already holds a run"));
    go(0, &[BUNDLED, "--out", "run", "--force"]);
    assert_eq!(room.read("run/notes.txt"), "mine");
    // A sweep's points go on where they were, and leave alone what lies beside.
    let sweep = |code: i32, more: &[&str]| {
        room.run(code, &[&["sweep", BUNDLED, "--over", "kv.alloc=contiguous,paged"], more, &SHORT].concat())
    };
    sweep(0, &[]);
    let point = "sweep/000-alloc=contiguous";
    room.write(&format!("{point}/notes.txt"), "mine");
    assert!(sweep(0, &[]).err.contains("kept"));
    sweep(0, &["--set", "run.seed=9"]);
    assert_eq!(room.read(&format!("{point}/notes.txt")), "mine");
    room.write(&format!("{point}/report.json"), "mine");
    assert!(sweep(2, &["--set", "run.seed=10"]).err.contains("report.json"));
    room.write("sweep/sweep.csv", "mine");
    assert!(sweep(2, &[]).err.contains("sweep.csv"));
    assert_eq!(
        (room.read("sweep/sweep.csv"), room.read(&format!("{point}/report.json"))),
        ("mine".into(), "mine".into())
    );
    sweep(0, &["--force"]);
    nothing_left_over(&room.path("sweep"));
}

#[cfg(unix)]
mod signals {
    use std::io::{BufRead as _, BufReader};
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// Starts a training and waits for `steps` lines of steps.
    fn begun(room: &Room, args: &[String], steps: usize) -> (Child, BufReader<std::process::ChildStderr>) {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut child = room.command(&args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut told = BufReader::new(child.stderr.take().unwrap());
        let (mut seen, mut all) = (0, String::new());
        while seen < steps {
            let from = all.len();
            assert!(told.read_line(&mut all).unwrap() > 0, "it ended: {all}");
            seen += usize::from(all[from..].contains(": loss"));
        }
        (child, told)
    }

    fn signal(child: &Child, name: &str) {
        assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
    }

    fn rest(mut child: Child, mut told: BufReader<std::process::ChildStderr>) -> (Option<i32>, String) {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut told, &mut text).unwrap();
        (child.wait().unwrap().code(), text)
    }

    #[test]
    fn two_trainings_do_not_share_a_folder_and_a_killed_one_leaves_it_free() {
        let room = Room::new();
        let (child, told) = begun(&room, &training(&room, "a", &["train.steps=1000000"]), 1);
        let said = run(&room, 2, &training(&room, "a", &[]));
        let process = child.id().to_string();
        for words in ["another run of this program", &process, room.0.file_name().unwrap().to_str().unwrap()] {
            assert!(said.err.contains(words), "{words}: {}", said.err);
        }
        signal(&child, "-KILL");
        assert_eq!(rest(child, told).0, None);
        assert!(room.path("a/.training.lock").exists(), "a killed process takes its lock with it, and not its file");
        run(&room, 0, &training(&room, "a", &[]));
        nothing_left_over(&room.path("a"));
    }

    /// However the step is made and wherever in it the signal falls, going on ends with the bytes of a run left alone.
    #[test]
    fn ctrl_c_leaves_the_last_step_and_going_on_ends_as_if_it_had_not_been() {
        let room = Room::new();
        let kinds: [(&str, &[&str]); 4] = [
            ("held", &["train.accumulate=2"]),
            ("layer", &["train.grad_hold=layer"]),
            (
                "mezo",
                &[
                    "train.gradient=mezo",
                    "train.optimizer={ use = \"sgd\", momentum = 0.0 }",
                    "train.clip={ by = \"none\", at = 1.0 }",
                ],
            ),
            ("dropout", &["train.params.lora_dropout=0.2", "train.grad_hold=matrix", "train.optimizer=lion"]),
        ];
        for (kind, more) in kinds {
            let with = |steps: u64, out: &str| {
                let steps = format!("train.steps={steps}");
                training(&room, out, &[more, &["train.length=8", "train.resume=true", &steps]].concat())
            };
            let mut last = 0;
            for life in 0..2 {
                let (child, told) = begun(&room, &with(1_000_000, kind), 1);
                std::thread::sleep(std::time::Duration::from_millis(3 * life));
                signal(&child, "-INT");
                let (code, text) = rest(child, told);
                assert_eq!(code, Some(1), "{kind}: {text}");
                assert!(text.contains("error: cancelled"), "{kind}: {text}");
                let saved = text.lines().find_map(|l| l.strip_prefix("step ")?.split_once(": saved in")).unwrap().0;
                let saved: u64 = saved.parse().unwrap();
                assert!(saved > last, "{kind}: {text}");
                last = saved;
                nothing_left_over(&room.path(kind));
            }
            assert!(!room.path(kind).join("adapter.gguf").exists());
            run(&room, 0, &with(last + 1, kind));
            let whole = format!("{kind}-whole");
            run(&room, 0, &with(last + 1, &whole));
            for file in ["training_state.safetensors", "adapter.gguf", "adapter/adapter_model.safetensors"] {
                let read = |dir: &str| std::fs::read(room.path(dir).join(file)).unwrap();
                assert!(read(&whole) == read(kind), "{kind}: {file}");
            }
        }
    }

    /// Files may grow to 64 KiB and no further: as with a full disk, the write fails in its middle.
    #[test]
    fn a_write_that_finds_no_room_leaves_the_old_file_and_no_part_and_says_what_to_do() {
        let room = Room::new();
        std::fs::copy(MODEL, room.path("m.gguf")).unwrap();
        run(&room, 0, &training(&room, "a", &[]));
        room.run(0, &["merge", "m.gguf", "a/adapter.gguf", "out.gguf"]);
        let tight = |args: &[&str]| {
            let mut shell = Command::new("bash");
            shell.args(["-c", "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_ullage")]);
            shell.args(args).current_dir(&room.0).env("XDG_CACHE_HOME", room.path("cache"));
            let done = shell.env("ULLAGE_MACHINE", room.path("machine.json")).output().unwrap();
            (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned())
        };
        let all = || {
            ["out.gguf", "a/training_state.safetensors", "a/adapter.gguf", "a/adapter/adapter_model.safetensors"]
                .map(|file| std::fs::read(room.path(file)).unwrap())
        };
        let before = all();
        let (code, said) = tight(&["merge", "m.gguf", "a/adapter.gguf", "out.gguf", "--scale", "0.5"]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("out.gguf") && said.contains("free some space"), "{said}");
        let more = training(&room, "a", &["train.resume=true", "train.steps=3"]);
        let (code, said) = tight(&more.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("training_state.safetensors") && said.contains("free some space"), "{said}");
        assert!(all() == before);
        nothing_left_over(&room.0);
        nothing_left_over(&room.path("a"));
        // With room again, all of it goes on.
        room.run(0, &["merge", "m.gguf", "a/adapter.gguf", "out.gguf", "--scale", "0.5"]);
        run(&room, 0, &more);
        assert!(all() != before);
    }
}
