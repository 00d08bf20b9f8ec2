//! Byte-level BPE (`tokenizer.ggml.model` = gpt2): words to tokens by the vocabulary's merges. The merging itself is the
//! `tokenizers` crate's. Knows no special tokens: no text given to it becomes one.

use std::collections::HashMap;

use tokenizers::Model as _;
use tokenizers::models::bpe::{BPE, Merges, Vocab as BpeVocab};

use crate::gguf::{Array, Gguf};

use super::byte_level;
use super::error::TokenizerError;
use super::pre_tokenizer::PreTokenizer;
use super::vocab::{Vocab, string_array};

pub(super) struct Bpe {
    pre_tokenizer: PreTokenizer,
    model: BPE,
    characters: [char; 256],
    /// Bytes that no token of the vocabulary stands for alone.
    missing: Vec<u8>,
}

impl Bpe {
    /// `reserved`: the tokens no text may become.
    pub(super) fn read(
        gguf: &Gguf,
        vocab: &Vocab,
        reserved: &HashMap<String, u32>,
        pre_tokenizer: PreTokenizer,
    ) -> Result<Self, TokenizerError> {
        let ids = read_ids(gguf, vocab)?;
        let characters = byte_level::characters();
        let missing = (0..=255u8).filter(|byte| !ids.contains_key(characters[usize::from(*byte)].encode_utf8(&mut [0; 4]) as &str));
        let missing = missing.collect();
        let array = string_array(gguf, "tokenizer.ggml.merges")?;
        let build = |ids, merges| BPE::builder().vocab_and_merges(ids, merges).ignore_merges(pre_tokenizer.ignore_merges).build();
        let merges = read_merges(gguf, array, |_| Ok(true))?;
        // The builder panics on a merge that is longer than every token, and refuses one that is no token.
        let longest_bytes = ids.keys().map(String::len).max().unwrap_or(0);
        let too_long = merges.iter().any(|(left, right)| left.len() + right.len() > longest_bytes);
        let built = if too_long { None } else { build(ids, merges).ok() };
        let model = match built {
            Some(model) => model,
            // A merge names a token that is not there, or one that no text may become: rare, so it is looked for only now.
            None => {
                let ids = read_ids(gguf, vocab)?;
                let merges = read_merges(gguf, array, |merge| leads_to_text(gguf, merge, reserved, &ids))?;
                build(ids, merges).map_err(|error| TokenizerError::Bpe(error.to_string()))?
            }
        };
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

fn read_ids(gguf: &Gguf, vocab: &Vocab) -> Result<BpeVocab, TokenizerError> {
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
    Ok(ids)
}

/// One line of the merge list.
struct Merge<'a> {
    index: usize,
    whole: &'a str,
    left: &'a str,
    right: &'a str,
}

fn read_merges(gguf: &Gguf, array: &Array, keep: impl Fn(&Merge<'_>) -> Result<bool, TokenizerError>) -> Result<Merges, TokenizerError> {
    let mut merges = Merges::with_capacity(array.len());
    for (index, bytes) in array.strings().enumerate() {
        let merge = Merge::parse(index, bytes).ok_or_else(|| {
            let (file, merge) = (gguf.name().to_owned(), String::from_utf8_lossy(bytes).into_owned());
            TokenizerError::BadMerge { file, index, merge }
        })?;
        if keep(&merge)? {
            merges.push((merge.left.to_owned(), merge.right.to_owned()));
        }
    }
    Ok(merges)
}

impl<'a> Merge<'a> {
    /// A token may start with a space where it is written in plain text, so the separator is the first one after that.
    fn parse(index: usize, bytes: &'a [u8]) -> Option<Self> {
        let whole = std::str::from_utf8(bytes).ok()?;
        let first_len_bytes = whole.chars().next()?.len_utf8();
        let space = whole[first_len_bytes..].find(' ')? + first_len_bytes;
        let (left, right) = (&whole[..space], &whole[space + 1..]);
        (!right.is_empty()).then_some(Self { index, whole, left, right })
    }
}

/// Whether all tokens of a merge are ones that text can become. Error: one of them is no token at all.
fn leads_to_text(gguf: &Gguf, merge: &Merge<'_>, reserved: &HashMap<String, u32>, ids: &BpeVocab) -> Result<bool, TokenizerError> {
    let joined = [merge.left, merge.right].concat();
    for token in [merge.left, merge.right, &joined] {
        if reserved.contains_key(token) {
            return Ok(false);
        }
        if !ids.contains_key(token) {
            let (file, index, merge) = (gguf.name().to_owned(), merge.index, merge.whole.to_owned());
            return Err(TokenizerError::MergeWithoutToken { file, index, merge, token: token.to_owned() });
        }
    }
    Ok(true)
}
