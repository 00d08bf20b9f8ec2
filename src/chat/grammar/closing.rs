//! JSON that must fit into `max_tokens`: a small model may write a number or a text without end, and what is cut off is no JSON. When the
//! last tokens are reached, of what the grammar allows only that is left which brings the end nearer: brackets that close, then quotes,
//! then commas and colons. Where none of these may stand (a name, a word of an enumeration) the grammar leads on by itself.

use std::sync::Arc;

use models::Tokenizer;

use crate::chat::OutputFormat;
use crate::engine::constraint::Ending;
use crate::engine::token_mask::TokenMask;

/// Tokens of the end: those of the smallest objects, and some for each byte of the schema, whose names have to be written. The schemas of
/// tools are not counted: most calls need no more than this.
const RESERVE_TOKENS: usize = 32;
const RESERVE_TOKENS_OF_CALLS: usize = 256;
const SCHEMA_BYTES_PER_TOKEN: usize = 8;

/// Tokens by what they are made of.
#[derive(Debug)]
pub struct Closers {
    /// Brackets, quotes, parting signs: the most wanted first.
    kinds: [TokenMask; 3],
    /// A character that JSON has in strings alone: where it may stand brackets close nothing, and the quote comes first.
    in_strings: Option<u32>,
}

/// When, and by which tokens, the end of a reply is looked for.
#[derive(Debug, Clone)]
pub struct Closing {
    closers: Arc<Closers>,
    /// Tokens of output from which on it is.
    from: usize,
}

impl Closers {
    pub fn new(tokenizer: &Tokenizer) -> Self {
        let vocab = tokenizer.vocab_size();
        let made_of = |must: &[u8], may: &[u8]| {
            let fits = |&id: &u32| {
                let bytes = tokenizer.token_bytes(id, false);
                !tokenizer.is_control(id) && bytes.iter().any(|byte| must.contains(byte)) && bytes.iter().all(|byte| may.contains(byte))
            };
            TokenMask::of(vocab, (0..vocab as u32).filter(fits))
        };
        let in_strings = (0..vocab as u32).find(|&id| tokenizer.token_bytes(id, false) == b"#");
        Self { kinds: [made_of(b"}]", b"}] \n"), made_of(b"\"", b"\"}] \n"), made_of(b",:", b",:\" \n")], in_strings }
    }
}

impl Closing {
    pub fn new(closers: Arc<Closers>, tokens_max: usize, format: &OutputFormat) -> Self {
        let reserve = match format {
            OutputFormat::JsonSchema(schema) => RESERVE_TOKENS + schema.to_string().len() / SCHEMA_BYTES_PER_TOKEN,
            OutputFormat::Text => RESERVE_TOKENS_OF_CALLS,
            OutputFormat::JsonObject | OutputFormat::Regex(_) | OutputFormat::Choice(_) | OutputFormat::Lark(_) => RESERVE_TOKENS,
        };
        Self { closers, from: tokens_max - reserve.min(tokens_max / 2) }
    }

    /// Of what a grammar allows after so many tokens, what is left. What is free (words, thoughts) is not its business.
    pub fn narrow(&self, output_tokens: usize, ending: Ending, allowed: &mut TokenMask) -> Ending {
        match ending {
            _ if output_tokens < self.from => return ending,
            Ending::Anything | Ending::Reached => return ending,
            Ending::Possible => return Ending::Reached,
            Ending::NotYet => {}
        }
        let Closers { kinds, in_strings } = &*self.closers;
        let kinds = if in_strings.is_some_and(|token| allowed.contains(token)) { &kinds[1..2] } else { &kinds[..] };
        if let Some(closers) = kinds.iter().find(|closers| meet(allowed, closers)) {
            let words = allowed.words_mut().iter_mut().zip(closers.words());
            words.for_each(|(word, closers)| *word &= closers);
        }
        ending
    }
}

fn meet(one: &TokenMask, other: &TokenMask) -> bool {
    one.words().iter().zip(other.words()).any(|(one, other)| one & other != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tokens 0 and 1 close brackets, 2 and 3 are quotes, 4 and 5 part; 6 to 9 are letters, and 9 stands in strings alone. What is left of `tokens` after `output_tokens`
    /// of 100.
    fn left(tokens: &[u32], ending: Ending, output_tokens: usize) -> (Ending, Vec<u32>) {
        let mask = |tokens: [u32; 2]| TokenMask::of(10, tokens);
        let closers = Arc::new(Closers { kinds: [mask([0, 1]), mask([2, 3]), mask([4, 5])], in_strings: Some(9) });
        let mut allowed = TokenMask::of(10, tokens.iter().copied());
        let ending = Closing::new(closers, 100, &OutputFormat::JsonObject).narrow(output_tokens, ending, &mut allowed);
        (ending, (0..10).filter(|&token| allowed.contains(token)).collect())
    }

    #[test]
    fn the_end_is_looked_for_when_few_tokens_are_left() {
        let all = [0, 1, 2, 3, 4, 5, 6, 7];
        assert_eq!(left(&all, Ending::NotYet, 67), (Ending::NotYet, all.to_vec()));
        assert_eq!(left(&all, Ending::NotYet, 68), (Ending::NotYet, vec![0, 1]));
        assert_eq!(left(&all[2..], Ending::NotYet, 99), (Ending::NotYet, vec![2, 3]));
        assert_eq!(left(&all[4..], Ending::NotYet, 99), (Ending::NotYet, vec![4, 5]));
        assert_eq!(left(&all[6..], Ending::NotYet, 99), (Ending::NotYet, vec![6, 7]), "where none may stand, the grammar leads on");
        assert_eq!(left(&[0, 1, 2, 4, 9], Ending::NotYet, 99), (Ending::NotYet, vec![2]), "in a string a bracket closes nothing");
        assert_eq!(left(&[0, 9], Ending::NotYet, 99), (Ending::NotYet, vec![0, 9]), "and too short a one goes on");
        assert_eq!(left(&all, Ending::Possible, 67).0, Ending::Possible);
        assert_eq!(left(&all, Ending::Possible, 68).0, Ending::Reached);
    }
}
