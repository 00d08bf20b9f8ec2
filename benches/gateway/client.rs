//! A client on one connection that stays open, and knows when which bytes had come.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::Error;
use super::cloud::Say;

/// Beyond every limit: what takes longer hangs.
const HANGS: Duration = Duration::from_secs(60);

pub struct Client {
    stream: TcpStream,
    piece: Vec<u8>,
    /// Of the reply that is being read.
    pub read: Vec<u8>,
    sent_at: Instant,
}

impl Client {
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(HANGS))?;
        Ok(Self { stream, piece: vec![0; 1 << 16], read: Vec::new(), sent_at: Instant::now() })
    }

    /// Asks for a reply; `session` names the conversation.
    pub fn send(&mut self, say: Say, body: &str, session: usize) -> io::Result<()> {
        // What the SDK of Anthropic sends, by and large.
        let head = format!(
            "POST {} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\naccept: application/json\r\nuser-agent: bench/1.0\r\n\
             x-api-key: sk-ant-api03-bench\r\nanthropic-version: 2023-06-01\r\nx-stainless-lang: rust\r\nx-stainless-os: Linux\r\n\
             x-session-id: {session}\r\ncontent-length: {}\r\n\r\n",
            say.path(),
            body.len()
        );
        let request = [head.as_bytes(), body.as_bytes()].concat();
        self.read.clear();
        self.sent_at = Instant::now();
        self.stream.write_all(&request)
    }

    pub fn sent_at(&self) -> Instant {
        self.sent_at
    }

    /// Reads until something came, and tells when.
    pub fn more(&mut self) -> Result<Instant, Error> {
        let got = self.stream.read(&mut self.piece)?;
        let at = Instant::now();
        if got == 0 {
            return Err(format!("the connection ended after {:?}", String::from_utf8_lossy(&self.read)).into());
        }
        self.read.extend_from_slice(&self.piece[..got]);
        Ok(at)
    }

    /// How long after the request the first byte came.
    pub fn first_byte(&mut self) -> Result<Duration, Error> {
        Ok(self.more()?.duration_since(self.sent_at))
    }

    /// When these bytes had come, behind those of before; `after` is where they are looked for.
    pub fn until(&mut self, wanted: &[u8], after: usize) -> Result<Instant, Error> {
        // What has come already came earlier, and nobody knows when.
        let mut at = Instant::now();
        let mut from = after;
        while find(&self.read[from..], wanted).is_none() {
            if is_whole(&self.read) {
                return Err(format!("no {:?} in {:?}", String::from_utf8_lossy(wanted), String::from_utf8_lossy(&self.read)).into());
            }
            from = after.max((self.read.len() + 1).saturating_sub(wanted.len()));
            at = self.more()?;
        }
        Ok(at)
    }

    /// Reads to the reply's end. Errors: no success.
    pub fn finish(&mut self) -> Result<Duration, Error> {
        let mut at = Instant::now();
        while !is_whole(&self.read) {
            at = self.more()?;
        }
        match self.read.starts_with(b"HTTP/1.1 200") {
            true => Ok(at.duration_since(self.sent_at)),
            false => Err(String::from_utf8_lossy(&self.read).into()),
        }
    }

    /// Whether the upstream speaks, and not the local model.
    pub fn is_of_cloud(&self) -> bool {
        find(&self.read, b"x-understudy-reason").is_none()
    }
}

pub fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// By its length, or by its last chunk.
fn is_whole(reply: &[u8]) -> bool {
    if reply.ends_with(b"\r\n0\r\n\r\n") {
        return true;
    }
    let Some(end) = find(reply, b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&reply[..end]).to_lowercase();
    let length = head.split_once("content-length: ").and_then(|(_, rest)| rest.lines().next()?.parse::<usize>().ok());
    length.is_some_and(|length| reply.len() >= end + 4 + length)
}

/// A request of about two kilobytes. `turn` is what a person says.
pub fn body(stream: bool, tokens_max: usize, turn: &str) -> String {
    let system = "You are a careful assistant who answers in plain sentences, and says so when something is not known. ".repeat(17);
    format!(
        r#"{{"model":"claude-bench","max_tokens":{tokens_max},"temperature":0,"stream":{stream},"system":"{system}","messages":[{{"role":"user","content":"{turn}"}}]}}"#
    )
}
