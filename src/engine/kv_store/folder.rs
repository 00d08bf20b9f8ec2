//! The folder of the disk cache: files of blocks by name, for this user alone. Reads, writes, deletes; decides nothing.
//!
//! Other processes may use the folder at the same time, and people may delete what they like: a file appears whole under its name (it
//! is renamed there) or not at all, and one that is gone is merely gone. Nothing is flushed to the medium: what a power cut leaves
//! half-written fails its checksum.

use std::fs::{self, File, FileTimes, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kernels::BLOCK_TOKENS;

use super::block_file::{Doubt, HEADER_BYTES, Header};
use super::chain::BlockName;
use super::index::Entry;

/// Under the folder that was told, so that nothing else in it is ever touched.
const SUBFOLDER: &str = "kv";
const EXTENSION: &str = "kv";
/// A file that is being written; after this long by somebody who did not finish.
const TEMPORARY_EXTENSION: &str = "tmp";
const TEMPORARY_AGE_MAX: Duration = Duration::from_secs(3600);

#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
    /// In the names of files that are being written: two processes must not write one.
    writer: String,
}

/// What a folder holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Contents {
    pub blocks: u64,
    pub bytes: u64,
}

impl Contents {
    pub fn tokens(&self) -> u64 {
        self.blocks * BLOCK_TOKENS as u64
    }
}

/// How reading a block failed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Deleted by somebody, or by us to make room.
    #[error("it is gone")]
    Gone,
    #[error(transparent)]
    Doubt(#[from] Doubt),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Folder {
    /// The folder of the cache inside `base`; nothing is touched yet.
    pub fn of(base: &Path) -> Self {
        let number = RandomState::new().hash_one(std::process::id());
        Self { path: base.join(SUBFOLDER), writer: format!("{number:016x}") }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the folder where it is not there, and closes it to others. Errors: somebody else's, a file or a link in its place, no
    /// permission.
    pub fn make(&self) -> io::Result<()> {
        create_private(&self.path)?;
        let metadata = fs::symlink_metadata(&self.path)?;
        if !metadata.is_dir() {
            return Err(io::Error::new(io::ErrorKind::NotADirectory, "it is no folder"));
        }
        make_private(&self.path, &metadata)
    }

    /// All blocks there are, whoever wrote them. What was left half-written long ago is deleted on the way.
    pub fn scan(&self) -> io::Result<Vec<(BlockName, Entry)>> {
        let mut found = Vec::new();
        for item in fs::read_dir(&self.path)? {
            let item = item?;
            // Gone since the folder was read.
            let Ok(metadata) = item.metadata() else { continue };
            let name = item.file_name();
            let Some(name) = name.to_str().filter(|_| metadata.is_file()) else { continue };
            if let Some((depth, block)) = parse(name) {
                found.push((block, Entry { depth, bytes: metadata.len(), used_at: nanoseconds(metadata.modified()?) }));
            } else if name.ends_with(TEMPORARY_EXTENSION) && age(metadata.modified()?) > TEMPORARY_AGE_MAX {
                // Somebody else's to delete, too, and of no consequence.
                let _ = fs::remove_file(item.path());
            }
        }
        Ok(found)
    }

    /// What [`Self::scan`] finds, in sum; nothing where there is no folder.
    pub fn contents(&self) -> io::Result<Contents> {
        match self.scan() {
            Ok(found) => Ok(Contents { blocks: found.len() as u64, bytes: found.iter().map(|(_, entry)| entry.bytes).sum() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Contents::default()),
            Err(error) => Err(error),
        }
    }

    /// Deletes every block, and what is being written; returns what there was. Errors: something could not be deleted.
    pub fn purge(&self) -> io::Result<Contents> {
        let contents = self.contents()?;
        let items = match fs::read_dir(&self.path) {
            Ok(items) => items,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(contents),
            Err(error) => return Err(error),
        };
        for item in items {
            let item = item?;
            let name = item.file_name();
            let is_ours = name.to_str().is_some_and(|name| parse(name).is_some() || name.ends_with(TEMPORARY_EXTENSION));
            match if is_ours { fs::remove_file(item.path()) } else { Ok(()) } {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(contents)
    }

    /// Header and payload of a block. Whether they are right is for others to say; a wrong size is told here, before it is read.
    pub fn read(&self, name: &BlockName, depth: u32, payload_bytes: usize) -> Result<(Header, Vec<u8>), ReadError> {
        let path = self.place(name, depth);
        let gone = |error: io::Error| if error.kind() == io::ErrorKind::NotFound { ReadError::Gone } else { error.into() };
        // A pipe of that name would keep us waiting for ever.
        let metadata = fs::symlink_metadata(&path).map_err(gone)?;
        if !metadata.is_file() || metadata.len() != (HEADER_BYTES + payload_bytes) as u64 {
            return Err(Doubt::Size.into());
        }
        let mut file = File::open(&path).map_err(gone)?;
        let mut header = [0; HEADER_BYTES];
        file.read_exact(&mut header)?;
        let mut payload = Vec::with_capacity(payload_bytes);
        file.take(payload_bytes as u64).read_to_end(&mut payload)?;
        if payload.len() != payload_bytes { Err(Doubt::Size.into()) } else { Ok((header, payload)) }
    }

    /// Writes a block; it is there when all of it is. Makes the folder again where somebody deleted it.
    pub fn write(&self, name: &BlockName, entry: &Entry, header: &Header, payload: &[u8]) -> io::Result<()> {
        match self.write_once(name, entry, header, payload) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make()?;
                self.write_once(name, entry, header, payload)
            }
            outcome => outcome,
        }
    }

    fn write_once(&self, name: &BlockName, entry: &Entry, header: &Header, payload: &[u8]) -> io::Result<()> {
        let temporary = self.path.join(format!("{}.{TEMPORARY_EXTENSION}", self.writer));
        let outcome =
            write_private(&temporary, entry.used_at, header, payload).and_then(|()| fs::rename(&temporary, self.place(name, entry.depth)));
        if outcome.is_err() {
            // What a full disk took of it is given back.
            let _ = fs::remove_file(&temporary);
        }
        outcome
    }

    /// Notes the use of a block, for the order of deletion after a restart. One that cannot be noted keeps its older time. `false`: the
    /// block is gone.
    pub fn touch(&self, name: &BlockName, depth: u32, used_at: u64) -> bool {
        match File::open(self.place(name, depth)) {
            Ok(file) => {
                let _ = file.set_times(FileTimes::new().set_modified(time(used_at)));
                true
            }
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }

    /// Deletes a block. That somebody else did is no error.
    pub fn remove(&self, name: &BlockName, depth: u32) -> io::Result<()> {
        match fs::remove_file(self.place(name, depth)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        }
    }

    pub fn place(&self, name: &BlockName, depth: u32) -> PathBuf {
        self.path.join(format!("{depth}-{name}.{EXTENSION}"))
    }
}

/// `17-<64 hexadecimal digits>.kv`.
fn parse(file_name: &str) -> Option<(u32, BlockName)> {
    let (depth, name) = file_name.strip_suffix(EXTENSION)?.strip_suffix('.')?.split_once('-')?;
    let plain = depth.bytes().all(|byte| byte.is_ascii_digit()) && (depth == "0" || !depth.starts_with('0'));
    Some((depth.parse().ok().filter(|_| plain)?, BlockName::parse(name)?))
}

/// A file that only this user can read, with its time of use.
fn write_private(path: &Path, used_at: u64, header: &Header, payload: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(header)?;
    file.write_all(payload)?;
    file.set_times(FileTimes::new().set_modified(time(used_at)))
}

fn create_private(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

#[cfg(unix)]
fn make_private(path: &Path, metadata: &fs::Metadata) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    match metadata.permissions().mode() & 0o777 {
        0o700 => Ok(()),
        // Fails where the folder is another user's.
        _ => fs::set_permissions(path, fs::Permissions::from_mode(0o700)),
    }
}

/// Elsewhere a user's folders are that user's by default.
#[cfg(not(unix))]
fn make_private(_: &Path, _: &fs::Metadata) -> io::Result<()> {
    Ok(())
}

/// Nanoseconds since 1970, of a use.
pub fn nanoseconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

fn time(nanoseconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(nanoseconds)
}

fn age(modified: SystemTime) -> Duration {
    SystemTime::now().duration_since(modified).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::chain::tests::identity;
    use super::super::chain::{CacheKey, Chain};
    use super::*;

    #[test]
    fn names_of_files_are_read_back_and_nothing_else_is() {
        let block = Chain::new(CacheKey::new(&identity()), &[3; 40]).names()[0];
        assert_eq!(parse(&format!("0-{block}.kv")), Some((0, block)));
        assert_eq!(parse(&format!("4294967295-{block}.kv")), Some((u32::MAX, block)));
        for other in [
            format!("{block}.kv"),
            format!("-{block}.kv"),
            format!("+1-{block}.kv"),
            format!("01-{block}.kv"),
            format!("4294967296-{block}.kv"),
            format!("0-{block}kv"),
            format!("0-{block}.kv.tmp"),
            format!("0-{block}"),
            "notes.kv".to_owned(),
        ] {
            assert_eq!(parse(&other), None, "{other}");
        }
    }

    #[test]
    fn times_are_those_of_files() {
        for ns in [0, 1, 1_772_448_545_123_456_789] {
            assert_eq!(nanoseconds(time(ns)), ns);
        }
    }
}
