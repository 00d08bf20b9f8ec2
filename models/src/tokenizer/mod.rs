//! Text to token ids and back, from GGUF metadata.
//!
//! Invariant: what is not understood is refused when the model is loaded (an unknown kind of tokenizer, an unknown way to cut words,
//! a vocabulary that contradicts itself); nothing falls back in silence. Knows no chat and no request.

mod bpe;
mod byte_level;
mod detokenizer;
mod error;
mod hash;
mod name_table;
mod pre_tokenizer;
mod same_vocabulary;
mod special;
mod spm;
mod vocab;

pub use detokenizer::Detokenizer;
pub use error::TokenizerError;
pub use same_vocabulary::VocabularyDifference;
pub use special::FimTokens;

use std::collections::BTreeMap;

use crate::gguf::Gguf;

use bpe::Bpe;
use pre_tokenizer::PreTokenizer;
use special::{Defaults, Finder, Fragment, Roles};
use spm::Spm;
use vocab::{Kind, Vocab};

/// The tokenizer of one model; cheap to share (put it in an `Arc`).
pub struct Tokenizer {
    vocab: Vocab,
    model: Model,
    finder: Finder,
    roles: Roles,
    pieces: Pieces,
    adds_bos: bool,
    adds_eos: bool,
    adds_space_prefix: bool,
    chat_template: Option<String>,
    named_chat_templates: BTreeMap<String, String>,
}

enum Model {
    Bpe(Box<Bpe>),
    Spm(Box<Spm>),
}

/// The bytes each token stands for, end to end.
struct Pieces {
    bytes: Vec<u8>,
    /// Where each token's bytes end.
    ends: Vec<usize>,
}

impl Tokenizer {
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, TokenizerError> {
        let file = || gguf.name().to_owned();
        let model_name: &str = gguf.require("tokenizer.ggml.model")?;
        let is_spm = match model_name {
            "gpt2" => false,
            "llama" => true,
            other => return Err(TokenizerError::UnknownModel { file: file(), found: other.to_owned() }),
        };
        let pre_tokenizer = if is_spm { None } else { Some(read_pre_tokenizer(gguf)?) };
        let mut vocab = Vocab::read(gguf)?;
        // SentencePiece puts <unk>, <s>, </s> first; files may leave that unsaid.
        let defaults = if is_spm { Defaults { bos: Some(1), eos: Some(2), unknown: Some(0) } } else { Defaults::default() };
        let roles = Roles::read(gguf, &mut vocab, defaults)?;
        let model = match pre_tokenizer {
            Some(pre_tokenizer) => Model::Bpe(Box::new(Bpe::read(gguf, &vocab, pre_tokenizer)?)),
            None => Model::Spm(Box::new(Spm::read(gguf, &vocab, roles.unknown)?)),
        };
        let pieces = Pieces::read(gguf, &vocab, is_spm)?;
        let adds_bos = read_flag(gguf, "tokenizer.ggml.add_bos_token", "tokenizer.ggml.bos_token_id", roles.bos, model.adds_bos())?;
        let adds_eos = read_flag(gguf, "tokenizer.ggml.add_eos_token", "tokenizer.ggml.eos_token_id", roles.eos, false)?;
        let adds_space_prefix = is_spm && gguf.get::<bool>("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
        let finder = Finder::new(gguf, &vocab)?;
        let chat_template = gguf.get::<&str>("tokenizer.chat_template")?.map(str::to_owned);
        let named_chat_templates = read_named_templates(gguf)?;
        Ok(Self { vocab, model, finder, roles, pieces, adds_bos, adds_eos, adds_space_prefix, chat_template, named_chat_templates })
    }

    /// Ids of `text`. `parse_special`: control tokens written in the text, and the unknown one, become their ids (rendered chat
    /// templates); otherwise they are plain text (a user's words never become control tokens). User-defined tokens are found
    /// either way.
    ///
    /// Errors: the text needs a byte that the vocabulary has no token for.
    pub fn encode(&self, text: &str, parse_special: bool) -> Result<Vec<u32>, TokenizerError> {
        self.encode_parts([(text, parse_special)])
    }

    /// Ids of one text that is given in parts, each with its own `parse_special`. Where no token separates them, two parts are as
    /// one: words go across, and no space is put between.
    ///
    /// Errors: as [`Self::encode`].
    pub fn encode_parts<'a>(&self, parts: impl IntoIterator<Item = (&'a str, bool)>) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::new();
        // Since the last token.
        let mut plain = String::new();
        for (text, parse_special) in parts {
            for fragment in self.finder.fragments(text, parse_special) {
                match fragment {
                    Fragment::Text(text) => plain.push_str(text),
                    Fragment::Token(id) => {
                        self.encode_plain(&plain, &mut ids)?;
                        plain.clear();
                        ids.push(id);
                    }
                }
            }
        }
        self.encode_plain(&plain, &mut ids)?;
        Ok(ids)
    }

    /// Appends the tokens of what stands between two tokens or the ends of a text.
    fn encode_plain(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        match &self.model {
            _ if text.is_empty() => Ok(()),
            Model::Bpe(bpe) => bpe.encode(&self.vocab, text, ids),
            Model::Spm(spm) if self.adds_space_prefix => spm.encode(&self.vocab, &[" ", text].concat(), ids),
            Model::Spm(spm) => spm.encode(&self.vocab, text, ids),
        }
    }

    /// [`Self::encode`] with the model's bos and eos where its metadata asks for them (`add_bos_token`); a bos that a rendered chat
    /// template already wrote is not doubled, nor an eos.
    pub fn encode_with_specials(&self, text: &str, parse_special: bool) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = self.encode(text, parse_special)?;
        if let Some(bos) = self.roles.bos.filter(|bos| self.adds_bos && ids.first() != Some(bos)) {
            ids.insert(0, bos);
        }
        if let Some(eos) = self.roles.eos.filter(|eos| self.adds_eos && ids.last() != Some(eos)) {
            ids.push(eos);
        }
        Ok(ids)
    }

    pub fn vocab_size(&self) -> usize {
        self.vocab.len()
    }

    /// Bytes a token stands for in the output; control tokens: empty unless `special`. Empty for an id outside the vocabulary.
    pub fn token_bytes(&self, id: u32, special: bool) -> &[u8] {
        match self.vocab.kind(id) {
            Some(Kind::Control | Kind::Unknown) if !special => &[],
            Some(_) => self.pieces.get(id),
            None => &[],
        }
    }

    /// The token's own name in the vocabulary (`<|im_end|>`, `Ġthe`); `None` outside the vocabulary.
    pub fn token_name(&self, id: u32) -> Option<&str> {
        self.vocab.name(id)
    }

    pub fn token_id(&self, name: &str) -> Option<u32> {
        self.vocab.id(name)
    }

    /// Whether [`Self::encode`] makes the token of its name with `parse_special`, and plain text without: the control tokens, and
    /// the unknown one.
    pub fn is_special(&self, id: u32) -> bool {
        self.vocab.kind(id).is_some_and(Kind::is_special)
    }

    /// Whether the token steers the model and is no part of the text.
    pub fn is_control(&self, id: u32) -> bool {
        self.vocab.kind(id) == Some(Kind::Control)
    }

    pub fn bos(&self) -> Option<u32> {
        self.roles.bos
    }

    pub fn eos(&self) -> Option<u32> {
        self.roles.eos
    }

    /// Whether [`Self::encode_with_specials`] puts bos first.
    pub fn adds_bos(&self) -> bool {
        self.adds_bos && self.roles.bos.is_some()
    }

    /// Whether a space that is in nobody's text is put before a text's first word (SentencePiece).
    pub fn adds_space_prefix(&self) -> bool {
        self.adds_space_prefix
    }

    /// Every token that ends a turn, ascending: eos, eot, eom and the well-known names (`<|im_end|>`, `<|eot_id|>`, `<|endoftext|>`, ...).
    pub fn end_of_generation(&self) -> &[u32] {
        &self.roles.end_of_generation
    }

    /// The tokens of fill-in-the-middle prompts.
    pub fn fim(&self) -> FimTokens {
        self.roles.fim
    }

    /// The chat template in the metadata; `name` selects one of several (`tool_use`).
    pub fn chat_template(&self, name: Option<&str>) -> Option<&str> {
        match name {
            None => self.chat_template.as_deref(),
            Some(name) => self.named_chat_templates.get(name).map(String::as_str),
        }
    }

    /// Names of the further chat templates, ascending.
    pub fn chat_template_names(&self) -> impl Iterator<Item = &str> {
        self.named_chat_templates.keys().map(String::as_str)
    }
}

/// A vocabulary is nothing to read in a log.
impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({} tokens)", self.vocab_size())
    }
}

impl Model {
    /// Whether texts start with bos where the metadata does not say.
    fn adds_bos(&self) -> bool {
        match self {
            Self::Bpe(bpe) => bpe.adds_bos(),
            Self::Spm(_) => true,
        }
    }
}

impl Pieces {
    fn read(gguf: &Gguf, vocab: &Vocab, is_spm: bool) -> Result<Self, TokenizerError> {
        let mut pieces = Self { bytes: Vec::new(), ends: Vec::with_capacity(vocab.len()) };
        for id in 0..vocab.len() as u32 {
            let (name, kind) = (vocab.name(id).unwrap_or(""), vocab.kind(id).unwrap_or(Kind::Unused));
            match kind {
                Kind::Control | Kind::Unknown | Kind::UserDefined => pieces.bytes.extend(name.as_bytes()),
                Kind::Byte if !name.is_empty() => pieces.bytes.push(spm::byte_of(name, gguf)?),
                Kind::Normal if is_spm => pieces.bytes.extend(name.replace(spm::SPACE, " ").as_bytes()),
                Kind::Normal => {
                    let start = pieces.bytes.len();
                    if !byte_level::push_bytes_of(name, &mut pieces.bytes) {
                        pieces.bytes.truncate(start);
                        pieces.bytes.extend(name.as_bytes());
                    }
                }
                Kind::Unused | Kind::Byte => {}
            }
            pieces.ends.push(pieces.bytes.len());
        }
        Ok(pieces)
    }

    fn get(&self, id: u32) -> &[u8] {
        let start = match id {
            0 => 0,
            id => self.ends[id as usize - 1],
        };
        &self.bytes[start..self.ends[id as usize]]
    }
}

fn read_pre_tokenizer(gguf: &Gguf) -> Result<PreTokenizer, TokenizerError> {
    match gguf.get::<&str>("tokenizer.ggml.pre")? {
        None => Err(TokenizerError::NoPreTokenizer { file: gguf.name().to_owned() }),
        Some(name) => PreTokenizer::named(name)
            .ok_or_else(|| TokenizerError::UnknownPreTokenizer { file: gguf.name().to_owned(), found: name.to_owned() }),
    }
}

/// A flag that asks for a token; refused where the file itself says so and has no such token.
fn read_flag(gguf: &Gguf, flag: &'static str, key: &'static str, token: Option<u32>, default: bool) -> Result<bool, TokenizerError> {
    let given = gguf.get::<bool>(flag)?;
    if given == Some(true) && token.is_none() {
        return Err(TokenizerError::FlagWithoutToken { file: gguf.name().to_owned(), flag, key });
    }
    Ok(given.unwrap_or(default))
}

fn read_named_templates(gguf: &Gguf) -> Result<BTreeMap<String, String>, TokenizerError> {
    let mut templates = BTreeMap::new();
    for (key, _) in gguf.metadata() {
        if let Some(name) = key.strip_prefix("tokenizer.chat_template.") {
            let template: &str = gguf.require(key)?;
            templates.insert(name.to_owned(), template.to_owned());
        }
    }
    Ok(templates)
}
