//! Replies of OpenAI's Responses. Items come one after the other; those of kinds that we do not know, the work of tools on OpenAI's side among
//! them, say nothing here.

use serde_json::Value;

use super::{ReadError, count_of, finished, text_of, upstream_error};
use crate::chat::{Event, FinishReason, TextDelta, Usage};

#[derive(Debug, Default)]
pub struct Responses {
    /// Calls so far.
    calls: usize,
    open: Option<Open>,
    is_finished: bool,
}

/// The item that is being told.
#[derive(Debug)]
struct Open {
    index: Option<u64>,
    is_call: bool,
    /// Something of it has come in pieces: what its end repeats is known.
    has_pieces: bool,
}

impl Responses {
    pub fn event(&mut self, event: &Value, events: &mut Vec<Event>) -> Result<(), ReadError> {
        if self.is_finished {
            return Ok(());
        }
        match event["type"].as_str().unwrap_or_default() {
            "response.output_item.added" => self.begin(event["output_index"].as_u64(), &event["item"], events),
            "response.output_text.delta" | "response.refusal.delta" => {
                self.piece();
                say(&event["delta"], events);
                Ok(())
            }
            // Parts of a summary are paragraphs.
            "response.reasoning_summary_part.added" if event["summary_index"].as_u64().unwrap_or(0) > 0 => {
                events.push(Event::Thinking("\n\n".to_owned()));
                Ok(())
            }
            "response.reasoning_summary_text.delta" | "response.reasoning_text.delta" => {
                self.piece();
                think(&event["delta"], events);
                Ok(())
            }
            "response.function_call_arguments.delta" => self.arguments(event["output_index"].as_u64(), &event["delta"], events),
            "response.output_item.done" => self.end(event["output_index"].as_u64(), &event["item"], events),
            "response.completed" | "response.incomplete" | "response.failed" => self.response(&event["response"], events),
            // An object under `error` in some, the event itself in OpenAI's.
            "error" if event["error"].is_object() => Err(upstream_error(&event["error"])),
            "error" => Err(ReadError::Upstream {
                kind: text_of(&event["code"]).unwrap_or("error").to_owned(),
                message: text_of(&event["message"]).unwrap_or_default().to_owned(),
            }),
            _ => Ok(()),
        }
    }

    pub fn whole(&mut self, response: &Value, events: &mut Vec<Event>) -> Result<(), ReadError> {
        if response["error"].is_object() {
            return Err(upstream_error(&response["error"]));
        }
        for (index, item) in response["output"].as_array().into_iter().flatten().enumerate() {
            self.end(Some(index as u64), item, events)?;
        }
        self.response(response, events)
    }

    pub fn finish(&mut self, _: &mut Vec<Event>) -> Result<(), ReadError> {
        if self.is_finished { Ok(()) } else { Err(ReadError::Cut) }
    }

    pub fn is_finished(&self) -> bool {
        self.is_finished
    }

    fn begin(&mut self, index: Option<u64>, item: &Value, events: &mut Vec<Event>) -> Result<(), ReadError> {
        if self.open.as_ref().is_some_and(|open| open.is_call) {
            return Err(ReadError::OutOfOrder("an item began within a call"));
        }
        let is_call = item["type"] == "function_call";
        self.open = Some(Open { index, is_call, has_pieces: false });
        if is_call {
            let Some(name) = text_of(&item["name"]) else { return Err(ReadError::OutOfOrder("a call has no name")) };
            let id = text_of(&item["call_id"]).or_else(|| text_of(&item["id"]));
            let id = id.map_or_else(|| format!("call_{}", self.calls), str::to_owned);
            events.push(Event::ToolCallStarted { index: self.calls, id, name: name.to_owned() });
            self.calls += 1;
        }
        Ok(())
    }

    fn piece(&mut self) {
        if let Some(open) = &mut self.open {
            open.has_pieces = true;
        }
    }

    fn arguments(&mut self, index: Option<u64>, delta: &Value, events: &mut Vec<Event>) -> Result<(), ReadError> {
        let Some(piece) = text_of(delta) else { return Ok(()) };
        let is_of_open = self.open.as_ref().is_some_and(|open| open.is_call && (index.is_none() || open.index == index));
        if !is_of_open {
            return Err(ReadError::OutOfOrder("arguments of a call that is not open"));
        }
        self.piece();
        events.push(Event::ToolCallArguments { index: self.calls - 1, json: piece.to_owned() });
        Ok(())
    }

    /// The item is whole. What of it has not come in pieces comes now.
    fn end(&mut self, index: Option<u64>, item: &Value, events: &mut Vec<Event>) -> Result<(), ReadError> {
        if self.open.as_ref().is_none_or(|open| open.index != index) {
            self.begin(index, item, events)?;
        }
        let Some(Open { is_call, has_pieces, .. }) = self.open.take() else { return Ok(()) };
        if is_call {
            let call = self.calls - 1;
            if item["status"] == "incomplete" {
                return Err(ReadError::OutOfOrder("a call ended in its middle"));
            }
            if !has_pieces {
                let arguments = text_of(&item["arguments"]).unwrap_or("{}");
                events.push(Event::ToolCallArguments { index: call, json: arguments.to_owned() });
            }
            events.push(Event::ToolCallEnded { index: call });
        } else if !has_pieces {
            let parts = |field: &str| item[field].as_array().into_iter().flatten();
            match item["type"].as_str().unwrap_or_default() {
                "message" => parts("content").for_each(|part| {
                    say(&part["text"], events);
                    say(&part["refusal"], events);
                }),
                "reasoning" => parts("summary").chain(parts("content")).for_each(|part| think(&part["text"], events)),
                _ => {}
            }
        }
        Ok(())
    }

    /// The response with its end, whatever that is.
    fn response(&mut self, response: &Value, events: &mut Vec<Event>) -> Result<(), ReadError> {
        let reason = match response["status"].as_str().unwrap_or_default() {
            "completed" => FinishReason::EndOfTurn,
            "incomplete" if response["incomplete_details"]["reason"] == "content_filter" => FinishReason::Refused,
            "incomplete" => FinishReason::Length,
            "failed" => return Err(upstream_error(&response["error"])),
            _ => return Err(ReadError::Cut),
        };
        // A call that the limit cut is not one.
        if self.open.as_ref().is_some_and(|open| open.is_call) {
            return Err(ReadError::OutOfOrder("the response ended within a call"));
        }
        self.is_finished = true;
        events.push(finished(reason, self.calls, usage(&response["usage"])));
        Ok(())
    }
}

fn usage(usage: &Value) -> Usage {
    let told = |path: &str| usage.pointer(path).and_then(count_of).unwrap_or(0);
    Usage {
        prompt_tokens: told("/input_tokens"),
        cached_tokens: told("/input_tokens_details/cached_tokens"),
        completion_tokens: told("/output_tokens"),
        thinking_tokens: told("/output_tokens_details/reasoning_tokens"),
    }
}

fn say(text: &Value, events: &mut Vec<Event>) {
    events.extend(text_of(text).map(|text| Event::Text(TextDelta { text: text.to_owned(), tokens: Vec::new() })));
}

fn think(thoughts: &Value, events: &mut Vec<Event>) {
    events.extend(text_of(thoughts).map(|thoughts| Event::Thinking(thoughts.to_owned())));
}
