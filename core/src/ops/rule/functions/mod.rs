//! Rules that are no optimizer's: functions of each element alone, as small nets have them.
//!
//! The rule's parameter is the output, which they overwrite, and its gradient the input.

use super::rule;

rule! {
    /// `y ← max(x, 0)`.
    pub static RELU = "relu"(y, x; ; ) {
        max(x, 0.0)
    }
}

rule! {
    /// In place on `dy`, `y` being what [`RELU`] gave: `dy ← dy` where `y > 0`, else 0.
    pub static RELU_VJP = "relu_vjp"(dy, y; ; ) {
        dy * sign(y)
    }
}

rule! {
    /// `y ← tanh x`.
    pub static TANH = "tanh"(y, x; ; ) {
        tanh(x)
    }
}

rule! {
    /// In place on `dy`, `y` being what [`TANH`] gave: `dy ← dy (1 − y²)`.
    pub static TANH_VJP = "tanh_vjp"(dy, y; ; ) {
        dy * (1.0 - y * y)
    }
}

rule! {
    /// `y ← x y`.
    pub static PRODUCT = "product"(y, x; ; ) {
        y * x
    }
}

rule! {
    /// `y ← cap · tanh(x / cap)`.
    pub static SOFT_CAP = "soft_cap"(y, x; ; cap) {
        cap * tanh(x / cap)
    }
}

rule! {
    /// In place on `dy`, `x` being what [`SOFT_CAP`] was given: `dy ← dy (1 − tanh²(x / cap))`.
    pub static SOFT_CAP_VJP = "soft_cap_vjp"(dy, x; ; cap) {
        dy * (1.0 - tanh(x / cap) * tanh(x / cap))
    }
}
