//! What becomes of a reply that its upstream left unfinished: who goes on from where, or how it ends honestly.
//!
//! A truncated answer never ends as a success, a call whose arguments are not whole is never closed, and nobody goes on in another's
//! thoughts. Pure: it decides and writes the frames that belong to the decision; generation is the local model's.
#![deny(clippy::disallowed_methods)]

mod anthropic;
mod openai_chat;
mod openai_responses;

use bytes::Bytes;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::fault::Fault;
use super::tap::{Part, Protocol, Seen, WirePiece};
use crate::chat::Usage;
use crate::chat::begun::{BegunContent, BegunPiece};

/// A reply is taken over once: what then fails as well is an error.
const TAKEOVERS_MAX: usize = 1;

/// A token is about this many bytes, where nobody has counted.
const BYTES_A_TOKEN: usize = 4;

/// What is to be done. Frames go to the client as they are, and through the tap, so that it knows what the client has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Takeover {
    /// The client has nothing: the next tier answers as if it were the first. What is held is dropped.
    PlainSwitch,
    /// The reply is whole but for these frames. What is held goes before them.
    Finish(Vec<Bytes>),
    /// The local model goes on in the text that is open, after these frames; if none is open, behind the last piece.
    ContinueText { first: Vec<Bytes> },
    /// The local model goes on in the arguments of the call that is this piece, the last one.
    ContinueToolCall { index: usize },
    /// After these frames, which end the thinking, the local model answers in a new text.
    FreshText { first: Vec<Bytes> },
    /// The connection is to end here and now: this client then asks again, and is answered by another.
    Abort,
    /// These frames say that the reply failed.
    InBandError(Vec<Bytes>),
}

/// The situation of a stream that broke.
#[derive(Debug, Clone, Copy)]
pub struct Cut {
    pub fault: Fault,
    /// The client has been given something of this reply.
    pub is_committed: bool,
    pub takeovers_so_far: usize,
    /// The client asks again if the connection ends before a piece of the reply is whole: [`aborts_are_retried`].
    pub aborts_are_retried: bool,
    /// Of the prompt, for upstreams that count only at the end.
    pub prompt_tokens_estimate: usize,
}

/// What may be gone on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TakeoverConfig {
    pub text: bool,
    pub tool_calls: bool,
}

impl Default for TakeoverConfig {
    fn default() -> Self {
        Self { text: true, tool_calls: true }
    }
}

/// Claude Code sends a request again whose stream just ended, as long as no block of it had begun to be shown.
pub fn aborts_are_retried(user_agent: &str) -> bool {
    user_agent.starts_with("claude-cli/") || user_agent.starts_with("claude-code/")
}

pub fn decide(seen: &Seen, cut: &Cut, config: &TakeoverConfig) -> Takeover {
    if seen.is_terminal {
        return Takeover::Finish(Vec::new());
    }
    if seen.finish.is_some() {
        return Takeover::Finish(last_frames(seen, cut));
    }
    if !cut.is_committed {
        return Takeover::PlainSwitch;
    }
    go_on(seen, cut, config).unwrap_or_else(|| Takeover::InBandError(error_frames(seen, cut)))
}

/// How a reply goes on that the client has in part; `None`: not at all.
fn go_on(seen: &Seen, cut: &Cut, config: &TakeoverConfig) -> Option<Takeover> {
    let cannot_be_continued = seen.is_refusal || seen.obstacle.is_some();
    // Of all events about a response the client expects the same response.
    let has_no_head = seen.protocol == Protocol::OpenAiResponses && seen.response.is_none();
    if cannot_be_continued || has_no_head {
        return None;
    }
    let may_generate = cut.takeovers_so_far < TAKEOVERS_MAX;
    let text = |takeover| Some(takeover).filter(|_| may_generate && config.text);
    let Some((last, wire)) = seen.pieces().next_back() else { return text(Takeover::ContinueText { first: Vec::new() }) };
    let before = &seen.reply.pieces[..seen.reply.pieces.len() - 1];
    let is_broken = |(piece, wire): (&BegunPiece, &WirePiece)| is_call(piece) && !is_whole(seen.protocol, piece, wire);
    if seen.pieces().take(before.len()).any(is_broken) {
        return None;
    }
    match &last.content {
        BegunContent::Other => None,
        BegunContent::ToolCall { .. } if is_whole(seen.protocol, last, wire) => Some(Takeover::Finish(finish_with_calls(seen, cut))),
        // Arguments that somebody has called complete, and that are not JSON; an input that no grammar describes.
        BegunContent::ToolCall { .. } if !last.open || wire.part != Part::None || wire.is_custom => None,
        BegunContent::ToolCall { .. } => {
            Some(Takeover::ContinueToolCall { index: before.len() }).filter(|_| may_generate && config.tool_calls)
        }
        // Finished calls are an answer, whatever would have been said or thought after them.
        BegunContent::Text(_) if has_text_ended(last, wire) && before.iter().any(is_call) => {
            Some(Takeover::Finish(finish_with_calls(seen, cut)))
        }
        BegunContent::Text(_) => text(Takeover::ContinueText { first: text_frames(seen) }),
        BegunContent::Thinking(_) if before.iter().any(is_call) => Some(Takeover::Finish(finish_with_calls(seen, cut))),
        BegunContent::Thinking(_) if last.open && cut.aborts_are_retried && !before.iter().any(is_shown) => Some(Takeover::Abort),
        BegunContent::Thinking(_) => text(Takeover::FreshText { first: close_frames(seen) }),
    }
}

fn is_call(piece: &BegunPiece) -> bool {
    matches!(piece.content, BegunContent::ToolCall { .. })
}

fn is_shown(piece: &BegunPiece) -> bool {
    !matches!(piece.content, BegunContent::Thinking(_))
}

fn has_text_ended(piece: &BegunPiece, wire: &WirePiece) -> bool {
    !piece.open || matches!(wire.part, Part::TextDone | Part::Done)
}

/// Whether a call can be executed as it stands.
fn is_whole(protocol: Protocol, piece: &BegunPiece, wire: &WirePiece) -> bool {
    let BegunContent::ToolCall { arguments, .. } = &piece.content else { return false };
    // In chats nothing but the next call ends one, which says nothing of how much of it has come.
    let is_ended = protocol != Protocol::OpenAiChat && (!piece.open || wire.part != Part::None);
    if wire.is_custom || arguments.trim_ascii().is_empty() {
        return is_ended;
    }
    arguments.trim_ascii_start().starts_with('{') && serde_json::from_str::<IgnoredAny>(arguments).is_ok()
}

/// Tokens as the upstream counted them, or as many as there must have been.
fn usage(seen: &Seen, cut: &Cut) -> Usage {
    let bytes = |piece: &BegunPiece| match &piece.content {
        BegunContent::Text(text) | BegunContent::Thinking(text) => text.len(),
        BegunContent::ToolCall { name, arguments, .. } => name.len() + arguments.len(),
        BegunContent::Other => 0,
    };
    let mut usage = seen.reply.usage;
    if !seen.is_prompt_counted {
        usage.prompt_tokens = cut.prompt_tokens_estimate;
    }
    if !seen.is_reply_counted || seen.finish.is_none() {
        let bytes: usize = seen.reply.pieces.iter().map(bytes).sum();
        usage.completion_tokens = usage.completion_tokens.max(bytes.div_ceil(BYTES_A_TOKEN));
    }
    usage
}

/// The reason has been told: what is still missing after it.
fn last_frames(seen: &Seen, cut: &Cut) -> Vec<Bytes> {
    match seen.protocol {
        Protocol::AnthropicMessages => anthropic::last_frames(),
        Protocol::OpenAiChat | Protocol::OpenAiCompletions => openai_chat::last_frames(seen, usage(seen, cut)),
        // Its last event is the only one that tells a reason.
        Protocol::OpenAiResponses => Vec::new(),
    }
}

/// Ends a reply whose calls are to be executed now.
fn finish_with_calls(seen: &Seen, cut: &Cut) -> Vec<Bytes> {
    match seen.protocol {
        Protocol::AnthropicMessages => anthropic::finish_with_calls(seen, usage(seen, cut)),
        Protocol::OpenAiChat | Protocol::OpenAiCompletions => openai_chat::finish_with_calls(seen, usage(seen, cut)),
        Protocol::OpenAiResponses => openai_responses::finish_with_calls(seen, usage(seen, cut)),
    }
}

/// Ends the last piece, thinking.
fn close_frames(seen: &Seen) -> Vec<Bytes> {
    match seen.protocol {
        Protocol::AnthropicMessages => anthropic::close_frames(seen),
        Protocol::OpenAiChat | Protocol::OpenAiCompletions => Vec::new(),
        Protocol::OpenAiResponses => openai_responses::close_frames(seen),
    }
}

/// Brings the last piece, text, to where more can be said.
fn text_frames(seen: &Seen) -> Vec<Bytes> {
    match seen.protocol {
        Protocol::OpenAiResponses => openai_responses::text_frames(seen),
        _ => Vec::new(),
    }
}

fn error_frames(seen: &Seen, cut: &Cut) -> Vec<Bytes> {
    let message = format!("the upstream broke off in the middle of its reply ({}), and it could not be continued", cut.fault.name());
    match seen.protocol {
        Protocol::AnthropicMessages => anthropic::error_frames(&message),
        Protocol::OpenAiChat | Protocol::OpenAiCompletions => openai_chat::error_frames(&message),
        Protocol::OpenAiResponses => openai_responses::error_frames(seen, &message),
    }
}

/// An event with a name, which is also its type.
fn named(event: &Value) -> Bytes {
    let name = event["type"].as_str().unwrap_or_default();
    format!("event: {name}\ndata: {event}\n\n").into()
}

fn data(event: &Value) -> Bytes {
    format!("data: {event}\n\n").into()
}
