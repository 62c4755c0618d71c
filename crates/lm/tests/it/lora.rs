//! Adapters: beside the weights of every family, in PEFT's files, and over a base that is held once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use candle_core::{DType, Device, Tensor};
use rlhf_base::rng;
use rlhf_lm::{
    Bases, CausalLm, Gradients, HeadInit, LanguageModel, LoraConfig, ModelConfig, Packer, Params,
    RewardCard, RewardModel, SaveDtype, ScalarModel, ScoreGroup, Weights,
};

use crate::models::{assert_close, assert_within, configs, largest, weights};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

fn expected() -> BTreeMap<String, Tensor> {
    let file = fixtures().join("peft/expected.safetensors");
    let found = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
    found.into_iter().collect()
}

fn logits(config: &ModelConfig, params: &Params, ids: &[u32]) -> Tensor {
    let model = CausalLm::new(config, params).unwrap();
    let mut packer = Packer::new();
    packer.sequence(ids);
    let batch = packer.finish(&Device::Cpu).unwrap();
    model.logits(&model.hidden(&batch).unwrap()).unwrap()
}

fn lora(rank: usize) -> LoraConfig {
    LoraConfig {
        rank,
        ..LoraConfig::default()
    }
}

fn adapted(bases: &Bases, path: &Path, lora: &LoraConfig) -> rlhf_lm::Result<LanguageModel> {
    bases.adapted(path, lora, 3, DType::F32, &Device::Cpu)
}

/// Gives every B random values, as if it had been trained.
fn stir(params: &Params) {
    for (name, var) in params
        .trainable()
        .filter(|(name, _)| name.contains("lora_B"))
    {
        let mut rng = rng::stream(1, name, 0);
        let values = (0..var.elem_count()).map(|_| 0.3 * rng::normal(&mut rng) as f32);
        let values: Vec<f32> = values.collect();
        let value = Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap();
        var.set(&value).unwrap();
    }
    params.refresh().unwrap();
}

fn base() -> PathBuf {
    fixtures().join("score/lm")
}

/// Oracle: scripts/oracle/peft_adapters.py. 1e-5 of the largest logit: sums of a few dozen products, in another order.
#[test]
fn adapters_made_by_peft_give_its_logits_merged_and_laid_over_their_base() {
    let expected = expected();
    let ids = expected["ids"].to_vec1::<u32>().unwrap();
    for name in ["llama", "gpt2"] {
        let dir = fixtures().join("peft").join(name);
        let merged = LanguageModel::load(&dir, Weights::Frozen, DType::F32, &Device::Cpu).unwrap();
        assert!(merged.params.adapter().is_none());
        let found = logits(&merged.config, &merged.params, &ids);
        assert_close(&found, &expected[name], 1e-5, name);
        let rank = if name == "llama" { 3 } else { 4 };
        let laid = adapted(&Bases::default(), &dir, &lora(rank)).unwrap();
        let found = logits(&laid.config, &laid.params, &ids);
        assert_close(&found, &expected[name], 1e-5, name);
    }
    let merged = expected["llama.merged"].clone();
    assert_close(&merged, &expected["llama"], 1e-5, "PEFT's own merging");
    let dir = fixtures().join("peft/reward");
    let reward = RewardModel::load(&dir, DType::F32, &Device::Cpu).unwrap();
    let (prompt, response) = ids.split_at(3);
    let group = ScoreGroup {
        prompt: prompt.to_vec(),
        responses: vec![response.to_vec()],
    };
    let score = reward.raw_scores(&[group]).unwrap()[0][0] as f32;
    let found = Tensor::new(&[score], &Device::Cpu).unwrap();
    assert_close(&found, &expected["reward"], 1e-5, "reward");
}

#[test]
fn what_peft_can_and_we_cannot_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let source = fixtures().join("peft/gpt2");
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        fs_err::copy(source.join(name), dir.path().join(name)).unwrap();
    }
    let path = dir.path().join("adapter_config.json");
    let original = fs_err::read_to_string(&path).unwrap();
    let base = fixtures().join("peft/gpt2-base");
    let original = original.replace("../gpt2-base", base.to_str().unwrap());
    let load = |from: &str, to: &str| {
        assert!(original.contains(from), "{from}");
        fs_err::write(&path, original.replacen(from, to, 1)).unwrap();
        LanguageModel::load(dir.path(), Weights::Frozen, DType::F32, &Device::Cpu)
            .map(|model| model.params.num_parameters())
            .map_err(|error| error.to_string())
    };
    load("null", "null").unwrap();
    let tokens = r#""target_modules": ["c_attn", "mlp.c_proj"]"#;
    let list = original.find("\"target_modules\"").unwrap();
    let list = &original[list..list + original[list..].find(']').unwrap() + 1];
    load(list, tokens).unwrap();
    load(list, r#""target_modules": ".*(c_attn|mlp\\.c_proj)""#).unwrap();
    for (from, to, named) in [
        (
            r#""use_dora": false"#,
            r#""use_dora": true"#,
            "use_dora = true",
        ),
        (
            r#""lora_bias": false"#,
            r#""lora_bias": true"#,
            "lora_bias = true",
        ),
        (r#""bias": "none""#, r#""bias": "all""#, "bias = \"all\""),
        (
            r#""rank_pattern": {}"#,
            r#""rank_pattern": {"c_attn": 2}"#,
            "rank_pattern",
        ),
        (
            r#""layers_to_transform": null"#,
            r#""layers_to_transform": [0]"#,
            "layers_to_transform",
        ),
        (
            r#""init_lora_weights": true"#,
            r#""init_lora_weights": "pissa""#,
            "pissa",
        ),
        (
            r#""modules_to_save": null"#,
            r#""modules_to_save": ["lm_head"]"#,
            "modules_to_save",
        ),
        (
            r#""peft_type": "LORA""#,
            r#""peft_type": "IA3""#,
            "expected LORA",
        ),
        (
            r#""task_type": "CAUSAL_LM""#,
            r#""task_type": "SEQ_2_SEQ_LM""#,
            "SEQ_2_SEQ_LM",
        ),
        (
            r#""task_type": "CAUSAL_LM""#,
            r#""task_type": "SEQ_CLS""#,
            "adapter of a reward model",
        ),
        (r#""r": 4"#, r#""r": 0"#, "expected a rank"),
        (r#""r": 4"#, r#""r": 5"#, "wrong shape"),
        (
            list,
            r#""target_modules": ["c_attn"]"#,
            "unexpected: transformer.h.0.mlp.c_proj",
        ),
        (
            list,
            r#""target_modules": ["q_proj"]"#,
            "there are: c_attn, c_fc, c_proj",
        ),
    ] {
        let said = load(from, to).unwrap_err();
        assert!(said.contains(named), "{to}: {said}");
    }
    let there = base.to_str().unwrap();
    for (to, named) in [
        (
            "/no/such/model",
            "the base model /no/such/model is not there",
        ),
        (
            "runs/nowhere/final",
            "the base model runs/nowhere/final is not there",
        ),
        (
            fixtures().join("score/lm").to_str().unwrap(),
            "does not fit its base model",
        ),
        (
            fixtures().join("peft/llama").to_str().unwrap(),
            "is itself an adapter",
        ),
    ] {
        let said = load(there, to).unwrap_err();
        assert!(said.contains(named), "{to}: {said}");
    }
}

#[test]
fn layers_that_a_model_lacks_are_refused_with_those_it_has() {
    let wrong = LoraConfig {
        targets: vec!["q_proj".into(), "c_attn".into()],
        ..lora(2)
    };
    let said = adapted(&Bases::default(), &base(), &wrong)
        .err()
        .unwrap()
        .to_string();
    assert!(
        said.contains("no linear layer c_attn")
            && said.contains("down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"),
        "{said}"
    );
}

/// The oracle is the same model without an adapter.
#[test]
fn a_fresh_adapter_changes_no_bit_and_its_snapshot_is_the_base() {
    let plain = LanguageModel::load(&base(), Weights::Frozen, DType::F32, &Device::Cpu).unwrap();
    let model = adapted(&Bases::default(), &base(), &lora(4)).unwrap();
    let (config, ids) = (&model.config, [4, 8, 15, 16]);
    let bits = |params: &Params| -> Vec<u32> {
        let values = logits(config, params, &ids).flatten_all().unwrap();
        let values = values.to_vec1::<f32>().unwrap();
        values.into_iter().map(f32::to_bits).collect()
    };
    assert_eq!(bits(&model.params), bits(&plain.params));
    let reference = model.params.snapshot().unwrap();
    assert!(reference.adapter().is_none() && reference.is_frozen());
    stir(&model.params);
    assert_ne!(bits(&model.params), bits(&plain.params));
    // What was copied before it moved stays; what is copied afterwards has the adapter of then.
    assert_eq!(bits(&reference), bits(&plain.params));
    let later = model.params.snapshot().unwrap();
    assert_eq!(bits(&later), bits(&model.params));
    // The frozen weights are there once: in the model, in the reference, and in both snapshots.
    let whole = plain.params.bytes();
    let own = model.params.bytes() - model.params.frozen_bytes();
    assert_eq!(
        Params::bytes_together([&model.params, &reference, &later]),
        whole + 2 * own
    );
}

#[test]
fn a_is_uniform_as_peft_draws_it_and_depends_on_seed_and_name() {
    let model = adapted(&Bases::default(), &base(), &lora(16)).unwrap();
    let again = adapted(&Bases::default(), &base(), &lora(16)).unwrap();
    let name = "model.layers.0.self_attn.q_proj.lora_A.weight";
    let read = |model: &LanguageModel| {
        let a = model.params.get(name).unwrap();
        assert_eq!(a.dims(), [16, 16]);
        a.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let values = read(&model);
    assert_eq!(values, read(&again));
    // U(−1/√16, 1/√16) has variance 1/(3·16); 256 draws of it are within a fifth of that.
    assert!(values.iter().all(|v| v.abs() <= 0.25));
    let variance = values.iter().map(|v| v * v).sum::<f32>() / 256.0;
    assert!((variance * 48.0 - 1.0).abs() < 0.2, "{variance}");
}

fn loss(config: &ModelConfig, params: &Params, recompute: bool) -> Tensor {
    let model = CausalLm::new(config, params).unwrap();
    let model = model.gradient_checkpointing(recompute);
    let mut packer = Packer::new();
    packer.sequence(&[3, 1, 4, 1, 5, 9]);
    let batch = packer.finish(&Device::Cpu).unwrap();
    let hidden = model.hidden(&batch).unwrap();
    model
        .negative_log_likelihood(&hidden, &batch.ids, 0.2)
        .unwrap()
}

#[test]
fn the_guard_waits_for_a_until_b_has_moved_and_no_longer() {
    let model = adapted(&Bases::default(), &base(), &lora(4)).unwrap();
    let (config, params) = (&model.config, &model.params);
    let gradients = |loss: &Tensor| {
        let mut gradients = Gradients::new();
        gradients.accumulate(params, loss).unwrap();
        gradients
    };
    assert!(
        !gradients(&loss(config, params, false))
            .check_all(params)
            .unwrap()
    );
    // By a tensor: candle cuts the graph at a constant factor of zero.
    let zero = loss(config, params, false);
    let zero = (&zero * zero.zeros_like().unwrap()).unwrap();
    let said = gradients(&zero).check_all(params).unwrap_err().to_string();
    assert!(
        said.contains("lora_B.weight (zero)") && !said.contains("lora_A"),
        "{said}"
    );
    stir(params);
    for recompute in [false, true] {
        let _recording = rlhf_ops::Recording::start();
        assert!(
            gradients(&loss(config, params, recompute))
                .check_all(params)
                .unwrap()
        );
    }
    let zero = loss(config, params, false);
    let zero = (&zero * zero.zeros_like().unwrap()).unwrap();
    let said = gradients(&zero).check_all(params).unwrap_err().to_string();
    assert!(said.contains("lora_A.weight (zero)"), "{said}");
}

/// A directory with this model, and the tokenizer of the fixture.
fn saved(config: &ModelConfig, dir: &Path) {
    let tokenizer = rlhf_lm::Tokenizer::from_dir(&base()).unwrap();
    let weights = weights(&CausalLm::schema(config).unwrap(), 5);
    let params = Params::load(&weights, &Device::Cpu, DType::F32).unwrap();
    rlhf_lm::write_lm(
        dir,
        config,
        &params,
        rlhf_lm::SpecialIds::default(),
        DType::F32,
    )
    .unwrap();
    tokenizer.save(dir).unwrap();
}

/// The merged and the unmerged model are each other's oracle, in both layouts, with biases and without. The vocabulary of the fixture's tokenizer is wider
/// than that of these models, so they get its width.
#[test]
fn a_saved_adapter_is_read_as_it_was_and_merging_changes_nothing_beyond_rounding() {
    for (name, config) in configs() {
        let root = tempfile::tempdir().unwrap();
        let mut json = config.to_json(
            rlhf_lm::Head::CausalLm,
            "float32",
            rlhf_lm::SpecialIds::default(),
        );
        json["vocab_size"] = 280.into();
        let config = ModelConfig::from_json(json).unwrap();
        let (base, dir) = (root.path().join("base"), root.path().join("run/final"));
        saved(&config, &base);
        let model = adapted(&Bases::default(), &base, &lora(3)).unwrap();
        stir(&model.params);
        model.save(&dir, SaveDtype::F32).unwrap();
        assert!(rlhf_lm::is_adapter(&dir) && !dir.join("config.json").exists());
        // Moved together they still find each other.
        let moved = root.path().join("elsewhere");
        fs_err::create_dir(&moved).unwrap();
        for part in ["base", "run"] {
            fs_err::rename(root.path().join(part), moved.join(part)).unwrap();
        }
        let dir = moved.join("run/final");
        let ids = [7, 2, 2, 11, 19];
        let want = logits(&config, &model.params, &ids);
        let again = adapted(&Bases::default(), &dir, &lora(3)).unwrap();
        assert_within(&logits(&config, &again.params, &ids), &want, 0.0, name);
        let whole =
            LanguageModel::load(&dir, Weights::Trainable, DType::F32, &Device::Cpu).unwrap();
        assert_close(&logits(&config, &whole.params, &ids), &want, 1e-5, name);
        let merging = LoraConfig {
            merge: true,
            ..lora(3)
        };
        let merging = adapted(&Bases::default(), &dir, &merging).unwrap();
        let out = moved.join("merged");
        merging.save(&out, SaveDtype::F32).unwrap();
        assert!(!rlhf_lm::is_adapter(&out));
        let read = LanguageModel::load(&out, Weights::Frozen, DType::F32, &Device::Cpu).unwrap();
        assert_within(
            &logits(&config, &read.params, &ids),
            &logits(&config, &whole.params, &ids),
            0.0,
            name,
        );
        let said = adapted(&Bases::default(), &dir, &lora(4))
            .err()
            .unwrap()
            .to_string();
        assert!(said.contains("rank 3 (lora.rank is 4)"), "{said}");
    }
}

#[test]
fn a_reward_model_over_a_base_in_use_shares_it_and_scores_the_same() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("reward/final");
    let bases = Bases::default();
    let policy = adapted(&bases, &base(), &lora(2)).unwrap();
    let params =
        ScalarModel::params_over(&policy.config, &policy.params, HeadInit::Normal { seed: 1 })
            .unwrap();
    stir(&params);
    let names: Vec<_> = params.trainable().map(|(name, _)| name).collect();
    assert!(
        names.contains(&"score.weight") && names.len() == 1 + 2 * 14,
        "{names:?}"
    );
    RewardModel::save(
        &dir,
        &policy.config,
        &params,
        &policy.tokenizer,
        &RewardCard::default(),
    )
    .unwrap();
    let group = || ScoreGroup {
        prompt: vec![5, 6, 7],
        responses: vec![vec![8, 0], vec![9, 10, 0]],
    };
    let scores = |model: &RewardModel| {
        let scores = model.raw_scores(&[group()]).unwrap().concat();
        Tensor::new(scores, &Device::Cpu).unwrap()
    };
    let merged = RewardModel::load(&dir, DType::F32, &Device::Cpu).unwrap();
    let shared = RewardModel::load_over(&dir, DType::F32, &Device::Cpu, &bases).unwrap();
    assert!(largest(&scores(&shared)) > 0.01);
    assert_close(&scores(&merged), &scores(&shared), 1e-5, "scores");
    let reference = policy.params.snapshot().unwrap();
    let critic = shared.adapted(&lora(2), 0).unwrap();
    let apart = |params: &Params| params.bytes() - params.frozen_bytes();
    let reward = shared.params().bytes() - reference.bytes();
    // One base; the adapters of policy and critic; adapter and head of the reward model.
    assert_eq!(
        Params::bytes_together([&policy.params, &reference, shared.params(), &critic]),
        reference.bytes() + apart(&policy.params) + apart(&critic) + reward
    );
    let said = LanguageModel::load(&dir, Weights::Frozen, DType::F32, &Device::Cpu);
    assert!(
        said.err()
            .unwrap()
            .to_string()
            .contains("adapter of a reward model")
    );
}

/// The file with its layers `ffn_down` in blocks of Q8_0, at `to`.
fn quantised(file: &Path, to: PathBuf) -> PathBuf {
    let mut reader = fs_err::File::open(file).unwrap();
    let content = gguf_file::Content::read(&mut reader).unwrap();
    let read = |name: &String| {
        let mut reader = fs_err::File::open(file).unwrap();
        let tensor = content.tensor(&mut reader, name, &Device::Cpu).unwrap();
        let tensor = match name.ends_with("ffn_down.weight") {
            true => {
                let numbers = tensor.dequantize(&Device::Cpu).unwrap();
                QTensor::quantize(&numbers, GgmlDType::Q8_0).unwrap()
            }
            false => tensor,
        };
        (name.clone(), tensor)
    };
    let tensors: Vec<_> = content.tensor_infos.keys().map(read).collect();
    let tensors: Vec<_> = tensors.iter().map(|(name, t)| (name.as_str(), t)).collect();
    let metadata: Vec<_> = content
        .metadata
        .iter()
        .map(|(k, v)| (k.as_str(), v))
        .collect();
    let mut writer = fs_err::File::create(&to).unwrap();
    gguf_file::write(&mut writer, &metadata, &tensors).unwrap();
    to
}

/// The oracle is the same adapter over the dequantised model in a directory: value and every gradient, of five files, with gradient checkpointing and
/// without. To the last bit, but for GPT-2, whose weights lie the other way round in the directory than in blocks, so that sums have another order.
#[test]
fn an_adapter_over_a_quantised_base_computes_what_it_computes_over_the_dequantised_one() {
    for name in ["gpt2", "llama", "llama3", "qwen2", "qwen3"] {
        let root = tempfile::tempdir().unwrap();
        let mut file = fixtures().join(format!("gguf/{name}.gguf"));
        if name == "gpt2" {
            // Its file has no quantised layer, and ours hold its weights the other way round.
            file = quantised(&file, root.path().join("gpt2.gguf"));
        }
        let whole = LanguageModel::load(&file, Weights::Frozen, DType::F32, &Device::Cpu).unwrap();
        let dir = root.path().join("whole");
        whole.save(&dir, SaveDtype::F32).unwrap();
        for dtype in [DType::F32, DType::BF16] {
            let bases = Bases::default();
            let [over_blocks, over_numbers] = [&file, &dir].map(|path| {
                let model = bases
                    .adapted(path, &lora(2), 3, dtype, &Device::Cpu)
                    .unwrap();
                stir(&model.params);
                model
            });
            assert!(
                over_blocks.params.bytes() < over_numbers.params.bytes(),
                "{name}"
            );
            let scalars = [&over_blocks, &over_numbers].map(|m| m.params.num_parameters());
            assert_eq!(scalars[0], scalars[1], "{name}");
            for recompute in [false, true] {
                let [ours, theirs] = [&over_blocks, &over_numbers].map(|model| {
                    let _recording = rlhf_ops::Recording::start();
                    let loss = loss(&model.config, &model.params, recompute);
                    let mut gradients = Gradients::new();
                    gradients.accumulate(&model.params, &loss).unwrap();
                    let values = |t: &Tensor| {
                        let t = t.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
                        t.to_vec1::<f32>().unwrap()
                    };
                    let all = gradients.iter();
                    let mut all: BTreeMap<_, _> =
                        all.map(|(name, g)| (name.to_owned(), values(g))).collect();
                    assert!(!all.is_empty());
                    all.insert("loss".to_owned(), values(&loss));
                    all
                });
                let tolerance = match (name, dtype) {
                    ("gpt2", DType::F32) => 1e-5,
                    // There candle computes all, and adds in another order.
                    (_, DType::BF16) => 2e-2,
                    _ if rlhf_ops::reference_only() => 1e-5,
                    _ => 0.0,
                };
                assert!(ours.keys().eq(theirs.keys()), "{name}");
                for (tensor, theirs) in &theirs {
                    let largest = theirs.iter().fold(0f32, |most, x| most.max(x.abs()));
                    for (ours, theirs) in ours[tensor].iter().zip(theirs) {
                        let what = format!("{name} {dtype:?} {recompute}: {tensor}");
                        let error = (ours - theirs).abs();
                        assert!(error <= tolerance * largest, "{what}: {ours}, {theirs}");
                    }
                }
            }
        }
        // The file is what the saved adapter names; merged, it is whole and no longer quantised.
        let model = adapted(&Bases::default(), &file, &lora(2)).unwrap();
        stir(&model.params);
        let run = root.path().join("run/final");
        model.save(&run, SaveDtype::F32).unwrap();
        let config = fs_err::read_to_string(run.join("adapter_config.json")).unwrap();
        assert!(config.contains(&format!("{name}.gguf")), "{config}");
        let ids = [1, 2, 3, 4];
        let merged = LanguageModel::load(&run, Weights::Frozen, DType::F32, &Device::Cpu).unwrap();
        let want = logits(&model.config, &model.params, &ids);
        assert_close(
            &logits(&merged.config, &merged.params, &ids),
            &want,
            1e-5,
            name,
        );
    }
}
