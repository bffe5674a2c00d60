//! Any bytes, as training data: JSON in lines and lists, tables, and the same as plain text.

use std::cell::RefCell;
use std::path::Path;

use ullage_core::config::train::{LossOn, Split, Validation};
use ullage_core::model::text::Words;
use ullage_core::train::batch::Rows as _;
use ullage_core::train::data::{Dataset, Options, Packed};

use super::{PLAIN, Scratch, Target, plain_error};

pub(super) const TARGET: Target = Target {
    name: "jsonl",
    run,
    seeds: || SEEDS.iter().map(|s| s.as_bytes().to_vec()).collect(),
    words: &[
        "\"prompt\"",
        "\"response\"",
        "\"messages\"",
        "\"role\"",
        "\"content\"",
        "\"instruction\"",
        "\"input\"",
        "\"output\"",
        "\"text\"",
        "\"conversations\"",
        "\"weight\"",
        "\"history\"",
        "prompt\tresponse\n",
        "[{",
        "{}",
        "[]",
        "null",
        "\n",
        "\r\n",
        "\u{feff}",
        "\\u0000",
        "\\ud83d",
        "\"\"",
        "{\"text\": \"a b c\"}\n",
    ],
    heap: (8 << 20, 4096),
    ..PLAIN
};

const SEEDS: [&str; 7] = [
    "{\"prompt\": \"Two and two?\", \"response\": \" four\"}\n{\"prompt\": \"\", \"response\": \"x\"}\n",
    "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}, {\"role\": \"assistant\", \"content\": \"Hello\"}]}\r\n\n{\"text\": \"Once upon a time\"}",
    "{\"instruction\": \"Say\", \"input\": \"it\", \"output\": \"yes\"}\n{\"instruction\": \"Say\", \"output\": \"no\"}\n",
    "A text.\n\nAnother text of two\nlines.\n\n\n",
    "[\n  {\"conversations\": [{\"from\": \"human\", \"value\": \"Hi\"}, {\"from\": \"gpt\", \"value\": \"Hello\", \"weight\": 0}]},\n  {\"question\": \"a\", \"answer\": \"b\", \"history\": [[\"c\", \"d\"]]}\n]",
    "prompt,response\n\"Hi, you\",Hello\n\"two\nlines\",b\n",
    "\u{feff}id\tinstruction\toutput\n1\tSay it\tyes\n",
];

thread_local! {
    static ROOM: RefCell<(Scratch, Words)> = RefCell::new((Scratch::new(), Words::of(&crate::bundled()).unwrap()));
}

fn run(bytes: &[u8]) -> bool {
    ROOM.with_borrow(|(scratch, words)| {
        let mut sound = false;
        for (name, split, loss_on, validation) in [
            ("data.jsonl", Split::BlankLines, LossOn::Responses, Validation::Share(0.5)),
            ("data.jsonl", Split::BlankLines, LossOn::All, Validation::Share(0.0)),
            ("data.txt", Split::BlankLines, LossOn::All, Validation::File("data.jsonl".into())),
            ("data.txt", Split::Whole, LossOn::Responses, Validation::Share(0.0)),
            ("data.json", Split::Whole, LossOn::Responses, Validation::Share(0.0)),
            ("data.csv", Split::Whole, LossOn::All, Validation::Share(0.0)),
        ] {
            let path = scratch.file(name, bytes);
            let options = Options { validation, loss_on, split, ..Options::new(path.display().to_string()) };
            let read = Dataset::open(&options, words, path.parent().unwrap_or(Path::new(".")));
            let packed = read.and_then(|data| Packed::new(data, 8, split == Split::BlankLines));
            match packed {
                Ok(packed) => {
                    let rows = packed.rows();
                    assert!(rows > 0);
                    packed.batch(&[0, rows - 1]).unwrap();
                    sound = true;
                }
                Err(e) => plain_error(&e),
            }
        }
        sound
    })
}
