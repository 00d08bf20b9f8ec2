//! Rotary embedding with and without head norms: against f64, the reference, and itself on other paths.

use candle_core::{Device, Tensor};
use kernels::cpu::isa::{Isa, with_isa};
use kernels::ops::rope::{QkNorm, Rope, RopeAngles, RopeStyle, qk_norm_rope_};
use kernels::reference::attention as reference;
use kernels::{LogitRows, Step, StepBuilder};

use crate::support::{Random, assert_bits, rows, values};

fn rope(style: RopeStyle, rotary_dim: usize, attention_factor: f32) -> Rope {
    let inverse_frequency = (0..rotary_dim / 2).map(|i| 10_000f32.powf(-2.0 * i as f32 / rotary_dim as f32)).collect();
    Rope { style, inverse_frequency, attention_factor }
}

/// `t` rows from position `first` on.
fn step(first: usize, t: usize) -> Step {
    let mut builder = StepBuilder::new();
    let table: Vec<u32> = (0..(first + t).div_ceil(32) as u32).collect();
    builder.push(first, t, &table, LogitRows::None).unwrap();
    builder.finish()
}

/// The formula in f64: norm, then rotation by `position * frequency`.
fn exact(x: &[f32], head_dim: usize, heads: usize, rope: &Rope, first: usize, norm: Option<(&[f32], f32)>) -> Vec<f64> {
    let half = rope.inverse_frequency.len();
    let mut out = Vec::new();
    for (row, x) in x.chunks_exact(head_dim * heads).enumerate() {
        for head in x.chunks_exact(head_dim) {
            let mut head: Vec<f64> = head.iter().map(|x| f64::from(*x)).collect();
            if let Some((w, eps)) = norm {
                let mean = head.iter().map(|x| x * x).sum::<f64>() / head_dim as f64;
                let factor = 1.0 / (mean + f64::from(eps)).sqrt();
                head.iter_mut().zip(w).for_each(|(x, w)| *x *= factor * f64::from(*w));
            }
            for (i, frequency) in rope.inverse_frequency.iter().enumerate() {
                let (first_of, second_of) = match rope.style {
                    RopeStyle::Neox => (i, i + half),
                    RopeStyle::Interleaved => (2 * i, 2 * i + 1),
                };
                let (sin, cos) = ((first + row) as f64 * f64::from(*frequency)).sin_cos();
                let (sin, cos) = (sin * f64::from(rope.attention_factor), cos * f64::from(rope.attention_factor));
                let (a, b) = (head[first_of], head[second_of]);
                (head[first_of], head[second_of]) = (a * cos - b * sin, a * sin + b * cos);
            }
            out.extend(head);
        }
    }
    out
}

type Body = fn(&Tensor, &Tensor, usize, &RopeAngles, Option<QkNorm<'_>>) -> candle_core::Result<()>;

#[test]
fn rotations_follow_the_formula() {
    for (style, head_dim, rotary_dim, normed) in [
        (RopeStyle::Neox, 64, 64, false),
        (RopeStyle::Neox, 128, 128, true),
        (RopeStyle::Neox, 80, 32, false),
        (RopeStyle::Neox, 24, 20, true),
        (RopeStyle::Interleaved, 64, 64, false),
        (RopeStyle::Interleaved, 96, 48, true),
        (RopeStyle::Interleaved, 16, 0, true),
    ] {
        for (first, t) in [(0, 1), (5, 3), (40_000, 37)] {
            let rope = rope(style, rotary_dim, 1.25);
            let angles = rope.angles(&step(first, t), &Device::Cpu).unwrap();
            let mut random = Random::new(9);
            let (qw, kw) = (random.normals(head_dim), random.normals(head_dim));
            let weight = |w: &[f32]| Tensor::from_slice(w, head_dim, &Device::Cpu).unwrap();
            let (qw_tensor, kw_tensor) = (weight(&qw), weight(&kw));
            let norm = normed.then_some(QkNorm { q: &qw_tensor, k: &kw_tensor, eps: 1e-6 });
            for body in [qk_norm_rope_ as Body, reference::qk_norm_rope_ as Body] {
                let (q, k) = (rows(t, 4 * head_dim, 1), rows(t, 2 * head_dim, 2));
                let expected_q = exact(&values(&q), head_dim, 4, &rope, first, normed.then_some((&qw, 1e-6)));
                let expected_k = exact(&values(&k), head_dim, 2, &rope, first, normed.then_some((&kw, 1e-6)));
                body(&q, &k, head_dim, &angles, norm).unwrap();
                for (got, expected) in values(&q).iter().zip(&expected_q).chain(values(&k).iter().zip(&expected_k)) {
                    assert!((f64::from(*got) - expected).abs() < 5e-6, "{style:?} {head_dim} {rotary_dim}: {got} is not {expected}");
                }
            }
        }
    }
}

#[test]
fn a_row_is_the_same_alone_in_company_and_on_every_instruction_set() {
    for style in [RopeStyle::Neox, RopeStyle::Interleaved] {
        let rope = rope(style, 72, 1.0);
        let w = Tensor::from_vec(Random::new(3).normals(80), 80, &Device::Cpu).unwrap();
        let norm = Some(QkNorm { q: &w, k: &w, eps: 1e-6 });
        let run = |first: usize, count: usize, isa: Isa| {
            let (q, k) = (rows(100, 240, 1), rows(100, 80, 2));
            let part = |x: &Tensor| x.narrow(0, first, count).unwrap().copy().unwrap();
            let (q, k) = (part(&q), part(&k));
            let angles = rope.angles(&step(1000 + first, count), &Device::Cpu).unwrap();
            with_isa(isa, || qk_norm_rope_(&q, &k, 80, &angles, norm)).unwrap();
            (values(&q), values(&k))
        };
        let (q, k) = run(0, 100, Isa::best());
        for isa in Isa::available() {
            let (q_isa, k_isa) = run(0, 100, isa);
            assert_bits(&q_isa, &q, isa.name());
            assert_bits(&k_isa, &k, isa.name());
        }
        for row in [0, 31, 99] {
            let (q_alone, k_alone) = run(row, 1, Isa::best());
            assert_bits(&q_alone, &q[row * 240..][..240], "a row of queries alone");
            assert_bits(&k_alone, &k[row * 80..][..80], "a row of keys alone");
        }
    }
}

#[test]
fn no_rows_and_wrong_shapes() {
    let rope = rope(RopeStyle::Neox, 8, 1.0);
    let none = rope.angles(&Step::default(), &Device::Cpu).unwrap();
    qk_norm_rope_(&rows(0, 16, 1), &rows(0, 8, 1), 8, &none, None).unwrap();
    let one = rope.angles(&step(0, 1), &Device::Cpu).unwrap();
    assert!(qk_norm_rope_(&rows(2, 16, 1), &rows(1, 8, 1), 8, &one, None).is_err());
    assert!(qk_norm_rope_(&rows(1, 12, 1), &rows(1, 8, 1), 8, &one, None).is_err());
    assert!(qk_norm_rope_(&rows(1, 8, 1), &rows(1, 4, 1), 4, &one, None).is_err());
    let short = rows(1, 7, 1).flatten_all().unwrap();
    let norm = Some(QkNorm { q: &short, k: &short, eps: 1e-6 });
    assert!(qk_norm_rope_(&rows(1, 8, 1), &rows(1, 8, 1), 8, &one, norm).is_err());
}
