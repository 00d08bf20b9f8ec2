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
            None => {
                allowed.words_mut().fill(u64::MAX);
                Ok(Ending::Possible)
            }
        }
    }
}
