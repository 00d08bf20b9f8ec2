//! What one token costs once its logits are there: a vocabulary of 151,936 (Qwen's), a row that is sure of a few tokens, as most rows of a
//! real model are, and one that is sure of none. Printed, never asserted. `cargo bench --bench sampler`

use std::sync::Arc;
use std::time::Instant;

use understudy::engine::sampler::{Sampler, Scratch};
use understudy::engine::token_mask::TokenMask;
use understudy::engine::{Dry, SamplingParams};

const VOCAB: usize = 151_936;
const DRAWS: usize = 400;
/// The history of an agent's session.
const HISTORY: usize = 20_000;

struct Case {
    name: &'static str,
    params: SamplingParams,
    top_logprobs: Option<usize>,
    allowed: Option<TokenMask>,
}

fn main() {
    let history = history();
    let rows = [row(3.0), row(0.7)];
    println!("{:<46} {:>26} {:>26}", "us a token, of a vocabulary of 151,936", "a sure row: best, median", "an unsure row: best, median");
    for case in cases() {
        let [sure, unsure] = rows.each_ref().map(|row| measure(&case, row, &history));
        println!("{:<46} {:>15.1} {:>10.1} {:>15.1} {:>10.1}", case.name, sure.0, sure.1, unsure.0, unsure.1);
    }
}

fn cases() -> Vec<Case> {
    let params = SamplingParams { seed: 3, ..SamplingParams::default() };
    let greedy = SamplingParams { temperature: 0.0, ..params.clone() };
    let dry = |breakers: &[u32]| {
        let breakers = Arc::new(TokenMask::of(VOCAB, breakers.iter().copied()));
        Some(Dry { multiplier: 0.8, base: 1.75, allowed_length: 2, last_n: None, breakers })
    };
    let case = |name, params| Case { name, params, top_logprobs: None, allowed: None };
    let every = |step: usize| TokenMask::of(VOCAB, (0..VOCAB as u32).step_by(step));
    vec![
        case("greedy", greedy.clone()),
        case("temperature 1", params.clone()),
        case("temperature 0.7, top_k 40, top_p 0.95", SamplingParams { temperature: 0.7, top_k: Some(40), top_p: 0.95, ..params.clone() }),
        case("top_k 1000", SamplingParams { top_k: Some(1000), ..params.clone() }),
        case("min_p 0.05", SamplingParams { min_p: 0.05, ..params.clone() }),
        case("top_p 0.95", SamplingParams { top_p: 0.95, ..params.clone() }),
        case("typical_p 0.95", SamplingParams { typical_p: 0.95, ..params.clone() }),
        case("greedy, repetition penalty, 20,000 tokens", SamplingParams { repetition_penalty: 1.1, ..greedy.clone() }),
        case("greedy, DRY, 20,000 tokens", SamplingParams { dry: dry(&[]), ..greedy.clone() }),
        case("greedy, DRY, 20,000 tokens, a breaker near", SamplingParams { dry: dry(&[history()[HISTORY - 12]]), ..greedy.clone() }),
        Case { name: "greedy, 20 log-probabilities", top_logprobs: Some(20), ..case("", greedy.clone()) },
        Case { name: "greedy, a mask of all", allowed: Some(every(1)), ..case("", greedy.clone()) },
        Case { name: "greedy, a mask of every seventh", allowed: Some(every(7)), ..case("", greedy.clone()) },
        Case { name: "greedy, a mask of every thousandth", allowed: Some(every(1000)), ..case("", greedy) },
        Case { name: "temperature 1, a mask of every thousandth", allowed: Some(every(1000)), ..case("", params) },
    ]
}

/// Best and median of [`DRAWS`] tokens, in microseconds.
fn measure(case: &Case, logits: &[f32], history: &[u32]) -> (f64, f64) {
    let sampler = Sampler::new(case.params.clone(), case.top_logprobs, history);
    let mut scratch = Scratch::default();
    let mut times: Vec<f64> = (0..DRAWS)
        .map(|draw| {
            let start = Instant::now();
            let token = sampler.sample_within(case.allowed.as_ref(), logits, HISTORY + draw, &mut scratch);
            let time = start.elapsed();
            token.expect("the logits are numbers");
            time.as_secs_f64() * 1e6
        })
        .collect();
    times.sort_unstable_by(f64::total_cmp);
    (times[0], times[DRAWS / 2])
}

/// A bell of logits, the wider the surer: the sum of four uniform numbers.
fn row(width: f32) -> Vec<f32> {
    let mut random = random();
    (0..VOCAB).map(|_| (0..4).map(|_| (random() >> 48) as f32 / 65_536.0 - 0.5).sum::<f32>() * 10.0 * width).collect()
}

/// Text repeats itself: phrases of eight tokens out of 300, and a word of its own now and then.
fn history() -> Vec<u32> {
    let mut random = random();
    let phrases: Vec<Vec<u32>> = (0..300).map(|_| (0..8).map(|_| (random() >> 40) as u32 % VOCAB as u32).collect()).collect();
    let mut history = Vec::with_capacity(HISTORY + 9);
    while history.len() < HISTORY {
        history.extend(&phrases[(random() >> 40) as usize % phrases.len()]);
        history.push((random() >> 40) as u32 % 500);
    }
    history.truncate(HISTORY);
    history
}

/// Knuth's linear congruential generator, from the same seed each time.
fn random() -> impl FnMut() -> u64 {
    let mut state = 1u64;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state
    }
}
