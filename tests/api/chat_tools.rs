//! Tools in chat completions: shown to the model, called in its own format, delivered in OpenAI's.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::chat_stream::read_chat_stream;
use crate::support::test_app::{Options, TestApp};

const PATH: &str = "/v1/chat/completions";
const CALL: &str = "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\"}}\n</tool_call>";

fn tool(name: &str) -> Value {
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
    json!({"type": "function", "function": {"name": name, "description": "d", "parameters": parameters, "strict": true}})
}

fn body(say: &str, more: Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": format!("SAY[[{say}]]")}], "tools": [tool("weather"), tool("time")]});
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    body
}

/// The only choice of a request, which must be the same streamed; ids of calls are drawn, and masked.
#[track_caller]
fn choice(app: &TestApp, body: &Value) -> Value {
    let mask = |mut choice: Value| {
        for call in choice["message"].get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten() {
            let id = call["id"].take();
            assert!(id.as_str().is_some_and(|id| id.len() == 29 && id.starts_with("call_")), "{id}");
        }
        choice
    };
    let whole = mask(app.ok(PATH, body)["choices"][0].take());
    let mut streamed = body.clone();
    streamed["stream"] = true.into();
    let folded = read_chat_stream(&app.chat(&streamed), 1);
    assert_eq!(mask(folded.choices[0].clone()), whole);
    whole
}

fn calls(choice: &Value) -> Vec<(String, Value)> {
    let calls = choice["message"]["tool_calls"].as_array().cloned().unwrap_or_default();
    let function = |call: Value| {
        let arguments = call["function"]["arguments"].as_str().expect("arguments are text");
        (call["function"]["name"].as_str().expect("a name").to_owned(), serde_json::from_str(arguments).expect("arguments are JSON"))
    };
    calls.into_iter().map(function).collect()
}

#[test]
fn a_call_is_delivered_as_a_call() {
    let app = TestApp::new();
    let choice = choice(&app, &body(&format!("Let me see.\n{CALL}"), json!({})));
    assert_eq!(choice["message"]["content"], "Let me see.");
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(calls(&choice), [("weather".into(), json!({"city": "Oslo"}))]);
    assert_eq!(choice["message"]["tool_calls"][0]["function"]["arguments"], "{\"city\": \"Oslo\"}", "as the model wrote it");
}

#[test]
fn several_calls_or_one() {
    let app = TestApp::new();
    let two = format!("{CALL}\n{}", CALL.replace("Oslo", "Rome"));
    let both = choice(&app, &body(&two, json!({})));
    assert_eq!(calls(&both), [("weather".into(), json!({"city": "Oslo"})), ("weather".into(), json!({"city": "Rome"}))]);
    assert_eq!(both["message"]["content"], Value::Null);
    let one = choice(&app, &body(&two, json!({"parallel_tool_calls": false})));
    assert_eq!(calls(&one), [("weather".into(), json!({"city": "Oslo"}))]);
}

#[test]
fn what_is_not_wanted_is_not_generated() {
    // The model would say 1,500 tokens more after its call, and at this pace there is time to stop it.
    let app = TestApp::start(Options { pace: Duration::from_millis(2), ..Options::default() });
    let chatty = format!("{CALL}{}", "x".repeat(1_500));
    let reply = app.ok(PATH, &body(&chatty, json!({"parallel_tool_calls": false})));
    assert_eq!(calls(&reply["choices"][0]), [("weather".into(), json!({"city": "Oslo"}))]);
    app.wait_until("nothing runs", |stats| stats.running == 0 && stats.waiting == 0);
    let stats = app.stats();
    assert!(stats.generated_tokens_total < 200, "{stats:?}");
    assert_eq!((stats.finished_total, stats.cancelled_total), (1, 0));
}

#[test]
fn ids_of_calls_differ() {
    let app = TestApp::new();
    let two = app.ok(PATH, &body(&format!("{CALL}\n{CALL}"), json!({"n": 2})));
    let ids: std::collections::HashSet<String> = (0..2)
        .flat_map(|choice| (0..2).map(move |call| (choice, call)))
        .map(|(choice, call)| two["choices"][choice]["message"]["tool_calls"][call]["id"].as_str().expect("an id").to_owned())
        .collect();
    assert_eq!(ids.len(), 4);
}

/// What is broken within a call is read in `chat::tool_formats`; here the grammar does not let a model write it.
#[test]
fn what_is_no_call_is_text() {
    let app = TestApp::new();
    for text in ["<tool call>", "tool_call> {\"name\": \"weather\"}", "a < b", "<tool_cal"] {
        let choice = choice(&app, &body(text, json!({})));
        assert_eq!((&choice["message"]["content"], &choice["finish_reason"]), (&text.into(), &"stop".into()));
        assert_eq!(choice["message"].get("tool_calls"), None);
    }
}

#[test]
fn a_call_cut_off_before_its_arguments_is_text_and_says_length() {
    let app = TestApp::new();
    let choice = choice(&app, &body(CALL, json!({"max_tokens": 20})));
    assert_eq!(choice["finish_reason"], "length");
    assert!(choice["message"]["content"].as_str().is_some_and(|text| CALL.starts_with(text) && text.len() >= 20), "{choice}");
}

/// What is left of the limit goes into the end of the arguments: they are short, and whole.
#[test]
fn arguments_that_would_be_cut_off_come_to_their_end() {
    let app = TestApp::new();
    let choice = choice(&app, &body(CALL, json!({"max_tokens": 55})));
    let function = &choice["message"]["tool_calls"][0]["function"];
    let arguments: Value = serde_json::from_str(function["arguments"].as_str().expect("arguments are text")).expect("they are JSON");
    assert!(function["name"] == "weather" && arguments["city"].is_string(), "{choice}");
}

#[test]
fn tool_choice_none_hides_the_tools() {
    let app = TestApp::new();
    let shown = app.ok(PATH, &body("x", json!({})))["usage"]["prompt_tokens"].as_u64().expect("a number");
    let hidden = app.ok(PATH, &body("x", json!({"tool_choice": "none"})))["usage"]["prompt_tokens"].as_u64().expect("a number");
    assert!(hidden + 100 < shown, "{hidden} {shown}");
    // A model that would call all the same cannot open one; what it says instead is its own affair.
    let choice = app.ok(PATH, &body(CALL, json!({"tool_choice": "none", "max_tokens": 100})))["choices"][0].take();
    assert!(choice["message"].get("tool_calls").is_none(), "{choice}");
    assert!(choice["message"]["content"].as_str().is_some_and(|text| !text.contains("<tool_call>")), "{choice}");
}

#[test]
fn a_forced_call_is_begun_for_the_model() {
    let app = TestApp::new();
    // The model would say the whole call; the part that the prompt already holds is not generated.
    let named = json!({"tool_choice": {"type": "function", "function": {"name": "weather"}}});
    let choice = choice(&app, &body(CALL, named));
    assert_eq!(calls(&choice), [("weather".into(), json!({"city": "Oslo"}))]);
    assert_eq!((&choice["message"]["content"], &choice["finish_reason"]), (&Value::Null, &"tool_calls".into()));
    let required = json!({"tool_choice": "required"});
    assert_eq!(calls(&self::choice(&app, &body(CALL, required))), [("weather".into(), json!({"city": "Oslo"}))]);
}

#[test]
fn tool_results_go_back_in() {
    let app = TestApp::new();
    let call = json!({"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\":\"Oslo\"}"}});
    let messages = json!([
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": null, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "{\"temp\": 3} SAY[[It is 3 degrees.]]"},
    ]);
    let choice = choice(&app, &body("", json!({"messages": messages})));
    assert_eq!(choice["message"]["content"], "It is 3 degrees.");
}

#[test]
fn a_template_without_tools_leaves_text_alone() {
    let template = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}{{ '<|im_start|>assistant\n' }}";
    let app = TestApp::start(Options { template: Some(template), ..Options::default() });
    let choice = choice(&app, &body(CALL, json!({})));
    assert_eq!(choice["message"]["content"], CALL);
    // A call that is asked for and cannot be had is no reason to say something else in silence.
    for forced in [json!("required"), json!({"type": "function", "function": {"name": "weather"}})] {
        let reply = app.chat(&body("x", json!({"tool_choice": forced})));
        assert_eq!((reply.status(), &reply.json()["error"]["param"]), (400, &json!("tool_choice")), "{}", reply.text());
    }
}
