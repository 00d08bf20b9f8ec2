//! What holds for every reply through the front door, whatever became of the upstream meanwhile. Each case checks it beside its own
//! expectations: a bounded end, no truncated or doubled answer that looks whole, no call closed that cannot be executed, no credential
//! where it does not belong, and a next request that is answered.

use serde_json::Value;
use understudy::gateway::drill::answer::SIXTY_WORDS;
use understudy::gateway::drill::fault_upstream::Attempt;
use understudy::gateway::drill::http::Dialect;
use understudy::gateway::drill::plan::Plan;
use understudy::gateway::drill::raw_client::{End, Exchange, RawRequest};
use understudy::gateway::limits::Limits;

use super::strict_client::{self, Ended, Folded};
use crate::support::chat_stream::read_chat_stream;
use crate::support::front_door::{CLOUD, FrontDoor, HANGS, LOCAL, Setup, request, without_notice};
use crate::support::http_client::{Head, Reply};
use crate::support::messages_stream::read_messages_stream;
use crate::support::response_stream::read_response_stream;

pub const DIALECTS: [Dialect; 3] = [Dialect::AnthropicMessages, Dialect::OpenaiChat, Dialect::OpenaiResponses];

const CLIENTS_KEY: &str = "the-client-s-own";
const OUR_KEY: &str = "the-door-s-own";
/// As the harness names it in its environment.
const SECOND_KEY: &str = "second-key";

/// A reply to one request, and what a client makes of it.
pub struct Turn {
    pub exchange: Exchange,
    pub folded: Folded,
}

impl Turn {
    pub fn served_by(&self) -> &str {
        self.exchange.header("x-understudy-served-by").expect("who speaks is told")
    }

    pub fn is_local(&self) -> bool {
        self.served_by() == LOCAL
    }

    /// The local model answered all of it, for this reason.
    #[track_caller]
    pub fn assert_local(&self, reason: &str) {
        assert_eq!((self.served_by(), self.exchange.header("x-understudy-reason")), (LOCAL, Some(reason)));
    }

    /// The cloud answered, and nobody else had to.
    #[track_caller]
    pub fn assert_relayed(&self) {
        assert_eq!((self.served_by(), self.seam()), ("cloud-0", None));
    }

    /// The cloud began, and the local model went on for this reason.
    #[track_caller]
    pub fn assert_taken_over(&self, reason: &str) {
        assert_eq!((self.served_by(), self.seam().as_deref()), ("cloud-0", Some(reason)), "{}", self.exchange.text());
    }

    /// Why somebody else went on, as the comment at the seam says it.
    fn seam(&self) -> Option<String> {
        let text = self.exchange.text();
        let (_, comment) = text.split_once(": understudy: ")?;
        let (_, reason) = comment.lines().next()?.rsplit_once('(')?;
        Some(reason.trim_end_matches(')').to_owned())
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

/// Before one upstream that speaks this dialect, with the limits that users have: for faults that show at once.
pub fn door(dialect: Dialect, plan: Plan) -> FrontDoor {
    FrontDoor::start(Setup { plans: vec![plan], kind: kind(dialect), scale: 1, ..Setup::default() })
}

/// Before an upstream that somebody else runs.
pub fn door_to(dialect: Dialect, url: String, setup: Setup) -> FrontDoor {
    FrontDoor::start(Setup { urls: vec![url], kind: kind(dialect), scale: 1, ..setup })
}

/// As [`door`], with a hundredth of the one limit that a case is about, which `choose` takes over from the second into the first. All others
/// are out of reach: a machine may stall for as long as a scaled limit lasts.
pub fn door_with(dialect: Dialect, plan: Plan, choose: impl FnOnce(&mut Limits, &Limits)) -> FrontDoor {
    door_of(dialect, Setup { plans: vec![plan], ..Setup::default() }, choose)
}

/// The same in another setup.
pub fn door_of(dialect: Dialect, setup: Setup, choose: impl FnOnce(&mut Limits, &Limits)) -> FrontDoor {
    FrontDoor::start_with(Setup { kind: kind(dialect), ..setup }, |rules| {
        let scaled = rules.limits.clone();
        rules.limits = Limits {
            connect: HANGS,
            first_content: HANGS,
            first_content_max: HANGS,
            whole_reply_max: HANGS,
            byte_silence: HANGS,
            progress_text: HANGS,
            progress_thinking: HANGS,
            progress_tool: HANGS,
            prefill_after: HANGS,
            ..Limits::default()
        };
        choose(&mut rules.limits, &scaled);
    })
}

pub fn kind(dialect: Dialect) -> &'static str {
    if dialect == Dialect::AnthropicMessages { "anthropic" } else { "openai" }
}

/// Asks for the sixty words as a stream.
#[track_caller]
pub fn ask(door: &FrontDoor, dialect: Dialect) -> Turn {
    ask_with(door, dialect, request(dialect, true), WORDS)
}

/// Asks for the sixty words in one piece.
#[track_caller]
pub fn ask_whole(door: &FrontDoor, dialect: Dialect) -> Turn {
    ask_with(door, dialect, request(dialect, false), WORDS)
}

/// One request. What must hold for its reply is checked.
#[track_caller]
pub fn ask_with(door: &FrontDoor, dialect: Dialect, request: RawRequest, expected: Expected<'_>) -> Turn {
    let turn = send(door, dialect, request);
    check(dialect, &turn, expected);
    turn
}

/// One request, with the client's credential and ours. Its reply is held to its grammar alone.
#[track_caller]
pub fn send(door: &FrontDoor, dialect: Dialect, request: RawRequest) -> Turn {
    let bearer = format!("Bearer {CLIENTS_KEY}");
    let request = request.header("authorization", &bearer).header("x-understudy-key", OUR_KEY);
    let exchange = door.exchange(&request);
    assert_eq!(exchange.status(), Some(200), "{:?} {}", exchange.end, exchange.text());
    let mut folded = strict_client::read(dialect, &exchange);
    folded.text = without_notice(&folded.text).to_owned();
    Turn { exchange, folded }
}

#[track_caller]
fn check(dialect: Dialect, turn: &Turn, expected: Expected<'_>) {
    let Turn { exchange, folded } = turn;
    let said = || format!("{dialect:?}: {:?}\n{}", exchange.end, exchange.text());
    for call in folded.calls.iter().filter(|call| call.is_whole) {
        let arguments: Value = serde_json::from_str(&call.arguments).unwrap_or_default();
        assert!(arguments.is_object(), "a call was closed that is none: {}", said());
    }
    match &folded.end {
        Ended::Well(_) => {
            assert_eq!(exchange.end, End::Whole, "{}", said());
            assert_eq!(folded.text, expected.text, "{}", said());
            let calls = folded.calls.iter().map(|call| (call.name.as_str(), serde_json::from_str(&call.arguments).expect("checked above")));
            assert_eq!(calls.collect::<Vec<_>>(), expected.calls, "{}", said());
        }
        Ended::Failed(_) => assert_eq!(exchange.end, End::Whole, "an error that is told is told to its end: {}", said()),
        Ended::Never => assert!(matches!(exchange.end, End::Cut(_)), "a truncated reply that looks whole: {}", said()),
    }
    assert!(expected.text.starts_with(&folded.text), "another answer is mixed in: {}", said());
    if turn.is_local() {
        assert_eq!(folded.model, LOCAL, "{}", said());
        assert!(!exchange.text().contains(CLOUD), "something of the cloud's got out: {}", said());
        read_strictly(dialect, exchange);
    } else {
        assert_eq!(folded.model, CLOUD, "a message has the name of who began it: {}", said());
    }
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

/// What holds once a case is over: so many requests came to the first upstream, nobody was shown a credential that is not theirs, the next
/// request is answered, and nothing is left running.
#[track_caller]
pub fn settled(door: &FrontDoor, dialect: Dialect, attempts: usize) {
    assert_eq!(door.attempts().len(), attempts, "{dialect:?}: requests at the upstream: {:#?}", door.attempts());
    next_is_answered(door, dialect);
}

/// The same where attempts cannot be counted.
#[track_caller]
pub fn next_is_answered(door: &FrontDoor, dialect: Dialect) {
    let next = ask(door, dialect);
    assert!(matches!(next.folded.end, Ended::Well(_)), "{dialect:?}: {}", next.exchange.text());
    for (index, upstream) in door.upstreams.iter().enumerate() {
        upstream.attempts().iter().for_each(|attempt| check_credentials(attempt, if index == 0 { CLIENTS_KEY } else { SECOND_KEY }));
    }
    door.app.wait_until("an idle engine", |stats| stats.running == 0 && stats.waiting == 0);
}

/// Only requests that generate carry a credential, and only the one that is meant for this host.
#[track_caller]
fn check_credentials(attempt: &Attempt, key: &str) {
    let all = format!("{:?} {}", attempt.headers, String::from_utf8_lossy(&attempt.body));
    for other in [CLIENTS_KEY, SECOND_KEY, OUR_KEY] {
        assert!(!all.contains(other) || (other == key && attempt.generates()), "{other} is no business of this host: {attempt:#?}");
    }
}

/// The door's own word on its first upstream: its state, and what is wrong with it.
#[track_caller]
pub fn upstream_state(door: &FrontDoor) -> (String, Option<String>) {
    let upstream = status(door)["upstreams"][0].clone();
    (upstream["state"].as_str().expect("a state").to_owned(), upstream["fault"].as_str().map(str::to_owned))
}

#[track_caller]
pub fn status(door: &FrontDoor) -> Value {
    door.app.get("/understudy/status").json()
}
