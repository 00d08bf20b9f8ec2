//! A seeded hash of names and of pairs of ids: one multiplication for eight bytes, where the standard one would cost more than all
//! else of a lookup. The seed is the process's own, so that no file can choose names that all meet in one place.

use std::hash::{BuildHasher, Hasher, RandomState};

/// As a [`BuildHasher`], for keys of one or two `u32`.
#[derive(Debug, Clone)]
pub(super) struct Seed(u64);

impl Seed {
    pub(super) fn new() -> Self {
        Self(RandomState::new().hash_one(0u64))
    }

    pub(super) fn of_bytes(&self, bytes: &[u8]) -> u64 {
        let (words, rest) = bytes.as_chunks::<8>();
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        let hash = words.iter().fold(self.0, |hash, word| fold(hash, u64::from_le_bytes(*word)));
        // With the length, so that a name and the same name with zeros behind it differ.
        fold(fold(hash, u64::from_le_bytes(last)), bytes.len() as u64)
    }
}

/// Multiplication by the golden ratio, both halves of the product together: every bit of the number reaches all of the hash.
fn fold(hash: u64, word: u64) -> u64 {
    let product = u128::from(hash ^ word) * u128::from(0x9e37_79b9_7f4a_7c15u64);
    (product >> 64) as u64 ^ product as u64
}

impl BuildHasher for Seed {
    type Hasher = IdHasher;

    fn build_hasher(&self) -> IdHasher {
        IdHasher(self.0)
    }
}

pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = fold(self.0, u64::from(number));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn different_things_have_different_hashes() {
        let seed = Seed::new();
        let mut hashes = HashSet::new();
        let names = ["", "\0", "\0\0", "a", "b", "ab", "ba", "abcdefgh", "abcdefgh\0", "hgfedcba", "abcdefghabcdefgh"];
        for name in names {
            assert!(hashes.insert(seed.of_bytes(name.as_bytes())), "{name:?}");
        }
        // Neighbouring pairs, as vocabularies have them, spread over the low bits, which choose a place.
        let pairs = (0..100u32).flat_map(|a| (0..100u32).map(move |b| (a, b)));
        let places: HashSet<u64> = pairs.map(|pair| seed.hash_one(pair) & 0xffff).collect();
        assert!(places.len() > 8000, "10,000 pairs in {} of 65,536 places; 9,270 are to be expected of chance", places.len());
    }
}
