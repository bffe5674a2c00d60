//! `ullage bench --against FILE`: each figure beside another program's or another day's, as a ratio.

use std::path::Path;

use serde::Deserialize;
use ullage_core::job::bench::Point;
use ullage_core::{Error, Result};

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Prefill,
    Decode,
}

/// A figure of the other run.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Figure {
    depth: usize,
    work: Work,
    tokens_per_second: f64,
}

/// A point of `ullage bench --json`, or a test of `llama-bench -o json`; other keys of either are not looked at.
#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    Ours {
        depth: usize,
        prefill_tokens_per_second: f64,
        decode_tokens_per_second: f64,
    },
    Llama {
        n_prompt: usize,
        n_gen: usize,
        #[serde(default)]
        n_depth: usize,
        avg_ts: f64,
    },
}

/// The figures of another run.
#[derive(Debug)]
pub struct Other(Vec<Figure>);

impl Other {
    /// Reads what `ullage bench --json` or `llama-bench -o json` wrote.
    ///
    /// # Errors
    /// A file that cannot be read or is neither of them, by name.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, "read", &e))?;
        Self::parse(&bytes).ok_or_else(|| {
            Error::config(
                "--against",
                format!("{} is neither what `bench --json` writes nor what `llama-bench -o json` does", path.display()),
            )
        })
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let entries: Vec<Entry> = serde_json::from_slice(bytes).ok()?;
        let mut figures = Vec::new();
        for entry in entries {
            match entry {
                Entry::Ours { depth, prefill_tokens_per_second, decode_tokens_per_second } => figures.extend([
                    Figure { depth, work: Work::Prefill, tokens_per_second: prefill_tokens_per_second },
                    Figure { depth, work: Work::Decode, tokens_per_second: decode_tokens_per_second },
                ]),
                Entry::Llama { n_prompt, n_gen, n_depth: depth, avg_ts: tokens_per_second } => {
                    // A test that does both is neither.
                    let work = match (n_prompt, n_gen) {
                        (1.., 0) => Work::Prefill,
                        (0, 1..) => Work::Decode,
                        _ => continue,
                    };
                    figures.push(Figure { depth, work, tokens_per_second });
                }
            }
        }
        (!figures.is_empty()).then_some(Self(figures))
    }

    fn at(&self, depth: usize, work: Work) -> Option<f64> {
        self.0.iter().find(|f| f.depth == depth && f.work == work).map(|f| f.tokens_per_second)
    }

    /// The table of `points` beside it; a depth that it has not is left out.
    pub fn table(&self, points: &[Point]) -> String {
        let mut out = format!("{:>6} {:8} {:>14} {:>14} {:>8}\n", "depth", "", "here tok/s", "there tok/s", "ratio");
        for p in points {
            for (work, word, here) in [
                (Work::Prefill, "prefill", p.prefill_tokens_per_second),
                (Work::Decode, "decode", p.decode_tokens_per_second),
            ] {
                if let Some(there) = self.at(p.depth, work) {
                    out += &format!("{:>6} {word:8} {here:>14.1} {there:>14.1} {:>8.3}\n", p.depth, here / there);
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(depth: usize, prefill: f64, decode: f64) -> Point {
        Point {
            depth,
            prefill_tokens_per_second: prefill,
            prefill_sd: 0.0,
            decode_tokens_per_second: decode,
            decode_sd: 0.0,
            decode_bytes: 0,
            bandwidth_fraction: None,
            ledger_operations: 0.0,
            ledger_share: 0.0,
            decode_kernels: Vec::new(),
            prefill_kernels: Vec::new(),
        }
    }

    #[test]
    fn figures_of_either_program_stand_beside_ours() {
        let ours = serde_json::to_vec(&[point(0, 100.0, 10.0), point(512, 50.0, 5.0)]).unwrap();
        let table = Other::parse(&ours).unwrap().table(&[point(512, 100.0, 2.5), point(9, 1.0, 1.0)]);
        let lines: Vec<Vec<&str>> = table.lines().skip(1).map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(lines, [["512", "prefill", "100.0", "50.0", "2.000"], ["512", "decode", "2.5", "5.0", "0.500"]]);
        let theirs = br#"[{"n_prompt": 512, "n_gen": 0, "n_depth": 0, "avg_ts": 40.0, "build": "x"},
            {"n_prompt": 0, "n_gen": 64, "n_depth": 0, "avg_ts": 8.0}, {"n_prompt": 5, "n_gen": 5, "avg_ts": 1.0}]"#;
        let table = Other::parse(theirs).unwrap().table(&[point(0, 60.0, 12.0)]);
        assert!(table.contains("1.500") && table.lines().count() == 3, "{table}");
    }

    #[test]
    fn what_is_neither_is_refused() {
        for wrong in [&b"{}"[..], b"[]", b"[{\"depth\": 1}]", b"no"] {
            assert!(Other::parse(wrong).is_none());
        }
    }
}
