//! The journal: lines in a file, and nobody who waits for it.

use std::sync::mpsc::{channel, sync_channel};
use std::time::{Duration, Instant};

use understudy::gateway::journal::Journal;
use understudy::gateway::journal::file::{JournalFile, paths};
use understudy::gateway::journal::line::{Counts, Event, Line, Outcome};

use crate::support::temp_dir::TempDir;

const LIMIT: Duration = Duration::from_secs(10);

fn ended(upstream: &str) -> Event {
    Event::OutageEnd { upstream: upstream.to_owned() }
}

fn lines_of(folder: &TempDir) -> Vec<Event> {
    let text: String = paths(folder.path()).iter().map(|path| std::fs::read_to_string(path).unwrap_or_default()).collect();
    text.lines().map(|line| serde_json::from_str::<Line>(line).unwrap_or_else(|error| panic!("{line:?}: {error}")).event).collect()
}

#[test]
fn what_is_noted_stands_in_the_file() {
    let folder = TempDir::new();
    let journal = Journal::in_folder(folder.path().join("made/for/it"), &["claude".to_owned()]).unwrap();
    journal.note(ended("claude"));
    for outcome in [Outcome::Good, Outcome::Good, Outcome::Bad, Outcome::Clients, Outcome::Saved] {
        journal.clone().count("claude", outcome);
    }
    journal.count("nobody", Outcome::Bad);
    assert!(journal.close(LIMIT), "everything is written");
    let path = folder.path().join("made/for/it/journal.jsonl");
    let lines: Vec<Line> = std::fs::read_to_string(&path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(matches!(lines[0].event, Event::Started { .. }));
    assert_eq!(lines[1].event, ended("claude"));
    let counts = Counts { good: 2, bad: 1, clients: 1, saved: 1 };
    assert_eq!(lines[2].event, Event::Minute { upstream: "claude".to_owned(), counts });
    assert_eq!(lines.len(), 3);
    let now_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    assert!(lines.iter().all(|line| now_ms - line.at_unix_ms < 600_000));
    assert_owner_only(&path);
}

#[cfg(unix)]
fn assert_owner_only(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[cfg(not(unix))]
fn assert_owner_only(_: &std::path::Path) {}

#[test]
fn counts_become_lines_while_the_server_runs() {
    let (written, lines) = channel();
    let write = move |line: &str| written.send(line.to_owned()).is_ok();
    let journal = Journal::writing(&["claude".to_owned()], Duration::from_millis(5), write).unwrap();
    journal.count("claude", Outcome::Bad);
    let is_minute = |line: &String| line.contains(r#""event":"minute","upstream":"claude","good":0,"bad":1"#);
    let deadline = Instant::now() + LIMIT;
    while !lines.recv_timeout(deadline.saturating_duration_since(Instant::now())).as_ref().is_ok_and(is_minute) {
        assert!(Instant::now() < deadline, "the count is told");
    }
}

/// Somebody holds the pen for ever; who notes waits for nothing, and what was lost is told when the pen moves again.
#[test]
fn a_disk_that_hangs_is_nobody_s_business() {
    let (go_on, hangs) = sync_channel::<()>(0);
    let (written, lines) = channel();
    let write = move |line: &str| {
        let _ = hangs.recv();
        written.send(line.to_owned()).is_ok()
    };
    let journal = Journal::writing(&["claude".to_owned()], Duration::from_secs(60), write).unwrap();
    let began = Instant::now();
    for _ in 0..5_000 {
        journal.note(ended("claude"));
        journal.count("claude", Outcome::Good);
    }
    assert!(began.elapsed() < LIMIT, "nobody waited");
    assert!(!journal.clone().close(LIMIT), "somebody else still writes");
    // The pen moves for the rest of the program.
    drop(go_on);
    assert!(journal.close(LIMIT));
    let lines: Vec<Line> = lines.try_iter().map(|line| serde_json::from_str(&line).unwrap()).collect();
    let dropped: u64 = lines.iter().map(|line| if let Event::Dropped { lines } = line.event { lines } else { 0 }).sum();
    let noted = lines.iter().filter(|line| line.event == ended("claude")).count() as u64;
    assert!(dropped > 3_000 && noted > 500);
    assert_eq!(noted + dropped, 5_000, "what is missing is told");
    let counts = Counts { good: 5_000, ..Counts::default() };
    assert!(lines.iter().any(|line| line.event == Event::Minute { upstream: "claude".to_owned(), counts }), "counts are never lost");
}

#[test]
fn a_program_does_not_wait_for_a_hung_disk_at_its_end() {
    let (_go_on, hangs) = sync_channel::<()>(0);
    let journal = Journal::writing(&[], Duration::from_secs(60), move |_| hangs.recv().is_ok()).unwrap();
    assert!(!journal.close(Duration::from_millis(20)));
}

#[test]
fn failed_lines_are_counted_and_counts_are_written_later() {
    let (written, lines) = channel();
    let mut room_after = 3;
    let write = move |line: &str| {
        if room_after > 0 {
            room_after -= 1;
            return false;
        }
        written.send(line.to_owned()).is_ok()
    };
    let journal = Journal::writing(&["claude".to_owned()], Duration::from_millis(1), write).unwrap();
    journal.count("claude", Outcome::Good);
    // The start and the counts meet a full disk.
    let minute = lines.recv_timeout(LIMIT).unwrap();
    assert!(minute.contains(r#""good":1"#), "{minute}");
    journal.note(ended("claude"));
    let told = serde_json::from_str::<Line>(&lines.recv_timeout(LIMIT).unwrap()).unwrap();
    assert_eq!(told.event, Event::Dropped { lines: 1 });
}

#[test]
fn the_file_is_bounded() {
    let folder = TempDir::new();
    let mut file = JournalFile::in_folder(folder.path().to_owned(), 1_000);
    let line = serde_json::to_string(&Line { at_unix_ms: 1, event: ended("claude") }).unwrap();
    for written in 0..200 {
        file.append(&line).unwrap();
        let bytes: u64 = paths(folder.path()).iter().map(|path| std::fs::metadata(path).map_or(0, |found| found.len())).sum();
        assert!(bytes <= 2 * (1_000 + line.len() as u64 + 1), "{bytes} bytes after {written} lines");
    }
    assert!(lines_of(&folder).len() >= 1_000 / (line.len() + 1), "what was written last is there");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "two files and no more");
}

#[test]
fn two_servers_rotate_once() {
    let folder = TempDir::new();
    let mut files = [0, 1].map(|_| JournalFile::in_folder(folder.path().to_owned(), 200));
    let line = serde_json::to_string(&Line { at_unix_ms: 1, event: ended("claude") }).unwrap();
    let mut before = 0;
    for round in 0..40 {
        for file in &mut files {
            file.append(&line).unwrap();
        }
        let now = lines_of(&folder).len();
        assert!(now >= before.min(4), "round {round}: the older file was lost");
        before = now;
    }
}

#[test]
fn a_torn_line_spoils_no_other() {
    let folder = TempDir::new();
    let torn = folder.write("journal.jsonl", r#"{"at_unix_ms":1,"event":"outa"#);
    let mut file = JournalFile::in_folder(folder.path().to_owned(), 10_000);
    let line = serde_json::to_string(&Line { at_unix_ms: 1, event: ended("claude") }).unwrap();
    file.append(&line).unwrap();
    let text = std::fs::read_to_string(torn).unwrap();
    assert_eq!(text.lines().collect::<Vec<_>>(), [r#"{"at_unix_ms":1,"event":"outa"#, &line]);
}

#[test]
fn a_folder_that_cannot_be_written_is_an_error_of_the_journal_alone() {
    let folder = TempDir::new();
    let file = folder.write("a-file", b"no folder");
    assert!(JournalFile::in_folder(file.clone(), 10).append("x").is_err());
    let journal = Journal::in_folder(file, &["claude".to_owned()]).unwrap();
    journal.note(ended("claude"));
    journal.count("claude", Outcome::Good);
    assert!(journal.close(LIMIT));
}

/// `/dev/full` is a disk without room.
#[cfg(target_os = "linux")]
#[test]
fn a_disk_gets_room_again() {
    let folder = TempDir::new();
    let path = folder.path().join("journal.jsonl");
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    let mut file = JournalFile::in_folder(folder.path().to_owned(), 10_000);
    assert_eq!(file.append("x").unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    std::fs::remove_file(&path).unwrap();
    file.append("y").unwrap();
    assert_eq!(std::fs::read_to_string(path).unwrap(), "y\n");
}

#[test]
fn off_is_off() {
    let journal = Journal::off();
    journal.note(ended("claude"));
    journal.count("claude", Outcome::Good);
    assert!(journal.close(LIMIT));
}
