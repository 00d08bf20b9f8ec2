//! A client that sees half-broken replies exactly as they came: what was read, when, and how it ended.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::http::{BodyReader, Head};

/// A request as it is sent.
#[derive(Debug, Clone)]
pub struct RawRequest {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl RawRequest {
    pub fn get(path: &str) -> Self {
        Self { method: "GET".to_owned(), path: path.to_owned(), headers: Vec::new(), body: Vec::new() }
    }

    pub fn post(path: &str, body: &Value) -> Self {
        let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        Self { method: "POST".to_owned(), path: path.to_owned(), headers, body: body.to_string().into_bytes() }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    fn bytes(&self, host: SocketAddr) -> Vec<u8> {
        let fields: String = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length = if self.method == "GET" { String::new() } else { format!("content-length: {}\r\n", self.body.len()) };
        let head = format!("{} {} HTTP/1.1\r\nhost: {host}\r\n{fields}{length}\r\n", self.method, self.path);
        [head.as_bytes(), &self.body].concat()
    }
}

/// How a reply ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// As HTTP says that it ends.
    Whole,
    /// Nobody accepted the connection.
    Refused,
    /// The connection ended before a whole head.
    NoHead(Broken),
    /// The connection ended within the body.
    Cut(Broken),
    /// Bytes that are not HTTP.
    NotHttp(String),
    /// It had not ended within the limit.
    Limit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// FIN.
    Closed,
    /// RST.
    Reset,
}

/// A reply as far as it came.
#[derive(Debug, Clone)]
pub struct Exchange {
    pub head: Option<Head>,
    /// Out of its chunks; encodings are left.
    pub body: Vec<u8>,
    /// After each read that brought something: how long since the request, and the body's length then.
    pub arrivals: Vec<(Duration, usize)>,
    pub end: End,
    /// How long since the request.
    pub ended_after: Duration,
}

impl Exchange {
    pub fn status(&self) -> Option<u16> {
        self.head.as_ref().and_then(Head::status)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.as_ref().and_then(|head| head.header(name))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    pub fn events(&self) -> Vec<SseEvent> {
        sse_events(&self.body)
    }

    /// When the body's first so many bytes had come.
    pub fn arrival_of(&self, bytes: usize) -> Option<Duration> {
        self.arrivals.iter().find(|(_, length)| *length >= bytes).map(|(at, _)| *at)
    }
}

/// A connection of one client.
#[derive(Debug)]
pub struct RawClient {
    stream: TcpStream,
    address: SocketAddr,
    buffer: Vec<u8>,
    sent_at: Instant,
    /// Of the reply that is being read, once its head was.
    body: Option<BodyReader>,
}

impl RawClient {
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, address, buffer: Vec::new(), sent_at: Instant::now(), body: None })
    }

    /// One request on a new connection.
    pub async fn exchange(address: SocketAddr, request: &RawRequest, limit: Duration) -> Exchange {
        match tokio::time::timeout(limit, Self::connect(address)).await {
            Ok(Ok(mut client)) => client.again(request, limit).await,
            Ok(Err(_)) => Exchange::none(End::Refused),
            Err(_) => Exchange { ended_after: limit, ..Exchange::none(End::Limit) },
        }
    }

    /// One more request on this connection.
    pub async fn again(&mut self, request: &RawRequest, limit: Duration) -> Exchange {
        match self.send(request).await {
            Ok(()) => self.reply(limit).await,
            Err(error) => Exchange::none(End::NoHead(Broken::of(&error))),
        }
    }

    pub async fn send(&mut self, request: &RawRequest) -> io::Result<()> {
        self.send_bytes(&request.bytes(self.address)).await
    }

    /// Bytes as they stand: half a request, say.
    pub async fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        (self.sent_at, self.body) = (Instant::now(), None);
        self.stream.write_all(bytes).await
    }

    /// Reads the reply to its end, or until the limit, counted from the request.
    pub async fn reply(&mut self, limit: Duration) -> Exchange {
        self.reply_until(limit, |_| false).await
    }

    /// The same, but no longer than until the body is so: then the end is [`End::Limit`], and `go_on` reads further.
    pub async fn reply_until(&mut self, limit: Duration, enough: impl Fn(&[u8]) -> bool) -> Exchange {
        let mut exchange = Exchange::none(End::Limit);
        let left = limit.saturating_sub(self.sent_at.elapsed());
        self.go_on(&mut exchange, left, enough).await;
        exchange
    }

    /// Reads further in a reply that has not ended, for so long from now.
    pub async fn go_on(&mut self, exchange: &mut Exchange, limit: Duration, enough: impl Fn(&[u8]) -> bool) {
        exchange.end = tokio::time::timeout(limit, self.read_reply(exchange, enough)).await.unwrap_or(End::Limit);
        exchange.ended_after = self.sent_at.elapsed();
    }

    /// Leaves with RST.
    pub fn reset(self) {
        // Zero linger: dropping the socket says it.
        let _ = self.stream.set_zero_linger();
    }

    async fn read_reply(&mut self, exchange: &mut Exchange, enough: impl Fn(&[u8]) -> bool) -> End {
        loop {
            if self.body.is_none() {
                match Head::read(&self.buffer) {
                    Err(error) => return End::NotHttp(error.to_string()),
                    Ok(None) => {}
                    Ok(Some((head, length))) => {
                        self.buffer.drain(..length);
                        match head.status() {
                            None => return End::NotHttp(head.start_line),
                            // An interim answer; another follows.
                            Some(100..=199) => continue,
                            Some(_) => {
                                self.body = Some(BodyReader::new(head.framing()));
                                exchange.head = Some(head);
                            }
                        }
                    }
                }
            }
            if let Some(reader) = &mut self.body {
                let before = exchange.body.len();
                if let Err(error) = reader.advance(&mut self.buffer, &mut exchange.body) {
                    return End::NotHttp(error.to_string());
                }
                if exchange.body.len() > before {
                    exchange.arrivals.push((self.sent_at.elapsed(), exchange.body.len()));
                }
                if reader.done() {
                    return End::Whole;
                }
                if enough(&exchange.body) {
                    return End::Limit;
                }
            }
            let broken = match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) => Broken::Closed,
                Ok(_) => continue,
                Err(error) => Broken::of(&error),
            };
            return match &self.body {
                None => End::NoHead(broken),
                Some(reader) if reader.ends_with_connection() && broken == Broken::Closed => End::Whole,
                Some(_) => End::Cut(broken),
            };
        }
    }
}

impl Exchange {
    fn none(end: End) -> Self {
        Self { head: None, body: Vec::new(), arrivals: Vec::new(), end, ended_after: Duration::ZERO }
    }
}

impl Broken {
    fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Reset,
            _ => Self::Closed,
        }
    }
}

/// A server-sent event of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SseEvent {
    pub event: Option<String>,
    pub data: String,
    /// Where it ends in the body.
    pub end: usize,
}

impl SseEvent {
    /// The data as JSON; null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_default()
    }
}

/// The complete events of a stream as the HTML standard reads it: any line end, comments and a byte order mark apart.
pub fn sse_events(body: &[u8]) -> Vec<SseEvent> {
    let mut events = Vec::new();
    let mut at = if body.starts_with("\u{feff}".as_bytes()) { 3 } else { 0 };
    let (mut event, mut data): (Option<String>, Option<String>) = (None, None);
    while let Some(length) = body[at..].iter().position(|byte| matches!(byte, b'\r' | b'\n')) {
        let line = String::from_utf8_lossy(&body[at..at + length]).into_owned();
        at += length + if body[at + length..].starts_with(b"\r\n") { 2 } else { 1 };
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" if line.is_empty() => {
                let event = event.take();
                events.extend(data.take().map(|data| SseEvent { event, data, end: at }));
            }
            "event" => event = Some(value.to_owned()),
            "data" => {
                data = Some(match data.take() {
                    Some(data) => format!("{data}\n{value}"),
                    None => value.to_owned(),
                });
            }
            _ => {}
        }
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_any_line_end() {
        let text = ": c\nevent: a\ndata: 1\ndata: 2\n\ndata:3\nid: x\n\nevent: none\n\ndata: torn";
        for end in ["\n", "\r\n", "\r"] {
            for bom in ["", "\u{feff}"] {
                let body = format!("{bom}{}", text.replace('\n', end));
                let events: Vec<_> = sse_events(body.as_bytes()).into_iter().map(|event| (event.event, event.data)).collect();
                assert_eq!(events, [(Some("a".to_owned()), "1\n2".to_owned()), (None, "3".to_owned())], "{end:?}");
            }
        }
    }
}
