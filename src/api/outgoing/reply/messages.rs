//! Replies of Anthropic's messages. Signatures are left out: they are proofs for the model that thought, which is not asked next.

use serde_json::{Value, json};

use super::{ReadError, count_of, finished, text_of, upstream_error};
use crate::api::anthropic_conversation::call_id_of_anthropic;
use crate::chat::{Event, FinishReason, TextDelta, Usage};

#[derive(Debug, Default)]
pub struct Messages {
    /// The block of each call so far.
    calls: Vec<u64>,
    open: Option<OpenCall>,
    reason: Option<FinishReason>,
    counts: Counts,
    is_finished: bool,
}

/// The call whose block is open.
#[derive(Debug)]
struct OpenCall {
    block: u64,
    /// What stood in the block's beginning; pieces that follow say the same.
    input: Value,
    has_arguments: bool,
}

/// As Anthropic counts: three that add up to the prompt.
#[derive(Debug, Default)]
struct Counts {
    computed: usize,
    written_to_cache: usize,
    read_from_cache: usize,
    output: usize,
    thinking: usize,
}

impl Messages {
    pub fn event(&mut self, event: &Value, events: &mut Vec<Event>) -> Result<(), ReadError> {
        if self.is_finished {
            return Ok(());
        }
        match event["type"].as_str().unwrap_or_default() {
            "message_start" => self.counts.read(&event["message"]["usage"]),
            "content_block_start" => self.begin_block(event["index"].as_u64().unwrap_or(0), &event["content_block"], events)?,
            "content_block_delta" => self.delta(event["index"].as_u64(), &event["delta"], events)?,
            "content_block_stop" => self.end_block(events),
            "message_delta" => {
                self.counts.read(&event["usage"]);
                self.read_reason(&event["delta"]);
            }
            "message_stop" => self.finish(events)?,
            "error" => return Err(upstream_error(&event["error"])),
            // `ping`, and what newer APIs have.
            _ => {}
        }
        Ok(())
    }

    pub fn whole(&mut self, message: &Value, events: &mut Vec<Event>) -> Result<(), ReadError> {
        if message["type"] == "error" {
            return Err(upstream_error(&message["error"]));
        }
        for (index, block) in message["content"].as_array().into_iter().flatten().enumerate() {
            self.begin_block(index as u64, block, events)?;
            self.end_block(events);
        }
        self.counts.read(&message["usage"]);
        self.read_reason(message);
        self.finish(events)
    }

    pub fn finish(&mut self, events: &mut Vec<Event>) -> Result<(), ReadError> {
        if self.is_finished {
            return Ok(());
        }
        let reason = self.reason.take().ok_or(ReadError::Cut)?;
        self.end_block(events);
        self.is_finished = true;
        events.push(finished(reason, self.calls.len(), self.counts.usage()));
        Ok(())
    }

    pub fn is_finished(&self) -> bool {
        self.is_finished
    }

    fn begin_block(&mut self, block: u64, content: &Value, events: &mut Vec<Event>) -> Result<(), ReadError> {
        self.end_block(events);
        match content["type"].as_str().unwrap_or_default() {
            "text" => say(&content["text"], events),
            "thinking" => think(&content["thinking"], events),
            "tool_use" => {
                let Some(name) = text_of(&content["name"]) else { return Err(ReadError::OutOfOrder("a call has no name")) };
                let id = text_of(&content["id"]).map_or_else(|| format!("call_{block}"), call_id_of_anthropic);
                events.push(Event::ToolCallStarted { index: self.calls.len(), id, name: name.to_owned() });
                self.calls.push(block);
                self.open = Some(OpenCall { block, input: content["input"].clone(), has_arguments: false });
            }
            // Thoughts that nobody may read, and the work of tools on Anthropic's side.
            _ => {}
        }
        Ok(())
    }

    fn delta(&mut self, block: Option<u64>, delta: &Value, events: &mut Vec<Event>) -> Result<(), ReadError> {
        match delta["type"].as_str().unwrap_or_default() {
            "text_delta" => {
                self.end_block(events);
                say(&delta["text"], events);
            }
            "thinking_delta" => {
                self.end_block(events);
                think(&delta["thinking"], events);
            }
            "input_json_delta" => {
                let Some(piece) = text_of(&delta["partial_json"]) else { return Ok(()) };
                if let Some(call) = self.open.as_mut().filter(|call| block.is_none_or(|block| block == call.block)) {
                    call.has_arguments = true;
                    events.push(Event::ToolCallArguments { index: self.calls.len() - 1, json: piece.to_owned() });
                } else if block.is_some_and(|block| self.calls.contains(&block)) {
                    return Err(ReadError::OutOfOrder("a call's arguments went on after their end"));
                }
                // Else it is of a block that means nothing here.
            }
            _ => {}
        }
        Ok(())
    }

    /// Blocks come one at a time: the end of one needs no index, and is certain when anything else comes.
    fn end_block(&mut self, events: &mut Vec<Event>) {
        let Some(call) = self.open.take() else { return };
        let index = self.calls.len() - 1;
        if !call.has_arguments {
            let input = if call.input.is_object() { call.input } else { json!({}) };
            events.push(Event::ToolCallArguments { index, json: input.to_string() });
        }
        events.push(Event::ToolCallEnded { index });
    }

    /// `message`: a whole one, or what changed of it. Signs of life change nothing.
    fn read_reason(&mut self, message: &Value) {
        let Some(reason) = text_of(&message["stop_reason"]) else { return };
        self.reason = Some(match reason {
            "max_tokens" | "model_context_window_exceeded" => FinishReason::Length,
            "tool_use" => FinishReason::ToolCalls,
            "refusal" => FinishReason::Refused,
            "stop_sequence" => match text_of(&message["stop_sequence"]) {
                Some(stop) => FinishReason::StopString(stop.to_owned()),
                None => FinishReason::EndOfTurn,
            },
            _ => FinishReason::EndOfTurn,
        });
    }
}

impl Counts {
    /// The latest that is told counts.
    fn read(&mut self, usage: &Value) {
        for (name, count) in [
            ("/input_tokens", &mut self.computed),
            ("/cache_creation_input_tokens", &mut self.written_to_cache),
            ("/cache_read_input_tokens", &mut self.read_from_cache),
            ("/output_tokens", &mut self.output),
            ("/output_tokens_details/thinking_tokens", &mut self.thinking),
        ] {
            *count = usage.pointer(name).and_then(count_of).unwrap_or(*count);
        }
    }

    fn usage(&self) -> Usage {
        Usage {
            prompt_tokens: self.computed.saturating_add(self.written_to_cache).saturating_add(self.read_from_cache),
            cached_tokens: self.read_from_cache,
            completion_tokens: self.output,
            thinking_tokens: self.thinking,
        }
    }
}

fn say(text: &Value, events: &mut Vec<Event>) {
    events.extend(text_of(text).map(|text| Event::Text(TextDelta { text: text.to_owned(), tokens: Vec::new() })));
}

fn think(thoughts: &Value, events: &mut Vec<Event>) {
    events.extend(text_of(thoughts).map(|thoughts| Event::Thinking(thoughts.to_owned())));
}
