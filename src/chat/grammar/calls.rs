//! How calls are written becomes a grammar: the pieces of a [`ToolFormat`] as Lark, the schemas of the tools as grammars of their own.

use std::fmt::Write as _;

use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use serde_json::Value;

use super::schema::{Fidelity, SchemaError, any_object, normalised, without_patterns};
use super::vocabulary::Vocabulary;
use super::{Escapes, json_grammar};
use crate::chat::ToolDefinition;
use crate::chat::tool_formats::{CallPiece, ToolFormat, arguments_schema};

/// Collects the rules of one grammar.
pub struct Lark<'a> {
    vocabulary: &'a Vocabulary,
    fidelity: SchemaFidelity,
    escapes: Escapes,
    /// The schema of all arguments of the tool whose call is written.
    arguments: Value,
    rules: String,
    count: usize,
    named: Vec<GrammarWithLexer>,
}

/// How close to a tool's schema its arguments are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaFidelity {
    /// To the letter; what cannot be held is refused.
    Exact,
    /// What cannot be held is left out.
    Wider,
    /// Regular expressions are left out too.
    WithoutPatterns,
    /// Any JSON; of all arguments together, any object.
    Anything,
}

impl<'a> Lark<'a> {
    pub fn new(vocabulary: &'a Vocabulary) -> Self {
        Self {
            vocabulary,
            fidelity: SchemaFidelity::Exact,
            escapes: Escapes::Needed,
            arguments: Value::Null,
            rules: String::new(),
            count: 0,
            named: Vec::new(),
        }
    }

    /// How a call of this tool is written in the format.
    pub fn call(&mut self, format: &dyn ToolFormat, tool: &ToolDefinition, fidelity: SchemaFidelity) -> Result<String, SchemaError> {
        self.fidelity = fidelity;
        self.escapes = if format.takes_any_escape() { Escapes::Any } else { Escapes::Needed };
        self.arguments = arguments_schema(tool);
        self.sequence(&format.call_syntax(tool))
    }

    /// A rule of its own; its name.
    pub fn rule(&mut self, expression: &str) -> String {
        self.named_rule("", expression)
    }

    fn named_rule(&mut self, attributes: &str, expression: &str) -> String {
        let name = format!("r{}", self.count);
        self.count += 1;
        // Writing to a string cannot fail.
        let _ = writeln!(self.rules, "{name}{attributes}: {expression}");
        name
    }

    /// A grammar of its own; how it is referred to.
    pub fn grammar(&mut self, grammar: GrammarWithLexer) -> String {
        let name = format!("g{}", self.named.len());
        self.named.push(GrammarWithLexer { name: Some(name.clone()), ..grammar });
        format!("@{name}")
    }

    /// A tag: its control token, or its text.
    pub fn tag(&self, name: &str) -> String {
        let control = self.vocabulary.control(name).map(|id| format!("<[{id}]>"));
        control.or_else(|| quoted(name)).unwrap_or_else(|| "\"\"".to_owned())
    }

    pub fn sequence(&mut self, pieces: &[CallPiece]) -> Result<String, SchemaError> {
        let mut out = Vec::new();
        let mut pieces = self.joined(pieces).into_iter().peekable();
        while let Some(piece) = pieces.next() {
            match piece {
                CallPiece::Literal(text) | CallPiece::Name(text) => out.extend(quoted(&text)),
                CallPiece::Marker(name) => out.push(self.tag(name)),
                CallPiece::Json(schema) => {
                    let schema = self.schema(&schema)?;
                    out.push(self.grammar(json_grammar(schema, self.escapes)));
                }
                CallPiece::TextUntil(stop) => match pieces.peek_mut() {
                    // What follows begins with it; here it is the end of the text's own lexeme.
                    Some(CallPiece::Literal(next)) if next.starts_with(&stop) => {
                        next.replace_range(..stop.len(), "");
                        out.push(self.named_rule(&format!("[suffix={}]", Value::from(stop)), "/(?s:.*)/"));
                    }
                    // A control token ends it, which is no text.
                    _ => out.push(self.rule("/(?s:.*)/")),
                },
                CallPiece::Either(ways) => {
                    let ways = ways.iter().map(|way| self.sequence(way)).collect::<Result<Vec<_>, _>>()?;
                    out.push(self.rule(&ways.join(" | ")));
                }
                CallPiece::Optional(pieces) => out.push(format!("({})?", self.sequence(&pieces)?)),
                CallPiece::Repeated(pieces) => out.push(format!("({})*", self.sequence(&pieces)?)),
            }
        }
        Ok(match out.is_empty() {
            true => "\"\"".to_owned(),
            false => out.join(" "),
        })
    }

    /// The same pieces, in which texts that follow each other are one, and one that follows a choice is the end of each way: so the text
    /// that ends a [`CallPiece::TextUntil`] stands right behind it.
    fn joined(&self, pieces: &[CallPiece]) -> Vec<CallPiece> {
        let mut joined: Vec<CallPiece> = Vec::new();
        for piece in pieces {
            let text = match piece {
                CallPiece::Literal(text) | CallPiece::Name(text) => text.as_str(),
                CallPiece::Marker(name) if self.vocabulary.control(name).is_none() => name,
                other => {
                    joined.push(other.clone());
                    continue;
                }
            };
            match joined.last_mut() {
                Some(CallPiece::Literal(before)) => before.push_str(text),
                Some(CallPiece::Either(ways)) => ways.iter_mut().for_each(|way| way.push(CallPiece::literal(text))),
                _ => joined.push(CallPiece::literal(text)),
            }
        }
        joined
    }

    /// What is left of a schema as it can be held. Only the schema of all the arguments says that they are an object: formats that write
    /// each argument apart have a schema for each.
    fn schema(&self, schema: &Value) -> Result<Value, SchemaError> {
        let is_whole = *schema == self.arguments;
        let mut held = match self.fidelity {
            SchemaFidelity::Exact => normalised(schema, Fidelity::Exact)?,
            SchemaFidelity::Wider => normalised(schema, Fidelity::Wider)?,
            SchemaFidelity::WithoutPatterns => normalised(&without_patterns(schema), Fidelity::Wider)?,
            SchemaFidelity::Anything if is_whole => any_object(),
            SchemaFidelity::Anything => Value::Bool(true),
        };
        if let (true, Value::Object(held)) = (is_whole, &mut held) {
            held.entry("type").or_insert_with(|| "object".into());
        }
        Ok(held)
    }

    pub fn finish(self, start: &str) -> TopLevelGrammar {
        let main =
            GrammarWithLexer { name: Some("reply".to_owned()), ..GrammarWithLexer::from_lark(format!("start: {start}\n{}", self.rules)) };
        TopLevelGrammar { grammars: [vec![main], self.named].concat(), max_tokens: None }
    }
}

/// A text as Lark writes it, which is as JSON does; `None`: nothing.
pub fn quoted(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| Value::from(text).to_string().replace('\u{7F}', "\\u007f"))
}
