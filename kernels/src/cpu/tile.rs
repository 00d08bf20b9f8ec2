//! Products with quantized weights for many rows: a row of activations in each lane of a register, columns of weights unpacked
//! once and broadcast four weights at a time, so that nothing of the weights has to be transposed.
//!
//! Written once over [`Sums`], [`RowLanes`] and [`Format`]; gives the bits that `scalar` defines. Loops: strip of columns, chunk of 256,
//! panel of rows, a few columns; the outputs rest column by column in memory between chunks. An unpacked column is 0.7 KB, a panel
//! of eight rows 2.6 KB: the panel and its columns stay in the first-level cache, all panels of a chunk in the second.

use std::cell::Cell;
use std::ops::Range;

use super::activation::{Panel, Panels};
use super::column::{Column, Correction, Format, Levels};
use super::formats::{Visitor, visit};
use super::product::Block;
use super::row_lanes::RowLanes;
use super::scalar::chunk_bytes_max;
use super::sums::Sums;
use super::target::Target;
use crate::Weight;

/// Columns unpacked together where there are many rows to share them.
const STRIP: usize = 24;
/// Up to so many panels reading the weights is what costs: columns side by side that are no neighbours, so that memory delivers
/// several long streams.
const FEW_PANELS: usize = 4;
/// Bytes of a column asked for ahead (see `avx2_few`).
const AHEAD: usize = 576;

/// Unpacked columns and unfinished outputs of a thread, kept between calls.
#[derive(Default)]
struct Workspace {
    columns: Vec<Column>,
    /// `[columns, rows of all panels]`
    sums: Vec<f32>,
}

thread_local! {
    static WORKSPACE: Cell<Workspace> = Cell::default();
}

/// Outputs of `block` of a quantized matrix.
///
/// # Safety
/// The CPU has the instruction set of `S`.
#[inline(always)]
pub(crate) unsafe fn quantized<S: Sums>(weight: &Weight, x: &Panels, block: &Block, out: &mut Target<'_>) {
    struct Body<'a, 't, S>(&'a Weight, &'a Panels, &'a Block, &'a mut Target<'t>, std::marker::PhantomData<S>);
    impl<S: Sums> Visitor for Body<'_, '_, S> {
        #[inline(always)]
        fn visit<F: Format>(self) {
            // SAFETY: `quantized`'s caller promises the instruction set.
            unsafe { strips::<S, F>(self.0, self.1, self.2, self.3) }
        }
    }
    visit(weight.ggml_type(), Body::<S>(weight, x, block, out, std::marker::PhantomData));
}

#[inline(always)]
unsafe fn strips<S: Sums, F: Format>(weight: &Weight, x: &Panels, block: &Block, out: &mut Target<'_>) {
    let lanes = S::SHAPE.lanes;
    assert!(x.shape == S::SHAPE && block.rows.start.is_multiple_of(lanes), "panels of this shape, from the first row of one");
    let panels = block.rows.start / lanes..block.rows.end.div_ceil(lanes);
    let few = panels.len() <= FEW_PANELS;
    let strip_width = if few { 2 * S::Lanes::COLUMNS } else { STRIP };
    let height = panels.len() * lanes;
    // Taken out and not borrowed: a closure handed to the standard library would be compiled without the instruction set.
    let mut workspace = WORKSPACE.take();
    let Workspace { columns, sums } = &mut workspace;
    columns.resize_with(columns.len().max(strip_width), || Column::EMPTY);
    sums.resize(sums.len().max(block.stride() * height), 0.0);
    if x.chunks == 0 {
        sums.fill(0.0);
    }
    let total = block.columns.len();
    let streams = if few { total / strip_width } else { 0 };
    let in_streams = streams * strip_width;
    // One call, because all of it is inlined here: two would be compiled twice.
    for nth in 0..streams + (total - in_streams).div_ceil(strip_width) {
        let strip = match nth.checked_sub(streams) {
            None => Strip { first: nth, step: streams, count: strip_width },
            Some(nth) => {
                let first = in_streams + nth * strip_width;
                Strip { first, step: 1, count: strip_width.min(total - first) }
            }
        };
        // SAFETY: the caller's promise.
        unsafe { chunks::<S, F>(weight, x, block, &strip, &panels, columns, sums) };
    }
    // SAFETY: the caller's promise.
    unsafe { turn::<S::Lanes>(sums, height, block, out) };
    WORKSPACE.set(workspace);
}

/// From columns of `height` sums to the rows of the block.
#[inline(always)]
unsafe fn turn<V: RowLanes>(sums: &[f32], height: usize, block: &Block, out: &mut Target<'_>) {
    let (rows, columns) = (block.rows.len(), block.columns.len());
    assert!(sums.len() >= columns * height && height >= rows, "a sum for each output");
    let (whole_rows, whole_columns) = (rows / 8 * 8, columns / 8 * 8);
    for row in (0..whole_rows).step_by(8) {
        for column in (0..whole_columns).step_by(8) {
            // SAFETY: the instruction set is the caller's promise; eight columns and rows are there, as just checked.
            unsafe { V::turn(sums.as_ptr().add(column * height + row), height, &out.square(row, column)) };
        }
    }
    for row in 0..rows {
        let first = if row < whole_rows { whole_columns } else { 0 };
        for column in first..columns {
            out.put(row, column, sums[column * height + row]);
        }
    }
}

/// Columns of a block that are unpacked together.
struct Strip {
    /// Counted from the block's first.
    first: usize,
    step: usize,
    count: usize,
}

/// Sets the strip's part of `sums` to the products of `panels` and its columns, chunk by chunk.
#[inline(always)]
unsafe fn chunks<S: Sums, F: Format>(
    weight: &Weight,
    x: &Panels,
    block: &Block,
    strip: &Strip,
    panels: &Range<usize>,
    columns: &mut [Column],
    sums: &mut [f32],
) {
    let height = panels.len() * S::Lanes::ROWS;
    let columns = &mut columns[..strip.count];
    let ty = weight.ggml_type();
    let (blocks, chunk_bytes) = (weight.blocks(), chunk_bytes_max(ty));
    for chunk in 0..x.chunks {
        let mut runs = 0;
        for (nth, column) in columns.iter_mut().enumerate() {
            let row = blocks.row(block.columns.start + strip.first + nth * strip.step);
            let bytes = &row[chunk * chunk_bytes..row.len().min((chunk + 1) * chunk_bytes)];
            prefetch(bytes.as_ptr().wrapping_add(AHEAD), chunk_bytes);
            // SAFETY: the caller's promise.
            runs = unsafe { S::Lanes::unpack::<F>(ty, bytes, column) };
        }
        // SAFETY: the caller's promise.
        unsafe { S::prepare::<F>(columns) };
        let mut panel = panels.start;
        while panel < panels.end {
            let count = if panel + S::Lanes::PANELS <= panels.end { S::Lanes::PANELS } else { 1 };
            let rows = x.panels(chunk, panel, count);
            let mut at = 0;
            while at < columns.len() {
                let left = columns.len() - at;
                let width = match count {
                    1 if left >= 2 * S::Lanes::COLUMNS => 2 * S::Lanes::COLUMNS,
                    _ if left >= S::Lanes::COLUMNS => S::Lanes::COLUMNS,
                    _ => 1,
                };
                let sums = &mut sums[(strip.first + at * strip.step) * height + (panel - panels.start) * S::Lanes::ROWS..];
                let tile = Tile { columns: &columns[at..at + width], panels: rows, runs, height: height * strip.step };
                if chunk == 0 {
                    for column in 0..width {
                        sums[column * tile.height..][..count * S::Lanes::ROWS].fill(0.0);
                    }
                }
                // SAFETY: the caller's promise.
                unsafe { tile.add::<S, F>(sums) };
                at += width;
            }
            panel += count;
        }
    }
}

/// A few columns and panels of one chunk.
struct Tile<'a> {
    columns: &'a [Column],
    panels: Panel<'a>,
    runs: usize,
    /// Distance of two columns of sums.
    height: usize,
}

impl Tile<'_> {
    /// Picks the register tile.
    #[inline(always)]
    unsafe fn add<S: Sums, F: Format>(&self, sums: &mut [f32]) {
        // SAFETY: the caller's promise.
        unsafe {
            match (self.columns.len(), self.panels.count) {
                (1, 1) => self.sized::<S, F, 1, 1>(sums),
                (1, 2) => self.sized::<S, F, 1, 2>(sums),
                (3, 1) => self.sized::<S, F, 3, 1>(sums),
                (3, 2) => self.sized::<S, F, 3, 2>(sums),
                (4, 1) => self.sized::<S, F, 4, 1>(sums),
                (4, 2) => self.sized::<S, F, 4, 2>(sums),
                (6, 1) => self.sized::<S, F, 6, 1>(sums),
                (8, 1) => self.sized::<S, F, 8, 1>(sums),
                (columns, panels) => unreachable!("no tile of {columns} x {panels}"),
            }
        }
    }

    #[inline(always)]
    unsafe fn sized<S: Sums, F: Format, const C: usize, const P: usize>(&self, sums: &mut [f32]) {
        // A set's own sizes only: no other tile is compiled.
        if (C != 1 && C != S::Lanes::COLUMNS && (P, C) != (1, 2 * S::Lanes::COLUMNS)) || (P != 1 && P != S::Lanes::PANELS) {
            unreachable!("not a tile of this set");
        }
        let columns: &[Column; C] = self.columns.try_into().expect("matched");
        assert!(self.panels.count == P && sums.len() >= (C - 1) * self.height + P * S::Lanes::ROWS && self.runs <= 8);
        // SAFETY: the caller's promise; the tile's sums, columns and panels are there.
        unsafe {
            if F::RUNS == 0 {
                with_float_scales::<S::Lanes, S, F, C, P>(columns, &self.panels, self.runs, sums.as_mut_ptr(), self.height);
            } else {
                with_integer_scales::<S::Lanes, S, F, C, P>(columns, &self.panels, sums.as_mut_ptr(), self.height);
            }
        }
    }
}

/// How much too large the levels are as a body multiplies them.
#[inline(always)]
fn offset<V: RowLanes, F: Format>() -> i32 {
    match (F::CORRECTION, F::LEVELS) {
        (Correction::Offset(offset), _) => offset,
        (_, Levels::Signed) => V::SIGNED_OFFSET,
        _ => 0,
    }
}

/// The integer sum of a chunk first, then its two scales.
#[inline(always)]
unsafe fn with_integer_scales<V: RowLanes, S: Sums<Lanes = V>, F: Format, const C: usize, const P: usize>(
    columns: &[Column; C],
    x: &Panel<'_>,
    out: *mut f32,
    height: usize,
) {
    // SAFETY: the caller has the instruction set, and room for these outputs.
    unsafe {
        let sums = S::scaled::<F, C, P>(columns, x);
        for p in 0..P {
            let d_x = V::load(x.d::<V>(p, 0));
            for (c, column) in columns.iter().enumerate() {
                let at = out.add(c * height + p * V::ROWS);
                let offset = offset::<V, F>();
                let sum = if offset == 0 { sums[c][p] } else { V::minus_times(sums[c][p], pairs_total::<V, F>(column, x, p), offset) };
                let mut acc = V::fma(V::mul(V::float(column.d[0]), d_x), V::to_float(sum), V::load(at));
                if F::CORRECTION == Correction::Minima {
                    acc = V::minus_fma(V::mul(V::float(column.m[0]), d_x), V::to_float(pairs_total::<V, F>(column, x, p)), acc);
                }
                V::store(at, acc);
            }
        }
    }
}

/// Minima or scales, met by the sums of the activations of panel `p`.
#[inline(always)]
unsafe fn pairs_total<V: RowLanes, F: Format>(column: &Column, x: &Panel<'_>, p: usize) -> V::Int {
    // SAFETY: the caller has the instruction set; at most 8 pairs.
    unsafe {
        let mut total = V::zero();
        for i in 0..F::RUNS / 2 {
            let sums = if F::RUNS == 16 { x.sums16::<V>(p, i) } else { x.sums32::<V>(p, i) };
            total = V::add_pairs(total, V::load_int(sums), &column.pairs[i]);
        }
        total
    }
}

/// Every run of 32 has its own scales.
#[inline(always)]
unsafe fn with_float_scales<V: RowLanes, S: Sums<Lanes = V>, F: Format, const C: usize, const P: usize>(
    columns: &[Column; C],
    x: &Panel<'_>,
    runs: usize,
    out: *mut f32,
    height: usize,
) {
    // SAFETY: the caller has the instruction set; runs run to 8 and groups to 64, so columns and panels are read within their arrays.
    unsafe {
        for run in 0..runs {
            let sums = S::of_run::<F, C, P>(columns, x, run);
            let offset = offset::<V, F>();
            for p in 0..P {
                let d_x = V::load(x.d::<V>(p, run));
                // One of the two i16 sums.
                let total =
                    V::add_pairs(V::zero(), V::load_int(x.sums32::<V>(p, run / 2)), &(if run.is_multiple_of(2) { 1 } else { 1 << 16 }));
                for (c, column) in columns.iter().enumerate() {
                    let sum = if offset == 0 { sums[c][p] } else { V::minus_times(sums[c][p], total, offset) };
                    let at = out.add(c * height + p * V::ROWS);
                    let mut acc = V::fma(V::mul(V::float(column.d[run]), d_x), V::to_float(sum), V::load(at));
                    if F::CORRECTION == Correction::Minima {
                        acc = V::fma(V::mul(V::float(column.m[run]), d_x), V::to_float(total), acc);
                    }
                    V::store(at, acc);
                }
            }
        }
    }
}

/// Asks for `len` bytes from `at` on, any address.
#[inline(always)]
pub(super) fn prefetch(at: *const u8, len: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..len).step_by(64) {
        // SAFETY: a prefetch of any address is harmless.
        unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.wrapping_add(line).cast()) };
    }
    #[cfg(target_arch = "aarch64")]
    for line in (0..len).step_by(64) {
        // SAFETY: as above. In assembly: the intrinsic is not stable yet (Rust 1.95).
        unsafe {
            std::arch::asm!("prfm pldl1keep, [{at}]", at = in(reg) at.wrapping_add(line).addr(), options(nomem, nostack, preserves_flags))
        };
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = (at, len);
}
