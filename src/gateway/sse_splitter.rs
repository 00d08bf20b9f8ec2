//! Finds the events in a stream of bytes, without changing a byte: what is relayed is what came, an event at a time.
//!
//! Lines end as the HTML standard says (LF, CR or CRLF, in any mix; a byte order mark may come first). Where an event ends depends on the
//! bytes alone and never on how the network cut them. It knows nothing of what events say.
#![deny(clippy::disallowed_methods)]

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::fault::Fault;

/// One event is no longer than this, unless told otherwise.
pub const EVENT_BYTES_MAX: usize = 8 << 20;

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Bytes in, events out. After each `push`, `next_event` until there is none.
#[derive(Debug)]
pub struct SseSplitter {
    event_bytes_max: usize,
    /// Of the event that is not whole yet, from earlier chunks; all of it is scanned.
    begun: BytesMut,
    /// What of the last chunk is not scanned yet.
    chunk: Bytes,
    lines: Lines,
    is_too_large: bool,
}

/// One event, or a comment between events, with the bytes it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SseEvent {
    raw: Bytes,
    name: Option<Range<usize>>,
    data: Data,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Data {
    Nothing,
    /// One line, which needs no copy.
    Line(Range<usize>),
    /// Several lines, joined.
    Joined(Bytes),
}

/// What a stream left behind at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Left {
    /// A whole event: only its last line break could have been longer.
    Event(SseEvent),
    /// An event without its end; the standard says that it is to be dropped.
    Unfinished(Bytes),
}

impl SseSplitter {
    pub fn new(event_bytes_max: usize) -> Self {
        Self { event_bytes_max, begun: BytesMut::new(), chunk: Bytes::new(), lines: Lines::default(), is_too_large: false }
    }

    pub fn push(&mut self, chunk: Bytes) {
        if self.chunk.is_empty() {
            self.chunk = chunk;
        } else {
            self.chunk = [self.chunk.as_ref(), chunk.as_ref()].concat().into();
        }
    }

    /// The next whole event. An event that lies in one chunk is a slice of it.
    pub fn next_event(&mut self) -> Result<Option<SseEvent>, Fault> {
        if self.is_too_large {
            return Err(Fault::TooLarge);
        }
        let is_first = self.lines.is_first_event;
        let end = self.lines.find_end(&self.chunk);
        let piece = self.chunk.split_to(end.unwrap_or(self.chunk.len()));
        if self.begun.len() + piece.len() > self.event_bytes_max {
            self.is_too_large = true;
            return Err(Fault::TooLarge);
        }
        if end.is_none() {
            self.begun.extend_from_slice(&piece);
            return Ok(None);
        }
        let raw = if self.begun.is_empty() {
            piece
        } else {
            self.begun.extend_from_slice(&piece);
            self.begun.split().freeze()
        };
        Ok(Some(SseEvent::parse(raw, is_first)))
    }

    /// The stream has ended: what of it was no event yet.
    pub fn finish(mut self) -> Option<Left> {
        self.begun.extend_from_slice(&self.chunk);
        if self.begun.is_empty() {
            return None;
        }
        let raw = self.begun.freeze();
        match self.lines.after_return {
            AfterReturn::Blank => Some(Left::Event(SseEvent::parse(raw, self.lines.is_first_event))),
            _ => Some(Left::Unfinished(raw)),
        }
    }
}

impl SseEvent {
    /// An event of these bytes, which are one.
    pub fn new(raw: Bytes) -> Self {
        Self::parse(raw, false)
    }

    /// Exactly as it came, its end included.
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// Its `event:` line.
    pub fn name(&self) -> Option<&[u8]> {
        self.name.clone().map(|range| &self.raw[range])
    }

    /// Its `data:` lines, joined; none in a comment.
    pub fn data(&self) -> Option<&[u8]> {
        match &self.data {
            Data::Nothing => None,
            Data::Line(range) => Some(&self.raw[range.clone()]),
            Data::Joined(joined) => Some(joined),
        }
    }

    fn parse(raw: Bytes, may_open_with_mark: bool) -> Self {
        let (mut name, mut data) = (None, Data::Nothing);
        let mut at = if may_open_with_mark && raw.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
        while at < raw.len() {
            let end = line_break(&raw[at..]).map_or(raw.len(), |length| at + length);
            if let Some(value) = value_of(b"data", &raw, at..end) {
                data = data.and(&raw, value);
            } else if let Some(value) = value_of(b"event", &raw, at..end) {
                name = Some(value);
            }
            // The LF of a CRLF makes an empty line here, which says nothing.
            at = end + 1;
        }
        Self { raw, name, data }
    }
}

impl Data {
    fn and(self, raw: &[u8], line: Range<usize>) -> Self {
        let before: &[u8] = match &self {
            Self::Nothing => return Self::Line(line),
            Self::Line(before) => &raw[before.clone()],
            Self::Joined(joined) => joined,
        };
        Self::Joined([before, b"\n", &raw[line]].concat().into())
    }
}

/// The value of a line, if it is one of this field.
fn value_of(field: &[u8], raw: &[u8], line: Range<usize>) -> Option<Range<usize>> {
    let rest = raw[line.clone()].strip_prefix(field)?;
    let value_start = match rest {
        [] => line.end,
        [b':', b' ', ..] => line.start + field.len() + 2,
        [b':', ..] => line.start + field.len() + 1,
        _ => return None,
    };
    Some(value_start..line.end)
}

fn line_break(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r'))
}

/// Where lines and events end, a byte at a time.
///
/// A CR may be the first half of a CRLF, and the second half may not have come. After lines that ended with CRLF or LF we wait for it, so
/// that an event keeps its whole end; in a stream of bare CRs waiting would hold every event back until the next one.
#[derive(Debug)]
struct Lines {
    is_first_event: bool,
    /// Bytes of the byte order mark that the stream began with so far; `None` when it is too late for one.
    mark: Option<usize>,
    is_line_empty: bool,
    /// The line before this one ended with a bare CR.
    is_bare_return: bool,
    after_return: AfterReturn,
}

/// What the byte before this one was, if it was a CR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AfterReturn {
    No,
    /// It ended a line.
    Line,
    /// It ended an event, which waits for the LF.
    Blank,
    /// It ended an event, which has been given out.
    Given,
}

impl Default for Lines {
    fn default() -> Self {
        Self { is_first_event: true, mark: Some(0), is_line_empty: true, is_bare_return: false, after_return: AfterReturn::No }
    }
}

impl Lines {
    /// How many of these bytes, which follow those of before, are the rest of the event that is begun.
    fn find_end(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = self.skip_mark(bytes);
        while at < bytes.len() {
            if let Some(end) = self.settle_return(bytes[at], &mut at) {
                return Some(self.end_event(end));
            }
            let Some(length) = line_break(&bytes[at..]) else {
                self.is_line_empty &= at == bytes.len();
                return None;
            };
            self.is_line_empty &= length == 0;
            at += length + 1;
            let was_empty = std::mem::replace(&mut self.is_line_empty, true);
            match (bytes[at - 1], was_empty) {
                (b'\n', was_empty) => {
                    self.is_bare_return = false;
                    if was_empty {
                        return Some(self.end_event(at));
                    }
                }
                (_, false) => self.after_return = AfterReturn::Line,
                (_, true) if self.is_bare_return => {
                    self.after_return = AfterReturn::Given;
                    return Some(self.end_event(at));
                }
                (_, true) => self.after_return = AfterReturn::Blank,
            }
        }
        None
    }

    /// Now that the byte after a CR is here: takes it if it is the other half. The end of the event, if that is what the CR was.
    fn settle_return(&mut self, byte: u8, at: &mut usize) -> Option<usize> {
        let after = std::mem::replace(&mut self.after_return, AfterReturn::No);
        if after == AfterReturn::No {
            return None;
        }
        self.is_bare_return = byte != b'\n';
        if byte == b'\n' {
            *at += 1;
        }
        (after == AfterReturn::Blank).then_some(*at)
    }

    fn end_event(&mut self, end: usize) -> usize {
        self.is_first_event = false;
        end
    }

    /// Bytes of a byte order mark belong to no line.
    fn skip_mark(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while let (Some(matched), Some(byte)) = (self.mark, bytes.get(at)) {
            if *byte != BYTE_ORDER_MARK[matched] {
                self.is_line_empty &= matched == 0;
                self.mark = None;
                break;
            }
            at += 1;
            self.mark = Some(matched + 1).filter(|matched| *matched < BYTE_ORDER_MARK.len());
        }
        at
    }
}
