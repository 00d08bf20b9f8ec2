//! One row's scores of one split: the maximum, the weights `2^(score - maximum)` in their place, and their sum.

use super::super::exp::{exp2, tanh};
use super::super::f32x8::{Kernel, Lanes};
use super::SPLIT_TOKENS;
use crate::BLOCK_TOKENS;

/// A row of scores, and what it sees of the split.
pub struct SoftmaxRow<'a> {
    /// `[SPLIT_TOKENS]`, in units of `log2` (with a cap: the argument of its tanh); only the blocks of `seen` are touched.
    pub row: &'a mut [f32],
    /// Not empty.
    pub seen: (usize, usize),
    pub cap_factor: Option<f32>,
}

impl Kernel for SoftmaxRow<'_> {
    /// Maximum and sum. Weights are summed in 32 lanes by token, block after block, and then in [`Lanes::sum32`]'s order; a key
    /// that is not seen weighs +0, which changes no sum. The largest weight is exactly 1, so the sum is at least 1, or NaN.
    type Output = (f32, f32);

    #[inline(always)]
    fn run<L: Lanes>(self) -> (f32, f32) {
        let Self { row, seen, cap_factor } = self;
        assert!(row.len() == SPLIT_TOKENS && seen.0 < seen.1 && seen.1 <= SPLIT_TOKENS, "a row sees some of a split");
        let (start, end) = (seen.0 / BLOCK_TOKENS * BLOCK_TOKENS, seen.1.next_multiple_of(BLOCK_TOKENS));
        if let Some(factor) = cap_factor {
            let factor = L::splat(factor);
            for chunk in row[start..end].chunks_exact_mut(8) {
                // SAFETY: the chunk holds 8 values; so in the loops below, which take a block of 32 at a time.
                unsafe { L::store(chunk.as_mut_ptr(), L::mul(tanh::<L>(L::load(chunk.as_ptr())), factor)) };
            }
        }
        row[start..seen.0].fill(f32::NEG_INFINITY);
        row[seen.1..end].fill(f32::NEG_INFINITY);
        let mut largest = [L::splat(f32::NEG_INFINITY); 4];
        for block in row[start..end].chunks_exact(BLOCK_TOKENS) {
            for (n, largest) in largest.iter_mut().enumerate() {
                // SAFETY: as above.
                *largest = L::max(unsafe { L::load(block.as_ptr().add(8 * n)) }, *largest);
            }
        }
        let max = L::max_lane(L::max(L::max(largest[0], largest[1]), L::max(largest[2], largest[3])));
        let shift = L::splat(max);
        let mut sums = [L::splat(0.0); 4];
        for block in row[start..end].chunks_exact_mut(BLOCK_TOKENS) {
            for (n, sum) in sums.iter_mut().enumerate() {
                // SAFETY: as above.
                unsafe {
                    let at = block.as_mut_ptr().add(8 * n);
                    let weights = exp2::<L>(L::sub(L::load(at), shift));
                    *sum = L::add(*sum, weights);
                    L::store(at, weights);
                }
            }
        }
        (max, L::sum32(sums))
    }
}
