//! f32 weights into blocks: for tests and for the generator of benchmark files.
//!
//! A plain search for good scales, not ggml's own (its files differ by bits, not in quality worth naming). The formats are
//! those of `blocks`; this file must not know who reads the blocks.

use half::{bf16, f16};

use crate::GgmlType;
use crate::blocks::tables::{IQ4_VALUES, MXFP4_VALUES, e8m0_half};

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantizeError {
    #[error("no quantiser for {0}")]
    Unsupported(GgmlType),
    #[error("{len} values are not whole {ty} blocks of {block}", block = ty.block_size())]
    Length { ty: GgmlType, len: usize },
    #[error("value {index} is not finite")]
    NotFinite { index: usize },
}

/// Whether [`quantize`] makes blocks of `ty`: any computed type but those with a codebook (IQ1, IQ2, IQ3) and the ternary ones.
pub fn can_quantize(ty: GgmlType) -> bool {
    use GgmlType::*;
    ty.is_computed() && !matches!(ty, IQ3S | IQ3XXS | IQ2S | IQ2XS | IQ2XXS | IQ1M | IQ1S | TQ1_0 | TQ2_0)
}

/// `values` as consecutive blocks of `ty`, for any type of [`can_quantize`]. Each row of a matrix must be whole blocks, too; scales beyond
/// half precision are cut to its largest number.
pub fn quantize(ty: GgmlType, values: &[f32]) -> Result<Vec<u8>, QuantizeError> {
    if !can_quantize(ty) {
        return Err(QuantizeError::Unsupported(ty));
    }
    if !values.len().is_multiple_of(ty.block_size()) {
        return Err(QuantizeError::Length { ty, len: values.len() });
    }
    if let Some(index) = values.iter().position(|v| !v.is_finite()) {
        return Err(QuantizeError::NotFinite { index });
    }
    let mut out = Vec::with_capacity(values.len() / ty.block_size() * ty.block_bytes());
    for x in values.chunks_exact(ty.block_size()) {
        match ty {
            GgmlType::F32 => out.extend_from_slice(&x[0].to_le_bytes()),
            GgmlType::F16 => out.extend_from_slice(&f16::from_f32(x[0]).to_le_bytes()),
            GgmlType::BF16 => out.extend_from_slice(&bf16::from_f32(x[0]).to_le_bytes()),
            GgmlType::Q8_0 => q8_0(x, &mut out),
            GgmlType::Q4_0 => q4_0(x, &mut out),
            GgmlType::Q4_1 => q4_1(x, &mut out),
            GgmlType::Q5_0 => q5_0(x, &mut out),
            GgmlType::Q5_1 => q5_1(x, &mut out),
            GgmlType::IQ4NL => iq4_nl(x, &mut out),
            GgmlType::MXFP4 => mxfp4(x, &mut out),
            GgmlType::Q2K => q2_k(x, &mut out),
            GgmlType::Q3K => q3_k(x, &mut out),
            GgmlType::IQ4XS => iq4_xs(x, &mut out),
            GgmlType::Q4K => q4_k(x, &mut out),
            GgmlType::Q5K => q5_k(x, &mut out),
            GgmlType::Q6K => q6_k(x, &mut out),
            _ => unreachable!("checked above"),
        }
    }
    Ok(out)
}

fn q8_0(x: &[f32], out: &mut Vec<u8>) {
    let d = half_scale(largest(x).abs() / 127.0);
    out.extend_from_slice(&d.to_le_bytes());
    out.extend(x.iter().map(|x| level(*x, d.to_f32(), -127.0, 127.0) as i8 as u8));
}

/// The largest magnitude becomes level -8, the one end that has no counterpart.
fn q4_0(x: &[f32], out: &mut Vec<u8>) {
    let d = half_scale(largest(x) / -8.0);
    let q: Vec<u8> = x.iter().map(|x| (level(*x, d.to_f32(), -8.0, 7.0) + 8.0) as u8).collect();
    out.extend_from_slice(&d.to_le_bytes());
    nibbles(&q, out);
}

fn q4_1(x: &[f32], out: &mut Vec<u8>) {
    let q = from_smallest(x, 15.0, out);
    nibbles(&q, out);
}

/// As Q4_0, with level -16.
fn q5_0(x: &[f32], out: &mut Vec<u8>) {
    let d = half_scale(largest(x) / -16.0);
    let q: Vec<u8> = x.iter().map(|x| (level(*x, d.to_f32(), -16.0, 15.0) + 16.0) as u8).collect();
    out.extend_from_slice(&d.to_le_bytes());
    fifth_bits(&q, out);
    nibbles(&q, out);
}

fn q5_1(x: &[f32], out: &mut Vec<u8>) {
    let q = from_smallest(x, 31.0, out);
    fifth_bits(&q, out);
    nibbles(&q, out);
}

/// Writes d and m, the smallest value being level 0 and the largest `top`; the levels.
fn from_smallest(x: &[f32], top: f32, out: &mut Vec<u8>) -> Vec<u8> {
    let low = x.iter().copied().fold(f32::INFINITY, f32::min);
    let high = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let (d, m) = (half_scale((high - low) / top), half_scale(low));
    out.extend_from_slice(&d.to_le_bytes());
    out.extend_from_slice(&m.to_le_bytes());
    x.iter().map(|x| level(x - m.to_f32(), d.to_f32(), 0.0, top) as u8).collect()
}

/// 32 levels: byte `i` has the low nibbles of levels `i` and `i + 16`.
fn nibbles(q: &[u8], out: &mut Vec<u8>) {
    out.extend((0..16).map(|i| (q[i] & 15) | (q[i + 16] & 15) << 4));
}

fn fifth_bits(q: &[u8], out: &mut Vec<u8>) {
    let bits: u32 = q.iter().enumerate().map(|(i, q)| u32::from(q >> 4) << i).sum();
    out.extend_from_slice(&bits.to_le_bytes());
}

fn iq4_nl(x: &[f32], out: &mut Vec<u8>) {
    let d = half_scale(iq4_fit(x));
    let q: Vec<u8> = x.iter().map(|x| nearest(&IQ4_VALUES, *x, d.to_f32())).collect();
    out.extend_from_slice(&d.to_le_bytes());
    nibbles(&q, out);
}

/// Of the exponents that put the largest value beside the top of the table, the one with the smallest squared error.
fn mxfp4(x: &[f32], out: &mut Vec<u8>) {
    let top = (largest(x).abs().to_bits() >> 23) as i32;
    let error = |exponent: u8| -> f32 {
        let d = e8m0_half(exponent);
        x.iter().map(|x| (d * f32::from(MXFP4_VALUES[usize::from(nearest(&MXFP4_VALUES, *x, d))]) - x).powi(2)).sum()
    };
    // A value of 8 to 15 steps has an exponent two above the block's.
    let candidates = (top - 3..top).map(|exponent| exponent.clamp(0, 254) as u8);
    let exponent = candidates.min_by(|a, b| error(*a).total_cmp(&error(*b))).expect("three candidates");
    out.push(exponent);
    let q: Vec<u8> = x.iter().map(|x| nearest(&MXFP4_VALUES, *x, e8m0_half(exponent))).collect();
    nibbles(&q, out);
}

/// Which of a table's values times `step` is nearest to `x`; that nearest to 0 where the step is 0.
fn nearest(table: &[i8; 16], x: f32, step: f32) -> u8 {
    let target = if step == 0.0 { 0.0 } else { x / step };
    let distance = |i: &u8| (f32::from(table[usize::from(*i)]) - target).abs();
    (0..16).min_by(|a, b| distance(a).total_cmp(&distance(b))).expect("sixteen values")
}

/// The scale with `x` closest to it times values of IQ4's table, found as in [`affine_fit`]; any sign.
fn iq4_fit(x: &[f32]) -> f32 {
    let q = |x: f32, step: f32| f32::from(IQ4_VALUES[usize::from(nearest(&IQ4_VALUES, x, step))]);
    best_scale(x, (-6..=6).map(|step| -127.0 + 4.0 * step as f32), q)
}

fn q2_k(x: &[f32], out: &mut Vec<u8>) {
    let fits: Vec<(f32, f32)> = x.chunks_exact(16).map(|x| affine_fit(x, 3.0)).collect();
    let d = half_scale(fits.iter().map(|f| f.0).fold(0.0, f32::max) / 15.0);
    let dmin = half_scale(fits.iter().map(|f| f.1).fold(0.0, f32::max) / 15.0);
    let scales: Vec<u8> = fits.iter().map(|f| level(f.0, d.to_f32(), 0.0, 15.0) as u8).collect();
    let mins: Vec<u8> = fits.iter().map(|f| level(f.1, dmin.to_f32(), 0.0, 15.0) as u8).collect();
    let q = x.iter().enumerate().map(|(i, x)| {
        let (scale, min) = (d.to_f32() * f32::from(scales[i / 16]), dmin.to_f32() * f32::from(mins[i / 16]));
        level(x + min, scale, 0.0, 3.0) as u8
    });
    out.extend(scales.iter().zip(&mins).map(|(scale, min)| scale | min << 4));
    two_bits(&q.collect::<Vec<u8>>(), out);
    out.extend_from_slice(&d.to_le_bytes());
    out.extend_from_slice(&dmin.to_le_bytes());
}

fn q3_k(x: &[f32], out: &mut Vec<u8>) {
    let scales: Vec<f32> = x.chunks_exact(16).map(|x| symmetric_fit(x, 4.0)).collect();
    let d = half_scale(largest(&scales) / -32.0);
    let scales: Vec<f32> = scales.iter().map(|s| level(*s, d.to_f32(), -32.0, 31.0)).collect();
    let step = |i: usize| d.to_f32() * scales[i / 16];
    let q: Vec<u8> = x.iter().enumerate().map(|(i, x)| (level(*x, step(i), -4.0, 3.0) + 4.0) as u8).collect();
    out.extend((0..32).map(|i| (0..8).map(|s| (q[32 * s + i] >> 2) << s).sum::<u8>()));
    two_bits(&q, out);
    let scales: Vec<u8> = scales.iter().map(|s| (s + 32.0) as u8).collect();
    out.extend((0..8).map(|i| (scales[i] & 15) | (scales[i + 8] & 15) << 4));
    out.extend((0..4).map(|i| (0..4).map(|s| (scales[4 * s + i] >> 4) << (2 * s)).sum::<u8>()));
    out.extend_from_slice(&d.to_le_bytes());
}

/// 256 levels, of which the low two bits are written.
fn two_bits(q: &[u8], out: &mut Vec<u8>) {
    for q in q.chunks_exact(128) {
        out.extend((0..32).map(|i| (0..4).map(|s| (q[32 * s + i] & 3) << (2 * s)).sum::<u8>()));
    }
}

fn iq4_xs(x: &[f32], out: &mut Vec<u8>) {
    let scales: Vec<f32> = x.chunks_exact(32).map(iq4_fit).collect();
    let d = half_scale(largest(&scales) / -32.0);
    let scales: Vec<f32> = scales.iter().map(|s| level(*s, d.to_f32(), -32.0, 31.0)).collect();
    let codes: Vec<u8> = scales.iter().map(|s| (s + 32.0) as u8).collect();
    out.extend_from_slice(&d.to_le_bytes());
    let high: u16 = codes.iter().enumerate().map(|(i, code)| u16::from(code >> 4) << (2 * i)).sum();
    out.extend_from_slice(&high.to_le_bytes());
    out.extend(codes.chunks_exact(2).map(|two| (two[0] & 15) | (two[1] & 15) << 4));
    for (x, scale) in x.chunks_exact(32).zip(scales) {
        let q: Vec<u8> = x.iter().map(|x| nearest(&IQ4_VALUES, *x, d.to_f32() * scale)).collect();
        nibbles(&q, out);
    }
}

fn q4_k(x: &[f32], out: &mut Vec<u8>) {
    let (head, q) = with_mins(x, 15.0);
    out.extend_from_slice(&head);
    for q in q.chunks_exact(64) {
        out.extend((0..32).map(|i| q[i] | (q[i + 32] << 4)));
    }
}

fn q5_k(x: &[f32], out: &mut Vec<u8>) {
    let (head, q) = with_mins(x, 31.0);
    out.extend_from_slice(&head);
    out.extend((0..32).map(|i| (0..8).map(|s| (q[32 * s + i] >> 4) << s).sum::<u8>()));
    for q in q.chunks_exact(64) {
        out.extend((0..32).map(|i| (q[i] & 15) | ((q[i + 32] & 15) << 4)));
    }
}

fn q6_k(x: &[f32], out: &mut Vec<u8>) {
    let scales: Vec<f32> = x.chunks_exact(16).map(|x| symmetric_fit(x, 32.0)).collect();
    let d = half_scale(largest(&scales) / -128.0);
    let scales: Vec<f32> = scales.iter().map(|s| level(*s, d.to_f32(), -128.0, 127.0)).collect();
    let step = |i: usize| d.to_f32() * scales[i / 16];
    let q: Vec<u8> = x.iter().enumerate().map(|(i, x)| (level(*x, step(i), -32.0, 31.0) + 32.0) as u8).collect();
    for q in q.chunks_exact(128) {
        out.extend((0..64).map(|i| (q[i] & 15) | ((q[i + 64] & 15) << 4)));
    }
    for q in q.chunks_exact(128) {
        out.extend((0..32).map(|i| (0..4).map(|run| (q[32 * run + i] >> 4) << (2 * run)).sum::<u8>()));
    }
    out.extend(scales.iter().map(|s| *s as i8 as u8));
    out.extend_from_slice(&d.to_le_bytes());
}

/// The 16 bytes before the weights of Q4_K and Q5_K, and the levels `0..=top` of the 256 weights.
fn with_mins(x: &[f32], top: f32) -> (Vec<u8>, Vec<u8>) {
    let fits: Vec<(f32, f32)> = x.chunks_exact(32).map(|x| affine_fit(x, top)).collect();
    let d = half_scale(fits.iter().map(|f| f.0).fold(0.0, f32::max) / 63.0);
    let dmin = half_scale(fits.iter().map(|f| f.1).fold(0.0, f32::max) / 63.0);
    let scales: Vec<u8> = fits.iter().map(|f| level(f.0, d.to_f32(), 0.0, 63.0) as u8).collect();
    let mins: Vec<u8> = fits.iter().map(|f| level(f.1, dmin.to_f32(), 0.0, 63.0) as u8).collect();
    let q = x.iter().enumerate().map(|(i, x)| {
        let (scale, min) = (d.to_f32() * f32::from(scales[i / 32]), dmin.to_f32() * f32::from(mins[i / 32]));
        level(x + min, scale, 0.0, top) as u8
    });
    let mut head = Vec::with_capacity(16);
    head.extend_from_slice(&d.to_le_bytes());
    head.extend_from_slice(&dmin.to_le_bytes());
    head.extend((0..4).map(|i| scales[i] | ((scales[i + 4] >> 4) << 6)));
    head.extend((0..4).map(|i| mins[i] | ((mins[i + 4] >> 4) << 6)));
    head.extend((4..8).map(|i| (scales[i] & 15) | ((mins[i] & 15) << 4)));
    (head, q.collect())
}

/// `(scale, min)`, both at least 0, with `x` close to `scale * q - min` for levels `q` of `0..=top`: several spacings of the
/// levels are tried, each refined by least squares, and the one with the smallest squared error is kept.
fn affine_fit(x: &[f32], top: f32) -> (f32, f32) {
    let low = x.iter().copied().fold(0.0, f32::min);
    let high = x.iter().copied().fold(low, f32::max);
    if high - low <= f32::MIN_POSITIVE {
        return (0.0, -low);
    }
    let n = x.len() as f32;
    let mut best = (f32::INFINITY, 0.0, 0.0);
    for step in -4..=8 {
        let inverse = (top + 0.125 * step as f32) / (high - low);
        let q = |x: f32| ((x - low) * inverse).round_ties_even().clamp(0.0, top);
        let (mut sum_q, mut sum_qq, mut sum_x, mut sum_qx) = (0.0, 0.0, 0.0, 0.0);
        for x in x {
            let q = q(*x);
            sum_q += q;
            sum_qq += q * q;
            sum_x += x;
            sum_qx += q * x;
        }
        let determinant = n * sum_qq - sum_q * sum_q;
        let (mut scale, mut min) = (1.0 / inverse, -low);
        if determinant > 0.0 {
            scale = (n * sum_qx - sum_q * sum_x) / determinant;
            min = (sum_q * sum_qx - sum_qq * sum_x) / determinant;
        }
        if min < 0.0 && sum_qq > 0.0 {
            (scale, min) = (sum_qx / sum_qq, 0.0);
        }
        let error: f32 = x.iter().map(|x| (scale * q(*x) - min - x).powi(2)).sum();
        if error < best.0 && scale >= 0.0 {
            best = (error, scale, min);
        }
    }
    if best.0.is_finite() { (best.1, best.2) } else { ((high - low) / top, -low) }
}

/// The scale with `x` closest to `scale * q` for levels `q` of `-top..=top - 1`, found as in [`affine_fit`]; any sign.
fn symmetric_fit(x: &[f32], top: f32) -> f32 {
    let q = |x: f32, step: f32| level(x, step, -top, top - 1.0);
    best_scale(x, (-8..=4).map(|step| -top - 0.125 * step as f32), q)
}

/// The scale with `x` closest to `scale * q`: the levels `q(x, step)` are those with the largest value at each of `ends`, then the
/// scale is refined by least squares, and the one with the smallest squared error is kept.
fn best_scale(x: &[f32], ends: impl Iterator<Item = f32> + Clone, q: impl Fn(f32, f32) -> f32) -> f32 {
    let largest = largest(x);
    if largest.abs() <= f32::MIN_POSITIVE {
        return 0.0;
    }
    // Where squares overflow, the first will do.
    let mut best = (f32::INFINITY, ends.clone().next().map_or(0.0, |end| largest / end));
    for end in ends {
        let q: Vec<f32> = x.iter().map(|x| q(*x, largest / end)).collect();
        let sum_qq: f32 = q.iter().map(|q| q * q).sum();
        let sum_qx: f32 = q.iter().zip(x).map(|(q, x)| q * x).sum();
        if sum_qq > 0.0 {
            let scale = sum_qx / sum_qq;
            let error: f32 = x.iter().zip(&q).map(|(x, q)| (scale * q - x).powi(2)).sum();
            if error < best.0 {
                best = (error, scale);
            }
        }
    }
    best.1
}

/// The value of largest magnitude, with its sign.
fn largest(x: &[f32]) -> f32 {
    x.iter().copied().fold(0.0, |a: f32, b| if b.abs() > a.abs() { b } else { a })
}

fn half_scale(scale: f32) -> f16 {
    f16::from_f32(scale.clamp(f16::MIN.to_f32(), f16::MAX.to_f32()))
}

/// The level nearest to `x / step` within `low..=high`; that nearest to 0 where the step is 0.
fn level(x: f32, step: f32, low: f32, high: f32) -> f32 {
    if step == 0.0 { 0.0f32.clamp(low, high) } else { (x / step).round_ties_even().clamp(low, high) }
}
