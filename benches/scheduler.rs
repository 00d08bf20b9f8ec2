//! What a step costs beside the model: the scheduler and its books at 256 sequences. (What a token costs is in `sampler.rs`.)
//! Nothing is guessed ahead: with so many streams it never pays. Printed, never asserted. `cargo bench --bench scheduler`

use std::time::{Duration, Instant};

use kernels::Step;
use models::Logits;
use understudy::engine::batch::Batch;
use understudy::engine::block_manager::BlockManager;
use understudy::engine::plan::Plan;
use understudy::engine::scheduler::{ANSWER_TOKENS_RESERVED, Limits, Scheduler};
use understudy::engine::sequence::{Sequence, SequenceId};
use understudy::engine::step_times::{Load, StepTimes};
use understudy::engine::{Engine, EngineConfig, GenerateRequest, ModelRunner, SamplingParams};

const SEQUENCES: usize = 256;
const PROMPT: usize = 1000;
const STEPS: usize = 2000;

fn main() {
    bookkeeping();
    whole_turn();
}

/// schedule, lay out, commit: 256 streams, each 1,000 to 3,000 tokens long.
fn bookkeeping() {
    let limits = Limits {
        sequences_max: SEQUENCES,
        tokens_per_step_max: 2 * SEQUENCES,
        answer_tokens_reserved: ANSWER_TOKENS_RESERVED,
        drafts_max: 0,
    };
    let mut scheduler = Scheduler::new(limits, BlockManager::new(SEQUENCES * 120));
    for id in 0..SEQUENCES {
        scheduler.add(Sequence::new(SequenceId(id as u64), prompt(id), 2 * STEPS, vec![2]));
    }
    let mut batch = Batch::default();
    // While nothing is known of how long steps take, nothing holds the prompts back: all of them stream after some hundred steps.
    let mut step_times = StepTimes::default();
    let times = measure(|measured| {
        if measured == 1 {
            step_times.record(Load::of(PROMPT, SEQUENCES), 0.1);
        }
        let start = Instant::now();
        let plan = scheduler.schedule(Duration::ZERO, &step_times);
        batch.lay_out(&plan, &scheduler);
        for chunk in &plan.chunks {
            scheduler.commit(chunk, if chunk.samples { &[7] } else { &[] });
        }
        (start.elapsed(), all_stream(&plan))
    });
    print("schedule + lay out + commit, 256 streams", times);
}

fn all_stream(plan: &Plan) -> bool {
    plan.chunks.len() == SEQUENCES && plan.chunks.iter().all(|chunk| chunk.len == 1)
}

/// The times of [`STEPS`] steps in which all of them stream; `step` is told how many of those there were. Says how far it is once a
/// second, and gives up where they cannot come any more: a sequence that ends before the last has begun leaves too few.
fn measure(mut step: impl FnMut(usize) -> (Duration, bool)) -> Vec<Duration> {
    let (mut times, mut steps, start) = (Vec::new(), 0, Instant::now());
    let mut told = start;
    while times.len() < STEPS {
        let (time, counts) = step(times.len());
        steps += 1;
        if counts {
            times.push(time);
        }
        assert!(steps < 8 * STEPS, "after {steps} steps all {SEQUENCES} have streamed together in {} of them only", times.len());
        if told.elapsed() >= Duration::from_secs(1) {
            told = Instant::now();
            eprintln!("  {steps} steps in {:.0} s, in {} of them all {SEQUENCES} stream", start.elapsed().as_secs_f64(), times.len());
        }
    }
    times
}

/// The same through the whole loop, with a model that does nothing: also a greedy draw of 64 and a message each.
fn whole_turn() {
    struct Nothing(Vec<f32>);
    impl ModelRunner for Nothing {
        fn vocab(&self) -> usize {
            64
        }
        fn run(&mut self, _: &[u32], step: &Step) -> Result<Logits, String> {
            self.0.resize(step.logit_rows.len() * 64, 0.5);
            Ok(Logits { values: self.0.clone(), vocab: 64 })
        }
    }
    let config = EngineConfig {
        blocks: SEQUENCES * 120,
        sequences_max: SEQUENCES,
        tokens_per_step_max: 2 * SEQUENCES,
        queue_max: 0,
        context_max: 10_000,
        drafts_max: 0,
        first_token_max: None,
    };
    let (engine, mut engine_loop) = Engine::without_thread(Box::new(Nothing(Vec::new())), config);
    let streams: Vec<_> = (0..SEQUENCES)
        .map(|id| {
            let sampling = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
            let prompt = prompt(id).into_iter().map(|token| token % 64).collect();
            let (tokens_max, stop_token_ids) = (Some(2 * STEPS), vec![2]);
            let request = GenerateRequest { prompt, tokens_max, stop_token_ids, sampling, ..GenerateRequest::default() };
            engine.generate(request).expect("there is room")
        })
        .collect();
    // It takes all of them in; with nothing to do it would wait for a command for ever.
    engine_loop.turn();
    let times = measure(|_| {
        assert!(!engine_loop.is_idle(), "the answers have ended before all {SEQUENCES} have streamed together for {STEPS} steps");
        let start = Instant::now();
        engine_loop.turn();
        (start.elapsed(), all_stream(engine_loop.plan()))
    });
    drop(streams);
    print("one turn of the engine with a model that does nothing, 256 streams", times);
}

fn prompt(id: usize) -> Vec<u32> {
    (0..PROMPT as u32).map(|i| i * 7 + 31 * id as u32).collect()
}

fn print(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let us = |part: f64| times[(part * (times.len() - 1) as f64) as usize].as_secs_f64() * 1e6;
    println!("{what:<67} best {:>7.1} us, median {:>7.1} us, 99 of 100 under {:>8.1} us", us(0.0), us(0.5), us(0.99));
}
