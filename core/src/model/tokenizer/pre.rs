//! Where text is cut before byte-pair merges: one list of patterns for each name of `tokenizer.ggml.pre`.
//!
//! The patterns are the tokenizers' own facts, in the form llama.cpp gives them, whose ids are the reference. Each pattern cuts every
//! piece the one before left, and what it does not match stays a piece. None needs look-around, so all run in linear time: the
//! usual `\s+(?!\S)|\s+` (a run of spaces leaves its last one to the word after it) is `\s+` here, and [`Splitter`] gives
//! the last one back.

use tokenizers::utils::SysRegex;

use crate::error::{Error, Result};

/// What a name of `tokenizer.ggml.pre` stands for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pre {
    patterns: &'static [&'static str],
    /// A word that is a token is taken whole, whatever the merges say.
    pub ignore_merges: bool,
    /// Whether a beginning-of-text token is added where the file does not say.
    pub add_bos: bool,
    /// Whether there is a beginning-of-text token where the file does not say.
    pub has_bos: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+";
const LLAMA3: &str = r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
const QWEN2: &str = r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
const QWEN35: &str = r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
// Upper and lower case as llama.cpp tells them apart: only in ASCII; any other letter counts as both.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{L}--[a-z]]*[\p{L}--[A-Z]]+|[^\r\n\p{L}\p{N}]?[\p{L}--[a-z]]+[\p{L}--[A-Z]]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{L}--[a-z]]*[\p{L}--[A-Z]]+(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|[^\r\n\p{L}\p{N}]?[\p{L}--[a-z]]+[\p{L}--[A-Z]]*(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+";
const SEED_CODER: &str = r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+";
const BAILING: &str = r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+";
const MINICPM5: &str = r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+"##;
const BLOOM: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";
const DIGIT: &str = r"\p{N}";
// Spaces are not of the scripts, though the ideographic one lies in their range: to llama.cpp all spaces are alike.
const CJK: &str = r"[[\x{4e00}-\x{9fa5}\x{800}-\x{4e00}\x{ac00}-\x{d7ff}]--\s]+";
#[rustfmt::skip]
const DEEPSEEK_LETTERS: &str = concat!(
    r"\s?[A-Za-z",
    "µÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-",
    "ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-",
    "𞥃",
    "]+",
);
const DEEPSEEK_PUNCTUATION: &str = r"\s?[!-/:-~\x{ff01}-\x{ff0f}\x{ff1a}-\x{ff5e}\x{2018}-\x{201f}\x{3001}-\x{3002}]+";

/// Categories as of Unicode 15.1, which llama.cpp has: what was assigned later is neither letter nor number to it.
const CATEGORIES: [&str; 5] = [r"\p{L}", r"\p{N}", r"\p{M}", r"\p{P}", r"\p{S}"];

/// Differences of sets, which only Rust's regular expressions have, as intersections.
const DIFFERENCES: [(&str, &str); 3] = [("--[a-z]]", "&&[^a-z]]"), ("--[A-Z]]", "&&[^A-Z]]"), (r"--\s]", r"&&\S]")];

/// Every known name, family by family.
const NAMES: &[(&[&str], Pre)] = &[
    (&["default"], plain(&[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"])),
    (
        &[
            "gpt-2",
            "phi-2",
            "exaone4",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
            "gigachat",
            "mellum",
            "a.x-4.0",
        ],
        plain(&[GPT2]),
    ),
    (
        &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"],
        plain(&[DIGIT, GPT2]),
    ),
    (
        &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
        Pre { ignore_merges: true, add_bos: true, ..plain(&[LLAMA3]) },
    ),
    (&["dbrx", "smaug-bpe"], plain(&[LLAMA3])),
    (&["chatglm-bpe"], Pre { has_bos: false, ..plain(&[LLAMA3]) }),
    (&["glm4", "glm5"], Pre { ignore_merges: true, has_bos: false, ..plain(&[LLAMA3]) }),
    (
        &["qwen2", "deepseek-r1-qwen", "megrez", "hunyuan", "stablelm2", "kormo", "f2llmv2", "solar-open", "grok-2"],
        plain(&[QWEN2]),
    ),
    (&["qwen35"], plain(&[QWEN35])),
    (&["tekken"], Pre { ignore_merges: true, add_bos: true, ..plain(&[TEKKEN]) }),
    (&["gpt-4o", "llama4", "kanana2", "minimax-m2"], plain(&[GPT4O])),
    (&["deepseek-llm"], plain(&["[\r\n]", DEEPSEEK_LETTERS, DEEPSEEK_PUNCTUATION, r"\s+$", CJK, r"\p{N}+"])),
    (&["deepseek-coder"], plain(&["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CJK, DIGIT])),
    (
        &["deepseek-v3", "hunyuan-dense", "joyai-llm"],
        plain(&[r"\p{N}{1,3}", r"[\x{4e00}-\x{9fa5}\x{3040}-\x{309f}\x{30a0}-\x{30ff}]+", DEEPSEEK3]),
    ),
    (&["falcon"], plain(&[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"])),
    (&["bloom", "poro-chat", "gpt3-finnish"], plain(&[BLOOM])),
    (&["viking"], plain(&[BLOOM, DIGIT])),
    (&["seed-coder"], plain(&[SEED_CODER])),
    (&["bailingmoe", "bailingmoe2", "llada-moe"], plain(&[BAILING])),
    (&["minicpm5"], Pre { ignore_merges: true, ..plain(&[r"\p{N}{1,3}", MINICPM5]) }),
];

impl Pre {
    /// The patterns, for what cuts text one after the other with look-around: the last space of a run is left to what follows.
    /// They mean the same to Rust's regular expressions and to Oniguruma's.
    pub fn portable(&self) -> impl Iterator<Item = String> {
        self.patterns.iter().map(|pattern| {
            let spaces = pattern.strip_suffix(r"|\s+").map(|rest| format!(r"{rest}|\s+(?!\S)|\s+"));
            let end =
                spaces.unwrap_or_else(|| pattern.strip_suffix('$').map_or((*pattern).into(), |p| format!(r"{p}\z")));
            DIFFERENCES.iter().fold(end, |p, (from, to)| p.replace(from, to))
        })
    }
}

const fn plain(patterns: &'static [&'static str]) -> Pre {
    Pre { patterns, ignore_merges: false, add_bos: false, has_bos: true }
}

/// The pre-tokenizer called `name`.
pub(super) fn find(name: &str) -> Option<Pre> {
    NAMES.iter().find(|(names, _)| names.contains(&name)).map(|(_, pre)| *pre)
}

/// All known names, for messages.
pub(super) fn known() -> String {
    NAMES.iter().flat_map(|(names, _)| names.iter().copied()).collect::<Vec<_>>().join(", ")
}

/// Compiled patterns.
#[derive(Debug)]
pub(super) struct Splitter(Vec<Pattern>);

#[derive(Debug)]
struct Pattern {
    regex: SysRegex,
    /// It ends in `|\s+`, and a run of spaces that another piece follows leaves its last character to that piece.
    gives_back: bool,
    /// It takes runs that end in a newline before that, and those stay whole.
    lines: bool,
}

impl Splitter {
    pub fn new(pre: &Pre) -> Result<Self> {
        let compile = |&pattern: &&str| {
            let dated =
                CATEGORIES.iter().fold(pattern.to_owned(), |p, c| p.replace(c, &format!(r"[{c}&&\p{{age=15.1}}]")));
            let regex = SysRegex::new(&dated).map_err(|e| Error::Internal(format!("pattern {pattern}: {e}")))?;
            Ok(Pattern { regex, gives_back: pattern.ends_with(r"|\s+"), lines: pattern.contains(r"|\s*[\r\n]") })
        };
        pre.patterns.iter().map(compile).collect::<Result<_>>().map(Self)
    }

    /// Calls `each` with every piece of `text`, in order; together they are the text.
    pub fn split<'t>(&self, text: &'t str, each: &mut impl FnMut(&'t str)) {
        split(&self.0, text, each);
    }
}

fn split<'t>(patterns: &[Pattern], text: &'t str, each: &mut impl FnMut(&'t str)) {
    let Some((pattern, rest)) = patterns.split_first() else {
        if !text.is_empty() {
            each(text);
        }
        return;
    };
    // Where the text not yet given out begins, and where the search goes on.
    let (mut done, mut from) = (0, 0);
    'search: while from < text.len() {
        // Slices start afresh, which no pattern notices: none looks behind. Only a space given back asks for a new slice.
        let base = from;
        for (start, end) in pattern.regex.find_iter(&text[base..]) {
            let (start, mut end) = (base + start, base + end);
            if start > done {
                split(rest, &text[done..start], each);
            }
            let gives_back = pattern.gives_back && end < text.len() && kept(&text[start..end], pattern.lines);
            if let Some(last) = text[start..end].chars().next_back().filter(|_| gives_back) {
                end -= last.len_utf8();
            }
            if end > start {
                split(rest, &text[start..end], each);
            }
            (done, from) = (end, end);
            if gives_back {
                continue 'search;
            }
        }
        break;
    }
    if done < text.len() {
        split(rest, &text[done..], each);
    }
}

/// Whether `run` is a run of at least two spaces from which the last is given back.
fn kept(run: &str, lines: bool) -> bool {
    let mut chars = run.chars();
    match chars.next_back() {
        Some('\r' | '\n') if lines => false,
        Some(last) if last.is_whitespace() => chars.next().is_some() && run.chars().all(char::is_whitespace),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces<'t>(name: &str, text: &'t str) -> Vec<&'t str> {
        let mut out = Vec::new();
        Splitter::new(&find(name).unwrap()).unwrap().split(text, &mut |piece| out.push(piece));
        out
    }

    #[test]
    fn the_last_space_belongs_to_the_word() {
        assert_eq!(pieces("gpt-2", "a   b"), ["a", "  ", " b"]);
        assert_eq!(pieces("gpt-2", "a\t\tb  "), ["a", "\t", "\t", "b", "  "]);
        assert_eq!(pieces("gpt-2", "I've  12 x!"), ["I", "'ve", " ", " 12", " x", "!"]);
        assert_eq!(pieces("llama-bpe", "a \n\n  b1234"), ["a", " \n\n", " ", " b", "123", "4"]);
        assert_eq!(pieces("smollm", "x 12"), ["x", " ", "1", "2"]);
    }

    #[test]
    fn pieces_are_the_text_and_every_name_compiles() {
        let text = " \n\u{3000} Ünïcödé 漢字 12345 don't \t\t {}();\r\n\n   \u{0} \u{10ffff}é\u{301}  ";
        for (names, _) in NAMES {
            for name in *names {
                assert_eq!(pieces(name, text).concat(), text, "{name}");
                assert_eq!(pieces(name, ""), [""; 0], "{name}");
            }
        }
        assert!(find("nonsense").is_none());
    }

    #[test]
    fn long_runs_end() {
        for run in [" ", "\t", "\n", " \t", "a", "1", "'", "\u{301}", "漢", " a", "  a"] {
            let text = run.repeat(100_000);
            for name in ["gpt-2", "llama-bpe", "tekken", "deepseek-llm", "deepseek-v3", "default"] {
                let splitter = Splitter::new(&find(name).unwrap()).unwrap();
                let mut bytes = 0;
                splitter.split(&text, &mut |piece| bytes += piece.len());
                assert_eq!(bytes, text.len());
            }
        }
    }
}
