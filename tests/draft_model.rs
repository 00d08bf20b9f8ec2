//! A draft model never changes an answer: on real (tiny, random) models the tokens and the log-probabilities of the whole vocabulary are the
//! same with one and without, greedy and sampled, whether it is always right, never, or sometimes; in company, cancelled and paused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use candle_core::Device;
use kernels::{GgmlType, KvDtype, Step};
use models::kv_cache::KvCache;
use models::testing::tiny;
use models::{Family, Logits};
use understudy::engine::block_manager::BlockManager;
use understudy::engine::draft_model::DraftModel;
use understudy::engine::draft_plan::DraftLimits;
use understudy::engine::engine_loop::EngineLoop;
use understudy::engine::model_runner::LoadedRunner;
use understudy::engine::scheduler::{Limits, Scheduler};
use understudy::engine::{
    Engine, EngineConfig, FinishReason, GenerateRequest, GeneratedToken, ModelRunner, SamplingParams, TokenEvent, TokenStream,
};

use crate::support::fake_model::FakeModel;

const CONFIG: EngineConfig = EngineConfig {
    blocks: 128,
    sequences_max: 8,
    tokens_per_step_max: 512,
    queue_max: 8,
    context_max: 512,
    drafts_max: 16,
    first_token_max: None,
};
const DRAFT: DraftLimits = DraftLimits { blocks: 64, context_max: 512, tokens_per_step_max: 64 };
/// Of the tiny models, and of those that are all memory.
const VOCAB: usize = 320;

/// A runner whose steps take no time, where the model's take a millisecond.
struct Quick {
    runner: Box<dyn ModelRunner>,
    ran: Arc<AtomicBool>,
}

impl ModelRunner for Quick {
    fn vocab(&self) -> usize {
        self.runner.vocab()
    }
    fn run(&mut self, token_ids: &[u32], step: &Step) -> Result<Logits, String> {
        self.ran.store(true, Ordering::Relaxed);
        self.runner.run(token_ids, step)
    }
}

struct Bench {
    engine: Engine,
    engine_loop: EngineLoop,
}

type Answer = Vec<GeneratedToken>;

impl Bench {
    fn new(model: Box<dyn ModelRunner>, draft: Option<Box<dyn ModelRunner>>, config: EngineConfig, limits: DraftLimits) -> Self {
        let (engine, engine_loop) = Engine::without_thread(model, config);
        let (now_ms, ran) = (AtomicU64::new(0), Arc::new(AtomicBool::new(false)));
        let draft = draft.map(|runner| DraftModel::new(Box::new(Quick { runner, ran: ran.clone() }), limits));
        let clock = move || {
            let step_ms = if ran.swap(false, Ordering::Relaxed) { 0 } else { 1 };
            Duration::from_millis(now_ms.fetch_add(step_ms, Ordering::Relaxed) + step_ms)
        };
        Self { engine, engine_loop: engine_loop.with_clock(Box::new(clock)).with_draft(draft) }
    }

    fn turn(&mut self) {
        assert!(self.engine_loop.turn());
        self.engine_loop.scheduler().check().unwrap();
        self.engine_loop.check_draft().unwrap();
    }

    /// All at once.
    fn answers(&mut self, requests: &[GenerateRequest]) -> Vec<Answer> {
        let mut streams: Vec<TokenStream> = requests.iter().map(|request| self.engine.generate(request.clone()).unwrap()).collect();
        let mut answers = vec![Answer::new(); streams.len()];
        let mut left = streams.len();
        while left > 0 {
            self.turn();
            for (stream, answer) in streams.iter_mut().zip(&mut answers) {
                while let Some(event) = stream.try_next() {
                    match event {
                        TokenEvent::Token(token) => answer.push(token),
                        TokenEvent::Finished { reason, .. } => {
                            assert!(matches!(reason, FinishReason::Length | FinishReason::Stop), "{reason:?}");
                            left -= 1;
                        }
                    }
                }
            }
        }
        answers
    }

    /// Guessed by the draft model, and of these right.
    fn guesses(&self) -> (u64, u64) {
        let stats = self.engine.stats();
        (stats.draft_model.guessed_total, stats.draft_model.right_total)
    }
}

fn loaded(seed: u64, ty: GgmlType, blocks: usize) -> Box<dyn ModelRunner> {
    let model = models::load(&tiny(Family::Qwen2, seed, ty), &Device::Cpu).unwrap();
    let kv = KvCache::new(model.config(), blocks, KvDtype::F16, &Device::Cpu).unwrap();
    Box::new(LoadedRunner::new(model, kv))
}

/// Prompts without a repetition, so that prompt lookup has nothing.
fn requests() -> Vec<GenerateRequest> {
    (0..4u32)
        .map(|index| GenerateRequest {
            prompt: (0..40 + 21 * index).map(|i| (i * 7 + i * i * 3 + 5 * index) % 251).collect(),
            tokens_max: Some(60),
            sampling: SamplingParams {
                temperature: if index % 2 == 0 { 0.0 } else { 1.2 },
                seed: index.into(),
                ..SamplingParams::default()
            },
            top_logprobs: Some(VOCAB),
            ..GenerateRequest::default()
        })
        .collect()
}

#[test]
fn answers_are_the_same_with_a_draft_model_and_without() {
    let requests = requests();
    let mut without = Bench::new(loaded(7, GgmlType::Q8_0, 128), None, CONFIG, DRAFT);
    let expected: Vec<Answer> = requests.iter().map(|request| without.answers(std::slice::from_ref(request)).remove(0)).collect();
    // The same model, and one that has nothing to do with it.
    for (seed, is_right) in [(7, true), (8, false)] {
        let mut bench = Bench::new(loaded(7, GgmlType::Q8_0, 128), Some(loaded(seed, GgmlType::Q8_0, DRAFT.blocks)), CONFIG, DRAFT);
        for (request, expected) in requests.iter().zip(&expected) {
            assert!(bench.answers(std::slice::from_ref(request))[0] == *expected, "alone, {seed}");
        }
        assert!(bench.answers(&requests) == expected, "in company, {seed}");
        let (guessed, right) = bench.guesses();
        match is_right {
            // The last guess of an answer is never judged, since there is nobody any more to look. Much is guessed by prompt lookup.
            true => assert!(guessed > 100 && right + 8 * GUESSES_UNSEEN >= guessed, "{right} of {guessed}"),
            false => assert!(guessed > 10 && right < guessed / 2, "{right} of {guessed}"),
        }
    }
}

/// At the end of each of the eight answers.
const GUESSES_UNSEEN: u64 = 8;

/// The next token depends on every token before it, read back through the draft model's own blocks: a wrong table, a token not read or a
/// wrong guess not forgotten makes it wrong for the rest of the answer.
#[test]
fn a_draft_model_that_is_the_model_is_always_right() {
    let requests: Vec<GenerateRequest> = requests().into_iter().map(|request| GenerateRequest { top_logprobs: None, ..request }).collect();
    let fake = |blocks| Box::new(FakeModel::new(VOCAB, blocks)) as Box<dyn ModelRunner>;
    for limits in [DRAFT, DraftLimits { tokens_per_step_max: 33, ..DRAFT }, DraftLimits { blocks: 6, ..DRAFT }] {
        let mut bench = Bench::new(fake(CONFIG.blocks), Some(fake(limits.blocks)), CONFIG, limits);
        let answers = bench.answers(&requests);
        for (request, answer) in requests.iter().zip(answers) {
            assert_eq!(answer, FakeModel::lone_run(VOCAB, request, &CONFIG).0, "{limits:?}");
        }
        let (stats, (guessed, right)) = (bench.engine.stats(), bench.guesses());
        assert_eq!(stats.accepted_tokens_total, stats.drafted_tokens_total, "{limits:?}");
        assert!(guessed > 30 && right + 4 * GUESSES_UNSEEN >= guessed, "{right} of {guessed}, {limits:?}");
    }
}

#[test]
fn one_that_is_sometimes_right_is_believed_as_far_as_it_is() {
    fn says(history: &[u32]) -> u32 {
        (history.len() as u32 * 37 + history[history.len() / 2]) % VOCAB as u32
    }
    let model = FakeModel::new(VOCAB, CONFIG.blocks).with_script(says);
    let draft = FakeModel::new(VOCAB, 64).with_script(|history| if history.len() % 4 == 3 { 5 } else { says(history) });
    let mut bench = Bench::new(Box::new(model), Some(Box::new(draft)), CONFIG, DRAFT);
    let requests = requests();
    for (request, answer) in requests.iter().zip(bench.answers(&requests)) {
        assert_eq!(answer, FakeModel::lone_run_with(VOCAB, request, &CONFIG, Some(says)).0);
    }
    let (guessed, right) = bench.guesses();
    assert!(right > guessed / 3 && right < guessed, "{right} of {guessed}");
}

#[test]
fn who_leaves_leaves_the_draft_model_too() {
    let mut bench = Bench::new(loaded(7, GgmlType::Q8_0, 128), Some(loaded(7, GgmlType::Q8_0, 64)), CONFIG, DRAFT);
    let requests = requests();
    let mut leaves = bench.engine.generate(requests[0].clone()).unwrap();
    let mut stays = bench.engine.generate(requests[1].clone()).unwrap();
    while bench.guesses().0 < 8 {
        bench.turn();
    }
    assert!(leaves.try_next().is_some());
    drop(leaves);
    let mut answer = Answer::new();
    while answer.len() < 40 {
        bench.turn();
        while let Some(event) = stays.try_next() {
            let TokenEvent::Token(token) = event else { break };
            answer.push(token);
        }
    }
    let expected = Bench::new(loaded(7, GgmlType::Q8_0, 128), None, CONFIG, DRAFT).answers(&requests[1..2]).remove(0);
    assert_eq!(answer, expected[..answer.len()]);
    assert_eq!(bench.engine.stats().cancelled_total, 1);
}

#[test]
fn who_is_paused_goes_on_with_the_same_answer() {
    let requests = requests();
    let mut without = Bench::new(loaded(7, GgmlType::Q8_0, 128), None, CONFIG, DRAFT);
    let expected: Vec<Answer> = requests.iter().map(|request| without.answers(std::slice::from_ref(request)).remove(0)).collect();
    let config = EngineConfig { blocks: 9, ..CONFIG };
    let limits = DraftLimits { blocks: 9, ..DRAFT };
    let mut bench = Bench::new(loaded(7, GgmlType::Q8_0, 9), Some(loaded(7, GgmlType::Q8_0, 9)), config, limits);
    let scheduler = Limits { sequences_max: 8, tokens_per_step_max: 512, answer_tokens_reserved: 0, drafts_max: 16 };
    bench.engine_loop = bench.engine_loop.with_scheduler(Scheduler::new(scheduler, BlockManager::new(9)));
    assert!(bench.answers(&requests) == expected);
    assert!(bench.engine.stats().pauses_total > 0 && bench.guesses().0 > 0, "{:?}", bench.engine.stats());
}

#[test]
fn one_that_fails_is_asked_no_more() {
    for panics in [false, true] {
        let steps = Arc::new(AtomicU64::new(0));
        let count = steps.clone();
        let draft = FakeModel::new(VOCAB, 64).with_fault(move |step, _| {
            count.store(step, Ordering::Relaxed);
            match (step, panics) {
                (..30, _) => Ok(()),
                // A panic that tells nobody but its catcher.
                (_, true) => std::panic::resume_unwind(Box::new("the draft model panics")),
                (_, false) => Err("out of memory on the device".to_owned()),
            }
        });
        let mut bench = Bench::new(Box::new(FakeModel::new(VOCAB, CONFIG.blocks)), Some(Box::new(draft)), CONFIG, DRAFT);
        let requests = requests();
        for (request, answer) in requests.iter().zip(bench.answers(&requests)) {
            assert_eq!(answer, FakeModel::lone_run(VOCAB, request, &CONFIG).0);
        }
        assert!(bench.guesses().0 > 0);
        assert_eq!(steps.load(Ordering::Relaxed), 30, "it is asked again");
    }
}

#[test]
fn prompt_lookup_goes_first() {
    // It says the same thirty tokens over and over.
    fn says(history: &[u32]) -> u32 {
        history[history.len() - 30]
    }
    let model = FakeModel::new(VOCAB, CONFIG.blocks).with_script(says);
    let draft = FakeModel::new(VOCAB, 64).with_script(says);
    let mut bench = Bench::new(Box::new(model), Some(Box::new(draft)), CONFIG, DRAFT);
    let sampling = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
    let prompt = (0..60).map(|i| i % 30 * 7).collect();
    let request = GenerateRequest { prompt, tokens_max: Some(200), sampling, ..GenerateRequest::default() };
    bench.answers(std::slice::from_ref(&request));
    let (stats, (guessed, _)) = (bench.engine.stats(), bench.guesses());
    assert!(stats.accepted_tokens_total > 100 && guessed < 20, "{guessed} by the draft model, {stats:?}");
}

/// Padding makes vocabularies longer than they are; a token that the model does not know is no guess.
#[test]
fn what_the_model_has_no_token_for_is_not_guessed() {
    let draft = FakeModel::new(VOCAB + 64, 64).with_script(|history| (VOCAB + history.len() % 64) as u32);
    let known = Arc::new(AtomicBool::new(true));
    let all_known = known.clone();
    let model = FakeModel::new(VOCAB, CONFIG.blocks);
    let model = Watched {
        model,
        saw: move |token_ids: &[u32]| {
            if token_ids.iter().any(|token| *token as usize >= VOCAB) {
                all_known.store(false, Ordering::Relaxed);
            }
        },
    };
    let mut bench = Bench::new(Box::new(model), Some(Box::new(draft)), CONFIG, DRAFT);
    let requests = requests();
    for (request, answer) in requests.iter().zip(bench.answers(&requests)) {
        assert_eq!(answer, FakeModel::lone_run(VOCAB, request, &CONFIG).0);
    }
    assert!(bench.engine.stats().draft_model.rows_total > 0, "it was asked");
    assert!(known.load(Ordering::Relaxed), "the model was given a token that it does not know");
}

/// Tells which tokens a model is given.
struct Watched<F> {
    model: FakeModel,
    saw: F,
}

impl<F: FnMut(&[u32]) + Send + 'static> ModelRunner for Watched<F> {
    fn vocab(&self) -> usize {
        self.model.vocab()
    }
    fn run(&mut self, token_ids: &[u32], step: &Step) -> Result<Logits, String> {
        (self.saw)(token_ids);
        self.model.run(token_ids, step)
    }
}
