//! Walks a constraint along a text, token by token, as the engine would if the model wanted to write just that.

use std::sync::{Arc, LazyLock};

use kernels::SharedBytes;
use models::{Gguf, Tokenizer};
use understudy::chat::grammar::Grammars;
use understudy::engine::constraint::{Constraint, Ending, Matcher};
use understudy::engine::token_mask::TokenMask;
use understudy::hub::builtin;

/// The built-in model's.
pub static TOKENIZER: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| {
    let bytes: SharedBytes = builtin::bytes();
    let gguf = Gguf::from_bytes(bytes, "the built-in model").expect("the built-in model can be read");
    Arc::new(Tokenizer::from_gguf(&gguf).expect("it has a tokenizer"))
});
pub static GRAMMARS: LazyLock<Grammars> = LazyLock::new(|| Grammars::new(TOKENIZER.clone()));

/// How far a text comes under a constraint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Walk {
    /// To its end, where the output may end.
    Accepted,
    /// To its end, but the output must go on.
    Unfinished,
    /// So many bytes.
    StoppedAt(usize),
}

/// Takes the longest allowed token that the text goes on with. A constraint is about bytes, so that whichever tokens they come in, a
/// text that is allowed can be walked to its end.
pub fn walk(constraint: &dyn Constraint, text: &str) -> Walk {
    let mut matcher = constraint.matcher().expect("the constraint is healthy");
    let (mut output, mut at) = (Vec::new(), 0);
    loop {
        let (allowed, ending) = mask(&mut *matcher, &output);
        let rest = &text.as_bytes()[at..];
        if rest.is_empty() {
            return if ending == Ending::NotYet { Walk::Unfinished } else { Walk::Accepted };
        }
        if ending == Ending::Reached {
            return Walk::StoppedAt(at);
        }
        let fitting = (0..TOKENIZER.vocab_size() as u32).filter(|&token| {
            let bytes = TOKENIZER.token_bytes(token, false);
            allowed.contains(token) && !bytes.is_empty() && rest.starts_with(bytes)
        });
        let Some(token) = fitting.max_by_key(|&token| TOKENIZER.token_bytes(token, false).len()) else { return Walk::StoppedAt(at) };
        at += TOKENIZER.token_bytes(token, false).len();
        output.push(token);
    }
}

pub fn mask(matcher: &mut dyn Matcher, output: &[u32]) -> (TokenMask, Ending) {
    let mut allowed = TokenMask::none(TOKENIZER.vocab_size());
    let ending = matcher.allow(output, &mut allowed).expect("the matcher is healthy");
    (allowed, ending)
}
