//! The cases of a drill: what goes wrong, what is asked, and what a client should get. Pure.

use serde_json::{Value, json};

use super::answer::{Answer, Call, Ending, ErrorAnswer, ErrorKind, LineEnds, Misbehaviour, Pace, Point, Reply, SIXTY_WORDS, Stop, Wire};
use super::http::Dialect;
use super::plan::{Plan, Rule};
use super::raw_client::RawRequest;

/// One fault and what is due.
#[derive(Debug, Clone)]
pub struct Case {
    /// A word for it; also the model that is asked for, so that no case meets another one's breaker.
    pub name: &'static str,
    pub plan: Plan,
    pub dialect: Dialect,
    pub expected: Expected,
    /// Nothing of it reaches the upstream; else something must, or the fault was not met.
    pub is_unreachable: bool,
    /// Requests for a reply that may reach the upstream.
    pub attempts_max: usize,
    /// The upstream's own answer is the text of sixty words: less of it is half of it.
    pub says_sixty_words: bool,
    /// The fault waits for a second request.
    pub asks_twice: bool,
    /// Waits for a limit of the front door; left out of a quick drill.
    pub is_slow: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// A whole answer, whoever gives it.
    Answered,
    /// The same; or the connection may break before a word of text, where the client is one that asks again.
    AnsweredOrBrokenOff,
    /// What the upstream said, with its status.
    Relayed(u16),
}

impl Case {
    fn new(name: &'static str, answer: Answer) -> Self {
        Self {
            name,
            says_sixty_words: answer.reply == Reply::default(),
            plan: Plan::always(answer),
            dialect: Dialect::AnthropicMessages,
            expected: Expected::Answered,
            attempts_max: 2,
            is_unreachable: false,
            asks_twice: false,
            is_slow: false,
        }
    }

    /// A plan of somebody's own: any answer will do, also one that a breaker kept from the upstream.
    pub fn of_plan(name: &'static str, plan: Plan) -> Self {
        Self { plan, says_sixty_words: false, attempts_max: 6, is_slow: true, is_unreachable: true, ..Self::new(name, Answer::healthy()) }
    }

    fn relayed(self, status: u16) -> Self {
        Self { expected: Expected::Relayed(status), attempts_max: 1, ..self }
    }

    fn once(self) -> Self {
        Self { attempts_max: 1, ..self }
    }

    fn slow(self) -> Self {
        Self { is_slow: true, ..self }
    }

    fn speaking(self, dialect: Dialect) -> Self {
        Self { dialect, ..self }
    }

    /// What a client asks. A key of its own, so that no case meets another one's breaker.
    pub fn request(&self) -> RawRequest {
        // Words of its own, too: a front door tells conversations apart by how they begin.
        let user = json!({"role": "user", "content": format!("Tell me about the lamp, please ({}).", self.name)});
        let mut body = json!({"model": self.model(), "stream": true});
        match self.dialect {
            Dialect::OpenaiResponses => body["input"] = json!([user]),
            Dialect::AnthropicMessages | Dialect::OpenaiChat => body["messages"] = json!([user]),
        }
        if self.dialect == Dialect::AnthropicMessages {
            body["max_tokens"] = Value::from(200);
            let schema = json!({"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]});
            body["tools"] = json!([{"name": "read_file", "description": "Reads a file.", "input_schema": schema}]);
        }
        // Each case is a conversation of its own, with a credential of its own: none is to suffer for another's fault.
        let request = RawRequest::post(self.dialect.path(), &body)
            .header("authorization", &format!("Bearer drill-{}", self.name))
            .header("x-session-id", self.name);
        if self.dialect == Dialect::AnthropicMessages { request.header("anthropic-version", "2023-06-01") } else { request }
    }

    pub fn model(&self) -> String {
        format!("claude-drill-{}", self.name.replace(' ', "-"))
    }
}

/// All of them, in the order in which they are best played: those that shut a host for others come last.
pub fn all(seed: u64) -> Vec<Case> {
    let mut cases: Vec<Case> = [healthy(), errors(), silences(), cuts(), streams(), hosts()].concat();
    for case in &mut cases {
        case.plan.seed = seed;
    }
    cases
}

fn wrong(misbehaviour: Misbehaviour) -> Answer {
    Answer::wrong(misbehaviour)
}

fn healthy() -> Vec<Case> {
    let wire = Wire { line_ends: LineEnds::CrLf, comments: true, chunk_bytes: Some(1), ..Wire::default() };
    let refusal = Reply { stop: Some(Stop::Refusal), ..Reply::text("I cannot help with that.") };
    vec![
        Case::new("healthy", Answer::healthy()).once(),
        Case::new("healthy chat", Answer::healthy()).once().speaking(Dialect::OpenaiChat),
        Case::new("healthy responses", Answer::healthy()).once().speaking(Dialect::OpenaiResponses),
        Case::new("strange line ends", Answer::healthy().with_wire(wire)).once(),
        Case::new("refusal", Answer::saying(refusal)).once(),
    ]
}

fn errors() -> Vec<Case> {
    let first = |answer| Plan::first(1, answer);
    let quota = ErrorAnswer { error: ErrorKind::QuotaSpent, status: None, retry_after: Some("3600".to_owned()) };
    vec![
        Case { plan: first(Answer::error(ErrorKind::Internal)), ..Case::new("500 once", Answer::healthy()) },
        Case::new("503 for ever", Answer::error(ErrorKind::Unavailable)),
        Case::new("529 storm", Answer::error(ErrorKind::Overloaded)).once(),
        Case { plan: first(Answer::rate_limited(Some("2"))), ..Case::new("429 once", Answer::healthy()) },
        Case::new("429 for an hour", wrong(Misbehaviour::Error(quota))).once(),
        Case::new("429 without a time", Answer::rate_limited(None)),
        Case::new("429 until nonsense", Answer::rate_limited(Some("-1e9"))),
        Case::new("401", Answer::error(ErrorKind::Authentication)).relayed(401),
        Case::new("403", Answer::error(ErrorKind::Permission)).relayed(403),
        Case::new("400", Answer::error(ErrorKind::InvalidRequest)).relayed(400),
        Case::new("content policy", Answer::error(ErrorKind::ContentPolicy)).relayed(400),
        Case::new("413", Answer::error(ErrorKind::TooLarge)).relayed(413),
        Case::new("context too long", Answer::error(ErrorKind::ContextLength)).once(),
    ]
}

fn silences() -> Vec<Case> {
    let slow_token = Pace { first_token_ms: 20_000, ..Pace::default() };
    let ping_stall = Answer::pings(Point::Tokens(20), 2_000).with_token_interval_ms(15);
    vec![
        Case::new("no headers", wrong(Misbehaviour::NoHeaders)).once().slow(),
        Case::new("headers dribble", wrong(Misbehaviour::HeadersDribble { every_ms: 1_000 })).once().slow(),
        Case::new("headers and silence", Answer::stall(Point::Headers)).once().slow(),
        Case::new("pings only", Answer::pings(Point::Start, 1_000)).once().slow(),
        Case::new("slow first token", Answer::healthy().with_pace(slow_token)).once().slow(),
        Case::new("stall in the text", Answer::stall(Point::Tokens(20)).with_token_interval_ms(15)).once().slow(),
        Case::new("stall with pings", ping_stall).once().slow(),
    ]
}

fn cuts() -> Vec<Case> {
    let cut = |at, how| Answer::cut(at, how).with_token_interval_ms(5);
    let calls = || Reply::calls(vec![Call::new("read_file", "{\"path\":\"a.txt\"}"), Call::new("read_file", "{\"path\":\"b.txt\"}")]);
    let thinking = || Reply::text(SIXTY_WORDS).with_thinking("The user wants to hear of the lamp above the stage door.");
    let in_calls = |at| Answer::saying(calls()).and_wrong(Misbehaviour::Cut { at, how: Ending::Reset });
    let in_thinking = Answer::saying(thinking()).and_wrong(Misbehaviour::Cut { at: Point::ThinkingTokens(5), how: Ending::Reset });
    vec![
        // One more than others: an end on a connection that was kept may have been for want of use, and is no retry.
        Case { attempts_max: 3, ..Case::new("reset before headers", wrong(Misbehaviour::EndBeforeHeaders { how: Ending::Reset })) },
        Case { attempts_max: 3, ..Case::new("close before headers", wrong(Misbehaviour::EndBeforeHeaders { how: Ending::Fin })) },
        Case::new("reset in the text", cut(Point::Tokens(40), Ending::Reset)).once(),
        Case::new("close in the text", cut(Point::Tokens(40), Ending::Fin)).once(),
        Case::new("clean end in the text", cut(Point::Tokens(40), Ending::Clean)).once(),
        Case::new("close in the text, chat", cut(Point::Tokens(40), Ending::Fin)).once().speaking(Dialect::OpenaiChat),
        Case::new("close in the text, responses", cut(Point::Tokens(40), Ending::Fin)).once().speaking(Dialect::OpenaiResponses),
        Case::new("short body", wrong(Misbehaviour::ShortBody { missing_bytes: 100 })).once(),
        Case { expected: Expected::AnsweredOrBrokenOff, ..Case::new("reset in thinking", in_thinking).once() },
        Case::new("reset in arguments", in_calls(Point::Arguments { call: 0, bytes: 11 })).once(),
        Case::new("reset between calls", in_calls(Point::Calls(1))).once(),
        Case::new("cut before the end", cut(Point::BeforeEnd, Ending::Fin)).once(),
        Case::new("no done", cut(Point::BeforeEnd, Ending::Clean)).once().speaking(Dialect::OpenaiChat),
    ]
}

fn streams() -> Vec<Case> {
    let error_event = |at| wrong(Misbehaviour::ErrorEvent { at, error: ErrorKind::Overloaded });
    vec![
        Case::new("overloaded as first event", error_event(Point::Headers)).once(),
        Case::new("overloaded after the start", error_event(Point::Start)).once(),
        Case::new("overloaded in the text", error_event(Point::Tokens(20)).with_token_interval_ms(5)).once(),
        Case::new("a malformed event", wrong(Misbehaviour::MalformedEvents { at: Point::Tokens(9), count: 1 })).once(),
        Case::new("malformed events", wrong(Misbehaviour::MalformedEvents { at: Point::Tokens(9), count: 9 })).once(),
        Case::new("a huge event", wrong(Misbehaviour::HugeEvent { at: Point::Tokens(9), bytes: 64 << 20 })).once(),
        Case::new("a header bomb", wrong(Misbehaviour::HeaderBomb { bytes: 4 << 20 })),
        Case::new("an empty 200", wrong(Misbehaviour::Empty)),
        // An attempt each, and the one that met the closing connection.
        Case { asks_twice: true, attempts_max: 3, ..Case::new("closes as it is used again", wrong(Misbehaviour::CloseOnReuse)) },
    ]
}

/// After these a host is left in peace for a while.
fn hosts() -> Vec<Case> {
    vec![
        Case::new("502 page", wrong(Misbehaviour::Page { status: 502 })),
        Case::new("captive portal", wrong(Misbehaviour::Page { status: 200 })),
        Case::new("redirect loop", wrong(Misbehaviour::Redirect)),
        Case {
            is_unreachable: true,
            plan: Plan::healthy().then(Rule::named("refused", wrong(Misbehaviour::Refuse))),
            ..Case::new("refused", Answer::healthy())
        },
    ]
}
