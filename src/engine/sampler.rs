//! Decides the next token of one sequence from its logits.
//!
//! A function of the parameters, the sequence's own tokens, the position and the row of logits; of nothing else. The random number
//! is keyed by seed and absolute position, so neither the batch, nor a pause and resumption, nor a restart that feeds the answer so
//! far back as prompt changes what is drawn.
//!
//! Order: not-a-number is taken as impossible; `logit_bias`; repetition, presence and frequency penalties; (here the reported
//! log-probabilities are taken); greedy if the temperature is 0, else temperature, top_k, top_p over what top_k left, min_p, draw.
//! vLLM puts bias, penalties, log-probabilities and temperature in this order too; llama.cpp and transformers filter in the order
//! top_k, top_p, min_p (llama.cpp applies the temperature after them).
#![deny(clippy::disallowed_methods)]

use std::collections::{BinaryHeap, HashMap};

use super::{GeneratedToken, SamplingParams, TokenLogprobs};

/// How one sequence chooses, and what it has seen so far.
#[derive(Debug)]
pub struct Sampler {
    params: SamplingParams,
    top_logprobs: Option<usize>,
    /// Tokens of prompt and output; kept only if a penalty asks for them.
    seen: Option<HashMap<u32, Seen>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    in_output: u32,
}

/// Memory that one draw after the other uses.
#[derive(Debug, Default)]
pub struct Scratch {
    logits: Vec<f32>,
    weights: Weights,
    candidates: Vec<Candidate>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SampleError {
    #[error("the model's logits name no possible token: of {vocab}, {nan} are not a number")]
    NothingPossible { vocab: usize, nan: usize },
}

/// A token that may be drawn.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: u32,
    logit: f32,
    weight: f32,
}

/// Of every token in order of id: `exp((logit - largest) / temperature)`, 1 for the likeliest, and the sums of each 64.
#[derive(Debug, Default)]
struct Weights {
    each: Vec<f32>,
    sums: Vec<f64>,
}

/// Smaller exponents weigh nothing: 2^18 such tokens weigh `2^18 * e^-64 = 4e-23` of the heaviest, and a draw has 53 bits (1e-16).
const NEGLIGIBLE: f32 = -64.0;

impl Sampler {
    pub fn new(params: SamplingParams, top_logprobs: Option<usize>, prompt: &[u32]) -> Self {
        let penalties = params.repetition_penalty != 1.0 || params.presence_penalty != 0.0 || params.frequency_penalty != 0.0;
        let seen = penalties.then(|| prompt.iter().map(|&token| (token, Seen::default())).collect());
        Self { params, top_logprobs, seen }
    }

    /// The token for `position` (tokens before it, the prompt's included), from `logits [vocab]`.
    pub fn sample(&self, logits: &[f32], position: usize, scratch: &mut Scratch) -> Result<GeneratedToken, SampleError> {
        self.adjust(logits, &mut scratch.logits);
        let adjusted = &scratch.logits[..];
        let likeliest = argmax(adjusted);
        if adjusted.get(likeliest as usize).is_none_or(|&largest| largest == f32::NEG_INFINITY) {
            let nan = logits.iter().filter(|logit| logit.is_nan()).count();
            return Err(SampleError::NothingPossible { vocab: logits.len(), nan });
        }
        // A temperature that is no number is refused where requests are parsed; here it must merely do no harm.
        let id = if self.params.temperature > 0.0 {
            self.draw(adjusted, position, &mut scratch.weights, &mut scratch.candidates)
        } else {
            likeliest
        };
        Ok(GeneratedToken { id, logprobs: self.top_logprobs.map(|top| logprobs(adjusted, id, top)) })
    }

    /// The sampled token is part of the output now.
    pub fn observe(&mut self, token: u32) {
        if let Some(seen) = &mut self.seen {
            seen.entry(token).or_default().in_output += 1;
        }
    }

    /// Cleaned logits with bias and penalties.
    fn adjust(&self, logits: &[f32], adjusted: &mut Vec<f32>) {
        adjusted.clear();
        adjusted.extend(logits.iter().map(|&logit| clean(logit)));
        for &(token, bias) in &self.params.logit_bias {
            if let Some(logit) = adjusted.get_mut(token as usize) {
                *logit = clean(*logit + bias);
            }
        }
        for (&token, seen) in self.seen.iter().flatten() {
            let Some(logit) = adjusted.get_mut(token as usize) else { continue };
            let SamplingParams { repetition_penalty, presence_penalty, frequency_penalty, .. } = self.params;
            if repetition_penalty != 1.0 {
                *logit = clean(if *logit > 0.0 { *logit / repetition_penalty } else { *logit * repetition_penalty });
            }
            if seen.in_output > 0 {
                *logit = clean(*logit - presence_penalty - frequency_penalty * seen.in_output as f32);
            }
        }
    }

    fn draw(&self, logits: &[f32], position: usize, weights: &mut Weights, candidates: &mut Vec<Candidate>) -> u32 {
        let SamplingParams { top_k, top_p, min_p, .. } = self.params;
        let uniform = uniform(self.params.seed, position);
        // Within these bounds no difference of logits becomes not-a-number.
        let scale = 1.0 / self.params.temperature.clamp(1e-6, 1e6);
        let least = if min_p > 0.0 { min_p.min(1.0) } else { 0.0 };
        let largest = logits[argmax(logits) as usize];
        candidates.clear();
        match top_k {
            None if top_p < 1.0 => {
                let top_p = f64::from(top_p.max(0.0));
                weights.fill(logits, |logit| weight(logit, largest, scale));
                let total = weights.total();
                // Whatever is lighter than this weighs, all together, less than what `top_p` leaves out.
                let lightest = ((1.0 - top_p) * total / logits.len() as f64 * 0.999) as f32;
                let heavy = (0u32..).zip(logits.iter().zip(&weights.each)).filter(|(_, (_, weight))| **weight >= lightest);
                candidates.extend(heavy.map(|(id, (&logit, &weight))| Candidate { id, logit, weight }));
                keep_nucleus(candidates, top_p * total);
            }
            None => {
                weights.fill(logits, |logit| Some(weight(logit, largest, scale)).filter(|weight| *weight >= least).unwrap_or(0.0));
                return weights.pick(uniform);
            }
            Some(k) => {
                let likeliest = likeliest_first(logits, k.max(1)).into_iter();
                candidates.extend(likeliest.map(|(id, logit)| Candidate { id, logit, weight: weight(logit, largest, scale) }));
                if top_p < 1.0 {
                    keep_nucleus(candidates, f64::from(top_p) * sum(candidates));
                }
            }
        }
        candidates.retain(|candidate| candidate.weight >= least);
        let mut left = uniform * sum(candidates);
        for candidate in candidates.iter() {
            left -= f64::from(candidate.weight);
            if left < 0.0 {
                return candidate.id;
            }
        }
        // Only where rounding has eaten the last difference.
        candidates[0].id
    }
}

impl Weights {
    fn fill(&mut self, logits: &[f32], weigh: impl Fn(f32) -> f32) {
        self.each.clear();
        self.each.extend(logits.iter().map(|&logit| weigh(logit)));
        self.sums.clear();
        // Eight sums side by side: one order of addition, and one that vector units can follow.
        self.sums.extend(self.each.chunks(64).map(|chunk| {
            let mut lanes = [0.0f32; 8];
            for eight in chunk.chunks(8) {
                lanes.iter_mut().zip(eight).for_each(|(lane, weight)| *lane += weight);
            }
            lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>()
        }));
    }

    fn total(&self) -> f64 {
        self.sums.iter().sum()
    }

    /// The token at `uniform` of the way through all weights.
    fn pick(&self, uniform: f64) -> u32 {
        let mut left = uniform * self.total();
        for (index, &sum) in self.sums.iter().enumerate() {
            if left >= sum {
                left -= sum;
                continue;
            }
            let first = index * 64;
            let chunk = &self.each[first..self.each.len().min(first + 64)];
            let mut last = 0;
            for (offset, &weight) in chunk.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
                left -= f64::from(weight);
                last = offset;
                if left < 0.0 {
                    break;
                }
            }
            return (first + last) as u32;
        }
        // Only where rounding has eaten the last difference.
        argmax(&self.each)
    }
}

fn sum(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|candidate| f64::from(candidate.weight)).sum()
}

/// `exp((logit - largest) * scale)`, 0 where that is negligible.
///
/// An exponential of our own: the same bits on every machine, and of a shape that vector units can follow. `2^n * e^r` with `n` the
/// nearest whole number of halvings and `r` in +-ln(2)/2, of which the series to the 6th power is right to 1.2e-7.
fn weight(logit: f32, largest: f32, scale: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: what is added to it loses its fraction
    const LN_2_HIGH: f32 = 0.693_359_4; // 355 / 512: n times it is exact
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let exponent = (logit - largest) * scale;
    let x = exponent.max(NEGLIGIBLE);
    let n = (x * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    let series = 1.0 + r * (1.0 + r * (1.0 / 2.0 + r * (1.0 / 6.0 + r * (1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0))))));
    let halvings = f32::from_bits(((n as i32 + 127) << 23) as u32);
    if exponent >= NEGLIGIBLE { series * halvings } else { 0.0 }
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

/// Not-a-number: impossible. Plus infinity: the largest number there is, so that differences stay numbers. Minus zero: zero, so
/// that all orders agree that they are equal.
fn clean(logit: f32) -> f32 {
    if logit.is_nan() { f32::NEG_INFINITY } else { logit.min(f32::MAX) + 0.0 }
}

/// The first of the largest.
fn argmax(logits: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (id, &logit) in (0u32..).zip(logits) {
        if logit > best.1 {
            best = (id, logit);
        }
    }
    best.0
}

/// The `count` largest, likeliest first, equal ones in order of id: a heap of `count`, which most of a row never enters.
fn likeliest_first(logits: &[f32], count: usize) -> Vec<(u32, f32)> {
    let mut kept: BinaryHeap<WorstFirst> = BinaryHeap::with_capacity(count.min(logits.len()));
    if count == 0 {
        return Vec::new();
    }
    for (id, &logit) in (0u32..).zip(logits) {
        if kept.len() < count {
            kept.push(WorstFirst { id, logit });
        } else if kept.peek().is_some_and(|worst| logit > worst.logit) {
            kept.pop();
            kept.push(WorstFirst { id, logit });
        }
    }
    kept.into_sorted_vec().into_iter().map(|kept| (kept.id, kept.logit)).collect()
}

/// Greater is worse: the smaller logit, or among equals the greater id.
#[derive(PartialEq)]
struct WorstFirst {
    id: u32,
    logit: f32,
}
impl Eq for WorstFirst {}
impl PartialOrd for WorstFirst {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for WorstFirst {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.logit.total_cmp(&self.logit).then(self.id.cmp(&other.id))
    }
}

/// Keeps the likeliest whose weights sum to `wanted`, at least one, likeliest first. Sorts no more than it keeps, about:
/// the best 64, then the best of the rest, eight times as many each time.
fn keep_nucleus(candidates: &mut Vec<Candidate>, wanted: f64) {
    let by_rank = |a: &Candidate, b: &Candidate| b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id));
    let (mut sum, mut sorted, mut more) = (0.0, 0, 64);
    while sorted < candidates.len() {
        let rest = &mut candidates[sorted..];
        let take = more.min(rest.len());
        if take < rest.len() {
            rest.select_nth_unstable_by(take - 1, by_rank);
        }
        rest[..take].sort_unstable_by(by_rank);
        for index in sorted..sorted + take {
            sum += f64::from(candidates[index].weight);
            if sum >= wanted {
                candidates.truncate(index + 1);
                return;
            }
        }
        sorted += take;
        more *= 8;
    }
}

/// Natural logarithms, from the log of the sum of exponentials in f64.
fn logprobs(logits: &[f32], chosen: u32, top: usize) -> TokenLogprobs {
    let largest = f64::from(logits[argmax(logits) as usize]);
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum();
    let logprob = |logit: f32| ((f64::from(logit) - largest - sum.ln()) as f32).max(f32::MIN);
    let possible = likeliest_first(logits, top).into_iter().filter(|(_, logit)| *logit > f32::NEG_INFINITY);
    TokenLogprobs { logprob: logprob(logits[chosen as usize]), top: possible.map(|(id, logit)| (id, logprob(logit))).collect() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
        top_p: 1.0,
        min_p: 0.0,
        seed: 11,
        repetition_penalty: 1.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
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
    fn weights_are_exponentials() {
        for i in 0..6_400 {
            let x = -(i as f32) / 100.0;
            let (weight, exact) = (f64::from(weight(3.0 + x * 0.5, 3.0, 2.0)), f64::from((3.0 + x * 0.5 - 3.0) * 2.0f32).exp());
            assert!((weight / exact - 1.0).abs() < 5e-7, "exp({x}) = {exact}, not {weight}");
        }
        assert_eq!(weight(1.0, 1.0, 1e6), 1.0);
        assert_eq!(weight(-65.0, 0.0, 1.0), 0.0);
        assert_eq!(weight(f32::NEG_INFINITY, f32::MAX, 1e-6), 0.0);
    }

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
        // top_p without top_k looks only at what is heavy enough, and must find the same as with a top_k that keeps all.
        for top_p in [0.1, 0.5, 0.9, 0.999] {
            let (few, all) = (SamplingParams { top_p, ..DEFAULT }, SamplingParams { top_p, top_k: Some(200), ..DEFAULT });
            let (few, all) = (sampler(few), sampler(all));
            assert!((0..500).all(|position| sample(&few, &logits, position) == sample(&all, &logits, position)));
        }
    }

    /// The straightforward way: sort everything.
    fn likeliest_by_sorting(logits: &[f32], count: usize) -> Vec<(u32, f32)> {
        let mut all: Vec<(u32, f32)> = (0u32..).zip(logits.iter().copied()).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        all.truncate(count);
        all
    }

    proptest! {
        #[test]
        fn partial_selection_is_a_sort(steps in prop::collection::vec(-20i32..20, 1..700), count in 0usize..800, top_p in 0.0f64..1.0) {
            // Coarse steps make many ties.
            let logits: Vec<f32> = steps.iter().map(|&step| step as f32 * 0.25).collect();
            prop_assert_eq!(likeliest_first(&logits, count), likeliest_by_sorting(&logits, count));

            let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let weigh = |(id, logit): (u32, f32)| Candidate { id, logit, weight: weight(logit, largest, 1.0) };
            let mut kept: Vec<Candidate> = (0u32..).zip(logits.iter().copied()).map(weigh).collect();
            let wanted = top_p * sum(&kept);
            keep_nucleus(&mut kept, wanted);
            let (mut weighed, mut expected) = (0.0, Vec::new());
            for (id, logit) in likeliest_by_sorting(&logits, logits.len()) {
                expected.push(id);
                weighed += f64::from(weigh((id, logit)).weight);
                if weighed >= wanted {
                    break;
                }
            }
            prop_assert_eq!(kept.iter().map(|candidate| candidate.id).collect::<Vec<_>>(), expected);
        }

        #[test]
        fn any_row_and_any_parameters_give_a_possible_token_or_an_error(
            logits in prop::collection::vec(prop_oneof![any::<f32>(), -10.0f32..10.0], 1..50),
            temperature in any::<f32>(), top_k in prop::option::of(0usize..60), top_p in any::<f32>(), min_p in any::<f32>(),
            penalties in any::<[f32; 3]>(), seed in any::<u64>(), position in 0usize..1000,
        ) {
            let params = SamplingParams {
                temperature, top_k, top_p, min_p, seed,
                repetition_penalty: penalties[0], presence_penalty: penalties[1], frequency_penalty: penalties[2],
                logit_bias: vec![(0, penalties[2])],
            };
            let mut sampler = Sampler::new(params, Some(4), &[1, 2]);
            sampler.observe(2);
            if let Ok(token) = sampler.sample(&logits, position, &mut Scratch::default()) {
                prop_assert!((token.id as usize) < logits.len());
                let logprobs = token.logprobs.unwrap();
                prop_assert!(logprobs.logprob <= 0.0 && logprobs.logprob > f32::NEG_INFINITY, "{}", logprobs.logprob);
                prop_assert!(logprobs.top.iter().all(|(_, logprob)| !logprob.is_nan()));
            }
        }
    }
}
