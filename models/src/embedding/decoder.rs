//! Vectors from a decoder: a model made for them (Qwen3-Embedding and its kin, in a GGUF file), or the chat model that is loaded anyway.

use std::sync::Arc;

use candle_core::Device;

use super::pooling::Pooling;
use super::text::TextEncoder;
use super::{About, Embedder, EmbeddingError, EmbeddingModel, Gives, Pause, Sequence};
use crate::families::Family;
use crate::gguf::Gguf;
use crate::layers::decoder::Decoder;
use crate::memory::embedding_bytes;
use crate::model::ModelError;
use crate::tokenizer::Tokenizer;

/// Longest text of a model made for vectors, whatever context it declares: residuals of all its tokens are held at once.
const TOKENS_MAX: usize = 8_192;

/// A decoder whose last hidden states are pooled.
#[derive(Debug)]
pub struct DecoderEmbedder {
    decoder: Decoder,
    pooling: Pooling,
    tokens_max: usize,
}

impl DecoderEmbedder {
    pub fn new(decoder: Decoder, pooling: Pooling, tokens_max: usize) -> Self {
        Self { decoder, pooling, tokens_max }
    }
}

impl Embedder for DecoderEmbedder {
    fn width(&self) -> usize {
        self.decoder.model_config().hidden
    }

    fn vocab(&self) -> usize {
        self.decoder.model_config().vocab
    }

    fn embed(&mut self, sequences: &[Sequence], pause: &mut Pause<'_>) -> Result<Vec<Vec<f32>>, EmbeddingError> {
        let (width, tokens_max) = (self.width(), self.tokens_max);
        let mut vector = |sequence: &Sequence| match sequence.ids.len() {
            tokens if !(1..=tokens_max).contains(&tokens) => Err(EmbeddingError::Length { tokens, tokens_max }),
            _ => Ok(self.pooling.pool(&self.decoder.hidden(&sequence.ids, pause)?, width)),
        };
        sequences.iter().map(&mut vector).collect()
    }
}

/// A GGUF file of a family of decoders. How it pools is in its metadata; where nothing is said, the mean.
pub(super) fn load(gguf: &Gguf, tokenizer: Arc<Tokenizer>, device: &Device) -> Result<EmbeddingModel, EmbeddingError> {
    let family = Family::of(gguf)?;
    let architecture = family.architecture();
    let hyper = family.hyperparameters(gguf).map_err(|problem| ModelError::config(gguf, problem))?;
    let key = format!("{architecture}.pooling_type");
    let pooling = match gguf.get::<u32>(&key)? {
        None => Pooling::Mean,
        Some(number) => Pooling::of_gguf(number).ok_or_else(|| {
            let problem = format!("{key:?} is {number}; this build knows 1 (mean), 2 (first token) and 3 (last)");
            EmbeddingError::Tensor { file: gguf.name().to_owned(), problem }
        })?,
    };
    let tokens_max = hyper.model.context_max.min(TOKENS_MAX);
    let about = About {
        architecture: architecture.to_owned(),
        tokens_max,
        gives: Gives::Embedding,
        memory_bytes: gguf.tensor_bytes() + embedding_bytes(&hyper, tokens_max),
    };
    let decoder = family.load(gguf, device)?;
    if tokenizer.vocab_size() > hyper.model.vocab {
        let problem = format!("the tokenizer has {} tokens and the embedding {} rows", tokenizer.vocab_size(), hyper.model.vocab);
        return Err(EmbeddingError::Tensor { file: gguf.name().to_owned(), problem });
    }
    let embedder = Box::new(DecoderEmbedder::new(decoder, pooling, tokens_max));
    Ok(EmbeddingModel { embedder, text: TextEncoder::Gguf(tokenizer), about })
}
