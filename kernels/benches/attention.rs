//! Attention over the paged cache: decode in GB/s of keys and values read, prefill in GFLOP/s, at the shapes of two small models.
//!
//! `cargo bench -p kernels --bench attention [-- threads]`. Beside each figure stand the median and the best of the repetitions, and,
//! for decode, the speed at which the same threads merely read as many bytes.

use std::num::NonZeroUsize;
use std::time::Instant;

use candle_core::{Device, Result, Tensor};
use kernels::cpu::pool::{pool, set_threads};
use kernels::ops::attention::{AttentionSpec, kv_write_, paged_attention};
use kernels::ops::norm::rms_norm;
use kernels::ops::rope::{Rope, RopeStyle, qk_norm_rope_};
use kernels::{BLOCK_TOKENS, KvDtype, KvLayer, LogitRows, Step, StepBuilder};

/// Layers in turn, so that a decode reads keys and values from memory and not from the cache of the last call.
const LAYERS: usize = 8;

fn main() -> Result<()> {
    let threads = std::env::args().skip(1).find_map(|argument| argument.parse::<NonZeroUsize>().ok());
    if let Some(threads) = threads {
        set_threads(threads);
    }
    println!("{} threads, f16 cache, {LAYERS} layers in turn", pool().threads());
    for (name, heads, kv_heads, head_dim) in [("Qwen2.5-1.5B", 12, 2, 128), ("Qwen3-0.6B", 16, 8, 128)] {
        let spec = AttentionSpec { scale: 1.0 / (head_dim as f32).sqrt(), heads, kv_heads, head_dim, window: None, softcap: None };
        println!("{name}: {heads} query heads over {kv_heads} of {head_dim}");
        let world = World::new(spec, 16 * 1024 + 512)?;
        for kv_len in [512, 4096, 16384] {
            world.report(&format!("decode at {kv_len}"), kv_len - 1, 1)?;
        }
        for depth in [0, 4096] {
            world.report(&format!("prefill 512 at {depth}"), depth, 512)?;
        }
    }
    small_ops()
}

struct World {
    spec: AttentionSpec,
    layers: Vec<KvLayer>,
    table: Vec<u32>,
}

impl World {
    fn new(spec: AttentionSpec, tokens: usize) -> Result<Self> {
        let blocks = tokens.div_ceil(BLOCK_TOKENS);
        // Blocks in a scattered order, as after some hours of serving.
        let table: Vec<u32> = (0..blocks).map(|i| (i * 7919 % blocks) as u32).collect();
        let mut layers = Vec::new();
        for seed in 0..LAYERS {
            let layer = KvLayer::new(blocks, spec.kv_heads, spec.head_dim, KvDtype::F16, &Device::Cpu)?;
            let rows = noise(tokens, spec.kv_heads * spec.head_dim, seed as u64)?;
            kv_write_(&layer, &rows, &rows, &step(&table, 0, tokens))?;
            layers.push(layer);
        }
        Ok(Self { spec, layers, table })
    }

    fn report(&self, what: &str, computed: usize, new: usize) -> Result<()> {
        let AttentionSpec { heads, kv_heads, head_dim, .. } = self.spec;
        let (step, q) = (step(&self.table, computed, new), noise(new, heads * head_dim, 99)?);
        let k = noise(new, kv_heads * head_dim, 98)?;
        let mut attention_s = Vec::new();
        let mut write_s = Vec::new();
        let repetitions = if new == 1 { 12 } else { 3 };
        for _ in 0..repetitions {
            for layer in &self.layers {
                write_s.push(timed(|| kv_write_(layer, &k, &k, &step))?);
                attention_s.push(timed(|| paged_attention(&q, layer, &step, &self.spec))?);
            }
        }
        let ((median, best), (write, _)) = (median_and_best(attention_s), median_and_best(write_s));
        let seen: usize = (computed + 1..=computed + new).sum();
        let flop = (4 * seen * heads * head_dim) as f64;
        if new == 1 {
            let bytes = (2 * seen * kv_heads * head_dim * 2) as f64;
            let floor = read_s(bytes as usize);
            let (gb_s, best_gb_s, floor_gb_s) = (bytes / median / 1e9, bytes / best / 1e9, bytes / floor / 1e9);
            print!("  {what:20} {:8.3} ms {gb_s:6.1} GB/s (best {best_gb_s:.1}; reading alone {floor_gb_s:.1})", median * 1e3);
        } else {
            print!("  {what:20} {:8.3} ms {:6.1} GFLOP/s (best {:.1})", median * 1e3, flop / median / 1e9, flop / best / 1e9);
        }
        println!(", write {:.1} us", write * 1e6);
        Ok(())
    }
}

/// Seconds to read `bytes` of memory that was not read lately, on all threads: the floor of a decode.
fn read_s(bytes: usize) -> f64 {
    let words = bytes / 8;
    let regions = (64 * 1024 * 1024 / bytes.max(1)).clamp(2, 64);
    let memory: Vec<u64> = (0..words * regions).map(|i| i as u64).collect();
    let chunk = 8 * 1024;
    let times = (0..3 * regions).map(|i| {
        let region = &memory[i % regions * words..][..words];
        let start = Instant::now();
        pool().run(words.div_ceil(chunk), |task| {
            let part = &region[task * chunk..words.min((task + 1) * chunk)];
            std::hint::black_box(part.iter().fold(0u64, |a, b| a ^ b));
        });
        start.elapsed().as_secs_f64()
    });
    median_and_best(times.collect()).0
}

/// The ops around attention, at one row and at 512.
fn small_ops() -> Result<()> {
    let (heads, kv_heads, head_dim) = (16, 8, 128);
    let inverse_frequency = (0..head_dim / 2).map(|i| 1e6f32.powf(-2.0 * i as f32 / head_dim as f32)).collect();
    let rope = Rope { style: RopeStyle::Neox, inverse_frequency, attention_factor: 1.0 };
    let w = noise(1, 1024, 1)?.flatten_all()?;
    for rows in [1, 512] {
        let table: Vec<u32> = (0..16).collect();
        let step = step(&table, 0, rows);
        let (q, k) = (noise(rows, heads * head_dim, 2)?, noise(rows, kv_heads * head_dim, 3)?);
        let x = noise(rows, 1024, 4)?;
        let angles = rope.angles(&step, &Device::Cpu)?;
        let repeat = |f: &dyn Fn() -> Result<()>| -> Result<f64> {
            let times = (0..50).map(|_| timed(f)).collect::<Result<Vec<_>>>()?;
            Ok(median_and_best(times).0 * 1e6)
        };
        println!(
            "{rows} rows: angles {:.1} us, rope {:.1} us, rms_norm of 1024 {:.1} us",
            repeat(&|| rope.angles(&step, &Device::Cpu).map(drop))?,
            repeat(&|| qk_norm_rope_(&q, &k, head_dim, &angles, None))?,
            repeat(&|| rms_norm(&x, &w, 1e-6).map(drop))?,
        );
    }
    Ok(())
}

fn step(table: &[u32], computed: usize, new: usize) -> Step {
    let mut builder = StepBuilder::new();
    builder.push(computed, new, table, LogitRows::None).expect("the table is long enough");
    builder.finish()
}

/// Uniform numbers in -1..1 (xorshift).
fn noise(rows: usize, width: usize, seed: u64) -> Result<Tensor> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    Tensor::from_vec((0..rows * width).map(|_| next()).collect(), (rows, width), &Device::Cpu)
}

fn timed<R>(work: impl FnOnce() -> Result<R>) -> Result<f64> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64())
}

fn median_and_best(mut times_s: Vec<f64>) -> (f64, f64) {
    times_s.sort_by(f64::total_cmp);
    (times_s[times_s.len() / 2], times_s[0])
}
