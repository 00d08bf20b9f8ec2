//! Arguments that are written value by value between tags become JSON text as they arrive. What a value is, is told by the tool's schema:
//! text stays text whatever it looks like (`007` is no number), anything else is taken as the JSON it is.

use serde::de::IgnoredAny;
use serde_json::Value;

use super::call_reader::{Piece, begun_at_end, push_piece};
use super::{CallPiece, arguments_schema};
use crate::chat::ToolDefinition;

/// What the schema says a value may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueKind {
    Text,
    /// Text where it is no JSON.
    Json,
    /// JSON or text: text where it is no JSON.
    Either,
}

/// Of a parameter; what the schema does not name is text, and so is everything where there is no schema.
pub fn kind_of(tool: Option<&ToolDefinition>, parameter: &str) -> ValueKind {
    let schema = tool.and_then(|tool| tool.parameters.as_ref());
    match schema.and_then(|schema| Some((schema, schema.get("properties")?.get(parameter)?))) {
        Some((root, property)) => kind_of_schema(root, property, 0),
        None => ValueKind::Text,
    }
}

fn kind_of_schema(root: &Value, schema: &Value, depth: usize) -> ValueKind {
    // A reference that leads back to itself leads nowhere.
    const DEPTH_MAX: usize = 8;
    if depth == DEPTH_MAX {
        return ValueKind::Either;
    }
    let resolve = |reference: &str| reference.strip_prefix('#').and_then(|pointer| root.pointer(pointer));
    if let Some(target) = schema.get("$ref").and_then(Value::as_str).and_then(resolve) {
        return kind_of_schema(root, target, depth + 1);
    }
    let of_values = |values: &[Value]| mixed(values.iter().map(|value| if value.is_string() { ValueKind::Text } else { ValueKind::Json }));
    let of_types = |types: &[Value]| mixed(types.iter().map(|name| if name == "string" { ValueKind::Text } else { ValueKind::Json }));
    match (schema.get("type"), schema.get("enum"), schema.get("const")) {
        (Some(Value::Array(types)), ..) => of_types(types),
        (Some(name), ..) => of_types(std::slice::from_ref(name)),
        (_, Some(Value::Array(values)), _) => of_values(values),
        (.., Some(value)) => of_values(std::slice::from_ref(value)),
        _ => match ["anyOf", "oneOf"].iter().find_map(|key| schema.get(key)?.as_array()) {
            Some(choices) => mixed(choices.iter().map(|choice| kind_of_schema(root, choice, depth + 1))),
            None => ValueKind::Either,
        },
    }
}

fn mixed(kinds: impl Iterator<Item = ValueKind>) -> ValueKind {
    kinds.reduce(|one, other| if one == other { one } else { ValueKind::Either }).unwrap_or(ValueKind::Either)
}

/// Writes the arguments of one call.
#[derive(Debug, Default)]
pub struct ArgumentsWriter {
    values: usize,
}

impl ArgumentsWriter {
    pub fn key(&mut self, key: &str, pieces: &mut Vec<Piece>) {
        let before = if self.values == 0 { "{" } else { ", " };
        self.values += 1;
        push_piece(Piece::Arguments(format!("{before}{}: ", Value::from(key))), pieces);
    }

    /// After the last value.
    pub fn close(&mut self, pieces: &mut Vec<Piece>) {
        push_piece(Piece::Arguments(if self.values == 0 { "{}" } else { "}" }.to_owned()), pieces);
    }
}

/// Reads one value up to its closing tag.
#[derive(Debug)]
pub struct TaggedValue {
    kind: ValueKind,
    close: &'static str,
    /// The value stands on lines of its own: one line break before it and one after it are not part of it.
    on_lines: bool,
    /// Text is handed on as it comes: this much was.
    is_begun: bool,
    /// Bytes that were looked at and hold no closing tag.
    scanned: usize,
}

impl TaggedValue {
    pub fn new(kind: ValueKind, close: &'static str, on_lines: bool) -> Self {
        Self { kind, close, on_lines, is_begun: false, scanned: 0 }
    }

    /// `text`: what is not taken of the value. The bytes taken, and whether the closing tag is among them. A value that breaks off with the
    /// reply stays open: nobody is to take it for whole.
    pub fn read(&mut self, text: &str, is_end: bool, pieces: &mut Vec<Piece>) -> (usize, bool) {
        let from = (0..=self.scanned).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        let close_at = text[from..].find(self.close).map(|at| from + at);
        let certain = close_at.unwrap_or_else(|| text.len() - begun_at_end(text, self.close));
        let closed = |taken: usize| close_at.map_or((taken, false), |at| (at + self.close.len(), true));
        if self.kind != ValueKind::Text {
            self.scanned = certain;
            let value = self.trimmed(&text[..certain]);
            match close_at {
                Some(_) => push_piece(Piece::Arguments(json_of(value)), pieces),
                None if is_end && !value.is_empty() => push_piece(Piece::Arguments(value.to_owned()), pieces),
                None => {}
            }
            return closed(0);
        }
        let mut start = 0;
        if !self.is_begun {
            if text.is_empty() {
                return (0, false);
            }
            push_piece(Piece::Arguments("\"".to_owned()), pieces);
            self.is_begun = true;
            start = usize::from(self.on_lines && text.starts_with('\n'));
        }
        // The last line break is the tag's, if the tag comes.
        let is_break_held = self.on_lines && (close_at.is_some() || !is_end) && text[start..certain].ends_with('\n');
        let stop = certain - usize::from(is_break_held);
        let escaped = Value::from(&text[start..stop]).to_string();
        push_piece(Piece::Arguments(escaped[1..escaped.len() - 1].to_owned()), pieces);
        if close_at.is_some() {
            push_piece(Piece::Arguments("\"".to_owned()), pieces);
        }
        closed(stop)
    }

    fn trimmed<'a>(&self, value: &'a str) -> &'a str {
        if !self.on_lines {
            return value;
        }
        let value = value.strip_prefix('\n').unwrap_or(value);
        value.strip_suffix('\n').unwrap_or(value)
    }
}

/// A value that is not plain text, as JSON.
fn json_of(written: &str) -> String {
    let value = written.trim();
    // Models that think in Python.
    let value = match value {
        "True" => "true",
        "False" => "false",
        "None" => "null",
        value => value,
    };
    match serde_json::from_str::<IgnoredAny>(value) {
        Ok(_) => value.to_owned(),
        Err(_) => Value::from(written).to_string(),
    }
}

/// The tags of one value.
#[derive(Debug, Clone, Copy)]
pub struct ValueTags {
    pub before_key: &'static str,
    pub after_key: &'static str,
    pub close: &'static str,
    /// Between two values.
    pub after: &'static str,
    pub on_lines: bool,
}

/// How the arguments of a tool are written between such tags: the properties of its schema in their order, then any others that the schema
/// allows. Without properties: any.
pub fn arguments_syntax(tool: &ToolDefinition, tags: ValueTags) -> Vec<CallPiece> {
    let schema = arguments_schema(tool);
    let line = if tags.on_lines { "\n" } else { "" };
    let close = format!("{line}{}", tags.close);
    let end = CallPiece::literal(format!("{}{}", tags.close, tags.after));
    let text = |close: &str| vec![CallPiece::TextUntil(close.to_owned()), CallPiece::literal(line)];
    let with_definitions = |property: &Value| {
        let mut property = property.clone();
        for key in ["$defs", "definitions"] {
            if let (Some(definitions), Value::Object(fields)) = (schema.get(key), &mut property) {
                fields.entry(key).or_insert_with(|| definitions.clone());
            }
        }
        property
    };
    let mut pieces = Vec::new();
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, property) in properties.into_iter().flatten() {
        let begin = CallPiece::literal(format!("{}{name}{}{line}", tags.before_key, tags.after_key));
        let json = vec![CallPiece::Json(with_definitions(property)), CallPiece::literal(line)];
        let choices = property.get("enum").and_then(Value::as_array).filter(|choices| choices.iter().all(Value::is_string));
        let value = match (kind_of(Some(tool), name), choices) {
            (ValueKind::Text, Some(choices)) => {
                let choice = |value: &Value| vec![CallPiece::literal(format!("{}{line}", value.as_str().unwrap_or_default()))];
                vec![CallPiece::Either(choices.iter().map(choice).collect())]
            }
            (ValueKind::Text, None) => text(&close),
            (ValueKind::Json, _) => json,
            (ValueKind::Either, _) => vec![CallPiece::Either(vec![json, text(&close)])],
        };
        let whole: Vec<CallPiece> = [vec![begin], value, vec![end.clone()]].concat();
        let required = schema.get("required").and_then(Value::as_array);
        match required.is_some_and(|required| required.iter().any(|required| required == name)) {
            true => pieces.extend(whole),
            false => pieces.push(CallPiece::Optional(whole)),
        }
    }
    let is_open = match schema.get("additionalProperties") {
        Some(more) => more != &Value::Bool(false),
        None => properties.is_none_or(serde_json::Map::is_empty),
    };
    if is_open {
        let key_end = format!("{}{line}", tags.after_key);
        let any = [
            vec![CallPiece::literal(tags.before_key), CallPiece::TextUntil(key_end.clone()), CallPiece::literal(key_end)],
            text(&close),
            vec![end],
        ];
        pieces.push(CallPiece::Repeated(any.concat()));
    }
    pieces
}
