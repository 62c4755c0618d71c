//! A sampled response.

use anyhow::Result;
use rlhf_lm::Tokenizer;

use crate::PromptRow;

/// One sampled response y to a prompt x.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Episode {
    /// Index into the prompts it was sampled from.
    pub prompt: usize,
    /// y_1…y_n; y_n is the EOS token if the model stopped, otherwise the last token before the limit.
    pub response: Vec<u32>,
    /// Whether it ended by itself: with the EOS token or a stop text.
    pub finished: bool,
}

impl Episode {
    /// The response as text, where it stands after its prompt: the two end to end are what the model wrote.
    pub fn text(&self, tokenizer: &Tokenizer, prompts: &[PromptRow]) -> Result<String> {
        Ok(tokenizer.decode_response(&prompts[self.prompt].ids, &self.response)?)
    }
}
