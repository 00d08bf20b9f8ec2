//! Which tokens stay in the draw: top_k, typical_p, top_p, min_p. Whoever stays, stays in order of id, so that a draw is the same in
//! whatever way the others were found to be out.
#![deny(clippy::disallowed_methods)]

use super::row::{CHUNK, Row};
use super::weights::{Scale, weigh};

/// A token that may be drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    pub id: u32,
    pub weight: f32,
    /// How far the logit is below the largest.
    below: f32,
    /// What the filter at work goes by, never negative: who has less stays longer, among equals who has the smaller id.
    rank: f32,
}

/// In order of id.
#[derive(Debug, Default)]
pub struct Candidates {
    kept: Vec<Candidate>,
    /// Weight of all candidates by the first bits of their rank.
    buckets: Vec<f64>,
    /// Those of one bucket.
    edge: Vec<Candidate>,
}

/// Ranks are told apart by their first twelve bits (the sign is 0, so eleven: eight buckets from a number to its double), then by the next
/// ten.
const BUCKETS: usize = 1 << 11;
/// So many are sorted sooner than put into buckets.
const FEW: usize = 256;

impl Candidates {
    /// The `count` likeliest.
    pub fn fill_likeliest(&mut self, row: &Row, scale: Scale, count: usize) {
        self.kept.clear();
        self.kept.extend(row.likeliest_first(count).into_iter().map(|(id, logit)| candidate(id, logit, scale)));
        self.kept.sort_unstable_by_key(|candidate| candidate.id);
    }

    /// All that weigh at least `least`, and more than nothing.
    pub fn fill_heavy(&mut self, row: &Row, scale: Scale, least: f32) {
        let least = least.max(f32::MIN_POSITIVE);
        self.kept.clear();
        let mut weights = [0.0; CHUNK];
        // A little less, for the series need not rise with every last bit of its argument.
        for (first, chunk, _) in row.chunks().filter(|(_, _, peak)| scale.weight(*peak) >= least * 0.999) {
            weigh(chunk, scale, least, &mut weights);
            let weighed = (first..).zip(chunk.iter().zip(&weights)).filter(|(_, (_, weight))| **weight > 0.0);
            self.kept.extend(weighed.map(|(id, (&logit, &weight))| Candidate { id, weight, below: scale.largest - logit, rank: 0.0 }));
        }
    }

    pub fn total(&self) -> f64 {
        self.kept.iter().map(|candidate| f64::from(candidate.weight)).sum()
    }

    /// The likeliest whose weights sum to `wanted`, at least one (Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration").
    pub fn keep_nucleus(&mut self, wanted: f64) {
        self.kept.iter_mut().for_each(|candidate| candidate.rank = candidate.below);
        self.keep_until(wanted);
    }

    /// Those whose surprise is nearest to what the distribution leads one to expect, its entropy, until they hold `share` of it, at
    /// least one (Meister et al. 2022, "Locally Typical Sampling").
    ///
    /// With `x` the logarithm of a weight and `Z` their sum, surprise is `ln Z - x` and entropy the mean of that: what they differ by is
    /// `x` and the mean of `x`.
    pub fn keep_typical(&mut self, scale: Scale, share: f64) {
        let exponent = |candidate: &Candidate| f64::from(-candidate.below * scale.factor);
        // Side by side, as one sum after the other waits for itself.
        let mut totals = [(0.0, 0.0); 8];
        for eight in self.kept.chunks(8) {
            for ((total, product), candidate) in totals.iter_mut().zip(eight).filter(|(_, candidate)| candidate.weight > 0.0) {
                *total += f64::from(candidate.weight);
                *product += f64::from(candidate.weight) * exponent(candidate);
            }
        }
        let (total, product) = totals.iter().fold((0.0, 0.0), |sums, lane| (sums.0 + lane.0, sums.1 + lane.1));
        let mean = product / total;
        for candidate in &mut self.kept {
            candidate.rank = (exponent(candidate) - mean).abs() as f32;
        }
        self.keep_until(share * total);
    }

    /// Those that weigh at least this `share` of the heaviest, which is at most 1.
    pub fn keep_at_least(&mut self, share: f32) {
        let heaviest = self.kept.iter().fold(0.0f32, |heaviest, candidate| heaviest.max(candidate.weight));
        self.kept.retain(|candidate| candidate.weight >= share * heaviest);
    }

    /// The token at `uniform` of the way through all weights.
    pub fn pick(&self, uniform: f64) -> Option<u32> {
        let mut left = uniform * self.total();
        let mut last = None;
        for candidate in self.kept.iter().filter(|candidate| candidate.weight > 0.0) {
            left -= f64::from(candidate.weight);
            last = Some(candidate.id);
            if left < 0.0 {
                break;
            }
        }
        // The last one falls out where rounding has eaten the last difference.
        last
    }

    /// Keeps those of the smallest ranks whose weights sum to `wanted`, at least one. Only those are sorted whose ranks are nearly that of
    /// the last one: sums of buckets of similar ranks tell which these are.
    fn keep_until(&mut self, wanted: f64) {
        let mut sum = self.find_edge(wanted);
        self.edge.sort_unstable_by(|a, b| a.rank.total_cmp(&b.rank).then(a.id.cmp(&b.id)));
        let mut worst = None;
        for candidate in &self.edge {
            sum += f64::from(candidate.weight);
            worst = Some(*candidate);
            if sum >= wanted {
                break;
            }
        }
        let Some(worst) = worst else { return };
        self.kept.retain(|candidate| candidate.rank < worst.rank || (candidate.rank == worst.rank && candidate.id <= worst.id));
    }

    /// Puts those into `edge` among whom the last one to be kept is; the sum of the weights before them.
    fn find_edge(&mut self, wanted: f64) -> f64 {
        self.edge.clear();
        if self.kept.len() <= FEW {
            self.edge.extend_from_slice(&self.kept);
            return 0.0;
        }
        let coarse = |candidate: &Candidate| (candidate.rank.to_bits() >> 20) as usize;
        let fine = |candidate: &Candidate| (candidate.rank.to_bits() >> 10) as usize % BUCKETS;
        let (last, before_coarse) = bucket_that_holds(wanted, &self.kept, coarse, &mut self.buckets);
        self.edge.extend(self.kept.iter().filter(|candidate| coarse(candidate) == last));
        let (last, before_fine) = bucket_that_holds(wanted - before_coarse, &self.edge, fine, &mut self.buckets);
        self.edge.retain(|candidate| fine(candidate) == last);
        before_coarse + before_fine
    }
}

/// Of buckets of candidates the first at which the sum of weights reaches `wanted`, or the last that holds anything; and the sum before it.
fn bucket_that_holds(wanted: f64, candidates: &[Candidate], bucket: impl Fn(&Candidate) -> usize, buckets: &mut Vec<f64>) -> (usize, f64) {
    buckets.clear();
    buckets.resize(BUCKETS, 0.0);
    for candidate in candidates {
        buckets[bucket(candidate)] += f64::from(candidate.weight);
    }
    let (mut sum, mut found) = (0.0, (0, 0.0));
    for (index, &weight) in buckets.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
        found = (index, sum);
        sum += weight;
        if sum >= wanted {
            break;
        }
    }
    found
}

fn candidate(id: u32, logit: f32, scale: Scale) -> Candidate {
    Candidate { id, weight: scale.weight(logit), below: scale.largest - logit, rank: 0.0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filled(logits: &[f32], scale: Scale) -> Candidates {
        let mut row = Row::default();
        row.fill(logits, None);
        let mut candidates = Candidates::default();
        candidates.fill_heavy(&row, scale, 0.0);
        candidates
    }

    fn ids(candidates: &Candidates) -> Vec<u32> {
        candidates.kept.iter().map(|candidate| candidate.id).collect()
    }

    /// The straightforward way: sort everything, and take from the front.
    fn by_sorting(mut all: Vec<(u32, f64, f64)>, wanted: f64) -> Vec<u32> {
        all.sort_by(|a, b| a.2.total_cmp(&b.2).then(a.0.cmp(&b.0)));
        let (mut sum, mut kept) = (0.0, Vec::new());
        for (id, weight, _) in all {
            kept.push(id);
            sum += weight;
            if sum >= wanted {
                break;
            }
        }
        kept.sort_unstable();
        kept
    }

    proptest! {
        #[test]
        fn filters_keep_what_a_sort_would(steps in prop::collection::vec(-20i32..20, 1..900), share in 0.0f64..1.0, least in 0.0f32..0.1) {
            // Coarse steps make many ties, and sums of such weights are exact.
            let logits: Vec<f32> = steps.iter().map(|&step| step as f32 * 0.25).collect();
            let scale = Scale { largest: logits.iter().copied().fold(f32::NEG_INFINITY, f32::max), factor: 1.0 };
            let weighed: Vec<(u32, f64, f64)> =
                (0u32..).zip(&logits).map(|(id, &logit)| (id, f64::from(scale.weight(logit)), f64::from(scale.exponent(logit)))).collect();
            let total: f64 = weighed.iter().map(|(_, weight, _)| weight).sum();

            let mut nucleus = filled(&logits, scale);
            prop_assert_eq!(nucleus.total(), total);
            nucleus.keep_nucleus(share * total);
            let likeliest_first = weighed.iter().map(|&(id, weight, exponent)| (id, weight, -exponent)).collect();
            prop_assert_eq!(ids(&nucleus), by_sorting(likeliest_first, share * total));

            let mut typical = filled(&logits, scale);
            typical.keep_typical(scale, share);
            let mean = weighed.iter().map(|(_, weight, exponent)| weight * exponent).sum::<f64>() / total;
            // As the filter does it, in single precision: two tokens on either side of the mean may be equally far.
            let typical_first = weighed.iter().map(|&(id, weight, exponent)| (id, weight, f64::from((exponent - mean).abs() as f32)));
            prop_assert_eq!(ids(&typical), by_sorting(typical_first.collect(), share * total));

            let mut heavy = filled(&logits, scale);
            heavy.keep_at_least(least);
            let expected: Vec<u32> = weighed.iter().filter(|(_, weight, _)| *weight >= f64::from(least)).map(|(id, ..)| *id).collect();
            prop_assert_eq!(ids(&heavy), expected);
        }
    }

    #[test]
    fn what_is_typical_need_not_be_likely() {
        // Probabilities 0.5, 0.3 and four of 0.05. Their surprises are 0.69, 1.20 and 3.00, the entropy 1.31: the second is nearest to it,
        // then the first, then the others.
        let logits: Vec<f32> = [0.5f32, 0.3, 0.05, 0.05, 0.05, 0.05].iter().map(|p| p.ln()).collect();
        let scale = Scale { largest: logits[0], factor: 1.0 };
        for (share, kept) in
            [(0.0, &[1][..]), (0.29, &[1]), (0.31, &[0, 1]), (0.79, &[0, 1]), (0.81, &[0, 1, 2]), (1.0, &[0, 1, 2, 3, 4, 5])]
        {
            let mut candidates = filled(&logits, scale);
            candidates.keep_typical(scale, share);
            assert_eq!(ids(&candidates), kept, "{share}");
        }
    }
}
