//! A prompt that ends in the middle of a word ends in tokens that the model has never seen there: `inter` where it would have written
//! ` international` in one. So the last tokens are taken back, and the model writes their text once more, in whatever tokens it likes, but
//! byte for byte the same; what it adds is new.
//!
//! Knows bytes and tokens and no chat. Where another constraint holds for what follows, that one sees only what follows.

use std::collections::HashMap;
use std::sync::Arc;

use models::Tokenizer;

use super::partial_json::Escape;
use crate::engine::constraint::{Constraint, Ending, Matcher};
use crate::engine::token_mask::TokenMask;

/// Each is a step of the model before anything new is said. A word has seldom more.
const TOKENS_MAX: usize = 8;

/// Takes tokens off the end of a prompt that ends with `text`; what of it is to be written again: whole characters. Nothing where no
/// token could begin in the text and reach beyond its end.
pub fn take_back(tokenizer: &Tokenizer, prompt: &mut Vec<u32>, text: &str) -> String {
    let reach = longest_overlap(tokenizer, text.as_bytes());
    // Of the text's end: tokens and bytes, at the last place that parts both tokens and characters.
    let (mut tokens, mut start) = (0, text.len());
    let mut at = text.len();
    for (index, &token) in prompt.iter().rev().take(TOKENS_MAX).enumerate() {
        let bytes = tokenizer.token_bytes(token, false);
        // A space that the tokenizer put before the text is none of it.
        if text.len() - start >= reach || bytes.is_empty() || !text.as_bytes()[..at].ends_with(bytes) {
            break;
        }
        at -= bytes.len();
        if text.is_char_boundary(at) {
            (tokens, start) = (index + 1, at);
        }
    }
    prompt.truncate(prompt.len() - tokens);
    text[start..].to_owned()
}

/// How many of a text's last bytes a longer token begins with, at most.
fn longest_overlap(tokenizer: &Tokenizer, text: &[u8]) -> usize {
    let mut longest = 0;
    for token in 0..tokenizer.vocab_size() as u32 {
        let bytes = tokenizer.token_bytes(token, false);
        let possible = longest + 1..bytes.len().min(text.len() + 1);
        longest = possible.rev().find(|&length| text.ends_with(&bytes[..length])).unwrap_or(longest);
    }
    longest
}

/// What the output begins with, before anything else holds.
#[derive(Debug, Clone, Default)]
pub struct Lead {
    /// Exactly this.
    pub known: String,
    /// Then the rest of an escape in a JSON string, of which so much stands after the backslash.
    pub escape: Option<String>,
}

/// How far bytes lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Led {
    Within,
    /// The lead ends after so many.
    To(usize),
    Astray,
}

impl Lead {
    pub fn is_empty(&self) -> bool {
        self.known.is_empty() && self.escape.is_none()
    }

    fn led(&self, bytes: &[u8]) -> Led {
        let known = self.known.as_bytes();
        let Some(after) = bytes.strip_prefix(known) else {
            return if known.starts_with(bytes) { Led::Within } else { Led::Astray };
        };
        let Some(begun) = &self.escape else { return Led::To(known.len()) };
        // Escapes are ASCII.
        let after = &after[..after.iter().take(ESCAPE_BYTES_MAX).take_while(|byte| byte.is_ascii()).count()];
        let text: String = begun.chars().chain(after.iter().map(|&byte| char::from(byte))).collect();
        match Escape::of(&text) {
            Escape::Begun if bytes.len() == known.len() + after.len() => Led::Within,
            Escape::Whole { bytes, .. } => Led::To(known.len() + bytes - begun.len()),
            Escape::Begun | Escape::Impossible => Led::Astray,
        }
    }
}

/// Of a character in two halves.
const ESCAPE_BYTES_MAX: usize = 11;

/// The output begins with a lead; then `rest` holds.
#[derive(Debug, Clone)]
pub struct TokenHealing {
    tokenizer: Arc<Tokenizer>,
    lead: Lead,
    rest: Option<Arc<dyn Constraint>>,
}

impl TokenHealing {
    /// `rest`: sees an output that begins after the lead.
    pub fn new(tokenizer: Arc<Tokenizer>, lead: Lead, rest: Option<Arc<dyn Constraint>>) -> Self {
        Self { tokenizer, lead, rest }
    }
}

impl Constraint for TokenHealing {
    fn matcher(&self) -> Result<Box<dyn Matcher>, String> {
        let rest = self.rest.as_ref().map(|rest| rest.matcher()).transpose()?;
        Ok(Box::new(HealingMatcher { healing: self.clone(), rest, beyond: (Vec::new(), Vec::new()) }))
    }
}

struct HealingMatcher {
    healing: TokenHealing,
    rest: Option<Box<dyn Matcher>>,
    /// What the token that reached the end of the lead had beyond it, and tokens for that.
    beyond: (Vec<u8>, Vec<u32>),
}

impl Matcher for HealingMatcher {
    fn allow(&mut self, output: &[u32], allowed: &mut TokenMask) -> Result<Ending, String> {
        let mut written = Vec::new();
        for (index, &token) in output.iter().enumerate() {
            written.extend_from_slice(self.healing.tokenizer.token_bytes(token, false));
            match self.healing.lead.led(&written) {
                Led::Within => {}
                Led::To(end) => return self.go_on(&written[end..], &output[index + 1..], allowed),
                Led::Astray => return Err("a text came that is not the one which is known".to_owned()),
            }
        }
        match self.healing.lead.is_empty() {
            true => self.go_on(&[], output, allowed),
            false => self.heal(&written, allowed),
        }
    }
}

impl HealingMatcher {
    /// After the lead.
    fn go_on(&mut self, beyond: &[u8], output: &[u32], allowed: &mut TokenMask) -> Result<Ending, String> {
        let Some(rest) = &mut self.rest else { return Ok(Ending::Anything) };
        if beyond.is_empty() {
            return rest.allow(output, allowed);
        }
        if self.beyond.0 != beyond {
            self.beyond = (beyond.to_vec(), tokens_of(&self.healing.tokenizer, beyond));
        }
        rest.allow(&[&self.beyond.1, output].concat(), allowed)
    }

    /// After `written`, which is within the lead: what stays within it, and what reaches beyond it, where that may follow.
    fn heal(&mut self, written: &[u8], allowed: &mut TokenMask) -> Result<Ending, String> {
        let TokenHealing { tokenizer, lead, .. } = &self.healing;
        // By what they have beyond.
        let mut reaching: HashMap<&[u8], Vec<u32>> = HashMap::new();
        let mut longer = written.to_vec();
        for token in 0..tokenizer.vocab_size() as u32 {
            let bytes = tokenizer.token_bytes(token, false);
            if bytes.is_empty() {
                continue;
            }
            longer.truncate(written.len());
            longer.extend_from_slice(bytes);
            match lead.led(&longer) {
                Led::Within => allowed.insert(token),
                Led::To(end) if end == longer.len() => allowed.insert(token),
                Led::To(end) => reaching.entry(&bytes[end - written.len()..]).or_default().push(token),
                Led::Astray => {}
            }
        }
        let mut first = TokenMask::none(allowed.vocab());
        let ending = match &mut self.rest {
            Some(rest) => rest.allow(&[], &mut first)?,
            None => Ending::Anything,
        };
        match ending {
            Ending::Anything => reaching.values().flatten().for_each(|&token| allowed.insert(token)),
            Ending::Reached => {}
            // What may follow is known of whole tokens: what is beyond must be one.
            Ending::Possible | Ending::NotYet => {
                for token in (0..first.vocab() as u32).filter(|&token| first.contains(token)) {
                    let fitting = reaching.get(tokenizer.token_bytes(token, false));
                    fitting.into_iter().flatten().for_each(|&token| allowed.insert(token));
                }
            }
        }
        Ok(Ending::NotYet)
    }
}

/// Tokens that together are these bytes, the longest first; nothing for a byte that no token has.
fn tokens_of(tokenizer: &Tokenizer, bytes: &[u8]) -> Vec<u32> {
    let mut tokens = Vec::new();
    let mut left = bytes;
    while !left.is_empty() {
        let fitting = (0..tokenizer.vocab_size() as u32).filter(|&token| {
            let bytes = tokenizer.token_bytes(token, false);
            !bytes.is_empty() && left.starts_with(bytes)
        });
        let Some(token) = fitting.max_by_key(|&token| tokenizer.token_bytes(token, false).len()) else { break };
        tokens.push(token);
        left = &left[tokenizer.token_bytes(token, false).len()..];
    }
    tokens
}
