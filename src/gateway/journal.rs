//! The journal: every switch, probe, takeover and outage as a line of a file, off the serving path.
//!
//! Whoever notes something waits for nothing. Lines go through a bounded channel to a thread of their own; when the disk is full, slow or
//! hung, lines are dropped and counted. Outcomes of requests are only counted, and a line a minute tells the counts.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub mod file;
pub mod line;

use file::{FILE_BYTES_MAX, JournalFile};
use line::{Counts, Event, Line, Outcome};

/// Lines on their way. A switch is a few of them; at 200 bytes each this is 200 KB, and minutes of the worst flapping.
const LINES_MAX: usize = 1024;

/// How often counts become lines.
const COUNTS_INTERVAL: Duration = Duration::from_secs(60);

/// Writes notes; clones write to the same file.
#[derive(Debug, Clone)]
pub struct Journal(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// `None`: there is no journal.
    lines: Option<SyncSender<Line>>,
    notes: Arc<Notes>,
    /// Disconnected when the thread is through.
    written: std::sync::Mutex<Receiver<()>>,
}

/// What the thread reads without being told.
#[derive(Debug, Default)]
struct Notes {
    upstreams: Vec<(String, [AtomicU64; 4])>,
    dropped: AtomicU64,
}

impl Journal {
    /// In this folder, which is made when it is needed. `upstreams` are those whose outcomes are counted.
    pub fn in_folder(folder: PathBuf, upstreams: &[String]) -> std::io::Result<Self> {
        let mut file = JournalFile::in_folder(folder.clone(), FILE_BYTES_MAX);
        let mut is_failing = false;
        let write = move |line: &str| {
            let written = file.append(line);
            // Said once each time that it begins: the log is no place for every line that is lost.
            if let Err(error) = &written
                && !std::mem::replace(&mut is_failing, true)
            {
                tracing::warn!("the journal in {} cannot be written: {error}", folder.display());
            }
            is_failing = written.is_err();
            written.is_ok()
        };
        Self::writing(upstreams, COUNTS_INTERVAL, write)
    }

    /// With somebody else's pen: `write` takes a line and says whether it was written. It may take its time.
    pub fn writing(
        upstreams: &[String],
        counts_interval: Duration,
        write: impl FnMut(&str) -> bool + Send + 'static,
    ) -> std::io::Result<Self> {
        let (lines, received) = sync_channel(LINES_MAX);
        let (through, written) = channel();
        let counted = upstreams.iter().map(|name| (name.clone(), Default::default())).collect();
        let notes = Arc::new(Notes { upstreams: counted, dropped: AtomicU64::new(0) });
        let mut writer = Writer { notes: notes.clone(), write, unwritten: VecDeque::new() };
        std::thread::Builder::new().name("journal".to_owned()).spawn(move || {
            writer.run(&received, counts_interval);
            drop(through);
        })?;
        let journal = Self(Arc::new(Shared { lines: Some(lines), notes, written: written.into() }));
        journal.note(Event::Started { version: env!("CARGO_PKG_VERSION").to_owned() });
        Ok(journal)
    }

    /// Keeps nothing.
    pub fn off() -> Self {
        let (_, written) = channel();
        Self(Arc::new(Shared { lines: None, notes: Arc::default(), written: written.into() }))
    }

    /// Never waits.
    pub fn note(&self, event: Event) {
        let Some(lines) = &self.0.lines else { return };
        if lines.try_send(Line { at_unix_ms: unix_ms(), event }).is_err() {
            self.0.notes.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Never waits and is never lost, however slow the disk. An upstream that is not known is not counted.
    pub fn count(&self, upstream: &str, outcome: Outcome) {
        if let Some((_, counts)) = self.0.notes.upstreams.iter().find(|(name, _)| name == upstream) {
            counts[outcome as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// For the end of a program: gives what is noted so long to be written, once this is the last clone. Whether it was.
    pub fn close(self, limit: Duration) -> bool {
        let Some(mut shared) = Arc::into_inner(self.0) else { return false };
        drop(shared.lines.take());
        let written = shared.written.get_mut().expect("nobody locks it");
        matches!(written.recv_timeout(limit), Err(RecvTimeoutError::Disconnected))
    }
}

/// The thread's side.
struct Writer<W> {
    notes: Arc<Notes>,
    write: W,
    /// Counts that could not be written: they are few and are not given up.
    unwritten: VecDeque<Line>,
}

impl<W: FnMut(&str) -> bool> Writer<W> {
    fn run(&mut self, lines: &Receiver<Line>, counts_interval: Duration) {
        let mut counts_at = Instant::now() + counts_interval;
        loop {
            match lines.recv_timeout(counts_at.saturating_duration_since(Instant::now())) {
                Ok(line) => self.line(&line),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.counts(),
            }
            if Instant::now() >= counts_at {
                self.counts();
                counts_at = Instant::now() + counts_interval;
            }
        }
    }

    fn line(&mut self, line: &Line) {
        // What is missing is told where it is missing.
        let dropped = self.notes.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 && !self.written(&Line { at_unix_ms: line.at_unix_ms, event: Event::Dropped { lines: dropped } }) {
            self.notes.dropped.fetch_add(dropped, Ordering::Relaxed);
        }
        if !self.written(line) {
            self.notes.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counts(&mut self) {
        let at_unix_ms = unix_ms();
        let notes = self.notes.clone();
        for (upstream, counts) in &notes.upstreams {
            let taken = |outcome: Outcome| counts[outcome as usize].swap(0, Ordering::Relaxed);
            let counts = Counts {
                good: taken(Outcome::Good),
                bad: taken(Outcome::Bad),
                clients: taken(Outcome::Clients),
                saved: taken(Outcome::Saved),
            };
            if counts != Counts::default() {
                self.unwritten.push_back(Line { at_unix_ms, event: Event::Minute { upstream: upstream.clone(), counts } });
            }
        }
        while let Some(line) = self.unwritten.pop_front() {
            if !self.written(&line) {
                self.unwritten.push_front(line);
                // A day of a full disk, and then the oldest go.
                let too_many = self.unwritten.len().saturating_sub(1440 * notes.upstreams.len());
                self.unwritten.drain(..too_many);
                return;
            }
        }
    }

    fn written(&mut self, line: &Line) -> bool {
        // A line is made of texts and numbers; it can always be written as JSON.
        serde_json::to_string(line).is_ok_and(|text| (self.write)(&text))
    }
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
