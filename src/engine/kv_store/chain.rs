//! What blocks outside this process are known by: a hash over everything that decides their bits.
//!
//! A [`CacheKey`] stands for all that is no token (model, type of cache, arithmetic), a [`BlockName`] for the key and every token from
//! the first to the block's last. Names only find blocks; what they name is compared token by token where it is used.
#![deny(clippy::disallowed_methods)]

use std::fmt;

use kernels::BLOCK_TOKENS;

/// All that keys and values depend on beside the tokens. Two runs share blocks only where every field is equal: who adds a setting that
/// changes keys or values adds it here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Hash of the bytes of the model's files, metadata included.
    pub model: [u8; 32],
    pub kv_type: String,
    /// The instruction set in use. All give the same bits, as far as tests can tell; a cache that outlives a build trusts no test.
    pub isa: String,
    /// Architecture and system: the sines of RoPE are the system's.
    pub target: String,
    /// [`kernels::ARITHMETIC_VERSION`]
    pub arithmetic: u32,
    pub block_bytes: u64,
}

/// Hash of an [`Identity`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheKey([u8; 32]);

/// Hash of a block's content: the key, all blocks before it, its own tokens. For the first block's parent: the key itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockName([u8; 32]);

/// The full blocks of a prompt that may come from a cache, in order, with their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    key: CacheKey,
    tokens: Vec<u32>,
    names: Vec<BlockName>,
}

impl CacheKey {
    pub fn new(identity: &Identity) -> Self {
        let Identity { model, kv_type, isa, target, arithmetic, block_bytes } = identity;
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"understudy cache key 1").update(model).update(&arithmetic.to_le_bytes()).update(&block_bytes.to_le_bytes());
        hasher.update(&(BLOCK_TOKENS as u64).to_le_bytes());
        for text in [kv_type, isa, target] {
            // With its length, so that no two lists of texts read the same.
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        }
        Self(hasher.finalize().into())
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl BlockName {
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// 64 hexadecimal digits, lower case, as [`fmt::Display`] writes them.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let mut bytes = [0; 32];
        for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(text.get(at..at + 2).filter(|_| digits)?, 16).ok()?;
        }
        Some(Self(bytes))
    }

    fn of(key: &CacheKey, parent: &Self, tokens: &[u32]) -> Self {
        let mut bytes = [0; 4 * BLOCK_TOKENS];
        for (place, token) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(tokens) {
            *place = token.to_le_bytes();
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"understudy block 1").update(&key.0).update(&parent.0).update(&bytes);
        Self(hasher.finalize().into())
    }
}

impl fmt::Display for BlockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BlockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockName({:02x}{:02x}..)", self.0[0], self.0[1])
    }
}

impl Chain {
    /// Of the full blocks of `prompt`, but never its last token: somebody wants its logits.
    pub fn new(key: CacheKey, prompt: &[u32]) -> Self {
        let blocks = prompt.len().saturating_sub(1) / BLOCK_TOKENS;
        let mut names = Vec::with_capacity(blocks);
        let mut parent = BlockName(key.0);
        for tokens in prompt.chunks_exact(BLOCK_TOKENS).take(blocks) {
            parent = BlockName::of(&key, &parent, tokens);
            names.push(parent);
        }
        // One token more than the blocks have, so that a prefix cache, which leaves out the last, finds all of them.
        Self { key, tokens: prompt[..prompt.len().min(blocks * BLOCK_TOKENS + 1)].to_vec(), names }
    }

    /// In blocks.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Those of the blocks, and the one behind them.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    pub fn key(&self) -> &CacheKey {
        &self.key
    }

    pub fn names(&self) -> &[BlockName] {
        &self.names
    }

    pub fn block_tokens(&self, index: usize) -> &[u32] {
        &self.tokens[index * BLOCK_TOKENS..(index + 1) * BLOCK_TOKENS]
    }

    /// Of the block before; the key, where there is none.
    pub fn parent(&self, index: usize) -> BlockName {
        index.checked_sub(1).map_or(BlockName(self.key.0), |parent| self.names[parent])
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn identity() -> Identity {
        let text = |text: &str| text.to_owned();
        Identity { model: [7; 32], kv_type: text("f16"), isa: text("avx2"), target: text("x86_64-linux"), arithmetic: 1, block_bytes: 64 }
    }

    #[test]
    fn a_chain_has_the_full_blocks_without_the_last_token() {
        let key = CacheKey::new(&identity());
        let lengths = [0, 1, 31, 32, 33, 64, 65, 96, 97].map(|tokens| Chain::new(key, &vec![5; tokens]).len());
        assert_eq!(lengths, [0, 0, 0, 0, 1, 1, 2, 2, 3]);
        let chain = Chain::new(key, &(0..100).collect::<Vec<_>>());
        assert_eq!((chain.tokens().len(), chain.block_tokens(2)), (97, &(64..96).collect::<Vec<_>>()[..]));
        assert_eq!(chain.parent(0).as_bytes(), key.as_bytes());
        assert_eq!(chain.parent(2), chain.names()[1]);
    }

    #[test]
    fn every_token_before_and_every_field_of_the_key_names_the_block() {
        let key = CacheKey::new(&identity());
        let tokens: Vec<u32> = (0..97).collect();
        let chain = Chain::new(key, &tokens);
        for changed in 0..96 {
            let mut other = tokens.clone();
            other[changed] += 1;
            let other = Chain::new(key, &other);
            for block in 0..3 {
                assert_eq!(other.names()[block] == chain.names()[block], block < changed / 32, "token {changed}, block {block}");
            }
        }
        let others = [
            Identity { model: [8; 32], ..identity() },
            Identity { kv_type: "q8_0".into(), ..identity() },
            Identity { isa: "scalar".into(), ..identity() },
            Identity { target: "x86_64-macos".into(), ..identity() },
            Identity { arithmetic: 2, ..identity() },
            Identity { block_bytes: 128, ..identity() },
            Identity { kv_type: "f16a".into(), isa: "vx2".into(), ..identity() },
        ];
        for other in others {
            let names = Chain::new(CacheKey::new(&other), &tokens);
            assert!(names.names().iter().zip(chain.names()).all(|(a, b)| a != b), "{other:?}");
        }
    }

    #[test]
    fn names_are_read_back_and_nothing_else_is() {
        let name = Chain::new(CacheKey::new(&identity()), &[3; 40]).names()[0];
        let text = name.to_string();
        assert_eq!(BlockName::parse(&text), Some(name));
        for other in [&text[1..], &text.to_uppercase(), &format!("{text}0"), &text.replacen(&text[..1], "+", 1), "", &"é".repeat(32)] {
            assert_eq!(BlockName::parse(other), None, "{other}");
        }
    }
}
