//! What training holds of a model in memory: counted of one that is loaded, or from its size ahead of that.

use candle_core::{DType, Device};
use rlhf_lm::{ModelConfig, Params, Size};

use crate::plan::{GRADIENTS, MOMENTS, micro_batch_tokens};
use crate::{MemoryItem, Sampled};

/// What training holds of one model, in counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Numbers that are trained.
    trained: u64,
    /// Bytes of them, with the copies that are computed with in half precision.
    trained_bytes: u64,
    frozen_bytes: u64,
    is_adapter: bool,
}

impl Holding {
    /// Of a model that is loaded.
    pub fn of(params: &Params) -> Self {
        Self {
            trained: params.num_trainable() as u64,
            trained_bytes: (params.bytes() - params.frozen_bytes()) as u64,
            frozen_bytes: params.frozen_bytes() as u64,
            is_adapter: params.adapter().is_some(),
        }
    }

    /// Of a model of this size whose weights are trained in `dtype`, or with a `rank` an adapter of this rank beside them.
    pub fn ahead(size: &Size, rank: Option<u64>, dtype: DType) -> Self {
        let trained = rank.map_or(size.parameters, |rank| size.adapter(rank));
        let (master, each) = (4, dtype.size_in_bytes() as u64);
        let copy = if dtype == DType::F32 { 0 } else { each };
        Self {
            trained,
            trained_bytes: (master + copy) * trained,
            frozen_bytes: rank.map_or(0, |_| size.frozen_bytes(each)),
            is_adapter: rank.is_some(),
        }
    }

    /// All of it, for `what`: weights, gradients and AdamW's two moments.
    pub fn trained(self, what: &str) -> Vec<MemoryItem> {
        let learnt = self.learnt(what);
        if self.is_adapter {
            let base = MemoryItem::new("frozen base", self.frozen_bytes);
            return std::iter::once(base).chain(learnt).collect();
        }
        let [weights, gradients, moments] = learnt;
        let weights = MemoryItem::new(weights.what, self.trained_bytes + self.frozen_bytes);
        vec![weights, gradients, moments]
    }

    /// What is trained alone: where the frozen weights are another model's too, and counted there.
    pub fn learnt(self, what: &str) -> [MemoryItem; 3] {
        let kind = if self.is_adapter {
            "adapter"
        } else {
            "weights"
        };
        [
            MemoryItem::new(format!("{what} {kind}"), self.trained_bytes),
            MemoryItem::new(format!("{what} {GRADIENTS}"), 4 * self.trained),
            MemoryItem::new(format!("{what} {MOMENTS}"), 8 * self.trained),
        ]
    }

    /// A model like it that is not trained, beside it: over the same frozen weights where it is an adapter.
    fn beside(self, what: &str, dtype: DType) -> MemoryItem {
        MemoryItem::new(what, self.trained * dtype.size_in_bytes() as u64)
    }
}

/// A training that is planned before any weight is read.
#[derive(Clone, Copy, Debug)]
pub struct Ahead<'a> {
    /// The model's shape.
    pub config: &'a ModelConfig,
    /// What its weights come to.
    pub size: &'a Size,
    /// Of the adapter, if one is trained.
    pub rank: Option<u64>,
    /// What is computed in.
    pub dtype: DType,
    /// Whether activations are computed again.
    pub recompute: bool,
}

impl Ahead<'_> {
    /// Memory of a stage that trains one model on rows, with as many tokens at a time as are chosen for it on the CPU.
    pub fn on_rows(&self) -> Vec<MemoryItem> {
        let mut items = Holding::ahead(self.size, self.rank, self.dtype).trained("model");
        items.push(self.activations());
        items
    }

    /// Memory of PPO: policy and critic are trained, in turns; the reference and a reward model of the same size stand beside them. What sampling keeps
    /// is gone before activations are kept, so that the larger of the two counts.
    pub fn ppo(&self, sampled: Sampled) -> Vec<MemoryItem> {
        let one = Holding::ahead(self.size, self.rank, self.dtype);
        let mut items = one.trained("policy");
        items.push(one.beside("reference", self.dtype));
        items.push(one.beside("reward model", self.dtype));
        items.extend(one.learnt("critic"));
        let mut items = MemoryItem::in_turns(items);
        let cache = MemoryItem::cache(sampled, self.config, self.dtype);
        items.push(cache.or_larger(self.activations()));
        items
    }

    fn activations(&self) -> MemoryItem {
        let tokens = micro_batch_tokens(self.config, self.recompute, &Device::Cpu) as u64;
        MemoryItem::activations(tokens, self.config, self.recompute)
    }
}

#[cfg(test)]
mod tests {
    use rlhf_lm::CausalLm;
    use serde_json::json;

    use super::*;

    fn config() -> ModelConfig {
        ModelConfig::from_json(json!({
            "model_type": "llama", "vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        }))
        .unwrap()
    }

    /// The oracle is the model itself, loaded.
    #[test]
    fn what_is_counted_ahead_is_what_is_held_once_it_is_loaded() {
        let config = config();
        let size = Size::of(&config).unwrap();
        let weights = CausalLm::init(&config, 0, &Device::Cpu).unwrap();
        for dtype in [DType::F32, DType::BF16] {
            let params = Params::load(&weights, &Device::Cpu, dtype).unwrap();
            assert_eq!(Holding::ahead(&size, None, dtype), Holding::of(&params));
        }
    }

    /// By hand: 16 bytes a trained number, 4 less for one of two models that take turns, 4 a frozen one, and the activations of as many tokens as are chosen.
    #[test]
    fn ppo_holds_two_trained_models_and_two_beside_them() {
        let config = config();
        let size = Size::of(&config).unwrap();
        let of = |rank| Ahead {
            config: &config,
            size: &size,
            rank,
            dtype: DType::F32,
            recompute: false,
        };
        let total = |items: Vec<MemoryItem>| items.iter().map(|item| item.bytes).sum::<u64>();
        let activations = of(None).activations().bytes;
        let sampled = Sampled {
            rows: 4,
            per_prompt: 2,
            prompt: 6,
            response: 5,
        };
        let (n, a) = (size.parameters, size.adapter(4));
        assert_eq!(total(of(None).on_rows()) - activations, 16 * n);
        assert_eq!(total(of(None).ppo(sampled)) - activations, 36 * n);
        assert_eq!(total(of(Some(4)).on_rows()) - activations, 4 * n + 16 * a);
        assert_eq!(
            total(of(Some(4)).ppo(sampled)) - activations,
            4 * n + 36 * a
        );
        // Two prompts of 6 tokens and a million of responses, with room for 2²⁰: of a token a key and a value of 8 numbers in each of two layers.
        let long = Sampled {
            response: 1_000_000 / 4,
            ..sampled
        };
        assert_eq!(
            total(of(None).ppo(long)),
            36 * n + 4 * 2 * 2 * 8 * (1 << 20)
        );
    }
}
