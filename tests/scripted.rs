//! The scripted model: what it says does not depend on how it is computed, a grammar is stronger, and the example in docs/ does in each
//! client what it promises.

use std::sync::Arc;
use std::time::{Duration, Instant};

use models::{Gguf, Tokenizer};
use serde_json::{Value, json};
use understudy::chat::prepare::{Surroundings, TextModel};
use understudy::chat::{Conversation, Message, Prompt, Request, Role, SamplingDefaults, SamplingOptions};
use understudy::engine::constraint::{Constraint, Ending};
use understudy::engine::engine_loop::EngineLoop;
use understudy::engine::{Engine, EngineConfig, GenerateRequest, TokenEvent};
use understudy::hub::builtin;
use understudy::scripted::runner::ScriptedRunner;
use understudy::scripted::script::Script;
use understudy::scripted::template;

use crate::support::constraints::Ruled;
use crate::support::program::{Program, Running};

const CONFIG: EngineConfig = EngineConfig {
    blocks: 64,
    sequences_max: 4,
    tokens_per_step_max: 64,
    queue_max: 16,
    context_max: 1024,
    drafts_max: 8,
    first_token_max: None,
};

/// The engine with a script, turned by hand.
struct Stage {
    engine: Engine,
    engine_loop: EngineLoop,
    text: TextModel,
}

impl Stage {
    fn new(script: &str, config: EngineConfig) -> Self {
        let gguf = Gguf::from_bytes(builtin::bytes(), "builtin").unwrap();
        let tokenizer = Arc::new(Tokenizer::from_gguf(&gguf).unwrap());
        let script = Script::parse("script.toml", script).unwrap();
        let runner = ScriptedRunner::new(script, tokenizer.clone(), config.blocks).unwrap();
        let (engine, engine_loop) = Engine::without_thread(Box::new(runner), config);
        let text = TextModel::new(tokenizer.clone(), template(&tokenizer).unwrap(), SamplingDefaults::default());
        Self { engine, engine_loop, text }
    }

    fn request(&self, prompt: Prompt) -> GenerateRequest {
        let sampling = SamplingOptions { temperature: Some(2.0), frequency_penalty: Some(2.0), ..SamplingOptions::default() };
        let request = Request { prompts: vec![prompt], choices_per_prompt: 1, sampling, ..Request::default() };
        let surroundings = Surroundings { now_unix_s: 0, random: 7, prompt_tokens_max: 1023 };
        self.text.prepare(&request, surroundings).unwrap().remove(0).generate
    }

    /// All at once; each reply as text, and how much of its prompt was cached.
    fn play(&mut self, requests: Vec<GenerateRequest>) -> Vec<(String, usize)> {
        let mut streams: Vec<_> =
            requests.into_iter().map(|request| (self.engine.generate(request).unwrap(), Vec::<u8>::new(), None)).collect();
        while streams.iter().any(|(_, _, cached)| cached.is_none()) {
            assert!(self.engine_loop.turn());
            for (stream, reply, cached) in &mut streams {
                while let Some(event) = stream.try_next() {
                    match event {
                        TokenEvent::Token(token) => reply.extend_from_slice(self.text.tokenizer.token_bytes(token.id, true)),
                        TokenEvent::Finished { usage, .. } => *cached = Some(usage.cached_tokens),
                    }
                }
            }
        }
        let reply = |(_, reply, cached): (_, Vec<u8>, Option<usize>)| (String::from_utf8_lossy(&reply).into_owned(), cached.unwrap());
        streams.into_iter().map(reply).collect()
    }
}

fn conversation(system: &str, human: &str) -> Prompt {
    let messages = vec![Message::text(Role::System, system), Message::text(Role::User, human)];
    Prompt::Conversation(Conversation { messages, ..Conversation::default() })
}

#[test]
fn what_is_said_does_not_depend_on_how_it_is_computed() {
    let song = "row, row, row your boat; ".repeat(12) + "é 𝄞 end";
    let script = format!("[[rule]]\ncontains = 'sing'\ntext = '{song}'\n[[rule]]\ncontains = 'think'\nthinking = 'hm'\ntext = 'done'\n");
    let system = "A long beginning that several conversations share. ".repeat(9);
    let humans = ["sing", "please think", "sing it again", "what else?"];
    let expected = [&song, "<think>\nhm\n</think>\n\ndone", &song, "No rule of the script matches this."];
    for (tokens_per_step_max, blocks, drafts_max) in [(512, 64, 8), (7, 64, 0), (5, 21, 3), (33, 24, 8)] {
        let mut stage = Stage::new(&script, EngineConfig { tokens_per_step_max, blocks, drafts_max, ..CONFIG });
        for round in 0..2 {
            let requests = humans.map(|human| stage.request(conversation(&system, human)));
            let replies = stage.play(requests.into());
            for (reply, expected) in replies.iter().zip(expected) {
                assert_eq!(reply.0, expected, "{tokens_per_step_max} rows, {blocks} blocks, round {round}");
            }
            assert!(round == 0 || replies.iter().any(|(_, cached)| *cached > 0), "the second round begins with the first one's blocks");
        }
    }
}

#[test]
fn a_text_without_turns_is_gone_on_with() {
    let mut stage = Stage::new("[[rule]]\nregex = 'upon$'\ntext = ' a time'\n[default]\ntext = 'x x x'\n", CONFIG);
    let prompts = ["Once upon", "Once", "x x"].map(|text| stage.request(Prompt::Text(text.to_owned())));
    let replies: Vec<String> = stage.play(prompts.into()).into_iter().map(|(reply, _)| reply).collect();
    // The last prompt is a beginning of the reply itself.
    assert_eq!(replies, [" a time", "x x x", " x"]);
}

/// One of these texts, token by token.
fn among(tokenizer: &Arc<Tokenizer>, texts: &'static [&'static str]) -> Arc<dyn Constraint> {
    let tokenizer = tokenizer.clone();
    Ruled::by(move |output, allowed| {
        let said: Vec<u8> = output.iter().flat_map(|&token| tokenizer.token_bytes(token, true)).copied().collect();
        let rests: Vec<&[u8]> = texts.iter().filter_map(|text| text.as_bytes().strip_prefix(&said[..])).collect();
        let fits = |token: &u32| {
            let bytes = tokenizer.token_bytes(*token, true);
            !bytes.is_empty() && rests.iter().any(|rest| rest.starts_with(bytes))
        };
        (0..allowed.vocab() as u32).filter(fits).for_each(|token| allowed.insert(token));
        Ok(if rests.contains(&&[][..]) { Ending::Possible } else { Ending::NotYet })
    })
}

#[test]
fn a_grammar_is_stronger_than_the_script() {
    let mut stage = Stage::new("[[rule]]\ncontains = 'json'\ntext = '{\"b\": \"x\", \"a\": [1, 22]}'\n[default]\ntext = 'pong'\n", CONFIG);
    let tokenizer = stage.text.tokenizer.clone();
    let cases: [(&str, &'static [&'static str], &str); 6] = [
        // The script where it may; else what ends soon.
        ("x", &["ping", "pong", "pongo"], "pong"),
        ("x", &["{}", "{\"a\":1}"], "{}"),
        ("x", &["{\"a\":\"\"}", "{\"a\":\"}\"}", "{\"a\":\"abc\"}"], "{\"a\":\"\"}"),
        ("x", &["{\"a\":12345,\"b\":0}", "{\"a\":1}", "{\"a\":12}"], "{\"a\":1}"),
        // The script's values in the grammar's order and with its spaces.
        ("json", &["{\"a\":[1,22],\"b\":\"x\"}", "{\"a\":[],\"b\":\"\"}"], "{\"a\":[1,22],\"b\":\"x\"}"),
        ("json", &["{ \"b\" : \"\" }", "{ \"b\" : \"x\" }", "{ \"b\" : \"y\" }"], "{ \"b\" : \"x\" }"),
    ];
    for (human, texts, expected) in cases {
        let request = GenerateRequest { constraint: Some(among(&tokenizer, texts)), ..stage.request(conversation("", human)) };
        assert_eq!(stage.play(vec![request])[0].0, expected, "out of {texts:?}");
    }
}

#[test]
fn the_pace_is_kept() {
    let script = "tokens_per_s = 1000\nprompt_tokens_per_s = 10000\n[[rule]]\ncontains = 'slow'\ntokens_per_s = 100\ntext = 'a b c d'\n";
    let mut stage = Stage::new(script, CONFIG);
    let requests = ["slow", "x"].map(|human| stage.request(conversation(&"word ".repeat(200), human)));
    let start = Instant::now();
    assert_eq!(stage.play(requests.into())[0].0, "a b c d");
    // Two prompts of 200 tokens and more, whose first blocks are computed once, and four tokens in the slow reply's own time.
    assert!(start.elapsed() >= Duration::from_millis(20 + 40), "{:?}", start.elapsed());
}

fn example() -> Running {
    Program::new().serve(&["--port", "0", &format!("scripted:{}/docs/examples/scripted.toml", env!("CARGO_MANIFEST_DIR"))])
}

#[track_caller]
fn message(server: &Running, body: &Value) -> Value {
    let answer = server.request("POST", "/v1/chat/completions", &body.to_string());
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    let reply: Value = serde_json::from_str(body).expect("the body is JSON");
    reply["choices"][0].clone()
}

const COMMAND: &str = "echo tool-ran-ok > tool_ran.txt; cat tool_ran.txt";

#[test]
fn the_example_calls_the_shell_of_each_client() {
    let server = example();
    for (name, arguments) in [
        ("Bash", json!({"command": COMMAND})),
        ("bash", json!({"command": COMMAND})),
        ("exec_command", json!({"cmd": COMMAND})),
        ("shell", json!({"command": ["sh", "-c", COMMAND]})),
        ("run_shell_command", json!({"command": COMMAND, "is_background": false})),
    ] {
        let tool = |name: &str| json!({"type": "function", "function": {"name": name, "parameters": {"type": "object"}}});
        let mut messages = vec![
            json!({"role": "system", "content": "You are a coding agent."}),
            json!({"role": "user", "content": "<system-reminder>The date is known.</system-reminder>\nUSE_TOOL Run the command."}),
        ];
        let body = |messages: &[Value]| json!({"model": "m", "messages": messages, "tools": [tool("Read"), tool(name), tool("Write")]});
        let choice = message(&server, &body(&messages));
        assert_eq!(choice["finish_reason"], "tool_calls", "{choice}");
        let call = &choice["message"]["tool_calls"][0];
        assert_eq!(call["function"]["name"], name);
        let called: Value = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
        assert_eq!(called, arguments);
        // The result comes with a reminder beside it.
        messages.push(choice["message"].clone());
        messages.push(json!({"role": "tool", "tool_call_id": call["id"], "content": "tool-ran-ok"}));
        messages.push(json!({"role": "user", "content": "<system-reminder>Be brief.</system-reminder>"}));
        let choice = message(&server, &body(&messages));
        assert_eq!((&choice["message"]["content"], &choice["finish_reason"]), (&json!("DONE."), &json!("stop")), "{choice}");
    }
    let vectors = server.request("POST", "/v1/embeddings", &json!({"input": ["a", "b"]}).to_string());
    assert!(vectors.starts_with("HTTP/1.1 200"), "{vectors}");
    let pong = message(&server, &json!({"model": "m", "messages": [{"role": "user", "content": "Say pong."}]}));
    assert!(pong["message"]["content"].as_str().unwrap().ends_with("pong"), "{pong}");
}

/// Of which the script knows nothing: what ends soon must end, and be right.
#[test]
fn every_schema_is_answered_soon() {
    let server = example();
    let name = json!({"type": "string", "minLength": 3});
    let object = |properties: Value, required: &[&str]| json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false});
    for schema in [
        object(json!({"a": {"type": "string"}, "b": {"type": "integer"}, "c": {"type": "boolean"}}), &["a", "b", "c"]),
        object(json!({"a": {"type": "array", "items": {"type": "string"}, "minItems": 2}, "b": name}), &["a", "b"]),
        object(json!({"a": {"enum": ["red", "green"]}, "b": {"const": 7}, "c": {"type": ["string", "null"]}}), &["a", "b", "c"]),
        object(json!({"a": {"type": "string", "pattern": "^[a-z]+@[a-z]+\\.[a-z]{2,3}$"}, "b": {"type": "number"}}), &["a", "b"]),
        object(json!({"when": {"type": "string", "format": "date-time"}, "id": {"type": "string", "format": "uuid"}}), &["when", "id"]),
        object(json!({"n": {"type": "integer", "minimum": 17, "maximum": 1234}, "many": {"type": "object"}}), &["n", "many"]),
        json!({"type": "array", "items": object(json!({"x": {"type": "number"}}), &["x"]), "minItems": 1}),
        json!({"$defs": {"tree": object(json!({"value": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]}}), &["value", "next"])},
               "$ref": "#/$defs/tree"}),
    ] {
        let format = json!({"type": "json_schema", "json_schema": {"name": "s", "schema": schema}});
        let body =
            json!({"messages": [{"role": "user", "content": "hello"}], "response_format": format, "max_tokens": 120, "temperature": 1.5});
        let choice = message(&server, &body);
        let text = choice["message"]["content"].as_str().unwrap();
        let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text} for {schema}"));
        assert!(jsonschema::is_valid(&schema, &value), "{text} for {schema}");
    }
    // The script's values where it has them, in the schema's order.
    let schema =
        object(json!({"age": {"type": "integer"}, "name": {"type": "string"}, "email": {"type": "string"}}), &["age", "name", "email"]);
    let format = json!({"type": "json_schema", "json_schema": {"name": "s", "schema": schema}});
    let choice = message(&server, &json!({"messages": [{"role": "user", "content": "Invent a person"}], "response_format": format}));
    let value: Value = serde_json::from_str(choice["message"]["content"].as_str().unwrap()).unwrap();
    assert_eq!(value, json!({"age": 36, "name": "Ada", "email": ""}));
}

#[test]
fn what_is_wrong_in_a_script_is_told_with_its_line() {
    let program = Program::new();
    program.home.write("bad.toml", "[default]\ntext = 3\n");
    let ended = program.run(&["serve", "--port", "0", "scripted:bad.toml"]);
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("bad.toml line 2: text: invalid type: integer `3`, expected a string"), "{}", ended.stderr);
    let ended = program.run(&["serve", "--port", "0", "scripted:gone.toml"]);
    assert!(ended.code == Some(1) && ended.stderr.contains("gone.toml"), "{ended:?}");
    assert_eq!(program.run(&["pull", "scripted:bad.toml"]).stdout, "bad.toml\n");
}
