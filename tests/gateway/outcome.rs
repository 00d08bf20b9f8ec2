//! What every case is held to, whatever went wrong: an answer is one whole answer or an honest error, credentials stay where they belong,
//! and the next request is answered.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use understudy::config::gateway::Kind;
use understudy::gateway::drill::answer::SIXTY_WORDS;
use understudy::gateway::drill::fault_upstream::{Attempt, FaultUpstream};
use understudy::gateway::drill::http::Dialect;
use understudy::gateway::drill::plan::Plan;
use understudy::gateway::drill::raw_client::{End, Exchange, RawClient, RawRequest};
use understudy::gateway::limits::Limits;
use understudy::gateway::rules::Rules;
use understudy::gateway::status::{State, Status, UpstreamStatus};

use super::strict_client::{Ended, Folded, read};
use crate::support::front_door::{CLOUD, FrontDoor, HANGS, LOCAL, Setup, request, without_notice};

pub const DIALECTS: [Dialect; 3] = [Dialect::AnthropicMessages, Dialect::OpenaiChat, Dialect::OpenaiResponses];

/// The first upstream.
pub const FIRST: &str = "cloud-0";

/// What happens to clients waits for nothing longer than this; a machine may stall for seconds.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The kind of upstream that speaks this dialect.
pub fn kind(dialect: Dialect) -> &'static str {
    if dialect == Dialect::AnthropicMessages { "anthropic" } else { "openai" }
}

/// One upstream that speaks this dialect. Retries and breakers have a tenth of the times that users have.
pub fn setup(dialect: Dialect, plan: Plan) -> Setup {
    Setup { plans: vec![plan], kind: kind(dialect), scale: 10, ..Setup::default() }
}

/// With limits as users have them: none of them passes in a case that is not about it.
pub fn door(setup: Setup) -> FrontDoor {
    door_with(setup, |_| {})
}

/// The same with rules that a case changes.
pub fn door_with(setup: Setup, change: impl FnOnce(&mut Rules)) -> FrontDoor {
    FrontDoor::start_with(setup, |rules| {
        rules.limits = Limits::default();
        change(rules);
    })
}

/// The same door and the same question in every dialect.
pub fn in_every_dialect(plan: &Plan, check: impl Fn(&FrontDoor, Dialect)) {
    for dialect in DIALECTS {
        let door = door(setup(dialect, plan.clone()));
        check(&door, dialect);
        held(&door);
    }
}

/// Who answered, and what.
#[derive(Debug)]
pub struct Answered {
    pub by: String,
    /// Why it was not the cloud.
    pub reason: Option<String>,
    pub told: Folded,
    pub usage: Value,
}

impl Answered {
    #[track_caller]
    pub fn is_local(&self, reason: &str) {
        assert_eq!((self.by.as_str(), self.reason.as_deref()), (LOCAL, Some(reason)));
        assert_eq!(self.told.model, LOCAL, "the reply's model is who began it");
        assert!(tokens(&self.usage) > 0, "usage is told: {}", self.usage);
    }

    #[track_caller]
    pub fn is_cloud(&self) {
        assert_eq!((self.by.as_str(), self.reason.as_deref(), self.told.model.as_str()), (FIRST, None, CLOUD));
    }
}

/// A stream that is one whole answer: the sixty words, once.
#[track_caller]
pub fn whole(dialect: Dialect, exchange: &Exchange) -> Answered {
    whole_saying(dialect, exchange, SIXTY_WORDS)
}

/// The same of other words.
#[track_caller]
pub fn whole_saying(dialect: Dialect, exchange: &Exchange, words: &str) -> Answered {
    assert_eq!((exchange.status(), &exchange.end), (Some(200), &End::Whole), "{dialect:?}: {}", exchange.text());
    let told = read(dialect, exchange);
    assert!(matches!(told.end, Ended::Well(_)), "{dialect:?}: {:?}", told.end);
    assert_eq!(without_notice(&told.text), words, "{dialect:?}");
    let by = exchange.header("x-understudy-served-by").expect("who speaks is told").to_owned();
    Answered { by, reason: exchange.header("x-understudy-reason").map(str::to_owned), told, usage: usage(dialect, exchange) }
}

/// As the last event that counts has it.
fn usage(dialect: Dialect, exchange: &Exchange) -> Value {
    let events = exchange.events();
    let mut counts = events.iter().map(|event| match dialect {
        Dialect::OpenaiResponses => event.json()["response"]["usage"].take(),
        _ => event.json()["usage"].take(),
    });
    counts.rfind(Value::is_object).unwrap_or_default()
}

/// Of the reply.
pub fn tokens(usage: &Value) -> u64 {
    ["output_tokens", "completion_tokens"].iter().find_map(|field| usage[field].as_u64()).unwrap_or(0)
}

/// Asks for a stream of the sixty words, with a credential that is meant for the first upstream and a key that is meant for us.
pub fn question(dialect: Dialect) -> RawRequest {
    with_credentials(with_usage(dialect, request(dialect, true)))
}

/// The same, to be answered with one word, where a case asks more often than it is long.
pub fn brief_question(dialect: Dialect) -> RawRequest {
    let order = format!("SAY[[{BRIEF}]]");
    let (field, said) = match dialect {
        Dialect::OpenaiResponses => ("input", json!(order)),
        _ => ("messages", json!([{"role": "user", "content": order}])),
    };
    with(question(dialect), field, said)
}

pub const BRIEF: &str = "Yes.";

/// The brief question, answered by whoever: the cloud says what it always says.
#[track_caller]
pub fn briefly(door: &FrontDoor, dialect: Dialect, session: &str) -> Answered {
    let exchange = door.exchange(&brief_question(dialect).header("x-session-id", session));
    let is_local = exchange.header("x-understudy-served-by") == Some(LOCAL);
    whole_saying(dialect, &exchange, if is_local { BRIEF } else { SIXTY_WORDS })
}

fn with_credentials(request: RawRequest) -> RawRequest {
    request.header("x-api-key", "of-the-client").header("x-understudy-key", "ours")
}

/// Chats have to be asked to count.
fn with_usage(dialect: Dialect, request: RawRequest) -> RawRequest {
    match dialect {
        Dialect::OpenaiChat => with(request, "stream_options", json!({"include_usage": true})),
        _ => request,
    }
}

/// Asks for a stream of the sixty words and gets it whole.
#[track_caller]
pub fn asked(door: &FrontDoor, dialect: Dialect) -> Answered {
    whole(dialect, &door.exchange(&question(dialect)))
}

/// The text of a whole reply in one piece.
#[track_caller]
pub fn text_in_one_piece(dialect: Dialect, exchange: &Exchange) -> String {
    assert_eq!((exchange.status(), &exchange.end), (Some(200), &End::Whole), "{dialect:?}: {}", exchange.text());
    let json = exchange.json();
    let text = match dialect {
        Dialect::AnthropicMessages => &json["content"][0]["text"],
        Dialect::OpenaiChat => &json["choices"][0]["message"]["content"],
        Dialect::OpenaiResponses => &json["output"][0]["content"][0]["text"],
    };
    without_notice(text.as_str().expect("a reply has a text")).to_owned()
}

/// A stream that began and says by its own grammar that it failed.
#[track_caller]
pub fn told_as_failed(dialect: Dialect, exchange: &Exchange) -> Folded {
    assert_eq!((exchange.status(), &exchange.end), (Some(200), &End::Whole), "{dialect:?}: {}", exchange.text());
    let told = read(dialect, exchange);
    assert!(matches!(told.end, Ended::Failed(_)), "{dialect:?}: {:?} in {}", told.end, exchange.text());
    assert!(SIXTY_WORDS.starts_with(&told.text), "what was said is true: {}", told.text);
    told
}

/// What an upstream says to a client of its own.
pub fn directly(door: &FrontDoor, upstream: &FaultUpstream, request: &RawRequest) -> Exchange {
    let mut request = request.clone();
    // Nobody's credential: all hosts are looked at for those that are not meant for them.
    request.headers.retain(|(name, _)| !name.starts_with("x-"));
    door.app.runtime().block_on(RawClient::exchange(upstream.address(), &request, PATIENCE))
}

/// A request whose reply is waited for later.
pub fn sent(door: &FrontDoor, request: RawRequest) -> JoinHandle<Exchange> {
    let address = door.address();
    door.app.runtime().spawn(async move { RawClient::exchange(address, &request, HANGS).await })
}

#[track_caller]
pub fn reply_to(door: &FrontDoor, sent: JoinHandle<Exchange>) -> Exchange {
    door.app.runtime().block_on(sent).expect("a client does not panic")
}

/// The upstream's own reply, word for word.
#[track_caller]
pub fn as_it_came(exchange: &Exchange, direct: &Exchange) {
    assert_eq!((exchange.status(), &exchange.end), (direct.status(), &End::Whole), "{}", exchange.text());
    assert_eq!(exchange.text(), direct.text());
    for name in ["content-type", "retry-after"] {
        assert_eq!(exchange.header(name), direct.header(name), "{name}");
    }
    assert_eq!(exchange.header("x-understudy-reason"), None, "nobody answered in the cloud's place");
}

/// What must be true after every case.
#[track_caller]
pub fn held(door: &FrontDoor) {
    for (index, upstream) in door.upstreams.iter().enumerate() {
        for attempt in upstream.attempts() {
            assert!(attempt.headers.iter().all(|(name, _)| !name.starts_with("x-understudy-")), "ours went up: {:?}", attempt.headers);
            keeps_credentials(index, &attempt);
        }
    }
    door.upstreams.iter().for_each(|upstream| upstream.set_plan(Plan::healthy()));
    let of_anthropic = door.gateway.config().upstreams[0].kind == Kind::Anthropic;
    briefly(door, if of_anthropic { Dialect::AnthropicMessages } else { Dialect::OpenaiChat }, "the next");
}

/// The client's credential goes to the first upstream alone, that of the second nowhere else, and the free question has none.
#[track_caller]
fn keeps_credentials(index: usize, attempt: &Attempt) {
    let shown: Vec<&str> = ["x-api-key", "authorization", "cookie"].iter().filter_map(|name| attempt.header(name)).collect();
    match (index, attempt.generates()) {
        (_, false) => assert!(shown.is_empty(), "{} was asked with {shown:?}", attempt.path),
        (0, true) => assert!(!shown.iter().any(|value| value.contains("second-key")), "{shown:?}"),
        (_, true) => assert!(shown.iter().all(|value| value.contains("second-key")), "{shown:?}"),
    }
}

/// Of a conversation that has this name.
pub fn request_of(session: &str, dialect: Dialect) -> RawRequest {
    question(dialect).header("x-session-id", session)
}

/// As a status bar sees it.
#[track_caller]
pub fn status(door: &FrontDoor) -> Status {
    serde_json::from_value(door.app.get("/understudy/status").json()).expect("a status")
}

#[track_caller]
pub fn first_status(door: &FrontDoor) -> UpstreamStatus {
    status(door).upstreams.into_iter().next().expect("there is an upstream")
}

#[track_caller]
pub fn is_down(door: &FrontDoor, fault: &str) {
    let first = first_status(door);
    assert_eq!((first.state, first.fault.as_deref()), (State::Down, Some(fault)));
}

#[track_caller]
pub fn is_well(door: &FrontDoor) {
    assert_eq!(first_status(door).state, State::Well);
}

/// Asks until it is so.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let given_up = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < given_up, "never came: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// New conversations, one after the other, until the cloud answers one.
#[track_caller]
pub fn until_the_cloud_answers(door: &FrontDoor, dialect: Dialect) {
    let mut number = 0;
    eventually("the cloud answers again", || {
        number += 1;
        briefly(door, dialect, &format!("until the cloud answers {number}")).by == FIRST
    });
}

/// Waits until the first upstream's requests are so, and returns them.
#[track_caller]
pub fn attempts_when(door: &FrontDoor, holds: impl Fn(&[Attempt]) -> bool) -> Vec<Attempt> {
    let of_generations = |attempts: &[Attempt]| holds(&attempts.iter().filter(|attempt| attempt.generates()).cloned().collect::<Vec<_>>());
    let attempts = door.app.runtime().block_on(door.upstream().attempts_when(PATIENCE, of_generations));
    let attempts = attempts.unwrap_or_else(|| panic!("never came: {:?}", door.attempts()));
    attempts.into_iter().filter(Attempt::generates).collect()
}

/// The same body with another field.
pub fn with(mut request: RawRequest, field: &str, value: impl Into<Value>) -> RawRequest {
    let mut body: Value = serde_json::from_slice(&request.body).expect("the body is JSON");
    body[field] = value.into();
    request.body = body.to_string().into_bytes();
    request
}
