//! Every format against a template of its own, its hand-written oddities, and random arguments cut anywhere.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::call_reader::{CallReader, Piece, push_piece};
use super::tagged_values::{ValueKind, kind_of};
use super::*;
use crate::chat::chat_template::ChatTemplate;
use crate::chat::control_text::ControlText;
use crate::chat::{Conversation, Message, Role, ToolCall};

/// How the models' own templates write calls into the history, in small: the same texts, everything else left out.
const TEMPLATES: &[(&str, &str)] = &[
    (
        "hermes",
        r#"{% for m in messages %}{% for c in m.tool_calls %}{{ '' if loop.first else '\n' }}<tool_call>{{ '\n{"name": "' + c.function.name + '", "arguments": ' }}{{ c.function.arguments | tojson }}{{ '}\n' }}</tool_call>{% endfor %}{% endfor %}"#,
    ),
    (
        "qwen3-coder",
        r#"{% for m in messages %}{% for c in m.tool_calls %}{{ '\n<tool_call>\n<function=' + c.function.name + '>\n' }}{% for k, v in c.function.arguments | items %}{{ '<parameter=' + k + '>\n' }}{{ v if v is string else v | tojson }}{{ '\n</parameter>\n' }}{% endfor %}{{ '</function>\n</tool_call>' }}{% endfor %}{% endfor %}"#,
    ),
    (
        "glm 4.5",
        r#"{% for m in messages %}{% for c in m.tool_calls %}{{ '\n<tool_call>' + c.function.name }}{{ '\n' }}{% for k, v in c.function.arguments | items %}<arg_key>{{ k }}</arg_key>{{ '\n' }}<arg_value>{{ v if v is string else v | tojson }}</arg_value>{{ '\n' }}{% endfor %}</tool_call>{% endfor %}{% endfor %}"#,
    ),
    (
        "glm 4.7",
        r#"{% for m in messages %}{% for c in m.tool_calls %}<tool_call>{{ c.function.name }}{% for k, v in c.function.arguments | items %}<arg_key>{{ k }}</arg_key><arg_value>{{ v if v is string else v | tojson }}</arg_value>{% endfor %}</tool_call>{% endfor %}{% endfor %}"#,
    ),
    (
        "llama 3",
        r#"{# <|start_header_id|> #}{% for m in messages %}{% for c in m.tool_calls %}{{ '' if loop.first else '; ' }}{{ '{"name": "' + c.function.name + '", "parameters": ' }}{{ c.function.arguments | tojson }}}{% endfor %}{% endfor %}"#,
    ),
    (
        "mistral's lists",
        r#"{% for m in messages %}[TOOL_CALLS][{% for c in m.tool_calls %}{{ '' if loop.first else ', ' }}{{ '{"name": "' + c.function.name + '", "arguments": ' }}{{ c.function.arguments | tojson }}, "id": "{{ c.id }}"}{% endfor %}]{% endfor %}"#,
    ),
    (
        "mistral",
        r#"{% for m in messages %}{% for c in m.tool_calls %}[TOOL_CALLS]{{ c.function.name }}[ARGS]{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}"#,
    ),
    (
        "harmony",
        r#"{% for m in messages %}{% for c in m.tool_calls %}<|channel|>commentary to=functions.{{ c.function.name }} <|constrain|>json<|message|>{{ c.function.arguments | tojson }}<|call|>{% endfor %}{% endfor %}"#,
    ),
    (
        "gemma 4",
        r#"{% macro value(v) %}{% if v is string %}<|"|>{{ v }}<|"|>{% elif v is mapping %}{{ '{' }}{% for k, w in v | items %}{{ '' if loop.first else ',' }}{{ k }}:{{ value(w) }}{% endfor %}{{ '}' }}{% elif v is sequence %}[{% for w in v %}{{ '' if loop.first else ',' }}{{ value(w) }}{% endfor %}]{% else %}{{ v | tojson }}{% endif %}{% endmacro %}{% for m in messages %}{% for c in m.tool_calls %}<|tool_call>call:{{ c.function.name }}{{ value(c.function.arguments) }}<tool_call|>{% endfor %}{% endfor %}"#,
    ),
    (
        "deepseek v3",
        r#"{% for m in messages %}{% for c in m.tool_calls %}{{ '<｜tool▁calls▁begin｜>' if loop.first else '\n' }}<｜tool▁call▁begin｜>function<｜tool▁sep｜>{{ c.function.name }}{{ '\n```json\n' }}{{ c.function.arguments | tojson }}{{ '\n```' }}<｜tool▁call▁end｜>{% endfor %}<｜tool▁calls▁end｜>{% endfor %}"#,
    ),
    (
        "deepseek v3.1",
        r#"{% for m in messages %}<｜tool▁calls▁begin｜>{% for c in m.tool_calls %}<｜tool▁call▁begin｜>{{ c.function.name }}<｜tool▁sep｜>{{ c.function.arguments | tojson }}<｜tool▁call▁end｜>{% endfor %}<｜tool▁calls▁end｜>{% endfor %}"#,
    ),
    (
        "granite",
        r#"{% for m in messages %}<|tool_call|>[{% for c in m.tool_calls %}{{ '' if loop.first else ', ' }}{{ {'name': c.function.name, 'arguments': c.function.arguments} | tojson }}{% endfor %}]{% endfor %}"#,
    ),
    (
        "phi-4",
        r#"{% for m in messages %}<|tool_call|>[{% for c in m.tool_calls %}{{ '' if loop.first else ', ' }}{{ {'name': c.function.name, 'arguments': c.function.arguments} | tojson }}{% endfor %}]<|/tool_call|>{% endfor %}"#,
    ),
    (
        "lfm2",
        r#"{% for m in messages %}<|tool_call_start|>[{% for c in m.tool_calls %}{{ '' if loop.first else ', ' }}{{ c.function.name }}({% for k, v in c.function.arguments | items %}{{ '' if loop.first else ', ' }}{{ k }}={{ v | tojson }}{% endfor %}){% endfor %}]<|tool_call_end|>{% endfor %}"#,
    ),
    (
        "tool_code",
        r#"{% for m in messages %}```tool_code{{ '\n' }}{% for c in m.tool_calls %}{{ c.function.name }}({% for k, v in c.function.arguments | items %}{{ '' if loop.first else ', ' }}{{ k }}={{ v | tojson }}{% endfor %}){{ '\n' }}{% endfor %}```{% endfor %}"#,
    ),
];

fn tool(name: &str, properties: Value) -> ToolDefinition {
    let parameters = Some(json!({"type": "object", "properties": properties, "required": ["city"]}));
    ToolDefinition { name: name.into(), description: None, parameters, strict: false }
}

fn tools() -> Arc<[ToolDefinition]> {
    let properties = json!({"city": {"type": "string"}, "days": {"type": "integer"}, "deep": {"type": "object"}, "list": {"type": "array"},
        "on": {"type": "boolean"}, "maybe": {"type": ["string", "null"]}, "either": {"anyOf": [{"type": "number"}, {"type": "string"}]}});
    Arc::new([tool("weather", properties.clone()), tool("f", properties), tool("now", json!({}))])
}

fn format(name: &str) -> &'static dyn ToolFormat {
    let source = TEMPLATES.iter().find(|(other, _)| *other == name).map(|(_, source)| *source);
    let format = of_template(source.unwrap_or(name)).expect("the template shows its format");
    assert_eq!(format.name(), name, "the format is read off the template");
    format
}

fn read(format: &'static dyn ToolFormat, chunks: &[&str]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut reader = CallReader::new(format, tools());
    for chunk in chunks {
        reader.push(chunk, &mut pieces);
    }
    reader.finish(&mut pieces);
    let mut joined = Vec::new();
    pieces.into_iter().for_each(|piece| push_piece(piece, &mut joined));
    joined
}

/// The pieces of `text`, the same however it is cut.
#[track_caller]
fn check(format_name: &str, text: &str) -> Vec<Piece> {
    let format = format(format_name);
    let whole = read(format, &[text]);
    for size in [1, 2, 3, 5, 7, 16] {
        let characters: Vec<char> = text.chars().collect();
        let chunks: Vec<String> = characters.chunks(size).map(|chunk| chunk.iter().collect()).collect();
        let cut = read(format, &chunks.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(cut, whole, "{format_name}: {text:?} cut into pieces of {size}");
    }
    whole
}

fn call(name: &str, arguments: &str) -> Vec<Piece> {
    vec![Piece::CallStarted { name: name.into() }, Piece::Arguments(arguments.into()), Piece::CallEnded]
}

fn text(text: &str) -> Vec<Piece> {
    vec![Piece::Text(text.into())]
}

fn calls_of(pieces: &[Piece]) -> Vec<(String, String)> {
    let mut calls: Vec<(String, String)> = Vec::new();
    for piece in pieces {
        match piece {
            Piece::CallStarted { name } => calls.push((name.clone(), String::new())),
            Piece::Arguments(json) => calls.last_mut().expect("a call has started").1.push_str(json),
            Piece::CallEnded | Piece::Text(_) => {}
        }
    }
    calls
}

fn rendered(template: &str, calls: &[(&str, &Value)]) -> String {
    let tool_calls = calls.iter().enumerate().map(|(index, (name, arguments))| ToolCall {
        id: format!("call{index:05}"),
        name: (*name).into(),
        arguments: arguments.to_string(),
    });
    let message = Message { tool_calls: tool_calls.collect(), ..Message::text(Role::Assistant, "") };
    let conversation = Conversation { messages: vec![message], ..Conversation::default() };
    let template = ChatTemplate::new(Some(template), None, None, None).expect("the template parses");
    template.render(&conversation, &ControlText::new(vec![]), 0).expect("the template accepts calls").text
}

#[track_caller]
fn check_round_trip(name: &str, template: &str, calls: &[(&str, &Value)]) {
    let text = rendered(template, calls);
    let pieces = check(name, &text);
    let read: Vec<(String, Value)> = calls_of(&pieces)
        .into_iter()
        .map(|(name, arguments)| (name, serde_json::from_str(&arguments).unwrap_or_else(|error| panic!("{error}: {arguments}\nof {text}"))))
        .collect();
    let expected: Vec<(String, Value)> = calls.iter().map(|(name, arguments)| ((*name).to_owned(), (*arguments).clone())).collect();
    assert_eq!(read, expected, "{name}: {text}");
    assert!(!pieces.iter().any(|piece| matches!(piece, Piece::Text(_))), "{name}: {text:?} leaves text: {pieces:?}");
}

#[test]
fn what_a_template_writes_is_read_back() {
    let arguments = json!({"city": "Zürich \"x\"\n\\n <b>{[", "days": -3, "deep": {"a": [1, {"b": null}], "c": {}}, "list": [], "on": true,
        "maybe": "007", "either": 2.5});
    let empty = json!({});
    for (name, template) in TEMPLATES {
        check_round_trip(name, template, &[("weather", &arguments)]);
        // A harmony call ends the turn.
        if *name != "harmony" {
            check_round_trip(name, template, &[("weather", &arguments), ("now", &empty), ("f", &json!({"city": ""}))]);
        }
    }
}

/// Any JSON, but for texts that the tagged formats cannot say: those that hold a closing tag.
fn json_value() -> impl Strategy<Value = Value> {
    let text = "[ -~éß東😀\n\t\\\\\"'{}\\[\\]]{0,12}".prop_map(|text| text.replace("</", "<"));
    let leaf =
        prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), any::<i32>().prop_map(Value::from), text.prop_map(Value::from)];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(("[a-z_]{1,6}", inner), 0..4).prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

#[test]
fn random_arguments_survive() {
    let text = "[ -~éß東😀\n\t\\\\\"'{}\\[\\]]{0,24}".prop_map(|text| text.replace("</", "<"));
    let fields = (text, any::<i32>(), json_value(), prop::collection::vec(json_value(), 0..3), any::<bool>());
    proptest!(ProptestConfig::with_cases(24), |((city, days, deep, list, on) in fields)| {
        let arguments = json!({"city": city, "days": days, "deep": {"value": deep}, "list": list, "on": on});
        for (name, template) in TEMPLATES {
            check_round_trip(name, template, &[("weather", &arguments)]);
        }
    });
}

#[test]
fn the_syntax_that_a_grammar_is_made_of_is_read_back() {
    let tools = tools();
    let arguments = r#"{"city": "Oslo", "days": 2}"#;
    for (name, _) in TEMPLATES {
        let format = format(name);
        let frame = format.frame();
        let write = |pieces: &[CallPiece]| -> String { pieces.iter().map(|piece| written(piece, arguments)).collect() };
        let call = write(&format.call_syntax(&tools[0]));
        let mut reply = write(&frame.open) + &call;
        if frame.several {
            reply += &(write(&frame.between) + &call);
        }
        reply += &write(&frame.close);
        let calls = calls_of(&check(name, &reply));
        assert_eq!(calls.len(), if frame.several { 2 } else { 1 }, "{name}: {reply}");
        for (called, read) in calls {
            let read: Value = serde_json::from_str(&read).unwrap_or_else(|error| panic!("{name}: {error}: {read}"));
            assert_eq!((called.as_str(), &read["city"]), ("weather", &json!("Oslo")), "{name}: {reply}");
        }
        assert!(format.openings().iter().any(|opening| reply.starts_with(opening)) || format.begins_bare(), "{name}: {reply}");
    }
}

/// One text that the piece allows.
fn written(piece: &CallPiece, arguments: &str) -> String {
    match piece {
        CallPiece::Marker(text) => (*text).to_owned(),
        CallPiece::Literal(text) | CallPiece::Name(text) => text.clone(),
        CallPiece::Json(schema) if schema["type"] == "object" && schema.get("properties").is_some() => arguments.to_owned(),
        CallPiece::Json(schema) if schema["type"] == "string" => "\"Oslo\"".to_owned(),
        CallPiece::Json(_) => "1".to_owned(),
        // Gemma's notation is not in the grammar, but as text.
        CallPiece::TextUntil(stop) if stop == "}<tool_call|>" => "city:<|\"|>Oslo<|\"|>".to_owned(),
        CallPiece::TextUntil(_) => "Oslo".to_owned(),
        CallPiece::Either(ways) => ways[0].iter().map(|piece| written(piece, arguments)).collect(),
        CallPiece::Optional(_) | CallPiece::Repeated(_) => String::new(),
    }
}

#[test]
fn a_forced_call_begins_as_far_as_all_tools_agree() {
    let tools = tools();
    let both: Vec<&ToolDefinition> = tools.iter().collect();
    let beginning = |name: &str, tools: &[&ToolDefinition]| -> String {
        shared_beginning(format(name), tools).iter().map(|piece| written(piece, "")).collect()
    };
    for (name, one, all) in [
        ("hermes", "<tool_call>\n{\"name\": \"weather\", \"arguments\": ", "<tool_call>\n{\"name\": \""),
        ("qwen3-coder", "<tool_call>\n<function=weather>\n<parameter=city>\n", "<tool_call>\n<function="),
        ("mistral", "[TOOL_CALLS]weather[ARGS]", "[TOOL_CALLS]"),
        ("llama 3", "{\"name\": \"weather\", \"parameters\": ", "{\"name\": \""),
    ] {
        assert_eq!((beginning(name, &both[..1]).as_str(), beginning(name, &both).as_str()), (one, all), "{name}");
    }
}

#[test]
fn calls_and_text() {
    assert_eq!(check("hermes", "hello <b> world \n"), text("hello <b> world \n"));
    assert_eq!(
        check("hermes", "Let me see.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"b\": 1, \"a\": \"é\"}}\n</tool_call>\n"),
        [text("Let me see."), call("f", "{\"b\": 1, \"a\": \"é\"}")].concat()
    );
    let row = "<tool_call>{\"name\":\"f\"}</tool_call>\n<tool_call>{\"name\":\"g\",\"arguments\":\"{\\\"x\\\":2}\"}</tool_call> done";
    assert_eq!(check("hermes", row), [call("f", "{}"), call("g", "{\"x\":2}"), text(" done")].concat());
    // Several in one pair of tags, as some models do.
    for inner in ["{\"name\":\"f\"}\n{\"name\":\"g\"}", "[{\"name\":\"f\"}, {\"name\":\"g\"}]"] {
        assert_eq!(check("hermes", &format!("<tool_call>{inner}</tool_call>")), [call("f", "{}"), call("g", "{}")].concat());
    }
}

#[test]
fn a_closing_tag_in_a_string_closes_nothing() {
    let arguments = "{\"text\":\"a \\\" </tool_call> b\"}";
    assert_eq!(
        check("hermes", &format!("<tool_call>{{\"name\":\"write\",\"arguments\":{arguments}}}</tool_call>")),
        call("write", arguments)
    );
}

#[test]
fn what_is_no_call_stays_text() {
    for (name, no_call) in [
        ("hermes", "<tool_call>not json</tool_call> after"),
        ("hermes", "<tool_call>{\"name\": 3}</tool_call>"),
        ("hermes", "<tool_call>{\"arguments\": {}}</tool_call>"),
        ("hermes", "<tool_call>{\"name\": \"f\", \"arguments\": [1]}</tool_call>"),
        ("hermes", "<tool_call>{\"name\": \"f\", \"arguments\": \"[1]\"}</tool_call>"),
        ("hermes", "<tool_call>{\"name\": \"f\", \"arguments\": \"{} {}\"}</tool_call>"),
        ("hermes", "<tool_call>{\"name\": \"f\",}</tool_call>"),
        ("hermes", "<tool_call>{\"name\" \"f\"}</tool_call>"),
        ("hermes", "a <tool_call>{\"name\": \"f\", \"arguments\": "),
        ("hermes", "a <tool_cal"),
        ("hermes", "<tool_call>"),
        ("hermes", "<tool_call><tool_call>"),
        ("qwen3-coder", "<tool_call>\n{\"name\": \"f\"}\n</tool_call>"),
        ("qwen3-coder", "in C++ <function=of two words>"),
        ("qwen3-coder", "<tool_call>\n<function=f"),
        ("glm 4.5", "<tool_call>{\"name\": \"f\"}</tool_call>"),
        ("glm 4.5", "<tool_call></tool_call>"),
        ("llama 3", "{\"name\": \"nobody\", \"parameters\": {\"a\": 1}}"),
        ("llama 3", "{\"answer\": 42}"),
        ("llama 3", "Call {\"name\": \"f\", \"parameters\": {}}"),
        ("llama 3", "<|python_tag|>brave_search.call(query=\"x\")"),
        ("mistral", "[TOOL_CALLS] of several words"),
        ("mistral", "[TOOL_CALLS]f[ARGS]words"),
        ("mistral's lists", "[TOOL_CALLS][1, 2]"),
        ("deepseek v3", "<｜tool▁calls▁begin｜>words\nand lines"),
        ("deepseek v3", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\nno block"),
        ("harmony", "<|channel|>commentary<|message|>words"),
        ("gemma 4", "<|tool_call>say:f{}<tool_call|>"),
        ("gemma 4", "<|tool_call>call:f"),
        ("tool_code", "```tool_code\nx = f(1) + 2\n```"),
        ("tool_code", "```tool_code\nf(city=other)\n```"),
        ("lfm2", "<|tool_call_start|>[f(city="),
    ] {
        assert_eq!(check(name, no_call), text(no_call), "{name}");
    }
}

#[test]
fn a_call_that_breaks_off_ends_where_it_is() {
    for (name, broken, arguments) in [
        ("hermes", "<tool_call>{\"name\": \"f\", \"arguments\": {\"city\": \"Os", "{\"city\": \"Os"),
        ("hermes", "<tool_call>{\"name\": \"f\", \"arguments\": {\"city\": \"Oslo\"}", "{\"city\": \"Oslo\"}"),
        ("hermes", "<tool_call>{\"name\": \"f\", \"arguments\": {\"city\": \"Oslo\"}}\n</tool_c", "{\"city\": \"Oslo\"}"),
        ("qwen3-coder", "<function=f>\n<parameter=city>\nOslo\n<", "{\"city\": \"Oslo\\n"),
        ("qwen3-coder", "<function=f>\n<parameter=days>\n12", "{\"days\": 12"),
        ("glm 4.5", "<tool_call>f\n<arg_key>city</arg_key>\n<arg_value>Os", "{\"city\": \"Os"),
        ("mistral", "[TOOL_CALLS]f[ARGS]{\"city\": [1, ", "{\"city\": [1, "),
        ("llama 3", "{\"name\": \"f\", \"parameters\": {\"city\": {", "{\"city\": {"),
        ("gemma 4", "<|tool_call>call:f{city:<|\"|>Os", "{\"city\": \"Os"),
        ("deepseek v3.1", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"city\"", "{\"city\""),
        ("harmony", "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"city\": 1", "{\"city\": 1"),
    ] {
        assert_eq!(check(name, broken), call("f", arguments), "{name}: {broken}");
    }
}

#[test]
fn what_follows_a_call_and_is_no_end_is_text() {
    for (name, reply, arguments, rest) in [
        ("hermes", "<tool_call>{\"name\": \"f\", \"arguments\": {}} {} </tool_call>", "{}", None),
        ("hermes", "<tool_call>{\"name\": \"f\", \"arguments\": {}}}</tool_call> x", "{}", Some("}</tool_call> x")),
        ("hermes", "<tool_call>{\"name\": \"f\", \"arguments\": {} junk}</tool_call>", "{}", Some(" junk}</tool_call>")),
        ("qwen3-coder", "<function=f>\n</function> Done.", "{}", Some(" Done.")),
        ("glm 4.7", "<tool_call>f<arg_key>city</arg_key><arg_value>x</arg_value>junk", "{\"city\": \"x\"", Some("junk")),
        ("mistral", "[TOOL_CALLS]f[ARGS]{} So.", "{}", Some(" So.")),
        ("llama 3", "{\"name\": \"f\", \"parameters\": {}}\nThat was it.", "{}", Some("\nThat was it.")),
    ] {
        let pieces = check(name, reply);
        assert_eq!(pieces[..3], call("f", arguments)[..], "{name}: {reply}");
        match rest {
            Some(rest) => assert_eq!(pieces[3..], text(rest)[..], "{name}: {reply}"),
            None => assert!(pieces.len() > 3, "{name}: {reply}: what follows is not lost"),
        }
    }
}

#[test]
fn arguments_are_as_the_model_wrote_them() {
    for written in [
        r#"{"id": 123456789012345678901234567890, "x": 1e400, "y": -0.10}"#,
        r#"{"x":1,"x":2}"#,
        "{ \"deep\" : {\n\t\"list\": [ 1, {} , [\"\\u00e9\\n\"] ] } }",
        "{}",
    ] {
        let (name, arguments) = (r#""name": "f""#, format!(r#""arguments": {written}"#));
        for body in [
            format!("{{{name}, {arguments}}}"),
            format!("\n{{ {arguments} , \"id\": 7, {name} }}\n"),
            format!("{{{name}, \"id\": null, {arguments}, \"z\": [{{}}]}}"),
        ] {
            assert_eq!(check("hermes", &format!("<tool_call>{body}</tool_call>")), call("f", written));
        }
        let as_text = Value::from(format!(" {written}\n"));
        assert_eq!(check("hermes", &format!("<tool_call>{{{name},\"parameters\":{as_text}}}</tool_call>")), call("f", written));
        assert_eq!(check("mistral", &format!("[TOOL_CALLS]f[CALL_ID]abc123[ARGS]{written}")), call("f", written));
        assert_eq!(
            check("harmony", &format!("<|start|>assistant to=functions.f<|channel|>commentary json<|message|>{written}<|call|>")),
            call("f", written)
        );
    }
}

#[test]
fn a_call_is_told_while_it_comes() {
    for (name, chunks, told) in [
        ("hermes", ["<tool_call>{\"name\": \"f\", \"arguments\": {", "\"city\": \"Os"], ["{", "\"city\": \"Os"]),
        ("qwen3-coder", ["<function=f>\n<parameter=city>\nOs", "lo"], ["{\"city\": \"Os", "lo"]),
        ("mistral", ["[TOOL_CALLS]f[ARGS]{\"ci", "ty\""], ["{\"ci", "ty\""]),
        ("gemma 4", ["<|tool_call>call:f{city:<|\"|>Os", "lo"], ["{\"city\": \"Os", "lo"]),
    ] {
        let mut reader = CallReader::new(format(name), tools());
        for (chunk, told) in chunks.into_iter().zip(told) {
            let mut pieces = Vec::new();
            reader.push(chunk, &mut pieces);
            assert_eq!(pieces.last(), Some(&Piece::Arguments(told.into())), "{name}: {chunk}");
            assert!(reader.is_in_call() && reader.held_bytes() == 0);
        }
    }
}

#[test]
fn text_is_text_and_the_rest_is_json() {
    let tools = tools();
    for (parameter, kind) in [
        ("city", ValueKind::Text),
        ("days", ValueKind::Json),
        ("maybe", ValueKind::Either),
        ("either", ValueKind::Either),
        ("unheard_of", ValueKind::Text),
    ] {
        assert_eq!(kind_of(Some(&tools[0]), parameter), kind, "{parameter}");
    }
    let schema = json!({"type": "object", "$defs": {"name": {"type": "string"}, "loop": {"$ref": "#/$defs/loop"}}, "properties": {
        "a": {"$ref": "#/$defs/name"}, "b": {"$ref": "#/$defs/loop"}, "c": {"enum": ["x", "y"]}, "d": {"const": 3}, "e": {}}});
    let tool = ToolDefinition { name: "f".into(), description: None, parameters: Some(schema), strict: false };
    let kinds = ["a", "b", "c", "d", "e"].map(|parameter| kind_of(Some(&tool), parameter));
    assert_eq!(kinds, [ValueKind::Text, ValueKind::Either, ValueKind::Text, ValueKind::Json, ValueKind::Either]);
    for (parameter, value, json) in [
        ("city", "007", "\"007\""),
        ("city", "\nline\n", "\"\\nline\\n\""),
        ("city", "", "\"\""),
        ("days", " 7 ", "7"),
        ("days", "seven", "\"seven\""),
        ("on", "True", "true"),
        ("maybe", "null", "null"),
        ("maybe", "nothing", "\"nothing\""),
        ("deep", "{\"a\": 1e400}", "{\"a\": 1e400}"),
    ] {
        let reply = format!("<tool_call>\n<function=f>\n<parameter={parameter}>\n{value}\n</parameter>\n</function>\n</tool_call>");
        assert_eq!(check("qwen3-coder", &reply), call("f", &format!("{{\"{parameter}\": {json}}}")));
    }
}

#[test]
fn python_is_understood_as_far_as_it_is_literals() {
    for (python, arguments) in [
        ("f(city='O\\'s\\x41', days=+3)", None),
        ("f(city='O\\'s\\x41', on=True, maybe=None)", Some(r#"{"city": "O'sA", "on": true, "maybe": null}"#)),
        ("print(default_api.f(city=\"a(b\"))", Some(r#"{"city": "a(b"}"#)),
        ("f('Oslo', 2)", Some(r#"{"city": "Oslo", "days": 2}"#)),
        ("f(city=7)", Some(r#"{"city": "7"}"#)),
        ("f(list=[1, (2, 'x'),], deep={'a': {'b': [False]}})", Some(r#"{"list": [1, [2, "x"]], "deep": {"a": {"b": [false]}}}"#)),
        ("f()", Some("{}")),
    ] {
        let reply = format!("```tool_code\n{python}\n```");
        let expected = arguments.map_or_else(|| text(&reply), |arguments| call("f", arguments));
        assert_eq!(check("tool_code", &reply), expected, "{python}");
    }
}
