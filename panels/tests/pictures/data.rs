use egui_kittest::SnapshotResults;
use egui_kittest::kittest::Queryable as _;
use ullage_panels::pictures::data::{self, DataState};
use ullage_panels::view::{Data, Sample};
use ullage_panels::{Action, Linked};

use crate::{driven, look};

fn draw(ui: &mut egui::Ui, data: &Data, _: &mut DataState, _: &mut Linked, actions: &mut Vec<Action>) {
    data::show(ui, data, actions);
}

fn talks() -> Data {
    let part = |text: &str, learned: bool| (text.to_owned(), learned);
    let first = vec![
        Sample {
            tokens: 31,
            learned: 9,
            text: vec![
                part("<|user|>\nWhat is the empty space in a bottle called?<|endoftext|>\n<|assistant|>\n", false),
                part("It is called ullage.<|endoftext|>\n", true),
            ],
            more: 0,
        },
        Sample {
            tokens: 2600,
            learned: 2571,
            text: vec![
                part("<|user|>\nTell me all of it.<|endoftext|>\n<|assistant|>\n", false),
                part(
                    "Every evening the keeper counted the bottles the sea had brought. The neck of each was sealed with wax.",
                    true,
                ),
            ],
            more: 600,
        },
    ];
    Data {
        file: "talks.jsonl".into(),
        summary: "talks.jsonl: JSON lines, 412 records. 409 documents of 81,204 tokens, 30,116 of them learned; the longest has 2,600."
            .into(),
        notes: vec![
            "train.data: fields of the 412 records that are not used: `id` (412)".into(),
            "train.data: 3 records have nothing to learn and are left out".into(),
        ],
        what: "document".into(),
        first,
        ..Data::default()
    }
}

#[test]
fn what_is_learned_is_shown_and_said() {
    let harness = driven(draw, talks());
    harness.get_by_label_contains("409 documents");
    harness.get_by_label_contains("3 records have nothing to learn");
    harness.get_by_label("Document 2: 2,600 tokens, 2,571 learned");
    harness.get_by_label("… and 600 tokens more");
    let reading = Data { file: "big.txt".into(), reading: true, ..Data::default() };
    driven(draw, reading).get_by_label_contains("big.txt is being read");
    let wrong = Data { wrong: "big.txt:3: field `text`: is no text".into(), ..Data::default() };
    driven(draw, wrong).get_by_label_contains("big.txt:3");
}

#[test]
fn data_look_like_this() {
    let mut results = SnapshotResults::new();
    look(&mut results, "data", draw, &talks(), &Linked::default());
}
