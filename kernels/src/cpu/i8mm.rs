//! The integer sums of 64-bit ARM with the 8-bit matrix instructions: `smmla` multiplies two columns by two rows, eight values of
//! each, and adds the four sums to those of a register. It takes signed bytes on both sides and does not saturate, so levels pass as they
//! are, as in `neon`.
//!
//! Rows lie in panels of four, eight values of each side by side, so that a load has two rows; columns are laid side by side once they
//! are unpacked, two at a time. What is done with the sums, and all but quantized products, is that of `neon`.

use std::arch::aarch64::*;
use std::arch::asm;

use super::activation::{Panel, Panels, Shape};
use super::column::{Column, Format};
use super::neon::Neon;
use super::product::Block;
use super::row_lanes::RowLanes;
use super::sums::{Sums, one_by_one};
use super::target::Target;
use super::tile;
use crate::Weight;

/// NEON with the 8-bit matrix instructions.
pub(crate) struct I8mm;

/// [`tile::quantized`] with `smmla`.
#[target_feature(enable = "neon,i8mm")]
pub(crate) fn quantized(weight: &Weight, x: &Panels, block: &Block, out: &mut Target<'_>) {
    // SAFETY: this function runs only where the CPU has the instruction set.
    unsafe { tile::quantized::<I8mm>(weight, x, block, out) }
}

/// Two neighbouring columns as `smmla` reads them. Made of both, kept by the first.
#[repr(C, align(64))]
pub(crate) struct Pair {
    /// Eight levels of the first column, the same eight of the second.
    levels: [[u8; 16]; 32],
    /// Of formats with integer scales, each run's less that of the next: twice that of the first column, twice that of the second.
    steps: [[i32; 4]; 16],
}

impl Pair {
    pub const EMPTY: Self = Self { levels: [[0; 16]; 32], steps: [[0; 4]; 16] };
}

/// Sums of two columns and two rows: first column first row, first column second row, and the same of the second column.
type Square = int32x4_t;

/// Of `C` columns and `P` panels, `R` pairs of rows of each; of the columns' pairs as many are used as there are.
type Squares<const C: usize, const P: usize, const R: usize> = [[[Square; R]; P]; C];

/// `sum` and the products of two columns and two rows, eight values of each. In assembly: the intrinsic is not stable yet (Rust 1.95).
///
/// # Safety
/// The CPU has the instruction.
#[inline(always)]
pub(super) unsafe fn add_products(sum: Square, columns: int8x16_t, rows: int8x16_t) -> Square {
    let mut sum = sum;
    // SAFETY: the caller's promise; nothing but registers.
    unsafe {
        asm!(
            ".arch_extension i8mm",
            "smmla {sum:v}.4s, {columns:v}.16b, {rows:v}.16b",
            sum = inout(vreg) sum,
            columns = in(vreg) columns,
            rows = in(vreg) rows,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

impl Sums for I8mm {
    type Lanes = Neon;
    const SHAPE: Shape = Shape { lanes: Neon::ROWS, values: 8 };

    #[inline(always)]
    unsafe fn prepare<F: Format>(columns: &mut [Column]) {
        for [first, second] in columns.as_chunks_mut::<2>().0 {
            lay_side_by_side::<F>(first, second);
        }
    }

    #[inline(always)]
    unsafe fn scaled<F: Format, const C: usize, const P: usize>(columns: &[Column; C], x: &Panel<'_>) -> [[int32x4_t; P]; C] {
        // SAFETY: the caller's promise.
        unsafe {
            // Of a panel with two rows at most, only the first pair is computed.
            if P == 1 && x.rows <= 2 {
                by_column(scaled_squares::<F, C, P, 1>(columns, x))
            } else {
                by_column(scaled_squares::<F, C, P, 2>(columns, x))
            }
        }
    }

    #[inline(always)]
    unsafe fn of_run<F: Format, const C: usize, const P: usize>(columns: &[Column; C], x: &Panel<'_>, run: usize) -> [[int32x4_t; P]; C] {
        // SAFETY: the caller's promise; a run is four groups of eight, and there are eight runs.
        unsafe {
            if P == 1 && x.rows <= 2 {
                by_column(add_squares::<C, P, 1>(zeros(), columns, x, 4 * run, 4))
            } else {
                by_column(add_squares::<C, P, 2>(zeros(), columns, x, 4 * run, 4))
            }
        }
    }
}

#[inline(always)]
fn lay_side_by_side<F: Format>(first: &mut Column, second: &Column) {
    // SAFETY: NEON is in every 64-bit ARM CPU; 16 levels from multiples of 16 on, and four scales from multiples of four on, are within
    // the arrays, and so is what is stored.
    unsafe {
        for sixteen in 0..16 {
            let levels = |column: &Column| vreinterpretq_u64_u8(vld1q_u8(column.q.as_ptr().add(16 * sixteen)));
            let (a, b) = (levels(first), levels(second));
            let to = first.pair.levels.as_mut_ptr().add(2 * sixteen).cast::<u64>();
            vst1q_u64(to, vzip1q_u64(a, b));
            vst1q_u64(to.add(2), vzip2q_u64(a, b));
        }
        for four in 0..F::RUNS / 4 {
            // Each scale stands in both halves of 32 bits: the shift leaves it alone, with its sign.
            let scales = |column: &Column, four: usize| match four {
                four if four < F::RUNS / 4 => vshrq_n_s32::<16>(vld1q_s32(column.scales.as_ptr().add(4 * four))),
                _ => vdupq_n_s32(0),
            };
            let steps = |column: &Column| {
                let these = scales(column, four);
                vsubq_s32(these, vextq_s32::<1>(these, scales(column, four + 1)))
            };
            let (a, b) = (steps(first), steps(second));
            let (low, high) = (vzip1q_s32(a, b), vzip2q_s32(a, b));
            let to = first.pair.steps.as_mut_ptr().add(4 * four).cast::<i32>();
            vst1q_s32(to, vzip1q_s32(low, low));
            vst1q_s32(to.add(4), vzip2q_s32(low, low));
            vst1q_s32(to.add(8), vzip1q_s32(high, high));
            vst1q_s32(to.add(12), vzip2q_s32(high, high));
        }
    }
}

#[inline(always)]
fn zeros<const C: usize, const P: usize, const R: usize>() -> Squares<C, P, R> {
    // SAFETY: NEON is in every 64-bit ARM CPU.
    [[[unsafe { vdupq_n_s32(0) }; R]; P]; C]
}

/// Each run's products times its scale.
///
/// The products are summed up over all runs and never set back: a sum that goes on to the last run is multiplied, run by run, by what its
/// scale is more than the next, `sum of s_i p_i = sum of (s_i - s_(i+1)) (p_0 + .. + p_i)`. Exact in 32 bits, as the whole is.
///
/// # Safety
/// As [`Sums::scaled`].
#[inline(always)]
unsafe fn scaled_squares<F: Format, const C: usize, const P: usize, const R: usize>(
    columns: &[Column; C],
    x: &Panel<'_>,
) -> Squares<C, P, R> {
    // SAFETY: the caller's promise; the runs' groups run to 32.
    unsafe {
        let groups = 32 / F::RUNS;
        let (mut products, mut sums) = (zeros(), zeros());
        for run in 0..F::RUNS {
            products = add_squares::<C, P, R>(products, columns, x, run * groups, groups);
            for pair in 0..C.div_ceil(2) {
                let step = if C == 1 {
                    let next = if run + 1 < F::RUNS { columns[0].scales[run + 1] >> 16 } else { 0 };
                    vdupq_n_s32((columns[0].scales[run] >> 16) - next)
                } else {
                    vld1q_s32(columns[2 * pair].pair.steps[run].as_ptr())
                };
                for p in 0..P {
                    for r in 0..R {
                        sums[pair][p][r] = vmlaq_s32(sums[pair][p][r], products[pair][p][r], step);
                    }
                }
            }
        }
        sums
    }
}

/// `sums` and the products of `count` groups of eight values from group `first` on.
///
/// # Safety
/// The CPU has the instruction set, and `first + count <= 32`.
#[inline(always)]
unsafe fn add_squares<const C: usize, const P: usize, const R: usize>(
    mut sums: Squares<C, P, R>,
    columns: &[Column; C],
    x: &Panel<'_>,
    first: usize,
    count: usize,
) -> Squares<C, P, R> {
    // SAFETY: the caller's promise; a panel's group of eight values has two registers, of two rows each.
    unsafe {
        for group in first..first + count {
            let mut rows = [[vdupq_n_s8(0); R]; P];
            for p in 0..P {
                for r in 0..R {
                    rows[p][r] = vld1q_s8(x.q::<Neon>(p, 2 * group).add(16 * r));
                }
            }
            for pair in 0..C.div_ceil(2) {
                let levels = if C == 1 {
                    // One column alone is its own neighbour, and half of what comes out is not looked at.
                    vreinterpretq_s8_s64(vld1q_dup_s64(columns[0].q.as_ptr().add(8 * group).cast()))
                } else {
                    vld1q_s8(columns[2 * pair].pair.levels[group].as_ptr().cast())
                };
                for p in 0..P {
                    for r in 0..R {
                        sums[pair][p][r] = add_products(sums[pair][p][r], levels, rows[p][r]);
                    }
                }
            }
            one_by_one();
        }
        sums
    }
}

/// From two columns and two rows a register to four rows of one column.
#[inline(always)]
fn by_column<const C: usize, const P: usize, const R: usize>(squares: Squares<C, P, R>) -> [[int32x4_t; P]; C] {
    // SAFETY: NEON is in every 64-bit ARM CPU.
    unsafe {
        let mut columns = [[vdupq_n_s32(0); P]; C];
        for c in 0..C {
            for p in 0..P {
                let pair = &squares[c / 2][p];
                let low = vreinterpretq_s64_s32(pair[0]);
                let high = if R == 1 { vdupq_n_s64(0) } else { vreinterpretq_s64_s32(pair[R - 1]) };
                columns[c][p] = vreinterpretq_s32_s64(if c % 2 == 0 { vzip1q_s64(low, high) } else { vzip2q_s64(low, high) });
            }
        }
        columns
    }
}
