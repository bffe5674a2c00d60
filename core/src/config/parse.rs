//! From TOML text and `--set` overrides to a [`Config`].

use toml::{Table, Value};

use super::train::Train;
use super::{Axis, Config, Observe, axes};
use crate::error::{Error, Result};

/// The key of a choice's variant, beside its knobs.
const USE: &str = "use";

/// Reads TOML and applies the overrides in order. What it says is still to be checked by the catalogue.
///
/// # Errors
/// [`Error::Config`] naming the key (and, for syntax, the line).
pub fn parse(text: &str, overrides: &[(String, String)]) -> Result<Config> {
    let mut table: Table = text.parse().map_err(|e: toml::de::Error| Error::config("the TOML", syntax(&e)))?;
    for (key, value) in overrides {
        set_key(&mut table, key, value)?;
    }
    name_variants(&mut table);
    let given = Value::Table(table);
    let whole = Config { train: Some(Train::default()), observe: Some(Observe::default()), ..Config::default() };
    single("", &given, &Value::try_from(whole).map_err(written)?)?;
    // Section by section, so that a wrong key is named with its section.
    let config: Config = given.clone().try_into().map_err(|e: toml::de::Error| {
        let key =
            e.to_string().lines().find_map(|l| l.strip_prefix("in `").map(|k| k.trim_end_matches('`').to_owned()));
        plainly(key.unwrap_or_default(), e.message())
    })?;
    // A list of values passes for a table whose keys are in that order: what came out as one was meant as something else.
    single("", &given, &Value::try_from(&config).map_err(written)?)?;
    Ok(config)
}

fn written(e: toml::ser::Error) -> Error {
    Error::Internal(format!("writing the configuration: {e}"))
}

/// What is wrong with TOML that does not parse.
fn syntax(e: &toml::de::Error) -> String {
    let far = e.message().contains("overflow") || e.message().contains("too large");
    let hint = format!("\nwhole numbers end at {}; a larger run.seed is written in quotes", i64::MAX);
    format!("{e}{}", if far { hint.as_str() } else { "" })
}

/// Checks that a list stands nowhere in `given` where `model` has a table.
fn single(key: &str, given: &Value, model: &Value) -> Result<()> {
    match (given, model) {
        (Value::Array(list), Value::Table(_)) => {
            let message = match list.first() {
                Some(Value::Table(_)) => {
                    format!("`[[{key}]]` begins a list of tables, and one table is wanted; write `[{key}]`, once")
                }
                _ => "a list is not allowed; a table with keys of its own is wanted".to_owned(),
            };
            Err(Error::config(key, message))
        }
        (Value::Table(given), Value::Table(model)) => given.iter().try_for_each(|(name, value)| {
            let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
            model.get(name).map_or(Ok(()), |model| single(&key, value, model))
        }),
        (Value::Array(given), Value::Array(model)) => {
            let mut each = given.iter().zip(model).enumerate();
            each.try_for_each(|(i, (given, model))| single(&format!("{key}.{i}"), given, model))
        }
        _ => Ok(()),
    }
}

/// Names the variant of every choice that is knobs alone: they are of what the axis has when nothing is chosen.
fn name_variants(table: &mut Table) {
    for axis in axes::all().filter(|a| !a.default.is_empty()) {
        let mut path = axis.key.split('.');
        let first = path.next().and_then(|name| table.get_mut(name));
        let Some(Value::Table(choice)) = path.fold(first, |at, name| at?.as_table_mut()?.get_mut(name)) else {
            continue;
        };
        let halves: Vec<_> = axis.parts.iter().filter(|part| choice.contains_key(**part)).collect();
        if halves.is_empty() {
            name_variant(choice, axis);
        }
        for half in halves {
            if let Some(Value::Table(choice)) = choice.get_mut(*half) {
                name_variant(choice, axis);
            }
        }
    }
}

fn name_variant(choice: &mut Table, axis: &Axis) {
    if !choice.is_empty() && !choice.contains_key(USE) {
        choice.insert(USE.into(), Value::String(axis.default.into()));
    }
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
    if let Some((value, wanted)) = told.and_then(|t| t.split_once(", expected ")) {
        // `string "x"`, "integer `3`": the value is what the reader wrote.
        let value = value.find(['"', '`']).map_or(value, |at| value[at..].trim_matches(['"', '`']));
        let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
        let wanted = match wanted {
            "usize" | "u64" | "u32" if digits => "it is too large: whole numbers end at 9223372036854775807",
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

/// Sets a dotted key, making tables on the way. A choice given by id becomes a table when one of its knobs is set, and one of
/// both keys and values two of them when one half is.
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
        match axis(&parts[..=depth]).filter(|axis| axis.parts.contains(&parts[depth + 1])) {
            Some(axis) => split(slot, axis),
            None => open(slot),
        }
        here = slot
            .as_table_mut()
            .ok_or_else(|| Error::config(key, format!("`{}` is a value, not a section", parts[..=depth].join("."))))?;
    }
    // `kv.budget` is one of three dialects: setting one replaces another.
    if path.ends_with(&["kv", "budget"]) {
        here.clear();
    }
    // What is set of a choice in two halves as a whole: a variant replaces both, a knob is each one's.
    if let Some(axis) =
        axis(path).filter(|axis| !axis.parts.contains(last) && axis.parts.iter().any(|p| here.contains_key(*p)))
    {
        if *last != USE {
            for part in axis.parts {
                let Some(half) = here.get_mut(*part) else { continue };
                open(half);
                if let Value::Table(half) = half {
                    half.insert((*last).to_owned(), value.clone());
                }
            }
            return Ok(());
        }
        here.clear();
    }
    here.insert((*last).to_owned(), value);
    Ok(())
}

/// The axis whose key these parts are.
fn axis(parts: &[&str]) -> Option<&'static Axis> {
    axes::all().find(|axis| axis.key.split('.').eq(parts.iter().copied()))
}

/// An id becomes a table with room for its knobs.
fn open(slot: &mut Value) {
    if let Value::String(id) = slot {
        *slot = Value::Table(Table::from_iter([(USE.to_owned(), Value::String(std::mem::take(id)))]));
    }
}

/// One choice for both halves becomes one for each; where nothing is chosen, the default.
fn split(slot: &mut Value, axis: &Axis) {
    let both = match &*slot {
        Value::Table(t) if axis.parts.iter().any(|part| t.contains_key(*part)) => return,
        Value::Table(t) if t.is_empty() => Value::String(axis.default.into()),
        other => other.clone(),
    };
    *slot = Value::Table(axis.parts.iter().map(|part| ((*part).to_owned(), both.clone())).collect());
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
    fn a_knob_alone_is_of_what_is_chosen_or_of_the_default_on_every_axis() {
        let c = reads("", &[("train.params.r", "4"), ("train.optimizer.state_dtype", "bf16")]);
        let train = c.train.unwrap();
        assert_eq!((train.params.id.as_str(), train.params.knobs.int("r")), ("lora", Some(4)));
        assert_eq!(train.optimizer.id, "adamw");
        let c = reads("[train.params]\nr = 4\n[kv]\nselect = \"h2o\"", &[("kv.select.heavy_ratio", "0.25")]);
        assert_eq!(c.train.unwrap().params.knobs.int("r"), Some(4));
        assert_eq!((c.kv.select.id.as_str(), c.kv.select.knobs.float("heavy_ratio")), ("h2o", Some(0.25)));
        // Of every axis, a knob of its default, where that has one; on the halves of a choice as well.
        let mut tried = 0;
        for axis in axes::all().filter(|a| !a.default.is_empty()) {
            let about = crate::catalog::find(axis, axis.key, axis.default).unwrap();
            for knob in about.knobs {
                let Some(value) = knob.default_value() else { continue };
                let written =
                    if let crate::config::KnobValue::Text(t) = &value { format!("{t:?}") } else { value.to_string() };
                for half in if axis.parts.is_empty() { &[""][..] } else { &["", ".k", ".v"] } {
                    let key = format!("{}{half}.{}", axis.key, knob.id);
                    let c = parse("", &[(key.clone(), written.clone())]).unwrap();
                    let choices = c.choices();
                    let named = choices.iter().filter(|(a, ..)| *a == axis);
                    let given = named.filter(|(.., choice)| choice.knobs.0.contains_key(knob.id)).count();
                    assert_eq!(given, if half.is_empty() { axis.parts.len().max(1) } else { 1 }, "{key}");
                    tried += 1;
                }
            }
        }
        assert!(tried > 5, "{tried}");
        // One half of a choice in one word, then a knob of both.
        let c = reads("[kv]\nformat = \"kivi\"", &[("kv.format.k.group_size", "64")]);
        assert_eq!((c.kv.format.k.knobs.int("group_size"), c.kv.format.v.id.as_str()), (Some(64), "kivi"));
        let c = parse(
            "",
            &[
                ("kv.format.k".into(), "kivi".into()),
                ("kv.format.v".into(), "kivi".into()),
                ("kv.format.group_size".into(), "64".into()),
            ],
        )
        .unwrap();
        assert_eq!(
            (c.kv.format.k.knobs.int("group_size"), c.kv.format.v.knobs.int("group_size")),
            (Some(64), Some(64))
        );
        assert!(fails("", &[("kv.select.heavy_ratio", "0.5")]).contains("`full`"));
    }

    #[test]
    fn a_seed_is_any_whole_number_of_64_bits() {
        for (text, seed) in [
            ("0", 0),
            ("9223372036854775807", i64::MAX as u64),
            ("9223372036854775808", 1 << 63),
            ("18446744073709551615", u64::MAX),
        ] {
            let c = reads("", &[("run.seed", text)]);
            assert_eq!(c.run.seed, seed);
            assert_eq!(reads(&c.to_toml().unwrap(), &[]), c);
            assert_eq!(reads(&format!("run.seed = \"{text}\""), &[]), c);
            assert_eq!(serde_json::from_str::<Config>(&serde_json::to_string(&c).unwrap()).unwrap(), c);
        }
        for text in ["-1", "18446744073709551616", "1.5", "x", "\"\""] {
            let error = fails("", &[("run.seed", text)]);
            assert!(error.contains("run.seed") && error.contains("from 0 to 18446744073709551615"), "{error}");
        }
        let error = fails("[run]\nseed = 18446744073709551615", &[]);
        assert!(error.contains("line 2") && error.contains("in quotes"), "{error}");
        assert!(fails("", &[("run.batch", "99999999999999999999")]).contains("too large"));
    }

    #[test]
    fn a_list_where_one_table_is_wanted_is_named() {
        for (text, words) in [
            ("[[run]]\nseed = 3", &["run: ", "`[[run]]`", "`[run]`"][..]),
            ("[[run]]", &["run: ", "`[run]`"]),
            ("run = [\"Once\"]", &["run: ", "a list is not allowed", "a table"]),
            ("[[budget]]\ndevice = \"1 MiB\"", &["budget: ", "`[budget]`"]),
            ("[[run.sampling]]\ntop_k = 3", &["run.sampling: ", "`[run.sampling]`"]),
            ("[[train]]\nsteps = 3", &["train: ", "`[train]`"]),
            ("[[observe]]\nbins = 3", &["observe: ", "`[observe]`"]),
            ("[[kv]]\nselect = \"h2o\"", &["kv: ", "`[kv]`"]),
            ("[[kv.select]]\nuse = \"h2o\"", &["kv.select: "]),
            ("[run]\nchat = true\nturns = [[\"user\", \"Hi\"]]", &["run.turns.0: ", "a list is not allowed"]),
            ("[weights]\noverride = [[\"*\", \"original\"]]", &["weights.override.0: ", "a list"]),
        ] {
            let error = fails(text, &[]);
            for word in words {
                assert!(error.contains(word), "{text}: {error}");
            }
        }
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
            ("[run]\ncompute = \"fp8\"", &[], &["run.compute", "`fp8`", "auto, exact, int8, half"]),
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
