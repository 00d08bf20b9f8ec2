//! DRY, "don't repeat yourself" (p-e-w 2024, first in text-generation-webui, then in llama.cpp): a token that would go on with a
//! repetition loses the more the longer the repetition is, so that loops end and words may still be said twice.
//!
//! The longest suffix of the sequence that stands somewhere before, followed by a token `t`, has the length `n`: `t` loses
//! `multiplier * base^(n - allowed_length)` if `n` is at least `allowed_length`. A suffix ends where a sequence breaker stands (a line
//! break, a quotation mark), and breakers themselves lose nothing.
#![deny(clippy::disallowed_methods)]

use std::collections::HashMap;

use super::super::Dry;
use super::row::Row;

/// Memory that one token after the other uses.
#[derive(Debug, Default)]
pub struct Matches {
    /// By distance from the end: how long the sequence up to there ends as the whole does.
    lengths: Vec<usize>,
    /// The longest repetition that each token would go on with.
    longest: HashMap<u32, usize>,
}

/// No base to no power takes more: the token is as good as impossible, and the logit stays a number.
const PENALTY_MAX: f32 = 1e30;

/// `history`: prompt and output.
pub fn penalise(dry: &Dry, history: &[u32], row: &mut Row, matches: &mut Matches) {
    let window = &history[history.len() - dry.last_n.unwrap_or(usize::MAX).min(history.len())..];
    find_repetitions(dry, window, matches);
    for (&token, &length) in &matches.longest {
        let beyond = i32::try_from(length - dry.allowed_length).unwrap_or(i32::MAX);
        let penalty = (dry.multiplier * dry.base.powi(beyond)).min(PENALTY_MAX);
        row.change(token, |logit| logit - penalty);
    }
}

/// The Z algorithm (Gusfield 1997) on the window read backwards: one pass, however often something repeats.
fn find_repetitions(dry: &Dry, window: &[u32], matches: &mut Matches) {
    let Matches { lengths, longest } = matches;
    longest.clear();
    let reach = window.iter().rev().take_while(|token| !dry.breakers.contains(**token)).count();
    let least = dry.allowed_length.max(1);
    if reach < least {
        return;
    }
    let from_end = |distance: usize| window[window.len() - 1 - distance];
    lengths.clear();
    lengths.resize(window.len(), 0);
    // The stretch `start..end` that is known to read as the beginning does.
    let (mut start, mut end) = (0, 0);
    for distance in 1..window.len() {
        let mut length = if distance < end { lengths[distance - start].min(end - distance) } else { 0 };
        if distance + length >= end {
            while length < reach && distance + length < window.len() && from_end(distance + length) == from_end(length) {
                length += 1;
            }
            (start, end) = (distance, distance + length);
        }
        lengths[distance] = length;
        let follows = from_end(distance - 1);
        if length >= least && !dry.breakers.contains(follows) {
            let longest = longest.entry(follows).or_default();
            *longest = length.max(*longest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::super::token_mask::TokenMask;
    use super::*;

    fn dry(allowed_length: usize, breakers: &[u32]) -> Dry {
        let breakers = Arc::new(TokenMask::of(100, breakers.iter().copied()));
        Dry { multiplier: 1.0, base: 2.0, allowed_length, last_n: None, breakers }
    }

    /// What each of ten tokens loses.
    fn losses(dry: &Dry, history: &[u32]) -> Vec<f32> {
        let mut row = Row::default();
        row.fill(&[0.0; 10], None);
        penalise(dry, history, &mut row, &mut Matches::default());
        (0..10).map(|token| -row.logit(token)).collect()
    }

    #[test]
    fn the_penalty_is_as_the_field_defines_it() {
        let loses = |dry: &Dry, history: &[u32], token: usize| losses(dry, history)[token];
        // 1 2 3 came before 4: three tokens match, two are allowed.
        assert_eq!(losses(&dry(2, &[]), &[1, 2, 3, 4, 9, 1, 2, 3]), [0.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        for (allowed_length, loss) in [(0, 8.0), (1, 4.0), (2, 2.0), (3, 1.0), (4, 0.0)] {
            assert_eq!(loses(&dry(allowed_length, &[]), &[1, 2, 3, 4, 9, 1, 2, 3], 4), loss, "{allowed_length}");
        }
        // Of two places the longer one counts, each for its own token.
        let history = [1, 2, 3, 4, 9, 2, 3, 5, 9, 8, 2, 3, 4, 1, 2, 3];
        assert_eq!((loses(&dry(2, &[]), &history, 4), loses(&dry(2, &[]), &history, 5)), (2.0, 1.0));
        // A loop overlaps itself: of five tokens four are a repetition.
        assert_eq!(loses(&dry(2, &[]), &[7; 5], 7), 4.0);
        // The match must lie within the last tokens, and so must what it matches.
        let near = |last_n| loses(&Dry { last_n: Some(last_n), ..dry(2, &[]) }, &[1, 2, 3, 4, 9, 1, 2, 3], 4);
        assert_eq!([0, 3, 5, 6, 7, 8, 100].map(near), [0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 2.0]);
        // A breaker cuts the match short, is never punished, and at the end leaves nothing.
        assert_eq!(loses(&dry(2, &[1]), &[1, 2, 3, 4, 9, 1, 2, 3], 4), 1.0);
        assert_eq!(loses(&dry(2, &[2]), &[1, 2, 3, 4, 9, 1, 2, 3], 4), 0.0);
        assert_eq!(loses(&dry(2, &[4]), &[1, 2, 3, 4, 9, 1, 2, 3], 4), 0.0);
        assert_eq!(losses(&dry(1, &[3]), &[1, 2, 3, 4, 9, 1, 2, 3]), [0.0; 10]);
        // However long, the logit stays a number.
        assert_eq!(loses(&dry(2, &[]), &[7; 5000], 7), PENALTY_MAX);
        assert_eq!(losses(&dry(2, &[]), &[]), [0.0; 10]);
    }

    /// Every place, compared backwards token by token.
    fn by_comparing(dry: &Dry, history: &[u32]) -> HashMap<u32, usize> {
        let window = &history[history.len() - dry.last_n.unwrap_or(usize::MAX).min(history.len())..];
        let mut longest = HashMap::new();
        for end in 1..window.len() {
            let backwards = window[..end].iter().rev().zip(window.iter().rev());
            let length = backwards.take_while(|(a, b)| a == b && !dry.breakers.contains(**a)).count();
            if length >= dry.allowed_length.max(1) && !dry.breakers.contains(window[end]) {
                let longest = longest.entry(window[end]).or_default();
                *longest = length.max(*longest);
            }
        }
        longest
    }

    proptest! {
        #[test]
        fn one_pass_finds_what_comparing_every_place_finds(
            history in prop_oneof![prop::collection::vec(0u32..3, 0..60), prop::collection::vec(0u32..8, 0..60)],
            breakers in prop::collection::vec(0u32..12, 0..3), allowed_length in 0usize..5, last_n in prop::option::of(0usize..70),
        ) {
            let dry = Dry { last_n, ..dry(allowed_length, &breakers) };
            let mut matches = Matches::default();
            // What an earlier token left behind does not matter.
            matches.lengths.resize(9, 77);
            matches.longest.insert(3, 99);
            let window = &history[history.len() - last_n.unwrap_or(usize::MAX).min(history.len())..];
            find_repetitions(&dry, window, &mut matches);
            prop_assert_eq!(matches.longest, by_comparing(&dry, &history));
        }
    }
}
