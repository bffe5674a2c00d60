use std::path::Path;

use super::*;
use crate::model::Model;
use crate::rng::Philox;

const A: usize = 0;
const B: usize = 1;

/// One linear's factors, made up.
pub(crate) struct Made {
    layer: usize,
    linear: Role,
    rank: usize,
    a: Vec<f32>,
    b: Vec<f32>,
}

fn bundled() -> Model {
    Model::open("bundled:recall", Path::new(".")).unwrap()
}

/// Random factors of `rank` for `targets` of the layers for which `keep` holds.
fn made(shape: &ModelShape, targets: &[Role], rank: usize, keep: impl Fn(usize) -> bool) -> Vec<Made> {
    let mut out = Vec::new();
    for layer in (0..shape.layers.len()).filter(|l| keep(*l)) {
        for linear in targets {
            let w = shape.layers[layer].tensors.get(*linear).unwrap();
            let rng = Philox::new(7).stream((layer * 8 + *linear as usize) as u64);
            let numbers = |n: usize, at: u64| (0..n as u64).map(|i| rng.uniform(at + i) - 0.5).collect();
            out.push(Made {
                layer,
                linear: *linear,
                rank,
                a: numbers(rank * w.cols, 0),
                b: numbers(w.rows * rank, 1 << 32),
            });
        }
    }
    out
}

/// Factors and a reader of their numbers, for whoever writes them.
fn factors<'a>(
    about: &About,
    made: &'a [Made],
) -> (Vec<Factors>, impl FnMut(usize, usize, usize, &mut [f32]) -> Result<()> + use<'a>) {
    let kind = AdapterKind::default();
    let list = made.iter().map(|m| Factors {
        layer: m.layer,
        linear: m.linear,
        kind,
        rank: m.rank,
        scale: about.scale(m.rank),
    });
    let list = list.collect();
    let numbers = move |i: usize, part: usize, from: usize, out: &mut [f32]| {
        let all = if part == A { &made[i].a } else { &made[i].b };
        let some = all.get(from..from + out.len()).ok_or_else(|| Error::Internal("too few numbers".into()))?;
        out.copy_from_slice(some);
        Ok(())
    };
    (list, numbers)
}

fn save_as_peft(path: &Path, shape: &ModelShape, about: &About, made: &[Made]) -> Result<()> {
    let (list, mut numbers) = factors(about, made);
    save_peft(path, shape, about, &list, &mut numbers)
}

fn save_as_gguf(path: &Path, shape: &ModelShape, about: &About, made: &[Made]) -> Result<()> {
    let (list, mut numbers) = factors(about, made);
    save_gguf(path, shape, about, &list, &mut numbers)
}

fn about(rank: usize) -> About {
    About { rank, alpha: 16.0, rslora: false, dropout: 0.0, base: "recall".into() }
}

fn read(file: &AdapterFile, m: &Made, part: usize) -> Vec<f32> {
    let mut out = vec![0.0f32; if part == A { m.a.len() } else { m.b.len() }];
    file.read(m.layer, m.linear, part, bytemuck::cast_slice_mut(&mut out)).unwrap();
    out
}

#[test]
fn both_layouts_give_back_what_was_saved_with_its_scale() {
    let folder = tempfile::tempdir().unwrap();
    let shape = bundled().shape;
    let adapters = [
        (made(&shape, &Role::LINEARS, 4, |_| true), about(4)),
        (made(&shape, &[Role::Q, Role::Down], 3, |l| l % 3 == 1), about(3)),
        (made(&shape, &[Role::K], 5, |_| true), About { rslora: true, ..about(5) }),
    ];
    for (i, (made, about)) in adapters.iter().enumerate() {
        let (peft, gguf) = (folder.path().join(format!("{i}")), folder.path().join(format!("{i}.gguf")));
        save_as_peft(&peft, &shape, about, made).unwrap();
        save_as_gguf(&gguf, &shape, about, made).unwrap();
        for path in [&peft, &gguf, &peft.join("adapter_model.safetensors")] {
            let file = AdapterFile::open(path, &shape, 0.5).unwrap();
            assert_eq!(
                file.shape.parameters(&shape) as usize,
                made.iter().map(|m| m.a.len() + m.b.len()).sum::<usize>()
            );
            for m in made {
                let low = file.shape.layers[m.layer][&m.linear];
                let scale = if about.rslora { 16.0 / (m.rank as f32).sqrt() } else { 16.0 / m.rank as f32 };
                assert!((low.scale - 0.5 * scale).abs() < 1e-6 && low.rank == m.rank);
                assert_eq!(read(&file, m, A), m.a, "{path:?}");
                assert_eq!(read(&file, m, B), m.b, "{path:?}");
            }
        }
    }
}

/// PEFT's names, shapes and row order, spelled out: rows of q and k lie as `(heads, 2, d / 2)` there and as `(heads, d / 2, 2)`
/// here.
#[test]
fn the_files_are_named_shaped_and_ordered_as_peft_has_them() {
    let folder = tempfile::tempdir().unwrap();
    let shape = bundled().shape;
    let made = made(&shape, &Role::LINEARS, 2, |_| true);
    let path = folder.path().join("a");
    save_as_peft(&path, &shape, &about(2), &made).unwrap();
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(path.join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!((config["peft_type"].as_str(), config["r"].as_u64()), (Some("LORA"), Some(2)));
    assert_eq!(config["target_modules"].as_array().unwrap().len(), 7);
    let bytes = std::fs::read(path.join("adapter_model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.len(), 2 * 7 * shape.layers.len());
    let get = |name: &str| {
        let t = tensors.tensor(name).unwrap();
        let numbers: Vec<f32> = t.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        (t.shape().to_vec(), numbers)
    };
    for m in made.iter().filter(|m| m.layer == 3) {
        let name = |part: &str| format!("base_model.model.model.layers.3.{}.{part}.weight", m.linear.module());
        let w = shape.layers[3].tensors.get(m.linear).unwrap();
        assert_eq!(get(&name("lora_A")), (vec![2, w.cols], m.a.clone()));
        let (dims, b) = get(&name("lora_B"));
        assert_eq!(dims, [w.rows, 2]);
        if !m.linear.rotates() {
            assert_eq!(b, m.b);
            continue;
        }
        let (d, half) = (shape.layers[3].attention.dim, shape.layers[3].attention.dim / 2);
        for head in 0..w.rows / d {
            for side in 0..2 {
                for pair in 0..half {
                    let (theirs, ours) = (head * d + side * half + pair, head * d + 2 * pair + side);
                    assert_eq!(b[2 * theirs..2 * theirs + 2], m.b[2 * ours..2 * ours + 2]);
                }
            }
        }
    }
}

#[test]
fn an_adapter_that_does_not_fit_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let shape = bundled().shape;
    let made = made(&shape, &[Role::Q, Role::Up], 4, |_| true);
    let path = folder.path().join("a");
    let fails = |change: &dyn Fn(&Path)| {
        let _ = std::fs::remove_dir_all(&path);
        save_as_peft(&path, &shape, &about(4), &made).unwrap();
        change(&path);
        AdapterFile::open(&path, &shape, 1.0).unwrap_err().to_string()
    };
    let config = |from: &'static str, to: &'static str| {
        move |path: &Path| {
            let file = path.join("adapter_config.json");
            let text = std::fs::read_to_string(&file).unwrap();
            assert!(text.contains(from), "{from}");
            std::fs::write(file, text.replace(from, to)).unwrap();
        }
    };
    let weights = |from: &'static str, to: &'static str| {
        move |path: &Path| {
            let file = path.join("adapter_model.safetensors");
            let bytes = std::fs::read(&file).unwrap();
            let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
            let new = [&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat();
            std::fs::write(file, new).unwrap();
        }
    };
    let cases: [(&dyn Fn(&Path), &[&str]); 14] = [
        (&config("\"r\": 4", "\"r\": 8"), &["rank 4", "says 8"]),
        (&config("LORA", "IA3"), &["peft_type", "IA3"]),
        (&config("\"init_lora_weights\": true", "\"init_lora_weights\": \"loftq\""), &["init_lora_weights", "loftq"]),
        (&config("\"bias\": \"none\"", "\"lora_bias\": true"), &["lora_bias"]),
        (&config("\"q_proj\"", "\"k_proj\""), &["q_proj", "target_modules"]),
        (&config("\"layers_to_transform\": null", "\"layers_to_transform\": [1]"), &["layers_to_transform"]),
        (&config("\"alpha_pattern\": {}", "\"alpha_pattern\": {\"q(\": 3}"), &["alpha_pattern", "q("]),
        (&config("\"lora_alpha\": 16.0,", ""), &["lora_alpha", "missing"]),
        (&config("{", "["), &["adapter_config.json"]),
        (&weights("layers.0.self_attn.q_proj.lora_A", "layers.9.self_attn.q_proj.lora_A"), &["layer 9", "8 layers"]),
        (&weights("layers.0.self_attn.q_proj.lora_A", "layers.0.self_attn.x_proj.lora_A"), &["x_proj"]),
        (&weights("layers.0.self_attn.q_proj.lora_A", "layers.0.self_attn.k_proj.lora_A"), &["lora_"]),
        (&weights("[4,256]", "[256,4]"), &["256 inputs"]),
        (
            &|p: &Path| std::fs::rename(p.join("adapter_model.safetensors"), p.join("adapter_model.bin")).unwrap(),
            &["pickle"],
        ),
    ];
    for (change, words) in cases {
        let error = fails(change);
        for word in words {
            assert!(error.contains(word), "{word}: {error}");
        }
    }
    let error = AdapterFile::open(&folder.path().join("none"), &shape, 1.0).unwrap_err().to_string();
    assert!(error.contains("model.adapter") && error.contains("not there"), "{error}");
    // A model is no adapter.
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/bundled/recall.gguf");
    let error = AdapterFile::open(&model, &shape, 1.0).unwrap_err().to_string();
    assert!(error.contains("general.type"), "{error}");
}

#[test]
fn patterns_of_ranks_and_alphas_are_peft_s() {
    let folder = tempfile::tempdir().unwrap();
    let shape = bundled().shape;
    let mut all = made(&shape, &[Role::Q], 4, |_| true);
    all.extend(made(&shape, &[Role::Down], 2, |l| l == 5));
    let path = folder.path().join("a");
    save_as_peft(&path, &shape, &about(4), &all).unwrap();
    let file = path.join("adapter_config.json");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("model.layers.5.mlp.down_proj"));
    std::fs::write(&file, text.replace("\"alpha_pattern\": {}", "\"alpha_pattern\": {\"q_proj\": 6}")).unwrap();
    let shape_of = AdapterFile::open(&path, &shape, 1.0).unwrap().shape;
    assert_eq!(shape_of.layers[0].get(&Role::Q).map(|l| l.scale), Some(1.5));
    assert_eq!(shape_of.layers[5].get(&Role::Down).map(|l| (l.rank, l.scale)), Some((2, 8.0)));
    assert_eq!(shape_of.layers[4].get(&Role::Down), None);
}

#[test]
fn a_write_is_whole_and_what_does_not_fit_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let shape = bundled().shape;
    let mut wrong = made(&shape, &[Role::O], 2, |l| l == 0);
    wrong[0].a.pop();
    let path = folder.path().join("a");
    assert!(save_as_peft(&path, &shape, &about(2), &wrong).is_err());
    assert!(save_as_gguf(&path, &shape, &about(2), &wrong).is_err());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    // Two trainings of one shape have different hashes, the same one the same.
    let first = made(&shape, &[Role::O], 2, |l| l == 0);
    let hash = |made: &[Made]| {
        save_as_peft(&path, &shape, &about(2), made).unwrap();
        AdapterFile::open(&path, &shape, 1.0).unwrap().hash
    };
    let (a, mut second) = (hash(&first), made(&shape, &[Role::O], 2, |l| l == 0));
    assert_eq!(hash(&second), a);
    second[0].b[3] += 1.0;
    assert_ne!(hash(&second), a);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}
