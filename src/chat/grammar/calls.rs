//! How calls are written becomes a grammar: the pieces of a [`ToolFormat`] as Lark, the schemas of the tools as grammars of their own.

use std::fmt::Write as _;

use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use serde_json::Value;

use super::json_grammar;
use super::schema::{Fidelity, SchemaError, any_object, normalised, without_patterns};
use super::vocabulary::Vocabulary;
use crate::chat::tool_formats::CallPiece;

/// Collects the rules of one grammar.
pub struct Lark<'a> {
    vocabulary: &'a Vocabulary,
    fidelity: SchemaFidelity,
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
    /// Any object.
    AnyObject,
}

impl<'a> Lark<'a> {
    pub fn new(vocabulary: &'a Vocabulary) -> Self {
        Self { vocabulary, fidelity: SchemaFidelity::Exact, rules: String::new(), count: 0, named: Vec::new() }
    }

    /// Of the schemas that come from now on.
    pub fn set_fidelity(&mut self, fidelity: SchemaFidelity) {
        self.fidelity = fidelity;
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
        let mut literal = String::new();
        let mut at = 0;
        while at < pieces.len() {
            let piece = &pieces[at];
            at += 1;
            match piece {
                CallPiece::Literal(text) | CallPiece::Name(text) => {
                    literal.push_str(text);
                    continue;
                }
                CallPiece::Marker(name) if self.vocabulary.control(name).is_none() => {
                    literal.push_str(name);
                    continue;
                }
                _ => {}
            }
            out.extend(quoted(&std::mem::take(&mut literal)));
            match piece {
                CallPiece::Literal(_) | CallPiece::Name(_) => {}
                CallPiece::Marker(name) => out.extend(self.vocabulary.control(name).map(|id| format!("<[{id}]>"))),
                CallPiece::Json(schema) => {
                    let schema = self.schema(schema)?;
                    let reference = self.grammar(json_grammar(schema));
                    out.push(reference);
                }
                CallPiece::TextUntil(stop) => {
                    // What follows begins with it; here it is the end of the text's own lexeme.
                    let (text, left) = self.text_until(stop, pieces.get(at));
                    out.push(text);
                    if let Some(left) = left {
                        literal.push_str(&left);
                        at += 1;
                    }
                }
                CallPiece::Either(ways) => {
                    let ways = ways.iter().map(|way| self.sequence(way)).collect::<Result<Vec<_>, _>>()?;
                    let rule = self.rule(&ways.join(" | "));
                    out.push(rule);
                }
                CallPiece::Optional(pieces) => {
                    let inner = self.sequence(pieces)?;
                    out.push(format!("({inner})?"));
                }
                CallPiece::Repeated(pieces) => {
                    let inner = self.sequence(pieces)?;
                    out.push(format!("({inner})*"));
                }
            }
        }
        out.extend(quoted(&literal));
        Ok(match out.is_empty() {
            true => "\"\"".to_owned(),
            false => out.join(" "),
        })
    }

    /// The text, and what is left of the piece that follows.
    fn text_until(&mut self, stop: &str, next: Option<&CallPiece>) -> (String, Option<String>) {
        let left = match next {
            Some(CallPiece::Literal(text)) => text.strip_prefix(stop),
            Some(CallPiece::Marker(name)) if self.vocabulary.control(name).is_none() => name.strip_prefix(stop),
            _ => None,
        };
        match left {
            Some(left) => {
                let stop = quoted(stop).unwrap_or_default();
                (self.named_rule(&format!("[suffix={stop}]"), "/(?s:.*)/"), Some(left.to_owned()))
            }
            // A control token ends it, which is no text.
            None => (self.rule("/(?s:.*)/"), None),
        }
    }

    fn schema(&self, schema: &Value) -> Result<Value, SchemaError> {
        match self.fidelity {
            SchemaFidelity::Exact => normalised(schema, Fidelity::Exact),
            SchemaFidelity::Wider => normalised(schema, Fidelity::Wider),
            SchemaFidelity::WithoutPatterns => normalised(&without_patterns(schema), Fidelity::Wider),
            SchemaFidelity::AnyObject => Ok(any_object()),
        }
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
