//! Plans: who gets which answer, what is expected of requests, and the text that says so.

use std::time::Duration;

use serde_json::{Value, json};
use understudy::gateway::drill::answer::{
    AfterStall, Answer, Ending, ErrorAnswer, ErrorKind, LineEnds, Misbehaviour, Pace, Point, Ramp, Reply,
};
use understudy::gateway::drill::fault_upstream::FaultUpstream;
use understudy::gateway::drill::http::Dialect;
use understudy::gateway::drill::plan::{Expect, Flapping, Plan, Rule, TimeWindow};
use understudy::gateway::drill::raw_client::{RawClient, RawRequest};
use understudy::gateway::drill::script::{Request, Step, script};

/// What ends, ends sooner.
const LIMIT: Duration = Duration::from_secs(10);

#[test]
fn latency_that_climbs() {
    let pace = Pace { first_token_ms: 1_000, ramp: Some(Ramp { to_ms: 30_000, over_ms: 600_000 }), ..Pace::default() };
    let request = Request { dialect: Dialect::OpenaiChat, stream: true, model: "m", id: 1, input_tokens: 1, include_usage: false };
    for (elapsed_s, first_token_ms) in [(0, 1_000), (300, 15_500), (600, 30_000), (6_000, 30_000)] {
        let script = script(&Answer::healthy().with_pace(pace), &request, Duration::from_secs(elapsed_s));
        assert!(script.steps.contains(&Step::Wait(Duration::from_millis(first_token_ms))), "after {elapsed_s} s");
    }
}

#[tokio::test]
async fn expectations_are_enforced() {
    let expect = Expect {
        credential: Some("key-1".into()),
        forbidden_headers: vec!["x-understudy-key".into()],
        strict_history: true,
        no_prefill: true,
    };
    let upstream = FaultUpstream::start(Plan::healthy().with_expect(expect)).await.unwrap();
    let user = json!([{"role": "user", "content": "hi"}]);
    let foreign = json!([{"role": "assistant", "content": [{"type": "thinking", "thinking": "x", "signature": "local:1"}]}, user[0]]);
    let prefill = json!([user[0], {"role": "assistant", "content": "Once"}]);
    let keyed = |messages: &Value| {
        let request = RawRequest::post("/v1/messages", &json!({"model": "m", "messages": messages}));
        request.header("authorization", "Bearer key-1")
    };
    for (request, status, said) in [
        (keyed(&user), 200, "Zoë"),
        (RawRequest::post("/v1/messages", &json!({})), 401, "invalid x-api-key"),
        (keyed(&user).header("x-understudy-key", "k"), 400, "x-understudy-key"),
        (keyed(&foreign), 400, "Invalid `signature`"),
        (keyed(&prefill), 400, "prefill"),
    ] {
        let exchange = RawClient::exchange(upstream.address(), &request, LIMIT).await;
        assert_eq!(exchange.status(), Some(status), "{}", exchange.text());
        assert!(exchange.text().contains(said), "{}", exchange.text());
    }
    assert_eq!(upstream.attempts().iter().filter(|attempt| attempt.refused.is_some()).count(), 4);
}

#[tokio::test]
async fn own_signatures_are_accepted_again() {
    let plan = Plan::always(Answer::saying(Reply::text("Yes.").with_thinking("Hm, hm.")));
    let upstream = FaultUpstream::start(plan.with_expect(Expect { strict_history: true, ..Expect::default() })).await.unwrap();
    let said = RawClient::exchange(upstream.address(), &RawRequest::post("/v1/messages", &json!({})), LIMIT).await.json();
    let history = json!({"messages": [{"role": "assistant", "content": said["content"]}, {"role": "user", "content": "Sure?"}]});
    let again = RawClient::exchange(upstream.address(), &RawRequest::post("/v1/messages", &history), LIMIT).await;
    assert_eq!(again.status(), Some(200), "{}", again.text());
}

#[tokio::test]
async fn rules_choose_by_model_count_and_time() {
    let failing = |error| Answer::error(error);
    let flapping = TimeWindow { from_ms: 0, until_ms: None, flapping: Some(Flapping { every_ms: 1_000_000, for_ms: 1_000_000 }) };
    let plan = Plan::healthy()
        .then(Rule::named("once", failing(ErrorKind::Internal)).for_model("claude-*").times(1))
        .then(Rule { skip: 1, ..Rule::named("second", failing(ErrorKind::Unavailable)).for_model("gpt").times(1) })
        .then(Rule { time: flapping, ..Rule::named("flaps", failing(ErrorKind::Overloaded)).for_model("flap") });
    let upstream = FaultUpstream::start(plan).await.unwrap();
    let mut statuses = Vec::new();
    for model in ["gpt", "claude-x", "claude-y", "gpt", "gpt", "flap"] {
        let request = RawRequest::post("/v1/messages", &json!({"model": model}));
        statuses.push(RawClient::exchange(upstream.address(), &request, LIMIT).await.status().unwrap());
    }
    assert_eq!(statuses, [200, 500, 200, 503, 200, 529]);
    let rules: Vec<_> = upstream.attempts().into_iter().map(|attempt| attempt.rule).collect();
    assert_eq!(rules, ["", "once", "", "second", "", "flaps"]);
}

#[tokio::test]
async fn chances_follow_the_seed() {
    let plan = |seed| {
        let rule = Rule { percent: Some(50), answer: Answer::error(ErrorKind::Overloaded), ..Rule::default() };
        Plan::healthy().then(rule).with_seed(seed)
    };
    let mut outcomes = Vec::new();
    for seed in [1, 1, 2] {
        let upstream = FaultUpstream::start(plan(seed)).await.unwrap();
        let mut client = RawClient::connect(upstream.address()).await.unwrap();
        let mut statuses = Vec::new();
        for _ in 0..40 {
            statuses.push(client.again(&RawRequest::post("/v1/messages", &json!({})), LIMIT).await.status());
        }
        let failed = statuses.iter().filter(|status| **status == Some(529)).count();
        assert!((8..=32).contains(&failed), "seed {seed}: {failed} of 40");
        outcomes.push(statuses);
    }
    assert_eq!(outcomes[0], outcomes[1]);
    assert_ne!(outcomes[0], outcomes[2]);
}

#[test]
fn plans_have_a_text_form() {
    let plan = Plan::from_toml(
        r#"
        seed = 7
        [expect]
        credential = "k"
        [[rule]]
        name = "storm"
        times = 3
        model = "claude-*"
        answer.misbehaviour = { kind = "error", error = "overloaded", retry_after = "2" }
        [[rule]]
        time = { from_ms = 10, flapping = { every_ms = 120000, for_ms = 60000 } }
        answer.misbehaviour.kind = "refuse"
        [[rule]]
        percent = 50
        answer = { pace = { token_interval_ms = 15 }, wire = { line_ends = "cr_lf" }, misbehaviour = { kind = "cut", at = { tokens = 40 }, how = "fin" } }
        [[rule]]
        answer.reply = { text = "ok", calls = [{ name = "f", arguments = "{}" }] }
        answer.misbehaviour = { kind = "stall", at = { arguments = { call = 0, bytes = 1 } }, pings_ms = 5 }
        [[rule]]
        answer.misbehaviour = { kind = "error_event", at = "headers", error = "internal" }
        "#,
    )
    .unwrap();
    assert_eq!((plan.seed, plan.rules.len(), plan.expect.credential.as_deref()), (7, 5, Some("k")));
    let storm = ErrorAnswer { error: ErrorKind::Overloaded, status: None, retry_after: Some("2".into()) };
    assert_eq!(plan.rules[0].answer.misbehaviour, Some(Misbehaviour::Error(storm)));
    assert!(plan.refuses(Duration::from_millis(10)) && !plan.refuses(Duration::from_millis(60_010)));
    assert!(plan.refuses(Duration::from_millis(120_010)) && !plan.refuses(Duration::ZERO));
    let cut = Misbehaviour::Cut { at: Point::Tokens(40), how: Ending::Fin };
    assert_eq!((plan.rules[2].answer.misbehaviour.clone(), plan.rules[2].answer.wire.line_ends), (Some(cut), LineEnds::CrLf));
    let stall = Misbehaviour::Stall { at: Point::Arguments { call: 0, bytes: 1 }, pings_ms: Some(5), for_ms: None, then: AfterStall::Fin };
    assert_eq!(plan.rules[3].answer.misbehaviour, Some(stall));
    for (text, complaint) in [
        ("[[rule]]\ntimes = 1\nanswer.misbehaviour.kind = 'refuse'", "chosen by time"),
        ("[[rule]]\npercent = 101", "101 percent"),
        ("[[rule]]\nanswr = 1", "unknown field"),
        ("[[rule]]\nanswer.misbehaviour = { kind = 'cut', at = 'start', how = 'fin', after = 1 }", "unknown field"),
        ("[[rule]]\nanswer.misbehaviour.kind = 'explode'", "unknown variant"),
    ] {
        let error = Plan::from_toml(text).unwrap_err().to_string();
        assert!(error.contains(complaint), "{text}: {error}");
    }
}
