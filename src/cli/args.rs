//! What can be typed. Every setting is taken as text and read by `config`, so that a flag, a variable and a line of the file
//! get the same reading and the same errors.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args as ClapArgs, CommandFactory, Parser, Subcommand};
use kernels::BLOCK_TOKENS;

use crate::chat::SamplingOptions;
use crate::config::PARALLEL_MAX;
use crate::config::settings::Layers;

/// A local LLM server with OpenAI-compatible endpoints; it brings a small model along.
#[derive(Debug, Parser)]
#[command(
    name = "understudy",
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Every option is also UNDERSTUDY_<NAME> in the environment and a key of understudy.toml\n\
                  (the one in this folder, else ~/.config/understudy/understudy.toml).\n\
                  Models: `builtin`, a path to a .gguf file, or org/repo[:quant] of the Hugging Face Hub."
)]
pub struct Args {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub serve: ServeArgs,
}

// There is one of it in a process.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve a model (what happens without a command, too)
    Serve(ServeArgs),
    /// Start a client with this server for its cloud, without a login: claude, codex, opencode, aider, or -- COMMAND
    Run(RunArgs),
    /// Talk to a model in the terminal; with a pipe on stdin, one answer a line
    Chat(ChatArgs),
    /// Fetch a model from the Hub into the cache
    Pull(PullArgs),
    /// List the models at hand
    Models(ModelsArgs),
    /// Show what the disk keeps of long prompts, or delete it
    Cache(CacheArgs),
    /// One line: who answers, the cloud or this machine, and what is wrong with whom
    Status(StatusArgs),
    /// Tell a running server whom to ask: auto, cloud or local
    Use(UseArgs),
    /// Show how available the upstreams were, from the journal
    Report(ReportArgs),
    /// Try what becomes of every fault: an upstream that misbehaves, a front door before it, and a verdict each
    Drill(DrillArgs),
    /// Measure a model on this machine
    Bench(BenchArgs),
    /// Print the version and what this build can do
    Version,
}

#[derive(Debug, Default, ClapArgs)]
pub struct ServeArgs {
    /// `builtin`, a path to a .gguf file, or org/repo[:quant] [default: builtin]
    pub model: Option<String>,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Debug, Default, ClapArgs)]
#[command(next_help_heading = "Server")]
pub struct ServerArgs {
    /// Address to listen on [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS")]
    host: Option<String>,
    /// Port; 0 takes a free one and prints it [default: 7878]
    #[arg(long, short)]
    port: Option<String>,
    /// A key clients must send; may be repeated (other users see flags in `ps`: prefer the file)
    #[arg(long, value_name = "KEY")]
    api_key: Vec<String>,
    /// A file of keys, one a line
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<String>,
    /// Serve without a key even where others can reach the address
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    unsafe_no_key: Option<String>,
    /// A further name clients may use for this server in `Host`; may be repeated
    #[arg(long, value_name = "NAME")]
    allow_host: Vec<String>,
    /// A web origin whose pages may call this server, or *; may be repeated [default: none]
    #[arg(long, value_name = "ORIGIN")]
    cors_origin: Vec<String>,
    /// A cloud that is asked before the local model, like https://api.anthropic.com; may be given several times [default: none]
    #[arg(long, value_name = "URL")]
    upstream: Vec<String>,
    /// For /v1/embeddings and /v1/rerank: a folder with a BERT-like model, a .gguf file, or org/repo[:quant] [default: the model itself]
    #[arg(long, value_name = "MODEL")]
    embedding_model: Option<String>,
    /// Answer 404 to any model name but the loaded one's
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    strict_model: Option<String>,
    /// Longest request body [default: 8M; 32M where there are upstreams]
    #[arg(long, value_name = "SIZE")]
    body_max: Option<String>,
    /// How long a shutdown waits for running requests [default: 30]
    #[arg(long, value_name = "SECONDS")]
    drain_timeout: Option<String>,
    /// Behind a proxy: pool-member (a long wait is answered 503, --max-wait is 30) or last-resort (who comes waits, --queue is 512)
    #[arg(long, value_name = "ROLE")]
    role: Option<String>,
}

/// A server that runs.
#[derive(Debug, ClapArgs)]
pub struct RemoteArgs {
    /// Its address
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7878")]
    pub server: String,
    /// Its key, where it asks for one [default: UNDERSTUDY_API_KEY]
    #[arg(long, value_name = "KEY")]
    pub api_key: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub struct StatusArgs {
    #[command(flatten)]
    pub remote: RemoteArgs,
    /// All that is known, as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, ClapArgs)]
pub struct UseArgs {
    /// auto, cloud or local
    pub mode: String,
    #[command(flatten)]
    pub remote: RemoteArgs,
}

#[derive(Debug, ClapArgs)]
pub struct ReportArgs {
    /// How far back: 90s, 15m, 24h, 30d
    #[arg(long, value_name = "TIME", default_value = "24h")]
    pub since: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Debug, ClapArgs)]
pub struct DrillArgs {
    /// A plan of your own (TOML) instead of the built-in cases
    #[arg(long, value_name = "FILE")]
    pub plan: Option<String>,
    /// The same seed gives the same faults
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Leave out the cases that wait for a limit
    #[arg(long)]
    pub quick: bool,
    /// Only cases with this in their name; may be repeated
    #[arg(long, value_name = "TEXT")]
    pub only: Vec<String>,
    /// Faults in front of this upstream (http://ADDRESS:PORT) instead of a pretended one; with --plan
    #[arg(long, value_name = "URL", requires = "plan")]
    pub upstream: Option<String>,
    /// With --plan: how many requests are sent
    #[arg(long, value_name = "N", default_value_t = 10, requires = "plan")]
    pub requests: usize,
    /// What answers when the cloud does not: any model that `serve` takes [default: one that says sixty words]
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// Drive this server (http://ADDRESS:PORT) instead of one that is started for the drill; its upstream is --listen
    #[arg(long, value_name = "URL", requires = "listen")]
    pub target: Option<String>,
    /// Where the upstream that misbehaves listens [default: a free port]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<std::net::SocketAddr>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Default, ClapArgs)]
#[command(next_help_heading = "Engine")]
pub struct EngineArgs {
    /// Threads that compute [default: the physical cores; all but one from five up]
    #[arg(long, short)]
    threads: Option<String>,
    /// Keep each of these threads on a core of its own
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pin: Option<String>,
    /// Tokens of a conversation, like 8192 or 32k [default: the model's own, as far as the memory goes]
    #[arg(long, value_name = "TOKENS")]
    context: Option<String>,
    /// Budget for weights, cache and scratch, like 8G [default: half of what is available]
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
    /// map: weights stay in the mapped file; huge: they are copied once to huge pages [default: map]
    #[arg(long, value_name = "HOW")]
    weights: Option<String>,
    /// Requests answered at once [default: 8]
    #[arg(long, value_name = "N")]
    parallel: Option<String>,
    /// Requests that may wait; beyond them 503 is answered [default: 64]
    #[arg(long, value_name = "N")]
    queue: Option<String>,
    /// Tokens guessed ahead in a step, from what the conversation says already; answers stay the same; 0 turns it off [default: 16]
    #[arg(long, value_name = "N")]
    drafts: Option<String>,
    /// A smaller model of the same vocabulary that guesses where the conversation has no guess: a .gguf file, or org/repo[:quant] [default: none]
    #[arg(long, value_name = "MODEL")]
    draft_model: Option<String>,
    /// A request whose first token would come later is answered 503, as soon as that is predicted; or off [default: off]
    #[arg(long, value_name = "SECONDS")]
    max_wait: Option<String>,
    /// How keys and values are cached: f16, f32, or q8_0, which takes about half of f16's memory (CPU only) [default: f16]
    #[arg(long, value_name = "TYPE")]
    kv_type: Option<String>,
    /// auto, cpu, cuda, cuda:N or metal [default: auto]
    #[arg(long)]
    device: Option<String>,
    #[command(flatten)]
    disk: DiskArgs,
}

#[derive(Debug, Default, ClapArgs)]
#[command(next_help_heading = "Disk cache")]
pub struct DiskArgs {
    /// What long prompts may take of the disk, so that they need not be computed again after a restart; or off [default: 4G]
    #[arg(long, value_name = "SIZE")]
    disk_cache: Option<String>,
    /// The folder for it [default: ~/.cache/understudy]
    #[arg(long, value_name = "FOLDER")]
    disk_cache_dir: Option<String>,
}

#[derive(Debug, Default, ClapArgs)]
#[command(next_help_heading = "General")]
pub struct CommonArgs {
    /// Use this configuration file
    #[arg(long, value_name = "FILE")]
    pub config: Option<String>,
    /// Never touch the network
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    offline: Option<String>,
    /// text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// error, warn, info, debug, trace, or a filter like understudy=debug [default: info]
    #[arg(long, value_name = "FILTER")]
    log_level: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub struct ChatArgs {
    /// `builtin`, a path to a .gguf file, or org/repo[:quant] [default: builtin]
    pub model: Option<String>,
    /// Text of the system message
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Most tokens of one answer
    #[arg(long, value_name = "N")]
    pub max_tokens: Option<usize>,
    /// 0 to 2; 0 always takes the likeliest token
    #[arg(long, value_parser = temperature, allow_negative_numbers = true)]
    pub temperature: Option<f32>,
    /// The same seed gives the same answers
    #[arg(long)]
    pub seed: Option<u64>,
    #[command(flatten)]
    pub engine: EngineArgs,
    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Debug, ClapArgs)]
pub struct RunArgs {
    /// Where the server is; where none answers on this machine, one is started and ends with the client [default: http://127.0.0.1:7878]
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
    /// A file with the key that the server asks for
    #[arg(long, value_name = "FILE")]
    pub server_key_file: Option<PathBuf>,
    /// What a server that is started serves: `builtin`, a path to a .gguf file, or org/repo[:quant] [default: builtin]
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// The model's name that the client is told
    #[arg(long, value_name = "NAME", default_value = "local")]
    pub name: String,
    /// A folder for the client's settings and conversations [default: one that is removed at the end]
    #[arg(long, value_name = "FOLDER")]
    pub keep: Option<PathBuf>,
    /// Print what would be done as lines for a shell, and do nothing
    #[arg(long)]
    pub print: bool,
    #[command(flatten)]
    pub common: CommonArgs,
    /// The client, and what it is told itself
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CLIENT")]
    pub command: Vec<OsString>,
}

#[derive(Debug, ClapArgs)]
pub struct PullArgs {
    /// org/repo[:quant]
    pub model: String,
    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Debug, ClapArgs)]
pub struct ModelsArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Debug, ClapArgs)]
pub struct CacheArgs {
    /// purge deletes all of it
    pub action: Option<CacheAction>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub disk: DiskArgs,
    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum CacheAction {
    Purge,
}

#[derive(Debug, ClapArgs)]
pub struct BenchArgs {
    /// `builtin`, a path to a .gguf file, or org/repo[:quant] [default: builtin]
    pub model: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Runs of each figure; the median is printed
    #[arg(long, value_name = "N", default_value = "3")]
    pub runs: NonZeroUsize,
    /// Measure only these: prefill, decode, profile (time op by op, beside what the machine could do); restart (a prompt of 20,000
    /// tokens cold, again, and from the disk after a restart) only where it is named [default: the others]
    #[arg(long, value_name = "PARTS", value_delimiter = ',')]
    pub only: Vec<BenchPart>,
    /// Streams that decode together
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "1,4,8,16", value_parser = streams)]
    pub streams: Vec<NonZeroUsize>,
    /// Measure prefill and decode of one stream behind so many tokens; multiples of 32
    #[arg(long, value_name = "TOKENS,..", value_delimiter = ',', default_value = "0", value_parser = depth)]
    pub depth: Vec<usize>,
    /// Also at 4096, 8192 and 16384, as far as the context holds them (that takes minutes with a large model)
    #[arg(long)]
    pub depths: bool,
    #[command(flatten)]
    pub engine: EngineArgs,
    #[command(flatten)]
    pub common: CommonArgs,
}

/// What `bench` can measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum BenchPart {
    Prefill,
    Decode,
    Profile,
    /// Takes minutes with a large model.
    Restart,
}

impl BenchArgs {
    pub fn measures(&self, part: BenchPart) -> bool {
        if self.only.is_empty() { part != BenchPart::Restart } else { self.only.contains(&part) }
    }
}

impl Args {
    /// A command's name where the model stands: an option came before it, and clap takes commands only as the first word.
    pub fn misplaced_command(&self) -> Option<&str> {
        let model = self.serve.model.as_deref().filter(|_| self.command.is_none())?;
        let mut command = Self::command();
        // Adds `help`, which is nobody's definition.
        command.build();
        command.get_subcommands().any(|known| known.get_name() == model).then_some(model)
    }
}

impl ServeArgs {
    pub fn tell(&self, layers: &mut Layers) {
        tell_model(&self.model, layers);
        self.server.tell(layers);
        self.engine.tell(layers);
        self.common.tell(layers);
    }
}

impl ServerArgs {
    fn tell(&self, layers: &mut Layers) {
        layers.flag("host", one(&self.host));
        layers.flag("port", one(&self.port));
        layers.flag("api_key", self.api_key.clone());
        layers.flag("api_key_file", one(&self.api_key_file));
        layers.flag("unsafe_no_key", one(&self.unsafe_no_key));
        layers.flag("allow_host", self.allow_host.clone());
        layers.flag("cors_origin", self.cors_origin.clone());
        layers.flag("upstream", self.upstream.clone());
        layers.flag("embedding_model", one(&self.embedding_model));
        layers.flag("strict_model", one(&self.strict_model));
        layers.flag("body_max", one(&self.body_max));
        layers.flag("drain_timeout", one(&self.drain_timeout));
        layers.flag("role", one(&self.role));
    }
}

impl EngineArgs {
    pub fn tell(&self, layers: &mut Layers) {
        layers.flag("threads", one(&self.threads));
        layers.flag("pin", one(&self.pin));
        layers.flag("context", one(&self.context));
        layers.flag("memory", one(&self.memory));
        layers.flag("weights", one(&self.weights));
        layers.flag("parallel", one(&self.parallel));
        layers.flag("queue", one(&self.queue));
        layers.flag("drafts", one(&self.drafts));
        layers.flag("draft_model", one(&self.draft_model));
        layers.flag("max_wait", one(&self.max_wait));
        layers.flag("kv_type", one(&self.kv_type));
        layers.flag("device", one(&self.device));
        self.disk.tell(layers);
    }
}

impl DiskArgs {
    pub fn tell(&self, layers: &mut Layers) {
        layers.flag("disk_cache", one(&self.disk_cache));
        layers.flag("disk_cache_dir", one(&self.disk_cache_dir));
    }
}

impl CommonArgs {
    pub fn tell(&self, layers: &mut Layers) {
        layers.flag("offline", one(&self.offline));
        layers.flag("log_format", one(&self.log_format));
        layers.flag("log_level", one(&self.log_level));
    }

    /// As it was typed, for a process of our own.
    pub fn typed(&self) -> Vec<String> {
        let options =
            [("config", &self.config), ("offline", &self.offline), ("log-format", &self.log_format), ("log-level", &self.log_level)];
        options.into_iter().filter_map(|(name, value)| Some(format!("--{name}={}", value.as_ref()?))).collect()
    }
}

fn streams(text: &str) -> Result<NonZeroUsize, String> {
    let number = text.parse::<NonZeroUsize>().ok().filter(|number| number.get() <= PARALLEL_MAX);
    number.ok_or_else(|| format!("must be a number from 1 to {PARALLEL_MAX}"))
}

/// The cache keeps whole blocks, so only such a context is found in it whole.
fn depth(text: &str) -> Result<usize, String> {
    let number = text.parse::<usize>().ok().filter(|number| number.is_multiple_of(BLOCK_TOKENS));
    number.ok_or_else(|| format!("must be a multiple of {BLOCK_TOKENS}"))
}

/// Within what a request to the server may ask for.
fn temperature(text: &str) -> Result<f32, String> {
    let bounds = SamplingOptions::TEMPERATURE;
    let number = text.parse::<f64>().ok().filter(|number| bounds.contains(number));
    number.map(|number| number as f32).ok_or_else(|| format!("must be a number from {} to {}", bounds.start(), bounds.end()))
}

pub fn tell_model(model: &Option<String>, layers: &mut Layers) {
    layers.flag("model", one(model));
}

fn one(value: &Option<String>) -> Vec<String> {
    value.iter().cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::KEYS;

    #[test]
    fn clap_accepts_the_definition() {
        Args::command().debug_assert();
    }

    #[test]
    fn every_setting_is_an_option_of_serve() {
        let command = Args::command();
        let typed: Vec<String> = command.get_arguments().map(|argument| argument.get_id().to_string()).collect();
        for key in KEYS {
            assert!(typed.iter().any(|id| id == key), "{key} cannot be typed");
        }
        let of_the_line_alone = ["config", "help", "version"];
        for id in typed.iter().filter(|id| !of_the_line_alone.contains(&id.as_str())) {
            assert!(KEYS.contains(&id.as_str()), "--{id} is no setting");
        }
    }

    #[test]
    fn serve_is_the_command_where_none_is_typed() {
        let args = Args::try_parse_from(["understudy", "model.gguf", "--port", "0"]).unwrap();
        assert!(args.command.is_none());
        assert_eq!(args.serve.model.as_deref(), Some("model.gguf"));
        let args = Args::try_parse_from(["understudy", "serve", "--strict-model", "--api-key", "a", "--api-key", "b"]).unwrap();
        let Some(Command::Serve(serve)) = args.command else { panic!("serve was typed") };
        assert_eq!(serve.server.strict_model.as_deref(), Some("true"));
        assert_eq!(serve.server.api_key, ["a", "b"]);
    }

    #[test]
    fn a_temperature_is_one_a_request_may_ask_for() {
        for right in ["0", "0.7", "2"] {
            assert!(Args::try_parse_from(["understudy", "chat", "--temperature", right]).is_ok(), "{right}");
        }
        for wrong in ["nan", "-1", "inf", "-inf", "2.1", "warm", ""] {
            let error = Args::try_parse_from(["understudy", "chat", "--temperature", wrong]).unwrap_err().to_string();
            assert!(error.contains("must be a number from 0 to 2") || wrong == "-inf", "{wrong}: {error}");
        }
    }

    #[test]
    fn what_follows_a_client_is_the_client_s() {
        let run = |words: &[&str]| match Args::try_parse_from(["understudy", "run"].iter().chain(words)).map(|args| args.command) {
            Ok(Some(Command::Run(run))) => Ok(run),
            Ok(_) => panic!("run was typed"),
            Err(error) => Err(error),
        };
        let args = run(&["--model", "m.gguf", "claude", "--model", "opus", "--print", "--", "-p"]).unwrap();
        assert_eq!((args.model.as_deref(), args.print), (Some("m.gguf"), false));
        assert_eq!(args.command, ["claude", "--model", "opus", "--print", "--", "-p"]);
        let args = run(&["--print", "--", "tool", "--print"]).unwrap();
        assert!(args.print && args.command == ["tool", "--print"], "{args:?}");
        assert!(run(&[]).is_err() && run(&["--print"]).is_err(), "no client");
        let args = run(&["--offline", "--log-level", "debug", "aider"]).unwrap();
        assert_eq!(args.common.typed(), ["--offline=true", "--log-level=debug"]);
    }

    #[test]
    fn streams_and_depths_of_a_benchmark() {
        let bench = |words: &[&str]| Args::try_parse_from(["understudy", "bench"].iter().chain(words)).map(|args| args.command);
        let Ok(Some(Command::Bench(args))) = bench(&["--depth", "0,4096", "--streams", "2", "--only", "decode,profile"]) else {
            panic!("bench was typed")
        };
        assert_eq!((args.depth.as_slice(), args.streams.len()), ([0, 4096].as_slice(), 1));
        assert!(args.measures(BenchPart::Decode) && !args.measures(BenchPart::Prefill));
        let Ok(Some(Command::Bench(args))) = bench(&[]) else { panic!("bench was typed") };
        assert!(args.measures(BenchPart::Profile) && !args.measures(BenchPart::Restart));
        for wrong in [["--depth", "100"], ["--depth", "x"], ["--streams", "0"], ["--streams", "1,513"], ["--only", "all"]] {
            assert!(bench(&wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_command_behind_an_option_is_no_model() {
        let misplaced = |words: &[&str]| Args::try_parse_from(words).unwrap().misplaced_command().map(str::to_owned);
        for name in ["serve", "run", "chat", "pull", "models", "cache", "bench", "version", "help"] {
            assert_eq!(misplaced(&["understudy", "--offline", name]).as_deref(), Some(name));
        }
        assert_eq!(misplaced(&["understudy", "--offline", "./models"]), None);
        assert_eq!(misplaced(&["understudy", "models", "--offline"]), None);
        assert_eq!(misplaced(&["understudy", "serve", "models"]), None);
    }
}
