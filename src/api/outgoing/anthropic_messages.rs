//! Our request in the words of Anthropic's messages. Its API is strict where OpenAI's is not: speakers alternate, results of calls come
//! first in the next turn, no text is blank, and newer models refuse what older ones need (see `model_names.rs`).
//!
//! Left out: thoughts of earlier turns (nobody here can sign them), names of speakers, the seed, penalties, `min_p`, `typical_p`, DRY,
//! `logit_bias`, variables for templates, the priority, `top_p` beside a temperature, samplers of a model that thinks or has none, and
//! thinking where the model or the turn has no place for it.

use serde_json::{Map, Value, json};

use super::closed_schema::closed;
use super::model_names::Claude;
use super::names::{anthropic_call_id, tool_name};
use super::{CannotTranslate, conversation_of, number, tools_and_choice};
use crate::api::anthropic_messages::input_of_arguments;
use crate::chat::{Conversation, Effort, Message, OutputFormat, Part, Request, Role, ToolCall, ToolChoice, ToolDefinition};

const TO: &str = "Anthropic's messages";
/// The least that the API takes.
const BUDGET_TOKENS_MIN: usize = 1_024;
/// What is said for a user who has not spoken, where the API wants one.
const SILENCE: &str = "...";

pub fn write(request: &Request, model: &str, stream: bool) -> Result<Value, CannotTranslate> {
    let conversation = conversation_of(request, TO)?;
    if conversation.continues_last && !Claude::named(model).continues_messages() {
        return Err(cannot("messages", "this model does not go on where an assistant's message ends"));
    }
    body_of(conversation, request, model, stream)
}

/// A stream that goes on where the assistant's message at the end ends. Whether the model does so is not asked here.
pub fn write_continuing(request: &Request, model: &str) -> Result<Value, CannotTranslate> {
    body_of(conversation_of(request, TO)?, request, model, true)
}

fn body_of(conversation: &Conversation, request: &Request, model: &str, stream: bool) -> Result<Value, CannotTranslate> {
    let claude = Claude::named(model);
    if request.top_logprobs.is_some() {
        return Err(cannot("logprobs", "there are none"));
    }
    let tokens_max = request.tokens_max.unwrap_or(claude.tokens_max_default());
    let (tools, choice) = tools_and_choice(conversation);
    let thinks = thinking(conversation, &choice, claude, tokens_max);

    let mut body = Map::new();
    body.insert("model".into(), model.into());
    body.insert("max_tokens".into(), tokens_max.into());
    let (system, turns) = write_messages(conversation);
    body.extend(system.map(|system| ("system".to_owned(), system)));
    body.insert("messages".into(), turns);
    if !tools.is_empty() {
        body.insert("tools".into(), tools.into_iter().map(|definition| tool(definition, claude)).collect());
        body.extend(tool_choice(&choice, conversation.parallel_tool_calls).map(|choice| ("tool_choice".to_owned(), choice)));
    }
    body.extend(stop_sequences(request)?.map(|stop| ("stop_sequences".to_owned(), stop)));
    write_sampling(request, claude, thinks.is_some(), &mut body);
    body.extend(thinks.map(|thinking| ("thinking".to_owned(), thinking)));
    let config = output_config(request, conversation, claude)?;
    if !config.is_empty() {
        body.insert("output_config".into(), config.into());
    }
    if stream {
        body.insert("stream".into(), true.into());
    }
    Ok(Value::Object(body))
}

fn cannot(field: &'static str, reason: &'static str) -> CannotTranslate {
    CannotTranslate { field, to: TO, reason }
}

/// The system prompt, and the turns of user and assistant. As `anthropic_conversation.rs` reads it, all that the system says before the
/// first answer is the system prompt; what it says later stays where it is, in the mouth of the user.
fn write_messages(conversation: &Conversation) -> (Option<Value>, Value) {
    let answers = conversation.messages.iter().position(|message| message.role == Role::Assistant);
    let mut system = Vec::new();
    let mut turns = Turns::default();
    for (index, message) in conversation.messages.iter().enumerate() {
        match message.role {
            Role::System | Role::Developer if answers.is_none_or(|first| index < first) => system.extend(texts(&message.content)),
            Role::System | Role::Developer => {
                turns.say("user", texts(&message.content).map(|text| text_block(&format!("<system>\n{text}\n</system>"))));
            }
            Role::User => turns.say("user", texts(&message.content).map(text_block)),
            Role::Assistant => {
                let calls = message.tool_calls.iter().map(tool_use);
                turns.say("assistant", texts(&message.content).map(text_block).chain(calls));
            }
            Role::Tool => turns.answer(tool_result(message)),
        }
    }
    let mut turns = turns.turns;
    if turns.first().is_none_or(|turn| turn.role == "assistant") {
        turns.insert(0, Turn { role: "user", content: vec![text_block(SILENCE)] });
    }
    let ends_with_assistant = turns.last().is_some_and(|turn| turn.role == "assistant");
    if conversation.continues_last {
        trim_end(&mut turns);
    } else if ends_with_assistant {
        // Or the reply would go on with what has ended.
        turns.push(Turn { role: "user", content: vec![text_block(SILENCE)] });
    }
    let system = match system.as_slice() {
        [] => None,
        [text] => Some((*text).into()),
        texts => Some(texts.iter().map(|text| text_block(text)).collect()),
    };
    (system, turns.into_iter().map(|turn| json!({"role": turn.role, "content": turn.content})).collect())
}

/// Turns that alternate.
#[derive(Default)]
struct Turns {
    turns: Vec<Turn>,
}

struct Turn {
    role: &'static str,
    content: Vec<Value>,
}

impl Turns {
    /// What says nothing is no turn.
    fn say(&mut self, role: &'static str, blocks: impl Iterator<Item = Value>) {
        for block in blocks {
            self.of(role).content.push(block);
        }
    }

    /// Results come before whatever else the user says.
    fn answer(&mut self, result: Value) {
        let content = &mut self.of("user").content;
        let place = content.iter().position(|block| block["type"] != "tool_result").unwrap_or(content.len());
        content.insert(place, result);
    }

    fn of(&mut self, role: &'static str) -> &mut Turn {
        if self.turns.last().is_none_or(|last| last.role != role) {
            self.turns.push(Turn { role, content: Vec::new() });
        }
        self.turns.last_mut().expect("one has been pushed")
    }
}

/// A beginning that ends in white space is refused; the model writes its own.
fn trim_end(turns: &mut [Turn]) {
    if let Some(block) = turns.last_mut().and_then(|turn| turn.content.last_mut())
        && let Some(text) = block["text"].as_str()
    {
        block["text"] = text.trim_end().into();
    }
}

/// Those that say something: blank ones are refused.
fn texts(parts: &[Part]) -> impl Iterator<Item = &str> {
    parts.iter().map(|Part::Text(text)| text.as_str()).filter(|text| !text.trim().is_empty())
}

fn text_block(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

fn tool_use(call: &ToolCall) -> Value {
    let input = input_of_arguments(&call.arguments);
    json!({"type": "tool_use", "id": anthropic_call_id(&call.id), "name": tool_name(&call.name), "input": input})
}

fn tool_result(message: &Message) -> Value {
    let id = message.tool_call_id.as_deref().expect("it was looked for before anything was written");
    let mut result = Map::new();
    result.insert("type".into(), "tool_result".into());
    result.insert("tool_use_id".into(), anthropic_call_id(id).into());
    let content: Vec<&str> = texts(&message.content).collect();
    match content.as_slice() {
        [] => {}
        [text] => _ = result.insert("content".into(), (*text).into()),
        texts => _ = result.insert("content".into(), texts.iter().map(|text| text_block(text)).collect()),
    }
    Value::Object(result)
}

fn tool(tool: &ToolDefinition, claude: Claude) -> Value {
    let mut out = Map::new();
    out.insert("name".into(), tool_name(&tool.name).into());
    out.extend(tool.description.as_ref().map(|text| ("description".to_owned(), text.as_str().into())));
    let strict = tool.strict && claude.holds_schemas();
    let mut schema = tool.parameters.clone().unwrap_or_else(|| json!({"type": "object", "properties": {}}));
    if let Some(fields) = schema.as_object_mut() {
        // Arguments are an object; that the schema says so is demanded.
        fields.entry("type").or_insert_with(|| "object".into());
    }
    out.insert("input_schema".into(), if strict { closed(&schema) } else { schema });
    if strict {
        out.insert("strict".into(), true.into());
    }
    Value::Object(out)
}

fn tool_choice(choice: &ToolChoice, parallel: bool) -> Option<Value> {
    let mut out = match choice {
        ToolChoice::None => return Some(json!({"type": "none"})),
        ToolChoice::Auto | ToolChoice::Allowed { .. } if parallel => return None,
        ToolChoice::Auto | ToolChoice::Allowed { .. } => json!({"type": "auto"}),
        ToolChoice::Required => json!({"type": "any"}),
        ToolChoice::Named(name) => json!({"type": "tool", "name": tool_name(name)}),
    };
    if !parallel {
        out["disable_parallel_tool_use"] = true.into();
    }
    Some(out)
}

fn stop_sequences(request: &Request) -> Result<Option<Value>, CannotTranslate> {
    if request.stop.iter().any(|stop| stop.trim().is_empty()) {
        return Err(cannot("stop", "white space ends no reply"));
    }
    Ok((!request.stop.is_empty()).then(|| json!(request.stop)))
}

fn write_sampling(request: &Request, claude: Claude, thinks: bool, body: &mut Map<String, Value>) {
    if !claude.samples() || thinks {
        return;
    }
    let sampling = &request.sampling;
    match (sampling.temperature, sampling.top_p) {
        // Its temperatures end at 1; two samplers at once are refused.
        (Some(temperature), _) => _ = body.insert("temperature".into(), number(temperature.min(1.0))),
        (None, Some(top_p)) => _ = body.insert("top_p".into(), number(top_p)),
        (None, None) => {}
    }
    // 0 is our word for all tokens.
    body.extend(sampling.top_k.filter(|top_k| *top_k > 0).map(|top_k| ("top_k".to_owned(), top_k.into())));
}

/// `None`: no thinking, which is what the API does when nothing is said.
fn thinking(conversation: &Conversation, choice: &ToolChoice, claude: Claude, tokens_max: usize) -> Option<Value> {
    let thinking = &conversation.thinking;
    let asked = thinking.wanted == Some(true) || thinking.effort.is_some() || thinking.budget_tokens.is_some_and(|budget| budget > 0);
    // A call that must be made cannot be thought about, nor a beginning of which the thoughts are over.
    let forced = matches!(choice, ToolChoice::Required | ToolChoice::Named(_)) || conversation.continues_last;
    if thinking.wanted == Some(false) || !asked || forced {
        return None;
    }
    if claude.thinks_adaptively() {
        return Some(json!({"type": "adaptive"}));
    }
    // Between a call and its result such a model wants to see its own thoughts, with their signature, or none at all.
    let between_calls = conversation.messages.last().is_some_and(|last| last.role == Role::Tool);
    if !claude.thinks_by_budget() || between_calls {
        return None;
    }
    let budget = thinking.budget_tokens.unwrap_or(match thinking.effort {
        Some(Effort::Low) => 2_048,
        None | Some(Effort::Medium) => 8_192,
        Some(Effort::High) => 24_576,
    });
    // It is a part of `max_tokens`, and something must remain for the answer.
    let budget = budget.max(BUDGET_TOKENS_MIN).min(tokens_max.saturating_sub(tokens_max / 4));
    (budget >= BUDGET_TOKENS_MIN && budget < tokens_max).then(|| json!({"type": "enabled", "budget_tokens": budget}))
}

fn output_config(request: &Request, conversation: &Conversation, claude: Claude) -> Result<Map<String, Value>, CannotTranslate> {
    let mut config = Map::new();
    if claude.thinks_adaptively() {
        let effort = conversation.thinking.effort.map(|effort| match effort {
            Effort::Low => "low",
            Effort::Medium => "medium",
            Effort::High => "high",
        });
        config.extend(effort.map(|effort| ("effort".to_owned(), effort.into())));
    }
    match &request.output_format {
        OutputFormat::Text => {}
        OutputFormat::JsonSchema(schema) if claude.holds_schemas() => {
            config.insert("format".into(), json!({"type": "json_schema", "schema": closed(schema)}));
        }
        OutputFormat::JsonSchema(_) => return Err(cannot("response_format", "this model is held to no schema")),
        OutputFormat::JsonObject => return Err(cannot("response_format", "JSON of any form is no format there")),
        OutputFormat::Regex(_) | OutputFormat::Choice(_) | OutputFormat::Lark(_) => {
            return Err(cannot("structured_outputs", "a reply is held to a schema or to nothing"));
        }
    }
    Ok(config)
}
