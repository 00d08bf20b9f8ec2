//! Lays a plan out as the ragged batch that the model computes: which rows, at which positions, into which slots, over which blocks.
//!
//! Decides nothing. Knows no model.
#![deny(clippy::disallowed_methods)]

use kernels::{BLOCK_TOKENS, Span, Step, WindowPages};

use super::layer_groups::GroupTables;
use super::plan::Plan;
use super::prefix_cache::BlockId;
use super::scheduler::Scheduler;
use super::step_times::Load;

/// The input of one step; reused, so that a step allocates nothing.
#[derive(Debug, Default)]
pub struct Batch {
    /// `[T]`
    pub token_ids: Vec<u32>,
    pub step: Step,
}

/// Rows of one sequence.
#[derive(Debug, Clone, Copy)]
pub struct SpanRows<'a> {
    /// Position of the first.
    pub start: usize,
    /// Of the sequence, and behind them what is guessed.
    pub tokens: &'a [u32],
    pub guessed: &'a [u32],
    /// All of the sequence's blocks, or more than these rows look at.
    pub table: &'a [BlockId],
    /// What its layers with windows and with a state have; `None`: there are none.
    pub groups: Option<&'a GroupTables>,
    /// So many of the first rows give logits, for the scores of the tokens after them.
    pub scored_rows: usize,
    /// So many of the last rows give logits.
    pub logit_rows: usize,
}

impl Batch {
    /// Replaces the content by that of `plan`, which `scheduler` has just made.
    pub fn lay_out(&mut self, plan: &Plan, scheduler: &Scheduler) {
        self.fill(
            scheduler.blocks().groups().windows(),
            plan.chunks.iter().map(|chunk| {
                let sequence = scheduler.running(chunk.id).expect("a planned sequence runs");
                SpanRows {
                    start: chunk.start,
                    tokens: &sequence.tokens()[chunk.start..chunk.start + chunk.len - chunk.drafts],
                    guessed: &sequence.draft()[..chunk.drafts],
                    table: sequence.table.blocks(),
                    groups: Some(sequence.table.groups()),
                    scored_rows: sequence.scored_rows(chunk.start, chunk.len),
                    logit_rows: if chunk.samples { 1 + chunk.drafts } else { 0 },
                }
            }),
        );
    }

    /// Replaces the content by these rows, one span a sequence. `windows`: groups of layers that see a window.
    pub fn fill<'a>(&mut self, windows: usize, spans: impl ExactSizeIterator<Item = SpanRows<'a>> + Clone) {
        let step = &mut self.step;
        self.token_ids.clear();
        step.spans.clear();
        step.positions.clear();
        step.slots.clear();
        step.logit_rows.clear();
        step.blocks_max = spans.clone().map(|rows| rows.end().div_ceil(BLOCK_TOKENS)).max().unwrap_or(0);
        step.tables.clear();
        step.tables.resize(spans.len() * step.blocks_max, 0);
        step.windows.resize_with(windows, WindowPages::default);
        for pages in &mut step.windows {
            pages.slots.clear();
            pages.tables.clear();
            pages.tables.resize(spans.len() * step.blocks_max, 0);
        }
        step.states.clear();

        for (table_row, rows) in spans.enumerate() {
            let (kv_len, q_len) = (rows.end(), rows.tokens.len() + rows.guessed.len());
            let table = &rows.table[..kv_len.div_ceil(BLOCK_TOKENS)];
            let row = &mut step.tables[table_row * step.blocks_max..][..table.len()];
            for (entry, block) in row.iter_mut().zip(table) {
                *entry = block.0;
            }
            step.spans.push(Span { q_start: self.token_ids.len(), q_len, kv_len, table_row });
            for position in rows.start..kv_len {
                step.positions.push(position as u32);
                step.slots.push(table[position / BLOCK_TOKENS].0 * BLOCK_TOKENS as u32 + (position % BLOCK_TOKENS) as u32);
            }
            if let Some(groups) = rows.groups {
                for (pages, (first, held)) in step.windows.iter_mut().zip(groups.windows()) {
                    let row = &mut pages.tables[table_row * step.blocks_max..][..table.len()];
                    row.iter_mut().skip(first).zip(held).for_each(|(entry, block)| *entry = *block);
                    let slot = |position: usize| row[position / BLOCK_TOKENS] * BLOCK_TOKENS as u32 + (position % BLOCK_TOKENS) as u32;
                    pages.slots.extend((rows.start..kv_len).map(slot));
                }
                step.states.extend(groups.state_slots());
            }
            let first = self.token_ids.len() as u32;
            self.token_ids.extend_from_slice(rows.tokens);
            self.token_ids.extend_from_slice(rows.guessed);
            let end = self.token_ids.len() as u32;
            step.logit_rows.extend(first..first + rows.scored_rows as u32);
            step.logit_rows.extend(end - rows.logit_rows as u32..end);
        }
    }

    pub fn load(&self) -> Load {
        self.step.spans.iter().map(|span| Load::of(span.kv_len - span.q_len, span.q_len)).fold(Load::default(), Load::and)
    }
}

impl SpanRows<'_> {
    fn end(&self) -> usize {
        self.start + self.tokens.len() + self.guessed.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::block_manager::BlockManager;
    use super::super::scheduler::Limits;
    use super::super::sequence::{Sequence, SequenceId};
    use super::super::step_times::StepTimes;
    use super::*;

    #[test]
    fn a_stream_and_a_chunk_of_a_prompt() {
        let limits = Limits { sequences_max: 4, tokens_per_step_max: 36, answer_tokens_reserved: 512, drafts_max: 4 };
        let mut scheduler = Scheduler::new(limits, BlockManager::new(8));
        scheduler.add(Sequence::new(SequenceId(0), vec![1, 2], 5, vec![]));
        let plan = scheduler.schedule(Duration::ZERO, &StepTimes::default());
        scheduler.commit(&plan.chunks[0], &[3]);
        scheduler.add(Sequence::new(SequenceId(1), (100..140).collect(), 5, vec![]));
        let plan = scheduler.schedule(Duration::ZERO, &StepTimes::default());
        let mut batch = Batch::default();
        batch.lay_out(&plan, &scheduler);
        let step = &batch.step;
        assert_eq!(batch.token_ids, [&[3][..], &(100..135).collect::<Vec<_>>()].concat());
        assert_eq!(step.spans[0], Span { q_start: 0, q_len: 1, kv_len: 3, table_row: 0 });
        assert_eq!(step.spans[1], Span { q_start: 1, q_len: 35, kv_len: 35, table_row: 1 });
        assert_eq!((step.blocks_max, &step.tables[..]), (2, &[0, 0, 1, 2][..]));
        assert_eq!(step.positions, [&[2][..], &(0..35).collect::<Vec<_>>()].concat());
        assert_eq!(step.slots, [&[2][..], &(32..67).collect::<Vec<_>>()].concat());
        // The prompt is not through: only the stream gets a token.
        assert_eq!(step.logit_rows, [0]);
    }

    #[test]
    fn a_draft_follows_its_stream_and_each_of_its_rows_gives_logits() {
        let limits = Limits { sequences_max: 4, tokens_per_step_max: 64, answer_tokens_reserved: 512, drafts_max: 4 };
        let mut scheduler = Scheduler::new(limits, BlockManager::new(8));
        let prompt = vec![1, 2, 3, 4, 5, 6, 7, 8, 1, 2];
        scheduler.add(Sequence::new(SequenceId(0), prompt, 50, vec![]).drafting());
        let mut times = StepTimes::default();
        times.record(Load::of(0, 1), 0.05);
        times.record(Load::of(0, 16), 0.05);
        let plan = scheduler.schedule(Duration::ZERO, &times);
        scheduler.commit(&plan.chunks[0], &[3]);
        let plan = scheduler.schedule(Duration::ZERO, &times);
        let mut batch = Batch::default();
        batch.lay_out(&plan, &scheduler);
        assert_eq!(batch.token_ids, [3, 4, 5, 6, 7]);
        assert_eq!(batch.step.spans, [Span { q_start: 0, q_len: 5, kv_len: 15, table_row: 0 }]);
        assert_eq!((&batch.step.positions[..], &batch.step.logit_rows[..]), (&[10, 11, 12, 13, 14][..], &[0, 1, 2, 3, 4][..]));
        // The first two were right, and the third token is another one.
        assert_eq!(scheduler.commit(&plan.chunks[0], &[4, 5, 9]), None);
        scheduler.check().unwrap();
        let sequence = scheduler.running(SequenceId(0)).unwrap();
        assert_eq!((sequence.computed(), &sequence.tokens()[10..]), (13, &[3, 4, 5, 9][..]));
    }
}
