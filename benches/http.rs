//! What HTTP and the dialects cost beside the engine: CPU per request and per token, memory per open stream. Printed with the bars
//! beside, never asserted. Linux alone tells the time of a thread so exactly.
//!
//!     cargo bench --bench http -- [--requests N] [--streams N] [--at-once N] [--only chat,completions,messages,responses,memory]
//!
//! The program serves a scripted model that takes no time. What its threads were on a core for is read from `/proc`: all of them while
//! clients ask, less what the engine's thread takes for the same prompts and replies when nobody but a loop in this process asks it. So
//! all is counted that is not the engine: reading and parsing, template and tokenizer, tokens to text and to events, JSON, sockets, the
//! log, and what the engine spends on waking others. A reply of one token and one of many give the costs of a request and of a token.
//! The floor is what the same clients cost a handler that answers a constant. User and system are of the whole process, engine included, in the
//! system's ticks of 10 ms.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use models::{Gguf, Tokenizer};
use serde_json::{Map, Value, json};
use understudy::api::openai_models::ModelCard;
use understudy::chat::output::Flow;
use understudy::chat::prepare::{Job, Surroundings, TextModel};
use understudy::chat::{Conversation, Message, Prompt, Request, Role, SamplingDefaults};
use understudy::engine::{Engine, EngineConfig, GenerateRequest, GeneratedToken, TokenEvent};
use understudy::hub::builtin;
use understudy::scripted::runner::ScriptedRunner;
use understudy::scripted::script::Script;
use understudy::scripted::template;
use understudy::server::config::ServerConfig;
use understudy::server::{AppState, Served, serve};

type Error = Box<dyn std::error::Error>;

const REQUEST_US_MAX: f64 = 60.0;
const TOKEN_US_MAX: f64 = 5.0;
const STREAM_KIB_MAX: f64 = 64.0;
/// Of the long replies.
const TOKENS: usize = 257;
const HUMAN: &str = "Tell me something about the sea, and take your time.";
/// What the log is told to say is part of the cost: the program runs as it is delivered.
const SERVER_ARGS: [&str; 7] = ["serve", "--port", "0", "--queue", "4096", "--parallel", "64"];

fn main() -> Result<(), Error> {
    let options = Options::of(std::env::args().skip(1))?;
    if !PathBuf::from("/proc/self/schedstat").exists() {
        println!("this system does not tell how long a thread was on a core; nothing is measured");
        return Ok(());
    }
    let model = ScriptedModel::new()?;
    println!("{} clients at once, {} requests a row, replies of 1 and of {TOKENS} tokens; CPU in µs", options.at_once, options.requests);
    println!("{:34} {:>9} {:>9}   {:>9} {:>9}   user+system", "", "a request", "a token", "of it http", "engine");
    floor(&options)?;
    let mut engines = Vec::new();
    for prompt in [HumanWords::InTurns, HumanWords::AsText] {
        let engine = model.engine_alone(prompt, &options)?;
        println!("{:34} {:9.1} {:9.2}   alone, subtracted below", format!("engine, {prompt:?}"), engine.request_us, engine.token_us);
        engines.push((prompt, engine));
    }
    let (prepare_us, output_us) = model.chat_alone(&options)?;
    println!("{:34} {prepare_us:9.1} {output_us:9.2}   template, tokenizer, tokens to events: contained below", "chat");
    for dialect in DIALECTS.iter().filter(|dialect| options.wants(dialect.name)) {
        let (_, engine) = engines.iter().find(|(prompt, _)| *prompt == dialect.prompt).ok_or("an engine for each kind of prompt")?;
        for stream in [true, false] {
            measure(dialect, stream, *engine, &options)?;
        }
    }
    if options.wants("memory") {
        memory(&model, &options)?;
    }
    Ok(())
}

struct Options {
    requests: usize,
    streams: usize,
    at_once: usize,
    only: Vec<String>,
}

impl Options {
    fn of(args: impl Iterator<Item = String>) -> Result<Self, Error> {
        let mut options = Self { requests: 2000, streams: 2000, at_once: 8, only: Vec::new() };
        // Cargo adds `--bench`.
        let mut args = args.filter(|arg| arg != "--bench");
        while let Some(name) = args.next() {
            let value = args.next().ok_or_else(|| format!("{name} wants a value"))?;
            match name.as_str() {
                "--requests" => options.requests = value.parse()?,
                "--streams" => options.streams = value.parse()?,
                "--at-once" => options.at_once = value.parse()?,
                "--only" => options.only = value.split(',').map(str::to_owned).collect(),
                _ => return Err(format!("unknown option {name}").into()),
            }
        }
        Ok(options)
    }

    fn wants(&self, row: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == row)
    }

    /// Of replies of so many tokens: fewer long ones, and each client asks equally often.
    fn requests_of(&self, tokens: usize) -> usize {
        let requests = if tokens == 1 { self.requests } else { self.requests / 8 };
        requests.div_ceil(self.at_once) * self.at_once
    }
}

/// A wire format, as a client speaks it.
struct Dialect {
    name: &'static str,
    path: &'static str,
    prompt: HumanWords,
    body: fn(usize) -> Value,
}

/// How the prompt reaches the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HumanWords {
    InTurns,
    AsText,
}

const DIALECTS: [Dialect; 4] = [
    Dialect {
        name: "chat",
        path: "/v1/chat/completions",
        prompt: HumanWords::InTurns,
        body: |tokens| json!({"messages": human(), "max_tokens": tokens}),
    },
    Dialect {
        name: "completions",
        path: "/v1/completions",
        prompt: HumanWords::AsText,
        body: |tokens| json!({"prompt": HUMAN, "max_tokens": tokens}),
    },
    Dialect {
        name: "messages",
        path: "/v1/messages",
        prompt: HumanWords::InTurns,
        body: |tokens| json!({"messages": human(), "max_tokens": tokens}),
    },
    Dialect {
        name: "responses",
        path: "/v1/responses",
        prompt: HumanWords::InTurns,
        body: |tokens| json!({"input": human(), "max_output_tokens": tokens, "store": false}),
    },
];

fn human() -> Value {
    json!([{"role": "user", "content": HUMAN}])
}

/// CPU in microseconds.
#[derive(Clone, Copy, Default)]
struct Cost {
    request_us: f64,
    token_us: f64,
}

impl Cost {
    /// From what replies of one token and of [`TOKENS`] take, in seconds a reply.
    fn of(short_s: f64, long_s: f64) -> Self {
        let token_us = 1e6 * (long_s - short_s) / (TOKENS - 1) as f64;
        Self { request_us: 1e6 * short_s - token_us, token_us }
    }
}

/// The whole program under load.
fn measure(dialect: &Dialect, stream: bool, engine: Cost, options: &Options) -> Result<(), Error> {
    let server = Program::start()?;
    let ask = |tokens: usize, requests: usize| -> Result<Cpu, Error> {
        let mut body = (dialect.body)(tokens);
        body["model"] = "bench".into();
        body["stream"] = stream.into();
        let body = body.to_string();
        let before = server.cpu()?;
        ask_at_once(server.address, dialect.path, &body, requests, options)?;
        Ok(server.cpu()?.since(before, requests))
    };
    // Warm: memory is there, the prompt is cached.
    if let Err(error) = ask(TOKENS, 2 * options.at_once) {
        println!("{:34} not served: {error}", dialect.name);
        return Ok(());
    }
    let (short, long) = (ask(1, options.requests_of(1))?, ask(TOKENS, options.requests_of(TOKENS))?);
    let (http, within) = (Cost::of(short.http_s, long.http_s), Cost::of(short.engine_s, long.engine_s));
    let over = Cost {
        request_us: http.request_us + within.request_us - engine.request_us,
        token_us: http.token_us + within.token_us - engine.token_us,
    };
    let name = format!("{}, {}", dialect.name, if stream { "stream" } else { "whole" });
    println!(
        "{name:34} {:9.1} {:9.2}   {:4.1}+{:.2} {:5.1}+{:.2}   {:.0}+{:.0}   {} {}",
        over.request_us,
        over.token_us,
        http.request_us,
        http.token_us,
        within.request_us - engine.request_us,
        within.token_us - engine.token_us,
        1e6 * short.user_s,
        1e6 * short.system_s,
        bar(over.request_us, REQUEST_US_MAX),
        bar(over.token_us, TOKEN_US_MAX),
    );
    Ok(())
}

/// As many requests, from several clients, each on a connection of its own.
fn ask_at_once(address: SocketAddr, path: &str, body: &str, requests: usize, options: &Options) -> Result<(), Error> {
    std::thread::scope(|scope| {
        let client = || Client::connect(address)?.ask_often(path, body, requests / options.at_once);
        let clients: Vec<_> = (0..options.at_once).map(|_| scope.spawn(move || client().map_err(|e| e.to_string()))).collect();
        clients.into_iter().try_for_each(|client| client.join().expect("a client does not panic"))
    })?;
    Ok(())
}

/// A handler that answers a constant, on one thread of this process.
fn floor(options: &Options) -> Result<(), Error> {
    const THREAD: &str = "floor";
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name(THREAD).enable_all().build()?;
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
    let address = listener.local_addr()?;
    let router = axum::Router::new().route("/", axum::routing::post(|body: String| async move { format!("{} bytes", body.len()) }));
    let server = runtime.spawn(async move { axum::serve(listener, router).await });
    let cpu_s =
        || Ok::<f64, Error>(threads_cpu_s("self")?.into_iter().filter(|(name, _)| name == THREAD).map(|(_, seconds)| seconds).sum());
    let body = (DIALECTS[0].body)(1).to_string();
    ask_at_once(address, "/", &body, 2 * options.at_once, options)?;
    let before = cpu_s()?;
    let requests = options.requests_of(1);
    ask_at_once(address, "/", &body, requests, options)?;
    println!("{:34} {:9.1} {:>9}   a handler that answers a constant", "floor", 1e6 * (cpu_s()? - before) / requests as f64, "");
    server.abort();
    Ok(())
}

fn bar(value: f64, most: f64) -> String {
    format!("<= {most}: {}", if value <= most { "yes" } else { "NO" })
}

/// The program itself, with one thread for the network.
struct Program {
    child: Child,
    address: SocketAddr,
}

/// CPU in seconds.
#[derive(Clone, Copy)]
struct Cpu {
    engine_s: f64,
    /// Of all threads but the engine's.
    http_s: f64,
    user_s: f64,
    system_s: f64,
}

impl Cpu {
    /// What was spent since `before`, a request.
    fn since(self, before: Self, requests: usize) -> Self {
        let each = |after: f64, before: f64| (after - before) / requests as f64;
        Self {
            engine_s: each(self.engine_s, before.engine_s),
            http_s: each(self.http_s, before.http_s),
            user_s: each(self.user_s, before.user_s),
            system_s: each(self.system_s, before.system_s),
        }
    }
}

impl Program {
    fn start() -> Result<Self, Error> {
        let script = std::env::temp_dir().join(format!("understudy-bench-{}.toml", std::process::id()));
        std::fs::write(&script, ScriptedModel::script(None))?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_understudy"));
        command.args(SERVER_ARGS).arg(format!("scripted:{}", script.display())).env("TOKIO_WORKER_THREADS", "1");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines();
        let line = lines.find_map(|line| line.ok().filter(|line| line.contains("http://"))).ok_or("the server did not start")?;
        std::fs::remove_file(&script)?;
        let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next()).ok_or("no address")?.parse()?;
        Ok(Self { child, address })
    }

    fn cpu(&self) -> Result<Cpu, Error> {
        let (mut engine_s, mut http_s) = (0.0, 0.0);
        for (name, seconds) in threads_cpu_s(&self.child.id().to_string())? {
            *(if name == "engine" { &mut engine_s } else { &mut http_s }) += seconds;
        }
        // Behind the name, which may hold spaces: fields 14 and 15 of proc_pid_stat(5), in hundredths of a second.
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |index: usize| Ok::<f64, Error>(fields.get(index).ok_or("a short stat")?.parse::<f64>()? / 100.0);
        Ok(Cpu { engine_s, http_s, user_s: ticks(11)?, system_s: ticks(12)? })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Name of each thread of a process, and how long it was on a core.
fn threads_cpu_s(process: &str) -> Result<Vec<(String, f64)>, Error> {
    let mut threads = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let task = task?.path();
        // A thread may end while it is looked at.
        let (Ok(name), Ok(times)) = (std::fs::read_to_string(task.join("comm")), std::fs::read_to_string(task.join("schedstat"))) else {
            continue;
        };
        threads.push((name.trim().to_owned(), cpu_s(&times)?));
    }
    Ok(threads)
}

/// One connection that stays open.
struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    fn connect(address: SocketAddr) -> Result<Self, Error> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Self { stream, buffer: vec![0; 1 << 16] })
    }

    fn send(&mut self, path: &str, body: &str) -> Result<(), Error> {
        let mut request = String::new();
        write!(
            request,
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )?;
        request.push_str(body);
        self.stream.write_all(request.as_bytes())?;
        Ok(())
    }

    fn ask_often(&mut self, path: &str, body: &str, times: usize) -> Result<(), Error> {
        for _ in 0..times {
            self.send(path, body)?;
            self.read_reply()?;
        }
        Ok(())
    }

    fn read_reply(&mut self) -> Result<(), Error> {
        let mut reply = Vec::new();
        loop {
            let got = self.stream.read(&mut self.buffer)?;
            if got == 0 {
                return Err("the server closed the connection".into());
            }
            reply.extend_from_slice(&self.buffer[..got]);
            if is_whole(&reply) {
                break;
            }
        }
        match reply.starts_with(b"HTTP/1.1 200") {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&reply[..reply.len().min(40)]).lines().next().unwrap_or_default().into()),
        }
    }
}

/// By its length, or by its last chunk.
fn is_whole(reply: &[u8]) -> bool {
    let Some(head_end) = reply.windows(4).position(|end| end == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&reply[..head_end]).to_lowercase();
    match head.split_once("content-length: ").and_then(|(_, rest)| rest.lines().next()?.parse::<usize>().ok()) {
        Some(length) => reply.len() >= head_end + 4 + length,
        None => reply.ends_with(b"0\r\n\r\n"),
    }
}

/// What the program serves, in this process.
struct ScriptedModel {
    text: Arc<TextModel>,
}

impl ScriptedModel {
    fn new() -> Result<Self, Error> {
        let tokenizer = Arc::new(Tokenizer::from_gguf(&Gguf::from_bytes(builtin::bytes(), "builtin")?)?);
        let template = template(&tokenizer)?;
        Ok(Self { text: Arc::new(TextModel::new(tokenizer, template, SamplingDefaults::default())) })
    }

    fn script(tokens_per_s: Option<f64>) -> String {
        let pace = tokens_per_s.map_or(String::new(), |pace| format!("tokens_per_s = {pace:?}\n"));
        format!("{pace}[default]\ntext = '{}'\n", "The sea is wide and the ships are small. ".repeat(40))
    }

    fn engine(&self, tokens_per_s: Option<f64>, config: EngineConfig) -> Result<Engine, Error> {
        let script = Script::parse("bench.toml", &Self::script(tokens_per_s))?;
        let runner = ScriptedRunner::new(script, self.text.tokenizer.clone(), config.blocks).ok_or("no marks of turns")?;
        Ok(Engine::start(Box::new(runner), config))
    }

    fn request(&self, prompt: HumanWords, tokens: usize) -> Result<Job, Error> {
        let conversation = || Conversation { messages: vec![Message::text(Role::User, HUMAN)], ..Conversation::default() };
        let prompt = match prompt {
            HumanWords::InTurns => Prompt::Conversation(conversation()),
            HumanWords::AsText => Prompt::Text(HUMAN.to_owned()),
        };
        let request = Request { prompts: vec![prompt], choices_per_prompt: 1, tokens_max: Some(tokens), ..Request::default() };
        let mut jobs = self.text.prepare(&request, Surroundings { now_unix_s: 0, random: 7, prompt_tokens_max: 10_000 })?;
        jobs.pop().ok_or_else(|| "no job".into())
    }

    /// The engine's thread, when loops on other threads ask it.
    fn engine_alone(&self, prompt: HumanWords, options: &Options) -> Result<Cost, Error> {
        let config = EngineConfig {
            blocks: 1 << 14,
            sequences_max: 64,
            tokens_per_step_max: 512,
            queue_max: 4096,
            context_max: 1 << 16,
            // As the program's default.
            drafts_max: 16,
            first_token_max: None,
        };
        let engine = self.engine(None, config)?;
        let ask = |tokens: usize, requests: usize| -> Result<f64, Error> {
            let request = self.request(prompt, tokens)?.generate;
            let before = engine_cpu_s()?;
            std::thread::scope(|scope| {
                let (engine, request) = (&engine, &request);
                let client = move || drain(engine, request, requests / options.at_once).map_err(|e| e.to_string());
                let clients: Vec<_> = (0..options.at_once).map(|_| scope.spawn(client)).collect();
                clients.into_iter().try_for_each(|client| client.join().expect("a client does not panic"))
            })?;
            Ok((engine_cpu_s()? - before) / requests as f64)
        };
        ask(TOKENS, 2 * options.at_once)?;
        Ok(Cost::of(ask(1, options.requests_of(1))?, ask(TOKENS, options.requests_of(TOKENS))?))
    }

    /// Time of this thread in `chat`: a request becomes tokens; a token becomes events.
    fn chat_alone(&self, options: &Options) -> Result<(f64, f64), Error> {
        let start = own_cpu_s()?;
        for _ in 0..options.requests {
            std::hint::black_box(self.request(HumanWords::InTurns, TOKENS)?);
        }
        let prepare_us = 1e6 * (own_cpu_s()? - start) / options.requests as f64;
        let reply = self.text.tokenizer.encode(&"The sea is wide and the ships are small. ".repeat(40), false)?;
        let mut output = self.request(HumanWords::InTurns, TOKENS)?.output;
        let mut events = Vec::new();
        let start = own_cpu_s()?;
        for &id in &reply {
            let token = GeneratedToken { id, logprobs: None };
            assert_eq!(output.push(&token, 0, &mut events), Flow::More);
            std::hint::black_box(events.drain(..).count());
        }
        Ok((prepare_us, 1e6 * (own_cpu_s()? - start) / reply.len() as f64))
    }
}

fn own_cpu_s() -> Result<f64, Error> {
    cpu_s(&std::fs::read_to_string("/proc/thread-self/schedstat")?)
}

/// The first number of a `schedstat`.
fn cpu_s(times: &str) -> Result<f64, Error> {
    Ok(times.split(' ').next().ok_or("an empty schedstat")?.parse::<f64>()? / 1e9)
}

fn engine_cpu_s() -> Result<f64, Error> {
    Ok(threads_cpu_s("self")?.into_iter().filter(|(name, _)| name == "engine").map(|(_, seconds)| seconds).sum())
}

fn drain(engine: &Engine, request: &GenerateRequest, times: usize) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(async {
        for _ in 0..times {
            let mut stream = engine.generate(request.clone())?;
            while !matches!(stream.next().await, Some(TokenEvent::Finished { .. }) | None) {}
        }
        Ok(())
    })
}

/// Streams that are all open at once and all speak: what this process holds more than before.
fn memory(model: &ScriptedModel, options: &Options) -> Result<(), Error> {
    // Four tokens a second, so that none is over before the last is open; the clients' side costs a number each.
    let config = EngineConfig {
        blocks: options.streams * 8,
        sequences_max: options.streams + 8,
        tokens_per_step_max: options.streams + 512,
        queue_max: 16,
        context_max: 256,
        drafts_max: 0,
        first_token_max: None,
    };
    let engine = model.engine(Some(4.0), config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let state = AppState::new(ServerConfig::default(), || 0);
    let card = ModelCard { id: "bench".to_owned(), created_unix_s: 0, context_tokens_max: 256, meta: Map::new() };
    state.set_served(Served { engine: engine.clone(), text: model.text.clone(), card, embeddings: None, embedding_card: None });
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
    let address = listener.local_addr()?;
    let server = runtime.spawn(serve(listener, state, std::future::pending()));
    let open = |count: usize| -> Result<Vec<Client>, Error> {
        let body = json!({"model": "bench", "messages": human(), "max_tokens": 230, "stream": true}).to_string();
        let mut clients = Vec::with_capacity(count);
        for _ in 0..count {
            let mut client = Client { stream: TcpStream::connect(address)?, buffer: Vec::new() };
            client.stream.set_read_timeout(Some(Duration::from_secs(60)))?;
            client.send("/v1/chat/completions", &body)?;
            clients.push(client);
        }
        Ok(clients)
    };
    let settled = |running: usize| {
        let since = Instant::now();
        while engine.stats().running != running && since.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(10));
        }
        // Some steps: each has spoken.
        std::thread::sleep(Duration::from_secs(2));
        engine.stats().running
    };
    let warm = open(4)?;
    settled(4);
    let before = resident_kib()?;
    let clients = open(options.streams - warm.len())?;
    let running = settled(options.streams);
    let each_kib = (resident_kib()? - before) / clients.len() as f64;
    println!("{:34} {each_kib:9.1} KiB each of {running} that run   {}", "open streams, chat", bar(each_kib, STREAM_KIB_MAX));
    drop((warm, clients));
    server.abort();
    Ok(())
}

fn resident_kib() -> Result<f64, Error> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
