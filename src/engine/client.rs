//! The engine's side of one request: where its tokens come from, and where they go.
//!
//! Samples what a step gave for the sequence, each row out of what may come there. Knows no other sequence.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use kernels::profile::{self, Cost, Key, Op};
use models::Logits;
use tokio::sync::mpsc;

use super::admission::Ticket;
use super::constraint::{Masks, Verdict};
use super::meters::Stopwatch;
use super::plan::Chunk;
use super::sampler::{Sampler, Scratch};
use super::sequence::Sequence;
use super::{GeneratedToken, StreamNotes, TokenEvent};

pub(super) struct Client {
    pub prompt_tokens: usize,
    pub sampler: Sampler,
    pub masks: Option<Masks>,
    /// Its mask was late, and its row is not computed again before the mask is there.
    pub sits_out: bool,
    pub events: mpsc::Sender<TokenEvent>,
    pub notes: Arc<StreamNotes>,
    pub watch: Stopwatch,
    /// `Some(n)`: the prompt's tokens are scored, with the `n` likeliest beside each.
    pub prompt_logprobs: Option<usize>,
    /// Returned when the client is dropped, after its events were sent.
    pub ticket: Ticket,
}

/// The logits of a chunk: its rows from `first` on.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub logits: &'a Logits,
    pub first: usize,
}

/// What became of a chunk that was to give a token.
pub(super) struct Sampled {
    /// One after the other, for as long as they are those that were drafted.
    pub tokens: Vec<GeneratedToken>,
    pub then: Then,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Then {
    GoesOn,
    /// The constraint ends the sequence.
    Ends,
    Fails(String),
    /// The masks are not there yet: no token was sampled.
    Late,
}

impl Client {
    /// Gives late masks so much time.
    pub fn wait_for_masks(&mut self, patience: Duration) {
        self.masks.iter_mut().for_each(|masks| masks.wait(patience));
    }

    /// Tells how likely the tokens of the prompt were that follow the first rows of its chunk, and returns how many rows these are; one that is
    /// computed once more is not told again.
    pub fn score(&self, chunk: &Chunk, sequence: &Sequence, rows: Rows<'_>, scratch: &mut Scratch) -> usize {
        let count = sequence.scored_rows(chunk.start, chunk.len);
        let (Some(top), 1..) = (self.prompt_logprobs, count) else { return count };
        let mut scores = self.notes.prompt_scores.lock().unwrap_or_else(PoisonError::into_inner);
        for index in 0..count {
            // The first token follows nothing, and has no score.
            let position = chunk.start + index + 1;
            if scores.told + 1 == position {
                scores.untaken.push(Sampler::score(sequence.tokens()[position], top, rows.logits.row(rows.first + index), scratch));
                scores.told += 1;
            }
        }
        count
    }

    /// What the rows of its chunk give, which is to give a token.
    pub fn sample(&mut self, chunk: &Chunk, sequence: &Sequence, rows: Rows<'_>, scratch: &mut Scratch) -> Sampled {
        self.notes.cached_tokens.store(sequence.usage().cached_tokens, Ordering::Relaxed);
        let mut tokens = Vec::with_capacity(1 + chunk.drafts);
        let verdicts = match &mut self.masks {
            None => None,
            Some(masks) => match masks.verdicts(output_of(sequence), sequence.draft()) {
                None => return Sampled { tokens, then: Then::Late },
                verdicts => verdicts,
            },
        };
        let _timer = profile::op(|| (Key::of(Op::Sampling), Cost::default()));
        let mut then = Then::GoesOn;
        for position in chunk.start + chunk.len - chunk.drafts..=chunk.start + chunk.len {
            let allowed = match verdicts.map(|verdicts| verdicts.get(tokens.len())) {
                None | Some(Some(Verdict::Anything)) => None,
                Some(Some(Verdict::Sample(allowed))) => Some(allowed),
                Some(Some(Verdict::End)) => {
                    then = Then::Ends;
                    break;
                }
                Some(Some(Verdict::Fail(message))) => {
                    then = Then::Fails(message.clone());
                    break;
                }
                // More is drafted than was asked about: it has to wait.
                Some(None) => break,
            };
            let row = rows.logits.row(rows.first + tokens.len());
            let token = match self.sampler.sample_within(allowed, row, position, scratch) {
                Ok(token) => token,
                Err(error) => {
                    then = Then::Fails(error.to_string());
                    break;
                }
            };
            // A stop token too: nothing is sampled after it.
            self.sampler.observe(token.id);
            let goes_on = sequence.draft().get(tokens.len()) == Some(&token.id);
            tokens.push(token);
            if !goes_on {
                break;
            }
        }
        Sampled { tokens, then }
    }
}

/// What was sampled so far.
pub(super) fn output_of(sequence: &Sequence) -> &[u32] {
    &sequence.tokens()[sequence.usage().prompt_tokens..]
}
