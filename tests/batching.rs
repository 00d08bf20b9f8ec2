//! The cache never changes the answer: on real (tiny, random) models, a request gives the same tokens and the same log-probabilities of
//! the whole vocabulary, to the bit, alone or with strangers, whole or in chunks of any size, with a prefix hit or none, paused or not.

use std::sync::Arc;
use std::time::Duration;

use candle_core::Device;
use kernels::{GgmlType, KvDtype, SharedBytes};
use models::kv_cache::KvCache;
use models::state::window_blocks_per_sequence;
use models::testing::random_model::{Mix, RandomModel};
use models::testing::tiny;
use models::{Family, Gguf, LayerGroup, LayerState};
use understudy::engine::block_manager::BlockManager;
use understudy::engine::engine_loop::EngineLoop;
use understudy::engine::model_runner::LoadedRunner;
use understudy::engine::scheduler::{Limits, Scheduler};
use understudy::engine::{Engine, EngineConfig, FinishReason, GenerateRequest, GeneratedToken, SamplingParams, TokenEvent, TokenUsage};

const CONFIG: EngineConfig = EngineConfig {
    blocks: 128,
    sequences_max: 8,
    tokens_per_step_max: 512,
    queue_max: 8,
    context_max: 512,
    drafts_max: 8,
    first_token_max: None,
};
/// Of the tiny models.
const VOCAB: usize = 320;

struct Bench {
    engine: Engine,
    engine_loop: EngineLoop,
}

/// Token for token, with the log-probabilities of all 320.
type Answer = Vec<GeneratedToken>;

impl Bench {
    fn new(family: Family, ty: GgmlType, kv: KvDtype, config: EngineConfig) -> Self {
        let model = models::load(&tiny(family, 7, ty), &Device::Cpu).unwrap();
        let kv = KvCache::new(model.config(), config.blocks, kv, &Device::Cpu).unwrap();
        let (engine, engine_loop) = Engine::without_thread(Box::new(LoadedRunner::new(model, kv)), config);
        // Steps take no time, so that what is planned does not depend on the machine.
        Self { engine, engine_loop: engine_loop.with_clock(Box::new(|| Duration::ZERO)) }
    }

    /// All at once, so that they share steps.
    fn answers(&mut self, requests: &[GenerateRequest]) -> Vec<(Answer, TokenUsage)> {
        let mut streams: Vec<_> =
            requests.iter().map(|request| (self.engine.generate(request.clone()).unwrap(), Answer::new(), None)).collect();
        while streams.iter().any(|(_, _, end)| end.is_none()) {
            assert!(self.engine_loop.turn());
            for (stream, answer, end) in &mut streams {
                while let Some(event) = stream.try_next() {
                    match event {
                        TokenEvent::Token(token) => answer.push(token),
                        TokenEvent::Finished { reason, usage } => {
                            assert_eq!(reason, FinishReason::Length);
                            *end = Some(usage);
                        }
                    }
                }
            }
        }
        streams.into_iter().map(|(_, answer, usage)| (answer, usage.unwrap())).collect()
    }

    fn answer(&mut self, request: &GenerateRequest) -> (Answer, TokenUsage) {
        self.answers(std::slice::from_ref(request)).remove(0)
    }
}

/// Requests of different lengths; every second shares its first 70 tokens with the others of its kind.
fn requests() -> Vec<GenerateRequest> {
    (0..8u32)
        .map(|index| GenerateRequest {
            prompt: (0..70)
                .map(|i| i * 11 + 3 * (index % 2))
                .chain((0..9 * index + 1).map(|i| i * 29 + index))
                .map(|id| id % 256)
                .collect(),
            tokens_max: Some(8 + index as usize),
            stop_token_ids: vec![],
            sampling: SamplingParams { temperature: 0.9, seed: u64::from(index), ..SamplingParams::default() },
            top_logprobs: Some(VOCAB),
            ..GenerateRequest::default()
        })
        .collect()
}

fn check(family: Family, ty: GgmlType, kv: KvDtype) {
    let requests = requests();
    // Each alone, with a cache that has seen nothing.
    let alone: Vec<Answer> = requests.iter().map(|request| Bench::new(family, ty, kv, CONFIG).answer(request).0).collect();
    assert!(alone.iter().all(|answer| answer[0].logprobs.as_ref().unwrap().top.len() == VOCAB));
    assert_ne!(alone[0][0].id, alone[1][0].id, "the model tells prompts apart");
    let equal = |answers: &[(Answer, TokenUsage)], how: &str| {
        for (index, (answer, _)) in answers.iter().enumerate() {
            let first = answer.iter().zip(&alone[index]).position(|(here, alone)| here != alone);
            assert!(answer == &alone[index], "{family:?} {ty:?} {kv:?}: request {index} differs {how} from token {first:?}");
        }
    };

    let mut bench = Bench::new(family, ty, kv, CONFIG);
    equal(&bench.answers(&requests), "in a batch of eight");
    let again = bench.answers(&requests);
    equal(&again, "with a prefix hit, in a batch of eight");
    assert!(again.iter().all(|(_, usage)| usage.cached_tokens == usage.prompt_tokens - 1));
    assert!(bench.answer(&requests[5]).0 == alone[5], "{family:?} {ty:?} {kv:?}: request 5 differs alone with a prefix hit");

    for (tokens_per_step_max, of) in [(1, 2), (7, 4), (64, 8)] {
        let mut bench = Bench::new(family, ty, kv, EngineConfig { tokens_per_step_max, ..CONFIG });
        equal(&bench.answers(&requests[..of]), &format!("in chunks of {tokens_per_step_max}"));
    }

    // Eight sequences of three to five blocks, room for ten, and nothing reserved for answers: some are paused and resumed.
    let config = EngineConfig { blocks: 10, tokens_per_step_max: 64, ..CONFIG };
    let mut bench = Bench::new(family, ty, kv, config.clone());
    let limits = Limits { sequences_max: 8, tokens_per_step_max: 64, answer_tokens_reserved: 0, drafts_max: 8 };
    bench.engine_loop = bench.engine_loop.with_scheduler(Scheduler::new(limits, BlockManager::new(config.blocks)));
    equal(&bench.answers(&requests), "paused and resumed");
    assert!(bench.engine.stats().pauses_total > 0, "nobody was paused");
}

#[test]
fn llama_answers_alike_in_any_company() {
    check(Family::Llama, GgmlType::Q8_0, KvDtype::F16);
}

#[test]
fn qwen2_answers_alike_in_any_company() {
    check(Family::Qwen2, GgmlType::F32, KvDtype::F32);
}

#[test]
fn a_mixture_of_experts_answers_alike_in_any_company() {
    check(Family::Qwen3Moe, GgmlType::Q4K, KvDtype::F16);
}

#[test]
fn qwen3_answers_alike_in_any_company() {
    check(Family::Qwen3, GgmlType::Q8_0, KvDtype::F16);
    check(Family::Qwen3, GgmlType::F16, KvDtype::F16);
}

/// A model in which a row sees 40 tokens, with or without giving back the pages behind them.
fn windowed(gives_back: bool, config: EngineConfig) -> Bench {
    let mut writer = RandomModel::tiny(Family::Llama, Mix::All(GgmlType::Q8_0), 7).writer();
    writer.set("llama.attention.sliding_window", 40u32);
    let gguf = Gguf::from_bytes(SharedBytes::new(Arc::new(writer.to_bytes())), "windowed.gguf").unwrap();
    let model = models::load(&gguf, &Device::Cpu).unwrap();
    assert_eq!(model.layer_groups(), [LayerGroup { layers: 2, state: LayerState::Sliding { window: 40 } }]);
    // Room for three sequences that run.
    let charge = window_blocks_per_sequence(40, config.tokens_per_step_max);
    let blocks = if gives_back { 3 * charge } else { config.blocks };
    let kv = KvCache::new(model.config(), blocks, KvDtype::F16, &Device::Cpu).unwrap();
    let runner = if gives_back { LoadedRunner::of_window(model, kv, 40) } else { LoadedRunner::new(model, kv) };
    let (engine, engine_loop) = Engine::without_thread(Box::new(runner), config);
    Bench { engine, engine_loop: engine_loop.with_clock(Box::new(|| Duration::ZERO)) }
}

#[test]
fn pages_behind_a_window_are_given_back_and_no_bit_changes() {
    let config = EngineConfig { tokens_per_step_max: 48, ..CONFIG };
    let prompt = |tokens: u32, salt: u32| (0..tokens).map(|i| (i * 11 + i * i % 7 + salt) % 256).collect::<Vec<u32>>();
    let of_prompt = |prompt: Vec<u32>| GenerateRequest { prompt, tokens_max: Some(60), ..requests().remove(0) };
    let requests: Vec<GenerateRequest> = (0..5).map(|salt| of_prompt(prompt(120 + 50 * salt, salt / 2))).collect();
    let alone: Vec<Answer> = requests.iter().map(|request| windowed(false, config.clone()).answer(request).0).collect();
    let mut bench = windowed(true, config.clone());
    for turn in 0..2 {
        let answers = bench.answers(&requests);
        for (index, (answer, _)) in answers.iter().enumerate() {
            assert!(*answer == alone[index], "turn {turn}: request {index} differs");
        }
        assert!(turn == 0 || answers.iter().any(|(_, usage)| usage.cached_tokens > 64), "nothing was found again");
    }
    let long = of_prompt(prompt(430, 9));
    assert!(long.prompt.len() > 3 * window_blocks_per_sequence(40, 48) * 32, "all pages together would hold it");
    let expected = windowed(false, config).answer(&long).0;
    assert!(bench.answer(&long).0 == expected);
    let (answer, usage) = bench.answer(&long);
    assert!(answer == expected);
    assert_eq!(usage.cached_tokens, 416);
}

#[test]
fn drafts_change_nothing() {
    for (family, ty) in [(Family::Qwen2, GgmlType::Q4K), (Family::Qwen3Moe, GgmlType::Q8_0)] {
        // Says what it has said before, as greedy models do; and one that is drawn.
        let request = |temperature: f32| GenerateRequest {
            prompt: (0..90).map(|i| (i % 30) * 7 % 256).collect(),
            tokens_max: Some(120),
            stop_token_ids: vec![],
            sampling: SamplingParams { temperature, seed: 3, ..SamplingParams::default() },
            top_logprobs: Some(VOCAB),
            ..GenerateRequest::default()
        };
        let requests = [request(0.0), request(1.3)];
        let mut without = Bench::new(family, ty, KvDtype::F16, EngineConfig { drafts_max: 0, ..CONFIG });
        let expected: Vec<Answer> = requests.iter().map(|request| without.answer(request).0).collect();
        assert_eq!(without.engine.stats().drafted_tokens_total, 0);

        let mut bench = Bench::new(family, ty, KvDtype::F16, CONFIG);
        // Steps of any size take a millisecond: whatever can be guessed is.
        let mut now_ms = 0;
        bench.engine_loop = bench.engine_loop.with_clock(Box::new(move || {
            now_ms += 1;
            Duration::from_millis(now_ms)
        }));
        for (request, expected) in requests.iter().zip(&expected) {
            assert!(bench.answer(request).0 == *expected, "{family:?} alone");
        }
        let together: Vec<Answer> = bench.answers(&requests).into_iter().map(|(answer, _)| answer).collect();
        assert!(together == expected, "{family:?} together");
        let stats = bench.engine.stats();
        assert!(stats.accepted_tokens_total > 50 && stats.drafted_tokens_total > stats.accepted_tokens_total, "{family:?}: {stats:?}");
    }
}
