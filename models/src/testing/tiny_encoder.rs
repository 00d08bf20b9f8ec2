//! Tiny random encoders of the BERT family, as Hugging Face's tools would save them and as a GGUF file.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use super::blocks::Random;
use crate::gguf::writer::GgufWriter;

pub const HIDDEN: usize = 48;
pub const HEADS: usize = 4;
pub const FEED_FORWARD: usize = 80;
pub const LAYERS: usize = 3;
pub const POSITIONS: usize = 70;
const SPECIAL: [&str; 4] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"];
const WORDS: [&str; 8] = ["hello", "world", "the", "cat", "##ing", "##ed", "sat", "!"];

/// Which of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TinyEncoder {
    pub seed: u64,
    /// `bert`, `roberta` or `xlm-roberta`.
    pub model_type: &'static str,
    /// With a classifier of one label, as cross-encoders have it.
    pub classifier: bool,
}

/// Name, shape (rows first) and values.
pub type NamedTensor = (String, Vec<usize>, Vec<f32>);

impl TinyEncoder {
    pub fn bert(seed: u64) -> Self {
        Self { seed, model_type: "bert", classifier: false }
    }

    /// The tokens: special ones, a few words, every letter and digit as a beginning and as what goes on.
    pub fn vocabulary() -> Vec<String> {
        let letters = ('a'..='z').chain('0'..='9');
        let mut tokens: Vec<String> = SPECIAL.iter().chain(&WORDS).map(|token| (*token).to_owned()).collect();
        tokens.extend(letters.flat_map(|letter| [letter.to_string(), format!("##{letter}")]));
        tokens
    }

    pub fn config(&self) -> Value {
        let mut config = json!({
            "model_type": self.model_type, "hidden_act": "gelu", "vocab_size": Self::vocabulary().len(), "hidden_size": HIDDEN,
            "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": FEED_FORWARD, "type_vocab_size": 2,
            "max_position_embeddings": POSITIONS, "layer_norm_eps": 1e-12, "pad_token_id": 0, "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0, "initializer_range": 0.02, "position_embedding_type": "absolute",
        });
        if self.classifier {
            config["id2label"] = json!({"0": "LABEL_0"});
        }
        config
    }

    /// Under Hugging Face's names.
    pub fn tensors(&self) -> Vec<NamedTensor> {
        let mut plan: Vec<(String, Vec<usize>, f32, f32)> = Vec::new();
        let vocab = Self::vocabulary().len();
        let norm = |plan: &mut Vec<_>, name: String| {
            plan.push((format!("{name}.weight"), vec![HIDDEN], 1.0, 0.2));
            plan.push((format!("{name}.bias"), vec![HIDDEN], 0.0, 0.2));
        };
        let matrix = |plan: &mut Vec<_>, name: String, rows: usize, cols: usize| {
            plan.push((format!("{name}.weight"), vec![rows, cols], 0.0, 1.5 / (cols as f32).sqrt()));
            plan.push((format!("{name}.bias"), vec![rows], 0.0, 0.2));
        };
        for (table, rows) in [("word", vocab), ("position", POSITIONS), ("token_type", 2)] {
            plan.push((format!("embeddings.{table}_embeddings.weight"), vec![rows, HIDDEN], 0.0, 1.0));
        }
        norm(&mut plan, "embeddings.LayerNorm".to_owned());
        for layer in 0..LAYERS {
            let name = |part: &str| format!("encoder.layer.{layer}.{part}");
            for part in ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"] {
                matrix(&mut plan, name(part), HIDDEN, HIDDEN);
            }
            norm(&mut plan, name("attention.output.LayerNorm"));
            matrix(&mut plan, name("intermediate.dense"), FEED_FORWARD, HIDDEN);
            matrix(&mut plan, name("output.dense"), HIDDEN, FEED_FORWARD);
            norm(&mut plan, name("output.LayerNorm"));
        }
        let is_bert = self.model_type == "bert";
        if self.classifier && is_bert {
            matrix(&mut plan, "pooler.dense".to_owned(), HIDDEN, HIDDEN);
        }
        if self.classifier {
            // The body of a model with a head on it has a name of its own, the head has none.
            let body = if is_bert { "bert." } else { "roberta." };
            plan.iter_mut().for_each(|(name, ..)| name.insert_str(0, body));
            if is_bert {
                matrix(&mut plan, "classifier".to_owned(), 1, HIDDEN);
            } else {
                matrix(&mut plan, "classifier.dense".to_owned(), HIDDEN, HIDDEN);
                matrix(&mut plan, "classifier.out_proj".to_owned(), 1, HIDDEN);
            }
        }
        let drawn = |(name, shape, mean, deviation): (String, Vec<usize>, f32, f32)| {
            let mut random = Random::new(self.seed, &name);
            let values = (0..shape.iter().product()).map(|_| mean + deviation * random.uniform()).collect();
            (name, shape, values)
        };
        plan.into_iter().map(drawn).collect()
    }

    /// Writes `config.json`, `tokenizer.json`, `model.safetensors` and sentence-transformers' files into an existing folder.
    pub fn save(&self, folder: &Path) {
        let write = |name: &str, text: String| std::fs::write(folder.join(name), text).expect("a folder that can be written");
        write("config.json", self.config().to_string());
        write("tokenizer.json", tokenizer_json().to_string());
        write("sentence_bert_config.json", json!({"max_seq_length": POSITIONS - 6, "do_lower_case": false}).to_string());
        std::fs::create_dir_all(folder.join("1_Pooling")).expect("a folder that can be written");
        let pooling = json!({"word_embedding_dimension": HIDDEN, "pooling_mode_cls_token": false, "pooling_mode_mean_tokens": true});
        write("1_Pooling/config.json", pooling.to_string());
        let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = self
            .tensors()
            .into_iter()
            .map(|(name, shape, values)| (name, shape, values.iter().flat_map(|x| x.to_le_bytes()).collect()))
            .collect();
        let views: HashMap<&str, TensorView<'_>> = tensors
            .iter()
            .map(|(name, shape, bytes)| {
                (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).expect("as many bytes as the shape says"))
            })
            .collect();
        safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).expect("a folder that can be written");
    }

    /// The same model as a GGUF file, under llama.cpp's names and with its marks in the vocabulary.
    pub fn gguf(&self, pooling_type: u32) -> GgufWriter {
        let mut writer = GgufWriter::new();
        let tokens: Vec<String> = Self::vocabulary()
            .into_iter()
            .map(|token| match token.strip_prefix("##") {
                Some(rest) => rest.to_owned(),
                None if token.starts_with('[') => token,
                None => format!("\u{2581}{token}"),
            })
            .collect();
        let kinds: Vec<i32> = tokens.iter().map(|token| if token.starts_with('[') { 3 } else { 1 }).collect();
        writer
            .set("general.architecture", "bert")
            .set("bert.block_count", LAYERS as u32)
            .set("bert.context_length", POSITIONS as u32)
            .set("bert.embedding_length", HIDDEN as u32)
            .set("bert.feed_forward_length", FEED_FORWARD as u32)
            .set("bert.attention.head_count", HEADS as u32)
            .set("bert.attention.layer_norm_epsilon", 1e-12f32)
            .set("bert.attention.causal", false)
            .set("bert.pooling_type", pooling_type)
            .set("tokenizer.ggml.model", "bert")
            .set("tokenizer.ggml.tokens", &tokens[..])
            .set("tokenizer.ggml.token_type", kinds)
            .set("tokenizer.ggml.unknown_token_id", 1u32)
            .set("tokenizer.ggml.cls_token_id", 2u32)
            .set("tokenizer.ggml.seperator_token_id", 3u32);
        const NAMES: [(&str, &str); 4] =
            [("word", "token_embd"), ("position", "position_embd"), ("token_type", "token_types"), ("LayerNorm", "token_embd_norm")];
        const PARTS: [(&str, &str); 8] = [
            ("attention.self.query", "attn_q"),
            ("attention.self.key", "attn_k"),
            ("attention.self.value", "attn_v"),
            ("attention.output.dense", "attn_output"),
            ("attention.output.LayerNorm", "attn_output_norm"),
            ("intermediate.dense", "ffn_up"),
            ("output.dense", "ffn_down"),
            ("output.LayerNorm", "layer_output_norm"),
        ];
        for (name, shape, values) in self.tensors() {
            let (stem, kind) = name.rsplit_once('.').expect("a name and what it is");
            let name = match stem.strip_prefix("encoder.layer.").and_then(|rest| rest.split_once('.')) {
                Some((layer, part)) => {
                    format!("blk.{layer}.{}.{kind}", PARTS.iter().find(|(theirs, _)| *theirs == part).expect("a known part").1)
                }
                None => {
                    let table = stem.trim_start_matches("embeddings.").trim_end_matches("_embeddings");
                    format!("{}.{kind}", NAMES.iter().find(|(theirs, _)| *theirs == table).expect("a known table").1)
                }
            };
            let shape: Vec<usize> = shape.iter().rev().copied().collect();
            writer.tensor_f32(&name, &shape, &values);
        }
        writer
    }
}

/// With the cutting and filling up that training leaves in such files.
fn tokenizer_json() -> Value {
    let vocab: serde_json::Map<String, Value> =
        TinyEncoder::vocabulary().into_iter().enumerate().map(|(id, token)| (token, id.into())).collect();
    let special = SPECIAL.iter().enumerate().map(|(id, token)| {
        json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true})
    });
    let frame = |id: &str, kind: u32| json!({"SpecialToken": {"id": id, "type_id": kind}});
    let text = |id: &str, kind: u32| json!({"Sequence": {"id": id, "type_id": kind}});
    json!({
        "version": "1.0",
        "truncation": {"max_length": 8, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": special.collect::<Vec<_>>(),
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [frame("[CLS]", 0), text("A", 0), frame("[SEP]", 0)],
            "pair": [frame("[CLS]", 0), text("A", 0), frame("[SEP]", 0), text("B", 1), frame("[SEP]", 1)],
            "special_tokens": {
                "[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
                "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]},
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocab},
    })
}
