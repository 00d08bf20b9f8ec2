//! A client that sends exactly the bytes it is told and reads replies strictly: a wrong chunk, a missing blank line, a frame of two
//! lines is a failed test. Blocking, with a time limit on every read so that a hang is a failure and not a stop.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

const READ_LIMIT: Duration = Duration::from_secs(60);

pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

#[derive(Debug, Clone)]
pub struct Head {
    pub status: u16,
    pub headers: Vec<(String, String)>,
}

#[derive(Debug, Clone)]
pub struct Reply {
    pub head: Head,
    pub body: Vec<u8>,
}

/// One server-sent event as it came.
#[derive(Debug, Clone, PartialEq)]
pub enum Sse {
    Comment(String),
    Data(String),
    /// With an `event:` line.
    Named {
        event: String,
        data: String,
    },
}

impl Head {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

impl Reply {
    pub fn status(&self) -> u16 {
        self.head.status
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the reply is UTF-8")
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", String::from_utf8_lossy(&self.body)))
    }

    /// The events of a streamed reply.
    pub fn events(&self) -> Vec<Sse> {
        let mut rest = self.text();
        let mut events = Vec::new();
        while let Some(event) = split_event(&mut rest) {
            events.push(event);
        }
        assert!(rest.is_empty(), "the stream ends in the middle of an event: {rest:?}");
        events
    }
}

impl Connection {
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the server accepts");
        stream.set_read_timeout(Some(READ_LIMIT)).expect("a socket has a time limit");
        stream.set_nodelay(true).expect("a socket can be told not to wait");
        Self { stream, buffer: Vec::new() }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server reads");
    }

    /// For requests the server may refuse before it has read them.
    pub fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// `METHOD path` with headers `Name: value` and a body; `Host` is added.
    pub fn request(&mut self, method: &str, path: &str, headers: &[&str], body: &[u8]) {
        let host = self.stream.peer_addr().expect("connected");
        let has_host = headers.iter().any(|header| header.to_ascii_lowercase().starts_with("host:"));
        let mut text = format!("{method} {path} HTTP/1.1\r\n");
        if !has_host {
            text.push_str(&format!("Host: {host}\r\n"));
        }
        for header in headers {
            text.push_str(header);
            text.push_str("\r\n");
        }
        if !body.is_empty() || method == "POST" {
            text.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        text.push_str("\r\n");
        self.send(text.as_bytes());
        // A refused body may never be read.
        let _ = self.stream.write_all(body);
    }

    pub fn read_head(&mut self) -> Head {
        let end = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break end;
            }
            assert!(self.fill() > 0, "the connection closed before the head: {:?}", String::from_utf8_lossy(&self.buffer));
        };
        let text = String::from_utf8(self.buffer.drain(..end + 4).collect()).expect("a head is text");
        let mut lines = text.trim_end().split("\r\n");
        let status_line = lines.next().expect("a status line");
        let status = status_line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).and_then(|code| code.parse().ok());
        let header = |line: &str| {
            let (name, value) = line.split_once(": ").expect("a header has a name and a value");
            (name.to_owned(), value.to_owned())
        };
        Head { status: status.unwrap_or_else(|| panic!("{status_line:?} is no status line")), headers: lines.map(header).collect() }
    }

    pub fn read_reply(&mut self) -> Reply {
        let head = self.read_head();
        let body = match (head.header("content-length"), head.header("transfer-encoding")) {
            (Some(length), None) => self.take(length.parse().expect("a length is a number")),
            (None, Some("chunked")) => {
                let mut body = Vec::new();
                while let Some(chunk) = self.next_chunk() {
                    body.extend(chunk);
                }
                body
            }
            (None, None) if head.status == 204 => Vec::new(),
            framing => panic!("a reply must be framed in one way, not {framing:?}"),
        };
        Reply { head, body }
    }

    /// The next chunk of a chunked body; `None` at its end.
    pub fn next_chunk(&mut self) -> Option<Vec<u8>> {
        let line = self.take_line();
        let length = usize::from_str_radix(&line, 16).unwrap_or_else(|_| panic!("{line:?} is no chunk length"));
        let chunk = self.take(length);
        assert_eq!(self.take(2), b"\r\n", "a chunk ends with a line break");
        (length > 0).then_some(chunk)
    }

    /// The next byte, whatever it belongs to; `None` when the server has closed.
    pub fn read_byte(&mut self) -> Option<u8> {
        if self.buffer.is_empty() && self.fill() == 0 {
            return None;
        }
        Some(self.buffer.remove(0))
    }

    /// Reads until the server has closed, whatever comes; how many bytes.
    pub fn read_to_end_of_connection(&mut self) -> usize {
        while self.fill() > 0 {}
        self.buffer.len()
    }

    /// Something has come and waits to be read.
    pub fn has_reply(&mut self) -> bool {
        self.stream.set_read_timeout(Some(Duration::from_millis(5))).expect("a socket has a time limit");
        let waits = self.stream.peek(&mut [0]).is_ok();
        self.stream.set_read_timeout(Some(READ_LIMIT)).expect("a socket has a time limit");
        waits
    }

    /// The connection is closed by the server, and nothing more comes.
    pub fn is_closed(&mut self) -> bool {
        self.buffer.is_empty() && self.fill() == 0
    }

    fn take_line(&mut self) -> String {
        let end = loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                break end;
            }
            assert!(self.fill() > 0, "the connection closed within a line");
        };
        let line = self.buffer.drain(..end + 2).take(end).collect();
        String::from_utf8(line).expect("a line is text")
    }

    fn take(&mut self, length: usize) -> Vec<u8> {
        while self.buffer.len() < length {
            assert!(self.fill() > 0, "the connection closed {} bytes early", length - self.buffer.len());
        }
        self.buffer.drain(..length).collect()
    }

    /// Reads what there is; 0 when the server has closed.
    fn fill(&mut self) -> usize {
        let mut bytes = [0; 16 << 10];
        match self.stream.read(&mut bytes) {
            Ok(count) => {
                self.buffer.extend_from_slice(&bytes[..count]);
                count
            }
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => 0,
            Err(error) => panic!("nothing came within {READ_LIMIT:?}: {error}"),
        }
    }
}

/// Takes one event from the front of `text`, if a whole one is there.
pub fn split_event(text: &mut &str) -> Option<Sse> {
    let (event, rest) = text.split_once("\n\n")?;
    *text = rest;
    let (name, event) = match event.strip_prefix("event: ").and_then(|named| named.split_once('\n')) {
        Some((name, event)) => (Some(name), event),
        None => (None, event),
    };
    assert!(!event.contains('\n'), "an event has one line of data here: {event:?}");
    if let Some(comment) = event.strip_prefix(": ") {
        return Some(Sse::Comment(comment.to_owned()));
    }
    let data = event.strip_prefix("data: ").unwrap_or_else(|| panic!("{event:?} is neither data nor a comment"));
    Some(match name {
        Some(name) => Sse::Named { event: name.to_owned(), data: data.to_owned() },
        None => Sse::Data(data.to_owned()),
    })
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}
