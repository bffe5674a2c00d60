//! `varargs` and `kwargs`: what a macro is given beyond its parameters. A macro that says one of them gets both as parameters of those
//! names, and calls of it go through a function that fills them.

use super::{Token, token};

/// The function that such calls become: the macro, then what it is given.
pub(in super::super) const CALL: &str = "__call";
/// What a macro may ask for.
pub(in super::super) const REST: [&str; 2] = ["varargs", "kwargs"];

/// The template with its macros rewritten; as it is where none asks for more.
pub(super) fn rewrite(source: String) -> String {
    if !REST.iter().any(|name| source.contains(name)) {
        return source;
    }
    let mut out = String::with_capacity(source.len() + 64);
    let mut names: Vec<&str> = Vec::new();
    let mut rest = source.as_str();
    while let Some((head, name, close)) = heading(rest) {
        let after = &rest[close..];
        let body = after.find("endmacro").map_or(after, |end| &after[..end]);
        out += &rest[..close];
        if REST.iter().any(|word| says(body, word)) {
            names.push(name);
            let empty = rest[head..close].trim_end().ends_with('(');
            out += if empty { "varargs=(), kwargs={}" } else { ", varargs=(), kwargs={}" };
        }
        rest = after;
    }
    out += rest;
    if names.is_empty() { source } else { called(&out, &names) }
}

/// The next `macro NAME(`: where its bracket opens, its name, and where that bracket closes.
fn heading(text: &str) -> Option<(usize, &str, usize)> {
    let mut from = 0;
    while let Some(at) = text[from..].find("macro ") {
        let begin = from + at;
        from = begin + 6;
        let before = text[..begin].trim_end_matches(|c: char| c.is_whitespace() || matches!(c, '-' | '+'));
        if !before.ends_with("{%") {
            continue;
        }
        let Some(open) = text[from..].find('(').map(|n| from + n) else { continue };
        let (mut at, mut depth) = (open, 0usize);
        while at < text.len() {
            let (token, n) = token(&text[at..]);
            match token {
                Token::Other("(" | "[" | "{") => depth += 1,
                Token::Other(")" | "]" | "}") => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return Some((open, text[from..open].trim(), at));
            }
            at += n;
        }
    }
    None
}

/// Whether a text has this word.
fn says(text: &str, word: &str) -> bool {
    let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '.');
    let whole = |at: usize| {
        !part(text[..at].chars().next_back()) && !text[at + word.len()..].starts_with(|c| part(Some(c)) && c != '.')
    };
    text.match_indices(word).any(|(at, _)| whole(at))
}

/// `text` with calls of these macros, in tags, through the function.
fn called(text: &str, names: &[&str]) -> String {
    let mut out = String::with_capacity(text.len() + 64);
    let mut rest = text;
    while let Some(at) = rest.as_bytes().windows(2).position(|w| matches!(w, b"{{" | b"{%")) {
        out += &rest[..at + 2];
        let close = if rest[at..].starts_with("{{") { "}}" } else { "%}" };
        rest = &rest[at + 2..];
        // What stands before a name: nothing may, and of a macro's own heading it does.
        let mut last = "";
        while !rest.is_empty() && !rest.starts_with(close) {
            let (token, n) = token(rest);
            let (head, tail) = rest.split_at(n);
            let inner = tail.trim_start();
            match token {
                Token::Other(name)
                    if names.contains(&name) && !matches!(last, "." | "macro") && inner.starts_with('(') =>
                {
                    let comma = if inner[1..].trim_start().starts_with(')') { "" } else { ", " };
                    out += &format!("{CALL}({name}{comma}");
                    rest = &inner[1..];
                    last = "(";
                    continue;
                }
                Token::Other(word) => last = word,
                Token::Text(_) => last = "",
                Token::Space(_) => {}
            }
            out += head;
            rest = tail;
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macros_that_ask_for_more_get_it() {
        for (from, to) in [
            (
                "{% macro f(a, b=(1)) %}{{ a }}{{ varargs }}{% endmacro %}{{ f(1, 2) ~ x.f(1) }}{% call f() %}{% endcall %}f(1)",
                "{% macro f(a, b=(1), varargs=(), kwargs={}) %}{{ a }}{{ varargs }}{% endmacro %}{{ __call(f, 1, 2) ~ x.f(1) }}{% call __call(f) %}{% endcall %}f(1)",
            ),
            (
                "{%- macro g() -%}{{ kwargs.x }}{% endmacro %}{% macro h() %}{{ g(x=1) }}{% endmacro %}{{ h() }}",
                "{%- macro g(varargs=(), kwargs={}) -%}{{ kwargs.x }}{% endmacro %}{% macro h() %}{{ __call(g, x=1) }}{% endmacro %}{{ h() }}",
            ),
            (
                "{% macro f(a) %}{{ my_kwargs }}{% endmacro %}{{ f(1) }}",
                "{% macro f(a) %}{{ my_kwargs }}{% endmacro %}{{ f(1) }}",
            ),
            ("{% macro f(varargs", "{% macro f(varargs"),
        ] {
            assert_eq!(rewrite(from.to_owned()), to);
        }
    }
}
