//! The Hub, well and unwell: what is fetched, what is resumed, who gets the token, and what the user is told.

use std::path::PathBuf;
use std::time::Duration;

use understudy::hub::cache::HubCache;
use understudy::hub::encoder::EncoderSource;
use understudy::hub::progress::{Report, Silent};
use understudy::hub::{HubError, HubOptions, HubToken, ModelFile, ModelSource};

use crate::support::fake_hub::{FakeHub, Fault, REPO};
use crate::support::temp_dir::TempDir;

const NAME: &str = "repo-Q4_K_M.gguf";

/// 100,000 bytes, no two places alike for long.
fn bytes() -> Vec<u8> {
    (0..100_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn hub() -> FakeHub {
    FakeHub::start(&[(NAME, &bytes()), ("repo-Q8_0.gguf", b"eight"), ("README.md", b"text")])
}

fn options(endpoint: String, cache: &TempDir) -> HubOptions {
    HubOptions { endpoint, token: None, cache: cache.path().to_owned(), offline: false, retry_pause: Duration::ZERO }
}

fn locate(name: &str, options: &HubOptions) -> Result<PathBuf, HubError> {
    match ModelSource::parse(name)?.locate(options, &mut Silent)? {
        ModelFile::Path(path) | ModelFile::Script(path) => Ok(path),
        ModelFile::BuiltIn => panic!("{name} is no built-in model"),
    }
}

fn error(name: &str, options: &HubOptions) -> String {
    locate(name, options).expect_err("this must fail").to_string()
}

#[test]
fn a_file_is_fetched_once_and_then_needs_no_network() {
    let (hub, cache) = (hub(), TempDir::new());
    let options = options(hub.url(), &cache);
    let path = locate(REPO, &options).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), bytes());
    let asked = hub.seen().len();
    assert_eq!(locate(REPO, &options).unwrap(), path);
    assert_eq!(hub.seen().len(), asked, "a cached file needs no request");
    drop(hub);
    assert_eq!(locate("org/repo:q4_k_m", &options).unwrap(), path, "nor a hub");
    let offline = HubOptions { offline: true, ..options };
    assert_eq!(locate(REPO, &offline).unwrap(), path);
    let models = HubCache::new(cache.path()).models();
    assert_eq!((models[0].name.as_str(), models[0].bytes, models.len()), ("org/repo:Q4_K_M", 100_000, 1));
}

#[test]
fn the_cache_has_the_layout_of_the_other_tools() {
    let (hub, cache) = (hub(), TempDir::new());
    let path = locate("org/repo:q8_0", &options(hub.url(), &cache)).unwrap();
    let commit = std::fs::read_to_string(cache.path().join("models--org--repo/refs/main")).unwrap();
    assert_eq!(path, cache.path().join("models--org--repo/snapshots").join(commit).join("repo-Q8_0.gguf"));
    let blobs: Vec<_> = std::fs::read_dir(cache.path().join("models--org--repo/blobs")).unwrap().flatten().collect();
    assert!(blobs.iter().any(|blob| blob.file_name() == "etag-of-repo-Q8_0_gguf-5"), "{blobs:?}");
    #[cfg(unix)]
    assert_eq!(std::fs::read_link(&path).unwrap(), PathBuf::from("../../blobs/etag-of-repo-Q8_0_gguf-5"));
}

#[test]
fn offline_asks_nobody() {
    let (hub, cache) = (hub(), TempDir::new());
    let options = HubOptions { offline: true, ..options(hub.url(), &cache) };
    let message = error("org/repo:q8_0", &options);
    assert!(message.contains("--offline") && message.contains("understudy pull org/repo"), "{message}");
    assert_eq!(hub.seen(), []);
}

#[test]
fn no_network_says_what_to_do() {
    let cache = TempDir::new();
    // A port that was free a moment ago: nobody listens there.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let message = error(REPO, &options(format!("http://{free}"), &cache));
    for part in ["no network", "HF_ENDPOINT", "path/to/model.gguf", "built-in"] {
        assert!(message.contains(part), "{part} is missing in: {message}");
    }
}

#[test]
fn a_cut_transfer_goes_on_where_it_ended() {
    let (hub, cache) = (hub(), TempDir::new());
    hub.fault(Fault::CutAfter(30_000)).fault(Fault::Status(503)).fault(Fault::CutAfter(20_000));
    let path = locate(REPO, &options(hub.url(), &cache)).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), bytes());
    let ranges: Vec<_> = hub.seen().into_iter().filter_map(|seen| seen.range).collect();
    assert_eq!(ranges, ["bytes=0-0", "bytes=0-99999", "bytes=30000-99999", "bytes=30000-99999", "bytes=50000-99999"]);
}

#[test]
fn a_later_run_takes_up_what_an_earlier_one_left() {
    let (hub, cache) = (hub(), TempDir::new());
    let options = options(hub.url(), &cache);
    hub.fault(Fault::CutAfter(40_000));
    for _ in 0..5 {
        hub.fault(Fault::CutAfter(0));
    }
    let message = error(REPO, &options);
    assert!(message.contains("run the same command to go on"), "{message}");
    assert!(locate(REPO, &HubOptions { offline: true, ..options.clone() }).is_err(), "half a file is no file");
    let path = locate(REPO, &options).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), bytes());
    assert_eq!(hub.seen().last().unwrap().range.as_deref(), Some("bytes=40000-99999"));
}

#[test]
fn a_partial_file_that_is_whole_or_too_long_is_no_dead_end() {
    for (left, last_range) in [(bytes(), "bytes=0-0"), ([bytes(), vec![0]].concat(), "bytes=0-99999")] {
        let (hub, cache) = (hub(), TempDir::new());
        cache.write("models--org--repo/blobs/etag-of-repo-Q4_K_M_gguf-100000.part", left);
        let path = locate(REPO, &options(hub.url(), &cache)).unwrap();
        assert_eq!(std::fs::read(path).unwrap(), bytes());
        assert_eq!(hub.seen().last().unwrap().range.as_deref(), Some(last_range));
    }
}

#[test]
fn a_server_without_ranges_sends_the_whole_again() {
    let (hub, cache) = (hub(), TempDir::new());
    hub.fault(Fault::CutAfter(30_000)).fault(Fault::NoRanges);
    let path = locate(REPO, &options(hub.url(), &cache)).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), bytes());
}

#[test]
fn more_than_was_announced_is_refused() {
    let (hub, cache) = (hub(), TempDir::new());
    hub.fault(Fault::TooLong);
    let message = error(REPO, &options(hub.url(), &cache));
    assert!(message.contains("more than the 100000 bytes"), "{message}");
}

#[test]
fn the_token_goes_to_the_endpoint_and_to_nobody_else() {
    let cdn = hub();
    let (hub, cache) = (hub(), TempDir::new());
    hub.redirect_to(&cdn).ask_for("hf_secret");
    let options = HubOptions { token: Some(HubToken("hf_secret".into())), ..options(hub.url(), &cache) };
    let path = locate(REPO, &options).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), bytes());
    assert!(hub.seen().iter().all(|seen| seen.authorization.as_deref() == Some("Bearer hf_secret")));
    assert!(!cdn.seen().is_empty());
    assert!(cdn.seen().iter().all(|seen| seen.authorization.is_none()), "the token was sent to another port: {:?}", cdn.seen());
    assert!(!format!("{options:?}").contains("hf_secret"));
}

#[test]
fn a_renamed_repository_is_followed_with_the_token() {
    let (hub, cache) = (hub(), TempDir::new());
    hub.renamed_from("old/name").ask_for("t");
    let options = HubOptions { token: Some(HubToken("t".into())), ..options(hub.url(), &cache) };
    assert_eq!(std::fs::read(locate("old/name:q8_0", &options).unwrap()).unwrap(), b"eight");
}

#[test]
fn refusals_say_what_to_do() {
    let (hub, cache) = (hub(), TempDir::new());
    let options = options(hub.url(), &cache);
    assert!(error("org/other", &options).contains("no such repository"));
    let message = error("org/repo:Q5_K_M", &options);
    assert!(message.ends_with("there are: Q4_K_M, Q8_0"), "{message}");
    hub.ask_for("t");
    let message = error(REPO, &options);
    assert!(message.contains("(401)") && message.contains("set HF_TOKEN"), "{message}");
    let wrong = HubOptions { token: Some(HubToken("wrong".into())), ..options };
    assert!(error(REPO, &wrong).contains("HF_TOKEN is not valid"), "a token was sent");
}

#[test]
fn a_hub_with_hiccups_is_asked_again() {
    let (hub, cache) = (hub(), TempDir::new());
    let options = options(hub.url(), &cache);
    hub.info_fault(Fault::Status(500)).info_fault(Fault::Status(429)).info_fault(Fault::Status(502));
    hub.probe_fault(Fault::Status(503)).probe_fault(Fault::Status(429));
    hub.fault(Fault::Status(429)).fault(Fault::Status(500));
    locate(REPO, &options).unwrap();
    let other = TempDir::new();
    let elsewhere = HubOptions { cache: other.path().to_owned(), ..options };
    for _ in 0..5 {
        hub.info_fault(Fault::Status(500));
    }
    let message = error(REPO, &elsewhere);
    assert!(message.contains("answers 500"), "{message}");
    for _ in 0..5 {
        hub.probe_fault(Fault::Status(429));
    }
    let message = error(REPO, &elsewhere);
    assert!(message.contains("answers 429"), "{message}");
}

#[test]
fn all_shards_come_and_the_first_is_named() {
    let names = ["m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf"];
    let hub = FakeHub::start(&[(names[0], b"one"), (names[1], b"two")]);
    let cache = TempDir::new();
    let options = options(hub.url(), &cache);
    let first = locate(REPO, &options).unwrap();
    assert!(first.ends_with(names[0]));
    assert_eq!(std::fs::read(first.with_file_name(names[1])).unwrap(), b"two");
    std::fs::remove_file(first.with_file_name(names[1])).unwrap();
    assert!(locate(REPO, &HubOptions { offline: true, ..options }).is_err(), "half a model is no model");
}

#[test]
fn a_repository_that_moved_on_hides_nothing_that_is_whole() {
    let names = ["m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf"];
    let hub = FakeHub::start(&[(names[0], b"one"), (names[1], b"two")]);
    let cache = TempDir::new();
    let options = options(hub.url(), &cache);
    let offline = HubOptions { offline: true, ..options.clone() };
    let old = locate(REPO, &options).unwrap();
    hub.commit(&[(names[0], b"one"), (names[1], b"newer")]);
    for _ in 0..5 {
        hub.fault(Fault::Status(503));
    }
    let pull = || ModelSource::parse(REPO).unwrap().pull(&options, &mut Silent);
    pull().expect_err("the second part does not come");
    assert_eq!(locate(REPO, &offline).unwrap(), old, "the new commit has one part of two");
    let new = pull().unwrap();
    assert_eq!(ModelFile::Path(locate(REPO, &offline).unwrap()), new);
    assert_ne!(new, ModelFile::Path(old));
    let models = HubCache::new(cache.path()).models();
    assert_eq!((models[0].name.as_str(), models[0].bytes, models.len()), ("org/repo:Q8_0", 8, 1));
}

#[test]
fn files_of_different_commits_are_all_at_hand() {
    let (hub, cache) = (hub(), TempDir::new());
    let options = options(hub.url(), &cache);
    let offline = HubOptions { offline: true, ..options.clone() };
    let four = locate("org/repo:Q4_K_M", &options).unwrap();
    hub.commit(&[("repo-Q8_0.gguf", b"eight")]);
    let eight = locate("org/repo:Q8_0", &options).unwrap();
    assert_eq!(locate("org/repo:Q4_K_M", &offline).unwrap(), four);
    assert_eq!(locate("org/repo:Q8_0", &offline).unwrap(), eight);
    assert_eq!(locate(REPO, &offline).unwrap(), eight, "what main means is preferred");
    let models = HubCache::new(cache.path()).models();
    let names: Vec<&str> = models.iter().map(|model| model.name.as_str()).collect();
    assert_eq!(names, ["org/repo:Q4_K_M", "org/repo:Q8_0"]);
}

#[test]
fn what_is_listed_can_be_typed() {
    let hub = FakeHub::start(&[("a-Q8_0.gguf", b"a"), ("b-Q8_0.gguf", b"bb"), ("c-Q4_0.gguf", b"ccc")]);
    let cache = TempDir::new();
    let options = options(hub.url(), &cache);
    for name in ["org/repo:a-Q8_0.gguf", "org/repo:b-Q8_0.gguf", "org/repo:q4_0"] {
        locate(name, &options).unwrap();
    }
    let offline = HubOptions { offline: true, ..options };
    let models = HubCache::new(cache.path()).models();
    let names: Vec<&str> = models.iter().map(|model| model.name.as_str()).collect();
    assert_eq!(names, ["org/repo:Q4_0", "org/repo:a-Q8_0.gguf", "org/repo:b-Q8_0.gguf"]);
    for model in &models {
        assert_eq!(locate(&model.name, &offline).unwrap(), model.path, "{}", model.name);
    }
}

#[test]
fn offline_the_error_lists_what_the_cache_has() {
    let hub = FakeHub::start(&[("m-Q8_0.gguf", b"eight"), ("m-Q2_K.gguf", b"two"), ("m-Q4_K_M.gguf", b"four")]);
    let cache = TempDir::new();
    let options = options(hub.url(), &cache);
    locate("org/repo:Q8_0", &options).unwrap();
    hub.commit(&[("m-Q2_K.gguf", b"two"), ("m-Q4_K_M.gguf", b"four")]);
    locate("org/repo:Q2_K", &options).unwrap();
    let offline = HubOptions { offline: true, ..options.clone() };
    let message = error("org/repo:Q4_K_M", &offline);
    assert!(message.contains("the cache has models of org/repo") && message.contains("--offline"), "{message}");
    assert!(message.ends_with("no file for \"Q4_K_M\"; there are: Q2_K, Q8_0"), "{message}");
    assert!(locate("org/repo:Q4_K_M", &options).unwrap().ends_with("m-Q4_K_M.gguf"), "online it is fetched");
}

#[cfg(unix)]
#[test]
fn without_a_ref_the_snapshot_that_changed_last_comes_first() {
    let cache = TempDir::new();
    for (commit, changed_s) in [("a", 1_000), ("b", 3_000), ("c", 2_000)] {
        let file = cache.write(&format!("models--org--repo/snapshots/{commit}/m-Q8_0.gguf"), commit);
        let folder = std::fs::File::open(file.parent().unwrap()).unwrap();
        folder.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(changed_s)).unwrap();
    }
    let offline = HubOptions { offline: true, ..options("http://127.0.0.1:9".to_owned(), &cache) };
    assert_eq!(std::fs::read(locate(REPO, &offline).unwrap()).unwrap(), b"b");
    cache.write("models--org--repo/refs/main", "c\n");
    assert_eq!(std::fs::read(locate(REPO, &offline).unwrap()).unwrap(), b"c");
}

#[test]
fn all_files_of_a_pull_are_of_one_commit() {
    let (hub, cache) = (hub(), TempDir::new());
    locate(REPO, &options(hub.url(), &cache)).unwrap();
    let commit = std::fs::read_to_string(cache.path().join("models--org--repo/refs/main")).unwrap();
    let files: Vec<_> = hub.seen().into_iter().filter(|seen| seen.range.is_some()).collect();
    assert!(files.iter().all(|seen| seen.path == format!("/{REPO}/resolve/{commit}/{NAME}")), "{files:?}");
}

#[test]
fn progress_counts_what_was_there() {
    #[derive(Default)]
    struct Heard(Vec<(u64, u64)>, u64, usize);
    impl Report for Heard {
        fn start(&mut self, _name: &str, done: u64, total: u64) {
            self.0.push((done, total));
        }
        fn reached(&mut self, done: u64) {
            assert!(done > self.1, "progress goes forward");
            self.1 = done;
        }
        fn finish(&mut self) {}
        fn note(&mut self, _message: &str) {
            self.2 += 1;
        }
    }
    let (hub, cache) = (hub(), TempDir::new());
    cache.write("models--org--repo/blobs/etag-of-repo-Q4_K_M_gguf-100000.part", &bytes()[..60_000]);
    hub.fault(Fault::CutAfter(10_000));
    let mut heard = Heard::default();
    ModelSource::parse(REPO).unwrap().locate(&options(hub.url(), &cache), &mut heard).unwrap();
    assert_eq!((heard.0.as_slice(), heard.1, heard.2), ([(60_000, 100_000)].as_slice(), 100_000, 1));
}

#[test]
fn pull_asks_for_the_newest() {
    let (hub, cache) = (hub(), TempDir::new());
    let options = options(hub.url(), &cache);
    locate(REPO, &options).unwrap();
    let asked = hub.seen().len();
    ModelSource::parse(REPO).unwrap().pull(&options, &mut Silent).unwrap();
    assert!(hub.seen().len() > asked);
    assert!(hub.seen()[asked..].iter().all(|seen| seen.range.as_deref() != Some("bytes=0-99999")), "what is there is not fetched again");
}

/// A repository with the files of an encoder, as sentence-transformers has them.
fn encoder_hub() -> FakeHub {
    let files: [(&str, &[u8]); 6] = [
        ("1_Pooling/config.json", b"pooling"),
        ("README.md", b"text"),
        ("config.json", b"config"),
        ("model.safetensors", b"weights"),
        ("pytorch_model.bin", b"more weights"),
        ("tokenizer.json", b"tokenizer"),
    ];
    FakeHub::start(&files)
}

#[test]
fn an_encoder_is_a_folder_of_files_and_then_needs_no_network() {
    let (hub, cache) = (encoder_hub(), TempDir::new());
    let options = options(hub.url(), &cache);
    let source = EncoderSource::parse(REPO).unwrap();
    let folder = source.locate(&options, &mut Silent).unwrap();
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    assert_eq!(
        ["config.json", "model.safetensors", "tokenizer.json", "1_Pooling/config.json"].map(read),
        ["config", "weights", "tokenizer", "pooling"]
    );
    assert!(!folder.join("pytorch_model.bin").exists(), "the same weights once more are left there");
    let asked = hub.seen().len();
    assert_eq!(source.locate(&options, &mut Silent).unwrap(), folder);
    let offline = HubOptions { offline: true, ..options };
    assert_eq!(source.locate(&offline, &mut Silent).unwrap(), folder);
    assert_eq!(hub.seen().len(), asked, "what is there whole needs no request");
}

#[test]
fn an_encoder_that_is_not_there_is_a_gguf_or_an_error() {
    let (hub, cache) = (hub(), TempDir::new());
    let of = |name: &str, offline: bool| {
        let options = HubOptions { offline, ..options(hub.url(), &cache) };
        EncoderSource::parse(name).unwrap().locate(&options, &mut Silent).map_err(|error| error.to_string())
    };
    assert!(of(REPO, true).unwrap_err().contains("--offline"));
    assert!(of("org/repo:q8_0", false).unwrap().ends_with("repo-Q8_0.gguf"));
    assert!(of(REPO, false).unwrap().ends_with("repo-Q8_0.gguf"), "a repository without an encoder's files: a GGUF, the cached one first");
    assert!(EncoderSource::parse("builtin").is_err());
    assert!(of("./nowhere", false).unwrap_err().contains("./nowhere"));
}
