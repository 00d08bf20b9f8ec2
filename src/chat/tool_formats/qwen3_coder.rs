//! Qwen3-Coder: `<tool_call>`, `<function=NAME>`, each argument as `<parameter=KEY>`, its value on lines of its own, `</parameter>`; then
//! `</function>` and `</tool_call>`. Text is written as it is, everything else as JSON. The models forget `<tool_call>` at times: a bare
//! `<function=` is a call too.

use std::sync::Arc;

use super::call_reader::{Begins, Body, Piece, Read, begins};
use super::named_call::{is_name, skip};
use super::tagged_values::{ArgumentsWriter, TaggedValue, ValueTags, arguments_syntax, kind_of};
use super::{CallPiece, Frame, ToolFormat};
use crate::chat::ToolDefinition;

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";
const FUNCTION: &str = "<function=";
const END_OF_FUNCTION: &str = "</function>";
const PARAMETER: &str = "<parameter=";
const END_OF_PARAMETER: &str = "</parameter>";
/// Of a name; what is longer is none.
const NAME_BYTES_MAX: usize = 512;

#[derive(Debug)]
pub struct Qwen3Coder;

impl ToolFormat for Qwen3Coder {
    fn name(&self) -> &'static str {
        "qwen3-coder"
    }

    fn openings(&self) -> &'static [&'static str] {
        &[OPEN, FUNCTION]
    }

    fn markers(&self) -> &'static [&'static str] {
        &[OPEN, CLOSE]
    }

    fn frame(&self) -> Frame {
        Frame { between: vec![CallPiece::literal("\n")], several: true, ..Frame::default() }
    }

    fn call_syntax(&self, tool: &ToolDefinition) -> Vec<CallPiece> {
        let tags = ValueTags { before_key: PARAMETER, after_key: ">", close: END_OF_PARAMETER, after: "\n", on_lines: true };
        let mut pieces = vec![CallPiece::Marker(OPEN), CallPiece::literal(format!("\n{FUNCTION}"))];
        pieces.extend([CallPiece::Name(tool.name.clone()), CallPiece::literal(">\n")]);
        pieces.extend(arguments_syntax(tool, tags));
        pieces.extend([CallPiece::literal(format!("{END_OF_FUNCTION}\n")), CallPiece::Marker(CLOSE)]);
        pieces
    }

    fn body(&self, tools: &Arc<[ToolDefinition]>) -> Box<dyn Body> {
        Box::new(Qwen3CoderBody { tools: tools.clone(), name: String::new(), arguments: ArgumentsWriter::default(), state: State::Name })
    }
}

#[derive(Debug)]
struct Qwen3CoderBody {
    tools: Arc<[ToolDefinition]>,
    name: String,
    arguments: ArgumentsWriter,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Before and in the function's name.
    Name,
    /// Before a parameter, or the end.
    Parameter,
    Value(TaggedValue),
    /// After the arguments.
    Tail,
}

impl Body for Qwen3CoderBody {
    fn read(&mut self, text: &str, is_end: bool, pieces: &mut Vec<Piece>) -> Read {
        let mut taken = 0;
        loop {
            let rest = &text[taken..];
            let inner = rest.trim_start();
            let blank = rest.len() - inner.len();
            match &mut self.state {
                State::Name => match name(rest) {
                    Ok(Some((name, bytes))) => {
                        pieces.push(Piece::CallStarted { name: name.to_owned() });
                        self.name = name.to_owned();
                        taken += bytes;
                        self.state = State::Parameter;
                    }
                    Ok(None) if is_end => return Read::NoCall(taken, "it breaks off"),
                    Ok(None) => return Read::More(taken),
                    Err(reason) => return Read::NoCall(taken, reason),
                },
                State::Parameter => match begins(inner, PARAMETER) {
                    Begins::Yes => match inner.split_once('>') {
                        Some((head, after)) if !head.contains('\n') && head.len() <= NAME_BYTES_MAX => {
                            let key = &head[PARAMETER.len()..];
                            self.arguments.key(key, pieces);
                            let kind = kind_of(self.tools.iter().find(|tool| tool.name == self.name), key);
                            taken = text.len() - after.len();
                            self.state = State::Value(TaggedValue::new(kind, END_OF_PARAMETER, true));
                        }
                        None if !is_end && inner.len() <= NAME_BYTES_MAX && !inner.contains('\n') => return Read::More(taken),
                        _ => return Read::NoCall(taken, "a parameter has no name"),
                    },
                    Begins::NotKnown if !is_end => return Read::More(taken),
                    Begins::NotKnown => return Read::Done(text.len()),
                    // A missing `</function>` is forgiven.
                    Begins::No => match (begins(inner, END_OF_FUNCTION), begins(inner, CLOSE)) {
                        (Begins::No, Begins::No) => return Read::NoCall(taken, "what follows its arguments is not its end"),
                        (Begins::NotKnown, _) | (_, Begins::NotKnown) if !is_end => return Read::More(taken),
                        (function, _) => {
                            self.arguments.close(pieces);
                            pieces.push(Piece::CallEnded);
                            taken += blank + if function == Begins::Yes { END_OF_FUNCTION.len() } else { 0 };
                            self.state = State::Tail;
                        }
                    },
                },
                State::Value(value) => {
                    let (read, is_closed) = value.read(rest, is_end, pieces);
                    taken += read;
                    if !is_closed {
                        return if is_end { Read::Done(text.len()) } else { Read::More(taken) };
                    }
                    self.state = State::Parameter;
                }
                State::Tail => {
                    return match begins(inner, CLOSE) {
                        Begins::Yes => Read::Done(taken + blank + CLOSE.len()),
                        Begins::NotKnown if is_end => Read::Done(text.len()),
                        Begins::NotKnown => Read::More(taken),
                        Begins::No => Read::Done(taken),
                    };
                }
            }
        }
    }
}

/// The name and the bytes up to the end of its tag; `None`: not whole yet.
fn name(text: &str) -> Result<Option<(&str, usize)>, &'static str> {
    let Some(inner) = skip(text, OPEN) else { return Ok(None) };
    match begins(inner, FUNCTION) {
        Begins::NotKnown => return Ok(None),
        Begins::No => return Err("it names no function"),
        Begins::Yes => {}
    }
    match inner[FUNCTION.len()..].split_once('>') {
        Some((name, after)) if is_name(name.trim()) => Ok(Some((name.trim(), text.len() - after.len()))),
        None if inner.len() <= NAME_BYTES_MAX && !inner.contains('\n') => Ok(None),
        _ => Err("its name is none"),
    }
}
