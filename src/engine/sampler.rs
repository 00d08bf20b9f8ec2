//! Decides the next token of one sequence from its logits.
//!
//! A function of the parameters, the sequence's own tokens, the position, what is allowed and the row of logits; of nothing else. The
//! random number is keyed by seed and absolute position, so neither the batch, nor a pause and resumption, nor a restart that feeds the
//! answer so far back as prompt changes what is drawn.
//!
//! Order: not-a-number is taken as impossible, and so is what a constraint does not allow; `logit_bias`; repetition, presence and
//! frequency penalties; DRY; stop tokens that would come too early; (here the reported log-probabilities are taken); greedy if the
//! temperature is 0, else temperature, top_k, typical_p over what top_k left, top_p over what these left, min_p, draw.
//! vLLM puts bias, penalties, log-probabilities and temperature in this order too; llama.cpp and transformers filter in the order
//! top_k, typical_p, top_p, min_p (llama.cpp applies the temperature after them).
#![deny(clippy::disallowed_methods)]

pub mod dry;
pub mod penalties;

pub mod filters;
pub mod row;
pub mod weights;

use super::token_mask::TokenMask;
use super::{GeneratedToken, SamplingParams, TokenLogprobs};
use dry::Matches;
use filters::Candidates;
use penalties::Penalties;
use row::Row;
use weights::{Scale, Sums};

/// How one sequence chooses, and what it has seen so far.
#[derive(Debug)]
pub struct Sampler {
    params: SamplingParams,
    top_logprobs: Option<usize>,
    penalties: Option<Penalties>,
    /// Prompt and output; kept only for those who look at it.
    history: Option<Vec<u32>>,
    early: EarlyStops,
}

/// Stop tokens, and the position before which they must not come.
#[derive(Debug, Default)]
struct EarlyStops {
    tokens: Vec<u32>,
    before: usize,
}

/// Memory that one draw after the other uses.
#[derive(Debug, Default)]
pub struct Scratch {
    row: Row,
    matches: Matches,
    sums: Sums,
    candidates: Candidates,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SampleError {
    #[error("the model's logits name no possible token: of {vocab}, {nan} are not a number")]
    NothingPossible { vocab: usize, nan: usize },
}

impl Sampler {
    pub fn new(params: SamplingParams, top_logprobs: Option<usize>, prompt: &[u32]) -> Self {
        let penalties = Penalties::new(&params, prompt);
        let history = (penalties.is_some() || params.dry.is_some()).then(|| prompt.to_vec());
        Self { params, top_logprobs, penalties, history, early: EarlyStops::default() }
    }

    /// None of `stop_token_ids` comes before `position`, unless nothing else can come.
    pub fn with_no_stop_before(self, position: usize, stop_token_ids: &[u32]) -> Self {
        Self { early: EarlyStops { tokens: stop_token_ids.to_vec(), before: position }, ..self }
    }

    /// The token for `position` (tokens before it, the prompt's included), from `logits [vocab]`.
    pub fn sample(&self, logits: &[f32], position: usize, scratch: &mut Scratch) -> Result<GeneratedToken, SampleError> {
        self.sample_within(None, logits, position, scratch)
    }

    /// The same, out of what is `allowed`; `None`: everything is.
    pub fn sample_within(
        &self,
        allowed: Option<&TokenMask>,
        logits: &[f32],
        position: usize,
        scratch: &mut Scratch,
    ) -> Result<GeneratedToken, SampleError> {
        let id = self.choose(allowed, logits, position, scratch)?;
        Ok(GeneratedToken { id, logprobs: self.top_logprobs.map(|top| logprobs(id, top, scratch)) })
    }

    /// What it would choose for `position` if these were the logits: of a draft model, whose guess is the likelier right the more its
    /// distribution is like the model's, since both are drawn from with the same number.
    pub fn guess(&self, logits: &[f32], position: usize, scratch: &mut Scratch) -> Option<u32> {
        self.choose(None, logits, position, scratch).ok()
    }

    /// The token alone; the row that it was chosen from is left in `scratch`.
    fn choose(&self, allowed: Option<&TokenMask>, logits: &[f32], position: usize, scratch: &mut Scratch) -> Result<u32, SampleError> {
        self.adjust(logits, allowed, scratch);
        let mut likeliest = scratch.row.likeliest();
        if position < self.early.before {
            self.early.tokens.iter().for_each(|&token| scratch.row.change(token, |_| f32::NEG_INFINITY));
            scratch.row.find_peaks();
            likeliest = match scratch.row.likeliest() {
                // Nothing but the end can come.
                None => {
                    self.adjust(logits, allowed, scratch);
                    likeliest
                }
                later => later,
            };
        }
        let Some(likeliest) = likeliest else {
            let nan = logits.iter().filter(|logit| logit.is_nan()).count();
            return Err(SampleError::NothingPossible { vocab: logits.len(), nan });
        };
        // A temperature that is no number is refused where requests are parsed; here it must merely do no harm.
        Ok(if self.params.temperature > 0.0 { self.draw(position, scratch) } else { likeliest })
    }

    /// How likely `token` was by the model's own word, and the `top` likeliest, from `logits [vocab]`.
    pub fn score(token: u32, top: usize, logits: &[f32], scratch: &mut Scratch) -> TokenLogprobs {
        scratch.row.fill(logits, None);
        scratch.row.find_peaks();
        logprobs(token, top, scratch)
    }

    /// The sampled token is part of the output now.
    pub fn observe(&mut self, token: u32) {
        let Some(history) = &mut self.history else { return };
        history.push(token);
        self.penalties.iter_mut().for_each(|penalties| penalties.observe(history));
    }

    /// Cleaned logits with bias and penalties.
    fn adjust(&self, logits: &[f32], allowed: Option<&TokenMask>, scratch: &mut Scratch) {
        let Scratch { row, matches, .. } = scratch;
        row.fill(logits, allowed);
        for &(token, bias) in &self.params.logit_bias {
            row.change(token, |logit| logit + bias);
        }
        self.penalties.iter().for_each(|penalties| penalties.apply(row));
        if let (Some(dry), Some(history)) = (&self.params.dry, &self.history) {
            dry::penalise(dry, history, row, matches);
        }
        row.find_peaks();
    }

    fn draw(&self, position: usize, scratch: &mut Scratch) -> u32 {
        let Scratch { row, sums, candidates, .. } = scratch;
        let SamplingParams { temperature, top_k, typical_p, top_p, min_p, seed, .. } = self.params;
        let uniform = uniform(seed, position);
        // Within these bounds no difference of logits becomes not-a-number.
        let scale = Scale { largest: row.largest(), factor: 1.0 / temperature.clamp(1e-6, 1e6) };
        let least = if min_p > 0.0 { min_p.min(1.0) } else { 0.0 };
        let top_p = (top_p < 1.0).then_some(f64::from(top_p.max(0.0)));
        let mut wanted = None;
        match (top_k.filter(|k| *k < row.vocab()), top_p) {
            (Some(k), _) => candidates.fill_likeliest(row, scale, k.max(1)),
            (None, _) if typical_p < 1.0 => candidates.fill_heavy(row, scale, 0.0),
            (None, Some(top_p)) => {
                sums.fill(row, scale, 0.0);
                let total = sums.total();
                wanted = Some(top_p * total);
                // Whatever is lighter than this weighs, all together, less than what `top_p` leaves out.
                let lightest = ((1.0 - top_p) * total / row.vocab() as f64 * 0.999) as f32;
                candidates.fill_heavy(row, scale, lightest);
            }
            (None, None) => {
                sums.fill(row, scale, least);
                return sums.pick(row, scale, least, uniform);
            }
        }
        if typical_p < 1.0 {
            candidates.keep_typical(scale, f64::from(typical_p));
        }
        if let Some(top_p) = top_p {
            let wanted = wanted.unwrap_or_else(|| top_p * candidates.total());
            candidates.keep_nucleus(wanted);
        }
        candidates.keep_at_least(least);
        candidates.pick(uniform).expect("a filter keeps at least one token")
    }
}

/// A number in `[0, 1)` with 53 random bits: SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators")
/// started at the mixed seed and jumped to `position`, which is one multiplication since its state is a counter.
pub fn uniform(seed: u64, position: usize) -> f64 {
    const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
    let state = mix(seed.wrapping_add(GOLDEN)).wrapping_add((position as u64 + 1).wrapping_mul(GOLDEN));
    (mix(state) >> 11) as f64 / (1u64 << 53) as f64
}

/// SplitMix64's output function (Stafford's variant 13).
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

/// Natural logarithms, from the log of the sum of exponentials: right to about 1e-7.
fn logprobs(chosen: u32, top: usize, scratch: &mut Scratch) -> TokenLogprobs {
    let Scratch { row, sums, .. } = scratch;
    let largest = row.largest();
    sums.fill(row, Scale { largest, factor: 1.0 }, 0.0);
    let log_sum = sums.total().ln();
    let logprob = |logit: f32| ((f64::from(logit) - f64::from(largest) - log_sum) as f32).max(f32::MIN);
    let possible = row.likeliest_first(top).into_iter().filter(|(_, logit)| *logit > f32::NEG_INFINITY);
    TokenLogprobs { logprob: logprob(row.logit(chosen)), top: possible.map(|(id, logit)| (id, logprob(logit))).collect() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Dry;
    use super::*;

    fn sampler(params: SamplingParams) -> Sampler {
        Sampler::new(params, None, &[])
    }

    fn sample(sampler: &Sampler, logits: &[f32], position: usize) -> u32 {
        sampler.sample(logits, position, &mut Scratch::default()).unwrap().id
    }

    /// Share of each token in `draws` draws at successive positions.
    fn shares(params: SamplingParams, logits: &[f32], draws: usize) -> Vec<f64> {
        let sampler = sampler(params);
        let mut counts = vec![0usize; logits.len()];
        (0..draws).for_each(|position| counts[sample(&sampler, logits, position) as usize] += 1);
        counts.into_iter().map(|count| count as f64 / draws as f64).collect()
    }

    fn check_shares(params: SamplingParams, logits: &[f32], expected: &[f64]) {
        let shares = shares(params, logits, 40_000);
        for (share, expected) in shares.iter().zip(expected) {
            // Four standard deviations of a share of 40,000 draws are at most 4 * sqrt(0.25 / 40000) = 0.01.
            assert!((share - expected).abs() <= 0.01, "shares {shares:?}, expected {expected:?}");
            assert!(*expected > 0.0 || *share == 0.0, "an impossible token was drawn: {shares:?}");
        }
    }

    /// Logits of the given probabilities.
    fn log(probabilities: &[f32]) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln()).collect()
    }

    const DEFAULT: SamplingParams = SamplingParams {
        temperature: 1.0,
        top_k: None,
        typical_p: 1.0,
        top_p: 1.0,
        min_p: 0.0,
        seed: 11,
        repetition_penalty: 1.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        repeat_last_n: None,
        dry: None,
        logit_bias: Vec::new(),
    };

    #[test]
    fn draws_follow_the_distribution() {
        let logits = log(&[0.1, 0.4, 0.2, 0.3]);
        check_shares(DEFAULT, &logits, &[0.1, 0.4, 0.2, 0.3]);
        // Temperature 0.5 squares: 1, 16, 4, 9 of 30.
        check_shares(SamplingParams { temperature: 0.5, ..DEFAULT }, &logits, &[1.0 / 30.0, 16.0 / 30.0, 4.0 / 30.0, 9.0 / 30.0]);
        check_shares(SamplingParams { temperature: f32::INFINITY, ..DEFAULT }, &logits, &[0.25; 4]);
        check_shares(SamplingParams { temperature: 1e-9, ..DEFAULT }, &logits, &[0.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn filters_cut_where_they_should() {
        let logits = log(&[0.1, 0.4, 0.2, 0.3]);
        check_shares(SamplingParams { top_k: Some(2), ..DEFAULT }, &logits, &[0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0]);
        check_shares(SamplingParams { top_k: Some(0), ..DEFAULT }, &logits, &[0.0, 1.0, 0.0, 0.0]);
        check_shares(SamplingParams { top_k: Some(99), ..DEFAULT }, &logits, &[0.1, 0.4, 0.2, 0.3]);
        // 0.4 + 0.3 reach 0.65; 0.75 needs the 0.2 too.
        check_shares(SamplingParams { top_p: 0.65, ..DEFAULT }, &logits, &[0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0]);
        check_shares(SamplingParams { top_p: 0.75, ..DEFAULT }, &logits, &[0.0, 4.0 / 9.0, 2.0 / 9.0, 3.0 / 9.0]);
        check_shares(SamplingParams { top_p: 0.0, ..DEFAULT }, &logits, &[0.0, 1.0, 0.0, 0.0]);
        // top_p counts in what top_k left: of 0.4 and 0.3, 0.4 / 0.7 = 0.57 is enough for 0.55.
        check_shares(SamplingParams { top_k: Some(2), top_p: 0.55, ..DEFAULT }, &logits, &[0.0, 1.0, 0.0, 0.0]);
        // At least 0.6 of 0.4.
        check_shares(SamplingParams { min_p: 0.6, ..DEFAULT }, &logits, &[0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0]);
        check_shares(SamplingParams { min_p: 7.0, ..DEFAULT }, &logits, &[0.0, 1.0, 0.0, 0.0]);
        // After the temperature: squared, 0.3 is 9/16 of 0.4.
        check_shares(SamplingParams { min_p: 0.6, temperature: 0.5, ..DEFAULT }, &logits, &[0.0, 1.0, 0.0, 0.0]);
        // The entropy is 1.28; the surprises of 0.3, 0.2 and 0.4 are nearest to it, in this order: 1.20, 1.61, 0.92.
        check_shares(SamplingParams { typical_p: 0.25, ..DEFAULT }, &logits, &[0.0, 0.0, 0.0, 1.0]);
        check_shares(SamplingParams { typical_p: 0.45, ..DEFAULT }, &logits, &[0.0, 0.0, 0.4, 0.6]);
        check_shares(SamplingParams { typical_p: 0.55, ..DEFAULT }, &logits, &[0.0, 4.0 / 9.0, 2.0 / 9.0, 3.0 / 9.0]);
        // Of what top_k left, 0.4 is the more typical; top_p and min_p look at what is left of typical_p's.
        check_shares(SamplingParams { top_k: Some(2), typical_p: 0.5, ..DEFAULT }, &logits, &[0.0, 1.0, 0.0, 0.0]);
        check_shares(SamplingParams { typical_p: 0.45, top_p: 0.59, ..DEFAULT }, &logits, &[0.0, 0.0, 0.0, 1.0]);
        check_shares(SamplingParams { typical_p: 0.45, min_p: 0.7, ..DEFAULT }, &logits, &[0.0, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn only_what_is_allowed_comes() {
        let logits = log(&[0.1, 0.4, 0.2, 0.3]);
        let greedy = SamplingParams { temperature: 0.0, ..DEFAULT };
        let biased = SamplingParams { logit_bias: vec![(1, 100.0)], ..greedy.clone() };
        for (params, allowed, expected) in [
            (&greedy, &[0, 2, 3][..], Ok(3)),
            (&greedy, &[0], Ok(0)),
            // A bias lifts nothing over the fence.
            (&biased, &[0, 2], Ok(2)),
            (&greedy, &[], Err(SampleError::NothingPossible { vocab: 4, nan: 0 })),
        ] {
            let allowed = TokenMask::of(4, allowed.iter().copied());
            let token = sampler(params.clone()).sample_within(Some(&allowed), &logits, 0, &mut Scratch::default());
            assert_eq!(token.map(|token| token.id), expected, "{allowed:?}");
        }
        // What is drawn, and the log-probability, are of the distribution over what is allowed.
        let allowed = TokenMask::of(4, [0, 3]);
        let sampler = Sampler::new(DEFAULT, Some(4), &[]);
        for position in 0..100 {
            let token = sampler.sample_within(Some(&allowed), &logits, position, &mut Scratch::default()).unwrap();
            let (logprobs, expected) = (token.logprobs.unwrap(), if token.id == 0 { 0.25 } else { 0.75 });
            assert!((logprobs.logprob.exp() - expected).abs() < 1e-6 && logprobs.top.len() == 2, "{logprobs:?}");
        }
    }

    #[test]
    fn stop_tokens_wait_for_their_position() {
        let greedy = sampler(SamplingParams { temperature: 0.0, ..DEFAULT }).with_no_stop_before(3, &[1, 2]);
        let logits = [0.0, 5.0, 4.0, 1.0];
        assert_eq!([0, 2, 3, 9].map(|position| sample(&greedy, &logits, position)), [3, 3, 1, 1]);
        // Where nothing else may come, the end comes.
        let allowed = TokenMask::of(4, [2]);
        assert_eq!(greedy.sample_within(Some(&allowed), &logits, 0, &mut Scratch::default()).map(|token| token.id), Ok(2));
    }

    #[test]
    fn dry_looks_at_prompt_and_output() {
        let breakers = std::sync::Arc::new(TokenMask::none(4));
        let dry = Dry { multiplier: 1.0, base: 2.0, allowed_length: 2, last_n: None, breakers };
        let mut sampler = sampler(SamplingParams { temperature: 0.0, dry: Some(dry), ..DEFAULT });
        sampler.history = Some(vec![0, 1, 2, 3]);
        // 0 1 came before 2: 2 loses 1 once both are there again, and the next best comes.
        let logits = [0.0, 0.0, 2.0, 1.5];
        assert_eq!(sample(&sampler, &logits, 4), 2);
        [0, 1].into_iter().for_each(|token| sampler.observe(token));
        assert_eq!(sample(&sampler, &logits, 6), 3);
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        let greedy = sampler(SamplingParams { temperature: 0.0, ..DEFAULT });
        assert_eq!(sample(&greedy, &[1.0, 3.0, 3.0, -5.0], 0), 1);
        assert_eq!(sample(&greedy, &[-0.0, 0.0, -1.0], 0), 0);
        assert_eq!(sample(&greedy, &[-2.0, -1.0, -3.0], 7), 1);
    }

    #[test]
    fn penalties_count_as_documented() {
        let params = SamplingParams { temperature: 0.0, ..DEFAULT };
        let top = |params: SamplingParams, prompt: &[u32], output: &[u32], logits: &[f32]| {
            let mut sampler = Sampler::new(params, Some(logits.len()), prompt);
            output.iter().for_each(|&token| sampler.observe(token));
            let token = sampler.sample(logits, 0, &mut Scratch::default()).unwrap();
            let top = token.logprobs.unwrap().top;
            assert_eq!(token.id, top[0].0);
            // Differences of log-probabilities are differences of logits: relative to the last token, which nothing touches.
            let of = |id: u32| top.iter().find(|(other, _)| *other == id).unwrap().1;
            (0..logits.len() as u32).map(|id| of(id) - of(logits.len() as u32 - 1)).collect::<Vec<_>>()
        };
        let close = |a: Vec<f32>, b: &[f32]| assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5), "{a:?} {b:?}");
        // Repetition: prompt and output; divides what is positive, multiplies what is negative.
        let repetition = SamplingParams { repetition_penalty: 2.0, ..params.clone() };
        close(top(repetition, &[0, 1], &[1, 2], &[3.0, 2.0, -1.0, 0.0]), &[1.5, 1.0, -2.0, 0.0]);
        // Presence and frequency: the output alone; once, and for each time.
        let presence = SamplingParams { presence_penalty: 0.5, ..params.clone() };
        close(top(presence, &[0, 1], &[1, 1, 2], &[3.0, 2.0, -1.0, 0.0]), &[3.0, 1.5, -1.5, 0.0]);
        let frequency = SamplingParams { frequency_penalty: 0.5, ..params.clone() };
        close(top(frequency, &[0, 1], &[1, 1, 2], &[3.0, 2.0, -1.0, 0.0]), &[3.0, 1.0, -1.5, 0.0]);
        // Bias comes before the penalties.
        let bias = SamplingParams { logit_bias: vec![(1, -3.0), (9, 5.0)], repetition_penalty: 2.0, ..params };
        close(top(bias, &[1], &[], &[3.0, 2.0, -1.0, 0.0]), &[3.0, -2.0, -1.0, 0.0]);
    }

    #[test]
    fn logprobs_are_of_the_models_distribution() {
        let logits = log(&[0.1, 0.4, 0.2, 0.3]);
        let sampler = Sampler::new(SamplingParams { temperature: 0.3, top_k: Some(1), ..DEFAULT }, Some(2), &[]);
        let logprobs = sampler.sample(&logits, 0, &mut Scratch::default()).unwrap().logprobs.unwrap();
        assert!((logprobs.logprob.exp() - 0.4).abs() < 1e-6);
        assert_eq!(logprobs.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 3]);
        assert!((logprobs.top[1].1.exp() - 0.3).abs() < 1e-6);
        let none = Sampler::new(DEFAULT, Some(0), &[]).sample(&logits, 0, &mut Scratch::default()).unwrap();
        assert!(none.logprobs.unwrap().top.is_empty());
    }

    #[test]
    fn broken_logits_are_survived_or_told() {
        for temperature in [0.0, 0.7, f32::NAN, -1.0, f32::INFINITY] {
            let sampler = Sampler::new(SamplingParams { temperature, top_p: 0.9, ..DEFAULT }, Some(3), &[]);
            let sample = |logits: &[f32]| sampler.sample(logits, 5, &mut Scratch::default()).map(|token| token.id);
            assert_eq!(sample(&[f32::NAN, 1.0, f32::NAN, f32::NEG_INFINITY]), Ok(1));
            assert_eq!(sample(&[f32::NAN, f32::NEG_INFINITY]), Err(SampleError::NothingPossible { vocab: 2, nan: 1 }));
            assert_eq!(sample(&[f32::NAN; 4]), Err(SampleError::NothingPossible { vocab: 4, nan: 4 }));
            assert_eq!(sample(&[]), Err(SampleError::NothingPossible { vocab: 0, nan: 0 }));
            if temperature != f32::INFINITY {
                assert_eq!(sample(&[0.0, f32::INFINITY, 1.0]), Ok(1));
            }
        }
        let hostile = SamplingParams {
            top_p: f32::NAN,
            min_p: f32::NAN,
            repetition_penalty: 0.0,
            presence_penalty: f32::NAN,
            frequency_penalty: f32::INFINITY,
            logit_bias: vec![(0, f32::NAN), (2, f32::NEG_INFINITY)],
            ..DEFAULT
        };
        let sampler = Sampler::new(hostile, Some(5), &[1]);
        assert!(sampler.sample(&[1.0, 2.0, 3.0, 4.0], 0, &mut Scratch::default()).is_ok());
    }

    #[test]
    fn the_generator_is_keyed_by_seed_and_position() {
        // Pinned: the same seed must draw the same numbers in every version.
        let draws: Vec<u64> = [(0, 0), (0, 1), (1, 0), (u64::MAX, 1 << 40)].map(|(s, p)| (uniform(s, p) * 1e15) as u64).to_vec();
        assert_eq!(draws, PINNED);
        // 1,000 seeds at one position and 1,000 positions of one seed are spread evenly: 10 bins of about 100.
        for numbers in [(0..1000).map(|i| uniform(i, 3)).collect::<Vec<_>>(), (0..1000).map(|i| uniform(3, i)).collect()] {
            let mut bins = [0; 10];
            numbers.iter().for_each(|number| bins[(number * 10.0) as usize] += 1);
            assert!(bins.iter().all(|&count| (60..=140).contains(&count)), "{bins:?}");
        }
    }
    const PINNED: [u64; 4] = [652448486374032, 701212109521525, 368189515651669, 544004138405307];

    #[test]
    fn draws_from_many_follow_the_distribution() {
        // 200 tokens in four chunks of 64 or less; the weight of token i is i % 10, so a tenth of them is impossible.
        let logits: Vec<f32> = (0..200).map(|i| ((i % 10) as f32).ln()).collect();
        let shares = shares(DEFAULT, &logits, 20_000);
        // Four standard deviations: 4 * sqrt(0.25 / 20000) = 0.014.
        for digit in 0..10 {
            let share: f64 = shares.iter().skip(digit).step_by(10).sum();
            assert!((share - digit as f64 / 45.0).abs() < 0.014, "{digit}: {share}");
        }
        for twenty in shares.chunks(20) {
            assert!((twenty.iter().sum::<f64>() - 0.1).abs() < 0.014);
        }
        assert!(shares.iter().step_by(10).all(|share| *share == 0.0));
        // top_p without top_k looks only at what is heavy enough, and must find the same as with a top_k that keeps all
        // that are possible.
        for top_p in [0.1, 0.5, 0.9, 0.999] {
            let (few, all) = (SamplingParams { top_p, ..DEFAULT }, SamplingParams { top_p, top_k: Some(199), ..DEFAULT });
            let (few, all) = (sampler(few), sampler(all));
            assert!((0..500).all(|position| sample(&few, &logits, position) == sample(&all, &logits, position)));
        }
    }

    proptest! {
        #[test]
        fn any_row_and_any_parameters_give_a_possible_token_or_an_error(
            logits in prop::collection::vec(prop_oneof![any::<f32>(), -10.0f32..10.0], 1..50),
            temperature in any::<f32>(), top_k in prop::option::of(0usize..60),
            filters in any::<[f32; 3]>(), ordinary in any::<bool>(), penalties in any::<[f32; 5]>(),
            repeat_last_n in prop::option::of(0usize..4), seed in any::<u64>(), position in 0usize..1000, allowed in any::<u64>(),
        ) {
            // Half of them within the bounds that a request has.
            let [typical_p, top_p, min_p] = if ordinary { filters.map(|filter| filter.abs().fract()) } else { filters };
            let breakers = std::sync::Arc::new(TokenMask::of(50, [3]));
            let dry = Dry { multiplier: penalties[3], base: penalties[4], allowed_length: 1, last_n: repeat_last_n, breakers };
            let params = SamplingParams {
                temperature, top_k, typical_p, top_p, min_p, seed, repeat_last_n, dry: Some(dry),
                repetition_penalty: penalties[0], presence_penalty: penalties[1], frequency_penalty: penalties[2],
                logit_bias: vec![(0, penalties[2])],
            };
            let mut sampler = Sampler::new(params, Some(4), &[1, 2]).with_no_stop_before(500, &[0, 5]);
            [2, 1, 2].into_iter().for_each(|token| sampler.observe(token));
            let mut mask = TokenMask::none(logits.len());
            mask.words_mut()[0] = allowed;
            if let Ok(token) = sampler.sample_within(Some(&mask), &logits, position, &mut Scratch::default()) {
                prop_assert!(mask.contains(token.id));
                let logprobs = token.logprobs.unwrap();
                prop_assert!(logprobs.logprob <= 0.0 && logprobs.logprob > f32::NEG_INFINITY, "{}", logprobs.logprob);
                prop_assert!(logprobs.top.iter().all(|(_, logprob)| !logprob.is_nan()));
            }
        }
    }
}
