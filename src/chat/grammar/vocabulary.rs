//! The vocabulary as grammars see it: a trie of the bytes of each token. Control tokens are in it under a mark that no text contains, so
//! that no text of a grammar ever becomes one.
//!
//! Built once a model: the trie, and one more for each kind of token that a JSON string may hold anywhere ("slices"), which spare a
//! mask inside of a string the walk over the vocabulary.

use std::sync::Arc;

use llguidance::toktrie::{InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};
use llguidance::{ParserFactory, TokenParser, api::TopLevelGrammar};
use models::Tokenizer;

use super::limits::PARSER_LIMITS;
use crate::engine::token_mask::TokenMask;

/// Inside of a JSON string nearly every token may come; those of the same kind are allowed at once.
const SLICES: [&str; 3] = [r#"[^"\\\x00-\x1F\x7F]{1,10}"#, r#"[^"\\\x00-\x1F\x7F]{1,30}"#, r#"[^"\\\x00-\x1F\x7F]+"#];

pub struct Vocabulary {
    tokenizer: Arc<Tokenizer>,
    factory: ParserFactory,
    everything: TokenMask,
}

struct Environment {
    tokenizer: Arc<Tokenizer>,
    trie: TokTrie,
}

impl Vocabulary {
    pub fn new(tokenizer: Arc<Tokenizer>) -> Result<Self, String> {
        let size = tokenizer.vocab_size() as u32;
        let mut words: Vec<Vec<u8>> = (0..size).map(|id| word(&tokenizer, id)).collect();
        // An end of output that the model does not have: whether a grammar may end is read from its bit.
        words.push([&[TokTrie::SPECIAL_TOKEN_MARKER], &b"<end>"[..]].concat());
        let trie = TokTrie::from(&TokRxInfo::new(size + 1, size), &words);
        let environment: TokEnv = Arc::new(Environment { tokenizer: tokenizer.clone(), trie });
        let slices = SLICES.map(str::to_owned);
        let mut factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &slices).map_err(|error| error.to_string())?;
        factory.quiet();
        *factory.limits_mut() = PARSER_LIMITS;
        let everything = TokenMask::of(size as usize, (0..size).filter(|&id| !tokenizer.token_bytes(id, true).is_empty()));
        Ok(Self { tokenizer, factory, everything })
    }

    /// The bit of a mask that says that the output may end.
    pub fn end(&self) -> TokenId {
        self.tokenizer.vocab_size() as TokenId
    }

    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// All tokens that stand for something, control tokens included.
    pub fn everything(&self) -> &TokenMask {
        &self.everything
    }

    pub fn parser(&self, grammar: TopLevelGrammar) -> Result<TokenParser, String> {
        self.factory.create_parser(grammar).map_err(|error| error.to_string())
    }

    /// The control token of this name, if that is what it is to the model: text never becomes it.
    pub fn control(&self, name: &str) -> Option<u32> {
        self.tokenizer.token_id(name).filter(|&id| is_special(&self.tokenizer, id))
    }

    /// Tokens of a text in parts, of which some are names of control tokens.
    pub fn tokens_of_parts(&self, parts: &[String]) -> Vec<u32> {
        let tokens_of = |part: &String| self.control(part).map_or_else(|| self.tokens_of(part.as_bytes()), |id| vec![id]);
        parts.iter().flat_map(tokens_of).collect()
    }

    /// Tokens that together are these bytes; not necessarily those that the tokenizer would choose.
    pub fn tokens_of(&self, bytes: &[u8]) -> Vec<u32> {
        self.factory.tok_env().tok_trie().greedy_tokenize(bytes)
    }
}

impl std::fmt::Debug for Vocabulary {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Vocabulary({:?})", self.tokenizer)
    }
}

/// Empty for a token that stands for nothing: no grammar allows it.
fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let bytes = tokenizer.token_bytes(id, true);
    match is_special(tokenizer, id) && !bytes.is_empty() {
        true => [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat(),
        false => bytes.to_vec(),
    }
}

fn is_special(tokenizer: &Tokenizer, id: u32) -> bool {
    tokenizer.is_special(id) || tokenizer.end_of_generation().contains(&id)
}

impl TokenizerEnv for Environment {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.trie.tokenize_with_greedy_fallback(bytes, |text| {
            self.tokenizer.encode(text, false).unwrap_or_else(|_| self.trie.greedy_tokenize(text.as_bytes()))
        })
    }

    /// Text that a grammar dictates is then dictated in the tokens that the model was trained on. A tokenizer that puts a space before
    /// each text cannot say what those are in the middle of one.
    fn tokenize_is_canonical(&self) -> bool {
        !self.tokenizer.adds_space_prefix()
    }
}
