//! What the scheduler decides for one step.
#![deny(clippy::disallowed_methods)]

use super::prefix_cache::BlockId;
use super::sequence::SequenceId;
use super::step_times::Load;

/// The decision for one step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Streams first, then the others; rows are laid out in this order.
    pub chunks: Vec<Chunk>,
    /// Paused to make room, the last in rank first.
    pub paused: Vec<SequenceId>,
    /// To be made one after the other, before anything is computed.
    pub copies: Vec<BlockCopy>,
    /// Nobody is delayed by drafts: streams alone, and none of them is measured in this step.
    pub may_draft: bool,
}

/// What stands in one block is to stand in another, which is the last of a sequence's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockCopy {
    pub id: SequenceId,
    pub from: BlockId,
    pub to: BlockId,
}

/// Tokens `start..start + len` of one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    pub id: SequenceId,
    pub start: usize,
    /// Those of the draft included.
    pub len: usize,
    /// The chunk closes the distance: its last row gives the next token.
    pub samples: bool,
    /// So many tokens at the end are the sequence's draft. Each of their rows gives a token too, if all before it were right.
    pub drafts: usize,
}

impl Plan {
    pub fn rows(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.len).sum()
    }
    pub fn load(&self) -> Load {
        self.chunks.iter().map(|chunk| Load::of(chunk.start, chunk.len)).fold(Load::default(), Load::and)
    }
}
