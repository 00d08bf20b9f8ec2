//! What the engine makes of a model's speed: guessing ahead, streams that go on while a prompt comes, prefixes that are not computed
//! twice, many streams at once. Printed with the bars beside, never asserted.
//!
//!     cargo bench --bench engine -- [MODEL.gguf] [--threads N] [--rounds N] [--stall-prompt N] [--only ROW,..]
//!
//! The model computes every row. Where a row needs a text that the model would not say (an edit of a file), a script says it in its
//! place: the logits of the right next token are raised, at the cost of the model's own forward pass.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use candle_core::Device;
use futures_util::future::join_all;
use kernels::{KvDtype, Step};
use models::{Gguf, KvCache, Logits, Tokenizer};
use understudy::engine::constraint::{Constraint, Ending, Matcher};
use understudy::engine::model_runner::LoadedRunner;
use understudy::engine::prefix_cache::BlockId;
use understudy::engine::token_mask::TokenMask;
use understudy::engine::{
    Engine, EngineConfig, GenerateRequest, ModelRunner, Priority, SamplingParams, TokenEvent, TokenStream, TokenUsage,
};
use understudy::hub::builtin;

type Error = Box<dyn std::error::Error>;

const ROWS: [&str; 11] =
    ["edit", "edit-free", "edit-masked", "prose", "prose-free", "prose-masked", "stall", "warm", "conversation", "streams8", "streams16"];
const CONTEXT: usize = 24_576;
const TOKENS_PER_STEP_MAX: usize = 512;
/// Long enough for a coding agent's first words.
const AGENT_PROMPT: usize = 20_000;

/// Source and prose that anybody who has this file has too.
const SOURCE: &str = include_str!("../src/engine/block_manager.rs");
const PROSE: [&str; 2] = [include_str!("../docs/architecture.md"), include_str!("../README.md")];

fn main() -> Result<(), Error> {
    let options = Options::of(std::env::args().skip(1))?;
    kernels::cpu::pool::set_threads(options.threads.try_into()?);
    let bench = Bench::new(&options)?;
    println!("{}, {} threads, medians of {} rounds", bench.name, options.threads, options.rounds);
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    for row in ROWS.into_iter().filter(|row| options.only.is_empty() || options.only.iter().any(|only| only == row)) {
        match row {
            "edit" => runtime.block_on(bench.edit(None))?,
            "edit-free" => runtime.block_on(bench.edit(Some(Trivial::Says)))?,
            "edit-masked" => runtime.block_on(bench.edit(Some(Trivial::Fills)))?,
            "prose" => runtime.block_on(bench.prose(None))?,
            "prose-free" => runtime.block_on(bench.prose(Some(Trivial::Says)))?,
            "prose-masked" => runtime.block_on(bench.prose(Some(Trivial::Fills)))?,
            "stall" => runtime.block_on(bench.stall())?,
            "warm" => runtime.block_on(bench.warm())?,
            "conversation" => runtime.block_on(bench.conversation())?,
            "streams8" => runtime.block_on(bench.streams(8, ">= 4"))?,
            _ => runtime.block_on(bench.streams(16, ">= 6"))?,
        }
    }
    Ok(())
}

/// One function renamed in its definition and its uses, and a line more.
fn edited(source: &str) -> String {
    source.replace("fn cover", "fn provide_for").replace(".cover(", ".provide_for(").replacen(
        "    tick: u64,\n",
        "    tick: u64,\n    released: u64,\n",
        1,
    )
}

struct Options {
    model: Option<PathBuf>,
    threads: usize,
    rounds: usize,
    /// Tokens of the prompt that comes beside a stream.
    stall_prompt: usize,
    only: Vec<String>,
}

impl Options {
    fn of(mut arguments: impl Iterator<Item = String>) -> Result<Self, Error> {
        let mut options = Self { model: None, threads: 2, rounds: 3, stall_prompt: 16_000, only: Vec::new() };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{argument} wants a value"));
            match argument.as_str() {
                "--bench" => {}
                "--threads" => options.threads = value()?.parse()?,
                "--rounds" => options.rounds = value()?.parse()?,
                "--stall-prompt" => options.stall_prompt = value()?.parse()?,
                "--only" => options.only = value()?.split(',').map(str::to_owned).collect(),
                path if !path.starts_with('-') => options.model = Some(path.into()),
                unknown => return Err(format!("{unknown} is no option; rows are {}", ROWS.join(", ")).into()),
            }
        }
        match options.only.iter().find(|only| !ROWS.contains(&only.as_str())) {
            Some(unknown) => Err(format!("{unknown} is no row; rows are {}", ROWS.join(", ")).into()),
            None => Ok(options),
        }
    }
}

/// A constraint that allows everything, and says so or fills a mask with it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Trivial {
    Says,
    Fills,
}

impl Constraint for Trivial {
    fn matcher(&self) -> Result<Box<dyn Matcher>, String> {
        Ok(Box::new(*self))
    }
}

impl Matcher for Trivial {
    fn allow(&mut self, _output: &[u32], allowed: &mut TokenMask) -> Result<Ending, String> {
        match self {
            Self::Says => Ok(Ending::Anything),
            Self::Fills => {
                allowed.words_mut().fill(u64::MAX);
                Ok(Ending::Possible)
            }
        }
    }
}

/// The text that a sequence is to become, prompt and answer; empty: what the model says.
type Script = Arc<Mutex<Vec<u32>>>;

/// Rows and seconds of each step that was computed.
type Steps = Arc<Mutex<Vec<(usize, f64)>>>;

/// The model, whose choice a script may overrule.
struct Scripted {
    model: LoadedRunner,
    script: Script,
    steps: Steps,
}

impl ModelRunner for Scripted {
    fn vocab(&self) -> usize {
        self.model.vocab()
    }

    fn run(&mut self, token_ids: &[u32], step: &Step) -> Result<Logits, String> {
        let start = Instant::now();
        let mut logits = self.model.run(token_ids, step)?;
        self.steps.lock().map_err(|_| "the bench has panicked")?.push((token_ids.len(), start.elapsed().as_secs_f64()));
        let script = self.script.lock().map_err(|_| "the bench has panicked")?;
        for (index, row) in step.logit_rows.iter().enumerate() {
            let next = step.positions[*row as usize] as usize + 1;
            if let Some(&token) = script.get(next) {
                let vocab = logits.vocab;
                logits.values[index * vocab + token as usize] = 1e4;
            }
        }
        Ok(logits)
    }

    fn block_bytes(&self) -> Option<usize> {
        self.model.block_bytes()
    }
    fn read_block(&self, block: BlockId, out: &mut Vec<u8>) -> Result<(), String> {
        self.model.read_block(block, out)
    }
    fn write_block(&mut self, block: BlockId, bytes: &[u8]) -> Result<(), String> {
        self.model.write_block(block, bytes)
    }
}

struct Bench {
    name: String,
    gguf: Gguf,
    tokenizer: Tokenizer,
    rounds: usize,
    stall_prompt: usize,
}

/// How one answer came.
struct Timed {
    start: Instant,
    times: Vec<Instant>,
    usage: TokenUsage,
}

impl Timed {
    fn first_token(&self) -> Duration {
        self.times[0] - self.start
    }
    fn tokens_per_s(&self) -> f64 {
        let (first, last) = (self.times[0], self.times[self.times.len() - 1]);
        (self.times.len() - 1) as f64 / (last - first).as_secs_f64()
    }
}

impl Bench {
    fn new(options: &Options) -> Result<Self, Error> {
        let gguf = match &options.model {
            Some(path) => Gguf::open(path)?,
            None => Gguf::from_bytes(builtin::bytes(), "the built-in model")?,
        };
        let tokenizer = Tokenizer::from_gguf(&gguf)?;
        Ok(Self { name: gguf.name().to_owned(), gguf, tokenizer, rounds: options.rounds, stall_prompt: options.stall_prompt })
    }

    fn engine(&self, sequences_max: usize, drafts_max: usize) -> Result<(Engine, Script, Steps), Error> {
        let model = models::load(&self.gguf, &Device::Cpu)?;
        let blocks = (CONTEXT + 16_384) / kernels::BLOCK_TOKENS;
        let kv = KvCache::new(model.config(), blocks, KvDtype::F16, &Device::Cpu)?;
        let (script, steps) = (Script::default(), Steps::default());
        let runner = Scripted { model: LoadedRunner::new(model, kv), script: script.clone(), steps: steps.clone() };
        let config = EngineConfig {
            blocks,
            sequences_max,
            tokens_per_step_max: TOKENS_PER_STEP_MAX,
            queue_max: 64,
            context_max: CONTEXT,
            drafts_max,
            first_token_max: None,
        };
        Ok((Engine::start(Box::new(runner), config), script, steps))
    }

    fn tokens(&self, text: &str, most: usize) -> Result<Vec<u32>, Error> {
        let mut tokens = self.tokenizer.encode(text, false)?;
        tokens.truncate(most);
        Ok(tokens)
    }

    /// `count` tokens that are not like any others, nor like themselves.
    fn noise(&self, count: usize, salt: u64) -> Vec<u32> {
        let vocab = self.tokenizer.vocab_size() as u64;
        let mut state = salt;
        let next = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % vocab) as u32
        };
        (0..count).map(next).collect()
    }

    async fn edit(&self, constraint: Option<Trivial>) -> Result<(), Error> {
        self.drafts("edit: a file again with one change", [SOURCE, &edited(SOURCE)], constraint, ">= 2").await
    }

    async fn prose(&self, constraint: Option<Trivial>) -> Result<(), Error> {
        self.drafts("prose: another text than the prompt", PROSE, constraint, ">= 0.98").await
    }

    /// The same answer with and without guesses, in turn.
    async fn drafts(&self, what: &str, [prompt, answer]: [&str; 2], constraint: Option<Trivial>, bar: &str) -> Result<(), Error> {
        let (prompt, answer) = (self.tokens(prompt, 1500)?, self.tokens(answer, 1500)?);
        let (with, with_script, _) = self.engine(1, 16)?;
        let (without, without_script, _) = self.engine(1, 0)?;
        let text = [&prompt[..], &answer].concat();
        for script in [with_script, without_script] {
            script.lock().map_err(|_| "poisoned")?.clone_from(&text);
        }
        let (mut ratios, mut rates) = (Vec::new(), Vec::new());
        for _ in 0..self.rounds {
            let request = || {
                let constraint = constraint.map(|constraint| Arc::new(constraint) as Arc<dyn Constraint>);
                GenerateRequest { constraint, ..request(prompt.clone(), answer.len()) }
            };
            let fast = timed(&with, request()).await?;
            let plain = timed(&without, request()).await?;
            ratios.push(fast.tokens_per_s() / plain.tokens_per_s());
            rates.push((fast.tokens_per_s(), plain.tokens_per_s()));
        }
        let stats = with.stats();
        let (drafted, right) = (stats.drafted_tokens_total, stats.accepted_tokens_total);
        let (fast, plain) = (median(rates.iter().map(|rate| rate.0)), median(rates.iter().map(|rate| rate.1)));
        println!(
            "{what}{}: {fast:.1} tokens/s with guesses, {plain:.1} without: {:.2} times (bar {bar}); {right} of {drafted} guesses right",
            match constraint {
                None => "",
                Some(Trivial::Says) => ", under a constraint that allows all",
                Some(Trivial::Fills) => ", under a constraint that fills masks",
            },
            median(ratios)
        );
        Ok(())
    }

    /// One stream goes on while a long prompt comes.
    async fn stall(&self) -> Result<(), Error> {
        let (engine, _, steps) = self.engine(2, 0)?;
        let (mut ratios, mut normals, mut longests, mut prefills, mut alone) = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut nines = Vec::new();
        for round in 0..self.rounds as u64 {
            let prompt = |salt: u64| self.noise(self.stall_prompt, 100 * salt + round);
            let mut stream = engine.generate(request(self.noise(64, round + 1), 16_000))?;
            let mut times = Vec::new();
            while times.len() < 128 {
                stream.next().await;
                times.push(Instant::now());
            }
            let computed_before = steps.lock().map_err(|_| "poisoned")?.len();
            let asked = Instant::now();
            let mut other = engine.generate(request(prompt(1), 1))?;
            loop {
                tokio::select! {
                    event = stream.next() => match event {
                        Some(TokenEvent::Token(_)) => times.push(Instant::now()),
                        end => return Err(format!("the stream ended early: {end:?}").into()),
                    },
                    _ = other.next() => break,
                }
            }
            prefills.push(self.stall_prompt as f64 / asked.elapsed().as_secs_f64());
            let gaps = |from: usize| times[from..].windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64());
            let normal = median(gaps(0).take(127));
            let mut beside: Vec<f64> = gaps(127).collect();
            beside.sort_by(f64::total_cmp);
            let longest = beside[beside.len() - 1];
            drop(stream);
            let computed = steps.lock().map_err(|_| "poisoned")?[computed_before..].to_vec();
            print_longest_steps(computed, normal);
            alone.push(self.stall_prompt as f64 / timed(&engine, request(prompt(2), 1)).await?.first_token().as_secs_f64());
            ratios.push(longest / normal);
            nines.push(beside[beside.len() * 99 / 100] / normal);
            normals.push(normal * 1e3);
            longests.push(longest * 1e3);
        }
        println!(
            "stall: a step is {:.2} ms, the longest while {} tokens come {:.2} ms: {:.2} times (bar <= 3), 99 of 100 within {:.2} times; the \
             prompt comes at {:.0} tokens/s, alone at {:.0}",
            median(normals),
            self.stall_prompt,
            median(longests),
            median(ratios),
            median(nines),
            median(prefills),
            median(alone)
        );
        Ok(())
    }

    /// An agent's prompt again, with some new words.
    async fn warm(&self) -> Result<(), Error> {
        let (engine, ..) = self.engine(2, 0)?;
        let prompt = self.noise(AGENT_PROMPT, 7);
        let cold = timed(&engine, request(prompt.clone(), 2)).await?;
        let (mut firsts, mut steps) = (Vec::new(), Vec::new());
        for round in 0..self.rounds as u64 {
            let again = [&prompt[..], &self.noise(16, 1000 + round)].concat();
            let warm = timed(&engine, request(again, 64)).await?;
            let missing = (AGENT_PROMPT / 32 * 32).saturating_sub(warm.usage.cached_tokens);
            if missing > 0 {
                return Err(format!("{missing} tokens of the prefix were computed again").into());
            }
            firsts.push(warm.first_token().as_secs_f64() * 1e3);
            steps.push(1e3 / warm.tokens_per_s());
        }
        let (first, step) = (median(firsts), median(steps));
        println!(
            "warm: first token of {AGENT_PROMPT} known and 16 new tokens after {first:.1} ms, a step there is {step:.1} ms: {:.1} steps (bar 2 \
             and the new tokens); cold {:.0} ms",
            first / step,
            cold.first_token().as_secs_f64() * 1e3
        );
        Ok(())
    }

    /// A conversation of ten turns that reaches an agent's length, a background request after each.
    async fn conversation(&self) -> Result<(), Error> {
        let (engine, ..) = self.engine(2, 16)?;
        let mut history = self.noise(AGENT_PROMPT - 2000, 11);
        let (mut new, mut computed) = (0, 0);
        for turn in 0..10 {
            let answer = timed_with_tokens(&engine, request(history.clone(), 50)).await?;
            if turn > 0 {
                new += 200;
                computed += answer.1.usage.prompt_tokens - answer.1.usage.cached_tokens;
            }
            history.extend(&answer.0);
            history.extend(self.noise(150, 500 + turn));
            let title = GenerateRequest { priority: Priority::Background, ..request(self.noise(400, 900 + turn), 20) };
            timed(&engine, title).await?;
        }
        println!(
            "conversation: {computed} prompt tokens computed in 9 turns of {new} new ones, a background request after each (bar: the new ones, to the block of 32)"
        );
        Ok(())
    }

    async fn streams(&self, count: usize, bar: &str) -> Result<(), Error> {
        let (engine, ..) = self.engine(count, 0)?;
        let mut ratios = Vec::new();
        let (mut ones, mut manys) = (Vec::new(), Vec::new());
        for round in 0..self.rounds as u64 {
            let prompt = |index: usize| self.noise(32, 10_000 * (round + 1) + index as u64);
            let one = timed(&engine, request(prompt(999), 128)).await?.tokens_per_s();
            let answers = join_all((0..count).map(|index| timed(&engine, request(prompt(index), 128)))).await;
            let answers = answers.into_iter().collect::<Result<Vec<_>, _>>()?;
            // From when all have begun until the first has ended.
            let begun = answers.iter().map(|answer| answer.times[0]).max().ok_or("no stream")?;
            let ended = answers.iter().map(|answer| answer.times[answer.times.len() - 1]).min().ok_or("no stream")?;
            let tokens = answers.iter().flat_map(|answer| &answer.times).filter(|time| **time > begun && **time <= ended).count();
            let many = tokens as f64 / (ended - begun).as_secs_f64();
            ratios.push(many / one);
            ones.push(one);
            manys.push(many);
        }
        println!(
            "streams: {count} together {:.1} tokens/s, one {:.1}: {:.2} times (bar {bar})",
            median(manys),
            median(ones),
            median(ratios)
        );
        Ok(())
    }
}

/// Where the time of the longest ones went: the model's rows, or elsewhere.
fn print_longest_steps(steps: Vec<(usize, f64)>, normal: f64) {
    let median_rows = median(steps.iter().map(|step| step.0 as f64));
    let mut longest: Vec<(usize, (usize, f64))> = steps.into_iter().enumerate().collect();
    longest.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
    let told: Vec<String> = longest
        .iter()
        .take(6)
        .map(|(index, (rows, seconds))| format!("step {index}: {rows} rows, {:.0} ms, {:.2} times", seconds * 1e3, seconds / normal))
        .collect();
    println!("  {} steps of {median_rows} rows; the longest in the model: {}", longest.len(), told.join("; "));
}

fn request(prompt: Vec<u32>, tokens_max: usize) -> GenerateRequest {
    let sampling = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
    GenerateRequest { prompt, tokens_max: Some(tokens_max), sampling, ..GenerateRequest::default() }
}

async fn timed(engine: &Engine, request: GenerateRequest) -> Result<Timed, Error> {
    Ok(timed_with_tokens(engine, request).await?.1)
}

async fn timed_with_tokens(engine: &Engine, request: GenerateRequest) -> Result<(Vec<u32>, Timed), Error> {
    let start = Instant::now();
    let mut stream: TokenStream = engine.generate(request)?;
    let (mut tokens, mut times) = (Vec::new(), Vec::new());
    while let Some(event) = stream.next().await {
        match event {
            TokenEvent::Token(token) => {
                tokens.push(token.id);
                times.push(Instant::now());
            }
            TokenEvent::Finished { usage, .. } if !times.is_empty() => return Ok((tokens, Timed { start, times, usage })),
            TokenEvent::Finished { reason, .. } => return Err(format!("no token came: {reason:?}").into()),
        }
    }
    Err("a stream ended without a word".into())
}

/// Of at least one.
fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
