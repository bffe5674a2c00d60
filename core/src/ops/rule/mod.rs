//! Fused updates as rules: a small scalar expression over a parameter, its gradient and a few slots of state.
//!
//! A rule is written once, by [`rule`]. From that come the loop of each level of the CPU, compiled as if it had been written by
//! hand; the GPU's kernels, whose source `build.rs` makes of the same text; and the expression itself, for executors that
//! compute node by node ([`Rule::body`]).
#![allow(unsafe_code, reason = "vector instructions")]

pub mod functions;
pub mod source;

use std::ops::{Add, Div, Mul, Neg, Sub};

use crate::error::{Error, Result};

/// Most slots of state that a rule has.
pub const MOST_SLOTS: usize = 3;
/// Most numbers that a rule takes.
pub const MOST_NUMBERS: usize = 12;

/// One pass over some elements: parameters, gradients, slots, numbers, and what gradients are scaled by and clamped to.
///
/// # Safety
/// The level's instructions must run here. Every slice is as long as the first.
pub type Sweep = unsafe fn(&mut [f32], &[f32], &mut [&mut [f32]], &[f32], f32, f32);

/// A fused update, or any other function of each element alone.
#[derive(Debug)]
pub struct Rule {
    /// Its name, lower_snake_case and its own.
    pub name: &'static str,
    /// Names of its state, each slot as long as the parameter.
    pub slots: &'static [&'static str],
    /// Names of the numbers that a call gives, in order.
    pub numbers: &'static [&'static str],
    /// The text of its body, from which GPU kernels are made.
    pub source: &'static str,
    /// Its loop at each level of the CPU: scalar, AVX2, AVX-512.
    pub sweeps: [Sweep; 3],
}

impl Rule {
    /// What it computes, as an expression.
    ///
    /// # Errors
    /// [`Error::Internal`] for a text that is none of the language, which compiles but cannot be read.
    pub fn body(&self) -> Result<source::Body> {
        source::parse(self.source).map_err(|e| Error::Internal(format!("the rule {}: {e}", self.name)))
    }
}

/// An f32 of a level that has fused multiplication and addition, or has not.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(transparent)]
pub struct Num<const FMA: bool>(pub f32);

macro_rules! operators {
    ($($trait:ident $method:ident $sign:tt),*) => {$(
        impl<const FMA: bool> $trait for Num<FMA> {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                Self(self.0 $sign other.0)
            }
        }
        impl<const FMA: bool> $trait<Num<FMA>> for f32 {
            type Output = Num<FMA>;
            #[inline(always)]
            fn $method(self, other: Num<FMA>) -> Num<FMA> {
                Num(self $sign other.0)
            }
        }
        impl<const FMA: bool> $trait<f32> for Num<FMA> {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: f32) -> Self {
                Self(self.0 $sign other)
            }
        }
    )*};
}
operators!(Add add +, Sub sub -, Mul mul *, Div div /);

impl<const FMA: bool> Neg for Num<FMA> {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        Self(-self.0)
    }
}

/// `a · b + c`, rounded once where the level can.
#[inline(always)]
pub fn fma<const FMA: bool>(a: Num<FMA>, b: Num<FMA>, c: Num<FMA>) -> Num<FMA> {
    Num(if FMA { a.0.mul_add(b.0, c.0) } else { a.0 * b.0 + c.0 })
}

/// `√x`.
#[inline(always)]
pub fn sqrt<const FMA: bool>(x: Num<FMA>) -> Num<FMA> {
    Num(x.0.sqrt())
}

/// The sign: −1, 0 or 1.
#[inline(always)]
pub fn sign<const FMA: bool>(x: Num<FMA>) -> Num<FMA> {
    Num(f32::from(u8::from(x.0 > 0.0)) - f32::from(u8::from(x.0 < 0.0)))
}

/// `|x|`.
#[inline(always)]
pub fn abs<const FMA: bool>(x: Num<FMA>) -> Num<FMA> {
    Num(x.0.abs())
}

/// The smaller; NaN is passed over.
#[inline(always)]
pub fn min<const FMA: bool>(a: Num<FMA>, b: impl Into<Num<FMA>>) -> Num<FMA> {
    Num(a.0.min(b.into().0))
}

/// The larger; NaN is passed over.
#[inline(always)]
pub fn max<const FMA: bool>(a: Num<FMA>, b: impl Into<Num<FMA>>) -> Num<FMA> {
    Num(a.0.max(b.into().0))
}

/// `e^x`.
#[inline(always)]
pub fn exp<const FMA: bool>(x: Num<FMA>) -> Num<FMA> {
    Num(x.0.exp())
}

/// The hyperbolic tangent.
#[inline(always)]
pub fn tanh<const FMA: bool>(x: Num<FMA>) -> Num<FMA> {
    Num(x.0.tanh())
}

impl<const FMA: bool> From<f32> for Num<FMA> {
    #[inline(always)]
    fn from(x: f32) -> Self {
        Self(x)
    }
}

/// One element of a rule with `N` slots and `K` numbers; made by [`rule`].
pub trait Step<const N: usize, const K: usize> {
    /// The parameter's new value; `s` gets the slots' new ones.
    fn step<const FMA: bool>(p: Num<FMA>, g: Num<FMA>, s: &mut [Num<FMA>; N], k: &[Num<FMA>; K]) -> Num<FMA>;
}

/// The loop, slots being arguments of their own, so that the compiler knows that none of them lies over another.
#[inline(always)]
fn sweep<S: Step<N, K>, const N: usize, const K: usize, const FMA: bool>(
    p: &mut [f32],
    g: &[f32],
    slots: &mut [&mut [f32]],
    numbers: &[f32],
    scale: f32,
    clamp: f32,
) {
    let Some(numbers) = numbers.first_chunk::<K>() else { return };
    let k = numbers.map(Num);
    let gradient = |g: f32| Num((g * scale).clamp(-clamp, clamp));
    match slots {
        [] if N == 0 => {
            for (p, g) in p.iter_mut().zip(g) {
                *p = S::step::<FMA>(Num(*p), gradient(*g), &mut [Num(0.0); N], &k).0;
            }
        }
        [a] if N == 1 => one::<S, N, K, FMA>(p, g, a, &k, gradient),
        [a, b] if N == 2 => two::<S, N, K, FMA>(p, g, a, b, &k, gradient),
        [a, b, c] if N == 3 => three::<S, N, K, FMA>(p, g, a, b, c, &k, gradient),
        _ => {}
    }
}

#[inline(always)]
fn one<S: Step<N, K>, const N: usize, const K: usize, const FMA: bool>(
    p: &mut [f32],
    g: &[f32],
    a: &mut [f32],
    k: &[Num<FMA>; K],
    gradient: impl Fn(f32) -> Num<FMA>,
) {
    for ((p, g), a) in p.iter_mut().zip(g).zip(a) {
        let mut s = [Num(*a); N];
        *p = S::step(Num(*p), gradient(*g), &mut s, k).0;
        *a = s[0].0;
    }
}

#[inline(always)]
fn two<S: Step<N, K>, const N: usize, const K: usize, const FMA: bool>(
    p: &mut [f32],
    g: &[f32],
    a: &mut [f32],
    b: &mut [f32],
    k: &[Num<FMA>; K],
    gradient: impl Fn(f32) -> Num<FMA>,
) {
    for (((p, g), a), b) in p.iter_mut().zip(g).zip(a).zip(b) {
        let mut s: [Num<FMA>; N] = std::array::from_fn(|j| Num(if j == 0 { *a } else { *b }));
        *p = S::step(Num(*p), gradient(*g), &mut s, k).0;
        (*a, *b) = (s[0].0, s[1].0);
    }
}

#[inline(always)]
fn three<S: Step<N, K>, const N: usize, const K: usize, const FMA: bool>(
    p: &mut [f32],
    g: &[f32],
    a: &mut [f32],
    b: &mut [f32],
    c: &mut [f32],
    k: &[Num<FMA>; K],
    gradient: impl Fn(f32) -> Num<FMA>,
) {
    for ((((p, g), a), b), c) in p.iter_mut().zip(g).zip(a).zip(b).zip(c) {
        let mut s: [Num<FMA>; N] = std::array::from_fn(|j| Num([*a, *b, *c][j]));
        *p = S::step(Num(*p), gradient(*g), &mut s, k).0;
        (*a, *b, *c) = (s[0].0, s[1].0, s[2].0);
    }
}

/// The loops of a rule.
pub const fn sweeps<S: Step<N, K>, const N: usize, const K: usize>() -> [Sweep; 3] {
    const { assert!(N <= MOST_SLOTS && K <= MOST_NUMBERS) };
    #[cfg(target_arch = "x86_64")]
    return [scalar::<S, N, K>, avx2::<S, N, K>, avx512::<S, N, K>];
    #[cfg(not(target_arch = "x86_64"))]
    return [scalar::<S, N, K>; 3];
}

unsafe fn scalar<S: Step<N, K>, const N: usize, const K: usize>(
    p: &mut [f32],
    g: &[f32],
    slots: &mut [&mut [f32]],
    numbers: &[f32],
    scale: f32,
    clamp: f32,
) {
    sweep::<S, N, K, false>(p, g, slots, numbers, scale, clamp);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2<S: Step<N, K>, const N: usize, const K: usize>(
    p: &mut [f32],
    g: &[f32],
    slots: &mut [&mut [f32]],
    numbers: &[f32],
    scale: f32,
    clamp: f32,
) {
    sweep::<S, N, K, true>(p, g, slots, numbers, scale, clamp);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn avx512<S: Step<N, K>, const N: usize, const K: usize>(
    p: &mut [f32],
    g: &[f32],
    slots: &mut [&mut [f32]],
    numbers: &[f32],
    scale: f32,
    clamp: f32,
) {
    sweep::<S, N, K, true>(p, g, slots, numbers, scale, clamp);
}

/// Defines a [`Rule`]: its name, what it calls the parameter and the gradient, its slots, its numbers, and its body, whose last
/// expression is the parameter's new value. See [`source`] for the language.
macro_rules! rule {
    ($(#[$doc:meta])* $vis:vis static $NAME:ident = $name:literal
     ($p:ident, $g:ident; $($slot:ident),*; $($number:ident),*) { $($body:tt)* }) => {
        $(#[$doc])*
        $vis static $NAME: $crate::ops::rule::Rule = {
            use $crate::ops::rule::{Num, Rule, Step, sweeps};
            struct This;
            const N: usize = <[&str]>::len(&[$(stringify!($slot)),*]);
            const K: usize = <[&str]>::len(&[$(stringify!($number)),*]);
            impl Step<N, K> for This {
                #[inline(always)]
                #[allow(unused_imports, unused_mut, unused_variables)]
                fn step<const FMA: bool>($p: Num<FMA>, $g: Num<FMA>, s: &mut [Num<FMA>; N], k: &[Num<FMA>; K]) -> Num<FMA> {
                    use $crate::ops::rule::{abs, exp, fma, max, min, sign, sqrt, tanh};
                    let [$(mut $slot),*] = *s;
                    let [$($number),*] = *k;
                    let new = { $($body)* };
                    *s = [$($slot),*];
                    new
                }
            }
            Rule {
                name: $name,
                slots: &[$(stringify!($slot)),*],
                numbers: &[$(stringify!($number)),*],
                source: stringify!($($body)*),
                sweeps: sweeps::<This, N, K>(),
            }
        };
    };
}
pub(crate) use rule;

#[cfg(test)]
mod tests {
    use super::source::{Body, Expr, Statement, cuda, find, parse};
    use super::*;
    use std::collections::BTreeMap;

    /// The value of an expression, node by node, as an executor without the rule's loop computes it.
    fn value(expr: &Expr, names: &BTreeMap<String, f32>) -> f32 {
        match expr {
            Expr::Name(name) => names[name],
            Expr::Number(n) => *n,
            Expr::Negative(x) => -value(x, names),
            Expr::Binary(sign, a, b) => {
                let (a, b) = (value(a, names), value(b, names));
                match sign {
                    '+' => a + b,
                    '-' => a - b,
                    '*' => a * b,
                    _ => a / b,
                }
            }
            Expr::Call(name, arguments) => {
                let x: Vec<f32> = arguments.iter().map(|a| value(a, names)).collect();
                match name.as_str() {
                    "fma" => x[0] * x[1] + x[2],
                    "sqrt" => x[0].sqrt(),
                    "sign" if x[0] == 0.0 => 0.0,
                    "sign" => x[0].signum(),
                    "abs" => x[0].abs(),
                    "min" => x[0].min(x[1]),
                    "max" => x[0].max(x[1]),
                    "exp" => x[0].exp(),
                    _ => x[0].tanh(),
                }
            }
        }
    }

    rule! {
        /// Everything the language has.
        static ALL = "all"(p, g; m, v, w; lr, decay) {
            // A comment is no token.
            let c = fma(decay, m, (1.0 - decay) * g);
            m = max(c, -0.5) + min(g, 0.25) / 2.0;
            v = abs(v) * exp(-v) + tanh(g);
            w = sqrt(w * w + 1.0);
            p - lr * (sign(c) + v / w)
        }
    }

    #[test]
    fn the_loop_and_the_expression_are_the_same_rule_on_every_level() {
        let wave = |k: f32| -> Vec<f32> { (0..100).map(|i| (k * i as f32 + k).sin()).collect() };
        let numbers = [0.3, 0.9];
        let body = ALL.body().unwrap();
        let levels = crate::ops::cpu::Level::ALL.into_iter().filter(|l| crate::ops::cpu::Kernels::tried(*l).is_some());
        for level in levels {
            let (mut p, g, mut m, mut v, mut w) = (wave(0.7), wave(1.1), wave(0.3), wave(0.2), wave(2.3));
            let before = [p.clone(), g.clone(), m.clone(), v.clone(), w.clone()];
            // SAFETY: the level runs here, and all are of one length.
            unsafe {
                let slots: &mut [&mut [f32]] = &mut [&mut m, &mut v, &mut w];
                (ALL.sweeps[level as usize])(&mut p, &g, slots, &numbers, 1.0, f32::INFINITY);
            }
            for i in 0..100 {
                let all = ["p", "g", "m", "v", "w"].into_iter().zip(&before).map(|(n, x)| (n, x[i]));
                let mut names: BTreeMap<String, f32> =
                    all.chain(ALL.numbers.iter().copied().zip(numbers)).map(|(n, x)| (n.to_owned(), x)).collect();
                for Statement { name, value: v, .. } in &body.statements {
                    let v = value(v, &names);
                    names.insert(name.clone(), v);
                }
                names.insert("p".into(), value(&body.result, &names));
                for (name, got) in [("p", p[i]), ("m", m[i]), ("v", v[i]), ("w", w[i])] {
                    assert!((names[name] - got).abs() < 1e-5, "{level:?} {name} {i}: {got} and {}", names[name]);
                }
            }
        }
    }

    #[test]
    fn what_build_rs_reads_in_a_file_is_what_the_program_has() {
        let text = include_str!("functions/mod.rs");
        let found = find(text).unwrap();
        use functions::{PRODUCT, RELU, RELU_VJP, SOFT_CAP, SOFT_CAP_VJP, TANH, TANH_VJP};
        let known = [&RELU, &RELU_VJP, &TANH, &TANH_VJP, &PRODUCT, &SOFT_CAP, &SOFT_CAP_VJP];
        assert_eq!(found.len(), known.len());
        for (written, rule) in found.iter().zip(known) {
            assert_eq!((written.name.as_str(), &written.body), (rule.name, &rule.body().unwrap()));
        }
        let optimizers = concat!(env!("CARGO_MANIFEST_DIR"), "/src/train/optimizer");
        for file in std::fs::read_dir(optimizers).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            assert_eq!(find(&text).unwrap().len(), text.matches("\nrule! {").count());
        }
    }

    #[test]
    fn a_functor_of_cuda_has_the_slots_and_the_body() {
        let text = r#"rule! { static X = "x"(p, g; m; lr) { let c = -m * 2.0; m = fma(c, g, m); p - lr * m } }"#;
        let c = cuda(&find(text).unwrap()[0]);
        for part in [
            "struct Rule_x {",
            "SLOTS = 1;",
            "float m_ = s[0];",
            "const float lr_ = k[0];",
            "const float c_ = ((-m_) * 2.0f);",
            "m_ = rule_fma(c_, g_, m_);",
            "s[0] = m_;",
            "return (p_ - (lr_ * m_));",
        ] {
            assert!(c.contains(part), "{part} in\n{c}");
        }
    }

    #[test]
    fn what_is_none_of_the_language_is_named() {
        assert!(matches!(parse("a - b * -c").unwrap(), Body { result: Expr::Binary('-', ..), .. }));
        for (text, why) in [
            ("log(p)", "no function `log`"),
            ("fma(p, g)", "`fma` of 2 arguments"),
            ("p; q", "stands after"),
            ("let x = p", "`;` is missing"),
            ("p + ", "expression is missing"),
            ("p % g", "`%` is nothing"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
