//! Speed of products of few rows (decoding), type by type, one instruction set beside the other in turn.
//!
//! `cargo bench -p kernels --bench few [-- TYPE ...]`; UNDERSTUDY_THREADS chooses. Two places for the weights: one matrix in the second-level cache
//! of one thread, where a body's own instructions decide; and as many matrices as are beyond any cache, all threads, as in decoding. The host's
//! memory is shared, so sets take turns and every round reads a plain sum, too.

use std::num::NonZeroUsize;
use std::time::Instant;

use candle_core::{Device, Tensor};
use kernels::cpu::isa::{Isa, with_isa};
use kernels::cpu::{peak, pool};
use kernels::ops::linear::linear;
use kernels::{GgmlType, Weight, quantize};

const WIDTH: usize = 1536;
/// Of the matrix in the cache: 663 KB in Q4_K.
const OUTPUTS_CACHED: usize = 768;
/// Of each of those in memory: an up projection of a model of 1.5 billion parameters.
const OUTPUTS: usize = 8960;
/// Those in memory together.
const MEMORY_BYTES: usize = 128 << 20;
const ROUNDS: usize = 7;
const ROWS: [usize; 5] = [1, 2, 4, 8, 16];

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let threads = std::env::var("UNDERSTUDY_THREADS").ok().and_then(|t| t.parse::<NonZeroUsize>().ok());
    if let Some(threads) = threads {
        pool::set_threads(threads);
    }
    pool::set_pinned();
    let one = NonZeroUsize::MIN;
    let sets: Vec<Isa> = Isa::available().into_iter().filter(|isa| !matches!(isa, Isa::Scalar | Isa::Emulated512)).collect();
    println!("medians (best) of {ROUNDS} rounds; {} threads where it says memory", pool::pool().threads());
    let types = GgmlType::COMPUTED.into_iter().filter(|ty| match wanted.is_empty() {
        true => matches!(ty, GgmlType::Q4K | GgmlType::Q5K | GgmlType::Q6K | GgmlType::Q8_0),
        false => wanted.iter().any(|w| w == ty.name()),
    });
    println!(
        "| type | set | rows | cache, one thread, GB/s | Gop/s | memory, GB/s | a sum beside it, GB/s |\n|---|---|---|---|---|---|---|"
    );
    for ty in types {
        let (small, large) = (matrix(ty, OUTPUTS_CACHED), matrix(ty, OUTPUTS));
        let bytes = |weight: &Weight| weight.bytes().as_slice().len();
        let copies: Vec<Weight> = (0..MEMORY_BYTES.div_ceil(bytes(&large))).map(|_| copy(&large)).collect();
        for m in ROWS {
            let x = rows(m);
            let run = |weight: &Weight| drop(linear(&x, weight, None).expect("shapes fit"));
            let mut cached = vec![Vec::new(); sets.len()];
            let mut memory = vec![Vec::new(); sets.len()];
            let mut sums = Vec::new();
            for _ in 0..ROUNDS {
                sums.push(peak::read_gb_per_second(MEMORY_BYTES));
                for (at, isa) in sets.iter().enumerate() {
                    let seconds = with_isa(*isa, || pool::with_threads(one, || best_of_many(|| run(&small))));
                    cached[at].push(bytes(&small) as f64 / seconds / 1e9);
                    let seconds = with_isa(*isa, || time(|| copies.iter().for_each(run)));
                    memory[at].push((bytes(&large) * copies.len()) as f64 / seconds / 1e9);
                }
            }
            for (at, isa) in sets.iter().enumerate() {
                let gops = 2.0 * (m * OUTPUTS_CACHED * WIDTH) as f64 / bytes(&small) as f64 * median(&mut cached[at]);
                println!(
                    "| {ty} | {isa} | {m} | {} | {gops:.0} | {} | {} |",
                    shown(&mut cached[at]),
                    shown(&mut memory[at]),
                    shown(&mut sums)
                );
            }
        }
    }
}

fn matrix(ty: GgmlType, outputs: usize) -> Weight {
    let values: Vec<f32> = (0..32 * WIDTH).map(noise).collect();
    let some = if quantize::can_quantize(ty) {
        quantize::quantize(ty, &values).expect("whole blocks")
    } else {
        // Bytes whose half-precision numbers are below 2.
        let bytes = 32 * WIDTH / ty.block_size() * ty.block_bytes();
        (0..bytes).map(|i| (noise(i).to_bits() >> 8) as u8 & 0xbf).collect()
    };
    Weight::new(some.repeat(outputs / 32).into(), ty, outputs, WIDTH, &Device::Cpu).expect("sizes fit")
}

fn copy(weight: &Weight) -> Weight {
    let bytes = weight.bytes().as_slice().to_vec();
    Weight::new(bytes.into(), weight.ggml_type(), weight.rows(), WIDTH, &Device::Cpu).expect("sizes fit")
}

fn rows(m: usize) -> Tensor {
    let values: Vec<f32> = (0..m * WIDTH).map(|i| noise(i + 7)).collect();
    Tensor::from_vec(values, (m, WIDTH), &Device::Cpu).expect("sizes fit")
}

/// Between -1 and 1, evenly.
fn noise(i: usize) -> f32 {
    ((i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

fn time(run: impl FnOnce()) -> f64 {
    let start = Instant::now();
    run();
    start.elapsed().as_secs_f64()
}

/// The shortest of some hundred runs: what no other program interrupted.
fn best_of_many(mut run: impl FnMut()) -> f64 {
    (0..150).map(|_| time(&mut run)).fold(f64::INFINITY, f64::min)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn shown(values: &mut [f64]) -> String {
    format!("{:.1} ({:.1})", median(values), values[values.len() - 1])
}
