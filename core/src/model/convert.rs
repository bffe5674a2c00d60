//! Writing a model's numbers as a GGUF file that is like another in everything else.

use std::collections::BTreeMap;
use std::path::Path;

use super::Model;
use super::gguf::{Gguf, GgufWriter};
use crate::blocks;
use crate::error::{Error, Result};
use crate::shape::TensorShape;

/// Elements of rows worked on at once.
const RUN: usize = 1 << 20;

/// Writes the numbers of `model` to `out`, whole or not at all, with the metadata, the words and the types of tensors of
/// `like`; what `model` has no tensor for is `like`'s own. Returns the file's bytes.
///
/// # Errors
/// A tensor of another shape, named; [`Error::Io`].
pub fn write_like(model: &Model, like: &Gguf, out: &Path) -> Result<u64> {
    if let Some(whole) = like.tensors().iter().find(|t| like.cut(&t.name).is_some()) {
        let reason = format!("{} holds several matrices in one, which this does not write", whole.name);
        return Err(Error::refused(format!("a file like {}", like.path().display()), reason));
    }
    let mut writer = GgufWriter::default();
    writer.copy_metadata(like, |_| true)?;
    for t in like.tensors() {
        let dims: Vec<usize> = t.dims().iter().map(|d| *d as usize).collect();
        writer.tensor(&t.name, t.ty, &dims);
    }
    let ours: BTreeMap<&str, &TensorShape> = model.shape.tensors().map(|t| (&*t.name, t)).collect();
    let mut tensors = like.tensors().iter();
    writer.write(out, |to, sink| {
        let Some(theirs) = tensors.next() else { return Ok(()) };
        let (rows, cols, written) = (to.rows, to.cols, to.bytes as usize / to.rows.max(1));
        let run = (RUN / cols.max(1)).clamp(1, rows.max(1));
        let mut encoded = vec![0; run * written];
        let (mut stored, mut wide) = (Vec::new(), vec![0.0; run * cols]);
        for first in (0..rows).step_by(run) {
            let n = run.min(rows - first);
            let encoded = &mut encoded[..n * written];
            match ours.get(&*to.name) {
                None => like.read_at(theirs, (first * written) as u64, encoded)?,
                Some(t) if (t.rows, t.cols) != (rows, cols) => {
                    let is = format!(
                        "is {} × {} in {} and {rows} × {cols} in {}",
                        t.rows,
                        t.cols,
                        model.path,
                        like.path().display()
                    );
                    return Err(Error::model(out, &*to.name, is));
                }
                Some(t) => {
                    let wrong = |e| Error::Internal(format!("{} as {}: {e}", to.name, to.ty));
                    stored.resize(n * t.row_bytes(), 0);
                    model.source.read_rows(t, first, n, &mut stored)?;
                    blocks::decode(t.block()?, &stored, &mut wide[..n * cols]).map_err(wrong)?;
                    blocks::encode(to.ty, &wide[..n * cols], encoded).map_err(wrong)?;
                }
            }
            sink.put(encoded)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_like_itself_is_itself_and_another_shape_is_refused() {
        let open = |path: &str| Model::open(path, Path::new(".")).unwrap();
        let bundled = open("bundled:recall");
        let file = bundled.source.gguf().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("same.gguf");
        assert_eq!(write_like(&bundled, file, &out).unwrap(), std::fs::metadata(&out).unwrap().len());
        let same = open(&out.display().to_string());
        assert_eq!(same.shape.tensors().collect::<Vec<_>>(), bundled.shape.tensors().collect::<Vec<_>>());
        for t in bundled.shape.tensors() {
            let read = |model: &Model| {
                let mut bytes = vec![0; t.bytes() as usize];
                model.source.read_rows(t, 0, t.rows, &mut bytes).unwrap();
                bytes
            };
            assert!(read(&bundled) == read(&same), "{}", t.name);
        }
        let other = folder.path().join("other.gguf");
        let error = write_like(&open("random:smollm2-135m"), file, &other).unwrap_err().to_string();
        // The first tensor of the file is the first that differs.
        assert!(error.contains("blk.0.attn_k.weight: is 192 × 576") && error.contains("256 × 256"), "{error}");
        assert!(!other.exists());
    }
}
