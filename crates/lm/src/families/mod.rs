//! The model families, each in a file of its own: its `config.json`, names, dimensions, trunk and GGUF spelling.
//!
//! A new family is a file here, its line in [`FAMILIES`], and a case of `scripts/oracle/hf_parity.py`.

mod decoder;
mod family;
mod gemma;
mod gemma4;
mod gpt2;
mod gpt_neox;
mod granite;
mod lfm2;
mod llama;
mod mixture;
mod nested;
mod olmo;
mod phi3;
mod qwen;
mod qwen3_5;
mod smollm3;

pub(crate) use family::{
    Dimensions, Family, GgufSpelling, LogitsRule, ModelType, RecurrentPart, StoredLayout,
};
pub(crate) use mixture::Mixture;
pub(crate) use nested::{text_part, text_tensor};

/// Every `model_type` that we can run.
const FAMILIES: &[&ModelType] = &[
    &gpt2::GPT2,
    &llama::LLAMA,
    &llama::MISTRAL,
    &qwen::QWEN2,
    &qwen::QWEN3,
    &qwen::QWEN3_MOE,
    &smollm3::SMOLLM3,
    &granite::GRANITE,
    &granite::GRANITE_MOE,
    &gemma::GEMMA2,
    &gemma::GEMMA3,
    &gemma4::GEMMA4,
    &gpt_neox::GPT_NEOX,
    &olmo::OLMO2,
    &olmo::OLMO3,
    &olmo::OLMOE,
    &phi3::PHI3,
    &lfm2::LFM2,
    &qwen3_5::QWEN3_5,
];

/// The `model_type` called `name`, or the names of those there are.
pub(crate) fn model_type(name: &str) -> Result<&'static ModelType, String> {
    let found = FAMILIES.iter().find(|known| known.name == name);
    found.copied().ok_or_else(known)
}

/// Whether a parameter of this name is a constant: saved with the model, and not trained. `transformers` calls it a buffer.
pub(crate) fn is_constant(name: &str) -> bool {
    let of_block = name.strip_suffix(decoder::BLOCK_FACTOR);
    of_block.is_some_and(|block| block.ends_with('.'))
}

/// The names of all model types, for messages.
pub(crate) fn known() -> String {
    let mut names: Vec<_> = FAMILIES.iter().map(|known| known.name).collect();
    names.push("gemma3, gemma4 and qwen3_5 (their text parts)");
    names.join(", ")
}

/// The GGUF spelling of `architecture`, or the names of those there are.
pub(crate) fn gguf_spelling(architecture: &str) -> Result<&'static GgufSpelling, String> {
    let mut spellings = FAMILIES.iter().map(|known| known.gguf);
    let found = spellings.find(|spelling| spelling.architecture == architecture);
    found.ok_or_else(|| {
        let mut known: Vec<_> = FAMILIES.iter().map(|k| k.gguf.architecture).collect();
        known.dedup();
        known.join(", ")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_families_answer_to_the_same_name() {
        let mut names: Vec<_> = FAMILIES.iter().map(|known| known.name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|two| two[0] != two[1]), "{names:?}");
    }
}
