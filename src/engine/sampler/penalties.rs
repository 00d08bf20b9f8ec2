//! Repetition, presence and frequency penalties: how often each token stands in the part of the sequence they look at.
#![deny(clippy::disallowed_methods)]

use std::collections::HashMap;

use super::super::SamplingParams;
use super::row::Row;

#[derive(Debug)]
pub struct Penalties {
    repetition: f32,
    presence: f32,
    frequency: f32,
    /// Tokens of prompt and output that count; `None`: all.
    last_n: Option<usize>,
    prompt_tokens: usize,
    counts: HashMap<u32, Count>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    anywhere: usize,
    in_output: usize,
}

impl Penalties {
    /// `None`: nothing is penalised.
    pub fn new(params: &SamplingParams, prompt: &[u32]) -> Option<Self> {
        let &SamplingParams { repetition_penalty, presence_penalty, frequency_penalty, repeat_last_n, .. } = params;
        if (repetition_penalty == 1.0 && presence_penalty == 0.0 && frequency_penalty == 0.0) || repeat_last_n == Some(0) {
            return None;
        }
        let mut counts: HashMap<u32, Count> = HashMap::new();
        for &token in &prompt[prompt.len() - repeat_last_n.unwrap_or(usize::MAX).min(prompt.len())..] {
            counts.entry(token).or_default().anywhere += 1;
        }
        Some(Self {
            repetition: repetition_penalty,
            presence: presence_penalty,
            frequency: frequency_penalty,
            last_n: repeat_last_n,
            prompt_tokens: prompt.len(),
            counts,
        })
    }

    /// The last token of `history` (prompt and output) is new.
    pub fn observe(&mut self, history: &[u32]) {
        let Some((&token, before)) = history.split_last() else { return };
        let count = self.counts.entry(token).or_default();
        count.anywhere += 1;
        count.in_output += 1;
        let Some(leaves) = self.last_n.and_then(|last_n| before.len().checked_sub(last_n)) else { return };
        let count = self.counts.get_mut(&history[leaves]).expect("what leaves was counted when it came");
        count.anywhere -= 1;
        count.in_output -= usize::from(leaves >= self.prompt_tokens);
        if count.anywhere == 0 {
            self.counts.remove(&history[leaves]);
        }
    }

    pub fn apply(&self, row: &mut Row) {
        for (&token, count) in &self.counts {
            if self.repetition != 1.0 {
                row.change(token, |logit| if logit > 0.0 { logit / self.repetition } else { logit * self.repetition });
            }
            if count.in_output > 0 {
                row.change(token, |logit| logit - self.presence - self.frequency * count.in_output as f32);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Logits 2, 1, -1, ... of ten tokens after the penalties.
    fn penalised(params: &SamplingParams, prompt: &[u32], output: &[u32]) -> Vec<f32> {
        let mut row = Row::default();
        row.fill(&[2.0, 1.0, -1.0, 0.5, 0.0, 3.0, -2.0, 4.0, 1.5, 2.5], None);
        let mut history = prompt.to_vec();
        let mut penalties = Penalties::new(params, prompt);
        for &token in output {
            history.push(token);
            penalties.iter_mut().for_each(|penalties| penalties.observe(&history));
        }
        penalties.iter().for_each(|penalties| penalties.apply(&mut row));
        (0..10).map(|token| row.logit(token)).collect()
    }

    proptest! {
        /// A window is the same as penalties over a sequence that holds nothing else.
        #[test]
        fn a_window_forgets_what_is_before_it(
            prompt in prop::collection::vec(0u32..10, 1..20), output in prop::collection::vec(0u32..10, 0..30), last_n in 0usize..40,
        ) {
            let params = SamplingParams { repetition_penalty: 1.5, presence_penalty: 0.25, frequency_penalty: 0.5, ..SamplingParams::default() };
            let windowed = penalised(&SamplingParams { repeat_last_n: Some(last_n), ..params.clone() }, &prompt, &output);
            let seen_output = &output[output.len() - last_n.min(output.len())..];
            let seen_prompt = &prompt[prompt.len() - last_n.saturating_sub(output.len()).min(prompt.len())..];
            prop_assert_eq!(windowed, penalised(&params, seen_prompt, seen_output));
        }
    }
}
