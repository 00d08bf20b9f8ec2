//! Reads calls that say the tool's name in a header of their own, and then the arguments as bare JSON: Mistral's, DeepSeek's, harmony's.

use super::call_reader::{Body, Piece, Read, push_piece};
use super::json_call::ValueScan;

/// A header is a line; what is longer is none.
const HEADER_BYTES_MAX: usize = 1024;

/// What a format makes of the text before the arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Header {
    NotWhole,
    NoCall(&'static str),
    /// The arguments begin after so many bytes.
    Call {
        name: String,
        bytes: usize,
    },
}

/// What a format makes of the text after the arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    NotWhole,
    /// After so many bytes another header begins.
    Next(usize),
    /// After so many bytes text begins.
    Done(usize),
    Broken,
}

/// One format's headers.
pub trait Headers: std::fmt::Debug + Send {
    fn header(&self, text: &str) -> Header;
    fn tail(&self, text: &str) -> Tail;
}

#[derive(Debug)]
pub struct NamedCalls<H> {
    headers: H,
    state: State,
}

#[derive(Debug)]
enum State {
    Header { is_first: bool },
    Arguments(ValueScan),
    Tail,
}

impl<H: Headers> NamedCalls<H> {
    pub fn new(headers: H) -> Self {
        Self { headers, state: State::Header { is_first: true } }
    }
}

impl<H: Headers> Body for NamedCalls<H> {
    fn read(&mut self, text: &str, is_end: bool, pieces: &mut Vec<Piece>) -> Read {
        let mut taken = 0;
        loop {
            let rest = &text[taken..];
            match &mut self.state {
                State::Header { is_first } => match self.headers.header(rest) {
                    Header::NotWhole if is_end && !*is_first && rest.trim().is_empty() => return Read::Done(text.len()),
                    Header::NotWhole if is_end || rest.len() > HEADER_BYTES_MAX => return Read::NoCall(taken, "its header breaks off"),
                    Header::NotWhole => return Read::More(taken),
                    Header::NoCall(reason) => return Read::NoCall(taken, reason),
                    Header::Call { name, bytes } => match rest[bytes..].chars().next() {
                        Some('{') => {
                            pieces.push(Piece::CallStarted { name });
                            taken += bytes;
                            self.state = State::Arguments(ValueScan::default());
                        }
                        Some(_) => return Read::NoCall(taken, "its arguments are no JSON object"),
                        None if is_end => return Read::NoCall(taken, "it has no arguments"),
                        None => return Read::More(taken),
                    },
                },
                State::Arguments(scan) => {
                    let end = scan.push(rest);
                    let part = &rest[..end.unwrap_or(rest.len())];
                    taken += part.len();
                    if !part.is_empty() {
                        push_piece(Piece::Arguments(part.to_owned()), pieces);
                    }
                    if end.is_none() {
                        return Read::More(taken);
                    }
                    pieces.push(Piece::CallEnded);
                    self.state = State::Tail;
                }
                State::Tail => match self.headers.tail(rest) {
                    Tail::NotWhole if is_end => return Read::Done(text.len()),
                    Tail::NotWhole => return Read::More(taken),
                    Tail::Next(bytes) => {
                        taken += bytes;
                        self.state = State::Header { is_first: false };
                    }
                    Tail::Done(bytes) => return Read::Done(taken + bytes),
                    Tail::Broken => return Read::NoCall(taken, "what follows it is not its end"),
                },
            }
        }
    }
}

/// Skips what may stand here or not. `None`: that is not known yet.
pub fn skip<'a>(text: &'a str, optional: &str) -> Option<&'a str> {
    let text = text.trim_start();
    match text.strip_prefix(optional) {
        Some(rest) => Some(rest.trim_start()),
        None if optional.starts_with(text) => None,
        None => Some(text),
    }
}

/// A name that a tool can have: without white space, quotes, tags and brackets.
pub fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= 256 && !text.contains(|c: char| c.is_whitespace() || "<>{}[]()\"'`,;=|｜".contains(c))
}
