//! A custom tool takes plain text, and the model calls it as a function with one argument, `input`. This takes the text out of the
//! arguments' JSON as it comes, so that it can be streamed.

use serde_json::{Map, Value, json};

/// The argument that holds the text.
pub const ARGUMENT: &str = "input";

/// The arguments of a call with this text.
pub fn arguments(input: &str) -> String {
    json!({ARGUMENT: input}).to_string()
}

/// The beginning of such arguments, when so much of the text has come.
pub fn arguments_so_far(input: &str) -> String {
    let mut json = arguments(input);
    json.truncate(json.len() - "\"}".len());
    json
}

/// Reads `{"input": "..."}` piece by piece. What has another form (no grammar held the model to it) is delivered whole at the end.
#[derive(Debug, Default)]
pub struct CustomInput {
    /// All that came.
    json: String,
    state: State,
    /// The text taken out so far.
    input: String,
}

#[derive(Debug, Default, Clone, PartialEq)]
enum State {
    /// Before the text: how much of `{"input":"` has been seen, white space aside.
    #[default]
    Before,
    BeforeAt(usize),
    Text,
    /// After a backslash: what of the escape has come.
    Escape(String),
    /// A high surrogate, which waits for its other half; what has come after it.
    Pair(u32, String),
    Ended,
    /// Another form.
    Other,
}

const HEAD: &str = "{\"input\":\"";

impl CustomInput {
    /// The next piece of the arguments; the text that became certain.
    pub fn push(&mut self, piece: &str) -> String {
        self.json.push_str(piece);
        let mut text = String::new();
        for character in piece.chars() {
            self.state = std::mem::take(&mut self.state).after(character, &mut text);
        }
        self.input.push_str(&text);
        text
    }

    /// The end of the arguments; the text that is still missing.
    pub fn finish(&mut self) -> String {
        let rest = match &self.state {
            State::Text | State::Ended => String::new(),
            State::Escape(begun) => format!("\\{begun}"),
            State::Pair(_, begun) => format!("{}{begun}", char::REPLACEMENT_CHARACTER),
            State::Before | State::BeforeAt(_) | State::Other => other_form(&self.json),
        };
        self.input.push_str(&rest);
        rest
    }

    /// The text so far.
    pub fn text(&self) -> &str {
        &self.input
    }

    /// Nothing of the arguments is missing.
    pub fn is_whole(&self) -> bool {
        self.state == State::Ended || serde_json::from_str::<Value>(&self.json).is_ok()
    }
}

impl State {
    fn after(self, character: char, text: &mut String) -> Self {
        match self {
            Self::Before => Self::BeforeAt(0).after(character, text),
            // White space may stand between the signs, but not inside the name.
            Self::BeforeAt(at) if character.is_ascii_whitespace() && (at <= 1 || at >= HEAD.len() - 2) => Self::BeforeAt(at),
            Self::BeforeAt(at) if HEAD[at..].starts_with(character) => {
                if at + 1 == HEAD.len() {
                    Self::Text
                } else {
                    Self::BeforeAt(at + 1)
                }
            }
            Self::BeforeAt(_) | Self::Other => Self::Other,
            Self::Text => match character {
                '"' => Self::Ended,
                '\\' => Self::Escape(String::new()),
                _ => {
                    text.push(character);
                    Self::Text
                }
            },
            Self::Escape(mut escape) => {
                escape.push(character);
                after_escape(escape, text)
            }
            Self::Pair(high, mut after) => {
                after.push(character);
                after_high_surrogate(high, after, text)
            }
            Self::Ended => Self::Ended,
        }
    }
}

/// `escape`: what stands after the backslash, as far as it has come.
fn after_escape(escape: String, text: &mut String) -> State {
    let Some(digits) = escape.strip_prefix('u') else {
        match escape.as_str() {
            "n" => text.push('\n'),
            "t" => text.push('\t'),
            "r" => text.push('\r'),
            "b" => text.push('\u{8}'),
            "f" => text.push('\u{c}'),
            "\"" | "\\" | "/" => text.push_str(&escape),
            // JSON has no such escape; what was meant is the backslash.
            _ => {
                text.push('\\');
                text.push_str(&escape);
            }
        }
        return State::Text;
    };
    if digits.chars().any(|digit| !digit.is_ascii_hexdigit()) {
        text.push('\\');
        text.push_str(&escape);
        return State::Text;
    }
    if digits.len() < 4 {
        return State::Escape(escape);
    }
    match u32::from_str_radix(digits, 16).expect("four hexadecimal digits") {
        high @ 0xD800..=0xDBFF => State::Pair(high, String::new()),
        // A low half without its high one is no character.
        unit => {
            text.push(char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER));
            State::Text
        }
    }
}

/// `after`: what has come after the first half of a pair.
fn after_high_surrogate(high: u32, after: String, text: &mut String) -> State {
    if after.len() < 6 && (after == "\\" || after.starts_with("\\u") && after[2..].chars().all(|digit| digit.is_ascii_hexdigit())) {
        return State::Pair(high, after);
    }
    let low = after.strip_prefix("\\u").filter(|digits| digits.len() == 4).and_then(|digits| u32::from_str_radix(digits, 16).ok());
    match low {
        Some(low @ 0xDC00..=0xDFFF) => {
            let code = 0x1_0000 + ((high - 0xD800) << 10) + (low - 0xDC00);
            text.push(char::from_u32(code).expect("two halves make a character"));
            State::Text
        }
        // Half a pair; what came after it is read as what it is.
        _ => {
            text.push(char::REPLACEMENT_CHARACTER);
            after.chars().fold(State::Text, |state, character| state.after(character, text))
        }
    }
}

/// The text of arguments that are not `{"input": "..."}`: the field `input` wherever it stands, the only string there is, or all of it.
fn other_form(json: &str) -> String {
    let only_string = |object: &Map<String, Value>| match object.values().collect::<Vec<_>>()[..] {
        [Value::String(text)] => Some(text.clone()),
        _ => None,
    };
    match serde_json::from_str::<Value>(json) {
        Ok(Value::String(text)) => text,
        Ok(Value::Object(object)) => {
            let named = object.get(ARGUMENT).and_then(Value::as_str).map(str::to_owned);
            named.or_else(|| only_string(&object)).unwrap_or_else(|| json.to_owned())
        }
        _ => json.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text of `json`, the same however it is cut, and the pieces together are the text.
    fn check(json: &str) -> (String, bool) {
        let read = |size: usize| {
            let (mut input, mut streamed) = (CustomInput::default(), String::new());
            for chunk in json.chars().collect::<Vec<_>>().chunks(size.max(1)) {
                streamed.push_str(&input.push(&chunk.iter().collect::<String>()));
            }
            streamed.push_str(&input.finish());
            assert_eq!(streamed, input.text());
            (streamed, input.is_whole())
        };
        let whole = read(json.len());
        for size in 1..8 {
            assert_eq!(read(size), whole, "cut into pieces of {size}");
        }
        whole
    }

    #[test]
    fn arguments_that_have_begun_go_on() {
        for (before, after) in [("", "a"), ("say \"h", "i\"\n"), ("é\\", "n")] {
            let rest = Value::from(after).to_string();
            let json = [&arguments_so_far(before), &rest[1..], "}"].concat();
            assert_eq!(check(&json), ([before, after].concat(), true));
        }
    }

    #[test]
    fn text_is_unwrapped() {
        for text in ["", "*** Begin Patch\n+a \"b\" \\ \t\r\u{8}\u{c}/é😀\u{0}\n*** End Patch", "\\u0041", "{\"input\":\"x\"}"] {
            assert_eq!(check(&arguments(text)), (text.to_owned(), true));
        }
        assert_eq!(check(" {\n \"input\" : \"a\\u00e9\\ud83d\\ude00\\/\" }\n"), ("aé😀/".to_owned(), true));
    }

    #[test]
    fn half_pairs_and_wrong_escapes_lose_nothing() {
        for (written, text) in [
            (r#"a\ud83db"#, "a\u{FFFD}b"),
            (r#"\ude00\ud83d\n"#, "\u{FFFD}\u{FFFD}\n"),
            (r#"\ud83d\ud83d\ude00"#, "\u{FFFD}😀"),
            (r#"\ud83d\u00e9"#, "\u{FFFD}é"),
            (r#"\ud83d\uZ"#, "\u{FFFD}\\uZ"),
            (r#"\d+\u12x"#, "\\d+\\u12x"),
        ] {
            assert_eq!(check(&format!("{{\"input\":\"{written}\"}}")).0, text, "{written}");
        }
    }

    #[test]
    fn what_breaks_off_is_delivered_as_far_as_it_came() {
        assert_eq!(check("{\"input\": \"abc"), ("abc".to_owned(), false));
        assert_eq!(check("{\"input\": \"abc\\"), ("abc\\".to_owned(), false));
        assert_eq!(check("{\"input\": \"abc\\ud83d\\u"), ("abc\u{FFFD}\\u".to_owned(), false));
        assert_eq!(check("{\"inp"), ("{\"inp".to_owned(), false));
    }

    #[test]
    fn other_forms() {
        for (json, text) in [
            ("{\"patch\": \"x\\ny\"}", "x\ny"),
            ("{\"why\": \"because\", \"input\": \"x\"}", "x"),
            ("\"x\\ny\"", "x\ny"),
            ("{\"a\": \"x\", \"b\": \"y\"}", "{\"a\": \"x\", \"b\": \"y\"}"),
            ("{\"input\": 3}", "{\"input\": 3}"),
            ("{\"in put\": \"x\"}", "x"),
            ("{}", "{}"),
        ] {
            assert_eq!(check(json), (text.to_owned(), true), "{json}");
        }
    }
}
