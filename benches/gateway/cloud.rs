//! An upstream that costs as little as one can: a thread a connection, bytes written before they are asked for, nothing parsed but lengths.
//!
//! The query of the request says what it does (a relay lets queries through), so that the direct path and the relayed one ask the same.
//! The query of [`Say`] and what it reads of it stand side by side. What is no conversation is the free question whether it is there.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// What an upstream is asked to do.
#[derive(Debug, Clone, Copy)]
pub enum Say {
    /// A reply in one piece, its body of a kilobyte.
    Whole,
    /// A stream of so many frames, each with the time of its writing in it; zero: as fast as they can be written.
    Frames {
        count: usize,
        every: Duration,
    },
    /// A stream that says one word, and then nothing.
    OpenEnd,
    /// The opening of a stream, and then nothing: no word ever comes.
    Silence,
    Error(u16),
    /// The connection is reset before a byte of a reply.
    Reset,
    /// A stream of so many words that is reset in its text. `trial` is in the text, so that no two are the same.
    Cut {
        words: usize,
        trial: usize,
    },
}

impl Say {
    pub fn path(self) -> String {
        let (what, count, more) = match self {
            Self::Whole => ("whole", 0, 0),
            Self::Frames { count, every } => ("frames", count, every.as_micros() as usize),
            Self::OpenEnd => ("open", 0, 0),
            Self::Silence => ("silence", 0, 0),
            Self::Error(status) => ("error", usize::from(status), 0),
            Self::Reset => ("reset", 0, 0),
            Self::Cut { words, trial } => ("cut", words, trial),
        };
        format!("/v1/messages?{what},{count},{more}")
    }

    fn of(path: &str) -> Option<Self> {
        let mut fields = path.strip_prefix("/v1/messages?")?.split(',');
        let what = fields.next()?;
        let (count, more) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(match what {
            "whole" => Self::Whole,
            "frames" => Self::Frames { count, every: Duration::from_micros(more as u64) },
            "open" => Self::OpenEnd,
            "silence" => Self::Silence,
            "error" => Self::Error(count as u16),
            "reset" => Self::Reset,
            "cut" => Self::Cut { words: count, trial: more },
            _ => return None,
        })
    }

    fn resets(self) -> bool {
        matches!(self, Self::Reset | Self::Cut { .. })
    }
}

/// A running upstream; it ends with the process.
#[derive(Debug, Clone)]
pub struct Cloud(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    address: SocketAddr,
    started: Instant,
    /// A status that everybody gets, whatever they ask; 0: it is well.
    down: AtomicU16,
    /// Whether the free question is answered well even then.
    edge_lives: AtomicU16,
    /// When it last wrote something useful, or showed a fault.
    last_useful: Mutex<Instant>,
    whole: Vec<u8>,
}

/// In a frame, before its time in nanoseconds since the upstream's start.
pub const STAMP: &[u8] = b"\"text\":\"@";
const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

impl Cloud {
    pub fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let shared = Shared {
            address: listener.local_addr()?,
            started: Instant::now(),
            down: AtomicU16::new(0),
            edge_lives: AtomicU16::new(0),
            last_useful: Mutex::new(Instant::now()),
            whole: with_length(200, &whole_reply()),
        };
        let cloud = Self(Arc::new(shared));
        let accepting = cloud.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let cloud = accepting.clone();
                // A client that goes away is no trouble.
                thread::spawn(move || cloud.serve(stream));
            }
        });
        Ok(cloud)
    }

    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// The clock of the stamps.
    pub fn started(&self) -> Instant {
        self.0.started
    }

    pub fn last_useful(&self) -> Instant {
        *self.0.last_useful.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None`: well again. `edge_lives`: the free question does not see it.
    pub fn set_down(&self, status: Option<u16>, edge_lives: bool) {
        self.0.edge_lives.store(u16::from(edge_lives), Ordering::SeqCst);
        self.0.down.store(status.unwrap_or(0), Ordering::SeqCst);
    }

    /// Before the write, so that what is measured from here is never too short.
    fn useful_now(&self) {
        *self.0.last_useful.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut connection = Connection { stream, buffer: Vec::with_capacity(1 << 14) };
        while let Some(say) = connection.request()? {
            let down = self.0.down.load(Ordering::SeqCst);
            match say {
                None if down != 0 && self.0.edge_lives.load(Ordering::SeqCst) == 0 => connection.write(&error(down))?,
                None => connection.write(&with_length(200, b"{\"data\":[]}"))?,
                Some(_) if down != 0 => connection.write(&error(down))?,
                Some(say) => {
                    if !self.answer(&mut connection, say)? {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether the connection stands.
    fn answer(&self, connection: &mut Connection, say: Say) -> io::Result<bool> {
        match say {
            Say::Whole => connection.write(&self.0.whole)?,
            Say::Frames { count, every } => {
                connection.write(opening().as_bytes())?;
                for _ in 0..count {
                    if !every.is_zero() {
                        thread::sleep(every);
                    }
                    let stamp = self.0.started.elapsed().as_nanos();
                    connection.write(chunk(&delta(&format!("@{stamp:020} and something to read"))).as_bytes())?;
                }
                connection.write(closing().as_bytes())?;
            }
            Say::OpenEnd => {
                connection.write([opening(), chunk(&delta("Well"))].concat().as_bytes())?;
                connection.until_left();
            }
            Say::Silence => {
                self.useful_now();
                connection.write(opening().as_bytes())?;
                connection.until_left();
            }
            Say::Error(status) => {
                self.useful_now();
                connection.write(&error(status))?;
            }
            Say::Reset => {
                self.useful_now();
                return Ok(false);
            }
            Say::Cut { words, trial } => {
                connection.write([opening(), chunk(&delta(&format!("The {trial}th story:")))].concat().as_bytes())?;
                for word in TEXT.split(' ').cycle().take(words) {
                    self.useful_now();
                    connection.write(chunk(&delta(&format!(" {word}"))).as_bytes())?;
                }
                return Ok(false);
            }
        }
        Ok(true)
    }
}

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    /// Reads one request. `None`: the client has gone; `Some(None)`: it is no conversation.
    ///
    /// Of one that is to be reset the last byte stays unread: closing a socket with unread bytes is how a reset is made without options.
    fn request(&mut self) -> io::Result<Option<Option<Say>>> {
        self.buffer.clear();
        let mut piece = [0; 1 << 14];
        loop {
            if let Some((say, length)) = self.head() {
                let mut missing = length.saturating_sub(self.buffer.len());
                let spared = usize::from(say.is_some_and(Say::resets));
                while missing > spared {
                    let most = (missing - spared).min(piece.len());
                    missing -= self.stream.read(&mut piece[..most])?;
                }
                return Ok(Some(say));
            }
            // The head alone, if it is to be reset, is found byte by byte of what is there: nothing behind it may be taken.
            let most = self.peeked(&mut piece)?;
            if most == 0 {
                return Ok(None);
            }
            let got = self.stream.read(&mut piece[..most])?;
            self.buffer.extend_from_slice(&piece[..got]);
        }
    }

    /// How much of what has come may be read: all but its last byte where it belongs to a request that is to be reset.
    fn peeked(&self, piece: &mut [u8]) -> io::Result<usize> {
        let there = self.stream.peek(piece)?;
        let is_for_reset = [&b"POST /v1/messages?reset"[..], b"POST /v1/messages?cut"].iter().any(|start| piece.starts_with(start));
        Ok(if is_for_reset && there > 1 { there - 1 } else { there })
    }

    /// What is asked, and the length of the whole request, once its head is there.
    fn head(&self) -> Option<(Option<Say>, usize)> {
        let end = self.buffer.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
        let head = std::str::from_utf8(&self.buffer[..end]).ok()?;
        let path = head.split(' ').nth(1)?;
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok()).flatten()
        });
        Some((Say::of(path), end + length.unwrap_or(0)))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    fn until_left(&mut self) {
        let mut piece = [0; 64];
        while matches!(self.stream.read(&mut piece), Ok(1..)) {}
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

const TEXT: &str = "the lamp above the stage door burns all night because someone always comes late and the doorman says that a house \
    without an understudy is a house that closes";

fn whole_reply() -> Vec<u8> {
    let text = TEXT.repeat(6);
    let reply = format!(
        r#"{{"id":"msg_01","type":"message","role":"assistant","model":"claude-bench","content":[{{"type":"text","text":"{}"}}],"stop_reason":"end_turn","stop_sequence":null,"usage":{{"input_tokens":500,"output_tokens":200}}}}"#,
        &text[..820]
    );
    reply.into_bytes()
}

fn with_length(status: u16, body: &[u8]) -> Vec<u8> {
    // As many headers as a cloud sends, or a relay would have too little to carry.
    let head = format!(
        "HTTP/1.1 {status} Said\r\ncontent-type: application/json\r\ndate: Mon, 02 Mar 2026 10:49:05 GMT\r\nrequest-id: req_011CSHoEeqs5C35K2UUqR7Fy\r\n\
         anthropic-ratelimit-requests-limit: 50\r\nanthropic-ratelimit-requests-remaining: 49\r\nanthropic-ratelimit-tokens-limit: 50000\r\n\
         anthropic-ratelimit-tokens-remaining: 49000\r\nanthropic-organization-id: 00000000-0000-0000-0000-000000000000\r\nserver: cloud\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn error(status: u16) -> Vec<u8> {
    let kind = if status == 529 { "overloaded_error" } else { "api_error" };
    with_length(status, format!(r#"{{"type":"error","error":{{"type":"{kind}","message":"not now"}}}}"#).as_bytes())
}

fn chunk(event: &str) -> String {
    format!("{:x}\r\n{event}\r\n", event.len())
}

fn event(kind: &str, rest: &str) -> String {
    format!("event: {kind}\ndata: {{\"type\":\"{kind}\"{rest}}}\n\n")
}

fn delta(text: &str) -> String {
    event("content_block_delta", &format!(r#","index":0,"delta":{{"type":"text_delta","text":"{text}"}}"#))
}

/// Head and all that comes before the first word.
fn opening() -> String {
    let message = r#","message":{"id":"msg_01","type":"message","role":"assistant","model":"claude-bench","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":500,"output_tokens":1}}"#;
    let block = r#","index":0,"content_block":{"type":"text","text":""}"#;
    [STREAM_HEAD.to_owned(), chunk(&event("message_start", message)), chunk(&event("content_block_start", block))].concat()
}

fn closing() -> String {
    let delta = r#","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":200}"#;
    let events = [event("content_block_stop", r#","index":0"#), event("message_delta", delta), event("message_stop", "")];
    [events.map(|event| chunk(&event)).concat(), "0\r\n\r\n".to_owned()].concat()
}
