//! The local model goes on where somebody else stopped: in text, in a call's arguments, in the stream of each dialect. Nothing is said
//! twice, nothing is lost, and no call is closed that is not valid.

use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::{Value, json};
use understudy::api::anthropic_messages::AnthropicMessages;
use understudy::api::openai_chat::OpenAiChat;
use understudy::api::openai_responses::OpenAiResponses;
use understudy::api::{Dialect, Frame, ReplyHead};
use understudy::chat::begun::{BegunContent, BegunPiece, BegunReply};
use understudy::chat::prepare::{PrepareError, Surroundings};
use understudy::chat::{
    Conversation, Event, FinishReason, Message, OutputFormat, Prompt, Request, Role, SamplingOptions, TextDelta, ToolDefinition, Usage,
    schema_check,
};

use understudy::server::generate::{CannotGoOn, begin_with};
use understudy::server::request_log::RequestLog;

use crate::grammar::cases::CASES;
use crate::support::built_in::{AT_ONCE, BuiltIn};
use crate::support::chat_stream::read_chat_stream;
use crate::support::http_client::{Head, Reply, Sse, split_event};
use crate::support::messages_stream::read_messages_stream;
use crate::support::response_stream::read_response_stream;
use crate::support::test_app::TestApp;

/// Sixty words, with what is hard to cut: characters of several bytes, two spaces, line breaks, marks of Markdown, a word that looks like a tag.
const TEXT: &str = "The lighthouse keeper's na\u{ef}ve daughter counted international ships, one by one: **seven** before noon,  twelve \
after.\n\n- \u{e9}t\u{e9}: calm\n- hiver: 12.5 m waves\n\nShe wrote `log.push(ship)` in her book <for tea> and drew a \u{1d11e} beside it; \
nobody asked why. \u{65e5}\u{672c}\u{8a9e} sailors waved, the foghorn answered, and the counterclockwise lamp went on turning until morning \
came without any interruption whatsoever, at last. ";

const ARGUMENTS: &str = r#"{"path": "src/ma\u00efn.rs", "limit": 12.5e1, "list": [1, 2]}"#;

fn script(text: &str) -> String {
    format!("[default]\ntext = {}\n", Value::from(text))
}

fn asking(text: &str) -> Conversation {
    Conversation { messages: vec![Message::text(Role::User, text)], parallel_tool_calls: true, ..Conversation::default() }
}

fn request(conversation: Conversation) -> Request {
    let sampling = SamplingOptions { temperature: Some(0.0), ..SamplingOptions::default() };
    Request { prompts: vec![Prompt::Conversation(conversation)], choices_per_prompt: 1, sampling, ..Request::default() }
}

fn piece(content: BegunContent, open: bool) -> BegunPiece {
    BegunPiece { id: None, content, open }
}

fn text(text: &str) -> BegunContent {
    BegunContent::Text(text.to_owned())
}

fn call(name: &str, arguments: &str) -> BegunContent {
    BegunContent::ToolCall { call_id: "call_before".into(), name: name.into(), arguments: arguments.into() }
}

fn begun(pieces: Vec<BegunPiece>) -> BegunReply {
    BegunReply { id: "msg_other".into(), created_unix_s: 7, model: "other-model".into(), pieces, usage: Usage::default(), frames: 0 }
}

fn going_on(request: &Request, pieces: Vec<BegunPiece>) -> Request {
    Request { begun: Some(begun(pieces)), ..request.clone() }
}

fn cuts(text: &str) -> impl Iterator<Item = usize> {
    (0..=text.len()).filter(|&at| text.is_char_boundary(at))
}

fn events(model: &mut BuiltIn, requests: &[Request]) -> Vec<Vec<Event>> {
    requests.chunks(AT_ONCE).flat_map(|requests| model.events(requests)).collect()
}

fn text_of(events: &[Event]) -> String {
    events.iter().filter_map(|event| if let Event::Text(delta) = event { Some(delta.text.as_str()) } else { None }).collect()
}

#[track_caller]
fn finish_of(events: &[Event]) -> (FinishReason, Usage) {
    match events.last() {
        Some(Event::Finished { reason, usage }) => (reason.clone(), *usage),
        other => panic!("it ends with {other:?}"),
    }
}

/// The arguments' rest; the events are those of one call's end.
#[track_caller]
fn rest_of_call(events: &[Event], index: usize) -> String {
    assert_eq!(finish_of(events).0, FinishReason::ToolCalls);
    assert_eq!(events[events.len() - 2], Event::ToolCallEnded { index });
    let pieces = events[..events.len() - 2].iter().map(|event| match event {
        Event::ToolCallArguments { index: of, json } if *of == index => json.as_str(),
        other => panic!("{other:?} within the arguments"),
    });
    pieces.collect()
}

#[test]
fn a_text_goes_on_from_every_place() {
    let mut model = BuiltIn::scripted(&script(TEXT));
    let request = request(asking("Tell me."));
    let requests: Vec<Request> = cuts(TEXT).map(|at| going_on(&request, vec![piece(text(&TEXT[..at]), true)])).collect();
    assert!(requests.len() > 350);
    for (at, events) in cuts(TEXT).zip(events(&mut model, &requests)) {
        assert_eq!(text_of(&events), TEXT[at..], "after {:?}", &TEXT[..at]);
        assert_eq!(finish_of(&events).0, FinishReason::EndOfTurn);
    }
}

#[test]
fn thinking_is_left_out_and_what_was_thought_is_not_shown_to_the_model() {
    let mut model = BuiltIn::scripted(&format!("[default]\nthinking = 'Hm.'\ntext = {}\n", Value::from(TEXT)));
    let request = request(asking("Tell me."));
    let thought = || piece(BegunContent::Thinking("A secret.".into()), false);
    let cut = TEXT.find("foghorn").expect("it is there");
    let requests = [
        going_on(&request, vec![thought(), piece(text(&TEXT[..cut + 3]), true)]),
        going_on(&request, vec![thought()]),
        going_on(&request, vec![piece(BegunContent::Thinking("A sec".into()), true)]),
        going_on(&request, vec![piece(text(""), true)]),
    ];
    for request in &requests {
        let jobs = model.text.prepare(request, Surroundings { now_unix_s: 0, random: 1, prompt_tokens_max: 2000 }).expect("a good request");
        let tokenizer = &model.text.tokenizer;
        let prompt: Vec<u8> = jobs[0].generate.prompt.iter().flat_map(|&id| tokenizer.token_bytes(id, true)).copied().collect();
        let prompt = String::from_utf8(prompt).expect("the prompt is text");
        assert!(!prompt.contains("sec"), "{prompt}");
        assert!(prompt.contains("assistant\n<think>\n\n</think>\n\n"), "{prompt}");
    }
    let expected = [&TEXT[cut + 3..], TEXT, TEXT, TEXT];
    for (events, expected) in events(&mut model, &requests).iter().zip(expected) {
        assert_eq!(text_of(events), expected);
        assert!(!events.iter().any(|event| matches!(event, Event::Thinking(_))));
    }
}

#[test]
fn the_built_in_model_goes_on_as_if_nothing_had_happened() {
    let mut model = BuiltIn::new();
    let mut answers = 0;
    for question in ["Tell me a story about a ship.", "What is a hash map?", "Write a short poem about the sea.", "Hello!", "Who are you?"]
    {
        let whole_request = Request { tokens_max: Some(40), ..request(asking(question)) };
        let whole = &events(&mut model, std::slice::from_ref(&whole_request))[0];
        let (reason, usage) = finish_of(whole);
        let whole = text_of(whole);
        assert!(whole.len() > 20, "{whole:?}");
        let tokens = model.text.tokenizer.encode(&whole, false).expect("text is tokens");
        // A small model may write a word in other tokens than those in which it reads it: then nothing says what it would have done.
        if tokens.len() != usage.completion_tokens {
            continue;
        }
        answers += 1;
        let mut ends: Vec<usize> = tokens
            .iter()
            .scan(0, |end, &token| {
                *end += model.text.tokenizer.token_bytes(token, false).len();
                Some(*end)
            })
            .filter(|&end| whole.is_char_boundary(end))
            .collect();
        ends.pop();
        let requests: Vec<Request> = ends.iter().map(|&end| going_on(&whole_request, vec![piece(text(&whole[..end]), true)])).collect();
        for (end, events) in ends.iter().zip(events(&mut model, &requests)) {
            assert_eq!(text_of(&events), whole[*end..], "after {:?}", &whole[..*end]);
            let finish = finish_of(&events);
            assert_eq!((finish.0, finish.1.completion_tokens), (reason.clone(), usage.completion_tokens), "after {:?}", &whole[..*end]);
        }
    }
    assert!(answers >= 2, "{answers} answers in the tokens in which they are read");
}

/// Of a call of `read`, whose schema has its properties in the order of these names.
fn reading(names: &[&str], more: Value) -> Conversation {
    let properties = json!({
        "path": {"type": "string"}, "limit": {"type": "number", "minimum": 0}, "list": {"type": "array", "items": {"type": "integer"}},
        "note": {"type": "string", "maxLength": 8}
    });
    let mut schema = json!({"type": "object", "properties": {}, "required": ["path", "limit", "list"]});
    for name in names {
        schema["properties"][name] = properties[name].clone();
    }
    schema.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let tool = |name: &str| ToolDefinition { name: name.into(), description: None, parameters: Some(schema.clone()), strict: false };
    Conversation { tools: vec![tool("other"), tool("read")], ..asking("Read it.") }
}

/// A number with an exponent that may go on: no grammar follows the schema there, and a weak model has no other reason to write what the
/// schema asks for.
fn is_under_no_schema(begun: &str) -> bool {
    let number = begun.rsplit([':', ' ']).next().expect("there is a last part");
    number.starts_with('1') && number.contains(['e', 'E']) && !number.contains(',')
}

#[track_caller]
fn check_arguments(conversation: &Conversation, json: &str) -> Value {
    let value: Value = serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}"));
    let judge = jsonschema::validator_for(conversation.tools[1].parameters.as_ref().expect("it has some")).expect("a schema");
    assert!(judge.is_valid(&value), "{json}");
    value
}

#[test]
fn arguments_go_on_from_every_place() {
    let script = "[default]\ncalls = [{ tool = 'read', arguments = { path = 'src/maïn.rs', limit = 125.0, list = [1, 2] } }]\n";
    let mut model = BuiltIn::scripted(script);
    let spaced = "{ \"list\":[ 1 ,\n\t\t2],\r\n  \"note\" : \"\\\"a\\\\\" ,\"limit\":1E2 , \"path\":\"\\ud834\\udd1e/{[\" }";
    for (conversation, arguments) in [
        (reading(&["path", "limit", "list"], json!({})), ARGUMENTS),
        (reading(&["list", "note", "path", "limit"], json!({})), ARGUMENTS),
        (reading(&["path", "limit", "list", "note"], json!({})), spaced),
        (reading(&["note", "path", "list", "limit"], json!({"minProperties": 3, "not": {"required": ["never"]}})), spaced),
    ] {
        let all = [piece(text("I look."), false), piece(call("other", "{\"path\": \"a\"}"), false)];
        for (before, step) in [(&all[..0], 1), (&all[..1], 7), (&all[..], 11)] {
            let with = |at: usize| [before, &[piece(call("read", &arguments[..at]), true)]].concat();
            let requests: Vec<Request> =
                cuts(arguments).step_by(step).map(|at| going_on(&request(conversation.clone()), with(at))).collect();
            let index = usize::from(before.len() == 2);
            for (at, events) in cuts(arguments).step_by(step).zip(events(&mut model, &requests)) {
                let begun = &arguments[..at];
                if matches!(events.last(), Some(Event::Failed(_))) {
                    assert!(is_under_no_schema(begun), "{begun}: {events:?}");
                    assert!(!events.iter().any(|event| matches!(event, Event::ToolCallEnded { .. })));
                    continue;
                }
                let value = check_arguments(&conversation, &[begun, &rest_of_call(&events, index)].concat());
                if arguments == ARGUMENTS {
                    assert!(value["path"].as_str().expect("text").starts_with("src/ma") || at < 16, "{value}");
                }
            }
        }
    }
}

#[test]
fn arguments_are_json_in_every_format_of_calls() {
    const HEAD: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}";
    const TAIL: &str = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    let conversation = reading(&["path", "limit", "list"], json!({}));
    for marks in [
        "<tool_call><function=",
        "<arg_key></arg_key><arg_value>",
        "[TOOL_CALLS][ARGS]",
        "<tool_call>",
        "<|python_tag|>",
        "<|tool_call_start|>",
        "<start_function_call>",
        "<｜tool▁calls▁begin｜>",
        "no calls at all",
    ] {
        let mut model = BuiltIn::with_template(&format!("{HEAD}{{# {marks} #}}{TAIL}"));
        let requests: Vec<Request> = cuts(ARGUMENTS)
            .step_by(7)
            .map(|at| {
                let pieces =
                    vec![piece(text("I look."), false), piece(call("other", "{}"), false), piece(call("read", &ARGUMENTS[..at]), true)];
                Request { tokens_max: Some(300), ..going_on(&request(conversation.clone()), pieces) }
            })
            .collect();
        for (at, events) in cuts(ARGUMENTS).step_by(7).zip(events(&mut model, &requests)) {
            if let Some(Event::Failed(message)) = events.last() {
                assert!(is_under_no_schema(&ARGUMENTS[..at]), "{marks}: {message}, {events:?}");
                continue;
            }
            check_arguments(&conversation, &[&ARGUMENTS[..at], &rest_of_call(&events, 1)].concat());
        }
    }
}

#[test]
fn what_cannot_be_gone_on_with_is_refused_or_fails_and_no_call_is_closed() {
    let mut model = BuiltIn::scripted(&script(TEXT));
    let conversation = reading(&["path", "limit", "list"], json!({}));
    let prepared = |request: &Request| {
        let surroundings = Surroundings { now_unix_s: 0, random: 1, prompt_tokens_max: 2000 };
        model.text.prepare(request, surroundings).map(|_| ()).expect_err("it cannot be gone on with")
    };
    let open = |name: &str, arguments: &str| going_on(&request(conversation.clone()), vec![piece(call(name, arguments), true)]);
    assert!(matches!(prepared(&open("write", "{")), PrepareError::BegunCallsUnknownTool(name) if name == "write"));
    for broken in ["[", "x", "{]", "{\"a\" 1", "{} {", "{\"a\": 01"] {
        let error = prepared(&open("read", broken));
        assert!(matches!(&error, PrepareError::BegunArgumentsAreNoJson { tool, .. } if tool == "read"), "{broken}: {error}");
    }
    let two = Request { choices_per_prompt: 2, ..open("read", "{") };
    assert!(matches!(prepared(&two), PrepareError::BegunIsNotOneReply));
    // A key that is said twice, the second time of the wrong kind; what the schema forbids; tokens that are spent.
    let spent = Request { tokens_max: Some(3), ..open("read", "{\"path\": \"a") };
    let forbidden = open("read", "{\"path\": 7, \"limit\": 1, \"list\": []");
    for request in [spent, forbidden] {
        let events = &events(&mut model, &[request])[0];
        assert!(matches!(events.last(), Some(Event::Failed(message)) if message.contains("\"read\"")), "{events:?}");
        assert!(!events.iter().any(|event| matches!(event, Event::ToolCallEnded { .. })));
    }
}

#[test]
fn a_text_under_a_format_goes_on_from_every_place() {
    let answer = "{\"name\": \"Zo\u{eb}\",\n \"ages\": [3, 14], \"open\": true}";
    let mut model = BuiltIn::scripted(&script(answer));
    let schema = json!({
        "type": "object", "required": ["name", "ages", "open"],
        "properties": {"name": {"type": "string"}, "ages": {"type": "array", "items": {"type": "integer"}}, "open": {"type": "boolean"}}
    });
    let request = Request { output_format: OutputFormat::JsonSchema(schema.clone()), ..request(asking("Who?")) };
    let requests: Vec<Request> = cuts(answer).map(|at| going_on(&request, vec![piece(text(&answer[..at]), true)])).collect();
    for (at, events) in cuts(answer).zip(events(&mut model, &requests)) {
        let whole = [&answer[..at], &text_of(&events)].concat();
        let value: Value = serde_json::from_str(&whole).unwrap_or_else(|error| panic!("{error}: {whole}"));
        assert_eq!(value, serde_json::from_str::<Value>(answer).expect("JSON"), "after {:?}", &answer[..at]);
    }
}

#[test]
fn what_is_spent_is_spent() {
    let mut model = BuiltIn::scripted(&script(TEXT));
    let count = |text: &str| model.text.tokenizer.encode(text, false).expect("text").len();
    let (half, whole) = (TEXT.find("She").expect("it is there"), count(TEXT));
    let spent = count(&TEXT[..half]);
    let limited = |tokens_max: usize, usage: Usage| {
        let mut request =
            Request { tokens_max: Some(tokens_max), ..going_on(&request(asking("?")), vec![piece(text(&TEXT[..half]), true)]) };
        request.begun.as_mut().expect("it is begun").usage = usage;
        request
    };
    let told = Usage { prompt_tokens: 5000, cached_tokens: 4000, completion_tokens: 500, thinking_tokens: 300 };
    let cases = [
        (limited(spent + 5, Usage::default()), FinishReason::Length, spent + 5),
        (limited(whole + 50, Usage::default()), FinishReason::EndOfTurn, whole),
        (limited(spent, Usage::default()), FinishReason::Length, spent),
        (limited(500, told), FinishReason::Length, 500),
        (limited(507, told), FinishReason::Length, 507),
    ];
    let requests: Vec<Request> = cases.iter().map(|(request, ..)| request.clone()).collect();
    for (events, (request, reason, tokens)) in events(&mut model, &requests).iter().zip(cases) {
        let (finish, usage) = finish_of(events);
        assert_eq!(finish, reason);
        // The end of a turn is a token too; the seam may part a word in two.
        assert!(usage.completion_tokens.abs_diff(tokens) <= 2, "{usage:?}, expected {tokens}");
        assert!(TEXT[half..].starts_with(&text_of(events)));
        let before = request.begun.expect("it is begun").usage;
        if before != Usage::default() {
            assert_eq!((usage.prompt_tokens, usage.cached_tokens, usage.thinking_tokens), (5000, 4000, 300));
        } else {
            assert!(usage.prompt_tokens > 5 && usage.prompt_tokens < 30, "of the conversation alone: {usage:?}");
        }
    }
}

/// The rest of a stream from the server itself, as the gateway gets it.
fn from_server(app: &TestApp, body: &Value, begun: BegunReply) -> Result<String, CannotGoOn> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    let call = AnthropicMessages::parse(body.to_string().as_bytes()).expect("a good body");
    runtime.block_on(async {
        let stream = begin_with(&app.state, call, begun, RequestLog::new("r".into(), AnthropicMessages::NAME)).await?;
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
    let before = app.stats().finished_sequences();
    let stream = from_server(&app, &body("no word"), begun(finished)).expect("it ends");
    let events = events_in(&stream);
    assert_eq!(events.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["message_delta", "message_stop"]);
    assert_eq!(events[0].1["delta"]["stop_reason"], "tool_use");
    assert_eq!(app.stats().finished_sequences(), before, "no model is asked");

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
        let stream = begin_with(&app.state, call, begun(vec![piece(text("abc"), true)]), log).await.expect("it goes on");
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

#[test]
fn schemas_are_judged_as_an_independent_judge_does() {
    let mut wrong = Vec::new();
    for case in CASES {
        let schema: Value = serde_json::from_str(case.schema).expect("a case's schema is JSON");
        let judge = jsonschema::options().should_validate_formats(false).build(&schema).expect("a case's schema is one");
        for text in case.valid.iter().chain(case.invalid).chain(case.stricter) {
            let Ok(value) = serde_json::from_str::<Value>(text) else { continue };
            if schema_check::fulfils(&schema, &value) != judge.is_valid(&value) {
                wrong.push(format!("{schema}: {text}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
