//! `POST /v1/messages`, as Anthropic's SDKs and Claude Code speak it: how a request is answered. What the conversation says is read in
//! `anthropic_conversation.rs`.
//!
//! A reply is a row of content blocks, begun and ended one at a time. What a client did not ask for, thinking, is not shown to it.

use serde_json::{Value, json};

use super::anthropic_conversation::read_conversation;
use super::anthropic_events::{self as events, Block, Delta, DeltaUsage, Stop, StreamEvent};
use super::errors::{ApiError, anthropic_error};
use super::fields::{Fields, parse_object, quoted};
use super::openai_shared::{read_model, read_stop};
use super::sampling_fields::read_sampling;
use super::{Call, Dialect, Frame, KeepAlive, ReplyHead, to_json};
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
        // What of the prompt is cached shows when it is its turn; the usage at the end says it.
        let used = Usage { prompt_tokens: head.prompt_tokens, ..Usage::default() };
        frames.push(StreamEvent::MessageStart { message: message(head, Vec::new(), Stop::default(), &used) }.frame());
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
                    self.begin_block(OpenBlock::Text, Block::Text { text: "".into() }, frames);
                }
                self.delta(Delta::TextDelta { text: &delta.text }, frames);
            }
            Event::Thinking(text) => self.thinking(&text, frames),
            Event::ToolCallStarted { id, name, .. } => {
                let block = Block::ToolUse { id: tool_use_id(&id), name: &name, input: json!({}) };
                self.begin_block(OpenBlock::ToolUse, block, frames);
            }
            Event::ToolCallArguments { json, .. } => self.delta(Delta::InputJsonDelta { partial_json: &json }, frames),
            Event::ToolCallEnded { .. } => self.end_block(frames),
            Event::Finished { reason, usage: used } => {
                self.end_block(frames);
                let delta = self.stop(&reason, &used);
                frames.push(StreamEvent::MessageDelta { delta, usage: DeltaUsage::Whole((&used).into()) }.frame());
            }
            Event::Failed(message) => self.fail(head, &ApiError::engine_failed(&message), frames),
        }
    }

    fn close(&mut self, _: &ReplyHead, _: Usage, frames: &mut Vec<Frame>) {
        frames.push(StreamEvent::MessageStop {}.frame());
    }

    /// A `ping` would be the word for it, but Claude Code counts it for nothing and gives up after 300 s. A delta that changes nothing
    /// is counted, and leaves nothing in the history that the client sends next.
    fn keep_alive(&mut self, _: &ReplyHead) -> KeepAlive {
        let usage = DeltaUsage::SoFar { output_tokens: self.tokens };
        KeepAlive::Frame(StreamEvent::MessageDelta { delta: Stop::default(), usage }.frame())
    }

    fn fail(&mut self, _: &ReplyHead, error: &ApiError, frames: &mut Vec<Frame>) {
        frames.push(Frame::named("error", &anthropic_error(error)));
    }

    fn whole(&self, head: &ReplyHead, mut choices: Vec<Reply>, used: Usage) -> String {
        let reply = choices.pop().unwrap_or_default();
        let stop = reply.finish.as_ref().map(|reason| self.stop(reason, &used)).unwrap_or_default();
        to_json(&message(head, self.content(&reply), stop, &used))
    }
}

impl AnthropicMessages {
    fn begin_block(&mut self, kind: OpenBlock, content_block: Block<'_>, frames: &mut Vec<Frame>) {
        self.end_block(frames);
        frames.push(StreamEvent::ContentBlockStart { index: self.blocks, content_block }.frame());
        self.blocks += 1;
        self.open = Some(kind);
    }

    /// A piece of the block that is open, the last one begun.
    fn delta(&self, delta: Delta<'_>, frames: &mut Vec<Frame>) {
        assert!(self.open.is_some(), "a delta belongs to an open block");
        frames.push(StreamEvent::ContentBlockDelta { index: self.blocks - 1, delta }.frame());
    }

    fn end_block(&mut self, frames: &mut Vec<Frame>) {
        if let Some(OpenBlock::Thinking(thoughts)) = &self.open {
            self.delta(Delta::SignatureDelta { signature: signature(thoughts) }, frames);
        }
        if self.open.take().is_some() {
            frames.push(StreamEvent::ContentBlockStop { index: self.blocks - 1 }.frame());
        }
    }

    fn thinking(&mut self, text: &str, frames: &mut Vec<Frame>) {
        if self.thinking == ThinkingShown::Nothing || text.is_empty() {
            return;
        }
        if !matches!(self.open, Some(OpenBlock::Thinking(_))) {
            let block = Block::Thinking { thinking: "", signature: String::new() };
            self.begin_block(OpenBlock::Thinking(String::new()), block, frames);
        }
        if let Some(OpenBlock::Thinking(thoughts)) = &mut self.open {
            thoughts.push_str(text);
        }
        if self.thinking == ThinkingShown::Text {
            self.delta(Delta::ThinkingDelta { thinking: text }, frames);
        }
    }

    /// The blocks that a stream would have carried.
    fn content<'a>(&self, reply: &'a Reply) -> Vec<Block<'a>> {
        let mut blocks: Vec<Block<'a>> = Vec::new();
        for span in &reply.spans {
            match span {
                Span::Thinking(_) if self.thinking == ThinkingShown::Nothing => {}
                Span::Thinking(range) => {
                    let thoughts = &reply.thinking[range.clone()];
                    let shown = if self.thinking == ThinkingShown::Text { thoughts } else { "" };
                    blocks.push(Block::Thinking { thinking: shown, signature: signature(thoughts) });
                }
                Span::Text(range) => {
                    let piece = &reply.text[range.clone()];
                    // Thinking that is not shown does not part the text around it.
                    match blocks.last_mut() {
                        Some(Block::Text { text }) => *text += piece,
                        _ => blocks.push(Block::Text { text: piece.into() }),
                    }
                }
                Span::ToolCall(index) => {
                    let call = &reply.tool_calls[*index];
                    let input = input_of_arguments(&call.arguments);
                    blocks.push(Block::ToolUse { id: tool_use_id(&call.id), name: &call.name, input });
                }
            }
        }
        blocks
    }

    fn stop<'a>(&self, reason: &'a FinishReason, used: &Usage) -> Stop<'a> {
        let stop_reason = match reason {
            FinishReason::StopString(stop) if self.stop_sequences.contains(stop) => {
                return Stop { stop_reason: Some("stop_sequence"), stop_sequence: Some(stop) };
            }
            FinishReason::EndOfTurn | FinishReason::StopString(_) => "end_turn",
            FinishReason::ToolCalls => "tool_use",
            FinishReason::Refused => "refusal",
            FinishReason::Length if used.completion_tokens < self.tokens_max => "model_context_window_exceeded",
            FinishReason::Length => "max_tokens",
        };
        Stop { stop_reason: Some(stop_reason), stop_sequence: None }
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

fn message<'a>(head: &'a ReplyHead, content: Vec<Block<'a>>, stop: Stop<'a>, used: &Usage) -> events::Message<'a> {
    let id = format!("msg_{}", head.id);
    events::Message { id, kind: "message", role: "assistant", model: &head.model, content, stop, usage: used.into() }
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
