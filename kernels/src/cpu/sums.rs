//! The integer sums of a register tile: where one instruction set differs from another by more than its registers.
//!
//! Most multiply four values of a row at a time, a row in each lane, weights broadcast: all sets of [`RowLanes`], below. Knows no f32.

use super::activation::{Panel, Shape};
use super::column::{Column, Format, Levels};
use super::row_lanes::RowLanes;

/// Sums of levels times activations for `C` columns and `P` panels, whose results have a row in each lane.
///
/// # Safety
/// All methods: the CPU has the instruction set.
pub(crate) trait Sums {
    type Lanes: RowLanes;
    const SHAPE: Shape;

    /// Makes columns that were just unpacked ready for the others. Tiles begin at a multiple of four columns of these, but for those of one.
    unsafe fn prepare<F: Format>(columns: &mut [Column]);
    /// Of a whole chunk, each run's sum times its scale: of formats with integer scales.
    unsafe fn scaled<F: Format, const C: usize, const P: usize>(columns: &[Column; C], x: &Panel<'_>) -> [[IntOf<Self>; P]; C];
    /// Of run `run` of 32 weights.
    unsafe fn of_run<F: Format, const C: usize, const P: usize>(columns: &[Column; C], x: &Panel<'_>, run: usize) -> [[IntOf<Self>; P]; C];
}

pub(crate) type IntOf<S> = <<S as Sums>::Lanes as RowLanes>::Int;

impl<V: RowLanes> Sums for V {
    type Lanes = V;
    const SHAPE: Shape = Shape { lanes: V::ROWS, values: 4 };

    #[inline(always)]
    unsafe fn prepare<F: Format>(columns: &mut [Column]) {
        if F::LEVELS == Levels::Signed {
            // No closure: the standard library's function that would call it need not be inlined, and then nothing in it is.
            for column in columns {
                // SAFETY: the caller's promise.
                unsafe { V::prepare_signed(column) };
            }
        }
    }

    #[inline(always)]
    unsafe fn scaled<F: Format, const C: usize, const P: usize>(columns: &[Column; C], x: &Panel<'_>) -> [[V::Int; P]; C] {
        // SAFETY: the caller has the instruction set; groups run to 64, runs to 16, so columns and panels are read within their arrays.
        unsafe {
            let groups = 64 / F::RUNS;
            let dots = dots::<V, F>(groups);
            let mut sums = [[V::zero(); P]; C];
            for run in 0..F::RUNS {
                if F::LEVELS == Levels::Signed {
                    let mut totals = [[V::zero(); P]; C];
                    for g in run * groups..(run + 1) * groups {
                        add_signed_dots::<V, C, P>(columns, x, g, &mut totals);
                    }
                    for c in 0..C {
                        for p in 0..P {
                            sums[c][p] = V::add_scaled_sum(sums[c][p], totals[c][p], &columns[c].scales[run]);
                        }
                    }
                    continue;
                }
                let mut first = run * groups;
                while first < (run + 1) * groups {
                    let parts = unsigned_dots::<V, C, P>(columns, x, first, dots);
                    first += dots;
                    for c in 0..C {
                        for p in 0..P {
                            sums[c][p] = V::add_scaled(sums[c][p], parts[c][p], &columns[c].scales[run]);
                        }
                    }
                }
            }
            sums
        }
    }

    #[inline(always)]
    unsafe fn of_run<F: Format, const C: usize, const P: usize>(columns: &[Column; C], x: &Panel<'_>, run: usize) -> [[V::Int; P]; C] {
        // SAFETY: the caller has the instruction set; runs run to 8 and groups to 64, so columns and panels are read within their arrays.
        unsafe {
            let dots = dots::<V, F>(8);
            let mut sums = [[V::zero(); P]; C];
            if F::LEVELS == Levels::Signed {
                for g in 8 * run..8 * run + 8 {
                    add_signed_dots::<V, C, P>(columns, x, g, &mut sums);
                }
            } else {
                let mut first = 8 * run;
                while first < 8 * run + 8 {
                    let parts = unsigned_dots::<V, C, P>(columns, x, first, dots);
                    first += dots;
                    for c in 0..C {
                        for p in 0..P {
                            // The first sum is the part itself: adding it to zero costs nothing once compiled.
                            sums[c][p] = V::add(sums[c][p], V::unscaled(parts[c][p]));
                        }
                    }
                }
            }
            sums
        }
    }
}

/// Dots that fit a part, of one run of `groups` groups.
#[inline(always)]
fn dots<V: RowLanes, F: Format>(groups: usize) -> usize {
    let most = match F::LEVELS {
        Levels::Four => V::DOTS[0],
        Levels::Five => V::DOTS[1],
        Levels::Six => V::DOTS[2],
        Levels::Signed => groups,
    };
    most.min(groups)
}

/// `count` dots of unsigned levels from group `first` on, unscaled.
#[inline(always)]
unsafe fn unsigned_dots<V: RowLanes, const C: usize, const P: usize>(
    columns: &[Column; C],
    x: &Panel<'_>,
    first: usize,
    count: usize,
) -> [[V::Part; P]; C] {
    // SAFETY: the caller has the instruction set, and `first + count <= 64`.
    unsafe {
        let mut parts = [[V::no_part(); P]; C];
        for g in first..first + count {
            let mut rows = [V::zero(); P];
            for p in 0..P {
                rows[p] = V::rows(x.q::<V>(p, g));
            }
            for c in 0..C {
                let w = V::four(columns[c].q.as_ptr().add(4 * g));
                for p in 0..P {
                    parts[c][p] = V::add_dot(parts[c][p], w, rows[p]);
                }
            }
            one_by_one();
        }
        parts
    }
}

/// The compiler may not load anything of what comes after before this: it would unroll the groups, load far ahead and run out of
/// registers (half the speed, on 2026-11-26). No instruction.
#[inline(always)]
pub(super) fn one_by_one() {
    std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::SeqCst);
}

/// Adds the dots of signed levels of group `g`.
#[inline(always)]
unsafe fn add_signed_dots<V: RowLanes, const C: usize, const P: usize>(
    columns: &[Column; C],
    x: &Panel<'_>,
    g: usize,
    sums: &mut [[V::Int; P]; C],
) {
    // SAFETY: the caller has the instruction set, and `g < 64`.
    unsafe {
        // No closures here: the standard library's functions that would call them need not be inlined, and then nothing in them is.
        let mut rows = [V::zero(); P];
        for (p, rows) in rows.iter_mut().enumerate() {
            *rows = V::rows(x.q::<V>(p, g));
        }
        for c in 0..C {
            for p in 0..P {
                sums[c][p] = V::add_signed_dot(sums[c][p], &columns[c], g, rows[p]);
            }
        }
        one_by_one();
    }
}
