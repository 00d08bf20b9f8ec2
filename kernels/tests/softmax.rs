//! Softmax of a row of logits: against f64, at the edges, on every instruction set.

use kernels::cpu::isa::{Isa, with_isa};
use kernels::ops::softmax::{log_sum_exp, softmax_};

use crate::support::{Random, assert_bits};

#[test]
fn probabilities_follow_the_formula() {
    for len in [1, 2, 7, 8, 31, 32, 33, 1000, 151_936] {
        let row: Vec<f32> = Random::new(len as u64).normals(len).iter().map(|x| 8.0 * x).collect();
        let max = row.iter().fold(f64::NEG_INFINITY, |a, x| a.max(f64::from(*x)));
        let sum: f64 = row.iter().map(|x| (f64::from(*x) - max).exp()).sum();
        let mut got = row.clone();
        softmax_(&mut got);
        for (got, x) in got.iter().zip(&row) {
            let exact = (f64::from(*x) - max).exp() / sum;
            // The difference to the maximum is rounded once, then every factor to about one unit.
            assert!((f64::from(*got) - exact).abs() <= 5e-6 * exact + 1e-37, "{got} is not {exact}");
        }
        assert!((f64::from(log_sum_exp(&row)) - (max + sum.ln())).abs() < 1e-5 * max.abs().max(1.0));
    }
}

#[test]
fn the_edges_are_defined() {
    let mut masked = [f32::NEG_INFINITY, 3.0, f32::NEG_INFINITY, 3.0];
    assert!((log_sum_exp(&masked) - (3.0 + 2f32.ln())).abs() < 1e-6);
    softmax_(&mut masked);
    assert_eq!(masked, [0.0, 0.5, 0.0, 0.5]);
    let mut nothing = [f32::NEG_INFINITY; 3];
    assert_eq!(log_sum_exp(&nothing), f32::NEG_INFINITY);
    softmax_(&mut nothing);
    assert_eq!(nothing, [0.0; 3]);
    softmax_(&mut []);
    assert_eq!(log_sum_exp(&[]), f32::NEG_INFINITY);
    let mut far = [f32::MAX, -f32::MAX, 0.0];
    softmax_(&mut far);
    assert_eq!(far, [1.0, 0.0, 0.0]);
}

#[test]
fn every_instruction_set_gives_the_same_bits() {
    for len in [5, 64, 4099] {
        let row = Random::new(7).normals(len);
        let run = |isa| {
            with_isa(isa, || {
                let mut out = row.clone();
                softmax_(&mut out);
                out.push(log_sum_exp(&row));
                out
            })
        };
        let scalar = run(Isa::Scalar);
        for isa in Isa::available() {
            assert_bits(&run(isa), &scalar, isa.name());
        }
    }
}
