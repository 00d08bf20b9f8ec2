//! Whether a value fulfils a JSON schema (2020-12, and the older words for lists). For arguments that no grammar followed from their
//! beginning: what cannot be judged here, a schema elsewhere or an expression that is none, is not fulfilled.
//!
//! `format` is a note, as the standard has it unless somebody asks for more.

use regex_automata::meta::Regex;
use serde_json::{Map, Value};

/// References that lead in a circle end somewhere.
const DEPTH_MAX: usize = 128;

pub fn fulfils(schema: &Value, value: &Value) -> bool {
    Check { root: schema }.fulfils(schema, value, DEPTH_MAX)
}

struct Check<'a> {
    root: &'a Value,
}

impl Check<'_> {
    fn fulfils(&self, schema: &Value, value: &Value, depth: usize) -> bool {
        match schema {
            Value::Bool(anything) => *anything,
            Value::Object(schema) if depth > 0 => {
                let composed = self.composed(schema, value, depth - 1);
                composed
                    && equality(schema, value)
                    && match value {
                        Value::Object(fields) => self.object(schema, fields, depth - 1),
                        Value::Array(items) => self.array(schema, items, depth - 1),
                        Value::String(text) => string(schema, text),
                        Value::Number(number) => numeric(schema, number.as_f64().unwrap_or(f64::NAN)),
                        Value::Null | Value::Bool(_) => true,
                    }
            }
            _ => false,
        }
    }

    /// What other schemas say of the same value.
    fn composed(&self, schema: &Map<String, Value>, value: &Value, depth: usize) -> bool {
        let fulfils = |schema: &Value| self.fulfils(schema, value, depth);
        let number_of = |schemas: &Value| schemas.as_array().into_iter().flatten().filter(|schema| fulfils(schema)).count();
        schema.iter().all(|(keyword, schemas)| match keyword.as_str() {
            "$ref" => schemas.as_str().and_then(|target| self.target(target)).is_some_and(fulfils),
            "$dynamicRef" | "$recursiveRef" => false,
            "allOf" => number_of(schemas) == schemas.as_array().map_or(0, Vec::len),
            "anyOf" => number_of(schemas) > 0,
            "oneOf" => number_of(schemas) == 1,
            "not" => !fulfils(schemas),
            "if" => schema.get(if fulfils(schemas) { "then" } else { "else" }).is_none_or(fulfils),
            _ => true,
        })
    }

    fn target(&self, reference: &str) -> Option<&Value> {
        self.root.pointer(&reference.strip_prefix('#')?.replace("%25", "%"))
    }

    fn object(&self, schema: &Map<String, Value>, fields: &Map<String, Value>, depth: usize) -> bool {
        let names =
            |list: &Value| list.as_array().into_iter().flatten().all(|name| name.as_str().is_some_and(|name| fields.contains_key(name)));
        let known = schema.get("properties").and_then(Value::as_object);
        let patterns = schema.get("patternProperties").and_then(Value::as_object);
        let each = fields.iter().all(|(name, value)| {
            let own = known.and_then(|known| known.get(name));
            let mut is_known = own.is_some();
            let mut holds = own.is_none_or(|own| self.fulfils(own, value, depth));
            for (pattern, schema) in patterns.into_iter().flatten() {
                match matches(pattern, name) {
                    Some(true) => {
                        is_known = true;
                        holds &= self.fulfils(schema, value, depth);
                    }
                    Some(false) => {}
                    None => return false,
                }
            }
            holds && (is_known || schema.get("additionalProperties").is_none_or(|others| self.fulfils(others, value, depth)))
        });
        each && within(schema, "minProperties", "maxProperties", fields.len())
            && schema.iter().all(|(keyword, rule)| match keyword.as_str() {
                "required" => names(rule),
                "propertyNames" => fields.keys().all(|name| self.fulfils(rule, &Value::from(name.as_str()), depth)),
                "dependentRequired" | "dependentSchemas" | "dependencies" => {
                    rule.as_object().into_iter().flatten().all(|(name, wanted)| match wanted {
                        _ if !fields.contains_key(name) => true,
                        Value::Array(_) => names(wanted),
                        schema => self.fulfils(schema, &Value::Object(fields.clone()), depth),
                    })
                }
                // What the schemas beside it say of the other fields is not kept here.
                "unevaluatedProperties" => *rule == Value::Bool(true),
                _ => true,
            })
    }

    fn array(&self, schema: &Map<String, Value>, items: &[Value], depth: usize) -> bool {
        // The older drafts have the first items in `items`, and the rest in `additionalItems`.
        let (first, rest) = match (schema.get("prefixItems"), schema.get("items")) {
            (Some(first), rest) => (first.as_array(), rest),
            (None, Some(Value::Array(first))) => (Some(first), schema.get("additionalItems")),
            (None, rest) => (None, rest),
        };
        let first = first.map(Vec::as_slice).unwrap_or_default();
        let each = items.iter().enumerate().all(|(index, item)| {
            let rule = first.get(index).or(rest);
            rule.is_none_or(|rule| self.fulfils(rule, item, depth))
        });
        each && within(schema, "minItems", "maxItems", items.len())
            && schema.iter().all(|(keyword, rule)| match keyword.as_str() {
                "uniqueItems" => {
                    *rule != Value::Bool(true) || (1..items.len()).all(|end| !items[..end].iter().any(|item| equal(item, &items[end])))
                }
                "contains" => {
                    let found = items.iter().filter(|item| self.fulfils(rule, item, depth)).count();
                    let limit = |name: &str| schema.get(name).and_then(Value::as_f64);
                    found as f64 >= limit("minContains").unwrap_or(1.0) && limit("maxContains").is_none_or(|most| found as f64 <= most)
                }
                "unevaluatedItems" => *rule == Value::Bool(true),
                _ => true,
            })
    }
}

fn equality(schema: &Map<String, Value>, value: &Value) -> bool {
    schema.iter().all(|(keyword, rule)| match keyword.as_str() {
        "type" => match rule {
            Value::Array(kinds) => kinds.iter().any(|kind| is_of(kind, value)),
            kind => is_of(kind, value),
        },
        "enum" => rule.as_array().is_some_and(|values| values.iter().any(|one| equal(one, value))),
        "const" => equal(rule, value),
        _ => true,
    })
}

fn is_of(kind: &Value, value: &Value) -> bool {
    match kind.as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("number") => value.is_number(),
        // 1.0 is a whole number to JSON Schema.
        Some("integer") => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        _ => false,
    }
}

/// As JSON Schema has it: 1 and 1.0 are one number, and fields have no order.
fn equal(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(_), Value::Number(_)) => one == other || one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => one.len() == other.len() && one.iter().zip(other).all(|(one, other)| equal(one, other)),
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len() && one.iter().all(|(name, value)| other.get(name).is_some_and(|other| equal(value, other)))
        }
        _ => one == other,
    }
}

fn string(schema: &Map<String, Value>, text: &str) -> bool {
    let pattern = schema.get("pattern").is_none_or(|pattern| pattern.as_str().and_then(|pattern| matches(pattern, text)) == Some(true));
    pattern && within(schema, "minLength", "maxLength", text.chars().count())
}

fn numeric(schema: &Map<String, Value>, number: f64) -> bool {
    schema.iter().all(|(keyword, rule)| match (keyword.as_str(), rule.as_f64()) {
        ("minimum", Some(bound)) => number >= bound,
        ("maximum", Some(bound)) => number <= bound,
        ("exclusiveMinimum", Some(bound)) => number > bound,
        ("exclusiveMaximum", Some(bound)) => number < bound,
        ("multipleOf", Some(part)) if part > 0.0 => {
            let parts = number / part;
            // 0.3 is three times 0.1, whatever binary fractions say.
            (parts - parts.round()).abs() <= f64::EPSILON * parts.abs().max(1.0)
        }
        _ => true,
    })
}

fn within(schema: &Map<String, Value>, least: &str, most: &str, size: usize) -> bool {
    let limit = |name: &str| schema.get(name).and_then(Value::as_f64);
    limit(least).is_none_or(|least| size as f64 >= least) && limit(most).is_none_or(|most| size as f64 <= most)
}

/// `None`: the expression is of a kind that we do not know.
fn matches(pattern: &str, text: &str) -> Option<bool> {
    Regex::new(pattern).ok().map(|regex| regex.is_match(text))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn arguments_of_tools_are_judged() {
        let schema = json!({
            "type": "object",
            "properties": {
                "path": {"type": "string", "pattern": "^src/", "maxLength": 12},
                "limit": {"type": ["integer", "null"], "minimum": 1, "exclusiveMaximum": 100},
                "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}, "minItems": 1, "uniqueItems": true},
                "mode": {"enum": ["r", "w", 1]}
            },
            "required": ["path"],
            "additionalProperties": false,
            "$defs": {"line": {"anyOf": [{"type": "integer"}, {"type": "object", "required": ["at"]}]}}
        });
        for valid in [
            json!({"path": "src/a"}),
            json!({"limit": 1.0, "path": "src/a"}),
            json!({"path": "src/é", "limit": null, "lines": [1, {"at": 2}], "mode": 1.0}),
        ] {
            assert!(fulfils(&schema, &valid), "{valid}");
        }
        for invalid in [
            json!({}),
            json!([]),
            json!({"path": 1}),
            json!({"path": "lib/a"}),
            json!({"path": "src/123456789"}),
            json!({"path": "src/a", "limit": 100}),
            json!({"path": "src/a", "limit": 1.5}),
            json!({"path": "src/a", "lines": []}),
            json!({"path": "src/a", "lines": [1, 1.0]}),
            json!({"path": "src/a", "lines": [{}]}),
            json!({"path": "src/a", "mode": "x"}),
            json!({"path": "src/a", "other": 1}),
        ] {
            assert!(!fulfils(&schema, &invalid), "{invalid}");
        }
    }

    #[test]
    fn what_cannot_be_judged_is_not_fulfilled() {
        for schema in [
            json!({"$ref": "https://example.org/schema"}),
            json!({"$ref": "#/nowhere"}),
            json!({"$ref": "#"}),
            json!({"pattern": "(?=a)"}),
            json!("no schema"),
        ] {
            assert!(!fulfils(&schema, &json!("a")), "{schema}");
        }
        assert!(fulfils(&json!({"type": "string", "format": "email", "x-own": 1}), &json!("a")));
    }
}
