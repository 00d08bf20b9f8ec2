//! `understudy bench`: what this machine gives with this model, and where the time of a step goes. Talks to the engine itself, so
//! HTTP is not in the figures.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use kernels::cpu::peak;
use kernels::huge::PageSize;
use kernels::profile::{self as op_profile, Limits, Steps};
use serde::Serialize;

use super::args::{BenchArgs, BenchPart};
use super::failure::Failure;
use super::load::{WeightPages, load};
use super::memory_plan::Size;
use super::{machine, print, version};
use crate::config::{Config, DiskCache};

mod driver;
mod profile;
mod restart;

use driver::{DECODE_PROMPT_TOKENS, DECODE_TOKENS, Driver, PREFILL_TOKENS, milliseconds};
use profile::StepProfile;
use restart::RestartFigures;

/// Depths of `--depths`, as far as the context holds them.
const DEPTHS: [usize; 3] = [4096, 8192, 16_384];
/// What bandwidth is measured on: many times any cache this side of a server's.
const READ_BYTES: usize = 256 << 20;

/// Everything measured, and what it was measured on. What was not asked for is absent.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    pub model: String,
    pub model_bytes: u64,
    pub machine: String,
    pub date: String,
    pub threads: usize,
    pub device: String,
    /// Where the weights lie: `mapped`, or copied to huge pages.
    pub weights: String,
    pub build: String,
    pub runs: usize,
    /// From the command's start until the first request can be taken.
    pub start_ms: f64,
    /// 512 tokens, one sequence.
    pub prefill_tokens_per_s: Option<f64>,
    /// From the request to the first token, with a prompt of 512.
    pub first_token_ms: Option<f64>,
    /// 128 tokens of one stream after a short prompt.
    pub decode_tokens_per_s: Option<f64>,
    pub streams: Vec<StreamFigure>,
    /// The same behind contexts that stand in the cache.
    pub depths: Vec<DepthFigure>,
    /// A long prompt cold, again, and after a restart.
    pub restart: Option<RestartFigures>,
    /// Resident memory when all was measured, mapped weights included; and the most there ever was.
    pub memory_bytes: Option<u64>,
    pub memory_peak_bytes: Option<u64>,
    /// Of the cache, as far as tokens ever reached: part of the memory.
    pub cache_bytes: u64,
    pub limits: Option<LimitFigures>,
    pub profile: Vec<StepProfile>,
}

/// Tokens a second of all streams together, from when each has its first token.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct StreamFigure {
    pub streams: usize,
    pub tokens_per_s: f64,
}

/// One stream behind `depth` tokens.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct DepthFigure {
    pub depth: usize,
    pub prefill_tokens_per_s: Option<f64>,
    pub first_token_ms: Option<f64>,
    pub decode_tokens_per_s: Option<f64>,
}

/// What the machine can do at most, on all threads, in 1e9 a second.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct LimitFigures {
    pub int8_gops: f64,
    pub f32_gops: f64,
    /// On ordinary pages, as a mapped file is seen through.
    pub read_gb: f64,
    pub read_huge_gb: f64,
}

pub fn run(config: &Config, args: &BenchArgs) -> Result<(), Failure> {
    let figures = measure(config, args)?;
    if args.json {
        return print::line(serde_json::to_string_pretty(&figures).context("the figures")?);
    }
    print::line(table(&figures))
}

/// Loads the model of `config` with room for the widest test, and measures; each figure is the median of `args.runs`.
fn measure(config: &Config, args: &BenchArgs) -> Result<Figures, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("a runtime")?;
    let mut config = config.clone();
    // Figures are of one model.
    config.models.draft_model = None;
    let restart = match args.measures(BenchPart::Restart) {
        true => Some(restart::measure(&config, args.runs.get(), &runtime)?),
        false => None,
    };
    let start = Instant::now();
    // What a model says to random tokens repeats itself, and guessing ahead would flatter every figure.
    config.engine.drafts = 0;
    // What an earlier run has computed would be found on the disk.
    config.engine.disk_cache = DiskCache::Off;
    let widest = args.streams.iter().copied().max().unwrap_or(config.engine.parallel);
    config.engine.parallel = config.engine.parallel.max(widest);
    let loaded = load(&config)?;
    let start_ms = milliseconds(start.elapsed());
    let depths = depths(args, loaded.plan.context)?;
    let mut driver = Driver::new(&loaded.engine, loaded.text.tokenizer.vocab_size());
    let mut measured = Vec::new();
    for depth in depths {
        measured.push(runtime.block_on(at_depth(&mut driver, args, depth))?);
    }
    // Before the limits take memory of their own.
    let resident = machine::resident_bytes();
    let stats = loaded.engine.stats();
    let cache_bytes = (stats.blocks_used + stats.blocks_cached) as u64 * (loaded.plan.cache_bytes / loaded.plan.blocks as u64);
    let wants_limits = args.measures(BenchPart::Profile) && loaded.about.is_cpu;
    let pages = match loaded.about.weights {
        WeightPages::Copied { bytes, huge_bytes } if huge_bytes >= bytes / 2 => PageSize::Huge,
        _ => PageSize::Ordinary,
    };
    let limits = if wants_limits { Some(limits()?) } else { None };
    let recorded = measured.iter().flat_map(|depth| depth.recorded.iter().map(move |recorded| (depth.figure.depth, recorded)));
    let profile =
        limits.map_or_else(Vec::new, |limits| recorded.map(|(depth, recorded)| recorded.profile(depth, &limits.of_ops(pages))).collect());
    let at_0 = measured.iter().find(|measured| measured.figure.depth == 0);
    let streams = at_0.map_or_else(Vec::new, |measured| measured.streams.clone());
    Ok(Figures {
        model: loaded.about.line(),
        model_bytes: loaded.about.file_bytes,
        machine: machine::processor(),
        date: date(SystemTime::now()),
        threads: loaded.about.threads,
        device: loaded.about.device.clone(),
        weights: loaded.about.weights.to_string(),
        build: format!("understudy {}, {}", env!("CARGO_PKG_VERSION"), version::build()),
        runs: args.runs.get(),
        start_ms,
        prefill_tokens_per_s: at_0.and_then(|measured| measured.figure.prefill_tokens_per_s),
        first_token_ms: at_0.and_then(|measured| measured.figure.first_token_ms),
        decode_tokens_per_s: at_0.and_then(|measured| measured.figure.decode_tokens_per_s),
        streams,
        depths: measured.iter().map(|measured| measured.figure).filter(|figure| figure.depth > 0).collect(),
        restart,
        memory_bytes: resident.map(|(now, _)| now),
        memory_peak_bytes: resident.map(|(_, peak)| peak),
        cache_bytes,
        limits,
        profile,
    })
}

/// The depths to measure at, ascending. Error: one that was asked for by name leaves no room for what is measured behind it.
fn depths(args: &BenchArgs, context: usize) -> Result<Vec<usize>, Failure> {
    let room = context.saturating_sub((PREFILL_TOKENS + 1).max(DECODE_PROMPT_TOKENS + DECODE_TOKENS));
    let mut depths = args.depth.clone();
    if args.depths {
        depths.extend(DEPTHS.into_iter().filter(|depth| *depth <= room));
    }
    depths.sort_unstable();
    depths.dedup();
    match depths.last() {
        Some(deepest) if *deepest > room || context < PREFILL_TOKENS + 1 => {
            let message = format!("the context of {context} tokens is too short to measure {PREFILL_TOKENS} tokens behind {deepest}");
            Err(anyhow::anyhow!(message).into())
        }
        _ => Ok(depths),
    }
}

/// What was measured behind one context.
struct Measured {
    figure: DepthFigure,
    /// Empty behind a context: several streams are measured at depth 0.
    streams: Vec<StreamFigure>,
    recorded: Vec<Recorded>,
}

/// The steps of one kind, not yet held against any limit.
struct Recorded {
    what: String,
    rows: usize,
    steps: Steps,
}

impl Recorded {
    fn profile(&self, depth: usize, limits: &Limits) -> StepProfile {
        StepProfile::new(self.what.clone(), depth, self.rows, &self.steps, limits)
    }
}

async fn at_depth(driver: &mut Driver<'_>, args: &BenchArgs, depth: usize) -> anyhow::Result<Measured> {
    let context = driver.context(depth).await?;
    let counts: Vec<usize> = match depth {
        0 => args.streams.iter().map(|count| count.get()).collect(),
        _ => vec![1],
    };
    // Untimed: pages of the file come in, the pool's threads wake.
    driver.decode_tokens_per_s(1, &context).await?;
    let mut first_tokens_ms = Vec::new();
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); counts.len()];
    for _ in 0..args.runs.get() {
        if args.measures(BenchPart::Prefill) {
            first_tokens_ms.push(driver.first_token_ms(&context).await?);
        }
        for (rates, count) in rates.iter_mut().zip(&counts).filter(|_| args.measures(BenchPart::Decode)) {
            rates.push(driver.decode_tokens_per_s(*count, &context).await?);
        }
    }
    let mut recorded = Vec::new();
    if args.measures(BenchPart::Profile) {
        recorded.push(record_prefill(driver, &context).await?);
        for count in &counts {
            recorded.push(record_decode(driver, *count, &context).await?);
        }
    }
    let first_token_ms = median(first_tokens_ms);
    let figures = counts
        .into_iter()
        .zip(rates)
        .filter_map(|(streams, rates)| median(rates).map(|tokens_per_s| StreamFigure { streams, tokens_per_s }));
    let streams: Vec<StreamFigure> = figures.collect();
    let figure = DepthFigure {
        depth,
        prefill_tokens_per_s: first_token_ms.map(|ms| PREFILL_TOKENS as f64 / ms * 1e3),
        first_token_ms,
        decode_tokens_per_s: streams.iter().find(|figure| figure.streams == 1).map(|figure| figure.tokens_per_s),
    };
    Ok(Measured { figure, streams, recorded })
}

/// Once more with the ops' clocks running, which costs a few percent where steps are short: so not in the figures.
async fn record_prefill(driver: &mut Driver<'_>, context: &[u32]) -> anyhow::Result<Recorded> {
    op_profile::record(true);
    let outcome = driver.first_token_ms(context).await;
    outcome.and(recorded(format!("prefill, {PREFILL_TOKENS} tokens"), PREFILL_TOKENS))
}

async fn record_decode(driver: &mut Driver<'_>, count: usize, context: &[u32]) -> anyhow::Result<Recorded> {
    op_profile::record(true);
    let outcome = driver.decode_tokens_per_s(count, context).await;
    // Steps in which all decode have a row of each; those of the prompts have more.
    outcome.and(recorded(streams_name("decode", count), count))
}

/// Ends the recording; what it holds of steps of `rows` rows.
fn recorded(what: String, rows: usize) -> anyhow::Result<Recorded> {
    op_profile::record(false);
    let steps = op_profile::take().remove(&rows).with_context(|| format!("{what}: no step of {rows} rows was seen"))?;
    Ok(Recorded { what, rows, steps })
}

fn limits() -> anyhow::Result<LimitFigures> {
    let isa = kernels::cpu::isa::isa()?;
    let read = |pages| peak::read_gb_per_second_of(pages, READ_BYTES).context("memory to measure reading on");
    Ok(LimitFigures {
        int8_gops: peak::int8_gops(isa),
        f32_gops: peak::f32_gops(isa),
        read_gb: read(PageSize::Ordinary)?,
        read_huge_gb: read(PageSize::Huge)?,
    })
}

impl LimitFigures {
    /// What ops are held against whose weights lie on such pages.
    fn of_ops(&self, pages: PageSize) -> Limits {
        let read_gb = match pages {
            PageSize::Ordinary => self.read_gb,
            PageSize::Huge => self.read_huge_gb,
        };
        Limits { read_gb, int8_gops: self.int8_gops, float_gops: self.f32_gops }
    }
}

fn table(figures: &Figures) -> String {
    let mut lines = vec![
        format!("model    {}", figures.model),
        format!("machine  {}; {}; weights {}", figures.machine, figures.device, figures.weights),
        format!("build    {}; {}; median of {}", figures.build, figures.date, figures.runs),
        String::new(),
        format!("{:<36}{:>12.1} ms", "start until ready", figures.start_ms),
    ];
    let mut line = |name: &str, value: Option<f64>, unit: &str| {
        lines.extend(value.map(|value| format!("{name:<36}{value:>12.1} {unit}")));
    };
    line("prefill, 512 tokens", figures.prefill_tokens_per_s, "tokens/s");
    line("first token, prompt of 512", figures.first_token_ms, "ms");
    for figure in &figures.streams {
        line(&streams_name("decode, 128 tokens", figure.streams), Some(figure.tokens_per_s), "tokens/s");
    }
    for figure in &figures.depths {
        line(&format!("prefill, 512 tokens at depth {}", figure.depth), figure.prefill_tokens_per_s, "tokens/s");
        line(&format!("decode, 1 stream at depth {}", figure.depth), figure.decode_tokens_per_s, "tokens/s");
    }
    if let Some(RestartFigures { prompt_tokens, cold_ms, warm_ms, restarted_ms, .. }) = figures.restart {
        for (how, ms) in [("cold", cold_ms), ("in memory", warm_ms), ("after a restart", restarted_ms)] {
            line(&format!("first token, {prompt_tokens} {how}"), Some(ms), "ms");
        }
    }
    if let (Some(now), Some(peak)) = (figures.memory_bytes, figures.memory_peak_bytes) {
        lines.push(format!("{:<36}{:>12}, at most {}", "memory (resident)", Size(now).to_string(), Size(peak)));
    }
    if let Some(limits) = figures.limits {
        lines.push(format!(
            "\nlimits   int8 {:.0} Gop/s, f32 {:.0} Gop/s; reading {:.1} GB/s through ordinary pages, {:.1} through huge ones",
            limits.int8_gops, limits.f32_gops, limits.read_gb, limits.read_huge_gb
        ));
    }
    lines.extend(figures.profile.iter().map(|profile| format!("\n{}", profile.table())));
    lines.join("\n")
}

fn streams_name(what: &str, count: usize) -> String {
    match count {
        1 => format!("{what}, 1 stream"),
        count => format!("{what}, {count} streams together"),
    }
}

/// `None` of nothing.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
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
    use std::time::Duration;

    use clap::Parser;

    use super::super::args::{Args, Command};
    use super::*;

    fn args(words: &[&str]) -> BenchArgs {
        let words = ["understudy", "bench"].iter().chain(words);
        let Ok(Args { command: Some(Command::Bench(args)), .. }) = Args::try_parse_from(words) else { panic!("bench was typed") };
        args
    }

    #[test]
    fn depths_are_as_many_as_fit() {
        let at = |words: &[&str], context| depths(&args(words), context).ok();
        assert_eq!(at(&[], 1024), Some(vec![0]));
        assert_eq!(at(&["--depths"], 32_768), Some(vec![0, 4096, 8192, 16_384]));
        assert_eq!(at(&["--depths"], 8192 + 513), Some(vec![0, 4096, 8192]));
        assert_eq!(at(&["--depth", "8192,64"], 9000), Some(vec![64, 8192]));
        assert_eq!(at(&["--depth", "8192"], 8192 + 512), None, "asked for by name and not possible");
        assert_eq!(at(&[], 512), None);
    }

    #[test]
    fn dates() {
        let day = |days: u64| date(UNIX_EPOCH + Duration::from_secs(days * 86_400 + 86_399));
        assert_eq!((day(0), day(59), day(11_016)), ("1970-01-01".into(), "1970-03-01".into(), "2000-02-29".into()));
        assert_eq!(day(20_780), "2026-11-23");
    }

    #[test]
    fn medians() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(Vec::new()), None);
    }
}
