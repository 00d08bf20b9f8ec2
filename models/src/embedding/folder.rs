//! A model as Hugging Face's tools save it: which architecture `config.json` names, how sentence-transformers' files say to pool, and the
//! tokenizer.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::encoder::{Encoder, EncoderConfig, Head, Projection};
use super::pooling::Pooling;
use super::safetensors::TensorFile;
use super::text::TextEncoder;
use super::{About, EmbeddingError, EmbeddingModel, Gives, file_error};

/// Names of the files; the last two say how to pool and how long a text may be, and may be absent.
pub const CONFIG: &str = "config.json";
pub const TOKENIZER: &str = "tokenizer.json";
pub const WEIGHTS: &str = "model.safetensors";
pub const POOLING: &str = "1_Pooling/config.json";
pub const LENGTH: &str = "sentence_bert_config.json";

/// Far above any encoder there is, far below what would overflow a product.
const SIZE_MAX: u64 = 1 << 24;

pub fn load(folder: &Path, weights: &Path) -> Result<EmbeddingModel, EmbeddingError> {
    let config = JsonFile::open(&folder.join(CONFIG))?;
    let family = Family::of(&config)?;
    let numbers = numbers(&config, family)?;
    let tensors = TensorFile::open(weights)?;
    let (head, gives) = head(folder, &config, family, &tensors, &numbers)?;
    let text = TextEncoder::from_file(&folder.join(TOKENIZER))?;
    if text.vocab_size() > numbers.vocab {
        let problem = format!("has {} tokens and the model {} rows: they are of different models", text.vocab_size(), numbers.vocab);
        return Err(file_error(&folder.join(TOKENIZER), problem));
    }
    let tokens_max = match JsonFile::open_if_there(&folder.join(LENGTH))? {
        Some(file) => file.size("max_seq_length")?.unwrap_or(usize::MAX).min(numbers.tokens_max()),
        None => numbers.tokens_max(),
    };
    let memory_bytes = tensors.bytes() + numbers.scratch_bytes(tokens_max);
    let embedder = Box::new(Encoder::load(&tensors, numbers, head)?);
    Ok(EmbeddingModel { embedder, text, about: About { architecture: family.name().to_owned(), tokens_max, gives, memory_bytes } })
}

/// What `model_type` can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Bert,
    Roberta,
    XlmRoberta,
}

impl Family {
    const ALL: [Self; 3] = [Self::Bert, Self::Roberta, Self::XlmRoberta];

    fn of(config: &JsonFile) -> Result<Self, EmbeddingError> {
        let name = config.text("model_type")?;
        let found = Self::ALL.into_iter().find(|family| family.name() == name);
        let known = Self::ALL.map(Self::name).join(", ");
        found.ok_or_else(|| config.error(format_args!("\"model_type\" is {name:?}; this build knows {known}")))
    }

    fn name(self) -> &'static str {
        match self {
            Self::Bert => "bert",
            Self::Roberta => "roberta",
            Self::XlmRoberta => "xlm-roberta",
        }
    }
}

fn numbers(config: &JsonFile, family: Family) -> Result<EncoderConfig, EmbeddingError> {
    let size = |key: &str| config.size(key)?.ok_or_else(|| config.error(format_args!("{key:?} is missing")));
    for (key, wanted) in [("hidden_act", "gelu"), ("position_embedding_type", "absolute")] {
        match config.value.get(key).and_then(Value::as_str) {
            Some(found) if found != wanted => return Err(config.error(format_args!("{key:?} is {found:?}; this build knows {wanted:?}"))),
            _ => {}
        }
    }
    let numbers = EncoderConfig {
        layers: size("num_hidden_layers")?,
        hidden: size("hidden_size")?,
        heads: size("num_attention_heads")?,
        feed_forward: size("intermediate_size")?,
        vocab: size("vocab_size")?,
        positions: size("max_position_embeddings")?,
        first_position: match family {
            Family::Bert => 0,
            // Positions count from the padding token's id on.
            Family::Roberta | Family::XlmRoberta => config.value.get("pad_token_id").and_then(Value::as_u64).unwrap_or(1) as usize + 1,
        },
        token_types: config.value.get("type_vocab_size").and_then(Value::as_u64).unwrap_or(2).min(SIZE_MAX) as usize,
        norm_eps: config.value.get("layer_norm_eps").and_then(Value::as_f64).unwrap_or(1e-12) as f32,
    };
    if !numbers.hidden.is_multiple_of(numbers.heads) {
        return Err(config.error(format_args!("{} is not divided by {} heads", numbers.hidden, numbers.heads)));
    }
    if numbers.tokens_max() == 0 {
        return Err(config.error("\"max_position_embeddings\" leaves no position for a token"));
    }
    Ok(numbers)
}

/// A file with a classifier of one number is a cross-encoder.
fn head(
    folder: &Path,
    config: &JsonFile,
    family: Family,
    tensors: &TensorFile,
    numbers: &EncoderConfig,
) -> Result<(Head, Gives), EmbeddingError> {
    let (dense, output) = match family {
        Family::Bert => ("pooler.dense", "classifier"),
        Family::Roberta | Family::XlmRoberta => ("classifier.dense", "classifier.out_proj"),
    };
    if !tensors.has(&format!("{output}.weight")) {
        return Ok((Head::Pool(pooling(folder)?), Gives::Embedding));
    }
    let labels = match config.value.get("id2label") {
        Some(Value::Object(labels)) => labels.len(),
        _ => 2,
    };
    if labels != 1 {
        return Err(config.error(format_args!("a classifier of {labels} labels; one label makes a cross-encoder, none an embedding model")));
    }
    let dense = Projection::load(tensors, dense, numbers.hidden, numbers.hidden)?;
    let output = Projection::load(tensors, output, 1, numbers.hidden)?;
    Ok((Head::Classify { dense, output }, Gives::Relevance))
}

/// As sentence-transformers' file says; the mean where there is none.
fn pooling(folder: &Path) -> Result<Pooling, EmbeddingError> {
    let Some(file) = JsonFile::open_if_there(&folder.join(POOLING))? else { return Ok(Pooling::Mean) };
    let modes = [
        ("pooling_mode_mean_tokens", Pooling::Mean),
        ("pooling_mode_cls_token", Pooling::First),
        ("pooling_mode_max_tokens", Pooling::Max),
        ("pooling_mode_lasttoken", Pooling::Last),
    ];
    let is_on = |key: &str| file.value.get(key).and_then(Value::as_bool).unwrap_or(false);
    let mut on = modes.into_iter().filter(|(key, _)| is_on(key));
    match (on.next(), on.next()) {
        (Some((_, pooling)), None) => Ok(pooling),
        (Some(_), Some(_)) => Err(file.error("asks for several ways of pooling at once")),
        (None, _) => Err(file.error(format_args!("asks for none of {}", modes.map(|(key, _)| key).join(", ")))),
    }
}

/// A file of JSON and its path, for errors.
struct JsonFile {
    path: PathBuf,
    value: Value,
}

impl JsonFile {
    fn open(path: &Path) -> Result<Self, EmbeddingError> {
        Self::open_if_there(path)?.ok_or_else(|| file_error(path, "is missing"))
    }

    fn open_if_there(path: &Path) -> Result<Option<Self>, EmbeddingError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(problem) if problem.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(problem) => return Err(file_error(path, problem)),
        };
        let value = serde_json::from_str(&text).map_err(|problem| file_error(path, problem))?;
        Ok(Some(Self { path: path.to_owned(), value }))
    }

    fn text(&self, key: &str) -> Result<&str, EmbeddingError> {
        self.value.get(key).and_then(Value::as_str).ok_or_else(|| self.error(format_args!("{key:?} is missing")))
    }

    /// A positive count, if it is there.
    fn size(&self, key: &str) -> Result<Option<usize>, EmbeddingError> {
        let Some(value) = self.value.get(key).filter(|value| !value.is_null()) else { return Ok(None) };
        match value.as_u64().filter(|size| (1..=SIZE_MAX).contains(size)) {
            Some(size) => Ok(Some(size as usize)),
            None => Err(self.error(format_args!("{key:?} is {value}, which is no size"))),
        }
    }

    fn error(&self, problem: impl std::fmt::Display) -> EmbeddingError {
        file_error(&self.path, problem)
    }
}
