//! What a mixture of experts is, and how files hold its weights.

use std::collections::BTreeMap;

use candle_core::Tensor;
use serde_json::{Map, Value};

use super::family::count;
use crate::{Error, Result};

/// A mixture of experts in the place of an MLP, or beside it: of every token, the experts that its router finds most likely (Shazeer et al. 2017,
/// arXiv:1701.06538).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mixture {
    /// E, how many experts there are.
    pub(crate) experts: usize,
    /// K, how many of them a token gets.
    pub(crate) chosen: usize,
    /// Inner size of an expert.
    pub(crate) inner: usize,
    /// Whether the weights of a token's experts are divided by their sum.
    pub(crate) normalised: bool,
    pub(crate) names: &'static MixtureNames,
}

/// The names of its parameters within a block.
#[derive(Debug)]
pub(crate) struct MixtureNames {
    /// `[E, H]`.
    pub(crate) router: &'static str,
    /// Gates, then ups: `[E, 2·inner, H]`.
    pub(crate) gate_up: &'static str,
    /// `[E, H, inner]`.
    pub(crate) down: &'static str,
    /// The module under which files hold the matrices of every expert by number, where they do not hold them together.
    pub(crate) numbered: Option<&'static str>,
    /// What there is more where the experts stand beside an MLP and not in its place.
    pub(crate) beside: Option<BesideNames>,
}

/// The names of parameters of experts beside an MLP, within a block.
#[derive(Debug)]
pub(crate) struct BesideNames {
    /// `[H]`, the weight of the norm of what the router reads, times √H.
    pub(crate) router_norm: &'static str,
    /// `[E]`, a factor of every expert.
    pub(crate) factors: &'static str,
    /// The norms after the MLP, before the experts and after them.
    pub(crate) norms: [&'static str; 3],
}

/// Those of Qwen3 and OLMoE.
pub(super) const NUMBERED: MixtureNames = MixtureNames {
    router: "mlp.gate.weight",
    gate_up: "mlp.experts.gate_up_proj",
    down: "mlp.experts.down_proj",
    numbered: Some("mlp.experts"),
    beside: None,
};

/// Those of Granite.
pub(super) const TOGETHER: MixtureNames = MixtureNames {
    router: "block_sparse_moe.router.layer.weight",
    gate_up: "block_sparse_moe.input_linear.weight",
    down: "block_sparse_moe.output_linear.weight",
    numbered: None,
    beside: None,
};

/// Those of Gemma 4.
pub(super) const BESIDE: MixtureNames = MixtureNames {
    router: "router.proj.weight",
    gate_up: "experts.gate_up_proj",
    down: "experts.down_proj",
    numbered: None,
    beside: Some(BesideNames {
        router_norm: "router.scale",
        factors: "router.per_expert_scale",
        norms: [
            "post_feedforward_layernorm_1",
            "pre_feedforward_layernorm_2",
            "post_feedforward_layernorm_2",
        ],
    }),
};

impl Mixture {
    /// Of `config.json`, which may call the number of experts by two names; `experts` and `chosen` are what their absence means.
    pub(super) fn from_json(
        json: &Map<String, Value>,
        (experts, chosen): (usize, usize),
        (inner, normalised): (usize, bool),
        names: &'static MixtureNames,
    ) -> Result<Self> {
        let experts = count(
            json,
            "num_experts",
            count(json, "num_local_experts", experts)?,
        )?;
        let chosen = count(json, "num_experts_per_tok", chosen)?;
        const MOST: usize = 1 << 14;
        if chosen == 0 || chosen > experts || experts > MOST || inner == 0 {
            return Err(Error::config(format!(
                "num_experts = {experts} and num_experts_per_tok = {chosen} of inner size {inner}: expected 1 to {MOST} experts, of which a token \
                 gets at least one"
            )));
        }
        Ok(Self {
            experts,
            chosen,
            inner,
            normalised,
            names,
        })
    }

    /// The keys of `config.json` that say so; of those that families spell in two ways, the `spelled`.
    pub(super) fn spelled_out(&self, spelled: &[&str]) -> Map<String, Value> {
        let mut keys = Map::from_iter([
            ("num_experts".to_owned(), self.experts.into()),
            ("num_local_experts".to_owned(), self.experts.into()),
            ("norm_topk_prob".to_owned(), self.normalised.into()),
        ]);
        keys.retain(|key, _| spelled.contains(&&**key));
        keys.insert("num_experts_per_tok".to_owned(), self.chosen.into());
        keys
    }

    /// Puts the matrices of single experts together, for every block of `blocks`, a name that ends with its dot.
    pub(super) fn together(
        &self,
        blocks: &[String],
        tensors: &mut BTreeMap<String, Tensor>,
    ) -> Result<()> {
        let Some(module) = self.names.numbered else {
            return Ok(());
        };
        for block in blocks {
            let (gate_up, down) = (self.names.gate_up, self.names.down);
            if tensors.contains_key(&format!("{block}{gate_up}")) {
                continue; // as `transformers` 5 holds them in memory
            }
            let mut take = |expert: usize, name: &str| {
                let name = format!("{block}{module}.{expert}.{name}.weight");
                let found = tensors.remove(&name);
                found.ok_or_else(|| Error::Invalid(format!("tensor {name} is missing")))
            };
            let (mut into, mut out) = (Vec::new(), Vec::new());
            for expert in 0..self.experts {
                let both = [take(expert, "gate_proj")?, take(expert, "up_proj")?];
                into.push(Tensor::cat(&both, 0)?);
                out.push(take(expert, "down_proj")?);
            }
            tensors.insert(format!("{block}{gate_up}"), Tensor::stack(&into, 0)?);
            tensors.insert(format!("{block}{down}"), Tensor::stack(&out, 0)?);
        }
        Ok(())
    }

    /// The inverse of [`together`](Self::together): what is written.
    pub(super) fn apart(
        &self,
        blocks: &[String],
        tensors: &mut BTreeMap<String, Tensor>,
    ) -> Result<()> {
        let Some(module) = self.names.numbered else {
            return Ok(());
        };
        for block in blocks {
            let mut take = |name: &str| tensors.remove(&format!("{block}{name}"));
            let both = take(self.names.gate_up).zip(take(self.names.down));
            let Some((into, out)) = both else {
                continue;
            };
            for expert in 0..self.experts {
                let into = into.get(expert)?;
                for (name, tensor) in [
                    ("gate_proj", into.narrow(0, 0, self.inner)?),
                    ("up_proj", into.narrow(0, self.inner, self.inner)?),
                    ("down_proj", out.get(expert)?),
                ] {
                    let name = format!("{block}{module}.{expert}.{name}.weight");
                    tensors.insert(name, tensor);
                }
            }
        }
        Ok(())
    }
}
