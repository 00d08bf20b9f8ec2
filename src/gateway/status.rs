//! Who speaks, and how the upstreams are: for a status bar, a page, a script.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Who is to be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Use {
    /// Upstreams while they are well, else the local model.
    #[default]
    Auto,
    /// Upstreams only, whatever their state.
    Cloud,
    /// The local model only.
    Local,
}

/// The front door at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    #[serde(rename = "use")]
    pub mode: Use,
    /// In the order in which they are asked.
    pub upstreams: Vec<UpstreamStatus>,
    /// `None`: no local model answers, or it is still loading.
    pub local_model: Option<String>,
    /// Replies that the local model gave in an upstream's place since the start.
    pub local_turns: u64,
    /// Of these, replies that an upstream had begun.
    pub takeovers: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UpstreamStatus {
    pub name: String,
    pub state: State,
    /// How long it has been so.
    pub for_s: u64,
    /// What was last wrong with it, while it is not well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// When it is tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_try_in_s: Option<u64>,
}

/// Of a circuit breaker, in words for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Well,
    /// Its breaker is open.
    Down,
    /// It is being tried again.
    Trying,
}

impl Status {
    /// Who would answer a request now, as far as breakers tell.
    pub fn speaker(&self) -> Option<&str> {
        let well = || self.upstreams.iter().find(|upstream| upstream.state != State::Down);
        match self.mode {
            Use::Local => self.local_model.as_deref(),
            Use::Cloud => self.upstreams.first().map(|upstream| upstream.name.as_str()),
            Use::Auto => well().map(|upstream| upstream.name.as_str()).or(self.local_model.as_deref()),
        }
    }
}

/// One line, fit for a status bar.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_local = self.speaker().is_some() && self.speaker() == self.local_model.as_deref();
        match self.speaker() {
            Some(speaker) if is_local => write!(f, "local: {speaker}")?,
            Some(speaker) => write!(f, "cloud: {speaker}")?,
            None => f.write_str("nobody answers")?,
        }
        if self.mode != Use::Auto {
            f.write_str(" (told to)")?;
        }
        for upstream in self.upstreams.iter().filter(|upstream| upstream.state != State::Well) {
            let what = if upstream.state == State::Down { "down" } else { "tried again" };
            write!(f, "; {} {what} for {}", upstream.name, Seconds(upstream.for_s))?;
            if let Some(fault) = &upstream.fault {
                write!(f, " ({})", fault.replace('_', " "))?;
            }
            if let Some(seconds) = upstream.next_try_in_s {
                write!(f, ", next try in {}", Seconds(seconds))?;
            }
        }
        Ok(())
    }
}

/// A length of time, coarse.
struct Seconds(u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            seconds @ ..120 => write!(f, "{seconds} s"),
            seconds @ ..7_200 => write!(f, "{} min", seconds / 60),
            seconds => write!(f, "{} h {} min", seconds / 3_600, seconds / 60 % 60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(mode: Use, states: &[(&str, State)]) -> Status {
        let upstreams = states.iter().map(|(name, state)| UpstreamStatus {
            name: (*name).to_owned(),
            state: *state,
            for_s: 200,
            fault: (*state != State::Well).then(|| "first_content_limit".to_owned()),
            next_try_in_s: (*state == State::Down).then_some(12),
        });
        Status { mode, upstreams: upstreams.collect(), local_model: Some("qwen".to_owned()), local_turns: 0, takeovers: 0 }
    }

    #[test]
    fn one_line() {
        assert_eq!(status(Use::Auto, &[("claude", State::Well)]).to_string(), "cloud: claude");
        assert_eq!(
            status(Use::Auto, &[("claude", State::Down)]).to_string(),
            "local: qwen; claude down for 3 min (first content limit), next try in 12 s"
        );
        assert_eq!(
            status(Use::Auto, &[("claude", State::Down), ("gpt", State::Well)]).to_string(),
            "cloud: gpt; claude down for 3 min (first content limit), next try in 12 s"
        );
        assert_eq!(status(Use::Local, &[("claude", State::Well)]).to_string(), "local: qwen (told to)");
        assert_eq!(
            status(Use::Cloud, &[("claude", State::Trying)]).to_string(),
            "cloud: claude (told to); claude tried again for 3 min (first content limit)"
        );
        let nobody = Status { local_model: None, ..status(Use::Auto, &[("claude", State::Down)]) };
        assert!(nobody.to_string().starts_with("nobody answers; claude down"));
        assert_eq!((Seconds(7_300).to_string(), Seconds(119).to_string()), ("2 h 1 min".to_owned(), "119 s".to_owned()));
    }

    #[test]
    fn it_survives_the_wire() {
        let status = status(Use::Cloud, &[("claude", State::Down), ("gpt", State::Well)]);
        let json = serde_json::to_string(&status).unwrap();
        assert!(json.starts_with(r#"{"use":"cloud","upstreams":[{"name":"claude","state":"down""#), "{json}");
        assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status);
    }
}
