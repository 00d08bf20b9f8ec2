//! The engine thread under tokio, with a fake model: many at once, cancels, a full queue, draining, slow readers, failing models.
//!
//! No test waits for a time: where one must meet the engine in the middle of something, the model waits at a gate.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use kernels::Step;
use models::Logits;
use understudy::engine::block_manager::BlockManager;
use understudy::engine::scheduler::{Limits, Scheduler};
use understudy::engine::{
    AdmissionError, Engine, EngineConfig, FinishReason, GenerateRequest, GeneratedToken, ModelRunner, SamplingParams, TokenEvent,
    TokenStream, TokenUsage,
};

use crate::support::fake_model::FakeModel;

const VOCAB: usize = 101;
const CONFIG: EngineConfig = EngineConfig {
    blocks: 64,
    sequences_max: 8,
    tokens_per_step_max: 64,
    queue_max: 200,
    context_max: 1024,
    drafts_max: 8,
    first_token_max: None,
};

fn request(prompt: impl IntoIterator<Item = u32>, tokens_max: usize) -> GenerateRequest {
    GenerateRequest {
        prompt: prompt.into_iter().collect(),
        tokens_max: Some(tokens_max),
        sampling: SamplingParams { temperature: 0.8, seed: 5, ..SamplingParams::default() },
        ..GenerateRequest::default()
    }
}

fn start(config: EngineConfig) -> Engine {
    Engine::start(Box::new(FakeModel::new(VOCAB, config.blocks)), config)
}

async fn collect(mut stream: TokenStream) -> (Vec<GeneratedToken>, FinishReason, TokenUsage) {
    let mut tokens = Vec::new();
    loop {
        match stream.next().await.expect("`Finished` comes first") {
            TokenEvent::Token(token) => tokens.push(token),
            TokenEvent::Finished { reason, usage } => {
                assert_eq!(stream.next().await, None, "nothing comes after the end");
                return (tokens, reason, usage);
            }
        }
    }
}

/// Lets the model of an engine take one step at a time.
struct Gate {
    /// Rows of each step, sent when it begins.
    begun: Receiver<usize>,
    /// Each message lets a step end; dropping it opens the gate for good.
    go: SyncSender<()>,
}

fn start_gated(config: EngineConfig) -> (Engine, Gate) {
    let (tell, begun) = sync_channel(10_000);
    let (go, wait) = sync_channel(10_000);
    let model = FakeModel::new(VOCAB, config.blocks).with_fault(move |_, step: &Step| {
        let _ = tell.send(step.rows());
        let _ = wait.recv();
        Ok(())
    });
    let (engine, engine_loop) = Engine::without_thread(Box::new(model), config);
    // How long a step takes is the test's affair, and nothing is to be concluded from it.
    let engine_loop = engine_loop.with_clock(Box::new(|| Duration::ZERO));
    std::thread::spawn(move || engine_loop.run());
    (engine, Gate { begun, go })
}

impl Gate {
    /// Waits until a step has begun; returns its rows.
    fn begins(&self) -> usize {
        self.begun.recv().unwrap()
    }
    /// Lets the step that has begun end.
    fn end_step(&self) {
        self.go.send(()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_at_once_each_get_their_lone_answer() {
    let engine = start(CONFIG);
    // Four groups with common beginnings of 70 tokens, lengths and seeds of their own.
    let requests: Vec<GenerateRequest> = (0..100u32)
        .map(|i| {
            let mut request = request((0..70).map(|j| (j * (i % 4 + 1)) % VOCAB as u32).chain(0..i % 50), 1 + (i as usize * 7) % 60);
            request.sampling.seed = u64::from(i % 9);
            request
        })
        .collect();
    let answers: Vec<_> = requests.iter().map(|request| tokio::spawn(collect(engine.generate(request.clone()).unwrap()))).collect();
    let mut cached = 0;
    for (request, answer) in requests.iter().zip(answers) {
        let (tokens, reason, usage) = answer.await.unwrap();
        assert_eq!((tokens, reason), FakeModel::lone_run(VOCAB, request, &CONFIG));
        assert_eq!((usage.prompt_tokens, usage.completion_tokens), (request.prompt.len(), request.tokens_max.unwrap()));
        cached += usage.cached_tokens;
    }
    // All but the first few of each group find its two full blocks.
    assert!(cached >= 80 * 64, "only {cached} tokens came from the cache");
    let stats = engine.stats();
    assert_eq!((stats.running, stats.waiting, stats.blocks_used, stats.failed_total), (0, 0, 0, 0));
    assert_eq!(stats.cached_tokens_total, cached as u64);
    assert_eq!(stats.generated_tokens_total, requests.iter().map(|request| request.tokens_max.unwrap() as u64).sum::<u64>());
}

#[tokio::test]
async fn a_request_ends_at_its_stop_token_or_at_the_context() {
    let config = EngineConfig { context_max: 50, ..CONFIG };
    let model = FakeModel::new(VOCAB, config.blocks).with_script(|history| if history.len() < 20 { 7 } else { 9 });
    let engine = Engine::start(Box::new(model), config);
    let stopping = GenerateRequest { stop_token_ids: vec![9], ..request(0..15, 1_000_000) };
    let (tokens, reason, usage) = collect(engine.generate(stopping).unwrap()).await;
    assert_eq!(tokens.iter().map(|token| token.id).collect::<Vec<_>>(), [7; 5]);
    assert_eq!((reason, usage.completion_tokens), (FinishReason::Stop, 5));
    let endless = GenerateRequest { tokens_max: None, ..request(0..15, 0) };
    let (tokens, reason, _) = collect(engine.generate(endless).unwrap()).await;
    assert_eq!((tokens.len(), reason), (35, FinishReason::Length));
}

#[tokio::test]
async fn what_cannot_be_answered_is_refused_with_numbers() {
    // The pool holds less than the context: what it holds counts.
    let engine = start(EngineConfig { blocks: 4, context_max: 1000, ..CONFIG });
    assert_eq!(engine.config().context_max, 128);
    let refused = |request| engine.generate(request).unwrap_err();
    assert_eq!(refused(request([], 5)), AdmissionError::EmptyPrompt);
    let too_long = refused(request([1; 128], 5));
    assert_eq!(too_long, AdmissionError::PromptTooLong { prompt_tokens: 128, context_tokens: 127 });
    assert_eq!(too_long.to_string(), "prompt is too long: 128 tokens > 127 maximum");
    assert_eq!(refused(request([1, 101], 5)), AdmissionError::UnknownToken { id: 101, vocab: VOCAB });
    let mut biased = request([1], 5);
    biased.sampling.logit_bias = vec![(4_000_000, 1.0)];
    assert_eq!(refused(biased), AdmissionError::UnknownToken { id: 4_000_000, vocab: VOCAB });
    let (tokens, reason, _) = collect(engine.generate(request([1; 127], 5)).unwrap()).await;
    assert_eq!((tokens.len(), reason), (1, FinishReason::Length));
}

#[tokio::test]
async fn dropping_the_stream_in_the_prompt_frees_its_blocks_within_a_step() {
    let (engine, gate) = start_gated(CONFIG);
    let stream = engine.generate(request((0..500).map(|i| i % 101), 10)).unwrap();
    assert_eq!(gate.begins(), 64);
    let other = engine.generate(request(50..60, 3)).unwrap();
    gate.end_step();
    assert_eq!(gate.begins(), 64, "the long prompt takes the whole step");
    drop(stream);
    gate.end_step();
    // The very next step is the other's alone.
    assert_eq!(gate.begins(), 10);
    let stats = engine.stats();
    assert_eq!((stats.running, stats.cancelled_total, stats.blocks_used), (1, 1, 1), "the blocks of the cancelled one are not in use");
    drop(gate);
    let (tokens, _, _) = collect(other).await;
    assert_eq!(tokens, FakeModel::lone_run(VOCAB, &request(50..60, 3), &CONFIG).0);
    assert_eq!(engine.stats().blocks_used, 0);
}

#[tokio::test]
async fn dropping_the_stream_in_the_answer_or_in_the_queue_harms_nobody() {
    let (engine, gate) = start_gated(EngineConfig { sequences_max: 2, ..CONFIG });
    let mut first = engine.generate(request(0..10, 50)).unwrap();
    assert_eq!(gate.begins(), 10);
    let second = engine.generate(request(10..30, 50)).unwrap();
    let third = engine.generate(request(30..40, 50)).unwrap();
    let fourth = engine.generate(request(40..60, 4)).unwrap();
    gate.end_step();
    assert!(matches!(first.next().await, Some(TokenEvent::Token(_))));
    assert_eq!(gate.begins(), 1 + 20, "two run, two wait");
    assert_eq!((engine.stats().running, engine.stats().waiting), (2, 2));
    drop(first); // in its answer
    drop(third); // in the queue
    gate.end_step();
    assert_eq!(gate.begins(), 1 + 20, "the second goes on, the fourth has the first one's place");
    assert_eq!(engine.stats().cancelled_total, 2);
    drop(gate);
    let (second, fourth) = (collect(second).await, collect(fourth).await);
    assert_eq!(second.0, FakeModel::lone_run(VOCAB, &request(10..30, 50), &CONFIG).0);
    assert_eq!(fourth.0, FakeModel::lone_run(VOCAB, &request(40..60, 4), &CONFIG).0);
    engine.drained().await;
    assert_eq!(engine.stats().blocks_used, 0);
}

#[tokio::test]
async fn a_reader_that_has_enough_finishes_its_request() {
    let (engine, gate) = start_gated(CONFIG);
    let mut stream = engine.generate(request(0..10, 50)).unwrap();
    gate.begins();
    gate.end_step();
    assert!(matches!(stream.next().await, Some(TokenEvent::Token(_))));
    gate.begins();
    stream.finish();
    drop(gate);
    engine.drained().await;
    let stats = engine.stats();
    assert_eq!((stats.finished_total, stats.cancelled_total, stats.prompt_tokens_total), (1, 0, 10));
    // The step that ran meanwhile, and no other.
    assert_eq!((stats.generated_tokens_total, stats.blocks_used), (2, 0));
}

#[tokio::test]
async fn a_full_queue_says_so_and_takes_more_when_it_is_not() {
    let (engine, gate) = start_gated(EngineConfig { sequences_max: 1, queue_max: 2, ..CONFIG });
    let running = engine.generate(request(0..5, 1)).unwrap();
    gate.begins();
    let waiting = [engine.generate(request(0..6, 1)).unwrap(), engine.generate(request(0..7, 1)).unwrap()];
    let refusal = engine.generate(request(0..8, 1)).unwrap_err();
    assert!(matches!(refusal, AdmissionError::QueueFull { waiting: 2, retry_after_s: 1.. }), "{refusal:?}");
    gate.end_step();
    // Who has heard the end of one may ask for another.
    assert_eq!(collect(running).await.0.len(), 1);
    let late = engine.generate(request(0..8, 1)).unwrap();
    assert!(matches!(engine.generate(request(0..9, 1)), Err(AdmissionError::QueueFull { .. })));
    drop(gate);
    for stream in waiting.into_iter().chain([late]) {
        assert_eq!(collect(stream).await.1, FinishReason::Length);
    }
}

#[tokio::test]
async fn a_queue_of_none_still_takes_what_can_run() {
    let engine = start(EngineConfig { sequences_max: 1, queue_max: 0, ..CONFIG });
    for _ in 0..20 {
        assert_eq!(collect(engine.generate(request(0..5, 3)).unwrap()).await.0.len(), 3);
    }
}

#[tokio::test]
async fn draining_refuses_the_new_and_finishes_the_old() {
    let (engine, gate) = start_gated(EngineConfig { sequences_max: 1, ..CONFIG });
    engine.drained().await; // at once: there is nothing
    let running = engine.generate(request(0..5, 4)).unwrap();
    let waiting = engine.generate(request(0..6, 4)).unwrap();
    gate.begins();
    engine.drain();
    assert_eq!(engine.generate(request(0..5, 4)).unwrap_err(), AdmissionError::Draining);
    let drained = tokio::spawn({
        let engine = engine.clone();
        async move { engine.drained().await }
    });
    tokio::task::yield_now().await;
    assert!(!drained.is_finished());
    drop(gate);
    drained.await.unwrap();
    // Their last events were sent before `drained` returned.
    for mut stream in [running, waiting] {
        let mut events = Vec::new();
        while let Some(event) = stream.try_next() {
            events.push(event);
        }
        assert_eq!(events.len(), 5);
        assert!(matches!(events[4], TokenEvent::Finished { reason: FinishReason::Length, .. }));
    }
}

#[tokio::test]
async fn a_slow_reader_stalls_nobody_and_loses_nothing() {
    let engine = start(CONFIG);
    let slow_request = request(0..40, 900);
    let mut slow = engine.generate(slow_request.clone()).unwrap();
    // Nobody reads it while fifty others come and go, nor until its blocks are free again.
    for i in 0..50 {
        assert_eq!(collect(engine.generate(request(i..i + 20, 20)).unwrap()).await.0.len(), 20);
    }
    engine.drained().await;
    assert_eq!(engine.stats().blocks_used, 0);
    let mut tokens = Vec::new();
    while let Some(event) = slow.next().await {
        if let TokenEvent::Token(token) = event {
            tokens.push(token);
        }
    }
    assert_eq!(tokens, FakeModel::lone_run(VOCAB, &slow_request, &CONFIG).0);
}

/// A fake model whose logits something is done to.
struct Sick<F>(FakeModel, F);

impl<F: FnMut(&[u32], &Step, Logits) -> Result<Logits, String> + Send + 'static> ModelRunner for Sick<F> {
    fn vocab(&self) -> usize {
        VOCAB
    }
    fn run(&mut self, token_ids: &[u32], step: &Step) -> Result<Logits, String> {
        let logits = self.0.run(token_ids, step)?;
        (self.1)(token_ids, step, logits)
    }
}

#[tokio::test]
async fn a_failed_step_fails_its_requests_and_the_engine_goes_on() {
    let mut steps = 0;
    let model = Sick(FakeModel::new(VOCAB, CONFIG.blocks), move |_: &[u32], _: &Step, logits: Logits| {
        steps += 1;
        match steps {
            1 => Err("out of memory on the device".into()),
            2 => panic!("index {} out of bounds", 7),
            3 => Ok(Logits { values: vec![0.0; VOCAB - 1], vocab: VOCAB - 1 }),
            _ => Ok(logits),
        }
    });
    let engine = Engine::start(Box::new(model), CONFIG);
    let doomed = request(0..33, 5);
    for message in [
        "out of memory on the device",
        "the model panicked: index 7 out of bounds",
        "the model returned 100 logits of a vocabulary of 100, expected 101 of 101",
    ] {
        let (tokens, reason, usage) = collect(engine.generate(doomed.clone()).unwrap()).await;
        assert_eq!((tokens.len(), reason), (0, FinishReason::Failed(message.into())));
        assert_eq!(usage, TokenUsage { prompt_tokens: 33, cached_tokens: 0, completion_tokens: 0 });
        assert_eq!(engine.stats().blocks_used, 0);
        assert_eq!(engine.stats().blocks_cached, 0, "what a failed step wrote is not in the cache");
    }
    let (tokens, _, usage) = collect(engine.generate(doomed.clone()).unwrap()).await;
    assert_eq!((tokens, usage.cached_tokens), (FakeModel::lone_run(VOCAB, &doomed, &CONFIG).0, 0));
    assert_eq!(engine.stats().failed_total, 3);
}

#[tokio::test]
async fn logits_that_are_no_numbers_fail_one_request_alone() {
    // Token 77 makes the model sick.
    let model = Sick(FakeModel::new(VOCAB, CONFIG.blocks), |token_ids: &[u32], step: &Step, mut logits: Logits| {
        for (index, &row) in step.logit_rows.iter().enumerate() {
            if token_ids[row as usize] == 77 {
                logits.values[index * VOCAB..][..VOCAB].fill(f32::NAN);
            }
        }
        Ok(logits)
    });
    let (engine, engine_loop) = Engine::without_thread(Box::new(model), CONFIG);
    let never_77 = SamplingParams { temperature: 0.0, logit_bias: vec![(77, -100.0)], ..SamplingParams::default() };
    let healthy_request = GenerateRequest { sampling: never_77, ..request(0..20, 9) };
    // Both are there before the first step: they share it.
    let (sick, healthy) = (engine.generate(request([1, 2, 77], 5)).unwrap(), engine.generate(healthy_request.clone()).unwrap());
    std::thread::spawn(move || engine_loop.run());
    let (tokens, reason, _) = collect(sick).await;
    assert_eq!(tokens, []);
    assert_eq!(reason, FinishReason::Failed("the model's logits name no possible token: of 101, 101 are not a number".into()));
    assert_eq!(collect(healthy).await.0, FakeModel::lone_run(VOCAB, &healthy_request, &CONFIG).0);
}

#[tokio::test]
async fn a_bug_of_the_engine_fails_what_is_there_and_it_starts_over() {
    let (engine, engine_loop) = Engine::without_thread(Box::new(FakeModel::new(VOCAB, CONFIG.blocks)), CONFIG);
    // A scheduler that has fewer blocks than the engine believes: it trips over a long request.
    let limits = Limits { sequences_max: 8, tokens_per_step_max: 64, answer_tokens_reserved: 512, drafts_max: 8 };
    let engine_loop = engine_loop.with_scheduler(Scheduler::new(limits, BlockManager::new(2)));
    let streams = [engine.generate(request(0..10, 20)).unwrap(), engine.generate(request(0..100, 20)).unwrap()];
    std::thread::spawn(move || engine_loop.run());
    for stream in streams {
        let (_, reason, _) = collect(stream).await;
        assert!(matches!(&reason, FinishReason::Failed(message) if message.contains("can never fit")), "{reason:?}");
    }
    assert_eq!((engine.stats().failed_total, engine.stats().waiting), (2, 0));
    let again = request(0..100, 20);
    assert_eq!(collect(engine.generate(again.clone()).unwrap()).await.0, FakeModel::lone_run(VOCAB, &again, &CONFIG).0);
}

/// A log that panics at every line.
struct PanickingLog;

impl tracing::Subscriber for PanickingLog {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        panic!("the log cannot take a line of {}", event.metadata().target());
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn a_log_that_panics_ends_no_engine() {
    // The step fails, its line panics, and so does the line about that.
    let mut steps = 0;
    let model = FakeModel::new(VOCAB, CONFIG.blocks).with_fault(move |_, _| {
        steps += 1;
        if steps == 1 { Err("out of memory on the device".into()) } else { Ok(()) }
    });
    let (engine, engine_loop) = Engine::without_thread(Box::new(model), CONFIG);
    std::thread::spawn(move || tracing::subscriber::with_default(PanickingLog, || engine_loop.run()));
    let request = request(0..33, 5);
    let (_, reason, _) = collect(engine.generate(request.clone()).unwrap()).await;
    assert!(matches!(&reason, FinishReason::Failed(message) if message.contains("the log cannot take")), "{reason:?}");
    assert_eq!(collect(engine.generate(request.clone()).unwrap()).await.0, FakeModel::lone_run(VOCAB, &request, &CONFIG).0);
}

#[tokio::test]
async fn there_is_room_until_the_engine_is_full_or_gone() {
    let config = EngineConfig { sequences_max: 1, queue_max: 1, ..CONFIG };
    let (engine, engine_loop) = Engine::without_thread(Box::new(FakeModel::new(VOCAB, config.blocks)), config);
    let first = engine.generate(request(0..10, 5)).unwrap();
    assert_eq!(engine.room(), Ok(()));
    let second = engine.generate(request(0..10, 5)).unwrap();
    assert!(matches!(engine.room(), Err(AdmissionError::QueueFull { .. })));
    // The thread ends without a word, as it would if it panicked where nothing catches.
    drop(engine_loop);
    assert_eq!(engine.room(), Err(AdmissionError::Stopped));
    for stream in [first, second] {
        let (tokens, reason, _) = collect(stream).await;
        assert_eq!((tokens, reason), (vec![], FinishReason::Failed("the engine has stopped".into())));
    }
}

#[tokio::test]
async fn when_the_handles_are_gone_the_rest_is_still_answered() {
    let (engine, gate) = start_gated(CONFIG);
    let stream = engine.generate(request(0..10, 6)).unwrap();
    drop(engine);
    drop(gate);
    assert_eq!(collect(stream).await.0.len(), 6);
}

#[tokio::test]
async fn when_the_engine_is_gone_everybody_is_told() {
    let (engine, engine_loop) = Engine::without_thread(Box::new(FakeModel::new(VOCAB, CONFIG.blocks)), CONFIG);
    let stream = engine.generate(request(0..10, 6)).unwrap();
    drop(engine_loop);
    let (tokens, reason, usage) = collect(stream).await;
    assert_eq!((tokens.len(), reason), (0, FinishReason::Failed("the engine has stopped".into())));
    assert_eq!(usage.prompt_tokens, 10);
    assert_eq!(engine.generate(request(0..10, 6)).unwrap_err(), AdmissionError::Stopped);
    engine.drained().await;
}

#[tokio::test]
async fn the_same_prompt_again_comes_from_the_cache_and_says_the_same() {
    let engine = start(CONFIG);
    let request = request((0..100).map(|i| i * 3 % 101), 30);
    let first = collect(engine.generate(request.clone()).unwrap()).await;
    let mut stream = engine.generate(request.clone()).unwrap();
    stream.next().await.unwrap();
    assert_eq!(stream.cached_tokens(), 99, "known before the end");
    drop(stream);
    let again = collect(engine.generate(request.clone()).unwrap()).await;
    assert_eq!((first.2.cached_tokens, again.2.cached_tokens), (0, 99));
    assert_eq!(first.0, again.0);
    // The conversation goes on: prompt and answer are cached, but for the last token, which was never computed.
    let mut longer = request.clone();
    longer.prompt.extend(first.0.iter().map(|token| token.id));
    longer.prompt.extend([1, 2, 3]);
    let (tokens, _, usage) = collect(engine.generate(longer.clone()).unwrap()).await;
    assert_eq!((tokens, usage.cached_tokens), (FakeModel::lone_run(VOCAB, &longer, &CONFIG).0, 129));
}

#[tokio::test]
async fn a_prompt_without_an_answer_warms_the_cache() {
    let engine = start(CONFIG);
    let prompt = || (0..200).map(|i| i % 101);
    let (tokens, reason, usage) = collect(engine.generate(request(prompt(), 0)).unwrap()).await;
    assert_eq!((tokens, reason, usage.completion_tokens), (vec![], FinishReason::Length, 0));
    assert_eq!(collect(engine.generate(request(prompt(), 1)).unwrap()).await.2.cached_tokens, 199);
}

#[tokio::test]
async fn who_would_wait_too_long_is_refused_before_it_waits() {
    let config = EngineConfig { first_token_max: Some(Duration::from_secs(2)), ..CONFIG };
    // A row takes ten milliseconds.
    let now_ms = Arc::new(AtomicU64::new(0));
    let (steps, clock) = (now_ms.clone(), now_ms.clone());
    let model = FakeModel::new(VOCAB, CONFIG.blocks).with_fault(move |_, step| {
        steps.fetch_add(10 * step.rows() as u64, Ordering::Relaxed);
        Ok(())
    });
    let (engine, engine_loop) = Engine::without_thread(Box::new(model), config);
    let mut engine_loop = engine_loop.with_clock(Box::new(move || Duration::from_millis(clock.load(Ordering::Relaxed))));
    let prompt = |salt: u32, tokens: u32| -> Vec<u32> { (0..tokens).map(|token| (token * token + salt) % 90).collect() };
    let ask = |prompt: &[u32]| GenerateRequest { prompt: prompt.to_vec(), tokens_max: Some(2), ..GenerateRequest::default() };
    // Nothing is known of the machine: nobody is refused.
    let long = prompt(1, 500);
    let mut first = engine.generate(ask(&long)).unwrap();
    engine_loop.turn();
    while !engine_loop.is_idle() {
        engine_loop.turn();
    }
    assert_eq!(first.admission().decided().await, Ok(()));
    // 300 rows are 3 s; 150 are 1.5 s, and as many behind them 3 s again, unless they are the same; what is cached costs nothing.
    let mut asked: Vec<TokenStream> = Vec::new();
    for (prompt, is_let_in) in [
        (prompt(2, 300), false),
        (prompt(3, 150), true),
        (prompt(4, 150), false),
        (prompt(3, 150), true),
        ([&long[..], &prompt(5, 20)].concat(), true),
    ] {
        let mut stream = engine.generate(ask(&prompt)).unwrap();
        engine_loop.turn();
        match stream.admission().decided().await {
            Ok(()) => assert!(is_let_in),
            Err(AdmissionError::TooLongToWait { predicted_s, max_s, retry_after_s }) => {
                assert!(!is_let_in && predicted_s > max_s && max_s == 2 && retry_after_s == predicted_s - 2, "{predicted_s} s");
            }
            Err(other) => panic!("{other}"),
        }
        asked.push(stream);
    }
    assert_eq!(engine.stats().refused_total, 2);
    while !engine_loop.is_idle() {
        engine_loop.turn();
    }
    // Who asks for the tokens all the same is told why there are none.
    let told = asked.iter_mut().map(|stream| std::iter::from_fn(|| stream.try_next()).last());
    let refused = told.filter(|last| matches!(last, Some(TokenEvent::Finished { reason: FinishReason::Failed(_), .. }))).count();
    assert_eq!((refused, engine.stats().blocks_used), (2, 0));
    let predicted = engine.stats().first_token_in.expect("steps were measured");
    assert!(predicted < Duration::from_millis(100), "{predicted:?} in an idle engine");
}

#[tokio::test]
async fn a_hit_that_ends_inside_a_block_copies_what_it_has_in_common() {
    let engine = start(CONFIG);
    let answer = async |prompt: &[u32]| {
        let request = GenerateRequest { prompt: prompt.to_vec(), tokens_max: Some(8), ..GenerateRequest::default() };
        let (tokens, reason, usage) = collect(engine.generate(request.clone()).unwrap()).await;
        let said: Vec<u32> = tokens.iter().map(|token| token.id).collect();
        assert_eq!((tokens, reason), FakeModel::lone_run(VOCAB, &request, &CONFIG));
        (said, usage.cached_tokens)
    };
    let first: Vec<u32> = (0..75).map(|token| token * 7 % 90).collect();
    let (said, cached) = answer(&first).await;
    assert_eq!(cached, 0);
    // The conversation goes on: all that was computed is found, but for the last token said, which was not.
    let next = [&first[..], &said, &[5, 6, 7]].concat();
    assert_eq!(answer(&next).await.1, 75 + 7);
    // Another one leaves it in the middle of its second block, and of a block that was never full.
    assert_eq!(answer(&[&first[..50], &[89; 20]].concat()).await.1, 50);
    assert_eq!(answer(&[&first[..70], &[89; 20]].concat()).await.1, 70);
    // The very same prompt: its last token is computed.
    assert_eq!(answer(&first).await.1, 74);
    assert_eq!(answer(&[&[1], &first[..50]].concat()).await.1, 0);
    assert_eq!(engine.stats().blocks_used, 0);
}
