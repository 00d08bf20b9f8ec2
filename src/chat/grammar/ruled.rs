//! A compiled grammar and the place of one output in it. Tokens in, masks out; going back is possible.

use std::fmt;
use std::sync::Arc;

use llguidance::api::{StopReason, TopLevelGrammar};
use llguidance::toktrie::SimpleVob;

use super::vocabulary::Vocabulary;
use crate::engine::constraint::Ending;
use crate::engine::token_mask::TokenMask;

/// A grammar, ready to be begun by any number of outputs.
#[derive(Clone)]
pub struct Compiled {
    vocabulary: Arc<Vocabulary>,
    start: llguidance::Matcher,
}

/// One output under a grammar.
pub struct Ruled {
    compiled: Arc<Compiled>,
    matcher: llguidance::Matcher,
    /// What the matcher has read.
    read: Vec<u32>,
}

impl Compiled {
    pub fn new(vocabulary: Arc<Vocabulary>, grammar: TopLevelGrammar) -> Result<Self, String> {
        let parser = vocabulary.parser(grammar)?;
        let mut start = llguidance::Matcher::new(Ok(parser));
        // Each output needs the first mask, so that it is not computed in vain; a grammar that nothing fulfils has none.
        if !start.is_stopped() {
            start.compute_mask().map_err(|_| "nothing fulfils it".to_owned())?;
        }
        Ok(Self { vocabulary, start })
    }

    /// An output at its beginning. It has the grammar's tables for itself, so that several outputs do not wait for each other.
    pub fn begin(self: &Arc<Self>) -> Ruled {
        Ruled { matcher: self.start.deep_clone(), compiled: self.clone(), read: Vec::new() }
    }
}

impl fmt::Debug for Compiled {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Compiled")
    }
}

impl Ruled {
    /// Goes to where `before` and `output` have been read, from wherever it is. Errors: the grammar does not allow them.
    pub fn go_to(&mut self, before: &[u32], output: &[u32]) -> Result<(), String> {
        let wanted = || before.iter().chain(output);
        let common = self.read.iter().zip(wanted()).take_while(|(read, wanted)| read == wanted).count();
        let back = self.read.len() - common;
        if back > 0 && self.matcher.rollback(back).is_err() {
            *self = self.compiled.begin();
        } else {
            self.read.truncate(common);
        }
        for &token in wanted().skip(self.read.len()) {
            self.matcher.consume_token(token).map_err(|error| error.to_string())?;
            self.read.push(token);
        }
        Ok(())
    }

    /// What may follow.
    pub fn allow(&mut self, allowed: &mut TokenMask) -> Result<Ending, String> {
        match self.matcher.stop_reason() {
            StopReason::NotStopped => {}
            StopReason::NoExtension | StopReason::EndOfSentence => return Ok(Ending::Reached),
            reason => return Err(format!("the grammar stopped: {reason}")),
        }
        let mask = self.matcher.compute_mask().map_err(|error| error.to_string())?;
        let end = self.compiled.vocabulary.end();
        copy(&mask, end as usize, allowed);
        Ok(if mask.is_allowed(end) { Ending::Possible } else { Ending::NotYet })
    }

    /// Whether these bytes may come next.
    pub fn takes(&mut self, bytes: &[u8]) -> bool {
        let tokens = self.compiled.vocabulary.tokens_of(bytes);
        self.matcher.validate_tokens(&tokens).is_ok_and(|valid| valid == tokens.len())
    }
}

/// The first `tokens` bits: words of 32 into words of 64.
fn copy(mask: &SimpleVob, tokens: usize, allowed: &mut TokenMask) {
    let words = allowed.words_mut();
    for (word, pair) in words.iter_mut().zip(mask.as_slice().chunks(2)) {
        *word = u64::from(pair[0]) | pair.get(1).map_or(0, |high| u64::from(*high) << 32);
    }
    if let Some(word) = words.get_mut(tokens / 64) {
        *word &= (1 << (tokens % 64)) - 1;
    }
    words.iter_mut().skip(tokens / 64 + 1).for_each(|word| *word = 0);
}
