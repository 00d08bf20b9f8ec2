//! How the reply is sampled: OpenAI's fields, and the names that vLLM and llama.cpp have for the rest.

use serde_json::Value;

use super::errors::ApiError;
use super::fields::{Fields, whole_number};
use crate::chat::{DryOptions, SamplingOptions};

/// Sequence breakers of one request, and bytes of one: the bounds are against mistakes.
const BREAKERS_MAX: usize = 32;
const BREAKER_BYTES_MAX: usize = 64;

pub fn read_sampling(fields: &Fields<'_>) -> Result<SamplingOptions, ApiError> {
    // vLLM and llama.cpp write it differently.
    let repetition = if fields.get("repetition_penalty").is_some() { "repetition_penalty" } else { "repeat_penalty" };
    // 0 and -1 both mean "all" in the wild.
    let top_k = fields.integer("top_k", -1..=i64::MAX)?.map(|k| k.max(0) as usize);
    Ok(SamplingOptions {
        temperature: fields.number("temperature", SamplingOptions::TEMPERATURE)?,
        top_k,
        typical_p: fields.number("typical_p", SamplingOptions::TYPICAL_P)?,
        top_p: fields.number("top_p", SamplingOptions::TOP_P)?,
        min_p: fields.number("min_p", SamplingOptions::MIN_P)?,
        seed: read_seed(fields)?,
        repetition_penalty: fields.number(repetition, SamplingOptions::REPETITION_PENALTY)?,
        presence_penalty: fields.number("presence_penalty", SamplingOptions::PRESENCE_PENALTY)?,
        frequency_penalty: fields.number("frequency_penalty", SamplingOptions::FREQUENCY_PENALTY)?,
        repeat_last_n: read_last_n(fields, "repeat_last_n")?,
        dry: read_dry(fields)?,
        logit_bias: read_logit_bias(fields)?,
    })
}

/// llama.cpp's fields and defaults, but that all of the sequence counts unless less is said. Without a multiplier the others do nothing,
/// and are read all the same: a mistake in them is one.
fn read_dry(fields: &Fields<'_>) -> Result<Option<DryOptions>, ApiError> {
    let multiplier = fields.number("dry_multiplier", SamplingOptions::DRY_MULTIPLIER)?.unwrap_or(0.0);
    let dry = DryOptions {
        multiplier,
        base: fields.number("dry_base", SamplingOptions::DRY_BASE)?.unwrap_or(1.75),
        allowed_length: fields.integer("dry_allowed_length", 0..=i64::MAX)?.unwrap_or(2) as usize,
        last_n: read_last_n(fields, "dry_penalty_last_n")?,
        breakers: read_breakers(fields)?,
    };
    Ok((multiplier > 0.0).then_some(dry))
}

/// How far to look back: -1 (and nothing said) is all of it, 0 is nothing.
fn read_last_n(fields: &Fields<'_>, name: &str) -> Result<Option<usize>, ApiError> {
    Ok(fields.integer(name, -1..=i64::MAX)?.and_then(|tokens| usize::try_from(tokens).ok()))
}

fn read_breakers(fields: &Fields<'_>) -> Result<Option<Vec<String>>, ApiError> {
    const NAME: &str = "dry_sequence_breakers";
    let Some(items) = fields.array(NAME)? else { return Ok(None) };
    if items.len() > BREAKERS_MAX {
        return Err(fields.error(NAME, format_args!("has {} strings; at most {BREAKERS_MAX} are allowed", items.len())));
    }
    let breaker = |(index, item): (usize, &Value)| match item {
        Value::String(text) if text.is_empty() => Err(fields.error(&format!("{NAME}[{index}]"), "is empty")),
        Value::String(text) if text.len() > BREAKER_BYTES_MAX => {
            let problem = format_args!("has {} bytes; at most {BREAKER_BYTES_MAX} are allowed", text.len());
            Err(fields.error(&format!("{NAME}[{index}]"), problem))
        }
        Value::String(text) => Ok(text.clone()),
        other => Err(fields.wrong_kind(&format!("{NAME}[{index}]"), "a string", other)),
    };
    items.iter().enumerate().map(breaker).collect::<Result<_, _>>().map(Some)
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
