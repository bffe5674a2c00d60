//! Chat templates: the Jinja text in a model file that turns messages into a prompt, rendered as transformers renders it.
//!
//! The engine is minijinja's. What Jinja2 and transformers have beyond it is added here: in the text ([`source`]), in what values can
//! do ([`python`]), in filters and tests ([`filters`], [`json`]). A template is untrusted: it renders with a limit on its steps and on
//! the bytes that it makes, and reaches nothing but the messages.

mod filters;
mod json;
mod message;
mod order;
mod python;
mod source;
mod special;
mod strftime;

use std::io;
use std::sync::OnceLock;

use jiff::civil::DateTime;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{Environment, ErrorKind, context};

pub use message::{Message, Spoken};
pub use special::SpecialTokens;

use crate::error::{Error, Result};
use crate::model::gguf::Gguf;

/// The metadata key of a template.
pub const KEY: &str = "tokenizer.chat_template";

/// Bytes of the longest template that is read; real ones have up to some 20 kB.
const LONGEST_SOURCE: usize = 1 << 20;
/// Bytes of its longest line, as it is read here, and its lines.
const LONGEST_LINE: usize = 65_000;
/// Steps a template may take, one for about every instruction and every 64 bytes that it makes: milliseconds, and 32 MB.
const STEPS: u64 = 500_000;
/// Further steps for every byte of the messages, which a template may copy and search several times.
const STEPS_PER_BYTE: u64 = 1;
/// Bytes that a prompt may have, and further ones for every byte of the messages.
const LONGEST: usize = 16 << 20;
const LONGEST_PER_BYTE: usize = 16;
/// Bytes of a template without a namespace up to which what it nests is shallow.
const SHALLOW: usize = 16 << 10;
/// Bytes of stack, used only where a template nests that deep.
const STACK_PER_STEP: u64 = 512;
const LARGEST_STACK: usize = 2 << 30;
/// Where a template is kept, and what it asks for by another name is not there: there is nothing to include.
const NAME: &str = "chat";
const NOWHERE: &str = "nowhere";

/// What is looked for where a template is tried.
const PROBE: &str = "probe0";

/// For models without a template of their own.
const PLAIN: &str = "{% for m in messages %}{{ m.role|capitalize }}: {{ m.content|trim }}\n{% endfor %}\
                     {% if add_generation_prompt %}Assistant:{% endif %}";

/// A template that has been read and can render.
#[derive(Debug)]
pub struct ChatTemplate {
    env: Environment<'static>,
    /// Whether it may put lists into lists without end: over a loop it can with a namespace alone.
    deep: bool,
    /// Whether it takes a content in parts, once that was asked.
    parts: OnceLock<bool>,
}

impl ChatTemplate {
    /// Reads `source` as transformers does: Jinja2 with blocks trimmed, Python's methods on strings, lists and dictionaries,
    /// `{% generation %}`, `{% break %}`, `raise_exception`, `strftime_now`, and `tojson` that writes what Python writes.
    ///
    /// # Errors
    /// [`Error::Refused`] with the line when it is no template, or longer than a mebibyte.
    pub fn new(source: &str) -> Result<Self> {
        if source.len() > LONGEST_SOURCE {
            return Err(refused(format!("{} bytes long; at most {LONGEST_SOURCE} are read", source.len())));
        }
        let mut env = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        env.set_syntax(syntax.map_err(|e| Error::Internal(e.to_string()))?);
        env.set_path_join_callback(|_, _| NOWHERE.into());
        env.set_unknown_method_callback(python::method);
        env.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message).with_source(Raised))
        });
        filters::add(&mut env);
        let source = source::rewrite(source);
        // What the engine counts lines and columns up to.
        let longest = source.lines().map(str::len).max().unwrap_or(0).max(source.lines().count());
        if longest > LONGEST_LINE {
            return Err(refused(format!(
                "a line of {longest} bytes, or as many lines; at most {LONGEST_LINE} are read"
            )));
        }
        let deep = source.len() > SHALLOW || source.contains("namespace");
        env.add_template_owned(NAME, source).map_err(|e| refused(place(&e)))?;
        Ok(Self { env, deep, parts: OnceLock::new() })
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

    /// Whether it writes the text of a content that is a list of parts, rather than the list.
    pub fn takes_parts(&self) -> bool {
        *self.parts.get_or_init(|| {
            let part = serde_json::json!({ "role": "user", "content": [{ "type": "text", "text": PROBE }] });
            let message = part.as_object().cloned().map(Message::from);
            let written = self.render(message.as_slice(), true, &SpecialTokens::default());
            written.is_ok_and(|text| text.contains(PROBE) && !text.contains("'text'") && !text.contains("\"text\""))
        })
    }

    /// The prompt of a conversation; with `add_generation_prompt` it ends where the assistant begins. `special` are the model's tokens with a
    /// name, which the template knows by it. The result is to be encoded with special tokens parsed, and without adding the
    /// beginning of text once more when it begins with that token.
    ///
    /// # Errors
    /// [`Error::Refused`] when the template does not accept the messages, fails, takes too many steps or makes too much.
    pub fn render<'a>(
        &self,
        spoken: impl Into<Spoken<'a>>,
        add_generation_prompt: bool,
        special: &SpecialTokens,
    ) -> Result<String> {
        let now = jiff::Zoned::now();
        self.render_at(spoken, add_generation_prompt, special, now.datetime(), now.timestamp().as_second())
    }

    /// As [`Self::render`], the clock standing at `now` where the template looks at it, `seconds` after the first of 1970.
    ///
    /// # Errors
    /// As [`Self::render`].
    pub fn render_at<'a>(
        &self,
        spoken: impl Into<Spoken<'a>>,
        add_generation_prompt: bool,
        special: &SpecialTokens,
        now: DateTime,
        seconds: i64,
    ) -> Result<String> {
        let spoken = spoken.into();
        let write = || self.write(&spoken, add_generation_prompt, special, now, seconds);
        if !self.deep {
            return write();
        }
        // Lists in lists, as deep as its steps go, are let go of one in the other.
        let (steps, _) = bounds(&spoken);
        let stack = usize::try_from(steps.saturating_mul(STACK_PER_STEP)).unwrap_or(LARGEST_STACK).min(LARGEST_STACK);
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("chat template".into()).stack_size(stack);
            let thread = thread.spawn_scoped(scope, write);
            let thread = thread.map_err(|e| Error::io("", "cannot start a thread for the chat template", &e))?;
            thread.join().unwrap_or_else(|_| Err(Error::Internal("the chat template panicked".into())))
        })
    }

    fn write(
        &self,
        spoken: &Spoken<'_>,
        add_generation_prompt: bool,
        special: &SpecialTokens,
        now: DateTime,
        seconds: i64,
    ) -> Result<String> {
        let (steps, most) = bounds(spoken);
        let mut env = self.env.clone();
        env.set_fuel(Some(steps));
        env.add_function("strftime_now", move |format: Value| match format.as_str() {
            Some(format) => Ok(strftime::strftime(format, now, seconds)),
            None => Err(python::wrong("strftime_now takes a format in a string")),
        });
        let template = env.get_template(NAME).map_err(|e| refused(place(&e)))?;
        let messages: Vec<Value> = spoken.messages.iter().map(message::shown_message).collect();
        let none = Value::from(());
        let tools = spoken.tools.map_or_else(|| none.clone(), message::shown);
        // As transformers has it: what stands in the call wins over a special token of that name.
        let context = context! {
            messages, add_generation_prompt, tools, documents => none, ..special.context()
        };
        let mut out = Limited { bytes: Vec::new(), most };
        let done = template.render_captured_to(context, &mut out).map(drop);
        let full = out.bytes.len() == most;
        done.map_err(|e| {
            if std::error::Error::source(&e).is_some_and(|s| s.is::<Raised>()) {
                let words = e.detail().unwrap_or("no reason given");
                return Error::refused("this conversation", format!("the model's chat template says: {words}"));
            }
            refused(match e.kind() {
                ErrorKind::OutOfFuel => {
                    format!("stopped after {steps} steps; the template does not end, or repeats far too much")
                }
                _ if full => format!("stopped after {most} bytes; the template repeats far too much"),
                _ => place(&e),
            })
        })?;
        String::from_utf8(out.bytes).map_err(|e| Error::Internal(format!("a template made no text: {e}")))
    }
}

/// The steps that a template may take over a conversation, and the bytes that it may write.
fn bounds(spoken: &Spoken<'_>) -> (u64, usize) {
    let bytes = spoken.bytes();
    (STEPS + bytes as u64 * STEPS_PER_BYTE, LONGEST.saturating_add(bytes.saturating_mul(LONGEST_PER_BYTE)))
}

/// What a template writes to, up to a bound.
struct Limited {
    bytes: Vec<u8>,
    most: usize,
}

impl io::Write for Limited {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let n = from.len().min(self.most - self.bytes.len());
        self.bytes.extend_from_slice(&from[..n]);
        match n {
            0 if !from.is_empty() => Err(io::ErrorKind::StorageFull.into()),
            n => Ok(n),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn turns() -> Vec<Message> {
        vec![Message::new("user", "Hi"), Message::new("assistant", "Hello"), Message::new("user", "Bye")]
    }

    fn special() -> SpecialTokens {
        [("bos_token", "<s>"), ("eos_token", "</s>")].into_iter().collect()
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
            "{{ ([[1] * 90000] * 90000)|string }}",
            "{{ [[1] * 90000] * 90000 }}",
            "{{ [[1] * 90000] * 90000 ~ 'x' }}",
            "{{ ('a' * 30000000)|list }}",
            "{{ ('a ' * 9000000).split() }}",
            "{{ ('a,' * 9000000).split(',') }}",
            "{{ ('a\n' * 9000000).splitlines() }}",
            "{{ 'a'.center(9000000000) }}{{ 'a'.zfill(9000000000) }}",
            "{{ '\t'.expandtabs(9000000000) * 90 }}",
            "{{ '{:>9999999999}'.format(1) }}",
            "{{ '%9999999999d' % 1 }}",
            "{{ 'a\nb'|indent(9000000000) }}",
            "{% for i in range(99999) %}{{ 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' * 9 }}{% endfor %}",
            &doubling,
            &("{% set x = [1] %}".to_owned() + &"{% set x = [x, x] %}".repeat(60) + "{{ 'a' ~ x }}"),
            &("{% set x = [1] %}".to_owned() + &"{% set x = [x, x] %}".repeat(60) + "{{ x|join }}"),
            &("{% set x = [1] %}".to_owned() + &"{% set x = [x, x] %}".repeat(60) + "{{ x|upper }}"),
            &("{% set x = [1] %}".to_owned() + &"{% set x = [x, x] %}".repeat(60) + "{{ x }}"),
        ] {
            let error = ChatTemplate::new(source).unwrap().render(&turns(), true, &special()).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{error}");
        }
        let nested = "{% if a %}".repeat(5000);
        assert!(ChatTemplate::new(&nested).is_err());
        assert!(ChatTemplate::new(&" ".repeat(LONGEST_SOURCE + 1)).is_err());
        for long in ["{% raw %}".repeat(40_000), "\n".repeat(70_000) + "{{", "{{ ".to_owned() + &"'".repeat(100_001)] {
            assert!(ChatTemplate::new(&long).is_err());
        }
    }

    #[test]
    fn what_is_nested_deep_is_let_go_of() {
        let nest = "{% set ns = namespace(x=1) %}{% for i in range(40000) %}{% set ns.x = [ns.x] %}{% endfor %}";
        assert_eq!(ChatTemplate::new(&(nest.to_owned() + "a")).unwrap().render(&[], true, &special()).unwrap(), "a");
        for shown in ["{{ ns.x }}", "{{ 'a' ~ ns.x }}", "{{ ns.x|tojson }}", "{{ ns.x|string }}"] {
            let _ = ChatTemplate::new(&(nest.to_owned() + shown)).unwrap().render(&[], true, &special());
        }
        let sets = "{% set x = [x] %}\n".repeat(40_000);
        assert_eq!(ChatTemplate::new(&(sets + "a")).unwrap().render(&[], true, &special()).unwrap(), "a");
    }

    #[test]
    fn long_conversations_have_steps_enough() {
        let template = "{% for m in messages %}{% set c = '<' + m['role'] + '>' + m['content'].strip() + eos_token %}{{ c }}{% endfor %}";
        let turns: Vec<Message> = (0..4000).map(|n| Message::new("user", "word ".repeat(n % 400))).collect();
        let prompt = ChatTemplate::new(template).unwrap().render(&turns, true, &special()).unwrap();
        assert!(prompt.len() > 3_000_000);
    }

    #[test]
    fn errors_say_where_and_a_raised_one_says_its_words() {
        let error = ChatTemplate::new("{% for m in messages %}\n{{ m. }}").unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
        let template = ChatTemplate::new("{{ raise_exception('only one turn, please') }}").unwrap();
        let error = template.render(&turns(), true, &special()).unwrap_err().to_string();
        assert_eq!(error, "this conversation is refused: the model's chat template says: only one turn, please");
        assert!(ChatTemplate::new("{% include '/etc/passwd' %}").unwrap().render(&turns(), true, &special()).is_err());
    }

    #[test]
    fn the_plain_form_names_who_speaks() {
        let prompt = ChatTemplate::plain().unwrap().render(&turns(), true, &special()).unwrap();
        assert_eq!(prompt, "User: Hi\nAssistant: Hello\nUser: Bye\nAssistant:");
    }

    #[test]
    fn json_is_written_as_python_writes_it() {
        let template =
            ChatTemplate::new("{{ x|tojson }}{{ [1, 2.5, none, true, 'é\"<&>', {'k': []}]|tojson }}").unwrap();
        assert!(template.render(&[], false, &special()).is_err(), "an undefined value is no JSON");
        let template = ChatTemplate::new(
            "{{ [1, 2.5, none, true, 'é\"<&>', {'k': []}]|tojson }} {{ {'a': [1]}|tojson(indent=2) }}",
        )
        .unwrap();
        let expected = "[1, 2.5, null, true, \"é\\\"<&>\", {\"k\": []}] {\n  \"a\": [\n    1\n  ]\n}";
        assert_eq!(template.render(&[], false, &special()).unwrap(), expected);
    }
}
