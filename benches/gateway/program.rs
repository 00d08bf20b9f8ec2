//! The program as it is delivered, in a process of its own, with or without an upstream.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::Error;

pub struct Program {
    child: Child,
    pub address: SocketAddr,
    config: PathBuf,
}

impl Program {
    /// Serves the built-in model; `upstream` is asked before it.
    pub fn start(upstream: Option<SocketAddr>) -> Result<Self, Error> {
        let name = if upstream.is_some() { "door" } else { "alone" };
        let config = std::env::temp_dir().join(format!("understudy-bench-{}-{name}.toml", std::process::id()));
        let mut text = "[gateway]\njournal = \"off\"\n".to_owned();
        if let Some(upstream) = upstream {
            text += &format!("[[upstream]]\nname = \"cloud\"\nkind = \"anthropic\"\nurl = \"http://{upstream}\"\n");
        }
        std::fs::write(&config, text)?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_understudy"));
        command.args(["serve", "--port", "0", "--disk-cache", "off", "--config"]).arg(&config);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines();
        let line = lines.find_map(|line| line.ok().filter(|line| line.contains("http://"))).ok_or("the server did not start")?;
        let address = line.split("http://").nth(1).and_then(|rest| rest.split(['/', ' ']).next()).ok_or("no address")?.parse()?;
        Ok(Self { child, address, config })
    }

    /// What it holds of the machine's memory.
    pub fn resident_kib(&self) -> Result<f64, Error> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.config);
    }
}
