//! `understudy status` and `understudy use`: asks a running server who speaks, and tells it who is to.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use serde_json::{Value, json};

use super::args::{RemoteArgs, StatusArgs, UseArgs};
use super::failure::Failure;
use super::print;
use crate::gateway::status::{Status, Use};

/// A status bar asks every second or so and must not hang.
const LIMIT: Duration = Duration::from_secs(2);

pub fn status(args: &StatusArgs) -> Result<(), Failure> {
    let status = ask(&args.remote, None)?;
    match args.json {
        true => print::line(serde_json::to_string_pretty(&status).context("the status")?),
        false => print::line(status.to_string()),
    }
}

pub fn switch(args: &UseArgs) -> Result<(), Failure> {
    let mode = match args.mode.as_str() {
        "auto" => Use::Auto,
        "cloud" => Use::Cloud,
        "local" => Use::Local,
        other => return Err(Failure::Usage(format!("{other:?} is none of auto, cloud, local"))),
    };
    print::line(ask(&args.remote, Some(mode))?.to_string())
}

/// The status, after a change if one is wanted.
fn ask(remote: &RemoteArgs, change: Option<Use>) -> Result<Status, Failure> {
    let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(LIMIT)).http_status_as_error(false).build().into();
    let server = remote.server.trim_end_matches('/');
    let key = remote.api_key.clone().or_else(|| std::env::var("UNDERSTUDY_API_KEY").ok()).unwrap_or_default();
    let sent = match change {
        None => agent.get(format!("{server}/understudy/status")).header("x-understudy-key", &key).call(),
        Some(mode) => agent.post(format!("{server}/understudy/use")).header("x-understudy-key", &key).send_json(json!({"use": mode})),
    };
    let mut reply = sent.map_err(|error| anyhow!("no Understudy answers at {server}: {error}"))?;
    let status = reply.status().as_u16();
    let body: Value = reply.body_mut().read_json().with_context(|| format!("{server} answers, but not as an Understudy"))?;
    if status != 200 {
        let message = body["error"]["message"].as_str().unwrap_or("it gives no reason");
        return Err(anyhow!("{server} answers {status}: {message}").into());
    }
    Ok(serde_json::from_value(body).with_context(|| format!("{server} answers, but not as an Understudy of this version"))?)
}
