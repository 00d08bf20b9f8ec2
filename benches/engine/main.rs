//! What the engine makes of a model's speed: guessing ahead, streams that go on while a prompt comes, prefixes that are not computed
//! twice, many streams at once. Printed with the bars beside, never asserted.
//!
//!     cargo bench --bench engine -- [MODEL.gguf] [--threads N] [--rounds N] [--row-seconds N] [--stall-prompt N] [--only ROW,..]
//!     cargo bench --bench engine -- MODEL.gguf --only draft --draft SMALLER.gguf [--draft-right 0.7]
//!
//! A row takes about `--row-seconds` (150) at most: how fast the model is here is measured first, and what would take longer gets fewer rounds
//! or a shorter prompt, which the row says. What is being done, and for how long, is told on standard error.
//!
//! The model computes every row. Where a row needs a text that the model would not say (an edit of a file), a script says it in its
//! place: the logits of the right next token are raised, at the cost of the model's own forward pass.

mod scripted;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use candle_core::Device;
use futures_util::future::join_all;
use kernels::KvDtype;
use models::{Gguf, KvCache, Tokenizer};
use understudy::engine::constraint::Constraint;
use understudy::engine::draft_model::DraftModel;
use understudy::engine::draft_plan::DraftLimits;
use understudy::engine::model_runner::LoadedRunner;
use understudy::engine::{Engine, EngineConfig, GenerateRequest, Priority, SamplingParams, TokenEvent, TokenStream, TokenUsage};
use understudy::hub::builtin;

use scripted::{Script, Scripted, ScriptedDraft, Steps, Trivial};

type Error = Box<dyn std::error::Error>;

const ROWS: [&str; 12] = [
    "edit",
    "edit-free",
    "edit-masked",
    "prose",
    "prose-free",
    "prose-masked",
    "stall",
    "warm",
    "conversation",
    "streams8",
    "streams16",
    "draft",
];
const CONTEXT: usize = 24_576;
const TOKENS_PER_STEP_MAX: usize = 512;
/// Long enough for a coding agent's first words.
const AGENT_PROMPT: usize = 20_000;

/// Source and prose that anybody who has this file has too.
const SOURCE: &str = include_str!("../../src/engine/block_manager.rs");
const PROSE: [&str; 2] = [include_str!("../../docs/architecture.md"), include_str!("../../README.md")];

fn main() -> Result<(), Error> {
    let options = Options::of(std::env::args().skip(1))?;
    kernels::cpu::pool::set_threads(options.threads.try_into()?);
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let mut bench = Bench::new(&options)?;
    println!("{}, {} threads, medians of {} rounds at most", bench.name, options.threads, options.rounds);
    bench.pace = runtime.block_on(bench.measure_pace())?;
    println!("about {:.0} tokens/s of a prompt, {:.1} of an answer", bench.pace.prefill, bench.pace.decode);
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
            "streams16" => runtime.block_on(bench.streams(16, ">= 6"))?,
            _ => runtime.block_on(bench.draft())?,
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
    /// What a row may take, about.
    row_seconds: f64,
    /// Tokens of the prompt that comes beside a stream; `None`: as many as there is time for.
    stall_prompt: Option<usize>,
    /// A smaller model of the same vocabulary, and how often it is made to be right.
    draft: Option<PathBuf>,
    draft_right: f64,
    only: Vec<String>,
}

impl Options {
    fn of(mut arguments: impl Iterator<Item = String>) -> Result<Self, Error> {
        let mut options = Self {
            model: None,
            threads: 2,
            rounds: 3,
            row_seconds: 150.0,
            stall_prompt: None,
            draft: None,
            draft_right: 0.7,
            only: Vec::new(),
        };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{argument} wants a value"));
            match argument.as_str() {
                "--bench" => {}
                "--threads" => options.threads = value()?.parse()?,
                "--rounds" => options.rounds = value()?.parse()?,
                "--row-seconds" => options.row_seconds = value()?.parse()?,
                "--stall-prompt" => options.stall_prompt = Some(value()?.parse()?),
                "--draft" => options.draft = Some(value()?.into()),
                "--draft-right" => options.draft_right = value()?.parse()?,
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

struct Bench {
    name: String,
    gguf: Gguf,
    tokenizer: Tokenizer,
    rounds: usize,
    row_seconds: f64,
    stall_prompt: Option<usize>,
    draft: Option<PathBuf>,
    draft_right: f64,
    pace: Pace,
    progress: Progress,
}

/// How fast the model is on this machine, about: tokens a second.
#[derive(Debug, Clone, Copy, Default)]
struct Pace {
    prefill: f64,
    decode: f64,
}

/// Tells on standard error what is being done, and every ten seconds that it still is.
struct Progress(Arc<Mutex<(String, Instant)>>);

impl Progress {
    fn start() -> Self {
        let now = Arc::new(Mutex::new((String::from("loading the model"), Instant::now())));
        let shown = Arc::downgrade(&now);
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_secs(10));
                let Some(now) = shown.upgrade() else { return };
                let Ok(now) = now.lock() else { return };
                if now.1.elapsed() >= Duration::from_secs(10) {
                    eprintln!("  {}: for {:.0} s", now.0, now.1.elapsed().as_secs_f64());
                }
            }
        });
        Self(now)
    }

    fn now(&self, what: String) {
        eprintln!("  {what}");
        if let Ok(mut now) = self.0.lock() {
            *now = (what, Instant::now());
        }
    }
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
        let &Options { rounds, row_seconds, stall_prompt, draft_right, .. } = options;
        let draft = options.draft.clone();
        let (name, pace, progress) = (gguf.name().to_owned(), Pace::default(), Progress::start());
        Ok(Self { name, gguf, tokenizer, rounds, row_seconds, stall_prompt, draft, draft_right, pace, progress })
    }

    async fn measure_pace(&self) -> Result<Pace, Error> {
        self.progress.now("how fast it is: 256 tokens of a prompt, 16 of an answer".to_owned());
        let (engine, ..) = self.engine(1, 0)?;
        let timed = timed(&engine, request(self.noise(256, 3), 17)).await?;
        Ok(Pace { prefill: 256.0 / timed.first_token().as_secs_f64(), decode: timed.tokens_per_s() })
    }

    /// Seconds that so much takes, of one sequence at no great depth.
    fn seconds(&self, prompt: usize, answer: usize) -> f64 {
        prompt as f64 / self.pace.prefill + answer as f64 / self.pace.decode
    }

    /// How many rounds of so many seconds there is time for: at least one.
    fn rounds_of(&self, round_seconds: f64) -> usize {
        ((self.row_seconds / round_seconds) as usize).clamp(1, self.rounds)
    }

    /// As many tokens of a prompt as there is time for, `share` of the row's being its own: `wanted` at most, and enough to mean something.
    fn prompt_of(&self, wanted: usize, share: f64) -> usize {
        ((self.row_seconds * share * self.pace.prefill) as usize / 512 * 512).clamp(1024.min(wanted), wanted)
    }

    fn engine(&self, sequences_max: usize, drafts_max: usize) -> Result<(Engine, Script, Steps), Error> {
        self.engine_with(sequences_max, drafts_max, None)
    }

    fn engine_with(&self, sequences_max: usize, drafts_max: usize, draft: Option<&Gguf>) -> Result<(Engine, Script, Steps), Error> {
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
        let draft = draft.map(|gguf| -> Result<DraftModel, Error> {
            let model = models::load(gguf, &Device::Cpu)?;
            let kv = KvCache::new(model.config(), blocks, KvDtype::F16, &Device::Cpu)?;
            let limits = DraftLimits { blocks, context_max: CONTEXT, tokens_per_step_max: TOKENS_PER_STEP_MAX };
            let model = LoadedRunner::new(model, kv);
            Ok(DraftModel::new(Box::new(ScriptedDraft { model, script: script.clone(), right: self.draft_right }), limits))
        });
        Ok((Engine::start_with(Box::new(runner), config, None, draft.transpose()?), script, steps))
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
        let rounds = self.rounds_of(self.seconds(0, 2 * answer.len()));
        for round in 1..=rounds {
            self.progress.now(format!("{what}: round {round} of {rounds}, {} tokens with guesses and without", answer.len()));
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
            "{what}{}, {rounds} rounds: {fast:.1} tokens/s with guesses, {plain:.1} without: {:.2} times (bar {bar}); {right} of {drafted} guesses right",
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
        // Beside a stream it comes at half its speed, about, and then once more alone.
        let stall_prompt = self.stall_prompt.unwrap_or_else(|| self.prompt_of(16_000, 1.0 / 3.5));
        let rounds = self.rounds_of(self.seconds(7 * stall_prompt / 2, 128));
        for round in 0..rounds as u64 {
            self.progress.now(format!("stall: round {} of {rounds}, {stall_prompt} tokens beside a stream, and alone", round + 1));
            let prompt = |salt: u64| self.noise(stall_prompt, 100 * salt + round);
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
            prefills.push(stall_prompt as f64 / asked.elapsed().as_secs_f64());
            let gaps = |from: usize| times[from..].windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64());
            let normal = median(gaps(0).take(127));
            let mut beside: Vec<f64> = gaps(127).collect();
            beside.sort_by(f64::total_cmp);
            let longest = beside[beside.len() - 1];
            drop(stream);
            let computed = steps.lock().map_err(|_| "poisoned")?[computed_before..].to_vec();
            print_longest_steps(computed, normal);
            alone.push(stall_prompt as f64 / timed(&engine, request(prompt(2), 1)).await?.first_token().as_secs_f64());
            ratios.push(longest / normal);
            nines.push(beside[beside.len() * 99 / 100] / normal);
            normals.push(normal * 1e3);
            longests.push(longest * 1e3);
        }
        println!(
            "stall, {rounds} rounds: a step is {:.2} ms, the longest while {} tokens come {:.2} ms: {:.2} times (bar <= 3), 99 of 100 within {:.2} times; the \
             prompt comes at {:.0} tokens/s, alone at {:.0}",
            median(normals),
            stall_prompt,
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
        let agent_prompt = self.prompt_of(AGENT_PROMPT, 0.5);
        self.progress.now(format!("warm: a prompt of {agent_prompt} tokens, cold"));
        let prompt = self.noise(agent_prompt, 7);
        let cold = timed(&engine, request(prompt.clone(), 2)).await?;
        let (mut firsts, mut steps) = (Vec::new(), Vec::new());
        let rounds = self.rounds_of(2.0 * self.seconds(16, 64));
        for round in 0..rounds as u64 {
            self.progress.now(format!("warm: round {} of {rounds}, the prompt again", round + 1));
            let again = [&prompt[..], &self.noise(16, 1000 + round)].concat();
            let warm = timed(&engine, request(again, 64)).await?;
            let missing = (agent_prompt / 32 * 32).saturating_sub(warm.usage.cached_tokens);
            if missing > 0 {
                return Err(format!("{missing} tokens of the prefix were computed again").into());
            }
            firsts.push(warm.first_token().as_secs_f64() * 1e3);
            steps.push(1e3 / warm.tokens_per_s());
        }
        let (first, step) = (median(firsts), median(steps));
        println!(
            "warm, {rounds} rounds: first token of {agent_prompt} known and 16 new tokens after {first:.1} ms, a step there is {step:.1} ms: {:.1} steps (bar 2 \
             and the new tokens); cold {:.0} ms",
            first / step,
            cold.first_token().as_secs_f64() * 1e3
        );
        Ok(())
    }

    /// A conversation of ten turns that reaches an agent's length, a background request after each.
    async fn conversation(&self) -> Result<(), Error> {
        let (engine, ..) = self.engine(2, 16)?;
        let first = self.prompt_of(AGENT_PROMPT - 2000, 0.5);
        let mut history = self.noise(first, 11);
        let (mut new, mut computed) = (0, 0);
        for turn in 0..10 {
            self.progress.now(format!("conversation: turn {} of 10, {} tokens", turn + 1, history.len()));
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
            "conversation, begun with {first} tokens: {computed} prompt tokens computed in 9 turns of {new} new ones, a background request after each (bar: the new ones, to the block of 32)"
        );
        Ok(())
    }

    /// A text that repeats nothing, with a draft model and without.
    async fn draft(&self) -> Result<(), Error> {
        let Some(path) = &self.draft else {
            println!("draft: not measured, since no --draft names a smaller model of the same vocabulary");
            return Ok(());
        };
        let draft = Gguf::open(path)?;
        if let Some(difference) = self.tokenizer.difference(&Tokenizer::from_gguf(&draft)?) {
            return Err(format!("{} is no draft model for {}: {difference}", draft.name(), self.name).into());
        }
        let (prompt, answer) = (self.tokens(PROSE[0], 500)?, self.tokens(PROSE[1], 300)?);
        let (with, with_script, _) = self.engine_with(1, 16, Some(&draft))?;
        let (without, without_script, _) = self.engine(1, 16)?;
        for script in [with_script, without_script] {
            script.lock().map_err(|_| "poisoned")?.clone_from(&[&prompt[..], &answer].concat());
        }
        let rounds = self.rounds_of(self.seconds(0, 2 * answer.len()));
        let mut rates = Vec::new();
        for round in 1..=rounds {
            self.progress.now(format!("draft: round {round} of {rounds}, {} tokens with a draft model and without", answer.len()));
            let request = || request(prompt.clone(), answer.len());
            rates.push((timed(&with, request()).await?.tokens_per_s(), timed(&without, request()).await?.tokens_per_s()));
        }
        let stats = with.stats().draft_model;
        println!(
            "draft, {rounds} rounds: {:.1} tokens/s with {}, made right {:.2} of the time, {:.1} without: {:.2} times; {} of {} guesses right, {} rows computed",
            median(rates.iter().map(|rate| rate.0)),
            draft.name(),
            self.draft_right,
            median(rates.iter().map(|rate| rate.1)),
            median(rates.iter().map(|rate| rate.0 / rate.1)),
            stats.right_total,
            stats.guessed_total,
            stats.rows_total
        );
        Ok(())
    }

    async fn streams(&self, count: usize, bar: &str) -> Result<(), Error> {
        let (engine, ..) = self.engine(count, 0)?;
        let mut ratios = Vec::new();
        let (mut ones, mut manys) = (Vec::new(), Vec::new());
        // Together they are some times as fast as one.
        let rounds = self.rounds_of(self.seconds(32 * (count + 1), 128 + 128 * count / 3));
        for round in 0..rounds as u64 {
            self.progress.now(format!("streams: round {} of {rounds}, 128 tokens of one and of {count} together", round + 1));
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
            "streams, {rounds} rounds: {count} together {:.1} tokens/s, one {:.1}: {:.2} times (bar {bar})",
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
