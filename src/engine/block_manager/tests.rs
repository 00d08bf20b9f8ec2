//! What becomes of blocks, by hand and in any order.

use proptest::prelude::*;

use super::*;

fn text(tokens: usize, salt: u32) -> Vec<u32> {
    (0..tokens as u32).map(|i| i * 3 + salt).collect()
}

/// Admits `tokens`, computes and publishes all of them.
fn run(manager: &mut BlockManager, tokens: &[u32]) -> BlockTable {
    let mut table = manager.admit(tokens, tokens.len().div_ceil(BLOCK_TOKENS), Priority::Interactive).expect("there is room");
    manager.cover(&mut table, tokens.len());
    manager.publish(&mut table, tokens, tokens.len());
    table
}

#[test]
fn a_prefix_is_shared_and_outlives_its_owner() {
    let mut manager = BlockManager::new(8);
    let tokens = text(70, 0);
    let mut first = run(&mut manager, &tokens);
    let mut second = run(&mut manager, &tokens);
    assert_eq!(first.blocks()[..2], second.blocks()[..2]);
    assert_ne!(first.blocks()[2], second.blocks()[2], "the last, partial block is nobody else's");
    assert_eq!((manager.used(), manager.cached()), (4, 0));
    manager.check_tables([(&first, &tokens[..]), (&second, &tokens[..])].into_iter()).unwrap();
    manager.release(&mut first);
    manager.release(&mut second);
    assert_eq!((manager.used(), manager.cached(), manager.available()), (0, 2, 8));
    manager.check_tables(std::iter::empty()).unwrap();
    assert_eq!(manager.admit(&tokens, 3, Priority::Interactive).unwrap().blocks().len(), 2);
}

#[test]
fn two_that_compute_the_same_at_once_end_with_one_copy() {
    let mut manager = BlockManager::new(8);
    let tokens = text(64, 0);
    let (mut a, mut b) =
        (manager.admit(&tokens, 2, Priority::Interactive).unwrap(), manager.admit(&tokens, 2, Priority::Interactive).unwrap());
    manager.cover(&mut a, 64);
    manager.cover(&mut b, 64);
    assert_eq!(manager.used(), 4);
    manager.publish(&mut a, &tokens, 64);
    manager.publish(&mut b, &tokens, 64);
    assert_eq!(a.blocks(), b.blocks());
    assert_eq!(manager.used(), 2);
    manager.check_tables([(&a, &tokens[..]), (&b, &tokens[..])].into_iter()).unwrap();
}

#[test]
fn the_least_recently_used_goes_first_and_ends_before_beginnings() {
    let mut manager = BlockManager::new(4);
    let (old, new) = (text(64, 0), text(64, 1000));
    let (mut a, mut b) = (run(&mut manager, &old), run(&mut manager, &new));
    manager.release(&mut a);
    manager.release(&mut b);
    assert_eq!((manager.cached(), manager.available()), (4, 4));
    // One block is needed: the second of `old` goes, its first stays.
    let other = text(20, 5000);
    let mut table = run(&mut manager, &other);
    let hits = |manager: &BlockManager, tokens: &[u32]| manager.prefix().longest_match(&[tokens, &[0]].concat()).len();
    assert_eq!((hits(&manager, &old), hits(&manager, &new)), (1, 2));
    manager.check_tables([(&table, &other[..])].into_iter()).unwrap();
    manager.release(&mut table);
    // The place of `other` was never published: it is free, nothing more is evicted.
    let table = run(&mut manager, &other);
    assert_eq!((hits(&manager, &old), hits(&manager, &new)), (1, 2));
    manager.check_tables([(&table, &other[..])].into_iter()).unwrap();
}

#[test]
fn the_less_urgent_goes_first_and_what_is_shared_counts_as_urgent() {
    let mut manager = BlockManager::new(6);
    let held = |manager: &BlockManager, tokens: &[u32]| manager.prefix().longest_match(&[tokens, &[0]].concat()).len();
    let (conversation, title) = (text(64, 0), [&text(32, 0)[..], &text(64, 5000)].concat());
    let mut first = run(&mut manager, &conversation);
    manager.release(&mut first);
    let mut second = manager.admit(&title, 3, Priority::Background).unwrap();
    assert_eq!(second.published(), 1, "it begins as the conversation does");
    manager.cover(&mut second, 96);
    manager.publish(&mut second, &title, 96);
    manager.release(&mut second);
    manager.check().unwrap();
    // Four are cached and two free. The title was used last, and goes first all the same: its own two blocks.
    let mut third = manager.admit(&text(128, 9000), 4, Priority::Background).unwrap();
    manager.cover(&mut third, 128);
    assert_eq!((held(&manager, &conversation), held(&manager, &title)), (2, 1));
    manager.check().unwrap();
    let fourth = text(32, 7000);
    let mut table = manager.admit(&fourth, 1, Priority::Shadow).unwrap();
    manager.cover(&mut table, 32);
    assert_eq!(held(&manager, &conversation), 1, "where nothing else is left, anybody gets a block");
}

#[test]
fn what_another_has_computed_meanwhile_is_taken_over() {
    let mut manager = BlockManager::new(8);
    let tokens = text(100, 0);
    let mut slow = manager.admit(&tokens, 4, Priority::Interactive).unwrap();
    let mut fast = run(&mut manager, &tokens[..80]);
    manager.adopt(&mut slow, &tokens);
    assert_eq!((slow.blocks(), slow.promised(), slow.published()), (&fast.blocks()[..2], 2, 2));
    manager.cover(&mut slow, 70);
    manager.publish(&mut fast, &tokens, 80);
    manager.adopt(&mut slow, &tokens);
    assert_eq!(slow.blocks().len(), 3, "it has begun the third block itself");
    manager.check_tables([(&slow, &tokens[..]), (&fast, &tokens[..80])].into_iter()).unwrap();
    // The last token is not taken over: somebody wants its logits.
    let mut all = run(&mut manager, &tokens[..96]);
    let mut same = manager.admit(&tokens[..33], 2, Priority::Interactive).unwrap();
    manager.adopt(&mut same, &tokens[..33]);
    assert_eq!(same.blocks().len(), 1);
    for table in [&mut slow, &mut fast, &mut all, &mut same] {
        manager.release(table);
    }
    assert_eq!(manager.available(), 8);
}

#[test]
fn a_promise_is_kept_and_does_not_evict_before_it_is_used() {
    let mut manager = BlockManager::new(4);
    let tokens = text(64, 0);
    let mut first = run(&mut manager, &tokens);
    manager.release(&mut first);
    let mut second = manager.admit(&text(10, 7), 3, Priority::Interactive).unwrap();
    assert_eq!((manager.available(), manager.cached()), (1, 2));
    assert!(manager.admit(&text(40, 9), 2, Priority::Interactive).is_none(), "only one block is not promised");
    assert!(manager.grow(&mut second));
    assert!(!manager.grow(&mut second));
    manager.cover(&mut second, 10);
    assert_eq!(manager.cached(), 2, "promises alone evict nothing");
    manager.cover(&mut second, 128);
    assert_eq!((manager.cached(), manager.used()), (0, 4));
    manager.release(&mut second);
    assert_eq!((manager.available(), manager.used()), (4, 0));
}

#[test]
fn a_cached_hit_is_not_counted_twice() {
    // Four blocks: two cached for `tokens`. A request of 2 hits and 3 more does not fit, one of 2 and 2 does.
    let mut manager = BlockManager::new(4);
    let tokens = text(65, 0);
    let mut table = run(&mut manager, &tokens);
    manager.release(&mut table);
    assert!(manager.admit(&tokens, 5, Priority::Interactive).is_none());
    manager.check().unwrap();
    assert!(manager.admit(&tokens, 4, Priority::Interactive).is_some());
}

#[test]
#[should_panic(expected = "not promised")]
fn a_block_that_was_not_promised_is_not_taken() {
    let mut manager = BlockManager::new(4);
    let mut table = manager.admit(&text(10, 0), 1, Priority::Interactive).unwrap();
    manager.cover(&mut table, 33);
}

/// Imports `blocks` of `tokens`; returns what is cached then, and the blocks that were filled.
fn import(manager: &mut BlockManager, tokens: &[u32], blocks: Range<usize>) -> (usize, Vec<u32>) {
    let mut filled = Vec::new();
    let cached = manager.import(tokens, blocks, Priority::Interactive, |_, block| {
        filled.push(block.0);
        true
    });
    manager.check().unwrap();
    (cached, filled)
}

#[test]
fn imported_blocks_are_cached_and_owned_by_nobody() {
    let mut manager = BlockManager::new(8);
    let tokens = text(100, 0);
    assert_eq!(import(&mut manager, &tokens, 0..2), (2, vec![0, 1]));
    assert_eq!((manager.used(), manager.cached(), manager.available()), (0, 2, 8));
    assert_eq!(import(&mut manager, &tokens, 2..3), (3, vec![2]), "the next ones come behind them");
    assert_eq!(import(&mut manager, &tokens, 0..3), (3, vec![]), "what is there is not filled again");
    let table = manager.admit(&tokens, 4, Priority::Interactive).unwrap();
    assert_eq!(table.blocks(), [0, 1, 2].map(BlockId));
    manager.check_tables([(&table, &tokens[..])].into_iter()).unwrap();
    assert_eq!(import(&mut manager, &tokens, 0..3), (3, vec![]), "owned by another, they are there all the same");
    manager.check_tables([(&table, &tokens[..])].into_iter()).unwrap();
}

#[test]
fn an_import_evicts_others_and_never_its_own_beginning() {
    let mut manager = BlockManager::new(4);
    let (old, long) = (text(65, 0), text(300, 1000));
    let mut table = run(&mut manager, &old);
    manager.release(&mut table);
    assert_eq!(import(&mut manager, &long, 0..9), (4, vec![2, 3, 1, 0]), "all there are, and no more");
    assert_eq!(manager.prefix().longest_match(&long).len(), 4);
    // A running sequence has its blocks for itself.
    let mut table = run(&mut manager, &old);
    assert_eq!(import(&mut manager, &long, 1..9), (1, vec![]), "no place is left");
    manager.check_tables([(&table, &old[..])].into_iter()).unwrap();
    assert_eq!(import(&mut manager, &long, 2..9), (1, vec![]), "one has gone since the last part came");
    manager.release(&mut table);
}

#[test]
fn a_block_that_could_not_be_filled_is_free_again() {
    let mut manager = BlockManager::new(4);
    let tokens = text(100, 0);
    let cached = manager.import(&tokens, 0..3, Priority::Interactive, |index, _| index < 1);
    assert_eq!((cached, manager.cached(), manager.used(), manager.available()), (1, 1, 0, 4));
    manager.check_tables(std::iter::empty()).unwrap();
}

#[test]
fn an_import_keeps_promises_to_others() {
    let mut manager = BlockManager::new(4);
    let table = manager.admit(&text(10, 7), 3, Priority::Interactive).unwrap();
    assert_eq!(import(&mut manager, &text(100, 0), 0..3).0, 1, "three of the four are promised");
    manager.check_tables([(&table, &text(10, 7)[..])].into_iter()).unwrap();
}

proptest! {
    /// Any order of operations on texts with common beginnings, under any hash, keeps every promise.
    #[test]
    fn operations_in_any_order_keep_the_books(
        operations in prop::collection::vec((0u8..7, 0usize..6, 1usize..120), 1..120),
        blocks in 2usize..12,
        weak_hash in any::<bool>(),
    ) {
        let prefix = if weak_hash {
            PrefixCache::with_hash(blocks, |parent, tokens| (parent * 3 + u64::from(tokens[0])) % 3)
        } else {
            PrefixCache::new(blocks)
        };
        let mut manager = BlockManager::with_prefix_cache(blocks, prefix);
        let mut live: Vec<(BlockTable, Vec<u32>, usize)> = Vec::new();
        for (operation, which, size) in operations {
            match operation {
                0 | 1 => {
                    // Two families of texts that part at token 40.
                    let tokens: Vec<u32> = (0..size as u32).map(|i| if i < 40 { i } else { i + which as u32 % 2 * 1000 }).collect();
                    let reserved = tokens.len().div_ceil(BLOCK_TOKENS) + which % 3;
                    let before = manager.available();
                    let priority = [Priority::Interactive, Priority::Background, Priority::Shadow][size % 3];
                    match manager.admit(&tokens, reserved, priority) {
                        Some(table) => {
                            prop_assert!(table.reserved() >= tokens.len().div_ceil(BLOCK_TOKENS));
                            let computed = table.blocks().len() * BLOCK_TOKENS;
                            prop_assert!(computed < tokens.len(), "the last token is always computed");
                            live.push((table, tokens, computed));
                        }
                        None => prop_assert_eq!(manager.available(), before),
                    }
                }
                2 | 3 if !live.is_empty() => {
                    let at = which % live.len();
                    let (table, tokens, computed) = &mut live[at];
                    *computed = (*computed + size).min(tokens.len());
                    manager.cover(table, *computed);
                    manager.publish(table, tokens, *computed);
                }
                5 => {
                    let tokens: Vec<u32> = (0..size as u32).map(|i| if i < 40 { i } else { i + which as u32 % 2 * 1000 }).collect();
                    let (available, used) = (manager.available(), manager.used());
                    let priority = [Priority::Interactive, Priority::Background, Priority::Shadow][size % 3];
                    let mut filled = 0;
                    let cached = manager.import(&tokens, which % 2..size / BLOCK_TOKENS, priority, |_, _| {
                        filled += 1;
                        filled <= which
                    });
                    prop_assert!(cached <= manager.prefix().longest_match(&[&tokens[..], &[0]].concat()).len());
                    prop_assert_eq!((manager.available(), manager.used()), (available, used), "an import owns nothing");
                }
                4 if !live.is_empty() => {
                    let at = which % live.len();
                    let (table, tokens, computed) = &mut live[at];
                    let before = table.blocks().len();
                    manager.adopt(table, tokens);
                    if table.blocks().len() > before {
                        *computed = table.blocks().len() * BLOCK_TOKENS;
                        prop_assert!(*computed < tokens.len(), "the last token is always computed");
                    }
                }
                6 if !live.is_empty() => {
                    let (mut table, _, _) = live.swap_remove(which % live.len());
                    manager.release(&mut table);
                }
                _ => {}
            }
            let books = manager.check_tables(live.iter().map(|(table, tokens, _)| (table, &tokens[..])));
            prop_assert!(books.is_ok(), "{}", books.unwrap_err());
        }
        for (mut table, _, _) in live {
            manager.release(&mut table);
        }
        prop_assert_eq!(manager.available(), blocks);
        prop_assert_eq!(manager.used(), 0);
    }
}
