//! One order of accumulation: the same bits on every instruction set, for any number of rows, columns and threads.

use std::num::NonZeroUsize;

use candle_core::{Device, Tensor};
use kernels::cpu::isa::{Isa, with_isa};
use kernels::cpu::pool::with_threads;
use kernels::ops::linear::{Activation, ffn_gated, linear, linear_add_, linear_multi};
use kernels::{GgmlType, Weight};
use proptest::prelude::*;

use crate::support::{Random, assert_bits, rows, set_scale, values, weight};

/// Widths that a type allows: one block, an odd number of them, more than one chunk with a rest, more than one segment.
fn widths(ty: GgmlType) -> Vec<usize> {
    match ty.block_size() {
        256 => vec![256, 768],
        32 => vec![32, 160, 256, 544],
        _ => vec![1, 16, 37, 512, 1029],
    }
}

fn on(isa: Isa, threads: usize, x: &Tensor, w: &Weight) -> Vec<f32> {
    let threads = NonZeroUsize::new(threads).expect("at least the caller");
    values(&with_threads(threads, || with_isa(isa, || linear(x, w, None))).unwrap())
}

#[test]
fn every_instruction_set_and_every_number_of_rows_give_the_scalar_bits() {
    for ty in GgmlType::COMPUTED {
        for (at, cols) in widths(ty).into_iter().enumerate() {
            let outputs = [33, 16, 1, 130, 15][at];
            let (x, w) = (rows(35, cols, 20), weight(ty, outputs, cols, 21));
            let plain = on(Isa::Scalar, 1, &x, &w);
            for isa in Isa::available() {
                for count in [1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 31, 35] {
                    // From the end, so that the rows stand at an offset, too.
                    let some = x.narrow(0, 35 - count, count).unwrap();
                    let what = format!("{ty} {isa}, {count} rows of {cols}, {outputs} outputs");
                    assert_bits(&on(isa, 1, &some, &w), &plain[(35 - count) * outputs..], &what);
                }
            }
        }
    }
}

#[test]
fn six_hundred_rows_are_six_hundred_single_rows() {
    for ty in GgmlType::COMPUTED {
        let (x, w) = (rows(600, 256, 22), weight(ty, 70, 256, 23));
        let best = Isa::best();
        let all = on(best, 2, &x, &w);
        assert_bits(&on(Isa::Emulated512, 1, &x, &w), &all, ty.name());
        for row in [0, 1, 255, 511, 512, 513, 599] {
            let alone = on(best, 1, &x.narrow(0, row, 1).unwrap(), &w);
            assert_bits(&alone, &all[70 * row..70 * (row + 1)], &format!("{ty} row {row}"));
        }
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    for ty in GgmlType::COMPUTED {
        let (x, w) = (rows(20, 256, 24), weight(ty, 333, 256, 25));
        for count in [1, 20] {
            let x = x.narrow(0, 0, count).unwrap();
            let alone = on(Isa::best(), 1, &x, &w);
            for threads in [2, 3, 5, 8] {
                assert_bits(&on(Isa::best(), threads, &x, &w), &alone, &format!("{ty}, {count} rows, {threads} threads"));
            }
        }
    }
}

/// Blocks of arbitrary bytes, but for the half-precision numbers, which are set to `scale`.
fn raw_blocks(ty: GgmlType, count: usize, scale: u16, fill: impl FnMut() -> u8) -> Vec<u8> {
    let mut bytes: Vec<u8> = std::iter::repeat_with(fill).take(count * ty.block_bytes()).collect();
    bytes.chunks_exact_mut(ty.block_bytes()).for_each(|block| set_scale(ty, block, scale));
    bytes
}

#[test]
fn no_sum_saturates_and_no_scale_is_too_odd() {
    // Largest weights with activations of one sign are where 16-bit sums would overflow.
    let patterns: [&[u8]; 6] = [&[0xff], &[0x80], &[0x7f], &[0x00], &[0x0f, 0xf0], &[0x81, 0x7f, 0x80]];
    // One, the smallest denormal, a large one, infinity, NaN, minus one, zero.
    for scale in [0x3c00, 0x0001, 0x7bff, 0x7c00, 0x7e00, 0xbc00, 0x0000] {
        for ty in GgmlType::COMPUTED.into_iter().filter(|ty| ty.block_size() > 1) {
            for pattern in patterns {
                let mut bytes = pattern.iter().cycle().copied();
                let blocks = raw_blocks(ty, 17 * 512 / ty.block_size(), scale, || bytes.next().expect("endless"));
                let w = Weight::new(blocks.into(), ty, 17, 512, &Device::Cpu).unwrap();
                let signs =
                    Tensor::from_vec((0..9 * 512).map(|i| [1.0f32, -1.0, 0.5][i / 512 % 3]).collect(), (9, 512), &Device::Cpu).unwrap();
                for x in [signs, rows(9, 512, 26)] {
                    let plain = on(Isa::Scalar, 1, &x, &w);
                    for isa in Isa::available() {
                        assert_bits(&on(isa, 1, &x, &w), &plain, &format!("{ty} {isa} {pattern:?} scale {scale:#x}"));
                        assert_bits(&on(isa, 1, &x.narrow(0, 0, 2).unwrap(), &w), &plain[..34], &format!("{ty} {isa} two rows"));
                    }
                }
            }
        }
    }
}

#[test]
fn a_sick_row_stays_alone() {
    for ty in GgmlType::COMPUTED {
        for bad in [f32::NAN, f32::INFINITY] {
            let (x, w) = (rows(6, 256, 27), weight(ty, 20, 256, 28));
            let healthy = values(&linear(&x, &w, None).unwrap());
            let mut sick = values(&x);
            sick[3 * 256 + 77] = bad;
            let sick = Tensor::from_vec(sick, (6, 256), &Device::Cpu).unwrap();
            for isa in Isa::available() {
                let y = on(isa, 1, &sick, &w);
                assert_bits(&y[..60], &healthy[..60], ty.name());
                assert_bits(&y[80..], &healthy[80..], ty.name());
                assert!(y[60..80].iter().all(|y| !y.is_finite()), "{ty} {isa}: {bad} became a plausible number");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, rng_seed: proptest::test_runner::RngSeed::Fixed(3), ..ProptestConfig::default() })]
    #[test]
    fn ops_agree_with_the_scalar_ones_everywhere(
        ty in proptest::sample::select(GgmlType::COMPUTED.to_vec()),
        other in proptest::sample::select(GgmlType::COMPUTED.to_vec()),
        count in 0usize..40, outputs in 1usize..90, chunks in 1usize..4, threads in 1usize..5, seed in 0u64..1000,
    ) {
        let cols = 256 * chunks;
        let (x, a, b) = (rows(count, cols, seed), weight(ty, outputs, cols, seed + 1), weight(other, outputs, cols, seed + 2));
        let bias = rows(1, outputs, seed + 3).flatten_all().unwrap();
        let run = || {
            let several = linear_multi(&x, &[(&a, Some(&bias)), (&b, None)]).unwrap();
            let residual = rows(count, outputs, seed + 4);
            linear_add_(&residual, &x, &b, Some(&bias)).unwrap();
            let act = if seed % 2 == 0 { Activation::Silu } else { Activation::GeluTanh };
            let gated = ffn_gated(&x, &a, &b, act).unwrap();
            [several[0].clone(), several[1].clone(), residual, gated].map(|t| values(&t))
        };
        let plain = with_isa(Isa::Scalar, run);
        for isa in Isa::available() {
            let got = with_threads(NonZeroUsize::new(threads).unwrap(), || with_isa(isa, run));
            for (got, plain) in got.iter().zip(&plain) {
                assert_bits(got, plain, &format!("{ty} {other} {isa}"));
            }
        }
    }
}

#[test]
fn random_bytes_are_weights_like_any_other() {
    let mut random = Random::new(29);
    for ty in GgmlType::COMPUTED.into_iter().filter(|ty| ty.block_size() > 1) {
        let mut bytes = random.bytes(40 * 512 * 2).into_iter().cycle();
        let blocks = raw_blocks(ty, 40 * 512 / ty.block_size(), 0x2c00, || bytes.next().expect("endless"));
        let w = Weight::new(blocks.into(), ty, 40, 512, &Device::Cpu).unwrap();
        let x = rows(11, 512, 30);
        let plain = on(Isa::Scalar, 1, &x, &w);
        for isa in Isa::available() {
            assert_bits(&on(isa, 1, &x, &w), &plain, &format!("{ty} {isa}"));
            assert_bits(&on(isa, 1, &x.narrow(0, 0, 3).unwrap(), &w), &plain[..120], &format!("{ty} {isa} three rows"));
        }
    }
}
