//! The local clock, for names of run folders and what the history shows.

use jiff::Zoned;
use jiff::civil::DateTime;

/// How a run folder is named: `2026-11-24_14-03-22`.
const NAME: &str = "%Y-%m-%d_%H-%M-%S";
/// How a moment reads: `2026-11-24 14:03`.
const SHOWN: &str = "%Y-%m-%d %H:%M";

/// The name of a run folder made now, by the local clock.
pub fn name() -> String {
    Zoned::now().strftime(NAME).to_string()
}

/// Now, to be read.
pub fn now() -> String {
    Zoned::now().strftime(SHOWN).to_string()
}

/// `2026-11-24 14:03` of a run folder's name, whatever follows its seconds; the name itself when it is another.
pub fn shown(name: &str) -> String {
    let moment = name.get(..19).and_then(|head| DateTime::strptime(NAME, head).ok());
    moment.map_or_else(|| name.to_owned(), |moment| moment.strftime(SHOWN).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_shows_as_a_time_and_anything_else_as_itself() {
        assert_eq!(shown("2026-11-24_14-03-22"), "2026-11-24 14:03");
        assert_eq!(shown("2026-11-24_14-03-22-2"), "2026-11-24 14:03");
        for other in ["my run", "2026-11-24_14-03-2é", "2026-13-24_14-03-22", "2026-11-24_14-03"] {
            assert_eq!(shown(other), other);
        }
        assert_eq!(shown(&name()).len(), "2026-11-24 14:03".len(), "{}", name());
    }
}
