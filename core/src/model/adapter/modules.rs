//! What a model's own library and GGUF call the modules that an adapter changes, and which linears lie in each: most hold one, some
//! (Phi-3's) q, k and v, or gate and up, rows of one after rows of the other.

use crate::error::Result;
use crate::model::arch;
use crate::shape::{ModelShape, Role};

/// What is outside the layers.
pub(super) const OUTSIDE: [Role; 2] = [Role::Embedding, Role::Head];

/// Prefix of a layer's modules, and of the embedding, in the names of a causal language model.
pub(super) const LAYERS: &str = "model.layers.";

/// A module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Module {
    /// Its name, within its layer if it has one.
    pub name: String,
    /// Its weight's name in GGUF, likewise.
    pub gguf: &'static str,
    /// What lies in it, in order.
    pub linears: Vec<Role>,
}

impl Module {
    /// Its full name, of layer `l`.
    pub fn full(&self, l: usize) -> String {
        if self.outside() { self.name.clone() } else { format!("{LAYERS}{l}.{}", self.name) }
    }

    /// Its weight's full name in GGUF.
    pub fn full_gguf(&self, l: usize) -> String {
        if self.outside() { self.gguf.to_owned() } else { format!("blk.{l}.{}", self.gguf) }
    }

    /// What `target_modules` calls it.
    pub fn target(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or_default()
    }

    /// Whether it is of no layer.
    pub fn outside(&self) -> bool {
        self.linears.iter().any(|role| OUTSIDE.contains(role))
    }
}

/// Every module of `shape` that may have factors.
///
/// # Errors
/// [`crate::Error::Internal`] for a description of no architecture.
pub(super) fn of(shape: &ModelShape) -> Result<Vec<Module>> {
    let arch = arch::of(shape)?;
    let mut out: Vec<Module> = Vec::with_capacity(Role::LINEARS.len() + OUTSIDE.len());
    for role in Role::LINEARS {
        let Some(name) = (arch.hf_part)(role).and_then(|name| name.strip_suffix(".weight")) else { continue };
        match out.iter_mut().find(|m| m.name == name) {
            Some(shared) => {
                shared.gguf = if role.rotates() || role == Role::V { "attn_qkv.weight" } else { "ffn_up.weight" };
                shared.linears.push(role);
            }
            None => out.push(Module { name: name.into(), gguf: role.gguf(), linears: vec![role] }),
        }
    }
    out.extend(OUTSIDE.map(|role| Module { name: role.module().into(), gguf: role.gguf(), linears: vec![role] }));
    Ok(out)
}

/// The module of `all` that holds `role`.
pub(super) fn holding(all: &[Module], role: Role) -> Option<&Module> {
    all.iter().find(|m| m.linears.contains(&role))
}
