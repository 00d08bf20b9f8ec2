//! Where a JSON text stands that is not finished, and what would continue it towards a value that is wanted.
//!
//! Pure. Reads leniently: whoever wrote the text was held by a grammar, or is the script itself.

use serde_json::Value;

/// What may come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// No JSON.
    Text,
    Value,
    /// A value, or the end of an empty array.
    FirstItem,
    /// A key, or the end of an empty object.
    FirstKey,
    Key,
    InKey,
    Colon,
    InString,
    /// A number or a word.
    InScalar,
    /// A comma, or the end of what is open.
    AfterValue,
    /// The value is whole.
    End,
}

/// A JSON text that has been read as far as it goes.
#[derive(Debug)]
pub struct JsonCursor<'t> {
    text: &'t str,
    pub place: Place,
    open: Vec<Open>,
    /// Where the string or the scalar begins that is being read.
    token_start: usize,
    /// Where the value ends, at [`Place::End`].
    pub end: usize,
}

#[derive(Debug)]
enum Open {
    /// The last key is the one whose value is being read.
    Object {
        keys: Vec<String>,
    },
    Array {
        items: usize,
    },
}

impl<'t> JsonCursor<'t> {
    pub fn read(text: &'t str) -> Self {
        let mut cursor = Self { text, place: Place::Value, open: Vec::new(), token_start: 0, end: text.len() };
        let mut escaped = false;
        for (at, byte) in text.bytes().enumerate() {
            if matches!(cursor.place, Place::InKey | Place::InString) {
                match byte {
                    b'"' if !escaped => cursor.close_string(at),
                    _ => escaped = byte == b'\\' && !escaped,
                }
            } else {
                cursor.push(at, byte);
            }
            if cursor.place == Place::End {
                cursor.end = at + 1;
                break;
            }
        }
        cursor
    }

    fn push(&mut self, at: usize, byte: u8) {
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' if self.place == Place::InScalar => self.value_ended(),
            b' ' | b'\t' | b'\r' | b'\n' => {}
            b'{' => self.begin(Open::Object { keys: Vec::new() }, Place::FirstKey),
            b'[' => self.begin(Open::Array { items: 0 }, Place::FirstItem),
            b'}' | b']' => {
                self.open.pop();
                self.value_ended();
            }
            b',' => {
                self.place = match self.open.last() {
                    Some(Open::Object { .. }) => Place::Key,
                    Some(Open::Array { .. }) | None => Place::Value,
                }
            }
            b':' => self.place = Place::Value,
            b'"' => {
                self.token_start = at;
                let is_key = matches!(self.place, Place::FirstKey | Place::Key);
                if !is_key {
                    self.count_item();
                }
                self.place = if is_key { Place::InKey } else { Place::InString };
            }
            _ if self.place == Place::InScalar => {}
            _ => {
                self.token_start = at;
                self.count_item();
                self.place = Place::InScalar;
            }
        }
    }

    fn begin(&mut self, open: Open, place: Place) {
        self.count_item();
        self.open.push(open);
        self.place = place;
    }

    fn count_item(&mut self) {
        if let Some(Open::Array { items }) = self.open.last_mut() {
            *items += 1;
        }
    }

    fn close_string(&mut self, at: usize) {
        if self.place == Place::InString {
            return self.value_ended();
        }
        let key = serde_json::from_str(&self.text[self.token_start..=at]).unwrap_or_default();
        if let Some(Open::Object { keys }) = self.open.last_mut() {
            keys.push(key);
        }
        self.place = Place::Colon;
    }

    fn value_ended(&mut self) {
        self.place = if self.open.is_empty() { Place::End } else { Place::AfterValue };
    }

    /// What to write next, so that `wanted` comes of it as far as it still can; where that says nothing, nothing.
    pub fn towards(&self, wanted: Option<&Value>) -> Option<String> {
        let (container, value) = self.wanted_here(wanted);
        match self.place {
            Place::Text | Place::End => None,
            Place::Colon => Some(":".to_owned()),
            Place::Value => value.map(Value::to_string),
            Place::FirstItem => Some(container.and_then(|array| array.get(0)).map_or("]".to_owned(), Value::to_string)),
            Place::FirstKey => Some(self.missing_key(container, "").map_or("}".to_owned(), |key| format!("{key}:"))),
            Place::Key => Some(self.missing_key(container, "")? + ":"),
            Place::InKey => {
                let written = &self.text[self.token_start..];
                let key = self.missing_key(container, written)?;
                Some(format!("{}:", &key[written.len()..]))
            }
            Place::InString | Place::InScalar => {
                let written = &self.text[self.token_start..];
                let rest = value.map(Value::to_string).and_then(|value| value.strip_prefix(written).map(str::to_owned));
                match rest {
                    Some(rest) if !rest.is_empty() => Some(rest),
                    _ if self.place == Place::InString => Some("\"".to_owned()),
                    _ => self.after_value(container),
                }
            }
            Place::AfterValue => self.after_value(container),
        }
    }

    fn after_value(&self, container: Option<&Value>) -> Option<String> {
        match self.open.last()? {
            Open::Object { .. } => Some(self.missing_key(container, "").map_or("}".to_owned(), |key| format!(",{key}:"))),
            Open::Array { items } => {
                let next = container.and_then(|array| array.get(*items));
                Some(next.map_or("]".to_owned(), |item| format!(",{item}")))
            }
        }
    }

    /// The first key of the wanted object that is not written yet and begins so, as JSON.
    fn missing_key(&self, container: Option<&Value>, written: &str) -> Option<String> {
        let Some(Open::Object { keys }) = self.open.last() else { return None };
        let missing = container?.as_object()?.keys().filter(|key| !keys.contains(key));
        missing.map(|key| Value::from(key.as_str()).to_string()).find(|key| key.starts_with(written))
    }

    /// Of the wanted value: what stands where the innermost open object or array is, and where the value in it is that is being written.
    fn wanted_here<'v>(&self, wanted: Option<&'v Value>) -> (Option<&'v Value>, Option<&'v Value>) {
        let (mut container, mut value) = (None, wanted);
        for (depth, open) in self.open.iter().enumerate() {
            container = value;
            let is_innermost = depth + 1 == self.open.len();
            value = match open {
                Open::Object { keys } => keys.last().and_then(|key| container?.get(key)),
                // Items are counted when they begin: before that it is the next one that is meant.
                Open::Array { items } if is_innermost && self.place == Place::Value => container.and_then(|array| array.get(*items)),
                Open::Array { items } => container.and_then(|array| array.get(items.saturating_sub(1))),
            };
        }
        (container, value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn places() {
        for (text, place) in [
            ("", Place::Value),
            (" {", Place::FirstKey),
            ("{\"a", Place::InKey),
            ("{\"a\\\"", Place::InKey),
            ("{\"a\"", Place::Colon),
            ("{\"a\" :\n", Place::Value),
            ("{\"a\":\"x\\\\", Place::InString),
            ("{\"a\":\"x\"", Place::AfterValue),
            ("{\"a\":1", Place::InScalar),
            ("{\"a\":1 ", Place::AfterValue),
            ("{\"a\":1,", Place::Key),
            ("{\"a\":[", Place::FirstItem),
            ("{\"a\":[[]", Place::AfterValue),
            ("{\"a\":[[],", Place::Value),
            ("{\"a\":[[],{}]}", Place::End),
            ("\"x\"", Place::End),
        ] {
            assert_eq!(JsonCursor::read(text).place, place, "{text:?}");
        }
        assert_eq!(JsonCursor::read("{} x").end, 2);
    }

    #[test]
    fn a_text_goes_where_it_still_can() {
        let wanted = json!({"name": "f", "arguments": {"city": "Oslo", "days": [1, 23]}});
        let towards = |text: &str| JsonCursor::read(text).towards(Some(&wanted));
        // Another order and other spaces than the script's.
        assert_eq!(towards("{ \"arguments\" : { \"da").as_deref(), Some("ys\":"));
        assert_eq!(towards("{\"arguments\":{\"days\":[1,2").as_deref(), Some("3"));
        assert_eq!(towards("{\"arguments\":{\"days\":[1,").as_deref(), Some("23"));
        assert_eq!(towards("{\"arguments\":{\"days\":[1").as_deref(), Some(",23"));
        assert_eq!(towards("{\"arguments\":{\"days\":[1,23]").as_deref(), Some(",\"city\":"));
        assert_eq!(towards("{\"arguments\":{\"days\":[1,23],\"city\":\"Os").as_deref(), Some("lo\""));
        // What went another way is closed.
        assert_eq!(towards("{\"arguments\":{\"city\":\"Rome").as_deref(), Some("\""));
        assert_eq!(towards("{\"arguments\":{\"other\":{").as_deref(), Some("}"));
        assert_eq!(towards("{\"arguments\":{\"other\":"), None);
        assert_eq!(towards("{\"arguments\":{\"ot"), None);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-z\"\\\\é\n]{0,5}".prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-c\"]{0,2}", inner, 0..4).prop_map(|fields| Value::Object(fields.into_iter().collect()))
            ]
        })
    }

    proptest! {
        /// From any beginning of any writing of a value, a character at a time, to that value.
        #[test]
        fn a_beginning_becomes_the_value(wanted in any_json(), cut in 0usize..200, pretty in any::<bool>()) {
            let whole = if pretty { serde_json::to_string_pretty(&wanted).unwrap() } else { wanted.to_string() };
            let mut text: String = whole.chars().take(cut).collect();
            for _ in 0..1000 {
                let cursor = JsonCursor::read(&text);
                let Some(next) = cursor.towards(Some(&wanted)) else { break };
                let next = next.chars().next().expect("nothing is never suggested");
                text.push(next);
            }
            prop_assert_eq!(serde_json::from_str::<Value>(&text).ok(), Some(wanted), "{}", text);
        }
    }
}
