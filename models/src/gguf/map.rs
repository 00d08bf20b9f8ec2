//! Maps a file into memory, read-only: the one `unsafe` of this crate.

use std::path::Path;
use std::sync::Arc;

use kernels::SharedBytes;

/// The whole file, mapped. Nothing is read until it is looked at, and two processes share the pages.
pub(super) fn map(path: &Path) -> std::io::Result<SharedBytes> {
    let file = std::fs::File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(std::io::Error::new(std::io::ErrorKind::IsADirectory, "it is a directory"));
    }
    // SAFETY: the map is read-only and private to this process, and nothing here writes model files. What remains is another
    // process that shortens or rewrites the file while it is served: no program that maps files can rule that out, hub/ never
    // changes a finished download in place (it renames a new file over the old), and the bytes are only ever read as numbers and
    // checked text, so changed bytes give wrong answers and a shortened file ends the process; neither reaches other memory.
    let map = unsafe { memmap2::Mmap::map(&file) }?;
    Ok(SharedBytes::new(Arc::new(map)))
}
