//! What holds for the rest of a call's arguments that somebody else has begun: the tool's own schema, if it can be followed through what
//! stands already; else any JSON, and the whole is judged when it is there.

use std::sync::Arc;

use serde_json::Value;

use super::grammar::reply::{CallRules, Calls, ReplyRules, Thinks};
use super::grammar::{GrammarError, Grammars};
use super::partial_json::{collapsed, in_order_of};
use super::tool_formats::call_reader::{Body, Piece, Read};
use super::tool_formats::{CallPiece, Frame, ToolFormat, arguments_schema};
use super::{OutputFormat, ToolDefinition};
use crate::engine::constraint::Constraint;

/// How arguments go on.
#[derive(Debug)]
pub struct HeldArguments {
    /// Sees what is new.
    pub constraint: Option<Arc<dyn Constraint>>,
    /// `Some`: nothing but JSON is certain of the whole, and it must fulfil this.
    pub to_fulfil: Option<Value>,
}

/// Errors: they are not the beginning of a JSON object.
pub fn held(grammars: &Grammars, tool: &ToolDefinition, so_far: &str, tokens_max: Option<usize>) -> Result<HeldArguments, GrammarError> {
    let schema = arguments_schema(tool);
    let collapsed = collapsed(so_far);
    let reordered = ToolDefinition { parameters: Some(in_order_of(&schema, so_far)), ..tool.clone() };
    for (tool, so_far) in [(tool, so_far), (tool, &collapsed), (&reordered, &collapsed)] {
        let rules = CallRules { format: &BareArguments, tools: vec![(0, tool)], several: false };
        match under(grammars, Calls::Required(&rules), &OutputFormat::Text, so_far, tokens_max) {
            Ok(constraint) => return Ok(HeldArguments { constraint, to_fulfil: None }),
            Err(error) => tracing::debug!(tool = tool.name, "the schema does not follow what another model began: {error}"),
        }
    }
    let constraint = under(grammars, Calls::Unknown, &OutputFormat::JsonObject, &collapsed, tokens_max)?;
    Ok(HeldArguments { constraint, to_fulfil: Some(schema) })
}

fn under(
    grammars: &Grammars,
    calls: Calls<'_>,
    output: &OutputFormat,
    so_far: &str,
    tokens_max: Option<usize>,
) -> Result<Option<Arc<dyn Constraint>>, GrammarError> {
    grammars.of_reply(&ReplyRules { thinking: Thinks::Not, calls, output, begun: &[so_far.to_owned()] }, tokens_max)
}

/// A call that is nothing but its arguments.
#[derive(Debug)]
struct BareArguments;

impl ToolFormat for BareArguments {
    fn name(&self) -> &'static str {
        "bare arguments"
    }

    fn openings(&self) -> &'static [&'static str] {
        &[]
    }

    fn markers(&self) -> &'static [&'static str] {
        &[]
    }

    fn frame(&self) -> Frame {
        Frame { alone: true, ..Frame::default() }
    }

    fn call_syntax(&self, tool: &ToolDefinition) -> Vec<CallPiece> {
        vec![CallPiece::Json(arguments_schema(tool))]
    }

    fn body(&self, _: &Arc<[ToolDefinition]>) -> Box<dyn Body> {
        Box::new(NoCall)
    }
}

/// Arguments alone say of no text that it is a call.
#[derive(Debug)]
struct NoCall;

impl Body for NoCall {
    fn read(&mut self, _: &str, _: bool, _: &mut Vec<Piece>) -> Read {
        Read::NoCall(0, "it has no name")
    }
}
