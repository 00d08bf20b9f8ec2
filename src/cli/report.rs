//! `understudy report`: what the journal says of the upstreams.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, anyhow};

use super::args::ReportArgs;
use super::failure::Failure;
use super::print;
use super::state_folder;
use crate::config::Config;
use crate::gateway::journal::file;
use crate::gateway::report::{Report, Window, length_ms};

pub fn run(config: &Config, args: &ReportArgs) -> Result<(), Failure> {
    let since_ms = length_ms(&args.since)
        .ok_or_else(|| Failure::Usage(format!("--since {:?} is no length of time like 90s, 15m, 24h or 30d", args.since)))?;
    let folder = state_folder::of_journal(&config.gateway.journal).ok_or_else(|| anyhow!("no journal is kept"))?;
    let until_unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let window = Window { from_unix_ms: until_unix_ms.saturating_sub(since_ms), until_unix_ms };
    let texts = file::paths(&folder).iter().map(|path| text(path)).collect::<Result<Vec<_>, _>>()?;
    if texts.iter().all(Option::is_none) {
        print::remark(format_args!("there is no journal in {} yet; a server with an upstream writes it", folder.display()));
    }
    // What is no UTF-8 is no line of ours, and spoils only itself.
    let texts: Vec<_> = texts.iter().flatten().map(|bytes| String::from_utf8_lossy(bytes)).collect();
    let report = Report::of(texts.iter().flat_map(|text| text.lines()), window);
    match args.json {
        true => print::line(serde_json::to_string_pretty(&report).context("the report")?),
        false => print::line(report.to_string().trim_end()),
    }
}

/// `None`: it is not there.
fn text(path: &Path) -> Result<Option<Vec<u8>>, Failure> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(anyhow!("{}: {error}", path.display()).into()),
    }
}
