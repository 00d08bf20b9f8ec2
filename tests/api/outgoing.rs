//! Requests as they go up to a cloud of the other protocol: their exact words, and what is refused rather than changed.

use serde_json::{Value, json};
use understudy::api::anthropic_messages::AnthropicMessages;
use understudy::api::openai_chat::OpenAiChat;
use understudy::api::outgoing::{CannotTranslate, Protocol, write};
use understudy::api::{Call, Dialect};
use understudy::chat::{Conversation, OutputFormat, Prompt, Request};

/// What a client sends, written for the other protocol's `model`.
fn translate<D: Dialect>(body: &Value, model: &str) -> Result<Value, CannotTranslate> {
    let Call { request, stream, .. } = D::parse(body.to_string().as_bytes()).unwrap_or_else(|error| panic!("{error:?} for {body}"));
    let to = if D::NAME == AnthropicMessages::NAME { Protocol::OpenAiChat } else { Protocol::AnthropicMessages };
    write(to, &request, model, stream)
}

#[track_caller]
fn from_messages(more: Value, model: &str) -> Result<Value, CannotTranslate> {
    translate::<AnthropicMessages>(&with(json!({"max_tokens": 100, "messages": [{"role": "user", "content": "x"}]}), more), model)
}

#[track_caller]
fn from_chat(more: Value, model: &str) -> Result<Value, CannotTranslate> {
    translate::<OpenAiChat>(&with(json!({"messages": [{"role": "user", "content": "x"}]}), more), model)
}

fn with(mut body: Value, more: Value) -> Value {
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    body
}

/// Some fields of a body.
fn only(body: &Value, names: &[&str]) -> Value {
    Value::Object(names.iter().filter_map(|name| Some(((*name).to_owned(), body.get(*name)?.clone()))).collect())
}

#[test]
fn a_session_of_claude_code_for_gpt() {
    let cached = json!({"type": "ephemeral"});
    let session = json!({
        "max_tokens": 32_000,
        "stream": true,
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.197.abc; cc_entrypoint=cli;"},
            {"type": "text", "text": "You are an agent.", "cache_control": cached},
        ],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "<today>"}, {"type": "text", "text": "Fix it.", "cache_control": cached}]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "EqQB"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "toolu_01A", "name": "Bash", "input": {"command": "ls"}},
                {"type": "tool_use", "id": "toolu_01B", "name": "Read", "input": {}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "toolu_01A", "content": "a.rs"},
                {"type": "tool_result", "tool_use_id": "toolu_01B", "content": "no", "is_error": true},
                {"type": "text", "text": "Go on.", "cache_control": cached},
            ]},
        ],
        "tools": [{"name": "Bash", "description": "Runs.", "input_schema": {"type": "object", "properties": {"command": {"type": "string"}}}}],
        "thinking": {"type": "adaptive"},
        "output_config": {"effort": "high"},
        "top_k": 40,
        "temperature": 1,
        "metadata": {"user_id": "u"},
    });
    let expected = json!({
        "model": "gpt-5.5",
        "messages": [
            {"role": "system", "content": "You are an agent."},
            {"role": "user", "content": [{"type": "text", "text": "<today>"}, {"type": "text", "text": "Fix it."}]},
            {"role": "assistant", "content": "I look.", "tool_calls": [
                {"id": "call_01A", "type": "function", "function": {"name": "Bash", "arguments": "{\"command\":\"ls\"}"}},
                {"id": "call_01B", "type": "function", "function": {"name": "Read", "arguments": "{}"}},
            ]},
            {"role": "tool", "content": "a.rs", "tool_call_id": "call_01A"},
            {"role": "tool", "content": [{"type": "text", "text": "Error:"}, {"type": "text", "text": "no"}], "tool_call_id": "call_01B"},
            {"role": "user", "content": "Go on."},
        ],
        "tools": [{"type": "function", "function": {
            "name": "Bash",
            "description": "Runs.",
            "parameters": {"type": "object", "properties": {"command": {"type": "string"}}},
        }}],
        "max_completion_tokens": 32_000,
        "reasoning_effort": "high",
        "stream": true,
        "stream_options": {"include_usage": true},
    });
    assert_eq!(translate::<AnthropicMessages>(&session, "gpt-5.5"), Ok(expected));
}

#[test]
fn an_agent_of_chat_completions_for_claude() {
    let call = |id: &str, name: &str, arguments: &str| json!({"id": id, "function": {"name": name, "arguments": arguments}});
    let session = json!({
        "messages": [
            {"role": "system", "content": "You are an agent."},
            {"role": "developer", "content": "Be short."},
            {"role": "user", "content": "Fix it."},
            {"role": "assistant", "content": null, "reasoning_content": "Hm.", "tool_calls": [
                call("call_1", "bash", "{\"command\": \"ls\"}"),
                call("functions.bash:1", "bash", "{broken"),
            ]},
            {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "a.rs"}]},
            {"role": "tool", "tool_call_id": "functions.bash:1", "content": ""},
            {"role": "system", "content": "Hurry."},
            {"role": "user", "content": "Go on."},
        ],
        "tools": [{"type": "function", "function": {"name": "bash", "strict": true, "parameters": {"properties": {}}}}, {
            "type": "function", "function": {"name": "now"},
        }],
        "parallel_tool_calls": false,
        "temperature": 1.5,
        "top_p": 0.9,
        "seed": 7,
        "presence_penalty": 0.5,
        "stop": "END",
        "user": "u",
    });
    let body = translate::<OpenAiChat>(&session, "claude-sonnet-4-5").expect("it can be carried");
    let odd_id = body["messages"][1]["content"][1]["id"].clone();
    let expected = json!({
        "model": "claude-sonnet-4-5",
        "max_tokens": 32_000,
        "system": [{"type": "text", "text": "You are an agent."}, {"type": "text", "text": "Be short."}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Fix it."}]},
            {"role": "assistant", "content": [
                {"type": "tool_use", "id": "toolu_1", "name": "bash", "input": {"command": "ls"}},
                {"type": "tool_use", "id": odd_id, "name": "bash", "input": {"__unparsedToolInput": "{broken"}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "a.rs"},
                {"type": "tool_result", "tool_use_id": odd_id},
                {"type": "text", "text": "<system>\nHurry.\n</system>"},
                {"type": "text", "text": "Go on."},
            ]},
        ],
        "tools": [
            {"name": "bash", "input_schema": {"properties": {}, "type": "object", "additionalProperties": false}, "strict": true},
            {"name": "now", "input_schema": {"type": "object", "properties": {}}},
        ],
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": true},
        "stop_sequences": ["END"],
        "temperature": 1.0,
    });
    assert_eq!(body, expected);
}

/// Providers have withdrawn fields from newer models: what one needs the other answers 400 to.
#[test]
fn fields_are_those_of_the_model() {
    let messages = json!({"temperature": 0.5, "top_p": 0.9, "top_k": 3, "thinking": {"type": "enabled", "budget_tokens": 9_000}});
    let names = ["max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "reasoning_effort"];
    for (model, expected) in [
        ("gpt-4.1", json!({"max_completion_tokens": 100, "temperature": 0.5, "top_p": 0.9})),
        ("gpt-5", json!({"max_completion_tokens": 100, "reasoning_effort": "medium"})),
        ("qwen3", json!({"max_tokens": 100, "temperature": 0.5, "top_p": 0.9})),
    ] {
        assert_eq!(only(&from_messages(messages.clone(), model).expect("it can be carried"), &names), expected, "{model}");
    }

    let chat = json!({"temperature": 0.5, "top_p": 0.9, "top_k": 3, "reasoning_effort": "low", "max_tokens": 9_000});
    let names = ["temperature", "top_p", "top_k", "thinking", "output_config"];
    for (model, expected) in [
        ("claude-3-5-haiku-20241022", json!({"temperature": 0.5, "top_k": 3})),
        ("claude-haiku-4-5", json!({"thinking": {"type": "enabled", "budget_tokens": 2_048}})),
        ("claude-opus-4-6", json!({"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}})),
        ("claude-opus-4-8", json!({"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}})),
    ] {
        assert_eq!(only(&from_chat(chat.clone(), model).expect("it can be carried"), &names), expected, "{model}");
    }
    let plain = json!({"temperature": 0.5, "top_k": 3});
    assert_eq!(only(&from_chat(plain.clone(), "claude-opus-4-6").expect("it can be carried"), &names), plain);
    assert_eq!(only(&from_chat(plain, "claude-opus-4-8").expect("it can be carried"), &names), json!({}));
}

#[test]
fn when_claude_thinks() {
    let tools = json!([{"type": "function", "function": {"name": "f"}}]);
    let results = json!([
        {"role": "user", "content": "x"},
        {"role": "assistant", "tool_calls": [{"id": "call_1", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "y"},
    ]);
    let budget = |tokens: u64| json!({"type": "enabled", "budget_tokens": tokens});
    for (more, old, new) in [
        (json!({}), Value::Null, Value::Null),
        (json!({"reasoning_effort": "none"}), Value::Null, Value::Null),
        (json!({"enable_thinking": true}), budget(8_192), json!({"type": "adaptive"})),
        (json!({"thinking_budget": 5_000}), budget(5_000), json!({"type": "adaptive"})),
        (json!({"thinking_budget": 5}), budget(1_024), json!({"type": "adaptive"})),
        (json!({"thinking_budget": 0}), Value::Null, Value::Null),
        // Something must remain for the answer.
        (json!({"reasoning_effort": "high", "max_tokens": 4_000}), budget(3_000), json!({"type": "adaptive"})),
        (json!({"reasoning_effort": "high", "max_tokens": 1_100}), Value::Null, json!({"type": "adaptive"})),
        // A call that must be made is not thought about.
        (json!({"reasoning_effort": "high", "tools": tools, "tool_choice": "required"}), Value::Null, Value::Null),
        // The older ones want their own thoughts back, which nobody here can sign.
        (json!({"reasoning_effort": "high", "messages": results}), Value::Null, json!({"type": "adaptive"})),
    ] {
        for (model, expected) in [("claude-opus-4-1", old), ("claude-sonnet-5", new)] {
            let body = from_chat(more.clone(), model).expect("it can be carried");
            assert_eq!(body.get("thinking").unwrap_or(&Value::Null), &expected, "{model}: {more}");
        }
    }
}

#[test]
fn how_hard_gpt_thinks() {
    for (more, reasons, other) in [
        (json!({}), Some("low"), None),
        (json!({"thinking": {"type": "disabled"}, "output_config": {"effort": "medium"}}), Some("medium"), Some("medium")),
        (json!({"thinking": {"type": "adaptive"}}), None, None),
        (json!({"thinking": {"type": "enabled", "budget_tokens": 2_000}}), Some("low"), None),
        (json!({"thinking": {"type": "enabled", "budget_tokens": 31_999}}), Some("high"), None),
        (json!({"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}), Some("high"), Some("high")),
    ] {
        for (model, expected) in [("gpt-5.1", reasons), ("qwen3", other), ("gpt-4o", None)] {
            let body = from_messages(more.clone(), model).expect("it can be carried");
            assert_eq!(body.get("reasoning_effort").and_then(Value::as_str), expected, "{model}: {more}");
        }
    }
}

#[test]
fn choices_among_tools() {
    let tool = |name: &str| json!({"type": "function", "function": {"name": name}});
    let shown = |body: &Value| -> Vec<String> {
        let name = |tool: &Value| tool["name"].as_str().or(tool["function"]["name"].as_str()).expect("a name").to_owned();
        body["tools"].as_array().into_iter().flatten().map(name).collect()
    };
    let allowed = json!({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [tool("b")]}});
    let named = json!({"type": "function", "function": {"name": "b"}});
    for (choice, of_openai, of_anthropic, names) in [
        (json!("auto"), Value::Null, Value::Null, vec!["a", "b"]),
        (json!("none"), json!("none"), json!({"type": "none"}), vec!["a", "b"]),
        (json!("required"), json!("required"), json!({"type": "any"}), vec!["a", "b"]),
        (named.clone(), named, json!({"type": "tool", "name": "b"}), vec!["a", "b"]),
        (allowed, json!("required"), json!({"type": "any"}), vec!["b"]),
    ] {
        let body = json!({"messages": [{"role": "user", "content": "x"}], "tools": [tool("a"), tool("b")], "tool_choice": choice});
        let request = OpenAiChat::parse(body.to_string().as_bytes()).expect("a request").request;
        for (protocol, expected) in [(Protocol::OpenAiChat, &of_openai), (Protocol::AnthropicMessages, &of_anthropic)] {
            let body = write(protocol, &request, "m", false).expect("it can be carried");
            assert_eq!(
                (body.get("tool_choice").unwrap_or(&Value::Null), shown(&body)),
                (expected, names.iter().map(|name| (*name).to_owned()).collect())
            );
        }
    }
    // Without tools there is nothing to choose, and the field alone is refused.
    let body = from_chat(json!({"parallel_tool_calls": false, "tool_choice": "none"}), "m").expect("it can be carried");
    assert_eq!(only(&body, &["tools", "tool_choice"]), json!({}));
}

#[test]
fn schemas_of_replies() {
    let open = json!({"type": "object", "properties": {"a": {"type": "string"}}});
    let closed = json!({"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": false});
    let all = json!({"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": false});
    for (schema, strict) in [(&open, false), (&closed, false), (&all, true)] {
        let body = from_messages(json!({"output_config": {"format": {"type": "json_schema", "schema": schema}}}), "gpt-5");
        let expected = json!({"type": "json_schema", "json_schema": {"name": "reply", "schema": schema, "strict": strict}});
        assert_eq!(body.expect("it can be carried")["response_format"], expected);
    }
    let body =
        from_chat(json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": open}}}), "claude-sonnet-5");
    assert_eq!(body.expect("it can be carried")["output_config"], json!({"format": {"type": "json_schema", "schema": closed}}));
}

#[test]
fn a_beginning_is_gone_on_with_where_the_model_does() {
    let messages = json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": "{ \n"}]);
    let body = from_chat(json!({"messages": messages}), "claude-opus-4-5").expect("it can be carried");
    assert_eq!(body["messages"][1], json!({"role": "assistant", "content": [{"type": "text", "text": "{"}]}));
    assert_eq!(from_chat(json!({"messages": messages}), "claude-opus-4-6").expect_err("newer models refuse it").field, "messages");
    assert_eq!(from_messages(json!({"messages": messages}), "gpt-4o").expect_err("no such thing").field, "messages");
    // Who wants a turn of its own gets one, and no beginning is made of the last.
    let body = from_chat(json!({"messages": messages, "add_generation_prompt": true}), "claude-opus-4-5").expect("it can be carried");
    assert_eq!(body["messages"][2], json!({"role": "user", "content": [{"type": "text", "text": "..."}]}));
}

#[test]
fn the_user_is_heard_first() {
    for messages in [json!([{"role": "system", "content": "x"}]), json!([{"role": "user", "content": " "}])] {
        let body = from_chat(json!({"messages": messages}), "claude-sonnet-5").expect("it can be carried");
        assert_eq!(body["messages"], json!([{"role": "user", "content": [{"type": "text", "text": "..."}]}]));
    }
}

#[test]
fn what_would_change_the_reply_is_refused_by_name() {
    for (more, model, field) in [
        (json!({"stop_sequences": ["a", "b", "c", "d", "e"]}), "gpt-4o", "stop"),
        (json!({"stop_sequences": ["a"]}), "o3", "stop"),
        (json!({"max_tokens": 0}), "gpt-4o", "max_tokens"),
    ] {
        assert_eq!(from_messages(more.clone(), model).expect_err("it is refused").field, field, "{more}");
    }
    for (more, model, field) in [
        (json!({"n": 2}), "claude-sonnet-5", "n"),
        (json!({"logprobs": true}), "claude-sonnet-5", "logprobs"),
        (json!({"stop": "\n\n"}), "claude-sonnet-5", "stop"),
        (json!({"min_tokens": 3}), "claude-sonnet-5", "min_tokens"),
        (json!({"stop_token_ids": [3]}), "claude-sonnet-5", "stop_token_ids"),
        (json!({"ignore_eos": true}), "claude-sonnet-5", "ignore_eos"),
        (json!({"response_format": {"type": "json_object"}}), "claude-sonnet-5", "response_format"),
        (json!({"json_schema": {"type": "object"}}), "claude-opus-4-1", "response_format"),
        (json!({"guided_regex": "a+"}), "claude-sonnet-5", "structured_outputs"),
        (json!({"messages": [{"role": "tool", "content": "x"}]}), "claude-sonnet-5", "tool_call_id"),
    ] {
        let error = from_chat(more.clone(), model).expect_err("it is refused");
        assert_eq!(error.field, field, "{more}");
        assert!(error.to_string().starts_with(&format!("`{field}` cannot be carried to Anthropic's messages: ")), "{error}");
    }
    let conversation = || vec![Prompt::Conversation(Conversation::default())];
    for (request, field) in [
        (Request { prompts: vec![Prompt::Text("x".into())], ..Request::default() }, "prompt"),
        (Request { prompts: [conversation(), conversation()].concat(), ..Request::default() }, "prompt"),
        (Request { prompts: conversation(), echo: true, ..Request::default() }, "echo"),
        (
            Request { prompts: conversation(), output_format: OutputFormat::Choice(vec!["a".into()]), ..Request::default() },
            "structured_outputs",
        ),
        (Request { prompts: conversation(), top_logprobs: Some(1), ..Request::default() }, "logprobs"),
    ] {
        for (protocol, model) in [(Protocol::OpenAiChat, "gpt-5"), (Protocol::AnthropicMessages, "claude-sonnet-5")] {
            assert_eq!(write(protocol, &request, model, false).expect_err("it is refused").field, field);
        }
    }
}
