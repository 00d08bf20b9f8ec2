//! The choices of one reply: their tokens come from the engine, events come out. Dropping it cancels what still runs.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Instant;

use futures_util::future::poll_fn;

use crate::chat::output::{Flow, Output};
use crate::chat::{Event, Usage};
use crate::engine::meters::SequenceClock;
use crate::engine::{FinishReason, TokenEvent, TokenStream};

/// The choices of one reply, generated at the same time.
pub struct Choices {
    choices: Vec<Choice>,
    /// Events made and not yet taken.
    ready: VecDeque<Told>,
    /// Whom to ask first, so that each gets its turn.
    turn: usize,
    /// When the engine's first token came, which is before the first event where text is held back.
    first_token_at: Option<Instant>,
}

/// An event of one choice, and how far things were then.
#[derive(Debug, Clone)]
pub struct Told {
    pub choice: usize,
    pub event: Event,
    /// Of the choice.
    pub usage: Usage,
    pub first_token_at: Option<Instant>,
}

struct Choice {
    /// `None`: it has ended.
    tokens: Option<TokenStream>,
    output: Output,
    cached_tokens: usize,
}

impl Choices {
    pub fn with_capacity(choices: usize) -> Self {
        Self { choices: Vec::with_capacity(choices), ready: VecDeque::new(), turn: 0, first_token_at: None }
    }

    pub fn add(&mut self, tokens: TokenStream, mut output: Output) {
        let mut events = Vec::new();
        output.open(&mut events);
        self.choices.push(Choice { tokens: Some(tokens), output, cached_tokens: 0 });
        self.tell(self.choices.len() - 1, events);
    }

    pub fn clocks(&self) -> Vec<SequenceClock> {
        self.choices.iter().filter_map(|choice| choice.tokens.as_ref()).map(TokenStream::clock).collect()
    }

    /// The next event of any choice; `None` when all have ended.
    pub async fn next(&mut self) -> Option<Told> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let (index, token) = self.next_token().await?;
            if matches!(token, Some(TokenEvent::Token(_))) {
                self.first_token_at.get_or_insert_with(Instant::now);
            }
            let events = self.choices[index].take(token);
            self.tell(index, events);
        }
    }

    fn tell(&mut self, choice: usize, events: Vec<Event>) {
        let (usage, first_token_at) = (self.choices[choice].usage(), self.first_token_at);
        self.ready.extend(events.into_iter().map(|event| Told { choice, event, usage, first_token_at }));
    }

    /// Polls every running stream; the future of a stream is made anew each time, which loses nothing: it only receives.
    async fn next_token(&mut self) -> Option<(usize, Option<TokenEvent>)> {
        let count = self.choices.len();
        poll_fn(|context| {
            let mut running = false;
            for offset in 0..count {
                let index = (self.turn + offset) % count;
                let Some(tokens) = &mut self.choices[index].tokens else { continue };
                running = true;
                if let Poll::Ready(event) = pin!(tokens.next()).poll(context) {
                    self.turn = (index + 1) % count;
                    return Poll::Ready(Some((index, event)));
                }
            }
            if running { Poll::Pending } else { Poll::Ready(None) }
        })
        .await
    }
}

impl Choice {
    fn usage(&self) -> Usage {
        self.output.usage_so_far(self.cached_tokens)
    }

    fn take(&mut self, token: Option<TokenEvent>) -> Vec<Event> {
        let mut events = Vec::new();
        let has_failed = matches!(token, None | Some(TokenEvent::Finished { reason: FinishReason::Failed(_), .. }));
        if let (Some(tokens), true) = (&self.tokens, self.output.awaits_scores() && !has_failed) {
            self.output.score_prompt(&tokens.prompt_scores(), &mut events);
        }
        match token {
            Some(TokenEvent::Token(token)) => {
                self.cached_tokens = self.tokens.as_ref().map_or(0, TokenStream::cached_tokens);
                if self.output.push(&token, self.cached_tokens, &mut events) == Flow::Done
                    && let Some(tokens) = self.tokens.take()
                {
                    tokens.finish();
                }
            }
            Some(TokenEvent::Finished { reason, usage }) => {
                self.tokens = None;
                self.cached_tokens = usage.cached_tokens;
                self.output.finish(reason, usage, &mut events);
            }
            None => {
                self.tokens = None;
                events.push(Event::Failed("the engine stopped in the middle of the reply".to_owned()));
            }
        }
        events
    }
}
