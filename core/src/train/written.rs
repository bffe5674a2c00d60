//! What a training writes, from shapes alone: its state, and what it leaves for others. Payload is exact; headers and words, whose
//! length hangs on names and numbers, are bounded from above.

use std::collections::BTreeMap;

use super::learner::Param;
use super::plan::{learning, section};
use super::{export, params};
use crate::blocks::BlockType;
use crate::config::Config;
use crate::config::train::Train;
use crate::device::Buf;
use crate::error::{Error, Result};
use crate::ledger::files::{Output, Written};
use crate::ledger::{Ledger, Walls};
use crate::model::adapter::shared;
use crate::model::{Model, hf};
use crate::schema;
use crate::shape::{ModelShape, PART_B, Role, TensorShape};

/// What a training of `config` on `model` writes into the folder that it keeps; `goes_on` from a state that is there already, which
/// gives way to the first that is saved.
///
/// # Errors
/// A choice that the model's shape forbids; a model whose words cannot be read.
pub fn written(config: &Config, model: &Model, goes_on: bool) -> Result<Vec<Written>> {
    let train = section(config)?;
    let params = learning(config, &model.shape, &Ledger::draft(Walls::default(), false))?;
    let mut state = state(train, &params)?;
    state.replaced = goes_on || saves(train) > 1;
    let export = if params::adapts(&train.params) { adapter(train, &params, model)? } else { whole(train, model)? };
    Ok(vec![state, export])
}

/// States that are saved from the first step to the last.
fn saves(train: &Train) -> usize {
    match train.save_every {
        0 => 1,
        every => train.steps.div_ceil(every).max(1),
    }
}

/// Digits of a number.
fn digits(n: u64) -> u64 {
    u64::from(n.checked_ilog10().unwrap_or(0)) + 1
}

/// Most bytes of an entry of a safetensors header, beside its name.
fn entry(total: u64, rows: usize, cols: usize) -> u64 {
    // `"":{"data_offsets":[,],"dtype":"BF16","shape":[,]},`
    52 + 2 * digits(total) + digits(rows as u64) + digits(cols as u64)
}

fn state(train: &Train, params: &[Param]) -> Result<Written> {
    let bytes = |bufs: &mut dyn Iterator<Item = &Buf>| bufs.map(|buf| buf.bytes() as u64).sum::<u64>();
    let values = bytes(&mut params.iter().map(|p| &p.buf));
    let slots = bytes(&mut params.iter().flat_map(|p| &p.state));
    let copies = bytes(&mut params.iter().filter_map(|p| p.copy.as_ref()));
    let total = values + slots + copies;
    let names = |p: &Param| {
        let own = |prefix: usize, rows, cols| (prefix + p.name.len()) as u64 + entry(total, rows, cols);
        let slots: u64 = p.slots.iter().map(|s| own("state..".len() + s.name.len(), s.rows, s.cols)).sum();
        slots + own("param.".len(), p.rows, p.cols) + p.copy.as_ref().map_or(0, |_| own("copy.".len(), p.rows, p.cols))
    };
    let choices = toml::to_string(train).map_err(|e| Error::Internal(format!("writing [train]: {e}")))?;
    // The choices are text within text within JSON: a character becomes four at most. Hashes, numbers and names take the rest.
    let about = 4 * choices.len() as u64 + (2 << 10);
    let header = params.iter().map(names).sum::<u64>() + about;
    let sum: [&[(u64, &str)]; 4] = [
        &[(values, "B of what learns")],
        &[(slots, "B of optimizer state")],
        &[(copies, "B of rounding copies")],
        &[(header, "B header")],
    ];
    let sum: Vec<_> = sum.into_iter().filter(|term| term[0].0 > 0).collect();
    Ok(Written::new(Output::State, &sum))
}

/// PEFT's folder, and GGUF where that layout has the adapter.
fn adapter(train: &Train, params: &[Param], model: &Model) -> Result<Written> {
    let built = schema::build(params::ENTRIES, "train.params", &train.params)?;
    let gguf = Role::LINEARS.iter().find_map(|role| built.adapt(*role)).is_some_and(|a| a.kind().0.gguf());
    let adapters: Vec<&Param> = params.iter().filter(|p| p.adapter).collect();
    let values: u64 = adapters.iter().map(|p| p.len() as u64).sum::<u64>() + beside(&adapters, &model.shape)?;
    let path = model.path.len() as u64;
    // PEFT's names say the module in full, and its configuration may say the rank of each; GGUF pads each tensor.
    let peft: u64 =
        adapters.iter().map(|p| 180 + entry(4 * values, p.rows, p.cols)).sum::<u64>() + (4 << 10) + 2 * path;
    let other = if gguf { adapters.len() as u64 * 160 + (1 << 10) + path } else { 0 };
    let files = if gguf { (2, "files") } else { (1, "file") };
    Ok(Written::new(Output::Adapter, &[&[files, (values, "values"), (4, "B")], &[(peft + other, "B of headers")]]))
}

/// What is written beside what learns: where a model keeps several linears as one, rows of each B have a column for the ranks of all.
fn beside(adapters: &[&Param], shape: &ModelShape) -> Result<u64> {
    let by_name: BTreeMap<&str, &Param> = adapters.iter().map(|p| (p.name.as_str(), *p)).collect();
    let groups = shared(shape)?;
    let mut sum = 0;
    for layer in &shape.layers {
        for group in &groups {
            let linears = group.iter().filter_map(|role| layer.tensors.get(*role));
            let own = |w: &TensorShape| by_name.get(format!("{}.{}", w.name, PART_B.suffix).as_str()).copied();
            let (rows, ranks, learned) = linears.fold((0, 0, 0), |(rows, ranks, learned), w| {
                let b = own(w);
                (rows + w.rows, ranks + b.map_or(0, |b| b.cols), learned + b.map_or(0, Param::len))
            });
            sum += (rows * ranks - learned) as u64;
        }
    }
    Ok(sum)
}

/// A Hugging Face folder: every tensor of the model, and its words.
fn whole(train: &Train, model: &Model) -> Result<Written> {
    let bytes = if export::stored(train) == BlockType::F32 { 4 } else { 2 };
    let tensors: Vec<_> =
        model.shape.roles().filter(|(_, role, _)| *role != Role::RopeFreqs).map(|(_, _, t)| (t.rows, t.cols)).collect();
    let weights: u64 = tensors.iter().map(|(rows, cols)| (rows * cols) as u64).sum();
    let header: u64 = tensors.iter().map(|(rows, cols)| 80 + entry(bytes * weights, *rows, *cols)).sum();
    let words = hf::words_bytes(model)?;
    let sum: [&[(u64, &str)]; 2] =
        [&[(weights, "weights"), (bytes, "B")], &[(header + words, "B of headers, configuration and words")]];
    Ok(Written::new(Output::Model, &sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saves_are_those_of_a_run_and_digits_are_counted() {
        let of = |steps, save_every| saves(&Train { steps, save_every, ..Train::default() });
        assert_eq!((of(10, 0), of(10, 10), of(10, 20), of(10, 5), of(10, 4), of(1, 1)), (1, 1, 1, 2, 3, 1));
        assert_eq!([0, 9, 10, 99, 100, u64::MAX].map(digits), [1, 1, 2, 2, 3, 20]);
    }
}
