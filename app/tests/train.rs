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
