//! Updates as calls of candle's tensors: a rule's expression, node by node.

use std::collections::BTreeMap;

use candle_core::{Result as Candled, Tensor};

use super::{Candle, Target, flat, sent, unknown};
use crate::blocks::BlockType;
use crate::device::{Gradient, Op, Round};
use crate::error::{Error, Result};
use crate::ops::rule::source::{Body, Expr};
use crate::rng::Philox;

/// An update; any other operation is one that candle is not taught.
pub(super) fn update(on: &Candle, op: Op<'_>) -> Result<()> {
    let Op::Elementwise { rule, p, len, g, state, numbers, scale, clamp, round } = op else {
        return Err(unknown(&op));
    };
    full_precision("a parameter", p.buf.ty())?;
    if matches!(round, Round::Master(_)) {
        return Err(Error::Internal("a master copy beside f32 values".into()));
    }
    let body = rule.body()?;
    let p = Target::of(p)?;
    let mut slots = Vec::with_capacity(state.len());
    for buf in state.iter_mut() {
        full_precision("an optimizer's state", buf.ty())?;
        slots.push(Target::of(buf.all_mut())?);
    }
    let (held, normal) = match g {
        Gradient::Held(g) => (Some(flat(g, len)?), Philox::new(0)),
        Gradient::Normal { seed, stream } => (None, Philox::new(seed).stream(stream)),
    };
    on.guest(|device| {
        let g = match held {
            Some(g) => g,
            None => {
                let mut values = vec![0.0f32; len];
                normal.normals(0, &mut values);
                sent(values, device)?
            }
        };
        let g = (g * f64::from(scale))?;
        let g = if clamp.is_finite() { g.clamp(-clamp, clamp)? } else { g };
        let old = p.flat(len)?;
        let mut names = BTreeMap::from([("p", Value::Each(old.clone())), ("g", Value::Each(g))]);
        names.extend(rule.numbers.iter().copied().zip(numbers.iter().map(|n| Value::One(*n))));
        let before = slots.iter().map(|at| at.flat(len)).collect::<Candled<Vec<_>>>()?;
        names.extend(rule.slots.iter().copied().zip(before.iter().cloned().map(Value::Each)));
        let new = run(&body, &mut names)?;
        // All is computed before any of it is written.
        for ((slot, at), before) in rule.slots.iter().zip(&slots).zip(&before) {
            if let Some(value) = names.remove(*slot) {
                write(at, &value, before, len, device)?;
            }
        }
        write(&p, &new, &old, len, device)
    })
}

/// Puts a new value in its place, unless it is still what was there.
fn write(to: &Target, value: &Value, before: &Tensor, len: usize, device: &candle_core::Device) -> Candled<()> {
    match value {
        Value::One(x) => to.put(&Tensor::full(*x, len, device)?),
        Value::Each(x) if x.id() == before.id() => Ok(()),
        Value::Each(x) => to.put(x),
    }
}

/// A node's value: the same for all elements, or one for each.
#[derive(Clone)]
enum Value {
    One(f32),
    Each(Tensor),
}

fn run<'a>(body: &'a Body, names: &mut BTreeMap<&'a str, Value>) -> Candled<Value> {
    for statement in &body.statements {
        let value = eval(&statement.value, names)?;
        names.insert(&statement.name, value);
    }
    eval(&body.result, names)
}

fn eval(expr: &Expr, names: &BTreeMap<&str, Value>) -> Candled<Value> {
    match expr {
        Expr::Name(name) => match names.get(name.as_str()) {
            Some(value) => Ok(value.clone()),
            None => candle_core::bail!("the rule names `{name}`, which is nothing of it"),
        },
        Expr::Number(n) => Ok(Value::One(*n)),
        Expr::Negative(x) => binary('-', Value::One(0.0), eval(x, names)?),
        Expr::Binary(sign, a, b) => binary(*sign, eval(a, names)?, eval(b, names)?),
        Expr::Call(name, arguments) => {
            let values = arguments.iter().map(|a| eval(a, names)).collect::<Candled<Vec<_>>>()?;
            call(name, &values)
        }
    }
}

fn binary(sign: char, a: Value, b: Value) -> Candled<Value> {
    use Value::{Each, One};
    Ok(match (sign, a, b) {
        ('+', One(a), One(b)) => One(a + b),
        ('-', One(a), One(b)) => One(a - b),
        ('*', One(a), One(b)) => One(a * b),
        ('/', One(a), One(b)) => One(a / b),
        ('+', Each(a), Each(b)) => Each((a + b)?),
        ('-', Each(a), Each(b)) => Each((a - b)?),
        ('*', Each(a), Each(b)) => Each((a * b)?),
        ('/', Each(a), Each(b)) => Each((a / b)?),
        ('+', Each(a), One(b)) | ('+', One(b), Each(a)) => Each((a + f64::from(b))?),
        ('-', Each(a), One(b)) => Each((a - f64::from(b))?),
        ('-', One(a), Each(b)) => Each(b.affine(-1.0, f64::from(a))?),
        ('*', Each(a), One(b)) | ('*', One(b), Each(a)) => Each((a * f64::from(b))?),
        ('/', Each(a), One(b)) => Each((a / f64::from(b))?),
        ('/', One(a), Each(b)) => Each((b.recip()? * f64::from(a))?),
        (sign, ..) => candle_core::bail!("`{sign}` in a rule"),
    })
}

fn call(name: &str, values: &[Value]) -> Candled<Value> {
    use Value::{Each, One};
    Ok(match (name, values) {
        ("fma", [a, b, c]) => binary('+', binary('*', a.clone(), b.clone())?, c.clone())?,
        ("sqrt", [One(x)]) => One(x.sqrt()),
        ("sqrt", [Each(x)]) => Each(x.sqrt()?),
        ("exp", [One(x)]) => One(x.exp()),
        ("exp", [Each(x)]) => Each(x.exp()?),
        ("tanh", [One(x)]) => One(x.tanh()),
        ("tanh", [Each(x)]) => Each(x.tanh()?),
        ("abs", [One(x)]) => One(x.abs()),
        ("abs", [Each(x)]) => Each(x.abs()?),
        ("sign", [Each(x)]) => Each(x.sign()?),
        ("sign", [One(x)]) => One(f32::from(u8::from(*x > 0.0)) - f32::from(u8::from(*x < 0.0))),
        ("min" | "max", [One(a), One(b)]) => One(if name == "min" { a.min(*b) } else { a.max(*b) }),
        ("min" | "max", [Each(a), Each(b)]) => Each(if name == "min" { a.minimum(b)? } else { a.maximum(b)? }),
        ("min" | "max", [Each(a), One(b)] | [One(b), Each(a)]) => {
            Each(if name == "min" { a.minimum(*b)? } else { a.maximum(*b)? })
        }
        _ => candle_core::bail!("`{name}` with {} arguments in a rule", values.len()),
    })
}

/// An update's buffers must be f32 here: how bf16 is rounded is a matter of its own.
fn full_precision(name: &str, ty: BlockType) -> Result<()> {
    if ty == BlockType::F32 {
        return Ok(());
    }
    Err(Error::refused(
        format!("run.engine = candle with {name} of {ty} values"),
        "candle updates f32 only; set train.dtype=f32 and f32 state",
    ))
}
