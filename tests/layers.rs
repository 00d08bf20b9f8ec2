//! Layers that remember something else than everything: what is found again of a prompt, and that it is the same answer.

use std::time::Duration;

use understudy::engine::disk_prefix::DiskLimits;
use understudy::engine::engine_loop::EngineLoop;
use understudy::engine::layer_groups::{StatePools, WindowPool};
use understudy::engine::{
    Engine, EngineConfig, FinishReason, GenerateRequest, GeneratedToken, Landmarks, SamplingParams, TokenEvent, TokenStream, TokenUsage,
};

use crate::support::fake_groups::FakeGroups;
use crate::support::fake_model::FakeModel;
use crate::support::memory_store::{MemoryDisk, MemoryStore};

const VOCAB: usize = 101;
const CONFIG: EngineConfig = EngineConfig {
    blocks: 64,
    sequences_max: 4,
    tokens_per_step_max: 64,
    queue_max: 20,
    context_max: 1024,
    drafts_max: 8,
    first_token_max: None,
};

struct Stage {
    engine: Engine,
    engine_loop: EngineLoop,
    groups: FakeGroups,
    script: Option<fn(&[u32]) -> u32>,
}

impl Stage {
    fn new(groups: FakeGroups, script: Option<fn(&[u32]) -> u32>) -> Self {
        let model = FakeModel::new(VOCAB, CONFIG.blocks).with_groups(groups.clone());
        let model = if let Some(script) = script { model.with_script(script) } else { model };
        let (engine, engine_loop) = Engine::without_thread(Box::new(model), CONFIG);
        // A step takes a millisecond, whatever is in it: so drafts pay.
        let mut now = Duration::ZERO;
        let engine_loop = engine_loop.with_clock(Box::new(move || {
            now += Duration::from_millis(1);
            now
        }));
        Self { engine, engine_loop, groups, script }
    }

    /// All at once. Each answer is compared with the lone one; returns what of each prompt was cached.
    fn run(&mut self, requests: &[GenerateRequest]) -> Vec<usize> {
        let mut streams: Vec<TokenStream> = requests.iter().map(|request| self.engine.generate(request.clone()).unwrap()).collect();
        while self.engine.stats().waiting > 0 || !self.engine_loop.is_idle() {
            self.engine_loop.turn();
            self.engine_loop.scheduler().check().unwrap();
        }
        let outcomes = streams.iter_mut().map(|stream| {
            let mut tokens: Vec<GeneratedToken> = Vec::new();
            loop {
                match stream.try_next().expect("it has ended") {
                    TokenEvent::Token(token) => tokens.push(token),
                    TokenEvent::Finished { reason, usage } => return (tokens, reason, usage),
                }
            }
        });
        let outcomes: Vec<(Vec<GeneratedToken>, FinishReason, TokenUsage)> = outcomes.collect();
        for (request, (tokens, reason, _)) in requests.iter().zip(&outcomes) {
            let (expected, expected_reason) = FakeModel::lone_run_of(VOCAB, request, &CONFIG, self.script, &self.groups);
            assert_eq!((tokens, reason), (&expected, &expected_reason), "{:?}", self.groups);
        }
        outcomes.into_iter().map(|(_, _, usage)| usage.cached_tokens).collect()
    }
}

fn windows(windows: &[usize]) -> FakeGroups {
    let windows = windows.iter().map(|&window| WindowPool { window, blocks: 64 }).collect();
    FakeGroups { pools: StatePools { windows, state_slots: None }, nothing_full: false }
}

fn recurrent(windows: &[usize]) -> FakeGroups {
    let mut groups = self::windows(windows);
    groups.pools.state_slots = Some(20);
    groups
}

fn only(groups: FakeGroups) -> FakeGroups {
    FakeGroups { nothing_full: true, ..groups }
}

fn every_kind() -> Vec<FakeGroups> {
    let windows_alone = [windows(&[1]), windows(&[40]), windows(&[32, 500]), only(windows(&[33]))];
    windows_alone.into_iter().chain([recurrent(&[]), recurrent(&[40]), only(recurrent(&[])), only(recurrent(&[100]))]).collect()
}

fn request(prompt: impl IntoIterator<Item = u32>, tokens_max: usize) -> GenerateRequest {
    GenerateRequest {
        prompt: prompt.into_iter().collect(),
        tokens_max: Some(tokens_max),
        sampling: SamplingParams { temperature: 0.8, seed: 5, ..SamplingParams::default() },
        ..GenerateRequest::default()
    }
}

fn text(tokens: u32, salt: u32) -> impl Iterator<Item = u32> {
    (0..tokens).map(move |i| (i * 7 + i * i % 13 + salt) % VOCAB as u32)
}

#[test]
fn a_prompt_is_found_again_up_to_its_last_block() {
    for groups in every_kind() {
        let mut stage = Stage::new(groups, None);
        let (request, longer) = (request(text(200, 0), 30), request(text(200, 0).chain(text(90, 5)), 10));
        assert_eq!(stage.run(std::slice::from_ref(&request)), [0]);
        assert_eq!(stage.run(std::slice::from_ref(&request)), [192], "{:?}", stage.groups);
        assert_eq!(stage.run(std::slice::from_ref(&longer)), [192], "{:?}", stage.groups);
        assert_eq!(stage.run(&[longer]), [288], "{:?}", stage.groups);
    }
}

#[test]
fn a_conversation_that_grows_computes_what_is_new() {
    for groups in every_kind() {
        let mut stage = Stage::new(groups, None);
        let mut prompt: Vec<u32> = text(130, 0).collect();
        let mut before = 0;
        for turn in 0..6 {
            let request = request(prompt.clone(), 20);
            let cached = stage.run(std::slice::from_ref(&request))[0];
            assert!(
                cached >= before,
                "turn {turn}: {cached} of {} tokens were cached, {before} could be: {:?}",
                prompt.len(),
                stage.groups
            );
            let (answer, _) = FakeModel::lone_run_of(VOCAB, &request, &CONFIG, None, &stage.groups);
            before = (prompt.len() - 1) / 32 * 32;
            prompt.extend(answer.iter().map(|token| token.id).chain(text(25, turn)));
        }
    }
}

#[test]
fn choices_compute_their_prompt_once() {
    for groups in every_kind() {
        let mut stage = Stage::new(groups, None);
        let choices: Vec<GenerateRequest> = (0..4)
            .map(|seed| GenerateRequest { sampling: SamplingParams { seed, ..SamplingParams::default() }, ..request(text(300, 1), 20) })
            .collect();
        assert_eq!(stage.run(&choices), [0, 288, 288, 288], "{:?}", stage.groups);
    }
}

#[test]
fn another_conversation_goes_on_from_where_the_instructions_end() {
    let conversation = |salt, instructions_end| GenerateRequest {
        landmarks: Landmarks { instructions_end, last_turn: None },
        ..request(text(110, 0).chain(text(300, salt)), 5)
    };
    for groups in [recurrent(&[]), recurrent(&[40])] {
        let mut stage = Stage::new(groups.clone(), None);
        assert_eq!(stage.run(&[conversation(1, Some(110))]), [0]);
        assert_eq!(stage.run(&[conversation(2, Some(110))]), [96]);
        let mut stage = Stage::new(groups, None);
        assert_eq!(stage.run(&[conversation(1, None)]), [0]);
        assert_eq!(stage.run(&[conversation(2, None)]), [0], "nobody said that anybody would go on from there");
    }
}

#[test]
fn a_turn_that_is_said_otherwise_goes_on_from_where_it_began() {
    let edited = |salt| GenerateRequest {
        landmarks: Landmarks { instructions_end: Some(40), last_turn: Some(200) },
        ..request(text(210, 0).chain(text(100, salt)), 5)
    };
    let mut stage = Stage::new(recurrent(&[]), None);
    assert_eq!(stage.run(&[edited(1)]), [0]);
    assert_eq!(stage.run(&[edited(2)]), [192]);
}

/// Repeats a phrase, and now and then something else.
fn refrain(history: &[u32]) -> u32 {
    let said = history.len();
    if said.is_multiple_of(9) { (said % 97) as u32 } else { history[said.saturating_sub(6)] }
}

#[test]
fn a_wrong_draft_leaves_no_trace_in_the_state() {
    for groups in every_kind() {
        let mut stage = Stage::new(groups, Some(refrain));
        let greedy = |salt| GenerateRequest {
            sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
            ..request([1, 2, 3, 4, 5, 6].repeat(8).into_iter().chain([salt]), 200)
        };
        stage.run(&[greedy(7), greedy(8)]);
        let stats = stage.engine.stats();
        assert!(stats.accepted_tokens_total > 20, "{stats:?}");
        assert!(stats.drafted_tokens_total > stats.accepted_tokens_total, "nothing was wrong: {stats:?}");
    }
}

#[test]
fn who_is_cancelled_leaves_pools_as_they_were() {
    for groups in every_kind() {
        let mut stage = Stage::new(groups, None);
        for turns in 1..8 {
            let streams: Vec<TokenStream> = (0..4).map(|salt| stage.engine.generate(request(text(150, salt), 50)).unwrap()).collect();
            (0..turns).for_each(|_| assert!(stage.engine_loop.turn()));
            drop(streams);
            // Somebody else has a step; those that are gone are seen then.
            stage.run(&[request(text(40, 90), 3)]);
            assert_eq!(stage.engine_loop.scheduler().blocks().used(), 0);
        }
        assert_eq!(stage.run(&[request(text(150, 0), 50)]).len(), 1);
    }
}

#[test]
fn the_disk_is_left_alone_where_blocks_are_not_all() {
    let limits = DiskLimits { prompt_tokens_min: 33, gain_blocks_min: 1, bytes_per_turn: 1 << 20 };
    for (groups, writes) in every_kind().into_iter().map(|groups| (groups, false)).chain([(FakeGroups::default(), true)]) {
        let disk = MemoryDisk::default();
        let mut stage = Stage::new(groups, None);
        let store = MemoryStore::new(disk.clone(), |_| false);
        stage.engine_loop = stage.engine_loop.with_store(Box::new(store), limits);
        stage.run(&[request(text(200, 0), 5)]);
        stage.run(&[request(text(200, 0), 5)]);
        assert_eq!(!disk.files().is_empty(), writes, "{:?}", stage.groups);
        assert_eq!(stage.engine.stats().disk.written_total > 0, writes);
    }
}

#[test]
fn sequences_that_outgrow_the_blocks_are_paused_and_resumed_with_their_state() {
    for groups in every_kind() {
        let mut stage = Stage::new(groups, None);
        // Three of 960 tokens, 30 blocks each, in 64 blocks: admission promises 18.
        let requests: Vec<GenerateRequest> = (0..3).map(|salt| request(text(60, salt), 900)).collect();
        stage.run(&requests);
        assert!(stage.engine.stats().pauses_total > 0, "{:?}", stage.groups);
        assert_eq!(stage.run(&requests[..1]), [32]);
    }
}
