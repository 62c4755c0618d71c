//! Recomputed activations give the very same numbers, with both backends. The switch between the backends belongs to the whole process, so this
//! test has one of its own.
#![allow(clippy::unwrap_used)] // clippy knows tests by #[test], and these have functions of their own

#[allow(dead_code)] // shared with the other tests, of which each uses its part
#[path = "it/models.rs"]
mod models;

use candle_core::{DType, Device, Tensor};
use rlhf_base::rng;
use rlhf_lm::{CausalLm, Gradients, ModelConfig, Packed, Packer, Params, ScalarModel};
use rlhf_ops::Recording;

use models::{configs, tokens, weights};

/// Two prompts with responses that share them, a sequence that stands alone, one of a single token.
fn batch() -> Packed {
    let rng = &mut rng::stream(0, "recompute", 0);
    let mut packer = Packer::new();
    for (prompt, responses) in [(5, vec![3, 1, 6]), (2, vec![4])] {
        let prefix = packer.prefix(&tokens(rng, prompt));
        for length in responses {
            packer.continuation(prefix, &tokens(rng, length));
        }
    }
    packer.sequence(&tokens(rng, 7));
    packer.sequence(&tokens(rng, 1));
    packer.finish(&Device::Cpu).unwrap()
}

/// The elements' bits, widened to f32 from half precision.
fn bits(t: &Tensor) -> Vec<u32> {
    let t = t.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
    let values: Vec<f32> = t.to_vec1().unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

/// The loss and the gradient of every parameter.
type Numbers = (Vec<u32>, Vec<(String, Vec<u32>)>);

fn numbers(params: &Params, loss: impl Fn() -> Tensor) -> Numbers {
    let mut gradients = Gradients::new();
    // Twice, so that sums over micro-batches are compared too.
    let losses = [(); 2].map(|()| {
        let _recording = Recording::start();
        let loss = loss();
        gradients.accumulate(params, &loss).unwrap();
        bits(&loss)
    });
    gradients.check_all(params).unwrap();
    let gradients = gradients.iter().map(|(name, g)| (name.to_owned(), bits(g)));
    (losses.concat(), gradients.collect())
}

fn language_model(config: &ModelConfig, dtype: DType, recompute: bool) -> Numbers {
    let params = models::params(config, 3, dtype);
    let model = CausalLm::new(config, &params).unwrap();
    let model = model.gradient_checkpointing(recompute);
    let batch = batch();
    numbers(&params, || {
        let found = model
            .logprobs(&model.hidden(&batch).unwrap(), &batch.ids, 0.7)
            .unwrap();
        (found.logprobs.sum_all().unwrap() + found.entropy.sum_all().unwrap()).unwrap()
    })
}

fn critic(config: &ModelConfig, dtype: DType, recompute: bool) -> Numbers {
    let weights = weights(&ScalarModel::schema(config).unwrap(), 4);
    let params = Params::load(&weights, &Device::Cpu, dtype).unwrap();
    let model = ScalarModel::new(config, &params).unwrap();
    let model = model.gradient_checkpointing(recompute);
    numbers(&params, || {
        let scores = model.scores(&model.hidden(&batch()).unwrap()).unwrap();
        scores.sqr().unwrap().sum_all().unwrap()
    })
}

/// The oracle is the pass that keeps its activations.
#[test]
fn loss_and_every_gradient_are_the_same_bits_in_every_family_number_format_and_backend() {
    for reference in [false, true] {
        rlhf_ops::set_reference_only(reference);
        for (name, config) in configs() {
            for dtype in [DType::F32, DType::BF16, DType::F16] {
                let what = format!("{name}, {dtype:?}, reference {reference}");
                for model in [language_model, critic] {
                    let (kept, again) = (model(&config, dtype, false), model(&config, dtype, true));
                    assert_eq!(kept.0, again.0, "{what}: loss");
                    assert_eq!(kept.1.len(), again.1.len(), "{what}");
                    for ((name, kept), (_, again)) in kept.1.iter().zip(&again.1) {
                        assert_eq!(kept, again, "{what}: gradient of {name}");
                    }
                }
            }
        }
    }
    rlhf_ops::set_reference_only(false);
}
