//! One circuit breaker: closed forwards, open refuses, half-open lets one request through and waits for what becomes of it.
//!
//! Knows one scope and nothing of the others; what a reply says about it is decided by who owns it.

use std::time::Duration;

use super::super::fault::Fault;
use super::window::Window;
use super::{BreakerConfig, ProbeId};

#[derive(Debug, Clone, PartialEq)]
pub struct Breaker {
    pub state: State,
    window: Window,
    failures_in_a_row: u32,
    /// Openings since it was last closed.
    openings: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum State {
    Closed,
    Open(Opened),
    HalfOpen { opened: Opened, probe: Option<Probe>, successes: u32, whole_stream: bool },
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Opened {
    /// Why it opened the last time.
    pub fault: Fault,
    /// When it left `Closed`.
    pub since: Duration,
    /// When it opened the last time.
    pub at: Duration,
    /// End of the cooldown.
    pub until: Duration,
    /// What the upstream itself asked to wait for; nothing makes `until` earlier than this.
    pub floor: Duration,
}

/// The one request that is let through.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Probe {
    pub id: ProbeId,
    /// Who has not reported by then never will.
    pub deadline: Duration,
}

/// What else has to be so before a request may probe.
#[derive(Debug, Clone, Copy)]
pub struct Gate {
    /// The host answers those who ask for nothing.
    pub edge_alive: bool,
    /// The conversation may change its speaker now.
    pub may_return: bool,
    /// Somebody said `cloud`, and is to have it.
    pub forced: bool,
}

/// What a request meets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Door {
    Pass,
    Probe,
    Shut {
        fault: Fault,
        /// `None`: not a matter of time alone.
        until: Option<Duration>,
    },
}

/// What became of a request, as far as it speaks about this scope.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Evidence {
    Success {
        whole_stream: bool,
    },
    Failure {
        fault: Fault,
        /// As the upstream asked, capped.
        retry_after: Option<Duration>,
    },
    /// Counts in the window and opens nothing by itself: a rate limit, or an attempt that is repeated.
    Soft {
        fault: Fault,
    },
    /// Says nothing while closed, and is no recovery either.
    ProbeFailure {
        fault: Fault,
        retry_after: Option<Duration>,
    },
    Nothing,
}

/// What an opening needs beside the fault.
#[derive(Debug, Clone, Copy)]
pub struct Moment<'a> {
    pub now: Duration,
    pub config: &'a BreakerConfig,
    /// Around 1.
    pub jitter: f64,
}

impl Breaker {
    pub fn new(config: &BreakerConfig) -> Self {
        Self { state: State::Closed, window: Window::new(config.window), failures_in_a_row: 0, openings: 0 }
    }

    pub fn door(&self, gate: Gate, now: Duration) -> Door {
        let (opened, begun) = match self.state {
            State::Closed => return Door::Pass,
            State::Open(opened) => (opened, false),
            State::HalfOpen { opened, probe, successes, .. } => match probe.filter(|probe| now < probe.deadline) {
                Some(_) if gate.forced => return Door::Pass,
                Some(_) => return Door::Shut { fault: opened.fault, until: None },
                None => (opened, successes > 0),
            },
        };
        if gate.forced {
            Door::Probe
        } else if now < opened.until {
            Door::Shut { fault: opened.fault, until: Some(opened.until) }
        } else if gate.edge_alive && (gate.may_return || begun) {
            Door::Probe
        } else {
            Door::Shut { fault: opened.fault, until: None }
        }
    }

    /// What [`Door::Probe`] offered is taken.
    pub fn begin_probe(&mut self, begun: Probe) {
        self.state = match self.state {
            State::Closed => State::Closed,
            State::Open(opened) => State::HalfOpen { opened, probe: Some(begun), successes: 0, whole_stream: false },
            State::HalfOpen { opened, successes, whole_stream, .. } => {
                State::HalfOpen { opened, probe: Some(begun), successes, whole_stream }
            }
        };
    }

    /// `reporter`: the probe that reports; `None`: a request that needed none.
    pub fn hear(&mut self, evidence: Evidence, reporter: Option<ProbeId>, moment: Moment<'_>) {
        match self.state {
            State::Closed => self.hear_closed(evidence, moment),
            // A request of before the opening: what it says is old, but for what the upstream asks.
            State::Open(opened) => self.state = State::Open(with_floor(opened, evidence, moment)),
            State::HalfOpen { opened, probe, successes, whole_stream } => {
                if probe.is_some_and(|probe| Some(probe.id) == reporter) {
                    self.hear_probe(evidence, opened, (successes, whole_stream), moment);
                } else {
                    // The probe stays the only one, whoever else comes late.
                    let opened = with_floor(opened, evidence, moment);
                    self.state = State::HalfOpen { opened, probe, successes, whole_stream };
                }
            }
        }
    }

    /// The host answers again: there is no reason to wait any longer than it asked for.
    pub fn edge_came_back(&mut self, now: Duration) {
        if let State::Open(opened) = &mut self.state {
            opened.until = opened.until.min(now.max(opened.floor));
        }
    }

    fn hear_closed(&mut self, evidence: Evidence, moment: Moment<'_>) {
        let config = moment.config;
        match evidence {
            Evidence::Success { .. } => {
                self.failures_in_a_row = 0;
                self.window.good(moment.now);
            }
            Evidence::Failure { fault, retry_after } => {
                self.window.bad(moment.now);
                self.failures_in_a_row += 1;
                let told_to_wait = retry_after.is_some_and(|after| after > config.retry_after_sat_out);
                let in_a_row = self.failures_in_a_row >= config.failures_in_a_row;
                if in_a_row || told_to_wait || fault == Fault::QuotaSpent || self.window_is_bad(moment) {
                    self.open(fault, retry_after, None, moment);
                }
            }
            Evidence::Soft { fault } => {
                self.window.bad(moment.now);
                if self.window_is_bad(moment) {
                    self.open(fault, None, None, moment);
                }
            }
            Evidence::ProbeFailure { .. } | Evidence::Nothing => {}
        }
    }

    fn hear_probe(&mut self, evidence: Evidence, opened: Opened, so_far: (u32, bool), moment: Moment<'_>) {
        let (successes, whole_stream) = so_far;
        let freed = |successes, whole_stream| State::HalfOpen { opened, probe: None, successes, whole_stream };
        match evidence {
            Evidence::Success { whole_stream: whole } => {
                let (successes, whole_stream) = (successes + 1, whole_stream || whole);
                // Somebody else may have been asked to wait meanwhile.
                let may_close = moment.now >= opened.floor;
                if successes >= moment.config.successes_to_close && whole_stream && may_close {
                    *self = Self::new(moment.config);
                } else {
                    self.state = freed(successes, whole_stream);
                }
            }
            Evidence::Failure { fault, retry_after } | Evidence::ProbeFailure { fault, retry_after } => {
                self.open(fault, retry_after, Some(opened), moment);
            }
            Evidence::Soft { fault } => self.open(fault, None, Some(opened), moment),
            Evidence::Nothing => self.state = freed(successes, whole_stream),
        }
    }

    /// `before`: what it was before the probe that failed.
    fn open(&mut self, fault: Fault, retry_after: Option<Duration>, before: Option<Opened>, moment: Moment<'_>) {
        let Moment { now, config, jitter } = moment;
        let cooldown = config.cooldown(fault, self.openings).mul_f64(jitter);
        let since = before.map_or(now, |before| before.since);
        let floor = (now + retry_after.unwrap_or_default()).max(before.map_or(now, |before| before.floor));
        self.state = State::Open(Opened { fault, since, at: now, until: floor.max(now + cooldown), floor });
        self.openings = self.openings.saturating_add(1);
        self.failures_in_a_row = 0;
        self.window.clear();
    }

    fn window_is_bad(&self, moment: Moment<'_>) -> bool {
        let counts = self.window.counts(moment.now);
        let all = counts.good + counts.bad;
        all >= moment.config.window_requests_min && f64::from(counts.bad) >= moment.config.window_failure_share * f64::from(all)
    }
}

fn with_floor(opened: Opened, evidence: Evidence, moment: Moment<'_>) -> Opened {
    let (Evidence::Failure { retry_after, .. } | Evidence::ProbeFailure { retry_after, .. }) = evidence else { return opened };
    let floor = opened.floor.max(moment.now + retry_after.unwrap_or_default());
    Opened { floor, until: opened.until.max(floor), ..opened }
}
