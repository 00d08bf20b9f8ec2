//! What is written for the other protocol, read again by our own dialects: a conversation that goes from one to the other and back is the
//! same conversation, but for losses that are told here one by one; a reply that a dialect has written is read as it was.

use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestCaseError};
use serde_json::{Value, json};
use understudy::api::anthropic_messages::AnthropicMessages;
use understudy::api::openai_chat::OpenAiChat;
use understudy::api::openai_responses::OpenAiResponses;
use understudy::api::outgoing::closed_schema::{closed, is_strict};
use understudy::api::outgoing::names::{openai_call_id, tool_name};
use understudy::api::outgoing::reply::{ReadError, Reader};
use understudy::api::outgoing::{Protocol, anthropic_messages, openai_chat, openai_responses};
use understudy::api::{Dialect, Frame, ReplyHead};
use understudy::chat::reply::Reply;
use understudy::chat::{
    Conversation, Event, FinishReason, Message, OutputFormat, Part, Prompt, Request, Role, SamplingOptions, Thinking, ToolCall, ToolChoice,
    ToolDefinition,
};

use crate::support::requests;

/// One that has no bounds of its own: what is written is what was asked for.
const OPENAI_MODEL: &str = "Qwen/Qwen3-32B";
const ANTHROPIC_MODEL: &str = "kimi-k2";

fn parse<D: Dialect>(body: &Value) -> Request {
    D::parse(body.to_string().as_bytes()).unwrap_or_else(|error| panic!("{error:?} for {body:#}")).request
}

fn through_openai(request: &Request) -> Request {
    parse::<OpenAiChat>(&openai_chat::write(request, OPENAI_MODEL, true).expect("it can be carried"))
}

fn through_anthropic(request: &Request) -> Request {
    parse::<AnthropicMessages>(&anthropic_messages::write(request, ANTHROPIC_MODEL, true).expect("it can be carried"))
}

fn conversation(request: &Request) -> &Conversation {
    let [Prompt::Conversation(conversation)] = request.prompts.as_slice() else { panic!("a conversation is asked for") };
    conversation
}

/// What is left of a request in chat completions.
fn as_openai_has_it(request: &Request) -> Request {
    let conversation = conversation(request);
    let (tools, tool_choice) = shown_tools(conversation);
    let strict = |tool: &ToolDefinition| tool.strict && tool.parameters.as_ref().is_some_and(is_strict);
    let tools: Vec<ToolDefinition> =
        tools.into_iter().map(|tool| ToolDefinition { strict: strict(&tool), name: tool_name(&tool.name).into(), ..tool }).collect();
    let kept = Conversation {
        messages: conversation.messages.iter().map(message_as_openai_has_it).collect(),
        parallel_tool_calls: conversation.parallel_tool_calls || tools.is_empty(),
        tools,
        tool_choice,
        thinking: Thinking { effort: conversation.thinking.effort, ..Thinking::default() },
        ..Conversation::default()
    };
    let sampling = SamplingOptions { top_k: None, min_p: None, ..request.sampling.clone() };
    Request { prompts: vec![Prompt::Conversation(kept)], sampling, ..request.clone() }
}

fn message_as_openai_has_it(message: &Message) -> Message {
    let tool_calls = message.tool_calls.iter().map(|call| ToolCall {
        id: openai_call_id(&call.id).into(),
        name: tool_name(&call.name).into(),
        arguments: match serde_json::from_str(&call.arguments) {
            Ok(Value::Object(_)) => call.arguments.clone(),
            _ if call.arguments.trim().is_empty() => "{}".to_owned(),
            _ => json!({"__unparsedToolInput": call.arguments}).to_string(),
        },
    });
    Message {
        role: if message.role == Role::Developer { Role::System } else { message.role },
        content: match message.content.as_slice() {
            [] if message.tool_calls.is_empty() => vec![Part::Text(String::new())],
            content => content.to_vec(),
        },
        thinking: None,
        tool_calls: tool_calls.collect(),
        tool_call_id: message.tool_call_id.as_deref().map(|id| openai_call_id(id).into()),
        name: None,
    }
}

/// Where only some may be called, only they are shown.
fn shown_tools(conversation: &Conversation) -> (Vec<ToolDefinition>, ToolChoice) {
    let tools = conversation.tools.iter();
    match &conversation.tool_choice {
        ToolChoice::Allowed { names, required } => {
            let choice = if *required { ToolChoice::Required } else { ToolChoice::Auto };
            (tools.filter(|tool| names.contains(&tool.name)).cloned().collect(), choice)
        }
        ToolChoice::Named(name) => (tools.cloned().collect(), ToolChoice::Named(tool_name(name).into())),
        choice => (tools.cloned().collect(), choice.clone()),
    }
}

/// What is said in a conversation, whoever's turns it is cut into.
#[derive(Debug, Clone, PartialEq)]
enum Said {
    System(String),
    User(String),
    Assistant(String),
    /// Calls are counted; ids only say whose result it is.
    Call(usize, String, Value),
    Result(usize, Vec<String>),
}

/// Without what Anthropic does not take: blank texts, and a system that speaks later than the first answer.
fn said(conversation: &Conversation) -> Vec<Said> {
    let first_answer = conversation.messages.iter().position(|message| message.role == Role::Assistant).unwrap_or(usize::MAX);
    let (mut system, mut said, mut ids, mut results_end) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for (index, message) in conversation.messages.iter().enumerate() {
        let texts = message.content.iter().map(|Part::Text(text)| text.clone()).filter(|text| !text.trim().is_empty());
        match message.role {
            Role::System | Role::Developer if index < first_answer => system.extend(texts.map(Said::System)),
            Role::System | Role::Developer => said.extend(texts.map(|text| Said::User(format!("<system>\n{text}\n</system>")))),
            Role::User => said.extend(texts.map(Said::User)),
            Role::Assistant => {
                said.extend(texts.map(Said::Assistant));
                for call in &message.tool_calls {
                    said.push(Said::Call(ids.len(), tool_name(&call.name).into(), arguments(&call.arguments)));
                    ids.push(call.id.clone());
                }
                results_end = said.len();
            }
            Role::Tool => {
                let id = message.tool_call_id.as_ref().expect("a result has an id");
                let call = ids.iter().position(|known| known == id).expect("a result is one of a call");
                said.insert(results_end, Said::Result(call, texts.collect()));
                results_end += 1;
            }
        }
    }
    if !conversation.continues_last && matches!(said.last(), Some(Said::Assistant(_))) {
        said.push(Said::User("...".into()));
    }
    // The user whom Anthropic wants to hear first.
    if !matches!(said.first(), Some(Said::User(_) | Said::Result(..))) {
        said.insert(0, Said::User("...".into()));
    }
    [system, said].concat()
}

fn arguments(text: &str) -> Value {
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Value::Object(object),
        _ if text.trim().is_empty() => json!({}),
        _ => json!({"__unparsedToolInput": text}),
    }
}

fn tools_as_anthropic_has_them(tools: Vec<ToolDefinition>) -> Vec<ToolDefinition> {
    let with_schema = |tool: ToolDefinition| {
        let mut schema = tool.parameters.unwrap_or_else(|| json!({"type": "object", "properties": {}}));
        schema["type"] = "object".into();
        let parameters = Some(if tool.strict { closed(&schema) } else { schema });
        ToolDefinition { name: tool_name(&tool.name).into(), parameters, ..tool }
    };
    tools.into_iter().map(with_schema).collect()
}

fn format_as_anthropic_has_it(format: &OutputFormat) -> OutputFormat {
    match format {
        OutputFormat::JsonSchema(schema) => OutputFormat::JsonSchema(closed(schema)),
        other => other.clone(),
    }
}

/// Whatever else it is, a body that Anthropic's API takes: the rules that it answers 400 for.
fn check_anthropic_rules(body: &Value) {
    let turns = body["messages"].as_array().expect("turns");
    let plain = |name: &Value| {
        name.as_str().is_some_and(|name| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-'))
    };
    let mut open: Vec<String> = Vec::new();
    for (index, turn) in turns.iter().enumerate() {
        assert_eq!(turn["role"], ["user", "assistant"][index % 2], "speakers alternate, the user first: {body:#}");
        let blocks = turn["content"].as_array().expect("blocks");
        assert!(!blocks.is_empty(), "a turn says something: {body:#}");
        let kinds: Vec<&str> = blocks.iter().map(|block| block["type"].as_str().expect("a type")).collect();
        let results = kinds.iter().take_while(|kind| **kind == "tool_result").count();
        assert!(!kinds[results..].contains(&"tool_result"), "results come first: {body:#}");
        let mut answered: Vec<String> = blocks[..results].iter().map(|block| block["tool_use_id"].to_string()).collect();
        answered.sort();
        open.sort();
        assert_eq!(std::mem::take(&mut open), answered, "every call has its result in the next turn: {body:#}");
        for block in blocks {
            match block["type"].as_str().expect("a type") {
                "text" => assert!(!block["text"].as_str().expect("a text").trim().is_empty(), "a blank text: {body:#}"),
                "tool_use" => {
                    assert!(plain(&block["id"]) && plain(&block["name"]) && block["input"].is_object(), "{block}");
                    open.push(block["id"].to_string());
                }
                _ => {}
            }
        }
    }
    assert!(body["max_tokens"].as_u64().is_some_and(|tokens| tokens > 0));
    assert!(body["temperature"].as_f64().unwrap_or(0.0) <= 1.0);
    assert!(body.get("temperature").is_none() || body.get("top_p").is_none(), "two samplers: {body:#}");
    if let Some(budget) = body["thinking"]["budget_tokens"].as_u64() {
        assert!(budget >= 1_024 && budget < body["max_tokens"].as_u64().unwrap_or(0), "{body:#}");
        assert!(["temperature", "top_p", "top_k"].iter().all(|name| body.get(*name).is_none()), "samplers beside thoughts: {body:#}");
        assert!(!matches!(body["tool_choice"]["type"].as_str(), Some("any" | "tool")), "a forced call is not thought about: {body:#}");
    }
    for tool in body["tools"].as_array().into_iter().flatten() {
        assert!(plain(&tool["name"]) && tool["input_schema"]["type"] == "object", "{tool}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, rng_seed: RngSeed::Fixed(7), ..ProptestConfig::default() })]

    #[test]
    fn chat_completions_keep_a_request(request in requests::request()) {
        let once = through_openai(&request);
        prop_assert_eq!(&once, &as_openai_has_it(&request));
        // A second journey loses nothing more.
        prop_assert_eq!(&through_openai(&once), &once);
    }

    #[test]
    fn messages_keep_a_request(request in requests::request()) {
        // White space ends no reply there, and is refused.
        let request = Request { stop: request.stop.into_iter().filter(|stop| stop != "\n\n").collect(), ..request };
        let body = anthropic_messages::write(&request, ANTHROPIC_MODEL, true).expect("it can be carried");
        check_anthropic_rules(&body);
        let (once, before) = (parse::<AnthropicMessages>(&body), conversation(&request));
        let after = conversation(&once);
        prop_assert_eq!(said(after), said(before));
        let (tools, tool_choice) = shown_tools(before);
        prop_assert_eq!(&after.tools, &tools_as_anthropic_has_them(tools));
        prop_assert_eq!(&after.tool_choice, &tool_choice);
        prop_assert_eq!(after.parallel_tool_calls, before.parallel_tool_calls || after.tools.is_empty() || tool_choice == ToolChoice::None);
        prop_assert_eq!(&once.output_format, &format_as_anthropic_has_it(&request.output_format));
        prop_assert_eq!((&once.stop, once.tokens_max), (&request.stop, request.tokens_max.or(Some(8_192))));
        let sampling = &request.sampling;
        let expected = if body.get("thinking").is_some() { SamplingOptions::default() } else {
            SamplingOptions {
                temperature: sampling.temperature.map(|temperature| temperature.min(1.0)),
                top_p: sampling.top_p.filter(|_| sampling.temperature.is_none()),
                top_k: sampling.top_k.filter(|top_k| *top_k > 0),
                ..SamplingOptions::default()
            }
        };
        prop_assert_eq!(&once.sampling, &expected);
        prop_assert_eq!(after.thinking.wanted, Some(body.get("thinking").is_some()));
        prop_assert!(after.thinking.wanted == Some(false) || before.thinking.wanted != Some(false));
    }

    #[test]
    fn responses_keep_a_request(request in requests::request()) {
        // There are no stop strings, and no log-probabilities.
        let request = Request { stop: Vec::new(), top_logprobs: None, ..request };
        let body = openai_responses::write(&request, OPENAI_MODEL, true).expect("it can be carried");
        prop_assert_eq!(&body["store"], &json!(false));
        let mut before = conversation(&request).clone();
        // A message without a word or a call is no item.
        before.messages.retain(|message| message.role != Role::Assistant || !message.content.is_empty() || !message.tool_calls.is_empty());
        let (once, before) = (parse::<OpenAiResponses>(&body), &before);
        let after = conversation(&once);
        prop_assert_eq!(said(after), said(before));
        let (tools, tool_choice) = shown_tools(before);
        let expected = tools.into_iter().map(|tool| {
            let parameters = tool.parameters.unwrap_or_else(|| json!({"type": "object", "properties": {}}));
            ToolDefinition { name: tool_name(&tool.name).into(), strict: tool.strict && is_strict(&parameters), parameters: Some(parameters), ..tool }
        });
        prop_assert_eq!(&after.tools, &expected.collect::<Vec<_>>());
        prop_assert_eq!(&after.tool_choice, &tool_choice);
        prop_assert_eq!(after.parallel_tool_calls, before.parallel_tool_calls || after.tools.is_empty());
        prop_assert_eq!(&once.output_format, &request.output_format);
        prop_assert_eq!(once.tokens_max, request.tokens_max.map(|tokens| tokens.max(16)));
        let SamplingOptions { temperature, top_p, .. } = request.sampling;
        prop_assert_eq!(&once.sampling, &SamplingOptions { temperature, top_p, ..SamplingOptions::default() });
        prop_assert_eq!(after.thinking.effort, before.thinking.effort);
        // A second journey loses nothing more.
        let again = parse::<OpenAiResponses>(&openai_responses::write(&once, OPENAI_MODEL, true).expect("it can be carried"));
        prop_assert_eq!(&again, &once);
    }

    /// A client of chat completions, an upstream that speaks messages, and the other way round: nobody sees the difference.
    #[test]
    fn chat_to_messages_to_chat(request in requests::request()) {
        let request = Request { stop: Vec::new(), ..request };
        let chat = through_openai(&request);
        let messages = through_anthropic(&chat);
        let again = through_openai(&messages);
        let before = said(conversation(&request));
        for after in [&chat, &messages, &again, &through_anthropic(&again)] {
            prop_assert_eq!(&said(conversation(after)), &before);
        }
        let names = |request: &Request| conversation(request).tools.iter().map(|tool| tool.name.clone()).collect::<Vec<_>>();
        prop_assert_eq!(names(&again), names(&chat));
        prop_assert_eq!(&conversation(&again).tool_choice, &conversation(&chat).tool_choice);
    }

    #[test]
    fn replies_of_chat_completions_are_read_as_they_were_written(events in requests::reply(), include_usage in any::<bool>()) {
        let body = json!({
            "messages": [{"role": "user", "content": "x"}],
            "logprobs": true,
            "top_logprobs": 2,
            "stream_options": {"include_usage": include_usage},
        });
        let expected = events.iter().filter_map(|event| match event {
            Event::Text(delta) if delta.text.is_empty() && delta.tokens.is_empty() => None,
            Event::Thinking(text) if text.is_empty() => None,
            // It is told as the end of a turn.
            Event::Finished { reason: FinishReason::StopString(_), usage } => {
                let calls = events.iter().any(|event| matches!(event, Event::ToolCallStarted { .. }));
                let reason = if calls { FinishReason::ToolCalls } else { FinishReason::EndOfTurn };
                Some(Event::Finished { reason, usage: *usage })
            }
            other => Some(other.clone()),
        });
        let mut expected: Vec<Event> = expected.collect();
        check_whole::<OpenAiChat>(Protocol::OpenAiChat, &body, &expected)?;
        if !include_usage && let Some(Event::Finished { usage, .. }) = expected.last_mut() {
            *usage = understudy::chat::Usage::default();
        }
        check_stream::<OpenAiChat>(Protocol::OpenAiChat, &body, &events, &expected)?;
    }

    #[test]
    fn replies_of_messages_are_read_as_they_were_written(events in requests::reply()) {
        let body = json!({
            "messages": [{"role": "user", "content": "x"}],
            "max_tokens": 9,
            "stop_sequences": ["END"],
            "thinking": {"type": "adaptive"},
        });
        let expected = events.iter().filter_map(|event| match event {
            Event::Text(delta) if delta.text.is_empty() => None,
            Event::Thinking(text) if text.is_empty() => None,
            // There are no log-probabilities.
            Event::Text(delta) => Some(Event::Text(understudy::chat::TextDelta { text: delta.text.clone(), tokens: Vec::new() })),
            other => Some(other.clone()),
        });
        let expected: Vec<Event> = expected.collect();
        check_stream::<AnthropicMessages>(Protocol::AnthropicMessages, &body, &events, &expected)?;
        check_whole::<AnthropicMessages>(Protocol::AnthropicMessages, &body, &expected)?;
    }

    #[test]
    fn replies_of_responses_are_read_as_they_were_written(events in requests::reply()) {
        let body = json!({"input": "x"});
        let calls = events.iter().any(|event| matches!(event, Event::ToolCallStarted { .. }));
        let expected = events.iter().filter_map(|event| match event {
            Event::Text(delta) if delta.text.is_empty() => None,
            Event::Thinking(text) if text.is_empty() => None,
            // They are not read.
            Event::Text(delta) => Some(Event::Text(understudy::chat::TextDelta { text: delta.text.clone(), tokens: Vec::new() })),
            // Whole is whole.
            Event::Finished { reason: FinishReason::StopString(_), usage } => {
                let reason = if calls { FinishReason::ToolCalls } else { FinishReason::EndOfTurn };
                Some(Event::Finished { reason, usage: *usage })
            }
            other => Some(other.clone()),
        });
        let expected: Vec<Event> = expected.collect();
        check_stream::<OpenAiResponses>(Protocol::OpenAiResponses, &body, &events, &expected)?;
        check_whole::<OpenAiResponses>(Protocol::OpenAiResponses, &body, &expected)?;
    }
}

fn head() -> ReplyHead {
    ReplyHead { id: "0123".into(), created_unix_s: 1, model: "m".into(), choices: 1, prompt_tokens: 0 }
}

/// All of it is read; and of a stream that is cut, before its reason comes nothing is taken for its end.
fn check_stream<D: Dialect>(protocol: Protocol, body: &Value, events: &[Event], expected: &[Event]) -> Result<(), TestCaseError> {
    let (mut dialect, head) = (D::parse(body.to_string().as_bytes()).expect("a request").dialect, head());
    let mut frames: Vec<Frame> = Vec::new();
    dialect.open(&head, &mut frames);
    let Some(Event::Finished { usage, .. }) = events.last() else { panic!("a reply ends") };
    let mut reasoned = 0;
    for event in events {
        reasoned = frames.len();
        dialect.event(&head, 0, event.clone(), &mut frames);
    }
    dialect.close(&head, *usage, &mut frames);

    let (mut reader, mut read) = (Reader::new(protocol), Vec::new());
    frames.iter().for_each(|frame| reader.event(&frame.data, &mut read).expect("it can be read"));
    prop_assert!(reader.is_finished(), "the last frame is known to be the last");
    reader.finish(&mut read).expect("it has ended");
    prop_assert_eq!(&read, &expected);

    for cut in 0..=reasoned {
        let (mut reader, mut read) = (Reader::new(protocol), Vec::new());
        frames[..cut].iter().for_each(|frame| reader.event(&frame.data, &mut read).expect("it can be read"));
        prop_assert_eq!(reader.finish(&mut read), Err(ReadError::Cut));
        prop_assert!(read.len() < expected.len() && read.iter().zip(expected).all(|(read, expected)| read == expected));
    }
    Ok(())
}

fn check_whole<D: Dialect>(protocol: Protocol, body: &Value, events: &[Event]) -> Result<(), TestCaseError> {
    let dialect = D::parse(body.to_string().as_bytes()).expect("a request").dialect;
    let reply = fold(events);
    let whole = dialect.whole(&head(), vec![reply.clone()], reply.usage);
    let read = fold(&Reader::new(protocol).whole(whole.as_bytes()).expect("it can be read"));
    prop_assert_eq!((&read.text, &read.thinking, &read.tokens), (&reply.text, &reply.thinking, &reply.tokens));
    prop_assert_eq!((&read.finish, read.usage), (&reply.finish, reply.usage));
    let calls = |reply: &Reply| -> Vec<(String, String, Value)> {
        reply.tool_calls.iter().map(|call| (call.id.clone(), call.name.clone(), arguments(&call.arguments))).collect()
    };
    prop_assert_eq!(calls(&read), calls(&reply));
    Ok(())
}

fn fold(events: &[Event]) -> Reply {
    let mut reply = Reply::default();
    events.iter().cloned().for_each(|event| reply.push(event).expect("nothing fails"));
    reply
}
