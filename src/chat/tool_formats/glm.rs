//! GLM: `<tool_call>NAME`, each argument as `<arg_key>KEY</arg_key>` and `<arg_value>VALUE</arg_value>`, `</tool_call>`. Text is written as
//! it is, everything else as JSON. GLM-4.5 puts each tag on a line of its own, GLM-4.7 puts nothing between them; either is read.

use std::sync::Arc;

use super::call_reader::{Begins, Body, Piece, Read, begins};
use super::named_call::is_name;
use super::tagged_values::{ArgumentsWriter, TaggedValue, ValueTags, arguments_syntax, kind_of};
use super::{CallPiece, Frame, ToolFormat};
use crate::chat::ToolDefinition;

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";
const KEY: &str = "<arg_key>";
const END_OF_KEY: &str = "</arg_key>";
const VALUE: &str = "<arg_value>";
const END_OF_VALUE: &str = "</arg_value>";
/// Of a name or key; what is longer is none.
const NAME_BYTES_MAX: usize = 512;

#[derive(Debug)]
pub struct Glm {
    tags: ValueTags,
    /// After the name and between two tags.
    between: &'static str,
}

pub const LINES: Glm = Glm {
    tags: ValueTags { before_key: KEY, after_key: "</arg_key>\n<arg_value>", close: END_OF_VALUE, after: "\n", on_lines: false },
    between: "\n",
};
pub const DENSE: Glm = Glm {
    tags: ValueTags { before_key: KEY, after_key: "</arg_key><arg_value>", close: END_OF_VALUE, after: "", on_lines: false },
    between: "",
};

impl ToolFormat for Glm {
    fn name(&self) -> &'static str {
        if self.between.is_empty() { "glm 4.7" } else { "glm 4.5" }
    }

    fn openings(&self) -> &'static [&'static str] {
        &[OPEN]
    }

    fn markers(&self) -> &'static [&'static str] {
        &[OPEN, CLOSE, KEY, END_OF_KEY, VALUE, END_OF_VALUE]
    }

    fn frame(&self) -> Frame {
        Frame { between: vec![CallPiece::literal(self.between)], several: true, ..Frame::default() }
    }

    fn call_syntax(&self, tool: &ToolDefinition) -> Vec<CallPiece> {
        let mut pieces = vec![CallPiece::Marker(OPEN), CallPiece::Name(tool.name.clone()), CallPiece::literal(self.between)];
        pieces.extend(arguments_syntax(tool, self.tags));
        pieces.push(CallPiece::Marker(CLOSE));
        pieces
    }

    fn body(&self, tools: &Arc<[ToolDefinition]>) -> Box<dyn Body> {
        Box::new(GlmBody { tools: tools.clone(), name: String::new(), arguments: ArgumentsWriter::default(), state: State::Name })
    }
}

#[derive(Debug)]
struct GlmBody {
    tools: Arc<[ToolDefinition]>,
    name: String,
    arguments: ArgumentsWriter,
    state: State,
}

#[derive(Debug)]
enum State {
    Name,
    /// Before a key, or the end.
    Key,
    Value(TaggedValue),
}

impl Body for GlmBody {
    fn read(&mut self, text: &str, is_end: bool, pieces: &mut Vec<Piece>) -> Read {
        let mut taken = 0;
        loop {
            let rest = &text[taken..];
            let inner = rest.trim_start();
            match &mut self.state {
                State::Name => {
                    let named = rest[OPEN.len()..].trim_start();
                    let end = named.find(['\n', '<']);
                    let name = named[..end.unwrap_or(named.len())].trim();
                    match end {
                        _ if !name.is_empty() && !is_name(name) => return Read::NoCall(taken, "its name is none"),
                        Some(end) if !name.is_empty() => {
                            taken += rest.len() - named.len() + end;
                            pieces.push(Piece::CallStarted { name: name.to_owned() });
                            self.name = name.to_owned();
                            self.state = State::Key;
                        }
                        None if !is_end => return Read::More(taken),
                        _ => return Read::NoCall(taken, "it has no name"),
                    }
                }
                State::Key => match (begins(inner, CLOSE), begins(inner, KEY)) {
                    (Begins::Yes, _) => {
                        self.arguments.close(pieces);
                        pieces.push(Piece::CallEnded);
                        return Read::Done(text.len() - inner.len() + CLOSE.len());
                    }
                    (_, Begins::Yes) => match key(inner) {
                        Ok(Some((key, bytes))) => {
                            self.arguments.key(key, pieces);
                            let kind = kind_of(self.tools.iter().find(|tool| tool.name == self.name), key);
                            taken = text.len() - inner.len() + bytes;
                            self.state = State::Value(TaggedValue::new(kind, END_OF_VALUE, false));
                        }
                        Ok(None) if is_end => return Read::Done(text.len()),
                        Ok(None) => return Read::More(taken),
                        Err(reason) => return Read::NoCall(taken, reason),
                    },
                    (Begins::No, Begins::No) => return Read::NoCall(taken, "what follows its arguments is not its end"),
                    _ if is_end => return Read::Done(text.len()),
                    _ => return Read::More(taken),
                },
                State::Value(value) => {
                    let (read, is_closed) = value.read(rest, is_end, pieces);
                    taken += read;
                    if !is_closed {
                        return if is_end { Read::Done(text.len()) } else { Read::More(taken) };
                    }
                    self.state = State::Key;
                }
            }
        }
    }
}

/// A key and the bytes up to the beginning of its value; `None`: not whole yet.
fn key(text: &str) -> Result<Option<(&str, usize)>, &'static str> {
    let inner = &text[KEY.len()..];
    let Some((key, after)) = inner.split_once(END_OF_KEY) else {
        return if inner.len() <= NAME_BYTES_MAX { Ok(None) } else { Err("a key has no end") };
    };
    let value = after.trim_start();
    match begins(value, VALUE) {
        Begins::Yes => Ok(Some((key.trim(), text.len() - value.len() + VALUE.len()))),
        Begins::NotKnown => Ok(None),
        Begins::No => Err("a key has no value"),
    }
}
