//! A copy of all tensors in memory of our own, on huge pages: for machines where reading the mapped file's ordinary pages is what decoding
//! waits for. Knows no file.

use std::sync::{Arc, Mutex, PoisonError};

use kernels::SharedBytes;
use kernels::cpu::pool::pool;
use kernels::huge::{PageBuffer, PageSize};

use super::TensorInfo;

/// Where each tensor starts: at a cache line, whatever the file's own alignment.
const ALIGNMENT: usize = 64;
/// What one thread copies at a time.
const PIECE_BYTES: usize = 4 << 20;

/// How a copy went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WeightCopy {
    pub bytes: u64,
    /// Of these, on huge pages.
    pub huge_bytes: u64,
}

pub(super) fn copy_tensors(tensors: &mut [TensorInfo]) -> std::io::Result<WeightCopy> {
    let len_bytes: usize = tensors.iter().map(place_bytes).sum();
    let mut buffer = PageBuffer::new(len_bytes, PageSize::Huge)?;
    let mut rest = buffer.as_mut_slice();
    let mut pieces = Vec::new();
    for tensor in tensors.iter() {
        let (place, after) = std::mem::take(&mut rest).split_at_mut(place_bytes(tensor));
        rest = after;
        let from = tensor.bytes.as_slice();
        let to = &mut place[..from.len()];
        pieces.extend(to.chunks_mut(PIECE_BYTES).zip(from.chunks(PIECE_BYTES)).map(Mutex::new));
    }
    pool().run(pieces.len(), |index| {
        let mut piece = pieces[index].lock().unwrap_or_else(PoisonError::into_inner);
        let (to, from) = &mut *piece;
        to.copy_from_slice(from);
    });
    drop(pieces);
    let copied = WeightCopy { bytes: len_bytes as u64, huge_bytes: buffer.huge_bytes() };
    let whole = SharedBytes::new(Arc::new(buffer));
    let mut start = 0;
    for tensor in tensors {
        let place = place_bytes(tensor);
        tensor.bytes = whole.slice(start, tensor.bytes.as_slice().len()).expect("the buffer has a place for every tensor");
        start += place;
    }
    Ok(copied)
}

fn place_bytes(tensor: &TensorInfo) -> usize {
    tensor.bytes.as_slice().len().next_multiple_of(ALIGNMENT)
}
