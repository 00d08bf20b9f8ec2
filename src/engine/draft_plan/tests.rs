//! What the draft model is asked to do, turn by turn, on machines whose steps take known times.

use super::*;

const ID: SequenceId = SequenceId(0);

/// A step of one row takes so many milliseconds, each further row a tenth of that.
fn times(row_ms: f64) -> StepTimes {
    let mut times = StepTimes::default();
    for rows in [1, 2, 4, 8, 16, 64, 512] {
        times.record(Load::of(0, rows), row_ms * 1e-3 * (0.9 + 0.1 * rows as f64));
    }
    times
}

fn limits(blocks: usize) -> DraftLimits {
    DraftLimits { blocks, context_max: 4096, tokens_per_step_max: 512 }
}

/// A stream that has told so many tokens of its own.
fn stream(id: SequenceId, tokens: &[u32], told: usize) -> Stream<'_> {
    Stream { id, tokens, told, left: 1000, guesses_max: 100, stop_token_ids: &[] }
}

struct Bench {
    plan: DraftPlan,
    model: StepTimes,
    draft: StepTimes,
}

impl Bench {
    fn new(blocks: usize, draft_ms: f64) -> Self {
        Self { plan: DraftPlan::new(limits(blocks)), model: times(100.0), draft: times(draft_ms) }
    }

    fn decide(&mut self, streams: &[Stream<'_>]) -> Work {
        let load = streams.iter().map(|stream| Load::of(stream.tokens.len() - 1, 1)).fold(Load::default(), Load::and);
        let work = self.plan.decide(streams, load, 64, Times { model: &self.model, draft: &self.draft });
        let tokens = |id| streams.iter().find(|stream| stream.id == id).map(|stream| stream.tokens);
        if self.plan.guests.keys().all(|id| tokens(*id).is_some()) {
            self.plan.check(tokens).unwrap();
        }
        work
    }

    /// Decides and does it: `guess` of each sequence. What was planned.
    fn turn(&mut self, streams: &[Stream<'_>], guess: impl Fn(usize) -> Vec<u32>) -> Work {
        let work = self.decide(streams);
        let tokens = |id| streams.iter().find(|stream| stream.id == id).unwrap().tokens;
        if let Some((id, rows)) = work.reads {
            self.plan.has_read(id, rows, tokens(id));
        }
        for &(id, guesses) in &work.guesses {
            self.plan.has_guessed(id, &guess(guesses), tokens(id));
        }
        work
    }
}

#[test]
fn guesses_are_made_where_they_pay() {
    let tokens: Vec<u32> = (0..20).collect();
    let guesses = |draft_ms: f64| Bench::new(64, draft_ms).decide(&[stream(ID, &tokens, 3)]).guesses.first().map(|guess| guess.1);
    // At six in ten a third and a fourth guess bring little.
    assert!((1..=3).contains(&guesses(5.0).unwrap()), "{:?}", guesses(5.0));
    assert_eq!(guesses(90.0), None, "as slow as the model itself");
}

#[test]
fn being_right_brings_more_guesses_and_being_wrong_ends_them() {
    for (is_right, guesses_late) in [(true, 20 * GUESSES_MAX..=20 * GUESSES_MAX), (false, 0..=4)] {
        let mut bench = Bench::new(64, 2.0);
        let mut tokens: Vec<u32> = (0..20).collect();
        let mut late = 0;
        for turn in 0..80 {
            let wrong = vec![999; 8];
            let right: Vec<u32> = (tokens.len() as u32..).take(8).collect();
            let told = tokens.len() - 20;
            let work = bench.turn(&[stream(ID, &tokens, told)], |guesses| if is_right { &right } else { &wrong }[..guesses].to_vec());
            let guesses = work.guesses.first().map_or(0, |guess| guess.1);
            late += if turn >= 60 { guesses } else { 0 };
            let said = if is_right { guesses + 1 } else { 1 };
            tokens.extend((tokens.len() as u32..).take(said));
        }
        assert!(guesses_late.contains(&late), "{late} of one that is {is_right}");
    }
}

/// A model that is always wrong costs a fiftieth of the time, however many streams there are, and is tried again all the same.
#[test]
fn trying_again_costs_a_fiftieth() {
    for count in [1, 4] {
        let mut bench = Bench::new(64, 5.0);
        let mut texts: Vec<Vec<u32>> = (0..count).map(|index| (1000 * index..1000 * index + 20).collect()).collect();
        let (mut spent_s, mut lived_s, mut late) = (0.0, 0.0, 0);
        for turn in 0..1000 {
            let streams: Vec<Stream<'_>> = (0..).zip(&texts).map(|(id, text)| stream(SequenceId(id), text, text.len() - 20)).collect();
            let work = bench.turn(&streams, |guesses| vec![99_999; guesses]);
            lived_s += 0.1 * (0.9 + 0.1 * f64::from(count));
            // Each guess is a row of the model's; and what is read comes with the first steps.
            let rows: usize = work.guesses.iter().map(|guess| guess.1).sum();
            let reads = work.reads.map_or(0.0, |read| 0.005 * (0.9 + 0.1 * read.1 as f64));
            if turn >= 100 {
                spent_s += 0.01 * rows as f64 + if rows > 0 { 0.005 } else { 0.0 } + reads;
                late += rows;
            }
            texts.iter_mut().for_each(|text| text.push(text.len() as u32));
        }
        assert!(spent_s <= 0.021 * lived_s && late >= 20, "{count}: {spent_s} s of {lived_s} in tries, {late} guesses");
    }
}

#[test]
fn a_step_with_guesses_stays_within_what_a_newcomer_may_take() {
    let tokens: Vec<u32> = (0..20).collect();
    let mut bench = Bench::new(64, 20.0);
    bench.plan.usual = Outcomes { right: 99.9, seen: 100.0 };
    // Nearly always right. 20 tokens are read in 58 ms, each guess but the first takes 20 ms and each row that checks one 10: three take 228
    // ms with the model's 100, four 258, and 250 is the limit.
    assert_eq!(bench.decide(&[stream(ID, &tokens, 3)]).guesses, [(ID, 3)]);
}

#[test]
fn a_long_prompt_is_read_where_the_answer_is_likely_to_give_it_back() {
    let tokens: Vec<u32> = (0..3000).collect();
    let mut bench = Bench::new(128, 2.0);
    // 3,000 rows at 0.2 ms are 0.6 s, and 128 tokens save more.
    let work = bench.decide(&[stream(ID, &tokens, 1)]);
    assert!(work.guesses.is_empty() && work.reads.is_some(), "{work:?}");
    let mut bench = Bench::new(128, 25.0);
    // 3,000 rows at 2.5 ms are 7.6 s: not for 128 tokens that save 41 ms each, but for 900.
    bench.plan.usual = Outcomes { right: 9.0, seen: 10.0 };
    assert_eq!(bench.decide(&[stream(ID, &tokens, 1)]), Work::default());
    assert!(bench.decide(&[stream(ID, &tokens, 900)]).reads.is_some());
    // Not where the answer ends soon.
    assert_eq!(bench.decide(&[Stream { left: 10, ..stream(ID, &tokens, 900) }]), Work::default());
}

#[test]
fn reading_comes_in_stretches_one_sequence_at_a_time_and_ends_in_guesses() {
    let (one, other): (Vec<u32>, Vec<u32>) = ((0..2000).collect(), (5000..7000).collect());
    let mut bench = Bench::new(256, 1.0);
    let streams = [stream(ID, &one, 500), stream(SequenceId(1), &other, 500)];
    let mut guessed = Vec::new();
    for _ in 0..40 {
        let work = bench.turn(&streams, |guesses| vec![9999; guesses]);
        if let Some((_, rows)) = work.reads {
            assert!(rows as f64 * 1e-4 <= 0.15 + 1e-3 && rows <= 512, "{rows} rows take longer than a step may");
        }
        guessed.extend(work.guesses.into_iter().map(|(id, _)| id));
    }
    assert!(guessed.contains(&ID) && guessed.contains(&SequenceId(1)), "{guessed:?}");
}

#[test]
fn the_next_turn_of_a_conversation_finds_what_was_read() {
    let mut tokens: Vec<u32> = (0..2000).collect();
    let mut bench = Bench::new(128, 1.0);
    while bench.turn(&[stream(ID, &tokens, 500)], |guesses| vec![9999; guesses]).guesses.is_empty() {}
    bench.plan.retain(|_| false);
    assert_eq!(bench.plan.blocks().used(), 0, "who is gone holds nothing");
    tokens.extend(7000..7010);
    let work = bench.turn(&[stream(SequenceId(7), &tokens, 0)], |guesses| vec![9999; guesses]);
    // 2,000 tokens are 62 blocks and 16 tokens.
    assert_eq!((work.guesses.len(), work.reads), (1, None));
    assert_eq!(bench.plan.place(SequenceId(7)).0, tokens.len());
}

#[test]
fn who_was_not_planned_for_makes_room_and_nobody_is_planned_beyond_it() {
    let conversations: Vec<Vec<u32>> = (0..3u32).map(|index| (1000 * index..1000 * index + 30).collect()).collect();
    // Each takes two blocks: 30 tokens and three guesses.
    let mut bench = Bench::new(4, 0.5);
    let of = |(id, tokens)| Stream { guesses_max: 3, ..stream(SequenceId(id), tokens, 3) };
    let streams: Vec<Stream<'_>> = (0..).zip(conversations.iter().map(Vec::as_slice)).map(of).collect();
    let guess = |guesses| vec![9999; guesses];
    let who = |work: Work| work.guesses.into_iter().map(|(id, _)| id.0).collect::<Vec<_>>();
    bench.plan.usual = Outcomes { right: 99.0, seen: 100.0 };
    assert_eq!(who(bench.turn(&streams, guess)), [0, 1], "the third finds no room, and takes none from them");
    assert_eq!(who(bench.turn(&streams[2..], guess)), [2], "of those that wait one makes room");
    // One that is too long for all of it.
    let long: Vec<u32> = (0..200).collect();
    assert_eq!(bench.decide(&[stream(SequenceId(9), &long, 3)]), Work::default());
}

#[test]
fn the_first_step_of_all_is_a_short_one() {
    let tokens: Vec<u32> = (0..2000).collect();
    let mut bench = Bench { draft: StepTimes::default(), ..Bench::new(128, 1.0) };
    let work = bench.decide(&[stream(ID, &tokens, 500), stream(SequenceId(1), &tokens, 500)]);
    assert_eq!((work.guesses.len(), work.reads), (0, Some((ID, ROWS_AT_FIRST))));
    // Of the model nothing is known either: nothing is concluded.
    let mut bench = Bench { model: StepTimes::default(), ..Bench::new(128, 1.0) };
    assert_eq!(bench.decide(&[stream(ID, &tokens, 500)]), Work::default());
}

#[test]
fn what_was_guessed_right_need_not_be_read_again() {
    let mut bench = Bench::new(64, 2.0);
    bench.plan.usual = Outcomes { right: 99.0, seen: 100.0 };
    let mut tokens: Vec<u32> = (0..20).collect();
    let work = bench.turn(&[stream(ID, &tokens, 3)], |guesses| (20..20 + guesses as u32).collect());
    let guesses = work.guesses[0].1;
    assert!(guesses > 3, "{work:?}");
    assert_eq!(bench.plan.place(ID).0, 20);
    // Three were right, and another came than the fourth.
    tokens.extend([20, 21, 22, 777]);
    bench.decide(&[stream(ID, &tokens, 7)]);
    assert_eq!((bench.plan.place(ID).0, bench.plan.right_total()), (23, 3));
    // A step that gave nothing, as under a late mask: the last token is read again.
    let mut bench = Bench::new(64, 2.0);
    bench.turn(&[stream(ID, &tokens, 3)], |guesses| vec![5; guesses]);
    bench.decide(&[stream(ID, &tokens, 3)]);
    assert_eq!(bench.plan.place(ID).0, tokens.len() - 1);
}
