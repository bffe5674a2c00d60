//! From TOML text and `--set` overrides to a [`Config`].

use toml::{Table, Value};

use super::sections::Override;
use super::train::Train;
use super::{Config, KvBudget, Observe, Role, Turn, axes};
use crate::error::{Error, Result};

/// Reads TOML and applies the overrides in order. What it says is still to be checked by the catalogue.
///
/// # Errors
/// [`Error::Config`] naming the key (and, for syntax, the line).
pub fn parse(text: &str, overrides: &[(String, String)]) -> Result<Config> {
    let mut table: Table = text.parse().map_err(|e: toml::de::Error| {
        let key = e.span().and_then(|span| key_at(text, span.start));
        Error::config(key.unwrap_or_else(|| "the TOML".into()), e.to_string())
    })?;
    for (key, value) in overrides {
        set_key(&mut table, key, value)?;
    }
    only_sections("", &table, &example()?)?;
    // Section by section, so that a wrong key is named with its section.
    Value::Table(table).try_into().map_err(|e: toml::de::Error| {
        let key =
            e.to_string().lines().find_map(|l| l.strip_prefix("in `").map(|k| k.trim_end_matches('`').to_owned()));
        plainly(key.unwrap_or_default(), e.message())
    })
}

/// The key whose value stands at byte `at` of a text that is no TOML, by the lines up to there: none where no value begins.
fn key_at(text: &str, at: usize) -> Option<String> {
    let before = text.get(..at)?;
    let plain = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || "_-. ".contains(c));
    let key = before.lines().next_back()?.split_once('=')?.0.trim();
    let header = |line: &str| Some(line.trim().trim_start_matches('[').split_once(']')?.0.trim().to_owned());
    let section = before.lines().rev().find(|l| l.trim_start().starts_with('[')).and_then(header);
    let whole = section.map_or(key.to_owned(), |section| format!("{section}.{key}"));
    Some(whole).filter(|key| plain(key))
}

/// A configuration that has every section and an element of every list of them.
fn example() -> Result<Table> {
    let turn = Turn { role: Role::User, content: String::new() };
    let held = Override { tensors: "*".into(), format: axes::WEIGHTS_FORMAT.default.into() };
    let mut all = Config { train: Some(Train::default()), observe: Some(Observe::default()), ..Config::default() };
    all.run.turns.push(turn);
    all.weights.overrides.push(held);
    all.kv.budget = Some(KvBudget::Rows(1));
    Table::try_from(&all).map_err(|e| Error::Internal(format!("writing the default configuration: {e}")))
}

/// Holds lists against what they stand for. A deserializer would take a list for a section, its elements in the order of the keys.
///
/// # Errors
/// Names the first section that is a list, such as `[[run]]`, and the first element that is no table where one is wanted.
fn only_sections(at: &str, given: &Table, example: &Table) -> Result<()> {
    for (name, value) in given {
        let key = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
        match (value, example.get(name)) {
            (Value::Table(given), Some(Value::Table(example))) => only_sections(&key, given, example)?,
            (Value::Array(_), Some(Value::Table(_))) => {
                let wanted = format!("a list is not allowed; a section with keys of its own, written once as [{key}]");
                return Err(Error::config(key, wanted));
            }
            (Value::Array(given), Some(Value::Array(example))) => {
                let Some(Value::Table(example)) = example.first() else { continue };
                for (i, element) in given.iter().enumerate() {
                    let key = format!("{key}.{i}");
                    let Value::Table(element) = element else {
                        let keys: Vec<_> = example.keys().map(String::as_str).collect();
                        return Err(Error::config(key, format!("is no table; one with {} is needed", keys.join(", "))));
                    };
                    only_sections(&key, element, example)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// A deserializer's message in the words of a configuration: the whole key, its value, and what is allowed.
fn plainly(section: String, message: &str) -> Error {
    let under = |name: &str| if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") };
    let whole = || if section.is_empty() { "the TOML".to_owned() } else { section.clone() };
    let named = |prefix: &str| {
        let rest = message.strip_prefix(prefix)?.strip_prefix('`')?;
        let (name, allowed) = rest.split_once("`, expected ")?;
        let allowed = allowed.trim_start_matches("one of ").replace('`', "").replace(" or ", ", ");
        Some((name.to_owned(), allowed))
    };
    if let Some((name, allowed)) = named("unknown field ") {
        return Error::config(under(&name), format!("`{name}` is not a key here; allowed: {allowed}"));
    }
    if let Some((value, allowed)) = named("unknown variant ") {
        return Error::config(whole(), format!("`{value}` is not allowed; one of: {allowed}"));
    }
    let told = ["invalid type: ", "invalid value: "].iter().find_map(|p| message.strip_prefix(p));
    if let Some((told, (value, wanted))) = told.and_then(|t| Some((t, t.split_once(", expected ")?))) {
        // `string "x"`, "integer `3`": the value is what the reader wrote.
        let value = value.find(['"', '`']).map_or(value, |at| value[at..].trim_matches(['"', '`']));
        let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
        let wanted = match wanted {
            // A number in quotes, or one that TOML has no room for.
            "usize" | "u64" | "u32" if digits && value.parse::<i64>().is_err() => {
                "a whole number from 0 to 9223372036854775807"
            }
            "usize" | "u64" | "u32" if digits && told.starts_with("string") => "a whole number, without quotes",
            "usize" | "u64" | "u32" => "a whole number, 0 or more",
            "f32" | "f64" => "a number",
            "a boolean" => "true or false",
            "a string" => "a text",
            w if w.starts_with("struct ") || w == "a map" => "a section with keys of its own",
            w => w,
        };
        return Error::config(whole(), format!("`{value}` is not allowed; {wanted}"));
    }
    Error::config(whole(), message)
}

/// Sets a dotted key, making tables on the way. A choice given by id becomes a table when one of its knobs is set.
///
/// # Errors
/// When a part of the key is empty or crosses a value that is no table.
pub fn set_key(table: &mut Table, key: &str, value: &str) -> Result<()> {
    let value = parse_value(value);
    let parts: Vec<&str> = key.split('.').map(str::trim).collect();
    let Some((last, path)) = parts.split_last() else { return Err(Error::config(key, "an empty key")) };
    if parts.iter().any(|p| p.is_empty()) {
        return Err(Error::config("--set", format!("a part of the key `{key}` is empty; write it as section.key")));
    }
    let mut here = table;
    for (depth, part) in path.iter().enumerate() {
        let slot = here.entry((*part).to_owned()).or_insert_with(|| Value::Table(Table::new()));
        if let Value::String(id) = slot {
            // An id stands for a table: of the choice and its knobs, or of the keys' and the values' choice.
            let keys: &[&str] = if matches!(*last, "k" | "v") { &["k", "v"] } else { &["use"] };
            *slot = Value::Table(keys.iter().map(|k| ((*k).to_owned(), Value::String(id.clone()))).collect());
        }
        here = slot
            .as_table_mut()
            .ok_or_else(|| Error::config(key, format!("`{}` is a value, not a section", parts[..=depth].join("."))))?;
    }
    // `kv.budget` is one of three dialects: setting one replaces another.
    if path.ends_with(&["kv", "budget"]) {
        here.clear();
    }
    // One half of a choice that nothing else names: the other keeps the default.
    let whole = path.join(".");
    if let Some(axis) = axes::all().find(|a| a.key == whole && a.parts.contains(last) && here.is_empty()) {
        here.extend(axis.parts.iter().map(|part| ((*part).to_owned(), Value::String(axis.default.into()))));
    }
    here.insert((*last).to_owned(), value);
    Ok(())
}

/// A TOML value where the text is one, otherwise the text itself: `--set kv.select=h2o` needs no quotes.
fn parse_value(text: &str) -> Value {
    let text = text.trim();
    match format!("v = {text}").parse::<Table>() {
        Ok(mut table) => table.remove("v").unwrap_or_else(|| Value::String(text.to_owned())),
        Err(_) => Value::String(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::Bytes;
    use crate::catalog::from_toml;
    use crate::config::{Choice, KvBudget};

    fn fails(text: &str, sets: &[(&str, &str)]) -> String {
        let sets: Vec<_> = sets.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        from_toml(text, &sets).unwrap_err().to_string()
    }

    fn reads(text: &str, sets: &[(&str, &str)]) -> Config {
        let sets: Vec<_> = sets.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        from_toml(text, &sets).unwrap()
    }

    #[test]
    fn an_id_and_a_table_mean_the_same() {
        let a = reads("[kv]\nselect = \"h2o\"", &[]);
        let b = reads("[kv]\nselect = { use = \"h2o\" }", &[]);
        assert_eq!(a, b);
        assert_eq!(a.kv.select, Choice::from("h2o"));
    }

    #[test]
    fn overrides_reach_any_key() {
        let c = reads(
            "",
            &[
                ("kv.select", "window"),
                ("kv.select.n_sink", "2"),
                ("kv.budget.ratio", "0.2"),
                ("kv.budget.rows", "64"),
                ("kv.format.k", "q8_0"),
                ("budget.device", "512 MiB"),
                ("run.sampling.temperature", "0.5"),
            ],
        );
        assert_eq!(c.kv.select.knobs.int("n_sink"), Some(2));
        assert_eq!(c.kv.budget, Some(KvBudget::Rows(64)));
        assert_eq!((c.kv.format.k.id.as_str(), c.kv.format.v.id.as_str()), ("q8_0", "f16"));
        assert_eq!(c.budget.device, Bytes::mib(512));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, sets, words) in [
            ("[kv]\nselekt = \"h2o\"", &[][..], &["selekt"][..]),
            ("[kv]\nselect = \"h20\"", &[], &["kv.select", "h20", "window"]),
            ("", &[("kv.select", "window"), ("kv.select.sinks", "3")], &["sinks", "n_sink"]),
            ("[budget]\ndevice = \"512 parsecs\"", &[], &["parsecs", "MiB"]),
            ("[kv.budget]\nratio = 1.5", &[], &["kv.budget.ratio", "1.5"]),
            ("[run]\nsequences = 0", &[], &["run.sequences", "0"]),
            ("[run]\ncontext = \"abc\"", &[], &["run.context", "`abc`", "a whole number"]),
            ("[run]\ncontext = -5", &[], &["run.context", "`-5`", "a whole number"]),
            ("[run.sampling]\ntemp = 1", &[], &["run.sampling.temp", "temperature"]),
            ("[[run.turns]]\nrole = \"user\"\ncontent = \"Hi\"", &[], &["run.turns", "run.chat = true"]),
            (
                "[run]\nchat = true\nturns = [{ role = \"narrator\", content = \"\" }]",
                &[],
                &["run.turns", "`narrator`", "user, assistant"],
            ),
            (
                "[run]\nchat = true\nturns = [{ role = \"user\", text = \"\" }]",
                &[],
                &["run.turns", "`text`", "role, content"],
            ),
            ("[run]\nchat = true\nturns = [{ role = \"user\" }]", &[], &["run.turns", "content"]),
            ("[run]\ncompute = \"fp8\"", &[], &["run.compute", "`fp8`", "exact, int8"]),
            ("[run]\nstop = 3", &[], &["run.stop", "a list of texts"]),
            ("run = 3", &[], &["run", "`3`", "a section"]),
            ("speed = 3", &[], &["speed", "budget"]),
            ("[kv]\nbudget = 5", &[], &["kv.budget", "`5`", "ratio"]),
            ("[kv]\nbudget = { rows = 3, ratio = 0.5 }", &[], &["kv.budget", "exactly one"]),
            ("[kv.budget]\nfoo = 1", &[], &["kv.budget.foo", "rows"]),
            ("[kv.budget]\nrows = 0", &[], &["kv.budget.rows", "`0`"]),
            ("", &[("", "3")], &["--set", "empty"]),
            ("[machine]\ndevice = \"tpu\"", &[], &["machine.device", "tpu", "cpu"]),
            ("[train]\nsteps = -3", &[], &["train.steps", "`-3`"]),
            ("[run", &[], &["TOML"]),
            ("[run]\nseed = 18446744073709551615", &[], &["run.seed: ", "line 2"]),
            ("run.seed = 9223372036854775808", &[], &["run.seed: "]),
            ("[run]\nseed = \"7\"", &[], &["run.seed", "`7`", "without quotes"]),
            ("", &[("run.seed", "18446744073709551615")], &["run.seed", "0 to 9223372036854775807"]),
            ("", &[("run.seed", "-1")], &["run.seed", "`-1`"]),
            ("[train]\nlr = 1e", &[], &["train.lr: ", "line 2"]),
            ("[[run]]\nprompt = \"x\"", &[], &["run: ", "[run]"]),
            ("[[train]]", &[], &["train: ", "[train]"]),
            ("run = [\"taken for the prompt\"]", &[], &["run: ", "[run]"]),
            ("[run]\nsampling = [0.5, 1]", &[], &["run.sampling: ", "[run.sampling]"]),
            ("[kv]\nbudget = [\"1 MiB\"]", &[], &["kv.budget: ", "list"]),
            ("[[kv.select]]\nuse = \"h2o\"", &[], &["kv.select"]),
            ("[run]\nchat = true\nturns = [[\"user\", \"Hi\"]]", &[], &["run.turns.0", "role, content"]),
            ("[weights]\noverride = [[\"*\", \"q8_0\"]]", &[], &["weights.override.0", "tensors, format"]),
            ("", &[("run.turns.0.role", "user")], &["run.turns"]),
            ("", &[("run.0.x", "1")], &["run", "`0`"]),
            ("", &[("model.path.k", "1")], &["model.path"]),
            ("", &[("kv..select", "h2o")], &["--set", "empty"]),
            ("", &[("schema.x", "1")], &["schema"]),
            ("schema = 7", &[], &["schema", "7"]),
        ] {
            let error = fails(text, sets);
            for word in words {
                assert!(error.contains(word), "{text} {sets:?}: {error}");
            }
        }
    }

    #[test]
    fn what_is_saved_reads_back_the_same() {
        let c = reads(
            "",
            &[
                ("kv.select", "{ use = \"h2o\", heavy_ratio = 0.25 }"),
                ("kv.format", "{ k = \"q8_0\", v = \"q4_0\" }"),
                ("kv.budget.bytes", "8 MiB"),
                ("eval.needle.lengths", "[256, 512]"),
                ("observe.attention", "thumbnails"),
                ("run.stop", "[\"\\n\"]"),
                ("run.chat", "true"),
                (
                    "run.turns",
                    "[{ role = \"user\", content = \"Hi\" }, { role = \"assistant\", content = \"Hello\\n\" }]",
                ),
            ],
        );
        assert_eq!(c.run.turns.len(), 2);
        assert_eq!(from_toml(&c.to_toml().unwrap(), &[]).unwrap(), c);
    }
}
