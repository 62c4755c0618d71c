//! The plan printed before training: model, data, batches, memory.

#[cfg(test)]
mod tests;

use std::fmt::{self, Display};

use candle_core::{DType, Device};
use rlhf_base::visible_edges;
use rlhf_lm::{ModelConfig, Params};

use crate::Holding;
use crate::progress::si;

/// What a stage is about to do, printed before anything is spent.
///
/// ```
/// # use rlhf_train::{DiskUse, MemoryItem, Plan};
/// let plan = Plan {
///     stage: "sft".into(),
///     model: "gpt2".into(),
///     parameters: 124_439_808,
///     data: vec![("demonstrations".into(), "1200 rows, 61.4k tokens".into())],
///     batch: "32 rows a step = 2 micro-batches of 16".into(),
///     steps: 114,
///     tokens: 184_320,
///     memory: vec![MemoryItem::new("weights", 4 * 124_439_808)],
///     disk: DiskUse { checkpoints: 3, checkpoint: 12 * 124_439_808, model: 4 * 124_439_808 },
///     device: "CPU, 2 threads, f32".into(),
///     at_most: false,
///     notes: Vec::new(),
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
    /// Whether the run may have fewer tokens, since responses may be shorter than the longest.
    pub at_most: bool,
    /// Settings that will not do what they say, such as a warm-up longer than the run.
    pub notes: Vec<String>,
    /// What will be held in memory at once.
    pub memory: Vec<MemoryItem>,
    /// What will lie on the disk at once.
    pub disk: DiskUse,
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

/// What is summed up before an optimizer step.
pub(crate) const GRADIENTS: &str = "gradients";

/// What AdamW keeps of each trained number besides.
pub(crate) const MOMENTS: &str = "optimizer moments";

impl Plan {
    /// The same where each of `ranks` processes keeps a share of the optimizer's moments.
    pub fn share_optimizer(&mut self, ranks: usize) {
        for item in &mut self.memory {
            if item.what.ends_with(MOMENTS) {
                item.bytes /= ranks as u64;
                item.what.push_str(", a share of them");
            }
        }
    }
}

impl MemoryItem {
    /// `bytes` held for `what`.
    pub fn new(what: impl Into<String>, bytes: u64) -> Self {
        Self {
            what: what.into(),
            bytes,
        }
    }

    /// What training keeps of a model: all its weights, with the copies that it computes with in half precision; and in f32, of those
    /// that are trained, the gradients and AdamW's two moments.
    pub fn trained(what: &str, params: &Params) -> Vec<Self> {
        Holding::of(params).trained(what)
    }

    /// Like [`MemoryItem::trained`], for what is trained alone: where the frozen weights are another model's too, and counted there.
    pub fn learnt(what: &str, params: &Params) -> [Self; 3] {
        Holding::of(params).learnt(what)
    }

    /// What a forward pass over `tokens` keeps for the gradient; see [`activation_bytes`].
    pub fn activations(tokens: u64, model: &ModelConfig, recompute: bool) -> Self {
        let what = if recompute {
            "recomputed activations"
        } else {
            "activations"
        };
        Self::new(what, activation_bytes(tokens, model, recompute))
    }

    /// Whichever is larger, of two that are never kept at once.
    #[must_use]
    pub fn or_larger(self, other: Self) -> Self {
        if self.bytes > other.bytes {
            self
        } else {
            other
        }
    }

    /// The same without gradients that are never there at once: of models that take their optimizer steps in turn, the largest alone.
    pub fn in_turns(mut items: Vec<Self>) -> Vec<Self> {
        let gradients = items.iter().enumerate();
        let gradients = gradients.filter(|(_, item)| item.what.ends_with(GRADIENTS));
        let largest = gradients.max_by_key(|(_, item)| item.bytes).map(|(i, _)| i);
        let mut place = 0..items.len();
        items.retain(|item| place.next() == largest || !item.what.ends_with(GRADIENTS));
        items
    }

    /// What sampling keeps of `sampled`: keys and values of all tokens together, and the states of rows and of the prompts they began with.
    pub fn cache(sampled: Sampled, model: &ModelConfig, dtype: DType) -> Self {
        let (tokens, rows) = (sampled.tokens() as u64, sampled.rows as u64);
        let states = match model.state_width() {
            0 => "keys and values while sampling",
            _ => "keys, values and states while sampling",
        };
        Self::new(states, cache_bytes(tokens, rows, model, dtype))
    }
}

/// Responses that are sampled side by side, at their fullest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampled {
    /// How many.
    pub rows: usize,
    /// How many of them share a prompt.
    pub per_prompt: usize,
    /// Tokens of the longest prompt.
    pub prompt: usize,
    /// Tokens of the longest response.
    pub response: usize,
}

impl Sampled {
    /// The tokens of all, a prompt once for its responses.
    fn tokens(&self) -> usize {
        let prompts = self.rows.div_ceil(self.per_prompt.max(1));
        prompts * self.prompt + self.rows * self.response
    }
}

/// What a run keeps on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUse {
    /// The most checkpoints there are at once.
    pub checkpoints: u64,
    /// Bytes of one.
    pub checkpoint: u64,
    /// Bytes of the model in `final/`.
    pub model: u64,
}

impl DiskUse {
    /// Bytes of a checkpoint per trained parameter: the weight and AdamW's two moments, in f32.
    pub const CHECKPOINT: u64 = 12;
    /// Bytes of a published model per parameter, at most.
    pub const MODEL: u64 = 4;

    /// Bytes of the model that is published of `params`: all of it, or the adapter alone where that is what is saved.
    pub fn model(params: &Params) -> u64 {
        let saved = match params.adapter() {
            Some(adapter) if !adapter.is_merged_when_saved() => params.num_trainable(),
            _ => params.num_parameters(),
        };
        Self::MODEL * saved as u64
    }

    /// How many checkpoints there are at once of a run that saves `saves` of them after a number of steps and keeps `keep`. One is
    /// written before the oldest goes, and one may come of an interruption or of time.
    pub fn checkpoints_at_once(saves: u64, keep: usize) -> u64 {
        saves
            .saturating_add(1)
            .min((keep.max(1) as u64).saturating_add(1))
    }

    /// All of it.
    pub fn bytes(&self) -> u64 {
        let checkpoints = self.checkpoints.saturating_mul(self.checkpoint);
        checkpoints.saturating_add(self.model)
    }
}

impl Display for DiskUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.checkpoints == 1 { "" } else { "s" };
        write!(
            f,
            "about {}: up to {} checkpoint{plural} of {}, the model {}",
            readable_bytes(self.bytes()),
            self.checkpoints,
            readable_bytes(self.checkpoint),
            readable_bytes(self.model)
        )
    }
}

/// An estimate of the activations kept for the backward pass, in bytes of f32: `4 · T · L · (12 H + 3 I)`, or with `recompute` (one
/// block at a time is there in full) `4 · T · (L · H + 12 H + 3 I)`.
///
/// Per token and block (T, L), the kernels keep about twelve rows of hidden size H (norms, q k v, attention, residuals) and three of the
/// MLP's inner size I, of a mixture of experts for each expert of the token three of its inner size and two of H; recomputing keeps the block's
/// output. Where every block is given P numbers of a token beside the residual stream, it keeps 3 P + 3 H more, and 4 P are kept before the blocks;
/// recomputing keeps the block's own P.
pub fn activation_bytes(tokens: u64, model: &ModelConfig, recompute: bool) -> u64 {
    let (hidden, mlp) = (model.hidden_size() as u64, model.mlp_activations() as u64);
    let (layers, input) = (model.layers() as u64, model.input_width() as u64);
    let mut block = 12 * hidden + mlp;
    if input > 0 {
        block += 3 * input + 3 * hidden;
    }
    let row = if recompute {
        layers * (hidden + 5 * input) + block
    } else {
        layers * (block + 4 * input)
    };
    4 * tokens * row
}

/// What decoding keeps: of every token its keys and values, and what short convolutions reach back to, in pools whose room is a power of two; of every
/// row, and of the prompt it began with, what recurrent layers have come to, at 4 bytes a number.
fn cache_bytes(tokens: u64, rows: u64, model: &ModelConfig, dtype: DType) -> u64 {
    let each = dtype.size_in_bytes() as u64;
    let pools = tokens.next_power_of_two() * model.cache_width() as u64 * each;
    pools + 2 * rows * model.state_width() as u64 * 4
}

/// Tokens per forward and backward pass, between 256 and 16384: as many as have activations of about half a gibibyte on the CPU, where larger
/// passes are no faster, and of a quarter of a GPU's memory, in `f32`. That is all of its memory and not what is free, so that the same device gives the
/// same passes, and with them the same bytes, whatever else runs on it.
pub fn micro_batch_tokens(model: &ModelConfig, recompute: bool, device: &Device) -> usize {
    let all = rlhf_ops::device::memory(device).map_or(0, |(_, all)| all);
    let budget = (all / 4).max(1 << 29);
    (budget / activation_bytes(1, model, recompute).max(1)).clamp(256, 16_384) as usize
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
                "{} steps, {} {} tokens",
                self.steps,
                if self.at_most { "at most" } else { "about" },
                si(self.tokens as f64)
            ),
        )?;
        let total = self.memory.iter().map(|item| item.bytes).sum();
        let parts: Vec<_> = self
            .memory
            .iter()
            .map(|item| format!("{} {}", item.what, readable_bytes(item.bytes)))
            .collect();
        row(
            "memory",
            &format!("about {}: {}", readable_bytes(total), parts.join(", ")),
        )?;
        row("disk", &self.disk.to_string())?;
        row("device", &self.device)?;
        for note in &self.notes {
            row("note", note)?;
        }
        if !self.example.is_empty() {
            writeln!(
                f,
                "  one example, what carries loss in ⟦ ⟧, blanks at edges as ·:"
            )?;
            let example = marked(&abbreviated(&self.example));
            writeln!(f, "    {}", example.replace('\n', "\n    "))?;
        }
        Ok(())
    }
}

/// Pieces of a row as one text for people: what carries loss in ⟦ ⟧, blanks at the edges of pieces as `·`, line breaks as `⏎`.
pub fn marked(pieces: &[(String, bool)]) -> String {
    let pieces = pieces.iter().map(|(text, loss)| piece(text, *loss));
    pieces.collect::<String>().replace('\n', "⏎\n")
}

/// The same pieces, each with at most its first and last 120 characters: where roles and answers meet is what an example shows.
fn abbreviated(pieces: &[(String, bool)]) -> Vec<(String, bool)> {
    const EDGE: usize = 120;
    let abbreviate = |text: &str| {
        let length = text.chars().count();
        let Some(hidden) = length.checked_sub(2 * EDGE).filter(|n| *n > EDGE) else {
            return text.to_owned();
        };
        let head: String = text.chars().take(EDGE).collect();
        let tail: String = text.chars().skip(length - EDGE).collect();
        format!("{head} […{hidden} characters…] {tail}")
    };
    let short = pieces.iter().map(|(text, loss)| (abbreviate(text), *loss));
    short.collect()
}

fn piece(text: &str, carries_loss: bool) -> String {
    let text = visible_edges(text);
    if carries_loss {
        format!("⟦{text}⟧")
    } else {
        text
    }
}

/// A size in binary units, such as `1.5 GiB`.
pub fn readable_bytes(n: u64) -> String {
    let mut value = n as f64;
    for unit in ["B", "KiB", "MiB"] {
        if value < 1023.5 {
            return format!("{value:.0} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} GiB")
}
