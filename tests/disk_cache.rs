//! The prefix cache on the disk, with the real store in a folder of the test's own: a long prompt after a restart gives the same answer
//! to the bit, from the disk, from memory, from both or from nothing, whatever has become of the files.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use candle_core::Device;
use kernels::{BLOCK_TOKENS, KvDtype};
use models::{Gguf, KvCache};
use understudy::engine::disk_prefix::DiskLimits;
use understudy::engine::engine_loop::EngineLoop;
use understudy::engine::kv_store::chain::{CacheKey, Identity};
use understudy::engine::kv_store::folder::Folder;
use understudy::engine::kv_store::{DiskStats, KvStore, STALL_LIMIT, StoreHandle, StoreOptions};
use understudy::engine::model_runner::LoadedRunner;
use understudy::engine::{
    Engine, EngineConfig, FinishReason, GenerateRequest, GeneratedToken, ModelRunner, SamplingParams, TokenEvent, TokenStream, TokenUsage,
};
use understudy::hub::builtin;

use crate::support::fake_model::FakeModel;
use crate::support::memory_store::{MemoryDisk, MemoryStore, Moment};
use crate::support::program::Program;
use crate::support::temp_dir::TempDir;

const VOCAB: usize = 101;
const CONFIG: EngineConfig = EngineConfig {
    blocks: 256,
    sequences_max: 8,
    tokens_per_step_max: 64,
    queue_max: 20,
    context_max: 4096,
    drafts_max: 8,
    first_token_max: None,
};
/// For something that comes: a hang is a failure and not a stop.
const LIMIT: Duration = Duration::from_secs(60);

/// What a store is started with.
#[derive(Clone)]
struct Setup {
    folder: PathBuf,
    bytes_max: u64,
    identity: Identity,
    stall_limit: Duration,
}

impl Setup {
    fn new(folder: &TempDir) -> Self {
        let text = |text: &str| text.to_owned();
        let (kv_type, isa, target) = (text("f16"), text("scalar"), text("here"));
        let identity = Identity { model: [1; 32], kv_type, isa, target, arithmetic: 1, block_bytes: 0 };
        Self { folder: folder.path().to_owned(), bytes_max: 1 << 30, identity, stall_limit: STALL_LIMIT }
    }

    fn store(&self, block_bytes: usize) -> (KvStore, StoreHandle) {
        let &Self { ref folder, bytes_max, ref identity, stall_limit } = self;
        let identity = Identity { block_bytes: block_bytes as u64, ..identity.clone() };
        let options = StoreOptions { folder: folder.clone(), bytes_max, block_bytes, stall_limit };
        let (store, handle) = KvStore::start(options, move || Some(CacheKey::new(&identity)));
        assert!(handle.wait_ready(LIMIT));
        (store, handle)
    }

    /// A process' life, with the fake model.
    fn life(&self) -> Life {
        self.life_of(Box::new(FakeModel::new(VOCAB, CONFIG.blocks)))
    }

    fn life_of(&self, runner: Box<dyn ModelRunner>) -> Life {
        let (store, handle) = self.store(runner.block_bytes().expect("its blocks can be copied"));
        let (engine, engine_loop) = Engine::without_thread(runner, CONFIG);
        let engine_loop = engine_loop.with_store(Box::new(store), DiskLimits { prompt_tokens_min: 100, ..DiskLimits::default() });
        std::thread::spawn(move || engine_loop.run());
        Life { engine, handle }
    }

    /// The files of blocks, the first block's first.
    fn files(&self) -> Vec<PathBuf> {
        let folder = Folder::of(&self.folder);
        let mut found = folder.scan().unwrap();
        found.sort_by_key(|(_, entry)| entry.depth);
        found.into_iter().map(|(name, entry)| folder.place(&name, entry.depth)).collect()
    }
}

/// An engine between two restarts.
struct Life {
    engine: Engine,
    handle: StoreHandle,
}

type Answer = (Vec<GeneratedToken>, TokenUsage);

impl Life {
    fn answer(&self, request: &GenerateRequest) -> Answer {
        collect(self.engine.generate(request.clone()).unwrap())
    }

    /// Ends it when all is written; what the disk cache counted.
    fn end(self) -> DiskStats {
        assert!(self.handle.flush(LIMIT), "it is written in the end");
        self.handle.stats()
    }
}

fn collect(mut stream: TokenStream) -> Answer {
    let mut tokens = Vec::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    loop {
        match runtime.block_on(stream.next()).expect("`Finished` comes first") {
            TokenEvent::Token(token) => tokens.push(token),
            TokenEvent::Finished { reason, usage } => {
                assert!(!matches!(reason, FinishReason::Failed(_)), "{reason:?}");
                return (tokens, usage);
            }
        }
    }
}

/// A prompt that nobody else has, and the start of its answer with the log-probabilities of every token there is.
fn request(salt: u32, prompt_tokens: usize) -> GenerateRequest {
    GenerateRequest {
        prompt: (0..prompt_tokens as u32).map(|i| (i * i / 7 + i + salt * 17) % VOCAB as u32).collect(),
        tokens_max: Some(6),
        sampling: SamplingParams { temperature: 0.8, seed: 5, ..SamplingParams::default() },
        top_logprobs: Some(VOCAB),
        ..GenerateRequest::default()
    }
}

/// The answer must be the model's own, and so much of the prompt not computed.
#[track_caller]
fn check(life: &Life, request: &GenerateRequest, cached_tokens: usize) {
    let (tokens, usage) = life.answer(request);
    assert_eq!(tokens, FakeModel::lone_run(VOCAB, request, &CONFIG).0);
    assert_eq!(usage.cached_tokens, cached_tokens);
}

#[test]
fn a_long_prompt_is_found_again_after_a_restart() {
    let folder = TempDir::new();
    let setup = Setup::new(&folder);
    let request = request(1, 1000);
    let life = setup.life();
    check(&life, &request, 0);
    check(&life, &request, 999);
    let stats = life.end();
    assert_eq!((stats.written_total, stats.read_total, stats.blocks), (31, 0, 31));

    let life = setup.life();
    check(&life, &request, 992);
    check(&life, &request, 999);
    // The conversation goes on: what is new is computed, and kept in its turn.
    let mut longer = request.clone();
    longer.prompt.extend((0..300).map(|i| i % 90));
    check(&life, &longer, 1000);
    let stats = life.end();
    assert_eq!((stats.read_total, stats.written_total, stats.bad_total, stats.dropped_total), (31, 9, 0, 0));
    let life = setup.life();
    check(&life, &longer, 1280);
    assert_eq!(life.end().read_total, 40);
}

#[test]
fn a_short_prompt_and_a_small_gain_are_not_worth_a_file() {
    let folder = TempDir::new();
    let setup = Setup::new(&folder);
    let life = setup.life();
    check(&life, &request(1, 99), 0);
    assert_eq!(life.end().blocks, 0);
    // Seven blocks are less than what a request waits for.
    let life = setup.life();
    check(&life, &request(1, 250), 0);
    assert_eq!(life.end().written_total, 7);
    let life = setup.life();
    check(&life, &request(1, 250), 0);
    assert_eq!(life.end().read_total, 0);
}

#[test]
fn the_start_in_memory_and_the_rest_on_the_disk() {
    let folder = TempDir::new();
    let setup = Setup::new(&folder);
    let whole = request(1, 1000);
    let start = GenerateRequest { prompt: whole.prompt[..400].to_vec(), ..whole.clone() };
    let life = setup.life();
    check(&life, &whole, 0);
    life.end();
    let life = setup.life();
    check(&life, &start, 384);
    check(&life, &whole, 992);
    assert_eq!(life.end().read_total, 31, "none is read twice");
}

#[test]
fn another_model_type_arithmetic_or_machine_finds_nothing() {
    let folder = TempDir::new();
    let setup = Setup::new(&folder);
    let request = request(1, 600);
    let life = setup.life();
    check(&life, &request, 0);
    life.end();
    let identity = &setup.identity;
    for other in [
        Identity { model: [2; 32], ..identity.clone() },
        Identity { kv_type: "q8_0".into(), ..identity.clone() },
        Identity { isa: "avx2".into(), ..identity.clone() },
        Identity { arithmetic: 2, ..identity.clone() },
    ] {
        let life = Setup { identity: other, ..setup.clone() }.life();
        check(&life, &request, 0);
        life.end();
    }
    check(&setup.life(), &request, 576);
}

#[test]
fn a_damaged_file_costs_its_computation_and_nothing_else() {
    let request = request(1, 1000);
    type Damage = fn(&[PathBuf]);
    let damages: [(&str, Damage); 7] = [
        ("a bit of the payload", |files| change(&files[20], |file| file[300] ^= 4)),
        ("a token in the header", |files| change(&files[20], |file| file[90] ^= 1)),
        ("the checksum", |files| change(&files[20], |file| file[220] ^= 1)),
        ("cut in the middle", |files| change(&files[20], |file| file.truncate(file.len() / 2))),
        ("empty", |files| change(&files[20], Vec::clear)),
        ("longer", |files| change(&files[20], |file| file.push(0))),
        ("another block's file", |files| assert!(fs::copy(&files[19], &files[20]).is_ok())),
    ];
    for (what, damage) in damages {
        println!("{what}");
        let folder = TempDir::new();
        let setup = Setup::new(&folder);
        let life = setup.life();
        check(&life, &request, 0);
        life.end();
        damage(&setup.files());
        let life = setup.life();
        check(&life, &request, 640);
        let stats = life.end();
        assert_eq!((stats.bad_total, stats.read_total, stats.written_total), (1, 20, 1), "{what}: it is written anew");
        check(&setup.life(), &request, 992);
    }
}

fn change(path: &PathBuf, change: impl FnOnce(&mut Vec<u8>)) {
    let mut file = fs::read(path).unwrap();
    change(&mut file);
    fs::write(path, file).unwrap();
}

#[test]
fn files_that_vanish_under_way_are_computed() {
    let folder = TempDir::new();
    let setup = Setup::new(&folder);
    let (first, second) = (request(1, 1000), request(2, 1000));
    let life = setup.life();
    check(&life, &first, 0);
    check(&life, &second, 0);
    life.end();
    // The store has looked at the folder before they go.
    let life = setup.life();
    setup.files().iter().filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("10-")).for_each(|path| {
        fs::remove_file(path).unwrap();
    });
    check(&life, &first, 320);
    assert!(life.handle.flush(LIMIT));
    fs::remove_dir_all(setup.folder.join("kv")).unwrap();
    check(&life, &second, 0);
    let stats = life.end();
    assert_eq!((stats.bad_total, stats.dropped_total), (0, 0), "{stats:?}");
    // The folder is there again, with what was computed since it went.
    check(&setup.life(), &second, 992);
}

#[test]
fn a_folder_that_cannot_be_used_changes_no_answer() {
    let folder = TempDir::new();
    let setup = Setup::new(&folder);
    let request = request(1, 1000);
    // From the start: a file stands in its place.
    folder.write("kv", "mine");
    let life = setup.life();
    check(&life, &request, 0);
    check(&life, &request, 999);
    assert_eq!(life.end().blocks, 0);
    assert_eq!(fs::read_to_string(folder.path().join("kv")).unwrap(), "mine", "what is not ours is left alone");
    // In the middle: every write fails from then on, as on a full disk.
    fs::remove_file(folder.path().join("kv")).unwrap();
    let life = setup.life();
    fs::remove_dir(folder.path().join("kv")).unwrap();
    folder.write("kv", "mine");
    check(&life, &request, 0);
    let stats = life.end();
    assert_eq!((stats.written_total, stats.dropped_total), (0, 31), "{stats:?}");
}

#[test]
fn a_disk_that_is_too_slow_is_not_waited_for() {
    let folder = TempDir::new();
    let setup = Setup::new(&folder);
    let request = request(1, 1000);
    let life = setup.life();
    check(&life, &request, 0);
    life.end();
    // Every wait is too long: as much as was there at once is used, and the answer is the same.
    let life = Setup { stall_limit: Duration::ZERO, ..setup }.life();
    let (tokens, _) = life.answer(&request);
    assert_eq!(tokens, FakeModel::lone_run(VOCAB, &request, &CONFIG).0);
}

#[test]
fn the_limit_holds_and_the_least_recently_used_goes() {
    let folder = TempDir::new();
    let file_bytes = {
        let setup = Setup::new(&folder);
        let life = setup.life();
        check(&life, &request(9, 600), 0);
        let stats = life.end();
        stats.bytes / stats.blocks
    };
    // Room for 50 blocks: two prompts of 18, and most of a third.
    let setup = Setup { bytes_max: 50 * file_bytes, ..Setup::new(&folder) };
    let life = setup.life();
    for salt in 1..3 {
        check(&life, &request(salt, 600), 0);
        assert!(life.handle.flush(LIMIT));
    }
    // From memory, but a use all the same.
    check(&life, &request(1, 600), 599);
    check(&life, &request(3, 600), 0);
    assert!(life.end().bytes <= 50 * file_bytes);
    assert_eq!(setup.files().len(), 50);
    let life = setup.life();
    check(&life, &request(1, 600), 576);
    check(&life, &request(3, 600), 576);
    check(&life, &request(2, 600), 14 * BLOCK_TOKENS);
    life.end();
    // Longer than all there may be: its beginning stays.
    let life = setup.life();
    check(&life, &request(4, 3000), 0);
    assert_eq!(life.end().blocks, 50);
    check(&setup.life(), &request(4, 3000), 50 * BLOCK_TOKENS);
    // A smaller limit is kept at once.
    let life = Setup { bytes_max: 10 * file_bytes, ..setup.clone() }.life();
    assert_eq!((life.end().blocks, setup.files().len()), (10, 10));
}

#[test]
fn two_processes_share_a_folder() {
    let folder = TempDir::new();
    let setup = Setup::new(&folder);
    let lives = [setup.life(), setup.life()];
    std::thread::scope(|scope| {
        for (salt, life) in (1..).zip(&lives) {
            scope.spawn(move || {
                check(life, &request(7, 1000), 0);
                check(life, &request(salt, 1000), 0);
            });
        }
    });
    for life in lives {
        life.end();
    }
    let life = setup.life();
    for salt in [7, 1, 2] {
        check(&life, &request(salt, 1000), 992);
    }
    assert_eq!(life.end().bad_total, 0);
}

#[cfg(unix)]
#[test]
fn nobody_else_can_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let folder = TempDir::new();
    let setup = Setup::new(&folder);
    let kv = setup.folder.join("kv");
    // One that was made carelessly.
    fs::create_dir(&kv).unwrap();
    fs::set_permissions(&kv, fs::Permissions::from_mode(0o777)).unwrap();
    let life = setup.life();
    check(&life, &request(1, 300), 0);
    life.end();
    let mode = |path: &PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&kv), 0o700);
    assert_eq!(setup.files().iter().map(mode).collect::<Vec<_>>(), [0o600; 9]);
}

/// Turned by hand, with a disk of moods.
fn by_hand(disk: &MemoryDisk, goes_wrong: impl FnMut(Moment) -> bool + Send + 'static) -> (Engine, EngineLoop) {
    let (engine, engine_loop) = Engine::without_thread(Box::new(FakeModel::new(VOCAB, CONFIG.blocks)), CONFIG);
    let limits = DiskLimits { prompt_tokens_min: 100, ..DiskLimits::default() };
    (engine, engine_loop.with_store(Box::new(MemoryStore::new(disk.clone(), goes_wrong)), limits))
}

/// A disk that has the prompt of `request(1, 1000)`.
fn disk_with_a_prompt() -> MemoryDisk {
    let disk = MemoryDisk::default();
    let (engine, mut engine_loop) = by_hand(&disk, |_| false);
    let stream = engine.generate(request(1, 1000)).unwrap();
    while !engine_loop.is_idle() || engine.stats().waiting > 0 {
        engine_loop.turn();
    }
    assert_eq!((disk.files().len(), collect(stream).0.len()), (31, 6));
    disk
}

#[test]
fn who_waits_for_the_disk_holds_up_nobody_and_can_go() {
    let disk = disk_with_a_prompt();
    let (engine, mut engine_loop) = by_hand(&disk, |moment| moment == Moment::Late);
    let waits = engine.generate(request(1, 1000)).unwrap();
    engine_loop.turn();
    assert_eq!((engine_loop.held(), engine.stats().waiting, engine_loop.scheduler().is_idle()), (1, 1, true));
    let mut other = engine.generate(request(2, 50)).unwrap();
    engine_loop.turn();
    assert!(matches!(other.try_next(), Some(TokenEvent::Token(_))), "the other one's first token comes at once");
    drop(waits);
    engine_loop.turn();
    assert_eq!((engine_loop.held(), engine.stats().cancelled_total), (0, 1));
    while !engine_loop.is_idle() {
        engine_loop.turn();
    }
    assert_eq!(collect(other).0.len(), 5, "one was read already");
    assert_eq!(engine.stats().blocks_used, 0);
}

#[test]
fn blocks_that_have_no_place_are_not_waited_for() {
    let disk = disk_with_a_prompt();
    let config = EngineConfig { blocks: 40, ..CONFIG };
    let (engine, engine_loop) = Engine::without_thread(Box::new(FakeModel::new(VOCAB, config.blocks)), config);
    // A block a turn.
    let limits = DiskLimits { prompt_tokens_min: 100, bytes_per_turn: 1, ..DiskLimits::default() };
    let mut engine_loop = engine_loop.with_store(Box::new(MemoryStore::new(disk, |_| false)), limits);
    // Promised 38 of the 40 blocks: 900 tokens and 300 more.
    let running = engine.generate(GenerateRequest { tokens_max: Some(300), ..request(2, 900) }).unwrap();
    engine_loop.turn();
    let waits = engine.generate(request(1, 1000)).unwrap();
    for _ in 0..4 {
        engine_loop.turn();
    }
    assert_eq!((engine_loop.held(), engine_loop.scheduler().all_waiting().count()), (0, 1));
    assert!(engine.stats().disk.read_total <= 3, "{:?}", engine.stats());
    while !engine_loop.is_idle() {
        engine_loop.turn();
    }
    assert_eq!((collect(running).0.len(), collect(waits).0), (300, FakeModel::lone_run(VOCAB, &request(1, 1000), &CONFIG).0));
}

#[test]
fn when_the_handles_are_gone_who_waits_for_the_disk_is_still_answered() {
    let disk = disk_with_a_prompt();
    let mut late = 0;
    let (engine, engine_loop) = by_hand(&disk, move |moment| {
        late += 1;
        moment == Moment::Late && late < 50
    });
    let stream = engine.generate(request(1, 1000)).unwrap();
    drop(engine);
    engine_loop.run();
    assert_eq!(collect(stream).1.cached_tokens, 992);
}

#[test]
fn a_bug_of_the_engine_leaves_the_disk_alone_from_then_on() {
    use understudy::engine::block_manager::BlockManager;
    use understudy::engine::scheduler::{Limits, Scheduler};
    let disk = disk_with_a_prompt();
    let (engine, engine_loop) = by_hand(&disk, |_| false);
    // A scheduler that has fewer blocks than the engine believes: it trips over the long request once its blocks have come.
    let limits = Limits { sequences_max: 8, tokens_per_step_max: 64, answer_tokens_reserved: 512, drafts_max: 8 };
    let engine_loop = engine_loop.with_scheduler(Scheduler::new(limits, BlockManager::new(2)));
    let mut stream = engine.generate(request(1, 1000)).unwrap();
    std::thread::spawn(move || engine_loop.run());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let event = runtime.block_on(stream.next());
    assert!(matches!(&event, Some(TokenEvent::Finished { reason: FinishReason::Failed(_), .. })), "{event:?}");
    let (tokens, usage) = collect(engine.generate(request(1, 1000)).unwrap());
    assert_eq!((tokens, usage.cached_tokens), (FakeModel::lone_run(VOCAB, &request(1, 1000), &CONFIG).0, 0));
}

/// The built-in model with a cache of this type.
fn builtin_runner(kv: KvDtype) -> Box<dyn ModelRunner> {
    let gguf = Gguf::from_bytes(builtin::bytes(), "the built-in model").unwrap();
    let model = models::load(&gguf, &Device::Cpu).unwrap();
    let kv = KvCache::new(model.config(), CONFIG.blocks, kv, &Device::Cpu).unwrap();
    Box::new(LoadedRunner::new(model, kv))
}

#[test]
fn the_built_in_model_gives_the_same_bits_cold_warm_and_after_a_restart() {
    let folder = TempDir::new();
    let request = GenerateRequest { top_logprobs: Some(4096), ..request(1, 1500) };
    let mut answers = Vec::new();
    // In one folder: the types keep out of each other's way.
    for kv in [KvDtype::F16, KvDtype::F32, KvDtype::Q8_0] {
        let mut setup = Setup::new(&folder);
        setup.identity.kv_type = kv.name().to_owned();
        let life = setup.life_of(builtin_runner(kv));
        let (cold, warm) = (life.answer(&request), life.answer(&request));
        assert_eq!(life.end().written_total, 46);
        let life = setup.life_of(builtin_runner(kv));
        let restarted = life.answer(&request);
        assert_eq!(life.end().read_total, 46);
        assert_eq!([&cold, &warm, &restarted].map(|answer| answer.1.cached_tokens), [0, 1499, 1472], "{kv}");
        let bits = |answer: &Answer| -> Vec<(u32, Vec<(u32, u32)>)> {
            let logprobs = |token: &GeneratedToken| token.logprobs.clone().unwrap().top;
            let bits = |token: &GeneratedToken| logprobs(token).iter().map(|(id, logprob)| (*id, logprob.to_bits())).collect();
            answer.0.iter().map(|token| (token.id, bits(token))).collect()
        };
        assert_eq!(bits(&cold).len(), 6);
        assert!(bits(&cold)[0].1.len() > 4000, "the whole vocabulary is compared");
        assert!(bits(&cold) == bits(&warm), "{kv}: memory changed a bit");
        assert!(bits(&cold) == bits(&restarted), "{kv}: the disk changed a bit");
        answers.push(bits(&cold));
    }
    assert!(answers[0] != answers[1] && answers[0] != answers[2], "another type of cache gives other bits, so its blocks would show");
}

#[test]
fn the_program_keeps_shows_and_forgets() {
    let program = Program::new();
    let prompt: Vec<u32> = (0..1500).map(|i| (i * i / 7 + i) % 1000 + 300).collect();
    let body = serde_json::json!({"prompt": prompt, "max_tokens": 8, "temperature": 0, "logprobs": 5}).to_string();
    let choices = |answer: &str| {
        let body: serde_json::Value = serde_json::from_str(answer.split_once("\r\n\r\n").expect("a body").1).expect("JSON");
        (body["choices"].clone(), body["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64())
    };
    let shown = || -> serde_json::Value { serde_json::from_str(&program.run(&["cache", "--json"]).stdout).expect("JSON") };
    assert_eq!((shown()["entries"].as_u64(), shown()["limit_bytes"].as_u64()), (Some(0), Some(4 << 30)));
    let mut answers = Vec::new();
    for _ in 0..2 {
        let running = program.serve(&["--port", "0"]);
        assert!(running.banner.contains("long prompts, up to 4.0 GiB in "), "{}", running.banner);
        answers.push(choices(&running.request("POST", "/v1/completions", &body)));
        #[cfg(unix)]
        {
            running.signal("TERM");
            let (code, stderr) = running.wait();
            assert_eq!(code, Some(0), "{stderr}");
            assert!(!stderr.contains("disk cache"), "{stderr}");
        }
        #[cfg(not(unix))]
        drop(running);
    }
    assert_eq!(answers[0].0, answers[1].0);
    #[cfg(unix)]
    {
        assert_eq!((answers[0].1, answers[1].1), (Some(0), Some(1472)));
        assert_eq!((shown()["entries"].as_u64(), shown()["tokens"].as_u64()), (Some(46), Some(1472)));
        assert!(shown()["place"].as_str().is_some_and(|place| place.ends_with(".cache/understudy/kv")));
        let shown = program.run(&["cache"]).stdout;
        assert!(shown.contains("entries  46\ntokens   1472\nbytes    2.9 MiB\nlimit    4.0 GiB\nplace    "), "{shown}");
    }
    let purged = program.run(&["cache", "purge"]);
    assert_eq!((purged.code, purged.stderr.as_str()), (Some(0), ""));
    assert!(purged.stdout.starts_with("deleted "), "{purged:?}");
    assert_eq!(shown()["entries"].as_u64(), Some(0));

    let off = program.serve(&["--port", "0", "--disk-cache", "off"]);
    assert!(off.banner.contains("no prompt is kept"), "{}", off.banner);
    assert_eq!(choices(&off.request("POST", "/v1/completions", &body)), answers[0]);
    drop(off);
    assert_eq!(shown()["entries"].as_u64(), Some(0));
    let elsewhere = program.run(&["cache", "--disk-cache-dir", "here", "--disk-cache", "off"]).stdout;
    assert!(elsewhere.contains("limit    off\nplace    here"), "{elsewhere}");
}
