//! Where a pass first gave what is no number.

use crate::error::Diverged;
use crate::eval::metrics;
use crate::forward::cpu::PassObserver;

/// The first layer after which the residual stream had a value that is no number; told by machines that tell of it.
#[derive(Debug, Default)]
pub(super) struct FirstBroken(pub(super) Option<usize>);

impl PassObserver for FirstBroken {
    fn residual(&mut self, layer: usize, x: &[f32]) {
        if self.0.is_none() && !x.iter().all(|v| v.is_finite()) {
            self.0 = Some(layer);
        }
    }
}

/// Where the text ends when the logits `(vocab)` of its token number `token` are no distribution.
pub(super) fn at(logits: &[f32], token: usize, layer: Option<usize>) -> Option<Diverged> {
    let (_, value) = metrics::broken(logits)?;
    Some(Diverged { token: Some(token), layer, ..Diverged::new("the logits", f64::from(value)) })
}
