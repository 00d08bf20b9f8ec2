//! Predicts when a request would have its first token: from who is before it, what they still have to compute, and how long that takes
//! here. A prediction decides who is let in, never what anybody is told.
//!
//! Pure: what time it is, how long steps take and how often somebody leaves are arguments.
#![deny(clippy::disallowed_methods)]

use std::time::Duration;

use super::Priority;
use super::scheduler::{Scheduler, rank, step_limit_s};
use super::sequence::{Sequence, SequenceId};
use super::step_times::{Load, StepTimes, Trust};

/// A request that would come now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Newcomer {
    pub prompt_tokens: usize,
    /// Of these, in the prefix cache.
    pub cached_tokens: usize,
    pub priority: Priority,
}

/// Tokens of one prompt that are still to be computed.
#[derive(Clone, Copy)]
struct Stretch {
    start: usize,
    tokens: usize,
}

/// Until its first token; `None`: no step was measured yet. `departure`: the usual time between two departures, for who finds no place.
///
/// Places first; then the prompts before it in rank, and its own, at the speed of steps beside the streams that run now. Those that become
/// streams meanwhile slow it down a little more, and what the cache gains meanwhile makes it faster: neither is foreseen.
pub fn first_token(scheduler: &Scheduler, newcomer: Newcomer, now: Duration, times: &StepTimes, departure: Duration) -> Option<Duration> {
    let last = (newcomer.priority, SequenceId(u64::MAX));
    let before = |sequence: &&Sequence| rank(sequence, now) < last;
    let running = || scheduler.all_running().iter().filter(before);
    let waiting = || scheduler.all_waiting().filter(before);
    let places_missing = (running().count() + waiting().count() + 1).saturating_sub(scheduler.limits().sequences_max);

    let streams = running().filter(|sequence| sequence.is_stream());
    let streams = streams.map(|stream| Load::of(stream.computed(), 1)).fold(Load::default(), Load::and);
    let pace = Pace::beside(streams, scheduler.limits().tokens_per_step_max, times);
    let own = Stretch { start: newcomer.cached_tokens, tokens: (newcomer.prompt_tokens - newcomer.cached_tokens).max(1) };
    let prompts = running().filter(|sequence| !sequence.is_stream()).map(|sequence| (sequence.computed(), sequence.total()));
    let not_begun = waiting().map(|sequence| (sequence.expected_cached(), sequence.total()));
    let mut seconds = pace.last_step_s(own)?.max(pace.seconds(own)?);
    for (start, end) in prompts.chain(not_begun) {
        seconds += pace.seconds(Stretch { start, tokens: end - start })?;
    }
    Some(departure * places_missing as u32 + Duration::from_secs_f64(seconds))
}

/// How fast prompts are computed.
struct Pace<'a> {
    times: &'a StepTimes,
    streams: Load,
    rows_max: usize,
    /// What a step may take beside the streams; `None`: there are none.
    step_s_max: Option<f64>,
}

impl<'a> Pace<'a> {
    fn beside(streams: Load, rows_max: usize, times: &'a StepTimes) -> Self {
        let alone = times.seconds(streams, Trust::Old).filter(|_| streams.rows > 0);
        Self { times, streams, rows_max, step_s_max: alone.map(step_limit_s) }
    }

    /// What a stretch takes of steps that are full; at the depth of its middle.
    fn seconds(&self, stretch: Stretch) -> Option<f64> {
        let depth = stretch.start + stretch.tokens / 2;
        let rows = self.rows(depth);
        Some(self.step_s(depth, rows)? * stretch.tokens as f64 / rows as f64)
    }

    /// The step that gives the first token is computed to its end, however few rows were missing.
    fn last_step_s(&self, stretch: Stretch) -> Option<f64> {
        let end = stretch.start + stretch.tokens;
        let rows = stretch.tokens.min(self.rows(end));
        self.step_s(end - rows, rows)
    }

    /// Of one prompt in a step.
    fn rows(&self, depth: usize) -> usize {
        let all = self.step_s_max.map_or(self.rows_max, |seconds| self.times.rows_within(seconds, self.streams, depth, self.rows_max));
        all.saturating_sub(self.streams.rows).max(1)
    }

    fn step_s(&self, depth: usize, rows: usize) -> Option<f64> {
        self.times.seconds(self.streams.and(Load::of(depth, rows)), Trust::Old)
    }
}

#[cfg(test)]
mod tests {
    use super::super::block_manager::BlockManager;
    use super::super::scheduler::Limits;
    use super::*;

    const NOW: Duration = Duration::from_secs(5);
    const DEPARTURE: Duration = Duration::from_secs(10);

    /// A step of one row takes 50 ms, each further row 10.
    fn times() -> StepTimes {
        let mut times = StepTimes::default();
        for rows in [1, 2, 4, 8, 16, 64, 100] {
            times.record(Load::of(0, rows), 0.04 + 0.01 * rows as f64);
        }
        times
    }

    fn scheduler() -> Scheduler {
        let limits = Limits { sequences_max: 2, tokens_per_step_max: 100, answer_tokens_reserved: 512, drafts_max: 0 };
        Scheduler::new(limits, BlockManager::new(1000))
    }

    fn add(scheduler: &mut Scheduler, id: u64, prompt: u32, priority: Priority) {
        let tokens = (0..prompt).map(|token| token + 10_000 * id as u32).collect();
        scheduler.add(Sequence::new(SequenceId(id), tokens, 1000, vec![]).arriving(priority, NOW));
    }

    fn turn(scheduler: &mut Scheduler) {
        let plan = scheduler.schedule(NOW, &times());
        for chunk in &plan.chunks {
            scheduler.commit(chunk, if chunk.samples { &[7] } else { &[] });
        }
    }

    /// Milliseconds.
    fn predicted(scheduler: &Scheduler, prompt_tokens: usize, cached_tokens: usize, priority: Priority) -> f64 {
        let newcomer = Newcomer { prompt_tokens, cached_tokens, priority };
        let predicted = first_token(scheduler, newcomer, NOW, &times(), DEPARTURE).expect("steps were measured");
        (predicted.as_secs_f64() * 1e3).round()
    }

    #[test]
    fn nothing_is_predicted_before_anything_was_measured() {
        let newcomer = Newcomer { prompt_tokens: 10, cached_tokens: 0, priority: Priority::Interactive };
        assert_eq!(first_token(&scheduler(), newcomer, NOW, &StepTimes::default(), DEPARTURE), None);
    }

    #[test]
    fn a_request_alone_waits_for_its_own_prompt() {
        let scheduler = scheduler();
        let alone = |prompt, cached| predicted(&scheduler, prompt, cached, Priority::Interactive);
        assert_eq!(alone(1, 0), 50.0);
        // Ten steps of a hundred rows, 1,040 ms each.
        assert_eq!((alone(1000, 0), alone(1000, 900), alone(1000, 999)), (10_400.0, 1_040.0, 50.0));
    }

    #[test]
    fn it_waits_for_the_prompts_before_it_and_for_a_place() {
        let mut scheduler = scheduler();
        add(&mut scheduler, 0, 1000, Priority::Interactive);
        assert_eq!(predicted(&scheduler, 1, 0, Priority::Interactive), 10_450.0, "it waits, its prompt counts");
        turn(&mut scheduler);
        assert_eq!(predicted(&scheduler, 1, 0, Priority::Interactive), 9_410.0, "a step is done");
        add(&mut scheduler, 1, 500, Priority::Background);
        assert_eq!(predicted(&scheduler, 1, 0, Priority::Interactive), 9_410.0, "the less urgent are behind it");
        assert_eq!(predicted(&scheduler, 1, 0, Priority::Background), 9_410.0 + 5_200.0 + 10_000.0, "two places are taken before it");
        add(&mut scheduler, 2, 300, Priority::Interactive);
        assert_eq!(predicted(&scheduler, 1, 0, Priority::Interactive), 9_410.0 + 3_120.0 + 10_000.0);
    }

    #[test]
    fn beside_a_stream_prompts_come_slower() {
        let mut scheduler = scheduler();
        add(&mut scheduler, 0, 50, Priority::Interactive);
        turn(&mut scheduler);
        // A step may take 2.5 times 50 ms, 125: eight rows in 120, seven of them the prompt's.
        assert_eq!(predicted(&scheduler, 700, 0, Priority::Interactive), 12_000.0);
        // For the more urgent nobody holds back.
        let mut scheduler = self::scheduler();
        add(&mut scheduler, 0, 50, Priority::Background);
        turn(&mut scheduler);
        assert_eq!(predicted(&scheduler, 1000, 0, Priority::Interactive), 10_400.0);
    }
}
