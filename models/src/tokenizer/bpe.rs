//! Byte-level BPE (`tokenizer.ggml.model` = gpt2): words to tokens by the vocabulary's merges. The merging itself is the
//! `tokenizers` crate's. Knows no special tokens: no text given to it becomes one.

use std::collections::HashMap;

use tokenizers::Model as _;
use tokenizers::models::bpe::{BPE, Merges, Vocab as BpeVocab};

use crate::gguf::Gguf;

use super::byte_level;
use super::error::TokenizerError;
use super::pre_tokenizer::PreTokenizer;
use super::vocab::{Vocab, string_array};

#[derive(Debug)]
pub(super) struct Bpe {
    pre_tokenizer: PreTokenizer,
    model: BPE,
    characters: [char; 256],
    /// Bytes that no token of the vocabulary stands for alone.
    missing: Vec<u8>,
}

impl Bpe {
    /// `reserved`: the tokens no text may become.
    pub(super) fn read(gguf: &Gguf, vocab: &Vocab, reserved: &HashMap<String, u32>, pre_tokenizer: PreTokenizer) -> Result<Self, TokenizerError> {
        let mut ids = BpeVocab::with_capacity(vocab.len());
        for (id, name, kind) in vocab.iter() {
            if kind.is_reserved() {
                continue;
            }
            if let Some(first) = ids.insert(name.to_owned(), id) {
                let (file, token) = (gguf.name().to_owned(), name.to_owned());
                return Err(TokenizerError::DuplicateToken { file, token, first, second: id });
            }
        }
        let merges = read_merges(gguf, reserved, &ids)?;
        let characters = byte_level::characters();
        let missing = (0..=255u8).filter(|byte| !ids.contains_key(characters[usize::from(*byte)].encode_utf8(&mut [0; 4]) as &str));
        let missing = missing.collect();
        let model = BPE::builder().vocab_and_merges(ids, merges).ignore_merges(pre_tokenizer.ignore_merges).build();
        let model = model.map_err(|error| TokenizerError::Bpe(error.to_string()))?;
        Ok(Self { pre_tokenizer, model, characters, missing })
    }

    pub(super) fn adds_bos(&self) -> bool {
        self.pre_tokenizer.adds_bos
    }

    pub(super) fn id(&self, name: &str) -> Option<u32> {
        self.model.token_to_id(name)
    }

    /// Appends the tokens of a text without special tokens.
    pub(super) fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let mut written = String::new();
        for word in self.pre_tokenizer.words(text) {
            if let Some(byte) = word.bytes().find(|byte| self.missing.contains(byte)) {
                return Err(TokenizerError::NoByteToken(byte));
            }
            written.clear();
            written.extend(word.bytes().map(|byte| self.characters[usize::from(byte)]));
            let tokens = self.model.tokenize(&written).map_err(|error| TokenizerError::Bpe(error.to_string()))?;
            ids.extend(tokens.iter().map(|token| token.id));
        }
        Ok(())
    }
}

fn read_merges(gguf: &Gguf, reserved: &HashMap<String, u32>, ids: &BpeVocab) -> Result<Merges, TokenizerError> {
    let file = || gguf.name().to_owned();
    let array = string_array(gguf, "tokenizer.ggml.merges")?;
    let mut merges = Merges::with_capacity(array.len());
    for (index, bytes) in array.strings().enumerate() {
        let bad = || TokenizerError::BadMerge { file: file(), index, merge: String::from_utf8_lossy(bytes).into_owned() };
        let merge = std::str::from_utf8(bytes).map_err(|_| bad())?;
        // A token may start with a space where it is written in plain text, so the separator is the first one after that.
        let first_len_bytes = merge.chars().next().ok_or_else(bad)?.len_utf8();
        let space = merge[first_len_bytes..].find(' ').ok_or_else(bad)? + first_len_bytes;
        let (left, right) = (&merge[..space], &merge[space + 1..]);
        if right.is_empty() {
            return Err(bad());
        }
        let whole = [left, right].concat();
        let absent = [left, right, &whole].into_iter().find(|token| !ids.contains_key(*token));
        match absent {
            None => merges.push((left.to_owned(), right.to_owned())),
            // It leads to or from a token that no text may become.
            Some(token) if reserved.contains_key(token) => {}
            Some(token) => {
                return Err(TokenizerError::MergeWithoutToken { file: file(), index, merge: merge.to_owned(), token: token.to_owned() });
            }
        }
    }
    Ok(merges)
}
