//! Root-mean-square norm on the CPU: one order of summation, 32 running sums whatever the instruction set.

use super::f32x8::{Kernel, Lanes, run};
use super::isa::Isa;
use super::pool::pool;
use super::shared_slice::SharedSlice;

/// Below so many values a second thread costs more than it brings.
const SERIAL_VALUES_MAX: usize = 16 * 1024;
/// Rows a task takes at a time.
const TASK_ROWS: usize = 16;

/// `out[t] = x[t] / sqrt(mean(x[t]^2) + eps) * w` for each row of `w.len()` values.
pub fn rms_norm(isa: Isa, x: &[f32], w: &[f32], eps: f32, out: &mut [f32]) {
    assert!(x.len() == out.len() && !w.is_empty() && x.len().is_multiple_of(w.len()), "rows as wide as the weight");
    let out = SharedSlice::new(out);
    for_row_ranges(x.len(), w.len(), |start, len| {
        // SAFETY: ranges of different tasks do not overlap.
        let out = unsafe { out.run(start, len) };
        run(isa, Norm { x: &x[start..start + len], w, eps, out });
    });
}

/// `residual += delta`, then [`rms_norm`] of it.
pub fn add_rms_norm_(isa: Isa, residual: &mut [f32], delta: &[f32], w: &[f32], eps: f32, out: &mut [f32]) {
    let same_len = residual.len() == delta.len() && residual.len() == out.len();
    assert!(same_len && !w.is_empty() && delta.len().is_multiple_of(w.len()), "rows as wide as the weight");
    let (residual, out) = (SharedSlice::new(residual), SharedSlice::new(out));
    for_row_ranges(delta.len(), w.len(), |start, len| {
        // SAFETY: ranges of different tasks do not overlap.
        let (residual, out) = unsafe { (residual.run(start, len), out.run(start, len)) };
        run(isa, AddNorm { residual, delta: &delta[start..start + len], w, eps, out });
    });
}

/// `1 / sqrt(mean(x^2) + eps)`. The squares go round robin into 32 sums (fused), which [`Lanes::sum32`] adds up.
#[inline(always)]
pub fn inverse_rms<L: Lanes>(x: &[f32], eps: f32) -> f32 {
    let mut sums = [L::splat(0.0); 4];
    let mut chunks = x.chunks_exact(32);
    for chunk in &mut chunks {
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the chunk holds 32 values.
            let v = unsafe { L::load(chunk.as_ptr().add(8 * i)) };
            *sum = L::fma(v, v, *sum);
        }
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        let mut padded = [0.0f32; 32];
        padded[..rest.len()].copy_from_slice(rest);
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the array holds 32 values.
            let v = unsafe { L::load(padded.as_ptr().add(8 * i)) };
            *sum = L::fma(v, v, *sum);
        }
    }
    1.0 / (L::sum32(sums) / x.len() as f32 + eps).sqrt()
}

/// `out = (x * factor) * w`.
#[inline(always)]
pub fn scale_row<L: Lanes>(x: &[f32], factor: f32, w: &[f32], out: &mut [f32]) {
    let len = x.len();
    assert!(w.len() == len && out.len() == len, "one weight a value");
    let whole = len - len % 8;
    let factors = L::splat(factor);
    for i in (0..whole).step_by(8) {
        // SAFETY: `i + 8 <= whole <= len` of all three.
        unsafe {
            let scaled = L::mul(L::load(x.as_ptr().add(i)), factors);
            L::store(out.as_mut_ptr().add(i), L::mul(scaled, L::load(w.as_ptr().add(i))));
        }
    }
    for ((out, x), w) in out[whole..].iter_mut().zip(&x[whole..]).zip(&w[whole..]) {
        *out = (x * factor) * w;
    }
}

/// Calls `task(start, len)` over ranges of whole rows that together cover `len` values.
fn for_row_ranges(len: usize, width: usize, task: impl Fn(usize, usize) + Sync) {
    if len <= SERIAL_VALUES_MAX {
        return task(0, len);
    }
    let range = TASK_ROWS * width;
    pool().run(len.div_ceil(range), |index| task(index * range, range.min(len - index * range)));
}

struct Norm<'a> {
    x: &'a [f32],
    w: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Kernel for Norm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let width = self.w.len();
        for (x, out) in self.x.chunks_exact(width).zip(self.out.chunks_exact_mut(width)) {
            scale_row::<L>(x, inverse_rms::<L>(x, self.eps), self.w, out);
        }
    }
}

struct AddNorm<'a> {
    residual: &'a mut [f32],
    delta: &'a [f32],
    w: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Kernel for AddNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self) {
        let width = self.w.len();
        let rows = self.residual.chunks_exact_mut(width).zip(self.delta.chunks_exact(width));
        for ((x, delta), out) in rows.zip(self.out.chunks_exact_mut(width)) {
            for (x, delta) in x.iter_mut().zip(delta) {
                *x += delta;
            }
            scale_row::<L>(x, inverse_rms::<L>(x, self.eps), self.w, out);
        }
    }
}
