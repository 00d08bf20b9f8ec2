//! Follows a relayed stream beside its bytes: what each event means for timers and for the commit, and what the client has of the reply
//! so far, so that somebody else can go on from there.
//!
//! It changes nothing and holds nothing up. What it does not know is relayed like the rest. One protocol a file.
#![deny(clippy::disallowed_methods)]

mod anthropic;
mod error_event;
mod openai_chat;
mod openai_completions;
mod openai_responses;
mod seen;
mod text;
pub mod whole;

use std::time::Duration;

use serde::de::IgnoredAny;

use super::fault::Fault;
pub use super::protocol::Protocol;
use super::sse_splitter::SseEvent;
pub use seen::{Obstacle, Part, Seen, WirePiece};

/// This many events that are not JSON end a stream: one may be a slip, three are a pattern.
const MALFORMED_MAX: usize = 3;

/// What an event means to whoever waits for the reply.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Told {
    /// Before any content, and none itself: what can still be taken back.
    Preamble,
    /// A sign of life that says nothing of work.
    Ping,
    Content(ContentKind),
    /// Work, though no content.
    Progress,
    /// The reply is whole.
    Terminal,
    Error {
        fault: Fault,
        retry_after: Option<Duration>,
    },
    /// Not JSON. It is not to be relayed: clients stop at it.
    Malformed,
    /// JSON of a kind that we do not know.
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentKind {
    Text,
    Thinking,
    ToolCall,
    /// A kind of block that we do not know; the client has seen it.
    Other,
}

/// Beside one stream.
#[derive(Debug)]
pub struct Tap {
    seen: Seen,
}

impl Tap {
    pub fn new(protocol: Protocol) -> Self {
        Self { seen: Seen::new(protocol) }
    }

    /// What the client has, if it was given all events that were told here.
    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    /// The next event, of the upstream or written here.
    pub fn event(&mut self, event: &SseEvent) -> Told {
        let Some(data) = event.data() else { return Told::Ping };
        let Ok(text) = std::str::from_utf8(data) else { return self.malformed() };
        let told = if text.trim_ascii() == "[DONE]" { self.done() } else { self.read(text) };
        match told {
            Some(told) => {
                self.seen.has_content |= matches!(told, Told::Content(_));
                told
            }
            None => self.malformed(),
        }
    }

    /// `None`: it is no JSON.
    fn read(&mut self, text: &str) -> Option<Told> {
        let frames = self.seen.reply.frames;
        let read = match self.seen.protocol {
            Protocol::AnthropicMessages => anthropic::read(&mut self.seen, text),
            Protocol::OpenAiChat => openai_chat::read(&mut self.seen, text),
            Protocol::OpenAiCompletions => openai_completions::read(&mut self.seen, text),
            Protocol::OpenAiResponses => openai_responses::read(&mut self.seen, text),
        };
        let told = match read {
            Ok(told) => told,
            // JSON that is not as we know it: of a later version of the protocol, or of another one.
            Err(_) => serde_json::from_str::<IgnoredAny>(text).is_ok().then_some(Told::Unknown)?,
        };
        // Where events are numbered, the reader has set it.
        self.seen.reply.frames = self.seen.reply.frames.max(frames + 1);
        Some(told)
    }

    /// The end of OpenAI's older streams; said by others, it is a line like another.
    fn done(&mut self) -> Option<Told> {
        match self.seen.protocol {
            Protocol::OpenAiChat | Protocol::OpenAiCompletions => {
                self.seen.is_terminal = true;
                self.seen.close_all();
                Some(Told::Terminal)
            }
            Protocol::AnthropicMessages | Protocol::OpenAiResponses => Some(Told::Unknown),
        }
    }

    /// A hole in a text is a pity, a hole in the arguments of a call may be a command that nobody meant.
    fn malformed(&mut self) -> Told {
        self.seen.malformed += 1;
        if self.seen.malformed >= MALFORMED_MAX || self.seen.is_in_tool_call() {
            return Told::Error { fault: Fault::Malformed, retry_after: None };
        }
        Told::Malformed
    }
}
