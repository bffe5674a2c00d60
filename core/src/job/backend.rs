//! What a job computes on: opened before its weights are loaded, and loading them gives the runner.

use std::sync::Arc;

#[cfg(feature = "cuda")]
use crate::blocks::BlockType;
#[cfg(feature = "cuda")]
use crate::config::Config;
#[cfg(feature = "cuda")]
use crate::error::Error;
use crate::error::Result;
use crate::forward::adapter::Held;
use crate::forward::cpu::Forward;
#[cfg(feature = "cuda")]
use crate::forward::gpu::GpuForward;
use crate::forward::runner::Runner;
use crate::ledger::Ledger;
use crate::machine::Machine;
use crate::model::Model;
use crate::ops::ThreadTeam;
#[cfg(feature = "cuda")]
use crate::ops::cuda::Device;
use crate::place;
use crate::plan::Resolved;
use crate::report::protocol::MachineCard;

/// A device, ready to take a model.
pub(crate) trait Backend {
    /// What computes there.
    type Runner: Runner;

    /// As a report names it.
    fn card(&self, machine: &Machine, team: &ThreadTeam) -> MachineCard;

    /// Loads `model` as `resolved` says; `progress` is called with the fraction done.
    ///
    /// # Errors
    /// Over budget, a damaged file, cancellation.
    fn load(
        self,
        model: &Model,
        resolved: Resolved,
        ledger: &Arc<Ledger>,
        team: &ThreadTeam,
        progress: &mut dyn FnMut(f32),
    ) -> Result<Self::Runner>;
}

/// The CPU.
pub(crate) struct Cpu;

impl Backend for Cpu {
    type Runner = Forward;

    fn card(&self, machine: &Machine, team: &ThreadTeam) -> MachineCard {
        MachineCard {
            device: "cpu".into(),
            name: machine.cpu.model.clone(),
            threads: team.threads(),
            kernels: crate::ops::cpu::kernels().level.as_str().into(),
            bandwidth: if machine.probed { machine.speed.read[1] } else { 0.0 },
        }
    }

    fn load(
        self,
        model: &Model,
        resolved: Resolved,
        ledger: &Arc<Ledger>,
        team: &ThreadTeam,
        progress: &mut dyn FnMut(f32),
    ) -> Result<Forward> {
        let Resolved { held, pipeline, placement, threads, .. } = resolved;
        let place = place::Model { stored: &model.shape, held: &held, threads };
        let mut weights = placement.load(Arc::clone(&model.source), place, ledger, team, progress)?;
        let adapter = model.adapter.as_ref();
        let adapter = adapter.map(|file| Held::load(file, &held, &mut *weights, ledger, team)).transpose()?;
        Ok(Forward::new(held, pipeline, weights, Arc::clone(ledger)).with_adapter(adapter))
    }
}

/// A GPU with its memory pool.
#[cfg(feature = "cuda")]
pub(crate) struct Cuda {
    device: Arc<Device>,
    ordinal: usize,
    /// Of keys and of values.
    formats: (BlockType, BlockType),
}

#[cfg(feature = "cuda")]
impl Cuda {
    /// Opens GPU `ordinal` with the device budget of `config` as the size of its pool.
    ///
    /// # Errors
    /// [`Error::Device`] when there is no such GPU.
    pub fn open(ordinal: usize, config: &Config) -> Result<Self> {
        let format = |id: &str| {
            BlockType::from_name(id).ok_or_else(|| Error::Internal(format!("kv.format `{id}` is no block type")))
        };
        let formats = (format(&config.kv.format.k.id)?, format(&config.kv.format.v.id)?);
        Ok(Self { device: Device::open(ordinal, config.budget.device.0)?, ordinal, formats })
    }
}

#[cfg(feature = "cuda")]
impl Backend for Cuda {
    type Runner = GpuForward;

    fn card(&self, machine: &Machine, team: &ThreadTeam) -> MachineCard {
        let (name, kernels) = self.device.name();
        let bandwidth = machine.gpus.get(self.ordinal).map_or(0.0, |g| g.read);
        MachineCard { device: format!("cuda:{}", self.ordinal), name, threads: team.threads(), kernels, bandwidth }
    }

    fn load(
        self,
        model: &Model,
        resolved: Resolved,
        ledger: &Arc<Ledger>,
        team: &ThreadTeam,
        progress: &mut dyn FnMut(f32),
    ) -> Result<GpuForward> {
        let Resolved { held, pipeline, threads, .. } = resolved;
        let place = place::Model { stored: &model.shape, held: &held, threads };
        let adapter = model.adapter.as_deref();
        GpuForward::load(&model.source, adapter, place, pipeline, self.formats, &self.device, ledger, team, progress)
    }
}
