//! Embedding models: the tokens of a text in, one vector out. Encoders of the BERT family, and decoders whose last hidden states
//! are pooled.
//!
//! Invariant: a vector depends on the tokens of its own text alone, to the bit: whoever else is computed at the same time changes
//! nothing. Knows no request; how vectors are scaled and sent is for others to say.

pub mod bert_gguf;
pub mod decoder;
pub mod encoder;
pub mod folder;
pub mod pooling;
pub mod safetensors;
pub mod text;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Device;
use kernels::WeightError;

use crate::gguf::{Gguf, GgufError};
use crate::model::ModelError;
use crate::tokenizer::{Tokenizer, TokenizerError};
pub use pooling::Pooling;
pub use text::TextEncoder;

/// One text, as tokens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sequence {
    pub ids: Vec<u32>,
    /// Tokens from here on are those of the second text of a pair; `ids.len()` where there is one text.
    pub second_from: usize,
}

impl Sequence {
    /// Of one text.
    pub fn single(ids: Vec<u32>) -> Self {
        Self { second_from: ids.len(), ids }
    }
}

/// Runs an embedding model.
pub trait Embedder: Send {
    /// Length of a vector.
    fn width(&self) -> usize;

    /// Tokens there are.
    fn vocab(&self) -> usize;

    /// One vector a sequence, not scaled to any length. `pause` is called between pieces of work of some milliseconds, and may take its
    /// time; `Break` ends the whole with [`EmbeddingError::Interrupted`].
    ///
    /// Errors: a sequence that is empty or too long, a token beyond the vocabulary, whatever the device fails with.
    fn embed(&mut self, sequences: &[Sequence], pause: &mut Pause<'_>) -> Result<Vec<Vec<f32>>, EmbeddingError>;
}

pub type Pause<'a> = dyn FnMut() -> ControlFlow<()> + 'a;

/// A model, how text is told to it, and what there is to know of it.
pub struct EmbeddingModel {
    pub embedder: Box<dyn Embedder>,
    pub text: TextEncoder,
    pub about: About,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    pub architecture: String,
    /// Longest sequence.
    pub tokens_max: usize,
    pub gives: Gives,
    /// Weights and the most that one call takes beside them.
    pub memory_bytes: u64,
}

/// What a vector of the model is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gives {
    /// The place of a text among others: texts alike lie in the same direction.
    Embedding,
    /// One number: how well the second text of a pair answers the first (a cross-encoder).
    Relevance,
}

#[derive(Debug, thiserror::Error)]
pub enum EmbeddingError {
    #[error("{path}: {problem}")]
    File { path: PathBuf, problem: String },
    #[error("{file}: {problem}")]
    Tensor { file: String, problem: String },
    #[error("{file}: tensor {name:?}: {problem}")]
    Weight { file: String, name: String, problem: Box<WeightError> },
    #[error(transparent)]
    Gguf(Box<GgufError>),
    #[error(transparent)]
    Model(Box<ModelError>),
    #[error(transparent)]
    Tokenizer(Box<TokenizerError>),
    #[error("the text cannot be made into tokens: {0}")]
    Text(String),
    #[error("a sequence of {tokens} tokens; it must have 1 to {tokens_max}")]
    Length { tokens: usize, tokens_max: usize },
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    #[error("interrupted")]
    Interrupted,
}

/// These are large, and rare: boxed, they cost the others nothing.
macro_rules! boxed {
    ($($variant:ident($error:ty)),*) => {
        $(impl From<$error> for EmbeddingError {
            fn from(error: $error) -> Self {
                Self::$variant(Box::new(error))
            }
        })*
    };
}

boxed!(Gguf(GgufError), Model(ModelError), Tokenizer(TokenizerError));

/// Loads a model: a folder as Hugging Face's tools save one (`config.json`, `tokenizer.json`, `model.safetensors`), the `.safetensors` file in
/// it, or a `.gguf` file. Encoders run on the CPU, decoders on `device`.
///
/// Errors: what is missing, and what cannot be computed, by name.
pub fn load(path: &Path, device: &Device) -> Result<EmbeddingModel, EmbeddingError> {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    match extension.as_deref() {
        Some("gguf") if path.is_file() => load_gguf(&Gguf::open(path)?, device),
        Some("safetensors") if path.is_file() => folder::load(path.parent().unwrap_or(Path::new(".")), path),
        _ if path.is_dir() => folder::load(path, &path.join(folder::WEIGHTS)),
        _ => Err(file_error(path, "is neither a folder with config.json, nor a .safetensors or .gguf file")),
    }
}

fn load_gguf(gguf: &Gguf, device: &Device) -> Result<EmbeddingModel, EmbeddingError> {
    if gguf.require::<&str>("general.architecture")? == bert_gguf::ARCHITECTURE {
        return bert_gguf::load(gguf);
    }
    let tokenizer = Arc::new(Tokenizer::from_gguf(gguf)?);
    decoder::load(gguf, tokenizer, device)
}

fn file_error(path: &Path, problem: impl std::fmt::Display) -> EmbeddingError {
    EmbeddingError::File { path: path.to_owned(), problem: problem.to_string() }
}

/// `Err` where the caller wants no more.
pub(crate) fn go_on(pause: &mut Pause<'_>) -> Result<(), EmbeddingError> {
    match pause() {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(EmbeddingError::Interrupted),
    }
}

/// A model is nothing to read in a log.
impl std::fmt::Debug for EmbeddingModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EmbeddingModel({:?})", self.about)
    }
}
