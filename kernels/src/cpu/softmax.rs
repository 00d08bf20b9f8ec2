//! Softmax over one row: a pass for the maximum, a pass for the exponentials and 32 running sums.

use super::exp::exp;
use super::f32x8::{Kernel, Lanes, run};
use super::isa::Isa;

/// See [`crate::ops::softmax::softmax_`].
pub fn softmax_(isa: Isa, row: &mut [f32]) {
    let max = run(isa, Max { row });
    if max == f32::NEG_INFINITY {
        return row.fill(0.0);
    }
    let sum = run(isa, ExpSum { row, max });
    row.iter_mut().for_each(|p| *p /= sum);
}

/// See [`crate::ops::softmax::log_sum_exp`].
pub fn log_sum_exp(isa: Isa, row: &[f32]) -> f32 {
    let max = run(isa, Max { row });
    if max == f32::NEG_INFINITY {
        return max;
    }
    let mut scratch = row.to_vec();
    max + run(isa, ExpSum { row: &mut scratch, max }).ln()
}

struct Max<'a> {
    row: &'a [f32],
}

impl Kernel for Max<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<L: Lanes>(self) -> f32 {
        let mut max = L::splat(f32::NEG_INFINITY);
        let mut chunks = self.row.chunks_exact(8);
        for chunk in &mut chunks {
            // SAFETY: the chunk holds 8 values.
            max = L::max(unsafe { L::load(chunk.as_ptr()) }, max);
        }
        chunks.remainder().iter().fold(L::max_lane(max), |max, &x| if x > max { x } else { max })
    }
}

/// `row = e^(row - max)`; returns the sum.
struct ExpSum<'a> {
    row: &'a mut [f32],
    max: f32,
}

impl Kernel for ExpSum<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<L: Lanes>(self) -> f32 {
        let max = L::splat(self.max);
        let mut sums = [L::splat(0.0); 4];
        for chunk in self.row.chunks_mut(32) {
            let mut padded = [f32::NEG_INFINITY; 32];
            padded[..chunk.len()].copy_from_slice(chunk);
            for (i, sum) in sums.iter_mut().enumerate() {
                // SAFETY: the array holds 32 values.
                unsafe {
                    let at = padded.as_mut_ptr().add(8 * i);
                    let p = exp::<L>(L::sub(L::load(at), max));
                    *sum = L::add(*sum, p);
                    L::store(at, p);
                }
            }
            chunk.copy_from_slice(&padded[..chunk.len()]);
        }
        L::sum32(sums)
    }
}
