//! What OpenAI's chat completions and completions have in common: sampling fields, limits, usage, reasons to finish.

use serde_json::Value;

use super::errors::ApiError;
use super::fields::Fields;
use super::openai_types as types;
use super::output_format::read_output_format;
use super::sampling_fields::read_sampling;
use crate::chat::begun::BegunReply;
use crate::chat::{Request, Usage};
use crate::engine::Priority;

/// Stop tokens of one request.
const STOP_TOKENS_MAX: usize = 1_024;
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
    /// vLLM's `continuous_usage_stats`: the usage so far in every chunk.
    pub continuous_usage: bool,
}

impl Delivery {
    /// Keeps a choice's usage, where each chunk is to tell it.
    pub fn note(&self, running: &mut Vec<Usage>, choice: usize, usage: Usage) {
        if self.continuous_usage {
            if running.len() <= choice {
                running.resize(choice + 1, Usage::default());
            }
            running[choice] = usage;
        }
    }

    /// What a chunk of `choice` says of usage; `None`: not even that there is none yet.
    pub fn usage_in_chunk(&self, running: &[Usage], choice: usize) -> Option<Option<types::Usage>> {
        let so_far = || running.get(choice).map_or_else(|| (&Usage::default()).into(), types::Usage::from);
        self.include_usage.then(|| self.continuous_usage.then(so_far))
    }
}

/// Everything but the prompt and the log-probabilities.
pub fn read_request(fields: &Fields<'_>) -> Result<(Request, Delivery), ApiError> {
    read_request_of(fields, 1)
}

/// The same, of an API whose replies may be as short as `tokens_max_least`.
pub fn read_request_of(fields: &Fields<'_>, tokens_max_least: i64) -> Result<(Request, Delivery), ApiError> {
    let tokens_max = read_tokens_max(fields, tokens_max_least)?;
    let request = Request {
        choices_per_prompt: fields.integer("n", 1..=CHOICES_MAX as i64)?.unwrap_or(1) as usize,
        tokens_max,
        tokens_min: read_tokens_min(fields, tokens_max)?,
        stop: read_stop(fields, "stop")?,
        stop_token_ids: read_stop_token_ids(fields)?,
        sampling: read_sampling(fields)?,
        output_format: read_output_format(fields)?,
        priority: read_priority(fields)?,
        ignore_end_of_turn: fields.boolean("ignore_eos")?.unwrap_or(false),
        ..Request::default()
    };
    let options = fields.object("stream_options")?;
    let option = |name: &str| match &options {
        Some(options) => Ok(options.boolean(name)?.unwrap_or(false)),
        None => Ok(false),
    };
    let include_usage = option("include_usage")?;
    // As in vLLM it only says how often the usage comes, not whether.
    let continuous_usage = include_usage && option("continuous_usage_stats")?;
    Ok((request, Delivery { stream: fields.boolean("stream")?.unwrap_or(false), include_usage, continuous_usage }))
}

/// OpenAI's `service_tier: "flex"` (cheaper and slower), or vLLM's `priority`, where a larger number is served later.
fn read_priority(fields: &Fields<'_>) -> Result<Priority, ApiError> {
    let later = fields.integer("priority", i64::MIN..=i64::MAX)?.is_some_and(|priority| priority > 0);
    let flex = fields.get("service_tier").and_then(Value::as_str) == Some("flex");
    Ok(if later || flex { Priority::Background } else { Priority::Interactive })
}

fn read_tokens_max(fields: &Fields<'_>, least: i64) -> Result<Option<usize>, ApiError> {
    let old = fields.integer("max_tokens", least..=i64::MAX)?;
    let new = fields.integer("max_completion_tokens", least..=i64::MAX)?;
    Ok(new.or(old).map(|tokens| tokens as usize))
}

/// vLLM's.
fn read_tokens_min(fields: &Fields<'_>, tokens_max: Option<usize>) -> Result<usize, ApiError> {
    let tokens_min = fields.integer("min_tokens", 0..=i64::MAX)?.unwrap_or(0) as usize;
    match tokens_max {
        Some(most) if tokens_min > most => {
            Err(fields.error("min_tokens", format_args!("must be at most `max_tokens`, which is {most}, not {tokens_min}")))
        }
        _ => Ok(tokens_min),
    }
}

/// vLLM's.
fn read_stop_token_ids(fields: &Fields<'_>) -> Result<Vec<u32>, ApiError> {
    let ids = fields.array("stop_token_ids")?.unwrap_or_default();
    if ids.len() > STOP_TOKENS_MAX {
        return Err(fields.error("stop_token_ids", format_args!("has {} tokens; at most {STOP_TOKENS_MAX} are allowed", ids.len())));
    }
    fields.token_ids("stop_token_ids", ids)
}

/// One string or several, in the field `name`.
pub fn read_stop(fields: &Fields<'_>, name: &str) -> Result<Vec<String>, ApiError> {
    let stop = match fields.get(name) {
        None => Vec::new(),
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(items)) => {
            if items.len() > STOP_STRINGS_MAX {
                return Err(fields.error(name, format_args!("has {} strings; at most {STOP_STRINGS_MAX} are allowed", items.len())));
            }
            let string = |(index, item): (usize, &Value)| match item {
                Value::String(text) => Ok(text.clone()),
                other => Err(fields.wrong_kind(&format!("{name}[{index}]"), "a string", other)),
            };
            items.iter().enumerate().map(string).collect::<Result<_, _>>()?
        }
        Some(other) => return Err(fields.wrong_kind(name, "a string or an array of strings", other)),
    };
    if let Some(long) = stop.iter().find(|text| text.len() > STOP_STRING_BYTES_MAX) {
        let problem = format_args!("holds a string of {} bytes; at most {STOP_STRING_BYTES_MAX} are allowed", long.len());
        return Err(fields.error(name, problem));
    }
    let bytes: usize = stop.iter().map(String::len).sum();
    if bytes > STOP_BYTES_MAX {
        return Err(fields.error(name, format_args!("holds {bytes} bytes; at most {STOP_BYTES_MAX} are allowed")));
    }
    Ok(stop.into_iter().filter(|text| !text.is_empty()).collect())
}

/// The `model` the client names; any name will do.
pub fn read_model(fields: &Fields<'_>) -> Result<Option<String>, ApiError> {
    Ok(fields.string("model")?.map(str::to_owned))
}

/// What a stream that another server began repeats in each of its events.
#[derive(Debug)]
pub struct Began {
    pub id: String,
    pub created_unix_s: i64,
    pub model: String,
}

impl Began {
    pub fn of(begun: &BegunReply) -> Self {
        Self { id: begun.id.clone(), created_unix_s: begun.created_unix_s, model: begun.model.clone() }
    }
}
