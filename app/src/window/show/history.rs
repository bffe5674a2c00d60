//! The runs on disk.

use ullage_panels::view::History;

use super::super::state::State;

/// The history's part of the view.
pub fn view(s: &State) -> History {
    let open = s.shown().map_or("", |l| l.name.as_str());
    let runs = s.runs.iter().map(|c| {
        let mut line = c.line.clone();
        line.open = line.name == open;
        line
    });
    History {
        runs: runs.collect(),
        folder: s.runs_folder().display().to_string(),
        bytes: s.runs.iter().map(|c| c.line.bytes).sum(),
        pair: s.pair.clone(),
        blocked: match s.running {
            true => "A run is going on.".into(),
            false => s.blocked(),
        },
    }
}
