//! What the text of a reply must be, in the words of OpenAI's chat completions (`response_format`) and of the servers that go beyond
//! it: vLLM's `guided_*` and `structured_outputs`, llama.cpp's `json_schema`.

use serde_json::Value;

use super::errors::ApiError;
use super::fields::{Fields, kind_of, quoted};
use crate::chat::OutputFormat;

/// Choices of one request.
const CHOICES_MAX: usize = 4_096;

/// vLLM's names in `structured_outputs`; each had `guided_` before it in earlier versions.
const GUIDED: [(&str, &str); 4] =
    [("json", "guided_json"), ("regex", "guided_regex"), ("choice", "guided_choice"), ("grammar", "guided_grammar")];

/// Whichever field says it; two that do contradict each other.
pub fn read_output_format(fields: &Fields<'_>) -> Result<OutputFormat, ApiError> {
    let mut found: Option<(String, OutputFormat)> = None;
    let mut add = |name: String, format: Option<OutputFormat>| match (format, &found) {
        (None | Some(OutputFormat::Text), _) => Ok(()),
        (Some(_), Some((first, _))) => Err(ApiError::invalid(name.clone(), format!("`{name}` and `{first}` cannot be used together"))),
        (Some(format), None) => {
            found = Some((name, format));
            Ok(())
        }
    };
    add("response_format".to_owned(), read_response_format(fields)?)?;
    for (_, name) in GUIDED {
        add(name.to_owned(), read_guided(fields, name, name)?)?;
    }
    if let Some(outputs) = fields.object("structured_outputs")? {
        for (name, guided) in GUIDED {
            add(outputs.place(name), read_guided(&outputs, name, guided)?)?;
        }
        if outputs.boolean("json_object")? == Some(true) {
            add(outputs.place("json_object"), Some(OutputFormat::JsonObject))?;
        }
    }
    add("json_schema".to_owned(), read_schema(fields, "json_schema")?.map(OutputFormat::JsonSchema))?;
    if fields.get("grammar").is_some() {
        return Err(fields.error("grammar", "(GBNF) is not supported; use `structured_outputs.grammar`, which is a Lark grammar"));
    }
    Ok(found.map_or(OutputFormat::Text, |(_, format)| format))
}

/// OpenAI's: `{"type": "text" | "json_object" | "json_schema", "json_schema": {"name", "schema", "strict"}}`. A schema is held whether
/// `strict` or not.
fn read_response_format(fields: &Fields<'_>) -> Result<Option<OutputFormat>, ApiError> {
    let Some(format) = fields.object("response_format")? else { return Ok(None) };
    format.require("type")?;
    match format.string("type")?.unwrap_or_default() {
        "text" => Ok(Some(OutputFormat::Text)),
        // llama.cpp takes a schema here.
        "json_object" => Ok(Some(read_schema(&format, "schema")?.map_or(OutputFormat::JsonObject, OutputFormat::JsonSchema))),
        "json_schema" => {
            let wrapper = format.object("json_schema")?;
            let (holder, name) = match &wrapper {
                // The Responses API, and some clients of this one, write the schema's fields beside `type`.
                None => (&format, "schema"),
                Some(wrapper) => (wrapper, "schema"),
            };
            holder.require(name)?;
            Ok(read_schema(holder, name)?.map(OutputFormat::JsonSchema))
        }
        other => Err(format.error("type", format_args!("must be text, json_object or json_schema, not {}", quoted(other)))),
    }
}

/// An object or a boolean; vLLM's clients also send the text of one.
pub fn read_schema(fields: &Fields<'_>, name: &str) -> Result<Option<Value>, ApiError> {
    match fields.get(name) {
        None => Ok(None),
        Some(schema @ (Value::Object(_) | Value::Bool(_))) => Ok(Some(schema.clone())),
        Some(Value::String(text)) => match serde_json::from_str(text) {
            Ok(schema @ Value::Object(_)) => Ok(Some(schema)),
            _ => Err(fields.error(name, "is a string, but not the text of a JSON object")),
        },
        Some(other) => Err(fields.error(name, format_args!("must be a JSON schema, not {}", kind_of(other)))),
    }
}

/// The field `name`, which means what vLLM's `guided` does.
fn read_guided(fields: &Fields<'_>, name: &str, guided: &str) -> Result<Option<OutputFormat>, ApiError> {
    Ok(match guided {
        "guided_json" => read_schema(fields, name)?.map(OutputFormat::JsonSchema),
        "guided_regex" => fields.string(name)?.map(|regex| OutputFormat::Regex(regex.to_owned())),
        "guided_grammar" => fields.string(name)?.map(|lark| OutputFormat::Lark(lark.to_owned())),
        _ => read_choices(fields, name)?.map(OutputFormat::Choice),
    })
}

fn read_choices(fields: &Fields<'_>, name: &str) -> Result<Option<Vec<String>>, ApiError> {
    let Some(items) = fields.array(name)? else { return Ok(None) };
    if items.is_empty() || items.len() > CHOICES_MAX {
        return Err(fields.error(name, format_args!("has {} texts; there must be 1 to {CHOICES_MAX}", items.len())));
    }
    let text = |(index, item): (usize, &Value)| match item {
        Value::String(text) if !text.is_empty() => Ok(text.clone()),
        Value::String(_) => Err(fields.error(&format!("{name}[{index}]"), "is empty")),
        other => Err(fields.wrong_kind(&format!("{name}[{index}]"), "a string", other)),
    };
    items.iter().enumerate().map(text).collect::<Result<_, _>>().map(Some)
}
