//! JSON schemas: what they let through, against the `jsonschema` crate.

use serde_json::json;
use understudy::chat::OutputFormat;

use super::driver::{GRAMMARS, Walk, walk};

#[test]
fn smoke() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}, "required": ["a"]});
    let constraint = GRAMMARS.of_format(&OutputFormat::JsonSchema(schema)).unwrap().unwrap();
    for (text, expected) in [
        ("{\"a\": 12, \"b\": \"x\"}", Walk::Accepted),
        ("{\"a\":12}", Walk::Accepted),
        ("{\n  \"a\": 12\n}", Walk::Accepted),
        ("{\"a\": 12", Walk::Unfinished),
        ("{\"a\": \"x\"}", Walk::StoppedAt(6)),
        ("{\"a\": 12} ", Walk::StoppedAt(9)),
    ] {
        assert_eq!(walk(&*constraint, text), expected, "{text}");
    }
}
