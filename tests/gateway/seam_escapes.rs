//! Arguments whose characters stand as escapes, cut after every byte: half a pair, half an escape, in names and in values. What is gone on
//! with is one JSON text that the schema allows, and what stood in it already is what it was.

use serde_json::{Value, json};
use understudy::chat::begun::BegunPiece;
use understudy::chat::{Conversation, Event, Request, ToolDefinition};

use super::seam::{asking, call, events, going_on, piece, request, rest_of_call};
use crate::support::built_in::BuiltIn;
use crate::support::random::Random;

/// All forms of an escape, in names too; nothing of it is plain.
const ARGUMENTS: &str = concat!(
    r#"{"p\u0061th": "Zo\u00eb \ud834\uDD1E\/\u0000\u001f\u007F \"q\" \\\n\t", "\u006cimit": 12, "#,
    r#""\u0075nit": "m\u0065tric", "list": ["\u0041\ud83d\ude00", "\\u00e9"], "note": "\u00e9\u00c9"}"#
);

fn conversation(schema: &Value) -> Conversation {
    let tool = ToolDefinition { name: "read".into(), description: None, parameters: Some(schema.clone()), strict: false };
    Conversation { tools: vec![tool], ..asking("Read it.") }
}

fn schemas() -> [Value; 3] {
    let properties = json!({
        "path": {"type": "string"}, "limit": {"type": "integer"}, "unit": {"enum": ["metric", "imperial"]},
        "list": {"type": "array", "items": {"type": "string"}}, "note": {"type": "string"}
    });
    let open = json!({"type": "object", "properties": properties, "required": ["path", "limit", "unit"]});
    let mut closed = open.clone();
    closed["additionalProperties"] = json!(false);
    let mut bounded = closed.clone();
    bounded["properties"]["path"] = json!({"type": "string", "maxLength": 30});
    bounded["properties"]["note"] = json!({"type": "string", "pattern": "^[\u{c9}\u{e9}a-z]{0,8}$"});
    [open, closed, bounded]
}

fn model() -> BuiltIn {
    BuiltIn::scripted("[default]\ncalls = [{ tool = 'read', arguments = { path = 'a', limit = 1, unit = 'metric' } }]\n")
}

fn cut(schema: &Value, arguments: &str) -> Request {
    let pieces: Vec<BegunPiece> = vec![piece(call("read", arguments), true)];
    Request { tokens_max: Some(400), ..going_on(&request(conversation(schema)), pieces) }
}

/// The whole, as the client has it.
#[track_caller]
fn whole(schema: &Value, begun: &str, events: &[Event]) -> Value {
    assert!(!matches!(events.last(), Some(Event::Failed(_))), "{begun}: {events:?}");
    let json = [begun, &rest_of_call(events, 0)].concat();
    let value: Value = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}"));
    let judge = jsonschema::validator_for(schema).expect("a schema");
    assert!(judge.is_valid(&value), "{json}");
    value
}

/// Values behind which a comma stands are as they were.
fn check_what_stood(original: &Value, begun: &str, value: &Value) {
    for name in ["path", "limit", "unit"].into_iter().take(begun.matches(',').count()) {
        assert_eq!(value[name], original[name], "{name} in {begun}");
    }
}

#[test]
fn arguments_with_escapes_go_on_from_every_byte() {
    let mut model = model();
    let original: Value = serde_json::from_str(ARGUMENTS).expect("they are JSON");
    for schema in schemas() {
        let requests: Vec<Request> = (0..=ARGUMENTS.len()).map(|at| cut(&schema, &ARGUMENTS[..at])).collect();
        for (at, events) in events(&mut model, &requests).iter().enumerate() {
            let value = whole(&schema, &ARGUMENTS[..at], events);
            check_what_stood(&original, &ARGUMENTS[..at], &value);
        }
    }
}

/// One string, each character in one of the ways in which JSON may have it.
fn written(text: &str, random: &mut Random) -> String {
    let mut out = String::from("\"");
    for character in text.chars() {
        let short = match character {
            '"' | '\\' | '/' => Some(character),
            '\n' => Some('n'),
            '\t' => Some('t'),
            _ => None,
        };
        let must = matches!(character, '"' | '\\') || character.is_control();
        match (random.below(3), short) {
            (0, Some(short)) => out.extend(['\\', short]),
            (1, _) if !must => out.push(character),
            (way, _) => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    out += &if way == 2 { format!("\\u{unit:04X}") } else { format!("\\u{unit:04x}") };
                }
            }
        }
    }
    out + "\""
}

/// Whatever is written, and however, and wherever it is cut.
#[test]
fn any_writing_of_arguments_goes_on() {
    const CHARACTERS: [char; 14] =
        ['a', 'Z', ' ', '"', '\\', '/', '\n', '\t', '\u{1}', '\u{7f}', '\u{eb}', '\u{65e5}', '\u{1d11e}', '\u{1f600}'];
    let mut model = model();
    for seed in 0..6 {
        let mut random = Random(seed);
        let mut cuts = Vec::new();
        for _ in 0..32 {
            let [path, note] = [0, 1]
                .map(|_| -> String { (0..random.below(8)).map(|_| CHARACTERS[random.below(CHARACTERS.len() as u64) as usize]).collect() });
            let mut fields = [("path", json!(path)), ("limit", json!(7)), ("unit", json!("imperial")), ("note", json!(note))];
            fields.rotate_left(random.below(4) as usize);
            let text = |value: &Value, random: &mut Random| value.as_str().map_or_else(|| value.to_string(), |text| written(text, random));
            let fields: Vec<String> =
                fields.iter().map(|(name, value)| format!("{}: {}", written(name, &mut random), text(value, &mut random))).collect();
            let arguments = format!("{{{}}}", fields.join(", "));
            let ends: Vec<usize> = (0..=arguments.len()).filter(|&at| arguments.is_char_boundary(at)).collect();
            cuts.push(arguments[..ends[random.below(ends.len() as u64) as usize]].to_owned());
        }
        let [open, closed, _] = schemas();
        let schema = if seed % 2 == 0 { open } else { closed };
        let requests: Vec<Request> = cuts.iter().map(|begun| cut(&schema, begun)).collect();
        for (begun, events) in cuts.iter().zip(events(&mut model, &requests)) {
            assert!(!matches!(events.last(), Some(Event::Failed(_))), "seed {seed}: {begun}: {events:?}");
            whole(&schema, begun, &events);
        }
    }
}
