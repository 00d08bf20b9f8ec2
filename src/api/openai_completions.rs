//! `POST /v1/completions`: the older API of bare prompts, which editors use for fill-in-the-middle.

use serde_json::{Map, Value, json};

use super::errors::ApiError;
use super::fields::{Fields, kind_of, parse_object};
use super::openai_shared::{self as shared, Delivery};
use super::{Call, Dialect, Frame, KeepAlive, ReplyHead};
use crate::chat::reply::Reply;
use crate::chat::{Event, FinishReason, Prompt, ScoredToken, TokenText, Usage};

/// OpenAI's default for this API.
const TOKENS_MAX_DEFAULT: usize = 16;

/// One request's way of answering.
#[derive(Debug)]
pub struct OpenAiCompletions {
    delivery: Delivery,
    /// `logprobs`: how many rivals of each token are told.
    top_logprobs: Option<usize>,
    /// Of each choice, as far as it has come; kept only where each chunk is to tell it.
    running: Vec<Usage>,
}

impl Dialect for OpenAiCompletions {
    const NAME: &'static str = "openai-completions";
    const PROMPT_FIELD: &'static str = "prompt";

    fn parse(body: &[u8]) -> Result<Call<Self>, ApiError> {
        let body = parse_object(body)?;
        let fields = Fields::of_body(&body);
        let (mut request, delivery) = shared::read_request(&fields)?;
        let prompts = read_prompts(&fields)?;
        request.prompts = with_suffix(prompts, &fields)?;
        let choices = request.prompts.len() * request.choices_per_prompt;
        if choices > shared::CHOICES_MAX {
            let problem = format_args!(
                "has {} prompts with n = {}: {choices} choices, and at most {} are allowed",
                request.prompts.len(),
                request.choices_per_prompt,
                shared::CHOICES_MAX
            );
            return Err(fields.error("prompt", problem));
        }
        refuse_best_of(&fields, request.choices_per_prompt)?;
        request.tokens_max = request.tokens_max.or(Some(TOKENS_MAX_DEFAULT));
        request.top_logprobs = fields.integer("logprobs", 0..=shared::TOP_LOGPROBS_MAX)?.map(|count| count as usize);
        request.echo = fields.boolean("echo")?.unwrap_or(false);
        if request.echo && request.top_logprobs.is_some() {
            return Err(fields.error("echo", "together with `logprobs` is not supported: the prompt's log-probabilities are not computed"));
        }
        let dialect = Self { delivery, top_logprobs: request.top_logprobs, running: Vec::new() };
        Ok(Call { stream: delivery.stream, model: shared::read_model(&fields)?, request, dialect })
    }

    fn open(&mut self, _: &ReplyHead, _: &mut Vec<Frame>) {}

    fn progress(&mut self, choice: usize, usage: Usage) {
        self.delivery.note(&mut self.running, choice, usage);
    }

    fn event(&mut self, head: &ReplyHead, choice: usize, event: Event, frames: &mut Vec<Frame>) {
        let frame = match event {
            Event::Text(delta) => self.chunk(head, choice, &delta.text, &delta.tokens, None),
            Event::Finished { reason, .. } => self.chunk(head, choice, "", &[], Some(&reason)),
            // A bare prompt has neither tools nor thinking.
            Event::Thinking(_) | Event::ToolCallStarted { .. } | Event::ToolCallArguments { .. } | Event::ToolCallEnded { .. } => return,
            Event::Failed(message) => return self.fail(head, &ApiError::engine_failed(&message), frames),
        };
        frames.push(frame);
    }

    fn close(&mut self, head: &ReplyHead, usage: Usage, frames: &mut Vec<Frame>) {
        if self.delivery.include_usage {
            let mut chunk = reply_head(head);
            chunk.insert("choices".into(), json!([]));
            chunk.insert("usage".into(), shared::usage(&usage));
            frames.push(Frame::json(&Value::Object(chunk)));
        }
        frames.push(Frame::data("[DONE]"));
    }

    fn keep_alive(&mut self, head: &ReplyHead) -> KeepAlive {
        KeepAlive::Frame(self.chunk(head, 0, "", &[], None))
    }

    fn fail(&mut self, _: &ReplyHead, error: &ApiError, frames: &mut Vec<Frame>) {
        frames.push(Frame::json(&super::errors::openai_error(error)));
    }

    fn whole(&self, head: &ReplyHead, choices: Vec<Reply>, usage: Usage) -> Value {
        let choice = |(index, reply): (usize, Reply)| {
            let finish = reply.finish.as_ref().map(shared::finish_reason);
            json!({"text": reply.text, "index": index, "logprobs": self.logprobs(&reply.tokens), "finish_reason": finish})
        };
        let mut whole = reply_head(head);
        whole.insert("choices".into(), choices.into_iter().enumerate().map(choice).collect());
        whole.insert("usage".into(), shared::usage(&usage));
        Value::Object(whole)
    }
}

impl OpenAiCompletions {
    fn chunk(&self, head: &ReplyHead, index: usize, text: &str, tokens: &[ScoredToken], finish: Option<&FinishReason>) -> Frame {
        let mut chunk = reply_head(head);
        let logprobs = if tokens.is_empty() { Value::Null } else { self.logprobs(tokens) };
        let finish = finish.map(shared::finish_reason);
        chunk.insert("choices".into(), json!([{"text": text, "index": index, "logprobs": logprobs, "finish_reason": finish}]));
        self.delivery.insert_usage(&mut chunk, &self.running, index);
        Frame::json(&Value::Object(chunk))
    }

    fn logprobs(&self, tokens: &[ScoredToken]) -> Value {
        let Some(top_logprobs) = self.top_logprobs else { return Value::Null };
        let names: Vec<String> = tokens.iter().map(|scored| token_name(&scored.token)).collect();
        let values: Vec<Value> = tokens.iter().map(|scored| shared::logprob(scored.logprob)).collect();
        let offsets: Vec<usize> = tokens.iter().map(|scored| scored.text_offset).collect();
        let rivals = |scored: &ScoredToken| {
            let mut rivals: Map<String, Value> =
                scored.top.iter().map(|(token, value)| (token_name(token), shared::logprob(*value))).collect();
            // The token itself is told too where it is not among the likeliest, so there may be one more.
            rivals.entry(token_name(&scored.token)).or_insert_with(|| shared::logprob(scored.logprob));
            Value::Object(rivals)
        };
        let top = if top_logprobs == 0 { Value::Null } else { tokens.iter().map(rivals).collect() };
        json!({"tokens": names, "token_logprobs": values, "top_logprobs": top, "text_offset": offsets})
    }
}

fn reply_head(head: &ReplyHead) -> Map<String, Value> {
    let mut value = Map::new();
    value.insert("id".into(), format!("cmpl-{}", head.id).into());
    value.insert("object".into(), "text_completion".into());
    value.insert("created".into(), head.created_unix_s.into());
    value.insert("model".into(), head.model.clone().into());
    value
}

/// A token that is no whole character is written by its bytes, as OpenAI does, so that two of them stay two.
fn token_name(token: &TokenText) -> String {
    match std::str::from_utf8(&token.bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => {
            let bytes: String = token.bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect();
            format!("bytes:{bytes}")
        }
    }
}

/// A string, several strings, a list of token ids, or several such lists.
fn read_prompts(fields: &Fields<'_>) -> Result<Vec<Prompt>, ApiError> {
    let items = match fields.require("prompt")? {
        Value::String(text) => return Ok(vec![Prompt::Text(text.clone())]),
        Value::Array(items) if items.is_empty() => return Err(fields.error("prompt", "is empty")),
        Value::Array(items) => items,
        other => return Err(fields.wrong_kind("prompt", "a string, or an array of strings or of token ids", other)),
    };
    if items[0].is_number() {
        return Ok(vec![Prompt::Tokens(fields.token_ids("prompt", items)?)]);
    }
    let prompt = |(index, item): (usize, &Value)| {
        let name = format!("prompt[{index}]");
        match item {
            Value::String(text) => Ok(Prompt::Text(text.clone())),
            Value::Array(ids) => Ok(Prompt::Tokens(fields.token_ids(&name, ids)?)),
            other => Err(fields.error(&name, format_args!("must be a string or an array of token ids, not {}", kind_of(other)))),
        }
    };
    items.iter().enumerate().map(prompt).collect()
}

fn with_suffix(prompts: Vec<Prompt>, fields: &Fields<'_>) -> Result<Vec<Prompt>, ApiError> {
    let Some(suffix) = fields.string("suffix")?.filter(|suffix| !suffix.is_empty()) else { return Ok(prompts) };
    let middle = |prompt: Prompt| match prompt {
        Prompt::Text(prefix) => Ok(Prompt::FillInTheMiddle { prefix, suffix: suffix.to_owned(), files: Vec::new() }),
        _ => Err(fields.error("suffix", "needs a prompt of text")),
    };
    prompts.into_iter().map(middle).collect()
}

/// Choosing the best of several is not offered; asking for as many as are returned is no choice.
fn refuse_best_of(fields: &Fields<'_>, choices: usize) -> Result<(), ApiError> {
    match fields.integer("best_of", 0..=i64::MAX)? {
        Some(best_of) if best_of as usize != choices => {
            Err(fields.error("best_of", format_args!("must equal `n` ({choices}), not {best_of}: picking the best is not supported")))
        }
        _ => Ok(()),
    }
}
