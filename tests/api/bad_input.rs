//! Bad input: each gets a clear error in the API's shape that names the field, and the server goes on as if nothing had been.

use serde_json::{Value, json};

use crate::support::http_client::Reply;
use crate::support::test_app::{Options, TestApp};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

/// The error of a reply, in OpenAI's exact shape.
#[track_caller]
fn error(reply: &Reply) -> (u16, String, Value, Value) {
    let body = reply.json();
    let error = body["error"].as_object().unwrap_or_else(|| panic!("{body} has no error"));
    assert_eq!(error.keys().collect::<Vec<_>>(), ["message", "type", "param", "code"]);
    assert_eq!(body.as_object().map(serde_json::Map::len), Some(1));
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert!(reply.header("x-request-id").is_some());
    let message = error["message"].as_str().expect("a message is text").to_owned();
    assert!(!message.is_empty());
    (reply.status(), message, error["param"].clone(), error["code"].clone())
}

#[track_caller]
fn check(app: &TestApp, path: &str, body: Value, param: &str, says: &str) {
    let (status, message, named, _) = error(&app.post(path, &body));
    assert_eq!(status, 400, "{message}");
    assert_eq!(named, param, "{message}");
    assert!(message.contains(says), "{message:?} lacks {says:?}");
}

fn alive(app: &TestApp) {
    let reply = app.ok(CHAT, &json!({"messages": [{"role": "user", "content": "SAY[[still here]]"}]}));
    assert_eq!(reply["choices"][0]["message"]["content"], "still here");
    app.wait_until("nothing runs", |stats| stats.running == 0 && stats.waiting == 0);
}

#[test]
fn bodies_that_are_no_json_object() {
    let app = TestApp::new();
    let deep = "[".repeat(1 << 20);
    let deep_field = format!("{{\"messages\":{}", "{\"a\":".repeat(100_000));
    for path in [CHAT, COMPLETIONS] {
        for (body, says) in [
            (&b""[..], "the body is empty"),
            (b"   ", "the body is empty"),
            (b"null", "not null"),
            (b"[]", "not an array"),
            (b"\"text\"", "not a string"),
            (b"{", "line 1 column 1"),
            (b"{\"messages\": [{\"role\": \"user\", \"conte", "line 1 column 37"),
            (b"{\"messages\": []} trailing", "line 1 column 18"),
            (b"{\"a\": \"\xC3\x28\"}", "byte 0xC3 at offset 7"),
            (b"\xFF\xFE{\0}\0", "byte 0xFF at offset 0"),
            (b"{\"temperature\": NaN}", "line 1 column 17"),
            (b"{\"temperature\": Infinity}", "line 1 column 17"),
            (b"{\"temperature\": 1e400}", "out of range"),
            (deep.as_bytes(), "recursion limit"),
            (deep_field.as_bytes(), "recursion limit"),
        ] {
            let (status, message, _, code) = error(&app.send("POST", path, &[], body));
            assert_eq!((status, code), (400, json!("invalid_json")), "{message}");
            assert!(message.contains(says), "{message:?} lacks {says:?}");
        }
    }
    alive(&app);
}

#[test]
fn numbers_out_of_range() {
    let app = TestApp::new();
    let chat = |more: Value| {
        let mut body = json!({"messages": [{"role": "user", "content": "x"}]});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        body
    };
    for (more, param, says) in [
        (json!({"max_tokens": 0}), "max_tokens", "at least 1, not 0"),
        (json!({"max_tokens": -5}), "max_tokens", "at least 1, not -5"),
        (json!({"max_tokens": 1.5}), "max_tokens", "a whole number"),
        (json!({"max_tokens": "10"}), "max_tokens", "not a string"),
        (json!({"max_completion_tokens": 0}), "max_completion_tokens", "at least 1"),
        (json!({"temperature": -0.1}), "temperature", "between 0 and 2, not -0.1"),
        (json!({"temperature": 2.1}), "temperature", "between 0 and 2, not 2.1"),
        (json!({"temperature": "NaN"}), "temperature", "must be a number"),
        (json!({"temperature": []}), "temperature", "not an array"),
        (json!({"top_p": 1.01}), "top_p", "between 0 and 1"),
        (json!({"top_p": -1}), "top_p", "between 0 and 1"),
        (json!({"min_p": 2}), "min_p", "between 0 and 1"),
        (json!({"top_k": -2}), "top_k", "at least -1"),
        (json!({"presence_penalty": 3}), "presence_penalty", "between -2 and 2"),
        (json!({"frequency_penalty": -3}), "frequency_penalty", "between -2 and 2"),
        (json!({"repetition_penalty": 0}), "repetition_penalty", "between 0.01 and 10"),
        (json!({"repeat_penalty": -1}), "repeat_penalty", "between 0.01 and 10"),
        (json!({"n": 0}), "n", "between 1 and 128"),
        (json!({"n": 129}), "n", "between 1 and 128"),
        (json!({"n": 100}), "n", "100 replies are asked for at once; this server can hold 40"),
        (json!({"priority": "low"}), "priority", "a whole number"),
        (json!({"seed": "x"}), "seed", "a whole number"),
        (json!({"seed": 1.5}), "seed", "a whole number"),
        (json!({"top_logprobs": 21, "logprobs": true}), "top_logprobs", "between 0 and 20"),
        (json!({"logprobs": 3}), "logprobs", "true or false"),
        (json!({"stream": "yes"}), "stream", "true or false"),
        (json!({"stream_options": []}), "stream_options", "must be an object"),
        (json!({"logit_bias": {"5": 101}}), "logit_bias.5", "between -100 and 100"),
        (json!({"logit_bias": {"word": 1}}), "logit_bias.word", "token id"),
        (json!({"logit_bias": {"999999": 1}}), "logit_bias", "token 999999, but the vocabulary has 320"),
        (json!({"stop": 5}), "stop", "a string or an array of strings"),
        (json!({"stop": ["a", 5]}), "stop[1]", "must be a string"),
        (json!({"stop": vec!["x"; 1000]}), "stop", "has 1000 strings; at most 64"),
        (json!({"stop": ["y", "x".repeat(2000)]}), "stop", "a string of 2000 bytes; at most 1024"),
        (json!({"stop": vec!["x".repeat(1000); 9]}), "stop", "holds 9000 bytes; at most 8192"),
        (json!({"stop_token_ids": 5}), "stop_token_ids", "must be an array, not a number"),
        (json!({"stop_token_ids": [1, "a"]}), "stop_token_ids[1]", "must be a token id, not \"a\""),
        (json!({"stop_token_ids": [-1]}), "stop_token_ids[0]", "must be a token id, not -1"),
        (json!({"stop_token_ids": [999999]}), "stop_token_ids", "token 999999, but the vocabulary has 320"),
        (json!({"stop_token_ids": vec![1; 1025]}), "stop_token_ids", "has 1025 tokens; at most 1024"),
        (json!({"min_tokens": -1}), "min_tokens", "at least 0, not -1"),
        (json!({"min_tokens": 9, "max_tokens": 8}), "min_tokens", "at most `max_tokens`, which is 8, not 9"),
        (json!({"ignore_eos": 1}), "ignore_eos", "true or false"),
        (json!({"typical_p": 1.5}), "typical_p", "between 0 and 1"),
        (json!({"typical_p": "x"}), "typical_p", "a number"),
        (json!({"repeat_last_n": -2}), "repeat_last_n", "at least -1, not -2"),
        (json!({"dry_multiplier": -1}), "dry_multiplier", "between 0 and 100"),
        (json!({"dry_base": 0.5}), "dry_base", "between 1 and 100"),
        (json!({"dry_allowed_length": -1}), "dry_allowed_length", "at least 0"),
        (json!({"dry_penalty_last_n": 2.5}), "dry_penalty_last_n", "a whole number"),
        (json!({"dry_sequence_breakers": "\n"}), "dry_sequence_breakers", "must be an array, not a string"),
        (json!({"dry_sequence_breakers": ["a", 5]}), "dry_sequence_breakers[1]", "must be a string"),
        (json!({"dry_sequence_breakers": [""]}), "dry_sequence_breakers[0]", "is empty"),
        (json!({"dry_sequence_breakers": ["x".repeat(65)]}), "dry_sequence_breakers[0]", "has 65 bytes; at most 64"),
        (json!({"dry_sequence_breakers": vec!["x"; 33]}), "dry_sequence_breakers", "has 33 strings; at most 32"),
        (json!({"model": 5}), "model", "must be a string"),
    ] {
        check(&app, CHAT, chat(more), param, says);
    }
    alive(&app);
}

#[test]
fn conversations_that_are_none() {
    let app = TestApp::new();
    let long_role = "r".repeat(100_000);
    for (messages, param, says) in [
        (json!(null), "messages", "is required"),
        (json!([]), "messages", "is empty"),
        (json!("hi"), "messages", "must be an array, not a string"),
        (json!([5]), "messages[0]", "must be an object, not a number"),
        (json!([{"content": "x"}]), "messages[0].role", "is required"),
        (json!([{"role": "robot", "content": "x"}]), "messages[0].role", "not \"robot\""),
        (json!([{"role": long_role, "content": "x"}]), "messages[0].role", "rrr\"..."),
        (json!([{"role": "user", "content": 5}]), "messages[0].content", "not a number"),
        (json!([{"role": "user", "content": {"a": 1}}]), "messages[0].content", "not an object"),
        (json!([{"role": "user", "content": [{"type": "text"}]}]), "messages[0].content[0].text", "is required"),
        (
            json!([{"role": "user", "content": ["a", {"type": "image_url", "image_url": {"url": "data:"}}]}]),
            "messages[0].content[1]",
            "this model reads text only",
        ),
        (json!([{"role": "user", "content": [{"type": "input_audio"}]}]), "messages[0].content[0]", "this model reads text only"),
        (
            json!([{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [{"id": "1"}]}]),
            "messages[1].tool_calls[0].function",
            "is required",
        ),
        (json!([{"role": "assistant", "tool_calls": {}}]), "messages[0].tool_calls", "must be an array"),
    ] {
        check(&app, CHAT, json!({"messages": messages}), param, says);
    }
    check(&app, CHAT, json!({"model": "x"}), "messages", "is required");
    alive(&app);
}

#[test]
fn what_is_not_offered_is_refused_by_name() {
    let app = TestApp::new();
    let user = json!([{"role": "user", "content": "x"}]);
    let tools = json!([{"type": "function", "function": {"name": "f"}}]);
    for (body, param, says) in [
        (json!({"messages": user, "response_format": {"type": "xml"}}), "response_format.type", "must be text, json_object or json_schema"),
        (
            json!({"messages": user, "response_format": {"type": "json_schema", "json_schema": {}}}),
            "response_format.json_schema.schema",
            "is required",
        ),
        (json!({"messages": user, "response_format": "json"}), "response_format", "must be an object"),
        (json!({"messages": user, "tools": "f"}), "tools", "must be an array"),
        (json!({"messages": user, "tools": [{"type": "function", "function": {}}]}), "tools[0].function.name", "is required"),
        (json!({"messages": user, "tool_choice": "required"}), "tool_choice", "there are no `tools`"),
        (
            json!({"messages": user, "tools": tools, "tool_choice": {"type": "function", "function": {"name": "g"}}}),
            "tool_choice",
            "\"g\", which is not among",
        ),
        (json!({"messages": user, "tools": tools, "tool_choice": "sometimes"}), "tool_choice", "not \"sometimes\""),
        (
            json!({"messages": user, "tools": tools, "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "g"}}]}}}),
            "tool_choice",
            "allows the function \"g\"",
        ),
        (
            json!({"messages": user, "tools": tools, "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}}),
            "tool_choice.tools",
            "`tool_choice` is `none`",
        ),
        (
            json!({"messages": user, "tools": tools, "tool_choice": {"type": "allowed_tools", "mode": "often", "tools": [{"name": "f"}]}}),
            "tool_choice.mode",
            "must be auto or required",
        ),
        (json!({"messages": user, "functions": []}), "functions", "send `tools`"),
        (json!({"messages": user, "continue_final_message": true}), "continue_final_message", "needs a last message"),
        (json!({"messages": user, "reasoning_effort": "huge"}), "reasoning_effort", "must be none, minimal"),
    ] {
        check(&app, CHAT, body, param, says);
    }
    for (body, param, says) in [
        (json!({}), "prompt", "is required"),
        (json!({"prompt": 5}), "prompt", "not a number"),
        (json!({"prompt": []}), "prompt", "is empty"),
        (json!({"prompt": ""}), "prompt", "the prompt is empty"),
        (json!({"prompt": ["a", 5]}), "prompt[1]", "not a number"),
        (json!({"prompt": [1, -2]}), "prompt[1]", "must be a token id, not -2"),
        (json!({"prompt": [1, "a"]}), "prompt[1]", "must be a token id"),
        (json!({"prompt": [5_000]}), "prompt", "token id 5000 is not in the vocabulary of 320"),
        (json!({"prompt": vec!["a"; 129]}), "prompt", "129 choices, and at most 128"),
        (json!({"prompt": "a", "best_of": 3}), "best_of", "must equal `n` (1), not 3"),
        (json!({"prompt": "a", "logprobs": 21}), "logprobs", "between 0 and 20"),
        (json!({"prompt": "a", "max_tokens": 0}), "max_tokens", "at least 1"),
        (json!({"prompt": [1], "suffix": "b"}), "suffix", "a prompt of text"),
        (json!({"prompt": "a", "max_tokens": 0}), "max_tokens", "at least 1"),
        (json!({"prompt": "a", "response_format": {"type": "xml"}}), "response_format.type", "must be text"),
    ] {
        check(&app, COMPLETIONS, body, param, says);
    }
    alive(&app);
}

#[test]
fn a_prompt_longer_than_the_context_is_refused_with_numbers() {
    let app = TestApp::new();
    let long = "x".repeat(5_000);
    for (path, body, param) in [
        (CHAT, json!({"messages": [{"role": "user", "content": long}]}), "messages"),
        (COMPLETIONS, json!({"prompt": long, "stream": true}), "prompt"),
    ] {
        let (status, message, named, code) = error(&app.post(path, &body));
        assert_eq!((status, named, code), (400, json!(param), json!("context_length_exceeded")));
        let tokens = if path == CHAT { 5_000 + 17 } else { 5_000 };
        assert_eq!(message, format!("prompt is too long: {tokens} tokens > 4095 maximum"));
    }
    alive(&app);
}

#[test]
fn a_template_that_throws_is_a_clear_error() {
    let app = TestApp::new();
    let (status, message, param, code) = error(&app.chat(&json!({"messages": [{"role": "user", "content": "THROW"}], "stream": true})));
    assert_eq!((status, param, code), (400, json!("messages"), json!("chat_template_error")));
    assert!(message.ends_with("this template refuses to THROW"), "{message}");
    alive(&app);
}

#[test]
fn a_large_body_is_refused_at_its_limit() {
    let config = understudy::server::config::ServerConfig { body_bytes_max: 100_000, ..Default::default() };
    let app = TestApp::start(Options { config, ..Options::default() });
    let body = json!({"messages": [{"role": "user", "content": "x".repeat(200_000)}]}).to_string();
    let (status, message, ..) = error(&app.send("POST", CHAT, &[], body.as_bytes()));
    assert_eq!(status, 413);
    assert!(message.contains("100000 bytes"), "{message}");
    // The same without a length announced.
    let mut connection = app.connect();
    connection.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
    for piece in body.as_bytes().chunks(10_000) {
        let sent = connection.try_send(format!("{:x}\r\n", piece.len()).as_bytes()).and_then(|()| connection.try_send(piece));
        sent.and_then(|()| connection.try_send(b"\r\n")).expect("what is refused is still read");
    }
    connection.send(b"0\r\n\r\n");
    assert_eq!(error(&connection.read_reply()).0, 413);
    // Just below the limit is fine.
    let fits = json!({"messages": [{"role": "user", "content": "SAY[[fits]]"}]}).to_string();
    let fits = fits.clone() + &" ".repeat(100_000 - fits.len());
    assert_eq!(app.send("POST", CHAT, &[], fits.as_bytes()).status(), 200);
    alive(&app);
}

#[test]
fn bodies_have_a_budget_together() {
    let config = understudy::server::config::ServerConfig { body_bytes_max: 100_000, bodies_bytes_max: 200_000, ..Default::default() };
    let app = TestApp::start(Options { config, ..Options::default() });
    let head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90000\r\n\r\n";
    let body = json!({"messages": [{"role": "user", "content": "SAY[[came through]]"}]}).to_string();
    let body = body.clone() + &" ".repeat(90_000 - body.len());
    // Two that are sent but for the last byte fill it: 2 x 22 units of 4 KiB of 49.
    let mut held: Vec<_> = (0..2).map(|_| app.connect()).collect();
    for connection in &mut held {
        connection.send(head);
        connection.send(&body.as_bytes()[..89_999]);
    }
    app.wait_until("both are held", |_| app.state.bodies().free_bytes() == 5 * 4096);
    let refused = app.send("POST", CHAT, &[], body.as_bytes());
    assert_eq!(refused.status(), 503, "the third body has no room");
    assert_eq!((refused.header("retry-after"), error(&refused).3), (Some("1"), json!("server_busy")));
    // A small one still fits, and those that were held are answered.
    alive(&app);
    for connection in &mut held {
        connection.send(b" ");
        assert_eq!(connection.read_reply().json()["choices"][0]["message"]["content"], "came through");
    }
    assert_eq!(app.send("POST", CHAT, &[], body.as_bytes()).status(), 200, "the budget is given back");
}

#[test]
fn more_choices_or_longer_prompts_than_the_engine_takes() {
    let app = TestApp::new();
    check(
        &app,
        CHAT,
        json!({"messages": [{"role": "user", "content": "x"}], "n": 41}),
        "n",
        "41 replies are asked for at once; this server can hold 40",
    );
    let prompts = vec!["x"; 41];
    check(&app, COMPLETIONS, json!({"prompt": prompts}), "n", "41 replies");
    // Refused before the prompt is there once for each choice.
    let long = json!({"prompt": "x".repeat(5_000), "n": 40, "echo": true});
    check(&app, COMPLETIONS, long, "prompt", "tokens > 4095 maximum");
    alive(&app);
}

#[test]
fn a_body_that_is_cut_off_or_compressed() {
    let app = TestApp::new();
    let (status, message, ..) = error(&app.send("POST", CHAT, &["Content-Encoding: gzip"], b"\x1f\x8b"));
    assert_eq!(status, 415);
    assert!(message.contains("compressed"), "{message}");
    let mut connection = app.connect();
    connection.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{\"messages\"");
    drop(connection);
    alive(&app);
}

#[test]
fn the_type_of_the_content_does_not_matter() {
    let app = TestApp::new();
    let body = json!({"messages": [{"role": "user", "content": "SAY[[ok]]"}]}).to_string();
    for headers in [&[][..], &["Content-Type: text/plain"], &["Content-Type: application/json; charset=utf-8"], &["Content-Type: x"]] {
        assert_eq!(app.send("POST", CHAT, headers, body.as_bytes()).status(), 200, "{headers:?}");
    }
}
