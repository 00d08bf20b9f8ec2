//! `POST /v1/embeddings`, as OpenAI's SDKs and the many that imitate them speak it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::{Value, json};

use super::errors::ApiError;
use super::fields::{Fields, kind_of, parse_object};

/// OpenAI's bound on the inputs of one request.
pub const INPUTS_MAX: usize = 2_048;

/// A request as read.
#[derive(Debug, Clone, PartialEq)]
pub struct EmbeddingsCall {
    pub inputs: Vec<Input>,
    pub encoding: Encoding,
    /// Keep the first so many numbers, and scale what is left to length 1.
    pub dimensions: Option<usize>,
    pub length: Length,
    pub model: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    Text(String),
    /// Taken as they are: who sends tokens sends those that frame a text as well.
    Tokens(Vec<u32>),
}

/// How vectors are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encoding {
    #[default]
    Float,
    /// Of little-endian f32. OpenAI's own SDKs ask for it where their user says nothing.
    Base64,
}

/// What happens to a text that is longer than the model reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Length {
    /// It is refused.
    #[default]
    Whole,
    /// It is cut to so many tokens, and to what the model reads.
    CutTo(usize),
}

pub fn parse(body: &[u8]) -> Result<EmbeddingsCall, ApiError> {
    let body = parse_object(body)?;
    let fields = Fields::of_body(&body);
    let encoding = match fields.string("encoding_format")? {
        None | Some("float") => Encoding::Float,
        Some("base64") => Encoding::Base64,
        Some(other) => return Err(fields.error("encoding_format", format_args!("must be \"float\" or \"base64\", not {other:?}"))),
    };
    Ok(EmbeddingsCall {
        inputs: read_inputs(&fields)?,
        encoding,
        dimensions: fields.integer("dimensions", 1..=i64::MAX)?.map(|dimensions| dimensions as usize),
        length: read_length(&fields)?,
        model: fields.string("model")?.map(str::to_owned),
    })
}

/// vLLM's `truncate_prompt_tokens`, where -1 is what the model reads; Text Embeddings Inference's `truncate`.
pub fn read_length(fields: &Fields<'_>) -> Result<Length, ApiError> {
    let Some(tokens) = fields.integer("truncate_prompt_tokens", -1..=i64::MAX)? else {
        let cut = fields.get("truncate").and_then(Value::as_bool).unwrap_or(false);
        return Ok(if cut { Length::CutTo(usize::MAX) } else { Length::Whole });
    };
    match usize::try_from(tokens) {
        Ok(0) => Err(fields.error("truncate_prompt_tokens", "must be at least 1, or -1 for all that the model reads, not 0")),
        Ok(tokens) => Ok(Length::CutTo(tokens)),
        Err(_) => Ok(Length::CutTo(usize::MAX)),
    }
}

/// A string, several strings, a list of token ids, or several such lists.
fn read_inputs(fields: &Fields<'_>) -> Result<Vec<Input>, ApiError> {
    let items = match fields.require("input")? {
        Value::String(text) => return Ok(vec![Input::Text(text.clone())]),
        Value::Array(items) if items.is_empty() => return Err(fields.error("input", "is empty")),
        Value::Array(items) => items,
        other => return Err(fields.wrong_kind("input", "a string, or an array of strings or of token ids", other)),
    };
    if items[0].is_number() {
        return Ok(vec![Input::Tokens(fields.token_ids("input", items)?)]);
    }
    if items.len() > INPUTS_MAX {
        return Err(fields.error("input", format_args!("has {} texts; at most {INPUTS_MAX} are allowed", items.len())));
    }
    let input = |(index, item): (usize, &Value)| {
        let name = format!("input[{index}]");
        match item {
            Value::String(text) => Ok(Input::Text(text.clone())),
            Value::Array(ids) => Ok(Input::Tokens(fields.token_ids(&name, ids)?)),
            // Jina's.
            Value::Object(object) if object.get("text").is_some_and(Value::is_string) => {
                Ok(Input::Text(object["text"].as_str().unwrap_or_default().to_owned()))
            }
            other => Err(fields.error(&name, format_args!("must be a string or an array of token ids, not {}", kind_of(other)))),
        }
    };
    items.iter().enumerate().map(input).collect()
}

/// The whole reply, as JSON text: 2,048 vectors as values of JSON would take eight times their size.
pub fn reply(model: &str, vectors: &[Vec<f32>], encoding: Encoding, prompt_tokens: usize) -> String {
    #[derive(Serialize)]
    struct Body<'a> {
        object: &'static str,
        data: Vec<Item<'a>>,
        model: &'a str,
        usage: Value,
    }
    #[derive(Serialize)]
    struct Item<'a> {
        object: &'static str,
        index: usize,
        embedding: Vector<'a>,
    }
    #[derive(Serialize)]
    #[serde(untagged)]
    enum Vector<'a> {
        Float(&'a [f32]),
        Base64(String),
    }
    fn item(encoding: Encoding, index: usize, vector: &[f32]) -> Item<'_> {
        let embedding = match encoding {
            Encoding::Float => Vector::Float(vector),
            Encoding::Base64 => Vector::Base64(base64_of(vector)),
        };
        Item { object: "embedding", index, embedding }
    }
    let usage = json!({"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens});
    let data = vectors.iter().enumerate().map(|(index, vector)| item(encoding, index, vector)).collect();
    let body = Body { object: "list", data, model, usage };
    serde_json::to_string(&body).expect("finite numbers and strings can be written")
}

fn base64_of(vector: &[f32]) -> String {
    let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(body: Value) -> Result<Vec<Input>, String> {
        parse(body.to_string().as_bytes()).map(|call| call.inputs).map_err(|error| error.message)
    }

    #[test]
    fn inputs_in_all_their_forms() {
        let text = |text: &str| Input::Text(text.to_owned());
        for (input, expected) in [
            (json!("a"), vec![text("a")]),
            (json!(["a", ""]), vec![text("a"), text("")]),
            (json!([1, 2.0]), vec![Input::Tokens(vec![1, 2])]),
            (json!([[1], [2, 3]]), vec![Input::Tokens(vec![1]), Input::Tokens(vec![2, 3])]),
            (json!([{"text": "a"}]), vec![text("a")]),
        ] {
            assert_eq!(inputs(json!({"input": input})), Ok(expected));
        }
        for (input, says) in [
            (json!(null), "`input` is required"),
            (json!([]), "`input` is empty"),
            (json!(5), "`input` must be a string, or an array of strings or of token ids, not a number"),
            (json!([1, "a"]), "`input[1]` must be a token id, not \"a\""),
            (json!(["a", 1]), "`input[1]` must be a string or an array of token ids, not a number"),
            (json!([[1, -1]]), "`input[0][1]` must be a token id, not -1"),
            (json!(vec!["a"; 2049]), "`input` has 2049 texts; at most 2048 are allowed"),
        ] {
            assert_eq!(inputs(json!({"input": input})), Err(says.to_owned()));
        }
    }

    #[test]
    fn how_long_texts_are_cut() {
        for (body, expected) in [
            (json!({}), Ok(Length::Whole)),
            (json!({"truncate_prompt_tokens": 7}), Ok(Length::CutTo(7))),
            (json!({"truncate_prompt_tokens": -1}), Ok(Length::CutTo(usize::MAX))),
            (json!({"truncate": true}), Ok(Length::CutTo(usize::MAX))),
            (json!({"truncate": "END"}), Ok(Length::Whole)),
            (json!({"truncate_prompt_tokens": 0}), Err(())),
        ] {
            let object = body.as_object().expect("an object");
            assert_eq!(read_length(&Fields::of_body(object)).map_err(drop), expected, "{body}");
        }
    }

    #[test]
    fn both_ways_of_writing_give_the_same_numbers() {
        let vectors = vec![vec![0.1f32, -0.25, 1e-9], vec![1.0, 0.0, -0.0]];
        let float: Value = serde_json::from_str(&reply("m", &vectors, Encoding::Float, 5)).expect("JSON");
        let base64: Value = serde_json::from_str(&reply("m", &vectors, Encoding::Base64, 5)).expect("JSON");
        for (index, vector) in vectors.iter().enumerate() {
            let numbers: Vec<f32> = serde_json::from_value(float["data"][index]["embedding"].clone()).expect("numbers");
            assert_eq!(&numbers, vector);
            let bytes = STANDARD.decode(base64["data"][index]["embedding"].as_str().expect("a string")).expect("base64");
            let numbers: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            assert_eq!(&numbers, vector);
        }
        assert_eq!(float["usage"], json!({"prompt_tokens": 5, "total_tokens": 5}));
    }
}
