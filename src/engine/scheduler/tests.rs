//! What is planned in one step after the other, by hand.

use super::*;

const NOW: Duration = Duration::ZERO;

fn scheduler(blocks: usize, sequences_max: usize, tokens_per_step_max: usize) -> Scheduler {
    let limits = Limits { sequences_max, tokens_per_step_max, answer_tokens_reserved: ANSWER_TOKENS_RESERVED, drafts_max: 8 };
    Scheduler::new(limits, BlockManager::new(blocks))
}

/// A sequence of `prompt` tokens that nobody else has.
fn sequence(id: u64, prompt: usize, output_max: usize) -> Sequence {
    Sequence::new(SequenceId(id), (0..prompt as u32).map(|i| i + 1000 * id as u32).collect(), output_max, vec![])
}

/// Runs a step in which every sampled token is 7; returns `(id, start, len)` of the plan.
fn step(scheduler: &mut Scheduler) -> Vec<(u64, usize, usize)> {
    let plan = scheduler.schedule(NOW, &StepTimes::default());
    for chunk in &plan.chunks {
        scheduler.commit(chunk, if chunk.samples { &[7] } else { &[] });
    }
    scheduler.check().unwrap();
    plan.chunks.iter().map(|chunk| (chunk.id.0, chunk.start, chunk.len)).collect()
}

#[test]
fn streams_come_first_and_prompts_share_what_is_left() {
    let mut scheduler = scheduler(100, 4, 16);
    scheduler.add(sequence(0, 10, 100));
    assert_eq!(step(&mut scheduler), [(0, 0, 10)]);
    scheduler.add(sequence(1, 40, 100));
    scheduler.add(sequence(2, 5, 100));
    assert_eq!(step(&mut scheduler), [(0, 10, 1), (1, 0, 15)]);
    assert_eq!(step(&mut scheduler), [(0, 11, 1), (1, 15, 15)]);
    assert_eq!(step(&mut scheduler), [(0, 12, 1), (1, 30, 10), (2, 0, 5)]);
    assert_eq!(step(&mut scheduler), [(0, 13, 1), (1, 40, 1), (2, 5, 1)]);
}

#[test]
fn who_does_not_fit_beside_the_others_waits() {
    let mut scheduler = scheduler(3, 4, 64);
    scheduler.add(sequence(0, 31, 40));
    scheduler.add(sequence(1, 20, 40));
    // The first is promised all 3 blocks for its 71 tokens, though it uses one.
    assert_eq!(step(&mut scheduler), [(0, 0, 31)]);
    assert_eq!((scheduler.blocks().used(), scheduler.all_waiting().count()), (1, 1));
    scheduler.remove(SequenceId(0)).unwrap();
    assert_eq!(step(&mut scheduler), [(1, 0, 20)]);
}

#[test]
fn growth_beyond_the_reservation_pauses_the_newest() {
    // Both reserve 17 of the 34 blocks: 16 tokens and 512 more. Neither may grow past that beside the other.
    let mut scheduler = scheduler(34, 4, 64);
    scheduler.add(sequence(0, 16, 1000));
    scheduler.add(sequence(1, 16, 1000));
    assert_eq!(step(&mut scheduler), [(0, 0, 16), (1, 0, 16)]);
    // 17 blocks hold 544 tokens.
    for _ in 16..544 {
        assert_eq!(step(&mut scheduler).len(), 2);
    }
    let plan = scheduler.schedule(NOW, &StepTimes::default());
    assert_eq!(plan.paused, [SequenceId(1)]);
    assert_eq!(plan.chunks.iter().map(|chunk| chunk.id.0).collect::<Vec<_>>(), [0]);
    scheduler.commit(&plan.chunks[0], &[7]);
    scheduler.check().unwrap();
    assert_eq!(scheduler.blocks().cached(), 16, "of the 17 blocks of the paused one, the older took the last");
    while scheduler.running(SequenceId(0)).is_some() {
        assert_eq!(step(&mut scheduler).len(), 1, "the paused one is not resumed before it fits with 512 tokens to spare");
    }
    step(&mut scheduler);
    assert_eq!((scheduler.pauses_total(), scheduler.all_running()[0].id), (1, SequenceId(1)));
}

#[test]
fn a_prompt_without_an_answer_is_computed_and_leaves() {
    let mut scheduler = scheduler(4, 2, 8);
    scheduler.add(sequence(0, 12, 0));
    let plan = scheduler.schedule(NOW, &StepTimes::default());
    assert_eq!(scheduler.commit(&plan.chunks[0], &[]), None);
    let plan = scheduler.schedule(NOW, &StepTimes::default());
    assert!(!plan.chunks[0].samples);
    assert_eq!(scheduler.commit(&plan.chunks[0], &[]).unwrap().reason, FinishReason::Length);
    assert!(scheduler.is_idle());
}

#[test]
fn what_is_removed_in_the_middle_of_its_prompt_leaves_its_full_blocks_cached() {
    let mut scheduler = scheduler(10, 2, 40);
    scheduler.add(sequence(0, 100, 10));
    step(&mut scheduler);
    assert_eq!((scheduler.blocks().used(), scheduler.blocks().cached()), (2, 0));
    scheduler.remove(SequenceId(0)).unwrap();
    assert_eq!((scheduler.blocks().used(), scheduler.blocks().cached()), (0, 1));
    assert!(scheduler.remove(SequenceId(0)).is_none());
    scheduler.check().unwrap();
}

#[test]
#[should_panic(expected = "can never fit")]
fn what_can_never_fit_is_not_taken() {
    scheduler(2, 1, 8).add(sequence(0, 65, 1));
}

/// One row takes 50 ms, each further one 5.
fn times() -> StepTimes {
    let mut times = StepTimes::default();
    for rows in [1, 2, 4, 8, 16, 64, 512] {
        times.record(Load::of(0, rows), 0.045 + 0.005 * rows as f64);
    }
    times
}

/// `(id, len)` of a plan in which every sampled token is 7.
fn step_at(scheduler: &mut Scheduler, seconds: u64, times: &StepTimes) -> (Vec<(u64, usize)>, Vec<u64>) {
    let plan = scheduler.schedule(Duration::from_secs(seconds), times);
    for chunk in &plan.chunks {
        scheduler.commit(chunk, if chunk.samples { &[7] } else { &[] });
    }
    scheduler.check().unwrap();
    (plan.chunks.iter().map(|chunk| (chunk.id.0, chunk.len)).collect(), plan.paused.iter().map(|id| id.0).collect())
}

fn of_priority(id: u64, prompt: usize, priority: Priority, arrived_s: u64) -> Sequence {
    sequence(id, prompt, 100).arriving(priority, Duration::from_secs(arrived_s))
}

#[test]
fn a_long_prompt_delays_streams_by_a_bounded_time() {
    let mut scheduler = scheduler(1000, 4, 512);
    let times = times();
    scheduler.add(sequence(0, 10, 1000));
    scheduler.add(sequence(1, 10, 1000));
    assert_eq!(step_at(&mut scheduler, 0, &times).0, [(0, 10), (1, 10)]);
    scheduler.add(sequence(2, 16_000, 100));
    // Two streams take 55 ms; 2.5 times that are 137.5, which 18 rows stay within.
    assert_eq!(step_at(&mut scheduler, 0, &times).0, [(0, 1), (1, 1), (2, 16)]);
    // No stream waits any more, and nothing holds the prompt back.
    scheduler.remove(SequenceId(0)).unwrap();
    scheduler.remove(SequenceId(1)).unwrap();
    assert_eq!(step_at(&mut scheduler, 0, &times).0, [(2, 512)]);
    // For the less urgent it is not slowed down.
    let mut scheduler = self::scheduler(1000, 4, 512);
    scheduler.add(of_priority(0, 10, Priority::Background, 0));
    step_at(&mut scheduler, 0, &times);
    scheduler.add(of_priority(1, 16_000, Priority::Interactive, 0));
    assert_eq!(step_at(&mut scheduler, 0, &times).0, [(0, 1), (1, 511)]);
}

#[test]
fn the_more_urgent_come_first_and_an_eighth_is_kept_for_the_others() {
    let mut scheduler = scheduler(1000, 4, 64);
    scheduler.add(of_priority(0, 300, Priority::Shadow, 0));
    assert_eq!(step(&mut scheduler), [(0, 0, 64)]);
    scheduler.add(of_priority(1, 300, Priority::Background, 0));
    scheduler.add(of_priority(2, 300, Priority::Interactive, 0));
    scheduler.add(of_priority(3, 300, Priority::Interactive, 0));
    // Of the eighth the background takes seven eighths. Two of one class: in order of arrival.
    assert_eq!(step(&mut scheduler), [(2, 0, 56), (1, 0, 7), (0, 64, 1)]);
    scheduler.remove(SequenceId(2)).unwrap();
    scheduler.remove(SequenceId(1)).unwrap();
    assert_eq!(step(&mut scheduler), [(3, 0, 56), (0, 65, 8)]);
    // Whoever needs less than is kept leaves it to the others.
    assert_eq!(
        (share_out_of(&[(Priority::Interactive, 100), (Priority::Background, 3)], 64), share_out_of(&[(Priority::Shadow, 9)], 4)),
        (vec![61, 3], vec![4])
    );
    assert_eq!(share_out_of(&[(Priority::Interactive, 9), (Priority::Background, 9)], 1), [1, 0]);
    assert_eq!(share_out_of(&[(Priority::Interactive, 9), (Priority::Background, 9)], 2), [1, 1]);
}

fn share_out_of(wishes: &[(Priority, usize)], rows: usize) -> Vec<usize> {
    let mut shares = vec![0; wishes.len()];
    share_out(wishes, rows, &mut shares);
    shares
}

#[test]
fn who_is_urgent_finds_a_place_and_who_has_waited_long_is_urgent() {
    let mut scheduler = scheduler(1000, 2, 64);
    let times = StepTimes::default();
    scheduler.add(of_priority(0, 40, Priority::Background, 0));
    scheduler.add(of_priority(1, 10, Priority::Background, 0));
    assert_eq!(step_at(&mut scheduler, 0, &times).0, [(0, 40), (1, 10)]);
    scheduler.add(of_priority(2, 10, Priority::Interactive, 1));
    assert_eq!(step_at(&mut scheduler, 1, &times), (vec![(0, 1), (2, 10)], vec![1]));
    scheduler.add(of_priority(3, 10, Priority::Interactive, 2));
    assert_eq!(step_at(&mut scheduler, 2, &times), (vec![(2, 1), (3, 10)], vec![0]));
    assert_eq!(step_at(&mut scheduler, 3, &times), (vec![(2, 1), (3, 1)], vec![]));
    // After a minute the first two are as urgent as the others, and older.
    let (chunks, paused) = step_at(&mut scheduler, 60, &times);
    assert_eq!((chunks, paused), (vec![(0, 10), (1, 11)], vec![3, 2]));
}

#[test]
fn blocks_are_taken_from_the_less_urgent_only_if_that_is_enough() {
    // Each of the two holds or was promised 4 of the 8 blocks.
    let mut scheduler = scheduler(8, 4, 64);
    scheduler.add(of_priority(0, 28, Priority::Interactive, 0));
    scheduler.add(of_priority(1, 28, Priority::Background, 0));
    assert_eq!(step(&mut scheduler), [(0, 0, 28), (1, 0, 28)]);
    scheduler.add(of_priority(2, 100, Priority::Interactive, 0));
    let times = StepTimes::default();
    assert_eq!(step_at(&mut scheduler, 0, &times), (vec![(0, 1), (1, 1)], vec![]), "seven blocks are not to be had");
    scheduler.remove(SequenceId(2)).unwrap();
    scheduler.add(of_priority(3, 20, Priority::Interactive, 0));
    assert_eq!(step_at(&mut scheduler, 0, &times), (vec![(0, 1), (3, 20)], vec![1]));
}

#[test]
fn two_of_the_same_prompt_compute_it_once() {
    let mut scheduler = scheduler(100, 4, 400);
    let prompt: Vec<u32> = (0..150).collect();
    let twin = |id: u64, salt: u32| {
        let tokens = prompt.iter().copied().chain([1000 + salt]).collect();
        Sequence::new(SequenceId(id), tokens, 10, vec![])
    };
    scheduler.add(twin(0, 0));
    scheduler.add(twin(1, 5));
    scheduler.add(sequence(2, 20, 10));
    // The second leaves the rows to the third, and takes over what the first has computed.
    assert_eq!(step(&mut scheduler), [(0, 0, 151), (2, 0, 20)]);
    assert_eq!(step(&mut scheduler), [(0, 151, 1), (2, 20, 1), (1, 128, 23)]);
    let cached = |id| scheduler.running(SequenceId(id)).unwrap().usage().cached_tokens;
    assert_eq!((cached(0), cached(1)), (0, 128));
    // The one that computes goes away: the other goes on itself.
    let mut scheduler = self::scheduler(100, 4, 170);
    scheduler.add(twin(0, 0));
    scheduler.add(twin(1, 5));
    assert_eq!(step(&mut scheduler), [(0, 0, 151)]);
    scheduler.remove(SequenceId(0)).unwrap();
    assert_eq!(step(&mut scheduler), [(1, 128, 23)]);
    let mut scheduler = self::scheduler(100, 4, 170);
    scheduler.add(twin(0, 0));
    scheduler.add(twin(1, 5));
    let plan = scheduler.schedule(NOW, &StepTimes::default());
    assert_eq!(plan.chunks.len(), 1);
    scheduler.remove(SequenceId(0)).unwrap();
    assert_eq!(step(&mut scheduler), [(1, 0, 151)], "nothing of it was computed");
}

#[test]
fn drafts_are_checked_where_they_pay_and_nobody_wants_the_rows() {
    let mut scheduler = scheduler(100, 4, 64);
    let repeating = |id: u64| {
        let tokens = (0..20).chain(0..10).map(|i| i + 100 * id as u32).collect();
        Sequence::new(SequenceId(id), tokens, 100, vec![]).drafting()
    };
    let times = times();
    scheduler.add(repeating(0));
    let plan = scheduler.schedule(NOW, &times);
    scheduler.commit(&plan.chunks[0], &[10]);
    let plan = scheduler.schedule(NOW, &times);
    let chunk = plan.chunks[0];
    assert!(chunk.drafts > 0 && chunk.len == 1 + chunk.drafts, "{chunk:?}");
    let draft = scheduler.running(SequenceId(0)).unwrap().draft().to_vec();
    assert_eq!(draft, (11..11 + draft.len() as u32).collect::<Vec<_>>());
    // All of it is right.
    let sampled: Vec<u32> = draft.iter().copied().chain([50]).collect();
    assert_eq!(scheduler.commit(&chunk, &sampled), None);
    scheduler.check().unwrap();
    assert_eq!(scheduler.running(SequenceId(0)).unwrap().total(), 31 + sampled.len());
    // A prompt beside it has the rows.
    let mut scheduler = self::scheduler(100, 4, 64);
    scheduler.add(repeating(0));
    let plan = scheduler.schedule(NOW, &times);
    scheduler.commit(&plan.chunks[0], &[10]);
    scheduler.add(sequence(1, 40, 10));
    assert!(scheduler.schedule(NOW, &times).chunks.iter().all(|chunk| chunk.drafts == 0));
    // Where a row more costs as much as the first, nothing is drafted.
    let mut dear = StepTimes::default();
    (1..20).for_each(|rows| dear.record(Load::of(0, rows), 0.05 * rows as f64));
    let mut scheduler = self::scheduler(100, 4, 64);
    scheduler.add(repeating(0));
    let plan = scheduler.schedule(NOW, &dear);
    scheduler.commit(&plan.chunks[0], &[10]);
    assert_eq!(scheduler.schedule(NOW, &dear).chunks[0].drafts, 0);
}

/// A machine by what a step takes, a row, and a position that a row looks at: a stream's longest step while prompts ride along, as a multiple
/// of what it takes alone, and the share of the rows that would have fitted. Steps vary by a twentieth either way.
fn ride(step_s: f64, row_s: f64, position_s: f64, seed: u64) -> (f64, f64) {
    let truth = |load: Load| step_s + row_s * load.rows as f64 + position_s * load.attended as f64;
    let (mut scheduler, mut times, mut noise) = (scheduler(2000, 4, 512), StepTimes::default(), seed);
    let (mut longest, mut rows, mut rows_fitting) = (0.0f64, 0, 0.0);
    let mut step = |scheduler: &mut Scheduler| {
        let plan = scheduler.schedule(NOW, &times);
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let seconds = truth(plan.load()) * (0.95 + (noise >> 40) as f64 / (1u64 << 24) as f64 * 0.1);
        times.record(plan.load(), seconds);
        if let [stream, prompt] = plan.chunks[..] {
            let (alone, deep) = (truth(Load::of(stream.start, 1)), row_s + position_s * prompt.start as f64);
            longest = longest.max(seconds / alone);
            rows += prompt.len;
            rows_fitting += (alone * (STREAM_DELAY_MAX - 1.0) / deep).clamp(1.0, 511.0);
        }
        plan.chunks.iter().for_each(|chunk| {
            scheduler.commit(chunk, if chunk.samples { &[7] } else { &[] });
        });
    };
    // A long prompt alone, which is cached afterwards; a stream; a prompt beside it; and the long one again, with more behind it.
    scheduler.add(sequence(9, 8000, 0));
    while !scheduler.is_idle() {
        step(&mut scheduler);
    }
    let again = (0..8000).map(|i| i + 9000).chain(0..600).collect();
    scheduler.add(sequence(10, 64, 20_000));
    (0..100).for_each(|_| step(&mut scheduler));
    scheduler.add(sequence(11, 4096, 0));
    while scheduler.all_running().len() + scheduler.all_waiting().count() > 1 {
        step(&mut scheduler);
    }
    scheduler.add(Sequence::new(SequenceId(12), again, 0, vec![]));
    while scheduler.all_running().len() + scheduler.all_waiting().count() > 1 {
        step(&mut scheduler);
    }
    (longest, rows as f64 / rows_fitting)
}

#[test]
fn a_stream_is_held_up_within_bounds_on_any_machine_and_at_any_depth() {
    for (step_s, row_s, position_s) in [
        // Rows that cost little; half of a step each; and positions that cost a row twice its time from the beginning to the depth of 8,000.
        (0.050, 0.005, 0.0),
        (0.050, 0.025, 0.0),
        (0.050, 0.010, 1.25e-6),
        (0.100, 0.020, 5e-6),
    ] {
        for seed in 0..5 {
            let (longest, rows) = ride(step_s, row_s, position_s, seed);
            assert!(longest <= 3.0, "{longest:.2} times with {row_s} s a row, {position_s} s a position, seed {seed}");
            assert!(
                rows >= 0.6,
                "the prompts got {rows:.2} of what they could with {row_s} s a row, {position_s} s a position, seed {seed}"
            );
        }
    }
}
