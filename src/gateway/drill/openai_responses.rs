//! OpenAI's responses, as the provider's side writes them.

use serde_json::{Value, json};

use super::answer::{Call, ErrorKind, Stop};
use super::checks::signature;
use super::frames::{Frame, Mark, Told, pieces, words};
use super::openai_chat::{self, CREATED_UNIX_S};

pub fn frames(told: &Told<'_>) -> Vec<Frame> {
    let mut stream = Stream::default();
    let opening = response(told, "in_progress", &[]);
    stream.push("response.created", json!({"response": opening}), Mark::Start);
    stream.push("response.in_progress", json!({"response": opening}), Mark::Start);
    for (index, item) in items(told).into_iter().enumerate() {
        stream.item(index, &item, told.arguments_piece_bytes);
    }
    let (event, status) = end(told.reply.stop());
    let output: Vec<Value> = items(told).iter().map(Item::whole).collect();
    stream.push(event, json!({"response": response(told, status, &output)}), Mark::End);
    stream.frames
}

/// The reply in one piece.
pub fn whole(told: &Told<'_>) -> Value {
    let output: Vec<Value> = items(told).iter().map(Item::whole).collect();
    response(told, end(told.reply.stop()).1, &output)
}

pub fn error_event(error: ErrorKind) -> Frame {
    let body = self::error(error, None);
    let data = json!({"type": "error", "code": body["error"]["code"], "message": body["error"]["message"], "param": null});
    Frame::named("error", &data, Mark::Frame)
}

pub fn error(error: ErrorKind, message: Option<&str>) -> Value {
    openai_chat::error(error, message)
}

/// An output item with its id.
enum Item<'a> {
    Reasoning { id: String, text: &'a str },
    Message { id: String, text: &'a str },
    Call { id: String, call_id: String, call: &'a Call, number: usize },
}

impl Item<'_> {
    fn whole(&self) -> Value {
        match self {
            Self::Reasoning { id, text } => {
                let summary = json!([{"type": "summary_text", "text": text}]);
                json!({"type": "reasoning", "id": id, "summary": summary, "encrypted_content": signature(text)})
            }
            Self::Message { id, text } => {
                let part = json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []});
                json!({"type": "message", "id": id, "status": "completed", "role": "assistant", "content": [part]})
            }
            Self::Call { id, call_id, call, .. } => json!({
                "type": "function_call", "id": id, "status": "completed",
                "call_id": call_id, "name": call.name, "arguments": call.arguments,
            }),
        }
    }

    /// As it is before anything of it was said.
    fn opening(&self) -> Value {
        let mut item = self.whole();
        match self {
            Self::Reasoning { .. } => {
                item["summary"] = json!([]);
                item["encrypted_content"] = json!("");
            }
            Self::Message { .. } => item["content"] = json!([]),
            Self::Call { .. } => item["arguments"] = json!(""),
        }
        if item.get("status").is_some() {
            item["status"] = json!("in_progress");
        }
        item
    }
}

fn items<'a>(told: &Told<'a>) -> Vec<Item<'a>> {
    let reply = told.reply;
    let reasoning = reply.thinking.iter().map(|text| Item::Reasoning { id: format!("rs_{:016x}", told.id), text });
    let message = reply.text.iter().map(|text| Item::Message { id: format!("msg_{:016x}", told.id), text });
    let calls = reply.calls.iter().enumerate().map(|(number, call)| Item::Call {
        id: told.call_id("fc_", number),
        call_id: told.call_id("call_", number),
        call,
        number,
    });
    reasoning.chain(message).chain(calls).collect()
}

/// Events are numbered as they come.
#[derive(Default)]
struct Stream {
    frames: Vec<Frame>,
}

impl Stream {
    fn push(&mut self, event: &'static str, fields: Value, mark: Mark) {
        let mut data = json!({"type": event, "sequence_number": self.frames.len()});
        if let (Some(data), Value::Object(fields)) = (data.as_object_mut(), fields) {
            data.extend(fields);
        }
        self.frames.push(Frame::named(event, &data, mark));
    }

    fn item(&mut self, index: usize, item: &Item<'_>, arguments_piece_bytes: usize) {
        self.push("response.output_item.added", json!({"output_index": index, "item": item.opening()}), Mark::Frame);
        let done = match item {
            Item::Reasoning { id, text } => self.reasoning(index, id, text),
            Item::Message { id, text } => self.message(index, id, text),
            Item::Call { id, call, number, .. } => {
                for piece in pieces(&call.arguments, arguments_piece_bytes) {
                    let mark = Mark::Arguments { call: *number, bytes: piece.len() };
                    let fields = json!({"item_id": id, "output_index": index, "delta": piece});
                    self.push("response.function_call_arguments.delta", fields, mark);
                }
                let fields = json!({"item_id": id, "output_index": index, "arguments": call.arguments});
                self.push("response.function_call_arguments.done", fields, Mark::Frame);
                Mark::CallDone { call: *number }
            }
        };
        self.push("response.output_item.done", json!({"output_index": index, "item": item.whole()}), done);
    }

    fn reasoning(&mut self, index: usize, id: &str, text: &str) -> Mark {
        let at = || json!({"item_id": id, "output_index": index, "summary_index": 0});
        let part = |text: &str| json!({"type": "summary_text", "text": text});
        self.push("response.reasoning_summary_part.added", with(at(), "part", part("")), Mark::Frame);
        for word in words(text) {
            self.push("response.reasoning_summary_text.delta", with(at(), "delta", json!(word)), Mark::Thinking);
        }
        self.push("response.reasoning_summary_text.done", with(at(), "text", json!(text)), Mark::Frame);
        self.push("response.reasoning_summary_part.done", with(at(), "part", part(text)), Mark::Frame);
        Mark::Frame
    }

    fn message(&mut self, index: usize, id: &str, text: &str) -> Mark {
        let at = || json!({"item_id": id, "output_index": index, "content_index": 0});
        let part = |text: &str| json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []});
        self.push("response.content_part.added", with(at(), "part", part("")), Mark::Frame);
        for word in words(text) {
            self.push("response.output_text.delta", with(with(at(), "delta", json!(word)), "logprobs", json!([])), Mark::Text);
        }
        self.push("response.output_text.done", with(with(at(), "text", json!(text)), "logprobs", json!([])), Mark::Frame);
        self.push("response.content_part.done", with(at(), "part", part(text)), Mark::Frame);
        Mark::Frame
    }
}

fn with(mut object: Value, key: &str, value: Value) -> Value {
    object[key] = value;
    object
}

fn response(told: &Told<'_>, status: &str, output: &[Value]) -> Value {
    let usage = match status {
        "in_progress" => Value::Null,
        _ => {
            let (input, output) = (told.input_tokens, told.output_tokens());
            json!({"input_tokens": input, "output_tokens": output, "total_tokens": input + output})
        }
    };
    let incomplete = (status == "incomplete").then(|| {
        let reason = if told.reply.stop() == Stop::Refusal { "content_filter" } else { "max_output_tokens" };
        json!({"reason": reason})
    });
    json!({
        "id": format!("resp_{:016x}", told.id), "object": "response", "created_at": CREATED_UNIX_S, "status": status,
        "error": null, "incomplete_details": incomplete, "model": told.model(), "output": output, "usage": usage,
    })
}

/// The last event, and the status in it.
fn end(stop: Stop) -> (&'static str, &'static str) {
    match stop {
        Stop::End | Stop::Calls => ("response.completed", "completed"),
        Stop::Length | Stop::Refusal => ("response.incomplete", "incomplete"),
    }
}
