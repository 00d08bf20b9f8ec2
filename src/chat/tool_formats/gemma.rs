//! Gemma 4 and FunctionGemma: a tag, `call:NAME`, and the arguments in a notation of their own: `{city:<|"|>Oslo<|"|>,days:[1,2]}`, keys
//! bare, text between quote tags, everything else as in JSON. It becomes JSON as it arrives. (Gemma 3 was trained on no format; templates
//! that teach it one ask for Python, see `python_calls`.)
//!
//! Not certain: whether keys with unusual characters are put in quotes. Quoted or not, both are read.

use std::sync::Arc;

use serde_json::Value;

use super::call_reader::{Begins, Body, Piece, Read, begins, begun_at_end, push_piece};
use super::named_call::is_name;
use super::{CallPiece, Frame, ToolFormat};
use crate::chat::ToolDefinition;

const CALL: &str = "call:";
/// Of a name; what is longer is none.
const NAME_BYTES_MAX: usize = 512;

#[derive(Debug)]
pub struct Gemma {
    name: &'static str,
    tags: &'static [&'static str; 3],
}

pub const GEMMA_4: Gemma = Gemma { name: "gemma 4", tags: &["<|tool_call>", "<tool_call|>", "<|\"|>"] };
pub const FUNCTION_GEMMA: Gemma = Gemma { name: "function gemma", tags: &["<start_function_call>", "<end_function_call>", "<escape>"] };

impl ToolFormat for Gemma {
    fn name(&self) -> &'static str {
        self.name
    }

    fn openings(&self) -> &'static [&'static str] {
        &self.tags[..1]
    }

    fn markers(&self) -> &'static [&'static str] {
        self.tags
    }

    fn frame(&self) -> Frame {
        Frame { several: true, ..Frame::default() }
    }

    /// The arguments' own notation is not JSON: the grammar holds their form, not their schema.
    fn call_syntax(&self, tool: &ToolDefinition) -> Vec<CallPiece> {
        let [open, close, _] = *self.tags;
        vec![
            CallPiece::Marker(open),
            CallPiece::literal(CALL),
            CallPiece::Name(tool.name.clone()),
            CallPiece::literal("{"),
            CallPiece::TextUntil(format!("}}{close}")),
            CallPiece::literal("}"),
            CallPiece::Marker(close),
        ]
    }

    fn body(&self, _: &Arc<[ToolDefinition]>) -> Box<dyn Body> {
        let [open, close, quote] = *self.tags;
        Box::new(GemmaBody { open, close, quote, place: Place::Name, containers: Vec::new() })
    }
}

#[derive(Debug)]
struct GemmaBody {
    open: &'static str,
    close: &'static str,
    quote: &'static str,
    place: Place,
    /// The objects and lists we are in: their closing brackets.
    containers: Vec<char>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Name,
    /// Before a key, or the end of an object.
    Key,
    /// In a key that is in quotes.
    QuotedKey,
    /// Before the colon.
    Colon,
    /// Before a value, or the end of a list.
    Value,
    /// In text between quotes: the tags, or JSON's own.
    Text,
    JsonText,
    AfterValue,
    Tail,
}

impl Body for GemmaBody {
    fn read(&mut self, text: &str, is_end: bool, pieces: &mut Vec<Piece>) -> Read {
        let mut taken = 0;
        loop {
            let rest = &text[taken..];
            let blank = if matches!(self.place, Place::Text | Place::JsonText | Place::QuotedKey | Place::Name) {
                0
            } else {
                rest.len() - rest.trim_start().len()
            };
            let inner = &rest[blank..];
            let Some(passed) = self.step(inner, is_end, pieces) else {
                let reason = if self.place == Place::Name { "it names no function" } else { "its arguments cannot be read" };
                return Read::NoCall(taken, reason);
            };
            match passed {
                Step::Passed(bytes) => taken += blank + bytes,
                Step::Done(bytes) => return Read::Done(taken + blank + bytes),
                Step::Wait if is_end && self.place == Place::Name => return Read::NoCall(taken, "it breaks off"),
                Step::Wait if is_end => return Read::Done(text.len()),
                Step::Wait => return Read::More(taken),
            }
        }
    }
}

enum Step {
    Passed(usize),
    Done(usize),
    /// What comes here is not known yet.
    Wait,
}

impl GemmaBody {
    /// One token of the notation. `None`: this is none.
    fn step(&mut self, text: &str, is_end: bool, pieces: &mut Vec<Piece>) -> Option<Step> {
        let Some(first) = text.chars().next() else { return Some(Step::Wait) };
        let mut json = |text: &str| push_piece(Piece::Arguments(text.to_owned()), pieces);
        match self.place {
            Place::Name => {
                let inner = text[self.open.len()..].trim_start();
                if begins(inner, CALL) != Begins::Yes {
                    return (begins(inner, CALL) == Begins::NotKnown).then_some(Step::Wait);
                }
                let named = &inner[CALL.len()..];
                let Some((name, after)) = named.split_once('{') else {
                    return (named.len() <= NAME_BYTES_MAX && !named.contains('\n')).then_some(Step::Wait);
                };
                let name = name.trim();
                if !is_name(name) {
                    return None;
                }
                pieces.push(Piece::CallStarted { name: name.to_owned() });
                push_piece(Piece::Arguments("{".to_owned()), pieces);
                self.containers.push('}');
                self.place = Place::Key;
                Some(Step::Passed(text.len() - after.len()))
            }
            Place::Key => match (first, begins(text, self.quote)) {
                ('}', _) => self.end_of_container(first, pieces),
                (_, Begins::Yes) => {
                    json("\"");
                    self.place = Place::QuotedKey;
                    Some(Step::Passed(self.quote.len()))
                }
                (_, Begins::NotKnown) => Some(Step::Wait),
                _ => {
                    let Some(end) = text.find(':') else {
                        return (text.len() <= NAME_BYTES_MAX).then_some(Step::Wait);
                    };
                    let key = text[..end].trim();
                    let key = key.strip_prefix('"').and_then(|key| key.strip_suffix('"')).unwrap_or(key);
                    json(&Value::from(key).to_string());
                    self.place = Place::Colon;
                    Some(Step::Passed(end))
                }
            },
            Place::Colon if first == ':' => {
                json(": ");
                self.place = Place::Value;
                Some(Step::Passed(1))
            }
            Place::Value => match (first, begins(text, self.quote)) {
                ('{' | '[', _) => {
                    json(&first.to_string());
                    self.containers.push(if first == '{' { '}' } else { ']' });
                    self.place = if first == '{' { Place::Key } else { Place::Value };
                    Some(Step::Passed(1))
                }
                (']', _) => self.end_of_container(first, pieces),
                ('"', _) => {
                    json("\"");
                    self.place = Place::JsonText;
                    Some(Step::Passed(1))
                }
                (_, Begins::Yes) => {
                    json("\"");
                    self.place = Place::Text;
                    Some(Step::Passed(self.quote.len()))
                }
                (_, Begins::NotKnown) => Some(Step::Wait),
                _ => {
                    let Some(end) = text.find([',', '}', ']']) else { return Some(Step::Wait) };
                    let word = text[..end].trim();
                    let is_json = serde_json::from_str::<serde::de::IgnoredAny>(word).is_ok();
                    json(&if is_json { word.to_owned() } else { Value::from(word).to_string() });
                    self.place = Place::AfterValue;
                    Some(Step::Passed(end))
                }
            },
            Place::Text | Place::QuotedKey => {
                let end = text.find(self.quote);
                let held = if is_end { 0 } else { begun_at_end(text, self.quote) };
                let certain = end.unwrap_or(text.len() - held);
                let escaped = Value::from(&text[..certain]).to_string();
                json(&escaped[1..escaped.len() - 1]);
                match end {
                    Some(end) => {
                        json("\"");
                        self.place = if self.place == Place::Text { Place::AfterValue } else { Place::Colon };
                        Some(Step::Passed(end + self.quote.len()))
                    }
                    None if certain == 0 => Some(Step::Wait),
                    None => Some(Step::Passed(certain)),
                }
            }
            Place::JsonText => {
                let mut is_escaped = false;
                for (at, byte) in text.bytes().enumerate() {
                    match byte {
                        _ if is_escaped => is_escaped = false,
                        b'\\' => is_escaped = true,
                        b'"' => {
                            json(&text[..=at]);
                            self.place = Place::AfterValue;
                            return Some(Step::Passed(at + 1));
                        }
                        _ => {}
                    }
                }
                // An escape is not cut in two.
                let certain = text.len() - usize::from(is_escaped);
                json(&text[..certain]);
                Some(if certain == 0 { Step::Wait } else { Step::Passed(certain) })
            }
            Place::AfterValue if first == ',' => {
                json(", ");
                self.place = if self.containers.last() == Some(&'}') { Place::Key } else { Place::Value };
                Some(Step::Passed(1))
            }
            Place::AfterValue => self.end_of_container(first, pieces),
            Place::Tail => Some(match begins(text, self.close) {
                Begins::Yes => Step::Done(self.close.len()),
                Begins::NotKnown => Step::Wait,
                Begins::No => Step::Done(0),
            }),
            Place::Colon => None,
        }
    }

    fn end_of_container(&mut self, bracket: char, pieces: &mut Vec<Piece>) -> Option<Step> {
        if self.containers.pop() != Some(bracket) {
            return None;
        }
        push_piece(Piece::Arguments(bracket.to_string()), pieces);
        self.place = Place::AfterValue;
        if self.containers.is_empty() {
            pieces.push(Piece::CallEnded);
            self.place = Place::Tail;
        }
        Some(Step::Passed(1))
    }
}
