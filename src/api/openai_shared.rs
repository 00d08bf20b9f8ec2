//! What OpenAI's chat completions and completions have in common: sampling fields, limits, usage, reasons to finish.

use serde_json::{Value, json};

use super::errors::ApiError;
use super::fields::{Fields, kind_of, whole_number};
use crate::chat::{FinishReason, Request, SamplingOptions, Usage};
use crate::engine::Priority;

/// OpenAI takes 4. Agents send a few more; the search costs the same for any number, the bound is against mistakes.
pub const STOP_STRINGS_MAX: usize = 64;
/// Bytes of one stop string.
const STOP_STRING_BYTES_MAX: usize = 1_024;
/// Bytes of all stop strings of a request; the search takes about 60 bytes of memory for each.
const STOP_BYTES_MAX: usize = 8_192;
/// Choices of one request, all prompts together; OpenAI's bound on `n`.
pub const CHOICES_MAX: usize = 128;
/// OpenAI's bound on `top_logprobs`.
pub const TOP_LOGPROBS_MAX: i64 = 20;

/// How the reply is to be sent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Delivery {
    pub stream: bool,
    /// `stream_options.include_usage`: a last chunk with the usage, and `usage: null` in the others.
    pub include_usage: bool,
}

/// Everything but the prompt and the log-probabilities.
pub fn read_request(fields: &Fields<'_>) -> Result<(Request, Delivery), ApiError> {
    let request = Request {
        choices_per_prompt: fields.integer("n", 1..=CHOICES_MAX as i64)?.unwrap_or(1) as usize,
        tokens_max: read_tokens_max(fields)?,
        stop: read_stop(fields)?,
        sampling: read_sampling(fields)?,
        priority: read_priority(fields)?,
        ignore_end_of_turn: fields.boolean("ignore_eos")?.unwrap_or(false),
        ..Request::default()
    };
    let options = fields.object("stream_options")?;
    let include_usage = match &options {
        Some(options) => options.boolean("include_usage")?.unwrap_or(false),
        None => false,
    };
    Ok((request, Delivery { stream: fields.boolean("stream")?.unwrap_or(false), include_usage }))
}

/// OpenAI's `service_tier: "flex"` (cheaper and slower), or vLLM's `priority`, where a larger number is served later.
fn read_priority(fields: &Fields<'_>) -> Result<Priority, ApiError> {
    let later = fields.integer("priority", i64::MIN..=i64::MAX)?.is_some_and(|priority| priority > 0);
    let flex = fields.get("service_tier").and_then(Value::as_str) == Some("flex");
    Ok(if later || flex { Priority::Background } else { Priority::Interactive })
}

fn read_tokens_max(fields: &Fields<'_>) -> Result<Option<usize>, ApiError> {
    let old = fields.integer("max_tokens", 1..=i64::MAX)?;
    let new = fields.integer("max_completion_tokens", 1..=i64::MAX)?;
    Ok(new.or(old).map(|tokens| tokens as usize))
}

fn read_stop(fields: &Fields<'_>) -> Result<Vec<String>, ApiError> {
    let stop = match fields.get("stop") {
        None => Vec::new(),
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(items)) => {
            if items.len() > STOP_STRINGS_MAX {
                return Err(fields.error("stop", format_args!("has {} strings; at most {STOP_STRINGS_MAX} are allowed", items.len())));
            }
            let string = |(index, item): (usize, &Value)| match item {
                Value::String(text) => Ok(text.clone()),
                other => Err(fields.wrong_kind(&format!("stop[{index}]"), "a string", other)),
            };
            items.iter().enumerate().map(string).collect::<Result<_, _>>()?
        }
        Some(other) => return Err(fields.wrong_kind("stop", "a string or an array of strings", other)),
    };
    if let Some(long) = stop.iter().find(|text| text.len() > STOP_STRING_BYTES_MAX) {
        let problem = format_args!("holds a string of {} bytes; at most {STOP_STRING_BYTES_MAX} are allowed", long.len());
        return Err(fields.error("stop", problem));
    }
    let bytes: usize = stop.iter().map(String::len).sum();
    if bytes > STOP_BYTES_MAX {
        return Err(fields.error("stop", format_args!("holds {bytes} bytes; at most {STOP_BYTES_MAX} are allowed")));
    }
    Ok(stop.into_iter().filter(|text| !text.is_empty()).collect())
}

fn read_sampling(fields: &Fields<'_>) -> Result<SamplingOptions, ApiError> {
    // vLLM and llama.cpp write it differently.
    let repetition = if fields.get("repetition_penalty").is_some() { "repetition_penalty" } else { "repeat_penalty" };
    // 0 and -1 both mean "all" in the wild.
    let top_k = fields.integer("top_k", -1..=i64::MAX)?.map(|k| k.max(0) as usize);
    Ok(SamplingOptions {
        temperature: fields.number("temperature", SamplingOptions::TEMPERATURE)?,
        top_k,
        top_p: fields.number("top_p", SamplingOptions::TOP_P)?,
        min_p: fields.number("min_p", SamplingOptions::MIN_P)?,
        seed: read_seed(fields)?,
        repetition_penalty: fields.number(repetition, SamplingOptions::REPETITION_PENALTY)?,
        presence_penalty: fields.number("presence_penalty", SamplingOptions::PRESENCE_PENALTY)?,
        frequency_penalty: fields.number("frequency_penalty", SamplingOptions::FREQUENCY_PENALTY)?,
        logit_bias: read_logit_bias(fields)?,
    })
}

fn read_seed(fields: &Fields<'_>) -> Result<Option<u64>, ApiError> {
    let Some(value) = fields.get("seed") else { return Ok(None) };
    let seed = value.as_u64().or_else(|| whole_number(value).map(|seed| seed as u64));
    seed.map(Some).ok_or_else(|| fields.wrong_kind("seed", "a whole number", value))
}

fn read_logit_bias(fields: &Fields<'_>) -> Result<Vec<(u32, f32)>, ApiError> {
    let Some(biases) = fields.object("logit_bias")? else { return Ok(Vec::new()) };
    let bias = |id: &String| {
        let token = id.parse::<u32>().map_err(|_| biases.error(id, "is no token id: the keys of `logit_bias` are token ids"))?;
        Ok(biases.number(id, SamplingOptions::LOGIT_BIAS)?.map(|bias| (token, bias)))
    };
    biases.map().keys().filter_map(|id| bias(id).transpose()).collect()
}

/// The `model` the client names; any name will do.
pub fn read_model(fields: &Fields<'_>) -> Result<Option<String>, ApiError> {
    Ok(fields.string("model")?.map(str::to_owned))
}

/// Structured output needs a grammar, which this version does not have: refused rather than promised.
pub fn refuse_structured_output(fields: &Fields<'_>) -> Result<(), ApiError> {
    let Some(value) = fields.get("response_format") else { return Ok(()) };
    match value.get("type").and_then(Value::as_str) {
        Some("text") => Ok(()),
        Some(kind @ ("json_object" | "json_schema")) => {
            let problem = format_args!("of type `{kind}` is not supported yet; only `text` is");
            Err(fields.error("response_format", problem))
        }
        _ => Err(fields.error("response_format", format_args!("must be an object whose `type` is `text`, not {}", kind_of(value)))),
    }
}

pub fn finish_reason(reason: &FinishReason) -> &'static str {
    match reason {
        FinishReason::EndOfTurn | FinishReason::StopString(_) => "stop",
        FinishReason::Length => "length",
        FinishReason::ToolCalls => "tool_calls",
    }
}

pub fn usage(usage: &Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.thinking_tokens},
    })
}

/// JSON has no infinity; OpenAI writes -9999 for "impossible".
pub fn logprob(value: f32) -> Value {
    if value.is_finite() { json!(value) } else { json!(-9999.0) }
}
