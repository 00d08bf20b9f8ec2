//! Matrix products: against f64, against themselves alone and in company.

use kernels::GgmlType;
use kernels::ops::embed::{embed, gather_rows};
use kernels::ops::linear::{Activation, ffn_gated, linear, linear_add_, linear_multi};
use kernels::reference;

use crate::support::{assert_bits, rows, values, weight};

/// Whether each output is within the bound that `linear` states, computed in f64.
#[track_caller]
fn assert_accurate(ty: GgmlType, x: &[f32], w: &[f32], got: &[f32], cols: usize) {
    let outputs = w.len() / cols;
    let run = match ty.block_size() {
        1 => 0,
        n => n,
    };
    for (r, x) in x.chunks_exact(cols).enumerate() {
        for (c, w) in w.chunks_exact(cols).enumerate() {
            let exact: f64 = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
            let magnitude: f64 = x.iter().zip(w).map(|(x, w)| (f64::from(*x) * f64::from(*w)).abs()).sum();
            let mut bound = 1e-6 * magnitude;
            if run > 0 {
                for (x, w) in x.chunks_exact(run).zip(w.chunks_exact(run)) {
                    let d = x.iter().fold(0.0f32, |a, x| a.max(x.abs())) / 127.0;
                    // Half a step, and what rounding the scale itself adds.
                    bound += w.iter().map(|w| f64::from(w.abs()) * f64::from(d) * 0.5001).sum::<f64>();
                }
                bound += 2e-6 * w.iter().map(|w| f64::from(w.abs())).sum::<f64>();
            }
            let got = f64::from(got[r * outputs + c]);
            assert!((got - exact).abs() <= bound, "{ty} [{r}, {c}]: {got} is not {exact} within {bound}");
        }
    }
}

#[test]
fn products_are_within_their_bound() {
    for ty in GgmlType::COMPUTED {
        let cols = 512;
        let (x, w) = (rows(5, cols, 1), weight(ty, 37, cols, 2));
        let y = values(&linear(&x, &w, None).unwrap());
        let dense = values(&reference::linear::dense(&w).unwrap());
        assert_accurate(ty, &values(&x), &dense, &y, cols);
    }
}

#[test]
fn a_row_alone_is_the_row_in_company() {
    for ty in GgmlType::COMPUTED {
        let (x, w) = (rows(9, 256, 3), weight(ty, 50, 256, 4));
        let all = values(&linear(&x, &w, None).unwrap());
        for i in 0..9 {
            let alone = values(&linear(&x.narrow(0, i, 1).unwrap(), &w, None).unwrap());
            assert_bits(&alone, &all[50 * i..50 * (i + 1)], ty.name());
        }
    }
}

#[test]
fn the_other_ops_are_made_of_linear() {
    for ty in GgmlType::COMPUTED {
        let (x, bias) = (rows(6, 256, 5), rows(1, 48, 6).flatten_all().unwrap());
        let (a, b) = (weight(ty, 48, 256, 7), weight(GgmlType::Q8_0, 48, 256, 8));
        let plain = values(&linear(&x, &a, None).unwrap());
        let biased = values(&linear(&x, &a, Some(&bias)).unwrap());
        let by_hand: Vec<f32> = plain.iter().enumerate().map(|(i, y)| y + values(&bias)[i % 48]).collect();
        assert_bits(&biased, &by_hand, "bias");

        let several = linear_multi(&x, &[(&a, Some(&bias)), (&b, None), (&a, None)]).unwrap();
        assert_bits(&values(&several[0]), &biased, "multi");
        assert_bits(&values(&several[1]), &values(&linear(&x, &b, None).unwrap()), "multi");
        assert_bits(&values(&several[2]), &plain, "multi");

        let residual = rows(6, 48, 9);
        let by_hand: Vec<f32> = values(&residual).iter().zip(&biased).map(|(r, y)| r + y).collect();
        linear_add_(&residual, &x, &a, Some(&bias)).unwrap();
        assert_bits(&values(&residual), &by_hand, "add");

        let gated = ffn_gated(&x, &a, &b, Activation::Silu).unwrap();
        let silu = candle_nn::ops::silu(&linear(&x, &a, None).unwrap()).unwrap();
        let by_hand = (silu * linear(&x, &b, None).unwrap()).unwrap();
        for (got, wanted) in values(&gated).iter().zip(values(&by_hand)) {
            assert!((got - wanted).abs() <= 2e-6 * wanted.abs() + 1e-6, "{ty}: {got} is not {wanted}");
        }
    }
}

#[test]
fn rows_of_tables_and_of_activations() {
    for ty in GgmlType::COMPUTED {
        let w = weight(ty, 20, 256, 10);
        let ids = [3, 19, 0, 3];
        let got = values(&embed(&w, &ids).unwrap());
        assert_bits(&got, &values(&reference::linear::embed(&w, &ids).unwrap()), ty.name());
        assert!(embed(&w, &[20]).unwrap_err().to_string().contains("beyond the table of 20 rows"));
        assert_eq!(embed(&w, &[]).unwrap().dims(), [0, 256]);
    }
    let x = rows(5, 7, 11);
    let view = x.narrow(0, 1, 4).unwrap();
    assert_bits(
        &values(&gather_rows(&view, &[3, 0, 0]).unwrap()),
        &values(&reference::linear::gather_rows(&view, &[3, 0, 0]).unwrap()),
        "",
    );
    assert!(gather_rows(&view, &[4]).is_err());
    assert_eq!(gather_rows(&view, &[]).unwrap().dims(), [0, 7]);
}
