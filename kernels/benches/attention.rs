//! Attention over the paged cache at the shapes of two small models: prefill as a share of the arithmetic, decode of the reading,
//! both measured beside it in the same process.
//!
//! `cargo bench --workspace --bench attention [-- [threads] [f16|f32|q8_0] [decode|prefill] [cpu]]`. Each time is the median of the repetitions, with
//! the best beside it. The peak is that of f32 fused multiply-adds on the same threads, the median of measurements before and after
//! each repetition; the reading is a plain sum over as many bytes that were not read lately.

use std::num::NonZeroUsize;
use std::time::Instant;

use candle_core::{Device, Result, Tensor};
use kernels::cpu::isa::isa;
use kernels::cpu::peak;
use kernels::cpu::pool::{pool, set_threads};
use kernels::ops::attention::{AttentionSpec, kv_write_, paged_attention};
use kernels::ops::norm::rms_norm;
use kernels::ops::rope::{Rope, RopeStyle, qk_norm_rope_};
use kernels::{BLOCK_TOKENS, KvDtype, KvLayer, LogitRows, Step, StepBuilder};

/// Layers in turn, so that a decode reads keys and values from memory and not from the cache of the last call.
const LAYERS: usize = 8;
const DEPTHS: [usize; 4] = [0, 4096, 8192, 16384];
const CHUNK: usize = 512;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let Some(threads) = words.iter().find_map(|word| word.parse::<NonZeroUsize>().ok()) {
        set_threads(threads);
    }
    let dtype = words.iter().find_map(|word| word.parse::<KvDtype>().ok()).unwrap_or_default();
    let wants = |what: &str| words.iter().any(|word| word == what) || !words.iter().any(|word| word == "decode" || word == "prefill");
    println!("{} threads, {}, {dtype} cache, {LAYERS} layers in turn", pool().threads(), isa().expect("a set this CPU has"));
    for (name, heads, kv_heads, head_dim) in [("Qwen2.5-1.5B", 12, 2, 128), ("Qwen3-0.6B", 16, 8, 128)] {
        let spec =
            AttentionSpec { scale: 1.0 / (head_dim as f32).sqrt(), heads, kv_heads, head_dim, window: None, softcap: None, sinks: None };
        println!("{name}: {heads} query heads over {kv_heads} of {head_dim}");
        let world = World::new(spec, dtype, DEPTHS[3] + CHUNK)?;
        if wants("decode") {
            for depth in [512, 4096, 8192, 16384] {
                world.decode(&format!("decode at {depth}"), &[(depth - 1, 1)])?;
            }
            world.decode("8 streams at 2048", &[(2047, 1); 8])?;
            world.decode("8 rows at 8192", &[(8192 - 8, 8)])?;
        }
        if wants("prefill") {
            for depth in DEPTHS {
                world.prefill(&format!("{CHUNK} rows at {depth}"), depth, CHUNK)?;
            }
            let windowed = World { spec: AttentionSpec { window: Some(1024), ..world.spec.clone() }, ..world };
            windowed.prefill(&format!("{CHUNK} at {}, window 1024", DEPTHS[3]), DEPTHS[3], CHUNK)?;
        }
    }
    if wants("ops") { small_ops() } else { Ok(()) }
}

struct World {
    spec: AttentionSpec,
    layers: Vec<KvLayer>,
    table: Vec<u32>,
}

impl World {
    fn new(spec: AttentionSpec, dtype: KvDtype, tokens: usize) -> Result<Self> {
        let blocks = tokens.div_ceil(BLOCK_TOKENS);
        // Blocks in a scattered order, as after some hours of serving.
        let table: Vec<u32> = (0..blocks).map(|i| (i * 7919 % blocks) as u32).collect();
        let mut layers = Vec::new();
        for seed in 0..LAYERS {
            let layer = KvLayer::new(blocks, spec.kv_heads, spec.head_dim, dtype, &Device::Cpu)?;
            let rows = noise(tokens, spec.kv_heads * spec.head_dim, seed as u64)?;
            kv_write_(&layer, &rows, &rows, &step(&table, &[(0, tokens)]))?;
            layers.push(layer);
        }
        Ok(Self { spec, layers, table })
    }

    /// Rows of `parts`, each (computed, new) of a sequence of its own: neighbouring pieces of the one table.
    fn decode(&self, what: &str, parts: &[(usize, usize)]) -> Result<()> {
        let AttentionSpec { heads, kv_heads, head_dim, .. } = self.spec;
        let (step, rows) = (step(&self.table, parts), parts.iter().map(|part| part.1).sum());
        let q = noise(rows, heads * head_dim, 99)?;
        let mut times = Vec::new();
        for _ in 0..12 {
            for layer in &self.layers {
                times.push(timed(|| paged_attention(&q, layer, &step, &self.spec))?);
            }
        }
        let (median, best) = median_and_best(times);
        let tokens: usize = parts.iter().map(|(computed, new)| computed + new).sum();
        let bytes = self.layers[0].dtype().bytes((2 * tokens * kv_heads * head_dim) as u64) as f64;
        let floor = read_s(bytes as usize);
        let gb_s = |seconds: f64| bytes / seconds / 1e9;
        let flop = (4 * rows * tokens / parts.len() * heads * head_dim) as f64;
        println!(
            "  {what:26} {:8.3} ms {:6.1} GB/s (best {:.1}; reading alone {:.1}, {:.0} %), {:.1} GFLOP/s",
            median * 1e3,
            gb_s(median),
            gb_s(best),
            gb_s(floor),
            100.0 * floor / median,
            flop / median / 1e9
        );
        Ok(())
    }

    fn prefill(&self, what: &str, computed: usize, new: usize) -> Result<()> {
        let AttentionSpec { heads, kv_heads, head_dim, window, .. } = self.spec;
        let (step, q) = (step(&self.table, &[(computed, new)]), noise(new, heads * head_dim, 99)?);
        let k = noise(new, kv_heads * head_dim, 98)?;
        let (mut attention_s, mut write_s, mut peaks) = (Vec::new(), Vec::new(), Vec::new());
        let isa = isa().expect("a set this CPU has");
        for layer in self.layers.iter().take(if computed > 4096 { 5 } else { LAYERS }) {
            peaks.push(peak::f32_gops(isa));
            write_s.push(timed(|| kv_write_(layer, &k, &k, &step))?);
            attention_s.push(timed(|| paged_attention(&q, layer, &step, &self.spec))?);
            peaks.push(peak::f32_gops(isa));
        }
        let ((median, best), (write, _), (peak, _)) = (median_and_best(attention_s), median_and_best(write_s), median_and_best(peaks));
        let seen: usize = (computed + 1..=computed + new).map(|end| end.min(window.unwrap_or(end))).sum();
        let flop = (4 * seen * heads * head_dim) as f64;
        let (gflop_s, best) = (flop / median / 1e9, flop / best / 1e9);
        println!(
            "  {what:26} {:8.3} ms {gflop_s:6.1} GFLOP/s (best {best:.1}; peak {peak:.1}, {:.0} %), write {:.1} us",
            median * 1e3,
            100.0 * gflop_s / peak,
            write * 1e6
        );
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
        let step = step(&table, &[(0, rows)]);
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

/// Sequences of (computed, new) tokens, each beginning where the one before ended, or at the start again.
fn step(table: &[u32], parts: &[(usize, usize)]) -> Step {
    let mut builder = StepBuilder::new();
    let mut first = 0;
    for &(computed, new) in parts {
        let blocks = (computed + new).div_ceil(BLOCK_TOKENS);
        let start = if first + blocks <= table.len() { first } else { 0 };
        builder.push(computed, new, &table[start..start + blocks], LogitRows::None).expect("the table is long enough");
        first = start + blocks;
    }
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

/// Seconds that `work` takes by the clock, or, asked for `cpu` on Linux, those that this process computed, divided by the threads: beside
/// other programs the clock counts their turns, too.
fn timed<R>(work: impl FnOnce() -> Result<R>) -> Result<f64> {
    let cpu = std::env::args().any(|word| word == "cpu").then(cpu_s).flatten();
    let start = Instant::now();
    work()?;
    let elapsed = start.elapsed().as_secs_f64();
    Ok(cpu.zip(cpu_s()).map_or(elapsed, |(before, after)| (after - before) / pool().threads() as f64))
}

/// Seconds that this process has computed.
#[cfg(target_os = "linux")]
fn cpu_s() -> Option<f64> {
    #[repr(C)]
    struct Timespec {
        seconds: i64,
        nanoseconds: i64,
    }
    unsafe extern "C" {
        fn clock_gettime(clock: i32, time: *mut Timespec) -> i32;
    }
    const CLOCK_PROCESS_CPUTIME_ID: i32 = 2;
    let mut time = Timespec { seconds: 0, nanoseconds: 0 };
    // SAFETY: `time` is laid out as on 64-bit Linux, where this bench runs, and lives through the call.
    let answer = unsafe { clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    (answer == 0).then_some(time.seconds as f64 + time.nanoseconds as f64 * 1e-9)
}

#[cfg(not(target_os = "linux"))]
fn cpu_s() -> Option<f64> {
    None
}

fn median_and_best(mut times_s: Vec<f64>) -> (f64, f64) {
    times_s.sort_by(f64::total_cmp);
    (times_s[times_s.len() / 2], times_s[0])
}
