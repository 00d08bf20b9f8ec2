//! The streams of the dialects go on where another server's stopped: cut before every event, they add up to what an uncut one says. The same
//! from the server itself.

use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::{Value, json};
use understudy::api::anthropic_messages::AnthropicMessages;
use understudy::api::openai_chat::OpenAiChat;
use understudy::api::openai_responses::OpenAiResponses;
use understudy::api::{Dialect, Frame, ReplyHead};
use understudy::chat::begun::{BegunContent, BegunReply};
use understudy::chat::{Event, FinishReason, Request, TextDelta, Usage};
use understudy::server::generate::{CannotGoOn, Rest, begin_with};
use understudy::server::request_log::RequestLog;

use super::seam::{TEXT, begun, call, events, finish_of, piece, text};
use crate::support::built_in::BuiltIn;
use crate::support::chat_stream::read_chat_stream;
use crate::support::http_client::{Head, Reply, Sse, split_event};
use crate::support::messages_stream::read_messages_stream;
use crate::support::response_stream::read_response_stream;
use crate::support::test_app::TestApp;

/// The rest of a stream from the server itself, as the gateway gets it.
fn from_server(app: &TestApp, body: &Value, begun: BegunReply) -> Result<String, CannotGoOn> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    let call = AnthropicMessages::parse(body.to_string().as_bytes()).expect("a good body");
    runtime.block_on(async {
        let stream = begin_with(&app.state, call, Rest { begun, by: None }, RequestLog::new("r".into(), AnthropicMessages::NAME)).await?;
        let parts: Vec<Bytes> = stream.collect().await;
        Ok(String::from_utf8(parts.concat()).expect("the stream is text"))
    })
}

fn events_in(stream: &str) -> Vec<(String, Value)> {
    let mut rest = stream;
    let mut events = Vec::new();
    while let Some(Sse::Named { event, data }) = split_event(&mut rest) {
        events.push((event, serde_json::from_str(&data).expect("JSON")));
    }
    assert!(rest.is_empty(), "{rest}");
    events
}

#[test]
fn the_server_goes_on_with_a_stream() {
    let app = TestApp::new();
    let body = |said: &str| {
        json!({"model": "claude-of-elsewhere", "max_tokens": 99, "stream": true, "tools": tools("input_schema", false),
            "messages": [{"role": "user", "content": format!("SAY[[{said}]]")}]})
    };
    let stream = from_server(&app, &body("one two three"), begun(vec![piece(text("one t"), true)])).expect("it goes on");
    let events = events_in(&stream);
    let deltas: String = events.iter().filter_map(|(_, event)| event["delta"]["text"].as_str()).collect();
    assert_eq!(deltas, "wo three");
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).filter(|name| *name != "content_block_delta").collect();
    assert_eq!(names, ["content_block_stop", "message_delta", "message_stop"]);
    assert_eq!(events[names.len() - 3].1["index"], 0);

    let finished = vec![piece(text("I look."), false), piece(call("read", "{}"), false)];
    let before = app.stats().finished_total;
    let stream = from_server(&app, &body("no word"), begun(finished)).expect("it ends");
    let events = events_in(&stream);
    assert_eq!(events.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["message_delta", "message_stop"]);
    assert_eq!(events[0].1["delta"]["stop_reason"], "tool_use");
    assert_eq!(app.stats().finished_total, before, "no model is asked");

    let refused = from_server(&app, &body("x"), begun(vec![piece(call("unknown", "{"), true)])).expect_err("there is no such tool");
    assert!(refused.error.message.contains("no such tool"), "{:?}", refused.error);
    let told = events_in(std::str::from_utf8(&refused.told).expect("text"));
    assert_eq!((told.len(), told[0].0.as_str(), &told[0].1["type"]), (1, "error", &json!("error")));
}

#[test]
fn a_client_that_goes_away_ends_what_was_gone_on_with() {
    let app = TestApp::new();
    let body = json!({"model": "x", "max_tokens": 3000, "stream": true, "messages": [{"role": "user", "content": "endless"}]});
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    let call = AnthropicMessages::parse(body.to_string().as_bytes()).expect("a good body");
    runtime.block_on(async {
        let log = RequestLog::new("r".into(), AnthropicMessages::NAME);
        let stream =
            begin_with(&app.state, call, Rest { begun: begun(vec![piece(text("abc"), true)]), by: None }, log).await.expect("it goes on");
        let mut stream = std::pin::pin!(stream);
        assert!(stream.next().await.is_some());
        assert!(app.stats().running + app.stats().waiting > 0);
    });
    app.wait_until("the sequence is gone", |stats| stats.running + stats.waiting == 0);
}

const HEAD_ID: &str = "0123456789abcdef";

/// One reply of a dialect, frame by frame, and how much of it the client had before each event.
struct Told {
    frames: Vec<Frame>,
    /// Frames before each event, and the reply as far as it had come.
    before: Vec<BegunReply>,
}

fn tell<D: Dialect>(body: &Value, id_prefix: &str, model: &mut BuiltIn) -> Told {
    let mut call = D::parse(body.to_string().as_bytes()).expect("a good body");
    let events = events(model, std::slice::from_ref(&call.request)).remove(0);
    let (_, usage) = finish_of(&events);
    let head = ReplyHead {
        id: HEAD_ID.into(),
        created_unix_s: 1_772_448_545,
        model: "began".into(),
        choices: 1,
        prompt_tokens: usage.prompt_tokens,
    };
    let mut frames = Vec::new();
    call.dialect.open(&head, &mut frames);
    let mut so_far = BegunReply {
        id: format!("{id_prefix}{HEAD_ID}"),
        created_unix_s: head.created_unix_s,
        model: head.model.clone(),
        usage: Usage { prompt_tokens: usage.prompt_tokens, ..Usage::default() },
        ..BegunReply::default()
    };
    let mut before = Vec::new();
    for event in events {
        so_far.frames = frames.len();
        before.push(so_far.clone());
        fold(&mut so_far, &event);
        call.dialect.event(&head, 0, event, &mut frames);
    }
    call.dialect.close(&head, usage, &mut frames);
    Told { frames, before }
}

fn fold(reply: &mut BegunReply, event: &Event) {
    let last = reply.pieces.last_mut().filter(|piece| piece.open);
    match (event, last.map(|piece| &mut piece.content)) {
        (Event::Text(TextDelta { text, .. }), _) if text.is_empty() => {}
        (Event::Text(TextDelta { text, .. }), Some(BegunContent::Text(before))) => before.push_str(text),
        (Event::Text(delta), _) => begin(reply, BegunContent::Text(delta.text.clone())),
        (Event::Thinking(text), Some(BegunContent::Thinking(before))) => before.push_str(text),
        (Event::Thinking(text), _) => begin(reply, BegunContent::Thinking(text.clone())),
        (Event::ToolCallStarted { id, name, .. }, _) => {
            begin(reply, BegunContent::ToolCall { call_id: id.clone(), name: name.clone(), arguments: String::new() });
        }
        (Event::ToolCallArguments { json, .. }, Some(BegunContent::ToolCall { arguments, .. })) => arguments.push_str(json),
        (Event::ToolCallEnded { .. }, _) => reply.pieces.last_mut().expect("a call").open = false,
        (Event::Finished { .. }, _) => {}
        other => panic!("{other:?} is out of order"),
    }
}

fn begin(reply: &mut BegunReply, content: BegunContent) {
    if let Some(last) = reply.pieces.last_mut() {
        last.open = false;
    }
    reply.pieces.push(piece(content, true));
}

/// The rest of the same stream, from somebody with another name.
fn resumed<D: Dialect>(body: &Value, begun: &BegunReply, model: &mut BuiltIn) -> Vec<Frame> {
    let mut call = D::parse(body.to_string().as_bytes()).expect("a good body");
    assert!(D::resumes());
    let local = ReplyHead { id: "local".into(), created_unix_s: 1, model: "local".into(), choices: 1, prompt_tokens: 3 };
    call.dialect.resume(begun);
    let request = Request { begun: Some(begun.clone()), ..call.request };
    let rest = match begun.lacks_only_its_end() {
        true => vec![Event::Finished { reason: FinishReason::ToolCalls, usage: begun.usage }],
        false => events(model, &[request]).remove(0),
    };
    let (_, usage) = finish_of(&rest);
    let mut frames = Vec::new();
    for event in rest {
        call.dialect.event(&local, 0, event, &mut frames);
    }
    call.dialect.close(&local, usage, &mut frames);
    frames
}

fn as_reply(frames: impl IntoIterator<Item = Frame>) -> Reply {
    let headers = [("content-type", "text/event-stream; charset=utf-8"), ("cache-control", "no-cache")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let body = understudy::server::sse::encode(&frames.into_iter().collect::<Vec<_>>()).to_vec();
    Reply { head: Head { status: 200, headers }, body }
}

/// Cut before every event: the whole is what an uncut stream says.
fn check_dialect<D: Dialect>(body: &Value, id_prefix: &str, folded: impl Fn(&Reply) -> Value) {
    let script = format!(
        "[default]\nthinking = 'Hm.'\ntext = {}\ncalls = [{{ tool = 'read', arguments = {{ path = 'src/maïn.rs', list = [1, 2] }} }}, \
         {{ tool = 'write', arguments = {{ path = 'x' }} }}]\n",
        Value::from(&TEXT[..120])
    );
    let mut model = BuiltIn::scripted(&script);
    let told = tell::<D>(body, id_prefix, &mut model);
    let whole = folded(&as_reply(told.frames.clone()));
    let kinds: Vec<usize> = told.before.iter().map(|before| before.pieces.len()).collect();
    assert!(kinds.last() >= Some(&3), "text and two calls: {kinds:?}");
    let mut seams = 0;
    for begun in told.before.iter().filter(|begun| !begun.pieces.is_empty()) {
        let Some(last) = begun.pieces.last() else { continue };
        let mut expected = whole.clone();
        if matches!(last.content, BegunContent::ToolCall { .. }) {
            // It ends with the call that it was cut in.
            keep_calls(&mut expected, begun.calls());
        }
        let frames = [&told.frames[..begun.frames], &resumed::<D>(body, begun, &mut model)].concat();
        assert_eq!(folded(&as_reply(frames)), expected, "after {:?}", begun.pieces);
        seams += 1;
    }
    assert!(seams > 20, "{seams} seams");
}

/// Of what `folded` says.
fn keep_calls(folded: &mut Value, calls: usize) {
    folded["calls"].as_array_mut().expect("calls").truncate(calls);
}

fn parsed(arguments: &Value) -> Value {
    arguments.as_str().map_or_else(|| arguments.clone(), |text| serde_json::from_str(text).expect("arguments are JSON"))
}

fn tools(name: &str, wrapped: bool) -> Value {
    let schema =
        json!({"type": "object", "properties": {"path": {"type": "string"}, "list": {"type": "array", "items": {"type": "integer"}}}});
    let tool = |tool: &str| {
        let mut function = json!({"name": tool});
        function[name] = schema.clone();
        if wrapped { json!({"type": "function", "function": function}) } else { function }
    };
    json!([tool("read"), tool("write")])
}

#[test]
fn a_stream_of_messages_goes_on() {
    let body = json!({
        "model": "x", "max_tokens": 500, "stream": true, "messages": [{"role": "user", "content": "Go."}], "tools": tools("input_schema", false),
        "thinking": {"type": "disabled"}
    });
    check_dialect::<AnthropicMessages>(&body, "msg_", |reply| {
        let message = read_messages_stream(reply).message;
        let blocks = message["content"].as_array().expect("blocks");
        let of = |kind: &str| blocks.iter().filter(|block| block["type"] == kind).cloned().collect::<Vec<_>>();
        let calls: Vec<Value> = of("tool_use").iter().map(|call| json!([call["id"], call["name"], call["input"]])).collect();
        json!({"head": [message["id"], message["model"], message["stop_reason"]], "text": of("text"), "calls": calls})
    });
}

#[test]
fn a_stream_of_chat_chunks_goes_on() {
    let body = json!({
        "model": "x", "stream": true, "stream_options": {"include_usage": true}, "messages": [{"role": "user", "content": "Go."}],
        "tools": tools("parameters", true), "chat_template_kwargs": {"enable_thinking": false}
    });
    check_dialect::<OpenAiChat>(&body, "chatcmpl-", |reply| {
        let folded = read_chat_stream(reply, 1);
        assert!(folded.usage.is_some_and(|usage| usage["prompt_tokens"].as_u64() > Some(0)));
        let choice = &folded.choices[0];
        let calls = choice["message"]["tool_calls"].as_array().cloned().unwrap_or_default();
        let calls: Vec<Value> =
            calls.iter().map(|call| json!([call["id"], call["function"]["name"], parsed(&call["function"]["arguments"])])).collect();
        json!({"head": choice["finish_reason"], "text": choice["message"]["content"], "calls": calls})
    });
}

#[test]
fn a_stream_of_a_response_goes_on() {
    let mut tools = tools("parameters", false);
    tools.as_array_mut().expect("tools").iter_mut().for_each(|tool| tool["type"] = "function".into());
    let body = json!({"model": "x", "stream": true, "input": "Go.", "tools": tools, "reasoning": {"effort": "none"}});
    check_dialect::<OpenAiResponses>(&body, "resp_", |reply| {
        let response = read_response_stream(reply).response;
        let items = response["output"].as_array().expect("items");
        let of = |kind: &str| items.iter().filter(|item| item["type"] == kind).cloned().collect::<Vec<_>>();
        let calls = of("function_call");
        let calls: Vec<Value> = calls
            .iter()
            .map(|call| json!([call["id"], call["call_id"], call["name"], call["status"], parsed(&call["arguments"])]))
            .collect();
        json!({"head": [response["id"], response["model"], response["status"]], "text": of("message"), "calls": calls})
    });
}
