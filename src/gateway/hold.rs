//! Events held back until the reply has content: until then nothing has been promised, and another may answer instead.
#![deny(clippy::disallowed_methods)]

use bytes::Bytes;

use super::tap::Told;

/// What may be held; then it is given out, whatever it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoldLimits {
    pub events_max: usize,
    pub bytes_max: usize,
}

impl Default for HoldLimits {
    fn default() -> Self {
        Self { events_max: 64, bytes_max: 256 << 10 }
    }
}

/// Of one stream, until its commit.
#[derive(Debug)]
pub struct Hold {
    limits: HoldLimits,
    events: Vec<Bytes>,
    bytes: usize,
    is_committed: bool,
}

impl Hold {
    pub fn new(limits: HoldLimits) -> Self {
        Self { limits, events: Vec::new(), bytes: 0, is_committed: false }
    }

    /// Whether something has been given out. Then events need not come here any more.
    pub fn is_committed(&self) -> bool {
        self.is_committed
    }

    /// An event, and what the tap made of it. All that is held, this event included, once that is to be given out.
    pub fn push(&mut self, raw: Bytes, told: &Told) -> Option<Vec<Bytes>> {
        match told {
            // An error is for the gateway to answer, and what is no JSON for nobody.
            Told::Error { .. } | Told::Malformed => return None,
            _ => {}
        }
        self.bytes += raw.len();
        self.events.push(raw);
        let is_full = self.events.len() >= self.limits.events_max || self.bytes >= self.limits.bytes_max;
        let is_due = self.is_committed || is_full || matches!(told, Told::Content(_) | Told::Terminal);
        is_due.then(|| self.commit())
    }

    /// Gives out what is held.
    pub fn commit(&mut self) -> Vec<Bytes> {
        self.is_committed = true;
        self.bytes = 0;
        std::mem::take(&mut self.events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::fault::Fault;
    use crate::gateway::tap::ContentKind;

    fn bytes(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn content_brings_out_what_came_before_it_in_order() {
        let mut hold = Hold::new(HoldLimits::default());
        assert_eq!(hold.push(bytes("start"), &Told::Preamble), None);
        assert_eq!(hold.push(bytes("ping"), &Told::Ping), None);
        assert_eq!(hold.push(bytes("garbage"), &Told::Malformed), None);
        assert!(!hold.is_committed());
        let all = hold.push(bytes("word"), &Told::Content(ContentKind::Text));
        assert_eq!(all, Some(vec![bytes("start"), bytes("ping"), bytes("word")]));
        assert!(hold.is_committed());
        assert_eq!(hold.push(bytes("ping"), &Told::Ping), Some(vec![bytes("ping")]), "after the commit nothing is held");
    }

    #[test]
    fn an_error_brings_nothing_out() {
        let mut hold = Hold::new(HoldLimits::default());
        hold.push(bytes("start"), &Told::Preamble);
        let error = Told::Error { fault: Fault::Overloaded, retry_after: None };
        assert_eq!(hold.push(bytes("error"), &error), None);
        assert!(!hold.is_committed());
    }

    #[test]
    fn the_end_of_an_empty_reply_is_given_out() {
        let mut hold = Hold::new(HoldLimits::default());
        hold.push(bytes("start"), &Told::Preamble);
        assert_eq!(hold.push(bytes("stop"), &Told::Terminal), Some(vec![bytes("start"), bytes("stop")]));
    }

    #[test]
    fn no_more_is_held_than_the_limits_say() {
        let mut hold = Hold::new(HoldLimits { events_max: 3, bytes_max: 1000 });
        assert_eq!(hold.push(bytes("1"), &Told::Ping), None);
        assert_eq!(hold.push(bytes("2"), &Told::Ping), None);
        assert_eq!(hold.push(bytes("3"), &Told::Ping).map(|all| all.len()), Some(3));
        let mut hold = Hold::new(HoldLimits { events_max: 100, bytes_max: 10 });
        assert_eq!(hold.push(bytes("123456789"), &Told::Ping), None);
        assert_eq!(hold.push(bytes("0"), &Told::Ping).map(|all| all.len()), Some(2));
    }
}
