//! Proxies that relay and do nothing else, where they are installed: what this machine takes from anybody who stands in between.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use super::Error;

/// One of them, in front of the upstream; it ends with this.
pub struct Peer {
    pub name: &'static str,
    pub address: SocketAddr,
    child: Child,
    config: PathBuf,
}

/// Those that this machine has.
pub fn start(upstream: SocketAddr) -> Vec<Peer> {
    [("nginx", nginx as fn(_, _) -> _), ("haproxy", haproxy)]
        .into_iter()
        .filter_map(|(name, text)| {
            let started = Peer::start(name, upstream, text);
            started.inspect_err(|error| println!("{name} is left out: {error}")).ok()
        })
        .collect()
}

impl Peer {
    fn start(name: &'static str, upstream: SocketAddr, text: fn(SocketAddr, SocketAddr) -> String) -> Result<Self, Error> {
        // Nobody else is asked for a port meanwhile.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let config = std::env::temp_dir().join(format!("understudy-bench-{}-{name}.conf", std::process::id()));
        std::fs::write(&config, text(address, upstream))?;
        let mut command = Command::new(name);
        match name {
            "nginx" => command.arg("-c").arg(&config),
            _ => command.arg("-f").arg(&config),
        };
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let peer = Self { name, address, child, config };
        for _ in 0..100 {
            if TcpStream::connect(address).is_ok() {
                return Ok(peer);
            }
            thread::sleep(Duration::from_millis(20));
        }
        Err("it does not listen".into())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = (std::fs::remove_file(&self.config), std::fs::remove_file(pid_file()));
    }
}

fn pid_file() -> PathBuf {
    std::env::temp_dir().join(format!("understudy-bench-{}-nginx.pid", std::process::id()))
}

/// One process, connections kept, bytes as they come, nothing logged. The file with its number is its own, because nginx removes it in the end:
/// named `/dev/null`, it would take that from the whole machine.
fn nginx(address: SocketAddr, upstream: SocketAddr) -> String {
    let pid = pid_file();
    let pid = pid.display();
    format!(
        "daemon off; master_process off; error_log stderr crit; pid {pid};\nevents {{ }}\nhttp {{\n  access_log off; keepalive_requests 1000000000;\n  \
         upstream cloud {{ server {upstream}; keepalive 16; }}\n  server {{\n    listen {address};\n    location / {{\n      \
         proxy_pass http://cloud; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_buffering off;\n    }}\n  }}\n}}\n"
    )
}

fn haproxy(address: SocketAddr, upstream: SocketAddr) -> String {
    format!(
        "global\n  nbthread 1\ndefaults\n  mode http\n  option http-no-delay\n  http-reuse always\n  timeout connect 2s\n  timeout client 60s\n  \
         timeout server 60s\nfrontend door\n  bind {address}\n  default_backend cloud\nbackend cloud\n  server cloud {upstream}\n"
    )
}
