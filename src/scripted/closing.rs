//! Which bytes lead to an end soon, where a grammar allows none that the script wants: a string is closed as soon as it may be, an
//! object left empty if it can. So a reply that must be JSON is JSON, whatever the script says.
//!
//! Pure.

use super::json_cursor::Place;

/// The smaller the sooner, from 0; at most [`RANKS`].
pub fn rank(place: Place, last: Option<u8>, byte: u8) -> usize {
    let preferred: &[u8] = match place {
        // What needs no more than itself before what may hold more: a schema may nest for ever. A number is oftener positive than not.
        Place::Value => b"\"1234567890ntf-[{",
        Place::FirstItem => b"]\"1234567890ntf-[{",
        Place::FirstKey | Place::Key => b"}\"",
        Place::Colon => b":",
        Place::AfterValue => b"}],",
        Place::InScalar => b"}],0123456789",
        Place::InKey | Place::InString => b"\"",
        Place::Text | Place::End => b"",
    };
    if let Some(rank) = preferred.iter().position(|preferred| *preferred == byte) {
        return rank;
    }
    PREFERRED_MAX + in_words(last, byte)
}

const PREFERRED_MAX: usize = 32;
/// More than any rank.
pub const RANKS: usize = PREFERRED_MAX + 8;

/// In a text of which nothing is known: after a letter something that ends the word, so that `.+` ends and `[a-z]+@[a-z]+` goes on.
fn in_words(last: Option<u8>, byte: u8) -> usize {
    let in_word = last.is_some_and(|last| last.is_ascii_alphanumeric());
    match byte {
        b'\n' if in_word => 0,
        b'@' | b'.' | b':' | b'-' | b'/' if in_word => 1,
        b'0'..=b'9' => 2,
        b'a'..=b'z' | b'A'..=b'Z' => 3,
        b'\n' | b' ' => 5,
        b'\\' => 7,
        0x21..=0x7e => 4,
        _ => 6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_comes_first() {
        let best = |place, last: u8, allowed: &str| {
            let best = allowed.bytes().min_by_key(|byte| rank(place, Some(last), *byte));
            char::from(best.unwrap())
        };
        assert_eq!(best(Place::FirstKey, b'{', "\" }"), '}');
        assert_eq!(best(Place::InString, b'"', "ab\" }\\"), '"');
        // minLength and patterns.
        assert_eq!(best(Place::InString, b'"', "ab1}\\ "), '1');
        assert_eq!(best(Place::InString, b'a', "ab@"), '@');
        assert_eq!(best(Place::AfterValue, b'"', " ,}"), '}');
        assert_eq!(best(Place::InScalar, b'1', "0123456789.eE,"), ',');
        assert_eq!(best(Place::Value, b':', "{["), '[');
        assert_eq!(best(Place::Value, b':', "{n"), 'n');
        assert_eq!(best(Place::FirstItem, b'[', "]{"), ']');
        // A line of a patch.
        assert_eq!(best(Place::Text, b'a', "abc. \n"), '\n');
        assert!((0..=255).all(|byte| rank(Place::Text, None, byte) < RANKS));
    }
}
