//! What can be wrong with the tokenizer a GGUF file carries.

use crate::GgufError;

#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A key is missing or has the wrong type; names the file.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    #[error("{file}: unknown tokenizer.ggml.model {found:?}; this build knows gpt2 (byte-level BPE) and llama (SentencePiece)")]
    UnknownModel { file: String, found: String },
    #[error("{file}: unknown tokenizer.ggml.pre {found:?}: how this model splits text into words is not known to this build")]
    UnknownPreTokenizer { file: String, found: String },
    #[error(
        "{file}: tokenizer.ggml.pre is missing: how this model splits text into words is not known; convert the model again with a converter of May 2024 or later"
    )]
    NoPreTokenizer { file: String },
    #[error("{file}: {key} has {found} entries, {wanted} wanted, one for each token")]
    Length { file: String, key: &'static str, found: usize, wanted: usize },
    #[error("{file}: the vocabulary is empty")]
    EmptyVocabulary { file: String },
    #[error("{file}: token {id} is not valid UTF-8")]
    NotUtf8 { file: String, id: usize },
    #[error("{file}: token {token:?} is in the vocabulary twice, as {first} and {second}")]
    DuplicateToken { file: String, token: String, first: u32, second: u32 },
    #[error("{file}: token {token:?} is a byte token and does not read like <0x0A>")]
    BadByteToken { file: String, token: String },
    #[error("{file}: merge {index} ({merge:?}) is not two tokens with a space between")]
    BadMerge { file: String, index: usize, merge: String },
    #[error("{file}: merge {index} ({merge:?}) needs the token {token:?}, which is not in the vocabulary")]
    MergeWithoutToken { file: String, index: usize, merge: String, token: String },
    #[error("{file}: {key} is {id}, and the vocabulary has {vocab} tokens")]
    SpecialOutOfRange { file: String, key: &'static str, id: u64, vocab: usize },
    #[error("{file}: {flag} is true, and {key} is missing")]
    FlagWithoutToken { file: String, flag: &'static str, key: &'static str },
    #[error("the vocabulary has no token for the byte {0:#04x}")]
    NoByteToken(u8),
    #[error("the special tokens cannot be searched for: {0}")]
    Patterns(String),
}
