//! The lines of the journal: what happened, to whom, why, on what evidence. Pure; written by the front door, read by the report.

use serde::{Deserialize, Serialize};

/// One line. No words of anybody's conversation stand in it, and no key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    pub at_unix_ms: u64,
    #[serde(flatten)]
    pub event: Event,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A server began to write here. What it says of outages that were open before is nothing.
    Started { version: String },
    /// An upstream is not asked any more.
    OutageBegin {
        upstream: String,
        reason: String,
        #[serde(flatten)]
        evidence: Evidence,
    },
    /// It is asked again.
    OutageEnd { upstream: String },
    /// It was tried whether it is well: with somebody's request, or at its edge for nothing.
    Probe { upstream: String, kind: ProbeKind, well: bool, took_ms: u64 },
    /// A conversation goes on with somebody else, between two replies.
    Switch {
        from: String,
        to: String,
        reason: String,
        /// From when the fault could be seen to the first word of who answers instead.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after_ms: Option<u64>,
        #[serde(flatten)]
        evidence: Evidence,
    },
    /// Somebody else goes on in the middle of a reply.
    Takeover {
        upstream: String,
        reason: String,
        /// Another cloud that went on; `None`: the local model did, or nobody.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
        /// `false`: nobody could, and the client was told so.
        saved: bool,
        /// From when the fault could be seen to the next word.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after_ms: Option<u64>,
        #[serde(flatten)]
        evidence: Evidence,
    },
    /// A conversation is back with an upstream that it had left.
    Return { upstream: String },
    /// The outcomes of a minute, or of the part of one that a server ran.
    Minute {
        upstream: String,
        #[serde(flatten)]
        counts: Counts,
    },
    /// Lines that could not be written: nobody waits for a disk.
    Dropped { lines: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeKind {
    Request,
    Edge,
}

/// What the upstream itself said, for the letter to its support.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// Outcomes of requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Answered to their end.
    pub good: u64,
    /// 5xx, 529, a limit, a cut.
    pub bad: u64,
    /// The client's own faults, and clients that left: they say nothing of the upstream.
    pub clients: u64,
    /// Turns that somebody else answered because of this upstream.
    pub saved: u64,
}

/// What a request adds to the counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Good,
    Bad,
    Clients,
    Saved,
}

impl Counts {
    pub fn add(&mut self, other: Self) {
        self.good += other.good;
        self.bad += other.bad;
        self.clients += other.clients;
        self.saved += other.saved;
    }

    /// Good among good and bad; `None` where nobody asked.
    pub fn availability(&self) -> Option<f64> {
        let judged = self.good + self.bad;
        (judged > 0).then(|| self.good as f64 / judged as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_survive_the_file() {
        let evidence = Evidence { status: Some(529), request_id: Some("req_1".into()) };
        let (upstream, reason) = (|| "claude".to_owned(), || "overloaded".to_owned());
        for (event, text) in [
            (Event::Started { version: "1".into() }, r#"{"at_unix_ms":7,"event":"started","version":"1"}"#),
            (
                Event::OutageBegin { upstream: upstream(), reason: reason(), evidence: evidence.clone() },
                r#"{"at_unix_ms":7,"event":"outage_begin","upstream":"claude","reason":"overloaded","status":529,"request_id":"req_1"}"#,
            ),
            (
                Event::Switch { from: upstream(), to: "local".into(), reason: reason(), after_ms: None, evidence: Evidence::default() },
                r#"{"at_unix_ms":7,"event":"switch","from":"claude","to":"local","reason":"overloaded"}"#,
            ),
            (
                Event::Minute { upstream: upstream(), counts: Counts { good: 3, bad: 1, clients: 0, saved: 1 } },
                r#"{"at_unix_ms":7,"event":"minute","upstream":"claude","good":3,"bad":1,"clients":0,"saved":1}"#,
            ),
        ] {
            let line = Line { at_unix_ms: 7, event };
            assert_eq!(serde_json::to_string(&line).unwrap(), text);
            assert_eq!(serde_json::from_str::<Line>(text).unwrap(), line);
        }
    }
}
