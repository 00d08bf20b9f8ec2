//! `/tokenize`, `/detokenize` and `/apply-template`, as clients of vLLM's and of llama.cpp's server send them.

use serde_json::{Value, json};

use crate::support::test_app::{Options, TEMPLATE, TestApp};

fn ids(app: &TestApp, body: Value) -> Vec<u64> {
    let reply = app.ok("/tokenize", &body);
    let ids: Vec<u64> = serde_json::from_value(reply["tokens"].clone()).expect("ids");
    assert_eq!((&reply["count"], &reply["max_model_len"]), (&json!(ids.len()), &json!(4_096)));
    ids
}

#[test]
fn texts_by_both_servers_names() {
    let app = TestApp::new();
    for field in ["prompt", "content"] {
        assert_eq!(ids(&app, json!({field: "abc"})), [97, 98, 99]);
        assert_eq!(ids(&app, json!({field: ""})), [0; 0]);
        let reply = app.ok("/tokenize", &json!({field: "thé", "with_pieces": true}));
        assert_eq!(reply["tokens"], json!([{"id": 256, "piece": "th"}, {"id": 195, "piece": [195]}, {"id": 169, "piece": [169]}]));
        let reply = app.ok("/tokenize", &json!({field: "thx", "return_token_strs": true}));
        assert_eq!((&reply["tokens"], &reply["token_strs"]), (&json!([256, 120]), &json!(["th", "x"])));
    }
    // A control token's name is that token, unless it is not to be.
    let end = app.tokenizer.token_id("<|im_end|>").expect("the tokenizer has it");
    assert_eq!(ids(&app, json!({"prompt": "a<|im_end|>"})), [97, u64::from(end)]);
    assert_eq!(ids(&app, json!({"content": "a<|im_end|>", "parse_special": false})).len(), 11);
}

#[test]
fn conversations_are_the_prompt_that_chat_computes() {
    let app = TestApp::new();
    let messages =
        json!([{"role": "system", "content": "be brief"}, {"role": "user", "content": [{"type": "text", "text": "SAY[[x]]<|im_end|>"}]}]);
    let tokens = ids(&app, json!({"messages": messages}));
    let chat = app.ok("/v1/chat/completions", &json!({"messages": messages}));
    assert_eq!(chat["usage"]["prompt_tokens"], json!(tokens.len()));
    let prompt = app.ok("/apply-template", &json!({"messages": messages}))["prompt"].clone();
    let rendered = "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nSAY[[x]]<|im_end|><|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(prompt, json!(rendered));
    let back = app.ok("/detokenize", &json!({"tokens": tokens}));
    assert_eq!((&back["prompt"], &back["content"]), (&prompt, &prompt), "the same text, whichever its control tokens are");
    let closed = app.ok("/apply-template", &json!({"messages": messages, "add_generation_prompt": false}))["prompt"].clone();
    assert_eq!(closed, json!(rendered.trim_end_matches("<|im_start|>assistant\n")));
    let shorter = ids(&app, json!({"messages": messages, "add_generation_prompt": false}));
    assert!(tokens.starts_with(&shorter) && shorter.len() < tokens.len());
    let tools = json!([{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]);
    let with_tools = app.ok("/apply-template", &json!({"messages": messages, "tools": tools}));
    assert!(with_tools["prompt"].as_str().is_some_and(|prompt| prompt.starts_with("<|im_start|>system\ntools: ")), "{with_tools}");
}

#[test]
fn what_is_wrong_is_named() {
    let app = TestApp::new();
    for (path, body, param, says) in [
        ("/tokenize", json!({}), "prompt", "is required, or `content`, or `messages`"),
        ("/tokenize", json!({"prompt": 1}), "prompt", "must be a string"),
        ("/tokenize", json!({"messages": []}), "messages", "is empty"),
        ("/tokenize", json!({"prompt": "a", "add_special_tokens": "yes"}), "add_special_tokens", "must be true or false"),
        ("/detokenize", json!({}), "tokens", "is required"),
        ("/detokenize", json!({"tokens": [1, 320]}), "tokens[1]", "is 320, but the vocabulary has 320 tokens"),
        ("/detokenize", json!({"tokens": [1, "a"]}), "tokens[1]", "must be a token id"),
        ("/apply-template", json!({"prompt": "a"}), "messages", "is required"),
        ("/apply-template", json!({"messages": [{"role": "user", "content": "THROW"}]}), "messages", "refuses to THROW"),
    ] {
        let reply = app.post(path, &body);
        let error = &reply.json()["error"];
        assert_eq!((reply.status(), error["param"].as_str()), (400, Some(param)), "{path} {body}: {error}");
        assert!(error["message"].as_str().is_some_and(|message| message.contains(says)), "{error} lacks {says:?}");
    }
    assert_eq!(app.send("POST", "/tokenize", &[], b"{").status(), 400);
    assert_eq!(app.get("/tokenize").status(), 405);
    let app = TestApp::start(Options { loaded: false, ..Options::default() });
    assert_eq!(app.post("/tokenize", &json!({"prompt": "a"})).status(), 503);
}

#[test]
fn a_prompt_longer_than_the_context_is_counted_all_the_same() {
    let app = TestApp::new();
    let reply = app.ok("/tokenize", &json!({"prompt": "x".repeat(9_000)}));
    assert_eq!(reply["count"], 9_000);
}

#[test]
fn what_programs_that_tokenize_here_ask_for() {
    let app = TestApp::new();
    let info = app.get("/tokenizer_info").json();
    assert_eq!((&info["bos_token"], &info["eos_token"]), (&json!("<|endoftext|>"), &json!("<|im_end|>")));
    assert_eq!((info["chat_template"].as_str(), &info["model_max_length"]), (Some(TEMPLATE), &json!(4_096)));
    let loading = TestApp::start(Options { loaded: false, ..Options::default() });
    assert_eq!(loading.get("/tokenizer_info").status(), 503);
}
