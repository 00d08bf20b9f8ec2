//! Reads the body of a request: what it says itself, and what it goes on from.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::items::{self, Messages};
use super::tools::Tools;
use crate::api::errors::{ApiError, ErrorKind};
use crate::api::fields::{Fields, quoted};
use crate::api::memory::{Exchange, Memory, Recall};
use crate::api::openai_shared as shared;
use crate::api::output_format::read_schema;
use crate::api::thinking_fields::read_thinking;
use crate::chat::{Conversation, OutputFormat, Prompt, Request};

/// Bounds of OpenAI's on `metadata`.
const METADATA_PAIRS_MAX: usize = 16;
const METADATA_KEY_CHARACTERS_MAX: usize = 64;
const METADATA_VALUE_CHARACTERS_MAX: usize = 512;

/// A request, and what its reply repeats of it.
#[derive(Debug)]
pub struct Asked {
    pub request: Request,
    pub stream: bool,
    pub model: Option<String>,
    pub tools: Tools,
    pub logprobs: bool,
    /// The reply can be asked for later, and gone on from.
    pub store: bool,
    /// The items of this request alone.
    pub input: Vec<Value>,
    pub previous: Option<String>,
    /// Fields of the reply that say how it was asked for, in their order.
    pub echo: Map<String, Value>,
}

pub fn read(fields: &Fields<'_>, memory: &dyn Memory) -> Result<Asked, ApiError> {
    refuse_what_is_not_here(fields)?;
    let previous = fields.string("previous_response_id")?;
    let earlier = previous.map(|id| recall(fields, id, memory)).transpose()?.unwrap_or_default();
    let input = items::read_input(fields, memory)?;

    let mut tools = Tools::default();
    tools.read(fields.array("tools")?.unwrap_or_default(), "tools")?;
    let earlier_items: Vec<Value> = earlier.iter().flat_map(|exchange| exchange_items(exchange)).collect();
    items::read_tools(&earlier_items, "previous_response_id", &mut tools)?;
    items::read_tools(&input, "input", &mut tools)?;

    let mut messages = Messages::new(&tools);
    if let Some(text) = read_instructions(fields, &mut messages)? {
        messages.instructions(text);
    }
    messages.read(&earlier_items, "previous_response_id")?;
    messages.read(&input, "input")?;
    let messages = messages.finish();
    if messages.is_empty() {
        return Err(fields.error("input", "holds nothing that could be answered"));
    }

    let (mut request, delivery) = shared::read_request(fields)?;
    request.choices_per_prompt = 1;
    request.tokens_max = fields.integer("max_output_tokens", 1..=i64::MAX)?.map(|tokens| tokens as usize).or(request.tokens_max);
    request.output_format = read_format(fields)?;
    let top_logprobs = fields.integer("top_logprobs", 0..=shared::TOP_LOGPROBS_MAX)?;
    let logprobs = includes(fields, "message.output_text.logprobs")?;
    request.top_logprobs = logprobs.then_some(top_logprobs.unwrap_or(0) as usize);
    let parallel_tool_calls = fields.boolean("parallel_tool_calls")?.unwrap_or(true);
    request.prompts = vec![Prompt::Conversation(Conversation {
        messages,
        tools: tools.definitions(),
        tool_choice: tools.read_choice(fields)?,
        parallel_tool_calls,
        thinking: read_thinking(fields)?,
        continues_last: false,
        template_variables: fields.object("chat_template_kwargs")?.map(|variables| variables.map().clone()).unwrap_or_default(),
    })];
    Ok(Asked {
        request,
        stream: delivery.stream,
        model: shared::read_model(fields)?,
        tools,
        logprobs,
        store: fields.boolean("store")?.unwrap_or(true),
        input,
        previous: previous.map(str::to_owned),
        echo: read_echo(fields, parallel_tool_calls, top_logprobs)?,
    })
}

/// Everything that was said in an exchange, the reply included.
pub fn exchange_items(exchange: &Exchange) -> Vec<Value> {
    let mut items = exchange.input();
    items.extend(items::output_of(&exchange.reply()));
    items
}

/// What would change the meaning of the reply if it were ignored.
fn refuse_what_is_not_here(fields: &Fields<'_>) -> Result<(), ApiError> {
    if fields.boolean("background")? == Some(true) {
        return Err(fields.error("background", "must be false: this server answers while the client waits"));
    }
    if fields.get("conversation").is_some() {
        return Err(fields.error("conversation", "is not supported; send the items, or `previous_response_id`"));
    }
    if fields.get("prompt").is_some() {
        return Err(fields.error("prompt", "is not supported: prompt templates are kept by OpenAI; send `instructions` and `input`"));
    }
    Ok(())
}

fn recall(fields: &Fields<'_>, id: &str, memory: &dyn Memory) -> Result<Vec<Arc<Exchange>>, ApiError> {
    match memory.recall(id) {
        Recall::Kept(exchanges) => Ok(exchanges),
        Recall::Running => Err(fields.error("previous_response_id", format_args!("is {}, which is still in progress", quoted(id)))),
        Recall::Unknown => Err(ApiError {
            param: Some("previous_response_id".to_owned()),
            ..ApiError::new(ErrorKind::NotFound, format!("Previous response with id '{}' not found.", short(id)))
        }
        .with_code("previous_response_not_found")),
    }
}

/// `id` for a message, and not all of a long one.
pub fn short(id: &str) -> String {
    id.chars().take(80).collect()
}

/// A text, or items that stand before all others.
fn read_instructions<'a>(fields: &Fields<'a>, messages: &mut Messages<'_>) -> Result<Option<&'a str>, ApiError> {
    match fields.get("instructions") {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text).filter(|text| !text.is_empty()).map(String::as_str)),
        Some(Value::Array(items)) => messages.read(items, "instructions").map(|()| None),
        Some(other) => Err(fields.wrong_kind("instructions", "a string or an array of items", other)),
    }
}

fn includes(fields: &Fields<'_>, wanted: &str) -> Result<bool, ApiError> {
    Ok(fields.array("include")?.unwrap_or_default().iter().any(|name| name == wanted))
}

fn read_format(fields: &Fields<'_>) -> Result<OutputFormat, ApiError> {
    let Some(text) = fields.object("text")? else { return Ok(OutputFormat::Text) };
    let Some(format) = text.object("format")? else { return Ok(OutputFormat::Text) };
    format.require("type")?;
    match format.string("type")?.unwrap_or_default() {
        "text" => Ok(OutputFormat::Text),
        "json_object" => Ok(OutputFormat::JsonObject),
        "json_schema" => {
            // Chat completions keep the schema one level deeper.
            let inner = format.object("json_schema")?;
            let format = inner.as_ref().unwrap_or(&format);
            format.require("schema")?;
            Ok(read_schema(format, "schema")?.map_or(OutputFormat::JsonObject, OutputFormat::JsonSchema))
        }
        other => Err(format.error("type", format_args!("must be text, json_object or json_schema, not {}", quoted(other)))),
    }
}

/// What the reply says of the request: the client's own words where it has said something.
fn read_echo(fields: &Fields<'_>, parallel_tool_calls: bool, top_logprobs: Option<i64>) -> Result<Map<String, Value>, ApiError> {
    let own = |name: &str, default: Value| fields.get(name).cloned().unwrap_or(default);
    let format = |text: &Fields<'_>| text.get("format").cloned();
    let text = fields.object("text")?;
    let mut text_echo = Map::new();
    text_echo.insert("format".into(), text.as_ref().and_then(format).unwrap_or_else(|| json!({"type": "text"})));
    if let Some(text) = &text {
        text_echo.extend(text.string("verbosity")?.map(|verbosity| ("verbosity".to_owned(), verbosity.into())));
    }
    let reasoning = fields.object("reasoning")?;
    let of_reasoning = |name: &str| reasoning.as_ref().and_then(|reasoning| reasoning.get(name)).cloned().unwrap_or(Value::Null);
    // "auto" is a wish; the tier is what was done.
    let flex = fields.get("service_tier").and_then(Value::as_str) == Some("flex");
    let echo = json!({
        "instructions": own("instructions", Value::Null),
        "max_output_tokens": own("max_output_tokens", Value::Null),
        "max_tool_calls": own("max_tool_calls", Value::Null),
        "metadata": read_metadata(fields)?,
        "parallel_tool_calls": parallel_tool_calls,
        "previous_response_id": own("previous_response_id", Value::Null),
        "prompt_cache_key": own("prompt_cache_key", Value::Null),
        "reasoning": {"effort": of_reasoning("effort"), "summary": of_reasoning("summary")},
        "safety_identifier": own("safety_identifier", Value::Null),
        "service_tier": if flex { "flex" } else { "default" },
        "store": own("store", true.into()),
        "temperature": own("temperature", Value::Null),
        "text": text_echo,
        "tool_choice": own("tool_choice", "auto".into()),
        "tools": own("tools", json!([])),
        "top_logprobs": top_logprobs.unwrap_or(0),
        "top_p": own("top_p", Value::Null),
        // What does not fit is refused, whatever was asked for: nothing is left out in silence.
        "truncation": "disabled",
        "user": own("user", Value::Null),
    });
    let Value::Object(echo) = echo else { unreachable!("an object is written above") };
    Ok(echo)
}

fn read_metadata(fields: &Fields<'_>) -> Result<Value, ApiError> {
    let Some(metadata) = fields.object("metadata")? else { return Ok(json!({})) };
    let pairs = metadata.map();
    if pairs.len() > METADATA_PAIRS_MAX {
        return Err(fields.error("metadata", format_args!("has {} pairs; at most {METADATA_PAIRS_MAX} are allowed", pairs.len())));
    }
    for (key, value) in pairs {
        if key.chars().count() > METADATA_KEY_CHARACTERS_MAX {
            let problem = format_args!("has a key of more than {METADATA_KEY_CHARACTERS_MAX} characters: {}", quoted(key));
            return Err(fields.error("metadata", problem));
        }
        let text = value.as_str().ok_or_else(|| metadata.wrong_kind(key, "a string", value))?;
        if text.chars().count() > METADATA_VALUE_CHARACTERS_MAX {
            return Err(metadata.error(key, format_args!("has more than {METADATA_VALUE_CHARACTERS_MAX} characters")));
        }
    }
    Ok(Value::Object(pairs.clone()))
}
