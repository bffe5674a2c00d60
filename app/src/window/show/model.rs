//! The model that is open, and those that can be.

use ullage_panels::view::{ModelLine, Recent};
use ullage_panels::words as figures;

use super::super::opened::{OpenModel, OutlinedModel};
use super::super::state::State;

/// The line of the open model.
pub fn line(s: &State) -> ModelLine {
    let opening = s.opening.as_ref().map(|w| w.path.clone());
    if let Some(of) = &s.outlined {
        return outlined(s, of, opening);
    }
    let Some(opened) = &s.opened else { return ModelLine { opening, ..ModelLine::default() } };
    let shape = &opened.model.shape;
    let head = shape.layers.first();
    ModelLine {
        name: name_of(s, opened),
        detail: format!(
            "{}, {} parameters, {}",
            shape.arch,
            parameters(shape.parameters()),
            figures::bytes(shape.bytes())
        ),
        path: opened.asked.clone(),
        opening,
        chats: opened.chats,
        layers_heads: (shape.layers.len(), head.map_or(0, |l| l.attention.heads)),
    }
}

/// The line of a model that is planned and not run.
fn outlined(s: &State, of: &OutlinedModel, opening: Option<String>) -> ModelLine {
    let (outline, path) = (&of.outline, of.wanted.path.clone());
    let weights = outline.weights.as_ref().map(|w| figures::bytes(w.bytes));
    let parameters = outline.parameters.map(|n| format!("{} parameters", parameters(n)));
    let detail = [Some(outline.arch.clone()), parameters, weights, Some("only planned".to_owned())];
    ModelLine {
        name: brought(s, &path).or_else(|| file_name(&path)).unwrap_or_else(|| outline.name.clone()),
        detail: detail.into_iter().flatten().collect::<Vec<_>>().join(", "),
        path,
        opening,
        chats: false,
        layers_heads: (outline.layers.len(), 0),
    }
}

/// The name that the program which brought a model gave it.
fn brought(s: &State, path: &str) -> Option<String> {
    s.discovered.iter().find(|f| f.path.as_os_str() == path).map(|f| f.name.clone())
}

/// What a model is called: as the program that brought it does, else its file's name (which people know better than what its
/// header says), else its own.
fn name_of(s: &State, opened: &OpenModel) -> String {
    brought(s, &opened.asked).or_else(|| file_name(&opened.asked)).unwrap_or_else(|| opened.model.shape.name.clone())
}

/// The name of a model's file, without its ending.
pub fn file_name(path: &str) -> Option<String> {
    let stem = path.strip_suffix(".gguf")?.rsplit(['/', '\\']).next()?;
    (!stem.is_empty()).then(|| stem.to_owned())
}

/// `4.99 million`, `7.62 billion`.
fn parameters(n: u64) -> String {
    match n {
        1_000_000_000.. => format!("{} billion", figures::number(n as f64 / 1e9)),
        1_000_000.. => format!("{} million", figures::number(n as f64 / 1e6)),
        n => figures::count(n),
    }
}

/// Models opened before, those that other programs brought, and the bundled one.
pub fn recent(s: &State) -> Vec<Recent> {
    let mut out: Vec<Recent> = Vec::new();
    for r in &s.remembered.recent {
        let bundled = r.path.starts_with("bundled:");
        out.push(Recent {
            path: r.path.clone(),
            name: r.name.clone(),
            from: if bundled { "bundled" } else { "recent" }.into(),
            bytes: (r.bytes > 0).then_some(r.bytes),
        });
    }
    for found in &s.discovered {
        let path = found.path.display().to_string();
        if out.iter().all(|r| r.path != path) {
            out.push(Recent { path, name: found.name.clone(), from: found.from.into(), bytes: Some(found.bytes) });
        }
    }
    if out.iter().all(|r| r.path != "bundled:recall") {
        let bytes = None;
        out.push(Recent {
            path: "bundled:recall".into(),
            name: "Recall, a small model".into(),
            from: "bundled".into(),
            bytes,
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_said_in_three_digits() {
        assert_eq!([4_985_088, 7_615_616_512, 999].map(parameters), ["4.99 million", "7.62 billion", "999"]);
    }
}
