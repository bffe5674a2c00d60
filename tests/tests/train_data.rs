//! Files of training data as people have them: told by their content, in every form of a record, with what is not used named.
#![allow(clippy::unwrap_used, reason = "tests: a panic is the failure")]

use std::path::Path;

use ullage_core::config::train::Validation;
use ullage_core::model::Model;
use ullage_core::model::text::Words;
use ullage_core::train::data::{Dataset, Documents, Options, Packed};

/// The bundled model's words: byte-level BPE with a beginning and an end of text, and a chat template.
fn recall() -> Words {
    Words::of(&Model::open("bundled:recall", Path::new(".")).unwrap()).unwrap()
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
    fails("a.parquet", b"PAR1....", &["Parquet", "cut short"]);
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

/// SmolLM2's template writes a system message of its own before a conversation that brings none: not yet, where there is no message.
#[test]
fn a_conversation_may_begin_with_the_assistant() {
    let Some(model) = ullage_tests::smollm2() else { return };
    let words = Words::of(&model).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let talk = r#"{"conversations": [{"from": "gpt", "value": "Hello."}, {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "x?"}]}"#;
    std::fs::write(folder.path().join("talk.jsonl"), talk).unwrap();
    let options = Options { validation: Validation::Share(0.0), ..Options::new("talk.jsonl") };
    let got = Dataset::open(&options, &words, folder.path()).unwrap().train;
    let (all, learned) = texts(&words, &got, 0);
    assert!(all.starts_with("<|im_start|>system\n"), "{all}");
    assert_eq!(learned, "Hello.<|im_end|>\nx?<|im_end|>\n");
}
