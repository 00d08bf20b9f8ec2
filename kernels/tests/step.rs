//! A step's promises: what the builder makes passes the check, and each broken promise is found.

use kernels::{BLOCK_TOKENS, LogitRows, Span, Step, StepBuildError, StepBuilder, StepError};
use proptest::prelude::*;

/// Two sequences: 40 tokens computed and 30 new over blocks 5, 1, 7; then one new token in block 2.
fn two() -> Step {
    let mut builder = StepBuilder::new();
    builder.push(40, 30, &[5, 1, 7, 9], LogitRows::Last).unwrap();
    builder.push(0, 1, &[2], LogitRows::All).unwrap();
    builder.finish()
}

#[test]
fn the_builder_lays_out_rows_slots_and_tables() {
    let step = two();
    assert_eq!(step.check(8), Ok(()));
    assert_eq!(step.rows(), 31);
    assert_eq!(step.spans[0], Span { q_start: 0, q_len: 30, kv_len: 70, table_row: 0 });
    assert_eq!(step.spans[1], Span { q_start: 30, q_len: 1, kv_len: 1, table_row: 1 });
    assert_eq!(step.positions[..2], [40, 41]);
    assert_eq!(step.slots[0], 32 + 8);
    assert_eq!(step.slots[24], 7 * 32);
    assert_eq!(step.slots[30], 2 * 32);
    assert_eq!((step.blocks_max, step.tables.as_slice()), (3, [5, 1, 7, 2, 0, 0].as_slice()));
    assert_eq!(step.logit_rows, [29, 30]);
    assert_eq!(step.table(&step.spans[1]), [2]);
}

#[test]
fn an_empty_step_is_sound() {
    assert_eq!(StepBuilder::new().finish().check(0), Ok(()));
}

#[test]
fn the_builder_refuses_what_does_not_fit() {
    let mut builder = StepBuilder::new();
    assert_eq!(builder.push(3, 0, &[0], LogitRows::None), Err(StepBuildError::NoTokens));
    let short = StepBuildError::TableTooShort { tokens: 33, needed: 2, found: 1 };
    assert_eq!(builder.push(32, 1, &[0], LogitRows::Last), Err(short));
    assert_eq!(builder.push(0, 1, &[u32::MAX], LogitRows::Last), Err(StepBuildError::BlockTooLarge { block: u32::MAX }));
    assert_eq!(builder.rows(), 0);
    builder.push(5, 4, &[0], LogitRows::LastMany(2)).unwrap();
    builder.push(5, 4, &[1], LogitRows::LastMany(9)).unwrap();
    let step = builder.finish();
    assert_eq!(step.logit_rows, [2, 3, 4, 5, 6, 7]);
    assert_eq!(step.check(2), Ok(()));
}

#[test]
fn each_broken_promise_is_named() {
    let broken = |change: fn(&mut Step)| {
        let mut step = two();
        change(&mut step);
        step.check(8).expect_err("the step was broken")
    };
    assert_eq!(broken(|s| s.spans[1].q_len = 0), StepError::EmptySpan { span: 1 });
    assert_eq!(broken(|s| s.spans[1].q_start = 29), StepError::Gap { span: 1, expected: 30, found: 29 });
    assert_eq!(broken(|s| s.spans.truncate(1)), StepError::Rows { covered: 30, positions: 31, slots: 31 });
    assert_eq!(broken(|s| s.slots.truncate(30)), StepError::Rows { covered: 31, positions: 31, slots: 30 });
    assert_eq!(broken(|s| s.spans[0].kv_len = 29), StepError::KvShorterThanRows { span: 0, q_len: 30, kv_len: 29 });
    assert!(matches!(broken(|s| s.spans[1].table_row = 2), StepError::Table { span: 1, table_row: 2, .. }));
    assert!(matches!(broken(|s| s.spans[0].kv_len = 97), StepError::Table { span: 0, blocks: 4, .. }));
    assert_eq!(broken(|s| s.tables[1] = 8), StepError::Block { span: 0, block: 8, cache_blocks: 8 });
    assert_eq!(broken(|s| s.positions[3] = 44), StepError::Position { row: 3, expected: 43, found: 44 });
    assert_eq!(broken(|s| s.slots[30] = 65), StepError::Slot { row: 30, expected: 64, found: 65 });
    assert_eq!(broken(|s| s.logit_rows = vec![31]), StepError::LogitRow { rows: 31, found: 31 });
    assert_eq!(broken(|s| s.logit_rows = vec![5, 5]), StepError::LogitRow { rows: 31, found: 5 });
}

#[test]
fn two_rows_never_write_one_slot() {
    let mut builder = StepBuilder::new();
    builder.push(0, 2, &[3], LogitRows::Last).unwrap();
    builder.push(0, 1, &[3], LogitRows::Last).unwrap();
    assert_eq!(builder.finish().check(4), Err(StepError::SlotTwice { slot: 96 }));
}

#[test]
fn no_table_at_all_is_an_error_not_a_panic() {
    let span = Span { q_start: 0, q_len: 1, kv_len: 1, table_row: 0 };
    let step = Step { spans: vec![span], positions: vec![0], slots: vec![0], ..Step::default() };
    assert!(matches!(step.check(1), Err(StepError::Table { rows: 0, .. })));
}

proptest! {
    #[test]
    fn whatever_is_pushed_passes_the_check(sequences in prop::collection::vec((0usize..100, 1usize..70, 0usize..4), 0..6)) {
        let mut builder = StepBuilder::new();
        let mut next_block = 0u32;
        for (computed, new_tokens, wanted) in &sequences {
            let blocks = (computed + new_tokens).div_ceil(BLOCK_TOKENS) as u32;
            let table: Vec<u32> = (next_block..next_block + blocks).rev().collect();
            next_block += blocks;
            let logits = [LogitRows::None, LogitRows::Last, LogitRows::LastMany(3), LogitRows::All][*wanted];
            builder.push(*computed, *new_tokens, &table, logits).unwrap();
        }
        let step = builder.finish();
        prop_assert_eq!(step.check(next_block as usize), Ok(()));
        prop_assert_eq!(step.rows(), sequences.iter().map(|s| s.1).sum::<usize>());
    }
}
