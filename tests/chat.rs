//! From a request to a prompt, and from a model's tokens to events, without a server: how templates, thinking, calls and prefill meet.

use models::Tokenizer;
use serde_json::json;
use std::sync::Arc;
use understudy::chat::chat_template::ChatTemplate;
use understudy::chat::output::Flow;
use understudy::chat::prepare::{Job, PrepareError, Surroundings, TextModel};
use understudy::chat::reply::Reply;
use understudy::chat::{
    Conversation, Effort, FinishReason, Message, Prompt, Request, Role, SamplingDefaults, Thinking, ToolCall, ToolChoice, ToolDefinition,
};
use understudy::engine::{FinishReason as EngineFinish, GeneratedToken, TokenLogprobs, TokenUsage};

use crate::support::tiny_tokenizer::{Fim, tiny_tokenizer};

/// A model that thinks and calls tools; opens its thoughts in the prompt unless it is told not to think.
const THINKER: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}\
{{ m.content | trim }}<|im_end|>\n{% endfor %}{% if tools %}<tool_call>{% endif %}\
{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}";
/// One that always opens its thoughts in the prompt.
const STUBBORN: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{{ '<tool_call></think>' if tools }}\
{% if add_generation_prompt %}<|im_start|>assistant\n{{ '<think>\n' }}{% endif %}";
const HARMONY: &str = "{% if reasoning_effort is defined %}Reasoning: {{ reasoning_effort }}\n{% endif %}{% for m in messages %}<|start|>{{ m.role }}\
{% if 'thinking' in m and m.thinking %}<|channel|>analysis<|message|>{{ m.thinking }}<|end|>{% endif %}<|message|>{{ m.content }}<|end|>{% endfor %}\
{% if add_generation_prompt %}<|start|>assistant{% endif %}";

struct Model {
    text: TextModel,
    tokenizer: Arc<Tokenizer>,
}

impl Model {
    fn new(template: &'static str) -> Self {
        let tokenizer = tiny_tokenizer(Some(template), Fim::Known);
        let template = ChatTemplate::of(&tokenizer).expect("the template parses");
        Self { text: TextModel::new(tokenizer.clone(), template, SamplingDefaults::default()), tokenizer }
    }

    fn prepare(&self, conversation: Conversation, stop: &[&str]) -> Result<Job, PrepareError> {
        let stop = stop.iter().map(|stop| (*stop).to_owned()).collect();
        let request = Request { prompts: vec![Prompt::Conversation(conversation)], choices_per_prompt: 1, stop, ..Request::default() };
        let surroundings = Surroundings { now_unix_s: 0, random: 1, prompt_tokens_max: 4096 };
        Ok(self.text.prepare(&request, surroundings)?.remove(0))
    }

    fn prompt(&self, conversation: Conversation) -> String {
        let job = self.prepare(conversation, &[]).expect("a good request");
        let bytes: Vec<u8> = job.generate.prompt.iter().flat_map(|&id| self.tokenizer.token_bytes(id, true)).copied().collect();
        String::from_utf8(bytes).expect("the prompt is text")
    }

    /// What a client gets when the model says `said` and then stops, or is cut off there.
    fn reply(&self, conversation: Conversation, stop: &[&str], said: &str, finish: EngineFinish) -> Reply {
        let mut output = self.prepare(conversation, stop).expect("a good request").output;
        let mut events = Vec::new();
        output.open(&mut events);
        let ids = self.tokenizer.encode(said, true).expect("all bytes are tokens");
        let usage = TokenUsage { prompt_tokens: 1, cached_tokens: 0, completion_tokens: ids.len() };
        let done = ids.into_iter().any(|id| {
            let logprobs = Some(TokenLogprobs { logprob: -1.0, top: Vec::new() });
            output.push(&GeneratedToken { id, logprobs }, 0, &mut events) == Flow::Done
        });
        if !done {
            output.finish(finish, usage, &mut events);
        }
        let mut reply = Reply::default();
        events.into_iter().for_each(|event| reply.push(event).expect("the model is healthy"));
        reply
    }

    fn says(&self, conversation: Conversation, said: &str) -> Reply {
        self.reply(conversation, &[], said, EngineFinish::Stop)
    }
}

fn asks(text: &str) -> Conversation {
    Conversation { messages: vec![Message::text(Role::User, text)], parallel_tool_calls: true, ..Conversation::default() }
}

fn with_tools(text: &str) -> Conversation {
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
    let tool = |name: &str| ToolDefinition { name: name.into(), description: None, parameters: Some(parameters.clone()), strict: false };
    Conversation { tools: vec![tool("weather"), tool("time")], ..asks(text) }
}

fn wanting(wanted: bool, conversation: Conversation) -> Conversation {
    Conversation { thinking: Thinking { wanted: Some(wanted), ..Thinking::default() }, ..conversation }
}

#[test]
fn thoughts_answer_and_calls_are_parted() {
    let said = "<think>\nLet <tool_call> me see. STOP\n</think>\n\nI look.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"STOP\"}}\n</tool_call>";
    let reply = Model::new(THINKER).reply(with_tools("?"), &["STOP"], said, EngineFinish::Stop);
    assert_eq!((reply.thinking.as_str(), reply.text.as_str()), ("Let <tool_call> me see. STOP", "I look."));
    let call = &reply.tool_calls[0];
    assert_eq!((call.name.as_str(), call.arguments.as_str()), ("weather", "{\"city\": \"STOP\"}"), "stop strings are about the answer");
    assert_eq!(reply.finish, Some(FinishReason::ToolCalls));
    // The tokens from `<think>` to `</think>`, of which the tiny vocabulary makes one a letter or pair.
    let thought = Model::new(THINKER).tokenizer.encode("\nLet <tool_call> me see. STOP\n</think>", false).expect("bytes").len();
    assert_eq!(reply.usage.thinking_tokens, thought + 1, "the last letter of the opening mark is the first of the thought");
    let scored: Vec<u8> = reply.tokens.iter().flat_map(|token| token.token.bytes.clone()).collect();
    assert_eq!(String::from_utf8_lossy(&scored), "I look.", "scores are the answer's");
}

#[test]
fn a_stop_string_ends_the_answer() {
    let reply = Model::new(THINKER).reply(with_tools("?"), &["STOP"], "<think>a</think>So be it. STOP here", EngineFinish::Stop);
    assert_eq!((reply.thinking.as_str(), reply.text.as_str()), ("a", "So be it. "));
    assert_eq!(reply.finish, Some(FinishReason::StopString("STOP".into())));
}

#[test]
fn a_call_that_is_cut_off_is_delivered_as_far_as_it_came() {
    let said = "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Os";
    let reply = Model::new(THINKER).reply(with_tools("?"), &[], said, EngineFinish::Length);
    assert_eq!((reply.tool_calls[0].arguments.as_str(), &reply.finish), ("{\"city\": \"Os", &Some(FinishReason::Length)));
    assert_eq!(reply.text, "");
}

#[test]
fn whether_it_thinks_is_for_the_request_to_say() {
    let thinker = Model::new(THINKER);
    assert!(thinker.prompt(asks("?")).ends_with("assistant\n"));
    assert!(thinker.prompt(wanting(true, asks("?"))).ends_with("assistant\n"));
    assert!(thinker.prompt(wanting(false, asks("?"))).ends_with("assistant\n<think>\n\n</think>\n\n"));
    assert_eq!(thinker.says(wanting(false, asks("?")), "<think> is a tag").text, "<think> is a tag", "its thoughts are closed");
    let stubborn = Model::new(STUBBORN);
    assert!(stubborn.prompt(asks("?")).ends_with("assistant\n<think>\n"));
    assert!(
        stubborn.prompt(wanting(false, asks("?"))).ends_with("assistant\n<think>\n\n</think>\n\n"),
        "closed where the template opens them"
    );
    let reply = stubborn.says(asks("?"), "Hm.\n</think>\n\nYes.");
    assert_eq!((reply.thinking.as_str(), reply.text.as_str()), ("Hm.", "Yes."));
    // The client's own variables have the last word.
    let mut conversation = wanting(true, asks("?"));
    conversation.template_variables.insert("enable_thinking".into(), json!(false));
    assert!(thinker.prompt(conversation).ends_with("</think>\n\n"));
}

#[test]
fn a_forced_call_stands_after_the_thoughts() {
    let stubborn = Model::new(STUBBORN);
    let named = Conversation { tool_choice: ToolChoice::Named("time".into()), ..with_tools("?") };
    let end = "assistant\n<think>\n\n</think>\n\n<tool_call>\n{\"name\": \"time\", \"arguments\": ";
    let prompt = stubborn.prompt(named.clone());
    assert!(prompt.ends_with(end), "{prompt}");
    let reply = stubborn.says(named, "{\"city\": \"Rome\"}}\n</tool_call> and more");
    assert_eq!(
        (reply.tool_calls[0].name.as_str(), reply.tool_calls[0].arguments.as_str(), reply.text.as_str()),
        ("time", "{\"city\": \"Rome\"}", "")
    );
}

#[test]
fn a_thinking_budget_is_a_constraint() {
    let budget = |conversation| Conversation { thinking: Thinking { budget_tokens: Some(5), ..Thinking::default() }, ..conversation };
    let has_constraint =
        |model: &Model, conversation| model.prepare(conversation, &[]).expect("a good request").generate.constraint.is_some();
    assert!(has_constraint(&Model::new(THINKER), budget(asks("?"))));
    assert!(!has_constraint(&Model::new(THINKER), asks("?")));
    let plain = "{% for m in messages %}{{ m.content }}{% endfor %}";
    assert!(!has_constraint(&Model::new(plain), budget(asks("?"))), "who does not think has no budget");
}

#[test]
fn harmony_has_thoughts_calls_and_effort() {
    let model = Model::new(HARMONY);
    let conversation = Conversation { thinking: Thinking { effort: Some(Effort::High), ..Thinking::default() }, ..with_tools("?") };
    assert!(model.prompt(conversation.clone()).starts_with("Reasoning: high\n<|start|>user<|message|>?"));
    let said = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary<|message|>I look.<|end|>\
                <|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{\"city\": \"Oslo\"}";
    let reply = model.says(conversation, said);
    assert_eq!((reply.thinking.as_str(), reply.text.as_str()), ("Hm.", "I look."));
    assert_eq!((reply.tool_calls[0].name.as_str(), reply.tool_calls[0].arguments.as_str()), ("weather", "{\"city\": \"Oslo\"}"));
}

#[test]
fn thoughts_of_the_past_go_where_the_template_reads_them() {
    let past = Message { thinking: Some("So it is.".into()), ..Message::text(Role::Assistant, "Yes.") };
    let conversation =
        |past: &Message| Conversation { messages: vec![Message::text(Role::User, "?"), past.clone()], ..Conversation::default() };
    assert!(Model::new(THINKER).prompt(conversation(&past)).contains("<think>\nSo it is.\n</think>\n\nYes."));
    assert!(Model::new(HARMONY).prompt(conversation(&past)).contains("<|channel|>analysis<|message|>So it is.<|end|>"));
    // Words and thoughts beside a call are too much for gpt-oss.
    let call = ToolCall { id: "call_1".into(), name: "f".into(), arguments: "{}".into() };
    let calling = Message { tool_calls: vec![call], ..past };
    assert!(!Model::new(HARMONY).prompt(conversation(&calling)).contains("So it is."));
}

#[test]
fn a_prefilled_answer_is_continued_exactly_where_it_ends() {
    let model = Model::new(THINKER);
    for prefill in ["Hello", "Hello, ", " x \n", "say <|im_end|> twice <|im_end|>", "Yes."] {
        // The same words stand elsewhere too.
        let messages = vec![Message::text(Role::User, "Yes. Hello, Hello"), Message::text(Role::Assistant, prefill)];
        let conversation = Conversation { messages, continues_last: true, ..Conversation::default() };
        let prompt = model.prompt(conversation.clone());
        assert!(prompt.ends_with(&format!("assistant\n{}", prefill.trim_start())), "{prompt:?}");
        assert_eq!(model.says(conversation, " world ").text, " world ", "the reply is what comes after {prefill:?}");
    }
    let thinking = vec![Message::text(Role::User, "?"), Message::text(Role::Assistant, "<think>\nSo far")];
    let reply = model.says(Conversation { messages: thinking, continues_last: true, ..Conversation::default() }, " so good</think>Yes.");
    assert_eq!((reply.thinking.as_str(), reply.text.as_str()), ("so good", "Yes."));
    let blind = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}";
    let messages = vec![Message::text(Role::User, "?"), Message::text(Role::Assistant, "Well")];
    let error = Model::new(blind).prepare(Conversation { messages, continues_last: true, ..Conversation::default() }, &[]).map(|_| ());
    assert!(error.is_err_and(|error| error.to_string().contains("cannot be continued")));
}

#[test]
fn a_late_system_message_is_told_by_the_user_where_the_template_refuses_it() {
    const STRICT: &str = "{% if messages[0].role == 'system' %}S:{{ messages[0].content }};{% set messages = messages[1:] %}{% endif %}\
        {% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}\
        {{ m.role[0] }}:{{ m.content }};{% endfor %}";
    const NO_SYSTEM: &str = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}{{ m.role[0] }}:{{ m.content }};{% endfor %}";
    let says = |role, text| Message::text(role, text);
    let conversation = |messages: Vec<Message>| Conversation { messages, ..Conversation::default() };
    let late = conversation(vec![
        says(Role::System, "a"),
        says(Role::User, "b"),
        says(Role::System, "c"),
        says(Role::Assistant, "d"),
        says(Role::User, "e"),
    ]);
    assert_eq!(Model::new(STRICT).prompt(late), "S:a;u:b\n\n<system>\nc\n</system>;a:d;u:e;");
    let early = conversation(vec![says(Role::System, "a"), says(Role::User, "b")]);
    assert_eq!(Model::new(NO_SYSTEM).prompt(early), "u:<system>\na\n</system>\n\nb;");
    // What it refuses for another reason is still refused, in its own words.
    let twice = conversation(vec![says(Role::User, "a"), says(Role::User, "b")]);
    let error = Model::new(STRICT).prepare(twice, &[]).map(|_| ());
    assert!(error.is_err_and(|error| error.to_string().contains("roles must alternate")));
}

#[test]
fn mistral_is_given_the_ids_it_asks_for() {
    const MISTRAL: &str = "{% for m in messages %}{% for c in m.tool_calls %}{% if c.id | length != 9 %}{{ raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{% endif %}{{ c.id }}{% endfor %}{% if m.tool_call_id %}={{ m.tool_call_id }};{% endif %}{% endfor %}";
    let call = |id: &str| ToolCall { id: id.into(), name: "f".into(), arguments: "{}".into() };
    let mut messages = Vec::new();
    for id in ["call_0123456789", "call_0123456788", "abcdefghi"] {
        messages.push(Message { tool_calls: vec![call(id)], ..Message::text(Role::Assistant, "") });
        messages.push(Message { tool_call_id: Some(id.into()), ..Message::text(Role::Tool, "3") });
    }
    let prompt = Model::new(MISTRAL).prompt(Conversation { messages, ..Conversation::default() });
    let pairs: Vec<(&str, &str)> = prompt.trim_end_matches(';').split(';').map(|pair| pair.split_once('=').expect("a pair")).collect();
    assert!(pairs.iter().all(|(call, result)| call == result && call.len() == 9), "{prompt}");
    assert!(pairs[0] != pairs[1] && pairs[2].0 == "abcdefghi", "{prompt}");
}
