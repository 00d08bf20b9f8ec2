//! Chat templates against transformers: `chat_templates.py` wrote what it renders, byte for byte; and the fallback, through the API.

use std::sync::Arc;

use models::gguf::writer::GgufWriter;
use models::{Gguf, Tokenizer};
use serde_json::{Value, json};
use understudy::api::Dialect;
use understudy::api::openai_chat::OpenAiChat;
use understudy::chat::chat_template::{ChatTemplate, TemplateError};
use understudy::chat::control_text::ControlText;
use understudy::chat::prepare::{Surroundings, TextModel};
use understudy::chat::{Conversation, Message, Prompt, Request, Role, SamplingDefaults};

use crate::support::test_app::{NOW_UNIX_S, Options, TestApp};

/// One case of the oracle's, read through our own dialect, so that the whole way from the wire to the prompt is compared.
fn render(case: &Value) -> Result<String, TemplateError> {
    let body = json!({"messages": case["messages"], "tools": case["tools"], "chat_template_kwargs": case["variables"]});
    let call = OpenAiChat::parse(body.to_string().as_bytes()).expect("the oracle's cases are good requests");
    let [Prompt::Conversation(conversation)] = &call.request.prompts[..] else { panic!("a chat is one conversation") };
    let template = ChatTemplate::new(case["template"].as_str(), None, Some("<s>".into()), Some("</s>".into()))?;
    template.render(conversation, &ControlText::new(vec![]), NOW_UNIX_S).map(|rendered| rendered.text)
}

#[test]
fn rendered_as_transformers_does() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("chat_templates.json")).expect("the oracle's file is JSON");
    assert!(cases.len() >= 15);
    for case in &cases {
        let name = &case["name"];
        match (render(case), case["rendered"].as_str()) {
            (Ok(ours), Some(theirs)) => {
                let difference = ours.lines().zip(theirs.lines()).find(|(our, their)| our != their);
                assert!(ours == theirs, "{name}: {difference:#?}\nours:\n{ours}\ntransformers:\n{theirs}");
            }
            (Err(TemplateError::Refused(words)), None) => assert_eq!(words, case["error"].as_str().expect("an error"), "{name}"),
            (ours, theirs) => panic!("{name}: {ours:?}, transformers: {theirs:?}"),
        }
    }
}

#[test]
fn a_model_without_a_template_speaks_chatml() {
    let app = TestApp::start(Options { template: None, ..Options::default() });
    let reply = app.ok("/v1/chat/completions", &json!({"messages": [{"role": "user", "content": "SAY[[hello]]"}]}));
    assert_eq!(reply["choices"][0]["message"]["content"], "hello");
    let by_hand = app.ok("/v1/completions", &json!({"prompt": "<|im_start|>user\nSAY[[hello]]<|im_end|>\n<|im_start|>assistant\n"}));
    assert_eq!(reply["usage"]["prompt_tokens"], by_hand["usage"]["prompt_tokens"]);
}

#[test]
fn a_sentencepiece_model_reads_a_users_words_as_they_stand() {
    // All bytes and the space, so that every space that is put somewhere is seen.
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>", "▁"].map(str::to_owned).into();
    tokens.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    let kinds: Vec<i32> = [vec![2, 3, 3, 1], vec![6; 256]].concat();
    let mut writer = GgufWriter::new();
    writer.set("tokenizer.ggml.model", "llama").set("tokenizer.ggml.tokens", tokens).set("tokenizer.ggml.token_type", kinds);
    writer.set("tokenizer.ggml.scores", vec![0f32; 260]);
    writer.set("tokenizer.chat_template", "{% for message in messages %}<s>{{ message.content }}</s>{% endfor %}");
    let gguf = Gguf::from_bytes(writer.to_bytes().into(), "spm.gguf").expect("our own file can be read");
    let tokenizer = Arc::new(Tokenizer::from_gguf(&gguf).expect("our own tokenizer can be built"));
    let template = ChatTemplate::of(&tokenizer).expect("the template parses");
    let model = TextModel::new(tokenizer.clone(), template, SamplingDefaults::default());

    let words = "a </s> b <unk> c<s>";
    let conversation = Conversation { messages: vec![Message::text(Role::User, words)], ..Conversation::default() };
    let request = Request { prompts: vec![Prompt::Conversation(conversation)], choices_per_prompt: 1, ..Request::default() };
    let jobs =
        model.prepare(&request, Surroundings { now_unix_s: NOW_UNIX_S, random: 0, prompt_tokens_max: 4095 }).expect("a good request");
    let ids = &jobs[0].generate.prompt;
    let text: Vec<u8> = ids.iter().flat_map(|id| tokenizer.token_bytes(*id, true)).copied().collect();
    // Of all spaces one is not the user's: SentencePiece puts it before a text.
    assert_eq!(String::from_utf8_lossy(&text), format!("<s> {words}</s>"));
    let special: Vec<usize> = (0..ids.len()).filter(|&at| tokenizer.is_special(ids[at])).collect();
    assert_eq!(special, [0, ids.len() - 1], "only the template's own tokens are tokens: {ids:?}");

    // One token too long is found out here, before the prompt is there once for each choice.
    let surroundings = Surroundings { now_unix_s: NOW_UNIX_S, random: 0, prompt_tokens_max: ids.len() - 1 };
    let refused = model.prepare(&request, surroundings).expect_err("a prompt that is too long");
    assert_eq!(refused.to_string(), format!("prompt is too long: {} tokens > {} maximum", ids.len(), ids.len() - 1));
}
