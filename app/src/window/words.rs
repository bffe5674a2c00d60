//! What things are called on screen where no catalogue says it.

use ullage_core::ledger::{Category, Tier};
use ullage_panels::view;

/// `heavy_ratio` as `heavy ratio`.
pub fn plain(id: &str) -> String {
    id.replace('_', " ")
}

/// As a heading: `recall` as `Recall`.
pub fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| first.to_uppercase().chain(chars).collect())
}

/// The key of the card that governs bytes of a category; empty when none does.
pub fn governs(category: Category) -> &'static str {
    match category {
        Category::Weights => "weights.format",
        Category::KvCache => "kv.format",
        Category::Workspace | Category::Activations | Category::Logits => "computation",
        Category::Observation => "observe",
        Category::Gradients => "train.params",
        Category::Optimizer => "train.optimizer",
        Category::Store => "",
    }
}

/// What panels call a category.
pub fn used_for(category: Category) -> view::UsedFor {
    view::UsedFor::ALL[category as usize]
}

/// What panels call a tier.
pub fn tier(tier: Tier) -> view::Tier {
    view::Tier::ALL[tier as usize]
}

/// The words of an evaluation's figure: id, label, unit, whether more is better. `None` for figures that are no curve.
pub fn figure(task: &str, name: &str) -> Option<(String, &'static str, bool)> {
    let (label, unit, up) = match (task, name) {
        ("recall", "accuracy") => ("recall", "%", true),
        ("needle", "accuracy") => ("needle found", "%", true),
        ("fidelity", "same_next_token") => ("same next token", "%", true),
        ("fidelity", "kl_mean") => ("KL to the uncompressed model", "nats", false),
        ("train", "loss") => ("loss of the last step", "nats", false),
        ("train", "held_out") => ("loss on what was held out", "nats", false),
        ("train", "answers") => ("right answers", "%", true),
        ("run", "tokens_per_second") => ("speed", "tok/s", true),
        ("perplexity", "perplexity") => ("perplexity", "", false),
        (_, "accuracy") => return Some((plain(task), "%", true)),
        _ => return None,
    };
    Some((label.to_owned(), unit, up))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn categories_and_tiers_are_the_panels_own() {
        assert_eq!(Category::ALL.len(), view::UsedFor::ALL.len());
        for c in Category::ALL {
            let word = format!("{:?}", used_for(*c));
            assert_eq!(word, format!("{c:?}"), "the order of one is the order of the other");
        }
        for t in Tier::ALL {
            assert_eq!(format!("{:?}", tier(*t)), format!("{t:?}"));
        }
    }
}
