//! Whether two models speak of the same tokens: then what one of them says can be checked by the other.
//!
//! Token by token, and merge by merge. One file may have more tokens at its end than the other, if they are marked as unused: files of one
//! family are padded to different lengths.

use super::vocab::Kind;
use super::{Model, Tokenizer};

/// Why they do not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VocabularyDifference {
    #[error("{same} of {ours} and {theirs} tokens are the same; the first that differs is {id}: {our_name:?} and {their_name:?}")]
    Token { same: usize, ours: usize, theirs: usize, id: u32, our_name: String, their_name: String },
    #[error("they have {ours} and {theirs} tokens, and number {id}, {name:?}, which only one of them has, is in use")]
    Length { ours: usize, theirs: usize, id: u32, name: String },
    #[error("their tokens are the same, and are put together in different ways ({ours} and {theirs} merges)")]
    Merges { ours: usize, theirs: usize },
    #[error("one of them is of byte-level BPE, the other of SentencePiece")]
    Kind,
}

impl Tokenizer {
    /// `None`: both mean the same by every token.
    pub fn difference(&self, other: &Tokenizer) -> Option<VocabularyDifference> {
        let (ours, theirs) = (self.vocab.len(), other.vocab.len());
        let common = ours.min(theirs) as u32;
        let name = |tokenizer: &Tokenizer, id| tokenizer.vocab.name(id).unwrap_or_default().to_owned();
        let differs = |id: &u32| self.vocab.name(*id) != other.vocab.name(*id);
        if let Some(id) = (0..common).find(differs) {
            let same = common as usize - (0..common).filter(differs).count();
            return Some(VocabularyDifference::Token { same, ours, theirs, id, our_name: name(self, id), their_name: name(other, id) });
        }
        let longer = if ours > theirs { self } else { other };
        let in_use = |id: &u32| longer.vocab.kind(*id) != Some(Kind::Unused);
        if let Some(id) = (common..longer.vocab.len() as u32).find(in_use) {
            return Some(VocabularyDifference::Length { ours, theirs, id, name: name(longer, id) });
        }
        match (&self.model, &other.model) {
            (Model::Bpe(one), Model::Bpe(other)) => {
                let (ours, theirs) = (one.merges(), other.merges());
                (!one.merges_as(other)).then_some(VocabularyDifference::Merges { ours, theirs })
            }
            (Model::Spm(_), Model::Spm(_)) => None,
            _ => Some(VocabularyDifference::Kind),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kernels::SharedBytes;

    use super::super::super::gguf::Gguf;
    use super::super::super::gguf::writer::GgufWriter;
    use super::*;

    /// A byte-level vocabulary of the 256 bytes and some more; the last so many of these are unused.
    fn tokenizer(more: &[&str], unused: usize, merges: &[&str]) -> Tokenizer {
        let letter = |byte: u32| {
            let printable = |byte: u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
            let code = if printable(byte) { byte } else { 0x100 + (0..byte).filter(|byte| !printable(*byte)).count() as u32 };
            char::from_u32(code).unwrap().to_string()
        };
        let tokens: Vec<String> = (0..256).map(letter).chain(more.iter().map(|token| (*token).to_owned())).collect();
        let kinds: Vec<i32> = (0..tokens.len()).map(|id| if id + unused < tokens.len() { 1 } else { 5 }).collect();
        let merges: Vec<String> = merges.iter().map(|merge| (*merge).to_owned()).collect();
        let mut writer = GgufWriter::new();
        writer
            .set("general.architecture", "qwen2")
            .set("tokenizer.ggml.model", "gpt2")
            .set("tokenizer.ggml.pre", "qwen2")
            .set("tokenizer.ggml.tokens", tokens)
            .set("tokenizer.ggml.token_type", kinds)
            .set("tokenizer.ggml.merges", merges);
        Tokenizer::from_gguf(&Gguf::from_bytes(SharedBytes::new(Arc::new(writer.to_bytes())), "model.gguf").unwrap()).unwrap()
    }

    #[test]
    fn tokens_merges_and_padding_are_compared() {
        let one = tokenizer(&["ab", "bc", "abc"], 0, &["a b", "b c"]);
        let difference = |other: Tokenizer| {
            let texts = [one.difference(&other), other.difference(&one)].map(|difference| difference.map(|found| found.to_string()));
            assert_eq!(texts[0].is_none(), texts[1].is_none());
            texts[0].clone()
        };
        assert_eq!(difference(tokenizer(&["ab", "bc", "abc"], 0, &["a b", "b c"])), None);
        assert_eq!(difference(tokenizer(&["ab", "bc", "abc", "[PAD259]", "[PAD260]"], 2, &["a b", "b c"])), None);
        assert_eq!(
            difference(tokenizer(&["ab", "abc", "bc"], 0, &["a b", "b c"])).unwrap(),
            "257 of 259 and 259 tokens are the same; the first that differs is 257: \"bc\" and \"abc\""
        );
        assert_eq!(
            difference(tokenizer(&["ab", "bc", "abc", "cd"], 0, &["a b", "b c"])).unwrap(),
            "they have 259 and 260 tokens, and number 259, \"cd\", which only one of them has, is in use"
        );
        let order = difference(tokenizer(&["ab", "bc", "abc"], 0, &["b c", "a b"])).unwrap();
        assert_eq!(order, "their tokens are the same, and are put together in different ways (2 and 2 merges)");
    }
}
