//! What a restart costs an agent: the first token of a long prompt that nobody knows, that memory knows, and that only the disk knows.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::driver::Driver;
use super::median;
use crate::cli::load::{Loaded, load};
use crate::config::{Config, DiskCache, DiskCacheFolder};

/// An agent's prompt and tools, before the first word of the user.
const PROMPT_TOKENS: usize = 20_000;
/// More than any prompt takes.
const DISK_BYTES_MAX: u64 = 1 << 40;

/// For a model that is read for the first time, and for a slow disk: neither is part of a figure.
const PATIENCE: Duration = Duration::from_secs(600);

/// Milliseconds from the request to its first token.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct RestartFigures {
    pub prompt_tokens: usize,
    pub cold_ms: f64,
    pub warm_ms: f64,
    /// With a new engine, from files that the system still had in its memory: no disk is slower here than it is.
    pub restarted_ms: f64,
    /// Of the prompt's blocks on the disk.
    pub disk_bytes: u64,
}

/// The median of `runs` prompts, each computed, asked again, and asked of a second engine. Keeps its files in a folder of its own, and
/// deletes it.
pub fn measure(config: &Config, runs: usize, runtime: &tokio::runtime::Runtime) -> anyhow::Result<RestartFigures> {
    let folder = Scratch::new();
    let mut config = config.clone();
    config.engine.disk_cache = DiskCache::Bytes(DISK_BYTES_MAX);
    config.engine.disk_cache_dir = DiskCacheFolder::Told(folder.0.clone());
    let (mut cold, mut warm, mut restarted) = (Vec::new(), Vec::new(), Vec::new());

    let first = load_with_disk(&config)?;
    let mut driver = Driver::new(&first.engine, first.text.tokenizer.vocab_size());
    let prompt_tokens = PROMPT_TOKENS.min(first.plan.context - 1);
    let prompts: Vec<Vec<u32>> = (0..runs).map(|_| driver.tokens(prompt_tokens)).collect();
    for prompt in &prompts {
        cold.push(runtime.block_on(driver.first_token_of(prompt, 0))?);
        warm.push(runtime.block_on(driver.first_token_of(prompt, cached(prompt)))?);
    }
    let written = first.disk.as_ref().filter(|disk| disk.flush(PATIENCE));
    let disk_bytes = written.map_or(0, |disk| disk.stats().bytes) / runs as u64;
    drop(first);

    let second = load_with_disk(&config)?;
    let mut driver = Driver::new(&second.engine, second.text.tokenizer.vocab_size());
    for prompt in &prompts {
        restarted.push(runtime.block_on(driver.first_token_of(prompt, cached(prompt)))?);
    }
    let of = |times| median(times).unwrap_or(0.0);
    Ok(RestartFigures { prompt_tokens, cold_ms: of(cold), warm_ms: of(warm), restarted_ms: of(restarted), disk_bytes })
}

fn load_with_disk(config: &Config) -> anyhow::Result<Loaded> {
    let loaded = load(config).map_err(|failure| anyhow::anyhow!("{failure}"))?;
    // A model that is new is read first.
    let ready = loaded.disk.as_ref().is_some_and(|disk| disk.wait_ready(PATIENCE));
    anyhow::ensure!(ready, "there is no disk cache here");
    Ok(loaded)
}

/// What a cache that knows it all has of a prompt: whole blocks, and never the last token.
fn cached(prompt: &[u32]) -> usize {
    (prompt.len() - 1) / kernels::BLOCK_TOKENS * kernels::BLOCK_TOKENS
}

/// Gone when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("understudy-bench-{}", std::process::id())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
