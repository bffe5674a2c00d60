//! candle as what a run computes on: a sequence is its tokens, and every step reads all of them again.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::backend;
use crate::config::Config;
use crate::device::candle::Candle;
use crate::error::Result;
use crate::forward::cpu::{BatchShape, PassObserver, Sequence};
use crate::forward::runner;
use crate::kv::Pipeline;
use crate::ledger::{Buffer, Ledger, Tag};
use crate::machine::Machine;
use crate::model::Model;
use crate::ops::ThreadTeam;
use crate::plan::guest::{LOGITS, longest};
use crate::plan::{Resolved, Workload};
use crate::report::protocol::MachineCard;
use crate::shape::ModelShape;
use crate::train::engine::Trainer;
use crate::train::reader;

/// candle's device of a configuration, for texts of at most some length.
pub(crate) struct Backend {
    device: String,
    length: usize,
    logits: Tag,
    /// Asked whether the job was cancelled.
    flag: Arc<ThreadTeam>,
}

impl Backend {
    /// Of `config`, for `workload`.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn new(config: &Config, workload: &Workload, cancel: &Arc<AtomicBool>) -> Result<Self> {
        Ok(Self {
            device: config.machine.device.clone(),
            length: longest(workload),
            logits: Tag { tier: config.cpu_tier(), ..LOGITS },
            flag: Arc::new(ThreadTeam::with_cancel(1, Arc::clone(cancel))?),
        })
    }
}

/// Opens candle and loads `shape` from `model`, to read `length` tokens with logits of the last `rows`; returns the bytes of
/// the guest row too.
///
/// # Errors
/// Over budget; what reading meets; what training's forward pass does not know.
pub(crate) fn open(
    device: &str,
    model: &Model,
    (length, rows): (usize, usize),
    threads: usize,
    ledger: &Arc<Ledger>,
    flag: &Arc<ThreadTeam>,
    progress: &mut dyn FnMut(f32),
) -> Result<(Trainer, u64)> {
    let shape = &model.shape;
    let bound = reader::candle_bound(shape, length, rows, threads)?;
    let candle = Candle::open(device, ledger, flag, threads, bound)?;
    let (mut done, total) = (0, shape.bytes().max(1));
    let mut progress = |bytes: u64| {
        done += bytes;
        progress(done as f32 / total as f32);
    };
    // What candle holds is in the guest row, so that the trainer's own account has nothing to count.
    let inner = Ledger::new(u64::MAX, u64::MAX, u64::MAX);
    let trainer = reader::open(Box::new(candle), &inner, shape, Some(&*model.source), length, &mut progress)?;
    Ok((trainer, bound))
}

impl backend::Backend for Backend {
    type Runner = Runner;

    fn card(&self, machine: &Machine, team: &ThreadTeam) -> MachineCard {
        MachineCard {
            device: self.device.clone(),
            name: machine.cpu.model.clone(),
            threads: team.threads(),
            kernels: "candle".into(),
            bandwidth: if machine.probed { machine.speed.read[1] } else { 0.0 },
        }
    }

    fn load(
        self,
        model: &Model,
        resolved: Resolved,
        ledger: &Arc<Ledger>,
        _: &ThreadTeam,
        progress: &mut dyn FnMut(f32),
    ) -> Result<Runner> {
        let Resolved { held, pipeline, threads, .. } = resolved;
        let (trainer, _) = open(&self.device, model, (self.length, 1), threads, ledger, &self.flag, progress)?;
        Ok(Runner { trainer, shape: held, pipeline, ledger: Arc::clone(ledger), tag: self.logits })
    }
}

/// A model that candle holds.
pub(crate) struct Runner {
    trainer: Trainer,
    shape: ModelShape,
    pipeline: Pipeline,
    ledger: Arc<Ledger>,
    tag: Tag,
}

impl Runner {
    /// Logits after the last token of a sequence, as row `i` of `workspace`.
    fn read(&mut self, seq: &Sequence<Vec<u32>>, i: usize, workspace: &mut Buffer) -> Result<()> {
        let vocab = self.shape.vocab;
        let out = &mut workspace.as_mut_slice::<f32>()[i * vocab..][..vocab];
        self.trainer.logits(&seq.layers[0], 1, Some(out), &mut |_, _, _| Ok(()))
    }
}

impl runner::Runner for Runner {
    /// The tokens so far, in the place of a layer's cache.
    type Layer = Vec<u32>;
    type Workspace = Buffer;

    fn shape(&self) -> &ModelShape {
        &self.shape
    }

    fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    fn workspace(&self, _: &ThreadTeam, e: BatchShape) -> Result<Buffer> {
        self.ledger.buffer(self.tag, 4 * self.shape.vocab * e.sequences)
    }

    fn sequence(&self, prompt: usize) -> Result<Sequence<Vec<u32>>> {
        Ok(Sequence { layers: vec![Vec::new()], seen: 0, prompt })
    }

    fn prefill(
        &mut self,
        seq: &mut Sequence<Vec<u32>>,
        tokens: &[u32],
        workspace: &mut Buffer,
        team: &ThreadTeam,
        watch: &mut dyn PassObserver,
    ) -> Result<()> {
        self.extend(seq, tokens, true, workspace, team, watch)
    }

    fn extend(
        &mut self,
        seq: &mut Sequence<Vec<u32>>,
        tokens: &[u32],
        with_head: bool,
        workspace: &mut Buffer,
        _: &ThreadTeam,
        _: &mut dyn PassObserver,
    ) -> Result<()> {
        seq.layers[0].extend_from_slice(tokens);
        seq.seen += tokens.len();
        if with_head { self.read(seq, 0, workspace) } else { Ok(()) }
    }

    fn decode(
        &mut self,
        seqs: &mut [Sequence<Vec<u32>>],
        tokens: &[u32],
        workspace: &mut Buffer,
        _: &ThreadTeam,
        _: &mut dyn PassObserver,
    ) -> Result<()> {
        for (i, (seq, token)) in seqs.iter_mut().zip(tokens).enumerate() {
            seq.layers[0].push(*token);
            seq.seen += 1;
            self.read(seq, i, workspace)?;
        }
        Ok(())
    }

    fn fork(&self, seqs: &mut [Sequence<Vec<u32>>]) -> Result<()> {
        if let Some((first, rest)) = seqs.split_first_mut() {
            for seq in rest {
                seq.layers.clone_from(&first.layers);
                seq.seen = first.seen;
            }
        }
        Ok(())
    }

    fn truncate(&self, seq: &mut Sequence<Vec<u32>>, seen: usize) {
        seq.layers[0].truncate(seen);
        seq.seen = seen;
    }

    fn logits<'a>(&self, workspace: &'a Buffer, i: usize) -> &'a [f32] {
        let vocab = self.shape.vocab;
        &workspace.as_slice::<f32>()[i * vocab..][..vocab]
    }

    fn beside(&self) -> Result<Vec<(&'static str, u64)>> {
        self.trainer.device().beside()
    }
}
