//! Maps a file into memory, read-only: the one place of this crate with `unsafe`.

use std::path::Path;

/// A whole file, mapped. Nothing is read until it is looked at, and two processes share the pages.
#[derive(Debug)]
pub(super) struct MappedFile(memmap2::Mmap);

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl MappedFile {
    /// Takes the file's pages out of this process' memory; they stay in the system's cache, and are there again when looked at.
    pub(super) fn let_go(&self) {
        #[cfg(unix)]
        // SAFETY: pages of a read-only map of a file hold nothing that is not in the file; a later read finds the same bytes.
        let _ = unsafe { self.0.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
    }
}

pub(super) fn map(path: &Path) -> std::io::Result<MappedFile> {
    let file = std::fs::File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(std::io::Error::new(std::io::ErrorKind::IsADirectory, "it is a directory"));
    }
    // SAFETY: the map is read-only and private to this process, and nothing here writes model files. What remains is another
    // process that shortens or rewrites the file while it is served: no program that maps files can rule that out, hub/ never
    // changes a finished download in place (it renames a new file over the old), and the bytes are only ever read as numbers and
    // checked text, so changed bytes give wrong answers and a shortened file ends the process; neither reaches other memory.
    let map = unsafe { memmap2::Mmap::map(&file) }?;
    Ok(MappedFile(map))
}
