//! What the gateway needs to know of a request before it goes up, read without touching the bytes.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

/// Bytes of a body for one token, roughly: JSON of prose and code.
const BYTES_PER_TOKEN: usize = 4;

/// A request's own words about itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct About {
    /// Empty: it names none.
    pub model: String,
    pub stream: bool,
    /// Of the prompt, from its size.
    pub rough_tokens: usize,
    /// Of the reply, at most.
    pub tokens_max: Option<u64>,
    /// Where the body has its model's name, quotes included.
    model_span: Option<Range<usize>>,
}

#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow, default)]
    model: Option<&'a RawValue>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default, alias = "max_completion_tokens", alias = "max_output_tokens")]
    max_tokens: Option<serde_json::Number>,
}

impl About {
    /// `None`: the body is no JSON object, or says these things in a way that no API takes.
    pub fn of(body: &[u8]) -> Option<Self> {
        // serde would read a list as the fields of a struct, in their order.
        let text = std::str::from_utf8(body).ok().filter(|text| text.trim_ascii_start().starts_with('{'))?;
        let fields: Fields<'_> = serde_json::from_str(text).ok()?;
        let mut about = Self { stream: fields.stream.unwrap_or(false), rough_tokens: body.len() / BYTES_PER_TOKEN, ..Self::default() };
        about.tokens_max = fields.max_tokens.and_then(|number| number.as_u64());
        if let Some(model) = fields.model {
            about.model = serde_json::from_str::<Cow<'_, str>>(model.get()).ok()?.into_owned();
            // The raw value is a part of the very text that was read.
            let start = model.get().as_ptr() as usize - text.as_ptr() as usize;
            about.model_span = Some(start..start + model.get().len());
        }
        Some(about)
    }

    /// The body with another model's name in its place, or in front where it names none; all other bytes stay.
    pub fn with_model(&self, body: &Bytes, model: &str) -> Bytes {
        let name = serde_json::Value::from(model).to_string();
        let mut out = Vec::with_capacity(body.len() + name.len() + 16);
        match &self.model_span {
            Some(span) => {
                out.extend_from_slice(&body[..span.start]);
                out.extend_from_slice(name.as_bytes());
                out.extend_from_slice(&body[span.end..]);
            }
            None => {
                let brace = body.iter().position(|byte| *byte == b'{').map_or(0, |at| at + 1);
                let is_empty = body[brace..].iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'}');
                out.extend_from_slice(&body[..brace]);
                out.extend_from_slice(format!("\"model\":{name}{}", if is_empty { "" } else { "," }).as_bytes());
                out.extend_from_slice(&body[brace..]);
            }
        }
        Bytes::from(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a_request_says_of_itself() {
        let body = r#"{"messages":[{"role":"user","content":"\"model\":\"x\""}], "model" : "cl\u0061ude", "stream":true}"#;
        let about = About::of(body.as_bytes()).unwrap();
        assert_eq!((about.model.as_str(), about.stream, about.rough_tokens), ("claude", true, body.len() / 4));
        assert_eq!(About::of(b"{}").unwrap(), About::default());
        for wrong in ["", "[]", "{\"model\":3}", "{\"stream\":\"yes\"}", "\u{feff}{}"] {
            assert_eq!(About::of(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn another_model_changes_no_other_byte() {
        for (body, expected) in [
            (r#"{ "a":1,"model" : "x" ,"b":2}"#, r#"{ "a":1,"model" : "gpt \"5\"" ,"b":2}"#),
            (r#" {"a":1}"#, r#" {"model":"gpt \"5\"","a":1}"#),
            ("{ }", "{\"model\":\"gpt \\\"5\\\"\" }"),
        ] {
            let about = About::of(body.as_bytes()).unwrap();
            let changed = about.with_model(&Bytes::from_static(body.as_bytes()), "gpt \"5\"");
            assert_eq!(std::str::from_utf8(&changed).unwrap(), expected);
        }
    }
}
