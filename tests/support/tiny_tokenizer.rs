//! A real tokenizer of 320 tokens: every byte, some pairs, the usual control tokens. Token id = byte, below 256.

use std::sync::Arc;

use kernels::SharedBytes;
use models::gguf::writer::GgufWriter;
use models::{Gguf, Tokenizer};

pub const VOCAB: usize = 320;
const CONTROL: [&str; 7] =
    ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|file_sep|>"];
const PAIRS: [&str; 10] = ["th", "he", "in", "er", "an", "re", "el", "lo", "or", "ou"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fim {
    Known,
    Unknown,
}

pub fn tiny_tokenizer(chat_template: Option<&str>, fim: Fim) -> Arc<Tokenizer> {
    let letters: Vec<char> = (0..=255).map(letter_of).collect();
    let mut tokens: Vec<String> = letters.iter().map(|letter| letter.to_string()).collect();
    tokens.extend(PAIRS.map(str::to_owned));
    let mut kinds = vec![1i32; tokens.len()];
    let control = if fim == Fim::Known { &CONTROL[..] } else { &CONTROL[..3] };
    let first_control = tokens.len() as u32;
    tokens.extend(control.iter().map(|name| name.to_string()));
    kinds.resize(tokens.len(), 3);
    while tokens.len() < VOCAB {
        tokens.push(format!("[unused{}]", tokens.len()));
        kinds.push(5);
    }
    let merges: Vec<String> = PAIRS.iter().map(|pair| format!("{} {}", &pair[..1], &pair[1..])).collect();
    let mut writer = GgufWriter::new();
    writer
        .set("general.architecture", "qwen3")
        .set("tokenizer.ggml.model", "gpt2")
        .set("tokenizer.ggml.pre", "qwen2")
        .set("tokenizer.ggml.tokens", &tokens[..])
        .set("tokenizer.ggml.token_type", kinds)
        .set("tokenizer.ggml.merges", &merges[..])
        .set("tokenizer.ggml.bos_token_id", first_control)
        .set("tokenizer.ggml.eos_token_id", first_control + 2)
        .set("tokenizer.ggml.add_bos_token", false);
    if let Some(template) = chat_template {
        writer.set("tokenizer.chat_template", template);
    }
    let gguf = Gguf::from_bytes(SharedBytes::new(Arc::new(writer.to_bytes())), "tiny.gguf").expect("our own file can be read");
    Arc::new(Tokenizer::from_gguf(&gguf).expect("our own tokenizer can be built"))
}

/// GPT-2's letters for bytes: a printable byte stands for itself, the others follow from U+0100 on.
fn letter_of(byte: u32) -> char {
    let printable = |byte: u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let code = if printable(byte) { byte } else { 0x100 + (0..byte).filter(|byte| !printable(*byte)).count() as u32 };
    char::from_u32(code).expect("a letter below U+0144")
}
