//! What may come next, decided by somebody else: a grammar, a list of choices. The interface, and the masks of one sequence.
//!
//! Masks are computed on another thread while the model computes the logits they are for ([`super::mask_workers`]): one for what follows
//! the output, and one behind each drafted token for as long as the draft is allowed. The engine waits for late ones only if nobody else
//! has anything to do; else the row sits the step out, see `engine_loop`. Either way the tokens are the same: a mask is a function of the
//! output before it.
//!
//! Knows no sequence and no clock.

use std::fmt::Debug;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::engine_loop::start_over::message_of;
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
    /// As [`Ending::Possible`], and whatever goes on is allowed: what was put into the mask does not matter. Cheaper than a full one.
    Anything,
    /// Nothing can follow: it ends here, without a further token.
    Reached,
}

/// What may follow one place of the output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// One of these; stop tokens are among them where they may come.
    Sample(TokenMask),
    Anything,
    End,
    Fail(String),
}

/// Masks to be computed, on whatever thread.
pub struct MaskJob {
    workpiece: Workpiece,
    constraint: Arc<dyn Constraint>,
    stop_token_ids: Arc<[u32]>,
    hand_over: Arc<HandOver>,
}

/// Masks that nobody has seen yet.
pub struct ComputedMasks {
    answer: Workpiece,
    hand_over: Arc<HandOver>,
}

/// The masks of one sequence: those of one step at a time.
pub(super) struct Masks {
    constraint: Arc<dyn Constraint>,
    stop_token_ids: Arc<[u32]>,
    state: State,
    hand_over: Arc<HandOver>,
}

enum State {
    Idle(Workpiece),
    Asked,
    Answered(Workpiece),
}

/// What goes to another thread and comes back with the verdicts.
struct Workpiece {
    /// `None`: before the first mask.
    matcher: Option<Box<dyn Matcher>>,
    /// The output, then the draft.
    tokens: Vec<u32>,
    output_tokens: usize,
    /// Behind the output, behind the first drafted token, and so on; none behind one that is not allowed.
    verdicts: Vec<Verdict>,
    /// Masks to be used again: never more than a step has had. A draft of 16 in a vocabulary of 150,000 takes 17 of 19 KB.
    spare: Vec<TokenMask>,
    vocab: usize,
}

/// Where an answer is left for the engine.
#[derive(Default)]
struct HandOver {
    answer: Mutex<Option<Workpiece>>,
    is_there: Condvar,
}

impl Masks {
    pub fn new(constraint: Arc<dyn Constraint>, stop_token_ids: &[u32], vocab: usize) -> Self {
        let (tokens, verdicts, spare) = (Vec::new(), Vec::new(), Vec::new());
        let workpiece = Workpiece { matcher: None, tokens, output_tokens: 0, verdicts, spare, vocab };
        Self { constraint, stop_token_ids: stop_token_ids.into(), state: State::Idle(workpiece), hand_over: Arc::default() }
    }

    /// Has the masks computed for what follows `output` and each token of `draft`, unless those of `output` are there or on their way.
    pub fn ask(&mut self, output: &[u32], draft: &[u32], run: &mut dyn FnMut(MaskJob)) {
        self.fetch();
        let mut workpiece = match mem::replace(&mut self.state, State::Asked) {
            State::Idle(workpiece) => workpiece,
            State::Asked => return,
            State::Answered(answer) if answer.output() == output => return self.state = State::Answered(answer),
            State::Answered(answer) => answer,
        };
        workpiece.tokens.clear();
        workpiece.tokens.extend(output.iter().chain(draft));
        workpiece.output_tokens = output.len();
        let (constraint, stop_token_ids, hand_over) = (self.constraint.clone(), self.stop_token_ids.clone(), self.hand_over.clone());
        run(MaskJob { workpiece, constraint, stop_token_ids, hand_over });
    }

    /// What may follow `output`, and then each token of `draft` that was asked about and is allowed; `None`: not known yet.
    pub fn verdicts(&mut self, output: &[u32], draft: &[u32]) -> Option<&[Verdict]> {
        self.fetch();
        let State::Answered(answer) = &self.state else { return None };
        if answer.output() != output {
            return None;
        }
        let drafts = answer.draft().iter().zip(draft).take_while(|(asked, drafted)| asked == drafted).count();
        Some(&answer.verdicts[..answer.verdicts.len().min(1 + drafts)])
    }

    /// Waits until the masks asked for are there, or for so long.
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
    pub fn compute(self) -> ComputedMasks {
        let Self { workpiece, constraint, stop_token_ids, hand_over } = self;
        ComputedMasks { answer: workpiece.judge(&*constraint, &stop_token_ids), hand_over }
    }
}

impl ComputedMasks {
    /// From now on the engine may ask for the next ones.
    pub fn hand_over(self) {
        *self.hand_over.lock() = Some(self.answer);
        self.hand_over.is_there.notify_one();
    }
}

impl HandOver {
    /// Held for the time of a move.
    fn lock(&self) -> MutexGuard<'_, Option<Workpiece>> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Workpiece {
    fn output(&self) -> &[u32] {
        &self.tokens[..self.output_tokens]
    }
    fn draft(&self) -> &[u32] {
        &self.tokens[self.output_tokens..]
    }

    /// Place by place, as far as the draft is allowed.
    fn judge(mut self, constraint: &dyn Constraint, stop_token_ids: &[u32]) -> Self {
        for verdict in self.verdicts.drain(..) {
            self.spare.extend(verdict.into_mask());
        }
        for length in self.output_tokens..=self.tokens.len() {
            let verdict = self.verdict(length, constraint, stop_token_ids);
            let goes_on = self.tokens.get(length).is_some_and(|&next| verdict.allows(next));
            self.verdicts.push(verdict);
            if !goes_on {
                break;
            }
        }
        self
    }

    /// What may follow the first `length` tokens.
    fn verdict(&mut self, length: usize, constraint: &dyn Constraint, stop_token_ids: &[u32]) -> Verdict {
        let mut allowed = self.spare.pop().unwrap_or_else(|| TokenMask::none(self.vocab));
        allowed.clear();
        let ending = catch_unwind(AssertUnwindSafe(|| self.ending(length, constraint, &mut allowed)));
        let verdict = match ending {
            Ok(Ok(ending)) => settle(ending, &mut allowed, stop_token_ids),
            Ok(Err(message)) => Verdict::Fail(format!("the constraint failed: {message}")),
            Err(panic) => Verdict::Fail(format!("the constraint panicked: {}", message_of(&*panic))),
        };
        if !matches!(verdict, Verdict::Sample(_)) {
            self.spare.push(allowed);
        }
        verdict
    }

    fn ending(&mut self, length: usize, constraint: &dyn Constraint, allowed: &mut TokenMask) -> Result<Ending, String> {
        let matcher = match &mut self.matcher {
            Some(matcher) => matcher,
            none => none.insert(constraint.matcher()?),
        };
        matcher.allow(&self.tokens[..length], allowed)
    }
}

impl Verdict {
    fn allows(&self, token: u32) -> bool {
        match self {
            Self::Sample(allowed) => allowed.contains(token),
            Self::Anything => true,
            Self::End | Self::Fail(_) => false,
        }
    }

    fn into_mask(self) -> Option<TokenMask> {
        match self {
            Self::Sample(allowed) => Some(allowed),
            Self::Anything | Self::End | Self::Fail(_) => None,
        }
    }
}

/// Opens or closes the mask for stop tokens, and takes it where something is to be sampled out of it.
fn settle(ending: Ending, allowed: &mut TokenMask, stop_token_ids: &[u32]) -> Verdict {
    stop_token_ids.iter().for_each(|&token| allowed.remove(token));
    let leads_nowhere = allowed.is_empty();
    match ending {
        Ending::Anything => return Verdict::Anything,
        Ending::Reached => return Verdict::End,
        Ending::Possible if leads_nowhere => return Verdict::End,
        Ending::NotYet if leads_nowhere => return Verdict::Fail("the constraint allows no token here, and no end".to_owned()),
        Ending::NotYet => {}
        Ending::Possible => stop_token_ids.iter().for_each(|&token| allowed.insert(token)),
    }
    Verdict::Sample(mem::take(allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_opened_and_closed_by_the_verdict() {
        let stops = [8, 9];
        let judged = |ending, tokens: &[u32]| settle(ending, &mut TokenMask::of(10, tokens.iter().copied()), &stops);
        let sample = |tokens: &[u32]| Verdict::Sample(TokenMask::of(10, tokens.iter().copied()));
        assert_eq!(judged(Ending::NotYet, &[1, 8]), sample(&[1]));
        assert_eq!(judged(Ending::Possible, &[1]), sample(&[1, 8, 9]));
        assert_eq!(judged(Ending::Possible, &[]), Verdict::End);
        assert_eq!(judged(Ending::Reached, &[1]), Verdict::End);
        assert_eq!(judged(Ending::Anything, &[]), Verdict::Anything);
        assert!(matches!(judged(Ending::NotYet, &[9]), Verdict::Fail(message) if message.contains("allows no token")));
    }

    /// Three tokens of the output's own length, then anything for two places, then the end.
    #[derive(Debug, Clone)]
    struct Stairs;

    impl Constraint for Stairs {
        fn matcher(&self) -> Result<Box<dyn Matcher>, String> {
            Ok(Box::new(self.clone()))
        }
    }

    impl Matcher for Stairs {
        fn allow(&mut self, output: &[u32], allowed: &mut TokenMask) -> Result<Ending, String> {
            assert!(allowed.is_empty() && allowed.vocab() == 10, "a mask comes empty");
            allowed.insert(output.len() as u32);
            Ok(match output.len() {
                0..3 => Ending::NotYet,
                3..5 => Ending::Anything,
                _ => Ending::Reached,
            })
        }
    }

    #[test]
    fn there_is_a_verdict_behind_each_drafted_token_that_is_allowed() {
        let mut masks = Masks::new(Arc::new(Stairs), &[], 10);
        let mut asked = |output: &[u32], draft: &[u32], drafted: &[u32]| {
            masks.ask(output, draft, &mut |job| job.compute().hand_over());
            let verdicts = masks.verdicts(output, drafted).expect("they were computed at once").to_vec();
            let State::Answered(answer) = &masks.state else { panic!("they are there") };
            (verdicts, answer.spare.len())
        };
        let only = |token: u32| Verdict::Sample(TokenMask::of(10, [token]));
        // The second drafted token is not allowed: nothing is said of what follows it.
        assert_eq!(asked(&[], &[0, 7, 2], &[0, 7, 2]).0, [only(0), only(1)]);
        // They are for what was asked, as far as what is drafted now begins in the same way.
        assert_eq!(asked(&[], &[0, 1, 2], &[0, 1, 2]).0, [only(0), only(1)], "the answer for this output was there");
        assert_eq!(
            asked(&[0], &[1, 2, 9, 9, 9], &[1, 2, 9, 9, 9]).0,
            [only(1), only(2), Verdict::Anything, Verdict::Anything, Verdict::End]
        );
        assert_eq!(asked(&[0], &[], &[1, 3]).0, [only(1), only(2)]);
        assert_eq!(asked(&[0], &[], &[]).0, [only(1)]);
        // Shorter again, as after a draft that was rejected; and three masks are all there ever were.
        assert_eq!(
            asked(&[], &[0, 1, 2, 5, 5, 5], &[0, 1, 2, 5, 5]),
            (vec![only(0), only(1), only(2), Verdict::Anything, Verdict::Anything, Verdict::End], 1)
        );
        assert!(masks.verdicts(&[3], &[]).is_none());
    }
}
