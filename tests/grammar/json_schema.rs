//! JSON schemas: what they let through. The texts are held against the `jsonschema` crate too, which knows nothing of grammars: what a
//! grammar accepts must be valid, and what is valid it must accept, but for what we forbid on purpose (`Case::stricter`).

use serde_json::{Value, json};
use understudy::chat::OutputFormat;
use understudy::chat::grammar::GrammarError;

use super::cases::{CASES, Case};
use super::driver::{GRAMMARS, Walk, walk};

fn error_of(schema: &Value) -> GrammarError {
    GRAMMARS.of_format(&OutputFormat::JsonSchema(schema.clone())).expect_err("the schema cannot be held")
}

#[test]
fn a_schema_lets_through_what_is_valid() {
    let mut wrong = Vec::new();
    let mut texts = 0;
    for Case { schema, valid, invalid, stricter } in CASES {
        let schema: Value = serde_json::from_str(schema).expect("a case's schema is JSON");
        let judge = jsonschema::options().should_validate_formats(true).build(&schema).expect("a case's schema is one");
        let is_valid = |text: &str| serde_json::from_str(text).is_ok_and(|value: Value| judge.is_valid(&value));
        let constraint = GRAMMARS.of_format(&OutputFormat::JsonSchema(schema.clone()));
        let constraint = constraint.unwrap_or_else(|error| panic!("{schema}: {error}")).expect("a schema constrains");
        let mut check = |text: &str, accepted: bool, judged: bool| {
            texts += 1;
            let found = walk(&*constraint, text);
            if (found == Walk::Accepted) != accepted {
                wrong.push(format!("{schema}: {text}: {found:?}"));
            }
            if is_valid(text) != judged {
                wrong.push(format!("{schema}: the judge says otherwise of {text}"));
            }
        };
        valid.iter().for_each(|text| check(text, true, true));
        invalid.iter().for_each(|text| check(text, false, false));
        stricter.iter().for_each(|text| check(text, false, true));
    }
    assert!(wrong.is_empty(), "{} of {texts} texts:\n{}", wrong.len(), wrong.join("\n"));
    assert!(CASES.len() >= 120, "{} cases", CASES.len());
}

#[test]
fn what_cannot_be_held_is_named_with_its_place() {
    for (schema, pointer, word) in [
        (json!({"type": "object", "properties": {"a": {"not": {"type": "string"}}}}), "/properties/a/not", "`not`"),
        (json!({"type": "array", "uniqueItems": true}), "/uniqueItems", "`uniqueItems`"),
        (json!({"if": {"type": "string"}, "then": {"minLength": 1}}), "/if", "`if`"),
        (json!({"items": {"anyOf": [{"type": "null"}, {"contains": {}}]}}), "/items/anyOf/1/contains", "`contains`"),
        (json!({"properties": {"a/b~c": {"propertyNames": {"maxLength": 3}}}}), "/properties/a~1b~0c/propertyNames", "`propertyNames`"),
        (json!({"$defs": {"a": {"dependentRequired": {"b": ["c"]}}}}), "/$defs/a/dependentRequired", "`dependentRequired`"),
        (json!({"$ref": "https://example.org/schema"}), "/$ref", "`$ref` must point into the schema itself"),
        (json!({"type": "array", "minItems": 100_000}), "/minItems", "must be at most"),
        (json!({"type": "array", "minItems": 1.5}), "/minItems", "must be a whole number"),
        (json!({"items": 3}), "/items", "must be a schema"),
        (json!({"unevaluatedProperties": false}), "/unevaluatedProperties", "`unevaluatedProperties`"),
    ] {
        let message = error_of(&schema).to_string();
        assert!(message.contains(word) && message.contains(&format!("(at {pointer:?}")), "{schema}: {message}");
    }
}

#[test]
fn what_is_no_schema_is_refused() {
    for schema in [
        json!({"type": "strnig"}),
        json!({"type": 3}),
        json!({"enum": "a"}),
        json!({"$ref": "#/$defs/nowhere"}),
        json!({"type": "string", "pattern": "(?=a)b"}),
        json!({"type": "string", "pattern": "("}),
        json!({"type": "integer", "minimum": 3, "maximum": 2}),
        json!(false),
        json!({"type": "object", "required": ["a"], "properties": {"a": false}}),
    ] {
        let message = error_of(&schema).to_string();
        assert!(message.len() < 600, "{message}");
    }
}

/// Each would take for ever, or a stack, if nobody counted.
#[test]
fn hostile_schemas_are_refused_or_cheap() {
    let mut deep = json!({"type": "null"});
    for _ in 0..100 {
        deep = json!({"type": "array", "items": deep});
    }
    let wide: serde_json::Map<String, Value> = (0..30_000).map(|index| (format!("p{index}"), json!({"type": "string"}))).collect();
    let doubling = (0..40).fold(json!({"type": "string"}), |inner, _| json!({"anyOf": [inner, {"type": "integer"}]}));
    let defs: serde_json::Map<String, Value> = (0..60)
        .map(|index| {
            (
                format!("d{index}"),
                json!({"allOf": [{"$ref": format!("#/$defs/d{}", index + 1)}, {"$ref": format!("#/$defs/d{}", index + 1)}]}),
            )
        })
        .chain([("d60".to_owned(), json!({"type": "object", "properties": {"a": {"type": "string"}}}))])
        .collect();
    for schema in [
        deep,
        json!({"type": "object", "properties": wide}),
        doubling,
        json!({"$ref": "#/$defs/d0", "$defs": defs}),
        json!({"type": "string", "pattern": "^((a{1,200}){1,200}){1,200}$"}),
        json!({"type": "string", "pattern": "(a|b|ab)*(a|b|ab)*(a|b|ab)*c{500}d{0,900}"}),
        json!({"type": "string", "minLength": 1_000_000, "maxLength": 2_000_000}),
        json!({"type": "array", "items": {"type": "array", "minItems": 4000, "maxItems": 4000}, "minItems": 4000}),
        json!({"$ref": "#"}),
        json!({"anyOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}),
        json!({"enum": (0..19_000).map(|number| format!("choice number {number}")).collect::<Vec<_>>()}),
    ] {
        // Either is an answer; what matters is that there is one, and that a first mask can be had.
        if let Ok(Some(constraint)) = GRAMMARS.of_format(&OutputFormat::JsonSchema(schema)) {
            walk(&*constraint, "[");
        }
    }
}
