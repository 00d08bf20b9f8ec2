//! The real server in this process, with the built-in model behind a front door and without one: the same engine answers both, so that
//! what the door takes is the difference. Here its rules can be told; limits are scaled and breakers kept from opening.

use std::net::SocketAddr;
use std::sync::Arc;

use candle_core::Device;
use kernels::KvDtype;
use models::kv_cache::KvCache;
use models::{Gguf, Tokenizer};
use serde_json::Map;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use understudy::api::openai_models::ModelCard;
use understudy::chat::SamplingDefaults;
use understudy::chat::chat_template::ChatTemplate;
use understudy::chat::prepare::TextModel;
use understudy::config::gateway::{Keys, Tables};
use understudy::engine::model_runner::LoadedRunner;
use understudy::engine::{Engine, EngineConfig};
use understudy::gateway::circuit_breaker::BreakerConfig;
use understudy::gateway::door::Gateway;
use understudy::gateway::edge_probe;
use understudy::gateway::journal::Journal;
use understudy::gateway::rules::Rules;
use understudy::hub::builtin;
use understudy::server::config::ServerConfig;
use understudy::server::{AppState, Served, serve};

use super::Error;

const CONFIG: EngineConfig = EngineConfig {
    blocks: 2_048,
    sequences_max: 8,
    tokens_per_step_max: 512,
    queue_max: 32,
    context_max: 4_096,
    drafts_max: 0,
    first_token_max: None,
};

/// An engine that servers share.
pub struct Local {
    runtime: Runtime,
    engine: Engine,
    text: Arc<TextModel>,
}

impl Local {
    pub fn start() -> Result<Self, Error> {
        let gguf = Gguf::from_bytes(builtin::bytes(), "the built-in model")?;
        let tokenizer = Arc::new(Tokenizer::from_gguf(&gguf)?);
        let template = ChatTemplate::of(&tokenizer)?;
        let model = models::load(&gguf, &Device::Cpu)?;
        let kv = KvCache::new(model.config(), CONFIG.blocks, KvDtype::F16, &Device::Cpu)?;
        let engine = Engine::start(Box::new(LoadedRunner::new(model, kv)), CONFIG);
        let text = Arc::new(TextModel::new(tokenizer, template, SamplingDefaults::default()));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        Ok(Self { runtime, engine, text })
    }

    /// Without a front door.
    pub fn alone(&self) -> Result<SocketAddr, Error> {
        self.serve(self.state())
    }

    /// With one before this upstream. `asks`: whether an upstream that is down is asked whether it is there.
    pub fn behind_door(&self, upstream: SocketAddr, asks: Asks, change: impl FnOnce(&mut Rules)) -> Result<SocketAddr, Error> {
        let file =
            format!("[gateway]\njournal = \"off\"\n[[upstream]]\nname = \"cloud\"\nkind = \"anthropic\"\nurl = \"http://{upstream}\"\n");
        let keys = Keys { variable: &|_| None, file: &|_| Err(std::io::ErrorKind::NotFound.into()) };
        let config = Tables::parse(&file, false).and_then(|tables| tables.resolve(&[], &keys)).map_err(|error| error.message)?;
        let mut rules = Rules::of(&config);
        change(&mut rules);
        let interval = rules.breakers.edge_probe_interval.filter(|_| asks == Asks::Edge);
        let _on = self.runtime.enter();
        let gateway = Gateway::new(config, rules, Journal::off(), 1);
        if let Some(interval) = interval {
            edge_probe::begin(gateway.clone(), interval);
        }
        let state = self.state();
        state.set_gateway(gateway);
        self.serve(state)
    }

    fn state(&self) -> AppState {
        let state = AppState::new(ServerConfig::default(), || 0);
        let card = ModelCard { id: "built-in".to_owned(), created_unix_s: 0, context_tokens_max: CONFIG.context_max, meta: Map::new() };
        let (engine, text) = (self.engine.clone(), self.text.clone());
        state.set_served(Served { engine, text, card, embeddings: None, embedding_card: None });
        state
    }

    fn serve(&self, state: AppState) -> Result<SocketAddr, Error> {
        let listener = self.runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        self.runtime.spawn(serve(listener, state, std::future::pending()));
        Ok(address)
    }
}

/// Whether hosts that are down get the free question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asks {
    Edge,
    Nobody,
}

/// However often the upstream fails, it is asked again: each trial is to meet the fault, and not the breaker.
pub fn never_open(rules: &mut Rules) {
    rules.breakers = BreakerConfig { failures_in_a_row: u32::MAX, window_requests_min: u32::MAX, ..BreakerConfig::default() };
}
