//! `understudy drill`: an upstream that misbehaves, a server before it as users run it, and a verdict on every case.

use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, anyhow};
use serde_json::{Value, json};

use super::args::DrillArgs;
use super::failure::Failure;
use super::print;
use super::run::client_folder::ClientFolder;
use crate::gateway::drill::answer::SIXTY_WORDS;
use crate::gateway::drill::cases::{self, Case};
use crate::gateway::drill::fault_upstream::FaultUpstream;
use crate::gateway::drill::plan::Plan;
use crate::gateway::drill::play::play;
use crate::gateway::drill::verdict::{Judged, Verdict};

pub fn run(args: &DrillArgs) -> Result<(), Failure> {
    let cases = chosen(args)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("threads for the network")?;
    let judged = runtime.block_on(drill(args, &cases))?;
    let count = |verdict| judged.iter().filter(|judged| judged.verdict == verdict).count();
    let (passed, safe, failed) = (count(Verdict::Pass), count(Verdict::Safe), count(Verdict::Fail));
    if args.json {
        let report = json!({"seed": args.seed, "pass": passed, "safe": safe, "fail": failed, "cases": judged});
        print::line(serde_json::to_string_pretty(&report).context("the verdicts")?)?;
    } else {
        print::line(format_args!("{passed} pass, {safe} safe, {failed} fail (seed {})", args.seed))?;
    }
    if failed > 0 { Err(anyhow!("{failed} of {} cases failed", judged.len()).into()) } else { Ok(()) }
}

/// The cases that were asked for.
fn chosen(args: &DrillArgs) -> Result<Vec<Case>, Failure> {
    if let Some(path) = &args.plan {
        let text = std::fs::read_to_string(path).map_err(|error| Failure::Usage(format!("--plan: {path}: {error}")))?;
        let plan = Plan::from_toml(&text).map_err(|error| Failure::Usage(format!("--plan: {path}: {error}")))?;
        return Ok(vec![Case::of_plan("plan", plan.with_seed(args.seed)); args.requests]);
    }
    let is_named = |case: &Case| args.only.is_empty() || args.only.iter().any(|text| case.name.contains(text.as_str()));
    let cases: Vec<Case> = cases::all(args.seed).into_iter().filter(|case| is_named(case) && !(args.quick && case.is_slow)).collect();
    if cases.is_empty() { Err(Failure::Usage("no case has such a name".to_owned())) } else { Ok(cases) }
}

async fn drill(args: &DrillArgs, cases: &[Case]) -> Result<Vec<Judged>, Failure> {
    let behind = args.upstream.as_deref().map(|url| address(url, "--upstream")).transpose()?;
    let listen = args.listen.unwrap_or((Ipv4Addr::LOCALHOST, 0).into());
    let upstream = FaultUpstream::start_at(listen, Plan::healthy(), behind).await.with_context(|| format!("cannot listen on {listen}"))?;
    let (door, _server) = match &args.target {
        Some(url) => (address(url, "--target")?, None),
        None => {
            let server = Server::before(&upstream, args)?;
            (server.address, Some(server))
        }
    };
    let mut judged = Vec::new();
    for case in cases {
        let verdict = play(case, &upstream, door).await;
        if !args.json {
            print::line(&verdict)?;
        }
        judged.push(verdict);
    }
    Ok(judged)
}

/// `http://127.0.0.1:7878`, or without the scheme. No names: a drill is about machines that answer.
fn address(url: &str, option: &str) -> Result<SocketAddr, Failure> {
    let bare = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
    bare.parse().map_err(|_| Failure::Usage(format!("{option} {url:?} is not like http://127.0.0.1:7878")))
}

/// This program as a server with one upstream; ended with the drill.
struct Server {
    child: Child,
    address: SocketAddr,
    /// Its configuration, and its journal.
    _folder: ClientFolder,
}

impl Server {
    fn before(upstream: &FaultUpstream, args: &DrillArgs) -> Result<Self, Failure> {
        let folder = ClientFolder::disposable().context("a folder for the drill")?;
        let path = |name: &str| folder.path().join(name);
        let write = |name: &str, text: String| std::fs::write(path(name), text).with_context(|| path(name).display().to_string());
        // JSON's strings are TOML's.
        let text = |text: &str| Value::from(text).to_string();
        let journal = text(&folder.path().display().to_string());
        let table = format!(
            "[gateway]\njournal = {journal}\n\n[[upstream]]\nname = \"drill\"\nkind = \"anthropic\"\nurl = {}\n",
            text(&upstream.url())
        );
        write("understudy.toml", table)?;
        write("model.toml", format!("[default]\ntext = {}\n", text(SIXTY_WORDS)))?;
        let model = args.model.clone().unwrap_or_else(|| format!("scripted:{}", path("model.toml").display()));
        let program = std::env::current_exe().context("the path of this program")?;
        let mut command = Command::new(program);
        // Settings of the user's own are not what is drilled.
        let own = std::env::vars_os().map(|(name, _)| name).filter(|name| name.to_string_lossy().starts_with("UNDERSTUDY_"));
        own.for_each(|name| _ = command.env_remove(name));
        command.args(["serve", &model, "--port", "0", "--log-format", "json", "--log-level", "error", "--disk-cache", "off"]);
        command.arg("--config").arg(path("understudy.toml")).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut server = Self { child: command.spawn().context("a server for the drill")?, address: upstream.address(), _folder: folder };
        let stdout = server.child.stdout.take().context("the server's output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).context("the server's first line")?;
        let told: Value =
            serde_json::from_str(&line).map_err(|_| anyhow!("the server for the drill did not start; what it said is above"))?;
        server.address = told["address"].as_str().and_then(|address| address.parse().ok()).context("the server's address")?;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It holds nothing that must be kept.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
