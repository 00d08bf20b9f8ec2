//! Our request in the words of OpenAI's Responses, for an upstream that is to be spoken to in them. Nothing is kept there (`store: false`): the
//! conversation goes up whole each time, as its client sent it.
//!
//! Left out: thoughts of earlier turns (their proof is the upstream's own), names of speakers, the seed, penalties, `top_k` and its kin,
//! `logit_bias`, variables for templates, the priority, and an effort where the model has none. Of at most fifteen tokens the API knows nothing:
//! such a limit is sixteen.

use serde_json::{Map, Value, json};

use super::closed_schema::is_strict;
use super::model_names::OpenAi;
use super::names::{openai_call_id, tool_name};
use super::openai_chat::effort;
use super::{CannotTranslate, conversation_of, number, tools_and_choice};
use crate::api::anthropic_messages::input_of_arguments;
use crate::chat::{Conversation, Message, OutputFormat, Part, Request, Role, ToolCall, ToolChoice, ToolDefinition};

const TO: &str = "OpenAI's Responses";
const TOKENS_MAX_MIN: usize = 16;

pub fn write(request: &Request, model: &str, stream: bool) -> Result<Value, CannotTranslate> {
    let conversation = conversation_of(request, TO)?;
    if conversation.continues_last {
        return Err(cannot("messages", "a reply does not go on where an assistant's message ends"));
    }
    if !request.stop.is_empty() {
        return Err(cannot("stop", "there are no stop strings"));
    }
    if request.top_logprobs.is_some() {
        return Err(cannot("logprobs", "they are not read from there"));
    }
    let kind = OpenAi::named(model);
    let mut body = Map::new();
    body.insert("model".into(), model.into());
    body.insert("input".into(), conversation.messages.iter().flat_map(items).collect());
    body.insert("store".into(), false.into());
    write_tools(conversation, &mut body);
    body.extend(request.tokens_max.map(|tokens| ("max_output_tokens".to_owned(), tokens.max(TOKENS_MAX_MIN).into())));
    if kind != OpenAi::Reasoning {
        for (name, value) in [("temperature", request.sampling.temperature), ("top_p", request.sampling.top_p)] {
            body.extend(value.map(|value| (name.to_owned(), number(value))));
        }
    }
    body.extend(format(&request.output_format)?.map(|format| ("text".to_owned(), json!({"format": format}))));
    body.extend(effort(&conversation.thinking, kind).map(|effort| ("reasoning".to_owned(), json!({"effort": effort}))));
    if stream {
        body.insert("stream".into(), true.into());
    }
    Ok(Value::Object(body))
}

fn cannot(field: &'static str, reason: &'static str) -> CannotTranslate {
    CannotTranslate { field, to: TO, reason }
}

/// What a message is as items: its words, then its calls; or the result of one.
fn items(message: &Message) -> Vec<Value> {
    let (role, part) = match message.role {
        Role::Tool => return vec![call_output(message)],
        Role::System => ("system", "input_text"),
        Role::Developer => ("developer", "input_text"),
        Role::User => ("user", "input_text"),
        Role::Assistant => ("assistant", "output_text"),
    };
    let parts = parts(message, part);
    let words = (!parts.is_empty()).then(|| json!({"type": "message", "role": role, "content": parts}));
    words.into_iter().chain(message.tool_calls.iter().map(call)).collect()
}

fn parts(message: &Message, kind: &str) -> Vec<Value> {
    message.content.iter().map(|Part::Text(text)| json!({"type": kind, "text": text})).collect()
}

fn call(call: &ToolCall) -> Value {
    let is_object = serde_json::from_str::<Map<String, Value>>(&call.arguments).is_ok();
    let arguments = if is_object { call.arguments.clone() } else { input_of_arguments(&call.arguments).to_string() };
    json!({"type": "function_call", "call_id": openai_call_id(&call.id), "name": tool_name(&call.name), "arguments": arguments})
}

fn call_output(message: &Message) -> Value {
    let id = message.tool_call_id.as_deref().expect("it was looked for before anything was written");
    let output = match message.content.as_slice() {
        [] => "".into(),
        [Part::Text(text)] => text.as_str().into(),
        _ => Value::from(parts(message, "input_text")),
    };
    json!({"type": "function_call_output", "call_id": openai_call_id(id), "output": output})
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
        ToolChoice::Named(name) => Some(json!({"type": "function", "name": tool_name(&name)})),
    };
    body.extend(choice.map(|choice| ("tool_choice".to_owned(), choice)));
    if !conversation.parallel_tool_calls {
        body.insert("parallel_tool_calls".into(), false.into());
    }
}

fn tool(tool: &ToolDefinition) -> Value {
    let parameters = tool.parameters.clone().unwrap_or_else(|| json!({"type": "object", "properties": {}}));
    // Where nothing is said, this API holds to the schema, and refuses one that cannot be held to.
    let strict = tool.strict && is_strict(&parameters);
    let mut out = json!({"type": "function", "name": tool_name(&tool.name), "parameters": parameters, "strict": strict});
    if let Some(description) = &tool.description {
        out["description"] = description.as_str().into();
    }
    out
}

fn format(format: &OutputFormat) -> Result<Option<Value>, CannotTranslate> {
    match format {
        OutputFormat::Text => Ok(None),
        OutputFormat::JsonObject => Ok(Some(json!({"type": "json_object"}))),
        // Its name is demanded and means nothing.
        OutputFormat::JsonSchema(schema) => {
            Ok(Some(json!({"type": "json_schema", "name": "reply", "schema": schema, "strict": is_strict(schema)})))
        }
        OutputFormat::Regex(_) | OutputFormat::Choice(_) | OutputFormat::Lark(_) => {
            Err(cannot("structured_outputs", "a reply is held to JSON or to nothing"))
        }
    }
}
