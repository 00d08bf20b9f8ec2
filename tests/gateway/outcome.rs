//! What every case is held to, whatever went wrong: a bounded end, an answer that is one whole answer or an honest error, no call closed
//! that cannot be executed, credentials where they belong, and a next request that is answered.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use understudy::config::gateway::Kind;
use understudy::gateway::drill::answer::SIXTY_WORDS;
use understudy::gateway::drill::fault_upstream::{Attempt, FaultUpstream};
use understudy::gateway::drill::http::Dialect;
use understudy::gateway::drill::plan::Plan;
use understudy::gateway::drill::raw_client::{End, Exchange, RawClient, RawRequest};
use understudy::gateway::status::{State, Status, UpstreamStatus};

use super::doors::{DIALECTS, door, setup};
use super::strict_client::{self, Ended, Folded};
use crate::support::chat_stream::read_chat_stream;
use crate::support::front_door::{CLOUD, FrontDoor, HANGS, LOCAL, request, without_notice};
use crate::support::http_client::{Head, Reply};
use crate::support::messages_stream::read_messages_stream;
use crate::support::response_stream::read_response_stream;

/// The first upstream.
pub const FIRST: &str = "cloud-0";

/// What happens to clients waits for nothing longer than this; a machine may stall for seconds.
pub const PATIENCE: Duration = Duration::from_secs(20);

const CLIENTS_KEY: &str = "the-client-s-own";
const OUR_KEY: &str = "the-door-s-own";
/// As the harness names it in its environment.
const SECOND_KEY: &str = "second-key";

/// The same door and the same question in every dialect.
pub fn in_every_dialect(plan: &Plan, check: impl Fn(&FrontDoor, Dialect)) {
    for dialect in DIALECTS {
        let door = door(setup(dialect, plan.clone()));
        check(&door, dialect);
        held(&door);
    }
}

/// Who answered, and what a client makes of it.
#[derive(Debug)]
pub struct Answered {
    pub exchange: Exchange,
    pub by: String,
    /// Why it was not the cloud.
    pub reason: Option<String>,
    pub told: Folded,
    pub usage: Value,
    /// The client wants to know how long the reply is: chats have to be asked.
    wants_usage: bool,
}

impl Answered {
    pub fn text(&self) -> &str {
        without_notice(&self.told.text)
    }

    pub fn by_this_machine(&self) -> bool {
        self.by == LOCAL
    }

    /// The local model answered all of it, for this reason.
    #[track_caller]
    pub fn is_local(&self, reason: &str) {
        assert_eq!((self.by.as_str(), self.reason.as_deref()), (LOCAL, Some(reason)));
        assert_eq!(self.told.model, LOCAL, "the reply's model is who began it");
        assert!(!self.wants_usage || tokens(&self.usage) > 0, "usage is told: {}", self.usage);
    }

    /// The cloud answered, and nobody else had to.
    #[track_caller]
    pub fn is_cloud(&self) {
        assert_eq!((self.by.as_str(), self.reason.as_deref(), self.told.model.as_str()), (FIRST, None, CLOUD));
        assert_eq!(self.seam(), None, "{}", self.exchange.text());
    }

    /// The cloud began, and somebody else went on for this reason.
    #[track_caller]
    pub fn is_taken_over(&self, reason: &str) {
        assert_eq!((self.by.as_str(), self.reason.as_deref(), self.told.model.as_str()), (FIRST, None, CLOUD));
        assert_eq!(self.seam().map(|(_, reason)| reason).as_deref(), Some(reason), "{}", self.exchange.text());
        let counts = (prompt_tokens(&self.usage), tokens(&self.usage));
        assert!(!self.wants_usage || (counts.0 > 0 && counts.1 > 0), "both parts are counted: {}", self.usage);
    }

    /// Who went on and why, as the comment at the seam says it.
    pub fn seam(&self) -> Option<(String, String)> {
        let text = self.exchange.text();
        let (_, comment) = text.split_once(": understudy: ")?;
        let (who, reason) = comment.lines().next()?.rsplit_once(" (")?;
        let who = who.strip_suffix(" goes on from here").expect("the comment says who goes on");
        Some((who.to_owned(), reason.trim_end_matches(')').to_owned()))
    }

    #[track_caller]
    pub fn is_whole(&self) {
        assert!(matches!(self.told.end, Ended::Well(_)), "{:?} in {}", self.told.end, self.exchange.text());
    }
}

/// What the client must have in the end if it was told that the reply is whole.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    pub text: &'a str,
    /// Names and arguments, these as values.
    pub calls: &'a [(&'a str, Value)],
}

pub const WORDS: Expected<'static> = Expected { text: SIXTY_WORDS, calls: &[] };

/// A stream that is one whole answer: the sixty words, once.
#[track_caller]
pub fn whole(dialect: Dialect, exchange: &Exchange) -> Answered {
    whole_saying(dialect, exchange, SIXTY_WORDS)
}

/// The same of other words.
#[track_caller]
pub fn whole_saying(dialect: Dialect, exchange: &Exchange, words: &str) -> Answered {
    let answered = held_to(dialect, exchange, Expected { text: words, calls: &[] });
    answered.is_whole();
    answered
}

/// A reply, read by its grammar.
#[track_caller]
pub fn read(dialect: Dialect, exchange: &Exchange) -> Answered {
    assert_eq!(exchange.status(), Some(200), "{dialect:?}: {:?} {}", exchange.end, exchange.text());
    let told = strict_client::read(dialect, exchange);
    let by = exchange.header("x-understudy-served-by").expect("who speaks is told").to_owned();
    let reason = exchange.header("x-understudy-reason").map(str::to_owned);
    Answered { exchange: exchange.clone(), by, reason, told, usage: usage(dialect, exchange), wants_usage: true }
}

/// Whatever became of it, it is whole or does not look like it, and it is one answer.
#[track_caller]
pub fn held_to(dialect: Dialect, exchange: &Exchange, expected: Expected<'_>) -> Answered {
    let answered = read(dialect, exchange);
    let told = &answered.told;
    let said = || format!("{dialect:?}: {:?}\n{}", exchange.end, exchange.text());
    for call in told.calls.iter().filter(|call| call.is_whole) {
        let arguments: Value = serde_json::from_str(&call.arguments).unwrap_or_default();
        assert!(arguments.is_object(), "a call was closed that is none: {}", said());
    }
    match &told.end {
        Ended::Well(_) => {
            assert_eq!(exchange.end, End::Whole, "{}", said());
            assert_eq!(answered.text(), expected.text, "{}", said());
            let calls = told.calls.iter().map(|call| (call.name.as_str(), serde_json::from_str(&call.arguments).expect("checked above")));
            assert_eq!(calls.collect::<Vec<_>>(), expected.calls, "{}", said());
        }
        Ended::Failed(_) => assert_eq!(exchange.end, End::Whole, "an error that is told is told to its end: {}", said()),
        Ended::Never => assert!(matches!(exchange.end, End::Cut(_)), "a truncated reply that looks whole: {}", said()),
    }
    assert!(expected.text.starts_with(answered.text()), "another answer is mixed in: {}", said());
    if answered.by_this_machine() {
        assert_eq!(told.model, LOCAL, "{}", said());
        assert!(!exchange.text().contains(CLOUD), "something of the cloud's got out: {}", said());
        read_strictly(dialect, exchange);
    } else {
        assert_eq!(told.model, CLOUD, "a message has the name of who began it: {}", said());
    }
    answered
}

/// What we wrote ourselves from the first byte on keeps to our own, stricter grammar.
fn read_strictly(dialect: Dialect, exchange: &Exchange) {
    let head = exchange.head.as_ref().expect("a reply has a head");
    if !head.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream")) {
        return;
    }
    let head = Head { status: head.status().expect("a status"), headers: head.headers.clone() };
    let reply = Reply { head, body: exchange.body.clone() };
    match dialect {
        Dialect::AnthropicMessages => drop(read_messages_stream(&reply)),
        Dialect::OpenaiChat => drop(read_chat_stream(&reply, 1)),
        Dialect::OpenaiResponses => drop(read_response_stream(&reply)),
    }
}

/// Asks for the sixty words as a stream, as a client that does not ask for counts.
#[track_caller]
pub fn ask(door: &FrontDoor, dialect: Dialect) -> Answered {
    ask_with(door, dialect, request(dialect, true), WORDS)
}

/// Asks for the sixty words in one piece.
#[track_caller]
pub fn ask_whole(door: &FrontDoor, dialect: Dialect) -> Answered {
    ask_with(door, dialect, request(dialect, false), WORDS)
}

/// One request, with the client's credential and ours. What must hold for its reply is checked.
#[track_caller]
pub fn ask_with(door: &FrontDoor, dialect: Dialect, request: RawRequest, expected: Expected<'_>) -> Answered {
    let wants_usage = dialect != Dialect::OpenaiChat || String::from_utf8_lossy(&request.body).contains("include_usage");
    let answered = held_to(dialect, &door.exchange(&with_credentials(dialect, request)), expected);
    Answered { wants_usage, ..answered }
}

/// As the last event that counts has it.
fn usage(dialect: Dialect, exchange: &Exchange) -> Value {
    if !exchange.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream")) {
        return exchange.json()["usage"].take();
    }
    let events = exchange.events();
    // The end of a chat is no JSON.
    let mut counts = events.iter().filter_map(|event| serde_json::from_str::<Value>(&event.data).ok()).map(|mut event| match dialect {
        Dialect::OpenaiResponses => event["response"]["usage"].take(),
        _ => event["usage"].take(),
    });
    counts.rfind(Value::is_object).unwrap_or_default()
}

/// Of the prompt, cached or not.
pub fn prompt_tokens(usage: &Value) -> u64 {
    let fields = ["input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "prompt_tokens"];
    fields.iter().filter_map(|field| usage[field].as_u64()).sum()
}

/// Of the reply.
pub fn tokens(usage: &Value) -> u64 {
    ["output_tokens", "completion_tokens"].iter().find_map(|field| usage[field].as_u64()).unwrap_or(0)
}

/// Asks for a stream of the sixty words, with a credential that is meant for the first upstream and a key that is meant for us.
pub fn question(dialect: Dialect) -> RawRequest {
    with_credentials(dialect, with_usage(dialect, request(dialect, true)))
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

/// Each vendor has a header of its own.
fn with_credentials(dialect: Dialect, request: RawRequest) -> RawRequest {
    let request = match dialect {
        Dialect::AnthropicMessages => request.header("x-api-key", CLIENTS_KEY),
        _ => request.header("authorization", &format!("Bearer {CLIENTS_KEY}")),
    };
    request.header("x-understudy-key", OUR_KEY)
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
    let answered = held_to(dialect, exchange, WORDS);
    assert!(matches!(answered.told.end, Ended::Failed(_)), "{dialect:?}: {:?} in {}", answered.told.end, exchange.text());
    answered.told
}

/// What an upstream says to a client of its own.
pub fn directly(door: &FrontDoor, upstream: &FaultUpstream, request: &RawRequest) -> Exchange {
    let mut request = request.clone();
    // Nobody's credential: all hosts are looked at for those that are not meant for them.
    request.headers.retain(|(name, _)| !name.starts_with("x-") && name != "authorization");
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

/// What must be true after every case; the upstreams are well again.
#[track_caller]
pub fn held(door: &FrontDoor) {
    nothing_got_out(door);
    door.upstreams.iter().for_each(|upstream| upstream.set_plan(Plan::healthy()));
    let of_anthropic = door.gateway.config().upstreams[0].kind == Kind::Anthropic;
    briefly(door, if of_anthropic { Dialect::AnthropicMessages } else { Dialect::OpenaiChat }, "the next");
    is_idle(door);
}

/// The same while the upstream does what it does: so many requests came to it, and the next one is answered.
#[track_caller]
pub fn settled(door: &FrontDoor, dialect: Dialect, attempts: usize) {
    assert_eq!(door.attempts().len(), attempts, "{dialect:?}: requests at the upstream: {:#?}", door.attempts());
    next_is_answered(door, dialect);
}

/// The same where attempts cannot be counted.
#[track_caller]
pub fn next_is_answered(door: &FrontDoor, dialect: Dialect) {
    ask(door, dialect).is_whole();
    nothing_got_out(door);
    is_idle(door);
}

#[track_caller]
fn is_idle(door: &FrontDoor) {
    door.app.wait_until("an idle engine", |stats| stats.running == 0 && stats.waiting == 0);
}

/// The client's credential goes to the first upstream alone, that of the second nowhere else, ours nowhere, and the free question has none.
#[track_caller]
pub fn nothing_got_out(door: &FrontDoor) {
    for (index, upstream) in door.upstreams.iter().enumerate() {
        upstream.attempts().iter().for_each(|attempt| keeps_credentials(index, attempt));
    }
}

#[track_caller]
fn keeps_credentials(index: usize, attempt: &Attempt) {
    assert!(attempt.headers.iter().all(|(name, _)| !name.starts_with("x-understudy-")), "ours went up: {:?}", attempt.headers);
    let own = if index == 0 { CLIENTS_KEY } else { SECOND_KEY };
    // Wherever it stands: a key is no part of a body either.
    let all = format!("{:?} {}", attempt.headers, String::from_utf8_lossy(&attempt.body));
    for key in [CLIENTS_KEY, SECOND_KEY, OUR_KEY] {
        assert!(!all.contains(key) || (key == own && attempt.generates()), "{key} is no business of this host: {attempt:#?}");
    }
    let shown: Vec<&str> = ["x-api-key", "authorization", "cookie"].iter().filter_map(|name| attempt.header(name)).collect();
    match (index, attempt.generates()) {
        (_, false) => assert!(shown.is_empty(), "{} was asked with {shown:?}", attempt.path),
        (0, true) => {}
        (_, true) => assert!(shown.iter().all(|value| value.contains(SECOND_KEY)), "{shown:?}"),
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

/// Its state, and what is wrong with it.
#[track_caller]
pub fn upstream_state(door: &FrontDoor) -> (State, Option<String>) {
    let first = first_status(door);
    (first.state, first.fault)
}

#[track_caller]
pub fn is_down(door: &FrontDoor, fault: &str) {
    assert_eq!(upstream_state(door), (State::Down, Some(fault.to_owned())));
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
