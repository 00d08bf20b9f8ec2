//! A whole reply is the fold of the events that a stream would have carried: there is no second way to make one.

use std::ops::Range;

use super::{Event, FinishReason, ScoredToken, ToolCall, Usage};

/// One choice, as far as its events have come.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Reply {
    pub text: String,
    pub tokens: Vec<ScoredToken>,
    pub thinking: String,
    pub tool_calls: Vec<ToolCall>,
    /// The order in which these came.
    pub spans: Vec<Span>,
    pub finish: Option<FinishReason>,
    pub usage: Usage,
}

/// A stretch of a reply that is all of one kind: bytes of its text or of its thinking, or one of its calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Span {
    Thinking(Range<usize>),
    Text(Range<usize>),
    ToolCall(usize),
}

impl Reply {
    /// Errors: the message of [`Event::Failed`].
    pub fn push(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Text(delta) => {
                let start = self.text.len();
                self.text.push_str(&delta.text);
                self.tokens.extend(delta.tokens);
                match self.spans.last_mut() {
                    _ if delta.text.is_empty() => {}
                    Some(Span::Text(range)) => range.end = self.text.len(),
                    _ => self.spans.push(Span::Text(start..self.text.len())),
                }
            }
            Event::Thinking(text) => {
                let start = self.thinking.len();
                self.thinking.push_str(&text);
                match self.spans.last_mut() {
                    _ if text.is_empty() => {}
                    Some(Span::Thinking(range)) => range.end = self.thinking.len(),
                    _ => self.spans.push(Span::Thinking(start..self.thinking.len())),
                }
            }
            Event::ToolCallStarted { index, id, name } => {
                assert_eq!(index, self.tool_calls.len(), "calls start in order");
                self.spans.push(Span::ToolCall(index));
                self.tool_calls.push(ToolCall { id, name, arguments: String::new() });
            }
            Event::ToolCallArguments { index, json } => self.tool_calls[index].arguments.push_str(&json),
            Event::ToolCallEnded { .. } => {}
            Event::Finished { reason, usage } => {
                self.finish = Some(reason);
                self.usage = usage;
            }
            Event::Failed(message) => return Err(message),
        }
        Ok(())
    }
}

/// The usage of a reply of several choices: a prompt is counted once, however many choices continue it.
pub fn total_usage(choices: &[Usage], choices_per_prompt: usize) -> Usage {
    let mut total = Usage::default();
    for (index, usage) in choices.iter().enumerate() {
        if index % choices_per_prompt.max(1) == 0 {
            total.prompt_tokens += usage.prompt_tokens;
            total.cached_tokens += usage.cached_tokens;
        }
        total.completion_tokens += usage.completion_tokens;
        total.thinking_tokens += usage.thinking_tokens;
    }
    total
}
