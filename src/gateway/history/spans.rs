//! Where the values of a JSON text stand in it, and the text without some of them.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// An object: its members in their order, each value as it was written.
pub(super) struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Members<'a> {
    /// The last one counts, as for everybody who reads JSON into a map.
    pub(super) fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().rev().find(|(member, _)| member == name).map(|(_, value)| *value)
    }

    /// The value, if it is text.
    pub(super) fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        text_of(self.get(name)?)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), *value))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((name, value)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
                    members.push((name.0, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// Borrowed where it has no escapes.
#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

pub(super) fn elements(array: &RawValue) -> Option<Vec<&RawValue>> {
    if array.get().starts_with('[') { serde_json::from_str(array.get()).ok() } else { None }
}

pub(super) fn text_of(value: &RawValue) -> Option<Cow<'_, str>> {
    serde_json::from_str::<Name<'_>>(value.get()).ok().map(|name| name.0)
}

/// Where `part` stands in `text`, of which it is a slice.
pub(super) fn offset(text: &str, part: &str) -> usize {
    let offset = (part.as_ptr() as usize).wrapping_sub(text.as_ptr() as usize);
    assert!(offset + part.len() <= text.len(), "a part of another text");
    offset
}

/// A member of an object, from its name to the end of its value.
pub(super) fn member(text: &str, value: &RawValue) -> Range<usize> {
    let start = offset(text, value.get());
    let before_colon = text[..start].trim_ascii_end().strip_suffix(':').map_or("", str::trim_ascii_end);
    // Behind the name's last quote; a quote within it would have a backslash before it.
    let mut name = before_colon.strip_suffix('"').unwrap_or(before_colon);
    while let Some(at) = name.rfind('"') {
        name = &name[..at];
        if name.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 0 {
            break;
        }
    }
    name.len()..start + value.get().len()
}

/// Adds what has to be cut out so that the elements of a list that `goes` names are gone with their commas.
pub(super) fn cut_elements(spans: &[Range<usize>], goes: impl Fn(usize) -> bool, cuts: &mut Vec<Range<usize>>) {
    let mut at = 0;
    while at < spans.len() {
        if !goes(at) {
            at += 1;
            continue;
        }
        let first = at;
        while at < spans.len() && goes(at) {
            at += 1;
        }
        cuts.push(match (first, spans.get(at)) {
            (_, Some(next)) => spans[first].start..next.start,
            (0, None) => spans[0].start..spans[at - 1].end,
            (first, None) => spans[first - 1].end..spans[at - 1].end,
        });
    }
}

pub(super) fn without(body: &[u8], mut cuts: Vec<Range<usize>>) -> Vec<u8> {
    cuts.sort_by_key(|cut| cut.start);
    let mut kept = Vec::with_capacity(body.len());
    let mut at = 0;
    for cut in cuts {
        assert!(cut.start >= at, "two cuts overlap at {at}");
        kept.extend_from_slice(&body[at..cut.start]);
        at = cut.end;
    }
    kept.extend_from_slice(&body[at..]);
    kept
}

/// How many bytes of a JSON string, behind its quote, are this line and the line breaks after it, however they are escaped; `None` if
/// it does not open so.
pub(super) fn opening(json: &str, line: &str) -> Option<usize> {
    let mut characters = Characters { rest: json.strip_prefix('"')?.strip_suffix('"')? };
    let length = characters.rest.len();
    if line.is_empty() {
        return None;
    }
    for wanted in line.chars() {
        if characters.next()? != wanted {
            return None;
        }
    }
    let after_line = characters.rest.len();
    let mut end = after_line;
    while matches!(characters.next(), Some('\n' | '\r')) {
        end = characters.rest.len();
    }
    // The same words, and more on that line: somebody else's sentence.
    (end == 0 || end < after_line).then_some(length - end)
}

/// The characters that a JSON string stands for.
struct Characters<'a> {
    rest: &'a str,
}

impl Iterator for Characters<'_> {
    type Item = char;

    fn next(&mut self) -> Option<char> {
        let mut ahead = self.rest.chars();
        let mut character = ahead.next()?;
        self.rest = ahead.as_str();
        if character == '\\' {
            character = ahead.next()?;
            self.rest = ahead.as_str();
            character = match character {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'b' => '\u{8}',
                'f' => '\u{c}',
                'u' => self.unicode()?,
                itself => itself,
            };
        }
        Some(character)
    }
}

impl Characters<'_> {
    fn unicode(&mut self) -> Option<char> {
        let first = self.hex()?;
        if !(0xD800..0xDC00).contains(&first) {
            return char::from_u32(first);
        }
        self.rest = self.rest.strip_prefix("\\u")?;
        let second = self.hex()?.checked_sub(0xDC00)?;
        char::from_u32(0x1_0000 + ((first - 0xD800) << 10) + second)
    }

    fn hex(&mut self) -> Option<u32> {
        let (digits, rest) = self.rest.split_at_checked(4)?;
        self.rest = rest;
        u32::from_str_radix(digits, 16).ok()
    }
}
