//! `a < b` as `(a)|__lt(b)`, which errs where Python does. Chains of comparisons stay as they are.

use super::{ORDERED, Token, token};

/// One operand after the other, between what binds looser than a comparison.
struct Part {
    from: usize,
    /// Where each comparison stands and ends, and which it is; nothing for one that is of any two values.
    signs: Vec<(usize, usize, Option<&'static str>)>,
}

impl Part {
    fn at(from: usize) -> Self {
        Self { from, signs: Vec::new() }
    }
}

/// The tag `text`, which ends by `close`.
pub(super) fn rewrite(text: &str, close: &str) -> String {
    if !text.contains(['<', '>']) {
        return text.to_owned();
    }
    let mut edits: Vec<(usize, usize, String)> = Vec::new();
    let start = 2 + usize::from(text[2..].starts_with(['-', '+']));
    let mut at = start;
    let (mut parts, mut tested, mut first, mut dot) = (vec![Part::at(start)], false, true, false);
    while at < text.len() {
        let rest = &text[at..];
        let closes = parts.len() == 1 && rest.strip_prefix(['-', '+']).unwrap_or(rest).starts_with(close);
        let (token, n) = token(rest);
        let Token::Other(other) = token else {
            first &= matches!(token, Token::Space(_));
            tested &= matches!(token, Token::Space(_));
            at += n;
            continue;
        };
        let sign = sign(rest);
        let of_test = tested && matches!(other, "not" | "in");
        let word = !dot
            && !of_test
            && (matches!(other, "if" | "else" | "and" | "or" | "not" | "recursive")
                || first && matches!(other, "elif" | "set" | "call" | "filter" | "macro" | "with" | "for" | "block"));
        let mut n = n;
        let (bound, opens) = (word || matches!(other, "," | ":"), matches!(other, "(" | "[" | "{"));
        let shuts = matches!(other, ")" | "]" | "}") && parts.len() > 1;
        if closes || bound || shuts || (other == "=" && sign.is_none()) {
            edits.extend(parts.last().and_then(|part| edit(text, part, at)));
        }
        if closes {
            break;
        }
        if let Some((length, which)) = sign {
            n = length;
            parts.last_mut().into_iter().for_each(|part| part.signs.push((at, at + length, which)));
        } else if !dot && !of_test && other == "in" {
            parts.last_mut().into_iter().for_each(|part| part.signs.push((at, at + n, None)));
        } else if opens {
            parts.push(Part::at(at + n));
        } else if shuts {
            parts.pop();
        } else if bound || other == "=" {
            parts.last_mut().into_iter().for_each(|part| *part = Part::at(at + n));
        }
        tested = !dot && other == "is" || of_test && other == "not";
        (dot, first) = (other == ".", false);
        at += n;
    }
    applied(text, edits)
}

/// A comparison that `rest` begins with: its bytes, and the filter that it becomes if it is one of order.
fn sign(rest: &str) -> Option<(usize, Option<&'static str>)> {
    let signs = [("<=", Some(ORDERED[2])), (">=", Some(ORDERED[3])), ("==", None), ("!=", None)];
    let short = [("<", Some(ORDERED[0])), (">", Some(ORDERED[1]))];
    signs.iter().chain(&short).find(|(sign, _)| rest.starts_with(sign)).map(|(sign, which)| (sign.len(), *which))
}

/// What becomes of a part that ends at `end`: its one comparison, if it is one of order.
fn edit(text: &str, part: &Part, end: usize) -> Option<(usize, usize, String)> {
    let [(at, after, Some(filter))] = part.signs[..] else { return None };
    let (left, right) = (&text[part.from..at], &text[after..end]);
    // What is missing stays missing, for an error that says so.
    if left.trim().is_empty() || right.trim().is_empty() {
        return None;
    }
    Some((part.from, end, filter.to_owned()))
}

/// `text` with every edited part written as a filter of its left side; parts lie in one another or apart.
fn applied(text: &str, edits: Vec<(usize, usize, String)>) -> String {
    let mut inserts: Vec<(usize, String)> = Vec::new();
    let mut cuts: Vec<(usize, usize)> = Vec::new();
    for (from, end, filter) in edits {
        let lead = text[from..].len() - text[from..].trim_start().len();
        let (sign, length) = compared(text, from, end);
        let tail = text[from..end].len() - text[from..end].trim_end().len();
        inserts.push((from + lead, "(".into()));
        inserts.push((sign, format!(")|{filter}(")));
        inserts.push((end - tail, ")".into()));
        cuts.push((sign, sign + length));
    }
    // A bracket that closes at a place stands before one that opens there.
    inserts.sort_by_key(|(at, text)| (*at, text.starts_with('(')));
    let mut out = String::with_capacity(text.len() + 16 * inserts.len());
    let mut done = 0;
    for (at, insert) in inserts {
        out += &text[done..at];
        out += &insert;
        done = cuts.iter().find(|(from, _)| *from == at).map_or(at, |(_, to)| *to);
    }
    out + &text[done..]
}

/// Where the comparison of the part `from..end` stands, and its bytes: the only one outside of brackets and strings.
fn compared(text: &str, from: usize, end: usize) -> (usize, usize) {
    let (mut at, mut open) = (from, 0usize);
    while at < end {
        let (token, n) = token(&text[at..]);
        match token {
            Token::Other("(" | "[" | "{") => open += 1,
            Token::Other(")" | "]" | "}") => open = open.saturating_sub(1),
            Token::Other("<" | ">") if open == 0 => return (at, 1 + usize::from(text[at + 1..].starts_with('='))),
            _ => {}
        }
        at += n;
    }
    (end, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_comparison_of_order_is_a_filter_and_chains_stay() {
        for (from, to) in [
            ("{{ a < b }}", "{{ (a )|__lt( b) }}"),
            ("{%- if a.b|length>=2 and c -%}", "{%- if (a.b|length)|__ge(2) and c -%}"),
            ("{% if not (x[1 < 2] > y) or z %}", "{% if not ((x[(1 )|__lt( 2)] )|__gt( y)) or z %}"),
            ("{{ f(a <= 1, b=c > d) if e else g }}", "{{ f((a )|__le( 1), b=(c )|__gt( d)) if e else g }}"),
            ("{{ a < b < c }}{{ x", "{{ a < b < c }}{{ x"),
            ("{{ a < b == c }}", "{{ a < b == c }}"),
            ("{{ a in b > c }}", "{{ a in b > c }}"),
            ("{{ a is not in b }}", "{{ a is not in b }}"),
            ("{{ '<' ~ a }}", "{{ '<' ~ a }}"),
            (
                "{% set x = a < b if c < d else [e, f > g] %}",
                "{% set x = (a )|__lt( b) if (c )|__lt( d) else [e, (f )|__gt( g)] %}",
            ),
            ("{% for i in l if i > 1 %}", "{% for i in l if (i )|__gt( 1) %}"),
            ("{{ < b }}{{ a < }}", "{{ < b }}{{ a < }}"),
        ] {
            let close = if from.starts_with("{{") { "}}" } else { "%}" };
            let end = from.find(close).unwrap() + 2;
            assert_eq!(rewrite(&from[..end], close) + &from[end..], to);
        }
    }
}
