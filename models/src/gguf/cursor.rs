//! A little-endian reader over bytes that never reads past their end and never allocates what the bytes cannot hold.

use super::error::GgufProblem;

pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8], position: usize) -> Self {
        assert!(position <= bytes.len(), "a cursor starts inside its bytes");
        Self { bytes, position }
    }

    pub(super) fn position(&self) -> usize {
        self.position
    }

    pub(super) fn left_bytes(&self) -> u64 {
        (self.bytes.len() - self.position) as u64
    }

    /// The next `len_bytes` bytes; `what` names them in the error.
    pub(super) fn take(&mut self, len_bytes: u64, what: impl FnOnce() -> String) -> Result<&'a [u8], GgufProblem> {
        if len_bytes > self.left_bytes() {
            let (at, left_bytes) = (self.position as u64, self.left_bytes());
            return Err(GgufProblem::CutOff { what: what(), at, needed_bytes: len_bytes, left_bytes });
        }
        let start = self.position;
        self.position += len_bytes as usize;
        Ok(&self.bytes[start..self.position])
    }

    pub(super) fn array<const N: usize>(&mut self, what: impl FnOnce() -> String) -> Result<[u8; N], GgufProblem> {
        let bytes = self.take(N as u64, what)?;
        Ok(bytes.try_into().expect("take returns as many bytes as asked for"))
    }

    pub(super) fn u32(&mut self, what: impl FnOnce() -> String) -> Result<u32, GgufProblem> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: impl FnOnce() -> String) -> Result<u64, GgufProblem> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A GGUF string: its length in bytes (u64), then the bytes.
    pub(super) fn string_bytes(&mut self, what: impl Fn() -> String) -> Result<&'a [u8], GgufProblem> {
        let len_bytes = self.u64(&what)?;
        self.take(len_bytes, what)
    }

    pub(super) fn string(&mut self, what: impl Fn() -> String) -> Result<&'a str, GgufProblem> {
        let bytes = self.string_bytes(&what)?;
        std::str::from_utf8(bytes).map_err(|_| GgufProblem::NotUtf8 { what: what() })
    }

    /// Refuses a count whose entries, at `entry_bytes_min` each, cannot fit in what is left: before anything is allocated for them.
    pub(super) fn check_count(&self, count: u64, entry_bytes_min: u64, what: impl FnOnce() -> String) -> Result<usize, GgufProblem> {
        match count.checked_mul(entry_bytes_min) {
            Some(needed_bytes) if needed_bytes <= self.left_bytes() => Ok(count as usize),
            _ => Err(GgufProblem::AbsurdCount { what: what(), count, left_bytes: self.left_bytes() }),
        }
    }
}
