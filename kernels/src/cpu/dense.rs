//! Products with F32, F16 and BF16 weights: sixteen chains an output, as `scalar` defines them, several rows by several
//! columns of outputs in registers.
//!
//! A few columns of the weight are widened to f32 for a segment that stays in the first-level cache, and all rows go over it;
//! the chains of each output rest in memory between segments.

use super::product::{Block, DenseRows};
use super::scalar::{sum_lanes, widen_row};
use crate::{GgmlType, Weight};

/// Sixteen lanes of f32, one for each chain of an output.
///
/// # Safety
/// All methods: the CPU has the instruction set, and pointers are valid for 16 numbers. None needs alignment.
pub(crate) trait Chains {
    /// Of the instruction set, of the width of all sixteen lanes or half of them; of narrower ones, as many as make sixteen lanes count once.
    const REGISTERS: usize;
    type Float: Copy;

    unsafe fn load(at: *const f32) -> Self::Float;
    unsafe fn store(at: *mut f32, a: Self::Float);
    /// `a * b + c`, rounded once.
    unsafe fn fma(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float;
    /// Half-precision numbers, widened.
    unsafe fn load_f16(at: *const u8) -> Self::Float;
    /// bfloat16 numbers, widened.
    unsafe fn load_bf16(at: *const u8) -> Self::Float;
}

/// Weights of a column widened at a time: four columns are 8 KB. A multiple of 16.
const SEGMENT: usize = 512;

/// Outputs of `block` of a dense matrix, into `out` (rows of `block.stride()`).
///
/// # Safety
/// The CPU has the instruction set of `V`.
#[inline(always)]
pub(crate) unsafe fn dense<V: Chains>(weight: &Weight, x: &DenseRows<'_>, block: &Block, out: &mut [f32]) {
    // The chains of R x C outputs fill most of the registers: 12 of 16 (256 bits, two a chain set), 16 of 32 (512 bits and 128 bits, four
    // a chain set).
    // SAFETY: the caller's promise.
    unsafe {
        if V::REGISTERS >= 32 {
            strips::<V, 4, 4>(weight, x, block, out);
        } else if V::REGISTERS < 16 {
            strips::<V, 2, 2>(weight, x, block, out);
        } else {
            strips::<V, 2, 3>(weight, x, block, out);
        }
    }
}

#[inline(always)]
unsafe fn strips<V: Chains, const R: usize, const C: usize>(weight: &Weight, x: &DenseRows<'_>, block: &Block, out: &mut [f32]) {
    let (columns, rows, stride) = (&block.columns, block.rows.len(), block.stride());
    let mut widened = [[0.0f32; SEGMENT]; C];
    let mut chains = vec![[[0.0f32; 16]; C]; rows];
    for first in columns.clone().step_by(C) {
        chains.fill([[0.0; 16]; C]);
        for start in (0..x.stride).step_by(SEGMENT) {
            let len = SEGMENT.min(x.stride - start);
            for (i, widened) in widened.iter_mut().enumerate() {
                // Columns beyond the last repeat it; their results are not read.
                let column = (first + i).min(columns.end - 1);
                // SAFETY: the caller's promise.
                unsafe { widen::<V>(weight, column, start, &mut widened[..len]) };
            }
            let segment = |row: usize| &x.row(block.rows.start + row)[start..start + len];
            let mut row = 0;
            // SAFETY: the caller's promise for both.
            unsafe {
                while row + R <= rows {
                    let x: [&[f32]; R] = std::array::from_fn(|r| segment(row + r));
                    add::<V, R, C>(&widened, x, len, &mut chains[row..row + R]);
                    row += R;
                }
                while row < rows {
                    add::<V, 1, C>(&widened, [segment(row)], len, &mut chains[row..row + 1]);
                    row += 1;
                }
            }
        }
        for (row, chains) in chains.iter().enumerate() {
            for (i, lanes) in chains.iter().enumerate().take(columns.end - first) {
                out[row * stride + first - columns.start + i] = sum_lanes(*lanes);
            }
        }
    }
}

/// Goes on with the chains of `R` x `C` outputs over a segment of `len`, a multiple of 16.
///
/// # Safety
/// The CPU has the instruction set of `V`.
#[inline(always)]
unsafe fn add<V: Chains, const R: usize, const C: usize>(
    w: &[[f32; SEGMENT]; C],
    x: [&[f32]; R],
    len: usize,
    chains: &mut [[[f32; 16]; C]],
) {
    assert!(len <= SEGMENT && len.is_multiple_of(16) && x.iter().all(|x| x.len() == len) && chains.len() == R);
    // SAFETY: all loads and stores are of 16 numbers within the slices, as just checked.
    unsafe {
        let mut accs: [[V::Float; C]; R] = std::array::from_fn(|r| std::array::from_fn(|c| V::load(chains[r][c].as_ptr())));
        for k in (0..len).step_by(16) {
            let x: [V::Float; R] = std::array::from_fn(|r| V::load(x[r].as_ptr().add(k)));
            for c in 0..C {
                let w = V::load(w[c].as_ptr().add(k));
                for r in 0..R {
                    accs[r][c] = V::fma(w, x[r], accs[r][c]);
                }
            }
        }
        for (chains, accs) in chains.iter_mut().zip(accs) {
            chains.iter_mut().zip(accs).for_each(|(chain, acc)| V::store(chain.as_mut_ptr(), acc));
        }
    }
}

/// Weights `start..` of a row as f32, filled up with zeros beyond its end; `out` is a multiple of 16 long.
///
/// # Safety
/// The CPU has the instruction set of `V`.
#[inline(always)]
unsafe fn widen<V: Chains>(weight: &Weight, row: usize, start: usize, out: &mut [f32]) {
    let end = weight.cols().min(start + out.len());
    let whole = (end - start) / 16 * 16;
    let bytes = &weight.row(row)[start * weight.ggml_type().block_bytes()..];
    // SAFETY: whole groups of 16 weights are there, and room for them.
    unsafe {
        for (i, out) in out[..whole].chunks_exact_mut(16).enumerate() {
            let values = match weight.ggml_type() {
                GgmlType::F32 => V::load(bytes[64 * i..64 * i + 64].as_ptr().cast()),
                GgmlType::F16 => V::load_f16(bytes[32 * i..32 * i + 32].as_ptr()),
                GgmlType::BF16 => V::load_bf16(bytes[32 * i..32 * i + 32].as_ptr()),
                other => unreachable!("{other} is not dense"),
            };
            V::store(out.as_mut_ptr(), values);
        }
    }
    let tail = &mut out[whole..];
    tail.fill(0.0);
    widen_row(weight, row, start + whole..end, tail);
}

/// Plain arrays, shaped like the 512-bit registers; the safety of each method is its contract's.
impl Chains for super::row_lanes::Emulated {
    const REGISTERS: usize = 32;
    type Float = [f32; 16];

    unsafe fn load(at: *const f32) -> Self::Float {
        // SAFETY: 16 readable numbers, by the trait's contract.
        unsafe { at.cast::<[f32; 16]>().read_unaligned() }
    }

    unsafe fn store(at: *mut f32, a: Self::Float) {
        // SAFETY: room for 16 numbers, by the trait's contract.
        unsafe { at.cast::<[f32; 16]>().write_unaligned(a) }
    }

    unsafe fn fma(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }

    unsafe fn load_f16(at: *const u8) -> Self::Float {
        // SAFETY: 32 readable bytes, by the trait's contract.
        unsafe { at.cast::<[[u8; 2]; 16]>().read_unaligned() }.map(|half| half::f16::from_le_bytes(half).to_f32())
    }

    unsafe fn load_bf16(at: *const u8) -> Self::Float {
        // SAFETY: 32 readable bytes, by the trait's contract.
        unsafe { at.cast::<[[u8; 2]; 16]>().read_unaligned() }.map(|half| half::bf16::from_le_bytes(half).to_f32())
    }
}
