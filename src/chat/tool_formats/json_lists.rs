//! Granite, Phi-4-mini and Nemotron: a tag, a JSON list of objects with `name` and `arguments`, and for some a closing tag.

use std::sync::Arc;

use super::call_reader::Body;
use super::hermes::json_object;
use super::json_call::JsonCalls;
use super::{CallPiece, Frame, ToolFormat};
use crate::chat::ToolDefinition;

#[derive(Debug)]
pub struct JsonLists {
    name: &'static str,
    /// Opening tag, closing tag if there is one.
    tags: &'static [&'static str],
    has_close: bool,
}

pub const GRANITE: JsonLists = JsonLists { name: "granite", tags: &["<|tool_call|>"], has_close: false };
pub const PHI_4: JsonLists = JsonLists { name: "phi-4", tags: &["<|tool_call|>", "<|/tool_call|>"], has_close: true };
pub const NEMOTRON: JsonLists = JsonLists { name: "nemotron", tags: &["<TOOLCALL>", "</TOOLCALL>"], has_close: true };

impl JsonLists {
    fn close(&self) -> Option<&'static str> {
        self.has_close.then(|| self.tags[1])
    }
}

impl ToolFormat for JsonLists {
    fn name(&self) -> &'static str {
        self.name
    }

    fn openings(&self) -> &'static [&'static str] {
        &self.tags[..1]
    }

    fn markers(&self) -> &'static [&'static str] {
        self.tags
    }

    fn frame(&self) -> Frame {
        let mut close = vec![CallPiece::literal("]")];
        close.extend(self.close().map(CallPiece::Marker));
        Frame {
            open: vec![CallPiece::Marker(self.tags[0]), CallPiece::literal("[")],
            between: vec![CallPiece::literal(", ")],
            close,
            several: true,
            ..Frame::default()
        }
    }

    fn call_syntax(&self, tool: &ToolDefinition) -> Vec<CallPiece> {
        json_object(tool, "arguments")
    }

    fn body(&self, _: &Arc<[ToolDefinition]>) -> Box<dyn Body> {
        Box::new(JsonCalls::new(self.openings(), self.close()))
    }
}
