//! What the gateway needs to know of a request before it goes up, read without touching the bytes.

use std::ops::Range;

use bytes::Bytes;

use super::json::{Members, offset, text_of};

/// Bytes of a body for one token, roughly: JSON of prose and code.
const BYTES_PER_TOKEN: usize = 4;
/// What the protocols call the most tokens of a reply.
const TOKENS_MAX: [&str; 3] = ["max_tokens", "max_completion_tokens", "max_output_tokens"];

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

impl About {
    /// `None`: the body is no JSON object, or says these things in a way that no API takes.
    pub fn of(body: &[u8]) -> Option<Self> {
        Self::read(body).map(|(about, _)| about)
    }

    /// The same, with the members of the body for whoever wants more of it: it may be megabytes, and is read once.
    pub fn read(body: &[u8]) -> Option<(Self, Members<'_>)> {
        let text = std::str::from_utf8(body).ok()?;
        let members = Members::of(text)?;
        let told = |name: &str| members.get(name).filter(|value| value.get() != "null");
        let stream = told("stream").map_or(Ok(false), |stream| serde_json::from_str(stream.get())).ok()?;
        let mut about = Self { stream, rough_tokens: body.len() / BYTES_PER_TOKEN, ..Self::default() };
        if let Some(most) = TOKENS_MAX.iter().find_map(|name| told(name)) {
            about.tokens_max = serde_json::from_str::<serde_json::Number>(most.get()).ok()?.as_u64();
        }
        if let Some(model) = told("model") {
            about.model = text_of(model)?.into_owned();
            let start = offset(text, model.get());
            about.model_span = Some(start..start + model.get().len());
        }
        Some((about, members))
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
        assert_eq!(
            About::of(br#"{"model":null,"stream":null,"max_tokens":null}"#).unwrap(),
            About { rough_tokens: 11, ..About::default() }
        );
        // As everybody who reads JSON into a map does, the last of two counts.
        let twice = About::of(br#"{"model":"a","max_output_tokens":7,"model":"b"}"#).unwrap();
        assert_eq!((twice.model.as_str(), twice.tokens_max), ("b", Some(7)));
        for wrong in
            ["", "[]", "{\"model\":3}", "{\"max_tokens\":\"7\"}", "{\"messages\":[}", "{} {}", "{\"stream\":\"yes\"}", "\u{feff}{}"]
        {
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
