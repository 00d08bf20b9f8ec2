//! Whole arguments are judged as an independent judge of JSON schemas does it.

use serde_json::Value;
use understudy::chat::schema_check::fulfils;

use crate::grammar::cases::CASES;

#[test]
fn values_are_judged_as_by_an_independent_judge() {
    let mut wrong = Vec::new();
    for case in CASES {
        let schema: Value = serde_json::from_str(case.schema).expect("a case's schema is JSON");
        let judge = jsonschema::options().should_validate_formats(false).build(&schema).expect("a case's schema is one");
        for text in case.valid.iter().chain(case.invalid).chain(case.stricter) {
            let Ok(value) = serde_json::from_str::<Value>(text) else { continue };
            if fulfils(&schema, &value) != judge.is_valid(&value) {
                wrong.push(format!("{schema}: {text}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
