//! `POST /v1/rerank`, as Jina's and Cohere's clients speak it: which documents answer a query best.

use serde_json::{Map, Value, json};

use super::errors::ApiError;
use super::fields::{Fields, kind_of, parse_object};
use super::openai_embeddings::{INPUTS_MAX, Length, read_length};

/// A request as read.
#[derive(Debug, Clone, PartialEq)]
pub struct RerankCall {
    pub query: String,
    pub documents: Vec<String>,
    /// The best so many are told; all, where nothing is said.
    pub top_n: usize,
    pub return_documents: bool,
    pub length: Length,
    pub model: Option<String>,
}

/// How well a document answers the query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Relevance {
    pub index: usize,
    pub score: f64,
}

pub fn parse(body: &[u8]) -> Result<RerankCall, ApiError> {
    let body = parse_object(body)?;
    let fields = Fields::of_body(&body);
    let query = read_text(&fields, "query", fields.require("query")?)?;
    fields.require("documents")?;
    let items = fields.array("documents")?.unwrap_or_default();
    if items.is_empty() {
        return Err(fields.error("documents", "is empty"));
    }
    if items.len() > INPUTS_MAX {
        return Err(fields.error("documents", format_args!("has {} documents; at most {INPUTS_MAX} are allowed", items.len())));
    }
    let documents = items.iter().enumerate().map(|(index, item)| read_text(&fields, &format!("documents[{index}]"), item));
    Ok(RerankCall {
        query,
        documents: documents.collect::<Result<_, _>>()?,
        top_n: fields.integer("top_n", 1..=i64::MAX)?.map_or(usize::MAX, |top_n| usize::try_from(top_n).unwrap_or(usize::MAX)),
        return_documents: fields.boolean("return_documents")?.unwrap_or(false),
        length: read_length(&fields)?,
        model: fields.string("model")?.map(str::to_owned),
    })
}

/// A string, or an object with one as its `text`.
fn read_text(fields: &Fields<'_>, name: &str, value: &Value) -> Result<String, ApiError> {
    let text = match value {
        Value::Object(object) => object.get("text"),
        other => Some(other),
    };
    match text {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(fields.error(name, format_args!("must be a string or {{\"text\": ...}}, not {}", kind_of(other)))),
        None => Err(fields.error(name, "is an object without `text`")),
    }
}

/// The reply; the best comes first, of equals the one that came first.
pub fn reply(call: &RerankCall, id: &str, model: &str, mut relevances: Vec<Relevance>, tokens: usize) -> Value {
    relevances.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.index.cmp(&b.index)));
    let result = |Relevance { index, score }: &Relevance| {
        let mut result = Map::new();
        result.insert("index".into(), (*index).into());
        result.insert("relevance_score".into(), json!(score));
        if call.return_documents {
            result.insert("document".into(), json!({"text": call.documents[*index]}));
        }
        Value::Object(result)
    };
    let results: Vec<Value> = relevances.iter().take(call.top_n).map(result).collect();
    json!({
        "id": format!("rerank-{id}"),
        "object": "list",
        "model": model,
        "results": results,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_in_both_forms_and_what_is_wrong() {
        let call = parse(br#"{"query": "q", "documents": ["a", {"text": "b", "id": 3}], "top_n": 1}"#).expect("a request");
        assert_eq!((call.documents.as_slice(), call.top_n, call.return_documents), (["a".to_owned(), "b".to_owned()].as_slice(), 1, false));
        for (body, says) in [
            (r#"{"documents": ["a"]}"#, "`query` is required"),
            (r#"{"query": "q"}"#, "`documents` is required"),
            (r#"{"query": "q", "documents": []}"#, "`documents` is empty"),
            (r#"{"query": 1, "documents": ["a"]}"#, "`query` must be a string or {\"text\": ...}, not a number"),
            (r#"{"query": "q", "documents": ["a", {"t": 1}]}"#, "`documents[1]` is an object without `text`"),
            (r#"{"query": "q", "documents": ["a"], "top_n": 0}"#, "`top_n` must be at least 1, not 0"),
        ] {
            assert_eq!(parse(body.as_bytes()).expect_err(body).message, says);
        }
    }

    #[test]
    fn the_best_come_first_and_no_more_than_asked() {
        let body = br#"{"query": "q", "documents": ["a", "b", "c"], "top_n": 2, "return_documents": true}"#;
        let call = parse(body).expect("a request");
        let relevances = [0.5, 0.9, 0.9].into_iter().enumerate().map(|(index, score)| Relevance { index, score }).collect();
        let reply = reply(&call, "x", "m", relevances, 9);
        assert_eq!(
            reply["results"],
            json!([
                {"index": 1, "relevance_score": 0.9, "document": {"text": "b"}},
                {"index": 2, "relevance_score": 0.9, "document": {"text": "c"}},
            ])
        );
        assert_eq!((&reply["id"], &reply["usage"]["total_tokens"]), (&json!("rerank-x"), &json!(9)));
    }
}
