//! Log-probabilities of prompts: the engine says of each token what the model says of it alone, whatever runs beside it, what the cache
//! has of the prompt, and who is paused on the way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use understudy::engine::block_manager::BlockManager;
use understudy::engine::scheduler::{Limits, SCORED_ROWS_MAX, Scheduler};
use understudy::engine::{Engine, EngineConfig, GenerateRequest, SamplingParams, TokenEvent, TokenLogprobs};

use crate::support::fake_model::FakeModel;

const VOCAB: usize = 61;
const CONFIG: EngineConfig = EngineConfig {
    blocks: 16,
    sequences_max: 4,
    tokens_per_step_max: 64,
    queue_max: 100,
    context_max: 512,
    drafts_max: 8,
    first_token_max: None,
};

fn request(prompt: Vec<u32>, tokens_max: usize) -> GenerateRequest {
    let sampling = SamplingParams { temperature: 0.8, seed: 5, ..SamplingParams::default() };
    GenerateRequest { prompt, tokens_max: Some(tokens_max), sampling, ..GenerateRequest::default() }
}

/// The engine's loop on a thread, promising so little of an answer at admission that sequences are paused; and the most rows of logits
/// that a step has had.
fn start() -> (Engine, Arc<AtomicUsize>) {
    let rows = Arc::new(AtomicUsize::new(0));
    let most = rows.clone();
    let model = FakeModel::new(VOCAB, CONFIG.blocks).with_fault(move |_, step| {
        most.fetch_max(step.logit_rows.len(), Ordering::Relaxed);
        Ok(())
    });
    let (engine, engine_loop) = Engine::without_thread(Box::new(model), CONFIG);
    let EngineConfig { sequences_max, tokens_per_step_max, drafts_max, .. } = CONFIG;
    let limits = Limits { sequences_max, tokens_per_step_max, answer_tokens_reserved: 1, drafts_max };
    let engine_loop = engine_loop.with_scheduler(Scheduler::new(limits, BlockManager::new(CONFIG.blocks)));
    std::thread::spawn(move || engine_loop.run());
    (engine, rows)
}

/// The model's word on the token at `position`, out of a prompt that ends before it: how likely it is, and the two likeliest.
fn word_on(prompt: &[u32], position: usize) -> TokenLogprobs {
    let all = GenerateRequest { top_logprobs: Some(VOCAB), ..request(prompt[..position].to_vec(), 1) };
    let (tokens, _) = FakeModel::lone_run(VOCAB, &all, &CONFIG);
    let top = tokens[0].logprobs.clone().expect("they were asked for").top;
    let logprob = top.iter().find(|(id, _)| *id == prompt[position]).expect("all are told").1;
    TokenLogprobs { logprob, top: top[..2].to_vec() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_token_of_a_prompt_is_as_likely_as_the_model_says() {
    let (engine, rows) = start();
    // Common beginnings, so that there is something to be found in the cache; every second one is not scored.
    let prompt =
        |number: u32| (0..40 + 9 * number).map(|at| if at < 35 { at % 7 } else { (at * number) % VOCAB as u32 }).collect::<Vec<_>>();
    let requests: Vec<GenerateRequest> = (0..16)
        .map(|number| GenerateRequest {
            prompt_logprobs: (number % 2 == 0).then_some(2),
            ..request(prompt(number), if number % 4 == 0 { 0 } else { 100 })
        })
        .collect();
    let answers: Vec<_> = requests
        .iter()
        .map(|request| {
            let mut stream = engine.generate(request.clone()).expect("there is room");
            tokio::spawn(async move {
                let (mut tokens, mut scores) = (Vec::new(), Vec::new());
                loop {
                    let event = stream.next().await.expect("`Finished` comes first");
                    // Also later: who is paused computes its prompt again, and tells it once.
                    scores.extend(stream.prompt_scores());
                    match event {
                        TokenEvent::Token(token) => tokens.push(token),
                        TokenEvent::Finished { usage, .. } => return (tokens, scores, usage),
                    }
                }
            })
        })
        .collect();
    for (request, answer) in requests.iter().zip(answers) {
        let (tokens, scores, usage) = answer.await.expect("no panic");
        assert_eq!(tokens, FakeModel::lone_run(VOCAB, request, &CONFIG).0);
        if request.prompt_logprobs.is_none() {
            assert_eq!(scores, []);
            continue;
        }
        assert_eq!(usage.cached_tokens, 0, "all of it is computed");
        let expected: Vec<TokenLogprobs> = (1..request.prompt.len()).map(|position| word_on(&request.prompt, position)).collect();
        assert_eq!(scores, expected);
    }
    assert!(engine.stats().pauses_total > 0, "blocks were short: {:?}", engine.stats());
    let most = rows.load(Ordering::Relaxed);
    assert!(
        most > SCORED_ROWS_MAX / 2 && most <= SCORED_ROWS_MAX + CONFIG.sequences_max + CONFIG.drafts_max,
        "{most} rows of logits in a step"
    );
}
