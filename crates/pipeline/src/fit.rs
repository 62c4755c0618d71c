//! The README's table "Will it fit?": memory as the plan counts it, for the sizes that people ask about, and what was measured.

use candle_core::DType;
use rlhf_lm::{ModelConfig, Size};
use rlhf_train::{Ahead, MemoryItem, Sampled};
use serde_json::json;

/// A size of model: its name, and what of its shape memory depends on.
struct Shape {
    name: &'static str,
    vocabulary: usize,
    hidden: usize,
    intermediate: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
}

/// The columns: SmolLM2-135M and 360M, Llama 3.2 1B and 3B.
const SHAPES: [Shape; 4] = [
    Shape {
        name: "135M",
        vocabulary: 49_152,
        hidden: 576,
        intermediate: 1536,
        layers: 30,
        heads: 9,
        kv_heads: 3,
    },
    Shape {
        name: "360M",
        vocabulary: 49_152,
        hidden: 960,
        intermediate: 2560,
        layers: 32,
        heads: 15,
        kv_heads: 5,
    },
    Shape {
        name: "1B",
        vocabulary: 128_256,
        hidden: 2048,
        intermediate: 8192,
        layers: 16,
        heads: 32,
        kv_heads: 8,
    },
    Shape {
        name: "3B",
        vocabulary: 128_256,
        hidden: 3072,
        intermediate: 8192,
        layers: 28,
        heads: 24,
        kv_heads: 8,
    },
];

/// What is trained.
#[derive(Clone, Copy)]
enum Base {
    Whole(DType),
    Lora(DType),
    /// An adapter over layers in blocks of 32 numbers of four bits, 18 bytes each (Q4_0).
    Quantised,
}

/// A row of memory: the stage, the way, and the gibibytes that a process was seen to hold at most (BENCHMARKS.md), by column.
struct Row {
    stage: &'static str,
    way: &'static str,
    base: Base,
    measured: [Option<f64>; 4],
}

/// What a step of PPO samples, as the page says, to prompts of as many tokens.
const SAMPLED: Sampled = Sampled {
    rows: 16,
    per_prompt: 1,
    prompt: 64,
    response: 64,
};

const NOT_MEASURED: [Option<f64>; 4] = [None; 4];

const ROWS: [Row; 8] = [
    Row {
        stage: "SFT",
        way: "f32",
        base: Base::Whole(DType::F32),
        measured: [Some(2.8), Some(5.8), None, None],
    },
    Row {
        stage: "",
        way: "bf16, on a GPU",
        base: Base::Whole(DType::BF16),
        measured: NOT_MEASURED,
    },
    Row {
        stage: "",
        way: "LoRA 16, f32",
        base: Base::Lora(DType::F32),
        measured: [Some(1.6), Some(2.0), None, None],
    },
    Row {
        stage: "",
        way: "LoRA 16, bf16, on a GPU",
        base: Base::Lora(DType::BF16),
        measured: NOT_MEASURED,
    },
    Row {
        stage: "",
        way: "LoRA 16 over 4-bit GGUF",
        base: Base::Quantised,
        measured: [Some(1.3), None, None, None],
    },
    Row {
        stage: "PPO",
        way: "f32",
        base: Base::Whole(DType::F32),
        measured: [Some(5.2), None, None, None],
    },
    Row {
        stage: "",
        way: "LoRA 16, f32",
        base: Base::Lora(DType::F32),
        measured: [Some(1.4), None, None, None],
    },
    Row {
        stage: "",
        way: "LoRA 16 over 4-bit GGUF",
        base: Base::Quantised,
        measured: [Some(1.1), None, None, None],
    },
];

/// A row of time: what a step is, and the minutes it took by column; what was not measured is in proportion to the parameters, from the
/// largest model that was.
struct Step {
    stage: &'static str,
    way: &'static str,
    minutes: [Option<f64>; 4],
}

const STEPS: [Step; 3] = [
    Step {
        stage: "a step",
        way: "SFT, all weights",
        minutes: [Some(0.4), Some(1.1), None, None],
    },
    Step {
        stage: "",
        way: "SFT, LoRA 16",
        minutes: [Some(0.124), None, None, None],
    },
    Step {
        stage: "",
        way: "PPO, all weights",
        minutes: [Some(1.53), None, None, None],
    },
];

/// The table, in Markdown.
pub(crate) fn table() -> anyhow::Result<String> {
    let mut columns = Vec::new();
    for shape in &SHAPES {
        let config = shape.config()?;
        columns.push((Size::of(&config)?, config));
    }
    let names: Vec<&str> = SHAPES.iter().map(|shape| shape.name).collect();
    let mut out = format!(
        "| | | {} |\n|---|---|---:|---:|---:|---:|\n",
        names.join(" | ")
    );
    let mut stage = "";
    for row in &ROWS {
        stage = if row.stage.is_empty() {
            stage
        } else {
            row.stage
        };
        let cells = columns.iter().zip(row.measured);
        let cells = cells.map(|((size, config), measured)| match measured {
            Some(seen) => format!("{} GiB m", significant(seen)),
            None => format!(
                "{} GiB",
                significant(computed(stage, row.base, size, config))
            ),
        });
        out.push_str(&line(row.stage, row.way, cells));
    }
    for step in &STEPS {
        let seen = step.minutes.iter().zip(&columns);
        let mut seen = seen.filter_map(|(minutes, (size, _))| Some(((*minutes)?, size.parameters)));
        let Some((most, of)) = seen.next_back() else {
            continue;
        };
        let cells = columns.iter().zip(step.minutes);
        let cells = cells.map(|((size, _), minutes)| match minutes {
            Some(minutes) => format!("{} min m", significant(minutes)),
            None => {
                let share = size.parameters as f64 / of as f64;
                format!("{} min", significant(most * share))
            }
        });
        out.push_str(&line(step.stage, step.way, cells));
    }
    Ok(out)
}

fn line(stage: &str, way: &str, cells: impl Iterator<Item = String>) -> String {
    let cells: Vec<String> = cells.collect();
    format!("| {stage} | {way} | {} |\n", cells.join(" | "))
}

/// Two digits, of what is below 1 one.
fn significant(x: f64) -> String {
    match x {
        ..9.95 => format!("{x:.1}"),
        9.95..99.5 => format!("{x:.0}"),
        _ => format!("{:.0}", (x / 10.0).round() * 10.0),
    }
}

/// Gibibytes, as the plan of the stage counts them.
fn computed(stage: &str, base: Base, size: &Size, config: &ModelConfig) -> f64 {
    let in_blocks: u64 = size
        .linear
        .iter()
        .map(|(outputs, inputs)| outputs * inputs)
        .sum();
    let quantised = Size {
        quantised: (in_blocks, in_blocks / 32 * 18),
        ..size.clone()
    };
    let (size, rank, dtype) = match base {
        Base::Whole(dtype) => (size, None, dtype),
        Base::Lora(dtype) => (size, Some(16), dtype),
        Base::Quantised => (&quantised, Some(16), DType::F32),
    };
    let ahead = Ahead {
        config,
        size,
        rank,
        dtype,
        recompute: false,
    };
    let items: Vec<MemoryItem> = match stage {
        "PPO" => ahead.ppo(SAMPLED),
        _ => ahead.on_rows(),
    };
    items.iter().map(|item| item.bytes).sum::<u64>() as f64 / (1_u64 << 30) as f64
}

impl Shape {
    fn config(&self) -> anyhow::Result<ModelConfig> {
        Ok(ModelConfig::from_json(json!({
            "model_type": "llama",
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": true,
        }))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The oracle is the number of parameters that the makers of these models state: 134.5, 361.8, 1235.8 and 3212.7 millions.
    #[test]
    fn the_columns_are_the_models_that_they_are_named_after() {
        for (shape, millions) in SHAPES.iter().zip([134.5, 361.8, 1235.8, 3212.7]) {
            let size = Size::of(&shape.config().unwrap()).unwrap();
            let counted = size.parameters as f64 / 1e6;
            assert!(
                (counted - millions).abs() < 0.06,
                "{}: {counted}",
                shape.name
            );
        }
    }

    #[test]
    fn numbers_have_two_digits() {
        let shown = [0.13, 5.55, 9.96, 46.5, 121.0].map(significant);
        assert_eq!(shown, ["0.1", "5.5", "10", "46", "120"]);
    }
}
