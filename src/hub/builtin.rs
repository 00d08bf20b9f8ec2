//! The model that is part of the binary, used where it lies: never copied, never unpacked.

use std::sync::Arc;

use kernels::SharedBytes;

/// The alignment GGUF's tensors may ask for (32) and a cache line (64).
#[repr(C, align(64))]
struct Aligned<Bytes: ?Sized>(Bytes);

static MODEL: &Aligned<[u8]> = &Aligned(*include_bytes!("../../models/default/understudy-mini.gguf"));

/// What replies call it.
pub const NAME: &str = "understudy-mini";

struct InBinary;

impl AsRef<[u8]> for InBinary {
    fn as_ref(&self) -> &[u8] {
        &MODEL.0
    }
}

/// The GGUF file.
pub fn bytes() -> SharedBytes {
    SharedBytes::new(Arc::new(InBinary))
}

/// Length of the GGUF file.
pub fn len() -> u64 {
    MODEL.0.len() as u64
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_model_is_aligned() {
        assert_eq!(super::bytes().as_slice().as_ptr() as usize % 64, 0);
    }
}
