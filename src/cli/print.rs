//! Standard output for results, standard error for the log.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{self, FormatTime};

use super::failure::Failure;
use super::log_ring::LogRing;
use crate::config::{Config, LogFormat};

/// The log of this process: one, as the subscriber that writes to it is one.
static LOG: OnceLock<LogRing> = OnceLock::new();

/// How long the program's end waits for who reads its log.
const LAST_LINES_LIMIT: Duration = Duration::from_millis(200);

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

/// A line on stderr from a program that may be serving: behind the lines of the log, and like them waiting for nobody.
pub fn tell(text: impl std::fmt::Display) {
    match LOG.get() {
        Some(log) => log.push(format!("{text}\n").into_bytes()),
        None => remark(text),
    }
}

/// Starts the log on stderr; in colour only on a terminal, and not where NO_COLOR is set (no-color.org).
pub fn start_log(config: &Config) -> Result<(), Failure> {
    let log = &config.log;
    let wrong = |e| Failure::Usage(format!("{}: {:?} is not a log filter ({e})", config.source("log_level"), log.filter));
    let filter = EnvFilter::try_new(&log.filter).map_err(wrong)?;
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if LOG.get().is_some() {
        // A second start (tests run several commands in one process) keeps the first log.
        return Ok(());
    }
    let format = log.format;
    let ring = LogRing::start(io::stderr(), move |lines| dropped_line(format, lines)).context("a thread for the log")?;
    let ring = LOG.get_or_init(|| ring);
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || ring)
        // Its own errors it would tell with `eprintln!`, which waits and panics.
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal() && !no_color)
        .with_target(false)
        .with_timer(time::SystemTime);
    // Somebody else's subscriber may be there already.
    let _ = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().with_target(true).try_init(),
    };
    Ok(())
}

/// From now on a panic is told in the log, whatever its filter. The standard library would tell it on stderr itself, and there a
/// panic that is caught and answered would wait for a reader all the same.
pub fn log_panics(format: LogFormat) {
    std::panic::set_hook(Box::new(move |panic| {
        let backtrace = Backtrace::capture();
        let calls = if backtrace.status() == BacktraceStatus::Captured { format!("\n{backtrace}") } else { String::new() };
        let thread = std::thread::current();
        tell(log_line(format, "ERROR", &format!("thread {:?} {panic}{calls}", thread.name().unwrap_or("without a name"))));
    }));
}

/// Held by `main`: when it is dropped, the last lines of the log have been written, or nobody takes them.
pub struct LastLines;

impl Drop for LastLines {
    fn drop(&mut self) {
        wait_for_last_lines();
    }
}

/// For an end that drops nothing.
pub fn wait_for_last_lines() {
    if let Some(log) = LOG.get() {
        log.wait_written(LAST_LINES_LIMIT);
    }
}

/// Stands where the lines would have stood.
fn dropped_line(format: LogFormat, lines: u64) -> String {
    log_line(format, "WARN", &format!("{lines} lines of the log were dropped: they could not be written in time")) + "\n"
}

/// A line that does not come from the subscriber, in the form of those that do.
fn log_line(format: LogFormat, level: &str, message: &str) -> String {
    let mut now = String::new();
    // A time that cannot be written is left out.
    let _ = time::SystemTime.format_time(&mut Writer::new(&mut now));
    match format {
        LogFormat::Text => format!("{now} {level:>5} {message}"),
        LogFormat::Json => {
            json!({"timestamp": now, "level": level, "fields": {"message": message}, "target": "understudy::cli::print"}).to_string()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_our_own_look_like_the_subscriber_s() {
        let text = dropped_line(LogFormat::Text, 7);
        assert!(text.contains("Z  WARN 7 lines of the log were dropped") && text.ends_with('\n'), "{text}");
        let line: serde_json::Value = serde_json::from_str(&log_line(LogFormat::Json, "ERROR", "two\nlines")).unwrap();
        assert_eq!((&line["level"], &line["fields"]["message"]), (&"ERROR".into(), &"two\nlines".into()));
        assert!(line["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')), "{line}");
    }
}
