//! Maps a file into memory, read-only: the one place of this crate with `unsafe`.

use std::path::Path;

/// A whole file, mapped. Nothing is read until it is looked at, and two processes share the pages.
#[derive(Debug)]
pub(crate) struct MappedFile {
    map: memmap2::Mmap,
    pub(super) identity: Option<FileIdentity>,
}

/// What the system knows a file and its content by, without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileIdentity {
    pub device: u64,
    pub inode: u64,
    pub bytes: u64,
    /// Since 1970.
    pub modified_ns: i128,
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

impl MappedFile {
    /// Takes the file's pages out of this process' memory; they stay in the system's cache, and are there again when looked at.
    pub(super) fn let_go(&self) {
        #[cfg(unix)]
        // SAFETY: pages of a read-only map of a file hold nothing that is not in the file; a later read finds the same bytes.
        let _ = unsafe { self.map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
    }
}

pub(crate) fn map(path: &Path) -> std::io::Result<MappedFile> {
    let file = std::fs::File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(std::io::Error::new(std::io::ErrorKind::IsADirectory, "it is a directory"));
    }
    // SAFETY: the map is read-only and private to this process, and nothing here writes model files. What remains is another
    // process that shortens or rewrites the file while it is served: no program that maps files can rule that out, hub/ never
    // changes a finished download in place (it renames a new file over the old), and the bytes are only ever read as numbers and
    // checked text, so changed bytes give wrong answers and a shortened file ends the process; neither reaches other memory.
    let map = unsafe { memmap2::Mmap::map(&file) }?;
    Ok(MappedFile { map, identity: identity(&metadata) })
}

#[cfg(unix)]
fn identity(metadata: &std::fs::Metadata) -> Option<FileIdentity> {
    use std::os::unix::fs::MetadataExt;
    let modified_ns = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
    Some(FileIdentity { device: metadata.dev(), inode: metadata.ino(), bytes: metadata.size(), modified_ns })
}

/// Elsewhere a path and a time would have to do, which a copied file can share with another.
#[cfg(not(unix))]
fn identity(_: &std::fs::Metadata) -> Option<FileIdentity> {
    None
}
