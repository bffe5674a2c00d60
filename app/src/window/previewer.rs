//! Reads training data away from the window, to show what they come to before anything is learned: the newest wish alone.

use std::path::Path;
use std::sync::Arc;

use ullage_core::config::Config;
use ullage_core::train::data::{Asked, First, Preview};
use ullage_core::{Error, Result};
use ullage_panels::view::{Data, Sample};
use ullage_panels::words;

use super::message::Message;
use super::opened::OpenModel;
use super::worker::{Outbox, Slot, panic_text};

/// Documents shown.
const SHOWN: usize = 8;

/// Bytes of the largest file read for a look: its tokens are held while it is read, beside whatever else the window does.
const LARGEST: u64 = 64 << 20;

/// What is to be read.
#[derive(Clone)]
pub struct PreviewRequest {
    /// The configuration that names it.
    pub config: Config,
    /// The model whose words it is read with.
    pub opened: Arc<OpenModel>,
}

impl PreviewRequest {
    /// Whether both would show the same: the data, how they are read, and the words.
    pub fn same(&self, other: &Self) -> bool {
        let of = |r: &Self| {
            r.config.train.as_ref().map(|t| {
                let how = (t.loss_on, t.documents, t.template, t.packing, t.length);
                (t.data.clone(), how, r.config.run.parse_special, r.config.run.seed)
            })
        };
        Arc::ptr_eq(&self.opened, &other.opened) && of(self) == of(other)
    }
}

/// The thread that reads.
pub struct Previewer {
    slot: Slot<PreviewRequest>,
}

impl Previewer {
    /// Starts it.
    pub fn start(outbox: Outbox<Message>) -> Self {
        let slot: Slot<PreviewRequest> = Slot::default();
        let mine = slot.clone();
        let run = move || {
            while let Some(request) = mine.take() {
                let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| preview(&request)));
                let data = match read {
                    Ok(Ok(preview)) => shown(preview),
                    Ok(Err(e)) => wrong(&request, e.to_string()),
                    Err(panic) => wrong(&request, panic_text(&*panic)),
                };
                outbox.send(Message::Preview(Box::new(data)));
            }
        };
        // Without a thread the data are not shown.
        let _ = std::thread::Builder::new().name("ullage-data".into()).spawn(run);
        Self { slot }
    }

    /// Reads this; what was asked for before and not begun is forgotten.
    pub fn ask(&self, request: PreviewRequest) {
        self.slot.put(request);
    }
}

impl Drop for Previewer {
    fn drop(&mut self) {
        self.slot.close();
    }
}

fn preview(request: &PreviewRequest) -> Result<Preview> {
    let PreviewRequest { config, opened } = request;
    let train = config.train.clone().unwrap_or_default();
    let parse_special = config.run.parse_special.in_text();
    let (seed, threads) = (config.run.seed, config.threads());
    let base = Path::new(".");
    let bytes = std::fs::metadata(base.join(&train.data)).map_or(0, |of| of.len());
    if bytes > LARGEST {
        let why = format!(
            "its {} are not read for a look; `ullage data` shows its first documents, and a training reads all",
            words::bytes(bytes)
        );
        return Err(Error::refused(format!("train.data = {}", train.data), why));
    }
    Preview::of(&Asked { train: &train, words: &opened.words, base, seed, parse_special, threads }, SHOWN)
}

fn named(request: &PreviewRequest) -> String {
    request.config.train.as_ref().map(|t| t.data.clone()).unwrap_or_default()
}

fn wrong(request: &PreviewRequest, wrong: String) -> Data {
    Data { file: named(request), wrong, ..Data::default() }
}

fn shown(preview: Preview) -> Data {
    let count = |n: usize| words::count(n as u64);
    let summary = match preview.rows {
        Some(rows) => format!(
            "{}: {} rows of {} tokens, made as they are learned.",
            preview.file,
            count(rows),
            count(preview.longest)
        ),
        None => format!(
            "{}: {}, {} records. {} documents of {} tokens, {} of them learned; the longest has {}.",
            preview.file,
            preview.kind,
            count(preview.records),
            count(preview.documents),
            count(preview.tokens),
            count(preview.learned),
            count(preview.longest)
        ),
    };
    let what = if preview.rows.is_some() { "row" } else { "document" }.into();
    let sample = |first: First| Sample {
        tokens: first.tokens,
        learned: first.learned,
        text: first.text.into_iter().map(|s| (s.text, s.learned)).collect(),
        more: first.more,
    };
    let first = preview.first.into_iter().map(sample).collect();
    Data { file: preview.file, summary, notes: preview.notes, what, first, ..Data::default() }
}
