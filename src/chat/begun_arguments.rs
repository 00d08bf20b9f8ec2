//! What holds for the rest of a call's arguments that somebody else has begun: the tool's own schema, if it can be followed through what
//! stands already; else any JSON, and the whole is judged when it is there.

use std::sync::Arc;

use serde_json::Value;

use super::grammar::reply::{CallRules, Calls, ReplyRules, Thinks};
use super::grammar::{GrammarError, Grammars};
use super::partial_json::{in_order_of, plain};
use super::tool_formats::call_reader::{Body, Piece, Read};
use super::tool_formats::{CallPiece, Frame, ToolFormat, arguments_schema};
use super::{OutputFormat, ToolDefinition};
use crate::engine::constraint::Constraint;

/// How arguments go on.
#[derive(Debug)]
pub struct HeldArguments {
    /// Sees what is new.
    pub constraint: Option<Arc<dyn Constraint>>,
    /// `Some`: before that an escape is to be made whole, of which so much stands after the backslash.
    pub escape: Option<String>,
    /// `Some`: nothing but JSON is certain of the whole, and it must fulfil this.
    pub to_fulfil: Option<Value>,
}

/// Which character a half-written escape becomes is not known. To a grammar it is one like any other, and the whole is judged.
const ANY_CHARACTER: &str = "x";

/// Errors: they are not the beginning of a JSON object.
pub fn held(grammars: &Grammars, tool: &ToolDefinition, so_far: &str, tokens_max: Option<usize>) -> Result<HeldArguments, GrammarError> {
    let schema = arguments_schema(tool);
    let plain = plain(so_far);
    let plain_text = if plain.escape.is_some() { plain.text + ANY_CHARACTER } else { plain.text };
    let reordered = ToolDefinition { parameters: Some(in_order_of(&schema, so_far)), ..tool.clone() };
    for (tool, begun) in [(tool, so_far), (tool, &plain_text), (&reordered, &plain_text)] {
        let rules = CallRules { format: &BareArguments, tools: vec![(0, tool)], several: false };
        match under(grammars, Calls::Required(&rules), &OutputFormat::Text, begun, tokens_max) {
            Ok(constraint) => {
                let escape = plain.escape.filter(|_| begun == plain_text);
                return Ok(HeldArguments { constraint, to_fulfil: escape.is_some().then_some(schema), escape });
            }
            Err(error) => tracing::debug!(tool = tool.name, "the schema does not follow what another model began: {error}"),
        }
    }
    let constraint = under(grammars, Calls::Unknown, &OutputFormat::JsonObject, &plain_text, tokens_max)?;
    Ok(HeldArguments { constraint, to_fulfil: Some(schema), escape: plain.escape })
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
