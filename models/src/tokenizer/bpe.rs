//! Byte-level BPE (`tokenizer.ggml.model` = gpt2; Sennrich, Haddow, Birch 2016, over bytes): a word begins as its bytes' tokens, and of
//! all neighbours that the merge list names, the pair that stands first in it becomes one token (of equal ones the leftmost), until
//! none is left. Knows no special tokens: no text given to it becomes one.
//!
//! Our own rather than the `tokenizers` crate's, which needs maps of owned strings: 250 to 300 ms of start-up and 30 MB for a vocabulary of
//! 150,000 (measured 2026-11-26). The tests hold it against that crate.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use crate::gguf::{Array, Gguf};

use super::byte_level;
use super::error::TokenizerError;
use super::hash::Seed;
use super::pre_tokenizer::PreTokenizer;
use super::vocab::{Vocab, string_array};

pub(super) struct Bpe {
    pre_tokenizer: PreTokenizer,
    merges: HashMap<Pair, Merged, Seed>,
    characters: [char; 256],
    /// The token of each byte alone; `None` where the vocabulary has none.
    bytes: [Option<u32>; 256],
}

/// Two neighbours.
type Pair = (u32, u32);

/// What becomes of a pair.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Merged {
    /// Place in the merge list: lower goes first.
    rank: u32,
    id: u32,
}

/// A token of a word that is being merged.
#[derive(Debug, Clone, Copy)]
struct Symbol {
    /// [`GONE`] once it is part of the one before it.
    id: u32,
    previous: u32,
    next: u32,
}

/// No token and no place: ids and places stay below.
const GONE: u32 = u32::MAX;

/// A merge that may be done: rank, place of the left symbol, and the pair as it was found. The heap gives the lowest first.
type Candidate = Reverse<(u32, u32, Pair)>;

/// Kept between words, so that a word costs no allocation.
#[derive(Default)]
struct Scratch {
    symbols: Vec<Symbol>,
    candidates: BinaryHeap<Candidate>,
}

impl Bpe {
    pub(super) fn read(gguf: &Gguf, vocab: &Vocab, pre_tokenizer: PreTokenizer) -> Result<Self, TokenizerError> {
        let characters = byte_level::characters();
        let bytes = characters.map(|character| vocab.text_id(character.encode_utf8(&mut [0; 4])));
        let merges = read_merges(gguf, vocab, string_array(gguf, "tokenizer.ggml.merges")?)?;
        Ok(Self { pre_tokenizer, merges, characters, bytes })
    }

    pub(super) fn merges(&self) -> usize {
        self.merges.len()
    }

    /// Whether both put the same tokens together, in the same order.
    pub(super) fn merges_as(&self, other: &Self) -> bool {
        self.merges == other.merges
    }

    pub(super) fn adds_bos(&self) -> bool {
        self.pre_tokenizer.adds_bos
    }

    /// Appends the tokens of a text without special tokens. `vocab` is the one it was read with.
    pub(super) fn encode(&self, vocab: &Vocab, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let mut scratch = Scratch::default();
        // Where in `ids` the tokens of a word stand: most words of a text are there more than once.
        let mut seen: HashMap<&str, (usize, usize)> = HashMap::new();
        let mut written = String::new();
        for word in self.pre_tokenizer.words(text) {
            if let Some(&(start, end)) = seen.get(word) {
                ids.extend_from_within(start..end);
                continue;
            }
            let start = ids.len();
            let whole = if self.pre_tokenizer.ignore_merges { self.token_of(vocab, word, &mut written) } else { None };
            match whole {
                Some(id) => ids.push(id),
                None => self.merge(word, &mut scratch, ids)?,
            }
            seen.insert(word, (start, ids.len()));
        }
        Ok(())
    }

    /// The token that is the whole word.
    fn token_of(&self, vocab: &Vocab, word: &str, written: &mut String) -> Option<u32> {
        written.clear();
        written.extend(word.bytes().map(|byte| self.characters[usize::from(byte)]));
        vocab.text_id(written)
    }

    fn merge(&self, word: &str, scratch: &mut Scratch, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let Scratch { symbols, candidates } = scratch;
        symbols.clear();
        candidates.clear();
        for (at, byte) in word.bytes().enumerate() {
            let id = self.bytes[usize::from(byte)].ok_or(TokenizerError::NoByteToken(byte))?;
            let at = at as u32;
            symbols.push(Symbol { id, previous: at.checked_sub(1).unwrap_or(GONE), next: at + 1 });
        }
        if let Some(last) = symbols.last_mut() {
            last.next = GONE;
        }
        for at in 0..symbols.len() as u32 {
            candidates.extend(self.candidate(symbols, at));
        }
        while let Some(Reverse((_, at, pair))) = candidates.pop() {
            let left = symbols[at as usize];
            // Since it was found, one of the two may have become part of another.
            if left.id != pair.0 || left.next == GONE || symbols[left.next as usize].id != pair.1 {
                continue;
            }
            let right = symbols[left.next as usize];
            symbols[left.next as usize].id = GONE;
            symbols[at as usize] = Symbol { id: self.merges[&pair].id, previous: left.previous, next: right.next };
            if right.next != GONE {
                symbols[right.next as usize].previous = at;
            }
            if left.previous != GONE {
                candidates.extend(self.candidate(symbols, left.previous));
            }
            candidates.extend(self.candidate(symbols, at));
        }
        ids.extend(symbols.iter().map(|symbol| symbol.id).filter(|id| *id != GONE));
        Ok(())
    }

    /// The merge of the symbol at `at` with the next one, where the list has it.
    fn candidate(&self, symbols: &[Symbol], at: u32) -> Option<Candidate> {
        let left = symbols[at as usize];
        let right = symbols.get(left.next as usize)?;
        let pair = (left.id, right.id);
        self.merges.get(&pair).map(|merged| Reverse((merged.rank, at, pair)))
    }
}

/// One line of the merge list.
struct Merge<'a> {
    index: usize,
    whole: &'a str,
    left: &'a str,
    right: &'a str,
}

/// A merge that leads to a token which no text may become is left out. Errors: a line that is no merge, or names what is no token.
fn read_merges(gguf: &Gguf, vocab: &Vocab, array: &Array) -> Result<HashMap<Pair, Merged, Seed>, TokenizerError> {
    let mut merges = HashMap::with_capacity_and_hasher(array.len(), Seed::new());
    let mut joined = String::new();
    // Vocabularies mostly have their tokens in the order of the merges that make them.
    let mut expected = 0;
    for (index, bytes) in array.strings().enumerate() {
        let merge = Merge::parse(index, bytes).ok_or_else(|| {
            let (file, merge) = (gguf.name().to_owned(), String::from_utf8_lossy(bytes).into_owned());
            TokenizerError::BadMerge { file, index, merge }
        })?;
        joined.clear();
        joined.extend([merge.left, merge.right]);
        let text_id = |name, id| merge.text_id(gguf, vocab, name, id);
        let Some(left) = text_id(merge.left, vocab.id(merge.left))? else { continue };
        let Some(right) = text_id(merge.right, vocab.id(merge.right))? else { continue };
        let Some(id) = text_id(&joined, vocab.id_near(&joined, expected))? else { continue };
        expected = id.saturating_add(1);
        merges.insert((left, right), Merged { rank: index as u32, id });
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

    /// `id`, where text can become that token. Error: there is none called `name`.
    fn text_id(&self, gguf: &Gguf, vocab: &Vocab, name: &str, id: Option<u32>) -> Result<Option<u32>, TokenizerError> {
        match id {
            Some(id) => Ok(Some(id).filter(|id| !vocab.kind(*id).is_some_and(|kind| kind.is_reserved()))),
            None => {
                let (file, index, merge) = (gguf.name().to_owned(), self.index, self.whole.to_owned());
                Err(TokenizerError::MergeWithoutToken { file, index, merge, token: name.to_owned() })
            }
        }
    }
}
