//! As much of HTTP/1.1 as both ends of a drill need: heads, and bodies by length or in chunks. Pure; forgiving in nothing.

use serde::Deserialize;

/// Longest head that is read.
pub const HEAD_BYTES_MAX: usize = 256 * 1024;

/// A start line and its headers, names in lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Head {
    pub start_line: String,
    pub headers: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    #[error("a head of more than {HEAD_BYTES_MAX} bytes")]
    HeadTooLong,
    #[error("no head: {0:?}")]
    Head(String),
    #[error("no chunk size: {0:?}")]
    ChunkSize(String),
    #[error("no line end behind a chunk")]
    ChunkEnd,
}

impl Head {
    /// The head and its length, once it is complete.
    pub fn read(bytes: &[u8]) -> Result<Option<(Self, usize)>, HttpError> {
        let Some(end) = find(bytes, b"\r\n\r\n") else {
            return if bytes.len() > HEAD_BYTES_MAX { Err(HttpError::HeadTooLong) } else { Ok(None) };
        };
        let text = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = text.split("\r\n");
        let start_line = lines.next().unwrap_or_default().to_owned();
        let fields = lines.map(|line| {
            let (name, value) = line.split_once(':').ok_or_else(|| HttpError::Head(line.to_owned()))?;
            Ok((name.to_ascii_lowercase(), value.trim().to_owned()))
        });
        Ok(Some((Self { start_line, headers: fields.collect::<Result<_, _>>()? }, end + 4)))
    }

    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    /// Method and path of a request.
    pub fn request(&self) -> Option<(&str, &str)> {
        let mut words = self.start_line.split(' ');
        words.next().zip(words.next())
    }

    /// Status of a response.
    pub fn status(&self) -> Option<u16> {
        let rest = self.start_line.strip_prefix("HTTP/1.")?;
        rest.split(' ').nth(1)?.parse().ok()
    }

    /// How the body's end is known.
    pub fn framing(&self) -> Framing {
        let chunked = self.header("transfer-encoding").is_some_and(|value| value.to_ascii_lowercase().ends_with("chunked"));
        let length = self.header("content-length").and_then(|value| value.parse().ok());
        match (chunked, length) {
            (true, _) => Framing::Chunked,
            (false, Some(length)) => Framing::Length(length),
            (false, None) => Framing::UntilClosed,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Chunked,
    Length(usize),
    /// Of a response; a request without either has no body.
    UntilClosed,
}

/// Takes a body out of its framing as it comes.
#[derive(Debug, Clone)]
pub struct BodyReader {
    state: BodyState,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum BodyState {
    Length(usize),
    UntilClosed,
    ChunkSize,
    Chunk(usize),
    ChunkEnd,
    Trailers,
    Done,
}

impl BodyReader {
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Chunked => BodyState::ChunkSize,
            Framing::Length(0) => BodyState::Done,
            Framing::Length(length) => BodyState::Length(length),
            Framing::UntilClosed => BodyState::UntilClosed,
        };
        Self { state }
    }

    /// Moves what it can from `buffer` to `body`. What is left in the buffer is incomplete, or comes after the body.
    pub fn advance(&mut self, buffer: &mut Vec<u8>, body: &mut Vec<u8>) -> Result<(), HttpError> {
        loop {
            self.state = match self.state {
                BodyState::Done => return Ok(()),
                BodyState::UntilClosed => {
                    body.append(buffer);
                    return Ok(());
                }
                BodyState::Length(left) | BodyState::Chunk(left) => {
                    let taken = left.min(buffer.len());
                    body.extend(buffer.drain(..taken));
                    match (&self.state, left - taken) {
                        (BodyState::Length(_), 0) => BodyState::Done,
                        (BodyState::Length(_), left) => {
                            self.state = BodyState::Length(left);
                            return Ok(());
                        }
                        (_, 0) => BodyState::ChunkEnd,
                        (_, left) => {
                            self.state = BodyState::Chunk(left);
                            return Ok(());
                        }
                    }
                }
                BodyState::ChunkSize => {
                    let Some(line) = take_line(buffer) else { return Ok(()) };
                    let digits = line.split(';').next().unwrap_or_default().trim();
                    match usize::from_str_radix(digits, 16) {
                        Ok(0) => BodyState::Trailers,
                        Ok(size) => BodyState::Chunk(size),
                        Err(_) => return Err(HttpError::ChunkSize(line)),
                    }
                }
                BodyState::ChunkEnd => {
                    let Some(line) = take_line(buffer) else { return Ok(()) };
                    if !line.is_empty() {
                        return Err(HttpError::ChunkEnd);
                    }
                    BodyState::ChunkSize
                }
                BodyState::Trailers => {
                    let Some(line) = take_line(buffer) else { return Ok(()) };
                    if line.is_empty() { BodyState::Done } else { BodyState::Trailers }
                }
            };
        }
    }

    /// The body is complete as HTTP.
    pub fn done(&self) -> bool {
        self.state == BodyState::Done
    }

    /// The connection's end is the body's.
    pub fn ends_with_connection(&self) -> bool {
        self.state == BodyState::UntilClosed
    }
}

fn take_line(buffer: &mut Vec<u8>) -> Option<String> {
    let end = find(buffer, b"\r\n")?;
    let line = String::from_utf8_lossy(&buffer[..end]).into_owned();
    buffer.drain(..end + 2);
    Some(line)
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// What is spoken on a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dialect {
    AnthropicMessages,
    OpenaiChat,
    OpenaiResponses,
}

impl Dialect {
    pub fn of_path(path: &str) -> Option<Self> {
        match path.split('?').next().unwrap_or_default() {
            "/v1/messages" => Some(Self::AnthropicMessages),
            "/v1/chat/completions" => Some(Self::OpenaiChat),
            "/v1/responses" => Some(Self::OpenaiResponses),
            _ => None,
        }
    }

    pub fn path(self) -> &'static str {
        match self {
            Self::AnthropicMessages => "/v1/messages",
            Self::OpenaiChat => "/v1/chat/completions",
            Self::OpenaiResponses => "/v1/responses",
        }
    }
}

/// Whether a reply is generated there.
pub fn generates(path: &str) -> bool {
    Dialect::of_path(path).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A body in chunks, cut at every place where the network may cut it.
    #[test]
    fn chunks_are_read_however_they_come() {
        let wire = b"4\r\nabcd\r\n3;x=y\r\nefg\r\n0\r\nt: v\r\n\r\nnext";
        for cut in 0..wire.len() {
            let (mut reader, mut buffer, mut body) = (BodyReader::new(Framing::Chunked), Vec::new(), Vec::new());
            for part in [&wire[..cut], &wire[cut..]] {
                buffer.extend_from_slice(part);
                reader.advance(&mut buffer, &mut body).unwrap();
            }
            assert_eq!((body.as_slice(), buffer.as_slice(), reader.done()), (&b"abcdefg"[..], &b"next"[..], true), "cut at {cut}");
        }
    }

    #[test]
    fn what_is_no_chunk_is_an_error() {
        for (wire, error) in [(&b"zz\r\n"[..], HttpError::ChunkSize("zz".into())), (b"1\r\nabc\r\n", HttpError::ChunkEnd)] {
            let (mut buffer, mut body) = (wire.to_vec(), Vec::new());
            assert_eq!(BodyReader::new(Framing::Chunked).advance(&mut buffer, &mut body), Err(error));
        }
    }

    #[test]
    fn a_length_ends_a_body() {
        let (mut reader, mut buffer, mut body) = (BodyReader::new(Framing::Length(3)), b"ab".to_vec(), Vec::new());
        reader.advance(&mut buffer, &mut body).unwrap();
        assert!(!reader.done());
        buffer.extend_from_slice(b"cd");
        reader.advance(&mut buffer, &mut body).unwrap();
        assert_eq!((body.as_slice(), buffer.as_slice(), reader.done()), (&b"abc"[..], &b"d"[..], true));
    }

    #[test]
    fn heads() {
        let text = b"POST /v1/messages?beta=true HTTP/1.1\r\nHost: x\r\nX-Two:  a:b \r\n\r\nbody";
        let (head, length) = Head::read(text).unwrap().unwrap();
        assert_eq!((head.request(), head.header("x-two")), (Some(("POST", "/v1/messages?beta=true")), Some("a:b")));
        assert_eq!(&text[length..], b"body");
        assert_eq!(Head::read(b"HTTP/1.1 529 \r\n\r\n").unwrap().unwrap().0.status(), Some(529));
        assert_eq!(Head::read(b"HTTP/1.1 200 OK\r\n").unwrap(), None);
        assert!(Head::read(b"x\r\nno colon\r\n\r\n").is_err());
        assert_eq!(Dialect::of_path("/v1/messages/count_tokens"), None);
    }
}
