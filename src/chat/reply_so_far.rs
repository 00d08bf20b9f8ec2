//! What stands of a reply that somebody else began, as the local model would have written it: its text as it is, its calls in the model's
//! own format. What the client has seen of another model's thoughts is left out: they are not this model's.

use super::begun::{BegunContent, BegunPiece, BegunReply};
use super::reasoning_parser::ReasoningFormat;
use super::tool_formats::{CallPiece, ToolFormat, harmony, hermes};
use super::{Conversation, ToolDefinition};

/// A piece of what a prompt begins of the reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BegunText {
    pub text: String,
    /// A control token's name, where there is one.
    pub is_marker: bool,
}

/// How the local model writes.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// `None`: in none that we know.
    pub calls: Option<&'static dyn ToolFormat>,
    pub thoughts: Option<ReasoningFormat>,
}

impl BegunText {
    pub fn literal(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_marker: false }
    }

    pub fn marker(name: impl Into<String>) -> Self {
        Self { text: name.into(), is_marker: true }
    }

    /// `None`: what stands there is not fixed.
    pub fn of(piece: CallPiece) -> Option<Self> {
        match piece {
            CallPiece::Marker(name) => Some(Self::marker(name)),
            CallPiece::Literal(text) | CallPiece::Name(text) => Some(Self::literal(text)),
            _ => None,
        }
    }
}

/// In order. The last one is the text, or the arguments, that are to be gone on with, where something is open and has begun.
pub fn reply_so_far(begun: &BegunReply, conversation: &Conversation, manner: Manner) -> Vec<BegunText> {
    let mut writer = Writer { manner, conversation, parts: Vec::new(), calls: 0 };
    let said = |piece: &&BegunPiece| match &piece.content {
        BegunContent::Text(text) => !text.is_empty(),
        BegunContent::ToolCall { .. } => true,
        BegunContent::Thinking(_) | BegunContent::Other => false,
    };
    let pieces: Vec<_> = begun.pieces.iter().filter(said).collect();
    for (index, piece) in pieces.iter().enumerate() {
        let is_last = index + 1 == pieces.len();
        match &piece.content {
            BegunContent::Text(text) => writer.text(text, is_last),
            BegunContent::ToolCall { name, arguments, .. } => writer.call(name, arguments, piece.open, is_last),
            BegunContent::Thinking(_) | BegunContent::Other => {}
        }
    }
    writer.parts
}

struct Writer<'a> {
    manner: Manner,
    conversation: &'a Conversation,
    parts: Vec<BegunText>,
    /// Since the last text.
    calls: usize,
}

impl Writer<'_> {
    fn text(&mut self, text: &str, is_last: bool) {
        if std::mem::take(&mut self.calls) > 0 {
            self.fixed(self.format().frame().close);
        }
        let in_messages = self.manner.thoughts == Some(ReasoningFormat::Harmony);
        if in_messages {
            let channel = if is_last { "final" } else { "commentary" };
            self.parts.extend([BegunText::marker(harmony::CHANNEL), BegunText::literal(channel), BegunText::marker(harmony::MESSAGE)]);
        }
        self.parts.push(BegunText::literal(text));
        if in_messages && !is_last {
            self.parts.extend([BegunText::marker(harmony::END), BegunText::marker(harmony::START), BegunText::literal("assistant")]);
        } else if !is_last && !text.ends_with('\n') {
            // Calls stand on lines of their own.
            self.parts.push(BegunText::literal("\n"));
        }
    }

    fn call(&mut self, name: &str, arguments: &str, is_open: bool, is_last: bool) {
        let format = self.format();
        let frame = format.frame();
        self.fixed(if self.calls == 0 { frame.open } else { frame.between });
        self.calls += 1;
        let unknown = || ToolDefinition { name: name.to_owned(), description: None, parameters: None, strict: false };
        let tool = self.conversation.tools.iter().find(|tool| tool.name == name).cloned().unwrap_or_else(unknown);
        let mut head = format.call_syntax(&tool);
        let tail = head.split_off(head.iter().rposition(|piece| BegunText::of(piece.clone()).is_none()).map_or(head.len(), |at| at + 1));
        // What a format writes argument by argument is begun at its first, and the arguments are JSON all the same.
        head.truncate(head.iter().position(|piece| BegunText::of(piece.clone()).is_none()).unwrap_or(head.len()));
        self.fixed(head);
        if !arguments.is_empty() {
            self.parts.push(BegunText::literal(arguments));
        }
        if is_open {
            return;
        }
        self.fixed(tail);
        if self.manner.thoughts == Some(ReasoningFormat::Harmony) && !is_last {
            self.parts.extend([BegunText::marker(harmony::CALL), BegunText::marker(harmony::START), BegunText::literal("assistant")]);
        }
        if is_last {
            self.fixed(format.frame().close);
        }
    }

    fn fixed(&mut self, pieces: Vec<CallPiece>) {
        self.parts.extend(pieces.into_iter().filter_map(BegunText::of));
    }

    /// A model without calls is shown those of another in the most widespread form.
    fn format(&self) -> &'static dyn ToolFormat {
        self.manner.calls.unwrap_or(&hermes::Hermes)
    }
}
