//! What a request of Anthropic's dialect is read as, in the shapes that Claude Code and the SDKs send.

use serde_json::{Value, json};
use understudy::api::Dialect;
use understudy::api::anthropic_messages::AnthropicMessages;
use understudy::chat::{Conversation, Effort, Message, OutputFormat, Prompt, Request, Role, Thinking, ToolChoice};

use crate::support::test_app::TestApp;

#[track_caller]
fn read_request(body: &Value) -> Request {
    AnthropicMessages::parse(body.to_string().as_bytes()).unwrap_or_else(|error| panic!("{error:?} for {body}")).request
}

#[track_caller]
fn read(more: Value) -> Conversation {
    let mut body = json!({"max_tokens": 10, "messages": [{"role": "user", "content": "x"}]});
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let mut request = read_request(&body);
    let Some(Prompt::Conversation(conversation)) = request.prompts.pop() else { panic!("a conversation is asked for") };
    conversation
}

/// Messages as lines: role, thinking, text, calls and whose result it is.
fn lines(conversation: &Conversation) -> Vec<String> {
    let line = |message: &Message| {
        let mut line = format!("{:?}: {}", message.role, message.joined_text().replace('\n', "|"));
        if let Some(id) = &message.tool_call_id {
            line = format!("{line} <- {id}");
        }
        if let Some(thinking) = &message.thinking {
            line = format!("({thinking}) {line}");
        }
        let calls = message.tool_calls.iter().map(|call| format!(" -> {} {}({})", call.id, call.name, call.arguments));
        line + &calls.collect::<String>()
    };
    conversation.messages.iter().map(line).collect()
}

#[track_caller]
fn check(messages: Value, expected: &[&str]) {
    assert_eq!(lines(&read(json!({"messages": messages}))), expected);
}

/// A session of Claude Code, as far as it has come.
fn claude_code(hash: &str, turns: &[Value]) -> Value {
    let billing = format!("x-anthropic-billing-header: cc_version=2.1.197.{hash}; cc_entrypoint=sdk-cli;");
    let mut messages = vec![
        json!({"role": "user", "content": [
            {"type": "text", "text": "<system-reminder>today</system-reminder>"},
            {"type": "text", "text": "question", "cache_control": {"type": "ephemeral"}},
        ]}),
        json!({"role": "system", "content": "The environment."}),
    ];
    messages.extend_from_slice(turns);
    json!({
        "model": "claude-opus-4-8", "max_tokens": 64000, "stream": true, "messages": messages,
        "system": [
            {"type": "text", "text": billing},
            {"type": "text", "text": "You are Claude Code.", "cache_control": {"type": "ephemeral"}},
            {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        ],
        "tools": [
            {"name": "Bash", "description": "Runs a command", "input_schema": {"type": "object", "properties": {"command": {"type": "string"}}}},
            {"name": "Read", "description": "Reads a file", "input_schema": {"type": "object"}, "cache_control": {"type": "ephemeral"}},
        ],
        "thinking": {"type": "adaptive"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "high"},
        "metadata": {"user_id": "{\"device_id\":\"x\"}"},
    })
}

fn conversation_of(body: &Value) -> Conversation {
    let Some(Prompt::Conversation(conversation)) = read_request(body).prompts.pop() else { panic!("a conversation is asked for") };
    conversation
}

#[test]
fn claude_codes_first_request() {
    let body = claude_code("a1b", &[]);
    let request = read_request(&body);
    assert_eq!((request.tokens_max, request.choices_per_prompt), (Some(64_000), 1));
    let conversation = conversation_of(&body);
    assert_eq!(
        lines(&conversation),
        ["System: You are Claude Code.|Be brief.|The environment.", "User: <system-reminder>today</system-reminder>|question"]
    );
    assert_eq!(conversation.tools.iter().map(|tool| tool.name.as_str()).collect::<Vec<_>>(), ["Bash", "Read"]);
    assert_eq!(conversation.thinking, Thinking { wanted: None, budget_tokens: None, effort: Some(Effort::High) });
    assert!(conversation.parallel_tool_calls && !conversation.continues_last);
    assert_eq!(conversation.tool_choice, ToolChoice::Auto);
}

/// The hash of the accounting differs, and nothing that the model reads.
#[test]
fn two_sessions_share_their_prompts() {
    assert_eq!(read_request(&claude_code("a1b", &[])), read_request(&claude_code("fff", &[])));
    let joined = |hash: &str| read(json!({"system": format!("x-anthropic-billing-header: v=2.{hash};\nYou are Claude Code.")}));
    assert_eq!(joined("a"), joined("b"));
    assert_eq!(lines(&joined("a"))[0], "System: You are Claude Code.");
    // Only its own block is taken out, and only of the system prompt.
    let quoted = "What is x-anthropic-billing-header: for?";
    let elsewhere = read(json!({"system": quoted, "messages": [{"role": "user", "content": "x-anthropic-billing-header: what?"}]}));
    assert_eq!(lines(&elsewhere), [format!("System: {quoted}"), "User: x-anthropic-billing-header: what?".into()]);
    let alone = read(json!({"system": [{"type": "text", "text": "x-anthropic-billing-header: v=1;"}]}));
    assert_eq!(lines(&alone), ["User: x"], "an empty system prompt is none");
}

/// What a turn adds comes after what was there: the prompt of one request begins with the messages of the one before.
#[test]
fn each_turn_begins_with_the_one_before() {
    let call = json!({"role": "assistant", "content": [
        {"type": "thinking", "thinking": "hm", "signature": "understudy-0"},
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "ls"}},
    ]});
    let result =
        json!({"role": "user", "content": [{"tool_use_id": "toolu_1", "type": "tool_result", "content": "a.txt", "is_error": false}]});
    let late = json!({"role": "system", "content": [{"type": "text", "text": "The file has changed."}]});
    let answer = json!({"role": "assistant", "content": [{"type": "text", "text": "a.txt"}]});
    let next = json!({"role": "user", "content": "thanks"});
    let turns = [call, result, late, answer, next];
    let all = conversation_of(&claude_code("a1b", &turns));
    assert_eq!(
        lines(&all)[2..],
        [
            "(hm) Assistant: I look. -> call_1 Bash({\"command\":\"ls\"})",
            "Tool: a.txt <- call_1",
            "System: The file has changed.",
            "Assistant: a.txt",
            "User: thanks",
        ]
    );
    for turns in [&turns[..0], &turns[..2], &turns[..3], &turns[..5]] {
        let shorter = conversation_of(&claude_code("a1b", turns));
        assert_eq!(shorter.messages[..], all.messages[..shorter.messages.len()]);
        assert_eq!((&shorter.tools, &shorter.thinking), (&all.tools, &all.thinking));
    }
}

#[test]
fn a_string_is_a_block_and_cache_marks_are_nothing() {
    let forms = [
        json!("hello"),
        json!([{"type": "text", "text": "hello"}]),
        json!([{"type": "text", "text": "hello", "cache_control": {"type": "ephemeral"}, "citations": null}]),
        json!(["hello"]),
        json!([{"text": "hello"}, {"type": "text", "text": ""}]),
    ];
    for role in ["user", "assistant", "system"] {
        let conversation = |content: &Value| {
            let first = json!({"role": "user", "content": "x"});
            let second = json!({"role": "assistant", "content": "y"});
            read(json!({"system": content, "messages": [first, second, {"role": role, "content": content}]}))
        };
        for form in &forms[1..] {
            assert_eq!(conversation(form), conversation(&forms[0]), "{role}: {form}");
        }
    }
    let result = |content: Value| {
        read(json!({"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": content}]}]}))
    };
    for form in &forms[1..] {
        assert_eq!(result(form.clone()), result(forms[0].clone()), "{form}");
    }
}

#[test]
fn system_messages() {
    let user = |text: &str| json!({"role": "user", "content": text});
    let system = |text: &str| json!({"role": "system", "content": text});
    let assistant = |text: &str| json!({"role": "assistant", "content": text});
    check(json!([system("a"), user("b"), system("c")]), &["System: a|c", "User: b"]);
    check(
        json!([user("a"), system("b"), user("c"), assistant("d"), system("e"), system("f"), user("g")]),
        &["System: b", "User: a|c", "Assistant: d", "System: e|f", "User: g"],
    );
    check(json!([user("a"), assistant("b"), {"role": "system", "content": []}, user("c")]), &["User: a", "Assistant: b", "User: c"]);
}

#[test]
fn speakers_alternate() {
    let user = |text: &str| json!({"role": "user", "content": text});
    let call = json!({"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_9", "name": "f", "input": {}}]});
    check(
        json!([user("a"), user("b"), {"role": "assistant", "content": "c"}, call, {"role": "assistant", "content": "d"}]),
        &["User: a|b", "Assistant: c -> call_9 f({})", "Assistant: d"],
    );
    check(json!([user("a"), {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"}]}, user("b")]), &["User: a|b"]);
}

#[test]
fn results_come_before_what_is_said_with_them() {
    let result = |id: &str, content: Value| json!({"type": "tool_result", "tool_use_id": id, "content": content});
    let text = |text: &str| json!({"type": "text", "text": text});
    check(
        json!([{"role": "user", "content": [text("and"), result("toolu_a", json!("1")), text("then"), result("x", json!("2"))]}]),
        &["Tool: 1 <- call_a", "Tool: 2 <- x", "User: and|then"],
    );
    check(
        json!([{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x"}, result("y", json!([])), result("z", json!(""))]}]),
        &["Tool:  <- x", "Tool:  <- y", "Tool:  <- z"],
    );
    let failed = |content: Value| json!([{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x", "is_error": true, "content": content}]}]);
    check(failed(json!("exit 1")), &["Tool: Error:|exit 1 <- x"]);
    check(failed(json!("<tool_use_error>no such tool</tool_use_error>")), &["Tool: <tool_use_error>no such tool</tool_use_error> <- x"]);
    check(failed(Value::Null), &["Tool: Error: <- x"]);
    let shown = json!([
        text("seen"),
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "x"}},
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "x"}},
        {"type": "document", "title": "Notes", "source": {"type": "text", "media_type": "text/plain", "data": "plain"}},
        {"type": "tool_reference", "tool_name": "WebFetch"},
        {"type": "search_result", "title": "T", "source": "s", "content": [{"type": "text", "text": "found"}]},
        {"type": "something_new"},
    ]);
    check(
        json!([{"role": "user", "content": [result("x", shown)]}]),
        &["Tool: seen|[image: not shown, this model reads text only]|[document: not shown, this model reads text only]|Notes|plain\
         |[tool: WebFetch]|T s|found|[something_new: not shown, this model reads text only] <- x"],
    );
}

#[test]
fn calls_and_what_their_input_may_be() {
    for (input, arguments) in [
        (json!({"city": "Oslo", "n": 1.50}), "{\"city\":\"Oslo\",\"n\":1.5}"),
        (json!({}), "{}"),
        (Value::Null, "{}"),
        (json!(""), "{}"),
        (json!("{\"a\": 1}"), "{\"a\": 1}"),
        (json!({"__unparsedToolInput": "{\"a\": "}), "{\"a\": "),
        (json!({"__unparsedToolInput": {"raw": 1}}), "{\"raw\":1}"),
        (json!({"__unparsedToolInput": "x", "b": 1}), "{\"__unparsedToolInput\":\"x\",\"b\":1}"),
    ] {
        let call = json!({"type": "tool_use", "id": "toolu_01AbC", "name": "f", "input": input, "caller": {"type": "direct"}});
        let conversation = read(json!({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": [call]}]}));
        let made = &conversation.messages[1].tool_calls[0];
        assert_eq!((made.id.as_str(), made.name.as_str(), made.arguments.as_str()), ("call_01AbC", "f", arguments));
        assert!(!conversation.continues_last, "a call waits for its result");
    }
}

#[test]
fn blocks_of_others_are_passed_over() {
    let search = json!([
        {"type": "thinking", "thinking": "I search.", "signature": "EqoBCkgIARABGAIiQL=="},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}},
        {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [{"type": "web_search_result", "title": "t"}]},
        {"type": "mcp_tool_use", "id": "1", "name": "f", "server_name": "s", "input": {}},
        {"type": "text", "text": "Found.", "citations": [{"type": "web_search_result_location"}]},
    ]);
    check(
        json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": search}, {"role": "user", "content": "y"}]),
        &["User: x", "(I search.) Assistant: Found.", "User: y"],
    );
    let document = json!({"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}});
    check(json!([{"role": "user", "content": [document]}]), &["User: a|b"]);
}

#[test]
fn an_answer_can_be_begun_for_the_model() {
    let prefill = read(json!({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "The answer is ("}]}));
    assert!(prefill.continues_last);
    for last in [
        json!({"role": "assistant", "content": ""}),
        json!({"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}]}),
        json!({"role": "user", "content": "y"}),
    ] {
        assert!(!read(json!({"messages": [{"role": "user", "content": "x"}, last]})).continues_last, "{last}");
    }
}

#[test]
fn thinking() {
    let thinking = |wanted, budget_tokens, effort| Thinking { wanted, budget_tokens, effort };
    for (more, expected) in [
        (json!({}), thinking(Some(false), None, None)),
        (json!({"thinking": null, "output_config": {"effort": "low"}}), thinking(Some(false), None, Some(Effort::Low))),
        (json!({"thinking": {"type": "disabled"}}), thinking(Some(false), None, None)),
        (json!({"thinking": {"type": "enabled", "budget_tokens": 1024}}), thinking(Some(true), Some(1024), None)),
        (json!({"thinking": {"type": "enabled"}}), thinking(Some(true), None, None)),
        (json!({"thinking": {"type": "adaptive"}, "output_config": {"effort": "medium"}}), thinking(None, None, Some(Effort::Medium))),
        (json!({"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}), thinking(None, None, Some(Effort::High))),
        (json!({"thinking": {"type": "adaptive"}, "output_config": {"effort": "a-new-word"}}), thinking(None, None, None)),
    ] {
        assert_eq!(read(more.clone()).thinking, expected, "{more}");
    }
}

#[test]
fn tools_and_choices() {
    let tool = |name: &str| json!({"name": name, "input_schema": {"type": "object"}, "strict": true, "eager_input_streaming": true});
    let search = json!({"type": "web_search_20250305", "name": "web_search"});
    let toolset = json!({"type": "browser_toolset_20260801"});
    let tools = json!([tool("a"), search, {"type": "custom", "name": "b", "input_schema": {}}, toolset]);
    let names = |conversation: &Conversation| conversation.tools.iter().map(|tool| (tool.name.clone(), tool.strict)).collect::<Vec<_>>();
    assert_eq!(names(&read(json!({"tools": tools}))), [("a".into(), true), ("b".into(), false)]);
    for (choice, expected, parallel) in [
        (Value::Null, ToolChoice::Auto, true),
        (json!("auto"), ToolChoice::Auto, true),
        (json!({"type": "auto", "disable_parallel_tool_use": true}), ToolChoice::Auto, false),
        (json!({"type": "any"}), ToolChoice::Required, true),
        (json!({"type": "tool", "name": "b"}), ToolChoice::Named("b".into()), true),
        (json!({"type": "tool", "name": "web_search"}), ToolChoice::None, true),
        (json!({"type": "none"}), ToolChoice::None, true),
    ] {
        let conversation = read(json!({"tools": tools, "tool_choice": choice}));
        assert_eq!((conversation.tool_choice, conversation.parallel_tool_calls), (expected, parallel), "{choice}");
    }
    assert_eq!(read(json!({"tools": [], "tool_choice": {"type": "auto"}})).tools, []);
}

#[test]
fn sampling_and_format() {
    let schema = json!({"type": "object", "properties": {"name": {"type": "string"}}});
    let format = json!({"type": "json_schema", "schema": schema});
    let body = |more: Value| {
        let mut body = json!({"max_tokens": 10, "messages": [{"role": "user", "content": "x"}]});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        read_request(&body)
    };
    for more in [
        json!({"output_config": {"format": format}}),
        json!({"output_format": format}),
        json!({"output_config": {}, "output_format": format}),
    ] {
        assert_eq!(body(more.clone()).output_format, OutputFormat::JsonSchema(schema.clone()), "{more}");
    }
    let request =
        body(json!({"temperature": 0.5, "top_p": 0.9, "top_k": 5, "stop_sequences": ["a", ""], "seed": 7, "output_format": null}));
    let sampling = &request.sampling;
    assert_eq!((sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed), (Some(0.5), Some(0.9), Some(5), Some(7)));
    assert_eq!((request.stop, request.output_format), (vec!["a".to_owned()], OutputFormat::Text));
}

/// Through the server: what Claude Code sends is answered, whatever headers and fields it comes with.
#[test]
fn claude_codes_request_is_answered() {
    let app = TestApp::new();
    let mut body = claude_code("a1b", &[json!({"role": "user", "content": "SAY[[at your service]]"})]);
    body["stream"] = false.into();
    let headers = [
        "Authorization: Bearer sk-fake-local",
        "anthropic-version: 2023-06-01",
        "anthropic-beta: claude-code-20250219,mid-conversation-system-2026-04-07,a-beta-of-tomorrow",
        "user-agent: claude-cli/2.1.197 (external, sdk-cli)",
        "anthropic-dangerous-direct-browser-access: true",
    ];
    let reply = app.send("POST", "/v1/messages?beta=true", &headers, body.to_string().as_bytes());
    assert_eq!(reply.status(), 200, "{}", reply.text());
    assert_eq!(reply.json()["content"], json!([{"type": "text", "text": "at your service"}]));
    assert_eq!(conversation_of(&body).messages[0].role, Role::System);
}
