//! A prompt that is shown with its log-probabilities (`echo` and `logprobs`): where in the text each token stands, and how likely it was.

use models::Tokenizer;

use super::{ScoredToken, TokenText};
use crate::engine::TokenLogprobs;

/// The tokens of `prompt`, whose text is `shown`. `scores`: of its second token, its third, and so on.
pub fn scored_prompt(tokenizer: &Tokenizer, prompt: &[u32], shown: &str, scores: &[TokenLogprobs]) -> Vec<ScoredToken> {
    assert_eq!(scores.len() + 1, prompt.len(), "each token of a prompt but the first has a score");
    let token = |id: u32| TokenText { bytes: tokenizer.token_bytes(id, true).to_vec() };
    let mut place = Place { rest: shown.as_bytes(), characters: 0 };
    let scored = |(index, &id): (usize, &u32)| {
        let score = index.checked_sub(1).map(|before| &scores[before]);
        let text_offset = place.characters;
        place.pass(tokenizer.token_bytes(id, true));
        ScoredToken {
            token: token(id),
            logprob: score.map(|score| score.logprob),
            top: score.iter().flat_map(|score| &score.top).map(|&(id, logprob)| (token(id), logprob)).collect(),
            text_offset,
        }
    };
    prompt.iter().enumerate().map(scored).collect()
}

/// How far tokens have come in a text.
struct Place<'a> {
    rest: &'a [u8],
    /// Whole ones.
    characters: usize,
}

impl Place<'_> {
    /// A token that the tokenizer put before the text is none of it, nor is a space that it put there.
    fn pass(&mut self, token: &[u8]) {
        let without_space = token.strip_prefix(b" ").unwrap_or(token);
        let Some(shown) = [token, without_space].into_iter().find(|shown| self.rest.starts_with(shown)) else { return };
        let (passed, rest) = self.rest.split_at(shown.len());
        self.rest = rest;
        // A character ends where none goes on.
        let goes_on = |byte: Option<&u8>| byte.is_some_and(|byte| byte & 0xC0 == 0x80);
        let ends = (0..passed.len()).filter(|&at| !goes_on(passed.get(at + 1).or(rest.first())));
        self.characters += ends.count();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_stand_where_their_text_begins() {
        let offsets = |shown: &str, tokens: &[&[u8]]| {
            let mut place = Place { rest: shown.as_bytes(), characters: 0 };
            let offset = |token: &&[u8]| {
                let before = place.characters;
                place.pass(token);
                before
            };
            (tokens.iter().map(offset).collect::<Vec<_>>(), place.rest.len())
        };
        assert_eq!(offsets("ab c", &[b"a", b"b c"]), (vec![0, 1], 0));
        assert_eq!(offsets("a\u{e9}\u{1f600}!", &[b"a", b"\xc3", b"\xa9\xf0", b"\x9f\x98\x80!"]), (vec![0, 1, 1, 2], 0));
        assert_eq!(offsets("Hi you", &[b"<s>", b" Hi", b" you"]), (vec![0, 0, 2], 0), "what the tokenizer adds takes no room");
    }
}
