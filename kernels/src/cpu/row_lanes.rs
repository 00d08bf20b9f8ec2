//! What the tiled body asks of an instruction set: a row of activations in each lane, and weights that all lanes share.
//!
//! The algorithm is written once over this trait (`tile`). An implementation is about one line a method; that over plain arrays
//! below is the 512-bit one with nothing but the arithmetic left, so the algorithm is tested where the instructions are missing.

use super::column::{Column, Format};
use super::target::{Square, Write};
use crate::GgmlType;

/// Lanes of 32 bits, a row of activations each.
///
/// # Safety
/// All methods: the CPU has the instruction set, and pointers are valid for what the method names. None needs alignment.
pub(crate) trait RowLanes {
    /// Lanes, the rows of a panel.
    const ROWS: usize;
    /// Panels and columns of outputs in one register tile.
    const PANELS: usize;
    const COLUMNS: usize;
    /// How many dots of levels below 16, 32 and 64 a `Part` holds without overflow, at most 8, 8 and 4.
    const DOTS: [usize; 3];
    /// Signed weights pass as unsigned: what [`RowLanes::add_signed_dot`] adds per unit of activation beside the product.
    const SIGNED_OFFSET: i32;

    /// A sum of dots before its scale.
    type Part: Copy;
    type Int: Copy;
    type Float: Copy;

    /// [`Format::unpack`], as fast as the set can.
    unsafe fn unpack<F: Format>(ty: GgmlType, bytes: &[u8], column: &mut Column) -> usize;
    /// Four activations of each row.
    unsafe fn rows(at: *const i8) -> Self::Int;
    /// Four weights, the same for all rows.
    unsafe fn four(at: *const u8) -> Self::Int;
    unsafe fn no_part() -> Self::Part;
    /// `part` and the dot of four unsigned weights and four activations, in each lane.
    unsafe fn add_dot(part: Self::Part, w: Self::Int, x: Self::Int) -> Self::Part;
    /// `sum + part * scale`, the scale in both halves of the i32.
    unsafe fn add_scaled(sum: Self::Int, part: Self::Part, scale: *const i32) -> Self::Int;
    unsafe fn unscaled(part: Self::Part) -> Self::Int;
    /// [`RowLanes::add_scaled`] for a whole sum, within 32 bits.
    unsafe fn add_scaled_sum(sum: Self::Int, dots: Self::Int, scale: *const i32) -> Self::Int;

    /// Makes a column's signed levels ready for [`RowLanes::add_signed_dot`].
    unsafe fn prepare_signed(column: &mut Column);
    /// `sum` and the dot of the column's four signed weights number `group` and four activations.
    unsafe fn add_signed_dot(sum: Self::Int, column: *const Column, group: usize, x: Self::Int) -> Self::Int;

    /// `sum + a0 * b0 + a1 * b1` over the two i16 in each i32 of `a` and of the one number at `b`.
    unsafe fn add_pairs(sum: Self::Int, a: Self::Int, b: *const i32) -> Self::Int;
    unsafe fn zero() -> Self::Int;
    unsafe fn add(a: Self::Int, b: Self::Int) -> Self::Int;
    /// [`RowLanes::ROWS`] i32.
    unsafe fn load_int(at: *const i32) -> Self::Int;
    /// `a - b * factor`.
    unsafe fn minus_times(a: Self::Int, b: Self::Int, factor: i32) -> Self::Int;
    /// To nearest.
    unsafe fn to_float(a: Self::Int) -> Self::Float;

    unsafe fn float(value: f32) -> Self::Float;
    unsafe fn load(at: *const f32) -> Self::Float;
    unsafe fn store(at: *mut f32, a: Self::Float);
    unsafe fn mul(a: Self::Float, b: Self::Float) -> Self::Float;
    /// `a * b + c`, rounded once.
    unsafe fn fma(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float;
    /// `c - a * b`, rounded once.
    unsafe fn minus_fma(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float;

    /// Eight rows of eight numbers, `from_stride` apart, to eight columns of outputs: bias and residual as [`Target::put`].
    unsafe fn turn(from: *const f32, from_stride: usize, to: &Square);
}

/// [`RowLanes::turn`] without any instruction set.
///
/// # Safety
/// As there.
pub(crate) unsafe fn turn_one_by_one(from: *const f32, from_stride: usize, square: &Square) {
    for (i, j) in (0..64).map(|at| (at / 8, at % 8)) {
        // SAFETY: all are there, by the contract.
        unsafe {
            let value = *from.add(i * from_stride + j);
            let value = square.bias.map_or(value, |bias| value + *bias.add(i));
            let to = square.to.add(j * square.stride + i);
            *to = if square.write == Write::Add { *to + value } else { value };
        }
    }
}

/// Plain arrays, shaped like the 512-bit registers.
pub(crate) struct Emulated;

fn each<T: Copy + Default>(f: impl FnMut(usize) -> T) -> [T; 16] {
    std::array::from_fn(f)
}

/// The two i16 in an i32.
fn halves(v: i32) -> (i32, i32) {
    (i32::from(v as i16), v >> 16)
}

// Not inlined: they are many instructions each, and there are hundreds of places, which compiled for minutes.
// The methods are safe code but for reading through their pointers, for which the trait's contract speaks.
impl RowLanes for Emulated {
    const ROWS: usize = 16;
    const PANELS: usize = 2;
    const COLUMNS: usize = 4;
    const DOTS: [usize; 3] = [8, 8, 4];
    const SIGNED_OFFSET: i32 = 128;
    type Part = [i32; 16];
    type Int = [i32; 16];
    type Float = [f32; 16];

    #[inline(never)]
    unsafe fn unpack<F: Format>(ty: GgmlType, bytes: &[u8], column: &mut Column) -> usize {
        F::unpack(ty, bytes, column)
    }

    #[inline(never)]
    unsafe fn rows(at: *const i8) -> Self::Int {
        // SAFETY: 64 readable bytes, by the trait's contract.
        unsafe { at.cast::<[i32; 16]>().read_unaligned() }
    }

    #[inline(never)]
    unsafe fn four(at: *const u8) -> Self::Int {
        // SAFETY: 4 readable bytes, by the trait's contract.
        [unsafe { at.cast::<i32>().read_unaligned() }; 16]
    }

    #[inline(never)]
    unsafe fn no_part() -> Self::Part {
        [0; 16]
    }

    #[inline(never)]
    unsafe fn add_dot(part: Self::Part, w: Self::Int, x: Self::Int) -> Self::Part {
        each(|i| {
            let (w, x) = (w[i].to_le_bytes(), x[i].to_le_bytes());
            part[i] + (0..4).map(|k| i32::from(w[k]) * i32::from(x[k] as i8)).sum::<i32>()
        })
    }

    #[inline(never)]
    unsafe fn add_scaled(sum: Self::Int, part: Self::Part, scale: *const i32) -> Self::Int {
        // SAFETY: a readable number, by the trait's contract.
        let (scale, _) = halves(unsafe { scale.read_unaligned() });
        each(|i| sum[i] + part[i] * scale)
    }

    #[inline(never)]
    unsafe fn unscaled(part: Self::Part) -> Self::Int {
        part
    }

    #[inline(never)]
    unsafe fn add_scaled_sum(sum: Self::Int, dots: Self::Int, scale: *const i32) -> Self::Int {
        // SAFETY: a readable number, by the trait's contract.
        unsafe { Self::add_scaled(sum, dots, scale) }
    }

    #[inline(never)]
    unsafe fn prepare_signed(column: &mut Column) {
        column.q.iter_mut().for_each(|q| *q ^= 128);
    }

    #[inline(never)]
    unsafe fn add_signed_dot(sum: Self::Int, column: *const Column, group: usize, x: Self::Int) -> Self::Int {
        // SAFETY: a readable column with 64 groups, by the trait's contract.
        unsafe { Self::add_dot(sum, Self::four((&raw const (*column).q).cast::<u8>().add(4 * group)), x) }
    }

    #[inline(never)]
    unsafe fn add_pairs(sum: Self::Int, a: Self::Int, b: *const i32) -> Self::Int {
        // SAFETY: a readable number, by the trait's contract.
        let (b0, b1) = halves(unsafe { b.read_unaligned() });
        each(|i| {
            let (a0, a1) = halves(a[i]);
            sum[i] + a0 * b0 + a1 * b1
        })
    }

    #[inline(never)]
    unsafe fn zero() -> Self::Int {
        [0; 16]
    }

    #[inline(never)]
    unsafe fn add(a: Self::Int, b: Self::Int) -> Self::Int {
        each(|i| a[i] + b[i])
    }

    #[inline(never)]
    unsafe fn load_int(at: *const i32) -> Self::Int {
        // SAFETY: 16 readable numbers, by the trait's contract.
        unsafe { at.cast::<[i32; 16]>().read_unaligned() }
    }

    #[inline(never)]
    unsafe fn minus_times(a: Self::Int, b: Self::Int, factor: i32) -> Self::Int {
        each(|i| a[i] - b[i] * factor)
    }

    #[inline(never)]
    unsafe fn to_float(a: Self::Int) -> Self::Float {
        a.map(|a| a as f32)
    }

    #[inline(never)]
    unsafe fn float(value: f32) -> Self::Float {
        [value; 16]
    }

    #[inline(never)]
    unsafe fn load(at: *const f32) -> Self::Float {
        // SAFETY: 16 readable numbers, by the trait's contract.
        unsafe { at.cast::<[f32; 16]>().read_unaligned() }
    }

    #[inline(never)]
    unsafe fn store(at: *mut f32, a: Self::Float) {
        // SAFETY: room for 16 numbers, by the trait's contract.
        unsafe { at.cast::<[f32; 16]>().write_unaligned(a) }
    }

    #[inline(never)]
    unsafe fn mul(a: Self::Float, b: Self::Float) -> Self::Float {
        each(|i| a[i] * b[i])
    }

    #[inline(never)]
    unsafe fn fma(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float {
        each(|i| a[i].mul_add(b[i], c[i]))
    }

    #[inline(never)]
    unsafe fn minus_fma(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float {
        each(|i| (-a[i]).mul_add(b[i], c[i]))
    }

    #[inline(never)]
    unsafe fn turn(from: *const f32, from_stride: usize, to: &Square) {
        // SAFETY: this contract is the same.
        unsafe { turn_one_by_one(from, from_stride, to) }
    }
}
