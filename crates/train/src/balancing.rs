//! Load balancing of a mixture of experts beside another loss.

use anyhow::{Result, bail};
use candle_core::{DType, Device, Tensor};
use rlhf_lm::ModelConfig;
use serde_json::{Map, Value, json};

/// The weight of the load-balancing loss: `wanted`, which is `router_aux_loss_coef` of `stage`, or what `model` says of itself; 0 of a model without
/// experts, to which nothing else can apply.
pub fn router_aux_loss_coef(stage: &str, model: &ModelConfig, wanted: Option<f64>) -> Result<f64> {
    match (model.router_aux_loss_coef(), wanted) {
        (Some(of_model), wanted) => Ok(wanted.unwrap_or(of_model)),
        (None, None) => Ok(0.0),
        (None, Some(_)) => bail!(
            "{stage}.router_aux_loss_coef is for mixtures of experts, and this model ({}) has no experts: leave it out",
            model.model_type()
        ),
    }
}

/// The load-balancing loss of one step, over its micro-batches, each by its share of the tokens: how evenly tokens are spread is asked of every
/// micro-batch.
pub struct Balancing {
    coefficient: f64,
    tokens: usize,
    sum: Option<Tensor>,
}

impl Balancing {
    /// Of a step of `tokens` tokens.
    pub fn new(coefficient: f64, tokens: usize) -> Self {
        Self {
            coefficient,
            tokens,
            sum: None,
        }
    }

    /// What is minimised of a micro-batch of `tokens` tokens: `loss + coefficient · tokens / all tokens · balance`, where the model has experts.
    pub fn minimised(
        &mut self,
        loss: Tensor,
        balance: Option<Tensor>,
        tokens: usize,
    ) -> Result<Tensor> {
        let Some(balance) = balance else {
            return Ok(loss);
        };
        let part = (balance * (tokens as f64 / self.tokens as f64))?;
        self.sum = Some(match &self.sum {
            Some(sum) => (sum + part.detach())?,
            None => part.detach(),
        });
        match self.coefficient > 0.0 {
            true => Ok((loss + (part * self.coefficient)?)?),
            false => Ok(loss),
        }
    }

    /// The sum over the micro-batches of this rank, and 1 if there was one, to be added up over all ranks: a rank without rows has none, and yet sends
    /// as many numbers as the others.
    pub fn numbers(&self, device: &Device) -> Result<[Tensor; 2]> {
        let zero = Tensor::zeros((), DType::F32, device)?;
        Ok(match &self.sum {
            Some(sum) => [sum.to_dtype(DType::F32)?, zero.ones_like()?],
            None => [zero.clone(), zero],
        })
    }

    /// Puts what [`numbers`](Self::numbers) of all ranks came to into the metrics.
    pub fn log([sum, ranks]: [f32; 2], line: &mut Map<String, Value>) {
        if ranks > 0.0 {
            line.insert("load_balancing".into(), json!(f64::from(sum)));
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;

    /// By hand: of 40 tokens 30 with a balance of 2 and 10 with one of 6, at half weight: 1 + ½·¾·2 and 1 + ½·¼·6, and 3 on average.
    #[test]
    fn every_micro_batch_counts_by_its_tokens() {
        let number = |x: f32| Tensor::new(x, &Device::Cpu).unwrap();
        let balance = Var::from_tensor(&number(2.0)).unwrap();
        let mut balancing = Balancing::new(0.5, 40);
        let first = balancing.minimised(number(1.0), Some(balance.as_tensor().clone()), 30);
        let first = first.unwrap();
        assert_eq!(first.to_scalar::<f32>().unwrap(), 1.75);
        let gradient = first.backward().unwrap();
        let gradient = gradient.get(&balance).unwrap();
        assert_eq!(gradient.to_scalar::<f32>().unwrap(), 0.375);
        let second = balancing.minimised(number(1.0), Some(number(6.0)), 10);
        assert_eq!(second.unwrap().to_scalar::<f32>().unwrap(), 1.75);
        let numbers = balancing.numbers(&Device::Cpu).unwrap();
        let numbers = numbers.map(|number| number.to_scalar::<f32>().unwrap());
        assert_eq!(numbers, [3.0, 1.0]);
        let mut line = Map::new();
        Balancing::log(numbers, &mut line);
        assert_eq!(line["load_balancing"], 3.0);

        let mut without = Balancing::new(0.5, 40);
        let loss = without.minimised(number(1.0), None, 40).unwrap();
        assert_eq!(loss.to_scalar::<f32>().unwrap(), 1.0);
        let mut line = Map::new();
        let numbers = without.numbers(&Device::Cpu).unwrap();
        Balancing::log(numbers.map(|n| n.to_scalar().unwrap()), &mut line);
        assert!(line.is_empty());
    }

    /// The oracle is what `transformers` does with the two keys.
    #[test]
    fn a_model_says_how_much_it_weighs_unless_a_setting_does() {
        let config = |name: &str| {
            let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
            let fixtures = fixtures.join("../../tests/fixtures/hf");
            rlhf_lm::read_config(&fixtures.join(name)).unwrap()
        };
        let of = |name, wanted| router_aux_loss_coef("dpo", &config(name), wanted);
        assert_eq!(of("granitemoe", None).unwrap(), 0.01); // output_router_logits is on
        assert_eq!(of("granitemoe", Some(0.0)).unwrap(), 0.0);
        assert_eq!(of("qwen3_moe", None).unwrap(), 0.0); // and off
        assert_eq!(of("qwen3_moe", Some(0.3)).unwrap(), 0.3);
        assert_eq!(of("qwen3", None).unwrap(), 0.0);
        let said = of("qwen3", Some(0.3)).unwrap_err().to_string();
        assert!(said.contains("dpo.router_aux_loss_coef"), "{said}");
    }
}
