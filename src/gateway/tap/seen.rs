//! What the client has of a reply: its pieces byte for byte, and what their protocol says of them beside.

use super::{ContentKind, Protocol, Told};
use crate::chat::begun::{BegunContent, BegunPiece, BegunReply};

/// Text, thoughts and arguments of one reply are kept up to this many bytes together. No model writes that much.
const KEPT_BYTES_MAX: usize = 16 << 20;

/// A reply as far as it has come.
#[derive(Debug)]
pub struct Seen {
    pub protocol: Protocol,
    pub reply: BegunReply,
    /// What the protocol says of each piece of `reply`, in the same order.
    pub wire: Vec<WirePiece>,
    /// An event that cannot be taken back has come.
    pub has_content: bool,
    /// Why the reply ended, in the upstream's word. Only the events that close the stream may be missing.
    pub finish: Option<String>,
    /// The last event has come.
    pub is_terminal: bool,
    /// The model, or a filter behind it, refused.
    pub is_refusal: bool,
    /// What nobody else can go on from.
    pub obstacle: Option<Obstacle>,
    /// Bytes of text, thoughts and arguments that have come.
    pub said_bytes: usize,
    /// Events that were not JSON.
    pub malformed: usize,
    /// The prompt's length was told.
    pub is_prompt_counted: bool,
    /// The reply's length was told, and not only as far as it had come.
    pub is_reply_counted: bool,
    /// Chunks have a field for the usage, which was asked for: chat completions.
    pub has_usage_field: bool,
    /// Of the prompt, written to the upstream's cache: Anthropic counts it apart.
    pub cache_written_tokens: usize,
    /// JSON of the response as it began: every later event about it repeats that.
    pub response: Option<Box<str>>,
    kept_bytes: usize,
}

/// Why nobody else can go on with a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    SeveralChoices,
    /// Longer than what is kept.
    TooLong,
    /// Pieces written side by side, or of a form that we do not follow.
    UnknownForm,
}

/// A piece of a reply as its protocol has it.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct WirePiece {
    /// The number of its block, call or item on the wire.
    pub index: usize,
    /// What proves who thought it.
    pub signature: String,
    /// JSON of the item: as it was added, then as it was done.
    pub item: Option<Box<str>>,
    pub part: Part,
    /// Where the parts of an item's thinking begin.
    pub part_starts: Vec<usize>,
    /// Its thinking comes as a summary, and not as it was thought.
    pub has_summary: bool,
    /// A call whose input is text of the tool's own kind, and not JSON.
    pub is_custom: bool,
}

/// How far the part of an item has come: Responses.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    #[default]
    None,
    Open,
    /// Its text is done, or the arguments of its call.
    TextDone,
    Done,
}

impl Seen {
    pub(super) fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            reply: BegunReply::default(),
            wire: Vec::new(),
            has_content: false,
            finish: None,
            is_terminal: false,
            is_refusal: false,
            obstacle: None,
            said_bytes: 0,
            malformed: 0,
            is_prompt_counted: false,
            is_reply_counted: false,
            has_usage_field: false,
            cache_written_tokens: 0,
            response: None,
            kept_bytes: 0,
        }
    }

    /// The pieces with what the protocol says of them.
    pub fn pieces(&self) -> impl DoubleEndedIterator<Item = (&BegunPiece, &WirePiece)> {
        self.reply.pieces.iter().zip(&self.wire)
    }

    /// What proves who thought the thinking that is finished, for the ledger. In chats it is the thought itself, and an item of a
    /// response that is kept by its author is known by its id.
    pub fn signatures(&self) -> impl Iterator<Item = &str> {
        self.pieces().filter(|(piece, _)| !piece.open).filter_map(|(piece, wire)| match &piece.content {
            BegunContent::Thinking(thoughts) if self.protocol == Protocol::OpenAiChat => Some(thoughts.as_str()),
            BegunContent::Thinking(_) if !wire.signature.is_empty() => Some(wire.signature.as_str()),
            BegunContent::Thinking(_) if self.protocol == Protocol::OpenAiResponses => piece.id.as_deref(),
            _ => None,
        })
    }

    pub(super) fn is_in_tool_call(&self) -> bool {
        self.reply.pieces.last().is_some_and(|piece| piece.open && matches!(piece.content, BegunContent::ToolCall { .. }))
    }

    /// An event that opens something, and says no word of it.
    pub(super) fn lead_in(&self) -> Told {
        if self.has_content { Told::Progress } else { Told::Preamble }
    }

    /// An event that says nothing at all.
    pub(super) fn nothing_new(&self) -> Told {
        if self.has_content { Told::Ping } else { Told::Preamble }
    }

    /// The newest piece with this number. Numbers grow, so it is nearly always the last.
    pub(super) fn find(&self, index: usize) -> Option<usize> {
        self.wire.iter().rposition(|wire| wire.index == index)
    }

    pub(super) fn open_piece(&mut self, id: Option<String>, content: BegunContent, wire: WirePiece) {
        self.reply.pieces.push(BegunPiece { id, content, open: true });
        self.wire.push(wire);
    }

    pub(super) fn close(&mut self, at: usize) {
        self.reply.pieces[at].open = false;
    }

    pub(super) fn close_all(&mut self) {
        for piece in &mut self.reply.pieces {
            piece.open = false;
        }
    }

    pub(super) fn hinder(&mut self, obstacle: Obstacle) {
        self.obstacle.get_or_insert(obstacle);
    }

    /// More of a piece.
    pub(super) fn append(&mut self, at: usize, more: &str) -> Told {
        // In an interleaved reply the piece that is open is not the one that would be continued.
        if at + 1 != self.reply.pieces.len() {
            self.hinder(Obstacle::UnknownForm);
        }
        if more.is_empty() {
            return self.nothing_new();
        }
        self.said_bytes += more.len();
        let is_kept = self.keep(more.len());
        let (kept, kind) = match &mut self.reply.pieces[at].content {
            BegunContent::Text(text) => (text, ContentKind::Text),
            BegunContent::Thinking(text) => (text, ContentKind::Thinking),
            BegunContent::ToolCall { arguments, .. } => (arguments, ContentKind::ToolCall),
            BegunContent::Other => return Told::Content(ContentKind::Other),
        };
        if is_kept {
            kept.push_str(more);
        }
        Told::Content(kind)
    }

    /// Counts bytes that are to be kept; whether they may be.
    pub(super) fn keep(&mut self, bytes: usize) -> bool {
        self.kept_bytes = self.kept_bytes.saturating_add(bytes);
        if self.kept_bytes > KEPT_BYTES_MAX {
            self.hinder(Obstacle::TooLong);
        }
        self.obstacle != Some(Obstacle::TooLong)
    }

    /// The raw JSON of something that has to be repeated.
    pub(super) fn keep_raw(&mut self, json: &str) -> Option<Box<str>> {
        self.keep(json.len()).then(|| json.into())
    }
}
