//! `understudy models`: what can be served without the network.

use std::path::PathBuf;

use serde::Serialize;

use super::failure::Failure;
use super::memory_plan::Size;
use super::print;
use crate::config::Config;
use crate::hub::cache::HubCache;
use crate::hub::{HubOptions, builtin};

#[derive(Debug, Serialize)]
struct Row {
    /// What to type after `understudy serve`.
    name: String,
    bytes: u64,
    path: Option<PathBuf>,
}

pub fn run(config: &Config, json: bool) -> Result<(), Failure> {
    let options = HubOptions::from_env(&|name| std::env::var(name).ok(), config.models.offline);
    let mut rows = vec![Row { name: "builtin".to_owned(), bytes: builtin::len(), path: None }];
    let cached = HubCache::new(&options.cache).models();
    rows.extend(cached.into_iter().map(|model| Row { name: model.name, bytes: model.bytes, path: Some(model.path) }));
    if json {
        let text = serde_json::to_string_pretty(&rows).map_err(anyhow::Error::from)?;
        return print::line(text);
    }
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    for row in &rows {
        let place = row.path.as_ref().map_or("in this program".to_owned(), |path| path.display().to_string());
        print::line(format!("{:width$}  {:>9}  {place}", row.name, Size(row.bytes).to_string()))?;
    }
    if rows.len() == 1 {
        print::remark(format!("no others in {}; fetch one with `understudy pull org/repo:quant`", options.cache.display()));
    }
    Ok(())
}
