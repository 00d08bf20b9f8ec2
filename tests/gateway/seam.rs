//! The local model goes on where somebody else stopped, in text and in a call's arguments: nothing is said twice, nothing is lost, and no
//! call is closed that is not valid.

use serde_json::{Value, json};
use understudy::chat::begun::{BegunContent, BegunPiece, BegunReply};
use understudy::chat::prepare::{PrepareError, Surroundings};
use understudy::chat::{
    Conversation, Event, FinishReason, Message, OutputFormat, Prompt, Request, Role, SamplingOptions, ToolDefinition, Usage,
};

use crate::support::built_in::{AT_ONCE, BuiltIn};

/// Sixty words, with what is hard to cut: characters of several bytes, two spaces, line breaks, marks of Markdown, a word that looks like a tag.
pub const TEXT: &str = "The lighthouse keeper's na\u{ef}ve daughter counted international ships, one by one: **seven** before noon,  twelve \
after.\n\n- \u{e9}t\u{e9}: calm\n- hiver: 12.5 m waves\n\nShe wrote `log.push(ship)` in her book <for tea> and drew a \u{1d11e} beside it; \
nobody asked why. \u{65e5}\u{672c}\u{8a9e} sailors waved, the foghorn answered, and the counterclockwise lamp went on turning until morning \
came without any interruption whatsoever, at last. ";

const ARGUMENTS: &str = r#"{"path": "src/ma\u00efn.rs", "limit": 12.5e1, "list": [1, 2]}"#;

pub fn script(text: &str) -> String {
    format!("[default]\ntext = {}\n", Value::from(text))
}

pub fn asking(text: &str) -> Conversation {
    Conversation { messages: vec![Message::text(Role::User, text)], parallel_tool_calls: true, ..Conversation::default() }
}

pub fn request(conversation: Conversation) -> Request {
    let sampling = SamplingOptions { temperature: Some(0.0), ..SamplingOptions::default() };
    Request { prompts: vec![Prompt::Conversation(conversation)], choices_per_prompt: 1, sampling, ..Request::default() }
}

pub fn piece(content: BegunContent, open: bool) -> BegunPiece {
    BegunPiece { id: None, content, open }
}

pub fn text(text: &str) -> BegunContent {
    BegunContent::Text(text.to_owned())
}

pub fn call(name: &str, arguments: &str) -> BegunContent {
    BegunContent::ToolCall { call_id: "call_before".into(), name: name.into(), arguments: arguments.into() }
}

pub fn begun(pieces: Vec<BegunPiece>) -> BegunReply {
    BegunReply { id: "msg_other".into(), created_unix_s: 7, model: "other-model".into(), pieces, usage: Usage::default(), frames: 0 }
}

pub fn going_on(request: &Request, pieces: Vec<BegunPiece>) -> Request {
    Request { begun: Some(begun(pieces)), ..request.clone() }
}

pub fn cuts(text: &str) -> impl Iterator<Item = usize> {
    (0..=text.len()).filter(|&at| text.is_char_boundary(at))
}

pub fn events(model: &mut BuiltIn, requests: &[Request]) -> Vec<Vec<Event>> {
    requests.chunks(AT_ONCE).flat_map(|requests| model.events(requests)).collect()
}

fn text_of(events: &[Event]) -> String {
    events.iter().filter_map(|event| if let Event::Text(delta) = event { Some(delta.text.as_str()) } else { None }).collect()
}

#[track_caller]
pub fn finish_of(events: &[Event]) -> (FinishReason, Usage) {
    match events.last() {
        Some(Event::Finished { reason, usage }) => (reason.clone(), *usage),
        other => panic!("it ends with {other:?}"),
    }
}

/// The arguments' rest; the events are those of one call's end.
#[track_caller]
pub fn rest_of_call(events: &[Event], index: usize) -> String {
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
    // The first words after each place; all that follows after some.
    let tokens_max = |at: usize| (!at.is_multiple_of(23)).then(|| model.text.tokenizer.encode(&TEXT[..at], false).expect("text").len() + 8);
    let at = |at: usize| Request { tokens_max: tokens_max(at), ..going_on(&request, vec![piece(text(&TEXT[..at]), true)]) };
    let requests: Vec<Request> = cuts(TEXT).map(at).collect();
    assert!(requests.len() > 350);
    for ((at, request), events) in cuts(TEXT).zip(&requests).zip(events(&mut model, &requests)) {
        let (said, reason) = (text_of(&events), finish_of(&events).0);
        // Its tokens may be spent in the middle of a character.
        let said = said.trim_end_matches(char::REPLACEMENT_CHARACTER);
        assert!(TEXT[at..].starts_with(said), "{said:?} after {:?}", &TEXT[..at]);
        match request.tokens_max {
            None => assert_eq!((said, reason), (&TEXT[at..], FinishReason::EndOfTurn)),
            Some(_) => assert!(said.len() > 3 || said.len() == TEXT.len() - at, "{said:?} after {:?}", &TEXT[..at]),
        }
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
            .step_by(11)
            .map(|at| {
                let pieces =
                    vec![piece(text("I look."), false), piece(call("other", "{}"), false), piece(call("read", &ARGUMENTS[..at]), true)];
                Request { tokens_max: Some(200), ..going_on(&request(conversation.clone()), pieces) }
            })
            .collect();
        for (at, events) in cuts(ARGUMENTS).step_by(11).zip(events(&mut model, &requests)) {
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
