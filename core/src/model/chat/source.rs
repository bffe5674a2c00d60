//! A template's text as Jinja2 reads it, written as minijinja reads it.
//!
//! What differs between the two before anything runs: Jinja2 takes every line end for `\n`; transformers adds
//! `{% generation %}`, whose body is a scope; Python's escapes in strings are more than JSON's; `'…' % values` fills in a
//! text; `~` makes texts of any length; none has no items to go over; a number may have a `+` before it; what is compared
//! ([`compare`]) and what else a macro is given ([`macros`]) are Python's. What is no tag stays as it is, and lines keep their numbers.

mod compare;
mod macros;

pub(super) use macros::{CALL, REST};

/// The filter that `'…' % values` becomes.
pub(super) const FILL: &str = "__fill";
/// The filter that what a loop goes over passes.
pub(super) const EACH: &str = "__each";
/// The filter that operands of `~` pass: what they are as text, which pays for its length.
pub(super) const TEXT: &str = "__text";

/// The filters that `<`, `>`, `<=` and `>=` become.
pub(super) const ORDERED: [&str; 4] = ["__lt", "__gt", "__le", "__ge"];

/// `source` rewritten.
pub(super) fn rewrite(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let source = macros::rewrite(source);
    // Some editors write a mark before a text; Python keeps it, and so does this.
    let mut out = String::with_capacity(source.len() + 64);
    let mut rest = &*source;
    while let Some(at) = rest.as_bytes().windows(2).position(|w| matches!(w, b"{{" | b"{%" | b"{#")) {
        out += &rest[..at];
        rest = &rest[at..];
        let taken = match rest.as_bytes().get(1) {
            Some(b'#') => copy(&mut out, rest, rest.find("#}").map_or(rest.len(), |end| end + 2)),
            Some(b'%') => statement(&mut out, rest),
            _ => tag(&mut out, rest, "}}"),
        };
        rest = &rest[taken..];
    }
    out + rest
}

fn copy(out: &mut String, text: &str, bytes: usize) -> usize {
    out.push_str(&text[..bytes]);
    bytes
}

/// Writes the statement that `text` begins with, and a raw block whole; gives the bytes it had.
fn statement(out: &mut String, text: &str) -> usize {
    let (name, end) = named(text);
    if name == "raw" {
        let mut at = end.unwrap_or(text.len());
        while let Some(next) = text[at..].find("{%") {
            let (name, end) = named(&text[at + next..]);
            at += next + end.filter(|_| name == "endraw").unwrap_or(2);
            if name == "endraw" {
                return copy(out, text, at);
            }
        }
        return copy(out, text, text.len());
    }
    let scope = match name {
        "generation" => "with __generation = 1",
        "endgeneration" => "endwith",
        "for" => {
            let mut written = String::new();
            let taken = tag(&mut written, text, "%}");
            *out += &each(&written).unwrap_or(written);
            return taken;
        }
        _ => return tag(out, text, "%}"),
    };
    let Some(end) = end else { return tag(out, text, "%}") };
    let at = text.find(name).unwrap_or(2);
    *out += &text[..at];
    *out += scope;
    *out += &text[at + name.len()..end];
    end
}

/// The first word of the statement that `text` begins with, and where it ends if nothing else is in it.
fn named(text: &str) -> (&str, Option<usize>) {
    let inner = text[2..].trim_start_matches(['-', '+']).trim_start();
    let name = &inner[..inner.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(inner.len())];
    let after = inner[name.len()..].trim_start();
    let close = ["%}", "-%}", "+%}"].into_iter().find(|close| after.starts_with(close));
    (name, close.map(|close| text.len() - after.len() + close.len()))
}

/// The statement `{% for … in … %}` with what it goes over filtered; nothing where it is none.
fn each(statement: &str) -> Option<String> {
    let (mut at, mut open, mut from) = (2, 0usize, None);
    while at < statement.len() {
        let rest = &statement[at..];
        let closes = rest.strip_prefix(['-', '+']).unwrap_or(rest).starts_with("%}");
        let (token, n) = token(rest);
        match token {
            Token::Other("(" | "[" | "{") => open += 1,
            Token::Other(")" | "]" | "}") => open = open.saturating_sub(1),
            Token::Other("in") if open == 0 && from.is_none() => from = Some(at + n),
            Token::Other(word) if open == 0 && (closes || matches!(word, "if" | "recursive")) => {
                let from = from?;
                let over = statement[from..at].trim();
                let (head, tail) = (&statement[..from], &statement[at..]);
                // Lines within it stay with it.
                return (!over.is_empty()).then(|| format!("{head} ({over})|{EACH} {tail}"));
            }
            _ => {}
        }
        at += n;
    }
    None
}

/// Writes a tag and what is compared in it; gives the bytes that it had.
fn tag(out: &mut String, text: &str, close: &str) -> usize {
    let mut written = String::new();
    let taken = expression(&mut written, text, close);
    *out += &compare::rewrite(&written, close);
    taken
}

/// A token of an expression.
pub(super) enum Token<'t> {
    Space(&'t str),
    Text(&'t str),
    Other(&'t str),
}

/// The token that `text`, which is not empty, begins with, and its bytes.
pub(super) fn token(text: &str) -> (Token<'_>, usize) {
    let first = text.chars().next().unwrap_or(' ');
    let run = |of: fn(char) -> bool| text.find(|c| !of(c)).unwrap_or(text.len());
    if matches!(first, '\'' | '"') {
        let mut escaped = false;
        let end = text[1..].char_indices().find(|(_, c)| {
            let ends = *c == first && !escaped;
            escaped = *c == '\\' && !escaped;
            ends
        });
        // What no quote ends is no text, and an error in both.
        return match end {
            Some((at, _)) => (Token::Text(&text[..at + 2]), at + 2),
            None => (Token::Other(&text[..1]), 1),
        };
    }
    if first.is_whitespace() {
        let n = run(char::is_whitespace);
        return (Token::Space(&text[..n]), n);
    }
    let n = match first.is_alphanumeric() || first == '_' {
        true => {
            let n = run(|c| c.is_alphanumeric() || c == '_');
            // `1e-5` is one number.
            let signed = text[n..]
                .strip_prefix(['-', '+'])
                .map_or(0, |power| power.find(|c: char| !c.is_ascii_digit()).unwrap_or(power.len()));
            let power =
                first.is_ascii_digit() && signed > 0 && text[..n].ends_with(['e', 'E']) && !text.starts_with("0x");
            if power { n + 1 + signed } else { n }
        }
        false if text.starts_with("**") || text.starts_with("//") => 2,
        false => first.len_utf8(),
    };
    (Token::Other(&text[..n]), n)
}

/// An operand that is being written: where it begins, whether `~` stands before it, and whether a test (`is`) just began.
#[derive(Clone, Copy)]
struct Operand {
    from: usize,
    joined: bool,
    tested: bool,
}

impl Operand {
    const fn at(from: usize) -> Self {
        Self { from, joined: false, tested: false }
    }

    /// Makes what was written since its beginning a text.
    fn end(self, out: &mut String) {
        let written = &out[self.from..];
        let (text, space) = (written.trim_start(), written.len() - written.trim_start().len());
        // What is missing stays missing, for an error that says so.
        if !text.trim_end().is_empty() {
            let tail = text.len() - text.trim_end().len();
            out.insert_str(out.len() - tail, &format!(")|{TEXT}"));
            out.insert(self.from + space, '(');
        }
    }
}

/// Writes what `text` begins with up to and with `close`, which counts outside of strings and brackets alone; gives the bytes.
fn expression(out: &mut String, text: &str, close: &str) -> usize {
    // A sign there is about white space.
    let mut at = copy(out, text, 2 + usize::from(text[2..].starts_with(['-', '+'])));
    let mut operands = vec![Operand::at(out.len())];
    // Where the last token was a string that may be filled in, whether one may stand before a sign, and whether it was a dot.
    let (mut string, mut value, mut dot, mut first) = (false, false, false, true);
    while at < text.len() {
        let rest = &text[at..];
        let ends = operands.len() == 1 && rest.strip_prefix(['-', '+']).unwrap_or(rest).starts_with(close);
        let (token, n) = token(rest);
        let other = match token {
            Token::Space(space) => {
                *out += space;
                at += n;
                continue;
            }
            Token::Text(literal) => {
                write_string(out, literal);
                (string, value, dot, first) = (true, true, false, false);
                at += n;
                continue;
            }
            Token::Other("%") if string && !ends => {
                let end = operand(&rest[1..]);
                let mut values = String::new();
                inner(&mut values, rest[1..=end].trim());
                *out += &format!("|{FILL}({values})");
                at += 1 + end;
                string = false;
                continue;
            }
            Token::Other(other) => other,
        };
        // What a name is asked for is no word of the language.
        let bound = !dot && bounds(other, value, first);
        let mut of = false;
        if let Some(now) = operands.last_mut() {
            // `is not`, `is in`: the words of a test, which belong to what is tested.
            let of_test = now.tested && matches!(other, "not" | "in");
            now.tested = !dot && other == "is" || of_test && other == "not";
            of = of_test;
            if ends || other == "~" || !of_test && bound {
                if now.joined || other == "~" && !ends {
                    now.end(out);
                }
                if ends {
                    return at + copy(out, rest, rest.find(close).unwrap_or(0) + close.len());
                }
            }
            if matches!(other, ")" | "]" | "}") && operands.len() > 1 {
                operands.pop();
            }
        }
        // What is no sum is a number itself, as it is with its sign turned twice.
        *out += if other == "+" && !value && !ends { "--" } else { other };
        let begins = Operand { joined: other == "~", ..Operand::at(out.len()) };
        match operands.last_mut() {
            _ if matches!(other, "(" | "[" | "{") => operands.push(begins),
            Some(now) if !of && (other == "~" || bound && !matches!(other, ")" | "]" | "}")) => *now = begins,
            _ => {}
        }
        string = false;
        value =
            matches!(other, ")" | "]" | "}") || other.starts_with(|c: char| c.is_alphanumeric() || c == '_') && !bound;
        (dot, first) = (other == ".", false);
        at += n;
    }
    at
}

/// True for what ends an operand of `~`, where `value` says whether one stands before it, and `first` whether nothing does.
fn bounds(token: &str, value: bool, first: bool) -> bool {
    let word = matches!(token, "if" | "else" | "and" | "or" | "not" | "in" | "recursive")
        || first && matches!(token, "elif" | "for" | "set" | "call" | "filter" | "macro" | "with" | "block");
    let sign = matches!(token, "+" | "-") && value;
    word || sign || matches!(token, "=" | "!" | "<" | ">" | "," | ":" | ")" | "]" | "}")
}

/// Writes a part of an expression that holds no end of it.
fn inner(out: &mut String, text: &str) {
    let mut at = 0;
    while at < text.len() {
        let (token, n) = token(&text[at..]);
        match token {
            Token::Text(literal) => write_string(out, literal),
            Token::Space(other) | Token::Other(other) => *out += other,
        }
        at += n;
    }
}

/// Bytes of the operand that `text` begins with: a name, number, string or bracket with what is called, looked up or filtered.
fn operand(text: &str) -> usize {
    let mut at = 0;
    let (mut open, mut begun) = (0usize, false);
    let mut end = 0;
    while at < text.len() {
        let (token, n) = token(&text[at..]);
        let other = match token {
            Token::Space(_) => {
                at += n;
                continue;
            }
            Token::Text(_) => "",
            Token::Other(other) => other,
        };
        let word = other.starts_with(|c: char| c.is_alphanumeric() || c == '_');
        match other {
            "(" | "[" | "{" => open += 1,
            ")" | "]" | "}" if open > 0 => open -= 1,
            ")" | "]" | "}" => break,
            _ if open > 0 => {}
            "." | "|" if begun => {
                // The name after it belongs to it.
                at += n;
                let name = text[at..].trim_start();
                at += text[at..].len() - name.len();
                at += name.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(name.len());
                end = at;
                continue;
            }
            "-" | "+" | "not" if !begun => {}
            "" if !begun => {}
            _ if word && !begun => {}
            _ => break,
        }
        begun = true;
        at += n;
        if open == 0 {
            end = at;
        }
    }
    end
}

/// Writes a Python string as a string of the same letters.
fn write_string(out: &mut String, literal: &str) {
    let quote = &literal[..1];
    let inner = &literal[1..literal.len() - 1];
    if !inner.contains('\\') {
        *out += literal;
        return;
    }
    // Lines of its own stay lines.
    let lines: Option<Vec<String>> = inner.split('\n').map(unescape).collect();
    let Some(lines) = lines else {
        // An escape that Python refuses: one that minijinja refuses too.
        *out += "'\\u'";
        return;
    };
    *out += quote;
    for (i, line) in lines.iter().enumerate() {
        // A line that ends in a backslash goes on.
        let goes_on = i > 0 && lines[i - 1].ends_with(CONTINUED);
        *out += if i > 0 && !goes_on { "\n" } else { "" };
        for c in line.trim_end_matches(CONTINUED).chars() {
            match c {
                '\n' => *out += "\\n",
                '\\' | '"' | '\'' => {
                    out.push('\\');
                    out.push(c);
                }
                c => out.push(c),
            }
        }
    }
    *out += quote;
}

/// Stands at the end of a line of a string that ends in a backslash; no text has it.
const CONTINUED: char = '\u{fdd1}';

/// Python's `unicode-escape` of a line; nothing for what it refuses.
fn unescape(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    let number = |chars: &mut std::str::Chars<'_>, digits: usize| {
        let hex: String = chars.by_ref().take(digits).collect();
        (hex.chars().count() == digits && hex.chars().all(|c| c.is_ascii_hexdigit()))
            .then(|| u32::from_str_radix(&hex, 16).ok())
            .flatten()
    };
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        let Some(escape) = chars.next() else {
            out.push(CONTINUED);
            break;
        };
        let code = match escape {
            c @ ('\\' | '\'' | '"') => c as u32,
            'a' => 7,
            'b' => 8,
            't' => 9,
            'n' => 10,
            'v' => 11,
            'f' => 12,
            'r' => 13,
            'x' => number(&mut chars, 2)?,
            'u' => {
                let high = number(&mut chars, 4)?;
                // Two halves of a letter make it one here; Python keeps them apart, and cannot write them.
                match (0xd800..0xdc00).contains(&high) && chars.as_str().starts_with("\\u") {
                    true => {
                        chars.nth(1);
                        let low = number(&mut chars, 4)?;
                        0x10000 + ((high - 0xd800) << 10) + low.checked_sub(0xdc00).filter(|l| *l < 0x400)?
                    }
                    false => high,
                }
            }
            'U' => number(&mut chars, 8)?,
            'N' => return None,
            c @ '0'..='7' => {
                let mut code = c.to_digit(8)?;
                for _ in 0..2 {
                    let Some(digit) = chars.as_str().chars().next().and_then(|c| c.to_digit(8)) else { break };
                    code = code * 8 + digit;
                    chars.next();
                }
                code
            }
            c => {
                out.push('\\');
                c as u32
            }
        };
        out.push(char::from_u32(code)?);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_tag_stays_and_what_is_one_says_the_same() {
        for (from, to) in [
            (
                "a {% raw %}{% generation %} {{ '\\d' }}{%- endraw -%} b",
                "a {% raw %}{% generation %} {{ '\\d' }}{%- endraw -%} b",
            ),
            ("{# {% generation %} #}'\\d'", "{# {% generation %} #}'\\d'"),
            ("{%- generation -%}x{%endgeneration%}", "{%- with __generation = 1 -%}x{%endwith%}"),
            ("{% set generation = 1 %}{{ generation }}", "{% set generation = 1 %}{{ generation }}"),
            ("{{ '{% generation %}' }}", "{{ '{% generation %}' }}"),
            (r#"{{ '\d\x41\101\U0001F600\\' + "it's\'\n" }}"#, r#"{{ '\\dAA😀\\' + "it\'s\'\n" }}"#),
            ("{{ 'a\\\nb\nc\\t' }}", "{{ 'ab\nc\t' }}"),
            ("{{ {'a': {'b': 1}} }}}}", "{{ {'a': {'b': 1}} }}}}"),
            ("{{ '%s-%s' % (a, 'b}}') ~ x }}", "{{ ('%s-%s' |__fill((a, 'b}}')))|__text ~ (x)|__text }}"),
            (
                "{{ '%d' % m.n|abs + 1 }}{% if 'a' %}{% endif %}",
                "{{ '%d' |__fill(m.n|abs) + 1 }}{% if 'a' %}{% endif %}",
            ),
            ("{{ 7 % 4 }}a\r\nb\rc", "{{ 7 % 4 }}a\nb\nc"),
            ("{%- for a, b in x.items() if a in 'b' -%}", "{%- for a, b in (x.items())|__each if a in 'b' -%}"),
            ("{% for i in [1 if x else 2] recursive %}", "{% for i in ([1 if x else 2])|__each recursive %}"),
            (
                "{% for m in messages %}{% for %}{% for x in %}",
                "{% for m in (messages)|__each %}{% for %}{% for x in %}",
            ),
            (
                "{{ 'a' ~ b.c[d ~ 1] | e ~ -1 }}",
                "{{ ('a')|__text ~ (b.c[(d)|__text ~ (1)|__text] | e)|__text ~ (-1)|__text }}",
            ),
            (
                "{% if a + b ~ 2 * c is not none and d -%}",
                "{% if a + (b)|__text ~ (2 * c is not none)|__text and d -%}",
            ),
            ("{{ a ~ b is in [c] or d ~ }}", "{{ (a)|__text ~ (b is in [c])|__text or (d)|__text ~ }}"),
            (
                "{% set x = a - b ~ f(c ~ d, e=g ~ h) %}",
                "{% set x = a - (b)|__text ~ (f((c)|__text ~ (d)|__text, e=(g)|__text ~ (h)|__text))|__text %}",
            ),
            ("{{ a.call.x ~ b.filter ~ 1e-5 }}", "{{ (a.call.x)|__text ~ (b.filter)|__text ~ (1e-5)|__text }}"),
            ("{% call f(a ~ b) %}{% endcall %}", "{% call f((a)|__text ~ (b)|__text) %}{% endcall %}"),
            ("{{ 'open", "{{ 'open"),
            ("{% raw %}never", "{% raw %}never"),
            ("{{", "{{"),
            ("{%", "{%"),
            ("{#", "{#"),
            ("{{ é }} {% é %} '", "{{ é }} {% é %} '"),
        ] {
            assert_eq!(rewrite(from), to);
        }
    }
}
