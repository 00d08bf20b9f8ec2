//! JSON schemas as providers hold replies to them: only objects that are closed, which take no property but their own.

use serde_json::{Map, Value, json};

/// Keywords whose schemas speak of the same object: closed, each would forbid what the others have.
const SPEAK_OF_THE_SAME: [&str; 6] = ["allOf", "anyOf", "oneOf", "$ref", "if", "patternProperties"];

/// The schema with its open objects closed, where they have properties. What follows it follows the client's as well, which is what the
/// client relies on.
pub fn closed(schema: &Value) -> Value {
    let Value::Object(fields) = schema else { return schema.clone() };
    let has_properties = fields.contains_key("properties");
    if has_properties && SPEAK_OF_THE_SAME.iter().any(|keyword| fields.contains_key(*keyword)) {
        return schema.clone();
    }
    let mut closed: Map<String, Value> = fields.iter().map(|(name, value)| (name.clone(), closed_below(name, value))).collect();
    if has_properties && fields.get("additionalProperties").is_none_or(|more| *more == json!(true)) {
        closed.insert("additionalProperties".into(), false.into());
    }
    Value::Object(closed)
}

/// The value of a keyword: only where schemas stand, so that a `const` or a `default` stays as it is.
fn closed_below(keyword: &str, value: &Value) -> Value {
    match (keyword, value) {
        ("properties" | "$defs" | "definitions", Value::Object(schemas)) => {
            Value::Object(schemas.iter().map(|(name, schema)| (name.clone(), closed(schema))).collect())
        }
        ("anyOf" | "oneOf" | "prefixItems", Value::Array(schemas)) => Value::Array(schemas.iter().map(closed).collect()),
        ("items", schema) => closed(schema),
        (_, other) => other.clone(),
    }
}

/// Whether OpenAI takes it as `strict`: closed objects whose properties are all required.
pub fn is_strict(schema: &Value) -> bool {
    let Value::Object(fields) = schema else { return false };
    if fields.get("type").is_some_and(|kind| kind == "object") || fields.contains_key("properties") {
        let required = fields.get("required").and_then(Value::as_array);
        let names = fields.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::keys);
        let all_required = names.into_iter().all(|name| required.is_some_and(|required| required.iter().any(|one| one == name)));
        if !all_required || fields.get("additionalProperties") != Some(&json!(false)) {
            return false;
        }
    }
    fields.iter().all(|(keyword, value)| match (keyword.as_str(), value) {
        ("properties" | "$defs" | "definitions", Value::Object(schemas)) => schemas.values().all(is_strict),
        ("anyOf", Value::Array(schemas)) => schemas.iter().all(is_strict),
        ("items", schema) => is_strict(schema),
        ("allOf" | "oneOf" | "not" | "if" | "patternProperties" | "prefixItems", _) => false,
        _ => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_objects_are_closed_and_nothing_else_changes() {
        let schema = json!({
            "type": "object",
            "properties": {
                "properties": {"type": "object", "properties": {"a": {"const": {"type": "object"}}}},
                "list": {"type": "array", "items": {"properties": {}, "additionalProperties": true}},
                "map": {"type": "object", "additionalProperties": {"type": "string"}},
            },
            "$defs": {"x": {"anyOf": [{"properties": {}}, {"type": "object"}]}, "y": {"properties": {}, "allOf": [{"properties": {}}]}},
        });
        let expected = json!({
            "type": "object",
            "properties": {
                "properties": {"type": "object", "properties": {"a": {"const": {"type": "object"}}}, "additionalProperties": false},
                "list": {"type": "array", "items": {"properties": {}, "additionalProperties": false}},
                "map": {"type": "object", "additionalProperties": {"type": "string"}},
            },
            "$defs": {
                "x": {"anyOf": [{"properties": {}, "additionalProperties": false}, {"type": "object"}]},
                "y": {"properties": {}, "allOf": [{"properties": {}}]},
            },
            "additionalProperties": false,
        });
        assert_eq!(closed(&schema), expected);
        assert_eq!(closed(&expected), expected);
    }

    #[test]
    fn what_openai_takes_as_strict() {
        let object = |properties: Value, required: Value| json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false});
        assert!(is_strict(&object(json!({"a": {"type": "string"}}), json!(["a"]))));
        assert!(is_strict(&object(json!({}), json!([]))));
        assert!(!is_strict(&object(json!({"a": {"type": "string"}}), json!([]))), "an optional property");
        assert!(!is_strict(&json!({"type": "object", "properties": {}})), "an open object");
        let inner = object(json!({"b": {"type": "string"}}), json!([]));
        for schema in [object(json!({"a": inner}), json!(["a"])), json!({"type": "array", "items": inner}), json!({"anyOf": [inner]})] {
            assert!(!is_strict(&schema), "{schema}");
        }
        assert!(!is_strict(&json!({"allOf": []})));
    }
}
