//! What may come next, decided by somebody else: a grammar, a list of choices. The interface, and the masks of one sequence.
//!
//! A mask is computed on another thread while the model computes the logits it is for ([`super::mask_workers`]). The engine waits for a
//! late one only if nobody else has anything to do; else the row sits the step out, see `engine_loop`. Either way the tokens are the same:
//! a mask is a function of the output so far.
//!
//! Knows no sequence and no clock.

use std::fmt::Debug;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::engine_loop::message_of;
use super::token_mask::TokenMask;

/// Which outputs a request may have.
pub trait Constraint: Debug + Send + Sync {
    /// A matcher at the beginning of an output. Asked for once a sequence, on a thread where it may take its time.
    fn matcher(&self) -> Result<Box<dyn Matcher>, String>;
}

/// Follows one output.
pub trait Matcher: Send {
    /// Puts into `allowed`, which comes empty, the tokens that may follow `output`: all that was sampled so far, without the prompt. Stop
    /// tokens are not its business: whether they may come is what it returns.
    ///
    /// A function of `output` alone; what it remembers from call to call may only save time. Usually `output` is a token longer than the
    /// last time; where drafted tokens were rejected it may be shorter. Errors and panics fail the one request, with the message.
    fn allow(&mut self, output: &[u32], allowed: &mut TokenMask) -> Result<Ending, String>;
}

/// Whether an output may end where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    NotYet,
    /// It may end, and it may go on.
    Possible,
    /// Nothing can follow: it ends here, without a further token.
    Reached,
}

/// What a mask says about the next token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Out of [`Masks::allowed`], stop tokens included where they may come.
    Sample,
    End,
    Fail(String),
}

/// A mask to be computed, on whatever thread.
pub struct MaskJob {
    workpiece: Workpiece,
    constraint: Arc<dyn Constraint>,
    stop_token_ids: Arc<[u32]>,
    hand_over: Arc<HandOver>,
}

/// A mask that nobody has seen yet.
pub struct ComputedMask {
    answer: Answer,
    hand_over: Arc<HandOver>,
}

/// The masks of one sequence, one at a time.
pub(super) struct Masks {
    constraint: Arc<dyn Constraint>,
    stop_token_ids: Arc<[u32]>,
    state: State,
    hand_over: Arc<HandOver>,
}

enum State {
    Idle(Workpiece),
    Asked,
    Answered(Answer),
}

/// What goes to another thread and comes back.
struct Workpiece {
    /// `None`: before the first mask.
    matcher: Option<Box<dyn Matcher>>,
    output: Vec<u32>,
    allowed: TokenMask,
}

struct Answer {
    workpiece: Workpiece,
    verdict: Verdict,
}

/// Where an answer is left for the engine.
#[derive(Default)]
struct HandOver {
    answer: Mutex<Option<Answer>>,
    is_there: Condvar,
}

impl Masks {
    pub fn new(constraint: Arc<dyn Constraint>, stop_token_ids: &[u32], vocab: usize) -> Self {
        let workpiece = Workpiece { matcher: None, output: Vec::new(), allowed: TokenMask::none(vocab) };
        Self { constraint, stop_token_ids: stop_token_ids.into(), state: State::Idle(workpiece), hand_over: Arc::default() }
    }

    /// Has the mask for what follows `output` computed, unless it is there or on its way.
    pub fn ask(&mut self, output: &[u32], run: &mut dyn FnMut(MaskJob)) {
        self.fetch();
        let mut workpiece = match mem::replace(&mut self.state, State::Asked) {
            State::Idle(workpiece) => workpiece,
            State::Asked => return,
            State::Answered(answer) if answer.workpiece.output == output => return self.state = State::Answered(answer),
            State::Answered(answer) => answer.workpiece,
        };
        workpiece.output.clear();
        workpiece.output.extend_from_slice(output);
        let (constraint, stop_token_ids, hand_over) = (self.constraint.clone(), self.stop_token_ids.clone(), self.hand_over.clone());
        run(MaskJob { workpiece, constraint, stop_token_ids, hand_over });
    }

    /// What follows `output`; `None`: not known yet.
    pub fn verdict(&mut self, output: &[u32]) -> Option<&Verdict> {
        self.fetch();
        match &self.state {
            State::Answered(answer) if answer.workpiece.output == output => Some(&answer.verdict),
            _ => None,
        }
    }

    /// Of the last verdict.
    pub fn allowed(&self) -> Option<&TokenMask> {
        match &self.state {
            State::Answered(answer) => Some(&answer.workpiece.allowed),
            _ => None,
        }
    }

    /// Waits until the mask asked for is there, or for so long.
    pub fn wait(&mut self, limit: Duration) {
        if let State::Asked = self.state {
            // Which of the two it was is found out by who fetches it.
            let _ = self.hand_over.is_there.wait_timeout_while(self.hand_over.lock(), limit, |answer| answer.is_none());
        }
    }

    fn fetch(&mut self) {
        if let State::Asked = self.state
            && let Some(answer) = self.hand_over.lock().take()
        {
            self.state = State::Answered(answer);
        }
    }
}

impl MaskJob {
    pub fn compute(self) -> ComputedMask {
        let Self { workpiece, constraint, stop_token_ids, hand_over } = self;
        ComputedMask { answer: workpiece.judge(&*constraint, &stop_token_ids), hand_over }
    }
}

impl ComputedMask {
    /// From now on the engine may ask for the next one.
    pub fn hand_over(self) {
        *self.hand_over.lock() = Some(self.answer);
        self.hand_over.is_there.notify_one();
    }
}

impl HandOver {
    /// Held for the time of a move.
    fn lock(&self) -> MutexGuard<'_, Option<Answer>> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Workpiece {
    fn judge(mut self, constraint: &dyn Constraint, stop_token_ids: &[u32]) -> Answer {
        self.allowed.clear();
        let ending = catch_unwind(AssertUnwindSafe(|| self.ending(constraint)));
        let verdict = match ending {
            Ok(Ok(ending)) => settle(ending, &mut self.allowed, stop_token_ids),
            Ok(Err(message)) => Verdict::Fail(format!("the constraint failed: {message}")),
            Err(panic) => Verdict::Fail(format!("the constraint panicked: {}", message_of(&*panic))),
        };
        Answer { workpiece: self, verdict }
    }

    fn ending(&mut self, constraint: &dyn Constraint) -> Result<Ending, String> {
        let matcher = match &mut self.matcher {
            Some(matcher) => matcher,
            none => none.insert(constraint.matcher()?),
        };
        matcher.allow(&self.output, &mut self.allowed)
    }
}

/// Opens or closes the mask for stop tokens.
fn settle(ending: Ending, allowed: &mut TokenMask, stop_token_ids: &[u32]) -> Verdict {
    stop_token_ids.iter().for_each(|&token| allowed.remove(token));
    match (ending, allowed.is_empty()) {
        (Ending::Reached, _) | (Ending::Possible, true) => Verdict::End,
        (Ending::NotYet, true) => Verdict::Fail("the constraint allows no token here, and no end".to_owned()),
        (Ending::NotYet, false) => Verdict::Sample,
        (Ending::Possible, false) => {
            stop_token_ids.iter().for_each(|&token| allowed.insert(token));
            Verdict::Sample
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_opened_and_closed_by_the_verdict() {
        let stops = [8, 9];
        let judged = |ending, tokens: &[u32]| {
            let mut allowed = TokenMask::of(10, tokens.iter().copied());
            let verdict = settle(ending, &mut allowed, &stops);
            (verdict, (0..10).filter(|&token| allowed.contains(token)).collect::<Vec<_>>())
        };
        assert_eq!(judged(Ending::NotYet, &[1, 8]), (Verdict::Sample, vec![1]));
        assert_eq!(judged(Ending::Possible, &[1]), (Verdict::Sample, vec![1, 8, 9]));
        assert_eq!(judged(Ending::Possible, &[]).0, Verdict::End);
        assert_eq!(judged(Ending::Reached, &[1]).0, Verdict::End);
        assert!(matches!(judged(Ending::NotYet, &[9]).0, Verdict::Fail(message) if message.contains("allows no token")));
    }
}
