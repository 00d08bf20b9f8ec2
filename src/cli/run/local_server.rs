//! The server a client speaks with: one that runs already, else one that is started for it and ends with it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::happenings::Happenings;
use super::server_url::{Answer, ServerUrl};
use crate::cli::failure::Failure;
use crate::cli::print;

const ASK_INTERVAL: Duration = Duration::from_millis(100);
/// Its client is gone, so it has little to finish: the disk gets two seconds for the last prompts.
const END_LIMIT: Duration = Duration::from_secs(10);

/// Waits until a server at `url` is ready; starts one with `start` where nobody listens. `None`: it was there already.
pub fn at_hand(
    url: &ServerUrl,
    happenings: &Happenings,
    start: impl FnOnce() -> Result<LocalServer, Failure>,
) -> Result<Option<LocalServer>, Failure> {
    if !url.can_be_asked() {
        return Ok(None);
    }
    let (mut start, mut started, mut told) = (Some(start), None::<LocalServer>, false);
    loop {
        match url.get("/readyz", None) {
            Answer::Status(200) => {
                if let Some(server) = &mut started {
                    // Somebody else may have taken the port a moment before.
                    server.check_alive()?;
                }
                return Ok(started);
            }
            Answer::Nobody => match start.take() {
                Some(start) => started = Some(start()?),
                None if started.is_some() => {}
                None => return Err(anyhow::anyhow!("the server at {url} went away while it was waited for").into()),
            },
            // Still loading, or about to end.
            Answer::Status(503) => {
                if started.is_none() && !told {
                    print::remark(format_args!("understudy: the server at {url} is not ready; waiting for it"));
                    told = true;
                }
                start = None;
            }
            Answer::Status(status) => {
                return Err(
                    anyhow::anyhow!("{url} answers {status} when it is asked whether it is ready; is it a server of models?").into()
                );
            }
            Answer::Unintelligible => {
                return Err(anyhow::anyhow!("something listens at {url} that does not answer; take another --server").into());
            }
        }
        if let Some(server) = &mut started {
            server.show_log();
            server.check_alive()?;
        }
        if happenings.signal_within(ASK_INTERVAL) {
            return Err(Failure::Interrupted);
        }
    }
}

/// A process of this program that serves; it ends when this is dropped.
#[derive(Debug)]
pub struct LocalServer {
    process: Child,
    log: PathBuf,
    shown_bytes: u64,
}

impl LocalServer {
    /// `arguments`: of `serve`. What it says goes into `log`: the terminal is the client's.
    pub fn start(arguments: &[String], log: &Path) -> Result<Self, Failure> {
        let program = std::env::current_exe().context("the path of this program")?;
        let out = File::create(log).with_context(|| log.display().to_string())?;
        let errors = out.try_clone().context("the server's log")?;
        let mut command = Command::new(program);
        command.arg("serve").args(arguments).stdin(Stdio::null()).stdout(out).stderr(errors);
        // Ctrl-C means the client: it must not reach the server, which would stop.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let process = command.spawn().context("a server could not be started")?;
        Ok(Self { process, log: log.to_owned(), shown_bytes: 0 })
    }

    /// Errors: it has ended, with the last that it said.
    pub fn check_alive(&mut self) -> Result<(), Failure> {
        let Some(status) = self.process.try_wait().context("the server")? else { return Ok(()) };
        Err(anyhow::anyhow!("the server that was started has ended ({status}): {}", self.last_line()).into())
    }

    /// What it has said since the last time goes to stderr.
    fn show_log(&mut self) {
        if let Ok(text) = self.log_from(self.shown_bytes) {
            self.shown_bytes += text.len() as u64;
            // For a person; that it cannot be written changes nothing.
            let _ = io::stderr().write_all(&text);
        }
    }

    fn log_from(&self, start: u64) -> io::Result<Vec<u8>> {
        let mut file = File::open(&self.log)?;
        file.seek(SeekFrom::Start(start))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        Ok(text)
    }

    fn last_line(&self) -> String {
        let text = self.log_from(0).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        text.lines().next_back().map_or("it said nothing".to_owned(), |line| line.trim_start_matches("understudy: ").to_owned())
    }

    fn wait_within(&mut self, limit: Duration) -> Option<ExitStatus> {
        let given_up = Instant::now() + limit;
        loop {
            match self.process.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < given_up => std::thread::sleep(Duration::from_millis(10)),
                _ => return None,
            }
        }
    }
}

impl Drop for LocalServer {
    fn drop(&mut self) {
        #[cfg(unix)]
        if let Ok(None) = self.process.try_wait() {
            super::happenings::send(self.process.id(), nix::sys::signal::Signal::SIGTERM);
            if self.wait_within(END_LIMIT).is_some() {
                return;
            }
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
