//! A text that ends a stretch of free text: the tag that opens a call, the one that closes thinking. Which tokens complete it is found
//! once, so that free text costs nothing per token; how much of it stands at the end of a text is one number.

use super::vocabulary::Vocabulary;

/// What happens where the mark is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It must not be completed.
    Forbidden,
    /// The reply goes on in this stage, of which the mark is the beginning.
    Begins(usize),
    /// The reply goes on in this stage, which begins after the mark.
    EndsFor(usize),
}

#[derive(Debug)]
pub struct Mark {
    text: Vec<u8>,
    /// The text as tokens; where it has the name of a control token, that.
    pub tokens: Vec<u32>,
    /// Where the mark is only one at the reply's very beginning.
    only_first: bool,
    pub then: Then,
    /// For each number of bytes that stand, the number that stands if the next byte does not fit (Knuth, Morris, Pratt 1977).
    fallback: Vec<usize>,
    /// By number of bytes that stand: the tokens that complete the mark, with the bytes they have beyond it.
    completing: Vec<Vec<(u32, usize)>>,
    /// Tokens that hold the whole mark beyond their first byte.
    containing: Vec<(u32, usize)>,
}

/// How much of a mark stands at the end of a text.
pub type Standing = u8;

/// Of a mark that is none here any more.
const PASSED: Standing = Standing::MAX;

impl Mark {
    /// Bytes of the longest mark.
    pub const BYTES_MAX: usize = 128;

    /// `parts` are control tokens' names, or text. They are not empty.
    pub fn new(parts: &[String], only_first: bool, then: Then, vocabulary: &Vocabulary) -> Self {
        let text = parts.concat().into_bytes();
        let tokens = vocabulary.tokens_of_parts(parts);
        assert!((1..=Self::BYTES_MAX).contains(&text.len()), "a mark of {} bytes", text.len());
        let tokenizer = vocabulary.tokenizer();
        let mut completing = vec![Vec::new(); text.len()];
        let mut containing = Vec::new();
        for token in 0..tokenizer.vocab_size() as u32 {
            let bytes = tokenizer.token_bytes(token, true);
            let Some(first) = bytes.first() else { continue };
            for standing in (0..text.len()).filter(|&standing| text[standing] == *first) {
                if bytes.starts_with(&text[standing..]) {
                    completing[standing].push((token, bytes.len() - (text.len() - standing)));
                }
            }
            if bytes.len() > text.len()
                && let Some(at) = bytes[1..].windows(text.len()).position(|window| window == text)
            {
                containing.push((token, bytes.len() - 1 - at - text.len()));
            }
        }
        let fallback = fallbacks(&text);
        Self { text, tokens, only_first, then, fallback, completing, containing }
    }

    /// At the beginning of a stage; `is_first`: which is the reply's.
    pub fn at_start(&self, is_first: bool) -> Standing {
        if self.only_first && !is_first { PASSED } else { 0 }
    }

    /// After one more byte. `None`: the mark is complete.
    pub fn after(&self, standing: Standing, byte: u8) -> Option<Standing> {
        if standing == PASSED {
            return Some(PASSED);
        }
        let mut standing = standing as usize;
        loop {
            if self.text[standing] == byte {
                return (standing + 1 < self.text.len()).then_some(standing as Standing + 1);
            }
            match standing {
                _ if self.only_first => return Some(PASSED),
                0 => return Some(0),
                _ => standing = self.fallback[standing],
            }
        }
    }

    /// Calls `each` with every token that completes the mark here, and the bytes it has beyond.
    pub fn completing(&self, standing: Standing, mut each: impl FnMut(u32, usize)) {
        if standing == PASSED {
            return;
        }
        let mut standing = standing as usize;
        loop {
            self.completing[standing].iter().for_each(|&(token, beyond)| each(token, beyond));
            if standing == 0 || self.only_first {
                break;
            }
            standing = self.fallback[standing];
        }
        if !self.only_first {
            self.containing.iter().for_each(|&(token, beyond)| each(token, beyond));
        }
    }
}

/// For each length, the longest shorter beginning of the text that its first `length` bytes end with.
fn fallbacks(text: &[u8]) -> Vec<usize> {
    let mut fallback = vec![0; text.len()];
    for length in 2..text.len() {
        let mut shorter = fallback[length - 1];
        while shorter > 0 && text[shorter] != text[length - 1] {
            shorter = fallback[shorter];
        }
        fallback[length] = if text[shorter] == text[length - 1] { shorter + 1 } else { 0 };
    }
    fallback
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_of_a_text_is_its_longest_beginning() {
        for text in ["a", "aab", "abab", "aabaab", "<tool_call>", "abacabad"] {
            let fallback = fallbacks(text.as_bytes());
            for length in 1..text.len() {
                let longest = (0..length).rev().find(|&shorter| text[..length].ends_with(&text[..shorter]));
                assert_eq!(Some(fallback[length]), longest, "{text:?} {length}");
            }
        }
    }
}
