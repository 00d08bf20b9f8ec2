//! Constraints to try the engine with.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use understudy::engine::constraint::{Constraint, Ending, Matcher};
use understudy::engine::token_mask::TokenMask;

/// What `allow` of a matcher does.
pub type Rule = dyn Fn(&[u32], &mut TokenMask) -> Result<Ending, String> + Send + Sync;

/// A constraint that is one function.
#[derive(Clone)]
pub struct Ruled(Arc<Rule>);

impl Ruled {
    pub fn by(rule: impl Fn(&[u32], &mut TokenMask) -> Result<Ending, String> + Send + Sync + 'static) -> Arc<dyn Constraint> {
        Arc::new(Self(Arc::new(rule)))
    }
}

impl std::fmt::Debug for Ruled {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Ruled")
    }
}

impl Constraint for Ruled {
    fn matcher(&self) -> Result<Box<dyn Matcher>, String> {
        Ok(Box::new(self.clone()))
    }
}

impl Matcher for Ruled {
    fn allow(&mut self, output: &[u32], allowed: &mut TokenMask) -> Result<Ending, String> {
        assert!(allowed.is_empty(), "a mask comes empty");
        (self.0)(output, allowed)
    }
}

/// Tokens `first..end` and no others; it may end after `least` of them.
pub fn only(first: u32, end: u32, least: usize) -> Arc<dyn Constraint> {
    Ruled::by(move |output, allowed| {
        (first..end).for_each(|token| allowed.insert(token));
        Ok(if output.len() < least { Ending::NotYet } else { Ending::Possible })
    })
}

/// A maze: what may follow depends on the whole output, and so does whether it may end. From `end` tokens on it has to.
pub fn maze(seed: u64, end: usize) -> Arc<dyn Constraint> {
    Ruled::by(move |output, allowed| {
        let mixed = |state: u64, word: u64| (state ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
        let place = output.iter().fold(seed, |place, &token| mixed(place, u64::from(token) + 1));
        let doors = (0..allowed.vocab() as u32).filter(|&token| mixed(place, u64::from(token)) >> 32 & 3 == 0);
        doors.for_each(|token| allowed.insert(token));
        Ok(match place >> 60 {
            _ if output.len() >= end => Ending::Reached,
            0..3 => Ending::Possible,
            _ => Ending::NotYet,
        })
    })
}

/// Says anything for `free` tokens, then is a maze for as many, and so on; or the other way round. What agents do: free text, then a call.
pub fn by_turns(seed: u64, free: usize, end: usize) -> Arc<dyn Constraint> {
    let inner = Mutex::new(maze(seed, end).matcher().expect("it is healthy"));
    Ruled::by(move |output, allowed| {
        let is_free = output.len() / free.max(1) % 2 == seed as usize % 2;
        match is_free && output.len() < end {
            true => Ok(Ending::Anything),
            false => inner.lock().expect("nobody panics with it").allow(output, allowed),
        }
    })
}

/// Follows one text, over and over, and leaves a choice at some places: a draft that repeats it is mostly right. `before`: whether it may end
/// before the `end`; it has to where a token of the text is one that ends it.
pub fn refrain(text: Vec<u32>, before: Ending, end: usize) -> Arc<dyn Constraint> {
    Ruled::by(move |output, allowed| {
        let place = output.len() % text.len();
        allowed.insert(text[place]);
        if place.is_multiple_of(7) {
            (0..allowed.vocab() as u32).step_by(3).for_each(|token| allowed.insert(token));
        }
        Ok(if output.len() < end { before } else { Ending::Reached })
    })
}

/// One whose mask for the output of a given length comes when the test says so. What is dropped opens it for good.
pub struct Gate {
    /// A message each time somebody waits at the gate.
    pub waits: Receiver<()>,
    pub open: Sender<()>,
}

pub fn gated(inner: Arc<dyn Constraint>, at: usize) -> (Arc<dyn Constraint>, Gate) {
    let (tell, waits) = channel();
    let (open, opened) = channel();
    let matcher = Mutex::new((inner.matcher().expect("it is healthy"), opened));
    let constraint = Ruled::by(move |output, allowed| {
        let (matcher, opened) = &mut *matcher.lock().expect("nobody panics with it");
        if output.len() == at {
            let _ = tell.send(());
            let _ = opened.recv();
        }
        matcher.allow(output, allowed)
    });
    (constraint, Gate { waits, open })
}
