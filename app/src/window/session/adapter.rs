//! An adapter beside the weights, left out, or merged into them: each is a configuration, so each can be undone, run and exported.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ullage_core::Result;
use ullage_core::config::Config;
use ullage_core::model::adapter::merge;
use ullage_core::ops::ThreadTeam;
use ullage_core::train::export::ADAPTER_GGUF;
use ullage_core::weights::format::Target;
use ullage_panels::view::{Adapter, AdapterUse};

use super::super::clock;
use super::super::live::Live;
use super::super::opener::{self, Wanted};
use super::super::worker::{Outbox, panic_text};
use super::{Message, Session};

/// An adapter and the model it is for.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapted {
    /// The model with it beside its weights.
    pub on: Wanted,
    /// The model file with it in its weights, whether or not it is there yet.
    pub merged: PathBuf,
}

/// A merge that goes on.
pub struct Merging {
    /// Bytes written, and in all.
    pub done: u64,
    /// In all.
    pub total: u64,
    begun: Instant,
    cancel: Arc<AtomicBool>,
}

impl Merging {
    /// At the speed so far.
    pub fn seconds_left(&self) -> Option<f64> {
        let (done, left) = (self.done as f64, self.total.saturating_sub(self.done) as f64);
        (done > 0.0).then(|| self.begun.elapsed().as_secs_f64() * left / done)
    }
}

impl Drop for Merging {
    fn drop(&mut self) {
        self.cancel.store(true, Ordering::Relaxed);
    }
}

/// The name of a merged file: another adapter, another scale, or the same file written anew is another name.
fn name(on: &Wanted) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut take = |bytes: &[u8]| {
        for b in bytes {
            hash = (hash ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    let adapter = on.adapter.as_deref().unwrap_or_default();
    for text in [&on.path, adapter] {
        take(text.as_bytes());
        take(&[0]);
        if let Ok(about) = std::fs::metadata(text) {
            let written = about.modified().ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
            take(&written.unwrap_or_default().as_nanos().to_le_bytes());
            take(&about.len().to_le_bytes());
        }
    }
    take(&on.scale.to_le_bytes());
    let model = Path::new(on.path.rsplit(':').next().unwrap_or_default()).file_stem();
    let model = super::safe(&model.unwrap_or_default().to_string_lossy());
    format!("{model} with adapter {:08x}.gguf", hash as u32 ^ (hash >> 32) as u32)
}

/// Writes the model that `adapted` names with its adapter in its weights, as `ullage merge` does.
fn make(adapted: &Adapted, threads: usize, cancel: &Arc<AtomicBool>, out: &Outbox) -> Result<()> {
    let opened = opener::adapted(&adapted.on)?;
    if let Some(dir) = adapted.merged.parent() {
        std::fs::create_dir_all(dir).map_err(|e| ullage_core::Error::io(dir, "cannot make the folder", &e))?;
    }
    let team = ThreadTeam::with_cancel(threads, Arc::clone(cancel))?;
    let mut told = Instant::now();
    merge(&opened.model, Target::Original, &adapted.merged, &team, &mut |done, total| {
        if told.elapsed() >= Duration::from_millis(100) {
            told = Instant::now();
            // What the window has no room for is told again soon.
            let _ = out.offer(Message::Merging(done, total));
        }
    })?;
    Ok(())
}

impl Session {
    /// Where a run of `config` puts what it learns when it names no folder: adapters are small, so one is always kept.
    pub(super) fn keep(&self, config: &Config) -> Option<PathBuf> {
        let train = config.train.as_ref().filter(|t| t.out.is_empty() && t.params.id == "lora")?;
        debug_assert!(train.out.is_empty());
        let (learned, base) = (self.data.join("learned"), clock::name(clock::now()));
        let names = std::iter::once(base.clone()).chain((2..1000).map(|i| format!("{base}-{i}")));
        let dir = names.map(|name| learned.join(name)).find(|dir| !dir.exists())?;
        std::path::absolute(&dir).ok()
    }

    /// Where merged models are kept.
    pub(super) fn merges(&self) -> PathBuf {
        let merged = self.data.join("merged");
        std::path::absolute(&merged).unwrap_or(merged)
    }

    fn adapted_of(&self, on: Wanted) -> Adapted {
        let merged = self.merges().join(name(&on));
        Adapted { merged, on }
    }

    /// After any change: an adapter that the configuration names is the one to switch.
    pub(super) fn know_adapter(&mut self) {
        let wanted = Wanted::of(self.document.config());
        if wanted.adapter.is_some() && self.adapted.as_ref().is_none_or(|a| a.on != wanted) {
            self.adapted = Some(self.adapted_of(wanted));
        }
    }

    /// A run that learned an adapter leaves it to be switched on.
    pub(super) fn know_learned(&mut self, live: &Live) -> bool {
        let state = live.report.train.as_ref().and_then(|t| t.state.clone());
        let adapter = state.filter(|path| Path::new(path).ends_with(ADAPTER_GGUF) && Path::new(path).is_file());
        let (Some(adapter), Some(config)) = (adapter, live.config()) else { return false };
        self.adapted =
            Some(self.adapted_of(Wanted { path: config.model.path.clone(), adapter: Some(adapter), scale: 1.0 }));
        true
    }

    /// The run that ended may have learned an adapter: says so, with the button that generates with it.
    pub(super) fn learned(&mut self) {
        let Some(live) = self.live.take() else { return };
        let finished = live.finished() && self.know_learned(&live);
        let words = live.learned();
        self.live = Some(live);
        if let (true, Some(adapted)) = (finished, &self.adapted) {
            let toml = toml::Value::String(adapted.on.adapter.clone().unwrap_or_default()).to_string();
            let sets = vec![("train".to_owned(), String::new()), ("model.adapter".to_owned(), toml)];
            let remedy = Some(("Generate with it".to_owned(), sets));
            self.notice_with("An adapter was learned", &words, false, remedy);
        }
    }

    /// How the adapter that is known is used by the configuration; none when it is for another model.
    pub(in super::super) fn adapter_switch(&self) -> Option<Adapter> {
        let config = self.document.config();
        let adapted = self.adapted.as_ref().filter(|_| config.train.is_none())?;
        let now = Wanted::of(config);
        let now = match &now.adapter {
            Some(_) if now == adapted.on => AdapterUse::On,
            None if now.path == adapted.on.path => AdapterUse::Off,
            None if Path::new(&now.path) == adapted.merged => AdapterUse::Merged,
            _ => return None,
        };
        let name = adapted.on.adapter.clone().unwrap_or_default();
        Some(Adapter { now, name, merging: self.merging.is_some() })
    }

    /// Switches to another use of the adapter. Merging writes a file first, on a thread of its own.
    pub(super) fn use_adapter(&mut self, how: AdapterUse) {
        let Some(adapted) = self.adapted.clone() else { return };
        match how {
            AdapterUse::On => self.adopt("Adapter on", adapted.on),
            AdapterUse::Off => self.adopt("Adapter off", Wanted::at(adapted.on.path)),
            AdapterUse::Merged if adapted.merged.is_file() => {
                self.adopt("Adapter merged", Wanted::at(adapted.merged.display().to_string()));
            }
            AdapterUse::Merged => self.merge(adapted),
        }
    }

    fn adopt(&mut self, what: &str, wanted: Wanted) {
        let mut config = self.document.config().clone();
        let Wanted { path, adapter, scale } = wanted;
        (config.model.path, config.model.adapter, config.model.adapter_scale) = (path, adapter, scale);
        match ullage_core::catalog::check(&config) {
            Ok(()) => {
                self.document.replace(what, config, None);
                // A file that could not be opened before may be there now.
                self.unopened = None;
                self.changed();
            }
            Err(e) => self.notice(&format!("{what}: not possible here"), &e.to_string(), true),
        }
    }

    fn merge(&mut self, adapted: Adapted) {
        if self.merging.is_some() {
            return;
        }
        if self.running.is_some() {
            self.notice("The adapter is not merged", "A run is going on; merge when it is done.", false);
            return;
        }
        let cancel = Arc::new(AtomicBool::new(false));
        let (flag, out, threads) = (Arc::clone(&cancel), self.outbox.clone(), self.document.config().threads());
        let work = move || {
            let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| make(&adapted, threads, &flag, &out)));
            let result = match made {
                Ok(Ok(())) => Ok(Box::new(adapted)),
                Ok(Err(e)) => Err(e.to_string()),
                Err(panic) => Err(panic_text(&*panic)),
            };
            out.send(Message::Merged(result));
        };
        match std::thread::Builder::new().name("ullage-merge".into()).spawn(work) {
            Ok(_) => self.merging = Some(Merging { done: 0, total: 0, begun: Instant::now(), cancel }),
            Err(e) => self.notice("The adapter was not merged", &e.to_string(), true),
        }
    }

    pub(super) fn merge_goes_on(&mut self, done: u64, total: u64) {
        if let Some(merging) = &mut self.merging {
            (merging.done, merging.total) = (done, total);
        }
    }

    pub(super) fn merged(&mut self, result: std::result::Result<Box<Adapted>, String>) {
        self.merging = None;
        match result {
            // Another adapter may have been chosen meanwhile; this one's file is kept for when it is again.
            Ok(adapted) if self.adapted.as_ref() == Some(&*adapted) => {
                self.adopt("Adapter merged", Wanted::at(adapted.merged.display().to_string()));
            }
            Ok(_) => {}
            Err(why) => self.notice("The adapter was not merged", &why, true),
        }
    }
}
