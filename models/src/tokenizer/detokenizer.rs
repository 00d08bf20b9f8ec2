//! Tokens back to text, one at a time: O(1) a token, and never half a character.

use std::sync::Arc;

use super::Tokenizer;

/// Incremental detokenizer of one stream; holds back the bytes of an unfinished UTF-8 character.
///
/// All text it gives out, put together, is `String::from_utf8_lossy` of all the tokens' bytes, put together.
#[derive(Debug)]
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    /// At most three bytes: the start of a character.
    held: Vec<u8>,
    shows_control: bool,
    /// The next byte, if it is a space, was put there by the tokenizer (SentencePiece's space before the first word).
    drops_space: bool,
}

impl Detokenizer {
    /// For a text that starts with the stream's first token, as a reply in a chat does: the space that SentencePiece vocabularies
    /// put before a text's first word is dropped.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        let drops_space = tokenizer.adds_space_prefix();
        Self { tokenizer, held: Vec::with_capacity(4), shows_control: false, drops_space }
    }

    /// For a stream that goes on where a prompt ended (completion, fill in the middle): every space is the text's own.
    pub fn continuing(tokenizer: Arc<Tokenizer>) -> Self {
        Self { drops_space: false, ..Self::new(tokenizer) }
    }

    /// Shows control tokens by their names; they are hidden otherwise.
    pub fn showing_control(mut self) -> Self {
        self.shows_control = true;
        self
    }

    /// Text that became certain with this token (may be empty).
    pub fn push(&mut self, id: u32) -> String {
        let mut bytes = self.tokenizer.token_bytes(id, self.shows_control);
        if self.drops_space && !bytes.is_empty() {
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
            self.drops_space = false;
        }
        if self.held.is_empty()
            && let Ok(text) = std::str::from_utf8(bytes)
        {
            return text.to_owned();
        }
        self.held.extend_from_slice(bytes);
        self.release()
    }

    /// What is still held back, lossily (U+FFFD), at the end of the stream.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.held).into_owned();
        self.held.clear();
        text
    }

    /// Gives out all but a character that later bytes may finish; what can never become a character becomes U+FFFD, one for each
    /// "maximal subpart" as in `from_utf8_lossy` (Unicode 3.9, best practice).
    fn release(&mut self) -> String {
        let mut text = String::with_capacity(self.held.len());
        let mut done = 0;
        while let Err(error) = std::str::from_utf8(&self.held[done..]) {
            let valid = done + error.valid_up_to();
            text.push_str(std::str::from_utf8(&self.held[done..valid]).expect("valid up to here"));
            let Some(broken) = error.error_len() else {
                self.held.drain(..valid);
                return text;
            };
            text.push(char::REPLACEMENT_CHARACTER);
            done = valid + broken;
        }
        text.push_str(std::str::from_utf8(&self.held[done..]).expect("checked by the loop"));
        self.held.clear();
        text
    }
}
