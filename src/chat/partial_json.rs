//! JSON that is not finished, as another model wrote it: brought closer to how ours is held to write it, without changing what it says.

use serde_json::{Map, Value};

use super::tool_formats::json_call::WHITE_SPACE;

/// The same value in the plainest writing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plain {
    pub text: String,
    /// What stands of an escape at the end, after the backslash: [`Self::text`] ends before it.
    pub escape: Option<String>,
}

/// One space for each stretch of white space outside of strings, characters for escapes that need not be any, numbers without exponents: a
/// grammar that allows fewer ways to write comes to the same place by it. What is no JSON stays as it is.
pub fn plain(json: &str) -> Plain {
    let mut text = String::with_capacity(json.len());
    let mut rest = json;
    let mut is_inside = false;
    while let Some(character) = rest.chars().next() {
        let taken = match character {
            '\\' if is_inside => match Escape::of(&rest[1..]) {
                Escape::Begun => return Plain { text, escape: Some(rest[1..].to_owned()) },
                Escape::Whole { bytes, character } => {
                    text += &quoted(character);
                    1 + bytes
                }
                Escape::Impossible => {
                    text.push(character);
                    1
                }
            },
            ' ' | '\t' | '\n' | '\r' if !is_inside => {
                text.push(' ');
                rest.len() - rest.trim_start_matches(WHITE_SPACE).len()
            }
            '-' | '0'..='9' if !is_inside => {
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && !"+-.".contains(c));
                let number = &rest[..end.unwrap_or(rest.len())];
                // One that may go on is left as it is.
                let value = end.filter(|_| number.contains(['e', 'E'])).and_then(|_| number.parse().ok());
                match value.filter(|value: &f64| value.is_finite()) {
                    Some(value) => text.push_str(&value.to_string()),
                    None => text.push_str(number),
                }
                number.len()
            }
            DELETE if is_inside => {
                text += &quoted(character);
                1
            }
            _ => {
                is_inside ^= character == '"';
                text.push(character);
                character.len_utf8()
            }
        };
        rest = &rest[taken..];
    }
    Plain { text, escape: None }
}

/// What stands after a backslash in a string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Escape {
    /// More must come.
    Begun,
    Whole {
        bytes: usize,
        character: char,
    },
    Impossible,
}

impl Escape {
    pub fn of(text: &str) -> Self {
        let whole = |character| Self::Whole { bytes: 1, character };
        match text.bytes().next() {
            None => Self::Begun,
            Some(b'"') => whole('"'),
            Some(b'\\') => whole('\\'),
            Some(b'/') => whole('/'),
            Some(b'b') => whole('\u{8}'),
            Some(b'f') => whole('\u{c}'),
            Some(b'n') => whole('\n'),
            Some(b'r') => whole('\r'),
            Some(b't') => whole('\t'),
            Some(b'u') => match Unit::of(&text[1..]) {
                Unit::Begun => Self::Begun,
                Unit::Impossible => Self::Impossible,
                Unit::Whole(high @ 0xD800..0xDC00) => Self::of_pair(high, &text[5..]),
                Unit::Whole(unit) => match char::from_u32(unit) {
                    Some(character) => Self::Whole { bytes: 5, character },
                    None => Self::Impossible,
                },
            },
            Some(_) => Self::Impossible,
        }
    }

    /// A character of two halves, of which the second is another escape.
    fn of_pair(high: u32, text: &str) -> Self {
        if "\\u".starts_with(text) {
            return Self::Begun;
        }
        let Some(digits) = text.strip_prefix("\\u") else { return Self::Impossible };
        match Unit::of(digits) {
            // Digits that only a second half begins with.
            Unit::Begun if matches!(digits.as_bytes(), [] | [b'd' | b'D'] | [b'd' | b'D', b'c'..=b'f' | b'C'..=b'F', ..]) => Self::Begun,
            Unit::Whole(low @ 0xDC00..0xE000) => {
                let character = char::from_u32(0x1_0000 + ((high - 0xD800) << 10) + (low - 0xDC00));
                Self::Whole { bytes: 11, character: character.expect("two halves make a character") }
            }
            _ => Self::Impossible,
        }
    }
}

/// Four hexadecimal digits.
enum Unit {
    Begun,
    Whole(u32),
    Impossible,
}

impl Unit {
    fn of(text: &str) -> Self {
        let digits = text.bytes().take(4).take_while(u8::is_ascii_hexdigit).count();
        match u32::from_str_radix(&text[..digits], 16) {
            Ok(unit) if digits == 4 => Self::Whole(unit),
            _ if digits == text.len() => Self::Begun,
            _ => Self::Impossible,
        }
    }
}

/// JSON allows it as it is, grammars do not.
const DELETE: char = '\u{7f}';

/// As JSON writes it between quotes.
pub fn quoted(character: char) -> String {
    if character == DELETE {
        return "\\u007f".to_owned();
    }
    let quoted = Value::from(character.to_string()).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// What makes this character of an escape that is begun, of which `begun` stands after the backslash; `None`: nothing does.
pub fn rest_of_escape(begun: &str, character: char) -> Option<String> {
    let short = match character {
        '"' | '\\' | '/' => Some(character),
        '\u{8}' => Some('b'),
        '\u{c}' => Some('f'),
        '\n' => Some('n'),
        '\r' => Some('r'),
        '\t' => Some('t'),
        _ => None,
    };
    let units: Vec<String> = character.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("u{unit:04x}")).collect();
    [short.map(String::from), Some(units.join("\\"))].into_iter().flatten().find_map(|escape| {
        // Digits may be of either case.
        let is_begun = escape.get(..begun.len()).is_some_and(|start| start.eq_ignore_ascii_case(begun) && !begun.contains('U'));
        is_begun.then(|| escape[begun.len()..].to_owned())
    })
}

/// The string in which a text ends.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BegunString {
    /// Its characters, without half an escape.
    pub text: String,
    /// It is the name of a field.
    pub is_name: bool,
}

/// `None`: the text does not end within a string.
pub fn begun_string(json: &str) -> Option<BegunString> {
    let mut strings = Strings::default();
    let mut start = None;
    for (at, character) in json.char_indices() {
        strings.push(character);
        start = if strings.inside { start.or(Some(at)) } else { None };
    }
    let is_name = names(json).iter().any(|named| named.unfinished.is_some());
    Some(BegunString { text: decoded(&json[start?..]), is_name })
}

/// The characters of a string that has no end.
fn decoded(string: &str) -> String {
    serde_json::from_str(&(plain(string).text + "\"")).unwrap_or_default()
}

/// The schema with the properties of its objects in the order in which `json` names them, and the others after them: grammars want them in
/// the schema's order, which says nothing about what is valid.
pub fn in_order_of(schema: &Value, json: &str) -> Value {
    let mut schema = schema.clone();
    for named in names(json) {
        let mut place = Some(&mut schema);
        for step in &named.path {
            place = place.and_then(|schema| match step {
                Step::Field(name) => schema.get_mut("properties")?.get_mut(name),
                Step::Item => schema.get_mut("items"),
            });
        }
        let properties = place.and_then(|schema| schema.get_mut("properties")).and_then(Value::as_object_mut);
        if let Some(properties) = properties {
            let (first, others): (Map<_, _>, Map<_, _>) =
                std::mem::take(properties).into_iter().partition(|(name, _)| named.position(name).is_some());
            let mut first: Vec<(String, Value)> = first.into_iter().collect();
            first.sort_by_key(|(name, _)| named.position(name));
            properties.extend(first.into_iter().chain(others));
        }
    }
    schema
}

/// Whether a character is in a string.
#[derive(Debug, Default)]
struct Strings {
    inside: bool,
    is_escaped: bool,
}

impl Strings {
    fn push(&mut self, character: char) {
        match character {
            _ if self.is_escaped => self.is_escaped = false,
            '\\' if self.inside => self.is_escaped = true,
            '"' => self.inside = !self.inside,
            _ => {}
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Field(String),
    Item,
}

/// The names of an object's fields, or of all objects of a list.
#[derive(Debug, PartialEq, Eq)]
struct Named {
    path: Vec<Step>,
    names: Vec<String>,
    /// The beginning of one that is not whole.
    unfinished: Option<String>,
}

impl Named {
    fn position(&self, name: &str) -> Option<usize> {
        let is_begun = || self.unfinished.as_ref().is_some_and(|begun| name.starts_with(begun.as_str()));
        self.names.iter().position(|named| named == name).or_else(|| is_begun().then_some(self.names.len()))
    }
}

/// The names of all objects, by place, in the order of their first.
fn names(json: &str) -> Vec<Named> {
    let mut found: Vec<Named> = Vec::new();
    // The way to the innermost object or list, each with whether a name comes next.
    let mut open: Vec<(Step, bool)> = Vec::new();
    let mut strings = Strings::default();
    let mut string_start = 0;
    for (at, character) in json.char_indices() {
        let was_inside = strings.inside;
        strings.push(character);
        match character {
            '"' if !was_inside => string_start = at,
            '"' if !strings.inside => {
                if let Some((Step::Field(field), is_name @ true)) = open.last_mut() {
                    *field = serde_json::from_str(&json[string_start..=at]).unwrap_or_default();
                    *is_name = false;
                    let name = field.clone();
                    let named = of_path(&mut found, &open);
                    if !named.names.contains(&name) {
                        named.names.push(name);
                    }
                }
            }
            _ if was_inside => {}
            '{' => open.push((Step::Field(String::new()), true)),
            '[' => open.push((Step::Item, false)),
            '}' | ']' => drop(open.pop()),
            ',' => {
                if let Some((Step::Field(_), is_name)) = open.last_mut() {
                    *is_name = true;
                }
            }
            _ => {}
        }
    }
    if let (true, Some((Step::Field(_), true))) = (strings.inside, open.last()) {
        of_path(&mut found, &open).unfinished = Some(decoded(&json[string_start..]));
    }
    found
}

/// The entry of the innermost object, which is not a step of its own path.
fn of_path<'a>(found: &'a mut Vec<Named>, open: &[(Step, bool)]) -> &'a mut Named {
    let (_, outer) = open.split_last().expect("names stand in objects");
    let path: Vec<Step> = outer.iter().map(|(step, _)| step.clone()).collect();
    let index = found.iter().position(|named| named.path == path).unwrap_or_else(|| {
        found.push(Named { path, names: Vec::new(), unfinished: None });
        found.len() - 1
    });
    &mut found[index]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_in_many_ways_is_written_in_one() {
        for (json, expected, escape) in [
            ("{ \"a\" :\n\t1 ,\r\n  \"b  \\\" c\":[  ]", "{ \"a\" : 1 , \"b  \\\" c\":[ ]", None),
            ("{\"a\":1  ", "{\"a\":1 ", None),
            ("[12.5e1, -1E+2,1e400, 0.10, 1e3", "[125, -100,1e400, 0.10, 1e3", None),
            ("\"\\u00ef\\ud834\\uDD1E\\/\\u000a\\u0022\\\\1e3", "\"ï𝄞/\\n\\\"\\\\1e3", None),
            ("\"a\\", "\"a", Some("")),
            ("\"a\\u00e", "\"a", Some("u00e")),
            ("\"a\\ud834", "\"a", Some("ud834")),
            ("\"a\\ud834\\udd1", "\"a", Some("ud834\\udd1")),
            ("\"a\\ud834\\u0", "\"a\\ud834\\u0", Some("u0")),
            ("\"\u{7f}\\u007F", "\"\\u007f\\u007f", None),
            ("\"\\x", "\"\\x", None),
            ("", "", None),
        ] {
            let plain = plain(json);
            // Half a pair that is no pair stays as it is, and the escape after it is read by itself.
            let text = if json.ends_with("\\u0") { format!("{}\\u0", plain.text) } else { plain.text };
            assert_eq!((text.as_str(), plain.escape.as_deref()), (expected, escape), "{json}");
        }
    }

    #[test]
    fn half_an_escape_becomes_a_character_or_does_not() {
        for (begun, character, rest) in [
            ("", 'i', Some("u0069")),
            ("u00", 'i', Some("69")),
            ("u006", 'q', None),
            ("u00E", '\u{eb}', Some("b")),
            ("U00", 'i', None),
            ("", '\n', Some("n")),
            ("u", '\n', Some("000a")),
            ("", '/', Some("/")),
            ("u002f", '/', Some("")),
            ("ud834", '\u{1d11e}', Some("\\udd1e")),
            ("uD834\\uDD", '\u{1d11e}', Some("1e")),
            ("ud835", '\u{1d11e}', None),
            ("u0069x", 'i', None),
        ] {
            assert_eq!(rest_of_escape(begun, character).as_deref(), rest, "{begun:?} {character:?}");
            if let Some(rest) = rest {
                let escape = [begun, rest].concat();
                assert_eq!(Escape::of(&escape), Escape::Whole { bytes: escape.len(), character });
            }
        }
    }

    #[test]
    fn the_string_in_which_a_text_ends() {
        let string = |text: &str, is_name| Some(BegunString { text: text.to_owned(), is_name });
        for (json, expected) in [
            ("{\"a\": 1", None),
            ("{\"c\\u0069t\\u00", string("cit", true)),
            ("{\"a\": \"x\\\"\\n\\", string("x\"\n", false)),
            ("{\"a\": [\"b\", \"", string("", false)),
            ("{\"a\": {\"\\u", string("", true)),
            ("{\"a\": \"b\"", None),
        ] {
            assert_eq!(begun_string(json), expected, "{json}");
        }
    }

    #[test]
    fn properties_come_in_the_order_of_the_text() {
        let object = |names: &[&str]| {
            let properties: Map<String, Value> = names.iter().map(|name| ((*name).to_owned(), json!({"type": "string"}))).collect();
            json!({"type": "object", "properties": properties})
        };
        let order = |schema: &Value, place: &str| -> String {
            schema.pointer(place).unwrap()["properties"].as_object().unwrap().keys().cloned().collect::<Vec<_>>().concat()
        };
        let mut schema = object(&["a", "b", "c", "d"]);
        schema["properties"]["b"] = json!({"type": "array", "items": object(&["x", "y", "z"])});
        for (json, outer, inner) in [
            ("", "abcd", "xyz"),
            ("{\"c\": 1, \"a", "cabd", "xyz"),
            ("{\"c\": \"{\\\"d\\\": 1\", \"d\": {\"b\": 2}", "cdab", "xyz"),
            ("{\"b\": [{\"z\": \"a\"}, {\"z\": 1, \"x\": 2, \"", "bacd", "zxy"),
            ("{\"d\":[],\"", "dabc", "xyz"),
            ("{\"\\u0063\":1,\"\\u0062\\u00", "cbad", "xyz"),
        ] {
            let ordered = in_order_of(&schema, json);
            assert_eq!((order(&ordered, ""), order(&ordered, "/properties/b/items")), (outer.to_owned(), inner.to_owned()), "{json}");
            assert_eq!(ordered, schema, "the same schema, in another order");
        }
    }
}
