//! A whole reply is the fold of the events that a stream would have carried: there is no second way to make one.

use super::{Event, FinishReason, ScoredToken, ToolCall, Usage};

/// One choice, as far as its events have come.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Reply {
    pub text: String,
    pub tokens: Vec<ScoredToken>,
    pub thinking: String,
    pub tool_calls: Vec<ToolCall>,
    pub finish: Option<FinishReason>,
    pub usage: Usage,
}

impl Reply {
    /// Errors: the message of [`Event::Failed`].
    pub fn push(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Text(delta) => {
                self.text.push_str(&delta.text);
                self.tokens.extend(delta.tokens);
            }
            Event::Thinking(text) => self.thinking.push_str(&text),
            Event::ToolCallStarted { index, id, name } => {
                assert_eq!(index, self.tool_calls.len(), "calls start in order");
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
