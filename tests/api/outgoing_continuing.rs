//! A text that one cloud has begun, as another is asked to go on with it: the exact words, and what is left to the local model.

use serde_json::{Value, json};
use understudy::api::Dialect;
use understudy::api::anthropic_messages::AnthropicMessages;
use understudy::api::openai_chat::OpenAiChat;
use understudy::api::outgoing::{CannotTranslate, Protocol, continuing};
use understudy::chat::Request;
use understudy::chat::begun::{BegunContent, BegunPiece, BegunReply};

fn text(text: &str) -> BegunPiece {
    BegunPiece { id: None, content: BegunContent::Text(text.to_owned()), open: true }
}

fn call() -> BegunPiece {
    let content = BegunContent::ToolCall { call_id: "call_1".into(), name: "f".into(), arguments: "{}".into() };
    BegunPiece { id: None, content, open: false }
}

fn thought() -> BegunPiece {
    BegunPiece { id: None, content: BegunContent::Thinking("Hm.".to_owned()), open: false }
}

fn begun(pieces: Vec<BegunPiece>) -> BegunReply {
    BegunReply { pieces, ..BegunReply::default() }
}

fn of_messages(more: Value) -> Request {
    let mut body = json!({"max_tokens": 100, "messages": [{"role": "user", "content": "x"}]});
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    AnthropicMessages::parse(body.to_string().as_bytes()).expect("a good body").request
}

fn of_chat(more: Value) -> Request {
    let mut body = json!({"messages": [{"role": "user", "content": "x"}]});
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    OpenAiChat::parse(body.to_string().as_bytes()).expect("a good body").request
}

fn written(protocol: Protocol, request: &Request, pieces: Vec<BegunPiece>) -> Result<Value, CannotTranslate> {
    continuing::write(protocol, request, &begun(pieces), "some-model")
}

#[test]
fn the_words_so_far_are_the_assistant_s_last_message() {
    // Twelve bytes are three tokens of the hundred.
    let of_claude = written(Protocol::AnthropicMessages, &of_messages(json!({})), vec![thought(), text("Once, there ")]);
    let expected = json!({
        "model": "some-model", "max_tokens": 97, "stream": true,
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "x"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "Once, there"}]},
        ],
    });
    assert_eq!(of_claude, Ok(expected));
    let of_vllm = written(Protocol::OpenAiChat, &of_chat(json!({"stop": ["END"]})), vec![text("Once, there\n")]);
    let expected = json!({
        "model": "some-model", "stop": ["END"], "stream": true, "stream_options": {"include_usage": true},
        "messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "Once, there"}],
        "continue_final_message": true, "add_generation_prompt": false,
    });
    assert_eq!(of_vllm, Ok(expected));
}

/// A client that begins the reply itself has its words before the cloud's, in one message.
#[test]
fn a_beginning_of_the_client_s_stays_before_it() {
    let messages = json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": "On"}]);
    let body = written(Protocol::AnthropicMessages, &of_messages(json!({"messages": messages})), vec![text("ce, there")]).unwrap();
    assert_eq!(body["messages"][1]["content"][0]["text"], "Once, there");
    assert_eq!(body["messages"].as_array().map(Vec::len), Some(2));
}

#[test]
fn what_is_not_shown_is_the_white_space_at_the_end() {
    for (said, unshown) in [("a", ""), ("a \n\u{2003}", " \n\u{2003}"), ("  ", "  "), ("", "")] {
        assert_eq!(continuing::unshown(&begun(vec![text(said)])), unshown, "{said:?}");
    }
}

#[test]
fn what_is_no_text_alone_is_the_local_model_s() {
    let plain = of_messages(json!({}));
    let closed = BegunPiece { open: false, ..text("said") };
    let open_call = BegunPiece { open: true, ..call() };
    for pieces in [
        vec![],
        vec![text("")],
        vec![text(" \n")],
        vec![open_call],
        vec![call(), text("and")],
        vec![closed.clone()],
        vec![closed, text("more")],
    ] {
        for protocol in [Protocol::AnthropicMessages, Protocol::OpenAiChat] {
            assert!(written(protocol, &plain, pieces.clone()).is_err(), "{pieces:?}");
        }
    }
    let schema = json!({"type": "object", "properties": {}, "additionalProperties": false});
    let format = json!({"type": "json_schema", "json_schema": {"name": "r", "schema": schema}});
    for more in [json!({"response_format": format}), json!({"logprobs": true}), json!({"max_tokens": 2}), json!({"n": 2})] {
        assert!(written(Protocol::OpenAiChat, &of_chat(more.clone()), vec![text("twelve bytes")]).is_err(), "{more}");
    }
}
