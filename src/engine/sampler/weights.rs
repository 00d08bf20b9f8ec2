//! Weights of all tokens of a row: `exp((logit - largest) / temperature)`, 1 for the likeliest. Kept as the sums of each chunk; a single
//! weight is computed again where it is asked for, which costs less than writing 150,000 of them down.
#![deny(clippy::disallowed_methods)]

use super::row::{CHUNK, Row};

/// Smaller exponents weigh nothing: 2^18 such tokens weigh `2^18 * e^-64 = 4e-23` of the heaviest, and a draw has 53 bits (1e-16).
const NEGLIGIBLE: f32 = -64.0;

/// What turns a logit into a weight.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    pub largest: f32,
    /// One over the temperature.
    pub factor: f32,
}

/// Sums of the weights of each chunk of a row.
#[derive(Debug, Default)]
pub struct Sums(Vec<f64>);

impl Scale {
    /// `exp((logit - largest) * factor)`, 0 where that is negligible.
    ///
    /// An exponential of our own: the same bits on every machine, and of a shape that vector units can follow. `2^n * e^r` with `n` the
    /// nearest whole number of halvings and `r` in +-ln(2)/2, of which the series to the 6th power is right to 1.2e-7.
    pub fn weight(self, logit: f32) -> f32 {
        const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: what is added to it loses its fraction
        const LN_2_HIGH: f32 = 0.693_359_4; // 355 / 512: n times it is exact
        const LN_2_LOW: f32 = -2.121_944_4e-4;
        let exponent = self.exponent(logit);
        let x = if exponent > NEGLIGIBLE { exponent } else { NEGLIGIBLE };
        let rounded = x * std::f32::consts::LOG2_E + ROUND;
        let n = rounded - ROUND;
        let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
        let series = 1.0 + r * (1.0 + r * (1.0 / 2.0 + r * (1.0 / 6.0 + r * (1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0))))));
        // The whole number stands in the last bits: taken from there, since a conversion that minds overflow keeps vector units out.
        let whole = rounded.to_bits().wrapping_sub(ROUND.to_bits());
        let halvings = f32::from_bits(whole.wrapping_add(127) << 23);
        if exponent >= NEGLIGIBLE { series * halvings } else { 0.0 }
    }

    /// 0 for the largest, negative for the others: the logarithm of the weight.
    pub fn exponent(self, logit: f32) -> f32 {
        (logit - self.largest) * self.factor
    }
}

impl Sums {
    /// Of a whole row; weights below `least` count as nothing.
    pub fn fill(&mut self, row: &Row, scale: Scale, least: f32) {
        self.0.clear();
        self.0.extend(row.chunks().map(|(_, chunk, peak)| {
            // A little less, for the series need not rise with every last bit of its argument.
            if scale.weight(peak) < least * 0.999 || scale.exponent(peak) < NEGLIGIBLE {
                return 0.0;
            }
            let mut weights = [0.0; CHUNK];
            weigh(chunk, scale, least, &mut weights);
            add(&weights)
        }));
    }

    pub fn total(&self) -> f64 {
        self.0.iter().sum()
    }

    /// The token at `uniform` of the way through all weights; the row, scale and least weight are those that the sums were filled with.
    pub fn pick(&self, row: &Row, scale: Scale, least: f32, uniform: f64) -> u32 {
        let mut left = uniform * self.total();
        let mut heaviest = 0;
        for (index, &sum) in self.0.iter().enumerate() {
            if sum > self.0[heaviest] {
                heaviest = index;
            }
            if left >= sum {
                left -= sum;
                continue;
            }
            return pick_in_chunk(row, scale, least, index, left);
        }
        // Only where rounding has eaten the last difference.
        pick_in_chunk(row, scale, least, heaviest, 0.0)
    }
}

fn pick_in_chunk(row: &Row, scale: Scale, least: f32, index: usize, mut left: f64) -> u32 {
    let mut weights = [0.0; CHUNK];
    weigh(row.chunk(index), scale, least, &mut weights);
    let mut last = 0;
    for (offset, &weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
        left -= f64::from(weight);
        last = offset;
        if left < 0.0 {
            break;
        }
    }
    (index * CHUNK + last) as u32
}

/// Weights of a chunk; the rest of the last one stays as it was.
pub fn weigh(chunk: &[f32], scale: Scale, least: f32, weights: &mut [f32; CHUNK]) {
    for (to, &logit) in weights.iter_mut().zip(chunk) {
        let weight = scale.weight(logit);
        *to = if weight >= least { weight } else { 0.0 };
    }
}

/// Eight sums side by side: one order of addition, and one that vector units can follow.
fn add(weights: &[f32; CHUNK]) -> f64 {
    let mut lanes = [0.0f32; 8];
    for eight in weights.chunks_exact(8) {
        lanes.iter_mut().zip(eight).for_each(|(lane, weight)| *lane += weight);
    }
    lanes.iter().map(|&lane| f64::from(lane)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(logit: f32, largest: f32, factor: f32) -> f32 {
        Scale { largest, factor }.weight(logit)
    }

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
    fn sums_are_of_what_weighs_enough() {
        let logits: Vec<f32> = (0..150).map(|i| -(i as f32) * 0.1).collect();
        let mut row = Row::default();
        row.fill(&logits, None);
        let scale = Scale { largest: 0.0, factor: 1.0 };
        for least in [0.0, 0.05, 0.5, 1.0] {
            let mut sums = Sums::default();
            sums.fill(&row, scale, least);
            let heavy: Vec<f64> = logits.iter().map(|&logit| f64::from(logit).exp()).filter(|weight| *weight >= f64::from(least)).collect();
            assert!((sums.total() - heavy.iter().sum::<f64>()).abs() < 1e-5, "{least}: {sums:?}");
            // Every token that weighs enough is drawn somewhere on the way, and in order.
            let mut drawn: Vec<u32> = (0..10_000).map(|i| sums.pick(&row, scale, least, f64::from(i) / 10_000.0)).collect();
            assert!(drawn.is_sorted());
            drawn.dedup();
            assert!(drawn.iter().all(|&id| (id as usize) < heavy.len()));
            assert!(least == 0.0 || drawn.len() == heavy.len(), "{least}: {drawn:?}");
        }
    }
}
