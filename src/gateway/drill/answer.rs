//! What an upstream says to one request, and what goes wrong with it. Data only: it is built in tests and read from plans.

use serde::Deserialize;

/// One answer: what would be said, how fast, in which form, and what goes wrong.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Answer {
    pub reply: Reply,
    pub pace: Pace,
    pub wire: Wire,
    pub misbehaviour: Option<Misbehaviour>,
}

/// The fixed text of a healthy answer: sixty words, some of them more than ASCII, so that a cut inside a character shows.
pub const SIXTY_WORDS: &str = "The lamp above the stage door burns all night because someone always comes late, and the doorman says that a house \
    without an understudy is a house that closes. Tonight the lead lost her voice (“naïve,” she whispered, “to trust one throat”), so Zoë \
    stepped in at the second act, mid-sentence, and nobody in the crowded gallery noticed the seam.";

/// What is said, in this order: thinking, text, calls.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reply {
    pub thinking: Option<String>,
    pub text: Option<String>,
    pub calls: Vec<Call>,
    /// `None`: what follows from the rest, an end or calls.
    pub stop: Option<Stop>,
    /// The name in the reply; `None`: the one that was asked for.
    pub model: Option<String>,
}

impl Default for Reply {
    fn default() -> Self {
        Self::text(SIXTY_WORDS)
    }
}

impl Reply {
    pub fn text(text: &str) -> Self {
        Self { thinking: None, text: Some(text.to_owned()), calls: Vec::new(), stop: None, model: None }
    }

    /// Only calls, no text.
    pub fn calls(calls: Vec<Call>) -> Self {
        Self { thinking: None, text: None, calls, stop: None, model: None }
    }

    pub fn with_thinking(self, thinking: &str) -> Self {
        Self { thinking: Some(thinking.to_owned()), ..self }
    }

    pub fn with_calls(self, calls: Vec<Call>) -> Self {
        Self { calls, ..self }
    }

    pub fn stop(&self) -> Stop {
        self.stop.unwrap_or(if self.calls.is_empty() { Stop::End } else { Stop::Calls })
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    pub name: String,
    /// JSON text, sent as it stands.
    pub arguments: String,
}

impl Call {
    pub fn new(name: &str, arguments: &str) -> Self {
        Self { name: name.to_owned(), arguments: arguments.to_owned() }
    }
}

/// Why a reply ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    End,
    Calls,
    Length,
    Refusal,
}

/// How long things take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pace {
    /// Before the status line.
    pub headers_ms: u64,
    /// From the opening events to the first content.
    pub first_token_ms: u64,
    /// Between tokens.
    pub token_interval_ms: u64,
    /// The first token takes longer and longer.
    pub ramp: Option<Ramp>,
}

/// From `first_token_ms` when the upstream started to `to_ms` after `over_ms`, in a straight line.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ramp {
    pub to_ms: u64,
    pub over_ms: u64,
}

/// Forms that are all legal, and that a relay must leave as they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Wire {
    pub line_ends: LineEnds,
    /// A byte order mark before the first event.
    pub bom: bool,
    /// A comment line before every event.
    pub comments: bool,
    /// The data of an event on two `data:` lines.
    pub split_data: bool,
    /// Chunks of so many bytes, each written by itself, whatever characters they cut.
    pub chunk_bytes: Option<usize>,
    /// Stored blocks: no smaller, but a gzip stream.
    pub gzip: bool,
    /// Trailer fields behind the last chunk.
    pub trailers: bool,
    /// Says `connection: close` and does.
    pub close: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LineEnds {
    #[default]
    Lf,
    CrLf,
    Cr,
    /// Another one each line.
    Mixed,
}

/// What goes wrong. `at` says how much of the reply has been sent before.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Misbehaviour {
    /// Nothing listens, and connections that stood are gone. Only by time: who is refused has sent nothing by which to choose.
    Refuse,
    /// The request is read, and the connection ends without an answer.
    EndBeforeHeaders { how: Ending },
    /// Accepted, and never answered.
    NoHeaders,
    /// The head comes byte by byte.
    HeadersDribble { every_ms: u64 },
    /// A status and an error body in the dialect's form.
    Error(ErrorAnswer),
    /// The same before the body was read; then nothing more is read.
    EarlyError(ErrorAnswer),
    /// `expect: 100-continue` is left unanswered; the body is awaited all the same.
    NeverContinue,
    /// A page for people.
    Page { status: u16 },
    /// 200 and nothing.
    Empty,
    /// The healthy bytes under a wrong name.
    ContentType { value: String },
    /// To itself, for ever.
    Redirect,
    /// A header of so many bytes before the healthy body.
    HeaderBomb { bytes: usize },
    /// Nothing more comes.
    Stall {
        at: Point,
        /// But pings do, so often.
        pings_ms: Option<u64>,
        /// Until then; `None`: until the client leaves.
        for_ms: Option<u64>,
        #[serde(default)]
        then: AfterStall,
    },
    /// The connection ends.
    Cut { at: Point, how: Ending },
    /// An error event, and then a clean end.
    ErrorEvent { at: Point, error: ErrorKind },
    /// Events whose data is no JSON, and then the reply goes on.
    MalformedEvents { at: Point, count: usize },
    /// One event with so many bytes of data, and then the reply goes on.
    HugeEvent { at: Point, bytes: usize },
    /// A length is promised that is so many bytes more than what comes.
    ShortBody { missing_bytes: usize },
    /// A healthy answer on a connection that stays open, and is closed as the next request comes on it.
    CloseOnReuse,
}

/// How much has been sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Point {
    /// The head and no byte of the body.
    Headers,
    /// The events that open a reply, without content.
    Start,
    /// So many tokens of text.
    Tokens(usize),
    /// So many tokens of thinking: within it, if it has more.
    ThinkingTokens(usize),
    /// So many bytes of the arguments of this call (the first is 0).
    Arguments { call: usize, bytes: usize },
    /// So many calls, each complete.
    Calls(usize),
    /// Everything but the last event: after `message_delta`, after the chunk with the finish reason.
    BeforeEnd,
    /// So many bytes of the body, wherever that is.
    Bytes(usize),
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// RST.
    Reset,
    /// FIN, without the last chunk.
    Fin,
    /// FIN behind a body that is whole as HTTP.
    Clean,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AfterStall {
    /// FIN, without the last chunk.
    #[default]
    Fin,
    GoOn,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErrorAnswer {
    pub error: ErrorKind,
    /// `None`: the error's usual one.
    pub status: Option<u16>,
    /// Sent as it stands, sense or nonsense.
    pub retry_after: Option<String>,
}

/// What providers say went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    InvalidRequest,
    ContextLength,
    ContentPolicy,
    Authentication,
    Permission,
    TooLarge,
    RateLimit,
    QuotaSpent,
    Internal,
    Unavailable,
    Overloaded,
}

impl ErrorKind {
    pub fn status(self) -> u16 {
        match self {
            Self::InvalidRequest | Self::ContextLength | Self::ContentPolicy => 400,
            Self::Authentication => 401,
            Self::Permission => 403,
            Self::TooLarge => 413,
            Self::RateLimit | Self::QuotaSpent => 429,
            Self::Internal => 500,
            Self::Unavailable => 503,
            Self::Overloaded => 529,
        }
    }
}

/// Short ways to say the usual ones.
impl Answer {
    pub fn healthy() -> Self {
        Self::default()
    }

    pub fn saying(reply: Reply) -> Self {
        Self { reply, ..Self::default() }
    }

    pub fn wrong(misbehaviour: Misbehaviour) -> Self {
        Self::default().and_wrong(misbehaviour)
    }

    pub fn error(error: ErrorKind) -> Self {
        Self::wrong(Misbehaviour::Error(ErrorAnswer { error, status: None, retry_after: None }))
    }

    /// 429 with this `retry-after`, sense or nonsense.
    pub fn rate_limited(retry_after: Option<&str>) -> Self {
        let retry_after = retry_after.map(str::to_owned);
        Self::wrong(Misbehaviour::Error(ErrorAnswer { error: ErrorKind::RateLimit, status: None, retry_after }))
    }

    pub fn cut(at: Point, how: Ending) -> Self {
        Self::wrong(Misbehaviour::Cut { at, how })
    }

    /// Silence from there on, for ever.
    pub fn stall(at: Point) -> Self {
        Self::wrong(Misbehaviour::Stall { at, pings_ms: None, for_ms: None, then: AfterStall::Fin })
    }

    /// Pings and nothing else from there on, for ever.
    pub fn pings(at: Point, every_ms: u64) -> Self {
        Self::wrong(Misbehaviour::Stall { at, pings_ms: Some(every_ms), for_ms: None, then: AfterStall::Fin })
    }

    pub fn and_wrong(self, misbehaviour: Misbehaviour) -> Self {
        Self { misbehaviour: Some(misbehaviour), ..self }
    }

    pub fn with_reply(self, reply: Reply) -> Self {
        Self { reply, ..self }
    }

    pub fn with_pace(self, pace: Pace) -> Self {
        Self { pace, ..self }
    }

    pub fn with_wire(self, wire: Wire) -> Self {
        Self { wire, ..self }
    }

    /// So long from one token to the next.
    pub fn with_token_interval_ms(mut self, token_interval_ms: u64) -> Self {
        self.pace.token_interval_ms = token_interval_ms;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixty_words_are_sixty() {
        assert_eq!(SIXTY_WORDS.split_whitespace().count(), 60);
        assert!(!SIXTY_WORDS.is_ascii() && !SIXTY_WORDS.contains("  "));
    }
}
