//! Softmax over one row of logits on the host, for the sampler: the same bits on every instruction set.

use crate::cpu::isa::{Isa, isa};
use crate::cpu::softmax as cpu;

/// `row[i] = e^(row[i] - max) / sum`; minus infinity becomes 0. A row without a finite logit (or empty) is left all zeros.
pub fn softmax_(row: &mut [f32]) {
    cpu::softmax_(set(), row);
}

/// `ln(sum_i e^row[i])`: `row[i] - log_sum_exp(row)` is the log-probability of `i`. Minus infinity for a row without a finite logit.
pub fn log_sum_exp(row: &[f32]) -> f32 {
    cpu::log_sum_exp(set(), row)
}

/// The ops complain of a wrong `UNDERSTUDY_ISA`; here the plain body, with the same bits, will do.
fn set() -> Isa {
    isa().unwrap_or(Isa::Scalar)
}
