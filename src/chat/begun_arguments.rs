//! What holds for the rest of a call's arguments that somebody else has begun: the tool's own schema, if it can be followed through what
//! stands already; else any JSON, and the whole is judged when it is there.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::grammar::reply::{CallRules, Calls, ReplyRules, Thinks};
use super::grammar::{GrammarError, Grammars};
use super::partial_json::{begun_string, in_order_of, plain, quoted, rest_of_escape};
use super::tool_formats::call_reader::{Body, Piece, Read};
use super::tool_formats::{CallPiece, Frame, ToolFormat, arguments_schema};
use super::{OutputFormat, ToolDefinition};
use crate::engine::constraint::Constraint;

/// How arguments go on.
#[derive(Debug)]
pub struct HeldArguments {
    /// Sees what is new, behind [`Self::forced`] or the escape.
    pub constraint: Option<Arc<dyn Constraint>>,
    /// The rest of an escape, where the schema leaves only this one.
    pub forced: String,
    /// `Some`: before that an escape is to be made whole, of which so much stands after the backslash.
    pub escape: Option<String>,
    /// `Some`: nothing but JSON is certain of the whole, and it must fulfil this.
    pub to_fulfil: Option<Value>,
}

/// What stands, as a grammar is to read it.
struct Reading {
    begun: String,
    forced: String,
    escape: Option<String>,
}

/// Which character a half-written escape becomes may not be known. To a grammar it is one like any other, and the whole is judged.
const ANY_CHARACTER: &str = "x";
/// Of characters that the schema's own texts go on with, and of all others: each costs a grammar.
const ENDS_OF_ESCAPE_MAX: usize = 8;

/// Errors: they are not the beginning of a JSON object.
pub fn held(grammars: &Grammars, tool: &ToolDefinition, so_far: &str, tokens_max: Option<usize>) -> Result<HeldArguments, GrammarError> {
    let schema = arguments_schema(tool);
    let reordered = ToolDefinition { parameters: Some(in_order_of(&schema, so_far)), ..tool.clone() };
    let rules = |tool| CallRules { format: &BareArguments, tools: vec![(0, tool)], several: false };
    let follows = |tool, begun: &str| under(grammars, Calls::Required(&rules(tool)), &OutputFormat::Text, begun, tokens_max);
    let next_characters = |begun: &str| -> Vec<char> {
        let constraints = [tool, &reordered].into_iter().filter_map(|tool| follows(tool, begun).ok().flatten());
        constraints.flat_map(|constraint| grammars.first_characters(&*constraint)).collect()
    };
    let mut error = None;
    for reading in readings(&schema, so_far, next_characters) {
        for tool in [tool, &reordered] {
            match follows(tool, &reading.begun) {
                Ok(constraint) => {
                    let to_fulfil = reading.escape.is_some().then_some(schema);
                    return Ok(HeldArguments { constraint, forced: reading.forced, escape: reading.escape, to_fulfil });
                }
                Err(cannot) => error = Some(cannot),
            }
        }
    }
    if let Some(error) = error {
        tracing::debug!(tool = tool.name, "the schema does not follow what another model began: {error}");
    }
    let plain = plain(so_far);
    let begun = if plain.escape.is_some() { plain.text + ANY_CHARACTER } else { plain.text };
    let constraint = under(grammars, Calls::Unknown, &OutputFormat::JsonObject, &begun, tokens_max)?;
    Ok(HeldArguments { constraint, forced: String::new(), escape: plain.escape, to_fulfil: Some(schema) })
}

/// The ways in which the schema may follow what stands, the best first: as it is; in the plainest writing; and where that ends in half an
/// escape, as what the schema's own names and values would make of it, as a character that may come next, or as any.
fn readings(schema: &Value, so_far: &str, next_characters: impl Fn(&str) -> Vec<char>) -> Vec<Reading> {
    let as_it_is = || Reading { begun: so_far.to_owned(), forced: String::new(), escape: None };
    let plain = plain(so_far);
    let Some(escape) = plain.escape else {
        return vec![as_it_is(), Reading { begun: plain.text, forced: String::new(), escape: None }];
    };
    let string = begun_string(so_far).unwrap_or_default();
    let end = |character| {
        let forced = rest_of_escape(&escape, character)?;
        Some(Reading { begun: [plain.text.as_str(), &quoted(character)].concat(), forced, escape: None })
    };
    let mut readings: Vec<Reading> = characters_after(schema, &string.text).into_iter().filter_map(end).take(ENDS_OF_ESCAPE_MAX).collect();
    // A name that the schema has is likelier than one that it only does not forbid.
    readings.insert(if string.is_name { readings.len() } else { 0 }, as_it_is());
    readings.extend(next_characters(&plain.text).into_iter().filter_map(end).take(ENDS_OF_ESCAPE_MAX));
    // A tokenizer may have no token for what it must be, but of a last digit there are only sixteen.
    let digits = u32::from_str_radix(escape.get(1..).unwrap_or_default(), 16).ok().filter(|_| escape.len() == 4);
    let last = digits.into_iter().flat_map(|digits| (0..16).filter_map(move |digit| char::from_u32(digits * 16 + digit)));
    readings.extend(last.filter_map(end));
    readings.push(Reading { begun: plain.text + ANY_CHARACTER, forced: String::new(), escape: Some(escape) });
    readings
}

/// Characters that names and values of the schema have after this beginning.
fn characters_after(schema: &Value, begun: &str) -> Vec<char> {
    let mut characters = Vec::new();
    let mut left = vec![schema];
    while let Some(value) = left.pop() {
        let mut texts: Vec<&str> = Vec::new();
        match value {
            Value::Array(items) => left.extend(items),
            Value::Object(fields) => {
                texts.extend(fields.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::keys).map(String::as_str));
                let values = fields.get("enum").and_then(Value::as_array).into_iter().flatten();
                texts.extend(values.chain(fields.get("const")).filter_map(Value::as_str));
                left.extend(fields.values());
            }
            _ => {}
        }
        for character in texts.iter().filter_map(|text| text.strip_prefix(begun)?.chars().next()) {
            if !characters.contains(&character) {
                characters.push(character);
            }
        }
    }
    characters
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

    fn takes_any_escape(&self) -> bool {
        true
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
