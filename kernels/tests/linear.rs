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
                if run == 32 {
                    // The scale of 32 activations has eleven bits.
                    bound += magnitude / 4096.0;
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
fn the_reference_is_the_same_product() {
    for ty in GgmlType::COMPUTED {
        let (x, w) = (rows(7, 256, 3), weight(ty, 50, 256, 4));
        let (fast, plain) = (values(&linear(&x, &w, None).unwrap()), values(&reference::linear::linear(&x, &w, None).unwrap()));
        // Outputs of 256 normal products have a deviation of 16; an eighth bit of the activations is worth about 0.2 at most.
        for (fast, plain) in fast.iter().zip(&plain) {
            assert!((fast - plain).abs() < 0.5, "{ty}: {fast} is not {plain}");
        }
    }
}

#[test]
fn views_and_nothing_at_all() {
    for ty in GgmlType::COMPUTED {
        let w = weight(ty, 24, 256, 12);
        let wide = rows(256, 9, 13);
        let turned = wide.t().unwrap();
        assert_bits(&values(&linear(&turned, &w, None).unwrap()), &values(&linear(&turned.contiguous().unwrap(), &w, None).unwrap()), "");
        let columns = rows(4, 300, 14).narrow(1, 20, 256).unwrap();
        assert_bits(&values(&linear(&columns, &w, None).unwrap()), &values(&linear(&columns.copy().unwrap(), &w, None).unwrap()), "");

        let none = rows(0, 256, 15);
        assert_eq!(linear(&none, &w, None).unwrap().dims(), [0, 24]);
        assert_eq!(ffn_gated(&none, &w, &w, Activation::Silu).unwrap().dims(), [0, 24]);
        linear_add_(&rows(0, 24, 16), &none, &w, None).unwrap();
        let no_outputs = weight(ty, 0, 256, 17);
        assert_eq!(linear(&rows(3, 256, 18), &no_outputs, None).unwrap().dims(), [3, 0]);
    }
}

#[test]
fn a_residual_may_be_the_input_itself_and_a_view() {
    let w = weight(GgmlType::Q4K, 256, 256, 31);
    let x = rows(5, 256, 32);
    let by_hand = (&x + linear(&x, &w, None).unwrap()).unwrap();
    let residual = x.copy().unwrap();
    linear_add_(&residual, &residual, &w, None).unwrap();
    assert_bits(&values(&residual), &values(&by_hand), "in place on itself");

    let whole = x.copy().unwrap();
    linear_add_(&whole.narrow(0, 1, 2).unwrap(), &x.narrow(0, 1, 2).unwrap(), &w, None).unwrap();
    let (whole, x, by_hand) = (values(&whole), values(&x), values(&by_hand));
    assert_bits(&whole[..256], &x[..256], "the row before");
    assert_bits(&whole[256..768], &by_hand[256..768], "the rows of the view");
    assert_bits(&whole[768..], &x[768..], "the rows after");
}

#[test]
fn what_does_not_fit_is_an_error_that_says_so() {
    let (w, narrow) = (weight(GgmlType::Q8_0, 24, 64, 33), weight(GgmlType::Q8_0, 24, 32, 34));
    let message = |result: candle_core::Result<candle_core::Tensor>| result.expect_err("must be refused").to_string();
    assert!(message(linear(&rows(2, 32, 1), &w, None)).contains("rows of 32 values meet a weight of 24 x 64"));
    assert!(message(linear(&rows(2, 64, 1).to_dtype(candle_core::DType::F64).unwrap(), &w, None)).contains("not f32"));
    let bias = rows(1, 23, 1).flatten_all().unwrap();
    assert!(message(linear(&rows(2, 64, 1), &w, Some(&bias))).contains("a bias of F32 [23]"));
    assert!(linear_multi(&rows(2, 64, 1), &[(&w, None), (&narrow, None)]).is_err());
    assert!(message(ffn_gated(&rows(2, 64, 1), &w, &weight(GgmlType::Q8_0, 25, 64, 1), Activation::Silu)).contains("24 outputs"));
    assert!(linear_add_(&rows(2, 25, 1), &rows(2, 64, 1), &w, None).unwrap_err().to_string().contains("[2, 24]"));
    assert!(linear_add_(&rows(24, 2, 1).t().unwrap(), &rows(2, 64, 1), &w, None).is_err());
    assert!(linear(&rows(2, 64, 1).flatten_all().unwrap(), &w, None).is_err());
    assert!(linear_multi(&rows(2, 64, 1), &[]).unwrap().is_empty());
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
