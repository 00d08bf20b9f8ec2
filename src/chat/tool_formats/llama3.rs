//! Llama 3: a reply that is nothing but `{"name": ..., "parameters": {...}}`; some put `<|python_tag|>` before it, and `;` between two.
//! Without a tag a JSON object may be any answer, so it is a call only if it names a tool that was given. Code for Meta's own tools
//! (`<|python_tag|>brave_search.call(...)`) is text to us: no client can give the model these tools.

use std::sync::Arc;

use super::call_reader::Body;
use super::hermes::json_object;
use super::json_call::JsonCalls;
use super::{CallPiece, Frame, ToolFormat};
use crate::chat::ToolDefinition;

const TAG: &[&str] = &["<|python_tag|>"];

#[derive(Debug)]
pub struct Llama3;

impl ToolFormat for Llama3 {
    fn name(&self) -> &'static str {
        "llama 3"
    }

    fn openings(&self) -> &'static [&'static str] {
        TAG
    }

    fn begins_bare(&self) -> bool {
        true
    }

    fn markers(&self) -> &'static [&'static str] {
        TAG
    }

    /// The models were trained on one call a reply; several are understood.
    fn frame(&self) -> Frame {
        Frame { between: vec![CallPiece::literal("; ")], alone: true, ..Frame::default() }
    }

    fn call_syntax(&self, tool: &ToolDefinition) -> Vec<CallPiece> {
        json_object(tool, "parameters")
    }

    fn body(&self, tools: &Arc<[ToolDefinition]>) -> Box<dyn Body> {
        Box::new(JsonCalls::new(TAG, None).known_only(tools.clone()))
    }
}
