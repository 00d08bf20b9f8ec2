//! How the log reaches standard error: through a bounded ring that drops and counts, emptied by a thread of its own. Who logs never
//! waits and never fails, so a pipe that nobody reads, a full disk or a closed terminal changes no reply and holds up no shutdown.
//!
//! Must not know what a line says.

use std::io::{self, Write};
use std::iter;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Lines that may wait to be written: ten seconds of a hundred requests each, which is longer than a reader that is alive stands
/// still, and at some 250 bytes a line no more than 256 KiB for one that is not.
const LINES_MAX: usize = 1_024;

/// After some lines were written, how long more of them may gather: to wake the thread costs who logs as much as to serve a frame.
const GATHERING: Duration = Duration::from_millis(5);

/// Where lines go in.
#[derive(Debug)]
pub struct LogRing {
    lines: SyncSender<Vec<u8>>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    /// Lines taken that the thread is not done with.
    unwritten: AtomicUsize,
    /// Lines lost, by a full ring or a failed write, of which nobody was told yet.
    dropped: AtomicU64,
}

impl LogRing {
    /// Starts the thread. `told`: the line that says how many were dropped.
    pub fn start(out: impl Write + Send + 'static, told: impl Fn(u64) -> String + Send + 'static) -> io::Result<Self> {
        let (lines, taken) = sync_channel(LINES_MAX);
        let counts = Arc::new(Counts::default());
        let shared = counts.clone();
        std::thread::Builder::new().name("log".into()).spawn(move || write_out(&taken, &shared, out, told))?;
        Ok(Self { lines, counts })
    }

    /// Takes a line, or drops and counts it.
    pub fn push(&self, line: Vec<u8>) {
        self.counts.unwritten.fetch_add(1, Ordering::SeqCst);
        if self.lines.try_send(line).is_err() {
            self.counts.unwritten.fetch_sub(1, Ordering::SeqCst);
            self.counts.dropped.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Waits until all lines taken are written, at most for `limit`.
    pub fn wait_written(&self, limit: Duration) {
        let given_up = Instant::now() + limit;
        while self.counts.unwritten.load(Ordering::SeqCst) > 0 && Instant::now() < given_up {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The subscriber writes each event in one piece.
impl Write for &LogRing {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_out(taken: &Receiver<Vec<u8>>, counts: &Counts, mut out: impl Write, told: impl Fn(u64) -> String) {
    let mut text = Vec::new();
    while let Ok(first) = taken.recv() {
        let (mut done, mut next) = (0, Some(first));
        // The line in hand and a ring full behind it: those are older than what found the ring full.
        while let Some(line) = next.take() {
            let mut lines = 0;
            for line in iter::once(line).chain(taken.try_iter()).take(LINES_MAX) {
                text.extend_from_slice(&line);
                lines += 1;
            }
            // Some may have got through before the write failed: more are told to be lost than were.
            if out.write_all(&text).is_err() {
                counts.dropped.fetch_add(lines, Ordering::SeqCst);
            }
            text.clear();
            done += lines;
            // What came while it was written.
            next = if done <= LINES_MAX as u64 { taken.try_recv().ok() } else { None };
        }
        let dropped = counts.dropped.swap(0, Ordering::SeqCst);
        if dropped > 0 && out.write_all(told(dropped).as_bytes()).is_err() {
            counts.dropped.fetch_add(dropped, Ordering::SeqCst);
        }
        counts.unwritten.fetch_sub(done as usize, Ordering::SeqCst);
        // Asleep, and not waiting for a line: nobody has to wake it.
        std::thread::sleep(GATHERING);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    /// For a bug, not for a slow machine.
    const LONG: Duration = Duration::from_secs(60);

    /// A standard error that takes a line when it is let, or fails.
    struct Reader {
        begun: Sender<()>,
        /// Each message lets one line through; a dropped sender lets all.
        go: Receiver<()>,
        broken: Arc<AtomicBool>,
        text: Arc<Mutex<String>>,
    }

    /// What a test holds of a reader.
    struct Hold {
        begun: Receiver<()>,
        go: Sender<()>,
        broken: Arc<AtomicBool>,
        text: Arc<Mutex<String>>,
    }

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = (self.begun.send(()), self.go.recv());
            if self.broken.load(Ordering::SeqCst) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.text.lock().unwrap().push_str(std::str::from_utf8(bytes).unwrap());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn ring() -> (LogRing, Hold) {
        let ((tell, begun), (go, wait)) = (channel(), channel());
        let (broken, text) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(String::new())));
        let reader = Reader { begun: tell, go: wait, broken: broken.clone(), text: text.clone() };
        let ring = LogRing::start(reader, |lines| format!("{lines} dropped\n")).unwrap();
        (ring, Hold { begun, go, broken, text })
    }

    #[test]
    fn a_full_ring_drops_and_says_how_many() {
        let (ring, hold) = ring();
        ring.push(b"first\n".to_vec());
        hold.begun.recv().unwrap();
        // The thread is stuck in its write: what follows fills the ring, and none of it waits.
        let lines: Vec<String> = (0..LINES_MAX).map(|number| format!("line {number}\n")).collect();
        for line in lines.iter().map(String::as_str).chain(["lost\n"; 5]) {
            ring.push(line.as_bytes().to_vec());
        }
        ring.wait_written(Duration::from_millis(1));
        assert_eq!(*hold.text.lock().unwrap(), "", "nobody reads, and the wait has an end");
        drop(hold.go);
        ring.wait_written(LONG);
        assert_eq!(*hold.text.lock().unwrap(), format!("first\n{}5 dropped\n", lines.concat()));
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_until_they_can_be_told() {
        let (ring, hold) = ring();
        drop(hold.go);
        hold.broken.store(true, Ordering::SeqCst);
        for _ in 0..2 {
            ring.push(b"lost\n".to_vec());
            ring.wait_written(LONG);
        }
        hold.broken.store(false, Ordering::SeqCst);
        ring.push(b"third\n".to_vec());
        ring.wait_written(LONG);
        assert_eq!(*hold.text.lock().unwrap(), "third\n2 dropped\n");
    }
}
