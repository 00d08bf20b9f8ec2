//! JSON schemas: what they let through. The texts are held against the `jsonschema` crate too, which knows nothing of grammars: what a
//! grammar accepts must be valid, and what is valid it must accept, but for what we forbid on purpose (`Case::stricter`).

use serde_json::{Value, json};
use understudy::chat::OutputFormat;
use understudy::chat::grammar::GrammarError;

use super::cases::{CASES, Case};
use super::driver::{GRAMMARS, Walk, walk};
use crate::support::random::Random;

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

/// Texts a byte or two beside valid ones, which no list of cases would hold.
#[test]
fn what_a_format_lets_through_is_valid() {
    // Each alternative of each format is there: what is not would not be missed.
    const FORMATS: [(&str, &[&str]); 10] = [
        (
            "date-time",
            &[
                "2024-02-29T23:59:59.5+02:00",
                "1999-12-31t00:00:00Z",
                "2000-02-29T10:49:58Z",
                "1900-02-28T01:01:01z",
                "2026-03-02T19:09:00-11:30",
            ],
        ),
        ("time", &["23:59:59.25Z", "00:00:00-23:59", "12:02:50.246067080-11:53", "09:10:11z", "19:20:30+00:00", "20:40:59.1+19:09"]),
        (
            "date",
            &[
                "2026-01-31",
                "2026-03-31",
                "2026-05-31",
                "2026-07-31",
                "2026-08-31",
                "2026-10-31",
                "2026-12-31",
                "2026-04-30",
                "2026-06-30",
                "2026-09-30",
                "2026-11-30",
                "2026-02-28",
                "2026-02-01",
                "2026-02-19",
                "2026-06-10",
                "2026-05-09",
                "1900-02-28",
                "2100-02-28",
                "2000-02-29",
                "1600-02-29",
                "2400-02-29",
                "0400-02-29",
                "2004-02-29",
                "2008-02-29",
                "2020-02-29",
                "2048-02-29",
                "1956-02-29",
                "1932-02-29",
                "1976-02-29",
                "1996-02-29",
                "2012-02-29",
            ],
        ),
        (
            "duration",
            &[
                "P1Y2M3DT4H5M6S",
                "PT1H",
                "P3W",
                "P1Y",
                "P1M2D",
                "P1Y2M",
                "P1M",
                "P4D",
                "PT1H2M",
                "PT1H2M3S",
                "PT2M",
                "PT2M3S",
                "PT3S",
                "P4DT1H",
                "P1YT1S",
            ],
        ),
        (
            "email",
            &[
                "ada@example.org",
                "ada.b+c@a-b.example.org",
                "x@y",
                "a.b.c@d",
                "a-b@x.org",
                "Z!#$%&'*+/=.?^_`{|}~-9@x.org",
                "abcdefghijklmnopqrst@x.org",
            ],
        ),
        ("hostname", &["a.example.org", "ab-cd.x", "xn-a.org", "a1-b2-c3", "A.B.C.D", "0", "abcdefghijklmnopqrstuvwxyz01234.org"]),
        ("ipv4", &["127.0.0.1", "255.255.255.255", "10.199.249.0"]),
        ("ipv6", &["::1", "2001:db8:0:0:0:0:0:1", "1::", "1:2:3::4:5", "::", "1:2:3:4:5:6:7::"]),
        ("uuid", &["123e4567-e89b-12d3-a456-426614174000"]),
        ("uri", &["https://example.org/a?b=c#d", "mailto:a@b.org", "file:///a%20b", "http://[::1]:80/", "urn:isbn:1"]),
    ];
    const EACH: u64 = 250;
    let mut random = Random(17);
    let (mut wrong, mut accepted) = (Vec::new(), 0);
    for (format, texts) in FORMATS {
        let schema = json!({"type": "string", "format": format});
        let judge = jsonschema::options().should_validate_formats(true).build(&schema).expect("a schema");
        let constraint = GRAMMARS.of_format(&OutputFormat::JsonSchema(schema)).expect("it can be held").expect("it constrains");
        for text in texts {
            let text = json!(text).to_string();
            assert_eq!(walk(&*constraint, &text), Walk::Accepted, "{format}: {text}");
            assert!(judge.is_valid(&serde_json::from_str(&text).expect("JSON")), "{format}: {text}");
        }
        for round in 0..EACH {
            let mut text = texts[(round % texts.len() as u64) as usize].as_bytes().to_vec();
            for _ in 0..random.below(3) {
                beside(&mut random, &mut text);
            }
            let text = json!(String::from_utf8(text).expect("ASCII")).to_string();
            let found = walk(&*constraint, &text) == Walk::Accepted;
            accepted += u64::from(found);
            if found && !judge.is_valid(&serde_json::from_str(&text).expect("JSON")) {
                wrong.push(format!("{format}: {text}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {accepted}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(accepted > EACH * 4, "only {accepted} accepted");
}

/// Changes a byte, doubles one, or leaves one out.
fn beside(random: &mut Random, text: &mut Vec<u8>) {
    const BYTES: &[u8] = b"0123456789069-:.+@/%aZTzPx[] ";
    let at = random.below(text.len().max(1) as u64) as usize;
    let byte = BYTES[random.below(BYTES.len() as u64) as usize];
    match random.below(4) {
        _ if text.is_empty() => text.push(byte),
        0 => text.insert(at, text[at]),
        1 => drop(text.remove(at)),
        _ => text[at] = byte,
    }
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
