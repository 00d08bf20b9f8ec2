//! Standard output for results, standard error for the log.

use std::io::{self, IsTerminal, Write};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time;

use super::failure::Failure;
use crate::config::{Config, LogFormat};

/// Writes a line of result.
pub fn line(text: impl std::fmt::Display) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(Failure::of_output)
}

/// Writes a piece of result without a line end, at once.
pub fn piece(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::of_output)
}

/// A remark for a person, on stderr. That it cannot be written changes nothing.
pub fn remark(text: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Starts the log on stderr; in colour only on a terminal, and not where NO_COLOR is set (no-color.org).
pub fn start_log(config: &Config) -> Result<(), Failure> {
    let log = &config.log;
    let wrong = |e| Failure::Usage(format!("{}: {:?} is not a log filter ({e})", config.source("log_level"), log.filter));
    let filter = EnvFilter::try_new(&log.filter).map_err(wrong)?;
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal() && !no_color)
        .with_target(false)
        .with_timer(time::SystemTime);
    // A second start (tests run several commands in one process) keeps the first log.
    let _ = match log.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().with_target(true).try_init(),
    };
    Ok(())
}
