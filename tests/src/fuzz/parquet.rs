//! Tables in Parquet, with footers and page headers that say what is not so.

use std::cell::RefCell;
use std::fs;
use std::path::Path;

use ullage_core::config::train::Validation;
use ullage_core::model::text::Words;
use ullage_core::train::data::{Dataset, Options};

use super::{PLAIN, Scratch, Target, plain_error};

pub(super) const TARGET: Target = Target {
    name: "parquet",
    run,
    seeds: || {
        let seed = |name| fs::read(crate::fixture("parquet").join(name)).unwrap_or_default();
        ["chats-snappy.parquet", "pairs-gzip.parquet", "talks-none.parquet", "texts-lz4.parquet"].map(seed).into()
    },
    words: &["PAR1", "messages", "\u{15}\u{4}", "\u{ff}\u{ff}\u{ff}\u{f}"],
    tell: |bytes| format!("{} bytes", bytes.len()),
    heap: (24 << 20, 4096),
    ..PLAIN
};

thread_local! {
    static ROOM: RefCell<(Scratch, Words)> = RefCell::new((Scratch::new(), Words::of(&crate::bundled()).unwrap()));
}

fn run(bytes: &[u8]) -> bool {
    ROOM.with_borrow(|(scratch, words)| {
        let path = scratch.file("data.parquet", bytes);
        let options = Options { validation: Validation::Share(0.0), ..Options::new(path.display().to_string()) };
        Dataset::open(&options, words, Path::new(".")).map_err(|e| plain_error(&e)).is_ok()
    })
}
