//! Reads a JSON body field by field, so that an error names the field and the place. Unknown fields are nobody's business; `null`
//! is the same as absent.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::errors::{ApiError, ErrorKind};

/// A JSON object and where it stands in the body (`messages[2]`; empty: the body itself).
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    object: &'a Map<String, Value>,
    place: String,
}

/// Parses a body that must be one JSON object.
pub fn parse_object(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    let body = body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body);
    let text = std::str::from_utf8(body).map_err(|error| {
        let at = error.valid_up_to();
        bad_body(format!("the body is not UTF-8: byte 0x{:02X} at offset {at} belongs to no character", body[at]))
    })?;
    if text.trim().is_empty() {
        return Err(bad_body("the body is empty; it must be a JSON object".into()));
    }
    let value = serde_json::from_str(text).or_else(|error| match with_lone_surrogates_replaced(text) {
        Some(repaired) => serde_json::from_str(&repaired),
        None => Err(error),
    });
    match value {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => Err(bad_body(format!("the body must be a JSON object, not {}", kind_of(&other)))),
        Err(error) => Err(bad_body(format!("the body is not valid JSON: {error}"))),
    }
}

impl<'a> Fields<'a> {
    pub fn of_body(object: &'a Map<String, Value>) -> Self {
        Self { object, place: String::new() }
    }

    /// The object `value` at `place`. Errors: it is no object.
    pub fn of(value: &'a Value, place: String) -> Result<Self, ApiError> {
        match value {
            Value::Object(object) => Ok(Self { object, place }),
            other => Err(ApiError::invalid(place.clone(), format!("`{place}` must be an object, not {}", kind_of(other)))),
        }
    }

    /// The full name of a field.
    pub fn place(&self, name: &str) -> String {
        if self.place.is_empty() { name.to_owned() } else { format!("{}.{name}", self.place) }
    }

    /// The field, unless it is absent or null.
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.object.get(name).filter(|value| !value.is_null())
    }

    pub fn require(&self, name: &str) -> Result<&'a Value, ApiError> {
        self.get(name).ok_or_else(|| self.error(name, "is required"))
    }

    /// An error about a field: "`name` is ...".
    pub fn error(&self, name: &str, problem: impl std::fmt::Display) -> ApiError {
        let place = self.place(name);
        ApiError::invalid(place.clone(), format!("`{place}` {problem}"))
    }

    pub fn number(&self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f32>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let number = value.as_f64().ok_or_else(|| self.wrong_kind(name, "a number", value))?;
        if !range.contains(&number) {
            return Err(self.error(name, format_args!("must be between {} and {}, not {value}", range.start(), range.end())));
        }
        Ok(Some(number as f32))
    }

    /// A whole number; `5.0` is one.
    pub fn integer(&self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let number = whole_number(value).ok_or_else(|| self.wrong_kind(name, "a whole number", value))?;
        if range.contains(&number) {
            return Ok(Some(number));
        }
        let problem = match (*range.start(), *range.end()) {
            (start, i64::MAX) => format!("must be at least {start}, not {value}"),
            (start, end) => format!("must be between {start} and {end}, not {value}"),
        };
        Err(self.error(name, problem))
    }

    pub fn boolean(&self, name: &str) -> Result<Option<bool>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.wrong_kind(name, "true or false", value))
    }

    pub fn string(&self, name: &str) -> Result<Option<&'a str>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong_kind(name, "a string", value))
    }

    pub fn array(&self, name: &str) -> Result<Option<&'a [Value]>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_array().map(|items| Some(items.as_slice())).ok_or_else(|| self.wrong_kind(name, "an array", value))
    }

    /// The items of the array `name`, as ids.
    pub fn token_ids(&self, name: &str, items: &[Value]) -> Result<Vec<u32>, ApiError> {
        let token = |(index, id): (usize, &Value)| {
            let token = whole_number(id).and_then(|id| u32::try_from(id).ok());
            token.ok_or_else(|| self.error(&format!("{name}[{index}]"), format_args!("must be a token id, not {id}")))
        };
        items.iter().enumerate().map(token).collect()
    }

    pub fn object(&self, name: &str) -> Result<Option<Fields<'a>>, ApiError> {
        self.get(name).map(|value| Fields::of(value, self.place(name))).transpose()
    }

    /// All fields, in their order.
    pub fn map(&self) -> &'a Map<String, Value> {
        self.object
    }

    pub fn wrong_kind(&self, name: &str, wanted: &str, value: &Value) -> ApiError {
        self.error(name, format_args!("must be {wanted}, not {}", kind_of(value)))
    }
}

/// What a value is, in words for an error.
pub fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// A client's string for an error message: in quotes, and not all of a long one.
pub fn quoted(text: &str) -> String {
    match text.char_indices().nth(64) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

pub fn whole_number(value: &Value) -> Option<i64> {
    let whole = |number: &f64| number.fract() == 0.0 && number.abs() < 9e15;
    value.as_i64().or_else(|| value.as_u64().map(|_| i64::MAX)).or_else(|| value.as_f64().filter(whole).map(|number| number as i64))
}

fn bad_body(message: String) -> ApiError {
    ApiError::new(ErrorKind::InvalidRequest, message).with_code("invalid_json")
}

/// JavaScript clients that cut a string in the middle of a pair send half of it (`\ud83d`), which JSON's grammar allows and UTF-8
/// cannot hold: it becomes U+FFFD. `None`: there is no such half.
fn with_lone_surrogates_replaced(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let (mut at, mut copied) = (0, 0);
    while at < bytes.len() {
        if bytes[at] != b'\\' {
            at += 1;
            continue;
        }
        match escaped_unit(bytes, at) {
            Some(0xD800..=0xDBFF) if matches!(escaped_unit(bytes, at + 6), Some(0xDC00..=0xDFFF)) => at += 12,
            Some(0xD800..=0xDFFF) => {
                out.push_str(&text[copied..at]);
                out.push_str("\\ufffd");
                at += 6;
                copied = at;
            }
            Some(_) => at += 6,
            // Another escape: the character after the backslash is not the start of one.
            None => at += 2,
        }
    }
    if copied == 0 {
        return None;
    }
    out.push_str(&text[copied..]);
    Some(out)
}

/// The number in `\uXXXX` at `at`.
fn escaped_unit(bytes: &[u8], at: usize) -> Option<u32> {
    let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
    digits.iter().try_fold(0, |unit, digit| Some(unit * 16 + (*digit as char).to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_pair_becomes_a_replacement_character() {
        for (body, text) in [
            (r#"{"a":"x\ud83d"}"#, "x\u{FFFD}"),
            (r#"{"a":"\ude00\ud83d\ude00"}"#, "\u{FFFD}😀"),
            (r#"{"a":"\ud83d\ud83d\ude00\\ud83d"}"#, "\u{FFFD}😀\\ud83d"),
        ] {
            assert_eq!(parse_object(body.as_bytes()).unwrap()["a"], text, "{body}");
        }
    }

    #[test]
    fn bodies_that_are_none_name_the_place() {
        let deep = "[".repeat(100_000);
        for (body, says) in [
            (&b""[..], "the body is empty"),
            (b"  \n", "the body is empty"),
            (b"{\"a\":\"\xFF\"}", "byte 0xFF at offset 6"),
            (b"{\"a\":", "line 1 column 5"),
            (b"[1]", "must be a JSON object, not an array"),
            (b"{\"temperature\": NaN}", "line 1 column 17"),
            (b"{\"temperature\": 1e999}", "out of range"),
            (deep.as_bytes(), "recursion limit"),
        ] {
            let error = parse_object(body).unwrap_err();
            assert!(error.message.contains(says), "{} lacks {says:?}", error.message);
        }
        assert!(parse_object(b"\xEF\xBB\xBF{}").unwrap().is_empty());
    }
}
