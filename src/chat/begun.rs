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

impl BegunReply {
    /// The piece whose end has not been told.
    pub fn open_piece(&self) -> Option<&BegunContent> {
        self.pieces.last().filter(|piece| piece.open).map(|piece| &piece.content)
    }

    /// Calls that were begun, finished or not.
    pub fn calls(&self) -> usize {
        self.pieces.iter().filter(|piece| matches!(piece.content, BegunContent::ToolCall { .. })).count()
    }

    /// Its last word is a finished call: all that is missing is its end, and no model is needed to say that.
    pub fn lacks_only_its_end(&self) -> bool {
        self.pieces.last().is_some_and(|piece| !piece.open && matches!(piece.content, BegunContent::ToolCall { .. }))
    }

    /// What was said in words.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|piece| match &piece.content {
            BegunContent::Text(text) => Some(text.as_str()),
            BegunContent::Thinking(_) | BegunContent::ToolCall { .. } | BegunContent::Other => None,
        })
    }

    /// All that is no thought, as it was told.
    pub fn said(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().flat_map(|piece| match &piece.content {
            BegunContent::Text(text) => [text.as_str(), ""],
            BegunContent::ToolCall { name, arguments, .. } => [name.as_str(), arguments.as_str()],
            BegunContent::Thinking(_) | BegunContent::Other => ["", ""],
        })
    }
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
