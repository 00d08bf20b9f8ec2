//! What the program was told, decided once: flags, environment, file and defaults become a [`Config`] in which nothing is optional.
//!
//! Pure: the environment, the file and the machine are arguments. Must not know clap, sockets, models or the clock.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use kernels::KvDtype;
use kernels::device::DeviceChoice;

pub mod gateway;
pub mod settings;
pub mod values;

use gateway::{Gateway, Keys};
use settings::{ConfigError, KEYS, Layers, Source};

/// Everything that can be told, by concern.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub server: Server,
    pub engine: Engine,
    pub models: Models,
    pub log: Log,
    pub gateway: Gateway,
    sources: BTreeMap<&'static str, Source>,
}

/// Where to listen and whom to answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    pub host: IpAddr,
    /// 0: any free one; the start-up line says which.
    pub port: u16,
    /// Any of these opens the door; empty: no key is asked for.
    pub api_keys: Vec<ApiKey>,
    /// Names accepted in `Host` besides the loopback names and the address itself.
    pub allow_hosts: Vec<String>,
    /// Web origins that may call; empty: no cross-origin call is allowed.
    pub cors_origins: Vec<String>,
    /// 404 for a model name that is not the loaded model's.
    pub strict_model: bool,
    /// Longest request body.
    pub body_bytes_max: u64,
    /// How long a drain waits for running requests.
    pub drain_s: u64,
}

/// What a server is to a proxy before it. It decides what `queue` and `max_wait` are where they are not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// One of several: who would wait too long is sent to another, with 503 and `Retry-After`.
    PoolMember,
    /// There is nobody after it: who comes waits.
    LastResort,
}

/// What the engine may use.
#[derive(Debug, Clone, PartialEq)]
pub struct Engine {
    /// Threads that compute.
    pub threads: NonZeroUsize,
    /// Each of them stays on a core of its own.
    pub pin: bool,
    pub device: DeviceChoice,
    pub context: Context,
    pub memory: Memory,
    pub weights: Weights,
    /// Sequences that run at once.
    pub parallel: NonZeroUsize,
    /// Requests that may wait; beyond them a request is answered 503.
    pub queue: usize,
    /// Rows of drafted tokens that one step may check.
    pub drafts: usize,
    /// A request whose first token is predicted to come later is answered 503; `None`: none is.
    pub max_wait: Option<Duration>,
    /// How the cache holds keys and values.
    pub kv_type: KvDtype,
    /// What of it outlives the process.
    pub disk_cache: DiskCache,
    pub disk_cache_dir: DiskCacheFolder,
}

/// How much of the disk long prefixes may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskCache {
    Off,
    Bytes(u64),
}

/// Where they lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskCacheFolder {
    /// In the user's folder for caches.
    OfUser,
    Told(PathBuf),
}

/// Which model, and whether the network may be asked for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Models {
    /// As typed: `builtin`, a path, or `org/repo[:quant]`.
    pub model: String,
    /// As typed: a folder, a file, or `org/repo[:quant]`; `None`: the model itself gives embeddings.
    pub embedding_model: Option<String>,
    /// As typed, like `model`: a smaller one that guesses ahead; `None`: there is none.
    pub draft_model: Option<String>,
    pub offline: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    pub format: LogFormat,
    /// A filter in tracing's syntax: `info`, `debug`, `understudy=trace`.
    pub filter: String,
}

/// A key that clients send. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl ApiKey {
    pub fn new(key: String) -> Self {
        Self(key)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiKey(..)")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// Tokens of one sequence, prompt and answer together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Context {
    /// What the model declares, or as much of it as the memory holds.
    OfModel,
    /// Exactly this, or a refusal.
    Tokens(usize),
}

/// Where the weights lie on the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weights {
    /// In the mapped file: nothing to wait for, and shared with every process that maps it.
    Map,
    /// In a copy of our own on huge pages, made when the model is loaded.
    Huge,
}

/// The budget for weights, cache and scratch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// Half of what the machine had available at the start.
    HalfOfAvailable {
        bytes: u64,
    },
    Told {
        bytes: u64,
    },
}

impl Memory {
    pub fn bytes(self) -> u64 {
        match self {
            Self::HalfOfAvailable { bytes } | Self::Told { bytes } => bytes,
        }
    }
}

/// What the defaults depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    pub cores: NonZeroUsize,
    pub memory_available_bytes: u64,
}

pub const PORT: u16 = 7878;
/// More than any machine has that this program was made for; each costs a stack.
pub const THREADS_MAX: usize = 1024;
pub const PARALLEL: NonZeroUsize = NonZeroUsize::new(8).unwrap();
/// Each sequence that runs has a row in each step, and a step has so many.
pub const PARALLEL_MAX: usize = 512;
/// Enough for an agent's burst on every slot; the wait beyond it is longer than clients' patience.
pub const QUEUE: usize = 64;
/// Behind a proxy that has nobody else: whoever comes is taken, for as long as clients can have patience. A prompt of 20,000 tokens takes
/// 80 kB while it waits.
pub const QUEUE_OF_LAST_RESORT: usize = 512;
/// Half of what proxies give a server before its first byte (60 s): there is time to ask another.
pub const WAIT_OF_POOL_MEMBER: Duration = Duration::from_secs(30);
/// The channel to the engine has its places from the start: 65,536 of 16 bytes are 1 MiB. Nobody waits behind so many.
pub const QUEUE_MAX: usize = 65_536;
/// Rows of guesses in a step; how many of them pay is measured while it runs (`engine/drafter.rs`).
pub const DRAFTS: usize = 16;
/// Logits of a step are held for all rows, in a vocabulary of 150,000 some 0.6 MB each.
pub const DRAFTS_MAX: usize = 64;
/// An agent's prompt of 100,000 tokens is half a megabyte. JSON takes up to 60 times its size while it is read.
pub const BODY_BYTES_MAX: u64 = 8 << 20;
/// Anthropic's own limit.
pub const RELAYED_BODY_BYTES_MAX: u64 = 32 << 20;
pub const DRAIN_S: u64 = 30;
/// A conversation of 20,000 tokens takes 0.5 GiB with Qwen2.5-1.5B (28 KiB a token in f16), 3.7 GiB with Qwen2.5-14B (192 KiB).
pub const DISK_CACHE_BYTES: u64 = 4 << 30;

impl Config {
    /// Decides every value. `keys` reads files and variables that hold keys; errors name where the offending value came from.
    pub fn resolve(layers: &Layers, machine: Machine, keys: &Keys<'_>) -> Result<Self, ConfigError> {
        let role = layers.one("role", values::role)?;
        let mut config = Self {
            server: Server {
                host: layers.one("host", values::host)?.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
                port: layers.one("port", values::port)?.unwrap_or(PORT),
                api_keys: api_keys(layers, keys.file)?,
                allow_hosts: layers.many("allow_host", values::host_name)?,
                cors_origins: layers.many("cors_origin", values::origin)?,
                strict_model: layers.one("strict_model", values::boolean)?.unwrap_or(false),
                body_bytes_max: layers.one("body_max", values::bytes)?.unwrap_or(BODY_BYTES_MAX),
                drain_s: layers.one("drain_timeout", values::seconds)?.unwrap_or(DRAIN_S),
            },
            engine: Engine {
                threads: layers.one("threads", values::threads)?.unwrap_or(threads(machine.cores)),
                pin: layers.one("pin", values::boolean)?.unwrap_or(false),
                device: layers.one("device", values::device)?.unwrap_or(DeviceChoice::Auto),
                context: layers.one("context", values::tokens)?.map_or(Context::OfModel, Context::Tokens),
                memory: layers
                    .one("memory", values::bytes)?
                    .map_or(Memory::HalfOfAvailable { bytes: machine.memory_available_bytes / 2 }, |bytes| Memory::Told { bytes }),
                weights: layers.one("weights", values::weights)?.unwrap_or(Weights::Map),
                parallel: layers.one("parallel", values::parallel)?.unwrap_or(PARALLEL),
                queue: layers.one("queue", values::queue)?.unwrap_or(queue(role)),
                drafts: layers.one("drafts", values::drafts)?.unwrap_or(DRAFTS),
                max_wait: max_wait(layers, role)?,
                kv_type: layers.one("kv_type", values::kv_type)?.unwrap_or_default(),
                disk_cache: layers.one("disk_cache", values::disk_cache)?.unwrap_or(DiskCache::Bytes(DISK_CACHE_BYTES)),
                disk_cache_dir: layers.one("disk_cache_dir", values::folder)?.map_or(DiskCacheFolder::OfUser, DiskCacheFolder::Told),
            },
            models: Models {
                model: layers.one("model", values::text)?.unwrap_or_else(|| "builtin".to_owned()),
                embedding_model: layers.one("embedding_model", values::text)?,
                draft_model: layers.one("draft_model", values::text)?,
                offline: layers.one("offline", values::boolean)?.unwrap_or(false),
            },
            log: Log {
                format: layers.one("log_format", values::log_format)?.unwrap_or(LogFormat::Text),
                filter: layers.one("log_level", values::text)?.unwrap_or_else(|| "info".to_owned()),
            },
            gateway: layers.gateway(keys)?,
            sources: layers.sources(),
        };
        // What a cloud takes, the way to it takes.
        if !config.gateway.upstreams.is_empty() && layers.one("body_max", values::bytes)?.is_none() {
            config.server.body_bytes_max = RELAYED_BODY_BYTES_MAX;
        }
        if config.models.draft_model.is_some() && config.engine.drafts == 0 {
            return Err(layers.error("draft_model", "nothing is guessed where drafts is 0; leave one of the two out".to_owned()));
        }
        let without_key_on_purpose = layers.one("unsafe_no_key", values::boolean)?.unwrap_or(false);
        if !config.server.host.is_loopback() && config.server.api_keys.is_empty() && !without_key_on_purpose {
            return Err(layers.error(
                "host",
                format!(
                    "{} is reachable by others and no API key is set; set --api-key-file (or --api-key), \
                     or --unsafe-no-key to serve everyone who can reach it",
                    config.server.host
                ),
            ));
        }
        let relays_login = config.gateway.upstreams.iter().find(|upstream| upstream.subscription_login);
        if let Some(upstream) = relays_login.filter(|_| !config.server.host.is_loopback()) {
            let message = format!(
                "{} is reachable by others, and {:?} relays the login of a subscription (relay_subscription_login), which is for one \
                 person on one machine; listen on 127.0.0.1, or use an API key",
                config.server.host, upstream.name
            );
            return Err(layers.error("host", message));
        }
        Ok(config)
    }

    /// Where the value of `key` was told: for what turns out to be wrong only when it is used.
    pub fn source(&self, key: &str) -> &Source {
        static DEFAULT: Source = Source::Nowhere;
        debug_assert!(KEYS.contains(&key), "{key} is not in KEYS");
        self.sources.get(key).unwrap_or(&DEFAULT)
    }
}

/// From five cores on, one is left to the network and the rest of the machine.
fn threads(cores: NonZeroUsize) -> NonZeroUsize {
    let threads = if cores.get() > 4 { cores.get() - 1 } else { cores.get() };
    NonZeroUsize::new(threads.min(THREADS_MAX)).unwrap_or(cores)
}

fn queue(role: Option<Role>) -> usize {
    match role {
        Some(Role::LastResort) => QUEUE_OF_LAST_RESORT,
        Some(Role::PoolMember) | None => QUEUE,
    }
}

fn max_wait(layers: &Layers, role: Option<Role>) -> Result<Option<Duration>, ConfigError> {
    match (role, layers.one("max_wait", values::wait)?) {
        (Some(Role::LastResort), Some(Some(_))) => {
            Err(layers
                .error("max_wait", "a last resort sends nobody away for a wait; leave it out, or take the role pool-member".to_owned()))
        }
        (Some(Role::PoolMember), None) => Ok(Some(WAIT_OF_POOL_MEMBER)),
        (_, told) => Ok(told.flatten()),
    }
}

/// Keys given one by one and keys from the file, one a line; `#` opens a comment line.
fn api_keys(layers: &Layers, read: &dyn Fn(&str) -> std::io::Result<String>) -> Result<Vec<ApiKey>, ConfigError> {
    let mut keys = layers.many("api_key", values::api_key)?;
    if let Some(path) = layers.one("api_key_file", values::text)? {
        let text = read(&path).map_err(|e| layers.error("api_key_file", format!("{path}: {e}")))?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let from_file = lines
            .map(values::api_key)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|why| layers.error("api_key_file", format!("{path}: a key {why}")))?;
        if from_file.is_empty() {
            return Err(layers.error("api_key_file", format!("{path} holds no key; write one key a line")));
        }
        keys.extend(from_file);
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: Machine = Machine { cores: NonZeroUsize::new(8).unwrap(), memory_available_bytes: 16 << 30 };

    /// Resolves three layers; the key file `keys` holds two keys, no other file exists.
    fn resolve(flags: &[(&'static str, &str)], env: &[(&str, &str)], file: &str) -> Result<Config, String> {
        let mut layers = Layers::default();
        for (key, value) in flags {
            layers.flag(key, vec![(*value).to_owned()]);
        }
        layers.env(env.iter().map(|(k, v)| (k.into(), v.into()))).map_err(|e| e.to_string())?;
        layers.file("understudy.toml", file).map_err(|e| e.to_string())?;
        let read = |path: &str| match path {
            "keys" => Ok("# team\nfirst\n\n second \n".to_owned()),
            "empty" => Ok("# none yet\n".to_owned()),
            _ => Err(std::io::Error::new(std::io::ErrorKind::NotFound, "no such file")),
        };
        Config::resolve(&layers, MACHINE, &Keys { file: &read, variable: &|_| None }).map_err(|e| e.to_string())
    }

    fn error(flags: &[(&'static str, &str)], env: &[(&str, &str)], file: &str) -> String {
        resolve(flags, env, file).expect_err("this must be refused")
    }

    #[test]
    fn nothing_told_is_a_loopback_server_of_the_built_in_model() {
        let config = resolve(&[], &[], "").unwrap();
        assert_eq!((config.server.host.to_string().as_str(), config.server.port), ("127.0.0.1", 7878));
        assert_eq!(config.models.model, "builtin");
        assert_eq!(config.engine.threads.get(), 7);
        assert_eq!(config.engine.memory, Memory::HalfOfAvailable { bytes: 8 << 30 });
        assert_eq!((config.engine.context, config.engine.max_wait), (Context::OfModel, None));
        assert_eq!((config.engine.disk_cache, config.engine.disk_cache_dir), (DiskCache::Bytes(4 << 30), DiskCacheFolder::OfUser));
    }

    #[test]
    fn flags_beat_environment_beats_file() {
        let file = "port = 1\nparallel = 3\nqueue = 5";
        let config = resolve(&[("port", "3")], &[("UNDERSTUDY_PORT", "2"), ("UNDERSTUDY_PARALLEL", "4")], file).unwrap();
        assert_eq!((config.server.port, config.engine.parallel.get(), config.engine.queue), (3, 4, 5));
    }

    #[test]
    fn a_role_decides_what_is_not_told() {
        let told = |file: &str| {
            let engine = resolve(&[], &[], file).unwrap().engine;
            (engine.queue, engine.max_wait.map(|wait| wait.as_secs()))
        };
        assert_eq!(told(""), (64, None));
        assert_eq!(told("role = 'pool-member'"), (64, Some(30)));
        assert_eq!(told("role = 'pool-member'\nmax_wait = 5\nqueue = 2"), (2, Some(5)));
        assert_eq!(told("role = 'pool-member'\nmax_wait = 'off'"), (64, None));
        assert_eq!(told("role = 'last-resort'"), (512, None));
        assert_eq!(told("role = 'last-resort'\nmax_wait = 'off'\nqueue = 3"), (3, None));
        let refused = error(&[("max_wait", "5")], &[("UNDERSTUDY_ROLE", "last-resort")], "");
        assert!(refused.starts_with("--max-wait: a last resort sends nobody away"), "{refused}");
        assert!(error(&[], &[], "role = 'hero'").contains("(pool-member, last-resort)"));
    }

    #[test]
    fn every_kind_of_value_in_a_file() {
        let file = r#"
            model = "org/repo:Q4_K_M"
            host = "localhost"
            context = "32k"
            memory = "1.5G"
            strict_model = true
            api-key = ["one", "two"]
            kv-type = "q8_0"
            device = "cuda:1"
            log_format = "json"
            weights = "huge"
            disk_cache = "off"
            disk-cache-dir = "some/where"
            max_wait = 45
        "#;
        let config = resolve(&[], &[], file).unwrap();
        assert_eq!(config.models.model, "org/repo:Q4_K_M");
        assert_eq!(config.engine.context, Context::Tokens(32_768));
        assert_eq!(config.engine.memory, Memory::Told { bytes: 3 << 29 });
        assert_eq!(config.engine.kv_type, KvDtype::Q8_0);
        assert_eq!(config.engine.device, DeviceChoice::Cuda(1));
        assert!(config.server.strict_model);
        assert_eq!(config.server.api_keys.iter().map(ApiKey::as_str).collect::<Vec<_>>(), ["one", "two"]);
        assert_eq!(config.log.format, LogFormat::Json);
        assert_eq!(config.engine.weights, Weights::Huge);
        assert_eq!(config.engine.disk_cache, DiskCache::Off);
        assert_eq!(config.engine.disk_cache_dir, DiskCacheFolder::Told("some/where".into()));
        assert_eq!(config.engine.max_wait, Some(Duration::from_secs(45)));
    }

    #[test]
    fn errors_name_the_source() {
        assert_eq!(error(&[("port", "abc")], &[], ""), "--port: \"abc\" is not a port (0 to 65535)");
        assert_eq!(error(&[], &[("UNDERSTUDY_PORT", "abc")], ""), "UNDERSTUDY_PORT: \"abc\" is not a port (0 to 65535)");
        assert_eq!(error(&[], &[], "# x\n\nport = 70000"), "understudy.toml line 3: port: \"70000\" is not a port (0 to 65535)");
        assert_eq!(error(&[], &[], "\n\nprot = 1"), "understudy.toml line 3: unknown key \"prot\", did you mean \"port\"?");
        assert_eq!(error(&[], &[], "zzzzzzzz = 1"), "understudy.toml line 1: unknown key \"zzzzzzzz\"");
        assert_eq!(error(&[], &[], "[port]\nx = 1"), "understudy.toml line 1: port: expected a number or a text, found a table");
        assert_eq!(error(&[], &[], "port = [1, 2]"), "understudy.toml line 1: port: expected one value, found 2");
        assert_eq!(error(&[("weights", "copy")], &[], ""), "--weights: \"copy\" is no way to hold weights (map, huge)");
        assert!(error(&[], &[], "port = ").starts_with("understudy.toml line 1: "));
        assert!(error(&[], &[("UNDERSTUDY_PORT", "tcp://10.0.0.1:7878")], "").contains("enableServiceLinks: false"));
        assert_eq!(error(&[("threads", "0")], &[], ""), "--threads: \"0\" is not a number from 1 to 1024");
        assert_eq!(error(&[("memory", "8Q")], &[], ""), "--memory: \"8Q\" is not a size (like 512M, 8G, 1.5G or a number of bytes)");
        assert_eq!(
            error(&[], &[("UNDERSTUDY_KV_TYPE", "q4_0")], ""),
            "UNDERSTUDY_KV_TYPE: unknown type of cache \"q4_0\": expected f16, f32 or q8_0"
        );
        assert_eq!(error(&[("device", "tpu")], &[], ""), "--device: unknown device \"tpu\": expected auto, cpu, cuda, cuda:N or metal");
    }

    #[test]
    fn upstreams_in_tables_and_in_a_list() {
        let of = |flags: &[(&'static str, &str)], file: &str| {
            let upstreams = resolve(flags, &[], file).unwrap().gateway.upstreams;
            upstreams.into_iter().map(|upstream| upstream.name).collect::<Vec<_>>()
        };
        let table = "port = 1\n[[upstream]]\nurl = 'https://a.example'";
        assert!(of(&[], "").is_empty());
        assert_eq!(of(&[], table), ["a.example"]);
        assert_eq!(
            of(&[("upstream", "https://a.example/other")], "[[upstream]]\nname = 'first'\nurl = 'https://a.example'"),
            ["first", "a.example"]
        );
        assert_eq!(of(&[], "upstream = 'https://a.example'\n[gateway]\ntakeover = false"), ["a.example"]);
        assert_eq!(
            error(&[], &[], "port = 1\n[[upstream]]\nurl = 'x'"),
            "understudy.toml line 3: url: \"x\" is not an address (like https://api.anthropic.com)"
        );
        assert_eq!(error(&[("upstream", "x")], &[], ""), "--upstream: url: \"x\" is not an address (like https://api.anthropic.com)");
        let login = "[[upstream]]\nurl = 'https://a.example'\nrelay_subscription_login = true";
        assert!(error(&[("host", "0.0.0.0"), ("unsafe_no_key", "true")], &[], login).contains("relays the login of a subscription"));
        assert_eq!(of(&[], login), ["a.example"]);
        assert!(error(&[], &[], "port = 1\n[gateway]\nnope = 2").starts_with("understudy.toml line 3: unknown field `nope`"));
    }

    #[test]
    fn a_config_knows_where_it_was_told() {
        let config = resolve(&[("model", "a/b")], &[("UNDERSTUDY_MODEL", "c/d"), ("UNDERSTUDY_DEVICE", "cpu")], "memory = '8G'").unwrap();
        let said = ["model", "device", "memory", "context"].map(|key| config.source(key).to_string());
        assert_eq!(said, ["MODEL", "UNDERSTUDY_DEVICE", "understudy.toml line 1: memory", "the default"]);
    }

    #[test]
    fn a_public_address_needs_a_key_or_a_word() {
        let refused = error(&[("host", "0.0.0.0")], &[], "");
        assert!(refused.starts_with("--host: 0.0.0.0 is reachable by others and no API key is set"), "{refused}");
        assert!(error(&[], &[], "host = '::'").starts_with("understudy.toml line 1: "));
        assert!(resolve(&[("host", "0.0.0.0"), ("unsafe_no_key", "true")], &[], "").is_ok());
        assert!(resolve(&[("host", "0.0.0.0"), ("api_key", "k")], &[], "").is_ok());
        assert!(resolve(&[("host", "::1")], &[], "").is_ok());
    }

    #[test]
    fn key_files() {
        let config = resolve(&[("api_key", "zero"), ("api_key_file", "keys")], &[], "").unwrap();
        assert_eq!(config.server.api_keys.iter().map(ApiKey::as_str).collect::<Vec<_>>(), ["zero", "first", "second"]);
        assert!(!format!("{config:?}").contains("second"), "a key was printed");
        assert_eq!(error(&[("api_key_file", "gone")], &[], ""), "--api-key-file: gone: no such file");
        assert_eq!(error(&[("api_key_file", "empty")], &[], ""), "--api-key-file: empty holds no key; write one key a line");
        assert_eq!(error(&[("api_key", "")], &[], ""), "--api-key: is empty");
        assert_eq!(error(&[], &[("UNDERSTUDY_API_KEY", "")], ""), "UNDERSTUDY_API_KEY: is empty");
        assert_eq!(error(&[], &[("UNDERSTUDY_API_KEY_FILE", "")], ""), "UNDERSTUDY_API_KEY_FILE: is empty");
        assert_eq!(resolve(&[], &[("UNDERSTUDY_PORT", "")], "").unwrap().server.port, PORT, "elsewhere empty is not told");
        let shown = error(&[("api_key", "se cret")], &[], "");
        assert!(!shown.contains("se cret"), "a key was printed: {shown}");
    }
}
