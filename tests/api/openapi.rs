//! The OpenAPI document: it tells of every route, of no field that is not read, and real replies are as it says.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::support::http_client::{Reply, Sse};
use crate::support::test_app::{MODEL, TestApp};

const ROUTES: &str = include_str!("../../src/server/mod.rs");

fn document(app: &TestApp) -> Value {
    let reply = app.get("/openapi.json");
    assert_eq!((reply.status(), reply.header("content-type")), (200, Some("application/json")));
    reply.json()
}

/// A judge of what a schema of the document says.
fn judge(document: &Value, schema: &Value) -> jsonschema::Validator {
    let mut whole = json!({"components": document["components"]});
    whole.as_object_mut().expect("an object").extend(schema.as_object().expect("a schema is an object").clone());
    jsonschema::validator_for(&whole).expect("a schema of the document is one")
}

#[track_caller]
fn check(document: &Value, name: &str, value: &Value) {
    let errors: Vec<String> = judge(document, &json!({"$ref": format!("#/components/schemas/{name}")}))
        .iter_errors(value)
        .map(|error| format!("{error} at {}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{value} is no {name}: {errors:?}");
}

#[test]
fn it_tells_of_every_route() {
    let app = TestApp::new();
    let document = document(&app);
    let routes: BTreeSet<String> = ROUTES
        .lines()
        .filter_map(|line| line.trim().strip_prefix(".route(\""))
        .map(|rest| rest.split('"').next().expect("a route has a path").replace("{*id}", "{id}"))
        .collect();
    assert!(routes.len() > 15, "the routes are found: {routes:?}");
    let told: BTreeSet<String> = document["paths"].as_object().expect("paths").keys().cloned().collect();
    assert_eq!(told, routes);
}

#[test]
fn its_references_lead_somewhere() {
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|field| references(field, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }
    let document = document(&TestApp::new());
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 30);
    for reference in found {
        let pointer = reference.strip_prefix('#').expect("a reference within the document");
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
}

/// A body that each route answers.
fn bodies() -> Vec<(&'static str, &'static str, Value)> {
    let messages = json!([{"role": "user", "content": "SAY[[ab]]"}]);
    vec![
        ("/v1/chat/completions", "ChatCompletionRequest", json!({"messages": messages})),
        ("/v1/completions", "CompletionRequest", json!({"prompt": "SAY[[ab]]"})),
        ("/infill", "InfillRequest", json!({"input_prefix": "SAY[[ab]]"})),
        ("/v1/messages", "MessagesRequest", json!({"messages": messages, "max_tokens": 9})),
        ("/v1/messages/count_tokens", "CountTokensRequest", json!({"messages": messages})),
        ("/v1/responses", "ResponsesRequest", json!({"input": "SAY[[ab]]"})),
    ]
}

/// The properties of a schema of the document, those of its parts included.
fn properties(document: &Value, schema: &Value) -> Map<String, Value> {
    let schema = match schema["$ref"].as_str() {
        Some(reference) => document.pointer(&reference[1..]).expect("it leads somewhere"),
        None => schema,
    };
    let mut found = schema["properties"].as_object().cloned().unwrap_or_default();
    for part in schema["allOf"].as_array().into_iter().flatten() {
        found.extend(properties(document, part));
    }
    found
}

#[test]
fn every_field_it_tells_of_is_read() {
    let app = TestApp::new();
    let document = document(&app);
    for (path, name, body) in bodies() {
        check(&document, name, &body);
        assert_eq!(app.post(path, &body).status(), 200, "{path}");
        let fields = properties(&document, &json!({"$ref": format!("#/components/schemas/{name}")}));
        assert!(fields.len() > 5, "{name}");
        for (field, schema) in fields {
            let judge = judge(&document, &schema);
            let wrong = [json!(true), json!(-7.5), json!("no such word"), json!([[{}]]), json!({"type": [7]})];
            let wrong =
                wrong.into_iter().find(|value| !judge.is_valid(value)).unwrap_or_else(|| panic!("{name}.{field} allows everything"));
            let mut body = body.clone();
            body[&field] = wrong.clone();
            let reply = app.post(path, &body);
            assert_eq!(reply.status(), 400, "{path} takes {wrong} for {field}: {}", reply.text());
            assert!(reply.text().contains(field.as_str()), "the error of {path} does not name {field}: {}", reply.text());
        }
    }
}

fn events(reply: &Reply) -> Vec<Value> {
    let data = reply.events().into_iter().filter_map(|event| match event {
        Sse::Comment(_) => None,
        Sse::Data(data) => serde_json::from_str(&data).ok(),
        Sse::Named { data, .. } => serde_json::from_str(&data).ok(),
    });
    data.collect()
}

#[test]
fn real_replies_are_as_it_says() {
    let app = TestApp::new();
    let document = document(&app);
    let call = "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}}</tool_call>";
    let messages = json!([{"role": "user", "content": format!("SAY[[ab {call}]]")}]);
    let openai_tools = json!([{"type": "function", "function": {"name": "f"}}]);
    let anthropic_tools = json!([{"name": "f", "input_schema": {"type": "object"}}]);
    let responses_tools = json!([{"type": "function", "name": "f"}]);
    for (path, body, whole, event) in [
        (
            "/v1/chat/completions",
            json!({"messages": messages, "tools": openai_tools, "logprobs": true, "top_logprobs": 2, "stream_options": {"include_usage": true}}),
            "ChatCompletion",
            Some("ChatCompletionChunk"),
        ),
        ("/v1/completions", json!({"prompt": "SAY[[ab]]", "logprobs": 2}), "Completion", Some("Completion")),
        ("/infill", json!({"input_prefix": "SAY[[ab]]"}), "Infill", Some("Infill")),
        (
            "/v1/messages",
            json!({"messages": messages, "tools": anthropic_tools, "max_tokens": 900}),
            "AnthropicMessage",
            Some("AnthropicEvent"),
        ),
        ("/v1/responses", json!({"input": format!("SAY[[ab {call}]]"), "tools": responses_tools}), "Response", None),
    ] {
        check(&document, whole, &app.ok(path, &body));
        let mut streaming = body.clone();
        streaming["stream"] = true.into();
        let events = events(&app.post(path, &streaming));
        assert!(events.len() > 2, "{path}");
        for value in &events {
            if let Some(event) = event {
                check(&document, event, value);
            }
        }
    }
    check(&document, "ModelList", &app.get("/v1/models").json());
    check(&document, "Model", &app.get(&format!("/v1/models/{MODEL}")).json());
    check(&document, "CountedTokens", &app.ok("/v1/messages/count_tokens", &json!({"messages": messages})));
    for (path, name) in [("/v1/chat/completions", "OpenAiError"), ("/nowhere", "OpenAiError"), ("/v1/messages", "AnthropicError")] {
        check(&document, name, &app.post(path, &json!({})).json());
    }
}

/// A schema that takes anything would make the test above one that cannot fail.
#[test]
fn a_reply_that_is_not_as_it_says_is_caught() {
    let app = TestApp::new();
    let document = document(&app);
    let reply = app.ok("/v1/chat/completions", &bodies()[0].2);
    for (pointer, wrong) in
        [("/object", json!("chat")), ("/choices/0/finish_reason", json!("done")), ("/usage", json!(null)), ("/choices", json!({}))]
    {
        let mut broken = reply.clone();
        *broken.pointer_mut(pointer).expect("it is there") = wrong;
        assert!(!judge(&document, &json!({"$ref": "#/components/schemas/ChatCompletion"})).is_valid(&broken), "{pointer}");
    }
}
