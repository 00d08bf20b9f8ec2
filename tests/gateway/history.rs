//! Conversations on their way up: what stays here is cut out, and not a byte besides.

use std::borrow::Cow;

use proptest::prelude::*;
use serde_json::{Value, json};
use understudy::gateway::history::{Author, Departure, Ledger, Prepared, UnknownThinking, local_signature, prepare};
use understudy::gateway::tap::Protocol;

const NOTICE: &str = "[Understudy: the local model answers \u{2014} \"q4\"]";

/// `theirs` is of the upstream that the body goes to, `others` of another.
fn ledger() -> Ledger {
    let mut ledger = Ledger::new(100);
    for mark in ["theirs", "their thought", "rs_theirs"] {
        ledger.note(mark, Author::Upstream(0));
    }
    ledger.note("others", Author::Upstream(1));
    ledger.note("our thought", Author::Here);
    ledger
}

fn prepared<'a>(protocol: Protocol, body: &'a str, ledger: &Ledger) -> Prepared<'a> {
    let departure = Departure { protocol, upstream: 0, ledger, notice: Some(NOTICE), unknown: UnknownThinking::Keep };
    prepare(body.as_bytes(), &departure)
}

#[track_caller]
fn check(protocol: Protocol, body: &str, expected: &str) {
    let ledger = ledger();
    let prepared = prepared(protocol, body, &ledger);
    assert_eq!(std::str::from_utf8(&prepared.body).expect("text"), expected);
    serde_json::from_str::<Value>(expected).expect("what is left is JSON");
    assert_eq!(body == expected, matches!(prepared.body, Cow::Borrowed(_)), "a body without cuts is the same body");
}

#[track_caller]
fn unchanged(protocol: Protocol, body: &str) {
    check(protocol, body, body);
}

/// The notice as it stands in JSON.
fn notice() -> String {
    let quoted = json!(NOTICE).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

#[test]
fn thoughts_that_are_not_the_upstreams_are_cut_out() {
    let local = local_signature("hm");
    let body = format!(
        r#"{{ "model":"claude", "messages": [ {{"role":"user","content":"hi"}},
  {{"role":"assistant","content":[ {{"type":"thinking","thinking":"hm","signature":"{local}"}} , {{"type":"text","text":"a"}},
     {{"type":"thinking","thinking":"x","signature":"others"}}, {{"type":"redacted_thinking","data":"others"}}  ]}},
  {{"role":"assistant","content":[{{"type":"thinking","thinking":"ok","signature":"theirs"}},{{"type":"thinking","thinking":"old","signature":"unknown"}},{{"type":"tool_use","id":"toolu_x","name":"n","input":{{}}}}]}} ], "max_tokens": 1.0e3 }}"#
    );
    let expected = r#"{ "model":"claude", "messages": [ {"role":"user","content":"hi"},
  {"role":"assistant","content":[ {"type":"text","text":"a"}  ]},
  {"role":"assistant","content":[{"type":"thinking","thinking":"ok","signature":"theirs"},{"type":"thinking","thinking":"old","signature":"unknown"},{"type":"tool_use","id":"toolu_x","name":"n","input":{}}]} ], "max_tokens": 1.0e3 }"#;
    check(Protocol::AnthropicMessages, &body, expected);
}

#[test]
fn unknown_thoughts_go_or_stay_as_told() {
    let body = r#"{"messages":[{"role":"assistant","content":[{"type":"thinking","thinking":"old","signature":"unknown"},{"type":"text","text":"a"}]}]}"#;
    let ledger = ledger();
    let departure =
        Departure { protocol: Protocol::AnthropicMessages, upstream: 0, ledger: &ledger, notice: None, unknown: UnknownThinking::Remove };
    let prepared = prepare(body.as_bytes(), &departure);
    assert_eq!(prepared.body.as_ref(), br#"{"messages":[{"role":"assistant","content":[{"type":"text","text":"a"}]}]}"#);
    assert_eq!((prepared.thoughts_removed, prepared.notices_removed), (1, 0));
    unchanged(Protocol::AnthropicMessages, body);
}

#[test]
fn an_unsigned_thought_is_nobodys() {
    let unsigned = r#"{"messages":[{"role":"assistant","content":[{"type":"thinking","thinking":"x","signature":""},{"type":"thinking","thinking":"x"},{"type":"text","text":"a"}]}]}"#;
    check(Protocol::AnthropicMessages, unsigned, r#"{"messages":[{"role":"assistant","content":[{"type":"text","text":"a"}]}]}"#);
}

#[test]
fn a_message_of_which_nothing_is_left_goes_with_its_comma() {
    let empty = r#"{"role":"assistant","content":[{"type":"thinking","thinking":"x","signature":"others"}]}"#;
    let user = r#"{"role":"user","content":"hi"}"#;
    for (messages, expected) in [
        (format!("{user}, {empty}, {user}"), format!("{user}, {user}")),
        (format!("{user}, {empty}"), user.to_owned()),
        (format!("{empty}, {empty} , {user}"), user.to_owned()),
        (format!("{user},{empty},{empty}"), user.to_owned()),
    ] {
        check(Protocol::AnthropicMessages, &format!("{{\"messages\":[{messages}]}}"), &format!("{{\"messages\":[{expected}]}}"));
    }
}

#[test]
fn the_notice_is_cut_off_the_beginning_of_local_answers() {
    let notice = notice();
    let escaped: String =
        NOTICE.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_string() } else { format!("\\u{:04x}", c as u32) }).collect();
    for (text, expected) in [
        (format!("{notice}\\n\\nHello"), "Hello"),
        (format!("{notice}\\nHello\\n"), "Hello\\n"),
        (format!("{escaped}\\u000aHello"), "Hello"),
        (format!("{notice}\\r\\n\\u00e9"), "\\u00e9"),
    ] {
        let blocks = |text: &str| {
            format!(
                r#"{{"messages":[{{"role":"assistant","content":[{{"type":"text","text":"{text}","cache_control":{{"type":"ephemeral"}}}}]}}]}}"#
            )
        };
        check(Protocol::AnthropicMessages, &blocks(&text), &blocks(expected));
        let plain = |text: &str| format!(r#"{{"messages":[{{"content":"{text}","role":"assistant"}}]}}"#);
        check(Protocol::AnthropicMessages, &plain(&text), &plain(expected));
        check(Protocol::OpenAiChat, &plain(&text), &plain(expected));
        let item = |text: &str| {
            format!(r#"{{"input":[{{"type":"message","role":"assistant","content":[{{"type":"output_text","text":"{text}"}}]}}]}}"#)
        };
        check(Protocol::OpenAiResponses, &item(&text), &item(expected));
    }
}

#[test]
fn the_same_words_elsewhere_stay() {
    let notice = notice();
    for kept in [format!("{notice} is what it said"), format!(" {notice}\\n"), format!("a\\n{notice}\\n\\nb"), notice[..9].to_owned()] {
        unchanged(Protocol::OpenAiChat, &format!(r#"{{"messages":[{{"role":"assistant","content":"{kept}"}}]}}"#));
    }
    unchanged(Protocol::OpenAiChat, &format!(r#"{{"messages":[{{"role":"user","content":"{notice}\n"}}]}}"#));
    unchanged(
        Protocol::AnthropicMessages,
        &format!(r#"{{"messages":[{{"role":"user","content":[{{"type":"tool_result","content":"{notice}\n"}}]}}]}}"#),
    );
}

#[test]
fn an_answer_that_was_only_the_notice_goes() {
    let notice = notice();
    let user = r#"{"role":"user","content":"hi"}"#;
    let body = format!(r#"{{"messages":[{user},{{"role":"assistant","content":"{notice}\n\n"}},{user}]}}"#);
    check(Protocol::AnthropicMessages, &body, &format!(r#"{{"messages":[{user},{user}]}}"#));
    // Text that is empty is refused; the call beside it stays.
    let body = format!(
        r#"{{"messages":[{{"role":"assistant","content":[{{"type":"text","text":"{notice}"}},{{"type":"tool_use","id":"toolu_1","name":"n","input":{{}}}}]}}]}}"#
    );
    check(
        Protocol::AnthropicMessages,
        &body,
        r#"{"messages":[{"role":"assistant","content":[{"type":"tool_use","id":"toolu_1","name":"n","input":{}}]}]}"#,
    );
    let calls = r#""tool_calls":[{"id":"call_1","type":"function","function":{"name":"n","arguments":"{}"}}]"#;
    let chat = |content: &str| format!(r#"{{"messages":[{{"role":"assistant","content":"{content}",{calls}}}]}}"#);
    check(Protocol::OpenAiChat, &chat(&format!("{notice}\\n")), &chat(""));
}

#[test]
fn thoughts_beside_the_content_of_a_chat() {
    let message = |fields: &str| format!(r#"{{"messages":[{{{fields}}}]}}"#);
    let (role, content) = (r#""role":"assistant""#, r#""content":"a""#);
    let ours = r#""reasoning_content" : "our thought""#;
    let also_ours = r#""reasoning":"our thought""#;
    for (fields, expected) in [
        (format!("{role}, {ours}, {content}"), format!("{role}, {content}")),
        (format!("{ours}, {role},{content}"), format!("{role},{content}")),
        (format!("{role},{content} , {ours}"), format!("{role},{content}")),
        (format!("{role},{content},{ours},{also_ours}"), format!("{role},{content}")),
        (format!("{ours},{role},{also_ours},{content}"), format!("{role},{content}")),
    ] {
        check(Protocol::OpenAiChat, &message(&fields), &message(&expected));
    }
    for kept in [r#""reasoning_content":"their thought""#, r#""reasoning_content":"unknown""#, r#""reasoning_content":"""#] {
        unchanged(Protocol::OpenAiChat, &message(&format!("{role},{content},{kept}")));
    }
    // A message that was nothing but our thought.
    let body = format!(r#"{{"messages":[{{"role":"user","content":"hi"}},{{{role},"content":null,{ours}}}]}}"#);
    check(Protocol::OpenAiChat, &body, r#"{"messages":[{"role":"user","content":"hi"}]}"#);
    unchanged(Protocol::OpenAiChat, r#"{"messages":[{"role":"assistant","content":null}]}"#);
}

#[test]
fn reasoning_items_of_a_response() {
    let body = r#"{"input":[{"type":"reasoning","id":"rs_x","encrypted_content":"theirs","summary":[]},{"type":"reasoning","id":"rs_y","encrypted_content":"others","summary":[]},{"type":"reasoning","id":"rs_theirs","summary":[]},{"type":"reasoning","id":"rs_abc_0","summary":[]},{"type":"function_call","id":"fc_abc_1","call_id":"call_1","name":"n","arguments":"{}"}]}"#;
    let expected = r#"{"input":[{"type":"reasoning","id":"rs_x","encrypted_content":"theirs","summary":[]},{"type":"reasoning","id":"rs_theirs","summary":[]},{"type":"function_call","id":"fc_abc_1","call_id":"call_1","name":"n","arguments":"{}"}]}"#;
    check(Protocol::OpenAiResponses, body, expected);
    unchanged(Protocol::OpenAiResponses, r#"{"input":"just text"}"#);
}

#[test]
fn what_is_no_conversation_is_left_to_the_upstream() {
    for protocol in [Protocol::AnthropicMessages, Protocol::OpenAiChat, Protocol::OpenAiCompletions, Protocol::OpenAiResponses] {
        for body in ["", "{", "[]", "null", "{}", r#"{"messages":7,"input":7}"#, r#"{"messages":[7,null,"x",[]],"input":[7]}"#] {
            let ledger = ledger();
            assert_eq!(prepared(protocol, body, &ledger).body.as_ref(), body.as_bytes());
        }
    }
    let ledger = ledger();
    let departure =
        Departure { protocol: Protocol::OpenAiChat, upstream: 0, ledger: &ledger, notice: Some(""), unknown: UnknownThinking::Keep };
    assert_eq!(prepare(b"{\"messages\":\"\xFF\"}", &departure).body.as_ref(), b"{\"messages\":\"\xFF\"}");
    let empty = br#"{"messages":[{"role":"assistant","content":""}]}"#;
    assert_eq!(prepare(empty, &departure).body.as_ref(), empty, "no notice is no notice");
}

#[test]
fn the_ledger_forgets_the_oldest() {
    let mut ledger = Ledger::new(2);
    ledger.note("a", Author::Upstream(0));
    ledger.note("b", Author::Upstream(0));
    ledger.note("b", Author::Here);
    ledger.note("c", Author::Upstream(1));
    assert_eq!(ledger.len(), 2);
    assert_eq!(ledger.author_of("a"), None);
    assert_eq!(ledger.author_of("b"), Some(Author::Here));
    assert_eq!(ledger.author_of("c"), Some(Author::Upstream(1)));
}

/// A block of an assistant's message, and whether it may go up.
fn block() -> impl Strategy<Value = (Value, bool)> {
    prop_oneof![
        "[a-z\"\\\\\u{E9}]{1,5}".prop_map(|text| (json!({"type": "text", "text": text}), true)),
        "[a-z]{1,5}".prop_map(|id| (json!({"type": "tool_use", "id": id, "name": "n", "input": {"signature": "others"}}), true)),
        Just((json!({"type": "thinking", "thinking": "]}\",{", "signature": "theirs"}), true)),
        Just((json!({"type": "thinking", "thinking": "]}\",{", "signature": "others"}), false)),
        Just((json!({"signature": local_signature("x"), "type": "thinking", "thinking": "x"}), false)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn what_is_left_is_what_may_go_up(messages in proptest::collection::vec(proptest::collection::vec(block(), 1..5), 0..5), pretty: bool) {
        let body = |messages: Vec<Value>| {
            let body = json!({"model": "claude", "messages": messages, "stream": true});
            if pretty { serde_json::to_string_pretty(&body).expect("JSON") } else { body.to_string() }
        };
        let message = |blocks: Vec<Value>| json!({"role": "assistant", "content": blocks});
        let given = body(messages.iter().map(|blocks| message(blocks.iter().map(|(block, _)| block.clone()).collect())).collect());
        let left = messages.iter().map(|blocks| blocks.iter().filter(|(_, stays)| *stays).map(|(block, _)| block.clone()).collect::<Vec<_>>());
        let expected = body(left.filter(|blocks| !blocks.is_empty()).map(message).collect());
        let ledger = ledger();
        let prepared = prepared(Protocol::AnthropicMessages, &given, &ledger);
        let value = |text: &[u8]| serde_json::from_slice::<Value>(text).expect("JSON");
        prop_assert_eq!(value(&prepared.body), value(expected.as_bytes()));
        prop_assert_eq!(prepared.thoughts_removed, messages.iter().flatten().filter(|(_, stays)| !stays).count());
        // It is the given text with pieces left out, and nothing of its own.
        let mut rest = given.as_bytes().iter();
        prop_assert!(prepared.body.iter().all(|byte| rest.any(|given| given == byte)));
    }
}
