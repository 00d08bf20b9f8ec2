//! The real router on a loopback port, the real engine, tokenizer and template; only the model is a fake, which says what the
//! prompt tells it to say: `SAY[[...]]`. Without such an order it recites the alphabet, without end.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use candle_core::Device;
use models::Tokenizer;
use models::embedding::{Embedder, EmbeddingModel, Gives, TextEncoder};
use serde_json::{Map, Value};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use understudy::api::openai_models::ModelCard;
use understudy::chat::SamplingDefaults;
use understudy::chat::chat_template::ChatTemplate;
use understudy::chat::prepare::TextModel;
use understudy::embedding::{About, Embeddings};
use understudy::engine::{Engine, EngineConfig, EngineStats};
use understudy::server::config::ServerConfig;
use understudy::server::{AppState, Served, serve};

use super::any_stream::check_any_stream;
use super::fake_embedder::{self, FakeEmbedder};
use super::fake_model::FakeModel;
use super::http_client::{Connection, Head, Reply};
use super::tiny_tokenizer::{Fim, VOCAB, tiny_tokenizer};

pub const MODEL: &str = "tiny/test-model:Q8_0";
/// Every reply is created at this second: 2026-03-02 10:49:05 UTC.
pub const NOW_UNIX_S: i64 = 1_772_448_545;

/// ChatML with tools, and a word that makes it throw.
pub const TEMPLATE: &str = "{% if tools %}<|im_start|>system\ntools: {{ tools | tojson }} <tool_call><|im_end|>\n{% endif %}\
{% for message in messages %}{% if 'THROW' in message.content %}{{ raise_exception('this template refuses to THROW') }}{% endif %}\
<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}\
{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

pub struct Options {
    pub config: ServerConfig,
    pub engine: EngineConfig,
    pub template: Option<&'static str>,
    pub fim: Fim,
    pub voice: Voice,
    /// Time of one step of the model.
    pub pace: Duration,
    pub defaults: SamplingDefaults,
    pub embedding: Embedding,
    /// `false`: the server runs, and its model is never loaded.
    pub loaded: bool,
}

/// Where embeddings come from.
#[derive(Debug, Clone)]
pub enum Embedding {
    /// The chat model, which is a fake here: [`FakeEmbedder`]. Texts of up to 100 tokens.
    OfChat,
    /// The encoder saved in this folder.
    Own(PathBuf),
    None,
}

/// What the fake model says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Voice {
    /// What the prompt orders.
    Obedient,
    /// Tokens drawn from a distribution that depends on everything before.
    Babbling,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            config: ServerConfig::default(),
            engine: EngineConfig {
                blocks: 512,
                sequences_max: 8,
                tokens_per_step_max: 256,
                queue_max: 32,
                context_max: 4_096,
                drafts_max: 8,
                first_token_max: None,
            },
            template: Some(TEMPLATE),
            fim: Fim::Known,
            voice: Voice::Obedient,
            pace: Duration::ZERO,
            defaults: SamplingDefaults::default(),
            embedding: Embedding::OfChat,
            loaded: true,
        }
    }
}

pub struct TestApp {
    pub address: SocketAddr,
    pub tokenizer: Arc<Tokenizer>,
    engine: Option<Engine>,
    pub state: AppState,
    /// The model fails in every step while this is set.
    pub broken: Arc<AtomicBool>,
    /// While it is set the fake embedding model finishes nothing.
    pub embedder_held: Arc<AtomicBool>,
    shutdown: Option<oneshot::Sender<()>>,
    server: Option<JoinHandle<std::io::Result<()>>>,
    runtime: Runtime,
}

impl TestApp {
    pub fn new() -> Self {
        Self::start(Options::default())
    }

    pub fn start(options: Options) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime starts");
        let tokenizer = tiny_tokenizer(options.template, options.fim);
        let state = AppState::new(options.config, || NOW_UNIX_S);
        let broken = Arc::new(AtomicBool::new(false));
        let embedder_held = Arc::new(AtomicBool::new(false));
        let mut engine = None;
        if options.loaded {
            let mut model = FakeModel::new(VOCAB, options.engine.blocks);
            if options.voice == Voice::Obedient {
                let tokenizer = tokenizer.clone();
                model = model.with_script(move |tokens| obey(&tokenizer, tokens));
            }
            let (switch, pace) = (broken.clone(), options.pace);
            let model = model.with_fault(move |_, _| {
                std::thread::sleep(pace);
                match switch.load(Ordering::Relaxed) {
                    true => Err("the fake model is broken".to_owned()),
                    false => Ok(()),
                }
            });
            let context_tokens_max = options.engine.context_max;
            let started = Engine::start(Box::new(model), options.engine);
            let template = ChatTemplate::of(&tokenizer).expect("the template parses");
            let text = Arc::new(TextModel::new(tokenizer.clone(), template, options.defaults));
            let card = ModelCard { id: MODEL.to_owned(), created_unix_s: NOW_UNIX_S, context_tokens_max, meta: Map::new() };
            let fake = FakeEmbedder { vocab: VOCAB, held: embedder_held.clone() };
            let embeddings = start_embeddings(options.embedding, fake, &tokenizer, &started);
            let own = embeddings.as_ref().map(Embeddings::about).filter(|about| !about.is_chat_model);
            let embedding_card = own.map(|about| ModelCard {
                id: about.id.clone(),
                created_unix_s: NOW_UNIX_S,
                context_tokens_max: about.tokens_max,
                meta: Map::new(),
            });
            state.set_served(Served { engine: started.clone(), text, card, embeddings, embedding_card });
            engine = Some(started);
        }
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a loopback port is free");
        let address = listener.local_addr().expect("a bound socket has an address");
        let (shutdown, asked) = oneshot::channel::<()>();
        let server = runtime.spawn(serve(listener, state.clone(), async {
            // A dropped sender is the end of the test.
            let _ = asked.await;
        }));
        Self { address, tokenizer, engine, state, broken, embedder_held, shutdown: Some(shutdown), server: Some(server), runtime }
    }

    /// Where the server's tasks run; for what else belongs to a test.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    pub fn connect(&self) -> Connection {
        Connection::open(self.address)
    }

    pub fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], b"")
    }

    /// What comes as a stream is read by its strict reader, too.
    #[track_caller]
    pub fn send(&self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Reply {
        let mut connection = self.connect();
        connection.request(method, path, headers, body);
        let reply = connection.read_reply();
        check_any_stream(path, body, &reply);
        reply
    }

    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.send("POST", path, &["Content-Type: application/json"], body.to_string().as_bytes())
    }

    #[track_caller]
    pub fn chat(&self, body: &Value) -> Reply {
        self.post("/v1/chat/completions", body)
    }

    #[track_caller]
    pub fn complete(&self, body: &Value) -> Reply {
        self.post("/v1/completions", body)
    }

    /// A whole reply that must succeed.
    #[track_caller]
    pub fn ok(&self, path: &str, body: &Value) -> Value {
        let reply = self.post(path, body);
        assert_eq!(reply.status(), 200, "{}", reply.text());
        reply.json()
    }

    /// Opens a stream and reads its head; chunks are read by the caller.
    pub fn open_stream(&self, path: &str, body: &Value) -> (Connection, Head) {
        let mut connection = self.connect();
        connection.request("POST", path, &[], body.to_string().as_bytes());
        let head = connection.read_head();
        (connection, head)
    }

    pub fn stats(&self) -> EngineStats {
        self.engine.as_ref().expect("the app has an engine").stats()
    }

    /// Waits for a state of the engine that must come; the limit is for a bug, not for a slow machine.
    #[track_caller]
    pub fn wait_until(&self, what: &str, reached: impl Fn(&EngineStats) -> bool) {
        let given_up = Instant::now() + Duration::from_secs(60);
        while !reached(&self.stats()) {
            assert!(Instant::now() < given_up, "never came: {what}; {:?}", self.stats());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn ask_to_stop(&mut self) {
        let sender = self.shutdown.take().expect("the app is asked to stop once");
        sender.send(()).expect("the server listens for it");
    }

    /// Waits for the server's own end.
    pub fn wait_for_end(&mut self) {
        let server = self.server.take().expect("the end comes once");
        let limit = async { tokio::time::timeout(Duration::from_secs(60), server).await };
        self.runtime.block_on(limit).expect("the server ends").expect("without a panic").expect("without an error");
    }
}

fn start_embeddings(embedding: Embedding, fake: FakeEmbedder, tokenizer: &Arc<Tokenizer>, engine: &Engine) -> Option<Embeddings> {
    let (embedder, about): (Box<dyn Embedder>, About) = match embedding {
        Embedding::None => return None,
        Embedding::OfChat => {
            let (id, text, gives) = (MODEL.to_owned(), TextEncoder::Gguf(tokenizer.clone()), Gives::Embedding);
            let about = About { id, text, tokens_max: 100, width: fake_embedder::WIDTH, vocab: VOCAB, gives, is_chat_model: true };
            (Box::new(fake), about)
        }
        Embedding::Own(folder) => {
            let EmbeddingModel { embedder, text, about } = models::embedding::load(&folder, &Device::Cpu).expect("an encoder");
            let (id, tokens_max, gives) = ("own-encoder".to_owned(), about.tokens_max, about.gives);
            let about = About { id, text, tokens_max, width: embedder.width(), vocab: embedder.vocab(), gives, is_chat_model: false };
            (embedder, about)
        }
    };
    let engine = engine.clone();
    Some(Embeddings::start(embedder, about, move || engine.stats().running > 0))
}

/// The next token of `SAY[[text]]`, from the tokens so far alone: how much of the text stands after the last `assistant` line (or,
/// in a bare prompt, after the order) decides what comes.
fn obey(tokenizer: &Tokenizer, tokens: &[u32]) -> u32 {
    // A control token is 0xFF, which no text contains, so that words about control tokens are no turns.
    let bytes = |token: u32| if tokenizer.is_control(token) { &[0xFF][..] } else { tokenizer.token_bytes(token, false) };
    let history: Vec<u8> = tokens.iter().flat_map(|&token| bytes(token)).copied().collect();
    let after = |wanted: &[u8]| (0..history.len()).rev().find(|&at| history[at..].starts_with(wanted)).map(|at| at + wanted.len());
    let Some(order) = after(b"SAY[[") else { return u32::from(b'a') + tokens.len() as u32 % 26 };
    // Of a prompt that is scored each beginning is asked about.
    let Some(length) = history[order..].windows(2).position(|end| end == b"]]") else { return u32::from(b'a') };
    let script = std::str::from_utf8(&history[order..order + length]).expect("an order is text");
    let order_end = order + length + 2;
    // Else behind the last control token, which is the fill-in-the-middle one.
    let turn = after(b"\xFFassistant\n").filter(|&at| at > order).or_else(|| after(b"\xFF").filter(|&at| at > order_end));
    let said_from = turn.unwrap_or(order_end);
    let said = history.len() - said_from;
    if said >= script.len() {
        return tokenizer.eos().expect("the tiny tokenizer has an end of turn");
    }
    match script.get(said..) {
        Some(rest) => tokenizer.encode(rest, false).expect("text can be encoded")[0],
        // In the middle of a character: token ids below 256 are bytes.
        None => u32::from(script.as_bytes()[said]),
    }
}
