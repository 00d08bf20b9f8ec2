//! Guesses what a sequence says next, from what stands in it already: who edits a file repeats most of it.
//!
//! Prompt lookup (Saxena, "Prompt Lookup Decoding", 2023): where the last [`GRAM`] tokens stood before, what followed them there is
//! the draft. The model checks a draft in one step, row by row, and the sampler draws each token as it would have without one, so a
//! draft decides how fast an answer comes and never what it says.
//!
//! Whether drafts would have been right is counted while none are made, at no cost: the next token is known a step later anyway. So
//! a sequence that repeats nothing never pays for trying.
//!
//! Pure: knows no model, no clock.
#![deny(clippy::disallowed_methods)]

use std::collections::HashMap;

/// Tokens that must stand there as they stand at the end: fewer repeat by chance more often, more find the place again later after an edit.
const GRAM: usize = 3;
/// Rows drafted for one sequence in a step, at most.
pub const DRAFT_MAX: usize = 16;

/// Of one sequence.
#[derive(Debug, Default)]
pub struct Drafter {
    /// The position behind the last place where these tokens stood.
    behind: HashMap<[u32; GRAM], u32>,
    /// Leading tokens that are in `behind`.
    indexed: usize,
    /// The position whose token is expected next; always one that exists.
    source: Option<usize>,
    /// How many in a row came as expected.
    run: usize,
    outcomes: [Outcomes; RUNS.len()],
}

/// Guesses are the better the longer they have been right: counted apart by `run`, from each of these up to the next.
const RUNS: [usize; 4] = [0, 1, 4, 16];
/// What is taken for true before anything is counted, as if seen twice: text that copies goes on copying.
const RIGHT_AT_FIRST: [f64; RUNS.len()] = [0.4, 0.6, 0.8, 0.9];
const SEEN_AT_FIRST: f64 = 2.0;
/// Of the counts, with each new one: some thirty guesses are remembered.
const REMEMBERED: f64 = 0.97;

#[derive(Debug, Clone, Copy, Default)]
struct Outcomes {
    right: f64,
    seen: f64,
}

impl Drafter {
    /// Takes note of the tokens since the last call; `told`: how many of them, at the end, the model has said (the prompt teaches
    /// what may be repeated, not whether it is).
    pub fn observe(&mut self, tokens: &[u32], told: usize) {
        while self.indexed < tokens.len() {
            let position = self.indexed;
            let is_told = position + told >= tokens.len();
            self.indexed += 1;
            if let Some(source) = self.source.filter(|_| is_told) {
                self.judge(tokens[source] == tokens[position]);
            }
            let Some(start) = self.indexed.checked_sub(GRAM) else { continue };
            let gram: [u32; GRAM] = tokens[start..self.indexed].try_into().expect("as long as a gram");
            let before = self.behind.insert(gram, self.indexed as u32);
            if is_told || self.indexed == tokens.len() {
                self.source = self.source.or(before.map(|position| position as usize));
            }
        }
    }

    /// Whether it expects anything.
    pub fn expects(&self) -> bool {
        self.source.is_some()
    }

    /// Tokens that may follow, at most `max`; of `tokens`, all of which were observed.
    pub fn draft(&self, tokens: &[u32], max: usize, draft: &mut Vec<u32>) {
        draft.clear();
        let Some(source) = self.source else { return };
        for position in source..source + max {
            // Beyond the end the draft repeats itself: a line of dashes goes on.
            let token = tokens.get(position).copied().unwrap_or_else(|| draft[position - tokens.len()]);
            draft.push(token);
        }
    }

    /// How likely each of so many drafted tokens is right, given that those before it are.
    pub fn likelihoods(&self) -> impl Iterator<Item = f64> + '_ {
        (0..DRAFT_MAX).map(|more| self.likelihood(self.run + more))
    }

    fn judge(&mut self, right: bool) {
        let outcomes = &mut self.outcomes[stage(self.run)];
        outcomes.right = outcomes.right * REMEMBERED + if right { 1.0 } else { 0.0 };
        outcomes.seen = outcomes.seen * REMEMBERED + 1.0;
        if right {
            self.run += 1;
            self.source = self.source.map(|source| source + 1);
        } else {
            self.run = 0;
            self.source = None;
        }
    }

    fn likelihood(&self, run: usize) -> f64 {
        let stage = stage(run);
        let Outcomes { right, seen } = self.outcomes[stage];
        (right + SEEN_AT_FIRST * RIGHT_AT_FIRST[stage]) / (seen + SEEN_AT_FIRST)
    }
}

fn stage(run: usize) -> usize {
    RUNS.iter().rposition(|first| *first <= run).expect("the first is 0")
}

/// How many rows of a draft to check. `expected`: tokens the step gives without it; `seconds(rows)`: what it takes with so many
/// rows of draft. `None` of seconds: nothing is known yet, and the step without a draft will tell.
///
/// The most tokens a second win, if they are more than without by [`GAIN_MIN`].
pub fn rows_worth_checking(
    expected: f64,
    likelihoods: impl Iterator<Item = f64>,
    rows_max: usize,
    seconds: impl Fn(usize) -> Option<f64>,
) -> usize {
    let Some(without) = seconds(0).filter(|seconds| *seconds > 0.0) else { return 0 };
    let (mut best, mut best_rate) = (0, GAIN_MIN * expected / without);
    let (mut tokens, mut all_right) = (expected, 1.0);
    for (rows, likelihood) in (1..=rows_max).zip(likelihoods) {
        all_right *= likelihood;
        tokens += all_right;
        let Some(seconds) = seconds(rows) else { break };
        if tokens / seconds > best_rate {
            (best, best_rate) = (rows, tokens / seconds);
        }
    }
    best
}

/// Less is not worth a prediction that may be off.
const GAIN_MIN: f64 = 1.1;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A drafter that has seen `prompt`, and then each of `answer`; what it drafts at the end.
    fn drafted(prompt: &[u32], answer: &[u32], max: usize) -> (Vec<u32>, Drafter) {
        let (mut drafter, mut tokens, mut draft) = (Drafter::default(), prompt.to_vec(), Vec::new());
        drafter.observe(&tokens, 0);
        for token in answer {
            tokens.push(*token);
            drafter.observe(&tokens, 1);
        }
        drafter.draft(&tokens, max, &mut draft);
        (draft, drafter)
    }

    #[test]
    fn what_followed_before_is_expected_again() {
        let prompt = [1, 2, 3, 4, 5, 6, 7, 9, 9, 1, 2, 3];
        assert_eq!(drafted(&prompt, &[], 3).0, [4, 5, 6]);
        assert_eq!(drafted(&prompt, &[4, 5], 3).0, [6, 7, 9]);
        // Another token than expected ends it, three known ones begin again.
        assert!(drafted(&prompt, &[4, 8], 3).0.is_empty());
        assert_eq!(drafted(&prompt, &[4, 8, 3, 4, 5], 3).0, [6, 7, 9]);
    }

    #[test]
    fn of_several_places_the_last_counts_until_it_is_wrong() {
        let prompt = [1, 2, 3, 10, 1, 2, 3, 20, 21, 22, 23, 24, 9, 1, 2, 3];
        assert_eq!(drafted(&prompt, &[], 2).0, [20, 21]);
        assert_eq!(drafted(&prompt, &[20, 21], 2).0, [22, 23]);
    }

    #[test]
    fn a_draft_reaches_beyond_the_end_by_repeating_itself() {
        assert_eq!(drafted(&[7, 7, 7, 7], &[], 5).0, [7, 7, 7, 7, 7]);
        assert_eq!(drafted(&[1, 2, 3, 1, 2, 3], &[], 7).0, [1, 2, 3, 1, 2, 3, 1]);
    }

    #[test]
    fn being_right_is_learned_and_so_is_being_wrong() {
        let text: Vec<u32> = (0..60).collect();
        let likely = |answer: &[u32]| drafted(&text, answer, 1).1.likelihoods().next().unwrap();
        let copy: Vec<u32> = (10..50).collect();
        assert!(likely(&copy) > 0.9);
        assert!(likely(&copy) > likely(&copy[..4]));
        // Three tokens as there, then another, time and again.
        let never: Vec<u32> = (0..15).flat_map(|i| [i * 4, i * 4 + 1, i * 4 + 2, 99]).collect();
        let (_, mut drafter) = drafted(&text, &never, 1);
        drafter.run = 0;
        assert!(drafter.likelihood(0) < 0.1, "{}", drafter.likelihood(0));
    }

    #[test]
    fn rows_are_checked_where_they_pay() {
        let cheap = |rows: usize| Some(1.0 + 0.1 * rows as f64);
        let dear = |rows: usize| Some(1.0 + rows as f64);
        let worth =
            |likelihood: f64, seconds: &dyn Fn(usize) -> Option<f64>| rows_worth_checking(1.0, std::iter::repeat(likelihood), 8, seconds);
        assert_eq!(worth(0.95, &cheap), 8);
        assert_eq!(worth(0.15, &cheap), 0, "1.15 tokens in 1.1 of the time is too little");
        assert_eq!(worth(0.95, &dear), 0);
        assert_eq!(worth(0.95, &|_| None), 0);
        let some = worth(0.6, &cheap);
        assert!((2..5).contains(&some), "{some}");
        // Beside seven other streams, whose tokens the longer step delays, a guess must be better.
        assert_eq!(rows_worth_checking(8.0, std::iter::repeat(0.6), 8, cheap), 0);
    }

    proptest! {
        /// Drafts are what `likelihoods` and the engine take them for: at most `max` tokens, each one that stands in the sequence.
        #[test]
        fn drafts_come_from_the_sequence(prompt in prop::collection::vec(0u32..4, 0..60), answer in prop::collection::vec(0u32..4, 0..60), max in 0usize..9) {
            let (draft, drafter) = drafted(&prompt, &answer, max);
            let tokens = [&prompt[..], &answer].concat();
            prop_assert!(draft.is_empty() || draft.len() == max);
            prop_assert!(draft.iter().all(|token| tokens.contains(token)));
            prop_assert!(drafter.likelihoods().all(|likelihood| (0.0..=1.0).contains(&likelihood)));
            if let Some(source) = drafter.source {
                // What stands before the place is what stands at the end.
                prop_assert!(source < tokens.len());
                prop_assert_eq!(&tokens[source - GRAM..source], &tokens[tokens.len() - GRAM..]);
            }
        }
    }
}
