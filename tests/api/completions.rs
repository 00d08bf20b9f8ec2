//! `POST /v1/completions`: prompts in all their forms, echo, log-probabilities in the old form, fill in the middle.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use crate::support::completion_stream::{fold, read_completion_stream};
use crate::support::test_app::{MODEL, NOW_UNIX_S, Options, TestApp, Voice};
use crate::support::tiny_tokenizer::Fim;

const PATH: &str = "/v1/completions";

fn texts(reply: &Value) -> Vec<&str> {
    reply["choices"].as_array().expect("choices").iter().map(|choice| choice["text"].as_str().expect("text")).collect()
}

/// What a stream adds up to, read strictly: its choices and its usage.
#[track_caller]
fn streamed(app: &TestApp, mut body: Value, choices: usize) -> (Vec<Value>, Value) {
    body["stream"] = true.into();
    body["stream_options"] = json!({"include_usage": true});
    let folded = read_completion_stream(&app.complete(&body), choices);
    (folded.choices, folded.usage.expect("it was asked for"))
}

#[test]
fn a_whole_reply_is_exactly_this() {
    let app = TestApp::new();
    let mut reply = app.ok(PATH, &json!({"model": "x", "prompt": "SAY[[abc]]"}));
    assert!(reply["id"].take().as_str().is_some_and(|id| id.starts_with("cmpl-")));
    assert_eq!(
        reply.to_string(),
        format!(
            "{{\"id\":null,\"object\":\"text_completion\",\"created\":{NOW_UNIX_S},\"model\":\"{MODEL}\",\"choices\":[{{\"text\":\"abc\",\"index\":0,\
             \"logprobs\":null,\"finish_reason\":\"stop\"}}],\"usage\":{{\"prompt_tokens\":10,\"completion_tokens\":3,\"total_tokens\":13,\
             \"prompt_tokens_details\":{{\"cached_tokens\":0}},\"completion_tokens_details\":{{\"reasoning_tokens\":0}}}}}}"
        )
    );
}

#[test]
fn prompts_in_all_their_forms() {
    let app = TestApp::new();
    let ids = app.tokenizer.encode("SAY[[one]]", false).expect("text can be encoded");
    let other = app.tokenizer.encode("SAY[[two]]", false).expect("text can be encoded");
    for (prompt, said) in [
        (json!("SAY[[one]]"), vec!["one"]),
        (json!(["SAY[[one]]", "SAY[[two]]"]), vec!["one", "two"]),
        (json!(ids), vec!["one"]),
        (json!([ids, other]), vec!["one", "two"]),
        (json!([ids, "SAY[[two]]"]), vec!["one", "two"]),
    ] {
        let body = json!({"prompt": prompt});
        let whole = app.ok(PATH, &body);
        assert_eq!(texts(&whole), said, "{prompt}");
        let (choices, usage) = streamed(&app, body, said.len());
        assert_eq!(Value::from(choices), whole["choices"]);
        assert_eq!(usage["total_tokens"], whole["usage"]["total_tokens"]);
    }
    let twice = app.ok(PATH, &json!({"prompt": ["SAY[[one]]", "SAY[[two]]"], "n": 2, "best_of": 2}));
    assert_eq!(texts(&twice), ["one", "one", "two", "two"]);
    assert_eq!(twice["usage"]["prompt_tokens"], 20, "each prompt is counted once");
}

#[test]
fn control_tokens_in_a_bare_prompt_are_control_tokens() {
    let app = TestApp::new();
    let templated = "<|im_start|>user\nSAY[[hi]]<|im_end|>\n<|im_start|>assistant\n";
    let reply = app.ok(PATH, &json!({"prompt": templated}));
    assert_eq!(texts(&reply), ["hi"]);
    let chat = app.ok("/v1/chat/completions", &json!({"messages": [{"role": "user", "content": "SAY[[hi]]"}]}));
    assert_eq!(reply["usage"]["prompt_tokens"], chat["usage"]["prompt_tokens"], "the same prompt, templated by hand");
}

#[test]
fn sixteen_tokens_unless_asked() {
    let app = TestApp::new();
    let reply = app.ok(PATH, &json!({"prompt": "x"}));
    assert_eq!((&reply["usage"]["completion_tokens"], &reply["choices"][0]["finish_reason"]), (&json!(16), &json!("length")));
}

#[test]
fn echo_shows_the_prompt_first() {
    let app = TestApp::new();
    let ids = app.tokenizer.encode("SAY[[öne]]", false).expect("text can be encoded");
    for prompt in [json!("SAY[[öne]]"), json!(ids)] {
        let body = json!({"prompt": prompt, "echo": true, "stop": "["});
        let whole = app.ok(PATH, &body);
        assert_eq!(texts(&whole), ["SAY[[öne]]öne"]);
        assert_eq!(Value::from(streamed(&app, body, 1).0), whole["choices"]);
    }
}

/// The lists of a choice's log-probabilities.
fn lists(choice: &Value) -> [Vec<Value>; 4] {
    ["tokens", "token_logprobs", "top_logprobs", "text_offset"].map(|name| choice["logprobs"][name].as_array().expect("a list").clone())
}

#[test]
fn echo_tells_how_likely_the_prompt_was() {
    let app = TestApp::new();
    let ids = app.tokenizer.encode("SAY[[öne]]", false).expect("text can be encoded");
    for prompt in [json!("SAY[[öne]]"), json!(ids)] {
        let body = json!({"prompt": prompt, "echo": true, "logprobs": 2});
        let whole = app.ok(PATH, &body);
        assert_eq!(Value::from(streamed(&app, body, 1).0), whole["choices"]);
        let choice = &whole["choices"][0];
        let [tokens, values, rivals, offsets] = lists(choice);
        assert_eq!((choice["text"].as_str(), tokens.len()), (Some("SAY[[öne]]öne"), ids.len() + 4));
        assert_eq!(tokens[..7], ["S", "A", "Y", "[", "[", "bytes:\\xc3", "bytes:\\xb6"]);
        assert_eq!(offsets[..8], [0, 1, 2, 3, 4, 5, 5, 6]);
        assert_eq!((&values[0], &rivals[0]), (&Value::Null, &Value::Null), "the first follows nothing");
        assert!(values[1..].iter().all(Value::is_number) && rivals[1..].iter().all(Value::is_object), "{choice}");
        assert_eq!(whole["usage"]["prompt_tokens_details"]["cached_tokens"], 0, "all of it is computed");
    }
    let only = app.ok(PATH, &json!({"prompt": ["SAY[[a]]", "x"], "echo": true, "logprobs": 0, "max_tokens": 0}));
    assert_eq!(texts(&only), ["SAY[[a]]", "x"]);
    assert_eq!(
        only["choices"][1]["logprobs"],
        json!({"tokens": ["x"], "token_logprobs": [null], "top_logprobs": null, "text_offset": [0]})
    );
    assert_eq!((&only["usage"]["completion_tokens"], &only["choices"][0]["finish_reason"]), (&json!(0), &json!("length")));
    let refused = app.complete(&json!({"prompt": "x", "max_tokens": 0}));
    assert_eq!((refused.status(), &refused.json()["error"]["param"]), (400, &json!("max_tokens")));
}

/// What was said is as likely when it is read again as it was when it was said, in company and whatever the cache has of it.
#[test]
fn a_prompt_is_as_likely_as_it_was_when_it_was_said() {
    let app = TestApp::start(Options { voice: Voice::Babbling, ..Options::default() });
    let tokenizer = &app.tokenizer;
    let mut compared = 0;
    for length in [1, 2, 16, 17, 31, 32, 33, 64, 65, 130, 200, 256] {
        let mut prompt: Vec<u32> = (0..length).collect();
        let said = app.ok(PATH, &json!({"prompt": prompt, "logprobs": 3, "max_tokens": 1, "temperature": 0}));
        let [tokens, values, rivals, _] = lists(&said["choices"][0]);
        // Some tokens have no name of their own.
        let named = |&id: &u32| tokens[0].as_str().is_some_and(|name| tokenizer.token_bytes(id, true) == name.as_bytes());
        let ids: Vec<u32> = (0..tokenizer.vocab_size() as u32).filter(named).collect();
        let [id] = ids[..] else { continue };
        prompt.push(id);
        let body = json!({"prompt": prompt, "logprobs": 3, "max_tokens": 0, "echo": true});
        let check = || {
            let [_, read_values, read_rivals, _] = lists(&app.ok(PATH, &body)["choices"][0]);
            assert_eq!((read_values.last(), read_rivals.last()), (values.last(), rivals.last()));
        };
        check();
        std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(check))));
        compared += 1;
    }
    assert!(compared > 4, "{compared}");
}

#[test]
fn log_probabilities_in_the_old_form() {
    let app = TestApp::new();
    let reply = app.ok(PATH, &json!({"prompt": "SAY[[aé!]]", "logprobs": 2}));
    let choices = streamed(&app, json!({"prompt": "SAY[[aé!]]", "logprobs": 2}), 1).0;
    assert_eq!(Value::from(choices), reply["choices"]);
    let logprobs = &reply["choices"][0]["logprobs"];
    assert_eq!(logprobs["tokens"], json!(["a", "bytes:\\xc3", "bytes:\\xa9", "!"]));
    assert_eq!(logprobs["text_offset"], json!([0, 1, 1, 2]));
    assert_eq!(logprobs["token_logprobs"].as_array().map(Vec::len), Some(4));
    assert!(
        logprobs["top_logprobs"]
            .as_array()
            .expect("rivals")
            .iter()
            .all(|rivals| rivals.as_object().is_some_and(|rivals| rivals.len() == 2))
    );
    assert_eq!(app.ok(PATH, &json!({"prompt": "SAY[[a]]", "logprobs": 0}))["choices"][0]["logprobs"]["top_logprobs"], Value::Null);
    // A rival outside the likeliest: the token itself is told too.
    let app = TestApp::start(Options { voice: Voice::Babbling, ..Options::default() });
    let reply = app.ok(PATH, &json!({"prompt": "x", "logprobs": 1, "seed": 3, "temperature": 2, "max_tokens": 50}));
    let logprobs = &reply["choices"][0]["logprobs"];
    for (token, rivals) in logprobs["tokens"].as_array().expect("tokens").iter().zip(logprobs["top_logprobs"].as_array().expect("rivals")) {
        assert!(rivals.get(token.as_str().expect("text")).is_some(), "{token} is missing in {rivals}");
    }
}

#[test]
fn the_middle_is_filled_with_the_models_own_tokens() {
    let app = TestApp::new();
    let reply = app.ok(PATH, &json!({"prompt": "SAY[[ab]]", "suffix": "xyz", "max_tokens": 4}));
    // 9 of prefix, 3 of suffix, 3 fill-in-the-middle tokens ("SAY[[ab]]" has no pairs).
    assert_eq!(reply["usage"]["prompt_tokens"], 9 + 3 + 3);
    let plain = app.ok(PATH, &json!({"prompt": "SAY[[ab]]", "suffix": ""}));
    assert_eq!(plain["usage"]["prompt_tokens"], 9, "an empty suffix is none");
    let marked = app.ok(PATH, &json!({"prompt": "SAY[[<|im_end|>]]", "suffix": "x", "max_tokens": 1}));
    assert_eq!(marked["usage"]["prompt_tokens"], 17 + 1 + 3, "code about control tokens is text");

    let app = TestApp::start(Options { fim: Fim::Unknown, ..Options::default() });
    let reply = app.complete(&json!({"prompt": "a", "suffix": "b"}));
    assert_eq!((reply.status(), &reply.json()["error"]["param"]), (400, &json!("suffix")));
}

#[test]
fn a_stream_that_fails_says_so_and_ends() {
    let app = TestApp::new();
    app.broken.store(true, Ordering::Relaxed);
    let folded = fold(&app.complete(&json!({"prompt": "x", "stream": true})));
    assert_eq!(folded.error.expect("an error")["type"], "server_error");
    assert_eq!(folded.choices, [] as [Value; 0]);
    // A prompt that is not computed has no scores to be shown with.
    let folded = fold(&app.complete(&json!({"prompt": "xy", "echo": true, "logprobs": 1, "stream": true})));
    assert_eq!(folded.error.expect("an error")["type"], "server_error");
}
