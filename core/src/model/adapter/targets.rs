//! Which modules a configuration of PEFT's means, and which of its pattern tables' values is a module's.

use std::fmt;
use std::marker::PhantomData;

use fancy_regex::Regex;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

/// Most patterns of a table.
const MOST: usize = 4096;
/// Steps that a pattern may take over a name; names have some 40 letters.
const STEPS: usize = 10_000;

/// A JSON object's pairs in the order of the file, in which PEFT tries them.
#[derive(Clone, Debug, Default)]
pub(super) struct Ordered<T>(pub Vec<(String, T)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Ordered<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Pairs<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Pairs<T> {
            type Value = Ordered<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("patterns and their values")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut out: Vec<(String, T)> = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, T>()? {
                    // As in Python: the place of the first, the value of the last.
                    let full = out.len() >= MOST;
                    match out.iter_mut().find(|(k, _)| *k == key) {
                        Some((_, old)) => *old = value,
                        None if full => {
                            return Err(serde::de::Error::custom(format!("more than {MOST} patterns")));
                        }
                        None => out.push((key, value)),
                    }
                }
                Ok(Ordered(out))
            }
        }
        d.deserialize_map(Pairs(PhantomData))
    }
}

/// An expression over a whole name, in Python's syntax as far as both have it.
fn whole(pattern: &str) -> Result<Regex, String> {
    let made = fancy_regex::RegexBuilder::new(&format!(r"\A(?:{pattern})\z")).backtrack_limit(STEPS).build();
    made.map_err(|e| format!("`{}` is no regular expression: {e}", pattern.escape_debug()))
}

fn matches(regex: &Regex, name: &str) -> Result<bool, String> {
    regex.is_match(name).map_err(|e| format!("`{}` over `{name}`: {e}", regex.as_str().escape_debug()))
}

/// A table such as `rank_pattern`, ready to be asked.
#[derive(Debug)]
pub(super) struct Patterns<T>(Vec<(Regex, T)>);

impl<T: Copy> Patterns<T> {
    /// The table of a configuration.
    pub fn new(table: Option<&Ordered<T>>) -> Result<Self, String> {
        let pairs = table.into_iter().flat_map(|t| &t.0);
        pairs
            .map(|(key, value)| Ok((whole(&format!(r"(?:.*\.)?(?:{key})"))?, *value)))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The value of the first pattern, in the order of the file, that a module's name ends in.
    pub fn of(&self, module: &str) -> Result<Option<T>, String> {
        for (regex, value) in &self.0 {
            if matches(regex, module)? {
                return Ok(Some(*value));
            }
        }
        Ok(None)
    }
}

/// One name or several, or an expression over the whole name.
#[derive(Debug)]
enum Modules {
    Ends(Vec<String>),
    Whole(Box<Regex>),
}

impl Modules {
    fn new(field: &str, value: Option<&Value>) -> Result<Option<Self>, String> {
        Ok(match value {
            None | Some(Value::Null) => None,
            Some(Value::String(pattern)) => Some(Self::Whole(Box::new(whole(pattern)?))),
            Some(Value::Array(list)) => {
                let names = list.iter().map(|v| v.as_str().map(ToOwned::to_owned)).collect::<Option<_>>();
                Some(Self::Ends(names.ok_or_else(|| format!("{field} is a list of something else than names"))?))
            }
            Some(other) => return Err(format!("{field} is {other}, and is a name, an expression or a list")),
        })
    }

    fn holds(&self, module: &str) -> Result<bool, String> {
        match self {
            Self::Whole(regex) => matches(regex, module),
            Self::Ends(names) => Ok(names
                .iter()
                .any(|n| module == n || module.strip_suffix(n.as_str()).is_some_and(|h| h.ends_with('.')))),
        }
    }
}

/// Which modules get factors.
#[derive(Debug)]
pub(super) struct Targets {
    /// None: every linear of a layer.
    of: Option<Modules>,
    not: Option<Modules>,
    layers: Option<Vec<u64>>,
    /// What stands before the number of a layer; any module's list where there is none.
    lists: Vec<Regex>,
}

impl Targets {
    /// What `get` has under PEFT's names.
    ///
    /// # Errors
    /// A field that says something else than PEFT reads, with its name.
    pub fn new<'v>(get: impl Fn(&str) -> Option<&'v Value>) -> Result<Self, (&'static str, String)> {
        let of = match get("target_modules") {
            Some(Value::String(all)) if all.eq_ignore_ascii_case("all-linear") => None,
            value => Modules::new("target_modules", value).map_err(|m| ("target_modules", m))?,
        };
        let not = Modules::new("exclude_modules", get("exclude_modules")).map_err(|m| ("exclude_modules", m))?;
        let not = not.filter(|not| !matches!(not, Modules::Ends(names) if names.is_empty()));
        const LAYERS: &str = "layers_to_transform";
        let bad = || (LAYERS, "is neither a number nor a list of numbers".to_owned());
        let layers = match get(LAYERS) {
            None | Some(Value::Null) => None,
            Some(Value::Array(list)) if list.is_empty() => None,
            Some(Value::Array(list)) => Some(list.iter().map(Value::as_u64).collect::<Option<_>>().ok_or_else(bad)?),
            Some(one) => Some(vec![one.as_u64().ok_or_else(bad)?]),
        };
        let names = match get("layers_pattern") {
            Some(Value::String(one)) if !one.is_empty() => vec![one.clone()],
            Some(Value::Array(list)) => list.iter().filter_map(|v| v.as_str().map(ToOwned::to_owned)).collect(),
            _ => Vec::new(),
        };
        let lists = names.iter().map(|name| whole(&format!(r"(?:.*?\.)?{name}"))).collect::<Result<_, _>>();
        Ok(Self { of, not, layers, lists: lists.map_err(|m| ("layers_pattern", m))? })
    }

    /// Why the module of this full name has no factors in PEFT; nothing where it has. Outside the layers `layer` is none.
    pub fn leaves_out(&self, layer: Option<u64>, module: &str) -> Result<Option<&'static str>, String> {
        if let Some(not) = &self.not
            && not.holds(module)?
        {
            return Ok(Some("exclude_modules"));
        }
        // Neither the embedding, which is no linear, nor the head is among all linears.
        let Some(of) = &self.of else { return Ok(layer.is_none().then_some("target_modules")) };
        if !of.holds(module)? {
            return Ok(Some("target_modules"));
        }
        // An expression says itself which layers it means.
        let (Some(layers), Modules::Ends(names)) = (&self.layers, of) else { return Ok(None) };
        // What is named in full is meant whatever its layer.
        if names.iter().any(|name| name == module) {
            return Ok(None);
        }
        if layer.is_none_or(|layer| !layers.contains(&layer)) {
            return Ok(Some("layers_to_transform"));
        }
        let before = layer.and_then(|layer| module.split_once(&format!(".{layer}."))).map_or("", |(before, _)| before);
        for list in &self.lists {
            if matches(list, before)? {
                return Ok(None);
            }
        }
        Ok((!self.lists.is_empty()).then_some("layers_pattern"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const Q0: &str = "model.layers.0.self_attn.q_proj";

    /// PEFT 0.21: `get_pattern_key` of the same tables and names.
    #[test]
    fn the_first_pattern_of_the_file_counts() {
        let of = |json: &str, module: &str| {
            let table: Ordered<u32> = serde_json::from_str(json).unwrap();
            Patterns::new(Some(&table)).and_then(|p| p.of(module))
        };
        for (json, q0, down) in [
            (r#"{"q_proj": 1, "model.layers.0.self_attn.q_proj": 2}"#, Some(1), None),
            (r#"{"model.layers.0.self_attn.q_proj": 2, "q_proj": 1}"#, Some(2), None),
            (r#"{".*\\.q_proj": 3, "down_proj": 4}"#, Some(3), Some(4)),
            (r#"{"layers\\.0\\..*q_proj": 3}"#, Some(3), None),
            (r#"{"(q|v)_proj": 3, ".*": 5}"#, Some(3), Some(5)),
            (r#"{"q|down_proj": 3}"#, None, Some(3)),
            (r#"{"^model.layers.0.self_attn.q_proj": 3, "^q_proj": 4}"#, Some(3), None),
            (r#"{"_proj": 3, "proj": 4, "q": 5}"#, None, None),
            (r#"{"q_proj": 1, "x": 2, "q_proj": 7}"#, Some(7), None),
            (r#"{"(?!.*q_proj).*": 1}"#, None, Some(1)),
            ("{}", None, None),
        ] {
            assert_eq!(of(json, Q0), Ok(q0), "{json}");
            assert_eq!(of(json, "model.layers.1.mlp.down_proj"), Ok(down), "{json}");
        }
        assert!(of(r#"{"(q_proj": 1}"#, Q0).unwrap_err().contains("(q_proj"));
        let many: Vec<String> = (0..=MOST).map(|n| format!("\"{n}\": 1")).collect();
        assert!(serde_json::from_str::<Ordered<u32>>(&format!("{{{}}}", many.join(","))).is_err());
        // Not in one second more than a name is worth.
        assert!(
            of(r#"{"(.*.*)*.*.*.*x(?=y)": 1}"#, Q0).is_ok_and(|v| v.is_none())
                || of(r#"{"(.*.*)*.*.*.*x(?=y)": 1}"#, Q0).is_err()
        );
    }

    /// PEFT 0.21: `check_target_module_exists`.
    #[test]
    fn modules_are_those_that_peft_means() {
        let out = |json: &str, layer: u64, part: &str| {
            let fields: serde_json::Map<String, Value> = serde_json::from_str(json).unwrap();
            let module = format!("model.layers.{layer}.{part}");
            Targets::new(|name| fields.get(name)).unwrap().leaves_out(Some(layer), &module).unwrap()
        };
        let (q, down) = ("self_attn.q_proj", "mlp.down_proj");
        for (json, q0, down1) in [
            ("{}", None, None),
            (r#"{"target_modules": "all-linear"}"#, None, None),
            (r#"{"target_modules": ["q_proj"]}"#, None, Some("target_modules")),
            (r#"{"target_modules": ["self_attn.q_proj", "proj"]}"#, None, Some("target_modules")),
            (r#"{"target_modules": ".*(q_proj|v_proj)"}"#, None, Some("target_modules")),
            (r#"{"target_modules": "q_proj"}"#, Some("target_modules"), Some("target_modules")),
            (
                r#"{"target_modules": ["q_proj", "down_proj"], "layers_to_transform": [1]}"#,
                Some("layers_to_transform"),
                None,
            ),
            (
                r#"{"target_modules": ["q_proj", "down_proj"], "layers_to_transform": 0}"#,
                None,
                Some("layers_to_transform"),
            ),
            (r#"{"target_modules": ["q_proj", "down_proj"], "layers_to_transform": []}"#, None, None),
            (
                r#"{"target_modules": ["q_proj"], "layers_to_transform": [0], "layers_pattern": "layers"}"#,
                None,
                Some("target_modules"),
            ),
            (
                r#"{"target_modules": ["q_proj"], "layers_to_transform": [0], "layers_pattern": ["h"]}"#,
                Some("layers_pattern"),
                Some("target_modules"),
            ),
            (r#"{"target_modules": ".*_proj", "layers_to_transform": [7]}"#, None, None),
            (r#"{"target_modules": "all-linear", "exclude_modules": ["down_proj"]}"#, None, Some("exclude_modules")),
            (
                r#"{"target_modules": ["q_proj"], "exclude_modules": ".*layers.0.*"}"#,
                Some("exclude_modules"),
                Some("target_modules"),
            ),
        ] {
            assert_eq!(out(json, 0, q), q0, "{json}");
            assert_eq!(out(json, 1, down), down1, "{json}");
        }
        let wrong = |json: &str| {
            let fields: serde_json::Map<String, Value> = serde_json::from_str(json).unwrap();
            Targets::new(|name| fields.get(name)).unwrap_err().0
        };
        assert_eq!(wrong(r#"{"target_modules": 3}"#), "target_modules");
        assert_eq!(wrong(r#"{"layers_to_transform": "x"}"#), "layers_to_transform");
        assert_eq!(wrong(r#"{"exclude_modules": "("}"#), "exclude_modules");
    }
}
