//! Parquet tables read as the rows that pyarrow reads from them (`tests/scripts/make_parquet.py`), and damaged ones refused; calls and
//! tools of a row as the template writes them.
#![allow(clippy::unwrap_used, reason = "tests: a panic is the failure")]

use std::fs;
use std::path::Path;

use ullage_core::blocks::{self, BlockType};
use ullage_core::config::train::{LossOn, Validation};
use ullage_core::model::Model;
use ullage_core::model::hf::save;
use ullage_core::model::text::Words;
use ullage_core::shape::TensorShape;
use ullage_core::train::data::preview::preview;
use ullage_core::train::data::{Dataset, Documents, Options};
use ullage_tests::{bundled, fixture};

fn words() -> Words {
    Words::of(&Model::open("bundled:recall", Path::new(".")).unwrap()).unwrap()
}

fn read(words: &Words, path: &Path) -> ullage_core::Result<Documents> {
    read_by(words, path, LossOn::Responses)
}

fn read_by(words: &Words, path: &Path, loss_on: LossOn) -> ullage_core::Result<Documents> {
    let options = Options { validation: Validation::Share(0.0), loss_on, ..Options::new(path.to_str().unwrap()) };
    Dataset::open(&options, words, Path::new(".")).map(|set| set.train)
}

fn same(a: &Documents, b: &Documents) -> bool {
    a.len() == b.len() && (0..a.len()).all(|i| a.document(i).eq(b.document(i)))
}

#[test]
fn a_parquet_table_is_the_rows_that_pyarrow_reads() {
    let (words, dir) = (words(), fixture("parquet"));
    let mut tables = 0;
    for entry in fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "parquet") {
            continue;
        }
        let (table, lines) = (read(&words, &path).unwrap(), read(&words, &path.with_extension("jsonl")).unwrap());
        assert!(same(&table, &lines) && !table.is_empty(), "{}", path.display());
        assert_eq!((table.told().kind, lines.told().kind), ("a table (Parquet)", "JSON lines"));
        assert_eq!(table.told().records, lines.told().records);
        let names = |d: &Documents| d.told().unused.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&table), names(&lines), "{}", path.display());
        tables += 1;
    }
    assert_eq!(tables, 7);
    // Every key of a turn, and none that the row has not: a template that writes whole turns.
    let other = tempfile::tempdir().unwrap();
    let model = other.path().join("model");
    with_template(&model, "qwen2.5.jinja");
    fs::write(model.join("chat_template.jinja"), "{% for m in messages %}{{ m|tojson }}{% endfor %}{{ tools|tojson }}")
        .unwrap();
    let whole = Words::of(&Model::open(model.to_str().unwrap(), Path::new(".")).unwrap()).unwrap();
    for name in ["chats-snappy", "chats-zstd", "talks-none"] {
        let of = |end: &str| read_by(&whole, &dir.join(format!("{name}.{end}")), LossOn::All).unwrap();
        let (table, lines) = (of("parquet"), of("jsonl"));
        assert!(same(&table, &lines), "{name}: {:?}", said(&whole, &table, 0));
    }
    // By what it holds and not by its name.
    let path = other.path().join("rows.txt");
    fs::copy(dir.join("pairs-gzip.parquet"), &path).unwrap();
    assert_eq!(read(&words, &path).unwrap().len(), 30);
}

/// The whole of an error of a table with these bytes.
fn refused(words: &Words, path: &Path, bytes: &[u8]) -> Option<String> {
    fs::write(path, bytes).unwrap();
    let e = read(words, path).err()?;
    let text = e.to_string();
    assert!(e.exit_code() == 2 && text.contains(path.file_name().unwrap().to_str().unwrap()), "{text}");
    Some(text)
}

#[test]
fn a_damaged_table_is_an_error_that_names_it() {
    let (words, folder) = (words(), tempfile::tempdir().unwrap());
    let path = folder.path().join("bad.parquet");
    for name in ["chats-snappy", "chats-zstd", "texts-lz4", "talks-none"] {
        let whole = fs::read(fixture("parquet").join(format!("{name}.parquet"))).unwrap();
        for cut in [0, 3, 4, 11, 12, whole.len() / 2, whole.len() - 1] {
            assert!(refused(&words, &path, &whole[..cut]).is_some() || cut < 4, "{name} {cut}");
        }
        // A byte at a time: whatever comes out, it is no panic (what it costs is measured by `fuzz.rs`).
        for at in (0..whole.len()).step_by(23) {
            for flip in [0xff, 0x01] {
                let mut bytes = whole.clone();
                bytes[at] ^= flip;
                refused(&words, &path, &bytes);
            }
        }
    }
    let gone = |words_: &[&str], bytes: &[u8]| {
        let text = refused(&words, &path, bytes).unwrap();
        assert!(words_.iter().all(|w| text.contains(w)), "{text}");
    };
    gone(&["cut short"], b"PAR1....");
    gone(&["footer", "damaged"], &[b"PAR1".as_slice(), &[0x15; 64], &64u32.to_le_bytes(), b"PAR1"].concat());
    gone(&["footer", "4294967295"], &[b"PAR1".as_slice(), &[0; 64], &u32::MAX.to_le_bytes(), b"PAR1"].concat());
}

/// The bundled model as a folder with another template.
fn with_template(dir: &Path, template: &str) -> Words {
    let (model, mut raw) = (bundled(), Vec::new());
    save(dir, &model, BlockType::F16, &mut |t: &TensorShape, first, n, out: &mut [f32]| {
        raw.resize(n * t.row_bytes(), 0);
        model.source.read_rows(t, first, n, &mut raw)?;
        blocks::decode(t.block()?, &raw, out)?;
        Ok(())
    })
    .unwrap();
    fs::copy(fixture("templates").join(template), dir.join("chat_template.jinja")).unwrap();
    Words::of(&Model::open(dir.to_str().unwrap(), Path::new(".")).unwrap()).unwrap()
}

/// What document `i` says, and what of it is learned.
fn said(words: &Words, documents: &Documents, i: usize) -> (String, String) {
    let t = words.tokenizer.as_ref().unwrap();
    let text = |learned: bool| {
        let ids = documents.document(i).filter(|(_, l)| *l || !learned).flat_map(|(id, _)| t.piece(id));
        String::from_utf8_lossy(&ids.collect::<Vec<_>>()).into_owned()
    };
    (text(false), text(true))
}

const CALLED: &str = r#"{"messages": [{"role": "user", "content": "Add.", "name": "Bo"}, {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"b": 1, "a": 2}}}]}, {"role": "tool", "content": "3"}, {"role": "assistant", "content": "It is 3."}], "tools": TOOLS, "id": 7}"#;

#[test]
fn calls_and_tools_are_learned_as_the_template_writes_them_and_named_where_it_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    let tools = r#"[{"type": "function", "function": {"name": "add"}}]"#;
    let write = |tools: &str| fs::write(&path, CALLED.replace("TOOLS", tools)).unwrap();
    let model = folder.path().join("model");
    let words = with_template(&model, "qwen2.5.jinja");
    // Tables often hold tools as the text that they were written as.
    for tools in [tools.to_owned(), serde_json::to_string(tools).unwrap()] {
        write(&tools);
        let got = read(&words, &path).unwrap();
        let (all, learned) = said(&words, &got, 0);
        assert!(all.contains(r#"{"type": "function", "function": {"name": "add"}}"#), "{all}");
        assert!(all.contains("<|im_start|>user\n<tool_response>\n3\n</tool_response>"), "{all}");
        let call = "\n<tool_call>\n{\"name\": \"add\", \"arguments\": {\"b\": 1, \"a\": 2}}\n</tool_call><|im_end|>\n";
        assert_eq!(
            learned.replace("<tool_call>", "\n<tool_call>").replace("\n\n", "\n"),
            format!("{call}It is 3.<|im_end|>\n")
        );
        let unused: Vec<_> = got.told().unused.iter().collect();
        assert_eq!(unused, [(&"id".to_owned(), &1), (&"messages[].name".to_owned(), &1)]);
    }
    // A template without a word for them: the call is nothing to learn, and all are named.
    write(tools);
    let words = self::words();
    let got = read(&words, &path).unwrap();
    assert_eq!(said(&words, &got, 0).1, "It is 3.<|endoftext|>\n");
    let unused: Vec<_> = got.told().unused.keys().map(String::as_str).collect();
    assert_eq!(unused, ["id", "messages[].name", "messages[].tool_calls", "tools"]);
    for (tools, word) in [("{}", "a list of objects"), ("[1]", "item 0 is a number"), ("\"[\"", "not JSON")] {
        write(tools);
        let e = read(&words, &path).unwrap_err().to_string();
        assert!(e.contains("`tools`") && e.contains(word) && e.contains("a.jsonl:1"), "{e}");
    }
}

#[test]
fn what_is_shown_before_training_is_what_is_learned() {
    let path = fixture("parquet").join("chats-snappy.parquet");
    let words = words();
    let config = |sets: &[(&str, &str)]| {
        let sets: Vec<_> = sets.iter().map(|(k, v)| (format!("train.{k}"), (*v).to_owned())).collect();
        ullage_core::catalog::from_toml("", &sets).unwrap().train.unwrap()
    };
    let documents = read(&words, &path).unwrap();
    // A row has one token fewer than the longest has to be learned.
    let length = documents.longest() - 2;
    let train = config(&[("data", path.to_str().unwrap()), ("length", &length.to_string())]);
    let seen = preview(&train, false, &words, Path::new("."), 3).unwrap();
    assert_eq!((seen.kind, seen.records, seen.documents, seen.rows.len()), ("a table (Parquet)", 41, 41, 3));
    assert_eq!(
        (seen.tokens, seen.learned, seen.longest),
        (documents.tokens(), documents.targets(), documents.longest())
    );
    for (i, row) in seen.rows.iter().enumerate() {
        let join = |learned: bool| -> String {
            row.pieces.iter().filter(|p| p.learned || !learned).map(|p| p.text.as_str()).collect()
        };
        assert_eq!((join(false), join(true)), said(&words, &documents, i));
        assert!(!row.cut && row.tokens == documents.document(i).count());
    }
    let longer = (0..41).filter(|i| documents.document(*i).count() > length + 1).count();
    assert!(longer > 0 && seen.longer == longer, "{longer} {}", seen.longer);
    assert!(
        seen.notices.iter().any(|n| n.contains(&format!("{longer} of 41 documents are longer"))),
        "{:?}",
        seen.notices
    );
    assert!(
        seen.notices.iter().any(|n| n.contains("`image` (41)") && n.contains("`messages[].name` (1)")),
        "{:?}",
        seen.notices
    );
    // What is made as it is read has nothing to show; a task has.
    let refused = preview(&config(&[("data", "random")]), false, &words, Path::new("."), 3).unwrap_err().to_string();
    assert!(refused.contains("random") && refused.contains("preview"), "{refused}");
    let task = preview(&config(&[("data", "bundled:task-tova")]), false, &words, Path::new("."), 2).unwrap();
    assert!(task.rows.len() == 2 && task.rows[0].learned > 0 && task.kind.is_empty());
}
