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
        ("{\"messages\": []}", &["messages", "empty"]),
        ("{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}", &["messages", "assistant"]),
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

/// What is said and what is learned in each document of a file.
fn said(name: &str, content: &[u8]) -> Vec<(String, String)> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(name), content).unwrap();
    let options = Options { validation: Validation::Share(0.0), ..Options::new(name) };
    let got = Dataset::open(&options, &recall(), folder.path()).unwrap_or_else(|e| panic!("{name}: {e}")).train;
    let words = recall();
    (0..got.len()).map(|i| texts(&words, &got, i)).collect()
}

const ASKED: &str = "<|user|>\nHi?<|endoftext|>\n<|assistant|>\n";

#[test]
fn a_file_is_what_its_content_says() {
    let one = vec![(format!("{ASKED}Yes<|endoftext|>\n"), "Yes<|endoftext|>\n".to_owned())];
    let line = r#"{"prompt": "Hi?", "response": "Yes"}"#;
    let utf16 = |big: bool| -> Vec<u8> {
        let unit = |u: u16| if big { u.to_be_bytes() } else { u.to_le_bytes() };
        format!("\u{feff}{line}\n").encode_utf16().flat_map(unit).collect()
    };
    let files: [(&str, Vec<u8>); 16] = [
        ("a.jsonl", line.into()),
        ("A.JSONL", format!("{line}\r\n\r\n").into()),
        ("a.json", line.into()),
        ("a.txt", format!("\n {line}").into()),
        ("no-ending", line.into()),
        ("bom.txt", format!("\u{feff}{line}").into()),
        ("le.jsonl", utf16(false)),
        ("be.txt", utf16(true)),
        ("list.json", format!("[{line}]").into()),
        ("list.jsonl", format!("\n[\n  {line}\n]\n").into()),
        ("list.txt", format!("[ {line} ]").into()),
        ("pretty.jsonl", "{\n  \"prompt\": \"Hi?\",\n  \"response\":\n    \"Yes\"\n}\n".into()),
        ("table.csv", "response,prompt\nYes,Hi?\n".into()),
        ("table.txt", "prompt\tresponse\r\n\"Hi?\"\tYes\r\n".into()),
        ("semicolons", "id;prompt;response\n1;Hi?;Yes\n".into()),
        ("turns.csv", "messages\n\"[{\"\"role\"\": \"\"user\"\", \"\"content\"\": \"\"Hi?\"\"}, {\"\"role\"\": \"\"assistant\"\", \"\"content\"\": \"\"Yes\"\"}]\"\n".into()),
    ];
    for (name, content) in files {
        assert_eq!(said(name, &content), one, "{name}");
    }
    // Text that only looks like something else.
    for text in ["[INST] Hi [/INST]", "{ not an object", "prompt, response and more", "[1, 2]", "text\nand more of it"]
    {
        let got = said("notes.txt", text.as_bytes());
        assert_eq!(got[0].1, format!("{text}<|endoftext|>"), "{text}");
    }
    // Two on a line, and lists over many lines; one text to a cell, commas and line ends in it.
    assert_eq!(said("two.jsonl", format!("{line}{line}\n{line}").as_bytes()).len(), 3);
    assert_eq!(said("list.json", format!("[\n{line},\n{line}\n,{line}]").as_bytes()).len(), 3);
    assert_eq!(said("t.csv", b"text\n\"a, b\nc\"\nd\n")[0].1, "a, b\nc<|endoftext|>");
    assert_eq!(said("crlf.txt", b"one\r\ntwo\r\n\r\nthree")[0].1, "one\ntwo<|endoftext|>");
}

#[test]
fn every_form_of_a_record_is_read() {
    let turn = |role: &str, text: &str| format!("<|{role}|>\n{text}<|endoftext|>\n");
    let whole = [turn("user", "Hi?"), turn("assistant", "Yes")].concat();
    let before = [turn("system", "Be brief."), whole.clone()].concat();
    let earlier = [turn("user", "A"), turn("assistant", "B"), whole.clone()].concat();
    let yes = "Yes<|endoftext|>\n";
    let both = "B<|endoftext|>\nYes<|endoftext|>\n";
    for (record, all, learned) in [
        (r#"{"prompt": "Hi?", "completion": "Yes"}"#, &whole, yes),
        (r#"{"question": "Hi?", "answer": "Yes"}"#, &whole, yes),
        (r#"{"query": "Hi?", "response": "Yes"}"#, &whole, yes),
        (r#"{"input": "Hi?", "output": "Yes"}"#, &whole, yes),
        (r#"{"instruction": "Hi?", "input": null, "output": "Yes", "text": "as one"}"#, &whole, yes),
        (r#"{"conversations": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Yes"}]}"#, &whole, yes),
        (r#"{"messages": [{"role": "human", "content": "Hi?"}, {"role": "model", "content": "Yes"}]}"#, &whole, yes),
        (
            r#"{"prompt": [{"role": "user", "content": "Hi?"}], "completion": [{"role": "assistant", "content": "Yes"}]}"#,
            &whole,
            yes,
        ),
        (r#"{"prompt": [{"role": "user", "content": "Hi?"}], "response": "Yes"}"#, &whole, yes),
        (
            r#"{"messages": [{"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i?"}]}, {"role": "assistant", "content": "Yes"}]}"#,
            &whole,
            yes,
        ),
        (r#"{"instruction": "Hi?", "output": "Yes", "system": "Be brief."}"#, &before, yes),
        (r#"{"system": "Be brief.", "prompt": "Hi?", "response": "Yes"}"#, &before, yes),
        (
            r#"{"system": "Be brief.", "conversations": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Yes"}]}"#,
            &before,
            yes,
        ),
        (r#"{"instruction": "Hi?", "output": "Yes", "history": [["A", "B"]], "system": ""}"#, &earlier, both),
        (
            r#"{"messages": [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B", "weight": 0}, {"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Yes", "weight": 1}]}"#,
            &earlier,
            yes,
        ),
        // An earlier answer of a prompt is part of what is asked.
        (
            r#"{"prompt": [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}, {"role": "user", "content": "Hi?"}], "completion": [{"role": "assistant", "content": "Yes"}]}"#,
            &earlier,
            yes,
        ),
    ] {
        let got = said("a.jsonl", record.as_bytes());
        assert_eq!(got, [(all.clone(), learned.to_owned())], "{record}");
    }
    // What is called and not said is not learned, and what follows is.
    let called = r#"{"messages": [{"role": "user", "content": "A"}, {"role": "assistant", "content": null, "tool_calls": [{"id": "1"}]}, {"role": "tool", "content": "x"}, {"role": "assistant", "content": "Yes"}]}"#;
    assert_eq!(said("a.jsonl", called.as_bytes())[0].1, yes);
}

#[test]
fn what_is_not_used_is_named_and_counted() {
    let lines = concat!(
        r#"{"prompt": "a", "response": "b", "source": "x", "rating": 3, "nothing": null, "text": ""}"#,
        "\n",
        r#"{"messages": [{"role": "user", "content": "a", "name": "Bo"}, {"role": "assistant", "content": "b", "tool_calls": null}], "tools": [{}], "rating": 1}"#,
        "\n",
        r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]}"#,
        "\n",
        r#"{"text": "a long text of more tokens than a row of four has"}"#,
    );
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.jsonl"), lines).unwrap();
    let options = Options { validation: Validation::Share(0.0), ..Options::new("a.jsonl") };
    let open = |length| Packed::new(Dataset::open(&options, &recall(), folder.path()).unwrap(), length, true).unwrap();
    let packed = open(4);
    let told = packed.documents().told();
    assert_eq!(
        (told.kind, told.records, packed.documents().len(), packed.documents().left_out()),
        ("JSON lines", 4, 3, 1)
    );
    let counts: Vec<_> = told.unused.iter().map(|(name, n)| (name.as_str(), *n)).collect();
    assert_eq!(counts, [("messages[].name", 1), ("rating", 2), ("source", 1), ("tools", 1)]);
    let said = packed.remarks();
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(said[0].contains("4 records") && said[0].contains("`rating` (2), `messages[].name` (1)"), "{said:?}");
    assert!(said[1].contains("1 records have nothing to learn"), "{said:?}");
    let longest = packed.documents().longest();
    assert!(
        said[2].contains("3 of 3 documents are longer than train.length = 4") && said[2].contains(&longest.to_string()),
        "{said:?}"
    );
    assert_eq!(open(256).remarks().len(), 2);
    assert_eq!((packed.documents().longer_than(longest - 1), packed.documents().longer_than(longest - 2)), (0, 1));
}

#[test]
fn what_cannot_be_read_says_what_to_do() {
    let fails = |name: &str, content: &[u8], words: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(name), content).unwrap();
        let error = Dataset::open(&Options::new(name), &recall(), folder.path()).unwrap_err().to_string();
        for word in words.iter().chain(&[name, "train.data"]) {
            assert!(error.contains(word), "{word}: {error}");
        }
    };
    fails("a.jsonl.gz", &[0x1f, 0x8b, 8, 0], &["gzip", "gunzip"]);
    fails("a.parquet", b"PAR1....", &["Parquet", "to_json"]);
    fails("a.zip", b"PK\x03\x04", &["unpack"]);
    fails("a.json", b"[{\"text\": \"a\"},\n {\"text\": \"b\"}", &["a.json:2", "cut short"]);
    fails("a.json", b"[{\"text\": \"a\"}]\n\n{}", &["a.json:3", "after its list"]);
    fails("a.json", b"[{\"text\": \"a\"},\n{\"text\": \"b}]\n", &["a.json:2", "not JSON"]);
    fails("a.jsonl", b"{\"text\": \"a\"}\n{\"text\": NaN}\n", &["a.jsonl:2", "not JSON"]);
    fails("a.jsonl", b"{\"text\": \"a\"}\n{\"text\": \"\xff\"}\n", &["a.jsonl:2", "UTF-8", "byte 11"]);
    fails("a.csv", b"one,two\n1,2\n", &["a.csv:2", "`one`", "`two`"]);
    fails("a.csv", b"prompt,response\na,b\nc\n", &["a.csv:3", "no row"]);
    fails("a.jsonl", b"{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}", &["response", "missing"]);
    fails("a.jsonl", b"{\"chosen\": \"b\", \"rejected\": \"c\"}", &["prefer"]);
    let turn = |more: &str| format!("{{\"messages\": [{{\"role\": \"assistant\", \"content\": \"b\"{more}}}]}}");
    fails("a.jsonl", turn(", \"weight\": 0.5").as_bytes(), &["messages[0].weight", "0.5"]);
    fails(
        "a.jsonl",
        turn("").replace("\"b\"", "[{\"type\": \"image\"}]").as_bytes(),
        &["messages[0].content[0]", "image"],
    );
    fails("a.jsonl", turn("").replace("\"b\"", "null").as_bytes(), &["messages[0].content", "null"]);
    fails("a.jsonl", b"{\"prompt\": \"a\", \"response\": \"b\", \"history\": [[\"x\"]]}", &["history[0]", "two texts"]);
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
