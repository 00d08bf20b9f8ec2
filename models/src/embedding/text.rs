//! How text becomes the tokens of an embedding model: by the `tokenizer.json` that Hugging Face's tools save, or by a GGUF's own tokenizer.

use std::path::Path;
use std::sync::Arc;

use super::{EmbeddingError, Sequence, file_error};
use crate::tokenizer::Tokenizer;

/// Cheap to clone.
#[derive(Clone)]
pub enum TextEncoder {
    HuggingFace(Arc<tokenizers::Tokenizer>),
    Gguf(Arc<Tokenizer>),
}

impl TextEncoder {
    /// Whatever the file says of cutting and filling up is for training: here a text is as long as it is.
    pub fn from_file(path: &Path) -> Result<Self, EmbeddingError> {
        let bytes = std::fs::read(path).map_err(|problem| file_error(path, problem))?;
        Self::from_json(&bytes).map_err(|problem| file_error(path, problem))
    }

    /// The text of a `tokenizer.json`.
    pub fn from_json(bytes: &[u8]) -> Result<Self, String> {
        let mut tokenizer = tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| error.to_string())?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| error.to_string())?;
        Ok(Self::HuggingFace(Arc::new(tokenizer)))
    }

    pub fn vocab_size(&self) -> usize {
        match self {
            Self::HuggingFace(tokenizer) => tokenizer.get_vocab_size(true),
            Self::Gguf(tokenizer) => tokenizer.vocab_size(),
        }
    }

    /// Tokens of a text, with those that frame it. The name of a control token in the text is that token by a `tokenizer.json`, as in the tools
    /// that made the model, and plain text by a GGUF's tokenizer.
    pub fn encode(&self, text: &str) -> Result<Sequence, EmbeddingError> {
        match self {
            Self::HuggingFace(tokenizer) => Ok(sequence(&encode(tokenizer, text)?)),
            Self::Gguf(tokenizer) => Ok(Sequence::single(tokenizer.encode_with_specials(text, false)?)),
        }
    }

    /// Tokens of two texts, for a model that compares them. Errors: a tokenizer that knows no pairs.
    pub fn encode_pair(&self, first: &str, second: &str) -> Result<Sequence, EmbeddingError> {
        match self {
            Self::HuggingFace(tokenizer) => Ok(sequence(&encode(tokenizer, (first, second))?)),
            Self::Gguf(_) => Err(EmbeddingError::Text("this tokenizer knows no pairs of texts".to_owned())),
        }
    }

    /// `sequence` cut to `tokens_max`, at its end but before the token that closes it.
    pub fn cut(&self, mut sequence: Sequence, tokens_max: usize) -> Sequence {
        if sequence.ids.len() > tokens_max && tokens_max > 0 {
            let last = *sequence.ids.last().expect("longer than 0");
            sequence.ids.truncate(tokens_max);
            if self.closes_with(last) {
                sequence.ids[tokens_max - 1] = last;
            }
            sequence.second_from = sequence.second_from.min(tokens_max);
        }
        sequence
    }

    fn closes_with(&self, id: u32) -> bool {
        match self {
            Self::HuggingFace(tokenizer) => {
                let name = tokenizer.id_to_token(id).unwrap_or_default();
                tokenizer.get_added_vocabulary().is_special_token(&name)
            }
            Self::Gguf(tokenizer) => tokenizer.is_control(id),
        }
    }
}

fn encode<'a>(
    tokenizer: &tokenizers::Tokenizer,
    text: impl Into<tokenizers::EncodeInput<'a>>,
) -> Result<tokenizers::Encoding, EmbeddingError> {
    tokenizer.encode_fast(text, true).map_err(|error| EmbeddingError::Text(error.to_string()))
}

/// The second text begins with the first token of type 1.
fn sequence(encoding: &tokenizers::Encoding) -> Sequence {
    let ids = encoding.get_ids().to_vec();
    let second_from = encoding.get_type_ids().iter().position(|kind| *kind > 0).unwrap_or(ids.len());
    Sequence { ids, second_from }
}

/// A vocabulary is nothing to read in a log.
impl std::fmt::Debug for TextEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TextEncoder({} tokens)", self.vocab_size())
    }
}
