//! A limit for thoughts: after so many tokens of them the model is made to say their end, token by token, and then goes on as it would
//! have. Whatever else holds for the reply is another constraint's business, which sees the whole of it, thoughts included.

use std::sync::Arc;

use models::{Tokenizer, TokenizerError};

use super::reasoning_parser::{ReasoningFormat, ReasoningParser, ReasoningStart};
use crate::engine::constraint::{Constraint, Ending, Matcher};
use crate::engine::token_mask::TokenMask;

#[derive(Debug, Clone)]
pub struct ThinkingBudget {
    tokenizer: Arc<Tokenizer>,
    format: ReasoningFormat,
    start: ReasoningStart,
    tokens_max: usize,
    /// What ends the thoughts.
    end: Arc<[u32]>,
    rest: Option<Arc<dyn Constraint>>,
}

impl ThinkingBudget {
    /// `rest`: what holds for the reply otherwise.
    ///
    /// Errors: the vocabulary cannot write the end of a thought.
    pub fn new(
        tokenizer: Arc<Tokenizer>,
        (format, start): (ReasoningFormat, ReasoningStart),
        tokens_max: usize,
        rest: Option<Arc<dyn Constraint>>,
    ) -> Result<Self, TokenizerError> {
        let line = if format == ReasoningFormat::Harmony { "" } else { "\n" };
        let end = tokenizer.encode(&format!("{line}{}", format.forced_end()), true)?.into();
        Ok(Self { tokenizer, format, start, tokens_max, end, rest })
    }
}

impl Constraint for ThinkingBudget {
    fn matcher(&self) -> Result<Box<dyn Matcher>, String> {
        let rest = self.rest.as_ref().map(|rest| rest.matcher()).transpose()?;
        Ok(Box::new(BudgetMatcher { reading: Reading::new(self), budget: self.clone(), rest }))
    }
}

struct BudgetMatcher {
    budget: ThinkingBudget,
    reading: Reading,
    rest: Option<Box<dyn Matcher>>,
}

/// What is known of an output: it is read token by token, and again from its beginning where it became shorter.
struct Reading {
    output: Vec<u32>,
    parser: ReasoningParser,
    thinking_tokens: usize,
    /// Tokens of the end that are still to be said.
    forced: usize,
}

impl Reading {
    fn new(budget: &ThinkingBudget) -> Self {
        let parser = ReasoningParser::new(budget.format, budget.start);
        let mut reading = Self { output: Vec::new(), parser, thinking_tokens: 0, forced: 0 };
        reading.spend(budget);
        reading
    }

    fn push(&mut self, token: u32, budget: &ThinkingBudget) {
        self.output.push(token);
        let was_thinking = self.parser.is_thinking();
        // A mark is never half of a character.
        let text = String::from_utf8_lossy(budget.tokenizer.token_bytes(token, true));
        self.parser.push(&text, &mut Vec::new());
        if self.forced > 0 {
            self.forced -= 1;
        } else {
            self.thinking_tokens += usize::from(was_thinking);
            self.spend(budget);
        }
    }

    fn spend(&mut self, budget: &ThinkingBudget) {
        if self.parser.is_thinking() && self.thinking_tokens >= budget.tokens_max {
            self.forced = budget.end.len();
        }
    }
}

impl Matcher for BudgetMatcher {
    fn allow(&mut self, output: &[u32], allowed: &mut TokenMask) -> Result<Ending, String> {
        if !output.starts_with(&self.reading.output) {
            self.reading = Reading::new(&self.budget);
        }
        for &token in &output[self.reading.output.len()..] {
            self.reading.push(token, &self.budget);
        }
        if self.reading.forced > 0 {
            allowed.insert(self.budget.end[self.budget.end.len() - self.reading.forced]);
            return Ok(Ending::NotYet);
        }
        match &mut self.rest {
            Some(rest) => rest.allow(output, allowed),
            None => Ok(Ending::Anything),
        }
    }
}

#[cfg(test)]
mod tests {
    use kernels::SharedBytes;
    use models::Gguf;
    use models::gguf::writer::GgufWriter;

    use super::*;

    /// Bytes as tokens, `<think>` and `</think>` after them.
    fn tokenizer() -> Arc<Tokenizer> {
        let letter = |byte: u32| match byte {
            0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => byte,
            byte => 0x100 + (0..byte).filter(|byte| !matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff)).count() as u32,
        };
        let mut tokens: Vec<String> = (0..256).filter_map(|byte| char::from_u32(letter(byte))).map(String::from).collect();
        tokens.extend(["<think>", "</think>"].map(str::to_owned));
        let kinds = [vec![1i32; 256], vec![3; 2]].concat();
        let mut writer = GgufWriter::new();
        writer.set("tokenizer.ggml.model", "gpt2").set("tokenizer.ggml.pre", "qwen2").set("tokenizer.ggml.merges", &[] as &[String]);
        writer.set("tokenizer.ggml.tokens", &tokens[..]).set("tokenizer.ggml.token_type", kinds);
        let gguf = Gguf::from_bytes(SharedBytes::new(Arc::new(writer.to_bytes())), "bytes.gguf").expect("our own file can be read");
        Arc::new(Tokenizer::from_gguf(&gguf).expect("our own tokenizer can be built"))
    }

    /// Allows one token, wherever it is asked.
    #[derive(Debug)]
    struct Only(u32);

    impl Constraint for Only {
        fn matcher(&self) -> Result<Box<dyn Matcher>, String> {
            Ok(Box::new(OnlyMatcher(self.0)))
        }
    }

    struct OnlyMatcher(u32);

    impl Matcher for OnlyMatcher {
        fn allow(&mut self, _: &[u32], allowed: &mut TokenMask) -> Result<Ending, String> {
            allowed.insert(self.0);
            Ok(Ending::NotYet)
        }
    }

    /// What may follow `output`, as text, where that is one token; `None`: anything.
    fn next(matcher: &mut dyn Matcher, tokenizer: &Tokenizer, output: &str) -> Option<String> {
        let output = tokenizer.encode(output, true).expect("all bytes are tokens");
        let mut allowed = TokenMask::none(tokenizer.vocab_size());
        let ending = matcher.allow(&output, &mut allowed).expect("a healthy constraint");
        if ending == Ending::Anything {
            return None;
        }
        assert_eq!((allowed.len(), ending), (1, Ending::NotYet));
        let token = (0..tokenizer.vocab_size() as u32).find(|&token| allowed.contains(token)).expect("one is allowed");
        Some(String::from_utf8_lossy(tokenizer.token_bytes(token, true)).into_owned())
    }

    #[test]
    fn thoughts_are_ended_when_their_tokens_are_spent() {
        let tokenizer = tokenizer();
        let reasoning = ReasoningFormat::of_template("</think>").expect("tags");
        let budget = |start, tokens_max, rest| ThinkingBudget::new(tokenizer.clone(), (reasoning, start), tokens_max, rest).expect("ASCII");
        let free = budget(ReasoningStart::Open, 3, None);
        let mut matcher = free.matcher().expect("a matcher");
        // The order is of no account: drafts are rejected.
        for (output, expected) in [
            ("", None),
            ("<think>", None),
            ("<think>ab", None),
            ("<think>abc", Some("\n")),
            ("<think>abc\n", Some("</think>")),
            ("<think>abc\n</think>", Some("\n")),
            ("<think>abc\n</think>\n", Some("\n")),
            ("<think>abc\n</think>\n\n", None),
            ("<think>abc\n</think>\n\nHello", None),
            ("<think>abc", Some("\n")),
            ("<think>a</think>Long enough", None),
            ("Not a thought", None),
        ] {
            assert_eq!(next(&mut *matcher, &tokenizer, output).as_deref(), expected, "{output:?}");
        }
        let none_left = budget(ReasoningStart::Thinking, 0, Some(Arc::new(Only(u32::from(b'x')))));
        let mut matcher = none_left.matcher().expect("a matcher");
        for (output, expected) in
            [("", "\n"), ("\n", "</think>"), ("\n</think>\n", "\n"), ("\n</think>\n\n", "x"), ("\n</think>\n\nx", "x")]
        {
            assert_eq!(next(&mut *matcher, &tokenizer, output).as_deref(), Some(expected), "{output:?}");
        }
    }
}
