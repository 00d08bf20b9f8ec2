//! What a request of Anthropic's dialect says: system prompt, messages, tools, thinking. Wide in what it accepts, because it reads
//! histories that other servers and other versions of the clients had a part in.
//!
//! Invariant: one conversation has one reading. `"content": "x"` reads as a text block `x`, `cache_control` as nothing, and what a client
//! adds from turn to turn leaves everything before it as it was, so that the prompt's beginning stays cached.

use serde_json::Value;

use super::anthropic_messages::ThinkingShown;
use super::errors::ApiError;
use super::fields::{Fields, quoted};
use crate::chat::{Conversation, Effort, Message, Part, Role, Thinking, ToolCall, ToolChoice, ToolDefinition};

/// Opens a system block that Claude Code writes for Anthropic's accounting, and that Anthropic takes out. It differs from session to
/// session: with it no two of them would share a prompt's beginning.
const BILLING: &str = "x-anthropic-billing-header:";

pub fn read_conversation(fields: &Fields<'_>) -> Result<(Conversation, ThinkingShown), ApiError> {
    let messages = read_messages(fields)?;
    let (tools, server_tools) = read_tools(fields)?;
    let (tool_choice, parallel_tool_calls) = read_tool_choice(fields, &tools, &server_tools)?;
    let (thinking, shown) = read_thinking(fields)?;
    // A call that waits for its result is no beginning of an answer, and neither are thoughts.
    let begun = |last: &Message| last.role == Role::Assistant && last.tool_calls.is_empty() && !last.content.is_empty();
    let continues_last = messages.last().is_some_and(begun);
    let conversation =
        Conversation { messages, tools, tool_choice, parallel_tool_calls, thinking, continues_last, ..Conversation::default() };
    Ok((conversation, shown))
}

/// The system prompt first, if there is one. System messages before the first answer are part of it: templates want it in one piece,
/// and they do not change any more. Later ones stay where they are; moved to the front they would change what is cached.
fn read_messages(fields: &Fields<'_>) -> Result<Vec<Message>, ApiError> {
    fields.require("messages")?;
    let values = fields.array("messages")?.unwrap_or_default();
    let mut system = read_system(fields)?;
    let mut messages = Vec::with_capacity(values.len() + 1);
    let mut answered = false;
    for (index, value) in values.iter().enumerate() {
        let message = Fields::of(value, format!("messages[{index}]"))?;
        message.require("role")?;
        match message.string("role")?.unwrap_or_default() {
            "system" | "developer" => {
                let parts = read_system_content(&message, "content")?;
                if answered { push_turn(&mut messages, Message { content: parts, ..empty(Role::System) }) } else { system.extend(parts) }
            }
            "user" => read_user(&message)?.into_iter().for_each(|turn| push_turn(&mut messages, turn)),
            "assistant" => {
                answered = true;
                push_turn(&mut messages, read_assistant(&message)?);
            }
            other => return Err(message.error("role", format_args!("must be user, assistant or system, not {}", quoted(other)))),
        }
    }
    if messages.is_empty() {
        return Err(fields.error("messages", "has no content; there must be at least one message that says something"));
    }
    if !system.is_empty() {
        messages.insert(0, Message { content: system, ..empty(Role::System) });
    }
    Ok(messages)
}

/// Consecutive turns of one speaker are one, and one that says nothing is none: many templates demand that speakers alternate.
fn push_turn(messages: &mut Vec<Message>, turn: Message) {
    let silent = turn.content.is_empty() && turn.tool_calls.is_empty() && turn.thinking.is_none();
    if silent && turn.role != Role::Tool {
        return;
    }
    match messages.last_mut() {
        // After its calls an assistant's text is a turn of its own, or it would move before them.
        Some(last) if last.role == turn.role && last.role != Role::Tool && last.tool_calls.is_empty() => {
            last.content.extend(turn.content);
            last.tool_calls = turn.tool_calls;
            last.thinking = match (last.thinking.take(), turn.thinking) {
                (Some(before), Some(after)) => Some(format!("{before}\n\n{after}")),
                (before, after) => before.or(after),
            };
        }
        _ => messages.push(turn),
    }
}

fn read_system(fields: &Fields<'_>) -> Result<Vec<Part>, ApiError> {
    let parts = read_system_content(fields, "system")?;
    Ok(parts.into_iter().filter_map(without_billing).collect())
}

fn without_billing(part: Part) -> Option<Part> {
    let Part::Text(text) = part;
    if !text.starts_with(BILLING) {
        return Some(Part::Text(text));
    }
    // A proxy may have joined the blocks: only the line goes.
    text.split_once('\n').filter(|(_, rest)| !rest.is_empty()).map(|(_, rest)| Part::Text(rest.to_owned()))
}

fn read_system_content(fields: &Fields<'_>, name: &str) -> Result<Vec<Part>, ApiError> {
    let text = |block| match block {
        Block::Text(text) => Ok(Part::Text(text)),
        other => Err(fields.error(name, format_args!("holds a block of type {}; only text can stand there", other.kind()))),
    };
    read_blocks(fields, name)?.into_iter().map(text).collect()
}

/// Results of tools first, as they must follow the calls; then the text.
fn read_user(message: &Fields<'_>) -> Result<Vec<Message>, ApiError> {
    let (mut turns, mut said) = (Vec::new(), empty(Role::User));
    for block in read_blocks(message, "content")? {
        match block {
            Block::Text(text) => said.content.push(Part::Text(text)),
            Block::ToolResult { id, content } => {
                turns.push(Message { content, tool_call_id: Some(id), ..empty(Role::Tool) });
            }
            other => return Err(misplaced(message, &other, "assistant")),
        }
    }
    turns.push(said);
    Ok(turns)
}

fn read_assistant(message: &Fields<'_>) -> Result<Message, ApiError> {
    let mut turn = empty(Role::Assistant);
    let mut thoughts = Vec::new();
    for block in read_blocks(message, "content")? {
        match block {
            Block::Text(text) => turn.content.push(Part::Text(text)),
            Block::Thinking(text) => thoughts.push(text),
            Block::ToolUse(call) => turn.tool_calls.push(call),
            other => return Err(misplaced(message, &other, "user")),
        }
    }
    turn.thinking = (!thoughts.is_empty()).then(|| thoughts.join("\n\n"));
    Ok(turn)
}

fn misplaced(message: &Fields<'_>, block: &Block, role: &str) -> ApiError {
    message.error("content", format_args!("holds a block of type {}, which belongs into a message of the {role}", block.kind()))
}

/// A block of content that means something to us.
enum Block {
    Text(String),
    Thinking(String),
    ToolUse(ToolCall),
    ToolResult { id: String, content: Vec<Part> },
}

impl Block {
    fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Thinking(_) => "thinking",
            Self::ToolUse(_) => "tool_use",
            Self::ToolResult { .. } => "tool_result",
        }
    }
}

/// A string, an array of blocks, or nothing. Empty texts are none.
fn read_blocks(fields: &Fields<'_>, name: &str) -> Result<Vec<Block>, ApiError> {
    match fields.get(name) {
        None => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(text_block(text).into_iter().collect()),
        Some(Value::Array(values)) => {
            let place = fields.place(name);
            let block = |(index, value)| read_block(value, format!("{place}[{index}]")).transpose();
            values.iter().enumerate().filter_map(block).collect()
        }
        Some(other) => Err(fields.wrong_kind(name, "a string or an array of blocks", other)),
    }
}

fn text_block(text: &str) -> Option<Block> {
    (!text.is_empty()).then(|| Block::Text(text.to_owned()))
}

/// `None`: a block that says nothing here, such as the work of a tool that Anthropic's servers ran.
fn read_block(value: &Value, place: String) -> Result<Option<Block>, ApiError> {
    if let Value::String(text) = value {
        return Ok(text_block(text));
    }
    let block = Fields::of(value, place.clone())?;
    let refuse = |what: &str| Err(ApiError::invalid(place.clone(), format!("`{place}` is {what}, but this model reads text only")));
    match block.string("type")?.unwrap_or("text") {
        "text" => {
            block.require("text")?;
            Ok(text_block(block.string("text")?.unwrap_or_default()))
        }
        // Whoever thought it: signatures are not looked at.
        "thinking" => Ok(block.string("thinking")?.filter(|text| !text.is_empty()).map(|text| Block::Thinking(text.to_owned()))),
        "tool_use" => read_tool_use(&block).map(Some),
        "tool_result" => read_tool_result(&block).map(Some),
        "document" => match text_of_document(&block)? {
            Some(text) => Ok(text_block(&text)),
            None => refuse("a document that is no plain text"),
        },
        "search_result" => Ok(text_block(&text_of_search_result(&block)?)),
        "image" => refuse("an image"),
        "audio" => refuse("a sound"),
        "video" => refuse("a video"),
        "container_upload" => refuse("a file"),
        _ => Ok(None),
    }
}

fn read_tool_use(block: &Fields<'_>) -> Result<Block, ApiError> {
    block.require("name")?;
    let arguments = match block.get("input") {
        None => "{}".to_owned(),
        Some(Value::Object(input)) => match input.get("__unparsedToolInput") {
            // What a model wrote that was no JSON: it reads again what it wrote.
            Some(Value::String(text)) if input.len() == 1 => text.clone(),
            Some(unparsed) if input.len() == 1 => unparsed.to_string(),
            _ => Value::Object(input.clone()).to_string(),
        },
        // Some clients keep the text.
        Some(Value::String(text)) if text.trim().is_empty() => "{}".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => return Err(block.wrong_kind("input", "an object", other)),
    };
    let id = call_id_of_anthropic(block.string("id")?.unwrap_or_default());
    Ok(Block::ToolUse(ToolCall { id, name: block.string("name")?.unwrap_or_default().to_owned(), arguments }))
}

fn read_tool_result(block: &Fields<'_>) -> Result<Block, ApiError> {
    block.require("tool_use_id")?;
    let id = call_id_of_anthropic(block.string("tool_use_id")?.unwrap_or_default());
    let mut content = match block.get("content") {
        Some(Value::Array(values)) => {
            let place = block.place("content");
            let texts = values.iter().enumerate().map(|(index, value)| text_of_result(value, format!("{place}[{index}]")));
            texts.collect::<Result<Vec<_>, _>>()?
        }
        None => Vec::new(),
        Some(Value::String(text)) => vec![text.clone()],
        Some(other) => return Err(block.wrong_kind("content", "a string or an array of blocks", other)),
    };
    content.retain(|text| !text.is_empty());
    let says_error = |text: &String| text.to_ascii_lowercase().contains("error");
    if block.boolean("is_error")?.unwrap_or(false) && !content.iter().any(says_error) {
        // Our messages have no mark for it, and the model has to know.
        content.insert(0, "Error:".to_owned());
    }
    Ok(Block::ToolResult { id, content: content.into_iter().map(Part::Text).collect() })
}

/// A tool may answer with more than was asked of it: what the model cannot read it is told of.
fn text_of_result(value: &Value, place: String) -> Result<String, ApiError> {
    if let Value::String(text) = value {
        return Ok(text.clone());
    }
    let block = Fields::of(value, place)?;
    match block.string("type")?.unwrap_or("text") {
        "text" => Ok(block.string("text")?.unwrap_or_default().to_owned()),
        "search_result" => text_of_search_result(&block),
        "tool_reference" => Ok(format!("[tool: {}]", block.string("tool_name")?.unwrap_or_default())),
        "document" => Ok(text_of_document(&block)?.unwrap_or_else(|| "[document: not shown, this model reads text only]".to_owned())),
        kind => Ok(format!("[{kind}: not shown, this model reads text only]")),
    }
}

/// Title and text; `None`: it is a PDF, or somewhere else.
fn text_of_document(block: &Fields<'_>) -> Result<Option<String>, ApiError> {
    block.require("source")?;
    let Some(source) = block.object("source")? else { return Ok(None) };
    let text = match source.string("type")?.unwrap_or_default() {
        "text" => source.string("data")?.unwrap_or_default().to_owned(),
        "content" => joined_texts(&source)?,
        _ => return Ok(None),
    };
    let above = [block.string("title")?, block.string("context")?].into_iter().flatten().filter(|line| !line.is_empty());
    Ok(Some(above.chain([text.as_str()]).collect::<Vec<_>>().join("\n")))
}

fn text_of_search_result(block: &Fields<'_>) -> Result<String, ApiError> {
    let above = [block.string("title")?.unwrap_or_default(), block.string("source")?.unwrap_or_default()];
    Ok(format!("{}\n{}", above.join(" "), joined_texts(block)?))
}

fn joined_texts(fields: &Fields<'_>) -> Result<String, ApiError> {
    Ok(read_system_content(fields, "content")?.iter().map(|Part::Text(text)| text.as_str()).collect::<Vec<_>>().join("\n"))
}

/// Ids are `call_` and `toolu_` before the same characters. One spelling inside, so that a conversation reads the same to the model
/// whichever dialect brings it.
pub fn call_id_of_anthropic(id: &str) -> String {
    match id.strip_prefix("toolu_") {
        Some(characters) => format!("call_{characters}"),
        None => id.to_owned(),
    }
}

/// The client's tools, and the names of those that Anthropic's servers would have run, which nobody runs here.
fn read_tools(fields: &Fields<'_>) -> Result<(Vec<ToolDefinition>, Vec<String>), ApiError> {
    let (mut tools, mut server_tools) = (Vec::new(), Vec::new());
    for (index, value) in fields.array("tools")?.unwrap_or_default().iter().enumerate() {
        let tool = Fields::of(value, format!("tools[{index}]"))?;
        let kind = tool.string("type")?.unwrap_or("custom");
        let name = tool.string("name")?.map(str::to_owned);
        let schema = tool.object("input_schema")?;
        if kind != "custom" && schema.is_none() {
            server_tools.extend(name);
            continue;
        }
        tool.require("name")?;
        tool.require("input_schema")?;
        tools.push(ToolDefinition {
            name: name.unwrap_or_default(),
            description: tool.string("description")?.map(str::to_owned),
            parameters: schema.map(|schema| Value::Object(schema.map().clone())),
            strict: tool.boolean("strict")?.unwrap_or(false),
        });
    }
    Ok((tools, server_tools))
}

/// Who must call what, and whether there may be several calls.
fn read_tool_choice(fields: &Fields<'_>, tools: &[ToolDefinition], server_tools: &[String]) -> Result<(ToolChoice, bool), ApiError> {
    const NAME: &str = "tool_choice";
    let (kind, choice) = match fields.get(NAME) {
        None => return Ok((ToolChoice::Auto, true)),
        Some(Value::String(kind)) => (kind.as_str(), None),
        Some(value) => {
            let choice = Fields::of(value, fields.place(NAME))?;
            choice.require("type")?;
            (choice.string("type")?.unwrap_or_default(), Some(choice))
        }
    };
    let single = match &choice {
        Some(choice) => choice.boolean("disable_parallel_tool_use")?.unwrap_or(false),
        None => false,
    };
    let tool_choice = match kind {
        "auto" => ToolChoice::Auto,
        "none" => ToolChoice::None,
        "any" if !tools.is_empty() => ToolChoice::Required,
        // Nobody is there to run what is wanted: a reply in words is better than none.
        "any" if !server_tools.is_empty() => ToolChoice::None,
        "any" => return Err(fields.error(NAME, "is `any`, but there are no `tools`")),
        "tool" => {
            let name = match &choice {
                Some(choice) => choice.require("name").and(choice.string("name"))?.unwrap_or_default(),
                None => return Err(fields.error(NAME, "is `tool` and names none")),
            };
            if tools.iter().any(|tool| tool.name == name) {
                ToolChoice::Named(name.to_owned())
            } else if server_tools.iter().any(|tool| tool == name) {
                ToolChoice::None
            } else {
                return Err(fields.error(NAME, format_args!("names the tool {}, which is not among the `tools`", quoted(name))));
            }
        }
        other => return Err(fields.error(NAME, format_args!("must be of type auto, any, tool or none, not {}", quoted(other)))),
    };
    Ok((tool_choice, !single))
}

/// Nothing said means no thinking: who does not know of it gets an answer at once, in blocks that it knows.
fn read_thinking(fields: &Fields<'_>) -> Result<(Thinking, ThinkingShown), ApiError> {
    let effort = match fields.object("output_config")? {
        Some(config) => read_effort(&config)?,
        None => None,
    };
    let Some(thinking) = fields.object("thinking")? else {
        return Ok((Thinking { wanted: Some(false), budget_tokens: None, effort }, ThinkingShown::Nothing));
    };
    thinking.require("type")?;
    let shown = if thinking.string("display")? == Some("omitted") { ThinkingShown::Signature } else { ThinkingShown::Text };
    let budget_tokens = thinking.integer("budget_tokens", 1..=i64::MAX)?.map(|tokens| tokens as usize);
    match thinking.string("type")?.unwrap_or_default() {
        "enabled" => Ok((Thinking { wanted: Some(true), budget_tokens, effort }, shown)),
        // The model decides: as its template has it.
        "adaptive" | "between_tools" => Ok((Thinking { wanted: None, budget_tokens, effort }, shown)),
        "disabled" => Ok((Thinking { wanted: Some(false), budget_tokens: None, effort }, ThinkingShown::Nothing)),
        other => Err(thinking.error("type", format_args!("must be enabled, adaptive or disabled, not {}", quoted(other)))),
    }
}

/// A word that is not known is one of a newer API: it is no reason to answer nothing.
fn read_effort(config: &Fields<'_>) -> Result<Option<Effort>, ApiError> {
    Ok(match config.string("effort")? {
        Some("low") => Some(Effort::Low),
        Some("medium") => Some(Effort::Medium),
        Some("high" | "xhigh" | "max") => Some(Effort::High),
        _ => None,
    })
}

fn empty(role: Role) -> Message {
    Message { content: Vec::new(), ..Message::text(role, "") }
}
