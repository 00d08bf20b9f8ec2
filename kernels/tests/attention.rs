//! Attention and the cache: against f64 and the reference, over shapes, windows, caps and extreme values.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use half::f16;
use kernels::cpu::isa::{Isa, with_isa};
use kernels::ops::attention::{AttentionSpec, kv_write_, paged_attention};
use kernels::reference::attention as reference;
use kernels::{BLOCK_TOKENS, KvDtype, KvLayer, LogitRows, Step, StepBuilder};
use proptest::prelude::*;

use crate::support::{Random, assert_bits, rows, values};

pub fn spec(heads: usize, kv_heads: usize, head_dim: usize) -> AttentionSpec {
    AttentionSpec { scale: 1.0 / (head_dim as f32).sqrt(), heads, kv_heads, head_dim, window: None, softcap: None, sinks: None }
}

pub const TYPES: [KvDtype; 3] = [KvDtype::F16, KvDtype::F32, KvDtype::Q8_0];

/// Whether a cache of this type takes such heads.
pub fn fits(spec: &AttentionSpec, dtype: KvDtype) -> bool {
    spec.head_dim.is_multiple_of(dtype.head_dim_multiple())
}

/// A sink for each query head, from far below the scores to far above.
pub fn sinks(heads: usize) -> Option<Arc<[f32]>> {
    Some((0..heads).map(|head| [0.5, -3.0, 4.0, -40.0, 1.0, 30.0][head % 6]).collect())
}

/// Sequences with a query, a key and a value for each position, and blocks of their own in one cache, in no order.
pub struct World {
    pub spec: AttentionSpec,
    pub kv: KvLayer,
    pub sequences: Vec<Sequence>,
}

pub struct Sequence {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    table: Vec<u32>,
}

impl World {
    pub fn new(spec: &AttentionSpec, dtype: KvDtype, lengths: &[usize], seed: u64) -> Self {
        let mut random = Random::new(seed);
        let blocks: usize = lengths.iter().map(|len| len.div_ceil(BLOCK_TOKENS)).sum::<usize>() + 3;
        let kv = KvLayer::new(blocks, spec.kv_heads, spec.head_dim, dtype, &Device::Cpu).unwrap();
        let mut free: Vec<u32> = (0..blocks as u32).collect();
        let sequences = lengths.iter().map(|len| {
            let draw = |random: &mut Random, free: &mut Vec<u32>| free.swap_remove(random.next() as usize % free.len());
            let table = (0..len.div_ceil(BLOCK_TOKENS)).map(|_| draw(&mut random, &mut free)).collect();
            let (q_len, kv_len) = (len * spec.heads * spec.head_dim, len * spec.kv_heads * spec.head_dim);
            Sequence { q: random.normals(q_len), k: random.normals(kv_len), v: random.normals(kv_len), table }
        });
        Self { sequences: sequences.collect(), spec: spec.clone(), kv }
    }

    /// The step that computes `new` tokens after `computed` of each listed sequence: `(sequence, computed, new)`.
    pub fn step(&self, parts: &[(usize, usize, usize)]) -> Step {
        let mut builder = StepBuilder::new();
        for &(sequence, computed, new) in parts {
            builder.push(computed, new, &self.sequences[sequence].table, LogitRows::None).unwrap();
        }
        let step = builder.finish();
        step.check(self.kv.blocks()).unwrap();
        step
    }

    /// Queries, keys and values of the parts' rows.
    pub fn qkv(&self, parts: &[(usize, usize, usize)]) -> [Tensor; 3] {
        let widths = [self.spec.heads, self.spec.kv_heads, self.spec.kv_heads].map(|heads| heads * self.spec.head_dim);
        [0, 1, 2].map(|which| {
            let width = widths[which];
            let mut all = Vec::new();
            for &(sequence, computed, new) in parts {
                let sequence = &self.sequences[sequence];
                let source = [&sequence.q, &sequence.k, &sequence.v][which];
                all.extend_from_slice(&source[computed * width..(computed + new) * width]);
            }
            let rows = all.len() / width;
            Tensor::from_vec(all, (rows, width), &Device::Cpu).unwrap()
        })
    }

    pub fn write(&self, parts: &[(usize, usize, usize)]) {
        let [_, k, v] = self.qkv(parts);
        kv_write_(&self.kv, &k, &v, &self.step(parts)).unwrap();
    }

    pub fn attend(&self, parts: &[(usize, usize, usize)]) -> Vec<f32> {
        let [q, _, _] = self.qkv(parts);
        values(&paged_attention(&q, &self.kv, &self.step(parts), &self.spec).unwrap())
    }

    /// Writes the parts, then attends: one step as a model does it.
    pub fn advance(&self, parts: &[(usize, usize, usize)]) -> Vec<f32> {
        self.write(parts);
        self.attend(parts)
    }

    /// The formula in f64 over the cache's rounded keys and values.
    fn exact(&self, parts: &[(usize, usize, usize)]) -> Vec<f64> {
        let AttentionSpec { scale, heads, kv_heads, head_dim, window, softcap, ref sinks } = self.spec;
        let mut out = Vec::new();
        for &(sequence, computed, new) in parts {
            let sequence = &self.sequences[sequence];
            let (k, v) = self.kv.gather(&sequence.table, computed + new).unwrap();
            let (k, v) = (values(&k), values(&v));
            for position in computed..computed + new {
                let start = window.map_or(0, |window| (position + 1).saturating_sub(window));
                for head in 0..heads {
                    let q = &sequence.q[(position * heads + head) * head_dim..][..head_dim];
                    let at = |key: usize| (head / (heads / kv_heads) * (computed + new) + key) * head_dim;
                    let score = |key: usize| {
                        let dot: f64 = q.iter().zip(&k[at(key)..]).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
                        let score = dot * f64::from(scale);
                        softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
                    };
                    let scores: Vec<f64> = (start..=position).map(score).collect();
                    let sink = sinks.as_ref().map(|sinks| f64::from(sinks[head]));
                    let max = scores.iter().copied().chain(sink).fold(f64::NEG_INFINITY, f64::max);
                    let sum: f64 = scores.iter().copied().chain(sink).map(|s| (s - max).exp()).sum();
                    let weighted = |d: usize| {
                        let terms = scores.iter().enumerate();
                        terms.map(|(i, s)| (s - max).exp() * f64::from(v[at(start + i) + d])).sum::<f64>() / sum
                    };
                    out.extend((0..head_dim).map(weighted));
                }
            }
        }
        out
    }
}

#[track_caller]
fn assert_close(got: &[f32], exact: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), exact.len(), "{what}: lengths");
    for (i, (got, exact)) in got.iter().zip(exact).enumerate() {
        assert!((f64::from(*got) - exact).abs() <= tolerance, "{what}: element {i} is {got}, not {exact}");
    }
}

/// Heads, key/value heads, head size: every group size and head size in use.
const SHAPES: [(usize, usize, usize); 9] =
    [(1, 1, 8), (2, 2, 32), (4, 2, 64), (8, 2, 80), (7, 1, 96), (12, 2, 128), (8, 1, 256), (5, 1, 40), (16, 8, 128)];

#[test]
fn attention_follows_the_formula_in_every_shape() {
    for (heads, kv_heads, head_dim) in SHAPES {
        for dtype in TYPES.into_iter().filter(|dtype| fits(&spec(heads, kv_heads, head_dim), *dtype)) {
            let world = World::new(&spec(heads, kv_heads, head_dim), dtype, &[45, 1, 300], 11);
            world.write(&[(0, 0, 30), (2, 0, 290)]);
            let parts = [(0, 30, 15), (1, 0, 1), (2, 290, 10)];
            let got = world.advance(&parts);
            let what = format!("{heads} over {kv_heads} heads of {head_dim}, {dtype:?}");
            assert_close(&got, &world.exact(&parts), 2e-6, &what);
            let [q, _, _] = world.qkv(&parts);
            let other = values(&reference::paged_attention(&q, &world.kv, &world.step(&parts), &world.spec).unwrap());
            got.iter().zip(&other).for_each(|(a, b)| assert!((a - b).abs() < 5e-6, "{what}: {a} and the reference's {b}"));
        }
    }
}

#[test]
fn windows_caps_and_sinks_follow_the_formula() {
    // 32 and 256 tokens are the borders of a block and of a split.
    for window in [None, Some(1), Some(2), Some(31), Some(32), Some(33), Some(100), Some(255), Some(256), Some(257), Some(1000)] {
        for softcap in [None, Some(0.7), Some(50.0)] {
            for (sinks, dtype) in [(None, KvDtype::F16), (sinks(6), KvDtype::F32), (sinks(6), KvDtype::Q8_0)] {
                let what = format!("{window:?} {softcap:?} {sinks:?} {dtype}");
                let spec = AttentionSpec { window, softcap, sinks, ..spec(6, 3, 32) };
                let world = World::new(&spec, dtype, &[600, 70], 12);
                world.write(&[(0, 0, 560), (1, 0, 20)]);
                let parts = [(0, 560, 40), (1, 20, 50)];
                let got = world.advance(&parts);
                assert_close(&got, &world.exact(&parts), 4e-6, &what);
                let [q, _, _] = world.qkv(&parts);
                let other = values(&reference::paged_attention(&q, &world.kv, &world.step(&parts), &world.spec).unwrap());
                got.iter().zip(&other).for_each(|(a, b)| assert!((a - b).abs() < 1e-5, "{what}: {a} and {b}"));
            }
        }
    }
}

#[test]
fn a_sink_takes_its_share_and_no_more() {
    // Equal scores of 0 and a sink of ln(8): of 8 + 8 parts the values have 8.
    let spec = AttentionSpec { scale: 0.0, sinks: Some([8f32.ln(), f32::NEG_INFINITY].into()), ..spec(2, 1, 16) };
    let world = World::new(&spec, KvDtype::F32, &[8], 18);
    let got = world.advance(&[(0, 0, 8)]);
    let (_, v) = world.kv.gather(&world.sequences[0].table, 8).unwrap();
    let mean = values(&v.mean(1).unwrap());
    let last = &got[7 * 32..];
    for d in 0..16 {
        assert!((last[d] - mean[d] / 2.0).abs() < 1e-6 && (last[16 + d] - mean[d]).abs() < 1e-6, "{d}: {last:?} of {mean:?}");
    }
}

#[test]
fn extreme_scores_stay_finite_and_right() {
    // Scores up to about 1e5: the softmax is a choice of the largest, and nothing overflows.
    let world = World::new(&AttentionSpec { scale: 2000.0, ..spec(4, 2, 64) }, KvDtype::F32, &[400], 13);
    world.write(&[(0, 0, 390)]);
    let got = world.advance(&[(0, 390, 10)]);
    assert!(got.iter().all(|x| x.is_finite()));
    // f32 rounds scores of 1e5 to 1/128, so close rivals may differ: compare where f64 sees a clear winner.
    let exact = world.exact(&[(0, 390, 10)]);
    let near = got.iter().zip(&exact).filter(|(got, exact)| (f64::from(**got) - **exact).abs() < 0.02).count();
    assert!(near * 20 > got.len() * 19, "{near} of {}", got.len());
    // All scores equal: the mean of the values.
    let flat = World::new(&AttentionSpec { scale: 0.0, ..spec(2, 1, 16) }, KvDtype::F32, &[100], 14);
    let got = flat.advance(&[(0, 0, 100)]);
    assert_close(&got, &flat.exact(&[(0, 0, 100)]), 1e-6, "equal scores");
}

#[test]
fn what_stands_in_slots_beyond_the_sequence_never_matters() {
    for dtype in TYPES {
        let world = World::new(&spec(4, 2, 32), dtype, &[64], 15);
        let before = world.advance(&[(0, 0, 40)]);
        // Not a number in the rest of the last block, as a freed block of another sequence might hold.
        let width = 2 * 32;
        let poison = Tensor::from_vec(vec![f32::NAN; 24 * width], (24, width), &Device::Cpu).unwrap();
        kv_write_(&world.kv, &poison, &poison, &world.step(&[(0, 40, 24)])).unwrap();
        assert_bits(&world.attend(&[(0, 0, 40)]), &before, &format!("poisoned slots, {dtype}"));
        // Once they are seen, they are.
        assert!(world.attend(&[(0, 40, 1)]).iter().all(|x| x.is_nan()), "{dtype}");
        let sunk = World { spec: AttentionSpec { sinks: sinks(4), ..world.spec.clone() }, ..world };
        assert!(sunk.attend(&[(0, 40, 1)]).iter().all(|x| x.is_nan()), "a sink hides no NaN, {dtype}");
    }
}

#[test]
fn bytes_are_within_half_a_scale_and_the_same_on_every_instruction_set() {
    let mut first: Option<[Vec<f32>; 2]> = None;
    for isa in Isa::available() {
        let world = World::new(&spec(2, 2, 64), KvDtype::Q8_0, &[77], 19);
        let [_, k, v] = world.qkv(&[(0, 0, 77)]);
        // Blocks of very different size beside each other.
        let k =
            (k * &Tensor::from_vec((0..77 * 128).map(|i| 10f32.powi(i / 32 % 9 - 5)).collect(), (77, 128), &Device::Cpu).unwrap()).unwrap();
        with_isa(isa, || kv_write_(&world.kv, &k, &v, &world.step(&[(0, 0, 77)]))).unwrap();
        let (k_back, v_back) = world.kv.gather(&world.sequences[0].table, 77).unwrap();
        // [heads, tokens, 64] -> [tokens, heads * 64]
        let back = [k_back, v_back].map(|back| values(&back.transpose(0, 1).unwrap().contiguous().unwrap()));
        for (written, back) in [(&k, &back[0]), (&v, &back[1])] {
            for (written, back) in values(written).chunks(32).zip(back.chunks(32)) {
                let largest = written.iter().fold(0f32, |a, x| a.max(x.abs()));
                let half = largest / 127.0 * (0.5 + 1e-3) + 3e-8;
                assert!(written.iter().zip(back).all(|(x, y)| (x - y).abs() <= half), "{isa}: {written:?} {back:?}");
            }
        }
        let first = first.get_or_insert_with(|| back.clone());
        (0..2).for_each(|i| assert_bits(&back[i], &first[i], isa.name()));
    }
}

#[test]
fn the_cache_gives_back_what_was_written_rounded_to_nearest_even() {
    for isa in Isa::available() {
        let world = World::new(&spec(2, 2, 24), KvDtype::F16, &[77], 16);
        // Ties, subnormals, the largest finite value and what rounds beyond it.
        let edges = [1.000_488_3, 1.001_464_8, 5.96e-8, 2.98e-8, 3.1e-8, 65504.0, 65519.9, 65520.0, -0.0, f32::INFINITY, 1e-12];
        let [_, k, v] = world.qkv(&[(0, 0, 77)]);
        let mut k = values(&k);
        k[..edges.len()].copy_from_slice(&edges);
        let k = Tensor::from_vec(k, (77, 48), &Device::Cpu).unwrap();
        with_isa(isa, || kv_write_(&world.kv, &k, &v, &world.step(&[(0, 0, 77)]))).unwrap();
        let (k_back, v_back) = world.kv.gather(&world.sequences[0].table, 77).unwrap();
        for (written, back) in [(&k, k_back), (&v, v_back)] {
            // [heads, tokens, 24] -> [tokens, heads * 24]
            let back = values(&back.transpose(0, 1).unwrap().contiguous().unwrap());
            let rounded: Vec<f32> = values(written).iter().map(|x| f16::from_f32(*x).to_f32()).collect();
            assert_bits(&back, &rounded, isa.name());
        }
    }
}

#[test]
fn an_empty_step_and_wrong_shapes() {
    let world = World::new(&spec(4, 2, 32), KvDtype::F16, &[64], 17);
    assert_eq!(world.advance(&[]), Vec::<f32>::new());
    let step = world.step(&[(0, 0, 3)]);
    let [q, k, v] = world.qkv(&[(0, 0, 3)]);
    assert!(kv_write_(&world.kv, &k.narrow(0, 0, 2).unwrap(), &v, &step).is_err());
    assert!(paged_attention(&k, &world.kv, &step, &world.spec).is_err());
    assert!(paged_attention(&q.to_dtype(DType::F16).unwrap(), &world.kv, &step, &world.spec).is_err());
    for wrong in [
        AttentionSpec { heads: 5, ..world.spec.clone() },
        AttentionSpec { heads: 4, kv_heads: 4, ..world.spec.clone() },
        AttentionSpec { head_dim: 16, heads: 8, ..world.spec.clone() },
        AttentionSpec { window: Some(0), ..world.spec.clone() },
        AttentionSpec { sinks: sinks(3), ..world.spec.clone() },
    ] {
        assert!(paged_attention(&q, &world.kv, &step, &wrong).is_err(), "{wrong:?}");
    }
    let mut far = step.clone();
    far.tables[0] = 99;
    assert!(paged_attention(&q, &world.kv, &far, &world.spec).is_err());
    let mut far = step.clone();
    far.slots[1] = 1 << 20;
    assert!(kv_write_(&world.kv, &k, &v, &far).is_err());
    let mut gap = step;
    gap.spans[0].q_len = 2;
    assert!(paged_attention(&q, &world.kv, &gap, &world.spec).is_err());
    assert!(KvLayer::new(1, 1, 12, KvDtype::F16, &Device::Cpu).is_err());
    assert!(KvLayer::new(1, 0, 16, KvDtype::F16, &Device::Cpu).is_err());
    let error = KvLayer::new(1, 1, 80, KvDtype::Q8_0, &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("a cache of q8_0 needs heads of a multiple of 32 elements, not 80"), "{error}");
}

#[test]
fn the_reference_write_of_other_devices_fills_their_layout() {
    // The layout of CUDA and Metal is a matter of shapes alone, so it is tested here on the CPU through plain tensors.
    let (k, step) = (rows(5, 16, 3), {
        let mut builder = StepBuilder::new();
        builder.push(30, 4, &[1, 0], LogitRows::None).unwrap();
        builder.push(0, 1, &[2], LogitRows::None).unwrap();
        builder.finish()
    });
    let pages = Tensor::zeros((3 * BLOCK_TOKENS, 16), DType::F16, &Device::Cpu).unwrap();
    reference::write_rows_(&pages, &k, &step.slots).unwrap();
    let pages = values(&pages.to_dtype(DType::F32).unwrap());
    let k = values(&k);
    for (row, slot) in [62usize, 63, 0, 1, 64].into_iter().enumerate() {
        let expected: Vec<f32> = k[row * 16..][..16].iter().map(|x| f16::from_f32(*x).to_f32()).collect();
        assert_bits(&pages[slot * 16..][..16], &expected, "a row in its slot");
    }
    assert_eq!(pages.iter().filter(|x| **x != 0.0).count(), 5 * 16);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_batch_follows_the_formula(
        shape in prop::sample::select(vec![(4usize, 2usize, 16usize), (3, 1, 24), (2, 2, 8), (6, 2, 40), (8, 1, 32), (14, 2, 64)]),
        lengths in prop::collection::vec((0usize..330, 1usize..50), 1..4),
        window in prop::option::of(1usize..200),
        dtype in prop::sample::select(&TYPES),
        softcap in prop::option::of(1f32..50.0),
        sunk: bool,
        seed: u64,
    ) {
        let sinks = if sunk { sinks(shape.0) } else { None };
        let spec = AttentionSpec { window, softcap, sinks, ..spec(shape.0, shape.1, shape.2) };
        let dtype = if fits(&spec, dtype) { dtype } else { KvDtype::F16 };
        let totals: Vec<usize> = lengths.iter().map(|(computed, new)| computed + new).collect();
        let world = World::new(&spec, dtype, &totals, seed);
        let before: Vec<_> = lengths.iter().enumerate().filter(|(_, l)| l.0 > 0).map(|(i, l)| (i, 0, l.0)).collect();
        world.write(&before);
        let parts: Vec<_> = lengths.iter().enumerate().map(|(i, l)| (i, l.0, l.1)).collect();
        let got = world.advance(&parts);
        assert_close(&got, &world.exact(&parts), 4e-6, "proptest");
    }
}
