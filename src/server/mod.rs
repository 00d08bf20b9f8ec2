//! The HTTP edge: the only place that knows axum and sockets. All routes stand on this page.
//!
//! Invariant: decides nothing about text or tokens. Bytes go to a dialect of `api/`, tokens come from the engine.

pub mod choices;
pub mod continuation;
pub mod count_tokens;
pub mod embeddings;
pub mod front_door;
pub mod gateway_status;
pub mod generate;
pub mod metrics;
pub mod pass;
pub mod responses;
pub mod run;
pub mod shadow;
pub mod status;
pub mod tokenize;
pub mod translated;

pub mod edge;
pub mod who_may_ask;

pub mod body;
pub mod config;
pub mod listen;
pub mod load_headers;
pub mod relays;
pub mod reply_store;
pub mod request_id;
pub mod request_log;
pub mod signals;
pub mod sse;
pub mod write_limit;

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::api::anthropic_messages::AnthropicMessages;
use crate::api::errors::ApiError;
use crate::api::llama_infill::LlamaInfill;
use crate::api::openai_chat::OpenAiChat;
use crate::api::openai_completions::OpenAiCompletions;
use crate::api::openai_models::ModelCard;
use crate::api::openai_responses::OpenAiResponses;
use crate::chat::prepare::TextModel;
use crate::embedding::Embeddings;
use crate::engine::Engine;
use crate::gateway::door::Gateway;
use body::BodyBudget;
use config::ServerConfig;
pub use listen::serve;
use relays::Relays;
use reply_store::ReplyStore;
use run::Runs;

/// Every route of the server.
pub fn router(state: AppState) -> Router {
    let cloud_first = from_fn_with_state(state.clone(), pass::cloud_first);
    Router::new()
        .route("/v1/chat/completions", post(front_door::generate::<OpenAiChat>))
        .route("/v1/completions", post(front_door::generate::<OpenAiCompletions>))
        .route("/infill", post(generate::generate::<LlamaInfill>))
        .route("/v1/messages", post(front_door::generate::<AnthropicMessages>))
        .route("/v1/messages/count_tokens", post(count_tokens::count_tokens).layer(cloud_first.clone()))
        .route("/v1/responses", post(front_door::generate::<OpenAiResponses>))
        .route("/v1/responses/input_tokens", post(responses::input_tokens))
        .route("/v1/responses/{id}", get(responses::retrieve).delete(responses::delete))
        .route("/v1/responses/{id}/input_items", get(responses::input_items))
        .route("/v1/responses/{id}/cancel", post(responses::cancel))
        .route("/v1/embeddings", post(embeddings::embeddings))
        .route("/v1/rerank", post(embeddings::rerank))
        // Where Cohere's SDK of today looks, and llama.cpp's server.
        .route("/v2/rerank", post(embeddings::rerank))
        .route("/rerank", post(embeddings::rerank))
        .route("/tokenize", post(tokenize::tokenize))
        .route("/detokenize", post(tokenize::detokenize))
        .route("/apply-template", post(tokenize::apply_template))
        .route("/tokenizer_info", get(tokenize::tokenizer_info))
        .route("/v1/models", get(status::models).layer(cloud_first.clone()))
        // A name may hold slashes: `org/repo:quant`.
        .route("/v1/models/{*id}", get(status::model).layer(cloud_first))
        .route("/openapi.json", get(status::openapi))
        .route("/livez", get(status::livez))
        .route("/readyz", get(status::readyz))
        .route("/health", get(status::readyz))
        .route("/metrics", get(metrics::metrics))
        .route("/understudy/status", get(gateway_status::status))
        .route("/understudy/use", post(gateway_status::set_use))
        .route("/", get(status::hello))
        .fallback(pass::unknown)
        .method_not_allowed_fallback(edge::method_not_allowed)
        .layer(from_fn_with_state(state.clone(), edge::edge))
        .with_state(state)
}

/// Large bodies parsed and tokenized at once: each takes a core, and up to 60 times its size for a while.
const PREPARING_MAX: usize = 2;

/// What all handlers share; clones share it.
#[derive(Clone)]
pub struct AppState(Arc<Shared>);

struct Shared {
    config: ServerConfig,
    bodies: BodyBudget,
    runs: Runs,
    relays: Relays,
    replies: ReplyStore,
    preparing: Arc<Semaphore>,
    /// Filled once, when the model is loaded.
    served: OnceLock<Served>,
    phase: watch::Sender<Phase>,
    bound_to: OnceLock<IpAddr>,
    gateway: OnceLock<Gateway>,
    /// Seconds since 1970.
    clock: Box<dyn Fn() -> i64 + Send + Sync>,
}

/// The loaded model and the engine that runs it.
#[derive(Debug)]
pub struct Served {
    pub engine: Engine,
    pub text: Arc<TextModel>,
    pub card: ModelCard,
    /// `None`: what is loaded gives none.
    pub embeddings: Option<Embeddings>,
    /// Of an embedding model that is one of its own.
    pub embedding_card: Option<ModelCard>,
}

impl Served {
    /// All models, the one that talks first.
    pub fn cards(&self) -> impl Iterator<Item = &ModelCard> {
        std::iter::once(&self.card).chain(&self.embedding_card)
    }
}

/// Where the server is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Serving,
    /// No new work; what runs goes on.
    Draining,
    /// Nothing runs any more: connections close when their replies are out.
    Closing,
    /// The drain limit is over: what still runs is told so and ends.
    CutOff,
}

impl AppState {
    /// A server whose model is still loading. `clock`: seconds since 1970.
    pub fn new(config: ServerConfig, clock: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        let phase = watch::Sender::new(Phase::Serving);
        let bodies = BodyBudget::new(config.bodies_bytes_max.max(config.body_bytes_max));
        let preparing = Arc::new(Semaphore::new(PREPARING_MAX));
        let (served, bound_to, gateway) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        let (runs, relays, replies) = (Runs::default(), Relays::default(), ReplyStore::new(config.replies_kept));
        Self(Arc::new(Shared {
            config,
            bodies,
            runs,
            relays,
            replies,
            preparing,
            served,
            phase,
            bound_to,
            gateway,
            clock: Box::new(clock),
        }))
    }

    /// The model is there: from now on requests are answered. Only the first call counts.
    pub fn set_served(&self, served: Served) {
        let first = self.0.served.set(served).is_ok();
        assert!(first, "the model of a server is set once");
    }

    /// Requests go through this front door from now on. Only the first call counts.
    pub fn set_gateway(&self, gateway: Gateway) {
        let first = self.0.gateway.set(gateway).is_ok();
        assert!(first, "the gateway of a server is set once");
    }

    /// `None`: there are no upstreams.
    pub fn gateway(&self) -> Option<&Gateway> {
        self.0.gateway.get()
    }

    /// Errors: the model is still loading.
    pub fn served(&self) -> Result<&Served, ApiError> {
        self.0.served.get().ok_or_else(ApiError::loading)
    }

    pub fn config(&self) -> &ServerConfig {
        &self.0.config
    }

    pub fn bodies(&self) -> &BodyBudget {
        &self.0.bodies
    }

    /// Replies that a request sent again can join.
    pub fn runs(&self) -> &Runs {
        &self.0.runs
    }

    /// Requests that are with an upstream.
    pub fn relays(&self) -> &Relays {
        &self.0.relays
    }

    /// Replies that can be asked for by their ids.
    pub fn replies(&self) -> &ReplyStore {
        &self.0.replies
    }

    /// Waits until a large body may be parsed and tokenized.
    pub async fn turn_to_prepare(&self) -> OwnedSemaphorePermit {
        self.0.preparing.clone().acquire_owned().await.expect("nobody closes it")
    }

    pub fn now_unix_s(&self) -> i64 {
        (self.0.clock)()
    }

    pub fn phase(&self) -> Phase {
        *self.0.phase.borrow()
    }

    /// Completes when the server has reached `phase` or a later one.
    pub async fn reached(&self, phase: Phase) {
        let mut phases = self.0.phase.subscribe();
        // The sender lives in this very state, so it cannot be gone.
        let _ = phases.wait_for(|now| *now >= phase).await;
    }

    /// New requests are refused from now on.
    pub fn start_draining(&self) {
        self.enter(Phase::Draining);
        if let Some(served) = self.0.served.get() {
            served.engine.drain();
        }
    }

    fn enter(&self, phase: Phase) {
        self.0.phase.send_if_modified(|now| {
            let later = phase > *now;
            if later {
                *now = phase;
            }
            later
        });
    }

    fn set_bound_to(&self, address: IpAddr) {
        let _ = self.0.bound_to.set(address);
    }

    /// Only this machine can connect. Until the address is known the stricter rule holds.
    fn is_bound_to_loopback(&self) -> bool {
        self.0.bound_to.get().is_none_or(IpAddr::is_loopback)
    }
}
