//! Our request in the words of OpenAI's chat completions, for OpenAI itself and for the many servers that imitate it: what only some of
//! them know (vLLM's samplers, `developer`, `allowed_tools`) is not said.
//!
//! Left out: thoughts of earlier turns, `top_k`, `min_p`, `typical_p`, `repetition_penalty`, DRY, variables for templates, the
//! priority, and an effort where the model has none.

use serde_json::{Map, Value, json};

use super::closed_schema::is_strict;
use super::model_names::OpenAi;
use super::names::{openai_call_id, tool_name};
use super::{CannotTranslate, conversation_of, number, tools_and_choice};
use crate::api::anthropic_messages::input_of_arguments;
use crate::chat::{Conversation, Effort, Message, OutputFormat, Part, Request, Role, Thinking, ToolCall, ToolChoice, ToolDefinition};

const TO: &str = "OpenAI's chat completions";
/// OpenAI's bound; others have none, and take these too.
const STOP_MAX: usize = 4;
/// Budgets of thoughts that are called low and medium; a larger one is high.
const LOW_BUDGET_TOKENS: usize = 4_096;
const MEDIUM_BUDGET_TOKENS: usize = 16_384;

pub fn write(request: &Request, model: &str, stream: bool) -> Result<Value, CannotTranslate> {
    let conversation = conversation_of(request, TO)?;
    if conversation.continues_last {
        return Err(cannot("messages", "a reply does not go on where an assistant's message ends"));
    }
    body_of(conversation, request, model, stream).map(Value::Object)
}

/// A stream that goes on where the assistant's message at the end ends, as vLLM and SGLang are asked for it. Servers that do so unasked
/// (llama.cpp's) leave out what they do not know; OpenAI's own API does not go on.
pub fn write_continuing(request: &Request, model: &str) -> Result<Value, CannotTranslate> {
    let mut body = body_of(conversation_of(request, TO)?, request, model, true)?;
    body.insert("continue_final_message".into(), true.into());
    body.insert("add_generation_prompt".into(), false.into());
    Ok(Value::Object(body))
}

fn body_of(conversation: &Conversation, request: &Request, model: &str, stream: bool) -> Result<Map<String, Value>, CannotTranslate> {
    let kind = OpenAi::named(model);
    let mut body = Map::new();
    body.insert("model".into(), model.into());
    body.insert("messages".into(), conversation.messages.iter().map(message).collect());
    write_tools(conversation, &mut body);
    write_limits(request, kind, &mut body)?;
    write_sampling(request, kind, &mut body)?;
    body.extend(output_format(&request.output_format)?.map(|format| ("response_format".to_owned(), format)));
    body.extend(effort(&conversation.thinking, kind).map(|effort| ("reasoning_effort".to_owned(), effort.into())));
    if stream {
        body.insert("stream".into(), true.into());
        body.insert("stream_options".into(), json!({"include_usage": true}));
    }
    Ok(body)
}

fn cannot(field: &'static str, reason: &'static str) -> CannotTranslate {
    CannotTranslate { field, to: TO, reason }
}

fn message(message: &Message) -> Value {
    let mut out = Map::new();
    out.insert("role".into(), role(message.role).into());
    // Only a message of calls may have no content.
    let content = if message.content.is_empty() && !message.tool_calls.is_empty() { Value::Null } else { content(&message.content) };
    out.insert("content".into(), content);
    if !message.tool_calls.is_empty() {
        out.insert("tool_calls".into(), message.tool_calls.iter().map(tool_call).collect());
    }
    out.extend(message.tool_call_id.as_deref().map(|id| ("tool_call_id".to_owned(), openai_call_id(id).into())));
    let name = message.name.as_deref().filter(|_| message.role != Role::Tool);
    out.extend(name.map(|name| ("name".to_owned(), name.into())));
    Value::Object(out)
}

fn role(role: Role) -> &'static str {
    match role {
        // OpenAI reads it as `developer` where its model wants that; others know nothing else.
        Role::System | Role::Developer => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
        Role::Tool => "tool",
    }
}

fn content(parts: &[Part]) -> Value {
    match parts {
        [] => "".into(),
        [Part::Text(text)] => text.as_str().into(),
        parts => parts.iter().map(|Part::Text(text)| json!({"type": "text", "text": text})).collect(),
    }
}

fn tool_call(call: &ToolCall) -> Value {
    // OpenAI takes any text, but servers that render it by a template want an object.
    let is_object = serde_json::from_str::<Map<String, Value>>(&call.arguments).is_ok();
    let arguments = if is_object { call.arguments.clone() } else { input_of_arguments(&call.arguments).to_string() };
    let function = json!({"name": tool_name(&call.name), "arguments": arguments});
    json!({"id": openai_call_id(&call.id), "type": "function", "function": function})
}

/// Without tools, a choice among them is refused.
fn write_tools(conversation: &Conversation, body: &mut Map<String, Value>) {
    let (tools, choice) = tools_and_choice(conversation);
    if tools.is_empty() {
        return;
    }
    body.insert("tools".into(), tools.into_iter().map(tool).collect());
    let choice = match choice {
        ToolChoice::Auto | ToolChoice::Allowed { .. } => None,
        ToolChoice::None => Some("none".into()),
        ToolChoice::Required => Some("required".into()),
        ToolChoice::Named(name) => Some(json!({"type": "function", "function": {"name": tool_name(&name)}})),
    };
    body.extend(choice.map(|choice| ("tool_choice".to_owned(), choice)));
    // Several are the rule, and not every server knows the field.
    if !conversation.parallel_tool_calls {
        body.insert("parallel_tool_calls".into(), false.into());
    }
}

fn tool(tool: &ToolDefinition) -> Value {
    let mut function = Map::new();
    function.insert("name".into(), tool_name(&tool.name).into());
    function.extend(tool.description.as_ref().map(|text| ("description".to_owned(), text.as_str().into())));
    function.extend(tool.parameters.as_ref().map(|schema| ("parameters".to_owned(), schema.clone())));
    if tool.strict && tool.parameters.as_ref().is_some_and(is_strict) {
        function.insert("strict".into(), true.into());
    }
    json!({"type": "function", "function": function})
}

fn write_limits(request: &Request, kind: OpenAi, body: &mut Map<String, Value>) -> Result<(), CannotTranslate> {
    if let Some(tokens) = request.tokens_max {
        // The old name is refused by newer models of OpenAI's, the new one is unknown to older servers of others.
        let name = if kind == OpenAi::Other { "max_tokens" } else { "max_completion_tokens" };
        body.insert(name.into(), tokens.into());
    }
    match request.stop.len() {
        0 => Ok(()),
        _ if kind == OpenAi::Reasoning => Err(cannot("stop", "this model has none")),
        count if count > STOP_MAX => Err(cannot("stop", "there may be four")),
        _ => {
            body.insert("stop".into(), json!(request.stop));
            Ok(())
        }
    }
}

fn write_sampling(request: &Request, kind: OpenAi, body: &mut Map<String, Value>) -> Result<(), CannotTranslate> {
    let sampling = &request.sampling;
    // Read from 64 bits, whose half is negative numbers.
    body.extend(sampling.seed.map(|seed| ("seed".to_owned(), (seed as i64).into())));
    if kind == OpenAi::Reasoning {
        return match request.top_logprobs {
            Some(_) => Err(cannot("logprobs", "this model gives none")),
            None => Ok(()),
        };
    }
    for (name, value) in [
        ("temperature", sampling.temperature),
        ("top_p", sampling.top_p),
        ("presence_penalty", sampling.presence_penalty),
        ("frequency_penalty", sampling.frequency_penalty),
    ] {
        body.extend(value.map(|value| (name.to_owned(), number(value))));
    }
    if !sampling.logit_bias.is_empty() {
        let biases: Map<String, Value> = sampling.logit_bias.iter().map(|(token, bias)| (token.to_string(), number(*bias))).collect();
        body.insert("logit_bias".into(), biases.into());
    }
    if let Some(top) = request.top_logprobs {
        body.insert("logprobs".into(), true.into());
        body.insert("top_logprobs".into(), top.into());
    }
    Ok(())
}

fn output_format(format: &OutputFormat) -> Result<Option<Value>, CannotTranslate> {
    match format {
        OutputFormat::Text => Ok(None),
        OutputFormat::JsonObject => Ok(Some(json!({"type": "json_object"}))),
        // Its name is demanded and means nothing.
        OutputFormat::JsonSchema(schema) => {
            let named = json!({"name": "reply", "schema": schema, "strict": is_strict(schema)});
            Ok(Some(json!({"type": "json_schema", "json_schema": named})))
        }
        OutputFormat::Regex(_) | OutputFormat::Choice(_) | OutputFormat::Lark(_) => {
            Err(cannot("structured_outputs", "a reply is held to JSON or to nothing"))
        }
    }
}

/// What is asked of a model that thinks. None of OpenAI's can be told not to in the same words as the others: `low` is known to all.
pub(super) fn effort(thinking: &Thinking, kind: OpenAi) -> Option<&'static str> {
    let of_budget = |tokens| match tokens {
        tokens if tokens <= LOW_BUDGET_TOKENS => Effort::Low,
        tokens if tokens <= MEDIUM_BUDGET_TOKENS => Effort::Medium,
        _ => Effort::High,
    };
    let unwanted = (thinking.wanted == Some(false)).then_some(Effort::Low);
    let effort = match kind {
        OpenAi::Chat => None,
        OpenAi::Reasoning => thinking.effort.or(unwanted).or(thinking.budget_tokens.map(of_budget)),
        OpenAi::Other => thinking.effort,
    };
    effort.map(|effort| match effort {
        Effort::Low => "low",
        Effort::Medium => "medium",
        Effort::High => "high",
    })
}
