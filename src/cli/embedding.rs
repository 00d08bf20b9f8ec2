//! Where embeddings come from: a model of their own (`--embedding-model`), or the chat model's hidden states. Loads the one, counts what
//! either takes, and starts its thread.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use candle_core::Device;
use models::embedding::{self, Embedder, EmbeddingModel, Gives, Pooling, TextEncoder};
use models::{Family, Gguf, Model, Tokenizer};

use super::failure::Failure;
use super::load::file_stem;
use crate::config::Config;
use crate::embedding::{About, Embeddings};
use crate::engine::Engine;
use crate::hub::encoder::EncoderSource;
use crate::hub::{HubOptions, progress};

/// Longest text for the chat model: what it takes for the vectors of a text grows with its length, and counts although few ask for any.
const CHAT_TOKENS_MAX: usize = 2_048;

/// A model that does nothing else.
pub struct OwnModel {
    id: String,
    model: EmbeddingModel,
}

impl OwnModel {
    pub fn memory_bytes(&self) -> u64 {
        self.model.about.memory_bytes
    }
}

/// `None`: none was asked for.
pub fn open(config: &Config, device: &Device) -> Result<Option<OwnModel>, Failure> {
    let Some(name) = &config.models.embedding_model else { return Ok(None) };
    let source = || config.source("embedding_model").to_string();
    let options = HubOptions::from_env(&|name| std::env::var(name).ok(), config.models.offline);
    let parsed = EncoderSource::parse(name).with_context(source)?;
    let path: PathBuf = parsed.locate(&options, progress::for_stderr().as_mut()).with_context(source)?;
    let model = embedding::load(&path, device).with_context(source)?;
    let id = match parsed {
        EncoderSource::Path(path) => name_of(&path),
        EncoderSource::Repo { .. } => name.clone(),
    };
    Ok(Some(OwnModel { id, model }))
}

/// Of a file its name, of a folder its own; of `.` that of the folder it stands for.
fn name_of(path: &Path) -> String {
    let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    if whole.is_dir() { whole.file_name().unwrap_or(whole.as_os_str()).to_string_lossy().into_owned() } else { file_stem(path) }
}

/// What embeddings take of the memory budget.
pub fn memory_bytes(own: Option<&OwnModel>, gguf: &Gguf) -> anyhow::Result<u64> {
    if let Some(own) = own {
        return Ok(own.memory_bytes());
    }
    let hyper = Family::of(gguf)?.hyperparameters(gguf).with_context(|| gguf.name().to_owned())?;
    Ok(models::memory::embedding_bytes(&hyper, CHAT_TOKENS_MAX.min(hyper.model.context_max)))
}

/// The chat model's weights once more, for vectors.
pub struct ChatEmbedder {
    embedder: Box<dyn Embedder>,
    tokens_max: usize,
}

impl ChatEmbedder {
    /// `None`: models of this family give none.
    pub fn of(model: &dyn Model) -> Option<Self> {
        let tokens_max = CHAT_TOKENS_MAX.min(model.config().context_max);
        Some(Self { embedder: model.embedder(Pooling::Mean, tokens_max)?, tokens_max })
    }
}

/// Starts the thread: of the model of its own, where there is one, else of the chat model, whose name and tokenizer are given. `None`: there
/// is neither.
pub fn start(
    own: Option<OwnModel>,
    chat: Option<ChatEmbedder>,
    (chat_id, tokenizer): (&str, &Arc<Tokenizer>),
    engine: Engine,
) -> Option<Embeddings> {
    let (embedder, about) = match own {
        Some(OwnModel { id, model: EmbeddingModel { embedder, text, about } }) => {
            let (tokens_max, gives) = (about.tokens_max, about.gives);
            let about = About { id, text, tokens_max, gives, width: embedder.width(), vocab: embedder.vocab(), is_chat_model: false };
            (embedder, about)
        }
        None => {
            let ChatEmbedder { embedder, tokens_max } = chat?;
            let (id, text) = (chat_id.to_owned(), TextEncoder::Gguf(tokenizer.clone()));
            let (width, vocab) = (embedder.width(), embedder.vocab());
            (embedder, About { id, text, tokens_max, gives: Gives::Embedding, width, vocab, is_chat_model: true })
        }
    };
    Some(Embeddings::start(embedder, about, move || engine.stats().running > 0))
}
