//! `understudy serve`: binds the address, loads the model, says where it is, serves until it is told to stop.

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use models::embedding::Gives;
use serde_json::{Map, Value, json};

use super::disk_cache;
use super::failure::Failure;
use super::load::{Loaded, load};
use super::memory_plan::Size;
use super::print;
use super::state_folder;
use crate::api::openai_models::ModelCard;
use crate::config::{Config, DiskCache, LogFormat, Server};
use crate::gateway::door::Gateway;
use crate::gateway::edge_probe;
use crate::gateway::journal::Journal;
use crate::gateway::rules::Rules;
use crate::server::config::{ApiKeys, ServerConfig};
use crate::server::{self, AppState, Served, signals};

/// Between two questions to a host that is down.
const EDGE_PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// All sockets on one: what it does for a token takes it microseconds, what takes longer goes to threads of its own (`spawn_blocking`), and
/// two of them wake each other for every frame. On two cores (2026-11-27) a second one made the 99th percentile of a relayed frame 176 µs
/// instead of 73, nginx beside it 67 and 75.
const NETWORK_THREADS: usize = 1;

pub fn run(config: Config) -> Result<(), Failure> {
    print::log_panics(config.log.format);
    // First of all the address: that it is taken should not be learnt after a long load.
    let listener = bind(&config.server)?;
    let address = listener.local_addr().context("the bound address")?;
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    threads.worker_threads(NETWORK_THREADS).thread_name("network");
    let runtime = threads.enable_all().build().context("a thread for the network")?;
    let outcome = runtime.block_on(serve(listener, address, config));
    // A load that is still under way when a signal comes is not waited for.
    runtime.shutdown_background();
    outcome
}

async fn serve(listener: TcpListener, address: SocketAddr, config: Config) -> Result<(), Failure> {
    let listener = tokio::net::TcpListener::from_std(listener).context("the bound address")?;
    let state = AppState::new(server_config(&config.server), || unix_s(SystemTime::now()));
    if !config.gateway.upstreams.is_empty() {
        let gateway = Gateway::new(config.gateway.clone(), Rules::of(&config.gateway), journal(&config), server::request_id::random());
        edge_probe::begin(gateway.clone(), EDGE_PROBE_INTERVAL);
        state.set_gateway(gateway);
    }
    // While the model loads, health checks are answered, upstreams are asked, and other requests get 503.
    let serving = server::serve(listener, state.clone(), signals::shutdown_requested(print::wait_for_last_lines));
    tokio::pin!(serving);
    let wanted = config.clone();
    let loading = tokio::task::spawn_blocking(move || load(&wanted));
    let loaded = tokio::select! {
        ended = &mut serving => return Ok(ended.context("the network")?),
        loaded = loading => loaded.context("loading the model")??,
    };
    let lines = banner(&loaded, address, &config);
    let card = card(&loaded, unix_s(SystemTime::now()));
    let embedding_card = embedding_card(&loaded, card.created_unix_s);
    let disk = loaded.disk;
    // Beside the first requests: those that are constrained wait for it, others do not.
    let text = loaded.text.clone();
    tokio::task::spawn_blocking(move || text.grammars.warm_up());
    state.set_served(Served { engine: loaded.engine, text: loaded.text, card, embeddings: loaded.embeddings, embedding_card });
    match print::line(lines) {
        // Nobody reads where we serve: no reason not to.
        Ok(()) | Err(Failure::NobodyReads) => {}
        Err(failure) => return Err(failure),
    }
    serving.await.context("the network")?;
    if disk.is_some_and(|disk| !disk.flush(disk_cache::FLUSH_LIMIT)) {
        tracing::warn!("not all of the last prompts is on the disk; the rest will be computed again");
    }
    tracing::info!("stopped");
    Ok(())
}

/// A journal that cannot be begun is no reason not to serve.
fn journal(config: &Config) -> Journal {
    let Some(folder) = state_folder::of_journal(&config.gateway.journal) else { return Journal::off() };
    let names: Vec<String> = config.gateway.upstreams.iter().map(|upstream| upstream.name.clone()).collect();
    Journal::in_folder(folder, &names).unwrap_or_else(|error| {
        tracing::warn!(%error, "no journal is kept");
        Journal::off()
    })
}

fn bind(server: &Server) -> Result<TcpListener, Failure> {
    let address = SocketAddr::new(server.host, server.port);
    let bound = TcpListener::bind(address).and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
    bound.map_err(|error| {
        let advice = match error.kind() {
            std::io::ErrorKind::AddrInUse => "another program listens there, perhaps another understudy; stop it or take another --port",
            std::io::ErrorKind::PermissionDenied => "ports below 1024 belong to the system; take another --port",
            std::io::ErrorKind::AddrNotAvailable => "this machine has no such address; take another --host",
            _ => "take another --host or --port",
        };
        anyhow::anyhow!("cannot listen on {address}: {error}; {advice}").into()
    })
}

fn server_config(server: &Server) -> ServerConfig {
    ServerConfig {
        api_keys: ApiKeys::new(server.api_keys.iter().map(|key| key.as_str().to_owned())),
        allowed_hosts: server.allow_hosts.clone(),
        cors_origins: server.cors_origins.clone(),
        strict_model: server.strict_model,
        body_bytes_max: usize::try_from(server.body_bytes_max).unwrap_or(usize::MAX),
        drain_limit: Duration::from_secs(server.drain_s),
        ..ServerConfig::default()
    }
}

fn card(loaded: &Loaded, created_unix_s: i64) -> ModelCard {
    let about = &loaded.about;
    let mut meta = Map::new();
    meta.insert("architecture".to_owned(), Value::from(about.architecture.as_str()));
    meta.insert("parameters".to_owned(), Value::from(about.parameters));
    meta.insert("weight_type".to_owned(), Value::from(about.weight_type.as_str()));
    meta.insert("size_bytes".to_owned(), Value::from(about.file_bytes));
    meta.insert("context_trained_max".to_owned(), Value::from(about.context_max));
    ModelCard { id: about.id.clone(), created_unix_s, context_tokens_max: loaded.plan.context, meta }
}

/// `None` where the chat model gives the embeddings, if anybody does.
fn embedding_card(loaded: &Loaded, created_unix_s: i64) -> Option<ModelCard> {
    let about = loaded.embeddings.as_ref()?.about();
    let kind = match about.gives {
        Gives::Embedding => "embedding",
        Gives::Relevance => "rerank",
    };
    let mut meta = Map::new();
    meta.insert("type".to_owned(), Value::from(kind));
    meta.insert("dimensions".to_owned(), Value::from(about.width));
    (!about.is_chat_model).then(|| ModelCard { id: about.id.clone(), created_unix_s, context_tokens_max: about.tokens_max, meta })
}

/// What runs, with what, where, and how to try it.
fn banner(loaded: &Loaded, address: SocketAddr, config: &Config) -> String {
    let (about, plan) = (&loaded.about, &loaded.plan);
    let url = format!("http://{}", reachable(address));
    if config.log.format == LogFormat::Json {
        let line = json!({
            "event": "serving", "url": url, "address": address.to_string(), "model": about.id, "architecture": about.architecture,
            "parameters": about.parameters, "weight_type": about.weight_type, "device": about.device, "context": plan.context,
            "parallel": config.engine.parallel, "weight_bytes": plan.weight_bytes, "cache_bytes": plan.cache_bytes + plan.state_bytes,
            "disk_cache": disk_place(loaded), "disk_cache_bytes_max": disk_bytes_max(config), "weights": about.weights.to_string(), "scratch_bytes": plan.scratch_bytes, "budget_bytes": plan.budget_bytes,
            "draft_model": loaded.draft, "draft_bytes": plan.draft.map_or(0, |draft| draft.bytes()), "version": env!("CARGO_PKG_VERSION"),
        });
        return line.to_string();
    }
    let shortened = if plan.context < about.context_max {
        format!(" of the model's {} (raise --memory for more)", about.context_max)
    } else {
        String::new()
    };
    let key = match config.server.api_keys.is_empty() {
        true => "",
        false => " -H 'Authorization: Bearer YOUR_KEY'",
    };
    let door = match (config.server.api_keys.is_empty(), address.ip().is_loopback()) {
        (false, _) => "a key is asked for",
        (true, true) => "no key; only this machine can connect",
        (true, false) => "NO KEY; everyone who can reach this address can use it",
    };
    format!(
        "understudy {version}\n\
         model    {model}\n\
         context  {context} tokens{shortened}, {parallel} conversations at once\n\
         memory   {weights} weights ({pages}) + up to {cache} cache + {scratch} scratch{drafts}; budget {budget}\n\
         {draft}\
         disk     {disk}\n\
         device   {device}\n\
         {cloud}serving  {url}/v1 ({door})\n\
         try it   curl {url}/v1/chat/completions{key} -H 'Content-Type: application/json' -d '{{\"messages\":[{{\"role\":\"user\",\"content\":\"Who are you?\"}}]}}'",
        version = env!("CARGO_PKG_VERSION"),
        model = about.line(),
        context = plan.context,
        parallel = config.engine.parallel,
        weights = Size(plan.weight_bytes),
        pages = about.weights,
        cache = Size(plan.cache_bytes + plan.state_bytes),
        scratch = Size(plan.scratch_bytes),
        drafts = plan.draft.map_or(String::new(), |draft| format!(" + {} draft model", Size(draft.bytes()))),
        draft = draft_line(loaded),
        budget = Size(plan.budget_bytes),
        disk = disk_place(loaded)
            .map_or("no prompt is kept".to_owned(), |place| { format!("long prompts, up to {} in {place}", Size(disk_bytes_max(config))) }),
        device = about.device,
        cloud = clouds(config),
    )
}

/// What guesses ahead; empty where no model does.
fn draft_line(loaded: &Loaded) -> String {
    let (Some(name), Some(draft)) = (&loaded.draft, loaded.plan.draft) else { return String::new() };
    let (weights, cache, scratch) = (Size(draft.weight_bytes), Size(draft.cache_bytes), Size(draft.scratch_bytes));
    let tokens = draft.blocks * kernels::BLOCK_TOKENS;
    format!("drafts   {name}: {weights} weights + up to {cache} cache ({tokens} tokens) + {scratch} scratch\n")
}

/// Whom the front door asks first; empty where there is none.
fn clouds(config: &Config) -> String {
    let names: Vec<&str> = config.gateway.upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
    if names.is_empty() { String::new() } else { format!("asks     {}, then this machine\n", names.join(", then ")) }
}

fn disk_place(loaded: &Loaded) -> Option<String> {
    loaded.disk.as_ref().map(|disk| disk.folder().display().to_string())
}

fn disk_bytes_max(config: &Config) -> u64 {
    match config.engine.disk_cache {
        DiskCache::Off => 0,
        DiskCache::Bytes(bytes) => bytes,
    }
}

/// The address as a client on this machine writes it: one that means "all" is reached through loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        std::net::IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
        std::net::IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, address.port())
}

fn unix_s(now: SystemTime) -> i64 {
    // A clock before 1970 is a clock that was never set.
    now.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
