//! `POST /v1/chat/completions`, as OpenAI's SDKs and the many that imitate them speak it.

use serde_json::Value;

use super::errors::ApiError;
use super::fields::{Fields, parse_object, quoted};
use super::openai_shared::{self as shared, Began, Delivery};
use super::openai_tools::{read_tool_choice, read_tools};
use super::openai_types::{
    self as types, AssistantRole, ChatChoice, ChatCompletion, ChatCompletionChunk, ChatCompletionChunkObject, ChatCompletionObject,
    ChatLogprobs, ChatMessage, ChunkChoice, Delta, Finish, FunctionCall, FunctionDelta, FunctionType, Id, ToolCallDelta,
};
use super::thinking_fields::read_thinking;
use super::{Call, Dialect, Frame, KeepAlive, ReplyHead, to_json};
use crate::chat::begun::BegunReply;
use crate::chat::reply::Reply;
use crate::chat::{Conversation, Event, FinishReason, Message, Part, Prompt, Role, ScoredToken, TextDelta, ToolCall, Usage};

/// One request's way of answering.
#[derive(Debug)]
pub struct OpenAiChat {
    delivery: Delivery,
    logprobs: bool,
    /// Of each choice, as far as it has come; kept only where each chunk is to tell it.
    running: Vec<Usage>,
    /// `Some`: whose stream it is that goes on.
    began: Option<Began>,
}

impl Dialect for OpenAiChat {
    const NAME: &'static str = "openai-chat";
    const PROMPT_FIELD: &'static str = "messages";

    fn parse(body: &[u8]) -> Result<Call<Self>, ApiError> {
        let body = parse_object(body)?;
        let fields = Fields::of_body(&body);
        let conversation = read_conversation(&fields)?;
        let (mut request, delivery) = shared::read_request(&fields)?;
        let top_logprobs = fields.integer("top_logprobs", 0..=shared::TOP_LOGPROBS_MAX)?.unwrap_or(0) as usize;
        let logprobs = fields.boolean("logprobs")?.unwrap_or(false);
        request.top_logprobs = logprobs.then_some(top_logprobs);
        request.prompts = vec![Prompt::Conversation(conversation)];
        let model = shared::read_model(&fields)?;
        Ok(Call { request, stream: delivery.stream, model, dialect: Self { delivery, logprobs, running: Vec::new(), began: None } })
    }

    fn open(&mut self, head: &ReplyHead, frames: &mut Vec<Frame>) {
        for choice in 0..head.choices {
            let delta = Delta { role: Some(AssistantRole::It), content: Some("".into()), ..Delta::default() };
            frames.push(self.chunk(head, choice, delta, &[], None));
        }
    }

    fn resumes() -> bool {
        true
    }

    fn resume(&mut self, begun: &BegunReply) {
        self.began = Some(Began::of(begun));
    }

    fn progress(&mut self, choice: usize, usage: Usage) {
        self.delivery.note(&mut self.running, choice, usage);
    }

    fn event(&mut self, head: &ReplyHead, choice: usize, event: Event, frames: &mut Vec<Frame>) {
        let frame = match event {
            Event::Text(TextDelta { text, tokens }) => {
                self.chunk(head, choice, Delta { content: Some(text.into()), ..Delta::default() }, &tokens, None)
            }
            Event::Thinking(text) => {
                self.chunk(head, choice, Delta { reasoning_content: Some(text.into()), ..Delta::default() }, &[], None)
            }
            Event::ToolCallStarted { index, id, name } => {
                let function = FunctionDelta { name: Some(name.into()), arguments: "".into() };
                let call = ToolCallDelta { index, id: Some(id.into()), r#type: Some(FunctionType::It), function };
                self.chunk(head, choice, Delta { tool_calls: Some([call]), ..Delta::default() }, &[], None)
            }
            Event::ToolCallArguments { index, json } => {
                let function = FunctionDelta { name: None, arguments: json.into() };
                let call = ToolCallDelta { index, id: None, r#type: None, function };
                self.chunk(head, choice, Delta { tool_calls: Some([call]), ..Delta::default() }, &[], None)
            }
            Event::Finished { reason, .. } => self.chunk(head, choice, Delta::default(), &[], Some(&reason)),
            Event::ToolCallEnded { .. } => return,
            Event::Failed(message) => return self.fail(head, &ApiError::engine_failed(&message), frames),
        };
        frames.push(frame);
    }

    fn close(&mut self, head: &ReplyHead, usage: Usage, frames: &mut Vec<Frame>) {
        if self.delivery.include_usage {
            frames.push(Frame::of(&self.chunk_of(head, Vec::new(), Some(Some((&usage).into())))));
        }
        frames.push(Frame::data("[DONE]"));
    }

    /// A chunk that says nothing: clients that watch for data see some.
    fn keep_alive(&mut self, head: &ReplyHead) -> KeepAlive {
        KeepAlive::Frame(self.chunk(head, 0, Delta::default(), &[], None))
    }

    fn fail(&mut self, _: &ReplyHead, error: &ApiError, frames: &mut Vec<Frame>) {
        frames.push(Frame::json(&super::errors::openai_error(error)));
    }

    fn whole(&self, head: &ReplyHead, choices: Vec<Reply>, usage: Usage) -> String {
        to_json(&ChatCompletion {
            id: format!("chatcmpl-{}", head.id),
            object: ChatCompletionObject::It,
            created: head.created_unix_s,
            model: &head.model,
            choices: choices.into_iter().enumerate().map(|(index, reply)| self.choice(index, reply)).collect(),
            usage: (&usage).into(),
        })
    }
}

impl OpenAiChat {
    fn chunk(&self, head: &ReplyHead, index: usize, delta: Delta<'_>, tokens: &[ScoredToken], finish: Option<&FinishReason>) -> Frame {
        let choice = ChunkChoice { index, delta, logprobs: ChatLogprobs::of(tokens), finish_reason: finish.map(Finish::from) };
        Frame::of(&self.chunk_of(head, vec![choice], self.delivery.usage_in_chunk(&self.running, index)))
    }

    fn chunk_of<'a>(
        &'a self,
        head: &'a ReplyHead,
        choices: Vec<ChunkChoice<'a>>,
        usage: Option<Option<types::Usage>>,
    ) -> ChatCompletionChunk<'a> {
        let (id, created, model) = match &self.began {
            None => (Id { prefix: "chatcmpl-", name: &head.id }, head.created_unix_s, &head.model),
            Some(began) => (Id { prefix: "", name: &began.id }, began.created_unix_s, &began.model),
        };
        ChatCompletionChunk { id, object: ChatCompletionChunkObject::It, created, model, choices, usage }
    }

    fn choice(&self, index: usize, reply: Reply) -> ChatChoice {
        let no_text = reply.text.is_empty() && !reply.tool_calls.is_empty();
        let call = |call: ToolCall| types::ToolCall {
            id: call.id,
            r#type: FunctionType::It,
            function: FunctionCall { name: call.name, arguments: call.arguments },
        };
        let message = ChatMessage {
            role: AssistantRole::It,
            content: (!no_text).then_some(reply.text),
            refusal: None,
            reasoning_content: Some(reply.thinking).filter(|thinking| !thinking.is_empty()),
            tool_calls: reply.tool_calls.into_iter().map(call).collect(),
        };
        // Asked for, and of no token: still a list.
        let logprobs = self.logprobs.then(|| ChatLogprobs::of(&reply.tokens).unwrap_or_default());
        ChatChoice { index, message, logprobs, finish_reason: reply.finish.as_ref().map(Finish::from) }
    }
}

pub(super) fn read_conversation(fields: &Fields<'_>) -> Result<Conversation, ApiError> {
    fields.require("messages")?;
    let messages = fields.array("messages")?.unwrap_or_default();
    if messages.is_empty() {
        return Err(fields.error("messages", "is empty; there must be at least one message"));
    }
    let messages = messages.iter().enumerate().map(|(index, value)| read_message(value, format!("messages[{index}]")));
    let messages = messages.collect::<Result<Vec<_>, _>>()?;
    let tools = read_tools(fields)?;
    let tool_choice = read_tool_choice(fields, &tools)?;
    refuse_functions(fields)?;
    let template_variables = fields.object("chat_template_kwargs")?.map(|variables| variables.map().clone()).unwrap_or_default();
    let parallel_tool_calls = fields.boolean("parallel_tool_calls")?.unwrap_or(true);
    let continues_last = continues_last(fields, &messages)?;
    let thinking = read_thinking(fields)?;
    Ok(Conversation { messages, tools, tool_choice, parallel_tool_calls, template_variables, thinking, continues_last })
}

/// An assistant's message at the end is a beginning to go on with, as vLLM's `continue_final_message` and llama.cpp's server have it, unless
/// the request asks for a turn of its own.
fn continues_last(fields: &Fields<'_>, messages: &[Message]) -> Result<bool, ApiError> {
    let is_begun = messages.last().is_some_and(|last| last.role == Role::Assistant && last.tool_calls.is_empty());
    let own_turn = fields.boolean("add_generation_prompt")?.unwrap_or(false);
    match fields.boolean("continue_final_message")? {
        Some(true) if !is_begun => {
            Err(fields.error("continue_final_message", "needs a last message of the assistant's, without tool calls"))
        }
        Some(true) if own_turn => Err(fields.error("continue_final_message", "and `add_generation_prompt` exclude each other")),
        Some(wanted) => Ok(wanted),
        None => Ok(is_begun && !own_turn),
    }
}

/// What came before `tools`: a reply in its form would be another grammar, which no client of today reads.
fn refuse_functions(fields: &Fields<'_>) -> Result<(), ApiError> {
    match ["functions", "function_call"].into_iter().find(|name| fields.get(name).is_some()) {
        Some(name) => Err(fields.error(name, "is the form before `tools` and is not supported; send `tools` and `tool_choice`")),
        None => Ok(()),
    }
}

fn read_message(value: &Value, place: String) -> Result<Message, ApiError> {
    let fields = Fields::of(value, place)?;
    fields.require("role")?;
    let role = match fields.string("role")?.unwrap_or_default() {
        "system" => Role::System,
        "developer" => Role::Developer,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "tool" | "function" => Role::Tool,
        other => {
            return Err(fields.error("role", format_args!("must be system, developer, user, assistant or tool, not {}", quoted(other))));
        }
    };
    let thinking = fields.string("reasoning_content")?.filter(|text| !text.is_empty());
    Ok(Message {
        role,
        content: read_content(&fields)?,
        thinking: thinking.map(str::to_owned),
        tool_calls: read_tool_calls(&fields)?,
        tool_call_id: fields.string("tool_call_id")?.map(str::to_owned),
        name: fields.string("name")?.map(str::to_owned),
    })
}

/// A string, an array of parts, or nothing.
fn read_content(fields: &Fields<'_>) -> Result<Vec<Part>, ApiError> {
    match fields.get("content") {
        None => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![Part::Text(text.clone())]),
        Some(Value::Array(parts)) => {
            let place = fields.place("content");
            parts.iter().enumerate().map(|(index, part)| read_part(part, format!("{place}[{index}]"))).collect()
        }
        Some(other) => Err(fields.wrong_kind("content", "a string or an array of parts", other)),
    }
}

fn read_part(part: &Value, place: String) -> Result<Part, ApiError> {
    if let Value::String(text) = part {
        return Ok(Part::Text(text.clone()));
    }
    let fields = Fields::of(part, place.clone())?;
    match fields.string("type")?.unwrap_or("text") {
        "text" | "input_text" | "output_text" => {
            fields.require("text")?;
            Ok(Part::Text(fields.string("text")?.unwrap_or_default().to_owned()))
        }
        "refusal" => Ok(Part::Text(fields.string("refusal")?.unwrap_or_default().to_owned())),
        kind => Err(ApiError::invalid(place.clone(), format!("`{place}` is of type {}, but this model reads text only", quoted(kind)))),
    }
}

fn read_tool_calls(message: &Fields<'_>) -> Result<Vec<ToolCall>, ApiError> {
    let place = message.place("tool_calls");
    let calls = message.array("tool_calls")?.unwrap_or_default();
    let call = |(index, value): (usize, &Value)| {
        let call = Fields::of(value, format!("{place}[{index}]"))?;
        let id = call.string("id")?.unwrap_or_default().to_owned();
        call.require("function")?;
        let function = Fields::of(call.require("function")?, call.place("function"))?;
        function.require("name")?;
        let name = function.string("name")?.unwrap_or_default().to_owned();
        let arguments = match function.get("arguments") {
            None => "{}".to_owned(),
            Some(Value::String(text)) if text.trim().is_empty() => "{}".to_owned(),
            Some(Value::String(text)) => text.clone(),
            // Some clients keep the parsed object.
            Some(object @ Value::Object(_)) => object.to_string(),
            Some(other) => return Err(function.wrong_kind("arguments", "a string of JSON", other)),
        };
        Ok(ToolCall { id, name, arguments })
    };
    calls.iter().enumerate().map(call).collect()
}
