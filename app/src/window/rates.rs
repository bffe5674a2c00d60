//! How fast a run would be, as one figure.

use ullage_core::config::Config;
use ullage_core::plan::{Plan, Times};

/// Tokens a second: decoded, or learned from in rows without padding.
pub fn tokens_per_second(plan: &Plan, config: &Config) -> f64 {
    rate_of(&plan.time, config)
}

/// As [`tokens_per_second`], of predicted times; 0 where none is known.
pub fn rate_of(time: &Times, config: &Config) -> f64 {
    match &config.train {
        Some(t) if time.train_step_seconds > 0.0 => {
            (t.batch * t.length * t.accumulate) as f64 / time.train_step_seconds
        }
        Some(_) => 0.0,
        None => time.decode_tokens_per_second,
    }
}
