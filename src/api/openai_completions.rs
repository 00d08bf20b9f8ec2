//! `POST /v1/completions`: the older API of bare prompts, which editors use for fill-in-the-middle.

use serde_json::{Map, Value, json};

use super::errors::ApiError;
use super::fields::{Fields, kind_of, parse_object};
use super::openai_shared::{self as shared, Delivery};
use super::openai_types::{self as types, Completion, CompletionChoice, CompletionLogprobs, CompletionObject, Finish, Id, finite};
use super::{Call, Dialect, Frame, KeepAlive, ReplyHead, to_json};
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
        let (mut request, delivery) = shared::read_request_of(&fields, 0)?;
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
        if request.tokens_max == Some(0) && !request.echo {
            return Err(fields.error("max_tokens", "must be at least 1, unless the prompt is to be echoed"));
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
            frames.push(Frame::of(&reply_of(head, Vec::new(), Some(Some((&usage).into())))));
        }
        frames.push(Frame::data("[DONE]"));
    }

    fn keep_alive(&mut self, head: &ReplyHead) -> KeepAlive {
        KeepAlive::Frame(self.chunk(head, 0, "", &[], None))
    }

    fn fail(&mut self, _: &ReplyHead, error: &ApiError, frames: &mut Vec<Frame>) {
        frames.push(Frame::json(&super::errors::openai_error(error)));
    }

    fn whole(&self, head: &ReplyHead, choices: Vec<Reply>, usage: Usage) -> String {
        let choice = |(index, reply): (usize, Reply)| CompletionChoice {
            logprobs: self.logprobs(&reply.tokens),
            text: reply.text.into(),
            index,
            finish_reason: reply.finish.as_ref().map(Finish::from),
        };
        to_json(&reply_of(head, choices.into_iter().enumerate().map(choice).collect(), Some(Some((&usage).into()))))
    }
}

impl OpenAiCompletions {
    fn chunk(&self, head: &ReplyHead, index: usize, text: &str, tokens: &[ScoredToken], finish: Option<&FinishReason>) -> Frame {
        let logprobs = if tokens.is_empty() { None } else { self.logprobs(tokens) };
        let choice = CompletionChoice { text: text.into(), index, logprobs, finish_reason: finish.map(Finish::from) };
        Frame::of(&reply_of(head, vec![choice], self.delivery.usage_in_chunk(&self.running, index)))
    }

    fn logprobs(&self, tokens: &[ScoredToken]) -> Option<CompletionLogprobs> {
        let top_logprobs = self.top_logprobs?;
        let rivals = |scored: &ScoredToken| {
            let logprob = scored.logprob?;
            let mut rivals: Map<String, Value> =
                scored.top.iter().map(|(token, value)| (token_name(token), json!(finite(*value)))).collect();
            // The token itself is told too where it is not among the likeliest, so there may be one more.
            rivals.entry(token_name(&scored.token)).or_insert_with(|| json!(finite(logprob)));
            Some(rivals)
        };
        Some(CompletionLogprobs {
            tokens: tokens.iter().map(|scored| token_name(&scored.token)).collect(),
            token_logprobs: tokens.iter().map(|scored| scored.logprob.map(finite)).collect(),
            top_logprobs: (top_logprobs > 0).then(|| tokens.iter().map(rivals).collect()),
            text_offset: tokens.iter().map(|scored| scored.text_offset).collect(),
        })
    }
}

fn reply_of<'a>(head: &'a ReplyHead, choices: Vec<CompletionChoice<'a>>, usage: Option<Option<types::Usage>>) -> Completion<'a> {
    Completion {
        id: Id { prefix: "cmpl-", name: &head.id },
        object: CompletionObject::It,
        created: head.created_unix_s,
        model: &head.model,
        choices,
        usage,
    }
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
