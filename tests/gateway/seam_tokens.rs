//! Words that were cut are written once more, in whatever tokens, and byte for byte the same.

use understudy::chat::OutputFormat;
use understudy::chat::token_healing::{Lead, TokenHealing, take_back};
use understudy::engine::constraint::{Constraint, Ending};

use crate::grammar::driver::{GRAMMARS, TOKENIZER, Walk, mask, walk};
use crate::support::random::Random;

const TEXT: &str = "Internationally, na\u{ef}ve  people count\n\n\tcharacters: \u{65e5}\u{672c}\u{8a9e} \u{1d11e} {\"path\": \"src/main.rs\"} twelve, \
                    12345 and so on <|im_end|> or <tool_call>\n    indented    ";

fn bytes_of(tokens: &[u32]) -> Vec<u8> {
    tokens.iter().flat_map(|&token| TOKENIZER.token_bytes(token, true)).copied().collect()
}

fn leading(known: &str, rest: Option<std::sync::Arc<dyn Constraint>>) -> TokenHealing {
    TokenHealing::new(TOKENIZER.clone(), Lead { known: known.to_owned(), escape: None }, rest)
}

#[test]
fn what_is_taken_back_is_the_texts_end() {
    let mut lengths = Vec::new();
    for end in (0..=TEXT.len()).filter(|&end| TEXT.is_char_boundary(end)) {
        let text = &TEXT[..end];
        let mut prompt = TOKENIZER.encode_parts([("<|im_start|>assistant\n", true), (text, false)]).expect("text is tokens");
        let whole = bytes_of(&prompt);
        let tokens = prompt.len();
        let known = take_back(&TOKENIZER, &mut prompt, text);
        assert!(text.ends_with(&known) && tokens - prompt.len() <= 8);
        assert_eq!([bytes_of(&prompt), known.clone().into_bytes()].concat(), whole, "after {text:?}");
        // Whatever token begins in the text and reaches beyond it can be written.
        let reach = (0..TOKENIZER.vocab_size() as u32).flat_map(|token| {
            let bytes = TOKENIZER.token_bytes(token, false);
            (1..bytes.len()).rev().find(|&length| text.as_bytes().ends_with(&bytes[..length]))
        });
        let reach = reach.max().unwrap_or(0);
        assert!(known.len() >= reach || tokens - prompt.len() >= 6, "{known:?} after {text:?}, but {reach} bytes");
        lengths.push(tokens - prompt.len());
    }
    let most = lengths.iter().filter(|&&length| length <= 2).count();
    assert!(most * 10 > lengths.len() * 8, "few tokens are computed twice: {lengths:?}");
    let mut none = vec![1, 2, 3];
    assert_eq!((take_back(&TOKENIZER, &mut none, ""), none), (String::new(), vec![1, 2, 3]));
}

#[test]
fn whatever_is_drawn_the_known_text_comes_first() {
    let mut random = Random(11);
    for known in ["inter", " na\u{ef}", "\n\n\t", "\u{65e5}\u{672c}", "<|im_", " ", "\u{1d11e} {\"pa"] {
        for _ in 0..20 {
            let constraint = leading(known, None);
            let mut matcher = constraint.matcher().expect("a matcher");
            let mut output = Vec::new();
            while bytes_of(&output).len() < known.len() {
                let (allowed, ending) = mask(&mut *matcher, &output);
                assert_eq!(ending, Ending::NotYet);
                let fitting: Vec<u32> = (0..TOKENIZER.vocab_size() as u32).filter(|&token| allowed.contains(token)).collect();
                assert!(fitting.iter().all(|&token| !TOKENIZER.is_special(token)), "control tokens are no text");
                output.push(fitting[random.below(fitting.len() as u64) as usize]);
            }
            assert!(bytes_of(&output).starts_with(known.as_bytes()));
            assert_eq!(mask(&mut *matcher, &output).1, Ending::Anything);
            // As after drafts that were rejected.
            assert_eq!(mask(&mut *matcher, &[]).1, Ending::NotYet);
        }
    }
}

#[test]
fn what_holds_afterwards_sees_what_is_new() {
    let choices = ["national law", "val", ""].map(str::to_owned);
    let rest = GRAMMARS.of_format(&OutputFormat::Choice(choices.into())).expect("a grammar");
    let constraint = leading("inter", rest);
    for (text, expected) in [
        ("international law", Walk::Accepted),
        ("interval", Walk::Accepted),
        ("inter", Walk::Accepted),
        ("internal", Walk::StoppedAt(7)),
        ("internationals", Walk::StoppedAt(13)),
        ("int", Walk::Unfinished),
        ("enter", Walk::StoppedAt(0)),
    ] {
        assert_eq!(walk(&constraint, text), expected, "{text}");
    }
}

#[test]
fn a_half_written_escape_is_made_whole_first() {
    let rest = GRAMMARS.of_format(&OutputFormat::Choice(vec!["z\"".to_owned()])).expect("a grammar");
    for (known, escape, text, expected) in [
        ("a", "", "anz\"", Walk::Accepted),
        ("a", "", "a\"z\"", Walk::Accepted),
        ("", "", "u00e9z\"", Walk::Accepted),
        ("", "u00e", "9z\"", Walk::Accepted),
        ("", "u00e", "9", Walk::Unfinished),
        ("", "u00e", "gz\"", Walk::StoppedAt(0)),
        ("", "", "xz\"", Walk::StoppedAt(0)),
        ("", "ud", "834z\"", Walk::StoppedAt(3)),
        ("", "ud", "834\\udd1ez\"", Walk::Accepted),
        ("", "ud834\\", "u0041z\"", Walk::StoppedAt(1)),
        ("", "ud", "d1ez\"", Walk::StoppedAt(2)),
    ] {
        let lead = Lead { known: known.to_owned(), escape: Some(escape.to_owned()) };
        let constraint = TokenHealing::new(TOKENIZER.clone(), lead, rest.clone());
        assert_eq!(walk(&constraint, text), expected, "{escape:?} {text:?}");
    }
}
