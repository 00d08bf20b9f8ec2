//! A set of token ids as bits, 64 tokens a word: what a constraint allows, what breaks a repetition.
#![deny(clippy::disallowed_methods)]

/// Tokens of one word.
pub const WORD_TOKENS: usize = 64;

/// Of the ids `0..vocab`.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct TokenMask {
    words: Vec<u64>,
    vocab: usize,
}

impl TokenMask {
    /// Holds nothing.
    pub fn none(vocab: usize) -> Self {
        Self { words: vec![0; vocab.div_ceil(WORD_TOKENS)], vocab }
    }

    /// Holds `tokens`; those outside of the vocabulary are left out.
    pub fn of(vocab: usize, tokens: impl IntoIterator<Item = u32>) -> Self {
        let mut mask = Self::none(vocab);
        tokens.into_iter().for_each(|token| mask.insert(token));
        mask
    }

    pub fn vocab(&self) -> usize {
        self.vocab
    }

    pub fn contains(&self, token: u32) -> bool {
        self.words.get(token as usize / WORD_TOKENS).is_some_and(|word| word >> (token as usize % WORD_TOKENS) & 1 == 1)
    }

    pub fn insert(&mut self, token: u32) {
        if (token as usize) < self.vocab {
            self.words[token as usize / WORD_TOKENS] |= 1 << (token as usize % WORD_TOKENS);
        }
    }

    pub fn remove(&mut self, token: u32) {
        if (token as usize) < self.vocab {
            self.words[token as usize / WORD_TOKENS] &= !(1 << (token as usize % WORD_TOKENS));
        }
    }

    pub fn clear(&mut self) {
        self.words.fill(0);
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many tokens it holds.
    pub fn len(&self) -> usize {
        let (last, whole) = match self.words.split_last() {
            Some((last, whole)) => (*last, whole),
            None => return 0,
        };
        let unused = self.words.len() * WORD_TOKENS - self.vocab;
        whole.iter().map(|word| word.count_ones() as usize).sum::<usize>() + (last << unused).count_ones() as usize
    }

    /// Token `i` is bit `i % 64` of word `i / 64`.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// For who computes whole words at once. Bits past the vocabulary mean nothing.
    pub fn words_mut(&mut self) -> &mut [u64] {
        &mut self.words
    }
}

/// A mask of a real vocabulary has thousands of words.
impl std::fmt::Debug for TokenMask {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "TokenMask({} of {})", self.len(), self.vocab)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_holds_what_was_put_in() {
        for vocab in [1, 63, 64, 65, 200] {
            let mut mask = TokenMask::of(vocab, [0, 63, 64, 199, 1000]);
            let held: Vec<u32> = (0..2000).filter(|&token| mask.contains(token)).collect();
            assert_eq!(held, [0, 63, 64, 199].into_iter().filter(|&token| (token as usize) < vocab).collect::<Vec<_>>(), "{vocab}");
            assert_eq!(mask.len(), held.len());
            mask.remove(0);
            mask.remove(1000);
            assert_eq!(mask.len(), held.len() - 1);
            // What stands past the vocabulary does not count.
            mask.words_mut().fill(u64::MAX);
            assert_eq!(mask.len(), vocab);
            mask.clear();
            assert!(mask.is_empty());
        }
        assert!(TokenMask::none(0).is_empty());
    }
}
