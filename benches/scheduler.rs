//! What a step costs beside the model: the scheduler and its books at 256 sequences, and one draw from a large vocabulary.
//! Printed, never asserted. `cargo bench --bench scheduler`

use std::time::{Duration, Instant};

use kernels::Step;
use models::Logits;
use understudy::engine::batch::Batch;
use understudy::engine::block_manager::BlockManager;
use understudy::engine::sampler::{Sampler, Scratch};
use understudy::engine::scheduler::{ANSWER_TOKENS_RESERVED, Limits, Scheduler};
use understudy::engine::sequence::{Sequence, SequenceId};
use understudy::engine::step_times::StepTimes;
use understudy::engine::{Engine, EngineConfig, GenerateRequest, ModelRunner, Priority, SamplingParams};

const SEQUENCES: usize = 256;
const PROMPT: usize = 1000;
const STEPS: usize = 2000;
const VOCAB: usize = 151_936;

fn main() {
    bookkeeping();
    whole_turn();
    draws();
}

/// schedule, lay out, commit: 256 streams, each 1,000 to 3,000 tokens long.
fn bookkeeping() {
    let limits = Limits {
        sequences_max: SEQUENCES,
        tokens_per_step_max: 2 * SEQUENCES,
        answer_tokens_reserved: ANSWER_TOKENS_RESERVED,
        drafts_max: 16,
    };
    let mut scheduler = Scheduler::new(limits, BlockManager::new(SEQUENCES * 120));
    for id in 0..SEQUENCES {
        scheduler.add(Sequence::new(SequenceId(id as u64), prompt(id), 2 * STEPS, vec![2]));
    }
    let mut batch = Batch::default();
    let mut step_times = StepTimes::default();
    step_times.record(SEQUENCES, 0.1);
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
        drafts_max: 16,
    };
    let (engine, mut engine_loop) = Engine::without_thread(Box::new(Nothing(Vec::new())), config);
    let streams: Vec<_> = (0..SEQUENCES)
        .map(|id| {
            let sampling = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
            let prompt = prompt(id).into_iter().map(|token| token % 64).collect();
            let request = GenerateRequest {
                prompt,
                tokens_max: Some(2 * STEPS),
                stop_token_ids: vec![2],
                sampling,
                top_logprobs: None,
                priority: Priority::Interactive,
            };
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

/// One token from 151,936 logits.
fn draws() {
    let mut state = 1u64;
    let logits: Vec<f32> = (0..VOCAB)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // A bell of width 3 or so: the sum of four uniform numbers.
            (0..4).map(|i| ((state >> (16 * i)) & 0xFFFF) as f32 / 65_536.0).sum::<f32>() * 5.0 - 10.0
        })
        .collect();
    let params = SamplingParams { seed: 3, ..SamplingParams::default() };
    for (name, params, top_logprobs) in [
        ("greedy", SamplingParams { temperature: 0.0, ..params.clone() }, None),
        ("temperature 1", params.clone(), None),
        ("temperature 0.7, top_k 20, top_p 0.8", SamplingParams { temperature: 0.7, top_k: Some(20), top_p: 0.8, ..params.clone() }, None),
        ("temperature 1, top_p 0.95", SamplingParams { top_p: 0.95, ..params.clone() }, None),
        ("temperature 1, min_p 0.05", SamplingParams { min_p: 0.05, ..params.clone() }, None),
        ("greedy, penalties over 1,000 tokens", SamplingParams { temperature: 0.0, repetition_penalty: 1.1, ..params.clone() }, None),
        ("greedy, 20 log-probabilities", SamplingParams { temperature: 0.0, ..params }, Some(20)),
    ] {
        let sampler = Sampler::new(params, top_logprobs, &prompt(0));
        let mut scratch = Scratch::default();
        let times = (0..200)
            .map(|position| {
                let start = Instant::now();
                sampler.sample(&logits, position, &mut scratch).expect("the logits are numbers");
                start.elapsed()
            })
            .collect();
        print(&format!("draw from {VOCAB}: {name}"), times);
    }
}

fn prompt(id: usize) -> Vec<u32> {
    (0..PROMPT as u32).map(|i| i * 7 + 31 * id as u32).collect()
}

fn print(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let us = |part: f64| times[(part * (times.len() - 1) as f64) as usize].as_secs_f64() * 1e6;
    println!("{what:<67} best {:>7.1} us, median {:>7.1} us, 99 of 100 under {:>8.1} us", us(0.0), us(0.5), us(0.99));
}
