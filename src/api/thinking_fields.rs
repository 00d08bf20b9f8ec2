//! Whether and how long to think: OpenAI's `reasoning_effort`, and what other servers and their clients call it.

use super::errors::ApiError;
use super::fields::{Fields, quoted};
use crate::chat::{Effort, Thinking};

/// `reasoning_effort` (OpenAI), `reasoning` (OpenRouter, the Responses API), `thinking` (Anthropic, DeepSeek, GLM), `enable_thinking` and
/// `thinking_budget` (Qwen). Of two that say different things the later in this list counts.
pub fn read_thinking(fields: &Fields<'_>) -> Result<Thinking, ApiError> {
    let mut thinking = Thinking::default();
    read_effort(fields, "reasoning_effort", &mut thinking)?;
    if let Some(reasoning) = fields.object("reasoning")? {
        read_effort(&reasoning, "effort", &mut thinking)?;
        thinking.wanted = reasoning.boolean("enabled")?.or(thinking.wanted);
        thinking.budget_tokens = read_budget(&reasoning, "max_tokens")?.or(thinking.budget_tokens);
    }
    if let Some(object) = fields.object("thinking")? {
        thinking.wanted = match object.string("type")? {
            Some("disabled") => Some(false),
            Some("enabled") => Some(true),
            // "adaptive" leaves it to the model, as does what is not known yet.
            _ => thinking.wanted,
        };
        thinking.budget_tokens = read_budget(&object, "budget_tokens")?.or(thinking.budget_tokens);
    }
    thinking.wanted = fields.boolean("enable_thinking")?.or(thinking.wanted);
    thinking.budget_tokens = read_budget(fields, "thinking_budget")?.or(thinking.budget_tokens);
    Ok(thinking)
}

fn read_effort(fields: &Fields<'_>, name: &str, thinking: &mut Thinking) -> Result<(), ApiError> {
    match fields.string(name)? {
        None => {}
        Some("none") => thinking.wanted = Some(false),
        Some("minimal" | "low") => thinking.effort = Some(Effort::Low),
        Some("medium") => thinking.effort = Some(Effort::Medium),
        Some("high" | "xhigh" | "max") => thinking.effort = Some(Effort::High),
        Some(other) => {
            let problem = format_args!("must be none, minimal, low, medium, high or xhigh, not {}", quoted(other));
            return Err(fields.error(name, problem));
        }
    }
    Ok(())
}

fn read_budget(fields: &Fields<'_>, name: &str) -> Result<Option<usize>, ApiError> {
    Ok(fields.integer(name, 0..=i64::MAX)?.map(|tokens| tokens as usize))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(body: Value) -> Result<Thinking, ApiError> {
        read_thinking(&Fields::of_body(body.as_object().expect("an object")))
    }

    #[test]
    fn every_clients_words() {
        let thinking = |wanted, budget_tokens, effort| Thinking { wanted, budget_tokens, effort };
        for (body, expected) in [
            (json!({}), thinking(None, None, None)),
            (json!({"reasoning_effort": "none"}), thinking(Some(false), None, None)),
            (json!({"reasoning_effort": "minimal"}), thinking(None, None, Some(Effort::Low))),
            (json!({"reasoning_effort": "xhigh"}), thinking(None, None, Some(Effort::High))),
            (json!({"reasoning": {"effort": "medium", "summary": "auto"}}), thinking(None, None, Some(Effort::Medium))),
            (json!({"reasoning": {"enabled": false}}), thinking(Some(false), None, None)),
            (json!({"thinking": {"type": "enabled", "budget_tokens": 1024}}), thinking(Some(true), Some(1024), None)),
            (json!({"thinking": {"type": "adaptive"}}), thinking(None, None, None)),
            (
                json!({"reasoning_effort": "high", "enable_thinking": false, "thinking_budget": 0}),
                thinking(Some(false), Some(0), Some(Effort::High)),
            ),
        ] {
            assert_eq!(read(body.clone()), Ok(expected), "{body}");
        }
    }

    #[test]
    fn what_is_none_of_them_is_named() {
        for (body, says) in [
            (json!({"reasoning_effort": "huge"}), "`reasoning_effort` must be none, minimal"),
            (json!({"thinking": true}), "`thinking` must be an object"),
            (json!({"thinking": {"budget_tokens": -1}}), "`thinking.budget_tokens` must be at least 0"),
        ] {
            let error = read(body).unwrap_err();
            assert!(error.message.contains(says), "{}", error.message);
        }
    }
}
