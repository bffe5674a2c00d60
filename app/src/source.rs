//! From the command line to a configuration, a model and a machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ullage_core::catalog::from_toml;
use ullage_core::config::train::Validation;
use ullage_core::config::{Config, KnobValue};
use ullage_core::job::Order;
use ullage_core::machine::Machine;
use ullage_core::model::Model;
use ullage_core::output::Care;
use ullage_core::train::data::made;
use ullage_core::{Error, Result};

use crate::args::Source;

/// A configuration and what its relative paths are relative to.
#[derive(Debug)]
pub struct Loaded {
    /// Checked.
    pub config: Config,
    /// The configuration file's folder, or the current one.
    pub base: PathBuf,
    /// The configuration file, where there is one.
    pub file: Option<PathBuf>,
}

/// Splits `KEY=VALUE`.
///
/// # Errors
/// Without an equals sign.
pub fn key_value(text: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((key, value)) => Ok((key.trim().to_owned(), value.trim().to_owned())),
        None => Err(Error::config(text, "write an override as KEY=VALUE")),
    }
}

/// Reads the configuration, or makes one for a model, with the overrides and `more` of them.
///
/// # Errors
/// A file that cannot be read; a wrong key or value.
pub fn load(source: &Source, more: &[(String, String)]) -> Result<Loaded> {
    let mut sets: Vec<_> = source.sets.iter().map(|s| key_value(s)).collect::<Result<_>>()?;
    // Quoted, so that a prompt such as `3` stays a text.
    sets.extend(source.short().map(|(key, value)| (key.to_owned(), toml_text(value))));
    sets.extend(source.overcommit.then(|| ("budget.overcommit".to_owned(), "true".to_owned())));
    sets.extend(more.iter().cloned());
    if source.source.ends_with(".toml") {
        let path = Path::new(&source.source);
        let text = fs::read_to_string(path)
            .map_err(|e| Error::config(source.source.as_str(), format!("cannot read the configuration: {e}")))?;
        let base = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_path_buf();
        let mut config = from_toml(&text, &sets)?;
        anchor(&mut config, &base);
        return Ok(Loaded { config, base, file: Some(path.to_owned()) });
    }
    sets.insert(0, ("model.path".into(), toml_text(&source.source)));
    let mut config = from_toml("", &sets)?;
    anchor(&mut config, Path::new("."));
    Ok(Loaded { config, base: PathBuf::from("."), file: None })
}

/// `text` as a TOML string, whatever is in it.
fn toml_text(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Makes the paths of `config` absolute, so that what a run folder saves means the same files from there.
pub fn anchor(config: &mut Config, base: &Path) {
    let whole = |path: &str| std::path::absolute(base.join(path)).map_or(path.to_owned(), |p| p.display().to_string());
    if let Some(adapter) = config.model.adapter.as_mut().filter(|a| !a.is_empty()) {
        *adapter = whole(adapter);
    }
    config.model.adapters.iter_mut().filter(|a| !a.path.is_empty()).for_each(|a| a.path = whole(&a.path));
    let path = &mut config.model.path;
    match path.strip_prefix("random:").map(|spec| spec.split_at(spec.find(['@', '#']).unwrap_or(spec.len()))) {
        Some((file, rest)) if file.ends_with(".json") || file.ends_with(".gguf") => {
            *path = format!("random:{}{rest}", whole(file));
        }
        Some(_) => {}
        None if path.starts_with("bundled:") => {}
        None => *path = whole(path),
    }
    if let Some(train) = &mut config.train {
        let named = |path: &str| !path.is_empty();
        if named(&train.data) && !made(&train.data) {
            train.data = whole(&train.data);
        }
        if named(&train.out) {
            train.out = whole(&train.out);
        }
        if let Validation::File(path) = &mut train.validation {
            *path = whole(path);
        }
    }
    for knobs in config.eval.values_mut() {
        if let Some(KnobValue::Text(file)) = knobs.0.get_mut("file")
            && !file.is_empty()
        {
            *file = whole(file);
        }
    }
}

/// Opens the model and the machine of a configuration.
///
/// # Errors
/// A missing, damaged or unsupported model.
pub fn order(loaded: &Loaded) -> Result<Order> {
    let model = Model::of(&loaded.config.model, &loaded.base)?;
    Ok(Order {
        config: loaded.config.clone(),
        model: Arc::new(model),
        machine: machine(),
        base: loaded.base.clone(),
        dump: None,
        keep: None,
        folder: None,
        care: Care { inputs: loaded.file.iter().cloned().collect(), ..Care::default() },
    })
}

/// The saved machine, or a guess; why a saved one is not used goes to stderr.
pub fn machine() -> Machine {
    let (machine, why) = Machine::load_or_guess();
    if let Some(why) = why {
        eprintln!("note: {why}");
    }
    machine
}

/// Writes to stdout. A reader that went away (`| head`) ends the program quietly; any other failure, such as a full disk, ends
/// it with exit 1.
pub fn say(text: &str) {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    if let Err(e) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        let quiet = e.kind() == std::io::ErrorKind::BrokenPipe;
        if !quiet {
            eprintln!("error: cannot write to stdout: {e}");
        }
        std::process::exit(i32::from(!quiet));
    }
}

/// Prints a value as JSON.
///
/// # Errors
/// Never for our own types.
pub fn say_json(value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::Internal(format!("writing JSON: {e}")))?;
    say(&format!("{text}\n"));
    Ok(())
}
