//! Vector–Jacobian products of the operations, and what else training computes, on plain slices.
//!
//! The same promise as their forwards: each output element is summed by one task in one order, so results do not depend on
//! the number of threads. No operation allocates; scratch comes from the caller, by a formula.

mod attention;
mod columns;
mod elements;
mod head;
mod products;
mod update;

#[cfg(test)]
mod tests;

pub use attention::{attention, attention_scratch, attention_vjp};
pub use columns::{Low, column_dot, row_norms, row_norms_scratch, scale_columns};
pub use elements::{
    axpy, bias, bias_vjp, dropout, embed_vjp, gather, geglu_to, geglu_vjp, rms_norm_vjp, rms_norm_vjp_scratch,
    rope_back, scale, scatter, square_sum_scratch, squared_norm, swiglu_to, swiglu_vjp,
};
pub use head::{Entries, argmax, cross_entropy_vjp, log_sum_exp, order};
pub use products::{dw_scratch, dw_tasks, dx_scratch, dx_tasks, linear_dw, linear_dx};
pub use update::{Gradients, Moments, Stored, elementwise};

use crate::{Error, Result};

fn check(what: &str, ok: bool, told: impl FnOnce() -> String) -> Result<()> {
    if ok { Ok(()) } else { Err(Error::Internal(format!("{what}: {}", told()))) }
}
