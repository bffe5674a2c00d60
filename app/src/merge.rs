//! `ullage merge`.

use std::path::Path;
use std::time::{Duration, Instant};

use ullage_core::catalog::{self, Axis, Role};
use ullage_core::model::{Model, adapter};
use ullage_core::ops::Team;
use ullage_core::{Bytes, Error, Result, machine};

use crate::args::Merge;
use crate::source::say;

/// Merges an adapter into a model's weights.
///
/// # Errors
/// A model, adapter or type that does not fit; a file that cannot be written.
pub fn merge(args: &Merge) -> Result<u8> {
    let entry = catalog::find(Axis::WeightsFormat, "--type", &args.ty)?;
    let Role::WeightsFormat(target) = entry.role else {
        return Err(Error::Internal(format!("catalogue entry `{}` has another axis' role", entry.id)));
    };
    let model = Model::open(&args.model, Path::new("."))?.with_adapter(&args.adapter, args.scale)?;
    let threads = if args.threads == 0 { machine::default_threads() } else { args.threads };
    let team = Team::new(threads)?;
    let mut told = Instant::now();
    let merged = adapter::merge(&model, target, &args.out, &team, &mut |done, total| {
        if told.elapsed() >= Duration::from_millis(500) {
            told = Instant::now();
            eprintln!("merging: {} of {}", Bytes(done), Bytes(total));
        }
    })?;
    say(&format!(
        "{}: {} in {} changed matrices of {}\n",
        args.out.display(),
        Bytes(merged.bytes),
        merged.matrices,
        model.shape.name
    ));
    Ok(0)
}
