//! What becomes of windows and states, by hand, seen through the block manager that has them.

use super::super::block_manager::{BlockManager, BlockTable};
use super::*;

const STEP: usize = 64;

fn manager(blocks: usize, windows: &[(usize, usize)], state_slots: Option<usize>) -> BlockManager {
    let windows = windows.iter().map(|&(window, blocks)| WindowPool { window, blocks }).collect();
    BlockManager::new(blocks).with_pools(&StatePools { windows, state_slots }, STEP)
}

fn text(tokens: usize, salt: u32) -> Vec<u32> {
    (0..tokens as u32).map(|i| i * 3 + salt).collect()
}

/// Computes `tokens` from where the table is, in steps that end at the places to go on from, and publishes what is full.
fn compute(manager: &mut BlockManager, table: &mut BlockTable, tokens: &[u32], restarts: &[RestartPoint]) {
    let mut start = table.published() * BLOCK_TOKENS;
    while start < tokens.len() {
        let cut = restarts.iter().map(|restart| restart.position).find(|position| *position > start);
        let end = (start + STEP).min(tokens.len()).min(cut.unwrap_or(usize::MAX));
        manager.cover_step(table, start, end, false);
        manager.step_done(table);
        manager.publish_with(table, tokens, end, restarts);
        if let Some(restart) = restarts.iter().find(|restart| restart.position == end) {
            manager.checkpoint(table, end, restart.worth);
        }
        start = end;
    }
}

fn admit(manager: &mut BlockManager, tokens: &[u32]) -> BlockTable {
    manager.admit(tokens, tokens.len().div_ceil(BLOCK_TOKENS), Priority::Interactive).expect("there is room")
}

fn turn(position: usize) -> RestartPoint {
    RestartPoint { position, worth: Worth::Turn }
}

/// Tokens of `tokens` that need not be computed again.
fn restart(manager: &BlockManager, tokens: &[u32]) -> usize {
    manager.longest_restart(&[tokens, &[0]].concat()).len() * BLOCK_TOKENS
}

#[test]
fn a_window_holds_what_its_rows_see_and_no_more() {
    // A window of 40 and steps of 64 touch at most 5 blocks.
    assert_eq!(window_blocks_per_sequence(40, STEP), 5);
    let mut manager = manager(100, &[(40, 5)], None);
    let tokens = text(2000, 0);
    let mut table = admit(&mut manager, &tokens);
    compute(&mut manager, &mut table, &tokens, &[]);
    let (first, held) = table.groups().windows().next().unwrap();
    // The last step began at 1984: its first row sees 1945 and later, in block 60.
    assert_eq!((first, held.len()), (60, 3));
    manager.check_groups([(&table, 2000)].into_iter()).unwrap();
    manager.release(&mut table);
    manager.check_groups(std::iter::empty()).unwrap();
}

#[test]
fn a_prefix_is_gone_on_from_where_its_last_window_is_still_there() {
    // Five blocks for who runs, and five more.
    let mut manager = manager(100, &[(40, 10)], None);
    let tokens = text(640, 0);
    let mut table = admit(&mut manager, &tokens);
    compute(&mut manager, &mut table, &tokens, &[]);
    manager.release(&mut table);
    assert_eq!(restart(&manager, &tokens), 640, "its end is there");
    assert_eq!(restart(&manager, &tokens[..352]), 0, "of its beginning the windows are gone, though the blocks of full attention are not");
    assert_eq!(manager.prefix().longest_match(&tokens[..352]).len(), 10);
    // What it goes on from is shared, and what was let go meanwhile is found by others.
    let longer = [&tokens[..], &text(100, 7000)].concat();
    let mut table = admit(&mut manager, &longer);
    assert_eq!((table.published(), table.groups().windows().next().unwrap().0), (20, 18));
    compute(&mut manager, &mut table, &longer, &[]);
    assert_eq!(restart(&manager, &tokens), 640);
    manager.release(&mut table);
}

#[test]
fn where_somebody_is_expected_to_go_on_the_window_outlives_others() {
    let tokens = text(640, 0);
    let run = |restarts: &[RestartPoint]| {
        let mut manager = manager(100, &[(40, 10)], None);
        let mut table = admit(&mut manager, &tokens);
        compute(&mut manager, &mut table, &tokens, restarts);
        manager.release(&mut table);
        restart(&manager, &tokens[..352])
    };
    assert_eq!(run(&[]), 0);
    assert_eq!(run(&[turn(320)]), 320);
}

#[test]
fn a_block_that_is_given_up_takes_its_window_and_its_checkpoint_with_it() {
    let mut manager = manager(4, &[(40, 8)], Some(4));
    let tokens = text(128, 0);
    let mut table = admit(&mut manager, &tokens);
    compute(&mut manager, &mut table, &tokens, &[turn(64), turn(128)]);
    manager.release(&mut table);
    assert_eq!((restart(&manager, &tokens), manager.groups().checkpoints_cached()), (128, 2));
    let other = text(40, 9000);
    let mut table = admit(&mut manager, &other);
    compute(&mut manager, &mut table, &other, &[]);
    assert_eq!((restart(&manager, &tokens), manager.groups().checkpoints_cached()), (64, 1));
    manager.check_groups([(&table, 40)].into_iter()).unwrap();
}

#[test]
fn a_state_is_gone_on_from_at_a_checkpoint_only() {
    let mut manager = manager(100, &[], Some(8));
    let tokens = text(300, 0);
    let mut table = admit(&mut manager, &tokens);
    compute(&mut manager, &mut table, &tokens, &[turn(96), turn(288)]);
    manager.release(&mut table);
    let at = |tokens| restart(&manager, tokens);
    assert_eq!([at(&tokens), at(&tokens[..280]), at(&tokens[..90])], [288, 96, 0]);
    manager.check_groups(std::iter::empty()).unwrap();
}

#[test]
fn a_checkpoint_is_read_by_many_and_written_by_none() {
    let mut manager = manager(100, &[], Some(8));
    let tokens = text(100, 0);
    let mut first = admit(&mut manager, &tokens);
    compute(&mut manager, &mut first, &tokens[..96], &[turn(96)]);
    manager.check_groups([(&first, 96)].into_iter()).unwrap();
    let mut second = admit(&mut manager, &tokens);
    let mut slots = Vec::new();
    for table in [&mut first, &mut second] {
        manager.cover_step(table, 96, 100, false);
        slots.push(table.groups().state_slots().unwrap());
    }
    assert_eq!(slots[0].from, slots[1].from);
    assert!(slots[0].to != slots[1].to && slots.iter().all(|slots| slots.from != Some(slots.to)), "{slots:?}");
    manager.step_done(&mut first);
    manager.step_done(&mut second);
    manager.check_groups([(&first, 100), (&second, 100)].into_iter()).unwrap();
    // From now on each writes where it reads, unless the step may have to be undone.
    manager.cover_step(&mut first, 100, 101, false);
    let slots = first.groups().state_slots().unwrap();
    assert_eq!(slots.from, Some(slots.to));
    manager.undo_step(&mut first);
    manager.cover_step(&mut first, 100, 101, false);
    manager.cover_step(&mut first, 100, 105, true);
    let slots = first.groups().state_slots().unwrap();
    assert_ne!(slots.from, Some(slots.to), "a draft was added to a step that would have left nothing to go back to");
    manager.undo_step(&mut first);
    manager.check_groups([(&first, 100), (&second, 100)].into_iter()).unwrap();
    manager.release(&mut first);
    manager.release(&mut second);
    manager.check_groups(std::iter::empty()).unwrap();
}

#[test]
fn of_checkpoints_the_less_urgent_go_first_and_instructions_that_are_used_stay() {
    // Room for one that runs, and two more.
    let mut manager = manager(100, &[], Some(4));
    let run = |manager: &mut BlockManager, tokens: &[u32], restarts: &[RestartPoint], priority| {
        let mut table = manager.admit(tokens, tokens.len().div_ceil(BLOCK_TOKENS), priority).unwrap();
        compute(manager, &mut table, tokens, restarts);
        manager.release(&mut table);
    };
    let instructions = RestartPoint { position: 64, worth: Worth::Instructions };
    let conversation = |turns: usize| [text(64, 0), text(50 * turns, 5000)].concat();
    run(&mut manager, &conversation(1), &[instructions, turn(96)], Priority::Interactive);
    let end = |turns: usize| turn((64 + 50 * turns) / 32 * 32);
    for turns in 2..5 {
        run(&mut manager, &conversation(turns), &[instructions, end(turns)], Priority::Interactive);
    }
    assert_eq!(restart(&manager, &conversation(4)), 256, "the last turn");
    assert_eq!(restart(&manager, &conversation(0)), 64, "what all of them passed");
    // Titles in the background: theirs go first.
    for salt in 0..5 {
        run(&mut manager, &text(40, 9000 + salt), &[turn(32)], Priority::Background);
    }
    assert_eq!(restart(&manager, &conversation(0)), 64);
}

#[test]
fn what_another_has_computed_meanwhile_is_taken_over_where_all_groups_can_go_on() {
    let mut manager = manager(100, &[(40, 20)], Some(8));
    let tokens = text(200, 0);
    let mut slow = admit(&mut manager, &tokens);
    let mut fast = admit(&mut manager, &tokens);
    compute(&mut manager, &mut fast, &tokens[..96], &[turn(64)]);
    manager.adopt(&mut slow, &tokens);
    assert_eq!(slow.published(), 2, "three blocks are there, and a state after two");
    manager.check_groups([(&slow, 64), (&fast, 96)].into_iter()).unwrap();
    compute(&mut manager, &mut slow, &tokens, &[]);
    manager.release(&mut slow);
    manager.release(&mut fast);
    manager.check_groups(std::iter::empty()).unwrap();
    assert_eq!(manager.used(), 0);
}

#[test]
fn who_finds_no_room_in_a_pool_is_not_let_in() {
    let mut manager = manager(100, &[(40, 10)], Some(5));
    let tokens = text(100, 0);
    let mut tables = [admit(&mut manager, &tokens), admit(&mut manager, &tokens)];
    assert_eq!(manager.groups().room(), 0);
    assert!(manager.admit(&tokens, 4, Priority::Interactive).is_none());
    manager.release(&mut tables[0]);
    assert_eq!(manager.groups().room(), 1);
    assert!(manager.admit(&tokens, 4, Priority::Interactive).is_some());
}

#[test]
#[should_panic(expected = "can never fit")]
fn a_pool_that_holds_not_even_one_is_refused() {
    manager(100, &[(40, 4)], None);
}
