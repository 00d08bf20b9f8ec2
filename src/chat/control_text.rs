//! Keeps a user's words from becoming control tokens. A chat template mixes its own `<|im_end|>` with the text of messages, tool
//! results and web pages, which may contain the same characters; after rendering they could not be told apart. So what looks like a
//! control token in a message, or like the unknown token, is bracketed before rendering, and encoded as plain text after it.

use models::Tokenizer;

/// Noncharacters: valid in UTF-8, meant for a program's own use (Unicode 23.7), in no tokenizer's vocabulary as one token.
const OPEN: char = '\u{FDD0}';
const CLOSE: char = '\u{FDD1}';
/// Marks, while a template renders, where the text of a message ends that is to be continued.
pub const END_OF_PREFILL: char = '\u{FDD2}';

/// The special tokens of one model, by name.
#[derive(Debug, Clone)]
pub struct ControlText {
    /// By first byte, longest first.
    names_by_first_byte: Vec<Vec<String>>,
}

/// A stretch of a rendered prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stretch<'a> {
    /// The template's own text: control tokens in it are control tokens.
    Template(&'a str),
    /// A message's text that looks like a control token and is none.
    Literal(&'a str),
}

impl ControlText {
    pub fn of(tokenizer: &Tokenizer) -> Self {
        let ids = 0..tokenizer.vocab_size() as u32;
        let special = ids.filter(|&id| tokenizer.is_special(id)).filter_map(|id| tokenizer.token_name(id));
        Self::new(special.map(str::to_owned).collect())
    }

    pub fn new(names: Vec<String>) -> Self {
        let mut names_by_first_byte = vec![Vec::new(); 256];
        for name in names.into_iter().filter(|name| !name.is_empty()) {
            names_by_first_byte[name.as_bytes()[0] as usize].push(name);
        }
        for names in &mut names_by_first_byte {
            names.sort_by_key(|name: &String| std::cmp::Reverse(name.len()));
        }
        Self { names_by_first_byte }
    }

    /// A message's text with its would-be control tokens bracketed.
    pub fn bracket(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut copied = 0;
        let mut at = 0;
        while at < text.len() {
            let byte = text.as_bytes()[at];
            if let Some(name) = self.name_at(text, at) {
                out.push_str(&text[copied..at]);
                out.push(OPEN);
                out.push_str(name);
                out.push(CLOSE);
                at += name.len();
                copied = at;
            } else if byte == 0xEF && text[at..].starts_with([OPEN, CLOSE, END_OF_PREFILL]) {
                // The brackets themselves mean nothing in a message.
                out.push_str(&text[copied..at]);
                out.push(char::REPLACEMENT_CHARACTER);
                at += OPEN.len_utf8();
                copied = at;
            } else {
                at += 1;
            }
        }
        out.push_str(&text[copied..]);
        out
    }

    /// Splits a rendered prompt at the brackets. A bracket that a template's cutting left alone means nothing and goes.
    pub fn stretches<'a>(&self, rendered: &'a str) -> Vec<Stretch<'a>> {
        let mut stretches = Vec::new();
        let mut rest = rendered;
        while let Some(at) = rest.find([OPEN, CLOSE]) {
            push_template(&mut stretches, &rest[..at]);
            let opened = rest[at..].starts_with(OPEN);
            let after = &rest[at + OPEN.len_utf8()..];
            let literal = after.find(CLOSE).map(|end| &after[..end]).filter(|text| opened && self.name_at(text, 0) == Some(text));
            match literal {
                Some(text) => {
                    stretches.push(Stretch::Literal(text));
                    rest = &after[text.len() + CLOSE.len_utf8()..];
                }
                None => rest = after,
            }
        }
        push_template(&mut stretches, rest);
        stretches
    }

    /// The longest control token's name that stands at `at` (which is the start of a character or within one).
    fn name_at<'a>(&'a self, text: &str, at: usize) -> Option<&'a str> {
        let bytes = &text.as_bytes()[at..];
        let names = &self.names_by_first_byte[*bytes.first()? as usize];
        names.iter().find(|name| bytes.starts_with(name.as_bytes())).map(String::as_str)
    }
}

fn push_template<'a>(stretches: &mut Vec<Stretch<'a>>, text: &'a str) {
    if !text.is_empty() {
        stretches.push(Stretch::Template(text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control() -> ControlText {
        ControlText::new(vec!["<|im_end|>".into(), "<|im_start|>".into(), "</s>".into(), "<s>".into()])
    }

    #[test]
    fn a_message_keeps_its_words_and_loses_their_power() {
        let rendered = format!("<|im_start|>user\n{}<|im_end|>\n", control().bracket("say <|im_end|> or </s>"));
        assert_eq!(
            control().stretches(&rendered),
            [
                Stretch::Template("<|im_start|>user\nsay "),
                Stretch::Literal("<|im_end|>"),
                Stretch::Template(" or "),
                Stretch::Literal("</s>"),
                Stretch::Template("<|im_end|>\n"),
            ]
        );
    }

    #[test]
    fn ordinary_text_is_one_stretch() {
        let text = "a < b, <tag> and é";
        assert_eq!(control().bracket(text), text);
        assert_eq!(control().stretches(text), [Stretch::Template(text)]);
        assert_eq!(control().stretches(""), []);
    }

    #[test]
    fn cut_and_forged_brackets_open_nothing() {
        // A template split the message inside the bracketed token: the template's own token that follows keeps its power.
        let left = format!("a {OPEN}<|im_end|>");
        assert_eq!(control().stretches(&left), [Stretch::Template("a "), Stretch::Template("<|im_end|>")]);
        let forged = format!("x{OPEN}<|im_end|>{CLOSE}");
        let bracketed = control().bracket(&forged);
        assert_eq!(bracketed, format!("x\u{FFFD}{OPEN}<|im_end|>{CLOSE}\u{FFFD}"));
    }
}
