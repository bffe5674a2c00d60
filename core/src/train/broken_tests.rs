//! Steps of a model in which a value is no number: they say where, within what was planned, and leave no state of it behind.

use super::engine::Techniques;
use super::state;
use super::tests::{batch, config, shape, trainer, values};
use crate::blocks::BlockType;
use crate::device::Device;
use crate::error::{Diverged, Error};
use crate::ledger::Tier;
use crate::train::engine::Trainer;

/// Puts `value` into the first element of parameter `name`; its number.
fn put(t: &mut Trainer, name: &str, value: f32) -> usize {
    let id = t.learner.params().iter().position(|p| p.name == name).unwrap();
    let (d, learner) = t.parts();
    let d: &dyn Device = d;
    d.upload(&value.to_le_bytes(), learner.param_mut(id).unwrap().buf.at_mut(0)).unwrap();
    id
}

fn place(e: Error) -> Diverged {
    let Error::Diverged { place, remedy } = e else { panic!("{e}") };
    assert!(remedy.contains("train.lr"), "{remedy}");
    *place
}

#[test]
fn a_loss_that_is_no_number_names_its_step_and_layer_within_what_was_planned() {
    let shape = shape(BlockType::F32, true);
    for gradient in ["backprop", "mezo"] {
        for activations in ["keep", "recompute"] {
            let sgd = ("train.optimizer", "{ use = \"sgd\", momentum = 0.0 }");
            let config = config(&[
                ("train.params", "full"),
                ("train.gradient", gradient),
                ("train.activations", activations),
                sgd,
            ]);
            let technique = Techniques::new(config.train.as_ref().unwrap()).unwrap().gradient;
            let (mut good, planned) = trainer(&config, &shape, 2, u64::MAX).unwrap();
            technique.step(&mut good, &[batch(3, 1)], 1, 0.01, &mut |_| ()).unwrap();
            good.evaluate(&batch(3, 1)).unwrap();
            let peak = planned.measured().tiers[&Tier::Device].peak;
            // Under a wall of exactly that.
            let (mut t, ledger) = trainer(&config, &shape, 2, peak).unwrap();
            put(&mut t, "blk.1.ffn_down.weight", f32::NAN);
            let place = place(technique.step(&mut t, &[batch(3, 1)], 5, 0.01, &mut |_| ()).unwrap_err());
            assert_eq!((place.of.as_str(), place.value.as_str()), ("the loss", "NaN"), "{gradient} {activations}");
            assert_eq!((place.step, place.layer), (Some(5), Some(1)), "{gradient} {activations}");
            assert!(ledger.measured().tiers[&Tier::Device].peak <= peak);
        }
    }
}

#[test]
fn a_gradient_that_is_no_number_is_named_and_nothing_has_learned() {
    let shape = shape(BlockType::F32, false);
    let sets = [("train.params", "full"), ("train.optimizer", "{ use = \"sgd\", momentum = 0.0 }")];
    let (mut t, _) = trainer(&config(&sets), &shape, 2, u64::MAX).unwrap();
    // Logits of a huge head stay within f32, and so does their loss; squares of the gradients that come back do not.
    let id = t.learner.params().iter().position(|p| p.name == "output.weight").unwrap();
    let huge: Vec<f32> = values(&t, id).iter().map(|v| v * 1e22).collect();
    let (d, learner) = t.parts();
    d.upload(bytemuck::cast_slice(&huge), learner.param_mut(id).unwrap().buf.at_mut(0)).unwrap();
    let all = |t: &Trainer| -> Vec<u32> {
        (0..t.learner.params().len()).flat_map(|id| values(t, id)).map(f32::to_bits).collect()
    };
    let before = all(&t);
    let place = place(t.backprop(&[batch(3, 1)], 2, 0.01, &mut |_| ()).unwrap_err());
    assert!(place.of.starts_with("the gradient of ") && place.step == Some(2) && place.value == "inf", "{place}");
    assert!(before == all(&t), "a step that diverged has changed nothing");
}

#[test]
fn a_state_with_a_value_that_is_no_number_is_not_written_and_the_one_before_stays() {
    let (room, shape) = (tempfile::tempdir().unwrap(), shape(BlockType::F32, true));
    let path = room.path().join(state::FILE);
    for dtype in ["f32", "bf16"] {
        let config = config(&[("train.params", "full"), ("train.dtype", dtype)]);
        let (mut t, _) = trainer(&config, &shape, 2, u64::MAX).unwrap();
        let at = |step| state::Standing {
            step,
            cursor: 0,
            seed: 7,
            data: String::new(),
            model: String::new(),
            choices: String::new(),
        };
        state::save(&t, &at(1), &path).unwrap();
        let first = std::fs::read(&path).unwrap();
        // In bf16 the upper half of it, twice, is a number as well.
        put(&mut t, "blk.0.attn_q.weight", f32::from_bits(0x7fc0_7fc0));
        let place = place(state::save(&t, &at(2), &path).unwrap_err());
        assert!(place.of.contains("blk.0.attn_q.weight") && place.step == Some(2), "{place}");
        assert!(std::fs::read(&path).unwrap() == first, "{dtype}: the one before stays");
        assert_eq!(std::fs::read_dir(room.path()).unwrap().count(), 1, "{dtype}: nothing half written is left");
        // A state that turns out to be bad gives its place back.
        put(&mut t, "blk.0.attn_q.weight", 0.0);
        state::keep_before(&path);
        state::save(&t, &at(3), &path).unwrap();
        assert!(state::take_back(&path) && std::fs::read(&path).unwrap() == first && !state::take_back(&path));
        state::keep_before(&path);
        state::save(&t, &at(3), &path).unwrap();
        state::proven(&path);
        assert!(!state::take_back(&path) && state::Saved::open(&path).unwrap().unwrap().standing.step == 3);
    }
}
