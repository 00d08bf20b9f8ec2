//! The file of the journal: lines at its end, one older file beside it, and never more than twice the limit on the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

/// A line is about 150 bytes, so this is about 100,000 lines: a minute's counts of two upstreams for a month.
pub const FILE_BYTES_MAX: u64 = 16 << 20;

/// The file that is written.
pub const NAME: &str = "journal.jsonl";
/// The one before it.
pub const OLDER_NAME: &str = "journal.1.jsonl";

/// Both files of a folder, the older first.
pub fn paths(folder: &Path) -> [PathBuf; 2] {
    [folder.join(OLDER_NAME), folder.join(NAME)]
}

/// Appends lines. Every call tries again whatever failed before: a disk that was full may have room by now.
#[derive(Debug)]
pub struct JournalFile {
    folder: PathBuf,
    bytes_max: u64,
    file: Option<File>,
}

impl JournalFile {
    /// Touches nothing yet.
    pub fn in_folder(folder: PathBuf, bytes_max: u64) -> Self {
        Self { folder, bytes_max, file: None }
    }

    /// Writes a line; its end is added. After an error part of it may stand there: the next line begins on a new one.
    pub fn append(&mut self, line: &str) -> io::Result<()> {
        let mut file = match self.file.take() {
            Some(file) => file,
            None => self.open()?,
        };
        if file.metadata()?.len() >= self.bytes_max {
            file = self.rotate()?;
        }
        // One write a line: two servers that share the folder do not mix theirs.
        file.write_all(format!("{line}\n").as_bytes())?;
        self.file = Some(file);
        Ok(())
    }

    fn open(&self) -> io::Result<File> {
        fs::create_dir_all(&self.folder)?;
        let mut options = OpenOptions::new();
        options.create(true).append(true).read(true);
        owner_only(&mut options);
        let mut file = options.open(self.folder.join(NAME))?;
        if ends_within_a_line(&mut file)? {
            file.write_all(b"\n")?;
        }
        Ok(file)
    }

    /// Another server may have done it a moment ago; then there is a short file already.
    fn rotate(&self) -> io::Result<File> {
        let [older, current] = paths(&self.folder);
        if fs::metadata(&current).is_ok_and(|found| found.len() >= self.bytes_max) {
            fs::rename(current, older)?;
        }
        self.open()
    }
}

fn ends_within_a_line(file: &mut File) -> io::Result<bool> {
    // What is no plain file has no end to look at.
    if !file.metadata()?.is_file() || file.metadata()?.len() == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

/// Who asked what when is nobody else's business.
#[cfg(unix)]
fn owner_only(options: &mut OpenOptions) {
    use std::os::unix::fs::OpenOptionsExt as _;
    options.mode(0o600);
}

#[cfg(not(unix))]
fn owner_only(_: &mut OpenOptions) {}
