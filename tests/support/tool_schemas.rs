//! Schemas of tools' arguments as they might come, out of a seed: every keyword that a grammar holds, nested, and so bounded that even a
//! model which writes at random comes to an end.

use serde_json::{Map, Value, json};

use super::random::Random;

const FORMATS: [&str; 9] = ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"];

/// An object's schema.
pub fn tool_schema(random: &mut Random) -> Value {
    object(random, 0)
}

fn object(random: &mut Random, depth: u64) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for _ in 0..random.between(u64::from(depth == 0), 4) {
        let name = name(random);
        if random.chance(600) && !properties.contains_key(&name) {
            required.push(name.clone());
        }
        properties.insert(name, value(random, depth + 1));
    }
    let mut schema = json!({"type": "object", "properties": properties, "required": required});
    if random.chance(500) {
        schema["additionalProperties"] = json!(false);
    }
    if random.chance(300) {
        schema["description"] = json!("what it is for");
    }
    schema
}

fn value(random: &mut Random, depth: u64) -> Value {
    let kinds = if depth < 3 { 12 } else { 8 };
    match random.below(kinds) {
        0 => string(random),
        1 => integer(random),
        2 => json!({"type": "boolean"}),
        3 => json!({"enum": (0..random.between(1, 5)).map(|_| literal(random)).collect::<Vec<_>>()}),
        4 => json!({"const": literal(random)}),
        5 => json!({"type": "null"}),
        6 => json!({"type": ["boolean", "null"], "default": null}),
        7 => json!({"type": "string", "format": pick(random, &FORMATS)}),
        8 => object(random, depth),
        9 => json!({"anyOf": [value(random, depth + 1), {"type": "null"}]}),
        _ => array(random, depth),
    }
}

fn string(random: &mut Random) -> Value {
    match random.below(3) {
        0 => {
            json!({"type": "string", "pattern": pick(random, &["^[a-z]{1,8}$", "^(GET|PUT|POST)$", "^\\d{2,4}(-[A-F]{2})?$", "^/[a-z/]{0,9}$"])})
        }
        1 => json!({"type": "string", "minLength": random.below(4), "maxLength": random.between(4, 12)}),
        _ => json!({"type": "string", "maxLength": random.below(9)}),
    }
}

fn integer(random: &mut Random) -> Value {
    let low = random.below(2_000) as i64 - 1_000;
    let mut schema = json!({"type": "integer", "minimum": low, "maximum": low + random.between(0, 5_000) as i64});
    if random.chance(200) {
        schema = json!({"type": "integer", "multipleOf": random.between(1, 9), "minimum": 0, "maximum": 100});
    }
    schema
}

fn array(random: &mut Random, depth: u64) -> Value {
    let least = random.below(3);
    json!({"type": "array", "items": value(random, depth + 1), "minItems": least, "maxItems": least + random.between(1, 2)})
}

fn literal(random: &mut Random) -> Value {
    match random.below(4) {
        0 => json!(random.below(1_000)),
        1 => json!(random.chance(500)),
        2 => json!(name(random)),
        _ => json!(pick(random, &["", "a \"quoted\" word", "two\nlines", "</tool_call>", "é😀"])),
    }
}

fn name(random: &mut Random) -> String {
    const NAMES: [&str; 10] = ["path", "file_path", "query", "limit", "a b", "type", "Größe", "x-1", "options", "$ref"];
    pick(random, &NAMES).to_owned()
}

fn pick(random: &mut Random, texts: &[&'static str]) -> &'static str {
    texts[random.below(texts.len() as u64) as usize]
}
