//! Where a repetition ends: from strings (a line break, a quotation mark) to the tokens that hold them.

use std::sync::{Arc, OnceLock};

use aho_corasick::AhoCorasick;
use models::Tokenizer;

use crate::engine::token_mask::TokenMask;

/// llama.cpp's and text-generation-webui's.
const DEFAULT: [&str; 4] = ["\n", ":", "\"", "*"];

/// Those of a vocabulary. The default ones are looked for once: a look through 150,000 tokens takes milliseconds.
#[derive(Debug, Default)]
pub struct SequenceBreakers {
    default: OnceLock<Arc<TokenMask>>,
}

impl SequenceBreakers {
    /// `None`: the default ones. Of others none is empty.
    pub fn tokens(&self, tokenizer: &Tokenizer, strings: Option<&[String]>) -> Arc<TokenMask> {
        match strings {
            Some(strings) => Arc::new(find(tokenizer, &strings.iter().map(String::as_str).collect::<Vec<_>>())),
            None => self.default.get_or_init(|| Arc::new(find(tokenizer, &DEFAULT))).clone(),
        }
    }
}

/// All tokens whose text holds one of the strings: one look at each token, however many strings there are. A string that no token holds
/// whole is broken at by the token that it ends with.
fn find(tokenizer: &Tokenizer, strings: &[&str]) -> TokenMask {
    let mut mask = TokenMask::none(tokenizer.vocab_size());
    let automaton = AhoCorasick::new(strings).expect("a few short strings make a small automaton");
    let mut found = vec![false; strings.len()];
    for id in 0..tokenizer.vocab_size() as u32 {
        for held in automaton.find_overlapping_iter(tokenizer.token_bytes(id, true)) {
            found[held.pattern().as_usize()] = true;
            mask.insert(id);
        }
    }
    for (string, _) in strings.iter().zip(found).filter(|(_, found)| !found) {
        // What cannot be written in this vocabulary breaks nothing.
        let ids = tokenizer.encode(string, true).unwrap_or_default();
        ids.last().into_iter().for_each(|&id| mask.insert(id));
    }
    mask
}
