//! Decides which tier a conversation may ask with this turn, and remembers who has spoken in it.
//!
//! Away from a tier that fails at any time; back to a better one only where a person has spoken, so that no tool loop changes its head in
//! the middle, and later each time where the upstream comes and goes.
#![deny(clippy::disallowed_methods)]

mod human_turn;

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use serde_json::Value;

use super::headers::Headers;
use super::lru::Lru;
use super::protocol::Protocol;
pub use human_turn::is_human_turn;

/// Its place in the order of tiers: 0 is who is asked first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Tier(pub usize);

/// A conversation, by a hash: its text is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionKey(pub u64);

#[derive(Debug, Clone, PartialEq)]
pub struct SessionConfig {
    /// Silence of this length ends a tool loop: whoever comes back then finds no cache anyway.
    pub idle: Duration,
    /// So many switches within `flap_window` are flapping.
    pub flap_switches: usize,
    /// A stay of this length with the better tier is calm.
    pub flap_window: Duration,
    /// How long a flapping upstream is left alone after a switch; doubles while it goes on.
    pub dwell_first: Duration,
    pub dwell_max: Duration,
    pub sessions_max: usize,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(60),
            flap_switches: 3,
            flap_window: Duration::from_secs(600),
            dwell_first: Duration::from_secs(60),
            dwell_max: Duration::from_secs(600),
            sessions_max: 1024,
        }
    }
}

impl SessionConfig {
    /// All times divided: for tests with sockets.
    pub fn scaled(self, divisor: u32) -> Self {
        Self {
            idle: self.idle / divisor,
            flap_window: self.flap_window / divisor,
            dwell_first: self.dwell_first / divisor,
            dwell_max: self.dwell_max / divisor,
            ..self
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// [`is_human_turn`].
    pub human: bool,
}

/// What a turn may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// The first tier that it may ask; the others follow in their order.
    pub first: Tier,
    /// Whether this turn may begin to probe a tier that was away.
    pub may_return: bool,
}

/// Who wrote a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spoken {
    /// A message has one name on it: who began it.
    pub began: Tier,
    /// Another one after a takeover.
    pub ended: Tier,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    None,
    Away { from: Tier, to: Tier },
    Back { from: Tier, to: Tier },
}

/// What is known of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spoke {
    pub last: Spoken,
    /// When the tier changed the last time.
    pub since: Duration,
    pub notice_due: bool,
}

#[derive(Debug)]
pub struct Sessions {
    config: SessionConfig,
    sessions: Lru<SessionKey, Session>,
}

#[derive(Debug)]
struct Session {
    last: Option<Spoken>,
    since: Duration,
    used: Duration,
    notice_due: bool,
    /// The last few.
    switches: VecDeque<Duration>,
    /// While it flaps.
    dwell: Option<Duration>,
}

impl Sessions {
    pub fn new(config: SessionConfig) -> Self {
        Self { sessions: Lru::new(config.sessions_max), config }
    }

    /// Asked with each request, before any upstream is.
    pub fn decide(&mut self, key: SessionKey, turn: Turn, now: Duration) -> Decision {
        let session = self.sessions.get_or_insert_with(&key, || Session::new(now));
        let idle = now.saturating_sub(session.used) >= self.config.idle;
        session.used = now;
        let Some(last) = session.last else { return Decision { first: Tier(0), may_return: true } };
        let rested = last.ended == Tier(0) || session.dwell.is_none_or(|dwell| now >= session.since + dwell);
        if (turn.human || idle) && rested {
            Decision { first: Tier(0), may_return: true }
        } else {
            Decision { first: last.ended, may_return: false }
        }
    }

    /// Told with each reply, once something of it was shown, or again where another tier ends it.
    pub fn spoke(&mut self, key: SessionKey, spoken: Spoken, now: Duration) -> Switch {
        let config = &self.config;
        let session = self.sessions.get_or_insert_with(&key, || Session::new(now));
        session.used = now;
        // A new conversation expects the first tier.
        let from = session.last.map_or(Tier(0), |last| last.ended);
        let to = spoken.ended;
        session.last = Some(spoken);
        if from == to {
            return Switch::None;
        }
        let calm = now.saturating_sub(session.since) >= config.flap_window;
        session.since = now;
        session.switches.retain(|at| now < *at + config.flap_window);
        if session.switches.len() == config.flap_switches {
            session.switches.pop_front();
        }
        session.switches.push_back(now);
        if to < from {
            session.notice_due = false;
            return Switch::Back { from, to };
        }
        session.notice_due = true;
        let flaps = session.switches.len() >= config.flap_switches;
        session.dwell = match session.dwell {
            _ if calm => None,
            Some(dwell) => Some((dwell * 2).min(config.dwell_max)),
            None => flaps.then_some(config.dwell_first),
        };
        Switch::Away { from, to }
    }

    /// Whether the next text is to open with the notice of who speaks; once a switch. Asked only for text that may carry one.
    pub fn take_notice(&mut self, key: SessionKey) -> bool {
        self.sessions.get_mut(&key).is_some_and(|session| std::mem::take(&mut session.notice_due))
    }

    pub fn last(&self, key: SessionKey) -> Option<Spoke> {
        let session = self.sessions.peek(&key)?;
        session.last.map(|last| Spoke { last, since: session.since, notice_due: session.notice_due })
    }
}

impl Session {
    fn new(now: Duration) -> Self {
        Self { last: None, since: now, used: now, notice_due: false, switches: VecDeque::new(), dwell: None }
    }
}

/// Headers by which clients name a conversation; those of one line belong together.
const SESSION_HEADERS: &[&[&str]] = &[
    &["x-claude-code-session-id", "x-claude-code-agent-id"],
    &["session-id", "thread-id"],
    &["session_id", "conversation_id"],
    &["x-session-id"],
];

/// What the client calls it; else its system prompt and the first words in it, which every request repeats.
pub fn session_key<H: Headers + ?Sized>(headers: &H, protocol: Protocol, body: &Value) -> SessionKey {
    let mut hasher = DefaultHasher::new();
    let named = SESSION_HEADERS.iter().find(|names| headers.value(names[0]).is_some());
    if let Some(names) = named {
        names.iter().for_each(|name| headers.value(name).hash(&mut hasher));
    } else if let Some(name) = body["prompt_cache_key"].as_str().filter(|_| protocol == Protocol::OpenAiResponses) {
        name.hash(&mut hasher);
    } else {
        opening(protocol, body).hash(&mut hasher);
    }
    SessionKey(hasher.finish())
}

/// Everything up to the first words of the user, as text: `"x"` and `[{"type": "text", "text": "x"}]` are one, and cache marks are nothing.
fn opening(protocol: Protocol, body: &Value) -> String {
    let (system, messages) = match protocol {
        Protocol::AnthropicMessages => (&body["system"], &body["messages"]),
        Protocol::OpenAiChat => (&Value::Null, &body["messages"]),
        Protocol::OpenAiCompletions => (&Value::Null, &body["prompt"]),
        Protocol::OpenAiResponses => (&body["instructions"], &body["input"]),
    };
    let mut text = String::new();
    push_text(system, &mut text);
    if messages.is_string() {
        push_text(messages, &mut text);
    }
    for message in messages.as_array().into_iter().flatten() {
        push_text(&message["content"], &mut text);
        if message["role"] == "user" {
            break;
        }
    }
    text
}

fn push_text(content: &Value, text: &mut String) {
    let parts = content.as_array().into_iter().flatten().filter_map(|part| part["text"].as_str());
    for part in content.as_str().into_iter().chain(parts) {
        text.push_str(part);
        text.push('\0');
    }
}
