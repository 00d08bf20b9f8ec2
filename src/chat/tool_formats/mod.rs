//! How models call tools: one format a file, each with how a call is written (for a grammar) and how one is read (for a reply).
//! Which format a model speaks is read off its chat template, never asked for.
//!
//! Knows no tokens, no thinking and no provider. Nothing here fails: what is no call is text.

pub mod call_reader;

pub mod deepseek;
pub mod gemma;
pub mod glm;
pub mod harmony;
pub mod hermes;
pub mod json_lists;
pub mod llama3;
pub mod mistral;
pub mod python_calls;
pub mod qwen3_coder;

pub mod json_call;
pub mod named_call;
pub mod tagged_values;

#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::sync::Arc;

use serde_json::Value;

use super::ToolDefinition;
use call_reader::Body;

/// The way one family of models writes calls.
pub trait ToolFormat: Debug + Send + Sync {
    /// For the log.
    fn name(&self) -> &'static str;

    /// Texts that may begin a call; the reader of the body sees them again.
    fn openings(&self) -> &'static [&'static str];

    /// A call may also begin without an opening, with a reply's first character.
    fn begins_bare(&self) -> bool {
        false
    }

    /// The characters of its JSON may stand as escapes that need not be any: another model has begun it.
    fn takes_any_escape(&self) -> bool {
        false
    }

    /// Markup of calls that vocabularies may hold as control tokens: it must reach the reader as text.
    fn markers(&self) -> &'static [&'static str];

    /// How the calls of a reply are put together.
    fn frame(&self) -> Frame;

    /// How a call of this tool is written, without the frame.
    fn call_syntax(&self, tool: &ToolDefinition) -> Vec<CallPiece>;

    /// Reads what stands from an opening on.
    fn body(&self, tools: &Arc<[ToolDefinition]>) -> Box<dyn Body>;
}

/// What stands around the calls of one reply: `open call (between call)* close`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Frame {
    pub open: Vec<CallPiece>,
    pub between: Vec<CallPiece>,
    pub close: Vec<CallPiece>,
    /// Calls may only stand at a reply's very beginning, with no text before or after them.
    pub alone: bool,
    /// More than one call can be told apart.
    pub several: bool,
}

/// A piece of a call, as a model writes it.
#[derive(Debug, Clone, PartialEq)]
pub enum CallPiece {
    /// A tag: a control token where the vocabulary has one of that name, the same text otherwise.
    Marker(&'static str),
    /// Exactly this text.
    Literal(String),
    /// The tool's name; a text of its own, so that calls of different tools part here.
    Name(String),
    /// A JSON value under this schema.
    Json(Value),
    /// Any text, as long as you like, that does not contain this; what follows in the list begins with it.
    TextUntil(String),
    /// One of these.
    Either(Vec<Vec<CallPiece>>),
    /// Once or not at all.
    Optional(Vec<CallPiece>),
    /// As often as you like, or not at all.
    Repeated(Vec<CallPiece>),
}

impl CallPiece {
    pub fn literal(text: impl Into<String>) -> Self {
        Self::Literal(text.into())
    }
}

/// The schema of a tool's arguments; any object where the tool has none.
pub fn arguments_schema(tool: &ToolDefinition) -> Value {
    match &tool.parameters {
        Some(schema) if !schema.is_null() => schema.clone(),
        _ => serde_json::json!({"type": "object"}),
    }
}

/// The format of the model that brought this template. `None`: it knows no calls, or writes them in a way we do not know.
pub fn of_template(source: &str) -> Option<&'static dyn ToolFormat> {
    let has = |word: &str| source.contains(word);
    // The most telling word first: several formats share the shorter ones.
    Some(match () {
        () if has("<|channel|>") && has("<|message|>") => &harmony::Harmony,
        () if has("<|tool_call>") && has("<tool_call|>") => &gemma::GEMMA_4,
        () if has("<start_function_call>") => &gemma::FUNCTION_GEMMA,
        () if has("<｜tool▁calls▁begin｜>") && has("```json") => &deepseek::FENCED,
        () if has("<｜tool▁calls▁begin｜>") => &deepseek::BARE,
        () if has("[TOOL_CALLS]") && has("[ARGS]") => &mistral::NAMED,
        () if has("[TOOL_CALLS]") => &mistral::LIST,
        () if has("<|tool_call_start|>") => &python_calls::LFM2,
        () if has("<arg_key>") && has("</arg_key><arg_value>") => &glm::DENSE,
        () if has("<arg_key>") => &glm::LINES,
        () if has("<tool_call>") && has("<function=") => &qwen3_coder::Qwen3Coder,
        () if has("<tool_call>") => &hermes::Hermes,
        () if has("<TOOLCALL>") => &json_lists::NEMOTRON,
        () if has("<|/tool_call|>") => &json_lists::PHI_4,
        () if has("<|tool_call|>") => &json_lists::GRANITE,
        () if has("tool_code") => &python_calls::TOOL_CODE,
        () if has("<|python_tag|>") || has("\"parameters\":") && has("<|start_header_id|>") => &llama3::Llama3,
        () => return None,
    })
}

/// The beginning that all calls of these tools share, in whole pieces: a call that is forced can be begun for the model with it.
pub fn shared_beginning(format: &dyn ToolFormat, tools: &[&ToolDefinition]) -> Vec<CallPiece> {
    let fixed = |tool: &&ToolDefinition| -> Vec<CallPiece> {
        let pieces = format.frame().open.into_iter().chain(format.call_syntax(tool));
        pieces.take_while(|piece| matches!(piece, CallPiece::Marker(_) | CallPiece::Literal(_) | CallPiece::Name(_))).collect()
    };
    let Some((first, others)) = tools.split_first() else { return Vec::new() };
    let mut shared = fixed(first);
    for tool in others {
        let same = shared.iter().zip(fixed(tool)).take_while(|(ours, theirs)| *ours == theirs).count();
        shared.truncate(same);
    }
    shared
}
