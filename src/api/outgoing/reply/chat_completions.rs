//! Replies of chat completions: OpenAI's, and those of the servers that imitate them, each a little differently.

use serde_json::{Map, Value};

use super::{ReadError, count_of, finished, parse, text_of, upstream_error};
use crate::chat::{Event, FinishReason, ScoredToken, TextDelta, TokenText, Usage};

/// The data that ends a stream.
const DONE: &str = "[DONE]";

#[derive(Debug, Default)]
pub struct ChatCompletions {
    /// The reply's id, from which calls without an id of their own get one.
    id: String,
    calls: Vec<Call>,
    /// Calls that have ended; the one after them is told as it comes.
    ended: usize,
    /// What was said while a call was half told: it comes after the calls.
    afterwards: Vec<Event>,
    /// Characters of text so far.
    characters: usize,
    reason: Option<FinishReason>,
    usage: Usage,
    is_finished: bool,
}

/// A call as far as it has come.
#[derive(Debug)]
struct Call {
    /// As the upstream counts.
    index: Option<u64>,
    id: String,
    name: String,
    arguments: String,
    is_started: bool,
    /// Bytes of the arguments that have been told.
    told: usize,
}

impl Call {
    /// It has a name and its arguments are one object: nothing of it is missing.
    fn is_whole(&self) -> bool {
        !self.name.is_empty() && serde_json::from_str::<Map<String, Value>>(&self.arguments).is_ok()
    }
}

impl ChatCompletions {
    pub fn data(&mut self, data: &str, events: &mut Vec<Event>) -> Result<(), ReadError> {
        if self.is_finished {
            return Ok(());
        }
        if data.trim() == DONE {
            return self.finish(events);
        }
        let chunk = parse(data.as_bytes())?;
        self.head(&chunk)?;
        match first_choice(&chunk) {
            Some(choice) => self.choice(choice, &choice["delta"], events),
            None => Ok(()),
        }
    }

    pub fn whole(&mut self, body: &Value, events: &mut Vec<Event>) -> Result<(), ReadError> {
        self.head(body)?;
        if let Some(choice) = first_choice(body) {
            self.choice(choice, &choice["message"], events)?;
        }
        self.finish(events)
    }

    pub fn finish(&mut self, events: &mut Vec<Event>) -> Result<(), ReadError> {
        if self.is_finished {
            return Ok(());
        }
        let reason = self.reason.take().ok_or(ReadError::Cut)?;
        self.end_calls(events)?;
        self.is_finished = true;
        events.push(finished(reason, self.calls.len(), self.usage));
        Ok(())
    }

    pub fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// What a chunk says beside its choices.
    fn head(&mut self, chunk: &Value) -> Result<(), ReadError> {
        if !chunk["error"].is_null() {
            return Err(upstream_error(&chunk["error"]));
        }
        // vLLM's older form.
        if chunk["object"] == "error" {
            return Err(upstream_error(chunk));
        }
        if let Some(id) = text_of(&chunk["id"]).filter(|_| self.id.is_empty()) {
            self.id = id.to_owned();
        }
        self.read_usage(&chunk["usage"]);
        Ok(())
    }

    /// It may come with every chunk, with the last, or in one of its own; the latest counts.
    fn read_usage(&mut self, usage: &Value) {
        let told = |path: &str| usage.pointer(path).and_then(count_of);
        let cached = told("/prompt_tokens_details/cached_tokens").or_else(|| told("/prompt_cache_hit_tokens"));
        self.usage.prompt_tokens = told("/prompt_tokens").unwrap_or(self.usage.prompt_tokens);
        self.usage.cached_tokens = cached.unwrap_or(self.usage.cached_tokens);
        self.usage.completion_tokens = told("/completion_tokens").unwrap_or(self.usage.completion_tokens);
        self.usage.thinking_tokens = told("/completion_tokens_details/reasoning_tokens").unwrap_or(self.usage.thinking_tokens);
    }

    /// `said`: the choice's delta or its message.
    fn choice(&mut self, choice: &Value, said: &Value, events: &mut Vec<Event>) -> Result<(), ReadError> {
        // Three names of one thing; a server that changes from one to another says it twice.
        let thoughts = ["reasoning_content", "reasoning", "thinking"].into_iter().find_map(|name| text_of(&said[name]));
        if let Some(thoughts) = thoughts {
            self.say(Event::Thinking(thoughts.to_owned()), events);
        }
        let tokens = self.scored_tokens(&choice["logprobs"]["content"]);
        let text = format!("{}{}", joined(&said["content"]), text_of(&said["refusal"]).unwrap_or_default());
        if !text.is_empty() || !tokens.is_empty() {
            self.characters += text.chars().count();
            self.say(Event::Text(TextDelta { text, tokens }), events);
        }
        for call in said["tool_calls"].as_array().into_iter().flatten() {
            self.call(call, events)?;
        }
        if let Some(reason) = text_of(&choice["finish_reason"]) {
            self.reason = Some(finish_reason(reason)?);
        }
        Ok(())
    }

    /// Text and thoughts end the call before them; while it is half told they wait.
    fn say(&mut self, said: Event, events: &mut Vec<Event>) {
        self.tell_calls(true, events);
        if self.ended == self.calls.len() { events.push(said) } else { self.afterwards.push(said) }
    }

    fn call(&mut self, told: &Value, events: &mut Vec<Event>) -> Result<(), ReadError> {
        let function = &told["function"];
        let place = self.place_of(told, function);
        if place == self.calls.len() {
            let id = text_of(&told["id"]).map_or_else(|| self.made_up_id(), str::to_owned);
            let index = told["index"].as_u64();
            self.calls.push(Call { index, id, name: String::new(), arguments: String::new(), is_started: false, told: 0 });
        }
        let call = &mut self.calls[place];
        if call.name.is_empty() {
            call.name = text_of(&function["name"]).unwrap_or_default().to_owned();
        }
        let arguments = match &function["arguments"] {
            Value::String(piece) => piece.clone(),
            object @ Value::Object(_) => object.to_string(),
            _ => String::new(),
        };
        if place < self.ended && !arguments.trim().is_empty() {
            return Err(ReadError::OutOfOrder("a call's arguments went on after their end"));
        }
        self.calls[place].arguments.push_str(&arguments);
        self.tell_calls(false, events);
        Ok(())
    }

    /// Which call a piece belongs to. The index tells, but some servers leave it out or count every call as 0: then a new id does.
    fn place_of(&self, told: &Value, function: &Value) -> usize {
        let (index, id) = (told["index"].as_u64(), text_of(&told["id"]));
        let is_new = |call: &Call| id.is_some_and(|id| id != call.id) && text_of(&function["name"]).is_some();
        let found = match (index, id) {
            (Some(_), _) => self.calls.iter().rposition(|call| call.index == index),
            (None, Some(id)) => self.calls.iter().rposition(|call| call.id == id),
            // Neither: a name begins a call, anything else goes on with the last.
            (None, None) if text_of(&function["name"]).is_some() => None,
            (None, None) => self.calls.len().checked_sub(1),
        };
        found.filter(|place| !is_new(&self.calls[*place])).unwrap_or(self.calls.len())
    }

    fn made_up_id(&self) -> String {
        let reply = self.id.rsplit('-').next().unwrap_or_default();
        format!("call_{reply}_{}", self.calls.len())
    }

    /// Tells what has come of the calls, one after the other: the next begins when the one before it is whole. `others`: something else
    /// follows, so that the last call may end as well.
    fn tell_calls(&mut self, others: bool, events: &mut Vec<Event>) {
        while let Some(call) = self.calls.get_mut(self.ended) {
            tell(call, self.ended, events);
            let may_end = others || self.ended + 1 < self.calls.len();
            if !may_end || !self.calls[self.ended].is_whole() {
                break;
            }
            events.push(Event::ToolCallEnded { index: self.ended });
            self.ended += 1;
        }
    }

    /// Nothing follows: all calls end, whole or not, and what was held back is told.
    fn end_calls(&mut self, events: &mut Vec<Event>) -> Result<(), ReadError> {
        while let Some(call) = self.calls.get_mut(self.ended) {
            if call.name.is_empty() {
                return Err(ReadError::OutOfOrder("a call has no name"));
            }
            if call.arguments.is_empty() {
                // A call without arguments, as some write it; for others it would be no JSON.
                call.arguments.push_str("{}");
            }
            tell(call, self.ended, events);
            events.push(Event::ToolCallEnded { index: self.ended });
            self.ended += 1;
        }
        events.append(&mut self.afterwards);
        Ok(())
    }

    fn scored_tokens(&self, content: &Value) -> Vec<ScoredToken> {
        let mut text_offset = self.characters;
        let scored = |entry: &Value| {
            let (token, logprob) = token(entry);
            let top = entry["top_logprobs"].as_array().into_iter().flatten().map(self::token).collect();
            let scored = ScoredToken { token, logprob: Some(logprob), top, text_offset };
            text_offset += scored.token.lossy().chars().count();
            scored
        };
        content.as_array().into_iter().flatten().map(scored).collect()
    }
}

fn tell(call: &mut Call, index: usize, events: &mut Vec<Event>) {
    if call.name.is_empty() {
        return;
    }
    if !call.is_started {
        call.is_started = true;
        events.push(Event::ToolCallStarted { index, id: call.id.clone(), name: call.name.clone() });
    }
    if call.told < call.arguments.len() {
        events.push(Event::ToolCallArguments { index, json: call.arguments[call.told..].to_owned() });
        call.told = call.arguments.len();
    }
}

/// One reply was asked for. Chunks of the usage alone have none.
fn first_choice(body: &Value) -> Option<&Value> {
    body["choices"].as_array()?.iter().find(|choice| choice["index"].as_u64().unwrap_or(0) == 0)
}

/// A text, or the texts of parts.
fn joined(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| text_of(&part["text"])).collect(),
        _ => String::new(),
    }
}

fn finish_reason(reason: &str) -> Result<FinishReason, ReadError> {
    match reason {
        "length" | "max_tokens" => Ok(FinishReason::Length),
        "tool_calls" | "function_call" => Ok(FinishReason::ToolCalls),
        "content_filter" => Ok(FinishReason::Refused),
        // OpenRouter's; vLLM's and SGLang's.
        "error" | "abort" => {
            Err(ReadError::Upstream { kind: reason.to_owned(), message: "the reply ended with this as its reason".to_owned() })
        }
        // `stop`, and the model's own words for it.
        _ => Ok(FinishReason::EndOfTurn),
    }
}

fn token(entry: &Value) -> (TokenText, f32) {
    let byte = |byte: &Value| byte.as_u64().and_then(|byte| u8::try_from(byte).ok());
    let bytes = entry["bytes"].as_array().map(|bytes| bytes.iter().filter_map(byte).collect());
    let text = || text_of(&entry["token"]).unwrap_or_default().as_bytes().to_vec();
    (TokenText { bytes: bytes.unwrap_or_else(text) }, entry["logprob"].as_f64().unwrap_or(0.0) as f32)
}
