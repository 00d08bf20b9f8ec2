//! `POST /v1/messages`, as Anthropic's SDKs and Claude Code speak it: how a request is answered. What the conversation says is read in
//! `anthropic_conversation.rs`.
//!
//! A reply is a row of content blocks, begun and ended one at a time. What a client did not ask for, thinking, is not shown to it.

use serde_json::{Map, Value, json};

use super::anthropic_conversation::read_conversation;
use super::errors::{ApiError, anthropic_error};
use super::fields::{Fields, parse_object, quoted};
use super::openai_shared::{read_model, read_stop};
use super::sampling_fields::read_sampling;
use super::{Call, Dialect, Frame, KeepAlive, ReplyHead};
use crate::chat::begun::{BegunContent, BegunReply};
use crate::chat::reply::{Reply, Span};
use crate::chat::{Event, FinishReason, OutputFormat, Prompt, Request, Usage};

/// One request's way of answering.
#[derive(Debug)]
pub struct AnthropicMessages {
    thinking: ThinkingShown,
    tokens_max: usize,
    /// To tell the client's stop sequences from words that merely end the model's turn.
    stop_sequences: Vec<String>,
    /// Tokens of the reply so far.
    tokens: usize,
    /// Blocks begun so far.
    blocks: usize,
    open: Option<OpenBlock>,
}

/// What the client is shown of the model's thinking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThinkingShown {
    /// It asked for none: no block of a kind that it may not know.
    Nothing,
    /// `display: omitted`: that there was some.
    Signature,
    Text,
}

#[derive(Debug)]
enum OpenBlock {
    Text,
    /// With the thoughts so far, which the signature is made of.
    Thinking(String),
    ToolUse,
    /// Begun by another server, of a kind that only ends here.
    Other,
}

impl Dialect for AnthropicMessages {
    const NAME: &'static str = "anthropic-messages";
    const PROMPT_FIELD: &'static str = "messages";
    const OUTPUT_FORMAT_FIELD: &'static str = "output_config.format";
    const TOOL_SCHEMA_FIELD: &'static str = "input_schema";

    fn parse(body: &[u8]) -> Result<Call<Self>, ApiError> {
        let body = parse_object(body)?;
        let fields = Fields::of_body(&body);
        let (request, thinking) = read_request(&fields)?;
        fields.require("max_tokens")?;
        // 0 computes the prompt, so that it is cached for the request that follows.
        let tokens_max = fields.integer("max_tokens", 0..=i64::MAX)?.unwrap_or(0) as usize;
        let stop_sequences = request.stop.clone();
        Ok(Call {
            request: Request { tokens_max: Some(tokens_max), ..request },
            stream: fields.boolean("stream")?.unwrap_or(false),
            model: read_model(&fields)?,
            dialect: Self { thinking, tokens_max, stop_sequences, tokens: 0, blocks: 0, open: None },
        })
    }

    fn open(&mut self, head: &ReplyHead, frames: &mut Vec<Frame>) {
        let mut message = message_head(head);
        message.insert("content".into(), json!([]));
        message.insert("stop_reason".into(), Value::Null);
        message.insert("stop_sequence".into(), Value::Null);
        // What of the prompt is cached shows when it is its turn; the usage at the end says it.
        message.insert("usage".into(), usage(&Usage { prompt_tokens: head.prompt_tokens, ..Usage::default() }));
        frames.push(frame("message_start", json!({"message": message})));
    }

    fn resumes() -> bool {
        true
    }

    fn resume(&mut self, begun: &BegunReply) {
        self.blocks = begun.pieces.len();
        self.tokens = begun.usage.completion_tokens;
        self.open = begun.open_piece().map(|content| match content {
            BegunContent::Text(_) => OpenBlock::Text,
            BegunContent::Thinking(thoughts) => OpenBlock::Thinking(thoughts.clone()),
            BegunContent::ToolCall { .. } => OpenBlock::ToolUse,
            BegunContent::Other => OpenBlock::Other,
        });
    }

    fn progress(&mut self, _: usize, usage: Usage) {
        self.tokens = usage.completion_tokens;
    }

    fn event(&mut self, head: &ReplyHead, _: usize, event: Event, frames: &mut Vec<Frame>) {
        match event {
            Event::Text(delta) if delta.text.is_empty() => {}
            Event::Text(delta) => {
                if !matches!(self.open, Some(OpenBlock::Text)) {
                    self.begin_block(OpenBlock::Text, json!({"type": "text", "text": ""}), frames);
                }
                self.delta(json!({"type": "text_delta", "text": delta.text}), frames);
            }
            Event::Thinking(text) => self.thinking(&text, frames),
            Event::ToolCallStarted { id, name, .. } => {
                let block = json!({"type": "tool_use", "id": tool_use_id(&id), "name": name, "input": {}});
                self.begin_block(OpenBlock::ToolUse, block, frames);
            }
            Event::ToolCallArguments { json, .. } => self.delta(json!({"type": "input_json_delta", "partial_json": json}), frames),
            Event::ToolCallEnded { .. } => self.end_block(frames),
            Event::Finished { reason, usage: used } => {
                self.end_block(frames);
                let (stop_reason, stop_sequence) = self.stop_reason(&reason, &used);
                let delta = json!({"stop_reason": stop_reason, "stop_sequence": stop_sequence});
                frames.push(frame("message_delta", json!({"delta": delta, "usage": usage(&used)})));
            }
            Event::Failed(message) => self.fail(head, &ApiError::engine_failed(&message), frames),
        }
    }

    fn close(&mut self, _: &ReplyHead, _: Usage, frames: &mut Vec<Frame>) {
        frames.push(frame("message_stop", json!({})));
    }

    /// A `ping` would be the word for it, but Claude Code counts it for nothing and gives up after 300 s. A delta that changes nothing
    /// is counted, and leaves nothing in the history that the client sends next.
    fn keep_alive(&mut self, _: &ReplyHead) -> KeepAlive {
        let delta = json!({"stop_reason": null, "stop_sequence": null});
        KeepAlive::Frame(frame("message_delta", json!({"delta": delta, "usage": {"output_tokens": self.tokens}})))
    }

    fn fail(&mut self, _: &ReplyHead, error: &ApiError, frames: &mut Vec<Frame>) {
        frames.push(Frame::named("error", &anthropic_error(error)));
    }

    fn whole(&self, head: &ReplyHead, mut choices: Vec<Reply>, used: Usage) -> Value {
        let reply = choices.pop().unwrap_or_default();
        let mut message = message_head(head);
        message.insert("content".into(), self.content(&reply).into());
        let reason = reply.finish.as_ref().map(|reason| self.stop_reason(reason, &used));
        let (stop_reason, stop_sequence) = reason.unzip();
        message.insert("stop_reason".into(), json!(stop_reason));
        message.insert("stop_sequence".into(), json!(stop_sequence.flatten()));
        message.insert("usage".into(), usage(&used));
        Value::Object(message)
    }
}

impl AnthropicMessages {
    fn begin_block(&mut self, kind: OpenBlock, block: Value, frames: &mut Vec<Frame>) {
        self.end_block(frames);
        frames.push(frame("content_block_start", json!({"index": self.blocks, "content_block": block})));
        self.blocks += 1;
        self.open = Some(kind);
    }

    /// A piece of the block that is open, the last one begun.
    fn delta(&self, delta: Value, frames: &mut Vec<Frame>) {
        assert!(self.open.is_some(), "a delta belongs to an open block");
        frames.push(frame("content_block_delta", json!({"index": self.blocks - 1, "delta": delta})));
    }

    fn end_block(&mut self, frames: &mut Vec<Frame>) {
        if let Some(OpenBlock::Thinking(thoughts)) = &self.open {
            self.delta(json!({"type": "signature_delta", "signature": signature(thoughts)}), frames);
        }
        if self.open.take().is_some() {
            frames.push(frame("content_block_stop", json!({"index": self.blocks - 1})));
        }
    }

    fn thinking(&mut self, text: &str, frames: &mut Vec<Frame>) {
        if self.thinking == ThinkingShown::Nothing || text.is_empty() {
            return;
        }
        if !matches!(self.open, Some(OpenBlock::Thinking(_))) {
            let block = json!({"type": "thinking", "thinking": "", "signature": ""});
            self.begin_block(OpenBlock::Thinking(String::new()), block, frames);
        }
        if let Some(OpenBlock::Thinking(thoughts)) = &mut self.open {
            thoughts.push_str(text);
        }
        if self.thinking == ThinkingShown::Text {
            self.delta(json!({"type": "thinking_delta", "thinking": text}), frames);
        }
    }

    /// The blocks that a stream would have carried.
    fn content(&self, reply: &Reply) -> Vec<Value> {
        let mut blocks: Vec<Value> = Vec::new();
        for span in &reply.spans {
            match span {
                Span::Thinking(_) if self.thinking == ThinkingShown::Nothing => {}
                Span::Thinking(range) => {
                    let thoughts = &reply.thinking[range.clone()];
                    let shown = if self.thinking == ThinkingShown::Text { thoughts } else { "" };
                    blocks.push(json!({"type": "thinking", "thinking": shown, "signature": signature(thoughts)}));
                }
                Span::Text(range) => {
                    let text = &reply.text[range.clone()];
                    // Thinking that is not shown does not part the text around it.
                    match blocks.last_mut().filter(|block| block["type"] == "text") {
                        Some(block) => block["text"] = (block["text"].as_str().unwrap_or_default().to_owned() + text).into(),
                        None => blocks.push(json!({"type": "text", "text": text})),
                    }
                }
                Span::ToolCall(index) => {
                    let call = &reply.tool_calls[*index];
                    let input = input_of_arguments(&call.arguments);
                    blocks.push(json!({"type": "tool_use", "id": tool_use_id(&call.id), "name": call.name, "input": input}));
                }
            }
        }
        blocks
    }

    /// Why the reply ended, and which of the client's stop sequences ended it.
    fn stop_reason<'a>(&self, reason: &'a FinishReason, used: &Usage) -> (&'static str, Option<&'a str>) {
        match reason {
            FinishReason::StopString(stop) if self.stop_sequences.contains(stop) => ("stop_sequence", Some(stop.as_str())),
            FinishReason::EndOfTurn | FinishReason::StopString(_) => ("end_turn", None),
            FinishReason::ToolCalls => ("tool_use", None),
            FinishReason::Refused => ("refusal", None),
            FinishReason::Length if used.completion_tokens < self.tokens_max => ("model_context_window_exceeded", None),
            FinishReason::Length => ("max_tokens", None),
        }
    }
}

/// All but the limits of the reply: what `count_tokens` takes too.
pub fn read_request(fields: &Fields<'_>) -> Result<(Request, ThinkingShown), ApiError> {
    let (conversation, thinking) = read_conversation(fields)?;
    let request = Request {
        prompts: vec![Prompt::Conversation(conversation)],
        choices_per_prompt: 1,
        stop: read_stop(fields, "stop_sequences")?,
        sampling: read_sampling(fields)?,
        output_format: read_output_format(fields)?,
        ..Request::default()
    };
    Ok((request, thinking))
}

/// `output_config.format`, or where an older beta had it.
fn read_output_format(fields: &Fields<'_>) -> Result<OutputFormat, ApiError> {
    let of_config = match fields.object("output_config")? {
        Some(config) => config.object("format")?,
        None => None,
    };
    let Some(format) = of_config.map_or_else(|| fields.object("output_format"), |format| Ok(Some(format)))? else {
        return Ok(OutputFormat::Text);
    };
    format.require("type")?;
    match format.string("type")?.unwrap_or_default() {
        "json_schema" => {
            format.require("schema")?;
            let schema = format.object("schema")?.map(|schema| schema.map().clone()).unwrap_or_default();
            Ok(OutputFormat::JsonSchema(Value::Object(schema)))
        }
        other => Err(format.error("type", format_args!("must be json_schema, not {}", quoted(other)))),
    }
}

fn frame(kind: &'static str, mut body: Value) -> Frame {
    let mut event = Map::new();
    event.insert("type".into(), kind.into());
    if let Some(fields) = body.as_object_mut() {
        event.append(fields);
    }
    Frame::named(kind, &Value::Object(event))
}

fn message_head(head: &ReplyHead) -> Map<String, Value> {
    let mut message = Map::new();
    message.insert("id".into(), format!("msg_{}", head.id).into());
    message.insert("type".into(), "message".into());
    message.insert("role".into(), "assistant".into());
    message.insert("model".into(), head.model.clone().into());
    message
}

/// Anthropic's `input_tokens` are those that were computed: with what was read from the cache they add up to the prompt.
fn usage(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.thinking_tokens},
    })
}

/// `toolu_` before the characters of our own id, which `anthropic_conversation` turns back.
fn tool_use_id(id: &str) -> String {
    let characters = id.strip_prefix("call_").unwrap_or(id);
    format!("toolu_{characters}")
}

/// Clients keep it and send it back; nobody reads it here. Anthropic's is a proof that its model thought this, which ours need not give.
fn signature(thoughts: &str) -> String {
    format!("understudy-{}", &blake3::hash(thoughts.as_bytes()).to_hex()[..32])
}

/// What is no JSON object is handed on as Claude Code does it when it sends such a call back.
pub fn input_of_arguments(arguments: &str) -> Value {
    match serde_json::from_str(arguments) {
        Ok(Value::Object(input)) => Value::Object(input),
        _ if arguments.trim().is_empty() => json!({}),
        _ => json!({"__unparsedToolInput": arguments}),
    }
}
