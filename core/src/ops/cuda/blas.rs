//! Matrix products by cuBLAS, in row-major terms, with its workspace in our pool.

use std::ffi::c_void;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::cublas::{result, sys};

use super::device::{Device, DeviceBuffer, View};
use crate::blocks::BlockType;
use crate::error::{Error, Result};

fn blas(doing: &str) -> impl Fn(result::CublasError) -> Error + '_ {
    move |e| Error::Device(format!("cuBLAS cannot {doing}: {e}"))
}

/// cuBLAS on one device's stream.
#[derive(Debug)]
pub struct Blas {
    handle: sys::cublasHandle_t,
    device: Arc<Device>,
    /// Kept for as long as the handle may use it.
    _workspace: DeviceBuffer,
    outside: u64,
}

// SAFETY: a handle may move between threads; it is used by one at a time, as it is not `Sync`.
unsafe impl Send for Blas {}

impl Drop for Blas {
    fn drop(&mut self) {
        // SAFETY: made by `new` and destroyed once; destroying waits for what was asked.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

/// A side of a product: a row-major matrix of f32, f16 or bf16 whose rows are `ld` elements apart.
#[derive(Clone, Copy, Debug)]
pub struct Operand<'a> {
    /// Its bytes, from the first element on.
    pub view: View<'a>,
    /// The type of its elements: f32, f16 or bf16.
    pub ty: BlockType,
    /// Elements from one row to the next.
    pub ld: usize,
    /// It stands transposed in memory: columns are `ld` elements apart.
    pub turned: bool,
}

fn kind(ty: BlockType) -> Result<sys::cudaDataType> {
    match ty {
        BlockType::F32 => Ok(sys::cudaDataType::CUDA_R_32F),
        BlockType::F16 => Ok(sys::cudaDataType::CUDA_R_16F),
        BlockType::Bf16 => Ok(sys::cudaDataType::CUDA_R_16BF),
        ty => Err(Error::Internal(format!("a matrix product of {ty}"))),
    }
}

fn int(n: usize) -> Result<i32> {
    i32::try_from(n).map_err(|_| Error::Internal(format!("a matrix side of {n}")))
}

impl Blas {
    /// Opens cuBLAS with `workspace` as its scratch.
    ///
    /// # Errors
    /// [`Error::Device`] with what cuBLAS says.
    pub fn new(device: &Arc<Device>, workspace: DeviceBuffer) -> Result<Self> {
        let before = device.used()?;
        let handle = result::create_handle().map_err(blas("start"))?;
        let outside = device.used()?.saturating_sub(before);
        let new = Self { handle, device: Arc::clone(device), _workspace: workspace, outside };
        // SAFETY: the stream lives as long as the device that `new` holds.
        unsafe { result::set_stream(handle, new.device.stream.cu_stream().cast()) }.map_err(blas("take a stream"))?;
        let view = new._workspace.view();
        // SAFETY: the block lives as long as the handle; setting it after the stream, as a new stream resets it.
        unsafe { sys::cublasSetWorkspace_v2(handle, view.ptr as *mut c_void, view.len) }
            .result()
            .map_err(blas("take a workspace"))?;
        Ok(new)
    }

    /// Bytes that opening it took outside the pool.
    pub fn outside(&self) -> u64 {
        self.outside
    }

    /// `c (m, n) = a (m, k) · b (k, n)`, plus `c` where `add`; sums in f32. Rows of `c` are `c.ld` apart.
    ///
    /// # Errors
    /// [`Error::Internal`] where a side is too short or of the wrong type; [`Error::Device`] with what cuBLAS says.
    pub fn product(
        &self,
        (m, n, k): (usize, usize, usize),
        a: Operand<'_>,
        b: Operand<'_>,
        c: Operand<'_>,
        add: bool,
    ) -> Result<()> {
        self.scaled(1.0, (m, n, k), a, b, c, add)
    }

    /// As [`Self::product`], the product times `alpha`.
    ///
    /// # Errors
    /// As there.
    pub fn scaled(
        &self,
        alpha: f32,
        (m, n, k): (usize, usize, usize),
        a: Operand<'_>,
        b: Operand<'_>,
        c: Operand<'_>,
        add: bool,
    ) -> Result<()> {
        if m == 0 || n == 0 || k == 0 {
            return Ok(());
        }
        let fits = |x: &Operand<'_>, rows: usize, cols: usize| {
            let (rows, cols) = if x.turned { (cols, rows) } else { (rows, cols) };
            x.ld >= cols && x.view.len >= ((rows - 1) * x.ld + cols) * x.ty.block_bytes()
        };
        if c.turned || a.ty != b.ty || !fits(&a, m, k) || !fits(&b, k, n) || !fits(&c, m, n) {
            return Err(Error::Internal(format!("a product {m} x {k} x {n} of {a:?}, {b:?}, {c:?}")));
        }
        let op = |x: &Operand<'_>| {
            if x.turned { sys::cublasOperation_t::CUBLAS_OP_T } else { sys::cublasOperation_t::CUBLAS_OP_N }
        };
        let beta = f32::from(u8::from(add));
        // Column-major cuBLAS sees every matrix transposed, so it is asked for cᵀ = bᵀ aᵀ.
        // SAFETY: lengths are checked above, and the views are alive while this is asked; the scalars are read at once.
        unsafe {
            result::gemm_ex(
                self.handle,
                op(&b),
                op(&a),
                int(n)?,
                int(m)?,
                int(k)?,
                (&raw const alpha).cast(),
                b.view.ptr as *const c_void,
                kind(b.ty)?,
                int(b.ld)?,
                a.view.ptr as *const c_void,
                kind(a.ty)?,
                int(a.ld)?,
                (&raw const beta).cast(),
                c.view.ptr as *mut c_void,
                kind(c.ty)?,
                int(c.ld)?,
                sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }
        .map_err(blas("multiply"))
    }
}
