//! Marks for Anthropic's prompt cache: where they stand, and that there are never more than four.

use serde_json::{Value, json};
use understudy::api::Dialect;
use understudy::api::openai_chat::OpenAiChat;
use understudy::api::outgoing::{Protocol, cache_marks, write};

/// A chat as it goes up to Claude, marked.
fn marked(body: &Value) -> Value {
    let request = OpenAiChat::parse(body.to_string().as_bytes()).unwrap_or_else(|error| panic!("{error:?} for {body}")).request;
    let mut written = write(Protocol::AnthropicMessages, &request, "claude-sonnet-4-5", true).expect("it can be carried");
    let unmarked = written.to_string();
    cache_marks::add(&mut written);
    let marks = written.to_string().matches("cache_control").count();
    assert!((1..=4).contains(&marks), "{marks} marks: {written}");
    // Nothing else has changed, but that a system prompt has become a list of blocks.
    let mut without = written.clone();
    remove_marks(&mut without);
    if let [only] = without["system"].as_array().map_or(&[][..], Vec::as_slice) {
        without["system"] = only["text"].clone();
    }
    assert_eq!(without.to_string(), unmarked);
    written
}

fn remove_marks(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(remove_marks),
        Value::Object(members) => {
            members.remove("cache_control");
            members.values_mut().for_each(remove_marks);
        }
        _ => {}
    }
}

fn tool(name: &str) -> Value {
    json!({"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}})
}

#[test]
fn an_agent_s_turn_is_marked_after_tools_system_and_the_last_two_turns() {
    let call = json!({"id": "call_1", "type": "function", "function": {"name": "b", "arguments": "{}"}});
    let body = marked(&json!({
        "tools": [tool("a"), tool("b")],
        "messages": [
            {"role": "system", "content": "You are an agent."},
            {"role": "user", "content": "First."},
            {"role": "assistant", "content": "Yes."},
            {"role": "user", "content": "Fix it."},
            {"role": "assistant", "content": null, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "done"},
        ],
    }));
    let mark = json!({"type": "ephemeral"});
    assert_eq!((&body["tools"][0]["cache_control"], &body["tools"][1]["cache_control"]), (&Value::Null, &mark));
    assert_eq!(body["system"], json!([{"type": "text", "text": "You are an agent.", "cache_control": mark}]));
    let of_turns: Vec<&Value> = (0..5).map(|turn| &body["messages"][turn]["content"][0]["cache_control"]).collect();
    assert_eq!(of_turns, [&Value::Null, &Value::Null, &mark, &Value::Null, &mark], "{body}");
}

#[test]
fn a_mark_stands_at_the_end_of_what_it_marks() {
    let body = marked(&json!({"messages": [
        {"role": "system", "content": "One."},
        {"role": "developer", "content": "Two."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    ]}));
    let marks =
        |blocks: &Value| blocks.as_array().expect("blocks").iter().map(|block| block["cache_control"].is_object()).collect::<Vec<_>>();
    assert_eq!(marks(&body["system"]), [false, true]);
    assert_eq!(marks(&body["messages"][0]["content"]), [false, true]);
}

#[test]
fn what_is_not_there_is_not_marked() {
    let body = marked(&json!({"messages": [{"role": "user", "content": "x"}]}));
    assert_eq!((body.get("system"), body.get("tools")), (None, None));
}
