//! What things are called on screen, where that is not what they are called in TOML. Whatever is not named here shows under its id.

use ullage_core::catalog::Axis;
use ullage_core::ledger::{Category, Tier};
use ullage_panels::view;

/// The section of cards an axis belongs to, in their order.
pub fn section(key: &str) -> &'static str {
    match key.split('.').next().unwrap_or(key) {
        "weights" => "Weights",
        "kv" => "KV cache",
        "place" => "Where it lives",
        "train" => "Fine-tuning",
        "eval" => "Accuracy",
        _ => "More",
    }
}

/// Title and sentence of an axis.
pub fn axis(axis: Axis) -> (String, &'static str) {
    let (title, sentence) = match axis.key() {
        "weights.format" => ("Format", "How the numbers of the weight matrices are stored."),
        "kv.select" => ("Tokens to keep", "Which tokens' keys and values stay in the cache."),
        "kv.split" => ("Share of each head", "How the rows that stay are shared out over layers and heads."),
        "kv.merge" => {
            ("Dropped tokens", "What happens to the rows that go: discarded, or folded into those that stay.")
        }
        "kv.channels" => ("Dimensions to keep", "Which dimensions of keys and values stay."),
        "kv.format" => ("Precision", "How an element of a key or a value is stored."),
        "kv.alloc" => ("Cache layout", "How room for rows is made: at once, or as they come."),
        "place.weights" => ("Weights", "Where weights are kept and how they get to where they are used."),
        "place.kv" => ("KV cache", "Where the rows of the cache are kept."),
        key => return (plain(key.rsplit('.').next().unwrap_or(key)), "One independent choice."),
    };
    (title.to_owned(), sentence)
}

/// True for an axis shown only under Advanced.
pub fn advanced(key: &str) -> bool {
    matches!(key, "kv.alloc" | "kv.split" | "kv.channels" | "kv.merge" | "place.kv")
}

/// A variant's name.
pub fn variant(key: &str, id: &str) -> String {
    match (key, id) {
        ("kv.select", "full") => "all".into(),
        ("kv.select", "window") => "first and last".into(),
        ("kv.select", "h2o") => "heavy hitters (H2O)".into(),
        ("kv.channels", "all") => "all".into(),
        ("place.weights", "resident") => "in memory".into(),
        ("place.weights", "stream") => "streamed, layer by layer".into(),
        ("place.kv", "resident") => "in memory".into(),
        // A number format is its own name.
        (key, id) if key.ends_with("format") => id.to_owned(),
        (_, id) => plain(id),
    }
}

/// `heavy_ratio` as `heavy ratio`.
pub fn plain(id: &str) -> String {
    id.replace('_', " ")
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
