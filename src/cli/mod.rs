//! The command line: what was typed becomes a [`Config`], and a subcommand runs with it. Says on stderr what went wrong and what to do.
//!
//! Exit codes: 0 it worked, 1 it failed, 2 it was asked for wrongly, 130 it was interrupted. Standard output carries results only.

use std::env::VarError;
use std::process::ExitCode;

use clap::Parser;

use crate::config::Config;
use crate::config::gateway::Keys;
use crate::config::settings::{Layers, NOT_UTF_8};

pub mod args;
mod failure;

mod bench;
mod cache;
mod chat;
mod drill;
mod gateway;
mod models;
mod pull;
mod report;
mod run;
mod serve;
mod version;

mod disk_cache;
mod draft_model;
mod embedding;
mod load;
mod load_scripted;
mod log_ring;
pub mod machine;
pub mod memory_plan;
mod model_digest;
mod print;
mod state_folder;

use args::{Args, Command, CommonArgs};
use failure::Failure;

/// Runs the program with the process' own arguments and environment.
pub fn main() -> ExitCode {
    // On a usage error clap prints it and leaves with 2; for --help and --version with 0.
    let args = Args::parse();
    let _last_lines = print::LastLines;
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(args: Args) -> Result<(), Failure> {
    if let Some(name) = args.misplaced_command() {
        let message = format!("options go after the command: understudy {name} [OPTIONS]; a model in a file of that name is ./{name}");
        return Err(Failure::Usage(message));
    }
    let mut layers = Layers::default();
    match args.command.unwrap_or(Command::Serve(args.serve)) {
        Command::Serve(serve) => {
            serve.tell(&mut layers);
            serve::run(resolve(layers, &serve.common)?)
        }
        Command::Run(run) => {
            run.common.tell(&mut layers);
            run::run(&resolve_locally(layers, &run.common)?, &run)
        }
        Command::Chat(chat) => {
            args::tell_model(&chat.model, &mut layers);
            chat.engine.tell(&mut layers);
            chat.common.tell(&mut layers);
            chat::run(&resolve_locally(layers, &chat.common)?, &chat)
        }
        Command::Bench(bench) => {
            args::tell_model(&bench.model, &mut layers);
            bench.engine.tell(&mut layers);
            bench.common.tell(&mut layers);
            bench::run(&resolve_locally(layers, &bench.common)?, &bench)
        }
        Command::Pull(pull) => {
            args::tell_model(&Some(pull.model.clone()), &mut layers);
            pull.common.tell(&mut layers);
            pull::run(&resolve_locally(layers, &pull.common)?)
        }
        Command::Models(models) => {
            models.common.tell(&mut layers);
            models::run(&resolve_locally(layers, &models.common)?, models.json)
        }
        Command::Cache(cache) => {
            cache.disk.tell(&mut layers);
            cache.common.tell(&mut layers);
            cache::run(&resolve_locally(layers, &cache.common)?, &cache)
        }
        Command::Status(args) => gateway::status(&args),
        Command::Use(args) => gateway::switch(&args),
        Command::Report(args) => {
            args.common.tell(&mut layers);
            report::run(&resolve_locally(layers, &args.common)?, &args)
        }
        Command::Drill(args) => drill::run(&args),
        Command::Version => version::run(),
    }
}

/// Adds environment and file under the flags, and starts the log.
fn resolve(mut layers: Layers, common: &CommonArgs) -> Result<Config, Failure> {
    let warnings = layers.env(std::env::vars_os())?;
    if let Some((name, text)) = config_file(common)? {
        layers.file(&name, &text)?;
    }
    let keys = Keys { file: &|path| std::fs::read_to_string(path), variable: &|name| std::env::var(name).ok() };
    let config = Config::resolve(&layers, machine::machine(), &keys)?;
    print::start_log(&config)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    Ok(config)
}

/// For commands that listen nowhere: a host that wants a key is no reason to refuse them.
fn resolve_locally(mut layers: Layers, common: &CommonArgs) -> Result<Config, Failure> {
    layers.flag("unsafe_no_key", vec!["true".to_owned()]);
    resolve(layers, common)
}

/// The file told by `--config` or UNDERSTUDY_CONFIG, which must exist; else `understudy.toml` here, else the user's, where there is one.
fn config_file(common: &CommonArgs) -> Result<Option<(String, String)>, Failure> {
    let told = match (&common.config, std::env::var("UNDERSTUDY_CONFIG")) {
        (Some(path), _) => Some((path.clone(), "--config")),
        (None, Ok(path)) => Some((path, "UNDERSTUDY_CONFIG")),
        (None, Err(VarError::NotPresent)) => None,
        (None, Err(VarError::NotUnicode(_))) => return Err(Failure::Usage(format!("UNDERSTUDY_CONFIG: {NOT_UTF_8}"))),
    };
    if let Some((path, source)) = told.filter(|(path, _)| !path.is_empty()) {
        let text = std::fs::read_to_string(&path).map_err(|e| Failure::Usage(format!("{source}: {path}: {e}")))?;
        return Ok(Some((path, text)));
    }
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(std::path::PathBuf::from);
    let user = variable("XDG_CONFIG_HOME").or_else(|| variable("HOME").map(|home| home.join(".config")));
    let candidates = [Some("understudy.toml".into()), user.map(|folder| folder.join("understudy/understudy.toml"))];
    for path in candidates.into_iter().flatten() {
        match std::fs::read_to_string(&path) {
            Ok(text) => return Ok(Some((path.display().to_string(), text))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Failure::Usage(format!("{}: {e}", path.display()))),
        }
    }
    Ok(None)
}
