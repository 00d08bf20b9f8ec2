//! Tokens with a role: which ones start, end and structure a text, by the metadata's ids and by well-known names; and how they
//! are found in a text. Knows no way of cutting ordinary text.

use aho_corasick::{AhoCorasick, MatchKind};

use crate::gguf::Gguf;

use super::error::TokenizerError;
use super::vocab::{Kind, Vocab};

/// Tokens of fill-in-the-middle prompts; `None` where the model has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FimTokens {
    pub prefix: Option<u32>,
    pub suffix: Option<u32>,
    pub middle: Option<u32>,
    pub pad: Option<u32>,
    pub repository: Option<u32>,
    pub file_separator: Option<u32>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Roles {
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
    pub(super) unknown: Option<u32>,
    pub(super) fim: FimTokens,
    pub(super) end_of_generation: Vec<u32>,
}

/// Names by which files without the id keys show their end-of-turn token.
const END_OF_TURN: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<｜end▁of▁sentence｜>",
    "<end_of_utterance>",
];
const END_OF_MESSAGE: &[&str] = &["<|eom_id|>"];
/// Further names that end a generation wherever they are in a vocabulary.
const END_OF_GENERATION: &[&str] =
    &["<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "</s>", "[EOS]", "<eos>", "<turn|>", "<|tool_response>", "[e~["];
const FIM_PREFIX: &[&str] =
    &["<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>", "<|code_prefix|>", "<|prefix|>"];
const FIM_SUFFIX: &[&str] =
    &["<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>", "<|code_suffix|>", "<|suffix|>"];
const FIM_MIDDLE: &[&str] =
    &["<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>", "<|code_middle|>", "<|middle|>"];
const FIM_PAD: &[&str] = &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"];
const FIM_REPOSITORY: &[&str] = &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"];
const FIM_FILE_SEPARATOR: &[&str] = &["<|file_sep|>"];
/// Structure of a harmony reply (gpt-oss): marked as control in files, and needed in the text by whoever parses it.
const HARMONY: &[&str] = &["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

impl Roles {
    /// Reads the ids, fills gaps by name, and sets right the kinds of tokens whose role is known: an end of turn that a file
    /// calls ordinary or user-defined is control all the same.
    pub(super) fn read(gguf: &Gguf, vocab: &mut Vocab, defaults: Defaults) -> Result<Self, TokenizerError> {
        let id = |key| special_id(gguf, vocab, key);
        let given = |key, default: Option<u32>| Ok::<_, TokenizerError>(id(key)?.or(default.filter(|id| (*id as usize) < vocab.len())));
        let bos = given("tokenizer.ggml.bos_token_id", defaults.bos)?;
        let eos = given("tokenizer.ggml.eos_token_id", defaults.eos)?;
        let unknown = given("tokenizer.ggml.unknown_token_id", defaults.unknown)?;
        let mut eot = id("tokenizer.ggml.eot_token_id")?;
        let mut eom = id("tokenizer.ggml.eom_token_id")?;
        let mut fim = FimTokens {
            prefix: id("tokenizer.ggml.fim_pre_token_id")?.or(id("tokenizer.ggml.prefix_token_id")?),
            suffix: id("tokenizer.ggml.fim_suf_token_id")?.or(id("tokenizer.ggml.suffix_token_id")?),
            middle: id("tokenizer.ggml.fim_mid_token_id")?.or(id("tokenizer.ggml.middle_token_id")?),
            pad: id("tokenizer.ggml.fim_pad_token_id")?,
            repository: id("tokenizer.ggml.fim_rep_token_id")?,
            file_separator: id("tokenizer.ggml.fim_sep_token_id")?,
        };
        let known = WellKnown::find(vocab);
        let mut fill = |slot: &mut Option<u32>, names: &[&str]| {
            if slot.is_none()
                && let Some(id) = names.iter().find_map(|name| known.id(name))
            {
                *slot = Some(id);
                vocab.set_kind(id, Kind::Control);
            }
        };
        fill(&mut eot, END_OF_TURN);
        fill(&mut eom, END_OF_MESSAGE);
        fill(&mut fim.prefix, FIM_PREFIX);
        fill(&mut fim.suffix, FIM_SUFFIX);
        fill(&mut fim.middle, FIM_MIDDLE);
        fill(&mut fim.pad, FIM_PAD);
        fill(&mut fim.repository, FIM_REPOSITORY);
        fill(&mut fim.file_separator, FIM_FILE_SEPARATOR);

        let mut end_of_generation: Vec<u32> = [eos, eot, eom, fim.pad, fim.repository, fim.file_separator].into_iter().flatten().collect();
        // "<｜end▁of▁sentence｜>" and the rest of the end-of-turn names end a generation even where another one is the end of turn.
        for name in END_OF_TURN.iter().chain(END_OF_MESSAGE).chain(END_OF_GENERATION) {
            if let Some(id) = known.id(name) {
                vocab.set_kind(id, Kind::Control);
                end_of_generation.push(id);
            }
        }
        for name in HARMONY {
            if let Some(id) = known.id(name) {
                vocab.set_kind(id, Kind::UserDefined);
            }
        }
        let mut take_back = |name, kind| {
            if let Some(id) = known.id(name) {
                vocab.set_kind(id, kind);
                end_of_generation.retain(|other| *other != id);
            }
        };
        // Harmony ends a message with <|end|> and a turn with <|return|> or <|call|> (others: <|flush|>, <|calls|>).
        let both = |first, second| known.id(first).is_some() && known.id(second).is_some();
        if both("<|return|>", "<|call|>") || both("<|flush|>", "<|calls|>") {
            take_back("<|end|>", Kind::UserDefined);
        }
        // Gemma 4 has a "</s>" that is ordinary text.
        if known.id("<|tool_response>").is_some() {
            take_back("</s>", Kind::Normal);
        }
        end_of_generation.sort_unstable();
        end_of_generation.dedup();
        Ok(Self { bos, eos, unknown, fim, end_of_generation })
    }
}

/// Ids that hold where the metadata names none.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Defaults {
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
    pub(super) unknown: Option<u32>,
}

fn special_id(gguf: &Gguf, vocab: &Vocab, key: &'static str) -> Result<Option<u32>, TokenizerError> {
    let Some(id) = gguf.get::<u64>(key)? else { return Ok(None) };
    if id >= vocab.len() as u64 {
        return Err(TokenizerError::SpecialOutOfRange { file: gguf.name().to_owned(), key, id, vocab: vocab.len() });
    }
    Ok(Some(id as u32))
}

/// The well-known names this vocabulary has. Looked up beforehand: the kinds of its tokens change while they are asked for.
struct WellKnown(Vec<(&'static str, u32)>);

impl WellKnown {
    fn find(vocab: &Vocab) -> Self {
        let lists = [END_OF_TURN, END_OF_MESSAGE, END_OF_GENERATION, FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE];
        let more = [FIM_PAD, FIM_REPOSITORY, FIM_FILE_SEPARATOR, HARMONY];
        let names = lists.into_iter().chain(more).flatten();
        Self(names.filter_map(|name| Some((*name, vocab.id(name)?))).collect())
    }

    fn id(&self, name: &str) -> Option<u32> {
        self.0.iter().find(|known| known.0 == name).map(|known| known.1)
    }
}

/// A stretch of a text: ordinary, or one token written out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fragment<'a> {
    Text(&'a str),
    Token(u32),
}

/// Finds tokens that are written out in a text. Leftmost first, and the longest of those; as added tokens are found everywhere.
pub(super) struct Finder {
    user_defined: Patterns,
    all: Patterns,
    /// Phi-3's tokens swallow the white space after them, all but these.
    strips_right: bool,
    keeps_right: Vec<u32>,
}

#[derive(Default)]
struct Patterns {
    automaton: Option<AhoCorasick>,
    ids: Vec<u32>,
}

impl Finder {
    pub(super) fn new(gguf: &Gguf, vocab: &Vocab) -> Result<Self, TokenizerError> {
        let user_defined = Patterns::new(vocab, |kind| kind == Kind::UserDefined)?;
        let all = Patterns::new(vocab, |kind| kind == Kind::UserDefined || kind.is_special())?;
        let model_name = gguf.get::<&str>("general.name")?.unwrap_or("").to_ascii_lowercase();
        let strips_right = model_name.contains("phi-3") || model_name.contains("phi3");
        let keeps_right = ["<unk>", "<s>", "<|endoftext|>"].into_iter().filter(|_| strips_right);
        let keeps_right = keeps_right.filter_map(|name| vocab.id(name)).collect();
        Ok(Self { user_defined, all, strips_right, keeps_right })
    }

    /// Cuts `text` at the tokens written in it: user-defined ones always, special ones where `parse_special`.
    pub(super) fn fragments<'a>(&self, text: &'a str, parse_special: bool) -> Vec<Fragment<'a>> {
        let patterns = if parse_special { &self.all } else { &self.user_defined };
        let mut fragments = Vec::new();
        let mut done = 0;
        if let Some(automaton) = &patterns.automaton {
            for found in automaton.find_iter(text) {
                // White space that a token before this one swallowed may reach up to its start, and no further.
                if found.start() > done {
                    fragments.push(Fragment::Text(&text[done..found.start()]));
                }
                let id = patterns.ids[found.pattern().as_usize()];
                fragments.push(Fragment::Token(id));
                done = done.max(found.end());
                if self.strips_right && !self.keeps_right.contains(&id) {
                    let rest = text[done..].trim_start_matches([' ', '\t', '\n', '\r', '\u{b}', '\u{c}']);
                    done = text.len() - rest.len();
                }
            }
        }
        if done < text.len() {
            fragments.push(Fragment::Text(&text[done..]));
        }
        fragments
    }
}

impl Patterns {
    fn new(vocab: &Vocab, wanted: impl Fn(Kind) -> bool) -> Result<Self, TokenizerError> {
        let (ids, names): (Vec<u32>, Vec<&str>) = vocab.of_kind(wanted).unzip();
        if ids.is_empty() {
            return Ok(Self::default());
        }
        let automaton = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(names);
        let automaton = automaton.map_err(|error| TokenizerError::Patterns(error.to_string()))?;
        Ok(Self { automaton: Some(automaton), ids })
    }
}
