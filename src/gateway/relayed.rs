//! A stream after its commit: whole events go to the client as they came, one write each; timers and the tap watch beside; and when the
//! upstream breaks off, what the client has is handed over.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::attempt::{Committed, Reading};
use super::door::{Client, Gateway};
use super::fault::Fault;
use super::limits::{self, Progress};
use super::passage::Passage;
use super::sse_splitter::SseEvent;
use super::takeover::{self, Cut, Takeover};
use super::tap::{ContentKind, Seen, Told};
use super::upstream::Reply;
use crate::chat::begun::BegunReply;

/// How long the end of a connection is waited for after the last event, so that it can be used again.
const END_LIMIT: Duration = Duration::from_secs(1);
/// Of a token, roughly: only a speed is made of it. An event has one at least.
const BYTES_PER_TOKEN: f64 = 4.0;

/// What comes next.
#[derive(Debug)]
pub enum Step {
    /// For the client, as they are.
    Bytes(Bytes),
    /// It trickles. [`Relayed::handed_over`] says whether somebody else may go on; it goes on itself until it is left.
    Slow,
    /// The reply is whole.
    End,
    /// The upstream is gone in the middle of it.
    Interrupted(Interruption),
}

/// What is to be done about a reply that broke off.
#[derive(Debug)]
pub struct Interruption {
    pub fault: Fault,
    pub takeover: Takeover,
    /// What the client has once it was given the takeover's frames.
    pub begun: BegunReply,
    /// What is said if nobody can go on.
    pub failed: Vec<Bytes>,
}

/// A reply that is being relayed. Dropping it ends the upstream's work, and speaks against nobody.
#[derive(Debug)]
pub struct Relayed {
    gateway: Gateway,
    passage: Passage,
    /// `None`: over.
    reply: Option<Reply>,
    reading: Option<Reading>,
    ready: VecDeque<Bytes>,
    progress: Progress,
    /// Never later than the deadline, and set anew only when it rings: most frames push the deadline away, and none of them has to tell it.
    alarm: Pin<Box<Sleep>>,
    client: Client,
    ended: bool,
    fault: Option<Fault>,
}

impl Relayed {
    pub(super) fn new(gateway: Gateway, passage: Passage, committed: Committed, client: Client) -> Self {
        let now = gateway.now();
        let mut progress = Progress::new(gateway.limits().clone(), committed.first_content_after, now);
        progress.on_content(kind_of(committed.content), 1.0, now);
        let Committed { reply, reading, held, .. } = committed;
        let ended = reading.as_ref().is_some_and(|reading| reading.tap.seen().is_terminal);
        let alarm = Box::pin(sleep_until(gateway.instant(progress.next_deadline().0)));
        let mut relayed =
            Self { gateway, passage, reply: Some(reply), reading, ready: held.into(), progress, alarm, client, ended, fault: None };
        relayed.drain_if_over();
        relayed
    }

    /// Who speaks.
    pub fn upstream(&self) -> &Arc<str> {
        self.passage.upstream()
    }

    /// What the client has, once it has been given all steps so far.
    pub fn seen(&self) -> Option<&Seen> {
        self.reading.as_ref().map(|reading| reading.tap.seen())
    }

    /// Loses nothing when it is dropped half-way.
    pub async fn next(&mut self) -> Step {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Step::Bytes(bytes);
            }
            match self.fault.take() {
                None => {}
                Some(Fault::TooSlow) => return Step::Slow,
                Some(fault) => return self.interrupted(fault),
            }
            if self.ended {
                return self.finish();
            }
            // What came before the fault goes out before it is told.
            self.fault = self.read().await.err();
        }
    }

    /// Reads once. Errors: the upstream is gone, or might as well be.
    async fn read(&mut self) -> Result<(), Fault> {
        self.progress.on_resumed(self.gateway.now());
        let Some(reply) = &mut self.reply else { return Err(Fault::Cut) };
        let (deadline, fault) = self.progress.next_deadline();
        let deadline = self.gateway.instant(deadline);
        if deadline < self.alarm.deadline() {
            self.alarm.as_mut().reset(deadline);
        }
        let bytes = loop {
            tokio::select! {
                biased;
                bytes = reply.next() => break bytes?,
                () = self.alarm.as_mut() => {
                    if Instant::now() >= deadline {
                        return Err(fault);
                    }
                    self.alarm.as_mut().reset(deadline);
                }
            }
        };
        let now = self.gateway.now();
        self.progress.on_bytes(now);
        let Some(reading) = &mut self.reading else {
            // Not read, so that its end is all that is known of it.
            match bytes {
                Some(bytes) => self.ready.push_back(bytes),
                None => self.ended = true,
            }
            return Ok(());
        };
        let Some(bytes) = bytes else {
            // Cleanly or not: a reply without its last event is cut. Some providers leave that event out; where all has been said, and the
            // end is clean, it speaks against nobody.
            if reading.tap.seen().finish.is_some() {
                self.passage.streamed(Some(reading.tap.seen()));
            }
            return Err(Fault::Cut);
        };
        reading.splitter.push(bytes);
        while let Some(event) = reading.splitter.next_event()? {
            let said_bytes = reading.tap.seen().said_bytes;
            match reading.tap.event(&event) {
                // Not the client's: somebody else will go on, or it is said in its own words.
                Told::Error { fault, .. } => return Err(fault),
                Told::Malformed => continue,
                Told::Content(kind) => {
                    let tokens = (reading.tap.seen().said_bytes - said_bytes) as f64 / BYTES_PER_TOKEN;
                    self.progress.on_content(kind_of(kind), tokens.max(1.0), now);
                }
                Told::Progress => self.progress.on_content(limits::ContentKind::Tool, 0.0, now),
                Told::Terminal => self.ended = true,
                Told::Preamble | Told::Ping | Told::Unknown => {}
            }
            self.ready.push_back(event.raw().clone());
            if self.ended {
                break;
            }
        }
        self.drain_if_over();
        Ok(())
    }

    /// The connection is used again if it ends as it should; the client does not wait for that.
    fn drain_if_over(&mut self) {
        if !self.ended {
            return;
        }
        if let Some(mut reply) = self.reply.take() {
            let tier = self.passage.tier().clone();
            tokio::spawn(async move {
                if let Ok(Ok(None)) = timeout(END_LIMIT, reply.next()).await {
                    tier.connections.keep(reply);
                }
            });
        }
    }

    fn finish(&mut self) -> Step {
        self.passage.streamed(self.reading.as_ref().map(|reading| reading.tap.seen()));
        Step::End
    }

    /// What there is to go on from, where a local model may go on with a text that trickles. Nothing is decided by that: this stream lives
    /// until it is left. `None`: nobody may, and its speed is no question any more.
    pub fn handed_over(&mut self) -> Option<Interruption> {
        let interruption = self.reading.as_ref().and_then(|reading| {
            let seen = reading.tap.seen();
            let takeover = takeover::decide(seen, &self.cut(Fault::TooSlow), &self.gateway.takeover_config());
            // Frames before the text would be told to the client, and could not be taken back.
            let is_open_text = matches!(&takeover, Takeover::ContinueText { first } if first.is_empty());
            let begun = is_open_text.then(|| seen.reply.clone())?;
            Some(Interruption { fault: Fault::TooSlow, takeover, begun, failed: Vec::new() })
        });
        if interruption.is_none() {
            self.put_up_with();
        }
        interruption
    }

    /// However slow it is, nobody else goes on.
    pub fn put_up_with(&mut self) {
        self.progress.put_up_with();
    }

    /// The upstream is told to stop, and the fault speaks against it.
    pub fn leave(&mut self, fault: Fault) {
        self.reply = None;
        self.ended = true;
        self.passage.failed(fault, None);
    }

    fn cut(&self, fault: Fault) -> Cut {
        Cut {
            fault,
            is_committed: true,
            takeovers_so_far: 0,
            aborts_are_retried: self.client.aborts_are_retried,
            prompt_tokens_estimate: self.client.prompt_tokens_estimate,
        }
    }

    fn interrupted(&mut self, fault: Fault) -> Step {
        self.leave(fault);
        let cut = self.cut(fault);
        let Some(reading) = &mut self.reading else {
            let (takeover, begun, failed) = (Takeover::Abort, BegunReply::default(), Vec::new());
            return Step::Interrupted(Interruption { fault, takeover, begun, failed });
        };
        let config = self.gateway.takeover_config();
        let takeover = takeover::decide(reading.tap.seen(), &cut, &config);
        if let Takeover::ContinueText { first } | Takeover::FreshText { first } = &takeover {
            first.iter().for_each(|frame| {
                reading.tap.event(&SseEvent::new(frame.clone()));
            });
        }
        let seen = reading.tap.seen();
        // Where nobody may generate any more, an error is all that is left.
        let failed = match takeover::decide(seen, &Cut { takeovers_so_far: 1, aborts_are_retried: false, ..cut }, &config) {
            Takeover::InBandError(frames) => frames,
            _ => Vec::new(),
        };
        Step::Interrupted(Interruption { fault, takeover, begun: seen.reply.clone(), failed })
    }
}

fn kind_of(kind: ContentKind) -> limits::ContentKind {
    match kind {
        ContentKind::Text => limits::ContentKind::Text,
        ContentKind::Thinking => limits::ContentKind::Thinking,
        ContentKind::ToolCall | ContentKind::Other => limits::ContentKind::Tool,
    }
}
