//! Takes the calls out of a reply's text as it arrives: text, the beginning of a call, its arguments piece by piece, its end. The
//! result is the same however the text is cut, and nothing is lost: what cannot be read as a call stays text, with the reason in the log.

use std::fmt::Debug;
use std::sync::Arc;

use super::ToolFormat;
use crate::chat::ToolDefinition;

/// A piece of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Text(String),
    CallStarted {
        name: String,
    },
    /// The next piece of the arguments' JSON text, of the call that started last.
    Arguments(String),
    CallEnded,
}

/// Reads one call, or a row of calls, of one format.
pub trait Body: Debug + Send {
    /// `text`: everything since the opening that was not taken yet; the same text and more in the next turn. `is_end`: nothing more comes.
    fn read(&mut self, text: &str, is_end: bool, pieces: &mut Vec<Piece>) -> Read;
}

/// How far a body was read. Bytes that are taken will not be seen again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// This many bytes are taken; the rest waits for what follows.
    More(usize),
    /// This many bytes are taken, and text begins there.
    Done(usize),
    /// This many bytes are taken; what follows is no call: it is text.
    NoCall(usize, &'static str),
}

/// Reads one reply.
#[derive(Debug)]
pub struct CallReader {
    format: &'static dyn ToolFormat,
    tools: Arc<[ToolDefinition]>,
    body: Option<Box<dyn Body>>,
    /// Not taken yet: from an opening on, or what may become one.
    pending: String,
    /// White space before what may be a call: dropped if one follows.
    blank: String,
    /// Nothing but white space came so far.
    at_start: bool,
    calls: usize,
    is_call_open: bool,
}

impl CallReader {
    pub fn new(format: &'static dyn ToolFormat, tools: Arc<[ToolDefinition]>) -> Self {
        let (body, pending, blank) = (None, String::new(), String::new());
        Self { format, tools, body, pending, blank, at_start: true, calls: 0, is_call_open: false }
    }

    /// Of a reply whose first words somebody else has said.
    pub fn after_words(self) -> Self {
        Self { at_start: false, ..self }
    }

    pub fn push(&mut self, text: &str, pieces: &mut Vec<Piece>) {
        self.pending.push_str(text);
        self.read(false, pieces);
    }

    /// The end of the reply. A call that was begun ends where it is.
    pub fn finish(&mut self, pieces: &mut Vec<Piece>) {
        self.read(true, pieces);
        let rest = std::mem::take(&mut self.pending);
        self.text(&rest, pieces);
        let blank = std::mem::take(&mut self.blank);
        if self.calls == 0 {
            push_text(&blank, pieces);
        }
    }

    /// Whether what comes next is a call's, as far as that is known.
    pub fn is_in_call(&self) -> bool {
        self.body.is_some()
    }

    /// Bytes whose meaning is not known yet.
    pub fn held_bytes(&self) -> usize {
        self.pending.len() + self.blank.len()
    }

    fn read(&mut self, is_end: bool, pieces: &mut Vec<Piece>) {
        while !self.pending.is_empty() || (is_end && self.body.is_some()) {
            let goes_on = match self.body.take() {
                Some(body) => self.read_body(body, is_end, pieces),
                None => self.read_text(is_end, pieces),
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Up to the next opening. Whether there is more to read.
    fn read_text(&mut self, is_end: bool, pieces: &mut Vec<Piece>) -> bool {
        if self.at_start && self.format.begins_bare() {
            let blank = self.pending.len() - self.pending.trim_start().len();
            if blank == self.pending.len() && !is_end {
                return false;
            }
            if self.pending[blank..].starts_with(['{', '[']) {
                self.text_pending(blank, pieces);
                self.open();
                return true;
            }
        }
        match find_opening(&self.pending, self.format.openings()) {
            Found::At(at) => {
                self.text_pending(at, pieces);
                self.open();
                true
            }
            Found::PerhapsAt(at) => {
                self.text_pending(if is_end { self.pending.len() } else { at }, pieces);
                false
            }
        }
    }

    fn open(&mut self) {
        self.at_start = false;
        self.body = Some(self.format.body(&self.tools));
    }

    fn read_body(&mut self, mut body: Box<dyn Body>, is_end: bool, pieces: &mut Vec<Piece>) -> bool {
        let mut read = Vec::new();
        let result = body.read(&self.pending, is_end, &mut read);
        self.call_pieces(read, pieces);
        match result {
            Read::More(taken) if !is_end => {
                self.pending.drain(..taken);
                self.body = Some(body);
                false
            }
            Read::More(taken) | Read::Done(taken) => {
                self.pending.drain(..taken);
                self.end_call(pieces);
                true
            }
            Read::NoCall(taken, reason) => {
                self.pending.drain(..taken);
                tracing::warn!(format = self.format.name(), reason, "a tool call of the model cannot be read and is shown as text");
                self.end_call(pieces);
                // What looked like an opening is passed over; whatever follows it may still hold one.
                let opening =
                    self.format.openings().iter().filter(|opening| self.pending.starts_with(**opening)).map(|opening| opening.len());
                let passed = opening.max().or(self.pending.chars().next().map(char::len_utf8)).unwrap_or(0);
                self.text_pending(passed, pieces);
                true
            }
        }
    }

    fn call_pieces(&mut self, read: Vec<Piece>, pieces: &mut Vec<Piece>) {
        for piece in read {
            match &piece {
                Piece::CallStarted { .. } => {
                    self.end_call(pieces);
                    self.blank.clear();
                    self.calls += 1;
                    self.is_call_open = true;
                }
                Piece::CallEnded => self.is_call_open = false,
                Piece::Arguments(_) | Piece::Text(_) => {}
            }
            push_piece(piece, pieces);
        }
    }

    fn end_call(&mut self, pieces: &mut Vec<Piece>) {
        if std::mem::take(&mut self.is_call_open) {
            pieces.push(Piece::CallEnded);
        }
    }

    fn text_pending(&mut self, bytes: usize, pieces: &mut Vec<Piece>) {
        let text: String = self.pending.drain(..bytes).collect();
        self.text(&text, pieces);
    }

    fn text(&mut self, text: &str, pieces: &mut Vec<Piece>) {
        let text = std::mem::take(&mut self.blank) + text;
        let shown = text.trim_end();
        self.at_start &= shown.is_empty();
        push_text(shown, pieces);
        self.blank = text[shown.len()..].to_owned();
    }
}

enum Found {
    At(usize),
    /// None is there; from here on one may be coming (the end of the text: none is).
    PerhapsAt(usize),
}

fn find_opening(text: &str, openings: &[&str]) -> Found {
    let first = openings.iter().filter_map(|opening| text.find(opening)).min();
    match first {
        Some(at) => Found::At(at),
        None => Found::PerhapsAt(openings.iter().map(|opening| text.len() - begun_at_end(text, opening)).min().unwrap_or(text.len())),
    }
}

/// Bytes at the end of `text` that `marker` may begin with.
pub fn begun_at_end(text: &str, marker: &str) -> usize {
    let longest = marker.len().saturating_sub(1).min(text.len());
    (1..=longest).rev().find(|&length| marker.is_char_boundary(length) && text.ends_with(&marker[..length])).unwrap_or(0)
}

/// Whether a text that is still arriving begins with a marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begins {
    Yes,
    No,
    NotKnown,
}

pub fn begins(text: &str, marker: &str) -> Begins {
    match () {
        () if text.starts_with(marker) => Begins::Yes,
        () if marker.starts_with(text) => Begins::NotKnown,
        () => Begins::No,
    }
}

fn push_text(text: &str, pieces: &mut Vec<Piece>) {
    if !text.is_empty() {
        push_piece(Piece::Text(text.to_owned()), pieces);
    }
}

/// Adds a piece; what continues the last one is put to it.
pub fn push_piece(piece: Piece, pieces: &mut Vec<Piece>) {
    match (pieces.last_mut(), piece) {
        (Some(Piece::Text(before)), Piece::Text(text)) => before.push_str(&text),
        (Some(Piece::Arguments(before)), Piece::Arguments(json)) => before.push_str(&json),
        (_, piece) => pieces.push(piece),
    }
}
