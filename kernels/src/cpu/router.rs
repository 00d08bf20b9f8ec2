//! The router of a mixture of experts: from a row's logits to the experts it uses and their weights.
//!
//! One row is one sequence of operations on its own logits, so no other row can change its choice.

use super::isa::Isa;
use super::softmax::softmax_;

/// Softmax over all of `logits` (overwritten), then the `chosen.len()` largest, the largest first and of equals the lowest index;
/// with `renormalise` their probabilities divided by their sum, added up in that order.
///
/// A row with a NaN among its logits gets NaN weights (or zeros, where nothing else is there) and some experts, each once.
pub(crate) fn choose(isa: Isa, logits: &mut [f32], renormalise: bool, chosen: &mut [u32], weights: &mut [f32]) {
    assert!(chosen.len() <= logits.len() && chosen.len() == weights.len(), "as many experts as there are, a weight each");
    softmax_(isa, logits);
    let mut found = 0;
    for (expert, probability) in logits.iter().enumerate() {
        let mut place = found;
        // The first of equals stays in front, since only a larger one passes.
        while place > 0 && *probability > weights[place - 1] {
            place -= 1;
        }
        if place == weights.len() {
            continue;
        }
        found = (found + 1).min(weights.len());
        weights.copy_within(place..found - 1, place + 1);
        chosen.copy_within(place..found - 1, place + 1);
        (weights[place], chosen[place]) = (*probability, expert as u32);
    }
    if renormalise {
        let sum: f32 = weights.iter().sum();
        weights.iter_mut().for_each(|weight| *weight /= sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(logits: &[f32], used: usize, renormalise: bool) -> (Vec<u32>, Vec<f32>) {
        let (mut experts, mut weights) = (vec![0; used], vec![0.0; used]);
        choose(Isa::Scalar, &mut logits.to_vec(), renormalise, &mut experts, &mut weights);
        (experts, weights)
    }

    #[test]
    fn the_largest_come_first_and_of_equals_the_lowest_index() {
        assert_eq!(chosen(&[0.0, 2.0, 1.0, 3.0], 3, false).0, [3, 1, 2]);
        assert_eq!(chosen(&[1.0; 6], 4, false).0, [0, 1, 2, 3]);
        assert_eq!(chosen(&[0.0, 5.0, 0.0, 5.0, 5.0], 4, false).0, [1, 3, 4, 0]);
        assert_eq!(chosen(&[f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY], 3, false).0, [1, 0, 2]);
    }

    #[test]
    fn weights_are_probabilities_or_their_shares() {
        let logits = [0.5f32, -1.0, 2.0, 0.0];
        let exact: Vec<f64> = logits.iter().map(|x| f64::from(*x).exp()).collect();
        let sum: f64 = exact.iter().sum();
        for (weight, exact) in chosen(&logits, 2, false).1.iter().zip([exact[2] / sum, exact[0] / sum]) {
            assert!((f64::from(*weight) - exact).abs() < 1e-6, "{weight} is not {exact}");
        }
        for (weight, exact) in chosen(&logits, 2, true).1.iter().zip([exact[2], exact[0]]) {
            let exact = exact / (logits[2].exp() + logits[0].exp()) as f64;
            assert!((f64::from(*weight) - exact).abs() < 1e-6, "{weight} is not {exact}");
        }
        assert_eq!(chosen(&logits, 1, true).1, [1.0]);
    }

    #[test]
    fn a_sick_row_has_sick_weights_and_distinct_experts() {
        for bad in [f32::NAN, f32::INFINITY] {
            for logits in [[1.0, bad, 3.0, 2.0], [bad, 0.0, 0.0, 0.0], [bad; 4]] {
                let (mut experts, weights) = chosen(&logits, 3, true);
                experts.sort_unstable();
                experts.dedup();
                assert!(experts.len() == 3 && experts.iter().all(|expert| *expert < 4), "{experts:?}");
                assert!(weights.iter().all(|weight| weight.is_nan()), "{logits:?} gives {weights:?}");
            }
        }
    }
}
