//! The fields that vLLM's and llama.cpp's servers have beside OpenAI's, over the wire, at both endpoints.

use serde_json::{Value, json};

use crate::support::test_app::TestApp;

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

/// What is said to an order to say `text`, by both endpoints; and the finish reasons and token counts.
fn said(app: &TestApp, text: &str, more: Value) -> [(String, String, u64); 2] {
    let order = format!("SAY[[{text}]]");
    [(CHAT, json!({"messages": [{"role": "user", "content": order}]})), (COMPLETIONS, json!({"prompt": order}))].map(|(path, mut body)| {
        body["max_tokens"] = 30.into();
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let reply = app.ok(path, &body);
        let choice = &reply["choices"][0];
        let text = choice["text"].as_str().or(choice["message"]["content"].as_str()).expect("text");
        let tokens = reply["usage"]["completion_tokens"].as_u64().expect("a number");
        (text.to_owned(), choice["finish_reason"].as_str().expect("a reason").to_owned(), tokens)
    })
}

#[track_caller]
fn check(app: &TestApp, text: &str, more: Value, expected: &str, reason: &str) {
    for (got, why, _) in said(app, text, more.clone()) {
        assert_eq!((got.as_str(), why.as_str()), (expected, reason), "{more}");
    }
}

#[test]
fn stop_token_ids_end_the_reply() {
    let app = TestApp::new();
    // Token ids below 256 are bytes.
    check(&app, "abcdef", json!({"stop_token_ids": [100]}), "abc", "stop");
    check(&app, "abcdef", json!({"stop_token_ids": [101, 99]}), "ab", "stop");
    check(&app, "abcdef", json!({"stop_token_ids": [], "min_tokens": 0}), "abcdef", "stop");
    // They hold where the model's own end is ignored.
    check(&app, "abcdef", json!({"stop_token_ids": [102], "ignore_eos": true}), "abcde", "stop");
}

#[test]
fn min_tokens_puts_the_end_off() {
    let app = TestApp::new();
    for (text, reason, tokens) in said(&app, "ab", json!({"min_tokens": 9})) {
        assert!(text.starts_with("ab"), "{text}");
        assert_eq!((reason.as_str(), tokens), ("stop", 9));
    }
    for (text, reason, tokens) in said(&app, "abcdef", json!({"min_tokens": 5, "stop_token_ids": [98]})) {
        assert!(!text.contains('b'), "{text}");
        assert!(reason == "stop" && tokens >= 5, "{text}: {tokens}");
    }
}

#[test]
fn dry_ends_a_loop_and_breakers_forgive_it() {
    let app = TestApp::new();
    let dry = |more: Value| {
        let mut fields = json!({"dry_multiplier": 50, "dry_base": 4, "dry_allowed_length": 3, "temperature": 0, "max_tokens": 12});
        fields.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        fields
    };
    let loops = "aaaaaaaaaaaa";
    for (text, ..) in said(&app, loops, dry(json!({}))) {
        assert!(text.starts_with("aaa") && text != loops, "{text}");
    }
    for harmless in [
        json!({"dry_multiplier": 0}),
        json!({"dry_penalty_last_n": 0}),
        json!({"dry_penalty_last_n": 3}),
        json!({"dry_sequence_breakers": ["b", "a"]}),
        json!({"dry_allowed_length": 100}),
    ] {
        check(&app, loops, dry(harmless), loops, "length");
    }
    // Three tokens cannot repeat three others, four can.
    for (text, ..) in said(&app, loops, dry(json!({"dry_penalty_last_n": 4, "dry_sequence_breakers": []}))) {
        assert_ne!(text, loops);
    }
}

#[test]
fn penalties_look_back_as_far_as_they_are_told() {
    let app = TestApp::new();
    let penalised = |last_n: Value| json!({"repeat_penalty": 10, "repeat_last_n": last_n, "temperature": 0, "max_tokens": 6});
    for last_n in [json!(null), json!(-1), json!(64)] {
        for (text, ..) in said(&app, "aaaaaa", penalised(last_n.clone())) {
            assert_ne!(text, "aaaaaa", "{last_n}");
        }
    }
    check(&app, "aaaaaa", penalised(json!(0)), "aaaaaa", "length");
    check(&app, "abcabc", penalised(json!(2)), "abcabc", "length");
}

#[test]
fn typical_p_is_taken() {
    // The token of the order is all but certain, and so it is what is typical.
    check(&TestApp::new(), "hello", json!({"typical_p": 0.5, "top_p": 0.9, "min_p": 0.1, "top_k": 40}), "hello", "stop");
}
