//! One GPU: context, stream, and one memory pool that cannot grow past the budget.
//!
//! The ledger is the exact wall: it knows every byte before it exists. The pool is the second one, held by the driver: it
//! also stands as the device's current pool, so whatever a library allocates in stream order is under it too. The pool
//! takes memory from the driver in steps, so its cap is the budget rounded up to the step.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::sys::{
    CUdevice_attribute, CUmemAllocationHandleType, CUmemAllocationType, CUmemLocationType, CUmemPool_attribute,
    CUmemPoolProps, CUmemoryPool, CUresult,
};
use candle_core::cuda_backend::cudarc::driver::{CudaContext, CudaModule, CudaStream, DriverError, result};
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;

use crate::error::{Error, Result};
use crate::ledger::alloc::{self, Scope};
use crate::ledger::{Ledger, Reservation, Tag};

/// Steps in which a pool takes memory from the driver (seen on an H200, driver 580).
const STEP: u64 = 32 << 20;

/// What the driver said, as our error.
pub(super) fn driver(doing: &str) -> impl Fn(DriverError) -> Error + '_ {
    move |e| Error::Device(format!("{doing}: {e}"))
}

/// Loads compiled kernels. Code is the program's, not the job's.
fn load(context: &Arc<CudaContext>, image: &[u8]) -> Result<Arc<CudaModule>> {
    alloc::scoped(Scope::Program, || context.load_module(Ptx::from_binary(image.to_vec())))
        .map_err(driver("cannot load the kernels"))
}

/// The pool of one job, the device's current one while it lives.
#[derive(Debug)]
struct Pool {
    pool: CUmemoryPool,
    context: Arc<CudaContext>,
}

// SAFETY: a pool handle may be used from any thread; the driver locks.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

impl Pool {
    fn new(context: &Arc<CudaContext>, budget: u64) -> Result<Self> {
        // SAFETY: plain integers and a null pointer, for all of which zero is valid.
        let mut props: CUmemPoolProps = unsafe { MaybeUninit::zeroed().assume_init() };
        props.allocType = CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
        props.handleTypes = CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_NONE;
        props.location.type_ = CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
        props.location.id = context.ordinal() as i32;
        let total = context.total_mem().map_err(driver("cannot read the GPU's memory size"))? as u64;
        // A cap beyond the card caps nothing; 0 leaves it to the driver.
        props.maxSize = if budget < total { budget.next_multiple_of(STEP) as usize } else { 0 };
        // SAFETY: the properties are whole, and the context is alive.
        let pool =
            unsafe { result::mem_pool::create(&raw const props) }.map_err(driver("cannot make a memory pool"))?;
        let pool = Self { pool, context: Arc::clone(context) };
        // What a step lets go of serves the next one: going back to the driver would cost more than the step.
        let mut keep = u64::MAX;
        let threshold = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        // SAFETY: the attribute is a 64-bit number, and the pool is alive.
        unsafe { result::mem_pool::set_attribute(pool.pool, threshold, (&raw mut keep).cast()) }
            .map_err(driver("cannot set up the memory pool"))?;
        // SAFETY: device and pool are valid.
        unsafe { result::device::set_mem_pool(context.cu_device(), pool.pool) }
            .map_err(driver("cannot set the memory pool"))?;
        Ok(pool)
    }

    fn read(&self, attribute: CUmemPool_attribute) -> Result<u64> {
        let mut value = 0u64;
        // SAFETY: these attributes are 64-bit counters, and the pool is alive.
        unsafe { result::mem_pool::get_attribute(self.pool, attribute, (&raw mut value).cast()) }
            .map_err(driver("cannot read the memory pool's counters"))?;
        Ok(value)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: every buffer keeps the device alive and so this pool: none is left. The default pool takes its place.
        unsafe {
            if let Ok(pool) = result::device::get_default_mem_pool(self.context.cu_device()) {
                let _ = result::device::set_mem_pool(self.context.cu_device(), pool);
            }
            let _ = result::mem_pool::destroy(self.pool);
        }
    }
}

/// The GPU of a job: its context, one stream, and the pool that its memory comes from.
#[derive(Debug)]
pub struct Device {
    pool: Pool,
    pub(super) stream: Arc<CudaStream>,
    context: Arc<CudaContext>,
    /// Bytes of the card in use when the context stood and nothing else of ours did.
    context_bytes: u64,
}

impl Device {
    /// Opens GPU `ordinal` with a pool that grows to `budget` bytes at most.
    ///
    /// # Errors
    /// [`Error::Device`] when there is no such GPU, no driver, or one that refuses.
    pub fn open(ordinal: usize, budget: u64) -> Result<Arc<Self>> {
        let context = CudaContext::new(ordinal)
            .map_err(driver(&format!("cannot open cuda:{ordinal} (`nvidia-smi -L` lists the GPUs there are)")))?;
        // SAFETY: everything here runs on one stream, so no slice needs events to be ordered.
        unsafe { context.disable_event_tracking() };
        let used = || -> Result<u64> {
            let (free, total) = context.mem_get_info().map_err(driver("cannot read the GPU's memory"))?;
            Ok((total - free) as u64)
        };
        let context_bytes = used()?;
        let stream = context.new_stream().map_err(driver("cannot make a stream"))?;
        let pool = Pool::new(&context, budget)?;
        Ok(Arc::new(Self { pool, stream, context, context_bytes }))
    }

    /// Its major compute capability, its multiprocessors, and the bytes of shared memory that a block may ask for.
    ///
    /// # Errors
    /// [`Error::Device`] with what the driver says.
    pub(super) fn limits(&self) -> Result<(i32, usize, usize)> {
        let read = |attribute| self.context.attribute(attribute).map_err(driver("cannot read what the GPU can do"));
        let major = read(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let multiprocessors = read(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let shared = read(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        Ok((major, multiprocessors.max(1) as usize, shared.max(0) as usize))
    }

    /// Loads a set of kernels, and says how many bytes of the card outside the pool that took.
    ///
    /// # Errors
    /// [`Error::Device`] with what the driver says.
    pub(super) fn module(&self, image: &[u8]) -> Result<(Arc<CudaModule>, u64)> {
        let before = self.used()?;
        let module = load(&self.context, image)?;
        Ok((module, self.used()?.saturating_sub(before)))
    }

    /// Bytes of the card in use, by anyone.
    ///
    /// # Errors
    /// [`Error::Device`] with what the driver says.
    pub(super) fn used(&self) -> Result<u64> {
        let (total, free) = self.memory()?;
        Ok(total - free)
    }

    /// The card's name and its compute capability, as `sm_90`.
    pub fn name(&self) -> (String, String) {
        let name = self.context.name().unwrap_or_default();
        let sm = self.context.compute_capability().map_or_else(|_| String::new(), |(a, b)| format!("sm_{a}{b}"));
        (name, sm)
    }

    /// Bytes of the card, and how many of them nobody uses now.
    ///
    /// # Errors
    /// [`Error::Device`] with what the driver says.
    pub fn memory(&self) -> Result<(u64, u64)> {
        self.context.bind_to_thread().map_err(driver("cannot use the GPU on this thread"))?;
        let (free, total) = self.context.mem_get_info().map_err(driver("cannot read the GPU's memory"))?;
        Ok((total as u64, free as u64))
    }

    /// Waits for everything that was asked of the GPU.
    ///
    /// # Errors
    /// [`Error::Device`] when the driver fails, also of operations asked before.
    pub fn wait(&self) -> Result<()> {
        self.stream.synchronize().map_err(driver("the GPU failed"))
    }

    /// Zeroed memory of `len` bytes under `tag`, reserved in `ledger` first.
    ///
    /// # Errors
    /// [`Error::OverBudget`], by the ledger or by the pool; [`Error::Device`] with what the driver says.
    pub fn buffer(self: &Arc<Self>, ledger: &Arc<Ledger>, tag: Tag, len: usize) -> Result<DeviceBuffer> {
        let reservation = ledger.reserve(tag, len as u64)?;
        let mut buffer = DeviceBuffer { ptr: 0, len: 0, device: Arc::clone(self), _reservation: reservation };
        if len == 0 {
            return Ok(buffer);
        }
        self.context.bind_to_thread().map_err(driver("cannot use the GPU on this thread"))?;
        // SAFETY: pool and stream are alive; the block is freed by the buffer's drop.
        match unsafe { result::mem_pool::alloc_async(self.pool.pool, len, self.stream.cu_stream()) } {
            Ok(ptr) => (buffer.ptr, buffer.len) = (ptr, len),
            Err(e) if e.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                drop(buffer);
                let held = self.pool.read(CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?;
                let hint = format!(
                    "the GPU's memory pool refused: it holds {held} B; raise or lower the budget, or free the GPU"
                );
                return Err(ledger.over(tag, len as u64, Some(hint)));
            }
            Err(e) => return Err(driver("cannot allocate on the GPU")(e)),
        }
        // SAFETY: the block has `len` bytes.
        unsafe { result::memset_d8_async(buffer.ptr, 0, len, self.stream.cu_stream()) }
            .map_err(driver("cannot clear GPU memory"))?;
        Ok(buffer)
    }

    /// Bytes beside the budget and what the pool counted, by name.
    ///
    /// # Errors
    /// [`Error::Device`] with what the driver says.
    pub fn counts(&self) -> Result<Vec<(&'static str, u64)>> {
        self.wait()?;
        let read = |attribute| self.pool.read(attribute);
        Ok(vec![
            ("cuda context and other programs", self.context_bytes),
            ("pool used now", read(CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?),
            ("pool used at most", read(CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH)?),
            ("pool reserved at most", read(CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH)?),
        ])
    }
}

/// GPUs of this machine; 0 where there is no driver.
pub fn count() -> usize {
    CudaContext::device_count().map_or(0, |n| usize::try_from(n).unwrap_or(0))
}

/// Memory of the host that the driver keeps in place, so that copies need no staging; counted in the ledger.
#[derive(Debug)]
pub struct Pinned {
    at: NonNull<u8>,
    len: usize,
    device: Arc<Device>,
    _reservation: Reservation,
}

impl Pinned {
    /// `len` bytes of zeros, at least one, reserved in `ledger` under `tag` first.
    ///
    /// # Errors
    /// [`Error::OverBudget`]; [`Error::Device`] with what the driver says.
    pub fn new(device: &Arc<Device>, ledger: &Arc<Ledger>, tag: Tag, len: usize) -> Result<Self> {
        let reservation = ledger.reserve(tag, len as u64)?;
        device.context.bind_to_thread().map_err(driver("cannot use the GPU on this thread"))?;
        // SAFETY: a plain allocation, freed by this value's drop.
        let at = unsafe { result::malloc_host(len, 0) }.map_err(driver("cannot pin host memory"))?;
        let at = NonNull::new(at.cast::<u8>()).ok_or_else(|| Error::Device("the driver pinned no memory".into()))?;
        // SAFETY: the block has `len` bytes.
        unsafe { at.write_bytes(0, len) };
        Ok(Self { at, len, device: Arc::clone(device), _reservation: reservation })
    }

    /// All `len` bytes, to read.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `len` initialized bytes that live as long as this value.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.len) }
    }

    /// All `len` bytes, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), self.len) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: allocated by `new`, freed once; the context is alive, as the device is.
        let freed =
            self.device.context.bind_to_thread().and_then(|()| unsafe { result::free_host(self.at.as_ptr().cast()) });
        debug_assert!(freed.is_ok());
    }
}

/// Memory on the GPU, counted in the ledger for as long as it lives.
#[derive(Debug)]
pub struct DeviceBuffer {
    ptr: u64,
    len: usize,
    device: Arc<Device>,
    _reservation: Reservation,
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: allocated on this stream and freed once, after everything asked of it before.
            let freed = unsafe { result::free_async(self.ptr, self.device.stream.cu_stream()) };
            debug_assert!(freed.is_ok());
        }
    }
}

impl DeviceBuffer {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for a buffer of no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All its bytes, as operations take them.
    pub fn view(&self) -> View<'_> {
        View { ptr: self.ptr, len: self.len, of: PhantomData }
    }

    /// Bytes `at..at + len`.
    ///
    /// # Errors
    /// [`Error::Internal`] past the end.
    pub fn part(&self, at: usize, len: usize) -> Result<View<'_>> {
        self.view().part(at, len)
    }
}

/// Bytes of a buffer as an operation takes them. What is asked of one stream runs in order, so views may overlap.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub(super) ptr: u64,
    pub(super) len: usize,
    of: PhantomData<&'a DeviceBuffer>,
}

impl View<'_> {
    /// Bytes `at..at + len` of it.
    ///
    /// # Errors
    /// [`Error::Internal`] past the end.
    pub fn part(self, at: usize, len: usize) -> Result<Self> {
        if at.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(Error::Internal(format!("bytes {at} + {len} of a GPU buffer of {}", self.len)));
        }
        Ok(Self { ptr: self.ptr + at as u64, len, of: PhantomData })
    }

    /// Length in bytes.
    pub fn len(self) -> usize {
        self.len
    }

    /// True for a view of no bytes.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }
}

impl Device {
    /// Copies the first bytes of `from` to the GPU, in order with what else is asked of it; `from` stays as it is until somebody has waited.
    ///
    /// # Errors
    /// [`Error::Internal`] when `from` is shorter; [`Error::Device`] with what the driver says.
    pub fn send(&self, from: &Pinned, to: View<'_>) -> Result<()> {
        let Some(bytes) = from.bytes().get(..to.len) else { return same(from.len, to.len) };
        // SAFETY: both are `len` bytes of memory that the driver keeps in place.
        unsafe { result::memcpy_htod_async(to.ptr, bytes, self.stream.cu_stream()) }
            .map_err(driver("cannot copy to the GPU"))
    }

    /// Copies `from` to the GPU; `from` may be changed when this returns.
    ///
    /// # Errors
    /// [`Error::Internal`] when lengths differ; [`Error::Device`] with what the driver says.
    pub fn upload(&self, from: &[u8], to: View<'_>) -> Result<()> {
        same(from.len(), to.len)?;
        if from.is_empty() {
            return Ok(());
        }
        // SAFETY: both are `len` bytes; the wait below ends before the borrow does.
        unsafe { result::memcpy_htod_async(to.ptr, from, self.stream.cu_stream()) }
            .map_err(driver("cannot copy to the GPU"))?;
        self.wait()
    }

    /// Copies from the GPU, after everything asked before.
    ///
    /// # Errors
    /// [`Error::Internal`] when lengths differ; [`Error::Device`] with what the driver says.
    pub fn download(&self, from: View<'_>, to: &mut [u8]) -> Result<()> {
        same(from.len, to.len())?;
        if to.is_empty() {
            return Ok(());
        }
        // SAFETY: both are `len` bytes; the wait below ends before the borrow does.
        unsafe { result::memcpy_dtoh_async(to, from.ptr, self.stream.cu_stream()) }
            .map_err(driver("cannot copy from the GPU"))?;
        self.wait()
    }

    /// Copies on the GPU; the two do not overlap.
    ///
    /// # Errors
    /// [`Error::Internal`] when lengths differ; [`Error::Device`] with what the driver says.
    pub fn copy(&self, from: View<'_>, to: View<'_>) -> Result<()> {
        same(from.len, to.len)?;
        if from.len == 0 {
            return Ok(());
        }
        // SAFETY: both are `len` bytes of live buffers.
        unsafe { result::memcpy_dtod_async(to.ptr, from.ptr, from.len, self.stream.cu_stream()) }
            .map_err(driver("cannot copy on the GPU"))
    }
}

fn same(a: usize, b: usize) -> Result<()> {
    if a == b { Ok(()) } else { Err(Error::Internal(format!("a copy of {a} bytes to {b}"))) }
}
