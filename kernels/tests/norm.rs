//! The norm: against f64, against the reference, alone and in company, on every instruction set.

use candle_core::{Device, Tensor};
use kernels::cpu::isa::{Isa, with_isa};
use kernels::ops::norm::{add_rms_norm_, rms_norm};
use kernels::reference::attention as reference;
use proptest::prelude::*;

use crate::support::{Random, assert_bits, rows, values};

fn exact(x: &[f32], w: &[f32], eps: f32) -> Vec<f64> {
    let norm = |x: &[f32]| {
        let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / x.len() as f64;
        (mean + f64::from(eps)).sqrt()
    };
    let row = |x: &[f32]| {
        let norm = norm(x);
        x.iter().zip(w).map(|(x, w)| f64::from(*x) / norm * f64::from(*w)).collect::<Vec<_>>()
    };
    x.chunks_exact(w.len()).flat_map(row).collect()
}

fn weights(width: usize, seed: u64) -> Tensor {
    Tensor::from_vec(Random::new(seed).normals(width), width, &Device::Cpu).unwrap()
}

#[test]
fn rows_are_normed_within_the_stated_error() {
    for (t, width) in [(1, 1), (1, 7), (3, 8), (2, 33), (5, 64), (4, 100), (9, 1536), (70, 896)] {
        let (x, w) = (rows(t, width, 1), weights(width, 2));
        let got = values(&rms_norm(&x, &w, 1e-6).unwrap());
        let bound = f64::from((width as f32).log2() + 4.0) / f64::from(1 << 24);
        for (got, exact) in got.iter().zip(exact(&values(&x), &values(&w), 1e-6)) {
            assert!((f64::from(*got) - exact).abs() <= bound * exact.abs(), "[{t}, {width}]: {got} is not {exact}");
        }
        let other = values(&reference::rms_norm(&x, &w, 1e-6).unwrap());
        got.iter().zip(&other).for_each(|(a, b)| assert!((a - b).abs() <= 1e-5 * b.abs() + 1e-6));
    }
}

#[test]
fn adding_first_is_the_sum_and_its_norm() {
    for (t, width) in [(1, 9), (3, 64), (40, 896)] {
        let (residual, delta, w) = (rows(t, width, 3), rows(t, width, 4), weights(width, 5));
        let sum = (&residual + &delta).unwrap();
        let expected = values(&rms_norm(&sum, &w, 1e-5).unwrap());
        let mirror = residual.copy().unwrap();
        let got = values(&add_rms_norm_(&residual, &delta, &w, 1e-5).unwrap());
        assert_bits(&values(&residual), &values(&sum), "the residual is the sum");
        assert_bits(&got, &expected, "the norm is the sum's");
        reference::add_rms_norm_(&mirror, &delta, &w, 1e-5).unwrap();
        assert_bits(&values(&mirror), &values(&sum), "the reference adds, too");
    }
}

#[test]
fn a_row_is_the_same_alone_in_company_and_on_every_instruction_set() {
    let (x, w) = (rows(200, 200, 6), weights(200, 7));
    let together = values(&rms_norm(&x, &w, 1e-6).unwrap());
    for row in [0, 1, 57, 199] {
        let alone = values(&rms_norm(&x.narrow(0, row, 1).unwrap(), &w, 1e-6).unwrap());
        assert_bits(&alone, &together[row * 200..(row + 1) * 200], "a row alone");
    }
    for isa in Isa::available() {
        assert_bits(&with_isa(isa, || values(&rms_norm(&x, &w, 1e-6).unwrap())), &together, isa.name());
    }
}

#[test]
fn no_rows_and_wrong_shapes() {
    let none = Tensor::zeros((0, 8), candle_core::DType::F32, &Device::Cpu).unwrap();
    assert_eq!(rms_norm(&none, &weights(8, 1), 1e-6).unwrap().dims(), [0, 8]);
    assert!(rms_norm(&rows(2, 8, 1), &weights(7, 1), 1e-6).is_err());
    assert!(rms_norm(&rows(2, 8, 1).t().unwrap(), &weights(2, 1), 1e-6).is_err());
    assert!(add_rms_norm_(&rows(2, 8, 1), &rows(3, 8, 1), &weights(8, 1), 1e-6).is_err());
    let halves = rows(2, 8, 1).to_dtype(candle_core::DType::F16).unwrap();
    assert!(rms_norm(&halves, &weights(8, 1), 1e-6).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_width_agrees_on_every_instruction_set(t in 1usize..5, width in 1usize..300, seed: u64) {
        let (x, w) = (rows(t, width, seed), weights(width, seed ^ 1));
        let scalar = with_isa(Isa::Scalar, || values(&rms_norm(&x, &w, 1e-6).unwrap()));
        for isa in Isa::available() {
            assert_bits(&with_isa(isa, || values(&rms_norm(&x, &w, 1e-6).unwrap())), &scalar, isa.name());
        }
    }
}
