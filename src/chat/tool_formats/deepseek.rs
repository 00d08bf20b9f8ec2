//! DeepSeek: all calls of a reply between `<｜tool▁calls▁begin｜>` and `<｜tool▁calls▁end｜>`. Each is, in V3.1, a name, `<｜tool▁sep｜>`
//! and the arguments; in V3 and R1 the word `function`, `<｜tool▁sep｜>`, the name, and the arguments in a fenced block. Either is read,
//! whatever the template says. (V3.2's own markup, "DSML", comes with no Jinja template and is not read.)

use std::sync::Arc;

use super::call_reader::{Begins, Body, begins};
use super::named_call::{Header, Headers, NamedCalls, Tail, is_name, skip};
use super::{CallPiece, Frame, ToolFormat, arguments_schema};
use crate::chat::ToolDefinition;

const CALLS_BEGIN: &str = "<｜tool▁calls▁begin｜>";
const CALLS_END: &str = "<｜tool▁calls▁end｜>";
const CALL_BEGIN: &str = "<｜tool▁call▁begin｜>";
const CALL_END: &str = "<｜tool▁call▁end｜>";
const SEPARATOR: &str = "<｜tool▁sep｜>";
const FENCE: &str = "```json\n";

#[derive(Debug)]
pub struct DeepSeek {
    is_fenced: bool,
}

pub const FENCED: DeepSeek = DeepSeek { is_fenced: true };
pub const BARE: DeepSeek = DeepSeek { is_fenced: false };

impl ToolFormat for DeepSeek {
    fn name(&self) -> &'static str {
        if self.is_fenced { "deepseek v3" } else { "deepseek v3.1" }
    }

    fn openings(&self) -> &'static [&'static str] {
        &[CALLS_BEGIN, CALL_BEGIN]
    }

    fn markers(&self) -> &'static [&'static str] {
        &[CALLS_BEGIN, CALLS_END, CALL_BEGIN, CALL_END, SEPARATOR]
    }

    fn frame(&self) -> Frame {
        let between = if self.is_fenced { vec![CallPiece::literal("\n")] } else { Vec::new() };
        Frame {
            open: vec![CallPiece::Marker(CALLS_BEGIN)],
            between,
            close: vec![CallPiece::Marker(CALLS_END)],
            several: true,
            ..Frame::default()
        }
    }

    fn call_syntax(&self, tool: &ToolDefinition) -> Vec<CallPiece> {
        let (name, arguments) = (CallPiece::Name(tool.name.clone()), CallPiece::Json(arguments_schema(tool)));
        let (begin, separator, end) = (CallPiece::Marker(CALL_BEGIN), CallPiece::Marker(SEPARATOR), CallPiece::Marker(CALL_END));
        match self.is_fenced {
            true => {
                let fence = CallPiece::literal(format!("\n{FENCE}"));
                vec![begin, CallPiece::literal("function"), separator, name, fence, arguments, CallPiece::literal("\n```"), end]
            }
            false => vec![begin, name, separator, arguments, end],
        }
    }

    fn body(&self, _: &Arc<[ToolDefinition]>) -> Box<dyn Body> {
        Box::new(NamedCalls::new(DeepSeekHeaders))
    }
}

#[derive(Debug)]
struct DeepSeekHeaders;

impl Headers for DeepSeekHeaders {
    fn header(&self, text: &str) -> Header {
        let Some(inner) = skip(text, CALLS_BEGIN).and_then(|inner| skip(inner, CALL_BEGIN)) else { return Header::NotWhole };
        let Some((head, after)) = inner.split_once(SEPARATOR) else {
            return if inner.contains('\n') { Header::NoCall("it has no separator") } else { Header::NotWhole };
        };
        let after = after.trim_start();
        let (name, arguments) = match after.chars().next() {
            None => return Header::NotWhole,
            Some('{') => (head, after),
            Some(_) => {
                let Some((name, block)) = after.split_once('\n') else { return Header::NotWhole };
                match begins(block, FENCE) {
                    Begins::Yes => (name, block[FENCE.len()..].trim_start()),
                    Begins::NotKnown => return Header::NotWhole,
                    Begins::No => return Header::NoCall("it has no block of arguments"),
                }
            }
        };
        match is_name(name.trim()) {
            true => Header::Call { name: name.trim().to_owned(), bytes: text.len() - arguments.len() },
            false => Header::NoCall("its name is none"),
        }
    }

    fn tail(&self, text: &str) -> Tail {
        let Some(rest) = skip(text, "```").and_then(|rest| skip(rest, CALL_END)) else { return Tail::NotWhole };
        match (begins(rest, CALL_BEGIN), begins(rest, CALLS_END)) {
            (Begins::Yes, _) => Tail::Next(text.len() - rest.len()),
            (_, Begins::Yes) => Tail::Done(text.len() - rest.len() + CALLS_END.len()),
            (Begins::No, Begins::No) => Tail::Broken,
            _ => Tail::NotWhole,
        }
    }
}
