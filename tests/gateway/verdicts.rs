//! Verdicts: a client that meets the misbehaving upstream itself, with no front door between, fails where it should.

use std::time::Duration;

use serde_json::json;
use understudy::gateway::drill::answer::{AfterStall, Answer, Ending, ErrorKind, Misbehaviour, Pace, Point, SIXTY_WORDS};
use understudy::gateway::drill::cases::{self, Case, Expected};
use understudy::gateway::drill::fault_upstream::FaultUpstream;
use understudy::gateway::drill::http::Dialect;
use understudy::gateway::drill::plan::Plan;
use understudy::gateway::drill::play::play;
use understudy::gateway::drill::raw_client::{Broken, End, Exchange, RawClient, RawRequest};
use understudy::gateway::drill::verdict::{Judged, Verdict, judge};

const LIMIT: Duration = Duration::from_secs(10);

fn case(name: &str) -> Case {
    cases::all(1).into_iter().find(|case| case.name == name).unwrap_or_else(|| panic!("no case {name:?}"))
}

/// Without a front door, the upstream's fault is the client's.
async fn directly(name: &str) -> Judged {
    let upstream = FaultUpstream::start(Plan::healthy()).await.unwrap();
    play(&case(name), &upstream, upstream.address()).await
}

#[tokio::test]
async fn what_is_well_passes() {
    for name in ["healthy", "healthy chat", "healthy responses", "strange line ends", "refusal", "401", "400", "413", "content policy"] {
        let judged = directly(name).await;
        assert_eq!((judged.verdict, judged.why.as_deref()), (Verdict::Pass, None), "{name}");
        assert_eq!((judged.attempts, judged.first_content_ms.is_some()), (1, judged.model.is_some()), "{name}");
    }
}

#[tokio::test]
async fn a_clean_error_is_safe() {
    for name in ["529 storm", "503 for ever", "429 for an hour", "context too long", "overloaded in the text", "overloaded as first event"]
    {
        let judged = directly(name).await;
        assert_eq!(judged.verdict, Verdict::Safe, "{name}: {judged}");
    }
}

#[tokio::test]
async fn what_no_client_should_see_fails() {
    for (name, why) in [
        ("reset before headers", "the connection broke"),
        ("close in the text", "the connection broke"),
        ("clean end in the text", "ends without saying so"),
        ("short body", "the connection broke"),
        ("reset in arguments", "the connection broke"),
        ("a malformed event", "an event that is no JSON"),
        ("502 page", "an error that is not the API's"),
        ("captive portal", "no stream was sent"),
        ("an empty 200", "ends without saying so"),
        ("no done", "ends without saying so"),
        ("refused", "refused the connection"),
    ] {
        let judged = directly(name).await;
        assert_eq!(judged.verdict, Verdict::Fail, "{name}: {judged}");
        assert!(judged.why.as_deref().unwrap_or_default().contains(why), "{name}: {judged}");
    }
}

/// Faults that no upstream makes and that a bad front door might.
#[tokio::test]
async fn what_a_front_door_may_do_wrong_fails() {
    let upstream = FaultUpstream::start(Plan::healthy()).await.unwrap();
    let healthy = case("healthy");
    let good = RawClient::exchange(upstream.address(), &healthy.request(), LIMIT).await;
    let attempts = upstream.attempts();
    let changed = |change: &dyn Fn(String) -> String| Exchange { body: change(good.text()).into_bytes(), ..good.clone() };
    let is_failed = |exchange: &Exchange, why: &str| {
        let judged = judge(&healthy, exchange, &attempts);
        assert_eq!(judged.verdict, Verdict::Fail, "{judged}");
        assert!(judged.why.as_deref().unwrap_or_default().contains(why), "{judged}");
    };
    assert_eq!(judge(&healthy, &good, &attempts).verdict, Verdict::Pass);
    let after_forty = |text: String| {
        let frames: Vec<&str> = text.split_inclusive("\n\n").collect();
        let last = frames.len() - 3;
        [&frames[..43], &frames[last..]].concat().concat()
    };
    is_failed(&changed(&after_forty), "half of the answer");
    is_failed(&changed(&|text| format!("{text}{text}")), "an event behind the last one");
    is_failed(&Exchange { end: End::Limit, ..good.clone() }, "had not ended");
    is_failed(&Exchange { end: End::Cut(Broken::Reset), ..good.clone() }, "connection broke");
    let asked_twice = judge(&healthy, &good, &[attempts.clone(), attempts.clone()].concat());
    assert!(asked_twice.why.unwrap().contains("asked 2 times"));
    let not_relayed = Case { expected: Expected::Relayed(401), ..healthy.clone() };
    assert_eq!(judge(&not_relayed, &good, &attempts).verdict, Verdict::Fail);
    let unclosed = Case { dialect: Dialect::AnthropicMessages, ..case("reset between calls") };
    let torn = FaultUpstream::start(Plan::always(unclosed.plan.rules[0].answer.clone().with_torn_call())).await.unwrap();
    let exchange = RawClient::exchange(torn.address(), &unclosed.request(), LIMIT).await;
    assert!(judge(&unclosed, &exchange, &[]).why.unwrap().contains("no JSON"));
}

trait TornCall {
    fn with_torn_call(self) -> Self;
}

impl TornCall for Answer {
    /// A whole stream whose call is not whole.
    fn with_torn_call(mut self) -> Self {
        self.misbehaviour = None;
        self.reply.calls[0].arguments = "{\"path\":".to_owned();
        self
    }
}

#[test]
fn a_quick_drill_waits_for_no_limit() {
    let all = cases::all(7);
    let quick = all.iter().filter(|case| !case.is_slow).count();
    assert!(all.len() >= 45 && quick >= 35, "{quick} of {}", all.len());
    let mut names: Vec<_> = all.iter().map(|case| case.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all.len(), "a name each");
    assert!(all.iter().all(|case| case.plan.seed == 7));
}

/// Faults in front of an upstream that is well.
#[tokio::test]
async fn a_real_upstream_may_be_behind() {
    let real = FaultUpstream::start(Plan::healthy()).await.unwrap();
    let asked = || RawRequest::post("/v1/messages", &json!({"model": "m", "stream": true})).header("x-api-key", "k");
    let direct = RawClient::exchange(real.address(), &asked(), LIMIT).await;
    let through = async |answer: Answer, limit: Duration| {
        let front = FaultUpstream::in_front_of(real.address(), Plan::always(answer)).await.unwrap();
        let exchange = RawClient::exchange(front.address(), &asked(), limit).await;
        (exchange, front.attempts().pop().unwrap())
    };
    let (healthy, attempt) = through(Answer::healthy(), LIMIT).await;
    assert_eq!((healthy.end.clone(), healthy.body.len(), attempt.fault_missed), (End::Whole, direct.body.len(), false));
    assert!(healthy.text().contains(SIXTY_WORDS.split(' ').next_back().unwrap()));
    assert_eq!(real.attempts().pop().unwrap().header("x-api-key"), Some("k"));

    let (storm, _) = through(Answer::error(ErrorKind::Overloaded), LIMIT).await;
    assert_eq!(storm.status(), Some(529));
    let before = real.attempts().len();
    through(Answer::wrong(Misbehaviour::EndBeforeHeaders { how: Ending::Reset }), LIMIT).await;
    assert_eq!(real.attempts().len(), before, "the storm is answered without asking");

    for (how, end) in [(Ending::Reset, Broken::Reset), (Ending::Fin, Broken::Closed)] {
        let (cut, _) = through(Answer::cut(Point::Bytes(900), how), LIMIT).await;
        assert_eq!(cut.end, End::Cut(end));
        assert!(cut.body.len() < 900 && (how == Ending::Reset || cut.body.len() > 700), "{} bytes", cut.body.len());
    }
    let (silent, _) = through(Answer::stall(Point::Bytes(900)), Duration::from_millis(100)).await;
    assert!(silent.end == End::Limit && silent.body.len() < 900);
    let stall = Misbehaviour::Stall { at: Point::Bytes(900), pings_ms: None, for_ms: Some(30), then: AfterStall::GoOn };
    let (resumed, _) = through(Answer::wrong(stall), LIMIT).await;
    assert_eq!((resumed.end.clone(), resumed.body.len()), (End::Whole, direct.body.len()));
    assert!(resumed.ended_after >= Duration::from_millis(30));
    let (late, _) = through(Answer::healthy().with_pace(Pace { headers_ms: 40, ..Pace::default() }), LIMIT).await;
    assert!(late.ended_after >= Duration::from_millis(40));
    let (_, missed) = through(Answer::cut(Point::Tokens(3), Ending::Fin), LIMIT).await;
    assert!(missed.fault_missed, "only bytes are counted");
    drop(real);
}
