//! One row of logits as the sampler works on it: cleaned, cut to what a mask allows, changed by what the request asks for. The largest of
//! each 64 is noted, so that who looks for large ones passes over the rest.
#![deny(clippy::disallowed_methods)]

use super::super::token_mask::{TokenMask, WORD_TOKENS};

/// Logits that are looked at together; as many as a word of a mask has bits.
pub const CHUNK: usize = WORD_TOKENS;

#[derive(Debug, Default)]
pub struct Row {
    logits: Vec<f32>,
    /// The largest of each [`CHUNK`].
    peaks: Vec<f32>,
    /// Logits were changed since the peaks were found.
    is_changed: bool,
}

impl Row {
    /// Replaces the row by `logits [vocab]`; what `allowed` does not hold is impossible.
    pub fn fill(&mut self, logits: &[f32], allowed: Option<&TokenMask>) {
        self.is_changed = false;
        self.peaks.clear();
        self.logits.clear();
        self.logits.reserve(logits.len());
        for (index, from) in logits.chunks(CHUNK).enumerate() {
            let word = allowed.map_or(u64::MAX, |allowed| allowed.words().get(index).copied().unwrap_or(0));
            let first = self.logits.len();
            if word == u64::MAX {
                self.logits.extend(from.iter().map(|&logit| clean(logit)));
            } else {
                self.logits.resize(first + from.len(), f32::NEG_INFINITY);
                bits(word).take_while(|&bit| bit < from.len()).for_each(|bit| self.logits[first + bit] = clean(from[bit]));
            }
            self.peaks.push(largest_of(&self.logits[first..]));
        }
    }

    /// Changes one logit; a token outside of the row has none, and what is impossible stays so. [`Row::find_peaks`] has to follow.
    pub fn change(&mut self, token: u32, change: impl FnOnce(f32) -> f32) {
        if let Some(logit) = self.logits.get_mut(token as usize).filter(|logit| **logit > f32::NEG_INFINITY) {
            *logit = clean(change(*logit));
            self.is_changed = true;
        }
    }

    /// After changes.
    pub fn find_peaks(&mut self) {
        if std::mem::take(&mut self.is_changed) {
            self.peaks.clear();
            self.peaks.extend(self.logits.chunks(CHUNK).map(largest_of));
        }
    }

    /// The first of the largest; `None`: no token is possible.
    pub fn likeliest(&self) -> Option<u32> {
        let largest = self.largest();
        if largest == f32::NEG_INFINITY {
            return None;
        }
        let chunk = self.peaks.iter().position(|&peak| peak == largest)?;
        let offset = self.logits[chunk * CHUNK..].iter().position(|&logit| logit == largest)?;
        Some((chunk * CHUNK + offset) as u32)
    }

    /// Minus infinity: no token is possible.
    pub fn largest(&self) -> f32 {
        largest_of(&self.peaks)
    }

    pub fn logit(&self, token: u32) -> f32 {
        self.logits[token as usize]
    }

    pub fn vocab(&self) -> usize {
        self.logits.len()
    }

    /// Each chunk with the id of its first token and its largest logit.
    pub fn chunks(&self) -> impl Iterator<Item = (u32, &[f32], f32)> {
        let first = (0u32..).step_by(CHUNK);
        first.zip(self.logits.chunks(CHUNK).zip(&self.peaks)).map(|(first, (chunk, &peak))| (first, chunk, peak))
    }

    pub fn chunk(&self, index: usize) -> &[f32] {
        let first = index * CHUNK;
        &self.logits[first..self.logits.len().min(first + CHUNK)]
    }

    /// The `count` largest, likeliest first, equal ones in order of id. As many chunks have a logit as large as the smallest of the
    /// `count` largest peaks, so no smaller one is among them: few chunks are looked at, and little is sorted.
    pub fn likeliest_first(&self, count: usize) -> Vec<(u32, f32)> {
        let Some(last) = count.checked_sub(1) else { return Vec::new() };
        let mut peaks = self.peaks.clone();
        let least = if last < peaks.len() { *peaks.select_nth_unstable_by(last, |a, b| b.total_cmp(a)).1 } else { f32::NEG_INFINITY };
        let by_rank = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        let mut kept = Vec::with_capacity(2 * count.min(self.logits.len()));
        for (first, chunk, _) in self.chunks().filter(|(_, _, peak)| *peak >= least) {
            kept.extend((first..).zip(chunk.iter().copied()).filter(|(_, logit)| *logit >= least));
        }
        if count < kept.len() {
            kept.select_nth_unstable_by(last, by_rank);
            kept.truncate(count);
        }
        kept.sort_unstable_by(by_rank);
        kept
    }
}

/// Not-a-number: impossible. Plus infinity: the largest number there is, so that differences stay numbers. Minus zero: zero, so
/// that all orders agree that they are equal.
fn clean(logit: f32) -> f32 {
    if logit.is_nan() { f32::NEG_INFINITY } else { logit.min(f32::MAX) + 0.0 }
}

/// Eight side by side, which vector units can follow.
fn largest_of(logits: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if a > b { a } else { b };
    let mut lanes = [f32::NEG_INFINITY; 8];
    let eights = logits.chunks_exact(8);
    let rest = eights.remainder();
    for eight in eights {
        for (lane, &logit) in lanes.iter_mut().zip(eight) {
            *lane = larger(*lane, logit);
        }
    }
    rest.iter().chain(&lanes).fold(f32::NEG_INFINITY, |largest, &logit| larger(largest, logit))
}

/// Places of the ones, lowest first.
fn bits(word: u64) -> impl Iterator<Item = usize> {
    let rest = |word: &u64| Some(word & (word - 1)).filter(|rest| *rest != 0);
    std::iter::successors(Some(word).filter(|word| *word != 0), rest).map(|word| word.trailing_zeros() as usize)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(logits: &[f32], allowed: Option<&TokenMask>) -> Row {
        let mut row = Row::default();
        row.fill(logits, allowed);
        row
    }

    #[test]
    fn a_row_is_clean() {
        let row = row(&[f32::NAN, f32::INFINITY, -0.0, f32::NEG_INFINITY], None);
        assert_eq!(row.logits, [f32::NEG_INFINITY, f32::MAX, 0.0, f32::NEG_INFINITY]);
        assert!(row.logits[2].is_sign_positive());
        assert_eq!(row.likeliest(), Some(1));
    }

    proptest! {
        #[test]
        fn a_mask_leaves_what_it_holds(logits in prop::collection::vec(-9.0f32..9.0, 1..300), words in prop::collection::vec(prop_oneof![Just(0), Just(u64::MAX), any::<u64>()], 5)) {
            let mut mask = TokenMask::none(logits.len());
            mask.words_mut().iter_mut().zip(words).for_each(|(word, bits)| *word = bits);
            let masked = row(&logits, Some(&mask));
            for (id, &logit) in (0u32..).zip(&logits) {
                let expected = if mask.contains(id) { logit } else { f32::NEG_INFINITY };
                prop_assert_eq!(masked.logit(id), expected, "token {}", id);
            }
            prop_assert_eq!(masked.likeliest().is_some(), !mask.is_empty());
        }

        #[test]
        fn partial_selection_is_a_sort(steps in prop::collection::vec(-20i32..20, 1..700), count in 0usize..800) {
            // Coarse steps make many ties.
            let logits: Vec<f32> = steps.iter().map(|&step| step as f32 * 0.25).collect();
            let row = row(&logits, None);
            let mut sorted: Vec<(u32, f32)> = (0u32..).zip(logits.iter().copied()).collect();
            sorted.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            prop_assert_eq!(row.likeliest(), Some(sorted[0].0));
            prop_assert_eq!(row.largest(), sorted[0].1);
            sorted.truncate(count);
            prop_assert_eq!(row.likeliest_first(count), sorted);
        }
    }
}
