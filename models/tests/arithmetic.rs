//! Whether `kernels::ARITHMETIC_VERSION` still tells the truth: keys and values of a few tiny models, to the bit, as this version computes
//! them. Blocks that a disk keeps are used again by every build of the same version.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use candle_core::Device;
use kernels::{GgmlType, KvDtype, LogitRows};
use models::testing::batch::{Part, step_of};
use models::testing::tiny;
use models::{Family, KvCache};

/// A hash of the first two blocks' bits, after a prompt in two chunks.
fn keys_and_values(family: Family, ty: GgmlType, kv: KvDtype) -> u64 {
    let mut model = models::load(&tiny(family, 7, ty), &Device::Cpu).expect("a tiny model loads");
    let mut cache = KvCache::new(model.config(), 3, kv, &Device::Cpu).expect("a cache");
    let tokens: Vec<u32> = (0..70).map(|i| i * 13 % 300).collect();
    for (cached, chunk) in [(0, &tokens[..41]), (41, &tokens[41..])] {
        let (ids, step) = step_of(&[Part { tokens: chunk, cached, blocks: &[2, 0, 1], logits: LogitRows::Last }]);
        model.forward(&ids, &step, &mut cache).expect("a forward pass");
    }
    let mut bytes = Vec::new();
    cache.read_block(2, &mut bytes).expect("a block of the cache");
    cache.read_block(0, &mut bytes).expect("a block of the cache");
    // FNV-1a
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3))
}

#[test]
fn keys_and_values_are_those_of_this_version() {
    let of = |family| [(GgmlType::Q8_0, KvDtype::F16), (GgmlType::Q4K, KvDtype::Q8_0)].map(|(ty, kv)| keys_and_values(family, ty, kv));
    let found: Vec<u64> = Family::ALL.into_iter().flat_map(of).collect();
    // By family in the order of `Family::ALL`; of each Q8_0 with a cache of f16, Q4_K with one of q8_0.
    let known: &[u64] = &[
        0xA8C63862FF3F733E,
        0xDAA7630C70ECE616,
        0x626E7BFE2C643414,
        0xA840E96A0B233F90,
        0xE7ABF48169DE7F32,
        0x92BC1FF861B56759,
        0x080440251246ECE2,
        0x58F6D7EDA4A5DC1B,
    ];
    assert_eq!(
        (kernels::ARITHMETIC_VERSION, found.as_slice()),
        (1, known),
        "a change of the bits: raise ARITHMETIC_VERSION, and put its number and these hashes here"
    );
}
