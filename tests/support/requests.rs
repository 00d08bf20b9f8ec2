//! Random requests and random replies, in our own words, for tests that send them through the dialects.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::json;
use understudy::chat::{
    Conversation, Effort, Event, FinishReason, Message, OutputFormat, Part, Prompt, Request, Role, SamplingOptions, ScoredToken, TextDelta,
    Thinking, TokenText, ToolCall, ToolChoice, ToolDefinition, Usage,
};

/// Names that every API takes, and names that none but ours does.
const TOOL_NAMES: [&str; 4] =
    ["read", "mcp__files__write-all", "files.read", "a_name_that_goes_on_and_on_until_it_is_longer_than_what_openai_takes_for_a_name"];
/// Before a number.
const CALL_IDS: [&str; 4] = ["call_", "chatcmpl-tool-", "functions.read:", "an_id_that_is_longer_than_the_forty_bytes_that_openai_takes_"];

/// A request for one reply, with a conversation that waits for the assistant.
pub fn request() -> impl Strategy<Value = Request> {
    let limits = (option::of(1_usize..100_000), vec(select(vec!["END", "\n\n", "</x>", "ü"]), 0..4));
    (conversation(), limits, sampling(), output_format()).prop_map(|(conversation, (tokens_max, stop), sampling, output_format)| Request {
        prompts: vec![Prompt::Conversation(conversation)],
        choices_per_prompt: 1,
        tokens_max,
        stop: stop.into_iter().map(str::to_owned).collect(),
        sampling,
        output_format,
        ..Request::default()
    })
}

fn conversation() -> impl Strategy<Value = Conversation> {
    (tools(), any::<bool>(), thinking(), vec(segment(), 0..6), vec(part(), 0..3), 0..6_usize).prop_map(
        |(tools, parallel_tool_calls, thinking, segments, last, choice)| {
            let mut messages: Vec<Message> = segments.into_iter().flatten().collect();
            // Somebody has spoken, and not the assistant.
            if messages.last().is_none_or(|message| message.role != Role::Tool) {
                let said = if last.is_empty() { vec![Part::Text("x".into())] } else { last };
                messages.push(of_parts(Role::User, said));
            }
            number_calls(&mut messages);
            let tool_choice = choose(choice, &tools);
            Conversation { messages, tools, tool_choice, parallel_tool_calls, thinking, ..Conversation::default() }
        },
    )
}

fn choose(choice: usize, tools: &[ToolDefinition]) -> ToolChoice {
    match (choice, tools) {
        (_, []) | (0, _) => ToolChoice::Auto,
        (1, _) => ToolChoice::None,
        (2, _) => ToolChoice::Required,
        (3, [first, ..]) => ToolChoice::Named(first.name.clone()),
        (choice, [.., last]) => ToolChoice::Allowed { names: vec![last.name.clone()], required: choice == 4 },
    }
}

/// A turn, or an assistant's with the results it waits for.
fn segment() -> impl Strategy<Value = Vec<Message>> {
    let said = |role| vec(part(), 0..3).prop_map(move |parts| vec![of_parts(role, parts)]);
    let called = vec((tool_call(), vec(part(), 0..3)), 1..4);
    // Somebody may speak while the results are waited for.
    let between = option::weighted(0.3, (select(vec![Role::System, Role::User]), vec(part(), 1..2)));
    let calls = (vec(part(), 0..2), called, option::of(text()), between).prop_map(|(parts, calls, thinking, between)| {
        let (calls, results): (Vec<ToolCall>, Vec<Vec<Part>>) = calls.into_iter().unzip();
        let result = |(call, parts): (&ToolCall, _)| Message { tool_call_id: Some(call.id.clone()), ..of_parts(Role::Tool, parts) };
        let results: Vec<Message> = calls.iter().zip(results).map(result).collect();
        let asked = Message { tool_calls: calls, thinking, ..of_parts(Role::Assistant, parts) };
        let between = between.map(|(role, parts)| of_parts(role, parts));
        std::iter::once(asked).chain(between).chain(results).collect()
    });
    let roles = select(vec![Role::System, Role::Developer, Role::User, Role::User, Role::Assistant]);
    prop_oneof![3 => roles.prop_flat_map(said), 2 => calls]
}

fn of_parts(role: Role, content: Vec<Part>) -> Message {
    Message { content, ..Message::text(role, "") }
}

/// No two calls of a conversation have the same id.
fn number_calls(messages: &mut [Message]) {
    let mut number = 0;
    let mut renamed: Vec<(String, String)> = Vec::new();
    for message in messages {
        if message.role == Role::Assistant {
            renamed.clear();
        }
        for call in &mut message.tool_calls {
            let id = format!("{}{number}", call.id);
            renamed.push((std::mem::replace(&mut call.id, id.clone()), id));
            number += 1;
        }
        if let Some(id) = &mut message.tool_call_id {
            let place = renamed.iter().position(|(before, _)| before == id).expect("a result follows its call");
            *id = renamed.remove(place).1;
        }
    }
}

pub fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        1 => select(vec!["", " ", "\n", "Error: no", "<system>", "\u{FEFF}\u{2028}"]).prop_map(str::to_owned),
        4 => "[a-zA-Z0-9 \n\"\\\\{}<>äß€😀]{1,16}",
    ]
}

fn part() -> impl Strategy<Value = Part> {
    text().prop_map(Part::Text)
}

fn tool_call() -> impl Strategy<Value = ToolCall> {
    (select(CALL_IDS.to_vec()), select(TOOL_NAMES.to_vec()), arguments()).prop_map(|(id, name, arguments)| ToolCall {
        id: id.to_owned(),
        name: name.to_owned(),
        arguments,
    })
}

/// Mostly an object, in a model's own spelling.
fn arguments() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => object(),
        1 => select(vec!["", "{", "[1]", "{\"a\": tru", "null", "{} {}"]).prop_map(str::to_owned),
    ]
}

fn object() -> impl Strategy<Value = String> {
    (vec(("[a-z]{1,4}", text(), any::<i64>()), 0..3), any::<bool>()).prop_map(|(fields, spaced)| {
        let mut object = json!({});
        for (name, text, number) in fields {
            object[name] = json!([text, number, {"deep": 0.5}]);
        }
        if spaced { format!(" {object:#}\n") } else { object.to_string() }
    })
}

fn tools() -> impl Strategy<Value = Vec<ToolDefinition>> {
    let schema = select(vec![
        None,
        Some(json!({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": false})),
        Some(json!({"type": "object", "properties": {"a": {"type": "string"}}})),
        Some(json!({"properties": {}})),
    ]);
    vec((option::of(text()), schema, any::<bool>()), 0..4).prop_map(|tools| {
        let tool = |(name, (description, parameters, strict)): (&&str, _)| ToolDefinition {
            name: (*name).to_owned(),
            description,
            parameters,
            strict,
        };
        TOOL_NAMES.iter().zip(tools).map(tool).collect()
    })
}

fn thinking() -> impl Strategy<Value = Thinking> {
    let effort = option::of(select(vec![Effort::Low, Effort::Medium, Effort::High]));
    (option::of(any::<bool>()), option::of(0_usize..40_000), effort).prop_map(|(wanted, budget_tokens, effort)| Thinking {
        wanted,
        budget_tokens,
        effort,
    })
}

fn sampling() -> impl Strategy<Value = SamplingOptions> {
    let number = || option::of(select(vec![0.0_f32, 0.1, 0.7, 1.0]));
    (number(), number(), number(), option::of(0_usize..50), option::of(any::<u64>()), vec((0_u32..9, select(vec![-1.5_f32, 3.0])), 0..2))
        .prop_map(|(temperature, top_p, penalty, top_k, seed, logit_bias)| SamplingOptions {
            temperature: temperature.map(|value| value * 2.0),
            top_p,
            top_k,
            min_p: penalty,
            seed,
            presence_penalty: penalty,
            frequency_penalty: penalty.map(|value| -value),
            logit_bias,
            ..SamplingOptions::default()
        })
}

fn output_format() -> impl Strategy<Value = OutputFormat> {
    let schema = json!({"type": "object", "properties": {"a": {"type": "string"}}});
    prop_oneof![3 => Just(OutputFormat::Text), 1 => Just(OutputFormat::JsonSchema(schema))]
}

/// The events of a reply, of which those in its middle are in any order.
pub fn reply() -> impl Strategy<Value = Vec<Event>> {
    let usage = (0_usize..9_000, 0_usize..9_000, 0_usize..9_000, 0_usize..9_000);
    let reason = select(vec![
        FinishReason::EndOfTurn,
        FinishReason::Length,
        FinishReason::Refused,
        FinishReason::StopString("END".into()),
        FinishReason::ToolCalls,
    ]);
    (vec(piece(), 0..8), any::<bool>(), reason, usage).prop_map(|(pieces, scored, reason, usage)| {
        let (mut events, mut calls, mut characters) = (Vec::new(), 0, 0);
        for piece in pieces {
            match piece {
                Piece::Text(text) => {
                    let tokens = if scored { vec![scored_token(&text, characters)] } else { Vec::new() };
                    characters += text.chars().count();
                    events.push(Event::Text(TextDelta { text, tokens }));
                }
                Piece::Thinking(text) => events.push(Event::Thinking(text)),
                Piece::Call(call, cut) => {
                    let id = format!("call_{calls}");
                    events.push(Event::ToolCallStarted { index: calls, id, name: call.name });
                    let cut = (0..=cut.min(call.arguments.len())).rev().find(|at| call.arguments.is_char_boundary(*at)).unwrap_or(0);
                    let (first, second) = call.arguments.split_at(cut);
                    let pieces = [first, second].into_iter().filter(|piece| !piece.is_empty());
                    events.extend(pieces.map(|json| Event::ToolCallArguments { index: calls, json: json.to_owned() }));
                    events.push(Event::ToolCallEnded { index: calls });
                    calls += 1;
                }
            }
        }
        let reason = match reason {
            FinishReason::EndOfTurn if calls > 0 => FinishReason::ToolCalls,
            FinishReason::ToolCalls if calls == 0 => FinishReason::EndOfTurn,
            reason => reason,
        };
        let (cached_tokens, computed, thinking_tokens, said) = usage;
        let usage =
            Usage { prompt_tokens: cached_tokens + computed, cached_tokens, completion_tokens: thinking_tokens + said, thinking_tokens };
        events.push(Event::Finished { reason, usage });
        events
    })
}

#[derive(Debug, Clone)]
enum Piece {
    Text(String),
    Thinking(String),
    /// And where its arguments are cut.
    Call(ToolCall, usize),
}

fn piece() -> impl Strategy<Value = Piece> {
    let call = (tool_call(), object(), 0_usize..40).prop_map(|(call, arguments, cut)| Piece::Call(ToolCall { arguments, ..call }, cut));
    prop_oneof![
        3 => text().prop_map(Piece::Text),
        2 => text().prop_map(Piece::Thinking),
        2 => call,
    ]
}

fn scored_token(text: &str, text_offset: usize) -> ScoredToken {
    let token = TokenText { bytes: text.as_bytes().to_vec() };
    let top = vec![(token.clone(), -0.25), (TokenText { bytes: vec![0xC3] }, -7.5)];
    ScoredToken { token, logprob: Some(-0.25), top, text_offset }
}
