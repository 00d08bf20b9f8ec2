//! Tools out of a seed, called by the built-in model: whatever it writes, the arguments are valid under the tool's schema, by the word
//! of the `jsonschema` crate. `SEED=1234 cargo test generated` repeats a run.

use serde_json::Value;
use understudy::chat::{
    Conversation, Event, FinishReason, Message, OutputFormat, Prompt, Request, Role, SamplingOptions, ToolChoice, ToolDefinition,
};

use crate::support::built_in::{AT_ONCE, Answer, BuiltIn};
use crate::support::random::Random;
use crate::support::tool_schemas::tool_schema;

const TOOLS: usize = 500;

/// Enough for the longest arguments that the schemas allow, and little enough that a loop would show.
const TOKENS_MAX: usize = 1_200;

fn seed() -> u64 {
    std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| u64::from(std::process::id()) << 20)
}

fn request(seed: u64) -> Request {
    Request {
        choices_per_prompt: 1,
        tokens_max: Some(TOKENS_MAX),
        sampling: SamplingOptions { temperature: Some(1.0), seed: Some(seed), ..SamplingOptions::default() },
        ..Request::default()
    }
}

fn call_request(parameters: &Value, seed: u64) -> Request {
    let tool = ToolDefinition { name: "do_it".to_owned(), description: None, parameters: Some(parameters.clone()), strict: true };
    let conversation = Conversation {
        messages: vec![Message::text(Role::User, "Do it.")],
        tools: vec![tool],
        tool_choice: if seed.is_multiple_of(2) { ToolChoice::Required } else { ToolChoice::Named("do_it".to_owned()) },
        ..Conversation::default()
    };
    Request { prompts: vec![Prompt::Conversation(conversation)], ..request(seed) }
}

#[track_caller]
fn valid(schema: &Value, text: &str) -> Result<(), String> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let judge = jsonschema::options().should_validate_formats(true).build(schema).map_err(|error| error.to_string())?;
    judge.validate(&value).map_err(|error| error.to_string())
}

#[test]
fn every_generated_call_is_valid() {
    let seed = seed();
    let mut random = Random(seed);
    let mut model = BuiltIn::new();
    let mut wrong = Vec::new();
    for first in (0..TOOLS).step_by(AT_ONCE) {
        let schemas: Vec<Value> = (first..TOOLS.min(first + AT_ONCE)).map(|_| tool_schema(&mut random)).collect();
        let requests: Vec<Request> = schemas.iter().map(|schema| call_request(schema, random.bits())).collect();
        for (schema, Answer { events, reply }) in schemas.iter().zip(model.answers(&requests)) {
            let [call] = &reply.tool_calls[..] else {
                wrong.push(format!("{} calls, text {:?}: {schema}", reply.tool_calls.len(), reply.text));
                continue;
            };
            if let Err(error) = valid(schema, &call.arguments) {
                wrong.push(format!("{error}: {} ({:?}): {schema}", call.arguments, reply.finish));
            }
            let streamed: String = events
                .iter()
                .filter_map(|event| match event {
                    Event::ToolCallArguments { json, .. } => Some(json.as_str()),
                    _ => None,
                })
                .collect();
            assert_eq!(streamed, call.arguments, "SEED={seed}");
            assert_eq!(reply.finish, Some(FinishReason::ToolCalls), "SEED={seed} {schema}");
        }
    }
    assert!(wrong.is_empty(), "SEED={seed}: {} of {TOOLS} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn an_answer_in_a_format_is_valid() {
    let seed = seed();
    let mut random = Random(seed);
    let mut model = BuiltIn::new();
    let schemas: Vec<Value> = (0..AT_ONCE).map(|_| tool_schema(&mut random)).collect();
    let conversation = Conversation { messages: vec![Message::text(Role::User, "Answer in JSON.")], ..Conversation::default() };
    let requests: Vec<Request> = schemas
        .iter()
        .map(|schema| Request {
            prompts: vec![Prompt::Conversation(conversation.clone())],
            output_format: OutputFormat::JsonSchema(schema.clone()),
            ..request(random.bits())
        })
        .collect();
    for (schema, Answer { reply, .. }) in schemas.iter().zip(model.answers(&requests)) {
        assert_eq!(reply.finish, Some(FinishReason::EndOfTurn), "SEED={seed}: {schema}: {}", reply.text);
        valid(schema, &reply.text).unwrap_or_else(|error| panic!("SEED={seed}: {error}: {}: {schema}", reply.text));
    }
}
