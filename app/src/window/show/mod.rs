//! The session's state as a view: one file for each part of it, none of which can change anything.

pub mod accuracy;
pub mod attention;
pub mod cards;
pub mod history;
pub mod learning;
pub mod model;
pub mod places;
pub mod status;
pub mod text;
pub mod top;

use std::sync::Arc;

use ullage_panels::view::{Timeline, Top, View};

use super::state::State;

/// The view of a state, made from the one before. What is long is shared, so that this costs what changed; what a run going on does
/// not change is made anew only when something else did (`slow`).
pub fn view(s: &State, before: View, slow: bool) -> View {
    let (top, accuracy, places, history) = if slow {
        let (accuracy, places) = (Arc::new(accuracy::view(s)), Arc::new(places::view(s)));
        (top::view(s), accuracy, places, Arc::new(history::view(s)))
    } else {
        let measured = s.shown().and_then(|l| top::measured(s, l));
        (Top { measured, ..before.top }, before.accuracy, before.places, before.history)
    };
    View {
        modes: top::modes(s),
        top,
        status: status::view(s),
        cards: Arc::clone(&s.sections),
        text: Arc::new(text::view(s)),
        timeline: timeline(s),
        attention: attention::view(s),
        accuracy,
        learning: learning::view(s),
        data: s.config().train.is_some().then(|| Arc::clone(&s.data_read)),
        places,
        history,
        notices: s.notices.clone(),
    }
}

fn timeline(s: &State) -> Arc<Timeline> {
    let mut shown = s.shown().map_or_else(Arc::<Timeline>::default, |l| Arc::clone(&l.timeline));
    if shown.moments.is_empty() && !shown.live {
        Arc::make_mut(&mut shown).blocked = s.blocked();
    }
    shown
}
