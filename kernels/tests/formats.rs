//! Block formats: against the `gguf` package of PyPI, against the quantisers, and against lying sizes.

use candle_core::Device;
use kernels::blocks::dequantize;
use kernels::quantize::{QuantizeError, can_quantize, quantize};
use kernels::{GgmlType, SharedBytes, Weight, WeightError};

use crate::support::{Random, assert_bits, halves};

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).expect("hex")).collect()
}

#[test]
fn dequantised_blocks_are_those_of_the_gguf_package() {
    let mut seen = Vec::new();
    for line in include_str!("fixtures/quants.txt").lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let ty = GgmlType::all().find(|ty| ty.name() == fields[0]).expect("a known type");
        let wanted: Vec<f32> = unhex(fields[2]).chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let mut got = vec![0.0; wanted.len()];
        dequantize(ty, &unhex(fields[1]), &mut got);
        assert_bits(&got, &wanted, ty.name());
        seen.push(ty);
    }
    assert!(GgmlType::COMPUTED.iter().all(|ty| seen.contains(ty)), "{seen:?} are not all");
}

/// So many blocks that every point of every codebook is met: their numbers as one digest.
#[test]
fn a_thousand_random_blocks_are_those_of_the_gguf_package() {
    let mut seen = Vec::new();
    for line in include_str!("fixtures/digests.txt").lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let ty = GgmlType::all().find(|ty| ty.name() == fields[0]).expect("a known type");
        let count: usize = fields[1].parse().expect("a number of blocks");
        let mut bytes = Random::new(u64::from(ty.number())).bytes(count * ty.block_bytes());
        for block in bytes.chunks_exact_mut(ty.block_bytes()) {
            // Half-precision numbers below 2: all finite, the denormals included.
            halves(ty).iter().for_each(|at| block[at + 1] &= 0xbf);
        }
        let mut numbers = vec![0.0; count * ty.block_size()];
        dequantize(ty, &bytes, &mut numbers);
        // FNV-1a over words.
        let digest = numbers
            .iter()
            .fold(0xcbf2_9ce4_8422_2325u64, |hash, number| (hash ^ u64::from(number.to_bits())).wrapping_mul(0x100_0000_01b3));
        assert_eq!(format!("{digest:016x}"), fields[2], "{ty}");
        seen.push(ty);
    }
    assert!(GgmlType::COMPUTED.iter().all(|ty| ty.block_size() == 1 || seen.contains(ty)), "{seen:?} are not all");
}

/// Root of the mean squared error on normal numbers, as a share of their deviation: a tenth above what ggml 0.25.3 reached on
/// 16,384 such numbers on 2026-11-23 (Q8_0 0.0054, Q6_K 0.0177, Q5_K 0.0360, Q4_K 0.0715, Q4_0 0.0857) and on 2026-11-26 (Q4_1 0.0778,
/// Q5_0 0.0422, Q5_1 0.0378, Q2_K 0.2951, Q3_K 0.1504, IQ4_NL 0.0752, IQ4_XS 0.0759, MXFP4 0.1149).
const ERRORS_MAX: [(GgmlType, f64); 16] = [
    (GgmlType::F32, 0.0),
    (GgmlType::F16, 0.00023),
    (GgmlType::BF16, 0.0018),
    (GgmlType::Q8_0, 0.0059),
    (GgmlType::Q6K, 0.0195),
    (GgmlType::Q5K, 0.0396),
    (GgmlType::Q4K, 0.0786),
    (GgmlType::Q4_0, 0.0942),
    (GgmlType::Q4_1, 0.0856),
    (GgmlType::Q5_0, 0.0464),
    (GgmlType::Q5_1, 0.0416),
    (GgmlType::Q2K, 0.3246),
    (GgmlType::Q3K, 0.1654),
    (GgmlType::IQ4NL, 0.0828),
    (GgmlType::IQ4XS, 0.0835),
    (GgmlType::MXFP4, 0.1264),
];

#[test]
fn quantising_loses_no_more_than_the_bits_do() {
    let values = Random::new(1).normals(64 * 256);
    assert!(GgmlType::COMPUTED.iter().all(|ty| can_quantize(*ty) == ERRORS_MAX.iter().any(|(other, _)| other == ty)));
    for (ty, limit) in ERRORS_MAX {
        let mut back = vec![0.0; values.len()];
        dequantize(ty, &quantize(ty, &values).unwrap(), &mut back);
        let squares: f64 = values.iter().zip(&back).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        let error = (squares / values.len() as f64).sqrt();
        assert!(error <= limit, "{ty}: {error}");
    }
}

#[test]
fn quantisers_take_extremes() {
    let mut spike = vec![0.0; 256];
    spike[100] = -3.0;
    for ty in GgmlType::COMPUTED.into_iter().filter(|ty| can_quantize(*ty)) {
        for values in [vec![0.0; 256], vec![1.5; 256], vec![-1.5; 256], vec![1e-30; 256], vec![6.5e4; 256], spike.clone()] {
            let mut back = vec![0.0; 256];
            dequantize(ty, &quantize(ty, &values).unwrap(), &mut back);
            let largest = values.iter().fold(0.0f32, |a, v| a.max(v.abs()));
            for (a, b) in values.iter().zip(&back) {
                assert!((a - b).abs() <= largest * 0.02 + 1e-7, "{ty}: {a} came back as {b}");
            }
        }
    }
}

#[test]
fn quantisers_refuse_what_they_cannot_do() {
    assert_eq!(quantize(GgmlType::IQ2XXS, &[0.0; 256]), Err(QuantizeError::Unsupported(GgmlType::IQ2XXS)));
    assert_eq!(quantize(GgmlType::Q4K, &[0.0; 255]), Err(QuantizeError::Length { ty: GgmlType::Q4K, len: 255 }));
    assert_eq!(quantize(GgmlType::F16, &[0.0, f32::NAN]), Err(QuantizeError::NotFinite { index: 1 }));
    assert_eq!(quantize(GgmlType::Q8_0, &[]), Ok(Vec::new()));
}

#[test]
fn weights_of_wrong_sizes_are_refused_with_numbers() {
    let new = |len: usize, ty, rows, cols| Weight::new(vec![0; len].into(), ty, rows, cols, &Device::Cpu);
    assert!(new(288, GgmlType::Q4K, 2, 256).is_ok());
    assert!(new(0, GgmlType::Q4K, 0, 256).is_ok());
    let message = |result: Result<Weight, WeightError>| result.expect_err("must be refused").to_string();
    assert_eq!(message(new(287, GgmlType::Q4K, 2, 256)), "a Q4_K weight of 2 x 256 needs 288 bytes, 287 given");
    assert_eq!(message(new(289, GgmlType::Q4K, 2, 256)), "a Q4_K weight of 2 x 256 needs 288 bytes, 289 given");
    assert_eq!(message(new(288, GgmlType::Q4K, 2, 250)), "a row of 250 weights is not a multiple of the Q4_K block, 256");
    assert_eq!(message(new(36, GgmlType::NVFP4, 1, 64)), "a NVFP4 weight cannot be computed here");
    let huge = 1 << 60;
    assert!(matches!(new(0, GgmlType::F32, huge, huge), Err(WeightError::Overflow { .. })));
    assert!(matches!(new(0, GgmlType::F32, 1, usize::MAX), Err(WeightError::Overflow { .. })));
}

#[test]
fn windows_stay_inside_their_bytes() {
    let bytes = SharedBytes::from((0..10).collect::<Vec<u8>>());
    let window = bytes.slice(2, 6).unwrap();
    assert_eq!(window.as_slice(), [2, 3, 4, 5, 6, 7]);
    assert_eq!(window.slice(1, 2).unwrap().as_slice(), [3, 4]);
    assert!(window.slice(6, 0).is_some());
    for (start, len) in [(0, 7), (7, 0), (6, 1), (usize::MAX, 1), (1, usize::MAX)] {
        assert!(window.slice(start, len).is_none(), "{start} {len}");
    }
}
