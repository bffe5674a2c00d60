//! Chat templates: the Jinja text in a model file that turns messages into a prompt. It is untrusted: it renders with a limit on its
//! steps and on the bytes that it makes, and reaches nothing but the messages.

use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::syntax::SyntaxConfig;
use std::collections::BTreeMap;

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, ErrorKind, State, context};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::model::gguf::Gguf;

/// The metadata key of a template.
pub const KEY: &str = "tokenizer.chat_template";

/// Bytes of the longest template that is read; real ones have up to some 20 kB.
const LONGEST_SOURCE: usize = 1 << 20;
/// Steps a template may take, one for about every instruction and every 64 bytes that it makes: milliseconds, and 32 MB.
const STEPS: u64 = 500_000;
/// Further steps for every byte of the messages, which a template may copy and search several times.
const STEPS_PER_BYTE: u64 = 1;

/// For models without a template of their own.
const PLAIN: &str = "{% for m in messages %}{{ m.role|capitalize }}: {{ m.content|trim }}\n{% endfor %}\
                     {% if add_generation_prompt %}Assistant:{% endif %}";

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`, or what else the template knows.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// `content` said by `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// A template that has been read and can render.
#[derive(Debug)]
pub struct ChatTemplate {
    env: Environment<'static>,
}

impl ChatTemplate {
    /// Reads `source` as Hugging Face's templates are written: blocks trimmed, Python's methods on strings and lists,
    /// `raise_exception`, `strftime_now`, and `tojson` that writes what Python writes.
    ///
    /// # Errors
    /// [`Error::Refused`] with the place when it is no template, or longer than a mebibyte.
    pub fn new(source: &str) -> Result<Self> {
        if source.len() > LONGEST_SOURCE {
            return Err(refused(format!("{} bytes long; at most {LONGEST_SOURCE} are read", source.len())));
        }
        let mut env = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        env.set_syntax(syntax.map_err(|e| Error::Internal(e.to_string()))?);
        env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        env.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message).with_source(Raised))
        });
        env.add_function("strftime_now", |format: String| strftime(&format, now()));
        env.add_filter("tojson", tojson);
        env.add_template_owned("chat", source.to_owned()).map_err(|e| refused(place(&e)))?;
        Ok(Self { env })
    }

    /// The template of `file`, `None` when it has none.
    ///
    /// # Errors
    /// As [`Self::new`], naming the file.
    pub fn from_gguf(file: &Gguf) -> Result<Option<Self>> {
        let Some(source) = file.str(KEY)? else { return Ok(None) };
        Self::new(source).map(Some).map_err(|e| match e {
            Error::Refused { reason, .. } => file.error(KEY, reason),
            other => other,
        })
    }

    /// A plain form (`User: …`, `Assistant: …`) for models without a template.
    ///
    /// # Errors
    /// None in practice; the form is read as any other is.
    pub fn plain() -> Result<Self> {
        Self::new(PLAIN)
    }

    /// The prompt of `messages`; with `add_generation_prompt` it ends where the assistant begins. `bos` and `eos` are the texts of
    /// those tokens, empty when the model has none. The result is to be encoded with special tokens parsed, and without adding the
    /// beginning of text once more when it begins with `bos`.
    ///
    /// # Errors
    /// [`Error::Refused`] when the template does not accept the messages, fails, or takes too many steps.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool, bos: &str, eos: &str) -> Result<String> {
        let bytes: usize = messages.iter().map(|m| m.role.len() + m.content.len()).sum();
        let steps = STEPS + bytes as u64 * STEPS_PER_BYTE;
        let mut env = self.env.clone();
        env.set_fuel(Some(steps));
        let template = env.get_template("chat").map_err(|e| refused(place(&e)))?;
        let messages: Vec<Value> = messages
            .iter()
            .map(|m| BTreeMap::from([("role", Value::from(&m.role)), ("content", Value::from(&m.content))]).into())
            .collect();
        let context = context! { messages, add_generation_prompt, bos_token => bos, eos_token => eos };
        template.render(context).map_err(|e| {
            if std::error::Error::source(&e).is_some_and(|s| s.is::<Raised>()) {
                let words = e.detail().unwrap_or("no reason given");
                return Error::refused("this conversation", format!("the model's chat template says: {words}"));
            }
            refused(match e.kind() {
                ErrorKind::OutOfFuel => {
                    format!("stopped after {steps} steps; the template does not end, or repeats far too much")
                }
                _ => place(&e),
            })
        })
    }
}

/// Marks what a template itself raised.
#[derive(Debug, thiserror::Error)]
#[error("raised by the template")]
struct Raised;

fn refused(reason: impl Into<String>) -> Error {
    Error::refused("the chat template", reason)
}

fn place(e: &minijinja::Error) -> String {
    let detail = e.detail().map(|d| format!(": {d}")).unwrap_or_default();
    let line = e.line().map(|n| format!(" (line {n})")).unwrap_or_default();
    format!("{}{detail}{line}", e.kind())
}

/// `json.dumps(value, ensure_ascii=False, indent=indent)`, as Hugging Face's templates mean it (the built-in filter escapes HTML).
fn tojson(state: &State, value: Value, kwargs: Kwargs) -> Result<Value, minijinja::Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    // Accepted, and of no effect here: nothing is escaped, keys are in the order of the map.
    let _: (Option<bool>, Option<bool>) = (kwargs.get("ensure_ascii")?, kwargs.get("sort_keys")?);
    kwargs.assert_all_used()?;
    let mut out = String::new();
    write_json(state, &value, indent.map(|n| n.min(16)), 0, &mut out)?;
    Ok(Value::from_safe_string(out))
}

fn write_json(
    state: &State,
    value: &Value,
    indent: Option<usize>,
    depth: usize,
    out: &mut String,
) -> Result<(), minijinja::Error> {
    let bad = |what: String| minijinja::Error::new(ErrorKind::BadSerialization, what);
    if depth > 64 {
        return Err(bad("nested more than 64 deep".into()));
    }
    state.consume_fuel(1)?;
    let line = |out: &mut String, depth: usize| {
        if let Some(n) = indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', n * depth));
        }
    };
    let string = |text: &str, out: &mut String| {
        state.consume_fuel(text.len() as u64 / 64)?;
        *out += &serde_json::to_string(text).map_err(|e| bad(e.to_string()))?;
        Ok::<_, minijinja::Error>(())
    };
    let comma = if indent.is_some() { "," } else { ", " };
    match value.kind() {
        ValueKind::None => *out += "null",
        ValueKind::Bool => *out += if value.is_true() { "true" } else { "false" },
        ValueKind::Number => *out += &value.to_string(),
        ValueKind::String => string(value.as_str().unwrap_or_default(), out)?,
        kind @ (ValueKind::Seq | ValueKind::Iterable | ValueKind::Map) => {
            let map = kind == ValueKind::Map;
            out.push(if map { '{' } else { '[' });
            let mut empty = true;
            for item in value.try_iter()? {
                *out += if empty { "" } else { comma };
                empty = false;
                line(out, depth + 1);
                if map {
                    string(&item.to_string(), out)?;
                    *out += ": ";
                    write_json(state, &value.get_item(&item)?, indent, depth + 1, out)?;
                } else {
                    write_json(state, &item, indent, depth + 1, out)?;
                }
            }
            if !empty {
                line(out, depth);
            }
            out.push(if map { '}' } else { ']' });
        }
        kind => return Err(bad(format!("{kind} is no JSON"))),
    }
    Ok(())
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Python's `strftime` in UTC, English; codes it does not know stay as they are.
fn strftime(format: &str, seconds: u64) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let hour12 = (hour + 11) % 12 + 1;
    // The Gregorian calendar in eras of 400 years whose years begin in March (Hinnant, "chrono-compatible low-level date algorithms").
    let shifted = days + 719_468;
    let (era, in_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (in_era - in_era / 1460 + in_era / 36_524 - in_era / 146_096) / 365;
    let in_year = in_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march = (5 * in_year + 2) / 153;
    let day = in_year - (153 * march + 2) / 5 + 1;
    let month = (march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    // March 1 is day 60, or 61 in a leap year.
    let of_year = if month > 2 { in_year + 60 + u64::from(leap) } else { in_year - 305 };
    let (month_name, day_name) = (MONTHS[month as usize - 1], DAYS[(days % 7) as usize]);

    let mut out = String::with_capacity(format.len() + 16);
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let code = chars.next();
        // `%-d`: without the leading zero.
        let (bare, code) = if code == Some('-') { (true, chars.next()) } else { (false, code) };
        let two = |n: u64| if bare { n.to_string() } else { format!("{n:02}") };
        match code {
            Some('Y') => out += &year.to_string(),
            Some('y') => out += &two(year % 100),
            Some('m') => out += &two(month),
            Some('d') => out += &two(day),
            Some('e') => out += &format!("{day:2}"),
            Some('j') => out += &if bare { of_year.to_string() } else { format!("{of_year:03}") },
            Some('H') => out += &two(hour),
            Some('I') => out += &two(hour12),
            Some('M') => out += &two(minute),
            Some('S') => out += &two(second),
            Some('p') => out += if hour < 12 { "AM" } else { "PM" },
            Some('B') => out += month_name,
            Some('b' | 'h') => out += &month_name[..3],
            Some('A') => out += day_name,
            Some('a') => out += &day_name[..3],
            Some('F') => out += &format!("{year}-{month:02}-{day:02}"),
            Some('T') => out += &format!("{hour:02}:{minute:02}:{second:02}"),
            Some('%') => out.push('%'),
            other => {
                out += if bare { "%-" } else { "%" };
                out.extend(other);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns() -> Vec<Message> {
        vec![Message::new("user", "Hi"), Message::new("assistant", "Hello"), Message::new("user", "Bye")]
    }

    #[test]
    fn hostile_templates_end_by_their_steps() {
        let doubling = "{% set x = 'aaaaaaaaaaaaaaaa' %}".to_owned() + &"{% set x = x ~ x %}".repeat(60) + "{{ x }}";
        for source in [
            "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}x{% endfor %}{% endfor %}{% endfor %}",
            "{% macro f(n) %}{{ f(n + 1) }}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
            "{% for i in range(99999) recursive %}{{ loop([1, 2, 3]) }}{% endfor %}",
            "{{ 'a' * 10000000000 }}",
            "{{ ('a' * 100000)|replace('a', 'a' * 100000) }}",
            "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
            "{{ range(90000)|list|tojson(indent=999999999) * 1000 }}",
            "{{ ([[1] * 90000] * 90000)|tojson }}",
            &doubling,
        ] {
            let error = ChatTemplate::new(source).unwrap().render(&turns(), true, "<s>", "</s>").unwrap_err();
            assert_eq!(error.exit_code(), 2, "{error}");
        }
        let nested = "{% if a %}".repeat(5000);
        assert!(ChatTemplate::new(&nested).is_err());
        assert!(ChatTemplate::new(&" ".repeat(LONGEST_SOURCE + 1)).is_err());
    }

    #[test]
    fn long_conversations_have_steps_enough() {
        let template = "{% for m in messages %}{% set c = '<' + m['role'] + '>' + m['content'].strip() + eos_token %}{{ c }}{% endfor %}";
        let turns: Vec<Message> = (0..4000).map(|n| Message::new("user", "word ".repeat(n % 400))).collect();
        let prompt = ChatTemplate::new(template).unwrap().render(&turns, true, "", "</s>").unwrap();
        assert!(prompt.len() > 3_000_000);
    }

    #[test]
    fn errors_say_where_and_a_raised_one_says_its_words() {
        let error = ChatTemplate::new("{% for m in messages %}\n{{ m. }}").unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
        let template = ChatTemplate::new("{{ raise_exception('only one turn, please') }}").unwrap();
        let error = template.render(&turns(), true, "", "").unwrap_err().to_string();
        assert_eq!(error, "this conversation is refused: the model's chat template says: only one turn, please");
        assert!(ChatTemplate::new("{% include '/etc/passwd' %}").unwrap().render(&turns(), true, "", "").is_err());
    }

    #[test]
    fn the_plain_form_names_who_speaks() {
        let prompt = ChatTemplate::plain().unwrap().render(&turns(), true, "", "").unwrap();
        assert_eq!(prompt, "User: Hi\nAssistant: Hello\nUser: Bye\nAssistant:");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(strftime("%A %d %b %Y %H:%M:%S %j %p %I", 0), "Thursday 01 Jan 1970 00:00:00 001 AM 12");
        // Independent: `date -u -d @…`.
        assert_eq!(
            strftime("%a %F %T %B %-d %e %y %j %%", 951_782_399),
            "Mon 2000-02-28 23:59:59 February 28 28 00 059 %"
        );
        assert_eq!(strftime("%a %d %b %Y %j", 951_782_400), "Tue 29 Feb 2000 060");
        assert_eq!(strftime("%a %d %b %Y %j", 1_735_603_200), "Tue 31 Dec 2024 366");
        assert_eq!(strftime("%d %b %Y %j", 4_107_542_400), "01 Mar 2100 060");
        assert_eq!(strftime("%Q %-", 0), "%Q %-");
    }

    #[test]
    fn json_is_written_as_python_writes_it() {
        let template =
            ChatTemplate::new("{{ x|tojson }}{{ [1, 2.5, none, true, 'é\"<&>', {'k': []}]|tojson }}").unwrap();
        assert!(template.render(&[], false, "", "").is_err(), "an undefined value is no JSON");
        let template = ChatTemplate::new(
            "{{ [1, 2.5, none, true, 'é\"<&>', {'k': []}]|tojson }} {{ {'a': [1]}|tojson(indent=2) }}",
        )
        .unwrap();
        let expected = "[1, 2.5, null, true, \"é\\\"<&>\", {\"k\": []}] {\n  \"a\": [\n    1\n  ]\n}";
        assert_eq!(template.render(&[], false, "", "").unwrap(), expected);
    }
}
