//! Hermes and Qwen: `<tool_call>`, a JSON object with `name` and `arguments`, `</tool_call>`; each call in tags of its own.

use std::sync::Arc;

use super::call_reader::Body;
use super::json_call::JsonCalls;
use super::{CallPiece, Frame, ToolFormat, arguments_schema};
use crate::chat::ToolDefinition;

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

#[derive(Debug)]
pub struct Hermes;

impl ToolFormat for Hermes {
    fn name(&self) -> &'static str {
        "hermes"
    }

    fn openings(&self) -> &'static [&'static str] {
        &[OPEN]
    }

    fn markers(&self) -> &'static [&'static str] {
        &[OPEN, CLOSE]
    }

    fn frame(&self) -> Frame {
        Frame { between: vec![CallPiece::literal("\n")], several: true, ..Frame::default() }
    }

    fn call_syntax(&self, tool: &ToolDefinition) -> Vec<CallPiece> {
        let mut pieces = vec![CallPiece::Marker(OPEN), CallPiece::literal("\n")];
        pieces.extend(json_object(tool, "arguments"));
        pieces.extend([CallPiece::literal("\n"), CallPiece::Marker(CLOSE)]);
        pieces
    }

    fn body(&self, _: &Arc<[ToolDefinition]>) -> Box<dyn Body> {
        Box::new(JsonCalls::new(&[OPEN], Some(CLOSE)))
    }
}

/// `{"name": "...", "arguments": {...}}`, with the key that the model uses for the arguments.
pub fn json_object(tool: &ToolDefinition, key: &str) -> Vec<CallPiece> {
    let name = serde_json::Value::from(tool.name.as_str()).to_string();
    vec![
        CallPiece::literal("{\"name\": \""),
        CallPiece::Name(name[1..name.len() - 1].to_owned()),
        CallPiece::literal(format!("\", \"{key}\": ")),
        CallPiece::Json(arguments_schema(tool)),
        CallPiece::literal("}"),
    ]
}
