//! Tool calls under a grammar: in every format, what opens a call must become one; nothing else is kept from being said.

use serde_json::{Value, json};
use std::sync::Arc;
use understudy::chat::grammar::reply::{CallRules, Calls, ReplyRules, Thinks};
use understudy::chat::tool_formats::{ToolFormat, of_template};
use understudy::chat::{OutputFormat, ToolDefinition};
use understudy::engine::constraint::Constraint;

use super::driver::{GRAMMARS, TOKENIZER, Walk, mask, walk};
use crate::support::random::Random;

const HERMES: &str = "<tool_call>";

fn tools() -> Vec<ToolDefinition> {
    let tool = |name: &str, parameters: Value| ToolDefinition {
        name: name.to_owned(),
        description: None,
        parameters: Some(parameters),
        strict: false,
    };
    vec![
        tool("read", json!({"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]})),
        tool(
            "read_lines",
            json!({"type": "object", "properties": {"from": {"type": "integer"}, "text": {"type": "string"}}, "required": ["from"]}),
        ),
        tool("stop", json!({"type": "object", "properties": {}})),
    ]
}

#[derive(Clone, Copy, PartialEq)]
enum Choice {
    Auto,
    Required,
    None,
}

struct Wanted {
    template: &'static str,
    choice: Choice,
    several: bool,
    thinking: Thinks<'static>,
    output: OutputFormat,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { template: HERMES, choice: Choice::Auto, several: true, thinking: Thinks::Not, output: OutputFormat::Text }
    }
}

impl Wanted {
    fn constraint(&self) -> Arc<dyn Constraint> {
        let tools = tools();
        let format: &dyn ToolFormat = of_template(self.template).expect("a known format");
        let rules = CallRules { format, tools: tools.iter().enumerate().collect(), several: self.several };
        let calls = match self.choice {
            Choice::Auto => Calls::Possible(&rules),
            Choice::Required => Calls::Required(&rules),
            Choice::None => Calls::Forbidden(format),
        };
        let rules = ReplyRules { thinking: self.thinking, calls, output: &self.output, begun: &[] };
        GRAMMARS.of_reply(&rules, None).expect("the rules compile").expect("they rule something")
    }

    #[track_caller]
    fn check(&self, texts: &[(&str, Walk)]) {
        let constraint = self.constraint();
        for (text, expected) in texts {
            assert_eq!(walk(&*constraint, text), *expected, "{text}");
        }
    }
}

fn read(path: &str) -> String {
    format!("<tool_call>\n{{\"name\": \"read\", \"arguments\": {{\"path\": \"{path}\"}}}}\n</tool_call>")
}

#[test]
fn free_text_is_free_until_a_call_opens() {
    let call = read("a.txt");
    Wanted::default().check(&[
        ("", Walk::Accepted),
        ("Hello <tool> world, <tool_cal> and \u{1F600} \"quotes\"", Walk::Accepted),
        ("<tool_call>", Walk::Unfinished),
        (&call, Walk::Accepted),
        (&format!("I read it.\n{call}"), Walk::Accepted),
        (&format!("{call}\n{call}"), Walk::Accepted),
        ("<tool_call>\n{\"name\": \"read_lines\", \"arguments\": {\"from\": 3}}\n</tool_call>", Walk::Accepted),
        ("<tool_call>\n{\"name\": \"stop\", \"arguments\": {}}\n</tool_call>", Walk::Accepted),
        ("x <tool_call>\n{\"name\": \"write", Walk::StoppedAt(24)),
        ("<tool_call>\n{\"name\": \"read\", \"arguments\": {\"path\": 3", Walk::StoppedAt(51)),
        (&format!("{call} and text"), Walk::StoppedAt(call.len())),
    ]);
}

#[test]
fn a_call_that_is_required_comes_first_and_one_is_one() {
    let call = read("x");
    Wanted { choice: Choice::Required, ..Wanted::default() }.check(&[
        ("", Walk::Unfinished),
        ("Hello", Walk::StoppedAt(0)),
        (&call, Walk::Accepted),
        (&format!("{call}\n{call}"), Walk::Accepted),
    ]);
    Wanted { choice: Choice::Required, several: false, ..Wanted::default() }.check(&[(&format!("{call}\n"), Walk::StoppedAt(call.len()))]);
    Wanted { several: false, ..Wanted::default() }.check(&[(&format!("a {call}\n"), Walk::StoppedAt(call.len() + 2))]);
}

#[test]
fn a_call_that_is_forbidden_is_not_opened() {
    Wanted { choice: Choice::None, ..Wanted::default() }
        .check(&[("a <tool_cal l>", Walk::Accepted), ("a <tool_call>", Walk::StoppedAt(12))]);
}

#[test]
fn thinking_comes_first_and_is_free() {
    let call = read("x");
    let thought = format!("hm, <tool_call> or {{ or <think>?{}", "</think>");
    let open = Thinks::Open { close: "</think>" };
    Wanted { choice: Choice::Required, thinking: open, ..Wanted::default() }.check(&[
        ("hm", Walk::Unfinished),
        (&thought, Walk::Unfinished),
        (&format!("{thought}{call}"), Walk::Accepted),
        (&format!("{thought}\n\n{call}"), Walk::Accepted),
        (&format!("{thought}\n\nx"), Walk::StoppedAt(thought.len() + 2)),
    ]);
    Wanted { thinking: open, ..Wanted::default() }.check(&[
        (&format!("{thought}\n\nwords, then\n{call}"), Walk::Accepted),
        (&format!("{thought}\n<tool_call>x"), Walk::StoppedAt(thought.len() + 12)),
    ]);
    let possible = Thinks::Possible { open: "<think>", close: "</think>" };
    let schema = OutputFormat::JsonSchema(json!({"type": "integer"}));
    let forced = Wanted { choice: Choice::None, thinking: possible, output: schema, ..Wanted::default() };
    forced.check(&[
        ("12", Walk::Accepted),
        (&format!("<think>{thought}\n\n12"), Walk::Accepted),
        (&format!("<think>{thought}12"), Walk::Accepted),
        ("<think>12", Walk::Unfinished),
        (&format!("<think>{thought}<think>"), Walk::StoppedAt(7 + thought.len())),
        ("12<think>", Walk::StoppedAt(2)),
        ("x", Walk::StoppedAt(0)),
    ]);
    Wanted { thinking: possible, ..Wanted::default() }.check(&[
        (&format!("<think>{thought}done"), Walk::Accepted),
        (&format!("<think>{thought}{call}"), Walk::Accepted),
        // Later it is a word like any other.
        (&format!("so <think> {call}"), Walk::Accepted),
    ]);
}

#[test]
fn a_format_holds_unless_a_tool_is_called() {
    let call = read("x");
    let output = OutputFormat::JsonSchema(json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}));
    Wanted { output, ..Wanted::default() }.check(&[
        ("{\"a\": 1}", Walk::Accepted),
        (&call, Walk::Accepted),
        ("words", Walk::StoppedAt(0)),
        ("{\"b\": 1}", Walk::StoppedAt(2)),
    ]);
}

/// The formats whose calls can be written without a proper template, as their own readers want them.
#[test]
fn every_format_has_a_grammar() {
    let python = of_template("<|tool_call_start|>").map(ToolFormat::name);
    assert!(python.is_some());
    for (template, call) in [
        (
            "<tool_call><function=",
            "<tool_call>\n<function=read>\n<parameter=path>\na \"b\" </p> \n\n</parameter>\n</function>\n</tool_call>",
        ),
        ("<|python_tag|>", "{\"name\": \"read\", \"parameters\": {\"path\": \"x\"}}"),
        ("[TOOL_CALLS]", "[TOOL_CALLS][{\"name\": \"read\", \"arguments\": {\"path\": \"x\"}}]"),
        ("[TOOL_CALLS][ARGS]", "[TOOL_CALLS]read[ARGS]{\"path\": \"x\"}"),
        (
            "<｜tool▁calls▁begin｜>",
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>read<｜tool▁sep｜>{\"path\": \"x\"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        ),
        ("<|channel|><|message|>", "<|channel|>commentary to=functions.read <|constrain|>json<|message|>{\"path\": \"x\"}"),
        ("<arg_key>", "<tool_call>read\n<arg_key>path</arg_key>\n<arg_value>x < y</arg_value>\n</tool_call>"),
        ("<TOOLCALL>", "<TOOLCALL>[{\"name\": \"read\", \"arguments\": {\"path\": \"x\"}}]</TOOLCALL>"),
    ] {
        for choice in [Choice::Auto, Choice::Required] {
            let wanted = Wanted { template, choice, several: false, ..Wanted::default() };
            let broken = call.replace("read", "reed");
            let at = broken.find("reed").expect("the name") + 2;
            wanted.check(&[(call, Walk::Accepted)]);
            let found = walk(&*wanted.constraint(), &broken);
            assert!(matches!(found, Walk::StoppedAt(stop) if stop <= at), "{broken}: {found:?}");
        }
    }
}

/// Drafts that are rejected take tokens back, anywhere: the mask must be the one of a matcher that never saw them.
#[test]
fn a_mask_is_a_function_of_the_output() {
    let texts = [
        format!("hm, <tool <think>?</think>words < {} {}", read("a"), read("b c")),
        format!("</think>\n\n{}\n{}", read("x"), read("y")),
        "<tool_call>\n{\"name\": \"read_lines\", \"arguments\": {\"from\": 3}}\n</tool_call>".to_owned(),
        "<think>so</think>\n12".to_owned(),
    ];
    let output = OutputFormat::JsonSchema(json!({"type": "integer"}));
    let open = Thinks::Open { close: "</think>" };
    let possible = Thinks::Possible { open: "<think>", close: "</think>" };
    for (index, wanted) in [
        Wanted { thinking: open, ..Wanted::default() },
        Wanted { thinking: possible, ..Wanted::default() },
        Wanted { thinking: open, choice: Choice::Required, ..Wanted::default() },
        Wanted { thinking: possible, output, ..Wanted::default() },
    ]
    .into_iter()
    .enumerate()
    {
        let constraint = wanted.constraint();
        let mut random = Random(index as u64);
        for text in &texts {
            let mut matcher = constraint.matcher().expect("healthy");
            let mut output: Vec<u32> = Vec::new();
            let mut seen = Vec::new();
            // Along the text where that is allowed, elsewhere at random; and back now and then.
            for _ in 0..120 {
                let found = mask(&mut *matcher, &output);
                let fresh = mask(&mut *constraint.matcher().expect("healthy"), &output);
                assert_eq!(found, fresh, "after {:?}", output);
                let written: Vec<u8> = output.iter().flat_map(|&token| TOKENIZER.token_bytes(token, true)).copied().collect();
                let rest = text.as_bytes().strip_prefix(&written[..]).unwrap_or_default();
                let allowed: Vec<u32> = (0..TOKENIZER.vocab_size() as u32).filter(|&token| found.0.contains(token)).collect();
                let fitting = allowed.iter().copied().filter(|&token| {
                    let bytes = TOKENIZER.token_bytes(token, true);
                    !bytes.is_empty() && rest.starts_with(bytes)
                });
                let next = match fitting.max_by_key(|&token| TOKENIZER.token_bytes(token, true).len()) {
                    _ if allowed.is_empty() => None,
                    Some(token) if random.chance(900) => Some(token),
                    _ => Some(allowed[random.below(allowed.len() as u64) as usize]),
                };
                seen.push(found.1);
                match next {
                    Some(token) if random.chance(800) => output.push(token),
                    _ => output.truncate(output.len() - random.below(output.len() as u64 + 1) as usize),
                }
            }
            assert!(!seen.is_empty());
        }
    }
}
