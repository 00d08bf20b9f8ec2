//! What a file of the disk cache holds, and when it is believed: one block, behind a header that says whose it is.
//!
//! Little-endian: magic, version, tokens in a block, cache key, parent's name, the block's token ids, length of the payload, checksum
//! (BLAKE3 over all before it and the payload); then the payload. A file is used only if it is, to the last bit, the file that would be
//! written for the same tokens: everything else is a [`Doubt`], and a doubt costs a recomputation.
#![deny(clippy::disallowed_methods)]

use std::ops::Range;

use kernels::BLOCK_TOKENS;

use super::chain::Chain;

const MAGIC: &[u8; 8] = b"USTUDYKV";
/// Of this layout; the arithmetic's version is part of the key.
const VERSION: u32 = 1;

const MAGIC_AT: Range<usize> = 0..8;
const VERSION_AT: Range<usize> = 8..16;
const KEY_AT: Range<usize> = 16..48;
const PARENT_AT: Range<usize> = 48..80;
const TOKENS_AT: Range<usize> = 80..80 + 4 * BLOCK_TOKENS;
const LENGTH_AT: Range<usize> = TOKENS_AT.end..TOKENS_AT.end + 8;
const CHECKSUM_AT: Range<usize> = LENGTH_AT.end..LENGTH_AT.end + 32;
pub const HEADER_BYTES: usize = CHECKSUM_AT.end;

pub type Header = [u8; HEADER_BYTES];

/// Why a file is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    #[error("it has another size")]
    Size,
    #[error("it is no file of this cache")]
    Magic,
    #[error("it is of another version")]
    Version,
    #[error("it is of another model, type of cache or arithmetic")]
    Key,
    #[error("it follows another block")]
    Parent,
    #[error("it holds other tokens")]
    Tokens,
    #[error("its checksum is wrong")]
    Checksum,
}

/// What stands before the payload of block `index`.
pub fn header(chain: &Chain, index: usize, payload: &[u8]) -> Header {
    let mut header = [0; HEADER_BYTES];
    header[MAGIC_AT].copy_from_slice(MAGIC);
    header[VERSION_AT][..4].copy_from_slice(&VERSION.to_le_bytes());
    header[VERSION_AT][4..].copy_from_slice(&(BLOCK_TOKENS as u32).to_le_bytes());
    header[KEY_AT].copy_from_slice(chain.key().as_bytes());
    header[PARENT_AT].copy_from_slice(chain.parent(index).as_bytes());
    for (place, token) in header[TOKENS_AT].as_chunks_mut::<4>().0.iter_mut().zip(chain.block_tokens(index)) {
        *place = token.to_le_bytes();
    }
    header[LENGTH_AT].copy_from_slice(&(payload.len() as u64).to_le_bytes());
    let checksum = checksum(&header, payload);
    header[CHECKSUM_AT].copy_from_slice(&checksum);
    header
}

/// Whether `header` and `payload` are those of block `index`, to the bit.
pub fn check(chain: &Chain, index: usize, found: &Header, payload: &[u8]) -> Result<(), Doubt> {
    let expected = header(chain, index, payload);
    let fields = [
        (MAGIC_AT, Doubt::Magic),
        (VERSION_AT, Doubt::Version),
        (KEY_AT, Doubt::Key),
        (PARENT_AT, Doubt::Parent),
        (TOKENS_AT, Doubt::Tokens),
        (LENGTH_AT, Doubt::Size),
        (CHECKSUM_AT, Doubt::Checksum),
    ];
    let wrong = fields.into_iter().find(|(field, _)| found[field.clone()] != expected[field.clone()]);
    wrong.map_or(Ok(()), |(_, doubt)| Err(doubt))
}

fn checksum(header: &Header, payload: &[u8]) -> [u8; 32] {
    blake3::Hasher::new().update(&header[..CHECKSUM_AT.start]).update(payload).finalize().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::chain::CacheKey;
    use super::super::chain::tests::identity;
    use super::*;

    fn chain() -> Chain {
        Chain::new(CacheKey::new(&identity()), &(100..200).collect::<Vec<_>>())
    }

    fn file(payload: &[u8]) -> Vec<u8> {
        [&header(&chain(), 1, payload)[..], payload].concat()
    }

    /// As a reader does who knows how long a payload is.
    fn believed(file: &[u8], payload_bytes: usize) -> Result<(), Doubt> {
        let (header, payload) = file.split_first_chunk::<HEADER_BYTES>().ok_or(Doubt::Size)?;
        if payload.len() != payload_bytes { Err(Doubt::Size) } else { check(&chain(), 1, header, payload) }
    }

    #[test]
    fn the_right_file_is_believed_and_every_other_field_is_named() {
        let payload = [9; 64];
        let right = file(&payload);
        assert_eq!(believed(&right, 64), Ok(()));
        let header: &Header = right.first_chunk().unwrap();
        assert_eq!(check(&chain(), 0, header, &payload), Err(Doubt::Parent), "the same file for another place");
        let with = |field: Range<usize>| {
            let mut file = right.clone();
            file[field.start] ^= 1;
            believed(&file, 64)
        };
        assert_eq!(with(MAGIC_AT), Err(Doubt::Magic));
        assert_eq!(with(VERSION_AT), Err(Doubt::Version));
        assert_eq!(with(KEY_AT), Err(Doubt::Key));
        assert_eq!(with(PARENT_AT), Err(Doubt::Parent));
        assert_eq!(with(TOKENS_AT), Err(Doubt::Tokens));
        assert_eq!(with(LENGTH_AT), Err(Doubt::Size));
        assert_eq!(with(CHECKSUM_AT), Err(Doubt::Checksum));
        assert_eq!(with(HEADER_BYTES..HEADER_BYTES + 1), Err(Doubt::Checksum));
    }

    #[test]
    fn every_bit_of_a_file_counts() {
        let right = file(&(0..40).collect::<Vec<u8>>());
        for at in 0..right.len() {
            for bit in 0..8 {
                let mut wrong = right.clone();
                wrong[at] ^= 1 << bit;
                assert!(believed(&wrong, 40).is_err(), "byte {at}, bit {bit}");
            }
            assert_eq!(believed(&right[..at], 40), Err(Doubt::Size), "cut at {at}");
        }
    }

    proptest! {
        #[test]
        fn a_damaged_file_is_never_believed(
            payload in prop::collection::vec(any::<u8>(), 1..300),
            damage in prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..9),
            cut in any::<prop::sample::Index>(),
        ) {
            let right = file(&payload);
            prop_assert_eq!(believed(&right, payload.len()), Ok(()));
            let mut wrong = right.clone();
            for (at, change) in damage {
                let at = at.index(wrong.len());
                wrong[at] = wrong[at].wrapping_add(change);
            }
            prop_assert!(wrong == right || believed(&wrong, payload.len()).is_err());
            prop_assert!(believed(&right[..cut.index(right.len())], payload.len()).is_err());
            prop_assert!(believed(&[&right[..], &[0]].concat(), payload.len()).is_err());
        }
    }
}
