//! What a client understands of a reply: its text, its calls, whether it is whole, and what is wrong with it. Pure.
//!
//! Stricter than clients are: what one of them might stumble over is a fault here.

use serde_json::Value;

use super::http::Dialect;
use super::raw_client::{Exchange, SseEvent};

/// A reply as it was understood.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reading {
    pub text: String,
    pub thinking: String,
    /// Names and arguments.
    pub calls: Vec<(String, String)>,
    /// Why it ended; `None`: it did not say.
    pub stop: Option<String>,
    /// Who said it.
    pub model: Option<String>,
    /// In the reply, or instead of it.
    pub error: Option<String>,
    /// Its last event came: `message_stop`, `[DONE]`, `response.completed`.
    pub is_ended: bool,
    /// Bytes of the body up to the first word, thought or call.
    pub first_content_bytes: Option<usize>,
    /// What no reply may have.
    pub faults: Vec<String>,
}

impl Reading {
    pub fn of(dialect: Dialect, exchange: &Exchange) -> Self {
        let mut reading = Self::default();
        let is_stream = exchange.header("content-type").is_some_and(|value| value.starts_with("text/event-stream"));
        if exchange.status() == Some(200) && is_stream {
            exchange.events().iter().for_each(|event| reading.event(dialect, event));
        } else {
            let body = exchange.json();
            reading.error = body["error"]["message"].as_str().map(str::to_owned);
            match exchange.status() {
                Some(200) => reading.faults.push("no stream was sent".to_owned()),
                Some(_) if reading.error.is_none() => reading.faults.push("an error that is not the API's".to_owned()),
                _ => {}
            }
        }
        for (name, arguments) in &reading.calls {
            if reading.is_ended && reading.error.is_none() && serde_json::from_str::<Value>(arguments).is_err() {
                reading.faults.push(format!("the arguments of {name} are no JSON: {arguments:?}"));
            }
        }
        reading
    }

    /// It says that nothing is missing.
    pub fn claims_success(&self) -> bool {
        self.is_ended && self.stop.is_some() && self.error.is_none()
    }

    fn event(&mut self, dialect: Dialect, event: &SseEvent) {
        if self.is_ended {
            self.faults.push("an event behind the last one".to_owned());
        }
        if event.data == "[DONE]" && dialect == Dialect::OpenaiChat {
            self.is_ended = true;
            return;
        }
        let data = event.json();
        if data.is_null() {
            self.faults.push(format!("an event that is no JSON: {:?}", event.data.chars().take(80).collect::<String>()));
            return;
        }
        let before = self.content_bytes();
        match dialect {
            Dialect::AnthropicMessages => self.anthropic(&data),
            Dialect::OpenaiChat => self.openai_chat(&data),
            Dialect::OpenaiResponses => self.openai_responses(&data),
        }
        if self.first_content_bytes.is_none() && self.content_bytes() > before {
            self.first_content_bytes = Some(event.end);
        }
    }

    fn content_bytes(&self) -> usize {
        let calls: usize = self.calls.iter().map(|(name, arguments)| name.len() + arguments.len()).sum();
        self.text.len() + self.thinking.len() + calls
    }

    fn anthropic(&mut self, data: &Value) {
        match text(&data["type"]) {
            "message_start" if self.model.is_some() => self.faults.push("a second message_start".to_owned()),
            "message_start" => self.model = Some(text(&data["message"]["model"]).to_owned()),
            "content_block_start" if data["content_block"]["type"] == "tool_use" => {
                self.calls.push((text(&data["content_block"]["name"]).to_owned(), String::new()));
            }
            "content_block_delta" => {
                self.text += text(&data["delta"]["text"]);
                self.thinking += text(&data["delta"]["thinking"]);
                self.argument(None, text(&data["delta"]["partial_json"]));
            }
            "message_delta" => self.stop = data["delta"]["stop_reason"].as_str().map(str::to_owned).or(self.stop.take()),
            "message_stop" => self.is_ended = true,
            "error" => self.error = Some(text(&data["error"]["message"]).to_owned()),
            _ => {}
        }
    }

    fn openai_chat(&mut self, data: &Value) {
        if let Some(message) = data["error"]["message"].as_str() {
            self.error = Some(message.to_owned());
        }
        self.model = data["model"].as_str().map(str::to_owned).or(self.model.take());
        let choice = &data["choices"][0];
        self.text += text(&choice["delta"]["content"]);
        self.thinking += text(&choice["delta"]["reasoning_content"]);
        for call in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
            if let Some(name) = call["function"]["name"].as_str() {
                self.calls.push((name.to_owned(), String::new()));
            }
            self.argument(call["index"].as_u64(), text(&call["function"]["arguments"]));
        }
        self.stop = choice["finish_reason"].as_str().map(str::to_owned).or(self.stop.take());
    }

    fn openai_responses(&mut self, data: &Value) {
        match text(&data["type"]) {
            "response.created" => self.model = data["response"]["model"].as_str().map(str::to_owned),
            "response.output_item.added" if data["item"]["type"] == "function_call" => {
                self.calls.push((text(&data["item"]["name"]).to_owned(), String::new()));
            }
            "response.output_text.delta" => self.text += text(&data["delta"]),
            "response.reasoning_summary_text.delta" | "response.reasoning_text.delta" => self.thinking += text(&data["delta"]),
            "response.function_call_arguments.delta" => self.argument(None, text(&data["delta"])),
            "response.completed" | "response.incomplete" => {
                self.stop = data["response"]["status"].as_str().map(str::to_owned);
                self.is_ended = true;
            }
            "response.failed" => {
                self.error = Some(text(&data["response"]["error"]["message"]).to_owned());
                self.is_ended = true;
            }
            "error" => self.error = Some(text(&data["message"]).to_owned()),
            _ => {}
        }
    }

    /// To this call, or to the last one.
    fn argument(&mut self, call: Option<u64>, piece: &str) {
        let index = call.map_or(self.calls.len().wrapping_sub(1), |index| index as usize);
        match self.calls.get_mut(index) {
            Some((_, arguments)) => *arguments += piece,
            None if piece.is_empty() => {}
            None => self.faults.push("arguments of no call".to_owned()),
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
