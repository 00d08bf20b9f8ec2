//! `POST /infill`: fill-in-the-middle as llama.cpp's server takes it from its editor plug-ins, with pieces of other files beside it.

use serde_json::{Map, Value, json};

use super::errors::{ApiError, openai_error};
use super::fields::{Fields, parse_object};
use super::openai_shared as shared;
use super::{Call, Dialect, Frame, KeepAlive, ReplyHead};
use crate::chat::reply::Reply;
use crate::chat::{ContextFile, Event, FinishReason, Prompt, Usage};

/// Pieces of other files in one request; the plug-ins send up to 64 in a ring. The bound is against mistakes.
const FILES_MAX: usize = 1_024;

/// One request's way of answering.
#[derive(Debug)]
pub struct LlamaInfill {
    /// `n_predict` is 0: the prompt is only to be computed and kept, so that the next request finds it.
    warms_only: bool,
    /// Which fields the client wants, a path each (`timings/prompt_n`); empty: all.
    response_fields: Vec<String>,
    finish: Option<FinishReason>,
}

impl Dialect for LlamaInfill {
    const NAME: &'static str = "llama-infill";
    const PROMPT_FIELD: &'static str = "input_prefix";

    fn parse(body: &[u8]) -> Result<Call<Self>, ApiError> {
        let body = parse_object(body)?;
        let fields = Fields::of_body(&body);
        let (mut request, delivery) = shared::read_request(&fields)?;
        if request.choices_per_prompt != 1 {
            return Err(fields.error("n", format_args!("must be 1 here, not {}", request.choices_per_prompt)));
        }
        // What was typed on the line of the cursor stands after the prefix.
        let prefix = [fields.string("input_prefix")?, fields.string("prompt")?].into_iter().flatten().collect();
        let suffix = fields.string("input_suffix")?.unwrap_or_default().to_owned();
        request.prompts = vec![Prompt::FillInTheMiddle { prefix, suffix, files: read_files(&fields)? }];
        let n_predict = fields.integer("n_predict", -1..=i64::MAX)?;
        let warms_only = n_predict == Some(0);
        request.tokens_max = match n_predict {
            // The engine computes a prompt on the way to a token.
            Some(0) => Some(1),
            Some(tokens) => usize::try_from(tokens).ok(),
            None => request.tokens_max,
        };
        let dialect = Self { warms_only, response_fields: read_response_fields(&fields)?, finish: None };
        Ok(Call { request, stream: delivery.stream, model: shared::read_model(&fields)?, dialect })
    }

    fn open(&mut self, _: &ReplyHead, _: &mut Vec<Frame>) {}

    fn event(&mut self, head: &ReplyHead, _: usize, event: Event, frames: &mut Vec<Frame>) {
        match event {
            Event::Text(_) if self.warms_only => {}
            Event::Text(delta) => frames.push(self.chunk(&delta.text)),
            Event::Finished { reason, .. } => self.finish = Some(reason),
            // A bare prompt has neither tools nor thinking.
            Event::Thinking(_) | Event::ToolCallStarted { .. } | Event::ToolCallArguments { .. } | Event::ToolCallEnded { .. } => {}
            Event::Failed(message) => self.fail(head, &ApiError::engine_failed(&message), frames),
        }
    }

    fn close(&mut self, head: &ReplyHead, usage: Usage, frames: &mut Vec<Frame>) {
        frames.push(Frame::json(&self.last(head, "", self.finish.as_ref(), &usage)));
    }

    fn keep_alive(&mut self, _: &ReplyHead) -> KeepAlive {
        KeepAlive::Frame(self.chunk(""))
    }

    fn fail(&mut self, _: &ReplyHead, error: &ApiError, frames: &mut Vec<Frame>) {
        frames.push(Frame::json(&openai_error(error)));
    }

    fn whole(&self, head: &ReplyHead, choices: Vec<Reply>, usage: Usage) -> String {
        let reply = choices.into_iter().next().unwrap_or_default();
        let text = if self.warms_only { "" } else { &reply.text };
        self.last(head, text, reply.finish.as_ref(), &usage).to_string()
    }
}

impl LlamaInfill {
    fn chunk(&self, text: &str) -> Frame {
        Frame::json(&self.chosen(json!({"index": 0, "content": text, "stop": false})))
    }

    /// The whole reply, or what ends a stream.
    fn last(&self, head: &ReplyHead, text: &str, finish: Option<&FinishReason>, usage: &Usage) -> Value {
        let (stop_type, stopping_word) = match finish {
            Some(FinishReason::StopString(word)) => ("word", word.as_str()),
            Some(FinishReason::Length) => ("limit", ""),
            Some(FinishReason::EndOfTurn | FinishReason::ToolCalls | FinishReason::Refused) => ("eos", ""),
            None => ("none", ""),
        };
        let predicted = if self.warms_only { 0 } else { usage.completion_tokens };
        self.chosen(json!({
            "index": 0,
            "content": text,
            "stop": true,
            "model": head.model,
            "tokens_predicted": predicted,
            "tokens_evaluated": usage.prompt_tokens,
            "tokens_cached": usage.prompt_tokens + predicted,
            "truncated": false,
            "stop_type": stop_type,
            "stopping_word": stopping_word,
            "timings": {
                "cache_n": usage.cached_tokens,
                "prompt_n": usage.prompt_tokens - usage.cached_tokens,
                "predicted_n": predicted,
            },
        }))
    }

    /// Only the fields asked for, each under its whole path; those that are not there are left out.
    fn chosen(&self, reply: Value) -> Value {
        if self.response_fields.is_empty() {
            return reply;
        }
        let found = |path: &String| {
            let value = path.split('/').try_fold(&reply, |value, name| value.get(name))?;
            Some((path.clone(), value.clone()))
        };
        Value::Object(self.response_fields.iter().filter_map(found).collect::<Map<_, _>>())
    }
}

fn read_files(fields: &Fields<'_>) -> Result<Vec<ContextFile>, ApiError> {
    let items = fields.array("input_extra")?.unwrap_or_default();
    if items.len() > FILES_MAX {
        return Err(fields.error("input_extra", format_args!("has {} pieces; at most {FILES_MAX} are allowed", items.len())));
    }
    let file = |(index, item): (usize, &Value)| {
        let file = Fields::of(item, format!("input_extra[{index}]"))?;
        file.require("text")?;
        let text = file.string("text")?.unwrap_or_default().to_owned();
        Ok(ContextFile { name: file.string("filename")?.map(str::to_owned), text })
    };
    items.iter().enumerate().map(file).collect()
}

fn read_response_fields(fields: &Fields<'_>) -> Result<Vec<String>, ApiError> {
    let items = fields.array("response_fields")?.unwrap_or_default();
    let path = |(index, item): (usize, &Value)| match item {
        Value::String(path) => Ok(path.clone()),
        other => Err(fields.wrong_kind(&format!("response_fields[{index}]"), "a string", other)),
    };
    items.iter().enumerate().map(path).collect()
}
