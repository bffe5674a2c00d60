//! What can be open: a model with its adapter, a configuration, a run folder, a curve.

use std::path::PathBuf;
use std::sync::Arc;

use ullage_core::config::{Config, MoreAdapter};
use ullage_core::model::Model;
use ullage_core::model::outline::Outline;
use ullage_core::model::text::Words;
use ullage_panels::view::Series;

use super::live::Live;

/// A model as a configuration names it, with the adapter beside its weights; or whatever else lies at a path.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// The path.
    pub path: String,
    /// The adapter's path.
    pub adapter: Option<String>,
    /// What its scale is multiplied by.
    pub scale: f32,
    /// Further adapters beside it.
    pub more: Vec<MoreAdapter>,
}

impl Wanted {
    /// What `config` names.
    pub fn of(config: &Config) -> Self {
        let ullage_core::config::Model { path, adapter, adapter_scale, adapters } = config.model.clone();
        Self { path, adapter, scale: adapter_scale, more: adapters }
    }

    /// Whatever lies at a path.
    pub fn at(path: impl Into<String>) -> Self {
        Self { path: path.into(), adapter: None, scale: 1.0, more: Vec::new() }
    }
}

/// A model that is open.
#[derive(Debug)]
pub struct OpenModel {
    /// As it was asked for.
    pub wanted: Wanted,
    /// Its path, as it was asked for.
    pub asked: String,
    /// Its shape and where its numbers are.
    pub model: Arc<Model>,
    /// Its tokenizer and chat template.
    pub words: Arc<Words>,
    /// True when it has a chat template of its own.
    pub chats: bool,
}

/// A model that is planned and not run.
#[derive(Debug)]
pub struct OutlinedModel {
    /// As it was asked for.
    pub wanted: Wanted,
    /// What its files say of it.
    pub outline: Outline,
}

/// What was found at a path.
pub enum OpenedItem {
    /// A model.
    Model(Arc<OpenModel>),
    /// A model that is planned and not run.
    Outline(Box<OutlinedModel>),
    /// A configuration.
    Config(Box<Config>),
    /// A run folder, replayed.
    Run(Box<Live>),
    /// A curve measured elsewhere.
    Curve(Series),
}

/// An adapter and the model it is for.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapted {
    /// The model with it beside its weights.
    pub on: Wanted,
    /// The model file with it in its weights, whether or not it is there yet.
    pub merged: PathBuf,
}
