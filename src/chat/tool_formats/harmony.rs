//! Harmony (gpt-oss): a call is a message of its own to `functions.NAME`, on the commentary channel, and ends the turn with `<|call|>`:
//! `<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{...}<|call|>`. The recipient may also stand before the channel.
//! What else a harmony reply consists of is `reasoning_parser`'s business, which hands on the headers of calls as they are.

use std::sync::Arc;

use super::call_reader::{Begins, Body, begins};
use super::named_call::{Header, Headers, NamedCalls, Tail, is_name};
use super::{CallPiece, Frame, ToolFormat, arguments_schema};
use crate::chat::ToolDefinition;

pub const START: &str = "<|start|>";
pub const CHANNEL: &str = "<|channel|>";
pub const MESSAGE: &str = "<|message|>";
pub const CONSTRAIN: &str = "<|constrain|>";
pub const END: &str = "<|end|>";
pub const CALL: &str = "<|call|>";
pub const RETURN: &str = "<|return|>";
/// What stands before the answer.
pub const ANSWER: &str = "<|channel|>final<|message|>";

#[derive(Debug)]
pub struct Harmony;

impl ToolFormat for Harmony {
    fn name(&self) -> &'static str {
        "harmony"
    }

    fn openings(&self) -> &'static [&'static str] {
        &[CHANNEL, START]
    }

    fn markers(&self) -> &'static [&'static str] {
        &[START, CHANNEL, MESSAGE, CONSTRAIN, END, CALL, RETURN]
    }

    fn frame(&self) -> Frame {
        Frame::default()
    }

    fn call_syntax(&self, tool: &ToolDefinition) -> Vec<CallPiece> {
        vec![
            CallPiece::Marker(CHANNEL),
            CallPiece::literal("commentary to=functions."),
            CallPiece::Name(tool.name.clone()),
            CallPiece::literal(" "),
            CallPiece::Marker(CONSTRAIN),
            CallPiece::literal("json"),
            CallPiece::Marker(MESSAGE),
            CallPiece::Json(arguments_schema(tool)),
        ]
    }

    fn body(&self, _: &Arc<[ToolDefinition]>) -> Box<dyn Body> {
        Box::new(NamedCalls::new(HarmonyHeaders))
    }
}

/// The recipient that a message's header names.
pub fn recipient(header: &str) -> Option<&str> {
    let (_, after) = header.split_once("to=")?;
    after.split(|c: char| c.is_whitespace() || c == '<').next().filter(|recipient| !recipient.is_empty())
}

#[derive(Debug)]
struct HarmonyHeaders;

impl Headers for HarmonyHeaders {
    fn header(&self, text: &str) -> Header {
        let Some((header, body)) = text.split_once(MESSAGE) else { return Header::NotWhole };
        let name = recipient(header).map(|recipient| recipient.strip_prefix("functions.").unwrap_or(recipient));
        match name.filter(|name| is_name(name)) {
            Some(name) => Header::Call { name: name.to_owned(), bytes: text.len() - body.trim_start().len() },
            None => Header::NoCall("it names no function"),
        }
    }

    fn tail(&self, text: &str) -> Tail {
        let rest = text.trim_start();
        let ends = [CALL, END, RETURN].map(|end| (end, begins(rest, end)));
        match ends.iter().find(|(_, begins)| *begins == Begins::Yes) {
            Some((end, _)) => Tail::Done(text.len() - rest.len() + end.len()),
            None if ends.iter().any(|(_, begins)| *begins == Begins::NotKnown) => Tail::NotWhole,
            None => Tail::Done(0),
        }
    }
}
