//! `/infill`, as llama.cpp's editor plug-ins speak it.

use serde_json::json;

use crate::support::infill_stream::{check_infill, read_infill_stream};
use crate::support::test_app::{Options, TestApp};
use crate::support::tiny_tokenizer::Fim;

const PATH: &str = "/infill";

#[test]
fn what_stands_between_two_texts() {
    let app = TestApp::new();
    let reply = app.ok(PATH, &json!({"input_prefix": "SAY[[ab]]", "input_suffix": "xyz", "n_predict": 4}));
    assert_eq!((&reply["content"], &reply["stop"], &reply["stop_type"]), (&json!("ab"), &json!(true), &json!("eos")));
    // 9 of prefix, 3 of suffix, 3 fill-in-the-middle tokens.
    assert_eq!((&reply["tokens_evaluated"], &reply["timings"]["prompt_n"]), (&json!(15), &json!(15)));
    let limited = app.ok(PATH, &json!({"input_prefix": "SAY[[ab]]", "input_suffix": "", "n_predict": 1}));
    assert_eq!((&limited["content"], &limited["stop_type"], &limited["tokens_predicted"]), (&json!("a"), &json!("limit"), &json!(1)));
    let stopped = app.ok(PATH, &json!({"input_prefix": "SAY[[ab\ncd]]", "stop": ["\n"]}));
    assert_eq!((&stopped["content"], &stopped["stopping_word"]), (&json!("ab"), &json!("\n")));
}

#[test]
fn the_line_of_the_cursor_and_other_files_come_too() {
    let app = TestApp::new();
    let body = json!({
        "input_extra": [{"filename": "a.rs", "text": "fn a"}, {"text": "piece"}],
        "input_prefix": "SAY[[ab", "prompt": "cd]]", "input_suffix": "x",
    });
    let reply = app.ok(PATH, &body);
    assert_eq!(reply["content"], "abcd");
    // A separator before each file and before this one: 1 + "a.rs\nfn a\n" + 1 + "piece\n" + 1; then 11 + 1 and 3 tokens of the middle.
    assert_eq!(reply["tokens_evaluated"], 1 + 10 + 1 + 6 + 1 + 12 + 3);
}

#[test]
fn a_stream_ends_with_what_a_whole_reply_says() {
    let app = TestApp::new();
    let body = json!({"input_prefix": "SAY[[abc]]", "input_suffix": ""});
    let whole = app.ok(PATH, &body);
    let mut streaming = body.clone();
    streaming["stream"] = true.into();
    // Another server: on the same one the prompt would be cached.
    let folded = read_infill_stream(&TestApp::new().post(PATH, &streaming));
    check_infill(&whole);
    assert_eq!((folded.reply, folded.error), (whole, None));
    assert!(folded.deltas.len() > 1 && folded.keep_alives == 0, "{:?}", folded.deltas);
}

#[test]
fn a_client_may_choose_its_fields() {
    let app = TestApp::new();
    let fields = ["content", "timings/prompt_n", "timings/prompt_ms", "truncated"];
    let reply = app.ok(PATH, &json!({"input_prefix": "SAY[[a]]", "response_fields": fields}));
    assert_eq!(reply, json!({"content": "a", "timings/prompt_n": 11, "truncated": false}));
    // Read by the strict reader of such streams.
    app.post(PATH, &json!({"input_prefix": "SAY[[a]]", "response_fields": fields, "stream": true}));
}

#[test]
fn nothing_to_predict_only_warms_the_cache() {
    let app = TestApp::new();
    let prefix = format!("{} SAY[[ab]]", "word ".repeat(40));
    let warm = app.ok(PATH, &json!({"input_prefix": prefix, "n_predict": 0}));
    assert_eq!((&warm["content"], &warm["tokens_predicted"]), (&json!(""), &json!(0)));
    let reply = app.ok(PATH, &json!({"input_prefix": prefix}));
    assert_eq!(reply["content"], "ab");
    assert!(reply["timings"]["cache_n"].as_u64().expect("a number") >= 128, "{reply}");
}

#[test]
fn errors_name_the_field() {
    let app = TestApp::new();
    for (body, param) in [
        (json!({"input_prefix": 3}), "input_prefix"),
        (json!({"input_extra": ["x"]}), "input_extra[0]"),
        (json!({"input_extra": [{"filename": "x"}]}), "input_extra[0].text"),
        (json!({"response_fields": [1]}), "response_fields[0]"),
        (json!({"n_predict": "many"}), "n_predict"),
        (json!({"n": 2}), "n"),
    ] {
        let reply = app.post(PATH, &body);
        assert_eq!((reply.status(), &reply.json()["error"]["param"]), (400, &json!(param)), "{body}");
    }
    let without = TestApp::start(Options { fim: Fim::Unknown, ..Options::default() });
    let reply = without.post(PATH, &json!({"input_prefix": "a"}));
    assert_eq!((reply.status(), &reply.json()["error"]["param"]), (400, &json!("input_prefix")));
}
