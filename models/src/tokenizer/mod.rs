//! Text to token ids and back, from GGUF metadata.

use std::sync::Arc;

use crate::Gguf;

#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    #[error("{0}")]
    Seam(String),
}

/// The tokenizer of one model; cheap to share.
#[derive(Debug)]
pub struct Tokenizer {}

impl Tokenizer {
    pub fn from_gguf(_gguf: &Gguf) -> Result<Self, TokenizerError> {
        Err(TokenizerError::Seam(String::new()))
    }
    /// Ids of `text`. `parse_special`: control tokens written in the text become their ids (rendered chat templates); otherwise
    /// they are plain text (a user's words never become control tokens).
    pub fn encode(&self, _text: &str, _parse_special: bool) -> Result<Vec<u32>, TokenizerError> {
        Ok(vec![])
    }
    /// [`Self::encode`] with the model's bos and eos where its metadata asks for them (`add_bos_token`).
    pub fn encode_with_specials(&self, _text: &str, _parse_special: bool) -> Result<Vec<u32>, TokenizerError> {
        Ok(vec![])
    }
    pub fn vocab_size(&self) -> usize {
        0
    }
    /// Bytes a token stands for in the output; control tokens: empty unless `special`.
    pub fn token_bytes(&self, _id: u32, _special: bool) -> &[u8] {
        &[]
    }
    /// The token's own name in the vocabulary (`<|im_end|>`, `Ġthe`).
    pub fn token_name(&self, _id: u32) -> Option<&str> {
        None
    }
    pub fn token_id(&self, _name: &str) -> Option<u32> {
        None
    }
    pub fn is_control(&self, _id: u32) -> bool {
        false
    }
    pub fn bos(&self) -> Option<u32> {
        None
    }
    pub fn eos(&self) -> Option<u32> {
        None
    }
    /// Every token that ends a turn: eos, eot, eom and the well-known names (`<|im_end|>`, `<|eot_id|>`, `<|endoftext|>`, ...).
    pub fn end_of_generation(&self) -> &[u32] {
        &[]
    }
    /// The chat template in the metadata; `name` selects one of several (`tool_use`).
    pub fn chat_template(&self, _name: Option<&str>) -> Option<&str> {
        None
    }
}

/// Incremental detokenizer of one stream: O(1) a token; holds back the bytes of an unfinished UTF-8 character.
#[derive(Debug)]
pub struct Detokenizer {}

impl Detokenizer {
    pub fn new(_tokenizer: Arc<Tokenizer>) -> Self {
        Self {}
    }
    /// Text that became certain with this token (may be empty).
    pub fn push(&mut self, _id: u32) -> String {
        String::new()
    }
    /// What is still held back, lossily (U+FFFD), at the end of the stream.
    pub fn finish(&mut self) -> String {
        String::new()
    }
}
