//! GPT-2's way to write any byte as a printable character: vocabularies of byte-level BPE hold their tokens in it.
//!
//! Bytes that print as themselves in Latin-1 stand for themselves; the 68 others (controls, space, 0x7F-0xA0, 0xAD) are numbered
//! upwards from U+0100, so that space is `Ġ` and newline is `Ċ` (`bytes_to_unicode` of the GPT-2 release).

/// The character of every byte.
pub(super) fn characters() -> [char; 256] {
    let mut next = 0x100;
    std::array::from_fn(|byte| {
        if prints_as_itself(byte as u8) {
            return char::from(byte as u8);
        }
        let character = char::from_u32(next).expect("a Latin Extended-A character");
        next += 1;
        character
    })
}

/// Appends the bytes a token stands for; false where a character of it stands for no byte (an added token written in plain text), and
/// then some may have been appended.
pub(super) fn push_bytes_of(token: &str, bytes: &mut Vec<u8>) -> bool {
    token.chars().all(|character| byte_of(character).map(|byte| bytes.push(byte)).is_some())
}

fn byte_of(character: char) -> Option<u8> {
    let number = u32::from(character);
    match number {
        0..=0xff => Some(number as u8).filter(|byte| prints_as_itself(*byte)),
        0x100..=0x120 => Some((number - 0x100) as u8),
        0x121..=0x142 => Some((number - 0x121) as u8 + 0x7f),
        0x143 => Some(0xad),
        _ => None,
    }
}

fn prints_as_itself(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_own_character_and_comes_back() {
        let characters = characters();
        for byte in 0..=255u8 {
            assert_eq!(byte_of(characters[usize::from(byte)]), Some(byte));
        }
        assert_eq!((characters[b' ' as usize], characters[b'\n' as usize], characters[b'A' as usize]), ('Ġ', 'Ċ', 'A'));
        let mut bytes = Vec::new();
        assert!(push_bytes_of("Ġthe", &mut bytes) && bytes == b" the");
        assert!(!push_bytes_of("a b", &mut bytes) && !push_bytes_of("中", &mut bytes));
    }
}
