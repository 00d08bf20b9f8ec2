//! While an upstream is well, nobody notices the front door; and when it is not, the local model goes on.

use serde_json::{Value, json};
use understudy::gateway::drill::answer::{Answer, Call, Ending, ErrorKind, Misbehaviour, Point, Reply, SIXTY_WORDS};
use understudy::gateway::drill::http::Dialect;
use understudy::gateway::drill::plan::Plan;
use understudy::gateway::drill::raw_client::{End, RawClient, RawRequest};
use understudy::gateway::status::Use;

use super::calls::{WEATHER, request_with_tools, value};
use super::doors::{DIALECTS, kind};
use super::outcome::{Expected, ask_with};
use crate::support::front_door::{CLOUD, FrontDoor, HANGS, LOCAL, Setup, request, text};

/// The upstream numbers its replies: sixteen hexadecimal digits, each time others.
pub fn without_ids(text: &str) -> String {
    let bytes = text.as_bytes();
    let is_id = |at: usize| bytes.get(at..at + 16).is_some_and(|run| run.iter().all(u8::is_ascii_hexdigit));
    let (mut out, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        if is_id(at) {
            at += 16;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(out).expect("ids are ASCII")
}

#[test]
fn a_healthy_reply_comes_through_byte_for_byte() {
    for dialect in DIALECTS {
        let door = FrontDoor::start(Setup { plans: vec![Plan::healthy()], kind: kind(dialect), scale: 1, ..Setup::default() });
        for stream in [true, false] {
            let request = request(dialect, stream).header("authorization", "Bearer mine").header("anthropic-beta", "a,b");
            let direct = door.app.runtime().block_on(RawClient::exchange(door.upstream().address(), &request, HANGS));
            let through = door.exchange(&request);
            assert_eq!((through.status(), &through.end), (Some(200), &End::Whole), "{dialect:?}");
            assert!(without_ids(&through.text()) == without_ids(&direct.text()), "{dialect:?} {stream}: {}", through.text());
            assert_eq!(through.header("x-understudy-served-by"), Some("cloud-0"));
            assert_eq!(through.header("content-type"), direct.header("content-type"));
            let attempt = door.attempts().pop().unwrap();
            assert_eq!(attempt.body, request.body, "{dialect:?}");
            assert_eq!((attempt.header("authorization"), attempt.header("anthropic-beta")), (Some("Bearer mine"), Some("a,b")));
        }
    }
}

#[test]
fn a_reply_that_is_cut_in_its_text_goes_on_without_a_seam() {
    for dialect in DIALECTS {
        let plan = Plan::always(Answer::cut(Point::Tokens(17), Ending::Reset));
        let door = FrontDoor::start(Setup { plans: vec![plan], kind: kind(dialect), ..Setup::default() });
        let exchange = door.ask(dialect);
        assert_eq!(text(dialect, &exchange), SIXTY_WORDS, "{dialect:?}: {}", exchange.text());
        assert_eq!(exchange.end, End::Whole);
        assert!(exchange.text().contains(": understudy: "), "the seam is told");
    }
}

#[test]
fn an_upstream_that_is_overloaded_is_answered_for() {
    for dialect in DIALECTS {
        let plan = Plan::always(Answer::error(ErrorKind::Overloaded));
        let door = FrontDoor::start(Setup { plans: vec![plan], kind: kind(dialect), ..Setup::default() });
        let exchange = door.ask(dialect);
        assert_eq!(text(dialect, &exchange), SIXTY_WORDS, "{dialect:?}: {}", exchange.text());
        assert_eq!((exchange.header("x-understudy-served-by"), exchange.header("x-understudy-reason")), (Some(LOCAL), Some("overloaded")));
        assert!(exchange.text().contains(LOCAL) && !exchange.text().contains(CLOUD));
        assert!(exchange.text().contains("in the cloud's place]"), "the first answer after a switch says who speaks");
        assert_eq!(door.attempts().len(), 1);
        assert!(!door.ask(dialect).text().contains("in the cloud's place]"), "and it says so once");
    }
}

/// The client speaks one protocol, the upstream another.
fn across(dialect: Dialect, answer: Answer) -> FrontDoor {
    let kind = if dialect == Dialect::AnthropicMessages { "openai" } else { "anthropic" };
    FrontDoor::start(Setup { plans: vec![Plan::always(answer)], kind, scale: 1, ..Setup::default() })
}

#[test]
fn an_upstream_of_another_protocol_answers_in_the_client_s() {
    for dialect in DIALECTS {
        let door = across(dialect, Answer::healthy());
        let exchange = door.ask(dialect);
        assert_eq!(text(dialect, &exchange), SIXTY_WORDS, "{dialect:?}: {}", exchange.text());
        assert_eq!((exchange.header("x-understudy-served-by"), &exchange.end), (Some("cloud-0"), &End::Whole));
        assert!(exchange.text().contains(CLOUD), "who speaks is told: {}", exchange.text());
        let path = door.attempts()[0].path.clone();
        assert_eq!(path, if dialect == Dialect::AnthropicMessages { "/v1/chat/completions" } else { "/v1/messages" });
        let whole = door.exchange(&request(dialect, false));
        assert!(whole.status() == Some(200) && whole.json().to_string().contains("mid-sentence"), "{dialect:?}: {}", whole.text());
    }
}

/// `api = "responses"`: for a client of Responses it changes nothing, all others are carried there.
#[test]
fn an_upstream_is_spoken_to_in_responses() {
    let start = |answer: Answer| {
        FrontDoor::start(Setup {
            plans: vec![Plan::always(answer)],
            kind: "openai",
            upstream: "api = \"responses\"",
            scale: 1,
            ..Setup::default()
        })
    };
    for dialect in DIALECTS {
        let door = start(Answer::healthy());
        let exchange = door.ask(dialect);
        assert_eq!(text(dialect, &exchange), SIXTY_WORDS, "{dialect:?}: {}", exchange.text());
        assert_eq!((exchange.header("x-understudy-served-by"), &exchange.end), (Some("cloud-0"), &End::Whole));
        let whole = door.exchange(&request(dialect, false));
        assert!(whole.status() == Some(200) && whole.json().to_string().contains("mid-sentence"), "{dialect:?}: {}", whole.text());
        let attempts = door.attempts();
        assert!(attempts.iter().all(|attempt| attempt.path == "/v1/responses"), "{attempts:?}");
        let is_ours = dialect != Dialect::OpenaiResponses;
        assert_eq!(attempts[0].json()["store"] == false, is_ours, "what is carried there is not kept there");
        if is_ours {
            // In the middle of a text, and of a call; and what it says against a request.
            let door = start(Answer::cut(Point::Tokens(17), Ending::Reset));
            let exchange = door.ask(dialect);
            assert_eq!(text(dialect, &exchange), SIXTY_WORDS, "{dialect:?}: {}", exchange.text());
            assert_eq!((&exchange.end, door.gateway.status(None).takeovers), (&End::Whole, 1));
            let refused = start(Answer::error(ErrorKind::InvalidRequest)).ask(dialect);
            assert_eq!((refused.status(), refused.json()["error"]["message"].is_string()), (Some(400), true), "{}", refused.text());
        }
    }
}

#[test]
fn calls_of_an_upstream_that_speaks_responses() {
    for dialect in [Dialect::AnthropicMessages, Dialect::OpenaiChat] {
        for cut in [None, Some(30)] {
            let calls = Answer::saying(Reply::calls(vec![Call::new("weather", WEATHER)]));
            let answer = match cut {
                None => calls,
                Some(bytes) => calls.and_wrong(Misbehaviour::Cut { at: Point::Arguments { call: 0, bytes }, how: Ending::Fin }),
            };
            let upstream = "api = \"responses\"";
            let door =
                FrontDoor::start(Setup { plans: vec![Plan::always(answer)], kind: "openai", upstream, scale: 1, ..Setup::default() });
            let expected = Expected { text: "", calls: &[("weather", value(WEATHER))] };
            let answered = ask_with(&door, dialect, request_with_tools(dialect, &[("weather", WEATHER)], &["weather"]), expected);
            answered.is_whole();
            assert_eq!(answered.told.calls[0].arguments, WEATHER, "{dialect:?} {cut:?}");
        }
    }
}

#[test]
fn a_translated_reply_that_is_cut_goes_on_without_a_seam() {
    for dialect in DIALECTS {
        let door = across(dialect, Answer::cut(Point::Tokens(17), Ending::Reset));
        let exchange = door.ask(dialect);
        assert_eq!(text(dialect, &exchange), SIXTY_WORDS, "{dialect:?}: {}", exchange.text());
        assert_eq!(exchange.end, End::Whole, "{dialect:?}");
        assert_eq!(door.gateway.status(None).takeovers, 1, "{dialect:?}");
    }
}

/// Its cache has to be asked for: a client of another protocol cannot, and one of its own has done so as it likes.
#[test]
fn what_is_translated_for_anthropic_is_marked_for_its_cache() {
    for (dialect, upstream, marks) in [
        (Dialect::OpenaiChat, "", 1),
        (Dialect::OpenaiResponses, "", 1),
        (Dialect::OpenaiChat, "cache_marks = false", 0),
        (Dialect::AnthropicMessages, "", 0),
    ] {
        let door = FrontDoor::start(Setup { plans: vec![Plan::healthy()], upstream, scale: 1, ..Setup::default() });
        assert_eq!(text(dialect, &door.ask(dialect)), SIXTY_WORDS);
        let body = String::from_utf8(door.attempts()[0].body.clone()).expect("JSON");
        assert_eq!(body.matches("cache_control").count(), marks, "{dialect:?} {upstream}: {body}");
    }
    // Towards OpenAI there are no such marks.
    let door = across(Dialect::AnthropicMessages, Answer::healthy());
    door.ask(Dialect::AnthropicMessages);
    assert!(!String::from_utf8_lossy(&door.attempts()[0].body).contains("cache_control"));
}

#[test]
fn what_an_upstream_of_another_protocol_says_against_a_request_comes_in_the_client_s_shape() {
    for dialect in DIALECTS {
        let door = across(dialect, Answer::error(ErrorKind::InvalidRequest));
        let exchange = door.ask(dialect);
        assert_eq!(exchange.status(), Some(400), "{dialect:?}: {}", exchange.text());
        let error = &exchange.json()["error"];
        assert!(error["message"].is_string(), "{}", exchange.text());
        assert_eq!(exchange.json()["type"] == "error", dialect == Dialect::AnthropicMessages, "{}", exchange.text());
    }
}

/// What the local model has read along it does not read again when it must answer.
#[test]
fn the_local_model_reads_along() {
    let order = format!("SAY[[{SIXTY_WORDS}]]");
    let first = json!({"role": "user", "content": order});
    let turn = |messages: Value| {
        let body = json!({"model": CLOUD, "max_tokens": 500, "stream": false, "messages": messages});
        RawRequest::post(Dialect::AnthropicMessages.path(), &body)
    };
    for (shadow, reads_along) in [("shadow = \"always\"", true), ("shadow = \"off\"", false), ("", false)] {
        let door = FrontDoor::start(Setup { plans: vec![Plan::healthy()], gateway: shadow, scale: 1, ..Setup::default() });
        // Only what streams is followed.
        let streamed = door.exchange(&request(Dialect::AnthropicMessages, true));
        assert_eq!(streamed.header("x-understudy-served-by"), Some("cloud-0"));
        if reads_along {
            door.app.wait_until("the shadow has read", |stats| stats.prefilled_tokens_total > 300 && stats.running == 0);
        }
        door.upstream().set_plan(Plan::always(Answer::error(ErrorKind::Overloaded)));
        let said = json!({"role": "assistant", "content": SIXTY_WORDS});
        let next = door.exchange(&turn(json!([first, said, {"role": "user", "content": "Again."}])));
        assert_eq!(next.header("x-understudy-served-by"), Some(LOCAL), "{}", next.text());
        let usage = &next.json()["usage"];
        let cached = usage["cache_read_input_tokens"].as_u64().expect("a count");
        let all = cached + usage["input_tokens"].as_u64().expect("a count");
        match reads_along {
            true => assert!(cached * 10 > all * 8, "{usage}"),
            false => assert_eq!(cached, 0, "{shadow}: {usage}"),
        }
    }
}

#[test]
fn the_login_of_a_subscription_goes_up_only_where_that_is_set() {
    let login = || request(Dialect::AnthropicMessages, true).header("authorization", "Bearer sk-ant-oat01-x");
    let door = FrontDoor::start(Setup { plans: vec![Plan::healthy()], scale: 1, ..Setup::default() });
    let refused = door.exchange(&login());
    assert_eq!(refused.status(), Some(403));
    assert!(refused.text().contains("relay_subscription_login"), "{}", refused.text());
    assert!(door.attempts().is_empty(), "nothing of it went up");
    // Where the cloud is not asked, its login is nobody's business.
    door.gateway.set_use(Use::Local);
    let local = door.exchange(&login());
    assert_eq!((local.status(), local.header("x-understudy-reason")), (Some(200), Some("told_to")));
    let upstream = "relay_subscription_login = true";
    let door = FrontDoor::start(Setup { plans: vec![Plan::healthy()], upstream, scale: 1, ..Setup::default() });
    assert_eq!(door.exchange(&login()).header("x-understudy-served-by"), Some("cloud-0"));
    assert_eq!(door.attempts()[0].header("authorization"), Some("Bearer sk-ant-oat01-x"));
}

/// A reply that may not carry the notice does not use it up.
#[test]
fn the_notice_waits_for_a_text_that_may_carry_it() {
    let plan = Plan::always(Answer::error(ErrorKind::Overloaded));
    let door = FrontDoor::start(Setup { plans: vec![plan], kind: "openai", ..Setup::default() });
    let ask = |format: Value| {
        let message = json!({"role": "user", "content": "SAY[[{\"a\": 1}]]"});
        let body = json!({"model": CLOUD, "messages": [message], "response_format": format, "max_tokens": 50});
        let reply = door.exchange(&RawRequest::post(Dialect::OpenaiChat.path(), &body)).json();
        reply["choices"][0]["message"]["content"].as_str().expect("a text").to_owned()
    };
    assert_eq!(ask(json!({"type": "json_object"})), "{\"a\": 1}");
    assert!(ask(json!({"type": "text"})).contains("in the cloud's place]"));
    assert_eq!(ask(json!({"type": "text"})), "{\"a\": 1}");
}
