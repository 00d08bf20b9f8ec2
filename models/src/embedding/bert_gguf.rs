//! BERT in a GGUF file (`general.architecture` "bert"): its names for the tensors, and its WordPiece vocabulary.
//!
//! The vocabulary of such a file marks words ("▁the") where BERT's own marks what goes on ("##ing").

use candle_core::Device;
use kernels::Weight;
use serde_json::json;

use super::encoder::{Encoder, EncoderConfig, EncoderTensors, Head};
use super::pooling::Pooling;
use super::text::TextEncoder;
use super::{About, EmbeddingError, EmbeddingModel, Gives};
use crate::gguf::{Array, Gguf};

pub const ARCHITECTURE: &str = "bert";
/// What begins a word.
const WORD_MARK: char = '\u{2581}';

pub fn load(gguf: &Gguf) -> Result<EmbeddingModel, EmbeddingError> {
    let numbers = numbers(gguf)?;
    let pooling = match gguf.get::<u32>("bert.pooling_type")? {
        None => Pooling::Mean,
        Some(number) => Pooling::of_gguf(number).ok_or_else(|| {
            error(gguf, format_args!("\"bert.pooling_type\" is {number}; this build knows 1 (mean), 2 (first token) and 3 (last)"))
        })?,
    };
    let text = tokenizer(gguf)?;
    let tokens_max = numbers.tokens_max();
    let memory_bytes = gguf.tensor_bytes() + numbers.scratch_bytes(tokens_max);
    let embedder = Box::new(Encoder::load(&GgufTensors(gguf), numbers, Head::Pool(pooling))?);
    let about = About { architecture: ARCHITECTURE.to_owned(), tokens_max, gives: Gives::Embedding, memory_bytes };
    Ok(EmbeddingModel { embedder, text, about })
}

fn numbers(gguf: &Gguf) -> Result<EncoderConfig, EmbeddingError> {
    let rows = |name: &str| Ok::<_, EmbeddingError>(gguf.tensor(name)?.shape.get(1).copied().unwrap_or(1));
    let numbers = EncoderConfig {
        layers: gguf.require("bert.block_count")?,
        hidden: gguf.require("bert.embedding_length")?,
        heads: gguf.require("bert.attention.head_count")?,
        feed_forward: gguf.require("bert.feed_forward_length")?,
        vocab: rows("token_embd.weight")?,
        positions: rows("position_embd.weight")?,
        first_position: 0,
        token_types: if gguf.find_tensor("token_types.weight").is_some() { rows("token_types.weight")? } else { 0 },
        norm_eps: gguf.require("bert.attention.layer_norm_epsilon")?,
    };
    if gguf.get::<bool>("bert.attention.causal")? == Some(true) {
        return Err(error(gguf, "\"bert.attention.causal\" is true, which this build does not know"));
    }
    if numbers.heads == 0 || numbers.hidden == 0 || !numbers.hidden.is_multiple_of(numbers.heads) {
        return Err(error(gguf, format_args!("{} is not divided by {} heads", numbers.hidden, numbers.heads)));
    }
    Ok(numbers)
}

struct GgufTensors<'a>(&'a Gguf);

impl GgufTensors<'_> {
    /// `expected` in ggml order: row length first.
    fn check(&self, name: &str, expected: &[usize]) -> Result<(), EmbeddingError> {
        let found = &self.0.tensor(name)?.shape;
        if found.as_slice() != expected && !(found.len() == 1 && expected == [found[0], 1]) {
            return Err(error(self.0, format_args!("tensor {name:?} has the shape {found:?}, but the metadata says {expected:?}")));
        }
        Ok(())
    }
}

impl EncoderTensors for GgufTensors<'_> {
    fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Weight, EmbeddingError> {
        let name = gguf_name(name);
        self.check(&name, &[cols, rows])?;
        let bytes = self.0.tensor(&name)?;
        Weight::new(bytes.bytes().clone(), bytes.ty, rows, cols, &Device::Cpu).map_err(|problem| EmbeddingError::Weight {
            file: self.0.name().to_owned(),
            name,
            problem: Box::new(problem),
        })
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, EmbeddingError> {
        let name = gguf_name(name);
        self.check(&name, &[len])?;
        Ok(self.0.dense_f32(&name, &Device::Cpu)?.flatten_all()?.to_vec1()?)
    }
}

/// `encoder.layer.3.attention.self.query.weight` -> `blk.3.attn_q.weight`.
fn gguf_name(name: &str) -> String {
    const NAMES: [(&str, &str); 13] = [
        ("embeddings.word_embeddings", "token_embd"),
        ("embeddings.position_embeddings", "position_embd"),
        ("embeddings.token_type_embeddings", "token_types"),
        ("embeddings.LayerNorm", "token_embd_norm"),
        ("encoder.layer", "blk"),
        ("attention.self.query", "attn_q"),
        ("attention.self.key", "attn_k"),
        ("attention.self.value", "attn_v"),
        ("attention.output.dense", "attn_output"),
        ("attention.output.LayerNorm", "attn_output_norm"),
        ("intermediate.dense", "ffn_up"),
        ("output.dense", "ffn_down"),
        ("output.LayerNorm", "layer_output_norm"),
    ];
    NAMES.iter().fold(name.to_owned(), |name, (theirs, ours)| name.replace(theirs, ours))
}

/// The tokenizer of BERT over the file's vocabulary, told to the library as it would stand in a `tokenizer.json`.
fn tokenizer(gguf: &Gguf) -> Result<TextEncoder, EmbeddingError> {
    let kind: &str = gguf.require("tokenizer.ggml.model")?;
    if kind != "bert" {
        return Err(error(gguf, format_args!("\"tokenizer.ggml.model\" is {kind:?}; of an encoder this build knows \"bert\"")));
    }
    let tokens: &Array = gguf.require("tokenizer.ggml.tokens")?;
    let kinds: Option<&Array> = gguf.get("tokenizer.ggml.token_type")?;
    let text_of = |(index, bytes)| std::str::from_utf8(bytes).map_err(|_| error(gguf, format_args!("token {index} is not UTF-8")));
    let tokens: Vec<&str> = tokens.strings().enumerate().map(text_of).collect::<Result<_, _>>()?;
    let id = |key: &str, default: &str| -> Result<(u32, String), EmbeddingError> {
        let found = tokens.iter().position(|token| *token == default).map(|id| id as u32);
        let id =
            gguf.get::<u32>(key)?.or(found).ok_or_else(|| error(gguf, format_args!("there is neither {key:?} nor a token {default:?}")))?;
        let name = tokens.get(id as usize).ok_or_else(|| error(gguf, format_args!("{key:?} is {id}, beyond the vocabulary")))?;
        Ok((id, (*name).to_owned()))
    };
    let (first_id, first) = id("tokenizer.ggml.cls_token_id", "[CLS]")?;
    let (last_id, last) = id("tokenizer.ggml.seperator_token_id", "[SEP]")?;
    let (_, unknown) = id("tokenizer.ggml.unknown_token_id", "[UNK]")?;
    let is_control = |index: usize| kinds.and_then(|kinds| kinds.get(index)?.as_u64()).is_some_and(|kind| kind == 2 || kind == 3);
    let mut vocab = serde_json::Map::new();
    let mut special = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        let bracketed = token.starts_with('[') && token.ends_with(']') && token.len() > 2;
        let name = match token.strip_prefix(WORD_MARK) {
            Some(word) => word.to_owned(),
            None if is_control(index) || kinds.is_none() && bracketed || [&first, &last, &unknown].iter().any(|name| name == token) => {
                special.push(json!({"id": index, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}));
                (*token).to_owned()
            }
            None => format!("##{token}"),
        };
        vocab.insert(name, index.into());
    }
    // Upper case in a vocabulary is that of a model which tells it from lower.
    let lowercase = !tokens.iter().any(|token| token.starts_with(WORD_MARK) && token.chars().any(char::is_uppercase));
    let frame = |id: &str, kind: u32| json!({"SpecialToken": {"id": id, "type_id": kind}});
    let text = |id: &str, kind: u32| json!({"Sequence": {"id": id, "type_id": kind}});
    let json = json!({
        "version": "1.0",
        "added_tokens": special,
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": lowercase},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [frame(&first, 0), text("A", 0), frame(&last, 0)],
            "pair": [frame(&first, 0), text("A", 0), frame(&last, 0), text("B", 1), frame(&last, 1)],
            "special_tokens": {
                first.clone(): {"id": first, "ids": [first_id], "tokens": [first]},
                last.clone(): {"id": last, "ids": [last_id], "tokens": [last]},
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": unknown, "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocab},
    });
    TextEncoder::from_json(json.to_string().as_bytes()).map_err(|problem| error(gguf, problem))
}

fn error(gguf: &Gguf, problem: impl std::fmt::Display) -> EmbeddingError {
    EmbeddingError::Tensor { file: gguf.name().to_owned(), problem: problem.to_string() }
}

#[cfg(test)]
mod tests {
    use super::gguf_name;

    #[test]
    fn names_of_the_file() {
        for (theirs, ours) in [
            ("embeddings.LayerNorm.bias", "token_embd_norm.bias"),
            ("encoder.layer.11.attention.output.LayerNorm.weight", "blk.11.attn_output_norm.weight"),
            ("encoder.layer.0.attention.output.dense.bias", "blk.0.attn_output.bias"),
            ("encoder.layer.2.output.dense.weight", "blk.2.ffn_down.weight"),
            ("encoder.layer.2.output.LayerNorm.weight", "blk.2.layer_output_norm.weight"),
        ] {
            assert_eq!(gguf_name(theirs), ours);
        }
    }
}
