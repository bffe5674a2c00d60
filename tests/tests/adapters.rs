//! Adapters beside the weights and merged into them, through the engine and whole jobs.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use ullage_core::blocks::BlockType;
use ullage_core::config::Config;
use ullage_core::ledger::{Category, Tier};
use ullage_core::model::Model;
use ullage_core::model::adapter::{About, AdapterKind, Factors, Role, merge, save_gguf, save_peft};
use ullage_core::ops::ThreadTeam;
use ullage_core::rng::Philox;
use ullage_core::shape::{LayerShape, ModelShape};
use ullage_core::weights::format::Target;
use ullage_tests::naive::Naive;
use ullage_tests::{Rig, assert_same, bundled, config, fixture, ids, open, random, run, smollm2};

/// Random factors for every linear: A about 1/√in, B of `size`.
fn factors(shape: &ModelShape, rank: usize, size: f32) -> Vec<(usize, Role, Vec<f32>, Vec<f32>)> {
    let mut out = Vec::new();
    for (l, layer) in shape.layers.iter().enumerate() {
        for linear in Role::LINEARS {
            let w = layer.tensors.get(linear).unwrap();
            let rng = Philox::new(3).stream((l * 8 + linear as usize) as u64);
            let numbers = |n: usize, at: u64, size: f32| -> Vec<f32> {
                (0..n as u64).map(|i| (rng.uniform(at + i) - 0.5) * size).collect()
            };
            let a = numbers(rank * w.cols, 0, 2.0 / (w.cols as f32).sqrt());
            out.push((l, linear, a, numbers(w.rows * rank, 1 << 32, size)));
        }
    }
    out
}

fn about(rank: usize) -> About {
    About { rank, alpha: 2.0 * rank as f32, rslora: false, dropout: 0.0, base: "test".into() }
}

fn save(path: &Path, shape: &ModelShape, rank: usize, size: f32) {
    let made = factors(shape, rank, size);
    let kind = AdapterKind::default();
    let list: Vec<Factors> = made
        .iter()
        .map(|(layer, linear, ..)| Factors { layer: *layer, linear: *linear, kind, rank, scale: 2.0 })
        .collect();
    let mut numbers = |i: usize, part: usize, from: usize, out: &mut [f32]| {
        let (_, _, a, b) = &made[i];
        out.copy_from_slice(&[a, b][part][from..from + out.len()]);
        Ok(())
    };
    match path.extension() {
        Some(_) => save_gguf(path, shape, &about(rank), &list, &mut numbers).unwrap(),
        None => save_peft(path, shape, &about(rank), &list, &mut numbers).unwrap(),
    }
}

fn with(model: &Arc<Model>, path: &Path, scale: f32) -> Arc<Model> {
    Arc::new(Model::open(&model.path, Path::new(".")).unwrap().with_adapter(path, scale).unwrap())
}

fn logits(model: &Model, config: &Config) -> Vec<Vec<f32>> {
    Rig::new(model, config).unwrap().logits(&ids(19, 500), &ids(4, 300))
}

/// Largest difference, in units of the largest logit.
fn apart(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    let most = |rows: &[Vec<f32>]| rows.iter().flatten().fold(0.0f32, |m, v| m.max(v.abs()));
    let off = a.iter().flatten().zip(b.iter().flatten()).fold(0.0f32, |m, (x, y)| m.max((x - y).abs()));
    off / most(a)
}

#[test]
fn an_adapter_that_adds_nothing_changes_no_bit_and_both_layouts_give_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let model = bundled();
    let config = config(&[]);
    let plain = logits(&model, &config);
    let (zero, peft, gguf) = (folder.path().join("zero"), folder.path().join("a"), folder.path().join("a.gguf"));
    save(&zero, &model.shape, 4, 0.0);
    save(&peft, &model.shape, 4, 0.5);
    save(&gguf, &model.shape, 4, 0.5);
    assert_same(&plain, &logits(&with(&model, &zero, 1.0), &config), "B of zeros");
    assert_same(&plain, &logits(&with(&model, &peft, 0.0), &config), "a scale of zero");
    let adapted = logits(&with(&model, &peft, 1.0), &config);
    assert!(apart(&plain, &adapted) > 0.05, "the adapter does something: {}", apart(&plain, &adapted));
    assert_same(&adapted, &logits(&with(&model, &gguf, 1.0), &config), "PEFT and GGUF");
}

#[test]
fn what_is_lossless_stays_so_with_an_adapter() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    save(&path, &bundled().shape, 5, 0.5);
    let model = with(&bundled(), &path, 1.0);
    let base = logits(&model, &config(&[]));
    for sets in [
        &[("machine.threads", "1")][..],
        &[("machine.threads", "3"), ("run.batch", "7")],
        &[("run.batch", "1")],
        &[("place.weights", "stream")],
        &[("kv.alloc", "paged")],
    ] {
        assert_same(&base, &logits(&model, &config(sets)), &format!("{sets:?}"));
    }
    // One token at a time is what the prompt at once is.
    let tokens = ids(19, 500);
    let mut rig = Rig::new(&model, &config(&[])).unwrap();
    let (_, whole) = rig.prefill(&tokens).unwrap();
    let (mut seq, _) = rig.prefill(&tokens[..1]).unwrap();
    let last = rig.decode(&mut seq, &tokens[1..]).unwrap().pop().unwrap();
    assert_same(&[whole], &[last], "prefill and decode");
}

/// The merged file against the adapter beside the weights; in f32 they are the same sum in another order.
#[test]
fn merged_is_what_the_adapter_computes() {
    let folder = tempfile::tempdir().unwrap();
    let (path, out) = (folder.path().join("a"), folder.path().join("merged.gguf"));
    let plain = bundled();
    save(&path, &plain.shape, 4, 0.3);
    let model = with(&plain, &path, 1.0);
    let config = config(&[("kv.format", "f32")]);
    let beside = logits(&model, &config);
    let distance = apart(&beside, &logits(&plain, &config));
    for (ty, most) in [(BlockType::F32, 2e-5), (BlockType::F16, 5e-3), (BlockType::Q8_0, 0.1)] {
        let team = ThreadTeam::new(2).unwrap();
        let merged = merge(&model, Target::block(ty), &out, &team, &mut |_, _| ()).unwrap();
        assert_eq!(merged.matrices, 7 * plain.shape.layers.len());
        let opened = Model::open(out.to_str().unwrap(), Path::new(".")).unwrap();
        let types = |l: &LayerShape| [Role::Q, Role::AttnNorm].map(|r| l.tensors.get(r).unwrap().ty);
        assert!(opened.shape.layers.iter().all(|l| types(l) == [ty, BlockType::F32]));
        let off = apart(&beside, &logits(&opened, &config));
        assert!(off <= most && off < distance / 2.0, "{ty}: {off}, the adapter makes {distance}");
        assert_eq!(
            opened.tokenizer().unwrap().unwrap().encode("code ABCD", true, false),
            plain.tokenizer().unwrap().unwrap().encode("code ABCD", true, false)
        );
    }
    // As the original has it: only what the adapter changes is encoded again.
    merge(&model, Target::Original, &out, &ThreadTeam::new(1).unwrap(), &mut |_, _| ()).unwrap();
    let opened = Model::open(out.to_str().unwrap(), Path::new(".")).unwrap();
    assert!(opened.shape.tensors().zip(plain.shape.tensors()).all(|(a, b)| a == b));
    let t = &plain.shape.embedding;
    let rows = |m: &Model| {
        let mut bytes = vec![0; t.bytes() as usize];
        m.source.read_rows(t, 0, t.rows, &mut bytes).unwrap();
        bytes
    };
    assert_eq!(rows(&opened), rows(&plain), "the embedding is copied");
}

/// Against the plain forward pass of the tests with W + s·BA in place of W; the second rank is above every side of every matrix.
#[test]
fn the_engine_agrees_with_a_naive_pass_over_the_sum() {
    for file in ["a.gguf", "a"] {
        agrees(&bundled(), file, 3, 0.3, &ids(12, 700));
        agrees(&random("tiny", "f32"), file, 224, 0.02, &ids(12, 160));
    }
}

fn agrees(model: &Arc<Model>, file: &str, rank: usize, size: f32, tokens: &[u32]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(file);
    save(&path, &model.shape, rank, size);
    let scale = 0.7;
    let adapted = with(model, &path, scale);
    let made = factors(&model.shape, rank, size);
    let mut plain = Naive::new(model);
    let config = config(&[("kv.format", "f32")]);
    let (_, base) = Rig::new(model, &config).unwrap().prefill(tokens).unwrap();
    for (layer, linear, a, b) in &made {
        let rows = plain.matrix_mut(*layer, *linear);
        for (row, b) in rows.iter_mut().zip(b.chunks(rank)) {
            let cols = row.len();
            for (k, b) in b.iter().enumerate() {
                for (w, a) in row.iter_mut().zip(&a[k * cols..]) {
                    *w += 2.0 * f64::from(scale) * f64::from(*b) * f64::from(*a);
                }
            }
        }
    }
    let mut cache = plain.cache();
    let mut expected = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        expected = plain.step(*token, |_, _| at, &mut cache).0;
    }
    let expected: Vec<f32> = expected.iter().map(|v| *v as f32).collect();
    let (_, got) = Rig::new(&adapted, &config).unwrap().prefill(tokens).unwrap();
    let (off, changed) = (apart(std::slice::from_ref(&expected), &[got]), apart(&[expected], &[base]));
    assert!(off < 1e-4 && changed > 0.01, "rank {rank}: {off} apart, the adapter makes {changed}");
}

#[test]
fn its_bytes_are_planned_and_measured_as_weights() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    let plain = bundled();
    save(&path, &plain.shape, 8, 0.1);
    let model = with(&plain, &path, 1.0);
    let set = format!("{}", path.display());
    for more in [&[][..], &[("place.weights", "stream")], &[("run.batch", "5"), ("run.compute", "int8")]] {
        let sets: Vec<_> = [("run.max_tokens", "6"), ("run.prompt", "Once upon a time there was")]
            .into_iter()
            .chain(more.iter().copied())
            .collect();
        let (without, adapted) = (config(&sets), config(&[&sets[..], &[("model.adapter", &set)]].concat()));
        let report = |model: &Arc<Model>, config: &Config| {
            let report = run(model, config);
            assert_eq!(report.error, None);
            report
        };
        let (a, b) = (report(&plain, &without), report(&model, &adapted));
        let weights = |r: &ullage_core::report::Report| r.measured.bytes[&Tier::Device][&Category::Weights];
        let bytes = model.shape.adapter.as_ref().unwrap().bytes(&model.shape);
        assert_eq!(weights(&b) - weights(&a), bytes, "to the byte");
        let (planned, measured) = (b.plan.peak[&Tier::Device], b.measured.peak[&Tier::Device]);
        assert!(planned >= measured && planned - measured <= (measured / 50).max(256 << 10), "{planned} {measured}");
        // One byte less than planned is refused, and the plan fits.
        let wall = format!("{planned} B");
        let tight = config(&[&sets[..], &[("model.adapter", &set), ("budget.device", &wall)]].concat());
        assert_eq!(run(&model, &tight).error, None);
        let less = format!("{} B", planned - 1);
        let over = config(&[&sets[..], &[("model.adapter", &set), ("budget.device", &less)]].concat());
        assert_eq!(run(&model, &over).error.unwrap().kind, "over_budget");
    }
}

#[test]
fn a_model_opened_without_its_adapter_is_not_run_without_saying() {
    let config = config(&[("model.adapter", "x")]);
    let error = run(&bundled(), &config).error.unwrap();
    assert!(error.message.contains("adapter"), "{}", error.message);
}

#[test]
fn quantized_weights_of_a_real_model_stay_quantized() {
    let Some(model) = smollm2() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    save(&path, &model.shape, 8, 0.05);
    let adapted = with(&model, &path, 1.0);
    let config = config(&[("kv.format", "f32")]);
    let plain = logits(&model, &config);
    let off = apart(&plain, &logits(&adapted, &config));
    assert!(off > 1e-3, "{off}");
    // What the ledger holds: the blocks as they are in the file, and the adapter beside them.
    let held = |model: &Model| {
        Rig::new(model, &config).unwrap().ledger.measured().tiers[&Tier::Device].bytes[&Category::Weights]
    };
    let blocks = model.shape.tensors().map(|t| t.bytes()).sum::<u64>();
    assert_eq!(held(&model), blocks);
    assert_eq!(held(&adapted) - blocks, adapted.shape.adapter.as_ref().unwrap().bytes(&adapted.shape));
}

/// `tests/scripts/make_lora.py`: the tiny llama with an adapter of every linear, by PEFT in float64 and by llama.cpp. Both
/// layouts, made by their own libraries, give their logits here: beside the weights, merged, and written again by us.
#[test]
fn a_lora_gives_the_logits_of_peft_and_of_llama_cpp() {
    let folder = tempfile::tempdir().unwrap();
    let from = fixture("adapters");
    let reference: serde_json::Value = serde_json::from_slice(&std::fs::read(from.join("lora.json")).unwrap()).unwrap();
    let of = &reference["infer"];
    let list = |v: &serde_json::Value| v.as_array().unwrap().clone();
    let tokens: Vec<u32> = list(&of["tokens"]).iter().map(|t| t.as_u64().unwrap() as u32).collect();
    let positions: Vec<usize> = list(&of["positions"]).iter().map(|p| p.as_u64().unwrap() as usize).collect();
    assert_eq!((tokens.len(), positions.last()), (20, Some(&19)));
    let config = config(&[("kv.format", "f32")]);
    // Largest distance to what `key` has.
    let off = |model: &Model, key: &str| {
        let got = Rig::new(model, &config).unwrap().logits(&tokens[..1], &tokens[1..]);
        let rows = positions.iter().zip(list(&of[key]));
        let each = rows.flat_map(|(at, row)| {
            let row = list(&row);
            assert_eq!(row.len(), got[*at].len());
            let far = |(a, b): (&f32, &serde_json::Value)| (f64::from(*a) - b.as_f64().unwrap()).abs();
            got[*at].iter().zip(&row).map(far).collect::<Vec<_>>()
        });
        let far = each.fold(0.0f64, f64::max);
        println!("{} to {key}: {far:e}", model.path);
        far
    };
    let dir = fixture("arch/llama");
    let bases = [open(dir.to_str().unwrap()), open(dir.join("model.gguf").to_str().unwrap())];
    for base in &bases {
        assert!(off(base, "plain") < 1e-5 && off(base, "peft") > 1.0, "the adapter does something");
        let again = folder.path().join("again.gguf");
        let as_peft = with(base, &from.join("lora"), 1.0);
        as_peft.adapter.as_ref().unwrap().convert(&again, &base.shape).unwrap();
        for path in [from.join("lora"), from.join("lora.gguf"), again] {
            let adapted = with(base, &path, 1.0);
            for key in ["peft", "llama_cpp"] {
                assert!(off(&adapted, key) < 1e-5, "{} with {}: {key}", base.path, path.display());
            }
        }
    }
    // A GGUF file is merged into one.
    let (adapted, out) = (with(&bases[1], &from.join("lora.gguf"), 1.0), folder.path().join("merged.gguf"));
    let team = ThreadTeam::new(2).unwrap();
    assert_eq!(merge(&adapted, Target::block(BlockType::F32), &out, &team, &mut |_, _| ()).unwrap().matrices, 14);
    assert!(off(&open(out.to_str().unwrap()), "llama_cpp") < 1e-5, "merged");
}

/// `tests/scripts/make_dora.py`: a DoRA that PEFT saved, run by PEFT over the bundled model, beside the weights and merged.
#[test]
fn a_dora_of_peft_gives_its_logits_is_written_back_and_merges() {
    let folder = tempfile::tempdir().unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/adapters");
    let text = std::fs::read_to_string(path.join("dora.json")).unwrap();
    let reference: serde_json::Value = serde_json::from_str(&text).unwrap();
    let numbers = |key: &str| -> Vec<f64> {
        reference["infer"][key].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
    };
    let tokens: Vec<u32> = numbers("tokens").iter().map(|t| *t as u32).collect();
    let plain = bundled();
    let model = with(&plain, &path.join("dora"), 1.0);
    let config = config(&[("kv.format", "f32")]);
    let last = |model: &Model| Rig::new(model, &config).unwrap().prefill(&tokens).unwrap().1;
    let off = |got: &[f32], key: &str| {
        got.iter().step_by(16).zip(numbers(key)).fold(0.0f64, |m, (a, b)| m.max((f64::from(*a) - b).abs()))
    };
    let beside = last(&model);
    assert!(off(&last(&plain), "plain") < 1e-3, "{}", off(&last(&plain), "plain"));
    assert!(off(&beside, "plain") > 0.1, "the adapter does something");
    assert!(off(&beside, "logits") < 1e-3, "{}", off(&beside, "logits"));
    // None of it at a scale of zero; the same when it is streamed, when it was written by us, and merged into f32.
    assert_same(&[last(&with(&plain, &path.join("dora"), 0.0))], &[last(&plain)], "a scale of zero");
    let again = folder.path().join("again");
    model.adapter.as_ref().unwrap().convert(&again, &plain.shape).unwrap();
    assert_same(&[last(&with(&plain, &again, 1.0))], std::slice::from_ref(&beside), "written and read");
    let refused = model.adapter.as_ref().unwrap().convert(&folder.path().join("a.gguf"), &plain.shape).unwrap_err();
    assert!(refused.to_string().contains("dora"), "{refused}");
    let out = folder.path().join("merged.gguf");
    let team = ThreadTeam::new(2).unwrap();
    assert_eq!(merge(&model, Target::block(BlockType::F32), &out, &team, &mut |_, _| ()).unwrap().matrices, 2);
    let merged = last(&Model::open(out.to_str().unwrap(), Path::new(".")).unwrap());
    assert!(off(&merged, "logits") < 1e-3, "{}", off(&merged, "logits"));
}

/// `tests/scripts/make_peft.py`: what a folder of PEFT's may say. Each gives PEFT's logits, over the folder and the GGUF file of the
/// same weights; several with weights give those of PEFT with all of them active; a sum is planned and measured as one.
#[test]
fn every_manner_of_peft_gives_its_logits_and_several_are_their_sum() {
    let from = fixture("adapters/peft");
    let reference: serde_json::Value =
        serde_json::from_slice(&std::fs::read(from.join("logits.json")).unwrap()).unwrap();
    let list =
        |v: &serde_json::Value| -> Vec<f64> { v.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect() };
    let tokens: Vec<u32> = list(&reference["tokens"]).iter().map(|t| *t as u32).collect();
    let positions: Vec<usize> = list(&reference["positions"]).iter().map(|p| *p as usize).collect();
    let config = config(&[("kv.format", "f32")]);
    let off = |model: &Model, of: &serde_json::Value| {
        let got = Rig::new(model, &config).unwrap().logits(&tokens[..1], &tokens[1..]);
        let rows = positions.iter().zip(of.as_array().unwrap());
        let far = |(at, row): (&usize, &serde_json::Value)| {
            let row = list(row);
            assert_eq!(row.len(), got[*at].len());
            got[*at].iter().zip(&row).fold(0.0f64, |m, (a, b)| m.max((f64::from(*a) - b).abs()))
        };
        rows.map(far).fold(0.0f64, f64::max)
    };
    let dir = fixture("arch/llama");
    let bases = [open(dir.to_str().unwrap()), open(dir.join("model.gguf").to_str().unwrap())];
    let logits = reference["logits"].as_object().unwrap();
    assert!(logits.len() >= 10);
    for base in &bases {
        assert!(off(base, &reference["plain"]) < 1e-5);
        for (name, of) in logits {
            // What takes the place of the base's tensors is read over a folder, and refused by name over a GGUF file.
            if name == "saved" && base.source.gguf().is_some() {
                let plain = Model::open(&base.path, Path::new(".")).unwrap();
                let error = plain.with_adapter(&from.join(name), 1.0).unwrap_err().to_string();
                assert!(error.contains("modules_to_save") && error.contains("lm_head"), "{error}");
                continue;
            }
            let adapted = with(base, &from.join(name), 1.0);
            let (far, changes) = (off(&adapted, of), off(base, of));
            println!("{name} over {}: {far:e} of {changes:.2}", base.path);
            // PEFT computes what it takes from the base in f32, and we in f64.
            let most = if ["pissa", "olora"].contains(&name.as_str()) { 1e-4 } else { 1e-5 };
            assert!(far < most && changes > 0.5, "{name} over {}: {far}", base.path);
        }
        let weights = reference["weights"].as_object().unwrap();
        let several: Vec<_> = weights.iter().map(|(n, w)| (from.join(n), w.as_f64().unwrap() as f32)).collect();
        let all = Arc::new(Model::open(&base.path, Path::new(".")).unwrap().with_adapters(&several).unwrap());
        let far = off(&all, &reference["several"]);
        println!("several over {}: {far:e}", base.path);
        assert!(far < 2e-5, "several over {}: {far}", base.path);
        // The bytes of the sum are measured, each of its tensors at the beginning of a cache line.
        let adapter = all.shape.adapter.as_ref().unwrap();
        let (bytes, tensors) = (adapter.bytes(&all.shape), 2 * adapter.layers.iter().map(|l| l.len()).sum::<usize>());
        let held =
            |m: &Model| Rig::new(m, &config).unwrap().ledger.measured().tiers[&Tier::Device].bytes[&Category::Weights];
        let more = held(&all) - held(base);
        assert!(more >= bytes && more < bytes + 64 * tensors as u64, "{more} for {bytes} in {tensors}");
        // Another weight, or another order of the same, is another model to what is kept of it.
        let mut other = several.clone();
        other[0].1 = 0.5;
        let other = Model::open(&base.path, Path::new(".")).unwrap().with_adapters(&other).unwrap();
        assert_ne!(other.hash, all.hash);
    }
}

/// As a configuration names them, through a whole run: its plan is what it measures.
#[test]
fn several_adapters_of_a_configuration_run_as_planned() {
    let from = fixture("adapters/peft");
    let dir = fixture("arch/llama");
    let toml = format!(
        "schema = 1\n[model]\npath = {:?}\nadapter = {:?}\nadapter_scale = 0.75\n[[model.adapters]]\npath = {:?}\nscale = -1.5\n\
         [[model.adapters]]\npath = {:?}\n[run]\nprompt = \"tokens:9\"\nmax_tokens = 3\ncontext = 64\n",
        dir.join("model.gguf"),
        from.join("rslora"),
        from.join("one-layer"),
        from.join("all-linear"),
    );
    let config = ullage_core::catalog::from_toml(&toml, &[]).unwrap();
    assert_eq!(ullage_core::catalog::from_toml(&config.to_toml().unwrap(), &[]).unwrap(), config);
    let model = Arc::new(Model::of(&config.model, Path::new(".")).unwrap());
    let rank = |l: usize, role| model.shape.adapter.as_ref().unwrap().layers[l].get(&role).map(|low| low.rank);
    assert_eq!([rank(0, Role::Q), rank(1, Role::Q), rank(1, Role::Down)], [Some(7), Some(10), Some(7)]);
    let report = run(&model, &config);
    assert_eq!(report.error, None);
    let (planned, measured) = (report.plan.peak[&Tier::Device], report.measured.peak[&Tier::Device]);
    assert!(planned >= measured && planned - measured <= 256 << 10, "{planned} {measured}");
    let weights = |of: &ullage_core::report::ByteReport| of.bytes[&Tier::Device][&Category::Weights];
    assert_eq!(weights(&report.plan), weights(&report.measured));
    for (wrong, words) in [
        ("[[model.adapters]]\npath = \"x\"", ["model.adapters", "model.adapter"]),
        ("[model]\nadapter = \"a\"\n[[model.adapters]]\npath = \"\"", ["model.adapters.0.path", "empty"]),
        ("[model]\nadapter = \"a\"\n[[model.adapters]]\npath = \"x\"\nscale = 1e9", ["model.adapters.0.scale", "100"]),
        ("[model]\nadapter = \"a\"\n[[model.adapters]]\nscale = 1", ["model.adapters", "path"]),
    ] {
        let error = ullage_core::catalog::from_toml(wrong, &[]).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }
    // A DoRA is no sum; what was learned beside a changed base is not read without it, nor over a quantized one.
    let open = |path: &Path| {
        Model::open("bundled:recall", Path::new("."))
            .unwrap()
            .with_adapters(&[(path.to_owned(), 1.0), (path.to_owned(), 1.0)])
    };
    let error = open(&fixture("adapters/dora")).unwrap_err().to_string();
    assert!(error.contains("dora") && error.contains("merge"), "{error}");
    let error =
        ullage_core::model::adapter::AdapterFile::open(&from.join("pissa"), &model.shape, 1.0).unwrap_err().to_string();
    assert!(error.contains("pissa"), "{error}");
}

/// Logits of PEFT at some positions of a text, and how far a model's are from them.
struct Wanted {
    tokens: Vec<u32>,
    positions: Vec<usize>,
}

impl Wanted {
    fn new(reference: &serde_json::Value) -> Self {
        let list =
            |key: &str| reference[key].as_array().unwrap().iter().map(|v| v.as_u64().unwrap()).collect::<Vec<_>>();
        Self {
            tokens: list("tokens").into_iter().map(|t| t as u32).collect(),
            positions: list("positions").into_iter().map(|p| p as usize).collect(),
        }
    }

    /// Logits at its positions: the text read one token first, then the rest one by one.
    fn of(&self, model: &Model) -> Vec<Vec<f32>> {
        let got =
            Rig::new(model, &config(&[("kv.format", "f32")])).unwrap().logits(&self.tokens[..1], &self.tokens[1..]);
        self.positions.iter().map(|p| got[*p].clone()).collect()
    }

    fn off(&self, model: &Model, wanted: &serde_json::Value) -> f64 {
        let far = |(row, wanted): (&Vec<f32>, &serde_json::Value)| {
            let wanted = wanted.as_array().unwrap();
            assert_eq!(row.len(), wanted.len());
            row.iter().zip(wanted).fold(0.0f64, |m, (a, b)| m.max((f64::from(*a) - b.as_f64().unwrap()).abs()))
        };
        self.of(model).iter().zip(wanted.as_array().unwrap()).map(far).fold(0.0f64, f64::max)
    }
}

/// `tests/scripts/make_peft_bases.py`: factors of the embedding and the head, tied and not; of linears that a model keeps as one;
/// magnitudes under every name, and some missing; names from inside and outside of wrappers. PEFT's logits over the folder and the GGUF
/// file, after a prompt at once, written again by us in both layouts, and merged where a file can say it.
#[test]
fn adapters_outside_the_layers_of_fused_linears_and_in_found_names_give_peft_s_logits() {
    let from = fixture("adapters/peft_bases");
    let text = std::fs::read(from.join("logits.json")).unwrap();
    let reference: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let wanted = Wanted::new(&reference);
    let folder = tempfile::tempdir().unwrap();
    let (mut merged, mut as_gguf) = (0, 0);
    for (name, of) in reference["of"].as_object().unwrap() {
        let dir = fixture("arch").join(of["base"].as_str().unwrap());
        for base in [open(dir.to_str().unwrap()), open(dir.join("model.gguf").to_str().unwrap())] {
            let what = format!("{name} over {}", base.path);
            let adapted = with(&base, &from.join(name), 1.0);
            let (far, changes) = (wanted.off(&adapted, &of["logits"]), wanted.off(&base, &of["logits"]));
            println!("{what}: {far:e} of {changes:.2}");
            assert!(far < 1e-5 && changes > 0.2, "{what}: {far:e} of {changes}");
            // A prompt at once, in batches, is what its tokens one by one are.
            let (_, last) = Rig::new(&adapted, &config(&[("kv.format", "f32"), ("run.batch", "7")]))
                .unwrap()
                .prefill(&wanted.tokens)
                .unwrap();
            assert_same(&[last], &[wanted.of(&adapted).pop().unwrap()], &what);
            let file = adapted.adapter.as_ref().unwrap();
            for again in ["again", "again.gguf"] {
                let again = folder.path().join(again);
                match file.convert(&again, &base.shape) {
                    Ok(()) => {
                        let read = wanted.off(&with(&base, &again, 1.0), &of["logits"]);
                        assert!(read < 2e-5, "{what} by {}: {read:e}", again.display());
                        as_gguf += usize::from(again.extension().is_some());
                    }
                    Err(e) => {
                        let why = e.to_string();
                        let said = ["dora", "magnitudes", "tie"].iter().any(|word| why.contains(word));
                        assert!(said, "{what}: {why}");
                    }
                }
                let _ = std::fs::remove_dir_all(&again);
                let _ = std::fs::remove_file(&again);
            }
            if base.source.gguf().is_none() {
                continue;
            }
            let out = folder.path().join("merged.gguf");
            let team = ThreadTeam::new(2).unwrap();
            match merge(&adapted, Target::block(BlockType::F32), &out, &team, &mut |_, _| ()) {
                Ok(_) => {
                    let far = wanted.off(&open(out.to_str().unwrap()), &of["logits"]);
                    assert!(far < 2e-5, "{what} merged: {far:e}");
                    merged += 1;
                }
                Err(e) => {
                    assert!(base.shape.output.is_none() && e.to_string().contains("embedding"), "{what}: {e}");
                }
            }
        }
    }
    assert!(merged >= 10 && as_gguf >= 16, "{merged} merged, {as_gguf} as GGUF");
}

/// The sums of adapters outside the layers, planned and measured like those inside.
#[test]
fn adapters_outside_the_layers_are_summed_planned_and_measured() {
    let from = fixture("adapters/peft_bases");
    let dir = fixture("arch/llama").join("model.gguf");
    let toml = format!(
        "schema = 1\n[model]\npath = {dir:?}\nadapter = {:?}\n[[model.adapters]]\npath = {:?}\nscale = 0.5\n\
         [run]\nprompt = \"tokens:9\"\nmax_tokens = 3\ncontext = 64\n",
        from.join("outside"),
        from.join("embedding"),
    );
    let config = ullage_core::catalog::from_toml(&toml, &[]).unwrap();
    let model = Arc::new(Model::of(&config.model, Path::new(".")).unwrap());
    let low = model.shape.adapter.as_ref().unwrap().outside(&model.shape).unwrap();
    assert_eq!([Role::Embedding, Role::Head].map(|role| low[&role].rank), [6, 3]);
    let report = run(&model, &config);
    assert_eq!(report.error, None);
    let (planned, measured) = (report.plan.peak[&Tier::Device], report.measured.peak[&Tier::Device]);
    assert!(planned >= measured && planned - measured <= (measured / 50).max(256 << 10), "{planned} {measured}");
}

/// `tests/scripts/make_peft_bases.py`: a training has factors of q, k and v, of gate and of up; what is written for a model that keeps
/// them as one is of its own modules, computes the same in both layouts, and names what PEFT and llama.cpp name.
#[test]
fn factors_of_linears_that_a_model_keeps_as_one_are_written_as_its_own() {
    let text = std::fs::read(fixture("adapters/peft_bases/logits.json")).unwrap();
    let reference: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let wanted = Wanted::new(&reference);
    let base = open(fixture("arch/phi3/model.gguf").to_str().unwrap());
    let (rank, kind, folder) = (2, AdapterKind::default(), tempfile::tempdir().unwrap());
    let all = (0..base.shape.layers.len()).flat_map(|layer| Role::LINEARS.map(|linear| (layer, linear)));
    let list: Vec<_> = all.map(|(layer, linear)| Factors { layer, linear, kind, rank, scale: 2.0 }).collect();
    let wave = |at: usize, i: usize| (0.2 * (0.7 * i as f64 + 1.3 * at as f64).sin()) as f32;
    let mut numbers = |n: usize, part: usize, from: usize, out: &mut [f32]| {
        out.iter_mut().zip(from..).for_each(|(v, i)| *v = wave(n + [40, 70][part], i));
        Ok(())
    };
    let (peft, gguf) = (folder.path().join("a"), folder.path().join("a.gguf"));
    save_peft(&peft, &base.shape, &about(rank), &list, &mut numbers).unwrap();
    save_gguf(&gguf, &base.shape, &about(rank), &list, &mut numbers).unwrap();
    for path in [&peft, &gguf] {
        let far = wanted.off(&with(&base, path, 1.0), &reference["apart"]["logits"]);
        println!("{}: {far:e} of {:.2}", path.display(), wanted.off(&base, &reference["apart"]["logits"]));
        assert!(far < 1e-5, "{}: {far:e}", path.display());
    }
    let said: serde_json::Value =
        serde_json::from_slice(&std::fs::read(peft.join("adapter_config.json")).unwrap()).unwrap();
    let targets = serde_json::json!(["down_proj", "gate_up_proj", "o_proj", "qkv_proj"]);
    assert_eq!(said["target_modules"], targets);
    let of = |table: &str, module: &str| said[table][format!("model.layers.1.{module}")].as_f64();
    assert_eq!(
        [of("rank_pattern", "self_attn.qkv_proj"), of("rank_pattern", "mlp.gate_up_proj")],
        [Some(6.0), Some(4.0)]
    );
    assert_eq!([of("alpha_pattern", "self_attn.qkv_proj"), of("rank_pattern", "mlp.down_proj")], [Some(12.0), None]);
    let bytes = std::fs::read(&gguf).unwrap();
    let has = |name: &str| bytes.windows(name.len()).any(|w| w == name.as_bytes());
    assert!(has("blk.1.attn_qkv.weight.lora_a") && has("blk.0.ffn_up.weight.lora_b") && !has("ffn_gate"));
}
