//! A whole reply is the fold of the events that a stream would have carried: there is no second way to make one.

use std::ops::Range;

use super::{Event, FinishReason, ScoredToken, TextDelta, ToolCall, Usage};

/// One choice, as far as its events have come.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Reply {
    pub text: String,
    pub tokens: Vec<ScoredToken>,
    pub thinking: String,
    pub tool_calls: Vec<ToolCall>,
    /// The order in which these came.
    pub spans: Vec<Span>,
    /// Of each span, those of `tokens` that belong to it.
    pub span_tokens: Vec<Range<usize>>,
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
                let (start, first_token) = (self.text.len(), self.tokens.len());
                self.text.push_str(&delta.text);
                self.tokens.extend(delta.tokens);
                match self.spans.last_mut() {
                    Some(Span::Text(range)) => {
                        range.end = self.text.len();
                        self.span_tokens.last_mut().expect("each span has its tokens").end = self.tokens.len();
                    }
                    _ if delta.text.is_empty() => {}
                    _ => self.push_span(Span::Text(start..self.text.len()), first_token),
                }
            }
            Event::Thinking(text) => {
                let start = self.thinking.len();
                self.thinking.push_str(&text);
                match self.spans.last_mut() {
                    _ if text.is_empty() => {}
                    Some(Span::Thinking(range)) => range.end = self.thinking.len(),
                    _ => self.push_span(Span::Thinking(start..self.thinking.len()), self.tokens.len()),
                }
            }
            Event::ToolCallStarted { index, id, name } => {
                assert_eq!(index, self.tool_calls.len(), "calls start in order");
                self.push_span(Span::ToolCall(index), self.tokens.len());
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

    fn push_span(&mut self, span: Span, first_token: usize) {
        self.spans.push(span);
        self.span_tokens.push(first_token..self.tokens.len());
    }

    /// The fewest events that fold to this reply. Tokens without a text, after a call, are left out.
    pub fn into_events(self) -> Vec<Event> {
        let mut events = Vec::new();
        for (span, tokens) in self.spans.into_iter().zip(self.span_tokens) {
            match span {
                Span::Thinking(range) => events.push(Event::Thinking(self.thinking[range].to_owned())),
                Span::Text(range) => {
                    events.push(Event::Text(TextDelta { text: self.text[range].to_owned(), tokens: self.tokens[tokens].to_vec() }));
                }
                Span::ToolCall(index) => {
                    let ToolCall { id, name, arguments } = self.tool_calls[index].clone();
                    events.push(Event::ToolCallStarted { index, id, name });
                    events.push(Event::ToolCallArguments { index, json: arguments });
                    events.push(Event::ToolCallEnded { index });
                }
            }
        }
        events.extend(self.finish.map(|reason| Event::Finished { reason, usage: self.usage }));
        events
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
