//! What each head looked at, or what a run would show of it.

use std::sync::Arc;

use ullage_panels::view::Attention;

use super::super::state::State;

/// The attention picture's part of the view.
pub fn view(s: &State) -> Arc<Attention> {
    let observe = s.config().observe.as_ref();
    let chosen = observe.and_then(|o| o.head).map(|[layer, head]| (layer, head));
    if let Some(live) = s.shown() {
        let mut shown = Arc::clone(&live.attention);
        if shown.chosen != chosen {
            // What is long in it is shared: this copies a few words.
            Arc::make_mut(&mut shown).chosen = chosen;
        }
        if shown.grid.is_none() && shown.map.is_none() {
            Arc::make_mut(&mut shown).blocked = match s.running {
                true => "A run is going on.".into(),
                false => s.blocked(),
            };
        }
        return shown;
    }
    // What a run would show.
    let observed = observe.is_some();
    let head = s.opened.as_ref().and_then(|o| o.model.shape.layers.first());
    Arc::new(Attention {
        layers: s.opened.as_ref().map_or(0, |o| o.model.shape.layers.len()),
        heads: head.map_or(0, |l| l.attention.heads),
        kv_heads: head.map_or(0, |l| l.attention.kv_heads),
        observed,
        blocked: s.blocked(),
        chosen,
        note: if observed { String::new() } else { "Nothing is kept for display as configured.".into() },
        ..Attention::default()
    })
}
