//! What a step costs beside the model: the scheduler and its books at 256 sequences. (What a token costs is in `sampler.rs`.)
//! Nothing is guessed ahead: with so many streams it never pays. Printed, never asserted. `cargo bench --bench scheduler`

use std::time::{Duration, Instant};

use kernels::Step;
use models::Logits;
use understudy::engine::batch::Batch;
use understudy::engine::block_manager::BlockManager;
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
    let mut step_times = StepTimes::default();
    step_times.record(Load::of(0, SEQUENCES), 0.1);
    let mut times = Vec::new();
    while times.len() < STEPS {
        let start = Instant::now();
        let plan = scheduler.schedule(Duration::ZERO, &step_times);
        batch.lay_out(&plan, &scheduler);
        for chunk in &plan.chunks {
            scheduler.commit(chunk, if chunk.samples { &[7] } else { &[] });
        }
        let time = start.elapsed();
        // Only steps in which all of them stream.
        if plan.chunks.len() == SEQUENCES && plan.chunks.iter().all(|chunk| chunk.len == 1) {
            times.push(time);
        }
    }
    print("schedule + lay out + commit, 256 streams", times);
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
    let mut times = Vec::new();
    while times.len() < STEPS {
        let start = Instant::now();
        engine_loop.turn();
        let time = start.elapsed();
        let chunks = &engine_loop.plan().chunks;
        if chunks.len() == SEQUENCES && chunks.iter().all(|chunk| chunk.len == 1) {
            times.push(time);
        }
    }
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
