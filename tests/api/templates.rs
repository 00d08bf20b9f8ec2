//! Chat templates against transformers: `chat_templates.py` wrote what it renders, byte for byte; and the fallback, through the API.

use serde_json::{Value, json};
use understudy::api::Dialect;
use understudy::api::openai_chat::OpenAiChat;
use understudy::chat::Prompt;
use understudy::chat::chat_template::{ChatTemplate, TemplateError};
use understudy::chat::control_text::ControlText;

use crate::support::test_app::{NOW_UNIX_S, Options, TestApp};

/// One case of the oracle's, read through our own dialect, so that the whole way from the wire to the prompt is compared.
fn render(case: &Value) -> Result<String, TemplateError> {
    let body = json!({"messages": case["messages"], "tools": case["tools"], "chat_template_kwargs": case["variables"]});
    let call = OpenAiChat::parse(body.to_string().as_bytes()).expect("the oracle's cases are good requests");
    let [Prompt::Conversation(conversation)] = &call.request.prompts[..] else { panic!("a chat is one conversation") };
    let template = ChatTemplate::new(case["template"].as_str(), None, Some("<s>".into()), Some("</s>".into()))?;
    template.render(conversation, &ControlText::new(vec![]), NOW_UNIX_S)
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
