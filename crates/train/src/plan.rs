use std::fmt::{self, Display};

use rlhf_lm::ModelConfig;

use crate::progress::si;

/// What a stage is about to do, printed before anything is spent.
///
/// ```
/// # use rlhf_train::{MemoryItem, Plan};
/// let plan = Plan {
///     stage: "sft".into(),
///     model: "gpt2".into(),
///     parameters: 124_439_808,
///     data: vec![("demonstrations".into(), "1200 rows, 61.4k tokens".into())],
///     batch: "32 rows a step = 2 micro-batches of 16".into(),
///     steps: 114,
///     tokens: 184_320,
///     memory: vec![MemoryItem::new("weights", 4 * 124_439_808)],
///     device: "CPU, 2 threads, f32".into(),
///     example: vec![("Say hi.\n".into(), false), ("Hi!<|endoftext|>".into(), true)],
/// };
/// assert!(plan.to_string().contains("Say hi.⏎\n    ⟦Hi!<|endoftext|>⟧"));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The stage's name.
    pub stage: String,
    /// The model it starts from.
    pub model: String,
    /// How many numbers are trained.
    pub parameters: u64,
    /// What is read, as (kind, amount).
    pub data: Vec<(String, String)>,
    /// How a step is cut into pieces, as arithmetic.
    pub batch: String,
    /// Optimizer steps (PPO steps in `ppo`).
    pub steps: u64,
    /// Tokens over the whole run.
    pub tokens: u64,
    /// What will be held in memory at once.
    pub memory: Vec<MemoryItem>,
    /// Where it is computed.
    pub device: String,
    /// One row of data as decoded text, piece by piece; `true` marks what carries loss.
    pub example: Vec<(String, bool)>,
}

/// One part of the memory estimate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryItem {
    /// What it holds.
    pub what: String,
    /// How much of it.
    pub bytes: u64,
}

impl MemoryItem {
    /// `bytes` held for `what`.
    pub fn new(what: impl Into<String>, bytes: u64) -> Self {
        Self {
            what: what.into(),
            bytes,
        }
    }

    /// What AdamW keeps for `parameters` f32 numbers in training: the weights, their gradients and two moments.
    pub fn trained(what: &str, parameters: u64) -> [Self; 3] {
        [
            Self::new(format!("{what} weights"), 4 * parameters),
            Self::new(format!("{what} gradients"), 4 * parameters),
            Self::new(format!("{what} optimizer moments"), 8 * parameters),
        ]
    }
}

/// An estimate of the activations kept for the backward pass: `4 · T · L · (12 H + 3 I)` bytes in f32.
///
/// Per token and block (T, L), the kernels keep about twelve rows of hidden size H (norms, q k v, attention, residuals) and three of the MLP's inner size I.
pub fn activation_bytes(tokens: u64, model: &ModelConfig) -> u64 {
    let (hidden, intermediate) = (model.hidden_size() as u64, model.intermediate_size() as u64);
    4 * tokens * model.layers() as u64 * (12 * hidden + 3 * intermediate)
}

/// Tokens per forward and backward pass whose activations take about half a gibibyte, between 256 and 16384.
pub fn micro_batch_tokens(model: &ModelConfig) -> usize {
    ((1 << 29) / activation_bytes(1, model).max(1)).clamp(256, 16_384) as usize
}

impl Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |name: &str, value: &str| writeln!(f, "  {name:<10}  {value}");
        row("stage", &self.stage)?;
        row(
            "model",
            &format!(
                "{}, {} trained parameters",
                self.model,
                si(self.parameters as f64)
            ),
        )?;
        for (i, (kind, amount)) in self.data.iter().enumerate() {
            row(
                if i == 0 { "data" } else { "" },
                &format!("{kind}: {amount}"),
            )?;
        }
        row("batch", &self.batch)?;
        row(
            "length",
            &format!(
                "{} steps, about {} tokens",
                self.steps,
                si(self.tokens as f64)
            ),
        )?;
        let total = self.memory.iter().map(|item| item.bytes).sum();
        let parts: Vec<_> = self
            .memory
            .iter()
            .map(|item| format!("{} {}", item.what, bytes(item.bytes)))
            .collect();
        row(
            "memory",
            &format!("about {}: {}", bytes(total), parts.join(", ")),
        )?;
        row("device", &self.device)?;
        if !self.example.is_empty() {
            writeln!(f, "  one example, what carries loss in ⟦ ⟧:")?;
            let marked: String = self
                .example
                .iter()
                .map(|(text, loss)| piece(text, *loss))
                .collect();
            writeln!(f, "    {}", marked.replace('\n', "⏎\n    "))?;
        }
        Ok(())
    }
}

fn piece(text: &str, carries_loss: bool) -> String {
    if carries_loss {
        format!("⟦{text}⟧")
    } else {
        text.to_owned()
    }
}

/// A size in binary units.
fn bytes(n: u64) -> String {
    let mut value = n as f64;
    for unit in ["B", "KiB", "MiB"] {
        if value < 1023.5 {
            return format!("{value:.0} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_reads_as_a_table_with_the_loss_marked() {
        let mut memory = MemoryItem::trained("policy", 1_000_000).to_vec();
        let model = ModelConfig::from_json(serde_json::json!({
            "model_type": "llama", "vocab_size": 512, "hidden_size": 128, "intermediate_size": 512,
            "num_hidden_layers": 4, "num_attention_heads": 4, "max_position_embeddings": 256,
            "rms_norm_eps": 1e-5,
        }))
        .unwrap();
        memory.push(MemoryItem::new(
            "activations",
            activation_bytes(1024, &model),
        ));
        let plan = Plan {
            stage: "ppo".into(),
            model: "runs/sft".into(),
            parameters: 1_000_000,
            data: vec![
                ("prompts".into(), "512 rows".into()),
                ("rewards".into(), "runs/reward".into()),
            ],
            batch: "64 episodes = 32 prompts × 2 samples, 4 epochs × 2 minibatches".into(),
            steps: 100,
            tokens: 1_500_000,
            memory,
            device: "CPU".into(),
            example: vec![
                ("What is red?\n".into(), false),
                ("A fox.".into(), true),
                (" [end]".into(), false),
            ],
        };
        // 4 · 1024 · 4 · (12 · 128 + 3 · 512) = 48 MiB; 4 B · 10⁶ = 3.8 MiB, so 15.3 + 48 = 63.3 MiB in all.
        let expected = "\x20 stage       ppo
  model       runs/sft, 1.0M trained parameters
  data        prompts: 512 rows
              rewards: runs/reward
  batch       64 episodes = 32 prompts × 2 samples, 4 epochs × 2 minibatches
  length      100 steps, about 1.5M tokens
  memory      about 63 MiB: policy weights 4 MiB, policy gradients 4 MiB, policy optimizer moments 8 MiB, activations 48 MiB
  device      CPU
  one example, what carries loss in ⟦ ⟧:
    What is red?⏎
    ⟦A fox.⟧ [end]
";
        assert_eq!(plan.to_string(), expected);
    }
}
