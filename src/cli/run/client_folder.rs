//! A folder for one client: made for it, readable for its user alone, and gone with it.

use std::io;
use std::path::{Path, PathBuf};

use super::clients::ClientFile;
use crate::server::request_id::random_name;

#[derive(Debug)]
pub struct ClientFolder {
    path: PathBuf,
    /// A folder that the user named is the user's.
    removed_at_end: bool,
}

impl ClientFolder {
    /// An empty one among the system's temporary files.
    pub fn disposable() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("understudy-{}", random_name()));
        make(&path, false)?;
        Ok(Self { path, removed_at_end: true })
    }

    /// One that stays, with what the client left in it at an earlier time.
    pub fn kept(path: &Path) -> io::Result<Self> {
        make(path, true)?;
        // The client may change into another folder before it reads the path.
        Ok(Self { path: path.canonicalize()?, removed_at_end: false })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn write(&self, file: &ClientFile) -> io::Result<()> {
        let path = self.path.join(file.name);
        if file.begun_once && path.exists() {
            return Ok(());
        }
        std::fs::write(path, &file.text)
    }
}

impl Drop for ClientFolder {
    fn drop(&mut self) {
        if self.removed_at_end {
            // A process that the client left behind may still write into it; what is left is the system's to tidy up.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

fn make(path: &Path, may_exist: bool) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(may_exist);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}
