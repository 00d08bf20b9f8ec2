//! How a download is shown: a bar on a terminal, a plain line now and then elsewhere.

use std::io::{IsTerminal, Write};

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Hears how a transfer goes.
pub trait Report {
    /// A file starts: `done` of `total` bytes are there from an earlier attempt.
    fn start(&mut self, name: &str, done: u64, total: u64);
    /// So many bytes of the file are there now.
    fn reached(&mut self, done: u64);
    fn finish(&mut self);
    /// Something worth a line: a retry, a wait.
    fn note(&mut self, message: &str);
}

/// The right one for standard error.
pub fn for_stderr() -> Box<dyn Report> {
    if std::io::stderr().is_terminal() { Box::new(Bar::default()) } else { Box::new(Lines::default()) }
}

/// Says nothing.
#[derive(Debug, Default)]
pub struct Silent;

impl Report for Silent {
    fn start(&mut self, _name: &str, _done: u64, _total: u64) {}
    fn reached(&mut self, _done: u64) {}
    fn finish(&mut self) {}
    fn note(&mut self, _message: &str) {}
}

#[derive(Debug, Default)]
struct Bar {
    bar: Option<ProgressBar>,
}

impl Report for Bar {
    fn start(&mut self, name: &str, done: u64, total: u64) {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        let template = "{msg} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
        bar.set_style(ProgressStyle::with_template(template).expect("a constant template").progress_chars("=> "));
        bar.set_message(name.to_owned());
        bar.set_position(done);
        bar.reset_eta();
        self.bar = Some(bar);
    }

    fn reached(&mut self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        }
    }

    fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish();
        }
    }

    fn note(&mut self, message: &str) {
        match &self.bar {
            Some(bar) => bar.println(message),
            None => line(message),
        }
    }
}

/// One line a tenth.
#[derive(Debug, Default)]
struct Lines {
    name: String,
    total: u64,
    tenth: u64,
}

impl Report for Lines {
    fn start(&mut self, name: &str, done: u64, total: u64) {
        *self = Self { name: name.to_owned(), total, tenth: tenth(done, total) };
        let there = if done > 0 { format!(" ({} are there)", HumanBytes(done)) } else { String::new() };
        line(&format!("{name}: {}{there}", HumanBytes(total)));
    }

    fn reached(&mut self, done: u64) {
        let now = tenth(done, self.total);
        if now > self.tenth {
            self.tenth = now;
            line(&format!("{}: {} % of {}", self.name, now * 10, HumanBytes(self.total)));
        }
    }

    fn finish(&mut self) {}

    fn note(&mut self, message: &str) {
        line(message);
    }
}

fn tenth(done: u64, total: u64) -> u64 {
    done.saturating_mul(10).checked_div(total).unwrap_or(10)
}

/// Progress nobody can read any more is no reason to stop a download.
fn line(message: &str) {
    let _ = writeln!(std::io::stderr(), "{message}");
}
