//! Constrained requests under the engine thread, with a fake model: the tokens are those of the request alone, and whatever a
//! constraint does, only its own request feels it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use understudy::engine::constraint::{Constraint, Ending, MaskJob, Matcher};
use understudy::engine::token_mask::TokenMask;
use understudy::engine::{
    Engine, EngineConfig, FinishReason, GenerateRequest, GeneratedToken, SamplingParams, TokenEvent, TokenStream, TokenUsage,
};

use crate::support::constraints::{Ruled, by_turns, gated, maze, only, refrain};
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
const STOP: u32 = 99;

fn start() -> Engine {
    Engine::start(Box::new(FakeModel::new(VOCAB, CONFIG.blocks)), CONFIG)
}

fn request(prompt: u32, constraint: Option<Arc<dyn Constraint>>) -> GenerateRequest {
    GenerateRequest {
        prompt: (prompt..prompt + 70).map(|token| token % 90).collect(),
        tokens_max: Some(30),
        stop_token_ids: vec![STOP],
        sampling: SamplingParams { temperature: 0.9, seed: u64::from(prompt), ..SamplingParams::default() },
        constraint,
        ..GenerateRequest::default()
    }
}

async fn collect(mut stream: TokenStream) -> (Vec<GeneratedToken>, FinishReason, TokenUsage) {
    let mut tokens = Vec::new();
    loop {
        match stream.next().await.expect("`Finished` comes first") {
            TokenEvent::Token(token) => tokens.push(token),
            TokenEvent::Finished { reason, usage } => return (tokens, reason, usage),
        }
    }
}

/// The tokens and the reason are those of the request alone.
#[track_caller]
fn check(request: &GenerateRequest, answer: (Vec<GeneratedToken>, FinishReason, TokenUsage)) -> Vec<u32> {
    let (tokens, reason, usage) = answer;
    assert_eq!(usage.completion_tokens, tokens.len());
    let said = tokens.iter().map(|token| token.id).collect();
    assert_eq!((tokens, reason), FakeModel::lone_run(VOCAB, request, &CONFIG));
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn constrained_requests_say_the_same_alone_and_in_company() {
    let engine = start();
    let requests: Vec<GenerateRequest> = (0..60u32)
        .map(|i| {
            let constraint = match i % 3 {
                0 => None,
                1 => Some(only(i % 40, i % 40 + 10, (i % 7) as usize)),
                _ => Some(maze(u64::from(i), (i % 25) as usize)),
            };
            let greedy = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
            let request = request(i % 5, constraint);
            if i % 4 == 0 { GenerateRequest { sampling: greedy, ..request } } else { request }
        })
        .collect();
    let answers: Vec<_> = requests.iter().map(|request| tokio::spawn(collect(engine.generate(request.clone()).unwrap()))).collect();
    let mut digits = 0;
    for (i, (request, answer)) in (0u32..).zip(requests.iter().zip(answers)) {
        let said = check(request, answer.await.unwrap());
        if i % 3 == 1 {
            assert!(said.iter().all(|token| (i % 40..i % 40 + 10).contains(token)) && said.len() >= (i % 7) as usize, "{said:?}");
            digits += said.len();
        }
    }
    assert!(digits > 100, "they say something: {digits}");
    assert_eq!((engine.stats().blocks_used, engine.stats().failed_total), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_constraint_holds_up_nobody_else() {
    let engine = start();
    // Its mask after five tokens does not come before others have come and gone; the first of them finds it alone in the engine.
    let (constraint, gate) = gated(only(10, 20, 30), 5);
    let slow = request(3, Some(constraint));
    let mut stream = engine.generate(slow.clone()).unwrap();
    let mut tokens = Vec::new();
    while tokens.len() < 5 {
        let Some(TokenEvent::Token(token)) = stream.next().await else { panic!("it has 30 to say") };
        tokens.push(token);
    }
    gate.waits.recv().unwrap();
    for other in [request(1, None), request(2, Some(maze(7, 20)))] {
        check(&other, collect(engine.generate(other.clone()).unwrap()).await);
    }
    assert_eq!(stream.try_next(), None, "nothing was sampled without its mask");
    assert_eq!(engine.stats().running, 1);
    gate.open.send(()).unwrap();
    let (rest, reason, usage) = collect(stream).await;
    tokens.extend(rest);
    check(&GenerateRequest { constraint: Some(only(10, 20, 30)), ..slow }, (tokens, reason, usage));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_first_mask_keeps_the_prompt_that_is_computed() {
    let engine = start();
    let (constraint, gate) = gated(only(10, 20, 30), 0);
    let slow = request(3, Some(constraint));
    let stream = engine.generate(slow.clone()).unwrap();
    gate.waits.recv().unwrap();
    let other = request(3, None);
    // The other has the same prompt, and finds it computed.
    let (tokens, reason, usage) = collect(engine.generate(other.clone()).unwrap()).await;
    assert_eq!(usage.cached_tokens, 64);
    check(&other, (tokens, reason, usage));
    drop(gate);
    check(&GenerateRequest { constraint: Some(only(10, 20, 30)), ..slow }, collect(stream).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_constraint_that_fails_fails_its_own_request_alone() {
    let engine = start();
    let tens = |allowed: &mut TokenMask| (10..20).for_each(|token| allowed.insert(token));
    let panics = Ruled::by(move |output, allowed| {
        tens(allowed);
        if output.len() == 4 {
            // A panic that tells nobody but its catcher: the test's output stays readable.
            std::panic::resume_unwind(Box::new("the grammar is broken".to_owned()));
        }
        Ok(Ending::NotYet)
    });
    let errs = Ruled::by(move |output, allowed| {
        tens(allowed);
        if output.len() == 2 { Err("too deep".to_owned()) } else { Ok(Ending::NotYet) }
    });
    let dead_end = Ruled::by(move |output, allowed| {
        if output.len() < 3 {
            tens(allowed);
        }
        Ok(Ending::NotYet)
    });
    // Stop tokens open no way out where it may not end.
    let only_the_end = Ruled::by(|_, allowed| {
        allowed.insert(STOP);
        Ok(Ending::NotYet)
    });
    for (constraint, said, message) in [
        (panics, 4, "the constraint panicked: the grammar is broken"),
        (errs, 2, "the constraint failed: too deep"),
        (dead_end, 3, "the constraint allows no token here, and no end"),
        (only_the_end, 0, "the constraint allows no token here, and no end"),
    ] {
        let (healthy, failed_before) = (request(2, Some(maze(3, 20))), engine.stats().failed_total);
        let beside = engine.generate(healthy.clone()).unwrap();
        let (tokens, reason, usage) = collect(engine.generate(request(1, Some(constraint))).unwrap()).await;
        assert_eq!((tokens.len(), reason), (said, FinishReason::Failed(message.into())));
        assert_eq!(usage.completion_tokens, said);
        check(&healthy, collect(beside).await);
        assert_eq!((engine.stats().failed_total, engine.stats().blocks_used), (failed_before + 1, 0));
    }
}

#[derive(Debug)]
struct Uncompiled;

impl Constraint for Uncompiled {
    fn matcher(&self) -> Result<Box<dyn Matcher>, String> {
        Err("line 3: unknown rule \"expr\"".to_owned())
    }
}

#[tokio::test]
async fn a_constraint_that_cannot_begin_says_why() {
    let (tokens, reason, _) = collect(start().generate(request(1, Some(Arc::new(Uncompiled)))).unwrap()).await;
    assert_eq!((tokens, reason), (vec![], FinishReason::Failed("the constraint failed: line 3: unknown rule \"expr\"".into())));
}

#[tokio::test]
async fn the_constraint_decides_when_it_may_and_must_end() {
    // A model that wants to stop at once.
    let model = FakeModel::new(VOCAB, CONFIG.blocks).with_script(|_| STOP);
    let engine = Engine::start(Box::new(model), CONFIG);
    let (tokens, reason, _) = collect(engine.generate(request(1, Some(only(10, 20, 6)))).unwrap()).await;
    assert_eq!((tokens.len(), reason), (6, FinishReason::Stop), "as soon as it may");
    let until_nine = || {
        Ruled::by(|output, allowed| {
            (10..20).for_each(|token| allowed.insert(token));
            Ok(if output.len() < 9 { Ending::NotYet } else { Ending::Reached })
        })
    };
    let (tokens, reason, _) = collect(engine.generate(request(1, Some(until_nine()))).unwrap()).await;
    assert_eq!((tokens.len(), reason), (9, FinishReason::Stop), "it ends without a token of its own");
    let without_stop = GenerateRequest { stop_token_ids: vec![], ..request(1, Some(until_nine())) };
    let (tokens, reason, _) = collect(engine.generate(without_stop).unwrap()).await;
    assert_eq!((tokens.len(), reason), (9, FinishReason::Stop), "also where no token ends it");
    // Before the least number of tokens it ends only if nothing else is left.
    let longer = GenerateRequest { tokens_min: 8, ..request(1, Some(only(10, 20, 6))) };
    let (tokens, reason, _) = collect(engine.generate(longer).unwrap()).await;
    assert_eq!((tokens.len(), reason), (8, FinishReason::Stop));
    let shorter = GenerateRequest { tokens_min: 20, ..request(1, Some(until_nine())) };
    assert_eq!(collect(engine.generate(shorter).unwrap()).await.0.len(), 9);
    assert_eq!(engine.stats().finished_at_length_total, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_while_his_mask_is_computed_leaves_no_trace() {
    let engine = start();
    let (constraint, gate) = gated(only(10, 20, 30), 2);
    let stream = engine.generate(request(3, Some(constraint))).unwrap();
    gate.waits.recv().unwrap();
    drop(stream);
    engine.drained().await;
    assert_eq!((engine.stats().cancelled_total, engine.stats().blocks_used), (1, 0));
    drop(gate);
    let after = request(4, Some(only(20, 30, 3)));
    check(&after, collect(engine.generate(after.clone()).unwrap()).await);
}

#[tokio::test]
async fn stop_tokens_wait_for_the_least_number_of_tokens() {
    let model = FakeModel::new(VOCAB, CONFIG.blocks).with_script(|_| STOP);
    let engine = Engine::start(Box::new(model), CONFIG);
    for (tokens_min, said) in [(0, 0), (1, 1), (7, 7), (100, 30)] {
        let request = GenerateRequest { tokens_min, ..request(1, None) };
        let (tokens, reason, _) = collect(engine.generate(request).unwrap()).await;
        assert_eq!((tokens.len(), reason), (said, if tokens_min > 30 { FinishReason::Length } else { FinishReason::Stop }));
        assert!(tokens.iter().all(|token| token.id != STOP));
    }
}

/// A model that says what it said eleven tokens ago, but not always.
fn echo(history: &[u32]) -> u32 {
    let before = history[history.len().saturating_sub(11)];
    if history.len() % 29 == 5 { (before + 1) % 90 } else { before }
}

/// How an answer came that was computed alone, with drafts.
struct Drafted {
    tokens: Vec<GeneratedToken>,
    reason: FinishReason,
    accepted: usize,
    /// Times that masks were asked for.
    jobs: usize,
}

/// `late`: masks are computed after the turn that asked for them.
fn with_drafts(request: &GenerateRequest, late: bool) -> Drafted {
    let (engine, engine_loop) = Engine::without_thread(Box::new(FakeModel::new(VOCAB, CONFIG.blocks).with_script(echo)), CONFIG);
    // Every step takes as long, so that drafts are always worth their rows.
    let mut now = Duration::ZERO;
    let clock = move || {
        now += Duration::from_millis(1);
        now
    };
    let (put_off, jobs) = (Arc::new(Mutex::new(Vec::<MaskJob>::new())), Arc::new(AtomicUsize::new(0)));
    let (late_jobs, counted) = (put_off.clone(), jobs.clone());
    let run = move |job: MaskJob| {
        counted.fetch_add(1, Ordering::Relaxed);
        match late {
            true => late_jobs.lock().unwrap().push(job),
            false => job.compute().hand_over(),
        }
    };
    let mut engine_loop = engine_loop.with_clock(Box::new(clock)).with_mask_runner(run);
    let mut stream = engine.generate(request.clone()).unwrap();
    let mut tokens = Vec::new();
    loop {
        engine_loop.turn();
        engine_loop.scheduler().check().unwrap();
        put_off.lock().unwrap().drain(..).for_each(|job| job.compute().hand_over());
        while let Some(event) = stream.try_next() {
            match event {
                TokenEvent::Token(token) => tokens.push(token),
                TokenEvent::Finished { reason, usage } => {
                    assert_eq!((usage.completion_tokens, engine.stats().blocks_used), (tokens.len(), 0));
                    let accepted = engine.stats().accepted_tokens_total as usize;
                    return Drafted { tokens, reason, accepted, jobs: jobs.load(Ordering::Relaxed) };
                }
            }
        }
    }
}

#[test]
fn drafts_under_a_constraint_are_checked_and_change_nothing() {
    let text: Vec<u32> = (0..25).map(|place| 3 * place % 90).collect();
    for (constraint, least) in [
        // Nothing is forbidden: a matcher that says so costs no mask.
        (Ruled::by(|_, _| Ok(Ending::Anything)), 100),
        (refrain(text, Ending::NotYet, 300), 100),
        (by_turns(0, 60, 250), 50),
        (maze(3, 100), 0),
    ] {
        for (temperature, late) in [(0.0, false), (0.9, false), (0.0, true), (1.5, true)] {
            let sampling = SamplingParams { temperature, seed: 5, ..SamplingParams::default() };
            let request = GenerateRequest { tokens_max: Some(400), sampling, ..request(7, Some(constraint.clone())) };
            let Drafted { tokens, reason, accepted, jobs } = with_drafts(&request, late);
            assert_eq!((tokens, reason), FakeModel::lone_run_with(VOCAB, &request, &CONFIG, Some(echo)));
            assert!(accepted >= least, "{accepted} of {least}, {jobs} jobs, at a temperature of {temperature}, late: {late}");
            assert!(jobs + accepted <= 402, "{jobs} jobs for 400 tokens of which {accepted} were guessed");
        }
    }
}

#[test]
fn a_draft_leads_no_further_than_the_constraint() {
    // The model goes on and on; the constraint ends it, or fails, in the middle of what was guessed right.
    let at = |place: usize, then: Result<Ending, String>| {
        let constraint = Ruled::by(move |output, allowed| match output.len() {
            length if length == place => then.clone(),
            _ => {
                (0..90).for_each(|token| allowed.insert(token));
                Ok(Ending::NotYet)
            }
        });
        let greedy = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
        GenerateRequest { tokens_max: Some(200), sampling: greedy, ..request(7, Some(constraint)) }
    };
    let (mut ended, mut failed) = (0, 0);
    for place in 60..80 {
        let late = place % 2 == 0;
        let end = with_drafts(&at(place, Ok(Ending::Reached)), late);
        let failure = with_drafts(&at(place, Err("no".to_owned())), late);
        assert_eq!((end.tokens.len(), end.reason), (place, FinishReason::Stop));
        assert_eq!((failure.tokens, failure.reason), (end.tokens, FinishReason::Failed("the constraint failed: no".into())));
        (ended, failed) = (ended + end.accepted, failed + failure.accepted);
    }
    assert!(ended > 500 && failed > 500, "{ended} and {failed}");
}
