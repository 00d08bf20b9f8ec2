//! Reads `{"name": ..., "arguments": {...}}` as it arrives, alone, in a list or in a row. The call starts with the first character of its
//! arguments, when the name is known; a call that says its name last is held back until then.
//!
//! Arguments are handed on as they are written, spaces and all. Read and written anew they would be our idea of them: a number beyond
//! 64 bits loses digits, `1e400` is no number at all. To a client they are JSON text either way.

use std::sync::Arc;

use serde::de::IgnoredAny;

use super::call_reader::{Begins, Body, Piece, Read, begins, push_piece};
use crate::chat::ToolDefinition;

/// JSON's (RFC 8259, section 2), which is less than Unicode's.
pub const WHITE_SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

/// Finds where an object, a list or a string ends, without judging what is in it: that is the grammar's business, and a client gets what
/// the model wrote.
#[derive(Debug, Clone, Default)]
pub struct ValueScan {
    depth: usize,
    in_string: bool,
    is_escaped: bool,
}

impl ValueScan {
    /// Reads on. `Some`: the value ends after so many bytes of `text`.
    pub fn push(&mut self, text: &str) -> Option<usize> {
        for (at, byte) in text.bytes().enumerate() {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' if self.in_string => self.is_escaped = true,
                b'"' => self.in_string = !self.in_string,
                _ if self.in_string => {}
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
            if self.depth == 0 && !self.in_string {
                return Some(at + 1);
            }
        }
        None
    }
}

/// One call.
#[derive(Debug, Default)]
struct JsonCall {
    place: Place,
    /// Bytes of the text that are understood and not taken.
    at: usize,
    name: Option<String>,
    /// Whole, and waiting for the name.
    arguments: Option<String>,
    is_started: bool,
}

#[derive(Debug, Default)]
enum Place {
    #[default]
    Open,
    /// Before a key, or the end of an empty object.
    FirstKey,
    Key,
    InKey(Scanned),
    Colon(String),
    Value(String),
    /// In a string, an object or a list.
    InValue(String, Scanned),
    /// In a number or a word.
    InWord,
    /// The arguments, handed on as they come.
    Arguments(ValueScan),
    AfterValue,
}

/// A value that is read when it is whole.
#[derive(Debug, Default)]
struct Scanned {
    scan: ValueScan,
    bytes: usize,
}

impl Scanned {
    /// The end of the value that `text` begins with.
    fn end(&mut self, text: &str) -> Option<usize> {
        let end = self.scan.push(&text[self.bytes..]).map(|end| self.bytes + end);
        self.bytes = text.len();
        end
    }
}

/// How far one call was read.
enum Step {
    /// It needs more text; so many bytes are taken.
    More(usize),
    /// It ends here; so many bytes are taken.
    Whole(usize),
    /// So many bytes are taken.
    Broken(usize, &'static str),
}

impl JsonCall {
    /// `text` begins with the call, or with what is not taken of it. `known`: a call of another tool is none.
    fn read(&mut self, text: &str, known: Option<&[ToolDefinition]>, pieces: &mut Vec<Piece>) -> Step {
        let mut taken = 0;
        loop {
            if !matches!(self.place, Place::InKey(_) | Place::InValue(..) | Place::InWord | Place::Arguments(_)) {
                self.at = text.len() - text[self.at..].trim_start_matches(WHITE_SPACE).len();
            }
            let rest = &text[self.at..];
            let Some(first) = rest.chars().next() else { return self.wait(taken) };
            let next = match &mut self.place {
                Place::Open if first == '{' => Some((1, Place::FirstKey)),
                Place::FirstKey | Place::AfterValue if first == '}' => match self.close(known, pieces) {
                    Ok(()) => return Step::Whole(self.at + 1),
                    Err(reason) => return Step::Broken(taken, reason),
                },
                Place::FirstKey | Place::Key if first == '"' => Some((0, Place::InKey(Scanned::default()))),
                Place::InKey(scanned) => match scanned.end(rest) {
                    None => return self.wait(taken),
                    Some(end) => serde_json::from_str(&rest[..end]).ok().map(|key| (end, Place::Colon(key))),
                },
                Place::Colon(key) if first == ':' => Some((1, Place::Value(std::mem::take(key)))),
                Place::Value(key) => {
                    let key = std::mem::take(key);
                    match (is_arguments(&key), first) {
                        (true, '{') if self.name.is_some() && !self.is_started => {
                            if !self.start(known, pieces) {
                                return Step::Broken(taken, "no tool has this name");
                            }
                            taken = self.at;
                            Some((0, Place::Arguments(ValueScan::default())))
                        }
                        (true, '{' | '"') => Some((0, Place::InValue(key, Scanned::default()))),
                        (true, first) if first != 'n' => return Step::Broken(taken, "its arguments are no object"),
                        (_, '{' | '[' | '"') => Some((0, Place::InValue(key, Scanned::default()))),
                        _ if key == "name" => return Step::Broken(taken, "its name is no string"),
                        _ => Some((0, Place::InWord)),
                    }
                }
                Place::InValue(key, scanned) => match scanned.end(rest) {
                    None => return self.wait(taken),
                    Some(end) => {
                        let key = std::mem::take(key);
                        self.field(&key, &rest[..end]).map(|()| (end, Place::AfterValue))
                    }
                },
                Place::InWord => match rest.find(|c: char| !c.is_ascii_alphanumeric() && !"+-.".contains(c)) {
                    None => return self.wait(taken),
                    Some(end) => serde_json::from_str::<IgnoredAny>(&rest[..end]).ok().map(|_| (end, Place::AfterValue)),
                },
                Place::Arguments(scan) => {
                    let end = scan.push(rest);
                    let part = &rest[..end.unwrap_or(rest.len())];
                    taken = self.at + part.len();
                    push_piece(Piece::Arguments(part.to_owned()), pieces);
                    if end.is_none() {
                        self.at = taken;
                        return self.wait(taken);
                    }
                    pieces.push(Piece::CallEnded);
                    Some((part.len(), Place::AfterValue))
                }
                Place::AfterValue if first == ',' => Some((1, Place::Key)),
                _ => None,
            };
            let Some((passed, place)) = next else { return Step::Broken(taken, "it is no JSON object") };
            self.at += passed;
            self.place = place;
        }
    }

    /// For more text. The bytes taken are not seen again.
    fn wait(&mut self, taken: usize) -> Step {
        self.at -= taken;
        Step::More(taken)
    }

    /// A field whose value was held back until it was whole.
    fn field(&mut self, key: &str, written: &str) -> Option<()> {
        if key == "name" && self.name.is_none() {
            self.name = Some(serde_json::from_str(written).ok()?);
        } else if is_arguments(key) && self.arguments.is_none() {
            let is_text = written.starts_with('"');
            // Some models write the object as a string.
            let text = if is_text { serde_json::from_str(written).ok()? } else { written.to_owned() };
            let object = text.trim_matches(WHITE_SPACE);
            serde_json::from_str::<IgnoredAny>(object).ok().filter(|_| object.starts_with('{'))?;
            self.arguments = Some(object.to_owned());
        } else {
            serde_json::from_str::<IgnoredAny>(written).ok()?;
        }
        Some(())
    }

    /// The end of the object: a call that was held back is told now.
    fn close(&mut self, known: Option<&[ToolDefinition]>, pieces: &mut Vec<Piece>) -> Result<(), &'static str> {
        if self.is_started {
            return Ok(());
        }
        if self.name.is_none() {
            return Err("it has no name");
        }
        if !self.start(known, pieces) {
            return Err("no tool has this name");
        }
        pieces.push(Piece::Arguments(self.arguments.take().unwrap_or_else(|| "{}".to_owned())));
        pieces.push(Piece::CallEnded);
        Ok(())
    }

    /// Whether the tool is known.
    fn start(&mut self, known: Option<&[ToolDefinition]>, pieces: &mut Vec<Piece>) -> bool {
        let name = self.name.clone().unwrap_or_default();
        let is_known = known.is_none_or(|tools| tools.iter().any(|tool| tool.name == name));
        if is_known {
            self.is_started = true;
            pieces.push(Piece::CallStarted { name });
        }
        is_known
    }
}

/// Llama's `parameters` is understood everywhere.
fn is_arguments(key: &str) -> bool {
    matches!(key, "arguments" | "parameters")
}

/// Calls between two tags: one, several in a row, or a list of them.
#[derive(Debug)]
pub struct JsonCalls {
    /// What may stand before the first call; none of them: the text begins with the call.
    openings: &'static [&'static str],
    /// `None`: nothing stands after the last call.
    close: Option<&'static str>,
    /// `Some`: a call of another tool is none.
    known: Option<Arc<[ToolDefinition]>>,
    state: State,
}

#[derive(Debug)]
enum State {
    Opening,
    /// Bytes of the text before the call: tags, brackets, white space.
    Call {
        before: usize,
        call: Box<JsonCall>,
        in_list: bool,
    },
    /// After a call.
    Between {
        in_list: bool,
    },
    /// After the list.
    Closing,
}

impl JsonCalls {
    pub fn new(openings: &'static [&'static str], close: Option<&'static str>) -> Self {
        Self { openings, close, known: None, state: State::Opening }
    }

    /// Where no tag says that it is a call: its name must be one of these.
    pub fn known_only(self, tools: Arc<[ToolDefinition]>) -> Self {
        Self { known: Some(tools), ..self }
    }

    fn begin(&mut self, before: usize, in_list: bool) {
        self.state = State::Call { before, call: Box::default(), in_list };
    }
}

impl Body for JsonCalls {
    fn read(&mut self, text: &str, is_end: bool, pieces: &mut Vec<Piece>) -> Read {
        let mut taken = 0;
        loop {
            let rest = &text[taken..];
            let blank = rest.len() - rest.trim_start_matches(WHITE_SPACE).len();
            match &mut self.state {
                State::Opening => {
                    let opening = self.openings.iter().find(|opening| rest.starts_with(**opening)).map_or(0, |opening| opening.len());
                    let inner = rest[opening..].trim_start_matches(WHITE_SPACE);
                    match inner.strip_prefix('[') {
                        _ if inner.is_empty() && is_end => return Read::NoCall(taken, "it breaks off"),
                        _ if inner.is_empty() => return Read::More(taken),
                        Some(list) => self.begin(rest.len() - list.len(), true),
                        None => self.begin(rest.len() - inner.len(), false),
                    }
                }
                State::Call { before, call, in_list } => match call.read(&rest[*before..], self.known.as_deref(), pieces) {
                    Step::More(_) if is_end && call.is_started => return Read::Done(text.len()),
                    Step::More(_) if is_end => return Read::NoCall(taken, "it breaks off"),
                    Step::More(0) => return Read::More(taken),
                    Step::More(more) => {
                        taken += *before + more;
                        *before = 0;
                        return Read::More(taken);
                    }
                    Step::Whole(whole) => {
                        taken += *before + whole;
                        self.state = State::Between { in_list: *in_list };
                    }
                    Step::Broken(0, reason) => return Read::NoCall(taken, reason),
                    Step::Broken(more, reason) => return Read::NoCall(taken + *before + more, reason),
                },
                State::Between { in_list: true } => match rest[blank..].chars().next() {
                    Some(']') => {
                        taken += blank + 1;
                        self.state = State::Closing;
                    }
                    Some(',') => self.begin(blank + 1, true),
                    _ if blank < rest.len() => return Read::NoCall(taken, "its list has no end"),
                    _ if is_end => return Read::Done(text.len()),
                    _ => return Read::More(taken),
                },
                // Some models put several calls between the tags, or separate them.
                State::Between { in_list: false } => match rest[blank..].chars().next() {
                    Some('{') => self.begin(blank, false),
                    Some(';' | ',') => self.begin(blank + 1, false),
                    None if is_end => return Read::Done(text.len()),
                    None => return Read::More(taken),
                    Some(_) => self.state = State::Closing,
                },
                State::Closing => {
                    let Some(close) = self.close else { return Read::Done(taken) };
                    return match begins(&rest[blank..], close) {
                        Begins::Yes => Read::Done(taken + blank + close.len()),
                        Begins::NotKnown if is_end => Read::Done(text.len()),
                        Begins::NotKnown => Read::More(taken),
                        Begins::No => Read::NoCall(taken, "its closing tag is missing"),
                    };
                }
            }
        }
    }
}
