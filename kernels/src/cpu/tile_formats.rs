//! How the tile sees the formats beyond Q4_K, Q5_K, Q6_K, Q8_0 and Q4_0: what is unpacked of a column, and how rows meet it.
//!
//! Weights that are small unsigned numbers with an offset or a minimum pass unsigned, as Q4_0's and Q4_K's do; those from a table
//! or a codebook pass signed, as Q8_0's. The bits are those that `scalar` defines.

use super::activation::Activation;
use super::lanes::Lanes;
use super::tile::{Format, Q8_0, Tile, pair, pair_sums, scaled_sums};
use crate::GgmlType;
use crate::blocks::tables::{IQ4_VALUES, MXFP4_VALUES, e8m0_half, iq4_xs_scales};
use crate::blocks::{KBlock, half_at, q4_1, q5_0, q5_1, signed_block};

pub(crate) struct Q2K;
pub(crate) struct Q3K;
pub(crate) struct Q4_1;
pub(crate) struct Q5_0;
pub(crate) struct Q5_1;
pub(crate) struct IQ4NL;
pub(crate) struct MXFP4;
pub(crate) struct IQ4XS;
/// Any type of 256 signed levels, unpacked by plain code.
pub(crate) struct Signed;

impl Format for Q2K {
    #[inline(always)]
    fn unpack<V: Lanes>(bytes: &[u8], i: usize, tile: &mut Tile, q: &mut [u8; 256]) {
        let block = KBlock::q2_k(bytes, q);
        (tile.d[0][i], tile.dmin[i]) = (block.d, block.dmin);
        for s in 0..16 {
            tile.scales[s][i] = V::pack_scale(block.scales[s]);
        }
        for s in 0..8 {
            tile.pairs[s][i] = pair(block.mins[2 * s], block.mins[2 * s + 1]);
        }
    }

    #[inline(always)]
    unsafe fn rows<V: Lanes, const R: usize>(tile: &Tile, _runs: usize, x: &[Activation], out: *mut f32, stride: usize) {
        // SAFETY: the caller's promise; eight pairs are the sixteen sums of 16. Levels of two bits: four dots fit as those of four
        // bits do.
        unsafe {
            let x = &x[..R];
            let sums = scaled_sums::<V, R>(tile, 4, 4, x);
            for r in 0..R {
                let d_x = V::float(x[r].d[0]);
                let mins = pair_sums::<V, 8>(tile, x[r].sums16.as_ptr());
                let at = out.add(r * stride);
                let acc = V::fma(V::mul(V::load(tile.d[0].as_ptr()), d_x), V::to_float(sums[r]), V::load(at));
                V::store(at, V::minus_fma(V::mul(V::load(tile.dmin.as_ptr()), d_x), V::to_float(mins), acc));
            }
        }
    }
}

impl Format for Q3K {
    #[inline(always)]
    fn unpack<V: Lanes>(bytes: &[u8], i: usize, tile: &mut Tile, q: &mut [u8; 256]) {
        unpack_with_offset::<V>(&KBlock::q3_k(bytes, q), 4, i, tile);
    }

    /// The weights pass as `q` and not `q - 4`.
    #[inline(always)]
    unsafe fn rows<V: Lanes, const R: usize>(tile: &Tile, _runs: usize, x: &[Activation], out: *mut f32, stride: usize) {
        // SAFETY: the caller's promise. Levels of three bits: four dots fit as those of four bits do.
        unsafe { store_less_offset::<V, R>(tile, scaled_sums::<V, R>(tile, 4, 4, &x[..R]), x, out, stride) }
    }
}

impl Format for Signed {
    fn unpack<V: Lanes>(_bytes: &[u8], _i: usize, _tile: &mut Tile, _q: &mut [u8; 256]) {
        unreachable!("without its type a block of signed levels cannot be read");
    }

    #[inline(always)]
    fn unpack_type<V: Lanes>(ty: GgmlType, bytes: &[u8], i: usize, tile: &mut Tile, q: &mut [u8; 256]) {
        let read = signed_block(ty).expect("a type of signed levels");
        unpack_with_offset::<V>(&read(bytes, q), V::SIGNED_OFFSET as i16, i, tile);
    }

    #[inline(always)]
    unsafe fn rows<V: Lanes, const R: usize>(tile: &Tile, _runs: usize, x: &[Activation], out: *mut f32, stride: usize) {
        // SAFETY: the caller's promise.
        unsafe { signed_rows::<V, R, 16>(tile, x, out, stride) }
    }
}

impl Format for IQ4XS {
    #[inline(always)]
    fn unpack<V: Lanes>(bytes: &[u8], i: usize, tile: &mut Tile, q: &mut [u8; 256]) {
        for (packed, q) in bytes[8..136].chunks_exact(16).zip(q.chunks_exact_mut(32)) {
            // SAFETY: 16 bytes there, 32 here; the tile is unpacked only where the CPU has the set.
            unsafe { V::look_up(&IQ4_VALUES, packed.as_ptr(), q.as_mut_ptr()) };
        }
        let (d, scales) = iq4_xs_scales(bytes);
        tile.d[0][i] = d;
        for (s, scale) in scales.into_iter().enumerate() {
            tile.scales[s][i] = V::pack_scale(scale);
            let offset = V::SIGNED_OFFSET as i16 * scale;
            tile.pairs[s][i] = pair(offset, offset);
        }
    }

    #[inline(always)]
    unsafe fn rows<V: Lanes, const R: usize>(tile: &Tile, _runs: usize, x: &[Activation], out: *mut f32, stride: usize) {
        // SAFETY: the caller's promise.
        unsafe { signed_rows::<V, R, 32>(tile, x, out, stride) }
    }
}

/// Scales of runs of 16, and as pairs the same times `offset`, at most 128 * 32: what the offset of the levels adds to the sums.
#[inline(always)]
fn unpack_with_offset<V: Lanes>(block: &KBlock, offset: i16, i: usize, tile: &mut Tile) {
    tile.d[0][i] = block.d;
    for s in 0..16 {
        tile.scales[s][i] = V::pack_scale(block.scales[s]);
    }
    for s in 0..8 {
        tile.pairs[s][i] = pair(offset * block.scales[2 * s], offset * block.scales[2 * s + 1]);
    }
}

/// Adds `R` rows of `x` times signed levels with a scale for each `RUN` of them, 16 or 32.
#[inline(always)]
unsafe fn signed_rows<V: Lanes, const R: usize, const RUN: usize>(tile: &Tile, x: &[Activation], out: *mut f32, stride: usize) {
    // SAFETY: the caller has the instruction set; groups run to 64, so tile and activations are read within their arrays.
    unsafe {
        let x = &x[..R];
        let dots = V::SIGNED_DOTS.min(RUN / 4);
        let mut sums = [V::int(0); R];
        for run in 0..256 / RUN {
            let scale = V::load_int(tile.scales[run].as_ptr());
            for first in (run * RUN / 4..(run + 1) * RUN / 4).step_by(dots) {
                let w = V::signed_weights(tile.q[first].as_ptr());
                let mut parts: [V::Part; R] = std::array::from_fn(|r| V::first_signed_dot(w, V::four(x[r].q.as_ptr().add(4 * first))));
                for g in first + 1..first + dots {
                    let w = V::signed_weights(tile.q[g].as_ptr());
                    for (part, x) in parts.iter_mut().zip(x) {
                        *part = V::add_signed_part(*part, w, V::four(x.q.as_ptr().add(4 * g)));
                    }
                }
                for (sum, part) in sums.iter_mut().zip(parts) {
                    *sum = V::add_scaled(*sum, part, scale);
                }
            }
        }
        if V::SIGNED_OFFSET == 0 {
            let d_w = V::load(tile.d[0].as_ptr());
            for r in 0..R {
                let at = out.add(r * stride);
                V::store(at, V::fma(V::mul(d_w, V::float(x[r].d[0])), V::to_float(sums[r]), V::load(at)));
            }
        } else {
            store_less_offset::<V, R>(tile, sums, x, out, stride);
        }
    }
}

/// The end of a chunk whose levels passed with an offset: the pairs times the sums of the activations come off in one go.
#[inline(always)]
unsafe fn store_less_offset<V: Lanes, const R: usize>(tile: &Tile, sums: [V::Int; R], x: &[Activation], out: *mut f32, stride: usize) {
    // SAFETY: the caller's promise; eight pairs are the sixteen sums of 16.
    unsafe {
        let d_w = V::load(tile.d[0].as_ptr());
        for r in 0..R {
            let sum = V::sub(sums[r], pair_sums::<V, 8>(tile, x[r].sums16.as_ptr()));
            let at = out.add(r * stride);
            V::store(at, V::fma(V::mul(d_w, V::float(x[r].d[0])), V::to_float(sum), V::load(at)));
        }
    }
}

impl Format for Q4_1 {
    #[inline(always)]
    fn unpack<V: Lanes>(bytes: &[u8], i: usize, tile: &mut Tile, q: &mut [u8; 256]) {
        for (run, block) in bytes.chunks_exact(20).enumerate() {
            let (d, m, unpacked) = q4_1(block);
            (tile.d[run][i], tile.m[run][i]) = (d, m);
            q[32 * run..32 * run + 32].copy_from_slice(&unpacked);
        }
    }

    #[inline(always)]
    unsafe fn rows<V: Lanes, const R: usize>(tile: &Tile, runs: usize, x: &[Activation], out: *mut f32, stride: usize) {
        // SAFETY: the caller's promise.
        unsafe { unsigned_rows::<V, R, 0, true>(tile, runs, V::DOTS[0], x, out, stride) }
    }
}

impl Format for Q5_0 {
    #[inline(always)]
    fn unpack<V: Lanes>(bytes: &[u8], i: usize, tile: &mut Tile, q: &mut [u8; 256]) {
        for (run, block) in bytes.chunks_exact(22).enumerate() {
            let (d, unpacked) = q5_0(block);
            tile.d[run][i] = d;
            q[32 * run..32 * run + 32].copy_from_slice(&unpacked);
        }
    }

    /// The weights pass as `q` and not `q - 16`.
    #[inline(always)]
    unsafe fn rows<V: Lanes, const R: usize>(tile: &Tile, runs: usize, x: &[Activation], out: *mut f32, stride: usize) {
        // SAFETY: the caller's promise.
        unsafe { unsigned_rows::<V, R, 16, false>(tile, runs, V::DOTS[1], x, out, stride) }
    }
}

impl Format for Q5_1 {
    #[inline(always)]
    fn unpack<V: Lanes>(bytes: &[u8], i: usize, tile: &mut Tile, q: &mut [u8; 256]) {
        for (run, block) in bytes.chunks_exact(24).enumerate() {
            let (d, m, unpacked) = q5_1(block);
            (tile.d[run][i], tile.m[run][i]) = (d, m);
            q[32 * run..32 * run + 32].copy_from_slice(&unpacked);
        }
    }

    #[inline(always)]
    unsafe fn rows<V: Lanes, const R: usize>(tile: &Tile, runs: usize, x: &[Activation], out: *mut f32, stride: usize) {
        // SAFETY: the caller's promise.
        unsafe { unsigned_rows::<V, R, 0, true>(tile, runs, V::DOTS[1], x, out, stride) }
    }
}

/// Adds `R` rows of `x` times unsigned levels less `OFFSET`, runs of 32 with a scale and, with `MIN`, a minimum; `dots` of them
/// fit a part.
#[inline(always)]
unsafe fn unsigned_rows<V: Lanes, const R: usize, const OFFSET: i32, const MIN: bool>(
    tile: &Tile,
    runs: usize,
    dots: usize,
    x: &[Activation],
    out: *mut f32,
    stride: usize,
) {
    // SAFETY: the caller's promise; there are at most eight runs of eight groups.
    unsafe {
        let x = &x[..R];
        let mut accs: [V::Float; R] = std::array::from_fn(|r| V::load(out.add(r * stride)));
        for run in 0..runs.min(8) {
            let mut sums: [V::Int; R] = std::array::from_fn(|r| V::int(-OFFSET * i32::from(x[r].sums32[run])));
            for first in (8 * run..8 * run + 8).step_by(dots) {
                let w = V::weights(tile.q[first].as_ptr());
                let mut parts: [V::Part; R] = std::array::from_fn(|r| V::first_dot(w, V::four(x[r].q.as_ptr().add(4 * first))));
                for g in first + 1..first + dots {
                    let w = V::weights(tile.q[g].as_ptr());
                    for (part, x) in parts.iter_mut().zip(x) {
                        *part = V::add_dot(*part, w, V::four(x.q.as_ptr().add(4 * g)));
                    }
                }
                for (sum, part) in sums.iter_mut().zip(parts) {
                    *sum = V::add(*sum, V::unscaled(part));
                }
            }
            let (d_w, m_w) = (V::load(tile.d[run].as_ptr()), V::load(tile.m[run].as_ptr()));
            for r in 0..R {
                let d_x = V::float(x[r].d[run]);
                accs[r] = V::fma(V::mul(d_w, d_x), V::to_float(sums[r]), accs[r]);
                if MIN {
                    accs[r] = V::fma(V::mul(m_w, d_x), V::float(f32::from(x[r].sums32[run])), accs[r]);
                }
            }
        }
        accs.into_iter().enumerate().for_each(|(r, acc)| V::store(out.add(r * stride), acc));
    }
}

impl Format for IQ4NL {
    #[inline(always)]
    fn unpack<V: Lanes>(bytes: &[u8], i: usize, tile: &mut Tile, q: &mut [u8; 256]) {
        for (run, block) in bytes.chunks_exact(18).enumerate() {
            tile.d[run][i] = half_at(block);
            // SAFETY: 16 bytes there, 32 here; the tile is unpacked only where the CPU has the set.
            unsafe { V::look_up(&IQ4_VALUES, block[2..].as_ptr(), q[32 * run..32 * run + 32].as_mut_ptr()) };
        }
    }

    #[inline(always)]
    unsafe fn rows<V: Lanes, const R: usize>(tile: &Tile, runs: usize, x: &[Activation], out: *mut f32, stride: usize) {
        // SAFETY: the caller's promise.
        unsafe { Q8_0::rows::<V, R>(tile, runs, x, out, stride) }
    }
}

impl Format for MXFP4 {
    #[inline(always)]
    fn unpack<V: Lanes>(bytes: &[u8], i: usize, tile: &mut Tile, q: &mut [u8; 256]) {
        for (run, block) in bytes.chunks_exact(17).enumerate() {
            tile.d[run][i] = e8m0_half(block[0]);
            // SAFETY: 16 bytes there, 32 here; the tile is unpacked only where the CPU has the set.
            unsafe { V::look_up(&MXFP4_VALUES, block[1..].as_ptr(), q[32 * run..32 * run + 32].as_mut_ptr()) };
        }
    }

    #[inline(always)]
    unsafe fn rows<V: Lanes, const R: usize>(tile: &Tile, runs: usize, x: &[Activation], out: *mut f32, stride: usize) {
        // SAFETY: the caller's promise.
        unsafe { Q8_0::rows::<V, R>(tile, runs, x, out, stride) }
    }
}
