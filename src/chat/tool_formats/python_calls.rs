//! Calls written as Python: a fenced block `tool_code` (Gemma 3, as its templates teach it), or a list between tags (LFM2). A call is held
//! back until its closing bracket, then its arguments are written as JSON. Only literals are understood: a name or a sum is no argument.

use std::sync::Arc;

use serde_json::Value;

use super::call_reader::{Begins, Body, Piece, Read, begins};
use super::named_call::is_name;
use super::tagged_values::{ValueKind, kind_of};
use super::{CallPiece, Frame, ToolFormat, arguments_schema};
use crate::chat::ToolDefinition;

#[derive(Debug)]
pub struct PythonCalls {
    name: &'static str,
    openings: &'static [&'static str],
    close: &'static str,
    markers: &'static [&'static str],
    /// Calls stand in brackets, with commas between.
    in_list: bool,
}

pub const TOOL_CODE: PythonCalls =
    PythonCalls { name: "tool_code", openings: &["```tool_code\n"], close: "```", markers: &[], in_list: false };
pub const LFM2: PythonCalls = PythonCalls {
    name: "lfm2",
    openings: &["<|tool_call_start|>"],
    close: "<|tool_call_end|>",
    markers: &["<|tool_call_start|>", "<|tool_call_end|>"],
    in_list: true,
};

impl PythonCalls {
    fn tag(&self, tag: &'static str) -> CallPiece {
        if self.markers.contains(&tag) { CallPiece::Marker(tag) } else { CallPiece::literal(tag) }
    }
}

impl ToolFormat for PythonCalls {
    fn name(&self) -> &'static str {
        self.name
    }

    fn openings(&self) -> &'static [&'static str] {
        self.openings
    }

    fn markers(&self) -> &'static [&'static str] {
        self.markers
    }

    fn frame(&self) -> Frame {
        let (before, between, after) = if self.in_list { ("[", ", ", "]") } else { ("", "\n", "\n") };
        let literal = |text: &str| (!text.is_empty()).then(|| CallPiece::literal(text));
        Frame {
            open: [Some(self.tag(self.openings[0])), literal(before)].into_iter().flatten().collect(),
            between: vec![CallPiece::literal(between)],
            close: vec![CallPiece::literal(after), self.tag(self.close)],
            several: true,
            ..Frame::default()
        }
    }

    /// Every argument by name, in the schema's order, its value as JSON: the reader takes `true` for `True`.
    fn call_syntax(&self, tool: &ToolDefinition) -> Vec<CallPiece> {
        let schema = arguments_schema(tool);
        let mut pieces = vec![CallPiece::Name(tool.name.clone()), CallPiece::literal("(")];
        let required = |name: &str| schema["required"].as_array().is_some_and(|required| required.iter().any(|required| required == name));
        let properties: Vec<(&String, &Value)> = schema["properties"].as_object().into_iter().flatten().collect();
        // The required ones first: then a comma is before each that follows.
        let (first, others): (Vec<_>, Vec<_>) = properties.into_iter().partition(|(name, _)| required(name));
        let value = |comma: &str, name: &str, property: &Value| {
            vec![CallPiece::literal(format!("{comma}{name}=")), CallPiece::Json(property.clone())]
        };
        for (index, (name, property)) in first.iter().enumerate() {
            pieces.extend(value(if index > 0 { ", " } else { "" }, name, property));
        }
        // Without a required one, no more than one of the others: which of them is first is not known.
        match first.is_empty() {
            true if others.is_empty() => {}
            true => pieces.push(CallPiece::Optional(vec![CallPiece::Either(others.iter().map(|(n, p)| value("", n, p)).collect())])),
            false => pieces.extend(others.iter().map(|(name, property)| CallPiece::Optional(value(", ", name, property)))),
        }
        pieces.push(CallPiece::literal(")"));
        pieces
    }

    fn body(&self, tools: &Arc<[ToolDefinition]>) -> Box<dyn Body> {
        let opening = self.openings[0];
        Box::new(PythonBody { tools: tools.clone(), opening, close: self.close, is_begun: false, scan: BracketScan::default() })
    }
}

#[derive(Debug)]
struct PythonBody {
    tools: Arc<[ToolDefinition]>,
    opening: &'static str,
    close: &'static str,
    /// A call was read: before another one, or the end.
    is_begun: bool,
    scan: BracketScan,
}

impl Body for PythonBody {
    fn read(&mut self, text: &str, is_end: bool, pieces: &mut Vec<Piece>) -> Read {
        let mut taken = 0;
        loop {
            let rest = &text[taken..];
            let start = if self.is_begun { 0 } else { self.opening.len() };
            let inner = rest[start..].trim_start_matches(|c: char| c.is_whitespace() || "[],;".contains(c));
            if self.is_begun {
                match begins(inner, self.close) {
                    Begins::Yes => return Read::Done(text.len() - inner.len() + self.close.len()),
                    Begins::NotKnown if is_end => return Read::Done(text.len()),
                    Begins::NotKnown => return Read::More(taken),
                    Begins::No => {}
                }
            }
            let Some(end) = self.scan.end(inner) else {
                return match is_end || (!self.scan.is_open() && inner.contains('\n')) {
                    true => Read::NoCall(taken, "it breaks off"),
                    false => Read::More(taken),
                };
            };
            self.scan = BracketScan::default();
            let Some((name, arguments)) = python_call(&inner[..end], &self.tools) else { return Read::NoCall(taken, "it is no call") };
            pieces.extend([Piece::CallStarted { name }, Piece::Arguments(arguments), Piece::CallEnded]);
            taken = text.len() - inner.len() + end;
            self.is_begun = true;
        }
    }
}

/// Finds the bracket that closes the first one.
#[derive(Debug, Default)]
struct BracketScan {
    bytes: usize,
    depth: usize,
    quote: Option<char>,
    is_escaped: bool,
}

impl BracketScan {
    /// Reads on: `text` is the same as before, and more.
    fn end(&mut self, text: &str) -> Option<usize> {
        for (at, character) in text[self.bytes..].char_indices() {
            match (self.quote, character) {
                _ if self.is_escaped => self.is_escaped = false,
                (Some(_), '\\') => self.is_escaped = true,
                (Some(quote), _) if quote == character => self.quote = None,
                (Some(_), _) => {}
                (None, '"' | '\'') => self.quote = Some(character),
                (None, '(' | '[' | '{') => self.depth += 1,
                (None, ')' | ']' | '}') if self.depth <= 1 => return Some(self.bytes + at + 1),
                (None, ')' | ']' | '}') => self.depth -= 1,
                _ => {}
            }
        }
        self.bytes = text.len();
        None
    }

    fn is_open(&self) -> bool {
        self.depth > 0
    }
}

/// `name(key=value, ...)`, also inside `print(...)`, as a name and JSON arguments.
fn python_call(text: &str, tools: &[ToolDefinition]) -> Option<(String, String)> {
    let (name, inner) = text.trim().strip_suffix(')')?.split_once('(')?;
    if name.trim() == "print" {
        return python_call(inner, tools);
    }
    let is_known = |name: &str| tools.iter().any(|tool| tool.name == name);
    // Gemma 3 puts the name of a module before it.
    let name = name.trim();
    let name = if is_known(name) { name } else { name.rsplit('.').next()? };
    let tool = tools.iter().find(|tool| tool.name == name);
    let parameters: Vec<&String> =
        tool.and_then(|tool| tool.parameters.as_ref()?.get("properties")?.as_object()).into_iter().flat_map(|p| p.keys()).collect();
    let mut literals = Literals { rest: inner.trim_start(), depth: 0 };
    let mut json = String::new();
    let mut position = 0;
    while !literals.rest.is_empty() {
        let key = match literals.keyword() {
            Some(key) => key,
            None => (*parameters.get(position)?).clone(),
        };
        position += 1;
        json.push_str(if json.is_empty() { "" } else { ", " });
        json.push_str(&Value::from(key.as_str()).to_string());
        json.push_str(": ");
        let mut value = String::new();
        literals.value(&mut value)?;
        // A number where text is wanted is text.
        let is_word = !value.starts_with(['"', '{', '[']);
        json.push_str(&if is_word && kind_of(tool, &key) == ValueKind::Text && value != "null" {
            Value::from(value).to_string()
        } else {
            value
        });
        if !literals.take(',') && !literals.rest.is_empty() {
            return None;
        }
    }
    is_name(name).then(|| (name.to_owned(), format!("{{{json}}}")))
}

/// Python's literals, written as JSON.
struct Literals<'a> {
    rest: &'a str,
    depth: usize,
}

impl Literals<'_> {
    fn take(&mut self, character: char) -> bool {
        let rest = self.rest.trim_start();
        let after = rest.strip_prefix(character);
        self.rest = after.unwrap_or(rest).trim_start();
        after.is_some()
    }

    /// `key=`
    fn keyword(&mut self) -> Option<String> {
        let (key, value) = self.rest.split_once('=')?;
        let key = key.trim();
        let is_key = !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-');
        is_key.then(|| {
            self.rest = value.trim_start();
            key.to_owned()
        })
    }

    fn value(&mut self, json: &mut String) -> Option<()> {
        const DEPTH_MAX: usize = 64;
        self.depth += 1;
        match self.rest.chars().next()? {
            _ if self.depth > DEPTH_MAX => return None,
            quote @ ('"' | '\'') => {
                let text = self.text(quote)?;
                json.push_str(&Value::from(text).to_string());
            }
            open @ ('[' | '(') => self.items(if open == '[' { ']' } else { ')' }, json)?,
            '{' => self.fields(json)?,
            _ => {
                let end = self.rest.find([',', ')', ']', '}']).unwrap_or(self.rest.len());
                let word = match self.rest[..end].trim() {
                    "True" => "true",
                    "False" => "false",
                    "None" => "null",
                    word => word,
                };
                serde_json::from_str::<serde::de::IgnoredAny>(word).ok()?;
                json.push_str(word);
                self.rest = &self.rest[end..];
            }
        }
        self.depth -= 1;
        self.rest = self.rest.trim_start();
        Some(())
    }

    fn items(&mut self, close: char, json: &mut String) -> Option<()> {
        self.rest = self.rest[1..].trim_start();
        json.push('[');
        let mut is_first = true;
        while !self.take(close) {
            if !is_first {
                json.push_str(", ");
            }
            is_first = false;
            self.value(json)?;
            if !self.take(',') && !self.rest.starts_with(close) {
                return None;
            }
        }
        json.push(']');
        Some(())
    }

    fn fields(&mut self, json: &mut String) -> Option<()> {
        self.rest = self.rest[1..].trim_start();
        json.push('{');
        let mut is_first = true;
        while !self.take('}') {
            if !is_first {
                json.push_str(", ");
            }
            is_first = false;
            let quote = self.rest.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
            json.push_str(&Value::from(self.text(quote)?).to_string());
            if !self.take(':') {
                return None;
            }
            json.push_str(": ");
            self.value(json)?;
            if !self.take(',') && !self.rest.starts_with('}') {
                return None;
            }
        }
        json.push('}');
        Some(())
    }

    /// A string, its escapes resolved; one that Python does not know stands for itself, as in Python.
    fn text(&mut self, quote: char) -> Option<String> {
        let mut text = String::new();
        let mut characters = self.rest.char_indices().skip(1);
        while let Some((at, character)) = characters.next() {
            match character {
                _ if character == quote => {
                    self.rest = &self.rest[at + 1..];
                    return Some(text);
                }
                '\\' => match characters.next()?.1 {
                    'n' => text.push('\n'),
                    't' => text.push('\t'),
                    'r' => text.push('\r'),
                    '\n' => {}
                    escape @ ('x' | 'u') => {
                        let digits: String = characters.by_ref().take(if escape == 'x' { 2 } else { 4 }).map(|(_, c)| c).collect();
                        text.push(u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32)?);
                    }
                    escaped @ ('\\' | '\'' | '"') => text.push(escaped),
                    other => text.extend(['\\', other]),
                },
                character => text.push(character),
            }
        }
        None
    }
}
