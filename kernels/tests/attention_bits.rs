//! The promise that everything leans on: a row's attention is the same to the bit whatever the chunking, the company, the
//! place in the cache, the instruction set and the tiling.

use std::num::NonZeroUsize;

use kernels::KvDtype;
use kernels::cpu::isa::{Isa, with_isa};
use kernels::cpu::pool::with_threads;
use kernels::ops::attention::AttentionSpec;
use proptest::prelude::*;

use crate::attention::{TYPES, World, fits, sinks, spec};
use crate::support::assert_bits;

/// All rows of sequence `index`, computed in chunks of `chunk`.
fn chunked(world: &World, index: usize, len: usize, chunk: usize) -> Vec<f32> {
    (0..len).step_by(chunk).flat_map(|start| world.advance(&[(index, start, chunk.min(len - start))])).collect()
}

fn cases() -> Vec<AttentionSpec> {
    let mut all: Vec<AttentionSpec> =
        [(2, 2, 32), (4, 2, 64), (8, 2, 80), (7, 1, 96), (12, 2, 128), (8, 1, 256)].map(|(h, k, d)| spec(h, k, d)).to_vec();
    all.push(AttentionSpec { window: Some(50), ..spec(4, 2, 64) });
    all.push(AttentionSpec { window: Some(300), softcap: Some(20.0), ..spec(6, 3, 24) });
    all.push(AttentionSpec { window: Some(128), sinks: sinks(16), ..spec(16, 2, 64) });
    all.push(AttentionSpec { softcap: Some(10.0), sinks: sinks(6), ..spec(6, 2, 32) });
    all
}

#[test]
fn chunks_do_not_change_a_bit() {
    for spec in cases() {
        for dtype in TYPES.into_iter().filter(|dtype| fits(&spec, *dtype)) {
            let len = 600;
            let whole = chunked(&World::new(&spec, dtype, &[len], 21), 0, len, len);
            for chunk in [7, 64, 512] {
                let parts = chunked(&World::new(&spec, dtype, &[len], 21), 0, len, chunk);
                assert_bits(&parts, &whole, &format!("{spec:?} {dtype:?} in chunks of {chunk}"));
            }
            // Token by token over the end of the second split.
            let world = World::new(&spec, dtype, &[len], 21);
            world.write(&[(0, 0, 500)]);
            let single: Vec<f32> = (500..530).flat_map(|start| world.advance(&[(0, start, 1)])).collect();
            let width = spec.heads * spec.head_dim;
            assert_bits(&single, &whole[500 * width..530 * width], &format!("{spec:?} {dtype:?} token by token"));
        }
    }
}

#[test]
fn strangers_in_the_batch_do_not_change_a_bit() {
    for spec in cases() {
        let lengths = [333, 1, 700, 64, 33, 32, 520, 90];
        let world = World::new(&spec, KvDtype::F16, &lengths, 22);
        let all: Vec<_> = lengths.iter().enumerate().map(|(i, len)| (i, 0, *len)).collect();
        let together = world.advance(&all);
        let width = spec.heads * spec.head_dim;
        let mut start = 0;
        for (index, len) in lengths.iter().enumerate() {
            let alone = world.attend(&[(index, 0, *len)]);
            assert_bits(&alone, &together[start..start + len * width], &format!("{spec:?} sequence {index}"));
            // Decode of the last token, alone and beside a long prefill.
            let last = world.attend(&[(index, len - 1, 1)]);
            assert_bits(&last, &alone[(len - 1) * width..], &format!("{spec:?} last token of {index}"));
            if index != 2 {
                let beside = world.attend(&[(index, len - 1, 1), (2, 0, 700)]);
                assert_bits(&beside[..width], &last, &format!("{spec:?} last token of {index} beside a prefill"));
            }
            start += len * width;
        }
        // All last tokens in one decode step.
        let lasts: Vec<_> = lengths.iter().enumerate().map(|(i, len)| (i, len - 1, 1)).collect();
        let decoded = world.attend(&lasts);
        let mut end = 0;
        for (index, len) in lengths.iter().enumerate() {
            end += len * width;
            assert_bits(&decoded[index * width..(index + 1) * width], &together[end - width..end], "batched decode");
        }
    }
}

#[test]
fn the_place_in_the_cache_does_not_change_a_bit() {
    let spec = spec(4, 2, 64);
    // The same numbers from the same seed; the company shifts where their blocks lie.
    let alone = World::new(&spec, KvDtype::F16, &[400], 23);
    let crowded = World::new(&spec, KvDtype::F16, &[400, 2000], 23);
    assert_ne!(alone.step(&[(0, 0, 400)]).slots, crowded.step(&[(0, 0, 400)]).slots);
    assert_bits(&crowded.advance(&[(0, 0, 400)]), &alone.advance(&[(0, 0, 400)]), "another place");
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    for spec in cases() {
        let dtype = if fits(&spec, KvDtype::Q8_0) { KvDtype::Q8_0 } else { KvDtype::F16 };
        let world = World::new(&spec, dtype, &[1000, 40], 25);
        world.write(&[(0, 0, 1000), (1, 0, 40)]);
        // A lone decode at depth is cut along the keys, a prefill along the rows; how, depends on the threads.
        for parts in [vec![(0, 999, 1)], vec![(0, 900, 100)], vec![(0, 999, 1), (1, 0, 40)]] {
            let on = |threads| with_threads(NonZeroUsize::new(threads).unwrap(), || world.attend(&parts));
            let alone = on(1);
            for threads in [2, 3, 8] {
                assert_bits(&on(threads), &alone, &format!("{spec:?} {parts:?} on {threads} threads"));
            }
        }
    }
}

#[test]
fn every_instruction_set_gives_the_same_bits() {
    for spec in cases() {
        for dtype in TYPES.into_iter().filter(|dtype| fits(&spec, *dtype)) {
            let lengths = [70, 300];
            let world = World::new(&spec, dtype, &lengths, 24);
            world.write(&[(0, 0, 70), (1, 0, 300)]);
            let parts = [(0, 60, 10), (1, 270, 30)];
            let scalar = with_isa(Isa::Scalar, || world.attend(&parts));
            for isa in Isa::available() {
                assert_bits(&with_isa(isa, || world.attend(&parts)), &scalar, &format!("{spec:?} {dtype:?} {isa}"));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_cut_gives_the_same_bits(
        cuts in prop::collection::vec(1usize..120, 1..8),
        group in 1usize..9,
        window in prop::option::of(1usize..400),
        dtype in prop::sample::select(&TYPES),
        sunk: bool,
        seed: u64,
    ) {
        let spec = AttentionSpec { window, sinks: if sunk { sinks(2 * group) } else { None }, ..spec(2 * group, 2, 32) };
        let len = cuts.iter().sum();
        let whole = chunked(&World::new(&spec, dtype, &[len], seed), 0, len, len);
        let world = World::new(&spec, dtype, &[len], seed);
        let mut start = 0;
        let mut parts = Vec::new();
        for cut in cuts {
            parts.extend(world.advance(&[(0, start, cut)]));
            start += cut;
        }
        assert_bits(&parts, &whole, "cut");
    }
}
