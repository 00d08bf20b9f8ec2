//! f32 weights into blocks: for tests and for the generator of benchmark files.
//!
//! A plain search for good scales, not ggml's own (its files differ by bits, not in quality worth naming). The formats are
//! those of `blocks`; this file must not know who reads the blocks.

use half::{bf16, f16};

use crate::GgmlType;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantizeError {
    #[error("no quantiser for {0}")]
    Unsupported(GgmlType),
    #[error("{len} values are not whole {ty} blocks of {block}", block = ty.block_size())]
    Length { ty: GgmlType, len: usize },
    #[error("value {index} is not finite")]
    NotFinite { index: usize },
}

/// `values` as consecutive blocks of `ty`, for any computed type. Each row of a matrix must be whole blocks, too; scales beyond
/// half precision are cut to its largest number.
pub fn quantize(ty: GgmlType, values: &[f32]) -> Result<Vec<u8>, QuantizeError> {
    if !ty.is_computed() {
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
    out.extend((0..16).map(|i| q[i] | (q[i + 16] << 4)));
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
    let scales: Vec<f32> = x.chunks_exact(16).map(symmetric_fit).collect();
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

/// The scale with `x` closest to `scale * q` for levels `q` of `-32..=31`, found as in [`affine_fit`]; any sign.
fn symmetric_fit(x: &[f32]) -> f32 {
    let largest = largest(x);
    if largest.abs() <= f32::MIN_POSITIVE {
        return 0.0;
    }
    let mut best = (f32::INFINITY, largest / -32.0);
    for step in -8..=4 {
        let inverse = (-32.0 - 0.125 * step as f32) / largest;
        let q = |x: f32| (x * inverse).round_ties_even().clamp(-32.0, 31.0);
        let (sum_qq, sum_qx) = x.iter().fold((0.0, 0.0), |(qq, qx), x| (qq + q(*x) * q(*x), qx + q(*x) * x));
        if sum_qq > 0.0 {
            let scale = sum_qx / sum_qq;
            let error: f32 = x.iter().map(|x| (scale * q(*x) - x).powi(2)).sum();
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
