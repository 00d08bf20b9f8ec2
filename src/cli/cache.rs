//! `understudy cache`: what the disk keeps of long prompts, and how to be rid of it.

use anyhow::Context as _;
use serde::Serialize;

use super::args::{CacheAction, CacheArgs};
use super::disk_cache;
use super::failure::Failure;
use super::memory_plan::Size;
use super::print;
use crate::config::{Config, DiskCache};
use crate::engine::kv_store::folder::{Contents, Folder};

#[derive(Debug, Serialize)]
struct Report {
    place: String,
    /// 0: the cache is off, and nothing is added.
    limit_bytes: u64,
    entries: u64,
    tokens: u64,
    bytes: u64,
}

pub fn run(config: &Config, args: &CacheArgs) -> Result<(), Failure> {
    let base = disk_cache::folder(config).context("neither HOME nor XDG_CACHE_HOME is set; --disk-cache-dir says where the cache is")?;
    let folder = Folder::of(&base);
    let place = folder.path().display().to_string();
    if let Some(CacheAction::Purge) = args.action {
        let Contents { blocks, bytes } = folder.purge().with_context(|| place.clone())?;
        return print::line(format!("deleted {blocks} entries, {}, in {place}", Size(bytes)));
    }
    let contents = folder.contents().with_context(|| place.clone())?;
    let limit_bytes = match config.engine.disk_cache {
        DiskCache::Off => 0,
        DiskCache::Bytes(bytes) => bytes,
    };
    let report = Report { place, limit_bytes, entries: contents.blocks, tokens: contents.tokens(), bytes: contents.bytes };
    if args.json {
        return print::line(serde_json::to_string_pretty(&report).context("the report")?);
    }
    let limit = if limit_bytes == 0 { "off".to_owned() } else { Size(limit_bytes).to_string() };
    let Report { place, entries, tokens, bytes, .. } = report;
    print::line(format!("entries  {entries}\ntokens   {tokens}\nbytes    {}\nlimit    {limit}\nplace    {place}", Size(bytes)))
}
