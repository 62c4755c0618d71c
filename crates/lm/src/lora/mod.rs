//! Low-rank adapters (LoRA): `y = Wx + s·B(Ax)` with W frozen (Hu et al. 2022, arXiv:2106.09685).
//!
//! An adapter is two matrices beside the weight of a linear layer, in the same [`Params`](crate::Params): `MODULE.lora_A.weight` `[r, in]` and
//! `MODULE.lora_B.weight` `[out, r]`. B starts at zero, so a fresh adapter changes nothing.
//!
//! - `layer`: what a linear layer adds to its output;
//! - `peft`: the files of an adapter, in PEFT's layout;
//! - `base`: how those files name the model that the adapter belongs to.

pub(crate) mod base;
pub(crate) mod layer;
pub(crate) mod peft;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use rlhf_ops::WeightLayout;

use crate::bases::Base;
use crate::schema::first_few;
use crate::{CausalLm, Error, ModelConfig, Result};

/// The end of the name of A.
pub(crate) const A: &str = ".lora_A.weight";
/// The end of the name of B.
pub(crate) const B: &str = ".lora_B.weight";

/// What an adapter is asked to be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoraConfig {
    /// r, the rank of the product BA.
    pub rank: usize,
    /// α, which scales the product: s = α/r. Absent takes 2·r.
    pub alpha: Option<f64>,
    /// Which linear layers get an adapter, by the ends of their names (`q_proj`, `attn.c_proj`); empty means all in the blocks.
    pub targets: Vec<String>,
    /// s = α/√r instead, which keeps the size of gradients the same for every rank (Kalajdzievski 2023, arXiv:2312.03732).
    pub rank_stabilised: bool,
    /// Save the merged model instead of the adapter.
    pub merge: bool,
}

/// The adapter of a model: its shape, the layers it stands beside, and the model that it belongs to.
#[derive(Clone, Debug)]
pub struct Adapter {
    pub(crate) rank: usize,
    pub(crate) alpha: f64,
    pub(crate) rank_stabilised: bool,
    /// As the user or the file spelled them.
    pub(crate) targets: Vec<String>,
    /// The layers it stands beside.
    pub(crate) modules: Arc<BTreeMap<String, WeightLayout>>,
    /// The model it belongs to, where that was read from disk.
    pub(crate) base: Option<Arc<Base>>,
    pub(crate) merge: bool,
}

impl Adapter {
    /// The adapter that `lora` asks for, of a model that `config` describes.
    pub(crate) fn new(
        lora: &LoraConfig,
        config: &ModelConfig,
        base: Option<Arc<Base>>,
    ) -> Result<Self> {
        if lora.rank == 0 {
            return Err(Error::Invalid(
                "an adapter of rank 0 changes nothing: give it a rank of 1 or more".into(),
            ));
        }
        if config.is_part() {
            return Err(Error::Invalid(
                "the text part of a model that also sees has other names than that model, so that no other program could put the adapter on it: write the text \
                 part as a model of its own with `rlhf export MODEL --hf`, and put the adapter on that"
                    .into(),
            ));
        }
        let (targets, modules) = targeted(&lora.targets, config)?;
        Ok(Self {
            rank: lora.rank,
            alpha: lora.alpha.unwrap_or(2.0 * lora.rank as f64),
            rank_stabilised: lora.rank_stabilised,
            targets,
            modules: Arc::new(modules),
            base,
            merge: lora.merge,
        })
    }

    /// s: α/r, or rank-stabilised α/√r.
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha
            / if self.rank_stabilised {
                rank.sqrt()
            } else {
                rank
            }
    }

    /// Whether the merged model is saved instead of the adapter.
    pub fn is_merged_when_saved(&self) -> bool {
        self.merge
    }

    /// r.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// In words, for plans and messages.
    pub fn describe(&self) -> String {
        let stabilised = if self.rank_stabilised {
            ", rank-stabilised"
        } else {
            ""
        };
        format!(
            "adapter of rank {}, alpha {}{stabilised}, on {}",
            self.rank,
            self.alpha,
            self.targets.join(", ")
        )
    }

    /// The names of its parameters.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        let ends = |module: &String| [A, B].map(|end| format!("{module}{end}"));
        self.modules.keys().flat_map(ends)
    }

    /// Whether `name` is one of its parameters.
    pub(crate) fn owns(&self, name: &str) -> bool {
        let module = name.strip_suffix(A).or_else(|| name.strip_suffix(B));
        module.is_some_and(|module| self.modules.contains_key(module))
    }

    /// Fresh values: A is U(−1/√in, 1/√in), Kaiming's uniform distribution with a = √5 as PEFT draws it, B is zero.
    pub(crate) fn init(
        &self,
        config: &ModelConfig,
        seed: u64,
        device: &Device,
    ) -> Result<BTreeMap<String, Tensor>> {
        CausalLm::adapter_schema(config, self)?.init(seed, device)
    }

    /// Errors where `lora` asks for another adapter than this one, which was found in `path`.
    pub(crate) fn refuse_other(&self, lora: &LoraConfig, path: &std::path::Path) -> Result<()> {
        let mut differences = Vec::new();
        if lora.rank != self.rank {
            differences.push(format!("rank {} (lora.rank is {})", self.rank, lora.rank));
        }
        if let Some(alpha) = lora.alpha.filter(|alpha| *alpha != self.alpha) {
            differences.push(format!("alpha {} (lora.alpha is {alpha})", self.alpha));
        }
        if lora.rank_stabilised && !self.rank_stabilised {
            differences
                .push("a scale that is not rank-stabilised (lora.rank_stabilised is true)".into());
        }
        let sorted = |names: &[String]| names.iter().cloned().collect::<BTreeSet<_>>();
        if !lora.targets.is_empty() && sorted(&lora.targets) != sorted(&self.targets) {
            differences.push(format!(
                "the layers {} (lora.targets is {})",
                self.targets.join(", "),
                lora.targets.join(", ")
            ));
        }
        if differences.is_empty() {
            return Ok(());
        }
        Err(Error::file(
            path,
            format!(
                "holds an adapter, which is trained further as it is, with {}: ask for the same, or merge it first with `rlhf merge` and \
                 put a new adapter on the merged model",
                differences.join(" and ")
            ),
        ))
    }
}

/// The linear layers of the blocks of `config` that `targets` name, and the targets spelled out: all where there are none.
pub(crate) fn targeted(
    targets: &[String],
    config: &ModelConfig,
) -> Result<(Vec<String>, BTreeMap<String, WeightLayout>)> {
    let all = CausalLm::linear_modules(config)?;
    let last = |module: &String| module.rsplit('.').next().unwrap_or(module).to_owned();
    let known: BTreeSet<String> = all.keys().map(last).collect();
    let mut targets = targets.to_vec();
    if targets.is_empty() {
        targets = known.iter().cloned().collect();
    }
    let unknown = |target: &&String| !all.keys().any(|module| names(target, module));
    let unknown: Vec<String> = targets.iter().filter(unknown).cloned().collect();
    if !unknown.is_empty() {
        let experts = match config.family().mixture() {
            Some(_) => " (routers and experts, which hold all matrices in one, have none)",
            None => "",
        };
        return Err(Error::Invalid(format!(
            "there is no linear layer {} in the blocks of this {} model to put an adapter on; there are: {}{experts}",
            first_few(&unknown),
            config.model_type(),
            known.into_iter().collect::<Vec<_>>().join(", ")
        )));
    }
    let chosen = all
        .into_iter()
        .filter(|(module, _)| targets.iter().any(|target| names(target, module)))
        .collect();
    Ok((targets, chosen))
}

/// Whether `target` names `module`: all of its name, or the end of it from a dot on, as PEFT reads `target_modules`.
fn names(target: &str, module: &str) -> bool {
    let before = module.strip_suffix(target);
    before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// `W + s·BA` in f32, in the layout of W: what a layer with its adapter computes, as one weight.
fn merged_weight(
    weight: &Tensor,
    layout: WeightLayout,
    (a, b): (&Tensor, &Tensor),
    scale: f64,
) -> Result<Tensor> {
    let wide = |t: &Tensor| t.to_dtype(DType::F32);
    let product = (wide(b)?.matmul(&wide(a)?)? * scale)?;
    let product = match layout {
        WeightLayout::OutIn => product,
        WeightLayout::InOut => product.t()?,
    };
    Ok((wide(weight)? + product)?)
}

/// Replaces each weight of `tensors` that `adapter` stands beside by the merged one; `values` are those of the adapter.
pub(crate) fn merge(
    tensors: &mut BTreeMap<String, Tensor>,
    adapter: &Adapter,
    values: &BTreeMap<String, Tensor>,
) -> Result<()> {
    for (module, layout) in adapter.modules.iter() {
        let name = format!("{module}.weight");
        let of = |tensors: &BTreeMap<String, Tensor>, name: &str| {
            let found = tensors.get(name).cloned();
            found.ok_or_else(|| Error::Invalid(format!("cannot merge: {name} is missing")))
        };
        let a = of(values, &format!("{module}{A}"))?;
        let b = of(values, &format!("{module}{B}"))?;
        let weight = of(tensors, &name)?.to_device(a.device())?;
        let merged = merged_weight(&weight, *layout, (&a, &b), adapter.scale())?;
        tensors.insert(name, merged);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
