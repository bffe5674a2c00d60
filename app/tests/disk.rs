//! The wall on the disk, from the command line: planned, shown, and never crossed.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::{BUNDLED, Room};

fn bytes(dir: &Path) -> Vec<u64> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().map(|e| e.unwrap());
    entries.filter(|e| e.file_name() != ".ullage").map(|e| e.metadata().unwrap().len()).collect()
}

#[test]
fn saved_reference_logits_are_planned_where_they_are_not_there_yet() {
    const ROW: &str = "disk.logits.saved reference logits";
    let room = Room::new();
    let sets = [
        "run.max_tokens=1",
        "run.context=64",
        "eval.fidelity.windows=2",
        "eval.fidelity.prompt=16",
        "eval.fidelity.tokens=6",
    ];
    let args = |command: &'static str, more: &[&str]| -> Vec<String> {
        let sets = sets.iter().chain(more).flat_map(|set| ["--set".to_owned(), (*set).to_owned()]);
        [command.to_owned(), BUNDLED.into()].into_iter().chain(sets).collect()
    };
    let json = |code, command, more: &[&str]| {
        let args = args(command, more);
        room.json(code, &args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let cache = room.path("cache/ullage/reference");
    let planned = json(0, "plan", &[])["plan"]["rows"][ROW].as_u64().unwrap();
    // A byte less: neither planned nor run, and nothing is written.
    let less = format!("budget.disk={} B", planned - 1);
    for command in ["plan", "run"] {
        let refused = json(3, command, &[&less]);
        let said =
            refused.pointer("/error/hint").or(refused.pointer("/over/hint")).unwrap().as_str().unwrap().to_owned();
        assert!(said.contains(&format!("budget.disk='{planned} B'")) && said.contains("eval.fidelity"), "{said}");
        assert_eq!(bytes(&cache), [0u64; 0], "{command}");
    }
    let text = args("run", &[&less]);
    let said = room.run(3, &text.iter().map(String::as_str).collect::<Vec<_>>()).err;
    assert!(said.contains("saved reference logits") && said.contains("disk needs"), "{said}");
    // Exactly that: it is what is written.
    let exact = format!("budget.disk={planned} B");
    let report = json(0, "run", &[&exact]);
    assert_eq!(report["measured"]["rows"][ROW], planned);
    assert_eq!(bytes(&cache), [planned]);
    assert_eq!(
        (&report["plan"]["peak"]["disk"], &report["measured"]["peak"]["disk"]),
        (&planned.into(), &planned.into())
    );
    // Saved, it is not written again: there is nothing on the disk, and nothing of it in the table.
    let report = json(0, "run", &["budget.disk=0 B"]);
    assert!(report["plan"]["peak"]["disk"].is_null() && report["measured"]["peak"]["disk"].is_null());
    let text = args("run", &[]);
    assert!(!room.run(0, &text.iter().map(String::as_str).collect::<Vec<_>>()).out.contains("\ndisk "));
}

#[test]
fn a_run_folder_stops_at_the_wall_and_is_in_the_table() {
    let room = Room::new();
    let said = room.run(0, &["run", BUNDLED, "--set", "run.max_tokens=4", "--dump", "--out", "small"]);
    assert!(said.out.contains("\ndisk     logits") && said.out.contains("\ndisk     store"), "{}", said.out);
    let report: serde_json::Value = serde_json::from_str(&room.read("small/report.json")).unwrap();
    let row = |of: &str| report[of]["rows"]["disk.store.run folder"].as_u64().unwrap();
    let told = bytes(&room.path("small")).iter().sum::<u64>();
    assert!(0 < row("measured") && row("measured") < told && told < row("plan"), "{told} {report}");
    // What is shown of attention is more than is allowed for: a wall that the plan keeps ends the run.
    let shown = [
        "run",
        BUNDLED,
        "--out",
        "large",
        "--set",
        "run.max_tokens=400",
        "--set",
        "run.ignore_eos=true",
        "--set",
        "observe.attention=thumbnails",
        "--set",
        "budget.disk=256 KiB",
    ];
    let said = room.run(3, &shown);
    assert!(said.err.contains("run folder") && said.err.contains("--out"), "{}", said.err);
    let kept: u64 = bytes(&room.path("large")).iter().sum();
    assert!((128 << 10..=256 << 10).contains(&kept), "{kept}");
    // What is there opens.
    room.run(0, &["open", "large"]);
    room.run(0, &[&shown[..shown.len() - 1], &["budget.disk=64 MiB", "--force"]].concat());
}
