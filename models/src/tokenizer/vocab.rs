//! The vocabulary as the file has it: names, kinds, scores. Knows nothing of how text is cut into tokens.

use crate::gguf::{Array, Gguf, GgufProblem};

use super::error::TokenizerError;
use super::name_table::NameTable;

/// `llama_token_type` of the GGUF specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    /// Steers the model; no part of anybody's text.
    Control,
    /// Found in any text, and shown in any text (`<think>`, `<tool_call>`).
    UserDefined,
    Unused,
    /// One byte, written `<0x0A>`.
    Byte,
}

impl Kind {
    fn from_number(number: i64) -> Self {
        match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            6 => Self::Byte,
            // 0 is "undefined"; both it and numbers yet to come stand for no text.
            _ => Self::Unused,
        }
    }

    /// Whether such a token is found by its name only where a text may hold special tokens.
    pub(super) fn is_special(self) -> bool {
        matches!(self, Self::Control | Self::Unknown)
    }

    /// Whether no ordinary text may become such a token: a user's words never steer the model.
    pub(super) fn is_reserved(self) -> bool {
        matches!(self, Self::Control | Self::Unknown | Self::Byte)
    }
}

pub(super) struct Vocab {
    names: Array,
    by_name: NameTable,
    kinds: Vec<Kind>,
}

impl Vocab {
    pub(super) fn read(gguf: &Gguf) -> Result<Self, TokenizerError> {
        let file = || gguf.name().to_owned();
        let names = string_array(gguf, "tokenizer.ggml.tokens")?;
        if names.is_empty() {
            return Err(TokenizerError::EmptyVocabulary { file: file() });
        }
        for (id, name) in names.strings().enumerate() {
            if std::str::from_utf8(name).is_err() {
                return Err(TokenizerError::NotUtf8 { file: file(), id });
            }
        }
        let key = "tokenizer.ggml.token_type";
        let kinds: Vec<Kind> = match gguf.get::<&Array>(key)? {
            Some(array) => {
                let numbers = array.to_i64s().ok_or_else(|| wrong_type(gguf, key, "array of i32"))?;
                numbers.into_iter().map(Kind::from_number).collect()
            }
            None => vec![Kind::Normal; names.len()],
        };
        if kinds.len() != names.len() {
            return Err(TokenizerError::Length { file: file(), key, found: kinds.len(), wanted: names.len() });
        }
        let by_name = NameTable::new(names).map_err(|twice| {
            let token = String::from_utf8_lossy(names.string_bytes(twice.first as usize).unwrap_or_default()).into_owned();
            TokenizerError::DuplicateToken { file: file(), token, first: twice.first, second: twice.second }
        })?;
        Ok(Self { names: names.clone(), by_name, kinds })
    }

    pub(super) fn len(&self) -> usize {
        self.kinds.len()
    }

    /// Empty for a token without a name: no text becomes it, and it becomes no text.
    pub(super) fn name(&self, id: u32) -> Option<&str> {
        let bytes = self.names.string_bytes(id as usize)?;
        Some(std::str::from_utf8(bytes).expect("checked when the vocabulary was read"))
    }

    /// The token of that name, whatever its kind; none has an empty one.
    pub(super) fn id(&self, name: &str) -> Option<u32> {
        self.by_name.id(&self.names, name.as_bytes())
    }

    /// [`Self::id`], with a guess that is looked at first: two reads of memory fewer where it is right.
    pub(super) fn id_near(&self, name: &str, guess: u32) -> Option<u32> {
        match self.names.string_bytes(guess as usize) {
            Some(found) if found == name.as_bytes() && !name.is_empty() => Some(guess),
            _ => self.id(name),
        }
    }

    /// [`Self::id`] of tokens that text can become.
    pub(super) fn text_id(&self, name: &str) -> Option<u32> {
        self.id(name).filter(|id| !self.kinds[*id as usize].is_reserved())
    }

    pub(super) fn kind(&self, id: u32) -> Option<Kind> {
        self.kinds.get(id as usize).copied()
    }

    pub(super) fn set_kind(&mut self, id: u32, kind: Kind) {
        self.kinds[id as usize] = kind;
    }

    /// Every token of such a kind that has a name.
    pub(super) fn of_kind(&self, wanted: impl Fn(Kind) -> bool) -> impl Iterator<Item = (u32, &str)> {
        let ids = (0..self.len() as u32).filter(move |id| wanted(self.kinds[*id as usize]));
        ids.map(|id| (id, self.name(id).expect("below len"))).filter(|token| !token.1.is_empty())
    }
}

pub(super) fn string_array<'a>(gguf: &'a Gguf, key: &str) -> Result<&'a Array, TokenizerError> {
    let array = gguf.require::<&Array>(key)?;
    match array.element() {
        crate::gguf::ValueType::String => Ok(array),
        _ => Err(wrong_type(gguf, key, "array of string")),
    }
}

pub(super) fn wrong_type(gguf: &Gguf, key: &str, wanted: &'static str) -> TokenizerError {
    let found = gguf.value(key).map_or_else(String::new, |value| value.describe());
    gguf.error(GgufProblem::WrongType { key: key.to_owned(), wanted, found }).into()
}
