//! SentencePiece BPE (`tokenizer.ggml.model` = llama): the pair of neighbours that makes the token of the highest score is merged
//! first, until no pair makes a token; what is no token then is written in bytes. There are no words and no merge list: a text is
//! merged as a whole. Knows no special tokens: no text given to it becomes one.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::gguf::{Array, Gguf};

use super::error::TokenizerError;
use super::vocab::{Kind, Vocab, wrong_type};

/// Stands for a space in the vocabulary (U+2581).
pub(super) const SPACE: &str = "▁";

pub(super) struct Spm {
    /// Of every token.
    scores: Vec<f32>,
    /// The byte tokens.
    bytes: [Option<u32>; 256],
    unknown: Option<u32>,
}

/// A run of text that is one token, or one character that is none. Merged-away ones have length 0.
#[derive(Clone, Copy)]
struct Symbol {
    start: usize,
    len_bytes: usize,
    previous: Option<u32>,
    next: Option<u32>,
}

/// Two neighbours that together are a token.
struct Pair {
    score: f32,
    left: u32,
    right: u32,
    /// Of both together, when the pair was found: another length now means that one of them has changed.
    len_bytes: usize,
}

impl Spm {
    pub(super) fn read(gguf: &Gguf, vocab: &Vocab, unknown: Option<u32>) -> Result<Self, TokenizerError> {
        let file = || gguf.name().to_owned();
        let key = "tokenizer.ggml.scores";
        let scores = gguf.require::<&Array>(key)?.to_f32s().ok_or_else(|| wrong_type(gguf, key, "array of f32"))?;
        if scores.len() != vocab.len() {
            return Err(TokenizerError::Length { file: file(), key, found: scores.len(), wanted: vocab.len() });
        }
        let mut bytes = [None; 256];
        for (id, name) in vocab.of_kind(|kind| kind == Kind::Byte) {
            bytes[usize::from(byte_of(name, gguf)?)] = Some(id);
        }
        Ok(Self { scores, bytes, unknown })
    }

    /// Appends the tokens of a text without special tokens; spaces in it are still spaces. `vocab` is the one it was read with.
    pub(super) fn encode(&self, vocab: &Vocab, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let text = text.replace(' ', SPACE);
        let mut symbols = characters(&text);
        let mut pairs = BinaryHeap::new();
        for right in 1..symbols.len() as u32 {
            pairs.extend(self.pair(vocab, &text, &symbols, [Some(right - 1), Some(right)]));
        }
        while let Some(pair) = pairs.pop() {
            let (left, right) = (symbols[pair.left as usize], symbols[pair.right as usize]);
            if left.len_bytes == 0 || right.len_bytes == 0 || left.len_bytes + right.len_bytes != pair.len_bytes {
                continue;
            }
            symbols[pair.left as usize] = Symbol { len_bytes: pair.len_bytes, next: right.next, ..left };
            symbols[pair.right as usize].len_bytes = 0;
            if let Some(next) = right.next {
                symbols[next as usize].previous = Some(pair.left);
            }
            pairs.extend(self.pair(vocab, &text, &symbols, [left.previous, Some(pair.left)]));
            pairs.extend(self.pair(vocab, &text, &symbols, [Some(pair.left), right.next]));
        }
        for symbol in symbols.iter().filter(|symbol| symbol.len_bytes > 0) {
            self.write(vocab, &text[symbol.start..symbol.start + symbol.len_bytes], ids)?;
        }
        Ok(())
    }

    /// Two neighbours, where both are there and make a token.
    fn pair(&self, vocab: &Vocab, text: &str, symbols: &[Symbol], [left, right]: [Option<u32>; 2]) -> Option<Pair> {
        let (left, right) = (left?, right?);
        let start = symbols[left as usize].start;
        let len_bytes = symbols[left as usize].len_bytes + symbols[right as usize].len_bytes;
        let id = vocab.text_id(&text[start..start + len_bytes])?;
        Some(Pair { score: self.scores[id as usize], left, right, len_bytes })
    }

    /// A symbol's token, or its bytes', or for a vocabulary without byte tokens the unknown one.
    fn write(&self, vocab: &Vocab, symbol: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        if let Some(id) = vocab.text_id(symbol) {
            ids.push(id);
            return Ok(());
        }
        match symbol.bytes().find(|byte| self.bytes[usize::from(*byte)].is_none()) {
            None => ids.extend(symbol.bytes().filter_map(|byte| self.bytes[usize::from(byte)])),
            Some(byte) => ids.push(self.unknown.ok_or(TokenizerError::NoByteToken(byte))?),
        }
        Ok(())
    }
}

fn characters(text: &str) -> Vec<Symbol> {
    let mut symbols: Vec<Symbol> = Vec::with_capacity(text.len());
    for (start, character) in text.char_indices() {
        let index = symbols.len() as u32;
        let next = Some(index + 1).filter(|_| start + character.len_utf8() < text.len());
        symbols.push(Symbol { start, len_bytes: character.len_utf8(), previous: index.checked_sub(1), next });
    }
    symbols
}

/// The byte a byte token's name says: `<0x0A>`.
pub(super) fn byte_of(name: &str, gguf: &Gguf) -> Result<u8, TokenizerError> {
    let digits = name
        .strip_prefix("<0x")
        .and_then(|rest| rest.strip_suffix('>'))
        .filter(|digits| digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
    digits
        .and_then(|digits| u8::from_str_radix(digits, 16).ok())
        .ok_or_else(|| TokenizerError::BadByteToken { file: gguf.name().to_owned(), token: name.to_owned() })
}

/// The higher score first; of equal ones, the one further left.
impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then_with(|| other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}
