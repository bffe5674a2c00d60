//! An adapter beside the weights, left out, or merged into them: each is a configuration, so each can be undone, run and exported.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use ullage_core::Result;
use ullage_core::config::Config;
use ullage_core::model::adapter::merge;
use ullage_core::ops::ThreadTeam;
use ullage_core::output::{Care, Single};
use ullage_core::train::export::{ADAPTER, ADAPTER_GGUF};
use ullage_core::train::params::adapts;
use ullage_core::weights::format::Target;
use ullage_panels::view::AdapterUse;

use super::super::live::Live;
use super::super::message::Message;
use super::super::opened::{Adapted, Wanted};
use super::super::state::MergeProgress;
use super::super::worker::{Outbox, panic_text};
use super::super::{clock, opener};
use super::{CancelOnDrop, Session};

/// The name of a merged file: another adapter, another scale, or the same file written anew is another name.
fn name(on: &Wanted) -> String {
    let mut hash = Sha256::new();
    let adapter = on.adapter.as_deref().unwrap_or_default();
    for text in [&*on.path, adapter].into_iter().chain(on.more.iter().map(|one| &*one.path)) {
        hash.update(text);
        hash.update([0]);
        if let Ok(about) = std::fs::metadata(text) {
            let written = about.modified().ok().and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
            hash.update(written.unwrap_or_default().as_nanos().to_le_bytes());
            hash.update(about.len().to_le_bytes());
        }
    }
    on.more.iter().map(|one| one.scale).chain([on.scale]).for_each(|scale| hash.update(scale.to_le_bytes()));
    let mark: String = hash.finalize().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let model = Path::new(on.path.rsplit(':').next().unwrap_or_default()).file_stem();
    let model = super::safe(&model.unwrap_or_default().to_string_lossy());
    format!("{model} with adapter {mark}.gguf")
}

/// Writes the model that `adapted` names with its adapter in its weights, as `ullage merge` does.
fn make(adapted: &Adapted, threads: usize, cancel: &Arc<AtomicBool>, out: &Outbox<Message>) -> Result<()> {
    let opened = opener::adapted(&adapted.on)?;
    let care = Care { inputs: opened.model.files(), ..Care::default() };
    let claim = Single::claim(&adapted.merged, false, &care)?;
    let team = ThreadTeam::with_cancel(threads, Arc::clone(cancel))?;
    let mut told = Instant::now();
    let mut tell = |done, total| {
        if told.elapsed() >= Duration::from_millis(100) {
            told = Instant::now();
            // What the window has no room for is told again soon.
            let _ = out.offer(Message::MergeProgress { done, total });
        }
    };
    claim.write(|| merge(&opened.model, Target::Original, &adapted.merged, &team, &mut tell)).map(drop)
}

impl Session {
    /// Where a run of `config` puts what it learns when it names no folder: adapters are small, so one is always kept.
    pub(super) fn keep(&self, config: &Config) -> Option<PathBuf> {
        let train = config.train.as_ref().filter(|t| t.out.is_empty() && adapts(&t.params))?;
        debug_assert!(train.out.is_empty());
        let (learned, base) = (self.state.data.join("learned"), clock::name());
        let names = std::iter::once(base.clone()).chain((2..1000).map(|i| format!("{base}-{i}")));
        let dir = names.map(|name| learned.join(name)).find(|dir| !dir.exists())?;
        std::path::absolute(&dir).ok()
    }

    fn adapted_of(&self, on: Wanted) -> Adapted {
        let merged = self.state.merged_folder().join(name(&on));
        Adapted { merged, on }
    }

    /// After any change: an adapter that the configuration names is the one to switch.
    pub(super) fn know_adapter(&mut self) {
        let wanted = Wanted::of(self.state.document.config());
        if wanted.adapter.is_some() && self.state.adapted.as_ref().is_none_or(|a| a.on != wanted) {
            self.state.adapted = Some(self.adapted_of(wanted));
        }
    }

    /// A run that learned an adapter leaves it to be switched on.
    pub(super) fn know_learned(&mut self, live: &Live) -> bool {
        let state = live.report.train.as_ref().and_then(|t| t.state.clone());
        // A file where its layout holds such an adapter, or else PEFT's folder.
        let is_adapter = |path: &Path| path.ends_with(ADAPTER_GGUF) || path.ends_with(ADAPTER);
        let adapter = state.filter(|path| is_adapter(Path::new(path)) && Path::new(path).exists());
        let (Some(adapter), Some(config)) = (adapter, live.config()) else { return false };
        self.state.adapted =
            Some(self.adapted_of(Wanted { adapter: Some(adapter), ..Wanted::at(config.model.path.clone()) }));
        true
    }

    /// The run that ended may have learned an adapter: says so, with the button that generates with it.
    pub(super) fn learned(&mut self) {
        let Some(live) = self.state.live.take() else { return };
        let finished = live.finished() && self.know_learned(&live);
        let words = live.learned();
        self.state.live = Some(live);
        if let (true, Some(adapted)) = (finished, &self.state.adapted) {
            let toml = toml::Value::String(adapted.on.adapter.clone().unwrap_or_default()).to_string();
            let sets = vec![("train".to_owned(), String::new()), ("model.adapter".to_owned(), toml)];
            let remedy = Some(("Generate with it".to_owned(), sets));
            self.notice_with("An adapter was learned", &words, false, remedy);
        }
    }

    /// Switches to another use of the adapter. Merging writes a file first, on a thread of its own.
    pub(super) fn use_adapter(&mut self, how: AdapterUse) {
        let Some(adapted) = self.state.adapted.clone() else { return };
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
        let mut config = self.state.document.config().clone();
        let Wanted { path, adapter, scale, more } = wanted;
        config.model.adapters = more;
        (config.model.path, config.model.adapter, config.model.adapter_scale) = (path, adapter, scale);
        match ullage_core::catalog::check(&config) {
            Ok(()) => {
                self.state.document.replace(what, config, None);
                // A file that could not be opened before may be there now.
                self.state.unopened = None;
                self.changed();
            }
            Err(e) => self.notice(&format!("{what}: not possible here"), &e.to_string(), true),
        }
    }

    fn merge(&mut self, adapted: Adapted) {
        if self.state.merging.is_some() {
            return;
        }
        if self.state.running {
            self.notice("The adapter is not merged", "A run is going on; merge when it is done.", false);
            return;
        }
        let cancel = Arc::new(AtomicBool::new(false));
        let (flag, out, threads) = (Arc::clone(&cancel), self.outbox.clone(), self.state.document.config().threads());
        let work = move || {
            let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| make(&adapted, threads, &flag, &out)));
            let result = match made {
                Ok(Ok(())) => Ok(Box::new(adapted)),
                Ok(Err(e)) => Err(e.to_string()),
                Err(panic) => Err(panic_text(&*panic)),
            };
            out.send(Message::MergeResult(result));
        };
        match std::thread::Builder::new().name("ullage-merge".into()).spawn(work) {
            Ok(_) => {
                self.merge = Some(CancelOnDrop(cancel));
                self.state.merging = Some(MergeProgress { done: 0, total: 0, begun: Instant::now() });
            }
            Err(e) => self.notice("The adapter was not merged", &e.to_string(), true),
        }
    }

    pub(super) fn merge_goes_on(&mut self, done: u64, total: u64) {
        if let Some(merging) = &mut self.state.merging {
            (merging.done, merging.total) = (done, total);
        }
    }

    pub(super) fn merged(&mut self, result: std::result::Result<Box<Adapted>, String>) {
        (self.state.merging, self.merge) = (None, None);
        match result {
            // Another adapter may have been chosen meanwhile; this one's file is kept for when it is again.
            Ok(adapted) if self.state.adapted.as_ref() == Some(&*adapted) => {
                self.adopt("Adapter merged", Wanted::at(adapted.merged.display().to_string()));
            }
            Ok(_) => {}
            Err(why) => self.notice("The adapter was not merged", &why, true),
        }
    }
}
