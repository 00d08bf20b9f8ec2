//! Speed of the matrix products, type by type, beside what the machine can do at most.
//!
//! `cargo bench -p kernels --bench linear [-- TYPE ...]`; UNDERSTUDY_ISA and UNDERSTUDY_THREADS choose. One matrix of 8960 x 1536
//! (the up projection of a 1.5B model) for many rows; for one row as many matrices as are beyond any cache, as in decoding.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use kernels::cpu::isa::isa;
use kernels::cpu::{peak, pool};
use kernels::ops::linear::linear;
use kernels::{GgmlType, Weight, quantize};

const OUTPUTS: usize = 8960;
const WIDTH: usize = 1536;
/// All matrices of one decoding step together.
const DECODE_BYTES: usize = 256 << 20;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    if let Some(threads) = std::env::var("UNDERSTUDY_THREADS").ok().and_then(|t| t.parse::<NonZeroUsize>().ok()) {
        pool::set_threads(threads);
    }
    let isa = isa().expect("UNDERSTUDY_ISA");
    let (int8, float, read) = (peak::int8_gops(isa), peak::f32_gops(isa), peak::read_gb_per_second(DECODE_BYTES));
    println!("{isa}, {} threads; peaks: int8 {int8:.0} Gop/s, f32 {float:.0} Gop/s, reading {read:.1} GB/s", pool::pool().threads());
    println!("| type | m=1 GB/s | of reading | m=8 Gop/s | of peak | m=128 Gop/s | of peak | m=512 Gop/s | of peak |");
    println!("|---|---|---|---|---|---|---|---|---|");
    for ty in GgmlType::COMPUTED.into_iter().filter(|ty| wanted.is_empty() || wanted.iter().any(|w| w == ty.name())) {
        let weight = matrix(ty);
        let bytes = weight.bytes().as_slice().len();
        let copies: Vec<Weight> = (0..DECODE_BYTES.div_ceil(bytes)).map(|_| copy(&weight)).collect();
        let one = rows(1);
        let seconds = median(|| copies.iter().for_each(|w| drop(linear(&one, w, None).expect("shapes fit"))));
        let gb = (bytes * copies.len()) as f64 / seconds / 1e9;
        drop(copies);
        let mut line = format!("| {ty} | {gb:.1} | {:.0} % |", 100.0 * gb / read);
        let limit = if ty.block_size() == 1 { float } else { int8 };
        for m in [8, 128, 512] {
            let x = rows(m);
            let seconds = median(|| drop(linear(&x, &weight, None).expect("shapes fit")));
            let gops = 2.0 * (m * OUTPUTS * WIDTH) as f64 / seconds / 1e9;
            line += &format!(" {gops:.0} | {:.0} % |", 100.0 * gops / limit);
        }
        println!("{line}");
    }
}

/// 32 different rows, repeated: quantising every row would take longer than measuring.
fn matrix(ty: GgmlType) -> Weight {
    let values: Vec<f32> = (0..32 * WIDTH).map(noise).collect();
    let some = if quantize::can_quantize(ty) {
        quantize::quantize(ty, &values).expect("whole blocks")
    } else {
        // Bytes whose half-precision numbers are below 2.
        let bytes = 32 * WIDTH / ty.block_size() * ty.block_bytes();
        (0..bytes).map(|i| (noise(i).to_bits() >> 8) as u8 & 0xbf).collect()
    };
    let bytes = some.repeat(OUTPUTS / 32);
    Weight::new(bytes.into(), ty, OUTPUTS, WIDTH, &Device::Cpu).expect("sizes fit")
}

fn copy(weight: &Weight) -> Weight {
    let bytes = weight.bytes().as_slice().to_vec();
    Weight::new(bytes.into(), weight.ggml_type(), OUTPUTS, WIDTH, &Device::Cpu).expect("sizes fit")
}

fn rows(m: usize) -> Tensor {
    let values: Vec<f32> = (0..m * WIDTH).map(|i| noise(i + 7)).collect();
    Tensor::from_vec(values, (m, WIDTH), &Device::Cpu).expect("sizes fit")
}

/// Between -1 and 1, evenly.
fn noise(i: usize) -> f32 {
    ((i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

/// Median of at least 5 runs over at least half a second, after one to warm up.
fn median(mut run: impl FnMut()) -> f64 {
    run();
    let (start, mut seconds) = (Instant::now(), Vec::new());
    while seconds.len() < 5 || start.elapsed() < Duration::from_millis(500) {
        let start = Instant::now();
        run();
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}
