//! Launching `train.cu`: kernels by name and the types they were made for.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::sys::CUfunction_attribute;
use candle_core::cuda_backend::cudarc::driver::{CudaFunction, CudaModule, result};

use super::device::{Device, View, driver};
use crate::blocks::BlockType;
use crate::error::{Error, Result};
use crate::ops::gpu::WEIGHT_TYPES;

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub enum Arg<'a> {
    /// Memory that it touches.
    View(View<'a>),
    /// Memory that is not given.
    Null,
    /// A `size_t`.
    Wide(u64),
    /// An `int` or `uint32_t`.
    Int(i32),
    /// A `float`.
    Float(f32),
    /// A struct, byte for byte.
    Struct(&'a [u8]),
}

impl Arg<'_> {
    /// Where the driver reads it; `null` is a pointer to nothing.
    pub(super) fn at(&self, null: &u64) -> *mut c_void {
        match self {
            Self::View(v) => std::ptr::from_ref(&v.ptr).cast_mut().cast(),
            Self::Null => std::ptr::from_ref(null).cast_mut().cast(),
            Self::Wide(v) => std::ptr::from_ref(v).cast_mut().cast(),
            Self::Int(v) => std::ptr::from_ref(v).cast_mut().cast(),
            Self::Float(v) => std::ptr::from_ref(v).cast_mut().cast(),
            Self::Struct(bytes) => bytes.as_ptr().cast_mut().cast(),
        }
    }
}

impl<'a> From<View<'a>> for Arg<'a> {
    fn from(view: View<'a>) -> Self {
        Self::View(view)
    }
}

impl From<usize> for Arg<'_> {
    /// An `int`; lengths beyond it are refused where shapes are checked.
    fn from(v: usize) -> Self {
        Self::Int(i32::try_from(v).unwrap_or(i32::MAX))
    }
}

impl From<f32> for Arg<'_> {
    fn from(v: f32) -> Self {
        Self::Float(v)
    }
}

impl From<bool> for Arg<'_> {
    fn from(v: bool) -> Self {
        Self::Int(i32::from(v))
    }
}

const FLOATS: [BlockType; 2] = [BlockType::F32, BlockType::Bf16];

/// One name each.
const PLAIN: &[&str] = &["total", "sort_pass"];
/// On tensor cores, by size of head.
const HEADS: &[(&str, usize)] = &[
    ("attend_32", 32),
    ("attend_64", 64),
    ("attend_96", 96),
    ("attend_128", 128),
    ("attend_dq_32", 32),
    ("attend_dq_64", 64),
    ("attend_dq_96", 96),
    ("attend_dq_128", 128),
    ("attend_dkv_32", 32),
    ("attend_dkv_64", 64),
    ("attend_dkv_96", 96),
    ("attend_dkv_128", 128),
];
/// By type of activations.
const ONE: &[&str] = &[
    "columns",
    "fold",
    "turn",
    "pick",
    "fill",
    "gate",
    "gate_back",
    "dropout",
    "reduce",
    "im2col",
    "col2im",
    "log_sum_exp",
    "cross_entropy_vjp",
    "squares",
    "attend_plain",
    "attend_delta",
    "attend_plain_dq",
    "attend_plain_dkv",
];
/// By types of activations and of small weights or gradients.
const TWO: &[&str] = &["norm", "norm_back", "bias", "embed_back", "blend"];
/// The rules that `build.rs` found, each with its kernel, which is made for types of parameters, gradients and state.
const RULES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/rules.rs"));
/// By types of weights and of activations.
const DECODE: &[&str] = &["panel", "embed"];

/// A kernel's name and the types it is for.
type Key = (&'static str, [Option<BlockType>; 3]);

/// Bytes of shared memory that a tensor-core kernel takes beside what it declares.
fn shared_bytes(name: &str, dim: usize) -> usize {
    let (row, some) = (2 * (dim + 8), if dim > 64 { 32 } else { 64 });
    if name.starts_with("attend_dkv") { row * 2 * (64 + some) } else { row * 2 * 64 }
}

/// The training kernels of one device.
#[derive(Debug)]
pub struct TrainKernels {
    device: Arc<Device>,
    functions: HashMap<Key, (CudaFunction, u32)>,
    _module: Arc<CudaModule>,
    outside: u64,
}

impl TrainKernels {
    /// Loads every kernel.
    ///
    /// # Errors
    /// [`Error::Device`] with what the driver says.
    pub fn new(device: &Arc<Device>) -> Result<Self> {
        let (module, outside) = device.module(include_bytes!(concat!(env!("OUT_DIR"), "/train.fatbin")))?;
        let mut keys: Vec<Key> = PLAIN.iter().map(|name| (*name, [None; 3])).collect();
        keys.extend(HEADS.iter().map(|(name, _)| (*name, [None; 3])));
        for a in FLOATS {
            keys.extend(ONE.iter().map(|name| (*name, [Some(a), None, None])));
            for b in FLOATS {
                keys.extend(TWO.iter().map(|name| (*name, [Some(a), Some(b), None])));
                for c in FLOATS {
                    keys.extend(RULES.iter().map(|(_, kernel)| (*kernel, [Some(a), Some(b), Some(c)])));
                }
            }
            for ty in WEIGHT_TYPES {
                keys.extend(DECODE.iter().map(|name| (*name, [Some(*ty), Some(a), None])));
            }
        }
        let mut functions = HashMap::new();
        for (kind, types) in keys {
            let mut name = kind.to_owned();
            for ty in types.iter().flatten() {
                name.push('_');
                name.push_str(ty.as_str());
            }
            let function = module.load_function(&name).map_err(driver(&name))?;
            let shared = HEADS.iter().find(|(n, _)| *n == kind).map_or(0, |(n, dim)| shared_bytes(n, *dim));
            if shared > 0 {
                function
                    .set_attribute(CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared as i32)
                    .map_err(driver(&name))?;
            }
            functions.insert((kind, types), (function, shared as u32));
        }
        Ok(Self { device: Arc::clone(device), functions, _module: module, outside })
    }

    /// The name of the kernel that carries the rule `name` out.
    ///
    /// # Errors
    /// [`Error::Internal`] for a rule that `build.rs` did not find.
    pub fn rule(name: &str) -> Result<&'static str> {
        let found = RULES.iter().find(|(rule, _)| *rule == name).map(|(_, kernel)| *kernel);
        found.ok_or_else(|| Error::Internal(format!("there is no GPU kernel for the rule `{name}`")))
    }

    /// The GPU that they run on.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Bytes that loading them took outside the pool.
    pub fn outside(&self) -> u64 {
        self.outside
    }

    /// Queues a kernel; its caller has checked that every view holds what the kernel touches.
    ///
    /// # Errors
    /// [`Error::Internal`] where there is no such kernel or its grid is too large; the driver's.
    pub(crate) fn launch(
        &self,
        kind: &'static str,
        types: &[BlockType],
        grid: (usize, usize),
        block: u32,
        args: &[Arg<'_>],
    ) -> Result<()> {
        let mut key = [None; 3];
        for (slot, ty) in key.iter_mut().zip(types) {
            *slot = Some(*ty);
        }
        let Some((function, shared)) = self.functions.get(&(kind, key)) else {
            return Err(Error::Internal(format!("there is no GPU kernel `{kind}` for {types:?}")));
        };
        if grid.0 == 0 || grid.1 == 0 {
            return Ok(());
        }
        let (Ok(x), Ok(y @ ..=65535)) = (i32::try_from(grid.0), u32::try_from(grid.1)) else {
            return Err(Error::Internal(format!("`{kind}` over {grid:?} blocks: use a smaller batch")));
        };
        let null = 0u64;
        let mut pointers: [*mut c_void; 24] = [std::ptr::null_mut(); 24];
        for (slot, arg) in pointers.iter_mut().zip(args) {
            *slot = arg.at(&null);
        }
        let (function, stream) = (function.cu_function(), self.device.stream.cu_stream());
        // SAFETY: the arguments are of the kernel's types in its order and outlive the call, which copies them; the views among
        // them hold what it touches.
        unsafe { result::launch_kernel(function, (x as u32, y, 1), (block, 1, 1), *shared, stream, &mut pointers) }
            .map_err(driver(kind))
    }
}

impl View<'_> {
    /// Where it lies on the card: for structs that kernels take, which cannot hold a view.
    pub(crate) fn address(self) -> u64 {
        self.ptr
    }

    /// Whether it starts at 16 bytes, as vector loads need.
    pub fn aligned(self) -> bool {
        self.ptr.is_multiple_of(16)
    }
}
