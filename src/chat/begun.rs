//! A reply that somebody else began and the client has seen: what a local model must go on from, byte for byte.

use super::Usage;

/// The beginning of a reply, as the client has it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BegunReply {
    /// Its id as the client knows it, prefix included.
    pub id: String,
    pub created_unix_s: i64,
    /// Who began it: a message has one `model`.
    pub model: String,
    /// In the order in which they began; only the last may be open.
    pub pieces: Vec<BegunPiece>,
    /// As far as it was told.
    pub usage: Usage,
    /// Server-sent events that the client has, for dialects that number them.
    pub frames: usize,
}

/// A part of a reply: a content block of Anthropic's, an output item of OpenAI's responses.
#[derive(Debug, Clone, PartialEq)]
pub struct BegunPiece {
    /// Its own id on the wire, where it has one.
    pub id: Option<String>,
    pub content: BegunContent,
    /// Its end has not been told.
    pub open: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum BegunContent {
    Text(String),
    Thinking(String),
    ToolCall {
        /// What the result will refer to.
        call_id: String,
        name: String,
        /// JSON text as far as it has come.
        arguments: String,
    },
    /// Something that we do not know, and that only counts as a piece.
    Other,
}
