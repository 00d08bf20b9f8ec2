//! The stages of a reply: free text (thinking, an answer in words), which a mark ends, and text under a grammar (calls, JSON), with which
//! the reply ends. Free text is free of cost: its mask is one that was made before.
//!
//! Stages are followed in bytes. A token may complete a mark and go beyond it; it is allowed if the next stage can begin with the rest.

use std::sync::Arc;

use super::closing::Closing;
use super::mark::{Mark, Standing, Then};
use super::ruled::{Compiled, Ruled};
use super::vocabulary::Vocabulary;
use crate::engine::constraint::{Constraint, Ending, Matcher};
use crate::engine::token_mask::TokenMask;

/// Marks of one stage.
pub const MARKS_MAX: usize = 4;

/// What replies may be. Begins with the first stage.
#[derive(Debug)]
pub struct Plan {
    pub vocabulary: Arc<Vocabulary>,
    pub stages: Vec<Stage>,
    /// What the prompt holds of the first stage, if that is under a grammar.
    pub begun: Vec<u32>,
}

#[derive(Debug)]
pub enum Stage {
    Free(Free),
    Ruled {
        grammar: Arc<Compiled>,
        /// Where the stage is nothing but this text, the reply goes on in that stage.
        leave: Option<(Vec<u8>, usize)>,
    },
}

/// Any text up to one of the marks.
#[derive(Debug)]
pub struct Free {
    pub marks: Vec<Mark>,
    /// Whether the reply may end in it.
    pub may_end: bool,
}

/// Shared by all outputs of a request, and by all requests that ask for the same.
#[derive(Debug)]
pub struct PlannedReply {
    pub plan: Arc<Plan>,
    /// `None`: the reply may go on for as long as it likes.
    pub closing: Option<Closing>,
}

impl Constraint for PlannedReply {
    fn matcher(&self) -> Result<Box<dyn Matcher>, String> {
        Ok(Box::new(PlanMatcher::new(self.plan.clone(), self.closing.clone())))
    }
}

/// Where an output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Position {
    stage: usize,
    /// Of each mark of a free stage.
    standing: [Standing; MARKS_MAX],
}

/// The beginning of a stage under a grammar.
#[derive(Debug)]
struct Entry {
    /// Tokens for what was written of it before its first whole token: the mark, and what a token had beyond it.
    before: Vec<u32>,
    /// The output's first token that is all its own.
    from: usize,
}

struct PlanMatcher {
    plan: Arc<Plan>,
    closing: Option<Closing>,
    read: Vec<u32>,
    /// After each token read, and before the first.
    positions: Vec<Position>,
    entries: Vec<Entry>,
    /// Follows the entry of this index.
    ruled: Option<(usize, Ruled)>,
    /// A grammar at the place where a stage begins with a mark, by mark of the first stage that asked.
    probe: Option<((usize, usize), Ruled)>,
}

impl PlanMatcher {
    fn new(plan: Arc<Plan>, closing: Option<Closing>) -> Self {
        let start = Position { stage: 0, standing: plan.standing_at_start(0, true) };
        let entries = match &plan.stages[0] {
            Stage::Ruled { .. } => vec![Entry { before: plan.begun.clone(), from: 0 }],
            Stage::Free(_) => Vec::new(),
        };
        Self { plan, closing, read: Vec::new(), positions: vec![start], entries, ruled: None, probe: None }
    }

    fn go_to(&mut self, output: &[u32]) -> Result<(), String> {
        let common = self.read.iter().zip(output).take_while(|(read, wanted)| read == wanted).count();
        self.read.truncate(common);
        self.positions.truncate(common + 1);
        self.entries.retain(|entry| entry.from <= common);
        if self.ruled.as_ref().is_some_and(|(entry, _)| *entry >= self.entries.len()) {
            self.ruled = None;
        }
        for &token in &output[common..] {
            let position = self.after(token)?;
            self.read.push(token);
            self.positions.push(position);
        }
        Ok(())
    }

    fn position(&self) -> Position {
        *self.positions.last().expect("there is one before the first token")
    }

    fn after(&mut self, token: u32) -> Result<Position, String> {
        let plan = self.plan.clone();
        let position = self.position();
        let bytes = plan.vocabulary.tokenizer().token_bytes(token, true);
        match &plan.stages[position.stage] {
            Stage::Free(_) => self.after_free(position, bytes),
            Stage::Ruled { leave: Some((text, stage)), .. } if self.stage_is(text, bytes) => Ok(plan.start_of(*stage)),
            Stage::Ruled { .. } => Ok(position),
        }
    }

    /// Through free stages, as far as these bytes go.
    fn after_free(&mut self, mut position: Position, bytes: &[u8]) -> Result<Position, String> {
        let plan = self.plan.clone();
        for (at, &byte) in bytes.iter().enumerate() {
            let Stage::Free(free) = &plan.stages[position.stage] else { break };
            let mut then = None;
            for (mark, standing) in free.marks.iter().zip(&mut position.standing) {
                match mark.after(*standing, byte) {
                    Some(next) => *standing = next,
                    None => then = then.or(Some(mark)),
                }
            }
            let Some(mark) = then else { continue };
            let stage = match mark.then {
                Then::Forbidden => return Err("a text came that must not".to_owned()),
                Then::Begins(stage) | Then::EndsFor(stage) => stage,
            };
            position = plan.start_of(stage);
            if let Stage::Ruled { .. } = &plan.stages[stage] {
                let mut before = read_at_mark(mark).to_vec();
                before.extend(plan.vocabulary.tokens_of(&bytes[at + 1..]));
                self.entries.push(Entry { before, from: self.read.len() + 1 });
            }
        }
        Ok(position)
    }

    /// Whether the present stage, and these bytes, are just `text`.
    fn stage_is(&self, text: &[u8], bytes: &[u8]) -> bool {
        let Some(entry) = self.entries.last() else { return false };
        let tokenizer = self.plan.vocabulary.tokenizer();
        let own = self.read.get(entry.from..).unwrap_or_default();
        // Most stages are longer than the text, so that little is compared.
        let mut written = own.iter().flat_map(|&token| tokenizer.token_bytes(token, true)).chain(bytes);
        entry.before.is_empty()
            && own.len() <= text.len()
            && text.iter().all(|byte| written.next() == Some(byte))
            && written.next().is_none()
    }

    fn allow_free(&mut self, position: Position, free: &Free, allowed: &mut TokenMask) -> Ending {
        let plan = self.plan.clone();
        let everything = plan.vocabulary.everything().words();
        allowed.words_mut()[..everything.len()].copy_from_slice(everything);
        let mut is_free = true;
        for (index, (mark, &standing)) in free.marks.iter().zip(&position.standing).enumerate() {
            mark.completing(standing, |token, beyond| {
                let rest = plan.vocabulary.tokenizer().token_bytes(token, true);
                let rest = &rest[rest.len() - beyond..];
                let fits = match mark.then {
                    Then::Forbidden => false,
                    Then::Begins(stage) | Then::EndsFor(stage) => rest.is_empty() || self.may_begin((position.stage, index), stage, rest),
                };
                if !fits {
                    allowed.remove(token);
                    is_free = false;
                }
            });
        }
        match (free.may_end, is_free) {
            // Nearly always, and it spares the engine the mask.
            (true, true) => Ending::Anything,
            (true, false) => Ending::Possible,
            (false, _) => Ending::NotYet,
        }
    }

    /// Whether a stage can go on with these bytes after the mark.
    fn may_begin(&mut self, mark: (usize, usize), stage: usize, rest: &[u8]) -> bool {
        let Stage::Ruled { grammar, .. } = &self.plan.stages[stage] else { return true };
        if self.probe.as_ref().is_none_or(|(of, _)| *of != mark) {
            let Stage::Free(free) = &self.plan.stages[mark.0] else { return false };
            let mut ruled = grammar.begin();
            if ruled.go_to(read_at_mark(&free.marks[mark.1]), &[]).is_err() {
                return false;
            }
            self.probe = Some((mark, ruled));
        }
        self.probe.as_mut().is_some_and(|(_, ruled)| ruled.takes(rest))
    }

    fn allow_ruled(&mut self, grammar: &Arc<Compiled>, allowed: &mut TokenMask) -> Result<Ending, String> {
        let index = self.entries.len() - 1;
        let entry = &self.entries[index];
        if self.ruled.as_ref().is_none_or(|(of, _)| *of != index) {
            self.ruled = Some((index, grammar.begin()));
        }
        let (_, ruled) = self.ruled.as_mut().expect("it was put there");
        ruled.go_to(&entry.before, self.read.get(entry.from..).unwrap_or_default())?;
        ruled.allow(allowed)
    }
}

impl Matcher for PlanMatcher {
    fn allow(&mut self, output: &[u32], allowed: &mut TokenMask) -> Result<Ending, String> {
        self.go_to(output)?;
        let plan = self.plan.clone();
        let position = self.position();
        match &plan.stages[position.stage] {
            Stage::Free(free) => Ok(self.allow_free(position, free, allowed)),
            Stage::Ruled { grammar, .. } => {
                let ending = self.allow_ruled(grammar, allowed)?;
                Ok(self.closing.as_ref().map_or(ending, |closing| closing.narrow(output.len(), ending, allowed)))
            }
        }
    }
}

impl Plan {
    fn start_of(&self, stage: usize) -> Position {
        Position { stage, standing: self.standing_at_start(stage, false) }
    }

    fn standing_at_start(&self, stage: usize, is_first: bool) -> [Standing; MARKS_MAX] {
        let mut standing = [0; MARKS_MAX];
        if let Stage::Free(free) = &self.stages[stage] {
            free.marks.iter().zip(&mut standing).for_each(|(mark, standing)| *standing = mark.at_start(is_first));
        }
        standing
    }
}

/// What a grammar has read when its stage begins with a mark.
fn read_at_mark(mark: &Mark) -> &[u32] {
    match mark.then {
        Then::Begins(_) => &mark.tokens,
        Then::EndsFor(_) | Then::Forbidden => &[],
    }
}
