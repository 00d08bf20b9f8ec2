//! What may happen while a client runs: it ends, or a signal comes. Signals are the client's: they are passed on, and what the client
//! makes of them decides.

use std::io::{self, IsTerminal};
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use anyhow::Context as _;
#[cfg(unix)]
use nix::sys::signal::Signal;
#[cfg(unix)]
use tokio::signal::unix::SignalKind;

#[cfg(not(unix))]
type Signal = ();

/// A person sends two or three in a row; more that come before they are passed on say nothing new.
const HAPPENINGS_MAX: usize = 16;

enum Happening {
    Signal(Signal),
    Ended(io::Result<ExitStatus>),
}

/// From its making on, signals that would end this process are heard instead: it has something to tidy up.
pub struct Happenings {
    sender: SyncSender<Happening>,
    receiver: Receiver<Happening>,
    /// Its threads listen for as long as it lives.
    _runtime: tokio::runtime::Runtime,
}

impl Happenings {
    pub fn listen() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().context("a thread for signals")?;
        let (sender, receiver) = sync_channel(HAPPENINGS_MAX);
        let _entered = runtime.enter();
        #[cfg(unix)]
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
            let mut heard = tokio::signal::unix::signal(SignalKind::from_raw(signal as i32)).context("signals cannot be heard")?;
            let sender = sender.clone();
            runtime.spawn(async move {
                while heard.recv().await.is_some() {
                    let _ = sender.try_send(Happening::Signal(signal));
                }
            });
        }
        #[cfg(not(unix))]
        {
            let sender = sender.clone();
            runtime.spawn(async move {
                while tokio::signal::ctrl_c().await.is_ok() {
                    let _ = sender.try_send(Happening::Signal(()));
                }
            });
        }
        drop(_entered);
        Ok(Self { sender, receiver, _runtime: runtime })
    }

    /// Whether one comes within this time.
    pub fn signal_within(&self, limit: Duration) -> bool {
        !matches!(self.receiver.recv_timeout(limit), Err(RecvTimeoutError::Timeout))
    }

    /// Runs a command to its end.
    pub fn run(&self, command: &mut Command) -> io::Result<ExitStatus> {
        let client = command.spawn()?;
        let process = client.id();
        let sender = self.sender.clone();
        std::thread::spawn(move || wait(client, &sender));
        loop {
            match self.receiver.recv() {
                // The number of a process that has ended is not given away before its end was heard here, but for a moment.
                Ok(Happening::Signal(signal)) if !reaches_the_client_itself(signal) => send(process, signal),
                Ok(Happening::Signal(_)) => {}
                Ok(Happening::Ended(status)) => return status,
                Err(_) => unreachable!("this has a sender of its own"),
            }
        }
    }
}

fn wait(mut client: Child, sender: &SyncSender<Happening>) {
    // Nobody listens any more only when the program is over.
    let _ = sender.send(Happening::Ended(client.wait()));
}

/// What is typed on a terminal the system sends to all programs in its foreground, and so to the client; a second one would
/// count as a second Ctrl-C, which ends many a client.
#[cfg(unix)]
fn reaches_the_client_itself(signal: Signal) -> bool {
    let on_terminal = io::stdin().is_terminal() || io::stdout().is_terminal() || io::stderr().is_terminal();
    matches!(signal, Signal::SIGINT | Signal::SIGQUIT) && on_terminal
}

#[cfg(not(unix))]
fn reaches_the_client_itself(_: Signal) -> bool {
    true
}

#[cfg(unix)]
pub fn send(process: u32, signal: Signal) {
    if let Ok(process) = i32::try_from(process) {
        // It may have ended by itself.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(process), signal);
    }
}

#[cfg(not(unix))]
fn send(_: u32, _: Signal) {}
