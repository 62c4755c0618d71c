//! The settings of adapters, `[lora]` in a configuration file: the same for every stage that trains a model.

use anyhow::{Result, bail};
use rlhf_lm::LoraConfig;

use crate::{Range, settings};

settings! {
    /// Settings of low-rank adapters.
    pub struct LoraSettings {
        /// Train a low-rank adapter of this rank beside the frozen weights instead of the weights themselves (Hu et al. 2022); 0 trains the
        /// weights. A model that is an adapter already is trained further as it is.
        pub rank: usize = 0 => 0..=65_536,
        /// Scale of the adapter: its product is multiplied by alpha/rank; absent takes 2·rank.
        pub alpha: Option<f64> = None => Range::above(0.0, 1e6),
        /// Linear layers that get an adapter, by the ends of their names as in PEFT's `target_modules` (q_proj, v_proj, attn.c_proj); empty
        /// means all in the blocks.
        pub targets: Vec<String> = Vec::new(),
        /// Multiply by alpha/√rank instead, which suits high ranks (Kalajdzievski 2023).
        pub rank_stabilised: bool = false,
        /// Save the merged model instead of the adapter.
        pub merge: bool = false,
    }
}

impl LoraSettings {
    /// The adapter that is asked for, if one is.
    ///
    /// # Errors
    /// If an adapter is described, but its rank is 0.
    pub fn adapter(&self) -> Result<Option<LoraConfig>> {
        if self.rank > 0 {
            return Ok(Some(LoraConfig {
                rank: self.rank,
                alpha: self.alpha,
                targets: self.targets.clone(),
                rank_stabilised: self.rank_stabilised,
                merge: self.merge,
            }));
        }
        let described = [
            ("alpha", self.alpha.is_some()),
            ("targets", !self.targets.is_empty()),
            ("rank_stabilised", self.rank_stabilised),
            ("merge", self.merge),
        ];
        match described.iter().find(|(_, set)| *set) {
            None => Ok(None),
            Some((name, _)) => bail!(
                "lora.{name} is set, but there is no adapter: lora.rank is 0. Give it a rank, such as lora.rank = 8"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_asks_for_an_adapter_and_anything_else_without_one_is_refused() {
        assert_eq!(LoraSettings::default().adapter().unwrap(), None);
        let asked = LoraSettings {
            rank: 8,
            merge: true,
            ..LoraSettings::default()
        };
        let adapter = asked.adapter().unwrap().unwrap();
        assert_eq!(
            (adapter.rank, adapter.alpha, adapter.merge),
            (8, None, true)
        );
        let idle = LoraSettings { rank: 0, ..asked };
        let said = idle.adapter().unwrap_err().to_string();
        assert!(said.starts_with("lora.merge is set"), "{said}");
    }
}
