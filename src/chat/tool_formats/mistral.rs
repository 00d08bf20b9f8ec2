//! Mistral: `[TOOL_CALLS]` and a JSON list of objects with `name` and `arguments` (tokenizers up to v7), or a name, `[ARGS]` and the
//! arguments, the tag again before each further call (v11 and later; some put `[CALL_ID]` and an id between). Either is read, whatever the
//! template says. Calls end with the reply.

use std::sync::Arc;

use super::call_reader::{Begins, Body, Piece, Read, begins};
use super::hermes::json_object;
use super::json_call::JsonCalls;
use super::named_call::{Header, Headers, NamedCalls, Tail, is_name};
use super::{CallPiece, Frame, ToolFormat, arguments_schema};
use crate::chat::ToolDefinition;

const CALLS: &str = "[TOOL_CALLS]";
const CALL_ID: &str = "[CALL_ID]";
const ARGS: &str = "[ARGS]";

#[derive(Debug)]
pub struct Mistral {
    is_list: bool,
}

pub const LIST: Mistral = Mistral { is_list: true };
pub const NAMED: Mistral = Mistral { is_list: false };

impl ToolFormat for Mistral {
    fn name(&self) -> &'static str {
        if self.is_list { "mistral's lists" } else { "mistral" }
    }

    fn openings(&self) -> &'static [&'static str] {
        &[CALLS]
    }

    fn markers(&self) -> &'static [&'static str] {
        &[CALLS, CALL_ID, ARGS]
    }

    fn frame(&self) -> Frame {
        let several = Frame { several: true, ..Frame::default() };
        match self.is_list {
            true => Frame {
                open: vec![CallPiece::Marker(CALLS), CallPiece::literal("[")],
                between: vec![CallPiece::literal(", ")],
                close: vec![CallPiece::literal("]")],
                ..several
            },
            false => several,
        }
    }

    fn call_syntax(&self, tool: &ToolDefinition) -> Vec<CallPiece> {
        match self.is_list {
            true => json_object(tool, "arguments"),
            false => vec![
                CallPiece::Marker(CALLS),
                CallPiece::Name(tool.name.clone()),
                CallPiece::Marker(ARGS),
                CallPiece::Json(arguments_schema(tool)),
            ],
        }
    }

    fn body(&self, _: &Arc<[ToolDefinition]>) -> Box<dyn Body> {
        Box::new(MistralBody::NotKnown)
    }
}

/// Which of the two it is shows after the tag.
#[derive(Debug)]
enum MistralBody {
    NotKnown,
    List(JsonCalls),
    Named(NamedCalls<MistralHeaders>),
}

impl Body for MistralBody {
    fn read(&mut self, text: &str, is_end: bool, pieces: &mut Vec<Piece>) -> Read {
        if let Self::NotKnown = self {
            *self = match text[CALLS.len()..].trim_start().chars().next() {
                Some('[' | '{') => Self::List(JsonCalls::new(&[CALLS], None)),
                Some(_) => Self::Named(NamedCalls::new(MistralHeaders)),
                None if is_end => return Read::NoCall(0, "it breaks off"),
                None => return Read::More(0),
            };
        }
        match self {
            Self::List(calls) => calls.read(text, is_end, pieces),
            Self::Named(calls) => calls.read(text, is_end, pieces),
            Self::NotKnown => Read::NoCall(0, "it breaks off"),
        }
    }
}

#[derive(Debug)]
struct MistralHeaders;

impl Headers for MistralHeaders {
    fn header(&self, text: &str) -> Header {
        let inner = &text[CALLS.len()..];
        let Some(end) = inner.find(ARGS) else { return header_so_far(inner) };
        let name = inner[..end].split(CALL_ID).next().unwrap_or_default().trim();
        if !is_name(name) {
            return Header::NoCall("its name is none");
        }
        let arguments = inner[end + ARGS.len()..].trim_start();
        Header::Call { name: name.to_owned(), bytes: text.len() - arguments.len() }
    }

    fn tail(&self, text: &str) -> Tail {
        let rest = text.trim_start();
        match begins(rest, CALLS) {
            Begins::Yes => Tail::Next(text.len() - rest.len()),
            Begins::NotKnown => Tail::NotWhole,
            Begins::No => Tail::Done(0),
        }
    }
}

/// Text that no name begins with is shown at once.
fn header_so_far(text: &str) -> Header {
    let name = text.split('[').next().unwrap_or_default().trim();
    if name.is_empty() || is_name(name) { Header::NotWhole } else { Header::NoCall("its name is none") }
}
