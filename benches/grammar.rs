//! What grammars cost: building the trie of a vocabulary, compiling the tools of an agent, a mask a token; for the built-in model's
//! vocabulary and for one of 151,936 tokens. And 10,000 generated tools, called by the built-in model. Printed, never asserted.
//! `cargo bench --bench grammar [-- TOOLS]`

// The tests use all of it.
#[allow(dead_code)]
#[path = "../tests/support/built_in.rs"]
mod built_in;
#[allow(dead_code)]
#[path = "../tests/support/random.rs"]
mod random;
#[path = "../tests/support/tool_schemas.rs"]
mod tool_schemas;

use std::sync::Arc;
use std::time::{Duration, Instant};

use kernels::SharedBytes;
use models::gguf::writer::GgufWriter;
use models::{Gguf, Tokenizer};
use serde_json::{Value, json};
use understudy::chat::grammar::Grammars;
use understudy::chat::grammar::reply::{CallRules, Calls, ReplyRules, Thinks};
use understudy::chat::tool_formats::of_template;
use understudy::chat::{Conversation, Message, OutputFormat, Prompt, Request, Role, SamplingOptions, ToolChoice, ToolDefinition};
use understudy::engine::constraint::Ending;
use understudy::engine::token_mask::TokenMask;
use understudy::hub::builtin;

use built_in::{AT_ONCE, BuiltIn};
use random::Random;
use tool_schemas::tool_schema;

const LARGE: usize = 151_936;
/// As many as Claude Code brings.
const TOOLS: usize = 24;
const TOKENS_MAX: usize = 1_200;

fn main() {
    let tools: usize = std::env::args().filter_map(|word| word.parse().ok()).next().unwrap_or(10_000);
    let gguf = Gguf::from_bytes(builtin::bytes(), "the built-in model").expect("it can be read");
    let built_in = Arc::new(Tokenizer::from_gguf(&gguf).expect("it has a tokenizer"));
    for tokenizer in [built_in, large()] {
        println!("a vocabulary of {}", tokenizer.vocab_size());
        measure(&tokenizer);
    }
    generated(tools);
}

fn measure(tokenizer: &Arc<Tokenizer>) {
    let grammars = Grammars::new(tokenizer.clone());
    timed("  its trie", || grammars.warm_up());
    let mut random = Random(1);
    let tools: Vec<ToolDefinition> = (0..TOOLS).map(|index| tool(&format!("tool_{index}"), tool_schema(&mut random))).collect();
    let format = of_template("<tool_call>").expect("hermes");
    let calls = CallRules { format, tools: tools.iter().enumerate().collect(), several: true };
    let rules = ReplyRules { thinking: Thinks::Not, calls: Calls::Possible(&calls), output: &OutputFormat::Text, begun: &[] };
    timed(&format!("  {TOOLS} tools compiled"), || drop(grammars.of_reply(&rules, None).expect("they compile")));
    timed("  the same tools again", || drop(grammars.of_reply(&rules, None).expect("they compile")));
    let constraint = grammars.of_reply(&rules, None).expect("they compile").expect("they constrain");
    masks("  words, tools possible", tokenizer, &*constraint, "The quick \"brown\" fox: it jumps <over> the lazy dog.\n");
    let call = "<tool_call>\n{\"name\": \"echo\", \"arguments\": {\"text\": \"It was a bright cold day in April, and the clocks were striking.\", \"n\": 13, \"list\": [1, 2, 3]}}\n</tool_call>";
    let echo = [tool(
        "echo",
        json!({"type": "object", "properties": {"text": {"type": "string"}, "n": {"type": "integer"}, "list": {"type": "array", "items": {"type": "integer"}}}}),
    )];
    let calls = CallRules { format, tools: echo.iter().enumerate().collect(), several: true };
    let rules = ReplyRules { calls: Calls::Required(&calls), ..rules };
    let constraint = grammars.of_reply(&rules, None).expect("it compiles").expect("it constrains");
    masks("  a call", tokenizer, &*constraint, call);
    let schema = OutputFormat::JsonSchema(json!({"type": "object"}));
    let constraint = grammars.of_format(&schema).expect("it compiles").expect("it constrains");
    masks(
        "  any JSON object",
        tokenizer,
        &*constraint,
        "{\"a\": [1, 2.5, null, {\"b\": \"some words in a text, \\\"quoted\\\"\"}], \"c\": true}",
    );
    timed("  a matcher begun", || drop(constraint.matcher().expect("it begins")));
}

/// The masks along a text, each token the longest that goes on with it.
fn masks(what: &str, tokenizer: &Tokenizer, constraint: &dyn understudy::engine::constraint::Constraint, text: &str) {
    let mut times = Vec::new();
    for _ in 0..20 {
        let mut matcher = constraint.matcher().expect("it begins");
        let (mut output, mut at) = (Vec::new(), 0);
        loop {
            let mut allowed = TokenMask::none(tokenizer.vocab_size());
            let start = Instant::now();
            let ending = matcher.allow(&output, &mut allowed).expect("the text fits");
            times.push(start.elapsed());
            let rest = &text.as_bytes()[at..];
            if rest.is_empty() || ending == Ending::Reached {
                break;
            }
            let fits =
                |&token: &u32| !tokenizer.token_bytes(token, true).is_empty() && rest.starts_with(tokenizer.token_bytes(token, true));
            let fitting = (0..tokenizer.vocab_size() as u32).filter(|&token| allowed.contains(token)).filter(fits);
            let token = fitting.max_by_key(|&token| tokenizer.token_bytes(token, true).len()).expect("the text fits");
            at += tokenizer.token_bytes(token, true).len();
            output.push(token);
        }
    }
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    println!("{what:<28} a mask: p50 {:>8.1} us, p99 {:>8.1} us, longest {:>8.1} us ({} masks)", at(0.5), at(0.99), at(1.0), times.len());
}

/// Calls of as many generated tools, by the real model at temperature 1.
fn generated(tools: usize) {
    let mut random = Random(2);
    let mut model = BuiltIn::new();
    let start = Instant::now();
    let (mut valid, mut tokens, mut events) = (0, 0, 0);
    for first in (0..tools).step_by(AT_ONCE) {
        let schemas: Vec<Value> = (first..tools.min(first + AT_ONCE)).map(|_| tool_schema(&mut random)).collect();
        let requests: Vec<Request> = schemas.iter().map(|schema| request(schema, random.bits())).collect();
        for (schema, answer) in schemas.iter().zip(model.answers(&requests)) {
            tokens += answer.reply.usage.completion_tokens;
            events += answer.events.len();
            let judge = jsonschema::options().should_validate_formats(true).build(schema).expect("it is a schema");
            let is_valid = |text: &str| serde_json::from_str(text).is_ok_and(|value: Value| judge.is_valid(&value));
            match &answer.reply.tool_calls[..] {
                [call] if is_valid(&call.arguments) => valid += 1,
                calls => println!("  not valid: {:?} under {schema}", calls.iter().map(|call| &call.arguments).collect::<Vec<_>>()),
            }
        }
    }
    let took = start.elapsed();
    println!("{tools} generated tools called: {valid} valid, {tokens} tokens, {events} events, {:.1} s", took.as_secs_f64());
}

fn request(schema: &Value, seed: u64) -> Request {
    let conversation = Conversation {
        messages: vec![Message::text(Role::User, "Do it.")],
        tools: vec![ToolDefinition { strict: true, ..tool("do_it", schema.clone()) }],
        tool_choice: ToolChoice::Required,
        ..Conversation::default()
    };
    Request {
        prompts: vec![Prompt::Conversation(conversation)],
        choices_per_prompt: 1,
        tokens_max: Some(TOKENS_MAX),
        sampling: SamplingOptions { temperature: Some(1.0), seed: Some(seed), ..SamplingOptions::default() },
        ..Request::default()
    }
}

fn tool(name: &str, parameters: Value) -> ToolDefinition {
    ToolDefinition { name: name.to_owned(), description: None, parameters: Some(parameters), strict: false }
}

fn timed(what: &str, work: impl FnOnce()) {
    let start = Instant::now();
    work();
    let took: Duration = start.elapsed();
    println!("{what:<28} {:>9.2} ms", took.as_secs_f64() * 1e3);
}

/// As many tokens as Qwen's vocabulary: every byte, and words of the lengths that its have, most with a space before them.
fn large() -> Arc<Tokenizer> {
    let letter = |byte: u32| {
        let printable = |byte: u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let code = if printable(byte) { byte } else { 0x100 + (0..byte).filter(|byte| !printable(*byte)).count() as u32 };
        char::from_u32(code).expect("a letter below U+0144")
    };
    let mut tokens: Vec<String> = (0..=255).map(|byte| letter(byte).to_string()).collect();
    let mut known: std::collections::HashSet<String> = tokens.iter().cloned().collect();
    let mut random = Random(3);
    while tokens.len() < LARGE - 3 {
        let mut word = String::new();
        if random.chance(450) {
            word.push(letter(b' '.into()));
        }
        for _ in 0..random.between(2, 9) {
            let byte = match random.below(100) {
                0..80 => random.between(b'a'.into(), b'z'.into()),
                80..88 => random.between(b'A'.into(), b'Z'.into()),
                88..96 => random.between(0x21, 0x40),
                _ => random.between(0xC3, 0xE9),
            };
            word.push(letter(byte as u32));
        }
        if known.insert(word.clone()) {
            tokens.push(word);
        }
    }
    let first_control = tokens.len() as u32;
    tokens.extend(["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(str::to_owned));
    let mut kinds = vec![1i32; LARGE - 3];
    kinds.resize(LARGE, 3);
    let mut writer = GgufWriter::new();
    writer
        .set("general.architecture", "qwen3")
        .set("tokenizer.ggml.model", "gpt2")
        .set("tokenizer.ggml.pre", "qwen2")
        .set("tokenizer.ggml.tokens", &tokens[..])
        .set("tokenizer.ggml.token_type", kinds)
        .set("tokenizer.ggml.merges", &["t h".to_owned()][..])
        .set("tokenizer.ggml.eos_token_id", first_control + 2)
        .set("tokenizer.ggml.add_bos_token", false);
    let gguf = Gguf::from_bytes(SharedBytes::new(Arc::new(writer.to_bytes())), "large.gguf").expect("our own file can be read");
    Arc::new(Tokenizer::from_gguf(&gguf).expect("our own tokenizer can be built"))
}
