//! Names of the parts of a model that is cut into several files: `NAME-00001-of-00003.gguf`, and alike for safetensors.

use std::path::{Path, PathBuf};

/// Most parts that are opened as one.
const MOST: usize = 4096;

/// The files of one model, by what one of them is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Which of them was named, from 1.
    pub this: usize,
    /// All, in order, whether they are there or not.
    pub all: Vec<PathBuf>,
}

impl Parts {
    /// What the name of `path` says; `None` for a name that is no part's. All lie in its folder.
    pub fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let (stem, ending) = name.rsplit_once('.')?;
        let (before, of) = stem.rsplit_once("-of-")?;
        let (base, part) = before.rsplit_once('-')?;
        let number =
            |s: &str| (s.len() == 5).then(|| s.bytes().all(|b| b.is_ascii_digit())).filter(|d| *d).map(|_| s.parse());
        let (this, count): (usize, usize) = (number(part)?.ok()?, number(of)?.ok()?);
        if this == 0 || this > count || count > MOST {
            return None;
        }
        let all = (1..=count).map(|n| path.with_file_name(format!("{base}-{n:05}-of-{count:05}.{ending}"))).collect();
        Some(Self { this, all })
    }

    /// `part 1 of 3; the others are missing`, where any is.
    pub fn missing(&self) -> Option<String> {
        let gone: Vec<&PathBuf> = self.all.iter().filter(|p| !p.is_file()).collect();
        let (first, others) = (gone.first()?, self.all.len() - 1);
        let name = first.file_name().unwrap_or_default().to_string_lossy();
        let which = match gone.len() {
            n if n == others && others > 1 => "the others are missing".to_owned(),
            1 => format!("{} is missing", name.escape_debug()),
            n => format!("{n} of them are missing, {} first", name.escape_debug()),
        };
        Some(format!(
            "part {} of {}; {which}: put all parts into one folder, under the names they came with",
            self.this,
            self.all.len()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_which_part_it_is() {
        let parts = |name: &str| Parts::of(&Path::new("/models").join(name));
        let of = parts("a-b-of-c-00002-of-00003.gguf").map(|p| (p.this, p.all));
        let names = ["1", "2", "3"].map(|n| PathBuf::from(format!("/models/a-b-of-c-0000{n}-of-00003.gguf")));
        assert_eq!(of, Some((2, names.to_vec())));
        for other in [
            "a.gguf",
            "a-0001-of-0003.gguf",
            "a-00004-of-00003.gguf",
            "a-00000-of-00001.gguf",
            "a-0000x-of-00003.gguf",
            "-of-.gguf",
        ] {
            assert_eq!(parts(other), None, "{other}");
        }
        assert_eq!(parts("x-00001-of-99999.gguf"), None);
    }
}
