//! The binary as scripts rely on it: options and where they come from, exit codes, what stands on which stream, how it stops.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;

use kernels::GgmlType;
use models::Family;
use models::gguf::Array;
use models::testing::random_model::{Mix, RandomModel};
use models::testing::tiny_encoder::{HIDDEN, TinyEncoder};
use understudy::hub::builtin;

use crate::support::fake_hub::FakeHub;
use crate::support::program::{Ended, Program, Running, Stderr};

/// One line on stderr that begins with our name, nothing on stdout.
#[track_caller]
fn refused(ended: &Ended, code: i32, parts: &[&str]) {
    assert_eq!(ended.code, Some(code), "{ended:?}");
    assert_eq!(ended.stdout, "", "stdout is for results");
    let line = ended.stderr.trim_end();
    assert!(line.starts_with("understudy: ") && !line.contains('\n'), "not one line: {line}");
    for part in parts {
        assert!(line.contains(part), "{part:?} is missing in: {line}");
    }
    // An error that says what lies below it, printed with what lies below it, says it twice.
    let said: Vec<&str> = line.split(": ").collect();
    let twice = said.iter().enumerate().find(|(at, part)| said[at + 1..].contains(part));
    assert_eq!(twice, None, "said twice: {line}");
}

#[test]
fn usage_errors_exit_with_2_and_name_the_source() {
    let program = Program::new();
    refused(&program.run(&["--port", "abc"]), 2, &["--port: \"abc\" is not a port"]);
    refused(&Program::new().env("UNDERSTUDY_PORT", "abc").run(&[]), 2, &["UNDERSTUDY_PORT: \"abc\" is not a port"]);
    let file = Program::new().config("# mine\n\nprot = 1\n");
    refused(&file.run(&["serve"]), 2, &["understudy.toml line 3: unknown key \"prot\", did you mean \"port\"?"]);
    refused(&program.run(&["--config", "gone.toml"]), 2, &["--config: gone.toml"]);
    refused(&program.run(&["--host", "0.0.0.0"]), 2, &["--host: 0.0.0.0", "--api-key-file", "--unsafe-no-key"]);
    refused(&program.run(&["--log-level", "shout=loud=twice"]), 2, &["--log-level"]);
    for (option, most) in [("--queue", "65536"), ("--threads", "1024"), ("--parallel", "512")] {
        let ended = program.run(&["--port", "0", option, "18446744073709551615"]);
        refused(&ended, 2, &[option, "\"18446744073709551615\" is not a number from", most]);
    }
    refused(&program.run(&["--offline", "models"]), 2, &["options go after the command: understudy models"]);
    let unknown = program.run(&["--prot", "1"]);
    assert_eq!(unknown.code, Some(2));
    assert!(unknown.stderr.contains("--port"), "clap suggests: {}", unknown.stderr);
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_no_text_opens_no_door() {
    use std::os::unix::ffi::OsStrExt;
    let program = Program::new();
    for name in ["UNDERSTUDY_API_KEY", "UNDERSTUDY_API_KEY_FILE", "UNDERSTUDY_CONFIG", "UNDERSTUDY_PORT"] {
        // A budget that holds no model: a program that takes the value would not stay.
        let mut command = program.command(&["--port", "0", "--memory", "1M"]);
        command.env(name, std::ffi::OsStr::from_bytes(b"secret\xff")).stdin(std::process::Stdio::null());
        let ended = Ended::of(command.output().unwrap());
        refused(&ended, 2, &[name, "is not valid UTF-8"]);
        assert!(!ended.stderr.contains("secret"));
    }
    for name in ["UNDERSTUDY_API_KEY", "UNDERSTUDY_API_KEY_FILE"] {
        refused(&Program::new().env(name, "").run(&["--port", "0", "--memory", "1M"]), 2, &[name, "is empty"]);
    }
}

#[test]
fn precedence_seen_from_outside() {
    let told = |args: &[&str]| {
        let program = Program::new().env("UNDERSTUDY_LOG_FORMAT", "json").env("UNDERSTUDY_PARALLEL", "3");
        let running = program.config("parallel = 2\ncontext = 2048\nport = 0\n").serve(args);
        let line: serde_json::Value = serde_json::from_str(&running.banner).expect("one line of JSON");
        (line["parallel"].as_u64().unwrap(), line["context"].as_u64().unwrap())
    };
    assert_eq!(told(&[]), (3, 2048), "the environment beats the file, the file the default");
    assert_eq!(told(&["--parallel", "5"]), (5, 2048), "a flag beats both");
}

#[test]
fn port_0_is_printed_and_answers() {
    let running = Program::new().serve(&["--port", "0"]);
    assert!(!running.address.ends_with(":0") && running.address.starts_with("127.0.0.1:"), "{}", running.address);
    for part in ["model ", builtin::NAME, "context ", "memory ", "weights"] {
        assert!(running.banner.contains(part), "{part:?} is missing in: {}", running.banner);
    }
    assert!(running.request("GET", "/readyz", "").starts_with("HTTP/1.1 200"));
    let models = running.request("GET", "/v1/models", "");
    assert!(models.contains(&format!("\"id\":\"{}\"", builtin::NAME)), "{models}");
    let body = r#"{"messages":[{"role":"user","content":"Who are you?"}],"max_tokens":8}"#;
    let answer = running.request("POST", "/v1/chat/completions", body);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"finish_reason\""), "{answer}");
}

#[test]
fn a_taken_port_is_told_before_anything_is_loaded() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let ended = Program::new().run(&["no/such/model.gguf", "--port", &port]);
    refused(&ended, 1, &[&port, "cannot listen on", "take another --port"]);
}

#[test]
fn keys_are_asked_for() {
    let program = Program::new();
    program.home.write("keys", "# ours\nfirst-key\n");
    let running = program.serve(&["--port", "0", "--api-key-file", "keys"]);
    assert!(!running.banner.contains("first-key"));
    assert!(running.request("GET", "/v1/models", "").starts_with("HTTP/1.1 401"));
    assert!(running.request("GET", "/livez", "").starts_with("HTTP/1.1 200"), "health needs no key");
}

#[test]
fn bad_models_exit_with_1_and_say_which() {
    let program = Program::new();
    let serve = |path: &std::path::Path| program.run(&["serve", path.to_str().unwrap(), "--port", "0"]);
    let gone = program.run(&["gone.gguf", "--port", "0"]);
    refused(&gone, 1, &["gone.gguf"]);
    assert_eq!(gone.stderr.matches("No such file").count(), 1, "{}", gone.stderr);
    refused(&program.run(&["sevre", "--port", "0"]), 1, &["\"sevre\"", "org/repo"]);
    refused(&serve(program.home.path()), 1, &["is a folder"]);
    let bytes = builtin::bytes();
    let whole = bytes.as_slice();
    let half = program.home.write("half.gguf", &whole[..whole.len() / 2]);
    refused(&serve(&half), 1, &["half.gguf"]);
    let header = program.home.write("header.gguf", &whole[..20]);
    refused(&serve(&header), 1, &["header.gguf"]);
    let empty = program.home.write("empty.gguf", b"");
    refused(&serve(&empty), 1, &["empty.gguf"]);
    let magic = program.home.write("magic.gguf", [b"GGML", &whole[4..]].concat());
    refused(&serve(&magic), 1, &["magic.gguf"]);
    let at = whole.windows(5).position(|window| window == b"qwen3").expect("the built-in model's architecture");
    let unknown = program.home.write("unknown.gguf", [&whole[..at], b"gronk", &whole[at + 5..]].concat());
    refused(&serve(&unknown), 1, &["unknown.gguf", "gronk", "qwen3"]);
}

#[test]
fn a_tokenizer_larger_than_the_embedding_is_refused() {
    let mut writer = RandomModel::tiny(Family::Qwen3, Mix::All(GgmlType::Q8_0), 1).writer();
    let whole = models::testing::tiny(Family::Qwen3, 1, GgmlType::Q8_0);
    let array = |key: &str| whole.require::<&Array>(key).unwrap();
    let names = array("tokenizer.ggml.tokens").strings().map(|name| String::from_utf8(name.to_vec()).unwrap());
    let kinds = array("tokenizer.ggml.token_type").to_i64s().unwrap().into_iter().map(|kind| kind as i32);
    writer.set("tokenizer.ggml.tokens", names.chain(["surplus".to_owned()]).collect::<Vec<_>>());
    writer.set("tokenizer.ggml.token_type", kinds.chain([1]).collect::<Vec<_>>());
    let program = Program::new();
    let path = program.home.write("surplus.gguf", writer.to_bytes());
    let ended = program.run(&["serve", path.to_str().unwrap(), "--port", "0"]);
    refused(&ended, 1, &["surplus.gguf: ", "the tokenizer has 321 tokens and the embedding 320 rows"]);
}

#[test]
fn too_little_memory_is_refused_with_numbers() {
    let program = Program::new();
    refused(&program.run(&["--port", "0", "--memory", "1M"]), 1, &["weights", "the budget is 1.0 MiB (--memory)", "raise --memory"]);
    refused(&program.run(&["--port", "0", "--context", "10000k"]), 1, &["--context: 10240000 is more than"]);
    let most = program.run(&["--port", "0", "--memory", "40M", "--context", "64k"]);
    refused(&most, 1, &["a context of 65536 tokens needs", "at most --context"]);
}

#[test]
fn a_draft_model_is_counted_told_and_answers_the_same() {
    let body = r#"{"prompt":"fn main() {","max_tokens":60,"ignore_eos":true,"temperature":0.7,"seed":3,"logprobs":2}"#;
    let answer = |running: &Running| {
        let reply = running.request("POST", "/v1/completions", body);
        let json: serde_json::Value = serde_json::from_str(reply.split("\r\n\r\n").nth(1).unwrap()).expect("a reply in JSON");
        json["choices"].clone()
    };
    let without = Program::new().serve(&["--port", "0", "--drafts", "0"]);
    let with = Program::new().serve(&["--port", "0", "--draft-model", "builtin"]);
    for part in [" draft model; budget", "drafts   understudy-mini, 4.4 MiB: ", " tokens) + "] {
        assert!(with.banner.contains(part), "{part:?} is missing in: {}", with.banner);
    }
    assert!(!without.banner.contains("drafts ") && !without.banner.contains("draft model"), "{}", without.banner);
    let expected = answer(&without);
    assert!(expected[0]["logprobs"]["token_logprobs"].as_array().is_some_and(|all| all.len() == 60), "{expected}");
    assert_eq!(answer(&with), expected);
    let metrics = with.request("GET", "/metrics", "");
    let names = ["understudy:draft_model_tokens_total{", "understudy:draft_model_accepted_tokens_total{"];
    for name in names.into_iter().chain(["understudy:draft_model_computed_tokens_total{"]) {
        assert!(metrics.contains(name), "{name} is missing in: {metrics}");
    }
}

#[test]
fn a_draft_model_that_cannot_be_one_is_refused_with_numbers() {
    let program = Program::new();
    let write = |name: &str, model: RandomModel| program.home.write(name, model.writer().to_bytes()).to_str().unwrap().to_owned();
    let stranger = write("stranger.gguf", RandomModel::tiny(Family::Qwen2, Mix::All(GgmlType::Q8_0), 1));
    let ended = program.run(&["--port", "0", "--draft-model", &stranger]);
    refused(
        &ended,
        1,
        &[
            "--draft-model: ",
            "stranger.gguf cannot guess for the built-in model, their vocabularies are not the same: ",
            " and 320 tokens are",
        ],
    );
    let large = write("large.gguf", RandomModel::small(Family::Qwen2, Mix::All(GgmlType::F32), 1));
    let ended = program.run(&["--port", "0", "--memory", "40M", "--draft-model", &large]);
    refused(&ended, 1, &["--draft-model: the draft model needs ", "the budget of 40.0 MiB (--memory)", "leave it out"]);
    refused(&program.run(&["--port", "0", "--draft-model", "gone.gguf"]), 1, &["--draft-model: ", "gone.gguf"]);
    let contradiction = program.run(&["--port", "0", "--draft-model", &stranger, "--drafts", "0"]);
    refused(&contradiction, 2, &["--draft-model: nothing is guessed where drafts is 0"]);
}

#[test]
fn what_cannot_be_used_is_blamed_on_where_it_was_told() {
    let told = |name: &str, value: &str| Program::new().env(name, value).run(&["--port", "0"]);
    refused(&told("UNDERSTUDY_DEVICE", "cuda"), 1, &["understudy: UNDERSTUDY_DEVICE: ", "--features cuda"]);
    refused(&told("UNDERSTUDY_LOG_LEVEL", "shout=loud=twice"), 2, &["understudy: UNDERSTUDY_LOG_LEVEL: "]);
    refused(&told("UNDERSTUDY_MODEL", "sevre"), 1, &["understudy: UNDERSTUDY_MODEL: ", "\"sevre\""]);
    refused(&told("UNDERSTUDY_CONTEXT", "10000k"), 1, &["UNDERSTUDY_CONTEXT: 10240000 is more than"]);
    refused(&told("UNDERSTUDY_MEMORY", "1M"), 1, &["the budget is 1.0 MiB (UNDERSTUDY_MEMORY)"]);
    let file = Program::new().config("port = 0\nmemory = \"40M\"\ncontext = \"64k\"\n");
    let parts = ["understudy.toml line 3: context: a context of 65536", "40.0 MiB (understudy.toml line 2: memory)"];
    refused(&file.run(&[]), 1, &parts);
    refused(&Program::new().config("model = \"sevre\"\n").run(&["pull", "sevre"]), 1, &["understudy: MODEL: "]);
}

#[test]
fn an_absent_device_names_the_feature() {
    refused(&Program::new().run(&["--port", "0", "--device", "cuda"]), 1, &["--features cuda"]);
    refused(&Program::new().run(&["--port", "0", "--device", "metal"]), 1, &["--features metal"]);
    refused(&Program::new().run(&["--port", "0", "--device", "abacus"]), 2, &["--device", "abacus"]);
}

#[test]
fn an_unknown_instruction_set_is_refused_before_anything_is_loaded() {
    let ended = Program::new().env("UNDERSTUDY_ISA", "sse9").run(&["gone.gguf", "--port", "0"]);
    refused(&ended, 2, &["UNDERSTUDY_ISA=\"sse9\" is none of scalar, avx2, avxvnni, avx512, neon, i8mm"]);
}

#[cfg(unix)]
#[test]
fn a_signal_lets_running_requests_finish() {
    for name in ["TERM", "INT"] {
        let running = Program::new().serve(&["--port", "0"]);
        let body = r#"{"prompt":"fn main() {","max_tokens":400,"ignore_eos":true,"temperature":0,"stream":true}"#;
        let mut answer = BufReader::new(running.open("POST", "/v1/completions", body));
        let mut line = String::new();
        while !line.starts_with("data:") {
            line.clear();
            assert!(answer.read_line(&mut line).unwrap() > 0, "the stream begins");
        }
        running.signal(name);
        let mut rest = String::new();
        answer.read_to_string(&mut rest).unwrap();
        assert!(rest.contains("data: [DONE]") && rest.contains("\"finish_reason\":\"length\""), "SIG{name} cut the stream: ...{rest}");
        let (code, stderr) = running.wait();
        assert_eq!(code, Some(0), "{stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
        assert!(stderr.trim_end().ends_with("stopped"), "the last line comes out: {stderr}");
    }
}

#[cfg(unix)]
#[test]
fn a_second_signal_stops_at_once() {
    // As long as nobody reads the log, too: the end waits for its last lines, and not for ever.
    for errors in [Stderr::Read, Stderr::Unread] {
        let running = Program::new().serve_with(&["--port", "0"], errors);
        let body = r#"{"prompt":"fn main() {","max_tokens":4000,"n":8,"ignore_eos":true,"stream":true}"#;
        let mut answer = BufReader::new(running.open("POST", "/v1/completions", body));
        answer.read_line(&mut String::new()).unwrap();
        running.signal("TERM");
        while !running.request("GET", "/readyz", "").starts_with("HTTP/1.1 503") {}
        running.signal("TERM");
        assert_eq!(running.wait().0, Some(130));
    }
}

/// Bad requests are refused, good ones answered and streamed, and a signal ends it well, whatever becomes of the log.
#[track_caller]
fn check_serves_to_the_end(running: Running, bad_requests: usize) {
    for _ in 0..bad_requests {
        let answer = running.request("POST", "/v1/chat/completions", "{");
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    let message = r#""messages":[{"role":"user","content":"Who are you?"}],"max_tokens":8"#;
    let whole = running.request("POST", "/v1/chat/completions", &format!("{{{message}}}"));
    assert!(whole.starts_with("HTTP/1.1 200") && whole.contains("\"finish_reason\""), "{whole}");
    let streamed = running.request("POST", "/v1/chat/completions", &format!("{{{message},\"stream\":true}}"));
    assert!(streamed.starts_with("HTTP/1.1 200") && streamed.contains("data: [DONE]"), "{streamed}");
    #[cfg(unix)]
    {
        running.signal("TERM");
        assert_eq!(running.wait().0, Some(0));
    }
}

#[test]
fn a_log_that_cannot_be_written_changes_no_reply() {
    let (reader, closed) = std::io::pipe().unwrap();
    drop(reader);
    // A full disk, where the system can play one.
    let full = File::options().write(true).open("/dev/full").ok().map(Stdio::from);
    for broken in [Some(Stdio::from(closed)), full].into_iter().flatten() {
        check_serves_to_the_end(Program::new().serve_with(&["--port", "0"], Stderr::Into(broken)), 3);
    }
}

#[test]
fn a_log_that_nobody_reads_changes_no_reply() {
    // A line of some 200 bytes each: more than the 64 KiB that a pipe holds.
    check_serves_to_the_end(Program::new().serve_with(&["--port", "0"], Stderr::Unread), 500);
}

#[cfg(unix)]
#[test]
fn the_log_tells_what_a_request_took_and_not_a_word_of_it() {
    let running = Program::new().serve(&["--port", "0", "--log-format", "json", "--log-level", "debug"]);
    for stream in [false, true] {
        let body = format!(r#"{{"prompt":"the secret recipe","max_tokens":5,"ignore_eos":true,"stream":{stream}}}"#);
        let answer = running.request("POST", "/v1/completions", &body);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    running.signal("TERM");
    let (_, stderr) = running.wait();
    assert!(!stderr.contains("secret"), "{stderr}");
    let lines: Vec<serde_json::Value> = stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let requests: Vec<_> = lines.iter().map(|line| &line["fields"]).filter(|fields| fields["total_ms"].is_u64()).collect();
    assert_eq!(requests.len(), 2, "{stderr}");
    for request in requests {
        for name in ["queue_ms", "prefill_ms", "decode_ms", "ttft_ms", "prompt_tokens", "cached_tokens"] {
            assert!(request[name].is_u64(), "{name}: {request}");
        }
        assert_eq!((&request["completion_tokens"], &request["message"]), (&5.into(), &"completed".into()));
    }
}

#[test]
fn chat_answers_each_line_of_a_pipe() {
    let ended = Program::new()
        .run_with_input(&["chat", "--max-tokens", "8", "--temperature", "0"], "Who are you?\n\nWho are you?\n/exit\nunheard\n");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!ended.stdout.trim().is_empty());
    let again = Program::new().run_with_input(&["chat", "--max-tokens", "8", "--temperature", "0"], "Who are you?\n/clear\nWho are you?");
    let lines: Vec<&str> = again.stdout.lines().collect();
    assert_eq!(lines[0], lines[lines.len() / 2], "after /clear the same question has the same answer: {again:?}");
}

#[test]
fn chat_refuses_a_temperature_that_no_request_may_have() {
    for temperature in ["nan", "-1", "inf"] {
        let ended = Program::new().run_with_input(&["chat", "--temperature", temperature], "Who are you?\n");
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{ended:?}");
        assert!(ended.stderr.contains("--temperature") && ended.stderr.contains("from 0 to 2"), "{ended:?}");
    }
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_a_chat_on_a_pipe() {
    use std::os::unix::process::ExitStatusExt;
    // In the middle of an answer, and after one, where the next line is awaited.
    for (tokens_max, heard) in [("400", 1), ("1", usize::MAX)] {
        let program = Program::new();
        let args = ["chat", "--temperature", "0", "--max-tokens", tokens_max];
        let mut child = program.command(&args).stdin(std::process::Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdin.write_all(b"How do I use a real model?\n").unwrap();
        let mut answer = String::new();
        while answer.len() < heard && !answer.ends_with('\n') {
            let mut byte = [0];
            stdout.read_exact(&mut byte).unwrap();
            answer.push(char::from(byte[0]));
        }
        let status = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        assert!(status.success());
        // A program that goes on would wait for a line, and end well when none can come any more.
        let (ended, ends) = std::sync::mpsc::channel::<()>();
        let patience = std::thread::spawn(move || {
            let _ = ends.recv_timeout(std::time::Duration::from_secs(30));
            drop(stdin);
        });
        // Shells report 128 + 2.
        assert_eq!(child.wait().unwrap().signal(), Some(2), "after {answer:?}");
        drop(ended);
        patience.join().unwrap();
    }
}

#[test]
fn models_are_listed_and_pulled() {
    let hub = FakeHub::start(&[("m-Q8_0.gguf", builtin::bytes().as_slice())]);
    let program = Program::new().env("HF_ENDPOINT", &hub.url());
    let pulled = program.run(&["pull", "org/repo:q8_0"]);
    assert_eq!(pulled.code, Some(0), "{pulled:?}");
    assert!(std::path::Path::new(pulled.stdout.trim()).is_file(), "the path is the result: {pulled:?}");
    assert!(pulled.stderr.contains("m-Q8_0.gguf") && !pulled.stderr.contains('\r'), "plain lines where there is no terminal: {pulled:?}");
    drop(hub);
    let listed = program.run(&["models", "--json"]);
    let rows: serde_json::Value = serde_json::from_str(&listed.stdout).expect("JSON");
    assert_eq!(rows[0]["name"], "builtin");
    assert_eq!(rows[1]["name"], "org/repo:Q8_0");
    assert_eq!(rows[1]["bytes"].as_u64(), Some(builtin::len()));
    let running = program.serve(&["org/repo", "--port", "0", "--offline"]);
    assert!(running.banner.contains("org/repo"), "{}", running.banner);
    refused(&program.run(&["org/other", "--port", "0", "--offline"]), 1, &["--offline", "understudy pull org/other"]);
    refused(&program.run(&["org/repo:Q4_0", "--port", "0", "--offline"]), 1, &["--offline", "there are: Q8_0"]);
}

#[test]
fn no_network_is_said_in_one_line() {
    let program = Program::new().env("HF_ENDPOINT", "http://127.0.0.1:9");
    let ended = program.run(&["pull", "org/repo"]);
    refused(&ended, 1, &["no network", "HF_ENDPOINT"]);
    assert_eq!(ended.stderr.matches("no network: ").count(), 1, "{}", ended.stderr);
}

#[test]
fn help_and_version_are_results() {
    let program = Program::new();
    for args in [["--help"].as_slice(), &["--version"], &["version"], &["serve", "--help"]] {
        let ended = program.run(args);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{args:?}");
        assert!(ended.stdout.to_lowercase().contains("understudy"), "{args:?}: {}", ended.stdout);
    }
}

#[cfg(unix)]
#[test]
fn a_reader_that_goes_away_is_no_error() {
    let program = Program::new();
    let script = format!("{} models --json | true; exit ${{PIPESTATUS[0]}}", env!("CARGO_BIN_EXE_understudy"));
    let output = std::process::Command::new("bash").args(["-c", &script]).env("HOME", program.home.path()).output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}

#[test]
fn misspelt_variables_are_mentioned_and_colour_is_not_for_pipes() {
    let ended = Program::new().env("UNDERSTUDY_PROT", "1").run(&["models"]);
    assert_eq!(ended.code, Some(0));
    assert!(ended.stderr.contains("UNDERSTUDY_PROT: no such setting, did you mean UNDERSTUDY_PORT?"), "{}", ended.stderr);
    assert!(!ended.stderr.contains('\u{1b}'), "escape codes in a pipe: {:?}", ended.stderr);
}

#[test]
fn embeddings_come_from_the_model_that_was_named_else_from_the_chat_model() {
    let program = Program::new();
    let folder = program.home.path().join("encoder");
    std::fs::create_dir_all(&folder).expect("a folder");
    let encoder = TinyEncoder::bert(1);
    encoder.save(&folder);
    program.home.write("encoder.gguf", encoder.gguf(1).to_bytes());
    let body = r#"{"input": "hello world", "encoding_format": "base64"}"#;
    let of = |args: &[&str], model: &str| {
        let server = program.serve(&[&["--port", "0", "--disk-cache", "off"], args].concat());
        let answer = server.request("POST", "/v1/embeddings", body);
        assert!(answer.contains(&format!("\"model\":{model:?}")), "{answer}");
        let (_, vector) = answer.split_once("\"embedding\":\"").expect("a vector");
        vector.split('"').next().expect("its end").to_owned()
    };
    let vector = of(&["--embedding-model", "./encoder"], "encoder");
    assert_eq!(of(&["--embedding-model", "encoder.gguf"], "encoder"), vector, "the same weights in another file");
    assert_eq!(vector.len(), (HIDDEN * 4).div_ceil(3) * 4);
    assert_ne!(of(&[], builtin::NAME), vector);
    refused(&program.run(&["--port", "0", "--embedding-model", "./nowhere"]), 1, &["--embedding-model", "./nowhere"]);
    std::fs::write(folder.join("config.json"), r#"{"model_type": "t5"}"#).expect("a folder");
    refused(
        &program.run(&["--port", "0", "--embedding-model", "./encoder"]),
        1,
        &["config.json", "\"model_type\" is \"t5\"; this build knows bert"],
    );
}
