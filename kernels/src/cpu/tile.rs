//! Products with quantized weights for many rows: sixteen columns by 256 weights are unpacked once into a tile that stays in
//! the first-level cache, and every row of activations goes over it, several rows at a time in registers.
//!
//! Written once over [`Lanes`]; gives the bits that `scalar` defines. Loops: chunk of 256, tile of 16 columns, rows; the outputs
//! rest in the caller's scratch between chunks. An unpacked tile is 4 KB, a chunk of 512 rows of activations 180 KB: first- and second-level cache.

use super::activation::{Activation, Activations};
use super::lanes::Lanes;
use super::product::Block;
use super::scalar::chunk_bytes;
use super::tile_formats::{IQ4NL, IQ4XS, MXFP4, Q2K, Q3K, Q4_1, Q5_0, Q5_1, Signed};
use crate::blocks::{KBlock, half_at, q4_0, signed_block};
use crate::{GgmlType, Weight};

/// Columns of a tile.
pub(crate) const COLUMNS: usize = 16;

/// Sixteen columns of one chunk, unpacked.
#[repr(C, align(64))]
pub(crate) struct Tile {
    /// Four weights of each column in turn, 64 times.
    pub q: [[u8; 64]; 64],
    /// Types of 256 weights: the scale of each run of 32 (Q4_K, Q5_K, IQ4_XS: the first eight) or 16 weights (the others).
    pub scales: [[i32; COLUMNS]; 16],
    /// Two i16 a lane: minima of runs of 32 (Q4_K, Q5_K: the first four) or 16 (Q2_K), or scales of runs of 16, those of Q3_K and of
    /// signed levels times the offset of the levels.
    pub pairs: [[i32; COLUMNS]; 8],
    /// Types of 256 weights use the first; others have one for each run of 32.
    pub d: [[f32; COLUMNS]; 8],
    pub dmin: [f32; COLUMNS],
    /// The minimum of each run of 32 (Q4_1, Q5_1).
    pub m: [[f32; COLUMNS]; 8],
}

impl Tile {
    const EMPTY: Self = Self {
        q: [[0; 64]; 64],
        scales: [[0; COLUMNS]; 16],
        pairs: [[0; COLUMNS]; 8],
        d: [[0.0; COLUMNS]; 8],
        dmin: [0.0; COLUMNS],
        m: [[0.0; COLUMNS]; 8],
    };
}

/// Outputs of `block` of a quantized matrix, into `out` (rows of `block.stride()`).
///
/// # Safety
/// The CPU has the instruction set of `V`.
#[inline(always)]
pub(crate) unsafe fn quantized<V: Lanes>(weight: &Weight, x: &Activations, block: &Block, out: &mut [f32]) {
    // SAFETY: the caller promises the instruction set; the constants are those of the type.
    unsafe {
        match weight.ggml_type() {
            GgmlType::Q4K => chunks::<V, Q4K>(weight, x, block, out),
            GgmlType::Q5K => chunks::<V, Q5K>(weight, x, block, out),
            GgmlType::Q6K => chunks::<V, Q6K>(weight, x, block, out),
            GgmlType::Q8_0 => chunks::<V, Q8_0>(weight, x, block, out),
            GgmlType::Q4_0 => chunks::<V, Q4_0>(weight, x, block, out),
            GgmlType::Q4_1 => chunks::<V, Q4_1>(weight, x, block, out),
            GgmlType::Q5_0 => chunks::<V, Q5_0>(weight, x, block, out),
            GgmlType::Q5_1 => chunks::<V, Q5_1>(weight, x, block, out),
            GgmlType::IQ4NL => chunks::<V, IQ4NL>(weight, x, block, out),
            GgmlType::MXFP4 => chunks::<V, MXFP4>(weight, x, block, out),
            GgmlType::Q2K => chunks::<V, Q2K>(weight, x, block, out),
            GgmlType::Q3K => chunks::<V, Q3K>(weight, x, block, out),
            GgmlType::IQ4XS => chunks::<V, IQ4XS>(weight, x, block, out),
            other if signed_block(other).is_some() => chunks::<V, Signed>(weight, x, block, out),
            other => unreachable!("{other} is not a quantized type with a kernel"),
        }
    }
}

#[inline(always)]
unsafe fn chunks<V: Lanes, F: Format>(weight: &Weight, x: &Activations, block: &Block, out: &mut [f32]) {
    let (columns, stride, rows) = (&block.columns, block.stride(), block.rows.len());
    assert!(out.len() >= rows * stride, "the scratch holds the block");
    out.fill(0.0);
    let mut tile = Tile::EMPTY;
    let mut unpacked = [[0u8; 256]; COLUMNS];
    for chunk in 0..x.chunks {
        let x = x.chunk(chunk, block.rows.start, rows);
        for (at, first) in columns.clone().step_by(COLUMNS).enumerate() {
            let mut runs = 0;
            for (i, unpacked) in unpacked.iter_mut().enumerate() {
                // Lanes beyond the last column repeat it; their results are not read.
                let column = (first + i).min(columns.end - 1);
                let bytes = chunk_bytes(weight.ggml_type(), weight.row(column), chunk);
                F::unpack_type::<V>(weight.ggml_type(), bytes, i, &mut tile, unpacked);
                runs = bytes.len() / weight.ggml_type().block_bytes();
            }
            let out = &mut out[at * COLUMNS..];
            // SAFETY: sixteen columns and 64 groups, as `interleave` asks; each call below gets as many rows of `x` as it
            // computes, and `out` has `stride` numbers from the first of each row on, of which sixteen are this tile's.
            unsafe {
                V::interleave(unpacked.as_ptr(), tile.q.as_mut_ptr());
                let mut row = 0;
                while row + 8 <= rows && V::ROWS >= 8 {
                    F::rows::<V, 8>(&tile, runs, &x[row..row + 8], out[row * stride..].as_mut_ptr(), stride);
                    row += 8;
                }
                while row + 4 <= rows && V::ROWS >= 4 {
                    F::rows::<V, 4>(&tile, runs, &x[row..row + 4], out[row * stride..].as_mut_ptr(), stride);
                    row += 4;
                }
                while row + 2 <= rows {
                    F::rows::<V, 2>(&tile, runs, &x[row..row + 2], out[row * stride..].as_mut_ptr(), stride);
                    row += 2;
                }
                if row < rows {
                    F::rows::<V, 1>(&tile, runs, &x[row..row + 1], out[row * stride..].as_mut_ptr(), stride);
                }
            }
        }
    }
}

/// A block format, as the tile sees it.
pub(crate) trait Format {
    /// Unpacks one column of a chunk: weights into `q`, scales into lane `i` of the tile.
    fn unpack<V: Lanes>(bytes: &[u8], i: usize, tile: &mut Tile, q: &mut [u8; 256]);

    /// The same where a format stands for several types.
    #[inline(always)]
    fn unpack_type<V: Lanes>(_ty: GgmlType, bytes: &[u8], i: usize, tile: &mut Tile, q: &mut [u8; 256]) {
        Self::unpack::<V>(bytes, i, tile, q);
    }

    /// Adds `R` rows of `x` times the tile to `R` rows of 16 outputs.
    ///
    /// # Safety
    /// The CPU has the instruction set; `x` has `R` blocks, `out` `R` rows of 16 numbers, `stride` apart.
    unsafe fn rows<V: Lanes, const R: usize>(tile: &Tile, runs: usize, x: &[Activation], out: *mut f32, stride: usize);
}

struct Q4K;
struct Q5K;
struct Q6K;
pub(crate) struct Q8_0;
struct Q4_0;

impl Format for Q4K {
    #[inline(always)]
    fn unpack<V: Lanes>(bytes: &[u8], i: usize, tile: &mut Tile, q: &mut [u8; 256]) {
        unpack_with_mins::<V>(&KBlock::q4_k(bytes, q), i, tile);
    }

    #[inline(always)]
    unsafe fn rows<V: Lanes, const R: usize>(tile: &Tile, _runs: usize, x: &[Activation], out: *mut f32, stride: usize) {
        // SAFETY: the caller's promise.
        unsafe { rows_with_mins::<V, R>(tile, V::DOTS[0], x, out, stride) }
    }
}

impl Format for Q5K {
    #[inline(always)]
    fn unpack<V: Lanes>(bytes: &[u8], i: usize, tile: &mut Tile, q: &mut [u8; 256]) {
        unpack_with_mins::<V>(&KBlock::q5_k(bytes, q), i, tile);
    }

    #[inline(always)]
    unsafe fn rows<V: Lanes, const R: usize>(tile: &Tile, _runs: usize, x: &[Activation], out: *mut f32, stride: usize) {
        // SAFETY: the caller's promise.
        unsafe { rows_with_mins::<V, R>(tile, V::DOTS[1], x, out, stride) }
    }
}

#[inline(always)]
fn unpack_with_mins<V: Lanes>(block: &KBlock, i: usize, tile: &mut Tile) {
    (tile.d[0][i], tile.dmin[i]) = (block.d, block.dmin);
    for s in 0..8 {
        tile.scales[s][i] = V::pack_scale(block.scales[2 * s]);
    }
    for s in 0..4 {
        tile.pairs[s][i] = pair(block.mins[2 * s], block.mins[2 * s + 1]);
    }
}

/// The sums of scaled dots of one chunk: `count` runs of `groups` groups, at most `dots` of them between scalings.
#[inline(always)]
pub(crate) unsafe fn scaled_sums<V: Lanes, const R: usize>(tile: &Tile, groups: usize, dots: usize, x: &[Activation]) -> [V::Int; R] {
    // SAFETY: the caller has the instruction set; groups run to 64, so tile and activations are read within their arrays.
    unsafe {
        let mut sums = [V::int(0); R];
        for run in 0..64 / groups {
            let scale = V::load_int(tile.scales[run].as_ptr());
            let mut group = run * groups;
            for _ in 0..groups / dots {
                let w = V::weights(tile.q[group].as_ptr());
                let mut parts: [V::Part; R] = std::array::from_fn(|r| V::first_dot(w, V::four(x[r].q.as_ptr().add(4 * group))));
                for g in group + 1..group + dots {
                    let w = V::weights(tile.q[g].as_ptr());
                    for (part, x) in parts.iter_mut().zip(x) {
                        *part = V::add_dot(*part, w, V::four(x.q.as_ptr().add(4 * g)));
                    }
                }
                for (sum, part) in sums.iter_mut().zip(parts) {
                    *sum = V::add_scaled(*sum, part, scale);
                }
                group += dots;
            }
        }
        sums
    }
}

/// `sum` over `2 * N` runs of `pairs` times sums of activations.
#[inline(always)]
pub(crate) unsafe fn pair_sums<V: Lanes, const N: usize>(tile: &Tile, sums: *const i16) -> V::Int {
    // SAFETY: the caller has the instruction set, and `2 * N` sums.
    unsafe {
        let mut total = V::int(0);
        for p in 0..N {
            let two = sums.add(2 * p).cast::<i32>().read_unaligned();
            total = V::add_pairs(total, V::load_int(tile.pairs[p].as_ptr()), V::int(two));
        }
        total
    }
}

#[inline(always)]
unsafe fn rows_with_mins<V: Lanes, const R: usize>(tile: &Tile, dots: usize, x: &[Activation], out: *mut f32, stride: usize) {
    // SAFETY: the caller's promise; four pairs are the eight sums of 32.
    unsafe {
        let x = &x[..R];
        let sums = scaled_sums::<V, R>(tile, 8, dots, x);
        for r in 0..R {
            let d_x = V::float(x[r].d[0]);
            let mins = pair_sums::<V, 4>(tile, x[r].sums32.as_ptr());
            let at = out.add(r * stride);
            let acc = V::fma(V::mul(V::load(tile.d[0].as_ptr()), d_x), V::to_float(sums[r]), V::load(at));
            V::store(at, V::minus_fma(V::mul(V::load(tile.dmin.as_ptr()), d_x), V::to_float(mins), acc));
        }
    }
}

impl Format for Q6K {
    #[inline(always)]
    fn unpack<V: Lanes>(bytes: &[u8], i: usize, tile: &mut Tile, q: &mut [u8; 256]) {
        let block = KBlock::q6_k(bytes, q);
        tile.d[0][i] = block.d;
        for s in 0..16 {
            tile.scales[s][i] = V::pack_scale(block.scales[s]);
        }
        for s in 0..8 {
            tile.pairs[s][i] = pair(block.scales[2 * s], block.scales[2 * s + 1]);
        }
    }

    /// The weights pass as `q` and not `q - 32`; 32 times the scaled sums of the activations come off in one go.
    #[inline(always)]
    unsafe fn rows<V: Lanes, const R: usize>(tile: &Tile, _runs: usize, x: &[Activation], out: *mut f32, stride: usize) {
        // SAFETY: the caller's promise; eight pairs are the sixteen sums of 16.
        unsafe {
            let x = &x[..R];
            let sums = scaled_sums::<V, R>(tile, 4, V::DOTS[2], x);
            for r in 0..R {
                let offset = V::shift_left_5(pair_sums::<V, 8>(tile, x[r].sums16.as_ptr()));
                let d = V::mul(V::load(tile.d[0].as_ptr()), V::float(x[r].d[0]));
                let at = out.add(r * stride);
                V::store(at, V::fma(d, V::to_float(V::sub(sums[r], offset)), V::load(at)));
            }
        }
    }
}

impl Format for Q8_0 {
    #[inline(always)]
    fn unpack<V: Lanes>(bytes: &[u8], i: usize, tile: &mut Tile, q: &mut [u8; 256]) {
        for ((block, q), d) in bytes.chunks_exact(34).zip(q.chunks_exact_mut(32)).zip(&mut tile.d) {
            d[i] = half_at(block);
            q.copy_from_slice(&block[2..]);
        }
    }

    #[inline(always)]
    unsafe fn rows<V: Lanes, const R: usize>(tile: &Tile, runs: usize, x: &[Activation], out: *mut f32, stride: usize) {
        // SAFETY: the caller's promise; there are at most eight runs of eight groups.
        unsafe {
            let x = &x[..R];
            let mut accs: [V::Float; R] = std::array::from_fn(|r| V::load(out.add(r * stride)));
            for run in 0..runs.min(8) {
                let mut sums = [V::int(0); R];
                for g in 8 * run..8 * run + 8 {
                    let w = V::signed_weights(tile.q[g].as_ptr());
                    for (sum, x) in sums.iter_mut().zip(x) {
                        *sum = V::add_signed_dot(*sum, w, V::four(x.q.as_ptr().add(4 * g)));
                    }
                }
                let d_w = V::load(tile.d[run].as_ptr());
                for r in 0..R {
                    let mut sum = sums[r];
                    if V::SIGNED_OFFSET != 0 {
                        sum = V::sub(sum, V::int(V::SIGNED_OFFSET * i32::from(x[r].sums32[run])));
                    }
                    accs[r] = V::fma(V::mul(d_w, V::float(x[r].d[run])), V::to_float(sum), accs[r]);
                }
            }
            accs.into_iter().enumerate().for_each(|(r, acc)| V::store(out.add(r * stride), acc));
        }
    }
}

impl Format for Q4_0 {
    #[inline(always)]
    fn unpack<V: Lanes>(bytes: &[u8], i: usize, tile: &mut Tile, q: &mut [u8; 256]) {
        for ((block, q), d) in bytes.chunks_exact(18).zip(q.chunks_exact_mut(32)).zip(&mut tile.d) {
            let (scale, unpacked) = q4_0(block);
            d[i] = scale;
            q.copy_from_slice(&unpacked);
        }
    }

    /// The weights pass as `q` and not `q - 8`; 8 times the sum of the activations comes off.
    #[inline(always)]
    unsafe fn rows<V: Lanes, const R: usize>(tile: &Tile, runs: usize, x: &[Activation], out: *mut f32, stride: usize) {
        // SAFETY: the caller's promise; there are at most eight runs of eight groups.
        unsafe {
            let x = &x[..R];
            let mut accs: [V::Float; R] = std::array::from_fn(|r| V::load(out.add(r * stride)));
            for run in 0..runs.min(8) {
                let w = V::weights(tile.q[8 * run].as_ptr());
                let mut parts: [V::Part; R] = std::array::from_fn(|r| V::first_dot(w, V::four(x[r].q.as_ptr().add(32 * run))));
                for g in 8 * run + 1..8 * run + 8 {
                    let w = V::weights(tile.q[g].as_ptr());
                    for (part, x) in parts.iter_mut().zip(x) {
                        *part = V::add_dot(*part, w, V::four(x.q.as_ptr().add(4 * g)));
                    }
                }
                let d_w = V::load(tile.d[run].as_ptr());
                for r in 0..R {
                    let sum = V::sub(V::unscaled(parts[r]), V::int(8 * i32::from(x[r].sums32[run])));
                    accs[r] = V::fma(V::mul(d_w, V::float(x[r].d[run])), V::to_float(sum), accs[r]);
                }
            }
            accs.into_iter().enumerate().for_each(|(r, acc)| V::store(out.add(r * stride), acc));
        }
    }
}

#[inline(always)]
pub(crate) fn pair(low: i16, high: i16) -> i32 {
    i32::from(low as u16) | (i32::from(high) << 16)
}
