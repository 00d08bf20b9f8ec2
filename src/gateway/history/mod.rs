//! Prepares a conversation that goes up to a cloud: what this machine thought, and what another upstream did, stays here, and so does the
//! line that told the user who speaks.
//!
//! Nothing else changes, not by a byte: caches of prompts and signatures depend on the bytes. A body is cut, never written anew, and where
//! there is nothing to cut it is the same body.
#![deny(clippy::disallowed_methods)]

mod ledger;
mod spans;

use std::borrow::Cow;
use std::ops::Range;

use serde_json::value::RawValue;

use super::tap::Protocol;
pub use ledger::{Author, Ledger};
use spans::{Members, cut_elements, elements, offset, text_of, without};

/// Thinking of this machine is signed with this and a hash.
pub const LOCAL_SIGNATURE_PREFIX: &str = "understudy-";

/// Where a body goes, and what must not go there.
#[derive(Debug, Clone, Copy)]
pub struct Departure<'a> {
    pub protocol: Protocol,
    pub upstream: usize,
    pub ledger: &'a Ledger,
    /// The line that a local answer opens with.
    pub notice: Option<&'a str>,
    pub unknown: UnknownThinking,
}

/// What becomes of thinking of which nobody here knows whose it is: it is older than the ledger, or was never seen.
///
/// An upstream refuses a conversation with another's signature, and one in the middle of its tool calls without its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownThinking {
    Keep,
    Remove,
}

/// A body that can go up.
#[derive(Debug, PartialEq, Eq)]
pub struct Prepared<'a> {
    pub body: Cow<'a, [u8]>,
    pub thoughts_removed: usize,
    pub notices_removed: usize,
}

/// As the local dialect of Anthropic's messages signs what the local model thought.
pub fn local_signature(thoughts: &str) -> String {
    format!("{LOCAL_SIGNATURE_PREFIX}{}", &blake3::hash(thoughts.as_bytes()).to_hex()[..32])
}

/// A body that is no JSON, or not of this protocol, is left for the upstream to refuse.
pub fn prepare<'a>(body: &'a [u8], departure: &Departure<'_>) -> Prepared<'a> {
    let unchanged = Prepared { body: Cow::Borrowed(body), thoughts_removed: 0, notices_removed: 0 };
    let Ok(text) = std::str::from_utf8(body) else { return unchanged };
    let mut editor = Editor { departure, text, cuts: Vec::new(), thoughts_removed: 0, notices_removed: 0 };
    if editor.conversation().is_none() || editor.cuts.is_empty() {
        return unchanged;
    }
    let Editor { cuts, thoughts_removed, notices_removed, .. } = editor;
    Prepared { body: Cow::Owned(without(body, cuts)), thoughts_removed, notices_removed }
}

struct Editor<'a> {
    departure: &'a Departure<'a>,
    text: &'a str,
    cuts: Vec<Range<usize>>,
    thoughts_removed: usize,
    notices_removed: usize,
}

/// What becomes of a part of the conversation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// As it is, or with less in it.
    Stays,
    /// Nothing of it is left.
    Goes,
}

impl<'a> Editor<'a> {
    fn conversation(&mut self) -> Option<()> {
        let body: Members<'a> = serde_json::from_str(self.text).ok()?;
        let field = if self.departure.protocol == Protocol::OpenAiResponses { "input" } else { "messages" };
        let messages = elements(body.get(field)?)?;
        let fates: Vec<Fate> = messages.iter().map(|message| self.message(message)).collect();
        self.cut(&messages, &fates);
        Some(())
    }

    /// A message, or an item of a response.
    fn message(&mut self, message: &'a RawValue) -> Fate {
        let Ok(members) = serde_json::from_str::<Members<'a>>(message.get()) else { return Fate::Stays };
        if self.departure.protocol == Protocol::OpenAiResponses && members.text("type").is_some_and(|kind| kind == "reasoning") {
            let proof = members.text("encrypted_content").or_else(|| members.text("id"));
            return self.thinking(proof.as_deref().unwrap_or_default());
        }
        if members.text("role").is_none_or(|role| role != "assistant") {
            return Fate::Stays;
        }
        let cuts_before = self.cuts.len();
        let content = members.get("content").map_or(Fate::Goes, |content| self.content(content));
        if self.departure.protocol == Protocol::OpenAiChat {
            self.thoughts_of_chat(&members);
        }
        let removed = members.get("content").filter(|words| content == Fate::Goes && words.get() != "null");
        let was_changed = self.cuts.len() > cuts_before || removed.is_some();
        if !was_changed || content == Fate::Stays {
            return Fate::Stays;
        }
        let has = |field: &&str| members.get(field).is_some_and(|value| value.get() != "null");
        if ["tool_calls", "function_call", "refusal"].iter().any(has) {
            // The content is emptied: `""` or `[]`.
            let inside = removed.map(|words| self.span(words)).map(|span| span.start + 1..span.end - 1);
            self.cuts.extend(inside.filter(|inside| !inside.is_empty()));
            return Fate::Stays;
        }
        self.cuts.truncate(cuts_before);
        Fate::Goes
    }

    fn content(&mut self, content: &'a RawValue) -> Fate {
        if content.get() == "null" {
            return Fate::Goes;
        }
        let Some(blocks) = elements(content) else { return self.words(content) };
        let fates: Vec<Fate> = blocks.iter().map(|block| self.block(block)).collect();
        if !blocks.is_empty() && fates.iter().all(|fate| *fate == Fate::Goes) {
            return Fate::Goes;
        }
        self.cut(&blocks, &fates);
        Fate::Stays
    }

    fn block(&mut self, block: &'a RawValue) -> Fate {
        let Ok(members) = serde_json::from_str::<Members<'a>>(block.get()) else { return Fate::Stays };
        match members.text("type").as_deref() {
            Some("thinking") => self.thinking(members.text("signature").as_deref().unwrap_or_default()),
            Some("redacted_thinking") => self.thinking(members.text("data").as_deref().unwrap_or_default()),
            Some("text" | "output_text") => members.get("text").map_or(Fate::Stays, |text| self.words(text)),
            _ => Fate::Stays,
        }
    }

    fn thinking(&mut self, proof: &str) -> Fate {
        if self.may_go_up(proof) {
            return Fate::Stays;
        }
        self.thoughts_removed += 1;
        Fate::Goes
    }

    fn may_go_up(&self, proof: &str) -> bool {
        let is_local = proof.is_empty() || proof.starts_with(LOCAL_SIGNATURE_PREFIX) || self.is_local_item(proof);
        match self.departure.ledger.author_of(proof) {
            _ if is_local => false,
            Some(author) => author == Author::Upstream(self.departure.upstream),
            None => self.departure.unknown == UnknownThinking::Keep,
        }
    }

    /// Ids of this machine's items end with their place in the response, `rs_NAME_0`; a cloud's are one word.
    fn is_local_item(&self, id: &str) -> bool {
        let place = id.strip_prefix("rs_").and_then(|id| id.split_once('_')).map(|(_, place)| place);
        self.departure.protocol == Protocol::OpenAiResponses
            && place.is_some_and(|place| !place.is_empty() && place.bytes().all(|byte| byte.is_ascii_digit()))
    }

    /// Thoughts in a field beside the content.
    fn thoughts_of_chat(&mut self, members: &Members<'a>) {
        let fate = |name: &str, value: &RawValue| {
            let thoughts = matches!(name, "reasoning_content" | "reasoning").then(|| text_of(value)).flatten()?;
            (!thoughts.is_empty() && !self.may_go_up(&thoughts)).then_some(Fate::Goes)
        };
        let fates: Vec<Fate> = members.iter().map(|(name, value)| fate(name, value).unwrap_or(Fate::Stays)).collect();
        self.thoughts_removed += fates.iter().filter(|fate| **fate == Fate::Goes).count();
        let spans: Vec<Range<usize>> = members.iter().map(|(_, value)| spans::member(self.text, value)).collect();
        cut_elements(&spans, |at| fates[at] == Fate::Goes, &mut self.cuts);
    }

    /// A text that may open with the notice.
    fn words(&mut self, text: &'a RawValue) -> Fate {
        let Some(length) = self.departure.notice.and_then(|notice| spans::opening(text.get(), notice.trim_ascii_end())) else {
            return Fate::Stays;
        };
        self.notices_removed += 1;
        // All but the two quotes.
        if length + 2 == text.get().len() {
            return Fate::Goes;
        }
        let start = offset(self.text, text.get()) + 1;
        self.cuts.push(start..start + length);
        Fate::Stays
    }

    fn cut(&mut self, values: &[&'a RawValue], fates: &[Fate]) {
        let spans: Vec<Range<usize>> = values.iter().map(|value| self.span(value)).collect();
        cut_elements(&spans, |at| fates[at] == Fate::Goes, &mut self.cuts);
    }

    fn span(&self, value: &RawValue) -> Range<usize> {
        let start = offset(self.text, value.get());
        start..start + value.get().len()
    }
}
