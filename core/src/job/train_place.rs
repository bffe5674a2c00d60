//! The machine that a training runs on: opened before anything is told of it, ready once its ledger is there.

use std::sync::Arc;

use crate::config::Config;
use crate::config::train::Train;
use crate::device::cpu::Cpu;
use crate::device::{Device, Sizes};
use crate::error::Result;
use crate::ledger::Ledger;
use crate::machine::Machine;
use crate::ops::ThreadTeam;
#[cfg(feature = "cuda")]
use crate::ops::cuda;
use crate::report::protocol::MachineCard;

/// Where a training computes.
pub(super) enum Place {
    /// On the CPU.
    Cpu,
    /// On a GPU, whose pool ends at the device budget.
    #[cfg(feature = "cuda")]
    Cuda(Arc<cuda::Device>),
}

impl Place {
    /// Opens the device that `config` names.
    ///
    /// # Errors
    /// There is no such GPU, or this build knows none.
    pub fn open(config: &Config) -> Result<Self> {
        match config.gpu() {
            None => Ok(Self::Cpu),
            #[cfg(feature = "cuda")]
            Some(gpu) => Ok(Self::Cuda(cuda::Device::open(gpu, config.budget.device.0)?)),
            #[cfg(not(feature = "cuda"))]
            Some(_) => Err(crate::error::Error::refused(
                format!("machine.device = {}", config.machine.device),
                "this build computes on the CPU; build with `--features cuda` for a GPU",
            )),
        }
    }

    /// As a report names it.
    pub fn card(&self, config: &Config, machine: &Machine, threads: usize) -> MachineCard {
        let device = config.machine.device.clone();
        match self {
            Self::Cpu => MachineCard {
                device,
                name: machine.cpu.model.clone(),
                threads,
                kernels: crate::ops::cpu::kernels().level.as_str().into(),
                bandwidth: if machine.probed { machine.speed.read[1] } else { 0.0 },
            },
            #[cfg(feature = "cuda")]
            Self::Cuda(gpu) => {
                let (name, kernels) = gpu.name();
                let bandwidth = config.gpu().and_then(|n| machine.gpus.get(n)).map_or(0.0, |g| g.read);
                MachineCard { device, name, threads, kernels, bandwidth }
            }
        }
    }

    /// The device, with its scratch.
    ///
    /// # Errors
    /// Over budget; the driver's.
    pub fn device(
        self,
        train: &Train,
        ledger: &Arc<Ledger>,
        team: &Arc<ThreadTeam>,
        sizes: &Sizes,
    ) -> Result<Box<dyn Device>> {
        #[cfg(not(feature = "cuda"))]
        let _ = train;
        match self {
            Self::Cpu => Ok(Box::new(Cpu::new(ledger, team, sizes)?)),
            #[cfg(feature = "cuda")]
            Self::Cuda(gpu) => {
                let precision = crate::device::gpu::Precision::of(train);
                Ok(Box::new(crate::device::gpu::Gpu::new(&gpu, ledger, team, sizes, precision)?))
            }
        }
    }
}
