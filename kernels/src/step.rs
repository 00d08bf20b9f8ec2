//! The ragged batch of one engine step: which rows belong to which sequence, and where their keys and values live.
//!
//! A prefill chunk, a decode step, a speculative verification and the rest of a prompt after a prefix hit are the same thing here:
//! a span of rows. Nothing is padded, nothing is bucketed by length.

/// Tokens in one block of the paged key/value cache.
pub const BLOCK_TOKENS: usize = 32;

/// The rows of one sequence inside a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First row of the sequence in the step's `[T, hidden]` tensors.
    pub q_start: usize,
    /// Rows computed in this step, at least 1.
    pub q_len: usize,
    /// Tokens of the sequence that stand in the cache once this step has written its own: row `i` of the span has
    /// absolute position `kv_len - q_len + i` and sees keys `0..=that position`.
    pub kv_len: usize,
    /// Row of [`Step::tables`] that holds the sequence's blocks.
    pub table_row: usize,
}

/// One ragged batch. `T` is the number of rows (tokens computed), `S` the number of spans.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Step {
    /// One entry a sequence, in ascending `q_start`, covering `0..T` without gaps.
    pub spans: Vec<Span>,
    /// `[T]` absolute position of each row.
    pub positions: Vec<u32>,
    /// `[T]` cache slot each row writes: `block * BLOCK_TOKENS + offset`.
    pub slots: Vec<u32>,
    /// `[S, blocks_max]` block numbers, row-major; unused tail entries are 0 and never read.
    pub tables: Vec<u32>,
    /// Width of a row of [`Step::tables`].
    pub blocks_max: usize,
    /// Rows whose logits are wanted, ascending.
    pub logit_rows: Vec<u32>,
}

impl Step {
    /// Number of rows `T`.
    pub fn rows(&self) -> usize {
        self.positions.len()
    }

    /// Blocks of the sequence behind `span`, in order of position; only the first `ceil(kv_len / BLOCK_TOKENS)` are meaningful.
    pub fn table(&self, span: &Span) -> &[u32] {
        let start = span.table_row * self.blocks_max;
        &self.tables[start..start + span.kv_len.div_ceil(BLOCK_TOKENS)]
    }
}
