//! Requests to the engine whose answers are timed: prompts that no cache knows, prompts behind a cached context, streams side by side.

use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::engine::{Engine, GenerateRequest, SamplingParams, TokenEvent, TokenUsage};

/// Rows of the prompt that is timed.
pub const PREFILL_TOKENS: usize = 512;
pub const DECODE_TOKENS: usize = 128;
/// Prompt of the streams that decode: short, so that decoding is what is measured.
pub const DECODE_PROMPT_TOKENS: usize = 32;

/// What a stream ended with.
struct Answer {
    times: Vec<Instant>,
    usage: TokenUsage,
}

pub struct Driver<'a> {
    engine: &'a Engine,
    vocab: u64,
    state: u64,
}

impl<'a> Driver<'a> {
    /// `vocab`: tokens that the model can be asked about.
    pub fn new(engine: &'a Engine, vocab: usize) -> Self {
        Self { engine, vocab: vocab as u64, state: 1 }
    }

    /// Computes a context of `tokens` tokens that later requests begin with; they find it in the cache.
    pub async fn context(&mut self, tokens: usize) -> anyhow::Result<Vec<u32>> {
        let context = self.tokens(tokens);
        if tokens > 0 {
            self.answer(context.clone(), 1).await?;
        }
        Ok(context)
    }

    /// Milliseconds from the request to the first token of a prompt whose last [`PREFILL_TOKENS`] tokens no cache knows; all before
    /// them is `context`.
    pub async fn first_token_ms(&mut self, context: &[u32]) -> anyhow::Result<f64> {
        let mut prompt = context.to_vec();
        prompt.extend(self.tokens(PREFILL_TOKENS));
        let start = Instant::now();
        let answer = self.answer(prompt, 1).await?;
        expect_cached(&answer, context)?;
        let first = answer.times.first().context("no token came")?;
        Ok(milliseconds(first.duration_since(start)))
    }

    /// Milliseconds from the request to the first token of this very prompt, of which the cache must know `cached_tokens`.
    pub async fn first_token_of(&mut self, prompt: &[u32], cached_tokens: usize) -> anyhow::Result<f64> {
        let start = Instant::now();
        let answer = self.answer(prompt.to_vec(), 1).await?;
        expect_cached(&answer, &prompt[..cached_tokens])?;
        let first = answer.times.first().context("no token came")?;
        Ok(milliseconds(first.duration_since(start)))
    }

    /// Tokens a second of so many streams together behind one `context`, counted from when every one has begun until the first has
    /// ended: so that all of them decode all the time that counts.
    pub async fn decode_tokens_per_s(&mut self, count: usize, context: &[u32]) -> anyhow::Result<f64> {
        let mut streams = Vec::new();
        for _ in 0..count {
            let mut prompt = context.to_vec();
            prompt.extend(self.tokens(DECODE_PROMPT_TOKENS));
            let request = self.request(prompt, DECODE_TOKENS);
            streams.push(self.engine.generate(request).context("the engine")?);
        }
        let answers = futures_util::future::join_all(streams.into_iter().map(read)).await;
        let answers = answers.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        answers.iter().try_for_each(|answer| expect_cached(answer, context))?;
        let times = || answers.iter().map(|answer| &answer.times);
        let begun = times().filter_map(|times| times.first()).max();
        let ended = times().filter_map(|times| times.last()).min();
        let (Some(begun), Some(ended)) = (begun, ended) else { anyhow::bail!("no token came") };
        let counted = times().flatten().filter(|time| *time > begun && *time <= ended).count();
        if counted == 0 || times().any(|times| times.len() != DECODE_TOKENS) {
            anyhow::bail!("a stream ended early");
        }
        Ok(counted as f64 / ended.duration_since(*begun).as_secs_f64())
    }

    async fn answer(&mut self, prompt: Vec<u32>, tokens_max: usize) -> anyhow::Result<Answer> {
        let stream = self.engine.generate(self.request(prompt, tokens_max)).context("the engine")?;
        read(stream).await
    }

    fn request(&self, prompt: Vec<u32>, tokens_max: usize) -> GenerateRequest {
        // No token ends the answer.
        let sampling = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
        GenerateRequest { prompt, tokens_max: Some(tokens_max), sampling, ..GenerateRequest::default() }
    }

    /// Tokens that no earlier prompt went on with: a fixed sequence (Knuth's linear congruential generator).
    pub fn tokens(&mut self, count: usize) -> Vec<u32> {
        let next = |_| {
            self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((self.state >> 33) % self.vocab) as u32
        };
        (0..count).map(next).collect()
    }
}

async fn read(mut stream: crate::engine::TokenStream) -> anyhow::Result<Answer> {
    let mut times = Vec::new();
    while let Some(event) = stream.next().await {
        match event {
            TokenEvent::Token(_) => times.push(Instant::now()),
            TokenEvent::Finished { reason, usage } => {
                anyhow::ensure!(!times.is_empty(), "no token came: {reason:?}");
                return Ok(Answer { times, usage });
            }
        }
    }
    anyhow::bail!("a stream ended without a word")
}

/// Otherwise something else was measured: a cache too small for the context, say.
fn expect_cached(answer: &Answer, context: &[u32]) -> anyhow::Result<()> {
    let (found, wanted) = (answer.usage.cached_tokens, context.len());
    anyhow::ensure!(found == wanted, "{found} of {wanted} tokens of the context were in the cache; raise --memory or lower --depth");
    Ok(())
}

pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
