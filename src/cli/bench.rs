//! `understudy bench`: what this machine gives with this model. Talks to the engine itself, so HTTP is not in the figures.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use serde::Serialize;

use super::args::BenchArgs;
use super::failure::Failure;
use super::load::{Loaded, load};
use super::memory_plan::Size;
use super::{machine, print, version};
use crate::config::Config;
use crate::engine::{Engine, GenerateRequest, SamplingParams, TokenEvent};

const PREFILL_TOKENS: usize = 512;
const DECODE_TOKENS: usize = 128;
/// Prompt of the streams that decode: short, so that decoding is what is measured.
const DECODE_PROMPT_TOKENS: usize = 32;
const STREAMS: [usize; 4] = [1, 4, 8, 16];

/// Everything measured, and what it was measured on.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    pub model: String,
    pub model_bytes: u64,
    pub machine: String,
    pub date: String,
    pub threads: usize,
    pub device: String,
    pub build: String,
    pub runs: usize,
    /// From the command's start until the first request can be taken.
    pub start_ms: f64,
    /// 512 tokens, one sequence.
    pub prefill_tokens_per_s: f64,
    /// From the request to the first token, with a prompt of 512.
    pub first_token_ms: f64,
    /// 128 tokens of one stream after a short prompt.
    pub decode_tokens_per_s: f64,
    pub streams: Vec<StreamFigure>,
    /// Resident memory when all was measured, mapped weights included; and the most there ever was.
    pub memory_bytes: Option<u64>,
    pub memory_peak_bytes: Option<u64>,
}

/// Tokens a second of all streams together, from when each has its first token.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct StreamFigure {
    pub streams: usize,
    pub tokens_per_s: f64,
}

pub fn run(config: &Config, args: &BenchArgs) -> Result<(), Failure> {
    let figures = measure(config, args.runs.get())?;
    if args.json {
        return print::line(serde_json::to_string_pretty(&figures).context("the figures")?);
    }
    print::line(table(&figures))
}

/// Loads the model of `config` with room for the widest test, and measures; each figure is the median of `runs`.
pub fn measure(config: &Config, runs: usize) -> Result<Figures, Failure> {
    let start = Instant::now();
    let mut config = config.clone();
    let widest = STREAMS.into_iter().max().and_then(std::num::NonZeroUsize::new);
    config.engine.parallel = config.engine.parallel.max(widest.unwrap_or(config.engine.parallel));
    let loaded = load(&config)?;
    let start_ms = milliseconds(start.elapsed());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("a runtime")?;
    let mut bench = Bench::new(&loaded)?;
    // Untimed: pages of the file come in, the pool's threads wake.
    runtime.block_on(bench.streams(1))?;
    let mut first_tokens = Vec::new();
    let mut streams: Vec<Vec<f64>> = vec![Vec::new(); STREAMS.len()];
    for _ in 0..runs {
        first_tokens.push(runtime.block_on(bench.first_token())?);
        for (index, count) in STREAMS.into_iter().enumerate() {
            streams[index].push(runtime.block_on(bench.streams(count))?);
        }
    }
    let first_token_ms = median(first_tokens);
    let figures = STREAMS.into_iter().zip(streams);
    let streams: Vec<StreamFigure> = figures.map(|(streams, rates)| StreamFigure { streams, tokens_per_s: median(rates) }).collect();
    let resident = machine::resident_bytes();
    Ok(Figures {
        model: loaded.about.line(),
        model_bytes: loaded.about.file_bytes,
        machine: machine::processor(),
        date: date(SystemTime::now()),
        threads: loaded.about.threads,
        device: loaded.about.device.clone(),
        build: format!("understudy {}, {}", env!("CARGO_PKG_VERSION"), version::build()),
        runs,
        start_ms,
        prefill_tokens_per_s: bench.prefill_tokens as f64 / first_token_ms * 1e3,
        first_token_ms,
        decode_tokens_per_s: streams[0].tokens_per_s,
        streams,
        memory_bytes: resident.map(|(now, _)| now),
        memory_peak_bytes: resident.map(|(_, peak)| peak),
    })
}

struct Bench<'a> {
    engine: &'a Engine,
    vocab: u64,
    prefill_tokens: usize,
    state: u64,
}

impl<'a> Bench<'a> {
    fn new(loaded: &'a Loaded) -> Result<Self, Failure> {
        let least = DECODE_PROMPT_TOKENS + DECODE_TOKENS;
        if loaded.plan.context < least.max(PREFILL_TOKENS + 1) {
            let message = format!("the context of {} tokens is too short to measure {PREFILL_TOKENS} tokens in", loaded.plan.context);
            return Err(anyhow::anyhow!(message).into());
        }
        let vocab = loaded.text.tokenizer.vocab_size() as u64;
        Ok(Self { engine: &loaded.engine, vocab, prefill_tokens: PREFILL_TOKENS, state: 1 })
    }

    /// Milliseconds from the request to the first token of a prompt of 512 that no cache knows.
    async fn first_token(&mut self) -> Result<f64, Failure> {
        let request = self.request(self.prefill_tokens, 1);
        let start = Instant::now();
        let mut stream = self.engine.generate(request).context("the engine")?;
        let first = stream.next().await;
        let elapsed = start.elapsed();
        if !matches!(first, Some(TokenEvent::Token(_))) {
            return Err(anyhow::anyhow!("no token came: {first:?}").into());
        }
        while stream.next().await.is_some() {}
        Ok(milliseconds(elapsed))
    }

    /// Tokens a second of so many streams together, counted from when every one has begun until the first has ended: so that
    /// all of them decode all the time that counts.
    async fn streams(&mut self, count: usize) -> Result<f64, Failure> {
        let mut streams = Vec::new();
        for _ in 0..count {
            let request = self.request(DECODE_PROMPT_TOKENS, DECODE_TOKENS);
            streams.push(self.engine.generate(request).context("the engine")?);
        }
        let reading = streams.into_iter().map(|mut stream| async move {
            let mut times = Vec::with_capacity(DECODE_TOKENS);
            while let Some(event) = stream.next().await {
                match event {
                    TokenEvent::Token(_) => times.push(Instant::now()),
                    TokenEvent::Finished { reason, .. } => tracing::debug!(?reason, "a stream ended"),
                }
            }
            times
        });
        let times: Vec<Vec<Instant>> = futures_util::future::join_all(reading).await;
        let begun = times.iter().filter_map(|times| times.first()).max();
        let ended = times.iter().filter_map(|times| times.last()).min();
        let (Some(begun), Some(ended)) = (begun, ended) else { return Err(anyhow::anyhow!("no token came").into()) };
        let counted = times.iter().flatten().filter(|time| *time > begun && *time <= ended).count();
        if counted == 0 || times.iter().any(|times| times.len() != DECODE_TOKENS) {
            return Err(anyhow::anyhow!("a stream ended early").into());
        }
        Ok(counted as f64 / ended.duration_since(*begun).as_secs_f64())
    }

    /// Tokens that no earlier prompt began with, and no token that would end the answer.
    fn request(&mut self, prompt_tokens: usize, tokens_max: usize) -> GenerateRequest {
        let prompt = (0..prompt_tokens).map(|_| self.token()).collect();
        let sampling = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
        GenerateRequest { prompt, tokens_max: Some(tokens_max), stop_token_ids: Vec::new(), sampling, top_logprobs: None }
    }

    /// The next token of a fixed sequence (Knuth's linear congruential generator).
    fn token(&mut self) -> u32 {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.state >> 33) % self.vocab) as u32
    }
}

fn table(figures: &Figures) -> String {
    let mut lines = vec![
        format!("model    {}", figures.model),
        format!("machine  {}; {}", figures.machine, figures.device),
        format!("build    {}; {}; median of {}", figures.build, figures.date, figures.runs),
        String::new(),
        format!("{:<36}{:>12.1} ms", "start until ready", figures.start_ms),
        format!("{:<36}{:>12.1} tokens/s", "prefill, 512 tokens", figures.prefill_tokens_per_s),
        format!("{:<36}{:>12.1} ms", "first token, prompt of 512", figures.first_token_ms),
    ];
    for figure in &figures.streams {
        let name = match figure.streams {
            1 => "decode, 128 tokens, 1 stream".to_owned(),
            count => format!("decode, 128 tokens, {count} streams together"),
        };
        lines.push(format!("{name:<36}{:>12.1} tokens/s", figure.tokens_per_s));
    }
    if let (Some(now), Some(peak)) = (figures.memory_bytes, figures.memory_peak_bytes) {
        lines.push(format!("{:<36}{:>12}, at most {}", "memory (resident)", Size(now).to_string(), Size(peak)));
    }
    lines.join("\n")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// `2026-11-23`, in UTC. Days to date after Howard Hinnant's "chrono-compatible low-level date algorithms" (civil_from_days).
fn date(now: SystemTime) -> String {
    let days = now.duration_since(UNIX_EPOCH).map_or(0, |since| (since.as_secs() / 86_400) as i64) + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        let day = |days: u64| date(UNIX_EPOCH + Duration::from_secs(days * 86_400 + 86_399));
        assert_eq!((day(0), day(59), day(11_016)), ("1970-01-01".into(), "1970-03-01".into(), "2000-02-29".into()));
        assert_eq!(day(20_780), "2026-11-23");
    }

    #[test]
    fn medians() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
