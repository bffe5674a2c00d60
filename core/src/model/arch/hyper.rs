//! A model's hyperparameters as some file gives them, checked and laid out as a description with its tensors.

use std::borrow::Cow;

use super::limits;
pub use super::turning::Turning;
use crate::error::{Error, Result};
use crate::shape::{Act, Attention, Dynamic, Ffn, LayerShape, Long, ModelShape, Role, Rope, TensorShape, Tensors};

/// What the keys are called where the hyperparameters came from, for messages.
pub struct Names {
    pub layers: Cow<'static, str>,
    pub hidden: Cow<'static, str>,
    pub ff: Cow<'static, str>,
    pub heads: Cow<'static, str>,
    pub kv_heads: Cow<'static, str>,
    pub head_dim: Cow<'static, str>,
    pub vocab: Cow<'static, str>,
    pub context: Cow<'static, str>,
    pub norm_eps: Cow<'static, str>,
    pub rope_dim: Cow<'static, str>,
    pub rope_base: Cow<'static, str>,
    pub rope_scale: Cow<'static, str>,
    pub rope_factors: Cow<'static, str>,
    pub window: Cow<'static, str>,
    pub experts: Cow<'static, str>,
    pub used: Cow<'static, str>,
    pub shared: Cow<'static, str>,
}

/// One layer's hyperparameters.
#[derive(Clone, Copy, Debug)]
pub struct Layer {
    /// Query heads.
    pub heads: u64,
    /// Key-value heads.
    pub kv_heads: u64,
    /// Width of the feed-forward, or of one expert.
    pub ff: u64,
    /// What gates it.
    pub act: Act,
    /// Tokens that a query sees.
    pub window: Option<u64>,
    /// Which of [`Hyper::ropes`] turns it; `None` where nothing does.
    pub rope: Option<usize>,
    /// q, k and v have a bias.
    pub bias: bool,
    /// So has what attention gives.
    pub o_bias: bool,
    /// Each query head has a score that takes a part of its softmax.
    pub sinks: bool,
    /// What of q and k is normed before they turn.
    pub qk_norm: QkNorm,
    /// What attention and the feed-forward read is normed.
    pub pre_norms: bool,
    /// What attention and the feed-forward give is normed before it is added to the stream.
    pub post_norms: bool,
    /// Scores are capped at it.
    pub cap: Option<f32>,
    /// A mixture, whose experts have the width `ff`.
    pub experts: Option<Mixture>,
}

/// What of q and k is normed before they turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    None,
    /// Each head by itself, all with one weight.
    Heads,
    /// Whole rows, every element with a weight of its own.
    Rows,
}

/// The experts of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mixture {
    pub count: u64,
    /// Of a token.
    pub used: u64,
    /// Weights are a softmax over all experts.
    pub over_all: bool,
    /// Width of the one that all tokens share.
    pub shared: Option<u64>,
    /// The router and all three matrices of an expert have a bias.
    pub bias: bool,
}

impl Layer {
    /// A layer of a plain Llama.
    pub const fn plain(heads: u64, kv_heads: u64, ff: u64) -> Self {
        Self {
            heads,
            kv_heads,
            ff,
            act: Act::Silu,
            window: None,
            rope: Some(0),
            bias: false,
            o_bias: false,
            sinks: false,
            qk_norm: QkNorm::None,
            pre_norms: true,
            post_norms: false,
            cap: None,
            experts: None,
        }
    }
}

/// A model's hyperparameters, not checked yet.
#[derive(Clone, Debug)]
pub struct Hyper {
    /// The id of its architecture.
    pub arch: &'static str,
    pub name: String,
    pub hidden: u64,
    pub vocab: u64,
    pub context: u64,
    pub norm_eps: f32,
    pub head_dim: u64,
    pub rope_dim: u64,
    /// Pairs that turn lie side by side.
    pub interleaved: bool,
    pub ropes: Vec<Turning>,
    /// Multiplied onto every score; `1 / √head_dim` unless given.
    pub scale: Option<f32>,
    /// Multiplied onto embedding rows.
    pub embedding_scale: f32,
    /// Multiplied onto what each half of a layer adds.
    pub residual_scale: f32,
    /// Multiplied onto logits.
    pub logit_scale: f32,
    /// Logits are capped at it.
    pub logit_cap: Option<f32>,
    pub tied: bool,
    pub rope_freqs: bool,
    pub layers: Vec<Layer>,
}

/// A tensor that the hyperparameters ask for.
#[derive(Clone, Debug)]
pub struct Ask {
    /// GGUF's name.
    pub name: String,
    /// What it is to the model.
    pub role: Role,
    /// Its layer.
    pub layer: Option<usize>,
    /// Outputs, of all experts together.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// Matrices in it: 1, or one an expert.
    pub count: usize,
}

impl Ask {
    fn of(role: Role, layer: Option<usize>, rows: usize, cols: usize, count: usize) -> Self {
        let name = match layer {
            Some(n) => format!("blk.{n}.{}", role.gguf()),
            None => role.gguf().to_owned(),
        };
        Self { name, role, layer, rows, cols, count }
    }
}

/// A hyperparameter within `1 ..= most`.
fn within(wrong: &dyn Fn(&str, String) -> Error, name: &str, value: u64, most: u64) -> Result<usize> {
    match value {
        0 => Err(wrong(name, "is 0; convert the model again".into())),
        v if v > most => Err(wrong(name, format!("is {v}; at most {most} is supported"))),
        v => Ok(v as usize),
    }
}

impl Hyper {
    /// Gives each layer its window.
    pub fn set_windows(&mut self, windows: Vec<Option<u64>>) {
        self.layers.iter_mut().zip(windows).for_each(|(layer, window)| layer.window = window);
    }

    /// Makes the layers that `routed` says mixtures of experts of width `ff`.
    pub fn set_experts(&mut self, mixture: Mixture, ff: u64, routed: impl Fn(u64) -> bool) {
        for (_, layer) in self.layers.iter_mut().enumerate().filter(|(l, _)| routed(*l as u64)) {
            (layer.experts, layer.ff) = (Some(mixture), ff);
        }
    }

    /// Checks the numbers and lays out the tensors; `tensor` gives each its type, or refuses it.
    pub fn assemble(
        self,
        names: &Names,
        wrong: impl Fn(&str, String) -> Error,
        mut tensor: impl FnMut(Ask) -> Result<TensorShape>,
    ) -> Result<ModelShape> {
        let wrong: &dyn Fn(&str, String) -> Error = &wrong;
        let within = |name: &str, value, most| within(wrong, name, value, most);
        let hidden = within(&names.hidden, self.hidden, limits::HIDDEN)?;
        let vocab = within(&names.vocab, self.vocab, limits::VOCAB)?;
        let context = within(&names.context, self.context, limits::CONTEXT)?;
        within(&names.head_dim, self.head_dim, limits::HEAD_DIM)?;
        within(&names.layers, self.layers.len() as u64, limits::LAYERS)?;
        let ropes = self.ropes(names, wrong)?;
        self.factors(names, wrong)?;

        let embedding = tensor(Ask::of(Role::Embedding, None, vocab, hidden, 1))?;
        let mut layers = Vec::with_capacity(self.layers.len());
        for (n, layer) in self.layers.iter().enumerate() {
            let (attention, ffn) = (self.attention(n, layer, names, wrong)?, ffn(layer, names, wrong)?);
            let mut tensors = Tensors::default();
            for ask in asks(n, layer, hidden, &attention, &ffn) {
                tensors.push(ask.role, tensor(ask)?);
            }
            layers.push(LayerShape { attention, ffn, tensors });
        }
        let output_norm = tensor(Ask::of(Role::OutputNorm, None, 1, hidden, 1))?;
        let output = if self.tied { None } else { Some(tensor(Ask::of(Role::Head, None, vocab, hidden, 1))?) };
        let rope_freqs = match self.rope_freqs {
            true => Some(tensor(Ask::of(Role::RopeFreqs, None, 1, ropes[0].dim / 2, 1))?),
            false => None,
        };
        Ok(ModelShape {
            name: self.name,
            arch: self.arch.into(),
            hidden,
            vocab,
            context,
            norm_eps: self.norm_eps,
            embedding_scale: self.embedding_scale,
            residual_scale: self.residual_scale,
            logit_scale: self.logit_scale,
            logit_cap: self.logit_cap,
            ropes,
            layers,
            embedding,
            output_norm,
            output,
            rope_freqs,
            adapter: None,
        })
    }

    /// The rotations, checked; at least one.
    fn ropes(&self, names: &Names, wrong: &dyn Fn(&str, String) -> Error) -> Result<Vec<Rope>> {
        let dim = within(wrong, &names.rope_dim, self.rope_dim, limits::HEAD_DIM)?;
        if dim as u64 > self.head_dim || !dim.is_multiple_of(2) {
            return Err(wrong(
                &names.rope_dim,
                format!("is {dim}; it must be even and at most the head's {}", self.head_dim),
            ));
        }
        let positive = |name: &str, value: f32| match value.is_finite() && value > 0.0 {
            true => Ok(()),
            false => Err(wrong(name, format!("is {value}; it must be a finite number above 0"))),
        };
        positive(&names.norm_eps, self.norm_eps)?;
        let mut out = Vec::with_capacity(self.ropes.len());
        for rope in &self.ropes {
            positive(&names.rope_base, rope.base)?;
            positive(&names.rope_scale, rope.scale)?;
            positive(&names.rope_scale, rope.amplitude)?;
            let divisors = |list: &Vec<f32>| {
                list.iter().try_for_each(|d| positive(&names.rope_factors, *d))?;
                match list.len() == dim / 2 {
                    true => Ok(list.clone()),
                    false => {
                        let message = format!("has {} elements; {} pairs turn", list.len(), dim / 2);
                        Err(wrong(&names.rope_factors, message))
                    }
                }
            };
            let long = match &rope.long {
                None => None,
                Some((from, list)) => Some(Long {
                    from: within(wrong, &names.rope_factors, *from, limits::CONTEXT)?,
                    divisors: divisors(list)?,
                }),
            };
            let dynamic = match rope.dynamic {
                None => None,
                Some(factor) => {
                    positive(&names.rope_scale, factor)?;
                    Some(Dynamic { from: within(wrong, &names.context, self.context, limits::CONTEXT)?, factor })
                }
            };
            out.push(Rope {
                dim,
                base: rope.base,
                scale: rope.scale,
                interleaved: self.interleaved,
                divisors: if rope.divisors.is_empty() { Vec::new() } else { divisors(&rope.divisors)? },
                amplitude: rope.amplitude,
                long,
                dynamic,
            });
        }
        match out.is_empty() {
            true => Err(Error::Internal("a model without a rotation".into())),
            false => Ok(out),
        }
    }

    /// Factors and caps, which may be any number above 0.
    fn factors(&self, names: &Names, wrong: &dyn Fn(&str, String) -> Error) -> Result<()> {
        let caps = self.layers.iter().filter_map(|l| l.cap).chain(self.logit_cap);
        let factors = [self.embedding_scale, self.residual_scale, self.logit_scale];
        match factors.into_iter().chain(caps).find(|v| !(v.is_finite() && *v > 0.0)) {
            None => Ok(()),
            Some(v) => {
                Err(wrong(&names.hidden, format!("has a factor or a cap of {v}; a finite number above 0 is needed")))
            }
        }
    }

    fn attention(
        &self,
        n: usize,
        layer: &Layer,
        names: &Names,
        wrong: &dyn Fn(&str, String) -> Error,
    ) -> Result<Attention> {
        let heads = within(wrong, &names.heads, layer.heads, limits::HEADS)?;
        let kv_heads = within(wrong, &names.kv_heads, layer.kv_heads, limits::HEADS)?;
        if kv_heads > heads || !heads.is_multiple_of(kv_heads) {
            return Err(wrong(
                &names.kv_heads,
                format!("is {kv_heads} in layer {n}; it must divide the {heads} query heads"),
            ));
        }
        let dim = self.head_dim as usize;
        within(wrong, &names.heads, (heads * dim) as u64, limits::HIDDEN)?;
        let window = layer.window.map(|w| within(wrong, &names.window, w, limits::CONTEXT)).transpose()?;
        let scale = self.scale.unwrap_or_else(|| 1.0 / (dim as f32).sqrt());
        if !scale.is_finite() || scale <= 0.0 {
            return Err(wrong(&names.head_dim, format!("scores scaled by {scale}; a finite number above 0 is needed")));
        }
        Ok(Attention { heads, kv_heads, dim, scale, window, rope: layer.rope, cap: layer.cap })
    }
}

fn ffn(layer: &Layer, names: &Names, wrong: &dyn Fn(&str, String) -> Error) -> Result<Ffn> {
    let width = within(wrong, &names.ff, layer.ff, limits::FF)?;
    let Some(Mixture { count, used, over_all, shared, .. }) = layer.experts else {
        return Ok(Ffn::Dense { width, act: layer.act });
    };
    let count = within(wrong, &names.experts, count, limits::EXPERTS)?;
    let used = within(wrong, &names.used, used, limits::EXPERTS)?;
    if used > count {
        return Err(wrong(&names.used, format!("is {used}; there are {count} experts")));
    }
    let shared = shared.map(|width| within(wrong, &names.shared, width, limits::FF)).transpose()?;
    Ok(Ffn::Experts { count, used, width, act: layer.act, over_all, shared })
}

/// The tensors of a layer in load order.
fn asks(n: usize, layer: &Layer, hidden: usize, attention: &Attention, ffn: &Ffn) -> Vec<Ask> {
    let (wide, narrow, dim, ff) = (attention.q(), attention.kv(), attention.dim, ffn.width());
    let mut out: Vec<(Role, usize, usize, usize)> = Vec::new();
    if layer.pre_norms {
        out.push((Role::AttnNorm, 1, hidden, 1));
    }
    out.extend([
        (Role::Q, wide, hidden, 1),
        (Role::K, narrow, hidden, 1),
        (Role::V, narrow, hidden, 1),
        (Role::O, hidden, wide, 1),
    ]);
    if layer.bias {
        out.extend([(Role::QBias, 1, wide, 1), (Role::KBias, 1, narrow, 1), (Role::VBias, 1, narrow, 1)]);
    }
    if layer.o_bias {
        out.push((Role::OBias, 1, hidden, 1));
    }
    if layer.sinks {
        out.push((Role::Sinks, 1, attention.heads, 1));
    }
    match layer.qk_norm {
        QkNorm::None => {}
        QkNorm::Heads => out.extend([(Role::QNorm, 1, dim, 1), (Role::KNorm, 1, dim, 1)]),
        QkNorm::Rows => out.extend([(Role::QNorm, 1, wide, 1), (Role::KNorm, 1, narrow, 1)]),
    }
    if layer.post_norms {
        out.push((Role::PostAttnNorm, 1, hidden, 1));
    }
    if layer.pre_norms {
        out.push((Role::FfnNorm, 1, hidden, 1));
    }
    match ffn.experts() {
        None => out.extend([(Role::Gate, ff, hidden, 1), (Role::Up, ff, hidden, 1), (Role::Down, hidden, ff, 1)]),
        Some((count, _)) => out.extend([
            (Role::Router, count, hidden, 1),
            (Role::ExpertGate, count * ff, hidden, count),
            (Role::ExpertUp, count * ff, hidden, count),
            (Role::ExpertDown, count * hidden, ff, count),
        ]),
    }
    if let (Some((count, _)), true) = (ffn.experts(), layer.experts.is_some_and(|e| e.bias)) {
        out.extend([
            (Role::RouterBias, 1, count, 1),
            (Role::ExpertGateBias, 1, count * ff, count),
            (Role::ExpertUpBias, 1, count * ff, count),
            (Role::ExpertDownBias, 1, count * hidden, count),
        ]);
    }
    if let Some(shared) = ffn.shared() {
        out.extend([
            (Role::SharedRouter, 1, hidden, 1),
            (Role::SharedGate, shared, hidden, 1),
            (Role::SharedUp, shared, hidden, 1),
            (Role::SharedDown, hidden, shared, 1),
        ]);
    }
    if layer.post_norms {
        out.push((Role::PostFfnNorm, 1, hidden, 1));
    }
    out.into_iter().map(|(role, rows, cols, count)| Ask::of(role, Some(n), rows, cols, count)).collect()
}
