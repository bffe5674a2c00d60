use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::model::Model;
use crate::train::batch::{Batch, NO_LOSS, Rows};

/// The bundled model's words: byte-level BPE with a beginning and an end of text, and a chat template.
fn recall() -> Words {
    Words::of(&Model::open("bundled:recall", Path::new(".")).unwrap()).unwrap()
}

fn read(name: &str, text: &str, change: impl Fn(&mut Options)) -> Result<Dataset> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(name), text).unwrap();
    let mut options = Options { validation: Validation::Share(0.0), ..Options::new(name) };
    change(&mut options);
    Dataset::open(&options, &recall(), folder.path())
}

/// What is said in document `i`, and what of it is learned.
fn texts(words: &Words, documents: &Documents, i: usize) -> (String, String) {
    let t = words.tokenizer.as_ref().unwrap();
    let text = |learned: bool| {
        let ids = documents.document(i).filter(|(_, l)| *l || !learned).flat_map(|(id, _)| t.piece(id));
        String::from_utf8_lossy(&ids.collect::<Vec<_>>()).into_owned()
    };
    (text(false), text(true))
}

#[test]
fn text_is_documents_by_blank_lines_or_one() {
    let text = "\u{feff}First line,\nsecond line.\n\n \t\r\nThe other.\r\n\n";
    let words = recall();
    let by_lines = read("notes.txt", text, |_| ()).unwrap().train;
    assert_eq!(by_lines.len(), 2);
    assert_eq!(
        texts(&words, &by_lines, 0),
        ("<|bos|>First line,\nsecond line.<|endoftext|>".into(), "First line,\nsecond line.<|endoftext|>".into())
    );
    assert_eq!(texts(&words, &by_lines, 1).1, "The other.<|endoftext|>");
    let whole = read("notes.txt", text, |o| o.split = Split::Whole).unwrap().train;
    assert_eq!(whole.len(), 1);
    assert!(texts(&words, &whole, 0).1.contains("line.\n\n"));
}

#[test]
fn loss_is_on_responses_or_on_all() {
    let lines = concat!(
        r#"{"prompt": "What is up?", "response": "The sky.", "source": 3}"#,
        "\n\n",
        r#"{"instruction": "Add.", "input": "1 2", "output": "3"}"#,
        "\n",
        r#"{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"},"#,
        r#" {"role": "user", "content": "Bye"}, {"role": "assistant", "content": "No."}, {"role": "user", "content": "?"}]}"#,
        "\n",
        r#"{"text": "All of this."}"#,
    );
    let words = recall();
    let got = read("a.jsonl", lines, |_| ()).unwrap().train;
    let expected = [
        ("<|user|>\nWhat is up?<|endoftext|>\n<|assistant|>\nThe sky.<|endoftext|>\n", "The sky.<|endoftext|>\n"),
        ("<|user|>\nAdd.\n\n1 2<|endoftext|>\n<|assistant|>\n3<|endoftext|>\n", "3<|endoftext|>\n"),
        (
            "<|user|>\nHi<|endoftext|>\n<|assistant|>\nYes?<|endoftext|>\n<|user|>\nBye<|endoftext|>\n<|assistant|>\nNo.<|endoftext|>\n",
            "Yes?<|endoftext|>\nNo.<|endoftext|>\n",
        ),
        ("<|bos|>All of this.<|endoftext|>", "All of this.<|endoftext|>"),
    ];
    for (i, (all, learned)) in expected.into_iter().enumerate() {
        assert_eq!(texts(&words, &got, i), (all.into(), learned.into()));
    }
    let all = read("a.jsonl", lines, |o| o.loss_on = LossOn::All).unwrap().train;
    assert_eq!(all.targets(), all.tokens() - all.len());
    let plain = read("a.jsonl", lines.split('\n').next().unwrap(), |o| o.template = false).unwrap().train;
    assert_eq!(
        texts(&words, &plain, 0),
        ("<|bos|>What is up?The sky.<|endoftext|>".into(), "The sky.<|endoftext|>".into())
    );
}

#[test]
fn control_tokens_in_data_are_text_and_a_template_s_own_are_not() {
    let words = recall();
    let t = words.tokenizer.as_ref().unwrap();
    let lines = concat!(
        r#"{"messages": [{"role": "user", "content": "Say <|endoftext|>\n<|user|>"}, {"role": "assistant", "content": "No <|endoftext|>."}]}"#,
        "\n",
        r#"{"prompt": "a<|endoftext|>", "response": "<|user|>b"}"#,
        "\n",
        r#"{"text": "<|bos|>All <|endoftext|> of this."}"#,
    );
    let controls = |documents: &Documents, i: usize| -> Vec<String> {
        let ids = documents.document(i).map(|(id, _)| id).filter(|id| t.is_control(*id));
        ids.map(|id| t.token(id).to_owned()).collect()
    };
    let text = read("a.jsonl", lines, |_| ()).unwrap().train;
    let turn = ["<|user|>", "<|endoftext|>", "<|assistant|>", "<|endoftext|>"];
    assert_eq!(
        (controls(&text, 0), controls(&text, 1)),
        (turn.map(String::from).to_vec(), turn.map(String::from).to_vec())
    );
    assert_eq!(controls(&text, 2), ["<|bos|>", "<|endoftext|>"]);
    // The words are the same, and the response ends by its own end alone.
    assert_eq!(texts(&words, &text, 0).1, "No <|endoftext|>.<|endoftext|>\n");
    let parsed = read("a.jsonl", lines, |o| o.parse_special = true).unwrap().train;
    assert_eq!([0, 1, 2].map(|i| controls(&parsed, i).len()), [7, 6, 4]);
    let plain = read("a.jsonl", lines, |o| (o.parse_special, o.template) = (true, false)).unwrap().train;
    assert_eq!(controls(&plain, 1).len(), 4);
}

#[test]
fn what_is_wrong_is_named_with_file_line_and_field() {
    let good = "{\"text\": \"x y\"}\n";
    for (line, named) in [
        ("{\"prompt\": \"a\"}", &["response", "missing"][..]),
        ("{\"prompt\": \"a\", \"response\": 3}", &["response", "a number"]),
        ("{\"prompt\": \"a\", \"response\": \"\"}", &["response", "empty"]),
        ("{\"instruction\": [], \"output\": \"x\"}", &["instruction", "a list"]),
        ("{\"instruction\": \"a\", \"input\": 1, \"output\": \"x\"}", &["input", "a number"]),
        ("{\"messages\": [{\"role\": \"user\"}]}", &["messages[0].content", "missing"]),
        ("{\"messages\": [3]}", &["messages[0]", "a number"]),
        ("{\"messages\": {}}", &["messages", "an object"]),
        ("{\"question\": \"a\"}", &["`answer`", "missing"]),
        ("{\"title\": \"a\"}", &["`title`", "messages"]),
        ("{}", &["no field"]),
        ("[1]", &["a list"]),
        ("{\"text\": ", &["not JSON", "column"]),
    ] {
        let error = read("data.jsonl", &format!("{good}\n{line}\n"), |_| ()).unwrap_err().to_string();
        for word in named.iter().chain(&["train.data", "data.jsonl:3"]) {
            assert!(error.contains(word), "{line}: {error}");
        }
    }
    let error = read("b.txt", " \n\n", |_| ()).unwrap_err().to_string();
    assert!(error.contains("b.txt") && error.contains("no document"), "{error}");
    let error = Dataset::open(&Options::new("none.jsonl"), &recall(), Path::new("/nowhere")).unwrap_err().to_string();
    assert!(error.contains("/nowhere/none.jsonl"), "{error}");
}

#[test]
fn a_conversation_with_nothing_to_learn_is_left_out_and_counted() {
    let lines = concat!(
        r#"{"messages": []}"#,
        "\n",
        r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#,
        "\n",
        r#"{"messages": [{"role": "user", "content": "c"}]}"#,
        "\n",
    );
    let got = read("a.jsonl", lines, |_| ()).unwrap().train;
    assert_eq!((got.told().records, got.len(), got.left_out()), (3, 1, 2));
    // All of it is learned of one that only asks; of none, nothing.
    let all = read("a.jsonl", lines, |o| o.loss_on = LossOn::All).unwrap().train;
    assert_eq!((all.len(), all.left_out()), (2, 1));
    let none = lines.lines().next().unwrap();
    let error = read("a.jsonl", none, |_| ()).unwrap_err().to_string();
    assert!(error.contains("a.jsonl has no document with anything to learn"), "{error}");
}

#[test]
fn bytes_that_are_no_text_are_named_with_their_place() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("x.txt"), b"fine\nnot \xff fine\n").unwrap();
    let error = Dataset::open(&Options::new("x.txt"), &recall(), folder.path()).unwrap_err().to_string();
    assert!(error.contains("x.txt:2") && error.contains("byte 5") && error.contains("UTF-8"), "{error}");
}

#[test]
fn a_share_is_held_back_by_the_seed_and_nothing_is_in_both() {
    let text: String = (0..50).map(|i| format!("Document {i}.\n\n")).collect();
    let part = |seed| {
        let d = read("t.txt", &text, |o| (o.validation, o.seed) = (Validation::Share(0.1), seed)).unwrap();
        let list = |of: &Documents| (0..of.len()).map(|i| of.document(i).collect::<Vec<_>>()).collect::<Vec<_>>();
        (list(&d.train), list(&d.validation))
    };
    let (train, held) = part(1);
    assert_eq!((train.len(), held.len()), (45, 5));
    assert!(held.iter().all(|d| !train.contains(d)));
    assert_eq!(part(1), (train, held.clone()));
    assert_ne!(part(2).1, held);
    for (fraction, text) in [(1.0, &*text), (-0.5, &text), (0.5, "One.")] {
        let error = read("t.txt", text, |o| o.validation = Validation::Share(fraction)).unwrap_err().to_string();
        assert!(error.contains("train.validation"), "{error}");
    }
    let error = read("t.txt", &text, |o| o.validation = Validation::File("other.jsonl".into())).unwrap_err();
    assert!(error.to_string().contains("train.validation") && error.to_string().contains("other.jsonl"), "{error}");
}

#[test]
fn a_file_of_others_is_held_out_and_stands_in_the_fingerprint() {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    put("t.txt", "One.\n\nTwo.\n\nThree.\n");
    put("held.jsonl", "{\"text\": \"Four.\"}\n{\"text\": \"Five.\"}\n");
    let options = Options { validation: Validation::File("held.jsonl".into()), ..Options::new("t.txt") };
    let open = || Packed::new(Dataset::open(&options, &recall(), folder.path()).unwrap(), 16, true).unwrap();
    let packed = open();
    assert_eq!((packed.documents().len(), packed.held_out_documents().len()), (3, 2));
    let before = packed.fingerprint();
    assert_eq!(before, open().fingerprint());
    // A state of a run with other held-out documents is of other data.
    put("held.jsonl", "{\"text\": \"Four.\"}\n{\"text\": \"Six.\"}\n");
    assert_ne!(before, open().fingerprint());
    put("held.jsonl", "{\"text\": \"Four.\"}\n{\"txt\": \"Five.\"}\n");
    let error = Dataset::open(&options, &recall(), folder.path()).unwrap_err().to_string();
    assert!(error.contains("train.validation") && error.contains("held.jsonl:2"), "{error}");
}

#[test]
fn the_bundled_task_brings_its_own_split() {
    let words = recall();
    let d = Dataset::open(&Options::new("bundled:task-tova"), &words, Path::new(".")).unwrap();
    assert_eq!((d.train.len(), d.validation.len()), (600, 120));
    let (all, learned) = texts(&words, &d.train, 0);
    assert!(all.starts_with("<|bos|>English: the ") && learned.ends_with("\n<|endoftext|>"), "{all}");
    assert!(all.ends_with(&learned) && learned.starts_with(' ') && learned.len() < 40, "{learned}");
}

/// Documents of given lengths, whose tokens all differ: document d, position i is 1000 d + i; every second one is learned.
fn numbered(lengths: &[usize]) -> Documents {
    let mut out = Documents::default();
    for (d, n) in lengths.iter().enumerate() {
        out.push((0..*n).map(|i| ((1000 * d + i) as u32, i % 2 == 1)).collect());
    }
    out
}

const LENGTHS: [usize; 11] = [5, 17, 2, 40, 9, 9, 3, 16, 8, 33, 12];

/// What every batch holds: inputs, the successors of those that are learned, and segments that are one document each.
fn check(batch: &Batch, seen: &mut BTreeMap<u32, usize>) {
    batch.check(1 << 20).unwrap();
    let n = batch.length;
    for i in 0..batch.rows() {
        let (t, token, target) = (i % n, batch.tokens[i], batch.targets[i]);
        if target != NO_LOSS {
            assert_eq!(target, token + 1, "a target is the token after");
            assert_eq!(target % 2, 1, "only what is learned is a target");
            *seen.entry(target).or_default() += 1;
        }
        if t > 0 && batch.segments[i] == batch.segments[i - 1] {
            assert!(token == batch.tokens[i - 1] + 1 || token == 0, "a segment is a stretch of one document");
        } else {
            assert_eq!(batch.segments[i] as usize, t, "a segment is named by where it begins");
        }
    }
}

fn packed(learn: &[usize], held_out: &[usize], length: usize, share: bool) -> Packed {
    Packed::new(Dataset { train: numbered(learn), validation: numbered(held_out) }, length, share).unwrap()
}

#[test]
fn rows_have_each_target_once_however_they_are_packed() {
    for share in [true, false] {
        for length in [4, 16, 64] {
            let data = packed(&LENGTHS, &LENGTHS[..3], length, share);
            let mut seen = BTreeMap::new();
            for row in 0..data.rows() {
                let batch = data.batch(&[row]).unwrap();
                assert_eq!((batch.sequences, batch.length), (1, length));
                check(&batch, &mut seen);
                assert!(batch.counted() > 0, "a row without loss teaches nothing");
                let documents = batch.segments.iter().collect::<std::collections::BTreeSet<_>>().len();
                assert!(share || documents <= 2, "one document and the padding");
            }
            assert_eq!(seen.len(), data.documents().targets(), "share {share}, length {length}");
            assert!(seen.values().all(|n| *n == 1));
            let mut held = BTreeMap::new();
            let all: Vec<usize> = (0..data.held_out()).collect();
            check(&data.held_out_batch(&all).unwrap(), &mut held);
            assert_eq!(held.len(), data.held_out_documents().targets());
        }
    }
}

#[test]
fn rows_come_by_number_in_any_order() {
    let data = packed(&LENGTHS, &[], 16, true);
    let one = |i: usize| data.batch(&[i]).unwrap();
    let three = data.batch(&[2, 0, 2]).unwrap();
    assert_eq!(three.tokens, [one(2).tokens, one(0).tokens, one(2).tokens].concat());
    assert_eq!(three.segments, [one(2).segments, one(0).segments, one(2).segments].concat());
    assert!(data.batch(&[data.rows()]).is_err());
    // Padding is what is beyond a row's documents, and no token of theirs.
    for (data, length) in [(&data, 16), (&packed(&LENGTHS, &[], 64, false), 64)] {
        let whole = data.batch(&(0..data.rows()).collect::<Vec<_>>()).unwrap();
        whole.check(1 << 24).unwrap();
        assert!((whole.real() as f64 / whole.rows() as f64 - data.filled()).abs() < 1e-12, "{length}");
        assert_eq!((whole.rows(), whole.real() < whole.rows()), (data.rows() * length, true));
    }
    assert!(data.held_out_batch(&[0]).is_err());
}

#[test]
fn packing_wastes_little() {
    let lengths: Vec<usize> = (0..400).map(|i| 3 + i * 7 % 29).collect();
    let data = packed(&lengths, &[], 64, true);
    assert!(data.filled() > 0.97, "{}", data.filled());
    assert!(packed(&lengths, &[], 64, false).filled() < 0.3);
}

#[test]
fn the_fingerprint_tells_data_lengths_and_packings_apart() {
    let all = [
        packed(&LENGTHS, &[], 16, true),
        packed(&LENGTHS, &[], 16, false),
        packed(&LENGTHS, &[], 17, true),
        packed(&LENGTHS[1..], &[], 16, true),
        packed(&LENGTHS, &[5], 16, true),
    ];
    for (i, a) in all.iter().enumerate() {
        for (j, b) in all.iter().enumerate() {
            assert_eq!(a.fingerprint() == b.fingerprint(), i == j, "{i} {j}");
        }
    }
    assert_eq!(all[0].fingerprint(), packed(&LENGTHS, &[], 16, true).fingerprint());
}

#[test]
fn what_cannot_be_packed_is_said() {
    let data = |n: &[usize]| Dataset { train: numbered(n), validation: Documents::default() };
    let error = Packed::new(data(&LENGTHS), 0, true).unwrap_err().to_string();
    assert!(error.contains("train.length"), "{error}");
    let error = Packed::new(data(&[]), 4, true).unwrap_err().to_string();
    assert!(error.contains("train.data"), "{error}");
}
