//! The line below: what is going on, how far it is, and how fast.

use ullage_panels::view::Status;

use super::super::live::Live;
use super::super::rates::{rate_of, tokens_per_second};
use super::super::state::State;

/// The line's part of the view.
pub fn view(s: &State) -> Status {
    let (undo, redo) = s.document.names();
    let mut out = Status { undo, redo, queued: s.queue.len(), blocked: s.blocked(), ..Status::default() };
    out.predicted_speed = s.plan.as_ref().map(|p| tokens_per_second(p, s.config())).filter(|v| *v > 0.0);
    match (s.running, &s.live) {
        (true, Some(live)) => {
            out.running = true;
            out.paused = live.paused;
            out.doing = match (s.leaving, s.stopping) {
                (Some(_), _) => "saving what the run did, then closing; close again to leave at once".into(),
                (None, true) => "stopping".into(),
                (None, false) => live.doing(),
            };
            out.progress = live.progress.as_ref().map(|(_, done, total, _)| (*done, *total));
            out.seconds_left = live.progress.as_ref().map(|(.., left)| *left).filter(|v| v.is_finite());
            out.speed = live.speed();
            out.predicted_speed =
                live.config().map(|c| rate_of(&live.report.predicted, c)).filter(|v| *v > 0.0).or(out.predicted_speed);
        }
        _ => {
            if let Some((what, part)) = &s.probing {
                out.doing = format!("measuring this machine: {what}");
                out.progress = Some(((part * 1000.0) as u64, 1000));
            } else if let Some(merging) = &s.merging {
                out.doing = "merging the adapter into the weights".into();
                out.progress = Some((merging.done, merging.total.max(1)));
                out.seconds_left = merging.seconds_left();
            } else if let Some(wanted) = &s.opening {
                out.doing = format!("opening {}", wanted.path);
            }
            out.speed = s.live.as_ref().filter(|l| l.finished()).map(Live::rate).filter(|v| *v > 0.0);
        }
    }
    out
}
