//! What kernels of inference have in common: how they are found, loaded and queued.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::sys::{
    self, CUfunction_attribute, CUlaunchAttribute, CUlaunchAttributeID, CUlaunchAttributeValue, CUlaunchConfig,
};
use candle_core::cuda_backend::cudarc::driver::{CudaFunction, CudaModule};

use super::device::{Device, driver};
use super::profile::Timed;
use super::train::Arg;
use crate::blocks::BlockType;
use crate::error::{Error, Result};

/// A kernel's name, and the type it was made for.
type Key = (&'static str, Option<BlockType>);

/// A kernel that was asked for.
struct Loaded {
    function: CudaFunction,
    /// Bytes of shared memory it may ask for.
    shared: usize,
    /// It was compiled with the instruction that waits for the kernel before it: code for older chips that the driver brings to a newer
    /// one has none.
    waits: bool,
}

/// The kernels of inference, loaded on one device.
pub struct Kernels {
    pub(super) device: Arc<Device>,
    modules: [Arc<CudaModule>; 3],
    functions: RefCell<HashMap<Key, Loaded>>,
    launched: Cell<u64>,
    /// Kernels as they were timed, while somebody asks for that.
    pub(super) times: RefCell<Option<Vec<Timed>>>,
    outside: Cell<u64>,
    /// Kernels may begin while the one before ends (from sm_90 on).
    overlap: bool,
    pub(super) multiprocessors: usize,
    /// Bytes of shared memory that a block may ask for.
    pub(super) shared: usize,
}

/// How a kernel is queued.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub grid: [usize; 3],
    pub block: (u32, u32),
    /// Bytes of shared memory beside what it declares.
    pub shared: usize,
    /// It waits by itself for the kernel before it.
    pub waits: bool,
}

impl Shape {
    pub const fn new(grid: (usize, usize), block: u32) -> Self {
        Self { grid: [grid.0, grid.1, 1], block: (block, 1), shared: 0, waits: false }
    }
}

impl Kernels {
    /// Opens the compiled kernels; each is loaded when it is first asked for.
    ///
    /// # Errors
    /// [`Error::Device`] with what the driver says.
    pub fn new(device: Arc<Device>) -> Result<Self> {
        let mut outside = 0;
        let mut module = |image: &[u8]| -> Result<Arc<CudaModule>> {
            let (module, bytes) = device.module(image)?;
            outside += bytes;
            Ok(module)
        };
        let modules = [
            module(include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin")))?,
            module(include_bytes!(concat!(env!("OUT_DIR"), "/decode.fatbin")))?,
            module(include_bytes!(concat!(env!("OUT_DIR"), "/prefill.fatbin")))?,
        ];
        let (major, multiprocessors, shared) = device.limits()?;
        Ok(Self {
            device,
            modules,
            functions: RefCell::default(),
            launched: Cell::new(0),
            times: RefCell::new(None),
            outside: Cell::new(outside),
            overlap: major >= 9,
            multiprocessors,
            // What the driver keeps of it for itself is taken off as well.
            shared: shared.saturating_sub(2048),
        })
    }

    /// The GPU that they run on.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Kernels launched so far, those of replayed steps among them.
    pub fn launched(&self) -> u64 {
        self.launched.get()
    }

    /// Queues a kernel of a library, counted and timed as one of ours.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn beside(&self, name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        self.replayed(1);
        self.timed(|| name.to_owned(), work)
    }

    /// Counts kernels that a replay launches.
    pub(super) fn replayed(&self, kernels: u64) {
        self.launched.set(self.launched.get() + kernels);
    }

    /// Takes back what was counted while capturing.
    pub(super) fn forget(&self, kernels: u64) {
        self.launched.set(self.launched.get() - kernels);
    }

    /// Bytes that they took outside the pool.
    pub fn outside(&self) -> u64 {
        self.outside.get()
    }

    /// The kernel, which may ask for `shared` bytes of shared memory, and whether it can wait for the one before it.
    fn function(&self, key: Key, shared: usize) -> Result<(sys::CUfunction, bool)> {
        if let Some(loaded) = self.functions.borrow().get(&key).filter(|loaded| loaded.shared >= shared) {
            return Ok((loaded.function.cu_function(), loaded.waits));
        }
        let name = key.1.map_or_else(|| key.0.to_owned(), |ty| format!("{}_{ty}", key.0));
        let before = self.device.used()?;
        let found = self.modules.iter().find_map(|m| m.load_function(&name).ok());
        let Some(function) = found else {
            return Err(Error::Internal(format!("there is no GPU kernel `{name}`")));
        };
        if shared > 48 << 10 {
            function
                .set_attribute(CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared as i32)
                .map_err(driver(&name))?;
        }
        self.outside.set(self.outside.get() + self.device.used()?.saturating_sub(before));
        let version =
            function.get_attribute(CUfunction_attribute::CU_FUNC_ATTRIBUTE_PTX_VERSION).map_err(driver(&name))?;
        let (raw, waits) = (function.cu_function(), version >= 90);
        self.functions.borrow_mut().insert(key, Loaded { function, shared: shared.max(48 << 10), waits });
        Ok((raw, waits))
    }

    /// Queues a kernel whose lengths its caller has checked.
    pub(super) fn launch(
        &self,
        kind: &'static str,
        ty: Option<BlockType>,
        shape: Shape,
        args: &[Arg<'_>],
    ) -> Result<()> {
        if shape.grid.contains(&0) {
            return Ok(());
        }
        let [Ok(x), Ok(y @ ..=65535), Ok(z @ ..=65535)] = shape.grid.map(u32::try_from) else {
            return Err(Error::Internal(format!("`{kind}` over {:?} blocks: use a smaller batch", shape.grid)));
        };
        let (function, waits) = self.function((kind, ty), shape.shared)?;
        let null = 0u64;
        let mut pointers: [*mut c_void; 24] = [std::ptr::null_mut(); 24];
        for (slot, arg) in pointers.iter_mut().zip(args) {
            *slot = arg.at(&null);
        }
        let mut overlap = CUlaunchAttribute {
            id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: shape.block.0,
            blockDimY: shape.block.1,
            blockDimZ: 1,
            sharedMemBytes: shape.shared as u32,
            hStream: self.device.stream.cu_stream(),
            attrs: &raw mut overlap,
            // Kernels that are timed stand apart.
            numAttrs: u32::from(self.overlap && waits && shape.waits && !self.timing()),
        };
        self.launched.set(self.launched.get() + 1);
        let name = || ty.map_or_else(|| kind.to_owned(), |ty| format!("{kind} {ty}"));
        self.timed(name, || {
            // SAFETY: the arguments are of the kernel's types in its order and outlive the call, which copies them; the views among
            // them hold what it touches; the attribute is whole and read during the call.
            unsafe { sys::cuLaunchKernelEx(&raw const config, function, pointers.as_mut_ptr(), std::ptr::null_mut()) }
                .result()
                .map_err(driver(kind))
        })
    }
}
