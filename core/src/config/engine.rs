//! `run.engine`: who computes, and what each engine refuses.

use serde::{Deserialize, Serialize};

use super::{Compute, Config};
use crate::error::{Error, Result};

/// `run.engine`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// Our own kernels, with a cache.
    #[default]
    Ullage,
    /// candle's tensors, f32 and without a cache: the reference, which reads the whole text again for every token.
    Candle,
}

impl Engine {
    /// True for the default.
    pub fn is_own(&self) -> bool {
        *self == Self::Ullage
    }

    /// Kinds of devices that it computes on.
    fn devices(self) -> &'static [&'static str] {
        match self {
            Self::Ullage => &["cuda"],
            Self::Candle => &["cuda", "metal"],
        }
    }
}

/// Checks the device, and that nothing is chosen that the engine does not do.
///
/// # Errors
/// The key, the value and what is allowed.
pub(super) fn check(config: &Config) -> Result<()> {
    let (engine, device) = (config.run.engine, config.machine.device.as_str());
    let kinds = engine.devices();
    let known = device == "cpu"
        || device.split_once(':').is_some_and(|(kind, n)| kinds.contains(&kind) && n.parse::<usize>().is_ok());
    if !known {
        let allowed: Vec<_> = kinds.iter().map(|k| format!("{k}:0")).collect();
        let hint = if device.starts_with("metal:") { "; metal is of run.engine = candle" } else { "" };
        return Err(Error::config(
            "machine.device",
            format!("`{device}` is not known; allowed: cpu, {}{hint}", allowed.join(", ")),
        ));
    }
    if engine == Engine::Candle { candle(config) } else { Ok(()) }
}

/// candle keeps no cache and holds the f32 of its weights, resident: every choice that says otherwise is refused by name.
fn candle(config: &Config) -> Result<()> {
    let refuse = |what: String, allowed: &str| {
        Err(Error::refused(
            what,
            format!("run.engine=candle computes in f32 over the whole text and keeps no cache; {allowed}"),
        ))
    };
    let plain = Config::default();
    let plain = plain.choices();
    for (_, key, choice) in config.choices() {
        let default = plain.iter().find(|(_, k, _)| *k == key).map_or("", |(_, _, choice)| choice.id.as_str());
        let allowed = if key.starts_with("kv.format") { "f32" } else { default };
        if (key.starts_with("kv.") || key.starts_with("place.")) && choice.id != allowed {
            return refuse(format!("{key} = {}", choice.id), &format!("set {key}={allowed}"));
        }
    }
    if config.kv.budget.is_some() {
        return refuse("kv.budget".into(), "leave it out");
    }
    if !matches!(config.run.compute, Compute::Auto | Compute::Exact) {
        return refuse("run.compute = int8 or half".into(), "set run.compute=exact");
    }
    if config.model.adapter.is_some() {
        return refuse("model.adapter".into(), "merge it first (`ullage merge`), or set run.engine=ullage");
    }
    if config.observe.is_some() {
        return refuse("observe".into(), "leave the section out, or set run.engine=ullage");
    }
    if config.train.is_some() {
        return refuse("a [train] section".into(), "set run.engine=ullage to train");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::catalog::from_toml;

    fn error(sets: &[(&str, &str)]) -> String {
        let sets: Vec<_> = sets.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        from_toml("", &sets).map_or_else(|e| e.to_string(), |_| String::new())
    }

    #[test]
    fn candle_refuses_by_name_what_it_does_not_do() {
        const CANDLE: (&str, &str) = ("run.engine", "candle");
        const F32: (&str, &str) = ("kv.format", "f32");
        assert_eq!(error(&[CANDLE, F32]), "");
        assert_eq!(error(&[CANDLE, F32, ("machine.device", "metal:0"), ("weights.format", "q8_0")]), "");
        assert!(error(&[CANDLE]).contains("kv.format.k = f16 is refused"), "{}", error(&[CANDLE]));
        for (key, value) in [
            ("kv.select", "h2o"),
            ("kv.alloc", "paged"),
            ("place.weights", "stream"),
            ("run.compute", "int8"),
            ("kv.budget.ratio", "0.5"),
            ("observe.bins", "8"),
            ("model.adapter", "a"),
        ] {
            let said = error(&[CANDLE, F32, (key, value)]);
            let named = key.strip_suffix(".ratio").or(key.strip_suffix(".bins")).unwrap_or(key);
            assert!(said.starts_with(named) && said.contains("run.engine=candle"), "{key}: {said}");
        }
        assert!(error(&[("machine.device", "metal:0")]).contains("metal is of run.engine = candle"));
        assert!(error(&[("machine.device", "tpu:0")]).contains("allowed: cpu, cuda:0"));
    }
}
