//! A healthy stream as a row of frames, and where in it a fault sits. Pure; the dialects write the frames.

use serde_json::Value;

use super::answer::{Point, Reply};

/// One server-sent event.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    pub event: Option<&'static str>,
    pub data: String,
    pub mark: Mark,
}

/// What a frame is for the reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Opens the reply.
    Start,
    /// Opens or closes a piece; carries nothing of it.
    Frame,
    /// A token of text.
    Text,
    /// A token of thinking.
    Thinking,
    /// So many bytes of the arguments of this call.
    Arguments { call: usize, bytes: usize },
    /// This call is complete.
    CallDone { call: usize },
    /// Says why the reply ends.
    Finish,
    /// The last one.
    End,
}

impl Frame {
    /// An event whose name is its data's `type`.
    pub fn named(event: &'static str, data: &Value, mark: Mark) -> Self {
        Self { event: Some(event), data: data.to_string(), mark }
    }

    /// An event without a name.
    pub fn data(data: &Value, mark: Mark) -> Self {
        Self { event: None, data: data.to_string(), mark }
    }
}

/// A reply on its way into a dialect.
#[derive(Debug, Clone, Copy)]
pub struct Told<'a> {
    pub reply: &'a Reply,
    /// What the client asked for.
    pub model: &'a str,
    /// Distinguishes this reply's ids from all others'.
    pub id: u64,
    pub input_tokens: usize,
    /// Arguments come in pieces of so many bytes.
    pub arguments_piece_bytes: usize,
    /// The chat dialect tells usage in a stream only if asked.
    pub include_usage: bool,
}

impl Told<'_> {
    pub fn model(&self) -> &str {
        self.reply.model.as_deref().unwrap_or(self.model)
    }

    /// A word is a token here, and so is a piece of arguments.
    pub fn output_tokens(&self) -> usize {
        let texts = [&self.reply.thinking, &self.reply.text].into_iter().flatten();
        let words: usize = texts.map(|text| words(text).count()).sum();
        let calls: usize = self.reply.calls.iter().map(|call| call.arguments.len().div_ceil(4)).sum();
        words + calls
    }

    /// `toolu_`, `call_` and the like, and a number that no other reply has.
    pub fn call_id(&self, prefix: &str, call: usize) -> String {
        format!("{prefix}{:016x}{call:02}", self.id)
    }
}

/// The tokens of a text: words, each with the space before it.
pub fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let after_first = rest.char_indices().nth(1).map_or(rest.len(), |(at, _)| at);
        let end = rest[after_first..].find(' ').map_or(rest.len(), |at| after_first + at);
        let (word, others) = rest.split_at(end);
        rest = others;
        (!word.is_empty()).then_some(word)
    })
}

/// A text in pieces of about so many bytes, no character cut.
pub fn pieces(text: &str, bytes: usize) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let end = (bytes.max(1)..rest.len()).find(|end| rest.is_char_boundary(*end)).unwrap_or(rest.len());
        let (piece, others) = rest.split_at(end);
        rest = others;
        (!piece.is_empty()).then_some(piece)
    })
}

/// How many frames come before this point. `None`: the reply does not get there. [`Point::Bytes`] is not counted in frames.
pub fn frames_before(frames: &[Frame], point: Point) -> Option<usize> {
    let after_nth = |wanted: Mark, n: usize| match n {
        0 => frames.iter().position(|frame| frame.mark == wanted),
        n => frames.iter().enumerate().filter(|(_, frame)| frame.mark == wanted).nth(n - 1).map(|(at, _)| at + 1),
    };
    match point {
        Point::Headers | Point::Bytes(_) => Some(0),
        Point::Start => frames.iter().rposition(|frame| frame.mark == Mark::Start).map(|at| at + 1),
        Point::Tokens(n) => after_nth(Mark::Text, n),
        Point::ThinkingTokens(n) => after_nth(Mark::Thinking, n),
        Point::Arguments { call: wanted, bytes: 0 } => {
            frames.iter().position(|frame| matches!(frame.mark, Mark::Arguments { call, .. } if call == wanted))
        }
        Point::Arguments { call: wanted, bytes: wanted_bytes } => {
            let mut seen = 0;
            let reached = frames.iter().position(|frame| match frame.mark {
                Mark::Arguments { call, bytes } if call == wanted => {
                    seen += bytes;
                    seen >= wanted_bytes
                }
                _ => false,
            });
            reached.map(|at| at + 1)
        }
        Point::Calls(0) => frames.iter().position(|frame| matches!(frame.mark, Mark::Arguments { call: 0, .. })),
        // The chat dialect does not say that a call is complete: there its last piece is the end.
        Point::Calls(n) => frames.iter().rposition(|frame| ends_or_continues(frame, n - 1)).map(|at| at + 1),
        Point::BeforeEnd => frames.iter().position(|frame| frame.mark == Mark::End),
    }
}

fn ends_or_continues(frame: &Frame, wanted: usize) -> bool {
    matches!(frame.mark, Mark::CallDone { call } | Mark::Arguments { call, .. } if call == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_pieces_lose_nothing() {
        for text in ["", " ", "a", "a b", " a  b ", "Zoë – x", "{\"k\":\"ü\"}"] {
            assert_eq!(words(text).collect::<String>(), text);
            assert_eq!(pieces(text, 3).collect::<String>(), text);
        }
        assert_eq!(words("one two  three").collect::<Vec<_>>(), ["one", " two", " ", " three"]);
        assert_eq!(pieces("aüb", 1).collect::<Vec<_>>(), ["a", "ü", "b"]);
    }
}
