//! The plain bodies, and with them the definition of every product: what the vector bodies must reproduce bit for bit.
//!
//! One output is one chain of f32 operations, the same for any number of rows, any tiling and any instruction set:
//! - Types of 256 weights a block (K, IQ but for IQ4_NL, TQ), ascending: `acc = fma(d_w * d_x, S, acc)`, then (Q2_K, Q4_K, Q5_K)
//!   `acc = fma(-(dmin_w * d_x), M, acc)`. `S = sum scale * q_w * q_x` and `M = sum min * q_x` are exact integers (32 bits),
//!   converted to f32 once, to nearest. `d_w` and `q_w` are those of `blocks`: for IQ1 and IQ2 an eighth of what stands in the
//!   block and eight times the level, for IQ3_XXS a quarter, so that all is whole.
//! - Types of 32 weights a block, ascending: `acc = fma(d_w * d_x, S, acc)`, then (Q4_1, Q5_1) `acc = fma(m_w * d_x, sum q_x, acc)`.
//! - F32, F16, BF16: sixteen chains, value `k` in chain `k % 16`, `acc = fma(w, x, acc)`, `k` ascending, the row filled up with zeros
//!   to a multiple of 16; then lanes `i` and `i + 8` are added, of these `i` and `i + 4`, `i` and `i + 2`, and the last two.
//!
//! Scales are widened from half precision first; each product and each fma rounds once, to nearest.

use std::ops::Range;

use half::bf16;

use super::activation::{Activation, Activations};
use super::product::{Block, DenseRows};
use crate::blocks::{self, KBlock, tables};
use crate::{GgmlType, Weight};

/// Output of `block` of a quantized matrix, into `out`, rows of `block.stride()`.
pub(crate) fn quantized(weight: &Weight, x: &Activations, block: &Block, out: &mut [f32]) {
    let ty = weight.ggml_type();
    let stride = block.stride();
    out.fill(0.0);
    let mut q = [0; 256];
    for (at, column) in block.columns.clone().enumerate() {
        let row = weight.row(column);
        for chunk in 0..x.chunks {
            let x = x.chunk(chunk, block.rows.start, block.rows.len());
            let bytes = chunk_bytes(ty, row, chunk);
            let out = out[at..].iter_mut().step_by(stride);
            match ty {
                GgmlType::Q2K => k_product(&KBlock::q2_k(bytes, &mut q), &q, true, i32::from, x, out),
                GgmlType::Q3K => k_product(&KBlock::q3_k(bytes, &mut q), &q, false, |q| i32::from(q) - 4, x, out),
                GgmlType::Q4K => k_product(&KBlock::q4_k(bytes, &mut q), &q, true, i32::from, x, out),
                GgmlType::Q5K => k_product(&KBlock::q5_k(bytes, &mut q), &q, true, i32::from, x, out),
                GgmlType::Q6K => k_product(&KBlock::q6_k(bytes, &mut q), &q, false, |q| i32::from(q) - 32, x, out),
                GgmlType::Q8_0 => small_product(bytes, 34, blocks::q8_0, x, out),
                GgmlType::Q4_0 => small_product(bytes, 18, |block| with_offset(blocks::q4_0(block), 8), x, out),
                GgmlType::Q5_0 => small_product(bytes, 22, |block| with_offset(blocks::q5_0(block), 16), x, out),
                GgmlType::IQ4NL => small_product(bytes, 18, tables::iq4_nl, x, out),
                GgmlType::MXFP4 => small_product(bytes, 17, tables::mxfp4, x, out),
                GgmlType::Q4_1 => small_product_with_min(bytes, 20, blocks::q4_1, x, out),
                GgmlType::Q5_1 => small_product_with_min(bytes, 24, blocks::q5_1, x, out),
                other => {
                    let Some(read) = blocks::signed_block(other) else { unreachable!("{other} is not a quantized type with a kernel") };
                    k_product(&read(bytes, &mut q), &q, false, |q| i32::from(q as i8), x, out);
                }
            }
        }
    }
}

/// The bytes of up to 256 weights that meet chunk `chunk` of the activations.
pub(crate) fn chunk_bytes(ty: GgmlType, row: &[u8], chunk: usize) -> &[u8] {
    let bytes = chunk_bytes_max(ty);
    &row[chunk * bytes..row.len().min((chunk + 1) * bytes)]
}

/// The bytes of 256 weights.
pub(crate) const fn chunk_bytes_max(ty: GgmlType) -> usize {
    256 / ty.block_size() * ty.block_bytes()
}

fn k_product<'a, const MINS: usize>(
    w: &KBlock<MINS>,
    q: &[u8; 256],
    mins: bool,
    level: impl Fn(u8) -> i32,
    x: &[Activation],
    out: impl Iterator<Item = &'a mut f32>,
) {
    for (x, acc) in x.iter().zip(out) {
        let mut s = 0;
        for i in 0..16 {
            s += i32::from(w.scales[i]) * dot(&q[16 * i..][..16], &x.q[16 * i..][..16], |q| level(*q));
        }
        *acc = (w.d * x.d[0]).mul_add(s as f32, *acc);
        if mins {
            let sums: &[i16] = if MINS == 16 { &x.sums16 } else { &x.sums32 };
            let m: i32 = w.mins.iter().zip(sums).map(|(m, sum)| i32::from(*m) * i32::from(*sum)).sum();
            *acc = (-(w.dmin * x.d[0])).mul_add(m as f32, *acc);
        }
    }
}

fn small_product<'a>(
    bytes: &[u8],
    block_bytes: usize,
    unpack: impl Fn(&[u8]) -> (f32, [i8; 32]),
    x: &[Activation],
    out: impl Iterator<Item = &'a mut f32>,
) {
    let mut unpacked = [(0.0, [0; 32]); 8];
    let mut count = 0;
    for (block, slot) in bytes.chunks_exact(block_bytes).zip(&mut unpacked) {
        *slot = unpack(block);
        count += 1;
    }
    for (x, acc) in x.iter().zip(out) {
        for (b, (d, q)) in unpacked[..count].iter().enumerate() {
            let s = dot(q, &x.q[32 * b..][..32], |q| i32::from(*q));
            *acc = (d * x.d[b]).mul_add(s as f32, *acc);
        }
    }
}

fn small_product_with_min<'a>(
    bytes: &[u8],
    block_bytes: usize,
    unpack: impl Fn(&[u8]) -> (f32, f32, [u8; 32]),
    x: &[Activation],
    out: impl Iterator<Item = &'a mut f32>,
) {
    let mut unpacked = [(0.0, 0.0, [0; 32]); 8];
    let mut count = 0;
    for (block, slot) in bytes.chunks_exact(block_bytes).zip(&mut unpacked) {
        *slot = unpack(block);
        count += 1;
    }
    for (x, acc) in x.iter().zip(out) {
        for (b, (d, m, q)) in unpacked[..count].iter().enumerate() {
            let s = dot(q, &x.q[32 * b..][..32], |q| i32::from(*q));
            *acc = (d * x.d[b]).mul_add(s as f32, *acc);
            *acc = (m * x.d[b]).mul_add(f32::from(x.sums32[b]), *acc);
        }
    }
}

#[inline(always)]
fn dot<T>(w: &[T], x: &[i8], widen: impl Fn(&T) -> i32) -> i32 {
    w.iter().zip(x).map(|(w, x)| widen(w) * i32::from(*x)).sum()
}

fn with_offset((d, q): (f32, [u8; 32]), offset: i8) -> (f32, [i8; 32]) {
    (d, q.map(|q| q as i8 - offset))
}

/// Output of `block` of an F32, F16 or BF16 matrix.
pub(crate) fn dense(weight: &Weight, x: &DenseRows<'_>, block: &Block, out: &mut [f32]) {
    let stride = block.stride();
    let mut w = vec![0.0; x.stride];
    for (at, column) in block.columns.clone().enumerate() {
        widen_row(weight, column, 0..weight.cols(), &mut w);
        for (i, row) in block.rows.clone().enumerate() {
            out[i * stride + at] = dense_dot(&w, x.row(row));
        }
    }
}

/// Weights `range` of row `row` of a dense matrix as f32 (exact) at the start of `out`.
pub(crate) fn widen_row(weight: &Weight, row: usize, range: Range<usize>, out: &mut [f32]) {
    let bytes = weight.row(row);
    match weight.ggml_type() {
        GgmlType::F32 => {
            let bytes = bytes[4 * range.start..4 * range.end].chunks_exact(4);
            bytes.zip(out).for_each(|(b, o)| *o = f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        }
        GgmlType::F16 => {
            let bytes = bytes[2 * range.start..2 * range.end].chunks_exact(2);
            bytes.zip(out).for_each(|(b, o)| *o = blocks::half_at(b));
        }
        GgmlType::BF16 => {
            let bytes = bytes[2 * range.start..2 * range.end].chunks_exact(2);
            bytes.zip(out).for_each(|(b, o)| *o = bf16::from_le_bytes([b[0], b[1]]).to_f32());
        }
        other => unreachable!("{other} is not dense"),
    }
}

/// The sixteen chains and their sum; both slices are a multiple of 16 long.
fn dense_dot(w: &[f32], x: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    for (w, x) in w.chunks_exact(16).zip(x.chunks_exact(16)) {
        for i in 0..16 {
            lanes[i] = w[i].mul_add(x[i], lanes[i]);
        }
    }
    sum_lanes(lanes)
}

/// The fixed tree.
#[inline(always)]
pub(crate) fn sum_lanes(lanes: [f32; 16]) -> f32 {
    let eight: [f32; 8] = std::array::from_fn(|i| lanes[i] + lanes[i + 8]);
    let four: [f32; 4] = std::array::from_fn(|i| eight[i] + eight[i + 4]);
    (four[0] + four[2]) + (four[1] + four[3])
}
