//! GaLore: AdamW on a low-rank projection of each gradient (Zhao et al. 2024, arXiv 2403.03507, Algorithm 2).
//!
//! `P (r, side)` has orthonormal rows: the leading singular vectors of the gradient on one side. They are found anew every
//! `update_proj_gap` steps by subspace iteration (Halko, Martinsson and Tropp 2011, Algorithm 4.4): `r + 8` random directions,
//! multiplied with the gradient and its transpose, orthonormalized in between, then turned to the singular vectors by nalgebra's
//! eigenvectors of a small Gram matrix. With `r + 8` of the side or more that is the exact decomposition. Moments stay as they
//! are when the projection changes, as in the paper.

use super::adamw::ADAMW;
use crate::blocks::BlockType;
use crate::config::Config;
use crate::config::train::{ClipBy, Dtype};
use crate::device::{Buf, Device, Dst, Gradient, Op, Round, Weight};
use crate::error::{Error, Result};
use crate::ops::rule::rule;
use crate::schema::{About, Default, Entry, Knob, KnobKind, ON_ALL, Settled, axes};
use crate::train::optimizer::{GradientForm, Optimizer, OptimizerPlan, Shape, Slot, StepInfo, Update};

/// Directions beside the rank that the iteration carries along.
const SPARE: usize = 8;
/// Philox streams of the first directions, apart from those of other uses.
const STREAM: u64 = 5 << 60;

/// The catalogue entry.
pub static ENTRY: Entry<dyn Optimizer> = Entry {
    about: About {
        id: "galore",
        title: "GaLore",
        common: false,
        paper: "GaLore (arXiv 2403.03507)",
        sentence: "AdamW on the gradient's leading directions: moments of r numbers a row or column instead of the whole matrix, weights of full rank.",
        knobs: &[
            Knob {
                id: "rank",
                label: "Rank",
                paper_name: "r",
                kind: KnobKind::Int { min: 1, max: 4096 },
                default: Default::Int(128),
                unit: "",
                sentence: "Directions kept of each gradient; at most a matrix's shorter side.",
            },
            Knob {
                id: "update_proj_gap",
                label: "Steps between projections",
                paper_name: "T",
                kind: KnobKind::Int { min: 1, max: 100_000 },
                default: Default::Int(200),
                unit: "steps",
                sentence: "How long a projection is kept before it is found anew.",
            },
            Knob {
                kind: KnobKind::Float { min: 0.0, max: 100.0 },
                ..Knob::share("scale", "Scale", "α", 0.25, "Multiplied onto what comes back from the projection.")
            },
            Knob {
                id: "proj_type",
                label: "Side",
                paper_name: "",
                kind: KnobKind::Word { of: &["std", "reverse_std", "left", "right"] },
                default: Default::Text("std"),
                unit: "",
                sentence: "Which side is projected: the shorter one, the longer one, or always the outputs (left) or the inputs (right).",
            },
            Knob {
                id: "power_iterations",
                label: "Power iterations",
                paper_name: "",
                kind: KnobKind::Int { min: 0, max: 16 },
                default: Default::Int(2),
                unit: "",
                sentence: "How often the directions are multiplied with the gradient before they are taken: more are closer to the singular vectors.",
            },
            Knob::share("beta1", "Beta 1", "β₁", 0.9, "Decay of the mean."),
            Knob::share("beta2", "Beta 2", "β₂", 0.999, "Decay of the mean square."),
            Knob {
                // 0 would divide a gradient of 0 by 0.
                kind: KnobKind::Float { min: 1e-30, max: 1.0 },
                ..Knob::share("eps", "Epsilon", "ε", 1e-6, "Added to the root.")
            },
            Knob::share(
                "weight_decay",
                "Weight decay",
                "λ",
                0.0,
                "Each step also shrinks parameters by this times the learning rate.",
            ),
        ],
        runs_on: ON_ALL,
        composes,
        ..About::on(&axes::TRAIN_OPTIMIZER)
    },
    build,
};

fn composes(config: &Config) -> Result<(), String> {
    let Some(train) = &config.train else { return Ok(()) };
    if train.params.id != "full" {
        return Err(format!("{} learns matrices of low rank already; set train.params=full", train.params.id));
    }
    if train.clip.by == ClipBy::Value {
        return Err("it sees only projections, whose numbers are none of the gradient; clip by a norm".into());
    }
    if train.grad_dtype == Dtype::Bf16 {
        return Err("it finds singular vectors of f32 gradients; set train.grad_dtype=f32".into());
    }
    Ok(())
}

fn build(knobs: &Settled) -> Result<Box<dyn Optimizer>> {
    let real = |id: &str| knobs.float(id);
    for id in ["beta1", "beta2"] {
        if real(id) >= 1.0 {
            return Err(Error::config(format!("train.optimizer.{id}"), "`1` is not allowed; below 1"));
        }
    }
    let whole = |id: &str| knobs.int(id);
    Ok(Box::new(Galore {
        rank: whole("rank"),
        gap: whole("update_proj_gap").max(1) as u64,
        scale: real("scale") as f32,
        side: knobs.text("proj_type").to_owned(),
        powers: whole("power_iterations"),
        beta1: real("beta1"),
        beta2: real("beta2"),
        eps: real("eps") as f32,
        weight_decay: real("weight_decay") as f32,
    }))
}

rule! {
    /// `p ← q − dq` with `q = p − s·g`: decay after the step, as GaLore's AdamW has it.
    static BACK = "galore_back"(p, g; ; step, decay) {
        let q = p - step * g;
        q - decay * q
    }
}

struct Galore {
    rank: usize,
    gap: u64,
    scale: f32,
    side: String,
    powers: usize,
    beta1: f64,
    beta2: f64,
    eps: f32,
    weight_decay: f32,
}

/// How a matrix `(rows, cols)` is projected.
#[derive(Clone, Copy)]
struct Projection {
    /// From the left: `R (r, cols) = P G`; else `R (rows, r) = G Pᵀ`.
    left: bool,
    rows: usize,
    cols: usize,
    rank: usize,
    /// Directions of the iteration.
    wide: usize,
}

impl Projection {
    /// The side that is projected, and the other one.
    fn sides(&self) -> (usize, usize) {
        if self.left { (self.rows, self.cols) } else { (self.cols, self.rows) }
    }

    /// `to (n, other) ← y (n, side)` through the gradient.
    fn across(&self, d: &dyn Device, y: &Buf, n: usize, g: Weight<'_>, to: &mut Buf) -> Result<()> {
        if self.left {
            d.linear_dx(y.all(), n, g, to.all_mut(), false)
        } else {
            d.linear(y.all(), n, g, None, to.all_mut(), false)
        }
    }

    /// `to (n, side) ← z (n, other)` back through it.
    fn back(&self, d: &dyn Device, z: &Buf, n: usize, g: Weight<'_>, to: &mut Buf) -> Result<()> {
        Self { left: !self.left, ..*self }.across(d, z, n, g, to)
    }
}

impl Galore {
    fn projection(&self, of: Shape) -> Projection {
        let tall = of.rows >= of.cols;
        let left = match self.side.as_str() {
            "left" => true,
            "right" => false,
            "reverse_std" => tall,
            _ => !tall,
        };
        let (rows, cols, least) = (of.rows, of.cols, of.rows.min(of.cols));
        let (rank, wide) = (self.rank.min(least), (self.rank + SPARE).min(least));
        Projection { left, rows, cols, rank, wide }
    }

    /// Bias corrections of step `t`.
    fn corrections(&self, at: StepInfo) -> (f64, f64) {
        let correct = |beta: f64| 1.0 - beta.powf(at.step as f64);
        (correct(self.beta1), correct(self.beta2))
    }

    /// Leaves in `basis (rank, side)` the leading singular vectors of the gradient.
    fn refresh(
        &self,
        d: &dyn Device,
        of: Projection,
        (seed, stream): (u64, u64),
        g: Weight<'_>,
        basis: &mut Buf,
        [y, z, small]: [&mut Buf; 3],
    ) -> Result<()> {
        let ((side, other), n) = (of.sides(), of.wide);
        d.fill(z.all_mut(), n * other, 0.0)?;
        let (rule, gradient, numbers) = (&super::sgd::SGD, Gradient::Normal { seed, stream }, &[-1.0, 0.0][..]);
        let (scale, clamp, round, state) = (1.0, f32::INFINITY, Round::Nearest, &mut [][..]);
        let (p, len) = (z.all_mut(), n * other);
        d.run(Op::Elementwise { rule, p, len, g: gradient, state, numbers, scale, clamp, round })?;
        of.back(d, z, n, g, y)?;
        d.run(Op::Orthonormalize { y: y.all_mut(), rows: n, cols: side })?;
        for _ in 0..self.powers {
            of.across(d, y, n, g, z)?;
            d.run(Op::Orthonormalize { y: z.all_mut(), rows: n, cols: other })?;
            of.back(d, z, n, g, y)?;
            d.run(Op::Orthonormalize { y: y.all_mut(), rows: n, cols: side })?;
        }
        of.across(d, y, n, g, z)?;
        let (rank, vectors) = (of.rank, small.all_mut());
        d.run(Op::LeadingVectors { z: z.all(), rows: n, cols: other, rank, vectors })?;
        d.linear_dx(small.all(), rank, Weight::of(y, n, side), basis.all_mut(), false)?;
        (0..rank).try_for_each(|row| point(d, basis, row * side, side))
    }
}

/// Turns the vector of `len` elements from `at` on so that its largest element is positive. Singular vectors have no sign of
/// their own, and moments that outlive a projection depend on it: so every device has the same one.
fn point(d: &dyn Device, basis: &mut Buf, at: usize, len: usize) -> Result<()> {
    let (mut largest, mut piece) = (0.0f32, [0.0f32; 256]);
    for first in (0..len).step_by(piece.len()) {
        let piece = &mut piece[..256.min(len - first)];
        d.download(basis.at(at + first), bytemuck::cast_slice_mut(piece))?;
        largest = piece.iter().fold(largest, |most, x| if x.abs() > most.abs() { *x } else { most });
    }
    if largest < 0.0 { d.scale(basis.at_mut(at), len, -1.0) } else { Ok(()) }
}

impl Optimizer for Galore {
    fn plan(&self, of: Shape) -> OptimizerPlan {
        let ty = BlockType::F32;
        if !of.linear {
            return OptimizerPlan { gradient: GradientForm::Matrix, ..OptimizerPlan::of(&ADAMW, of, ty) };
        }
        let p = self.projection(of);
        let (side, other) = p.sides();
        let (rows, cols) = if p.left { (p.rank, other) } else { (other, p.rank) };
        let moment = |name| Slot { name, ty, rows, cols };
        OptimizerPlan {
            state: vec![moment("m"), moment("v"), Slot { name: "projection", ty, rows: p.rank, cols: side }],
            // The iteration's two sides, which the projected gradient and step take turns with, and its turn to the vectors.
            scratch: vec![(p.wide * side).max(p.rank * other), p.wide * other, p.rank * p.wide],
            basis: p.wide,
            gradient: GradientForm::Matrix,
        }
    }

    fn period(&self) -> u64 {
        self.gap
    }

    fn update(&self, d: &dyn Device, call: Update<'_>) -> Result<()> {
        let Update { of, p, g, state, scratch, round, at } = call;
        let (correct1, correct2) = self.corrections(at);
        let (beta1, beta2, eps) = (self.beta1 as f32, self.beta2 as f32, self.eps);
        let Gradient::Held(Dst { buf: g, at: first }) = g else {
            return Err(Error::Internal("galore without a gradient that is held".into()));
        };
        if !of.linear {
            // GaLore's AdamW adds ε to the root before its bias is corrected.
            let (scale, clamp, len) = (at.scale, at.clamp, p.len());
            let root = correct2.sqrt() as f32;
            let numbers =
                [at.lr, beta1, beta2, eps / root, self.weight_decay, 1.0 / correct1 as f32, 1.0 / correct2 as f32];
            let (rule, p, g) = (&ADAMW, p.all_mut(), Gradient::Held(g.at(first)));
            return d.run(Op::Elementwise { rule, p, len, g, state, numbers: &numbers, scale, clamp, round });
        }
        let with = self.projection(of);
        let (Shape { rows, cols, .. }, rank, (_, other)) = (of, with.rank, with.sides());
        let ([moments @ .., basis], [y, z, small]) = (state, scratch) else {
            return Err(Error::Internal("galore without its state or its scratch".into()));
        };
        if (at.step.max(1) - 1).is_multiple_of(self.gap) {
            let whole = Weight { buf: g, at: first, rows, cols, of: rows };
            self.refresh(d, with, (at.seed, STREAM | at.step), whole, basis, [y, z, small])?;
        }
        // The projected gradient in z, its step in y, and that, carried back, where the gradient was.
        if with.left {
            d.linear_dx(basis.all(), rank, Weight { buf: g, at: first, rows, cols, of: rows }, z.all_mut(), false)?;
        } else {
            d.linear(g.at(first), rows, Weight::of(basis, rank, cols), None, z.all_mut(), false)?;
        }
        let (len, clamp) = (rank * other, f32::INFINITY);
        d.fill(y.all_mut(), len, 0.0)?;
        let (gradient, numbers) = (Gradient::Held(z.all()), &[-1.0, beta1, beta2, eps, 0.0, 1.0, 1.0][..]);
        let (rule, p_, scale, state) = (&ADAMW, y.all_mut(), at.scale, moments);
        let nearest = Round::Nearest;
        d.run(Op::Elementwise { rule, p: p_, len, g: gradient, state, numbers, scale, clamp, round: nearest })?;
        if with.left {
            d.linear_dw(basis.all(), y.all(), rank, rows, cols, g.at_mut(first), false)?;
        } else {
            d.linear_dx(y.all(), rows, Weight::of(basis, rank, cols), g.at_mut(first), false)?;
        }
        let step = f64::from(at.lr * self.scale) * correct2.sqrt() / correct1;
        let numbers = &[step as f32, at.lr * self.weight_decay][..];
        let (rule, gradient, len, state) = (&BACK, Gradient::Held(g.at(first)), p.len(), &mut [][..]);
        d.run(Op::Elementwise { rule, p: p.all_mut(), len, g: gradient, state, numbers, scale: 1.0, clamp, round })
    }
}

#[cfg(test)]
mod tests {
    use super::Shape;
    use crate::ledger::{Category, Ledger, Tier};
    use crate::train::optimizer::tests::{gradient, optimizer, parameter, reference, same, updates};
    use crate::train::tests::{config, plan_is_measured};

    fn of(choice: &str) -> String {
        format!(r#"{{ use = "galore", {choice} }}"#)
    }

    /// `tests/scripts/make_galore.py`: the authors' own AdamW and projector in float64, with exact singular vectors.
    #[test]
    fn seven_updates_over_three_projections_are_those_of_galore_torch() {
        let reference = reference("galore.json");
        for run in reference["runs"].as_array().unwrap() {
            let size = |key: &str| run[key].as_u64().unwrap() as usize;
            let (rows, cols, side) = (size("rows"), size("cols"), &run["proj_type"]);
            let choice = "rank = 3, update_proj_gap = 3, scale = 0.5, beta2 = 0.99, eps = 1e-6, weight_decay = 0.1";
            let by = optimizer(&of(&format!("{choice}, proj_type = {side}")));
            let (after, _) = updates(&*by, (rows, cols), 7, 0.02, 2, &|step| gradient(step, rows, cols));
            for (i, step) in reference["steps"].as_array().unwrap().iter().enumerate() {
                let step = step.as_u64().unwrap() as usize;
                same(&format!("{rows} x {cols} {side}, step {step}"), &after[step - 1], &run["after"][i], 2e-5);
            }
        }
    }

    #[test]
    fn projections_have_orthonormal_rows_and_stay_between_refreshes() {
        let by = optimizer(&of("rank = 4, update_proj_gap = 2"));
        let run = |steps| updates(&*by, (20, 16), steps, 0.1, 2, &|step| gradient(step, 20, 16)).1;
        let states: Vec<_> = (1..=4).map(run).collect();
        for state in &states {
            let (p, cols) = (&state[2], 16);
            assert_eq!((state[0].len(), state[1].len(), p.len()), (20 * 4, 20 * 4, 4 * 16), "2rM + rμ");
            for i in 0..4 {
                for j in 0..4 {
                    let dot: f64 = (0..cols).map(|k| f64::from(p[i * cols + k]) * f64::from(p[j * cols + k])).sum();
                    assert!((dot - if i == j { 1.0 } else { 0.0 }).abs() < 1e-5, "{i} {j}: {dot}");
                }
            }
        }
        assert!(states[0][2] == states[1][2] && states[1][2] != states[2][2] && states[2][2] == states[3][2]);
    }

    /// fine-tuning.md §9.1: G = [[3, 0], [4, 0]], r = 1.
    #[test]
    fn the_known_first_step_comes_out() {
        let by = optimizer(&of("rank = 1, scale = 1.0, eps = 1e-30"));
        let (after, _) = updates(&*by, (2, 2), 1, 0.01, 1, &|_| vec![3.0, 0.0, 4.0, 0.0]);
        let moved: Vec<f32> = after[0].iter().zip(parameter(2, 2)).map(|(a, b)| a - b).collect();
        assert!(moved.iter().zip([-0.01, 0.0, -0.01, 0.0]).all(|(a, b)| (a - b).abs() < 1e-6), "{moved:?}");
    }

    #[test]
    fn a_gradient_of_low_rank_is_kept_whole_and_steps_have_no_higher_rank() {
        // Rank one: each step is the outer product of two vectors, so every 2 × 2 minor vanishes.
        let outer = |step: u64| -> Vec<f32> {
            let side = |i: usize, k: f64| (k * (i as f64 + 1.0) + 0.1 * step as f64).sin();
            (0..18 * 10).map(|i| (side(i / 10, 0.9) * side(i % 10, 1.7)) as f32).collect()
        };
        let by = optimizer(&of("rank = 1, scale = 1.0"));
        let (after, _) = updates(&*by, (18, 10), 1, 0.1, 2, &outer);
        let moved: Vec<f64> = after[0].iter().zip(parameter(18, 10)).map(|(a, b)| f64::from(a - b)).collect();
        let g = outer(1);
        let along: f64 = moved.iter().zip(&g).map(|(m, g)| -m * f64::from(*g)).sum();
        assert!(along > 0.0, "downhill");
        for r in 1..18 {
            for c in 1..10 {
                let minor = moved[0] * moved[r * 10 + c] - moved[c] * moved[r * 10];
                assert!(minor.abs() < 1e-6, "{r} {c}: {minor}");
            }
        }
    }

    #[test]
    fn only_matrices_of_layers_are_projected_and_threads_change_no_bit() {
        let by = optimizer(&of("rank = 300"));
        let rest = by.plan(Shape { linear: false, rows: 40, cols: 30 });
        assert!(rest.state.len() == 2 && rest.state[0].len() == 1200 && rest.scratch.is_empty());
        let most = by.plan(Shape { linear: true, rows: 40, cols: 30 });
        assert_eq!(most.state[2].len(), 30 * 30, "a rank above the shorter side is that side");
        let run = |threads| updates(&*by, (40, 30), 3, 0.1, threads, &|step| gradient(step, 40, 30));
        assert!(run(1) == run(3));
    }
    #[test]
    fn its_bytes_are_those_of_the_formula_and_of_its_plan() {
        for hold in ["all", "layer", "matrix"] {
            let galore = of("rank = 8, update_proj_gap = 2");
            plan_is_measured(&[("train.params", "full"), ("train.optimizer", &galore), ("train.grad_hold", hold)]);
        }
        // fine-tuning.md §9: SmolLM2-135M, r = 128, moments and projector in f32.
        let spec = crate::model::random::parse("random:smollm2-135m@f32").unwrap().unwrap();
        let shape = crate::model::random::shape(&spec).unwrap();
        let ledger = Ledger::new(u64::MAX, u64::MAX, u64::MAX);
        let config = config(&[("train.params", "full"), ("train.optimizer", "galore")]);
        crate::train::plan::walk(&config, &shape, &ledger, None).unwrap();
        assert_eq!(ledger.measured().tiers[&Tier::Device].bytes[&Category::Optimizer], 489_245_184);
    }

    #[test]
    fn what_it_cannot_go_with_is_refused_with_the_reason() {
        for (key, value, why) in [
            ("train.params", "lora", "matrices of low rank already"),
            ("train.clip", "{ by = \"value\", at = 1.0 }", "sees only projections"),
        ] {
            let sets = [("train.params", "full"), ("train.optimizer", "galore"), (key, value)];
            let sets: Vec<_> = sets.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            let error = crate::catalog::from_toml("", &sets).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
