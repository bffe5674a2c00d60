//! `ullage merge` and `ullage adapter`: what becomes of an adapter outside.

use std::path::Path;
use std::time::{Duration, Instant};

use ullage_core::model::Model;
use ullage_core::model::adapter::{self, AdapterFile};
use ullage_core::ops::ThreadTeam;
use ullage_core::output::{Care, Single};
use ullage_core::schema;
use ullage_core::weights::format;
use ullage_core::{Bytes, Result, machine};

use crate::args::{Adapter, Merge};
use crate::source::say;

/// Merges an adapter into a model's weights.
///
/// # Errors
/// A model, adapter or type that does not fit; a file that cannot be written.
pub fn merge(args: &Merge) -> Result<u8> {
    let target = *schema::build(format::ENTRIES, "--type", &args.ty.as_str().into())?;
    let model = Model::open(&args.model, Path::new("."))?.with_adapter(&args.adapter, args.scale)?;
    let threads = if args.threads == 0 { machine::default_threads() } else { args.threads };
    let team = ThreadTeam::new(threads)?;
    let care = Care { inputs: model.files(), force: args.force };
    let claim = Single::claim(&args.out, false, &care)?;
    let mut told = Instant::now();
    let mut tell = |done, total| {
        if told.elapsed() >= Duration::from_millis(500) {
            told = Instant::now();
            eprintln!("merging: {} of {}", Bytes(done), Bytes(total));
        }
    };
    let merged = claim.write(|| adapter::merge(&model, target, &args.out, &team, &mut tell))?;
    say(&format!(
        "{}: {} in {} changed matrices of {}\n",
        args.out.display(),
        Bytes(merged.bytes),
        merged.matrices,
        model.shape.name
    ));
    Ok(0)
}

/// Writes an adapter in another layout.
///
/// # Errors
/// A model or adapter that does not fit; a place that cannot be written; scales that the layout cannot express.
pub fn adapter(args: &Adapter) -> Result<u8> {
    let model = Model::open(&args.model, Path::new("."))?;
    let file = AdapterFile::open_over(&args.adapter, &model.source, &model.shape, 1.0)?;
    let inputs = model.files().into_iter().chain(file.files()).collect();
    let care = Care { inputs, force: args.force };
    let folder = args.out.extension().is_none_or(|e| e != "gguf");
    Single::claim(&args.out, folder, &care)?.write(|| file.convert(&args.out, &model.shape))?;
    let rank = file.shape.rank();
    say(&format!("{}: {} of rank {rank}\n", args.out.display(), Bytes(4 * file.shape.parameters(&model.shape))));
    Ok(0)
}
