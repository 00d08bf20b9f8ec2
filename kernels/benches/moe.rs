//! Speed of a mixture of experts beside that of plain products of the same matrices, and what the machine can do at most.
//!
//! `cargo bench -p kernels --bench moe`; UNDERSTUDY_ISA and UNDERSTUDY_THREADS choose. Layers of the shape of Qwen3-30B-A3B's with 32
//! experts, 8 of them for each row, gate and up Q4_K, down Q6_K; three layers in turn, which are beyond any cache.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use kernels::cpu::isa::isa;
use kernels::cpu::{peak, pool};
use kernels::ops::linear::{Activation, ffn_gated, linear_add_};
use kernels::ops::moe::{Experts, Routes, experts_add_, route};
use kernels::{GgmlType, SharedBytes, Weight, quantize};

const HIDDEN: usize = 2048;
const WIDTH: usize = 768;
const COUNT: usize = 32;
const USED: usize = 8;
const LAYERS: usize = 3;
/// Of one expert.
const WEIGHTS: usize = 3 * HIDDEN * WIDTH;

fn main() {
    if let Some(threads) = std::env::var("UNDERSTUDY_THREADS").ok().and_then(|t| t.parse::<NonZeroUsize>().ok()) {
        pool::set_threads(threads);
    }
    let isa = isa().expect("UNDERSTUDY_ISA");
    let (int8, read) = (peak::int8_gops(isa), peak::read_gb_per_second(256 << 20));
    println!("{isa}, {} threads; peaks: int8 {int8:.0} Gop/s, reading {read:.1} GB/s", pool::pool().threads());
    println!("| rows | experts GB/s | Gop/s | plain products of as many rows GB/s | Gop/s |");
    println!("|---|---|---|---|---|");
    let layers: Vec<Experts> = (0..LAYERS).map(|_| layer()).collect();
    for rows in [1, 4, 16, 128, 512] {
        let routes: Vec<Routes> = (0..LAYERS).map(|layer| routes(rows, layer)).collect();
        let (x, residual) = (tensor(rows, HIDDEN), tensor(rows, HIDDEN));
        let seconds = median(|| {
            for (experts, routes) in layers.iter().zip(&routes) {
                experts_add_(&residual, &x, routes, experts, Activation::Silu).expect("shapes fit");
            }
        });
        // Every expert that some row uses is read once.
        let touched: usize = routes.iter().map(touched).sum();
        let pairs = rows * USED;
        let mixture = figures(seconds, touched, LAYERS * pairs);
        // The same work as dense layers: as many experts, each with its share of the rows.
        let each = (pairs * LAYERS).div_ceil(touched);
        let (x, residual) = (tensor(each, HIDDEN), tensor(each, HIDDEN));
        let seconds = median(|| {
            for (experts, routes) in layers.iter().zip(&routes) {
                for expert in distinct(routes) {
                    let inner = ffn_gated(&x, &experts.gate()[expert], &experts.up()[expert], Activation::Silu).expect("shapes fit");
                    linear_add_(&residual, &inner, &experts.down()[expert], None).expect("shapes fit");
                }
            }
        });
        let plain = figures(seconds, touched, touched * each);
        println!("| {rows} | {:.1} | {:.0} | {:.1} | {:.0} |", mixture.0, mixture.1, plain.0, plain.1);
    }
}

/// GB/s of weights read and Gop/s of products.
fn figures(seconds: f64, experts: usize, pairs: usize) -> (f64, f64) {
    let bytes = WEIGHTS / 3 / 256 * (2 * GgmlType::Q4K.block_bytes() + GgmlType::Q6K.block_bytes());
    ((experts * bytes) as f64 / seconds / 1e9, 2.0 * (pairs * WEIGHTS) as f64 / seconds / 1e9)
}

fn distinct(routes: &Routes) -> Vec<usize> {
    let mut experts: Vec<usize> = routes.experts().iter().map(|expert| *expert as usize).collect();
    experts.sort_unstable();
    experts.dedup();
    experts
}

fn touched(routes: &Routes) -> usize {
    distinct(routes).len()
}

fn routes(rows: usize, layer: usize) -> Routes {
    let logits: Vec<f32> = (0..rows * COUNT).map(|i| 3.0 * noise(i + 1_000_003 * (layer + 1))).collect();
    let logits = Tensor::from_vec(logits, (rows, COUNT), &Device::Cpu).expect("sizes fit");
    route(&logits, USED, true).expect("8 of 32")
}

fn layer() -> Experts {
    let (up, down) = (|| stack(GgmlType::Q4K, WIDTH, HIDDEN), || stack(GgmlType::Q6K, HIDDEN, WIDTH));
    Experts::new(up(), up(), down()).expect("they fit together")
}

/// 32 different rows, repeated: quantising every row would take longer than measuring.
fn stack(ty: GgmlType, rows: usize, cols: usize) -> Vec<Weight> {
    let values: Vec<f32> = (0..32 * cols).map(noise).collect();
    let some = quantize::quantize(ty, &values).expect("whole blocks");
    let bytes = SharedBytes::from(some.repeat(COUNT * rows / 32));
    Weight::stack(&bytes, ty, COUNT, (rows, cols), &Device::Cpu).expect("sizes fit")
}

fn tensor(rows: usize, cols: usize) -> Tensor {
    let values: Vec<f32> = (0..rows * cols).map(|i| noise(i + 7)).collect();
    Tensor::from_vec(values, (rows, cols), &Device::Cpu).expect("sizes fit")
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
