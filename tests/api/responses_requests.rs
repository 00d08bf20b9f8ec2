//! What `POST /v1/responses` reads: the items and tools of every client, as messages of ours; and what it refuses. No server is needed.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Value, json};
use understudy::api::errors::{ApiError, ErrorKind};
use understudy::api::memory::{Exchange, Memory, NoMemory, Recall};
use understudy::api::openai_responses::OpenAiResponses;
use understudy::api::{Call, Dialect, KeepAlive, ReplyHead};
use understudy::chat::reply::Reply;
use understudy::chat::{
    Conversation, Effort, Event, FinishReason, Message, OutputFormat, Part, Prompt, Role, ScoredToken, TextDelta, Thinking, TokenText,
    ToolCall, ToolChoice, Usage,
};

use crate::support::random::Random;
use crate::support::response_stream::{Folded, check_response, fold};

fn parse(body: &Value) -> Result<Call<OpenAiResponses>, ApiError> {
    OpenAiResponses::parse_with(body.to_string().as_bytes(), &NoMemory)
}

#[track_caller]
fn conversation(body: &Value) -> Conversation {
    match &parse(body).unwrap_or_else(|error| panic!("{}", error.message)).request.prompts[..] {
        [Prompt::Conversation(conversation)] => conversation.clone(),
        other => panic!("{other:?} is no conversation"),
    }
}

fn messages(input: Value) -> Vec<Message> {
    conversation(&json!({"input": input})).messages
}

fn assistant(thinking: Option<&str>, text: Option<&str>, calls: &[(&str, &str, &str)]) -> Message {
    let call =
        |(id, name, arguments): &(&str, &str, &str)| ToolCall { id: (*id).into(), name: (*name).into(), arguments: (*arguments).into() };
    Message {
        content: text.into_iter().map(|text| Part::Text(text.to_owned())).collect(),
        thinking: thinking.map(str::to_owned),
        tool_calls: calls.iter().map(call).collect(),
        ..Message::text(Role::Assistant, "")
    }
}

fn result(call_id: &str, name: Option<&str>, texts: &[&str]) -> Message {
    Message {
        content: texts.iter().map(|text| Part::Text((*text).to_owned())).collect(),
        tool_call_id: Some(call_id.to_owned()),
        name: name.map(str::to_owned),
        ..Message::text(Role::Tool, "")
    }
}

#[test]
fn messages_in_every_form() {
    let user = Message::text(Role::User, "hi");
    assert_eq!(messages(json!("hi")), std::slice::from_ref(&user));
    for content in [json!("hi"), json!([{"type": "input_text", "text": "hi"}]), json!([{"type": "text", "text": "hi"}]), json!(["hi"])] {
        for item in [
            json!({"role": "user", "content": content}),
            json!({"type": "message", "role": "user", "content": content, "id": "msg_1", "status": "completed"}),
        ] {
            assert_eq!(messages(json!([item])), std::slice::from_ref(&user), "{item}");
        }
    }
    let roles = json!([
        {"role": "system", "content": "a"},
        {"role": "developer", "content": "b"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "c", "annotations": [], "logprobs": []}, {"type": "refusal", "refusal": "d"}]},
        {"role": "assistant", "content": "e"},
        {"role": "user", "content": null},
    ]);
    let said = Message { content: vec![Part::Text("c".into()), Part::Text("d".into())], ..Message::text(Role::Assistant, "") };
    assert_eq!(
        messages(roles),
        [
            Message::text(Role::System, "a"),
            Message::text(Role::Developer, "b"),
            said,
            Message::text(Role::Assistant, "e"),
            Message { content: Vec::new(), ..Message::text(Role::User, "") },
        ]
    );
}

#[test]
fn instructions_come_first() {
    for instructions in [json!("Be brief."), json!([{"role": "system", "content": "Be brief."}])] {
        let body = json!({"instructions": instructions, "input": [{"role": "developer", "content": "a"}]});
        assert_eq!(conversation(&body).messages, [Message::text(Role::System, "Be brief."), Message::text(Role::Developer, "a")]);
    }
}

/// What the assistant thinks, says and calls in one turn is one message; results end it.
#[test]
fn a_turn_is_one_message() {
    let input = json!([
        {"role": "user", "content": "go"},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}], "encrypted_content": "opaque"},
        {"type": "message", "role": "assistant", "content": "I will."},
        {"type": "function_call", "id": "fc_1", "status": "completed", "name": "shell", "arguments": "{\"a\": 1}", "call_id": "call_1"},
        {"type": "function_call", "name": "shell", "arguments": "", "call_id": "call_2"},
        {"type": "function_call_output", "id": "fco_1", "call_id": "call_1", "output": "one"},
        {"type": "function_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "two"}, {"type": "input_image", "image_url": "data:"}]},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "so"}, {"type": "reasoning_text", "text": "then"}]},
        {"type": "function_call", "name": "shell", "arguments": "{}", "call_id": "call_3"},
        {"type": "function_call_output", "call_id": "call_3", "output": ""},
        {"type": "reasoning", "summary": [], "encrypted_content": "of another server"},
        {"type": "message", "role": "assistant", "content": "Done."},
    ]);
    assert_eq!(
        messages(input),
        [
            Message::text(Role::User, "go"),
            assistant(Some("hm"), Some("I will."), &[("call_1", "shell", "{\"a\": 1}"), ("call_2", "shell", "{}")]),
            result("call_1", Some("shell"), &["one"]),
            result("call_2", Some("shell"), &["two", "[input_image left out: this model reads text only]"]),
            assistant(Some("so\n\nthen"), None, &[("call_3", "shell", "{}")]),
            result("call_3", Some("shell"), &[""]),
            assistant(None, Some("Done."), &[]),
        ]
    );
}

#[test]
fn items_that_are_nothing_here_are_left_out() {
    let input = json!([
        {"role": "user", "content": "go"},
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "x"}},
        {"type": "local_shell_call", "call_id": "c", "action": {"type": "exec", "command": ["ls"]}},
        {"type": "tool_search_call", "arguments": {}},
        {"type": "something_new", "role": "odd"},
        {"type": "compaction", "encrypted_content": "x"},
    ]);
    assert_eq!(messages(input), [Message::text(Role::User, "go")]);
}

/// The shape of a second request of Codex 0.169, shortened.
fn codex() -> Value {
    let shell = json!({"type": "function", "name": "exec_command", "description": "Runs a command.", "strict": false, "parameters": {"type": "object", "properties": {"cmd": {"type": "string"}}}});
    let plan = json!({"type": "function", "name": "update", "strict": false, "parameters": {"type": "object"}});
    json!({
        "model": "local-model",
        "stream": true,
        "store": false,
        "input": [
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "<permissions>"}, {"type": "input_text", "text": "<skills>"}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "<environment>"}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "go"}]},
            {"type": "function_call", "id": "fc_1", "status": "completed", "name": "update", "namespace": "plans", "arguments": "{}", "call_id": "call_1"},
            {"type": "function_call_output", "id": "fco_1", "call_id": "call_1", "output": "ok"},
            {"type": "custom_tool_call", "status": "completed", "call_id": "call_2", "name": "apply_patch", "input": "*** \"x\"\n"},
            {"type": "custom_tool_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "applied"}]},
        ],
        "tools": [
            shell,
            {"type": "namespace", "name": "plans", "description": "Plans.", "tools": [plan]},
            {"type": "custom", "name": "apply_patch", "description": "Edits files.", "format": {"type": "grammar", "syntax": "lark", "definition": "start: begin+"}},
            {"type": "tool_search", "execution": "client", "description": "", "parameters": {}},
            {"type": "web_search", "external_web_access": false},
        ],
        "tool_choice": "auto",
        "parallel_tool_calls": true,
        "reasoning": {"effort": "medium", "summary": "auto", "context": "auto"},
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "k",
        "text": {"verbosity": "low"},
        "client_metadata": {"x": "y"},
    })
}

#[test]
fn codex_is_understood() {
    let call = parse(&codex()).expect("Codex is understood");
    assert!(call.stream && call.request.choices_per_prompt == 1);
    let conversation = conversation(&codex());
    assert_eq!(conversation.thinking, Thinking { wanted: None, budget_tokens: None, effort: Some(Effort::Medium) });
    assert!(conversation.parallel_tool_calls && conversation.tool_choice == ToolChoice::Auto);
    assert_eq!(
        conversation.messages[3..],
        [
            assistant(None, None, &[("call_1", "plans__update", "{}")]),
            result("call_1", Some("plans__update"), &["ok"]),
            assistant(None, None, &[("call_2", "apply_patch", "{\"input\":\"*** \\\"x\\\"\\n\"}")]),
            result("call_2", Some("apply_patch"), &["applied"]),
        ]
    );
    let tools: Vec<(&str, Option<&str>, bool)> =
        conversation.tools.iter().map(|tool| (tool.name.as_str(), tool.description.as_deref(), tool.strict)).collect();
    assert_eq!(
        tools,
        [
            ("exec_command", Some("Runs a command."), false),
            ("plans__update", None, false),
            ("apply_patch", Some("Edits files.\n\n`input` must match this Lark grammar:\nstart: begin+"), true),
        ]
    );
    assert_eq!(
        conversation.tools[2].parameters,
        Some(json!({"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"], "additionalProperties": false}))
    );
}

/// What a turn adds stands after everything that was there: all but the new tokens comes from the cache.
#[test]
fn a_turn_of_codex_goes_on_from_the_one_before() {
    let mut earlier = codex();
    earlier["input"].as_array_mut().expect("items").truncate(3);
    let (earlier, later) = (conversation(&earlier), conversation(&codex()));
    assert_eq!(later.messages[..3], earlier.messages);
    assert_eq!(later.tools, earlier.tools);
}

#[test]
fn tools_may_stand_among_the_items() {
    let tools = json!([{"type": "custom", "name": "exec"}, {"type": "function", "name": "wait", "parameters": {"type": "object"}}]);
    let input = json!([{"type": "additional_tools", "role": "developer", "tools": tools}, {"role": "user", "content": "go"}]);
    let conversation = conversation(&json!({"input": input, "tool_choice": {"type": "custom", "name": "exec"}}));
    assert_eq!(conversation.tools.iter().map(|tool| tool.name.as_str()).collect::<Vec<_>>(), ["exec", "wait"]);
    assert_eq!((conversation.messages.len(), conversation.tool_choice), (1, ToolChoice::Named("exec".into())));
}

#[test]
fn names_of_tools_do_not_collide() {
    let function = |name: &str| json!({"type": "function", "name": name});
    let tools = json!([
        function("a__b"),
        {"type": "namespace", "name": "a", "tools": [function("b"), function("c")]},
        {"type": "namespace", "name": "mcp__x__", "tools": [function("b")]},
        {"type": "function", "name": "a__b", "description": "defined again"},
        {"type": "namespace", "name": "a", "tools": [function("c")]},
    ]);
    let conversation = conversation(&json!({"input": "x", "tools": tools}));
    let names: Vec<&str> = conversation.tools.iter().map(|tool| tool.name.as_str()).collect();
    assert_eq!(names, ["a__b", "a__b_2", "a__c", "mcp__x__b"]);
    assert_eq!(conversation.tools[0].description.as_deref(), Some("defined again"));
}

#[test]
fn tool_choice_in_every_form() {
    let tools = json!([
        {"type": "function", "name": "f"},
        {"type": "custom", "name": "c"},
        {"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "g"}, {"type": "function", "name": "f"}]},
        {"type": "web_search"},
    ]);
    let named = |name: &str| ToolChoice::Named(name.into());
    let allowed = |names: &[&str], required| ToolChoice::Allowed { names: names.iter().map(|name| (*name).to_owned()).collect(), required };
    for (choice, expected) in [
        (json!(null), ToolChoice::Auto),
        (json!("auto"), ToolChoice::Auto),
        (json!("none"), ToolChoice::None),
        (json!("required"), ToolChoice::Required),
        (json!({"type": "function", "name": "f"}), named("f")),
        (json!({"type": "function", "function": {"name": "f"}}), named("f")),
        (json!({"type": "function", "name": "g"}), named("n__g")),
        (json!({"type": "function", "name": "f", "namespace": "n"}), named("n__f")),
        (json!({"type": "custom", "name": "c"}), named("c")),
        (json!({"type": "web_search_preview"}), ToolChoice::Auto),
        (json!({"type": "mcp", "server_label": "x"}), ToolChoice::Auto),
        (
            json!({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}, {"type": "mcp", "server_label": "x"}]}),
            allowed(&["f"], false),
        ),
        (
            json!({"type": "allowed_tools", "mode": "required", "tools": [{"type": "custom", "name": "c"}, {"name": "g"}]}),
            allowed(&["c", "n__g"], true),
        ),
        (json!({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "web_search"}]}), ToolChoice::None),
    ] {
        assert_eq!(conversation(&json!({"input": "x", "tools": tools, "tool_choice": choice})).tool_choice, expected, "{choice}");
    }
    let hosted = json!({"input": "x", "tools": [{"type": "web_search"}], "tool_choice": "required"});
    assert_eq!(conversation(&hosted).tool_choice, ToolChoice::Auto, "none of the tools is known, and a text is better than nothing");
}

#[test]
fn formats_and_limits() {
    let schema = json!({"type": "object", "properties": {}});
    let format = |format: Value| parse(&json!({"input": "x", "text": {"format": format}})).expect("a format").request.output_format;
    assert_eq!(format(json!({"type": "text"})), OutputFormat::Text);
    assert_eq!(format(json!({"type": "json_object"})), OutputFormat::JsonObject);
    assert_eq!(format(json!({"type": "json_schema", "name": "n", "strict": true, "schema": schema})), OutputFormat::JsonSchema(schema));
    let body = json!({"input": "x", "max_output_tokens": 7, "temperature": 0.5, "top_p": 0.9, "n": 3, "reasoning": {"effort": "none"}});
    let request = parse(&body).expect("a request").request;
    assert_eq!((request.tokens_max, request.sampling.temperature, request.sampling.top_p), (Some(7), Some(0.5), Some(0.9)));
    assert_eq!(request.choices_per_prompt, 1, "a response is one");
    assert_eq!(conversation(&body).thinking.wanted, Some(false));
}

#[test]
fn what_cannot_be_names_the_field() {
    let with_item = |item: Value| json!({"input": [item]});
    let with_tool = |tool: Value| json!({"input": "x", "tools": [tool]});
    let with_choice = |choice: Value| json!({"input": "x", "tools": [{"type": "function", "name": "f"}], "tool_choice": choice});
    for (body, param, says) in [
        (json!({}), "input", "holds nothing"),
        (json!({"input": []}), "input", "holds nothing"),
        (json!({"input": [{"type": "web_search_call"}]}), "input", "holds nothing"),
        (json!({"input": 3}), "input", "a string or an array of items, not a number"),
        (with_item(json!("hi")), "input[0]", "must be an object"),
        (with_item(json!({"content": "x"})), "input[0].type", "is required"),
        (with_item(json!({"type": 3})), "input[0].type", "must be a string"),
        (with_item(json!({"type": "message", "content": "x"})), "input[0].role", "is required"),
        (with_item(json!({"role": "robot", "content": "x"})), "input[0].role", "must be system, developer, user or assistant"),
        (with_item(json!({"role": "user", "content": 3})), "input[0].content", "a string or an array of parts"),
        (
            with_item(json!({"role": "user", "content": [{"type": "input_image", "image_url": "x"}]})),
            "input[0].content[0]",
            "reads text only",
        ),
        (with_item(json!({"role": "user", "content": [{"type": "input_text"}]})), "input[0].content[0].text", "is required"),
        (with_item(json!({"type": "function_call", "arguments": "{}", "call_id": "c"})), "input[0].name", "is required"),
        (with_item(json!({"type": "function_call", "name": "f", "arguments": "{}"})), "input[0].call_id", "is required"),
        (
            with_item(json!({"type": "function_call", "name": "f", "call_id": "c", "arguments": 3})),
            "input[0].arguments",
            "a string of JSON",
        ),
        (with_item(json!({"type": "custom_tool_call", "name": "f", "call_id": "c", "input": {}})), "input[0].input", "must be a string"),
        (with_item(json!({"type": "function_call_output", "output": "x"})), "input[0].call_id", "is required"),
        (with_item(json!({"type": "reasoning", "summary": "x"})), "input[0].summary", "must be an array"),
        (with_item(json!({"type": "additional_tools", "tools": [{"type": "function"}]})), "input[0].tools[0].name", "is required"),
        (with_tool(json!("f")), "tools[0]", "must be an object"),
        (with_tool(json!({"type": "function"})), "tools[0].name", "is required"),
        (with_tool(json!({"type": "function", "name": ""})), "tools[0].name", "is empty"),
        (with_tool(json!({"type": "function", "name": "f", "parameters": []})), "tools[0].parameters", "must be an object"),
        (with_tool(json!({"type": "namespace", "tools": []})), "tools[0].name", "is required"),
        (with_tool(json!({"type": "namespace", "name": "n", "tools": [{"type": "custom"}]})), "tools[0].tools[0].name", "is required"),
        (with_tool(json!({"type": "custom", "name": "c", "format": {"type": "grammar"}})), "tools[0].format.definition", "is required"),
        (
            with_tool(json!({"type": "custom", "name": "c", "format": {"type": "grammar", "syntax": "ebnf", "definition": "x"}})),
            "tools[0].format.syntax",
            "must be lark or regex",
        ),
        (with_choice(json!("maybe")), "tool_choice", "must be auto, none, required or an object"),
        (with_choice(json!(3)), "tool_choice", "a string or an object"),
        (with_choice(json!({})), "tool_choice.type", "is required"),
        (with_choice(json!({"type": "function", "name": "g"})), "tool_choice.name", "not among the `tools`"),
        (with_choice(json!({"type": "allowed_tools"})), "tool_choice.tools", "is required"),
        (with_choice(json!({"type": "allowed_tools", "mode": "some", "tools": []})), "tool_choice.mode", "must be auto or required"),
        (with_choice(json!({"type": "allowed_tools", "mode": "required", "tools": []})), "tool_choice.tools", "no tool"),
        (
            with_choice(json!({"type": "allowed_tools", "tools": [{"type": "function", "name": "g"}]})),
            "tool_choice.tools[0].name",
            "not among",
        ),
        (json!({"input": "x", "tool_choice": "required"}), "tool_choice", "there are no `tools`"),
        (json!({"input": "x", "background": true}), "background", "must be false"),
        (json!({"input": "x", "conversation": "conv_1"}), "conversation", "is not supported"),
        (json!({"prompt": {"id": "p"}}), "prompt", "is not supported"),
        (json!({"input": "x", "previous_response_id": 3}), "previous_response_id", "must be a string"),
        (json!({"input": "x", "instructions": 3}), "instructions", "a string or an array of items"),
        (json!({"input": "x", "max_output_tokens": 0}), "max_output_tokens", "at least 1"),
        (json!({"input": "x", "temperature": 3}), "temperature", "between 0 and 2"),
        (json!({"input": "x", "top_logprobs": 21}), "top_logprobs", "between 0 and 20"),
        (json!({"input": "x", "reasoning": {"effort": "huge"}}), "reasoning.effort", "must be none"),
        (json!({"input": "x", "reasoning": "high"}), "reasoning", "must be an object"),
        (json!({"input": "x", "text": {"format": {}}}), "text.format.type", "is required"),
        (json!({"input": "x", "text": {"format": {"type": "xml"}}}), "text.format.type", "must be text"),
        (json!({"input": "x", "text": {"format": {"type": "json_schema", "name": "n"}}}), "text.format.schema", "is required"),
        (json!({"input": "x", "metadata": []}), "metadata", "must be an object"),
        (json!({"input": "x", "metadata": {"a": 1}}), "metadata.a", "must be a string"),
        (json!({"input": "x", "metadata": {"a": "x".repeat(513)}}), "metadata.a", "more than 512"),
        (json!({"input": "x", "metadata": {"k".repeat(65): "x"}}), "metadata", "more than 64"),
        (json!({"input": "x", "store": "yes"}), "store", "true or false"),
        (json!({"input": "x", "include": "all"}), "include", "must be an array"),
    ] {
        let error = parse(&body).err().unwrap_or_else(|| panic!("{body} passes"));
        assert_eq!((error.kind, error.param.as_deref()), (ErrorKind::InvalidRequest, Some(param)), "{body}: {}", error.message);
        assert!(error.message.contains(says), "{body}: {} lacks {says:?}", error.message);
    }
}

/// Replies by their ids, as a server keeps them.
struct Kept(HashMap<String, Vec<Arc<Exchange>>>);

impl Memory for Kept {
    fn recall(&self, id: &str) -> Recall {
        self.0.get(id).map_or(Recall::Unknown, |exchanges| Recall::Kept(exchanges.clone()))
    }
}

/// What a conversation was, item by item, is what it is when it is gone on from by id: thinking, texts, calls and results.
#[test]
fn to_go_on_by_id_is_to_send_everything_again() {
    let body = codex_stored();
    let call = parse(&body).expect("a request");
    let head = head();
    let reply = folded_reply(&said_by_the_model());
    let whole: Value = serde_json::from_str(&call.dialect.whole(&head, vec![reply], Usage::default())).expect("JSON");
    let mut record = call.dialect.record(&head).expect("it is to be kept");
    record.exchange.reply = whole.to_string();
    let memory = Kept(HashMap::from([(record.exchange.id.clone(), vec![Arc::new(record.exchange)])]));

    let next = json!({"role": "user", "content": "and now?"});
    let mut by_id = body.clone();
    by_id["input"] = json!([next]);
    by_id["previous_response_id"] = whole["id"].clone();
    let mut in_full = body;
    let output = whole["output"].as_array().expect("items").clone();
    in_full["input"].as_array_mut().expect("items").extend(output.into_iter().chain([next]));
    let by_id = OpenAiResponses::parse_with(by_id.to_string().as_bytes(), &memory).expect("a request").request;
    assert_eq!(by_id, parse(&in_full).expect("a request").request);
    let Prompt::Conversation(conversation) = &by_id.prompts[0] else { panic!("a conversation") };
    let spoken = &conversation.messages[conversation.messages.len() - 3];
    assert_eq!(spoken.thinking.as_deref(), Some("Hm, well."));
    assert_eq!(spoken.tool_calls.iter().map(|call| call.name.as_str()).collect::<Vec<_>>(), ["plans__update", "apply_patch"]);
    assert_eq!(spoken.tool_calls[1].arguments, "{\"input\":\"a \\\"patch\\\"\\n\"}");
}

fn codex_stored() -> Value {
    let mut body = codex();
    body["store"] = true.into();
    body
}

fn head() -> ReplyHead {
    ReplyHead { id: "0123abcd".into(), created_unix_s: 1_772_448_545, model: "m".into(), choices: 1, prompt_tokens: 0 }
}

fn text(text: &str) -> Event {
    Event::Text(TextDelta { text: text.into(), tokens: Vec::new() })
}

fn finished(reason: FinishReason) -> Event {
    Event::Finished { reason, usage: Usage { prompt_tokens: 3, cached_tokens: 1, completion_tokens: 5, thinking_tokens: 2 } }
}

/// A call in pieces.
fn called(index: usize, name: &str, pieces: &[&str]) -> Vec<Event> {
    let mut events = vec![Event::ToolCallStarted { index, id: format!("call_{index}"), name: name.into() }];
    events.extend(pieces.iter().map(|piece| Event::ToolCallArguments { index, json: (*piece).into() }));
    events.push(Event::ToolCallEnded { index });
    events
}

fn said_by_the_model() -> Vec<Event> {
    let mut events = vec![Event::Thinking("Hm, ".into()), Event::Thinking("well.".into()), text("Let me "), text("see.")];
    events.extend(called(0, "plans__update", &["{\"steps\"", ": []}"]));
    events.extend(called(1, "apply_patch", &["{\"in", "put\": \"a \\", "\"patch\\\"\\n", "\"}"]));
    events.extend([text("So."), finished(FinishReason::ToolCalls)]);
    events
}

fn folded_reply(events: &[Event]) -> Reply {
    let mut reply = Reply::default();
    for event in events {
        reply.push(event.clone()).expect("the model is well");
    }
    reply
}

/// The stream of these events, which is the same as their whole response.
#[track_caller]
fn play(body: &Value, events: &[Event]) -> (Folded, String) {
    let mut dialect = parse(body).expect("a request").dialect;
    let head = head();
    let mut frames = Vec::new();
    dialect.open(&head, &mut frames);
    for event in events {
        if frames.len() % 7 == 0
            && let KeepAlive::Frame(frame) = dialect.keep_alive(&head)
        {
            frames.push(frame);
        }
        dialect.event(&head, 0, event.clone(), &mut frames);
    }
    let reply = folded_reply(events);
    let usage = reply.usage;
    let whole = parse(body).expect("a request").dialect.whole(&head, vec![reply], usage);
    let whole: Value = serde_json::from_str(&whole).expect("JSON");
    dialect.close(&head, usage, &mut frames);
    let transcript = frames.iter().map(|frame| format!("{}\n", frame.data)).collect();
    let folded = fold(frames.into_iter().map(|frame| (frame.event.expect("events have names").to_owned(), frame.data)));
    check_response(&whole);
    assert_eq!(folded.response, whole);
    (folded, transcript)
}

#[test]
fn thinking_is_a_summary_that_codex_shows() {
    let (folded, transcript) = play(&json!({"input": "x", "tools": codex()["tools"]}), &said_by_the_model());
    let summary = json!([{"type": "summary_text", "text": "Hm, well."}]);
    assert_eq!((&folded.response["output"][0]["type"], &folded.response["output"][0]["summary"]), (&json!("reasoning"), &summary));
    assert_eq!(folded.response["usage"]["output_tokens_details"]["reasoning_tokens"], 2);
    assert_eq!(folded.response["output"][3]["input"], "a \"patch\"\n");
    insta::assert_snapshot!("response_stream_thinking", transcript);
}

#[test]
fn a_call_that_breaks_off_is_incomplete() {
    let tools = codex()["tools"].clone();
    for (name, pieces, content) in [
        ("exec_command", &["{\"cmd\": \"ls"][..], "{\"cmd\": \"ls"),
        ("exec_command", &[], ""),
        ("apply_patch", &["{\"input\": \"a\\", "nb\\"], "a\nb\\"),
        ("apply_patch", &["{\"inp"], "{\"inp"),
    ] {
        let events = [called(0, name, pieces), vec![finished(FinishReason::Length)]].concat();
        let (folded, _) = play(&json!({"input": "x", "tools": tools}), &events);
        let item = &folded.response["output"][0];
        assert_eq!((&item["status"], &folded.response["status"]), (&json!("incomplete"), &json!("incomplete")));
        assert_eq!(item.get("input").or(item.get("arguments")), Some(&json!(content)), "{pieces:?}");
        assert_eq!(folded.deltas.concat(), content);
    }
}

#[test]
fn what_is_incomplete_says_why() {
    for (reason, says) in [(FinishReason::Length, "max_output_tokens"), (FinishReason::Refused, "content_filter")] {
        let (folded, _) = play(&json!({"input": "x"}), &[text("a"), finished(reason)]);
        assert_eq!(folded.response["incomplete_details"], json!({"reason": says}));
    }
}

#[test]
fn any_order_of_events_keeps_the_grammar() {
    let tools = codex()["tools"].clone();
    for seed in 0..500 {
        let mut random = Random(seed);
        let mut events = Vec::new();
        let mut calls = 0;
        for step in 0..random.below(12) {
            let piece = ["", "a", "é😀", "\"\\\n"][random.below(4) as usize];
            match random.below(4) {
                0 => events.push(Event::Thinking(piece.into())),
                1 | 2 => {
                    let token = TokenText { bytes: piece.into() };
                    let token = ScoredToken { token, logprob: Some(-0.5), top: Vec::new(), text_offset: step as usize };
                    let tokens = if random.chance(500) { vec![token] } else { Vec::new() };
                    events.push(Event::Text(TextDelta { text: piece.into(), tokens }));
                }
                _ => {
                    let arguments = json!({"input": piece}).to_string();
                    let cut = (0..=arguments.len()).filter(|at| arguments.is_char_boundary(*at)).nth(random.below(8) as usize).unwrap_or(0);
                    let name = ["exec_command", "apply_patch", "plans__update", "unheard_of"][random.below(4) as usize];
                    let pieces = [&arguments[..cut], if random.chance(900) { &arguments[cut..] } else { "" }];
                    events.extend(called(calls, name, &pieces));
                    calls += 1;
                }
            }
        }
        let stopped = FinishReason::StopString("x".into());
        let reason = [FinishReason::EndOfTurn, FinishReason::Length, FinishReason::ToolCalls, FinishReason::Refused, stopped];
        events.push(finished(reason[random.below(5) as usize].clone()));
        let include = if random.chance(500) { json!(["message.output_text.logprobs"]) } else { json!([]) };
        play(&json!({"input": "x", "tools": tools, "include": include}), &events);
    }
}

#[test]
fn a_stream_that_cannot_go_on_says_what_was_there() {
    for (error, status, code) in [
        (ApiError::engine_failed("no memory"), "failed", json!("server_error")),
        (ApiError::draining(), "failed", json!("server_error")),
        (ApiError::invalid("input", "too long").with_code("context_length_exceeded"), "failed", json!("context_length_exceeded")),
        (ApiError::cancelled(), "cancelled", Value::Null),
    ] {
        for events in [Vec::new(), vec![text("a")], said_by_the_model()[..6].to_vec()] {
            let mut dialect = parse(&codex()).expect("a request").dialect;
            let (head, mut frames) = (head(), Vec::new());
            dialect.open(&head, &mut frames);
            events.into_iter().for_each(|event| dialect.event(&head, 0, event, &mut frames));
            dialect.fail(&head, &error, &mut frames);
            let folded = fold(frames.into_iter().map(|frame| (frame.event.expect("a name").to_owned(), frame.data)));
            assert_eq!((folded.response["status"].as_str(), &folded.response["error"]["code"]), (Some(status), &code));
        }
    }
}
