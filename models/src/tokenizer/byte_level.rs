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

/// The bytes a token stands for; `None` where a character of it stands for no byte (an added token written in plain text).
pub(super) fn bytes_of(token: &str) -> Option<Vec<u8>> {
    token.chars().map(byte_of).collect()
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
        assert_eq!(bytes_of("Ġthe"), Some(b" the".to_vec()));
        assert_eq!(bytes_of("a b"), None);
        assert_eq!(bytes_of("中"), None);
    }
}
