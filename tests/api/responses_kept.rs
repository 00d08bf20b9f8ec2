//! Responses that can be asked for by their ids: kept, gone on from, listed, deleted, cancelled, forgotten.

use std::time::Duration;

use serde_json::{Value, json};
use understudy::server::config::ServerConfig;
use understudy::server::reply_store::Limits;

use crate::support::http_client::Reply;
use crate::support::response_stream::read_response_stream;
use crate::support::test_app::{Options, TestApp};

const PATH: &str = "/v1/responses";

fn say(text: &str, more: Value) -> Value {
    let mut body = json!({"input": format!("SAY[[{text}]]")});
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    body
}

fn id(response: &Value) -> &str {
    response["id"].as_str().expect("a response has an id")
}

fn delete(app: &TestApp, id: &str) -> Reply {
    app.send("DELETE", &format!("{PATH}/{id}"), &[], b"")
}

#[track_caller]
fn check_not_found(reply: &Reply, says: &str) {
    let error = reply.json()["error"].clone();
    assert_eq!((reply.status(), &error["type"]), (404, &json!("invalid_request_error")), "{}", reply.text());
    assert!(error["message"].as_str().is_some_and(|message| message.contains(says)), "{error}");
}

/// Texts of messages and results, in order.
fn texts(list: &Value) -> Vec<String> {
    let text = |item: &Value| item["content"][0]["text"].as_str().or(item["output"].as_str()).unwrap_or("?").to_owned();
    list["data"].as_array().expect("a list").iter().map(text).collect()
}

#[test]
fn a_response_can_be_asked_for_and_deleted() {
    let app = TestApp::new();
    let whole = app.ok(PATH, &say("one", json!({"metadata": {"a": "b"}})));
    let streamed = read_response_stream(&app.post(PATH, &say("two", json!({"stream": true})))).response;
    for response in [whole, streamed] {
        let path = format!("{PATH}/{}", id(&response));
        assert_eq!(app.get(&path).json(), response);
        assert_eq!(app.get(&format!("{path}?include[]=reasoning.encrypted_content&stream=false")).json(), response);
        assert_eq!(app.get(&format!("{path}?stream=true")).json()["error"]["param"], "stream");
        assert_eq!(delete(&app, id(&response)).json(), json!({"id": id(&response), "object": "response", "deleted": true}));
        check_not_found(&app.get(&path), id(&response));
        check_not_found(&delete(&app, id(&response)), id(&response));
    }
    check_not_found(&app.get("/v1/responses/resp_never"), "Response with id 'resp_never' not found.");
}

#[test]
fn what_is_not_to_be_stored_is_not() {
    let app = TestApp::new();
    let response = app.ok(PATH, &say("one", json!({"store": false})));
    assert_eq!(response["store"], false);
    check_not_found(&app.get(&format!("{PATH}/{}", id(&response))), id(&response));
    check_not_found(&app.post(PATH, &say("two", json!({"previous_response_id": id(&response)}))), "Previous response with id");
}

#[test]
fn a_conversation_goes_on_where_it_was() {
    let app = TestApp::new();
    // The last order counts, so what a response says tells which input it had; how much it read tells the rest.
    let first = app.ok(PATH, &say("one", json!({"instructions": "only for the first"})));
    let second = app.ok(PATH, &say("two", json!({"previous_response_id": id(&first)})));
    let third = app.ok(PATH, &say("three", json!({"previous_response_id": id(&second), "stream": false})));
    assert_eq!(third["previous_response_id"], id(&second));
    let sent_whole = app.ok(
        PATH,
        &json!({"input": [
            {"role": "user", "content": "SAY[[one]]"}, {"role": "assistant", "content": "one"},
            {"role": "user", "content": "SAY[[two]]"}, {"role": "assistant", "content": "two"},
            {"role": "user", "content": "SAY[[three]]"},
        ]}),
    );
    assert_eq!(third["usage"]["input_tokens"], sent_whole["usage"]["input_tokens"], "instructions are not carried over");
    let list = app.get(&format!("{PATH}/{}/input_items?order=asc", id(&third))).json();
    assert_eq!(texts(&list), ["SAY[[one]]", "one", "SAY[[two]]", "two", "SAY[[three]]"]);
    // Each of two ways to go on has its own history.
    let other = app.ok(PATH, &say("other", json!({"previous_response_id": id(&first)})));
    let list = app.get(&format!("{PATH}/{}/input_items", id(&other))).json();
    assert_eq!(texts(&list), ["SAY[[other]]", "one", "SAY[[one]]"], "newest first");
    // What is deleted cannot be named, and is still part of what went on from it.
    delete(&app, id(&first));
    check_not_found(&app.post(PATH, &say("x", json!({"previous_response_id": id(&first)}))), id(&first));
    let fourth = app.ok(PATH, &say("four", json!({"previous_response_id": id(&third)})));
    assert_eq!(texts(&app.get(&format!("{PATH}/{}/input_items", id(&fourth))).json()).len(), 7);
}

#[test]
fn tool_calls_go_on_by_id() {
    let app = TestApp::new();
    let tools = json!([{"type": "function", "name": "weather", "parameters": {"type": "object"}}, {"type": "custom", "name": "patch"}]);
    let calls = "<tool_call>\n{\"name\": \"weather\", \"arguments\": {}}\n</tool_call>\n<tool_call>\n{\"name\": \"patch\", \"arguments\": {\"input\": \"x\"}}\n</tool_call>";
    let first = app.ok(PATH, &say(calls, json!({"tools": tools})));
    let call_ids: Vec<&Value> = first["output"].as_array().expect("items").iter().map(|item| &item["call_id"]).collect();
    let results = json!([
        {"type": "function_call_output", "call_id": call_ids[0], "output": "3 degrees"},
        {"type": "custom_tool_call_output", "call_id": call_ids[1], "output": "SAY[[Done.]]"},
    ]);
    let second = app.ok(PATH, &json!({"previous_response_id": id(&first), "input": results, "tools": tools}));
    assert_eq!(second["output"][0]["content"][0]["text"], "Done.");
    let list = app.get(&format!("{PATH}/{}/input_items?order=asc", id(&second))).json();
    let kinds: Vec<&str> = list["data"].as_array().expect("a list").iter().filter_map(|item| item["type"].as_str()).collect();
    assert_eq!(kinds, ["message", "function_call", "custom_tool_call", "function_call_output", "custom_tool_call_output"]);
}

#[test]
fn items_are_listed_by_pages() {
    let app = TestApp::new();
    let input: Vec<Value> = (0..30).map(|number| json!({"role": "user", "content": format!("SAY[[{number}]]")})).collect();
    let response = app.ok(PATH, &json!({"input": input}));
    let page = |query: &str| app.get(&format!("{PATH}/{}/input_items{query}", id(&response))).json();
    let newest = page("");
    assert_eq!((newest["data"].as_array().map(Vec::len), &newest["has_more"]), (Some(20), &json!(true)));
    assert_eq!((&newest["first_id"], &newest["last_id"]), (&newest["data"][0]["id"], &newest["data"][19]["id"]));
    assert_eq!(texts(&newest)[0], "SAY[[29]]");
    let rest = page(&format!("?after={}", newest["last_id"].as_str().expect("an id")));
    assert_eq!((texts(&rest).len(), &rest["has_more"]), (10, &json!(false)));
    let oldest = page("?order=asc&limit=2");
    assert_eq!(texts(&oldest), ["SAY[[0]]", "SAY[[1]]"]);
    let first = &oldest["data"][0];
    assert_eq!((&first["type"], &first["role"], &first["status"]), (&json!("message"), &json!("user"), &json!("completed")));
    for (query, param) in
        [("?limit=0", "limit"), ("?limit=101", "limit"), ("?limit=x", "limit"), ("?order=up", "order"), ("?after=x", "after")]
    {
        assert_eq!(page(query)["error"]["param"], param, "{query}");
    }
    check_not_found(&app.get("/v1/responses/resp_x/input_items"), "resp_x");
}

#[test]
fn an_item_with_a_name_of_its_own_keeps_it() {
    let app = TestApp::new();
    let input = json!([{"id": "msg_of_mine", "role": "user", "content": "SAY[[one]]"}, {"id": "", "role": "user", "content": "SAY[[two]]"},
        {"role": "assistant", "content": "two"}, {"role": "user", "content": "SAY[[three]]"}]);
    let response = app.ok(PATH, &json!({"input": input}));
    let listed = app.get(&format!("{PATH}/{}/input_items?order=asc", id(&response))).json();
    assert_eq!(listed["data"][0]["id"], "msg_of_mine");
    assert!(listed["data"][1]["id"].as_str().is_some_and(|id| id.starts_with("msg_") && id.len() > 8), "{listed}");
    let kinds: Vec<&Value> = listed["data"].as_array().expect("items").iter().map(|item| &item["content"][0]["type"]).collect();
    assert_eq!(kinds, ["input_text", "input_text", "output_text", "input_text"]);
}

#[test]
fn items_can_be_pointed_at() {
    let app = TestApp::new();
    let first = app.ok(PATH, &say("one", json!({})));
    let mine = app.get(&format!("{PATH}/{}/input_items", id(&first))).json();
    for reference in [json!({"type": "item_reference", "id": mine["first_id"]}), json!({"id": mine["first_id"]})] {
        let said = json!({"type": "item_reference", "id": first["output"][0]["id"]});
        let input = json!([reference, said, {"role": "user", "content": "SAY[[two]]"}]);
        let second = app.ok(PATH, &json!({"input": input}));
        assert_eq!(texts(&app.get(&format!("{PATH}/{}/input_items?order=asc", id(&second))).json()), ["SAY[[one]]", "one", "SAY[[two]]"]);
    }
    for unknown in ["msg_ffff_0", "rs_of_somebody_else", "x", ""] {
        let reply = app.post(PATH, &json!({"input": [{"type": "item_reference", "id": unknown}]}));
        check_not_found(&reply, "not found");
        assert_eq!(reply.json()["error"]["param"], "input");
    }
}

#[test]
fn the_oldest_are_forgotten() {
    let config = ServerConfig { replies_kept: Limits { replies: 3, bytes: 1 << 20 }, ..ServerConfig::default() };
    let app = TestApp::start(Options { config, ..Options::default() });
    let responses: Vec<Value> = (0..5).map(|number| app.ok(PATH, &say(&number.to_string(), json!({})))).collect();
    let found = |response: &Value| app.get(&format!("{PATH}/{}", id(response))).status() == 200;
    assert_eq!(responses.iter().map(found).collect::<Vec<_>>(), [false, false, true, true, true]);
    assert_eq!(app.state.replies().size().0, 3);
}

fn slow() -> Options {
    Options { pace: Duration::from_millis(2), ..Options::default() }
}

/// The id of a stream that has just begun, from its first event.
fn id_of_stream(stream: &mut crate::support::http_client::Connection, text: &mut Vec<u8>) -> String {
    text.extend(stream.next_chunk().expect("the opening comes at once"));
    let opening = std::str::from_utf8(text).expect("text");
    let data = opening.lines().nth(1).and_then(|line| line.strip_prefix("data: ")).expect("data");
    let event: Value = serde_json::from_str(data).expect("JSON");
    id(&event["response"]).to_owned()
}

#[test]
fn one_that_runs_can_be_looked_at_and_cancelled_from_elsewhere() {
    for store in [true, false] {
        let app = TestApp::start(slow());
        let (mut stream, head) = app.open_stream(PATH, &json!({"input": "recite", "stream": true, "store": store}));
        let mut text = Vec::new();
        let id = id_of_stream(&mut stream, &mut text);
        let path = format!("{PATH}/{id}");
        let running = app.get(&path);
        if store {
            assert_eq!((running.status(), &running.json()["status"]), (200, &json!("in_progress")));
            let reply = app.post(PATH, &json!({"input": "x", "previous_response_id": id}));
            assert_eq!((reply.status(), &reply.json()["error"]["param"]), (400, &json!("previous_response_id")));
        } else {
            check_not_found(&running, &id);
        }
        let cancelled = app.send("POST", &format!("{path}/cancel"), &[], b"").json();
        assert_eq!((&cancelled["id"], &cancelled["status"]), (&json!(id), &json!("cancelled")));
        while let Some(chunk) = stream.next_chunk() {
            text.extend(chunk);
        }
        let folded = read_response_stream(&Reply { head, body: text });
        assert_eq!((folded.events.last().map(String::as_str), &folded.response["status"]), (Some("response.failed"), &json!("cancelled")));
        app.wait_until("the slot is free", |stats| stats.running == 0 && stats.cancelled_total == 1);
        assert!(app.stats().generated_tokens_total < 3_000, "{:?}", app.stats());
        let after = app.send("POST", &format!("{path}/cancel"), &[], b"");
        if store {
            assert_eq!(
                (app.get(&path).json(), after.json()),
                (folded.response.clone(), folded.response),
                "to cancel again changes nothing"
            );
        } else {
            check_not_found(&after, &id);
        }
    }
}

/// Nobody knows the id of a whole response before it is there, but for one that a stream tells: the same request of the same session.
#[test]
fn a_whole_response_can_be_cancelled_too() {
    let app = TestApp::start(slow());
    let headers = ["session-id: s", "x-client-request-id: r"];
    let mut whole = app.connect();
    whole.request("POST", PATH, &headers, json!({"input": "recite"}).to_string().as_bytes());
    app.wait_until("it runs", |stats| stats.running == 1);
    let mut stream = app.connect();
    stream.request("POST", PATH, &headers, json!({"input": "recite", "stream": true}).to_string().as_bytes());
    let (head, mut text) = (stream.read_head(), Vec::new());
    let id = id_of_stream(&mut stream, &mut text);
    app.send("POST", &format!("{PATH}/{id}/cancel"), &[], b"");
    while let Some(chunk) = stream.next_chunk() {
        text.extend(chunk);
    }
    assert_eq!(read_response_stream(&Reply { head, body: text }).response["status"], "cancelled");
    let reply = whole.read_reply();
    assert_eq!((reply.status(), &reply.json()["error"]["code"]), (400, &json!("response_cancelled")), "{}", reply.text());
    app.wait_until("the slot is free", |stats| stats.running == 0);
    assert_eq!(app.get(&format!("{PATH}/{id}")).json()["status"], "cancelled");
}

#[test]
fn a_client_that_goes_away_leaves_nothing() {
    let app = TestApp::start(slow());
    let (mut stream, _) = app.open_stream(PATH, &json!({"input": "recite", "stream": true}));
    let id = id_of_stream(&mut stream, &mut Vec::new());
    drop(stream);
    app.wait_until("the slot is free", |stats| stats.running == 0 && stats.cancelled_total == 1);
    check_not_found(&app.get(&format!("{PATH}/{id}")), &id);
    assert_eq!(app.state.replies().size(), (0, 0));
}

#[test]
fn methods_and_paths() {
    let app = TestApp::new();
    for (method, path) in [("GET", PATH), ("PUT", "/v1/responses/resp_x"), ("GET", "/v1/responses/resp_x/cancel")] {
        assert_eq!(app.send(method, path, &[], b"").status(), 405, "{method} {path}");
    }
    assert_eq!(app.get("/v1/responses/a/b/c").status(), 404);
    check_not_found(&app.get(&format!("{PATH}/{}", "x".repeat(5_000))), "not found");
    assert_eq!(app.get(&format!("{PATH}/%FF")).status(), 400);
}
