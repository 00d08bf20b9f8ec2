//! Every tensor type of the GGUF format: its number, name and block size, also for types that are not computed here.

/// A ggml tensor type. Filled in by the block formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GgmlType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}
