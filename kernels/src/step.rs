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
    /// One entry a group of sliding-window layers: the same rows over pages of their own. Empty where there are none.
    pub windows: Vec<WindowPages>,
    /// `[S]` where recurrent layers find and leave each sequence's state. Empty where there are none.
    pub states: Vec<StateSlots>,
}

/// What stands in for [`Step::slots`] and [`Step::tables`] in the layers of one window; of the same widths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WindowPages {
    /// `[T]`
    pub slots: Vec<u32>,
    /// `[S, blocks_max]`; entries of blocks wholly behind the window of the span's first row are 0 and never looked at.
    pub tables: Vec<u32>,
}

/// The recurrent state of one sequence in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateSlots {
    /// The state after the tokens before this step's; `None`: there are none.
    pub from: Option<u32>,
    /// Where the state after this step's tokens is left; it may be `from`. Unless it is, `from` is not changed.
    pub to: u32,
}

/// What is wrong with a step. Steps are made by the program, so each of these is a bug of whoever built one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    #[error("span {span} has no rows")]
    EmptySpan { span: usize },
    #[error("span {span} starts at row {found}, expected {expected}: spans must cover the rows in order, without gaps")]
    Gap { span: usize, expected: usize, found: usize },
    #[error("the spans cover {covered} rows, but there are {positions} positions and {slots} slots")]
    Rows { covered: usize, positions: usize, slots: usize },
    #[error("span {span} computes {q_len} rows of a sequence of {kv_len} tokens")]
    KvShorterThanRows { span: usize, q_len: usize, kv_len: usize },
    #[error("span {span} needs row {table_row} of the tables with {blocks} blocks; there are {rows} rows of {blocks_max}")]
    Table { span: usize, table_row: usize, blocks: usize, rows: usize, blocks_max: usize },
    #[error("span {span} names block {block}; the cache has {cache_blocks}")]
    Block { span: usize, block: u32, cache_blocks: usize },
    #[error("row {row} has position {found}, expected {expected}")]
    Position { row: usize, expected: usize, found: u32 },
    #[error("row {row} writes slot {found}, its position and table say {expected}")]
    Slot { row: usize, expected: usize, found: u32 },
    #[error("two rows write slot {slot}")]
    SlotTwice { slot: u32 },
    #[error("logit rows must be ascending and below {rows}; found {found}")]
    LogitRow { rows: usize, found: u32 },
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

    /// The step as the layers of window `group` see it: what kernels take, with that group's pages for their own.
    pub fn of_window(&self, group: usize) -> Self {
        let WindowPages { slots, tables } = self.windows[group].clone();
        Self {
            spans: self.spans.clone(),
            positions: self.positions.clone(),
            slots,
            tables,
            blocks_max: self.blocks_max,
            logit_rows: self.logit_rows.clone(),
            windows: Vec::new(),
            states: Vec::new(),
        }
    }

    /// States every promise of the fields above, for a cache of `cache_blocks` blocks.
    pub fn check(&self, cache_blocks: usize) -> Result<(), StepError> {
        let table_rows = self.tables.len().checked_div(self.blocks_max).unwrap_or(0);
        let mut covered = 0;
        for (index, span) in self.spans.iter().enumerate() {
            self.check_span(index, span, covered, table_rows, cache_blocks)?;
            covered += span.q_len;
        }
        if covered != self.positions.len() || covered != self.slots.len() {
            return Err(StepError::Rows { covered, positions: self.positions.len(), slots: self.slots.len() });
        }
        self.check_rows()?;
        let mut sorted = self.slots.clone();
        sorted.sort_unstable();
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(StepError::SlotTwice { slot: pair[0] });
        }
        for (index, &row) in self.logit_rows.iter().enumerate() {
            if row as usize >= covered || index > 0 && self.logit_rows[index - 1] >= row {
                return Err(StepError::LogitRow { rows: covered, found: row });
            }
        }
        Ok(())
    }

    fn check_span(&self, index: usize, span: &Span, covered: usize, table_rows: usize, cache_blocks: usize) -> Result<(), StepError> {
        let &Span { q_start, q_len, kv_len, table_row } = span;
        if q_len == 0 {
            return Err(StepError::EmptySpan { span: index });
        }
        if q_start != covered {
            return Err(StepError::Gap { span: index, expected: covered, found: q_start });
        }
        if kv_len < q_len {
            return Err(StepError::KvShorterThanRows { span: index, q_len, kv_len });
        }
        let blocks = kv_len.div_ceil(BLOCK_TOKENS);
        if table_row >= table_rows || blocks > self.blocks_max {
            return Err(StepError::Table { span: index, table_row, blocks, rows: table_rows, blocks_max: self.blocks_max });
        }
        match self.table(span).iter().find(|&&block| block as usize >= cache_blocks) {
            Some(&block) => Err(StepError::Block { span: index, block, cache_blocks }),
            None => Ok(()),
        }
    }

    /// Positions and slots of every row; the spans are known to be sound.
    fn check_rows(&self) -> Result<(), StepError> {
        for span in &self.spans {
            let table = self.table(span);
            for i in 0..span.q_len {
                let (row, expected) = (span.q_start + i, span.kv_len - span.q_len + i);
                if self.positions[row] as usize != expected {
                    return Err(StepError::Position { row, expected, found: self.positions[row] });
                }
                let slot = table[expected / BLOCK_TOKENS] as usize * BLOCK_TOKENS + expected % BLOCK_TOKENS;
                if self.slots[row] as usize != slot {
                    return Err(StepError::Slot { row, expected: slot, found: self.slots[row] });
                }
            }
        }
        Ok(())
    }
}

/// Which rows of a sequence want logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogitRows {
    /// None: a chunk of a prompt with more to come.
    None,
    /// The last row only: a decode step, or the end of a prompt.
    Last,
    /// The last so many rows: a speculative verification.
    LastMany(usize),
    /// Every row: an oracle, or the logprobs of a prompt.
    All,
}

/// Builds a [`Step`], sequence by sequence.
#[derive(Debug, Default)]
pub struct StepBuilder {
    step: Step,
    /// One row a span; laid out to the same width at the end.
    tables: Vec<Vec<u32>>,
}

/// A sequence that does not fit its own block table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepBuildError {
    #[error("a sequence must compute at least one token in a step")]
    NoTokens,
    #[error("{tokens} tokens need {needed} blocks, the table has {found}")]
    TableTooShort { tokens: usize, needed: usize, found: usize },
    #[error("block {block} has slots beyond the 32-bit range")]
    BlockTooLarge { block: u32 },
}

impl StepBuilder {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a sequence of which `computed` tokens stand in the cache and `new_tokens` are computed now; `table` holds its blocks
    /// in order of position and may be longer than needed. On error nothing is added.
    pub fn push(&mut self, computed: usize, new_tokens: usize, table: &[u32], logits: LogitRows) -> Result<(), StepBuildError> {
        if new_tokens == 0 {
            return Err(StepBuildError::NoTokens);
        }
        let kv_len = computed + new_tokens;
        let needed = kv_len.div_ceil(BLOCK_TOKENS);
        let Some(table) = table.get(..needed) else {
            return Err(StepBuildError::TableTooShort { tokens: kv_len, needed, found: table.len() });
        };
        if let Some(&block) = table.iter().find(|&&block| block > u32::MAX / BLOCK_TOKENS as u32 - 1) {
            return Err(StepBuildError::BlockTooLarge { block });
        }
        let step = &mut self.step;
        let q_start = step.positions.len();
        step.spans.push(Span { q_start, q_len: new_tokens, kv_len, table_row: self.tables.len() });
        for position in computed..kv_len {
            step.positions.push(position as u32);
            step.slots.push(table[position / BLOCK_TOKENS] * BLOCK_TOKENS as u32 + (position % BLOCK_TOKENS) as u32);
        }
        let wanted = match logits {
            LogitRows::None => 0,
            LogitRows::Last => 1,
            LogitRows::LastMany(rows) => rows.min(new_tokens),
            LogitRows::All => new_tokens,
        };
        let end = q_start + new_tokens;
        step.logit_rows.extend((end - wanted..end).map(|row| row as u32));
        self.tables.push(table.to_vec());
        Ok(())
    }

    /// Rows so far.
    pub fn rows(&self) -> usize {
        self.step.rows()
    }

    pub fn finish(self) -> Step {
        let mut step = self.step;
        step.blocks_max = self.tables.iter().map(Vec::len).max().unwrap_or(0);
        step.tables = vec![0; step.blocks_max * self.tables.len()];
        for (row, table) in self.tables.iter().enumerate() {
            step.tables[row * step.blocks_max..][..table.len()].copy_from_slice(table);
        }
        step
    }
}
