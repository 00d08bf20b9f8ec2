//! Tool calls as Hermes and Qwen models write them: `<tool_call>`, a JSON object with `name` and `arguments`, `</tool_call>`.
//! A call is held back until it is whole. What cannot be read as a call is delivered as the text it is: never an error, never lost.

use serde::de::{DeserializeOwned, IgnoredAny};

use super::ToolCall;
use super::stop_strings::{Scan, StopStrings};

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

/// Reads one reply's text.
#[derive(Debug)]
pub struct ToolParser {
    state: State,
    /// White space that would stand before a call, and is dropped if one follows.
    blank: String,
    calls: usize,
}

#[derive(Debug)]
enum State {
    Text(StopStrings),
    /// Inside a call: what came since `<tool_call>`.
    Call(CallText),
}

/// A piece of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Text(String),
    /// `id` is left empty.
    Call(ToolCall),
}

impl ToolParser {
    pub fn new() -> Self {
        Self { state: State::text(), blank: String::new(), calls: 0 }
    }

    /// For a prompt that already ends with `<tool_call>` and `begun`: a call the model was made to begin.
    pub fn in_call(begun: &str) -> Self {
        let mut call = CallText::default();
        let closed = call.push(begun);
        assert!(closed.is_none(), "a call begun in the prompt is not closed there");
        Self { state: State::Call(call), blank: String::new(), calls: 0 }
    }

    pub fn push(&mut self, text: &str, pieces: &mut Vec<Piece>) {
        let mut rest = text.to_owned();
        while !rest.is_empty() {
            rest = match &mut self.state {
                State::Text(open) => {
                    // The scan swallows what comes after the tag in the same piece, so the piece is fed up to the tag.
                    let (fed, after) = feed_until_stop(open, &rest);
                    match fed {
                        Scan::Text(text) => self.text(&text, pieces),
                        Scan::Stopped { text, .. } => {
                            self.text(&text, pieces);
                            self.state = State::Call(CallText::default());
                        }
                    }
                    after
                }
                State::Call(call) => match call.push(&rest) {
                    None => String::new(),
                    Some(after) => {
                        let body = call.body().to_owned();
                        self.state = State::text();
                        self.finish_call(&body, CLOSE, pieces);
                        after
                    }
                },
            };
        }
    }

    /// The end of the reply. A call without its closing tag counts if it is whole.
    pub fn finish(&mut self, pieces: &mut Vec<Piece>) {
        match std::mem::replace(&mut self.state, State::text()) {
            State::Text(mut open) => {
                let held = open.finish();
                self.text(&held, pieces);
            }
            State::Call(call) => self.finish_call(&call.text, "", pieces),
        }
        let blank = std::mem::take(&mut self.blank);
        if self.calls == 0 {
            push_text(&blank, pieces);
        }
    }

    fn finish_call(&mut self, body: &str, close: &str, pieces: &mut Vec<Piece>) {
        match parse_call(body) {
            Some(call) => {
                self.blank.clear();
                self.calls += 1;
                pieces.push(Piece::Call(call));
            }
            None => self.text(&format!("{OPEN}{body}{close}"), pieces),
        }
    }

    fn text(&mut self, text: &str, pieces: &mut Vec<Piece>) {
        let text = std::mem::take(&mut self.blank) + text;
        let shown = text.trim_end();
        push_text(shown, pieces);
        self.blank = text[shown.len()..].to_owned();
    }
}

impl Default for ToolParser {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    fn text() -> Self {
        Self::Text(StopStrings::new(&[OPEN.to_owned()]))
    }
}

/// Feeds `text` up to the first complete stop string; also what stands after it.
fn feed_until_stop(stops: &mut StopStrings, text: &str) -> (Scan, String) {
    let mut shown = String::new();
    for (start, character) in text.char_indices() {
        let end = start + character.len_utf8();
        match stops.push(&text[start..end]) {
            Scan::Text(text) => shown.push_str(&text),
            Scan::Stopped { text: before, stop } => return (Scan::Stopped { text: shown + &before, stop }, text[end..].to_owned()),
        }
    }
    (Scan::Text(shown), String::new())
}

fn push_text(text: &str, pieces: &mut Vec<Piece>) {
    if text.is_empty() {
        return;
    }
    match pieces.last_mut() {
        Some(Piece::Text(before)) => before.push_str(text),
        _ => pieces.push(Piece::Text(text.to_owned())),
    }
}

/// The text of a call, read so far. A closing tag inside a JSON string (code about tool calls) closes nothing.
#[derive(Debug, Default)]
struct CallText {
    text: String,
    in_string: bool,
    escaped: bool,
    /// Bytes of the closing tag that `text` ends with.
    matched: usize,
}

impl CallText {
    /// `Some` when the tag has closed: what stands after it.
    fn push(&mut self, text: &str) -> Option<String> {
        for (start, character) in text.char_indices() {
            self.text.push(character);
            if self.in_string {
                match character {
                    _ if self.escaped => self.escaped = false,
                    '\\' => self.escaped = true,
                    '"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            // No character of the tag but the first equals its first, so a failed match restarts there.
            self.matched = match character {
                c if CLOSE[self.matched..].starts_with(c) => self.matched + 1,
                '<' => 1,
                _ => 0,
            };
            self.in_string = character == '"';
            if self.matched == CLOSE.len() {
                return Some(text[start + character.len_utf8()..].to_owned());
            }
        }
        None
    }

    /// What stands between the tags.
    fn body(&self) -> &str {
        self.text.strip_suffix(CLOSE).unwrap_or(&self.text)
    }
}

/// `{"name": ..., "arguments": {...}}`; Llama's `parameters` is understood too. `None`: this is no call.
///
/// The arguments are handed on as they are written, spaces and all. Read and written anew they would be our idea of them: a number
/// beyond 64 bits loses digits, `1e400` is no number at all. To a client they are JSON text either way.
fn parse_call(body: &str) -> Option<ToolCall> {
    let fields = fields_as_written(body)?;
    // As everywhere in JSON, of two fields of one name the last counts.
    let field = |name: &str| fields.iter().rev().find(|(key, _)| key == name).map(|(_, written)| *written);
    let name = serde_json::from_str(field("name")?).ok()?;
    let arguments = match field("arguments").or_else(|| field("parameters")) {
        None | Some("null") => "{}".to_owned(),
        // Some models write the object as a string.
        Some(written) if written.starts_with('"') => {
            let text: String = serde_json::from_str(written).ok()?;
            fields_as_written(&text)?;
            text.trim_matches(WHITE_SPACE).to_owned()
        }
        Some(written) if written.starts_with('{') => written.to_owned(),
        Some(_) => return None,
    };
    Some(ToolCall { id: String::new(), name, arguments })
}

/// JSON's (RFC 8259, section 2), which is less than Unicode's.
const WHITE_SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

/// The fields of a JSON object in order, each value as it is written. `None`: this is not one JSON object.
fn fields_as_written(object: &str) -> Option<Vec<(String, &str)>> {
    let mut fields = Vec::new();
    let mut rest = object.trim_matches(WHITE_SPACE).strip_prefix('{')?.trim_start_matches(WHITE_SPACE);
    if rest == "}" {
        return Some(fields);
    }
    loop {
        let (key, _, after) = first_value::<String>(rest)?;
        let (_, written, after) = first_value::<IgnoredAny>(after.strip_prefix(':')?)?;
        fields.push((key, written));
        if after == "}" {
            return Some(fields);
        }
        rest = after.strip_prefix(',')?;
    }
}

/// The JSON value at the beginning of `text`, how it is written, and what comes after it.
fn first_value<T: DeserializeOwned>(text: &str) -> Option<(T, &str, &str)> {
    let text = text.trim_start_matches(WHITE_SPACE);
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<T>();
    let value = values.next()?.ok()?;
    let (written, after) = text.split_at(values.byte_offset());
    Some((value, written, after.trim_start_matches(WHITE_SPACE)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pieces of `text`, the same however it is cut.
    fn check(text: &str) -> Vec<Piece> {
        let mut whole = Vec::new();
        let mut parser = ToolParser::new();
        parser.push(text, &mut whole);
        parser.finish(&mut whole);
        for size in [1, 2, 3, 7] {
            let mut cut = Vec::new();
            let mut parser = ToolParser::new();
            for chunk in text.chars().collect::<Vec<_>>().chunks(size) {
                parser.push(&chunk.iter().collect::<String>(), &mut cut);
            }
            parser.finish(&mut cut);
            assert_eq!(cut, whole, "cut into pieces of {size}");
        }
        whole
    }

    fn call(name: &str, arguments: &str) -> Piece {
        Piece::Call(ToolCall { id: String::new(), name: name.into(), arguments: arguments.into() })
    }

    fn text(text: &str) -> Piece {
        Piece::Text(text.into())
    }

    #[test]
    fn calls_and_text() {
        assert_eq!(check("hello <b> world \n"), [text("hello <b> world \n")]);
        assert_eq!(
            check("Let me see.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"b\": 1, \"a\": \"é\"}}\n</tool_call>\n"),
            [text("Let me see."), call("f", "{\"b\": 1, \"a\": \"é\"}")]
        );
        assert_eq!(
            check("<tool_call>{\"name\":\"f\"}</tool_call>\n<tool_call>{\"name\":\"g\",\"arguments\":\"{\\\"x\\\":2}\"}</tool_call> done"),
            [call("f", "{}"), call("g", "{\"x\":2}"), text(" done")]
        );
    }

    #[test]
    fn a_closing_tag_in_a_string_closes_nothing() {
        assert_eq!(
            check("<tool_call>{\"name\":\"write\",\"arguments\":{\"text\":\"a \\\" </tool_call> b\"}}</tool_call>"),
            [call("write", "{\"text\":\"a \\\" </tool_call> b\"}")]
        );
        assert_eq!(check("<tool_call>{\"name\":\"f\"}<</tool_call>"), [text("<tool_call>{\"name\":\"f\"}<</tool_call>")]);
    }

    #[test]
    fn what_is_no_call_stays_text() {
        for no_call in [
            "<tool_call>not json</tool_call> after",
            "<tool_call>{\"name\": 3}</tool_call>",
            "<tool_call>{\"name\": \"f\", \"arguments\": [1]}</tool_call>",
            "<tool_call>{\"name\": \"f\", \"arguments\": \"[1]\"}</tool_call>",
            "<tool_call>{\"name\": \"f\", \"arguments\": \"{} {}\"}</tool_call>",
            "<tool_call>{\"name\": \"f\", \"arguments\": {\"x\": 01}}</tool_call>",
            "<tool_call>{\"name\": \"f\", \"arguments\": {\"x\":\u{a0}1}}</tool_call>",
            "<tool_call>{\"name\": \"f\",}</tool_call>",
            "<tool_call>{\"name\": \"f\"} {}</tool_call>",
            "<tool_call>{\"name\" \"f\"}</tool_call>",
            "a <tool_call>{\"name\": \"f\", \"arguments\": {\"x\": \"cut",
            "a <tool_cal",
            "<tool_call>",
        ] {
            assert_eq!(check(no_call), [text(no_call)]);
        }
    }

    #[test]
    fn an_unclosed_but_whole_call_counts() {
        assert_eq!(check("<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n"), [call("f", "{}")]);
    }

    #[test]
    fn a_call_begun_in_the_prompt() {
        let mut parser = ToolParser::in_call("\n{\"name\": \"f\", \"arguments\": ");
        let mut pieces = Vec::new();
        parser.push("{\"x\": 1}}\n</tool_call>", &mut pieces);
        parser.finish(&mut pieces);
        assert_eq!(pieces, [call("f", "{\"x\": 1}")]);
    }

    #[test]
    fn arguments_are_as_the_model_wrote_them() {
        for written in [
            r#"{"id": 123456789012345678901234567890, "x": 1e400, "y": -0.10}"#,
            r#"{"x":1,"x":2}"#,
            "{ \"deep\" : {\n\t\"list\": [ 1, {} , [\"\\u00e9\\n\"] ] } }",
            "{}",
        ] {
            let (name, arguments) = (r#""name": "f""#, format!(r#""arguments": {written}"#));
            for body in [format!("{{{name}, {arguments}}}"), format!("\n{{ {arguments} , {name} }}\n")] {
                assert_eq!(check(&format!("<tool_call>{body}</tool_call>")), [call("f", written)]);
            }
            let as_text = serde_json::Value::from(format!(" {written}\n"));
            assert_eq!(check(&format!("<tool_call>{{{name},\"parameters\":{as_text}}}</tool_call>")), [call("f", written)]);
        }
    }
}
