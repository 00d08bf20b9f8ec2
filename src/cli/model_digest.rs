//! Which bytes a model is: a hash of its files. Reading gigabytes takes seconds, so what was read once is remembered by what the system
//! knows a file by: device, inode, size and time of change.
//!
//! The memory is a text file, a line a model file; it is only ever a shortcut, and where it cannot be read or written the files are read.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kernels::SharedBytes;
use models::gguf::FileIdentity;

/// A part of a model, and what the system knows it by where it is a file.
pub type Part = (SharedBytes, Option<FileIdentity>);
pub type Digest = [u8; 32];

/// A file younger than this may change again without a change of its time.
const SETTLED: Duration = Duration::from_secs(10);
/// The oldest lines go first.
const LINES_MAX: usize = 256;

/// The digest of all parts together. `memory`: the file that remembers.
pub fn digest(parts: &[Part], memory: &Path) -> Digest {
    let mut whole = blake3::Hasher::new();
    for (bytes, identity) in parts {
        let remembered = identity.and_then(|identity| recall(&std::fs::read_to_string(memory).ok()?, &identity));
        let part = remembered.unwrap_or_else(|| {
            let digest = blake3::hash(bytes.as_slice()).into();
            if let Some(identity) = identity.filter(is_settled)
                && let Err(error) = remember_in(memory, &identity, &digest)
            {
                tracing::debug!("{}: {error}; the model will be read again next time", memory.display());
            }
            digest
        });
        whole.update(&part);
    }
    whole.finalize().into()
}

fn is_settled(identity: &FileIdentity) -> bool {
    let now_ns = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i128);
    now_ns - identity.modified_ns >= SETTLED.as_nanos() as i128
}

fn remember_in(memory: &Path, identity: &FileIdentity, digest: &Digest) -> io::Result<()> {
    let text = std::fs::read_to_string(memory).unwrap_or_default();
    if let Some(folder) = memory.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // Written beside it and renamed: another process reads the old lines or the new ones.
    let written = memory.with_extension(format!("{}.tmp", std::process::id()));
    std::fs::write(&written, remember(&text, identity, digest)).and_then(|()| std::fs::rename(&written, memory))
}

fn recall(text: &str, identity: &FileIdentity) -> Option<Digest> {
    let known_by = known_by(identity);
    let digest = text.lines().rev().find_map(|line| line.strip_prefix(&known_by)?.strip_prefix(' '))?;
    Some(*blake3::Hash::from_hex(digest).ok()?.as_bytes())
}

fn remember(text: &str, identity: &FileIdentity, digest: &Digest) -> String {
    let kept: Vec<&str> = text.lines().collect();
    let kept = &kept[kept.len().saturating_sub(LINES_MAX - 1)..];
    let line = format!("{} {}", known_by(identity), blake3::Hash::from_bytes(*digest).to_hex());
    kept.iter().copied().chain([line.as_str()]).map(|line| format!("{line}\n")).collect()
}

fn known_by(identity: &FileIdentity) -> String {
    let FileIdentity { device, inode, bytes, modified_ns } = identity;
    format!("{device} {inode} {bytes} {modified_ns}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: FileIdentity = FileIdentity { device: 1, inode: 22, bytes: 333, modified_ns: 4444 };

    #[test]
    fn what_is_remembered_is_that_very_file() {
        let text = remember(&remember("", &FILE, &[1; 32]), &FileIdentity { inode: 2, ..FILE }, &[2; 32]);
        assert_eq!(recall(&text, &FILE), Some([1; 32]));
        for other in [
            FileIdentity { device: 2, ..FILE },
            FileIdentity { inode: 23, ..FILE },
            FileIdentity { bytes: 334, ..FILE },
            FileIdentity { modified_ns: 4445, ..FILE },
            FileIdentity { modified_ns: 444, ..FILE },
        ] {
            assert_eq!(recall(&text, &other), None, "{other:?}");
        }
        assert_eq!(recall(&remember(&text, &FILE, &[3; 32]), &FILE), Some([3; 32]), "the latest word counts");
    }

    #[test]
    fn a_memory_that_is_none_is_not_believed_and_has_an_end() {
        for text in ["", "\n", "nonsense", "1 22 333 4444", "1 22 333 4444 abc", &format!("1 22 333 4444 {}", "g".repeat(64))] {
            assert_eq!(recall(text, &FILE), None, "{text}");
        }
        let long = "1 1 1 1 x\n".repeat(10_000);
        assert_eq!(remember(&long, &FILE, &[1; 32]).lines().count(), LINES_MAX);
    }

    #[test]
    fn every_byte_of_every_part_counts() {
        let part = |bytes: &[u8]| (SharedBytes::from(bytes.to_vec()), None);
        let nowhere = Path::new("no/such/folder/models");
        let digests = [
            digest(&[part(b"ab")], nowhere),
            digest(&[part(b"ac")], nowhere),
            digest(&[part(b"a"), part(b"b")], nowhere),
            digest(&[part(b"b"), part(b"a")], nowhere),
        ];
        for (at, one) in digests.iter().enumerate() {
            assert!(!digests[at + 1..].contains(one));
        }
        assert_eq!(digest(&[part(b"ab")], nowhere), digests[0]);
    }
}
